//! Whether the coordinator may sign by its own clock.
//!
//! Owns the anchor: the wall clock beside one that cannot be set, and the date of the last signature. It never corrects a clock; a
//! stop may be signed whatever the clock says, with the date of the last signature.

use std::time::Duration;

use super::CoordinatorState;
use super::io::{AlarmKind, Distrust, Output, Refusal};
use crate::envelope::EnvelopeError;
use crate::time::{Mono, Now, Wall};
use crate::trust::CLOCK_TOLERANCE;

/// While the clock is not believed, it is looked at again this often.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Clock {
    anchor: Option<(Mono, Wall)>,
    /// What an admin was told last.
    told: Option<Distrust>,
}

impl Clock {
    fn distrust(&self, now: Now, last: Wall) -> Option<Distrust> {
        if now.wall + CLOCK_TOLERANCE < last {
            return Some(Distrust::Behind { wall: now.wall, last });
        }
        let (mono, wall) = self.anchor?;
        let expected = wall + now.mono.since(mono);
        let apart = now.wall.since(expected).max(expected.since(now.wall));
        (apart > CLOCK_TOLERANCE).then_some(Distrust::Jumped { wall: now.wall, expected })
    }
}

impl CoordinatorState {
    /// Why the clock is not believed, if so. One that is right again is believed again by itself.
    pub fn clock_distrust(&self, now: Now) -> Option<Distrust> {
        self.clock.distrust(now, self.documents.signed())
    }

    /// What needs a date that is right waits until the clock is.
    pub(super) fn clock_is_right(&self, now: Now) -> Result<(), Refusal> {
        self.clock_distrust(now).map_or(Ok(()), |distrust| Err(Refusal::Clock(distrust)))
    }

    /// The date to sign by; `None` while the clock is not believed.
    pub(super) fn date(&mut self, now: Now) -> Option<Wall> {
        let distrust = self.clock_distrust(now);
        match distrust {
            None => {
                self.clock.anchor.get_or_insert((now.mono, now.wall));
                if self.clock.told.take().is_some() {
                    self.outputs.push_back(Output::Over { kind: AlarmKind::Clock, device: None });
                }
            }
            Some(distrust) => {
                // Behind the last signature, the clock was wrong from the start: that it is set later is no fault.
                if matches!(distrust, Distrust::Behind { .. }) {
                    self.clock.anchor = None;
                }
                if self.clock.told.is_none() {
                    self.clock.told = Some(distrust);
                    self.raise(AlarmKind::Clock, None, distrust.to_string());
                }
            }
        }
        distrust.is_none().then_some(now.wall)
    }

    /// An admin says that the clock is right. What follows is dated by it, under a version of its own.
    pub fn accept_clock(&mut self, now: Now) -> Result<(), EnvelopeError> {
        if self.clock_distrust(now).is_none() {
            return Ok(());
        }
        self.clock = Clock::default();
        self.documents.forget_dates();
        self.issue(now, true)
    }
}
