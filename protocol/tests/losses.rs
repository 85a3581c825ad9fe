//! What was on disk and is not any more: nobody is told otherwise, it comes again, and what rests on it waits.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::report::DeploymentState as S;
use upswarm_protocol::wire::{BlockStatus, BlockWhat};

/// Two connected machines that have fetched a release which may be installed tomorrow.
fn holders() -> (Bench, Bench, ReleaseId) {
    let tomorrow = NOW + Duration::from_secs(86_400);
    let (edition, id) = approved(|approval| {
        approval.schedule.available_from = Some(tomorrow);
        approval.schedule.fetch_ahead.within_s = 2 * 86_400;
    });
    let (mut here, mut there) = (Bench::new(&edition, |_| ()), Bench::of(&key(41), "pc-2", &edition, |_| ()));
    here.fill();
    there.fill();
    meet(&mut here, &mut there);
    (here, there, id)
}

fn pass(here: &mut Bench, there: &mut Bench, seconds: u32) {
    for _ in 0..seconds {
        here.pass(Duration::from_secs(1));
        there.pass(Duration::from_secs(1));
        talk(here, there);
    }
}

fn payload() -> PayloadId {
    PayloadId::of(b"tool")
}

/// How a block request of the neighbour is answered.
fn asks(bench: &mut Bench, peer: DeviceId, first: u32) -> Result<(), BlockStatus> {
    bench.asked.clear();
    bench.input(Input::BlockRequested {
        peer,
        serve: 7,
        what: BlockWhat::Chunks { payload: payload(), first, count: 1 },
    });
    let answer = bench.asked.iter().find_map(|output| match output {
        Output::Serve { .. } => Some(Ok(())),
        Output::Deny { status, .. } => Some(Err(*status)),
        _ => None,
    });
    bench.input(Input::Served { serve: 7, bytes: 0 });
    answer.expect("an answer")
}

fn fetches(bench: &mut Bench) -> Vec<(FetchId, FetchFrom, u32, u32)> {
    let fetch = |output: &mut Output| matches!(output, Output::Fetch { .. });
    let taken = bench.asked.extract_if(.., fetch).filter_map(|output| match output {
        Output::Fetch { fetch, from, first, count, .. } => Some((fetch, from, first, count)),
        _ => None,
    });
    taken.collect()
}

#[test]
fn a_chunk_that_has_rotted_is_not_served_and_comes_again_from_a_neighbour() {
    let (mut here, mut there, id) = holders();
    let (of_here, of_there) = (here.device(), there.device());
    let ready = here.standing(id);
    assert_eq!(asks(&mut here, of_there, 1), Ok(()));
    here.asked.clear();

    here.input(Input::ChunksLost { payload: payload(), chunks: vec![1] });
    let asked = fetches(&mut here);
    let [(fetch, FetchFrom::Peer(from), 1, 1)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(*from, of_there);
    pass(&mut here, &mut there, 1);
    assert_eq!(here.standing(id).0, S::Downloading, "what rests on it waits");
    assert_eq!(asks(&mut here, of_there, 1), Err(BlockStatus::NotHeld));
    assert_eq!(asks(&mut here, of_there, 0), Ok(()));
    // The neighbour has heard of it: when it loses the same chunk, it does not ask here.
    there.asked.clear();
    there.input(Input::ChunksLost { payload: payload(), chunks: vec![1] });
    assert!(!fetches(&mut there).iter().any(|(_, from, ..)| *from == FetchFrom::Peer(of_here)));

    let status = here.state.status(here.now.mono);
    assert_eq!((status.disk.rotten, status.alarms.len()), (1, 1), "{:?}", status.alarms);
    here.input(Input::ChunkStored { fetch: *fetch, payload: payload(), chunk: 1 });
    here.input(Input::FetchEnded { fetch: *fetch, bytes: 512 << 10, result: Ok(()) });
    assert_eq!(here.standing(id), ready);
    pass(&mut here, &mut there, 3);
    assert_eq!(asks(&mut here, of_there, 1), Ok(()));
    let asked = fetches(&mut there);
    assert!(asked.iter().any(|(_, from, first, _)| (from, first) == (&FetchFrom::Peer(of_here), &1)), "{asked:?}");
}

#[test]
fn a_payload_that_the_disk_does_not_take_is_opened_again_later() {
    let (mut here, mut there, id) = holders();
    let of_there = there.device();
    here.asked.clear();
    here.input(Input::PayloadFailed { payload: payload(), reason: StoreError::Failed("syncing: EIO".into()) });
    talk(&mut here, &mut there);
    let (state, _, reason) = here.standing(id);
    assert_eq!((state, reason.as_str()), (S::Stalled, "syncing: EIO"));
    assert_eq!(asks(&mut here, of_there, 0), Err(BlockStatus::NotHeld));
    pass(&mut here, &mut there, 55);
    assert!(fetches(&mut here).is_empty(), "nothing is fetched that cannot be stored");
    // The bench's store has nothing of it, so everything comes again: from the neighbour.
    pass(&mut here, &mut there, 10);
    let asked = fetches(&mut here);
    assert!(!asked.is_empty() && asked.iter().all(|(_, from, ..)| *from == FetchFrom::Peer(of_there)), "{asked:?}");
    assert_eq!(here.standing(id).0, S::Downloading);
}

#[test]
fn a_disk_that_takes_no_records_is_told_of_for_as_long_as_that_is_so() {
    let (mut here, _, _) = holders();
    here.input(Input::Disk { trouble: Some(text("records: no space left on device")) });
    contains(&told(&here.state.explain_node(here.now)), &["before there is room on the disk", "no space left"]);
    here.input(Input::Disk { trouble: None });
    assert!(!told(&here.state.explain_node(here.now)).contains("no space left"));
    here.input(Input::Scrubbed { bytes: 3 << 20, round_ended: true });
    contains(
        &told(&here.state.explain_node(here.now)),
        &["3.0 MiB of stored payloads were read again", "nothing had rotted"],
    );
}
