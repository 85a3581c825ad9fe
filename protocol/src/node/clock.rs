//! What this machine's clock cannot be: behind the build, a day or more from what the coordinator signs, or past the end of this
//! device's own certificate.
//!
//! Owns what is told of it, once, until it is over. It never corrects a clock and decides nothing: the trust core and the
//! schedules do that by themselves, and a node with a wrong clock goes on running until the clock is right.

use core::time::Duration;

use super::NodeState;
use super::explain::Sentence;
use crate::report::Trouble;
use crate::time::{Now, Wall};
use crate::trust::CLOCK_TOLERANCE;
use crate::units::span;
use crate::wire::Message;

#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    /// How far this clock is from the coordinator's, and whether ahead of it, when that is far.
    apart: Option<(Duration, bool)>,
    told: bool,
}

impl NodeState {
    /// Looks whether the clock has become right, or wrong.
    pub(super) fn look_at_clock(&mut self, now: Now) {
        if let Some(head) = self.trust.take_timely(now.wall) {
            self.head_offered(&head, None, now);
        }
        match self.clock_trouble(now.wall) {
            Some(trouble) if !self.clock.told => {
                self.clock.told = true;
                self.alarm(Trouble::Clock, format!("clock: {}", trouble.text));
            }
            None if self.clock.told => {
                self.clock.told = false;
                self.reports.take_back(Trouble::Clock);
                self.report_soon(now);
            }
            _ => {}
        }
    }

    /// The wall clock was set, or the machine slept: whatever was waited for by the wall clock is looked at again.
    pub(super) fn clock_jumped(&mut self, now: Now) {
        self.cx.awake_since = now.wall;
        self.deployments.touch_all();
        self.clock.apart = None;
        self.say_here(now);
        self.dial_all_again(now);
        self.timer(super::Reason::Renew, now.mono);
        self.look_at_clock(now);
    }

    /// Tells the coordinator what this clock shows.
    pub(super) fn say_here(&mut self, now: Now) {
        if let Some(coordinator) = self.peers.coordinator {
            let message = Message::Here { clock: now.wall, run: self.cx.run };
            self.send(coordinator, &message);
        }
    }

    /// The coordinator's clock differs from this one.
    pub(super) fn coordinator_clock(&mut self, clock: Wall, now: Now) {
        let apart = clock.since(now.wall).max(now.wall.since(clock));
        self.clock.apart = (apart > CLOCK_TOLERANCE).then_some((apart, now.wall > clock));
        self.look_at_clock(now);
    }

    pub(super) fn clock_trouble(&self, wall: Wall) -> Option<Sentence> {
        if let Some(built) = self.trust.behind_build(wall) {
            let text = format!("this machine's clock says {wall}, and upswarm was built at {built}: set the clock");
            return Some(Sentence::new(
                text,
                "nothing begins here until the clock is right; then it goes on by itself",
            ));
        }
        if let Some(ahead) = self.trust.ahead(wall) {
            let text = format!("the catalog is {} ahead of this machine's clock", span(ahead));
            let because = "its head is set aside: what it stops is stopped, the rest waits until the wrong clock of the two is \
                           set right";
            return Some(Sentence::new(text, because));
        }
        if let Some((apart, ahead)) = self.clock.apart {
            let side = if ahead { "ahead of" } else { "behind" };
            let text = format!("this machine's clock is {} {side} the coordinator's", span(apart));
            return Some(Sentence::new(text, format!("both were compared when they last met; it is {wall} here")));
        }
        let ended = self.certificate.expires;
        (ended <= wall).then(|| {
            Sentence::new(
                format!("this device's certificate ended at {ended}, and this machine's clock says {wall}"),
                "if the clock is ahead, set it; else the coordinator renews the certificate as soon as it is reached",
            )
        })
    }
}
