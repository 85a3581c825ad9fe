//! What a node can tell about itself at any moment.

use super::NodeState;
use super::peers::Stage;
use crate::ids::{DeviceId, PayloadId};
use crate::report::{BytesBySource, DeploymentReport};
use crate::time::Mono;

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub device: DeviceId,
    /// `greeting`, `member`, `cache` or `coordinator`.
    pub kind: &'static str,
    /// Payload bytes it gave in this connection.
    pub given: u64,
    /// Block requests to it that are under way.
    pub outstanding: usize,
}

/// A payload that is wanted or served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadStatus {
    /// The payload.
    pub payload: PayloadId,
    /// Whether this node needs it.
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
}

/// A node's view of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// This device.
    pub device: DeviceId,
    /// Members of the site that are here, this node included.
    pub members: usize,
    /// Whether the coordinator is connected.
    pub coordinator: bool,
    /// Version of the catalog in force.
    pub index_version: u64,
    /// Connected peers.
    pub peers: Vec<PeerStatus>,
    /// Payloads.
    pub downloads: Vec<DownloadStatus>,
    /// Deployments.
    pub deployments: Vec<DeploymentReport>,
    /// Bytes since the node was set up.
    pub bytes: BytesBySource,
    /// Payload bytes that came in vain, in this run.
    pub wasted: u64,
    /// What an admin should look at.
    pub alarms: Vec<String>,
}

impl NodeState {
    /// What this node knows about itself, at the monotonic time `now`.
    pub fn status(&self, now: Mono) -> NodeStatus {
        let peer = |(device, peer): (&DeviceId, &super::peers::Peer)| PeerStatus {
            device: *device,
            kind: match peer.stage {
                Stage::Greeting => "greeting",
                Stage::Member { cache: false } => "member",
                Stage::Member { cache: true } => "cache",
                Stage::Coordinator => "coordinator",
            },
            given: peer.given,
            outstanding: peer.outstanding,
        };
        let downloads = self.downloads.overview(now);
        NodeStatus {
            device: self.me,
            members: self.membership.size(),
            coordinator: self.peers.coordinator.is_some(),
            index_version: self.trust.catalog().index_version(),
            peers: self.peers.connected.iter().map(peer).collect(),
            downloads: downloads
                .map(|(payload, wanted, done, total, sources, own_leases, other_leases)| DownloadStatus {
                    payload,
                    wanted,
                    done,
                    total,
                    sources,
                    own_leases,
                    other_leases,
                })
                .collect(),
            deployments: self.deployed().iter().filter_map(|id| self.deployment_report(id)).collect(),
            bytes: self.downloads.bytes,
            wasted: self.downloads.wasted,
            alarms: self.reports.alarms().map(|text| text.to_string()).collect(),
        }
    }
}
