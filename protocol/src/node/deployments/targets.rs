//! Which releases are deployed here: what the catalog approves for this device's groups, and what is forgotten of the rest.
//!
//! A deployment whose approval is gone says once that it is canceled; when the coordinator has acknowledged that, it and its
//! journal are forgotten. This file decides nothing about when an install may begin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::schedule::{self, Fetching};

/// Withdrawn deployments that wait for the coordinator to hear of it; of more, the oldest are forgotten unheard.
const MAX_WITHDRAWN: usize = 256;

type Targets = BTreeMap<ReleaseId, (GroupId, Arc<Approval>)>;

impl Deployments {
    /// The catalog or this device's groups have changed: which releases are deployed here now, and which payloads to keep.
    pub(in crate::node) fn catalog_changed(&mut self, cx: &mut Cx, view: View<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let is_cache = view.certificate.role == NodeRole::Cache;
        let mut targets = Targets::new();
        let mut prefetch: BTreeSet<PayloadId> = BTreeSet::new();
        let (mut going, mut held) = (BTreeSet::new(), BTreeSet::new());
        let mut later = None;
        let catalog = view.trust.catalog();
        for ((group, release), entry) in catalog.approvals() {
            let Some(found) = catalog.releases().get(release) else { continue };
            let side = if catalog.hold(release, group).is_none() { &mut going } else { &mut held };
            side.extend(found.release.payloads.iter().map(|payload| payload.id));
            if view.assigned.contains(group) {
                let newer = targets.get(release).is_none_or(|(_, other)| other.issued < entry.approval.issued);
                if newer {
                    targets.insert(*release, (*group, entry.approval.clone()));
                }
            } else if is_cache && entry.approval.action == Action::Install {
                match schedule::fetching_for_others(&entry.approval, &cx.config.zone, cx.now.wall) {
                    Fetching::Now => prefetch.extend(found.release.payloads.iter().map(|payload| payload.id)),
                    Fetching::NotBefore(at) => later = Some(later.map_or(at, |known: Wall| known.min(at))),
                    Fetching::Never => {}
                }
            }
        }
        for payload in catalog.releases().values().flat_map(|found| &found.release.payloads) {
            if is_cache && held.contains(&payload.id) && !going.contains(&payload.id) {
                effects.push(Effect::Pause(payload.id));
            } else if prefetch.contains(&payload.id) {
                effects.push(Effect::Keep { payload: payload.clone(), wanted: true });
            } else if view.downloads.is_stored(&payload.id) {
                effects.push(Effect::Keep { payload: payload.clone(), wanted: false });
            }
        }
        let named = catalog.releases().values().flat_map(|found| &found.release.payloads);
        effects.push(Effect::KeepOnly(named.map(|payload| payload.id).collect()));
        self.withdraw(&targets, cx, view, &mut effects);
        for (release, (group, approval)) in targets {
            self.deploy(release, group, approval, cx, &mut effects);
        }
        let deployed = self.map.iter().filter(|(_, d)| !d.withdrawn);
        let deployed =
            deployed.filter_map(|(id, d)| Some((*id, d.approval.action, catalog.releases().get(id)?.release.clone())));
        self.index = Index::of(&deployed.collect::<Vec<_>>());
        if view.trust.is_current() && catalog.index_hash().is_some() {
            self.forget_journals(cx);
        }
        cx.timer(Reason::Restart, cx.now.mono);
        self.prefetch_at = later;
        self.look_again_for_prefetch(cx);
        self.touch_all();
        effects
    }

    /// Whether a branch cache may fetch more for its site than it could before: the catalog is to be looked at again.
    pub(in crate::node) fn prefetch_is_due(&self, now: Now) -> bool {
        self.prefetch_at.is_some_and(|at| at <= now.wall)
    }

    /// The wall clock may be set: long waits are looked at now and then.
    pub(in crate::node) fn look_again_for_prefetch(&self, cx: &mut Cx) {
        if let Some(at) = self.prefetch_at {
            cx.timer(Reason::Deployments, cx.now.mono + at.since(cx.now.wall).min(LOOK_AGAIN));
        }
    }

    /// Whether a deployment that has not come to its end needs a payload.
    pub(in crate::node) fn needs(&self, payload: &PayloadId) -> bool {
        let mut needing = self.index.needing(payload);
        needing.any(|id| self.map.get(&id).is_some_and(|d| !d.withdrawn && !is_final(d.state)))
    }

    fn deploy(
        &mut self,
        release: ReleaseId,
        group: GroupId,
        approval: Arc<Approval>,
        cx: &Cx,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(deployment) = self.map.get_mut(&release) {
            deployment.withdrawn = false;
            if deployment.approval != approval {
                if deployment.approval.version != approval.version || deployment.group != group {
                    deployment.journal.begin_anew();
                    deployment.journal.deferred = None;
                    (deployment.retry, deployment.hindered) = (Mono(0), None);
                    self.hindered.remove(&release);
                }
                deployment.approval = approval;
            }
            deployment.group = group;
            return;
        }
        let mut journal = self.journals.remove(&release).unwrap_or_default();
        if journal.approval_version != approval.version {
            let Journal { begun, restart_in, asked_in, .. } = journal;
            journal = Journal { begun, restart_in, asked_in, ..Journal::default() };
        }
        if !cx.config.boot.is_empty() && journal.restart_in == cx.config.boot {
            self.wanting.insert(release);
        }
        let deployment = Deployment {
            group,
            approval,
            withdrawn: false,
            journal,
            phase: Phase::Idle,
            detection: None,
            detecting: false,
            detected: Mono(0),
            retry: Mono(0),
            not_now: None,
            ordered: None,
            hindered: None,
            unfinished: false,
            state: DeploymentState::Pending,
            sub_state: SubState::AwaitingCatalog,
            code: None,
            reason: String::new(),
            since: cx.now.wall,
            bytes_seen: None,
        };
        self.map.insert(release, deployment);
        effects.push(Effect::Changed(release));
    }

    /// Deployments whose approval is gone. One that runs is let run: half an install is worse than either end.
    fn withdraw(&mut self, targets: &Targets, cx: &mut Cx, view: View<'_>, effects: &mut Vec<Effect>) {
        let gone: Vec<_> = self
            .map
            .iter()
            .filter(|(release, d)| !targets.contains_key(release) && d.phase == Phase::Idle && !d.withdrawn)
            .map(|(release, _)| *release)
            .collect();
        for release in gone {
            self.cancel(release, cx, view, effects);
        }
        let mut withdrawn: Vec<_> =
            self.map.iter().filter(|(_, d)| d.withdrawn).map(|(id, d)| (d.since, *id)).collect();
        withdrawn.sort_unstable();
        for (_, id) in withdrawn.iter().take(withdrawn.len().saturating_sub(MAX_WITHDRAWN)) {
            self.forget(*id, cx);
        }
    }

    /// The approval does not reach this device any more.
    pub(super) fn cancel(&mut self, id: ReleaseId, cx: &mut Cx, view: View<'_>, effects: &mut Vec<Effect>) {
        let unneeded = self.ask(cx, view).unneeded(&id);
        effects.extend(unneeded.into_iter().map(Effect::Release));
        if let Some(deployment) = self.map.get_mut(&id) {
            deployment.withdrawn = true;
        }
        self.queue.remove(&id);
        self.hindered.remove(&id);
        let words = "the approval no longer reaches this device";
        self.set_progress(id, progress(DeploymentState::Canceled, SubState::None, words), cx, effects);
        effects.push(Effect::Changed(id));
    }

    /// Whether the coordinator's acknowledgement of its last report is all that it waits for.
    pub(in crate::node) fn ends_when_heard(&self, id: &ReleaseId) -> bool {
        self.map.get(id).is_some_and(|deployment| deployment.withdrawn)
    }

    /// The coordinator knows how these ended. What still wants a restart is kept until that has been.
    pub(in crate::node) fn heard(&mut self, ended: &[ReleaseId], cx: &mut Cx) {
        for id in ended {
            if self.ends_when_heard(id) && !self.wanting.contains(id) {
                self.forget(*id, cx);
            }
        }
    }

    fn forget(&mut self, id: ReleaseId, cx: &mut Cx) {
        self.map.remove(&id);
        for set in [&mut self.dirty, &mut self.queue, &mut self.hindered, &mut self.arriving, &mut self.wanting] {
            set.remove(&id);
        }
        cx.timers.remove(&Reason::Deployment(id));
        cx.persist(Record::Deployment(id, Vec::new()));
    }

    /// Journals of an earlier run that the whole catalog gives no deployment, unless this run of the system asked for a restart
    /// because of them or something was left half done.
    fn forget_journals(&mut self, cx: &mut Cx) {
        let boot = &cx.config.boot;
        let of_this_run = |word: &Text<64>| !boot.is_empty() && word == boot;
        let useless =
            |journal: &Journal| !journal.begun && !of_this_run(&journal.restart_in) && !of_this_run(&journal.asked_in);
        let gone: Vec<_> = self.journals.iter().filter(|(_, journal)| useless(journal)).map(|(id, _)| *id).collect();
        for id in gone {
            self.journals.remove(&id);
            cx.persist(Record::Deployment(id, Vec::new()));
        }
    }
}

impl NodeState {
    /// What is approved here for install, with the group that it is approved for and what the schedule needs to know.
    pub(in crate::node) fn deployed_for_install(
        &self,
    ) -> impl Iterator<Item = (ReleaseId, GroupId, &Approval, DeviceFacts<'_>)> {
        let deployed = self.deployments.map.iter();
        deployed
            .filter(|(_, d)| !d.withdrawn && d.approval.action == Action::Install)
            .map(move |(id, d)| (*id, d.group, &*d.approval, facts(&self.cx, &d.journal)))
    }
}

impl Ask<'_> {
    /// Payloads of a release that nothing else here needs: they may go when room is needed. A branch cache keeps them pinned.
    pub(super) fn unneeded(&self, id: &ReleaseId) -> Vec<PayloadId> {
        let Some(release) = self.release(id) else { return Vec::new() };
        self.of_no_other(id, &release.payloads, |state, _| is_final(state))
    }

    /// Payloads of a release that is held, unless something else here that is not held needs them.
    pub(super) fn idle_payloads(&self, id: &ReleaseId) -> Vec<PayloadId> {
        let idle =
            |state, sub_state| is_final(state) || (state, sub_state) == (DeploymentState::OnHold, SubState::Paused);
        let back = self.goes_back_to(id).map(|(_, back)| back);
        let releases = self.release(id).into_iter().chain(back.as_ref());
        releases.flat_map(|release| self.of_no_other(id, &release.payloads, idle)).collect()
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
        let needed = |payload: &PayloadId| {
            let mut others = self.all.index.needing(payload).filter(|other| other != id);
            others.any(|other| self.all.map.get(&other).is_some_and(|d| !d.withdrawn && !idle(d.state, d.sub_state)))
        };
        payloads.iter().map(|payload| payload.id).filter(|payload| !needed(payload)).collect()
    }
}
