//! The coordinator: the real state machine on a simple disk, and the admin's way to it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use upswarm_protocol::catalog::{Action, DeviceList, Hold, Members, NodeRole, RingPlan, Schedule};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::coordinator::{
    Command, CoordinatorState, DeviceRecord, HeldList, Input, Output, Record, Refusal, RolloutStatus, ServeWhat, Setup,
    Stored,
};
use upswarm_protocol::ids::{DeviceId, DocHash, ReleaseId, SiteId};
use upswarm_protocol::node::Verdict;
use upswarm_protocol::report::{BytesBySource, DeploymentReport};
use upswarm_protocol::time::{Mono, Now};
use upswarm_protocol::trust::Trust;
use upswarm_protocol::wire::BlockWhat;

use super::{GROUP, Happening, World};
use crate::admin::{self, Admin, Published, ReleaseSpec, START};

/// The coordinator, and the disk of the machine it runs on, which is the origin too.
#[derive(Debug)]
pub struct Hub {
    /// Its key.
    pub device: DeviceId,
    /// The core.
    pub state: CoordinatorState,
    /// Whether it can be reached.
    pub up: bool,
    /// Documents and chunk lists that the origin serves.
    pub documents: BTreeMap<DocHash, Vec<u8>>,
    /// The last word of each device about each release.
    pub fleet: BTreeMap<(DeviceId, ReleaseId), DeploymentReport>,
    /// The last record of each device's inventory.
    pub inventories: BTreeMap<DeviceId, Vec<u8>>,
    /// The same for its scan.
    pub scans: BTreeMap<DeviceId, Vec<u8>>,
    /// Rollouts that it has stopped, and when, in microseconds.
    pub stopped: Vec<(u64, RolloutStatus)>,
    /// The last word of each device about its bytes.
    pub bytes: BTreeMap<DeviceId, BytesBySource>,
    pub(super) connections: BTreeMap<usize, u32>,
    pub(super) serves: BTreeMap<u64, super::Serve>,
    pub(super) next_serve: u64,
    wake: u64,
    answers: BTreeMap<u64, Result<u64, Refusal>>,
    requests: u64,
    versions: u64,
}

pub(super) fn pinned(admin: &Admin) -> Trust {
    let hash = DocHash::of(&admin.root_bytes);
    Trust::pin(admin.root_bytes.clone(), hash, START - Duration::from_secs(86_400)).expect("the admin's own root")
}

pub(super) fn record(
    device: DeviceId,
    role: NodeRole,
    site: SiteId,
    certificate: &[u8],
    assignment: &[u8],
) -> DeviceRecord {
    DeviceRecord {
        device,
        role,
        label: Text::default(),
        site,
        groups: Bounded::truncated(vec![GROUP]),
        enrolled: START - Duration::from_secs(86_400),
        invited: true,
        certificate: Bounded::truncated(certificate.to_vec()),
        certified: START - Duration::from_secs(86_400),
        assignment: Bounded::truncated(assignment.to_vec()),
        assigned: START - Duration::from_secs(86_400),
    }
}

impl Hub {
    pub(super) fn new(admin: &Admin, devices: Vec<DeviceRecord>) -> Self {
        let device = admin::device(&admin::key("coordinator", 0));
        let setup = Setup {
            device,
            root: admin.root.clone(),
            root_hash: DocHash::of(&admin.root_bytes),
            online: admin.online.clone(),
            origins: vec![Text::lossy("http://origin")],
            stored: Stored { devices, ..Stored::default() },
        };
        let state = CoordinatorState::new(setup, Now { mono: Mono(0), wall: START }).expect("a fresh coordinator");
        Self {
            device,
            state,
            up: true,
            documents: BTreeMap::new(),
            fleet: BTreeMap::new(),
            inventories: BTreeMap::new(),
            scans: BTreeMap::new(),
            stopped: Vec::new(),
            bytes: BTreeMap::new(),
            connections: BTreeMap::new(),
            serves: BTreeMap::new(),
            next_serve: 0,
            wake: u64::MAX,
            answers: BTreeMap::new(),
            requests: 0,
            versions: 0,
        }
    }
}

impl World {
    /// Makes and publishes a release.
    pub fn publish(&mut self, spec: &ReleaseSpec) -> Published {
        let published = self.admin.release(spec, self.clock().wall);
        let list = published.list.to_bytes();
        let hash = DocHash::of(&list);
        let held = HeldList { len: list.len() as u32, payload_len: published.len() };
        self.hub.documents.insert(hash, list);
        self.lists.insert(published.payload(), published.list.clone());
        self.hub_input(Input::ChunkListHeld { hash, list: held });
        self.hub_input(Input::PayloadHeld { payload: published.payload(), len: published.len() });
        self.command(Command::Publish(published.bytes.clone())).expect("a good release");
        self.releases.insert(published.id, published.clone());
        published
    }

    /// Approves a release for everybody, at once.
    pub fn approve(&mut self, release: ReleaseId, action: Action) {
        self.approve_for(release, action, Schedule::default(), RingPlan::default());
    }

    /// Approves a release for everybody, with a schedule and in stages.
    pub fn approve_for(&mut self, release: ReleaseId, action: Action, schedule: Schedule, rings: RingPlan) {
        self.hub.versions += 1;
        if action == Action::Uninstall {
            self.list_everybody();
        }
        let when = (schedule, rings);
        let approval = admin::approval(GROUP, release, self.hub.versions, action, self.clock().wall, when);
        self.approved.insert((release, action));
        self.command(Command::Approve(self.admin.signed(&approval))).expect("a good approval");
    }

    /// The approver signs that the group is the machines that are in it now: nothing is removed from any other.
    fn list_everybody(&mut self) {
        let devices = self.hub.state.devices().map(|record| record.device);
        let list = DeviceList::new([7; 32], devices).expect("fewer machines than a list may have");
        let document = self.admin.group(GROUP, self.hub.versions, Members::List(list.tree().root()), self.clock().wall);
        self.command(Command::Group { document, list: Some(list) }).expect("a good group");
    }

    /// Stops something, or lets it go on.
    pub fn hold(&mut self, hold: Hold, on: bool) {
        self.command(Command::Hold { hold, on }).expect("a hold");
    }

    /// Gives the coordinator a command and runs the world until it is answered. Returns the index version.
    pub fn command(&mut self, command: Command) -> Result<u64, Refusal> {
        self.hub.requests += 1;
        let request = self.hub.requests;
        self.hub_input(Input::Admin { request, command });
        self.run_until(Duration::from_secs(1), |world| world.hub.answers.contains_key(&request));
        self.hub.answers.remove(&request).expect("an answer within a second")
    }

    /// The coordinator is gone from the network, and comes back.
    pub fn set_hub(&mut self, up: bool) {
        self.hub.up = up;
        if !up {
            let hub = self.hub_number();
            let peers: Vec<_> = self.hub.connections.keys().copied().collect();
            peers.into_iter().for_each(|peer| self.hang_up(hub, peer));
        }
    }

    pub(super) fn hub_input(&mut self, input: Input) {
        let now = self.clock();
        self.hub.state.handle_input(input, now);
        self.hub_drain();
    }

    pub(super) fn hub_woken(&mut self) {
        if self.hub.wake != self.now {
            return;
        }
        self.hub.wake = u64::MAX;
        if self.hub.state.poll_timeout().is_some_and(|(at, _)| at.0 <= self.now) {
            let now = self.clock();
            self.hub.state.handle_timeout(now);
        }
        self.hub_drain();
    }

    /// Does what came out. As in the real driver, reports are opened on the spot and handed in one after the other.
    pub(super) fn hub_drain(&mut self) {
        let mut opened = VecDeque::new();
        self.hub_outputs(&mut opened);
        while let Some(input) = opened.pop_front() {
            let now = self.clock();
            self.hub.state.handle_input(input, now);
            self.hub_outputs(&mut opened);
        }
        if let Some((at, _)) = self.hub.state.poll_timeout()
            && at.0.max(self.now) < self.hub.wake
        {
            self.hub.wake = at.0.max(self.now);
            self.push(self.hub.wake - self.now, Happening::HubWake);
        }
    }

    fn hub_outputs(&mut self, opened: &mut VecDeque<Input>) {
        let hub = self.hub_number();
        while let Some(output) = self.hub.state.poll_output() {
            match output {
                Output::Disconnect { peer, .. } => {
                    if let Some(node) = self.by_device.get(&peer).copied() {
                        self.hang_up(hub, node);
                    }
                }
                Output::Send { peer, frame } => {
                    if let Some(node) = self.by_device.get(&peer).copied() {
                        self.send(hub, node, frame);
                    }
                }
                Output::Subscribe(_) => {}
                Output::Publish { topic, bytes } => self.publish_gossip(hub, topic, bytes),
                Output::GossipVerdict { id, verdict, .. } => {
                    if verdict == Verdict::Accept {
                        self.spread(hub, id);
                    }
                }
                Output::Serve { serve, what } => {
                    let bytes = match what {
                        ServeWhat::Root(_) => Some(self.admin.root_bytes.clone()),
                        ServeWhat::Doc(hash) => self.hub.documents.get(&hash).cloned(),
                    };
                    self.hub_serves(serve, bytes);
                }
                Output::Deny { serve, status } => self.hub_denies(serve, status),
                Output::OpenReport { open, encrypted } => {
                    self.counts.relays += 1;
                    self.count_told(&encrypted);
                    opened.push_back(Input::ReportOpened { open, bytes: Some(encrypted) });
                }
                Output::Answer { request, result } => {
                    self.hub.answers.insert(request, result.map(|done| done.index_version));
                }
                Output::Persist { token, record } => {
                    match record {
                        Record::Document(document) => drop(self.hub.documents.insert(document.hash, document.bytes)),
                        Record::Report(report, _) => {
                            self.hub.bytes.insert(report.device, report.bytes);
                            for deployment in &report.deployments {
                                self.hub.fleet.insert((report.device, deployment.release), deployment.clone());
                            }
                        }
                        Record::Inventory(device, bytes) => drop(self.hub.inventories.insert(device, bytes)),
                        Record::Scan(device, bytes) => drop(self.hub.scans.insert(device, bytes)),
                        Record::Catalog(_)
                        | Record::InventoryBase(..)
                        | Record::Device(..)
                        | Record::Log(..)
                        | Record::Invite(..)
                        | Record::Rollouts(_)
                        | Record::Groups(_)
                        | Record::WanLimits(_)
                        | Record::Root(..) => {}
                    }
                    self.push(2_000, Happening::HubInput(Box::new(Input::Persisted { token })));
                }
                Output::DropDocument(hash) => drop(self.hub.documents.remove(&hash)),
                Output::Alarm(text) | Output::Raise { text, .. } => self.alarm(hub, text),
                Output::Over { .. } | Output::Left(_) => {}
                Output::RolloutStopped(status) => self.hub.stopped.push((self.now, status)),
            }
        }
    }

    /// A document of the origin by its path below the base URL.
    pub(super) fn origin_document(&self, url: &str) -> Option<Vec<u8>> {
        let path = url.strip_prefix("http://origin/")?;
        match path.split_once('/')? {
            ("doc", hash) => self.hub.documents.get(&hash.parse().ok()?).cloned(),
            ("root", "1") => Some(self.admin.root_bytes.clone()),
            _ => None,
        }
    }

    pub(super) fn alarm(&mut self, node: usize, text: String) {
        if self.counts.alarms.len() < 100 {
            self.counts.alarms.push(format!("{:.3} s, {node}: {text}", self.now as f64 / 1e6));
        }
    }

    pub(super) fn hub_request(&mut self, serve: u64, from: usize, what: BlockWhat) {
        let peer = self.machines[from].device;
        self.hub_input(Input::BlockRequested { peer, serve, what });
    }
}
