//! `pause` and `resume`.

use std::path::PathBuf;

use serde_json::{Value, json};
use upswarm_protocol::ids::ReleaseId;

use super::approve::{find_group, find_release};
use super::{CliError, Common};
use crate::coordinator::client::Client;
use crate::coordinator::requests::HoldRequest;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm pause  --data-dir /var/lib/upswarm-coordinator                     everything
  upswarm pause  --data-dir D --group office                                 everything in a group
  upswarm pause  --data-dir D --release org.example.editor@2.1               one release everywhere
  upswarm resume --data-dir D --group office --release org.example.editor@2.1

`resume` lifts what was paused with the same words, and a rollout that has stopped by itself: --group and --release. It refuses
when rings of a rollout would begin at once because their time has come meanwhile, unless --all-due says that they may.";

/// What is meant: everything, a group, a release, or a release in a group.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The coordinator's data directory; the coordinator must be running.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Only in this group.
    #[arg(long)]
    group: Option<String>,
    /// Only this release: its id, at least eight first digits of it, or PRODUCT@VERSION.
    #[arg(long)]
    release: Option<String>,
}

/// `resume` has one word more.
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    common: Args,
    /// Also when rings whose time came in the meantime then begin at once.
    #[arg(long)]
    all_due: bool,
}

pub(crate) fn resume(args: ResumeArgs, common: Common) -> Result<(), CliError> {
    set(args.common, false, args.all_due, common)
}

pub(crate) fn pause(args: Args, common: Common) -> Result<(), CliError> {
    set(args, true, false, common)
}

/// Holds (`on`) or lets go on. Returns when the head that says so is published.
fn set(args: Args, on: bool, all_due: bool, common: Common) -> Result<(), CliError> {
    let client = Client::of(&args.data_dir)?;
    let runtime = super::runtime()?;
    let (catalog, status) = (runtime.block_on(client.catalog())?, runtime.block_on(client.status())?);
    if let Some(group) = &args.group {
        find_group(&catalog, group)?;
    }
    let release = args.release.as_deref().map(|text| find_release(&catalog, text)).transpose()?;
    let id = release.map(|release| release.release.to_string());
    let what = match (&args.group, release) {
        (None, None) => "everything".to_owned(),
        (Some(group), None) => format!("everything in group {group}"),
        (None, Some(release)) => format!("{} {} in every group", release.product, release.version),
        (Some(group), Some(release)) => format!("{} {} in group {group}", release.product, release.version),
    };
    let standing = status["holds"].as_array().map(Vec::as_slice).unwrap_or_default();
    let same =
        |hold: &Value| hold["group"].as_str() == args.group.as_deref() && hold["release"].as_str() == id.as_deref();
    let was = standing.iter().any(same);
    if !on && !was {
        let others: Vec<String> = standing.iter().map(words).collect();
        let others = if others.is_empty() { "nothing is".to_owned() } else { others.join(", ") };
        return Err(CliError::Refused(format!("{what} is not on hold; on hold: {others}")));
    }
    if !on && !all_due {
        let due = fallen_due(&status, args.group.as_deref(), id.as_deref());
        if !due.is_empty() {
            return Err(CliError::Refused(format!(
                "not resumed: meanwhile the time of rings has come in which nothing has been done yet, and they would begin at \
                 once: {}; to go on ring by ring, approve it again with new times; to let all of them begin, say --all-due",
                due.join(", ")
            )));
        }
    }
    let request = HoldRequest { group: args.group.clone(), release: id.clone(), on };
    let index_version = runtime.block_on(client.hold(&request))?;
    let json = json!({
        "hold": on, "group": args.group, "release": id, "changed": was != on, "head_version": index_version,
    });
    let verb = match (on, was) {
        (true, true) => "on hold already",
        (true, false) => "on hold",
        (false, _) => "goes on",
    };
    common.print(&json, &format!("{verb}: {what} (index {index_version})"));
    Ok(())
}

/// Rings after the first that are due and in which no device has come to an end, of rollouts that this would let go on.
fn fallen_due(status: &Value, group: Option<&str>, release: Option<&str>) -> Vec<String> {
    let named = |rollout: &&Value| {
        rollout["held"] == true
            && group.is_none_or(|group| rollout["group"] == group)
            && release.is_none_or(|release| rollout["release"] == release)
    };
    let count = |ring: &Value, key: &str| ring[key].as_u64().unwrap_or(0);
    let untouched = |ring: &&Value| {
        let ended = count(ring, "installed") + count(ring, "failed") + count(ring, "silent");
        ring["has_begun"] == true && ended == 0 && count(ring, "devices") > 0
    };
    let mut due = Vec::new();
    for rollout in status["rollouts"].as_array().into_iter().flatten().filter(named) {
        let later = rollout["rings"].as_array().into_iter().flatten().skip(1);
        due.extend(later.filter(untouched).map(|ring| {
            let word = |key: &str| rollout[key].as_str().unwrap_or_default().to_owned();
            let (title, version, devices) = (word("title"), word("version"), count(ring, "devices"));
            format!("ring {} of {title} ({version}) in group {}: {devices} devices", ring["ring"], word("group"))
        }));
    }
    due
}

/// What holds a release in a group back, in the words of the flags of `resume`.
pub(super) fn holding(status: &Value, group: &str, release: &ReleaseId) -> Vec<String> {
    let release = release.to_string();
    let covers = |hold: &&Value| {
        hold["group"].as_str().is_none_or(|held| held == group)
            && hold["release"].as_str().is_none_or(|held| held == release)
    };
    status["holds"].as_array().into_iter().flatten().filter(covers).map(words).collect()
}

/// A line for people about what [`holding`] found; empty when it found nothing.
pub(super) fn held_line(holding: &[String]) -> String {
    if holding.is_empty() {
        return String::new();
    }
    format!("\non hold all the same, by what was paused or has stopped: {}; see upswarm resume", holding.join(", "))
}

/// A hold of the status in the words of the flags.
pub(super) fn words(hold: &Value) -> String {
    let flags = [("group", "--group"), ("release", "--release")];
    let given = flags.iter().filter_map(|(key, flag)| Some(format!("{flag} {}", hold[*key].as_str()?)));
    let given: Vec<String> = given.collect();
    if given.is_empty() { "everything".to_owned() } else { given.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_an_approval_back_is_told() {
        let (held, other) = (ReleaseId([1; 32]), ReleaseId([2; 32]));
        let status = json!({ "holds": [
            { "group": "office" }, { "release": held }, { "group": "lab", "release": other }, { "group": "lab" },
        ]});
        assert_eq!(holding(&status, "office", &held), ["--group office".to_owned(), format!("--release {held}")]);
        assert_eq!(holding(&status, "office", &other), ["--group office"]);
        assert!(holding(&status, "pilots", &other).is_empty());
        assert_eq!(holding(&json!({ "holds": [{}] }), "pilots", &other), ["everything"]);
        assert_eq!(held_line(&[]), "");
    }

    #[test]
    fn rings_that_fell_due_are_told_before_they_begin() {
        let ring = |ring: u64, has_begun: bool, installed: u64| json!({ "ring": ring, "has_begun": has_begun, "devices": 10 * ring, "installed": installed, "failed": 0, "silent": 0 });
        let status = json!({ "rollouts": [
            { "title": "Editor", "version": "2.1", "group": "office", "release": "aa", "held": true,
              "rings": [ring(1, true, 0), ring(2, true, 3), ring(3, true, 0), ring(4, false, 0)] },
            { "title": "Tool", "version": "1", "group": "lab", "release": "bb", "held": false,
              "rings": [ring(1, true, 1), ring(2, true, 0)] },
        ]});
        let expected = ["ring 3 of Editor (2.1) in group office: 30 devices"];
        for (group, release) in [(None, None), (Some("office"), None), (None, Some("aa")), (Some("office"), Some("aa"))]
        {
            assert_eq!(fallen_due(&status, group, release), expected);
        }
        for (group, release) in [(Some("lab"), None), (None, Some("bb")), (Some("office"), Some("bb"))] {
            assert!(fallen_due(&status, group, release).is_empty());
        }
    }
}
