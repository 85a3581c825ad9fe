//! An update goes out in rings, and does not work on the machines of some models.
//!
//! The promise, for ten thousand devices: the rollout stops by itself before one in twenty has been touched, later rings never
//! begin, and an update that works reaches everyone. A smaller fleet cannot know so much so early: there the promise is that
//! nothing beyond the second ring is touched. Machines, coordinator, reports and heads are the real ones; models are drawn evenly;
//! a tenth of the machines is switched off at the beginning, and others are switched off and on throughout.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use upswarm_protocol::catalog::{Action, Hold, Ring, RingPlan, Schedule};
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::report::DeploymentState;
use upswarm_protocol::schedule::ring_of;

use crate::admin::ReleaseSpec;
use crate::world::{GROUP, Harm, Params, World};

/// Devices that are touched before it stops, at most, in hundredths of a percent of all.
pub const PROMISED: u16 = 500;
/// Devices from which on the promise is made.
const LARGE: usize = 10_000;
/// Models of which the machines are.
const MODELS: usize = 100;
/// Models on which the bad update does not work.
const BAD_MODELS: usize = 3;
/// Ends of the rings in hundredths of a percent, and when each begins.
///
/// Minutes apart, where an admin would take days: machines look after themselves many times an hour, which is what a run costs.
const RINGS: [(u16, Duration); 4] =
    [(100, minutes(0)), (1000, minutes(20)), (5000, minutes(40)), (10_000, minutes(60))];
/// Starts within a ring are spread over this long.
const SPREAD: Duration = minutes(15);
/// A recipe runs this long.
const RECIPE: Duration = Duration::from_secs(30);
/// From the last ring's beginning until everyone has had a turn, and silence has been noticed.
const LAST: Duration = minutes(50);
/// The coordinator's word reaches every machine within this.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
/// Of so many machines one is switched off or on each minute.
const ONE_IN: usize = 1000;
const STEP: Duration = Duration::from_secs(10);

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// A stop.
#[derive(Debug, Clone, Serialize)]
pub struct Stop {
    /// Seconds after the approval.
    pub after: f64,
    /// The ring that was under way, from 1.
    pub ring: usize,
    /// Devices that the coordinator knew had come to a good end.
    pub done: u32,
    /// Devices that it knew had failed.
    pub failed: u32,
    /// Devices that had fallen silent in the midst of it.
    pub silent: u32,
}

/// What a run measured. Shares are of all devices, switched off or not, in percent.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Always `rollout`.
    pub scenario: &'static str,
    /// Seed.
    pub seed: u64,
    /// Sites.
    pub sites: usize,
    /// Devices of all sites.
    pub machines: usize,
    /// Devices that were switched off at the beginning.
    pub off: usize,
    /// What the update does on devices of the bad models; nothing for an update that works.
    pub harm: Option<Harm>,
    /// Devices of the bad models.
    pub affected: usize,
    /// Share at which the coordinator stops, in hundredths of a percent.
    pub stop_above: u16,
    /// The first stop.
    pub stop: Option<Stop>,
    /// Devices that had begun the recipe when the plan had run its time, in percent.
    pub begun: f64,
    /// Devices that it had harmed by then, in percent of all.
    pub harmed: f64,
    /// The same in percent of those of the bad models.
    pub harmed_of_affected: f64,
    /// Devices of rings that were not to begin, and did all the same.
    pub begun_too_early: usize,
    /// Devices running since before the stop that began when its word had had the time to reach them.
    pub begun_after_stop: usize,
    /// Devices switched on after the stop that began before they had heard of it.
    pub begun_unaware: usize,
    /// After a resume: seconds until it stopped again, and how many devices began until then.
    pub resumed: Option<(f64, usize)>,
    /// Devices on which it is installed at the end.
    pub installed: usize,
    /// Events handled.
    pub events: u64,
    /// Simulated seconds of the whole run.
    pub simulated: f64,
}

impl Figures {
    /// Whether the promise was kept.
    pub fn check(&self) -> Result<()> {
        ensure!(self.begun_too_early == 0, "{} devices began before their ring", self.begun_too_early);
        ensure!(self.begun_after_stop == 0, "{} devices began after the stop", self.begun_after_stop);
        if self.harm.is_none() {
            ensure!(self.stop.is_none(), "an update that works was stopped: {:?}", self.stop);
            ensure!(self.installed == self.machines, "it reached {} of {}", self.installed, self.machines);
            return Ok(());
        }
        ensure!(self.stop.is_some(), "it was not stopped: {:.2} % were harmed", self.harmed);
        // Silence is noticed only after half an hour, which is longer than the rings are apart here.
        if self.harm == Some(Harm::Fails) {
            let (second, _) = RINGS[1];
            let promised = f64::from(if self.machines < LARGE { second + PROMISED / 5 } else { PROMISED }) / 100.0;
            ensure!(self.begun < promised, "it had begun on {:.2} % of the devices", self.begun);
            ensure!(self.harmed < promised / 10.0, "{:.2} % of the devices were harmed", self.harmed);
        }
        let resumed = self.resumed.is_some_and(|(_, begun)| begun > 0);
        ensure!(resumed, "a resume did not let it go on: {:?}", self.resumed);
        Ok(())
    }
}

/// Rolls an update out that does `harm` on the machines of some models, or to none.
pub fn run(params: Params, harm: Option<Harm>, stop_above: u16) -> Result<Figures> {
    let mut world = World::new(Params { recipe: RECIPE, ..params });
    let machines = world.machines.len();
    let mut draw = fastrand::Rng::with_seed(world.params.seed ^ 0x726f_6c6c_6f75_7400);
    let model: Vec<usize> = (0..machines).map(|_| draw.usize(..MODELS)).collect();
    let mut off = 0;
    for node in 0..machines {
        if draw.usize(..10) == 0 {
            off += 1;
        } else {
            world.start(node, Duration::from_millis(draw.u64(..5000)));
        }
    }
    world.run_for(Duration::from_secs(60));
    let release = world.publish(&ReleaseSpec::first("org.example.app", 1)).id;
    let affected: Vec<usize> = (0..machines).filter(|node| model[*node] < BAD_MODELS).collect();
    let harms = affected.iter().filter_map(|node| Some((*node, harm?))).collect();
    world.harms.insert(release, harms);
    let mut run = Run { approved: 0, release, draw, world };
    run.approve(stop_above);

    let (_, last) = RINGS[RINGS.len() - 1];
    run.go_on(last + LAST, |_| false);
    let stop = run.world.hub.stopped.first().map(|(at, status)| {
        let total = status.total();
        let after = (at - run.approved) as f64 / 1e6;
        let ring = RINGS.iter().filter(|(_, begins)| begins.as_secs_f64() <= after).count();
        Stop { after, ring, done: total.done, failed: total.failed, silent: total.silent }
    });
    let heard = run.world.hub.stopped.first().map(|(at, _)| at + HEARD_WITHIN.as_micros() as u64);
    let begun = run.begun(|_| true);
    let (begun_after_stop, begun_unaware) = heard.map_or((0, 0), |heard| run.begun_after(heard));
    let begun_too_early = run.begun_too_early();
    let harmed = affected.iter().filter(|node| run.is_harmed(**node, harm)).count();
    let mut resumed = None;
    if stop.is_some() {
        let (before, from) = (begun, run.world.now());
        run.world.hold(Hold::Approval(GROUP, release), false);
        run.go_on(last, |world| world.hub.stopped.len() > 1);
        resumed = Some(((run.world.now() - from) as f64 / 1e6, run.begun(|_| true) - before));
    } else {
        // Whoever was off is switched on, and catches up.
        (0..machines).for_each(|node| run.world.start(node, Duration::ZERO));
        run.world.run_for(Duration::from_secs(600));
    }
    let share = |count: usize, of: usize| 100.0 * count as f64 / of.max(1) as f64;
    Ok(Figures {
        scenario: "rollout",
        seed: run.world.params.seed,
        sites: run.world.params.sites,
        machines,
        off,
        harm,
        affected: affected.len(),
        stop_above,
        stop,
        begun: share(begun, machines),
        harmed: share(harmed, machines),
        harmed_of_affected: share(harmed, affected.len()),
        begun_too_early,
        begun_after_stop,
        begun_unaware,
        resumed,
        installed: run.world.machines.iter().filter(|machine| machine.done.contains_key(&release)).count(),
        events: run.world.counts.events,
        simulated: run.world.now() as f64 / 1e6,
    })
}

struct Run {
    world: World,
    release: ReleaseId,
    /// When it was approved, in microseconds.
    approved: u64,
    draw: fastrand::Rng,
}

impl Run {
    fn approve(&mut self, stop_above: u16) {
        let rings = RINGS.map(|(up_to, begins)| Ring { up_to, delay_s: begins.as_secs() as u32 });
        let rings = RingPlan { rings: Bounded::truncated(rings.to_vec()), stop_above };
        let schedule = Schedule { jitter_s: SPREAD.as_secs() as u32, ..Schedule::default() };
        self.approved = self.world.now();
        self.world.approve_for(self.release, Action::Install, schedule, rings);
    }

    /// Lets time pass, in which people switch machines off and on, until `holds`.
    fn go_on(&mut self, span: Duration, holds: impl Fn(&World) -> bool) {
        let end = self.world.now() + span.as_micros() as u64;
        let mut minute = self.world.now();
        while self.world.now() < end && !holds(&self.world) {
            self.world.run_for(STEP);
            if self.world.now() < minute {
                continue;
            }
            minute += 60_000_000;
            for node in 0..self.world.machines.len() {
                if self.draw.usize(..ONE_IN) != 0 {
                    continue;
                }
                if self.world.machines[node].is_up() {
                    self.world.kill(node, false);
                } else if !self.is_harmed(node, Some(Harm::Silences)) {
                    self.world.start(node, Duration::ZERO);
                }
            }
        }
    }

    /// Devices that began at a time for which `counts` holds.
    fn begun(&self, counts: impl Fn(u64) -> bool) -> usize {
        let begun = self.world.machines.iter().filter_map(|machine| machine.begun.get(&self.release));
        begun.filter(|at| counts(**at)).count()
    }

    /// Devices that began after a time, by whether they had been running since before it.
    fn begun_after(&self, time: u64) -> (usize, usize) {
        let late = self.world.machines.iter().filter_map(|machine| {
            let began = machine.begun.get(&self.release).filter(|at| **at > time)?;
            Some(machine.started.range(..=*began).next_back().is_some_and(|started| *started < time))
        });
        let late: Vec<bool> = late.collect();
        let aware = late.iter().filter(|since_before| **since_before).count();
        (aware, late.len() - aware)
    }

    /// Devices that began before their ring did, by more than their clock is wrong.
    fn begun_too_early(&self) -> usize {
        let skew = self.world.params.skew.as_micros() as u64;
        let early = self.world.machines.iter().filter(|machine| {
            let place = ring_of(machine.device, self.release);
            let (_, begins) = RINGS.into_iter().find(|(up_to, _)| place < *up_to).unwrap_or(RINGS[RINGS.len() - 1]);
            let begins = self.approved + begins.as_micros() as u64;
            machine.begun.get(&self.release).is_some_and(|at| at + skew < begins)
        });
        early.count()
    }

    /// Whether the recipe has been at work on a device on which it does harm.
    fn is_harmed(&self, node: usize, harm: Option<Harm>) -> bool {
        let harms = self.world.harms.get(&self.release).and_then(|harms| harms.get(&node)).copied();
        let machine = &self.world.machines[node];
        harms.is_some()
            && harms == harm
            && machine.begun.contains_key(&self.release)
            && (harm != Some(Harm::Fails)
                || machine.stands.get(&self.release).is_some_and(|standing| standing.state == DeploymentState::Failed))
    }
}
