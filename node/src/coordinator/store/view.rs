//! What a use-case looks at: a snapshot of the fleet beside what the driver knows just now. Owns how things are found and
//! named in it; never changes anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use upswarm_protocol::catalog::{Head, Hold, UpstreamRule};
use upswarm_protocol::coordinator::{DeviceInventory, DeviceRecord, DeviceScan, Refusal, RolloutStatus};
use upswarm_protocol::evaluate::ScanState;
use upswarm_protocol::ids::{DeviceId, GroupId, ReleaseId};
use upswarm_protocol::report::DeploymentReport;
use upswarm_protocol::time::Wall;
use upswarm_protocol::wire::WanLimits;

use super::Fleet;
use super::alarms::Alarms;
use super::known::Said;
use super::names::Names;
use super::part::{CatalogParts, Part, PartOf};
use super::rules::Rules;
use crate::api::catalog::{Catalog, MIN_PREFIX};
use crate::api::devices::{DeviceHead, DeviceName};
use crate::api::holds::HoldView;
use crate::api::status::HeadStatus;
use crate::inventory::FACT_TIME_ZONE;

/// What the driver knows just now: small, or shared with it.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) parts: Arc<CatalogParts>,
    pub(crate) names: Arc<Names>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) holds: Vec<Hold>,
    pub(crate) wan_limits: Vec<WanLimits>,
    pub(crate) revoked: Arc<BTreeSet<DeviceId>>,
    pub(crate) connected: BTreeSet<DeviceId>,
    pub(crate) rollouts: Arc<Vec<RolloutStatus>>,
    pub(crate) head: Option<Head>,
    /// What the root pins of repositories.
    pub(crate) upstreams: Vec<UpstreamRule>,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) origin_bytes: u64,
    /// By the coordinator's clock.
    pub(crate) now: Wall,
}

/// Everything that answers are made of.
pub(crate) struct View<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) names: &'a Names,
    pub(crate) rules: &'a Rules,
    pub(crate) alarms: &'a Alarms,
    /// What the root pins of repositories.
    pub(crate) upstreams: &'a [UpstreamRule],
    pub(crate) origin_bytes: u64,
    pub(crate) now: Wall,
    live: &'a Live,
    fleet: &'a Fleet,
}

impl<'a> View<'a> {
    pub(crate) fn new(live: &'a Live, fleet: &'a Fleet) -> Self {
        Self {
            catalog: &live.catalog,
            names: &live.names,
            rules: &live.rules,
            alarms: &live.alarms,
            upstreams: &live.upstreams,
            origin_bytes: live.origin_bytes,
            now: live.now,
            live,
            fleet,
        }
    }

    /// Every device that was ever let in, in order of their keys.
    pub(crate) fn all_devices(&self) -> impl Iterator<Item = &'a DeviceRecord> + use<'a> {
        self.fleet.values().map(|known| &*known.record)
    }

    /// Devices that are neither shut out nor retired.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &'a DeviceRecord> + use<'a> {
        let revoked = &self.live.revoked;
        let retired = self.names.retired();
        self.all_devices()
            .filter(move |record| !revoked.contains(&record.device) && !retired.contains_key(&record.device))
    }

    /// The one device that a text names: its label, its key, or first digits of that. One that is shut out is meant only when
    /// no other is.
    pub(crate) fn device_named(&self, text: &str) -> Result<&'a DeviceRecord, Refusal> {
        let digits = text.to_ascii_lowercase();
        let prefix = text.len() >= MIN_PREFIX && text.bytes().all(|c| c.is_ascii_hexdigit());
        let named = |record: &&DeviceRecord| {
            self.name(record) == text || prefix && record.device.to_string().starts_with(&digits)
        };
        let mut found: Vec<&DeviceRecord> = self.devices().filter(named).collect();
        if found.is_empty() {
            found = self.all_devices().filter(named).collect();
        }
        match found.as_slice() {
            [one] => Ok(one),
            [] => Err(Refusal::Request(format!("no device is named {text:?}; see: upswarm status --devices"))),
            several => {
                let keys: Vec<String> = several.iter().map(|record| record.device.short()).collect();
                let keys = keys.join(", ");
                Err(Refusal::Request(format!("several devices are named {text:?}: {keys}; give the key")))
            }
        }
    }

    pub(crate) fn is_revoked(&self, device: &DeviceId) -> bool {
        self.live.revoked.contains(device)
    }

    pub(crate) fn is_retired(&self, device: &DeviceId) -> bool {
        self.names.retired().contains_key(device)
    }

    pub(crate) fn is_connected(&self, device: &DeviceId) -> bool {
        self.live.connected.contains(device)
    }

    /// Devices that are connected now.
    pub(crate) fn connected(&self) -> usize {
        self.live.connected.len()
    }

    /// A device's name for people.
    pub(crate) fn name(&self, record: &DeviceRecord) -> String {
        self.name_of(&record.device)
    }

    /// The name of a device, be it still a member or not.
    pub(crate) fn name_of(&self, device: &DeviceId) -> String {
        self.fleet.get(device).map_or_else(|| device.short(), |known| known.name())
    }

    /// The device with its name.
    pub(crate) fn named(&self, record: &DeviceRecord) -> DeviceName {
        DeviceName { device: record.device, name: self.name(record) }
    }

    /// What every view of a device begins with.
    pub(crate) fn head(&self, record: &DeviceRecord) -> DeviceHead {
        DeviceHead {
            device: record.device,
            name: self.name(record),
            site: self.names.site_name(&record.site),
            last_seen_s: self.said(&record.device).map(|said| self.age(said.received)),
            connected: self.is_connected(&record.device),
        }
    }

    /// What a device, and every other of its groups and role, judges by itself.
    pub(crate) fn part(&self, record: &DeviceRecord) -> Part {
        self.live.parts.part(PartOf::device(record))
    }

    /// Where a device stands with a release, which may be in its `part` of the catalog or not. `None`: nothing is known of it.
    pub(crate) fn need(&self, device: &DeviceId, part: &Part, release: &ReleaseId) -> Option<ScanState> {
        self.live.parts.state(release, part, self.scan(device), self.inventory(device))
    }

    /// What a device last said.
    pub(crate) fn said(&self, device: &DeviceId) -> Option<&'a Said> {
        self.fleet.get(device)?.said.as_deref()
    }

    /// Where a device stands, deployment by deployment.
    pub(crate) fn deployments(&self, device: &DeviceId) -> &'a [DeploymentReport] {
        self.said(device).map(|said| said.deployments.as_slice()).unwrap_or_default()
    }

    /// What is installed on a device.
    pub(crate) fn inventory(&self, device: &DeviceId) -> Option<&'a DeviceInventory> {
        self.fleet.get(device)?.inventory.as_ref()
    }

    /// What a device is missing.
    pub(crate) fn scan(&self, device: &DeviceId) -> Option<&'a DeviceScan> {
        self.fleet.get(device)?.scan.as_deref()
    }

    /// The time zone that a device has told.
    pub(crate) fn time_zone(&self, device: &DeviceId) -> Option<&'a str> {
        self.inventory(device)?.inventory.fact(FACT_TIME_ZONE)
    }

    /// Every current rollout.
    pub(crate) fn rollouts(&self) -> &'a [RolloutStatus] {
        &self.live.rollouts
    }

    /// What is ordered for sites, those whose rates were taken back too.
    pub(crate) fn wan_limits(&self) -> &'a [WanLimits] {
        &self.live.wan_limits
    }

    /// What is stopped, by name.
    pub(crate) fn holds(&self) -> Vec<HoldView> {
        let group = |group: &GroupId| Some(self.names.group_name(group));
        let view = |hold: &Hold| match hold {
            Hold::Everything => HoldView { group: None, release: None },
            Hold::Group(id) => HoldView { group: group(id), release: None },
            Hold::Release(release) => HoldView { group: None, release: Some(*release) },
            Hold::Approval(id, release) | Hold::Rollout(id, release) => {
                HoldView { group: group(id), release: Some(*release) }
            }
        };
        // The admin may have stopped what has stopped by itself too.
        let held: BTreeSet<HoldView> = self.live.holds.iter().map(view).collect();
        held.into_iter().collect()
    }

    /// What holds a release in a group back, in the words of the flags of `resume`.
    pub(crate) fn holding(&self, group: &str, release: &ReleaseId) -> Vec<String> {
        self.holds().iter().filter(|hold| hold.covers(group, release)).map(HoldView::words).collect()
    }

    /// The public head.
    pub(crate) fn head_status(&self) -> Option<HeadStatus> {
        let head = self.live.head.as_ref()?;
        Some(HeadStatus {
            root_version: head.root_version,
            index_version: head.index_version,
            age_s: self.age(head.issued),
            expires: head.expires.to_string(),
        })
    }

    /// Seconds since then, by the coordinator's clock.
    pub(crate) fn age(&self, since: Wall) -> u64 {
        self.now.since(since).as_secs()
    }
}
