//! Restarts through the privileged installer. What restarts the machine here leaves a line in a file.

use std::time::{Duration, Instant};

use upswarm_protocol::catalog::*;

use super::refusals::refused;
use super::world::{Bench, Edition, HOUR, World, list};
use crate::privileged::wire::{Answer, Outcome, Restarted, Task};

const DONE: Answer = Answer::Ended(Outcome::Done { restart: false, code: Some(0) });

fn restart(bench: &Bench, edition: &Edition, go: bool) -> Answer {
    bench.ask(&edition.job(Task::Restart { go }), &[])
}

fn install(bench: &Bench, edition: &Edition) {
    let answer = bench.ask(&edition.install(), &bench.files(&[&bench.world.good_script()]));
    assert_eq!(answer, DONE);
}

/// Asks until the notice has run out.
fn when_allowed(bench: &Bench, edition: &Edition) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = restart(bench, edition, true);
        match &answer {
            Answer::NotYet(why) if why.contains("s more") => assert!(Instant::now() < deadline, "{why}"),
            _ => return answer,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_restart_that_was_wanted_happens_after_the_notice_and_once() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let edition = bench.world.restarting(1, "good", RestartPolicy::Always);
    let nothing = restart(&bench, &edition, true);
    assert!(refused(&nothing).is_some_and(|why| why.contains("wanted a restart")), "{nothing:?}");
    install(&bench, &edition);
    let untold = restart(&bench, &edition, true);
    assert!(matches!(&untold, Answer::NotYet(why) if why.contains("has not been told")), "{untold:?}");
    assert_eq!(restart(&bench, &edition, false), Answer::Restart(Restarted::DeviceMessage));
    let early = restart(&bench, &edition, true);
    assert!(matches!(&early, Answer::NotYet(_)), "{early:?}");
    assert!(!bench.marks().contains(&"restart".to_owned()));
    // The restart that was asked for survives the installer's own restart; the notice is given anew.
    let bench = bench.restart();
    assert!(matches!(restart(&bench, &edition, true), Answer::NotYet(_)));
    assert_eq!(restart(&bench, &edition, false), Answer::Restart(Restarted::DeviceMessage));
    assert_eq!(restart(&bench, &edition, false), Answer::Restart(Restarted::DeviceMessage));
    let told = std::fs::read_to_string(bench.dir.path().join("told")).unwrap();
    assert!(told.lines().all(|line| line.starts_with("This computer will be restarted at") && line.contains("A tool")));
    assert_eq!(told.lines().count(), 2, "once by each run of the installer: {told}");
    assert_eq!(when_allowed(&bench, &edition), Answer::Restart(Restarted::Asked));
    let again = when_allowed(&bench.restart_and_tell(&edition), &edition);
    assert!(matches!(&again, Answer::Restart(Restarted::Failed(why)) if why.contains("already")), "{again:?}");
}

#[test]
fn publisher_approver_and_clock_must_all_agree() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let world = &bench.world;
    let mut version = 0;
    let mut refuses = |policy, change: &dyn Fn(&mut Approval), expected: &str| {
        version += 2;
        install(&bench, &world.restarting(version - 1, "good", policy));
        let release = world.publish(&Release { restart: policy, ..world.release("org.example.tool", "good") });
        let mut approval = world.approval(&release, version);
        approval.schedule.windows = list([Window { days: Weekdays::ALL, start: 0, end: 0 }]);
        change(&mut approval);
        let edition = world.edition(version, release, world.approve(&approval));
        for go in [false, true] {
            let answer = restart(&bench, &edition, go);
            assert!(refused(&answer).is_some_and(|why| why.contains(expected)), "{expected}: {answer:?}");
        }
    };
    let always = RestartPolicy::Always;
    refuses(RestartPolicy::Never, &|_| (), "to the person at the machine");
    refuses(RestartPolicy::IfRequired, &|_| (), "wanted a restart");
    refuses(always, &|approval| approval.schedule.windows = list([]), "no time for a restart");
    let later = world.now + HOUR;
    refuses(always, &|approval| approval.schedule.available_from = Some(later), "not available yet");
    refuses(always, &|approval| approval.action = Action::None, "declined");
    assert!(!bench.marks().contains(&"restart".to_owned()));
}
