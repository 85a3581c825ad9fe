//! The node's shell: moves inputs and outputs between [`NodeState`] and the network, the disk and the installer.
//!
//! One event loop over closed enums. It never waits for the network, the disk or a child process: such work runs in tasks
//! that send back batches of inputs over one bounded channel. Their number is bounded by the core, which has so many
//! fetches, serves and installs under way and no more.

mod sink;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use upswarm_cache::{Store, StoreConfig};
use upswarm_protocol::catalog::Action;
use upswarm_protocol::chunk::ChunkList;
use upswarm_protocol::codec::Text;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::{DocHash, PayloadId, ReleaseId};
use upswarm_protocol::node_state::{
    Conditions, FetchError, FetchFrom, FetchId, Input, MachineRules, NodeConfig, NodeState, Output, Record, Restored,
    ServeWhat, StoreError,
};
use upswarm_protocol::report::receipt;
use upswarm_protocol::time::Wall;
use upswarm_protocol::wire::{BlockStatus, BlockWhat};

use crate::apart::Installer;
use crate::clock::Clock;
use crate::config::{Config, NodeDir, RunInfo, WanWeight, time_zone};
use crate::host::{Host, HostConfig, HostEvent, is_loopback, useful};
use crate::inventory::watch::InventoryWatch;
use crate::journal::Journal;
use crate::limiter::Limiter;
use crate::local::Local;
use crate::machine::MachineWatch;
use crate::origin::OriginClient;
use crate::{installer, inventory, keys, seal};
use sink::ChunkSink;

/// Batches of inputs that wait for the loop; a task that finds it full waits.
const MAX_BATCHES: usize = 256;
/// Writes that wait for the journal's thread; more wait in the loop, which the core's own bounds limit.
const MAX_WRITES: usize = 64;
/// What the machine runs on is known within this, or the node starts without.
const CONDITIONS_WITHIN: Duration = Duration::from_secs(6);
/// How long a machine that was off waits for word of its site before it installs what its disk says.
const ASK_FIRST: Duration = Duration::from_secs(10);
/// How often verified chunks are made durable.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Events that are taken with one look at everything that may have happened.
const AT_ONCE: usize = 32;
/// How much of the store is read again per step, and how often, to notice a disk that forgets.
const SCRUB_BYTES: u64 = 16 << 20;
const SCRUB_EVERY: Duration = Duration::from_secs(120);

/// When this program was built, as far as the build tells: no node believes an earlier clock.
pub(crate) const BUILD_TIME: Wall = Wall(1_760_000_000_000);

#[derive(Debug)]
enum Write {
    Record(u64, Record),
    Doc(DocHash, Arc<Vec<u8>>),
    Drop(DocHash),
}

struct Driver {
    clock: Clock,
    key: SigningKey,
    state: NodeState,
    host: Host,
    store: Arc<Store>,
    origin: OriginClient,
    wan_down: Limiter,
    lan_up: Limiter,
    lan_down: Limiter,
    installer: Installer,
    /// The file with what the person at the machine should know.
    notice: PathBuf,
    ending: Arc<AtomicBool>,
    lists: BTreeMap<PayloadId, Arc<ChunkList>>,
    fetches: BTreeMap<FetchId, CancellationToken>,
    inputs: VecDeque<Input>,
    writes: VecDeque<Write>,
    done: mpsc::Sender<Vec<Input>>,
    stored: u64,
    flushed: u64,
}

/// Runs a joined node until `stop` completes.
pub(crate) async fn run(dir: &NodeDir, config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let clock = Clock::start();
    let key = keys::read_device_key(&dir.key())?;
    let (journal, loaded, documents) = {
        let path = dir.journal();
        tokio::task::spawn_blocking(move || load(&path)).await??
    };
    let store = {
        let (path, config) = (
            dir.store(),
            StoreConfig { quota: config.store.quota.0, reserve: config.store.reserve.0, ..StoreConfig::default() },
        );
        let store = tokio::task::spawn_blocking(move || Store::open(&path, config)).await?;
        Arc::new(store.with_context(|| format!("cannot open the payload store in {}", dir.store().display()))?)
    };
    for notice in store.notices().iter().chain(&loaded.notices) {
        warn!("{notice}");
    }
    let mut machine = MachineWatch::start(config.install_root.clone(), config.metered);
    let ending = Arc::new(AtomicBool::new(false));
    let installer = match &config.installer_socket {
        Some(socket) => Installer::connect(socket.clone(), dir.roots(), ending.clone())?,
        None => {
            Installer::in_process(dir.install(), config.install_root.clone(), config.restart.clone(), ending.clone())?
        }
    };
    let not_joined = || format!("{} has not joined; run: upswarm node join TOKEN --data-dir ...", dir.path().display());
    let restored = Restored {
        trust: loaded.trust.with_context(not_joined)?,
        certificate: loaded.certificate.with_context(not_joined)?,
        documents,
        deployments: loaded.deployments,
        counters: loaded.counters,
        inventory: loaded.inventory,
        payloads: store.list().into_iter().map(|payload| payload.id).collect(),
    };
    let node_config = node_config(&config, &key)?;
    // On loopback alone there is nobody to find, and multicast would leave it.
    let mdns = config.mdns && !config.listen.iter().all(|address| is_loopback(address));
    let (label, listen) = (node_config.label.clone(), config.listen.clone());
    let state = NodeState::new(node_config, restored, clock.now())?;
    let host_config = HostConfig::of_node(key.to_bytes(), listen, mdns);
    let (host, mut events) = Host::start(host_config).await?;
    info!(device = %state.device(), %label, site = %state.certificate().site.short(), "node started");
    let (done, mut finished) = mpsc::channel(MAX_BATCHES);
    let (journal_in, journal_out) = mpsc::channel(MAX_WRITES);
    let journal_done = done.clone();
    let journal_thread = std::thread::Builder::new()
        .name("journal".into())
        .spawn(move || write_journal(&journal, journal_out, &journal_done))?;
    let wan_down = limiter(config.limits.wan_down);
    let mut driver = Driver {
        clock,
        key,
        state,
        host,
        store,
        origin: OriginClient::new(wan_down.clone())?,
        wan_down,
        lan_up: limiter(config.limits.lan_up),
        lan_down: limiter(config.limits.lan_down),
        installer,
        notice: dir.notice(),
        ending,
        lists: BTreeMap::new(),
        fetches: BTreeMap::new(),
        inputs: VecDeque::new(),
        writes: VecDeque::new(),
        done,
        stored: 0,
        flushed: 0,
    };
    let mut flush = tokio::time::interval(FLUSH_EVERY);
    let mut scrub = tokio::time::interval_at((Instant::now() + SCRUB_EVERY).into(), SCRUB_EVERY);
    let run_info = dir.run_info();
    // Of a run of the system that is over, perhaps; the core tells again what still counts.
    let _ = std::fs::remove_file(dir.notice());
    let mut local = Local::start(dir);
    let mut watch = InventoryWatch::start(config.install_root.clone());
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    tokio::pin!(stop);
    let (mut heard, mut ended) = (Vec::with_capacity(AT_ONCE), Vec::with_capacity(AT_ONCE));
    driver.drain().await;
    // Before the first byte: it may be paid for.
    if let Ok(conditions) = tokio::time::timeout(CONDITIONS_WITHIN, machine.changed()).await {
        driver.conditions(conditions);
        driver.take_inputs().await;
    }
    loop {
        let due = driver.state.poll_timeout().map_or_else(|| clock.now().mono + FLUSH_EVERY, |(at, _)| at);
        tokio::select! {
            count = events.recv_many(&mut heard, AT_ONCE) => {
                if count == 0 {
                    anyhow::bail!("the network part ended unexpectedly");
                }
                for event in heard.drain(..) {
                    if let HostEvent::Listening { addresses } = &event {
                        write_run_info(&run_info, &driver.state, addresses)?;
                    }
                    driver.host_event(event);
                }
            },
            1.. = finished.recv_many(&mut ended, AT_ONCE) => {
                for batch in ended.drain(..) {
                    if batch.iter().any(|input| matches!(input, Input::InstallEnded { .. })) {
                        watch.rescan();
                    }
                    driver.inputs.extend(batch);
                }
            }
            permit = journal_in.reserve(), if !driver.writes.is_empty() => {
                let permit = permit.map_err(|_| anyhow::anyhow!("the journal's thread has ended; see the log above"))?;
                if let Some(write) = driver.writes.pop_front() {
                    permit.send(write);
                }
            }
            () = tokio::time::sleep_until(clock.at(due).into()) => {
                driver.state.handle_timeout(clock.now());
                driver.drain().await;
            }
            _ = flush.tick() => driver.flush(),
            _ = scrub.tick() => driver.scrub(),
            _ = hangup.recv() => {
                driver.reload(dir);
                machine.look();
                watch.rescan();
            }
            conditions = machine.changed() => driver.conditions(conditions),
            Some(scan) = watch.changed() => driver.inputs.push_back(inventory_of(scan, &config)),
            asked = local.next() => {
                if asked.wants_rescan() {
                    watch.rescan();
                }
                driver.inputs.extend(asked.answer(&driver.state, clock.now()));
            }
            () = &mut stop => break,
        }
        driver.take_inputs().await;
    }
    drop(local);
    driver.ending.store(true, Ordering::Relaxed);
    driver.inputs.push_back(Input::Shutdown);
    driver.take_inputs().await;
    for write in core::mem::take(&mut driver.writes) {
        if journal_in.send(write).await.is_err() {
            break;
        }
    }
    drop(journal_in);
    let store = driver.store.clone();
    drop(finished);
    tokio::task::spawn_blocking(move || store.flush()).await??;
    driver.host.stop().await;
    let _ = journal_thread.join();
    let _ = std::fs::remove_file(&run_info);
    info!("node stopped");
    Ok(())
}

impl Driver {
    async fn take_inputs(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            self.note(&input);
            self.state.handle_input(input, self.clock.now());
            self.drain().await;
        }
    }

    /// Keeps the shell's own books in step with what the core is told.
    fn note(&mut self, input: &Input) {
        match input {
            Input::FetchEnded { fetch, result, .. } => {
                self.fetches.remove(fetch);
                if let Err(error) = result {
                    debug!(fetch, "fetch ended: {error:?}");
                }
            }
            Input::DocFetched { fetch, .. } => {
                self.fetches.remove(fetch);
            }
            Input::ChunkStored { .. } => self.stored += 1,
            Input::Opened { payload, .. } => debug!(payload = %payload.short(), "opened in the store"),
            Input::Evicted { payload } => {
                self.lists.remove(payload);
            }
            _ => {}
        }
    }

    fn conditions(&mut self, conditions: Conditions) {
        info!("runs on {conditions}");
        self.inputs.push_back(Input::Conditions(conditions));
    }

    fn host_event(&mut self, event: HostEvent) {
        self.inputs.push_back(match event {
            HostEvent::PeerUp { peer, dialled } => {
                debug!(peer = %peer.short(), "connected");
                Input::PeerUp { peer, dialled }
            }
            HostEvent::PeerDown { peer } => {
                debug!(peer = %peer.short(), "disconnected");
                Input::PeerDown { peer }
            }
            HostEvent::DialFailed { address, reason } => {
                debug!(%address, "no connection: {reason}");
                Input::DialFailed { address, reason: Text::lossy(&reason) }
            }
            HostEvent::Frame { peer, bytes } => Input::Frame { peer, bytes },
            HostEvent::Gossip { id, from, topic, bytes } => Input::Gossip { id, from, topic, bytes },
            HostEvent::BlockRequested { peer, serve, what } => Input::BlockRequested { peer, serve, what },
            HostEvent::Served { serve, bytes } => Input::Served { serve, bytes },
            HostEvent::Hint { address } => Input::Hint { address },
            HostEvent::Listening { addresses } => Input::Listening { addresses: useful(&addresses).cloned().collect() },
        });
    }

    async fn drain(&mut self) {
        self.installer.keep_root(self.state.trust());
        while let Some(output) = self.state.poll_output() {
            self.act(output).await;
        }
    }

    /// The host takes commands in every state, so waiting for it here cannot hold up the loop for long.
    async fn act(&mut self, output: Output) {
        match output {
            Output::Dial { address } => self.host.dial(address.to_string()).await,
            Output::Disconnect { peer, reason } => {
                info!(peer = %peer.short(), "disconnecting: {reason}");
                self.host.disconnect(peer, reason).await;
            }
            Output::Send { peer, frame } => self.host.send(peer, frame).await,
            Output::Subscribe(topic) => self.host.subscribe(topic).await,
            Output::Publish { topic, bytes } => self.host.publish(topic, bytes).await,
            Output::GossipVerdict { id, from, verdict } => self.host.verdict(id, from, verdict).await,
            Output::Serve { serve, what: ServeWhat::Bytes(bytes) } => {
                self.host.answer(serve, Ok(Bytes::from_owner(Shared(bytes)))).await;
            }
            Output::Serve { serve, what: ServeWhat::Chunks { payload, first, count, len } } => {
                self.serve(serve, payload, first, count, len);
            }
            Output::Deny { serve, status } => self.host.answer(serve, Err(status)).await,
            Output::Fetch { fetch, from, payload, first, count } => self.fetch(fetch, from, payload, first, count),
            Output::FetchDoc { fetch, from, what, limit } => {
                debug!(?what, "fetches a document");
                self.fetch_doc(fetch, from, what, limit);
            }
            Output::Cancel { fetch } => {
                if let Some(token) = self.fetches.get(&fetch) {
                    token.cancel();
                }
            }
            Output::Open { payload, list, pin } => self.open(payload, list, pin),
            Output::Unpin { payload } => {
                if let Err(error) = self.store.pin(payload, false) {
                    warn!("cannot unpin a payload: {error}");
                }
            }
            Output::StoreDoc { hash, bytes } => self.writes.push_back(Write::Doc(hash, bytes)),
            Output::DropDoc { hash } => self.writes.push_back(Write::Drop(hash)),
            Output::Persist { token, record } => self.writes.push_back(Write::Record(token, record)),
            Output::Detect { release } => self.detect(release),
            Output::Install { release, action } => self.install(release, action),
            Output::Notice { release, text, near } => self.tell(release, text, near),
            Output::Restart { release } => {
                let (done, restarted) = (self.done.clone(), self.installer.restart(&self.state, release));
                tokio::spawn(async move {
                    let outcome = restarted.await;
                    info!(release = %release.short(), ?outcome, "restart");
                    let _ = done.send(vec![Input::RestartEnded { release, outcome }]).await;
                });
            }
            Output::Seal { told, to } => {
                let seq = told.seq();
                debug!(seq, "reports");
                match envelope::sign(Kind::Report, Role::Device, &told, &[&self.key]) {
                    Ok(signed) => {
                        let (bytes, receipt) = (seal::seal(&to, &signed), receipt(&signed));
                        self.inputs.push_back(Input::Sealed { seq, bytes, receipt });
                    }
                    Err(error) => warn!("a report was not made: {error}"),
                }
            }
            Output::Alarm(text) => warn!("{text}"),
        }
    }

    fn begin(&mut self, fetch: FetchId) -> CancellationToken {
        let token = CancellationToken::new();
        self.fetches.insert(fetch, token.clone());
        token
    }

    fn fetch(&mut self, fetch: FetchId, from: FetchFrom, payload: PayloadId, first: u32, count: u32) {
        let cancel = self.begin(fetch);
        let Some(list) = self.lists.get(&payload).cloned() else {
            let error = FetchError::Store(StoreError::Failed("the payload is not open".into()));
            self.inputs.push_back(Input::FetchEnded { fetch, bytes: 0, result: Err(error) });
            return;
        };
        let sink = ChunkSink { store: self.store.clone(), done: self.done.clone(), fetch, payload, list: list.clone() };
        match from {
            FetchFrom::Peer(peer) => {
                let (host, limiter) = (self.host.clone(), self.lan_down.clone());
                let what = BlockWhat::Chunks { payload, first, count };
                let range = list.byte_range(first..first + count);
                let len = range.end - range.start;
                tokio::spawn(async move {
                    let block = async {
                        limiter.acquire(len).await;
                        host.fetch_block(peer, what, len as usize).await
                    };
                    let result = tokio::select! {
                        result = block => result,
                        () = cancel.cancelled() => Err(FetchError::Canceled),
                    };
                    sink.end_with_block(first, len, result).await;
                });
            }
            FetchFrom::Urls(urls) => {
                debug!(payload = %payload.short(), first, count, "fetches over the WAN");
                let origin = self.origin.clone();
                tokio::spawn(async move {
                    let chunks = &list.chunks()[first as usize..(first + count) as usize];
                    let (send, mut receive) = mpsc::channel::<(usize, Vec<u8>)>(2);
                    let network = async {
                        let fetching = origin.fetch_chunks(&urls, list.payload_len(), chunks, &send);
                        let outcome = tokio::select! {
                            outcome = fetching => outcome,
                            () = cancel.cancelled() => (0, Err(FetchError::Canceled)),
                        };
                        drop(send);
                        outcome
                    };
                    let disk = async {
                        let mut failed = None;
                        while let Some((at, bytes)) = receive.recv().await {
                            if failed.is_none() {
                                failed = sink.write(first + at as u32, bytes).await.err();
                            }
                        }
                        failed
                    };
                    let ((bytes, result), failed) = tokio::join!(network, disk);
                    sink.end(bytes, failed.map_or(result, Err)).await;
                });
            }
        }
    }

    fn fetch_doc(&mut self, fetch: FetchId, from: FetchFrom, what: BlockWhat, limit: usize) {
        let cancel = self.begin(fetch);
        let (host, origin, done) = (self.host.clone(), self.origin.clone(), self.done.clone());
        tokio::spawn(async move {
            let document = async {
                match from {
                    FetchFrom::Peer(peer) => host.fetch_block(peer, what, limit).await,
                    FetchFrom::Urls(urls) => origin.fetch_document(&urls, limit).await,
                }
            };
            let result = tokio::select! {
                result = document => result,
                () = cancel.cancelled() => Err(FetchError::Canceled),
            };
            // The loop is gone only when the program ends.
            let _ = done.send(vec![Input::DocFetched { fetch, result }]).await;
        });
    }

    fn serve(&mut self, serve: u64, payload: PayloadId, first: u32, count: u32, len: u32) {
        let (host, store, limiter) = (self.host.clone(), self.store.clone(), self.lan_up.clone());
        let done = self.done.clone();
        tokio::spawn(async move {
            limiter.acquire(u64::from(len)).await;
            let read = tokio::task::spawn_blocking(move || store.read(payload, first, count)).await;
            let answer = match read {
                Ok(Ok(bytes)) => Ok(bytes.into()),
                Ok(Err(error)) => {
                    warn!("a chunk cannot be read: {error}");
                    Err(BlockStatus::NotHeld)
                }
                Err(_) => Err(BlockStatus::NotHeld),
            };
            let failed = answer.is_err();
            host.answer(serve, answer).await;
            if failed {
                // The host tells of answers with bytes only, and the slot must be free again.
                let _ = done.send(vec![Input::Served { serve, bytes: 0 }]).await;
            }
        });
    }

    fn open(&mut self, payload: PayloadId, list: Arc<ChunkList>, pin: bool) {
        self.lists.insert(payload, list.clone());
        let (store, done) = (self.store.clone(), self.done.clone());
        tokio::spawn(async move {
            let opened = tokio::task::spawn_blocking(move || {
                let opened = store.open_payload(payload, &list, pin);
                (opened, store.take_evicted())
            });
            let Ok((opened, evicted)) = opened.await else { return };
            let mut batch: Vec<_> = evicted.into_iter().map(|payload| Input::Evicted { payload }).collect();
            let result = opened.map(|opened| (opened.have, opened.reused)).map_err(store_error);
            batch.push(Input::Opened { payload, result });
            let _ = done.send(batch).await;
        });
    }

    /// Writes the notice where programs of the person at the machine find it, and shows it.
    fn tell(&mut self, release: Option<ReleaseId>, text: String, near: bool) {
        let path = self.notice.clone();
        let Some(release) = release else {
            let _ = std::fs::remove_file(&path);
            return;
        };
        info!("{text}");
        if let Err(error) = std::fs::write(&path, format!("{text}\n")) {
            warn!("cannot write {}: {error}", path.display());
        }
        tokio::spawn(self.installer.tell(&self.state, release, text, near));
    }

    fn detect(&mut self, release: ReleaseId) {
        let (done, detected) = (self.done.clone(), self.installer.detect(&self.state, release));
        tokio::spawn(async move {
            let result = detected.await;
            let _ = done.send(vec![Input::Detected { release, result }]).await;
        });
    }

    fn install(&mut self, release: ReleaseId, action: Action) {
        let installed = self.installer.install(&self.state, |id| self.store.path(id), release, action);
        let done = self.done.clone();
        info!(release = %release.short(), ?action, "begins");
        tokio::spawn(async move {
            let outcome = installed.await;
            info!(release = %release.short(), ?outcome, "ended");
            let _ = done.send(vec![Input::InstallEnded { release, action, outcome }]).await;
        });
    }

    /// Takes over the limits of a node.toml that has changed; everything else in it counts from the next start.
    fn reload(&self, dir: &NodeDir) {
        match Config::read(&dir.config()) {
            Ok(Config { limits, .. }) => {
                self.wan_down.set_rate(limits.wan_down.map(|rate| rate.0));
                self.lan_up.set_rate(limits.lan_up.map(|rate| rate.0));
                self.lan_down.set_rate(limits.lan_down.map(|rate| rate.0));
                info!("limits read again");
            }
            Err(error) => warn!("the limits stay as they are: {error:#}"),
        }
    }

    /// Makes verified chunks durable, when there are new ones.
    fn flush(&mut self) {
        if self.stored == self.flushed {
            return;
        }
        self.flushed = self.stored;
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.flush() {
                warn!("chunks could not be made durable: {error}");
            }
        });
    }

    /// Reads a little of the store again. A payload with a bad chunk is opened anew, and what it lacks comes from the swarm.
    fn scrub(&mut self) {
        let (store, done) = (self.store.clone(), self.done.clone());
        tokio::spawn(async move {
            let Ok(Ok(report)) = tokio::task::spawn_blocking(move || store.scrub_step(SCRUB_BYTES)).await else {
                return;
            };
            let damaged: std::collections::BTreeSet<_> = report.bad.iter().map(|(payload, _)| *payload).collect();
            if !damaged.is_empty() {
                warn!("{} payloads on disk had bad chunks; they are fetched again", damaged.len());
                let _ = done.send(damaged.into_iter().map(|payload| Input::Evicted { payload }).collect()).await;
            }
        });
    }
}

fn store_error(error: upswarm_cache::StoreError) -> StoreError {
    match error {
        upswarm_cache::StoreError::NoSpace { .. } => StoreError::NoSpace(error.to_string()),
        other => StoreError::Failed(other.to_string()),
    }
}

fn load(path: &std::path::Path) -> anyhow::Result<(Journal, crate::journal::Loaded, Vec<Vec<u8>>)> {
    let journal = Journal::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut loaded = journal.load().with_context(|| format!("cannot read {}", path.display()))?;
    let mut documents = Vec::new();
    for document in journal.docs()? {
        match document {
            Ok((_, bytes)) => documents.push(bytes),
            Err(notice) => loaded.notices.push(notice),
        }
    }
    Ok((journal, loaded, documents))
}

/// The journal's thread: writes in order, and tells the core what is durable. A failure ends it, and with it the node: what
/// cannot be remembered must not be acted upon.
fn write_journal(journal: &Journal, mut writes: mpsc::Receiver<Write>, done: &mpsc::Sender<Vec<Input>>) {
    while let Some(write) = writes.blocking_recv() {
        let result = match &write {
            Write::Record(_, record) => journal.write(record),
            Write::Doc(hash, bytes) => journal.store_doc(*hash, bytes),
            Write::Drop(hash) => journal.drop_doc(*hash),
        };
        match (result, write) {
            (Ok(()), Write::Record(token, _)) => {
                let _ = done.blocking_send(vec![Input::Persisted { token }]);
            }
            (Ok(()), _) => {}
            // Documents can be fetched again.
            (Err(error), Write::Doc(..) | Write::Drop(_)) => warn!("a document was not kept: {error}"),
            (Err(error), Write::Record(..)) => {
                tracing::error!(
                    "the journal cannot be written: {error}; free some space or mend the disk, then restart"
                );
                return;
            }
        }
    }
}

fn node_config(config: &Config, key: &SigningKey) -> anyhow::Result<NodeConfig> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("the system gives no randomness: {error}"))?;
    let texts = |list: &[String]| list.iter().map(|text| Text::lossy(text)).collect::<Vec<_>>();
    Ok(NodeConfig {
        key: key.clone(),
        seed: u64::from_le_bytes(seed),
        label: config.label_or_host(),
        agent: Text::lossy(env!("CARGO_PKG_VERSION")),
        os: Text::lossy(&installer::os_name()),
        build_time: BUILD_TIME,
        coordinator: config.coordinator.device,
        coordinator_addresses: texts(&config.coordinator.addresses),
        peers: texts(&config.peers),
        origins: config.coordinator.origins.clone(),
        wan_weight: config.wan_weight.at_best(),
        machine: machine_rules(config),
        upload_slots: config.upload_slots,
        ask_first: ASK_FIRST,
        zone: time_zone(&config.time_zone)?,
        boot: Text::lossy(&inventory::fact(inventory::FACT_BOOT_ID).unwrap_or_default()),
    })
}

fn machine_rules(config: &Config) -> MachineRules {
    let wan_auto = config.wan_weight == WanWeight::Auto;
    MachineRules { wan_auto, battery_floor: config.battery_floor, restart_notice: config.restart.notice() }
}

/// What is installed, with the time zone that counts here.
fn inventory_of(scan: inventory::Scan, config: &Config) -> Input {
    let mut inventory = scan.inventory;
    if !config.time_zone.is_empty() {
        // There is room: a machine has some tens of facts.
        let _ = inventory.set_fact(Text::lossy(inventory::FACT_TIME_ZONE), Some(Text::lossy(&config.time_zone)));
    }
    Input::Inventory { inventory: Arc::new(inventory) }
}

fn limiter(rate: Option<crate::config::Rate>) -> Limiter {
    match rate {
        // A burst of a quarter of a second is smooth enough and lets a whole block through.
        Some(rate) => Limiter::new(rate.0, (rate.0 / 4).max(64 << 10)),
        None => Limiter::unlimited(),
    }
}

/// A document that many requests are answered with, without a copy for each.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn write_run_info(path: &std::path::Path, state: &NodeState, addresses: &[Text<128>]) -> anyhow::Result<()> {
    let device = state.device();
    let listen = useful(addresses).map(|address| address.to_string()).collect();
    let info = RunInfo { pid: std::process::id(), device, listen };
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, serde_json::to_vec(&info)?)
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
