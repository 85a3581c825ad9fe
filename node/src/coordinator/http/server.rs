//! Routes and the token's check. Owns what is served behind which door, and the bounds of a request; the doors themselves are
//! `door`'s.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use tokio::net::TcpListener;
use upswarm_protocol::chunk::MAX_LIST;
use upswarm_protocol::envelope::Kind;

use super::refused::Refused;
use super::shared::Shared;
use super::{answers, api, frame_posts, origin, reading, reports, repositories};
use crate::door;

/// The longest body that somebody without a token may send.
const MAX_OPEN_BODY: usize = frame_posts::MAX_POST;
const MAX_JSON: usize = 64 << 10;
/// A group's document with the names of all machines of its list.
const MAX_GROUP: usize = 12 << 20;

/// What everyone may have: payloads, documents, the head, and a place for devices that come by HTTP alone.
pub(crate) fn origin(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/payload/{hash}", get(origin::payload))
        .route("/doc/{hash}", get(origin::document))
        .route("/root/{version}", get(origin::root))
        .route("/head", get(origin::head))
        .route("/frames", post(frame_posts::post).layer(DefaultBodyLimit::max(frame_posts::MAX_POST)))
        .fallback(any(nothing_here))
        .layer(middleware::from_fn(in_time))
        .with_state(shared)
}

/// The admin API, from a door of its own. Whatever lies under `/admin` asks for the token first, even what does not exist.
pub(crate) fn admin(shared: Arc<Shared>) -> Router {
    let admin = Router::new()
        .route("/v1/payload/{hash}", put(api::put_payload).layer(DefaultBodyLimit::disable()).head(origin::payload))
        .route("/v1/chunk-list/{hash}", put(api::put_chunk_list).layer(DefaultBodyLimit::max(MAX_LIST)))
        .route("/v1/release", post(api::post_release).layer(DefaultBodyLimit::max(Kind::Release.cap())))
        .route("/v1/approval", post(api::post_approval).layer(DefaultBodyLimit::max(Kind::Approval.cap())))
        .route("/v1/roots", get(api::get_roots))
        .route("/v1/root", post(api::post_root).layer(DefaultBodyLimit::max(Kind::Root.cap())))
        .route("/v1/approval/preview", post(api::preview))
        .route("/v1/approval/draft", post(api::draft))
        .route("/v1/invite", post(api::post_invite))
        .route("/v1/hold", post(api::post_hold))
        .route("/v1/device/revoke", post(api::post_revoke))
        .route("/v1/device/readmit", post(api::post_readmit))
        .route("/v1/invites", get(api::get_invites))
        .route("/v1/invite/revoke", post(api::post_disinvite))
        .route("/v1/retry", post(api::post_retry))
        .route("/v1/device/logs", get(api::get_logs).post(api::post_log))
        .route("/v1/limits", get(api::get_limits).post(api::post_limit))
        .route("/v1/device/retire", post(api::post_retire))
        .route("/v1/release/withdraw", post(api::post_withdraw))
        .route("/v1/group", post(api::post_group))
        .route("/v1/group/document", post(api::post_group_document).layer(DefaultBodyLimit::max(MAX_GROUP)))
        .route("/v1/group/member", post(api::post_member))
        .route("/v1/groups", get(api::get_groups))
        .route("/v1/rules", get(api::get_rules).post(api::post_rules).layer(DefaultBodyLimit::max(Kind::Rules.cap())))
        .route("/v1/rules/repository", post(api::post_rule).layer(DefaultBodyLimit::max(Kind::RepositoryRule.cap())))
        .route("/v1/rules/repository/draft", post(api::draft_rule))
        .route("/v1/rules/repository/remove", post(api::remove_rule))
        .route("/v1/status", get(api::get_status))
        .route("/v1/overview", get(reading::overview))
        .route("/v1/machines", get(reading::machines))
        .route("/v1/machine", get(reading::machine))
        .route("/v1/sites", get(reading::sites))
        .route("/v1/site", get(reading::site))
        .route("/v1/audit", get(reading::audit))
        .route("/v1/changes", get(reading::changes))
        .route("/v1/report/compliance", get(reports::compliance))
        .route("/v1/report/rollout", get(reports::rollout))
        .route("/v1/report/vulnerable", get(reports::vulnerable))
        .route("/v1/report/savings", get(reports::savings))
        .route("/v1/report/approvals", get(reports::approvals))
        .route("/v1/alarms", get(api::get_alarms))
        .route("/v1/alarms/acknowledge", post(api::post_acknowledge))
        .route("/v1/inventory", get(api::get_inventories))
        .route("/v1/inventory/device", get(api::get_inventory))
        .route("/v1/inventory/package", get(api::get_package))
        .route("/v1/inventory/bill", get(api::get_bill))
        .route("/v1/missing", get(api::get_missing))
        .route(
            "/v1/repositories",
            get(repositories::list).post(repositories::add).layer(DefaultBodyLimit::max(repositories::MAX_UPSTREAM)),
        )
        .route("/v1/repositories/sync", post(repositories::sync))
        .route("/v1/repositories/remove", post(repositories::remove))
        .route("/v1/feeds", get(repositories::list_feeds).post(repositories::add_feed))
        .route("/v1/feeds/run", post(repositories::run_feeds))
        .route("/v1/feeds/remove", post(repositories::remove_feed))
        .route("/v1/updates", get(repositories::get_updates))
        .route("/v1/proposals", get(repositories::proposal).post(repositories::propose))
        .route("/v1/catalog", get(api::get_catalog))
        .route("/v1/metrics", get(api::get_metrics))
        .fallback(any(nothing_here))
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .layer(middleware::from_fn(answers::tagged))
        .layer(middleware::from_fn_with_state(shared.clone(), check_token));
    let metrics = get(reading::metrics).layer(middleware::from_fn_with_state(shared.clone(), check_token));
    Router::new()
        .nest("/admin", admin.clone())
        // The same for programs: refusals are as RFC 9457 has them.
        .nest("/api", admin.layer(middleware::from_fn(answers::problems)))
        .route("/metrics", metrics)
        .route("/health", get(reading::health))
        .route("/ready", get(reading::ready))
        .fallback(any(nothing_here))
        .with_state(shared)
}

/// Binds a TCP door's socket. `option` is what names another address.
pub(crate) async fn bind(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for HTTP; if another program uses the port, give another one with {option}")
    })
}

/// Takes the whole body first.
async fn in_time(request: HttpRequest<Body>, next: Next) -> Response {
    match door::whole(request, MAX_OPEN_BODY).await {
        Ok(request) => next.run(request).await,
        Err((status, reason)) => Refused(status, reason).into_response(),
    }
}

async fn check_token(State(shared): State<Arc<Shared>>, request: HttpRequest<Body>, next: Next) -> Response {
    let shown =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if shown.is_some_and(|token| blake3::hash(token) == shared.token) {
        return next.run(request).await;
    }
    let mut answer =
        Refused(StatusCode::UNAUTHORIZED, "show the admin token as a bearer token".to_owned()).into_response();
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    answer
}

async fn nothing_here() -> Refused {
    Refused(StatusCode::NOT_FOUND, "nothing is served at this path".to_owned())
}
