//! Names and addresses: a device's key as a libp2p PeerId, and multiaddrs as texts.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

use anyhow::{Context as _, bail};
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
fn check_multiaddr(text: &str) -> anyhow::Result<()> {
    let parsed: Result<Multiaddr, _> = text.parse();
    parsed.map(drop).with_context(|| {
        format!("{text:?} is not a multiaddr; they look like /ip4/192.0.2.7/tcp/4410 or /dns4/host.example/tcp/4410")
    })
}

/// An address as people write it, as a multiaddr: `updates.example.org:4701`, `192.0.2.7:4701`, `[2001:db8::7]:4701`, or a
/// multiaddr. Names are checked for their letters only: they may be known elsewhere and not here.
pub(crate) fn multiaddr(text: &str) -> anyhow::Result<String> {
    if text.starts_with('/') {
        check_multiaddr(text)?;
        return Ok(text.to_owned());
    }
    if let Ok(address) = without_zone(text).parse::<SocketAddr>() {
        return Ok(of_socket(address));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let example = if ip.is_ipv6() { format!("[{ip}]:4701") } else { format!("{ip}:4701") };
        bail!("{text:?} names no port; write {example}");
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        bail!("{text:?} names no port; write {text}:4701");
    };
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
        bail!("{text:?}: {port:?} is no port; ports are 1 to 65535");
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    // All digits and dots is an IPv4 address with an error in it (RFC 1123, section 2.1).
    let numeric = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric || name.len() > 253 || !name.split('.').all(label) {
        bail!(
            "{host:?} is neither a host name nor an IP address; write updates.example.org:{port}, 192.0.2.7:{port} or \
             [2001:db8::7]:{port}"
        );
    }
    Ok(format!("/dns/{name}/tcp/{port}"))
}

/// The same for an address that others are to dial: one that names every interface says nothing to them. The interface of a
/// link-local address (`[fe80::7%eth0]:4701`) is this machine's own word for it; each machine tries all of its own.
pub(crate) fn dialled(text: &str) -> anyhow::Result<String> {
    let address = multiaddr(text)?;
    if address.starts_with("/ip4/0.0.0.0/") || address.starts_with("/ip6/::/") {
        bail!("{text:?} stands for every interface of a machine; name the address or host name at which it is reached");
    }
    Ok(address)
}

/// An address in brackets without what names an interface in it (RFC 4007, section 11).
fn without_zone(text: &str) -> Cow<'_, str> {
    match text.split_once('%').and_then(|(ip, rest)| Some((ip, rest.split_once(']')?.1))) {
        Some((ip, rest)) => Cow::Owned(format!("{ip}]{rest}")),
        None => Cow::Borrowed(text),
    }
}

fn of_socket(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => format!("/ip4/{ip}/tcp/{}", address.port()),
        IpAddr::V6(ip) => format!("/ip6/{ip}/tcp/{}", address.port()),
    }
}

/// The IP address with which a multiaddr begins.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    }
}

/// Every address of this machine's interfaces but those of tunnels, whose own end libp2p does not tell.
pub(super) fn of_this_machine() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::debug!("the system does not list its interfaces: {error}");
        Vec::new()
    });
    interfaces.into_iter().filter(|interface| !interface.is_p2p()).map(|interface| interface.ip()).collect()
}

/// Whether an address lies in an IPv6 network (/64) of this machine's own.
pub(super) fn is_near(address: &Ipv6Addr) -> bool {
    let near = |ip: &IpAddr| matches!(ip, IpAddr::V6(own) if own.octets()[..8] == address.octets()[..8]);
    of_this_machine().iter().any(near)
}

/// The addresses at which other machines may reach this one: not loopback, and link-local ones only when there is nothing else.
pub(crate) fn reachable_ips() -> Vec<IpAddr> {
    let mut own = of_this_machine();
    own.retain(|ip| !ip.is_loopback());
    let is_link_local = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if !own.iter().all(is_link_local) {
        own.retain(|ip| !is_link_local(ip));
    }
    own
}

/// Whether this machine has an IPv6 address, be it loopback.
pub(crate) fn has_ipv6() -> bool {
    of_this_machine().iter().any(IpAddr::is_ipv6)
}

/// Whether an address names every interface of a family that this machine has no address of.
pub(super) fn lacks_family(address: &Multiaddr) -> bool {
    let lacks = |v6: bool| !of_this_machine().iter().any(|ip| ip.is_ipv6() == v6);
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_unspecified() && lacks(false),
        Some(Protocol::Ip6(ip)) => ip.is_unspecified() && lacks(true),
        _ => false,
    }
}

/// Whether a listener has told of everything that an address to listen on stands for: itself, or one for each address that
/// the machine has in its family.
pub(super) fn told_of_all(listen: &Multiaddr, told: Option<&Vec<Multiaddr>>) -> bool {
    let told = told.map_or(&[][..], Vec::as_slice);
    let v6 = match listen.iter().next() {
        Some(Protocol::Ip4(ip)) if ip.is_unspecified() => false,
        Some(Protocol::Ip6(ip)) if ip.is_unspecified() => true,
        _ => return !told.is_empty(),
    };
    let told: Vec<IpAddr> = told.iter().filter_map(ip).collect();
    of_this_machine().iter().filter(|ip| ip.is_ipv6() == v6).all(|ip| told.contains(ip))
}

/// Whether an address leads back to this machine.
pub(crate) fn is_loopback(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}

/// Whether an address is one that an IPv6 interface gave itself (fe80::/10): good on this LAN alone.
pub(crate) fn is_link_local(address: &str) -> bool {
    let ip = address.strip_prefix("/ip6/").and_then(|rest| rest.split('/').next());
    ip.and_then(|ip| ip.parse::<Ipv6Addr>().ok()).is_some_and(|ip| ip.is_unicast_link_local())
}

/// The addresses that mean something to another machine: link-local IPv6 only when there is nothing better (whoever dials it has
/// to try each of its interfaces), and loopback only when there is nothing else.
pub(crate) fn useful<T: Deref<Target = str>>(addresses: &[T]) -> impl Iterator<Item = &T> {
    let reach = |address: &T| if is_loopback(address) { 2 } else { u8::from(is_link_local(address)) };
    let best = addresses.iter().map(reach).min();
    addresses.iter().filter(move |address| Some(reach(address)) == best)
}

/// The device that an address with a `/p2p/` suffix names; `None` without one or for another kind of key.
#[cfg(test)]
pub(super) fn device_of_multiaddr(address: &str) -> Option<DeviceId> {
    match address.parse::<Multiaddr>().ok()?.iter().last()? {
        Protocol::P2p(peer) => device(&peer),
        _ => None,
    }
}

/// Whether an address is QUIC by link-local IPv6.
pub(super) fn is_link_local_quic(address: &Multiaddr) -> bool {
    let link_local = matches!(ip(address), Some(IpAddr::V6(ip)) if ip.is_unicast_link_local());
    link_local && address.iter().any(|part| matches!(part, Protocol::Udp(_)))
}

pub(super) fn peer_id(device: DeviceId) -> Option<PeerId> {
    PeerId::from_bytes(&[&PREFIX[..], device.as_bytes()].concat()).ok()
}

/// `None` for a peer whose key is not Ed25519.
pub(super) fn device(peer: &PeerId) -> Option<DeviceId> {
    let bytes = peer.to_bytes();
    bytes.strip_prefix(&PREFIX).and_then(|key| key.try_into().ok()).map(DeviceId)
}

/// Addresses for others to dial, best first: what only this machine can reach comes last, link-local IPv6 before that, QUIC
/// after TCP. QUIC by link-local IPv6 is left out: it cannot be dialled without the interface's number (`link_local`).
pub(super) fn advertised<'a>(addresses: impl Iterator<Item = &'a Multiaddr>, local: PeerId) -> Vec<Text<128>> {
    let mut ranked: Vec<(u8, Text<128>)> = addresses
        .filter_map(|address| {
            if is_link_local_quic(address) {
                return None;
            }
            let mut rank = 0;
            for part in address {
                rank += match part {
                    Protocol::Ip4(ip) if ip.is_loopback() || ip.is_link_local() => 4,
                    Protocol::Ip6(ip) if ip.is_unicast_link_local() => 3,
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
    fn addresses_are_taken_as_people_write_them() {
        for (text, wanted) in [
            ("updates.example.org:4701", "/dns/updates.example.org/tcp/4701"),
            ("updates.example.org.:4701", "/dns/updates.example.org/tcp/4701"),
            ("srv_1:4701", "/dns/srv_1/tcp/4701"),
            ("192.0.2.7:4701", "/ip4/192.0.2.7/tcp/4701"),
            ("[2001:db8::7]:4701", "/ip6/2001:db8::7/tcp/4701"),
            ("[fe80::7%eth0]:4701", "/ip6/fe80::7/tcp/4701"),
            ("/dns4/updates.example.org/tcp/4701", "/dns4/updates.example.org/tcp/4701"),
        ] {
            assert_eq!(dialled(text).unwrap(), wanted);
            check_multiaddr(wanted).unwrap();
        }
        for (text, named) in [
            ("updates.example.org", "names no port"),
            ("192.0.2.7", "write 192.0.2.7:4701"),
            ("2001:db8::7", "write [2001:db8::7]:4701"),
            ("2001:db8::7:x", "is no port"),
            ("updates.example.org:0", "1 to 65535"),
            ("updates.example.org:70000", "1 to 65535"),
            ("300.1.2.3:4701", "neither a host name nor an IP address"),
            ("-x.example.org:4701", "neither a host name nor an IP address"),
            ("a b:4701", "neither a host name nor an IP address"),
            ("http://updates.example.org:4701", "neither a host name nor an IP address"),
            (":4701", "neither a host name nor an IP address"),
            ("0.0.0.0:4701", "every interface"),
            ("[::]:4701", "every interface"),
            ("/ip4/0.0.0.0/tcp/4701", "every interface"),
            ("/ip4/192.0.2.7:4701", "not a multiaddr"),
        ] {
            let error = format!("{:#}", dialled(text).unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_listener_on_every_interface_has_more_to_tell_than_its_first_address() {
        let address = |text: &str| text.parse::<Multiaddr>().unwrap();
        let (every, one) = (address("/ip4/0.0.0.0/tcp/1"), address("/ip4/127.0.0.1/tcp/1"));
        assert!(told_of_all(&one, Some(&vec![one.clone()])) && !told_of_all(&one, None));
        let all = of_this_machine().into_iter().filter(IpAddr::is_ipv4);
        let all: Vec<Multiaddr> = all.map(|ip| address(&format!("/ip4/{ip}/tcp/1"))).collect();
        assert!(told_of_all(&every, Some(&all)));
        assert!(all.is_empty() || !told_of_all(&every, Some(&all[1..].to_vec())));
    }

    #[test]
    fn the_best_address_comes_first_and_the_longest_fits() {
        let local = peer_id(DeviceId([9; 32])).unwrap();
        let addresses: Vec<Multiaddr> = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/fe80::1/udp/1/quic-v1",
            "/ip6/2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff/udp/65535/quic-v1",
            "/ip4/192.168.1.9/udp/1/quic-v1",
            "/ip4/192.168.1.9/tcp/1",
        ]
        .map(|text| text.parse().unwrap())
        .into();
        let texts = advertised(addresses.iter(), local);
        assert_eq!(texts.len(), 5);
        assert_eq!(texts[0].as_str(), format!("/ip4/192.168.1.9/tcp/1/p2p/{local}"));
        assert!(texts.iter().any(|text| text.starts_with("/ip6/fe80::1/tcp/1/")));
        assert!(texts[4].starts_with("/ip4/127.0.0.1/"));
    }
    #[test]
    fn link_local_addresses_are_told_only_when_there_is_nothing_better() {
        let useful = |list: &[&'static str]| useful(list).map(|text| text.to_string()).collect::<Vec<_>>();
        let all = ["/ip6/::1/tcp/1", "/ip6/fe80::1/tcp/1", "/ip4/10.0.0.1/tcp/1"];
        assert_eq!(useful(&all), ["/ip4/10.0.0.1/tcp/1"]);
        assert_eq!(useful(&all[..2]), ["/ip6/fe80::1/tcp/1"]);
        assert_eq!(useful(&all[..1]), ["/ip6/::1/tcp/1"]);
    }
}
