//! Machines in lists and one by one. Owns filters, order and pages, and the explanation of why a machine has not got something.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use upswarm_protocol::coordinator::{DeviceRecord, Refusal};
use upswarm_protocol::evaluate::ScanState;
use upswarm_protocol::ids::{DeviceId, ReleaseId};
use upswarm_protocol::report::{DeploymentReport, DeploymentState};
use upswarm_protocol::schedule::ring_of;

use super::View;
use super::standing::{Decided, Judge, Judged, is_bad, progress};
use super::status::{is_end, of_device, state_named};
use crate::api::catalog::CatalogRelease;
use crate::api::fleet::{
    Explanation, MAX_PER_PAGE, Machine, MachinePage, MachineQuery, MachineRow, PER_PAGE, SortMachines, Standing,
};
use crate::api::inventory::DeviceQuery;
use crate::inventory as machine;
use crate::text;

/// A page of machines.
pub(crate) fn list(view: &View<'_>, query: &MachineQuery) -> Result<MachinePage, Refusal> {
    let release = query.release.as_deref().map(|text| view.catalog.release_named(text)).transpose();
    let release = release.map_err(Refusal::Request)?.map(|known| known.release);
    let state = query.state.as_deref().map(state_named).transpose()?;
    if let Some(group) = &query.group {
        view.catalog.group_named(group).map_err(Refusal::Request)?;
    }
    let needle = query.text.as_deref().map(|text| text.trim().to_lowercase()).filter(|text| !text.is_empty());
    let judge = Judge::new(view);
    let (mut fleet, mut found) = (0, Vec::new());
    for record in view.devices() {
        fleet += 1;
        if !reports(view, record, release, state) {
            continue;
        }
        let row = row(view, record, judge.judge(record));
        if is_meant(query, &row, needle.as_deref()) {
            found.push(row);
        }
    }
    sort(&mut found, query);
    let per = query.per.unwrap_or(PER_PAGE).clamp(1, MAX_PER_PAGE);
    let (matched, pages) = (found.len(), found.len().div_ceil(per).max(1));
    let page = query.page.unwrap_or(1).clamp(1, pages);
    let machines = found.into_iter().skip((page - 1) * per).take(per).collect();
    Ok(MachinePage { at: view.now.to_string(), fleet, matched, page, pages, machines })
}

/// Everything about one machine.
pub(crate) fn one(view: &View<'_>, query: &DeviceQuery) -> Result<Machine, Refusal> {
    let record = view.device_named(&query.device)?;
    let judge = Judge::new(view);
    let facts = view
        .inventory(&record.device)
        .map(|held| held.inventory.to_inventory())
        .map(|inventory| inventory.facts().iter().map(|(name, value)| (name.to_string(), value.to_string())).collect());
    Ok(Machine {
        row: row(view, record, judge.judge(record)),
        status: of_device(view, record),
        facts: facts.unwrap_or_default(),
        caveats: caveats(view, record, &judge),
        explanations: explanations(view, record, &judge),
    })
}

fn reports(view: &View<'_>, record: &DeviceRecord, release: Option<ReleaseId>, state: Option<DeploymentState>) -> bool {
    let fits = |known: &DeploymentReport| {
        release.is_none_or(|release| release == known.release) && state.is_none_or(|state| state == known.state)
    };
    release.is_none() && state.is_none() || view.deployments(&record.device).iter().any(fits)
}

fn is_meant(query: &MachineQuery, row: &MachineRow, needle: Option<&str>) -> bool {
    query.standing.is_none_or(|standing| standing == row.standing)
        && (!query.silent || row.silent)
        && query.group.as_ref().is_none_or(|group| row.groups.contains(group))
        && query.site.as_ref().is_none_or(|site| *site == row.head.site)
        && needle.is_none_or(|needle| {
            let has = |text: &str| text.to_lowercase().contains(needle);
            has(&row.head.name)
                || has(&row.head.site)
                || row.head.device.to_string().starts_with(needle)
                || row.groups.iter().any(|group| has(group))
                || row.os.as_deref().is_some_and(has)
        })
}

fn sort(rows: &mut [MachineRow], query: &MachineQuery) {
    let name = |row: &MachineRow| (row.head.name.clone(), row.head.device);
    match query.sort {
        SortMachines::Name => rows.sort_by_cached_key(name),
        SortMachines::Site => rows.sort_by_cached_key(|row| (row.head.site.clone(), name(row))),
        SortMachines::Standing => rows.sort_by_cached_key(|row| (row.standing, name(row))),
        SortMachines::Seen => {
            let age = |row: &MachineRow| if row.head.connected { 0 } else { row.head.last_seen_s.unwrap_or(u64::MAX) };
            rows.sort_by_cached_key(|row| (Reverse(age(row)), name(row)));
        }
    }
    if query.descending {
        rows.reverse();
    }
}

pub(super) fn row(view: &View<'_>, record: &DeviceRecord, judged: Judged) -> MachineRow {
    let held = view.inventory(&record.device);
    let said = view.said(&record.device);
    let os = held.and_then(|held| held.inventory.fact(machine::FACT_OS_NAME)).map(str::to_owned);
    MachineRow {
        head: view.head(record),
        role: record.role,
        groups: record.groups.iter().map(|group| view.names.group_name(group)).collect(),
        os: os.or_else(|| said.map(|said| said.os.clone()).filter(|os| !os.is_empty())),
        standing: judged.standing,
        why: judged.why,
        silent: judged.silent,
        pending_restart: held.is_some_and(|held| held.inventory.pending_restart()),
    }
}

/// What limits all that is said of a machine.
fn caveats(view: &View<'_>, record: &DeviceRecord, judge: &Judge<'_, '_>) -> Vec<String> {
    let mut caveats = Vec::new();
    if view.is_revoked(&record.device) {
        caveats.push("It is shut out: it gets nothing and is not listened to.".to_owned());
    } else if view.is_retired(&record.device) {
        caveats.push("It is retired, and comes back into the lists when it reports.".to_owned());
    }
    let Some(said) = view.said(&record.device) else {
        caveats.push("It was let in and has told nothing yet.".to_owned());
        return caveats;
    };
    let age = text::age(Some(view.age(said.received)), "never");
    if judge.is_silent(record) {
        caveats.push(format!("It was last heard of {age} ago; what is said here is from then."));
    }
    if said.papers.assignment < record.assigned {
        caveats.push("It has not said yet that it knows the groups that it is in now.".to_owned());
    }
    if said.index_version < view.catalog.index_version {
        let (has, newest) = (said.index_version, view.catalog.index_version);
        caveats.push(format!(
            "When it last reported, {age} ago, it had index {has} of the catalog; the newest is {newest}."
        ));
    }
    if view.scan(&record.device).is_none() {
        caveats.push("It has not told what it is missing.".to_owned());
    }
    caveats
}

/// Release by release: what the machine reports, and what it needs or has without reporting.
fn explanations(view: &View<'_>, record: &DeviceRecord, judge: &Judge<'_, '_>) -> Vec<Explanation> {
    let mut told: BTreeSet<ReleaseId> = BTreeSet::new();
    let mut all = Vec::new();
    for known in view.deployments(&record.device).iter().filter(|known| judge.is_in_force(known)) {
        told.insert(known.release);
        all.push(deployed(view, record, judge, known));
    }
    for release in view.catalog.releases.iter().filter(|release| !told.contains(&release.release)) {
        all.extend(scanned(view, record, judge, release));
    }
    all.sort_by(|a, b| {
        (a.standing, &a.title, &a.version, &a.release).cmp(&(b.standing, &b.title, &b.version, &b.release))
    });
    all
}

fn deployed(view: &View<'_>, record: &DeviceRecord, judge: &Judge<'_, '_>, known: &DeploymentReport) -> Explanation {
    use DeploymentState as S;
    let what = judge.words(&known.release);
    let group = view.names.group_name(&known.group);
    let standing = match known.state {
        _ if is_bad(known) => Standing::Attention,
        state if is_end(state) => Standing::Current,
        _ => Standing::Pending,
    };
    let says = match known.state {
        S::Installed => format!("{what} is installed."),
        S::Uninstalled => format!("{what} is removed."),
        S::Superseded => format!("A later release makes {what} needless here."),
        S::NotApplicable => format!("{what} does not concern this machine."),
        S::Canceled => format!("The approval of {what} was taken back before it was done."),
        S::Failed => format!("{what} failed here and is not tried again by itself."),
        S::Stalled => format!("{what} makes no progress here, although it should."),
        _ => format!("{what}: {}.", progress(known)),
    };
    let mut because = Vec::new();
    if !known.reason.is_empty() {
        because.push(format!("The machine says: {}", known.reason));
    }
    if let Some(code) = known.code.filter(|_| !is_end(known.state)) {
        because.push(format!("Its recipe ended with exit code {code}."));
    }
    if let Some(next) = known.next_try.filter(|_| !is_end(known.state)) {
        because.push(format!("The machine tries again at {next}, or sooner when something changes."));
    }
    if !is_end(known.state) {
        because.extend(rules(view, record.device, &group, &known.release));
    }
    because.push(format!("It is approved for group {group} (version {}).", known.approval_version));
    let words = Words::of(view, &known.release);
    Explanation {
        release: known.release,
        product: words.product,
        version: words.version,
        title: words.title,
        group: Some(group),
        standing,
        state: format!("{:?}", known.state),
        since_s: Some(view.age(known.since)),
        done: known.done,
        total: known.total,
        says,
        because,
    }
}

/// A release of which the machine has told no deployment; nothing where it is not concerned.
fn scanned(
    view: &View<'_>,
    record: &DeviceRecord,
    judge: &Judge<'_, '_>,
    release: &CatalogRelease,
) -> Option<Explanation> {
    let what = judge.words(&release.release);
    let need = judge.need(record, &release.release);
    let decided = judge.decided(record, &release.release);
    let groups: BTreeMap<_, _> = record.groups.iter().map(|group| (*group, view.names.group_name(group))).collect();
    let deciding = |wants: bool| -> Option<String> {
        let of = |group| view.catalog.approval(group, &release.release);
        let found = groups.iter().find(|(group, _)| {
            of(group).is_some_and(|known| (known.action != upswarm_protocol::catalog::Action::None) == wants)
        });
        found.map(|(_, name)| name.clone())
    };
    let names: Vec<&str> = groups.values().map(String::as_str).collect();
    let mut because = Vec::new();
    let (standing, group, says) = match (need, decided) {
        (Some(ScanState::NotApplicable), _) | (None, Decided::Declined) => return None,
        (None, Decided::Nobody) => {
            because.push("Its last scan is older than this update.".to_owned());
            (Standing::Unknown, None, format!("It has not told whether it needs {what}."))
        }
        (Some(ScanState::Installed), _) => (Standing::Current, None, format!("{what} is installed.")),
        (Some(ScanState::Unknown), _) => {
            because.push("Neither its inventory nor what it told can answer that.".to_owned());
            (Standing::Unknown, None, format!("Nobody knows whether it needs {what}."))
        }
        (Some(ScanState::Required), Decided::Nobody) => {
            let of = if names.is_empty() {
                "it is in no group".to_owned()
            } else {
                format!("it is in: {}", names.join(", "))
            };
            because.push(format!("No group of this machine has an approval of it ({of})."));
            (Standing::Approval, None, format!("It needs {what}, and none of its groups has decided about it."))
        }
        (Some(ScanState::Required), Decided::Declined) => {
            let group = deciding(false);
            if let Some(group) = &group {
                because.push(format!("It is declined for group {group}."));
            }
            (Standing::Exception, group, format!("It would need {what}, and it is declined for this machine."))
        }
        (Some(ScanState::Required) | None, Decided::Approved | Decided::Removed) => {
            let group = deciding(true);
            if let Some(group) = &group {
                because.extend(rules(view, record.device, group, &release.release));
                because.push(format!("It is approved for group {group}."));
            }
            if need.is_none() {
                because.push("The machine has not told whether it needs it.".to_owned());
            }
            (Standing::Pending, group, format!("{what} is approved, and the machine has not said that it has begun."))
        }
    };
    Some(Explanation {
        release: release.release,
        product: release.product.clone(),
        version: release.version.clone(),
        title: release.title.clone(),
        group,
        standing,
        state: match (standing, need) {
            (Standing::Exception, _) => "Declined".to_owned(),
            (_, Some(need)) => format!("{need:?}"),
            (_, None) => "NotTold".to_owned(),
        },
        since_s: None,
        done: 0,
        total: 0,
        says,
        because,
    })
}

/// What the admin has ordered that bears on it: holds, and the machine's ring.
fn rules(view: &View<'_>, device: DeviceId, group: &str, release: &ReleaseId) -> Vec<String> {
    let held = view.holding(group, release);
    let mut rules: Vec<String> = Vec::new();
    if !held.is_empty() {
        rules.push(format!("On hold: {}.", held.join("; ")));
    }
    let rollout =
        view.rollouts().iter().find(|known| known.release == *release && view.names.group_name(&known.group) == group);
    let place = ring_of(device, *release);
    if let Some(rollout) = rollout.filter(|rollout| rollout.rings.len() > 1 || rollout.left_out > 0) {
        match rollout.rings.iter().enumerate().find(|(_, ring)| place < ring.up_to) {
            Some((at, ring)) if ring.begins > view.now => {
                rules.push(format!("It is in ring {}, which begins at {}.", at + 1, ring.begins));
            }
            Some((at, _)) => rules.push(format!("It is in ring {}, which has begun.", at + 1)),
            None => rules.push("The rings of the rollout leave this machine out.".to_owned()),
        }
        if rollout.held && held.is_empty() {
            rules.push("The rollout has stopped by itself.".to_owned());
        }
    }
    rules
}

/// A release's names, which a release that is gone has no more.
struct Words {
    product: String,
    version: String,
    title: String,
}

impl Words {
    fn of(view: &View<'_>, release: &ReleaseId) -> Self {
        match view.catalog.release(release) {
            Some(known) => {
                Self { product: known.product.clone(), version: known.version.clone(), title: known.title.clone() }
            }
            None => Self { product: release.short(), version: String::new(), title: String::new() },
        }
    }
}
