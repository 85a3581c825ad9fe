//! A rollout in numbers, and what a device last said of one. Owns when the numbers are bad enough to stop; never counts, and
//! never stops anything: `rollout` does both.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::catalog::Action;
use crate::ids::{GroupId, ReleaseId};
use crate::report::DeploymentState;
use crate::time::Wall;

/// So many devices must have come to an end before the share among them alone can stop a rollout.
pub const MIN_DECIDED: u32 = 20;

/// The devices of one ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RingStatus {
    /// As in the plan: devices up to this place, in hundredths of a percent.
    pub up_to: u16,
    /// When it begins.
    pub begins: Wall,
    /// Devices of the group whose place is in it.
    pub devices: u32,
    /// Devices that have begun.
    pub begun: u32,
    /// Devices on which it is done.
    pub done: u32,
    /// Devices on which it failed.
    pub failed: u32,
    /// Devices that fell silent in the midst of it.
    pub silent: u32,
}

/// A rollout in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolloutStatus {
    /// The group.
    pub group: GroupId,
    /// The release.
    pub release: ReleaseId,
    /// The approval's version.
    pub version: u64,
    /// What is done.
    pub action: Action,
    /// Share at which it stops, in hundredths of a percent; 0 means never.
    pub stop_above: u16,
    /// Whether anything holds it now.
    pub held: bool,
    /// Ring by ring; one for everybody when the approval has none.
    pub rings: Vec<RingStatus>,
    /// Devices of the group that the rings leave out.
    pub left_out: u32,
    /// Failed and silent devices that the admin accepted by resuming.
    pub accepted_bad: u32,
    /// Devices that had come to an end by then.
    pub accepted_decided: u32,
}

impl RolloutStatus {
    /// All rings together; `up_to` and `begins` are those of the last.
    pub fn total(&self) -> RingStatus {
        self.rings.iter().fold(RingStatus::default(), |sum, ring| RingStatus {
            up_to: ring.up_to,
            begins: ring.begins,
            devices: sum.devices + ring.devices,
            begun: sum.begun + ring.begun,
            done: sum.done + ring.done,
            failed: sum.failed + ring.failed,
            silent: sum.silent + ring.silent,
        })
    }

    /// Whether the numbers pass the share at which it is to stop.
    pub fn must_stop(&self) -> bool {
        let total = self.total();
        let decided = total.done + total.failed + total.silent;
        let bad = (total.failed + total.silent).saturating_sub(self.accepted_bad);
        let begun = total.begun.saturating_sub(self.accepted_decided);
        let decided = decided.saturating_sub(self.accepted_decided);
        let passes = |of: u32| u64::from(bad) * 10_000 > u64::from(self.stop_above) * u64::from(of);
        let early = decided >= MIN_DECIDED && bad >= 2 && passes(decided);
        self.stop_above > 0 && bad > 0 && (passes(begun) || early)
    }
}

/// What a device last said about an approval.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) version: u64,
    pub(super) state: DeploymentState,
}

/// By approval, for those that are watched.
pub(super) type Outcomes = BTreeMap<(GroupId, ReleaseId), Outcome>;
