//! May this deployment begin? One list of gates, in order: the decision takes the first that is shut, and `explain` renders
//! all that are.
//!
//! A gate reads and changes nothing. There is no second opinion elsewhere in the core; the privileged installer has its own short list.

use core::time::Duration;

use super::calendar::calendar_words;
use super::*;
use crate::node::explain::Sentence;
use crate::schedule::{self, Decision, Fetching};
use crate::trust::Blocked;
use crate::units::span;

/// Payload bytes that do not move for this long are called stalled.
const STALLED_AFTER: Duration = Duration::from_secs(20);

/// Why an assignment that has not expired counts for nothing.
const FORMER_KEYS: &str = "the word that this device is in its group is by keys that the root has removed, or the device is shut out; \
                           the coordinator has not said it anew yet";

/// A deployment that is to be installed or removed.
pub(super) struct Candidate<'a> {
    pub(super) ask: Ask<'a>,
    pub(super) id: ReleaseId,
    pub(super) deployment: &'a Deployment,
    release: Arc<Release>,
    /// What takes the place of a release that is to be removed.
    back: Option<(ReleaseId, Arc<Release>)>,
    decision: Decision,
}

/// Why a gate is shut.
pub(super) struct Shut {
    pub(super) progress: Progress,
    /// When it is to be looked at again, if nothing happens before.
    pub(super) again: Option<Mono>,
    /// Whether the payloads are needed here.
    pub(super) wants: bool,
    /// Whether their bytes stop coming.
    pub(super) pauses: bool,
    /// Whether nothing holds it back but others.
    pub(super) waits_for_turn: bool,
}

/// One condition of an install.
pub(super) struct Gate {
    /// Why it is shut, if it is.
    pub(super) shut: fn(&Candidate<'_>) -> Option<Shut>,
    /// The same for people; asked only when it is shut.
    pub(super) words: fn(&NodeState, &Candidate<'_>) -> Vec<Sentence>,
}

/// Every gate, in the order in which they count.
pub(super) static GATES: [Gate; 15] = [
    Gate { shut: failed, words: failed_words },
    Gate { shut: assigned, words: assigned_words },
    Gate { shut: permitted, words: permitted_words },
    Gate { shut: conflict, words: conflict_words },
    Gate { shut: dependency, words: dependency_words },
    Gate { shut: way_back, words: way_back_words },
    Gate { shut: ahead, words: ahead_words },
    Gate { shut: payload, words: payload_words },
    Gate { shut: calendar, words: calendar_says },
    Gate { shut: power, words: power_words },
    Gate { shut: hindered, words: hindered_words },
    Gate { shut: retry, words: retry_words },
    Gate { shut: asks_first, words: asks_first_words },
    Gate { shut: restart, words: restart_words },
    Gate { shut: turn, words: turn_words },
];

impl Shut {
    fn new(state: DeploymentState, sub_state: SubState, reason: impl Into<String>) -> Self {
        let progress = progress(state, sub_state, reason);
        Self { progress, again: None, wants: false, pauses: false, waits_for_turn: false }
    }

    fn again(self, at: Mono) -> Self {
        Self { again: Some(at), ..self }
    }

    fn wanting(self) -> Self {
        Self { wants: true, ..self }
    }

    fn for_its_turn(reason: &str) -> Self {
        let shut = Self::new(DeploymentState::Downloaded, SubState::Queued, reason);
        Self { waits_for_turn: true, ..shut }
    }
}

impl<'a> Candidate<'a> {
    pub(super) fn new(ask: Ask<'a>, id: ReleaseId, release: &Arc<Release>) -> Option<Self> {
        let deployment = ask.all.map.get(&id)?;
        let decision = schedule::decide(&deployment.approval, &ask.facts(&deployment.journal), ask.wall());
        Some(Self { ask, id, deployment, release: release.clone(), back: ask.goes_back_to(&id), decision })
    }

    /// When the schedule says something else.
    pub(super) fn changes_at(&self) -> Option<Wall> {
        self.decision.changes_at(&self.deployment.approval)
    }

    /// Whether bytes may come already.
    fn fetching(&self) -> Fetching {
        let (approval, facts) = (&self.deployment.approval, self.ask.facts(&self.deployment.journal));
        if self.ask.is_cache() {
            schedule::fetching_for_others(approval, facts.zone, self.ask.wall())
        } else {
            schedule::fetching(approval, &facts, self.ask.wall())
        }
    }

    /// The release whose payloads are needed.
    pub(super) fn source(&self) -> Option<&Arc<Release>> {
        let uses_own =
            self.deployment.approval.action == Action::Install || uses_payload(self.release.uninstall.as_ref());
        self.back.as_ref().map(|(_, back)| back).or(uses_own.then_some(&self.release))
    }

    fn name(&self) -> String {
        format!("{} {}", self.release.product, self.release.version)
    }

    fn verb(&self) -> &'static str {
        if self.deployment.approval.action == Action::Uninstall { "removed" } else { "installed" }
    }

    pub(super) fn approval(&self) -> String {
        self.deployment.approval_words()
    }
}

impl Deployment {
    pub(super) fn approval_words(&self) -> String {
        format!("approval version {} for group {}", self.approval.version, self.group.short())
    }
}

impl Ask<'_> {
    /// Whether the next in the queue may begin: the gates from `asks_first` on are open to all.
    pub(super) fn is_turn_free(&self) -> bool {
        self.asks_first().is_none() && !self.restart_is_near() && self.why_not_its_turn().is_none()
    }

    /// A machine that was off has missed what was said meanwhile, perhaps that an update is held: until when it waits for word.
    fn asks_first(&self) -> Option<Mono> {
        let until = self.cx.started + self.cx.config.ask_first;
        let heard = self.view.head_is_confirmed && self.view.trust.is_current();
        (self.now.mono < until && !heard).then_some(until)
    }

    fn why_not_its_turn(&self) -> Option<&'static str> {
        if self.all.at_work.is_some() {
            Some("another install is under way")
        } else if !self.cx.trust_is_durable() {
            Some("the catalog is being written to disk")
        } else {
            None
        }
    }

    pub(super) fn overdue_since(&self, id: &ReleaseId) -> Option<Wall> {
        let deployment = self.all.map.get(id)?;
        schedule::overdue_since(&deployment.approval.schedule, &self.facts(&deployment.journal), self.wall())
    }
}

fn failed(candidate: &Candidate<'_>) -> Option<Shut> {
    let (_, reason) = candidate.deployment.journal.failed.as_ref()?;
    Some(Shut::new(DeploymentState::Failed, SubState::None, reason.to_string()))
}

fn failed_words(_: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let Some((code, reason)) = &candidate.deployment.journal.failed else { return Vec::new() };
    let code = code.map_or(String::new(), |code| format!(" with exit code {code}"));
    let ago = span(candidate.ask.now.wall.since(candidate.deployment.since));
    let text = format!("{} could not be {}: it failed{code} {ago} ago: {reason}", candidate.name(), candidate.verb());
    let approval = candidate.approval();
    let because =
        format!("what the recipe said; it is not tried again under {approval} unless upswarm retry asks for it");
    vec![Sentence::new(text, because)]
}

/// The word that this device is in the approval's group must still count, and what an approver has said of the group must admit it.
fn assigned(candidate: &Candidate<'_>) -> Option<Shut> {
    let (view, wall) = (candidate.ask.view, candidate.ask.now.wall);
    if let Err(expired) = view.trust.check_expiry(view.assigned.held()?, wall) {
        return Some(Shut::new(DeploymentState::OnHold, SubState::Expired, expired.to_string()));
    }
    if !view.assigned.stands() {
        return Some(Shut::new(DeploymentState::OnHold, SubState::Expired, FORMER_KEYS));
    }
    let stranger = view.belongs(&candidate.deployment.group).err()?;
    Some(Shut::new(DeploymentState::OnHold, SubState::None, stranger.to_string()))
}

fn assigned_words(node: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let Some(held) = node.assigned.held() else { return Vec::new() };
    if node.trust.check_expiry(held, candidate.ask.now.wall).is_ok() && !node.assigned.stands() {
        let text = format!("{} waits: {FORMER_KEYS}.", candidate.name());
        return vec![Sentence::new(text, node.explain_coordinator(candidate.ask.now).text)];
    }
    if let Err(stranger) = candidate.ask.view.belongs(&candidate.deployment.group) {
        let text = format!("{} waits: {stranger}.", candidate.name());
        let because =
            "what an approver signed about the group; the coordinator's word that this device is in it is not enough";
        return vec![Sentence::new(text, because)];
    }
    let ago = span(candidate.ask.wall().since(held.expires));
    let text = format!("{} waits: the word that this device is in its group expired {ago} ago.", candidate.name());
    let because =
        format!("assignment to groups, issued {}; {}", held.issued, node.explain_coordinator(candidate.ask.now).text);
    vec![Sentence::new(text, because)]
}

fn permitted(candidate: &Candidate<'_>) -> Option<Shut> {
    let (trust, wall) = (candidate.ask.view.trust, candidate.ask.now.wall);
    let blocked = trust.may_install(&candidate.id, &candidate.deployment.group, wall).err()?;
    let pauses = matches!(blocked, Blocked::Held(_));
    let sub_state = if pauses { SubState::Paused } else { SubState::Expired };
    Some(Shut { pauses, ..Shut::new(DeploymentState::OnHold, sub_state, blocked.to_string()) })
}

fn permitted_words(node: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let now = candidate.ask.now;
    let blocked = node.trust.may_install(&candidate.id, &candidate.deployment.group, now.wall).err();
    blocked.iter().map(|blocked| node.explain_blocked(blocked, now)).collect()
}

/// Another product stands for the same package, and wants the opposite.
fn conflict(candidate: &Candidate<'_>) -> Option<Shut> {
    let reason = conflict_text(candidate)?;
    Some(Shut::new(DeploymentState::Stalled, SubState::Conflict, reason))
}

fn conflict_text(candidate: &Candidate<'_>) -> Option<String> {
    let conflict = candidate.ask.conflict(&candidate.id)?;
    let wish = if conflict.removes { "removed" } else { "installed" };
    let (name, verb) = (candidate.name(), candidate.verb());
    let other = format!("{} {}", conflict.other.product, conflict.other.version);
    let package = conflict.package();
    Some(format!(
        "{name} is to be {verb} here and {other} is to be {wish}, and both stand for {package}: nothing is done until one of them is declined"
    ))
}

fn conflict_words(_: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let because = || {
        let approval = candidate.approval();
        format!("the detection rules of both releases, and {approval}; upswarm decline RELEASE --group GROUP ends it")
    };
    conflict_text(candidate).map(|text| Sentence::new(format!("{text}."), because())).into_iter().collect()
}

fn dependency(candidate: &Candidate<'_>) -> Option<Shut> {
    let waiting = candidate.ask.missing_dependency(&candidate.release)?;
    Some(Shut::new(DeploymentState::Pending, SubState::AwaitingDependency, format!("waits for {waiting}")))
}

fn dependency_words(_: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let name = candidate.name();
    let sentence = |waiting| {
        let text = format!("{name} waits for {waiting}, which is not installed here.");
        Sentence::new(text, format!("the dependencies that the publisher of {name} signed"))
    };
    candidate.ask.missing_dependency(&candidate.release).map(sentence).into_iter().collect()
}

/// Going back to an earlier release needs that one's approval too.
fn way_back_blocked(candidate: &Candidate<'_>) -> Option<Blocked> {
    let (older, _) = candidate.back.as_ref()?;
    let group = candidate.ask.all.map.get(older).map(|d| d.group).unwrap_or_default();
    let view = candidate.ask.view;
    // What is signed about the earlier one's group counts as much.
    let stranger = view.belongs(&group).err().map(|_| Blocked::NotApproved);
    view.trust.may_install(older, &group, candidate.ask.now.wall).err().or(stranger)
}

fn way_back(candidate: &Candidate<'_>) -> Option<Shut> {
    let blocked = way_back_blocked(candidate)?;
    let (_, back) = candidate.back.as_ref()?;
    let reason = format!("goes back to {} {}, and {blocked}", back.product, back.version);
    Some(Shut::new(DeploymentState::OnHold, SubState::AwaitingDependency, reason))
}

fn way_back_words(node: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    way_back_blocked(candidate).iter().map(|blocked| node.explain_blocked(blocked, candidate.ask.now)).collect()
}

/// Which release takes the place of one that is to be removed, for people.
pub(super) fn back_words(candidate: &Candidate<'_>) -> Option<Sentence> {
    let (_, back) = candidate.back.as_ref()?;
    let (name, back) = (candidate.name(), format!("{} {}", back.product, back.version));
    let because = format!("{} wants {name} removed, and {back} is approved here", candidate.approval());
    Some(Sentence::new(format!("{back} takes the place of {name}."), because))
}

fn calendar_shut(candidate: &Candidate<'_>) -> Option<Shut> {
    use DeploymentState as S;
    match candidate.decision {
        Decision::Now { .. } => None,
        Decision::NotBefore { why, .. } => {
            let sub_state = sub_state(why);
            let state = if sub_state == SubState::Deferred { S::OnHold } else { S::Pending };
            let at = candidate.changes_at().map_or_else(String::new, |at| format!(" (looks again at {at})"));
            Some(Shut::new(state, sub_state, format!("{why}{at}")))
        }
        Decision::NotInRings => {
            Some(Shut::new(S::Pending, SubState::Scheduled, "the rollout has no ring for this device yet"))
        }
        Decision::Expired => Some(Shut::new(S::OnHold, SubState::Expired, "the approval has expired")),
    }
}

/// A turn that is far off, or may never come, needs no bytes yet. A branch cache fetches for those whose turn it is.
fn ahead(candidate: &Candidate<'_>) -> Option<Shut> {
    let (shut, again) = match candidate.fetching() {
        Fetching::Now => return None,
        Fetching::NotBefore(at) => (calendar_shut(candidate), Some(at)),
        Fetching::Never => (calendar_shut(candidate), None),
    };
    let ask = &candidate.ask;
    let shut = shut.unwrap_or_else(|| Shut::new(DeploymentState::Pending, SubState::Scheduled, "its bytes come later"));
    Some(Shut { again: again.map(|at| ask.now.mono + at.since(ask.wall()).min(LOOK_AGAIN)), ..shut })
}

fn ahead_words(node: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let mut sentences = calendar_words(node, candidate.ask, candidate.deployment);
    if let Fetching::NotBefore(at) = candidate.fetching() {
        let ahead = &candidate.deployment.approval.schedule.fetch_ahead;
        let hours: Vec<String> = ahead.windows.iter().map(ToString::to_string).collect();
        let hours = if hours.is_empty() { String::new() } else { format!(", {}", hours.join(", ")) };
        sentences.push(Sentence::new(
            format!("Its bytes may come from {} on.", node.local(at)),
            format!(
                "bytes come at most {} before its turn{hours}, in {}",
                span(Duration::from_secs(ahead.within_s.into())),
                candidate.approval()
            ),
        ));
    }
    sentences
}

fn calendar_says(node: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    calendar_words(node, candidate.ask, candidate.deployment)
}

fn calendar(candidate: &Candidate<'_>) -> Option<Shut> {
    // The gate before this one has said it.
    if ahead(candidate).is_some() { None } else { calendar_shut(candidate) }
}

fn payload(candidate: &Candidate<'_>) -> Option<Shut> {
    use DeploymentState as S;
    let (view, now) = (candidate.ask.view, candidate.ask.now.mono);
    let source = candidate.source()?;
    if matches!(source.install, Recipe::Apt(_)) && view.inventory.is_none() {
        let reason = "waits for the first scan of what is installed here";
        return Some(Shut::new(S::Offering, SubState::AwaitingCatalog, reason).wanting());
    }
    for payload in candidate.ask.files(source) {
        let shut = match view.downloads.progress(&payload.id) {
            PayloadProgress::Complete => continue,
            PayloadProgress::Failed(StoreError::NoSpace(reason)) => Shut::new(S::Stalled, SubState::NoSpace, reason),
            PayloadProgress::Failed(StoreError::Failed(reason)) => Shut::new(S::Stalled, SubState::Retrying, reason),
            PayloadProgress::Absent | PayloadProgress::List => {
                let reason = format!("looks for the chunk list of {}", payload.name);
                Shut::new(S::Offering, SubState::AwaitingCatalog, reason)
            }
            PayloadProgress::Partial { .. } if !view.standing.may_move(&payload.id) => {
                let held = view.standing.held_by();
                let reason = format!("the bytes of {} wait, until the deadline at most: {held}", payload.name);
                Shut::new(S::OnHold, SubState::PowerOrLink, reason)
            }
            PayloadProgress::Partial { trouble, moved, .. } => {
                let still = now.since(moved);
                let shut = match trouble {
                    Some(trouble) if still > STALLED_AFTER / 4 => Shut::new(S::Stalled, SubState::NoSource, trouble),
                    _ if still > STALLED_AFTER => {
                        Shut::new(S::Stalled, SubState::NoSource, format!("no byte of {} for a while", payload.name))
                    }
                    _ => Shut::new(S::Downloading, SubState::None, ""),
                };
                shut.again(now + STALLED_AFTER / 2)
            }
        };
        return Some(shut.wanting());
    }
    None
}

fn payload_words(node: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let payloads = candidate.source().into_iter().flat_map(|source| candidate.ask.files(source));
    payloads.flat_map(|payload| node.explain_payload(payload, candidate.ask.now)).collect()
}

fn power(candidate: &Candidate<'_>) -> Option<Shut> {
    let standing = candidate.ask.view.standing;
    (standing.is_low() && !candidate.ask.is_urgent(candidate.deployment)).then(|| {
        let reason = format!("waits for mains power, or for the deadline: {}", standing.held_by());
        Shut::new(DeploymentState::OnHold, SubState::PowerOrLink, reason)
    })
}

fn power_words(node: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let held = node.standing.held_by();
    let text = format!("It waits until the machine is on mains power again, or until the deadline: it is {held}.");
    let because = format!(
        "battery_floor in node.toml; expedited approvals and passed deadlines do not wait; {}",
        candidate.approval()
    );
    vec![Sentence::new(text, because)]
}

fn hindered(candidate: &Candidate<'_>) -> Option<Shut> {
    let progress = candidate.deployment.hindered_progress(candidate.ask.now)?;
    let Progress(state, sub_state, reason) = progress;
    Some(Shut::new(state, sub_state, reason).again(candidate.deployment.retry))
}

fn hindered_words(_: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let Some((by, reason)) = candidate.deployment.hindered_by() else { return Vec::new() };
    let next = span(candidate.deployment.retry.since(candidate.ask.now.mono));
    vec![Sentence::new(format!("{}. It is tried again in {next}.", reason.trim_end_matches('.')), by.because())]
}

fn retry(candidate: &Candidate<'_>) -> Option<Shut> {
    let deployment = candidate.deployment;
    (deployment.retry > candidate.ask.now.mono && deployment.hindered_by().is_none()).then(|| {
        let said = deployment.journal.tried.last().map(|attempt| attempt.reason.to_string());
        let reason = deployment.not_now.clone().or(said).unwrap_or_default();
        Shut::new(DeploymentState::Pending, SubState::Retrying, reason).again(deployment.retry)
    })
}

fn retry_words(_: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    // What an attempt said is told with the attempts.
    let Some(reason) = &candidate.deployment.not_now else { return Vec::new() };
    let next = span(candidate.deployment.retry.since(candidate.ask.now.mono));
    let because = "whoever installs, which goes by its own clock and notes, and by what the system says of itself";
    vec![Sentence::new(format!("{reason}. It is asked again in {next}."), because)]
}

fn asks_first(candidate: &Candidate<'_>) -> Option<Shut> {
    let until = candidate.ask.asks_first()?;
    let reason = "asks first whether this is still approved";
    let shut = Shut::new(DeploymentState::Downloaded, SubState::AwaitingCatalog, reason).again(until);
    Some(Shut { waits_for_turn: true, ..shut })
}

fn asks_first_words(_: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let left = candidate.ask.asks_first().map_or(Duration::ZERO, |until| until.since(candidate.ask.now.mono));
    let text = format!("It is asked first whether this is still approved, for {} at most.", span(left));
    vec![Sentence::new(text, "a machine that was off has not heard what was stopped meanwhile")]
}

fn restart(candidate: &Candidate<'_>) -> Option<Shut> {
    candidate.ask.restart_is_near().then(|| Shut::for_its_turn("the machine is about to be restarted"))
}

fn restart_words(_: &NodeState, _: &Candidate<'_>) -> Vec<Sentence> {
    let text = "It waits until the machine has been restarted, which is about to happen.";
    vec![Sentence::new(text, "no install begins once the person at the machine has been told of a restart")]
}

fn turn(candidate: &Candidate<'_>) -> Option<Shut> {
    candidate.ask.why_not_its_turn().map(Shut::for_its_turn)
}

fn turn_words(node: &NodeState, candidate: &Candidate<'_>) -> Vec<Sentence> {
    let mut sentences = Vec::new();
    if let Some(other) = &candidate.ask.all.at_work {
        let text = format!("{} waits for its turn: {} is being worked on.", candidate.name(), node.release_name(other));
        sentences.push(Sentence::new(text, "one install at a time"));
    }
    if !candidate.ask.cx.trust_is_durable() {
        sentences.push(Sentence::new(
            "The newest catalog is being written to disk.",
            "nothing is installed that rests on documents which a power cut could take away",
        ));
    }
    sentences
}
