//! May this device act on an approval now, and if not, when?
//!
//! The order in which an approval holds a device back, each before the next:
//!
//! 1. `available_from`, which not even `expedite` passes;
//! 2. the device's ring: `issued` plus the ring's delay;
//! 3. jitter, counted from the later of the two above;
//! 4. deferral by the person at the machine;
//! 5. maintenance windows and active hours, in the device's local time.
//!
//! The deadline lifts 4 and 5, not the rings: a rollout that was stopped in its first ring must not reach everyone because
//! a date has passed. A device that was off or asleep at the deadline has `grace_s` from the moment it woke.

mod calendar;
mod check;
mod fetching;
mod restart;

use core::fmt;
use core::time::Duration;

use jiff::tz::{TimeZone, TimeZoneDatabase};

pub use calendar::HORIZON;
pub use check::{ScheduleError, check};
pub use fetching::{Fetching, fetching, fetching_for_others};
pub use restart::{NoRestart, decide_restart};

use calendar::Calendar;

use crate::catalog::{Approval, RingPlan, Schedule, Window};
use crate::codec::Bounded;
use crate::ids::{DeviceId, ReleaseId};
use crate::time::Wall;

/// What a decision needs to know about a device.
#[derive(Debug, Clone)]
pub struct DeviceFacts<'a> {
    /// Which device: decides its ring and its jitter.
    pub device: DeviceId,
    /// Where windows and active hours are read; see [`zone`].
    pub zone: &'a TimeZone,
    /// Since when the machine has been on and awake without a break.
    pub awake_since: Wall,
    /// What [`overdue_since`] said the first time it said something, kept over sleep and restarts; else a machine
    /// that sleeps often would get its grace anew every time.
    pub overdue_since: Option<Wall>,
    /// What the person at the machine has put off; made by [`defer`].
    pub deferred: Option<Deferred>,
}

/// A deferral, to be kept with the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deferred {
    /// Until when.
    pub until: Wall,
    /// How many times so far.
    pub times: u8,
    /// Seconds granted so far, in all.
    pub total_s: u32,
}

/// Whether a device may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Now {
        /// The permission ends here; to be asked again.
        until: Wall,
    },
    /// No.
    NotBefore {
        /// The answer can change at this instant and, with the same facts, not earlier. It may lie beyond the approval's
        /// expiry: a renewed approval then decides.
        at: Wall,
        /// What holds it back until then.
        why: Why,
    },
    /// The ring plan leaves this device out; only another approval changes that.
    NotInRings,
    /// The approval has expired; only a renewed one changes that.
    Expired,
}

/// What holds a device back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The approval begins later.
    AvailableFrom,
    /// The device's ring begins later.
    Ring {
        /// Its position in the plan.
        index: u8,
    },
    /// The device's share of the spread.
    Jitter,
    /// The person at the machine put it off.
    Deferred,
    /// No maintenance window is open.
    Window,
    /// It is a time of work.
    ActiveHours,
    /// The deadline is the only time that the approval names for a restart.
    Deadline,
    /// No window opens outside active hours within [`HORIZON`]: the schedule contradicts itself.
    NoOpening,
}

impl Decision {
    /// When to decide again, if nothing else changes: for a timer. `None` when no time alone changes it.
    pub fn changes_at(&self, approval: &Approval) -> Option<Wall> {
        match self {
            Decision::Now { until } => Some(*until),
            Decision::NotBefore { at, .. } => Some(*at.min(&approval.expires)),
            Decision::NotInRings => Some(approval.expires),
            Decision::Expired => None,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::AvailableFrom => f.write_str("the approval is not available yet"),
            Why::Ring { index } => write!(f, "ring {} of the rollout, this device's, has not begun", index + 1),
            Why::Jitter => f.write_str("starts are spread over a while, and this device's turn is later"),
            Why::Deferred => f.write_str("the person at the machine put it off"),
            Why::Window => f.write_str("outside the maintenance windows"),
            Why::ActiveHours => f.write_str("within active hours"),
            Why::Deadline => f.write_str("the deadline has not come yet"),
            Why::NoOpening => f.write_str("no maintenance window opens outside active hours; change the schedule"),
        }
    }
}

/// The time zone with this IANA name, from the database inside the program; `None` when there is none.
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

/// Whether an instant lies in a window of this zone.
pub fn is_within(window: Window, zone: &TimeZone, at: Wall) -> bool {
    let schedule = Schedule { windows: Bounded::truncated(vec![window]), ..Schedule::default() };
    Calendar::new(&schedule, zone).closed_by(at).is_none()
}

/// The device's place in the rollout of a release: 0 to 9999, evenly spread and always the same for the same pair, so that
/// not the same devices go first every time.
pub fn ring_of(device: DeviceId, release: ReleaseId) -> u16 {
    (stable_hash(b"upswarm ring", device, release) % 10_000) as u16
}

/// Whether the device may act on the approval now. The approval's action and holds are the caller's to look at.
pub fn decide(approval: &Approval, facts: &DeviceFacts<'_>, now: Wall) -> Decision {
    let schedule = &approval.schedule;
    if now >= approval.expires {
        return Decision::Expired;
    }
    let available_from = schedule.available_from.unwrap_or_default();
    if now < available_from {
        return Decision::NotBefore { at: available_from, why: Why::AvailableFrom };
    }
    if schedule.expedite {
        return Decision::Now { until: approval.expires };
    }
    let Some((ring, delay)) = ring_delay(&approval.rings, ring_of(facts.device, approval.release)) else {
        return Decision::NotInRings;
    };
    // An approval that is here was signed: what begins with it has begun, although this clock may be behind the signer's.
    let ring_begins = approval.issued + delay;
    if now < ring_begins && !delay.is_zero() {
        return Decision::NotBefore { at: ring_begins, why: Why::Ring { index: ring } };
    }
    let share = jitter(schedule, facts.device, approval.release);
    let turn = ring_begins.max(available_from) + share;
    if now < turn && !(delay.is_zero() && share.is_zero()) {
        return Decision::NotBefore { at: turn, why: Why::Jitter };
    }
    let forced_at = forced_at(schedule, facts, now).unwrap_or(Wall(u64::MAX));
    if now >= forced_at {
        return Decision::Now { until: approval.expires };
    }
    if let Some(until) = deferred_until(schedule, facts).filter(|until| now < *until) {
        return Decision::NotBefore { at: until.min(forced_at), why: Why::Deferred };
    }
    let calendar = Calendar::new(schedule, facts.zone);
    match calendar.closed_by(now) {
        None => {
            let closes = calendar.open_until(now);
            let until = if forced_at <= closes { approval.expires } else { closes.min(approval.expires) };
            Decision::Now { until }
        }
        Some(why) => match calendar.next_opening(now) {
            Some(at) => Decision::NotBefore { at: at.min(forced_at), why },
            None => Decision::NotBefore { at: (now + HORIZON).min(forced_at), why: Why::NoOpening },
        },
    }
}

/// The first instant from `now` on at which the device may act, if its facts stay as they are; `None` when the approval
/// leaves it out, expires before, or has no opening for some two and a half years.
pub fn earliest(approval: &Approval, facts: &DeviceFacts<'_>, now: Wall) -> Option<Wall> {
    let mut at = now;
    // Every cause ends once, but a schedule without an opening has one step per horizon.
    for _ in 0..64 {
        match decide(approval, facts, at) {
            Decision::Now { .. } => return Some(at),
            Decision::NotBefore { at: next, .. } => at = next,
            Decision::NotInRings | Decision::Expired => return None,
        }
    }
    None
}

/// Since when the device has known, awake, that the deadline has passed; `None` before that. To be kept by the caller and
/// handed back in [`DeviceFacts::overdue_since`].
pub fn overdue_since(schedule: &Schedule, facts: &DeviceFacts<'_>, now: Wall) -> Option<Wall> {
    let deadline = schedule.deadline.filter(|deadline| now >= *deadline)?;
    // A note from before the deadline belongs to an earlier version of the approval.
    let noted = facts.overdue_since.filter(|noted| *noted >= deadline);
    Some(noted.unwrap_or_else(|| facts.awake_since.min(now).max(deadline)))
}

/// When windows, active hours and deferral end for this device: the deadline, or for a device that slept through it,
/// `grace_s` after it woke. `None` without a deadline.
pub fn forced_at(schedule: &Schedule, facts: &DeviceFacts<'_>, now: Wall) -> Option<Wall> {
    let deadline = schedule.deadline?;
    match overdue_since(schedule, facts, now) {
        Some(since) if since > deadline => Some(since + Duration::from_secs(schedule.grace_s.into())),
        _ => Some(deadline),
    }
}

/// Why a deferral was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeferError {
    /// The approval allows none, or no more.
    #[error("it was put off {used} times, and {allowed} times are allowed")]
    TooOften {
        /// Times so far.
        used: u8,
        /// Times allowed.
        allowed: u8,
    },
    /// Every second that the approval allows is used up.
    #[error("it was put off for {allowed_s} seconds in all, and more is not allowed")]
    TooLong {
        /// Seconds allowed.
        allowed_s: u32,
    },
    /// The deadline has passed.
    #[error("the deadline has passed")]
    Overdue,
}

/// Puts an install off by `by_s` seconds from now, or by what the approval still allows if that is less.
pub fn defer(schedule: &Schedule, facts: &DeviceFacts<'_>, now: Wall, by_s: u32) -> Result<Deferred, DeferError> {
    let cap = schedule.deferral;
    let used = facts.deferred.unwrap_or(Deferred { until: now, times: 0, total_s: 0 });
    if used.times >= cap.max_times {
        return Err(DeferError::TooOften { used: used.times, allowed: cap.max_times });
    }
    let granted = by_s.min(cap.max_total_s.saturating_sub(used.total_s));
    if granted == 0 {
        return Err(DeferError::TooLong { allowed_s: cap.max_total_s });
    }
    if forced_at(schedule, facts, now).is_some_and(|forced| now >= forced) {
        return Err(DeferError::Overdue);
    }
    let until = now + Duration::from_secs(granted.into());
    Ok(Deferred { until, times: used.times + 1, total_s: used.total_s + granted })
}

/// A deferral counts while it is within what the approval, perhaps a newer and stricter one, allows.
fn deferred_until(schedule: &Schedule, facts: &DeviceFacts<'_>) -> Option<Wall> {
    let cap = schedule.deferral;
    facts.deferred.filter(|used| used.times <= cap.max_times && used.total_s <= cap.max_total_s).map(|used| used.until)
}

/// Position and delay of the first ring that reaches `place`; `None` when none does. Without rings everyone begins at once.
fn ring_delay(plan: &RingPlan, place: u16) -> Option<(u8, Duration)> {
    if plan.rings.is_empty() {
        return Some((0, Duration::ZERO));
    }
    let index = plan.rings.iter().position(|ring| place < ring.up_to)?;
    Some((u8::try_from(index).unwrap_or(u8::MAX), Duration::from_secs(plan.rings[index].delay_s.into())))
}

/// The device's share of the spread: below `jitter_s`, to the millisecond.
fn jitter(schedule: &Schedule, device: DeviceId, release: ReleaseId) -> Duration {
    let spread = u128::from(schedule.jitter_s) * 1000;
    let share = (spread * u128::from(stable_hash(b"upswarm jitter", device, release))) >> 64;
    Duration::from_millis(u64::try_from(share).unwrap_or(u64::MAX))
}

fn stable_hash(purpose: &[u8], device: DeviceId, release: ReleaseId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(purpose).update(device.as_bytes()).update(release.as_bytes());
    let hash = hasher.finalize();
    hash.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
