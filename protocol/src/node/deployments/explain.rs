//! Why a release is not installed here yet, or that it is: what [`super::look`] decides, in the same order, then every gate
//! that is shut.

use super::gates::{Candidate, GATES, back_words};
use super::{Deployment, MAX_ATTEMPTS, NodeState, Phase, Superseded};
use crate::catalog::Action;
use crate::ids::ReleaseId;
use crate::node::explain::Sentence;
use crate::node::{Detection, Reason};
use crate::time::Now;
use crate::units::span;

impl NodeState {
    /// `None` when there is no deployment of this release.
    pub(in crate::node) fn explain_deployment(&self, id: &ReleaseId, now: Now) -> Option<Vec<Sentence>> {
        let ask = self.asking(now);
        let deployment = self.deployments.map.get(id)?;
        let name = self.release_name(id);
        let approval = deployment.approval_words();
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
        let Some(found) = catalog.releases().get(id).filter(|_| !deployment.withdrawn) else {
            return one(
                format!("{name} is not to be {verb} here any more: the approval was withdrawn."),
                format!("{approval} is not in the catalog in force, index version {}", catalog.index_version()),
            );
        };
        if let Superseded::By { later, because } = ask.superseded_by(id) {
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
                if self.deployments.wanting.contains(id) {
                    told.push(ask.explain_restart(id));
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
        let candidate = Candidate::new(ask, *id, &found.release)?;
        let shut = GATES.iter().filter(|gate| (gate.shut)(&candidate).is_some());
        let mut sentences: Vec<Sentence> = shut.flat_map(|gate| (gate.words)(self, &candidate)).collect();
        let held = !sentences.is_empty();
        sentences.extend(back_words(&candidate));
        sentences.extend(self.explain_attempts(deployment, &approval, now));
        if !held {
            let soon = self.cx.timers.is_set(&Reason::Deployment(*id));
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
}
