//! The admin API's handlers. Whoever reaches one has shown the token. Each takes a typed request apart, calls its use-case, and
//! puts the typed answer together; none decides.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use upswarm_protocol::chunk::ChunkList;
use upswarm_protocol::coordinator::{HeldList, Input, Refusal};
use upswarm_protocol::envelope::Document;
use upswarm_protocol::ids::{DocHash, PayloadId};

use super::refused::Refused;
use super::shared::{Metrics, Shared};
use crate::api::actor::{self, Actor};
use crate::api::alarms::{AcknowledgeRequest, Acknowledged, AlarmQuery};
use crate::api::approvals::{Accepted, ApprovalDraft, HexBytes, SignedDocument};
use crate::api::devices::{ReadmitRequest, Readmitted, RetireRequest, Retired, RevokeRequest, Revoked};
use crate::api::groups::{GroupMade, MemberRequest, Membership, NewGroup, SignedGroup};
use crate::api::holds::{Held, HoldRequest};
use crate::api::inventory::{DeviceQuery, PackageQuery};
use crate::api::invites::{DisinviteRequest, InviteList, InviteRequest, InviteView, Invited};
use crate::api::limits::{LimitRequest, SiteLimits};
use crate::api::logs::{DeviceLogs, LogAsked, LogQuery, LogRequest};
use crate::api::missing::MissingQuery;
use crate::api::releases::{WithdrawRequest, Withdrawn};
use crate::api::retries::{Retried, RetryRequest};
use crate::api::roots::RootChain;
use crate::api::rules::{NewRepositoryRule, RemoveRule, RepositoryRule, RuleList};
use crate::api::status::StatusQuery;
use crate::coordinator::admin;
use crate::coordinator::directory::Change;
use crate::coordinator::keys;
use crate::coordinator::requests::{Gone, Reply, Request, ask};
use crate::coordinator::store::view::View;
use crate::sys;

/// An upload that brings nothing for this long is ended.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(60);

pub(super) type Answer<T> = Result<Json<T>, Refused>;

/// A payload is in the store.
#[derive(Debug, Serialize)]
pub(super) struct Stored {
    payload: PayloadId,
    len: u64,
}

/// A chunk list is in the store.
#[derive(Debug, Serialize)]
pub(super) struct StoredList {
    chunk_list: DocHash,
}

/// Streams a payload to disk; it gets its name only if its bytes have that hash.
pub(super) async fn put_payload(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<Stored> {
    let payload: PayloadId = parse(&name)?;
    let _slot =
        shared.slots.uploads.try_acquire().map_err(|_| {
            Refused(StatusCode::SERVICE_UNAVAILABLE, "other uploads are under way; try again".to_owned())
        })?;
    let place = shared.directory.upload().join(hex::encode(keys::random::<16>().map_err(failed)?));
    let received = receive(&place, body, payload).await;
    let stored = match received {
        Ok(len) => store(&shared, place.clone(), payload).await.map(|()| len),
        Err(refused) => Err(refused),
    };
    match stored {
        Ok(len) => {
            ask(&shared.driver, |reply| Request::Held(Input::PayloadHeld { payload, len }, reply)).await?;
            Ok(Json(Stored { payload, len }))
        }
        Err(refused) => {
            // If this fails too, the next start removes it.
            let _ = tokio::fs::remove_file(&place).await;
            Err(refused)
        }
    }
}

async fn receive(place: &std::path::Path, body: Body, payload: PayloadId) -> Result<u64, Refused> {
    let mut file = tokio::fs::File::create_new(place).await.map_err(disk)?;
    let (mut hasher, mut len) = (blake3::Hasher::new(), 0);
    let mut stream = body.into_data_stream();
    loop {
        let next = tokio::time::timeout(UPLOAD_PATIENCE, stream.next()).await;
        let next = next.map_err(|_| Refused(StatusCode::REQUEST_TIMEOUT, "the upload has stalled".to_owned()))?;
        let Some(piece) = next else { break };
        let piece =
            piece.map_err(|error| Refused(StatusCode::BAD_REQUEST, format!("the upload broke off: {error}")))?;
        hasher.update(&piece);
        len += piece.len() as u64;
        file.write_all(&piece).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    let found = PayloadId(*hasher.finalize().as_bytes());
    if found != payload {
        let reason =
            format!("the bytes have the hash {found}, not {payload}: they changed on the way; nothing was kept");
        return Err(Refused(StatusCode::UNPROCESSABLE_ENTITY, reason));
    }
    file.sync_all().await.map_err(disk)?;
    Ok(len)
}

async fn store(shared: &Shared, place: std::path::PathBuf, payload: PayloadId) -> Result<(), Refused> {
    let path = shared.directory.payload(&payload);
    blocking(move || sys::rename(&place, &path)).await
}

pub(super) async fn put_chunk_list(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<StoredList> {
    let hash: DocHash = parse(&name)?;
    let list = ChunkList::parse(&body, hash).map_err(unprocessable)?;
    let held = HeldList { len: body.len() as u32, payload_len: list.payload_len() };
    let document = Document { hash, bytes: body.to_vec() };
    let directory = shared.directory.clone();
    blocking(move || {
        let change = Change::Put(directory.doc(&document.hash), document.bytes);
        directory.apply(&[change]).map_err(std::io::Error::other)
    })
    .await?;
    ask(&shared.driver, |reply| Request::Held(Input::ChunkListHeld { hash, list: held }, reply)).await?;
    Ok(Json(StoredList { chunk_list: hash }))
}

/// Whoever asks, by the token that was checked and the name that the other side claims.
pub(super) struct Asker(pub(super) Actor);

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let user = parts.headers.get(actor::HEADER).and_then(|value| value.to_str().ok());
        Ok(Self(Actor::with_token(user)))
    }
}

pub(super) type Ask<T> = Result<Json<T>, JsonRejection>;
pub(super) type Look<T> = Result<Query<T>, QueryRejection>;

pub(super) async fn post_release(State(shared): State<Arc<Shared>>, asker: Asker, body: Bytes) -> Answer<Accepted> {
    let document = SignedDocument(body.to_vec());
    decide(&shared, |reply| Request::Publish(asker.0, document, reply)).await
}

pub(super) async fn post_approval(State(shared): State<Arc<Shared>>, asker: Asker, body: Bytes) -> Answer<Accepted> {
    let document = SignedDocument(body.to_vec());
    decide(&shared, |reply| Request::Approve(asker.0, document, reply)).await
}

pub(super) async fn post_root(State(shared): State<Arc<Shared>>, asker: Asker, body: Bytes) -> Answer<Accepted> {
    let document = SignedDocument(body.to_vec());
    let directory = shared.directory.clone();
    let held = tokio::task::spawn_blocking(move || directory.online_keys()).await.map_err(failed)?.map_err(failed)?;
    decide(&shared, |reply| Request::Root(asker.0, document, held, reply)).await
}

pub(super) async fn get_roots(State(shared): State<Arc<Shared>>) -> Answer<RootChain> {
    let directory = shared.directory.clone();
    let read = move || -> anyhow::Result<RootChain> {
        let (root, _) = directory.newest_root()?;
        let held = directory.online_keys()?;
        let standby = held.iter().map(keys::public).filter(|key| !root.online.contains(key)).collect();
        Ok(RootChain { roots: directory.chain(root.version)?.into_iter().map(HexBytes).collect(), standby })
    };
    let chain = tokio::task::spawn_blocking(read).await.map_err(failed)?;
    Ok(Json(chain.map_err(|error| failed(format!("{error:#}")))?))
}

pub(super) async fn preview(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    draft: Ask<ApprovalDraft>,
) -> Result<Response, Refused> {
    let Json(draft) = draft?;
    look(&shared, move |view| admin::approve::preview(&asker.0, view, &draft)).await
}

pub(super) async fn draft(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    draft: Ask<ApprovalDraft>,
) -> Result<Response, Refused> {
    let Json(draft) = draft?;
    let directory = shared.directory.clone();
    look(&shared, move |view| {
        let document = |hash: &DocHash| std::fs::read(directory.doc(hash));
        let payload = |id: &PayloadId| std::fs::read(directory.payload(id));
        admin::approve::draft(&asker.0, view, &draft, document, payload)
    })
    .await
}

pub(super) async fn post_invite(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<InviteRequest>,
) -> Answer<Invited> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Invite(asker.0, request, reply)).await
}

pub(super) async fn post_hold(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<HoldRequest>,
) -> Answer<Held> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Hold(asker.0, request, reply)).await
}

pub(super) async fn post_revoke(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<RevokeRequest>,
) -> Answer<Revoked> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Revoke(asker.0, request, reply)).await
}

pub(super) async fn post_readmit(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<ReadmitRequest>,
) -> Answer<Readmitted> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Readmit(asker.0, request, reply)).await
}

pub(super) async fn get_invites(State(shared): State<Arc<Shared>>) -> Answer<InviteList> {
    Ok(Json(ask(&shared.driver, Request::Invites).await?))
}

pub(super) async fn post_disinvite(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<DisinviteRequest>,
) -> Answer<InviteView> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Disinvite(asker.0, request, reply)).await
}

pub(super) async fn post_retry(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<RetryRequest>,
) -> Answer<Retried> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Retry(asker.0, request, reply)).await
}

pub(super) async fn post_log(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<LogRequest>,
) -> Answer<LogAsked> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::AskLog(asker.0, request, reply)).await
}

pub(super) async fn get_logs(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Answer<DeviceLogs> {
    let Query(query) = query?;
    decide(&shared, |reply| Request::Logs(query, reply)).await
}

pub(super) async fn get_limits(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    look(&shared, |view| Ok(admin::limits::list(view))).await
}

pub(super) async fn post_limit(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<LimitRequest>,
) -> Answer<SiteLimits> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Limit(asker.0, request, reply)).await
}

pub(super) async fn post_group(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<NewGroup>,
) -> Answer<GroupMade> {
    let Json(request) = request?;
    let Json(made) = decide(&shared, |reply| Request::AddGroup(asker.0, request, reply)).await?;
    let directory = shared.directory.clone();
    let document = move |hash: &DocHash| std::fs::read(directory.doc(hash));
    seen(&shared, move |view| admin::groups::with_before(view, made, document)).await.map(Json)
}

pub(super) async fn post_group_document(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<SignedGroup>,
) -> Answer<Accepted> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::DescribeGroup(asker.0, request, reply)).await
}

pub(super) async fn post_retire(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<RetireRequest>,
) -> Answer<Retired> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Retire(asker.0, request, reply)).await
}

pub(super) async fn post_withdraw(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<WithdrawRequest>,
) -> Answer<Withdrawn> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Withdraw(asker.0, request, reply)).await
}

pub(super) async fn post_member(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<MemberRequest>,
) -> Answer<Membership> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Member(asker.0, request, reply)).await
}

pub(super) async fn post_rules(State(shared): State<Arc<Shared>>, asker: Asker, body: Bytes) -> Answer<Accepted> {
    let document = SignedDocument(body.to_vec());
    decide(&shared, |reply| Request::Rules(asker.0, document, reply)).await
}

pub(super) async fn get_rules(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    look(&shared, |view| {
        let document = Some(view.rules.document()).filter(|document| !document.is_empty());
        let document = document.map(|document| HexBytes(document.to_vec()));
        let repositories = view.rules.repositories().all().to_vec();
        Ok(RuleList { rules: view.rules.all().to_vec(), document, repositories })
    })
    .await
}

pub(super) async fn draft_rule(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<NewRepositoryRule>,
) -> Result<Response, Refused> {
    let (Json(asked), known, directory) = (request?, shared.repositories.clone(), shared.directory.clone());
    let document = move |hash: &DocHash| std::fs::read(directory.doc(hash));
    look(&shared, move |view| admin::rules::draft(&asker.0, view, &known, asked, document)).await
}

pub(super) async fn post_rule(State(shared): State<Arc<Shared>>, asker: Asker, body: Bytes) -> Answer<Accepted> {
    let document = SignedDocument(body.to_vec());
    let accepted = decide(&shared, |reply| Request::AddRule(asker.0, document, reply)).await?;
    // What it covers may lie there already.
    shared.repositories.news();
    Ok(accepted)
}

pub(super) async fn remove_rule(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<RemoveRule>,
) -> Answer<RepositoryRule> {
    let Json(RemoveRule { id }) = request?;
    decide(&shared, |reply| Request::RemoveRule(asker.0, id, reply)).await
}

pub(super) async fn get_groups(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    look(&shared, |view| Ok(admin::groups::list(view))).await
}

pub(super) async fn get_status(
    State(shared): State<Arc<Shared>>,
    query: Look<StatusQuery>,
) -> Result<Response, Refused> {
    let Query(query) = query?;
    look(&shared, move |view| admin::status::status(view, &query)).await
}

pub(super) async fn get_alarms(
    State(shared): State<Arc<Shared>>,
    query: Look<AlarmQuery>,
) -> Result<Response, Refused> {
    let Query(query) = query?;
    look(&shared, move |view| Ok(admin::alarms::list(view, &query))).await
}

pub(super) async fn post_acknowledge(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<AcknowledgeRequest>,
) -> Answer<Acknowledged> {
    let Json(request) = request?;
    decide(&shared, |reply| Request::Acknowledge(asker.0, request, reply)).await
}

pub(super) async fn get_inventories(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    look(&shared, |view| Ok(admin::inventory::summary(view))).await
}

pub(super) async fn get_inventory(
    State(shared): State<Arc<Shared>>,
    query: Look<DeviceQuery>,
) -> Result<Response, Refused> {
    let Query(query) = query?;
    look(&shared, move |view| admin::inventory::device(view, &query)).await
}

pub(super) async fn get_package(
    State(shared): State<Arc<Shared>>,
    query: Look<PackageQuery>,
) -> Result<Response, Refused> {
    let Query(query) = query?;
    look(&shared, move |view| admin::inventory::with_package(view, &query)).await
}

pub(super) async fn get_bill(State(shared): State<Arc<Shared>>, query: Look<DeviceQuery>) -> Result<Response, Refused> {
    let Query(query) = query?;
    look(&shared, move |view| admin::inventory::bill(view, &query)).await
}

pub(super) async fn get_missing(
    State(shared): State<Arc<Shared>>,
    query: Look<MissingQuery>,
) -> Result<Response, Refused> {
    let Query(query) = query?;
    look(&shared, move |view| admin::missing::missing(view, &query)).await
}

pub(super) async fn get_catalog(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    look(&shared, |view| Ok(view.catalog.clone())).await
}

pub(super) async fn get_metrics(State(shared): State<Arc<Shared>>) -> Json<Metrics> {
    Json(shared.counters.metrics())
}

/// Has the driver decide.
async fn decide<T>(shared: &Shared, request: impl FnOnce(Reply<T>) -> Request) -> Answer<T> {
    Ok(Json(ask(&shared.driver, request).await??))
}

/// Runs a use-case that only looks, and answers with what it says.
pub(super) async fn look<T: Serialize>(
    shared: &Shared,
    use_case: impl FnOnce(&View<'_>) -> Result<T, Refusal> + Send + 'static,
) -> Result<Response, Refused> {
    let body = seen(shared, |view| Ok(serde_json::to_vec(&use_case(view)?).map_err(failed))).await??;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Runs a use-case that only looks, on a thread for work that takes its time. All that the driver does for it is to say what
/// it knows just now; the rest is a snapshot.
pub(super) async fn seen<T: Send + 'static>(
    shared: &Shared,
    use_case: impl FnOnce(&View<'_>) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refused> {
    let _slot = shared.slots.readers.acquire().await.map_err(failed)?;
    let live = ask(&shared.driver, Request::Live).await?;
    let fleet = shared.fleet.snapshot();
    let work = move || use_case(&View::new(&live, &fleet));
    Ok(tokio::task::spawn_blocking(work).await.map_err(failed)??)
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), Refused> {
    tokio::task::spawn_blocking(work).await.map_err(failed)?.map_err(disk)
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Refused> {
    text.parse().map_err(|error: T::Err| Refused(StatusCode::BAD_REQUEST, error.to_string()))
}

fn unprocessable(error: impl std::fmt::Display) -> Refused {
    Refused(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
}

pub(super) fn failed(error: impl std::fmt::Display) -> Refused {
    Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn disk(error: std::io::Error) -> Refused {
    let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    let status = if full { StatusCode::INSUFFICIENT_STORAGE } else { StatusCode::INTERNAL_SERVER_ERROR };
    Refused(status, format!("the coordinator's disk: {error}"))
}

impl From<Gone> for Refused {
    fn from(gone: Gone) -> Self {
        Refused(StatusCode::SERVICE_UNAVAILABLE, gone.to_string())
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Refused(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Refused(rejection.status(), rejection.body_text())
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::Document(_) | Refusal::Content(_) | Refusal::Request(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::NotNewer { .. } | Refusal::Missing(_) | Refusal::Clock(_) => StatusCode::CONFLICT,
            Refusal::UnknownRelease(_) | Refusal::UnknownDevice(_) => StatusCode::NOT_FOUND,
            Refusal::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
            Refusal::Sign(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refused(status, refusal.to_string())
    }
}
