//! What can go on in an office, and what must come of it.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use upswarm_protocol::catalog::Action;
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::report::DeploymentState;

use crate::admin::{Published, ReleaseSpec};
use crate::world::{Hostile, Params, World};

/// What a run measured.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed.
    pub seed: u64,
    /// Machines.
    pub nodes: usize,
    /// Payload bytes over the WAN per payload byte.
    pub amplification: f64,
    /// Time from the approval to the last install, over the time that the WAN needs for the bytes.
    pub makespan: f64,
    /// Seconds from the approval until half of the machines had installed.
    pub p50: f64,
    /// The same for 99 in 100.
    pub p99: f64,
    /// Control and gossip bytes that a machine sent on average, in KiB.
    pub control_kib: f64,
    /// Control frames and gossip messages that a machine sent on average.
    pub control_messages: f64,
    /// Chunks that arrived where they already were, per machine.
    pub duplicates: f64,
    /// Connections of a machine, on average and at most.
    pub connections: (f64, usize),
    /// Dials per machine.
    pub dials: f64,
    /// Reports made, and times that one reached the coordinator, per machine.
    pub reports: (f64, f64),
    /// Calls of `handle_timeout` per machine and simulated second.
    pub timeouts: f64,
    /// Events handled.
    pub events: u64,
    /// Simulated seconds.
    pub simulated: f64,
    /// Sum over everything that happened.
    pub trace: u64,
}

/// A download of one release, from its approval on.
pub struct Download {
    /// The release.
    pub published: Published,
    /// When it was approved, in microseconds.
    pub approved: u64,
    wan_before: u64,
}

impl Download {
    /// Publishes and approves a release of so many MiB.
    pub fn begin(world: &mut World, mib: u64) -> Self {
        // In a large site chunks are larger here: fewer events, the same bytes.
        let chunk = if world.machines.len() > 50 { 1 << 20 } else { 256 << 10 };
        Self::of(world, &ReleaseSpec { chunk, ..ReleaseSpec::first("org.example.app", mib) })
    }

    /// Publishes and approves this release.
    pub fn of(world: &mut World, spec: &ReleaseSpec) -> Self {
        let published = world.publish(spec);
        let wan_before = world.counts.wan;
        let approved = world.now();
        world.approve(published.id, Action::Install);
        Self { published, approved, wan_before }
    }

    /// Seconds that the WAN needs for the payload.
    pub fn ideal(&self, world: &World) -> f64 {
        self.published.len() as f64 * 8.0 / world.params.wan as f64
    }

    /// Runs until every machine that runs has installed it, at most for so many times the ideal and a minute.
    pub fn finish(&self, world: &mut World, times: f64) -> Result<()> {
        let span = Duration::from_secs_f64(self.ideal(world) * times + 60.0);
        let (id, honest) = (self.published.id, world.honest());
        if !world.run_until(span, |world| world.all_done(id, honest.iter().copied())) {
            bail!("not everyone has installed it after {span:?}:\n{}", describe(world, id));
        }
        Ok(())
    }

    /// Payload bytes that crossed the WAN for it, per byte of it.
    pub fn amplification(&self, world: &World) -> f64 {
        (world.counts.wan - self.wan_before) as f64 / self.published.len() as f64
    }

    /// Figures of the run until now.
    pub fn figures(&self, scenario: &str, world: &World) -> Figures {
        let id = self.published.id;
        let mut done: Vec<f64> = world
            .machines
            .iter()
            .filter_map(|machine| machine.done.get(&id))
            .map(|at| at.saturating_sub(self.approved) as f64 / 1e6)
            .collect();
        done.sort_by(f64::total_cmp);
        let share = |share: f64| done.get(((done.len() as f64 * share) as usize).min(done.len().max(1) - 1)).copied();
        let nodes = world.machines.len() as f64;
        let counts = &world.counts;
        Figures {
            scenario: scenario.to_owned(),
            seed: world.params.seed,
            nodes: world.machines.len(),
            amplification: self.amplification(world),
            makespan: done.last().copied().unwrap_or(0.0) / self.ideal(world),
            p50: share(0.5).unwrap_or(0.0),
            p99: share(0.99).unwrap_or(0.0),
            control_kib: (counts.frame_bytes + counts.gossip_bytes) as f64 / 1024.0 / nodes,
            control_messages: (counts.frames + counts.gossip) as f64 / nodes,
            duplicates: counts.duplicates as f64 / nodes,
            connections: (
                world.machines.iter().map(|m| m.connections()).sum::<usize>() as f64 / nodes,
                world.machines.iter().map(|m| m.connections()).max().unwrap_or(0),
            ),
            dials: counts.dials as f64 / nodes,
            reports: (counts.reports as f64 / nodes, counts.relays as f64 / nodes),
            timeouts: counts.timeouts as f64 / nodes / (world.now() as f64 / 1e6),
            events: counts.events,
            simulated: world.now() as f64 / 1e6,
            trace: world.trace,
        }
    }
}

/// How every machine stands that has not done its part, for error messages.
pub fn describe(world: &World, release: ReleaseId) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (node, machine) in world.machines.iter().enumerate() {
        if machine.done.contains_key(&release) || lines.len() > 8 {
            continue;
        }
        let Some(status) = world.status(node) else { continue };
        let stand = status.deployments.iter().find(|d| d.release == release);
        let stand = stand.map(|d| format!("{:?}/{:?} {} ({}/{})", d.state, d.sub_state, &*d.reason, d.done, d.total));
        lines.push(format!(
            "{node}: {stand:?}, index {}, {} members, {} peers, {:?}, {:?}",
            status.index_version,
            status.members,
            status.peers.len(),
            status.downloads,
            status.alarms,
        ));
    }
    format!("{}\nalarms: {:#?}", lines.join("\n"), world.counts.alarms)
}

/// Everyone is running; the approval arrives.
pub fn running(params: Params, mib: u64) -> Result<(World, Download)> {
    let mut world = World::new(params);
    world.start_all(Duration::from_secs(5));
    world.run_for(Duration::from_secs(30));
    let download = Download::begin(&mut world, mib);
    download.finish(&mut world, 3.0)?;
    Ok((world, download))
}

/// Everyone starts at one moment, with the approval already out.
pub fn cold(params: Params, mib: u64) -> Result<(World, Download)> {
    let mut world = World::new(params);
    let download = Download::begin(&mut world, mib);
    world.start_all(Duration::from_millis(100));
    download.finish(&mut world, 3.0)?;
    Ok((world, download))
}

/// Every machine has reported to the coordinator that it is done, within a minute.
pub fn reported(world: &mut World, release: ReleaseId) -> Result<()> {
    let all = |world: &World| {
        world.machines.iter().filter(|m| m.is_up()).all(|machine| {
            let word = world.hub.fleet.get(&(machine.device, release));
            word.is_some_and(|word| word.state == DeploymentState::Installed)
        })
    };
    if !world.run_until(Duration::from_secs(60), all) {
        let silent = world.machines.iter().enumerate().filter(|(_, machine)| {
            let word = world.hub.fleet.get(&(machine.device, release));
            machine.is_up() && word.is_none_or(|word| word.state != DeploymentState::Installed)
        });
        let silent: Vec<_> = silent.map(|(node, _)| node).collect();
        bail!("the reports of {silent:?} have not reached the coordinator: {:#?}", world.status(silent[0]));
    }
    Ok(())
}

/// What a run with hostile machines measured.
#[derive(Debug, Clone, Serialize)]
pub struct HostileFigures {
    /// Seed.
    pub seed: u64,
    /// Whether every honest machine has installed the release.
    pub completed: bool,
    /// Honest machines, and how many of them have.
    pub honest: (usize, usize),
    /// Payload bytes that honest machines took over the WAN, per payload byte.
    pub amplification: f64,
    /// Time from the approval to the last install of an honest machine, over the time that the WAN needs for the bytes.
    pub makespan_over_limit: f64,
    /// Machines that honest ones shut out, summed over them.
    pub bans: usize,
}

/// Everyone runs, some mean harm, and a release is approved. Ends when the honest ones have it, at the latest after thirty times
/// the time that the WAN needs, and a minute.
pub fn hostile(params: Params, mib: u64, percent: usize, kinds: &[Hostile]) -> (World, HostileFigures) {
    let mut world = World::new(params);
    world.corrupt(percent, kinds);
    world.start_all(Duration::from_secs(5));
    world.run_for(Duration::from_secs(30));
    let before: u64 = world.honest().iter().map(|node| world.machines[*node].wan).sum();
    // Chunks as large as a payload of this size really has: what two fetch at once counts by them.
    let spec = ReleaseSpec { chunk: 256 << 10, ..ReleaseSpec::first("org.example.app", mib) };
    let download = Download::of(&mut world, &spec);
    let completed = download.finish(&mut world, 30.0).is_ok();
    let honest = world.honest();
    let done = |node: &&usize| world.machines[**node].done.contains_key(&download.published.id);
    let last = honest.iter().filter_map(|node| world.machines[*node].done.get(&download.published.id)).max();
    let last = last.map_or(world.now(), |at| if completed { *at } else { world.now() });
    let wan: u64 = honest.iter().map(|node| world.machines[*node].wan).sum();
    let bans = honest.iter().filter_map(|node| world.machines[*node].state.as_ref()).map(|state| state.bans()).sum();
    let figures = HostileFigures {
        seed: world.params.seed,
        completed,
        honest: (honest.len(), honest.iter().filter(done).count()),
        amplification: (wan - before) as f64 / download.published.len() as f64,
        makespan_over_limit: last.saturating_sub(download.approved) as f64 / 1e6 / download.ideal(&world),
        bans,
    };
    (world, figures)
}
