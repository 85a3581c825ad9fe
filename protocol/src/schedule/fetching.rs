//! May the bytes of an approved release come to a device already? They come ahead of need only where the approval says so, and never
//! for a turn that may never come.

use core::time::Duration;

use jiff::tz::TimeZone;

use super::{Calendar, DeviceFacts, ring_delay, ring_of};
use crate::catalog::{Approval, Schedule};
use crate::codec::Bounded;
use crate::time::Wall;

/// Whether bytes may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetching {
    /// Yes.
    Now,
    /// No; to be asked again at this instant.
    NotBefore(Wall),
    /// No ring reaches the device; only another approval changes that.
    Never,
}

/// Whether a device may fetch what an approval wants it to have. Its expiry is the caller's to look at.
pub fn fetching(approval: &Approval, facts: &DeviceFacts<'_>, now: Wall) -> Fetching {
    let place = ring_of(facts.device, approval.release);
    match ring_delay(&approval.rings, place) {
        Some((_, delay)) => ahead_of(approval, delay, facts.zone, now),
        None if approval.schedule.expedite => ahead_of(approval, Duration::ZERO, facts.zone, now),
        None => Fetching::Never,
    }
}

/// The same for a branch cache, which fetches for the others of its site: as for the first ring, for it cannot know which of them
/// belongs to which.
pub fn fetching_for_others(approval: &Approval, zone: &TimeZone, now: Wall) -> Fetching {
    let delay = approval.rings.rings.first().map_or(0, |ring| ring.delay_s);
    ahead_of(approval, Duration::from_secs(delay.into()), zone, now)
}

/// By the delay of a ring.
fn ahead_of(approval: &Approval, delay: Duration, zone: &TimeZone, now: Wall) -> Fetching {
    let Schedule { available_from, expedite, fetch_ahead, .. } = &approval.schedule;
    // An approval that is here was signed: what begins with it has begun, although this clock may be behind the signer's.
    let ring = if *expedite || delay.is_zero() { Wall::default() } else { approval.issued + delay };
    let turn = ring.max(available_from.unwrap_or_default());
    let from = turn - Duration::from_secs(fetch_ahead.within_s.into());
    if now >= turn {
        return Fetching::Now;
    }
    if now < from {
        return Fetching::NotBefore(from);
    }
    let hours = Schedule { windows: Bounded::truncated(fetch_ahead.windows.to_vec()), ..Schedule::default() };
    let calendar = Calendar::new(&hours, zone);
    match calendar.closed_by(now) {
        None => Fetching::Now,
        Some(_) => Fetching::NotBefore(calendar.next_opening(now).map_or(turn, |at| at.min(turn))),
    }
}
