use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use upswarm_protocol::ids::DeviceId;

use super::status::table;
use super::{CliError, Common};
use crate::coordinator::client::Client;
use crate::coordinator::requests::GroupRequest;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm group list --data-dir /var/lib/upswarm-coordinator
  upswarm group add pilots --data-dir D
  upswarm group add web --where os.id=debian --where 'package:nginx>=1.20' --dry-run --data-dir D
  upswarm group assign pc7 --group pilots --data-dir D
  upswarm group remove-device pc7 --group pilots --data-dir D

A device is named by its label, or by its key or at least eight first digits of it. Its new certificate reaches it at once if it
is connected, else when it is next.

The members of a group with conditions are the machines whose inventories fulfil all of them, and change by themselves. A
condition is FACT=VALUE or package:NAME>=VERSION, with =, !=, <, <=, > or >=; FACT or package:NAME alone asks whether it is there,
! before it whether it is not. Versions compare by the rules of their own package database (package:deb/NAME names one), facts so
that 9 comes before 10. Facts are shown by: upswarm inventory DEVICE; restart.pending is yes or no.";

/// Digits of a device's key that name it, if no other begins with them.
const MIN_PREFIX: usize = 8;

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
        /// The coordinator's data directory; the coordinator must be running.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
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
        /// The coordinator's data directory; the coordinator must be running.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
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
    /// The coordinator's data directory; the coordinator must be running.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::List { data_dir } => list(&data_dir, common),
        Verb::Add { group, conditions, dry_run, data_dir } => {
            add(GroupRequest { group, conditions, dry_run, ..GroupRequest::default() }, &data_dir, common)
        }
        Verb::Assign(args) => member(args, true, common),
        Verb::RemoveDevice(args) => member(args, false, common),
    }
}

fn list(data_dir: &Path, common: Common) -> Result<(), CliError> {
    let client = Client::of(data_dir)?;
    let runtime = super::runtime()?;
    let (catalog, status) = (runtime.block_on(client.catalog())?, runtime.block_on(client.status())?);
    let mut members: BTreeMap<&str, Vec<(String, &Value)>> =
        catalog.groups.keys().map(|group| (group.as_str(), Vec::new())).collect();
    for device in devices(&status).iter().filter(|device| device["revoked"] != true) {
        for group in device["groups"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            members.entry(group).or_default().push((name(device), &device["device"]));
        }
    }
    let mut rows = vec![["GROUP", "DEVICES", "WHO", "WHERE"].map(str::to_owned).to_vec()];
    for (group, devices) in &members {
        let names: Vec<&str> = devices.iter().map(|(name, _)| name.as_str()).collect();
        let conditions = catalog.conditions.get(*group).map_or_else(|| "-".to_owned(), |texts| texts.join(" and "));
        rows.push(vec![(*group).to_owned(), names.len().to_string(), names.join(", "), conditions]);
    }
    let view = members.iter().map(|(group, devices)| {
        let devices: Vec<_> = devices.iter().map(|(name, id)| json!({ "device": id, "name": name })).collect();
        let conditions = catalog.conditions.get(*group);
        json!({ "group": group, "id": catalog.groups.get(*group), "devices": devices, "where": conditions })
    });
    common.print(&json!({ "groups": view.collect::<Vec<_>>() }), table(&rows).trim_end());
    Ok(())
}

fn add(request: GroupRequest, data_dir: &Path, common: Common) -> Result<(), CliError> {
    let client = Client::of(data_dir)?;
    let made = super::runtime()?.block_on(client.group(&request))?;
    if !request.conditions.is_empty() {
        common.print(&made, &dynamic(&made));
        return Ok(());
    }
    let verb = if made["new"] == true { "made" } else { "is there already" };
    common.print(&made, &format!("group {} {verb}", request.group));
    Ok(())
}

/// Who is in a dynamic group, or would be.
fn dynamic(made: &Value) -> String {
    let names =
        |field: &str| -> Vec<String> { super::status::list(&made[field]).iter().map(|d| text(&d["name"])).collect() };
    let conditions: Vec<String> = super::status::list(&made["where"]).iter().map(text).collect();
    let verb = match (made["dry_run"] == true, made["new"] == true) {
        (true, _) => "would hold",
        (false, true) => "made: it holds",
        (false, false) => "changed: it holds",
    };
    let members = names("members");
    let mut lines = vec![format!("group {} {verb} machines where {}", text(&made["group"]), conditions.join(" and "))];
    lines.push(match members.len() {
        0 => "no machine fulfils that now".to_owned(),
        count => format!("{count} now: {}", members.join(", ")),
    });
    // Of a new group everybody joins.
    if made["new"] != true {
        for (field, verb) in [("join", "join"), ("leave", "leave")] {
            let names = names(field);
            if !names.is_empty() {
                lines.push(format!("{verb}: {}", names.join(", ")));
            }
        }
    }
    lines.join("\n")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn member(args: MemberArgs, member: bool, common: Common) -> Result<(), CliError> {
    let client = Client::of(&args.data_dir)?;
    let runtime = super::runtime()?;
    let status = runtime.block_on(client.status())?;
    let device = find_device(&status, &args.device)?;
    let id = id_of(device)?;
    let request = GroupRequest { group: args.group, device: Some(id), member, ..GroupRequest::default() };
    let answer = runtime.block_on(client.group(&request))?;
    let groups: Vec<&str> = answer["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let groups = if groups.is_empty() { "in no group".to_owned() } else { format!("in {}", groups.join(", ")) };
    let change = if answer["changed"] == true { "now" } else { "as before" };
    common.print(&answer, &format!("{} is {change} {groups}", name(device)));
    Ok(())
}

/// The key of a device of the status.
pub(super) fn id_of(device: &Value) -> Result<DeviceId, CliError> {
    let id: Result<DeviceId, _> = device["device"].as_str().unwrap_or_default().parse();
    id.map_err(|error| CliError::Failed(anyhow::anyhow!("the coordinator's status names a device {error}")))
}

/// The one device that a text names.
pub(super) fn find_device<'a>(status: &'a Value, text: &str) -> Result<&'a Value, CliError> {
    let digits = text.to_ascii_lowercase();
    let prefix = text.len() >= MIN_PREFIX && text.bytes().all(|c| c.is_ascii_hexdigit());
    let named = |device: &&Value| {
        device["label"] == text || prefix && device["device"].as_str().is_some_and(|id| id.starts_with(&digits))
    };
    let found: Vec<&Value> = devices(status).iter().filter(named).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(CliError::Refused(format!("no device is named {text:?}; see: upswarm status"))),
        several => {
            let keys: Vec<&str> = several.iter().filter_map(|device| device["device"].as_str()).collect();
            Err(CliError::Refused(format!("several devices are named {text:?}: {}; give the key", keys.join(", "))))
        }
    }
}

fn devices(status: &Value) -> &[Value] {
    status["devices"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn name(device: &Value) -> String {
    let word = |key: &str| device[key].as_str().unwrap_or_default().to_owned();
    Some(word("label")).filter(|label| !label.is_empty()).unwrap_or_else(|| word("device").chars().take(8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_label_or_key_and_never_guessed() {
        let status = json!({ "devices": [
            { "device": "ab".repeat(32), "label": "pc1" },
            { "device": "abababab".to_owned() + &"cd".repeat(28), "label": "pc2" },
            { "device": "ef".repeat(32), "label": "pc2" },
        ]});
        assert_eq!(find_device(&status, "pc1").unwrap()["label"], "pc1");
        assert_eq!(find_device(&status, "EFEFEFEF").unwrap()["label"], "pc2");
        for (text, cause) in [("pc2", "several"), ("abababab", "several"), ("efef", "no device"), ("pc", "no device")] {
            let error = find_device(&status, text).unwrap_err().to_string();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }
}
