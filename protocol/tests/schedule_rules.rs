//! The order of the rules, deferral, and what is refused before it is signed.

use std::time::Duration;

use jiff::tz::TimeZone;
use upswarm_protocol::catalog::{Action, ActiveHours, Approval, Deferral, Ring, RingPlan, Schedule, Weekdays, Window};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::{DeviceId, GroupId, ReleaseId};
use upswarm_protocol::schedule::{
    Decision, DeferError, DeviceFacts, HORIZON, ScheduleError, Why, check, decide, defer, earliest, forced_at,
    overdue_since, ring_of, zone,
};
use upswarm_protocol::time::Wall;

/// Monday 2026-11-23 00:00 UTC.
const MONDAY: Wall = Wall(1_795_392_000_000);
static UTC: TimeZone = TimeZone::UTC;
const HOUR: u64 = 3_600_000;
const DEVICE: DeviceId = DeviceId([7; 32]);

fn hours(hours: u64) -> Wall {
    Wall(MONDAY.0 + hours * HOUR)
}

fn approval(schedule: Schedule, rings: &[Ring]) -> Approval {
    Approval {
        group: GroupId([1; 16]),
        group_version: 0,
        release: ReleaseId([2; 32]),
        version: 1,
        action: Action::Install,
        back: false,
        issued: MONDAY,
        expires: MONDAY + Duration::from_secs(30 * 86_400),
        schedule,
        rings: RingPlan { rings: Bounded::new(rings.to_vec()).expect("few rings"), stop_above: 0 },
        note: Text::default(),
        filtered: None,
    }
}

fn facts(zone: &TimeZone) -> DeviceFacts<'_> {
    DeviceFacts { device: DEVICE, zone, awake_since: MONDAY, overdue_since: None, deferred: None }
}

fn window(start_hour: u16, end_hour: u16) -> Window {
    Window { days: Weekdays::ALL, start: start_hour * 60, end: end_hour * 60 }
}

fn at_night() -> Schedule {
    Schedule { windows: Bounded::new(vec![window(22, 4)]).expect("one window"), ..Schedule::default() }
}

#[test]
fn expedite_passes_everything_but_the_beginning_and_the_expiry() {
    let schedule = Schedule {
        available_from: Some(hours(10)),
        expedite: true,
        jitter_s: 86_400,
        active_hours: Some(ActiveHours { days: Weekdays::ALL, start: 0, end: 1440 }),
        ..at_night()
    };
    let approval = approval(schedule, &[Ring { up_to: 1, delay_s: 86_400 }]);
    let facts = facts(&UTC);
    assert_eq!(decide(&approval, &facts, hours(9)), Decision::NotBefore { at: hours(10), why: Why::AvailableFrom });
    assert_eq!(decide(&approval, &facts, hours(10)), Decision::Now { until: approval.expires });
    assert_eq!(decide(&approval, &facts, approval.expires), Decision::Expired);
    assert_eq!(Decision::Expired.changes_at(&approval), None);
}

#[test]
fn rings_begin_one_after_the_other_and_can_leave_devices_out() {
    let place = ring_of(DEVICE, ReleaseId([2; 32]));
    let facts = facts(&UTC);
    let rings = [Ring { up_to: place, delay_s: 0 }, Ring { up_to: place + 1, delay_s: 7200 }];
    let second = approval(Schedule::default(), &rings);
    assert_eq!(decide(&second, &facts, MONDAY), Decision::NotBefore { at: hours(2), why: Why::Ring { index: 1 } });
    assert_eq!(earliest(&second, &facts, MONDAY), Some(hours(2)));
    let left_out = approval(Schedule::default(), &rings[..1]);
    assert_eq!(decide(&left_out, &facts, MONDAY), Decision::NotInRings);
    assert_eq!(decide(&left_out, &facts, MONDAY).changes_at(&left_out), Some(left_out.expires));
    assert_eq!(earliest(&left_out, &facts, MONDAY), None);
}

#[test]
fn the_deadline_does_not_open_a_ring() {
    let schedule = Schedule { deadline: Some(hours(1)), ..at_night() };
    let approval = approval(schedule, &[Ring { up_to: 10_000, delay_s: 5 * 3600 }]);
    let facts = facts(&UTC);
    let ring = Decision::NotBefore { at: hours(5), why: Why::Ring { index: 0 } };
    assert_eq!(decide(&approval, &facts, hours(2)), ring);
    assert_eq!(decide(&approval, &facts, hours(5)), Decision::Now { until: approval.expires });
}

#[test]
fn a_machine_that_slept_through_the_deadline_gets_its_grace_once() {
    let schedule = Schedule { deadline: Some(hours(5)), grace_s: 3 * 3600, ..at_night() };
    let approval = approval(schedule.clone(), &[]);
    let mut facts = facts(&UTC);
    assert_eq!(overdue_since(&schedule, &facts, hours(4)), None);
    assert_eq!(forced_at(&schedule, &facts, hours(6)), Some(hours(5)), "awake at the deadline");

    facts.awake_since = hours(9);
    facts.overdue_since = overdue_since(&schedule, &facts, hours(10));
    assert_eq!(facts.overdue_since, Some(hours(9)));
    assert_eq!(decide(&approval, &facts, hours(10)), Decision::NotBefore { at: hours(12), why: Why::Window });
    // It sleeps and wakes again: the grace goes on, it does not start anew.
    facts.awake_since = hours(11);
    assert_eq!(decide(&approval, &facts, hours(12)), Decision::Now { until: approval.expires });
    // A note from before a deadline that was moved is not about this deadline.
    let moved = Schedule { deadline: Some(hours(20)), ..schedule };
    assert_eq!(forced_at(&moved, &facts, hours(21)), Some(hours(20)));
}

#[test]
fn deferral_has_a_number_a_sum_and_a_deadline() {
    let deferral = Deferral { max_times: 2, max_total_s: 5 * 3600 };
    let schedule = Schedule { deferral, deadline: Some(hours(4)), ..Schedule::default() };
    let approval = approval(schedule.clone(), &[]);
    let mut facts = facts(&UTC);
    facts.deferred = Some(defer(&schedule, &facts, MONDAY, 3600).expect("the first"));
    assert_eq!(decide(&approval, &facts, MONDAY), Decision::NotBefore { at: hours(1), why: Why::Deferred });
    let second = defer(&schedule, &facts, hours(1), 9 * 3600).expect("the second");
    assert_eq!((second.until, second.times, second.total_s), (hours(5), 2, 5 * 3600), "cut to the sum");
    facts.deferred = Some(second);
    assert_eq!(decide(&approval, &facts, hours(2)), Decision::NotBefore { at: hours(4), why: Why::Deferred });
    assert_eq!(defer(&schedule, &facts, hours(2), 60), Err(DeferError::TooOften { used: 2, allowed: 2 }));
    let generous = Schedule { deferral: Deferral { max_times: 9, ..deferral }, ..schedule.clone() };
    assert_eq!(defer(&generous, &facts, hours(2), 60), Err(DeferError::TooLong { allowed_s: 5 * 3600 }));
    let fresh = DeviceFacts { deferred: None, ..facts.clone() };
    assert_eq!(defer(&schedule, &fresh, hours(4), 60), Err(DeferError::Overdue));
    // A newer approval that allows less takes back what was granted.
    let mut strict = approval;
    strict.schedule.deferral.max_times = 1;
    assert!(matches!(decide(&strict, &facts, hours(2)), Decision::Now { .. }));
}

#[test]
fn the_permission_ends_with_the_window_unless_the_deadline_comes_first() {
    let facts = facts(&UTC);
    let mut approval = approval(at_night(), &[]);
    assert_eq!(decide(&approval, &facts, hours(3)), Decision::Now { until: hours(4) });
    assert_eq!(decide(&approval, &facts, hours(4)), Decision::NotBefore { at: hours(22), why: Why::Window });
    approval.schedule.deadline = Some(hours(4));
    assert_eq!(decide(&approval, &facts, hours(3)), Decision::Now { until: approval.expires });
    approval.schedule.deadline = Some(hours(20));
    assert_eq!(decide(&approval, &facts, hours(4)), Decision::NotBefore { at: hours(20), why: Why::Window });
}

#[test]
fn a_schedule_without_an_opening_says_so_and_never_loops() {
    let work = ActiveHours { days: Weekdays::ALL, start: 0, end: 1440 };
    let mut approval = approval(Schedule { active_hours: Some(work), ..at_night() }, &[]);
    let facts = facts(&UTC);
    let never = Decision::NotBefore { at: MONDAY + HORIZON, why: Why::NoOpening };
    assert_eq!(decide(&approval, &facts, MONDAY), never);
    assert_eq!(check(&approval), Err(ScheduleError::NoOpening));
    // At the end of every clock nothing breaks.
    approval.expires = Wall(u64::MAX);
    assert_eq!(earliest(&approval, &facts, MONDAY), None);
    assert!(matches!(decide(&approval, &facts, Wall(u64::MAX - 1)), Decision::NotBefore { .. }));
    approval.schedule.deadline = Some(hours(100 * 24));
    assert_eq!(earliest(&approval, &facts, MONDAY), Some(hours(100 * 24)));
}

#[test]
fn contradictions_are_refused_with_their_cause() {
    let good = approval(
        Schedule { active_hours: Some(ActiveHours { days: Weekdays::ALL, start: 480, end: 1080 }), ..at_night() },
        &[Ring { up_to: 100, delay_s: 0 }, Ring { up_to: 10_000, delay_s: 86_400 }],
    );
    assert_eq!(check(&good), Ok(()));
    let refused = |change: fn(&mut Approval)| {
        let mut approval = good.clone();
        change(&mut approval);
        check(&approval).expect_err("a contradiction")
    };
    let slots = |window| Bounded::new(vec![window]).expect("one window");
    let broken = refused(|approval| approval.schedule.available_from = Some(approval.expires));
    assert!(matches!(broken, ScheduleError::ExpiresFirst { .. }));
    let broken = refused(|approval| approval.schedule.deadline = Some(approval.issued));
    assert!(matches!(broken, ScheduleError::DeadlineFirst { .. }));
    let mut approval = good.clone();
    approval.schedule.windows = slots(Window { days: Weekdays::ALL, start: 0, end: 1441 });
    assert_eq!(check(&approval), Err(ScheduleError::NoSuchMinute(1441)));
    approval.schedule.windows = slots(Window { days: Weekdays(0x80), start: 0, end: 60 });
    assert_eq!(check(&approval), Err(ScheduleError::NoDays));
    approval.schedule.windows = slots(window(9, 17));
    assert_eq!(check(&approval), Err(ScheduleError::NoOpening));
    for rings in [
        [Ring { up_to: 100, delay_s: 0 }, Ring { up_to: 100, delay_s: 1 }],
        [Ring { up_to: 100, delay_s: 9 }, Ring { up_to: 200, delay_s: 1 }],
        [Ring { up_to: 100, delay_s: 0 }, Ring { up_to: 10_001, delay_s: 1 }],
    ] {
        let mut approval = good.clone();
        approval.rings.rings = Bounded::new(rings.to_vec()).expect("two rings");
        assert_eq!(check(&approval), Err(ScheduleError::RingOrder(1)));
    }
}

#[test]
fn summer_time_moves_windows_as_documented() {
    let berlin = zone("Europe/Berlin").expect("a known zone");
    let facts = facts(&berlin);
    let at = |text: &str| Wall(text.parse::<jiff::Timestamp>().expect("a time").as_millisecond() as u64);
    let mut approval = approval(Schedule::default(), &[]);
    approval.issued = at("2026-03-28T00:00:00Z");
    approval.expires = at("2026-12-28T00:00:00Z");
    approval.schedule.windows =
        Bounded::new(vec![Window { days: Weekdays::ALL, start: 2 * 60, end: 3 * 60 }]).expect("one window");
    // 02:00 to 03:00 does not exist on this night: both ends are one instant, so the next window is a day later.
    let sunday = at("2026-03-28T23:30:00Z");
    let monday = at("2026-03-30T00:00:00Z");
    assert_eq!(decide(&approval, &facts, sunday), Decision::NotBefore { at: monday, why: Why::Window });
    // The hour from 02:00 to 03:00 comes twice in autumn: the window is two hours long.
    let autumn = at("2026-10-25T00:00:00Z");
    assert_eq!(decide(&approval, &facts, autumn), Decision::Now { until: at("2026-10-25T02:00:00Z") });
    assert!(zone("Mars/Olympus").is_none());
}
