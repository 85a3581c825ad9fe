//! The network: the only part that names libp2p.
//!
//! One task owns the swarm (TCP with Noise and Yamux, QUIC, mDNS, identify, ping, gossipsub). Two protocols of our own run
//! on long-lived streams beside it: *control* frames, one stream per pair of peers, and *blocks*, one stream per asker.
//!
//! Nothing here can hold up the driver, and the driver cannot hold up the swarm: calls of [`Host`] never wait, the swarm's
//! task always takes commands even while its events wait to be fetched, and a stream's task that waits for the driver
//! holds back only its own peer. So a full queue in one direction never waits for a full queue in the other.

mod addresses;
mod blocks;
mod control;
mod swarm;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use libp2p::Multiaddr;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::node_state::{FetchError, Verdict};
use upswarm_protocol::wire::{BlockStatus, BlockWhat, Topic};

pub(crate) use addresses::{check_multiaddr, is_loopback, useful, with_peer};

use blocks::{Asker, Serves};
use control::Outgoing;

/// Events that wait for the driver.
const MAX_EVENTS: usize = 256;
/// Commands that wait for the swarm, which takes them at once.
const MAX_COMMANDS: usize = 8192;

/// How to take part in the network.
#[derive(Debug, Clone)]
pub(crate) struct HostConfig {
    /// Ed25519 seed: the device's key.
    seed: [u8; 32],
    /// Multiaddrs to listen on.
    listen: Vec<String>,
    /// Whether to look for peers by multicast DNS.
    mdns: bool,
}

impl HostConfig {
    /// A host with this key that listens there.
    pub(crate) fn new(seed: [u8; 32], listen: Vec<String>, mdns: bool) -> Self {
        Self { seed, listen, mdns }
    }
}

/// What the network tells the driver.
#[derive(Debug)]
pub(crate) enum HostEvent {
    /// Control frames can flow to and from this peer, whose key is proven.
    PeerUp { peer: DeviceId, dialled: Option<Text<512>> },
    /// The peer is gone; once per `PeerUp`.
    PeerDown { peer: DeviceId },
    /// An address did not lead to a connection.
    DialFailed { address: Text<512>, reason: String },
    /// A control frame.
    Frame { peer: DeviceId, bytes: Vec<u8> },
    /// A gossip message, which waits for [`Host::verdict`].
    Gossip { id: u64, from: DeviceId, topic: Topic, bytes: Vec<u8> },
    /// A peer asks for bytes; wants [`Host::answer`].
    BlockRequested { peer: DeviceId, serve: u64, what: BlockWhat },
    /// A request has been answered, or its asker is gone.
    Served { serve: u64, bytes: u64 },
    /// Multicast DNS found an address.
    Hint { address: Text<512> },
    /// All addresses on which this host listens now.
    Listening { addresses: Vec<Text<128>> },
}

#[derive(Debug)]
enum Command {
    Dial(Text<512>),
    Disconnect(DeviceId),
    Subscribe(Topic),
    Publish(Topic, Vec<u8>),
    Verdict(u64, DeviceId, Verdict),
}

/// What stream tasks and the handle share.
struct Shared {
    commands: mpsc::Sender<Command>,
    events: mpsc::Sender<HostEvent>,
    control: libp2p_stream::Control,
    peers: Mutex<BTreeMap<DeviceId, Outgoing>>,
    askers: Mutex<BTreeMap<DeviceId, Asker>>,
    serves: Mutex<Serves>,
    stop: CancellationToken,
}

/// A handle on the network. Clones share it.
#[derive(Clone)]
pub(crate) struct Host(Arc<Shared>);

impl Host {
    /// Starts the network; returns when every listener stands. Fails for an address that cannot be listened on.
    pub(crate) async fn start(config: HostConfig) -> anyhow::Result<(Self, mpsc::Receiver<HostEvent>)> {
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        let (commands, taken) = mpsc::channel(MAX_COMMANDS);
        let mut swarm = swarm::build(&config)?;
        for text in &config.listen {
            let address: Multiaddr = addresses::parse(text)?;
            swarm.listen_on(address).with_context(|| {
                format!(
                    "cannot listen on {text}; is the port in use by another program, or the address not this machine's?"
                )
            })?;
        }
        let shared = Arc::new(Shared {
            commands,
            events,
            control: swarm.behaviour().streams.new_control(),
            peers: Mutex::default(),
            askers: Mutex::default(),
            serves: Mutex::default(),
            stop: CancellationToken::new(),
        });
        control::accept(&shared)?;
        blocks::accept(&shared)?;
        swarm::run(swarm, shared.clone(), taken);
        Ok((Self(shared), receiver))
    }

    /// Connects to an address. A failure is told by [`HostEvent::DialFailed`].
    pub(crate) fn dial(&self, address: Text<512>) {
        self.command(Command::Dial(address));
    }

    /// Ends every connection to a peer, after frames that were sent before.
    pub(crate) fn disconnect(&self, peer: DeviceId) {
        match lock(&self.0.peers).remove(&peer) {
            Some(outgoing) => outgoing.finish(),
            None => self.command(Command::Disconnect(peer)),
        }
    }

    /// Sends a control frame. A peer that does not take its frames is disconnected.
    pub(crate) fn send(&self, peer: DeviceId, frame: Vec<u8>) {
        let sent = lock(&self.0.peers).get(&peer).is_none_or(|outgoing| outgoing.send(frame));
        if !sent {
            tracing::info!(peer = %peer.short(), "disconnecting: it does not take its messages");
            lock(&self.0.peers).remove(&peer);
            self.command(Command::Disconnect(peer));
        }
    }

    /// Takes part in a topic.
    pub(crate) fn subscribe(&self, topic: Topic) {
        self.command(Command::Subscribe(topic));
    }

    /// Gossips a message. Without anybody to hear it, it is lost.
    pub(crate) fn publish(&self, topic: Topic, bytes: Vec<u8>) {
        self.command(Command::Publish(topic, bytes));
    }

    /// Says what becomes of a gossip message.
    pub(crate) fn verdict(&self, id: u64, from: DeviceId, verdict: Verdict) {
        self.command(Command::Verdict(id, from, verdict));
    }

    /// Asks a peer for a run of chunks or a document, of at most `limit` bytes. Several may be under way. Dropping the future
    /// forgets the answer.
    pub(crate) async fn fetch_block(
        &self,
        peer: DeviceId,
        what: BlockWhat,
        limit: usize,
    ) -> Result<Vec<u8>, FetchError> {
        blocks::fetch(&self.0, peer, what, limit).await
    }

    /// Answers [`HostEvent::BlockRequested`]. An asker that is gone is no error.
    pub(crate) fn answer(&self, serve: u64, answer: Result<Vec<u8>, BlockStatus>) {
        lock(&self.0.serves).answer(serve, answer);
    }

    /// Ends the network. What was sent just before may still go out.
    pub(crate) async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.commands.closed().await;
    }

    fn command(&self, command: Command) {
        if let Err(error) = self.0.commands.try_send(command) {
            tracing::warn!("the network part is behind; dropped: {error}");
        }
    }
}

/// A lock that a panicking task left is used all the same: every change under it is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
