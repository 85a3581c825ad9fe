//! What the fleet misses of its repositories, by source package, as inventories and the newest snapshots tell it, and what feeds
//! say of that.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use upswarm_protocol::catalog::{PackageKind, Severity};
use upswarm_protocol::coordinator::{DeviceRecord, Refusal};
use upswarm_protocol::version;

use super::View;
use crate::api::feeds::{Verdict, VerdictRow};
use crate::api::proposals::{UpdateRow, Updates, UpdatesQuery};
use crate::clock;
use crate::coordinator::repositories::feeds::advisories::{Advisories, Judged};
use crate::coordinator::repositories::fleet::{self, Installed, Offer};
use crate::coordinator::repositories::snapshot::{self, Snapshot};
use crate::coordinator::repositories::{Repositories, feeds};
use crate::upstream::UpstreamDescription;
use crate::upstream::packages::Package;

/// What is installed somewhere, and on which of the devices, by their place in a list.
type Installs = BTreeMap<Installed, Vec<usize>>;

/// A source package that is older somewhere.
#[derive(Default)]
struct Missing {
    to: String,
    /// The source package's own version there.
    source_version: String,
    from: BTreeSet<String>,
    /// The source package's own versions that are installed, as far as they are known.
    source_from: BTreeSet<String>,
    packages: BTreeSet<String>,
    devices: BTreeSet<usize>,
}

/// Machines of which it is known what is installed.
pub(super) struct Told<'a> {
    devices: Vec<&'a DeviceRecord>,
    installs: Installs,
}

impl<'a> Told<'a> {
    /// Those of one group or of all.
    pub(super) fn of(view: &View<'a>, group: Option<&str>) -> Result<Self, Refusal> {
        let devices = told(view, group)?;
        let mut installs = Installs::new();
        for (at, record) in devices.iter().enumerate() {
            let Some(held) = view.inventory(&record.device) else { continue };
            for one in fleet::state(&held.inventory) {
                installs.entry(one).or_default().push(at);
            }
        }
        Ok(Self { devices, installs })
    }

    /// Names of everything that is installed.
    fn names(&self) -> BTreeSet<String> {
        self.installs.keys().map(|one| one.name.clone()).collect()
    }

    /// Which of them a snapshot is for.
    fn fitting(&self, view: &View<'_>, snapshot: &Snapshot) -> BTreeSet<usize> {
        let is_for = |(at, record): (usize, &&DeviceRecord)| {
            let held = view.inventory(&record.device)?;
            fleet::is_for(&snapshot.facts, &held.inventory).then_some(at)
        };
        self.devices.iter().enumerate().filter_map(is_for).collect()
    }
}

/// Every source package of which a machine has an earlier version. Reads the indexes: for a whole distribution, some seconds.
pub(crate) fn updates(view: &View<'_>, repositories: &Repositories, query: &UpdatesQuery) -> Result<Updates, Refusal> {
    let told = Told::of(view, query.group.as_deref())?;
    let upstreams = match &query.upstream {
        Some(name) => vec![name.clone()],
        None => repositories.names(),
    };
    let (mut updates, mut verdicts) = (Vec::new(), Verdicts::new());
    for name in upstreams {
        let upstream = repositories.upstream(&name)?;
        let Some(newest) = snapshot::all(&upstream.dir).pop() else { continue };
        let read = Read::new(view, &told, repositories, &upstream.description, &newest)?;
        updates.extend(read.rows(view, query.source.as_deref()));
        if let Some(cve) = &query.cve {
            read.verdicts(cve, &mut verdicts);
        }
    }
    if let Some(cve) = &query.cve {
        updates.retain(|row| row.cves.contains(cve));
    }
    let mut unknown = 0;
    if let Some(least) = query.severity {
        unknown = updates.iter().filter(|row| is_unknown(row)).count();
        updates.retain(|row| row.severity.is_some_and(|severity| severity >= least));
    }
    updates.sort_by_key(|row| (Reverse(row.severity), Reverse(row.machines), row.source.clone(), row.upstream.clone()));
    Ok(Updates {
        machines: told.devices.len(),
        updates,
        unknown,
        verdicts: shown(view, &told, verdicts),
        warnings: warnings(repositories, query),
    })
}

/// What a snapshot offers a group of the fleet, the worst first.
pub(crate) fn offered(
    view: &View<'_>,
    repositories: &Repositories,
    group: &str,
    description: &UpstreamDescription,
    snapshot: &Snapshot,
) -> Result<Vec<UpdateRow>, Refusal> {
    let told = Told::of(view, Some(group))?;
    let mut rows = Read::new(view, &told, repositories, description, snapshot)?.rows(view, None);
    rows.sort_by_key(|row| (Reverse(row.severity), row.source.clone()));
    Ok(rows)
}

/// Whether nobody has said how bad it is to be without it.
pub(super) fn is_unknown(row: &UpdateRow) -> bool {
    row.severity.is_none_or(|severity| severity == Severity::Unspecified)
}

/// A snapshot beside what machines have, and what feeds say of that.
struct Read<'a> {
    told: &'a Told<'a>,
    upstream: &'a str,
    snapshot: &'a Snapshot,
    offer: Offer,
    advisories: Advisories,
    fitting: BTreeSet<usize>,
}

impl<'a> Read<'a> {
    fn new(
        view: &View<'_>,
        told: &'a Told<'a>,
        repositories: &Repositories,
        description: &'a UpstreamDescription,
        snapshot: &'a Snapshot,
    ) -> Result<Self, Refusal> {
        let refused = |error: anyhow::Error| Refusal::Request(format!("{error:#}"));
        let names = told.names();
        let offer = Offer::read(snapshot, description, Some(&names)).map_err(refused)?;
        let sources = names.iter().flat_map(|name| offer.named(name)).map(|package| package.source.clone()).collect();
        let advisories = repositories.feeds().read(&sources).map_err(refused)?;
        let fitting = told.fitting(view, snapshot);
        Ok(Self { told, upstream: &description.name, snapshot, offer, advisories, fitting })
    }

    /// Of every source package, or of one.
    fn rows(&self, view: &View<'_>, source: Option<&str>) -> Vec<UpdateRow> {
        let mut by_source: BTreeMap<String, Missing> = BTreeMap::new();
        for (installed, on) in &self.told.installs {
            let Some(newer) = self.offer.newer(installed) else { continue };
            let mut on = on.iter().filter(|at| self.fitting.contains(at)).peekable();
            if on.peek().is_none() || source.is_some_and(|source| *source != newer.source) {
                continue;
            }
            let missing = by_source.entry(newer.source.clone()).or_default();
            if version::compare(PackageKind::Deb, &missing.to, &newer.version).is_lt() {
                missing.to.clone_from(&newer.version);
                missing.source_version.clone_from(&newer.source_version);
            }
            missing.source_from.extend(source_version(&self.offer, installed, newer));
            missing.from.insert(installed.version.clone());
            missing.packages.insert(installed.name.clone());
            missing.devices.extend(on);
        }
        let (release, ages, now) = (self.snapshot.distribution(), self.snapshot.sources(), clock::wall());
        let rows = by_source.into_iter().map(|(name, missing)| {
            let mut from: Vec<String> = missing.from.into_iter().collect();
            from.sort_by(|a, b| version::compare(PackageKind::Deb, a, b));
            let named =
                missing.devices.iter().filter_map(|at| self.told.devices.get(*at)).map(|record| view.named(record));
            let versions = missing.source_from.iter().map(String::as_str);
            let mended = self.advisories.mended(&name, &release, versions, &missing.source_version);
            UpdateRow {
                upstream: self.upstream.to_owned(),
                snapshot: self.snapshot.version(),
                from,
                to: missing.to,
                packages: missing.packages.into_iter().collect(),
                machines: missing.devices.len(),
                severity: mended.severity,
                cves: mended.cves.into_iter().collect(),
                age_s: ages.get(&name).map(|known| now.since(known.since).as_secs()),
                devices: if source.is_some() { named.collect() } else { Vec::new() },
                source: name,
            }
        });
        rows.collect()
    }

    /// What feeds say of a CVE for everything that is installed, older or not.
    fn verdicts(&self, cve: &str, found: &mut Verdicts) {
        let release = self.snapshot.distribution();
        for (installed, on) in &self.told.installs {
            let Some(package) = self.offer.fitting(installed) else { continue };
            let on: Vec<usize> = on.iter().copied().filter(|at| self.fitting.contains(at)).collect();
            if on.is_empty() {
                continue;
            }
            let version = source_version(&self.offer, installed, package);
            let judged = match &version {
                Some(version) => self.advisories.about(&package.source, &release, version).remove(cve),
                // Something is said of the package; which version it is, nobody knows.
                None => self
                    .advisories
                    .about(&package.source, &release, &installed.version)
                    .remove(cve)
                    .map(|known| Judged { severity: known.severity, verdict: Verdict::Unknown }),
            };
            let Some(judged) = judged else { continue };
            let version = version.unwrap_or_else(|| installed.version.clone());
            let key = (package.source.clone(), release.name(), version);
            found.entry(key).or_insert_with(|| (judged, BTreeSet::new())).1.extend(on);
        }
    }
}

/// What is said of a CVE, by source package, release and version, and the devices that have that.
type Verdicts = BTreeMap<(String, String, String), (Judged, BTreeSet<usize>)>;

fn shown(view: &View<'_>, told: &Told<'_>, verdicts: Verdicts) -> Vec<VerdictRow> {
    let row = |((source, release, version), (judged, on)): (_, (Judged, BTreeSet<usize>))| VerdictRow {
        source,
        release,
        version,
        severity: judged.severity,
        verdict: judged.verdict,
        machines: on.len(),
        devices: on.iter().filter_map(|at| told.devices.get(*at)).map(|record| view.named(record)).collect(),
    };
    verdicts.into_iter().map(row).collect()
}

/// The version of the source package that an installed package was built from. Indexes say it of the packages that they name; of
/// others it follows from the package's own where the two are counted alike.
fn source_version(offer: &Offer, installed: &Installed, of: &Package) -> Option<String> {
    if let Some(named) = offer.exactly(&installed.name, &installed.version, &installed.arch) {
        return Some(named.source_version.clone());
    }
    let alike = without_rebuild(&of.version) == of.source_version;
    alike.then(|| without_rebuild(&installed.version).to_owned())
}

/// A version without the mark that it was only built again: `1.0-1+b2` is of the source package 1.0-1.
fn without_rebuild(version: &str) -> &str {
    let rebuilt = version.rsplit_once("+b").filter(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
    rebuilt.filter(|(_, number)| !number.is_empty()).map_or(version, |(before, _)| before)
}

/// What is to be known of the feeds that the answer rests on.
fn warnings(repositories: &Repositories, query: &UpdatesQuery) -> Vec<String> {
    let (feeds, now) = (repositories.feeds().all(), clock::wall());
    if feeds.is_empty() {
        let asked = query.severity.is_some() || query.cve.is_some();
        let none = "no feed of advisories is there, so nothing is known of severities and CVEs; add one with: upswarm sync feed add";
        return if asked { vec![none.to_owned()] } else { Vec::new() };
    }
    let warn = |feed: &feeds::Feed| {
        let state = feed.state();
        let since = state.last_success.map(|last| now.since(last));
        let error = state.error.map_or_else(String::new, |error| format!(": {error}"));
        match since {
            None => Some(format!("the feed {} has not been read yet{error}", feed.name)),
            Some(since) if since > feeds::OLD => {
                Some(format!("what the feed {} says is {} days old{error}", feed.name, since.as_secs() / 86_400))
            }
            Some(_) => None,
        }
    };
    feeds.iter().filter_map(warn).collect()
}

/// Machines that have told their inventory, of one group or of all.
pub(super) fn told<'a>(view: &View<'a>, group: Option<&str>) -> Result<Vec<&'a DeviceRecord>, Refusal> {
    let group = group.map(|name| view.catalog.group_named(name)).transpose().map_err(Refusal::Request)?;
    let of = view.devices().filter(|record| group.is_none_or(|group| record.groups.contains(&group)));
    Ok(of.filter(|record| view.inventory(&record.device).is_some()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuild_is_of_the_same_source_package() {
        for (version, of) in [
            ("1.0-1+b2", "1.0-1"),
            ("1.0-1", "1.0-1"),
            ("1:2+b1-3+b10", "1:2+b1-3"),
            ("1.0+beta-1", "1.0+beta-1"),
            ("1.0+b", "1.0+b"),
        ] {
            assert_eq!(without_rebuild(version), of);
        }
    }
}
