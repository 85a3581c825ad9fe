//! The admin API's handlers for reports over time. Each reads history, beside everything else, and hands it to its use-case.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use upswarm_protocol::coordinator::Refusal;
use upswarm_protocol::time::Wall;

use super::api::{Look, failed, look, seen};
use super::reading::roots;
use super::refused::Refused;
use super::shared::Shared;
use crate::api::reports::ReportQuery;
use crate::coordinator::admin::reports;
use crate::coordinator::store::ledger::DAY_MS;

type Asked = Look<ReportQuery>;

pub(super) async fn compliance(State(shared): State<Arc<Shared>>, query: Asked) -> Result<Response, Refused> {
    let Query(query) = query?;
    let (first, today) = days(&shared, &query).await?;
    let days = shared.past.by_day(first, today).await.map_err(history)?;
    look(&shared, move |view| reports::compliance(view, &query, days)).await
}

pub(super) async fn rollout(State(shared): State<Arc<Shared>>, query: Asked) -> Result<Response, Refused> {
    let Query(query) = query?;
    let went = shared.past.rollouts().await.map_err(history)?;
    look(&shared, move |view| reports::rollouts(view, &query, went)).await
}

pub(super) async fn vulnerable(State(shared): State<Arc<Shared>>, query: Asked) -> Result<Response, Refused> {
    let Query(query) = query?;
    let repositories = shared.repositories.clone();
    look(&shared, move |view| reports::vulnerable(view, &repositories, &query)).await
}

pub(super) async fn savings(State(shared): State<Arc<Shared>>, query: Asked) -> Result<Response, Refused> {
    let Query(query) = query?;
    let (first, _) = days(&shared, &query).await?;
    let of = query.clone();
    let group = seen(&shared, move |view| reports::group(view, &of)).await?;
    let days = shared.past.bytes(group, first).await.map_err(history)?;
    look(&shared, move |view| reports::savings(view, &query, days)).await
}

pub(super) async fn approvals(State(shared): State<Arc<Shared>>, query: Asked) -> Result<Response, Refused> {
    let Query(query) = query?;
    let (first, _) = days(&shared, &query).await?;
    let approved = shared.past.approvals(Wall(first.saturating_mul(DAY_MS))).await.map_err(history)?;
    let directory = shared.directory.clone();
    look(&shared, move |view| {
        let roots = roots(view, &directory)?;
        reports::approvals(view, &query, &roots, approved)
    })
    .await
}

/// The first day that is meant, and today.
async fn days(shared: &Shared, query: &ReportQuery) -> Result<(u64, u64), Refused> {
    let query = query.clone();
    seen(shared, move |view| {
        let first = query.first_day(view.now).map_err(Refusal::Request)?;
        Ok((first, view.now.0 / DAY_MS))
    })
    .await
}

fn history(error: anyhow::Error) -> Refused {
    failed(format!("history cannot be read: {error:#}"))
}
