//! `pause` and `resume`. One call; what may go on is the use-case's to say.

use super::admin::AdminArgs;
use super::{CliError, Common};
use crate::api::holds::{Held, HoldRequest};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm pause                                        everything
  upswarm pause --group office                         everything in a group
  upswarm pause --release editor@2.1                   one release everywhere
  upswarm resume --group office --release editor@2.1

`resume` lifts what was paused with the same words, and a rollout that has stopped by itself: --group and --release. What is
narrower, or has stopped by itself, stays on hold and is named. It refuses when rings of a rollout would begin at once because
their time has come meanwhile, unless --all-due says that they may.";

/// What is meant: everything, a group, a release, or a release in a group.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// Only in this group.
    #[arg(long)]
    group: Option<String>,
    /// Only this release: PRODUCT or PRODUCT@VERSION (the last part of the product's name suffices), its id, or at least eight first digits of it.
    #[arg(long)]
    release: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// `resume` has one word more.
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// Also when rings whose time came in the meantime then begin at once.
    #[arg(long)]
    all_due: bool,
    #[command(flatten)]
    common: Args,
}

pub(crate) fn pause(args: Args, common: Common) -> Result<(), CliError> {
    set(args, true, false, common)
}

pub(crate) fn resume(args: ResumeArgs, common: Common) -> Result<(), CliError> {
    set(args.common, false, args.all_due, common)
}

/// Holds (`on`) or lets go on. Returns when the head that says so is published.
fn set(args: Args, on: bool, all_due: bool, common: Common) -> Result<(), CliError> {
    let request = HoldRequest { group: args.group, release: args.release, on, all_due };
    let held = super::runtime()?.block_on(args.admin.client()?.hold(&request))?;
    common.print(&held, &text(&held));
    Ok(())
}

fn text(held: &Held) -> String {
    let verb = match (held.hold, held.changed) {
        (true, false) => "on hold already",
        (true, true) => "on hold",
        (false, _) => "goes on",
    };
    let mut line = format!("{verb}: {} (index {})", held.what, held.head_version);
    if !held.still_held.is_empty() {
        line.push_str(&format!(
            "\nstays on hold, by itself or by another pause: {}; each goes on with its own upswarm resume",
            held.still_held.join(", ")
        ));
    }
    line
}
