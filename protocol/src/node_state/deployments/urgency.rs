//! What must be done although the machine runs on battery or a metered link, and what the person at it may put off.

use super::{Deployment, NodeState, is_final};
use crate::ids::ReleaseId;
use crate::node_state::{Output, Reason};
use crate::schedule::{self, DeferError, Deferred};
use crate::time::{Now, Wall};

/// What the person at the machine is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Until when it is put off.
    pub until: Wall,
    /// How many times more it may be put off.
    pub times_left: u8,
    /// For how many seconds more.
    pub seconds_left: u32,
}

/// Why nothing is put off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPutOff {
    /// No approval for this device names the release.
    #[error("it is not approved for this device; there is nothing to put off")]
    NotDeployed,
    /// It is done, declined or withdrawn, and no restart is pending.
    #[error("nothing is to be installed, removed or restarted for it here; there is nothing to put off")]
    NothingToDo,
    /// Its recipe runs.
    #[error("it has begun; it is too late to put it off")]
    Begun,
    /// The approval does not allow it.
    #[error(transparent)]
    NotAllowed(#[from] DeferError),
}

impl NodeState {
    /// Releases that an expedited approval, or one whose deadline has passed here, wants dealt with.
    pub(in crate::node_state) fn urgent_releases(&self, wall: Wall) -> Vec<ReleaseId> {
        let wanted = self.deployments.map.iter().filter(|(_, d)| !is_final(d.state));
        wanted.filter(|(_, d)| self.is_urgent(d, wall)).map(|(id, _)| *id).collect()
    }

    /// When the next deployment becomes urgent by its deadline.
    pub(in crate::node_state) fn next_urgency(&self, wall: Wall) -> Option<Wall> {
        let wall = self.trust.clock(wall);
        let forced = self
            .deployments
            .map
            .values()
            .filter(|d| !is_final(d.state))
            .filter_map(|d| schedule::forced_at(&d.approval.schedule, &self.facts(&d.journal), wall));
        forced.filter(|at| *at > wall).min()
    }

    pub(super) fn is_urgent(&self, deployment: &Deployment, wall: Wall) -> bool {
        let (schedule, wall) = (&deployment.approval.schedule, self.trust.clock(wall));
        let forced = schedule::forced_at(schedule, &self.facts(&deployment.journal), wall);
        schedule.expedite || forced.is_some_and(|forced| wall >= forced)
    }

    /// What the person at the machine would be granted who asked now to put an install, a removal or the restart after it
    /// off by `by_s` seconds.
    pub fn would_defer(&self, id: &ReleaseId, by_s: u32, now: Now) -> Result<Granted, NotPutOff> {
        let Deferred { until, times, total_s } = self.deferral(id, by_s, now)?;
        let cap = self.deployments.map.get(id).map(|d| d.approval.schedule.deferral).unwrap_or_default();
        let (times_left, seconds_left) = (cap.max_times.saturating_sub(times), cap.max_total_s.saturating_sub(total_s));
        Ok(Granted { until, times_left, seconds_left })
    }

    fn deferral(&self, id: &ReleaseId, by_s: u32, now: Now) -> Result<Deferred, NotPutOff> {
        let deployment = self.deployments.map.get(id).ok_or(NotPutOff::NotDeployed)?;
        if deployment.phase != super::Phase::Idle {
            return Err(NotPutOff::Begun);
        }
        if is_final(deployment.state) && !self.wants_restart(deployment) {
            return Err(NotPutOff::NothingToDo);
        }
        let facts = self.facts(&deployment.journal);
        Ok(schedule::defer(&deployment.approval.schedule, &facts, self.trust.clock(now.wall), by_s)?)
    }

    /// The person at the machine puts it off, as far as the approval allows.
    pub(in crate::node_state) fn defer(&mut self, id: ReleaseId, by_s: u32, now: Now) {
        match self.deferral(&id, by_s, now) {
            Ok(Deferred { until, times, total_s }) => {
                if let Some(deployment) = self.deployments.map.get_mut(&id) {
                    deployment.journal.deferred = Some((until, times, total_s));
                }
                self.persist_deployment(id);
                self.timer(Reason::Restart, now.mono);
                self.advance(id, now);
            }
            Err(error) => self.output.push_back(Output::Alarm(format!("not put off: {error}"))),
        }
    }

    /// Whether an install or removal in this run of the operating system wants a restart.
    pub(super) fn wants_restart(&self, deployment: &Deployment) -> bool {
        !self.config.boot.is_empty() && deployment.journal.restart_in == self.config.boot
    }
}
