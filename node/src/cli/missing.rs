//! `missing`: releases that machines need and do not have.

use super::admin::AdminArgs;
use super::output::{Table, count, word};
use super::{CliError, Common};
use crate::api::missing::{Missing, MissingQuery};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm missing
  upswarm missing --device pc7
  upswarm missing --release editor@2.1
  upswarm missing --all --output csv

Every machine judges every published release, approved or not. NOT TOLD counts machines that have not looked at it yet. Rules
that run a command are judged only where the release is approved; elsewhere they are UNKNOWN. DECLINED counts machines that would
need a release which is declined, or to be removed, for every group of theirs that decides.";

/// Show releases that machines need and do not have, the most severe first.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// Only what this machine is missing: its label, or its key or at least eight first digits of it.
    #[arg(long)]
    device: Option<String>,
    /// How each machine stands with this release.
    #[arg(long)]
    release: Option<String>,
    /// Show releases that nobody is missing too.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let query = MissingQuery { device: args.device, release: args.release, all: args.all };
    let missing = super::runtime()?.block_on(args.admin.client()?.missing(&query))?;
    let (releases, devices) = (releases(&missing), devices(&missing));
    let table = if query.release.is_some() { &devices } else { &releases };
    common.list(&missing, table, || text(&missing, &releases, &devices))
}

fn releases(missing: &Missing) -> Table {
    let mut table = Table::new(&[
        "RELEASE",
        "PRODUCT",
        "VERSION",
        "SEVERITY",
        "APPROVED FOR",
        "REQUIRED",
        "INSTALLED",
        "NOT APPLICABLE",
        "UNKNOWN",
        "NOT TOLD",
        "DECLINED",
    ]);
    for release in &missing.releases {
        let groups = if release.approved.is_empty() { "-".to_owned() } else { release.approved.join(",") };
        let (product, version) = (release.product.clone(), release.version.clone());
        let counts = [
            release.required,
            release.installed,
            release.not_applicable,
            release.unknown,
            release.not_told,
            release.declined,
        ];
        let first = [release.release.short(), product, version, word(&release.severity), groups];
        table.row(first.into_iter().chain(counts.map(|count| count.to_string())));
    }
    table
}

fn devices(missing: &Missing) -> Table {
    let mut table = Table::new(&["ID", "DEVICE", "SITE", "SEEN", "STATE"]);
    for device in missing.releases.iter().flat_map(|release| &release.devices) {
        let head = &device.head;
        let seen = super::status::seen_of(head);
        table.row([head.device.short(), head.name.clone(), head.site.clone(), seen, device.state.word().to_owned()]);
    }
    table
}

fn text(missing: &Missing, releases: &Table, devices: &Table) -> String {
    let machines = count(missing.devices, "machine", "machines");
    if releases.is_empty() {
        return format!("nothing is missing on {machines}, by what they have told; see: upswarm missing --all");
    }
    let devices = if devices.is_empty() { String::new() } else { format!("\n\n{}", devices.text()) };
    format!("{}{devices}\n\n{machines}", releases.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::missing::MissingRelease;
    use upswarm_protocol::catalog::{Classification, Severity};
    use upswarm_protocol::ids::ReleaseId;

    #[test]
    fn the_table_counts_machines_and_names_groups() {
        let release = MissingRelease {
            release: ReleaseId([0xab; 32]),
            product: "org.example.tool".to_owned(),
            version: "2".to_owned(),
            title: String::new(),
            classification: Classification::Update,
            severity: Severity::Critical,
            approved: vec!["office".to_owned(), "lab".to_owned()],
            unwanted_in: Vec::new(),
            required: 2,
            installed: 1,
            not_applicable: 0,
            unknown: 0,
            not_told: 1,
            declined: 0,
            devices: Vec::new(),
        };
        let missing = Missing { devices: 4, releases: vec![release] };
        let shown = text(&missing, &releases(&missing), &devices(&missing));
        for wanted in ["abababab  org.example.tool  2        critical  office,lab", "4 machines"] {
            assert!(shown.contains(wanted), "{wanted} is missing in\n{shown}");
        }
        let none = Missing { devices: 1, releases: Vec::new() };
        let shown = text(&none, &releases(&none), &devices(&none));
        assert!(shown.starts_with("nothing is missing on 1 machine,"));
    }
}
