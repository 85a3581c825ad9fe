//! Reports that were report_order on their way: neighbours carry them, and each takes its own time.
//!
//! A report speaks only of deployments that changed, so one that comes late may say what no later one does.

use std::collections::BTreeMap;

use crate::ids::{GroupId, ReleaseId};
use crate::report::DeploymentReport;

/// Deployments of one device whose last word is remembered: many more than change within the time that a report is under way.
const MAX_REMEMBERED: usize = 64;

/// Which report spoke last of each deployment of a device.
#[derive(Debug, Default)]
pub(super) struct ReportOrder {
    /// Nothing up to this number is news.
    floor: u64,
    by_deployment: BTreeMap<(ReleaseId, GroupId), u64>,
}

impl ReportOrder {
    /// After a restart: what reports up to this number said is not known any more.
    pub(super) fn forget_up_to(&mut self, seq: u64) {
        self.floor = self.floor.max(seq);
    }

    /// Whether no later report has spoken of this deployment.
    pub(super) fn is_news(&self, seq: u64, deployment: &DeploymentReport) -> bool {
        let last = self.by_deployment.get(&(deployment.release, deployment.group));
        seq > self.floor && last.is_none_or(|last| *last < seq)
    }

    /// A report has spoken of these.
    pub(super) fn note(&mut self, seq: u64, deployments: &[DeploymentReport]) {
        for deployment in deployments {
            let last = self.by_deployment.entry((deployment.release, deployment.group)).or_default();
            *last = seq.max(*last);
        }
        while self.by_deployment.len() > MAX_REMEMBERED {
            let Some((key, seq)) = self.by_deployment.iter().min_by_key(|(_, seq)| **seq).map(|(k, seq)| (*k, *seq))
            else {
                return;
            };
            self.by_deployment.remove(&key);
            self.forget_up_to(seq);
        }
    }
}
