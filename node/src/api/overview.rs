//! The morning's questions: what is up to date, what waits for somebody, what is in trouble, and what is not known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::Severity;
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::report::BytesBySource;

use super::alarms::AlarmView;
use super::devices::DeviceHead;
use super::fleet::Standing;
use super::holds::HoldView;
use super::status::{Double, HeadStatus, RolloutView};

/// `GET /admin/v1/overview`. Ages are seconds by the coordinator's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Overview {
    /// When it was put together, RFC 3339.
    pub(crate) at: String,
    /// The public head; none before the first.
    pub(crate) head: Option<HeadStatus>,
    /// Machines that are neither shut out nor retired.
    pub(crate) fleet: usize,
    pub(crate) connected: usize,
    /// How many machines stand how; together they are the fleet.
    pub(crate) standings: BTreeMap<Standing, usize>,
    /// Machines that have told what they miss: the others are unknown.
    pub(crate) told: usize,
    /// Ages of the report that came last, and of the oldest that still counts.
    pub(crate) newest_report_s: Option<u64>,
    pub(crate) oldest_report_s: Option<u64>,
    /// Machines that were not heard of for a day, and the first of them.
    pub(crate) silent: usize,
    pub(crate) silent_machines: Vec<DeviceHead>,
    /// By severity: what is missing that nobody has decided about.
    pub(crate) undecided: Vec<SeverityLine>,
    /// Rollouts with machines that are not at their end, and how many have ended.
    pub(crate) rollouts: Vec<RolloutView>,
    pub(crate) rollouts_done: usize,
    /// Why machines failed or stand still, the most frequent reason first.
    pub(crate) failures: Vec<FailureReason>,
    pub(crate) holds: Vec<HoldView>,
    /// The newest alarms that nobody has acknowledged, and how many there are.
    pub(crate) alarms: Vec<AlarmView>,
    pub(crate) open_alarms: usize,
    pub(crate) doubles: Vec<Double>,
    /// Payload bytes of all machines by where they came from, and those that the coordinator's own origin has served since it started.
    pub(crate) bytes: BytesBySource,
    pub(crate) origin_bytes: u64,
}

/// What is missing of one severity and not decided about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeverityLine {
    pub(crate) severity: Severity,
    pub(crate) releases: usize,
    /// Machines that need any of them.
    pub(crate) machines: usize,
}

/// A reason for which machines failed or stand still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailureReason {
    pub(crate) release: ReleaseId,
    pub(crate) product: String,
    pub(crate) version: String,
    pub(crate) title: String,
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) machines: usize,
    pub(crate) oldest_s: u64,
    /// One that gives it.
    pub(crate) example: String,
}

/// `GET /admin/v1/changes`: answers as soon as something has changed after this generation, or when the time is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangesQuery {
    #[serde(default)]
    pub(crate) after: u64,
}

/// Its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changes {
    pub(crate) generation: u64,
}
