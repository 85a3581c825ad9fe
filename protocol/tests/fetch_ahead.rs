//! Case 30: bytes come ahead of need only where the approval says so, and never for a ring that may never come.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::report::{DeploymentState as S, SubState};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// Whether the node wants the payload, and has or fetches it.
fn wants(bench: &Bench) -> bool {
    bench.state.status(bench.now.mono).downloads.iter().any(|download| download.wanted)
}

/// The whole group in a ring that begins so long after now.
fn in_ring(after: Duration) -> impl Fn(&mut Approval) {
    move |approval| {
        let delay_s = (approval.issued.max(NOW).since(approval.issued) + after).as_secs() as u32;
        approval.rings.rings = list(vec![Ring { up_to: 10_000, delay_s }]);
    }
}

#[test]
fn a_ring_that_is_far_off_costs_nothing_until_it_is_near() {
    let (edition, id) = approved(in_ring(4 * HOUR));
    let mut bench = Bench::new(&edition, |_| ());
    let (state, sub_state, reason) = bench.standing(id);
    assert_eq!((state, sub_state), (S::Pending, SubState::Scheduled), "{reason}");
    assert!(!wants(&bench));
    let told = bench.told(id);
    assert!(told.contains("Its bytes may come from 2027-01-15 12:00 CET on"), "{told}");
    bench.pass(2 * HOUR);
    assert!(!wants(&bench), "{}", bench.told(id));
    bench.pass(HOUR + MINUTE);
    assert!(wants(&bench), "an hour before, if nothing else is said: {}", bench.told(id));

    let (edition, id) = approved(|approval| approval.rings.rings = list(vec![Ring { up_to: 1, delay_s: 0 }]));
    let mut bench = Bench::new(&edition, |_| ());
    bench.pass(2 * HOUR);
    assert!(!wants(&bench), "no ring reaches this device: {}", bench.told(id));
}

#[test]
fn the_approval_says_how_long_before_and_at_which_hours() {
    // Nothing before the beginning.
    let (edition, _) = approved(|approval| {
        approval.schedule.available_from = Some(NOW + HOUR);
        approval.schedule.fetch_ahead.within_s = 0;
    });
    let mut bench = Bench::new(&edition, |_| ());
    bench.pass(HOUR - MINUTE);
    assert!(!wants(&bench));
    bench.pass(2 * MINUTE);
    assert!(wants(&bench), "{}", bench.told(bench.state.standings().next().unwrap().0));
    // In some hours before. It is 09:00 on the machine's clock.
    let (edition, id) = approved(|approval| {
        in_ring(10 * HOUR)(approval);
        let evenings = Window { days: Weekdays::ALL, start: 12 * 60, end: 14 * 60 };
        approval.schedule.fetch_ahead = FetchAhead { within_s: 2 * 86_400, windows: list(vec![evenings]) };
    });
    let mut bench = Bench::new(&edition, |_| ());
    bench.pass(2 * HOUR);
    assert!(!wants(&bench));
    let told = bench.told(id);
    assert!(
        told.contains("from 2027-01-15 12:00 CET on") && told.contains("2 d before its turn, daily 12:00-14:00"),
        "{told}"
    );
    bench.pass(HOUR + MINUTE);
    assert!(wants(&bench), "{}", bench.told(id));
}

/// What it fetches ahead is for the others of its site, whatever their rings.
#[test]
fn a_branch_cache_waits_for_the_first_ring() {
    for of_the_group in [true, false] {
        let (edition, _) = approved(|approval| {
            let rings = [(1, 3 * 3600), (10_000, 20 * 24 * 3600)].map(|(up_to, delay_s)| Ring { up_to, delay_s });
            approval.rings.rings = list(rings.to_vec());
            approval.issued = NOW;
        });
        let groups = if of_the_group { vec![GROUP] } else { vec![GroupId([0x55; 16])] };
        let mut cache = Bench::of_groups(&groups, NodeRole::Cache, &edition);
        cache.pass(HOUR);
        assert!(!wants(&cache), "of the group: {of_the_group}");
        cache.pass(HOUR + MINUTE);
        assert!(wants(&cache), "of the group: {of_the_group}");
    }
}
