//! What machines have of a snapshot's packages: which of them are older, by source package, and which machines are alike.
//! Owns that comparison; knows no device and no group.

use std::collections::{BTreeMap, BTreeSet};

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::inventory::{FACT_OS_ID, FACT_OS_VERSION, SharedInventory};
use upswarm_protocol::version;

use super::snapshot::{Facts, Snapshot};
use crate::upstream::packages::{self, Package};
use crate::upstream::{UpstreamDescription, is_architecture};

/// Distributions whose packages are for their own releases alone.
const DISTRIBUTIONS: [&str; 2] = ["debian", "ubuntu"];

/// An installed Debian package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Installed {
    pub(crate) name: String,
    pub(crate) arch: String,
    pub(crate) version: String,
}

/// What is installed on a machine, in order.
pub(crate) type State = Vec<Installed>;

/// The Debian packages of an inventory. It is a member's word, and goes into files that apt reads here: what no package of Debian is
/// called is left out.
pub(crate) fn state(inventory: &SharedInventory) -> State {
    let inventory = inventory.to_inventory();
    let debs = inventory.packages().iter().filter(|(key, _)| key.kind == PackageKind::Deb);
    let of = debs.flat_map(|(key, versions)| {
        versions.iter().map(|version| Installed {
            name: key.name.to_string(),
            arch: key.arch.to_string(),
            version: version.to_string(),
        })
    });
    let is_of_debian = |one: &Installed| {
        packages::is_name(&one.name) && packages::is_version(&one.version) && is_architecture(&one.arch)
    };
    of.filter(is_of_debian).collect()
}

/// Whether a snapshot is for a machine: one of Debian or Ubuntu is for the machines of that release, any other for all.
pub(crate) fn is_for(facts: &Facts, inventory: &SharedInventory) -> bool {
    let origin = facts.origin.to_ascii_lowercase();
    if !DISTRIBUTIONS.contains(&origin.as_str()) {
        return true;
    }
    let (id, release) = (inventory.fact(FACT_OS_ID), inventory.fact(FACT_OS_VERSION));
    let within = |release: &str| {
        facts.version.is_empty()
            || facts.version == release
            || facts.version.strip_prefix(release).is_some_and(|rest| rest.starts_with('.'))
    };
    id == Some(origin.as_str()) && release.is_none_or(within)
}

/// Whether an installed package is one of these states'. What is newer than all of them, somebody else has built.
pub(crate) fn came_from(installed: &Installed, states: &[&Offer]) -> bool {
    let is_it = |offer: &&Offer| offer.exactly(&installed.name, &installed.version, &installed.arch).is_some();
    states.iter().any(is_it)
}

/// The packages of a snapshot that the upstream may supply and that bear on some names, newest version of each first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offer(BTreeMap<String, Vec<Package>>);

impl Offer {
    /// Reads a snapshot. `wanted` says of which names; of all without it. Blocks.
    pub(crate) fn read(
        snapshot: &Snapshot,
        description: &UpstreamDescription,
        wanted: Option<&BTreeSet<String>>,
    ) -> anyhow::Result<Self> {
        let mut found: BTreeMap<String, Vec<Package>> = BTreeMap::new();
        snapshot.read(|package| {
            if wanted.is_none_or(|wanted| wanted.contains(&package.name)) && description.may_supply(&package.name) {
                found.entry(package.name.clone()).or_default().push(package);
            }
        })?;
        for packages in found.values_mut() {
            packages.sort_by(|a, b| version::compare(PackageKind::Deb, &b.version, &a.version));
        }
        Ok(Self(found))
    }

    /// The newest package that could take the place of an installed one, if it is newer.
    pub(crate) fn newer(&self, installed: &Installed) -> Option<&Package> {
        let newest = self.fitting(installed)?;
        version::compare(PackageKind::Deb, &installed.version, &newest.version).is_lt().then_some(newest)
    }

    /// The package to which an installed one that came from a later state goes back.
    pub(crate) fn earlier(&self, installed: &Installed, later: &[&Offer]) -> Option<&Package> {
        let target = self.fitting(installed)?;
        let is_later = version::compare(PackageKind::Deb, &installed.version, &target.version).is_gt();
        (is_later && came_from(installed, later)).then_some(target)
    }

    /// The newest package that is the same as an installed one in some version.
    pub(crate) fn fitting(&self, installed: &Installed) -> Option<&Package> {
        let fits =
            |package: &&Package| package.arch == installed.arch || package.arch == "all" || installed.arch == "all";
        self.named(&installed.name).iter().find(fits)
    }

    /// Packages of a name.
    pub(crate) fn named(&self, name: &str) -> &[Package] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Of packages, for tests that have no snapshot.
    #[cfg(test)]
    pub(crate) fn of(packages: impl IntoIterator<Item = Package>) -> Self {
        let mut found: BTreeMap<String, Vec<Package>> = BTreeMap::new();
        packages.into_iter().for_each(|package| found.entry(package.name.clone()).or_default().push(package));
        Self(found)
    }

    /// Exactly this package.
    pub(crate) fn exactly(&self, name: &str, version: &str, arch: &str) -> Option<&Package> {
        self.named(name).iter().find(|package| package.version == version && package.arch == arch)
    }
}
