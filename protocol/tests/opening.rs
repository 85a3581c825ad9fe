//! The first machine of a site to come fetches at once, while the others still get to know each other.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::wire::Message;

/// The coordinator greets, and says so.
fn is_told_it_is_the_first(bench: &mut Bench, edition: &Edition) {
    bench.hears_the_coordinator(edition, &[Message::FirstOfSite]);
    bench.pass(Duration::from_millis(1));
}

fn fetches_over_the_wan(bench: &Bench) -> bool {
    bench.asked.iter().any(|output| matches!(output, Output::Fetch { from: FetchFrom::Urls(_), .. }))
}

/// Two machines that have just started and met.
fn two(edition: &Edition, weight: u8) -> (Bench, Bench) {
    let mut here = Bench::new(edition, |config| config.wan_weight = weight);
    let mut there = Bench::of(&key(41), "pc-2", edition, |_| ());
    meet(&mut here, &mut there);
    (here, there)
}

#[test]
fn the_first_of_its_site_begins_at_once_and_the_other_does_not() {
    let (edition, _) = approved(|_| ());
    let (mut here, mut there) = two(&edition, 8);
    there.hears_the_coordinator(&edition, &[]);
    there.pass(Duration::from_millis(1));
    is_told_it_is_the_first(&mut here, &edition);
    assert!(fetches_over_the_wan(&here) && !fetches_over_the_wan(&there));
}

#[test]
fn the_first_begins_when_it_meets_somebody() {
    let (edition, _) = approved(|_| ());
    let (mut here, mut there) = (Bench::new(&edition, |_| ()), Bench::of(&key(41), "pc-2", &edition, |_| ()));
    is_told_it_is_the_first(&mut here, &edition);
    assert!(!fetches_over_the_wan(&here), "others may be at work where it has nobody to tell it yet");
    meet(&mut here, &mut there);
    here.pass(Duration::from_millis(1));
    assert!(fetches_over_the_wan(&here));
}

#[test]
fn whoever_should_not_carry_much_does_not_begin_for_all() {
    let (edition, _) = approved(|_| ());
    for weight in [0, 1] {
        let (mut here, _) = two(&edition, weight);
        is_told_it_is_the_first(&mut here, &edition);
        assert!(!fetches_over_the_wan(&here), "{weight}");
    }
}

#[test]
fn one_that_comes_where_others_have_some_of_it_does_not_begin() {
    let (edition, _) = approved(|_| ());
    let (mut here, mut there) = (Bench::new(&edition, |_| ()), Bench::of(&key(41), "pc-2", &edition, |_| ()));
    there.input(Input::ChunkStored { fetch: 999_999, payload: PayloadId::of(b"tool"), chunk: 1 });
    there.pass(Duration::from_secs(1));
    meet(&mut here, &mut there);
    is_told_it_is_the_first(&mut here, &edition);
    assert!(!fetches_over_the_wan(&here));
}

#[test]
fn the_word_is_good_for_a_start_only() {
    let (edition, _) = approved(|_| ());
    let mut here = Bench::new(&edition, |_| ());
    let mut there = Bench::of(&key(41), "pc-2", &edition, |config| config.wan_weight = 255);
    meet(&mut here, &mut there);
    pass_together(&mut here, &mut there, Duration::from_secs(1));
    here.pass(Duration::from_secs(2));
    assert!(!fetches_over_the_wan(&here), "it is the other's to fetch");
    is_told_it_is_the_first(&mut here, &edition);
    assert!(!fetches_over_the_wan(&here));
}
