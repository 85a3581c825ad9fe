//! Overview: the morning's questions on one page.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;

use super::{Frame, Page, render};
use crate::api::catalog::Catalog;
use crate::api::fleet::Standing;
use crate::api::overview::{FailureReason, Overview};
use crate::api::reports::{Compliance, ReportQuery};
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::pages::rollouts::RolloutCard;
use crate::console::{show, trend};
use crate::text;

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    frame: Frame,
    trend: String,
    trend_words: String,
    empty: bool,
    tiles: Vec<Tile>,
    bar: String,
    fleet: usize,
    basis: Vec<String>,
    head: String,
    undecided: Vec<(String, String, String)>,
    told: String,
    rollouts: Vec<RolloutCard>,
    rollouts_done: usize,
    failures: Vec<Failure>,
    holds: Vec<String>,
    alarms: Vec<Alarm>,
    open_alarms: usize,
    silent: usize,
    silent_href: String,
    silent_machines: Vec<(String, String, String)>,
    silent_more: usize,
    doubles: Vec<(String, usize, String)>,
    sources: Vec<show::Source>,
    sources_bar: String,
    total_bytes: String,
    saved: String,
    origin_bytes: String,
}

struct Tile {
    shape: &'static str,
    label: &'static str,
    number: usize,
    share: String,
    href: String,
}

struct Failure {
    state: String,
    title: String,
    href: String,
    reason: String,
    machines: String,
    devices: String,
    age: String,
}

struct Alarm {
    text: String,
    subject: String,
    age: String,
}

pub(crate) async fn page(State(console): State<Arc<Console>>, visitor: Visitor) -> Page {
    let overview = console.client.overview().await?;
    let catalog = console.client.catalog().await?;
    let compliance: Compliance = console.client.report("compliance", &ReportQuery::default()).await?;
    let frame = Frame::new(&console, &visitor, "overview", "Overview");
    render(&of(frame, overview, &catalog, &compliance))
}

fn of(frame: Frame, overview: Overview, catalog: &Catalog, compliance: &Compliance) -> OverviewPage {
    let (trend, trend_words) = trend::of(&compliance.together());
    let fleet = overview.fleet;
    let number = |standing: Standing| overview.standings.get(&standing).copied().unwrap_or(0);
    // What asks for somebody comes first, and what is not known beside it: never as good.
    let tiles = Standing::ALL.into_iter().map(|standing| Tile {
        shape: standing.word(),
        label: show::standing_label(standing),
        number: number(standing),
        share: show::percent(number(standing) as u64, fleet as u64),
        href: show::devices(&[("standing", standing.word())]),
    });
    let parts: Vec<(&'static str, u64)> =
        Standing::ALL.into_iter().map(|standing| (standing.word(), number(standing) as u64)).collect();
    let bytes = overview.bytes;
    let total = bytes.total();
    let near = total.saturating_sub(bytes.origin);
    let (sources, sources_bar) = show::sources(&bytes);
    OverviewPage {
        frame,
        trend,
        trend_words,
        empty: fleet == 0,
        tiles: tiles.collect(),
        bar: show::bar(&parts, fleet as u64),
        fleet,
        basis: basis(&overview),
        head: overview.head.as_ref().map_or_else(
            || "no catalog is published yet".to_owned(),
            |head| format!("index {}, signed {} ago", head.index_version, show::age(Some(head.age_s))),
        ),
        told: text::count(overview.told, "machine that has", "machines that have"),
        undecided: overview
            .undecided
            .iter()
            .map(|line| {
                let what = format!("{:?}", line.severity);
                (
                    what,
                    text::count(line.releases, "update", "updates"),
                    text::count(line.machines, "machine", "machines"),
                )
            })
            .collect(),
        rollouts: overview.rollouts.iter().map(RolloutCard::of).collect(),
        rollouts_done: overview.rollouts_done,
        failures: overview.failures.iter().map(failure).collect(),
        holds: overview.holds.iter().map(|hold| show::hold(hold, catalog)).collect(),
        alarms: overview
            .alarms
            .iter()
            .take(6)
            .map(|alarm| Alarm {
                text: alarm.text.clone(),
                subject: alarm.subject.clone(),
                age: show::age(Some(alarm.last_s)),
            })
            .collect(),
        open_alarms: overview.open_alarms,
        silent: overview.silent,
        silent_href: show::devices(&[("silent", "true"), ("sort", "seen")]),
        silent_more: overview.silent.saturating_sub(overview.silent_machines.len()),
        silent_machines: overview
            .silent_machines
            .iter()
            .map(|head| {
                let href = show::href(&["devices", &head.device.to_string()], &[]);
                (head.name.clone(), href, show::seen(head.connected, head.last_seen_s))
            })
            .collect(),
        doubles: overview
            .doubles
            .iter()
            .map(|double| (double.name.clone(), double.devices.len(), show::devices(&[("text", &double.name)])))
            .collect(),
        sources,
        sources_bar,
        total_bytes: show::bytes(total),
        saved: format!("{} ({})", show::bytes(near), show::percent(near, total)),
        origin_bytes: show::bytes(overview.origin_bytes),
    }
}

/// On what the numbers rest: how many machines are lacking, and how old it is.
fn basis(overview: &Overview) -> Vec<String> {
    let through = overview.fleet.saturating_sub(overview.connected).saturating_sub(overview.silent);
    let mut basis = vec![format!("{} connected, {through} reporting through neighbours", overview.connected)];
    match overview.fleet.saturating_sub(overview.told) {
        0 => basis.push("every machine has told what it misses".to_owned()),
        1 => basis.push("1 machine has not told what it misses".to_owned()),
        lacking => basis.push(format!("{lacking} machines have not told what they miss")),
    }
    if let (Some(newest), Some(oldest)) = (overview.newest_report_s, overview.oldest_report_s) {
        basis.push(format!(
            "newest report {} ago, oldest that counts {} ago",
            show::age(Some(newest)),
            show::age(Some(oldest))
        ));
    }
    basis
}

fn failure(failure: &FailureReason) -> Failure {
    let release = failure.release.to_string();
    Failure {
        state: show::state(&failure.state),
        title: format!("{} {}", failure.product, failure.version),
        href: show::href(&["updates", &release], &[]),
        reason: failure.reason.clone(),
        machines: text::count(failure.machines, "machine", "machines"),
        devices: show::devices(&[("release", &release), ("state", &failure.state.to_lowercase())]),
        age: show::age(Some(failure.oldest_s)),
    }
}
