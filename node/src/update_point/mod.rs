//! The update point: what is approved for this machine, over HTTP for programs that know nothing of us, plain apt above all.
//!
//! ```text
//! GET /apt/UPSTREAM/dists/SUITE/InRelease        upstream's own bytes, of the newest approved snapshot
//! GET /apt/UPSTREAM/dists/SUITE/main/...         its indexes, by name and by hash (by-hash of older approved snapshots too)
//! GET /apt/UPSTREAM/pool/.../FILE.deb            the packages that are selected, nothing else
//! GET /apt/filtered/GROUP...                     repositories for machines without an agent: see `filtered`
//! GET /payload/BLAKE3, /release/ID/NAME          payloads of approved releases, for scripts
//! ```
//! The node's core says what is approved and has missing bytes fetched; they are read from the store chunk by chunk and sent in
//! order as they come. Whoever asks cannot choose where bytes come from: no text of a request reaches a URL. A page in a browser
//! cannot ask at all: requests with `Origin` or `Sec-Fetch-Site` are refused, and so is a `Host` that is a name of somebody else's
//! domain. Connections, waiting and bytes that are fetched for clients in a day are bounded.

mod answer;
mod budget;
mod built;
mod filtered;
#[cfg(test)]
mod load;
#[cfg(test)]
mod real_apt;
mod request;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use upswarm_cache::Store;
use upswarm_protocol::catalog::{Approval, Payload, Recipe, Release};
use upswarm_protocol::ids::{PayloadId, ReleaseId};
use upswarm_protocol::node::{Input, NodeState};
use upswarm_protocol::time::Now;

use crate::config::UpdatePointConfig;
use crate::door::{Door, Listener};
use answer::Shared;

/// Connections at one time: those of a site whose machines all look for updates in the same minute. Each takes some 100 KiB at most
/// ([`answer::PIECE`], and as much again on its way).
const MAX_CONNECTIONS: usize = 1024;
/// Of one address of the LAN. The programs of this machine share one, and all of the room.
const OF_ONE_ADDRESS: usize = 32;
/// Questions that wait for the node's loop.
const MAX_ASKED: usize = 32;
/// What products of repositories begin with.
const APT: &str = "apt.";

/// An approval for machines without an agent, and its release.
#[derive(Debug, Clone)]
struct Filter {
    approval: Arc<Approval>,
    release: Arc<Release>,
}

/// What the core is asked.
#[derive(Debug)]
enum Question {
    /// Snapshots of an upstream, the newest first.
    Upstream(String, oneshot::Sender<Vec<Arc<Release>>>),
    /// What machines without an agent may have in a group: of each upstream the approval in force.
    Filtered(String, oneshot::Sender<Vec<Filter>>),
    /// Any release.
    Release(ReleaseId, oneshot::Sender<Option<Arc<Release>>>),
    /// A payload of any release, with when that was issued.
    Payload(PayloadId, oneshot::Sender<Option<(Arc<Release>, Payload)>>),
    /// Bytes are missing that a client waits for.
    Want(PayloadId),
}

/// A question that waits for the core's answer.
#[derive(Debug)]
pub(crate) struct Asked(Question);

impl Asked {
    /// Answers from what is approved for this device now. Returns what the core must be told in consequence.
    pub(crate) fn answer(self, state: &NodeState, now: Now) -> Option<Input> {
        // Whoever asked may be gone.
        match self.0 {
            Question::Upstream(name, reply) => {
                let is_of_it = |release: &Arc<Release>| {
                    release.product.as_str().strip_prefix(APT) == Some(&*name)
                        && matches!(release.install, Recipe::Apt(_))
                };
                let offers = state.offers(now).into_iter().map(|(_, release)| release);
                let _ = reply.send(offers.filter(is_of_it).collect());
            }
            Question::Filtered(group, reply) => {
                let approved = state.filtered(&group, now).into_iter();
                let _ = reply.send(approved.map(|(approval, release)| Filter { approval, release }).collect());
            }
            Question::Release(id, reply) => {
                let offers = state.offers(now);
                let _ = reply.send(offers.into_iter().find(|(of, _)| *of == id).map(|(_, release)| release));
            }
            Question::Payload(id, reply) => {
                let found = state.offers(now).into_iter().find_map(|(_, release)| {
                    let payload = release.payloads.iter().find(|payload| payload.id == id)?.clone();
                    Some((release, payload))
                });
                let _ = reply.send(found);
            }
            Question::Want(payload) => return Some(Input::Want { payload }),
        }
        None
    }
}

/// The update point of a running node; ends when dropped.
#[derive(Debug)]
pub(crate) struct UpdatePoint {
    asked: mpsc::Receiver<Asked>,
    /// Without an update point nobody ever asks.
    _keep: mpsc::Sender<Asked>,
    stored: Arc<Notify>,
    stop: CancellationToken,
}

impl UpdatePoint {
    /// Listens where the configuration says; nowhere without one. An address that cannot be had is no reason for a node not to
    /// run: its log says so.
    pub(crate) async fn start(config: Option<&UpdatePointConfig>, store: &Arc<Store>) -> Self {
        let (send, asked) = mpsc::channel(MAX_ASKED);
        let (stored, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        if let Some(config) = config {
            let shared = Arc::new(Shared::new(config, store.clone(), send.clone(), stored.clone()));
            for address in &config.listen {
                match door(*address, config).await {
                    Ok(door) => {
                        tracing::info!(%address, "the update point listens");
                        tokio::spawn(door.serve(answer::routes(shared.clone()), stop.clone()));
                    }
                    Err(error) => tracing::error!("the update point is not there for apt: {error:#}"),
                }
            }
        }
        Self { asked, _keep: send, stored, stop }
    }

    /// The next question. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }

    /// Bytes have come: whoever waits looks again.
    pub(crate) fn stored(&self) {
        self.stored.notify_waiters();
    }
}

impl Drop for UpdatePoint {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn door(address: SocketAddr, config: &UpdatePointConfig) -> anyhow::Result<Door> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; if another program uses it, set listen in [update_point] of node.toml")
    })?;
    Ok(room(listener, address.ip().is_loopback(), config.networks()))
}

/// A door with its limits.
fn room(listener: TcpListener, of_this_machine: bool, allow: Vec<IpNet>) -> Door {
    let of_one_address = if of_this_machine { MAX_CONNECTIONS } else { OF_ONE_ADDRESS };
    let listener = Listener::Tcp(listener);
    Door { name: "update point", listener, connections: MAX_CONNECTIONS, of_one_address, allow }
}
