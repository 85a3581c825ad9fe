//! Which part of the catalog each device judges by itself, and what the coordinator can say of the rest.
//!
//! A device is told of what is approved for its groups and of what nobody has decided about. Owns the same cut on this side, so that a
//! preview for another group still counts; what only files or commands on the device show is unknown there. Never sends anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use upswarm_protocol::catalog::NodeRole;
use upswarm_protocol::coordinator::{CoordinatorState, DeviceInventory, DeviceRecord, DeviceScan, PublishedRelease};
use upswarm_protocol::evaluate::{Question, ScanState};
use upswarm_protocol::ids::{GroupId, ReleaseId};

/// The catalog, cut as devices see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct CatalogParts {
    questions: BTreeMap<ReleaseId, Arc<Question>>,
    by_group: BTreeMap<GroupId, Arc<BTreeSet<ReleaseId>>>,
    undecided: Arc<BTreeSet<ReleaseId>>,
}

/// What decides which part a device judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartOf<'a> {
    groups: &'a [GroupId],
    /// A branch cache follows every group.
    everything: bool,
}

impl<'a> PartOf<'a> {
    pub(crate) fn device(record: &'a DeviceRecord) -> Self {
        Self { groups: &record.groups, everything: record.role == NodeRole::Cache }
    }
}

/// What devices of the same groups judge by themselves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    releases: BTreeSet<ReleaseId>,
}

impl CatalogParts {
    /// The cut as it is now. Releases never change, so their questions are taken over from the one before.
    pub(crate) fn of(state: &CoordinatorState, before: &Self) -> Self {
        let question = |(id, known): (&ReleaseId, &PublishedRelease)| {
            let before = before.questions.get(id).cloned();
            (*id, before.unwrap_or_else(|| Arc::new(Question::of(&known.release))))
        };
        Self {
            questions: state.releases().iter().map(question).collect(),
            by_group: state.documents_by_group().map(|(group, releases)| (group, Arc::new(releases))).collect(),
            undecided: Arc::new(state.undecided().clone()),
        }
    }

    /// What such devices judge by themselves.
    pub(crate) fn part(&self, of: PartOf<'_>) -> Part {
        if of.everything {
            return Part { releases: self.questions.keys().copied().collect() };
        }
        let of_groups = of.groups.iter().filter_map(|group| self.by_group.get(group));
        Part { releases: of_groups.chain([&self.undecided]).flat_map(|part| part.iter().copied()).collect() }
    }

    /// Where a device stands with a release: what it has said, else what its inventory says.
    pub(crate) fn state(
        &self,
        release: &ReleaseId,
        part: &Part,
        scan: Option<&DeviceScan>,
        inventory: Option<&DeviceInventory>,
    ) -> Option<ScanState> {
        if part.releases.contains(release) {
            return scan?.state(release, part.releases.len());
        }
        // It may have said so before it left the group.
        let said = scan.and_then(|scan| scan.named(release));
        said.or_else(|| Some(self.questions.get(release)?.state(&inventory?.inventory)))
    }
}
