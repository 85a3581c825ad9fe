//! `upswarm sync feed`: feeds of advisories. Owns what a person reads; what is believed of a feed is the coordinator's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::feeds::{FeedKind, FeedList, FeedRequest, FeedRow, NewFeed};
use crate::cli::admin::AdminArgs;
use crate::cli::output::{Table, age, one_line, word};
use crate::cli::{CliError, Common, progress, runtime};
use crate::coordinator::client::Client;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm sync feed add debian-tracker https://security-tracker.debian.org/tracker/data/json
  upswarm sync feed add osv https://osv-vulnerabilities.storage.googleapis.com/Ubuntu/all.zip --name osv-ubuntu
  upswarm sync feed add osv /srv/feeds/debian.json.xz
  upswarm sync feed list
  upswarm sync feed run osv-ubuntu
  upswarm sync feed remove osv-ubuntu

A feed says which CVEs a version has, and how bad they are. It chooses no byte that is installed. What it does not say is shown as
unknown. A file is one on the coordinator's machine; a feed may be compressed (.xz, .gz, .zst), one of osv also a zip archive.";

/// How often it is asked how far a look is.
const LOOK: Duration = Duration::from_millis(200);

/// Say where it is known which CVEs updates mend.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Add a feed, or give one another place, and read it.
    Add(AddArgs),
    /// Look now whether feeds say something new, and wait until that is done.
    Run(RunArgs),
    /// List the feeds and how they stand.
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Forget a feed and what it said.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum KindArg {
    /// The JSON of the Debian security tracker.
    DebianTracker,
    /// Records of the Open Source Vulnerability format, for source packages of Debian and Ubuntu.
    Osv,
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Whose form it has.
    kind: KindArg,
    /// Where it is: http://, https://, file:/ or a path on the coordinator's machine.
    place: String,
    /// What it is called here; without it, as its kind.
    #[arg(long)]
    name: Option<String>,
    /// Seconds between two looks, more or less by a quarter; without it, six hours.
    #[arg(long, value_name = "SECONDS")]
    every: Option<u64>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Which; without it, all.
    name: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Add(args) => {
            let kind = match args.kind {
                KindArg::DebianTracker => FeedKind::DebianTracker,
                KindArg::Osv => FeedKind::Osv,
            };
            let name = args.name.unwrap_or_else(|| word(&kind));
            let feed = NewFeed { name, kind, url: url(&args.place)?, every_s: args.every };
            let client = args.admin.client()?;
            let list = runtime()?.block_on(async {
                let begun = client.add_feed(&feed).await?;
                wait(&client, begun, common).await
            })?;
            report(&list, common)
        }
        Verb::Run(args) => {
            let (client, request) = (args.admin.client()?, FeedRequest { name: args.name });
            let list = runtime()?.block_on(async {
                let begun = client.run_feeds(&request).await?;
                wait(&client, begun, common).await
            })?;
            report(&list, common)
        }
        Verb::List { admin } => {
            let list = runtime()?.block_on(admin.client()?.feeds())?;
            let table = table(&list);
            common.list(&list, &table, || match table.is_empty() {
                true => "no feed yet; add one with: upswarm sync feed add".to_owned(),
                false => table.text(),
            })
        }
        Verb::Remove { name, admin } => {
            let request = FeedRequest { name: Some(name.clone()) };
            let list = runtime()?.block_on(admin.client()?.remove_feed(&request))?;
            common.print(&list, &format!("forgotten: {name}"));
            Ok(())
        }
    }
}

/// A path becomes the URL of a file.
fn url(place: &str) -> Result<String, CliError> {
    if place.contains("://") || place.starts_with("file:") {
        return Ok(place.to_owned());
    }
    let path = std::path::absolute(Path::new(place)).unwrap_or_else(|_| PathBuf::from(place));
    let text = path.to_str().ok_or_else(|| CliError::Refused(format!("{place:?} is no path in plain letters")))?;
    Ok(format!("file:{text}"))
}

async fn wait(client: &Client, mut list: FeedList, common: Common) -> Result<FeedList, CliError> {
    let names: Vec<String> = list.feeds.iter().map(|row| row.name.clone()).collect();
    let bar = progress::bytes(common, "", 0);
    while let Some((row, stage)) = list.feeds.iter().find_map(|row| Some((row, row.running.as_ref()?))) {
        bar.set_message(format!("{}: {}", row.name, one_line(&stage.what)));
        bar.set_length(stage.total);
        bar.set_position(stage.done);
        tokio::time::sleep(LOOK).await;
        list = client.feeds().await?;
        list.feeds.retain(|row| names.contains(&row.name));
    }
    bar.finish_and_clear();
    Ok(list)
}

/// One that failed is the verb's failure.
fn report(list: &FeedList, common: Common) -> Result<(), CliError> {
    let failed: Vec<String> =
        list.feeds.iter().filter_map(|row| Some(format!("{}: {}", row.name, row.error.as_ref()?))).collect();
    if !failed.is_empty() {
        let what = "not read, and what was said before counts on";
        return Err(CliError::Failed(anyhow::anyhow!("{what}: {}", failed.join("; "))));
    }
    let line = |row: &FeedRow| format!("{}: {} CVEs of {} source packages", row.name, row.cves, row.sources);
    common.print(list, &list.feeds.iter().map(line).collect::<Vec<_>>().join("\n"));
    Ok(())
}

fn table(list: &FeedList) -> Table {
    let mut table = Table::new(&["NAME", "KIND", "SOURCES", "CVES", "READ", "PLACE", "STATE"]);
    for row in &list.feeds {
        let state = match (&row.running, &row.error) {
            (Some(stage), _) => stage.what.clone(),
            (None, Some(error)) => error.clone(),
            (None, None) => String::new(),
        };
        table.row([
            row.name.clone(),
            word(&row.kind),
            row.sources.to_string(),
            row.cves.to_string(),
            age(row.last_success_s, "never"),
            row.url.clone(),
            state,
        ]);
    }
    table
}
