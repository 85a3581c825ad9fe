//! Checks of the machine that a coordinator and a node share: room, clock, programs, proxies.

use std::path::Path;

use upswarm_protocol::units;

use super::Findings;
use crate::clock::{BUILD_TIME, wall};
use crate::sys;
use crate::web::{ProxyConfig, Web};

/// Room below which a disk is nearly full.
const LITTLE_ROOM: u128 = 1 << 30;

/// Room where the data lies, beyond what must stay free.
pub(super) fn room(dir: &Path, reserve: u64, findings: &mut Findings) {
    match sys::space(dir) {
        Ok(space) if space.free < u128::from(reserve).max(LITTLE_ROOM / 16) => findings.wrong(
            "disk",
            format!("{} has {} free", dir.display(), units::size(u64::try_from(space.free).unwrap_or(u64::MAX))),
            "free some room, or move the data directory to a larger disk",
        ),
        Ok(space) => {
            let free = units::size(u64::try_from(space.free).unwrap_or(u64::MAX));
            let says = format!("{free} free");
            let enough = space.free >= u128::from(reserve) + LITTLE_ROOM;
            findings.holds("disk", enough, &says, (says.clone(), "free some room before it is full"));
        }
        Err(error) => findings.unknown("disk", error.to_string(), "look at the file system with df"),
    }
}

/// Whether the directory takes a file: a file system that was mounted read-only after an error looks well otherwise.
pub(super) fn writable(dir: &Path, findings: &mut Findings) {
    match tempfile::Builder::new().prefix("upswarm-doctor-").tempfile_in(dir) {
        Ok(_) => findings.right("writable", "the data directory takes files"),
        Err(error) => findings.wrong(
            "writable",
            format!("{}: {error}", dir.display()),
            "run this as root or as the directory's owner; if that is so already, look at dmesg: the file system may be read-only",
        ),
    }
}

/// This machine's clock against the build of the program, which is before every right time.
pub(super) fn clock(findings: &mut Findings) {
    let now = wall();
    if now < BUILD_TIME {
        findings.wrong(
            "clock",
            format!("it says {now}, which is before this program was built"),
            "set the clock: timedatectl",
        );
    } else {
        findings.right("clock", format!("it says {now}"));
    }
}

/// System programs that something needs.
pub(super) fn program(name: &'static str, why: &str, package: &str, findings: &mut Findings) {
    match sys::find(name) {
        Some(path) => findings.right(name, path.display().to_string()),
        None => {
            findings.look(name, format!("is not installed; {why}"), format!("install {package}, where that is wanted"))
        }
    }
}

/// The proxy that is used, if any, and the authorities that are believed.
pub(super) fn web(proxy: &ProxyConfig, ca_file: Option<&Path>, findings: &mut Findings) {
    match Web::new(proxy, ca_file) {
        Ok(_) if proxy.url.is_empty() => findings.right("proxy", "as the environment says"),
        Ok(_) => findings.right("proxy", proxy.url.clone()),
        Err(error) => findings.wrong("proxy", format!("{error:#}"), "mend [proxy] and ca_file in node.toml"),
    }
}
