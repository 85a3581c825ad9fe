//! Looking at a deployment: how far it can go now, and in which state that leaves it.
//!
//! This file decides what a release is (superseded, declined, here, to be done); whether the work may begin is the gates' word.

use core::time::Duration;

use super::gates::{Candidate, GATES, Shut};
use super::*;

/// Detection is repeated this often, to notice what others did to the machine.
const DETECT_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Looks in one call of [`Deployments::work`], so that no event takes long however many releases are approved here.
const MAX_LOOKS: usize = 256;
/// What is left over is looked at after this.
const REST: Duration = Duration::from_millis(20);

impl Deployments {
    /// Looks at every deployment that an event has concerned, and at those whose turn it is. What they want of others is
    /// returned; if others answer with news, they mark deployments anew.
    pub(in crate::node) fn work(&mut self, cx: &mut Cx, view: View<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut looks = 0;
        while let Some(id) = self.dirty.first().copied().or_else(|| self.whose_turn(cx, view)) {
            if looks == MAX_LOOKS {
                cx.timer(Reason::Deployments, cx.now.mono + REST);
                self.rests = true;
                break;
            }
            looks += 1;
            self.dirty.remove(&id);
            self.look_at(id, cx, view, &mut effects);
        }
        effects
    }

    /// Whether there is more to be looked at in this event.
    pub(in crate::node) fn has_work(&self) -> bool {
        !self.dirty.is_empty() && !self.rests
    }

    /// Another event: it may look at as many as the one before.
    pub(in crate::node) fn rested(&mut self) {
        self.rests = false;
    }

    fn whose_turn(&self, cx: &Cx, view: View<'_>) -> Option<ReleaseId> {
        let first = self.queue.first().copied()?;
        self.ask(cx, view).is_turn_free().then_some(first)
    }

    fn look_at(&mut self, id: ReleaseId, cx: &mut Cx, view: View<'_>, effects: &mut Vec<Effect>) {
        self.queue.remove(&id);
        if let Some(next) = self.next_progress(id, cx, view, effects) {
            self.set_progress(id, next, cx, effects);
        }
    }

    fn next_progress(
        &mut self,
        id: ReleaseId,
        cx: &mut Cx,
        view: View<'_>,
        effects: &mut Vec<Effect>,
    ) -> Option<Progress> {
        use DeploymentState as S;
        let deployment = self.map.get(&id).filter(|d| d.phase == Phase::Idle && !d.withdrawn)?;
        let catalog = view.trust.catalog();
        let reaches =
            view.assigned.contains(&deployment.group) && catalog.approvals().contains_key(&(deployment.group, id));
        let Some(found) = catalog.releases().get(&id).filter(|_| reaches) else {
            // It was withdrawn while it ran.
            self.cancel(id, cx, view, effects);
            return None;
        };
        let release = found.release.clone();
        match self.ask(cx, view).superseded_by(&id) {
            Superseded::By { later, .. } => {
                self.spare(id, cx, view, effects);
                return Some(progress(S::Superseded, SubState::None, format!("{later} takes its place")));
            }
            Superseded::NotKnownYet => return None,
            Superseded::No => {}
        }
        let due = deployment.detection.is_none() || cx.now.mono.since(deployment.detected) > DETECT_EVERY;
        if due && !deployment.detecting {
            cx.out.push_back(Output::Detect { release: id });
            self.map.get_mut(&id)?.detecting = true;
        }
        let deployment = self.map.get(&id)?;
        let detection = deployment.detection.clone()?;
        let action = deployment.approval.action;
        match (action, detection) {
            (Action::None, _) => {
                self.spare(id, cx, view, effects);
                Some(progress(S::Canceled, SubState::None, "declined by the admin"))
            }
            (_, Detection::Unknown(reason)) => {
                self.retry_detection(id, cx);
                Some(progress(S::Stalled, SubState::Retrying, format!("detection cannot tell: {reason}")))
            }
            (Action::Install, Detection::NotApplicable(reason)) => {
                self.spare(id, cx, view, effects);
                Some(progress(S::NotApplicable, SubState::None, reason))
            }
            // Half of what a package manager was interrupted in may be missing, whatever its database says: it is run again.
            (Action::Install, Detection::Present)
                if deployment.journal.begun
                    && matches!(release.install, Recipe::Deb { .. } | Recipe::Rpm { .. } | Recipe::Apt(_)) =>
            {
                Some(self.towards_action(id, &release, cx, view, effects))
            }
            (Action::Install, Detection::Present) => {
                self.finished(id, cx, view, effects);
                let restart = self.wanting.contains(&id);
                let ask = self.ask(cx, view);
                Some(if restart { ask.restart_progress(&id) } else { progress(S::Installed, SubState::None, "") })
            }
            (Action::Uninstall, Detection::Absent | Detection::NotApplicable(_)) => {
                self.finished(id, cx, view, effects);
                Some(progress(S::Uninstalled, SubState::None, ""))
            }
            (Action::Install, Detection::Absent) | (Action::Uninstall, Detection::Present) => {
                Some(self.towards_action(id, &release, cx, view, effects))
            }
        }
    }

    /// The way from "must be done" to the recipe: the first gate that is shut gives the state.
    fn towards_action(
        &mut self,
        id: ReleaseId,
        release: &Arc<Release>,
        cx: &mut Cx,
        view: View<'_>,
        effects: &mut Vec<Effect>,
    ) -> Progress {
        self.note_overdue(id, cx, view);
        let Some(candidate) = Candidate::new(self.ask(cx, view), id, release) else {
            return progress(DeploymentState::Canceled, SubState::None, "");
        };
        let changes = candidate.changes_at().map(|at| at.since(candidate.ask.wall()));
        let shut = GATES.iter().find_map(|gate| (gate.shut)(&candidate));
        let wanted = shut.as_ref().filter(|shut| shut.wants).and_then(|_| candidate.source());
        let wanted = wanted.map(|source| Effect::Want(source.clone(), candidate.ask.needed(source)));
        let paused =
            if shut.as_ref().is_some_and(|shut| shut.pauses) { candidate.ask.idle_payloads(&id) } else { Vec::new() };
        effects.extend(paused.into_iter().map(Effect::Pause));
        if let Some(wait) = changes {
            let wait = wait.clamp(Duration::from_millis(20), LOOK_AGAIN);
            cx.timer(Reason::Deployment(id), cx.now.mono + wait);
        }
        let Some(Shut { progress, again, waits_for_turn, .. }) = shut else {
            self.begin(id, cx);
            return about_to_begin();
        };
        effects.extend(wanted);
        if waits_for_turn {
            self.queue.insert(id);
        }
        if let Some(at) = again {
            cx.timer(Reason::Deployment(id), at);
        }
        progress
    }

    fn begin(&mut self, id: ReleaseId, cx: &mut Cx) {
        let Some(deployment) = self.map.get_mut(&id) else { return };
        deployment.journal.approval_version = deployment.approval.version;
        deployment.journal.attempts = deployment.journal.attempts.saturating_add(1);
        deployment.unfinished = deployment.journal.begun;
        (deployment.journal.begun, deployment.journal.done, deployment.not_now) = (true, false, None);
        let token = self.persist(id, cx);
        if let Some(deployment) = self.map.get_mut(&id) {
            deployment.phase = Phase::Persisting(token);
        }
        self.at_work = Some(id);
    }

    /// Records are on disk: the recipe whose beginning is noted may run.
    pub(in crate::node) fn persisted(&mut self, cx: &mut Cx, view: View<'_>, effects: &mut Vec<Effect>) {
        self.restart_persisted(cx);
        let Some(id) = self.at_work else { return };
        let Some(deployment) = self.map.get_mut(&id) else { return };
        if !matches!(deployment.phase, Phase::Persisting(token) if cx.is_durable(token)) {
            return;
        }
        // What was true when it was asked for may not be true now.
        let may = view.trust.may_install(&id, &deployment.group, cx.now.wall).is_ok();
        if !may || view.belongs(&deployment.group).is_err() {
            deployment.phase = Phase::Idle;
            deployment.journal.begun = deployment.unfinished;
            self.at_work = None;
            return self.touch_around(id);
        }
        deployment.phase = Phase::Running;
        let action = deployment.approval.action;
        let state = match action {
            Action::Uninstall => DeploymentState::Uninstalling,
            Action::Install | Action::None => DeploymentState::Installing,
        };
        self.set_progress(id, progress(state, SubState::None, ""), cx, effects);
        cx.out.push_back(Output::Install { release: id, action });
    }

    pub(in crate::node) fn detected(&mut self, id: ReleaseId, result: Detection, cx: &mut Cx) {
        let Some(deployment) = self.map.get_mut(&id) else { return };
        deployment.detecting = false;
        deployment.detected = cx.now.mono;
        let wanted = match deployment.approval.action {
            Action::Install => result == Detection::Present,
            Action::Uninstall => !matches!(result, Detection::Present),
            Action::None => true,
        };
        // The recipe said that it worked, and detection says otherwise: doing it again would not help.
        let ended = deployment.phase == Phase::Idle && !deployment.journal.begun && deployment.journal.done;
        if ended && !wanted && deployment.journal.failed.is_none() && !matches!(result, Detection::Unknown(_)) {
            let text = "the recipe ended well, but detection does not find its result; check the detection rules";
            deployment.journal.failed = Some((deployment.code, Text::lossy(text)));
        }
        deployment.detection = Some(result);
        cx.timer(Reason::Deployment(id), cx.now.mono + DETECT_EVERY + Duration::from_secs(1));
        self.touch_around(id);
    }

    fn retry_detection(&mut self, id: ReleaseId, cx: &mut Cx) {
        if let Some(deployment) = self.map.get_mut(&id)
            && cx.now.mono.since(deployment.detected) > Duration::from_secs(60)
        {
            deployment.detection = None;
        }
        cx.timer(Reason::Deployment(id), cx.now.mono + Duration::from_secs(61));
    }

    fn finished(&mut self, id: ReleaseId, cx: &mut Cx, view: View<'_>, effects: &mut Vec<Effect>) {
        let Some(deployment) = self.map.get_mut(&id) else { return };
        let journal = &mut deployment.journal;
        if journal.begun || journal.failed.is_some() || journal.attempts > 0 {
            // It may be that a power cut interrupted it. Whatever is lost from here on is no failure of this attempt.
            journal.begun = false;
            journal.begin_anew();
            self.persist(id, cx);
        }
        self.spare(id, cx, view, effects);
    }

    fn spare(&self, id: ReleaseId, cx: &Cx, view: View<'_>, effects: &mut Vec<Effect>) {
        effects.extend(self.ask(cx, view).unneeded(&id).into_iter().map(Effect::Release));
    }

    fn note_overdue(&mut self, id: ReleaseId, cx: &mut Cx, view: View<'_>) {
        let overdue = self.ask(cx, view).overdue_since(&id);
        let Some(deployment) = self.map.get_mut(&id) else { return };
        if overdue.is_some() && deployment.journal.overdue_since != overdue {
            deployment.journal.overdue_since = overdue;
            self.persist(id, cx);
        }
    }

    pub(super) fn set_progress(&mut self, id: ReleaseId, next: Progress, cx: &Cx, effects: &mut Vec<Effect>) {
        let Some(deployment) = self.map.get_mut(&id) else { return };
        let Progress(state, sub_state, mut reason) = next;
        // What holds it back now must not hide that it was tried before.
        let waits = !is_final(state) && !matches!(state, DeploymentState::Failed) && sub_state != SubState::Retrying;
        if let Some(last) = deployment.journal.tried.last().filter(|_| waits) {
            let gap = if reason.is_empty() { "" } else { "; " };
            reason = format!("{reason}{gap}attempt {} did not work{}", deployment.journal.tried.len(), last.words());
        }
        let changed = (deployment.state, deployment.sub_state) != (state, sub_state);
        if changed {
            deployment.since = cx.now.wall;
        }
        if state == DeploymentState::Failed {
            deployment.code = deployment.journal.failed.as_ref().and_then(|(code, _)| *code).or(deployment.code);
        }
        if changed || deployment.reason != reason {
            (deployment.state, deployment.sub_state, deployment.reason) = (state, sub_state, reason);
            effects.push(Effect::Changed(id));
        }
        if state == DeploymentState::Downloading {
            self.arriving.insert(id);
        } else {
            self.arriving.remove(&id);
        }
        if changed {
            // The others only: this one has just been looked at.
            let around: Vec<_> = self.index.around(&id).filter(|other| *other != id).collect();
            self.dirty.extend(around);
        }
    }
}

fn about_to_begin() -> Progress {
    progress(DeploymentState::Downloaded, SubState::Queued, "about to begin")
}
