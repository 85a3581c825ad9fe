//! What the admin decides happens, and nothing else does, whoever lies.

use std::time::Duration;

use upswarm_protocol::catalog::{Action, Hold, RingPlan, Schedule};
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::coordinator::Command;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::GroupId;
use upswarm_protocol::report::{DeploymentState, SubState};
use upswarm_protocol::trust::Trust;
use upswarm_simulations::admin::{self, ReleaseSpec, key};
use upswarm_simulations::scenario::{self, Download, describe};
use upswarm_simulations::world::{Discovery, GROUP, Params, World};

const SECOND: Duration = Duration::from_secs(1);

fn site(nodes: usize, seed: u64) -> World {
    let mut world = World::new(Params { nodes, seed, ..Params::default() });
    world.start_all(5 * SECOND);
    world.run_for(30 * SECOND);
    world
}

fn all_in(world: &World, download: &Download, state: DeploymentState) -> bool {
    (0..world.machines.len())
        .filter_map(|node| world.status(node))
        .all(|status| status.deployments.iter().any(|d| d.release == download.published.id && d.state == state))
}

#[test]
fn bad_bytes_from_the_origin_are_never_installed_and_are_named() {
    let mut world = site(8, 1);
    world.origin_tampers = true;
    let download = Download::begin(&mut world, 16);
    world.run_for(60 * SECOND);
    assert_eq!(world.counts.installs, 0);
    let told = (0..8)
        .filter_map(|node| world.status(node))
        .any(|status| status.deployments.iter().any(|d| d.reason.contains("other bytes than the release names")));
    assert!(told, "{}", describe(&world, download.published.id));
    // Each attempt may cost a few chunks, but attempts grow rare.
    assert!(world.counts.wan < 2 * download.published.len(), "{}", world.counts.wan);
    world.origin_tampers = false;
    let id = download.published.id;
    assert!(world.run_until(400 * SECOND, |world| world.all_done(id, 0..8)), "{}", describe(&world, id));
}

#[test]
fn a_neighbour_that_serves_bad_bytes_is_shut_out() {
    for seed in [1, 2] {
        let mut world = World::new(Params { nodes: 10, seed, ..Params::default() });
        // A fetcher: others ask it for what nobody else has.
        (world.machines[3].poisons, world.machines[3].weight) = (true, 64);
        world.start_all(5 * SECOND);
        world.run_for(30 * SECOND);
        let download = Download::begin(&mut world, 64);
        let honest = (0..10).filter(|node| *node != 3);
        let (id, honest): (_, Vec<_>) = (download.published.id, honest.collect());
        let done = world.run_until(60 * SECOND, |world| world.all_done(id, honest.iter().copied()));
        assert!(done, "seed {seed}: {}", describe(&world, id));
        assert!(world.counts.alarms.iter().any(|alarm| alarm.contains("is shut out")), "{:?}", world.counts.alarms);
        // What only the liar had fetched is fetched once more. Shut out by everyone, it goes on for itself alone.
        let fetched: u64 = honest.iter().map(|node| world.machines[*node].wan).sum();
        let (fetched, len) = (fetched as f64, download.published.len() as f64);
        assert!(fetched < 1.4 * len, "seed {seed}: {fetched} of {len}");
        assert!(world.machines[3].wan as f64 <= len, "seed {seed}");
    }
}

#[test]
fn an_unsigned_approval_is_refused() {
    let mut world = site(4, 1);
    let published = world.publish(&ReleaseSpec::first("org.example.app", 4));
    let when = (Schedule::default(), RingPlan::default());
    let approval = admin::approval(GROUP, published.id, 1, Action::Install, world.clock().wall, when);
    let forged = world.admin.forged(&approval);
    assert!(world.command(Command::Approve(forged)).is_err());
    world.run_for(30 * SECOND);
    assert_eq!((world.counts.installs, world.counts.wan), (0, 0));
}

#[test]
fn a_forged_head_goes_nowhere() {
    let mut world = site(6, 1);
    let download = Download::begin(&mut world, 4);
    download.finish(&mut world, 3.0).unwrap();
    let state = world.machines[0].state.as_ref().unwrap();
    let mut head = *state.trust().head().unwrap();
    head.index_version += 1;
    let forged = envelope::sign(Kind::Head, Role::Online, &head, &[&key("nobody", 0)]).unwrap();
    let gossip = world.counts.gossip_made;
    world.forge_head(0, forged);
    world.run_for(2 * SECOND);
    let version = |trust: &Trust| trust.head().unwrap().index_version;
    for machine in &world.machines {
        assert!(version(machine.state.as_ref().unwrap().trust()) < head.index_version);
    }
    assert!(world.counts.gossip_made > gossip);
    assert!(world.counts.alarms.iter().any(|alarm| alarm.contains("does not verify")), "{:?}", world.counts.alarms);
}

#[test]
fn nothing_is_installed_on_an_expired_head() {
    let mut world = site(4, 1);
    let download = Download::begin(&mut world, 32);
    world.run_for(SECOND);
    assert_eq!(world.counts.installs, 0);
    world.set_hub(false);
    world.set_origin(false);
    // Heads live for 72 hours, which the machines spend switched off.
    (0..4).for_each(|node| world.kill(node, false));
    world.run_for(Duration::from_secs(73 * 3600));
    world.start_all(SECOND);
    world.set_origin(true);
    world.run_for(60 * SECOND);
    assert_eq!(world.counts.installs, 0);
    for node in 0..4 {
        let stand = world.status(node).unwrap().deployments[0].clone();
        assert_eq!((stand.state, stand.sub_state), (DeploymentState::OnHold, SubState::Expired), "{stand:?}");
    }
    world.set_hub(true);
    let id = download.published.id;
    assert!(world.run_until(120 * SECOND, |world| world.all_done(id, 0..4)), "{}", describe(&world, id));
}

#[test]
fn a_new_version_costs_the_wan_only_what_is_new() {
    let mut world = site(10, 1);
    let first = Download::begin(&mut world, 64);
    first.finish(&mut world, 3.0).unwrap();
    let like = Some((first.published.list.clone(), 70));
    let spec = ReleaseSpec {
        counter: 2,
        like,
        supersedes: vec![first.published.id],
        ..ReleaseSpec::first("org.example.app", 64)
    };
    let second = Download::of(&mut world, &spec);
    second.finish(&mut world, 3.0).unwrap();
    let old: std::collections::BTreeSet<_> = first.published.list.chunks().iter().map(|chunk| chunk.id).collect();
    let new: u64 =
        second.published.list.chunks().iter().filter(|c| !old.contains(&c.id)).map(|c| u64::from(c.len)).sum();
    assert_eq!(world.counts.wan, first.published.len() + new);
    assert!(new < second.published.len() / 2);
    world.run_for(SECOND);
    assert!(all_in(&world, &first, DeploymentState::Superseded));
}

#[test]
fn a_pause_stops_every_byte_and_a_resume_completes() {
    for cache in [false, true] {
        let mut world = World::new(Params { nodes: 16, cache, ..Params::default() });
        world.start_all(5 * SECOND);
        world.run_for(30 * SECOND);
        let download = Download::begin(&mut world, 64);
        world.run_for(2 * SECOND);
        let (id, len) = (download.published.id, download.published.len());
        world.hold(Hold::Release(id), true);
        let paused = world.run_until(5 * SECOND, |world| all_in(world, &download, DeploymentState::OnHold));
        assert!(paused, "{}", describe(&world, id));
        let moved = |world: &World| world.counts.wan + world.counts.lan;
        let before = moved(&world);
        assert!(world.counts.wan > len / 8 && world.counts.wan < len, "in the midst of it: {}", world.counts.wan);
        world.run_for(60 * SECOND);
        assert_eq!((world.counts.installs, moved(&world)), (0, before), "cache {cache}");
        world.hold(Hold::Release(id), false);
        download.finish(&mut world, 3.0).unwrap();
        // Four fetchers, two runs each: of each the chunk that was on its way is lost.
        let most = len + 8 * u64::from(download.published.list.sizes().max);
        assert!(world.counts.wan <= most, "cache {cache}: {} of {len}", world.counts.wan);
    }
}

#[test]
fn two_releases_at_once_and_one_taken_away_again() {
    let mut world = site(8, 1);
    let one = Download::of(&mut world, &ReleaseSpec::first("org.example.one", 32));
    let two = Download::of(&mut world, &ReleaseSpec::first("org.example.two", 32));
    one.finish(&mut world, 4.0).unwrap();
    two.finish(&mut world, 4.0).unwrap();
    assert_eq!(world.counts.wan, one.published.len() + two.published.len());
    scenario::reported(&mut world, two.published.id).unwrap();
    world.approve(one.published.id, Action::Uninstall);
    let gone = world.run_until(10 * SECOND, |world| all_in(world, &one, DeploymentState::Uninstalled));
    assert!(gone, "{}", describe(&world, one.published.id));
    assert!((0..8).all(|node| world.installed_on(node).len() == 1));
}

#[test]
fn two_sites_exchange_no_payload() {
    let discovery = Discovery::Named(6);
    let mut world = World::new(Params { sites: 2, nodes: 4, discovery, ..Params::default() });
    world.start_all(5 * SECOND);
    world.run_for(30 * SECOND);
    let download = Download::begin(&mut world, 32);
    download.finish(&mut world, 4.0).unwrap();
    assert_eq!(world.counts.between_sites, 0);
    assert_eq!(world.counts.wan, 2 * download.published.len(), "once per site");
}

#[test]
fn a_machine_behind_a_neighbour_hears_of_its_new_group_at_once() {
    let mut world = site(12, 3);
    let is_here = |world: &World, node: usize| {
        let device = world.machines[node].device;
        world.hub.state.connected().any(|peer| peer == device)
    };
    let behind: Vec<usize> = (0..12).filter(|node| !is_here(&world, *node)).collect();
    assert!(behind.len() >= 4, "most machines of a site reach the coordinator through others");
    let pilots = GroupId([7; 16]);
    let groups = |world: &World, node: usize| world.machines[node].state.as_ref().unwrap().groups().to_vec();
    for node in &behind {
        let (device, now) = (world.machines[*node].device, world.clock().wall);
        world.command(Command::Assign { device, groups: Bounded::new(vec![pilots]).unwrap() }).unwrap();
        let heard = world.run_until(3 * SECOND, |world| groups(world, *node) == [pilots]);
        assert!(heard, "machine {node}: {:?}", groups(&world, *node));
        assert!(!is_here(&world, *node));
        println!("machine {node}: {:?}", world.clock().wall.since(now));
    }
    let others = (0..12).filter(|node| !behind.contains(node));
    assert!(others.into_iter().all(|node| groups(&world, node) == [GROUP]));
}
