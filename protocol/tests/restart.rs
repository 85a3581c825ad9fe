//! Restarts that installs wanted: when, after which notice, and how often.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::report::{DeploymentState as S, SubState};

const MINUTE: Duration = Duration::from_secs(60);

/// A release that is installed and wants a restart.
fn wanting(policy: RestartPolicy, change: impl FnOnce(&mut Approval)) -> (Bench, ReleaseId) {
    let (edition, id) = with_release(Release { restart: policy, ..tool() }, change);
    let mut bench = Bench::new(&edition, |_| ());
    bench.fill();
    assert_eq!(bench.installs(), [id]);
    bench.found = Detection::Present;
    bench.ended(id, InstallOutcome::Done { restart: policy != RestartPolicy::Always, code: Some(0) });
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.standing(id).0, S::RestartRequired);
    (bench, id)
}

/// It is nine in the morning; a window is open from then on for this many minutes.
fn window(approval: &mut Approval, minutes: u16) {
    let slot = Window { days: Weekdays::ALL, start: 9 * 60, end: 9 * 60 + minutes };
    approval.schedule.windows = list(vec![slot]);
}

/// What the person at the machine was told since the last time, and whether the time was set.
fn notices(bench: &mut Bench) -> Vec<(String, bool)> {
    let told = bench.asked.extract_if(.., |output| matches!(output, Output::Notice { .. }));
    told.map(|output| if let Output::Notice { text, near, .. } = output { (text, near) } else { unreachable!() })
        .collect()
}

fn restarts(bench: &mut Bench) -> usize {
    bench.asked.extract_if(.., |output| matches!(output, Output::Restart { .. })).count()
}

#[test]
fn within_a_window_the_machine_is_restarted_after_the_notice_and_once() {
    for policy in [RestartPolicy::IfRequired, RestartPolicy::Always] {
        let (mut bench, id) = wanting(policy, |approval| window(approval, 60));
        let told = notices(&mut bench);
        assert!(
            matches!(&told[..], [(text, true)] if text.contains("will be restarted at 2027-01-15 09:15 CET")),
            "{told:?}"
        );
        assert!(bench.standing(id).2.contains("is to be restarted at 2027-01-15 09:15"), "{:?}", bench.standing(id));
        assert_eq!(bench.state.status(bench.now.mono).restart.unwrap().release, id);
        bench.pass(14 * MINUTE);
        assert_eq!(restarts(&mut bench), 0, "the notice has not run out");
        bench.pass(2 * MINUTE);
        assert_eq!(restarts(&mut bench), 1);
        bench.input(Input::RestartEnded { release: id, outcome: RestartOutcome::Asked });
        bench.pass(HOUR);
        assert_eq!(restarts(&mut bench), 0);
        // The node is started again, the system was not: it is not asked a second time.
        bench.again(|_| ());
        bench.pass(26 * HOUR);
        assert_eq!((restarts(&mut bench), bench.standing(id).0), (0, S::RestartRequired));
        contains(&bench.told(id), &["needs a restart", "one is asked for once in each run of the system"]);
        bench.again(|config| config.boot = text("boot-2"));
        assert_eq!(bench.standing(id), (S::Installed, SubState::None, String::new()));
        bench.pass(26 * HOUR);
        assert_eq!(restarts(&mut bench), 0);
    }
}

#[test]
fn without_a_time_or_against_the_policy_nothing_is_restarted() {
    let (mut never, id) = wanting(RestartPolicy::Never, |approval| window(approval, 60));
    contains(&never.told(id), &["leaves the restart to the person at the machine"]);
    let (mut untimed, id) = wanting(RestartPolicy::IfRequired, |_| ());
    contains(&untimed.told(id), &["no time for a restart"]);
    for bench in [&mut never, &mut untimed] {
        let told = notices(bench);
        assert!(matches!(&told[..], [(text, false)] if text.contains("must be restarted")), "{told:?}");
        bench.pass(3 * DAY);
        assert_eq!((restarts(bench), notices(bench).len()), (0, 0));
    }
    // An approval that is expedited, or has nothing but a deadline.
    let (mut now, _) = wanting(RestartPolicy::IfRequired, |approval| approval.schedule.expedite = true);
    now.pass(16 * MINUTE);
    assert_eq!(restarts(&mut now), 1);
    let (mut late, _) =
        wanting(RestartPolicy::IfRequired, |approval| approval.schedule.deadline = Some(NOW + 2 * HOUR));
    late.pass(2 * HOUR - MINUTE);
    assert_eq!((restarts(&mut late), notices(&mut late).len()), (0, 2), "told early enough");
    late.pass(2 * MINUTE);
    assert_eq!(restarts(&mut late), 1);
}

#[test]
fn a_window_shorter_than_the_notice_is_used_all_the_same() {
    let (mut bench, id) = wanting(RestartPolicy::IfRequired, |approval| window(approval, 10));
    // Today's is too short for what is left of it; tomorrow's is told of before it opens.
    bench.pass(HOUR);
    let (state, sub_state, reason) = bench.standing(id);
    assert_eq!((state, sub_state, restarts(&mut bench)), (S::RestartRequired, SubState::AwaitingWindow, 0), "{reason}");
    contains(&reason, &["outside the maintenance windows", "until 2027-01-16 09:00 CET"]);
    bench.pass(22 * HOUR + 50 * MINUTE);
    let told = notices(&mut bench);
    assert!(told.last().is_some_and(|(text, near)| *near && text.contains("2027-01-16 09:00")), "{told:?}");
    bench.pass(11 * MINUTE);
    assert_eq!(restarts(&mut bench), 1);
}

#[test]
fn a_restart_can_be_put_off_within_the_cap() {
    let (mut bench, id) = wanting(RestartPolicy::IfRequired, |approval| {
        window(approval, 10 * 60);
        approval.schedule.deferral = Deferral { max_times: 1, max_total_s: 7200 };
    });
    let told = notices(&mut bench);
    assert!(told[0].0.contains("upswarm defer"), "{told:?}");
    bench.pass(5 * MINUTE);
    let granted = bench.state.would_defer(&id, 7200, bench.now).unwrap();
    assert_eq!((granted.times_left, granted.seconds_left), (0, 0));
    bench.input(Input::Defer { release: id, by_s: 7200 });
    bench.pass(HOUR);
    let (state, sub_state, reason) = bench.standing(id);
    assert_eq!((state, sub_state, restarts(&mut bench)), (S::RestartRequired, SubState::Deferred, 0), "{reason}");
    let refused = bench.state.would_defer(&id, 60, bench.now).unwrap_err();
    assert_eq!(refused.to_string(), "it was put off 1 times, and 1 times are allowed");
    bench.pass(HOUR + 10 * MINUTE);
    assert_eq!(restarts(&mut bench), 1);
    // Nothing to put off where nothing is to be done.
    let (edition, id) = approved(|approval| approval.schedule.deferral = Deferral { max_times: 1, max_total_s: 60 });
    let mut bench = Bench::new(&edition, |_| ());
    bench.input(Input::Detected { release: id, result: Detection::Present });
    assert_eq!(bench.state.would_defer(&id, 60, bench.now), Err(NotPutOff::NothingToDo));
}

/// Case 43: a command that ends well and restarts nothing; ten minutes pass on this test's clock.
#[test]
fn other_installs_wait_and_go_on_if_the_machine_stays_up() {
    let world = World::new();
    let release = |product: &str| Release { product: text(product), restart: RestartPolicy::IfRequired, ..tool() };
    let (first, second) = (world.publish(&release("org.example.one")), world.publish(&release("org.example.two")));
    let (one, two) = (first.release, second.release);
    let timed = |id, available: Duration| {
        let mut approval = approval(GROUP, id, 1);
        window(&mut approval, 10 * 60);
        approval.schedule.available_from = Some(NOW + available);
        world.approve(&approval)
    };
    let documents = vec![timed(one, Duration::ZERO), timed(two, MINUTE), first, second];
    let mut bench = Bench::new(&world.edition(7, documents), |_| ());
    bench.fill();
    assert_eq!(bench.installs(), [one]);
    bench.input(Input::Detected { release: one, result: Detection::Present });
    bench.found = Detection::Present;
    bench.ended(one, InstallOutcome::Done { restart: true, code: Some(0) });
    bench.found = Detection::Absent;
    bench.pass(5 * MINUTE);
    let (state, sub_state, reason) = bench.standing(two);
    assert_eq!((state, sub_state, &*reason), (S::Downloaded, SubState::Queued, "the machine is about to be restarted"));
    contains(&bench.told(two), &["waits until the machine has been restarted"]);
    bench.pass(11 * MINUTE);
    assert_eq!((restarts(&mut bench), bench.installs().len()), (1, 0));
    bench.input(Input::RestartEnded { release: one, outcome: RestartOutcome::Asked });
    bench.pass(8 * MINUTE);
    assert!(bench.installs().is_empty());
    bench.asked.clear();
    bench.pass(3 * MINUTE);
    assert_eq!(bench.installs(), [two], "the machine stays up");
    let alarm = |output: &Output| matches!(output, Output::Alarm(text) if text.contains("has not happened"));
    assert_eq!(bench.asked.iter().filter(|output| alarm(output)).count(), 1);
    assert!(bench.standing(one).2.contains("has not happened"), "{:?}", bench.standing(one));
}

#[test]
fn an_installer_that_refuses_is_told_and_asked_again() {
    let (mut bench, id) = wanting(RestartPolicy::IfRequired, |approval| window(approval, 60));
    bench.pass(16 * MINUTE);
    assert_eq!((restarts(&mut bench), notices(&mut bench).len()), (1, 1));
    let refusal = RestartOutcome::NotNow { reason: "no notice has been given".into() };
    bench.input(Input::RestartEnded { release: id, outcome: refusal });
    assert_eq!(notices(&mut bench).len(), 1);
    bench.pass(2 * MINUTE);
    assert_eq!(restarts(&mut bench), 1);
    bench.input(Input::RestartEnded { release: id, outcome: RestartOutcome::Recorded });
    assert!(bench.standing(id).2.contains("was recorded"));
    bench.pass(HOUR);
    assert_eq!(restarts(&mut bench), 0);
    // Paused by the admin: it waits.
    let world = World::new();
    let release = world.publish(&Release { restart: RestartPolicy::IfRequired, ..tool() });
    let id = release.release;
    let mut approval = approval(GROUP, id, 3);
    window(&mut approval, 60);
    let approval = world.approve(&approval);
    let edition = world.edition_with(7, vec![release, approval], |index| index.holds = list(vec![Hold::Everything]));
    let mut bench = Bench::new(&edition, |_| ());
    bench.records.clear();
    assert_eq!(bench.standing(id).1, SubState::Paused);
}
