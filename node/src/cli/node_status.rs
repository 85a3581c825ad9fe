//! `upswarm node status`: a few lines about the node on this machine.

use std::path::PathBuf;

use serde_json::Value;

use super::top::view::{count, deployment_rows, list, name_of, percent, text};
use super::{CliError, Common};
use crate::local_api::{Client, Request};
use crate::units::size_words;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  upswarm node status --data-dir /var/lib/upswarm")]
pub(crate) struct Args {
    /// The data directory of the node that runs on this machine.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

pub(crate) fn run(args: &Args, common: Common) -> Result<(), CliError> {
    let status = Client::connect(&args.data_dir)?.ask(&Request::Status {})?;
    common.print(&status, &short(&status));
    Ok(())
}

fn short(status: &Value) -> String {
    let mut lines = vec![
        format!(
            "{} (device {}) is running",
            name_of(status),
            &text(&status["device"])[..8.min(text(&status["device"]).len())]
        ),
        format!(
            "site: {} machines here, {} connected; coordinator: {}; catalog: index version {}",
            status["members"],
            list(&status["peers"]).iter().filter(|peer| peer["kind"] != "coordinator").count(),
            if status["coordinator"] == true { "connected" } else { "not connected" },
            status["index_version"]
        ),
        format!(
            "payload bytes: {} origin, {} cache, {} other machines, {} already here",
            size_words(count(&status["bytes"]["origin"])),
            size_words(count(&status["bytes"]["cache"])),
            size_words(count(&status["bytes"]["lan_peer"])),
            size_words(count(&status["bytes"]["local_reuse"]))
        ),
    ];
    let root = status["install_root"].as_str();
    lines.extend(
        root.map(|root| format!("installs below {root}, not on this machine itself: install_root in node.toml")),
    );
    lines.extend(machine(status));
    for payload in list(&status["downloads"]).iter().filter(|d| d["wanted"] == true && d["done"] != d["total"]) {
        lines.push(format!(
            "fetching {}: {}",
            text(&payload["name"]),
            percent(count(&payload["done"]), count(&payload["total"]))
        ));
    }
    lines.extend(deployment_rows(status).into_iter().map(|[release, state, age, done, reason]| {
        let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
        format!("{release}: {state} for {age}, {done}{reason}")
    }));
    let restart = status["restart"]["reason"].as_str().map(|reason| format!("restart: {reason}"));
    let system = status["system_restart"].as_str();
    lines.extend(restart.or_else(|| Some(format!("restart: the operating system waits for one, {}", system?))));
    let disk = &status["disk"];
    lines.extend(disk["trouble"].as_str().map(|trouble| format!("disk: {trouble}")));
    if count(&disk["scrubbed"]) > 0 {
        let rotten = count(&disk["rotten"]);
        let found = if rotten == 0 { "nothing has rotted".to_owned() } else { format!("{rotten} chunks had rotted") };
        lines.push(format!("disk: {} of payloads read again, {found}", size_words(count(&disk["scrubbed"]))));
    }
    lines.extend(list(&status["alarms"]).iter().map(|alarm| format!("ALARM: {}", text(alarm))));
    lines.join("\n")
}

/// What the machine runs on, where that holds something back.
fn machine(status: &Value) -> Option<String> {
    let conditions = &status["conditions"];
    let power = conditions["power"]["battery"]["percent"].as_u64();
    let power = power.map_or("mains power".to_owned(), |percent| format!("battery ({percent} % left)"));
    let link = match (conditions["metered"] == true, conditions["wireless"] == true) {
        (true, _) => "metered link",
        (false, true) => "wireless link",
        (false, false) => "wired link",
    };
    let plain = power == "mains power" && link == "wired link";
    (!plain).then(|| format!("machine: {power}, {link}; WAN weight {}", status["wan_weight"]))
}
