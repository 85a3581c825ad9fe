//! Groups: who is in them, by hand or by conditions, and what is approved for them.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use upswarm_protocol::catalog::Action;

use super::{Frame, Page, render};
use crate::api::status::StatusQuery;
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::show;

#[derive(Template)]
#[template(path = "groups.html")]
struct GroupsPage {
    frame: Frame,
    groups: Vec<Group>,
}

struct Group {
    name: String,
    machines: usize,
    href: String,
    conditions: String,
    approved: usize,
    declined: usize,
    held: bool,
}

pub(crate) async fn page(State(console): State<Arc<Console>>, visitor: Visitor) -> Page {
    let groups = console.client.groups().await?;
    let catalog = console.client.catalog().await?;
    let status = console.client.status(&StatusQuery::default()).await?;
    let rows = groups.groups.into_iter().map(|row| {
        let of_it = || catalog.approvals.iter().filter(|approval| Some(approval.group) == row.id);
        Group {
            machines: row.devices.len(),
            href: show::devices(&[("group", &row.group)]),
            conditions: row.conditions.map_or_else(|| "by hand".to_owned(), |all| all.join(" and ")),
            approved: of_it().filter(|approval| approval.action != Action::None).count(),
            declined: of_it().filter(|approval| approval.action == Action::None).count(),
            held: status
                .holds
                .iter()
                .any(|hold| hold.release.is_none() && hold.group.as_ref().is_none_or(|group| *group == row.group)),
            name: row.group,
        }
    });
    render(&GroupsPage { groups: rows.collect(), frame: Frame::new(&console, &visitor, "groups", "Groups") })
}
