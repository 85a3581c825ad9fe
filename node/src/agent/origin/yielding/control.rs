//! The rate at which a fetch takes nothing from others, from how long the way to the origin takes: LEDBAT (RFC 6817) with a rate in
//! place of its window. Pure: whoever measures tells it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Waiting in the line's queue that is this fetch's own fault at most; above it somebody gives way. RFC 6817 allows 100 ms, but the
/// queues of many lines are shorter than that.
const TARGET: Duration = Duration::from_millis(20);
/// The shortest of so many measurements counts: one that was late says nothing (RFC 6817, section 4.2).
const FILTER: usize = 4;
/// Ways change: what was measured longer ago is forgotten, so many of these later.
const WINDOW: Duration = Duration::from_secs(600);
const WINDOWS: usize = 6;
/// Origins whose ways are remembered.
const MAX_WAYS: usize = 8;
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

/// What was measured, and what follows.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// The shortest way to each origin, by windows, the newest last.
    ways: BTreeMap<String, VecDeque<(Instant, Duration)>>,
    /// Waiting in queues, the newest last.
    waits: VecDeque<Duration>,
    rate: Option<f64>,
    /// Whether the last measurement took something of the rate.
    cutting: bool,
    unused_since: Option<Instant>,
}

impl Control {
    /// How long the way took while nothing was fetched, or before.
    pub(super) fn way(&mut self, origin: &str, took: Duration, now: Instant) -> Duration {
        if !self.ways.contains_key(origin) && self.ways.len() >= MAX_WAYS {
            let oldest = self.ways.iter().min_by_key(|(_, known)| known.back().map(|(at, _)| *at));
            let oldest = oldest.map(|(origin, _)| origin.clone());
            oldest.and_then(|origin| self.ways.remove(&origin));
        }
        let known = self.ways.entry(origin.to_owned()).or_default();
        match known.back_mut().filter(|(since, _)| now.saturating_duration_since(*since) < WINDOW) {
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
        origin: &str,
        took: Option<Duration>,
        now: Instant,
        (speed, floor, thin): (f64, f64, bool),
    ) {
        let wait = took.map_or(TARGET * 2, |took| took.saturating_sub(self.way(origin, took, now)));
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
    }

    /// Begins anew, at full speed; the ways are remembered.
    pub(super) fn rest(&mut self) {
        self.rate = None;
        self.cutting = false;
        self.waits.clear();
        self.unused_since = None;
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
    }

    impl Line {
        fn new() -> Self {
            let mut line = Self { control: Control::default(), now: Instant::now(), queue: 0.0, other: false, step: 0 };
            line.control.way("o", Duration::from_millis(20), line.now);
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
                let took = Duration::from_secs_f64(0.02 + self.queue / LINE);
                self.control.measured("o", Some(took), self.now, (speed, FLOOR, true));
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
        assert!(alone > 0.95, "alone {alone}");
        line.other = true;
        let beside = line.run(9.0);
        assert!(beside < 0.06, "beside another {beside}");
        line.other = false;
        let again = line.run(30.0);
        assert!(again > 0.95, "alone again {again}");
    }

    #[test]
    fn single_late_answers_and_slow_origins_change_nothing() {
        let mut control = Control::default();
        let mut now = Instant::now();
        for step in 0..200 {
            now += STEP;
            let took = Duration::from_millis(if step % 4 == 0 { 21 } else { 400 });
            control.measured("o", Some(took), now, (1e6, FLOOR, true));
        }
        assert_eq!(control.rate(), None);
        // On a line that is not thin, waiting is not looked at.
        for _ in 0..20 {
            now += STEP;
            control.measured("o", Some(Duration::from_millis(80)), now, (1e7, FLOOR, false));
        }
        assert_eq!(control.rate(), None);
        // A way that has become longer for good is believed after an hour.
        for _ in 0..8 * 4000 {
            now += STEP;
            control.measured("o", Some(Duration::from_millis(80)), now, (1e5, FLOOR, true));
        }
        assert_eq!((control.rate(), control.wait()), (None, Duration::ZERO));
        for origin in 0..100 {
            control.way(&origin.to_string(), STEP, now);
        }
        assert_eq!(control.ways.len(), MAX_WAYS);
    }

    #[test]
    fn a_rate_that_nobody_uses_is_given_up() {
        let mut line = Line::new();
        line.other = true;
        line.run(5.0);
        assert!(line.control.rate().is_some());
        for _ in 0..200 {
            line.now += STEP;
            line.control.measured("o", Some(Duration::from_millis(20)), line.now, (20_000.0, FLOOR, true));
        }
        assert_eq!(line.control.rate(), None);
        // The line loses what it cannot queue.
        for _ in 0..8 {
            line.now += STEP;
            line.control.measured("o", None, line.now, (1e6, FLOOR, true));
        }
        assert!(line.control.rate().is_some_and(|rate| rate < 1e6));
    }
}
