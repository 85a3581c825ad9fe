use std::path::PathBuf;

use serde_json::Value;

use super::group::{find_device, id_of};
use super::status::{list, table, word};
use super::{CliError, Common};
use crate::coordinator::client::Client;
use crate::coordinator::inventories::MissingQuery;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm missing --data-dir /var/lib/upswarm-coordinator
  upswarm missing --device pc7 --data-dir D
  upswarm missing --all --data-dir D --json

Every machine judges every published release, approved or not. NOT TOLD counts machines that have not looked at it yet. Rules
that run a command are judged only where the release is approved; elsewhere they are UNKNOWN.";

/// Show releases that machines need and do not have, the most severe first.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// Only what this machine is missing: its label, or its key or at least eight first digits of it.
    #[arg(long)]
    device: Option<String>,
    /// Show releases that nobody is missing too.
    #[arg(long)]
    all: bool,
    /// The coordinator's data directory; the coordinator must be running.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let client = Client::of(&args.data_dir)?;
    let runtime = super::runtime()?;
    let device = match &args.device {
        Some(name) => Some(id_of(find_device(&runtime.block_on(client.status())?, name)?)?),
        None => None,
    };
    let mut answer = runtime.block_on(client.missing(&MissingQuery { device, release: None }))?;
    if !args.all
        && let Some(releases) = answer["releases"].as_array_mut()
    {
        releases.retain(|release| release["required"].as_u64() > Some(0));
    }
    common.print(&answer, &text(&answer));
    Ok(())
}

fn text(answer: &Value) -> String {
    let head = [
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
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for release in list(&answer["releases"]) {
        let groups: Vec<String> = list(&release["approved"]).iter().map(word).collect();
        let groups = if groups.is_empty() { "-".to_owned() } else { groups.join(",") };
        let id: String = word(&release["release"]).chars().take(8).collect();
        let [product, version, severity] = ["product", "version", "severity"].map(|field| word(&release[field]));
        let mut row = vec![id, product, version, severity, groups];
        let count = |field: &str| release[field].to_string();
        row.extend(["required", "installed", "not_applicable", "unknown", "not_told"].map(count));
        rows.push(row);
    }
    let devices = answer["devices"].as_u64().unwrap_or(0);
    let machines = if devices == 1 { "1 machine".to_owned() } else { format!("{devices} machines") };
    if rows.len() == 1 {
        return format!("nothing is missing on {machines}, by what they have told; see: upswarm missing --all");
    }
    format!("{}\n{machines}", table(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_counts_machines_and_names_groups() {
        let answer = serde_json::json!({ "devices": 4, "releases": [
            { "release": "ab".repeat(32), "product": "org.example.tool", "version": "2", "severity": "critical",
              "approved": ["office", "lab"], "required": 2, "installed": 1, "not_applicable": 0, "unknown": 0, "not_told": 1 },
        ]});
        let text = text(&answer);
        for wanted in ["abababab  org.example.tool  2        critical  office,lab", "4 machines"] {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
        let none = serde_json::json!({ "devices": 1, "releases": [] });
        assert!(super::text(&none).starts_with("nothing is missing on 1 machine,"));
    }
}
