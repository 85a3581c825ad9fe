//! `alarms`: what an admin should look at, and that somebody has.

use super::admin::AdminArgs;
use super::output::{Table, age, word};
use super::{CliError, Common};
use crate::api::alarms::{AcknowledgeRequest, AlarmQuery, AlarmView};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm alarms list
  upswarm alarms acknowledge 3 4
  upswarm alarms acknowledge --all

An alarm is shown by `upswarm status` until somebody acknowledges it. What ends and begins again is shown again.";

/// List alarms and acknowledge them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show the alarms that nobody has acknowledged, the newest first.
    List {
        /// Those that were acknowledged too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take alarms out of `status`.
    Acknowledge {
        /// Their numbers.
        #[arg(value_name = "NUMBER", required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<u64>,
        /// Every open one.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::List { all, admin } => list(AlarmQuery { all }, &admin, common),
        Verb::Acknowledge { ids, all, admin } => acknowledge(&AcknowledgeRequest { ids, all }, &admin, common),
    }
}

fn list(query: AlarmQuery, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let list = super::runtime()?.block_on(admin.client()?.alarms(&query))?;
    let mut table = Table::new(&["ALARM", "KIND", "ABOUT", "SEEN", "SINCE", "TIMES", "STATE", "WHAT"]);
    for alarm in &list.alarms {
        table.row([
            alarm.id.to_string(),
            word(&alarm.kind),
            about(alarm),
            age(Some(alarm.last_s), "?"),
            age(Some(alarm.first_s), "?"),
            alarm.count.to_string(),
            state(alarm).to_owned(),
            alarm.text.clone(),
        ]);
    }
    common.list(&list, &table, || if table.is_empty() { "no alarms".to_owned() } else { table.text() })
}

fn acknowledge(request: &AcknowledgeRequest, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let done = super::runtime()?.block_on(admin.client()?.acknowledge(request))?;
    let text = format!("acknowledged: {}; open: {}", done.acknowledged.len(), done.open);
    common.print(&done, &text);
    Ok(())
}

/// Whom an alarm is about.
pub(super) fn about(alarm: &AlarmView) -> String {
    match alarm.devices {
        0 | 1 => alarm.subject.clone(),
        several => format!("{} and {} more", alarm.subject, several - 1),
    }
}

fn state(alarm: &AlarmView) -> &'static str {
    match (alarm.acknowledged.is_some(), alarm.over) {
        (true, _) => "acknowledged",
        (false, true) => "over",
        (false, false) => "open",
    }
}
