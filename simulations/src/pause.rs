//! The admin stops everything while machines of many sites are at work, and lets it go on.
//!
//! The promise: ten seconds after the command every machine that is online stands still, and stays so until it is lifted.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use upswarm_protocol::catalog::{Action, Hold, RingPlan, Schedule};
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::report::{DeploymentState, SubState};

use crate::admin::{Published, ReleaseSpec};
use crate::world::{Machine, Params, World};

/// A pause, and a resume, has reached every machine within this.
pub const PROMISED: Duration = Duration::from_secs(10);
/// How long everything is held.
const HELD_FOR: Duration = Duration::from_secs(60);
/// The second release may begin only this long after it was approved, which is after the end of the run.
const WAITS_FOR: Duration = Duration::from_secs(1800);

/// What a run measured. Times are simulated seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Always `pause`.
    pub scenario: &'static str,
    /// Seed.
    pub seed: u64,
    /// Sites.
    pub sites: usize,
    /// Machines of all sites, all of them online.
    pub machines: usize,
    /// Machines connected to the coordinator when the command was given.
    pub uplinks: usize,
    /// States of both releases on all machines when the command was given.
    pub before: BTreeMap<String, usize>,
    /// From the command to the machine that is the middle one to say that both are on hold.
    pub paused_half: f64,
    /// The same for the last machine.
    pub paused_last: f64,
    /// From the command until the coordinator has heard so from every machine.
    pub paused_told: f64,
    /// How long it was held after that.
    pub held: f64,
    /// Installs begun from the command to its lifting.
    pub installs_while_held: u64,
    /// Payload bytes that crossed a link from the moment at which the last machine was on hold to the lifting.
    pub bytes_while_held: u64,
    /// From the lifting to the last machine on which nothing is on hold.
    pub resumed_last: f64,
    /// From the lifting until the release that was at work is installed everywhere.
    pub installed_last: f64,
    /// Payload bytes over all WAN links, per byte of the payload and site.
    pub copies_per_site: f64,
    /// Events handled.
    pub events: u64,
    /// Simulated seconds of the whole run.
    pub simulated: f64,
}

impl Figures {
    /// Whether the promise was kept.
    pub fn check(&self) -> Result<()> {
        let promised = PROMISED.as_secs_f64();
        ensure!(self.paused_last < promised, "the pause took {:.2} s to reach the last machine", self.paused_last);
        ensure!(self.resumed_last < promised, "the resume took {:.2} s to reach the last machine", self.resumed_last);
        ensure!(self.installs_while_held == 0, "{} installs were begun in the pause", self.installs_while_held);
        ensure!(self.bytes_while_held == 0, "{} payload bytes moved in the pause", self.bytes_while_held);
        Ok(())
    }
}

/// Every machine is fetching one release of so many MiB and waits for the time of another when the admin holds everything,
/// and lifts it after a minute.
pub fn run(params: Params, mib: u64) -> Result<Figures> {
    let mut world = World::new(params);
    world.start_all(Duration::from_secs(5));
    world.run_for(Duration::from_secs(30));
    let [fetched, later] = begin(&mut world, mib);
    let ids = [fetched.id, later.id];
    let third = Duration::from_secs_f64(fetched.len() as f64 * 8.0 / world.params.wan as f64 / 3.0);
    world.run_for(third);
    let (before, uplinks) = (states(&world, &ids), world.hub.state.connected().count());
    ensure!(world.counts.installs == 0, "something was installed before the pause: the payload is too small");

    let paused = world.now();
    world.hold(Hold::Everything, true);
    let is_held = |machine: &Machine| ids.iter().all(|id| stands(machine, id, is_paused));
    if !world.run_until(PROMISED * 3, |world| world.machines.iter().all(is_held)) {
        bail!("not every machine is on hold after {:?}: {:?}", PROMISED * 3, states(&world, &ids));
    }
    let moved = world.counts.wan + world.counts.lan;
    let mut stopped: Vec<u64> = world.machines.iter().map(|machine| since(machine, &ids)).collect();
    let mut silent: Vec<usize> = (0..world.machines.len()).collect();
    let told = world.run_until(Duration::from_secs(60), |world| {
        silent.retain(|node| !ids.iter().all(|id| has_told(world, *node, id)));
        silent.is_empty()
    });
    if !told {
        bail!("the coordinator has not heard of the pause within a minute from {}", unheard(&world, &silent, &ids));
    }
    let told = world.now();
    world.run_for(HELD_FOR);
    for (node, machine) in world.machines.iter().enumerate() {
        ensure!(is_held(machine) && since(machine, &ids) == stopped[node], "machine {node} did not stay on hold");
    }
    let installs_while_held = world.counts.installs;
    let bytes_while_held = world.counts.wan + world.counts.lan - moved;

    let resumed = world.now();
    world.hold(Hold::Everything, false);
    let goes_on =
        |machine: &Machine| !ids.iter().any(|id| stands(machine, id, |state, _| state == DeploymentState::OnHold));
    if !world.run_until(PROMISED * 3, |world| world.machines.iter().all(goes_on)) {
        bail!("not every machine goes on {:?} after the resume: {:?}", PROMISED * 3, states(&world, &ids));
    }
    let went_on = world.now();
    let machines = world.machines.len();
    if !world.run_until(third * 6 + Duration::from_secs(60), |world| world.all_done(fetched.id, 0..machines)) {
        bail!("not everyone has installed it after the resume: {}", crate::scenario::describe(&world, fetched.id));
    }
    let waits = |machine: &Machine| stands(machine, &later.id, |state, _| state == DeploymentState::Pending);
    ensure!(world.machines.iter().all(waits), "the other release waits for its time: {:?}", states(&world, &ids));

    stopped.sort_unstable();
    let after = |start: u64, end: u64| end.saturating_sub(start) as f64 / 1e6;
    Ok(Figures {
        scenario: "pause",
        seed: world.params.seed,
        sites: world.params.sites,
        machines,
        uplinks,
        before,
        paused_half: after(paused, stopped[machines / 2]),
        paused_last: after(paused, stopped[machines - 1]),
        paused_told: after(paused, told),
        held: after(told, resumed),
        installs_while_held,
        bytes_while_held,
        resumed_last: after(resumed, went_on),
        installed_last: after(resumed, world.now()),
        copies_per_site: world.counts.wan as f64 / ((fetched.len() + later.len()) * world.params.sites as u64) as f64,
        events: world.counts.events,
        simulated: world.now() as f64 / 1e6,
    })
}

/// A release that may be installed as soon as it is there, and a small one whose time comes later.
fn begin(world: &mut World, mib: u64) -> [Published; 2] {
    let fetched = world.publish(&ReleaseSpec { chunk: 1 << 20, ..ReleaseSpec::first("org.example.app", mib) });
    let later = world.publish(&ReleaseSpec { chunk: 1 << 20, ..ReleaseSpec::first("org.example.later", 1) });
    let from = world.clock().wall + WAITS_FOR;
    let schedule = Schedule { available_from: Some(from), ..Schedule::default() };
    world.approve_for(later.id, Action::Install, schedule, RingPlan::default());
    world.approve(fetched.id, Action::Install);
    [fetched, later]
}

fn stands(machine: &Machine, release: &ReleaseId, so: impl Fn(DeploymentState, SubState) -> bool) -> bool {
    machine.stands.get(release).is_some_and(|standing| so(standing.state, standing.sub_state))
}

fn is_paused(state: DeploymentState, sub_state: SubState) -> bool {
    (state, sub_state) == (DeploymentState::OnHold, SubState::Paused)
}

/// When the last of these releases came into the state in which it is.
fn since(machine: &Machine, releases: &[ReleaseId]) -> u64 {
    releases.iter().filter_map(|id| machine.stands.get(id)).map(|standing| standing.since).max().unwrap_or(u64::MAX)
}

fn has_told(world: &World, node: usize, release: &ReleaseId) -> bool {
    let word = world.hub.fleet.get(&(world.machines[node].device, *release));
    word.is_some_and(|word| is_paused(word.state, word.sub_state))
}

/// What the coordinator believes of machines, and what the first of them say themselves.
fn unheard(world: &World, silent: &[usize], releases: &[ReleaseId]) -> String {
    let mut lines = vec![format!("{} machines", silent.len())];
    for node in silent.iter().take(3) {
        let word = |id: &ReleaseId| {
            let word = world.hub.fleet.get(&(world.machines[*node].device, *id));
            word.map(|word| format!("{:?}/{:?} since {}", word.state, word.sub_state, word.since))
        };
        let words: Vec<_> = releases.iter().map(word).collect();
        let stands: Vec<_> = releases.iter().map(|id| world.machines[*node].stands.get(id)).collect();
        lines.push(format!("{node}: told {words:?}, stands {stands:?}, {:?}", world.status(*node)));
    }
    lines.join("\n")
}

fn states(world: &World, releases: &[ReleaseId]) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for machine in &world.machines {
        for id in releases {
            let name = match machine.stands.get(id) {
                Some(standing) => format!("{:?}/{:?}", standing.state, standing.sub_state),
                None => "not heard of it".to_owned(),
            };
            *states.entry(name).or_default() += 1;
        }
    }
    states
}
