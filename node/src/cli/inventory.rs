//! `inventory`: what is installed on the machines.

use super::admin::AdminArgs;
use super::output::{Table, age, word};
use super::{CliError, Common};
use crate::api::inventory::{DeviceInventory, Inventories, PackageHolders};
use crate::units;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm inventory
  upswarm inventory pc7
  upswarm inventory --package openssl --output csv
  upswarm inventory pc7 --cyclonedx > pc7.cdx.json

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
    #[arg(long, requires = "device", conflicts_with_all = ["json", "output"])]
    cyclonedx: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let (client, runtime) = (args.admin.client()?, super::runtime()?);
    match (args.device, args.package) {
        (Some(device), _) if args.cyclonedx => {
            common.print_json(&runtime.block_on(client.bill(device))?);
            Ok(())
        }
        (Some(device), _) => one(&runtime.block_on(client.inventory(device))?, common),
        (None, Some(package)) => with_package(&runtime.block_on(client.holders(package))?, common),
        (None, None) => summary(&runtime.block_on(client.inventories())?, common),
    }
}

fn summary(answer: &Inventories, common: Common) -> Result<(), CliError> {
    let table = summary_table(answer);
    common.list(answer, &table, || table.text())
}

fn summary_table(answer: &Inventories) -> Table {
    let mut table = Table::new(&[
        "ID", "DEVICE", "SITE", "SEEN", "OS", "KERNEL", "MACHINE", "MEMORY", "PACKAGES", "RESTART", "CHANGED",
    ]);
    let or_dash = |text: Option<&String>| text.filter(|text| !text.is_empty()).map_or("-".to_owned(), Clone::clone);
    for device in &answer.devices {
        let head = &device.head;
        let mut row = vec![head.device.short(), head.name.clone(), head.site.clone(), super::status::seen_of(head)];
        if let Some(machine) = &device.machine {
            let made: Vec<&str> = [&machine.vendor, &machine.product]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .filter(|w| !w.is_empty())
                .collect();
            row.extend([or_dash(machine.os.as_ref()), or_dash(machine.kernel.as_ref())]);
            row.push(if made.is_empty() { "-".to_owned() } else { made.join(" ") });
            row.push(machine.memory_mib.map_or("-".to_owned(), |mib| units::size_words(mib << 20)));
            row.push(machine.packages.to_string());
            row.push(if machine.pending_restart { "pending" } else { "no" }.to_owned());
            row.push(age(Some(machine.changed_s), "-"));
        } else {
            row.extend(["not told yet", "-", "-", "-", "-", "-", "-"].map(str::to_owned));
        }
        table.row(row);
    }
    table
}

fn one(answer: &DeviceInventory, common: Common) -> Result<(), CliError> {
    let mut table = Table::new(&["KIND", "NAME", "VERSION", "ARCH", "PURL"]);
    for package in &answer.packages {
        let (name, version) = (package.name.clone(), package.version.clone());
        table.row([word(&package.kind), name, version, package.arch.clone(), package.purl.clone()]);
    }
    let mut facts = Table::new(&["FACT", "VALUE"]);
    for (name, value) in &answer.facts {
        facts.row([name.clone(), value.clone()]);
    }
    facts.row(["restart pending".to_owned(), if answer.pending_restart { "yes" } else { "no" }.to_owned()]);
    common.list(answer, &table, || {
        format!(
            "{}\n\n{}\n\n{} of site {}: {} packages, last changed {} ago, last heard of {} ago",
            table.text(),
            facts.text(),
            answer.head.name,
            answer.head.site,
            answer.packages.len(),
            age(Some(answer.changed_s), "?"),
            age(answer.head.last_seen_s, "?"),
        )
    })
}

fn with_package(answer: &PackageHolders, common: Common) -> Result<(), CliError> {
    let mut table = Table::new(&["ID", "DEVICE", "SITE", "SEEN", "KIND", "VERSION", "ARCH"]);
    for device in &answer.devices {
        let head = &device.head;
        table.row([
            head.device.short(),
            head.name.clone(),
            head.site.clone(),
            super::status::seen_of(head),
            word(&device.kind),
            device.version.clone(),
            device.arch.clone(),
        ]);
    }
    common.list(answer, &table, || holders_text(answer, &table))
}

fn holders_text(answer: &PackageHolders, table: &Table) -> String {
    let mut text = if table.is_empty() { String::new() } else { table.text() + "\n\n" };
    for version in &answer.versions {
        text.push_str(&format!("{} {}: {}\n", word(&version.kind), version.version, version.devices));
    }
    let who = if table.is_empty() { "not installed on any" } else { "installed" };
    text + &format!("{}: {who}, of {} machines that have told", answer.package, answer.told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::devices::DeviceHead;
    use crate::api::inventory::{InventoryLine, Machine};
    use upswarm_protocol::ids::DeviceId;

    #[test]
    fn tables_show_what_is_told_and_what_is_not() {
        let head = |name: &str, last_seen_s| DeviceHead {
            device: DeviceId([1; 32]),
            name: name.to_owned(),
            site: "berlin".to_owned(),
            last_seen_s,
            connected: false,
        };
        let machine = Machine {
            os: Some("Debian GNU/Linux 12".to_owned()),
            kernel: Some("6.1".to_owned()),
            vendor: Some("ACME".to_owned()),
            product: Some("T1".to_owned()),
            cpu: None,
            cores: None,
            memory_mib: Some(16000),
            packages: 3000,
            pending_restart: true,
            restart_reason: None,
            changed_s: 70,
        };
        let answer = Inventories {
            devices: vec![
                InventoryLine { head: head("pc1", Some(5)), told: true, machine: Some(machine) },
                InventoryLine { head: head("pc2", None), told: false, machine: None },
            ],
        };
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(serde_json::from_value::<Inventories>(json.clone()).unwrap(), answer);
        assert_eq!((&json["devices"][0]["memory_mib"], &json["devices"][0]["name"]), (&16000.into(), &"pc1".into()));
        let text = summary_table(&answer).text();
        for wanted in ["ACME T1  15.6 GiB  3000      pending", "pc2", "never", "not told yet"] {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
        let none = PackageHolders { package: "x".to_owned(), versions: Vec::new(), devices: Vec::new(), told: 2 };
        assert_eq!(holders_text(&none, &Table::new(&[])), "x: not installed on any, of 2 machines that have told");
    }
}
