//! The bytes of every wire and disk format. A change here is a change of the format: bump its version.

use upswarm_protocol::catalog::*;
use upswarm_protocol::chunk::{ChunkList, ChunkSizes};
use upswarm_protocol::codec::{self, Bounded};
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::evaluate::ScanState;
use upswarm_protocol::ids::*;
use upswarm_protocol::inventory::InventoryPart;
use upswarm_protocol::report::*;
use upswarm_protocol::wire::*;

use crate::common::*;

/// Compares with what was pinned: hex, or for longer bytes `length:BLAKE3`.
fn pinned(what: &str, bytes: &[u8], expected: &str) {
    let found = if bytes.len() <= 260 { hex::encode(bytes) } else { format!("{}:{}", bytes.len(), DocHash::of(bytes)) };
    assert!(found == expected, "the format of {what} has changed: bump its version.\nnow: {found}\nwas: {expected}");
}

pub(crate) fn presence() -> Presence {
    Presence {
        certificate: list(vec![1, 2, 3]),
        issued: NOW,
        addresses: list(vec![text("/ip4/10.0.0.7/tcp/4001")]),
        wan_weight: 8,
        uplink: true,
        leaving: false,
        fetches: list(vec![PayloadKey([7; 8])]),
        holds: list(vec![PayloadKey([9; 8])]),
        shares: false,
    }
}

pub(crate) fn lease() -> Lease {
    Lease {
        device: DeviceId([5; 32]),
        site: SITE,
        seq: 9,
        progress: 4096,
        claims: list(vec![Claim {
            payload: PayloadId([6; 32]),
            extents: list(vec![1, 7]),
            held: list(vec![0b1001, 1]),
        }]),
    }
}

pub(crate) fn device_message() -> DeviceMessage {
    DeviceMessage::Status(Box::new(report()))
}

fn report() -> Report {
    Report {
        device: DeviceId([5; 32]),
        seq: 3,
        issued: NOW,
        site: SITE,
        role: NodeRole::Cache,
        label: text("pc-1"),
        agent: text("0.1.0"),
        os: text("Debian"),
        index_version: 4,
        papers: Papers { certificate: NOW, assignment: NOW },
        addresses: list(vec![text("/ip4/10.0.0.7/tcp/4001")]),
        bytes: BytesBySource { origin: 1, cache: 2, lan_peer: 3, local_reuse: 4 },
        neighbours: 7,
        alarms: list(vec![DeviceAlarm { kind: Trouble::Disk, text: text("a") }]),
        deployments: list(vec![DeploymentReport {
            release: ReleaseId([8; 32]),
            group: GROUP,
            approval_version: 2,
            action: Action::Install,
            state: DeploymentState::Failed,
            sub_state: SubState::Retrying,
            code: Some(-1),
            reason: text("no"),
            since: NOW,
            done: 1,
            total: 2,
            next_try: None,
        }]),
    }
}

/// A release that uses every part of the format.
fn full_release() -> Release {
    let patch = Patch { base: PayloadId([3; 32]), payload: 1, encoding: text("zstd") };
    let mut release = release("org.example.tool", 7);
    let first =
        Payload { urls: list(vec![text("https://v.example/t")]), patches: list(vec![patch]), ..payload("tool") };
    release.payloads = list(vec![first, payload("tool.patch")]);
    release.applicability = list(vec![
        Applicability::HasPackage { kind: PackageKind::Rpm, name: text("tool") },
        Applicability::Fact { name: text("os.id"), value: text("debian") },
        Applicability::FileExists { path: text("/opt") },
    ]);
    release.detect = list(vec![
        Detect::FileHash { path: text("/opt/tool"), blake3: [9; 32] },
        Detect::FileContains { path: text("/opt/v"), text: text("7") },
        Detect::FileExists { path: text("/opt/x") },
        Detect::Command { argv: list(vec![text("/opt/tool"), text("-V")]), exit_code: 0, timeout_s: 5 },
        Detect::Package { kind: PackageKind::Snap, name: text("tool"), version: text("7") },
    ]);
    release.install = Recipe::Exec {
        argv: list(vec![text("{payload}")]),
        exit_codes: list(vec![ExitRule { code: 3010, meaning: ExitMeaning::RestartRequired }]),
        timeout_s: 600,
    };
    release.depends = list(vec![ReleaseId([1; 32])]);
    release.supersedes = list(vec![ReleaseId([2; 32])]);
    release
}

fn full_approval() -> Approval {
    let mut approval = approval(GROUP, ReleaseId([8; 32]), 2);
    approval.back = true;
    approval.schedule = Schedule {
        available_from: Some(NOW),
        deadline: Some(NOW + DAY),
        grace_s: 60,
        windows: list(vec![Window { days: Weekdays::ALL, start: 1320, end: 300 }]),
        active_hours: Some(ActiveHours { days: Weekdays(0x1f), start: 480, end: 1080 }),
        deferral: Deferral { max_times: 3, max_total_s: 86_400 },
        jitter_s: 600,
        expedite: false,
        fetch_ahead: FetchAhead {
            within_s: 86_400,
            windows: list(vec![Window { days: Weekdays(0x60), start: 0, end: 1440 }]),
        },
    };
    approval.rings = RingPlan { rings: list(vec![Ring { up_to: 500, delay_s: 0 }]), stop_above: 1000 };
    approval.filtered = Some(Filtered { signature: list(vec![1, 2]), certificate: list(vec![3]) });
    approval
}

#[test]
fn envelope_and_catalog() {
    let world = World::new();
    let small = envelope::sign_body(Kind::Head, Role::Online, b"body", &[&key(7)]).unwrap();
    pinned("the envelope", &small, ENVELOPE);
    let body = |kind: Kind, value: &dyn Fn(usize) -> Vec<u8>| value(kind.cap());
    let root = body(Kind::Root, &|cap| codec::encode(&world.root, cap).unwrap());
    pinned("the root", &root, ROOT);
    pinned("the release", &codec::encode(&full_release(), Kind::Release.cap()).unwrap(), RELEASE);
    for (at, (recipe, expected)) in recipes().into_iter().zip(RECIPES).enumerate() {
        pinned(&format!("recipe {at}"), &codec::encode(&recipe, 4096).unwrap(), expected);
    }
    pinned("the approval", &codec::encode(&full_approval(), Kind::Approval.cap()).unwrap(), APPROVAL);
    let by_rule = ApprovalRule { available_after_s: Some(3600), group_version: 2, ..crate::rules::rule() };
    let body = codec::encode(&by_rule, Kind::RepositoryRule.cap()).unwrap();
    pinned("the rule about a repository", &body, REPOSITORY_RULE);
    let signed = envelope::sign_body(Kind::RepositoryRule, Role::Approver, &body, &[&world.approvers[0]]).unwrap();
    let ruled = RuledApproval { approval: by_rule.approval(ReleaseId([8; 32]), NOW), rule: list(signed) };
    pinned("the approval by a rule", &codec::encode(&ruled, Kind::Approval.cap()).unwrap(), RULED_APPROVAL);
    let undecided = world.publish(&release("org.example.new", 1));
    let (mut index, pages) = index(4, &[world.simple(1).documents, vec![undecided]].concat());
    index.revoked = revoked(&[DeviceId([5; 32])]);
    index.audit = Some(AuditHead { entries: 9, last: DocHash([4; 32]) });
    index.holds = list(vec![
        Hold::Everything,
        Hold::Group(GROUP),
        Hold::Release(ReleaseId([8; 32])),
        Hold::Approval(GROUP, ReleaseId([8; 32])),
        Hold::Rollout(GROUP, ReleaseId([8; 32])),
    ]);
    pinned("the index", &codec::encode(&index, Kind::Index.cap()).unwrap(), INDEX);
    pinned("a page of documents", &pages[0], PAGE);
    let mut children = [None; 16];
    children[5] = Some(DocRef { hash: DocHash([6; 32]), len: 300 });
    let groups = GroupEntry { group: GROUP, documents: DocRef { hash: DocHash([7; 32]), len: 200 } };
    let more = [
        Page::Groups(Node::Leaf(list(vec![groups]))),
        Page::Devices(Node::Leaf(list(vec![DeviceId([5; 32])]))),
        Page::Documents(Node::Fork(Box::new(children))),
    ];
    pinned("other pages", &more.map(|page| page.encode().unwrap()).concat(), PAGES);
    pinned("the head", &codec::encode(&world.head(4, b"index"), Kind::Head.cap()).unwrap(), HEAD);
    let certificate = codec::encode(&certificate(&key(50)), Kind::Certificate.cap()).unwrap();
    pinned("the certificate", &certificate, CERTIFICATE);
    let assignment = codec::encode(&assignment(&key(50)), Kind::Assignment.cap()).unwrap();
    pinned("the assignment", &assignment, ASSIGNMENT);
    let list = Members::List(own_list(&key(50)).root());
    let groups = [Members::Listed, rule(&["os.id=debian"]), list].map(|members| group(GROUP, 3, members));
    let groups = groups.map(|group| codec::encode(&group, Kind::Group.cap()).unwrap());
    pinned("the groups", &groups.concat(), GROUPS);
    let signed = [world.root_doc(), world.simple(1).head, world.simple(1).index].concat();
    pinned("signed documents", &signed, SIGNED);
}

fn recipes() -> Vec<Recipe> {
    vec![
        Recipe::Files { files: list(vec![FilePlacement { payload: 1, path: text("/a"), mode: 0o644 }]) },
        Recipe::RemoveFiles { paths: list(vec![text("/a")]) },
        Recipe::Deb { timeout_s: 1 },
        Recipe::RemoveDeb { packages: list(vec![text("a")]), timeout_s: 1 },
        Recipe::Rpm { timeout_s: 1 },
        Recipe::RemoveRpm { packages: list(vec![text("a")]), timeout_s: 1 },
        crate::common::snapshot(
            1,
            &[("a", WhenAbsent::Never), ("b", WhenAbsent::With(list(vec![0]))), ("c", WhenAbsent::Always)],
        )
        .install,
    ]
}

#[test]
fn chunk_list() {
    let pieces = [(ChunkId([1; 32]), 65_536), (ChunkId([2; 32]), 70_000)];
    let bytes = ChunkList::new(ChunkSizes::default(), pieces).unwrap().to_bytes();
    pinned("the chunk list", &bytes, CHUNK_LIST);
}

#[test]
fn what_devices_sign() {
    pinned("the presence", &codec::encode(&presence(), Kind::Presence.cap()).unwrap(), PRESENCE);
    pinned("the lease", &codec::encode(&lease(), Kind::Lease.cap()).unwrap(), LEASE);
    pinned("the report", &codec::encode(&device_message(), Kind::Report.cap()).unwrap(), REPORT);
}

#[test]
fn control_frames() {
    let payload = PayloadId([6; 32]);
    let mention = Mention {
        member: MemberKey([3; 6]),
        issued: NOW,
        wan_weight: 8,
        leaving: false,
        speaks: true,
        has_record: true,
    };
    let frames = [
        Message::Hello { version: VERSION, certificate: list(vec![1]), head: list(vec![2]), root_version: 3 },
        Message::Enrol { version: VERSION, secret: [4; 32], role: NodeRole::Coordinator, label: text("pc") },
        Message::Enrolled {
            certificate: list(vec![1]),
            assignment: list(vec![2]),
            head: list(vec![]),
            origins: list(vec![text("o")]),
            peers: list(vec![text("p")]),
        },
        Message::Refused { reason: text("no") },
        Message::Renew,
        Message::Renewed { certificate: list(vec![1]) },
        Message::Head(list(vec![2])),
        Message::Catalog { index: DocHash([7; 32]) },
        Message::Members(Records::pack([[1].as_slice(), &[2, 3]]).0),
        Message::Peers(list(vec![text("p")])),
        Message::Holdings(list(vec![
            Holding { payload, wants: true, held: Held::Some(list(vec![0xff, 1])) },
            Holding { payload, wants: true, held: Held::More(list(vec![1, 2])) },
            Holding { payload, wants: false, held: Held::All },
            Holding { payload, wants: false, held: Held::Nothing },
        ])),
        Message::Relay { device: DeviceId([5; 32]), seq: 1, encrypted: list(vec![9]) },
        Message::RelayAck {
            device: DeviceId([5; 32]),
            seq: 1,
            held: DocHash([6; 32]),
            news: list(vec![8]),
            proof: [7; 32],
        },
        Message::FirstOfSite,
        Message::Digest { buckets: list(vec![MentionId([3; 6]), MentionId([4; 6])]), answer: true },
        Message::Known(list(vec![mention])),
        Message::Ask(list(vec![MemberKey([4; 6])])),
        Message::Suspects(list(vec![(MemberKey([5; 6]), NOW)])),
        Message::Assignment(list(vec![9])),
        Message::Call { device: DeviceId([5; 32]) },
        Message::Retry(list(vec![8])),
        Message::Here { clock: NOW, run: 8 },
        Message::Leave,
        Message::WanLimits(list(vec![7])),
    ];
    assert_eq!(frames.len(), FRAMES.len());
    for (frame, expected) in frames.iter().zip(FRAMES) {
        let bytes = frame.encode().unwrap();
        pinned(&format!("{frame:?}"), &bytes, expected);
        assert_eq!(Message::decode(&bytes).unwrap(), *frame);
    }
}

#[test]
fn reports_of_inventories_and_scans() {
    let messages =
        told(list(vec![0, 1, 2]), list(vec![(ReleaseId([8; 32]), ScanState::Required)]), list(b"E: no".to_vec()));
    let (five, six, seven, eight) = ("05".repeat(32), "06".repeat(32), "07".repeat(32), "08".repeat(32));
    let now = "00505c18a3010000";
    let expected = [
        format!("01000000{five}0300000000000000{now}{six}{seven}010002000300000000000000000102"),
        format!(
            "02000000{five}0400000000000000{now}0900000000000000010000000200000003000000040000000001{}{eight}02000000",
            "0100000000000000"
        ),
        format!("03000000{five}0500000000000000{now}{eight}{now}01000200010500000000000000453a206e6f"),
    ];
    for (message, expected) in messages.iter().zip(expected) {
        let bytes = codec::encode(message, Kind::Report.cap()).unwrap();
        pinned("a report", &bytes, &expected);
        assert_eq!(codec::decode::<DeviceMessage>(&bytes, Kind::Report.cap()).unwrap(), *message);
    }
}

#[test]
fn orders_of_the_coordinator() {
    let now = "00505c18a3010000";
    let order = LogOrder { device: DeviceId([5; 32]), release: ReleaseId([8; 32]), issued: NOW };
    let bytes = codec::encode(&order, Kind::LogOrder.cap()).unwrap();
    pinned("the order of a log", &bytes, &format!("{}{}{now}", "05".repeat(32), "08".repeat(32)));
    let rates = list(vec![WanRate { window: None, bytes_per_s: 1_000_000 }]);
    let order = WanLimits { site: SiteId([1; 16]), issued: NOW, rates, yields: Some(true) };
    let bytes = codec::encode(&order, Kind::WanLimits.cap()).unwrap();
    let expected = format!("{}{now}01000000000000000040420f00000000000101", "01".repeat(16));
    pinned("the order of limits", &bytes, &expected);
}

/// One report of each kind that is not the status.
fn told(
    entries: Bounded<u8, { upswarm_protocol::inventory::MAX_PART }>,
    states: Bounded<(ReleaseId, ScanState), MAX_SCAN_PART>,
    text: Bounded<u8, MAX_LOG_PART>,
) -> [DeviceMessage; 3] {
    let (device, issued) = (DeviceId([5; 32]), NOW);
    let part = InventoryPart { base: DocHash([6; 32]), result: DocHash([7; 32]), part: 1, parts: 2, entries };
    let scan = ScanReport { device, seq: 4, issued, index_version: 9, counts: [1, 2, 3, 4], part: 0, parts: 1, states };
    let release = ReleaseId([8; 32]);
    let log = LogReport { device, seq: 5, issued, release, ordered: NOW, part: 1, parts: 2, found: true, text };
    [
        DeviceMessage::Inventory(Box::new(InventoryReport { device, seq: 3, issued, part })),
        DeviceMessage::Scan(Box::new(scan)),
        DeviceMessage::Log(Box::new(log)),
    ]
}

/// Signed and encrypted, the largest ones fit what neighbours pass on.
#[test]
fn the_largest_reports_fit() {
    let states = (0..MAX_SCAN_PART).map(|_| (ReleaseId([8; 32]), ScanState::Required)).collect();
    let entries = list(vec![7; upswarm_protocol::inventory::MAX_PART]);
    for message in told(entries, list(states), list(vec![b'x'; MAX_LOG_PART])) {
        let signed = envelope::sign(Kind::Report, Role::Device, &message, &[&key(5)]).unwrap();
        assert!(signed.len() + 48 <= 4 << 10, "{} bytes and encryption", signed.len());
    }
}

#[test]
fn block_frames() {
    let chunks = BlockWhat::Chunks { payload: PayloadId([6; 32]), first: 2, count: 3 };
    let whats = [chunks, BlockWhat::Doc(DocHash([7; 32])), BlockWhat::Root(5)];
    for (what, expected) in whats.into_iter().zip(BLOCKS) {
        pinned(&format!("{what:?}"), &BlockRequest { request: 1, what }.to_bytes(), expected);
    }
    let answer = BlockAnswer { request: 1, status: BlockStatus::NotHeld, len: 7 };
    pinned("the block answer", &answer.to_bytes(), "010000000207000000");
}

#[test]
fn snapshot() {
    let world = World::new();
    let mut trust = world.trust();
    world.simple(1).offer_to(&mut trust);
    pinned("the snapshot", &trust.snapshot(), SNAPSHOT);
}

const ENVELOPE: &str = "555053310504000004000000626f647901ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c19787cd9eb971d6aafa3286e6f1d3678f2e247f834bc347c097709385c6afbc1a833f3e9cd6d4f2ce94f55a241eefbbb6c50fe303d10f0d7d1274a71e6441409";
const ROOT: &str = "838:494a16e53a36918bf2daaec92f8d1960d13f390e2fb871acc43eb32fb906ca94";
const RELEASE: &str = "916:87ba4a1072e5282515efc125e393cc38cfc109ad77f353708e59e7ce6f98a1e7";
const RECIPES: [&str; 7] = [
    "010000000100000000000000010002000000000000002f61a4010000",
    "02000000010000000000000002000000000000002f61",
    "0300000001000000",
    "04000000010000000000000001000000000000006101000000",
    "0500000001000000",
    "06000000010000000000000001000000000000006101000000",
    "0700000000000100010000000000000002001d000000000000006d61696e2f62696e6172792d616d6436342f5061636b616765732e787a030000000000000003000100000000000000610100000000000000320500000000000000616d6436340100000000000000610000000004000100000000000000620100000000000000320500000000000000616d643634010000000000000062010000000100000000000000000005000100000000000000630100000000000000320500000000000000616d643634010000000000000063020000000058020000",
];
const APPROVAL: &str = "11111111111111111111111111111111000000000000000008080808080808080808080808080808080808080808080808080808080808080200000000000000000000000180612518a30100000018dbb2a30100000100505c18a30100000100ac821da30100003c00000001000000000000007f28052c01011fe001380403805101005802000000805101000100000000000000600000a0050100000000000000f40100000000e80302000000000000006f6b0102000000000000000102010000000000000003";
const REPOSITORY_RULE: &str = "03000000111111111111111111111111111111110200000000000000060000000000000064656269616e020000000000000007000000000000006f70656e73736c04000000000000006375726c0300000000000000000000000000000000000000000000005802000000100e0000000000000000000001100e000001805101000200000000000000e803000000001027100e0000c800008d270000980f0ea301000000e0594da4010000";
const RULED_APPROVAL: &str = "466:5fce1c5b28338bbc8eda5c7385fbd5a87c49a07178e3ff8c23a17e1df3f038d0";
const PAGE: &str = "5550470101000000000000000200000000000000020000001024f13def4c20fa8643b549e275e53bf5743d400a76e736cd3c74dfe6d4908bfc000000010000000000000001000000f73afa3e52d2f5f35d548f5bbc3f7c26bc5eb5113042232410848b5490c86ed9200200000100000000000000";
const PAGES: &str = "5550470100000000000000000100000000000000111111111111111111111111111111110707070707070707070707070707070707070707070707070707070707070707c80000005550470102000000000000000100000000000000050505050505050505050505050505050505050505050505050505050505050555504701010000000100000000000000000106060606060606060606060606060606060606060606060606060606060606062c01000000000000000000000000";
const INDEX: &str = "449:e325b3a54f28e036eb5a1a8cdfdfb7682ee6f94de62853c4e32d03477f18fd5f";
const GROUPS: &str = "111111111111111111111111111111110300000000000000030000000000000077656280612518a301000000000000111111111111111111111111111111110300000000000000030000000000000077656280612518a30100000100000001000000000000000c000000000000006f732e69643d64656269616e111111111111111111111111111111110300000000000000030000000000000077656280612518a301000002000000ff4659f6378d08f1908d806d7ef07302c46052060ce0b3360ebe439fddb9dfe801000000";
const HEAD: &str = "01000000000000000400000000000000aaa6dc8a27328ce8cb8fc0d7a46c2774d23a9db2b642477ca4b420102d359c450500000080612518a30100000064cf27a3010000";
const CERTIFICATE: &str = "5e212c0980e4b39fc09721134aa02109374edfd260c0d3d03cb501c8d65457a93333333333333333333333333333333300000000040000000000000070632d3100f43513a3010000004cb2e2a4010000";
const ASSIGNMENT: &str = "5e212c0980e4b39fc09721134aa02109374edfd260c0d3d03cb501c8d65457a901000000000000001111111111111111111111111111111101000000000000001111111111111111111111111111111100000000ba1fa11b9b5e1af4392baf4b01f9c031000000000000000000f43513a3010000004cb2e2a4010000";
const SIGNED: &str = "1494:b44cf447352b4cd04d4a3e815607354f9e094a5f52d0435f848f407f4b1bfaab";
const CHUNK_LIST: &str = "5550434c01000000000001000000040000001000701102000000000002000000010101010101010101010101010101010101010101010101010101010101010100000100020202020202020202020202020202020202020202020202020202020202020270110100";
const PRESENCE: &str = "030000000000000001020300505c18a3010000010000000000000016000000000000002f6970342f31302e302e302e372f7463702f34303031080100010000000000000007070707070707070100000000000000090909090909090900";
const LEASE: &str = "05050505050505050505050505050505050505050505050505050505050505053333333333333333333333333333333309000000000000000010000000000000010000000000000006060606060606060606060606060606060606060606060606060606060606060200000000000000010000000700000002000000000000000901";
const REPORT: &str = "346:d02791bbceb24a12ee6f3b3f838893bb405f00eb2b7342b7ab5dc6122a3c8b93";
const FRAMES: [&str; 24] = [
    "0000000007000100000000000000010100000000000000020300000000000000",
    "01000000070004040404040404040404040404040404040404040404040404040404040404040200000002000000000000007063",
    "020000000100000000000000010100000000000000020000000000000000010000000000000001000000000000006f0100000000000000010000000000000070",
    "0300000002000000000000006e6f",
    "04000000",
    "05000000010000000000000001",
    "06000000010000000000000002",
    "070000000707070707070707070707070707070707070707070707070707070707070707",
    "080000000700000008000000000000007001000102000203",
    "090000000100000000000000010000000000000070",
    "0a0000000400000000000000060606060606060606060606060606060606060606060606060606060606060601010000000200000000000000ff0106060606060606060606060606060606060606060606060606060606060606060102000000020000000000000001000000020000000606060606060606060606060606060606060606060606060606060606060606000300000006060606060606060606060606060606060606060606060606060606060606060000000000",
    "0b00000005050505050505050505050505050505050505050505050505050505050505050100000000000000010000000000000009",
    "0c0000000505050505050505050505050505050505050505050505050505050505050505010000000000000006060606060606060606060606060606060606060606060606060606060606060100000000000000080707070707070707070707070707070707070707070707070707070707070707",
    "0d000000",
    "0e000000020000000000000003030303030304040404040401",
    "0f000000010000000000000003030303030300505c18a3c108",
    "100000000100000000000000040404040404",
    "11000000010000000000000005050505050500505c18a3010000",
    "12000000010000000000000009",
    "130000000505050505050505050505050505050505050505050505050505050505050505",
    "14000000010000000000000008",
    "1500000000505c18a30100000800000000000000",
    "16000000",
    "17000000010000000000000007",
];
const BLOCKS: [&str; 3] = [
    "010000000006060606060606060606060606060606060606060606060606060606060606060200000003000000",
    "010000000107070707070707070707070707070707070707070707070707070707070707070000000000000000",
    "010000000200000000000000000000000000000000000000000000000000000000000000000500000000000000",
];
const SNAPSHOT: &str = "1768:48240cfa53df56048bc6cf1621024664ffc95b2f6b0f785236f41f3a38b86421";
