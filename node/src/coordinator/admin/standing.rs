//! Where each machine stands as a whole: one word for each, and why. Owns that word and its order of importance; counts and lists of
//! machines are made of it, so that none can contradict another.

use std::collections::BTreeMap;

use upswarm_protocol::catalog::Action;
use upswarm_protocol::coordinator::DeviceRecord;
use upswarm_protocol::evaluate::ScanState;
use upswarm_protocol::ids::{GroupId, ReleaseId};
use upswarm_protocol::report::{DeploymentReport, DeploymentState, SubState};

use super::View;
use super::status::{LATELY_S, is_end};
use crate::api::catalog::CatalogRelease;
use crate::api::fleet::Standing;
use crate::api::status::{state_words, sub_state_words};
use crate::coordinator::store::part::{Part, PartOf};
use crate::text;

/// What is decided of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decided {
    /// It is approved for a group of the machine, for install.
    Approved,
    /// It is approved for removal.
    Removed,
    /// Every group of the machine that decides about it has declined it.
    Declined,
    /// No group of the machine decides about it.
    Nobody,
}

/// Judges machines by one view of the fleet.
pub(super) struct Judge<'v, 'a> {
    view: &'v View<'a>,
    parts: BTreeMap<PartOf<'a>, Part>,
    decided: BTreeMap<ReleaseId, Vec<(GroupId, Action)>>,
}

/// A machine's word, its reason, and whether it has been silent for a day.
pub(super) struct Judged {
    pub(super) standing: Standing,
    pub(super) why: String,
    pub(super) silent: bool,
    /// What it needs and nobody has decided about.
    pub(super) undecided: Vec<ReleaseId>,
}

impl<'v, 'a> Judge<'v, 'a> {
    pub(super) fn new(view: &'v View<'a>) -> Self {
        let mut parts = BTreeMap::new();
        for record in view.devices() {
            parts.entry(PartOf::device(record)).or_insert_with(|| view.part(record));
        }
        let mut decided: BTreeMap<ReleaseId, Vec<(GroupId, Action)>> = BTreeMap::new();
        for approval in &view.catalog.approvals {
            decided.entry(approval.release).or_default().push((approval.group, approval.action));
        }
        Self { view, parts, decided }
    }

    /// Whether a machine was not heard of for a day.
    pub(super) fn is_silent(&self, record: &DeviceRecord) -> bool {
        let age = self.view.said(&record.device).map(|said| self.view.age(said.received));
        !self.view.is_connected(&record.device) && age.is_none_or(|age| age > LATELY_S)
    }

    /// What its groups have decided of a release.
    pub(super) fn decided(&self, record: &DeviceRecord, release: &ReleaseId) -> Decided {
        let all = self.decided.get(release).map(Vec::as_slice).unwrap_or_default();
        let mut of_it = all.iter().filter(|(group, _)| record.groups.contains(group)).map(|(_, action)| action);
        let mut known = Decided::Nobody;
        for action in of_it.by_ref() {
            match action {
                Action::Install => return Decided::Approved,
                Action::Uninstall => known = Decided::Removed,
                Action::None if known == Decided::Nobody => known = Decided::Declined,
                Action::None => {}
            }
        }
        known
    }

    /// Where a machine stands with a release.
    pub(super) fn need(&self, record: &DeviceRecord, release: &ReleaseId) -> Option<ScanState> {
        self.view.need(&record.device, self.parts.get(&PartOf::device(record))?, release)
    }

    /// Whether a deployment still rests on an approval in force.
    pub(super) fn is_in_force(&self, known: &DeploymentReport) -> bool {
        let of = self.decided.get(&known.release).map(Vec::as_slice).unwrap_or_default();
        of.iter().any(|(group, action)| *group == known.group && *action != Action::None)
    }

    /// A release in words.
    pub(super) fn words(&self, release: &ReleaseId) -> String {
        self.view.catalog.release(release).map_or_else(|| release.short(), named)
    }

    /// Where a machine stands, and why.
    pub(super) fn judge(&self, record: &DeviceRecord) -> Judged {
        let silent = self.is_silent(record);
        let (standing, why, undecided) = self.standing(record);
        if silent && standing == Standing::Current {
            let age = self.view.said(&record.device).map(|said| self.view.age(said.received));
            let why = format!("it was up to date when it was last heard of, {} ago", text::age(age, "long"));
            return Judged { standing: Standing::Unknown, why, silent, undecided };
        }
        Judged { standing, why, silent, undecided }
    }

    fn standing(&self, record: &DeviceRecord) -> (Standing, String, Vec<ReleaseId>) {
        let view = self.view;
        let Some(said) = view.said(&record.device) else {
            return (Standing::Unknown, "it was let in and has told nothing yet".to_owned(), Vec::new());
        };
        let deployments: Vec<&DeploymentReport> =
            said.deployments.iter().filter(|known| self.is_in_force(known)).collect();
        let bad = |known: &&&DeploymentReport| is_bad(known);
        let mut needs = Needs::default();
        for release in &view.catalog.releases {
            let id = release.release;
            match (self.need(record, &id), self.decided(record, &id)) {
                (Some(ScanState::NotApplicable | ScanState::Installed), _) | (_, Decided::Removed) => {}
                (Some(ScanState::Required), Decided::Nobody) => needs.undecided.push(id),
                (Some(ScanState::Required), Decided::Declined) => needs.declined.push(id),
                (Some(ScanState::Unknown), Decided::Nobody) => needs.unclear.push(id),
                (None, Decided::Nobody) => needs.not_told.push(id),
                (_, Decided::Approved) => {
                    let told = deployments.iter().any(|known| known.release == id);
                    needs.not_begun.extend((!told).then_some(id));
                }
                (None | Some(ScanState::Unknown), Decided::Declined) => {}
            }
        }
        if let Some(known) = deployments.iter().find(bad) {
            let more = deployments.iter().filter(bad).count() - 1;
            let (state, what) = (format!("{:?}", known.state), self.words(&known.release));
            let why = format!("{state}: {what}: {}{}", one_reason(known), and_more(more));
            return (Standing::Attention, why, needs.undecided);
        }
        if let Some(alarm) = said.alarms.first() {
            return (Standing::Attention, format!("{alarm}{}", and_more(said.alarms.len() - 1)), needs.undecided);
        }
        let under_way: Vec<&&DeploymentReport> = deployments.iter().filter(|known| !is_end(known.state)).collect();
        if let Some(known) = under_way.first() {
            let what = self.words(&known.release);
            let why = format!("{}: {what}{}", progress(known), and_more(under_way.len() - 1));
            return (Standing::Pending, why, needs.undecided);
        }
        if let Some(release) = needs.not_begun.first() {
            let (what, more) = (self.words(release), and_more(needs.not_begun.len() - 1));
            let why = format!("approved, and the machine has not said that it has begun: {what}{more}");
            return (Standing::Pending, why, needs.undecided);
        }
        if view.scan(&record.device).is_none() {
            return (Standing::Unknown, "it has not told what it is missing".to_owned(), needs.undecided);
        }
        if let Some(release) = needs.not_told.first() {
            let (what, more) = (self.words(release), and_more(needs.not_told.len() - 1));
            let why = format!("it has not told whether it needs {what}{more}");
            return (Standing::Unknown, why, needs.undecided);
        }
        if let Some(release) = needs.undecided.first() {
            let (what, more) = (self.words(release), and_more(needs.undecided.len() - 1));
            let why = format!("needs {what}{more}, and none of its groups has decided about it");
            return (Standing::Approval, why, needs.undecided);
        }
        if let Some(release) = needs.unclear.first() {
            let (what, more) = (self.words(release), and_more(needs.unclear.len() - 1));
            let why =
                format!("nobody knows whether it needs {what}{more}, and none of its groups has decided about it");
            return (Standing::Approval, why, needs.undecided);
        }
        if let Some(release) = needs.declined.first() {
            let (what, more) = (self.words(release), and_more(needs.declined.len() - 1));
            return (Standing::Exception, format!("{what}{more} is declined for it"), needs.undecided);
        }
        (Standing::Current, "it has everything that is approved for it".to_owned(), needs.undecided)
    }
}

/// What a machine needs and has no deployment of.
#[derive(Default)]
struct Needs {
    undecided: Vec<ReleaseId>,
    /// Only commands or files could tell, and nobody has decided.
    unclear: Vec<ReleaseId>,
    /// Its last scan is older than the release.
    not_told: Vec<ReleaseId>,
    declined: Vec<ReleaseId>,
    not_begun: Vec<ReleaseId>,
}

/// A release as people name it.
pub(super) fn named(release: &CatalogRelease) -> String {
    if release.title.is_empty() {
        return format!("{} {}", release.product, release.version);
    }
    if release.title.contains(release.version.as_str()) {
        return release.title.clone();
    }
    format!("{} ({})", release.title, release.version)
}

/// Whether somebody should look.
pub(super) fn is_bad(known: &DeploymentReport) -> bool {
    matches!(known.state, DeploymentState::Failed | DeploymentState::Stalled)
}

/// What a deployment does now, in a few words.
pub(super) fn progress(known: &DeploymentReport) -> String {
    use DeploymentState as S;
    let percent = |known: &DeploymentReport| known.done.saturating_mul(100).checked_div(known.total).unwrap_or(0);
    match (known.state, known.sub_state) {
        (S::Downloading, _) => format!("downloading, {} %", percent(known)),
        (S::Downloaded, SubState::None) => "downloaded".to_owned(),
        (S::Installing, _) => "installing".to_owned(),
        (S::Uninstalling, _) => "being removed".to_owned(),
        (S::RestartRequired, _) => "installed, waits for a restart".to_owned(),
        (S::OnHold, _) | (_, SubState::Paused) => "on hold".to_owned(),
        (S::Offering, _) => "looks for its bytes".to_owned(),
        (_, SubState::Scheduled) => "waits for its time".to_owned(),
        (_, SubState::AwaitingWindow) => "waits for a maintenance window".to_owned(),
        (_, SubState::AwaitingDependency) => "waits for what it depends on".to_owned(),
        (_, SubState::Deferred) => "put off by the person at the machine".to_owned(),
        (_, SubState::Queued) => "waits for another install".to_owned(),
        (_, SubState::Retrying) => "will be tried again".to_owned(),
        (_, SubState::PowerOrLink) => "waits for power or a better link".to_owned(),
        (_, SubState::HeldByMachine) => "held on the machine by its package manager".to_owned(),
        (_, SubState::Locked) => "waits for the package manager's lock".to_owned(),
        (state, sub) => {
            let state = state_words(&format!("{state:?}")).to_lowercase();
            sub_state_words(sub).map_or_else(|| state.clone(), |waits| format!("{state}: {waits}"))
        }
    }
}

fn one_reason(known: &DeploymentReport) -> String {
    match (known.reason.as_str(), known.code) {
        ("", Some(code)) => format!("exit code {code}"),
        ("", None) => "it gave no reason".to_owned(),
        (reason, _) => reason.to_owned(),
    }
}

fn and_more(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" and {more} more") }
}
