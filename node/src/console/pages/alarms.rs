//! Alarms: what somebody should look at, and who has.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

use super::{Frame, Page, render};
use crate::api::alarms::AlarmQuery;
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::show;
use crate::text;

#[derive(Template)]
#[template(path = "alarms.html")]
struct AlarmsPage {
    frame: Frame,
    all: bool,
    open: usize,
    alarms: Vec<Alarm>,
}

struct Alarm {
    id: u64,
    kind: String,
    subject: String,
    href: Option<String>,
    release: Option<String>,
    machines: String,
    text: String,
    count: u64,
    first: String,
    last: String,
    over: bool,
    acknowledged: Option<String>,
}

pub(crate) async fn page(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    query: Result<Query<AlarmQuery>, QueryRejection>,
) -> Page {
    let Query(query) = query?;
    let list = console.client.alarms(&query).await?;
    render(&AlarmsPage {
        frame: Frame::new(&console, &visitor, "alarms", "Alarms"),
        all: query.all,
        open: list.open,
        alarms: list
            .alarms
            .into_iter()
            .map(|alarm| Alarm {
                id: alarm.id,
                kind: text::word(&alarm.kind),
                href: alarm.device.map(|device| show::href(&["devices", &device.to_string()], &[])),
                release: alarm.release.map(|release| show::href(&["updates", &release.to_string()], &[])),
                machines: text::count(alarm.devices, "machine", "machines"),
                subject: alarm.subject,
                text: alarm.text,
                count: alarm.count,
                first: show::age(Some(alarm.first_s)),
                last: show::age(Some(alarm.last_s)),
                over: alarm.over,
                acknowledged: alarm.acknowledged,
            })
            .collect(),
    })
}
