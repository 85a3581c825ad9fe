use std::collections::BTreeSet;

use super::devices::CERTIFICATE_LIFE;
use super::*;
use crate::catalog::{
    Action, Approval, Certificate, Classification, Detect, FilePlacement, Index, Keys, NodeRole, Payload, Platform,
    PublisherRule, Recipe, Release, RestartPolicy, RingPlan, Schedule, Severity,
};
use crate::codec;
use crate::envelope::{self, Role};
use crate::ids::SiteId;
use crate::report::{self, BytesBySource, DeploymentReport, Report, Told};
use crate::time::Wall;
use crate::wire::{self, BlockStatus, BlockWhat};

pub(super) const START: Wall = Wall(1_800_000_000_000);

pub(super) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(super) fn public(seed: u8) -> PublicKey {
    PublicKey(key(seed).verifying_key().to_bytes())
}

pub(super) fn device(seed: u8) -> DeviceId {
    DeviceId(public(seed).0)
}

fn keys(seed: u8) -> Keys {
    Keys { keys: Bounded::new(vec![public(seed)]).unwrap(), threshold: 1 }
}

const ROOT: u8 = 1;
const PUBLISHER: u8 = 2;
pub(super) const APPROVER: u8 = 3;
const ONLINE: u8 = 4;
const ME: u8 = 5;

pub(super) fn root() -> Root {
    let rule = PublisherRule { product_prefix: Text::default(), keys: keys(PUBLISHER) };
    Root {
        version: 1,
        issued: START,
        expires: START + Duration::from_secs(365 * 86400),
        root: keys(ROOT),
        publishers: Bounded::new(vec![rule]).unwrap(),
        approvers: keys(APPROVER),
        group_rules: Bounded::default(),
        online: keys(ONLINE),
        report_key: [9; 32],
    }
}

/// A coordinator with a disk that is written only when the test says so.
pub(super) struct Bench {
    pub(super) state: CoordinatorState,
    pub(super) now: Now,
    /// Records that were handed out and not yet told durable.
    written: Vec<(u64, Record)>,
    pub(super) durable: Vec<Record>,
    outputs: Vec<Output>,
    requests: u64,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::restart(Vec::new(), Now { mono: Mono(0), wall: START })
    }

    /// A coordinator that finds these records on its disk.
    pub(super) fn restart(durable: Vec<Record>, now: Now) -> Self {
        Self::restart_with(durable, Stored::default(), now)
    }

    /// A new coordinator that finds this on its disk.
    pub(super) fn with(stored: Stored, now: Now) -> Self {
        Self::restart_with(Vec::new(), stored, now)
    }

    /// A coordinator that finds these records on its disk, and more devices and reports.
    pub(super) fn restart_with(durable: Vec<Record>, mut stored: Stored, now: Now) -> Self {
        let mut devices = BTreeMap::new();
        let mut invites = BTreeMap::new();
        for record in &durable {
            match record.clone() {
                Record::Document(document) => stored.documents.push(document),
                Record::Catalog(bytes) => stored.catalog = Some(bytes),
                Record::Device(device, bytes) => drop(devices.insert(device, codec::decode(&bytes, 1 << 20).unwrap())),
                Record::Invite(hash, bytes) if bytes.is_empty() => drop(invites.remove(&hash)),
                Record::Invite(hash, bytes) => drop(invites.insert(hash, codec::decode(&bytes, 1 << 20).unwrap())),
                Record::Report(report, received) => stored.reports.push(LastReport {
                    device: report.device,
                    seq: report.seq,
                    received,
                    addresses: Vec::new(),
                    deployments: report.deployments.into_vec(),
                }),
                Record::Rollouts(bytes) => stored.rollouts = Some(bytes),
                Record::Inventory(device, bytes) => stored.inventories.push((device, bytes)),
                Record::Scan(device, bytes) => stored.scans.push((device, bytes)),
                Record::Groups(bytes) => stored.groups = Some(bytes),
            }
        }
        stored.devices.extend(devices.into_values());
        stored.invites = invites.into_values().collect();
        let setup = Setup {
            device: device(ME),
            root: root(),
            root_hash: DocHash([1; 32]),
            online: key(ONLINE),
            origins: vec![],
            stored,
        };
        let state = CoordinatorState::new(setup, now).unwrap();
        let mut bench = Self { state, now, written: vec![], durable, outputs: vec![], requests: 0 };
        bench.drain();
        bench
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.state.poll_output() {
            match output {
                Output::Persist { token, record } => self.written.push((token, record)),
                output => self.outputs.push(output),
            }
        }
    }

    pub(super) fn input(&mut self, input: Input) -> Vec<Output> {
        self.state.handle_input(input, self.now);
        self.drain();
        std::mem::take(&mut self.outputs)
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) -> Vec<Output> {
        while let Some((token, _)) = self.written.last() {
            let token = *token;
            self.durable.extend(self.written.drain(..).map(|(_, record)| record));
            self.state.handle_input(Input::Persisted { token }, self.now);
            self.drain();
        }
        std::mem::take(&mut self.outputs)
    }

    pub(super) fn later(&mut self, by: Duration) -> Vec<Output> {
        self.now = Now { mono: self.now.mono + by, wall: self.now.wall + by };
        self.state.handle_timeout(self.now);
        self.drain();
        std::mem::take(&mut self.outputs)
    }

    pub(super) fn admin(&mut self, command: Command) -> Vec<Output> {
        self.requests += 1;
        self.input(Input::Admin { request: self.requests, command })
    }

    pub(super) fn done(&mut self, command: Command) -> Result<Done, Refusal> {
        let mut outputs = self.admin(command);
        outputs.extend(self.sync());
        answer(outputs).expect("an answer")
    }

    pub(super) fn frame(&mut self, peer: DeviceId, message: &Message) -> Vec<Output> {
        self.input(Input::Frame { peer, bytes: message.encode().unwrap() })
    }

    fn invite(&mut self, secret: [u8; 32], uses: u32) {
        let invite = Invite {
            secret_hash: *blake3::hash(&secret).as_bytes(),
            group: GroupId([1; 16]),
            site: SiteId([2; 16]),
            expires: self.now.wall + Duration::from_secs(3600),
            uses,
            spent: Bounded::default(),
        };
        self.done(Command::Invite(invite)).unwrap();
    }

    /// Lets a device in; returns its certificate.
    pub(super) fn member(&mut self, seed: u8) -> Bounded<u8, 4096> {
        self.invite([seed; 32], 1);
        self.input(Input::PeerUp { peer: device(seed) });
        self.frame(device(seed), &enrol([seed; 32]));
        let messages = sent(&self.sync(), device(seed));
        let Some(Message::Enrolled { certificate, .. }) = messages.into_iter().next() else { panic!("not enrolled") };
        certificate
    }

    /// Publishes a release.
    pub(super) fn published(&mut self, counter: u64) -> ReleaseId {
        let (id, bytes) = self.release(counter);
        self.done(Command::Publish(bytes)).unwrap();
        id
    }

    fn release(&mut self, counter: u64) -> (ReleaseId, Vec<u8>) {
        let list = HeldList { len: 10, payload_len: 5 };
        self.input(Input::ChunkListHeld { hash: DocHash([6; 32]), list });
        self.input(Input::PayloadHeld { payload: PayloadId([7; 32]), len: 5 });
        signed_release(self.now.wall, counter, PUBLISHER)
    }
}

/// So many devices of a group, let in long ago.
pub(super) fn stored_fleet(devices: u32, group: GroupId) -> Stored {
    let record = |number: u32| DeviceRecord {
        device: DeviceId(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        role: NodeRole::Node,
        label: Text::lossy(&format!("pc{number}")),
        site: SiteId([2; 16]),
        groups: Bounded::new(vec![group]).unwrap(),
        enrolled: START,
        certificate: Bounded::default(),
        certified: START,
    };
    Stored { devices: (0..devices).map(record).collect(), ..Stored::default() }
}

fn enrol(secret: [u8; 32]) -> Message {
    Message::Enrol { version: wire::VERSION, secret, role: NodeRole::Node, label: Text::lossy("pc") }
}

pub(super) fn hello(certificate: Bounded<u8, 4096>) -> Message {
    Message::Hello { version: wire::VERSION, certificate, head: Bounded::default(), root_version: 1 }
}

pub(super) fn signed_release(now: Wall, counter: u64, signer: u8) -> (ReleaseId, Vec<u8>) {
    let payload = Payload {
        name: Text::lossy("p"),
        id: PayloadId([7; 32]),
        len: 5,
        chunk_list: DocHash([6; 32]),
        chunk_list_len: 10,
        sha256: [0; 32],
        urls: Bounded::default(),
        patches: Bounded::default(),
    };
    let file = FilePlacement { payload: 0, path: Text::lossy("/opt/p"), mode: 0o755 };
    let release = Release {
        product: Text::lossy("org.example"),
        version: Text::lossy("1"),
        counter,
        title: Text::lossy("Example"),
        classification: Classification::Security,
        severity: Severity::Important,
        cves: Bounded::default(),
        issued: now,
        expires: now + Duration::from_secs(86400),
        platform: Platform::default(),
        payloads: Bounded::new(vec![payload]).unwrap(),
        applicability: Bounded::default(),
        detect: Bounded::new(vec![Detect::FileExists { path: Text::lossy("/opt/p") }]).unwrap(),
        install: Recipe::Files { files: Bounded::new(vec![file]).unwrap() },
        uninstall: None,
        restart: RestartPolicy::Never,
        depends: Bounded::default(),
        supersedes: Bounded::default(),
    };
    let body = codec::encode(&release, Kind::Release.cap()).unwrap();
    (ReleaseId::of(&body), envelope::seal(Kind::Release, Role::Publisher, &body, &[&key(signer)]).unwrap())
}

fn signed_approval(now: Wall, release: ReleaseId, version: u64, signer: u8) -> Vec<u8> {
    let approval = Approval {
        group: GroupId([1; 16]),
        release,
        version,
        action: Action::Install,
        issued: now,
        expires: now + Duration::from_secs(86400),
        schedule: Schedule::default(),
        rings: RingPlan::default(),
        note: Text::default(),
    };
    envelope::sign(Kind::Approval, Role::Approver, &approval, &[&key(signer)]).unwrap()
}

fn signed_report(seed: u8, seq: u64, signer: u8) -> Vec<u8> {
    signed_report_of(seed, seq, signer, Vec::new())
}

pub(super) fn signed_report_of(seed: u8, seq: u64, signer: u8, deployments: Vec<DeploymentReport>) -> Vec<u8> {
    let report = Report {
        device: device(seed),
        seq,
        issued: START,
        site: SiteId([2; 16]),
        role: NodeRole::Node,
        label: Text::lossy("pc"),
        agent: Text::lossy("0.1"),
        os: Text::lossy("linux"),
        index_version: 1,
        addresses: Bounded::new(vec![Text::lossy(&format!("/ip4/10.0.0.{seed}/tcp/1"))]).unwrap(),
        bytes: BytesBySource::default(),
        alarms: Bounded::default(),
        deployments: Bounded::new(deployments).unwrap(),
    };
    envelope::sign(Kind::Report, Role::Device, &Told::Status(Box::new(report)), &[&key(signer)]).unwrap()
}

fn acknowledgement(seed: u8, seq: u64) -> Message {
    let receipt = report::receipt(&signed_report(seed, seq, seed));
    let held = DocHash::default();
    let proof = report::acknowledgement(&receipt, seq, &held);
    Message::RelayAck { device: device(seed), seq, held, proof }
}

pub(super) fn relay(seed: u8, seq: u64) -> Message {
    Message::Relay { device: device(seed), seq, sealed: Bounded::new(vec![0; 8]).unwrap() }
}

pub(super) fn sent(outputs: &[Output], to: DeviceId) -> Vec<Message> {
    let of_peer = |output: &Output| match output {
        Output::Send { peer, frame } if *peer == to => Some(Message::decode(frame).unwrap()),
        _ => None,
    };
    outputs.iter().filter_map(of_peer).collect()
}

fn gone(outputs: &[Output], who: DeviceId) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Disconnect { peer, .. } if *peer == who))
}

pub(super) fn answer(outputs: Vec<Output>) -> Option<Result<Done, Refusal>> {
    outputs.into_iter().find_map(|output| match output {
        Output::Answer { result, .. } => Some(result),
        _ => None,
    })
}

pub(super) fn opens(outputs: &[Output]) -> Vec<u64> {
    let open = |output: &Output| match output {
        Output::OpenReport { open, .. } => Some(*open),
        _ => None,
    };
    outputs.iter().filter_map(open).collect()
}

fn published(outputs: &[Output]) -> Vec<Head> {
    let head = |output: &Output| match output {
        Output::Publish { bytes, .. } => Some(open_online(&root(), bytes, Kind::Head).unwrap()),
        _ => None,
    };
    outputs.iter().filter_map(head).collect()
}

#[test]
fn no_head_is_public_before_it_is_durable() {
    let mut bench = Bench::new();
    assert!(published(&bench.outputs).is_empty() && bench.state.head().is_empty());
    let outputs = bench.sync();
    assert_eq!(published(&outputs)[0].index_version, 1);

    let (id, bytes) = bench.release(1);
    let outputs = bench.admin(Command::Publish(bytes));
    assert!(published(&outputs).is_empty() && answer(outputs).is_none(), "before it is durable");
    // Everything but the last record is not enough.
    let last = bench.written.last().unwrap().0;
    let outputs = bench.input(Input::Persisted { token: last - 1 });
    assert!(published(&outputs).is_empty() && answer(outputs).is_none(), "the catalog is not durable yet");
    let outputs = bench.sync();
    assert_eq!(published(&outputs)[0].index_version, 2);
    assert_eq!(answer(outputs).unwrap().unwrap().index_version, 2);
    assert!(bench.state.releases().contains_key(&id));
}

#[test]
fn a_power_cut_at_any_record_takes_no_version_back() {
    let mut bench = Bench::new();
    bench.sync();
    let (id, bytes) = bench.release(1);
    bench.done(Command::Publish(bytes)).unwrap();
    bench.done(Command::Approve(signed_approval(START, id, 1, APPROVER))).unwrap();
    bench.member(20);
    let all = bench.durable.clone();
    let mut last = 0;
    for cut in 0..=all.len() {
        let now = Now { mono: Mono(0), wall: START };
        let mut again = Bench::restart(all[..cut].to_vec(), now);
        let outputs = again.sync();
        let head = published(&outputs)[0];
        assert!(head.index_version >= last, "cut at {cut}");
        last = head.index_version;
        let Some(Record::Catalog(bytes)) = all[..cut].iter().rev().find(|record| matches!(record, Record::Catalog(_)))
        else {
            continue;
        };
        let stored: Head = open_online(&root(), &CatalogRecord::decode(bytes).unwrap().head, Kind::Head).unwrap();
        assert!(head.issued > stored.issued && head.index_version >= stored.index_version, "cut at {cut}");
    }
}

#[test]
fn the_head_is_signed_anew_every_hour_and_the_index_at_half_of_its_life() {
    let mut bench = Bench::new();
    bench.sync();
    let (due, reason) = bench.state.poll_timeout().unwrap();
    assert_eq!((due, reason), (bench.now.mono + HEAD_INTERVAL, Reason::HeadDue));
    bench.later(HEAD_INTERVAL);
    let head = published(&bench.sync())[0];
    assert_eq!((head.index_version, head.expires), (1, bench.now.wall + HEAD_LIFE));
    bench.later(INDEX_LIFE / 2);
    assert_eq!(published(&bench.sync())[0].index_version, 2);
    // A clock that goes back does not take the order of heads back.
    bench.now = Now { mono: bench.now.mono + HEAD_INTERVAL, wall: START };
    bench.state.handle_timeout(bench.now);
    bench.drain();
    assert!(published(&bench.sync())[0].issued > head.issued);
}

#[test]
fn documents_are_checked_before_they_are_published() {
    let mut bench = Bench::new();
    bench.sync();
    let (id, good) = signed_release(START, 1, PUBLISHER);
    assert!(matches!(bench.done(Command::Publish(good.clone())), Err(Refusal::Missing(_))), "nothing was uploaded");
    bench.release(1);
    let (_, forged) = signed_release(START, 1, APPROVER);
    assert!(matches!(bench.done(Command::Publish(forged)), Err(Refusal::Document(_))));
    for at in [0, 20, good.len() - 1] {
        let mut tampered = good.clone();
        tampered[at] ^= 1;
        assert!(matches!(bench.done(Command::Publish(tampered)), Err(Refusal::Document(_))), "byte {at}");
    }
    assert_eq!(bench.state.index_version(), 1, "a refusal changes nothing");
    assert_eq!(bench.done(Command::Publish(good.clone())).unwrap().index_version, 2);
    assert_eq!(bench.done(Command::Publish(good)).unwrap().index_version, 2, "the same again changes nothing");
    let (_, other) = signed_release(START + Duration::from_secs(1), 1, PUBLISHER);
    assert!(matches!(bench.done(Command::Publish(other)), Err(Refusal::NotNewer { known: 1, .. })));

    let unknown = signed_approval(START, ReleaseId([9; 32]), 1, APPROVER);
    assert!(matches!(bench.done(Command::Approve(unknown)), Err(Refusal::UnknownRelease(_))));
    let forged = signed_approval(START, id, 1, ONLINE);
    assert!(matches!(bench.done(Command::Approve(forged)), Err(Refusal::Document(_))), "online keys approve nothing");
    bench.done(Command::Approve(signed_approval(START, id, 1, APPROVER))).unwrap();
    assert!(matches!(
        bench.done(Command::Approve(signed_approval(START + Duration::from_secs(1), id, 1, APPROVER))),
        Err(Refusal::NotNewer { .. })
    ));
    bench.done(Command::Approve(signed_approval(START, id, 2, APPROVER))).unwrap();
    assert_eq!(bench.state.approvals().len(), 1);
    let index = bench.durable.iter().rev().find_map(|record| match record {
        Record::Catalog(bytes) => {
            Some(open_online::<Index>(&root(), &CatalogRecord::decode(bytes).unwrap().index, Kind::Index).unwrap())
        }
        _ => None,
    });
    assert_eq!(index.unwrap().documents.len(), 2, "one release, one approval");
}

#[test]
fn of_a_hundred_redemptions_of_one_token_one_wins() {
    let mut bench = Bench::new();
    bench.sync();
    bench.invite([77; 32], 1);
    for seed in 100..200 {
        bench.input(Input::PeerUp { peer: device(seed) });
    }
    let mut outputs = Vec::new();
    for seed in 100..200 {
        outputs.extend(bench.frame(device(seed), &enrol([77; 32])));
    }
    assert!((100..200).all(|seed| !sent(&outputs, device(seed)).iter().any(|m| matches!(m, Message::Enrolled { .. }))));
    outputs.extend(bench.sync());
    let won: Vec<u8> = (100..200)
        .filter(|seed| sent(&outputs, device(*seed)).iter().any(|m| matches!(m, Message::Enrolled { .. })))
        .collect();
    let refused = (100..200)
        .filter(|seed| sent(&outputs, device(*seed)).iter().any(|m| matches!(m, Message::Refused { .. })))
        .count();
    assert_eq!((won.as_slice(), refused), ([100].as_slice(), 99));

    // The winner may have lost the answer; and a restart forgets nothing.
    let mut bench = Bench::restart(bench.durable.clone(), bench.now);
    bench.sync();
    for (seed, wanted) in [(100, true), (101, false)] {
        bench.input(Input::PeerUp { peer: device(seed) });
        let mut outputs = bench.frame(device(seed), &enrol([77; 32]));
        outputs.extend(bench.sync());
        let enrolled = sent(&outputs, device(seed)).iter().any(|m| matches!(m, Message::Enrolled { .. }));
        assert_eq!(enrolled, wanted, "{seed}");
    }
}

#[test]
fn expired_and_unknown_tokens_let_nobody_in() {
    let mut bench = Bench::new();
    bench.sync();
    bench.invite([50; 32], 1);
    bench.input(Input::PeerUp { peer: device(50) });
    assert!(matches!(sent(&bench.frame(device(50), &enrol([51; 32])), device(50))[0], Message::Refused { .. }));
    bench.now.wall = bench.now.wall + Duration::from_secs(3600);
    assert!(matches!(sent(&bench.frame(device(50), &enrol([50; 32])), device(50))[0], Message::Refused { .. }));
    assert_eq!(bench.state.devices().count(), 0);
    assert!(gone(&bench.later(HELLO_PATIENCE), device(50)), "a stranger is not kept");
}

#[test]
fn without_a_good_certificate_the_connection_ends() {
    let mut bench = Bench::new();
    bench.sync();
    let good = bench.member(20);
    let certificate = |seed: u8, signer: u8, role, expires| {
        let certificate = Certificate {
            device: device(seed),
            site: SiteId([2; 16]),
            groups: Bounded::default(),
            role,
            label: Text::default(),
            issued: START,
            expires,
        };
        let bytes = envelope::sign(Kind::Certificate, Role::Online, &certificate, &[&key(signer)]).unwrap();
        Bounded::new(bytes).unwrap()
    };
    let far = START + CERTIFICATE_LIFE;
    for (what, shown) in [
        ("none", Bounded::default()),
        ("somebody else's", good.clone()),
        ("self-signed", certificate(21, 21, NodeRole::Node, far)),
        ("expired", certificate(21, ONLINE, NodeRole::Node, START)),
        ("a coordinator's", certificate(21, ONLINE, NodeRole::Coordinator, far)),
    ] {
        bench.input(Input::PeerUp { peer: device(21) });
        assert!(gone(&bench.frame(device(21), &hello(shown)), device(21)), "{what}");
    }
    for (what, frame) in [("renewal", Message::Renew), ("relay", relay(20, 1))] {
        bench.input(Input::PeerUp { peer: device(21) });
        assert!(gone(&bench.frame(device(21), &frame), device(21)), "{what} before hello");
    }
    bench.input(Input::PeerUp { peer: device(21) });
    assert!(gone(&bench.input(Input::Frame { peer: device(21), bytes: vec![0xff; 9] }), device(21)), "garbage");

    // The good one is answered, and a device that was off for long gets a new one.
    bench.input(Input::PeerUp { peer: device(20) });
    assert!(matches!(sent(&bench.frame(device(20), &hello(good.clone())), device(20))[0], Message::Hello { .. }));
    bench.now.wall = far + Duration::from_secs(1);
    bench.frame(device(20), &hello(good));
    assert!(sent(&bench.sync(), device(20)).iter().any(|message| matches!(message, Message::Renewed { .. })));
}

#[test]
fn a_revoked_device_is_left_and_stays_out() {
    let mut bench = Bench::new();
    bench.sync();
    let certificate = bench.member(20);
    assert!(matches!(bench.done(Command::Revoke(device(99))), Err(Refusal::UnknownDevice(_))));
    let outputs = bench.admin(Command::Revoke(device(20)));
    assert!(gone(&outputs, device(20)));
    bench.sync();
    let mut bench = Bench::restart(bench.durable.clone(), bench.now);
    bench.sync();
    assert!(gone(&bench.input(Input::PeerUp { peer: device(20) }), device(20)), "after a restart");
    assert!(bench.frame(device(20), &hello(certificate)).is_empty());
}

#[test]
fn reports_are_believed_only_from_their_device_and_acknowledged_when_stored() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    bench.member(21);
    // Relayed by a neighbour.
    let open = opens(&bench.frame(device(21), &relay(20, 5)))[0];
    let outputs = bench.input(Input::ReportOpened { open, bytes: Some(signed_report(20, 5, 20)) });
    assert!(sent(&outputs, device(21)).iter().all(|m| !matches!(m, Message::RelayAck { .. })), "not stored yet");
    let acknowledged = sent(&bench.sync(), device(21));
    assert!(acknowledged.contains(&acknowledgement(20, 5)));

    // Old: acknowledged, not stored.
    let open = opens(&bench.frame(device(21), &relay(20, 4)))[0];
    let outputs = bench.input(Input::ReportOpened { open, bytes: Some(signed_report(20, 4, 20)) });
    assert_eq!(sent(&outputs, device(21)), [acknowledgement(20, 4)]);
    let count = |bench: &Bench| bench.durable.iter().filter(|r| matches!(r, Record::Report(..))).count();
    assert_eq!(count(&bench), 1);
    for (what, bytes) in [
        ("not sealed to us", None),
        ("signed by another", Some(signed_report(20, 6, 21))),
        ("another device's", Some(signed_report(21, 6, 21))),
        ("another number's", Some(signed_report(20, 7, 20))),
    ] {
        let open = opens(&bench.frame(device(21), &relay(20, 6)))[0];
        bench.input(Input::ReportOpened { open, bytes });
        bench.sync();
        assert_eq!(count(&bench), 1, "{what}");
    }
    assert!(opens(&bench.frame(device(21), &relay(99, 1))).is_empty(), "of an unknown device");
}

#[test]
fn endless_relays_stay_bounded() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    bench.member(21);
    let opened: usize = (1..1000).map(|seq| opens(&bench.frame(device(21), &relay(20, seq))).len()).sum();
    assert!(opened <= 16, "{opened} at once");
    // A device that reports without end is cut to its allowance.
    let mut stored = 0;
    for seq in 1000..2000 {
        for open in opens(&bench.frame(device(20), &relay(20, seq))) {
            bench.input(Input::ReportOpened { open, bytes: Some(signed_report(20, seq, 20)) });
        }
        stored += bench.written.len();
        bench.sync();
    }
    assert!((1..=64).contains(&stored), "{stored} were stored");
}

#[test]
fn members_of_a_site_hear_of_each_other() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    bench.member(21);
    let open = opens(&bench.frame(device(20), &relay(20, 1)))[0];
    let outputs = bench.input(Input::ReportOpened { open, bytes: Some(signed_report(20, 1, 20)) });
    let wanted = Message::Peers(Bounded::new(vec![Text::lossy("/ip4/10.0.0.20/tcp/1")]).unwrap());
    assert_eq!(sent(&outputs, device(21)), [wanted]);
    bench.sync();
    bench.invite([22; 32], 1);
    bench.input(Input::PeerUp { peer: device(22) });
    bench.frame(device(22), &enrol([22; 32]));
    let Message::Enrolled { peers, .. } = &sent(&bench.sync(), device(22))[0] else { panic!("not enrolled") };
    assert_eq!(peers.len(), 1);
}

#[test]
fn the_first_of_each_site_is_told_that_it_is() {
    let mut bench = Bench::new();
    bench.sync();
    let enrolled: Vec<_> = (20..23).map(|n| (n, bench.member(n))).collect();
    for (n, _) in &enrolled {
        bench.input(Input::PeerDown { peer: device(*n) });
    }
    for (n, certificate) in &enrolled {
        bench.input(Input::PeerUp { peer: device(*n) });
        let hello = Message::Hello {
            version: wire::VERSION,
            certificate: certificate.clone(),
            head: Bounded::default(),
            root_version: 1,
        };
        let told = sent(&bench.frame(device(*n), &hello), device(*n)).contains(&Message::FirstOfSite);
        assert_eq!(told, *n == 20, "{n}");
    }
}

#[test]
fn of_many_that_come_together_each_hears_of_others() {
    let mut bench = Bench::new();
    bench.sync();
    let machines = 20..60;
    machines.clone().for_each(|n| drop(bench.member(n)));
    let mut told = BTreeSet::new();
    for n in machines.clone() {
        let open = opens(&bench.frame(device(n), &relay(n, 1)))[0];
        let outputs = bench.input(Input::ReportOpened { open, bytes: Some(signed_report(n, 1, n)) });
        let hears = |peer: &u8| {
            sent(&outputs, device(*peer)).iter().any(|m| matches!(m, Message::Peers(hints) if !hints.is_empty()))
        };
        told.extend(machines.clone().filter(hears));
    }
    assert_eq!(told.len(), machines.len());
}

#[test]
fn documents_go_to_members_and_payloads_to_nobody() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    bench.input(Input::PeerUp { peer: device(21) });
    let ask = |bench: &mut Bench, peer, serve, what| bench.input(Input::BlockRequested { peer, serve, what }).remove(0);
    let doc = BlockWhat::Doc(DocHash([1; 32]));
    assert!(matches!(ask(&mut bench, device(21), 1, doc), Output::Deny { status: BlockStatus::Refused, .. }));
    let chunks = BlockWhat::Chunks { payload: PayloadId([7; 32]), first: 0, count: 1 };
    assert!(matches!(ask(&mut bench, device(20), 2, chunks), Output::Deny { status: BlockStatus::Refused, .. }));
    let unknown = BlockWhat::Doc(DocHash([8; 32]));
    assert!(matches!(ask(&mut bench, device(20), 3, unknown), Output::Deny { status: BlockStatus::NotHeld, .. }));
    let served =
        (10..100).filter(|serve| matches!(ask(&mut bench, device(20), *serve, doc), Output::Serve { .. })).count();
    assert_eq!(served, 4, "slots of one peer");
    bench.input(Input::Served { serve: 10 });
    assert!(matches!(
        ask(&mut bench, device(20), 200, BlockWhat::Root(1)),
        Output::Serve { what: ServeWhat::Root(1), .. }
    ));
}

#[test]
fn a_data_directory_from_a_backup_goes_on_above_what_is_out_there() {
    let mut bench = Bench::new();
    bench.sync();
    let old = bench.durable.clone();
    let certificate = bench.member(20);
    let (_, bytes) = bench.release(1);
    bench.done(Command::Publish(bytes)).unwrap();
    bench.done(Command::Hold { hold: Hold::Everything, on: true }).unwrap();
    let newest = bench.state.head().to_vec();

    let mut bench = Bench::restart(old, bench.now);
    bench.sync();
    bench.input(Input::PeerUp { peer: device(20) });
    // It does not remember the device either: its own signature is enough.
    let outputs = bench.frame(device(20), &hello(certificate));
    assert!(matches!(sent(&outputs, device(20))[0], Message::Hello { .. }));
    let gossip = Input::Gossip { id: 1, from: device(20), topic: Topic::Head, bytes: newest.clone() };
    let outputs = bench.input(gossip);
    assert!(outputs.iter().any(|output| matches!(output, Output::Alarm(_))));
    let mut forged = newest;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(published(&bench.sync())[0].index_version, 4);
    let gossip = Input::Gossip { id: 2, from: device(20), topic: Topic::Head, bytes: forged };
    let outputs = bench.input(gossip);
    assert!(matches!(outputs[0], Output::GossipVerdict { verdict: Verdict::Reject, .. }));
}
