//! From an approval to an installed release: what this device should do now, and why not yet.
//!
//! This child owns every deployment, its journal, the restart that installs want, and the indexes that say whom a change
//! concerns. It never fetches, stores or sends: what it wants of others it returns as [`Effect`]s. Invariant:
//! [`Output::Install`] leaves only when the release and its approval are both in the verified catalog and in force, the trust
//! data they rest on is durable, every payload is complete, and the record of the beginning is durable.
//!
//! An event only marks the deployments that it concerns; [`Deployments::work`] looks at those, once for each event.

mod attempts;
mod calendar;
mod conflict;
mod explain;
mod gates;
mod index;
mod journal;
mod look;
mod restart;
mod rollback;
mod supersedence;
mod targets;
mod urgency;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use attempts::NotRetried;
use index::Index;
use journal::Journal;
use restart::Restart;
pub use rollback::takes_back;
use supersedence::Superseded;
pub(in crate::node) use supersedence::{Order, Word};
pub use urgency::{Granted, NotPutOff};

use super::assigned::Assigned;
use super::conditions::Standing;
use super::cx::Cx;
use super::downloads::{Downloads, PayloadProgress};
use super::{Detection, NodeState, Output, Reason, Record, StoreError};
use crate::catalog::{Action, Approval, Certificate, NodeRole, Payload, Piece, Recipe, Release, pieces};
use crate::codec::Text;
use crate::ids::{GroupId, PayloadId, ReleaseId};
use crate::inventory::{Inventory, NotMember};
use crate::report::{DeploymentReport, DeploymentState, SubState};
use crate::schedule::{DeviceFacts, Why};
use crate::time::{Mono, Now, Wall};
use crate::trust::Trust;

/// A retry code is tried again this often under one approval.
const MAX_ATTEMPTS: u8 = 4;
/// Long waits are looked at again after this: the wall clock may be set.
const LOOK_AGAIN: core::time::Duration = core::time::Duration::from_secs(900);
/// Between two looks at a deployment whose payloads come one after the other.
const LOOKS_APART: core::time::Duration = core::time::Duration::from_millis(100);

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
    /// The approval does not reach this device any more: forgotten once the coordinator has taken that in.
    withdrawn: bool,
    journal: Journal,
    phase: Phase,
    detection: Option<Detection>,
    detecting: bool,
    detected: Mono,
    retry: Mono,
    /// Why the installer would not begin yet.
    not_now: Option<String>,
    /// When the coordinator last had it tried again.
    ordered: Option<Mono>,
    /// What on this machine stood in the way when it was tried last.
    hindered: Option<attempts::Hindered>,
    /// Whether a recipe was unfinished before it was asked.
    unfinished: bool,
    state: DeploymentState,
    sub_state: SubState,
    code: Option<i32>,
    reason: String,
    since: Wall,
    /// When news of its payloads had it looked at last.
    bytes_seen: Option<Mono>,
}

/// Every deployment of this device: as many as the catalog has approvals for its groups, and a bounded number that it had.
#[derive(Debug)]
pub(super) struct Deployments {
    map: BTreeMap<ReleaseId, Deployment>,
    /// Of an earlier run, for what is not deployed in this one (yet).
    journals: BTreeMap<ReleaseId, Journal>,
    index: Index,
    /// To be looked at.
    dirty: BTreeSet<ReleaseId>,
    /// This event has looked at as many as one may: the others are for the next.
    rests: bool,
    /// Nothing holds them back but that it is not their turn.
    queue: BTreeSet<ReleaseId>,
    /// The one that is not idle.
    at_work: Option<ReleaseId>,
    /// Something on this machine stood in their way.
    hindered: BTreeSet<ReleaseId>,
    /// Their bytes are arriving.
    arriving: BTreeSet<ReleaseId>,
    /// An install or removal in this run of the operating system wants a restart.
    wanting: BTreeSet<ReleaseId>,
    /// Whether a restart was asked for in this run of the operating system.
    asked: bool,
    restart: Restart,
    /// When a branch cache may fetch more for its site.
    prefetch_at: Option<Wall>,
    /// What the person at the machine was told last: for which release, and when the restart is to be.
    told: Option<(ReleaseId, Option<Wall>)>,
}

/// What a deployment needs to know of others.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) trust: &'a Trust,
    pub(super) downloads: &'a Downloads,
    pub(super) standing: &'a Standing,
    pub(super) certificate: &'a Certificate,
    pub(super) assigned: &'a Assigned,
    /// What was seen to be installed; `None` before the first scan of this run.
    pub(super) inventory: Option<&'a Inventory>,
    /// Whether a newer head has come since the start, or the coordinator has said that there is none.
    pub(super) head_is_confirmed: bool,
}

impl View<'_> {
    /// Whether what an approver has signed about a group admits this device.
    fn belongs(&self, group: &GroupId) -> Result<(), NotMember> {
        self.assigned.belongs(group, self.trust, self.inventory)
    }
}

/// What the deployments want of others.
#[derive(Debug)]
pub(super) enum Effect {
    /// The payloads of a release at these positions are needed here.
    Want(Arc<Release>, Vec<usize>),
    /// A payload is needed, or (not `wanted`) what is here of it is served.
    Keep { payload: Payload, wanted: bool },
    /// Nobody here needs the payload any more.
    Release(PayloadId),
    /// Its bytes stop coming, for now.
    Pause(PayloadId),
    /// Whatever is not among these is forgotten.
    KeepOnly(BTreeSet<PayloadId>),
    /// A deployment stands elsewhere: it is to be reported.
    Changed(ReleaseId),
}

/// Everything there is to read while a question about deployments is answered.
#[derive(Clone, Copy)]
struct Ask<'a> {
    all: &'a Deployments,
    cx: &'a Cx,
    view: View<'a>,
    now: Now,
}

/// A state to be in, with the words for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Progress(DeploymentState, SubState, String);

fn progress(state: DeploymentState, sub_state: SubState, reason: impl Into<String>) -> Progress {
    Progress(state, sub_state, reason.into())
}

impl Deployments {
    pub(super) fn restore(records: Vec<(ReleaseId, Vec<u8>)>, boot: &str) -> Self {
        let read = |(id, bytes): (ReleaseId, Vec<u8>)| Some((id, Journal::read(&bytes)?));
        let journals: BTreeMap<_, Journal> = records.into_iter().filter_map(read).collect();
        Self {
            map: BTreeMap::new(),
            asked: journals.values().any(|journal| !boot.is_empty() && *journal.asked_in == *boot),
            journals,
            index: Index::default(),
            dirty: BTreeSet::new(),
            rests: false,
            queue: BTreeSet::new(),
            at_work: None,
            hindered: BTreeSet::new(),
            arriving: BTreeSet::new(),
            wanting: BTreeSet::new(),
            restart: Restart::default(),
            prefetch_at: None,
            told: None,
        }
    }

    fn ask<'a>(&'a self, cx: &'a Cx, view: View<'a>) -> Ask<'a> {
        Ask { all: self, cx, view, now: cx.now }
    }

    /// Every one is to be looked at: the catalog, the head or the machine has changed.
    pub(super) fn touch_all(&mut self) {
        self.dirty.extend(self.map.keys());
    }

    pub(super) fn touch(&mut self, id: ReleaseId) {
        self.dirty.insert(id);
    }

    /// The store or the network has news about a payload. While more is to come, a look at each of many payloads would be as
    /// many looks at all of them: then they keep a distance.
    pub(super) fn payload_moved(&mut self, payload: &PayloadId, more_to_come: bool, cx: &mut Cx) {
        for id in self.index.needing(payload) {
            let Some(deployment) = self.map.get_mut(&id).filter(|d| !is_final(d.state)) else { continue };
            let next = deployment.bytes_seen.map_or(cx.now.mono, |seen| seen + LOOKS_APART);
            if more_to_come && next > cx.now.mono {
                cx.timer(Reason::Deployment(id), next);
            } else {
                deployment.bytes_seen = Some(cx.now.mono);
                self.dirty.insert(id);
            }
        }
    }

    /// Whoever decides by this one is to be looked at, it included.
    fn touch_around(&mut self, id: ReleaseId) {
        self.dirty.insert(id);
        self.dirty.extend(self.index.around(&id));
    }

    /// What detection found last.
    pub(super) fn detection(&self, release: &ReleaseId) -> Option<&Detection> {
        self.map.get(release)?.detection.as_ref()
    }

    /// Whether the release is deployed here, so that its detection is run for that.
    pub(super) fn looks_for(&self, release: &ReleaseId) -> bool {
        self.map
            .get(release)
            .is_some_and(|d| d.detecting || !matches!(d.state, DeploymentState::Superseded | DeploymentState::Canceled))
    }

    /// What was found of this release is doubtful. A recipe that runs is let run: it ends with a new look anyway.
    pub(super) fn detect_again(&mut self, release: ReleaseId) {
        if let Some(deployment) = self.map.get_mut(&release)
            && deployment.phase == Phase::Idle
            && !deployment.detecting
        {
            deployment.detection = None;
            self.touch_around(release);
        }
    }

    /// Every release that is or was deployed here.
    pub(super) fn all(&self) -> impl Iterator<Item = ReleaseId> {
        self.map.keys().copied()
    }

    /// Releases whose bytes are arriving.
    pub(super) fn arriving(&self) -> &BTreeSet<ReleaseId> {
        &self.arriving
    }

    /// Deployments that have not come to their end.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = ReleaseId> {
        self.map.iter().filter(|(_, d)| !is_final(d.state)).map(|(id, _)| *id)
    }

    fn persist(&mut self, id: ReleaseId, cx: &mut Cx) -> u64 {
        let bytes = self.map.get(&id).map(|d| d.journal.write()).unwrap_or_default();
        cx.persist(Record::Deployment(id, bytes))
    }
}

impl Ask<'_> {
    fn facts(&self, journal: &Journal) -> DeviceFacts<'_> {
        facts(self.cx, journal)
    }

    /// Schedules go by this machine's own clock, for which nothing signed can be a substitute.
    fn wall(&self) -> Wall {
        self.now.wall
    }

    fn release(&self, id: &ReleaseId) -> Option<&Arc<Release>> {
        self.view.trust.catalog().releases().get(id).map(|found| &found.release)
    }

    /// Positions of the files of a release that this machine needs: all, or of a repository's snapshot its metadata and the
    /// packages that it has in an earlier version or is to get. A branch cache fetches for others too.
    fn needed(&self, release: &Release) -> Vec<usize> {
        let Recipe::Apt(apt) = &release.install else { return (0..release.payloads.len()).collect() };
        if self.is_cache() {
            return (0..release.payloads.len()).collect();
        }
        let Some(inventory) = self.view.inventory else { return apt.metadata().collect() };
        let needed = apt.needed(|package| inventory.standing(package));
        let packages = needed.into_iter().filter_map(|at| Some(usize::from(apt.packages.get(at)?.payload)));
        packages.chain(apt.metadata()).collect()
    }

    /// The files of a release that this machine needs.
    fn files<'r>(&self, release: &'r Release) -> impl Iterator<Item = &'r Payload> + use<'r> {
        self.needed(release).into_iter().filter_map(|at| release.payloads.get(at))
    }

    fn is_cache(&self) -> bool {
        self.view.certificate.role == NodeRole::Cache
    }

    /// How a deployment stands, for the report.
    fn report(&self, id: &ReleaseId) -> Option<DeploymentReport> {
        let deployment = self.all.map.get(id)?;
        let (mut done, mut total) = (0, 0);
        for payload in self.release(id).iter().flat_map(|release| self.files(release)) {
            total += payload.len;
            done += match self.view.downloads.progress(&payload.id) {
                PayloadProgress::Complete => payload.len,
                PayloadProgress::Partial { done, .. } => done,
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
            next_try: deployment.next_try(self.now),
        })
    }
}

/// What the schedule of a deployment needs to know of this device.
fn facts<'a>(cx: &'a Cx, journal: &Journal) -> DeviceFacts<'a> {
    DeviceFacts {
        device: cx.me,
        zone: &cx.config.zone,
        awake_since: cx.awake_since,
        overdue_since: journal.overdue_since,
        deferred: journal.deferred(),
    }
}

impl NodeState {
    fn asking(&self, now: Now) -> Ask<'_> {
        Ask { all: &self.deployments, cx: &self.cx, view: self.view(), now }
    }

    pub(super) fn deployment_report(&self, id: &ReleaseId) -> Option<DeploymentReport> {
        self.asking(self.cx.now).report(id)
    }

    /// Where this device stands with every release that is or was deployed here in this run.
    pub fn standings(&self) -> impl Iterator<Item = (ReleaseId, DeploymentState, SubState)> {
        self.deployments.map.iter().map(|(id, deployment)| (*id, deployment.state, deployment.sub_state))
    }
}

fn is_final(state: DeploymentState) -> bool {
    use DeploymentState as S;
    matches!(state, S::Installed | S::RestartRequired | S::Uninstalled | S::Canceled | S::Superseded | S::NotApplicable)
}

/// How a report names what the schedule says.
fn sub_state(why: Why) -> SubState {
    match why {
        Why::AvailableFrom | Why::Ring { .. } | Why::Jitter | Why::Deadline => SubState::Scheduled,
        Why::Deferred => SubState::Deferred,
        Why::Window | Why::ActiveHours | Why::NoOpening => SubState::AwaitingWindow,
    }
}

fn uses_payload(recipe: Option<&Recipe>) -> bool {
    let Some(Recipe::Exec { argv, .. }) = recipe else { return false };
    let mut found = argv.iter().flat_map(|arg| pieces(arg).unwrap_or_default());
    found.any(|piece| matches!(piece, Piece::Payload(_)))
}
