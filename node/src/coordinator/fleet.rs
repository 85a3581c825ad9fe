//! The fleet's status: what each device last said, deployment by deployment.
//!
//! A report may carry only the deployments that changed, so each is kept until a later report speaks of it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use upswarm_protocol::codec::Text;
use upswarm_protocol::coordinator_state::{CoordinatorState, DeviceRecord, LastReport};
use upswarm_protocol::ids::{DeviceId, GroupId, ReleaseId};
use upswarm_protocol::report::{BytesBySource, DeploymentReport, Report};
use upswarm_protocol::time::Wall;

use super::inventories::View;
use super::names::Names;

/// Deployments remembered per device; the one that has stood still longest is forgotten first.
const MAX_DEPLOYMENTS: usize = 512;

/// What a device last said.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DeviceStatus {
    seq: u64,
    /// When it was received, by this machine's clock.
    received: Wall,
    label: String,
    agent: String,
    os: String,
    index_version: u64,
    addresses: Vec<Text<128>>,
    bytes: BytesBySource,
    alarms: Vec<String>,
    deployments: Vec<DeploymentReport>,
}

/// What every device last said.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    devices: BTreeMap<DeviceId, DeviceStatus>,
}

impl Fleet {
    /// Takes a verified report. Returns the device's status as [`Fleet::restore`] reads it.
    pub(crate) fn apply(&mut self, report: Report, received: Wall) -> Vec<u8> {
        let known = self.devices.remove(&report.device);
        // Of a report that was overtaken on its way only the deployments are news; the core has seen to that.
        let later = known.clone().filter(|status| status.seq > report.seq);
        let before = known.map(|status| status.deployments).unwrap_or_default();
        let mut deployments: BTreeMap<(ReleaseId, GroupId), DeploymentReport> =
            before.into_iter().map(|deployment| ((deployment.release, deployment.group), deployment)).collect();
        for deployment in report.deployments.into_vec() {
            deployments.insert((deployment.release, deployment.group), deployment);
        }
        let mut deployments: Vec<_> = deployments.into_values().collect();
        if deployments.len() > MAX_DEPLOYMENTS {
            deployments.sort_by_key(|deployment| std::cmp::Reverse(deployment.since));
            deployments.truncate(MAX_DEPLOYMENTS);
        }
        let status = DeviceStatus {
            seq: report.seq,
            received,
            label: report.label.as_str().to_owned(),
            agent: report.agent.as_str().to_owned(),
            os: report.os.as_str().to_owned(),
            index_version: report.index_version,
            addresses: report.addresses.into_vec(),
            bytes: report.bytes,
            alarms: report.alarms.iter().map(|alarm| alarm.as_str().to_owned()).collect(),
            deployments,
        };
        let status = match later {
            Some(later) => DeviceStatus { received, deployments: status.deployments, ..later },
            None => status,
        };
        // Plain data with text keys always becomes JSON.
        let bytes = serde_json::to_vec(&status).unwrap_or_default();
        self.devices.insert(report.device, status);
        bytes
    }

    /// Takes a stored status. Returns what the core must know of it; `None` when it is damaged.
    pub(crate) fn restore(&mut self, device: DeviceId, bytes: &[u8]) -> Option<LastReport> {
        let status: DeviceStatus = serde_json::from_slice(bytes).ok()?;
        let known = LastReport {
            device,
            seq: status.seq,
            received: status.received,
            addresses: status.addresses.clone(),
            deployments: status.deployments.clone(),
        };
        self.devices.insert(device, status);
        Some(known)
    }

    /// A device's name for people: as it last said, or as it joined, or the first digits of its key.
    pub(crate) fn name(&self, record: &DeviceRecord) -> String {
        let said = self.devices.get(&record.device).map(|status| status.label.clone());
        let named = [said.unwrap_or_default(), record.label.to_string()].into_iter().find(|name| !name.is_empty());
        named.unwrap_or_else(|| record.device.short())
    }

    /// When a device's last report came.
    pub(crate) fn last_seen(&self, device: &DeviceId) -> Option<Wall> {
        self.devices.get(device).map(|status| status.received)
    }

    /// The fleet for `status --json`: stable field names, ages in seconds.
    pub(crate) fn view(&self, state: &CoordinatorState, names: &Names, now: Wall) -> Value {
        let devices: Vec<Value> = state
            .devices()
            .map(|record| {
                let status = self.devices.get(&record.device);
                let label = status.map(|status| status.label.as_str()).filter(|label| !label.is_empty());
                let groups: Vec<String> = record.groups.iter().map(|group| names.group_name(group)).collect();
                let bytes = status.map(|status| status.bytes).unwrap_or_default();
                let deployments: Vec<Value> = status
                    .into_iter()
                    .flat_map(|status| &status.deployments)
                    .map(|deployment| deployment_view(deployment, state, names, now))
                    .collect();
                let mut view = json!({
                    "device": record.device,
                    "label": label.unwrap_or(record.label.as_str()),
                    "site": names.site_name(&record.site),
                    "role": record.role,
                    "groups": groups,
                    "revoked": state.revoked().contains(&record.device),
                    "agent": status.map(|status| &status.agent),
                    "os": status.map(|status| &status.os),
                    "last_seen_s": status.map(|status| now.since(status.received).as_secs()),
                    "index_version": status.map_or(0, |status| status.index_version),
                    "bytes": {
                        "origin": bytes.origin, "cache": bytes.cache,
                        "lan_peer": bytes.lan_peer, "local_reuse": bytes.local_reuse,
                    },
                    "alarms": status.map(|status| status.alarms.clone()).unwrap_or_default(),
                    "deployments": deployments,
                });
                if let (Value::Object(view), Value::Object(more)) = (&mut view, View::status(state, &record.device)) {
                    view.extend(more);
                }
                view
            })
            .collect();
        Value::Array(devices)
    }
}

fn deployment_view(deployment: &DeploymentReport, state: &CoordinatorState, names: &Names, now: Wall) -> Value {
    let release = state.releases().get(&deployment.release).map(|published| &published.release);
    json!({
        "release": deployment.release,
        "product": release.map(|release| release.product.as_str()),
        "version": release.map(|release| release.version.as_str()),
        "title": release.map(|release| release.title.as_str()),
        "group": names.group_name(&deployment.group),
        "approval_version": deployment.approval_version,
        "action": deployment.action,
        "state": deployment.state,
        "sub_state": deployment.sub_state,
        "code": deployment.code,
        "reason": deployment.reason.as_str(),
        "since_s": now.since(deployment.since).as_secs(),
        "done": deployment.done,
        "total": deployment.total,
    })
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
            addresses: Bounded::default(),
            bytes: BytesBySource { origin: seq, ..BytesBySource::default() },
            alarms: Bounded::default(),
            deployments: Bounded::new(deployments).unwrap(),
        }
    }

    #[test]
    fn deployments_of_earlier_reports_stay_and_survive_a_restart() {
        let mut fleet = Fleet::default();
        fleet.apply(report(1, vec![deployment(1, DeploymentState::Downloading, 1)]), Wall(5));
        fleet.apply(report(2, vec![deployment(2, DeploymentState::Pending, 2)]), Wall(6));
        let bytes = fleet.apply(report(3, vec![deployment(1, DeploymentState::Installed, 3)]), Wall(7));
        let mut again = Fleet::default();
        let known = again.restore(DeviceId([1; 32]), &bytes).unwrap();
        assert_eq!((known.seq, known.received, known.deployments.len()), (3, Wall(7), 2));
        let status = &again.devices[&DeviceId([1; 32])];
        let states: Vec<_> = status.deployments.iter().map(|deployment| deployment.state).collect();
        assert_eq!(states, [DeploymentState::Installed, DeploymentState::Pending]);
        assert_eq!((status.bytes.origin, status.received), (3, Wall(7)));
        assert_eq!(again.restore(DeviceId([1; 32]), &bytes[1..]), None, "damaged");
    }

    #[test]
    fn an_overtaken_report_adds_deployments_and_changes_nothing_else() {
        let mut fleet = Fleet::default();
        fleet.apply(report(8, vec![deployment(1, DeploymentState::Installed, 3)]), Wall(7));
        fleet.apply(report(7, vec![deployment(2, DeploymentState::Failed, 2)]), Wall(8));
        let status = &fleet.devices[&DeviceId([1; 32])];
        let states: Vec<_> = status.deployments.iter().map(|deployment| deployment.state).collect();
        assert_eq!(states, [DeploymentState::Installed, DeploymentState::Failed]);
        assert_eq!((status.seq, status.bytes.origin, status.received), (8, 8, Wall(8)));
    }

    #[test]
    fn a_device_cannot_grow_without_bound() {
        let mut fleet = Fleet::default();
        for seq in 0..1000 {
            fleet.apply(report(seq, vec![deployment(seq as u16, DeploymentState::Installed, seq)]), Wall(seq));
        }
        let kept = &fleet.devices[&DeviceId([1; 32])].deployments;
        assert_eq!(kept.len(), MAX_DEPLOYMENTS);
        assert!(kept.iter().all(|deployment| deployment.since >= Wall(1000 - MAX_DEPLOYMENTS as u64)));
    }
}
