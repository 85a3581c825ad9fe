//! A site in which nothing goes on: what its machines send all the same, and how soon they know who came and who went.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use crate::world::{Params, World};

/// How long a site is watched in which nothing goes on.
const WATCHED: Duration = Duration::from_secs(600);
/// The promises: bytes that a machine sends in a second, seconds until a newcomer knows its site, and until a machine that
/// is gone is missed by all.
const BYTES: f64 = 2048.0;
const KNOWS: f64 = 5.0;
const MISSED: f64 = 60.0;

/// What a run measured.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Seed.
    pub seed: u64,
    /// Machines.
    pub nodes: usize,
    /// Seconds from the start of the first machine, all starting within five, until each knew all others.
    pub known: f64,
    /// Control and gossip bytes that a machine sent in a second, on average, while nothing went on.
    pub bytes_per_second: f64,
    /// The same of the machine that sent most.
    pub most_bytes_per_second: f64,
    /// Calls of `handle_timeout` per machine and second meanwhile.
    pub timeouts: f64,
    /// Inputs per machine and second meanwhile.
    pub inputs: f64,
    /// Seconds until a newcomer knew all others.
    pub newcomer_knows: f64,
    /// Seconds until all others knew the newcomer.
    pub newcomer_known: f64,
    /// Seconds until all others missed a machine whose process was killed.
    pub killed_missed: f64,
    /// The same for one that was taken off the network.
    pub unplugged_missed: f64,
    /// Events handled.
    pub events: u64,
    /// Simulated seconds.
    pub simulated: f64,
}

impl Figures {
    /// Whether the promises were kept.
    pub fn check(&self) -> Result<()> {
        ensure!(self.bytes_per_second <= BYTES, "each machine sends {:.0} bytes a second", self.bytes_per_second);
        ensure!(self.newcomer_knows <= KNOWS, "a newcomer knows its site after {:.1} s", self.newcomer_knows);
        let missed = self.killed_missed.max(self.unplugged_missed);
        ensure!(missed <= MISSED, "a machine that is gone is missed after {missed:.1} s");
        Ok(())
    }
}

/// Runs a site without any release.
pub fn run(params: Params) -> Result<Figures> {
    let mut world = World::new(params);
    let nodes = world.machines.len();
    if nodes < 4 || world.params.sites != 1 {
        bail!("the idle scenario wants one site of at least four machines");
    }
    let newcomer = nodes - 1;
    let within = |world: &World, from: u64| (world.now() - from) as f64 / 1e6;
    for node in 0..newcomer {
        let after = world.random(5_000_000) as u64;
        world.start(node, Duration::from_micros(after));
    }
    let all = |world: &World, nodes: std::ops::Range<usize>, members: usize| {
        let mut up = nodes.filter(|node| world.machines[*node].is_up());
        up.all(|node| world.members(node) == members)
    };
    world.run_for(Duration::from_secs(5));
    if !world.run_until(Duration::from_secs(120), |world| all(world, 0..newcomer, newcomer)) {
        bail!("the machines do not come to know each other");
    }
    let known = within(&world, 0);
    // First reports, and whatever else follows a start.
    world.run_for(Duration::from_secs(120));
    let (sent, before) = (world.counts.sent.clone(), world.counts.clone());
    world.run_for(WATCHED);
    let span = WATCHED.as_secs_f64();
    let each: Vec<f64> =
        world.counts.sent.iter().zip(&sent).map(|(after, before)| (after - before) as f64 / span).collect();
    let per_machine = |count: u64| count as f64 / newcomer as f64 / span;
    let (timeouts, inputs) = (world.counts.timeouts - before.timeouts, world.counts.inputs - before.inputs);

    let came = world.now();
    world.start(newcomer, Duration::ZERO);
    world.run_for(Duration::from_millis(1));
    if !world.run_until(Duration::from_secs(120), |world| world.members(newcomer) == nodes) {
        bail!("the newcomer does not come to know its site");
    }
    let newcomer_knows = within(&world, came);
    if !world.run_until(Duration::from_secs(120), |world| all(world, 0..nodes, nodes)) {
        bail!("the site does not come to know the newcomer");
    }
    let newcomer_known = within(&world, came);

    let mut missed = [0.0; 2];
    for (victim, seconds) in missed.iter_mut().enumerate() {
        let left = world.now();
        if victim == 0 {
            world.kill(victim, false)
        } else {
            world.unplug(victim)
        }
        let rest = nodes - 1 - victim;
        if !world.run_until(Duration::from_secs(600), |world| all(world, 0..nodes, rest)) {
            bail!("a machine that is gone is not missed");
        }
        *seconds = within(&world, left);
    }
    Ok(Figures {
        seed: world.params.seed,
        nodes,
        known,
        bytes_per_second: each.iter().sum::<f64>() / newcomer as f64,
        most_bytes_per_second: each.iter().copied().fold(0.0, f64::max),
        timeouts: per_machine(timeouts),
        inputs: per_machine(inputs),
        newcomer_knows,
        newcomer_known,
        killed_missed: missed[0],
        unplugged_missed: missed[1],
        events: world.counts.events,
        simulated: world.now() as f64 / 1e6,
    })
}
