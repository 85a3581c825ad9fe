//! Moves inputs into the coordinator's core and outputs out of it. One task owns core, names and rules, and decides; the fleet
//! store writes beside it, one batch at a time, in order, and readers look at the store. Nobody who only looks can hold it up.

mod looks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
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

use super::admin::groups::Made;
use super::admin::{self, Decision, Desk};
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
use crate::api::actor::Actor;
use crate::api::approvals::Accepted;
use crate::api::catalog::Catalog;
use crate::api::groups::NewGroup;
use crate::api::invites::{InviteRequest, Invited};
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
    /// The same of the batch that is being written.
    writing: Option<(Option<u64>, Vec<Saved>)>,
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
            clock,
            report_key,
            counters,
            addresses,
            roots,
        } = parts;
        let catalog = Arc::new(projection::catalog(&state, &names, &Catalog::default()));
        let parts = Arc::new(CatalogParts::of(&state, &CatalogParts::default()));
        let (in_force, revoked) = (projection::in_force(&state), state.revoked().clone());
        Self {
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
            writing: None,
            alarms: Arc::new(alarms),
            alone: BTreeSet::new(),
            alarms_written: std::time::Instant::now(),
            catalog,
            parts,
            rollouts: Rollouts { changed: true, ..Rollouts::default() },
            in_force,
            revoked,
        }
    }

    /// Runs until `stop`; everything that was accepted is durable when it returns.
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
                _ = expiries.tick() => self.look_for_expiry(),
                _ = alone.tick() => {
                    self.look_for_the_alone();
                    self.look_for_rollouts();
                }
                () = sleep_until(due) => self.state.handle_timeout(self.clock.now()),
            }
        }
        self.drain(&ends.head);
        // The store's thread must not wait for this end any more.
        drop(ends.written);
        if let Err(error) = self.writer.finish(self.changes).await {
            tracing::error!("the last changes could not be written: {error:#}");
        }
    }

    /// Hands what waits to the store, unless it is still at work.
    fn write(&mut self) -> anyhow::Result<()> {
        if self.writing.is_some() || self.changes.is_empty() {
            return Ok(());
        }
        self.writer.write(std::mem::take(&mut self.changes))?;
        self.writing = Some((self.token.take(), std::mem::take(&mut self.saved)));
        Ok(())
    }

    /// Tells the core and everybody else what is durable.
    fn written(&mut self, written: Written) {
        match written {
            Written::Failed(reason) => self.alarm(reason),
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
            let Some(input) = opened.pop_front() else { break };
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
                self.decide(Ok(admin::publish::submit(&actor, document)), reply);
            }
            Request::Approve(actor, document, reply) => {
                self.decide(Ok(admin::approve::submit(&actor, document)), reply);
            }
            Request::Root(actor, document, held, reply) => {
                self.decide(Ok(admin::root::submit(&actor, document, held)), reply);
            }
            Request::Invite(actor, request, reply) => self.invite(&actor, &request, reply),
            Request::Hold(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::hold::hold(&actor, desk, &request));
                self.decide(decision, reply);
            }
            Request::Revoke(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::devices::revoke(&actor, desk, &request));
                if let Ok(Decision { command: Command::Revoke(device), .. }) = &decision {
                    let device = *device;
                    self.changes.push(Write::Forget(device));
                    Arc::make_mut(&mut self.alarms).forget(device);
                    self.save_alarms();
                }
                self.decide(decision, reply);
            }
            Request::Readmit(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::devices::readmit(&actor, desk, &request));
                self.decide(decision, reply);
            }
            Request::Invites(reply) => {
                drop(reply.send(admin::invite::list(&self.state, &self.names, self.clock.now().wall)));
            }
            Request::Disinvite(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::invite::revoke(&actor, desk, &request));
                self.decide(decision, reply);
            }
            Request::Retry(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::retry::retry(&actor, desk, &request));
                self.decide(decision, reply);
            }
            Request::AskLog(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::logs::ask(&actor, desk, &request));
                self.decide(decision, reply);
            }
            Request::Logs(query, reply) => {
                let now = self.clock.now().wall;
                drop(reply.send(self.at_desk(|desk| admin::logs::list(desk, &query, now))));
            }
            Request::Limit(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::limits::limit(&actor, desk, &request));
                self.decide(decision, reply);
            }
            Request::Retire(actor, request, reply) => {
                match self.at_desk(|desk| admin::devices::retire(&actor, desk, &request)) {
                    Err(refusal) => drop(reply.send(Err(refusal))),
                    Ok(done) => self.saved.push(Box::new(move || drop(reply.send(Ok(done))))),
                }
            }
            Request::Withdraw(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::releases::withdraw(&actor, desk, &request));
                self.decide(decision, reply);
            }
            Request::Acknowledge(actor, request, reply) => {
                match admin::alarms::acknowledge(&actor, Arc::make_mut(&mut self.alarms), &request) {
                    Err(refusal) => drop(reply.send(Err(refusal))),
                    Ok(done) => {
                        self.save_alarms();
                        self.saved.push(Box::new(move || drop(reply.send(Ok(done)))));
                    }
                }
            }
            Request::AddGroup(actor, request, reply) => self.add_group(&actor, &request, reply),
            Request::DescribeGroup(actor, signed, reply) => {
                let decision = self.at_desk(|desk| admin::groups::describe(&actor, desk, signed));
                self.decide(decision, reply);
            }
            Request::Member(actor, request, reply) => {
                let decision = self.at_desk(|desk| admin::groups::member(&actor, desk, &request));
                self.decide(decision, reply);
            }
            Request::Rules(actor, document, reply) => {
                let before = self.rules.clone();
                let rules = self.at_desk(|desk| admin::rules::submit(&actor, desk, &before, document.0));
                let accepted = self.accepted();
                self.save_rules(rules.map(|rules| (rules, accepted)), reply);
            }
            Request::AddRule(actor, document, reply) => {
                let mut rules = (*self.rules).clone();
                let added = self.at_desk(|desk| admin::rules::add(&actor, desk, &mut rules, document));
                let accepted = self.accepted();
                self.save_rules(added.map(|()| (rules, accepted)), reply);
            }
            Request::RemoveRule(actor, id, reply) => {
                let mut rules = (*self.rules).clone();
                let removed = admin::rules::remove(&actor, &mut rules, id);
                self.save_rules(removed.map(|removed| (rules, removed)), reply);
            }
            Request::RuleTroubles(texts, reply) => {
                let seen = |text: String| Seen { kind: AlarmKind::Rule, device: None, text };
                let still: Vec<Seen> = texts.into_iter().map(seen).collect();
                still.iter().cloned().for_each(|trouble| self.see(trouble));
                self.ended(AlarmKind::Rule, None, &still);
                let _ = reply.send(());
            }
        }
    }

    /// Runs a use-case that decides. Names that it adds are kept.
    fn at_desk<T>(&mut self, use_case: impl FnOnce(&mut Desk<'_>) -> T) -> T {
        let (live, fleet) = (self.live(), self.store.snapshot());
        let mut names = (*self.names).clone();
        let view = View::new(&live, &fleet);
        let result = use_case(&mut Desk { state: &self.state, view: &view, names: &mut names });
        if *self.names != names {
            self.set_names(names);
        }
        result
    }

    /// Gives the core a decision's command; the answer follows when the core has agreed.
    fn decide<T: Send + 'static>(&mut self, decision: Result<Decision<T>, Refusal>, reply: Reply<T>) {
        match decision {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(Decision { command, answer }) => {
                self.command(command, move |result| drop(reply.send(result.map(answer))));
            }
        }
    }

    fn command(&mut self, command: Command, then: impl FnOnce(Result<Done, Refusal>) + Send + 'static) {
        self.next_request += 1;
        self.rollouts.changed = true;
        self.answers.insert(self.next_request, Box::new(then));
        self.state.handle_input(Input::Admin { request: self.next_request, command }, self.clock.now());
    }

    fn invite(&mut self, actor: &Actor, request: &InviteRequest, reply: Reply<Invited>) {
        let known = self.addresses.borrow().clone();
        let addresses = if request.addresses.is_empty() { &known } else { &request.addresses };
        let identity = (self.device, self.state.root_hash());
        let mut names = (*self.names).clone();
        // A machine that cannot be told of an origin still has the addresses.
        let origins = self.directory.origins().unwrap_or_default();
        match admin::invite::invite(&mut names, request, addresses, origins, identity, self.clock.now().wall) {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok((invite, invited)) => {
                tracing::info!(%actor, group = request.group, site = request.site, uses = request.uses, "machines are invited");
                // Before the core's record of the invitation, which the answer waits for.
                self.set_names(names);
                self.command(Command::Invite(invite), move |result| drop(reply.send(result.map(|_| invited))));
            }
        }
    }

    fn add_group(&mut self, actor: &Actor, request: &NewGroup, reply: Reply<crate::api::groups::GroupMade>) {
        match self.at_desk(|desk| admin::groups::add(actor, desk, request)) {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(Made::Shown(made)) => drop(reply.send(Ok(made))),
            Ok(Made::Named(made)) => {
                // An old name is written again, so that the answer has something to wait for.
                self.changes.push(Write::File(Change::Put(self.directory.names(), self.names.to_bytes())));
                self.saved.push(Box::new(move || drop(reply.send(Ok(made)))));
            }
        }
    }

    fn set_names(&mut self, names: Names) {
        let before = std::mem::replace(&mut self.names, Arc::new(names));
        let (old, new) = (before.retired(), self.names.retired());
        let gone = new.keys().filter(|device| !old.contains_key(device)).map(|device| Write::Counted(*device, false));
        let back = old.keys().filter(|device| !new.contains_key(device));
        let back = back.map(|device| Write::Counted(*device, !self.state.revoked().contains(device)));
        self.changes.extend(gone.chain(back));
        self.changes.push(Write::File(Change::Put(self.directory.names(), self.names.to_bytes())));
        self.project_catalog();
    }

    fn accepted(&self) -> Accepted {
        Accepted { index_version: self.state.index_version() }
    }

    /// Writes what has changed of the rules, and then answers.
    fn save_rules<T: Send + 'static>(&mut self, change: Result<(Rules, T), Refusal>, reply: Reply<T>) {
        let (rules, answer) = match change {
            Err(refusal) => return drop(reply.send(Err(refusal))),
            Ok(change) => change,
        };
        let before = std::mem::replace(&mut self.rules, Arc::new(rules));
        if before.document() != self.rules.document() {
            self.changes.push(Write::File(Change::Put(self.directory.rules(), self.rules.document().to_vec())));
        }
        if before.repositories() != self.rules.repositories() {
            let bytes = self.rules.repositories().to_bytes();
            self.changes.push(Write::File(Change::Put(self.directory.repository_rules(), bytes)));
        }
        self.saved.push(Box::new(move || drop(reply.send(Ok(answer)))));
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
        let what = admin::status::rollout_alarm(status, &title, &self.names.group_name(&status.group));
        self.see(Seen { kind: AlarmKind::Rollout, device: None, text: what });
    }

    fn alarm(&mut self, what: String) {
        tracing::error!("{what}");
        self.see(Seen { kind: AlarmKind::Other, device: None, text: what });
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

async fn sleep_until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
