//! How a recipe ended, and when it is tried again.
//!
//! What the release causes is counted and ends after a few attempts. What stands in the way on this machine is not the
//! release's fault and never fails it: it is tried again when what is known of the machine changes, and from time to time.

use core::time::Duration;

use super::{Deployment, Deployments, MAX_ATTEMPTS, Phase, Progress, View, is_final, progress};
use crate::catalog::{Action, RestartPolicy};
use crate::codec::Text;
use crate::ids::{GroupId, ReleaseId};
use crate::node::cx::Cx;
use crate::node::peers::backoff;
use crate::node::{InstallOutcome, NodeState, Obstacle, Reason};
use crate::report::{DeploymentState, SubState};
use crate::time::{Mono, Now, Wall};

/// The installer that would not begin yet is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// From one try to the next while something stands in the way: doubled with each, up to the longer. The approval's expiry ends
/// it.
const HINDERED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(6 * 3600));
/// A lock is free again soon.
const LOCKED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// A change of the machine brings the next try no sooner than this after the last: the try itself may be what changed it.
const NO_SOONER: Duration = Duration::from_secs(10);

/// From one try that the coordinator asks for to the next.
const ORDERED_NO_SOONER: Duration = Duration::from_secs(10);

/// Why there is no other try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRetried {
    /// No approval for this device names the release.
    #[error("it is not approved for this device")]
    NotDeployed,
    /// It is installed, removed, declined, superseded or not for this machine.
    #[error("it has come to its end here, and there is nothing to try again")]
    NothingToDo,
    /// Its recipe runs.
    #[error("it is being worked on now")]
    UnderWay,
}

/// What stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hindered {
    by: Obstacle,
    reason: String,
    tries: u32,
    last: Mono,
}

impl Deployment {
    /// Where it stands while something is in the way.
    pub(super) fn hindered_progress(&self, now: Now) -> Option<Progress> {
        let Hindered { by, reason, .. } = self.hindered.as_ref().filter(|_| self.retry > now.mono)?;
        let (state, sub_state) = by.state();
        Some(progress(state, sub_state, reason.clone()))
    }

    /// When it is tried again by itself.
    pub(super) fn next_try(&self, now: Now) -> Option<Wall> {
        let left = self.retry.since(now.mono);
        let waits = self.journal.failed.is_none() && self.phase == Phase::Idle && !left.is_zero();
        waits.then(|| now.wall + left)
    }
}

impl Obstacle {
    fn state(self) -> (DeploymentState, SubState) {
        use DeploymentState as S;
        match self {
            Obstacle::Held => (S::OnHold, SubState::HeldByMachine),
            Obstacle::Locked => (S::Pending, SubState::Locked),
            Obstacle::Broken => (S::Stalled, SubState::BrokenPackage),
            Obstacle::Dependency => (S::Pending, SubState::MissingDependency),
            Obstacle::NoSpace => (S::Stalled, SubState::NoSpace),
            Obstacle::NoNetwork => (S::Stalled, SubState::NoNetwork),
        }
    }

    /// What it rests on, for people.
    pub(super) fn because(self) -> &'static str {
        match self {
            Obstacle::Held => {
                "this machine's package manager was told to keep the package as it is; tried again when that changes"
            }
            Obstacle::Locked => "another program is using the package manager; tried again when it is done",
            Obstacle::Broken => "another package of this machine is broken, and nothing goes on before it is repaired",
            Obstacle::Dependency => "the package depends on it; tried again when something else is installed here",
            Obstacle::NoSpace => "the file system that the package goes to",
            Obstacle::NoNetwork => "the package manager needs something that this machine does not have",
        }
    }
}

impl Deployments {
    pub(in crate::node) fn install_ended(
        &mut self,
        id: ReleaseId,
        action: Action,
        outcome: InstallOutcome,
        cx: &mut Cx,
        view: View<'_>,
    ) {
        let now = cx.now;
        let jitter = cx.rng.jitter(Duration::from_secs(30));
        // What one version's recipe did decides whether another is still there.
        for other in self.index.siblings(&id).collect::<Vec<_>>() {
            self.detect_again(other);
        }
        let always = self.ask(cx, view).release(&id).is_some_and(|release| release.restart == RestartPolicy::Always);
        let Some(deployment) = self.map.get_mut(&id) else { return };
        if self.at_work == Some(id) {
            self.at_work = None;
        }
        deployment.detection = None;
        deployment.phase = Phase::Idle;
        deployment.journal.begun = false;
        let before = deployment.hindered.take();
        self.hindered.remove(&id);
        match outcome {
            InstallOutcome::Done { restart, code } => {
                deployment.code = code;
                // What another install of this run wanted is still wanted.
                if restart || (always && action == Action::Install) {
                    deployment.journal.restart_in = cx.config.boot.clone();
                    if !cx.config.boot.is_empty() {
                        self.wanting.insert(id);
                    }
                }
                (deployment.journal.failed, deployment.journal.done) = (None, true);
                self.machine_changed(cx);
                self.dependency_came(cx);
            }
            InstallOutcome::NotNow { reason } => {
                // Nothing was run.
                deployment.no_attempt();
                deployment.retry = now.mono + ASK_AGAIN + jitter;
                deployment.not_now = Some(reason);
            }
            InstallOutcome::Hindered { by, code, reason } => {
                deployment.code = code;
                deployment.no_attempt();
                let tries = before.filter(|before| before.by == by).map_or(0, |before| before.tries).saturating_add(1);
                let (first, most) = if by == Obstacle::Locked { LOCKED } else { HINDERED };
                let wait = first.saturating_mul(1 << (tries - 1).min(16)).min(most);
                deployment.retry = now.mono + wait + jitter.min(wait / 4);
                deployment.hindered = Some(Hindered { by, reason, tries, last: now.mono });
                self.hindered.insert(id);
            }
            InstallOutcome::Retry { code, reason } => {
                deployment.code = code;
                deployment.journal.note(now.wall, code, &reason);
                if deployment.journal.attempts >= MAX_ATTEMPTS {
                    let text = format!("given up after {} attempts: {reason}", deployment.journal.attempts);
                    deployment.journal.failed = Some((code, Text::lossy(&text)));
                } else {
                    let wait = backoff(u32::from(deployment.journal.attempts), Duration::from_secs(3600)) * 30;
                    deployment.retry = now.mono + wait + jitter;
                }
            }
            InstallOutcome::Failed { code, reason } => {
                deployment.code = code;
                deployment.journal.note(now.wall, code, &reason);
                deployment.journal.failed = Some((code, Text::lossy(&reason)));
            }
        }
        self.persist(id, cx);
        cx.timer(Reason::Restart, now.mono);
        self.touch_around(id);
    }

    /// What is installed here has changed, or how this machine is connected: what stood in the way may be gone.
    pub(in crate::node) fn machine_changed(&mut self, cx: &mut Cx) {
        self.dirty.extend(self.index.snapshots());
        for id in &self.hindered {
            if let Some(deployment) = self.map.get_mut(id)
                && let Some(hindered) = &deployment.hindered
            {
                deployment.retry = deployment.retry.min((hindered.last + NO_SOONER).max(cx.now.mono));
                cx.timer(Reason::Deployment(*id), deployment.retry);
            }
        }
    }

    /// Another install has ended well, and may be what others depend on: they are tried at once. Each install does this once.
    fn dependency_came(&mut self, cx: &mut Cx) {
        for id in &self.hindered {
            if let Some(deployment) = self.map.get_mut(id)
                && deployment.hindered_by().is_some_and(|(by, _)| by == Obstacle::Dependency)
            {
                deployment.retry = cx.now.mono;
                self.dirty.insert(*id);
            }
        }
    }

    /// Whether another try can be asked for.
    fn may_retry(&self, id: &ReleaseId) -> Result<(), NotRetried> {
        let deployment = self.map.get(id).filter(|deployment| !deployment.withdrawn).ok_or(NotRetried::NotDeployed)?;
        match deployment.phase {
            Phase::Idle if is_final(deployment.state) => Err(NotRetried::NothingToDo),
            Phase::Idle => Ok(()),
            Phase::Persisting(_) | Phase::Running => Err(NotRetried::UnderWay),
        }
    }

    /// The coordinator asks for another try where the release is approved for this group, or for any. Bounded in time: whoever
    /// has the coordinator's key makes no machine run a recipe without end.
    pub(in crate::node) fn retry_ordered(&mut self, id: ReleaseId, group: Option<GroupId>, cx: &mut Cx) {
        let now = cx.now.mono;
        let Some(deployment) = self.map.get_mut(&id).filter(|d| group.is_none_or(|group| group == d.group)) else {
            return;
        };
        if deployment.ordered.is_some_and(|before| now.since(before) < ORDERED_NO_SOONER) {
            return;
        }
        deployment.ordered = Some(now);
        self.retry(id, cx);
    }

    /// A person asks for another try.
    pub(in crate::node) fn retry(&mut self, id: ReleaseId, cx: &mut Cx) {
        if self.may_retry(&id).is_err() {
            return;
        }
        let Some(deployment) = self.map.get_mut(&id) else { return };
        deployment.journal.begin_anew();
        (deployment.retry, deployment.hindered, deployment.not_now) = (cx.now.mono, None, None);
        // It may have been put right by hand.
        deployment.detection = None;
        self.hindered.remove(&id);
        self.persist(id, cx);
        self.touch_around(id);
    }
}

impl Deployment {
    /// The recipe was not run, or not for a reason that counts.
    fn no_attempt(&mut self) {
        self.journal.begun = self.unfinished;
        self.journal.attempts = self.journal.attempts.saturating_sub(1);
    }

    pub(super) fn hindered_by(&self) -> Option<(Obstacle, &str)> {
        self.hindered.as_ref().map(|hindered| (hindered.by, &*hindered.reason))
    }
}

impl NodeState {
    /// Whether a person who asked now for another try would get it.
    pub fn would_retry(&self, id: &ReleaseId) -> Result<(), NotRetried> {
        self.deployments.may_retry(id)
    }
}
