//! What a device tells the coordinator: states with reasons and ages, bytes by source, its inventory, and what it is missing.
//!
//! All of it is signed by the device, encrypted to the coordinator and passed on by neighbours. The acknowledgement proves that
//! the coordinator has read it: it is keyed with a hash of what was encrypted ([`receipt`]), which no bearer knows. Under the same
//! key the acknowledgement carries what the coordinator has for the device alone ([`News`]).

use chacha20poly1305::aead::Aead;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};

use crate::catalog::{Action, NodeRole};
use crate::codec::{self, Bounded, Text};
use crate::envelope::{ASSIGNMENT_CAP, Kind};
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
    /// The machine's package manager was told to keep the package as it is.
    HeldByMachine,
    /// Another program holds the package manager's lock.
    Locked,
    /// Another package on the machine is broken.
    BrokenPackage,
    /// What the package depends on is not there.
    MissingDependency,
    /// What must come over the network cannot be reached.
    NoNetwork,
    /// Another product that stands for the same package is approved for the opposite.
    Conflict,
}

/// The most that a coordinator takes of a counter that a device tells: 64 PiB, far beyond what a machine can fetch. Hundreds of devices
/// that tell it, added up, stay far below the largest number of a database (2^63 - 1).
pub const MAX_TOLD: u64 = 1 << 56;

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
    /// All of them. A device tells them, and may tell anything: sums end at the largest number.
    pub fn total(&self) -> u64 {
        self.origin.saturating_add(self.cache).saturating_add(self.lan_peer).saturating_add(self.local_reuse)
    }

    /// Adds what another device, or another day, has.
    pub fn add(&mut self, more: &Self) {
        self.origin = self.origin.saturating_add(more.origin);
        self.cache = self.cache.saturating_add(more.cache);
        self.lan_peer = self.lan_peer.saturating_add(more.lan_peer);
        self.local_reuse = self.local_reuse.saturating_add(more.local_reuse);
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
    /// Why, in a sentence: the line of a package manager that says why, whole.
    pub reason: Text<400>,
    /// When it came into this state.
    pub since: Wall,
    /// Payload bytes verified and on disk, of `total`.
    pub done: u64,
    /// Payload bytes in all.
    pub total: u64,
    /// When it is tried again by itself, if nothing changes before.
    pub next_try: Option<Wall>,
}

/// One message from a device to the coordinator, signed by its key as [`crate::envelope::Kind::Report`], then encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceMessage {
    /// How it is.
    Status(Box<Report>),
    /// A piece of what is installed on it.
    Inventory(Box<InventoryReport>),
    /// What it is missing.
    Scan(Box<ScanReport>),
    /// A piece of a log that the coordinator asked for.
    Log(Box<LogReport>),
}

impl DeviceMessage {
    /// Who speaks.
    pub fn device(&self) -> DeviceId {
        match self {
            DeviceMessage::Status(report) => report.device,
            DeviceMessage::Inventory(report) => report.device,
            DeviceMessage::Scan(report) => report.device,
            DeviceMessage::Log(report) => report.device,
        }
    }

    /// Grows with every message of a device, over restarts too.
    pub fn seq(&self) -> u64 {
        match self {
            DeviceMessage::Status(report) => report.seq,
            DeviceMessage::Inventory(report) => report.seq,
            DeviceMessage::Scan(report) => report.seq,
            DeviceMessage::Log(report) => report.seq,
        }
    }
}

/// A piece of the way from the inventory that the coordinator holds to the one of now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryReport {
    /// Who speaks.
    pub device: DeviceId,
    /// As in [`DeviceMessage::seq`].
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
    /// As in [`DeviceMessage::seq`].
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

/// The most bytes of a log that a device tells; of a longer one its end.
pub const MAX_LOG: usize = 256 << 10;
/// The most bytes of it in one message: with them it fits into its envelope.
pub const MAX_LOG_PART: usize = 3584;
/// The most messages that a log takes.
pub const MAX_LOG_PARTS: u16 = MAX_LOG.div_ceil(MAX_LOG_PART) as u16;

/// The coordinator's order that a device tells what programs printed when a release was last tried there, signed by its online keys
/// as [`Kind::LogOrder`]. It reaches the device as [`News`], and gives its bearer nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOrder {
    /// The device.
    pub device: DeviceId,
    /// The release.
    pub release: ReleaseId,
    /// When it was signed; makes two orders two.
    pub issued: Wall,
}

/// A piece of a log that was ordered. The last piece comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// Who speaks.
    pub device: DeviceId,
    /// As in [`DeviceMessage::seq`].
    pub seq: u64,
    /// When it was made.
    pub issued: Wall,
    /// Of which release.
    pub release: ReleaseId,
    /// [`LogOrder::issued`] of the order that it answers.
    pub ordered: Wall,
    /// Position of this piece, from 0.
    pub part: u16,
    /// Number of pieces, 1 to [`MAX_LOG_PARTS`].
    pub parts: u16,
    /// Whether this is the log; else it says why there is none.
    pub found: bool,
    /// UTF-8, as programs printed it; a piece may begin or end within a character.
    pub text: Bounded<u8, MAX_LOG_PART>,
}

/// What only the device and whoever opened the encryption can know of a message: the key of its acknowledgement. `envelope` is the
/// signed [`DeviceMessage`]; the signature in it cannot be guessed.
pub fn receipt(envelope: &[u8]) -> [u8; 32] {
    blake3::derive_key("upswarm 2026-11 receipt of a report", envelope)
}

/// Proves to the device that the coordinator has stored message `seq`, holds the inventory `held` of it
/// ([`DocHash::default`]: none), and sends it this (concealed) news.
pub fn acknowledgement(receipt: &[u8; 32], seq: u64, held: &DocHash, news: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(receipt);
    hasher.update(&seq.to_le_bytes()).update(&held.0).update(news);
    *hasher.finalize().as_bytes()
}

/// The most bytes of concealed [`News`].
pub const MAX_NEWS: usize = 15 << 10;

/// What a coordinator has for one device: envelopes, each empty for none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct News {
    /// Its newest assignment to groups.
    pub assignment: Bounded<u8, ASSIGNMENT_CAP>,
    /// Its newest certificate.
    pub certificate: Bounded<u8, 4096>,
    /// A [`LogOrder`] that it has not answered.
    pub log: Bounded<u8, { Kind::LogOrder.cap() }>,
}

impl News {
    /// Encrypts it (XChaCha20-Poly1305) under a key that the device and the coordinator share because of the report that is
    /// acknowledged; nothing for nothing. The nonce is a keyed hash of what is encrypted: the answer to a report that came twice is
    /// the same or has another nonce, and no random source is needed.
    pub fn conceal(&self, receipt: &[u8; 32]) -> Bounded<u8, MAX_NEWS> {
        if *self == Self::default() {
            return Bounded::default();
        }
        let Ok(plain) = codec::encode(self, MAX_NEWS) else { return Bounded::default() };
        let [key, of_nonce] = news_keys(receipt);
        let hash = blake3::keyed_hash(&of_nonce, &plain);
        let nonce = &hash.as_bytes()[..NONCE];
        let cipher = XChaCha20Poly1305::new(&key.into());
        // The only error of the cipher is a message beyond its limit of many gigabytes.
        let encrypted = cipher.encrypt(XNonce::from_slice(nonce), &*plain).unwrap_or_default();
        Bounded::truncated([nonce, &encrypted].concat())
    }

    /// What was concealed; `None` for bytes that were changed, or that answer another report.
    pub fn reveal(receipt: &[u8; 32], concealed: &[u8]) -> Option<Self> {
        if concealed.is_empty() {
            return Some(Self::default());
        }
        let [key, _] = news_keys(receipt);
        let (nonce, encrypted) = concealed.split_at_checked(NONCE)?;
        let plain = XChaCha20Poly1305::new(&key.into()).decrypt(XNonce::from_slice(nonce), encrypted).ok()?;
        codec::decode(&plain, MAX_NEWS).ok()
    }
}

const NONCE: usize = 24;

fn news_keys(receipt: &[u8; 32]) -> [[u8; 32]; 2] {
    ["upswarm 2026-11 key of news", "upswarm 2026-11 nonce of news"].map(|context| blake3::derive_key(context, receipt))
}

/// When what a coordinator has signed for a device was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Papers {
    /// Its certificate.
    pub certificate: Wall,
    /// Its assignment to groups.
    pub assignment: Wall,
}

/// What an alarm of a device is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Trouble {
    /// Its clock. The coordinator, which knows those of others too, judges clocks by itself.
    Clock,
    /// Contradicting documents, both well signed.
    Fork,
    /// A document that was refused.
    Document,
    /// An origin that gives wrong bytes.
    Origin,
    /// A machine of the site that misbehaves.
    Peer,
    /// Its disk: no room, rotten chunks, errors.
    Disk,
    /// A restart that does not happen.
    Restart,
    /// Anything else.
    Other,
}

/// Something that an admin should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAlarm {
    /// What it is about.
    pub kind: Trouble,
    /// What was seen, in a sentence.
    pub text: Text<200>,
}

/// The most deployments in one report: with the longest reasons they fit into its envelope.
pub const MAX_DEPLOYMENTS: usize = 4;

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
    /// When the certificate and the assignment to groups that it holds were signed; zero for none.
    pub papers: Papers,
    /// Where it listens, for the hints that the coordinator gives to newcomers of its site.
    pub addresses: Bounded<Text<128>, 4>,
    /// Bytes since the node was set up.
    pub bytes: BytesBySource,
    /// Machines of its site that it knows to be here, without itself.
    pub neighbours: u32,
    /// What an admin should look at.
    pub alarms: Bounded<DeviceAlarm, 4>,
    /// Deployments whose state changed since the last acknowledged report, or all of them part by part.
    pub deployments: Bounded<DeploymentReport, MAX_DEPLOYMENTS>,
}

impl Report {
    /// Brings every counter down to [`MAX_TOLD`]. The signature was verified before, and is not kept.
    pub fn clamp(&mut self) {
        let BytesBySource { origin, cache, lan_peer, local_reuse } = &mut self.bytes;
        for counter in [origin, cache, lan_peer, local_reuse, &mut self.index_version] {
            *counter = MAX_TOLD.min(*counter);
        }
        let clamped = self.deployments.iter().cloned().map(|mut told| {
            (told.done, told.total) = (told.done.min(MAX_TOLD), told.total.min(MAX_TOLD));
            told
        });
        self.deployments = Bounded::truncated(clamped.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{self, Role};
    use ed25519_dalek::SigningKey;

    #[test]
    fn news_are_for_the_maker_of_the_report_alone() {
        let (ours, theirs) = (receipt(b"a signed report"), receipt(b"another"));
        let news = News { assignment: Bounded::truncated(vec![1; 300]), ..News::default() };
        let concealed = news.conceal(&ours);
        assert_eq!(News::reveal(&ours, &concealed), Some(news.clone()));
        assert_eq!(News::reveal(&theirs, &concealed), None);
        assert!(concealed.windows(8).all(|bytes| bytes != [1; 8]));
        for at in 0..concealed.len() {
            let mut changed = concealed.to_vec();
            changed[at] ^= 1;
            assert_eq!(News::reveal(&ours, &changed), None, "byte {at}");
        }
        // The same report, acknowledged twice: what differs is not encrypted under the same nonce.
        let later = News { assignment: Bounded::truncated(vec![2; 300]), ..News::default() };
        assert_ne!(later.conceal(&ours)[..NONCE], concealed[..NONCE]);
        assert_eq!(news.conceal(&ours), concealed);
    }

    #[test]
    fn bytes_that_a_device_makes_up_are_added_without_a_panic() {
        let mut bytes = BytesBySource { origin: u64::MAX, cache: 5, ..BytesBySource::default() };
        assert_eq!(bytes.total(), u64::MAX);
        bytes.add(&BytesBySource { origin: 7, cache: 1, ..BytesBySource::default() });
        assert_eq!((bytes.origin, bytes.cache), (u64::MAX, 6));
    }

    #[test]
    fn the_largest_report_fits_into_its_envelope() {
        let long = |len: usize| "x".repeat(len);
        let deployment = DeploymentReport {
            release: ReleaseId([1; 32]),
            group: GroupId([2; 16]),
            approval_version: u64::MAX,
            action: Action::Uninstall,
            state: DeploymentState::Failed,
            sub_state: SubState::NoNetwork,
            code: Some(-1),
            reason: Text::lossy(&long(400)),
            since: Wall(1),
            done: u64::MAX,
            total: u64::MAX,
            next_try: Some(Wall(2)),
        };
        let alarm = DeviceAlarm { kind: Trouble::Other, text: Text::lossy(&long(200)) };
        let report = Report {
            device: DeviceId([1; 32]),
            seq: u64::MAX,
            issued: Wall(1),
            site: SiteId([1; 16]),
            role: NodeRole::Cache,
            label: Text::lossy(&long(64)),
            agent: Text::lossy(&long(32)),
            os: Text::lossy(&long(64)),
            index_version: u64::MAX,
            papers: Papers::default(),
            addresses: Bounded::truncated(vec![Text::lossy(&long(128)); 4]),
            bytes: BytesBySource::default(),
            neighbours: u32::MAX,
            alarms: Bounded::truncated(vec![alarm; 4]),
            deployments: Bounded::truncated(vec![deployment; MAX_DEPLOYMENTS]),
        };
        let key = SigningKey::from_bytes(&[7; 32]);
        let message = DeviceMessage::Status(Box::new(report));
        let signed = envelope::sign(Kind::Report, Role::Device, &message, &[&key]).unwrap();
        assert!(signed.len() <= Kind::Report.cap(), "{}", signed.len());
    }

    #[test]
    fn no_news_takes_no_bytes_and_the_largest_fit() {
        let receipt = receipt(b"a signed report");
        assert!(News::default().conceal(&receipt).is_empty());
        assert_eq!(News::reveal(&receipt, &[]), Some(News::default()));
        assert_eq!(News::reveal(&receipt, &[1; 3]), None);
        let largest = News {
            assignment: Bounded::truncated(vec![1; ASSIGNMENT_CAP]),
            certificate: Bounded::truncated(vec![2; 4096]),
            log: Bounded::truncated(vec![3; Kind::LogOrder.cap()]),
        };
        assert_eq!(News::reveal(&receipt, &largest.conceal(&receipt)), Some(largest));
    }
}
