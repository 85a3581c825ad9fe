//! The node's driver: moves inputs and outputs between [`NodeState`] and the network, the disk and the installer.
//!
//! One event loop over closed enums. It never waits for the network, the disk or a child process: such work runs in tasks
//! that send back batches of inputs over one bounded channel. Their number is bounded by the core, which has so many
//! fetches, serves and installs under way and no more.

mod disk;
mod installs;
mod sink;
mod snapshots;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use upswarm_cache::{Store, StoreConfig};
use upswarm_protocol::chunk::ChunkList;
use upswarm_protocol::codec::Text;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::PayloadId;
use upswarm_protocol::node::{
    Conditions, FetchError, FetchFrom, FetchId, Input, MachineRules, NodeConfig, NodeState, Output, Restored, Section,
    Sentence, ServeWhat, StoreError,
};
use upswarm_protocol::report::receipt;
use upswarm_protocol::wire::{BlockStatus, BlockWhat};

use super::coordinator_link::CoordinatorLink;
use super::journal::Journal;
use super::origin::OriginClient;
use crate::clock::{BUILD_TIME, Clock};
use crate::config::{Config, Coordinator, NodeDir, RunInfo, WanWeight, time_zone};
use crate::inventory::watch::InventoryWatch;
use crate::limiter::Limiter;
use crate::local_api::{Local, Outside};
use crate::machine::MachineWatch;
use crate::net::{Host, HostConfig, HostEvent, is_loopback, useful};
use crate::privileged::Installer;
use crate::sys::{self, Access};
use crate::update_point::UpdatePoint;
use crate::web::Web;
use crate::{encrypt, inventory, keys};
use disk::{MAX_WRITES, Write, losses, store_error, with_room, write_journal};
use sink::ChunkSink;
use snapshots::Snapshots;
use start::{Rates, inventory_of, limiter, load, node_config, write_run_info};

/// Batches of inputs that wait for the loop; a task that finds it full waits.
const MAX_BATCHES: usize = 256;
/// What the machine runs on is known within this, or the node starts without.
const CONDITIONS_WITHIN: Duration = Duration::from_secs(6);
/// How often verified chunks are made durable.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Rates follow the hours, and the number of machines that fetch, this often.
const PACE_EVERY: Duration = Duration::from_secs(1);
/// Events that are taken with one look at everything that may have happened.
const AT_ONCE: usize = 32;

struct Driver {
    clock: Clock,
    key: SigningKey,
    state: NodeState,
    host: Host,
    store: Arc<Store>,
    origin: OriginClient,
    link: CoordinatorLink,
    wan_down: Limiter,
    lan_up: Limiter,
    lan_down: Limiter,
    rates: Rates,
    installer: Installer,
    /// The file with what the person at the machine should know.
    notice: PathBuf,
    ending: Arc<AtomicBool>,
    lists: BTreeMap<PayloadId, Arc<ChunkList>>,
    fetches: BTreeMap<FetchId, CancellationToken>,
    inputs: VecDeque<Input>,
    writes: VecDeque<Write>,
    /// Where documents lie, by hash.
    docs: PathBuf,
    done: mpsc::Sender<Vec<Input>>,
    stored: u64,
    flushed: u64,
    /// The last flush failed.
    unflushed: Arc<AtomicBool>,
}

/// Runs a joined node until `stop` completes.
pub(crate) async fn run(dir: &NodeDir, config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let clock = Clock::start();
    let key = keys::read_device_key(&dir.key())?;
    tokio::pin!(stop);
    let path = dir.journal();
    let Some((mut journal, loaded, documents)) = with_room(move || load(&path), &mut stop).await? else {
        return Ok(());
    };
    let limits = StoreConfig { quota: config.store.quota.0, reserve: config.store.reserve.0, ..StoreConfig::default() };
    let path = dir.store();
    let open = move || {
        Store::open(&path, limits).with_context(|| format!("cannot open the payload store in {}", path.display()))
    };
    let Some(store) = with_room(open, &mut stop).await?.map(Arc::new) else { return Ok(()) };
    for notice in store.notices().iter().chain(&loaded.notices) {
        warn!("{notice}");
    }
    let mut machine = MachineWatch::start(config.install_root.clone(), config.metered);
    let ending = Arc::new(AtomicBool::new(false));
    let installer = match &config.installer_socket {
        Some(socket) => Installer::connect(socket.clone(), dir.roots(), dir.journal().join("docs"), ending.clone())?,
        None => {
            Installer::in_process(dir.install(), config.install_root.clone(), config.restart.clone(), ending.clone())?
        }
    };
    let not_joined = || format!("{} has not joined; run: upswarm node join TOKEN --data-dir ...", dir.path().display());
    let restored = Restored {
        trust: loaded.trust.with_context(not_joined)?,
        certificate: loaded.certificate.with_context(not_joined)?,
        assignment: loaded.assignment.unwrap_or_default(),
        documents,
        deployments: loaded.deployments,
        counters: loaded.counters,
        inventory: loaded.inventory,
        wan_limits: loaded.wan_limits,
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
    if let Some(root) = &config.install_root {
        info!("installs below {} and not on this machine itself: install_root in node.toml", root.display());
    }
    let (done, mut finished) = mpsc::channel(MAX_BATCHES);
    let (journal_in, journal_out) = mpsc::channel(MAX_WRITES);
    let journal_done = done.clone();
    let journal_thread = std::thread::Builder::new().name("journal".into()).spawn({
        let ending = ending.clone();
        move || write_journal(&mut journal, journal_out, &journal_done, &ending)
    })?;
    let wan_down = limiter(config.limits.wan_down);
    let web = Web::new(&config.proxy, config.ca_file.as_deref())?;
    let link = {
        let Coordinator { device, addresses, origins } = config.coordinator.clone();
        CoordinatorLink::new(web.clone(), key.clone(), device, addresses, origins)
    };
    let mut driver = Driver {
        clock,
        key,
        state,
        host,
        store,
        origin: OriginClient::new(web.clone(), wan_down.clone())?,
        link,
        wan_down,
        lan_up: limiter(config.limits.lan_up),
        lan_down: limiter(config.limits.lan_down),
        rates: Rates::new(&config)?,
        installer,
        notice: dir.notice(),
        ending,
        lists: BTreeMap::new(),
        fetches: BTreeMap::new(),
        inputs: VecDeque::new(),
        writes: VecDeque::new(),
        docs: dir.journal().join("docs"),
        done,
        stored: 0,
        flushed: 0,
        unflushed: Arc::default(),
    };
    driver.origin.watch(config.coordinator.origins.first());
    let mut flush = tokio::time::interval(FLUSH_EVERY);
    let mut pace = tokio::time::interval(PACE_EVERY);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tokio::spawn(disk::scrub(driver.store.clone(), driver.done.clone(), &config.store)?);
    let run_info = dir.run_info();
    // Of a run of the system that is over, perhaps; the core tells again what still counts.
    let _ = std::fs::remove_file(dir.notice());
    let mut local = Local::start(dir);
    let mut update_point = UpdatePoint::start(config.update_point.as_ref(), &driver.store).await;
    let (snapshots, mut look) = (Snapshots::default(), tokio::time::interval(snapshots::LOOK_EVERY));
    let mut watch = InventoryWatch::start(config.install_root.clone());
    let mut hangup = sys::ReloadRequests::listen()?;
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
                        // Without it verbs on this machine find the node elsewhere or not at all; it works all the same.
                        if let Err(error) = write_run_info(&run_info, &driver.state, addresses) {
                            warn!("{error:#}");
                        }
                    }
                    driver.host_event(event);
                }
            },
            1.. = finished.recv_many(&mut ended, AT_ONCE) => {
                for batch in ended.drain(..) {
                    if batch.iter().any(|input| matches!(input, Input::InstallEnded { .. })) {
                        watch.rescan();
                    }
                    if batch.iter().any(|input| matches!(input, Input::ChunkStored { .. } | Input::Opened { .. })) {
                        update_point.stored();
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
            _ = pace.tick() => driver.set_rates(),
            () = hangup.next() => {
                driver.reload(dir);
                machine.look();
                watch.rescan();
            }
            conditions = machine.changed() => driver.conditions(conditions),
            input = driver.link.next() => driver.inputs.push_back(input),
            Some(scan) = watch.changed() => driver.inputs.push_back(inventory_of(scan, &config)),
            asked = local.next() => {
                if asked.wants_rescan() {
                    watch.rescan();
                }
                let install_root = config.install_root.as_deref();
                let outside = Outside { section: driver.way_to_the_web(), install_root };
                driver.inputs.extend(asked.answer(&driver.state, outside, clock.now()));
            }
            _ = look.tick(), if config.update_point.is_some() => {
                driver.inputs.extend(snapshots.look(&driver.state, &driver.store, &driver.installer, clock.now()));
            }
            asked = update_point.next() => driver.inputs.extend(asked.answer(&driver.state, clock.now())),
            () = &mut stop => break,
        }
        driver.take_inputs().await;
    }
    drop((local, update_point));
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

    /// Keeps the driver's own books in step with what the core is told.
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
        let input = match event {
            HostEvent::PeerUp { peer, dialled } => {
                debug!(peer = %peer.short(), "connected");
                self.inputs.extend(self.link.direct(peer, true));
                Input::PeerUp { peer, dialled }
            }
            HostEvent::PeerDown { peer } => {
                debug!(peer = %peer.short(), "disconnected");
                self.inputs.extend(self.link.direct(peer, false));
                Input::PeerDown { peer }
            }
            HostEvent::DialFailed { address, reason } => {
                debug!(%address, "no connection: {reason}");
                let report_key = self.state.trust().root().report_key;
                self.link.dial_failed(address.as_str(), report_key, self.clock.now().wall);
                Input::DialFailed { address, reason: Text::lossy(&reason) }
            }
            HostEvent::Frame { peer, bytes } => Input::Frame { peer, bytes },
            HostEvent::Gossip { id, from, topic, bytes } => Input::Gossip { id, from, topic, bytes },
            HostEvent::BlockRequested { peer, serve, what } => Input::BlockRequested { peer, serve, what },
            HostEvent::Served { serve, bytes } => Input::Served { serve, bytes },
            HostEvent::Hint { address } => Input::Hint { address },
            HostEvent::Listening { addresses } => Input::Listening { addresses: useful(&addresses).cloned().collect() },
        };
        self.inputs.push_back(input);
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
                if !self.link.leave(peer) {
                    self.host.disconnect(peer, reason).await;
                }
            }
            Output::Send { peer, frame } => {
                if let Some(frame) = self.link.send(peer, frame) {
                    self.host.send(peer, frame).await;
                }
            }
            Output::Subscribe(topic) => self.host.subscribe(topic).await,
            Output::Publish { topic, bytes } => self.host.publish(topic, bytes).await,
            Output::GossipVerdict { id, from, verdict } => self.host.verdict(id, from, verdict).await,
            Output::Serve { serve, what: ServeWhat::Bytes(bytes) } => {
                self.host.answer(serve, Ok(Bytes::from_owner(Shared(bytes)))).await;
            }
            Output::Serve { serve, what: ServeWhat::Doc(hash) } => {
                let path = self.docs.join(hash.to_string());
                let host = self.host.clone();
                tokio::spawn(async move {
                    let read = tokio::fs::read(&path).await;
                    host.answer(serve, read.map(Bytes::from).map_err(|_| BlockStatus::NotHeld)).await;
                });
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
            Output::Restart { release } => self.restart(release),
            Output::ReadLog { release, ordered, order } => self.read_log(release, ordered, order),
            Output::Encrypt { message, to } => {
                let seq = message.seq();
                debug!(seq, "reports");
                match envelope::sign(Kind::Report, Role::Device, &message, &[&self.key]) {
                    Ok(signed) => {
                        let (bytes, receipt) = (encrypt::encrypt(&to, &signed), receipt(&signed));
                        self.inputs.push_back(Input::Encrypted { seq, bytes, receipt });
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
            FetchFrom::Disk => {
                let error = FetchError::Wrong("chunks are not read like documents".into());
                self.inputs.push_back(Input::FetchEnded { fetch, bytes: 0, result: Err(error) });
            }
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
        let from = match from {
            FetchFrom::Peer(peer) => match self.link.document_url(peer, what) {
                Some(url) => FetchFrom::Urls(vec![url]),
                None => FetchFrom::Peer(peer),
            },
            urls => urls,
        };
        let (host, origin, done) = (self.host.clone(), self.origin.clone(), self.done.clone());
        let docs = self.docs.clone();
        tokio::spawn(async move {
            let document = async {
                match from {
                    FetchFrom::Peer(peer) => host.fetch_block(peer, what, limit).await,
                    FetchFrom::Urls(urls) => origin.fetch_document(&urls, limit).await,
                    FetchFrom::Disk => read_document(docs, what, limit).await,
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
            let read = tokio::task::spawn_blocking(move || {
                let read = store.read(payload, first, count);
                let mut lost = if read.is_err() { losses(&store) } else { Vec::new() };
                if let Err(upswarm_cache::StoreError::Missing { position, .. }) = read {
                    // It was lost before the core was told that it is here.
                    lost.push(Input::ChunksLost { payload, chunks: vec![position] });
                }
                (read, lost)
            });
            let (answer, lost) = match read.await {
                Ok((Ok(bytes), _)) => (Ok(bytes.into()), Vec::new()),
                Ok((Err(error), lost)) => {
                    warn!("a chunk cannot be read: {error}");
                    (Err(BlockStatus::NotHeld), lost)
                }
                Err(_) => (Err(BlockStatus::NotHeld), Vec::new()),
            };
            let failed = answer.is_err();
            host.answer(serve, answer).await;
            if failed {
                // The host tells of answers with bytes only, and the slot must be free again.
                let _ = done.send(vec![Input::Served { serve, bytes: 0 }]).await;
                let _ = done.send(lost).await;
            }
        });
    }

    fn open(&mut self, payload: PayloadId, list: Arc<ChunkList>, pin: bool) {
        self.lists.insert(payload, list.clone());
        let (store, done) = (self.store.clone(), self.done.clone());
        tokio::spawn(async move {
            let opened = tokio::task::spawn_blocking(move || {
                let opened = store.open_payload(payload, &list, pin);
                (opened, store.take_evicted(), losses(&store))
            });
            // The core has only so many opened at a time: it must hear of each, however it ends.
            let (result, evicted, lost) = match opened.await {
                Ok((opened, evicted, lost)) => {
                    (opened.map(|opened| (opened.have, opened.reused)).map_err(store_error), evicted, lost)
                }
                Err(error) => {
                    let reason = StoreError::Failed(format!("opening broke off: {error}"));
                    (Err(reason), Vec::new(), Default::default())
                }
            };
            let mut batch: Vec<_> = evicted.into_iter().map(|payload| Input::Evicted { payload }).collect();
            batch.extend(lost);
            batch.push(Input::Opened { payload, result });
            let _ = done.send(batch).await;
        });
    }

    /// Takes over the limits of a node.toml that has changed; everything else in it counts from the next start.
    fn reload(&mut self, dir: &NodeDir) {
        match Config::read(&dir.config()) {
            Ok(config) => {
                self.rates.limits = config.limits;
                self.set_rates();
                info!("limits read again");
            }
            Err(error) => warn!("the limits stay as they are: {error:#}"),
        }
    }

    /// Sets the rates that count now: this machine's by its hours, and its share of what is ordered for the site.
    fn set_rates(&mut self) {
        let now = self.clock.now();
        let [wan_down, lan_up, lan_down] = self.rates.at(now.wall);
        let wan_down = [wan_down, self.state.wan_share(now)].into_iter().flatten().min();
        let rates = [wan_down, lan_up, lan_down];
        for ((limiter, rate), set) in
            [&self.wan_down, &self.lan_up, &self.lan_down].into_iter().zip(rates).zip(self.rates.set)
        {
            if rate != set {
                limiter.set_rate(rate);
            }
        }
        self.rates.set = rates;
        let others = u32::try_from(self.state.other_fetchers(now)).unwrap_or(u32::MAX);
        self.origin.give_way(self.state.wan_yields().unwrap_or(self.rates.limits.gives_way), others);
    }

    /// What the driver itself knows of why things are as they are.
    fn way_to_the_web(&self) -> Option<Section> {
        let mut section = self.link.explain();
        if let Some((text, because)) = self.origin.explain() {
            let title = || "The way to the web".to_owned();
            let known = section.get_or_insert_with(|| Section { title: title(), sentences: Vec::new() });
            known.sentences.push(Sentence { text, because });
        }
        section
    }

    /// Makes verified chunks durable, when there are new ones or the last time failed.
    fn flush(&mut self) {
        if self.stored == self.flushed && !self.unflushed.load(Ordering::Relaxed) {
            return;
        }
        self.flushed = self.stored;
        let (store, done, unflushed) = (self.store.clone(), self.done.clone(), self.unflushed.clone());
        tokio::task::spawn_blocking(move || {
            let flushed = store.flush();
            let before = unflushed.swap(flushed.is_err(), Ordering::Relaxed);
            if let Err(error) = flushed
                && !before
            {
                warn!("chunks could not be made durable: {error}");
            }
            let lost = losses(&store);
            if !lost.is_empty() {
                let _ = done.blocking_send(lost);
            }
        });
    }
}

/// A document of this machine's own disk; the core checks it like any other.
async fn read_document(docs: PathBuf, what: BlockWhat, limit: usize) -> Result<Vec<u8>, FetchError> {
    let BlockWhat::Doc(hash) = what else { return Err(FetchError::Wrong("no document".into())) };
    let bytes = tokio::fs::read(docs.join(hash.to_string())).await;
    let bytes = bytes.map_err(|error| FetchError::Unreachable(error.to_string()))?;
    if bytes.len() > limit { Err(FetchError::Wrong(format!("{} bytes", bytes.len()))) } else { Ok(bytes) }
}

/// A document that many requests are answered with, without a copy for each.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
