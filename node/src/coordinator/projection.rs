//! What readers see of the core's catalog. Owns the translation; holds nothing.

use upswarm_protocol::catalog::Members;
use upswarm_protocol::coordinator::{CoordinatorState, PublishedGroup, PublishedRelease};
use upswarm_protocol::ids::ReleaseId;

use super::store::ledger::InForce;
use super::store::names::Names;
use crate::api::catalog::{Catalog, CatalogApproval, CatalogGroup, CatalogRelease, MembersAre, content_of};

/// The catalog as it is now, with the admin's names. Releases never change, so those of the one before are taken over.
pub(crate) fn catalog(state: &CoordinatorState, names: &Names, before: &Catalog) -> Catalog {
    let release = |(id, known): (&ReleaseId, &PublishedRelease)| CatalogRelease {
        release: *id,
        product: known.release.product.as_str().to_owned(),
        version: known.release.version.as_str().to_owned(),
        counter: known.release.counter,
        title: known.release.title.as_str().to_owned(),
        classification: known.release.classification,
        severity: known.release.severity,
        expires: known.release.expires.to_string(),
        document: known.entry.hash,
        content: content_of(&known.release),
        removable: known.release.removal().is_some(),
    };
    let releases = state.releases().iter().map(|(id, known)| {
        let same = before.release(id).filter(|before| before.document == known.entry.hash);
        same.cloned().unwrap_or_else(|| release((id, known)))
    });
    let approvals = state.approvals().values().map(|known| CatalogApproval {
        release: known.approval.release,
        group: known.approval.group,
        version: known.approval.version,
        action: known.approval.action,
        back: known.approval.back,
        expires: known.approval.expires.to_string(),
        schedule: known.approval.schedule.clone(),
        rings: known.approval.rings.clone(),
        note: known.approval.note.as_str().to_owned(),
        document: known.entry.hash,
    });
    let conditions = state
        .dynamic_groups()
        .iter()
        .map(|(group, conditions)| (names.group_name(group), conditions.iter().map(ToString::to_string).collect()));
    Catalog {
        index_version: state.index_version(),
        groups: names.groups().clone(),
        described: state.group_documents().map(|known| (known.document.group, described(known))).collect(),
        conditions: conditions.collect(),
        releases: releases.collect(),
        approvals: approvals.collect(),
    }
}

/// Every approval that is in force, as history keeps it.
pub(crate) fn in_force(state: &CoordinatorState) -> Vec<InForce> {
    let approvals = state.approvals().values().map(|known| InForce {
        group: known.approval.group,
        release: known.approval.release,
        version: known.approval.version,
        action: known.approval.action,
        document: known.entry.hash,
    });
    approvals.collect()
}

fn described(known: &PublishedGroup) -> CatalogGroup {
    let members = match known.document.members {
        Members::Listed => MembersAre::Coordinator,
        Members::Rule(_) => MembersAre::Rule,
        Members::List(_) => MembersAre::List,
    };
    CatalogGroup { version: known.document.version, members, document: known.entry.hash }
}
