//! How the swarm is put together: transports, limits, and the behaviours that libp2p brings.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, ListenerId, TransportError};
use libp2p::core::upgrade::Version;
use libp2p::futures::future::Either;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{self, NetworkBehaviour, Swarm};
use libp2p::{Multiaddr, PeerId, Transport, dns, gossipsub, identify, mdns, ping, quic, tcp};
use upswarm_protocol::wire::MAX_GOSSIP;

use super::link_local::LinkLocal;
use super::mux::Yamux;
use super::noise::Noise;
use super::trouble::words;
use super::{HostConfig, UPGRADE, shares, streams};
use crate::sys;

/// A connection whose streams are all closed ends after this. The control stream keeps a used one alive.
const IDLE: Duration = Duration::from_secs(30);
/// Half-made connections at a time, and of them from one address; each costs a handshake.
const MAX_PENDING: u32 = 256;
const PENDING_OF_ONE: u32 = MAX_PENDING / 8;
/// One address may have this part of the connections.
const SHARE: u32 = 4;
/// Dials under way.
const MAX_DIALS: u32 = 32;
/// One in use, and one that replaces it or is about to give way (both sides dialled at once).
const MAX_PER_PEER: u32 = 2;
/// Topics that a peer may take part in, as far as we remember them.
const MAX_TOPICS: usize = 32;
/// How often gossip mends its mesh and offers what neighbours may have missed.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(500);
/// The most bytes of one gossip frame. A longer one is not skipped but ends the stream, and after five of them libp2p gossips
/// no more on that connection: so it must hold a message with its framing, and the longest list of ids.
const MAX_GOSSIP_FRAME: usize = 16 << 10;
/// Bytes that name a message.
const MESSAGE_ID: usize = 20;
/// Messages that are offered, or asked for, in one frame.
const MAX_OFFERED: usize = 512;
/// The framing of one id, and of a frame with its topic.
const ID_FRAMING: usize = 2;
const FRAMING: usize = 256;
const _: () = assert!(MAX_GOSSIP + FRAMING <= MAX_GOSSIP_FRAME);
const _: () = assert!(MAX_OFFERED * (MESSAGE_ID + ID_FRAMING) + FRAMING <= MAX_GOSSIP_FRAME);

/// Everything that shares a connection.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    shares: shares::Behaviour,
    pub(super) streams: streams::Behaviour,
    pub(super) gossip: Gossip,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    /// One behaviour speaks one family.
    mdns6: Toggle<mdns::tokio::Behaviour>,
}

pub(super) type Gossip = gossipsub::Behaviour<
    gossipsub::IdentityTransform,
    gossipsub::MaxCountSubscriptionFilter<gossipsub::AllowAllSubscriptionFilter>,
>;

/// A swarm that does not listen yet.
pub(super) fn build(config: &HostConfig) -> anyhow::Result<Swarm<Behaviour>> {
    let key = Keypair::ed25519_from_bytes(config.key).context("the device's key is not an Ed25519 seed")?;
    let local = key.public().to_peer_id();
    let identify = identify::Config::new("/upswarm/1".into(), key.public())
        .with_agent_version(config.agent.clone())
        .with_interval(Duration::from_secs(3600))
        .with_cache_size(0);
    let mdns = |enable_ipv6: bool| {
        let listens =
            config.listen.iter().any(|address| address.starts_with(if enable_ipv6 { "/ip6" } else { "/ip4" }));
        (config.mdns && listens)
            .then(|| mdns::tokio::Behaviour::new(mdns::Config { enable_ipv6, ..mdns::Config::default() }, local))
            .transpose()
            .context("mDNS does not start; turn it off in the configuration or allow UDP port 5353")
    };
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(
            ConnectionLimits::default()
                .with_max_pending_incoming(Some(MAX_PENDING))
                .with_max_pending_outgoing(Some(MAX_DIALS))
                .with_max_established(Some(config.max_connections))
                .with_max_established_per_peer(Some(MAX_PER_PEER)),
        ),
        shares: shares::Behaviour::new(PENDING_OF_ONE, config.max_connections / SHARE),
        streams: streams::Behaviour::default(),
        gossip: gossip()?,
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(15))),
        identify: identify::Behaviour::new(identify),
        mdns: mdns(false)?.into(),
        mdns6: mdns(true)?.into(),
    };
    let settings = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE)
        .with_max_negotiating_inbound_streams(16);
    Ok(Swarm::new(transport(&key, config)?, behaviour, local, settings))
}

/// Listens on an address. Errors say what to do.
pub(super) fn listen(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> anyhow::Result<ListenerId> {
    probe(address).map_err(TransportError::Other).map_err(|error| listen_error(address, error))?;
    swarm.listen_on(address.clone()).map_err(|error| listen_error(address, error))
}

/// Tries the TCP port first: libp2p sets SO_REUSEPORT, with which two programs listen on one port and each gets some of the
/// connections.
fn probe(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let socket_address = match (parts.next(), parts.next()) {
        (Some(Part::Ip4(ip)), Some(Part::Tcp(port))) => SocketAddr::from((ip, port)),
        (Some(Part::Ip6(ip)), Some(Part::Tcp(port))) => SocketAddr::from((ip, port)),
        _ => return Ok(()),
    };
    sys::try_tcp_port(socket_address)
}

/// What to tell the admin when an address cannot be listened on.
fn listen_error(address: &Multiaddr, error: TransportError<io::Error>) -> anyhow::Error {
    match error {
        TransportError::MultiaddrNotSupported(_) => anyhow::anyhow!(
            "cannot listen on {address}: give /ip4/<address>/tcp/<port>, or /ip4/<address>/udp/<port>/quic-v1 with QUIC on"
        ),
        TransportError::Other(error) => {
            // The transports wrap the system's error, some of them more than once.
            let text = words(&error);
            if error.kind() == io::ErrorKind::AddrInUse || text.contains("Address already in use") {
                anyhow::anyhow!(
                    "cannot listen on {address}: the port is in use by another program; stop that program or choose \
                     another port"
                )
            } else {
                anyhow::anyhow!("cannot listen on {address}: {text}; is it an address of this machine, and allowed?")
            }
        }
    }
}

fn gossip() -> anyhow::Result<Gossip> {
    let config = gossipsub::ConfigBuilder::default()
        // Messages are signed documents: who passed them on proves nothing.
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| gossipsub::MessageId::new(&blake3::hash(&message.data).as_bytes()[..MESSAGE_ID]))
        .max_transmit_size(MAX_GOSSIP_FRAME)
        .max_control_message_size(MAX_GOSSIP_FRAME)
        .max_control_messages_sent(MAX_OFFERED)
        .heartbeat_interval(HEARTBEAT)
        .duplicate_cache_time(Duration::from_secs(120))
        .flood_publish(true)
        .mesh_n(8)
        .mesh_n_low(5)
        .mesh_n_high(14)
        .mesh_outbound_min(2)
        .connection_handler_queue_len(256)
        .build()
        .context("gossip settings")?;
    let filter = gossipsub::MaxCountSubscriptionFilter {
        filter: gossipsub::AllowAllSubscriptionFilter {},
        max_subscribed_topics: MAX_TOPICS,
        max_subscriptions_per_request: MAX_TOPICS,
    };
    Gossip::new_with_subscription_filter(gossipsub::MessageAuthenticity::Anonymous, config, filter)
        .map_err(|error| anyhow::anyhow!("gossip settings: {error}"))
}

type Connections = Boxed<(PeerId, StreamMuxerBox)>;

fn transport(key: &Keypair, config: &HostConfig) -> anyhow::Result<Connections> {
    match dns::tokio::Transport::system(numeric(key, config)?) {
        Ok(transport) => Ok(transport.boxed()),
        Err(error) => {
            tracing::warn!("no usable DNS configuration ({error}): peers are reached by numeric addresses only");
            numeric(key, config)
        }
    }
}

fn numeric(key: &Keypair, config: &HostConfig) -> anyhow::Result<Connections> {
    let tcp = LinkLocal::new(tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)))
        .upgrade(Version::V1Lazy)
        .authenticate(Noise::new(&config.key).context("Noise keys")?)
        .multiplex(Yamux)
        .timeout(UPGRADE)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    if !config.quic {
        return Ok(tcp.boxed());
    }
    let quic = quic::tokio::Transport::new(quic::Config::new(key));
    Ok(tcp
        .or_transport(quic)
        .map(|either, _| match either {
            Either::Left(connection) => connection,
            Either::Right((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        })
        .boxed())
}
