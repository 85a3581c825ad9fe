//! Speaks to a running coordinator's admin API, for the verbs: a method for each use-case. Owns the connection and the token;
//! never looks into what is asked or answered.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use upswarm_protocol::ids::{DocHash, PayloadId};
use zeroize::Zeroizing;

use super::directory::Directory;
use super::tls::{self, Fingerprint};
use crate::api::actor;
use crate::api::alarms::{AcknowledgeRequest, Acknowledged, AlarmList, AlarmQuery};
use crate::api::approvals::{Accepted, ApprovalDraft, SignedDocument, SigningRequest};
use crate::api::audit::Audit;
use crate::api::catalog::Catalog;
use crate::api::devices::{ReadmitRequest, Readmitted, RetireRequest, Retired, RevokeRequest, Revoked};
use crate::api::feeds::{FeedList, FeedRequest, NewFeed};
use crate::api::fleet::{Machine, MachinePage, MachineQuery, SiteList, SiteQuery, SiteView};
use crate::api::groups::{GroupMade, Groups, MemberRequest, Membership, NewGroup, SignedGroup};
use crate::api::holds::{Held, HoldRequest};
use crate::api::inventory::{DeviceInventory, DeviceQuery, Inventories, PackageHolders, PackageQuery};
use crate::api::invites::{DisinviteRequest, InviteList, InviteRequest, InviteView, Invited};
use crate::api::limits::{LimitList, LimitRequest, SiteLimits};
use crate::api::logs::{DeviceLogs, LogAsked, LogQuery, LogRequest};
use crate::api::missing::{Missing, MissingQuery};
use crate::api::overview::{Changes, ChangesQuery, Overview};
use crate::api::proposals::{ProposalQuery, ProposalRequest, ProposalStatus, Updates, UpdatesQuery};
use crate::api::releases::{WithdrawRequest, Withdrawn};
use crate::api::reports::ReportQuery;
use crate::api::repositories::{NewUpstream, RemoveUpstream, SyncRequest, UpstreamAdded, UpstreamList};
use crate::api::retries::{Retried, RetryRequest};
use crate::api::roots::RootChain;
use crate::api::rules::{NewRepositoryRule, RemoveRule, RepositoryRule, RuleDraft, RuleList};
use crate::api::status::{Status, StatusQuery};
use crate::error::CliError;

/// Longest wait for an answer that carries no payload.
const PATIENCE: Duration = Duration::from_secs(60);
/// An upload that moves nothing for this long has failed.
const READ_PATIENCE: Duration = Duration::from_secs(300);

/// A running coordinator.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    /// For messages.
    place: String,
    token: Zeroizing<String>,
}

impl Client {
    /// The coordinator that serves this data directory.
    pub(crate) fn of(data_dir: &Path) -> Result<Self, CliError> {
        let directory = Directory::existing(data_dir).map_err(|error| CliError::Refused(format!("{error:#}")))?;
        let served = directory.is_served()?;
        if !served {
            return Err(CliError::Refused(format!(
                "the coordinator of {} is not running; start it with: upswarm coordinator run --data-dir {}",
                data_dir.display(),
                data_dir.display()
            )));
        }
        let token = directory.token()?;
        let http = builder().no_proxy().unix_socket(directory.admin_socket());
        // No TLS on this machine: reading the system's roots would take longer than the call.
        let http = http.tls_certs_only([]).build().context("preparing HTTP")?;
        let place = data_dir.display().to_string();
        Ok(Self { http, base: "http://coordinator".to_owned(), place, token })
    }

    /// The coordinator at a URL, with the token in a file; with a key, only the coordinator that shows it.
    pub(crate) fn at(url: &str, token_file: &Path, key: Option<Fingerprint>) -> Result<Self, CliError> {
        let refused = |reason: String| CliError::Refused(format!("the coordinator's URL {url:?} {reason}"));
        let parsed: reqwest::Url = url.parse().map_err(|error| refused(format!("is none: {error}")))?;
        let local = match parsed.host_str().unwrap_or_default() {
            "localhost" => true,
            host => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        };
        match parsed.scheme() {
            "https" => {}
            "http" if local => {}
            _ => return Err(refused("would show the admin token to the network; take https://".to_owned())),
        }
        let token = std::fs::read_to_string(token_file)
            .map_err(|error| CliError::Refused(format!("the token file {}: {error}", token_file.display())))?;
        let token = Zeroizing::new(token.trim().to_owned());
        let http = if local { builder().no_proxy() } else { builder() };
        let http = match key {
            Some(key) => http.tls_backend_preconfigured(tls::pinned(key)?),
            None => http,
        };
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self { http: http.build().context("preparing HTTP")?, place: base.clone(), base, token })
    }

    /// Whether somebody shows the token of this coordinator. Comparing hashes takes the same time whatever is shown.
    pub(crate) fn is_token(&self, shown: &str) -> bool {
        blake3::hash(shown.as_bytes()) == blake3::hash(self.token.as_bytes())
    }

    /// The answer to a question as the coordinator gives it: its status, its tag and its body. For programs that ask through a console.
    pub(crate) async fn raw(&self, path: &str, known: Option<&str>) -> Result<RawAnswer, CliError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.get(url).bearer_auth(self.token.as_str()).timeout(PATIENCE);
        if let Some(known) = known {
            request = request.header(reqwest::header::IF_NONE_MATCH, known);
        }
        let answer = request.send().await.with_context(|| self.unreachable())?;
        let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (status, tag, kind) = (answer.status(), text(reqwest::header::ETAG), text(reqwest::header::CONTENT_TYPE));
        let body = answer.bytes().await.with_context(|| self.unreachable())?;
        Ok(RawAnswer { status, tag, kind, body: body.to_vec() })
    }

    /// How the fleet stands.
    pub(crate) async fn status(&self, query: &StatusQuery) -> Result<Status, CliError> {
        self.json(self.admin(Method::GET, "status").query(query)).await
    }

    /// The fleet on one page.
    pub(crate) async fn overview(&self) -> Result<Overview, CliError> {
        self.json(self.admin(Method::GET, "overview")).await
    }

    /// A page of machines.
    pub(crate) async fn machines(&self, query: &MachineQuery) -> Result<MachinePage, CliError> {
        self.json(self.admin(Method::GET, "machines").query(query)).await
    }

    /// Everything about one machine.
    pub(crate) async fn machine(&self, device: String) -> Result<Machine, CliError> {
        self.json(self.admin(Method::GET, "machine").query(&DeviceQuery { device })).await
    }

    /// Every site.
    pub(crate) async fn sites(&self) -> Result<SiteList, CliError> {
        self.json(self.admin(Method::GET, "sites")).await
    }

    /// One site with its machines.
    pub(crate) async fn site(&self, site: String) -> Result<SiteView, CliError> {
        self.json(self.admin(Method::GET, "site").query(&SiteQuery { site })).await
    }

    /// What was signed, by whom and when.
    pub(crate) async fn audit(&self) -> Result<Audit, CliError> {
        self.json(self.admin(Method::GET, "audit")).await
    }

    /// A report over time, by its name in the API.
    pub(crate) async fn report<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
        query: &ReportQuery,
    ) -> Result<T, CliError> {
        self.json(self.admin(Method::GET, &format!("report/{name}")).query(query)).await
    }

    /// Waits until something has changed after a generation, or for some seconds.
    pub(crate) async fn changes(&self, after: u64) -> Result<Changes, CliError> {
        self.json(self.admin(Method::GET, "changes").query(&ChangesQuery { after })).await
    }

    /// What an admin should look at.
    pub(crate) async fn alarms(&self, query: &AlarmQuery) -> Result<AlarmList, CliError> {
        self.json(self.admin(Method::GET, "alarms").query(query)).await
    }

    /// Takes alarms out of the status.
    pub(crate) async fn acknowledge(&self, request: &AcknowledgeRequest) -> Result<Acknowledged, CliError> {
        self.json(self.admin(Method::POST, "alarms/acknowledge").json(request)).await
    }

    /// What is published.
    pub(crate) async fn catalog(&self) -> Result<Catalog, CliError> {
        self.json(self.admin(Method::GET, "catalog")).await
    }

    /// The bytes of an approval, to be checked and signed.
    pub(crate) async fn draft(&self, draft: &ApprovalDraft) -> Result<SigningRequest, CliError> {
        self.json(self.admin(Method::POST, "approval/draft").json(draft)).await
    }

    /// Publishes a signed approval.
    pub(crate) async fn approve(&self, document: SignedDocument) -> Result<Accepted, CliError> {
        self.json(self.admin(Method::POST, "approval").body(document.0)).await
    }

    /// Every root, and the online keys that stand by.
    pub(crate) async fn roots(&self) -> Result<RootChain, CliError> {
        self.json(self.admin(Method::GET, "roots")).await
    }

    /// Puts a signed root in force.
    pub(crate) async fn root(&self, document: SignedDocument) -> Result<Accepted, CliError> {
        self.json(self.admin(Method::POST, "root").body(document.0)).await
    }

    /// Publishes a signed release.
    pub(crate) async fn publish(&self, document: SignedDocument) -> Result<Accepted, CliError> {
        self.json(self.admin(Method::POST, "release").body(document.0)).await
    }

    /// A join token.
    pub(crate) async fn invite(&self, request: &InviteRequest) -> Result<Invited, CliError> {
        self.json(self.admin(Method::POST, "invite").json(request)).await
    }

    /// Stops something, or lets it go on; its head is published.
    pub(crate) async fn hold(&self, request: &HoldRequest) -> Result<Held, CliError> {
        self.json(self.admin(Method::POST, "hold").json(request)).await
    }

    /// Shuts a device out.
    pub(crate) async fn revoke(&self, request: &RevokeRequest) -> Result<Revoked, CliError> {
        self.json(self.admin(Method::POST, "device/revoke").json(request)).await
    }

    /// Lets a device in again.
    pub(crate) async fn readmit(&self, request: &ReadmitRequest) -> Result<Readmitted, CliError> {
        self.json(self.admin(Method::POST, "device/readmit").json(request)).await
    }

    /// Every token that is kept.
    pub(crate) async fn invites(&self) -> Result<InviteList, CliError> {
        self.json(self.admin(Method::GET, "invites")).await
    }

    /// Takes a token back.
    pub(crate) async fn disinvite(&self, request: &DisinviteRequest) -> Result<InviteView, CliError> {
        self.json(self.admin(Method::POST, "invite/revoke").json(request)).await
    }

    /// How much of the WAN sites may use.
    pub(crate) async fn limits(&self) -> Result<LimitList, CliError> {
        self.json(self.admin(Method::GET, "limits")).await
    }

    /// Sets or takes back a rate of a site.
    pub(crate) async fn limit(&self, request: &LimitRequest) -> Result<SiteLimits, CliError> {
        self.json(self.admin(Method::POST, "limits").json(request)).await
    }

    /// Has a machine tell what programs printed when it last tried a release.
    pub(crate) async fn ask_log(&self, request: &LogRequest) -> Result<LogAsked, CliError> {
        self.json(self.admin(Method::POST, "device/logs").json(request)).await
    }

    /// Logs that a machine was asked for.
    pub(crate) async fn logs(&self, query: &LogQuery) -> Result<DeviceLogs, CliError> {
        self.json(self.admin(Method::GET, "device/logs").query(query)).await
    }

    /// Has machines try a release again.
    pub(crate) async fn retry(&self, request: &RetryRequest) -> Result<Retried, CliError> {
        self.json(self.admin(Method::POST, "retry").json(request)).await
    }

    /// Takes a machine that is gone out of the lists.
    pub(crate) async fn retire(&self, request: &RetireRequest) -> Result<Retired, CliError> {
        self.json(self.admin(Method::POST, "device/retire").json(request)).await
    }

    /// Takes a release out of the catalog.
    pub(crate) async fn withdraw(&self, request: &WithdrawRequest) -> Result<Withdrawn, CliError> {
        self.json(self.admin(Method::POST, "release/withdraw").json(request)).await
    }

    /// Every group with its members.
    pub(crate) async fn groups(&self) -> Result<Groups, CliError> {
        self.json(self.admin(Method::GET, "groups")).await
    }

    /// Publishes what approvers have signed about a group.
    pub(crate) async fn describe_group(&self, signed: &SignedGroup) -> Result<Accepted, CliError> {
        self.json(self.admin(Method::POST, "group/document").json(signed)).await
    }

    /// Makes a group, or drafts what is to be signed about one.
    pub(crate) async fn add_group(&self, request: &NewGroup) -> Result<GroupMade, CliError> {
        self.json(self.admin(Method::POST, "group").json(request)).await
    }

    /// Changes a device's membership.
    pub(crate) async fn member(&self, request: &MemberRequest) -> Result<Membership, CliError> {
        self.json(self.admin(Method::POST, "group/member").json(request)).await
    }

    /// A line of each machine.
    pub(crate) async fn inventories(&self) -> Result<Inventories, CliError> {
        self.json(self.admin(Method::GET, "inventory")).await
    }

    /// Everything on one machine.
    pub(crate) async fn inventory(&self, device: String) -> Result<DeviceInventory, CliError> {
        self.json(self.admin(Method::GET, "inventory/device").query(&DeviceQuery { device })).await
    }

    /// Who has a package.
    pub(crate) async fn holders(&self, package: String) -> Result<PackageHolders, CliError> {
        self.json(self.admin(Method::GET, "inventory/package").query(&PackageQuery { package })).await
    }

    /// A machine's CycloneDX bill of materials, as it is: the format is not ours.
    pub(crate) async fn bill(&self, device: String) -> Result<serde_json::Value, CliError> {
        self.json(self.admin(Method::GET, "inventory/bill").query(&DeviceQuery { device })).await
    }

    /// What is missing.
    pub(crate) async fn missing(&self, query: &MissingQuery) -> Result<Missing, CliError> {
        self.json(self.admin(Method::GET, "missing").query(query)).await
    }

    /// Every rule.
    pub(crate) async fn rules(&self) -> Result<RuleList, CliError> {
        self.json(self.admin(Method::GET, "rules")).await
    }

    /// Puts signed rules about products in force.
    pub(crate) async fn put_rules(&self, document: SignedDocument) -> Result<Accepted, CliError> {
        self.json(self.admin(Method::POST, "rules").body(document.0)).await
    }

    /// Drafts a rule about a repository.
    pub(crate) async fn draft_rule(&self, asked: &NewRepositoryRule) -> Result<RuleDraft, CliError> {
        self.json(self.admin(Method::POST, "rules/repository/draft").json(asked)).await
    }

    /// Puts a signed rule about a repository in force.
    pub(crate) async fn add_rule(&self, document: SignedDocument) -> Result<Accepted, CliError> {
        self.json(self.admin(Method::POST, "rules/repository").body(document.0)).await
    }

    /// Removes a rule about a repository; returns it.
    pub(crate) async fn remove_rule(&self, id: u32) -> Result<RepositoryRule, CliError> {
        self.json(self.admin(Method::POST, "rules/repository/remove").json(&RemoveRule { id })).await
    }

    /// Every upstream and how it stands.
    pub(crate) async fn upstreams(&self) -> Result<UpstreamList, CliError> {
        self.json(self.admin(Method::GET, "repositories")).await
    }

    /// Adds an upstream.
    pub(crate) async fn add_upstream(&self, request: &NewUpstream) -> Result<UpstreamAdded, CliError> {
        self.json(self.admin(Method::POST, "repositories").json(request)).await
    }

    /// Has mirrors asked; how far that is, the list says.
    pub(crate) async fn sync(&self, request: &SyncRequest) -> Result<UpstreamList, CliError> {
        self.json(self.admin(Method::POST, "repositories/sync").json(request)).await
    }

    /// Forgets an upstream.
    pub(crate) async fn remove_upstream(&self, request: &RemoveUpstream) -> Result<UpstreamList, CliError> {
        self.json(self.admin(Method::POST, "repositories/remove").json(request)).await
    }

    /// Every feed of advisories and how it stands.
    pub(crate) async fn feeds(&self) -> Result<FeedList, CliError> {
        self.json(self.admin(Method::GET, "feeds")).await
    }

    /// Adds a feed, and has it read; how far that is, the list says.
    pub(crate) async fn add_feed(&self, request: &NewFeed) -> Result<FeedList, CliError> {
        self.json(self.admin(Method::POST, "feeds").json(request)).await
    }

    /// Has feeds read.
    pub(crate) async fn run_feeds(&self, request: &FeedRequest) -> Result<FeedList, CliError> {
        self.json(self.admin(Method::POST, "feeds/run").json(request)).await
    }

    /// Forgets a feed.
    pub(crate) async fn remove_feed(&self, request: &FeedRequest) -> Result<FeedList, CliError> {
        self.json(self.admin(Method::POST, "feeds/remove").json(request)).await
    }

    /// What the fleet misses of its repositories.
    pub(crate) async fn updates(&self, query: &UpdatesQuery) -> Result<Updates, CliError> {
        self.json(self.admin(Method::GET, "updates").query(query)).await
    }

    /// Has a selection of a snapshot tried, and published; how far that is, [`Client::proposal`] says.
    pub(crate) async fn propose(&self, request: &ProposalRequest) -> Result<ProposalStatus, CliError> {
        self.json(self.admin(Method::POST, "proposals").json(request)).await
    }

    /// How far a proposal is.
    pub(crate) async fn proposal(&self, id: u64) -> Result<ProposalStatus, CliError> {
        self.json(self.admin(Method::GET, "proposals").query(&ProposalQuery { id })).await
    }

    /// Whether the coordinator holds a payload already.
    pub(crate) async fn holds(&self, payload: &PayloadId) -> Result<bool, CliError> {
        let request = self.admin(Method::HEAD, &format!("payload/{payload}"));
        let answer = request.send().await.with_context(|| self.unreachable())?;
        Ok(answer.status() == StatusCode::OK)
    }

    /// Uploads a payload.
    pub(crate) async fn put_payload(&self, payload: &PayloadId, len: u64, body: reqwest::Body) -> Result<(), CliError> {
        let request = self
            .http
            .put(format!("{}/admin/v1/payload/{payload}", self.base))
            .bearer_auth(self.token.as_str())
            .header(reqwest::header::CONTENT_LENGTH, len)
            .body(body);
        let _: IgnoredAny = self.json(request).await?;
        Ok(())
    }

    /// Uploads a chunk list.
    pub(crate) async fn put_chunk_list(&self, hash: &DocHash, bytes: Vec<u8>) -> Result<(), CliError> {
        let _: IgnoredAny = self.json(self.admin(Method::PUT, &format!("chunk-list/{hash}")).body(bytes)).await?;
        Ok(())
    }

    fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/admin/v1/{path}", self.base))
            .bearer_auth(self.token.as_str())
            .header(actor::HEADER, user())
            .timeout(PATIENCE)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CliError> {
        let answer = request.send().await.with_context(|| self.unreachable())?;
        let status = answer.status();
        let body = tokio::time::timeout(READ_PATIENCE, answer.bytes()).await;
        let body = body.context("the coordinator's answer has stalled")?.with_context(|| self.unreachable())?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body).context("reading the coordinator's answer")?);
        }
        let said = serde_json::from_slice::<Reason>(&body).map(|reason| reason.error);
        let reason = said.unwrap_or_else(|_| format!("HTTP status {status}"));
        if status == StatusCode::UNAUTHORIZED {
            return Err(CliError::Failed(anyhow!(
                "the coordinator at {} does not know this token; does another one use its port?",
                self.place
            )));
        }
        if status.is_client_error() { Err(CliError::Refused(reason)) } else { Err(CliError::Failed(anyhow!(reason))) }
    }

    fn unreachable(&self) -> String {
        format!("no answer from the coordinator at {}; is it running?", self.place)
    }
}

/// An answer that nobody here looks into.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: StatusCode,
    /// Its ETag.
    pub(crate) tag: Option<String>,
    /// Its content type.
    pub(crate) kind: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// Why something was refused.
#[derive(Deserialize)]
struct Reason {
    error: String,
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().connect_timeout(Duration::from_secs(10))
}

/// The user's name on this machine, for the coordinator's log.
fn user() -> String {
    let name = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    name.chars().filter(char::is_ascii_graphic).take(64).collect()
}
