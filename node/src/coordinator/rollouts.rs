//! Rollouts for people and for `status --json`.

use serde_json::{Value, json};
use upswarm_protocol::coordinator_state::{CoordinatorState, RolloutStatus, SILENT_AFTER};
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::time::Wall;

use super::names::Names;

/// Every rollout, ring by ring: stable field names, shares in percent.
pub(super) fn view(state: &CoordinatorState, names: &Names, now: Wall) -> Vec<Value> {
    state.rollout_status(now).iter().map(|status| rollout(status, state, names, now)).collect()
}

/// What is told when a rollout has stopped by itself.
pub(super) fn alarm(status: &RolloutStatus, state: &CoordinatorState, names: &Names) -> String {
    let total = status.total();
    let (group, release) = (names.group_name(&status.group), title(&status.release, state));
    format!(
        "the rollout of {release} in group {group} is stopped: of {} devices that have begun, {} failed, {} fell silent for \
         {} minutes and {} are done; the limit is {} %. See upswarm status, then go on with: upswarm resume --group {group} \
         --release {}",
        total.begun,
        total.failed,
        total.silent,
        SILENT_AFTER.as_secs() / 60,
        total.done,
        percent(status.stop_above),
        status.release.short(),
    )
}

fn rollout(status: &RolloutStatus, state: &CoordinatorState, names: &Names, now: Wall) -> Value {
    let release = state.releases().get(&status.release).map(|published| &published.release);
    let rings: Vec<Value> = status
        .rings
        .iter()
        .enumerate()
        .map(|(at, ring)| {
            json!({
                "ring": at + 1,
                "up_to_percent": percent(ring.up_to),
                "begins": ring.begins.to_string(),
                "has_begun": ring.begins <= now,
                "devices": ring.devices,
                "begun": ring.begun,
                "installed": ring.done,
                "failed": ring.failed,
                "silent": ring.silent,
            })
        })
        .collect();
    json!({
        "release": status.release,
        "product": release.map(|release| release.product.as_str()),
        "version": release.map(|release| release.version.as_str()),
        "title": release.map(|release| release.title.as_str()),
        "group": names.group_name(&status.group),
        "approval_version": status.version,
        "action": status.action,
        "stop_above_percent": percent(status.stop_above),
        "held": status.held,
        "left_out": status.left_out,
        "accepted_bad": status.accepted_bad,
        "rings": rings,
    })
}

fn title(release: &ReleaseId, state: &CoordinatorState) -> String {
    let known = state.releases().get(release).map(|published| &published.release);
    known.map_or_else(|| release.short(), |release| format!("{} ({})", release.title, release.version))
}

fn percent(share: u16) -> f64 {
    f64::from(share) / 100.0
}
