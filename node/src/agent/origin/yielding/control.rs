//! The rate at which a fetch takes nothing from others, from how long the way to the origin takes: LEDBAT (RFC 6817) with a rate in
//! place of its window. Pure: whoever measures tells it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Waiting in the line's queue that is this fetch's own fault at most; above it somebody gives way. RFC 6817 allows 100 ms, but the
/// queues of many lines are shorter than that.
const TARGET: Duration = Duration::from_millis(20);
/// The shortest of so many measurements counts: one that was late says nothing (RFC 6817, section 4.2).
const FILTER: usize = 4;
/// Ways change: what was measured longer ago is forgotten, so many of these later.
const WINDOW: Duration = Duration::from_secs(600);
const WINDOWS: usize = 6;
/// Addresses of origins whose ways are remembered.
const MAX_WAYS: usize = 16;
/// The first answer to waiting is a rate a little below what the line brings: if the queue is this fetch's own, it drains.
const FIRST: f64 = 0.96;
/// A queue that grows shorter by so much from one measurement to the next drains.
const DRAINS: Duration = Duration::from_millis(2);
/// What a measurement at twice the target or more takes of the rate while the queue does not drain: somebody else fills it.
const CUT: f64 = 0.12;
/// What it gains after one with no waiting: of itself, and bytes per second.
const GAIN: (f64, f64) = (0.02, 4096.0);
/// A rate this much above what is used, for this long, is none.
const UNUSED: (f64, Duration) = (3.0, Duration::from_secs(5));

/// After so long at the lowest rate it is tried whether the line is free; twice as long after each time that it was not.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(180), Duration::from_secs(1800));
/// It is tried at full speed for so long, of which the first part fills the line.
const TRIAL: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_secs(5));
/// A rate this many times the lowest is not held down.
const HELD_DOWN: f64 = 2.0;
/// Measurements at the lowest rate that are compared with those at full speed.
const COMPARED: usize = 512;
/// After so many trials in vain, seven hours, time decides as it does elsewhere: what was measured an hour ago is forgotten.
const TRIALS: u32 = 16;
/// Queues are never as even as this: others' packets come in bursts.
const EVEN: Duration = Duration::from_millis(4);

/// What was measured, and what follows.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// The shortest way to each address, by windows, the newest last. A name may stand for addresses near and far.
    ways: BTreeMap<SocketAddr, VecDeque<(Instant, Duration)>>,
    /// The address that was measured last.
    last: Option<SocketAddr>,
    /// Waiting in queues, the newest last.
    waits: VecDeque<Duration>,
    rate: Option<f64>,
    /// Whether the last measurement took something of the rate.
    cutting: bool,
    unused_since: Option<Instant>,
    held: Option<HeldDown>,
}

/// A rate that has been the lowest for a while. Either others fill the line, or the way has become longer, or an origin says so: what
/// the way takes at the lowest rate and at full speed tells which.
#[derive(Debug)]
struct HeldDown {
    since: Instant,
    patience: Duration,
    /// That were in vain.
    trials: u32,
    /// What the way took at the lowest rate, the newest last.
    low: VecDeque<Duration>,
    lost: bool,
    /// Since when it goes at full speed, and what the way took then.
    trial: Option<(Instant, Vec<Duration>)>,
}

impl HeldDown {
    fn new(since: Instant) -> Self {
        Self { since, patience: PATIENCE.0, trials: 0, low: VecDeque::new(), lost: false, trial: None }
    }

    /// After a trial in vain.
    fn again(&self, since: Instant) -> Self {
        let (patience, trials) = ((self.patience * 2).min(PATIENCE.1), self.trials + 1);
        Self { patience, trials, ..Self::new(since) }
    }

    /// One more measurement at the lowest rate.
    fn at_low_rate(&mut self, took: Option<Duration>) {
        self.lost |= took.is_none();
        self.low.extend(took);
        if self.low.len() > COMPARED {
            self.low.pop_front();
        }
    }

    /// How long the free way takes, if what was taken for others' packets is none. Others' queue is full already, so this fetch makes
    /// it no longer, and it is uneven; what is longer only while this fetch is fast was empty before.
    fn free_way(&self) -> Option<Duration> {
        let (_, fast) = self.trial.as_ref()?;
        let (mut low, mut fast) = (Vec::from_iter(self.low.iter().copied()), fast.clone());
        low.sort_unstable();
        fast.sort_unstable();
        let part = |of: &[Duration], tenths: usize| of.get(of.len() * tenths / 10).copied();
        let (shortest, longest) = (part(&low, 1)?, part(&low, 9)?);
        let rises = part(&fast, 5)? >= longest + TARGET / 2;
        let is_even = !self.lost && longest - shortest < EVEN;
        (rises || is_even).then_some(shortest)
    }
}

impl Control {
    /// How long the way took while nothing was fetched, or before.
    pub(super) fn way(&mut self, address: SocketAddr, took: Duration, now: Instant) -> Duration {
        if !self.ways.contains_key(&address) && self.ways.len() >= MAX_WAYS {
            let oldest = self.ways.iter().min_by_key(|(_, known)| known.back().map(|(at, _)| *at));
            let oldest = oldest.map(|(address, _)| *address);
            oldest.and_then(|address| self.ways.remove(&address));
        }
        let known = self.ways.entry(address).or_default();
        // While others seem to fill the line, what it took when it was free is not forgotten: a trial tells better than time.
        let keeps = self.held.as_ref().is_some_and(|held| held.trials < TRIALS);
        match known.back_mut().filter(|(since, _)| keeps || now.saturating_duration_since(*since) < WINDOW) {
            Some((_, shortest)) => *shortest = took.min(*shortest),
            None => known.push_back((now, took)),
        }
        while known.len() > WINDOWS {
            known.pop_front();
        }
        known.iter().map(|(_, shortest)| *shortest).min().unwrap_or(took)
    }

    /// How long the way took (`None`: the line lost the question) beside a fetch that brings `speed` bytes per second and must not
    /// fall below `floor`. On a line that is not `thin` it never gives way.
    pub(super) fn measured(
        &mut self,
        address: SocketAddr,
        took: Option<Duration>,
        now: Instant,
        (speed, floor, thin): (f64, f64, bool),
    ) {
        if self.last.replace(address).is_some_and(|last| last != address) {
            self.waits.clear();
            self.held = None;
        }
        let wait = took.map_or(TARGET * 2, |took| took.saturating_sub(self.way(address, took, now)));
        if self.in_trial(address, took, now, (floor, thin)) {
            return;
        }
        let drains = self.waits.back().is_some_and(|before| wait + DRAINS < *before);
        self.waits.push_back(wait);
        if self.waits.len() > FILTER {
            self.waits.pop_front();
        }
        let Some(wait) = self.waits.iter().min().filter(|_| self.waits.len() == FILTER) else { return };
        let off = ((TARGET.as_secs_f64() - wait.as_secs_f64()) / TARGET.as_secs_f64()).clamp(-1.0, 1.0);
        let first = off < 0.0 && !self.cutting;
        self.cutting = off < 0.0;
        self.rate = match self.rate {
            _ if off < 0.0 && !thin => return self.rest(),
            None if off < 0.0 => Some((speed * FIRST).max(floor)),
            None => None,
            Some(rate) if first => Some((rate.min(speed) * FIRST).max(floor)),
            Some(rate) if off < 0.0 && drains => Some(rate),
            Some(rate) if off < 0.0 => Some((rate * (1.0 + CUT * off)).max(floor)),
            // A rate that is not used says nothing of the line, and does not grow much beyond (RFC 6817, max_allowed_cwnd).
            Some(rate) => Some((rate + off * (GAIN.0 * rate + GAIN.1)).min(rate.max(speed * UNUSED.0 + floor * 2.0))),
        };
        let unused = self.rate.is_some_and(|rate| rate > speed * (UNUSED.0 - 0.5) && off > 0.5);
        self.unused_since = unused.then(|| self.unused_since.unwrap_or(now));
        if self.unused_since.is_some_and(|since| now.saturating_duration_since(since) >= UNUSED.1) {
            self.rest();
        }
        self.hold_down(took, now, floor);
    }

    /// Looks whether the rate has been the lowest for long, and begins a trial then.
    fn hold_down(&mut self, took: Option<Duration>, now: Instant, floor: f64) {
        if self.rate.is_none_or(|rate| rate > floor * HELD_DOWN) {
            self.held = None;
            return;
        }
        let held = self.held.get_or_insert_with(|| HeldDown::new(now));
        held.at_low_rate(took);
        if now.saturating_duration_since(held.since) >= held.patience {
            held.trial = Some((now, Vec::new()));
            self.rate = None;
        }
    }

    /// Whether a trial is under way. At its end the way is what it takes when this line is free, or the rate is the lowest again.
    fn in_trial(
        &mut self,
        address: SocketAddr,
        took: Option<Duration>,
        now: Instant,
        (floor, thin): (f64, bool),
    ) -> bool {
        let Some(held) = &mut self.held else { return false };
        let Some((since, fast)) = &mut held.trial else { return false };
        let passed = now.saturating_duration_since(*since);
        if passed >= TRIAL.0 {
            fast.extend(took);
        }
        if !thin {
            self.rest();
        } else if passed >= TRIAL.1 {
            match held.free_way() {
                Some(way) => {
                    self.ways.insert(address, VecDeque::from([(now, way)]));
                    self.rest();
                }
                None => {
                    *held = held.again(now);
                    self.rate = Some(floor);
                }
            }
        }
        true
    }

    /// Begins anew, at full speed; the ways are remembered.
    pub(super) fn rest(&mut self) {
        self.rate = None;
        self.cutting = false;
        self.waits.clear();
        self.unused_since = None;
        self.held = None;
    }

    /// As if so many bytes per second were left.
    #[cfg(test)]
    pub(in super::super) fn hold(&mut self, rate: f64) {
        self.rate = Some(rate);
    }

    /// Bytes per second; `None` for as many as the line brings.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// How long the queue holds what goes by it, as last measured.
    pub(super) fn wait(&self) -> Duration {
        self.waits.iter().min().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a line of 5 Mbit/s brings, and what its queue of 50 ms holds.
    const LINE: f64 = 625_000.0;
    const QUEUE: f64 = LINE * 0.05;
    const STEP: Duration = Duration::from_millis(125);
    const FLOOR: f64 = 16_384.0;

    /// A line with this fetch, and with somebody who fills what is left of it and of the queue, as TCP does.
    struct Line {
        control: Control,
        now: Instant,
        queue: f64,
        other: bool,
        step: u32,
        /// What the origin's answer takes for itself, by the time since the start in seconds.
        late: fn(f64) -> f64,
    }

    fn address(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 443))
    }

    impl Line {
        fn new() -> Self {
            let (control, now) = (Control::default(), Instant::now());
            let mut line = Self { control, now, queue: 0.0, other: false, step: 0, late: |_| 0.0 };
            line.control.way(address(1), Duration::from_millis(20), line.now);
            line
        }

        /// Returns what this fetch got, as a part of the line, over the last third of the time.
        fn run(&mut self, seconds: f64) -> f64 {
            let steps = (seconds / STEP.as_secs_f64()) as u32;
            let (mut got, mut counted) = (0.0, 0);
            for step in 0..steps {
                self.step += 1;
                self.now += STEP;
                // Unlimited, this fetch is TCP too: it shares evenly, or fills the queue alone.
                let wanted = self.control.rate().unwrap_or(f64::MAX);
                let speed = wanted.min(if self.other { LINE / 2.0 } else { LINE });
                let full = QUEUE * (0.7 + 0.1 * f64::from(self.step % 4));
                let target = if self.other || wanted > LINE { full } else { 0.0 };
                // It fills at once, and drains at the rate at which less comes.
                let drain = (LINE - wanted).max(0.0) * STEP.as_secs_f64();
                self.queue = if target > 0.0 { target } else { (self.queue - drain).max(0.0) };
                let late = (self.late)(f64::from(self.step) * STEP.as_secs_f64());
                let took = Duration::from_secs_f64(0.02 + late + self.queue / LINE);
                self.control.measured(address(1), Some(took), self.now, (speed, FLOOR, true));
                if step >= steps * 2 / 3 {
                    got += speed;
                    counted += 1;
                }
            }
            got / f64::from(counted) / LINE
        }
    }

    #[test]
    fn it_fills_the_line_alone_gives_way_to_another_and_comes_back() {
        let mut line = Line::new();
        let alone = line.run(30.0);
        assert!(alone > 0.93, "alone {alone}");
        line.other = true;
        let beside = line.run(15.0);
        assert!(beside < 0.06, "beside another {beside}");
        line.other = false;
        let again = line.run(30.0);
        assert!(again > 0.93, "alone again {again}");
    }

    #[test]
    fn single_late_answers_and_slow_origins_change_nothing() {
        let mut control = Control::default();
        let mut now = Instant::now();
        for step in 0..200 {
            now += STEP;
            let took = Duration::from_millis(if step % 4 == 0 { 21 } else { 400 });
            control.measured(address(1), Some(took), now, (1e6, FLOOR, true));
        }
        assert_eq!(control.rate(), None);
        // On a line that is not thin, waiting is not looked at.
        for _ in 0..20 {
            now += STEP;
            control.measured(address(1), Some(Duration::from_millis(80)), now, (1e7, FLOOR, false));
        }
        assert_eq!(control.rate(), None);
        // A way that has become longer for good is believed after an hour.
        for _ in 0..8 * 4000 {
            now += STEP;
            control.measured(address(1), Some(Duration::from_millis(80)), now, (1e5, FLOOR, true));
        }
        assert_eq!((control.rate(), control.wait()), (None, Duration::ZERO));
        for number in 0..100 {
            control.way(address(number), STEP, now);
        }
        assert_eq!(control.ways.len(), MAX_WAYS);
    }

    #[test]
    fn a_way_that_only_seems_full_does_not_hold_a_fetch_down() {
        // An origin that answers late, but for two seconds in fifty minutes.
        let late: fn(f64) -> f64 = |at| if at % 3000.0 < 2.0 { 0.0 } else { 0.05 };
        // The same on a way that is uneven by itself.
        let uneven: fn(f64) -> f64 = |at| if at % 3000.0 < 2.0 { 0.0 } else { 0.05 + (at * 8.0) % 5.0 * 0.003 };
        for late in [late, uneven] {
            let mut line = Line::new();
            line.late = late;
            let got = line.run(4.0 * 3600.0);
            assert!(got > 0.85, "got {got}");
            // What it gives way to after that is still somebody else.
            line.other = true;
            let beside = line.run(120.0);
            assert!(beside < 0.06, "beside another {beside}");
        }
    }

    #[test]
    fn somebody_else_keeps_the_line_for_hours() {
        let mut line = Line::new();
        line.other = true;
        let beside = line.run(3.0 * 3600.0);
        assert!(beside < 0.04, "beside another {beside}");
    }

    #[test]
    fn a_far_address_of_a_name_is_not_held_against_a_near_one() {
        let mut control = Control::default();
        let mut now = Instant::now();
        for step in 0..8 * 1200 {
            now += STEP;
            let (number, took) = if step / 480 % 2 == 0 { (1, 20) } else { (2, 70) };
            control.measured(address(number), Some(Duration::from_millis(took)), now, (6e5, FLOOR, true));
            assert_eq!(control.rate(), None);
        }
    }

    #[test]
    fn a_rate_that_nobody_uses_is_given_up() {
        let mut line = Line::new();
        line.other = true;
        line.run(5.0);
        assert!(line.control.rate().is_some());
        for _ in 0..200 {
            line.now += STEP;
            line.control.measured(address(1), Some(Duration::from_millis(20)), line.now, (20_000.0, FLOOR, true));
        }
        assert_eq!(line.control.rate(), None);
        // The line loses what it cannot queue.
        for _ in 0..16 {
            line.now += STEP;
            line.control.measured(address(1), None, line.now, (1e6, FLOOR, true));
        }
        assert!(line.control.rate().is_some_and(|rate| rate < 1e6));
    }
}
