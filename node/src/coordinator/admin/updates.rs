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
use crate::api::reports::VulnerableCve;
use crate::clock;
use crate::coordinator::repositories::feeds::advisories::{Advisories, Judged};
use crate::coordinator::repositories::fleet::{self, Installed, Offer};
use crate::coordinator::repositories::snapshot::{self, Snapshot};
use crate::coordinator::repositories::{Repositories, feeds};
use crate::upstream::UpstreamDescription;
use crate::upstream::packages::Package;

/// What is installed somewhere, and on which of the devices, by their place in a list.
type Installs = BTreeMap<Installed, Vec<usize>>;

/// The newest snapshot of a repository, with the devices that it is for.
struct Offered {
    upstream: String,
    offer: Offer,
    fitting: BTreeSet<usize>,
}

/// A source package that is older somewhere.
#[derive(Default)]
struct Missing<'a> {
    to: &'a str,
    /// The source package's own version there.
    source_version: &'a str,
    from: BTreeSet<&'a str>,
    /// The source package's own versions that are installed, as far as they are known.
    source_from: BTreeSet<String>,
    packages: BTreeSet<&'a str>,
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

/// Source packages that are older somewhere, with the repository (its place among those offered) that has the newest for those
/// machines: where several have it, one counts, the first of the newest, as apt has it too.
fn missing<'a>(
    installs: &'a Installs,
    offered: &[&'a Offered],
    only: Option<&str>,
) -> BTreeMap<(&'a str, usize), Missing<'a>> {
    let newer = |installed: &'a Installed| {
        offered.iter().enumerate().filter_map(move |(from, offered)| {
            let newer = offered.offer.newer(installed)?;
            only.is_none_or(|only| only == newer.source).then_some((from, *offered, newer))
        })
    };
    // Of each source package, by device: where the newest is.
    let mut newest: BTreeMap<&str, BTreeMap<usize, (usize, &Package)>> = BTreeMap::new();
    for (installed, on) in installs {
        for (from, offered, newer) in newer(installed) {
            let of_source = newest.entry(&newer.source).or_default();
            for at in on.iter().filter(|at| offered.fitting.contains(at)) {
                let known = of_source.entry(*at).or_insert((from, newer));
                if version::compare(PackageKind::Deb, &known.1.version, &newer.version).is_lt() {
                    *known = (from, newer);
                }
            }
        }
    }
    let mut rows: BTreeMap<(&str, usize), Missing<'_>> = BTreeMap::new();
    for (installed, on) in installs {
        for (_, offered, newer) in newer(installed) {
            let Some(of_source) = newest.get(newer.source.as_str()) else { continue };
            for at in on.iter().filter(|at| offered.fitting.contains(at)) {
                let Some((from, to)) = of_source.get(at) else { continue };
                let row = rows.entry((&newer.source, *from)).or_default();
                if version::compare(PackageKind::Deb, row.to, &to.version).is_lt() {
                    (row.to, row.source_version) = (&to.version, &to.source_version);
                }
                row.source_from.extend(source_version(&offered.offer, installed, newer));
                row.from.insert(&installed.version);
                row.packages.insert(&installed.name);
                row.devices.insert(*at);
            }
        }
    }
    rows
}

/// Every source package of which a machine has an earlier version. Reads the indexes: for a whole distribution, some seconds.
pub(crate) fn updates(view: &View<'_>, repositories: &Repositories, query: &UpdatesQuery) -> Result<Updates, Refusal> {
    let told = Told::of(view, query.group.as_deref())?;
    let upstreams = match &query.upstream {
        Some(name) => vec![name.clone()],
        None => repositories.names(),
    };
    let mut reads = Vec::new();
    for name in upstreams {
        let upstream = repositories.upstream(&name)?;
        let Some(newest) = snapshot::all(&upstream.dir).pop() else { continue };
        reads.push(Read::new(view, &told, repositories, &upstream.description, newest)?);
    }
    let mut updates = rows(view, &told, &reads, query.source.as_deref());
    let mut verdicts = Verdicts::new();
    if let Some(cve) = &query.cve {
        reads.iter().for_each(|read| read.verdicts(cve, &told, &mut verdicts));
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
    let read = Read::new(view, &told, repositories, description, snapshot.clone())?;
    let mut rows = rows(view, &told, &[read], None);
    rows.sort_by_key(|row| (Reverse(row.severity), row.source.clone()));
    Ok(rows)
}

/// Whether nobody has said how bad it is to be without it.
pub(super) fn is_unknown(row: &UpdateRow) -> bool {
    row.severity.is_none_or(|severity| severity == Severity::Unspecified)
}

/// A snapshot beside what machines have, and what feeds say of that.
struct Read {
    offered: Offered,
    snapshot: Snapshot,
    advisories: Advisories,
}

impl Read {
    fn new(
        view: &View<'_>,
        told: &Told<'_>,
        repositories: &Repositories,
        description: &UpstreamDescription,
        snapshot: Snapshot,
    ) -> Result<Self, Refusal> {
        let refused = |error: anyhow::Error| Refusal::Request(format!("{error:#}"));
        let names = told.names();
        let offer = Offer::read(&snapshot, description, Some(&names)).map_err(refused)?;
        let sources = names.iter().flat_map(|name| offer.named(name)).map(|package| package.source.clone()).collect();
        let advisories = repositories.feeds().read(&sources).map_err(refused)?;
        let fitting = told.fitting(view, &snapshot);
        let offered = Offered { upstream: description.name.clone(), offer, fitting };
        Ok(Self { offered, snapshot, advisories })
    }

    /// Every version of a source package that is installed, with the machines that have it, and whether it is exactly this one.
    fn versions(&self, told: &Told<'_>) -> BTreeMap<(String, String, bool), BTreeSet<usize>> {
        let Offered { offer, fitting, .. } = &self.offered;
        let mut versions: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
        for (installed, on) in &told.installs {
            let Some(package) = offer.fitting(installed) else { continue };
            let mut on = on.iter().copied().filter(|at| fitting.contains(at)).peekable();
            if on.peek().is_none() {
                continue;
            }
            let exact = source_version(offer, installed, package);
            let is_exact = exact.is_some();
            let version = exact.unwrap_or_else(|| installed.version.clone());
            versions.entry((package.source.clone(), version, is_exact)).or_default().extend(on);
        }
        versions
    }

    /// What feeds say of a CVE for everything that is installed, older or not.
    fn verdicts(&self, cve: &str, told: &Told<'_>, found: &mut Verdicts) {
        let release = self.snapshot.distribution();
        let Offered { offer, fitting, .. } = &self.offered;
        for (installed, on) in &told.installs {
            let Some(package) = offer.fitting(installed) else { continue };
            let on: Vec<usize> = on.iter().copied().filter(|at| fitting.contains(at)).collect();
            if on.is_empty() {
                continue;
            }
            let version = source_version(offer, installed, package);
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

/// What feeds say against what is installed.
pub(super) struct Found {
    /// Machines that have told what is installed, and those of them for which nothing can be said: no snapshot is for them, or no feed
    /// is there.
    pub(super) devices: usize,
    pub(super) unjudged: usize,
    pub(super) cves: Vec<VulnerableCve>,
    pub(super) warnings: Vec<String>,
}

/// Machines that are vulnerable, by CVE, the worst first.
pub(super) fn vulnerable(view: &View<'_>, repositories: &Repositories, group: Option<&str>) -> Result<Found, Refusal> {
    #[derive(Default)]
    struct Of {
        severity: Option<Severity>,
        sources: BTreeSet<String>,
        devices: BTreeSet<usize>,
        undetermined: BTreeSet<usize>,
        mendable: BTreeSet<usize>,
    }
    let told = Told::of(view, group)?;
    let (mut cves, mut judged): (BTreeMap<String, Of>, BTreeSet<usize>) = Default::default();
    for name in repositories.names() {
        let upstream = repositories.upstream(&name)?;
        let Some(newest) = snapshot::all(&upstream.dir).pop() else { continue };
        let read = Read::new(view, &told, repositories, &upstream.description, newest)?;
        judged.extend(&read.offered.fitting);
        for ((source, version, is_exact), on) in read.versions(&told) {
            for (cve, said) in read.advisories.about(&source, &read.snapshot.distribution(), &version) {
                let known = cves.entry(cve.to_owned()).or_default();
                match said.verdict {
                    Verdict::Vulnerable { fixed } if is_exact => {
                        known.devices.extend(&on);
                        known.mendable.extend(fixed.iter().flat_map(|_| &on));
                    }
                    Verdict::EndOfLife if is_exact => known.devices.extend(&on),
                    // Which version it is, or what the feed's people think of it, nobody knows.
                    Verdict::Vulnerable { .. } | Verdict::EndOfLife | Verdict::Undetermined | Verdict::Unknown => {
                        known.undetermined.extend(&on);
                    }
                    Verdict::Fixed { .. } | Verdict::NotAffected | Verdict::Unimportant => continue,
                }
                known.severity = known.severity.max(Some(said.severity));
                known.sources.insert(source.clone());
            }
        }
    }
    let row = |(cve, of): (String, Of)| VulnerableCve {
        cve,
        severity: of.severity.unwrap_or(Severity::Unspecified),
        sources: of.sources.into_iter().collect(),
        devices: of.devices.len(),
        undetermined: of.undetermined.difference(&of.devices).count(),
        mendable: of.mendable.len(),
    };
    let there = |row: &VulnerableCve| row.devices + row.undetermined > 0;
    let mut cves: Vec<VulnerableCve> = cves.into_iter().map(row).filter(there).collect();
    cves.sort_by_key(|row| (Reverse(row.severity), Reverse(row.devices), Reverse(row.undetermined), row.cve.clone()));
    let no_feed = repositories.feeds().all().is_empty();
    let devices = told.devices.len();
    let asked = UpdatesQuery { severity: Some(Severity::Unspecified), ..UpdatesQuery::default() };
    Ok(Found {
        devices,
        unjudged: if no_feed { devices } else { devices - judged.len() },
        cves,
        warnings: warnings(repositories, &asked),
    })
}

/// Every source package that is older somewhere, or one, with what feeds say of the update.
fn rows(view: &View<'_>, told: &Told<'_>, reads: &[Read], source: Option<&str>) -> Vec<UpdateRow> {
    let offered: Vec<&Offered> = reads.iter().map(|read| &read.offered).collect();
    let of: Vec<_> = reads.iter().map(|read| (read.snapshot.distribution(), read.snapshot.sources())).collect();
    let (now, named) = (clock::wall(), |at: &usize| told.devices.get(*at).map(|record| view.named(record)));
    let row = |((name, from), missing): ((&str, usize), Missing<'_>)| {
        let (read, (release, ages)) = (reads.get(from)?, of.get(from)?);
        let mut from: Vec<String> = missing.from.into_iter().map(str::to_owned).collect();
        from.sort_by(|a, b| version::compare(PackageKind::Deb, a, b));
        let versions = missing.source_from.iter().map(String::as_str);
        let mended = read.advisories.mended(name, release, versions, missing.source_version);
        Some(UpdateRow {
            upstream: read.offered.upstream.clone(),
            snapshot: read.snapshot.version(),
            source: name.to_owned(),
            from,
            to: missing.to.to_owned(),
            packages: missing.packages.into_iter().map(str::to_owned).collect(),
            machines: missing.devices.len(),
            severity: mended.severity,
            cves: mended.cves.into_iter().collect(),
            age_s: ages.get(name).map(|known| now.since(known.since).as_secs()),
            devices: source.iter().flat_map(|_| missing.devices.iter().filter_map(named)).collect(),
        })
    };
    missing(&told.installs, &offered, source).into_iter().filter_map(row).collect()
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

    fn offered(upstream: &str, packages: &[(&str, &str, &str)], fitting: &[usize]) -> Offered {
        let package = |(name, source, version): &(&str, &str, &str)| Package {
            name: (*name).to_owned(),
            source: (*source).to_owned(),
            version: (*version).to_owned(),
            source_version: format!("source of {version}"),
            arch: "amd64".to_owned(),
            ..Package::default()
        };
        Offered {
            upstream: upstream.to_owned(),
            offer: Offer::of(packages.iter().map(package)),
            fitting: fitting.iter().copied().collect(),
        }
    }

    /// Debian and its security repository both have a newer openssl; a machine of another release takes another one.
    #[test]
    fn a_source_that_several_repositories_have_is_one_row() {
        let installed = |name: &str, version: &str| Installed {
            name: name.to_owned(),
            arch: "amd64".to_owned(),
            version: version.to_owned(),
        };
        let installs = Installs::from([
            (installed("libssl3", "3.0.9"), vec![0, 1, 2]),
            (installed("openssl", "3.0.8"), vec![0]),
            (installed("openssl-doc", "3.0.9"), vec![1]),
        ]);
        let offered = [
            offered("debian", &["libssl3", "openssl", "openssl-doc"].map(|name| (name, "openssl", "3.0.11")), &[0, 1]),
            offered("debian-security", &["libssl3", "openssl"].map(|name| (name, "openssl", "3.0.15")), &[0, 1]),
            offered("trixie", &[("libssl3", "openssl", "3.5")], &[2]),
        ];
        let offered: Vec<&Offered> = offered.iter().collect();
        let rows = missing(&installs, &offered, None);
        let shown: Vec<_> = rows
            .iter()
            .map(|((source, from), row)| (*source, *from, row.to, row.packages.len(), row.devices.len()))
            .collect();
        assert_eq!(shown, [("openssl", 1, "3.0.15", 3, 2), ("openssl", 2, "3.5", 1, 1)]);
        let versions: Vec<_> = rows.values().map(|row| row.source_version).collect();
        assert_eq!(versions, ["source of 3.0.15", "source of 3.5"]);
        assert!(missing(&installs, &offered, Some("curl")).is_empty());
        assert_eq!(missing(&installs, &offered[..1], Some("openssl")).len(), 1);
    }

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
