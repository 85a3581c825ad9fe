//! One update: how the fleet stands with it, what was decided where, and the forms to decide.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use upswarm_protocol::catalog::Action;

use super::rollouts::RolloutCard;
use super::{Frame, Page, Trouble, render};
use crate::api::missing::MissingQuery;
use crate::api::status::StatusQuery;
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::refused::Form;
use crate::console::show;
use crate::text;

#[derive(Template)]
#[template(path = "update.html")]
struct UpdatePage {
    frame: Frame,
    release: String,
    name: String,
    title: String,
    kind: String,
    severity: String,
    expires: String,
    machines: usize,
    needs: Vec<(String, usize)>,
    counts: Vec<(String, usize, String)>,
    bar: String,
    reasons: Vec<(String, String, String, String)>,
    rollouts: Vec<RolloutCard>,
    decisions: Vec<DecisionLine>,
    groups: Vec<(String, u64, String)>,
    holds: Vec<String>,
    can_sign: bool,
    form: Form,
}

/// Which refused form is to be filled in again.
#[derive(serde::Deserialize)]
pub(crate) struct Again {
    #[serde(default)]
    form: String,
}

struct DecisionLine {
    group: String,
    action: &'static str,
    version: u64,
    expires: String,
    schedule: String,
    note: String,
    held: bool,
    approved: bool,
    expedited: bool,
}

pub(crate) async fn page(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Path(release): Path<String>,
    again: Result<Query<Again>, QueryRejection>,
) -> Page {
    let form = console.refused.get(&again?.0.form).unwrap_or_default();
    let catalog = console.client.catalog().await?;
    let known = catalog
        .release_named(&release)
        .map_err(|reason| Trouble::new(axum::http::StatusCode::NOT_FOUND, "No such update", reason))?;
    let id = known.release.to_string();
    let query = MissingQuery { release: Some(id.clone()), ..MissingQuery::default() };
    let missing = console.client.missing(&query).await?;
    let status = console.client.status(&StatusQuery { release: Some(id.clone()), ..StatusQuery::default() }).await?;
    let groups = console.client.groups().await?;
    let found = missing.releases.first();
    let count = |number: Option<usize>| number.unwrap_or(0);
    let (required, installed) = (count(found.map(|f| f.required)), count(found.map(|f| f.installed)));
    let unknown = count(found.map(|f| f.unknown + f.not_told));
    let told = status.releases.first();
    let failing = super::updates::failing(told);
    let states = told.map(|told| &told.states).into_iter().flatten();
    let counts = states.map(|(state, devices)| {
        (show::state(state), *devices, show::devices(&[("release", &id), ("state", &state.to_lowercase())]))
    });
    let reasons = told.map(|told| told.reasons.as_slice()).unwrap_or_default().iter().map(|reason| {
        let devices = show::devices(&[("release", &id), ("state", &reason.state.to_lowercase())]);
        (show::state(&reason.state), reason.reason.clone(), text::count(reason.devices, "machine", "machines"), devices)
    });
    let name_of = |group| catalog.groups.iter().find(|(_, id)| **id == group).map(|(name, _)| name.clone());
    let approvals: Vec<_> = catalog.approvals.iter().filter(|approval| approval.release == known.release).collect();
    let decisions = approvals.iter().map(|approval| {
        let group = name_of(approval.group).unwrap_or_else(|| approval.group.to_string());
        DecisionLine {
            action: match approval.action {
                Action::Install => "Approved",
                Action::Uninstall => "To be removed",
                Action::None => "Declined",
            },
            approved: approval.action != Action::None,
            expedited: approval.schedule.expedite,
            version: approval.version,
            expires: approval.expires.clone(),
            schedule: schedule(approval),
            note: approval.note.clone(),
            held: status.holds.iter().any(|hold| hold.covers(&group, &known.release)),
            group,
        }
    });
    // The group that most likely is meant comes first.
    let mut of_groups: Vec<_> = groups.groups.iter().collect();
    of_groups.sort_by_key(|row| std::cmp::Reverse(row.devices.len()));
    let rows = of_groups.into_iter().map(|row| {
        let version =
            row.id.and_then(|group| catalog.approval(&group, &known.release)).map_or(0, |known| known.version);
        (row.group.clone(), version, text::count(row.devices.len(), "machine", "machines"))
    });
    let holds = status.holds.iter().filter(|hold| hold.release.is_none_or(|release| release == known.release));
    render(&UpdatePage {
        frame: Frame::new(&console, &visitor, "updates", &format!("{} {}", known.product, known.version)),
        name: format!("{} {}", known.product, known.version),
        title: known.title.clone(),
        kind: format!("{:?}", known.classification),
        severity: format!("{:?}", known.severity),
        expires: known.expires.clone(),
        machines: missing.devices,
        needs: vec![
            (show::state("Installed"), installed),
            (show::state("Required"), required),
            (show::state("Unknown"), unknown),
            (show::state("Declined"), count(found.map(|f| f.declined))),
            (show::state("NotApplicable"), count(found.map(|f| f.not_applicable))),
        ],
        counts: counts.collect(),
        bar: show::bar(
            &[
                ("current", installed as u64),
                ("attention", failing),
                ("approval", (required as u64).saturating_sub(failing)),
                ("unknown", unknown as u64),
            ],
            missing.devices as u64,
        ),
        reasons: reasons.collect(),
        rollouts: status
            .rollouts
            .iter()
            .filter(|rollout| rollout.action != Action::None)
            .map(RolloutCard::of)
            .collect(),
        decisions: decisions.collect(),
        groups: rows.collect(),
        holds: holds.map(|hold| hold.words()).collect(),
        can_sign: console.keys.dir.is_some(),
        form,
        release: id,
    })
}

/// When, in a few words.
fn schedule(approval: &crate::api::catalog::CatalogApproval) -> String {
    let schedule = &approval.schedule;
    let mut words = Vec::new();
    if schedule.expedite {
        words.push("begins at once".to_owned());
    }
    words.extend(schedule.available_from.map(|at| format!("from {at}")));
    words.extend(schedule.deadline.map(|at| format!("deadline {at}")));
    if !schedule.windows.is_empty() {
        words.push(text::count(schedule.windows.len(), "maintenance window", "maintenance windows"));
    }
    let rings = &approval.rings.rings;
    if !rings.is_empty() {
        let shares: Vec<String> = rings.iter().map(|ring| show::share(f64::from(ring.up_to) / 100.0)).collect();
        words.push(format!("rings {}", shares.join(", ")));
    }
    if words.is_empty() { "as soon as it can".to_owned() } else { words.join("; ") }
}
