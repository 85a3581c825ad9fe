//! What is known of a device: its record, and what it told. Owns how a report changes that, and its bounds; never decides by it.
//!
//! A report may carry only the deployments that changed, so each is kept until a later report speaks of it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use upswarm_protocol::codec::Text;
use upswarm_protocol::coordinator::{DeviceInventory, DeviceRecord, DeviceScan, LastReport};
use upswarm_protocol::ids::{DeviceId, GroupId, ReleaseId};
use upswarm_protocol::report::{BytesBySource, DeploymentReport, Papers, Report};
use upswarm_protocol::time::Wall;

/// Deployments remembered per device: of its own, the one that has stood still longest is forgotten first.
const MAX_DEPLOYMENTS: usize = 512;

/// A device.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// As it was let in.
    pub(crate) record: Arc<DeviceRecord>,
    /// How it says it is.
    pub(crate) said: Option<Arc<Said>>,
    /// What is installed on it.
    pub(crate) inventory: Option<DeviceInventory>,
    /// What it is missing.
    pub(crate) scan: Option<Arc<DeviceScan>>,
    /// Whether history counts it: it is neither retired nor shut out.
    pub(crate) counted: bool,
}

impl Known {
    /// A device that has said nothing yet.
    pub(crate) fn new(record: DeviceRecord) -> Self {
        Self { record: Arc::new(record), said: None, inventory: None, scan: None, counted: true }
    }

    /// Its name for people: as it last said, or as it joined, or the first digits of its key.
    pub(crate) fn name(&self) -> String {
        let said = self.said.as_ref().map(|said| said.label.as_str()).unwrap_or_default();
        let named = [said, self.record.label.as_str()].into_iter().find(|name| !name.is_empty());
        named.map_or_else(|| self.record.device.short(), str::to_owned)
    }
}

/// What a device last said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) seq: u64,
    /// When it was received, by this machine's clock.
    pub(crate) received: Wall,
    pub(crate) label: String,
    pub(crate) agent: String,
    pub(crate) os: String,
    pub(crate) index_version: u64,
    pub(crate) papers: Papers,
    pub(crate) addresses: Vec<Text<128>>,
    pub(crate) bytes: BytesBySource,
    pub(crate) neighbours: u32,
    pub(crate) alarms: Vec<String>,
    /// In order of release and group.
    pub(crate) deployments: Vec<DeploymentReport>,
}

impl Said {
    /// What stands after a verified report. Of one that was overtaken on its way only the deployments are news; the core has
    /// seen to that.
    pub(crate) fn after(before: Option<&Said>, report: &Report, received: Wall) -> Self {
        let mut deployments: BTreeMap<(ReleaseId, GroupId), DeploymentReport> = before
            .iter()
            .flat_map(|said| &said.deployments)
            .map(|deployment| ((deployment.release, deployment.group), deployment.clone()))
            .collect();
        for deployment in report.deployments.iter() {
            deployments.insert((deployment.release, deployment.group), deployment.clone());
        }
        let mut deployments: Vec<_> = deployments.into_values().collect();
        if deployments.len() > MAX_DEPLOYMENTS {
            deployments.sort_by_key(|deployment| std::cmp::Reverse(deployment.since));
            deployments.truncate(MAX_DEPLOYMENTS);
            deployments.sort_by_key(|deployment| (deployment.release, deployment.group));
        }
        if let Some(later) = before.filter(|said| said.seq > report.seq) {
            return Self { received, deployments, ..later.clone() };
        }
        Self {
            seq: report.seq,
            received,
            label: report.label.as_str().to_owned(),
            agent: report.agent.as_str().to_owned(),
            os: report.os.as_str().to_owned(),
            index_version: report.index_version,
            papers: report.papers,
            addresses: report.addresses.to_vec(),
            bytes: report.bytes,
            neighbours: report.neighbours,
            alarms: report.alarms.iter().map(|alarm| alarm.text.as_str().to_owned()).collect(),
            deployments,
        }
    }

    /// As [`Said::restore`] reads it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Plain data with text keys always becomes JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What was stored; `None` when it is damaged.
    pub(crate) fn restore(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// What the core must know of it.
    pub(crate) fn last_report(&self, device: DeviceId) -> LastReport {
        LastReport {
            device,
            seq: self.seq,
            received: self.received,
            addresses: self.addresses.clone(),
            deployments: self.deployments.clone(),
            papers: self.papers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use upswarm_protocol::catalog::{Action, NodeRole};
    use upswarm_protocol::codec::Bounded;
    use upswarm_protocol::ids::SiteId;
    use upswarm_protocol::report::{DeploymentState, SubState};

    fn deployment(release: u16, state: DeploymentState, since: u64) -> DeploymentReport {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&release.to_le_bytes());
        DeploymentReport {
            release: ReleaseId(id),
            group: GroupId([1; 16]),
            approval_version: 1,
            action: Action::Install,
            state,
            sub_state: SubState::None,
            code: None,
            reason: Text::default(),
            since: Wall(since),
            done: 0,
            total: 1,
            next_try: None,
        }
    }

    fn report(seq: u64, deployments: Vec<DeploymentReport>) -> Report {
        Report {
            device: DeviceId([1; 32]),
            seq,
            issued: Wall(0),
            site: SiteId([2; 16]),
            role: NodeRole::Node,
            label: Text::lossy("pc"),
            agent: Text::default(),
            os: Text::default(),
            index_version: 3,
            papers: Papers::default(),
            addresses: Bounded::default(),
            bytes: BytesBySource { origin: seq, ..BytesBySource::default() },
            neighbours: 0,
            alarms: Bounded::default(),
            deployments: Bounded::new(deployments).unwrap(),
        }
    }

    fn told(before: Option<&Said>, seq: u64, deployments: Vec<DeploymentReport>, received: u64) -> Said {
        Said::after(before, &report(seq, deployments), Wall(received))
    }

    #[test]
    fn deployments_of_earlier_reports_stay_and_survive_a_restart() {
        let said = told(None, 1, vec![deployment(1, DeploymentState::Downloading, 1)], 5);
        let said = told(Some(&said), 2, vec![deployment(2, DeploymentState::Pending, 2)], 6);
        let said = told(Some(&said), 3, vec![deployment(1, DeploymentState::Installed, 3)], 7);
        let again = Said::restore(&said.to_bytes()).unwrap();
        assert_eq!(again, said);
        let known = again.last_report(DeviceId([1; 32]));
        assert_eq!((known.seq, known.received, known.deployments.len()), (3, Wall(7), 2));
        let states: Vec<_> = again.deployments.iter().map(|deployment| deployment.state).collect();
        assert_eq!(states, [DeploymentState::Installed, DeploymentState::Pending]);
        assert_eq!((again.bytes.origin, again.received), (3, Wall(7)));
        assert_eq!(Said::restore(&said.to_bytes()[1..]), None, "damaged");
    }

    #[test]
    fn an_overtaken_report_adds_deployments_and_changes_nothing_else() {
        let said = told(None, 8, vec![deployment(1, DeploymentState::Installed, 3)], 7);
        let said = told(Some(&said), 7, vec![deployment(2, DeploymentState::Failed, 2)], 8);
        let states: Vec<_> = said.deployments.iter().map(|deployment| deployment.state).collect();
        assert_eq!(states, [DeploymentState::Installed, DeploymentState::Failed]);
        assert_eq!((said.seq, said.bytes.origin, said.received), (8, 8, Wall(8)));
    }

    #[test]
    fn a_device_cannot_grow_without_bound() {
        let mut said = None;
        for seq in 0..1000 {
            said = Some(told(said.as_ref(), seq, vec![deployment(seq as u16, DeploymentState::Installed, seq)], seq));
        }
        let kept = said.unwrap().deployments;
        assert_eq!(kept.len(), MAX_DEPLOYMENTS);
        assert!(kept.iter().all(|deployment| deployment.since >= Wall(1000 - MAX_DEPLOYMENTS as u64)));
        assert!(kept.is_sorted_by_key(|deployment| (deployment.release, deployment.group)));
    }
}
