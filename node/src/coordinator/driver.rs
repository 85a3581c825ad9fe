//! Moves inputs into the coordinator's core and outputs out of it. One task owns core, fleet and names; disk writes run
//! beside it, one batch at a time, in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use upswarm_protocol::catalog::{Head, Hold};
use upswarm_protocol::codec::{self, Bounded, Text};
use upswarm_protocol::coordinator_state::{
    Command, CoordinatorState, Done, Input, Invite, Output, Refusal, RolloutStatus,
};
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::{DeviceId, GroupId, ReleaseId};
use zeroize::Zeroizing;

use super::directory::{Change, Directory};
use super::fleet::Fleet;
use super::inventories::View;
use super::keys;
use super::names::Names;
use super::payloads::Counters;
use super::requests::{
    Catalog, CatalogApproval, CatalogRelease, GroupRequest, HoldRequest, InviteRequest, Invited, MAX_REQUESTS, Request,
};
use super::rollouts;
use super::rules::{NewRule, Rules};
use crate::cli::token::JoinToken;
use crate::clock::Clock;
use crate::seal;

/// Wishes of the core that the network has not taken yet; beyond it no new input is taken.
const MAX_BACKLOG: usize = 4096;
const MAX_ALARMS: usize = 32;
const DISK_RETRY: Duration = Duration::from_secs(5);
const MAX_TTL: Duration = Duration::from_secs(366 * 86400);

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// The ends of the channels that a driver lives between.
#[derive(Debug)]
pub(crate) struct Ends {
    /// What the network says.
    pub(crate) inputs: mpsc::Receiver<Input>,
    /// What the network shall do.
    pub(crate) orders: mpsc::Sender<Output>,
    /// What the HTTP server asks.
    pub(crate) requests: mpsc::Receiver<Request>,
    /// The public head.
    pub(crate) head: watch::Sender<Vec<u8>>,
}

/// Who waits for the core's answer.
#[derive(Debug)]
enum Waiting {
    Command(Reply<Done>),
    Invite(Reply<Invited>, Invited),
    Value(Reply<Value>, Value),
}

/// The one owner of a running coordinator's state.
pub(crate) struct Driver {
    state: CoordinatorState,
    device: DeviceId,
    directory: Directory,
    fleet: Fleet,
    names: Names,
    rules: Rules,
    clock: Clock,
    report_key: Zeroizing<[u8; 32]>,
    counters: Arc<Counters>,
    /// Where this coordinator listens, for join tokens.
    addresses: Vec<String>,
    answers: BTreeMap<u64, Waiting>,
    next_request: u64,
    backlog: VecDeque<Output>,
    /// Changes that wait for the disk, and the token that is durable with them.
    changes: Vec<Change>,
    token: Option<u64>,
    /// Who waits for the changes, with the answer.
    saved: Vec<(Reply<Value>, Value)>,
    alarms: VecDeque<String>,
}

/// What a driver is made of.
pub(crate) struct Parts {
    pub(crate) state: CoordinatorState,
    pub(crate) device: DeviceId,
    pub(crate) directory: Directory,
    pub(crate) fleet: Fleet,
    pub(crate) names: Names,
    pub(crate) rules: Rules,
    pub(crate) clock: Clock,
    pub(crate) report_key: Zeroizing<[u8; 32]>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) addresses: Vec<String>,
}

/// Changes on their way to the disk; they come back to be tried again.
struct Written {
    changes: Vec<Change>,
    token: Option<u64>,
    saved: Vec<(Reply<Value>, Value)>,
    result: anyhow::Result<()>,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { state, device, directory, fleet, names, rules, clock, report_key, counters, addresses } = parts;
        Self {
            state,
            device,
            directory,
            fleet,
            names,
            rules,
            clock,
            report_key,
            counters,
            addresses,
            answers: BTreeMap::new(),
            next_request: 0,
            backlog: VecDeque::new(),
            changes: Vec::new(),
            token: None,
            saved: Vec::new(),
            alarms: VecDeque::new(),
        }
    }

    /// Runs until `stop`; everything that was accepted is durable when it returns.
    pub(crate) async fn run(mut self, mut ends: Ends, stop: CancellationToken) {
        let mut writing: Option<JoinHandle<Written>> = None;
        loop {
            self.drain(&ends.head);
            if writing.is_none() && !self.changes.is_empty() {
                writing = Some(self.write(Duration::ZERO));
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
                Some(input) = ends.inputs.recv(), if room => self.state.handle_input(input, self.clock.now()),
                Some(request) = ends.requests.recv(), if room && self.answers.len() + self.saved.len() < MAX_REQUESTS => self.request(request),
                written = finished(&mut writing) => {
                    writing = None;
                    if let Some(written) = written {
                        writing = self.written(written);
                    }
                }
                () = sleep_until(due) => self.state.handle_timeout(self.clock.now()),
            }
        }
        if let Some(Ok(Written { changes, result: Err(_), .. })) = match writing {
            Some(writing) => Some(writing.await),
            None => None,
        } {
            self.changes.splice(0..0, changes);
        }
        self.drain(&ends.head);
        if let Err(error) = self.directory.apply(&self.changes) {
            tracing::error!("the last changes could not be written: {error:#}");
        }
    }

    /// Starts writing everything that waits, after a pause.
    fn write(&mut self, pause: Duration) -> JoinHandle<Written> {
        let (changes, token) = (std::mem::take(&mut self.changes), self.token.take());
        let saved = std::mem::take(&mut self.saved);
        let directory = self.directory.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let work = tokio::task::spawn_blocking(move || {
                let result = directory.apply(&changes);
                Written { changes, token, saved, result }
            });
            match work.await {
                Ok(written) => written,
                Err(error) => {
                    Written { changes: Vec::new(), token: None, saved: Vec::new(), result: Err(error.into()) }
                }
            }
        })
    }

    /// Tells the core what is durable, or tries again later.
    fn written(&mut self, written: Written) -> Option<JoinHandle<Written>> {
        match (written.result, written.token) {
            (Ok(()), token) => {
                // Whoever asked may have hung up; it is done all the same.
                written.saved.into_iter().for_each(|(reply, value)| drop(reply.send(Ok(value))));
                if let Some(token) = token {
                    self.state.handle_input(Input::Persisted { token }, self.clock.now());
                }
                None
            }
            (Err(error), token) => {
                self.alarm(format!("cannot write to the data directory, trying again: {error:#}"));
                self.changes.splice(0..0, written.changes);
                self.saved.splice(0..0, written.saved);
                // What is tried again contains what waits: one token stands for both.
                self.token = self.token.or(token);
                Some(self.write(DISK_RETRY))
            }
        }
    }

    fn drain(&mut self, head: &watch::Sender<Vec<u8>>) {
        let mut opened = VecDeque::new();
        loop {
            while let Some(output) = self.state.poll_output() {
                match output {
                    Output::Persist { token, record } => {
                        self.changes.push(self.directory.change(record, &mut self.fleet));
                        self.token = Some(token);
                    }
                    Output::Answer { request, result } => self.answer(request, result),
                    Output::OpenReport { open, sealed } => {
                        let bytes = seal::open(&self.report_key, &sealed).ok();
                        opened.push_back(Input::ReportOpened { open, bytes });
                    }
                    Output::DropDocument(hash) => {
                        if let Err(error) = self.directory.drop_document(&hash) {
                            tracing::warn!(%hash, %error, "an old index could not be removed");
                        }
                    }
                    Output::Alarm(what) => self.alarm(what),
                    Output::RolloutStopped(status) => self.rollout_stopped(&status),
                    order => self.backlog.push_back(order),
                }
            }
            head.send_if_modified(|public| {
                let news = public.as_slice() != self.state.head();
                if news {
                    *public = self.state.head().to_vec();
                }
                news
            });
            let Some(input) = opened.pop_front() else { return };
            self.state.handle_input(input, self.clock.now());
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Command(command, reply) => self.command(command, Waiting::Command(reply)),
            Request::Held(input, reply) => {
                self.state.handle_input(input, self.clock.now());
                // Whoever asked may have hung up; the payload is here all the same.
                let _ = reply.send(());
            }
            Request::Invite(request, reply) => match self.prepare_invite(&request) {
                Ok((invite, invited)) => self.command(Command::Invite(invite), Waiting::Invite(reply, invited)),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Request::Hold(request, reply) => match self.hold(&request) {
                Ok(hold) => self.command(Command::Hold { hold, on: request.on }, Waiting::Command(reply)),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Request::Group(request, reply) => self.group(&request, reply),
            Request::Rules(reply) => drop(reply.send(self.rules.all().to_vec())),
            Request::AddRule(rule, reply) => {
                let added = self.add_rule(*rule);
                self.save_rules(added, reply);
            }
            Request::RemoveRule(id, reply) => {
                let removed = self.rules.remove(id).map(|rule| json!(rule)).map_err(Refusal::Request);
                self.save_rules(removed, reply);
            }
            Request::Status(reply) => drop(reply.send(self.status())),
            Request::Inventory(query, reply) => drop(reply.send(self.view().inventory(&query))),
            Request::Missing(query, reply) => drop(reply.send(self.view().missing(&query))),
            Request::Catalog(reply) => drop(reply.send(self.catalog())),
        }
    }

    fn view(&self) -> View<'_> {
        View { state: &self.state, fleet: &self.fleet, names: &self.names, now: self.clock.now().wall }
    }

    fn command(&mut self, command: Command, waiting: Waiting) {
        self.next_request += 1;
        self.answers.insert(self.next_request, waiting);
        self.state.handle_input(Input::Admin { request: self.next_request, command }, self.clock.now());
    }

    fn answer(&mut self, request: u64, result: Result<Done, Refusal>) {
        match self.answers.remove(&request) {
            Some(Waiting::Command(reply)) => drop(reply.send(result)),
            Some(Waiting::Value(reply, value)) => drop(reply.send(result.map(|_| value))),
            Some(Waiting::Invite(reply, invited)) => drop(reply.send(result.map(|_| invited))),
            None => {}
        }
    }

    fn prepare_invite(&mut self, request: &InviteRequest) -> Result<(Invite, Invited), Refusal> {
        let addresses = if request.addresses.is_empty() { &self.addresses } else { &request.addresses };
        let identity = (self.device, self.state.root_hash());
        let prepared = invite(&mut self.names, request, addresses, identity, self.clock)?;
        // Before the core's record of the invitation, which the answer waits for.
        self.changes.push(Change::Put(self.directory.names(), self.names.to_bytes()));
        Ok(prepared)
    }

    fn add_rule(&mut self, rule: NewRule) -> Result<Value, Refusal> {
        self.group_named(&rule.group)?;
        self.rules.add(rule).map(|rule| json!(rule)).map_err(Refusal::Request)
    }

    /// Writes the rules after a change, and then answers.
    fn save_rules(&mut self, change: Result<Value, Refusal>, reply: Reply<Value>) {
        match change {
            Ok(value) => {
                self.changes.push(Change::Put(self.directory.rules(), self.rules.to_bytes()));
                self.saved.push((reply, value));
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    /// Makes a group, or puts a device into one or takes it out.
    fn group(&mut self, request: &GroupRequest, reply: Reply<Value>) {
        if !request.conditions.is_empty() {
            return self.dynamic_group(request, reply);
        }
        let Some(device) = request.device else {
            let known = self.names.group(&request.group).is_some();
            let made = match self.names.group_or_new(&request.group) {
                Ok(group) => json!({ "group": request.group, "id": group, "new": !known }),
                Err(error) => return drop(reply.send(Err(Refusal::Request(error.to_string())))),
            };
            self.changes.push(Change::Put(self.directory.names(), self.names.to_bytes()));
            return self.saved.push((reply, made));
        };
        match self.membership(device, &request.group, request.member) {
            Ok((groups, change)) => {
                let names: Vec<String> = groups.iter().map(|group| self.names.group_name(group)).collect();
                let value = json!({ "device": device, "groups": names, "changed": change });
                self.command(Command::Assign { device, groups }, Waiting::Value(reply, value));
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    /// Makes a dynamic group, or tells who would be in it.
    fn dynamic_group(&mut self, request: &GroupRequest, reply: Reply<Value>) {
        let prepared = self.view().conditions(&request.conditions).and_then(|conditions| {
            let known = self.names.group(&request.group);
            let mut before: Vec<DeviceId> = Vec::new();
            if let Some(group) = known {
                let members = self.state.devices().filter(|record| record.groups.contains(&group));
                before.extend(members.map(|record| record.device));
                if !self.state.dynamic_groups().contains_key(&group) && !before.is_empty() {
                    return Err(Refusal::Request(format!(
                        "{} machines were put into the group {:?} by hand; take another name for the conditions",
                        before.len(),
                        request.group
                    )));
                }
            }
            let after = self.state.fulfilling(&conditions);
            let named = |devices: &mut dyn Iterator<Item = DeviceId>| -> Vec<Value> {
                let record = |device| self.state.devices().find(|record| record.device == device);
                devices
                    .filter_map(|device| Some(json!({ "device": device, "name": self.fleet.name(record(device)?) })))
                    .collect()
            };
            let value = json!({
                "group": request.group,
                "id": known,
                "new": known.is_none(),
                "where": conditions.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "members": named(&mut after.iter().copied()),
                "join": named(&mut after.iter().copied().filter(|device| !before.contains(device))),
                "leave": named(&mut before.iter().copied().filter(|device| !after.contains(device))),
                "dry_run": request.dry_run,
            });
            Ok((conditions, value))
        });
        let (conditions, mut value) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        if request.dry_run {
            return drop(reply.send(Ok(value)));
        }
        let group = match self.names.group_or_new(&request.group) {
            Ok(group) => group,
            Err(error) => return drop(reply.send(Err(Refusal::Request(error.to_string())))),
        };
        value["id"] = json!(group);
        // Before the core's record, which the answer waits for.
        self.changes.push(Change::Put(self.directory.names(), self.names.to_bytes()));
        self.command(Command::Condition { group, conditions }, Waiting::Value(reply, value));
    }

    /// The groups of a device after a change, and whether it is one.
    fn membership(&self, device: DeviceId, name: &str, member: bool) -> Result<(Bounded<GroupId, 64>, bool), Refusal> {
        let group = self.group_named(name)?;
        if let Some(conditions) = self.state.dynamic_groups().get(&group) {
            let texts: Vec<String> = conditions.iter().map(ToString::to_string).collect();
            return Err(Refusal::Request(format!(
                "the members of the group {name:?} follow from their inventories ({}); change its conditions with: upswarm \
                 group add {name} --where ..., or take another group",
                texts.join(" and ")
            )));
        }
        let record = self.state.devices().find(|record| record.device == device);
        let mut groups = record.ok_or(Refusal::UnknownDevice(device))?.groups.to_vec();
        let change = groups.contains(&group) != member;
        groups.retain(|known| *known != group);
        if member {
            groups.push(group);
            groups.sort();
        }
        let groups = Bounded::new(groups).map_err(|_| {
            Refusal::Request("a device belongs to at most 64 groups; take it out of one first".to_owned())
        })?;
        Ok((groups, change))
    }

    fn group_named(&self, name: &str) -> Result<GroupId, Refusal> {
        self.names.group(name).ok_or_else(|| Refusal::Request(format!("there is no group {name:?}")))
    }

    fn rollout_stopped(&mut self, status: &RolloutStatus) {
        let what = rollouts::alarm(status, &self.state, &self.names);
        self.alarm(what);
    }

    fn hold(&self, request: &HoldRequest) -> Result<Hold, Refusal> {
        let group = |name: &String| self.group_named(name);
        let release = |id: &String| {
            let id: ReleaseId = id.parse().map_err(|error| Refusal::Request(format!("the release: {error}")))?;
            if self.state.releases().contains_key(&id) { Ok(id) } else { Err(Refusal::UnknownRelease(id)) }
        };
        Ok(match (&request.group, &request.release) {
            (None, None) => Hold::Everything,
            (Some(name), None) => Hold::Group(group(name)?),
            (None, Some(id)) => Hold::Release(release(id)?),
            (Some(name), Some(id)) => Hold::Approval(group(name)?, release(id)?),
        })
    }

    fn status(&self) -> Value {
        let now = self.clock.now().wall;
        let head = Envelope::parse(self.state.head(), Kind::Head, Role::Online).ok();
        let head: Option<Head> = head.and_then(|e| codec::decode(e.unverified_body(), Kind::Head.cap()).ok());
        let holds: Vec<Value> = self.state.holds().iter().map(|hold| self.hold_view(hold)).collect();
        json!({
            "head": head.map(|head| json!({
                "root_version": head.root_version,
                "index_version": head.index_version,
                "age_s": now.since(head.issued).as_secs(),
                "expires": head.expires.to_string(),
            })),
            "devices": self.fleet.view(&self.state, &self.names, now),
            "connected": self.state.connected(),
            "rollouts": rollouts::view(&self.state, &self.names, now),
            "holds": holds,
            "alarms": self.alarms,
            "origin": { "payload_bytes": self.counters.total() },
        })
    }

    fn hold_view(&self, hold: &Hold) -> Value {
        match hold {
            Hold::Everything => json!({}),
            Hold::Group(group) => json!({ "group": self.names.group_name(group) }),
            Hold::Release(release) => json!({ "release": release }),
            Hold::Approval(group, release) => json!({ "group": self.names.group_name(group), "release": release }),
        }
    }

    fn catalog(&self) -> Catalog {
        let releases = self.state.releases().iter().map(|(id, known)| CatalogRelease {
            release: *id,
            product: known.release.product.as_str().to_owned(),
            version: known.release.version.as_str().to_owned(),
            counter: known.release.counter,
            title: known.release.title.as_str().to_owned(),
            classification: known.release.classification,
            severity: known.release.severity,
            expires: known.release.expires.to_string(),
        });
        let approvals = self.state.approvals().values().map(|known| CatalogApproval {
            release: known.approval.release,
            group: known.approval.group,
            version: known.approval.version,
            action: known.approval.action,
            expires: known.approval.expires.to_string(),
            schedule: known.approval.schedule.clone(),
            rings: known.approval.rings.clone(),
            note: known.approval.note.as_str().to_owned(),
        });
        Catalog {
            index_version: self.state.index_version(),
            groups: self.names.groups().clone(),
            conditions: self
                .state
                .dynamic_groups()
                .iter()
                .map(|(group, conditions)| {
                    (self.names.group_name(group), conditions.iter().map(ToString::to_string).collect())
                })
                .collect(),
            releases: releases.collect(),
            approvals: approvals.collect(),
        }
    }

    fn alarm(&mut self, what: String) {
        tracing::error!("{what}");
        if self.alarms.back() != Some(&what) {
            self.alarms.push_back(what);
        }
        if self.alarms.len() > MAX_ALARMS {
            self.alarms.pop_front();
        }
    }
}

/// Makes an invitation and its token. Names are made up as needed; the caller saves them.
pub(crate) fn invite(
    names: &mut Names,
    request: &InviteRequest,
    addresses: &[String],
    (coordinator, root): (DeviceId, upswarm_protocol::ids::DocHash),
    clock: Clock,
) -> Result<(Invite, Invited), Refusal> {
    let refuse = |error: String| Refusal::Request(error);
    if request.ttl_s == 0 || request.ttl_s > MAX_TTL.as_secs() {
        return Err(refuse("a token is good for at least a second and at most a year".to_owned()));
    }
    let texts: Result<Vec<Text<512>>, _> = addresses.iter().map(|address| Text::new(address.as_str())).collect();
    let addresses = Bounded::truncated(texts.map_err(|error| refuse(format!("an address is {error}")))?);
    if addresses.is_empty() {
        return Err(refuse("the coordinator's address is not known; give it with --address MULTIADDR".to_owned()));
    }
    let group = names.group_or_new(&request.group).map_err(|error| refuse(error.to_string()))?;
    let site = names.site_or_new(&request.site).map_err(|error| refuse(error.to_string()))?;
    let secret: [u8; 32] = keys::random().map_err(|error| refuse(error.to_string()))?;
    let expires = clock.now().wall + Duration::from_secs(request.ttl_s);
    let token = JoinToken { addresses, coordinator, root, secret, expires };
    let token = token.encode().map_err(|error| refuse(format!("the token: {error}")))?;
    let invite = Invite {
        secret_hash: *blake3::hash(&secret).as_bytes(),
        group,
        site,
        expires,
        uses: request.uses,
        spent: Bounded::default(),
    };
    Ok((invite, Invited { token, expires: expires.to_string() }))
}

async fn finished(writing: &mut Option<JoinHandle<Written>>) -> Option<Written> {
    match writing {
        Some(writing) => writing.await.ok(),
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
