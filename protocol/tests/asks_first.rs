//! A machine that was off asks whether what its disk says still holds before it installs anything.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::report::{DeploymentState as S, SubState};
use upswarm_protocol::wire::BlockWhat;

const ASK: Duration = Duration::from_secs(10);

/// A machine that has all of an approved release on its disk and has just been switched on.
fn switched_on(edition: &Edition) -> Bench {
    let mut bench = Bench::new(edition, |config| config.ask_first = ASK);
    bench.fill();
    assert!(bench.installs().is_empty());
    bench
}

#[test]
fn without_word_it_waits_ten_seconds() {
    let (edition, id) = approved(|_| ());
    let mut bench = switched_on(&edition);
    let (state, sub_state, reason) = bench.standing(id);
    assert_eq!((state, sub_state), (S::Downloaded, SubState::AwaitingCatalog), "{reason}");
    // A neighbour may have been off as well.
    let mut neighbour = Bench::of(&key(41), "pc-2", &edition, |_| ());
    meet(&mut bench, &mut neighbour);
    bench.pass(ASK - Duration::from_secs(1));
    assert!(bench.installs().is_empty());
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.installs(), [id]);
}

#[test]
fn the_coordinators_word_is_enough() {
    let (edition, id) = approved(|_| ());
    let mut bench = switched_on(&edition);
    bench.hears_the_coordinator(&edition, &[]);
    assert_eq!(bench.installs(), [id]);
}

#[test]
fn what_was_held_meanwhile_is_not_begun() {
    let world = World::new();
    let release = world.publish(&tool());
    let id = release.release;
    let documents = vec![release, world.approve(&approval(GROUP, id, 3))];
    let held = world.edition_with(8, documents.clone(), |index| index.holds = list(vec![Hold::Everything]));
    let mut bench = switched_on(&world.edition(7, documents));
    bench.hears_the_coordinator(&held, &[]);
    assert!(bench.installs().is_empty(), "the index is still to come");
    let index = DocHash::of(&held.index);
    let asked = bench.asked.iter().find_map(|output| match output {
        Output::FetchDoc { fetch, what: BlockWhat::Doc(hash), .. } if *hash == index => Some(*fetch),
        _ => None,
    });
    bench.input(Input::DocFetched { fetch: asked.expect("the index is asked for"), result: Ok(held.index) });
    bench.pass(HOUR);
    assert!(bench.installs().is_empty());
    assert_eq!((bench.standing(id).0, bench.standing(id).1), (S::OnHold, SubState::Paused));
}
