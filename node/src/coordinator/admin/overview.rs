//! The fleet on one page. Owns what is counted there; where a machine stands is judged by `standing`, releases by `status`.

use std::collections::{BTreeMap, BTreeSet};

use upswarm_protocol::catalog::Severity;
use upswarm_protocol::coordinator::Refusal;
use upswarm_protocol::ids::{DeviceId, ReleaseId};
use upswarm_protocol::report::BytesBySource;

use super::View;
use super::standing::Judge;
use crate::api::devices::DeviceHead;
use crate::api::fleet::Standing;
use crate::api::overview::{FailureReason, Overview, SeverityLine};
use crate::api::status::{ReleaseStatus, RolloutView, Status, StatusQuery};

/// Silent machines and reasons that the page shows; their numbers count all.
const MAX_SILENT: usize = 8;
const MAX_FAILURES: usize = 16;

/// The answer to `GET /admin/v1/overview`.
pub(crate) fn overview(view: &View<'_>) -> Result<Overview, Refusal> {
    let judge = Judge::new(view);
    let mut standings: BTreeMap<Standing, usize> = Standing::ALL.into_iter().map(|standing| (standing, 0)).collect();
    let mut undecided: BTreeMap<ReleaseId, BTreeSet<DeviceId>> = BTreeMap::new();
    let mut silent: Vec<DeviceHead> = Vec::new();
    let mut bytes = BytesBySource::default();
    let (mut told, mut ages) = (0, Vec::new());
    for record in view.devices() {
        let judged = judge.judge(record);
        *standings.entry(judged.standing).or_default() += 1;
        told += usize::from(view.scan(&record.device).is_some());
        for release in judged.undecided {
            undecided.entry(release).or_default().insert(record.device);
        }
        if let Some(said) = view.said(&record.device) {
            bytes.add(&said.bytes);
            if !judged.silent {
                ages.push(view.age(said.received));
            }
        }
        if judged.silent {
            silent.push(view.head(record));
        }
    }
    silent.sort_by_key(|head| (std::cmp::Reverse(head.last_seen_s.unwrap_or(u64::MAX)), head.name.clone()));
    let number = silent.len();
    silent.truncate(MAX_SILENT);
    let status = super::status::status(view, &StatusQuery::default())?;
    let failures = failures(&status.releases);
    let Status { head, fleet, connected, rollouts, holds, alarms, open_alarms, doubles, origin, .. } = status;
    let all = rollouts.len();
    let rollouts: Vec<RolloutView> = rollouts.into_iter().filter(RolloutView::is_under_way).collect();
    Ok(Overview {
        at: view.now.to_string(),
        head,
        fleet,
        connected,
        standings,
        told,
        newest_report_s: ages.iter().min().copied(),
        oldest_report_s: ages.iter().max().copied(),
        silent: number,
        silent_machines: silent,
        undecided: by_severity(view, undecided),
        rollouts_done: all - rollouts.len(),
        rollouts,
        failures,
        holds,
        alarms,
        open_alarms,
        doubles,
        bytes,
        origin_bytes: origin.payload_bytes,
    })
}

/// The most severe first.
fn by_severity(view: &View<'_>, undecided: BTreeMap<ReleaseId, BTreeSet<DeviceId>>) -> Vec<SeverityLine> {
    let mut lines: BTreeMap<Severity, (usize, BTreeSet<DeviceId>)> = BTreeMap::new();
    for (release, machines) in undecided {
        let severity = view.catalog.release(&release).map_or(Severity::Unspecified, |known| known.severity);
        let line = lines.entry(severity).or_default();
        line.0 += 1;
        line.1.extend(machines);
    }
    let line = |(severity, (releases, machines)): (Severity, (usize, BTreeSet<DeviceId>))| SeverityLine {
        severity,
        releases,
        machines: machines.len(),
    };
    lines.into_iter().rev().map(line).collect()
}

fn failures(releases: &[ReleaseStatus]) -> Vec<FailureReason> {
    let mut failures: Vec<FailureReason> = Vec::new();
    for release in releases {
        let bad = release.reasons.iter().filter(|reason| matches!(reason.state.as_str(), "Failed" | "Stalled"));
        failures.extend(bad.map(|counted| FailureReason {
            release: release.release,
            product: release.product.clone().unwrap_or_default(),
            version: release.version.clone().unwrap_or_default(),
            title: release.title.clone().unwrap_or_else(|| release.release.short()),
            state: counted.state.clone(),
            reason: counted.reason.clone(),
            machines: counted.devices,
            oldest_s: counted.oldest_s,
            example: counted.example.clone(),
        }));
    }
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.machines));
    failures.truncate(MAX_FAILURES);
    failures
}
