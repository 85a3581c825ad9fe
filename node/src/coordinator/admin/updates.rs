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

/// A source package that is older somewhere.
#[derive(Default)]
struct Missing {
    to: String,
    from: BTreeSet<String>,
    packages: BTreeSet<String>,
    devices: BTreeSet<usize>,
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
    let mut updates = Vec::new();
    for name in upstreams {
        let upstream = repositories.upstream(&name)?;
        let Some(newest) = snapshot::all(&upstream.dir).pop() else { continue };
        let offer = Offer::read(&newest, &upstream.description, Some(&names));
        let offer = offer.map_err(|error| Refusal::Request(format!("{error:#}")))?;
        let is_for = |at: &usize| {
            let held = devices.get(*at).and_then(|record| view.inventory(&record.device));
            held.is_some_and(|held| fleet::is_for(&newest.facts, &held.inventory))
        };
        let fitting: BTreeSet<usize> = (0..devices.len()).filter(is_for).collect();
        let mut by_source: BTreeMap<String, Missing> = BTreeMap::new();
        for (installed, on) in &installs {
            let Some(newer) = offer.newer(installed) else { continue };
            let mut on = on.iter().filter(|at| fitting.contains(at)).peekable();
            if on.peek().is_none() || query.source.as_ref().is_some_and(|source| *source != newer.source) {
                continue;
            }
            let missing = by_source.entry(newer.source.clone()).or_default();
            if version::compare(PackageKind::Deb, &missing.to, &newer.version).is_lt() {
                missing.to.clone_from(&newer.version);
            }
            missing.from.insert(installed.version.clone());
            missing.packages.insert(installed.name.clone());
            missing.devices.extend(on);
        }
        updates.extend(by_source.into_iter().map(|(source, missing)| {
            let mut from: Vec<String> = missing.from.into_iter().collect();
            from.sort_by(|a, b| version::compare(PackageKind::Deb, a, b));
            let named = missing.devices.iter().filter_map(|at| devices.get(*at)).map(|record| view.named(record));
            UpdateRow {
                upstream: name.clone(),
                snapshot: newest.version(),
                source,
                from,
                to: missing.to,
                packages: missing.packages.into_iter().collect(),
                machines: missing.devices.len(),
                severity: None,
                cves: Vec::new(),
                devices: if query.source.is_some() { named.collect() } else { Vec::new() },
            }
        }));
    }
    updates.sort_by_key(|row| (Reverse(row.machines), row.source.clone(), row.upstream.clone()));
    Ok(Updates { machines: devices.len(), updates })
}

/// Machines that have told their inventory, of one group or of all.
pub(super) fn told<'a>(view: &View<'a>, group: Option<&str>) -> Result<Vec<&'a DeviceRecord>, Refusal> {
    let group = group.map(|name| view.catalog.group_named(name)).transpose().map_err(Refusal::Request)?;
    let of = view.devices().filter(|record| group.is_none_or(|group| record.groups.contains(&group)));
    Ok(of.filter(|record| view.inventory(&record.device).is_some()).collect())
}
