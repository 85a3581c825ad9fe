//! URLs with link-local IPv6 addresses, such as `http://[fe80::7]:4702/`.
//!
//! To connect to such an address takes the number of an interface, which a URL cannot name (RFC 3986 has no place for it), and
//! which each machine has its own of. So the host of such a URL is written as a name that only our resolver knows, and which
//! stands for the address on every interface that has a link-local one itself; they are tried one after the other.

use std::borrow::Cow;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::sys;

/// The end of our names. `.invalid` is in no name service (RFC 2606).
const SUFFIX: &str = ".fe80.invalid";

/// The URL to ask for: a link-local host of `http://` becomes a name of ours, everything else stays as it is.
pub(crate) fn dialled(url: &str) -> Cow<'_, str> {
    named(url).map_or(Cow::Borrowed(url), Cow::Owned)
}

fn named(text: &str) -> Option<String> {
    // Cheap for the many that are none.
    if !text.starts_with("http://[fe") {
        return None;
    }
    let mut url = Url::parse(text).ok()?;
    let ip: Ipv6Addr = url.host_str()?.trim_matches(['[', ']']).parse().ok()?;
    if !ip.is_unicast_link_local() {
        return None;
    }
    url.set_host(Some(&format!("{:x}{SUFFIX}", ip.to_bits()))).ok()?;
    Some(url.into())
}

fn link_local(name: &str) -> Option<Ipv6Addr> {
    let ip = Ipv6Addr::from_bits(u128::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok()?);
    ip.is_unicast_link_local().then_some(ip)
}

/// The system's names, and ours.
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = match link_local(name.as_str()) {
                Some(ip) => {
                    let interfaces = sys::link_local_interfaces().into_iter();
                    interfaces.map(|interface| SocketAddrV6::new(ip, 0, 0, interface).into()).collect()
                }
                // The port is the URL's; whoever asks puts it in.
                None => tokio::net::lookup_host((name.as_str(), 0)).await?.collect(),
            };
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_host_becomes_a_name_that_leads_back_to_it() {
        let url = dialled("http://[fe80::a8bb:1]:4702/doc/17?x=%2B");
        assert_eq!(url, "http://fe8000000000000000000000a8bb0001.fe80.invalid:4702/doc/17?x=%2B");
        let name = url.split('/').nth(2).unwrap().split(':').next().unwrap();
        assert_eq!(link_local(name), Some("fe80::a8bb:1".parse().unwrap()));
        for other in [
            "http://[fd00::1]:4702/",
            "https://[fe80::1]/",
            "http://fe80.test/",
            "http://[feed::1]/",
            "http://[fe80::1",
        ] {
            assert_eq!(dialled(other), other);
        }
        assert_eq!(link_local("1.fe80.invalid"), None);
    }

    #[tokio::test]
    async fn other_names_are_the_system_s() {
        let found = Resolver.resolve("localhost".parse().unwrap()).await.unwrap();
        assert!(found.into_iter().all(|address| address.ip().is_loopback()));
    }
}
