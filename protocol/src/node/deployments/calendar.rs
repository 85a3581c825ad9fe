//! What an approval's calendar says, in sentences: rings, windows, hours of work, the deadline and what was put off.
//!
//! It decides nothing: [`crate::schedule`] does, and the gates ask there.

use super::{Ask, Deployment, NodeState};
use crate::node::explain::Sentence;
use crate::schedule::{self, Decision, Why};

/// What the schedule says, and when it says something else.
pub(super) fn calendar_words(node: &NodeState, ask: Ask<'_>, deployment: &Deployment) -> Vec<Sentence> {
    let (approval, me) = (deployment.approval_words(), node.cx.me);
    let schedule = &deployment.approval.schedule;
    let (facts, wall) = (ask.facts(&deployment.journal), ask.wall());
    let mut sentences = Vec::new();
    match schedule::decide(&deployment.approval, &facts, wall) {
        Decision::Now { .. } => {}
        Decision::NotInRings => sentences.push(Sentence::new(
            "The rollout has no ring for this device yet.",
            format!(
                "rings of {approval} reach {} % of the group; this device stands at {} %",
                hundredths(deployment.approval.rings.rings.last().map_or(0, |ring| ring.up_to)),
                hundredths(schedule::ring_of(me, deployment.approval.release))
            ),
        )),
        // The permit says so with the date.
        Decision::Expired => {}
        Decision::NotBefore { at, why } => {
            let at_local = node.local(at);
            let (text, because) = match why {
                Why::AvailableFrom => (format!("It may not begin before {at_local}."), "available_from".to_owned()),
                Why::Ring { index } => (
                    format!("Ring {} of the rollout, to which this device belongs, begins at {at_local}.", index + 1),
                    format!(
                        "ring {} of {}, up to {} % of the group; this device stands at {} %",
                        index + 1,
                        deployment.approval.rings.rings.len(),
                        hundredths(deployment.approval.rings.rings.get(usize::from(index)).map_or(0, |r| r.up_to)),
                        hundredths(schedule::ring_of(me, deployment.approval.release))
                    ),
                ),
                Why::Jitter => (
                    format!("Starts are spread over a while; this device's turn is at {at_local}."),
                    format!("jitter of {} s", schedule.jitter_s),
                ),
                Why::Deferred => {
                    let (times, total) = facts.deferred.map_or((0, 0), |used| (used.times, used.total_s));
                    (
                        format!("The person at the machine put it off until {at_local}."),
                        format!(
                            "deferral: {times} of {} times, {total} of {} seconds used",
                            schedule.deferral.max_times, schedule.deferral.max_total_s
                        ),
                    )
                }
                Why::Window => (
                    format!("No maintenance window is open now; the next opens at {at_local}."),
                    format!("{} maintenance windows, read in this device's time zone", schedule.windows.len()),
                ),
                Why::ActiveHours => (
                    format!("It is a time of work; it may begin at {at_local}."),
                    "active_hours, read in this device's time zone".to_owned(),
                ),
                Why::Deadline => (format!("It waits for the deadline, {at_local}."), "deadline".to_owned()),
                Why::NoOpening => (
                    "No maintenance window ever opens outside the hours of work: the schedule contradicts itself."
                        .to_owned(),
                    "windows and active_hours".to_owned(),
                ),
            };
            let forced = schedule::forced_at(schedule, &facts, wall);
            let forced = forced.map_or(String::new(), |at| format!("; the deadline lifts this at {}", node.local(at)));
            let forced = if matches!(why, Why::Window | Why::ActiveHours | Why::NoOpening | Why::Deferred) {
                forced
            } else {
                String::new()
            };
            sentences.push(Sentence::new(text, format!("{because}, in {approval}{forced}")));
            let earliest = schedule::earliest(&deployment.approval, &facts, wall);
            if let Some(earliest) = earliest.filter(|earliest| *earliest > at) {
                sentences.push(Sentence::new(
                    format!("The first moment at which everything allows it is {}.", node.local(earliest)),
                    format!("the schedule of {approval}"),
                ));
            }
        }
    }
    sentences
}

/// Hundredths of a percent.
fn hundredths(number: u16) -> String {
    format!("{}.{:02}", number / 100, number % 100)
}
