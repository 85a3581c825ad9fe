//! Why a release is not installed here yet: the gates of [`NodeState::advance`], in the same order.

use super::{Deployment, MAX_ATTEMPTS, NodeState, Phase, Superseded, is_final, uses_payload};
use crate::catalog::Action;
use crate::ids::ReleaseId;
use crate::node_state::explain::{Sentence, span};
use crate::node_state::{Detection, Reason};
use crate::schedule::{self, Decision, Why};
use crate::time::Now;

impl NodeState {
    /// Deployments that have not come to their end.
    pub(in crate::node_state) fn unfinished(&self) -> Vec<ReleaseId> {
        self.deployments.map.iter().filter(|(_, d)| !is_final(d.state)).map(|(id, _)| *id).collect()
    }

    /// `None` when there is no deployment of this release.
    pub(in crate::node_state) fn explain_deployment(&self, id: &ReleaseId, now: Now) -> Option<Vec<Sentence>> {
        let deployment = self.deployments.map.get(id)?;
        let name = self.release_name(id);
        let group = deployment.group.short();
        let approval = format!("approval version {} for group {group}", deployment.approval.version);
        let one = |text: String, because: String| Some(vec![Sentence::new(text, because)]);
        let since = format!("for {}", span(now.wall.since(deployment.since)));
        let verb = if deployment.approval.action == Action::Uninstall { "removed" } else { "installed" };
        match deployment.phase {
            Phase::Idle => {}
            Phase::Persisting(_) => {
                return one(
                    format!("{name} is about to be {verb}: the record of its beginning is being written."),
                    "an install begins only when a power cut cannot make it forgotten".into(),
                );
            }
            Phase::Running => {
                let because =
                    format!("its recipe has been running {since}, attempt {}; {approval}", deployment.journal.attempts);
                return one(format!("{name} is being {verb} now."), because);
            }
        }
        let catalog = self.trust.catalog();
        let Some(found) =
            catalog.releases().get(id).filter(|_| catalog.approvals().contains_key(&(deployment.group, *id)))
        else {
            return one(
                format!("{name} is not to be {verb} here any more: the approval was withdrawn."),
                format!("{approval} is not in the catalog in force, index version {}", catalog.index_version()),
            );
        };
        let release = found.release.clone();
        if let Superseded::By { later, because } = self.superseded_by(id, now) {
            return one(format!("{name} is not {verb}: {later} takes its place."), because);
        }
        if deployment.approval.action == Action::None {
            return one(format!("{name} is not to be installed: the admin declined it for this group."), approval);
        }
        let rules = format!("the rules of {name}, as they were run on this machine");
        let ago = |deployment: &Deployment| span(now.mono.since(deployment.detected));
        match (&deployment.detection, deployment.approval.action) {
            (None, _) => {
                let text =
                    format!("It is not known yet whether {name} is needed here: its detection rules are being run.");
                return one(text, "nothing is fetched or installed before detection has answered".into());
            }
            (Some(Detection::Unknown(reason)), _) => {
                return one(
                    format!(
                        "It cannot be told whether {name} is needed here: {reason}. It is tried again every minute."
                    ),
                    rules,
                );
            }
            (Some(Detection::NotApplicable(reason)), Action::Install) => {
                return one(format!("{name} does not concern this device: {reason}."), rules);
            }
            (Some(Detection::Present), Action::Install) => {
                let installed = format!("{name} is installed.");
                let mut told =
                    vec![Sentence::new(installed, format!("every detection rule held {} ago", ago(deployment)))];
                if self.wants_restart(deployment) {
                    told.push(self.explain_restart(id, now));
                }
                return Some(told);
            }
            (Some(Detection::Absent | Detection::NotApplicable(_)), Action::Uninstall) => {
                return one(
                    format!("{name} is not installed here, as the approval wants it."),
                    format!("a detection rule did not hold {} ago; {approval}", ago(deployment)),
                );
            }
            (Some(_), _) => {}
        }
        let mut sentences = Vec::new();
        if let Some((code, reason)) = &deployment.journal.failed {
            let code = code.map_or(String::new(), |code| format!(" with exit code {code}"));
            sentences.push(Sentence::new(
                format!(
                    "{name} could not be {verb}: it failed{code} {} ago: {reason}",
                    span(now.wall.since(deployment.since))
                ),
                format!("what the recipe said; it is not tried again under {approval}: approve it anew to try again"),
            ));
        }
        if let Err(blocked) = self.trust.may_install(id, &deployment.group, now.wall) {
            sentences.push(self.explain_blocked(&blocked, now));
        }
        if let Some(waiting) = self.missing_dependency(&release) {
            sentences.push(Sentence::new(
                format!("{name} waits for {waiting}, which is not installed here."),
                format!("the dependencies that the publisher of {name} signed"),
            ));
        }
        let back = self.goes_back_to(id);
        if let Some((older, back)) = &back {
            sentences.push(Sentence::new(
                format!("{} {} takes the place of {name}.", back.product, back.version),
                format!("{approval} wants {name} removed, and {} is approved here", self.release_name(older)),
            ));
            let group = self.deployments.map.get(older).map(|d| d.group).unwrap_or_default();
            if let Err(blocked) = self.trust.may_install(older, &group, now.wall) {
                sentences.push(self.explain_blocked(&blocked, now));
            }
        }
        let back = back.as_ref().map(|(_, back)| &**back);
        let uses_own = deployment.approval.action == Action::Install || uses_payload(release.uninstall.as_ref());
        if let Some(source) = back.or(uses_own.then_some(&*release)) {
            for payload in &source.payloads {
                sentences.extend(self.explain_payload(payload, now));
            }
        }
        sentences.extend(self.explain_schedule(deployment, &approval, now));
        if self.is_low() && !self.is_urgent(deployment, now.wall) {
            sentences.push(Sentence::new(
                format!(
                    "It waits until the machine is on mains power again, or until the deadline: it is {}.",
                    self.held_by()
                ),
                format!("battery_floor in node.toml; expedited approvals and passed deadlines do not wait; {approval}"),
            ));
        }
        if let Some(reason) = deployment.not_now.as_ref().filter(|_| deployment.retry > now.mono) {
            sentences.push(Sentence::new(
                format!("{reason}. It is asked again in {}.", span(deployment.retry.since(now.mono))),
                "the installer apart, which goes by its own clock and notes",
            ));
        }
        sentences.extend(self.explain_attempts(deployment, &approval, now));
        if let Some((other, _)) = self.deployments.map.iter().find(|(_, d)| d.phase != Phase::Idle) {
            sentences.push(Sentence::new(
                format!("{name} waits for its turn: {} is being worked on.", self.release_name(other)),
                "one install at a time",
            ));
        }
        if self.restart_is_near() {
            sentences.push(Sentence::new(
                "It waits until the machine has been restarted, which is about to happen.",
                "no install begins once the person at the machine has been told of a restart",
            ));
        }
        if self.durable < self.trust_token {
            sentences.push(Sentence::new(
                "The newest catalog is being written to disk.",
                "nothing is installed that rests on documents which a power cut could take away",
            ));
        }
        if sentences.is_empty() {
            let soon = self.timers.contains_key(&Reason::Deployment(*id));
            let text = if soon { "is about to be" } else { "will now be" };
            sentences.push(Sentence::new(format!("{name} {text} {verb}: nothing holds it back."), approval));
        }
        Some(sentences)
    }

    /// What the attempts said that did not work, the latest first.
    fn explain_attempts(&self, deployment: &Deployment, approval: &str, now: Now) -> Vec<Sentence> {
        let journal = &deployment.journal;
        let next = deployment.retry.since(now.mono);
        let mut sentences = Vec::new();
        for (at, attempt) in journal.tried.iter().enumerate().rev() {
            let (latest, ago) = (at + 1 == journal.tried.len(), span(now.wall.since(attempt.at)));
            // The failure has been told.
            if latest && journal.failed.is_some() {
                continue;
            }
            let which = if latest { "last" } else { "earlier" };
            let words = attempt.words();
            let mut text = format!("The {which} attempt did not work{}.", words.trim_end_matches('.'));
            if latest && !next.is_zero() && deployment.not_now.is_none() {
                text.push_str(&format!(" The next is in {}.", span(next)));
            }
            let number = at + 1;
            sentences
                .push(Sentence::new(text, format!("attempt {number} of {MAX_ATTEMPTS}, {ago} ago, under {approval}")));
        }
        sentences
    }

    fn explain_schedule(&self, deployment: &Deployment, approval: &str, now: Now) -> Vec<Sentence> {
        let schedule = &deployment.approval.schedule;
        let facts = self.facts(&deployment.journal);
        let wall = self.trust.clock(now.wall);
        let mut sentences = Vec::new();
        match schedule::decide(&deployment.approval, &facts, wall) {
            Decision::Now { .. } => {}
            Decision::NotInRings => sentences.push(Sentence::new(
                "The rollout has no ring for this device yet.",
                format!(
                    "rings of {approval} reach {} % of the group; this device stands at {} %",
                    hundredths(deployment.approval.rings.rings.last().map_or(0, |ring| ring.up_to)),
                    hundredths(schedule::ring_of(self.me, deployment.approval.release))
                ),
            )),
            // The permit says so with the date.
            Decision::Expired => {}
            Decision::NotBefore { at, why } => {
                let at_local = self.local(at);
                let (text, because) = match why {
                    Why::AvailableFrom => (format!("It may not begin before {at_local}."), "available_from".to_owned()),
                    Why::Ring { index } => (
                        format!(
                            "Ring {} of the rollout, to which this device belongs, begins at {at_local}.",
                            index + 1
                        ),
                        format!(
                            "ring {} of {}, up to {} % of the group; this device stands at {} %",
                            index + 1,
                            deployment.approval.rings.rings.len(),
                            hundredths(deployment.approval.rings.rings.get(usize::from(index)).map_or(0, |r| r.up_to)),
                            hundredths(schedule::ring_of(self.me, deployment.approval.release))
                        ),
                    ),
                    Why::Jitter => (
                        format!("Starts are spread over a while; this device's turn is at {at_local}."),
                        format!("jitter of {} s", schedule.jitter_s),
                    ),
                    Why::Deferred => {
                        let (times, total) = facts.deferred.map_or((0, 0), |used| (used.times, used.total_s));
                        (
                            format!("The person at the machine put it off until {at_local}."),
                            format!(
                                "deferral: {times} of {} times, {total} of {} seconds used",
                                schedule.deferral.max_times, schedule.deferral.max_total_s
                            ),
                        )
                    }
                    Why::Window => (
                        format!("No maintenance window is open now; the next opens at {at_local}."),
                        format!("{} maintenance windows, read in this device's time zone", schedule.windows.len()),
                    ),
                    Why::ActiveHours => (
                        format!("It is a time of work; it may begin at {at_local}."),
                        "active_hours, read in this device's time zone".to_owned(),
                    ),
                    Why::Deadline => (format!("It waits for the deadline, {at_local}."), "deadline".to_owned()),
                    Why::NoOpening => (
                        "No maintenance window ever opens outside the hours of work: the schedule contradicts itself."
                            .to_owned(),
                        "windows and active_hours".to_owned(),
                    ),
                };
                let forced = schedule::forced_at(schedule, &facts, wall);
                let forced =
                    forced.map_or(String::new(), |at| format!("; the deadline lifts this at {}", self.local(at)));
                let forced = if matches!(why, Why::Window | Why::ActiveHours | Why::NoOpening | Why::Deferred) {
                    forced
                } else {
                    String::new()
                };
                sentences.push(Sentence::new(text, format!("{because}, in {approval}{forced}")));
                let earliest = schedule::earliest(&deployment.approval, &facts, wall);
                if let Some(earliest) = earliest.filter(|earliest| *earliest > at) {
                    sentences.push(Sentence::new(
                        format!("The first moment at which everything allows it is {}.", self.local(earliest)),
                        format!("the schedule of {approval}"),
                    ));
                }
            }
        }
        sentences
    }
}

/// Hundredths of a percent.
fn hundredths(number: u16) -> String {
    format!("{}.{:02}", number / 100, number % 100)
}
