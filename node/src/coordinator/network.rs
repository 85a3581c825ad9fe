//! The libp2p face of the coordinator: carries what peers say to the driver, and the driver's orders to peers.

use std::collections::VecDeque;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use upswarm_protocol::codec::Text;
use upswarm_protocol::coordinator_state::{Input, Output, ServeWhat};
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::wire::BlockStatus;

use super::directory::Directory;
use crate::host::{self, Host, HostConfig, HostEvent};

/// Inputs that wait for the driver; beyond, the network is left alone until it has caught up. Orders are always taken, so the
/// two never wait for each other.
const MAX_WAITING: usize = 64;

/// The coordinator's network.
pub(crate) struct Network {
    host: Host,
    events: mpsc::Receiver<HostEvent>,
    addresses: Vec<String>,
    device: DeviceId,
    directory: Directory,
}

impl Network {
    /// Starts listening; returns when the addresses are known.
    pub(crate) async fn start(identity: &[u8; 32], listen: &[String], directory: Directory) -> Result<Self> {
        let (host, mut events) = Host::start(HostConfig::new(*identity, listen.to_vec(), false)).await?;
        let device = DeviceId(ed25519_dalek::SigningKey::from_bytes(identity).verifying_key().to_bytes());
        let mut addresses = Vec::new();
        while addresses.len() < listen.len() {
            match events.recv().await {
                Some(HostEvent::Listening { addresses: now }) => {
                    addresses = now.iter().map(|address| host::with_peer(address, device)).collect();
                }
                Some(_) => {}
                None => anyhow::bail!("the network part ended while it started"),
            }
        }
        Ok(Self { host, events, addresses, device, directory })
    }

    /// Where it listens, with the peer id.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// The peer id.
    pub(crate) fn peer(&self) -> String {
        host::with_peer("", self.device).trim_start_matches("/p2p/").to_owned()
    }

    /// Runs until `stop`.
    pub(crate) async fn run(
        mut self,
        inputs: mpsc::Sender<Input>,
        mut orders: mpsc::Receiver<Output>,
        stop: CancellationToken,
    ) {
        let mut waiting: VecDeque<Input> = VecDeque::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                order = orders.recv() => match order {
                    Some(order) => self.order(order),
                    None => break,
                },
                permit = inputs.reserve(), if !waiting.is_empty() => match (permit, waiting.pop_front()) {
                    (Ok(permit), Some(input)) => permit.send(input),
                    _ => break,
                },
                event = self.events.recv(), if waiting.len() < MAX_WAITING => match event {
                    Some(event) => waiting.extend(input(event)),
                    None => break,
                },
            }
        }
        self.host.shutdown().await;
    }

    fn order(&self, order: Output) {
        match order {
            Output::Disconnect { peer, reason } => {
                tracing::info!(peer = %peer.short(), "disconnecting: {reason}");
                self.host.disconnect(peer);
            }
            Output::Send { peer, frame } => self.host.send(peer, frame),
            Output::Subscribe(topic) => self.host.subscribe(topic),
            Output::Publish { topic, bytes } => self.host.publish(topic, bytes),
            Output::GossipVerdict { id, from, verdict } => self.host.verdict(id, from, verdict),
            Output::Deny { serve, status } => self.host.answer(serve, Err(status)),
            Output::Serve { serve, what } => {
                let path = match what {
                    ServeWhat::Doc(hash) => self.directory.doc(&hash),
                    ServeWhat::Root(version) => self.directory.root(version),
                };
                let host = self.host.clone();
                tokio::spawn(async move {
                    let read = tokio::fs::read(&path).await;
                    if let Err(error) = &read {
                        tracing::warn!(path = %path.display(), "a document cannot be read: {error}");
                    }
                    host.answer(serve, read.map_err(|_| BlockStatus::NotHeld));
                });
            }
            // The driver keeps the others to itself.
            other => tracing::error!("an order that the network does not know: {other:?}"),
        }
    }
}

fn input(event: HostEvent) -> Option<Input> {
    Some(match event {
        HostEvent::PeerUp { peer, .. } => Input::PeerUp { peer },
        HostEvent::PeerDown { peer } => Input::PeerDown { peer },
        HostEvent::Frame { peer, bytes } => Input::Frame { peer, bytes },
        HostEvent::Gossip { id, from, topic, bytes } => Input::Gossip { id, from, topic, bytes },
        HostEvent::BlockRequested { peer, serve, what } => Input::BlockRequested { peer, serve, what },
        HostEvent::Served { serve, .. } => Input::Served { serve },
        HostEvent::DialFailed { .. } | HostEvent::Hint { .. } | HostEvent::Listening { .. } => return None,
    })
}

/// Addresses that mean something to another machine: loopback only when there is nothing else.
pub(crate) fn reachable(addresses: &[String]) -> Vec<String> {
    let texts: Vec<Text<512>> = addresses.iter().map(|address| Text::lossy(address)).collect();
    host::useful(&texts).map(|address| address.to_string()).collect()
}
