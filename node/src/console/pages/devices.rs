//! Devices: the list with its filters, order and pages.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

use super::{Frame, MachineLine, Page, render};
use crate::api::fleet::{MachineQuery, SortMachines, Standing};
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::show;

#[derive(Template)]
#[template(path = "devices.html")]
struct DevicesPage {
    frame: Frame,
    machines: Vec<MachineLine>,
    standings: Vec<(&'static str, &'static str, bool)>,
    groups: Vec<(String, bool)>,
    sites: Vec<(String, bool)>,
    text: String,
    silent: bool,
    /// Filters that have no field of their own: release and state.
    more: Vec<(&'static str, String)>,
    sorts: Vec<(&'static str, String, &'static str)>,
    fleet: usize,
    matched: usize,
    page: usize,
    pages: usize,
    before: Option<String>,
    after: Option<String>,
    csv: String,
    json: String,
    filtered: bool,
}

/// The query with which a page of the list is asked for: empty fields of a form are none.
pub(crate) fn read(pairs: Vec<(String, String)>) -> Result<MachineQuery, super::Trouble> {
    let mut fields = serde_json::Map::new();
    for (name, value) in pairs.into_iter().filter(|(_, value)| !value.trim().is_empty()) {
        let value = match name.as_str() {
            "page" | "per" => value.parse::<u64>().map_or_else(|_| value.into(), Into::into),
            "silent" | "descending" => serde_json::Value::Bool(value == "true"),
            _ => value.into(),
        };
        fields.insert(name, value);
    }
    serde_json::from_value(serde_json::Value::Object(fields)).map_err(|error| {
        super::Trouble::new(axum::http::StatusCode::BAD_REQUEST, "Not understood", format!("This filter: {error}."))
    })
}

pub(crate) async fn page(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    pairs: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Page {
    let query = read(pairs?.0)?;
    let found = console.client.machines(&query).await?;
    let catalog = console.client.catalog().await?;
    let sites = console.client.sites().await?;
    let link = |page: usize| {
        let query = MachineQuery { page: Some(page), ..query.clone() };
        path("devices", &query)
    };
    let chosen = |text: &Option<String>, name: &str| text.as_deref() == Some(name);
    let mut more = Vec::new();
    more.extend(query.release.clone().map(|release| ("release", release)));
    more.extend(query.state.clone().map(|state| ("state", state)));
    let sorts = [
        (SortMachines::Name, "Name"),
        (SortMachines::Standing, "State"),
        (SortMachines::Site, "Site"),
        (SortMachines::Seen, "Heard of"),
    ];
    render(&DevicesPage {
        frame: Frame::new(&console, &visitor, "devices", "Devices"),
        machines: found.machines.iter().map(MachineLine::of).collect(),
        standings: Standing::ALL
            .into_iter()
            .map(|standing| (standing.word(), show::standing_label(standing), query.standing == Some(standing)))
            .collect(),
        groups: catalog.groups.keys().map(|group| (group.clone(), chosen(&query.group, group))).collect(),
        sites: sites.sites.iter().map(|row| (row.site.clone(), chosen(&query.site, &row.site))).collect(),
        text: query.text.clone().unwrap_or_default(),
        silent: query.silent,
        more,
        sorts: sorts
            .into_iter()
            .map(|(sort, label)| {
                let same = query.sort == sort;
                let turned = MachineQuery { sort, descending: same && !query.descending, page: None, ..query.clone() };
                let order = if !same {
                    "none"
                } else if query.descending {
                    "descending"
                } else {
                    "ascending"
                };
                (label, path("devices", &turned), order)
            })
            .collect(),
        fleet: found.fleet,
        matched: found.matched,
        page: found.page,
        pages: found.pages,
        before: (found.page > 1).then(|| link(found.page - 1)),
        after: (found.page < found.pages).then(|| link(found.page + 1)),
        csv: path("devices.csv", &MachineQuery { page: None, per: None, ..query.clone() }),
        json: path("devices.json", &MachineQuery { page: None, per: None, ..query.clone() }),
        filtered: found.matched != found.fleet,
    })
}

fn path(name: &str, query: &MachineQuery) -> String {
    let value = serde_json::to_value(query).unwrap_or_default();
    let pairs: Vec<(String, String)> = value
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            let text = match value {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Bool(true) => "true".to_owned(),
                serde_json::Value::Number(number) => number.to_string(),
                _ => return None,
            };
            Some((name.clone(), text))
        })
        .filter(|(name, text)| !(name == "sort" && text == "name"))
        .collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    show::href(&[name], &pairs)
}
