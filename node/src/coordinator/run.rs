//! Runs a coordinator: libp2p host, driver and HTTP server, until the process is told to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use upswarm_protocol::codec::Text;
use upswarm_protocol::coordinator::CoordinatorState;

use super::database_setting::{self, DatabaseSetting};
use super::directory::{Directory, Lock, RemoteDoor, RunInfo};
use super::driver::{Channels, Driver, Parts};
use super::http::frames::Frames;
use super::http::server;
use super::http::shared::{Counters, Shared, Slots};
use super::load::{self, Loaded};
use super::network::Network;
use super::repositories::Repositories;
use super::repository_rules::RepositoryRules;
use super::requests::MAX_REQUESTS;
use super::store::database::Database;
use super::store::past::Past;
use super::store::{self, Keeping};
use super::tls;
use crate::clock::Clock;
use crate::door::{Door, Listener};
use crate::error::CliError;
use crate::limiter::Limiter;
use crate::net::reachable_ips;
use crate::sys;
use crate::web::{ProxyConfig, Web};

/// Inputs and orders that may wait between network and driver.
const CHANNEL: usize = 1024;
/// Words of the fleet store that may wait for the driver.
const BATCHES: usize = 4;
const BURST: u64 = 256 << 10;
/// Connections to the origin, and to each door of the admin API.
const ORIGIN_CONNECTIONS: usize = 1024;
const ADMIN_CONNECTIONS: usize = 64;
const MAX_ORIGINS: usize = 16;
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How to run.
#[derive(Debug)]
pub(crate) struct Options {
    /// Multiaddresses to listen on.
    pub(crate) listen: Vec<String>,
    /// Where the origin listens.
    pub(crate) http: SocketAddr,
    /// Networks that may fetch from it; empty for everyone.
    pub(crate) origin_allow: Vec<IpNet>,
    /// Where the admin API listens for admins elsewhere.
    pub(crate) admin: Option<SocketAddr>,
    /// Base URLs of origins; empty for this coordinator's own.
    pub(crate) origins: Vec<String>,
    /// Payload bytes per second.
    pub(crate) origin_rate: Option<u64>,
    /// The admin says that this machine's clock is right.
    pub(crate) accept_clock: bool,
    /// Where the fleet is kept from now on; none for where it was.
    pub(crate) database: Option<DatabaseSetting>,
    /// Days of history.
    pub(crate) history_days: u32,
}

/// A bit more than a year, so that the same week of the last one can be seen.
pub(crate) const HISTORY_DAYS: u32 = 400;

#[cfg(test)]
impl Options {
    /// On this machine alone, with ports that are free.
    pub(crate) fn on_loopback() -> Self {
        Self {
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            origin_allow: Vec::new(),
            admin: None,
            origins: Vec::new(),
            origin_rate: None,
            accept_clock: false,
            database: None,
            history_days: HISTORY_DAYS,
        }
    }
}

/// Runs until interrupted. Everything that was accepted is on disk when it returns. `beside` begins when the coordinator serves, and
/// is told when to end.
pub(crate) async fn run(
    directory: Directory,
    options: Options,
    beside: impl AsyncFnOnce(CancellationToken) -> Result<(), CliError>,
) -> Result<(), CliError> {
    raise_descriptor_limit();
    // Before anything slow, so that an early signal ends it too.
    let stop = stop_on_signals()?;
    let running = start(directory, options, stop.clone()).await?;
    tracing::info!(http = running.info.http, listen = ?running.info.listen, "coordinator ready");
    if let Some(door) = &running.info.admin {
        tracing::info!("admins elsewhere log in with: upswarm login https://HOST:{} --key {}", door.port(), door.key);
    }
    let served = beside(stop.clone()).await;
    if served.is_ok() {
        stop.cancelled().await;
    }
    running.finish().await;
    tracing::info!("coordinator ended");
    served
}

/// A coordinator that serves.
pub(crate) struct Running {
    /// What run.json says.
    pub(crate) info: RunInfo,
    /// The readers' end of the fleet store.
    #[cfg(test)]
    pub(crate) fleet: store::FleetStore,
    past: Past,
    stop: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
    _lock: Lock,
}

impl Running {
    /// Channels it, and waits until what was accepted is on disk.
    pub(crate) async fn finish(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.past.close().await;
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
    let listener = server::bind(options.http, "--http").await?;
    let http = listener.local_addr().context("asking for the HTTP port")?;
    let origin_door = Door {
        name: "origin",
        listener: Listener::Tcp(listener),
        connections: ORIGIN_CONNECTIONS,
        of_one_address: ORIGIN_CONNECTIONS / 4,
        allow: options.origin_allow.clone(),
    };
    let (remote, remote_door) = remote_door(&directory, options.admin).await?;
    let local_door = Door {
        name: "admin socket",
        listener: Listener::Local(directory.listen_for_admin()?),
        connections: ADMIN_CONNECTIONS,
        of_one_address: ADMIN_CONNECTIONS,
        allow: Vec::new(),
    };
    let origins = origins(&options, http)?;

    if let Some(setting) = &options.database {
        setting.note(&directory)?;
    }
    let place = database_setting::place(&directory)?;
    let told = database_setting::told(&directory).await?;
    let Loaded { setup, identity, report_key, said, names, rules, alarms } = directory.load(origins, told)?;
    let web = Web::new(&ProxyConfig::default(), None)?;
    let repositories = Arc::new(Repositories::open(directory.path(), &web)?);
    let device = setup.device;
    let (inputs, network_inputs) = mpsc::channel(CHANNEL);
    let (network_orders, orders) = mpsc::channel(CHANNEL);
    let frames = Arc::new(Frames::new(inputs.clone(), report_key.clone()));
    let network = Network::start(&identity, &options.listen, directory.clone()).await?;
    let (mut addresses, peer) = (network.addresses(), network.peer());

    let clock = Clock::start_with_sleep();
    let mut state = CoordinatorState::new(setup, clock.now())
        .with_context(|| format!("starting from {}; restore it from a copy", directory.path().display()))?;
    if options.accept_clock {
        state.accept_clock(clock.now()).context("signing by the clock as it is")?;
    }
    let (written, driver_written) = mpsc::channel(BATCHES);
    let at_start = load::fleet(&state, said, &names);
    let keeping = Keeping { place: place.clone(), days: options.history_days };
    let (fleet, writer) = store::start(directory.clone(), keeping, at_start, written).await?;
    let past = Past::new(Database::readers(place)?);
    let counters = Arc::new(Counters::default());
    let (head, mut public_head) = watch::channel(Vec::new());
    let (roots, public_roots) = watch::channel(Arc::new(state.root_versions().clone()));
    let (requests, driver_requests) = mpsc::channel(MAX_REQUESTS);
    let driver = Driver::new(Parts {
        state,
        device,
        directory: directory.clone(),
        store: fleet.clone(),
        writer,
        names,
        rules,
        alarms,
        clock,
        report_key,
        counters: counters.clone(),
        addresses: addresses.clone(),
        roots,
    });
    let rule_requests = requests.clone();
    let shared = Arc::new(Shared {
        directory: directory.clone(),
        roots: public_roots,
        head: public_head.clone(),
        driver: requests,
        fleet: fleet.clone(),
        past: past.clone(),
        repositories: repositories.clone(),
        counters,
        limiter: options.origin_rate.map_or_else(Limiter::unlimited, |rate| Limiter::new(rate, BURST)),
        token: blake3::hash(directory.token()?.as_bytes()),
        slots: Slots::default(),
        frames: frames.clone(),
    });

    let mut tasks = tokio::task::JoinSet::new();
    let ends = Channels {
        inputs: network_inputs,
        orders: network_orders,
        requests: driver_requests,
        written: driver_written,
        head,
    };
    // The driver ends last: it writes what the others have brought.
    tasks.spawn(driver.run(ends, stop.clone()));
    tasks.spawn(origin_door.serve(server::origin(shared.clone()), stop.clone()));
    let admin = server::admin(shared);
    for door in [Some(local_door), remote_door].into_iter().flatten() {
        tasks.spawn(door.serve(admin.clone(), stop.clone()));
    }
    let rules = RepositoryRules::new(repositories.clone(), directory.clone(), fleet.clone(), rule_requests);
    tasks.spawn(rules.run(stop.clone()));
    tasks.spawn(repositories.run(stop.clone()));
    tasks.spawn(frames.clone().sweep(stop.clone()));
    tasks.spawn(network.run(inputs, orders, frames, stop.clone()));
    tokio::select! {
        ready = public_head.wait_for(|head| !head.is_empty()) => drop(ready.map_err(|_| anyhow!("the driver has ended"))?),
        () = stop.cancelled() => {}
    }
    let listen = addresses.borrow_and_update().clone();
    let info = RunInfo { pid: std::process::id(), http: http.to_string(), admin: remote, listen, peer };
    directory.write_run_info(&info)?;
    tasks.spawn(follow(addresses, info.clone(), directory, stop.clone()));
    Ok(Running {
        info,
        #[cfg(test)]
        fleet,
        past,
        stop,
        tasks,
        _lock: lock,
    })
}

/// The admin API's door for admins elsewhere: TLS with a key that they pin.
async fn remote_door(
    directory: &Directory,
    address: Option<SocketAddr>,
) -> Result<(Option<RemoteDoor>, Option<Door>), CliError> {
    let Some(address) = address else { return Ok((None, None)) };
    let listener = server::bind(address, "--admin").await?;
    let address = listener.local_addr().context("asking for the admin API's port")?.to_string();
    let kept = match directory.admin_tls()? {
        Some(kept) => kept,
        None => {
            let made = tls::make()?;
            directory.write_admin_tls(&made)?;
            made
        }
    };
    let (acceptor, key) = tls::acceptor(&kept)?;
    let door = Door {
        name: "admin",
        listener: Listener::Tls(listener, acceptor),
        connections: ADMIN_CONNECTIONS,
        of_one_address: ADMIN_CONNECTIONS / 4,
        allow: Vec::new(),
    };
    Ok((Some(RemoteDoor { address, key }), Some(door)))
}

/// Keeps `run.json` true when interfaces come and go.
async fn follow(
    mut addresses: watch::Receiver<Vec<String>>,
    mut info: RunInfo,
    directory: Directory,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = addresses.changed() => if changed.is_err() { return },
        }
        info.listen = addresses.borrow_and_update().clone();
        tracing::info!(listen = ?info.listen, "the addresses of this machine have changed");
        if let Err(error) = directory.write_run_info(&info) {
            tracing::warn!("{error:#}");
        }
    }
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

/// The base URLs that machines are told. Without any, those of this machine's addresses as they are now.
fn origins(options: &Options, http: SocketAddr) -> Result<Vec<Text<512>>, CliError> {
    if options.origins.len() > MAX_ORIGINS {
        return Err(CliError::Refused(format!("at most {MAX_ORIGINS} origins can be named")));
    }
    if !options.origins.is_empty() {
        return options.origins.iter().map(|url| origin_url(url)).collect();
    }
    if !http.ip().is_unspecified() {
        return Ok(vec![origin_url(&format!("http://{http}"))?]);
    }
    let mut own = reachable_ips();
    own.retain(|ip| http.is_ipv6() || ip.is_ipv4());
    if own.is_empty() {
        return Err(CliError::Refused(format!(
            "this machine has no address yet at which others could reach {http}; name the URL at which they will: \
             --origin-url http://HOST:{}/",
            http.port()
        )));
    }
    let urls = own.into_iter().take(MAX_ORIGINS).map(|ip| format!("http://{}", SocketAddr::new(ip, http.port())));
    urls.map(|url| origin_url(&url)).collect()
}

/// An origin's base URL, checked.
fn origin_url(url: &str) -> Result<Text<512>, CliError> {
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(CliError::Refused(format!("the origin URL {url:?} is neither http:// nor https://")));
    }
    Text::new(url.trim_end_matches('/')).map_err(|error| CliError::Refused(format!("the origin URL: {error}")))
}

/// Connections and files need more descriptors than the 1024 that many systems give at first.
fn raise_descriptor_limit() {
    if let Err(error) = sys::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let asked = sys::asked_to_stop().context("listening for signals")?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        asked.await;
        told.cancel();
    });
    Ok(stop)
}
