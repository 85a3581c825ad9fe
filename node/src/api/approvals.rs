//! From what an admin wants to what an approver signs: the draft, its preview, the bytes to be signed, the signed document.

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::Action;
use upswarm_protocol::ids::{DeviceId, GroupId, ReleaseId};

use super::schedule::ScheduleArgs;

/// `POST /admin/v1/approval/preview` and `/draft`: what somebody wants decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApprovalDraft {
    /// The release, as a person names it.
    pub(crate) release: String,
    /// The group's name.
    pub(crate) group: String,
    /// What is wanted.
    pub(crate) intent: Intent,
    /// Time zone in which the preview reads windows of machines that have told none.
    pub(crate) zone: String,
    /// Also if it reaches nobody yet.
    pub(crate) allow_empty: bool,
}

/// What is wanted of a release in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Intent {
    /// Do this, then.
    Decide {
        /// What.
        action: Action,
        /// When, as it was written.
        schedule: Box<ScheduleArgs>,
        /// Whether machines with later versions go back to the release.
        #[serde(default)]
        back: bool,
    },
    /// Do nothing, and retire an earlier approval.
    Decline {
        /// A remark.
        note: String,
    },
    /// Let the approval in force begin now.
    Expedite,
}

/// What is to be signed, and what a person is shown before. Whoever signs reads the bytes: they count, the rest explains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SigningRequest {
    /// The approval's exact bytes, in hex.
    pub(crate) body: HexBytes,
    /// The release's document, whose body hashes to the release's id.
    pub(crate) release: HexBytes,
    /// The approval that this one replaces, as an approver signed it.
    pub(crate) replaces: Option<HexBytes>,
    /// What approvers have signed about the group, if they have.
    #[serde(default)]
    pub(crate) group: Option<HexBytes>,
    /// Of a snapshot: upstream's own metadata, as `upstream::proof` wants it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) metadata: Vec<HexBytes>,
    /// Whom it would affect, and when.
    pub(crate) preview: Preview,
}

/// A signed approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedDocument(pub(crate) Vec<u8>);

/// A change is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// Version of the index that names it; its head is published.
    pub(crate) index_version: u64,
}

/// What an approval would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Preview {
    /// The release.
    pub(crate) release: ReleaseId,
    pub(crate) product: String,
    pub(crate) version: String,
    /// The group's name and number.
    pub(crate) group: String,
    pub(crate) group_id: GroupId,
    /// What would be done.
    pub(crate) action: Action,
    /// Version of the approval that it replaces; 0 for none.
    pub(crate) replaces: u64,
    /// Devices of the group that are not shut out.
    pub(crate) devices: usize,
    /// Of them, those that lack it, have it, or are not concerned, by their last reports.
    pub(crate) required: usize,
    pub(crate) already: usize,
    pub(crate) not_applicable: usize,
    /// Devices that have told their time zone.
    pub(crate) zones: usize,
    /// The zone of the others.
    pub(crate) zone: String,
    /// Share at which it stops by itself; 0 never.
    pub(crate) stop_above_percent: f64,
    /// Ring by ring; one for everybody where there are no rings.
    pub(crate) rings: Vec<PreviewRing>,
    /// Devices in no ring.
    pub(crate) left_out: Vec<PreviewDevice>,
    /// What holds it back all the same, in the words of the flags of `resume`.
    pub(crate) held_by: Vec<String>,
    /// What somebody should say yes to before it is signed.
    pub(crate) questions: Vec<String>,
}

/// A ring and its devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PreviewRing {
    /// From 1.
    pub(crate) ring: usize,
    pub(crate) up_to_percent: f64,
    /// When it may begin, and when its first and last device could; RFC 3339.
    pub(crate) begins: String,
    pub(crate) earliest: Option<String>,
    pub(crate) latest: Option<String>,
    /// Its devices, first those that may begin first.
    pub(crate) devices: Vec<PreviewDevice>,
}

/// A device of a preview.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PreviewDevice {
    pub(crate) device: DeviceId,
    pub(crate) name: String,
    /// What it last said about the release: of its deployment, or else of its scan.
    pub(crate) state: Option<String>,
    pub(crate) time_zone: Option<String>,
    /// When it could begin, RFC 3339; never before the approval expires if there is none.
    pub(crate) earliest: Option<String>,
}

/// Bytes that travel in JSON as hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HexBytes(pub(crate) Vec<u8>);

impl Serialize for HexBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}
