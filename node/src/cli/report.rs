//! `report`: what was so over time.

use super::admin::AdminArgs;
use super::output::Table;
use super::{CliError, Common, severity};
use crate::api::report_lines::near;
use crate::api::reports::{Approvals, Basis, Compliance, ReportQuery, RolloutTimes, Savings, Vulnerable};
use crate::units::size_words as bytes;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm report compliance --since 30d
  upswarm report compliance --group office --output csv
  upswarm report rollout --since 2026-11-01
  upswarm report vulnerable --group office
  upswarm report savings --since 7d
  upswarm report approvals --since 90d --output json

Days are those of UTC. What a device has not told is unknown, which is never counted as done. Compliance counts each device once for
each release that was approved for its group on that day.";

/// Show what was so over time.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// How much of what was approved was done, by group and day.
    Compliance(Of),
    /// How long each rollout took until 50, 90 and 99 % of its devices were done, to the minute.
    Rollout {
        /// Only this release: product@version, title, or the first digits of its hash.
        #[arg(long)]
        release: Option<String>,
        #[command(flatten)]
        of: Of,
    },
    /// Devices that are vulnerable now, by CVE.
    Vulnerable {
        /// Only this group.
        #[arg(long)]
        group: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Payload bytes by day, and which of them did not cross the WAN.
    Savings(Of),
    /// Who approved what, and when.
    Approvals {
        /// Only this release: product@version, title, or the first digits of its hash.
        #[arg(long)]
        release: Option<String>,
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, clap::Args)]
struct Of {
    /// Only this group.
    #[arg(long)]
    group: Option<String>,
    /// From this day on, for example 2026-11-01, or as long ago as 30d; without it, 90 days.
    #[arg(long, value_name = "DAY")]
    since: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

impl Of {
    fn ask<T: serde::de::DeserializeOwned>(self, name: &str, release: Option<String>) -> Result<T, CliError> {
        let query = ReportQuery { group: self.group, release, since: self.since };
        super::runtime()?.block_on(self.admin.client()?.report(name, &query))
    }
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Compliance(of) => compliance(&of.ask("compliance", None)?, common),
        Verb::Rollout { release, of } => rollout(&of.ask("rollout", release)?, common),
        Verb::Vulnerable { group, admin } => {
            let query = ReportQuery { group, ..ReportQuery::default() };
            vulnerable(&super::runtime()?.block_on(admin.client()?.report("vulnerable", &query))?, common)
        }
        Verb::Savings(of) => savings(&of.ask("savings", None)?, common),
        Verb::Approvals { release, of } => approvals(&of.ask("approvals", release)?, common),
    }
}

fn compliance(report: &Compliance, common: Common) -> Result<(), CliError> {
    let mut table = Table::new(&[
        "DAY",
        "GROUP",
        "DEVICES",
        "APPROVALS",
        "EXPECTED",
        "DONE",
        "PENDING",
        "FAILED",
        "UNKNOWN",
        "DONE_PERCENT",
    ]);
    report.days.iter().for_each(|line| table.row(line.cells()));
    common.list(report, &table, || with_basis(&table, &report.basis, "no device was a member of a group in these days"))
}

fn rollout(report: &RolloutTimes, common: Common) -> Result<(), CliError> {
    let mut table = Table::new(&[
        "RELEASE",
        "GROUP",
        "ACTION",
        "BEGUN",
        "ENDED",
        "EXPECTED",
        "DONE",
        "PENDING",
        "FAILED",
        "UNKNOWN",
        "DONE_PERCENT",
        "TO_50",
        "TO_90",
        "TO_99",
    ]);
    report.rollouts.iter().for_each(|line| table.row(line.cells()));
    common.list(report, &table, || with_basis(&table, &report.basis, "nothing was approved in this time"))
}

fn vulnerable(report: &Vulnerable, common: Common) -> Result<(), CliError> {
    report.warnings.iter().for_each(|warning| eprintln!("WARNING: {warning}"));
    let mut table = Table::new(&["CVE", "SEVERITY", "DEVICES", "MENDABLE", "UNDETERMINED", "SOURCES"]);
    for line in &report.cves {
        table.row([
            line.cve.clone(),
            severity::shown(Some(line.severity)),
            line.devices.to_string(),
            line.mendable.to_string(),
            line.undetermined.to_string(),
            line.sources.join(","),
        ]);
    }
    common.list(report, &table, || {
        let lines = with_basis(&table, &report.basis, "no feed says that a device has a CVE");
        format!("{lines}\n{}", report.lacking())
    })
}

fn savings(report: &Savings, common: Common) -> Result<(), CliError> {
    let mut table =
        Table::new(&["DAY", "WAN_BYTES", "CACHE_BYTES", "NEIGHBOUR_BYTES", "REUSED_BYTES", "NOT_WAN_BYTES"]);
    for line in &report.days {
        let bytes = &line.bytes;
        let numbers = [bytes.origin, bytes.cache, bytes.lan_peer, bytes.local_reuse, near(bytes)];
        table.row(std::iter::once(line.day.clone()).chain(numbers.map(|number| number.to_string())));
    }
    common.list(report, &table, || {
        let total = &report.total;
        let sum = format!("{} of {} did not cross the WAN", bytes(near(total)), bytes(total.total()));
        format!("{}\n{sum}", with_basis(&table, &report.basis, "no device has reported payload bytes in these days"))
    })
}

fn approvals(report: &Approvals, common: Common) -> Result<(), CliError> {
    let mut table = Table::new(&["TAKEN", "ENDED", "RELEASE", "GROUP", "ACTION", "VERSION", "SIGNED_BY", "NOTE"]);
    report.approvals.iter().for_each(|line| table.row(line.cells()));
    common.list(report, &table, || {
        if table.is_empty() { "no approval was in force in this time".to_owned() } else { table.text() }
    })
}

/// A table, and on what it rests.
fn with_basis(table: &Table, basis: &Basis, empty: &str) -> String {
    let rows = if table.is_empty() { empty.to_owned() } else { table.text() };
    format!("{rows}\n{}", basis.words().join(", "))
}
