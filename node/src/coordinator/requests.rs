//! What the HTTP server asks the driver, which alone owns the core, the fleet and the names.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use upswarm_protocol::coordinator_state::{Command, Done, Input, Refusal};

use super::inventories::{InventoryQuery, MissingQuery};
use super::rules::{NewRule, Rule};

/// Requests that may wait for the driver.
pub(crate) const MAX_REQUESTS: usize = 64;

/// A wish of the admin, or news from an upload.
#[derive(Debug)]
pub(crate) enum Request {
    /// Something for the core.
    Command(Command, oneshot::Sender<Result<Done, Refusal>>),
    /// A payload or chunk list is in the store; answered when the core knows.
    Held(Input, oneshot::Sender<()>),
    /// A join token.
    Invite(InviteRequest, oneshot::Sender<Result<Invited, Refusal>>),
    /// Stop something, or let it go on.
    Hold(HoldRequest, oneshot::Sender<Result<Done, Refusal>>),
    /// A group's name, or a device's membership; answered when it is on disk.
    Group(GroupRequest, oneshot::Sender<Result<Value, Refusal>>),
    /// Every rule.
    Rules(oneshot::Sender<Vec<Rule>>),
    /// A new rule; answered when it is on disk.
    AddRule(Box<NewRule>, oneshot::Sender<Result<Value, Refusal>>),
    /// Remove the rule with this number; answered when that is on disk.
    RemoveRule(u32, oneshot::Sender<Result<Value, Refusal>>),
    /// The fleet's status.
    Status(oneshot::Sender<Value>),
    /// What is installed.
    Inventory(InventoryQuery, oneshot::Sender<Result<Value, Refusal>>),
    /// What is missing.
    Missing(MissingQuery, oneshot::Sender<Result<Value, Refusal>>),
    /// What is published, and the admin's names.
    Catalog(oneshot::Sender<Catalog>),
}

/// Why a request got no answer: the driver has ended.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the coordinator is shutting down")]
pub(crate) struct Gone;

/// Asks the driver and waits for its answer.
pub(crate) async fn ask<T>(
    driver: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Gone> {
    let (reply, answer) = oneshot::channel();
    driver.send(request(reply)).await.map_err(|_| Gone)?;
    answer.await.map_err(|_| Gone)
}

/// `POST /admin/v1/invite`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InviteRequest {
    /// Name of the group.
    pub(crate) group: String,
    /// Name of the site.
    pub(crate) site: String,
    /// Seconds for which the token is good.
    pub(crate) ttl_s: u64,
    /// Devices that it lets in.
    pub(crate) uses: u32,
    /// Addresses of the coordinator as the devices see it; empty for those on which it listens.
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
}

/// Its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Invited {
    /// The join token.
    pub(crate) token: String,
    /// When it ends, RFC 3339.
    pub(crate) expires: String,
}

/// `POST /admin/v1/hold`: with neither group nor release, everything; with one, that; with both, one approval.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HoldRequest {
    /// Name of the group.
    #[serde(default)]
    pub(crate) group: Option<String>,
    /// Release id, in hex.
    #[serde(default)]
    pub(crate) release: Option<String>,
    /// Whether it is to be stopped.
    pub(crate) on: bool,
}

/// `POST /admin/v1/group`: without a device, makes the group; with one, puts it in or takes it out; with conditions, makes the
/// group dynamic.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupRequest {
    /// Name of the group.
    pub(crate) group: String,
    /// The device.
    #[serde(default)]
    pub(crate) device: Option<upswarm_protocol::ids::DeviceId>,
    /// Whether it is to be a member.
    #[serde(default)]
    pub(crate) member: bool,
    /// What the members of a dynamic group fulfil.
    #[serde(default, rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub(crate) conditions: Vec<String>,
    /// Only tell who would be a member.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// `POST /admin/v1/rules/remove`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveRule {
    /// The rule's number.
    pub(crate) id: u32,
}

/// `GET /admin/v1/catalog`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Catalog {
    /// Version of the index.
    pub(crate) index_version: u64,
    /// Groups by name.
    pub(crate) groups: std::collections::BTreeMap<String, upswarm_protocol::ids::GroupId>,
    /// Conditions of dynamic groups by name.
    #[serde(default)]
    pub(crate) conditions: std::collections::BTreeMap<String, Vec<String>>,
    /// Releases.
    pub(crate) releases: Vec<CatalogRelease>,
    /// Approvals.
    pub(crate) approvals: Vec<CatalogApproval>,
}

/// A published release.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CatalogRelease {
    pub(crate) release: upswarm_protocol::ids::ReleaseId,
    pub(crate) product: String,
    pub(crate) version: String,
    pub(crate) counter: u64,
    pub(crate) title: String,
    pub(crate) classification: upswarm_protocol::catalog::Classification,
    pub(crate) severity: upswarm_protocol::catalog::Severity,
    /// When no new install rests on it any more, RFC 3339.
    pub(crate) expires: String,
}

/// A current approval.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CatalogApproval {
    pub(crate) release: upswarm_protocol::ids::ReleaseId,
    pub(crate) group: upswarm_protocol::ids::GroupId,
    pub(crate) version: u64,
    pub(crate) action: upswarm_protocol::catalog::Action,
    /// When no new install rests on it any more, RFC 3339.
    pub(crate) expires: String,
    /// When.
    pub(crate) schedule: upswarm_protocol::catalog::Schedule,
    /// In which stages.
    pub(crate) rings: upswarm_protocol::catalog::RingPlan,
    /// The admin's remark.
    pub(crate) note: String,
}
