//! The restart of the machine that an install wanted.
//!
//! It is asked for when all of this holds, and at most once in each run of the operating system:
//! 1. an install or removal in this run wants it: its recipe said so, or its publisher always wants it after an install;
//! 2. the publisher's policy and the approval's schedule permit it now ([`schedule::decide_restart`]): deferral holds it back, the
//!    deadline lifts deferral, windows and active hours;
//! 3. the release and its approval are in force, and nothing is on hold;
//! 4. the person at the machine has had the notice for its time;
//! 5. no install runs; none begins from the notice on.

use core::time::Duration;

use super::{NodeState, Stand, stand};
use crate::codec::Text;
use crate::ids::ReleaseId;
use crate::inventory::FACT_RESTART;
use crate::node_state::explain::Sentence;
use crate::node_state::{Output, Reason, RestartOutcome, RestartStatus};
use crate::report::{DeploymentState, SubState};
use crate::schedule::{self, Decision, NoRestart};
use crate::time::{Mono, Now, Wall};

/// An installer that would not restart yet is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// How far the wall clock may be behind when the notice has run out.
const SLACK: Duration = Duration::from_secs(60);
/// Between two looks at a schedule: the wall clock may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(900);

/// How far the restart is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Restart {
    /// None is near.
    #[default]
    Far,
    /// The person at the machine has been told.
    Noticed { release: ReleaseId, at: Mono, wall: Wall },
    /// The record that it is asked for is on its way to disk.
    Persisting { release: ReleaseId, token: u64 },
    /// It has been asked for, or only recorded. Should the machine stay up all the same, installs do not wait for ever.
    Asked { recorded: bool, installs_wait_until: Mono },
}

impl NodeState {
    /// Takes the restart as far as it can go now.
    pub(in crate::node_state) fn look_after_restart(&mut self, now: Now) {
        let wanting: Vec<_> =
            self.deployments.map.iter().filter(|(_, d)| self.wants_restart(d)).map(|(id, _)| *id).collect();
        let Some(first) = wanting.first().copied() else {
            if self.deployments.told.take().is_some() {
                self.output.push_back(Output::Notice { release: None, text: String::new(), near: false });
            }
            return self.restart_is(Restart::Far, now);
        };
        match self.deployments.restart {
            Restart::Far if self.asked_before() => {
                self.restart_is(Restart::Asked { recorded: false, installs_wait_until: now.mono }, now);
            }
            Restart::Far => {
                let notice = self.config.machine.restart_notice;
                // Given so early that it has run out when the time comes.
                match wanting.iter().find(|id| self.restart_due(id, now.wall + notice)) {
                    Some(release) => {
                        let (at, wall) = (now.mono + notice, now.wall + notice);
                        self.restart_is(Restart::Noticed { release: *release, at, wall }, now);
                        self.tell_restart(*release, Some(wall));
                        self.timer(Reason::Restart, at);
                    }
                    None => {
                        self.tell_restart(first, None);
                        let next = wanting.iter().filter_map(|id| self.restart_changes(id, now.wall + notice)).min();
                        let wait = next.map_or(LOOK_AGAIN, |at| at.since(now.wall + notice));
                        let wait = wait.clamp(Duration::from_millis(20), LOOK_AGAIN);
                        self.timer(Reason::Restart, now.mono + wait);
                        self.advance_all(now);
                    }
                }
            }
            Restart::Noticed { release, at, .. } => {
                // The clocks do not tick as one: the wall clock may be a little behind.
                let ahead = at.since(now.mono).max(SLACK);
                if !self.restart_due(&release, now.wall) && !self.restart_due(&release, now.wall + ahead) {
                    // Put off, paused, or the window has closed: from the beginning.
                    self.deployments.told = None;
                    self.restart_is(Restart::Far, now);
                    self.look_after_restart(now);
                } else if now.mono < at {
                    self.timer(Reason::Restart, at);
                } else if !self.restart_due(&release, now.wall) || self.deployments.running() {
                    self.timer(Reason::Restart, now.mono + Duration::from_secs(1));
                } else {
                    let boot = self.config.boot.clone();
                    if let Some(deployment) = self.deployments.map.get_mut(&release) {
                        deployment.journal.asked_in = boot;
                    }
                    let token = self.persist_deployment(release);
                    self.restart_is(Restart::Persisting { release, token }, now);
                }
            }
            Restart::Persisting { .. } | Restart::Asked { .. } => self.advance_all(now),
        }
    }

    pub(in crate::node_state) fn restart_persisted(&mut self, now: Now) {
        if let Restart::Persisting { release, token } = self.deployments.restart
            && token <= self.durable
        {
            let installs_wait_until = now.mono + LOOK_AGAIN;
            self.restart_is(Restart::Asked { recorded: false, installs_wait_until }, now);
            self.timer(Reason::Restart, installs_wait_until);
            self.output.push_back(Output::Restart { release });
        }
    }

    /// The shell's answer.
    pub(in crate::node_state) fn restart_ended(&mut self, release: ReleaseId, outcome: RestartOutcome, now: Now) {
        match outcome {
            RestartOutcome::Asked => {}
            RestartOutcome::Recorded => {
                self.restart_is(Restart::Asked { recorded: true, installs_wait_until: now.mono }, now);
            }
            RestartOutcome::NotNow { reason } => {
                if let Some(deployment) = self.deployments.map.get_mut(&release) {
                    deployment.journal.asked_in = Text::default();
                }
                self.persist_deployment(release);
                self.alarm(format!("the restart has to wait: {reason}"), now);
                // It may be that the notice never reached it.
                let (at, wall) = (now.mono + ASK_AGAIN, now.wall + ASK_AGAIN);
                self.deployments.told = None;
                self.restart_is(Restart::Noticed { release, at, wall }, now);
                self.tell_restart(release, Some(wall));
                self.timer(Reason::Restart, at);
            }
            RestartOutcome::Failed { reason } => {
                self.alarm(format!("the restart did not work: {reason}"), now);
                self.restart_is(Restart::Asked { recorded: false, installs_wait_until: now.mono }, now);
            }
        }
    }

    /// Whether no install may begin, because the machine is about to be restarted.
    pub(super) fn restart_is_near(&self) -> bool {
        match self.deployments.restart {
            Restart::Far => false,
            Restart::Noticed { .. } | Restart::Persisting { .. } => true,
            Restart::Asked { installs_wait_until, .. } => self.last.mono < installs_wait_until,
        }
    }

    /// Where a release stands that is installed and wants a restart.
    pub(super) fn restart_stand(&self, id: &ReleaseId, now: Now) -> Stand {
        let (sub_state, words) = self.restart_words(id, now);
        stand(DeploymentState::RestartRequired, sub_state, words)
    }

    fn restart_words(&self, id: &ReleaseId, now: Now) -> (SubState, String) {
        match self.deployments.restart {
            Restart::Noticed { wall, .. } => {
                return (SubState::None, format!("the machine is to be restarted at {}", self.local(wall)));
            }
            Restart::Persisting { .. } => return (SubState::None, "the machine is being restarted".into()),
            Restart::Asked { recorded: true, .. } => {
                return (SubState::None, "a restart was recorded: installs go below install_root here".into());
            }
            Restart::Asked { .. } => {
                return (
                    SubState::None,
                    "a restart was asked for; one is asked for once in each run of the system".into(),
                );
            }
            Restart::Far => {}
        }
        match self.decide_restart(id, now.wall) {
            None => (SubState::None, "the machine wants a restart".into()),
            Some(Err(no)) => (SubState::None, format!("the machine wants a restart; {no}")),
            Some(Ok(Decision::Now { .. })) => match self.restart_blocked(id, now.wall) {
                Some(blocked) => (SubState::Paused, format!("the machine wants a restart, and waits: {blocked}")),
                None => (SubState::None, "the machine is to be restarted soon".into()),
            },
            Some(Ok(Decision::NotBefore { at, why })) => {
                (why.sub_state(), format!("the machine wants a restart, and waits: {why} (until {})", self.local(at)))
            }
            Some(Ok(Decision::NotInRings | Decision::Expired)) => {
                (SubState::Expired, "the machine wants a restart, which the approval does not allow any more".into())
            }
        }
    }

    pub(super) fn explain_restart(&self, id: &ReleaseId, now: Now) -> Sentence {
        let (_, words) = self.restart_words(id, now);
        let notice = self.config.machine.restart_notice.as_secs();
        Sentence::new(
            format!("To be of use it needs a restart: {words}."),
            format!(
                "the publisher's policy and the schedule of the approval; the person at the machine is told {notice} s before"
            ),
        )
    }

    /// The restart that upswarm knows of.
    pub(in crate::node_state) fn restart_status(&self, now: Mono) -> Option<RestartStatus> {
        let (release, _) = self.deployments.map.iter().find(|(_, d)| self.wants_restart(d))?;
        let at = match self.deployments.restart {
            Restart::Noticed { wall, .. } => Some(wall),
            _ => None,
        };
        let wall = self.last.wall + now.since(self.last.mono);
        let (_, reason) = self.restart_words(release, Now { mono: now, wall });
        Some(RestartStatus { release: *release, at, reason })
    }

    /// Why the operating system wants a restart, as its own files say.
    pub(in crate::node_state) fn system_restart(&self) -> Option<String> {
        let inventory = self.inventory.as_ref().filter(|inventory| inventory.pending_restart)?;
        Some(inventory.fact(FACT_RESTART).unwrap_or("an update asked for it").to_owned())
    }

    fn decide_restart(&self, id: &ReleaseId, wall: Wall) -> Option<Result<Decision, NoRestart>> {
        let (deployment, found) = (self.deployments.map.get(id)?, self.trust.catalog().releases().get(id)?);
        let facts = self.facts(&deployment.journal);
        Some(schedule::decide_restart(found.release.restart, &deployment.approval, &facts, self.trust.clock(wall)))
    }

    fn restart_blocked(&self, id: &ReleaseId, wall: Wall) -> Option<String> {
        let group = self.deployments.map.get(id)?.group;
        self.trust.may_install(id, &group, wall).err().map(|blocked| blocked.to_string())
    }

    fn restart_due(&self, id: &ReleaseId, wall: Wall) -> bool {
        matches!(self.decide_restart(id, wall), Some(Ok(Decision::Now { .. })))
            && self.restart_blocked(id, wall).is_none()
    }

    fn restart_changes(&self, id: &ReleaseId, wall: Wall) -> Option<Wall> {
        match self.decide_restart(id, wall)? {
            Ok(Decision::NotBefore { at, .. }) => Some(at),
            _ => None,
        }
    }

    fn asked_before(&self) -> bool {
        let boot = &self.config.boot;
        self.deployments.map.values().any(|d| !boot.is_empty() && d.journal.asked_in == *boot)
    }

    fn restart_is(&mut self, next: Restart, now: Now) {
        if self.deployments.restart == next {
            return;
        }
        self.deployments.restart = next;
        self.advance_all(now);
    }

    /// Tells the person at the machine, once for each thing there is to tell.
    fn tell_restart(&mut self, release: ReleaseId, at: Option<Wall>) {
        if self.deployments.told == Some((release, at)) {
            return;
        }
        self.deployments.told = Some((release, at));
        let name = self.trust.catalog().releases().get(&release).map(|found| found.release.title.to_string());
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| self.release_name(&release));
        let when = match at {
            Some(at) => format!("will be restarted at {}", self.local(at)),
            None => "must be restarted".to_owned(),
        };
        let deferral = self.deployments.map.get(&release).map(|d| d.approval.schedule.deferral).unwrap_or_default();
        let off = if at.is_some() && deferral.max_times > 0 {
            format!(" To put it off: upswarm defer {} --for 1h", release.short())
        } else {
            String::new()
        };
        let text = format!("This computer {when} to finish the update \"{name}\". Please save your work.{off}");
        self.output.push_back(Output::Notice { release: Some(release), text, near: at.is_some() });
    }
}
