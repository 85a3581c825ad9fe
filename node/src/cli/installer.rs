//! `upswarm installer`: the process that installs for a node without rights.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use upswarm_protocol::ids::{DeviceId, DocHash};

use super::{CliError, Common, quiet_runtime};
use crate::config::time_zone;
use crate::machine::RestartConfig;
use crate::privileged::{self, Pin, ServerConfig};
use crate::{sys, units};

/// Where the packaged installer keeps its logs and what it believes.
pub(crate) const INSTALLER_DIR: &str = "/var/lib/upswarm-installer";
/// Where the packaged installer listens.
pub(crate) const INSTALLER_SOCKET: &str = "/run/upswarm/installer.sock";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Install what is released and approved when the node asks, until told to stop (Ctrl-C or SIGTERM).
    #[command(after_help = "Example:\n  upswarm installer run --data-dir /var/lib/upswarm-installer \
                            --socket /run/upswarm/installer.sock --node-uid upswarm")]
    Run(RunArgs),
    /// Write down what the installer believes in from the first. `upswarm node join --installer-dir` does it too.
    #[command(after_help = "Example:\n  upswarm installer pin --data-dir /var/lib/upswarm-installer \
                            --root-hash 8c1f... --device 77ab...")]
    Pin(PinArgs),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Where the pin, what has been believed since, logs and backups are. Only this user may write there.
    #[arg(long)]
    data_dir: PathBuf,
    /// Where to listen; only this user may write to its directory.
    #[arg(long, default_value = INSTALLER_SOCKET)]
    socket: PathBuf,
    /// The user that the node runs as, by name or number. It and root may connect.
    #[arg(long, value_name = "USER")]
    node_uid: String,
    /// Install below this directory instead of /, for trials.
    #[arg(long, value_name = "DIR")]
    install_root: Option<PathBuf>,
    /// Where maintenance windows and hours of work are read, for example Europe/Berlin; the machine's own zone if not given. Must
    /// be the node's.
    #[arg(long, value_name = "ZONE", default_value = "")]
    time_zone: String,
    /// What the person at the machine has between the notice of a restart and the restart; not more than the node's.
    #[arg(long, value_name = "DURATION", value_parser = units::duration, default_value = "15m")]
    restart_notice: Duration,
    /// Program and arguments that restart the machine.
    #[arg(long, value_name = "WORD", num_args = 1.., allow_hyphen_values = true, value_terminator = ";")]
    restart_command: Vec<String>,
    /// Program and arguments that show a notice; the text is added as the last argument.
    #[arg(long, value_name = "WORD", num_args = 1.., allow_hyphen_values = true, value_terminator = ";")]
    notify_command: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct PinArgs {
    /// The installer's data directory; created if missing.
    #[arg(long)]
    data_dir: PathBuf,
    /// Hash of the root envelope that this machine joined with, in hex; the join token names it.
    #[arg(long, value_name = "HASH")]
    root_hash: DocHash,
    /// This device's key, in hex; `upswarm node join` prints it.
    #[arg(long, value_name = "KEY")]
    device: DeviceId,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Run(args) => {
            let node_uid =
                sys::user_id(&args.node_uid).map_err(|error| CliError::Refused(format!("--node-uid: {error:#}")))?;
            let or = |given: Vec<String>, default| if given.is_empty() { default } else { given };
            let default = RestartConfig::default();
            let restart = RestartConfig {
                notice_s: u32::try_from(args.restart_notice.as_secs()).unwrap_or(u32::MAX),
                command: or(args.restart_command, default.command),
                notify_command: or(args.notify_command, default.notify_command),
            };
            restart.validate().map_err(|error| CliError::Refused(format!("{error:#}")))?;
            let config = ServerConfig {
                data_dir: args.data_dir,
                socket: args.socket,
                node_uid,
                root: args.install_root,
                zone: time_zone(&args.time_zone).map_err(|error| CliError::Refused(format!("{error:#}")))?,
                restart,
            };
            Ok(quiet_runtime()?.block_on(async { privileged::run(config, sys::asked_to_stop()?).await })?)
        }
        Verb::Pin(args) => {
            let pin = Pin { root: args.root_hash, device: args.device };
            pin.write(&args.data_dir).map_err(|error| CliError::Refused(format!("{error:#}")))?;
            let text = format!("pinned to root {} for device {}", pin.root.short(), pin.device.short());
            common.print(&json!({ "root": pin.root, "device": pin.device, "data_dir": args.data_dir }), &text);
            Ok(())
        }
    }
}
