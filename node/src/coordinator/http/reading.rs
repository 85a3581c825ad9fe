//! What a console shows: overview, machines, sites, documents, and when something has changed. Each handler takes a typed query to its
//! use-case; an answer is the same for the same state, so that it can carry a tag.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use upswarm_protocol::coordinator::Refusal;
use upswarm_protocol::ids::DocHash;

use super::api::{Answer, Look, failed, look, seen};
use super::refused::Refused;
use super::shared::Shared;
use crate::api::fleet::{MachineQuery, SiteQuery};
use crate::api::inventory::DeviceQuery;
use crate::api::overview::{Changes, ChangesQuery};
use crate::coordinator::admin;
use crate::coordinator::directory::Directory;
use crate::coordinator::store::view::View;

/// Whoever waits for a change hears after this long that there was none.
const NO_NEWS: Duration = Duration::from_secs(20);

pub(super) async fn overview(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    look(&shared, admin::overview::overview).await
}

pub(super) async fn machines(
    State(shared): State<Arc<Shared>>,
    query: Look<MachineQuery>,
) -> Result<Response, Refused> {
    let Query(query) = query?;
    look(&shared, move |view| admin::machines::list(view, &query)).await
}

pub(super) async fn machine(State(shared): State<Arc<Shared>>, query: Look<DeviceQuery>) -> Result<Response, Refused> {
    let Query(query) = query?;
    look(&shared, move |view| admin::machines::one(view, &query)).await
}

pub(super) async fn sites(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    look(&shared, |view| Ok(admin::sites::list(view))).await
}

pub(super) async fn site(State(shared): State<Arc<Shared>>, query: Look<SiteQuery>) -> Result<Response, Refused> {
    let Query(query) = query?;
    look(&shared, move |view| admin::sites::one(view, &query)).await
}

pub(super) async fn audit(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    let directory = shared.directory.clone();
    look(&shared, move |view| {
        let roots = roots(view, &directory)?;
        admin::audit::list(view, &roots, |hash: &DocHash| std::fs::read(directory.doc(hash)))
    })
    .await
}

/// Every root from the first.
pub(super) fn roots(view: &View<'_>, directory: &Directory) -> Result<Vec<Vec<u8>>, Refusal> {
    let last = view.head_status().map_or(1, |head| head.root_version);
    directory.chain(last).map_err(|error| Refusal::Request(format!("the roots cannot be read: {error:#}")))
}

/// Figures in the text format of Prometheus.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    let text = seen(&shared, admin::metrics::text).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// The process runs.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// The catalog is public.
pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.head.borrow().is_empty() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no head is published yet\n").into_response();
    }
    "ready\n".into_response()
}

/// Waits until something has changed. What a console shows is at most this late.
pub(super) async fn changes(State(shared): State<Arc<Shared>>, query: Look<ChangesQuery>) -> Answer<Changes> {
    let Query(ChangesQuery { after }) = query?;
    let mut generations = shared.fleet.generations();
    let newer = generations.wait_for(|generation| *generation != after);
    let generation = match tokio::time::timeout(NO_NEWS, newer).await {
        Ok(changed) => *changed.map_err(failed)?,
        Err(_) => after,
    };
    Ok(Json(Changes { generation }))
}
