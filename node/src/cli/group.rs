//! `group`: list groups, make them, put machines into them.

use super::admin::AdminArgs;
use super::output::{self, Table};
use super::root::How;
use super::sign::{agree, exported, hand_in, write};
use super::{CliError, Common};
use crate::api::devices::DeviceName;
use crate::api::groups::{AskedGroup, Belong, GroupMade, MemberRequest, NewGroup};
use crate::api::roots::{Asked, RequestFile};
use crate::clock::wall;
use crate::coordinator::keys::KeyUse;
use crate::signing::{Carried, check};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm group list
  upswarm group add pilots
  upswarm group add web --where os.id=debian --where 'package:nginx>=1.20' --dry-run
  upswarm group sign pilots --list
  upswarm group assign pc7 --group pilots
  upswarm group remove-device pc7 --group pilots

A device is named by its label, or by its key or at least eight first digits of it. It hears of its groups at once if it, or a neighbour that
passes its reports on, is connected, else when it is next; status --device DEVICE says whether it has.

Who belongs to a group is signed by an approver where it has conditions or a list: a machine holds itself against that, whatever the
coordinator says. Of any other group the coordinator's word counts, and nothing is removed or taken back to an earlier version there.

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
        how: How,
    },
    /// Sign who belongs to a group.
    Sign {
        /// Its name.
        group: String,
        #[command(flatten)]
        who: WhoArgs,
        #[command(flatten)]
        how: How,
    },
    /// Put a machine into a group; it stays in its others.
    Assign(MemberArgs),
    /// Take a machine out of a group.
    RemoveDevice(MemberArgs),
}

/// Who belongs to it.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct WhoArgs {
    /// The machines that are in it now, and no others until this is signed again.
    #[arg(long)]
    list: bool,
    /// Whichever machines the coordinator puts into it.
    #[arg(long)]
    by_coordinator: bool,
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
        Verb::Add { group, conditions, dry_run, how } => {
            add(NewGroup { group, conditions, members: None, dry_run }, &how, common)
        }
        Verb::Sign { group, who, how } => {
            let members = Some(if who.list { Belong::List } else { Belong::Coordinator });
            add(NewGroup { group, conditions: Vec::new(), members, dry_run: false }, &how, common)
        }
        Verb::Assign(args) => member(args, true, common),
        Verb::RemoveDevice(args) => member(args, false, common),
    }
}

fn list(admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let groups = super::runtime()?.block_on(admin.client()?.groups())?;
    let mut table = Table::new(&["GROUP", "DEVICES", "WHO", "WHERE", "SIGNED"]);
    for row in &groups.groups {
        let conditions = row.conditions.as_ref().map_or_else(|| "-".to_owned(), |texts| texts.join(" and "));
        let signed = row.signed.as_ref().map_or_else(|| "-".to_owned(), |known| output::word(&known.members));
        table.row([row.group.clone(), row.devices.len().to_string(), names(&row.devices), conditions, signed]);
    }
    common.list(&groups, &table, || table.text())
}

fn add(wanted: NewGroup, how: &How, common: Common) -> Result<(), CliError> {
    let (client, runtime) = (how.admin.client()?, super::runtime()?);
    if how.export.is_none() && !wanted.dry_run && !is_name_alone(&wanted) {
        // That keys are missing is said before anything is made.
        how.admin.key_place(KeyUse::Approver)?.public_halves()?;
    }
    let mut made = runtime.block_on(client.add_group(&wanted))?;
    let Some(draft) = made.draft.take() else {
        let verb = if made.new { "made" } else { "is there already" };
        let text = if is_name_alone(&wanted) { format!("group {} {verb}", made.group) } else { members(&made) };
        common.print(&made, &text);
        return Ok(());
    };
    let listed = draft.list.is_some();
    let roots = runtime.block_on(client.roots())?.roots;
    let request = RequestFile::new(roots, Asked::Group(Box::new(AskedGroup { wanted, draft })));
    if let Some(path) = &how.export {
        write(path, &request)?;
        exported(path, &format!("to be signed: what the group {} is", made.group), common);
        return Ok(());
    }
    let place = how.admin.key_place(KeyUse::Approver)?;
    let checked = check(request, &place, Carried::Here, wall())?;
    // Who is in a list, the coordinator has said: a person reads the names first.
    agree(&checked, how.yes || !listed)?;
    let signed = checked.sign(&place)?;
    runtime.block_on(hand_in(&client, &signed.file.asked, signed.complete()?))?;
    common.print(&made, &members(&made));
    Ok(())
}

/// Whether only a name is wanted, which nobody signs.
fn is_name_alone(wanted: &NewGroup) -> bool {
    wanted.conditions.is_empty() && wanted.members.is_none()
}

/// Who is in a group, or would be.
fn members(made: &GroupMade) -> String {
    let verb = match (made.dry_run, made.new) {
        (true, _) => "would hold",
        (false, true) => "made: it holds",
        (false, false) => "changed: it holds",
    };
    let whom = match made.conditions.is_empty() {
        true => "the machines that are in it".to_owned(),
        false => format!("machines where {}", made.conditions.join(" and ")),
    };
    let mut lines = vec![format!("group {} {verb} {whom}", made.group)];
    lines.push(match made.members.len() {
        0 => "no machine now".to_owned(),
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
