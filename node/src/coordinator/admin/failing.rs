//! Rollouts that fail: those that have stopped by themselves, and those that nothing stops. Owns when an approval fails widely and the
//! words for it; it stops nothing.

use std::collections::BTreeMap;

use upswarm_protocol::catalog::Action;
use upswarm_protocol::coordinator::{RingStatus, RolloutStatus, SILENT_AFTER};
use upswarm_protocol::ids::{GroupId, ReleaseId};
use upswarm_protocol::report::DeploymentState;

use super::View;
use crate::api::holds::HoldView;
use crate::api::status::fails_widely;

/// Approvals without a share at which they stop that fail widely, by what the machines have told: nothing stops those but an admin.
pub(crate) fn failing(view: &View<'_>) -> Vec<RolloutStatus> {
    let mut counts: BTreeMap<(GroupId, ReleaseId, u64), RingStatus> = BTreeMap::new();
    for record in view.devices() {
        for told in view.deployments(&record.device) {
            let ring = counts.entry((told.group, told.release, told.approval_version)).or_default();
            ring.devices += 1;
            match told.state {
                DeploymentState::Failed => (ring.begun, ring.failed) = (ring.begun + 1, ring.failed + 1),
                DeploymentState::Installed | DeploymentState::RestartRequired | DeploymentState::Uninstalled => {
                    (ring.begun, ring.done) = (ring.begun + 1, ring.done + 1);
                }
                _ => {}
            }
        }
    }
    let approvals = view
        .catalog
        .approvals
        .iter()
        .filter(|approval| approval.rings.stop_above == 0 && approval.action != Action::None);
    let failing = approvals.filter_map(|approval| {
        let ring = counts.get(&(approval.group, approval.release, approval.version))?;
        let group = view.names.group_name(&approval.group);
        let covers = |hold: &HoldView| {
            hold.group.as_ref().is_none_or(|held| *held == group)
                && hold.release.is_none_or(|held| held == approval.release)
        };
        fails_widely(ring.failed, ring.done).then(|| RolloutStatus {
            group: approval.group,
            release: approval.release,
            version: approval.version,
            action: approval.action,
            stop_above: 0,
            held: view.holds().iter().any(covers),
            rings: vec![RingStatus {
                up_to: 10_000,
                begins: approval.schedule.available_from.unwrap_or_default(),
                ..*ring
            }],
            left_out: 0,
            accepted_bad: 0,
            accepted_decided: 0,
        })
    });
    failing.collect()
}

/// What is told of such an approval.
pub(crate) fn failing_alarm(status: &RolloutStatus, title: &str, group: &str) -> String {
    let total = status.total();
    format!(
        "{title} fails widely in group {group}: on {} of {} machines that have come to an end. No share was set at which it stops, so it \
         goes on. Why: upswarm status --release {}; stop it: upswarm pause --group {group} --release {}",
        total.failed,
        total.failed + total.done,
        status.release.short(),
        status.release.short(),
    )
}

/// What is told when a rollout has stopped by itself.
pub(crate) fn rollout_alarm(status: &RolloutStatus, title: &str, group: &str) -> String {
    let total = status.total();
    format!(
        "the rollout of {title} in group {group} is stopped: of {} devices that have begun, {} failed, {} fell silent for {} \
         minutes and {} are done; the limit is {} %. See upswarm status, then go on with: upswarm resume --group {group} \
         --release {}",
        total.begun,
        total.failed,
        total.silent,
        SILENT_AFTER.as_secs() / 60,
        total.done,
        share(status.stop_above),
        status.release.short(),
    )
}

/// Percent.
pub(super) fn share(hundredths: u16) -> f64 {
    f64::from(hundredths) / 100.0
}
