//! A preview in words: one line, or ring by ring. Renders what the use-case found; never computes.

use upswarm_protocol::catalog::Action;

use super::output::count;
use crate::api::approvals::{Preview, PreviewDevice};

/// Devices that a ring's line names; the rest is a number. `--json` has them all.
const NAMED: usize = 8;

/// One line: how many, who has it, when it begins.
pub(super) fn short(preview: &Preview) -> String {
    let mut line = who(preview);
    if preview.action != Action::None {
        for ring in preview.rings.iter().filter(|_| preview.rings.len() > 1) {
            line.push_str(&format!("; ring {}: {} from {}", ring.ring, devices(ring.devices.len()), ring.begins));
        }
        if let Some(first) = preview.rings.iter().filter_map(|ring| ring.earliest.as_ref()).min() {
            line.push_str(&format!("; the first may begin at {first}"));
        }
    }
    line
}

/// Everything, ring by ring.
pub(super) fn text(preview: &Preview) -> String {
    let mut lines = vec![who(preview)];
    if preview.action == Action::None {
        lines.push("declined: nothing is done on any of them".to_owned());
        return lines.join("\n");
    }
    lines.push(match preview.devices - preview.zones {
        0 => "each machine's windows and active hours are read in its own time zone; times are shown in UTC".to_owned(),
        unknown => format!(
            "windows and active hours are read in each machine's own time zone, of {unknown} that have told none in {}; times \
             are shown in UTC",
            preview.zone
        ),
    });
    if preview.stop_above_percent > 0.0 {
        lines.push(format!("stops by itself when more than {} % fail or fall silent", preview.stop_above_percent));
    }
    for ring in &preview.rings {
        let when = match (&ring.earliest, &ring.latest) {
            (Some(from), Some(to)) if from == to => format!("begin {from}"),
            (Some(from), Some(to)) => format!("begin {from} to {to}"),
            _ if ring.devices.is_empty() => format!("begins {}", ring.begins),
            _ => "no device could begin before the approval expires".to_owned(),
        };
        lines.push(format!(
            "ring {} (up to {} %): {}, {when}{}",
            ring.ring,
            ring.up_to_percent,
            devices(ring.devices.len()),
            names(&ring.devices)
        ));
        let never = ring.devices.iter().filter(|device| device.earliest.is_none()).count();
        if never > 0 && ring.earliest.is_some() {
            lines.push(format!("  {never} of them could not begin before the approval expires"));
        }
    }
    if !preview.left_out.is_empty() {
        lines.push(format!("in no ring: {}{}", devices(preview.left_out.len()), names(&preview.left_out)));
    }
    lines.extend(preview.questions.iter().map(|question| format!("LOOK: {question}")));
    if preview.replaces > 0 {
        lines.push(format!("replaces version {}: its rings begin anew", preview.replaces));
    }
    lines.join("\n")
}

/// A line about what holds an approval back; empty when nothing does.
pub(super) fn held_line(held_by: &[String]) -> String {
    if held_by.is_empty() {
        return String::new();
    }
    format!("\non hold all the same, by what was paused or has stopped: {}; see upswarm resume", held_by.join(", "))
}

fn who(preview: &Preview) -> String {
    let mut line = devices(preview.devices);
    let with = if preview.action == Action::Uninstall { "without it already" } else { "with it already" };
    let known = [
        (preview.required, "needing it"),
        (preview.already, with),
        (preview.not_applicable, "that it does not concern"),
    ];
    for (number, what) in known.iter().filter(|(number, _)| *number > 0) {
        line.push_str(&format!(", {number} {what} by the last report"));
    }
    line
}

fn devices(number: usize) -> String {
    count(number, "device", "devices")
}

fn names(devices: &[PreviewDevice]) -> String {
    let names: Vec<&str> = devices.iter().take(NAMED).map(|device| device.name.as_str()).collect();
    match (names.is_empty(), devices.len().saturating_sub(NAMED)) {
        (true, _) => String::new(),
        (false, 0) => format!(": {}", names.join(", ")),
        (false, more) => format!(": {} and {more} more", names.join(", ")),
    }
}
