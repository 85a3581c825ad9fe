//! `upswarm node apt-setup`: plain apt of this machine sees what is approved for it, and nothing else.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::super::{CliError, Common};
use crate::apt_setup;
use crate::config::{Config, NodeDir};
use crate::sys;

/// A source with 64 certificates is shorter.
const MAX_SOURCES: u64 = 256 << 10;
/// The update point is on this machine.
const WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory that `node join` made.
    #[arg(long, default_value = "/var/lib/upswarm")]
    data_dir: PathBuf,
    /// Data directory of the privileged installer, where the node installs through one.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/upswarm-installer")]
    installer_dir: PathBuf,
    /// Take our files away and enable the sources that were disabled.
    #[arg(long)]
    undo: bool,
    /// Change nothing here, and print the apt source for machines without an agent that are to get what is approved for this group: its
    /// name, or its number. The approvers' certificates stand in it. Give it to such machines by a way that you trust. They believe
    /// each of these keys alone, and no `root revoke-key` reaches them: put a new one in its place then. Where more than one approver
    /// must sign, there is none.
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["undo", "root"])]
    filtered: Option<String>,
    /// How those machines reach this one, for example cache.example.org:8530.
    #[arg(long, value_name = "HOST:PORT", requires = "filtered")]
    host: Option<String>,
    /// Set up apt below this directory instead of /, for images and trials.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

pub(super) fn run(args: &Args, common: &Common) -> Result<(), CliError> {
    let refuse = |error: anyhow::Error| CliError::Refused(format!("{error:#}"));
    let config = Config::read(&NodeDir::new(&args.data_dir).config()).map_err(refuse)?;
    let root = args.root.as_deref().unwrap_or(Path::new("/"));
    if args.filtered.is_none() && args.root.is_none() && !sys::is_administrator() {
        return Err(CliError::Refused("apt's sources are root's; run this as root".into()));
    }
    let state = match config.installer_socket {
        Some(_) => args.installer_dir.join("jobs"),
        None => NodeDir::new(&args.data_dir).install(),
    };
    if args.undo {
        let outcome = apt_setup::undo(&state, root).map_err(refuse)?;
        let mut text = "apt has its own sources again".to_owned();
        for source in &outcome.changed {
            text.push_str(&format!("\n  enabled   {source}"));
        }
        common.print(&json!({ "undone": true, "enabled": outcome.changed }), &text);
        return Ok(());
    }
    let Some(update_point) = &config.update_point else {
        let file = NodeDir::new(&args.data_dir).config();
        return Err(CliError::Refused(format!(
            "this node has no update point; add a section [update_point] to {} and restart it: \
             systemctl restart upswarm-node",
            file.display()
        )));
    };
    let local = update_point.listen.iter().find(|address| address.ip().is_loopback() || address.ip().is_unspecified());
    let local = local.or(update_point.listen.first()).map(|address| SocketAddr::new(reached(*address), address.port()));
    let Some(address) = local else { return Err(CliError::Refused("the update point listens nowhere".into())) };
    if let Some(group) = &args.filtered {
        let host = args.host.clone().unwrap_or_else(|| address.to_string());
        let path = format!("/apt/filtered/{group}.sources");
        let text = get(address, &host, &path).map_err(|why| {
            CliError::Refused(format!("the update point at {address} does not give {path}: {why}; see: upswarm status"))
        })?;
        common.print(&json!({ "group": group, "host": host, "sources": text }), text.trim_end());
        return Ok(());
    }
    if args.root.is_none() {
        for path in apt_setup::paths(&state).map_err(refuse)? {
            answers(address, &path).map_err(|why| {
                CliError::Refused(format!(
                    "the update point at {address} does not serve {path} ({why}), and apt would be left without a source; is \
                     the node running? See: systemctl status upswarm-node"
                ))
            })?;
        }
    }
    let outcome = apt_setup::set_up(&state, root, &format!("http://{address}")).map_err(refuse)?;
    let mut text = format!(
        "apt sees {} packages of {} through http://{address}; to take that back: upswarm node apt-setup --undo",
        outcome.packages,
        outcome.upstreams.join(", ")
    );
    for source in &outcome.changed {
        text.push_str(&format!("\n  disabled  {source}"));
    }
    for source in &outcome.bypass {
        text.push_str(&format!("\n  BYPASS    {source}: packages from there are approved by nobody here"));
    }
    common.print(&json!({ "url": format!("http://{address}"), "outcome": outcome }), &text);
    Ok(())
}

/// How this machine reaches what listens there.
fn reached(address: SocketAddr) -> std::net::IpAddr {
    match address.ip() {
        ip if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// Whether the update point has a file.
fn answers(address: SocketAddr, path: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&address, WITHIN).map_err(failed)?;
    stream.set_read_timeout(Some(WITHIN)).map_err(failed)?;
    write!(stream, "HEAD {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream.take(1 << 10)).read_line(&mut line).map_err(failed)?;
    if line.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(line.trim().to_owned()) }
}

/// A short file of the update point.
fn get(address: SocketAddr, host: &str, path: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain(host) || !plain(path) {
        return Err("a host or group has no such characters".to_owned());
    }
    let mut stream = TcpStream::connect_timeout(&address, WITHIN).map_err(failed)?;
    stream.set_read_timeout(Some(WITHIN)).map_err(failed)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut answer = String::new();
    stream.take(MAX_SOURCES).read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("its answer is cut off")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(body.trim().to_owned()),
    }
}
