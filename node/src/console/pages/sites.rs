//! Sites: each with what it fetched from where, and a picture of its swarm.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};

use super::{Frame, Page, render, swarm};
use crate::api::fleet::{SiteRow, Standing};
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::show;

#[derive(Template)]
#[template(path = "sites.html")]
struct SitesPage {
    frame: Frame,
    sites: Vec<SiteLine>,
}

struct SiteLine {
    name: String,
    href: String,
    machines: usize,
    machines_href: String,
    connected: usize,
    caches: usize,
    silent: usize,
    states: Vec<(String, usize, String)>,
    bar: String,
    wan: String,
    near: String,
    share: String,
    limits: String,
}

#[derive(Template)]
#[template(path = "site.html")]
struct SitePage {
    frame: Frame,
    site: SiteLine,
    picture: String,
    shown: usize,
    sources: Vec<show::Source>,
    sources_bar: String,
    machines: Vec<Member>,
}

struct Member {
    name: String,
    href: String,
    standing: String,
    cache: bool,
    connected: bool,
    neighbours: u32,
    wan: String,
    near: String,
}

pub(crate) async fn page(State(console): State<Arc<Console>>, visitor: Visitor) -> Page {
    let sites = console.client.sites().await?;
    render(&SitesPage {
        frame: Frame::new(&console, &visitor, "sites", "Sites"),
        sites: sites.sites.iter().map(line).collect(),
    })
}

pub(crate) async fn one(State(console): State<Arc<Console>>, visitor: Visitor, Path(site): Path<String>) -> Page {
    let view = console.client.site(site).await?;
    let (sources, sources_bar) = show::sources(&view.row.bytes);
    render(&SitePage {
        frame: Frame::new(&console, &visitor, "sites", &view.row.site),
        site: line(&view.row),
        picture: swarm::picture(&view),
        shown: view.swarm.len(),
        sources,
        sources_bar,
        machines: view
            .swarm
            .iter()
            .map(|machine| Member {
                name: machine.name.clone(),
                href: show::href(&["devices", &machine.device.to_string()], &[]),
                standing: show::standing(machine.standing),
                cache: machine.role == upswarm_protocol::catalog::NodeRole::Cache,
                connected: machine.connected,
                neighbours: machine.neighbours,
                wan: show::bytes(machine.bytes.origin),
                near: show::bytes(machine.bytes.total().saturating_sub(machine.bytes.origin)),
            })
            .collect(),
    })
}

fn line(row: &SiteRow) -> SiteLine {
    let total = row.bytes.total();
    let near = total.saturating_sub(row.bytes.origin);
    let number = |standing: &Standing| row.standings.get(standing).copied().unwrap_or(0);
    let of_site = |standing: Standing| show::devices(&[("site", &row.site), ("standing", standing.word())]);
    let parts: Vec<(&'static str, u64)> =
        Standing::ALL.iter().map(|standing| (standing.word(), number(standing) as u64)).collect();
    let limits: Vec<String> = row
        .limits
        .iter()
        .map(|rate| {
            let when = rate.window.as_ref().map(|window| format!(" {window}")).unwrap_or_default();
            format!("{}/s{when}", show::bytes(rate.wan))
        })
        .collect();
    SiteLine {
        name: row.site.clone(),
        href: show::href(&["sites", &row.site], &[]),
        machines: row.machines,
        machines_href: show::devices(&[("site", &row.site)]),
        connected: row.connected,
        caches: row.caches,
        silent: row.silent,
        states: Standing::ALL
            .into_iter()
            .filter(|standing| number(standing) > 0)
            .map(|standing| (show::standing(standing), number(&standing), of_site(standing)))
            .collect(),
        bar: show::bar(&parts, row.machines as u64),
        wan: show::bytes(row.bytes.origin),
        near: show::bytes(near),
        share: show::percent(near, total),
        limits: if limits.is_empty() { "none".to_owned() } else { limits.join(", ") },
    }
}
