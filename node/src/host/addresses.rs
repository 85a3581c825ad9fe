//! Multiaddrs and device keys.

use anyhow::Context as _;
use libp2p::identity::{PublicKey, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DeviceId;

/// Fails for a text that is not a multiaddr.
pub(crate) fn check_multiaddr(text: &str) -> anyhow::Result<()> {
    parse(text).map(drop)
}

/// The address with the device's id behind it, so that whoever dials it cannot end up with somebody else.
pub(crate) fn with_peer(address: &str, device: DeviceId) -> String {
    match peer_id(&device) {
        Some(peer) if !address.contains("/p2p/") => format!("{address}/p2p/{peer}"),
        _ => address.to_owned(),
    }
}

/// Whether an address leads back to this machine.
pub(crate) fn is_loopback(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}

/// The addresses that mean something to another machine: loopback only when there is nothing else.
pub(crate) fn useful<const N: usize>(addresses: &[Text<N>]) -> impl Iterator<Item = &Text<N>> {
    let only_loopback = addresses.iter().all(|address| is_loopback(address));
    addresses.iter().filter(move |address| only_loopback || !is_loopback(address))
}

/// The device that an address ends with, if it does.
pub(super) fn device_of_address(address: &Multiaddr) -> Option<DeviceId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => device_id(&peer),
        _ => None,
    }
}

pub(super) fn parse(text: &str) -> anyhow::Result<Multiaddr> {
    text.parse().with_context(|| {
        format!(
            "{text:?} is not a multiaddr; they look like \"/ip4/192.0.2.7/tcp/4410\" or \"/dns4/host.example/tcp/4410\""
        )
    })
}

/// The peer with this key; `None` for bytes that are no Ed25519 key.
pub(super) fn peer_id(device: &DeviceId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(device.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The device with this key; `None` for peers with another kind of key. An Ed25519 key is short enough to stand in the id itself.
pub(super) fn device_id(peer: &PeerId) -> Option<DeviceId> {
    const IDENTITY: u64 = 0;
    let hash = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?.try_into_ed25519().ok()?;
    Some(DeviceId(key.to_bytes()))
}
