//! Runs a coordinator: libp2p host, driver and HTTP server, until the process is told to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use upswarm_protocol::codec::Text;
use upswarm_protocol::coordinator_state::CoordinatorState;

use super::directory::{Directory, Loaded, Lock, RunInfo};
use super::driver::{Driver, Ends, Parts};
use super::network::{self, Network};
use super::payloads::Counters;
use super::requests::MAX_REQUESTS;
use super::server::{self, Shared};
use crate::cli::CliError;
use crate::cli::coordinator::origin_url;
use crate::clock::Clock;
use crate::limiter::Limiter;

/// Inputs and orders that may wait between network and driver.
const CHANNEL: usize = 1024;
const BURST: u64 = 256 << 10;
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How to run.
#[derive(Debug)]
pub(crate) struct Options {
    /// Multiaddresses to listen on.
    pub(crate) listen: Vec<String>,
    /// Where HTTP listens.
    pub(crate) http: SocketAddr,
    /// Base URLs of origins; empty for this coordinator's own.
    pub(crate) origins: Vec<String>,
    /// Payload bytes per second.
    pub(crate) origin_rate: Option<u64>,
}

/// Runs until interrupted. Everything that was accepted is on disk when it returns.
pub(crate) async fn run(directory: Directory, options: Options) -> Result<(), CliError> {
    raise_descriptor_limit();
    // Before anything slow, so that an early signal ends it too.
    let stop = stop_on_signals()?;
    let running = start(directory, options, stop.clone()).await?;
    tracing::info!(http = running.info.http, listen = ?running.info.listen, "coordinator ready");
    stop.cancelled().await;
    running.finish().await;
    tracing::info!("coordinator ended");
    Ok(())
}

/// A coordinator that serves.
pub(crate) struct Running {
    /// What run.json says.
    pub(crate) info: RunInfo,
    stop: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
    _lock: Lock,
}

impl Running {
    /// Ends it, and waits until what was accepted is on disk.
    pub(crate) async fn finish(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Starts everything; returns when the head is public and `run.json` is written.
pub(crate) async fn start(
    directory: Directory,
    options: Options,
    stop: CancellationToken,
) -> Result<Running, CliError> {
    let Some(lock) = lock(&directory).await? else {
        let pid =
            directory.run_info().map_or_else(|| "another process".to_owned(), |info| format!("process {}", info.pid));
        return Err(CliError::Refused(format!("{} is served by {pid} already", directory.path().display())));
    };
    let listener = server::bind(options.http).await?;
    let http = listener.local_addr().context("asking for the HTTP port")?;
    let origins = origins(&options, http)?;

    let Loaded { setup, identity, report_key, fleet, names, rules } = directory.load(origins)?;
    let (device, root_hash, root_path) = (setup.device, setup.root_hash, directory.root(setup.root.version));
    let (inputs, network_inputs) = mpsc::channel(CHANNEL);
    let (network_orders, orders) = mpsc::channel(CHANNEL);
    let network = Network::start(&identity, &options.listen, directory.clone()).await?;
    let (listen, peer) = (network.addresses(), network.peer());

    let clock = Clock::start();
    let state = CoordinatorState::new(setup, clock.now())
        .with_context(|| format!("starting from {}; restore it from a copy", directory.path().display()))?;
    let counters = Arc::new(Counters::default());
    let (head, mut public_head) = watch::channel(Vec::new());
    let (requests, driver_requests) = mpsc::channel(MAX_REQUESTS);
    let driver = Driver::new(Parts {
        state,
        device,
        directory: directory.clone(),
        fleet,
        names,
        rules,
        clock,
        report_key,
        counters: counters.clone(),
        addresses: network::reachable(&listen),
    });
    let routes = server::routes(Arc::new(Shared {
        directory: directory.clone(),
        root_hash,
        root_path,
        head: public_head.clone(),
        driver: requests,
        counters,
        limiter: options.origin_rate.map_or_else(Limiter::unlimited, |rate| Limiter::new(rate, BURST)),
        token: blake3::hash(directory.token()?.as_bytes()),
        uploads: Shared::upload_slots(),
    }));

    let mut tasks = tokio::task::JoinSet::new();
    let ends = Ends { inputs: network_inputs, orders: network_orders, requests: driver_requests, head };
    // The driver ends last: it writes what the others have brought.
    tasks.spawn(driver.run(ends, stop.clone()));
    tasks.spawn(server::serve(listener, routes, stop.clone()));
    tasks.spawn(network.run(inputs, orders, stop.clone()));
    tokio::select! {
        ready = public_head.wait_for(|head| !head.is_empty()) => drop(ready.map_err(|_| anyhow!("the driver has ended"))?),
        () = stop.cancelled() => {}
    }
    let info = RunInfo { pid: std::process::id(), http: http.to_string(), listen, peer };
    directory.write_run_info(&info)?;
    Ok(Running { info, stop, tasks, _lock: lock })
}

/// Takes the directory's lock. A verb that looks whether the directory is served holds it for an instant.
async fn lock(directory: &Directory) -> anyhow::Result<Option<Lock>> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = directory.lock()? {
            return Ok(Some(lock));
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Ok(None)
}

fn origins(options: &Options, http: SocketAddr) -> Result<Vec<Text<512>>, CliError> {
    if options.origins.len() > 16 {
        return Err(CliError::Refused("at most 16 origins can be named".to_owned()));
    }
    if !options.origins.is_empty() {
        return options.origins.iter().map(|url| origin_url(url)).collect();
    }
    if http.ip().is_unspecified() {
        return Err(CliError::Refused(format!(
            "machines cannot tell where {http} is; name the URL at which they reach it: --origin-url http://HOST:{}/",
            http.port()
        )));
    }
    Ok(vec![origin_url(&format!("http://{http}"))?])
}

/// Connections and files need more descriptors than the 1024 that many systems give at first.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for signals")?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}
