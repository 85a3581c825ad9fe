use std::path::PathBuf;

use serde_json::Value;

use super::{CliError, Common};
use crate::coordinator::client::Client;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm status --data-dir /var/lib/upswarm-coordinator
  upswarm status --data-dir /var/lib/upswarm-coordinator --json";

/// Show every device with its deployments: state, reason, age, progress, bytes by source.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The coordinator's data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let client = Client::of(&args.data_dir)?;
    let status = super::runtime()?.block_on(client.status())?;
    common.print(&status, &text(&status));
    Ok(())
}

/// The status as one table: a line per deployment, and one for a device without any.
fn text(status: &Value) -> String {
    let mut rows = vec![
        [
            "DEVICE", "SITE", "ROLE", "GROUPS", "SEEN", "MISSING", "RESTART", "RELEASE", "STATE", "AGE", "DONE",
            "ORIGIN", "CACHE", "LAN", "REUSE",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut notes = Vec::new();
    for device in list(&status["devices"]) {
        let name = Some(word(&device["label"])).filter(|label| !label.is_empty());
        let name = name.unwrap_or_else(|| word(&device["device"]).chars().take(8).collect());
        let groups: Vec<String> = list(&device["groups"]).iter().map(word).collect();
        let seen = if device["revoked"] == true { "revoked".to_owned() } else { age(&device["last_seen_s"], "never") };
        let missing = device["scan"]["required"].as_u64().map_or_else(|| "-".to_owned(), |count| count.to_string());
        let restart = match device["pending_restart"].as_bool() {
            Some(true) => "pending",
            Some(false) => "no",
            None => "-",
        };
        let of_device = [
            name.clone(),
            word(&device["site"]),
            word(&device["role"]),
            groups.join(","),
            seen,
            missing,
            restart.to_owned(),
        ];
        let sources = ["origin", "cache", "lan_peer", "local_reuse"].map(|source| bytes(&device["bytes"][source]));
        let none = Value::Null;
        let deployments = list(&device["deployments"]);
        let deployments = if deployments.is_empty() { std::slice::from_ref(&none) } else { deployments };
        for deployment in deployments {
            rows.push([&of_device[..], &about(deployment), &sources].concat());
            let reason = word(&deployment["reason"]);
            if !reason.is_empty() {
                notes.push(format!("{name}: {} {}: {reason}", word(&deployment["title"]), word(&deployment["state"])));
            }
        }
        notes.extend(list(&device["alarms"]).iter().map(|alarm| format!("{name}: ALARM: {}", word(alarm))));
    }
    notes.extend(list(&status["alarms"]).iter().map(|alarm| format!("coordinator: ALARM: {}", word(alarm))));
    for hold in list(&status["holds"]) {
        notes.push(format!("on hold: {}", super::hold::words(hold)));
    }
    let head = &status["head"];
    let first = format!(
        "index {}, head signed {} ago, origin has served {} of payloads, {} connected",
        head["index_version"],
        age(&head["age_s"], "?"),
        bytes(&status["origin"]["payload_bytes"]),
        status["connected"],
    );
    let mut text = format!("{first}\n\n{}", table(&rows));
    let rollouts = rollouts(list(&status["rollouts"]));
    if rollouts.len() > 1 {
        text.push('\n');
        text.push_str(&table(&rollouts));
    }
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes.join("\n"));
    }
    text.trim_end().to_owned()
}

/// A line per ring, with the head of the table.
fn rollouts(rollouts: &[Value]) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["ROLLOUT", "GROUP", "RING", "UP TO", "BEGINS", "DEVICES", "BEGUN", "INSTALLED", "FAILED", "SILENT", "STOPS"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for rollout in rollouts {
        let title = Some(word(&rollout["title"])).filter(|title| !title.is_empty());
        let title = title.map_or_else(
            || word(&rollout["release"]).chars().take(8).collect(),
            |title| format!("{title} ({})", word(&rollout["version"])),
        );
        let stops = match (rollout["held"] == true, rollout["stop_above_percent"].as_f64().unwrap_or(0.0)) {
            (true, _) => "on hold".to_owned(),
            (false, 0.0) => "never".to_owned(),
            (false, share) => format!("above {share} %"),
        };
        for ring in list(&rollout["rings"]) {
            let number = |key: &str| ring[key].as_u64().unwrap_or(0).to_string();
            let begins = if ring["has_begun"] == true { "begun".to_owned() } else { word(&ring["begins"]) };
            let up_to = format!("{} %", ring["up_to_percent"].as_f64().unwrap_or(0.0));
            let mut row = vec![title.clone(), word(&rollout["group"]), number("ring"), up_to, begins];
            row.extend(["devices", "begun", "installed", "failed", "silent"].map(number));
            row.push(stops.clone());
            rows.push(row);
        }
    }
    rows
}

fn about(deployment: &Value) -> [String; 4] {
    if deployment.is_null() {
        return ["-", "-", "-", "-"].map(str::to_owned);
    }
    let title = Some(word(&deployment["title"])).filter(|title| !title.is_empty());
    let release = title.map_or_else(
        || word(&deployment["release"]).chars().take(8).collect(),
        |title| format!("{title} ({})", word(&deployment["version"])),
    );
    let mut state = word(&deployment["state"]);
    if deployment["sub_state"] != "None" {
        state = format!("{state} ({})", word(&deployment["sub_state"]));
    }
    if let Some(code) = deployment["code"].as_i64() {
        state = format!("{state} code {code}");
    }
    let (done, total) = (deployment["done"].as_u64().unwrap_or(0), deployment["total"].as_u64().unwrap_or(0));
    let percent = (u128::from(done) * 100).checked_div(u128::from(total)).map_or("-".to_owned(), |p| format!("{p} %"));
    [release, state, age(&deployment["since_s"], "-"), percent]
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(super) fn age(value: &Value, unknown: &str) -> String {
    match value.as_u64() {
        None => unknown.to_owned(),
        Some(s @ 0..120) => format!("{s} s"),
        Some(s @ 120..7200) => format!("{} min", s / 60),
        Some(s @ 7200..172_800) => format!("{} h", s / 3600),
        Some(s) => format!("{} d", s / 86400),
    }
}

fn bytes(value: &Value) -> String {
    indicatif::HumanBytes(value.as_u64().unwrap_or(0)).to_string()
}

/// Rows of equal length as text, column under column.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_silent_devices_and_reasons() {
        let status = serde_json::json!({
            "head": { "index_version": 4, "age_s": 9 }, "connected": 1, "origin": { "payload_bytes": 1048576 },
            "holds": [{}, { "group": "office", "release": "ef01" }],
            "rollouts": [{ "title": "Editor", "version": "2.1", "group": "office", "held": true, "stop_above_percent": 5.0,
              "rings": [{ "ring": 1, "up_to_percent": 0.5, "begins": "2027-01-15T08:00:00Z", "has_begun": true,
                          "devices": 12, "begun": 11, "installed": 8, "failed": 2, "silent": 1 }] }],
            "devices": [
                { "device": "ab".repeat(32), "label": "", "site": "berlin", "role": "node", "groups": ["office"],
                  "last_seen_s": null, "bytes": {}, "deployments": [], "alarms": [] },
                { "device": "cd".repeat(32), "label": "pc7", "site": "berlin", "role": "node", "groups": ["office"],
                  "last_seen_s": 200, "scan": { "required": 17 }, "pending_restart": true, "bytes": { "origin": 1024 }, "alarms": ["a tampered document"],
                  "deployments": [{ "release": "ef", "title": "Editor", "version": "2.1", "state": "Failed", "sub_state": "None",
                    "code": 3, "reason": "disk on fire", "since_s": 5, "done": 1, "total": 2 },
                    { "release": "0a", "title": "Editor", "version": "2.0", "state": "Superseded", "sub_state": "None",
                    "code": null, "reason": "Editor (2.1) takes its place", "since_s": 5, "done": 0, "total": 2 }] },
            ],
        });
        let text = text(&status);
        for wanted in [
            "abababab  berlin",
            "never",
            "pc7",
            "3 min  17       pending",
            "Editor (2.1)",
            "Failed code 3",
            "50 %",
            "1.00 KiB",
            "disk on fire",
            "Superseded",
            "Editor (2.1) takes its place",
            "ALARM: a tampered document",
            "on hold: everything",
            "on hold: --group office --release ef01",
            "0.5 %  begun   12       11     8          2       1       on hold",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
    }
}
