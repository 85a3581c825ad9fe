//! `rule`: standing approvals. Those about products `publish` applies; those about repositories are signed once, and the
//! coordinator acts on them.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use upswarm_protocol::catalog::{Action, Classification, Severity};
use upswarm_protocol::ids::{GroupId, ReleaseId};

use super::admin::AdminArgs;
use super::output::{Table, word as name};
use super::sign::verb::{agree, exported, write};
use super::sign::{Carried, check};
use super::{CliError, Common, severity};
use crate::api::roots::{Asked, RequestFile};
use crate::api::rules::{NewRepositoryRule, NewRule, Removed, RepositoryRule, Rule};
use crate::api::schedule::ScheduleArgs;
use crate::clock::wall;
use crate::coordinator::keys::KeyUse;
use crate::units;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm rule add --group office --classification security,critical --min-severity important \\
      --product org.mozilla --window \"mon-fri 22:00-05:00\" --ring 10% --ring 100%+1d
  upswarm rule list
  upswarm rule remove 3

  upswarm rule add --group office --repository debian-security --severity high --ring 10% --ring 100%+1d
  upswarm rule add --group servers --repository debian-security --source openssl --source curl --counts 90d

A rule about products is applied by `upswarm publish`, which signs the approval with the approver's key: no such key is ever online.
A rule about a repository is signed by the approver once. After each sync the coordinator tries with apt what it covers and approves
that; machines hold every such approval against the signed rule. Nothing is ever removed by a rule, and a trial that fails is an
alarm. An approval or a decline of an approver counts before a rule's.";

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
    /// Only from this on: low, medium (or moderate), high (or important), critical. Of a repository, as its feeds say.
    #[arg(long, visible_alias = "severity", value_parser = severity::parse)]
    min_severity: Option<Severity>,
    /// Only products whose name begins so, for example org.mozilla.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    product: String,
    /// What is synced of this repository.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["classification", "product"])]
    repository: Option<String>,
    /// Of the repository, only this source package, and nothing with it that is built from another.
    #[arg(long, value_delimiter = ',', requires = "repository")]
    source: Vec<String>,
    /// How long a rule about a repository counts.
    #[arg(long, value_name = "DURATION", default_value = "180d", requires = "repository")]
    counts: String,
    /// Sign it without asking.
    #[arg(long, requires = "repository")]
    yes: bool,
    /// Write the request to a file instead of signing it; `upswarm sign FILE` signs it where the keys are.
    #[arg(long, value_name = "FILE", requires = "repository")]
    export: Option<PathBuf>,
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

fn add(mut args: AddArgs, common: Common) -> Result<(), CliError> {
    if let Some(upstream) = args.repository.take() {
        return add_for(upstream, args, common);
    }
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

/// A rule about a repository: drafted, signed, and handed in.
fn add_for(upstream: String, args: AddArgs, common: Common) -> Result<(), CliError> {
    let counts = units::duration(&args.counts).map_err(|error| CliError::Refused(format!("--counts: {error}")))?;
    let asked = NewRepositoryRule {
        upstream,
        group: args.group,
        sources: args.source,
        min_severity: args.min_severity,
        schedule: args.schedule,
        counts_s: counts.as_secs(),
    };
    // Contradictions are told before anybody is asked.
    asked.rule(1, GroupId::default(), wall())?;
    let (client, runtime) = (args.admin.client()?, super::runtime()?);
    let draft = runtime.block_on(client.draft_rule(&asked))?;
    if draft.asked != asked {
        return Err(CliError::Refused("nothing was signed: the coordinator's draft is of something else".to_owned()));
    }
    let request = RequestFile::new(runtime.block_on(client.roots())?.roots, Asked::Rule(Box::new(draft)));
    if let Some(path) = &args.export {
        write(path, &request)?;
        exported(path, "a rule", common);
        return Ok(());
    }
    let place = args.admin.key_place(KeyUse::Approver)?;
    let checked = check(request, &place, Carried::Here, wall())?;
    agree(&checked, args.yes)?;
    let rule = runtime.block_on(client.add_signed_rule(checked.sign(&place)?.complete()?))?;
    common.print(&rule, &format!("rule {}: {}", rule.id, words_of(&rule)));
    Ok(())
}

fn list(admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let rules = super::runtime()?.block_on(admin.client()?.rules())?;
    let mut table = Table::new(&["RULE", "GROUP", "APPROVES"]);
    for rule in &rules.rules {
        table.row([rule.id.to_string(), rule.rule.group.clone(), words(rule)]);
    }
    for rule in &rules.repositories {
        table.row([rule.id.to_string(), rule.group.clone(), words_of(rule)]);
    }
    common.list(&rules, &table, || if table.is_empty() { "no rules".to_owned() } else { table.text() })
}

fn remove(id: u32, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let removed = super::runtime()?.block_on(admin.client()?.remove_rule(id))?;
    let text = match &removed {
        Removed::Product(rule) => format!("removed rule {id}: {}", words(rule)),
        Removed::Repository(rule) => format!(
            "removed rule {id}: {}. The coordinator acts on it no more; what it has approved stays approved. A coordinator in other hands \
             could still use it until it ends: if you fear that, upswarm root revoke-key takes away the key that signed it",
            words_of(rule)
        ),
    };
    common.print(&removed, &text);
    Ok(())
}

fn words_of(rule: &RepositoryRule) -> String {
    let of = if rule.sources.is_empty() { String::new() } else { format!(", only {}", rule.sources.join(", ")) };
    let least = match rule.min_severity {
        Severity::Unspecified => String::new(),
        least => format!(", {} or worse", severity::shown(Some(least))),
    };
    let (upstream, group, expires) = (&rule.upstream, &rule.group, &rule.expires);
    format!("what is synced of {upstream}{of}{least}, for group {group}, until {expires}")
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
