//! A small deployment with all its keys, and everything it can sign. Deterministic: the same bytes in every run.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod bench;

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use upswarm_protocol::catalog::*;
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::*;
use upswarm_protocol::node::NodeConfig;
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::{HeadNews, Interest, Trust, Wanted};

pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);
/// The time of the tests: 2027-01-15 08:00 UTC.
pub const NOW: Wall = Wall(1_800_000_000_000);
pub const GROUP: GroupId = GroupId([0x11; 16]);
/// A group whose approvals need two signatures.
pub const CAREFUL: GroupId = GroupId([0x22; 16]);
pub const SITE: SiteId = SiteId([0x33; 16]);

/// The signing key with this seed.
pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn public(key: &SigningKey) -> PublicKey {
    PublicKey(*key.verifying_key().as_bytes())
}

/// Each in a hand of its own.
pub fn keys(of: &[SigningKey], threshold: u8) -> Keys {
    let held = |key: &SigningKey| held(key, &format!("holder of {}", public(key).short()));
    Keys { keys: Bounded::new(of.iter().map(held).collect()).unwrap(), threshold }
}

pub fn held(key: &SigningKey, holder: &str) -> HeldKey {
    HeldKey { key: public(key), holder: text(holder) }
}

pub fn text<const N: usize>(text: &str) -> Text<N> {
    Text::new(text).unwrap()
}

pub fn list<T, const N: usize>(elements: Vec<T>) -> Bounded<T, N> {
    Bounded::new(elements).unwrap()
}

/// An envelope, what it is called in an index, and the release that it is or is about.
#[derive(Debug, Clone)]
pub struct Doc {
    pub entry: DocEntry,
    pub bytes: Vec<u8>,
    pub release: ReleaseId,
}

impl Doc {
    pub fn new(kind: Kind, version: u64, bytes: Vec<u8>, release: ReleaseId) -> Self {
        let entry = DocEntry { kind, hash: DocHash::of(&bytes), len: bytes.len() as u32, version };
        Self { entry, bytes, release }
    }
}

/// One state of the catalog: a head, its index, the pages below it, and the documents that these name.
#[derive(Debug, Clone)]
pub struct Edition {
    pub head: Vec<u8>,
    pub index: Vec<u8>,
    pub pages: Vec<Vec<u8>>,
    pub documents: Vec<Doc>,
}

impl Edition {
    /// Offers all of it; every part must be taken.
    pub fn offer_to(&self, trust: &mut Trust) {
        assert_eq!(trust.offer_head(&self.head, NOW).unwrap(), HeadNews::New);
        trust.offer_index(self.index.clone()).unwrap();
        self.offer_documents(trust);
        assert_eq!(trust.wanted(), Wanted::Nothing);
        assert!(trust.is_current());
    }

    /// Offers index and pages.
    pub fn offer_index(&self, trust: &mut Trust) {
        trust.offer_index(self.index.clone()).unwrap();
        self.offer_pages(trust);
    }

    /// Offers the pages until no more are wanted.
    pub fn offer_pages(&self, trust: &mut Trust) {
        for _ in 0..page::MAX_DEPTH {
            for page in &self.pages {
                let _ = trust.offer_document(page.clone(), NOW);
            }
            if !matches!(trust.wanted(), Wanted::Pages(_)) {
                return;
            }
        }
    }

    /// Everything below the index, as it lies on a disk.
    pub fn stored(&self) -> BTreeMap<DocHash, Vec<u8>> {
        let documents = self.documents.iter().map(|document| &document.bytes);
        self.pages.iter().chain(documents).map(|bytes| (DocHash::of(bytes), bytes.clone())).collect()
    }

    /// Offers pages and documents, whatever comes of it.
    pub fn offer_documents(&self, trust: &mut Trust) {
        self.offer_pages(trust);
        for document in &self.documents {
            let _ = trust.offer_document(document.bytes.clone(), NOW);
        }
    }
}

/// Every key of a deployment, and the root that names them.
#[derive(Clone)]
pub struct World {
    /// Two of three sign roots.
    pub root_keys: Vec<SigningKey>,
    /// May publish `org.example.` products.
    pub publisher: SigningKey,
    /// Two of two for `org.example.critical.` products.
    pub critical: Vec<SigningKey>,
    /// May publish snapshots of repositories.
    pub sync: SigningKey,
    pub approvers: Vec<SigningKey>,
    pub online: Vec<SigningKey>,
    pub root: Root,
}

impl World {
    pub fn new() -> Self {
        let root_keys = vec![key(1), key(2), key(3)];
        let publisher = key(10);
        let critical = vec![key(11), key(12)];
        let sync = key(13);
        let approvers = vec![key(20), key(21)];
        let online = vec![key(30)];
        let rule = |prefix: &str, keys| PublisherRule { product_prefix: text(prefix), keys };
        let root = Root {
            version: 1,
            issued: Wall(NOW.0) - 10 * DAY,
            expires: NOW + 355 * DAY,
            root: keys(&root_keys, 2),
            publishers: list(vec![
                rule("org.example.", keys(std::slice::from_ref(&publisher), 1)),
                rule("org.example.critical.", keys(&critical, 2)),
                rule("apt", keys(std::slice::from_ref(&sync), 1)),
            ]),
            approvers: keys(&approvers, 1),
            targeting: None,
            group_rules: list(vec![GroupRule { group: CAREFUL, threshold: 2 }]),
            upstreams: list(vec![UpstreamRule {
                name: text("debian"),
                description: DocHash(payload("upstream.json").id.0),
            }]),
            online: keys(&online, 1),
            report_key: [0x55; 32],
        };
        Self { root_keys, publisher, critical, sync, approvers, online, root }
    }

    /// The root, signed by the first two root keys.
    pub fn root_doc(&self) -> Vec<u8> {
        sign_root(&self.root, &[&self.root_keys[0], &self.root_keys[1]])
    }

    /// A machine that has enrolled with this root and knows nothing else.
    pub fn trust(&self) -> Trust {
        let root = self.root_doc();
        let hash = DocHash::of(&root);
        let mut trust = Trust::pin(root, hash, NOW - DAY).unwrap();
        trust.set_interest(Interest::of([GROUP, CAREFUL]));
        trust
    }

    /// This world one root further, after `change`; signed by the same root keys.
    pub fn next(&self, change: impl FnOnce(&mut World)) -> World {
        let mut next = self.clone();
        next.root.version += 1;
        next.root.issued = next.root.issued + HOUR;
        change(&mut next);
        next
    }

    /// This world one root further, with this online key instead of the old ones.
    pub fn with_online(&self, seed: u8) -> World {
        self.next(|next| {
            next.online = vec![key(seed)];
            next.root.online = keys(&next.online, 1);
        })
    }

    pub fn publish(&self, release: &Release) -> Doc {
        let product = release.product.as_str();
        if product.starts_with("org.example.critical.") {
            return publish(release, &self.critical.iter().collect::<Vec<_>>());
        }
        publish(release, &[if product.starts_with("apt.") { &self.sync } else { &self.publisher }])
    }

    pub fn approve(&self, approval: &Approval) -> Doc {
        approve(approval, &[&self.approvers[0]])
    }

    pub fn index_doc(&self, index: &Index) -> Vec<u8> {
        envelope::sign(Kind::Index, Role::Online, index, &[&self.online[0]]).unwrap()
    }

    pub fn head(&self, version: u64, index: &[u8]) -> Head {
        Head {
            root_version: self.root.version,
            index_version: version,
            index_hash: DocHash::of(index),
            index_len: index.len() as u32,
            issued: NOW - HOUR,
            expires: NOW + 3 * DAY,
        }
    }

    pub fn head_doc(&self, head: &Head) -> Vec<u8> {
        sign_head(head, &self.online[0])
    }

    pub fn edition(&self, version: u64, documents: Vec<Doc>) -> Edition {
        self.edition_with(version, documents, |_| ())
    }

    pub fn edition_with(&self, version: u64, documents: Vec<Doc>, change: impl FnOnce(&mut Index)) -> Edition {
        let (mut index, pages) = index(version, &documents);
        change(&mut index);
        let index = self.index_doc(&index);
        Edition { head: self.head_doc(&self.head(version, &index)), index, pages, documents }
    }

    pub fn certificate_doc(&self, certificate: &Certificate) -> Vec<u8> {
        envelope::sign(Kind::Certificate, Role::Online, certificate, &[&self.online[0]]).unwrap()
    }

    pub fn assignment_doc(&self, assignment: &Assignment) -> Vec<u8> {
        envelope::sign(Kind::Assignment, Role::Online, assignment, &[&self.online[0]]).unwrap()
    }

    /// An edition with one approved release.
    pub fn simple(&self, version: u64) -> Edition {
        let release = self.publish(&release("org.example.tool", version));
        let approval = self.approve(&approval(GROUP, release.release, version));
        self.edition(version, vec![release, approval])
    }
}

pub fn sign_root(root: &Root, by: &[&SigningKey]) -> Vec<u8> {
    envelope::sign(Kind::Root, Role::Root, root, by).unwrap()
}

pub fn sign_head(head: &Head, by: &SigningKey) -> Vec<u8> {
    envelope::sign(Kind::Head, Role::Online, head, &[by]).unwrap()
}

pub fn publish(release: &Release, by: &[&SigningKey]) -> Doc {
    let bytes = envelope::sign(Kind::Release, Role::Publisher, release, by).unwrap();
    let id =
        ReleaseId::of(envelope::Envelope::parse(&bytes, Kind::Release, Role::Publisher).unwrap().unverified_body());
    Doc::new(Kind::Release, release.counter, bytes, id)
}

pub fn approve(approval: &Approval, by: &[&SigningKey]) -> Doc {
    let bytes = envelope::sign(Kind::Approval, Role::Approver, approval, by).unwrap();
    Doc::new(Kind::Approval, approval.version, bytes, approval.release)
}

pub fn describe(document: &GroupDocument, by: &[&SigningKey]) -> Doc {
    let bytes = envelope::sign(Kind::Group, Role::Approver, document, by).unwrap();
    Doc::new(Kind::Group, document.version, bytes, ReleaseId::default())
}

/// A group and what belongs to it.
pub fn group(group: GroupId, version: u64, members: Members) -> GroupDocument {
    GroupDocument { group, version, name: text("web"), issued: NOW - HOUR, members }
}

pub fn rule(conditions: &[&str]) -> Members {
    Members::Rule(list(conditions.iter().map(|condition| text(condition)).collect()))
}

fn group_in(bytes: &[u8]) -> Option<GroupDocument> {
    let body = envelope::Envelope::parse(bytes, Kind::Group, Role::Approver).ok()?.unverified_body();
    upswarm_protocol::codec::decode(body, Kind::Group.cap()).ok()
}

/// An index of these documents and its pages: groups and approvals with the releases that they name by group, the rest undecided.
pub fn index(version: u64, documents: &[Doc]) -> (Index, Vec<Vec<u8>>) {
    let mut groups: BTreeMap<GroupId, BTreeMap<DocHash, DocEntry>> = BTreeMap::new();
    let mut undecided: BTreeMap<DocHash, DocEntry> =
        documents.iter().map(|document| (document.entry.hash, document.entry)).collect();
    let releases: BTreeMap<ReleaseId, DocEntry> = documents
        .iter()
        .filter(|document| document.entry.kind == Kind::Release)
        .map(|document| (document.release, document.entry))
        .collect();
    for document in documents {
        if let Some(described) = group_in(&document.bytes) {
            groups.entry(described.group).or_default().insert(document.entry.hash, document.entry);
            undecided.remove(&document.entry.hash);
            continue;
        }
        let Some(approval) = approval_in(&document.bytes).filter(|_| document.entry.kind == Kind::Approval) else {
            continue;
        };
        for named in releases.get(&approval.release).into_iter().chain([&document.entry]) {
            groups.entry(approval.group).or_default().insert(named.hash, *named);
            undecided.remove(&named.hash);
        }
    }
    let mut pages = Vec::new();
    let groups: Vec<_> = groups
        .into_iter()
        .map(|(group, entries)| {
            let entries: Vec<_> = entries.into_values().collect();
            GroupEntry { group, documents: page::grow_page(&entries, 128, &mut pages).unwrap() }
        })
        .collect();
    let undecided: Vec<_> = undecided.into_values().collect();
    let index = Index {
        version,
        issued: NOW - HOUR,
        expires: NOW + 7 * DAY,
        holds: list(vec![]),
        origins: list(vec![text("https://updates.example.org/")]),
        revoked: Node::default(),
        groups: page::grow(&groups, 16, 16, &mut pages).unwrap(),
        published: page::grow(&undecided, 4, 16, &mut pages).unwrap(),
        audit: None,
    };
    (index, pages.into_iter().map(|page| page.bytes).collect())
}

fn approval_in(bytes: &[u8]) -> Option<Approval> {
    if let Ok(ruled) = envelope::Envelope::parse(bytes, Kind::Approval, Role::Online) {
        let ruled: RuledApproval =
            upswarm_protocol::codec::decode(ruled.unverified_body(), Kind::Approval.cap()).ok()?;
        return Some(ruled.approval);
    }
    let envelope = envelope::Envelope::parse(bytes, Kind::Approval, Role::Approver).ok()?;
    upswarm_protocol::codec::decode(envelope.unverified_body(), Kind::Approval.cap()).ok()
}

/// The part of an index that says who is revoked.
pub fn revoked(devices: &[DeviceId]) -> Node<DeviceId, { page::INDEX_ENTRIES }> {
    let mut devices = devices.to_vec();
    devices.sort_unstable();
    Node::Leaf(list(devices))
}

pub fn payload(name: &str) -> Payload {
    Payload {
        name: text(name),
        id: PayloadId::of(name.as_bytes()),
        len: 1 << 20,
        chunk_list: DocHash::of(name.as_bytes()),
        chunk_list_len: 176,
        sha256: [7; 32],
        urls: list(vec![]),
        patches: list(vec![]),
    }
}

pub fn release(product: &str, counter: u64) -> Release {
    Release {
        product: text(product),
        version: text(&format!("{counter}.0")),
        counter,
        title: text("A tool"),
        classification: Classification::Security,
        severity: Severity::Important,
        cves: list(vec![text("CVE-2026-0001")]),
        issued: NOW - DAY,
        expires: NOW + 180 * DAY,
        platform: Platform { os: text("linux"), arch: text("x86_64") },
        payloads: list(vec![payload("tool")]),
        applicability: list(vec![]),
        detect: list(vec![Detect::FileHash { path: text("/opt/tool"), blake3: [9; 32] }]),
        install: Recipe::Files {
            files: list(vec![FilePlacement { payload: 0, path: text("/opt/tool"), mode: 0o755 }]),
        },
        uninstall: Some(Recipe::RemoveFiles { paths: list(vec![text("/opt/tool")]) }),
        restart: RestartPolicy::Never,
        depends: list(vec![]),
        supersedes: list(vec![]),
    }
}

/// A snapshot of the repository `debian`, with these packages for amd64 at version 2.
pub fn snapshot(counter: u64, packages: &[(&str, WhenAbsent)]) -> Release {
    let mut release = release("apt.debian", counter);
    let mut files = vec![payload("upstream.json"), payload("InRelease"), payload("Packages.xz")];
    let packages = packages.iter().map(|(name, when_absent)| {
        files.push(payload(&format!("{name}_2_amd64.deb")));
        AptPackage {
            payload: files.len() as u16 - 1,
            name: text(name),
            version: text("2"),
            arch: text("amd64"),
            source: text(name),
            when_absent: when_absent.clone(),
        }
    });
    release.install = Recipe::Apt(AptRecipe {
        upstream: 0,
        in_release: 1,
        indexes: list(vec![AptIndex { payload: 2, path: text("main/binary-amd64/Packages.xz") }]),
        packages: list(packages.collect()),
        back: false,
        timeout_s: 600,
    });
    release.payloads = list(files);
    release.detect = list(vec![Detect::Selection]);
    release.uninstall = None;
    release
}

pub fn approval(group: GroupId, release: ReleaseId, version: u64) -> Approval {
    Approval {
        group,
        group_version: 0,
        release,
        version,
        action: Action::Install,
        back: false,
        issued: NOW - HOUR,
        expires: NOW + 30 * DAY,
        schedule: Schedule::default(),
        rings: RingPlan::default(),
        note: text("ok"),
        filtered: None,
    }
}

pub fn certificate(device: &SigningKey) -> Certificate {
    Certificate {
        device: DeviceId(*device.verifying_key().as_bytes()),
        site: SITE,
        role: NodeRole::Node,
        label: text("pc-1"),
        issued: NOW - DAY,
        expires: NOW + 89 * DAY,
    }
}

/// The settings of a device that knows nobody yet.
pub fn settings(device: &SigningKey) -> NodeConfig {
    NodeConfig {
        key: device.clone(),
        seed: 1,
        label: text("pc-1"),
        agent: text("test"),
        os: text("linux"),
        build_time: NOW - DAY,
        coordinator: DeviceId([0xcc; 32]),
        coordinator_addresses: vec![],
        peers: vec![],
        origins: vec![],
        wan_weight: 8,
        machine: Default::default(),
        upload_slots: 4,
        ask_first: Duration::ZERO,
        zone: upswarm_protocol::schedule::zone("Europe/Berlin").unwrap(),
        boot: text("boot-1"),
    }
}

/// The list of this device alone.
pub fn own_list(device: &SigningKey) -> ListTree {
    DeviceList::new([0x44; 32], [DeviceId(*device.verifying_key().as_bytes())]).unwrap().tree()
}

pub fn assignment(device: &SigningKey) -> Assignment {
    Assignment {
        device: DeviceId(*device.verifying_key().as_bytes()),
        groups: list(vec![GROUP]),
        ways: list(own_list(device).way(GROUP, &DeviceId(*device.verifying_key().as_bytes())).into_iter().collect()),
        issued: NOW - DAY,
        expires: NOW + 89 * DAY,
    }
}

/// The encodings of the points of small order, then those that are not canonical (RFC 8032, section 5.1.3).
pub const SMALL_ORDER: [&str; 14] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

pub fn bytes32(hex_digits: &str) -> [u8; 32] {
    hex::decode(hex_digits).unwrap().try_into().unwrap()
}
