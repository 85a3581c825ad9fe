//! `updates`: what machines miss of their repositories.

use super::admin::AdminArgs;
use super::output::{Table, count, word};
use super::{CliError, Common};
use crate::api::proposals::{Updates, UpdatesQuery};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm updates
  upswarm updates --group office --repository debian-security
  upswarm updates --source openssl
  upswarm updates --output csv

What is installed is compared with the newest snapshot of each repository (upswarm sync list). A snapshot of Debian or Ubuntu
counts for machines of that release only. SEVERITY - means that no advisory is known here, not that there is none.";

/// Show what machines miss of their repositories, by source package, what most of them miss first.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// Only of this repository.
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Only machines of this group.
    #[arg(long)]
    group: Option<String>,
    /// Only this source package, with the machines that miss it.
    #[arg(long)]
    source: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let query = UpdatesQuery { upstream: args.repository, group: args.group, source: args.source };
    let updates = super::runtime()?.block_on(args.admin.client()?.updates(&query))?;
    let table = table(&updates);
    common.list(&updates, &table, || text(&updates, &table))
}

fn table(updates: &Updates) -> Table {
    let mut table =
        Table::new(&["SOURCE", "FROM", "TO", "MACHINES", "SEVERITY", "CVES", "REPOSITORY", "SNAPSHOT", "PACKAGES"]);
    for row in &updates.updates {
        let from = match row.from.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            [first, .., last] => format!("{first} .. {last}"),
        };
        table.row([
            row.source.clone(),
            from,
            row.to.clone(),
            row.machines.to_string(),
            row.severity.as_ref().map_or_else(|| "-".to_owned(), word),
            if row.cves.is_empty() { "-".to_owned() } else { row.cves.join(",") },
            row.upstream.clone(),
            row.snapshot.clone(),
            row.packages.join(","),
        ]);
    }
    table
}

fn text(updates: &Updates, table: &Table) -> String {
    let machines = count(updates.machines, "machine", "machines");
    if table.is_empty() {
        return format!(
            "nothing is known to be missing on {machines} that told what is installed. Repositories count that are synced \
             (upswarm sync list), and machines that told which distribution they run (upswarm inventory)"
        );
    }
    let devices = updates.updates.iter().flat_map(|row| &row.devices);
    let devices: Vec<String> = devices.map(|device| format!("{}  {}", device.device.short(), device.name)).collect();
    let devices = if devices.is_empty() { String::new() } else { format!("\n\n{}", devices.join("\n")) };
    format!("{}{devices}\n\n{machines}", table.text())
}
