//! `updates`: what machines miss of their repositories.

use std::collections::BTreeSet;

use upswarm_protocol::catalog::Severity;

use super::admin::AdminArgs;
use super::output::{Table, age, count};
use super::{CliError, Common, severity};
use crate::api::feeds::{Verdict, VerdictRow};
use crate::api::proposals::{UpdateRow, Updates, UpdatesQuery};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm updates
  upswarm updates --severity high --group office
  upswarm updates --cve CVE-2026-12345
  upswarm updates --source openssl
  upswarm updates --output csv

What is installed is compared with the newest snapshot of each repository (upswarm sync list). A snapshot of Debian or Ubuntu
counts for machines of that release only. Severities and CVEs are those of the feeds (upswarm sync feed list): of a CVE that a
machine has and the update mends. SEVERITY - means that nobody has said how bad it is, not that it is harmless.";

/// The most columns of a terminal that a table takes.
const COLUMNS: usize = 100;

/// Show what machines miss of their repositories, by source package, the worst first.
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
    /// Only what mends something at least so bad: low, medium, high, critical.
    #[arg(long, value_parser = severity::parse)]
    severity: Option<Severity>,
    /// Only what mends this CVE, and what feeds say of it for each version that machines have.
    #[arg(long, value_name = "CVE")]
    cve: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let query = UpdatesQuery {
        upstream: args.repository,
        group: args.group,
        source: args.source,
        severity: args.severity,
        cve: args.cve,
    };
    let updates = super::runtime()?.block_on(args.admin.client()?.updates(&query))?;
    common.list(&updates, &table(&updates), || text(&updates, &query))
}

/// Everything, for programs.
fn table(updates: &Updates) -> Table {
    let mut table = Table::new(&[
        "SOURCE",
        "FROM",
        "TO",
        "MACHINES",
        "SEVERITY",
        "CVES",
        "AGE_S",
        "REPOSITORY",
        "SNAPSHOT",
        "PACKAGES",
    ]);
    for row in &updates.updates {
        table.row([
            row.source.clone(),
            from(row),
            row.to.clone(),
            row.machines.to_string(),
            severity::shown(row.severity),
            if row.cves.is_empty() { "-".to_owned() } else { row.cves.join(",") },
            row.age_s.map_or_else(|| "-".to_owned(), |age| age.to_string()),
            row.upstream.clone(),
            row.snapshot.clone(),
            row.packages.join(","),
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

/// What fits a terminal, a table a repository; of one source package everything.
fn text(updates: &Updates, query: &UpdatesQuery) -> String {
    let mut parts = Vec::new();
    if query.source.is_some() {
        parts.extend(updates.updates.iter().map(details));
    } else {
        let of: BTreeSet<(&str, &str)> =
            updates.updates.iter().map(|row| (row.upstream.as_str(), row.snapshot.as_str())).collect();
        for (upstream, snapshot) in of {
            let rows: Vec<&UpdateRow> = updates.updates.iter().filter(|row| row.upstream == upstream).collect();
            parts.push(format!("{upstream} {snapshot}\n{}", glance(&rows).text_within(COLUMNS)));
        }
    }
    let machines = count(updates.machines, "machine", "machines");
    if let Some(cve) = &query.cve {
        parts.push(verdicts(cve, &updates.verdicts));
    }
    parts.push(match (parts.is_empty(), query.severity) {
        (true, None) => format!(
            "nothing is known to be missing on {machines} that told what is installed. Repositories count that are synced \
             (upswarm sync list), and machines that told which distribution they run (upswarm inventory)"
        ),
        (true, Some(least)) => {
            format!("nothing of severity {} or worse is known to be missing on {machines}", severity::shown(Some(least)))
        }
        (false, _) => machines,
    });
    if updates.unknown > 0 {
        let what = count(updates.unknown, "update", "updates");
        parts.push(format!("{what} of unknown severity not shown; see them without --severity"));
    }
    parts.extend(updates.warnings.iter().map(|warning| format!("WARNING: {warning}")));
    parts.join("\n\n")
}

/// For a glance: what is cut or left out stands in the details of a source, and in CSV and JSON.
fn glance(rows: &[&UpdateRow]) -> Table {
    let mut table = Table::new(&["SOURCE", "FROM", "TO", "MACHINES", "SEVERITY", "AGE", "CVES"]);
    for row in rows {
        let cves = match row.cves.as_slice() {
            [] => "-".to_owned(),
            [one] => one.clone(),
            several @ [first, ..] => format!("{}: {first}", several.len()),
        };
        table.row([
            row.source.clone(),
            from(row),
            row.to.clone(),
            row.machines.to_string(),
            severity::shown(row.severity),
            age(row.age_s, "-"),
            cves,
        ]);
    }
    table
}

/// Everything about a source package that was asked for.
fn details(row: &UpdateRow) -> String {
    let cves = if row.cves.is_empty() { "none known".to_owned() } else { row.cves.join(", ") };
    let mut lines = vec![
        format!("{}: {} to {}, from {} {}", row.source, from(row), row.to, row.upstream, row.snapshot),
        format!("severity: {}; CVEs: {cves}", severity::shown(row.severity)),
        format!("there for: {}", age(row.age_s, "-")),
        format!("packages: {}", row.packages.join(", ")),
        format!("missing on {}:", count(row.machines, "machine", "machines")),
    ];
    lines.extend(row.devices.iter().map(|device| format!("  {}  {}", device.device.short(), device.name)));
    lines.join("\n")
}

fn verdicts(cve: &str, rows: &[VerdictRow]) -> String {
    if rows.is_empty() {
        return format!("{cve}: no feed says anything of it for what is installed. That is unknown, not harmless");
    }
    let mut table = Table::new(&["SOURCE", "RELEASE", "VERSION", "MACHINES", "SEVERITY", "VERDICT"]);
    for row in rows {
        table.row([
            row.source.clone(),
            row.release.clone(),
            row.version.clone(),
            row.machines.to_string(),
            severity::shown(Some(row.severity)),
            words(&row.verdict),
        ]);
    }
    format!("{cve}, by what is installed:\n{}", table.text())
}

fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Fixed { r#in } => format!("fixed, since {in}"),
        Verdict::Vulnerable { fixed: Some(fixed) } => format!("vulnerable, fixed in {fixed}"),
        Verdict::Vulnerable { fixed: None } => "vulnerable, no fix yet".to_owned(),
        Verdict::NotAffected => "not affected".to_owned(),
        Verdict::Unimportant => "unimportant".to_owned(),
        Verdict::EndOfLife => "no longer looked after".to_owned(),
        Verdict::Undetermined => "undetermined".to_owned(),
        Verdict::Unknown => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr as _;

    use super::*;

    fn row(source: &str, from: &str, to: &str, cves: usize) -> UpdateRow {
        UpdateRow {
            upstream: "debian".into(),
            snapshot: "20261101T000000Z".into(),
            source: source.into(),
            from: vec![from.into(), format!("{from}1")],
            to: to.into(),
            packages: vec![source.into()],
            machines: 1234,
            severity: Some(Severity::Critical),
            cves: (0..cves).map(|at| format!("CVE-2026-{:05}", 10_000 + at)).collect(),
            age_s: Some(86_400 * 200),
            devices: Vec::new(),
        }
    }

    #[test]
    fn a_table_fits_a_terminal_whatever_is_in_it_and_the_csv_has_it_all() {
        let long = "a".repeat(60);
        let rows = [row(&long, "1:2.0~rc1+dfsg-1+deb12u10", "1:2.0~rc1+dfsg-1+deb12u11", 120), row("b", "1", "2", 0)];
        let updates = Updates {
            machines: 1234,
            updates: rows.to_vec(),
            unknown: 3,
            verdicts: Vec::new(),
            warnings: vec!["old".into()],
        };
        let shown = text(&updates, &UpdatesQuery { severity: Some(Severity::Low), ..UpdatesQuery::default() });
        assert!(shown.lines().all(|line| line.width() <= COLUMNS), "{shown}");
        for part in
            ["120: CVE-2026-1", "critical", "200 d", "3 updates of unknown severity", "WARNING: old", "a\u{2026}"]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let whole = text(&updates, &UpdatesQuery { source: Some(long.clone()), ..UpdatesQuery::default() });
        for part in [&*long, "1:2.0~rc1+dfsg-1+deb12u10 .. ", "CVE-2026-10119", "there for: 200 d", "missing on 1234"] {
            assert!(whole.contains(part), "{part}: {whole}");
        }
        let csv = table(&updates).csv().unwrap();
        assert!(csv.contains(&long) && csv.contains("CVE-2026-10119"), "{csv}");
    }

    #[test]
    fn what_nobody_says_is_no_good_news() {
        let query = UpdatesQuery { cve: Some("CVE-2026-1".into()), ..UpdatesQuery::default() };
        let none = Updates { machines: 1, updates: vec![], unknown: 0, verdicts: vec![], warnings: vec![] };
        assert!(text(&none, &query).contains("unknown, not harmless"));
    }
}
