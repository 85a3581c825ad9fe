//! The libp2p face: passes what the host hears to the driver, and what the core wants to the host.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use upswarm_protocol::coordinator::{Input, Output, ServeWhat};
use upswarm_protocol::wire::BlockStatus;

use super::directory::Directory;
use super::http::frames::Frames;
use crate::net::{Host, HostConfig, HostEvent, peer_id_text, useful};

const MAX_CONNECTIONS: u32 = 4096;
/// Documents that are read from disk at once.
const READS: usize = 8;

/// A host that listens and is not yet listened to.
pub(super) struct Network {
    host: Host,
    events: mpsc::Receiver<HostEvent>,
    directory: Directory,
    addresses: watch::Sender<Vec<String>>,
}

impl Network {
    /// Listens on every address.
    pub(super) async fn start(key: &[u8; 32], listen: &[String], directory: Directory) -> anyhow::Result<Self> {
        let config = HostConfig {
            key: *key,
            listen: listen.to_vec(),
            // A coordinator has no site: machines know it from their token.
            mdns: false,
            quic: listen.iter().any(|address| address.contains("/quic-v1")),
            max_connections: MAX_CONNECTIONS,
            agent: format!("upswarm/{}", env!("CARGO_PKG_VERSION")),
        };
        let (host, mut events) =
            Host::start(config).await.context("cannot listen for machines; give another address with --listen")?;
        let Some(HostEvent::Listening { addresses }) = events.recv().await else {
            bail!("the network ended before it listened");
        };
        let addresses = watch::Sender::new(reachable(&addresses));
        Ok(Self { host, events, directory, addresses })
    }

    /// Where machines reach it, with `/p2p/<peer>`: loopback only when there is nothing else. Follows the interfaces.
    pub(super) fn addresses(&self) -> watch::Receiver<Vec<String>> {
        self.addresses.subscribe()
    }

    /// Its peer id.
    pub(super) fn peer(&self) -> String {
        peer_id_text(self.host.local())
    }

    /// Passes events and orders until `stop`, then says what was ordered and leaves.
    pub(super) async fn run(
        mut self,
        inputs: mpsc::Sender<Input>,
        mut orders: mpsc::Receiver<Output>,
        frames: Arc<Frames>,
        stop: CancellationToken,
    ) {
        let mut reads = JoinSet::new();
        let slots = Arc::new(Semaphore::new(READS));
        loop {
            // Room first, so that an event never waits in here while orders must be taken.
            let heard = async {
                let room = inputs.reserve_many(2).await;
                (room, self.events.recv().await)
            };
            tokio::select! {
                () = stop.cancelled() => break,
                order = orders.recv() => match order {
                    Some(Output::Serve { serve, what }) => {
                        let path = path_of(&self.directory, what);
                        reads.spawn(serve_document(self.host.clone(), inputs.clone(), slots.clone(), serve, path));
                    }
                    Some(Output::Send { peer, frame }) if frames.send(&peer, &frame) => {}
                    Some(Output::Disconnect { peer, reason }) if frames.leave(&peer) => {
                        tracing::info!(%peer, reason, "a device that came by HTTP is left");
                    }
                    Some(order) => obey(&self.host, order).await,
                    None => break,
                },
                heard = heard => match heard {
                    (Ok(_), Some(HostEvent::Listening { addresses })) => {
                        let addresses = reachable(&addresses);
                        self.addresses.send_if_modified(|known| {
                            let news = *known != addresses;
                            *known = addresses;
                            news
                        });
                    }
                    (Ok(mut room), Some(event)) => {
                        let ended = match &event {
                            HostEvent::PeerUp { peer, .. } if frames.direct(*peer, true) => Some(*peer),
                            HostEvent::PeerDown { peer } => {
                                frames.direct(*peer, false);
                                None
                            }
                            _ => None,
                        };
                        let down = ended.map(|peer| Input::PeerDown { peer });
                        down.into_iter().chain(input(event)).zip(&mut room).for_each(|(input, room)| room.send(input));
                    }
                    _ => break,
                },
                Some(_) = reads.join_next() => {}
            }
        }
        self.host.stop().await;
    }
}

/// The addresses that machines elsewhere can use.
fn reachable<T: Deref<Target = str>>(addresses: &[T]) -> Vec<String> {
    useful(addresses).map(|address| address.to_string()).collect()
}

fn input(event: HostEvent) -> Option<Input> {
    Some(match event {
        HostEvent::PeerUp { peer, .. } => Input::PeerUp { peer },
        HostEvent::PeerDown { peer } => Input::PeerDown { peer },
        HostEvent::Frame { peer, bytes } => Input::Frame { peer, bytes },
        HostEvent::Gossip { id, from, topic, bytes } => Input::Gossip { id, from, topic, bytes },
        HostEvent::BlockRequested { peer, serve, what } => Input::BlockRequested { peer, serve, what },
        HostEvent::Served { serve, .. } => Input::Served { serve },
        // It dials nobody.
        HostEvent::DialFailed { .. } | HostEvent::Hint { .. } | HostEvent::Listening { .. } => return None,
    })
}

async fn obey(host: &Host, order: Output) {
    match order {
        Output::Disconnect { peer, reason } => {
            tracing::info!(%peer, reason, "a peer is left");
            host.disconnect(peer, reason).await;
        }
        Output::Send { peer, frame } => host.send(peer, frame).await,
        Output::Subscribe(topic) => host.subscribe(topic).await,
        Output::Publish { topic, bytes } => host.publish(topic, bytes).await,
        Output::GossipVerdict { id, from, verdict } => host.verdict(id, from, verdict).await,
        Output::Deny { serve, status } => host.answer(serve, Err(status)).await,
        // The driver keeps these to itself.
        Output::Serve { .. }
        | Output::OpenReport { .. }
        | Output::Answer { .. }
        | Output::Persist { .. }
        | Output::DropDocument(_)
        | Output::RolloutStopped(_)
        | Output::Alarm(_)
        | Output::Raise { .. }
        | Output::Over { .. }
        | Output::Left(_) => {}
    }
}

fn path_of(directory: &Directory, what: ServeWhat) -> PathBuf {
    match what {
        ServeWhat::Doc(hash) => directory.doc(&hash),
        ServeWhat::Root(version) => directory.root(version),
    }
}

async fn serve_document(host: Host, inputs: mpsc::Sender<Input>, slots: Arc<Semaphore>, serve: u64, path: PathBuf) {
    let Ok(_slot) = slots.acquire().await else { return };
    match tokio::fs::read(&path).await {
        Ok(bytes) => host.answer(serve, Ok(Bytes::from(bytes))).await,
        Err(error) => {
            // Named by the core and not yet, or no longer, on disk.
            tracing::debug!(path = %path.display(), %error, "a document cannot be served");
            host.answer(serve, Err(BlockStatus::NotHeld)).await;
            // The host tells nothing of an answer without bytes; the driver having ended is no matter here.
            let _ = inputs.send(Input::Served { serve }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_loopback_only_when_there_is_nothing_else() {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let both = texts(&["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip6/::1/tcp/1"]);
        assert_eq!(reachable(&both), texts(&["/ip4/10.0.0.1/tcp/1"]));
        assert_eq!(reachable(&both[..1]), both[..1]);
    }
}
