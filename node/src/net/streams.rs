//! Streams for our own tasks: opened on a connection of our choice, and accepted with a bound.
//!
//! The work of `libp2p-stream`, which this replaces because it drops an inbound stream when its accept loop lags, chooses
//! among a peer's connections at random, and does not say on which connection a stream came.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::iter::Copied;
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandler, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, Stream,
    SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};

/// Inbound streams of one protocol on one connection. One is used; a second may come before the first is seen to end. With
/// two connections per peer that makes four per peer.
const MAX_INBOUND: usize = 2;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Control,
    Block,
}

impl AsRef<str> for Protocol {
    fn as_ref(&self) -> &str {
        match self {
            Protocol::Control => "/upswarm/control/1",
            Protocol::Block => "/upswarm/block/1",
        }
    }
}

/// A stream, which counts against its bound until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) stream: Stream,
    _counted: Option<Arc<()>>,
}

/// News of a connection's streams.
#[derive(Debug)]
pub(super) enum News {
    /// The peer has opened a stream.
    Inbound(Protocol, Held),
    /// The stream that [`Behaviour::open`] asked for.
    Opened(Protocol, Held),
    /// There will be none.
    OpenFailed(Protocol, String),
}

/// The part of the swarm that hands out streams.
#[derive(Default)]
pub(super) struct Behaviour {
    opens: VecDeque<(PeerId, ConnectionId, Protocol)>,
    news: VecDeque<(ConnectionId, News)>,
}

impl Behaviour {
    /// Opens a stream on this connection. The caller asks once per protocol and waits for the answer, or for the end of the
    /// connection, before it asks again: so the queues stay short.
    pub(super) fn open(&mut self, peer: PeerId, connection: ConnectionId, protocol: Protocol) {
        self.opens.push_back((peer, connection, protocol));
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = (ConnectionId, News);

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, id: ConnectionId, news: THandlerOutEvent<Self>) {
        self.news.push_back((id, news));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // No waker is kept: both queues are filled by the task that polls the swarm next.
        if let Some(news) = self.news.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(news));
        }
        match self.opens.pop_front() {
            Some((peer_id, connection, event)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event })
            }
            None => Poll::Pending,
        }
    }
}

/// The same for one connection.
#[derive(Default)]
pub(super) struct Handler {
    inbound: [Arc<()>; 2],
    /// Opened one after the other, because a failure does not say which protocol it concerns.
    opens: VecDeque<Protocol>,
    opening: Option<Protocol>,
    news: VecDeque<News>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Protocol;
    type ToBehaviour = News;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(&[Protocol::Control, Protocol::Block]), ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offer, (), News>> {
        if let Some(news) = self.news.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(news));
        }
        if self.opening.is_none()
            && let Some(protocol) = self.opens.pop_front()
        {
            self.opening = Some(protocol);
            let offer = match protocol {
                Protocol::Control => Offer(&[Protocol::Control]),
                Protocol::Block => Offer(&[Protocol::Block]),
            };
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(offer, ()),
            });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, protocol: Protocol) {
        self.opens.push_back(protocol);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                info: (),
            }) => {
                let counted = self.inbound[protocol as usize].clone();
                // The handler's own handle and this one are not streams.
                if Arc::strong_count(&counted) - 2 >= MAX_INBOUND {
                    tracing::debug!(protocol = protocol.as_ref(), "a peer opened one stream too many");
                    return; // Dropping the stream resets it.
                }
                self.news.push_back(News::Inbound(protocol, Held { stream, _counted: Some(counted) }));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, protocol),
                info: (),
            }) => {
                self.opening = None;
                self.news.push_back(News::Opened(protocol, Held { stream, _counted: None }));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: () }) => {
                if let Some(protocol) = self.opening.take() {
                    self.news.push_back(News::OpenFailed(protocol, format!("{}: {error}", protocol.as_ref())));
                }
            }
            _ => {}
        }
    }
}

/// Protocols to choose from. There is no handshake beyond the choice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer(&'static [Protocol]);

impl UpgradeInfo for Offer {
    type Info = Protocol;
    type InfoIter = Copied<std::slice::Iter<'static, Protocol>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().copied()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: Protocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: Protocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
