//! Stopping everything, a group, a release or one approval, and letting them go on. Owns what a resume may let begin at once.

use upswarm_protocol::catalog::Hold;
use upswarm_protocol::coordinator::{Command, Refusal};
use upswarm_protocol::ids::{GroupId, ReleaseId};

use super::{Decision, Desk, View};
use crate::api::actor::Actor;
use crate::api::audit::{Deed, Topic};
use crate::api::holds::{Held, HoldRequest, HoldView};
use crate::api::status::RolloutView;

/// Holds, or lets go on.
pub(crate) fn hold(actor: &Actor, desk: &Desk<'_>, request: &HoldRequest) -> Result<Decision<Held>, Refusal> {
    let view = desk.view;
    let group = request.group.as_deref().map(|name| desk.group_named(name)).transpose()?;
    let release = request.release.as_deref().map(|text| view.catalog.release_named(text)).transpose();
    let release = release.map_err(Refusal::Request)?;
    let what = match (&request.group, release) {
        (None, None) => "everything".to_owned(),
        (Some(group), None) => format!("everything in group {group}"),
        (None, Some(release)) => format!("{} {} in every group", release.product, release.version),
        (Some(group), Some(release)) => format!("{} {} in group {group}", release.product, release.version),
    };
    let release = release.map(|release| release.release);
    let meant = HoldView { group: request.group.clone(), release };
    let standing = view.holds();
    let was = standing.contains(&meant);
    if !request.on {
        may_go_on(view, &meant, &standing, &what, was, request.all_due)?;
    }
    // What stays within the one that is lifted: rollouts that have stopped by themselves, or narrower pauses.
    let within = |hold: &&HoldView| {
        **hold != meant
            && (meant.group.is_none() || hold.group == meant.group)
            && (meant.release.is_none() || hold.release == meant.release)
    };
    let still_held: Vec<String> =
        if request.on { Vec::new() } else { standing.iter().filter(within).map(HoldView::words).collect() };
    tracing::info!(%actor, what, on = request.on, "a hold is set");
    let (on, by_name) = (request.on, request.group.clone());
    let deed = Deed::new(Topic::Hold, deed_words(request, &what, was, &still_held));
    Ok(Decision::new(Command::Hold { hold: meaning(group, release), on }, deed, move |done| Held {
        hold: on,
        group: by_name,
        release,
        what,
        changed: was != on,
        still_held,
        head_version: done.index_version,
    }))
}

fn deed_words(request: &HoldRequest, what: &str, was: bool, still_held: &[String]) -> String {
    let verb = if request.on { "paused" } else { "let go on" };
    let mut words = format!("{what} was {verb}");
    if was == request.on {
        words.push_str(", as before");
    }
    if request.all_due {
        words.push_str("; all rings that are due begin at once");
    }
    if !still_held.is_empty() {
        words.push_str(&format!("; still on hold: {}", still_held.join(", ")));
    }
    words
}

fn meaning(group: Option<GroupId>, release: Option<ReleaseId>) -> Hold {
    match (group, release) {
        (None, None) => Hold::Everything,
        (Some(group), None) => Hold::Group(group),
        (None, Some(release)) => Hold::Release(release),
        (Some(group), Some(release)) => Hold::Approval(group, release),
    }
}

/// Refuses to let go on what is not on hold, and what would let rings begin unseen.
fn may_go_on(
    view: &View<'_>,
    meant: &HoldView,
    standing: &[HoldView],
    what: &str,
    was: bool,
    all_due: bool,
) -> Result<(), Refusal> {
    if !was {
        let others: Vec<String> = standing.iter().map(HoldView::words).collect();
        let others = if others.is_empty() { "nothing is".to_owned() } else { others.join(", ") };
        return Err(Refusal::Request(format!("{what} is not on hold; on hold: {others}")));
    }
    if all_due {
        return Ok(());
    }
    let due = fallen_due(&super::status::rollouts(view), meant, standing);
    if due.is_empty() {
        return Ok(());
    }
    Err(Refusal::Request(format!(
        "not resumed: meanwhile the time of rings has come in which nothing has been done yet, and they would begin at once: {}; \
         to go on ring by ring, approve it again with new times; to let all of them begin, say --all-due",
        due.join(", ")
    )))
}

/// Rings after the first that are due and in which no device has come to an end, of rollouts that this would let go on: one
/// that something else holds too does not.
fn fallen_due(rollouts: &[RolloutView], meant: &HoldView, standing: &[HoldView]) -> Vec<String> {
    let goes_on = |rollout: &&RolloutView| {
        let covers = |hold: &HoldView| hold.covers(&rollout.group, &rollout.release);
        rollout.held && covers(meant) && !standing.iter().any(|hold| hold != meant && covers(hold))
    };
    let mut due = Vec::new();
    for rollout in rollouts.iter().filter(goes_on) {
        let untouched = |ring: &&crate::api::status::RingView| {
            ring.has_begun && ring.installed + ring.failed + ring.silent == 0 && ring.devices > 0
        };
        due.extend(rollout.rings.iter().skip(1).filter(untouched).map(|ring| {
            let (title, version) = (rollout.title.as_deref().unwrap_or_default(), rollout.version.as_deref());
            let (version, group) = (version.unwrap_or_default(), &rollout.group);
            format!("ring {} of {title} ({version}) in group {group}: {} devices", ring.ring, ring.devices)
        }));
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::RingView;
    use upswarm_protocol::catalog::Action;

    fn ring(ring: usize, has_begun: bool, installed: u32) -> RingView {
        RingView {
            ring,
            up_to_percent: 10.0 * ring as f64,
            begins: String::new(),
            has_begun,
            devices: 10 * ring as u32,
            begun: 0,
            installed,
            failed: 0,
            silent: 0,
        }
    }

    fn rollout(title: &str, group: &str, release: u8, held: bool, rings: Vec<RingView>) -> RolloutView {
        RolloutView {
            release: ReleaseId([release; 32]),
            product: None,
            version: Some("2.1".to_owned()),
            title: Some(title.to_owned()),
            group: group.to_owned(),
            approval_version: 1,
            action: Action::Install,
            stop_above_percent: 0.0,
            held,
            left_out: 0,
            accepted_bad: 0,
            rings,
        }
    }

    fn meant(group: Option<&str>, release: Option<u8>) -> HoldView {
        HoldView { group: group.map(str::to_owned), release: release.map(|byte| ReleaseId([byte; 32])) }
    }

    #[test]
    fn rings_that_fell_due_are_told_before_they_begin() {
        let rollouts = [
            rollout(
                "Editor",
                "office",
                0xaa,
                true,
                vec![ring(1, true, 0), ring(2, true, 3), ring(3, true, 0), ring(4, false, 0)],
            ),
            rollout("Tool", "lab", 0xbb, false, vec![ring(1, true, 1), ring(2, true, 0)]),
        ];
        let expected = ["ring 3 of Editor (2.1) in group office: 30 devices"];
        for flags in [(None, None), (Some("office"), None), (None, Some(0xaa)), (Some("office"), Some(0xaa))] {
            let lifted = meant(flags.0, flags.1);
            assert_eq!(fallen_due(&rollouts, &lifted, std::slice::from_ref(&lifted)), expected);
            let stopped = meant(Some("office"), Some(0xaa));
            if lifted != stopped {
                let due = fallen_due(&rollouts, &lifted, &[lifted.clone(), stopped]);
                assert!(due.is_empty(), "a rollout that has stopped by itself stays stopped: {due:?}");
            }
        }
        for flags in [(Some("lab"), None), (None, Some(0xbb)), (Some("office"), Some(0xbb))] {
            assert!(fallen_due(&rollouts, &meant(flags.0, flags.1), &[]).is_empty());
        }
    }

    #[test]
    fn what_holds_an_approval_back_is_told_in_the_words_of_the_flags() {
        let held = ReleaseId([1; 32]);
        for (hold, covers, words) in [
            (meant(None, None), true, "everything"),
            (meant(Some("office"), None), true, "--group office"),
            (meant(None, Some(1)), true, "--release 01010101"),
            (meant(Some("lab"), Some(1)), false, "--group lab --release 01010101"),
            (meant(None, Some(2)), false, "--release 02020202"),
        ] {
            assert_eq!((hold.covers("office", &held), hold.words().as_str()), (covers, words));
        }
    }
}
