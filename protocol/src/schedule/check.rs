//! What is wrong with a schedule before it is signed.

use crate::catalog::{Approval, RingPlan, Window};
use crate::time::Wall;

/// Why a schedule cannot mean what its author wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The approval is over before it begins.
    #[error("available from {available_from}, but the approval expires at {expires}: make it last longer")]
    ExpiresFirst {
        /// When it would begin.
        available_from: Wall,
        /// When it ends.
        expires: Wall,
    },
    /// The deadline is over before the approval begins.
    #[error("the deadline {deadline} is not after the beginning, {begin}")]
    DeadlineFirst {
        /// The deadline.
        deadline: Wall,
        /// When the approval begins.
        begin: Wall,
    },
    /// A time of day that no clock shows.
    #[error("minute {0} of the day: a day has minutes 0 to 1440")]
    NoSuchMinute(u16),
    /// A window or active hours on no day of the week.
    #[error("a window, or active hours, on no day of the week")]
    NoDays,
    /// Every window lies within active hours.
    #[error("every minute of the maintenance windows lies within active hours: nothing could be installed")]
    NoOpening,
    /// A ring that is not larger or not later than the one before it.
    #[error("ring {}: each ring must reach further than the one before, up to 10000, and begin no earlier", .0 + 1)]
    RingOrder(usize),
}

/// Refuses an approval whose schedule or ring plan contradicts itself.
pub fn check(approval: &Approval) -> Result<(), ScheduleError> {
    let schedule = &approval.schedule;
    let begin = schedule.available_from.unwrap_or(approval.issued).max(approval.issued);
    if begin >= approval.expires {
        return Err(ScheduleError::ExpiresFirst { available_from: begin, expires: approval.expires });
    }
    if let Some(deadline) = schedule.deadline.filter(|deadline| *deadline <= begin) {
        return Err(ScheduleError::DeadlineFirst { deadline, begin });
    }
    let active = schedule.active_hours.map(|hours| Window { days: hours.days, start: hours.start, end: hours.end });
    for slot in schedule.windows.iter().chain(&active).chain(schedule.fetch_ahead.windows.iter()) {
        if let Some(minute) = [slot.start, slot.end].into_iter().find(|minute| *minute > 1440) {
            return Err(ScheduleError::NoSuchMinute(minute));
        }
        if slot.days.0 & 0x7f == 0 {
            return Err(ScheduleError::NoDays);
        }
    }
    if let Some(active) = active {
        let open = |minute| schedule.windows.is_empty() || schedule.windows.iter().any(|slot| covers(slot, minute));
        if !(0..WEEK).any(|minute| open(minute) && !covers(&active, minute)) {
            return Err(ScheduleError::NoOpening);
        }
    }
    check_rings(&approval.rings)
}

fn check_rings(plan: &RingPlan) -> Result<(), ScheduleError> {
    let (mut reach, mut delay_s) = (0, 0);
    for (at, ring) in plan.rings.iter().enumerate() {
        if ring.up_to <= reach || ring.up_to > 10_000 || ring.delay_s < delay_s {
            return Err(ScheduleError::RingOrder(at));
        }
        (reach, delay_s) = (ring.up_to, ring.delay_s);
    }
    Ok(())
}

const WEEK: u16 = 7 * 1440;

/// Whether a slot covers a minute of an ordinary week, counted from Monday 00:00.
fn covers(slot: &Window, minute: u16) -> bool {
    let length = if slot.end > slot.start { slot.end - slot.start } else { slot.end + 1440 - slot.start };
    (0..7).filter(|day| slot.days.contains(*day)).any(|day| {
        let start = (u16::from(day) * 1440 + slot.start) % WEEK;
        (minute + WEEK - start) % WEEK < length
    })
}
