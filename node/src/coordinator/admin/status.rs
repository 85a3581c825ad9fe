//! The fleet at a glance: by release first, devices on demand. Counts what was reported; never judges it anew.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use upswarm_protocol::coordinator::{DeviceRecord, Refusal, RolloutStatus};
use upswarm_protocol::ids::{DeviceId, ReleaseId};
use upswarm_protocol::report::{DeploymentReport, DeploymentState};

use super::View;
use super::failing::{failing, share};
use crate::api::alarms::{AlarmList, AlarmQuery};
use crate::api::status::{
    DeploymentStatus, DeviceStatus, Double, OriginStatus, ReasonCount, ReleaseStatus, RingView, RolloutView,
    ScanCounts, Status, StatusQuery,
};
use crate::coordinator::store::alarms::without_numbers;
use crate::inventory as machine;

/// A device that was heard of within this many seconds counts as seen lately.
pub(super) const LATELY_S: u64 = 86400;
/// Reasons that are kept of a release: the rest is rarer.
const MAX_REASONS: usize = 64;
/// Alarms that the status shows.
const MAX_ALARMS: usize = 16;

/// The answer to [`StatusQuery`].
pub(crate) fn status(view: &View<'_>, query: &StatusQuery) -> Result<Status, Refusal> {
    let only_device =
        query.device.as_deref().map(|text| view.device_named(text)).transpose()?.map(|known| known.device);
    let only_release = query.release.as_deref().map(|text| view.catalog.release_named(text)).transpose();
    let only_release = only_release.map_err(Refusal::Request)?.map(|known| known.release);
    let only_state = query.state.as_deref().map(state_named).transpose()?;
    let wanted = |deployment: &&DeploymentReport| {
        only_release.is_none_or(|release| release == deployment.release)
            && only_state.is_none_or(|state| state == deployment.state)
    };
    let filtered = only_release.is_some() || only_state.is_some();
    let mut devices = Vec::new();
    let mut summary = Summary::default();
    for record in view.all_devices().filter(|record| only_device.is_none_or(|only| only == record.device)) {
        let deployments: Vec<&DeploymentReport> = view.deployments(&record.device).iter().filter(wanted).collect();
        if !view.is_revoked(&record.device) && !view.is_retired(&record.device) {
            summary.add(view, record, &deployments);
        }
        let shown = query.gone || only_device.is_some() || !view.is_retired(&record.device);
        if query.devices && shown && (!filtered || !deployments.is_empty()) {
            devices.push(device(view, record, &deployments));
        }
    }
    devices.sort_by_cached_key(|device: &DeviceStatus| (device.name(), device.device));
    let mut rollouts = rollouts(view);
    rollouts.retain(|rollout| only_release.is_none_or(|release| release == rollout.release));
    let (fleet, seen_lately) = (summary.fleet, summary.seen_lately);
    let (releases, doubles) = summary.finish(view);
    let AlarmList { mut alarms, open } = super::alarms::list(view, &AlarmQuery::default());
    alarms.truncate(MAX_ALARMS);
    Ok(Status {
        head: view.head_status(),
        fleet,
        seen_lately,
        connected: view.connected(),
        releases,
        devices,
        rollouts,
        holds: view.holds(),
        alarms,
        open_alarms: open,
        doubles,
        origin: OriginStatus { payload_bytes: view.origin_bytes },
    })
}

/// Every rollout, ring by ring.
pub(crate) fn rollouts(view: &View<'_>) -> Vec<RolloutView> {
    let now = view.now;
    let of = |status: &RolloutStatus| {
        let release = view.catalog.release(&status.release);
        let rings = status.rings.iter().enumerate().map(|(at, ring)| RingView {
            ring: at + 1,
            up_to_percent: share(ring.up_to),
            begins: ring.begins.to_string(),
            has_begun: ring.begins <= now,
            devices: ring.devices,
            begun: ring.begun,
            installed: ring.done,
            failed: ring.failed,
            silent: ring.silent,
        });
        RolloutView {
            release: status.release,
            product: release.map(|release| release.product.clone()),
            version: release.map(|release| release.version.clone()),
            title: release.map(|release| release.title.clone()),
            group: view.names.group_name(&status.group),
            approval_version: status.version,
            action: status.action,
            stop_above_percent: share(status.stop_above),
            held: status.held,
            left_out: status.left_out,
            accepted_bad: status.accepted_bad,
            rings: rings.collect(),
        }
    };
    let mut rollouts: Vec<RolloutView> = view.rollouts().iter().map(of).collect();
    rollouts.extend(failing(view).iter().filter(|status| !is_watched(view, status)).map(of));
    rollouts
}

/// Whether the coordinator counts it as a rollout anyway.
fn is_watched(view: &View<'_>, status: &RolloutStatus) -> bool {
    view.rollouts().iter().any(|known| (known.group, known.release) == (status.group, status.release))
}

/// A state by its name in any case.
pub(super) fn state_named(text: &str) -> Result<DeploymentState, Refusal> {
    use DeploymentState as S;
    const ALL: [DeploymentState; 15] = [
        S::Pending,
        S::OnHold,
        S::Offering,
        S::Downloading,
        S::Downloaded,
        S::Installing,
        S::RestartRequired,
        S::Installed,
        S::Uninstalling,
        S::Uninstalled,
        S::Canceled,
        S::Superseded,
        S::Failed,
        S::Stalled,
        S::NotApplicable,
    ];
    let found = ALL.into_iter().find(|state| format!("{state:?}").eq_ignore_ascii_case(text));
    found.ok_or_else(|| {
        let all: Vec<String> = ALL.iter().map(|state| format!("{state:?}").to_lowercase()).collect();
        Refusal::Request(format!("--state: {text:?} is no state; there are: {}", all.join(", ")))
    })
}

/// Whether nothing more will happen by itself.
pub(super) fn is_end(state: DeploymentState) -> bool {
    use DeploymentState as S;
    matches!(state, S::Installed | S::Uninstalled | S::Canceled | S::Superseded | S::NotApplicable)
}

/// A device with all its deployments.
pub(super) fn of_device(view: &View<'_>, record: &DeviceRecord) -> DeviceStatus {
    device(view, record, &view.deployments(&record.device).iter().collect::<Vec<_>>())
}

fn device(view: &View<'_>, record: &DeviceRecord, deployments: &[&DeploymentReport]) -> DeviceStatus {
    let said = view.said(&record.device);
    let held = view.inventory(&record.device);
    let scan = view.scan(&record.device).map(|scan| scan.counts);
    let label = said.map(|said| said.label.as_str()).filter(|label| !label.is_empty());
    let mut deployments: Vec<DeploymentStatus> = deployments.iter().map(|known| deployment(view, known)).collect();
    deployments.sort_by(|a, b| {
        (&a.title, &a.version, &a.release, &a.group).cmp(&(&b.title, &b.version, &b.release, &b.group))
    });
    DeviceStatus {
        device: record.device,
        label: label.unwrap_or(record.label.as_str()).to_owned(),
        site: view.names.site_name(&record.site),
        role: record.role,
        groups: record.groups.iter().map(|group| view.names.group_name(group)).collect(),
        groups_heard: said.map(|said| said.papers.assignment >= record.assigned),
        revoked: view.is_revoked(&record.device),
        retired: view.is_retired(&record.device),
        connected: view.is_connected(&record.device),
        agent: said.map(|said| said.agent.clone()),
        os: said.map(|said| said.os.clone()),
        last_seen_s: said.map(|said| view.age(said.received)),
        index_version: said.map_or(0, |said| said.index_version),
        bytes: said.map(|said| said.bytes).unwrap_or_default(),
        alarms: said.map(|said| said.alarms.clone()).unwrap_or_default(),
        deployments,
        packages: held.map(|held| held.inventory.packages()),
        pending_restart: held.map(|held| held.inventory.pending_restart()),
        time_zone: held.and_then(|held| held.inventory.fact(machine::FACT_TIME_ZONE)).map(str::to_owned),
        scan: scan.map(|[unknown, not_applicable, required, installed]| ScanCounts {
            unknown,
            not_applicable,
            required,
            installed,
        }),
    }
}

fn deployment(view: &View<'_>, known: &DeploymentReport) -> DeploymentStatus {
    let release = view.catalog.release(&known.release);
    DeploymentStatus {
        release: known.release,
        product: release.map(|release| release.product.clone()),
        version: release.map(|release| release.version.clone()),
        title: release.map(|release| release.title.clone()),
        group: view.names.group_name(&known.group),
        approval_version: known.approval_version,
        action: known.action,
        state: known.state,
        sub_state: known.sub_state,
        code: known.code,
        reason: known.reason.as_str().to_owned(),
        since_s: view.age(known.since),
        done: known.done,
        total: known.total,
    }
}

/// What is counted over the fleet.
#[derive(Default)]
struct Summary {
    fleet: usize,
    seen_lately: usize,
    releases: BTreeMap<ReleaseId, Counts>,
    names: BTreeMap<String, Vec<(Option<u64>, DeviceId)>>,
}

#[derive(Default)]
struct Counts {
    groups: BTreeSet<String>,
    states: BTreeMap<String, usize>,
    oldest_s: Option<u64>,
    /// By state and by the reason without its numbers.
    reasons: BTreeMap<(DeploymentState, String), ReasonCount>,
}

impl Summary {
    fn add(&mut self, view: &View<'_>, record: &DeviceRecord, deployments: &[&DeploymentReport]) {
        let name = view.name(record);
        let said = view.said(&record.device);
        let age = said.map(|said| view.age(said.received));
        self.fleet += 1;
        let connected = view.is_connected(&record.device);
        self.seen_lately += usize::from(connected || age.is_some_and(|age| age <= LATELY_S));
        for known in deployments {
            self.releases.entry(known.release).or_default().add(view, &name, known);
        }
        self.names.entry(name).or_default().push((if connected { Some(0) } else { age }, record.device));
    }

    fn finish(self, view: &View<'_>) -> (Vec<ReleaseStatus>, Vec<Double>) {
        let mut releases: Vec<ReleaseStatus> =
            self.releases.into_iter().map(|(id, counts)| counts.finish(view, id)).collect();
        let count = |release: &ReleaseStatus, state: &str| release.states.get(state).copied().unwrap_or(0);
        releases.sort_by_key(|release| {
            let bad = count(release, "Failed") + count(release, "Stalled");
            (Reverse(bad), release.oldest_s.is_none(), release.title.clone(), release.version.clone(), release.release)
        });
        let doubles = self.names.into_iter().filter(|(_, devices)| devices.len() > 1).map(|(name, mut devices)| {
            devices.sort_by_key(|(age, device)| (age.is_none(), *age, *device));
            Double { name, devices: devices.into_iter().map(|(_, device)| device).collect() }
        });
        (releases, doubles.collect())
    }
}

impl Counts {
    fn add(&mut self, view: &View<'_>, name: &str, known: &DeploymentReport) {
        let age = view.age(known.since);
        self.groups.insert(view.names.group_name(&known.group));
        *self.states.entry(format!("{:?}", known.state)).or_default() += 1;
        if !is_end(known.state) {
            self.oldest_s = Some(self.oldest_s.map_or(age, |oldest| oldest.max(age)));
        }
        let reason = known.reason.as_str();
        if reason.is_empty() || is_end(known.state) {
            return;
        }
        let key = (known.state, without_numbers(reason));
        if self.reasons.len() >= MAX_REASONS * 8 && !self.reasons.contains_key(&key) {
            return;
        }
        let counted = self.reasons.entry(key).or_insert_with(|| ReasonCount {
            state: format!("{:?}", known.state),
            reason: reason.to_owned(),
            devices: 0,
            oldest_s: 0,
            example: name.to_owned(),
        });
        counted.devices += 1;
        counted.oldest_s = counted.oldest_s.max(age);
    }

    fn finish(self, view: &View<'_>, id: ReleaseId) -> ReleaseStatus {
        let release = view.catalog.release(&id);
        let mut reasons: Vec<((DeploymentState, String), ReasonCount)> = self.reasons.into_iter().collect();
        let is_bad = |state: DeploymentState| matches!(state, DeploymentState::Failed | DeploymentState::Stalled);
        reasons.sort_by_key(|((state, _), counted)| (!is_bad(*state), Reverse(counted.devices)));
        reasons.truncate(MAX_REASONS);
        ReleaseStatus {
            release: id,
            product: release.map(|release| release.product.clone()),
            version: release.map(|release| release.version.clone()),
            title: release.map(|release| release.title.clone()),
            groups: self.groups.into_iter().collect(),
            states: self.states,
            oldest_s: self.oldest_s,
            reasons: reasons.into_iter().map(|(_, counted)| counted).collect(),
        }
    }
}
