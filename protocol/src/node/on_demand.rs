//! Payloads that a client of this machine asked for, beside what deployments need: fetched like those, and let go when they are
//! here. It decides who may ask for what, by the approvals of this device alone; the driver says how much in a day.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::NodeState;
use super::deployments::{Order, Word};
use super::downloads::PayloadProgress;
use crate::catalog::{Action, Approval, NodeRole, Release};
use crate::ids::{GroupId, PayloadId, ReleaseId};
use crate::schedule::{self, Decision, Why};
use crate::time::{Now, Wall};
use crate::trust::{CatalogApproval, CatalogRelease};

/// Payloads that are on their way for clients at one time; more are refused.
const MAX_ON_DEMAND: usize = 256;

impl NodeState {
    /// Releases that are approved for install on this device, are in force, and whose time on this device has begun: its ring
    /// has. Windows and hours of work restrain the agent, not the person at the machine. Newest first within a product.
    pub fn offers(&self, now: Now) -> Vec<(ReleaseId, Arc<Release>)> {
        let mut offers: Vec<_> = self
            .deployed_for_install()
            .filter(|(id, group, approval, facts)| {
                let decision = schedule::decide(approval, facts, now.wall);
                let begun = match decision {
                    Decision::Expired | Decision::NotInRings => false,
                    Decision::NotBefore { why, .. } => !matches!(why, Why::AvailableFrom | Why::Ring { .. }),
                    Decision::Now { .. } => true,
                };
                let belongs = self.assigned.belongs(group, self.trust(), self.inventory()).is_ok();
                begun && belongs && self.trust().may_install(id, group, now.wall).is_ok()
            })
            .filter_map(|(id, ..)| Some((id, self.trust().catalog().releases().get(&id)?.release.clone())))
            .collect();
        offers.sort_by(|(_, a), (_, b)| (&a.product, b.counter).cmp(&(&b.product, a.counter)));
        offers
    }

    /// What machines without an agent may have in a group that is called so, or has this number: of each repository the approval in
    /// force, when it has reached its last ring. Of other groups than its own a branch cache alone knows.
    pub fn filtered(&self, group: &str, now: Now) -> Vec<(Arc<Approval>, Arc<Release>)> {
        let catalog = self.trust().catalog();
        let is_called = |of: &GroupId| {
            catalog.groups().get(of).is_some_and(|known| *known.document.name == *group) || of.to_string() == group
        };
        let mut newest: BTreeMap<&str, (Word, &CatalogApproval, &CatalogRelease)> = BTreeMap::new();
        for ((of, id), known) in catalog.approvals() {
            let Some(found) = catalog.releases().get(id).filter(|_| is_called(of)) else { continue };
            let approval = &known.approval;
            if approval.action != Action::Install || !reaches_all(approval, now.wall) {
                continue;
            }
            let back = approval.back && found.release.goes_back();
            let word = Word { counter: found.release.counter, said: known.said(), back };
            let product = found.release.product.as_str();
            if newest.get(product).is_none_or(|(other, ..)| word.order(other) != Order::Before) {
                newest.insert(product, (word, known, found));
            }
        }
        let may = |known: &CatalogApproval| {
            let approval = &known.approval;
            approval.filtered.is_some()
                && self.trust().may_install(&approval.release, &approval.group, now.wall).is_ok()
        };
        let found = newest.into_values().filter(|(_, known, _)| may(known));
        found.map(|(_, known, found)| (known.approval.clone(), found.release.clone())).collect()
    }

    /// A client asks for a payload. Nothing happens unless a release of [`NodeState::offers`] names it.
    pub(super) fn want_on_demand(&mut self, payload: PayloadId, now: Now) {
        if self.on_demand.len() >= MAX_ON_DEMAND {
            return;
        }
        let mut offers: Vec<Arc<Release>> = self.offers(now).into_iter().map(|(_, release)| release).collect();
        let groups: BTreeSet<GroupId> = self.trust().catalog().approvals().keys().map(|(group, _)| *group).collect();
        for group in groups {
            offers.extend(self.filtered(&group.to_string(), now).into_iter().map(|(_, release)| release));
        }
        let mut payloads = offers.iter().flat_map(|release| &release.payloads);
        let Some(found) = payloads.find(|found| found.id == payload).cloned() else { return };
        if self.downloads.progress(&payload) == PayloadProgress::Complete {
            return;
        }
        self.on_demand.insert(payload);
        self.want_payload(&found, true);
    }

    /// There is news about a payload: one that is here and that only a client wanted may go when room is needed.
    pub(super) fn on_demand_moved(&mut self, payload: &PayloadId) {
        let ended = match self.downloads.progress(payload) {
            PayloadProgress::Complete => true,
            PayloadProgress::Absent => true,
            PayloadProgress::List | PayloadProgress::Partial { .. } | PayloadProgress::Failed(_) => false,
        };
        // A branch cache keeps what it has for its site.
        let is_cache = self.certificate.role == NodeRole::Cache;
        if ended && self.on_demand.remove(payload) && !is_cache && !self.deployments.needs(payload) {
            self.downloads.release(payload, &mut self.cx);
        }
    }
}

/// What is on its way for clients.
pub(super) type OnDemand = BTreeSet<PayloadId>;

/// Whether the time of every machine of the group has begun: one without an agent has no ring.
fn reaches_all(approval: &Approval, now: Wall) -> bool {
    let begun = approval.schedule.available_from.is_none_or(|from| from <= now);
    let rings = &approval.rings.rings;
    let last = rings
        .last()
        .is_none_or(|last| last.up_to >= 10_000 && approval.issued + Duration::from_secs(last.delay_s.into()) <= now);
    begun && (approval.schedule.expedite || last)
}
