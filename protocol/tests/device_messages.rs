//! A device and its coordinator over a network that loses, delays, repeats and swaps messages, while both are restarted and the
//! coordinator loses what it knew: in the end it holds the device's inventory and scan, and a change costs a difference.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::codec::{self, Text};
use upswarm_protocol::coordinator::{
    self as hub, Command, CoordinatorState, DeviceRecord, HeldList, LastReport, Setup, Stored,
};
use upswarm_protocol::envelope::{self, Document, Kind, Role};
use upswarm_protocol::evaluate::ScanState;
use upswarm_protocol::ids::*;
use upswarm_protocol::inventory::{Inventory, PackageKey};
use upswarm_protocol::node::{self, Detection, NodeConfig, NodeState, Record, Restored};
use upswarm_protocol::report::receipt;
use upswarm_protocol::time::{Mono, Now, Wall};
use upswarm_protocol::wire::{BlockWhat, Message};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[derive(Default)]
struct HubDisk {
    documents: BTreeMap<DocHash, Vec<u8>>,
    catalog: Option<Vec<u8>>,
    devices: BTreeMap<DeviceId, DeviceRecord>,
    reports: Vec<LastReport>,
    inventories: BTreeMap<DeviceId, Vec<u8>>,
    inventory_bases: BTreeMap<DocHash, Vec<u8>>,
    scans: BTreeMap<DeviceId, Vec<u8>>,
    logs: BTreeMap<ReleaseId, Vec<u8>>,
}

/// What is on its way, and to whom.
enum Going {
    ToHub(Vec<u8>),
    ToNode(Vec<u8>),
    Hub(Box<hub::Input>),
    Node(Box<node::Input>),
}

struct Pair {
    world: World,
    seed: u64,
    dice: Dice,
    now: u64,
    node: NodeState,
    restored: Restored,
    node_life: u64,
    hub: CoordinatorState,
    disk: HubDisk,
    going: Vec<(u64, u64, Going)>,
    /// Of a hundred messages so many are lost, and so many come twice.
    loss: u64,
    /// The longest delay, in microseconds.
    delay: u64,
    inventory: Inventory,
    /// Whether the file that some releases look for is there.
    file: bool,
    detects: u64,
    /// Encrypted bytes of inventories and of scans that the device sent, again or not.
    inventory_bytes: u64,
    scan_bytes: u64,
    encrypted: BTreeMap<u64, bool>,
    full: u64,
}

fn me() -> ed25519_dalek::SigningKey {
    key(77)
}

fn hub_id() -> DeviceId {
    DeviceId(*key(78).verifying_key().as_bytes())
}

fn device() -> DeviceId {
    DeviceId(*me().verifying_key().as_bytes())
}

impl Pair {
    fn new(seed: u64) -> Self {
        let world = World::new();
        let certificate = world.certificate_doc(&certificate(&me()));
        let assignment = world.assignment_doc(&assignment(&me()));
        let mut disk = HubDisk::default();
        let record = DeviceRecord {
            device: device(),
            role: NodeRole::Node,
            label: text("pc"),
            site: SITE,
            groups: list(vec![GROUP]),
            enrolled: NOW - DAY,
            invited: true,
            certificate: list(certificate.clone()),
            certified: NOW - DAY,
            assignment: list(assignment.clone()),
            assigned: NOW - DAY,
        };
        disk.devices.insert(device(), record);
        let restored = Restored { trust: world.trust().snapshot(), certificate, assignment, ..Restored::default() };
        let now = Now { mono: Mono(0), wall: NOW };
        let hub = start_hub(&world, &disk, now);
        let node = start_node(&restored, seed, now);
        let mut pair = Self {
            world,
            seed,
            dice: Dice(seed),
            now: 0,
            node,
            restored,
            node_life: 0,
            hub,
            disk,
            going: Vec::new(),
            loss: 0,
            delay: 20_000,
            inventory: Inventory::default(),
            file: false,
            detects: 0,
            inventory_bytes: 0,
            scan_bytes: 0,
            encrypted: BTreeMap::new(),
            full: 0,
        };
        pair.drain_hub();
        pair.drain_node();
        pair.connect();
        pair
    }

    fn clock(&self) -> Now {
        Now { mono: Mono(self.now), wall: NOW + Duration::from_micros(self.now) }
    }

    fn connect(&mut self) {
        self.hub_hears(hub::Input::PeerUp { peer: device() });
        self.node_hears(node::Input::PeerUp { peer: hub_id(), dialled: None });
    }

    fn disconnect(&mut self) {
        self.hub_hears(hub::Input::PeerDown { peer: device() });
        self.node_hears(node::Input::PeerDown { peer: hub_id() });
        self.going.retain(|(_, _, going)| !matches!(going, Going::ToHub(_) | Going::ToNode(_)));
    }

    fn restart_node(&mut self) {
        self.disconnect();
        self.going.retain(|(_, _, going)| !matches!(going, Going::Node(_)));
        self.node_life += 1;
        self.node = start_node(&self.restored, self.seed + self.node_life, self.clock());
        self.drain_node();
        self.see();
        self.connect();
    }

    fn restart_hub(&mut self, loses: bool) {
        self.disconnect();
        self.going.retain(|(_, _, going)| !matches!(going, Going::Hub(_)));
        if loses {
            self.disk.inventories.clear();
            self.disk.scans.clear();
            self.disk.reports.clear();
        }
        self.hub = start_hub(&self.world, &self.disk, self.clock());
        self.drain_hub();
        self.connect();
    }

    /// The machine is looked at.
    fn see(&mut self) {
        self.node_hears(node::Input::Inventory { inventory: Arc::new(self.inventory.clone()) });
    }

    fn change(&mut self, name: &str, version: Option<&str>) {
        let key = PackageKey { kind: PackageKind::Deb, name: text(name), arch: text("amd64") };
        self.inventory.remove(&key);
        if let Some(version) = version {
            self.inventory.insert(key, text(version)).unwrap();
        }
    }

    fn publish(&mut self, counter: u64, detect: Detect) -> ReleaseId {
        let mut release = release("org.example.tool", counter);
        release.platform = Platform::default();
        release.detect = list(vec![detect]);
        let payload = release.payloads[0].clone();
        let held = HeldList { len: payload.chunk_list_len, payload_len: payload.len };
        self.hub_hears(hub::Input::ChunkListHeld { hash: payload.chunk_list, list: held });
        self.hub_hears(hub::Input::PayloadHeld { payload: payload.id, len: payload.len });
        let doc = self.world.publish(&release);
        self.hub_hears(hub::Input::Admin { request: counter, command: Command::Publish(doc.bytes), entry: None });
        doc.release
    }

    fn hub_hears(&mut self, input: hub::Input) {
        let now = self.clock();
        self.hub.handle_input(input, now);
        self.drain_hub();
    }

    fn node_hears(&mut self, input: node::Input) {
        let now = self.clock();
        self.node.handle_input(input, now);
        self.drain_node();
    }

    fn push(&mut self, after: u64, going: Going) {
        let order = self.going.len() as u64 + self.now * 1000;
        self.going.push((self.now + after, order, going));
    }

    /// A frame on the network. Only what reports are made of is lost: the rest is ordered and reliable in the real one too.
    fn send(&mut self, frame: Vec<u8>, for_hub: bool) {
        let going = |frame| if for_hub { Going::ToHub(frame) } else { Going::ToNode(frame) };
        let message = Message::decode(&frame).unwrap();
        if !matches!(message, Message::Relay { .. } | Message::RelayAck { .. }) {
            return self.push(1_000, going(frame));
        }
        if let Message::Relay { seq, encrypted, .. } = &message
            && let Some(scan) = self.encrypted.get(seq)
        {
            *(if *scan { &mut self.scan_bytes } else { &mut self.inventory_bytes }) += encrypted.len() as u64;
        }
        let copies = 1 + u64::from(self.dice.below(100) < self.loss / 2);
        for _ in 0..copies {
            let delay = 1_000 + self.dice.below(self.delay);
            if self.dice.below(100) >= self.loss {
                self.push(delay, going(frame.clone()));
            }
        }
    }

    fn drain_hub(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                hub::Output::Send { frame, .. } => self.send(frame, false),
                hub::Output::OpenReport { open, encrypted } => {
                    self.push(100, Going::Hub(Box::new(hub::Input::ReportOpened { open, bytes: Some(encrypted) })));
                }
                hub::Output::Persist { token, record } => {
                    // On disk at once, and told a little later: a restart in between must do no harm.
                    match record {
                        hub::Record::Document(Document { hash, bytes }) => {
                            drop(self.disk.documents.insert(hash, bytes))
                        }
                        hub::Record::Catalog(bytes) => self.disk.catalog = Some(bytes),
                        hub::Record::Device(device, bytes) => {
                            self.disk.devices.insert(device, codec::decode(&bytes, 1 << 20).unwrap());
                        }
                        hub::Record::Inventory(device, bytes) => drop(self.disk.inventories.insert(device, bytes)),
                        hub::Record::InventoryBase(digest, bytes) if bytes.is_empty() => {
                            drop(self.disk.inventory_bases.remove(&digest));
                        }
                        hub::Record::InventoryBase(digest, bytes) => {
                            drop(self.disk.inventory_bases.insert(digest, bytes));
                        }
                        hub::Record::Scan(device, bytes) => drop(self.disk.scans.insert(device, bytes)),
                        hub::Record::Log(_, release, bytes) => drop(self.disk.logs.insert(release, bytes)),
                        hub::Record::Report(..)
                        | hub::Record::Invite(..)
                        | hub::Record::Rollouts(_)
                        | hub::Record::Groups(_)
                        | hub::Record::WanLimits(_)
                        | hub::Record::Root(..)
                        | hub::Record::Audit(..) => {}
                    }
                    self.push(2_000, Going::Hub(Box::new(hub::Input::Persisted { token })));
                }
                hub::Output::Answer { result, .. } => drop(result.unwrap()),
                hub::Output::Alarm(text) | hub::Output::Raise { text, .. } => panic!("seed {}: {text}", self.seed),
                _ => {}
            }
        }
    }

    fn drain_node(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                node::Output::Send { frame, .. } => self.send(frame, true),
                node::Output::Encrypt { message, .. } => {
                    let scan = match &message {
                        upswarm_protocol::report::DeviceMessage::Status(_)
                        | upswarm_protocol::report::DeviceMessage::Log(_) => None,
                        upswarm_protocol::report::DeviceMessage::Inventory(report) => {
                            let first =
                                report.part.base == upswarm_protocol::inventory::empty() && report.part.part == 0;
                            self.full += u64::from(first);
                            Some(false)
                        }
                        upswarm_protocol::report::DeviceMessage::Scan(_) => Some(true),
                    };
                    self.encrypted.extend(scan.map(|scan| (message.seq(), scan)));
                    let bytes = envelope::sign(Kind::Report, Role::Device, &message, &[&me()]).unwrap();
                    let (seq, receipt) = (message.seq(), receipt(&bytes));
                    self.push(200, Going::Node(Box::new(node::Input::Encrypted { seq, bytes, receipt })));
                }
                node::Output::Persist { token, record } => {
                    match record {
                        Record::Trust(bytes) => self.restored.trust = bytes,
                        Record::Certificate(bytes) => self.restored.certificate = bytes,
                        Record::Assignment(bytes) => self.restored.assignment = bytes,
                        Record::Counters(bytes) => self.restored.counters = Some(bytes),
                        Record::Inventory(bytes) => self.restored.inventory = Some(bytes),
                        Record::Deployment(..) | Record::WanLimits(_) => {}
                    }
                    self.push(2_000, Going::Node(Box::new(node::Input::Persisted { token })));
                }
                node::Output::StoreDoc { bytes, .. } => self.restored.documents.push(bytes.to_vec()),
                node::Output::FetchDoc { fetch, what, .. } => {
                    let found = match what {
                        BlockWhat::Doc(hash) => self.disk.documents.get(&hash).cloned(),
                        _ => None,
                    };
                    let result = found.ok_or(node::FetchError::Unreachable("not there".into()));
                    self.push(5_000, Going::Node(Box::new(node::Input::DocFetched { fetch, result })));
                }
                node::Output::Detect { release } => {
                    self.detects += 1;
                    let result = if self.file { Detection::Present } else { Detection::Absent };
                    self.push(5_000, Going::Node(Box::new(node::Input::Detected { release, result })));
                }
                node::Output::ReadLog { release, ordered, .. } => {
                    let result = Ok(printed());
                    self.push(5_000, Going::Node(Box::new(node::Input::LogRead { release, ordered, result })));
                }
                node::Output::Alarm(text) => panic!("seed {}: {text}", self.seed),
                _ => {}
            }
        }
    }

    /// Goes on for so long, or until this holds.
    fn run(&mut self, span: Duration, until: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + span.as_micros() as u64;
        loop {
            if until(self) {
                return true;
            }
            let next = self.going.iter().map(|(at, _, _)| *at).min().unwrap_or(u64::MAX);
            let node = self.node.poll_timeout().map_or(u64::MAX, |(at, _)| at.0);
            let hub = self.hub.poll_timeout().map_or(u64::MAX, |(at, _)| at.0);
            let at = next.min(node).min(hub).max(self.now);
            if at >= end {
                self.now = end;
                return until(self);
            }
            self.now = at;
            if next <= at {
                let due = self.going.iter().enumerate().min_by_key(|(_, (at, order, _))| (*at, *order)).unwrap().0;
                match self.going.remove(due).2 {
                    Going::ToHub(bytes) => self.hub_hears(hub::Input::Frame { peer: device(), bytes }),
                    Going::ToNode(bytes) => self.node_hears(node::Input::Frame { peer: hub_id(), bytes }),
                    Going::Hub(input) => self.hub_hears(*input),
                    Going::Node(input) => self.node_hears(*input),
                }
            } else if node <= at {
                let now = self.clock();
                self.node.handle_timeout(now);
                self.drain_node();
            } else {
                let now = self.clock();
                self.hub.handle_timeout(now);
                self.drain_hub();
            }
        }
    }

    fn agree(&self) -> bool {
        let held = self.hub.inventory(&device());
        let inventory = held.is_some_and(|held| held.inventory.to_inventory() == self.inventory);
        let states: BTreeMap<_, _> = self.node.scan_states().collect();
        let releases = self.hub.releases().len();
        let scan = self.hub.scan(&device()).is_some_and(|scan| {
            states.len() == releases && states.iter().all(|(id, state)| scan.state(id, releases) == Some(*state))
        });
        inventory && scan
    }

    fn must_agree(&mut self, within: Duration) {
        if !self.run(within, Self::agree) {
            let states: Vec<_> = self.node.scan_states().collect();
            panic!("seed {}: no agreement in {within:?}: {states:?}, {:?}", self.seed, self.hub.scan(&device()));
        }
    }
}

fn start_hub(world: &World, disk: &HubDisk, now: Now) -> CoordinatorState {
    let documents = disk.documents.iter().map(|(hash, bytes)| Document { hash: *hash, bytes: bytes.clone() });
    // As the directory does: an index is no document of the catalog.
    let documents = documents.filter(|d| envelope::Envelope::parse(&d.bytes, Kind::Index, Role::Online).is_err());
    let stored = Stored {
        catalog: disk.catalog.clone(),
        documents: documents.collect(),
        devices: disk.devices.values().cloned().collect(),
        reports: disk.reports.clone(),
        inventories: disk.inventories.clone().into_iter().collect(),
        inventory_bases: disk.inventory_bases.clone().into_iter().collect(),
        scans: disk.scans.clone().into_iter().collect(),
        logs: disk.logs.values().cloned().collect(),
        ..Stored::default()
    };
    let setup = Setup {
        device: hub_id(),
        root: world.root.clone(),
        root_hash: DocHash::of(&world.root_doc()),
        online: world.online[0].clone(),
        origins: Vec::new(),
        stored,
    };
    CoordinatorState::new(setup, now).unwrap()
}

fn start_node(restored: &Restored, seed: u64, now: Now) -> NodeState {
    let config = NodeConfig {
        seed,
        build_time: Wall(NOW.0) - 2 * DAY,
        coordinator: hub_id(),
        coordinator_addresses: vec![Text::lossy("/ip4/192.0.2.1/tcp/1")],
        zone: jiff::tz::TimeZone::UTC,
        boot: Text::default(),
        ..settings(&me())
    };
    NodeState::new(config, restored.clone(), now).unwrap()
}

/// What a long install printed.
fn printed() -> Vec<u8> {
    (0..6_000).flat_map(|line| format!("line {line} of what dpkg says\n").into_bytes()).collect()
}

/// Names and versions as of a desktop.
fn fill(pair: &mut Pair, packages: u64) {
    for number in 0..packages {
        let digest = DocHash::of(&number.to_le_bytes()).to_string();
        pair.change(&format!("lib{}", &digest[..12]), Some(&format!("{}.{}-1+deb12u1", number % 11, number % 30)));
    }
    pair.inventory.set_fact(text("os.id"), Some(text("debian"))).unwrap();
}

fn package(name: &str, version: &str) -> Detect {
    Detect::Package { kind: PackageKind::Deb, name: text(name), version: text(version) }
}

#[test]
fn whatever_happens_they_agree_in_the_end() {
    for seed in 0..150 {
        let mut pair = Pair::new(seed);
        fill(&mut pair, 400);
        pair.publish(1, package("tool", "2"));
        pair.publish(2, Detect::FileExists { path: text("/opt/tool") });
        pair.see();
        (pair.loss, pair.delay) = (40, 12_000_000);
        for step in 0..12 {
            let wait = Duration::from_millis(pair.dice.below(40_000));
            pair.run(wait, |_| false);
            match pair.dice.below(8) {
                0 => pair.restart_node(),
                1 => pair.restart_hub(false),
                2 => pair.restart_hub(true),
                3 => drop(pair.publish(10 + step, package("tool", &step.to_string()))),
                4 => pair.file = !pair.file,
                number => {
                    let version = format!("{}", pair.dice.below(20));
                    pair.change("tool", (number != 5).then_some(&*version));
                    let other = format!("other{}", pair.dice.below(5));
                    pair.change(&other, Some(&version));
                    pair.inventory.pending_restart = pair.dice.below(2) == 0;
                    pair.see();
                }
            }
        }
        // A coordinator that forgot speaks first when the device next says something: at the latest with its regular report.
        (pair.loss, pair.delay) = (0, 20_000);
        pair.must_agree(Duration::from_secs(60 * 60));
    }
}

#[test]
fn a_log_that_is_asked_for_comes_whole_whatever_is_lost_or_restarted() {
    for seed in 0..10 {
        let mut pair = Pair::new(seed);
        let release = pair.publish(1, package("tool", "2"));
        pair.see();
        pair.run(Duration::from_secs(5), |_| false);
        (pair.loss, pair.delay) = (40, 6_000_000);
        let command = Command::AskLog { device: device(), release };
        pair.hub_hears(hub::Input::Admin { request: 7, command, entry: None });
        for _ in 0..3 {
            let wait = Duration::from_millis(pair.dice.below(20_000));
            pair.run(wait, |_| false);
            match pair.dice.below(3) {
                0 => pair.restart_node(),
                1 => pair.restart_hub(false),
                _ => {}
            }
        }
        (pair.loss, pair.delay) = (0, 20_000);
        let whole = |pair: &Pair| pair.hub.device_logs(&device()).any(|(log, _)| *log.text == printed() && log.found);
        assert!(pair.run(Duration::from_secs(30 * 60), whole), "seed {seed}");
        assert!(pair.hub.device_logs(&device()).all(|(log, _)| !log.is_awaited()));
    }
}

#[test]
fn a_change_of_a_desktop_costs_the_wan_little_and_a_restart_nothing() {
    let mut pair = Pair::new(1);
    fill(&mut pair, 3_000);
    let needed = pair.publish(1, package("tool", "2"));
    pair.see();
    pair.must_agree(Duration::from_secs(120));
    let first = (pair.inventory_bytes, pair.scan_bytes);
    assert_eq!(pair.full, 1);
    // Until the last acknowledgements have come.
    pair.run(Duration::from_secs(5), |_| false);
    let required = |pair: &Pair| pair.hub.scan(&device()).unwrap().state(&needed, 1);
    assert_eq!(required(&pair), Some(ScanState::Required));

    pair.run(Duration::from_secs(60), |_| false);
    pair.change("tool", Some("2.1"));
    pair.see();
    pair.must_agree(Duration::from_secs(30));
    pair.run(Duration::from_secs(5), |_| false);
    let change = (pair.inventory_bytes - first.0, pair.scan_bytes - first.1);
    assert_eq!(required(&pair), Some(ScanState::Installed));

    let before = (pair.inventory_bytes, pair.scan_bytes);
    for _ in 0..3 {
        pair.restart_node();
        pair.run(Duration::from_secs(100), |_| false);
        pair.restart_hub(false);
        pair.run(Duration::from_secs(100), |_| false);
    }
    assert_eq!((pair.inventory_bytes, pair.scan_bytes), before, "nothing has changed, nothing is told");

    // It was off while it changed: a difference all the same.
    pair.inventory.set_fact(text("boot.id"), Some(text("another"))).unwrap();
    pair.restart_node();
    pair.must_agree(Duration::from_secs(60));
    let over_restart = pair.inventory_bytes - before.0;
    assert_eq!(pair.full, 1);
    println!("3,000 packages: {first:?} bytes at first, {change:?} for one update, {over_restart} for a new start");
    assert!(first.0 < 100_000 && change.0 < 1_000 && change.1 < 1_000 && over_restart < 1_000, "{first:?} {change:?}");

    pair.restart_hub(true);
    pair.must_agree(Duration::from_secs(20 * 60));
    assert_eq!(pair.full, 2, "everything, once more");
}

#[test]
fn releases_that_are_not_approved_are_looked_for_slowly_and_no_command_is_run() {
    let mut pair = Pair::new(3);
    fill(&mut pair, 10);
    let files: Vec<_> =
        (1..=20).map(|n| pair.publish(n, Detect::FileExists { path: text(&format!("/opt/{n}")) })).collect();
    let argv = list(vec![text("/opt/tool"), text("-V")]);
    let command = pair.publish(30, Detect::Command { argv, exit_code: 0, timeout_s: 5 });
    pair.see();
    pair.run(Duration::from_secs(4), |_| false);
    assert!((1..=9).contains(&pair.detects), "{} in 4 s", pair.detects);
    pair.must_agree(Duration::from_secs(120));
    pair.run(Duration::from_secs(3600), |_| false);
    assert_eq!(pair.detects, 20, "each once, and again only after hours");
    let states: BTreeMap<_, _> = pair.node.scan_states().collect();
    assert!(files.iter().all(|id| states[id] == ScanState::Required));
    assert_eq!(states[&command], ScanState::Unknown);
    let scans = pair.scan_bytes;
    pair.file = true;
    pair.run(Duration::from_secs(8 * 3600), |_| false);
    assert_eq!(pair.detects, 40);
    assert!(pair.agree() && pair.node.scan_states().filter(|(_, state)| *state == ScanState::Installed).count() == 20);
    assert!(pair.scan_bytes - scans < 20_000, "{} bytes for twenty changes over an hour", pair.scan_bytes - scans);
}
