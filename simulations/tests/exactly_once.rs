//! One copy of each byte crosses the WAN, in about the time that the WAN needs for one copy.

use upswarm_simulations::scenario::{self, Download};
use upswarm_simulations::world::{Discovery, Params, World};

fn check(name: &str, params: Params, run: fn(Params, u64) -> anyhow::Result<(World, Download)>, mib: u64, most: f64) {
    let shown = format!("{name}: {params:?}");
    let (mut world, download) = run(params, mib).unwrap_or_else(|error| panic!("{shown}: {error}"));
    let figures = download.figures(name, &world);
    println!("{figures:?}");
    assert_eq!(world.counts.wan, download.published.len(), "{shown}: each byte once, and no byte twice");
    assert!(figures.makespan <= most, "{shown}: {figures:?}");
    assert!(figures.timeouts < 100.0, "{shown}: {figures:?}");
    assert!(world.counts.most_outputs < 2000, "{shown}: {} outputs after one change", world.counts.most_outputs);
    scenario::reported(&mut world, download.published.id).unwrap_or_else(|error| panic!("{shown}: {error}"));
}

#[test]
fn a_small_site_that_is_running() {
    for (nodes, seed) in [(2, 1), (8, 1), (8, 2), (16, 3)] {
        check("running", Params { nodes, seed, ..Params::default() }, scenario::running, 256, 1.10);
    }
}

#[test]
fn a_small_site_that_starts_at_one_moment() {
    // The first to come fetches while the others get to know each other; one that meets nobody waits for others in vain.
    for (nodes, seed, most) in [(1, 1, 1.10), (8, 1, 1.035), (8, 2, 1.035), (16, 3, 1.035)] {
        check("cold", Params { nodes, seed, ..Params::default() }, scenario::cold, 256, most);
    }
}

#[test]
fn whichever_way_the_machines_find_each_other() {
    for (discovery, seed) in [(Discovery::Coordinator, 1), (Discovery::Named(3), 2)] {
        let params = Params { nodes: 12, seed, discovery, ..Params::default() };
        check("running", params.clone(), scenario::running, 64, 1.3);
        check("cold", params, scenario::cold, 64, 1.6);
    }
}

#[test]
fn a_branch_cache_fetches_most_of_it() {
    for seed in [1, 2] {
        let params = Params { nodes: 12, cache: true, seed, ..Params::default() };
        check("cache", params.clone(), scenario::cold, 64, 1.6);
        let (world, download) = scenario::running(params, 64).unwrap();
        let share = world.machines[12].wan as f64 / download.published.len() as f64;
        assert!(share > 0.3, "the cache fetched only {share}");
    }
}

#[test]
fn a_large_site_that_is_running() {
    check("running", Params { nodes: 100, seed: 1, ..Params::default() }, scenario::running, 256, 1.10);
}

#[test]
fn a_large_site_that_starts_at_one_moment() {
    check("cold", Params { nodes: 100, seed: 2, ..Params::default() }, scenario::cold, 64, 1.6);
}

#[test]
fn metered_machines_never_fetch_over_the_wan() {
    for seed in [1, 2] {
        let params = Params { nodes: 16, metered_in_ten: 6, seed, ..Params::default() };
        let (world, download) = scenario::cold(params, 64).unwrap();
        let metered: Vec<_> = world.machines.iter().filter(|machine| machine.weight == 0).collect();
        assert!(!metered.is_empty() && metered.iter().all(|machine| machine.wan == 0));
        assert_eq!(world.counts.wan, download.published.len());
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| scenario::cold(Params { nodes: 6, seed, ..Params::default() }, 16).unwrap().0.trace;
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
