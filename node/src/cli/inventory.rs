use std::path::PathBuf;

use serde_json::Value;
use upswarm_protocol::ids::DeviceId;

use super::group::{find_device, id_of};
use super::status::{age, list, table, word};
use super::{CliError, Common};
use crate::coordinator::client::Client;
use crate::coordinator::inventories::InventoryQuery;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm inventory --data-dir /var/lib/upswarm-coordinator
  upswarm inventory pc7 --data-dir D
  upswarm inventory --package openssl --data-dir D
  upswarm inventory pc7 --cyclonedx --data-dir D > pc7.cdx.json

Machines tell what has changed within a minute or two; a machine that is off shows what it had when it was last connected.";

/// Show what is installed on the machines: a line of each, everything of one, or who has a package.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The machine's label, or its key or at least eight first digits of it; without it a line of each machine.
    device: Option<String>,
    /// Show which machines have this package, in which version.
    #[arg(long, value_name = "NAME", conflicts_with = "device")]
    package: Option<String>,
    /// Print the machine's CycloneDX 1.6 bill of materials as JSON.
    #[arg(long, requires = "device", conflicts_with = "json")]
    cyclonedx: bool,
    /// The coordinator's data directory; the coordinator must be running.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let client = Client::of(&args.data_dir)?;
    let runtime = super::runtime()?;
    let device: Option<DeviceId> = match &args.device {
        Some(name) => Some(id_of(find_device(&runtime.block_on(client.status())?, name)?)?),
        None => None,
    };
    let query = InventoryQuery { device, package: args.package.clone(), cyclonedx: args.cyclonedx };
    let answer = runtime.block_on(client.inventory(&query))?;
    if args.cyclonedx {
        Common { json: true }.print(&answer, "");
        return Ok(());
    }
    let text = match (&device, &args.package) {
        (Some(_), _) => one(&answer),
        (None, Some(_)) => with_package(&answer),
        (None, None) => summary(&answer),
    };
    common.print(&answer, &text);
    Ok(())
}

fn summary(answer: &Value) -> String {
    let head = ["DEVICE", "SITE", "SEEN", "OS", "KERNEL", "MACHINE", "MEMORY", "PACKAGES", "RESTART", "CHANGED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for device in list(&answer["devices"]) {
        let mut row = vec![word(&device["name"]), word(&device["site"]), age(&device["last_seen_s"], "never")];
        if device["told"] == true {
            let machine: Vec<String> =
                [&device["vendor"], &device["product"]].into_iter().map(word).filter(|word| !word.is_empty()).collect();
            let memory = device["memory_mib"].as_u64().map_or("-".to_owned(), |mib| format!("{mib} MiB"));
            let restart = if device["pending_restart"] == true { "pending" } else { "no" };
            row.extend([or_dash(&device["os"]), or_dash(&device["kernel"])]);
            row.push(if machine.is_empty() { "-".to_owned() } else { machine.join(" ") });
            row.extend([memory, device["packages"].to_string(), restart.to_owned(), age(&device["changed_s"], "-")]);
        } else {
            row.extend(["not told yet", "-", "-", "-", "-", "-", "-"].map(str::to_owned));
        }
        rows.push(row);
    }
    table(&rows).trim_end().to_owned()
}

fn one(answer: &Value) -> String {
    let mut rows = vec![["KIND", "NAME", "VERSION", "ARCH", "PURL"].map(str::to_owned).to_vec()];
    for package in list(&answer["packages"]) {
        rows.push(["kind", "name", "version", "arch", "purl"].map(|field| word(&package[field])).to_vec());
    }
    let mut facts: Vec<Vec<String>> = answer["facts"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| vec![name.clone(), word(value)])
        .collect();
    let restart = if answer["pending_restart"] == true { "yes" } else { "no" };
    facts.push(vec!["restart pending".into(), restart.into()]);
    format!(
        "{}\n{}\n{} of site {}: {} packages, last changed {} ago, last heard of {} ago",
        table(&rows),
        table(&facts),
        word(&answer["name"]),
        word(&answer["site"]),
        rows.len() - 1,
        age(&answer["changed_s"], "?"),
        age(&answer["last_seen_s"], "?"),
    )
}

fn with_package(answer: &Value) -> String {
    let mut rows = vec![["DEVICE", "SITE", "SEEN", "KIND", "VERSION", "ARCH"].map(str::to_owned).to_vec()];
    for device in list(&answer["devices"]) {
        let [kind, version, arch] = ["kind", "version", "arch"].map(|field| word(&device[field]));
        let seen = age(&device["last_seen_s"], "never");
        rows.push(vec![word(&device["name"]), word(&device["site"]), seen, kind, version, arch]);
    }
    let mut text = if rows.len() > 1 { table(&rows) + "\n" } else { String::new() };
    for version in list(&answer["versions"]) {
        text.push_str(&format!("{} {}: {}\n", word(&version["kind"]), word(&version["version"]), version["devices"]));
    }
    let who = if rows.len() > 1 { "installed" } else { "not installed on any" };
    text + &format!("{}: {who}, of {} machines that have told", word(&answer["package"]), answer["told"])
}

fn or_dash(value: &Value) -> String {
    Some(word(value)).filter(|word| !word.is_empty()).unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_show_what_is_told_and_what_is_not() {
        let answer = serde_json::json!({ "devices": [
            { "name": "pc1", "site": "berlin", "last_seen_s": 5, "told": true, "os": "Debian GNU/Linux 12", "kernel": "6.1",
              "vendor": "ACME", "product": "T1", "memory_mib": 16000, "packages": 3000, "pending_restart": true, "changed_s": 70 },
            { "name": "pc2", "site": "berlin", "last_seen_s": null, "told": false },
        ]});
        let text = summary(&answer);
        for wanted in ["ACME T1  16000 MiB  3000      pending", "pc2", "never", "not told yet"] {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
        let none = serde_json::json!({ "package": "x", "versions": [], "devices": [], "told": 2 });
        assert_eq!(with_package(&none), "x: not installed on any, of 2 machines that have told");
    }
}
