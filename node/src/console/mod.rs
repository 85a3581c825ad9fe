//! The console: pages on loopback for an admin's browser, over the same admin API that the verbs speak. Owns how things are shown and
//! asked for there; every number and every decision is a use-case's.
//!
//! It runs beside a coordinator or on an admin's own machine ([`serve`]); either way it is a client of the admin API. Documents are
//! signed by the keys of whoever runs it, after the checks of `signing`, and the bytes that were shown are the bytes that are signed.
//!
//! Whoever shows the one-time secret of the entry link gets a session; every request must name this console as its host, and every
//! change must come from one of its own pages ([`guard`]).

mod act;
mod assets;
mod decide;
mod export;
mod guard;
mod live;
mod pages;
mod passing;
mod refused;
mod show;
#[cfg(test)]
mod tests;
mod trend;
mod trouble;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::decide::Drafts;
use self::guard::Guard;
use self::live::Live;
use self::refused::Refused;
use self::trouble::Trouble;
use crate::coordinator::client::Client;
use crate::door::{self, Door, Listener};
use crate::error::CliError;

/// Connections at one time: every open page holds one for its news.
const CONNECTIONS: usize = 128;
/// The longest form.
const MAX_FORM: usize = 64 << 10;

/// Where an approver's keys are, for whoever runs this console.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    /// Their directory; without one nothing can be signed here.
    pub(crate) dir: Option<PathBuf>,
    /// The root that their holder believes, where none is noted beside them.
    pub(crate) anchor: Option<upswarm_protocol::ids::DocHash>,
}

/// How to serve.
#[derive(Debug)]
pub(crate) struct Options {
    /// Where it listens; a loopback address.
    pub(crate) listen: SocketAddr,
    /// Where the link of the next entry is written, for its owner only.
    pub(crate) link: Option<PathBuf>,
    pub(crate) keys: Keys,
    /// What the pages call the coordinator.
    pub(crate) place: String,
}

/// A console that is bound to its port.
pub(crate) struct Bound {
    console: Arc<Console>,
    door: Door,
}

/// What every handler may use.
pub(crate) struct Console {
    client: Client,
    guard: Guard,
    live: Live,
    keys: Keys,
    drafts: Drafts,
    refused: Refused,
    place: String,
}

/// Takes the port and makes the first link.
pub(crate) async fn bind(client: Client, options: Options) -> Result<Bound, CliError> {
    if !options.listen.ip().is_loopback() {
        return Err(CliError::Refused(format!(
            "--console {}: the console speaks plain HTTP, so it listens on loopback alone: give 127.0.0.1:PORT. From another machine \
             run upswarm console there, or forward the port with ssh -L",
            options.listen
        )));
    }
    let listener = TcpListener::bind(options.listen).await.with_context(|| {
        format!(
            "cannot listen on {} for the console; if another program uses the port, give another one",
            options.listen
        )
    })?;
    let address = listener.local_addr().context("asking for the console's port")?;
    let guard = Guard::new(address, options.link)?;
    let console = Console {
        live: Live::new(),
        client,
        guard,
        keys: options.keys,
        drafts: Drafts::default(),
        refused: Refused::default(),
        place: options.place,
    };
    let door = Door {
        name: "console",
        listener: Listener::Tcp(listener),
        connections: CONNECTIONS,
        of_one_address: CONNECTIONS,
        allow: Vec::new(),
    };
    Ok(Bound { console: Arc::new(console), door })
}

impl Bound {
    /// The link that lets one browser in, once.
    pub(crate) fn link(&self) -> String {
        self.console.guard.link()
    }

    /// Serves until `stop`.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let console = self.console.clone();
        tokio::select! {
            () = self.door.serve(routes(self.console), stop) => {}
            () = console.live.follow(&console.client) => {}
        }
    }
}

fn routes(console: Arc<Console>) -> Router {
    let routes = Router::new()
        .route("/", get(pages::overview::page))
        .route("/updates", get(pages::updates::page))
        .route("/updates/{release}", get(pages::update::page))
        .route("/rollouts", get(pages::rollouts::page))
        .route("/devices", get(pages::devices::page))
        .route("/devices.csv", get(export::devices_csv))
        .route("/devices.json", get(export::devices_json))
        .route("/devices/{device}", get(pages::device::page))
        .route("/sites", get(pages::sites::page))
        .route("/sites/{site}", get(pages::sites::one))
        .route("/groups", get(pages::groups::page))
        .route("/repositories", get(pages::repositories::page))
        .route("/alarms", get(pages::alarms::page))
        .route("/reports", get(pages::reports::page))
        .route("/reports.csv", get(pages::reports::as_csv))
        .route("/reports.json", get(pages::reports::as_json))
        .route("/audit", get(pages::audit::page))
        .route("/audit.csv", get(export::audit_csv))
        .route("/search", get(pages::search))
        .route("/act/hold", post(act::hold))
        .route("/act/retry", post(act::retry))
        .route("/act/log", post(act::log))
        .route("/act/acknowledge", post(act::acknowledge))
        .route("/act/sync", post(act::sync))
        .route("/act/draft", post(decide::draft))
        .route("/act/sign", post(decide::sign))
        .route("/drafts/{draft}", get(decide::preview))
        .route("/act/leave", post(guard::leave))
        // Whoever looks ahead (a preview of links, a scanner) must not use the secret up.
        .route("/enter", get(guard::enter).head(guard::get_alone))
        .route("/events", get(live::events))
        .route("/api/v1/{*path}", get(passing::api))
        .route("/metrics", get(passing::metrics))
        .route("/health", get(passing::health))
        .route("/ready", get(passing::ready))
        .route("/assets/{name}", get(assets::asset))
        .fallback(any(pages::nothing_here));
    bounded(routes).layer(middleware::from_fn_with_state(console.clone(), guard::check)).with_state(console)
}

/// Forms have an end, and come within their time.
fn bounded<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes.layer(DefaultBodyLimit::max(MAX_FORM)).layer(middleware::from_fn(in_time))
}

async fn in_time(request: Request, next: Next) -> Response {
    match door::whole(request, MAX_FORM).await {
        Ok(request) => next.run(request).await,
        Err((status, reason)) => {
            Trouble::new(status, "Not taken", format!("{reason}. Nothing was changed.")).into_response()
        }
    }
}
