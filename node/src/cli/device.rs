//! `device`: the machines that were let in, letting go of one, and shutting one out.

use super::admin::AdminArgs;
use super::output::{Table, age, word};
use super::{CliError, Common};
use crate::api::devices::{ReadmitRequest, RetireRequest, RevokeRequest};
use crate::api::status::{DeviceStatus, StatusQuery};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm device list
  upswarm device retire pc7
  upswarm device revoke 5f0c3a9e
  upswarm device readmit 5f0c3a9e

A machine that is retired leaves the lists, and what it told is kept; when it reports again it is back. A machine that is shut out is left by all others within seconds, and what it told is forgotten. It can join again with a new token
and a new key.";

/// List the machines that were let in, let go of one, and shut one out.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show every machine: its id, site, role, groups, and when it was last heard of.
    List {
        /// Those that are retired or shut out too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a machine that is gone out of the lists; of several of one name, the one that was silent for longest.
    Retire {
        /// The machine's label, or its key or at least eight first digits of it.
        device: String,
        /// Although it is connected.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Let a machine in again that was shut out, or that a rotation of the online key has left out.
    Readmit {
        /// Its key or at least eight first digits of it; `device list --all` shows them.
        device: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a machine's certificate away for good.
    Revoke {
        /// The machine's label, or its key or at least eight first digits of it.
        device: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// What `device list` prints as JSON.
#[derive(serde::Serialize)]
struct Devices<'a> {
    devices: Vec<&'a DeviceStatus>,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::List { all, admin } => list(all, &admin, common),
        Verb::Retire { device, force, admin } => retire(device, force, &admin, common),
        Verb::Readmit { device, admin } => readmit(device, &admin, common),
        Verb::Revoke { device, admin } => revoke(device, &admin, common),
    }
}

fn list(all: bool, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let query = StatusQuery { devices: true, gone: true, ..StatusQuery::default() };
    let status = super::runtime()?.block_on(admin.client()?.status(&query))?;
    let mut table = Table::new(&["ID", "DEVICE", "SITE", "ROLE", "GROUPS", "SEEN", "AGENT", "OS"]);
    let shown: Vec<&DeviceStatus> =
        status.devices.iter().filter(|device| all || !(device.retired || device.revoked)).collect();
    for device in &shown {
        table.row([
            device.device.short(),
            device.name(),
            device.site.clone(),
            word(&device.role),
            device.groups.join(","),
            match device {
                device if device.revoked => "shut out".to_owned(),
                device if device.retired => "retired".to_owned(),
                device => super::status::seen(device),
            },
            device.agent.clone().unwrap_or_default(),
            device.os.clone().unwrap_or_default(),
        ]);
    }
    let text = || {
        let mut text = table.text();
        for double in &status.doubles {
            text.push_str(&super::status::double_line(double));
        }
        text.push_str(&format!(
            "\n{} connected, head signed {} ago",
            status.connected,
            age(status.head.as_ref().map(|head| head.age_s), "?")
        ));
        text
    };
    common.list(&Devices { devices: shown }, &table, text)
}

fn retire(device: String, force: bool, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let retired = super::runtime()?.block_on(admin.client()?.retire(&RetireRequest { device, force }))?;
    let text = format!("retired: {} ({}); it is back when it reports again", retired.name, retired.device.short());
    common.print(&retired, &text);
    Ok(())
}

fn readmit(device: String, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let back = super::runtime()?.block_on(admin.client()?.readmit(&ReadmitRequest { device }))?;
    let text = format!(
        "let in again: {} ({}), index {}; if it was restarted meanwhile, it joins again: upswarm node join TOKEN --again",
        back.name,
        back.device.short(),
        back.head_version
    );
    common.print(&back, &text);
    Ok(())
}

fn revoke(device: String, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let revoked = super::runtime()?.block_on(admin.client()?.revoke(&RevokeRequest { device }))?;
    let text = format!("shut out: {} ({}), index {}", revoked.name, revoked.device.short(), revoked.head_version);
    common.print(&revoked, &text);
    Ok(())
}
