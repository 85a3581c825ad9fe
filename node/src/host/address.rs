//! Names and addresses: a device's key as a libp2p PeerId, and multiaddrs as texts.

use std::ops::Deref;

use anyhow::Context as _;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DeviceId;

/// A PeerId of an Ed25519 key is the identity multihash (code 0, 36 bytes) of the key's protobuf (type 1, 32 bytes).
/// libp2p specification, "peer-ids".
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// Addresses that are told at most; a machine with many containers has many interfaces.
const MAX_ADVERTISED: usize = 32;

/// The libp2p name of a device, as it stands after `/p2p/` in an address.
pub(crate) fn peer_id_text(device: DeviceId) -> String {
    // The prefix is the text's only other input, so this cannot fail; a key that is no curve point is found at dialling.
    peer_id(device).map(|peer| peer.to_base58()).unwrap_or_default()
}

/// Fails for a text that is not a multiaddr.
pub(crate) fn check_multiaddr(text: &str) -> anyhow::Result<()> {
    let parsed: Result<Multiaddr, _> = text.parse();
    parsed.map(drop).with_context(|| {
        format!("{text:?} is not a multiaddr; they look like /ip4/192.0.2.7/tcp/4410 or /dns4/host.example/tcp/4410")
    })
}

/// Whether an address leads back to this machine.
pub(crate) fn is_loopback(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}

/// The addresses that mean something to another machine: loopback only when there is nothing else.
pub(crate) fn useful<T: Deref<Target = str>>(addresses: &[T]) -> impl Iterator<Item = &T> {
    let only_loopback = addresses.iter().all(|address| is_loopback(address));
    addresses.iter().filter(move |address| only_loopback || !is_loopback(address))
}

/// The device that an address with a `/p2p/` suffix names; `None` without one or for another kind of key.
pub(crate) fn device_of_multiaddr(address: &str) -> Option<DeviceId> {
    match address.parse::<Multiaddr>().ok()?.iter().last()? {
        Protocol::P2p(peer) => device(&peer),
        _ => None,
    }
}

pub(super) fn peer_id(device: DeviceId) -> Option<PeerId> {
    PeerId::from_bytes(&[&PREFIX[..], device.as_bytes()].concat()).ok()
}

/// `None` for a peer whose key is not Ed25519.
pub(super) fn device(peer: &PeerId) -> Option<DeviceId> {
    let bytes = peer.to_bytes();
    bytes.strip_prefix(&PREFIX).and_then(|key| key.try_into().ok()).map(DeviceId)
}

/// Addresses for others to dial, best first: what only this machine can reach comes last, QUIC after TCP. Link-local IPv6
/// is left out: it means nothing without the other machine's interface.
pub(super) fn advertised<'a>(addresses: impl Iterator<Item = &'a Multiaddr>, local: PeerId) -> Vec<Text<128>> {
    let mut ranked: Vec<(u8, Text<128>)> = addresses
        .filter_map(|address| {
            let mut rank = 0;
            for part in address {
                rank += match part {
                    Protocol::Ip4(ip) if ip.is_loopback() || ip.is_link_local() => 4,
                    Protocol::Ip6(ip) if ip.is_unicast_link_local() => return None,
                    Protocol::Ip6(ip) if ip.is_loopback() => 5,
                    Protocol::Ip6(_) => 1,
                    Protocol::QuicV1 => 2,
                    _ => 0,
                };
            }
            let full = address.clone().with_p2p(local).ok()?;
            Text::new(full.to_string()).ok().map(|text| (rank, text))
        })
        .collect();
    ranked.sort();
    ranked.dedup();
    ranked.into_iter().map(|(_, text)| text).take(MAX_ADVERTISED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_survives_its_libp2p_name() {
        let key = libp2p::identity::Keypair::ed25519_from_bytes([7; 32]).unwrap();
        let bytes = key.clone().try_into_ed25519().unwrap().public().to_bytes();
        assert_eq!(device(&key.public().to_peer_id()), Some(DeviceId(bytes)));
        assert_eq!(peer_id(DeviceId(bytes)), Some(key.public().to_peer_id()));
        let text = peer_id_text(DeviceId(bytes));
        assert_eq!(device_of_multiaddr(&format!("/ip4/127.0.0.1/tcp/1/p2p/{text}")), Some(DeviceId(bytes)));
        assert_eq!(device_of_multiaddr("/ip4/127.0.0.1/tcp/1"), None);
        assert_eq!(device_of_multiaddr("nonsense"), None);
        // A PeerId that is the hash of a longer key.
        assert_eq!(device_of_multiaddr("/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"), None);
    }

    #[test]
    fn the_best_address_comes_first_and_the_longest_fits() {
        let local = peer_id(DeviceId([9; 32])).unwrap();
        let addresses: Vec<Multiaddr> = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff/udp/65535/quic-v1",
            "/ip4/192.168.1.9/udp/1/quic-v1",
            "/ip4/192.168.1.9/tcp/1",
        ]
        .map(|text| text.parse().unwrap())
        .into();
        let texts = advertised(addresses.iter(), local);
        assert_eq!(texts.len(), 4);
        assert_eq!(texts[0].as_str(), format!("/ip4/192.168.1.9/tcp/1/p2p/{local}"));
        assert!(texts[3].starts_with("/ip4/127.0.0.1/"));
    }
}
