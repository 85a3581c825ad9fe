//! Snaps: from the running snapd by its REST API, else from its state file, which does not tell versions.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::inventory::{Arch, Name, PackageKey, Version};

use super::{Found, Notices};
use crate::sys::{self, Root, Stamp};

const STATE: &str = "var/lib/snapd/state.json";
const SOCKET: &str = "run/snapd.socket";
/// Of an answer and of the state file, which are a hundred times smaller.
const MAX_JSON: u64 = 32 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

/// What tells whether anything has changed: snapd writes its state after each change. `None` when there is nothing.
pub(super) fn stamps(root: &Root) -> Option<Vec<Option<Stamp>>> {
    root.exists(STATE).then(|| vec![root.stamp(STATE)])
}

/// Every active snap.
pub(super) fn read(root: &Root) -> Found {
    let Some(socket) = root.real(SOCKET) else { return from_state(root) };
    match ask(&socket) {
        Ok(answer) => parse(&answer),
        // Another system's socket file says only that snapd ran there once.
        Err(_) if !root.is_live() => from_state(root),
        Err(error) => Found::broken(format!(
            "snapd does not answer on {}: {error}; `systemctl status snapd` says more",
            root.name(SOCKET)
        )),
    }
}

/// The answer to `GET /v2/snaps`. Source: <https://snapcraft.io/docs/snapd-rest-api>.
fn ask(socket: &Path) -> io::Result<Value> {
    let mut stream = sys::connect(socket, TIMEOUT)?;
    // HTTP/1.0: the answer ends with the connection and comes in one piece.
    stream.write_all(b"GET /v2/snaps HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_JSON).read_to_end(&mut answer)?;
    let unclear = || io::Error::other("an answer that is not HTTP");
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(unclear)?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split_ascii_whitespace().nth(1).ok_or_else(unclear)?;
    if status != "200" {
        return Err(io::Error::other(format!("HTTP status {status}")));
    }
    serde_json::from_slice(&answer[end + 4..]).map_err(io::Error::other)
}

fn parse(answer: &Value) -> Found {
    let Some(snaps) = answer["result"].as_array() else {
        return Found::broken("snapd answers without a list of snaps; is it a version from before 2016?".into());
    };
    let mut found = Found::default();
    let mut notices = Notices::default();
    // One that is installed and switched off has another state.
    for snap in snaps.iter().filter(|snap| snap["status"] == "active") {
        match package(snap["name"].as_str(), snap["version"].as_str()) {
            Some(package) => found.packages.push(package),
            None => notices.add("snapd lists a snap without a proper name and version; it is left out".into()),
        }
    }
    found.notices = notices.into_vec();
    found
}

fn from_state(root: &Root) -> Found {
    let name = root.name(STATE);
    let state = root.text(STATE, MAX_JSON).and_then(|text| serde_json::from_str(&text).map_err(io::Error::other));
    let state: Value = match state {
        Ok(state) => state,
        Err(error) => {
            return Found::broken(format!(
                "{name} cannot be read: {error}; start snapd, which tells its snaps to everyone"
            ));
        }
    };
    let mut found = Found::default();
    let empty = serde_json::Map::new();
    let snaps = state["data"]["snaps"].as_object().unwrap_or(&empty);
    let active = snaps.iter().filter(|(_, snap)| snap["active"] == true);
    found.packages.extend(active.filter_map(|(name, _)| package(Some(name), Some(""))));
    if !found.packages.is_empty() {
        found.notices.push(format!("{name} does not tell the versions of snaps; a running snapd does"));
    }
    found
}

fn package(name: Option<&str>, version: Option<&str>) -> Option<(PackageKey, Version)> {
    let name = Name::new(name.filter(|name| !name.is_empty())?).ok()?;
    Some((PackageKey { kind: PackageKind::Snap, name, arch: Arch::default() }, Version::new(version?).ok()?))
}
