//! The swarm and the task that owns it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use libp2p::connection_limits::ConnectionLimits;
use libp2p::core::ConnectedPoint;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, connection_limits, identify, mdns, noise, ping, tcp, yamux};
use tokio::sync::mpsc;
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::node_state::Verdict;
use upswarm_protocol::wire::{MAX_GOSSIP, Topic};

use super::addresses::{device_id, device_of_address, parse, peer_id};
use super::{Command, HostConfig, HostEvent, Shared, control, lock};

/// Connections in all; the core holds fewer peers and says goodbye to more.
const MAX_CONNECTIONS: u32 = 160;
/// Events of the swarm that wait for the driver; above, the swarm itself waits.
const MAX_WAITING: usize = 64;
/// Gossip messages that wait for a verdict; the oldest is forgotten, which ignores it.
const MAX_UNDECIDED: usize = 4096;
/// A connection without a stream is of no use to anybody; ours have one at once.
const IDLE: Duration = Duration::from_secs(60);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) streams: libp2p_stream::Behaviour,
    gossip: gossipsub::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

pub(super) fn build(config: &HostConfig) -> anyhow::Result<Swarm<Behaviour>> {
    let key = Keypair::ed25519_from_bytes(config.seed).context("the device key is not usable")?;
    let swarm = libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .context("cannot set up TCP")?
        .with_quic()
        .with_dns()
        .context("cannot set up name resolution")?
        .with_behaviour(|key| behaviour(key, config.mdns))
        .map_err(|error| anyhow::anyhow!("cannot set up the network: {error}"))?
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE))
        .build();
    Ok(swarm)
}

fn behaviour(key: &Keypair, with_mdns: bool) -> Result<Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let peer = key.public().to_peer_id();
    // Two per peer: when both dial at once, either may win; one more would only cost.
    let limits = ConnectionLimits::default()
        .with_max_established(Some(MAX_CONNECTIONS))
        .with_max_established_per_peer(Some(2))
        .with_max_pending_incoming(Some(64))
        .with_max_pending_outgoing(Some(32));
    let gossip = gossipsub::ConfigBuilder::default()
        .heartbeat_interval(Duration::from_millis(700))
        .heartbeat_initial_delay(Duration::from_millis(100))
        .mesh_n(8)
        .mesh_n_low(5)
        .mesh_n_high(14)
        .mesh_outbound_min(2)
        .duplicate_cache_time(Duration::from_secs(120))
        .max_transmit_size(MAX_GOSSIP + 1024)
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        // What is gossiped is named by its content: the same bytes travel once, whoever sent them.
        .message_id_fn(|message| MessageId::new(blake3::hash(&message.data).as_bytes()))
        .build()?;
    let identify = identify::Config::new("/upswarm/1".into(), key.public())
        .with_agent_version(concat!("upswarm/", env!("CARGO_PKG_VERSION")).into())
        .with_interval(Duration::from_secs(3600));
    let mdns = if with_mdns { Some(mdns::tokio::Behaviour::new(mdns::Config::default(), peer)?) } else { None };
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        streams: libp2p_stream::Behaviour::new(),
        gossip: gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, gossip)?,
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(15))),
        mdns: mdns.into(),
    })
}

pub(super) fn run(swarm: Swarm<Behaviour>, shared: Arc<Shared>, commands: mpsc::Receiver<Command>) {
    let task = Task {
        swarm,
        shared,
        waiting: VecDeque::new(),
        dials: BTreeMap::new(),
        dialled: BTreeMap::new(),
        topics: BTreeMap::new(),
        undecided: BTreeMap::new(),
        next_gossip: 0,
        listening: BTreeSet::new(),
    };
    tokio::spawn(task.run(commands));
}

struct Task {
    swarm: Swarm<Behaviour>,
    shared: Arc<Shared>,
    waiting: VecDeque<HostEvent>,
    /// Dials under way, with the address as it was given.
    dials: BTreeMap<ConnectionId, Text<512>>,
    /// By which address a connected peer was dialled.
    dialled: BTreeMap<DeviceId, Text<512>>,
    topics: BTreeMap<gossipsub::TopicHash, Topic>,
    undecided: BTreeMap<u64, MessageId>,
    next_gossip: u64,
    listening: BTreeSet<Multiaddr>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let events = self.shared.events.clone();
        let stop = self.shared.stop.clone();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                event = self.swarm.select_next_some(), if self.waiting.len() < MAX_WAITING => self.swarm_event(event),
                permit = events.reserve(), if !self.waiting.is_empty() => {
                    match (permit, self.waiting.pop_front()) {
                        (Ok(permit), Some(event)) => permit.send(event),
                        _ => break,
                    }
                }
                () = stop.cancelled() => break,
            }
        }
        // What was gossiped just before the end gets a moment to leave.
        let _ = tokio::time::timeout(Duration::from_millis(100), async {
            loop {
                self.swarm.select_next_some().await;
            }
        })
        .await;
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Dial(address) => self.dial(address),
            Command::Disconnect(device) => {
                if let Some(peer) = peer_id(&device) {
                    // Not connected is what was asked for.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
            }
            Command::Subscribe(topic) => {
                let ident = IdentTopic::new(topic.to_string());
                self.topics.insert(ident.hash(), topic);
                if let Err(error) = self.swarm.behaviour_mut().gossip.subscribe(&ident) {
                    tracing::warn!("cannot subscribe to {topic}: {error}");
                }
            }
            Command::Publish(topic, bytes) => {
                let ident = IdentTopic::new(topic.to_string());
                // Nobody there to hear it, or heard already, is normal.
                if let Err(error) = self.swarm.behaviour_mut().gossip.publish(ident, bytes) {
                    tracing::trace!("not gossiped: {error}");
                }
            }
            Command::Verdict(id, from, verdict) => {
                let (Some(message), Some(peer)) = (self.undecided.remove(&id), peer_id(&from)) else { return };
                let acceptance = match verdict {
                    Verdict::Accept => MessageAcceptance::Accept,
                    Verdict::Ignore => MessageAcceptance::Ignore,
                    Verdict::Reject => MessageAcceptance::Reject,
                };
                self.swarm.behaviour_mut().gossip.report_message_validation_result(&message, &peer, acceptance);
            }
        }
    }

    fn dial(&mut self, text: Text<512>) {
        let address = match parse(&text) {
            Ok(address) => address,
            Err(error) => return self.dial_failed(text, error.to_string()),
        };
        let peer = device_of_address(&address).and_then(|device| peer_id(&device));
        let options = match peer {
            Some(peer) if peer == *self.swarm.local_peer_id() => {
                return self.dial_failed(text, "this is its own address".into());
            }
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(vec![address])
                .build(),
            None => DialOpts::unknown_peer_id().address(address).build(),
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(connection, text);
            }
            Err(error) => self.dial_failed(text, error.to_string()),
        }
    }

    fn dial_failed(&mut self, address: Text<512>, reason: String) {
        self.waiting.push_back(HostEvent::DialFailed { address, reason });
    }

    fn swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connected(&peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                if let Some(device) = device_id(&peer_id) {
                    self.dialled.remove(&device);
                    lock(&self.shared.peers).remove(&device);
                    lock(&self.shared.askers).remove(&device);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(address) = self.dials.remove(&connection_id) {
                    self.dial_failed(address, error.to_string());
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.listening.insert(address);
                self.tell_listening();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.remove(&address);
                self.tell_listening();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!("a listener has trouble: {error}"),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            })) => self.gossip(&propagation_source, message_id, message),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (_, address) in found.into_iter().take(64) {
                    if let Ok(address) = Text::new(address.to_string()) {
                        self.waiting.push_back(HostEvent::Hint { address });
                    }
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, connection, result: Err(error) })) => {
                tracing::debug!(%peer, "no answer to a ping: {error}");
                self.swarm.close_connection(connection);
            }
            _ => {}
        }
    }

    fn connected(&mut self, peer: &PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let address = self.dials.remove(&connection);
        let Some(device) = device_id(peer) else {
            let _ = self.swarm.disconnect_peer_id(*peer);
            return;
        };
        if endpoint.is_dialer()
            && let Some(address) = address
        {
            self.dialled.insert(device, address);
        }
        // Of two peers the one with the lower key opens the control stream, whoever dialled: so there is only ever one.
        let dialled = self.dialled.get(&device).cloned();
        control::connected(&self.shared, device, *peer, self.swarm.local_peer_id(), dialled);
    }

    fn gossip(&mut self, source: &PeerId, message: MessageId, content: gossipsub::Message) {
        let (Some(topic), Some(from)) = (self.topics.get(&content.topic).copied(), device_id(source)) else { return };
        let id = self.next_gossip;
        self.next_gossip += 1;
        if self.undecided.len() >= MAX_UNDECIDED {
            self.undecided.pop_first();
        }
        self.undecided.insert(id, message);
        self.waiting.push_back(HostEvent::Gossip { id, from, topic, bytes: content.data });
    }

    fn tell_listening(&mut self) {
        let addresses = self.listening.iter().filter_map(|address| Text::new(address.to_string()).ok()).collect();
        self.waiting.push_back(HostEvent::Listening { addresses });
    }
}
