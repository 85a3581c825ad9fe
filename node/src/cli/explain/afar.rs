//! `explain --device`: what the coordinator knows of a machine's releases, and the log of one, asked of the machine.

use serde::Serialize;

use super::{Args, wrap};
use crate::api::catalog::{Catalog, CatalogRelease, names};
use crate::api::fleet::{Explanation, Machine};
use crate::api::logs::{DeviceLogs, LogAsked, LogQuery, LogRequest, LogView, Reach};
use crate::cli::output::age;
use crate::cli::{CliError, Common, runtime};
use crate::coordinator::client::Client;

/// What `explain --device` prints as JSON.
#[derive(Serialize)]
struct Explained<'a> {
    device: &'a str,
    caveats: &'a [String],
    explanations: Vec<&'a Explanation>,
}

/// What `explain --device --log` prints as JSON.
#[derive(Serialize)]
struct Logged<'a> {
    device: &'a str,
    reach: Reach,
    #[serde(flatten)]
    log: &'a LogView,
}

pub(super) fn run(args: &Args, device: &str, common: Common) -> Result<(), CliError> {
    let client = args.admin.client()?;
    runtime()?.block_on(async {
        match (&args.subject, args.log) {
            (Some(release), true) => log(&client, device, release, args.again, common).await,
            (subject, _) => explain(&client, device, subject.as_deref(), common).await,
        }
    })
}

async fn explain(client: &Client, device: &str, subject: Option<&str>, common: Common) -> Result<(), CliError> {
    let machine = client.machine(device.to_owned()).await?;
    let catalog = client.catalog().await?;
    let meant = subject.map(|subject| meant(&catalog, subject)).transpose()?;
    let wanted = |known: &&Explanation| match &meant {
        Some(meant) => meant.iter().any(|release| release.release == known.release),
        None => !matches!(known.standing, crate::api::fleet::Standing::Current),
    };
    let explanations: Vec<&Explanation> = machine.explanations.iter().filter(wanted).collect();
    let text = text(&machine, meant.as_deref().unwrap_or_default(), &explanations);
    let shown = Explained { device: &machine.row.head.name, caveats: &machine.caveats, explanations };
    common.print(&shown, &text);
    Ok(())
}

/// Every release that a text names, the newest first.
fn meant<'a>(catalog: &'a Catalog, subject: &str) -> Result<Vec<&'a CatalogRelease>, CliError> {
    let fit = |known: &CatalogRelease| names(subject, &known.release, &known.product, &known.version);
    let best = catalog.releases.iter().filter_map(fit).max();
    let mut found: Vec<&CatalogRelease> =
        catalog.releases.iter().filter(|known| best.is_some() && fit(known) == best).collect();
    if found.is_empty() {
        // Its words for what there is.
        catalog.release_named(subject).map_err(CliError::Refused)?;
    }
    found.sort_by_key(|release| (&release.product, std::cmp::Reverse(release.counter)));
    Ok(found)
}

fn text(machine: &Machine, meant: &[&CatalogRelease], explanations: &[&Explanation]) -> String {
    let mut text = String::new();
    let name = &machine.row.head.name;
    for caveat in &machine.caveats {
        wrap(&mut text, "", caveat);
    }
    if meant.len() > 1 {
        let all: Vec<String> =
            meant.iter().map(|release| format!("{} ({})", release.version, release.release.short())).collect();
        let line = format!("The name fits {} releases: {}. Each is explained.", meant.len(), all.join(", "));
        wrap(&mut text, "", &line);
    }
    for known in explanations {
        if !text.is_empty() {
            text.push('\n');
        }
        let since = known.since_s.map(|since| format!(", for {}", age(Some(since), "?"))).unwrap_or_default();
        let state = crate::api::status::state_words(&known.state);
        text.push_str(&format!("{} {} on {name}: {state}{since}\n", known.product, known.version));
        wrap(&mut text, "  ", &known.says);
        for because in &known.because {
            wrap(&mut text, "      because: ", because);
        }
    }
    for release in meant.iter().filter(|release| explanations.iter().all(|known| known.release != release.release)) {
        let line = format!(
            "{} {} on {name}: the machine has said nothing of it, and it is not approved for any of its groups.",
            release.product, release.version
        );
        wrap(&mut text, "", &line);
    }
    if text.is_empty() {
        text = format!("{name} has everything that is approved for it, and needs nothing else.");
    }
    text.trim_end().to_owned()
}

async fn log(client: &Client, device: &str, release: &str, again: bool, common: Common) -> Result<(), CliError> {
    let query = LogQuery { device: device.to_owned(), release: Some(release.to_owned()) };
    let known = client.logs(&query).await?;
    let pending = known.logs.first().is_some_and(|log| log.awaited);
    if known.logs.is_empty() || again && !pending {
        let request = LogRequest { device: device.to_owned(), release: release.to_owned() };
        let asked = client.ask_log(&request).await?;
        common.print(&asked, &asked_text(&asked));
        return Ok(());
    }
    for log in &known.logs {
        let shown = Logged { device: &known.device.name, reach: known.reach, log };
        common.print(&shown, &log_text(&known, log));
    }
    Ok(())
}

fn asked_text(asked: &LogAsked) -> String {
    let name = &asked.device.name;
    let when = match asked.reach {
        Reach::Connected => "asked; it comes within seconds".to_owned(),
        Reach::ThroughNeighbours => "asked through a neighbour; it comes within a minute as a rule".to_owned(),
        Reach::NotConnected => format!("{name} is not connected: it is asked as soon as it is there again"),
    };
    format!("{} on {name}: {when}. Run the same again to see it.", asked.what)
}

fn log_text(known: &DeviceLogs, log: &LogView) -> String {
    let name = &known.device.name;
    let mut parts = Vec::new();
    if let Some(waits) = log.waits(known.reach, name) {
        let before = if log.received_s.is_some() { " Below is what it told before." } else { "" };
        parts.push(format!("{waits}{before}"));
    }
    if let Some(received) = log.received_s {
        let at = age(Some(received), "?");
        parts.push(if log.found {
            let anew = if log.awaited { "" } else { "; --again asks anew" };
            format!("{} on {name}, told {at} ago{anew}:\n\n{}", log.what, log.text.trim_end())
        } else {
            format!("{} on {name}, told {at} ago: {}. --again asks anew.", log.what, log.text.trim_end())
        });
    }
    parts.join("\n\n")
}
