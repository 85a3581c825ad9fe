//! What machines need and do not have.

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Classification, Severity};
use upswarm_protocol::ids::ReleaseId;

use super::devices::DeviceHead;

/// `GET /admin/v1/missing`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MissingQuery {
    /// What this device is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    /// How each device stands with this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<String>,
    /// Releases that nobody is missing too.
    #[serde(default)]
    pub(crate) all: bool,
}

/// Its answer: the most severe first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Missing {
    /// Devices that were looked at.
    pub(crate) devices: usize,
    pub(crate) releases: Vec<MissingRelease>,
}

/// How many devices stand how with a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MissingRelease {
    pub(crate) release: ReleaseId,
    pub(crate) product: String,
    pub(crate) version: String,
    pub(crate) title: String,
    pub(crate) classification: Classification,
    pub(crate) severity: Severity,
    /// Groups for which it is approved.
    pub(crate) approved: Vec<String>,
    /// Groups in which it is declined, or to be removed.
    pub(crate) unwanted_in: Vec<String>,
    /// Devices that need it and do not have it. Those for which it is declined are not among them.
    pub(crate) required: usize,
    pub(crate) installed: usize,
    pub(crate) not_applicable: usize,
    pub(crate) unknown: usize,
    pub(crate) not_told: usize,
    pub(crate) declined: usize,
    /// Device by device, when one release was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) devices: Vec<MissingDevice>,
}

/// How a device stands with a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MissingDevice {
    #[serde(flatten)]
    pub(crate) head: DeviceHead,
    pub(crate) state: NeedState,
}

/// How a device stands with a release by its last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum NeedState {
    /// It has not looked yet.
    NotTold,
    Unknown,
    NotApplicable,
    Required,
    Installed,
    /// It would need it, and every group of it that decides has declined it or has it removed.
    Declined,
}

impl NeedState {
    /// The name that it has in text formats.
    pub(crate) fn word(self) -> &'static str {
        match self {
            NeedState::NotTold => "NotTold",
            NeedState::Unknown => "Unknown",
            NeedState::NotApplicable => "NotApplicable",
            NeedState::Required => "Required",
            NeedState::Installed => "Installed",
            NeedState::Declined => "Declined",
        }
    }
}
