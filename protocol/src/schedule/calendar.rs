//! Windows and active hours as intervals of instants.
//!
//! A slot of a day begins and ends at local times. Each is turned into an instant: one that the clock skips is moved
//! forward by what was skipped, one that comes twice is its first occurrence (RFC 5545, section 3.3.5), but active hours end
//! at the second: in doubt, nothing is installed. A slot that lies in the skipped hour can vanish on that day.

use core::ops::Range;
use core::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, time};
use jiff::tz::TimeZone;

use super::Why;
use crate::catalog::{MinuteOfDay, Schedule, Weekdays, Window};
use crate::time::Wall;

/// How far ahead openings are looked for. Two weeks and a day: a weekly window that vanishes once in a skipped hour is found
/// in the next week.
pub const HORIZON: Duration = Duration::from_secs(15 * 86_400);

const DAY: MinuteOfDay = 1440;

/// When a schedule lets a device act, apart from everything else.
pub(super) struct Calendar<'a> {
    zone: &'a TimeZone,
    windows: &'a [Window],
    active: Option<Window>,
}

impl<'a> Calendar<'a> {
    pub(super) fn new(schedule: &'a Schedule, zone: &'a TimeZone) -> Self {
        // No day of work, no active hours.
        let active = schedule.active_hours.filter(|hours| hours.days != Weekdays(0)).map(|hours| Window {
            days: hours.days,
            start: hours.start,
            end: hours.end,
        });
        Self { zone, windows: &schedule.windows, active }
    }

    /// What forbids acting at this instant, if anything.
    pub(super) fn closed_by(&self, at: Wall) -> Option<Why> {
        if !self.windows.is_empty() && self.window_end(at).is_none() {
            Some(Why::Window)
        } else {
            self.work_end(at).map(|_| Why::ActiveHours)
        }
    }

    /// The first instant from `from` on at which nothing is closed, within [`HORIZON`].
    pub(super) fn next_opening(&self, from: Wall) -> Option<Wall> {
        let horizon = from + HORIZON;
        let mut at = from;
        // Each step goes to a later boundary of a slot, of which the horizon holds a bounded number.
        while at <= horizon {
            if let Some(end) = self.work_end(at) {
                at = end;
            } else if self.windows.is_empty() || self.window_end(at).is_some() {
                return Some(at);
            } else {
                at = self.next_start(self.windows, at, resolve)?;
            }
        }
        None
    }

    /// When the opening around `at` ends, or the horizon, whichever is first. `at` must be open.
    pub(super) fn open_until(&self, at: Wall) -> Wall {
        let mut end = at + HORIZON;
        if !self.windows.is_empty() {
            let mut windows_end = at;
            while windows_end < end {
                match self.window_end(windows_end) {
                    Some(later) => windows_end = later,
                    None => break,
                }
            }
            end = end.min(windows_end);
        }
        let work = self.next_start(self.active.as_slice(), at, resolve_later);
        work.map_or(end, |work| end.min(work))
    }

    fn window_end(&self, at: Wall) -> Option<Wall> {
        self.covering_end(self.windows, at, resolve)
    }

    fn work_end(&self, at: Wall) -> Option<Wall> {
        self.covering_end(self.active.as_slice(), at, resolve_later)
    }

    /// The latest end of the slots around `at`.
    fn covering_end(&self, slots: &[Window], at: Wall, end: Resolve) -> Option<Wall> {
        // A slot can begin the day before, a skipped day can move it by one more, and a clock that is set back over
        // midnight can put tomorrow's slot before now.
        days(self.local_date(at), -2..2)
            .flat_map(|date| slots.iter().filter_map(move |slot| self.interval(slot, date, end)))
            .filter(|interval| interval.contains(&at))
            .map(|interval| interval.end)
            .max()
    }

    /// The first begin of a slot after `after`, within a little more than [`HORIZON`].
    fn next_start(&self, slots: &[Window], after: Wall, end: Resolve) -> Option<Wall> {
        let mut found: Option<(Date, Wall)> = None;
        for date in days(self.local_date(after), -2..17) {
            // A skipped day moves a slot into the next one, so look two days further.
            if found.is_some_and(|(on, _)| days(on, 3..4).next().is_none_or(|beyond| date >= beyond)) {
                break;
            }
            let starts = slots.iter().filter_map(|slot| self.interval(slot, date, end)).map(|interval| interval.start);
            let first = starts.filter(|start| *start > after).min();
            found = match (found, first) {
                (Some((on, best)), Some(start)) => Some((on, best.min(start))),
                (None, Some(start)) => Some((date, start)),
                (found, None) => found,
            };
        }
        found.map(|(_, start)| start)
    }

    /// The instants of a slot that begins on this local date; `None` when it does not, or lasts no time.
    fn interval(&self, slot: &Window, date: Date, resolve_end: Resolve) -> Option<Range<Wall>> {
        let weekday = u8::try_from(date.weekday().to_monday_zero_offset()).ok()?;
        if !slot.days.contains(weekday) {
            return None;
        }
        let end_day = if slot.end <= slot.start { 1 } else { 0 };
        let start = resolve(self.zone, local_time(date, 0, slot.start)?)?;
        let end = resolve_end(self.zone, local_time(date, end_day, slot.end)?)?;
        (start < end).then_some(start..end)
    }

    fn local_date(&self, at: Wall) -> Date {
        let milliseconds = i64::try_from(at.0).unwrap_or(i64::MAX);
        // Beyond the year 9999 the calendar stands still; approvals expire long before.
        let stamp = Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX);
        self.zone.to_datetime(stamp).date()
    }
}

type Resolve = fn(&TimeZone, DateTime) -> Option<Wall>;

fn resolve(zone: &TimeZone, local: DateTime) -> Option<Wall> {
    wall(zone.to_ambiguous_timestamp(local).compatible().ok()?)
}

fn resolve_later(zone: &TimeZone, local: DateTime) -> Option<Wall> {
    wall(zone.to_ambiguous_timestamp(local).later().ok()?)
}

fn wall(stamp: Timestamp) -> Option<Wall> {
    u64::try_from(stamp.as_millisecond()).ok().map(Wall)
}

/// A minute of the day after `day` more days; minute 1440 and above is the next midnight.
fn local_time(date: Date, day: usize, minute: MinuteOfDay) -> Option<DateTime> {
    let minute = minute.min(DAY);
    let (day, minute) = if minute == DAY { (day + 1, 0) } else { (day, minute) };
    let mut date = date;
    for _ in 0..day {
        date = date.tomorrow().ok()?;
    }
    let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
    Some(date.to_datetime(time(hour, minute, 0, 0)))
}

/// The dates at these offsets from `date`, as far as the calendar reaches.
fn days(date: Date, offsets: Range<i32>) -> impl Iterator<Item = Date> {
    offsets.filter_map(move |offset| date.checked_add(jiff::Span::new().days(offset)).ok())
}
