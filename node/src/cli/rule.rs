//! `rule`: standing approvals, which `publish` applies.

use serde::de::DeserializeOwned;
use upswarm_protocol::catalog::{Action, Classification, Severity};
use upswarm_protocol::ids::{GroupId, ReleaseId};

use super::admin::AdminArgs;
use super::output::{Table, word as name};
use super::{CliError, Common};
use crate::api::rules::{NewRule, Rule};
use crate::api::schedule::ScheduleArgs;
use crate::clock::wall;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm rule add --group office --classification security,critical --min-severity important \\
      --product org.mozilla --window \"mon-fri 22:00-05:00\" --ring 10% --ring 100%+1d
  upswarm rule list
  upswarm rule remove 3

A rule is applied by `upswarm publish`, which signs the approval with the approver's key: no such key is ever online.";

/// Approve releases of some kind as soon as they are published.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Add a rule.
    Add(Box<AddArgs>),
    /// Show every rule.
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Remove a rule. What it has approved stays approved.
    Remove {
        /// Its number.
        id: u32,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The group to approve for.
    #[arg(long)]
    group: String,
    /// Only these: security, critical, update, feature, definition, driver, application.
    #[arg(long, value_delimiter = ',', value_parser = word::<Classification>)]
    classification: Vec<Classification>,
    /// Only from this on: low, moderate, important, critical.
    #[arg(long, value_parser = word::<Severity>)]
    min_severity: Option<Severity>,
    /// Only products whose name begins so, for example org.mozilla.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    product: String,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Add(args) => add(*args, common),
        Verb::List { admin } => list(&admin, common),
        Verb::Remove { id, admin } => remove(id, &admin, common),
    }
}

fn add(args: AddArgs, common: Common) -> Result<(), CliError> {
    args.schedule.must_be_relative()?;
    // Contradictions are told now, not on the day of the next release.
    args.schedule.approval((GroupId::default(), ReleaseId::default()), 1, Action::Install, wall())?;
    let rule = NewRule {
        group: args.group,
        classification: args.classification,
        min_severity: args.min_severity,
        product: args.product,
        schedule: args.schedule,
    };
    let added = super::runtime()?.block_on(args.admin.client()?.add_rule(&rule))?;
    common.print(&added, &format!("rule {}: {}", added.id, words(&added)));
    Ok(())
}

fn list(admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let rules = super::runtime()?.block_on(admin.client()?.rules())?;
    let mut table = Table::new(&["RULE", "GROUP", "APPROVES"]);
    for rule in &rules.rules {
        table.row([rule.id.to_string(), rule.rule.group.clone(), words(rule)]);
    }
    common.list(&rules, &table, || if table.is_empty() { "no rules".to_owned() } else { table.text() })
}

fn remove(id: u32, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let removed = super::runtime()?.block_on(admin.client()?.remove_rule(id))?;
    common.print(&removed, &format!("removed rule {id}: {}", words(&removed)));
    Ok(())
}

fn words(rule: &Rule) -> String {
    let NewRule { group, classification, min_severity, product, schedule } = &rule.rule;
    let kinds: Vec<String> = classification.iter().map(name).collect();
    let kinds = if kinds.is_empty() { "every release".to_owned() } else { format!("{} releases", kinds.join(" and ")) };
    let of = if product.is_empty() { String::new() } else { format!(" of {product}") };
    let least = min_severity.map_or(String::new(), |least| format!(", {} or worse", name(&least)));
    let when =
        Some(schedule.words()).filter(|words| !words.is_empty()).map_or(String::new(), |when| format!(" ({when})"));
    format!("{kinds}{of}{least}, for group {group}{when}")
}

pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}
