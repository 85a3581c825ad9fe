//! TCP to link-local IPv6 addresses (fe80::/10), which say nothing without an interface.
//!
//! An address in a token, a report or an answer of mDNS cannot name the interface of whoever reads it, and libp2p cannot dial one
//! that does. So such an address is dialled on every interface that has a link-local address itself, all at once, and the first
//! connection counts. Who answers there is proven by its key, as everywhere.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::{BoxFuture, select_ok};
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use libp2p::tcp::tokio::{TcpStream, Transport as Tcp};
use libp2p::{Multiaddr, Transport};

use crate::sys;

/// libp2p's TCP, and link-local addresses.
pub(super) struct LinkLocal(Tcp);

impl LinkLocal {
    pub(super) fn new(tcp: Tcp) -> Self {
        Self(tcp)
    }
}

impl Transport for LinkLocal {
    type Output = TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = <Tcp as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<TcpStream>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        match link_local(&address) {
            Some((ip, port)) => Ok(connect(ip, port).boxed()),
            None => self.0.dial(address, options),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// The address and port of `/ip6/fe80::.../tcp/PORT`, with or without `/p2p/...`.
fn link_local(address: &Multiaddr) -> Option<(Ipv6Addr, u16)> {
    let mut parts = address.iter();
    let (Some(Protocol::Ip6(ip)), Some(Protocol::Tcp(port))) = (parts.next(), parts.next()) else { return None };
    let rest = parts.all(|part| matches!(part, Protocol::P2p(_)));
    (rest && ip.is_unicast_link_local()).then_some((ip, port))
}

async fn connect(ip: Ipv6Addr, port: u16) -> io::Result<TcpStream> {
    let interfaces = sys::link_local_interfaces();
    if interfaces.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "this machine has no interface with a link-local IPv6 address",
        ));
    }
    let tries = interfaces
        .into_iter()
        .map(|interface| tokio::net::TcpStream::connect(SocketAddrV6::new(ip, port, 0, interface)).boxed());
    let (stream, _) = select_ok(tries).await?;
    stream.set_nodelay(true)?;
    Ok(TcpStream(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_told_from_others() {
        let found = |text: &str| link_local(&text.parse().unwrap());
        let ip = "fe80::1".parse().unwrap();
        assert_eq!(found("/ip6/fe80::1/tcp/4410"), Some((ip, 4410)));
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        assert_eq!(found(&format!("/ip6/fe80::1/tcp/4410/p2p/{peer}")), Some((ip, 4410)));
        for other in ["/ip6/fe80::1/udp/4410/quic-v1", "/ip6/2001:db8::1/tcp/4410", "/ip4/169.254.0.1/tcp/1"] {
            assert_eq!(found(other), None);
        }
    }
}
