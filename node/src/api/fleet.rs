//! The machines as a whole, one by one and by site: where each stands in a word, and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::NodeRole;
use upswarm_protocol::ids::{DeviceId, ReleaseId};
use upswarm_protocol::report::BytesBySource;

use super::devices::DeviceHead;
use super::limits::RateView;
use super::status::DeviceStatus;

/// The most rows of one page.
pub(crate) const MAX_PER_PAGE: usize = 5000;
/// Rows of a page, if nobody says how many.
pub(crate) const PER_PAGE: usize = 50;

/// Where a machine stands as a whole. Each machine is in exactly one of them; what is not known is never counted as good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Standing {
    /// Something failed or makes no progress, or the machine itself is in trouble.
    Attention,
    /// Nobody knows: it has told nothing, or not for so long that what it told says nothing of today.
    Unknown,
    /// What is approved for it is not done yet.
    Pending,
    /// It needs something that nobody has decided about.
    Approval,
    /// All that it lacks was declined for it.
    Exception,
    /// It has everything that is approved for it, and needs nothing else.
    Current,
}

impl Standing {
    /// All of them, what needs somebody first.
    pub(crate) const ALL: [Standing; 6] = [
        Standing::Attention,
        Standing::Unknown,
        Standing::Pending,
        Standing::Approval,
        Standing::Exception,
        Standing::Current,
    ];

    /// The name that it has in queries and files.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Standing::Attention => "attention",
            Standing::Unknown => "unknown",
            Standing::Pending => "pending",
            Standing::Approval => "approval",
            Standing::Exception => "exception",
            Standing::Current => "current",
        }
    }
}

/// By what machines are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SortMachines {
    #[default]
    Name,
    Site,
    /// What needs somebody first.
    Standing,
    /// Those heard of least recently first.
    Seen,
}

/// `GET /admin/v1/machines`: machines that are neither shut out nor retired, page by page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MachineQuery {
    /// Only machines that stand so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) standing: Option<Standing>,
    /// Only machines that were not heard of for a day.
    #[serde(default)]
    pub(crate) silent: bool,
    /// Only members of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Only machines of this site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) site: Option<String>,
    /// Only machines that report about this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<String>,
    /// Only machines with a deployment in this state, of `release` if that is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    /// Only machines with this text in their name, key, site, groups or system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    #[serde(default)]
    pub(crate) sort: SortMachines,
    /// In the other order.
    #[serde(default)]
    pub(crate) descending: bool,
    /// From 1; none is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) page: Option<usize>,
    /// Rows of a page, at most 5000; none for 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) per: Option<usize>,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MachinePage {
    /// When it was put together, by the coordinator's clock, RFC 3339.
    pub(crate) at: String,
    /// Machines in all, and those that the query is about.
    pub(crate) fleet: usize,
    pub(crate) matched: usize,
    pub(crate) page: usize,
    pub(crate) pages: usize,
    pub(crate) machines: Vec<MachineRow>,
}

/// A machine in a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MachineRow {
    #[serde(flatten)]
    pub(crate) head: DeviceHead,
    pub(crate) role: NodeRole,
    pub(crate) groups: Vec<String>,
    pub(crate) os: Option<String>,
    pub(crate) standing: Standing,
    /// Why it stands so, in a sentence.
    pub(crate) why: String,
    /// Not heard of for a day.
    pub(crate) silent: bool,
    pub(crate) pending_restart: bool,
}

/// `GET /admin/v1/machine`: everything that is known of one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    #[serde(flatten)]
    pub(crate) row: MachineRow,
    pub(crate) status: DeviceStatus,
    /// Facts of its inventory.
    pub(crate) facts: BTreeMap<String, String>,
    /// What limits everything that is said here: not heard of lately, groups not heard, an older catalog.
    pub(crate) caveats: Vec<String>,
    /// Release by release: where it stands and why; what is in trouble first, what is done last.
    pub(crate) explanations: Vec<Explanation>,
}

/// Where a machine stands with a release, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    pub(crate) release: ReleaseId,
    pub(crate) product: String,
    pub(crate) version: String,
    pub(crate) title: String,
    /// The group whose approval counts, if one does.
    pub(crate) group: Option<String>,
    pub(crate) standing: Standing,
    /// The machine's own word, or what its scan says: `Installed`, `Failed`, `Required`.
    pub(crate) state: String,
    /// Seconds since it has been in that state, by what the machine said.
    pub(crate) since_s: Option<u64>,
    /// Payload bytes on its disk, of all.
    pub(crate) done: u64,
    pub(crate) total: u64,
    /// In a sentence.
    pub(crate) says: String,
    /// The rules and facts that this rests on.
    pub(crate) because: Vec<String>,
}

/// `GET /admin/v1/sites`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SiteList {
    pub(crate) sites: Vec<SiteRow>,
}

/// A site in a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SiteRow {
    pub(crate) site: String,
    pub(crate) machines: usize,
    pub(crate) connected: usize,
    pub(crate) caches: usize,
    pub(crate) silent: usize,
    pub(crate) standings: BTreeMap<Standing, usize>,
    /// Payload bytes of its machines by where they came from.
    pub(crate) bytes: BytesBySource,
    pub(crate) limits: Vec<RateView>,
}

/// `GET /admin/v1/site`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SiteQuery {
    pub(crate) site: String,
}

/// A site and the machines that share its WAN link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SiteView {
    #[serde(flatten)]
    pub(crate) row: SiteRow,
    /// Caches first, then whoever has fetched most over the WAN; not more than some hundred.
    pub(crate) swarm: Vec<SwarmMachine>,
}

/// A machine of a site's swarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SwarmMachine {
    pub(crate) device: DeviceId,
    pub(crate) name: String,
    pub(crate) role: NodeRole,
    pub(crate) connected: bool,
    pub(crate) silent: bool,
    pub(crate) standing: Standing,
    /// Machines of its site with which it speaks.
    pub(crate) neighbours: u32,
    pub(crate) bytes: BytesBySource,
    /// Hundredths of the bytes that it is to have, of what it fetches now.
    pub(crate) percent: Option<u8>,
}
