//! Updates: what is published and how the fleet stands with it, and what repositories have that machines lack.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use upswarm_protocol::ids::ReleaseId;

use super::{Frame, Page, render};
use crate::api::missing::{MissingQuery, MissingRelease};
use crate::api::proposals::UpdatesQuery;
use crate::api::status::{ReleaseStatus, StatusQuery};
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::show;

/// Which list, and what it is filtered by.
#[derive(Default, Deserialize)]
pub(crate) struct Which {
    #[serde(default)]
    from: String,
    #[serde(default)]
    q: String,
}

#[derive(Template)]
#[template(path = "updates.html")]
struct UpdatesPage {
    frame: Frame,
    repositories: bool,
    text: String,
    machines: usize,
    updates: Vec<Update>,
    sources: Vec<SourceLine>,
}

struct Update {
    name: String,
    title: String,
    href: String,
    kind: String,
    severity: String,
    required: usize,
    installed: usize,
    unknown: usize,
    failing: u64,
    failing_href: String,
    bar: String,
    decision: &'static str,
    groups: String,
}

struct SourceLine {
    source: String,
    upstream: String,
    from: String,
    to: String,
    machines: usize,
    severity: String,
    packages: String,
}

pub(crate) async fn page(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    which: Result<Query<Which>, QueryRejection>,
) -> Page {
    let Query(which) = which?;
    let repositories = which.from == "repositories";
    let needle = which.q.trim().to_lowercase();
    let mut page = UpdatesPage {
        frame: Frame::new(&console, &visitor, "updates", "Updates"),
        repositories,
        text: which.q,
        machines: 0,
        updates: Vec::new(),
        sources: Vec::new(),
    };
    if repositories {
        let updates = console.client.updates(&UpdatesQuery::default()).await?;
        page.machines = updates.machines;
        let wanted = updates.updates.iter().filter(|row| row.source.to_lowercase().contains(&needle));
        page.sources = wanted
            .map(|row| SourceLine {
                source: row.source.clone(),
                upstream: row.upstream.clone(),
                from: row.from.first().cloned().unwrap_or_default(),
                to: row.to.clone(),
                machines: row.machines,
                severity: row.severity.map_or_else(|| "not known".to_owned(), |severity| format!("{severity:?}")),
                packages: row.packages.join(", "),
            })
            .collect();
        return render(&page);
    }
    let missing = console.client.missing(&MissingQuery { all: true, ..MissingQuery::default() }).await?;
    let status = console.client.status(&StatusQuery::default()).await?;
    let by_release: BTreeMap<ReleaseId, &ReleaseStatus> =
        status.releases.iter().map(|known| (known.release, known)).collect();
    page.machines = missing.devices;
    let wanted = missing.releases.iter().filter(|known| {
        format!("{} {} {}", known.title, known.product, known.version).to_lowercase().contains(&needle)
    });
    page.updates =
        wanted.map(|known| update(known, by_release.get(&known.release).copied(), missing.devices)).collect();
    render(&page)
}

/// Machines that failed or stand still.
pub(super) fn failing(status: Option<&ReleaseStatus>) -> u64 {
    let count = |word: &str| status.and_then(|status| status.states.get(word).copied()).unwrap_or(0) as u64;
    count("Failed") + count("Stalled")
}

fn update(known: &MissingRelease, status: Option<&ReleaseStatus>, machines: usize) -> Update {
    let release = known.release.to_string();
    let failing = failing(status);
    let decision = match (known.approved.is_empty(), known.unwanted_in.is_empty()) {
        (false, true) => "approved",
        (false, false) => "approved here, not wanted there",
        (true, false) => "declined or removed",
        (true, true) => "nobody has decided",
    };
    Update {
        name: format!("{} {}", known.product, known.version),
        title: known.title.clone(),
        href: show::href(&["updates", &release], &[]),
        kind: format!("{:?}", known.classification),
        severity: format!("{:?}", known.severity),
        required: known.required,
        installed: known.installed,
        unknown: known.unknown + known.not_told,
        failing,
        failing_href: show::devices(&[("release", &release), ("state", "failed")]),
        bar: show::bar(
            &[
                ("current", known.installed as u64),
                ("attention", failing),
                ("approval", (known.required as u64).saturating_sub(failing)),
                ("unknown", (known.unknown + known.not_told) as u64),
            ],
            machines as u64,
        ),
        decision,
        groups: known.approved.join(", "),
    }
}
