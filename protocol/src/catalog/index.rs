use serde::{Deserialize, Serialize};

use crate::codec::{Bounded, Text};
use crate::envelope::Kind;
use crate::ids::{DeviceId, DocHash, GroupId, ReleaseId};
use crate::time::Wall;

/// One current document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocEntry {
    /// [`Kind::Release`] or [`Kind::Approval`].
    pub kind: Kind,
    /// Hash of the envelope.
    pub hash: DocHash,
    /// Bytes of the envelope.
    pub len: u32,
    /// The document's own version (release counter, approval version).
    pub version: u64,
}

/// A stop that the online keys may order by themselves: they can hold back, never install.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Nothing is installed anywhere.
    Everything,
    /// Nothing is installed in this group.
    Group(GroupId),
    /// This release is installed nowhere.
    Release(ReleaseId),
    /// This release is not installed in this group.
    Approval(GroupId, ReleaseId),
}

/// Every current document, and what is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Grows with every change.
    pub version: u64,
    /// When it was signed.
    pub issued: Wall,
    /// After this no new install rests on it.
    pub expires: Wall,
    /// Releases and approvals, sorted by (kind, hash), without duplicates.
    pub documents: Bounded<DocEntry, 65536>,
    /// Certificates that are no longer good, sorted.
    pub revoked_devices: Bounded<DeviceId, 16384>,
    /// What is stopped.
    pub holds: Bounded<Hold, 1024>,
    /// Base URLs of origins, best first. Each serves `payload/<hex>`, `doc/<hex>`, `root/<n>` and `head`.
    pub origins: Bounded<Text<512>, 16>,
}
