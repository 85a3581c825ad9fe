//! What is installed on a site's machines becomes known to the coordinator, whatever happens meanwhile, and costs the WAN little.

use std::time::Duration;

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DocHash;
use upswarm_protocol::inventory::{Inventory, PackageKey};
use upswarm_simulations::admin::ReleaseSpec;
use upswarm_simulations::world::{Params, World};

const PACKAGES: u64 = 3_000;

/// Machines of an office: most packages are everywhere, some are one machine's own.
fn system(node: usize, change: u64) -> Inventory {
    let mut inventory = Inventory::default();
    for number in 0..PACKAGES {
        let own = if number % 100 == 7 { node as u64 } else { 0 };
        let digest = DocHash::of(&(number / 3 + own * 100_000).to_le_bytes()).to_string();
        let name = format!("lib{}-{}", &digest[..9], number % 3);
        let version = format!("{}.{}-1+deb12u{}", number % 11, number % 30, if number < change { 9 } else { 1 });
        let key = PackageKey { kind: PackageKind::Deb, name: Text::lossy(&name), arch: Text::lossy("amd64") };
        inventory.insert(key, Text::lossy(&version)).unwrap();
    }
    inventory.set_fact(Text::lossy("hostname"), Some(Text::lossy(&format!("machine {node}")))).unwrap();
    inventory
}

fn agree(world: &mut World, within: Duration, what: &str) {
    let begin = world.now();
    let nodes = world.machines.len();
    let all = world.run_until(within, |world| world.inventories_agree(0..nodes));
    let seed = world.params.seed;
    assert!(all, "seed {seed}, {what}: not after {within:?}; alarms: {:?}", world.counts.alarms);
    println!("{what}: after {:.1} s", (world.now() - begin) as f64 / 1e6);
}

#[test]
fn the_inventories_of_a_site_become_known_and_a_change_costs_little() {
    let nodes = 40;
    let mut world = World::new(Params { nodes, seed: 5, ..Params::default() });
    world.publish(&ReleaseSpec::first("org.example.app", 1));
    for node in 0..nodes {
        world.set_system(node, system(node, 0));
    }
    world.start_all(Duration::from_secs(5));
    agree(&mut world, Duration::from_secs(300), "first");
    world.run_for(Duration::from_secs(60));
    let first = world.counts.told_bytes;
    let each = |bytes: u64| bytes / nodes as u64;

    // Twenty packages are updated everywhere at one moment.
    for node in 0..nodes {
        world.set_system(node, system(node, 20));
    }
    agree(&mut world, Duration::from_secs(60), "twenty updates");
    world.run_for(Duration::from_secs(10));
    let change = world.counts.told_bytes;
    println!(
        "{nodes} machines of {PACKAGES} packages: {} bytes of inventory and {} of scan per machine at first, {} and {} for \
         twenty updates",
        each(first[1]),
        each(first[2]),
        each(change[1] - first[1]),
        each(change[2] - first[2]),
    );
    assert!(each(first[1]) < 120_000, "{first:?}");
    assert!(each(change[1] - first[1]) < 2_048 && each(change[2] - first[2]) < 1_024, "{first:?} {change:?}");

    // Nothing changes: nothing is told.
    world.run_for(Duration::from_secs(3_600));
    assert_eq!(world.counts.told_bytes[1..], change[1..]);
}

#[test]
fn power_cuts_and_an_absent_coordinator_lose_nothing() {
    for seed in [1, 2, 3] {
        let nodes = 12;
        let mut world = World::new(Params { nodes, seed, ..Params::default() });
        world.publish(&ReleaseSpec::first("org.example.app", 1));
        for node in 0..nodes {
            world.set_system(node, system(node, 0));
        }
        world.start_all(Duration::from_secs(5));
        world.run_for(Duration::from_secs(4));
        world.set_hub(false);
        for node in 0..nodes / 2 {
            world.kill(node, true);
        }
        world.run_for(Duration::from_secs(60));
        for node in 0..nodes {
            world.set_system(node, system(node, 5));
        }
        world.set_hub(true);
        world.start_all(Duration::from_secs(5));
        agree(&mut world, Duration::from_secs(300), "after the coordinator came back");
        for node in 0..nodes {
            world.set_system(node, system(node, 9));
        }
        world.run_for(Duration::from_millis(2_500));
        for node in nodes / 2..nodes {
            world.kill(node, true);
        }
        world.start_all(Duration::from_secs(5));
        agree(&mut world, Duration::from_secs(300), "after power cuts");
    }
}
