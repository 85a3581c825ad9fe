//! One site or many, each with its machines and its WAN link; one coordinator, one origin; the loop of events.
//!
//! Checked at every event, by panic with the seed in the message:
//! * An install leaves only with a complete payload, an approval that an approver gave, and trust that permits it.
//! * A chunk is served only if the disk holds it.
//! * A node that asks for time-outs without end while no time passes is broken.
//! * One change leaves a bounded number of outputs.

mod agenda;
mod connections;
mod gossip;
mod hostile;
mod hub;
mod inventories;
mod nodes;
mod transfers;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde::Serialize;
use upswarm_protocol::catalog::{Action, NodeRole};
use upswarm_protocol::chunk::ChunkList;
use upswarm_protocol::codec::Text;
use upswarm_protocol::coordinator;
use upswarm_protocol::ids::{DeviceId, GroupId, PayloadId, ReleaseId, SiteId};
use upswarm_protocol::node::{FetchId, Input, NodeState, Record, ServeWhat};
use upswarm_protocol::report::{DeploymentState, SubState};
use upswarm_protocol::signature_cache;
use upswarm_protocol::time::{Mono, Now};
use upswarm_protocol::wire::{BlockStatus, BlockWhat};

use crate::admin::{self, Admin, Published, START};
use crate::machine::Disk;
use crate::wan::Wan;

use agenda::Agenda;
use gossip::Gossip;

pub use hostile::{Hostile, KINDS};
pub use hub::Hub;

/// Bytes per microsecond of a machine's LAN link: 1 Gbit/s, each way.
const LAN_RATE: u64 = 125;
/// Microseconds from a site to the coordinator or the origin, one way.
const WAN_LATENCY: u64 = 10_000;
/// Timeouts of one node at one instant that are taken for an endless loop.
const STORM: u32 = 10_000;
/// Outputs after one input that are taken for a flood.
const FLOOD: usize = 20_000;

/// Good signatures that are remembered at least: those of everybody's record and certificate in a large world.
const REMEMBERED_SIGNATURES: usize = 1 << 17;

/// How machines find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// Everyone hears of everyone's address soon after it starts.
    Mdns,
    /// Only by the coordinator's hints.
    Coordinator,
    /// The admin named the first machines of the list, of whatever site; nobody else helps.
    Named(usize),
}

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Params {
    /// Sites, each with a WAN link of its own.
    pub sites: usize,
    /// Machines of each site, without its branch cache.
    pub nodes: usize,
    /// Whether each site has a branch cache.
    pub cache: bool,
    /// Of ten machines this many are metered.
    pub metered_in_ten: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Bits per second of each site's WAN link.
    pub wan: u64,
    /// How machines find each other.
    pub discovery: Discovery,
    /// Clocks of machines are wrong by up to this much.
    pub skew: Duration,
    /// How long a recipe runs.
    pub recipe: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            sites: 1,
            nodes: 16,
            cache: false,
            metered_in_ten: 0,
            seed: 1,
            wan: 100_000_000,
            discovery: Discovery::Mdns,
            skew: Duration::from_secs(90),
            recipe: Duration::from_millis(200),
        }
    }
}

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Events handled.
    pub events: u64,
    /// Payload bytes over the WAN, arrived or not.
    pub wan: u64,
    /// Document bytes over the WAN.
    pub wan_documents: u64,
    /// Payload bytes between machines.
    pub lan: u64,
    /// Payload bytes between machines of different sites.
    pub between_sites: u64,
    /// Chunks that arrived where they already were.
    pub duplicates: u64,
    /// Control frames sent by machines.
    pub frames: u64,
    /// Their bytes.
    pub frame_bytes: u64,
    /// Gossip messages sent by machines, copies included.
    pub gossip: u64,
    /// Their bytes.
    pub gossip_bytes: u64,
    /// Gossip messages made.
    pub gossip_made: u64,
    /// Dials.
    pub dials: u64,
    /// Dials that led nowhere.
    pub dials_failed: u64,
    /// Reports that reached the coordinator, again or not.
    pub relays: u64,
    /// Reports made.
    pub reports: u64,
    /// Bytes of reports that reached the coordinator, again or not: how devices are, inventories, scans.
    pub told_bytes: [u64; 3],
    /// Calls of `handle_timeout`.
    pub timeouts: u64,
    /// Calls of `handle_input`.
    pub inputs: u64,
    /// Installs begun.
    pub installs: u64,
    /// Bytes of control frames and gossip that machines sent, by machine.
    pub sent: Vec<u64>,
    /// Most outputs after one change.
    pub most_outputs: usize,
    /// Alarms of machines, at most a hundred.
    pub alarms: Vec<String>,
    /// Frames by kind: its number on the wire, its name, how many, their bytes.
    pub kinds: BTreeMap<u32, (&'static str, u64, u64)>,
}

/// A fetch of a machine.
#[derive(Debug, Clone)]
struct Fetch {
    peer: Option<usize>,
    /// Whether it is a document.
    document: bool,
}

#[derive(Debug, Clone, Copy)]
struct Serve {
    asker: usize,
    fetch: FetchId,
    epoch: u32,
}

/// A simulated machine.
#[derive(Debug)]
pub struct Machine {
    /// Its key.
    pub device: DeviceId,
    /// Its site.
    pub site: SiteId,
    /// Its site's position among the sites.
    pub place: usize,
    /// Its program, while it runs.
    pub state: Option<Box<NodeState>>,
    /// Its disk.
    pub disk: Disk,
    /// How willing it is to fetch over the WAN.
    pub weight: u8,
    /// Whether every chunk that it sends is bad.
    pub poisons: bool,
    /// What it does, if it means harm.
    pub hostile: Option<Hostile>,
    /// When its program was started, each time, in microseconds.
    pub started: BTreeSet<u64>,
    /// When the recipe of each release was first begun, in microseconds.
    pub begun: BTreeMap<ReleaseId, u64>,
    /// When each release was installed or removed, in microseconds.
    pub done: BTreeMap<ReleaseId, u64>,
    /// Where its program stands with each release, as of its last change.
    pub stands: BTreeMap<ReleaseId, Standing>,
    /// Payload bytes it fetched over the WAN, those of broken-off chunks included.
    pub wan: u64,
    key: SigningKey,
    skew: Duration,
    life: u32,
    /// Connected machines (the coordinator has the number after the last), with the connection's number.
    connections: BTreeMap<usize, u32>,
    wake: u64,
    instant: (u64, u32),
    fetches: BTreeMap<FetchId, Fetch>,
    serves: BTreeMap<u64, Serve>,
    next_serve: u64,
    up_free: u64,
    down_free: u64,
    flushing: bool,
}

/// What the recipe of a release does to a machine on which it does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Harm {
    /// It ends with an error.
    Fails,
    /// The machine goes down in the midst of it and stays down.
    Silences,
}

/// Where a machine stands with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub state: DeploymentState,
    /// Finer.
    pub sub_state: SubState,
    /// When it came into this state and sub-state, in microseconds.
    pub since: u64,
}

impl Machine {
    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.state.is_some()
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }
}

#[derive(Debug)]
enum Happening {
    Start(usize),
    Wake { node: usize, life: u32 },
    Local { node: usize, life: u32, input: Box<Input> },
    Hint { node: usize, life: u32, of: usize },
    Written { node: usize, life: u32, token: u64, record: Record },
    Installed { node: usize, life: u32, release: ReleaseId, action: Action },
    Flush { node: usize, life: u32 },
    Connect { from: usize, life: u32, address: Text<512> },
    Closed { node: usize, peer: usize, epoch: u32 },
    Frame { from: usize, to: usize, epoch: u32, bytes: Vec<u8> },
    Gossip { from: usize, to: usize, epoch: u32, message: u64 },
    Request { from: usize, to: usize, epoch: u32, fetch: FetchId, what: BlockWhat },
    Answer { node: usize, life: u32, fetch: FetchId, status: BlockStatus },
    Document { node: usize, life: u32, fetch: FetchId, bytes: Vec<u8> },
    Chunk { node: usize, life: u32, fetch: FetchId, payload: PayloadId, chunk: u32, last: bool, bad: bool },
    Served { node: usize, life: u32, serve: u64, bytes: u64 },
    Hostile { node: usize, life: u32 },
    HostileServe { node: usize, life: u32, serve: u64, what: Box<ServeWhat> },
    WanBegin { node: usize, life: u32, fetch: FetchId, payload: PayloadId, first: u32, count: u32 },
    WanDue { place: usize, number: u64 },
    HubWake,
    HubInput(Box<coordinator::Input>),
}

/// The WAN link of a site.
struct SiteWan {
    link: Wan,
    /// Of the event that its next arrival is: one with another number is out of date.
    number: u64,
}

/// Everything.
pub struct World {
    /// What it is made of.
    pub params: Params,
    /// The admin.
    pub admin: Admin,
    /// The machines, site by site; a site's branch cache is its last.
    pub machines: Vec<Machine>,
    /// The coordinator.
    pub hub: Hub,
    /// What was counted.
    pub counts: Counts,
    /// Whether the origin answers.
    pub origin_up: bool,
    /// Whether the origin serves bad bytes.
    pub origin_tampers: bool,
    /// Releases by name.
    pub releases: BTreeMap<ReleaseId, Published>,
    /// Machines on which the recipe of a release does not work.
    pub harms: BTreeMap<ReleaseId, BTreeMap<usize, Harm>>,
    /// Sum over everything that happened: equal for equal runs.
    pub trace: u64,
    approved: BTreeSet<(ReleaseId, Action)>,
    lists: BTreeMap<PayloadId, Arc<ChunkList>>,
    wans: Vec<SiteWan>,
    now: u64,
    epoch: u32,
    agenda: Agenda<Happening>,
    rng: fastrand::Rng,
    by_device: BTreeMap<DeviceId, usize>,
    gossip: Gossip,
}

fn site_id(place: usize) -> SiteId {
    let number = (place as u64 + 1).to_be_bytes();
    SiteId(std::array::from_fn(|at| number[at % number.len()]))
}

/// The group that every machine is in.
pub const GROUP: GroupId = GroupId([1; 16]);

impl World {
    /// A world in which nothing runs yet but the coordinator.
    pub fn new(params: Params) -> Self {
        signature_cache::remember(REMEMBERED_SIGNATURES);
        let admin = Admin::new();
        let mut rng = fastrand::Rng::with_seed(params.seed);
        let size = params.nodes + usize::from(params.cache);
        let total = params.sites * size;
        let mut machines = Vec::with_capacity(total);
        let mut records = Vec::new();
        for at in 0..total {
            let key = admin::key("device", params.seed << 20 | at as u64);
            let device = admin::device(&key);
            let (place, cache) = (at / size, params.cache && at % size == params.nodes);
            let site = site_id(place);
            let role = if cache { NodeRole::Cache } else { NodeRole::Node };
            let certificate = admin.certificate(device, site, role);
            let assignment = admin.assignment(device, GROUP);
            let metered = !cache && rng.usize(..10) < params.metered_in_ten;
            let weight = match (cache, metered) {
                (true, _) => 64,
                (_, true) => 0,
                _ => 8,
            };
            records.push(hub::record(device, role, site, &certificate, &assignment));
            let trust = hub::pinned(&admin).snapshot();
            let skew = Duration::from_millis(rng.u64(..=2 * params.skew.as_millis() as u64));
            machines.push(Machine {
                device,
                site,
                place,
                state: None,
                disk: Disk::new(trust, certificate, assignment),
                weight,
                poisons: false,
                hostile: None,
                started: BTreeSet::new(),
                begun: BTreeMap::new(),
                done: BTreeMap::new(),
                stands: BTreeMap::new(),
                wan: 0,
                key,
                skew,
                life: 0,
                connections: BTreeMap::new(),
                wake: u64::MAX,
                instant: (0, 0),
                fetches: BTreeMap::new(),
                serves: BTreeMap::new(),
                next_serve: 0,
                up_free: 0,
                down_free: 0,
                flushing: false,
            });
        }
        let by_device = machines.iter().enumerate().map(|(at, machine)| (machine.device, at)).collect();
        let hub = Hub::new(&admin, records);
        let wans = (0..params.sites).map(|_| SiteWan { link: Wan::new(params.wan), number: 0 }).collect();
        let mut world = Self {
            params,
            admin,
            machines,
            hub,
            counts: Counts { sent: vec![0; total], ..Counts::default() },
            origin_up: true,
            origin_tampers: false,
            releases: BTreeMap::new(),
            harms: BTreeMap::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            approved: BTreeSet::new(),
            lists: BTreeMap::new(),
            wans,
            now: 0,
            epoch: 0,
            agenda: Agenda::default(),
            rng,
            by_device,
            gossip: Gossip::default(),
        };
        world.hub_drain();
        world
    }

    /// Microseconds since the start.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The right wall clock.
    pub fn clock(&self) -> Now {
        Now { mono: Mono(self.now), wall: START + Duration::from_micros(self.now) }
    }

    /// A random number below `end`.
    pub fn random(&mut self, end: usize) -> usize {
        self.rng.usize(..end.max(1))
    }

    /// Starts a machine after a while.
    pub fn start(&mut self, node: usize, after: Duration) {
        self.push(after.as_micros() as u64, Happening::Start(node));
    }

    /// Starts every machine within `spread`.
    pub fn start_all(&mut self, spread: Duration) {
        for node in 0..self.machines.len() {
            let after = self.rng.u64(..=spread.as_micros() as u64);
            self.start(node, Duration::from_micros(after));
        }
    }

    /// Runs for so long.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(span, |_| false);
    }

    /// Runs until a condition holds, looked at every ten milliseconds, at most for `span`. Returns whether it holds.
    pub fn run_until(&mut self, span: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + span.as_micros() as u64;
        let mut look = self.now;
        loop {
            let next = self.agenda.next_at().unwrap_or(u64::MAX);
            if next >= look {
                if holds(self) {
                    return true;
                }
                look = next.min(end) + 10_000;
            }
            if next > end {
                self.now = end;
                return false;
            }
            if let Some((at, what)) = self.agenda.pop() {
                self.now = at;
                self.counts.events += 1;
                self.happen(what);
            }
        }
    }

    fn push(&mut self, after: u64, what: Happening) {
        self.agenda.push(self.now + after, what);
    }

    fn note(&mut self, words: [u64; 3]) {
        for word in [self.now, words[0], words[1], words[2]] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        }
    }

    fn broken(&self, node: usize, what: &str) -> ! {
        panic!("at {} us, machine {node}: {what}; {:?}", self.now, self.params)
    }

    fn hub_number(&self) -> usize {
        self.machines.len()
    }

    /// Machines of a site.
    fn site(&self, place: usize) -> Range<usize> {
        let size = self.params.nodes + usize::from(self.params.cache);
        place * size..(place + 1) * size
    }

    /// Microseconds from one machine to another: 0.2 to 1 ms within a site, always the same for two machines.
    fn latency(&self, a: usize, b: usize) -> u64 {
        if a == self.hub_number() || b == self.hub_number() || self.machines[a].place != self.machines[b].place {
            return WAN_LATENCY;
        }
        let (low, high) = (a.min(b) as u64, a.max(b) as u64);
        200 + (low.wrapping_mul(0x9e37_79b9).wrapping_add(high.wrapping_mul(0x85eb_ca6b)) >> 7) % 800
    }

    fn is_alive(&self, node: usize, life: u32) -> bool {
        self.machines[node].life == life && self.machines[node].is_up()
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Start(node) => self.started(node),
            Happening::Wake { node, life } if self.is_alive(node, life) => self.woken(node),
            Happening::Local { node, life, input } if self.is_alive(node, life) => self.input(node, *input),
            Happening::Hint { node, life, of } if self.is_alive(node, life) => {
                self.input(node, Input::Hint { address: Text::lossy(&connections::address(of)) });
            }
            Happening::Written { node, life, token, record } if self.is_alive(node, life) => {
                self.machines[node].disk.write(record);
                self.input(node, Input::Persisted { token });
            }
            Happening::Installed { node, life, release, action } if self.is_alive(node, life) => {
                self.installed(node, release, action);
            }
            Happening::Flush { node, life } if self.is_alive(node, life) => {
                self.machines[node].flushing = false;
                self.machines[node].disk.flush();
            }
            Happening::Connect { from, life, address } if self.is_alive(from, life) => self.connect(from, address),
            Happening::Closed { node, peer, epoch } => self.closed(node, peer, epoch),
            Happening::Frame { from, to, epoch, bytes } if self.is_connected(from, to, epoch) => {
                self.frame(from, to, bytes);
            }
            Happening::Gossip { from, to, epoch, message } if self.is_connected(from, to, epoch) => {
                self.gossip_arrives(from, to, message);
            }
            Happening::Request { from, to, epoch, fetch, what } if self.is_connected(from, to, epoch) => {
                self.requested(from, to, epoch, fetch, what);
            }
            Happening::Answer { node, life, fetch, status } if self.is_alive(node, life) => {
                self.denied(node, fetch, status);
            }
            Happening::Document { node, life, fetch, bytes } if self.is_alive(node, life) => {
                self.document_arrives(node, fetch, bytes);
            }
            Happening::Chunk { node, life, fetch, payload, chunk, last, bad } if self.is_alive(node, life) => {
                self.chunk_arrives(node, fetch, payload, chunk, last, bad);
            }
            Happening::Served { node, life, serve, bytes } if self.is_alive(node, life) => {
                self.served(node, serve, bytes);
            }
            Happening::Hostile { node, life } if self.is_alive(node, life) => self.hostile_acts(node),
            Happening::HostileServe { node, life, serve, what } if self.is_alive(node, life) => {
                self.serve(node, serve, *what);
            }
            Happening::WanBegin { node, life, fetch, payload, first, count } if self.is_alive(node, life) => {
                self.wan_begins(node, fetch, payload, first, count);
            }
            Happening::WanDue { place, number } if number == self.wans[place].number => self.wan_due(place),
            Happening::HubWake => self.hub_woken(),
            Happening::HubInput(input) => self.hub_input(*input),
            // Meant for a process that has ended, or on a connection that has.
            _ => {}
        }
    }
}
