//! An update that does harm stops by itself in an early ring, and one that works reaches everyone.

use upswarm_simulations::rollout;
use upswarm_simulations::world::{Harm, Params};

/// Each alone at its site: what a rollout does between neighbours, other tests show.
fn fleet() -> Params {
    Params { sites: 1000, nodes: 1, ..Params::default() }
}

#[test]
fn one_that_fails_on_three_percent_of_models_stops_by_itself() {
    let figures = rollout::run(fleet(), Some(Harm::Fails), 200).unwrap();
    println!("{figures:?}");
    figures.check().unwrap();
}

#[test]
fn one_that_takes_machines_down_stops_by_itself() {
    let figures = rollout::run(fleet(), Some(Harm::Silences), 200).unwrap();
    println!("{figures:?}");
    figures.check().unwrap();
    assert!(figures.stop.is_some_and(|stop| stop.silent > 0 && stop.failed == 0));
}

#[test]
fn one_that_works_reaches_everyone() {
    let figures = rollout::run(fleet(), None, 200).unwrap();
    println!("{figures:?}");
    figures.check().unwrap();
}
