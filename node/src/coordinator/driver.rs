//! Moves inputs into the coordinator's core and outputs out of it. One task owns core, names and rules, and decides; the fleet
//! store writes beside it, one batch at a time, in order, and readers look at the store. Nobody who only looks can hold it up.

mod desk;
mod looks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use upswarm_protocol::catalog::Head;
use upswarm_protocol::codec;
use upswarm_protocol::coordinator::{
    AlarmKind, Command, CoordinatorState, DeviceRecord, Done, Input, Output, Record, Refusal, RolloutStatus,
};
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::{DeviceId, ReleaseId};
use upswarm_protocol::report::Report;
use zeroize::Zeroizing;

use super::admin::{self, Decision};
use super::backup::moment::Moment;
use super::backup::restore::Note;
use super::directory::{Change, Directory};
use super::http::shared::{Counters, RootVersions};
use super::projection;
use super::requests::{MAX_REQUESTS, Reply, Request};
use super::store::alarms::{Alarms, Seen};
use super::store::ledger::InForce;
use super::store::names::Names;
use super::store::part::CatalogParts;
use super::store::rules::Rules;
use super::store::view::{Live, View};
use super::store::{FleetStore, Write, Writer, Written};
use crate::api::audit::{Deed, Topic};
use crate::api::catalog::Catalog;
use crate::clock::Clock;
use crate::encrypt;

/// Outputs of the core that the network has not taken yet; beyond it no new input is taken.
const MAX_BACKLOG: usize = 4096;
/// How often it is looked for what will expire.
const LOOK_FOR_EXPIRY: Duration = Duration::from_secs(3600);
const LOOK_FOR_THE_ALONE: Duration = Duration::from_secs(30);
/// Alarms that only go on are written this often.
const WRITE_ALARMS: Duration = Duration::from_secs(60);
const DEVICE_RECORD: usize = 256 << 10;
/// Rollouts in which nothing has changed are counted anew for readers after this long: devices fall silent by themselves.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// The ends of the channels that a driver lives between.
#[derive(Debug)]
pub(crate) struct Channels {
    /// What the network says.
    pub(crate) inputs: mpsc::Receiver<Input>,
    /// What the network shall do.
    pub(crate) orders: mpsc::Sender<Output>,
    /// What the HTTP server asks.
    pub(crate) requests: mpsc::Receiver<Request>,
    /// What the fleet store says.
    pub(crate) written: mpsc::Receiver<Written>,
    /// The public head.
    pub(crate) head: watch::Sender<Vec<u8>>,
}

/// What follows when the core has answered.
type Then = Box<dyn FnOnce(Result<Done, Refusal>) + Send>;
/// What follows when a batch is durable.
type Saved = Box<dyn FnOnce() + Send>;

/// The one owner of a running coordinator's state.
pub(crate) struct Driver {
    state: CoordinatorState,
    device: DeviceId,
    directory: Directory,
    store: FleetStore,
    writer: Writer,
    names: Arc<Names>,
    rules: Arc<Rules>,
    clock: Clock,
    report_key: Zeroizing<[u8; 32]>,
    counters: Arc<Counters>,
    /// Where machines reach this coordinator, for join tokens.
    addresses: watch::Receiver<Vec<String>>,
    /// Versions of the roots by hash, for the origin.
    roots: watch::Sender<RootVersions>,
    answers: BTreeMap<u64, Then>,
    next_request: u64,
    backlog: VecDeque<Output>,
    /// Changes that wait for the store, the token that is durable with them, and who waits for them.
    changes: Vec<Write>,
    token: Option<u64>,
    saved: Vec<Saved>,
    /// Who waits for a moment of the directory, and the work of holding one still, while which nothing is written.
    moments: VecDeque<Reply<Moment>>,
    holding: Option<JoinHandle<()>>,
    /// The same of the batch that is being written.
    writing: Option<(Option<u64>, Vec<Saved>)>,
    /// What the coordinator has done by itself and the log is to say.
    deeds: VecDeque<Deed>,
    alarms: Arc<Alarms>,
    /// Machines that saw nobody at a site with others at the last look.
    alone: BTreeSet<DeviceId>,
    /// When the alarms were last written.
    alarms_written: std::time::Instant,
    catalog: Arc<Catalog>,
    parts: Arc<CatalogParts>,
    rollouts: Rollouts,
    /// What history knows of approvals and of devices that are shut out.
    in_force: Vec<InForce>,
    revoked: BTreeSet<DeviceId>,
}

/// The rollouts as they were counted last.
#[derive(Default)]
struct Rollouts {
    counted: Arc<Vec<RolloutStatus>>,
    at: Option<std::time::Instant>,
    changed: bool,
}

/// What a driver is made of.
pub(crate) struct Parts {
    pub(crate) state: CoordinatorState,
    pub(crate) device: DeviceId,
    pub(crate) directory: Directory,
    pub(crate) store: FleetStore,
    pub(crate) writer: Writer,
    pub(crate) names: Names,
    pub(crate) rules: Rules,
    pub(crate) alarms: Alarms,
    /// What is wrong with the log of decisions.
    pub(crate) audit_trouble: Option<String>,
    /// Of a directory that comes from a backup and starts for the first time.
    pub(crate) restored: Option<Note>,
    pub(crate) clock: Clock,
    pub(crate) report_key: Zeroizing<[u8; 32]>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) addresses: watch::Receiver<Vec<String>>,
    pub(crate) roots: watch::Sender<RootVersions>,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            state,
            device,
            directory,
            store,
            writer,
            names,
            rules,
            alarms,
            audit_trouble,
            restored,
            clock,
            report_key,
            counters,
            addresses,
            roots,
        } = parts;
        let catalog = Arc::new(projection::catalog(&state, &names, &Catalog::default()));
        let parts = Arc::new(CatalogParts::of(&state, &CatalogParts::default()));
        let (in_force, revoked) = (projection::in_force(&state), state.revoked().clone());
        let mut driver = Self {
            state,
            device,
            directory,
            store,
            writer,
            names: Arc::new(names),
            rules: Arc::new(rules),
            clock,
            report_key,
            counters,
            addresses,
            roots,
            answers: BTreeMap::new(),
            next_request: 0,
            backlog: VecDeque::new(),
            changes: vec![Write::Approvals(in_force.clone())],
            token: None,
            saved: Vec::new(),
            moments: VecDeque::new(),
            holding: None,
            writing: None,
            deeds: VecDeque::new(),
            alarms: Arc::new(alarms),
            alone: BTreeSet::new(),
            alarms_written: std::time::Instant::now(),
            catalog,
            parts,
            rollouts: Rollouts { changed: true, ..Rollouts::default() },
            in_force,
            revoked,
        };
        driver.begin_log(audit_trouble, restored.as_ref());
        driver
    }

    /// Runs until `stop`; everything that was accepted is durable, and signed in the log of decisions, when it returns.
    pub(crate) async fn run(mut self, mut ends: Channels, stop: CancellationToken) {
        let mut expiries = tokio::time::interval(LOOK_FOR_EXPIRY);
        let mut alone = tokio::time::interval(LOOK_FOR_THE_ALONE);
        loop {
            self.drain(&ends.head);
            if let Err(error) = self.write() {
                self.alarm(format!("{error:#}"));
                break;
            }
            let due = self.state.poll_timeout().map(|(due, _)| self.clock.at(due));
            let room = self.backlog.len() < MAX_BACKLOG;
            tokio::select! {
                () = stop.cancelled() => break,
                permit = ends.orders.reserve(), if !self.backlog.is_empty() => match (permit, self.backlog.pop_front()) {
                    (Ok(permit), Some(order)) => permit.send(order),
                    // The network has ended; so will this loop, when it is told.
                    (Err(_), _) => self.backlog.clear(),
                    (Ok(_), None) => {}
                },
                Some(written) = ends.written.recv() => self.written(written),
                Some(input) = ends.inputs.recv(), if room => self.state.handle_input(input, self.clock.now()),
                Some(request) = ends.requests.recv(), if room && self.answers.len() + self.saved.len() < MAX_REQUESTS => self.request(request),
                () = held(&mut self.holding) => self.holding = None,
                _ = expiries.tick() => self.look_for_expiry(),
                _ = alone.tick() => {
                    self.look_for_the_alone();
                    self.look_for_rollouts();
                }
                () = sleep_until(due) => self.state.handle_timeout(self.clock.now()),
            }
        }
        self.drain(&ends.head);
        self.state.handle_end(self.clock.now());
        self.drain(&ends.head);
        // What is held still stays still: the last batch comes after it.
        if let Some(holding) = self.holding.take() {
            drop(holding.await);
        }
        // The store's thread must not wait for this end any more.
        drop(ends.written);
        if let Err(error) = self.writer.finish(self.changes).await {
            tracing::error!("the last changes could not be written: {error:#}");
        }
    }

    /// Hands what waits to the store, unless it is still at work.
    fn write(&mut self) -> anyhow::Result<()> {
        if self.writing.is_some() || self.holding.is_some() {
            return Ok(());
        }
        // Between two batches: all that was acknowledged is on disk, and nothing else is under way.
        if let Some(reply) = self.moments.pop_front() {
            let directory = self.directory.clone();
            self.holding = Some(tokio::spawn(async move {
                let held = Moment::hold(&directory).await.map_err(|error| Refusal::Request(format!("{error:#}")));
                // Nobody waits any more: nobody would let it go.
                if let Err(Ok(moment)) = reply.send(held) {
                    drop(moment.let_go());
                }
            }));
            return Ok(());
        }
        if self.changes.is_empty() {
            return Ok(());
        }
        self.writer.write(std::mem::take(&mut self.changes))?;
        self.writing = Some((self.token.take(), std::mem::take(&mut self.saved)));
        Ok(())
    }

    /// Tells the core and everybody else what is durable.
    fn written(&mut self, written: Written) {
        match written {
            Written::Failed(reason) | Written::SetAside(reason) => self.alarm(reason),
            Written::Done => {
                let Some((token, saved)) = self.writing.take() else { return };
                saved.into_iter().for_each(|saved| saved());
                if let Some(token) = token {
                    self.state.handle_input(Input::Persisted { token }, self.clock.now());
                }
            }
        }
    }

    fn drain(&mut self, head: &watch::Sender<Vec<u8>>) {
        let mut opened = VecDeque::new();
        let mut answers = Vec::new();
        loop {
            while let Some(output) = self.state.poll_output() {
                match output {
                    Output::Persist { token, record } => {
                        self.persist(record);
                        self.token = Some(token);
                    }
                    Output::Answer { request, result } => {
                        answers.extend(self.answers.remove(&request).map(|then| (then, result)));
                    }
                    Output::OpenReport { open, encrypted } => {
                        let bytes = encrypt::open(&self.report_key, &encrypted).ok();
                        opened.push_back(Input::ReportOpened { open, bytes });
                    }
                    Output::DropDocument(hash) => {
                        if let Err(error) = self.directory.drop_document(&hash) {
                            tracing::warn!(%hash, %error, "an old index could not be removed");
                        }
                    }
                    Output::Alarm(what) => self.alarm(what),
                    Output::Raise { kind, device, text } => self.see(Seen { kind, device, text }),
                    Output::Left(device) => self.left(device),
                    Output::Over { kind, device } => self.ended(kind, device, &[]),
                    Output::RolloutStopped(status) => self.rollout_stopped(&status),
                    order => self.backlog.push_back(order),
                }
            }
            let Some(input) = opened.pop_front().or_else(|| self.next_deed()) else { break };
            self.state.handle_input(input, self.clock.now());
        }
        head.send_if_modified(|public| {
            let news = public.as_slice() != self.state.head();
            if news {
                *public = self.state.head().to_vec();
            }
            news
        });
        if self.roots.borrow().len() != self.state.root_versions().len() {
            self.roots.send_replace(Arc::new(self.state.root_versions().clone()));
        }
        if !answers.is_empty() || self.state.index_version() != self.catalog.index_version {
            self.project_catalog();
        }
        if !answers.is_empty() && self.alarms.all().iter().any(|alarm| alarm.kind == AlarmKind::Rollout && !alarm.over)
        {
            self.look_for_rollouts();
        }
        // Last, so that whoever asks next sees what was answered.
        answers.into_iter().for_each(|(then, result)| then(result));
    }

    /// A record on its way to the store, with what readers are to see of it.
    fn persist(&mut self, record: Record) {
        let write = match record {
            Record::Report(report, received) => {
                self.rollouts.changed = true;
                // One that was on its way when the machine left tells of the time before.
                if self.names.retired().get(&report.device).is_some_and(|since| report.issued > *since) {
                    self.is_back(report.device);
                }
                self.alarms_of(&report);
                Write::Report(report, received)
            }
            Record::InventoryBase(digest, bytes) => Write::InventoryBase(digest, bytes),
            Record::Inventory(device, bytes) => match self.state.inventory(&device) {
                Some(inventory) => Write::Inventory(device, inventory.clone(), bytes),
                None => return,
            },
            Record::Scan(device, bytes) => match self.state.scan(&device) {
                Some(scan) => Write::Scan(device, Arc::new(scan.clone()), bytes),
                None => return,
            },
            Record::Device(device, bytes) => {
                self.rollouts.changed = true;
                let change = Change::Put(self.directory.device(&device), bytes.clone());
                // It was encoded a moment ago.
                match codec::decode::<DeviceRecord>(&bytes, DEVICE_RECORD) {
                    Ok(known) => Write::Device(change, Box::new(known)),
                    Err(_) => Write::File(change),
                }
            }
            // On disk before whatever it speaks of, wherever in the batch that is.
            Record::Audit(..) => {
                let log =
                    self.changes.iter().take_while(|write| matches!(write, Write::File(Change::Append(..)))).count();
                let change = self.directory.change(record);
                return self.changes.splice(log..log, change.map(Write::File)).for_each(drop);
            }
            other => match self.directory.change(other) {
                Some(change) => Write::File(change),
                None => return,
            },
        };
        self.changes.push(write);
    }

    fn request(&mut self, request: Request) {
        match request {
            // Whoever asked may have hung up, here and below.
            Request::Live(reply) => drop(reply.send(self.live())),
            Request::Held(input, reply) => {
                self.state.handle_input(input, self.clock.now());
                let _ = reply.send(());
            }
            Request::Publish(actor, document, reply) => {
                let decision = self.at_desk(|desk| admin::publish::submit(&actor, desk, document));
                self.decide(&actor, Ok(decision), reply);
            }
            Request::Approve(actor, document, reply) => {
                let decision = self.at_desk(|desk| admin::approve::submit(&actor, desk, document));
                self.decide(&actor, Ok(decision), reply);
            }
            Request::Root(actor, document, held, reply) => {
                let decision = self.at_desk(|desk| admin::root::submit(&actor, desk, document, held));
                self.decide(&actor, Ok(decision), reply);
            }
            Request::Invite(actor, request, reply) => self.invite(&actor, &request, reply),
            Request::Hold(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::hold::hold(&actor, desk, &request));
                self.decide(&actor, decision, reply);
            }
            Request::Revoke(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::devices::revoke(&actor, desk, &request));
                if let Ok(Decision { command: Command::Revoke(device), .. }) = &decision {
                    let device = *device;
                    self.changes.push(Write::Forget(device));
                    Arc::make_mut(&mut self.alarms).forget(device);
                    self.save_alarms();
                }
                self.decide(&actor, decision, reply);
            }
            Request::Readmit(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::devices::readmit(&actor, desk, &request));
                self.decide(&actor, decision, reply);
            }
            Request::Invites(reply) => {
                drop(reply.send(admin::invite::list(&self.state, &self.names, self.clock.now().wall)));
            }
            Request::Disinvite(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::invite::revoke(&actor, desk, &request));
                self.decide(&actor, decision, reply);
            }
            Request::Retry(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::retry::retry(&actor, desk, &request));
                self.decide(&actor, decision, reply);
            }
            Request::AskLog(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::logs::ask(&actor, desk, &request));
                self.decide(&actor, decision, reply);
            }
            Request::Logs(query, reply) => {
                let now = self.clock.now().wall;
                drop(reply.send(self.at_desk(|desk| admin::logs::list(desk, &query, now))));
            }
            Request::Limit(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::limits::limit(&actor, desk, &request));
                self.decide(&actor, decision, reply);
            }
            Request::Retire(actor, request, reply) => {
                match self.at_desk(|desk| admin::devices::retire(&actor, desk, &request)) {
                    Err(refusal) => drop(reply.send(Err(refusal))),
                    Ok((done, deed)) => self.note(&actor, &deed, move |noted| drop(reply.send(noted.map(|()| done)))),
                }
            }
            Request::Withdraw(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::releases::withdraw(&actor, desk, &request));
                self.decide(&actor, decision, reply);
            }
            Request::Acknowledge(actor, request, reply) => {
                match admin::alarms::acknowledge(&actor, Arc::make_mut(&mut self.alarms), &request) {
                    Err(refusal) => drop(reply.send(Err(refusal))),
                    Ok((done, deed)) => {
                        self.save_alarms();
                        self.note(&actor, &deed, move |noted| drop(reply.send(noted.map(|()| done))));
                    }
                }
            }
            Request::AddGroup(actor, request, reply) => self.add_group(&actor, &request, reply),
            Request::DescribeGroup(actor, signed, reply) => {
                let decision = self.at_desk(|desk| admin::groups::describe(&actor, desk, signed));
                self.decide(&actor, decision, reply);
            }
            Request::Member(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::groups::member(&actor, desk, &request));
                self.decide(&actor, decision, reply);
            }
            Request::Rules(actor, document, reply) => {
                let before = self.rules.clone();
                let rules = self.at_desk(|desk| admin::rules::submit(&actor, desk, &before, document.0));
                let accepted = self.accepted();
                self.save_rules(&actor, rules.map(|(rules, deed)| (rules, deed, accepted)), reply);
            }
            Request::AddRule(actor, document, reply) => {
                let mut rules = (*self.rules).clone();
                let added = self.at_desk(|desk| admin::rules::add(&actor, desk, &mut rules, document));
                let accepted = self.accepted();
                self.save_rules(&actor, added.map(|deed| (rules, deed, accepted)), reply);
            }
            Request::RemoveRule(actor, id, reply) => {
                let mut rules = (*self.rules).clone();
                let removed = admin::rules::remove(&actor, &mut rules, id);
                self.save_rules(&actor, removed.map(|(removed, deed)| (rules, deed, removed)), reply);
            }
            Request::Moment(actor, reply) => {
                let deed = Deed::new(Topic::Backup, "a backup was begun".to_owned());
                self.note(&actor, &deed, drop);
                self.moments.push_back(reply);
            }
            Request::Note(actor, deed, reply) => self.note(&actor, &deed, move |noted| drop(reply.send(noted))),
            Request::RuleTroubles(texts, reply) => {
                let seen = |text: String| Seen { kind: AlarmKind::Rule, device: None, text };
                let still: Vec<Seen> = texts.into_iter().map(seen).collect();
                still.iter().cloned().for_each(|trouble| self.see(trouble));
                self.ended(AlarmKind::Rule, None, &still);
                let _ = reply.send(());
            }
        }
    }

    fn project_catalog(&mut self) {
        if self.catalog.index_version != self.state.index_version() {
            self.parts = Arc::new(CatalogParts::of(&self.state, &self.parts));
            self.note_history();
        }
        self.catalog = Arc::new(projection::catalog(&self.state, &self.names, &self.catalog));
    }

    /// Hands the fleet store what a new catalog means for history: approvals, and who is shut out.
    fn note_history(&mut self) {
        let in_force = projection::in_force(&self.state);
        if self.in_force != in_force {
            self.changes.push(Write::Approvals(in_force.clone()));
            self.in_force = in_force;
        }
        let revoked = self.state.revoked();
        if self.revoked != *revoked {
            let out = revoked.difference(&self.revoked).map(|device| Write::Counted(*device, false));
            let back = self.revoked.difference(revoked);
            let back = back.map(|device| Write::Counted(*device, !self.names.retired().contains_key(device)));
            self.changes.extend(out.chain(back).collect::<Vec<_>>());
            self.revoked = revoked.clone();
        }
    }

    /// What readers need besides the store.
    fn live(&mut self) -> Live {
        let now = self.clock.now().wall;
        let stale = self.rollouts.at.is_none_or(|at| at.elapsed() >= COUNT_EVERY);
        if self.rollouts.changed || stale {
            self.rollouts = Rollouts {
                counted: Arc::new(self.state.rollout_status(now)),
                at: Some(std::time::Instant::now()),
                changed: false,
            };
        }
        let head = Envelope::parse(self.state.head(), Kind::Head, Role::Online).ok();
        let head: Option<Head> = head.and_then(|e| codec::decode(e.unverified_body(), Kind::Head.cap()).ok());
        Live {
            catalog: self.catalog.clone(),
            parts: self.parts.clone(),
            names: self.names.clone(),
            rules: self.rules.clone(),
            holds: self.state.holds().to_vec(),
            wan_limits: self.state.wan_limits().cloned().collect(),
            revoked: Arc::new(self.state.revoked().clone()),
            connected: self.state.connected().collect(),
            rollouts: self.rollouts.counted.clone(),
            head,
            upstreams: self.state.root().upstreams.to_vec(),
            alarms: self.alarms.clone(),
            origin_bytes: self.counters.total(),
            now,
        }
    }

    fn rollout_stopped(&mut self, status: &RolloutStatus) {
        let title = title(&status.release, &self.catalog);
        self.rollouts.changed = true;
        let what = admin::failing::rollout_alarm(status, &title, &self.names.group_name(&status.group));
        self.deeds.push_back(Deed::new(Topic::Hold, what.clone()));
        self.see(Seen { kind: AlarmKind::Rollout, device: None, text: what });
    }

    fn alarm(&mut self, what: String) {
        self.alarm_of(AlarmKind::Other, what);
    }

    fn alarm_of(&mut self, kind: AlarmKind, what: String) {
        tracing::error!("{what}");
        self.see(Seen { kind, device: None, text: what });
    }

    fn see(&mut self, seen: Seen) {
        let text = seen.text.clone();
        let news = Arc::make_mut(&mut self.alarms).see(seen, self.clock.now().wall);
        if news {
            tracing::warn!("ALARM: {text}");
        }
        self.keep_alarms(news);
    }

    fn ended(&mut self, kind: AlarmKind, device: Option<DeviceId>, still: &[Seen]) {
        let changed = Arc::make_mut(&mut self.alarms).ended(kind, device, still);
        if changed {
            self.keep_alarms(true);
        }
    }

    /// A machine has left for good.
    fn left(&mut self, device: DeviceId) {
        tracing::info!(device = %device.short(), "a device has left");
        let mut names = (*self.names).clone();
        if let Err(error) = names.retire(device, self.clock.now().wall) {
            return self.alarm(error);
        }
        self.set_names(names);
    }

    /// A machine that was retired is there.
    fn is_back(&mut self, device: DeviceId) {
        let mut names = (*self.names).clone();
        if names.back(&device) {
            self.set_names(names);
            let text = "it was retired, and has reported again: it is in the lists".to_owned();
            self.see(Seen { kind: AlarmKind::Back, device: Some(device), text });
        }
    }

    /// What a machine says of itself, and what it says no more.
    fn alarms_of(&mut self, report: &Report) {
        let seen = admin::alarms::of_report(report);
        if !seen.is_empty() || self.alarms.concern(report.device) {
            seen.iter().cloned().for_each(|seen| self.see(seen));
            AlarmKind::OF_DEVICES.into_iter().for_each(|kind| self.ended(kind, Some(report.device), &seen));
        }
    }

    /// Has the alarms written: at once when there is news, else from time to time.
    fn keep_alarms(&mut self, news: bool) {
        if news || self.alarms_written.elapsed() >= WRITE_ALARMS {
            self.save_alarms();
        }
    }

    fn save_alarms(&mut self) {
        self.alarms_written = std::time::Instant::now();
        self.changes.push(Write::File(Change::Put(self.directory.alarms(), self.alarms.to_bytes())));
    }
}

fn title(release: &ReleaseId, catalog: &Catalog) -> String {
    catalog.release(release).map_or_else(|| release.short(), |known| format!("{} ({})", known.title, known.version))
}

/// Waits until a moment is held; for good when none is wanted. A panic ends it too: whoever waits for it hears that it is gone.
async fn held(holding: &mut Option<JoinHandle<()>>) {
    match holding {
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
