//! Groups: making them, and who is in them.

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::{DeviceId, GroupId};

use super::devices::DeviceName;

/// `POST /admin/v1/group`: makes a group; with conditions, one whose members follow from their inventories.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGroup {
    /// Its name.
    pub(crate) group: String,
    /// What its members fulfil; empty for a group that is filled by hand.
    #[serde(default, rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub(crate) conditions: Vec<String>,
    /// Only tell who would be a member.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// A group as it is, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupMade {
    pub(crate) group: String,
    /// Its number; none before it is made.
    pub(crate) id: Option<GroupId>,
    pub(crate) new: bool,
    #[serde(rename = "where")]
    pub(crate) conditions: Vec<String>,
    /// Who fulfils the conditions now, who joins by them, who leaves.
    pub(crate) members: Vec<DeviceName>,
    pub(crate) join: Vec<DeviceName>,
    pub(crate) leave: Vec<DeviceName>,
    pub(crate) dry_run: bool,
}

/// `POST /admin/v1/group/member`: puts a device into a group or takes it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberRequest {
    /// Name of the group.
    pub(crate) group: String,
    /// Its label, its key, or first digits of that.
    pub(crate) device: String,
    /// Whether it is to be a member.
    pub(crate) member: bool,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) device: DeviceId,
    pub(crate) name: String,
    /// The groups that it is in now.
    pub(crate) groups: Vec<String>,
    /// Whether that is news.
    pub(crate) changed: bool,
    /// Whether the machine has said that it knows.
    pub(crate) heard: bool,
}

/// `GET /admin/v1/groups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups {
    pub(crate) groups: Vec<GroupRow>,
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRow {
    pub(crate) group: String,
    pub(crate) id: Option<GroupId>,
    pub(crate) devices: Vec<DeviceName>,
    #[serde(rename = "where")]
    pub(crate) conditions: Option<Vec<String>>,
}
