//! Groups: making them, and who is in them.

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::DeviceList;
use upswarm_protocol::ids::{DeviceId, GroupId};

use super::approvals::HexBytes;
use super::catalog::CatalogGroup;
use super::devices::DeviceName;

/// `POST /admin/v1/group`: makes a group by its name. With conditions, or a word about who belongs to it, what approvers are to sign
/// about it is drafted too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGroup {
    /// Its name.
    pub(crate) group: String,
    /// What its members fulfil; empty for a group that is filled by hand.
    #[serde(default, rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub(crate) conditions: Vec<String>,
    /// Who belongs to it, where no conditions say that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) members: Option<Belong>,
    /// Only tell who would be a member.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// Who belongs to a group without conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Belong {
    /// The machines that are in it now, and no others until an approver signs again.
    List,
    /// Whomever the coordinator puts into it.
    Coordinator,
}

/// What approvers are to sign about a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupDraft {
    /// The exact bytes.
    pub(crate) body: HexBytes,
    /// Of one with a list: the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) list: Option<ListDraft>,
    /// What it replaces, as approvers signed it; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<HexBytes>,
}

/// A list of devices with the names that the coordinator has for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListDraft {
    /// What the leaves are blinded with.
    pub(crate) secret: HexBytes,
    pub(crate) devices: Vec<DeviceName>,
}

impl ListDraft {
    /// The list; none if it is longer than a list may be.
    pub(crate) fn list(&self) -> Option<DeviceList> {
        let secret = self.secret.0.as_slice().try_into().ok()?;
        DeviceList::new(secret, self.devices.iter().map(|device| device.device))
    }
}

/// A group that is to be signed, with what was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedGroup {
    /// What somebody asked for.
    pub(crate) wanted: NewGroup,
    /// What the coordinator made of it.
    pub(crate) draft: GroupDraft,
}

/// `POST /admin/v1/group/document`: what approvers have signed about a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignedGroup {
    /// The envelope.
    pub(crate) document: HexBytes,
    /// Of one with a list: the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) list: Option<ListDraft>,
}

/// A group as it is, or would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// What is to be signed, unless only a name was made or it is only shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) draft: Option<GroupDraft>,
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
    /// What approvers have signed about it, if they have.
    pub(crate) signed: Option<CatalogGroup>,
}
