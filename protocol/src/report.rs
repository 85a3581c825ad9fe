//! What a device tells the coordinator: states with reasons and ages, bytes by source, its inventory, and what it is missing.
//!
//! All of it is signed by the device, sealed to the coordinator and passed on by neighbours. The acknowledgement proves that
//! the coordinator has read it: it is keyed with a hash of what was sealed ([`receipt`]), which no bearer knows.

use serde::{Deserialize, Serialize};

use crate::catalog::{Action, NodeRole};
use crate::codec::{Bounded, Text};
use crate::evaluate::ScanState;
use crate::ids::{DeviceId, DocHash, GroupId, ReleaseId, SiteId};
use crate::inventory::InventoryPart;
use crate::time::Wall;

/// Where a device stands with one approved release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DeploymentState {
    /// Will be done, but not yet.
    Pending,
    /// Somebody stopped it for now.
    OnHold,
    /// Looking for bytes.
    Offering,
    /// Bytes are arriving.
    Downloading,
    /// Every byte is there and verified.
    Downloaded,
    /// The recipe runs.
    Installing,
    /// Installed, and the machine wants a restart.
    RestartRequired,
    /// Detection confirms it.
    Installed,
    /// The uninstall recipe runs.
    Uninstalling,
    /// Detection confirms that it is gone.
    Uninstalled,
    /// The approval was withdrawn before it was done.
    Canceled,
    /// A later release makes it needless.
    Superseded,
    /// It did not work, and will not be tried again by itself.
    Failed,
    /// No progress, although there should be.
    Stalled,
    /// The release does not concern this device.
    NotApplicable,
}

/// Finer than a state; one word for tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SubState {
    /// Nothing finer to say.
    None,
    /// Waits for its time, ring or jitter.
    Scheduled,
    /// Waits for a maintenance window or the end of work.
    AwaitingWindow,
    /// Waits for a release it depends on.
    AwaitingDependency,
    /// Held by the admin.
    Paused,
    /// Put off by the person at the machine.
    Deferred,
    /// Waits for another install to end.
    Queued,
    /// Waits for documents or chunk lists.
    AwaitingCatalog,
    /// Will be tried again.
    Retrying,
    /// A document has expired.
    Expired,
    /// The disk or the quota is full.
    NoSpace,
    /// No source has what is missing.
    NoSource,
    /// On battery or a metered link.
    PowerOrLink,
}

/// Payload bytes by where they came from. No byte is counted twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BytesBySource {
    /// Over the WAN, by this device.
    pub origin: u64,
    /// From a branch cache of the site.
    pub cache: u64,
    /// From other machines of the site.
    pub lan_peer: u64,
    /// From payloads already on this disk.
    pub local_reuse: u64,
}

impl BytesBySource {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.origin + self.cache + self.lan_peer + self.local_reuse
    }
}

/// One deployment on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentReport {
    /// The release.
    pub release: ReleaseId,
    /// The group whose approval counts here.
    pub group: GroupId,
    /// That approval's version.
    pub approval_version: u64,
    /// What is to be done.
    pub action: Action,
    /// Where it stands.
    pub state: DeploymentState,
    /// Finer.
    pub sub_state: SubState,
    /// Exit code of the recipe, when one ended.
    pub code: Option<i32>,
    /// Why, in a sentence.
    pub reason: Text<200>,
    /// When it came into this state.
    pub since: Wall,
    /// Payload bytes verified and on disk, of `total`.
    pub done: u64,
    /// Payload bytes in all.
    pub total: u64,
}

/// One message from a device to the coordinator, signed by its key as [`crate::envelope::Kind::Report`], then sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// How it is.
    Status(Box<Report>),
    /// A piece of what is installed on it.
    Inventory(Box<InventoryReport>),
    /// What it is missing.
    Scan(Box<ScanReport>),
}

impl Told {
    /// Who speaks.
    pub fn device(&self) -> DeviceId {
        match self {
            Told::Status(report) => report.device,
            Told::Inventory(report) => report.device,
            Told::Scan(report) => report.device,
        }
    }

    /// Grows with every message of a device, over restarts too.
    pub fn seq(&self) -> u64 {
        match self {
            Told::Status(report) => report.seq,
            Told::Inventory(report) => report.seq,
            Told::Scan(report) => report.seq,
        }
    }
}

/// A piece of the way from the inventory that the coordinator holds to the one of now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryReport {
    /// Who speaks.
    pub device: DeviceId,
    /// As in [`Told::seq`].
    pub seq: u64,
    /// When it was made.
    pub issued: Wall,
    /// The piece. Pieces may come in any order.
    pub part: InventoryPart,
}

/// Where a device stands with the releases of the catalog, approved or not. Each set of parts stands for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanReport {
    /// Who speaks.
    pub device: DeviceId,
    /// As in [`Told::seq`].
    pub seq: u64,
    /// When the evaluation was made; the same in all parts of a set, and later in a later set.
    pub issued: Wall,
    /// Version of the index whose releases were looked at.
    pub index_version: u64,
    /// Releases in the state Unknown, NotApplicable, Required, Installed.
    pub counts: [u32; 4],
    /// Position of this part, from 0.
    pub part: u8,
    /// Number of parts, at most [`MAX_SCAN_PARTS`].
    pub parts: u8,
    /// Releases that are Required, Installed or Unknown, in this order of importance, as far as they fit.
    pub states: Bounded<(ReleaseId, ScanState), MAX_SCAN_PART>,
}

/// The most parts of one scan report: what does not fit is only counted.
pub const MAX_SCAN_PARTS: u8 = 16;
/// The most releases in one part.
pub const MAX_SCAN_PART: usize = 80;

/// What only the device and whoever opened the seal can know of a message: the key of its acknowledgement. `envelope` is the
/// signed [`Told`]; the signature in it cannot be guessed.
pub fn receipt(envelope: &[u8]) -> [u8; 32] {
    blake3::derive_key("upswarm 2026-11 receipt of a report", envelope)
}

/// Proves to the device that the coordinator has stored message `seq`, and holds the inventory `held` of it
/// ([`DocHash::default`]: none).
pub fn acknowledgement(receipt: &[u8; 32], seq: u64, held: &DocHash) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(receipt);
    hasher.update(&seq.to_le_bytes()).update(&held.0);
    *hasher.finalize().as_bytes()
}

/// How a device is, and what has changed in its deployments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who speaks.
    pub device: DeviceId,
    /// Grows with every report of this device, over restarts too.
    pub seq: u64,
    /// When it was made.
    pub issued: Wall,
    /// Its site.
    pub site: SiteId,
    /// Its role.
    pub role: NodeRole,
    /// Its name for people.
    pub label: Text<64>,
    /// upswarm's version on it.
    pub agent: Text<32>,
    /// Operating system, for people.
    pub os: Text<64>,
    /// Version of the index it acts on.
    pub index_version: u64,
    /// Where it listens, for the hints that the coordinator gives to newcomers of its site.
    pub addresses: Bounded<Text<128>, 4>,
    /// Bytes since the node was set up.
    pub bytes: BytesBySource,
    /// Something an admin should look at: tampered documents, a misbehaving peer, a damaged store.
    pub alarms: Bounded<Text<200>, 4>,
    /// Deployments whose state changed since the last acknowledged report, or all of them part by part.
    pub deployments: Bounded<DeploymentReport, 6>,
}
