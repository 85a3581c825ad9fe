//! Repositories: what upstreams are followed, how fresh they are, and whose signature they carry.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;

use super::{Frame, Page, render};
use crate::api::repositories::UpstreamRow;
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::show;
use crate::text;

#[derive(Template)]
#[template(path = "repositories.html")]
struct RepositoriesPage {
    frame: Frame,
    upstreams: Vec<Upstream>,
}

struct Upstream {
    name: String,
    state: String,
    suite: String,
    components: String,
    packages: String,
    urls: Vec<String>,
    pinned: bool,
    every: String,
    success: String,
    error: Option<String>,
    running: Option<String>,
    certificates: Vec<(String, String, String)>,
    snapshots: Vec<(String, String, String, String)>,
}

pub(crate) async fn page(State(console): State<Arc<Console>>, visitor: Visitor) -> Page {
    let list = console.client.upstreams().await?;
    render(&RepositoriesPage {
        frame: Frame::new(&console, &visitor, "repositories", "Repositories"),
        upstreams: list.upstreams.into_iter().map(upstream).collect(),
    })
}

fn upstream(row: UpstreamRow) -> Upstream {
    let state = match (&row.running, &row.error, row.last_success_s) {
        (Some(_), ..) => show::badge("pending", "Being synced"),
        (None, Some(_), _) => show::badge("attention", "Failed"),
        (None, None, Some(_)) => show::badge("current", "Synced"),
        (None, None, None) => show::badge("unknown", "Never synced"),
    };
    Upstream {
        state,
        suite: row.suite,
        components: row.components.join(" "),
        packages: row.packages.join(" "),
        urls: row.urls,
        pinned: row.pinned,
        every: show::age(Some(row.every_s)),
        success: row.last_success_s.map_or_else(|| "never".to_owned(), |age| format!("{} ago", show::age(Some(age)))),
        error: row.error,
        running: row.running.map(|stage| match stage.total {
            0 => stage.what,
            total => format!("{}: {} of {}", stage.what, show::bytes(stage.done), show::bytes(total)),
        }),
        certificates: row
            .certificates
            .into_iter()
            .map(|known| {
                let until = match (known.unfit, known.until) {
                    (Some(reason), _) => format!("counts no more: {reason}"),
                    (None, Some(until)) => format!("until {until}"),
                    (None, None) => "does not end".to_owned(),
                };
                (known.holder, known.fingerprint, until)
            })
            .collect(),
        snapshots: row
            .snapshots
            .into_iter()
            .take(12)
            .map(|known| {
                let until = known.valid_until.unwrap_or_else(|| "upstream says nothing".to_owned());
                let packages = usize::try_from(known.packages).unwrap_or(usize::MAX);
                (known.version, until, text::count(packages, "package", "packages"), show::bytes(known.bytes))
            })
            .collect(),
        name: row.name,
    }
}
