//! Schedule decisions against a slow, obvious model that walks minute by minute and does its own calendar arithmetic: from
//! the time zone database it takes only the offset at an instant.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use upswarm_protocol::catalog::{
    Action, ActiveHours, Approval, Deferral, FetchAhead, RestartPolicy, Ring, RingPlan, Schedule, Weekdays, Window,
};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::{DeviceId, GroupId, ReleaseId};
use upswarm_protocol::schedule::{
    Decision, Deferred, DeviceFacts, NoRestart, Why, decide, decide_restart, earliest, forced_at, overdue_since,
    ring_of, zone,
};
use upswarm_protocol::time::Wall;

const MINUTE: u64 = 60_000;
const DAY: i64 = 1440;

/// A zone, and a minute since 1970 (UTC) shortly before something happens there.
const SCENES: [(&str, &str); 14] = [
    ("Europe/Berlin", "2026-03-28T00:00Z"),
    ("Europe/Berlin", "2026-10-24T00:00Z"),
    ("America/New_York", "2026-03-07T00:00Z"),
    ("America/New_York", "2026-10-31T00:00Z"),
    ("Australia/Lord_Howe", "2026-04-03T00:00Z"),
    ("Australia/Lord_Howe", "2026-10-02T00:00Z"),
    ("Asia/Kolkata", "2026-07-01T00:00Z"),
    // A Friday that never was.
    ("Pacific/Apia", "2011-12-29T00:00Z"),
    // The clock is changed at midnight.
    ("America/Havana", "2026-03-07T00:00Z"),
    ("America/Havana", "2026-10-31T00:00Z"),
    ("America/Santiago", "2026-04-03T00:00Z"),
    ("Africa/Cairo", "2026-10-28T00:00Z"),
    ("Asia/Kathmandu", "2026-12-30T00:00Z"),
    ("UTC", "2028-02-28T00:00Z"),
];

/// Local minutes since 1970 at an instant.
fn local(zone: &TimeZone, minute: i64) -> i64 {
    let stamp = Timestamp::from_second(minute * 60).expect("a year before 9999");
    minute + i64::from(zone.to_offset(stamp).seconds()) / 60
}

/// Minutes of the model's world, from `first` on, and what their local clocks show.
struct World {
    first: i64,
    locals: Vec<i64>,
}

impl World {
    fn new(zone: &TimeZone, first: i64, minutes: i64) -> Self {
        Self { first, locals: (first..first + minutes).map(|minute| local(zone, minute)).collect() }
    }

    /// The minutes at which local clocks show this: first and last; in a gap, where it would be had the clock not moved.
    fn instants(&self, wanted: i64) -> Option<(i64, i64)> {
        let at = |index: usize| self.first + index as i64;
        let shown = |index: &usize| self.locals[*index] == wanted;
        if let Some(first) = (0..self.locals.len()).find(shown) {
            let last = (first..self.locals.len().min(first + 3 * 1440)).rfind(shown).unwrap_or(first);
            return Some((at(first), at(last)));
        }
        let before = (0..self.locals.len()).rfind(|index| self.locals[*index] < wanted)?;
        let moved = at(before) + (wanted - self.locals[before]);
        Some((moved, moved))
    }

    /// Marks the minutes that a slot covers.
    fn mark(&self, slot: &Window, last_end: bool, marks: &mut [bool]) {
        let (first, last) = (self.locals[0] / DAY + 1, self.locals[self.locals.len() - 1] / DAY - 2);
        for day in first..=last {
            // 1970-01-01 was a Thursday.
            if !slot.days.contains(((day + 3) % 7) as u8) {
                continue;
            }
            let end = i64::from(slot.end) + if slot.end <= slot.start { DAY } else { 0 };
            let Some((start, _)) = self.instants(day * DAY + i64::from(slot.start)) else { continue };
            let Some((end, end_last)) = self.instants(day * DAY + end) else { continue };
            for minute in start..if last_end { end_last } else { end } {
                if let Some(mark) = usize::try_from(minute - self.first).ok().and_then(|index| marks.get_mut(index)) {
                    *mark = true;
                }
            }
        }
    }
}

/// What the model says about a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Act,
    Early,
    Ring,
    Jitter,
    Deferred,
    Closed,
}

fn says(decision: Decision) -> (Says, u64) {
    match decision {
        Decision::Now { until } => (Says::Act, until.0),
        Decision::NotBefore { at, why } => {
            let says = match why {
                Why::AvailableFrom | Why::Deadline => Says::Early,
                Why::Ring { .. } => Says::Ring,
                Why::Jitter => Says::Jitter,
                Why::Deferred => Says::Deferred,
                Why::Window | Why::ActiveHours | Why::NoOpening => Says::Closed,
            };
            (says, at.0)
        }
        other => panic!("{other:?} is not expected here"),
    }
}

fn approval(schedule: Schedule, rings: Vec<Ring>, issued: i64) -> Approval {
    let issued = Wall(issued as u64 * MINUTE);
    Approval {
        group: GroupId([1; 16]),
        group_version: 0,
        release: ReleaseId([2; 32]),
        version: 1,
        action: Action::Install,
        back: false,
        issued,
        expires: issued + Duration::from_secs(300 * 86_400),
        schedule,
        rings: RingPlan { rings: Bounded::new(rings).expect("few rings"), stop_above: 0 },
        note: Text::default(),
        filtered: None,
    }
}

fn slot() -> impl Strategy<Value = Window> {
    // Clocks change around midnight and in the small hours, at whole and half hours.
    let minute = prop_oneof![
        3 => (0u16..=8).prop_map(|half| half * 30),
        1 => (44u16..=48).prop_map(|half| half * 30),
        2 => 0u16..=1440,
    ];
    let days = prop_oneof![Just(0x7fu8), 1u8..0x80];
    (days, minute.clone(), minute).prop_map(|(days, start, end)| Window { days: Weekdays(days), start, end })
}

#[derive(Debug, Clone)]
struct Case {
    scene: usize,
    schedule: Schedule,
    ring_delay_s: u32,
    /// Awake for the first many minutes, then asleep for the second many, in turn.
    sleep: (i64, i64),
    deferred: Option<i64>,
}

fn case() -> impl Strategy<Value = Case> {
    let span = 4 * DAY;
    (
        0..SCENES.len(),
        prop::collection::vec(slot(), 0..3),
        prop::option::of(slot()),
        prop::option::weighted(0.3, 0..span),
        prop::option::weighted(0.3, 0..span),
        0u32..1440,
        0u32..600,
        0u32..600,
        (1i64..3000, 0i64..1500),
        prop::option::weighted(0.3, 0..span),
    )
        .prop_map(|(scene, windows, active, from, deadline, grace, jitter, ring, sleep, deferred)| {
            let base = start_of(scene);
            let wall = |minute: i64| Wall((base + minute) as u64 * MINUTE);
            let schedule = Schedule {
                available_from: from.map(|minute| wall(minute / 4)),
                deadline: deadline.map(wall),
                grace_s: grace * 60,
                windows: Bounded::new(windows).expect("few windows"),
                active_hours: active.map(|slot| ActiveHours { days: slot.days, start: slot.start, end: slot.end }),
                deferral: Deferral { max_times: 1, max_total_s: 1 },
                jitter_s: jitter * 60,
                expedite: false,
                fetch_ahead: FetchAhead::default(),
            };
            Case { scene, schedule, ring_delay_s: ring * 60, sleep, deferred }
        })
}

fn start_of(scene: usize) -> i64 {
    SCENES[scene].1.replace("T00:00Z", "T00:00:00Z").parse::<Timestamp>().expect("a time").as_second() / 60
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_minute_is_decided_as_the_model_does(case in case()) {
        let zone = zone(SCENES[case.scene].0).expect("a known zone");
        let base = start_of(case.scene);
        let span = 4 * DAY;
        let world = World::new(&zone, base - 4 * DAY, span + 12 * DAY);
        let mut open = vec![case.schedule.windows.is_empty(); world.locals.len()];
        for window in &case.schedule.windows {
            world.mark(window, false, &mut open);
        }
        let mut work = vec![false; world.locals.len()];
        if let Some(hours) = case.schedule.active_hours {
            world.mark(&Window { days: hours.days, start: hours.start, end: hours.end }, true, &mut work);
        }

        let device = DeviceId([7; 32]);
        let rings = vec![Ring { up_to: 10_000, delay_s: case.ring_delay_s }];
        let approval = approval(case.schedule.clone(), rings, base);
        // The jitter's size is checked elsewhere; here it is taken from a schedule with nothing else in it.
        let bare = Schedule { jitter_s: case.schedule.jitter_s, ..Schedule::default() };
        let mut facts = DeviceFacts {
            device,
            zone: &zone,
            awake_since: Wall(base as u64 * MINUTE),
            overdue_since: None,
            deferred: case.deferred.map(|minute| Deferred {
                until: Wall((base + minute) as u64 * MINUTE),
                times: 1,
                total_s: 1,
            }),
        };
        let bare = self::approval(bare, Vec::new(), base);
        let spread = match decide(&bare, &facts, bare.issued) {
            Decision::NotBefore { at, why: Why::Jitter } => at.since(bare.issued),
            _ => Duration::ZERO,
        };

        // The model: one answer per minute.
        let from = case.schedule.available_from.unwrap_or_default();
        let ring = approval.issued + Duration::from_secs(case.ring_delay_s.into());
        let turn = ring.max(from) + spread;
        let mut woke_overdue: Option<i64> = None;
        let mut answers = Vec::new();
        let (awake_for, asleep_for) = case.sleep;
        let awake = |minute: i64| (minute - base) % (awake_for + asleep_for) < awake_for;
        for minute in base..base + span {
            let now = Wall(minute as u64 * MINUTE);
            let index = (minute - world.first) as usize;
            let forced = case.schedule.deadline.is_some_and(|deadline| {
                let deadline_minute = (deadline.0 / MINUTE) as i64;
                if minute < deadline_minute || !awake(minute) {
                    return false;
                }
                let noticed = *woke_overdue.get_or_insert(minute);
                noticed == deadline_minute || minute >= noticed + i64::from(case.schedule.grace_s / 60)
            });
            answers.push(match () {
                () if now < from => Says::Early,
                () if now < ring => Says::Ring,
                () if now < turn => Says::Jitter,
                () if forced => Says::Act,
                () if facts.deferred.is_some_and(|deferred| now < deferred.until) => Says::Deferred,
                () if !open[index] || work[index] => Says::Closed,
                () => Says::Act,
            });
        }

        let mut awake_since = None;
        for minute in base..base + span {
            if !awake(minute) {
                awake_since = None;
                continue;
            }
            let now = Wall(minute as u64 * MINUTE);
            facts.awake_since = *awake_since.get_or_insert(now);
            facts.overdue_since = overdue_since(&approval.schedule, &facts, now);
            let index = (minute - base) as usize;
            // Between two changes every seventh minute is enough: the promised instant is checked too.
            if minute % 7 != 0 && index > 0 && answers[index] == answers[index - 1] {
                continue;
            }
            let (decision, until) = says(decide(&approval, &facts, now));
            prop_assert_eq!(decision, answers[index], "at {} in {}", now, SCENES[case.scene].0);
            // A restart never comes when an install may not, nor at a time that nobody has named.
            let timed = !case.schedule.windows.is_empty() || case.schedule.active_hours.is_some();
            let forced = forced_at(&approval.schedule, &facts, now).is_some_and(|forced| now >= forced);
            let restart = match decide_restart(RestartPolicy::Always, &approval, &facts, now) {
                Ok(decision) => matches!(decision, Decision::Now { .. }),
                Err(no) => {
                    prop_assert!(no == NoRestart::NoTime && !timed && case.schedule.deadline.is_none());
                    false
                }
            };
            prop_assert_eq!(restart, decision == Says::Act && (timed || forced), "restart at {}", now);
            let never = decide_restart(RestartPolicy::Never, &approval, &facts, now);
            prop_assert_eq!(never, Err(NoRestart::Policy));
            prop_assert!(until > now.0);
            // The promised instant is the first minute at which the answer differs, while the machine stays awake.
            let mut next = minute + 1;
            while next < base + span && awake(next) && answers[(next - base) as usize] == decision {
                next += 1;
            }
            if next < base + span && awake(next) {
                let first_change = (until.div_ceil(MINUTE)) as i64;
                prop_assert_eq!(first_change, next, "{:?} at {} in {}", decision, now, SCENES[case.scene].0);
            } else {
                prop_assert!(until.div_ceil(MINUTE) as i64 >= next, "{decision:?} at {now} ends early, at {}", Wall(until));
            }
        }
    }
}

/// Local clock readings that may count for an instant: its own and, within a day of a change, what a clock would show that
/// was not set yet, since a window in the skipped hour is moved by it.
fn readings(zone: &TimeZone, at: Wall) -> Vec<i64> {
    let minute = (at.0 / MINUTE) as i64;
    let now = local(zone, minute);
    let unset = minute + (local(zone, minute - DAY) - (minute - DAY));
    if unset == now { vec![now] } else { vec![now, unset] }
}

fn covers(slot: &Window, local: i64) -> bool {
    let (day, minute) = (local / DAY, local % DAY);
    let (start, end) = (i64::from(slot.start), i64::from(slot.end));
    let on = |day: i64| slot.days.contains(((day + 3) % 7) as u8);
    if start < end {
        on(day) && (start..end).contains(&minute)
    } else {
        (on(day) && minute >= start) || (on(day - 1) && minute < end)
    }
}

/// A small seeded generator (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

#[test]
fn a_thousand_device_years_without_an_install_outside_a_window() {
    const SEED: u64 = 0x5eed_2026;
    let mut random = Random(SEED);
    let zones = [
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kolkata",
        "Pacific/Apia",
        "UTC",
        "America/Havana",
        "America/Sao_Paulo",
        "Africa/Casablanca",
        "Pacific/Chatham",
        "Asia/Tehran",
        "Europe/London",
    ]
    .map(|name| zone(name).expect("a known zone"));
    let (mut installs, mut moved) = (0u64, 0u64);
    for device in 0..1_000u64 {
        let zone = &zones[device as usize % zones.len()];
        let mut slot = || Window {
            days: Weekdays(1 + random.below(0x7f) as u8),
            start: random.below(1440) as u16,
            end: random.below(1441) as u16,
        };
        let (first, second, work) = (slot(), slot(), slot());
        let windows = if device.is_multiple_of(3) { vec![first] } else { vec![first, second] };
        let schedule = Schedule {
            windows: Bounded::new(windows.clone()).expect("two windows"),
            active_hours: Some(ActiveHours { days: work.days, start: work.start, end: work.end }),
            jitter_s: 3600,
            ..Schedule::default()
        };
        let issued = 28_400_000 + random.below(500_000) as i64;
        let mut approval = approval(schedule, Vec::new(), issued);
        approval.expires = approval.issued + Duration::from_secs(366 * 86_400);
        let mut name = [0; 32];
        name[..8].copy_from_slice(&device.to_le_bytes());
        let mut now = approval.issued;
        loop {
            // The machine is off and on: it asks at any instant, and follows the timer from there.
            let facts =
                DeviceFacts { device: DeviceId(name), zone, awake_since: now, overdue_since: None, deferred: None };
            let Some(at) = earliest(&approval, &facts, now) else { break };
            installs += 1;
            let clocks = readings(zone, at);
            let inside = |local: &i64| windows.iter().any(|window| covers(window, *local)) && !covers(&work, *local);
            assert!(
                clocks.iter().any(inside),
                "seed {SEED:#x}, device {device}: {at} is outside {windows:?} or in {work:?}"
            );
            moved += u64::from(!inside(&clocks[0]));
            now = at + Duration::from_secs(3 * 3600 + random.below(4 * 86_400));
        }
    }
    println!("{installs} installs in 1,000 device-years, {moved} of them in windows that a clock change moved");
    assert!(installs > 50_000, "only {installs} installs: the simulation tests too little");
}

#[test]
fn rings_are_even_and_stable() {
    let release = ReleaseId([3; 32]);
    let place = |device: u32| {
        let mut name = [0; 32];
        name[..4].copy_from_slice(&device.to_le_bytes());
        ring_of(DeviceId(name), release)
    };
    // Pinned: another hash would send other devices first in the middle of a rollout.
    assert_eq!([place(0), place(1), place(2)], [7850, 3879, 1394]);
    let first_tenth = (0..10_000).filter(|device| place(*device) < 1_000).count();
    assert!((900..1_100).contains(&first_tenth), "{first_tenth} of 10,000 devices in the first tenth");
}
