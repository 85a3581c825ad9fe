//! `rule`: standing approvals, which approvers sign. Those about products `publish` applies; on those about repositories the
//! coordinator acts.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use upswarm_protocol::catalog::{Action, Classification, Severity};
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::{GroupId, ReleaseId};

use super::admin::AdminArgs;
use super::output::Table;
use super::root::How;
use super::sign::{agree, exported, hand_in, write};
use super::{CliError, Common, severity};
use crate::api::approvals::HexBytes;
use crate::api::roots::{Asked, RequestFile};
use crate::api::rules::{AskedRules, NewRepositoryRule, NewRule, RepositoryRule, RuleChange, RuleSet};
use crate::api::schedule::ScheduleArgs;
use crate::clock::wall;
use crate::coordinator::keys::KeyUse;
use crate::signing::words::rule_words;
use crate::signing::{Carried, Document, check};
use crate::units;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm rule add --group office --classification security,critical --min-severity important \\
      --product org.mozilla --window \"mon-fri 22:00-05:00\" --ring 10% --ring 100%+1d
  upswarm rule list
  upswarm rule remove 3
  upswarm rule sign

  upswarm rule add --group office --repository debian-security --severity high --ring 10% --ring 100%+1d
  upswarm rule add --group servers --repository debian-security --source openssl --source curl --counts 90d
  upswarm rule remove r1

Rules are signed by an approver; --export FILE writes what is to be signed elsewhere. Those about products are one document, signed anew
with every change: `upswarm publish` applies those that today's approvers have signed, and signs the approvals with the approver's key:
no such key is ever online.
Each rule about a repository (r1, r2, ...) is a document of its own, signed once. After each sync the coordinator tries with apt what it
covers and approves that; machines hold every such approval against the signed rule. Nothing is ever removed by a rule, and a trial that
fails is an alarm. An approval or a decline of an approver counts before a rule's.";

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
        /// Its number, as `rule list` shows it: 3 of products, r3 of a repository.
        id: Number,
        #[command(flatten)]
        how: How,
    },
    /// Sign the rules about products anew, when those who signed them sign no more.
    Sign {
        #[command(flatten)]
        how: How,
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
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    how: How,
}

/// Rules about products and rules about repositories are numbered apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Product(u32),
    Repository(u32),
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (of, digits) = match text.strip_prefix('r') {
            Some(digits) => (Self::Repository as fn(u32) -> Self, digits),
            None => (Self::Product as fn(u32) -> Self, text),
        };
        let number = digits.parse().map(of);
        number.map_err(|_| "write it as upswarm rule list does: 3, or r3 of a rule about a repository".to_owned())
    }
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Add(args) => add(*args, common),
        Verb::List { admin } => list(&admin, common),
        Verb::Remove { id: Number::Product(id), how } => change(RuleChange::Remove(id), &how, common),
        Verb::Remove { id: Number::Repository(id), how } => remove_for(id, &how, common),
        Verb::Sign { how } => change(RuleChange::Keep, &how, common),
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
    change(RuleChange::Add(Box::new(rule)), &args.how, common)
}

/// Draws up the next rules, and has them signed and handed in, or written to a file.
fn change(change: RuleChange, how: &How, common: Common) -> Result<(), CliError> {
    let (client, runtime) = (how.admin.client()?, super::runtime()?);
    let before = runtime.block_on(client.rules())?.document;
    let refused = |reason: String| CliError::Refused(format!("nothing was signed: {reason}"));
    if let RuleChange::Add(rule) = &change {
        runtime.block_on(client.catalog())?.group_named(&rule.group).map_err(refused)?;
    }
    let in_force = before.as_ref().map(|before| {
        let envelope = Envelope::parse(&before.0, Kind::Rules, Role::Approver).map_err(|error| error.to_string())?;
        RuleSet::parse(envelope.unverified_body())
    });
    let in_force = in_force.transpose().map_err(refused)?.unwrap_or_default();
    let next = in_force.changed(&change, wall()).map_err(refused)?;
    let what = match &change {
        RuleChange::Add(rule) => format!("rule {}: {}", next.last, rule_words(rule)),
        RuleChange::Remove(id) => {
            let gone = in_force.rules.iter().find(|known| known.id == *id);
            format!("removed rule {id}: {}", gone.map_or_else(String::new, |gone| rule_words(&gone.rule)))
        }
        RuleChange::Keep => format!("{} rules, signed anew", next.rules.len()),
    };
    // What a person has typed is what is signed; what somebody else once signed is read first.
    let agreed = how.yes || change != RuleChange::Keep;
    let asked = AskedRules { change, before, body: HexBytes(next.to_body()) };
    let request = RequestFile::new(runtime.block_on(client.roots())?.roots, Asked::Rules(Box::new(asked)));
    if let Some(path) = &how.export {
        write(path, &request)?;
        exported(path, &what, common);
        return Ok(());
    }
    let place = how.admin.key_place(KeyUse::Approver)?;
    let checked = check(request, &place, Carried::Here, wall())?;
    agree(&checked, agreed)?;
    let signed = checked.sign(&place)?;
    runtime.block_on(hand_in(&client, &signed.file.asked, signed.complete()?))?;
    common.print(&next, &what);
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
    asked.rule(1, (GroupId::default(), 0), wall())?;
    let how = &args.how;
    let (client, runtime) = (how.admin.client()?, super::runtime()?);
    let draft = runtime.block_on(client.draft_rule(&asked))?;
    if draft.asked != asked {
        return Err(CliError::Refused("nothing was signed: the coordinator's draft is of something else".to_owned()));
    }
    let request = RequestFile::new(runtime.block_on(client.roots())?.roots, Asked::RepositoryRule(Box::new(draft)));
    if let Some(path) = &how.export {
        write(path, &request)?;
        exported(path, "a rule about a repository", common);
        return Ok(());
    }
    let place = how.admin.key_place(KeyUse::Approver)?;
    let checked = check(request, &place, Carried::Here, wall())?;
    agree(&checked, how.yes)?;
    let signed = checked.sign(&place)?;
    let document = signed.complete()?;
    let Document::RepositoryRule(rule, group) = &signed.document else {
        return Err(CliError::Refused("no rule about a repository was signed".to_owned()));
    };
    let rule = RepositoryRule::of(rule, group.clone(), HexBytes(document.0.clone()));
    runtime.block_on(hand_in(&client, &signed.file.asked, document))?;
    common.print(&rule, &format!("rule r{}: {}", rule.id, words_of(&rule)));
    Ok(())
}

/// A rule about a repository is only ever acted on by the coordinator: nothing is signed to stop it.
fn remove_for(id: u32, how: &How, common: Common) -> Result<(), CliError> {
    if how.export.is_some() {
        return Err(CliError::Refused(
            "nothing is signed to remove a rule about a repository; leave --export away".to_owned(),
        ));
    }
    let removed = super::runtime()?.block_on(how.admin.client()?.remove_rule(id))?;
    let text = format!(
        "removed rule r{id}: {}. The coordinator acts on it no more; what it has approved stays approved. A coordinator in other hands \
         could still use it until it ends: if you fear that, upswarm root revoke-key takes away the key that signed it",
        words_of(&removed)
    );
    common.print(&removed, &text);
    Ok(())
}

fn list(admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let rules = super::runtime()?.block_on(admin.client()?.rules())?;
    let mut table = Table::new(&["RULE", "GROUP", "APPROVES"]);
    for rule in &rules.rules {
        table.row([rule.id.to_string(), rule.rule.group.clone(), rule_words(&rule.rule)]);
    }
    for rule in &rules.repositories {
        table.row([format!("r{}", rule.id), rule.group.clone(), words_of(rule)]);
    }
    common.list(&rules, &table, || if table.is_empty() { "no rules".to_owned() } else { table.text() })
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

pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_rules_are_told_apart() {
        assert_eq!("3".parse(), Ok(Number::Product(3)));
        assert_eq!("r3".parse(), Ok(Number::Repository(3)));
        for wrong in ["", "r", "rr3", "-3", "x3", "R3"] {
            assert!(wrong.parse::<Number>().is_err_and(|why| why.contains("rule list")), "{wrong}");
        }
    }
}
