//! Having machines try a release again.

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::ReleaseId;

use super::devices::DeviceName;

/// `POST /admin/v1/retry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryRequest {
    /// The release, as a person names it.
    pub(crate) release: String,
    /// Only this device: its label, its key, or first digits of that.
    #[serde(default)]
    pub(crate) device: Option<String>,
    /// Only where it is approved for this group.
    #[serde(default)]
    pub(crate) group: Option<String>,
}

/// Its answer: the machines for which the release is approved and, as far as they have told, not at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retried {
    pub(crate) release: ReleaseId,
    /// The release in words.
    pub(crate) what: String,
    /// Machines that are connected, and were asked.
    pub(crate) asked: Vec<DeviceName>,
    /// Machines that hear of it from neighbours which are connected.
    pub(crate) through_neighbours: Vec<DeviceName>,
    /// Machines that do not hear of it.
    pub(crate) not_connected: Vec<DeviceName>,
}
