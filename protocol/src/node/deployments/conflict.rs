//! Two products that stand for one package, one of them to be installed here and the other to be removed: each would undo what the
//! other has done, again and again. Neither is done until the admin has decided; this file only finds the other one.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Ask;
use crate::catalog::{Action, Detect, PackageKind, Recipe, Release, WhenAbsent};
use crate::codec::Text;
use crate::ids::ReleaseId;
use crate::node::Detection;

/// A package of a machine's package database.
pub(super) type Package = (PackageKind, Text<255>);

/// The packages that tell whether a release is installed, or that it brings to every machine.
pub(super) fn packages(release: &Release) -> BTreeSet<Package> {
    let detected = release.detect.iter().filter_map(|rule| match rule {
        Detect::Package { kind, name, .. } => Some((*kind, name.clone())),
        _ => None,
    });
    let selected = match &release.install {
        Recipe::Apt(apt) => apt.packages.to_vec(),
        _ => Vec::new(),
    };
    let brought = selected.into_iter().filter(|package| package.when_absent == WhenAbsent::Always);
    detected.chain(brought.map(|package| (PackageKind::Deb, package.name))).collect()
}

/// A package that two deployments want opposite things of.
pub(super) struct Conflict {
    /// The other one.
    pub(super) other: Arc<Release>,
    /// Whether the other one is to be removed.
    pub(super) removes: bool,
    package: Package,
}

impl Conflict {
    /// The package, for people.
    pub(super) fn package(&self) -> String {
        let kind = match self.package.0 {
            PackageKind::Deb => "Debian package",
            PackageKind::Rpm => "rpm package",
            PackageKind::Flatpak => "Flatpak application",
            PackageKind::Snap => "snap",
        };
        format!("the {kind} {}", self.package.1)
    }
}

impl Ask<'_> {
    /// A deployment of another product that wants the opposite of a package. Versions of one product know of each other: they go
    /// forward and back.
    pub(super) fn conflict(&self, id: &ReleaseId) -> Option<Conflict> {
        let (own, release) = (self.all.map.get(id)?, self.release(id)?);
        let removes = match own.approval.action {
            Action::Install => true,
            Action::Uninstall => false,
            Action::None => return None,
        };
        let wanted = if removes { Action::Uninstall } else { Action::Install };
        self.all.index.of_same_package(id).find_map(|(package, other)| {
            let theirs = self.all.map.get(&other)?;
            let concerned = !theirs.withdrawn && !matches!(theirs.detection, Some(Detection::NotApplicable(_)));
            let found = self.release(&other).filter(|found| found.product != release.product)?;
            let opposite = concerned && theirs.approval.action == wanted;
            opposite.then(|| Conflict { other: found.clone(), removes, package: package.clone() })
        })
    }
}
