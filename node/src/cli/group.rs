//! `group`: list groups, make them, put machines into them.

use super::admin::AdminArgs;
use super::output::{self, Table};
use super::{CliError, Common};
use crate::api::devices::DeviceName;
use crate::api::groups::{GroupMade, MemberRequest, NewGroup};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm group list
  upswarm group add pilots
  upswarm group add web --where os.id=debian --where 'package:nginx>=1.20' --dry-run
  upswarm group assign pc7 --group pilots
  upswarm group remove-device pc7 --group pilots

A device is named by its label, or by its key or at least eight first digits of it. It hears of its groups at once if it, or a neighbour that
passes its reports on, is connected, else when it is next; status --device DEVICE says whether it has.

The members of a group with conditions are the machines whose inventories fulfil all of them, and change by themselves. A
condition is FACT=VALUE or package:NAME>=VERSION, with =, !=, <, <=, > or >=; FACT or package:NAME alone asks whether it is there,
! before it whether it is not. Versions compare by the rules of their own package database (package:deb/NAME names one), facts so
that 9 comes before 10. Facts are shown by: upswarm inventory DEVICE; restart.pending is yes or no.";

/// List groups, make them, and put machines into them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show every group with its machines.
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a group; with conditions, one whose members follow from their inventories.
    Add {
        /// Its name.
        group: String,
        /// What its members fulfil, for example os.id=debian or 'package:nginx>=1.20'; may be given again, all must hold.
        /// Conditions of a group that has some are replaced.
        #[arg(long = "where", value_name = "CONDITION")]
        conditions: Vec<String>,
        /// Show who would be a member; change nothing.
        #[arg(long, requires = "conditions")]
        dry_run: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Put a machine into a group; it stays in its others.
    Assign(MemberArgs),
    /// Take a machine out of a group.
    RemoveDevice(MemberArgs),
}

#[derive(Debug, clap::Args)]
struct MemberArgs {
    /// The machine's label, or its key or at least eight first digits of it.
    device: String,
    /// The group.
    #[arg(long)]
    group: String,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::List { admin } => list(&admin, common),
        Verb::Add { group, conditions, dry_run, admin } => {
            add(&NewGroup { group, conditions, dry_run }, &admin, common)
        }
        Verb::Assign(args) => member(args, true, common),
        Verb::RemoveDevice(args) => member(args, false, common),
    }
}

fn list(admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let groups = super::runtime()?.block_on(admin.client()?.groups())?;
    let mut table = Table::new(&["GROUP", "DEVICES", "WHO", "WHERE"]);
    for row in &groups.groups {
        let conditions = row.conditions.as_ref().map_or_else(|| "-".to_owned(), |texts| texts.join(" and "));
        table.row([row.group.clone(), row.devices.len().to_string(), names(&row.devices), conditions]);
    }
    common.list(&groups, &table, || table.text())
}

fn add(request: &NewGroup, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let made = super::runtime()?.block_on(admin.client()?.add_group(request))?;
    let verb = if made.new { "made" } else { "is there already" };
    let text = if made.conditions.is_empty() { format!("group {} {verb}", made.group) } else { dynamic(&made) };
    common.print(&made, &text);
    Ok(())
}

/// Who is in a dynamic group, or would be.
fn dynamic(made: &GroupMade) -> String {
    let verb = match (made.dry_run, made.new) {
        (true, _) => "would hold",
        (false, true) => "made: it holds",
        (false, false) => "changed: it holds",
    };
    let mut lines = vec![format!("group {} {verb} machines where {}", made.group, made.conditions.join(" and "))];
    lines.push(match made.members.len() {
        0 => "no machine fulfils that now".to_owned(),
        count => format!("{count} now: {}", names(&made.members)),
    });
    // Of a new group everybody joins.
    if !made.new {
        for (devices, verb) in [(&made.join, "join"), (&made.leave, "leave")] {
            if !devices.is_empty() {
                lines.push(format!("{verb}: {}", names(devices)));
            }
        }
    }
    lines.join("\n")
}

fn member(args: MemberArgs, member: bool, common: Common) -> Result<(), CliError> {
    let request = MemberRequest { group: args.group, device: args.device, member };
    let answer = super::runtime()?.block_on(args.admin.client()?.member(&request))?;
    let groups =
        if answer.groups.is_empty() { "in no group".to_owned() } else { format!("in {}", answer.groups.join(", ")) };
    let change = if answer.changed { "now" } else { "as before" };
    let heard = if answer.heard { "" } else { "; the machine has not said yet that it knows" };
    common.print(&answer, &format!("{} is {change} {groups}{heard}", answer.name));
    Ok(())
}

fn names(devices: &[DeviceName]) -> String {
    devices.iter().map(|device| output::clean(&device.name)).collect::<Vec<_>>().join(", ")
}
