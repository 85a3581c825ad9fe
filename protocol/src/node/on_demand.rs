//! Payloads that a client of this machine asked for, beside what deployments need: fetched like those, and let go when they are
//! here. It decides who may ask for what, by the approvals of this device alone; the driver says how much in a day.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::NodeState;
use super::downloads::PayloadProgress;
use crate::catalog::{NodeRole, Release};
use crate::ids::{PayloadId, ReleaseId};
use crate::schedule::{self, Decision, Why};
use crate::time::Now;

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

    /// A client asks for a payload. Nothing happens unless a release of [`NodeState::offers`] names it.
    pub(super) fn want_on_demand(&mut self, payload: PayloadId, now: Now) {
        if self.on_demand.len() >= MAX_ON_DEMAND {
            return;
        }
        let offers = self.offers(now);
        let mut payloads = offers.iter().flat_map(|(_, release)| &release.payloads);
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
