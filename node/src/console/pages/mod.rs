//! The pages. Each takes typed answers of the admin API apart into the texts of its template; none counts or decides.

pub(super) mod alarms;
pub(super) mod audit;
pub(super) mod device;
pub(super) mod devices;
pub(super) mod groups;
pub(super) mod overview;
pub(super) mod reports;
pub(super) mod repositories;
pub(super) mod rollouts;
pub(super) mod sites;
pub(super) mod update;
pub(super) mod updates;

mod swarm;

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Html;
use serde::Deserialize;

use super::Console;
use super::guard::Visitor;
use super::show::{self, VERSION};
use super::trouble::Trouble;
use crate::api::fleet::{MachineQuery, MachineRow};

/// An answer that is a page, or why there is none.
pub(super) type Page = Result<Html<String>, Trouble>;

/// What every page has around it.
pub(super) struct Frame {
    pub(in crate::console) title: String,
    /// Which entry of the navigation it belongs to.
    pub(in crate::console) active: &'static str,
    pub(in crate::console) place: String,
    pub(in crate::console) token: String,
    pub(in crate::console) version: &'static str,
    /// What stands in the search field.
    pub(in crate::console) text: String,
}

impl Frame {
    pub(super) fn new(console: &Console, visitor: &Visitor, active: &'static str, title: &str) -> Self {
        Self {
            title: title.to_owned(),
            active,
            place: console.place.clone(),
            token: visitor.token.clone(),
            version: VERSION,
            text: String::new(),
        }
    }
}

/// The page that a template makes.
pub(super) fn render(page: &impl Template) -> Page {
    page.render()
        .map(Html)
        .map_err(|error| Trouble::from(anyhow::Error::new(error).context("putting the page together")))
}

pub(super) async fn nothing_here() -> Trouble {
    Trouble::not_found()
}

/// What is searched for.
#[derive(Deserialize)]
pub(super) struct Search {
    #[serde(default)]
    q: String,
}

#[derive(Template)]
#[template(path = "search.html")]
struct SearchPage {
    frame: Frame,
    machines: Vec<MachineLine>,
    more: usize,
    all: String,
    found: Vec<(&'static str, String, String)>,
}

/// A machine in a table.
pub(super) struct MachineLine {
    pub(super) href: String,
    pub(super) name: String,
    pub(super) key: String,
    pub(super) site: String,
    pub(super) site_href: String,
    pub(super) groups: String,
    pub(super) os: String,
    pub(super) standing: String,
    pub(super) why: String,
    pub(super) seen: String,
    pub(super) silent: bool,
    pub(super) cache: bool,
    pub(super) restart: bool,
}

impl MachineLine {
    pub(super) fn of(row: &MachineRow) -> Self {
        let key = row.head.device.to_string();
        Self {
            href: show::href(&["devices", &key], &[]),
            name: row.head.name.clone(),
            key: row.head.device.short(),
            site: row.head.site.clone(),
            site_href: show::href(&["sites", &row.head.site], &[]),
            groups: row.groups.join(", "),
            os: row.os.clone().unwrap_or_else(|| "not told".to_owned()),
            standing: show::standing(row.standing),
            why: row.why.clone(),
            seen: show::seen(row.head.connected, row.head.last_seen_s),
            silent: row.silent,
            cache: row.role == upswarm_protocol::catalog::NodeRole::Cache,
            restart: row.pending_restart,
        }
    }
}

/// Machines, releases, groups and sites with a text in their names.
pub(super) async fn search(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    query: Result<Query<Search>, QueryRejection>,
) -> Page {
    let Query(Search { q }) = query?;
    let needle = q.trim().to_lowercase();
    let query = MachineQuery { text: Some(q.clone()), per: Some(12), ..MachineQuery::default() };
    let page = console.client.machines(&query).await?;
    let catalog = console.client.catalog().await?;
    let sites = console.client.sites().await?;
    let mut found = Vec::new();
    for release in &catalog.releases {
        let all = format!("{} {} {}", release.title, release.product, release.version);
        if all.to_lowercase().contains(&needle) || release.release.to_string().starts_with(&needle) {
            let name = format!("{} {}", release.product, release.version);
            found.push(("Update", name, show::href(&["updates", &release.release.to_string()], &[])));
        }
    }
    for group in catalog.groups.keys().filter(|group| group.to_lowercase().contains(&needle)) {
        found.push(("Group", group.clone(), show::devices(&[("group", group)])));
    }
    for site in sites.sites.iter().filter(|row| row.site.to_lowercase().contains(&needle)) {
        found.push(("Site", site.site.clone(), show::href(&["sites", &site.site], &[])));
    }
    found.truncate(60);
    let machines: Vec<MachineLine> = page.machines.iter().map(MachineLine::of).collect();
    let mut frame = Frame::new(&console, &visitor, "", "Search");
    frame.text = q.clone();
    render(&SearchPage {
        frame,
        more: page.matched.saturating_sub(machines.len()),
        all: show::devices(&[("text", &q)]),
        machines,
        found,
    })
}
