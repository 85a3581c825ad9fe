//! The admin API's handlers for upstream repositories.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use upswarm_protocol::catalog::UpstreamRule;
use upswarm_protocol::coordinator::Refusal;
use upswarm_protocol::ids::DocHash;

use super::api::{Answer, Ask, Asker, Look, look, note, seen};
use super::refused::Refused;
use super::shared::Shared;
use crate::api::audit::{Deed, Topic};
use crate::api::feeds::{FeedRequest, NewFeed};
use crate::api::proposals::{ProposalQuery, ProposalRequest, ProposalStatus, UpdatesQuery};
use crate::api::repositories::{NewUpstream, RemoveUpstream, SyncRequest};
use crate::coordinator::admin::{feeds, proposals, repositories, updates};
use crate::coordinator::keys;
use crate::coordinator::store::view::View;
use crate::upstream::MAX_DESCRIPTION;

/// The longest request that adds an upstream: its description, each end of line of a certificate written as two characters.
pub(super) const MAX_UPSTREAM: usize = 2 * MAX_DESCRIPTION;

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    let known = shared.repositories.clone();
    look(&shared, move |view| repositories::list(&known, &pinned(view.upstreams))).await
}

pub(super) async fn add(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<NewUpstream>,
) -> Result<Response, Refused> {
    let (Json(request), known, directory) = (request?, shared.repositories.clone(), shared.directory.clone());
    let (urls, actor) = (request.urls.join(", "), asker.0.clone());
    let answer = look(&shared, move |view| {
        let key = proposals::sync_key(&directory).map_err(|error| Refusal::Request(format!("{error:#}")))?;
        repositories::add(&asker.0, &known, (&pinned(view.upstreams), keys::public(&key)), request)
    })
    .await?;
    let deed = Deed::new(Topic::Sync, format!("the description of a repository was added, from: {urls}"));
    note(&shared, actor, deed).await?;
    Ok(answer)
}

pub(super) async fn sync(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<SyncRequest>,
) -> Result<Response, Refused> {
    let (Json(request), known) = (request?, shared.repositories.clone());
    look(&shared, move |view| repositories::sync(&asker.0, &known, &pinned(view.upstreams), &request)).await
}

pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<RemoveUpstream>,
) -> Result<Response, Refused> {
    let (Json(request), known) = (request?, shared.repositories.clone());
    let (deed, actor) =
        (Deed::new(Topic::Sync, format!("the repository {} was forgotten", request.name)), asker.0.clone());
    let remove = move |view: &View<'_>| repositories::remove(&asker.0, &known, &pinned(view.upstreams), &request);
    let answer = look(&shared, remove).await?;
    note(&shared, actor, deed).await?;
    Ok(answer)
}

pub(super) async fn list_feeds(State(shared): State<Arc<Shared>>) -> Result<Response, Refused> {
    let known = shared.repositories.clone();
    look(&shared, move |_| Ok(feeds::list(&known))).await
}

pub(super) async fn add_feed(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<NewFeed>,
) -> Result<Response, Refused> {
    let (Json(request), known) = (request?, shared.repositories.clone());
    let (what, actor) = (format!("the feed {} was added, from {}", request.name, request.url), asker.0.clone());
    let answer = look(&shared, move |_| feeds::add(&asker.0, &known, request)).await?;
    note(&shared, actor, Deed::new(Topic::Sync, what)).await?;
    Ok(answer)
}

pub(super) async fn run_feeds(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<FeedRequest>,
) -> Result<Response, Refused> {
    let (Json(request), known) = (request?, shared.repositories.clone());
    look(&shared, move |_| feeds::run(&asker.0, &known, &request)).await
}

pub(super) async fn remove_feed(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<FeedRequest>,
) -> Result<Response, Refused> {
    let (Json(request), known) = (request?, shared.repositories.clone());
    let name = request.name.clone().unwrap_or_default();
    let (deed, actor) = (Deed::new(Topic::Sync, format!("the feed {name} was forgotten")), asker.0.clone());
    let answer = look(&shared, move |_| feeds::remove(&asker.0, &known, &request)).await?;
    note(&shared, actor, deed).await?;
    Ok(answer)
}

pub(super) async fn get_updates(
    State(shared): State<Arc<Shared>>,
    query: Look<UpdatesQuery>,
) -> Result<Response, Refused> {
    let (Query(query), known) = (query?, shared.repositories.clone());
    look(&shared, move |view| updates::updates(view, &known, &query)).await
}

pub(super) async fn propose(
    State(shared): State<Arc<Shared>>,
    asker: Asker,
    request: Ask<ProposalRequest>,
) -> Answer<ProposalStatus> {
    let (Json(request), known) = (request?, shared.repositories.clone());
    let prepared = seen(&shared, move |view| proposals::prepare(asker.0, view, &known, request)).await?;
    let driver = shared.driver.clone();
    Ok(Json(proposals::begin(prepared, &shared.repositories, shared.directory.clone(), driver)?))
}

pub(super) async fn proposal(State(shared): State<Arc<Shared>>, query: Look<ProposalQuery>) -> Answer<ProposalStatus> {
    let Query(query) = query?;
    let gone = || Refused(StatusCode::NOT_FOUND, "nobody knows of this proposal any more; make it anew".to_owned());
    Ok(Json(shared.repositories.jobs().status(query.id).ok_or_else(gone)?))
}

/// What the root pins of an upstream.
fn pinned(upstreams: &[UpstreamRule]) -> impl Fn(&str) -> Option<DocHash> {
    |name| upstreams.iter().find(|rule| *rule.name == *name).map(|rule| rule.description)
}
