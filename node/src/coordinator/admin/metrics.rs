//! The fleet in figures, in the text format of Prometheus. Owns names and help; every figure is one of the overview or of the rollouts.

use std::fmt::Write as _;

use upswarm_protocol::coordinator::Refusal;

use super::View;
use crate::api::fleet::Standing;

/// The text of `GET /metrics`.
pub(crate) fn text(view: &View<'_>) -> Result<String, Refusal> {
    let overview = super::overview::overview(view)?;
    let sites = super::sites::list(view);
    let mut text = String::new();
    gauge(
        &mut text,
        "machines",
        "Machines that are neither shut out nor retired.",
        [(String::new(), overview.fleet as f64)],
    );
    let standings = Standing::ALL.into_iter().map(|standing| {
        let number = overview.standings.get(&standing).copied().unwrap_or(0);
        (label(&[("standing", standing.word())]), number as f64)
    });
    gauge(&mut text, "machines_by_standing", "Machines by where they stand; each is in one.", standings);
    gauge(
        &mut text,
        "machines_connected",
        "Machines that are connected now.",
        [(String::new(), overview.connected as f64)],
    );
    gauge(
        &mut text,
        "machines_silent",
        "Machines that were not heard of for a day.",
        [(String::new(), overview.silent as f64)],
    );
    gauge(
        &mut text,
        "machines_told",
        "Machines that have told what they miss.",
        [(String::new(), overview.told as f64)],
    );
    gauge(
        &mut text,
        "alarms_open",
        "Alarms that nobody has acknowledged.",
        [(String::new(), overview.open_alarms as f64)],
    );
    gauge(
        &mut text,
        "holds",
        "Pauses and rollouts that have stopped by themselves.",
        [(String::new(), overview.holds.len() as f64)],
    );
    let undecided = overview
        .undecided
        .iter()
        .map(|line| (label(&[("severity", &format!("{:?}", line.severity).to_lowercase())]), line.machines as f64));
    gauge(
        &mut text,
        "machines_need_approval",
        "Machines that need an update which nobody has decided about.",
        undecided,
    );
    let head = overview.head.iter().map(|head| (String::new(), head.age_s as f64));
    gauge(&mut text, "head_age_seconds", "Age of the signed head.", head);
    let index = overview.head.iter().map(|head| (String::new(), head.index_version as f64));
    gauge(&mut text, "index_version", "Version of the published index.", index);
    let oldest = overview.oldest_report_s.iter().map(|age| (String::new(), *age as f64));
    gauge(&mut text, "report_age_seconds_max", "Age of the oldest report of a machine that is not silent.", oldest);
    let bytes = sites.sites.iter().flat_map(|row| {
        let of = |source: &'static str, bytes: u64| (label(&[("site", &row.site), ("source", source)]), bytes as f64);
        [
            of("wan", row.bytes.origin),
            of("cache", row.bytes.cache),
            of("lan", row.bytes.lan_peer),
            of("reuse", row.bytes.local_reuse),
        ]
    });
    gauge(&mut text, "payload_bytes", "Payload bytes of the machines of a site by where they came from.", bytes);
    gauge(
        &mut text,
        "origin_bytes",
        "Payload bytes that the coordinator's origin has served since it started.",
        [(String::new(), overview.origin_bytes as f64)],
    );
    let of_rollouts = |value: fn(&crate::api::status::RolloutView) -> f64| {
        let named = overview.rollouts.iter().map(move |rollout| {
            let product = rollout.product.clone().unwrap_or_else(|| rollout.release.short());
            let version = rollout.version.clone().unwrap_or_default();
            (label(&[("product", &product), ("version", &version), ("group", &rollout.group)]), value(rollout))
        });
        named.collect::<Vec<_>>()
    };
    gauge(
        &mut text,
        "rollout_machines",
        "Machines of a rollout that is under way.",
        of_rollouts(|rollout| f64::from(rollout.total().devices)),
    );
    gauge(
        &mut text,
        "rollout_installed",
        "Of them, those that are done.",
        of_rollouts(|rollout| f64::from(rollout.total().installed)),
    );
    gauge(
        &mut text,
        "rollout_failed",
        "Of them, those that failed.",
        of_rollouts(|rollout| f64::from(rollout.total().failed)),
    );
    gauge(
        &mut text,
        "rollout_held",
        "Whether a rollout is held.",
        of_rollouts(|rollout| f64::from(u8::from(rollout.held))),
    );
    gauge(
        &mut text,
        "rollout_bad_percent",
        "Of those that have begun, those that failed or fell silent.",
        of_rollouts(|rollout| rollout.bad_percent()),
    );
    Ok(text)
}

fn gauge(text: &mut String, name: &str, help: &str, values: impl IntoIterator<Item = (String, f64)>) {
    let _ = writeln!(text, "# HELP upswarm_{name} {help}\n# TYPE upswarm_{name} gauge");
    for (labels, value) in values {
        let _ = writeln!(text, "upswarm_{name}{labels} {value}");
    }
}

/// Labels as the format has them: a value may hold anything, escaped.
fn label(pairs: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let all: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_holds_whatever_a_name_holds() {
        assert_eq!(label(&[("site", "a\"b\\c\nd"), ("source", "wan")]), r#"{site="a\"b\\c\nd",source="wan"}"#);
    }
}
