//! `rule`: standing approvals, which `publish` applies.

use serde::de::DeserializeOwned;
use upswarm_protocol::catalog::{Action, Classification, Severity};
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::{GroupId, ReleaseId};

use super::admin::AdminArgs;
use super::output::Table;
use super::root::How;
use super::sign::{agree, exported, hand_in, write};
use super::{CliError, Common};
use crate::api::approvals::HexBytes;
use crate::api::roots::{Asked, RequestFile};
use crate::api::rules::{AskedRules, NewRule, RuleChange, RuleSet};
use crate::api::schedule::ScheduleArgs;
use crate::clock::wall;
use crate::coordinator::keys::KeyUse;
use crate::signing::words::rule_words;
use crate::signing::{Carried, check};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm rule add --group office --classification security,critical --min-severity important \\
      --product org.mozilla --window \"mon-fri 22:00-05:00\" --ring 10% --ring 100%+1d
  upswarm rule list
  upswarm rule remove 3

Rules are signed by an approver, all as one document. `upswarm publish` applies those that today's approvers have signed, and signs
the approvals with the approver's key: no such key is ever online. --export FILE writes what is to be signed elsewhere.";

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
        how: How,
    },
    /// Sign the rules anew, when those who signed them sign no more.
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
    /// Only from this on: low, moderate, important, critical.
    #[arg(long, value_parser = word::<Severity>)]
    min_severity: Option<Severity>,
    /// Only products whose name begins so, for example org.mozilla.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    product: String,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    how: How,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Add(args) => add(*args, common),
        Verb::List { admin } => list(&admin, common),
        Verb::Remove { id, how } => change(RuleChange::Remove(id), &how, common),
        Verb::Sign { how } => change(RuleChange::Keep, &how, common),
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

fn list(admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let rules = super::runtime()?.block_on(admin.client()?.rules())?;
    let mut table = Table::new(&["RULE", "GROUP", "APPROVES"]);
    for rule in &rules.rules {
        table.row([rule.id.to_string(), rule.rule.group.clone(), rule_words(&rule.rule)]);
    }
    common.list(&rules, &table, || if table.is_empty() { "no rules".to_owned() } else { table.text() })
}

pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}
