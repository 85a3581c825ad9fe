//! `upswarm retry` and `upswarm node retry`: another try of what failed or waits. One call each.

use std::path::PathBuf;

use serde_json::Value;

use super::admin::AdminArgs;
use super::{CliError, Common};
use crate::api::devices::DeviceName;
use crate::api::retries::{Retried, RetryRequest};
use crate::local_api::{self, Request};

/// Names that are spelt out.
const NAMED: usize = 8;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm retry editor
  upswarm retry editor@2.1 --device pc7
  upswarm retry editor@2.1 --group office

What failed is tried once more, what waits for something on the machine at once. Nothing is tried that is not approved, or not yet due.
Machines that are not connected do not hear of it. On the machine itself: upswarm node retry editor@2.1";

/// Have machines try a release again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// PRODUCT or PRODUCT@VERSION (the last part of the product's name suffices), its id, or at least eight first digits of it.
    #[arg(value_name = "RELEASE")]
    release: String,
    /// Only this machine: its label, or its key or at least eight first digits of it.
    #[arg(long)]
    device: Option<String>,
    /// Only where it is approved for this group.
    #[arg(long)]
    group: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The same on the machine itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  upswarm node retry editor@2.1 --data-dir /var/lib/upswarm")]
pub(crate) struct NodeArgs {
    /// The data directory of the node that runs on this machine.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// PRODUCT or PRODUCT@VERSION (the last part of the product's name suffices), or the first digits of a release's id.
    #[arg(value_name = "RELEASE")]
    release: String,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let request = RetryRequest { release: args.release, device: args.device, group: args.group };
    let retried = super::runtime()?.block_on(args.admin.client()?.retry(&request))?;
    common.print(&retried, &text(&retried));
    Ok(())
}

pub(crate) fn on_this_machine(args: NodeArgs, common: Common) -> Result<(), CliError> {
    let request = Request::Retry { release: args.release };
    let answer: Value = local_api::Client::connect(&args.data_dir)?.ask(&request)?;
    let name = answer["name"].as_str().unwrap_or_default();
    common.print(&answer, &format!("{name} is tried again; see: upswarm explain"));
    Ok(())
}

fn text(retried: &Retried) -> String {
    let machines = |count: usize| if count == 1 { "1 machine".to_owned() } else { format!("{count} machines") };
    let mut text = format!("{}: asked {}", retried.what, machines(retried.asked.len()));
    if !retried.through_neighbours.is_empty() {
        text.push_str(&format!("; {} hear of it from neighbours", retried.through_neighbours.len()));
    }
    let away = &retried.not_connected;
    if !away.is_empty() {
        let verb = if away.len() == 1 { "is" } else { "are" };
        text.push_str(&format!("; {} {verb} not connected: {}", away.len(), names(away)));
    }
    text
}

fn names(devices: &[DeviceName]) -> String {
    let named: Vec<&str> = devices.iter().take(NAMED).map(|device| device.name.as_str()).collect();
    let more = devices.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use upswarm_protocol::ids::{DeviceId, ReleaseId};

    use super::*;

    #[test]
    fn who_was_asked_and_who_was_not() {
        let machine = |number: u8| DeviceName { device: DeviceId([number; 32]), name: format!("pc{number}") };
        let mut retried = Retried {
            release: ReleaseId([1; 32]),
            what: "org.example.editor 2.1".to_owned(),
            asked: (0..3).map(machine).collect(),
            through_neighbours: Vec::new(),
            not_connected: vec![machine(7)],
        };
        assert_eq!(text(&retried), "org.example.editor 2.1: asked 3 machines; 1 is not connected: pc7");
        retried.asked.truncate(1);
        retried.through_neighbours = vec![machine(4), machine(5)];
        retried.not_connected = (0..20).map(machine).collect();
        let expected = "org.example.editor 2.1: asked 1 machine; 2 hear of it from neighbours; 20 are not connected: \
                        pc0, pc1, pc2, pc3, pc4, pc5, pc6, pc7 and 12 more";
        assert_eq!(text(&retried), expected);
    }
}
