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
  upswarm group assign pc7 --group pilots --data-dir D
  upswarm group remove-device pc7 --group pilots --data-dir D

A device is named by its label, or by its key or at least eight first digits of it. Its new certificate reaches it at once if it
is connected, else when it is next.";

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
    /// Make a group.
    Add {
        /// Its name.
        group: String,
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
        Verb::Add { group, data_dir } => add(group, &data_dir, common),
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
    let mut rows = vec![["GROUP", "DEVICES", "WHO"].map(str::to_owned).to_vec()];
    for (group, devices) in &members {
        let names: Vec<&str> = devices.iter().map(|(name, _)| name.as_str()).collect();
        rows.push(vec![(*group).to_owned(), names.len().to_string(), names.join(", ")]);
    }
    let view = members.iter().map(|(group, devices)| {
        let devices: Vec<_> = devices.iter().map(|(name, id)| json!({ "device": id, "name": name })).collect();
        json!({ "group": group, "id": catalog.groups.get(*group), "devices": devices })
    });
    common.print(&json!({ "groups": view.collect::<Vec<_>>() }), table(&rows).trim_end());
    Ok(())
}

fn add(group: String, data_dir: &Path, common: Common) -> Result<(), CliError> {
    let client = Client::of(data_dir)?;
    let request = GroupRequest { group, device: None, member: false };
    let made = super::runtime()?.block_on(client.group(&request))?;
    let verb = if made["new"] == true { "made" } else { "is there already" };
    common.print(&made, &format!("group {} {verb}", request.group));
    Ok(())
}

fn member(args: MemberArgs, member: bool, common: Common) -> Result<(), CliError> {
    let client = Client::of(&args.data_dir)?;
    let runtime = super::runtime()?;
    let status = runtime.block_on(client.status())?;
    let device = find_device(&status, &args.device)?;
    let id: Result<DeviceId, _> = device["device"].as_str().unwrap_or_default().parse();
    let id =
        id.map_err(|error| CliError::Failed(anyhow::anyhow!("the coordinator's status names a device {error}")))?;
    let request = GroupRequest { group: args.group, device: Some(id), member };
    let answer = runtime.block_on(client.group(&request))?;
    let groups: Vec<&str> = answer["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let groups = if groups.is_empty() { "in no group".to_owned() } else { format!("in {}", groups.join(", ")) };
    let change = if answer["changed"] == true { "now" } else { "as before" };
    common.print(&answer, &format!("{} is {change} {groups}", name(device)));
    Ok(())
}

/// The one device that a text names.
fn find_device<'a>(status: &'a Value, text: &str) -> Result<&'a Value, CliError> {
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
