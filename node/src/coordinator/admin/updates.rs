//! What the fleet misses of its repositories, by source package, as inventories and the newest snapshots tell it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::coordinator::{DeviceRecord, Refusal};
use upswarm_protocol::version;

use super::View;
use crate::api::proposals::{UpdateRow, Updates, UpdatesQuery};
use crate::coordinator::repositories::fleet::{self, Installed, Offer};
use crate::coordinator::repositories::{Repositories, snapshot};

/// What is installed somewhere, and on which of the devices, by their place in a list.
type Installs = BTreeMap<Installed, Vec<usize>>;

/// The newest snapshot of a repository, with the devices that it is for.
struct Offered {
    upstream: String,
    snapshot: String,
    offer: Offer,
    fitting: BTreeSet<usize>,
}

/// A source package that is older somewhere.
#[derive(Default)]
struct Missing<'a> {
    to: &'a str,
    from: BTreeSet<&'a str>,
    packages: BTreeSet<&'a str>,
    devices: BTreeSet<usize>,
}

/// Source packages that are older somewhere, with the repository (its place among those offered) that has the newest for those
/// machines: where several have it, one counts, the first of the newest, as apt has it too.
fn missing<'a>(
    installs: &'a Installs,
    offered: &'a [Offered],
    only: Option<&str>,
) -> BTreeMap<(&'a str, usize), Missing<'a>> {
    let newer = |installed: &'a Installed| {
        offered.iter().enumerate().filter_map(move |(from, offered)| {
            let newer = offered.offer.newer(installed)?;
            only.is_none_or(|only| only == newer.source).then_some((from, offered, newer))
        })
    };
    // Of each source package, by device: where the newest is.
    let mut newest: BTreeMap<&str, BTreeMap<usize, (usize, &str)>> = BTreeMap::new();
    for (installed, on) in installs {
        for (from, offered, newer) in newer(installed) {
            let of_source = newest.entry(&newer.source).or_default();
            for at in on.iter().filter(|at| offered.fitting.contains(at)) {
                let known = of_source.entry(*at).or_insert((from, &newer.version));
                if version::compare(PackageKind::Deb, known.1, &newer.version).is_lt() {
                    *known = (from, &newer.version);
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
                if version::compare(PackageKind::Deb, row.to, to).is_lt() {
                    row.to = to;
                }
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
    let devices = told(view, query.group.as_deref())?;
    let mut installs = Installs::new();
    for (at, record) in devices.iter().enumerate() {
        let Some(held) = view.inventory(&record.device) else { continue };
        for one in fleet::state(&held.inventory) {
            installs.entry(one).or_default().push(at);
        }
    }
    let names: BTreeSet<String> = installs.keys().map(|one| one.name.clone()).collect();
    let upstreams = match &query.upstream {
        Some(name) => vec![name.clone()],
        None => repositories.names(),
    };
    let mut offered = Vec::new();
    for name in upstreams {
        let upstream = repositories.upstream(&name)?;
        let Some(newest) = snapshot::all(&upstream.dir).pop() else { continue };
        let offer = Offer::read(&newest, &upstream.description, Some(&names));
        let offer = offer.map_err(|error| Refusal::Request(format!("{error:#}")))?;
        let is_for = |at: &usize| {
            let held = devices.get(*at).and_then(|record| view.inventory(&record.device));
            held.is_some_and(|held| fleet::is_for(&newest.facts, &held.inventory))
        };
        let fitting = (0..devices.len()).filter(is_for).collect();
        offered.push(Offered { upstream: name, snapshot: newest.version(), offer, fitting });
    }
    let named = |at: &usize| devices.get(*at).map(|record| view.named(record));
    let mut updates: Vec<UpdateRow> = missing(&installs, &offered, query.source.as_deref())
        .into_iter()
        .filter_map(|((source, from), missing)| {
            let offered = offered.get(from)?;
            let mut from: Vec<String> = missing.from.into_iter().map(str::to_owned).collect();
            from.sort_by(|a, b| version::compare(PackageKind::Deb, a, b));
            Some(UpdateRow {
                upstream: offered.upstream.clone(),
                snapshot: offered.snapshot.clone(),
                source: source.to_owned(),
                from,
                to: missing.to.to_owned(),
                packages: missing.packages.into_iter().map(str::to_owned).collect(),
                machines: missing.devices.len(),
                severity: None,
                cves: Vec::new(),
                devices: query.source.iter().flat_map(|_| missing.devices.iter().filter_map(named)).collect(),
            })
        })
        .collect();
    updates.sort_by_key(|row| (Reverse(row.machines), row.source.clone(), row.upstream.clone()));
    Ok(Updates { machines: devices.len(), updates })
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
    use crate::upstream::packages::Package;

    fn offered(upstream: &str, packages: &[(&str, &str, &str)], fitting: &[usize]) -> Offered {
        let package = |(name, source, version): &(&str, &str, &str)| Package {
            name: (*name).to_owned(),
            source: (*source).to_owned(),
            version: (*version).to_owned(),
            arch: "amd64".to_owned(),
            ..Package::default()
        };
        Offered {
            upstream: upstream.to_owned(),
            snapshot: "1".to_owned(),
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
        let rows = missing(&installs, &offered, None);
        let shown: Vec<_> = rows
            .iter()
            .map(|((source, from), row)| (*source, *from, row.to, row.packages.len(), row.devices.len()))
            .collect();
        assert_eq!(shown, [("openssl", 1, "3.0.15", 3, 2), ("openssl", 2, "3.5", 1, 1)]);
        assert!(missing(&installs, &offered, Some("curl")).is_empty());
        assert_eq!(missing(&installs, &offered[..1], Some("openssl")).len(), 1);
    }
}
