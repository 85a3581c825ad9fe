//! `updates`: what machines miss of their repositories.

use super::admin::AdminArgs;
use super::output::{Table, count, word};
use super::{CliError, Common};
use crate::api::proposals::{UpdateRow, Updates, UpdatesQuery};

/// Columns of the list.
const WIDTH: usize = 100;

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
    common.list(&updates, &table, || text(&updates, query.source.is_some()))
}

/// For a glance: what is cut or left out stands in the details of a source, and in CSV and JSON.
fn glance(updates: &Updates) -> Table {
    let mut table = Table::new(&["SOURCE", "FROM", "TO", "MACHINES", "SEVERITY", "CVES", "REPOSITORY"]);
    for row in &updates.updates {
        let cves = if row.cves.is_empty() { "-".to_owned() } else { row.cves.len().to_string() };
        table.row([
            row.source.clone(),
            from(row),
            row.to.clone(),
            row.machines.to_string(),
            severity(row),
            cves,
            row.upstream.clone(),
        ]);
    }
    table
}

fn from(row: &UpdateRow) -> String {
    match row.from.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first, .., last] => format!("{first} .. {last}"),
    }
}

fn severity(row: &UpdateRow) -> String {
    row.severity.as_ref().map_or_else(|| "-".to_owned(), word)
}

/// Everything about a source package that was asked for.
fn details(row: &UpdateRow) -> String {
    let cves = if row.cves.is_empty() { "none known".to_owned() } else { row.cves.join(", ") };
    let mut lines = vec![
        format!("{}: {} to {}, from {} {}", row.source, from(row), row.to, row.upstream, row.snapshot),
        format!("severity: {}; CVEs: {cves}", severity(row)),
        format!("packages: {}", row.packages.join(", ")),
        format!("missing on {}:", count(row.machines, "machine", "machines")),
    ];
    lines.extend(row.devices.iter().map(|device| format!("  {}  {}", device.device.short(), device.name)));
    lines.join("\n")
}

fn table(updates: &Updates) -> Table {
    let mut table =
        Table::new(&["SOURCE", "FROM", "TO", "MACHINES", "SEVERITY", "CVES", "REPOSITORY", "SNAPSHOT", "PACKAGES"]);
    for row in &updates.updates {
        table.row([
            row.source.clone(),
            from(row),
            row.to.clone(),
            row.machines.to_string(),
            severity(row),
            if row.cves.is_empty() { "-".to_owned() } else { row.cves.join(",") },
            row.upstream.clone(),
            row.snapshot.clone(),
            row.packages.join(","),
        ]);
    }
    table
}

fn text(updates: &Updates, whole: bool) -> String {
    let machines = count(updates.machines, "machine", "machines");
    if updates.updates.is_empty() {
        return format!(
            "nothing is known to be missing on {machines} that told what is installed. Repositories count that are synced \
             (upswarm sync list), and machines that told which distribution they run (upswarm inventory)"
        );
    }
    if whole {
        let each: Vec<String> = updates.updates.iter().map(details).collect();
        return each.join("\n\n");
    }
    format!("{}\n\n{machines}", glance(updates).text_within(WIDTH))
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr as _;

    use super::*;

    #[test]
    fn the_list_fits_a_hundred_columns_and_the_details_are_whole() {
        let row = UpdateRow {
            upstream: "debian-bookworm-security".to_owned(),
            snapshot: "20261130T000000Z".to_owned(),
            source: "linux-signed-amd64-with-a-long-name".to_owned(),
            from: ["6.1.85-1+deb12u1", "6.1.90-1+deb12u1"].map(str::to_owned).to_vec(),
            to: "6.1.99-1+deb12u1".to_owned(),
            packages: ["linux-image-amd64", "linux-headers-amd64"].map(str::to_owned).to_vec(),
            machines: 1234,
            severity: None,
            cves: ["CVE-2026-10001", "CVE-2026-10002", "CVE-2026-10003"].map(str::to_owned).to_vec(),
            devices: Vec::new(),
        };
        let updates = Updates { machines: 2000, updates: vec![row] };
        let shown = text(&updates, false);
        assert!(shown.lines().all(|line| line.width() <= WIDTH), "{shown}");
        assert!(shown.contains("1234      -         3     debian"), "{shown}");
        let shown = text(&updates, true);
        for wanted in
            ["6.1.85-1+deb12u1 .. 6.1.90-1+deb12u1 to 6.1.99-1+deb12u1", "CVE-2026-10003", "linux-headers-amd64"]
        {
            assert!(shown.contains(wanted), "{wanted}: {shown}");
        }
        assert!(table(&updates).csv().unwrap().contains("20261130T000000Z"));
    }
}
