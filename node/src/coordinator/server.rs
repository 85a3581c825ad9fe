//! The HTTP face: an origin for everyone, and the admin API for who shows the token.
//!
//! Bounded: connections, time for a request's head, bytes of a body, uploads at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use upswarm_protocol::chunk::MAX_LIST;
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::ids::DocHash;

use super::admin;
use super::directory::Directory;
use super::payloads::{self, Counters};
use super::requests::Request;
use crate::limiter::Limiter;

const MAX_CONNECTIONS: usize = 1024;
const MAX_UPLOADS: usize = 4;
const HEAD_PATIENCE: Duration = Duration::from_secs(15);
const MAX_JSON: usize = 64 << 10;

/// What every handler may use.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directory: Directory,
    pub(crate) root_hash: DocHash,
    pub(crate) root_path: PathBuf,
    /// The public head's envelope; empty before the first.
    pub(crate) head: watch::Receiver<Vec<u8>>,
    pub(crate) driver: mpsc::Sender<Request>,
    pub(crate) counters: Arc<Counters>,
    /// Payload bytes per second.
    pub(crate) limiter: Limiter,
    /// Hash of the admin token: comparing hashes takes the same time whatever is shown.
    pub(crate) token: blake3::Hash,
    pub(crate) uploads: Semaphore,
}

impl Shared {
    /// At most this many uploads run at once.
    pub(crate) fn upload_slots() -> Semaphore {
        Semaphore::new(MAX_UPLOADS)
    }
}

/// An answer that is not what was asked for: `{"error": reason}`.
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, axum::Json(serde_json::json!({ "error": self.1 }))).into_response()
    }
}

/// Every route. Whatever lies under `/admin` asks for the token first, even what does not exist.
pub(crate) fn routes(shared: Arc<Shared>) -> Router {
    let admin = Router::new()
        .route("/v1/payload/{hash}", put(admin::put_payload).layer(DefaultBodyLimit::disable()))
        .route("/v1/chunk-list/{hash}", put(admin::put_chunk_list).layer(DefaultBodyLimit::max(MAX_LIST)))
        .route("/v1/release", post(admin::post_release).layer(DefaultBodyLimit::max(Kind::Release.cap())))
        .route("/v1/approval", post(admin::post_approval).layer(DefaultBodyLimit::max(Kind::Approval.cap())))
        .route("/v1/invite", post(admin::post_invite))
        .route("/v1/hold", post(admin::post_hold))
        .route("/v1/revoke", post(admin::post_revoke))
        .route("/v1/group", post(admin::post_group))
        .route("/v1/rules", get(admin::get_rules).post(admin::post_rule))
        .route("/v1/rules/remove", post(admin::remove_rule))
        .route("/v1/status", get(admin::get_status))
        .route("/v1/inventory", get(admin::get_inventory))
        .route("/v1/missing", get(admin::get_missing))
        .route("/v1/catalog", get(admin::get_catalog))
        .route("/v1/metrics", get(admin::get_metrics))
        .fallback(any(nothing_here))
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .layer(middleware::from_fn_with_state(shared.clone(), check_token));
    Router::new()
        .route("/payload/{hash}", get(payloads::payload))
        .route("/doc/{hash}", get(payloads::document))
        .route("/root/{version}", get(payloads::root))
        .route("/head", get(payloads::head))
        .nest("/admin", admin)
        .fallback(any(nothing_here))
        .with_state(shared)
}

/// Binds the server's socket.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for HTTP; if another program uses the port, give another one with --http")
    })
}

/// Serves until `stop`; then connections that are still open are cut.
pub(crate) async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => return,
            slot = slots.clone().acquire_owned() => slot,
        };
        let Ok(slot) = slot else { return };
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: give others time to end.
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            },
        };
        while connections.try_join_next().is_some() {}
        let service = TowerToHyperService::new(routes.clone());
        connections.spawn(async move {
            let _slot = slot;
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .max_buf_size(64 << 10)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
        });
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
