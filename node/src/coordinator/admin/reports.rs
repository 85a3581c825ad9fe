//! Reports over time: what history says, by the names of today, beside how much of the fleet it lacks. Owns what they are called and which
//! are meant; how a day stood is history's.

use std::collections::BTreeMap;

use upswarm_protocol::catalog::Root;
use upswarm_protocol::coordinator::Refusal;
use upswarm_protocol::ids::{DocHash, GroupId, ReleaseId};
use upswarm_protocol::report::BytesBySource;

use super::standing::named;
use super::status::LATELY_S;
use super::{View, audit, updates};
use crate::api::reports::{
    ApprovalLine, Approvals, Basis, Compliance, ComplianceDay, ReportQuery, RolloutTime, RolloutTimes, Savings,
    SavingsDay, Tally, Vulnerable, day_words,
};
use crate::coordinator::repositories::Repositories;
use crate::coordinator::store::past::{Approved, Day, GroupDay, Stands, Went};

/// Compliance by group and day.
pub(crate) fn compliance(view: &View<'_>, query: &ReportQuery, days: Vec<GroupDay>) -> Result<Compliance, Refusal> {
    no_release(query, "compliance")?;
    let group = group(view, query)?;
    let line = |day: GroupDay| ComplianceDay {
        day: day_words(day.day),
        group: view.names.group_name(&day.group),
        devices: day.members,
        approvals: day.approvals,
        tally: tally(&day.stands),
    };
    let meant = days.into_iter().filter(|day| group.is_none_or(|group| group == day.group));
    let mut days: Vec<ComplianceDay> = meant.map(line).collect();
    days.sort_by(|a, b| (&a.day, &a.group).cmp(&(&b.day, &b.group)));
    Ok(Compliance { basis: basis(view, group), days })
}

/// How long rollouts took.
pub(crate) fn rollouts(view: &View<'_>, query: &ReportQuery, went: Vec<Went>) -> Result<RolloutTimes, Refusal> {
    let (group, release) = (group(view, query)?, release(view, query)?);
    let first = query.first_day(view.now).map_err(Refusal::Request)?;
    let meant = |went: &Went| {
        let is_over = went.ended.is_some_and(|ended| day_of(ended.0) < first);
        group.is_none_or(|group| group == went.group) && release.is_none_or(|id| id == went.release) && !is_over
    };
    let line = |went: Went| {
        let [to_50_minutes, to_90_minutes, to_99_minutes] = went.reached.map(|reached| reached.map(minutes));
        RolloutTime {
            group: view.names.group_name(&went.group),
            release: went.release,
            title: title(view, &went.release),
            version: view.catalog.release(&went.release).map(|known| known.version.clone()).unwrap_or_default(),
            action: went.action,
            begun: went.begun.to_string(),
            ended: went.ended.map(|ended| ended.to_string()),
            tally: tally(&went.stands),
            to_50_minutes,
            to_90_minutes,
            to_99_minutes,
        }
    };
    Ok(RolloutTimes { basis: basis(view, group), rollouts: went.into_iter().filter(meant).map(line).collect() })
}

/// Devices that are vulnerable, by CVE. Reads the indexes and feeds: for a whole distribution, some seconds.
pub(crate) fn vulnerable(
    view: &View<'_>,
    repositories: &Repositories,
    query: &ReportQuery,
) -> Result<Vulnerable, Refusal> {
    no_release(query, "vulnerable")?;
    if query.since.is_some() {
        return Err(Refusal::Request("this report is about now; leave --since out".to_owned()));
    }
    let basis = basis(view, group(view, query)?);
    let found = updates::vulnerable(view, repositories, query.group.as_deref())?;
    Ok(Vulnerable {
        without_inventory: basis.devices.saturating_sub(found.devices),
        unjudged: found.unjudged,
        cves: found.cves,
        warnings: found.warnings,
        basis,
    })
}

/// Payload bytes by day and source.
pub(crate) fn savings(
    view: &View<'_>,
    query: &ReportQuery,
    days: Vec<(Day, BytesBySource)>,
) -> Result<Savings, Refusal> {
    no_release(query, "savings")?;
    let mut total = BytesBySource::default();
    days.iter().for_each(|(_, bytes)| total.add(bytes));
    let days = days.into_iter().map(|(day, bytes)| SavingsDay { day: day_words(day), bytes }).collect();
    Ok(Savings { basis: basis(view, group(view, query)?), total, days })
}

/// Who approved what, when; signatures are checked anew by the newest root.
pub(crate) fn approvals(
    view: &View<'_>,
    query: &ReportQuery,
    roots: &[Vec<u8>],
    approvals: Vec<Approved>,
) -> Result<Approvals, Refusal> {
    let (group, release) = (group(view, query)?, release(view, query)?);
    let root = audit::newest(roots)?;
    let meant = |one: &Approved| {
        group.is_none_or(|group| group == one.group) && release.is_none_or(|release| release == one.release)
    };
    let lines = approvals.into_iter().filter(meant).map(|one| line(view, &root, one));
    Ok(Approvals { at: view.now.to_string(), approvals: lines.collect() })
}

/// Whole minutes within which it was: the store counts by minutes, so nothing finer is known.
fn minutes(ms: u64) -> u64 {
    ms.div_ceil(60_000).max(1)
}

fn line(view: &View<'_>, root: &Root, one: Approved) -> ApprovalLine {
    // A document that cannot be read any more leaves the fact that it counted.
    let read = audit::of_approval(&one.document, root).ok();
    let (approval, signers, others) = match read {
        Some((approval, signers, others)) => (Some(approval), signers, others),
        None => (None, Vec::new(), Vec::new()),
    };
    ApprovalLine {
        taken: one.seen.to_string(),
        ended: one.ended.map(|ended| ended.to_string()),
        issued: approval.as_ref().map(|approval| approval.issued.to_string()),
        group: view.names.group_name(&one.group),
        release: one.release,
        title: title(view, &one.release),
        version: one.version,
        action: one.action,
        note: approval.map(|approval| approval.note.as_str().to_owned()).unwrap_or_default(),
        signers,
        others,
        document: (!one.document.is_empty()).then(|| DocHash::of(&one.document)),
    }
}

/// The group that is meant, for whoever reads history for it.
pub(crate) fn group(view: &View<'_>, query: &ReportQuery) -> Result<Option<GroupId>, Refusal> {
    query.group.as_deref().map(|name| view.catalog.group_named(name)).transpose().map_err(Refusal::Request)
}

fn release(view: &View<'_>, query: &ReportQuery) -> Result<Option<ReleaseId>, Refusal> {
    let named = query.release.as_deref().map(|text| view.catalog.release_named(text)).transpose();
    Ok(named.map_err(Refusal::Request)?.map(|known| known.release))
}

fn no_release(query: &ReportQuery, report: &str) -> Result<(), Refusal> {
    match query.release {
        Some(_) => Err(Refusal::Request(format!(
            "the report {report} is not about one release; leave --release out, or see: upswarm report rollout --release ..."
        ))),
        None => Ok(()),
    }
}

fn title(view: &View<'_>, release: &ReleaseId) -> String {
    view.catalog.release(release).map_or_else(|| release.short(), named)
}

fn tally(stands: &Stands) -> Tally {
    Tally {
        expected: stands.expected,
        done: stands.done,
        pending: stands.pending,
        failed: stands.failed,
        unknown: stands.unknown(),
    }
}

fn day_of(ms: u64) -> Day {
    ms / crate::coordinator::store::ledger::DAY_MS
}

/// On what an answer about a group, or about all devices, rests.
fn basis(view: &View<'_>, group: Option<GroupId>) -> Basis {
    let mut basis = Basis { at: view.now.to_string(), ..Basis::default() };
    let mut ages: BTreeMap<u64, usize> = BTreeMap::new();
    for record in view.devices().filter(|record| group.is_none_or(|group| record.groups.contains(&group))) {
        basis.devices += 1;
        match view.said(&record.device) {
            None => basis.never += 1,
            Some(said) => {
                let age = view.age(said.received);
                *ages.entry(age).or_default() += 1;
                basis.silent += usize::from(age > LATELY_S && !view.is_connected(&record.device));
            }
        }
    }
    basis.newest_report_s = ages.keys().next().copied();
    basis.oldest_report_s = ages.keys().next_back().copied();
    basis
}
