use serde::{Deserialize, Serialize};

use super::audit::AuditHead;
use super::page::{DocEntry, GroupEntry, INDEX_ENTRIES, Node};
use crate::codec::{Bounded, Text};
use crate::ids::{DeviceId, GroupId, ReleaseId};
use crate::time::Wall;

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
    /// The rollout of this release in this group has passed the share of failures at which it stops by itself.
    Rollout(GroupId, ReleaseId),
}

/// Every current document, and what is stopped. Small: the documents are named by trees of pages (see [`super::page`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Grows with every change.
    pub version: u64,
    /// When it was signed.
    pub issued: Wall,
    /// After this no new install rests on it.
    pub expires: Wall,
    /// What is stopped.
    pub holds: Bounded<Hold, 1024>,
    /// Base URLs of origins, best first. Each serves `payload/<hex>`, `doc/<hex>`, `root/<n>` and `head`.
    pub origins: Bounded<Text<512>, 16>,
    /// Certificates that are no longer good.
    pub revoked: Node<DeviceId, INDEX_ENTRIES>,
    /// Releases and approvals by group. A device pulls those of its own groups.
    pub groups: Node<GroupEntry, INDEX_ENTRIES>,
    /// Releases that nobody has decided about yet: every device says whether it needs them.
    pub published: Node<DocEntry, INDEX_ENTRIES>,
    /// How far the admin's log of decisions had got.
    pub audit: Option<AuditHead>,
}
