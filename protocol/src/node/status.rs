//! What a node can tell about itself at any moment.

use serde::Serialize;

use super::peers::Stage;
use super::{Conditions, DiskStatus, NodeState};
use crate::catalog::NodeRole;
use crate::codec::Text;
use crate::ids::{DeviceId, PayloadId, ReleaseId, SiteId};
use crate::report::{BytesBySource, DeploymentReport};
use crate::time::{Mono, Wall};

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// The peer.
    pub device: DeviceId,
    /// Its name for people, once its presence has told it.
    pub label: Text<64>,
    /// `greeting`, `member`, `cache` or `coordinator`.
    pub kind: &'static str,
    /// Payload bytes it gave in this connection.
    pub given: u64,
    /// Payload bytes it took in this connection.
    pub taken: u64,
    /// Block requests to it that are under way.
    pub outstanding: usize,
    /// Whether it is not asked now: it said busy, or was slow.
    pub busy: bool,
    /// Payloads of which it holds something.
    pub holdings: usize,
}

/// WAN extents of one payload that one member fetches now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseStatus {
    /// Who; may be this device.
    pub device: DeviceId,
    /// Positions of the extents.
    pub extents: Vec<u32>,
}

/// A payload that is wanted or served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DownloadStatus {
    /// The payload.
    pub payload: PayloadId,
    /// Its file name.
    pub name: Text<255>,
    /// Whether this node needs it, and nothing holds it.
    pub wanted: bool,
    /// Bytes verified and on disk.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// Neighbours that hold some of it.
    pub sources: usize,
    /// WAN extents that this node fetches now.
    pub own_leases: usize,
    /// WAN extents that others fetch now.
    pub other_leases: usize,
    /// Who fetches what over the WAN now, this node first.
    pub leases: Vec<LeaseStatus>,
}

/// What people call a release that is deployed here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReleaseName {
    /// The release.
    pub release: ReleaseId,
    /// Its product.
    pub product: Text<128>,
    /// Its version.
    pub version: Text<128>,
    /// For people.
    pub title: Text<255>,
}

/// An attempt that did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptStatus {
    /// Of which release.
    pub release: ReleaseId,
    /// When.
    pub at: Wall,
    /// Exit code, if a program ran.
    pub code: Option<i32>,
    /// Why, with the log's tail.
    pub reason: Text<600>,
}

/// A restart that an install wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestartStatus {
    /// The release that wants it.
    pub release: ReleaseId,
    /// When it is to be, once the person at the machine has been told.
    pub at: Option<Wall>,
    /// What it waits for, for people.
    pub reason: String,
}

/// Another member of the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// The member.
    pub device: DeviceId,
    /// Its name for people.
    pub label: Text<64>,
    /// Whether it is a branch cache.
    pub cache: bool,
    /// Whether it is here: neither gone nor going.
    pub here: bool,
    /// Whether it is connected to this node.
    pub connected: bool,
    /// Whether it says that it is connected to the coordinator.
    pub uplink: bool,
    /// How willing it is to fetch over the WAN; 0 means never.
    pub wan_weight: u8,
    /// Payloads that it says it is ready to fetch.
    pub wants: usize,
    /// Payloads that it says it holds whole; who holds what others have spoken of is silent.
    pub holds: usize,
    /// Seconds since it was last heard of.
    pub heard_s: u64,
}

/// A node's view of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// This device.
    pub device: DeviceId,
    /// Its name for people.
    pub label: Text<64>,
    /// Its site.
    pub site: SiteId,
    /// Members of the site that are here, this node included.
    pub members: usize,
    /// Whether the coordinator is connected.
    pub coordinator: bool,
    /// Version of the catalog in force.
    pub index_version: u64,
    /// When the newest head was signed, and when it expires.
    pub head: Option<(Wall, Wall)>,
    /// Connected peers.
    pub peers: Vec<PeerStatus>,
    /// Payloads.
    pub downloads: Vec<DownloadStatus>,
    /// Deployments.
    pub deployments: Vec<DeploymentReport>,
    /// What attempts said that did not work, the earliest first, of deployments that are not done.
    pub attempts: Vec<AttemptStatus>,
    /// What the machine runs on.
    pub conditions: Conditions,
    /// How willing this node is to fetch over the WAN now; 0 means never.
    pub wan_weight: u8,
    /// The restart that an install here wanted.
    pub restart: Option<RestartStatus>,
    /// Why the operating system wants a restart, whoever installed what: as the inventory says.
    pub system_restart: Option<String>,
    /// Their releases, as far as the catalog holds them.
    pub releases: Vec<ReleaseName>,
    /// The site's other members, here or not.
    pub site_members: Vec<MemberStatus>,
    /// Bytes since the node was set up.
    pub bytes: BytesBySource,
    /// Payload bytes that came in vain, in this run.
    pub wasted: u64,
    /// What the disk does with what is stored.
    pub disk: DiskStatus,
    /// What an admin should look at.
    pub alarms: Vec<String>,
}

impl NodeState {
    /// What this node knows about itself, at the monotonic time `now`.
    pub fn status(&self, now: Mono) -> NodeStatus {
        let label_of = |device: &DeviceId| match self.membership.get(device) {
            Some(member) => member.certificate.label.clone(),
            None => Text::default(),
        };
        let peer = |(device, peer): (&DeviceId, &super::peers::Peer)| {
            let neighbour = self.downloads.neighbour(device);
            PeerStatus {
                device: *device,
                label: label_of(device),
                kind: match peer.stage {
                    Stage::Greeting => "greeting",
                    Stage::Member { cache: false } => "member",
                    Stage::Member { cache: true } => "cache",
                    Stage::Coordinator => "coordinator",
                },
                given: neighbour.map_or(0, |neighbour| neighbour.given),
                taken: neighbour.map_or(0, |neighbour| neighbour.taken),
                outstanding: neighbour.map_or(0, |neighbour| neighbour.outstanding),
                busy: neighbour.is_some_and(|neighbour| neighbour.busy_until > now),
                holdings: neighbour.map_or(0, |neighbour| neighbour.holdings()),
            }
        };
        let lease = |(device, extents)| LeaseStatus { device, extents };
        let downloads =
            self.downloads.overview(now).map(|(payload, wanted, done, total, sources, own, others)| DownloadStatus {
                payload,
                name: self.downloads.name_of(&payload),
                wanted,
                done,
                total,
                sources,
                own_leases: own,
                other_leases: others,
                leases: self.downloads.leases(&payload, now).into_iter().map(lease).collect(),
            });
        let deployed: Vec<ReleaseId> = self.deployments.all().collect();
        let named = deployed.iter().filter_map(|id| {
            let release = &self.trust.catalog().releases().get(id)?.release;
            let (product, version, title) = (release.product.clone(), release.version.clone(), release.title.clone());
            Some(ReleaseName { release: *id, product, version, title })
        });
        let members = self.membership.iter().map(|(device, member)| MemberStatus {
            device: *device,
            label: member.certificate.label.clone(),
            cache: member.certificate.role == NodeRole::Cache,
            here: member.is_here(),
            connected: self.peers.connected.contains_key(device),
            uplink: member.presence.uplink,
            wan_weight: member.presence.wan_weight,
            wants: member.presence.fetches.len(),
            holds: member.presence.holds.len(),
            heard_s: now.since(member.heard).as_secs(),
        });
        NodeStatus {
            device: self.cx.me,
            label: self.cx.config.label.clone(),
            site: self.certificate.site,
            members: self.membership.size(),
            coordinator: self.peers.coordinator.is_some(),
            index_version: self.trust.catalog().index_version(),
            head: self.trust.head().map(|head| (head.issued, head.expires)),
            peers: self.peers.connected.iter().map(peer).collect(),
            downloads: downloads.collect(),
            deployments: deployed.iter().filter_map(|id| self.deployment_report(id)).collect(),
            attempts: self.attempts(),
            restart: self.restart_status(now),
            system_restart: self.system_restart(),
            conditions: self.standing.now,
            wan_weight: self.wan_weight(),
            releases: named.collect(),
            site_members: members.collect(),
            bytes: self.downloads.bytes,
            wasted: self.downloads.wasted,
            disk: self.disk.clone(),
            alarms: self.reports.alarms().map(|alarm| alarm.text.to_string()).collect(),
        }
    }
}
