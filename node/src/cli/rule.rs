use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::json;
use upswarm_protocol::catalog::{Action, Classification, Severity};
use upswarm_protocol::ids::{GroupId, ReleaseId};

use super::approve::find_group;
use super::schedule::ScheduleArgs;
use super::status::table;
use super::{CliError, Common};
use crate::clock::wall;
use crate::coordinator::client::Client;
use crate::coordinator::rules::{NewRule, Rule};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm rule add --data-dir D --group office --classification security,critical --min-severity important \\
      --product org.mozilla --window \"mon-fri 22:00-05:00\" --ring 10% --ring 100%+1d
  upswarm rule list --data-dir D
  upswarm rule remove 3 --data-dir D

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
        /// The coordinator's data directory; the coordinator must be running.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Remove a rule. What it has approved stays approved.
    Remove {
        /// Its number.
        id: u32,
        /// The coordinator's data directory; the coordinator must be running.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The coordinator's data directory; the coordinator must be running.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
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
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Add(args) => add(*args, common),
        Verb::List { data_dir } => list(&data_dir, common),
        Verb::Remove { id, data_dir } => remove(id, &data_dir, common),
    }
}

fn add(args: AddArgs, common: Common) -> Result<(), CliError> {
    args.schedule.must_be_relative()?;
    // Contradictions are told now, not on the day of the next release.
    args.schedule.approval((GroupId::default(), ReleaseId::default()), 1, Action::Install, wall())?;
    let client = Client::of(&args.data_dir)?;
    let runtime = super::runtime()?;
    find_group(&runtime.block_on(client.catalog())?, &args.group)?;
    let rule = NewRule {
        group: args.group,
        classification: args.classification,
        min_severity: args.min_severity,
        product: args.product,
        schedule: args.schedule,
    };
    let added = runtime.block_on(client.add_rule(&rule))?;
    common.print(&json!(added), &format!("rule {}: {}", added.id, words(&added)));
    Ok(())
}

fn list(data_dir: &Path, common: Common) -> Result<(), CliError> {
    let rules = super::runtime()?.block_on(Client::of(data_dir)?.rules())?;
    let mut rows = vec![["RULE", "APPROVES"].map(str::to_owned).to_vec()];
    rows.extend(rules.iter().map(|rule| vec![rule.id.to_string(), words(rule)]));
    let text = if rules.is_empty() { "no rules".to_owned() } else { table(&rows) };
    common.print(&json!({ "rules": rules }), text.trim_end());
    Ok(())
}

fn remove(id: u32, data_dir: &Path, common: Common) -> Result<(), CliError> {
    let removed = super::runtime()?.block_on(Client::of(data_dir)?.remove_rule(id))?;
    common.print(&json!(removed), &format!("removed rule {id}: {}", words(&removed)));
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

/// The name that a value has in text formats.
fn name(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}
