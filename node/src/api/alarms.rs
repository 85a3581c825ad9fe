//! What an admin should look at, until somebody has: the alarms of the coordinator and of the machines.

use serde::{Deserialize, Serialize};
use upswarm_protocol::coordinator::AlarmKind;
use upswarm_protocol::ids::{DeviceId, ReleaseId};

/// One alarm: what is the same is one, however often and on however many machines it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AlarmView {
    /// Its number, never used again.
    pub(crate) id: u64,
    /// What it is about.
    pub(crate) kind: AlarmKind,
    /// Whom it is about, for people.
    pub(crate) subject: String,
    /// The machine that it is about, or one of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<DeviceId>,
    /// The release that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<ReleaseId>,
    /// How many machines have it.
    pub(crate) devices: usize,
    /// What was seen, as it was seen last.
    pub(crate) text: String,
    /// How often.
    pub(crate) count: u64,
    /// Seconds since it was seen first, by the coordinator's clock.
    pub(crate) first_s: u64,
    /// Seconds since it was seen last.
    pub(crate) last_s: u64,
    /// Whether what it says has ended by itself.
    pub(crate) over: bool,
    /// Who has acknowledged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) acknowledged: Option<String>,
}

/// `GET /admin/v1/alarms`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlarmQuery {
    /// Those that were acknowledged too.
    #[serde(default)]
    pub(crate) all: bool,
}

/// Its answer: the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AlarmList {
    pub(crate) alarms: Vec<AlarmView>,
    /// Alarms that nobody has acknowledged.
    pub(crate) open: usize,
}

/// `POST /admin/v1/alarms/acknowledge`: these alarms, or every open one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AcknowledgeRequest {
    /// Their numbers.
    #[serde(default)]
    pub(crate) ids: Vec<u64>,
    /// Every open one.
    #[serde(default)]
    pub(crate) all: bool,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Acknowledged {
    /// Those that were open until now.
    pub(crate) acknowledged: Vec<u64>,
    /// Those that are open still.
    pub(crate) open: usize,
}
