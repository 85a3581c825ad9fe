//! Machines, links, the coordinator and the origin fail; afterwards everything must come together again.

use std::time::Duration;

use upswarm_simulations::scenario::{Download, describe};
use upswarm_simulations::world::{Params, World};

const SECOND: Duration = Duration::from_secs(1);

/// A site that runs, and half of a download at 50 Mbit/s.
fn half_way(nodes: usize, seed: u64, mib: u64) -> (World, Download) {
    let mut world = World::new(Params { nodes, seed, wan: 50_000_000, ..Params::default() });
    world.start_all(5 * SECOND);
    world.run_for(30 * SECOND);
    let download = Download::begin(&mut world, mib);
    let half = download.published.len() / 2;
    assert!(world.run_until(120 * SECOND, |world| world.counts.wan >= half), "half of it arrives");
    (world, download)
}

fn finish(world: &mut World, download: &Download, span: Duration) {
    let (id, nodes) = (download.published.id, world.machines.len());
    let done = world.run_until(span, |world| world.all_done(id, 0..nodes));
    assert!(done, "seed {}: not done after {span:?}\n{}", world.params.seed, describe(world, id));
}

#[test]
fn the_busiest_lease_holder_dies() {
    for (seed, power_cut) in [(1, true), (2, false), (3, true)] {
        let (mut world, download) = half_way(12, seed, 128);
        let busiest = (0..12).max_by_key(|node| world.machines[*node].wan).unwrap();
        world.kill(busiest, power_cut);
        world.start(busiest, 5 * SECOND);
        finish(&mut world, &download, 30 * SECOND);
        let figures = download.figures("dies", &world);
        println!("{figures:?}");
        // The partial chunks that were on their way, and what a power cut took before a neighbour had it.
        assert!(figures.amplification <= 1.02, "{figures:?}");
        assert!(figures.makespan < 1.5, "{figures:?}");
    }
}

#[test]
fn the_first_of_its_site_dies_while_it_fetches_for_all() {
    for seed in 1..=6 {
        let mut world = World::new(Params { nodes: 12, seed, ..Params::default() });
        let download = Download::begin(&mut world, 64);
        world.start_all(Duration::from_millis(100));
        assert!(world.run_until(5 * SECOND, |world| world.counts.wan >= 2 << 20), "somebody begins");
        let at_work: Vec<_> = (0..12).filter(|node| world.machines[*node].wan > 0).collect();
        let [first] = at_work[..] else { panic!("seed {seed}: {at_work:?} have begun") };
        world.kill(first, seed % 2 == 0);
        world.start(first, 5 * SECOND);
        finish(&mut world, &download, 30 * SECOND);
        let figures = download.figures("first", &world);
        println!("{figures:?}");
        assert!(figures.amplification <= 1.03, "{figures:?}");
        assert!(figures.makespan < 2.0, "{figures:?}");
    }
}

/// The coordinator has forgotten who was connected: whoever comes back first is told that it is the first.
#[test]
fn a_coordinator_that_comes_back_sends_nobody_to_fetch_what_others_fetch() {
    for seed in 1..=6 {
        let (mut world, download) = half_way(12, seed, 96);
        world.kill(3, false);
        world.set_hub(false);
        world.run_for(2 * SECOND);
        world.set_hub(true);
        world.start(3, Duration::from_millis(seed * 100));
        finish(&mut world, &download, 30 * SECOND);
        let figures = download.figures("back", &world);
        println!("{figures:?}");
        // What was on its way to the machine that was killed.
        assert!(figures.amplification <= 1.02, "{figures:?}");
    }
}

#[test]
fn a_third_of_all_machines_dies_and_comes_back() {
    for seed in [1, 2, 3] {
        let mut world = World::new(Params { nodes: 16, seed, wan: 50_000_000, ..Params::default() });
        world.start_all(5 * SECOND);
        world.run_for(30 * SECOND);
        let download = Download::begin(&mut world, 96);
        for _ in 0..5 {
            world.run_for(Duration::from_millis(1500));
            let (victim, after) = (world.random(16), world.random(4000) as u64);
            world.kill(victim, seed % 2 == 0);
            world.start(victim, Duration::from_millis(200 + after));
        }
        finish(&mut world, &download, 60 * SECOND);
        let figures = download.figures("dying", &world);
        println!("{figures:?}");
        assert!(figures.amplification <= 1.06, "{figures:?}");
    }
}

#[test]
fn the_coordinator_is_gone_after_the_approval() {
    let mut world = World::new(Params { nodes: 10, seed: 4, ..Params::default() });
    world.start_all(5 * SECOND);
    world.run_for(30 * SECOND);
    let download = Download::begin(&mut world, 64);
    world.run_for(Duration::from_millis(1500));
    world.set_hub(false);
    finish(&mut world, &download, 30 * SECOND);
    assert_eq!(world.counts.wan, download.published.len());
}

#[test]
fn the_origin_is_gone_for_a_minute() {
    for seed in [1, 2] {
        let (mut world, download) = half_way(10, seed, 64);
        world.set_origin(false);
        world.run_for(60 * SECOND);
        let waiting = world.status(0).unwrap();
        assert!(waiting.deployments[0].reason.contains("origin"), "{:?}", waiting.deployments);
        world.set_origin(true);
        finish(&mut world, &download, 40 * SECOND);
        let figures = download.figures("origin", &world);
        println!("{figures:?}");
        assert!(figures.amplification <= 1.03, "{figures:?}");
    }
}

#[test]
fn latecomers_cost_the_wan_nothing() {
    for seed in [1, 2] {
        let mut world = World::new(Params { nodes: 14, seed, wan: 50_000_000, ..Params::default() });
        (0..8).for_each(|node| world.start(node, Duration::from_millis(100 * node as u64)));
        world.run_for(20 * SECOND);
        let download = Download::begin(&mut world, 64);
        world.run_for(4 * SECOND);
        (8..11).for_each(|node| world.start(node, Duration::ZERO));
        assert!(world.run_until(60 * SECOND, |world| world.all_done(download.published.id, 0..11)));
        world.run_for(30 * SECOND);
        (11..14).for_each(|node| world.start(node, Duration::ZERO));
        finish(&mut world, &download, 30 * SECOND);
        assert_eq!(world.counts.wan, download.published.len(), "seed {seed}");
    }
}

#[test]
fn a_machine_that_is_shut_down_gives_its_extents_away() {
    let (mut world, download) = half_way(8, 5, 64);
    let busiest = (0..8).max_by_key(|node| world.machines[*node].wan).unwrap();
    world.shut_down(busiest);
    let others: Vec<_> = (0..8).filter(|node| *node != busiest).collect();
    let id = download.published.id;
    assert!(
        world.run_until(30 * SECOND, |world| world.all_done(id, others.iter().copied())),
        "{}",
        describe(&world, id)
    );
    world.start(busiest, Duration::ZERO);
    finish(&mut world, &download, 30 * SECOND);
    assert!(download.amplification(&world) <= 1.02, "{}", download.amplification(&world));
}
