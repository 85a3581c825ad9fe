//! The way back from a bad version of a package to the one before it.
//!
//! Two approvals say it together: the newer release is to be uninstalled, and an older one of the same package is approved for
//! install. The older package then takes the newer one's place as a downgrade, which keeps what a person has changed in its
//! configuration; removing and installing again would not. Neither approval alone permits a downgrade.

use core::cmp::Ordering;
use std::sync::Arc;

use super::{Ask, NodeState};
use crate::catalog::{Action, Detect, Recipe, Release};
use crate::ids::ReleaseId;
use crate::trust::CatalogApproval;
use crate::version::compare;

/// Whether both releases are of one product and tell by one package whether they are installed, and in which order: `Greater`
/// when `a` is the later version of that package. `None` when they are not versions of one package, or the same version.
fn order(a: &Release, b: &Release) -> Option<Ordering> {
    let packages = |release: &Release| {
        let named = release.detect.iter().filter_map(|rule| match rule {
            Detect::Package { kind, name, version } => Some((*kind, name.clone(), version.clone())),
            _ => None,
        });
        named.collect::<Vec<_>>()
    };
    if a.product != b.product {
        return None;
    }
    let theirs = packages(b);
    let orders = packages(a).into_iter().flat_map(|(kind, name, version)| {
        let same = theirs.iter().filter(move |other| (other.0, &other.1) == (kind, &name));
        same.map(move |other| compare(kind, &version, &other.2)).collect::<Vec<_>>()
    });
    let mut found = None;
    for order in orders.filter(|order| order.is_ne()) {
        // Up with one package and down with another is no order.
        if found.is_some_and(|found| found != order) {
            return None;
        }
        found = Some(order);
    }
    found
}

/// Whether installing `older` takes `newer` away: both are packages of one system, and `older` is an earlier version.
pub fn takes_back(older: &Release, newer: &Release) -> bool {
    let one_system = matches!(
        (&older.install, &newer.install),
        (Recipe::Deb { .. }, Recipe::Deb { .. }) | (Recipe::Rpm { .. }, Recipe::Rpm { .. })
    );
    one_system && order(older, newer) == Some(Ordering::Less)
}

impl NodeState {
    /// The release that is to be installed in place of one that is to be uninstalled here: the latest of the earlier versions
    /// of its package that are approved for install. `None`: it is removed.
    pub fn goes_back_to(&self, id: &ReleaseId) -> Option<(ReleaseId, Arc<Release>)> {
        self.asking(self.cx.now).goes_back_to(id)
    }

    /// The approval that counts here for a release.
    pub fn approval_of(&self, id: &ReleaseId) -> Option<&CatalogApproval> {
        let deployment = self.deployments.map.get(id)?;
        self.trust().catalog().approvals().get(&(deployment.group, *id))
    }
}

impl Ask<'_> {
    pub(super) fn goes_back_to(&self, id: &ReleaseId) -> Option<(ReleaseId, Arc<Release>)> {
        if self.all.map.get(id)?.approval.action != Action::Uninstall {
            return None;
        }
        let newer = self.release(id)?;
        let earlier = self.approved_versions(id).filter(|(_, older)| takes_back(older, newer));
        earlier.max_by_key(|(_, older)| older.counter).map(|(id, older)| (id, older.clone()))
    }

    /// Later versions of the package that are approved for install here.
    pub(super) fn later_versions(
        &self,
        id: &ReleaseId,
        earlier: &Release,
    ) -> impl Iterator<Item = (ReleaseId, &Arc<Release>)> {
        self.approved_versions(id).filter(|(_, later)| order(later, earlier) == Some(Ordering::Greater))
    }

    /// Other versions of the product that are approved for install here.
    fn approved_versions(&self, id: &ReleaseId) -> impl Iterator<Item = (ReleaseId, &Arc<Release>)> {
        self.all.index.siblings(id).filter_map(|other| {
            let deployment = self.all.map.get(&other)?;
            let wanted = deployment.approval.action == Action::Install && !deployment.withdrawn;
            Some((other, self.release(&other).filter(|_| wanted)?))
        })
    }
}
