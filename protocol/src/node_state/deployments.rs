//! From an approval to an installed release: what this device should do now, and why not yet.
//!
//! Invariant: [`Output::Install`] leaves only when the release and its approval are both in the verified catalog and in force,
//! the trust data they rest on is durable, every payload is complete, and the record of the beginning is durable.

mod again;
mod explain;
mod journal;
mod restart;
mod rollback;
mod supersedence;
mod urgency;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use journal::Journal;
use restart::Restart;
pub use rollback::takes_back;
use supersedence::Superseded;
pub use urgency::{Granted, NotPutOff};

use super::downloads::Progress;
use super::peers::backoff;
use super::{Detection, InstallOutcome, NodeState, Output, Reason, StoreError};
use crate::catalog::{Action, Approval, Payload, Recipe, Release, RestartPolicy};
use crate::codec::Text;
use crate::ids::{GroupId, PayloadId, ReleaseId};
use crate::report::{DeploymentReport, DeploymentState, SubState};
use crate::schedule::{self, Decision, DeviceFacts};
use crate::time::{Mono, Now, Wall};
use crate::trust::Blocked;

/// A retry code is tried again this often under one approval.
const MAX_ATTEMPTS: u8 = 4;
/// The installer that would not begin yet is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Detection is repeated this often, to notice what others did to the machine.
const DETECT_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Payload bytes that do not move for this long are called stalled.
const STALLED_AFTER: Duration = Duration::from_secs(20);
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    /// The record of the beginning is on its way to disk.
    Persisting(u64),
    Running,
}

#[derive(Debug)]
struct Deployment {
    group: GroupId,
    approval: Arc<Approval>,
    journal: Journal,
    phase: Phase,
    detection: Option<Detection>,
    detecting: bool,
    detected: Mono,
    retry: Mono,
    /// Why the installer would not begin yet, and whether a recipe was unfinished before it was asked.
    not_now: Option<String>,
    unfinished: bool,
    state: DeploymentState,
    sub_state: SubState,
    code: Option<i32>,
    reason: String,
    since: Wall,
}

/// Every deployment of this device.
#[derive(Debug)]
pub(super) struct Deployments {
    map: BTreeMap<ReleaseId, Deployment>,
    journals: BTreeMap<ReleaseId, Journal>,
    restart: Restart,
    /// What the person at the machine was told last: for which release, and when the restart is to be.
    told: Option<(ReleaseId, Option<Wall>)>,
}

impl Deployments {
    pub(super) fn restore(records: Vec<(ReleaseId, Vec<u8>)>) -> Self {
        let read = |(id, bytes): (ReleaseId, Vec<u8>)| Some((id, Journal::read(&bytes)?));
        let journals = records.into_iter().filter_map(read).collect();
        Self { map: BTreeMap::new(), journals, restart: Restart::default(), told: None }
    }

    fn running(&self) -> bool {
        self.map.values().any(|d| d.phase != Phase::Idle)
    }
}

/// A state to be in, with the words for it.
struct Stand(DeploymentState, SubState, String);

fn stand(state: DeploymentState, sub_state: SubState, reason: impl Into<String>) -> Stand {
    Stand(state, sub_state, reason.into())
}

impl NodeState {
    /// The catalog or this device's groups have changed: which releases are deployed here now, and which payloads to keep.
    pub(super) fn deployments_changed(&mut self, now: Now) {
        let mut targets: BTreeMap<ReleaseId, (GroupId, Arc<Approval>)> = BTreeMap::new();
        let mut prefetch: BTreeSet<PayloadId> = BTreeSet::new();
        let (mut going, mut held) = (BTreeSet::new(), BTreeSet::new());
        let catalog = self.trust.catalog();
        for ((group, release), entry) in catalog.approvals() {
            let Some(found) = catalog.releases().get(release) else { continue };
            let side = if catalog.hold(release, group).is_none() { &mut going } else { &mut held };
            side.extend(found.release.payloads.iter().map(|payload| payload.id));
            if self.certificate.groups.contains(group) {
                let newer = targets.get(release).is_none_or(|(_, other)| other.issued < entry.approval.issued);
                if newer {
                    targets.insert(*release, (*group, entry.approval.clone()));
                }
            } else if self.is_cache() && entry.approval.action == Action::Install {
                prefetch.extend(found.release.payloads.iter().map(|payload| payload.id));
            }
        }
        let named: Vec<_> = catalog.releases().values().flat_map(|r| r.release.payloads.iter().cloned()).collect();
        for payload in &named {
            if self.is_cache() && held.contains(&payload.id) && !going.contains(&payload.id) {
                self.pause_payload(&payload.id, now);
            } else if prefetch.contains(&payload.id) {
                self.want_payload(payload, true, now);
            } else if self.downloads.is_stored(&payload.id) {
                self.want_payload(payload, false, now);
            }
        }
        self.forget_payloads(&named.iter().map(|payload| payload.id).collect(), now);
        self.withdraw(&targets, now);
        for (release, (group, approval)) in targets {
            let known = self.deployments.map.get_mut(&release);
            match known {
                Some(deployment) if deployment.approval == approval => deployment.group = group,
                Some(deployment) => {
                    if deployment.approval.version != approval.version || deployment.group != group {
                        deployment.journal.begin_anew();
                        deployment.journal.deferred = None;
                        deployment.retry = Mono(0);
                    }
                    (deployment.group, deployment.approval) = (group, approval);
                }
                None => {
                    let mut journal = self.deployments.journals.get(&release).cloned().unwrap_or_default();
                    if journal.approval_version != approval.version {
                        let Journal { begun, restart_in, asked_in, .. } = journal;
                        journal = Journal { begun, restart_in, asked_in, ..Journal::default() };
                    }
                    let deployment = Deployment {
                        group,
                        approval,
                        journal,
                        phase: Phase::Idle,
                        detection: None,
                        detecting: false,
                        detected: Mono(0),
                        retry: Mono(0),
                        not_now: None,
                        unfinished: false,
                        state: DeploymentState::Pending,
                        sub_state: SubState::AwaitingCatalog,
                        code: None,
                        reason: String::new(),
                        since: now.wall,
                    };
                    self.deployments.map.insert(release, deployment);
                    self.reports.dirty.insert(release);
                }
            }
        }
        self.follow_conditions(now);
        self.timer(Reason::Restart, now.mono);
        self.advance_all(now);
    }

    /// Deployments whose approval is gone. One that runs is let run: half an install is worse than either end.
    fn withdraw(&mut self, targets: &BTreeMap<ReleaseId, (GroupId, Arc<Approval>)>, now: Now) {
        let gone: Vec<_> = self
            .deployments
            .map
            .iter()
            .filter(|(release, d)| !targets.contains_key(release) && d.phase == Phase::Idle)
            .map(|(release, _)| *release)
            .collect();
        for release in gone {
            if let Some(deployment) = self.deployments.map.get(&release)
                && deployment.state != DeploymentState::Canceled
            {
                let withdrawn = stand(DeploymentState::Canceled, SubState::None, "the approval was withdrawn");
                self.stand(release, withdrawn, now);
                self.release_payloads_of(&release, now);
            }
        }
    }

    pub(super) fn advance_all(&mut self, now: Now) {
        let all: Vec<_> = self.deployments.map.keys().copied().collect();
        for release in all {
            self.advance(release, now);
        }
    }

    /// The store or the network has news about a payload.
    pub(super) fn payload_moved(&mut self, payload: &PayloadId, now: Now) {
        let concerned: Vec<_> = self
            .deployments
            .map
            .iter()
            .filter(|(_, d)| !matches!(d.state, DeploymentState::Installed | DeploymentState::Canceled))
            .filter(|(release, _)| {
                let found = self.trust.catalog().releases().get(release).map(|found| found.release.clone());
                let back = self.goes_back_to(release).map(|(_, back)| back);
                found.iter().chain(&back).any(|release| release.payloads.iter().any(|p| p.id == *payload))
            })
            .map(|(release, _)| *release)
            .collect();
        for release in concerned {
            self.advance(release, now);
        }
    }

    /// Takes a deployment as far as it can go now.
    pub(super) fn advance(&mut self, release: ReleaseId, now: Now) {
        if let Some(next) = self.next_stand(release, now) {
            self.stand(release, next, now);
        }
    }

    fn next_stand(&mut self, id: ReleaseId, now: Now) -> Option<Stand> {
        use DeploymentState as S;
        let deployment = self.deployments.map.get(&id)?;
        if deployment.phase != Phase::Idle {
            return None;
        }
        let release = match self.trust.catalog().releases().get(&id) {
            Some(found) if self.trust.catalog().approvals().contains_key(&(deployment.group, id)) => {
                found.release.clone()
            }
            _ => return None,
        };
        match self.superseded_by(&id, now) {
            Superseded::By { later, .. } => {
                self.release_payloads_of(&id, now);
                return Some(stand(S::Superseded, SubState::None, format!("{later} takes its place")));
            }
            Superseded::NotKnownYet => return None,
            Superseded::No => {}
        }
        let due = deployment.detection.is_none() || now.mono.since(deployment.detected) > DETECT_EVERY;
        if due && !deployment.detecting {
            self.output.push_back(Output::Detect { release: id });
            if let Some(deployment) = self.deployments.map.get_mut(&id) {
                deployment.detecting = true;
            }
        }
        let deployment = self.deployments.map.get(&id)?;
        let detection = deployment.detection.clone()?;
        let action = deployment.approval.action;
        match (action, detection) {
            (Action::None, _) => {
                self.release_payloads_of(&id, now);
                Some(stand(S::Canceled, SubState::None, "declined by the admin"))
            }
            (_, Detection::Unknown(reason)) => {
                self.retry_detection(id, now);
                Some(stand(S::Stalled, SubState::Retrying, format!("detection cannot tell: {reason}")))
            }
            (Action::Install, Detection::NotApplicable(reason)) => {
                self.release_payloads_of(&id, now);
                Some(stand(S::NotApplicable, SubState::None, reason))
            }
            // Half of what a package manager was interrupted in may be missing, whatever its database says: it is run again.
            (Action::Install, Detection::Present)
                if deployment.journal.begun && matches!(release.install, Recipe::Deb { .. } | Recipe::Rpm { .. }) =>
            {
                Some(self.towards_action(id, &release, action, now))
            }
            (Action::Install, Detection::Present) => {
                let restart = self.wants_restart(deployment);
                self.finished(id, now);
                Some(if restart { self.restart_stand(&id, now) } else { stand(S::Installed, SubState::None, "") })
            }
            (Action::Uninstall, Detection::Absent | Detection::NotApplicable(_)) => {
                self.finished(id, now);
                Some(stand(S::Uninstalled, SubState::None, ""))
            }
            (Action::Install, Detection::Absent) | (Action::Uninstall, Detection::Present) => {
                Some(self.towards_action(id, &release, action, now))
            }
        }
    }

    /// The way from "must be done" to the recipe, gate by gate; the first that is shut gives the state.
    fn towards_action(&mut self, id: ReleaseId, release: &Release, action: Action, now: Now) -> Stand {
        use DeploymentState as S;
        let Some(deployment) = self.deployments.map.get(&id) else { return stand(S::Canceled, SubState::None, "") };
        if let Some((_, reason)) = &deployment.journal.failed {
            return stand(S::Failed, SubState::None, reason.to_string());
        }
        if let Err(blocked) = self.trust.may_install(&id, &deployment.group, now.wall) {
            let held = matches!(blocked, Blocked::Held(_));
            if held {
                self.pause_payloads_of(&id, now);
            }
            let sub_state = if held { SubState::Paused } else { SubState::Expired };
            return stand(S::OnHold, sub_state, blocked.to_string());
        }
        if let Some(waiting) = self.missing_dependency(release) {
            return stand(S::Pending, SubState::AwaitingDependency, format!("waits for {waiting}"));
        }
        let back = self.goes_back_to(&id);
        if let Some((older, back)) = &back {
            let group = self.deployments.map.get(older).map(|d| d.group).unwrap_or_default();
            if let Err(blocked) = self.trust.may_install(older, &group, now.wall) {
                let reason = format!("goes back to {} {}, and {blocked}", back.product, back.version);
                return stand(S::OnHold, SubState::AwaitingDependency, reason);
            }
        }
        let back = back.as_ref().map(|(_, back)| &**back);
        let uses_own = action == Action::Install || uses_payload(release.uninstall.as_ref());
        if let Some(source) = back.or(uses_own.then_some(release)) {
            for payload in &source.payloads {
                self.want_payload(payload, true, now);
            }
            if let Some(short) = self.payloads_short(id, source, now) {
                return short;
            }
        }
        if let Some(waits) = self.not_yet(id, now) {
            return waits;
        }
        let Some(deployment) = self.deployments.map.get(&id) else { return stand(S::Canceled, SubState::None, "") };
        if self.is_low() && !self.is_urgent(deployment, now.wall) {
            let reason = format!("waits for mains power, or for the deadline: {}", self.held_by());
            return stand(S::OnHold, SubState::PowerOrLink, reason);
        }
        if deployment.retry > now.mono {
            let said = deployment.journal.tried.last().map(|attempt| attempt.reason.to_string());
            let reason = deployment.not_now.clone().or(said).unwrap_or_default();
            self.timer(Reason::Deployment(id), deployment.retry);
            return stand(S::Pending, SubState::Retrying, reason);
        }
        if let Some(until) = self.asks_first(now) {
            self.timer(Reason::Deployment(id), until);
            return stand(S::Downloaded, SubState::AwaitingCatalog, "asks first whether this is still approved");
        }
        if self.restart_is_near() {
            return stand(S::Downloaded, SubState::Queued, "the machine is about to be restarted");
        }
        if self.deployments.running() {
            return stand(S::Downloaded, SubState::Queued, "another install is under way");
        }
        if self.durable < self.trust_token {
            return stand(S::Downloaded, SubState::Queued, "the catalog is being written to disk");
        }
        self.begin(id, now);
        stand(S::Downloaded, SubState::Queued, "about to begin")
    }

    /// A machine that was off has missed what was said meanwhile, perhaps that an update is held: until when it waits for word.
    fn asks_first(&self, now: Now) -> Option<Mono> {
        let until = self.started + self.config.ask_first;
        (now.mono < until && !(self.head_is_confirmed && self.trust.is_current())).then_some(until)
    }

    /// Why the payloads are not all here, if they are not.
    fn payloads_short(&mut self, id: ReleaseId, release: &Release, now: Now) -> Option<Stand> {
        use DeploymentState as S;
        let mut short = None;
        for payload in &release.payloads {
            let next = match self.downloads.progress(&payload.id) {
                Progress::Complete => continue,
                Progress::Failed(StoreError::NoSpace(reason)) => stand(S::Stalled, SubState::NoSpace, reason),
                Progress::Failed(StoreError::Failed(reason)) => stand(S::Stalled, SubState::Retrying, reason),
                Progress::Absent | Progress::List => stand(
                    S::Offering,
                    SubState::AwaitingCatalog,
                    format!("looks for the chunk list of {}", payload.name),
                ),
                Progress::Partial { .. } if !self.may_move(&payload.id) => stand(
                    S::OnHold,
                    SubState::PowerOrLink,
                    format!("the bytes of {} wait, until the deadline at most: {}", payload.name, self.held_by()),
                ),
                Progress::Partial { trouble, moved, .. } => {
                    let still = now.mono.since(moved);
                    self.timer(Reason::Deployment(id), now.mono + STALLED_AFTER / 2);
                    match trouble {
                        Some(trouble) if still > STALLED_AFTER / 4 => stand(S::Stalled, SubState::NoSource, trouble),
                        _ if still > STALLED_AFTER => {
                            stand(S::Stalled, SubState::NoSource, format!("no byte of {} for a while", payload.name))
                        }
                        _ => stand(S::Downloading, SubState::None, ""),
                    }
                }
            };
            short = Some(next);
            break;
        }
        short
    }

    /// What the schedule says, unless it says now.
    fn not_yet(&mut self, id: ReleaseId, now: Now) -> Option<Stand> {
        use DeploymentState as S;
        let deployment = self.deployments.map.get(&id)?;
        let facts = self.facts(&deployment.journal);
        // A clock that is behind the approver's must not keep a device from what was approved just now.
        let wall = self.trust.clock(now.wall);
        let overdue = schedule::overdue_since(&deployment.approval.schedule, &facts, wall);
        let decision = schedule::decide(&deployment.approval, &facts, wall);
        let changes_at = decision.changes_at(&deployment.approval);
        let noted = overdue != deployment.journal.overdue_since && overdue.is_some();
        if noted {
            if let Some(deployment) = self.deployments.map.get_mut(&id) {
                deployment.journal.overdue_since = overdue;
            }
            self.persist_deployment(id);
        }
        if let Some(at) = changes_at {
            // Long waits are looked at again from time to time: the wall clock may be set.
            let wait = at.since(wall).clamp(Duration::from_millis(20), Duration::from_secs(900));
            self.timer(Reason::Deployment(id), now.mono + wait);
        }
        match decision {
            Decision::Now { .. } => None,
            Decision::NotBefore { why, .. } => {
                let sub_state = why.sub_state();
                let state = if sub_state == SubState::Deferred { S::OnHold } else { S::Pending };
                let at = changes_at.map_or_else(String::new, |at| format!(" (looks again at {at})"));
                Some(stand(state, sub_state, format!("{why}{at}")))
            }
            Decision::NotInRings => {
                Some(stand(S::Pending, SubState::Scheduled, "the rollout has no ring for this device yet"))
            }
            Decision::Expired => Some(stand(S::OnHold, SubState::Expired, "the approval has expired")),
        }
    }

    fn facts(&self, journal: &Journal) -> DeviceFacts<'_> {
        DeviceFacts {
            device: self.me,
            zone: &self.config.zone,
            awake_since: self.awake_since,
            overdue_since: journal.overdue_since,
            deferred: journal.deferred(),
        }
    }

    fn begin(&mut self, id: ReleaseId, now: Now) {
        let Some(deployment) = self.deployments.map.get_mut(&id) else { return };
        deployment.journal.approval_version = deployment.approval.version;
        deployment.journal.attempts = deployment.journal.attempts.saturating_add(1);
        deployment.unfinished = deployment.journal.begun;
        (deployment.journal.begun, deployment.journal.done, deployment.not_now) = (true, false, None);
        let token = self.persist_deployment(id);
        if let Some(deployment) = self.deployments.map.get_mut(&id) {
            deployment.phase = Phase::Persisting(token);
        }
        self.report_soon(now);
    }

    pub(super) fn deployments_persisted(&mut self, now: Now) {
        let ready =
            self.deployments.map.iter().find(|(_, d)| matches!(d.phase, Phase::Persisting(t) if t <= self.durable));
        if let Some((id, action)) = ready.map(|(id, d)| (*id, d.approval.action)) {
            // What was true when it was asked for may not be true now.
            let group = self.deployments.map.get(&id).map(|d| d.group).unwrap_or_default();
            let allowed = self.trust.may_install(&id, &group, now.wall).is_ok();
            if let Some(deployment) = self.deployments.map.get_mut(&id) {
                deployment.phase = if allowed { Phase::Running } else { Phase::Idle };
                if !allowed {
                    deployment.journal.begun = deployment.unfinished;
                }
            }
            if allowed {
                let state = if action == Action::Uninstall {
                    DeploymentState::Uninstalling
                } else {
                    DeploymentState::Installing
                };
                self.stand(id, stand(state, SubState::None, ""), now);
                self.output.push_back(Output::Install { release: id, action });
                return;
            }
        }
        if self.durable >= self.trust_token && !self.deployments.running() {
            self.advance_all(now);
        }
    }

    pub(super) fn install_ended(&mut self, id: ReleaseId, action: Action, outcome: InstallOutcome, now: Now) {
        let jitter = self.rng.jitter(Duration::from_secs(30));
        let boot = self.config.boot.clone();
        // What one version's recipe did decides whether another is still there.
        let releases = self.trust.catalog().releases();
        let product = |id: &ReleaseId| releases.get(id).map(|found| found.release.product.clone());
        let ended = product(&id);
        let always = releases.get(&id).is_some_and(|found| found.release.restart == RestartPolicy::Always);
        for (other, deployment) in &mut self.deployments.map {
            if *other == id || (deployment.phase == Phase::Idle && ended.is_some() && product(other) == ended) {
                deployment.detection = None;
            }
        }
        let Some(deployment) = self.deployments.map.get_mut(&id) else { return };
        deployment.phase = Phase::Idle;
        deployment.journal.begun = false;
        match outcome {
            InstallOutcome::Done { restart, code } => {
                deployment.code = code;
                // What another install of this run wanted is still wanted.
                if restart || (always && action == Action::Install) {
                    deployment.journal.restart_in = boot;
                }
                (deployment.journal.failed, deployment.journal.done) = (None, true);
            }
            InstallOutcome::NotNow { reason } => {
                // Nothing was run.
                deployment.journal.begun = deployment.unfinished;
                deployment.journal.attempts = deployment.journal.attempts.saturating_sub(1);
                deployment.retry = now.mono + ASK_AGAIN + jitter;
                deployment.not_now = Some(reason);
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
        self.persist_deployment(id);
        self.timer(Reason::Restart, now.mono);
        self.advance_all(now);
    }

    pub(super) fn detected(&mut self, id: ReleaseId, result: Detection, now: Now) {
        let Some(deployment) = self.deployments.map.get_mut(&id) else { return };
        deployment.detecting = false;
        deployment.detected = now.mono;
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
        self.timer(Reason::Deployment(id), now.mono + DETECT_EVERY + Duration::from_secs(1));
        self.advance_all(now);
    }

    fn retry_detection(&mut self, id: ReleaseId, now: Now) {
        if let Some(deployment) = self.deployments.map.get_mut(&id)
            && now.mono.since(deployment.detected) > Duration::from_secs(60)
        {
            deployment.detection = None;
        }
        self.timer(Reason::Deployment(id), now.mono + Duration::from_secs(61));
    }

    fn finished(&mut self, id: ReleaseId, now: Now) {
        let Some(deployment) = self.deployments.map.get_mut(&id) else { return };
        let journal = &mut deployment.journal;
        if journal.begun || journal.failed.is_some() || journal.attempts > 0 {
            // It may be that a power cut interrupted it. Whatever is lost from here on is no failure of this attempt.
            journal.begun = false;
            journal.begin_anew();
            self.persist_deployment(id);
        }
        self.release_payloads_of(&id, now);
    }

    /// Payloads of a release that nothing else here needs may go when room is needed. A branch cache keeps them pinned.
    fn release_payloads_of(&mut self, id: &ReleaseId, now: Now) {
        let Some(found) = self.trust.catalog().releases().get(id) else { return };
        for payload in self.of_no_other(id, &found.release.payloads, |state, _| is_final(state)) {
            self.release_payload(&payload, now);
        }
    }

    /// Bytes for a release that is held stop coming, unless something else here that is not held needs them.
    fn pause_payloads_of(&mut self, id: &ReleaseId, now: Now) {
        let own = self.trust.catalog().releases().get(id).map(|found| found.release.clone());
        let idle =
            |state, sub_state| is_final(state) || (state, sub_state) == (DeploymentState::OnHold, SubState::Paused);
        for release in own.into_iter().chain(self.goes_back_to(id).map(|(_, back)| back)) {
            for payload in self.of_no_other(id, &release.payloads, idle) {
                self.pause_payload(&payload, now);
            }
        }
    }

    /// Those payloads of a release that no other deployment needs, leaving out deployments that are `idle`. None on a branch
    /// cache, which fetches for others.
    fn of_no_other(
        &self,
        id: &ReleaseId,
        payloads: &[Payload],
        idle: impl Fn(DeploymentState, SubState) -> bool,
    ) -> Vec<PayloadId> {
        if self.is_cache() {
            return Vec::new();
        }
        let needed: BTreeSet<PayloadId> = self
            .deployments
            .map
            .iter()
            .filter(|(other, d)| *other != id && !idle(d.state, d.sub_state))
            .flat_map(|(other, _)| {
                let own = self.trust.catalog().releases().get(other).map(|found| found.release.clone());
                own.into_iter().chain(self.goes_back_to(other).map(|(_, back)| back))
            })
            .flat_map(|release| release.payloads.iter().map(|payload| payload.id).collect::<Vec<_>>())
            .collect();
        payloads.iter().map(|payload| payload.id).filter(|payload| !needed.contains(payload)).collect()
    }

    fn missing_dependency(&self, release: &Release) -> Option<String> {
        release.depends.iter().find_map(|needed| {
            let there = self.deployments.map.get(needed).is_some_and(|d| d.detection == Some(Detection::Present));
            let name = || match self.trust.catalog().releases().get(needed) {
                Some(found) => format!("{} {}", found.release.product, found.release.version),
                None => format!("release {}, which is not in the catalog", needed.short()),
            };
            (!there).then(name)
        })
    }

    fn stand(&mut self, id: ReleaseId, next: Stand, now: Now) {
        let Some(deployment) = self.deployments.map.get_mut(&id) else { return };
        let Stand(state, sub_state, mut reason) = next;
        // What holds it back now must not hide that it was tried before.
        let waits = !is_final(state) && !matches!(state, DeploymentState::Failed) && sub_state != SubState::Retrying;
        if let Some(last) = deployment.journal.tried.last().filter(|_| waits) {
            let gap = if reason.is_empty() { "" } else { "; " };
            reason = format!("{reason}{gap}attempt {} did not work{}", deployment.journal.tried.len(), last.words());
        }
        let changed = (deployment.state, deployment.sub_state) != (state, sub_state);
        if changed {
            deployment.since = now.wall;
        }
        if state == DeploymentState::Failed {
            deployment.code = deployment.journal.failed.as_ref().and_then(|(code, _)| *code).or(deployment.code);
        }
        if changed || deployment.reason != reason {
            (deployment.state, deployment.sub_state, deployment.reason) = (state, sub_state, reason);
            self.reports.dirty.insert(id);
            self.report_soon(now);
        }
    }

    /// How a deployment stands, for the report.
    pub(super) fn deployment_report(&self, id: &ReleaseId) -> Option<DeploymentReport> {
        let deployment = self.deployments.map.get(id)?;
        let release = self.trust.catalog().releases().get(id);
        let (mut done, mut total) = (0, 0);
        for payload in release.iter().flat_map(|r| &r.release.payloads) {
            total += payload.len;
            done += match self.downloads.progress(&payload.id) {
                Progress::Complete => payload.len,
                Progress::Partial { done, .. } => done,
                _ => 0,
            };
        }
        Some(DeploymentReport {
            release: *id,
            group: deployment.group,
            approval_version: deployment.approval.version,
            action: deployment.approval.action,
            state: deployment.state,
            sub_state: deployment.sub_state,
            code: deployment.code,
            reason: Text::lossy(&deployment.reason),
            since: deployment.since,
            done,
            total,
        })
    }

    /// Where this device stands with every release that is or was deployed here in this run.
    pub fn standings(&self) -> impl Iterator<Item = (ReleaseId, DeploymentState, SubState)> {
        self.deployments.map.iter().map(|(id, deployment)| (*id, deployment.state, deployment.sub_state))
    }

    /// Every release that is or was deployed here in this run.
    pub(super) fn deployed(&self) -> Vec<ReleaseId> {
        self.deployments.map.keys().copied().collect()
    }

    /// Releases whose bytes are arriving.
    pub(super) fn downloading(&self) -> Vec<ReleaseId> {
        let downloading = self.deployments.map.iter().filter(|(_, d)| d.state == DeploymentState::Downloading);
        downloading.map(|(id, _)| *id).collect()
    }
}

fn is_final(state: DeploymentState) -> bool {
    use DeploymentState as S;
    matches!(state, S::Installed | S::RestartRequired | S::Uninstalled | S::Canceled | S::Superseded | S::NotApplicable)
}

fn uses_payload(recipe: Option<&Recipe>) -> bool {
    matches!(recipe, Some(Recipe::Exec { argv, .. }) if argv.iter().any(|arg| arg.contains("{payload")))
}
