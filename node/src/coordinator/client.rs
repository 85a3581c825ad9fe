//! Speaks to a running coordinator's admin API, for the verbs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use upswarm_protocol::ids::{DocHash, PayloadId};
use zeroize::Zeroizing;

use super::directory::Directory;
use super::requests::{Catalog, GroupRequest, HoldRequest, InviteRequest, Invited, RemoveRule};
use super::rules::{NewRule, Rule};
use crate::cli::CliError;

/// Longest wait for an answer that carries no payload.
const PATIENCE: Duration = Duration::from_secs(60);
/// An upload that moves nothing for this long has failed.
const READ_PATIENCE: Duration = Duration::from_secs(300);

/// A running coordinator.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Zeroizing<String>,
}

impl Client {
    /// The coordinator that serves this data directory.
    pub(crate) fn of(data_dir: &Path) -> Result<Self, CliError> {
        let directory = Directory::existing(data_dir).map_err(|error| CliError::Refused(format!("{error:#}")))?;
        let served = directory.is_served()?;
        let info = directory.run_info().filter(|_| served).ok_or_else(|| {
            CliError::Refused(format!(
                "the coordinator of {} is not running; start it with: upswarm coordinator run --data-dir {}",
                data_dir.display(),
                data_dir.display()
            ))
        })?;
        let http = reqwest::Client::builder()
            .no_proxy()
            // Plain HTTP to this machine: reading the system's TLS roots would take longer than the call.
            .tls_certs_only([])
            .connect_timeout(Duration::from_secs(10))
            .build()
            .context("preparing HTTP")?;
        Ok(Self { http, base: format!("http://{}", reachable(&info.http)), token: directory.token()? })
    }

    /// The fleet's status.
    pub(crate) async fn status(&self) -> Result<Value, CliError> {
        self.json(self.admin(Method::GET, "status")).await
    }

    /// What is published.
    pub(crate) async fn catalog(&self) -> Result<Catalog, CliError> {
        self.json(self.admin(Method::GET, "catalog")).await
    }

    /// A join token.
    pub(crate) async fn invite(&self, request: &InviteRequest) -> Result<Invited, CliError> {
        self.json(self.admin(Method::POST, "invite").json(request)).await
    }

    /// Stops something, or lets it go on; returns the version of the index that says so, whose head is published.
    pub(crate) async fn hold(&self, request: &HoldRequest) -> Result<u64, CliError> {
        index_version(&self.json(self.admin(Method::POST, "hold").json(request)).await?)
    }

    /// Makes a group, or changes a device's membership.
    pub(crate) async fn group(&self, request: &GroupRequest) -> Result<Value, CliError> {
        self.json(self.admin(Method::POST, "group").json(request)).await
    }

    /// Every rule.
    pub(crate) async fn rules(&self) -> Result<Vec<Rule>, CliError> {
        self.json(self.admin(Method::GET, "rules")).await
    }

    /// Adds a rule; returns it with its number.
    pub(crate) async fn add_rule(&self, rule: &NewRule) -> Result<Rule, CliError> {
        self.json(self.admin(Method::POST, "rules").json(rule)).await
    }

    /// Removes a rule; returns it.
    pub(crate) async fn remove_rule(&self, id: u32) -> Result<Rule, CliError> {
        self.json(self.admin(Method::POST, "rules/remove").json(&RemoveRule { id })).await
    }

    /// Publishes a release or an approval (`what`); returns the version of the index that names it.
    pub(crate) async fn submit(&self, what: &str, envelope: Vec<u8>) -> Result<u64, CliError> {
        index_version(&self.json(self.admin(Method::POST, what).body(envelope)).await?)
    }

    /// Whether the coordinator holds a payload already.
    pub(crate) async fn holds(&self, payload: &PayloadId) -> Result<bool, CliError> {
        let request = self.http.head(format!("{}/payload/{payload}", self.base)).timeout(PATIENCE);
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
        let _: Value = self.json(request).await?;
        Ok(())
    }

    /// Uploads a chunk list.
    pub(crate) async fn put_chunk_list(&self, hash: &DocHash, bytes: Vec<u8>) -> Result<(), CliError> {
        let _: Value = self.json(self.admin(Method::PUT, &format!("chunk-list/{hash}")).body(bytes)).await?;
        Ok(())
    }

    fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/admin/v1/{path}", self.base))
            .bearer_auth(self.token.as_str())
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
        let said = serde_json::from_slice::<Value>(&body).ok().and_then(|v| v["error"].as_str().map(str::to_owned));
        let reason = said.unwrap_or_else(|| format!("HTTP status {status}"));
        if status == StatusCode::UNAUTHORIZED {
            return Err(CliError::Failed(anyhow!(
                "the coordinator at {} does not know this token; does another one use its port?",
                self.base
            )));
        }
        if status.is_client_error() { Err(CliError::Refused(reason)) } else { Err(CliError::Failed(anyhow!(reason))) }
    }

    fn unreachable(&self) -> String {
        format!("no answer from the coordinator at {}; is it running?", self.base)
    }
}

fn index_version(answer: &Value) -> Result<u64, CliError> {
    let version = answer["index_version"].as_u64();
    version.ok_or_else(|| CliError::Failed(anyhow!("the coordinator answered without an index version")))
}

/// An address that listens on every interface is reached on loopback.
fn reachable(http: &str) -> String {
    match http.parse::<std::net::SocketAddr>() {
        Ok(mut address) if address.ip().is_unspecified() => {
            let loopback = if address.is_ipv4() {
                std::net::IpAddr::from([127, 0, 0, 1])
            } else {
                std::net::IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
            };
            address.set_ip(loopback);
            address.to_string()
        }
        _ => http.to_owned(),
    }
}
