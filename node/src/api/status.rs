//! The fleet as it reports: a summary by release, and every device with its deployments.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Action, NodeRole};
use upswarm_protocol::ids::{DeviceId, ReleaseId};
use upswarm_protocol::report::{BytesBySource, DeploymentState, SubState};

use super::alarms::AlarmView;
use super::holds::HoldView;

/// `GET /admin/v1/status`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatusQuery {
    /// List devices too.
    #[serde(default)]
    pub(crate) devices: bool,
    /// Those that are retired too; one that is named is shown in any case.
    #[serde(default)]
    pub(crate) gone: bool,
    /// Only this device: its label, its key, or first digits of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    /// Only this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<String>,
    /// Only deployments in this state, in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
}

/// Its answer. Ages are seconds by the coordinator's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The public head; none before the first.
    pub(crate) head: Option<HeadStatus>,
    /// Devices that are not shut out, and those that were heard of in the last day.
    pub(crate) fleet: usize,
    pub(crate) seen_lately: usize,
    /// Devices that are connected now.
    pub(crate) connected: usize,
    /// Releases that devices report about, those in trouble first.
    pub(crate) releases: Vec<ReleaseStatus>,
    /// Devices, by name; empty unless they were asked for.
    pub(crate) devices: Vec<DeviceStatus>,
    pub(crate) rollouts: Vec<RolloutView>,
    pub(crate) holds: Vec<HoldView>,
    /// The newest alarms that nobody has acknowledged, and how many there are.
    pub(crate) alarms: Vec<AlarmView>,
    pub(crate) open_alarms: usize,
    /// Names that several devices bear.
    pub(crate) doubles: Vec<Double>,
    pub(crate) origin: OriginStatus,
}

/// The public head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeadStatus {
    pub(crate) root_version: u64,
    pub(crate) index_version: u64,
    pub(crate) age_s: u64,
    pub(crate) expires: String,
}

/// How the fleet stands with a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseStatus {
    pub(crate) release: ReleaseId,
    pub(crate) product: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) title: Option<String>,
    /// Groups whose approvals are acted on.
    pub(crate) groups: Vec<String>,
    /// Devices in each state.
    pub(crate) states: BTreeMap<String, usize>,
    /// How long the one that has been longest in a state that is no end has been in it.
    pub(crate) oldest_s: Option<u64>,
    /// Why, the most frequent first.
    pub(crate) reasons: Vec<ReasonCount>,
}

/// A reason, and how many devices give it. Reasons that differ in numbers alone count as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReasonCount {
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) devices: usize,
    pub(crate) oldest_s: u64,
    /// One that gives it.
    pub(crate) example: String,
}

/// A name that several devices bear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Double {
    pub(crate) name: String,
    /// The one heard of last comes first.
    pub(crate) devices: Vec<DeviceId>,
}

/// A device with its deployments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeviceStatus {
    pub(crate) device: DeviceId,
    pub(crate) label: String,
    pub(crate) site: String,
    pub(crate) role: NodeRole,
    pub(crate) groups: Vec<String>,
    /// Whether it has said that it knows its groups; none while it has said nothing.
    pub(crate) groups_heard: Option<bool>,
    pub(crate) revoked: bool,
    pub(crate) retired: bool,
    pub(crate) connected: bool,
    pub(crate) agent: Option<String>,
    pub(crate) os: Option<String>,
    /// Seconds since its last report; nothing before the first.
    pub(crate) last_seen_s: Option<u64>,
    pub(crate) index_version: u64,
    pub(crate) bytes: BytesBySource,
    pub(crate) alarms: Vec<String>,
    pub(crate) deployments: Vec<DeploymentStatus>,
    pub(crate) packages: Option<usize>,
    pub(crate) pending_restart: Option<bool>,
    pub(crate) time_zone: Option<String>,
    pub(crate) scan: Option<ScanCounts>,
}

impl DeviceStatus {
    /// Its name for people.
    pub(crate) fn name(&self) -> String {
        if self.label.is_empty() { self.device.short() } else { self.label.clone() }
    }
}

/// Releases by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScanCounts {
    pub(crate) unknown: u32,
    pub(crate) not_applicable: u32,
    pub(crate) required: u32,
    pub(crate) installed: u32,
}

/// Where a device stands with a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeploymentStatus {
    pub(crate) release: ReleaseId,
    pub(crate) product: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) title: Option<String>,
    pub(crate) group: String,
    pub(crate) approval_version: u64,
    pub(crate) action: Action,
    pub(crate) state: DeploymentState,
    pub(crate) sub_state: SubState,
    pub(crate) code: Option<i32>,
    pub(crate) reason: String,
    pub(crate) since_s: u64,
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// A rollout in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RolloutView {
    pub(crate) release: ReleaseId,
    pub(crate) product: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) title: Option<String>,
    pub(crate) group: String,
    pub(crate) approval_version: u64,
    pub(crate) action: Action,
    pub(crate) stop_above_percent: f64,
    pub(crate) held: bool,
    pub(crate) left_out: u32,
    pub(crate) accepted_bad: u32,
    pub(crate) rings: Vec<RingView>,
}

/// Whether so many failures, beside so many successes, are more than single machines' trouble.
pub(crate) fn fails_widely(failed: u32, done: u32) -> bool {
    failed >= 2 && u64::from(failed) * 5 > u64::from(failed) + u64::from(done)
}

impl RolloutView {
    /// All rings together; `ring` is their number, the rest is the last one's.
    pub(crate) fn total(&self) -> RingView {
        let mut total = RingView::default();
        for ring in &self.rings {
            total = RingView {
                devices: total.devices + ring.devices,
                begun: total.begun + ring.begun,
                installed: total.installed + ring.installed,
                failed: total.failed + ring.failed,
                silent: total.silent + ring.silent,
                ..ring.clone()
            };
        }
        total
    }

    /// Whether some of its machines are not at their end.
    pub(crate) fn is_under_way(&self) -> bool {
        let total = self.total();
        let open = total.installed + total.failed < total.devices;
        self.action != Action::None
            && (open || self.stop_above_percent == 0.0 && fails_widely(total.failed, total.installed))
    }

    /// Of the machines that have begun, those that failed or fell silent and were not accepted, in percent: what
    /// `stop_above_percent` is held against.
    pub(crate) fn bad_percent(&self) -> f64 {
        let total = self.total();
        let bad = (total.failed + total.silent).saturating_sub(self.accepted_bad);
        if total.begun == 0 { 0.0 } else { 100.0 * f64::from(bad) / f64::from(total.begun) }
    }
}

/// A ring of a rollout in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RingView {
    pub(crate) ring: usize,
    pub(crate) up_to_percent: f64,
    pub(crate) begins: String,
    pub(crate) has_begun: bool,
    pub(crate) devices: u32,
    pub(crate) begun: u32,
    pub(crate) installed: u32,
    pub(crate) failed: u32,
    pub(crate) silent: u32,
}

/// The coordinator's own origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OriginStatus {
    /// Payload bytes that it has served since it started.
    pub(crate) payload_bytes: u64,
}

/// A state as people say it: of a deployment, or what a scan says of a release.
pub(crate) fn state_words(state: &str) -> &'static str {
    match state {
        "Installed" => "Installed",
        "Uninstalled" => "Removed",
        "Failed" => "Failed",
        "Stalled" => "Stalled",
        "Pending" => "Pending",
        "OnHold" => "On hold",
        "Offering" => "Looking for bytes",
        "Downloading" => "Downloading",
        "Downloaded" => "Downloaded",
        "Installing" => "Installing",
        "RestartRequired" => "Waits for restart",
        "Uninstalling" => "Being removed",
        "Superseded" => "Superseded",
        "Canceled" => "Taken back",
        "NotApplicable" => "Not concerned",
        "Required" => "Needed",
        "Declined" => "Declined",
        "NotTold" => "Not told",
        _ => "Not known",
    }
}

/// What a deployment waits for, or what it is at, as people say it; nothing where the state says it all.
pub(crate) fn sub_state_words(sub: SubState) -> Option<&'static str> {
    Some(match sub {
        SubState::None => return None,
        SubState::Scheduled => "waits for its time",
        SubState::AwaitingWindow => "waits for a maintenance window",
        SubState::AwaitingDependency => "waits for what it needs first",
        SubState::Paused => "paused by the admin",
        SubState::Deferred => "put off at the machine",
        SubState::Queued => "waits for another install",
        SubState::AwaitingCatalog => "waits for the catalog",
        SubState::Retrying => "is tried again",
        SubState::Expired => "a document has expired",
        SubState::NoSpace => "no space on the disk",
        SubState::NoSource => "nobody has the bytes",
        SubState::PowerOrLink => "on battery or a metered link",
        SubState::HeldByMachine => "held by its package manager",
        SubState::Locked => "package manager is locked",
        SubState::BrokenPackage => "another package is broken",
        SubState::MissingDependency => "a dependency is missing",
        SubState::NoNetwork => "no network",
        SubState::Conflict => "contradicts another approval",
    })
}
