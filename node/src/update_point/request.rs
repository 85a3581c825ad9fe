//! What a request asks for, and whether it may ask: by its path and its headers alone.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::{HeaderMap, StatusCode, Uri, header};
use upswarm_protocol::ids::{PayloadId, ReleaseId};

/// What stands in the place of an upstream's name for machines without an agent.
const FILTERED: &str = "filtered";
/// A path longer than any in a repository.
const MAX_PATH: usize = 1 << 10;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Below `dists/` of an upstream.
    Dists {
        upstream: String,
        path: String,
    },
    /// A package of an upstream, by the last part of its path.
    Pool {
        upstream: String,
        file: String,
    },
    /// Something for machines without an agent of a group.
    Filtered {
        group: String,
        part: Part,
    },
    Payload(PayloadId),
    File {
        release: ReleaseId,
        name: String,
    },
}

/// What is asked for of a group's repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Sources,
    Certificates,
    /// Below `dists/` of an upstream.
    Dists {
        upstream: String,
        path: String,
    },
    /// A package of an upstream.
    Pool {
        upstream: String,
        file: String,
    },
}

/// The part that a path below `/apt/filtered/` names, and the group's name or number.
fn part(path: &str) -> Option<(String, Part)> {
    let Some((group, rest)) = path.split_once('/') else {
        let whole = |end: &str, part| Some((path.strip_suffix(end)?.to_owned(), part));
        return whole(".sources", Part::Sources).or_else(|| whole(".asc", Part::Certificates));
    };
    let (kind, rest) = rest.split_once('/')?;
    let (upstream, path) = rest.split_once('/')?;
    let upstream = upstream.to_owned();
    let part = match kind {
        "dists" => Part::Dists { upstream, path: path.to_owned() },
        "pool" if !path.contains('/') => Part::Pool { upstream, file: path.to_owned() },
        _ => return None,
    };
    Some((group.to_owned(), part))
}

/// What a path names; `None` for nothing that is ever served.
pub(super) fn wanted(path: &str) -> Option<Wanted> {
    if path.len() > MAX_PATH {
        return None;
    }
    let path = decoded(path.strip_prefix('/')?)?;
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return None;
    }
    let (kind, rest) = path.split_once('/')?;
    match kind {
        "apt" => {
            let (upstream, rest) = rest.split_once('/')?;
            if upstream == FILTERED {
                let (group, part) = part(rest)?;
                return Some(Wanted::Filtered { group, part });
            }
            let (part, path) = rest.split_once('/')?;
            let (upstream, path) = (upstream.to_owned(), path.to_owned());
            match part {
                "dists" => Some(Wanted::Dists { upstream, path }),
                "pool" => Some(Wanted::Pool { upstream, file: path.rsplit('/').next()?.to_owned() }),
                _ => None,
            }
        }
        "payload" => rest.parse().ok().map(Wanted::Payload),
        "release" => {
            let (release, name) = rest.split_once('/')?;
            Some(Wanted::File { release: release.parse().ok()?, name: name.to_owned() })
        }
        _ => None,
    }
}

/// Whether a request comes from a program that may ask. A page in a browser of this machine may not: the update point has
/// nothing for it, and what is installed here is none of its business.
pub(super) fn may_ask(uri: &Uri, headers: &HeaderMap, names: &[String]) -> Result<(), (StatusCode, &'static str)> {
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Err((StatusCode::FORBIDDEN, "the update point is for programs, not for pages in a browser"));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, None) => uri.authority().map(|authority| authority.as_str()),
        _ => None,
    };
    match host {
        Some(host) if is_ours(host, names) => Ok(()),
        _ => Err((
            StatusCode::MISDIRECTED_REQUEST,
            "ask for the update point by its address, by localhost, or by a name of `names` in [update_point] of node.toml",
        )),
    }
}

/// A name of another domain, which its owner may point at this machine at will, is not ours; an address cannot be.
fn is_ours(host: &str, names: &[String]) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        let Some((address, port)) = inner.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port.strip_prefix(':')));
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    (port.is_none() || is_port(port))
        && (name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || names.iter().any(|own| own.eq_ignore_ascii_case(name)))
}

fn is_port(port: Option<&str>) -> bool {
    port.is_some_and(|port| port.parse::<u16>().is_ok())
}

/// A path without its percent signs; `None` when it is no text without control characters.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            bytes.extend(hex::decode(after.get(..2)?).ok()?);
            rest = after.get(2..)?;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_thing_or_nothing() {
        let dists = |upstream: &str, path: &str| Some(Wanted::Dists { upstream: upstream.into(), path: path.into() });
        let pool = |upstream: &str, file: &str| Some(Wanted::Pool { upstream: upstream.into(), file: file.into() });
        let filtered = |group: &str, part: Part| Some(Wanted::Filtered { group: group.into(), part });
        let id = PayloadId([7; 32]);
        for (path, means) in [
            ("/apt/debian/dists/bookworm/InRelease", dists("debian", "bookworm/InRelease")),
            ("/apt/d/dists/b/main/by-hash/SHA256/00", dists("d", "b/main/by-hash/SHA256/00")),
            ("/apt/d/pool/main/g/g++/g++_1%253a2%2bb1_amd64.deb", pool("d", "g++_1%3a2+b1_amd64.deb")),
            ("/apt/d/pool/x.deb", pool("d", "x.deb")),
            ("/apt/filtered/office.sources", filtered("office", Part::Sources)),
            ("/apt/filtered/office.asc", filtered("office", Part::Certificates)),
            (
                "/apt/filtered/office/dists/sec/main/x",
                filtered("office", Part::Dists { upstream: "sec".into(), path: "main/x".into() }),
            ),
            (
                "/apt/filtered/o/pool/sec/a.deb",
                filtered("o", Part::Pool { upstream: "sec".into(), file: "a.deb".into() }),
            ),
            ("/apt/filtered/o/pool/sec/main/a.deb", None),
            ("/apt/filtered/office", None),
            (&format!("/payload/{id}"), Some(Wanted::Payload(id))),
            (
                &format!("/release/{}/a b", ReleaseId([7; 32])),
                Some(Wanted::File { release: ReleaseId([7; 32]), name: "a b".into() }),
            ),
            ("/", None),
            ("", None),
            ("/apt/d", None),
            ("/apt/d/dists", None),
            ("/apt/d/dists/", None),
            ("/apt/d/other/x", None),
            ("/apt/d/pool/../../x.deb", None),
            ("/apt/d/pool/%2e%2e/x.deb", None),
            ("/apt/d/pool//x.deb", None),
            ("/apt/d/pool/%0a.deb", None),
            ("/apt/d/pool/%ff.deb", None),
            ("/apt/d/pool/%4", None),
            ("/payload/xyz", None),
            ("/release/xyz/a", None),
            ("http://mirror.example.org/x", None),
        ] {
            assert_eq!(wanted(path), means, "{path}");
        }
        assert_eq!(wanted(&format!("/apt/d/pool/{}", "x".repeat(2000))), None);
    }

    #[test]
    fn only_who_asks_by_address_or_a_known_name_may_ask() {
        let names = ["cache.office.example".to_owned()];
        let ask = |lines: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                let name: header::HeaderName = name.parse().unwrap();
                headers.append(name, value.parse().unwrap());
            }
            may_ask(&"/x".parse().unwrap(), &headers, &names).map_err(|(status, _)| status.as_u16())
        };
        for host in [
            "127.0.0.1:8530",
            "127.0.0.1",
            "localhost:8530",
            "[::1]:8530",
            "[::1]",
            "192.0.2.7:8530",
            "Cache.office.example:8530",
        ] {
            assert_eq!(ask(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8530",
            "127.0.0.1:x",
            "[::1",
            "[::1]x",
            "",
        ] {
            assert_eq!(ask(&[("host", host)]), Err(421), "{host}");
        }
        assert_eq!(ask(&[]), Err(421));
        assert_eq!(ask(&[("host", "localhost"), ("host", "evil.example")]), Err(421));
        assert_eq!(ask(&[("host", "localhost"), ("origin", "https://evil.example")]), Err(403));
        assert_eq!(ask(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]), Err(403));
    }
}
