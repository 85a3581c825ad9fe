//! One device: where it stands with each update, and why.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};

use super::{Frame, MachineLine, Page, render};
use crate::api::fleet::{Explanation, Standing};
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
}

pub(crate) async fn page(State(console): State<Arc<Console>>, visitor: Visitor, Path(device): Path<String>) -> Page {
    let machine = console.client.machine(device).await?;
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
        open: machine.explanations.iter().filter(|known| !done(known)).map(why).collect(),
        done: machine.explanations.iter().filter(done).map(why).collect(),
        sources,
        sources_bar,
        total_bytes: show::bytes(total),
        machine: MachineLine::of(&machine.row),
        facts: machine.facts.into_iter().collect(),
    })
}

fn why(known: &Explanation) -> Why {
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
    }
}
