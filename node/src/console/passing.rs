//! What programs ask a console for: the API, figures for monitoring, and whether it and its coordinator are there. Owns which paths are
//! passed on; the answers are the coordinator's.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Console;
use super::trouble::Trouble;
use crate::coordinator::client::RawAnswer;

/// The longest query that is passed on.
const MAX_QUERY: usize = 4096;
/// What is passed on is one of these.
const KINDS: [&str; 4] = [
    "application/json",
    "application/problem+json",
    "text/plain; version=0.0.4; charset=utf-8",
    "text/plain; charset=utf-8",
];
/// Content that loads, runs and frames nothing.
const DATA: &str = "sandbox; default-src 'none'; frame-ancestors 'none'";

/// `GET /api/v1/...`: whoever asks has a session or the admin token.
pub(super) async fn api(
    State(console): State<Arc<Console>>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    let plain = path.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_/.".contains(&c)) && !path.contains("..");
    let query = query.unwrap_or_default();
    if !plain || query.len() > MAX_QUERY {
        return Err(Trouble::not_found());
    }
    let question = if query.is_empty() { path } else { format!("{path}?{query}") };
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    Ok(passed(console.client.raw(&format!("/api/v1/{question}"), known).await?))
}

/// Figures in the text format of Prometheus.
pub(super) async fn metrics(State(console): State<Arc<Console>>) -> Result<Response, Trouble> {
    Ok(passed(console.client.raw("/metrics", None).await?))
}

/// This console runs.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// Its coordinator answers and has a catalog.
pub(super) async fn ready(State(console): State<Arc<Console>>) -> Response {
    match console.client.raw("/ready", None).await {
        // Whoever follows a link comes here without a session: nothing of the coordinator's own is shown.
        Ok(answer) if answer.status.is_success() => (StatusCode::OK, "ready\n").into_response(),
        Ok(_) => (StatusCode::SERVICE_UNAVAILABLE, "the coordinator is not ready\n").into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the coordinator does not answer\n").into_response(),
    }
}

/// What the coordinator answers is data, whatever it calls it: a page or a script of its making would act in this console's name.
fn passed(answer: RawAnswer) -> Response {
    let said = answer.kind.unwrap_or_default();
    let kind = KINDS.into_iter().find(|kind| said == *kind).unwrap_or("application/octet-stream");
    let mut response = (answer.status, [(header::CONTENT_TYPE, kind)], answer.body).into_response();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, header::HeaderValue::from_static(DATA));
    if let Some(tag) = answer.tag.and_then(|tag| tag.parse().ok()) {
        response.headers_mut().insert(header::ETAG, tag);
        // Kept by whoever asks, and asked about each time.
        response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("private, no-cache"));
    }
    response
}
