//! A coordinator on a bench, and documents for it.

use super::*;
use crate::catalog::{
    AUDIT_MAGIC, Action, Approval, Classification, Detect, FilePlacement, GroupDocument, HeldKey, Index, Keys, Members,
    NodeRole, Payload, Platform, PublisherRule, Recipe, Release, RestartPolicy, RingPlan, Schedule, Severity,
};
use crate::catalog::{page, walk};
use crate::codec;
use crate::envelope::{self, Role};
use crate::ids::SiteId;
use crate::report::{self, BytesBySource, DeploymentReport, DeviceMessage, Papers, Report};
use crate::time::Wall;
use crate::wire;

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

pub(super) fn held(seed: u8) -> HeldKey {
    HeldKey { key: public(seed), holder: Text::lossy(&format!("holder {seed}")) }
}

pub(super) fn keys(seed: u8) -> Keys {
    Keys::single(held(seed))
}

pub(super) const ROOT: u8 = 1;
pub(super) const PUBLISHER: u8 = 2;
pub(super) const APPROVER: u8 = 3;
pub(super) const ONLINE: u8 = 4;
pub(super) const ME: u8 = 5;

pub(super) fn root() -> Root {
    let rule = PublisherRule { product_prefix: Text::default(), keys: keys(PUBLISHER) };
    Root {
        version: 1,
        issued: START,
        expires: START + Duration::from_secs(365 * 86400),
        root: keys(ROOT),
        publishers: Bounded::new(vec![rule]).unwrap(),
        approvers: keys(APPROVER),
        targeting: None,
        group_rules: Bounded::default(),
        upstreams: Bounded::default(),
        online: keys(ONLINE),
        report_key: [9; 32],
    }
}

/// A root signed by the first root key, and by others.
pub(super) fn root_doc(root: &Root, others: &[&SigningKey]) -> Vec<u8> {
    let first = key(ROOT);
    envelope::sign(Kind::Root, Role::Root, root, &[&[&first], others].concat()).unwrap()
}

/// Where a log ends after more of its bytes.
fn after_line(before: AuditEnd, bytes: &[u8]) -> AuditEnd {
    let text = core::str::from_utf8(bytes.strip_prefix(AUDIT_MAGIC).unwrap_or(bytes)).unwrap();
    let entry = text.trim_end().splitn(3, ' ').nth(2).unwrap();
    let (again, after) = before.append(entry.as_bytes()).unwrap();
    assert_eq!(again, bytes);
    after
}

/// A coordinator with a disk that is written only when the test says so.
pub(super) struct Bench {
    pub(super) state: CoordinatorState,
    pub(super) now: Now,
    /// Records that were handed out and not yet told durable.
    pub(super) written: Vec<(u64, Record)>,
    pub(super) durable: Vec<Record>,
    pub(super) outputs: Vec<Output>,
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
        let mut logs = BTreeMap::new();
        let mut roots = vec![root_doc(&root(), &[])];
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
                    papers: report.papers,
                    deployments: report.deployments.into_vec(),
                }),
                Record::Rollouts(bytes) => stored.rollouts = Some(bytes),
                Record::WanLimits(bytes) => stored.wan_limits = Some(bytes),
                Record::InventoryBase(digest, bytes) => stored.inventory_bases.push((digest, bytes)),
                Record::Inventory(device, bytes) => stored.inventories.push((device, bytes)),
                Record::Scan(device, bytes) => stored.scans.push((device, bytes)),
                Record::Groups(bytes) => stored.groups = Some(bytes),
                Record::Root(_, bytes) => roots.push(bytes),
                Record::Audit(at, bytes) => {
                    assert_eq!(at, stored.audit.len, "it goes on where it ended");
                    stored.audit = after_line(stored.audit, &bytes);
                }
                Record::Log(device, release, bytes) => drop(logs.insert((device, release), bytes)),
            }
        }
        stored.logs.extend(logs.into_values().filter(|bytes| !bytes.is_empty()));
        stored.devices.extend(devices.into_values());
        stored.invites = invites.into_values().collect();
        let newest = roots.pop().unwrap();
        let body = envelope::Envelope::parse(&newest, Kind::Root, Role::Root).unwrap().unverified_body();
        let newest_root: Root = codec::decode(body, Kind::Root.cap()).unwrap();
        let online = (0..=255).find(|seed| newest_root.online.contains(&public(*seed))).unwrap();
        stored.earlier_roots = roots;
        let setup = Setup {
            device: device(ME),
            root: newest_root,
            root_hash: DocHash::of(&newest),
            online: key(online),
            origins: vec![],
            stored,
        };
        let state = CoordinatorState::new(setup, now).unwrap();
        let mut bench = Self { state, now, written: vec![], durable, outputs: vec![], requests: 0 };
        bench.drain();
        bench
    }

    /// All that an index names, with the pages that were written.
    pub(super) fn named(&self, index: &Index) -> walk::Everything {
        walk::everything(index, |hash| {
            let written = self.durable.iter().find_map(|record| match record {
                Record::Document(document) if document.hash == *hash => Some(document.bytes.clone()),
                _ => None,
            });
            written.ok_or(page::PageError::Magic)
        })
        .unwrap()
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

    /// The coordinator ends by itself, with everything on disk.
    pub(super) fn end(&mut self) {
        self.state.handle_end(self.now);
        self.drain();
        self.sync();
    }

    pub(super) fn admin(&mut self, command: Command) -> Vec<Output> {
        self.requests += 1;
        self.input(Input::Admin { request: self.requests, command, entry: None })
    }

    pub(super) fn done(&mut self, command: Command) -> Result<Done, Refusal> {
        let mut outputs = self.admin(command);
        outputs.extend(self.sync());
        answer(outputs).expect("an answer")
    }

    pub(super) fn frame(&mut self, peer: DeviceId, message: &Message) -> Vec<Output> {
        self.input(Input::Frame { peer, bytes: message.encode().unwrap() })
    }

    pub(super) fn invite(&mut self, secret: [u8; 32], uses: u32) {
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

    /// Publishes a release that differs so from the others.
    pub(super) fn published_that(&mut self, counter: u64, change: impl FnOnce(&mut Release)) -> ReleaseId {
        self.release(counter);
        let (id, bytes) = signed_release_that(self.now.wall, counter, PUBLISHER, change);
        self.done(Command::Publish(bytes)).unwrap();
        id
    }

    /// Approves a release for a group. Returns what follows.
    pub(super) fn approved(&mut self, release: ReleaseId, group: GroupId, version: u64) -> Vec<Output> {
        let bytes = signed_approval_for(group, self.now.wall, release, version, APPROVER);
        let mut outputs = self.admin(Command::Approve(bytes));
        outputs.extend(self.sync());
        outputs
    }

    pub(super) fn release(&mut self, counter: u64) -> (ReleaseId, Vec<u8>) {
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
        invited: true,
        certificate: Bounded::default(),
        certified: START,
        assignment: Bounded::default(),
        assigned: START,
    };
    Stored { devices: (0..devices).map(record).collect(), ..Stored::default() }
}

pub(super) fn enrol(secret: [u8; 32]) -> Message {
    Message::Enrol { version: wire::VERSION, secret, role: NodeRole::Node, label: Text::lossy("pc") }
}

pub(super) fn hello(certificate: Bounded<u8, 4096>) -> Message {
    Message::Hello { version: wire::VERSION, certificate, head: Bounded::default(), root_version: 1 }
}

pub(super) fn signed_release(now: Wall, counter: u64, signer: u8) -> (ReleaseId, Vec<u8>) {
    signed_release_that(now, counter, signer, |_| ())
}

pub(super) fn signed_release_that(
    now: Wall,
    counter: u64,
    signer: u8,
    change: impl FnOnce(&mut Release),
) -> (ReleaseId, Vec<u8>) {
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
    let mut release = Release {
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
    change(&mut release);
    let body = codec::encode(&release, Kind::Release.cap()).unwrap();
    (ReleaseId::of(&body), envelope::sign_body(Kind::Release, Role::Publisher, &body, &[&key(signer)]).unwrap())
}

pub(super) fn signed_approval(now: Wall, release: ReleaseId, version: u64, signer: u8) -> Vec<u8> {
    signed_approval_for(GroupId([1; 16]), now, release, version, signer)
}

pub(super) fn signed_approval_for(group: GroupId, now: Wall, release: ReleaseId, version: u64, signer: u8) -> Vec<u8> {
    let approval = plain_approval(group, now, release, version);
    envelope::sign(Kind::Approval, Role::Approver, &approval, &[&key(signer)]).unwrap()
}

pub(super) fn plain_approval(group: GroupId, now: Wall, release: ReleaseId, version: u64) -> Approval {
    Approval {
        group,
        group_version: 0,
        release,
        version,
        action: Action::Install,
        back: false,
        issued: now,
        expires: now + Duration::from_secs(86400),
        schedule: Schedule::default(),
        rings: RingPlan::default(),
        note: Text::default(),
        filtered: None,
    }
}

pub(super) fn rule(texts: &[&str]) -> Members {
    Members::Rule(Bounded::new(texts.iter().map(|text| Text::lossy(text)).collect()).unwrap())
}

pub(super) fn signed_group(group: GroupId, version: u64, members: Members, signer: u8) -> Vec<u8> {
    let document = GroupDocument { group, version, name: Text::lossy("a group"), issued: START, members };
    envelope::sign(Kind::Group, Role::Approver, &document, &[&key(signer)]).unwrap()
}

pub(super) fn signed_report(seed: u8, seq: u64, signer: u8) -> Vec<u8> {
    signed_report_of(seed, seq, signer, Vec::new())
}

/// A report of a device that holds papers of these times.
pub(super) fn signed_report_with(seed: u8, seq: u64, papers: Papers) -> Vec<u8> {
    sign_report(seed, Report { papers, ..plain_report(seed, seq) })
}

pub(super) fn signed_report_of(seed: u8, seq: u64, signer: u8, deployments: Vec<DeploymentReport>) -> Vec<u8> {
    sign_report(signer, Report { deployments: Bounded::new(deployments).unwrap(), ..plain_report(seed, seq) })
}

pub(super) fn plain_report(seed: u8, seq: u64) -> Report {
    Report {
        device: device(seed),
        seq,
        issued: START,
        site: SiteId([2; 16]),
        role: NodeRole::Node,
        label: Text::lossy("pc"),
        agent: Text::lossy("0.1"),
        os: Text::lossy("linux"),
        index_version: 1,
        papers: Papers::default(),
        addresses: Bounded::new(vec![Text::lossy(&format!("/ip4/10.0.0.{seed}/tcp/1"))]).unwrap(),
        bytes: BytesBySource::default(),
        neighbours: 0,
        alarms: Bounded::default(),
        deployments: Bounded::default(),
    }
}

pub(super) fn sign_report(signer: u8, report: Report) -> Vec<u8> {
    envelope::sign(Kind::Report, Role::Device, &DeviceMessage::Status(Box::new(report)), &[&key(signer)]).unwrap()
}

pub(super) fn acknowledgement(seed: u8, seq: u64) -> Message {
    let receipt = report::receipt(&signed_report(seed, seq, seed));
    let held = DocHash::default();
    let proof = report::acknowledgement(&receipt, seq, &held, &[]);
    Message::RelayAck { device: device(seed), seq, held, news: Bounded::default(), proof }
}

pub(super) fn relay(seed: u8, seq: u64) -> Message {
    Message::Relay { device: device(seed), seq, encrypted: Bounded::new(vec![0; 8]).unwrap() }
}

pub(super) fn sent(outputs: &[Output], to: DeviceId) -> Vec<Message> {
    let of_peer = |output: &Output| match output {
        Output::Send { peer, frame } if *peer == to => Some(Message::decode(frame).unwrap()),
        _ => None,
    };
    outputs.iter().filter_map(of_peer).collect()
}

pub(super) fn gone(outputs: &[Output], who: DeviceId) -> bool {
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

pub(super) fn published(outputs: &[Output]) -> Vec<Head> {
    let head = |output: &Output| match output {
        Output::Publish { bytes, .. } => Some(open_online(&root(), bytes, Kind::Head).unwrap()),
        _ => None,
    };
    outputs.iter().filter_map(head).collect()
}
