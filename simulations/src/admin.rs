//! The admin of one deployment: keys, and documents signed with them.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use upswarm_protocol::catalog::{
    Action, Approval, Assignment, Certificate, Classification, Detect, FilePlacement, GroupDocument, HeldKey, Keys,
    Members, NodeRole, Payload, Platform, PublisherRule, Recipe, Release, RestartPolicy, RingPlan, Root, Schedule,
    Severity,
};
use upswarm_protocol::chunk::{ChunkList, ChunkSizes};
use upswarm_protocol::codec::{self, Bounded, Text};
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::{ChunkId, DeviceId, DocHash, GroupId, PayloadId, PublicKey, ReleaseId, SiteId};
use upswarm_protocol::time::Wall;

/// The wall clock at the start of every simulation.
pub const START: Wall = Wall(1_900_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// A key that a number stands for.
pub fn key(purpose: &str, number: u64) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(format!("{purpose} {number}").as_bytes()).as_bytes())
}

/// The device that a key is.
pub fn device(key: &SigningKey) -> DeviceId {
    DeviceId(key.verifying_key().to_bytes())
}

/// An approval with this schedule and these rings, from now on for a month.
pub fn approval(
    group: GroupId,
    release: ReleaseId,
    version: u64,
    action: Action,
    now: Wall,
    (schedule, rings): (Schedule, RingPlan),
) -> Approval {
    Approval {
        group,
        group_version: 0,
        release,
        version,
        action,
        issued: now,
        expires: now + DAY * 30,
        schedule,
        rings,
        note: Text::default(),
        back: false,
        filtered: None,
    }
}

/// A signed release with what belongs to it.
#[derive(Debug, Clone)]
pub struct Published {
    /// Its name.
    pub id: ReleaseId,
    /// Its content.
    pub release: Arc<Release>,
    /// Its envelope.
    pub bytes: Vec<u8>,
    /// The chunk list of its one payload.
    pub list: Arc<ChunkList>,
}

impl Published {
    /// Its one payload.
    pub fn payload(&self) -> PayloadId {
        self.release.payloads[0].id
    }

    /// Bytes of its payload.
    pub fn len(&self) -> u64 {
        self.list.payload_len()
    }

    /// Whether its payload has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a release is to be like.
#[derive(Debug, Clone)]
pub struct ReleaseSpec {
    /// Name of the product.
    pub product: &'static str,
    /// Release counter.
    pub counter: u64,
    /// Bytes of the payload, about.
    pub len: u64,
    /// Bytes of a chunk on average.
    pub chunk: u32,
    /// Chunks taken over from another payload: its list, and how many in a hundred.
    pub like: Option<(Arc<ChunkList>, u64)>,
    /// Releases that it supersedes.
    pub supersedes: Vec<ReleaseId>,
}

impl ReleaseSpec {
    /// The first release of a product, of so many MiB.
    pub fn first(product: &'static str, mib: u64) -> Self {
        Self { product, counter: 1, len: mib << 20, chunk: 256 << 10, like: None, supersedes: Vec::new() }
    }
}

/// Every key of a deployment in one place.
#[derive(Debug)]
pub struct Admin {
    /// The envelope of the root.
    pub root_bytes: Vec<u8>,
    /// The root.
    pub root: Root,
    /// The coordinator's online key.
    pub online: SigningKey,
    publisher: SigningKey,
    approver: SigningKey,
}

impl Default for Admin {
    fn default() -> Self {
        Self::new()
    }
}

impl Admin {
    /// A deployment with one key per role.
    pub fn new() -> Self {
        let one = |key: &SigningKey| {
            Keys::single(HeldKey { key: PublicKey(key.verifying_key().to_bytes()), holder: Text::lossy("one person") })
        };
        let [offline, online, publisher, approver] = ["root", "online", "publisher", "approver"].map(|p| key(p, 0));
        let root = Root {
            version: 1,
            issued: START - DAY,
            expires: START + DAY * 365,
            root: one(&offline),
            publishers: Bounded::truncated(vec![PublisherRule {
                product_prefix: Text::default(),
                keys: one(&publisher),
            }]),
            approvers: one(&approver),
            targeting: None,
            group_rules: Bounded::default(),
            upstreams: Bounded::default(),
            online: one(&online),
            report_key: [9; 32],
        };
        let root_bytes = envelope::sign(Kind::Root, Role::Root, &root, &[&offline]).expect("a small root");
        Self { root_bytes, root, online, publisher, approver }
    }

    /// A release with one payload, cut into chunks.
    pub fn release(&self, spec: &ReleaseSpec, now: Wall) -> Published {
        let name = format!("{} {}", spec.product, spec.counter);
        let seed = u64::from_le_bytes(std::array::from_fn(|at| blake3::hash(name.as_bytes()).as_bytes()[at]));
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut pieces, mut sum) = (Vec::new(), 0);
        let old = spec.like.as_ref().map(|(list, share)| (list.chunks(), *share));
        while sum < spec.len {
            let taken = old.and_then(|(old, share)| {
                (rng.u64(..100) < share).then(|| old.get(pieces.len())).flatten().map(|chunk| (chunk.id, chunk.len))
            });
            let (id, len) = taken.unwrap_or_else(|| {
                let quarter = spec.chunk / 4;
                let len = if rng.bool() { rng.u32(quarter..3 * quarter) } else { rng.u32(3 * quarter..9 * quarter) };
                (ChunkId::of(format!("{name} {}", pieces.len()).as_bytes()), len)
            });
            pieces.push((id, len));
            sum += u64::from(len);
        }
        let sizes = ChunkSizes { min: spec.chunk / 4, average: spec.chunk, max: spec.chunk * 4 };
        let list = ChunkList::new(sizes, pieces).expect("chunks within bounds");
        let list_bytes = list.to_bytes();
        let payload = Payload {
            name: Text::lossy(&format!("{name}.bin")),
            id: PayloadId::of(name.as_bytes()),
            len: list.payload_len(),
            chunk_list: DocHash::of(&list_bytes),
            chunk_list_len: list_bytes.len() as u32,
            sha256: [0; 32],
            urls: Bounded::default(),
            patches: Bounded::default(),
        };
        let path = Text::lossy(&format!("/opt/{}", spec.product));
        let release = Release {
            product: Text::lossy(spec.product),
            version: Text::lossy(&spec.counter.to_string()),
            counter: spec.counter,
            title: Text::lossy(&name),
            classification: Classification::Update,
            severity: Severity::Moderate,
            cves: Bounded::default(),
            issued: now,
            expires: now + DAY * 180,
            platform: Platform::default(),
            payloads: Bounded::truncated(vec![payload]),
            applicability: Bounded::default(),
            detect: Bounded::truncated(vec![Detect::FileExists { path: path.clone() }]),
            install: Recipe::Files {
                files: Bounded::truncated(vec![FilePlacement { payload: 0, path: path.clone(), mode: 0o755 }]),
            },
            uninstall: Some(Recipe::RemoveFiles { paths: Bounded::truncated(vec![path]) }),
            restart: RestartPolicy::Never,
            depends: Bounded::default(),
            supersedes: Bounded::truncated(spec.supersedes.clone()),
        };
        let body = codec::encode(&release, Kind::Release.cap()).expect("a small release");
        let bytes =
            envelope::sign_body(Kind::Release, Role::Publisher, &body, &[&self.publisher]).expect("a small release");
        Published { id: ReleaseId::of(&body), release: Arc::new(release), bytes, list: Arc::new(list) }
    }

    /// An approval, signed by the approver.
    pub fn signed(&self, approval: &Approval) -> Vec<u8> {
        envelope::sign(Kind::Approval, Role::Approver, approval, &[&self.approver]).expect("a small approval")
    }

    /// What a group is, signed by the approver.
    pub fn group(&self, group: GroupId, version: u64, members: Members, issued: Wall) -> Vec<u8> {
        let document = GroupDocument { group, version, name: Text::lossy("everybody"), issued, members };
        envelope::sign(Kind::Group, Role::Approver, &document, &[&self.approver]).expect("a small document")
    }

    /// An approval, signed by somebody who is no approver.
    pub fn forged(&self, approval: &Approval) -> Vec<u8> {
        envelope::sign(Kind::Approval, Role::Approver, approval, &[&key("nobody", 0)]).expect("a small approval")
    }

    /// A certificate for a device.
    pub fn certificate(&self, device: DeviceId, site: SiteId, role: NodeRole) -> Vec<u8> {
        let certificate =
            Certificate { device, site, role, label: Text::default(), issued: START - DAY, expires: START + DAY * 89 };
        envelope::sign(Kind::Certificate, Role::Online, &certificate, &[&self.online]).expect("a small certificate")
    }

    /// An assignment of a device to one group.
    pub fn assignment(&self, device: DeviceId, group: GroupId) -> Vec<u8> {
        let groups = Bounded::truncated(vec![group]);
        let assignment =
            Assignment { device, groups, ways: Bounded::default(), issued: START - DAY, expires: START + DAY * 89 };
        envelope::sign(Kind::Assignment, Role::Online, &assignment, &[&self.online]).expect("a small assignment")
    }
}
