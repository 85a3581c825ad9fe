//! Peers: the only module that names libp2p.
//!
//! One task owns the swarm: TCP with Noise and Yamux first, QUIC second. Between two machines stand one *control* stream of
//! small ordered frames, one *block* stream per direction of asking, and gossip. [`Host`] takes the driver's orders,
//! [`HostEvent`] is what it hears.
//!
//! **No deadlock.** Commands and events are bounded channels, and the driver may await both in one loop. The host's task
//! never awaits the driver: it takes commands in every state, and keeps events that the driver has no room for in a short
//! queue of its own. While that queue is full it reads neither the swarm nor the streams' tasks, so a slow driver slows the
//! peers down (their streams fill up) and costs no memory.
//!
//! **Every dial ends** in [`HostEvent::PeerUp`] with its address or in [`HostEvent::DialFailed`], and every `PeerUp` in one
//! [`HostEvent::PeerDown`].

mod address;
mod block;
mod control;
mod events;
mod link_local;
mod mux;
mod noise;
mod shares;
mod streams;
mod swarm;
mod task;
#[cfg(test)]
mod tests;
mod trouble;

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::node::{FetchError, Verdict};
use upswarm_protocol::wire::{BlockStatus, BlockWhat, Topic};

pub(crate) use address::{
    dialled, has_ipv6, is_link_local, is_loopback, multiaddr, peer_id_text, reachable_ips, useful,
};

/// Commands on their way. Small: a command is taken as soon as the task runs.
const COMMANDS: usize = 64;
/// Time for a new connection, with its handshakes.
const UPGRADE: Duration = Duration::from_secs(15);
/// Events on their way to the driver.
const EVENTS: usize = 64;

/// What a host needs to know to start.
#[derive(Clone)]
pub(crate) struct HostConfig {
    /// The seed of the device's Ed25519 key.
    pub(crate) key: [u8; 32],
    /// Multiaddrs to listen on, such as `/ip4/0.0.0.0/tcp/7400`; port 0 lets the system choose. None: only dial.
    pub(crate) listen: Vec<String>,
    /// Look for peers on the LAN by multicast, and be found.
    pub(crate) mdns: bool,
    /// Speak QUIC too; `listen` then may hold `/udp/<port>/quic-v1` addresses.
    pub(crate) quic: bool,
    /// Connections at any time, in both directions together.
    pub(crate) max_connections: u32,
    /// What peers are told about the program, such as `upswarm/0.1.0`.
    pub(crate) agent: String,
}

impl HostConfig {
    /// A node's host: TCP, and QUIC where it listens on it.
    pub(crate) fn of_node(key: [u8; 32], listen: Vec<String>, mdns: bool) -> Self {
        Self {
            key,
            listen,
            mdns,
            quic: true,
            max_connections: 96,
            agent: concat!("upswarm/", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// What the driver hears. Lists and texts are bounded; bytes are not checked beyond their length.
#[derive(Debug)]
pub(crate) enum HostEvent {
    /// A control stream stands, frames can flow.
    PeerUp {
        /// The peer, proved by the connection's handshake.
        peer: DeviceId,
        /// The address given to [`Host::dial`], when this side dialled.
        dialled: Option<Text<512>>,
    },
    /// It no longer stands. Follows each `PeerUp` once.
    PeerDown {
        /// The peer.
        peer: DeviceId,
    },
    /// A dial did not lead to a control stream of its own: not reached, another peer than the address named, already
    /// connected.
    DialFailed {
        /// As given to [`Host::dial`].
        address: Text<512>,
        /// For logs.
        reason: String,
    },
    /// A control frame, in the order of sending.
    Frame {
        /// From whom.
        peer: DeviceId,
        /// At most [`upswarm_protocol::wire::MAX_FRAME`] bytes.
        bytes: Vec<u8>,
    },
    /// A gossip message, passed on only after [`Host::verdict`].
    Gossip {
        /// Names it for the verdict.
        id: u64,
        /// The neighbour it came from, not its author.
        from: DeviceId,
        /// Its topic.
        topic: Topic,
        /// At most [`upswarm_protocol::wire::MAX_GOSSIP`] bytes.
        bytes: Vec<u8>,
    },
    /// A peer asks for bytes: answer with [`Host::answer`].
    BlockRequested {
        /// Who asks.
        peer: DeviceId,
        /// Names the request.
        serve: u64,
        /// What it asks for.
        what: BlockWhat,
    },
    /// A request is over: its bytes are sent, or its peer is gone (answered or not). Follows each `BlockRequested` once,
    /// except those that were answered with a status.
    Served {
        /// Which.
        serve: u64,
        /// Bytes of the answer that were handed to the connection.
        bytes: u64,
    },
    /// An address seen by mDNS, with its `/p2p/` suffix; anyone on the LAN can make one up.
    Hint {
        /// The address.
        address: Text<512>,
    },
    /// Where this host listens now, all of it, best first, each with its `/p2p/` suffix.
    Listening {
        /// Multiaddrs.
        addresses: Vec<Text<128>>,
    },
}

/// What the driver asks of the task.
enum Command {
    Dial(String),
    Disconnect { peer: DeviceId, reason: String },
    Send { peer: DeviceId, frame: Vec<u8> },
    Subscribe(Topic),
    Publish { topic: Topic, bytes: Vec<u8> },
    Verdict { id: u64, from: DeviceId, verdict: Verdict },
    Fetch { peer: DeviceId, job: block::Job },
    Answer { serve: u64, answer: Result<Bytes, BlockStatus> },
    Stop(oneshot::Sender<()>),
}

/// A handle to the host's task, which ends when the last handle is dropped. Calls return as soon as the task has the
/// command; what became of it comes as a [`HostEvent`]. After [`Host::stop`] they do nothing.
#[derive(Clone)]
pub(crate) struct Host {
    local: DeviceId,
    commands: mpsc::Sender<Command>,
}

impl Host {
    /// Listens on every address of the config and starts the task. The first event is [`HostEvent::Listening`].
    pub(crate) async fn start(config: HostConfig) -> anyhow::Result<(Self, mpsc::Receiver<HostEvent>)> {
        let (commands, commands_rx) = mpsc::channel(COMMANDS);
        let (events, events_rx) = mpsc::channel(EVENTS);
        let task = task::Task::listen(&config, commands_rx, events).await?;
        let local = task.local();
        tokio::spawn(task.run());
        Ok((Self { local, commands }, events_rx))
    }

    /// This device.
    pub(crate) fn local(&self) -> DeviceId {
        self.local
    }

    /// Connects to a multiaddr. With a `/p2p/` suffix only that peer will do.
    pub(crate) async fn dial(&self, address: String) {
        self.command(Command::Dial(address)).await;
    }

    /// Ends the connection to a peer, after the frames that were sent before this call (two seconds at most).
    pub(crate) async fn disconnect(&self, peer: DeviceId, reason: String) {
        self.command(Command::Disconnect { peer, reason }).await;
    }

    /// Sends a control frame of at most [`upswarm_protocol::wire::MAX_FRAME`] bytes. A peer that lets too many of them
    /// pile up is disconnected; one that is not connected gets nothing.
    pub(crate) async fn send(&self, peer: DeviceId, frame: Vec<u8>) {
        self.command(Command::Send { peer, frame }).await;
    }

    /// Takes part in a topic.
    pub(crate) async fn subscribe(&self, topic: Topic) {
        self.command(Command::Subscribe(topic)).await;
    }

    /// Gossips at most [`upswarm_protocol::wire::MAX_GOSSIP`] bytes to whoever takes part in the topic.
    pub(crate) async fn publish(&self, topic: Topic, bytes: Vec<u8>) {
        self.command(Command::Publish { topic, bytes }).await;
    }

    /// Says what to do with [`HostEvent::Gossip`]. Without a verdict a message is dropped.
    pub(crate) async fn verdict(&self, id: u64, from: DeviceId, verdict: Verdict) {
        self.command(Command::Verdict { id, from, verdict }).await;
    }

    /// Asks a connected peer for one block or document of at most `limit` bytes. Many calls may be under way at once; they
    /// share one stream. Dropping the future forgets the answer.
    ///
    /// `Status` is the peer's own refusal, `Wrong` a longer answer or a broken protocol, `Unreachable` everything else: no
    /// connection, a reset, or no byte of any answer for [`block::STALL`].
    pub(crate) async fn fetch_block(
        &self,
        peer: DeviceId,
        what: BlockWhat,
        limit: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Fetch { peer, job: block::Job { what, limit, reply } }).await;
        answer.await.unwrap_or_else(|_| Err(FetchError::Unreachable("the connection ended".into())))
    }

    /// Answers [`HostEvent::BlockRequested`], with the bytes or with a status. One whose peer is gone is forgotten.
    pub(crate) async fn answer(&self, serve: u64, answer: Result<Bytes, BlockStatus>) {
        self.command(Command::Answer { serve, answer }).await;
    }

    /// Ends every connection after what was sent before this call, and the task. Takes two seconds at most.
    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        self.command(Command::Stop(done)).await;
        // An error means that the task had ended already.
        let _ = stopped.await;
    }

    async fn command(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("the host has stopped; a command to it is dropped");
        }
    }
}
