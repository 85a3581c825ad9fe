//! Network interfaces, as far as the standard library does not know them.

/// Interfaces beyond these are not tried; a machine with many containers has many.
const MAX_INTERFACES: usize = 16;

/// The numbers of the interfaces that have a link-local IPv6 address and are up: what a scope id means (RFC 4007).
pub(crate) fn link_local_interfaces() -> Vec<u32> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::debug!("the system does not list its interfaces: {error}");
        Vec::new()
    });
    let link_local = |interface: &if_addrs::Interface| match interface.ip() {
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
        std::net::IpAddr::V4(_) => false,
    };
    let mut found: Vec<u32> =
        interfaces.iter().filter(|interface| link_local(interface)).filter_map(|interface| interface.index).collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_INTERFACES);
    found
}
