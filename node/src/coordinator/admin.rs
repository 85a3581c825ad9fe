//! The admin API. Whoever reaches a handler here has shown the token.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use upswarm_protocol::chunk::ChunkList;
use upswarm_protocol::coordinator_state::{Command, Done, HeldList, Input, Refusal};
use upswarm_protocol::envelope::Document;
use upswarm_protocol::ids::{DeviceId, DocHash, PayloadId};

use super::directory::{self, Change};
use super::inventories::{InventoryQuery, MissingQuery};
use super::keys;
use super::requests::{Catalog, Gone, GroupRequest, HoldRequest, InviteRequest, Invited, RemoveRule, Request, ask};
use super::rules::{NewRule, Rule};
use super::server::{Refused, Shared};

/// An upload that brings nothing for this long is ended.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(60);

type Answer<T> = Result<Json<T>, Refused>;

/// Streams a payload to disk; it gets its name only if its bytes have that hash.
pub(super) async fn put_payload(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<Value> {
    let payload: PayloadId = parse(&name)?;
    let _slot = shared
        .uploads
        .try_acquire()
        .map_err(|_| Refused(StatusCode::SERVICE_UNAVAILABLE, "other uploads are under way; try again".to_owned()))?;
    let place = shared.directory.upload().join(hex::encode(keys::random::<16>().map_err(failed)?));
    let received = receive(&place, body, payload).await;
    let stored = match received {
        Ok(len) => store(&shared, place.clone(), payload).await.map(|()| len),
        Err(refused) => Err(refused),
    };
    match stored {
        Ok(len) => {
            ask(&shared.driver, |reply| Request::Held(Input::PayloadHeld { payload, len }, reply)).await?;
            Ok(Json(json!({ "payload": payload, "len": len })))
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
    blocking(move || {
        std::fs::rename(&place, &path)?;
        path.parent().map_or(Ok(()), directory::sync_dir)
    })
    .await
}

pub(super) async fn put_chunk_list(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<Value> {
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
    Ok(Json(json!({ "chunk_list": hash })))
}

pub(super) async fn post_release(State(shared): State<Arc<Shared>>, body: Bytes) -> Answer<Value> {
    command(&shared, Command::Publish(body.to_vec())).await
}

pub(super) async fn post_approval(State(shared): State<Arc<Shared>>, body: Bytes) -> Answer<Value> {
    command(&shared, Command::Approve(body.to_vec())).await
}

pub(super) async fn post_invite(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<InviteRequest>, JsonRejection>,
) -> Answer<Invited> {
    let Json(request) = request?;
    Ok(Json(ask(&shared.driver, |reply| Request::Invite(request, reply)).await??))
}

pub(super) async fn post_hold(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<HoldRequest>, JsonRejection>,
) -> Answer<Value> {
    let Json(request) = request?;
    done(ask(&shared.driver, |reply| Request::Hold(request, reply)).await??)
}

/// `POST /admin/v1/revoke`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeRequest {
    device: DeviceId,
}

pub(super) async fn post_revoke(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<RevokeRequest>, JsonRejection>,
) -> Answer<Value> {
    let Json(RevokeRequest { device }) = request?;
    command(&shared, Command::Revoke(device)).await
}

pub(super) async fn post_group(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<GroupRequest>, JsonRejection>,
) -> Answer<Value> {
    let Json(request) = request?;
    Ok(Json(ask(&shared.driver, |reply| Request::Group(request, reply)).await??))
}

pub(super) async fn get_rules(State(shared): State<Arc<Shared>>) -> Answer<Vec<Rule>> {
    Ok(Json(ask(&shared.driver, Request::Rules).await?))
}

pub(super) async fn post_rule(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<NewRule>, JsonRejection>,
) -> Answer<Value> {
    let Json(rule) = request?;
    Ok(Json(ask(&shared.driver, |reply| Request::AddRule(Box::new(rule), reply)).await??))
}

pub(super) async fn remove_rule(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<RemoveRule>, JsonRejection>,
) -> Answer<Value> {
    let Json(RemoveRule { id }) = request?;
    Ok(Json(ask(&shared.driver, |reply| Request::RemoveRule(id, reply)).await??))
}

pub(super) async fn get_status(State(shared): State<Arc<Shared>>) -> Answer<Value> {
    Ok(Json(ask(&shared.driver, Request::Status).await?))
}

pub(super) async fn get_inventory(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<InventoryQuery>, QueryRejection>,
) -> Answer<Value> {
    let Query(query) = query?;
    Ok(Json(ask(&shared.driver, |reply| Request::Inventory(query, reply)).await??))
}

pub(super) async fn get_missing(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<MissingQuery>, QueryRejection>,
) -> Answer<Value> {
    let Query(query) = query?;
    Ok(Json(ask(&shared.driver, |reply| Request::Missing(query, reply)).await??))
}

pub(super) async fn get_catalog(State(shared): State<Arc<Shared>>) -> Answer<Catalog> {
    Ok(Json(ask(&shared.driver, Request::Catalog).await?))
}

pub(super) async fn get_metrics(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.counters.view())
}

async fn command(shared: &Shared, command: Command) -> Answer<Value> {
    done(ask(&shared.driver, |reply| Request::Command(command, reply)).await??)
}

fn done(done: Done) -> Answer<Value> {
    Ok(Json(json!({ "index_version": done.index_version })))
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

fn failed(error: impl std::fmt::Display) -> Refused {
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
            Refusal::NotNewer { .. } | Refusal::Missing(_) => StatusCode::CONFLICT,
            Refusal::UnknownRelease(_) | Refusal::UnknownDevice(_) => StatusCode::NOT_FOUND,
            Refusal::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
            Refusal::Sign(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refused(status, refusal.to_string())
    }
}
