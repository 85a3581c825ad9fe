//! One device: where it stands with each update, and why.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};

use super::{Frame, MachineLine, Page, render};
use crate::api::fleet::{Explanation, Standing};
use crate::api::logs::{DeviceLogs, LogQuery};
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::show;

#[derive(Template)]
#[template(path = "device.html")]
struct DevicePage {
    frame: Frame,
    machine: MachineLine,
    device: String,
    agent: String,
    packages: String,
    time_zone: String,
    index: u64,
    caveats: Vec<String>,
    alarms: Vec<String>,
    open: Vec<Why>,
    done: Vec<Why>,
    sources: Vec<show::Source>,
    sources_bar: String,
    total_bytes: String,
    facts: Vec<(String, String)>,
}

struct Why {
    state: String,
    name: String,
    href: String,
    says: String,
    because: Vec<String>,
    age: String,
    bar: String,
    amount: String,
    /// Its release, where another try can be asked for.
    again: Option<String>,
    /// Its release, where the log can be asked for.
    ask_log: Option<String>,
    /// That the log is on its way.
    waits: Option<String>,
    /// When the log came, and what it says.
    log: Option<(String, String)>,
}

pub(crate) async fn page(State(console): State<Arc<Console>>, visitor: Visitor, Path(device): Path<String>) -> Page {
    let machine = console.client.machine(device).await?;
    let device_logs =
        console.client.logs(&LogQuery { device: machine.row.head.device.to_string(), release: None }).await?;
    let status = machine.status;
    let done = |known: &&Explanation| matches!(known.standing, Standing::Current | Standing::Exception);
    let total = status.bytes.total();
    let (sources, sources_bar) = show::sources(&status.bytes);
    render(&DevicePage {
        frame: Frame::new(&console, &visitor, "devices", &machine.row.head.name),
        device: status.device.to_string(),
        agent: status.agent.clone().unwrap_or_else(|| "not told".to_owned()),
        packages: status.packages.map_or_else(|| "not told".to_owned(), |packages| packages.to_string()),
        time_zone: status.time_zone.clone().unwrap_or_else(|| "not told".to_owned()),
        index: status.index_version,
        caveats: machine.caveats,
        alarms: status.alarms.clone(),
        open: machine.explanations.iter().filter(|known| !done(known)).map(|known| why(known, &device_logs)).collect(),
        done: machine.explanations.iter().filter(done).map(|known| why(known, &device_logs)).collect(),
        sources,
        sources_bar,
        total_bytes: show::bytes(total),
        machine: MachineLine::of(&machine.row),
        facts: machine.facts.into_iter().collect(),
    })
}

fn why(known: &Explanation, logs: &DeviceLogs) -> Why {
    let log = logs.logs.iter().find(|log| log.release == known.release);
    let waits = log.and_then(|log| log.waits(logs.reach, &logs.device.name));
    let came = log.and_then(|log| Some((log.found, show::age(Some(log.received_s?)), log.text.clone())));
    let moving = known.standing == Standing::Pending && known.total > 0;
    Why {
        state: show::state(&known.state),
        name: format!("{} {}", known.product, known.version),
        href: show::href(&["updates", &known.release.to_string()], &[]),
        says: known.says.clone(),
        because: known.because.clone(),
        age: known.since_s.map(|age| format!("for {}", show::age(Some(age)))).unwrap_or_default(),
        bar: if moving { show::bar(&[("pending", known.done)], known.total) } else { String::new() },
        amount: if moving {
            format!("{} of {}", show::bytes(known.done), show::bytes(known.total))
        } else {
            String::new()
        },
        again: (known.group.is_some() && matches!(known.standing, Standing::Attention | Standing::Pending))
            .then(|| known.release.to_string()),
        ask_log: (known.group.is_some() && waits.is_none()).then(|| known.release.to_string()),
        waits,
        log: came.map(|(found, age, text)| {
            let title = if found { format!("Log, told {age} ago") } else { format!("No log, as it said {age} ago") };
            (title, text)
        }),
    }
}
