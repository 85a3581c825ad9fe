//! What the HTTP server asks the driver, which alone owns the core and the names: a closed list. Owns the words, decides nothing.

use ed25519_dalek::SigningKey;
use tokio::sync::{mpsc, oneshot};
use upswarm_protocol::coordinator::{Input, Refusal};

use super::store::view::Live;
use crate::api::actor::Actor;
use crate::api::alarms::{AcknowledgeRequest, Acknowledged};
use crate::api::approvals::{Accepted, SignedDocument};
use crate::api::devices::{ReadmitRequest, Readmitted, RetireRequest, Retired, RevokeRequest, Revoked};
use crate::api::groups::{GroupMade, MemberRequest, Membership, NewGroup, SignedGroup};
use crate::api::holds::{Held, HoldRequest};
use crate::api::invites::{DisinviteRequest, InviteList, InviteRequest, InviteView, Invited};
use crate::api::limits::{LimitRequest, SiteLimits};
use crate::api::logs::{DeviceLogs, LogAsked, LogQuery, LogRequest};
use crate::api::releases::{WithdrawRequest, Withdrawn};
use crate::api::retries::{Retried, RetryRequest};
use crate::api::rules::RepositoryRule;

/// Requests that may wait for the driver.
pub(crate) const MAX_REQUESTS: usize = 64;

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A change by the admin, news from an upload, or a reader's question. Changes are answered when they are durable.
#[derive(Debug)]
pub(crate) enum Request {
    /// What the driver knows just now.
    Live(oneshot::Sender<Live>),
    /// A payload or chunk list is in the store; answered when the core knows.
    Held(Input, oneshot::Sender<()>),
    /// A signed release.
    Publish(Actor, SignedDocument, Reply<Accepted>),
    /// A signed approval.
    Approve(Actor, SignedDocument, Reply<Accepted>),
    /// A signed root, and the online keys that are here.
    Root(Actor, SignedDocument, Vec<SigningKey>, Reply<Accepted>),
    /// A join token.
    Invite(Actor, InviteRequest, Reply<Invited>),
    /// Stop something, or let it go on.
    Hold(Actor, HoldRequest, Reply<Held>),
    /// Shut a device out.
    Revoke(Actor, RevokeRequest, Reply<Revoked>),
    /// Let a device in again.
    Readmit(Actor, ReadmitRequest, Reply<Readmitted>),
    /// Every token.
    Invites(oneshot::Sender<InviteList>),
    /// Take a token back.
    Disinvite(Actor, DisinviteRequest, Reply<InviteView>),
    /// Have machines try a release again.
    Retry(Actor, RetryRequest, Reply<Retried>),
    /// Have a machine tell a log.
    AskLog(Actor, LogRequest, Reply<LogAsked>),
    /// Logs that a machine was asked for.
    Logs(LogQuery, Reply<DeviceLogs>),
    /// How much of the WAN a site may use.
    Limit(Actor, LimitRequest, Reply<SiteLimits>),
    /// A machine that is gone.
    Retire(Actor, RetireRequest, Reply<Retired>),
    /// Take a release out.
    Withdraw(Actor, WithdrawRequest, Reply<Withdrawn>),
    /// A group.
    AddGroup(Actor, NewGroup, Reply<GroupMade>),
    /// What approvers have signed about a group.
    DescribeGroup(Actor, SignedGroup, Reply<Accepted>),
    /// A device's membership.
    Member(Actor, MemberRequest, Reply<Membership>),
    /// Alarms that somebody has looked at.
    Acknowledge(Actor, AcknowledgeRequest, Reply<Acknowledged>),
    /// Rules about products that approvers have signed.
    Rules(Actor, SignedDocument, Reply<Accepted>),
    /// A rule about a repository that approvers have signed.
    AddRule(Actor, SignedDocument, Reply<Accepted>),
    /// Remove the rule about a repository with this number.
    RemoveRule(Actor, u32, Reply<RepositoryRule>),
    /// What now hinders standing rules; all of it.
    RuleTroubles(Vec<String>, oneshot::Sender<()>),
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
