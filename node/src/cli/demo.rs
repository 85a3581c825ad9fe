//! `upswarm demo`: a whole site on this machine.

mod more;
mod processes;
mod site;

use std::path::PathBuf;

use super::{CliError, Common, runtime};
use crate::units;

/// Start a coordinator, a branch cache and office nodes as separate processes on loopback, and let an update reach them all.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
EXAMPLE:
  upswarm demo
  upswarm demo --console
  upswarm demo --nodes 16 --payload update.bin --wan 50mbit --kill 2 --json

The origin is held to the WAN's rate. Every node installs into a directory of its own. Half way, the nodes that fetch most over
the WAN are killed, and started again. Ends with 0 only if every node reports Installed.")]
pub(crate) struct Args {
    /// Office nodes.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    nodes: u16,
    /// A file to spread, or a RELEASE.toml to publish; default: this program itself.
    #[arg(long, value_name = "FILE|RELEASE.toml")]
    payload: Option<PathBuf>,
    /// Rate of the WAN link.
    #[arg(long, default_value = "100mbit", value_parser = units::rate)]
    wan: u64,
    /// How many of the busiest lease holders to kill half way; 0 for none.
    #[arg(long, default_value_t = 1)]
    kill: u16,
    /// Keep the directories afterwards.
    #[arg(long)]
    keep: bool,
    /// Serve the console too, print its link, publish some updates more to look at and to decide about, and stay until interrupted.
    #[arg(long, value_name = "IP:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:4704")]
    console: Option<std::net::SocketAddr>,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let plan = site::Plan {
        nodes: args.nodes,
        payload: args.payload,
        wan: args.wan,
        kill: args.kill,
        keep: args.keep,
        console: args.console,
    };
    let outcome = runtime()?.block_on(site::run(&plan, common))?;
    common.print(&outcome.json(), &outcome.text());
    if outcome.installed == u64::from(args.nodes) {
        return Ok(());
    }
    Err(CliError::Failed(anyhow::anyhow!("{} of {} nodes report Installed", outcome.installed, args.nodes)))
}
