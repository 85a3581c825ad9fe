//! `upswarm sync`: repositories of distributions and vendors. Owns what a person reads; what is believed of a mirror is the
//! coordinator's.

mod add;
mod feed;

use std::time::Duration;

use super::admin::AdminArgs;
use super::output::{Table, age, count};
use super::{CliError, Common, progress};
use crate::api::repositories::{RemoveUpstream, SyncRequest, UpstreamList, UpstreamRow};
use crate::coordinator::client::Client;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm sync add apt debian-security --url http://deb.debian.org/debian-security --suite bookworm-security \\
      --components main --arch amd64 --keyring /usr/share/keyrings/debian-archive-keyring.gpg
  upswarm sync add apt debian --from-sources /etc/apt/sources.list.d/debian.sources
  upswarm sync run debian-security
  upswarm sync list
  upswarm sync show debian-security
  upswarm sync remove debian-security";

/// How often it is asked how far a sync is.
const LOOK: Duration = Duration::from_millis(200);

/// Add repositories of distributions and vendors, and bring them up to date.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Add a repository, or give one other mirrors or certificates.
    Add(Box<add::Args>),
    /// Ask the mirrors now, and wait until that is done.
    Run(RunArgs),
    /// List the repositories and how they stand.
    List(ListArgs),
    /// Show everything about one.
    Show(NameArgs),
    /// Forget one, with its snapshots. What was approved of it stays.
    Remove(NameArgs),
    /// Feeds of advisories: which CVEs updates mend, and how bad those are.
    Feed(feed::Args),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Which; without it, all.
    name: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
struct NameArgs {
    /// The repository's name here.
    name: String,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Add(args) => add::run(*args, common),
        Verb::Run(args) => sync(args, common),
        Verb::List(args) => {
            let list = super::runtime()?.block_on(args.admin.client()?.upstreams())?;
            let table = table(&list);
            common.list(&list, &table, || match list.upstreams.is_empty() {
                true => "no repository yet; add one with: upswarm sync add".to_owned(),
                false => table.text(),
            })
        }
        Verb::Show(args) => show(args, common),
        Verb::Feed(args) => feed::run(args, common),
        Verb::Remove(args) => {
            let (client, runtime) = (args.admin.client()?, super::runtime()?);
            let before = runtime.block_on(client.upstreams())?;
            let pinned = before.upstreams.iter().any(|row| row.name == args.name && row.pinned);
            let list = runtime.block_on(client.remove_upstream(&RemoveUpstream { name: args.name.clone() }))?;
            common.print(&list, &removed(&args.name, pinned));
            Ok(())
        }
    }
}

/// Has mirrors asked, and waits until that is done. A sync that failed is this verb's failure.
fn sync(args: RunArgs, common: Common) -> Result<(), CliError> {
    let (client, runtime) = (args.admin.client()?, super::runtime()?);
    let request = SyncRequest { name: args.name };
    let done = runtime.block_on(wait(&client, &request, common))?;
    let failed: Vec<String> =
        done.upstreams.iter().filter_map(|row| Some(format!("{}: {}", row.name, row.error.as_ref()?))).collect();
    if !failed.is_empty() {
        return Err(CliError::Failed(anyhow::anyhow!("not synced: {}", failed.join("; "))));
    }
    let lines = done.upstreams.iter().map(|row| match row.snapshots.first() {
        Some(newest) => format!("{}: {}, {} packages", row.name, newest.version, newest.packages),
        None => format!("{}: nothing", row.name),
    });
    common.print(&done, &lines.collect::<Vec<_>>().join("\n"));
    Ok(())
}

async fn wait(client: &Client, request: &SyncRequest, common: Common) -> Result<UpstreamList, CliError> {
    let mut list = client.sync(request).await?;
    let names: Vec<String> = list.upstreams.iter().map(|row| row.name.clone()).collect();
    let bar = progress::bytes(common, "", 0);
    while let Some((row, stage)) = list.upstreams.iter().find_map(|row| Some((row, row.running.as_ref()?))) {
        bar.set_message(format!("{}: {}", row.name, super::output::one_line(&stage.what)));
        bar.set_length(stage.total);
        bar.set_position(stage.done);
        tokio::time::sleep(LOOK).await;
        list = client.upstreams().await?;
        list.upstreams.retain(|row| names.contains(&row.name));
    }
    bar.finish_and_clear();
    Ok(list)
}

fn show(args: NameArgs, common: Common) -> Result<(), CliError> {
    let list = super::runtime()?.block_on(args.admin.client()?.upstreams())?;
    let known: Vec<&str> = list.upstreams.iter().map(|row| row.name.as_str()).collect();
    let row = list.upstreams.iter().find(|row| row.name == args.name).ok_or_else(|| {
        CliError::Refused(format!("there is no repository {:?}; there are: {}", args.name, known.join(", ")))
    })?;
    common.print(row, &details(row));
    Ok(())
}

/// What is left to do: as long as the root pins a repository, machines take what is approved of it.
fn removed(name: &str, pinned: bool) -> String {
    let next = format!(
        "\nthe root still pins it, so machines take what is approved of it; to end that: upswarm root unpin-upstream {name}"
    );
    format!("forgotten: {name}{}", if pinned { next } else { String::new() })
}

fn table(list: &UpstreamList) -> Table {
    let mut table =
        Table::new(&["NAME", "SUITE", "COMPONENTS", "ARCH", "SNAPSHOT", "PACKAGES", "SYNCED", "PINNED", "STATE"]);
    for row in &list.upstreams {
        let newest = row.snapshots.first();
        table.row([
            row.name.clone(),
            row.suite.clone(),
            row.components.join(","),
            row.architectures.join(","),
            newest.map_or_else(|| "-".to_owned(), |newest| newest.version.clone()),
            newest.map_or_else(|| "-".to_owned(), |newest| newest.packages.to_string()),
            age(row.last_success_s, "never"),
            if row.pinned { "yes".to_owned() } else { "no".to_owned() },
            state(row),
        ]);
    }
    table
}

fn state(row: &UpstreamRow) -> String {
    match (&row.running, &row.error) {
        (Some(stage), _) => stage.what.clone(),
        (None, Some(error)) => error.clone(),
        (None, None) => String::new(),
    }
}

fn details(row: &UpstreamRow) -> String {
    let mut lines = vec![
        format!(
            "{}: suite {}, components {}, for {}",
            row.name,
            row.suite,
            row.components.join(" "),
            row.architectures.join(" ")
        ),
        format!("may supply: {}", row.packages.join(" ")),
    ];
    lines.extend(row.urls.iter().map(|url| format!("mirror: {url}")));
    lines.extend(row.certificates.iter().map(|known| {
        let until = match (&known.unfit, &known.until) {
            (Some(why), _) => format!("counts no more: {why}"),
            (None, Some(until)) => format!("until {until}"),
            (None, None) => "without end".to_owned(),
        };
        format!("certificate: {} {} ({until})", known.fingerprint, known.holder)
    }));
    lines.push(match row.pinned {
        true => format!("the root pins it as {}", row.description),
        false => format!("the root does not pin it (as {}): machines would refuse its packages", row.description),
    });
    lines.push(format!(
        "asked every {}, last {}, last with success {}",
        age(Some(row.every_s), ""),
        age(row.last_try_s, "never"),
        age(row.last_success_s, "never")
    ));
    lines.extend(row.error.iter().map(|error| format!("the last time failed: {error}")));
    lines.extend(row.running.iter().map(|stage| format!("now: {}", stage.what)));
    lines.push(count(row.snapshots.len(), "snapshot", "snapshots") + ", the newest first:");
    lines.extend(row.snapshots.iter().map(|snapshot| {
        let until = snapshot.valid_until.as_ref().map_or_else(String::new, |until| format!(", good until {until}"));
        format!("  {} {} packages{until} ({})", snapshot.version, snapshot.packages, snapshot.id)
    }));
    lines.join("\n")
}
