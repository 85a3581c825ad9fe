//! Whom a change concerns: which deployments need a payload, and which decide by what another finds.
//!
//! Made anew when the catalog or the set of deployments changes, and only then. It knows releases, never how they stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::conflict::{Package, packages};
use crate::catalog::{Action, Recipe, Release};
use crate::codec::Text;
use crate::ids::{PayloadId, ReleaseId};

/// The relations among the releases that are deployed here.
#[derive(Debug, Default)]
pub(super) struct Index {
    needing: BTreeMap<PayloadId, BTreeSet<ReleaseId>>,
    /// Snapshots of repositories.
    snapshots: BTreeSet<ReleaseId>,
    product: BTreeMap<ReleaseId, Text<128>>,
    of_product: BTreeMap<Text<128>, BTreeSet<ReleaseId>>,
    /// The packages that each stands for.
    packages: BTreeMap<ReleaseId, BTreeSet<Package>>,
    of_package: BTreeMap<Package, BTreeSet<ReleaseId>>,
    /// Who depends on it.
    dependents: BTreeMap<ReleaseId, BTreeSet<ReleaseId>>,
    /// Who says that it takes its place, whatever its product.
    superseding: BTreeMap<ReleaseId, BTreeSet<ReleaseId>>,
    /// Whose place it takes, as it says.
    superseded: BTreeMap<ReleaseId, BTreeSet<ReleaseId>>,
}

impl Index {
    pub(super) fn of(deployed: &[(ReleaseId, Action, Arc<Release>)]) -> Self {
        let mut index = Self::default();
        for (id, _, release) in deployed {
            index.product.insert(*id, release.product.clone());
            if matches!(release.install, Recipe::Apt(_)) {
                index.snapshots.insert(*id);
            }
            index.of_product.entry(release.product.clone()).or_default().insert(*id);
            for package in packages(release) {
                index.of_package.entry(package.clone()).or_default().insert(*id);
                index.packages.entry(*id).or_default().insert(package);
            }
            for payload in &release.payloads {
                index.needing.entry(payload.id).or_default().insert(*id);
            }
            for needed in &release.depends {
                index.dependents.entry(*needed).or_default().insert(*id);
            }
            for earlier in &release.supersedes {
                index.superseding.entry(*earlier).or_default().insert(*id);
                index.superseded.entry(*id).or_default().insert(*earlier);
            }
        }
        // What is to be removed may go back to another version of its product.
        let removed: BTreeMap<_, Vec<_>> = deployed.iter().filter(|(_, action, _)| *action == Action::Uninstall).fold(
            BTreeMap::new(),
            |mut removed: BTreeMap<_, Vec<_>>, (id, _, release)| {
                removed.entry(&release.product).or_default().push(*id);
                removed
            },
        );
        for (_, _, release) in deployed.iter().filter(|(_, action, _)| *action == Action::Install) {
            for payload in release.payloads.iter().filter(|_| removed.contains_key(&release.product)) {
                let needing = index.needing.entry(payload.id).or_default();
                needing.extend(removed.get(&release.product).into_iter().flatten());
            }
        }
        index
    }

    /// Deployments that may need a payload.
    pub(super) fn needing(&self, payload: &PayloadId) -> impl Iterator<Item = ReleaseId> {
        self.needing.get(payload).into_iter().flatten().copied()
    }

    /// Deployments whose files depend on what is installed.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = ReleaseId> {
        self.snapshots.iter().copied()
    }

    /// Deployments of the same product, itself included.
    pub(super) fn siblings(&self, id: &ReleaseId) -> impl Iterator<Item = ReleaseId> {
        let product = self.product.get(id).and_then(|product| self.of_product.get(product));
        product.into_iter().flatten().copied()
    }

    /// Other deployments that stand for a package of this one's.
    pub(super) fn of_same_package(&self, id: &ReleaseId) -> impl Iterator<Item = (&Package, ReleaseId)> {
        let own = self.packages.get(id).into_iter().flatten();
        let all = own.flat_map(|package| {
            let others = self.of_package.get(package).into_iter().flatten();
            others.map(move |other| (package, *other))
        });
        all.filter(move |(_, other)| other != id)
    }

    /// Deployments that may take the place of this one.
    pub(super) fn rivals(&self, id: &ReleaseId) -> BTreeSet<ReleaseId> {
        let named = self.superseding.get(id).into_iter().flatten().copied();
        named.chain(self.siblings(id)).filter(|other| other != id).collect()
    }

    /// Deployments that decide by how this one stands.
    pub(super) fn around(&self, id: &ReleaseId) -> impl Iterator<Item = ReleaseId> {
        let dependents = self.dependents.get(id).into_iter().flatten().copied();
        let earlier = self.superseded.get(id).into_iter().flatten().copied();
        let of_same_package = self.of_same_package(id).map(|(_, other)| other);
        self.siblings(id).chain(dependents).chain(earlier).chain(of_same_package)
    }
}
