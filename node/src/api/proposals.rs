//! What the fleet misses of its repositories, and from that to a release that can be approved.

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::Severity;
use upswarm_protocol::ids::ReleaseId;

use super::devices::DeviceName;
use super::feeds::VerdictRow;
use super::repositories::Stage;

/// `GET /admin/v1/updates`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdatesQuery {
    /// Only of this upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<String>,
    /// Only machines of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Only of this source package, machine by machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Only what is known to mend something at least so bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) severity: Option<Severity>,
    /// Only what mends this CVE, with what feeds say of it for every version that machines have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cve: Option<String>,
}

/// Its answer: the worst first, and of equal ones what most machines miss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Updates {
    /// Machines that have told their inventory.
    pub(crate) machines: usize,
    pub(crate) updates: Vec<UpdateRow>,
    /// Updates that `severity` leaves out because nothing is known of them.
    #[serde(default)]
    pub(crate) unknown: usize,
    /// What feeds say of the CVE that was asked for; nothing is no good news.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) verdicts: Vec<VerdictRow>,
    /// What an answer about advisories rests on and is not in order, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// A source package of which machines have earlier versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpdateRow {
    pub(crate) upstream: String,
    /// Version of the snapshot that has it.
    pub(crate) snapshot: String,
    pub(crate) source: String,
    /// Versions that are installed of its packages, the oldest first.
    pub(crate) from: Vec<String>,
    /// The source package's version in the snapshot.
    pub(crate) to: String,
    /// Binary packages that are older somewhere.
    pub(crate) packages: Vec<String>,
    /// Machines with any of them.
    pub(crate) machines: usize,
    /// That of the worst CVE that it mends on some machine. Nothing where no advisory is known: that says nothing good of it.
    pub(crate) severity: Option<Severity>,
    /// Those CVEs.
    pub(crate) cves: Vec<String>,
    /// Seconds since upstream's first snapshot here that has it; nothing when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) age_s: Option<u64>,
    /// Which machines, when one source package was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) devices: Vec<DeviceName>,
}

/// `POST /admin/v1/proposals`: tries with apt what a selection of a snapshot would do, and publishes it as a release unless it is
/// only to be shown. The answer comes at once; how far it is, `GET /admin/v1/proposals?id=` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProposalRequest {
    /// The upstream's name.
    pub(crate) upstream: String,
    /// `latest`, `before` (the one before what is approved in the group), or the version of a snapshot.
    pub(crate) snapshot: String,
    /// On whose machines it is tried.
    pub(crate) group: String,
    /// Source packages; none for all that is older on some machine of the group.
    #[serde(default)]
    pub(crate) select: Vec<String>,
    /// Of these, and of all without any, only what feeds know to mend something at least so bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) min_severity: Option<Severity>,
    /// Source packages that stay as they are.
    #[serde(default)]
    pub(crate) except: Vec<String>,
    /// Binary packages that every machine of the group gets.
    #[serde(default)]
    pub(crate) install: Vec<String>,
    /// Machines that have later versions go back to those of the snapshot.
    #[serde(default)]
    pub(crate) back: bool,
    /// Publish it though apt would remove packages somewhere.
    #[serde(default)]
    pub(crate) allow_removals: bool,
    /// Publish nothing.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// Which proposal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProposalQuery {
    pub(crate) id: u64,
}

/// How far a proposal is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProposalStatus {
    pub(crate) id: u64,
    /// What is being done; nothing when it has ended.
    pub(crate) running: Option<Stage>,
    /// What came of it.
    pub(crate) done: Option<Proposal>,
    /// Why nothing came of it.
    pub(crate) error: Option<String>,
}

/// What a selection would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    /// The product and version that it is published as, and its release when it is.
    pub(crate) product: String,
    pub(crate) version: String,
    pub(crate) release: Option<ReleaseId>,
    /// Machines of the group, and those of them on which nobody knows what is installed or for which the snapshot is not.
    pub(crate) machines: usize,
    pub(crate) left_out: usize,
    /// Every package, by source.
    pub(crate) packages: Vec<ProposedPackage>,
    /// Bytes of all of them.
    pub(crate) bytes: u64,
    /// Source packages that were added because selected ones are tied to them.
    pub(crate) added: Vec<String>,
    /// Whether machines with later versions go back.
    #[serde(default)]
    pub(crate) back: bool,
    /// Packages with their versions that stay when machines go back: the snapshot has no such package.
    #[serde(default)]
    pub(crate) stays: Vec<String>,
    /// Machines that are alike together, most of them first.
    pub(crate) states: Vec<ProposedState>,
    /// What feeds say that it mends, the worst first.
    #[serde(default)]
    pub(crate) mends: Vec<Mending>,
}

/// What feeds say that a source package of a proposal mends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mending {
    pub(crate) source: String,
    pub(crate) severity: Severity,
    pub(crate) cves: Vec<String>,
}

/// A package of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProposedPackage {
    pub(crate) source: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) arch: String,
    /// Percent of machines to which upstream is rolling it out so far; nothing when to all. Rings decide here, not that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) phased: Option<u8>,
    /// Versions that machines have of it, the oldest first.
    #[serde(default)]
    pub(crate) from: Vec<String>,
    /// Machines that have an earlier version.
    pub(crate) upgrades: usize,
    /// Machines that have a later version, and go back.
    #[serde(default)]
    pub(crate) back: usize,
    /// Machines that get it anew.
    pub(crate) new: usize,
}

/// What apt would do on machines that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProposedState {
    pub(crate) machines: usize,
    pub(crate) upgrades: usize,
    /// Packages that go back.
    #[serde(default)]
    pub(crate) back: usize,
    pub(crate) new: usize,
    /// Names of packages that apt would remove.
    pub(crate) removes: Vec<String>,
    /// Why apt would do nothing there.
    pub(crate) refused: Option<String>,
    /// Installed packages of which no index tells what they depend on.
    pub(crate) partial: usize,
}
