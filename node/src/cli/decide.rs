//! `decline` and `expedite`: short ways to sign another version of an approval.

use std::path::PathBuf;

use serde_json::json;
use upswarm_protocol::catalog::{Action, Approval, RingPlan, Schedule};
use upswarm_protocol::codec::Text;

use super::approve::{KeyArgs, current, find_group, find_release, submit};
use super::hold::{held_line, holding};
use super::schedule::{LIFE, check};
use super::{CliError, Common};
use crate::clock::wall;
use crate::coordinator::client::Client;
use crate::coordinator::keys::KeyUse;

const DECLINE_EXAMPLE: &str = "\
EXAMPLE:
  upswarm decline --data-dir /var/lib/upswarm-coordinator org.example.editor@2.1 --group office --note \"breaks printing\"";

const EXPEDITE_EXAMPLE: &str = "\
EXAMPLE:
  upswarm expedite --data-dir /var/lib/upswarm-coordinator org.example.editor@2.1 --group office";

/// Decline a release in a group: nothing is done, and an earlier approval of it is retired.
#[derive(Debug, clap::Args)]
#[command(after_help = DECLINE_EXAMPLE)]
pub(crate) struct DeclineArgs {
    #[command(flatten)]
    which: Which,
    /// A remark, at most 256 bytes.
    #[arg(long, default_value = "")]
    note: String,
}

/// Let an approved release begin now, whatever its windows, rings and deferrals say.
#[derive(Debug, clap::Args)]
#[command(after_help = EXPEDITE_EXAMPLE)]
pub(crate) struct ExpediteArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The coordinator's data directory; the coordinator must be running.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The release: its id, at least eight first digits of it, or PRODUCT@VERSION.
    release: String,
    /// The group.
    #[arg(long)]
    group: String,
    #[command(flatten)]
    keys: KeyArgs,
}

pub(crate) fn decline(args: DeclineArgs, common: Common) -> Result<(), CliError> {
    let note = Text::new(args.note.as_str()).map_err(|error| CliError::Refused(format!("--note: {error}")))?;
    decide(&args.which, common, "declined", |before| {
        if before.as_ref().is_some_and(|before| before.action == Action::None) {
            return Err("it is declined already".to_owned());
        }
        Ok(Decision { action: Action::None, schedule: Schedule::default(), rings: RingPlan::default(), note })
    })
}

pub(crate) fn expedite(args: ExpediteArgs, common: Common) -> Result<(), CliError> {
    decide(&args.which, common, "expedited", |before| match before {
        None => Err("it is not approved there; approve it with: upswarm approve --expedite".to_owned()),
        Some(Decision { action: Action::None, .. }) => {
            Err("it is declined there; approve it with: upswarm approve --expedite".to_owned())
        }
        Some(mut before) => {
            before.schedule.expedite = true;
            // A deadline that has passed says nothing more than `expedite`, and would be refused.
            before.schedule.deadline = before.schedule.deadline.filter(|deadline| *deadline > wall());
            Ok(before)
        }
    })
}

/// What an approval says apart from its release, group, version and times.
struct Decision {
    action: Action,
    schedule: Schedule,
    rings: RingPlan,
    note: Text<256>,
}

fn decide(
    which: &Which,
    common: Common,
    verb: &str,
    next: impl FnOnce(Option<Decision>) -> Result<Decision, String>,
) -> Result<(), CliError> {
    let client = Client::of(&which.data_dir)?;
    let runtime = super::runtime()?;
    let (catalog, status) = (runtime.block_on(client.catalog())?, runtime.block_on(client.status())?);
    let release = find_release(&catalog, &which.release)?;
    let group = find_group(&catalog, &which.group)?;
    let what = format!("{} {} in group {}", release.product, release.version, which.group);
    let before = current(&catalog, group, release);
    let known = before.map(|known| Decision {
        action: known.action,
        schedule: known.schedule.clone(),
        rings: known.rings.clone(),
        note: Text::lossy(&known.note),
    });
    let decision = next(known).map_err(|reason| CliError::Refused(format!("{what}: {reason}")))?;
    let now = wall();
    let approval = Approval {
        group,
        release: release.release,
        version: before.map_or(0, |known| known.version) + 1,
        action: decision.action,
        issued: now,
        expires: now + LIFE,
        schedule: decision.schedule,
        rings: decision.rings,
        note: decision.note,
    };
    check(&approval)?;
    let signers = which.keys.signers(&which.data_dir, KeyUse::Approver)?;
    let index_version = runtime.block_on(submit(&client, &approval, &signers))?;
    let later = approval.schedule.available_from.filter(|from| *from > now);
    let later =
        later.map_or(String::new(), |from| format!("; it is available from {from}, which expediting does not change"));
    let text = format!("{verb}: {what} (approval version {}, index {index_version}){later}", approval.version);
    let held_by =
        if approval.action == Action::None { Vec::new() } else { holding(&status, &which.group, &release.release) };
    let held = held_line(&held_by);
    let json = json!({
        "release": release.release, "group": which.group, "action": approval.action, "version": approval.version,
        "expedite": approval.schedule.expedite, "held_by": held_by, "head_version": index_version,
    });
    common.print(&json, &format!("{text}{held}"));
    Ok(())
}
