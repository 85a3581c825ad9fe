//! Yamux with frames that fit bulk data.
//!
//! `libp2p-yamux` speaks the same protocol but hides its settings: 16 KiB frames, and up to 1 GiB of unread bytes per peer. With
//! blocks of 1 MiB over loopback, larger frames alone took a third of the processor time away.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::iter::{Once, once};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

use super::noise::{AT_ONCE, RECORD};

/// Streams of one connection, ours and libp2p's: about ten are used.
const MAX_STREAMS: usize = 64;
/// Bytes of one frame. Yamux copies each when it is sent, and when it has come: so many stay in the processor's cache meanwhile.
pub(super) const FRAME: usize = AT_ONCE * RECORD;
/// Bytes that a peer may send before they are read, on all streams of a connection. The least that Yamux takes for so many
/// streams, and some ten times what a LAN holds in flight.
const MAX_UNREAD: usize = MAX_STREAMS * (256 << 10);
/// Inbound streams that the swarm has not taken; beyond it the connection waits.
const MAX_INBOUND: usize = 16;

/// The upgrade that makes a [`Muxer`].
#[derive(Debug, Clone)]
pub(super) struct Yamux;

fn config() -> Config {
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_UNREAD));
    config.set_split_send_size(FRAME);
    config
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_inbound(self, io: C, _: &'static str) -> Self::Future {
        ready(Ok(Muxer::new(io, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, io: C, _: &'static str) -> Self::Future {
        ready(Ok(Muxer::new(io, Mode::Client)))
    }
}

/// The streams of one connection.
pub(super) struct Muxer<C> {
    connection: Connection<C>,
    /// Streams that came while the connection was driven for other reasons.
    inbound: VecDeque<Stream>,
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> Muxer<C> {
    fn new(io: C, mode: Mode) -> Self {
        Self { connection: Connection::new(io, config(), mode), inbound: VecDeque::new() }
    }

    /// Yamux moves bytes only while it is asked for the next inbound stream.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_next_inbound(cx).map(|next| next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        match self.inbound.pop_front() {
            Some(stream) => Poll::Ready(Ok(stream)),
            None => self.drive(cx),
        }
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        // The swarm polls all four from one task, `poll_inbound` after this one: no waker needs to be kept.
        while self.inbound.len() < MAX_INBOUND {
            match self.drive(cx) {
                Poll::Ready(Ok(stream)) => self.inbound.push_back(stream),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }
}
