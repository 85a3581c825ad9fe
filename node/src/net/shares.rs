//! What one address may have of the listener: a share of the half-made connections, and of those that stand. Owns the counts;
//! totals are libp2p's connection limits. Whoever would fill the listener needs many addresses for it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};

use super::address;

/// Counts inbound connections by address. Loopback is not bounded: what runs there is this machine.
pub(super) struct Behaviour {
    pending: Counts,
    established: Counts,
}

struct Counts {
    limit: usize,
    of: HashMap<ConnectionId, IpAddr>,
    by: HashMap<IpAddr, usize>,
}

/// An address has its share.
#[derive(Debug)]
struct Full {
    address: IpAddr,
    limit: usize,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has {} connections already", self.address, self.limit)
    }
}

impl std::error::Error for Full {}

impl Counts {
    fn new(limit: u32) -> Self {
        Self { limit: limit.max(1) as usize, of: HashMap::new(), by: HashMap::new() }
    }

    fn add(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        let Some(address) = address::ip(remote).map(|ip| ip.to_canonical()).filter(|ip| !ip.is_loopback()) else {
            return Ok(());
        };
        let address = share(address);
        let count = self.by.entry(address).or_default();
        if *count >= self.limit {
            return Err(ConnectionDenied::new(Full { address, limit: self.limit }));
        }
        *count += 1;
        self.of.insert(id, address);
        Ok(())
    }

    fn remove(&mut self, id: ConnectionId) {
        let Some(address) = self.of.remove(&id) else { return };
        if let Some(count) = self.by.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by.remove(&address);
            }
        }
    }
}

impl Behaviour {
    /// At most `pending` half-made and `established` standing connections from one address.
    pub(super) fn new(pending: u32, established: u32) -> Self {
        Self { pending: Counts::new(pending), established: Counts::new(established) }
    }
}

/// Machines of a LAN share an IPv6 network, so there each address counts by itself; elsewhere whoever has one of a /64 has all.
fn share(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if !v6.is_unicast_link_local() && !address::is_near(&v6) => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))
        }
        other => other,
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.pending.add(id, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(id);
        self.established.add(id, remote)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => self.established.remove(closed.connection_id),
            // Also when another behaviour refuses it after this one has counted it.
            FromSwarm::ListenFailure(failure) => {
                self.pending.remove(failure.connection_id);
                self.established.remove(failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let mut counts = Counts::new(2);
        let from = |text: &str| text.parse::<Multiaddr>().unwrap();
        let id = ConnectionId::new_unchecked;
        assert!(counts.add(id(1), &from("/ip4/192.0.2.1/tcp/1")).is_ok());
        assert!(counts.add(id(2), &from("/ip6/::ffff:192.0.2.1/tcp/2")).is_ok());
        assert!(counts.add(id(3), &from("/ip4/192.0.2.1/tcp/3")).is_err());
        assert!(counts.add(id(4), &from("/ip4/192.0.2.2/tcp/3")).is_ok());
        for n in 10..60 {
            assert!(counts.add(id(n), &from("/ip4/127.0.0.1/tcp/3")).is_ok());
        }
        counts.remove(id(3));
        assert!(counts.add(id(5), &from("/ip4/192.0.2.1/tcp/3")).is_err(), "what was refused held nothing");
        counts.remove(id(1));
        assert!(counts.add(id(5), &from("/ip4/192.0.2.1/tcp/3")).is_ok());
        for n in [2, 4, 5] {
            counts.remove(id(n));
        }
        assert!(counts.of.is_empty() && counts.by.is_empty());
        assert!(counts.add(id(6), &from("/ip6/2001:db8:1:2::3/tcp/1")).is_ok());
        assert!(counts.add(id(7), &from("/ip6/2001:db8:1:2::4/tcp/1")).is_ok());
        assert!(counts.add(id(8), &from("/ip6/2001:db8:1:2::5/tcp/1")).is_err(), "one network elsewhere");
        for n in 20..30 {
            assert!(counts.add(id(n), &from(&format!("/ip6/fe80::{n}/tcp/1"))).is_ok(), "machines of this LAN");
        }
    }
}
