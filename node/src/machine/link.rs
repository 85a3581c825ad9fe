//! The link to the WAN: the interface of the default route, whether it is a radio, whether it is paid by volume.

use std::path::Path;
use std::time::{Duration, Instant};

use super::value;
use crate::sys::{Ended, Program, find};

/// NetworkManager is asked again after this, or when the default route has moved: asking starts a program.
const ASK_EVERY: Duration = Duration::from_secs(300);
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// A link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Link {
    pub(super) wireless: bool,
    pub(super) metered: bool,
}

/// What NetworkManager last said, of which interface.
#[derive(Debug, Default)]
pub(super) struct Links {
    asked: Option<(String, Instant, Option<bool>)>,
}

impl Links {
    /// The link of the default route; a wired one when there is none. `ask` allows to ask NetworkManager.
    pub(super) fn read(&mut self, root: &Path, ask: bool) -> Link {
        let Some(name) = default_interface(root) else { return Link::default() };
        let dir = format!("sys/class/net/{name}");
        let event = value(root, &format!("{dir}/uevent")).unwrap_or_default();
        let kind = event.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).unwrap_or_default();
        let radio = ["wireless", "phy80211"].iter().any(|file| root.join(&dir).join(file).exists());
        let guess = kind == "wwan";
        let metered = if ask { self.metered(&name).unwrap_or(guess) } else { guess };
        Link { wireless: radio || matches!(kind, "wlan" | "wwan"), metered }
    }

    fn metered(&mut self, name: &str) -> Option<bool> {
        match &self.asked {
            Some((of, at, said)) if of == name && at.elapsed() < ASK_EVERY => *said,
            _ => {
                let said = ask_network_manager(name);
                self.asked = Some((name.to_owned(), Instant::now(), said));
                said
            }
        }
    }
}

/// The interface of the default route with the least metric, from the text of /proc/net/route (see proc_net_route(5)), else
/// from that of /proc/net/ipv6_route.
fn default_interface(root: &Path) -> Option<String> {
    let four = value(root, "proc/net/route").unwrap_or_default();
    let routes = four.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (name, destination, mask) = (*fields.first()?, *fields.get(1)?, *fields.get(7)?);
        let up = u32::from_str_radix(fields.get(3)?, 16).ok()? & 1 == 1;
        let default = destination == "00000000" && mask == "00000000" && up;
        default.then_some((fields.get(6)?.parse::<u32>().ok()?, name))
    });
    let best = routes.min();
    let six = value(root, "proc/net/ipv6_route").unwrap_or_default();
    let routes = six.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (destination, length, name) = (*fields.first()?, *fields.get(1)?, *fields.get(9)?);
        let default = length == "00" && destination.bytes().all(|digit| digit == b'0') && name != "lo";
        default.then_some((u32::from_str_radix(fields.get(5)?, 16).ok()?, name))
    });
    let (_, name) = best.or_else(|| routes.min())?;
    // It becomes part of a path.
    let sound = !name.is_empty() && name.len() < 16 && !name.contains('/') && !name.starts_with(['.', '-']);
    sound.then(|| name.to_owned())
}

/// What NetworkManager thinks of an interface; nothing where it is not there or does not know.
fn ask_network_manager(name: &str) -> Option<bool> {
    let path = find("nmcli")?;
    let args = ["-t", "-g", "GENERAL.METERED", "device", "show", name].map(Into::into).to_vec();
    let program = Program { path: &path, args, env: &[], timeout: ASK_WITHIN, cancel: None };
    let mut said = Vec::new();
    let ended = program.run_apart(&mut |bytes| said.extend_from_slice(&bytes[..bytes.len().min(256)]), &mut |_| ());
    let text = String::from_utf8_lossy(&said);
    matches!(ended, Ok(Ended::Code(0))).then(|| metered_word(&text)).flatten()
}

/// `yes`, `no`, `yes (guessed)`, `no (guessed)` or `unknown`.
fn metered_word(text: &str) -> Option<bool> {
    match text.split_whitespace().next()? {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0100A8C0\t0002\t0\t0\t1\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
eth1\t00000000\t0100A8C0\t0003\t0\t0\t700\t00000000\t0\t0\t0
";

    fn link(files: &[(&str, &str)]) -> Link {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Links::default().read(dir.path(), false)
    }

    #[test]
    fn the_default_route_decides() {
        assert_eq!(link(&[]), Link::default());
        let radio = ("sys/class/net/wlan0/phy80211/name", "phy0");
        assert_eq!(link(&[("proc/net/route", ROUTES), radio]), Link { wireless: true, metered: false });
        let wired = ROUTES.replace("0002", "0003");
        assert_eq!(link(&[("proc/net/route", &wired), radio]), Link::default());
        let mobile = ("sys/class/net/wwan0/uevent", "DEVTYPE=wwan\nINTERFACE=wwan0\n");
        let zero = "0".repeat(32);
        let six = format!("{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 00000003 wwan0\n");
        assert_eq!(link(&[("proc/net/ipv6_route", &six), mobile]), Link { wireless: true, metered: true });
        for bad in ["../../etc", "-x", "a/b", ""] {
            assert!(!link(&[("proc/net/route", &ROUTES.replace("wlan0", bad))]).wireless, "{bad}");
        }
    }

    #[test]
    fn what_network_manager_says_is_understood() {
        let said = ["yes\n", "no (guessed)\n", "yes (guessed)", "unknown", ""].map(metered_word);
        assert_eq!(said, [Some(true), Some(false), Some(true), None, None]);
    }
}
