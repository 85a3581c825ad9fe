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

use super::{Ask, Deployments, LOOK_AGAIN, NodeState, Progress, View, progress, sub_state};
use crate::codec::Text;
use crate::ids::ReleaseId;
use crate::inventory::FACT_RESTART;
use crate::node::cx::Cx;
use crate::node::explain::{Sentence, release_name};
use crate::node::{Output, Reason, RestartOutcome, RestartStatus};
use crate::report::{DeploymentState, SubState, Trouble};
use crate::schedule::{self, Decision, NoRestart};
use crate::time::{Mono, Now, Wall};

/// An installer that would not restart yet is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// How far the wall clock may be behind when the notice has run out.
const SLACK: Duration = Duration::from_secs(60);
/// A restart that was asked for has happened within this, or does not happen: then installs that need none go on.
const RESTARTS_WITHIN: Duration = Duration::from_secs(600);

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
    /// It has been asked for: until then the machine goes down.
    Asked { until: Mono },
    /// It was only recorded: this is a trial below another root.
    Recorded,
    /// It was asked for in this run of the system, which goes on all the same.
    Missed,
}

impl Deployments {
    /// Takes the restart as far as it can go now.
    pub(in crate::node) fn look_after_restart(&mut self, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        let Some(first) = self.wanting.first().copied() else {
            if self.told.take().is_some() {
                cx.out.push_back(Output::Notice { release: None, text: String::new(), near: false });
            }
            return self.restart_is(Restart::Far);
        };
        match self.restart {
            Restart::Far if self.asked => self.restart_is(Restart::Missed),
            Restart::Far => {
                let notice = cx.config.machine.restart_notice;
                // Given so early that it has run out when the time comes.
                let ask = self.ask(cx, view);
                let due = self.wanting.iter().find(|id| ask.restart_due(id, now.wall + notice)).copied();
                let changes = self.wanting.iter().filter_map(|id| ask.restart_changes(id, now.wall + notice)).min();
                if let Some(release) = due {
                    let (at, wall) = (now.mono + notice, now.wall + notice);
                    self.restart_is(Restart::Noticed { release, at, wall });
                    self.tell_restart(release, Some(wall), cx, view);
                    cx.timer(Reason::Restart, at);
                } else {
                    self.tell_restart(first, None, cx, view);
                    let wait = changes.map_or(LOOK_AGAIN, |at| at.since(now.wall + notice));
                    cx.timer(Reason::Restart, now.mono + wait.clamp(Duration::from_millis(20), LOOK_AGAIN));
                    // What they say about it may be another.
                    self.dirty.extend(&self.wanting);
                }
            }
            Restart::Noticed { release, at, .. } => {
                // The clocks do not tick as one: the wall clock may be a little behind.
                let ahead = at.since(now.mono).max(SLACK);
                let ask = self.ask(cx, view);
                let (due, due_soon) =
                    (ask.restart_due(&release, now.wall), ask.restart_due(&release, now.wall + ahead));
                if !due && !due_soon {
                    // Put off, paused, or the window has closed: from the beginning.
                    self.told = None;
                    self.restart_is(Restart::Far);
                    self.look_after_restart(cx, view);
                } else if now.mono < at {
                    cx.timer(Reason::Restart, at);
                } else if !due || self.at_work.is_some() {
                    cx.timer(Reason::Restart, now.mono + Duration::from_secs(1));
                } else {
                    if let Some(deployment) = self.map.get_mut(&release) {
                        deployment.journal.asked_in = cx.config.boot.clone();
                    }
                    self.asked = true;
                    let token = self.persist(release, cx);
                    self.restart_is(Restart::Persisting { release, token });
                }
            }
            Restart::Asked { until } if now.mono < until => cx.timer(Reason::Restart, until),
            Restart::Asked { .. } => {
                let minutes = RESTARTS_WITHIN.as_secs() / 60;
                cx.alarm(Trouble::Restart, format!(
                    "the restart that was asked for {minutes} min ago has not happened; check restart.command, or restart \
                     the machine by hand"
                ));
                self.restart_is(Restart::Missed);
            }
            Restart::Persisting { .. } | Restart::Recorded | Restart::Missed => {}
        }
    }

    pub(super) fn restart_persisted(&mut self, cx: &mut Cx) {
        if let Restart::Persisting { release, token } = self.restart
            && cx.is_durable(token)
        {
            let until = cx.now.mono + RESTARTS_WITHIN;
            self.restart_is(Restart::Asked { until });
            cx.timer(Reason::Restart, until);
            cx.out.push_back(Output::Restart { release });
        }
    }

    /// The driver's answer.
    pub(in crate::node) fn restart_ended(
        &mut self,
        release: ReleaseId,
        outcome: RestartOutcome,
        cx: &mut Cx,
        view: View<'_>,
    ) {
        match outcome {
            RestartOutcome::Asked => {}
            RestartOutcome::Recorded => self.restart_is(Restart::Recorded),
            RestartOutcome::NotNow { reason } => {
                if let Some(deployment) = self.map.get_mut(&release) {
                    deployment.journal.asked_in = Text::default();
                }
                self.asked = false;
                self.persist(release, cx);
                cx.alarm(Trouble::Restart, format!("the restart has to wait: {reason}"));
                // It may be that the notice never reached it.
                let (at, wall) = (cx.now.mono + ASK_AGAIN, cx.now.wall + ASK_AGAIN);
                self.told = None;
                self.restart_is(Restart::Noticed { release, at, wall });
                self.tell_restart(release, Some(wall), cx, view);
                cx.timer(Reason::Restart, at);
            }
            RestartOutcome::Failed { reason } => {
                cx.alarm(Trouble::Restart, format!("the restart did not work: {reason}"));
                self.restart_is(Restart::Missed);
            }
        }
    }

    fn restart_is(&mut self, next: Restart) {
        if self.restart != next {
            self.restart = next;
            // Those that wait for their turn are asked by themselves.
            self.dirty.extend(&self.wanting);
            self.dirty.extend(&self.queue);
        }
    }

    /// Tells the person at the machine, once for each thing there is to tell.
    fn tell_restart(&mut self, release: ReleaseId, at: Option<Wall>, cx: &mut Cx, view: View<'_>) {
        if self.told == Some((release, at)) {
            return;
        }
        self.told = Some((release, at));
        let name = self.ask(cx, view).release(&release).map(|found| found.title.to_string());
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| release_name(view.trust, &release));
        let when = match at {
            Some(at) => format!("will be restarted at {}", cx.local(at)),
            None => "must be restarted".to_owned(),
        };
        let deferral = self.map.get(&release).map(|d| d.approval.schedule.deferral).unwrap_or_default();
        let off = if at.is_some() && deferral.max_times > 0 {
            format!(" To put it off: upswarm defer {} --for 1h", release.short())
        } else {
            String::new()
        };
        let text = format!("This computer {when} to finish the update \"{name}\". Please save your work.{off}");
        cx.out.push_back(Output::Notice { release: Some(release), text, near: at.is_some() });
    }
}

impl Ask<'_> {
    /// Whether no install may begin, because the machine is about to be restarted.
    pub(super) fn restart_is_near(&self) -> bool {
        match self.all.restart {
            Restart::Far | Restart::Recorded | Restart::Missed => false,
            Restart::Noticed { .. } | Restart::Persisting { .. } => true,
            Restart::Asked { until } => self.now.mono < until,
        }
    }

    /// Where a release stands that is installed and wants a restart.
    pub(super) fn restart_progress(&self, id: &ReleaseId) -> Progress {
        let (sub_state, words) = self.restart_words(id);
        progress(DeploymentState::RestartRequired, sub_state, words)
    }

    fn restart_words(&self, id: &ReleaseId) -> (SubState, String) {
        let none = |words: String| (SubState::None, words);
        match self.all.restart {
            Restart::Noticed { wall, .. } => {
                return none(format!("the machine is to be restarted at {}", self.cx.local(wall)));
            }
            Restart::Persisting { .. } | Restart::Asked { .. } => {
                return none("the machine is being restarted".into());
            }
            Restart::Recorded => {
                return none("a restart was recorded: installs go below install_root here".into());
            }
            Restart::Missed => {
                return none(
                    "a restart was asked for and has not happened; one is asked for once in each run of the system"
                        .into(),
                );
            }
            Restart::Far => {}
        }
        match self.decide_restart(id, self.now.wall) {
            None => none("the machine wants a restart".into()),
            Some(Err(no)) => none(format!("the machine wants a restart; {no}")),
            Some(Ok(Decision::Now { .. })) => match self.restart_blocked(id) {
                Some(blocked) => (SubState::Paused, format!("the machine wants a restart, and waits: {blocked}")),
                None => none("the machine is to be restarted soon".into()),
            },
            Some(Ok(Decision::NotBefore { at, why })) => {
                let at = self.cx.local(at);
                (sub_state(why), format!("the machine wants a restart, and waits: {why} (until {at})"))
            }
            Some(Ok(Decision::NotInRings | Decision::Expired)) => {
                (SubState::Expired, "the machine wants a restart, which the approval does not allow any more".into())
            }
        }
    }

    pub(super) fn explain_restart(&self, id: &ReleaseId) -> Sentence {
        let (_, words) = self.restart_words(id);
        let notice = self.cx.config.machine.restart_notice.as_secs();
        Sentence::new(
            format!("To be of use it needs a restart: {words}."),
            format!(
                "the publisher's policy and the schedule of the approval; the person at the machine is told {notice} s before"
            ),
        )
    }

    fn decide_restart(&self, id: &ReleaseId, wall: Wall) -> Option<Result<Decision, NoRestart>> {
        let (deployment, release) = (self.all.map.get(id)?, self.release(id)?);
        let facts = self.facts(&deployment.journal);
        Some(schedule::decide_restart(release.restart, &deployment.approval, &facts, wall))
    }

    fn restart_blocked(&self, id: &ReleaseId) -> Option<String> {
        self.restart_blocked_at(id, self.now.wall)
    }

    fn restart_blocked_at(&self, id: &ReleaseId, wall: Wall) -> Option<String> {
        let group = self.all.map.get(id)?.group;
        self.view.trust.may_install(id, &group, wall).err().map(|blocked| blocked.to_string())
    }

    fn restart_due(&self, id: &ReleaseId, wall: Wall) -> bool {
        matches!(self.decide_restart(id, wall), Some(Ok(Decision::Now { .. })))
            && self.restart_blocked_at(id, wall).is_none()
    }

    fn restart_changes(&self, id: &ReleaseId, wall: Wall) -> Option<Wall> {
        match self.decide_restart(id, wall)? {
            Ok(Decision::NotBefore { at, .. }) => Some(at),
            _ => None,
        }
    }
}

impl NodeState {
    /// The restart that upswarm knows of.
    pub(in crate::node) fn restart_status(&self, now: Mono) -> Option<RestartStatus> {
        let release = *self.deployments.wanting.first()?;
        let at = match self.deployments.restart {
            Restart::Noticed { wall, .. } => Some(wall),
            _ => None,
        };
        let wall = self.cx.now.wall + now.since(self.cx.now.mono);
        let (_, reason) = self.asking(Now { mono: now, wall }).restart_words(&release);
        Some(RestartStatus { release, at, reason })
    }

    /// Why the operating system wants a restart, as its own files say.
    pub(in crate::node) fn system_restart(&self) -> Option<String> {
        let inventory = self.inventory().filter(|inventory| inventory.pending_restart)?;
        Some(inventory.fact(FACT_RESTART).unwrap_or("an update asked for it").to_owned())
    }
}
