//! What must be done although the machine runs on battery or a metered link, and what the person at it may put off.

use std::collections::BTreeSet;

use super::{Ask, Deployment, Deployments, NodeState, View, is_final};
use crate::ids::{PayloadId, ReleaseId};
use crate::node::cx::Cx;
use crate::node::{Output, Reason};
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

impl Ask<'_> {
    /// Payloads that an expedited approval, or one whose deadline has passed here, wants dealt with.
    pub(super) fn urgent_payloads(&self) -> BTreeSet<PayloadId> {
        let wanted = self.all.map.iter().filter(|(_, d)| !is_final(d.state) && self.is_urgent(d));
        let releases = wanted.flat_map(|(id, _)| {
            let back = self.goes_back_to(id).map(|(_, back)| back);
            self.release(id).cloned().into_iter().chain(back)
        });
        releases.flat_map(|release| release.payloads.iter().map(|payload| payload.id).collect::<Vec<_>>()).collect()
    }

    /// When the next deployment becomes urgent by its deadline.
    pub(super) fn next_urgency(&self) -> Option<Wall> {
        let wall = self.wall();
        let waiting = self.all.map.values().filter(|d| !is_final(d.state));
        let forced = waiting.filter_map(|d| schedule::forced_at(&d.approval.schedule, &self.facts(&d.journal), wall));
        forced.filter(|at| *at > wall).min()
    }

    pub(super) fn is_urgent(&self, deployment: &Deployment) -> bool {
        let (schedule, wall) = (&deployment.approval.schedule, self.wall());
        let forced = schedule::forced_at(schedule, &self.facts(&deployment.journal), wall);
        schedule.expedite || forced.is_some_and(|forced| wall >= forced)
    }

    fn deferral(&self, id: &ReleaseId, by_s: u32) -> Result<Deferred, NotPutOff> {
        let deployment = self.all.map.get(id).filter(|d| !d.withdrawn).ok_or(NotPutOff::NotDeployed)?;
        if deployment.phase != super::Phase::Idle {
            return Err(NotPutOff::Begun);
        }
        if is_final(deployment.state) && !self.all.wanting.contains(id) {
            return Err(NotPutOff::NothingToDo);
        }
        let facts = self.facts(&deployment.journal);
        Ok(schedule::defer(&deployment.approval.schedule, &facts, self.wall(), by_s)?)
    }
}

impl Deployments {
    /// What is urgent although bytes are held back, and when something else becomes so.
    pub(in crate::node) fn urgency(&self, cx: &Cx, view: View<'_>) -> (BTreeSet<PayloadId>, Option<Wall>) {
        let ask = self.ask(cx, view);
        (ask.urgent_payloads(), ask.next_urgency())
    }

    /// The person at the machine puts it off, as far as the approval allows.
    pub(in crate::node) fn defer(&mut self, id: ReleaseId, by_s: u32, cx: &mut Cx, view: View<'_>) {
        match self.ask(cx, view).deferral(&id, by_s) {
            Ok(Deferred { until, times, total_s }) => {
                if let Some(deployment) = self.map.get_mut(&id) {
                    deployment.journal.deferred = Some((until, times, total_s));
                }
                self.persist(id, cx);
                cx.timer(Reason::Restart, cx.now.mono);
                self.touch_around(id);
            }
            Err(error) => cx.out.push_back(Output::Alarm(format!("not put off: {error}"))),
        }
    }
}

impl NodeState {
    /// What the person at the machine would be granted who asked now to put an install, a removal or the restart after it
    /// off by `by_s` seconds.
    pub fn would_defer(&self, id: &ReleaseId, by_s: u32, now: Now) -> Result<Granted, NotPutOff> {
        let Deferred { until, times, total_s } = self.asking(now).deferral(id, by_s)?;
        let cap = self.deployments.map.get(id).map(|d| d.approval.schedule.deferral).unwrap_or_default();
        let (times_left, seconds_left) = (cap.max_times.saturating_sub(times), cap.max_total_s.saturating_sub(total_s));
        Ok(Granted { until, times_left, seconds_left })
    }
}
