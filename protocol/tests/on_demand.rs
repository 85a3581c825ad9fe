//! What a client of a machine may have fetched: files of what is approved there and has begun, and nothing else.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;

fn offered() -> Release {
    snapshot_with_lists(&[("openssl", WhenAbsent::Never), ("vim", WhenAbsent::Never)])
}

/// A machine for which nothing of the snapshot is to be done.
fn bench(change: impl FnOnce(&mut Approval)) -> (Bench, ReleaseId) {
    let (edition, id) = with_release(offered(), change);
    let mut bench = Bench::new(&edition, |_| ());
    bench.found = Detection::NotApplicable("nothing of it is here".into());
    bench.input(Input::Detected { release: id, result: bench.found.clone() });
    (bench, id)
}

fn vim() -> PayloadId {
    PayloadId::of(b"vim_2_amd64.deb")
}

fn is_wanted(bench: &Bench, payload: PayloadId) -> bool {
    let downloads = bench.state.status(bench.now.mono).downloads;
    downloads.iter().any(|download| download.payload == payload && download.wanted)
}

#[test]
fn a_file_that_a_client_asks_for_is_fetched_and_let_go_when_it_is_here() {
    let (mut bench, id) = bench(|_| ());
    let offers: Vec<ReleaseId> = bench.state.offers(bench.now).into_iter().map(|(id, _)| id).collect();
    assert_eq!(offers, [id]);
    assert!(!is_wanted(&bench, vim()));
    bench.input(Input::Want { payload: vim() });
    assert!(is_wanted(&bench, vim()));
    bench.pass(Duration::from_millis(100));
    bench.asked.clear();
    for chunk in 0..2 {
        bench.input(Input::ChunkStored { fetch: 999_999, payload: vim(), chunk });
    }
    assert!(!is_wanted(&bench, vim()), "it may go when room is needed");
    assert!(bench.asked.iter().any(|output| matches!(output, Output::Unpin { payload } if *payload == vim())));
    // It is here: to ask again costs nothing.
    bench.input(Input::Want { payload: vim() });
    assert!(!is_wanted(&bench, vim()));
}

#[test]
fn nobody_has_fetched_what_is_not_approved_here() {
    let (mut bench, _) = bench(|_| ());
    let stranger = PayloadId::of(b"tool");
    bench.input(Input::Want { payload: stranger });
    assert!(!is_wanted(&bench, stranger));
}

#[test]
fn a_snapshot_is_offered_when_the_ring_of_the_machine_begins_whatever_the_hour() {
    type Change = fn(&mut Approval);
    let later: Change = |approval| {
        let ring = Ring { up_to: 10_000, delay_s: 7200 };
        approval.rings = RingPlan { rings: list(vec![ring]), ..RingPlan::default() };
    };
    let from: Change = |approval| approval.schedule.available_from = Some(NOW + HOUR);
    for change in [later, from] {
        let (mut bench, _) = bench(change);
        assert!(bench.state.offers(bench.now).is_empty());
        bench.input(Input::Want { payload: vim() });
        assert!(!is_wanted(&bench, vim()));
        bench.pass(2 * HOUR);
        assert_eq!(bench.state.offers(bench.now).len(), 1);
        bench.input(Input::Want { payload: vim() });
        assert!(is_wanted(&bench, vim()));
    }
    let never_open: Change = |approval| {
        let minute = Window { days: Weekdays::ALL, start: 60, end: 61 };
        approval.schedule.windows = list(vec![minute]);
    };
    let (bench, _) = bench(never_open);
    assert_eq!(bench.state.offers(bench.now).len(), 1, "windows restrain the agent alone");
}
