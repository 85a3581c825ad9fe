//! Watches rollouts, and stops those that do harm.
//!
//! A device of the group is counted in the ring that its place gives it:
//!
//! * *begun*: its ring has begun and it was heard from in the day before that or later, or it has acted already;
//! * *done*: it says that what was approved is done (a machine that waits for its restart included);
//! * *failed*: it says `Failed` for this version of the approval. `Stalled` is a matter of bytes, not of the update;
//! * *silent*: its last word, given in the day before its ring began or later, was that it is looking for bytes, fetching them,
//!   installing or removing, and since then it has said nothing for [`SILENT_AFTER`], which is at least one full report missed.
//!   A machine whose last word was that it waits, or is done, may be switched off for the night and is not silent.
//!
//! With `bad = failed + silent`, an approval is held when either passes `stop_above`:
//!
//! * `bad / begun`: whatever the others will say, the share is passed. No minimum: of five pilots one is a fifth;
//! * `bad / (done + failed + silent)`, once there are [`MIN_DECIDED`](super::MIN_DECIDED) and at least two are bad: those that wait for a window
//!   or for bytes say nothing about the update, and waiting for them would let it spread to the whole ring first.
//!
//! Resuming a held approval accepts what is known by then: from there on only what comes later is counted.

use core::time::Duration;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CoordinatorState;
use super::counts::{Outcome, RingStatus, RolloutStatus};
use super::devices::Device;
use super::io::{Output, Record};
use crate::catalog::{Action, Approval, Hold};
use crate::codec::{self, Bounded};
use crate::ids::{DeviceId, GroupId, ReleaseId};
use crate::report::{DeploymentReport, DeploymentState};
use crate::schedule::ring_of;
use crate::time::{Mono, Now, Wall};

/// A device that has begun and says nothing for this long is silent.
pub const SILENT_AFTER: Duration = Duration::from_secs(30 * 60);
/// A device that was last heard from longer than this before its ring began is not counted.
pub const HEARD_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// Rollouts are looked at this often, and at once when a device reports a failure.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Outcomes remembered per device.
const MAX_OUTCOMES: usize = 256;
const MAX_ACCEPTED: usize = 1024;
const RECORD_LIMIT: usize = 128 << 10;

/// What the admin has seen and let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Accepted {
    group: GroupId,
    release: ReleaseId,
    version: u64,
    bad: u32,
    decided: u32,
}

/// What is kept beside the devices and the approvals.
#[derive(Debug, Default)]
pub(super) struct Rollouts {
    accepted: BTreeMap<(GroupId, ReleaseId), Accepted>,
    /// When to look again; `None` while nothing is watched.
    pub(super) due: Option<Mono>,
}

impl Rollouts {
    /// From the last [`Record::Rollouts`]. One that cannot be read accepts nothing, so that it stops too early, not too late.
    pub(super) fn restore(record: Option<&[u8]>) -> Self {
        let rows: Bounded<Accepted, MAX_ACCEPTED> =
            record.and_then(|bytes| codec::decode(bytes, RECORD_LIMIT).ok()).unwrap_or_default();
        Self { accepted: rows.iter().map(|row| ((row.group, row.release), *row)).collect(), due: None }
    }
}

impl CoordinatorState {
    /// Every current rollout: approvals with rings or with a share at which they stop.
    pub fn rollout_status(&self, now: Wall) -> Vec<RolloutStatus> {
        let approvals = self.documents.approvals.values().map(|published| &published.approval);
        approvals.filter(|approval| is_watched(approval, now)).map(|approval| self.count(approval, now)).collect()
    }

    /// Looks at every rollout that may have to be stopped.
    pub(super) fn check_rollouts(&mut self, now: Now) {
        let approvals = self.documents.approvals.iter().filter(|(_, known)| is_watched(&known.approval, now.wall));
        let watched: Vec<_> = approvals.map(|(key, _)| *key).collect();
        self.rollouts.due = (!watched.is_empty()).then_some(now.mono + CHECK_EVERY);
        for (group, release) in watched {
            self.check_rollout(group, release, now);
        }
    }

    /// A new approval is watched from now on.
    pub(super) fn watch_rollouts(&mut self, now: Now) {
        if self.rollouts.due.is_none()
            && self.documents.approvals.values().any(|known| is_watched(&known.approval, now.wall))
        {
            self.rollouts.due = Some(now.mono + CHECK_EVERY);
        }
    }

    /// Remembers what a device says, and looks at once at the rollouts that have failed on it.
    pub(super) fn outcomes(&mut self, device: &DeviceId, said: &[DeploymentReport], now: Now) {
        for (group, release) in self.remember_outcomes(device, said, now.wall) {
            self.check_rollout(group, release, now);
        }
    }

    /// Remembers what a device says. Returns what has newly failed on it.
    pub(super) fn remember_outcomes(
        &mut self,
        device: &DeviceId,
        said: &[DeploymentReport],
        now: Wall,
    ) -> Vec<(GroupId, ReleaseId)> {
        let mut failed = Vec::new();
        let Some(known) = self.devices.get_mut(device) else { return failed };
        for deployment in said {
            let key = (deployment.group, deployment.release);
            let approval = self.documents.approvals.get(&key).map(|published| &published.approval);
            if !approval.is_some_and(|approval| is_watched(approval, now)) {
                continue;
            }
            if known.outcomes.len() >= MAX_OUTCOMES && !known.outcomes.contains_key(&key) {
                let approvals = &self.documents.approvals;
                known.outcomes.retain(|key, _| approvals.get(key).is_some_and(|p| is_watched(&p.approval, now)));
                if known.outcomes.len() >= MAX_OUTCOMES {
                    continue;
                }
            }
            let outcome = Outcome { version: deployment.approval_version, state: deployment.state };
            let before = known.outcomes.insert(key, outcome);
            let news = before.is_none_or(|before| before.state != outcome.state || before.version != outcome.version);
            if news && outcome.state == DeploymentState::Failed {
                failed.push(key);
            }
        }
        failed
    }

    /// Whoever lifts the hold has seen the numbers: only what comes later can stop the rollout again.
    pub(super) fn accept_rollout(&mut self, group: GroupId, release: ReleaseId, now: Now) {
        let Some(published) = self.documents.approvals.get(&(group, release)) else { return };
        if !is_watched(&published.approval, now.wall) {
            return;
        }
        let total = self.count(&published.approval, now.wall).total();
        let (bad, version) = (total.failed + total.silent, published.approval.version);
        let row = Accepted { group, release, version, bad, decided: total.done + bad };
        let approvals = &self.documents.approvals;
        let current = |row: &Accepted| {
            approvals.get(&(row.group, row.release)).is_some_and(|known| known.approval.version == row.version)
        };
        self.rollouts.accepted.retain(|_, row| current(row));
        if self.rollouts.accepted.len() >= MAX_ACCEPTED {
            self.rollouts.accepted.pop_first();
        }
        self.rollouts.accepted.insert((group, release), row);
        let rows: Bounded<Accepted, MAX_ACCEPTED> =
            Bounded::truncated(self.rollouts.accepted.values().copied().collect());
        match codec::encode(&rows, RECORD_LIMIT) {
            Ok(bytes) => self.persist(Record::Rollouts(bytes)),
            Err(error) => self.alarm(format!("cannot encode what was accepted of rollouts: {error}")),
        }
    }

    fn check_rollout(&mut self, group: GroupId, release: ReleaseId, now: Now) {
        let Some(published) = self.documents.approvals.get(&(group, release)) else { return };
        if published.approval.rings.stop_above == 0 || self.is_held(group, release) || self.is_behind() {
            return;
        }
        // By a wrong clock everybody would have fallen silent.
        let status = self.count(&published.approval, now.wall);
        if !status.must_stop() || self.clock_distrust(now).is_some() {
            return;
        }
        let held = self.documents.hold(Hold::Rollout(group, release), true).map(|_| ());
        match held.and_then(|()| self.issue(now, true).map_err(Into::into)) {
            Ok(()) => self.outputs.push_back(Output::RolloutStopped(RolloutStatus { held: true, ..status })),
            Err(error) => {
                self.alarm(format!("the rollout of {release} in group {group} must stop and cannot: {error}"))
            }
        }
    }

    fn is_held(&self, group: GroupId, release: ReleaseId) -> bool {
        self.documents.holds.iter().any(|hold| match hold {
            Hold::Everything => true,
            Hold::Group(held) => *held == group,
            Hold::Release(held) => *held == release,
            Hold::Approval(in_group, held) | Hold::Rollout(in_group, held) => (*in_group, *held) == (group, release),
        })
    }

    fn count(&self, approval: &Approval, now: Wall) -> RolloutStatus {
        let key = (approval.group, approval.release);
        let mut rings = rings(approval);
        let mut left_out = 0;
        let of_group = self.devices.values().filter(|device| {
            device.record.groups.contains(&approval.group) && !self.documents.revoked.contains(&device.record.device)
        });
        for device in of_group {
            let place = ring_of(device.record.device, approval.release);
            let Some(ring) = rings.iter_mut().find(|ring| place < ring.up_to) else {
                left_out += 1;
                continue;
            };
            ring.devices += 1;
            match standing(device, device.outcomes.get(&key), approval, ring.begins, now) {
                Standing::Waits => {}
                Standing::Begun => ring.begun += 1,
                Standing::Done => (ring.begun, ring.done) = (ring.begun + 1, ring.done + 1),
                Standing::Failed => (ring.begun, ring.failed) = (ring.begun + 1, ring.failed + 1),
                Standing::Silent => (ring.begun, ring.silent) = (ring.begun + 1, ring.silent + 1),
            }
        }
        let accepted = self.rollouts.accepted.get(&key).filter(|row| row.version == approval.version);
        RolloutStatus {
            group: approval.group,
            release: approval.release,
            version: approval.version,
            action: approval.action,
            stop_above: approval.rings.stop_above,
            held: self.is_held(approval.group, approval.release),
            rings,
            left_out,
            accepted_bad: accepted.map_or(0, |row| row.bad),
            accepted_decided: accepted.map_or(0, |row| row.decided),
        }
    }
}

/// Whether the numbers of an approval are of interest.
fn is_watched(approval: &Approval, now: Wall) -> bool {
    let staged = !approval.rings.rings.is_empty() || approval.rings.stop_above > 0;
    staged && approval.action != Action::None && now < approval.expires
}

/// The rings of an approval, still empty; without a plan, or when it is expedited, one for everybody.
fn rings(approval: &Approval) -> Vec<RingStatus> {
    let available_from = approval.schedule.available_from.unwrap_or_default();
    let ring = |up_to, delay_s: u32| RingStatus {
        up_to,
        begins: available_from.max(approval.issued + Duration::from_secs(delay_s.into())),
        ..RingStatus::default()
    };
    if approval.rings.rings.is_empty() || approval.schedule.expedite {
        return vec![ring(10_000, 0)];
    }
    approval.rings.rings.iter().map(|stage| ring(stage.up_to, stage.delay_s)).collect()
}

enum Standing {
    Waits,
    Begun,
    Done,
    Failed,
    Silent,
}

fn standing(device: &Device, said: Option<&Outcome>, approval: &Approval, begins: Wall, now: Wall) -> Standing {
    use DeploymentState as S;
    let uninstall = approval.action == Action::Uninstall;
    let current = said.filter(|said| said.version == approval.version).map(|said| said.state);
    // What is done stays done when an approval is renewed; what failed may be tried again under the new one.
    match (said.map(|said| said.state), current) {
        (_, Some(S::Failed)) => return Standing::Failed,
        (Some(S::Uninstalled), _) if uninstall => return Standing::Done,
        (Some(S::Installed | S::RestartRequired), _) if !uninstall => return Standing::Done,
        (_, Some(S::RestartRequired)) => return Standing::Done,
        (_, Some(S::NotApplicable | S::Superseded | S::Canceled)) => return Standing::Waits,
        _ => {}
    }
    let Some(heard) = device.heard.filter(|heard| now >= begins && *heard + HEARD_WITHIN >= begins) else {
        return Standing::Waits;
    };
    let acting = matches!(current, Some(S::Offering | S::Downloading | S::Installing | S::Uninstalling));
    if acting && now.since(heard.max(begins)) >= SILENT_AFTER { Standing::Silent } else { Standing::Begun }
}
