//! `approve`, `decline` and `expedite`: each asks the coordinator for a draft, checks and signs it, and hands it in. Owns what a
//! person reads; what an approval means is decided by its use-case, what may be signed by `sign`.

use std::io::IsTerminal;
use std::path::PathBuf;

use serde::Serialize;
use upswarm_protocol::catalog::{Action, Approval};

use super::admin::AdminArgs;
use super::sign::{exported, write};
use super::{CliError, Common, preview, snapshot};
use crate::api::approvals::{Accepted, ApprovalDraft, HexBytes, Intent, Preview, SigningRequest};
use crate::api::roots::{Asked, AskedApproval, RequestFile};
use crate::api::schedule::ScheduleArgs;
use crate::clock::wall;
use crate::coordinator::client::Client;
use crate::coordinator::keys::KeyUse;
use crate::signing::place::KeyPlace;
use crate::signing::{Carried, Checked, Document, check};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm approve editor@2.1 --group office --dry-run
  upswarm approve 5f0c3a9e --group office --available 2026-12-01T22:00:00Z --deadline +7d --grace 2h \\
      --window \"mon-fri 22:00-05:00\" --ring 1% --ring 10%+1d --ring 100%+3d --stop-above 5%
  upswarm approve 5f0c3a9e --group office --action uninstall
  upswarm approve apt:debian-security@latest --group office --select openssl,curl
  upswarm approve apt:debian-security@before --group office --back";

const DECLINE_EXAMPLE: &str = "\
EXAMPLE:
  upswarm decline editor@2.1 --group office --note \"breaks printing\"";

const EXPEDITE_EXAMPLE: &str = "\
EXAMPLE:
  upswarm expedite editor@2.1 --group office";

/// Sign the decision to install or uninstall a release in a group.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// What is to be done. `uninstall` goes back to an earlier version of the same deb or rpm package if one is approved for
    /// install, else removes it; `none` declines the release and retires an earlier approval.
    #[arg(long, value_enum, default_value = "install")]
    action: ActionArg,
    #[command(flatten)]
    selection: snapshot::Selection,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Show whom it would affect and when; sign nothing.
    #[arg(long)]
    dry_run: bool,
    /// Time zone in which the preview reads windows of machines that have told none, for example Europe/Berlin.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    zone: String,
    /// Sign it even if it reaches nobody yet.
    #[arg(long)]
    allow_empty: bool,
    /// Sign it even if a ring tries nothing or machines are left out, without asking.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    export: Export,
    #[command(flatten)]
    admin: AdminArgs,
}

/// For keys that are elsewhere.
#[derive(Debug, Clone, Default, clap::Args)]
struct Export {
    /// Write the request to a file instead of signing it; `upswarm sign FILE` signs it where the keys are.
    #[arg(long = "export", value_name = "FILE", conflicts_with = "dry_run")]
    file: Option<PathBuf>,
}

/// Decline a release in a group: nothing is done, and an earlier approval of it is retired.
#[derive(Debug, clap::Args)]
#[command(after_help = DECLINE_EXAMPLE)]
pub(crate) struct DeclineArgs {
    #[command(flatten)]
    which: Which,
    /// A remark, at most 256 bytes.
    #[arg(long, default_value = "")]
    note: String,
    /// Write the request to a file instead of signing it; `upswarm sign FILE` signs it where the keys are.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Let an approved release begin now, whatever its windows, rings and deferrals say.
#[derive(Debug, clap::Args)]
#[command(after_help = EXPEDITE_EXAMPLE)]
pub(crate) struct ExpediteArgs {
    #[command(flatten)]
    which: Which,
    /// Write the request to a file instead of signing it; `upswarm sign FILE` signs it where the keys are.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A release in a group.
#[derive(Debug, clap::Args)]
struct Which {
    /// The release: PRODUCT@VERSION (the last part of the product's name suffices), its id, or at least eight first digits of it.
    /// For approve also apt:NAME@latest, apt:NAME@VERSION, or with --back apt:NAME@before, a snapshot of a repository.
    release: String,
    /// The group.
    #[arg(long)]
    group: String,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ActionArg {
    Install,
    Uninstall,
    None,
}

/// How an approval is asked for: what may be passed over without asking.
pub(super) struct Manner {
    pub(super) dry_run: bool,
    pub(super) yes: bool,
    /// Where the request goes instead of being signed.
    pub(super) export: Option<PathBuf>,
    pub(super) verb: &'static str,
    /// What the release must be, where it is a snapshot that the coordinator has made for this.
    pub(super) selected: Option<snapshot::Selected>,
}

/// What a verb that decides prints as JSON.
#[derive(Serialize)]
struct Decided<'a> {
    release: upswarm_protocol::ids::ReleaseId,
    group: &'a str,
    action: Action,
    version: u64,
    expedite: bool,
    dry_run: bool,
    held_by: &'a [String],
    preview: &'a Preview,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_version: Option<u64>,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let action = match args.action {
        ActionArg::Install => Action::Install,
        ActionArg::Uninstall => Action::Uninstall,
        ActionArg::None => Action::None,
    };
    let (mut which, mut selected) = (args.which, None);
    if let Some(named) = which.release.strip_prefix(snapshot::PREFIX) {
        match snapshot::propose(named, &which.group, &args.selection, args.dry_run, &args.admin, common)? {
            Some(release) => {
                (which.release, selected) = (release.to_string(), Some(args.selection.of(named)));
            }
            None => return Ok(()),
        }
    } else {
        args.selection.must_be_empty()?;
    }
    let verb = match action {
        Action::Uninstall => "approved for removal",
        _ if args.selection.back() => "approved to go back",
        _ => "approved",
    };
    let back = args.selection.back();
    let mut draft = which.draft(Intent::Decide { action, schedule: Box::new(args.schedule), back });
    (draft.zone, draft.allow_empty) = (args.zone, args.allow_empty);
    decide(
        &draft,
        &args.admin,
        &Manner { dry_run: args.dry_run, yes: args.yes, export: args.export.file, verb, selected },
        common,
    )
}

pub(crate) fn decline(args: DeclineArgs, common: Common) -> Result<(), CliError> {
    let draft = args.which.draft(Intent::Decline { note: args.note });
    decide(
        &draft,
        &args.admin,
        &Manner { dry_run: false, yes: true, export: args.export, verb: "declined", selected: None },
        common,
    )
}

pub(crate) fn expedite(args: ExpediteArgs, common: Common) -> Result<(), CliError> {
    let draft = args.which.draft(Intent::Expedite);
    decide(
        &draft,
        &args.admin,
        &Manner { dry_run: false, yes: true, export: args.export, verb: "expedited", selected: None },
        common,
    )
}

impl Which {
    fn draft(self, intent: Intent) -> ApprovalDraft {
        // Only an approval that names its own schedule is held against who it reaches.
        let allow_empty = !matches!(intent, Intent::Decide { .. });
        ApprovalDraft { release: self.release, group: self.group, intent, zone: "UTC".to_owned(), allow_empty }
    }
}

/// Asks for a draft, and has it signed unless it is only looked at.
fn decide(draft: &ApprovalDraft, admin: &AdminArgs, manner: &Manner, common: Common) -> Result<(), CliError> {
    let (client, runtime) = (admin.client()?, super::runtime()?);
    let request = runtime.block_on(client.draft(draft))?;
    if let Some(selected) = &manner.selected {
        selected.is(&request.release.0)?;
    }
    let shown = &request.preview;
    let what = format!("{} {} in group {}", shown.product, shown.version, shown.group);
    let held = preview::held_line(&shown.held_by);
    let mut decided = Decided {
        release: shown.release,
        group: &shown.group,
        action: shown.action,
        version: shown.replaces.saturating_add(1),
        expedite: matches!(draft.intent, Intent::Expedite),
        dry_run: manner.dry_run,
        held_by: &shown.held_by,
        preview: shown,
        head_version: None,
    };
    if manner.dry_run {
        let text = format!("would be {}: {what}\n{}{held}", manner.verb, preview::text(shown));
        common.print(&decided, &text);
        return Ok(());
    }
    if !manner.yes {
        agree(&shown.questions)?;
    }
    let roots = runtime.block_on(client.roots())?.roots;
    if let Some(path) = &manner.export {
        let asked = AskedApproval { draft: draft.clone(), request: request.clone() };
        write(path, &RequestFile::new(roots, Asked::Approval(Box::new(asked))))?;
        exported(path, &format!("to be {}: {what}", manner.verb), common);
        return Ok(());
    }
    let place = admin.key_place(KeyUse::Approver)?;
    let (checked, approval) = checked(roots, &request, draft, &place)?;
    let accepted = runtime.block_on(client.approve(checked.sign(&place)?.complete()?))?;
    decided.head_version = Some(accepted.index_version);
    let later = approval.schedule.available_from.filter(|from| decided.expedite && *from > approval.issued);
    let later =
        later.map_or(String::new(), |from| format!("; it is available from {from}, which expediting does not change"));
    let (verb, version, index) = (manner.verb, approval.version, accepted.index_version);
    let who = if matches!(draft.intent, Intent::Decide { .. }) {
        format!("\n{}", preview::short(shown))
    } else {
        String::new()
    };
    common.print(&decided, &format!("{verb}: {what} (approval version {version}, index {index}){later}{who}{held}"));
    Ok(())
}

/// Approves without a person who could be asked; returns what was accepted.
pub(super) async fn without_asking(
    client: &Client,
    draft: &ApprovalDraft,
    place: &KeyPlace,
) -> Result<Accepted, CliError> {
    let request = client.draft(draft).await?;
    let (checked, _) = checked(client.roots().await?.roots, &request, draft, place)?;
    client.approve(checked.sign(place)?.complete()?).await
}

/// Holds a draft that came a moment ago against what was asked for.
fn checked(
    roots: Vec<HexBytes>,
    request: &SigningRequest,
    draft: &ApprovalDraft,
    place: &KeyPlace,
) -> Result<(Checked, Approval), CliError> {
    let asked = AskedApproval { draft: draft.clone(), request: request.clone() };
    let checked = check(RequestFile::new(roots, Asked::Approval(Box::new(asked))), place, Carried::Here, wall())?;
    let Document::Approval(approval, _) = checked.document() else {
        return Err(CliError::Refused("nothing was signed: it is no approval".to_owned()));
    };
    let approval = approval.as_ref().clone();
    Ok((checked, approval))
}

/// Asks what the plan's writer may not have meant. Where nobody can be asked, says what says yes.
fn agree(questions: &[String]) -> Result<(), CliError> {
    if questions.is_empty() {
        return Ok(());
    }
    let said: String = questions.iter().map(|question| format!("\n  {}", super::output::clean(question))).collect();
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(CliError::Refused(format!("nothing was signed:{said}\nif that is what you want, say --yes")));
    }
    eprint!("{}\nSign it all the same? [y/N] ", said.trim_start_matches('\n'));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| CliError::Failed(error.into()))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliError::Refused("nothing was signed".to_owned())),
    }
}
