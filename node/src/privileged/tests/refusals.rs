//! Everything that must not be done, asked with otherwise perfect documents.

use std::time::Duration;

use upswarm_protocol::catalog::*;
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::envelope::{Kind, Role};
use upswarm_protocol::ids::{DeviceId, GroupId};

use super::world::{Bench, Edition, GROUP, HOUR, OTHERS, World, held, key, list};
use crate::privileged::wire::{Answer, Task};

/// Names, and what must be refused; each rests on a later index than the one before, so that none is refused as an old one.
pub(super) fn forgeries(world: &World, first: u64) -> Vec<(&'static str, Edition)> {
    let mut version = first;
    let mut next = || {
        version += 1;
        version
    };
    let bad = world.release("org.example.bad", "bad");
    let released = world.publish(&bad);
    let approved = |version: u64, change: &dyn Fn(&mut Approval)| {
        let mut approval = world.approval(&released, version);
        change(&mut approval);
        approval
    };
    let plain = |version: u64| world.edition(version, released.clone(), world.approve(&approved(version, &|_| ())));
    let mut all = Vec::new();

    // Signed by those who may not.
    for (name, seed) in
        [("approved by nobody", 66), ("approved by the online key", 30), ("approved by the publisher", 10)]
    {
        let version = next();
        let approval = world.sign(Kind::Approval, Role::Approver, &approved(version, &|_| ()), seed);
        all.push((name, world.edition(version, released.clone(), approval)));
    }
    let version = next();
    let mut unsigned = world.approve(&approved(version, &|_| ()));
    unsigned.truncate(unsigned.len() - 97);
    unsigned.push(0);
    all.push(("approved without a signature", world.edition(version, released.clone(), unsigned)));
    for (name, seed) in
        [("released by nobody", 66), ("released by the approver", 20), ("released by the online key", 30)]
    {
        let version = next();
        let release = world.sign(Kind::Release, Role::Publisher, &bad, seed);
        let approval = world.approve(&world.approval(&release, version));
        all.push((name, world.edition(version, release, approval)));
    }
    let version = next();
    let foreign = world.publish(&Release { product: super::world::text("com.other"), ..bad.clone() });
    let approval = world.approve(&world.approval(&foreign, version));
    all.push(("released by another product's publisher", world.edition(version, foreign, approval)));
    let version = next();
    let mut twisted = plain(version);
    twisted.index = world.sign(Kind::Index, Role::Online, &Vec::<u8>::new(), 66);
    all.push(("another index", twisted));
    let mut headless = plain(next());
    headless.head = world.sign(Kind::Head, Role::Online, &0u8, 66);
    all.push(("a head by nobody", headless));

    // Signed, and not meant for this.
    let version = next();
    let approval = world.approve(&approved(version, &|approval| approval.group = OTHERS));
    all.push(("another group", world.edition(version, released.clone(), approval)));
    type Change = fn(&World, &mut Approval);
    let changes: [(&str, Change); 9] = [
        ("declined", |_, approval| approval.action = Action::None),
        ("approved for removal", |_, approval| approval.action = Action::Uninstall),
        ("an expired approval", |world, approval| approval.expires = world.now),
        ("an approval for later", |world, approval| approval.schedule.available_from = Some(world.now + HOUR)),
        ("a later ring", |_, approval| approval.rings.rings = list([Ring { up_to: 10_000, delay_s: 7200 }])),
        ("no ring", |_, approval| approval.rings.rings = list([Ring { up_to: 1, delay_s: 0 }])),
        ("outside the window", |world, approval| {
            let start = (minute(world) + 120) % 1440;
            approval.schedule.windows = list([Window { days: Weekdays::ALL, start, end: (start + 60) % 1440 }]);
            approval.schedule.deadline = Some(world.now + HOUR);
        }),
        ("a time of work", |world, approval| {
            let (start, end) = ((minute(world) + 1380) % 1440, (minute(world) + 120) % 1440);
            approval.schedule.active_hours = Some(ActiveHours { days: Weekdays::ALL, start, end });
        }),
        ("its turn is later", |world, approval| {
            approval.schedule.jitter_s = u32::MAX;
            approval.schedule.deadline = Some(world.now - HOUR / 2);
        }),
    ];
    for (name, change) in changes {
        let version = next();
        let approval = world.approve(&approved(version, &|approval| change(world, approval)));
        all.push((name, world.edition(version, released.clone(), approval)));
    }
    let version = next();
    let old = world.publish(&Release { expires: world.now, ..bad.clone() });
    let approval = world.approve(&world.approval(&old, version));
    all.push(("an expired release", world.edition(version, old, approval)));
    let version = next();
    let good = world.publish(&world.release("org.example.tool", "good"));
    let approval = world.approve(&world.approval(&good, version));
    all.push(("the approval of another release", world.edition(version, released.clone(), approval)));

    // Named by no index, stopped, or too old.
    let version = next();
    let mut unnamed = plain(version);
    (unnamed.head, unnamed.index, unnamed.pages) = world.catalog(version, &[(Kind::Release, 1, &released)], |_, _| ());
    all.push(("an approval that no index names", unnamed));
    let version = next();
    let mut unnamed = plain(version);
    let approval = unnamed.approval.clone();
    (unnamed.head, unnamed.index, unnamed.pages) =
        world.catalog(version, &[(Kind::Approval, version, &approval)], |_, _| ());
    all.push(("a release that no index names", unnamed));
    type Spoil = fn(&World, &mut Index, &mut Head);
    let spoils: [(&str, Spoil); 5] = [
        ("everything is held", |_, index, _| index.holds = list([Hold::Everything])),
        ("the group is held", |_, index, _| index.holds = list([Hold::Group(GROUP)])),
        ("the device is revoked", |world, index, _| index.revoked = Node::Leaf(list([world.pin().device]))),
        ("an expired index", |world, index, _| index.expires = world.now),
        ("an expired head", |world, _, head| head.expires = world.now),
    ];
    for (name, spoil) in spoils {
        let version = next();
        let mut edition = plain(version);
        let (release, approval) = (edition.release.clone(), edition.approval.clone());
        let documents: [(_, _, &[u8]); 2] = [(Kind::Release, 1, &release), (Kind::Approval, version, &approval)];
        (edition.head, edition.index, edition.pages) =
            world.catalog(version, &documents, |index, head| spoil(world, index, head));
        all.push((name, edition));
    }

    // For another device, or by an assignment to groups that has been replaced.
    let assignments: [(&str, Assignment, u8); 5] = [
        (
            "another device",
            Assignment { device: DeviceId(key(41).verifying_key().to_bytes()), ..world.assignment() },
            30,
        ),
        ("another signer", world.assignment(), 66),
        ("an expired assignment", Assignment { expires: world.now, ..world.assignment() }, 30),
        ("a replaced assignment", Assignment { issued: world.now - 2 * HOUR, ..world.assignment() }, 30),
        ("another group", Assignment { groups: list([GroupId([9; 16])]), ..world.assignment() }, 30),
    ];
    for (name, assignment, seed) in assignments {
        let mut edition = plain(next());
        edition.assignment = world.sign(Kind::Assignment, Role::Online, &assignment, seed);
        all.push((name, edition));
    }

    // Under a root that nobody handed the deployment over to.
    let mut usurped = world.clone();
    usurped.root.version = 2;
    let mut edition = plain(next());
    edition.roots = vec![usurped.sign(Kind::Root, Role::Root, &usurped.root, 66)];
    all.push(("a root by nobody", edition));
    let mut hasty = world.clone();
    hasty.root.version = 3;
    let mut edition = plain(next());
    edition.roots = vec![hasty.root_doc()];
    all.push(("a root that skips one", edition));
    all
}

/// The minute of the day, in UTC.
fn minute(world: &World) -> MinuteOfDay {
    (world.now.0 / 60_000 % 1440) as MinuteOfDay
}

/// Released and approved, only not for installing now: whether it is there may be asked.
pub(super) const MAY_DETECT: [&str; 7] = [
    "approved for removal",
    "an approval for later",
    "a later ring",
    "no ring",
    "outside the window",
    "a time of work",
    "its turn is later",
];

/// Why nothing was run, whether it never may be or only not yet.
pub(super) fn refused(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::Refused(why) | Answer::NotYet(why) => Some(why),
        _ => None,
    }
}

/// Why each is refused: each for its own fault, not for another.
const REASONS: [(&str, &str); 36] = [
    ("approved by nobody", "Approval: 0 valid signatures"),
    ("approved by the online key", "Approval: 0 valid signatures"),
    ("approved by the publisher", "Approval: 0 valid signatures"),
    ("approved without a signature", "Approval: 0 valid signatures"),
    ("released by nobody", "Release: 0 valid signatures"),
    ("released by the approver", "Release: 0 valid signatures"),
    ("released by the online key", "Release: 0 valid signatures"),
    ("released by another product's publisher", "no publisher for the product"),
    ("another index", "that the head names was expected"),
    ("a head by nobody", "Head: 0 valid signatures"),
    ("another group", "a group that this device is not in"),
    ("declined", "the approver declined"),
    ("approved for removal", "Install was asked for, Uninstall is approved"),
    ("an expired approval", "the approval expired"),
    ("an approval for later", "the approval is not available yet"),
    ("a later ring", "ring 1 of the rollout, this device's, has not begun"),
    ("no ring", "no ring for this device"),
    ("outside the window", "outside the maintenance windows"),
    ("a time of work", "within active hours"),
    ("its turn is later", "this device's turn is later"),
    ("an expired release", "the release expired"),
    ("the approval of another release", "it is about release"),
    ("an approval that no index names", "no current index names it"),
    ("a release that no index names", "no current index names it"),
    ("everything is held", "the admin has stopped everything"),
    ("the group is held", "the admin has stopped this group"),
    ("the device is revoked", "is revoked"),
    ("an expired index", "the index expired"),
    ("an expired head", "the head expired"),
    ("another device", "the assignment to groups is another device's"),
    ("another signer", "Assignment: 0 valid signatures"),
    ("an expired assignment", "Assignment: expired"),
    ("a replaced assignment", "a later assignment"),
    ("another group", "a group that this device is not in"),
    ("a root by nobody", "Root: 0 valid signatures"),
    ("a root that skips one", "Root: version 3; 2 was expected"),
];

#[test]
fn nothing_runs_that_is_not_released_and_approved_for_this_device() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let good = bench.world.good(1);
    // A root that is not the pinned one, before anything is believed.
    let stranger = Edition { roots: vec![good.head.clone()], ..good.clone() };
    assert!(matches!(bench.install(&stranger), Answer::Refused(why) if why.contains("is pinned here")));
    assert!(matches!(bench.install(&good), Answer::Ended(_)));
    let forgeries = forgeries(&bench.world, 1);
    assert_eq!(forgeries.len(), REASONS.len());
    let files = bench.files(&[&bench.world.bad_script()]);
    for (name, edition) in &forgeries {
        let expected = REASONS.iter().find(|(known, _)| known == name).map(|(_, reason)| *reason);
        let expected = expected.unwrap_or_else(|| panic!("{name} has no reason"));
        for job in [edition.install(), edition.job(Task::Detect)] {
            if job.task == Task::Detect && MAY_DETECT.contains(name) {
                continue;
            }
            let answer = bench.ask(&job, &files[..usize::from(job.task != Task::Detect)]);
            assert!(refused(&answer).is_some_and(|why| why.contains(expected)), "{name}: {answer:?}");
        }
    }
    // The first good one was installed, which asks no detection.
    assert_eq!(bench.marks(), ["good"]);
    // None of it was believed so far that the truth could not follow.
    let last = bench.world.good(1000);
    assert!(matches!(bench.install(&last), Answer::Ended(_)));
    // And the past does not come back, by head, index or approval.
    for old in [&good, &Edition { head: last.head.clone(), ..good.clone() }] {
        assert!(matches!(bench.install(old), Answer::Refused(_)));
    }
    let renamed = bench.world.edition(1001, good.release.clone(), good.approval.clone());
    assert!(matches!(bench.install(&renamed), Answer::Refused(_)), "an index that names the old approval again");
}

#[test]
fn only_the_approved_action_and_only_payloads_of_the_release() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let good = bench.world.good(1);
    for action in [Action::Uninstall, Action::None] {
        let answer = bench.ask(&good.job(Task::Install { action, payloads: Bounded::default() }), &[]);
        assert!(matches!(&answer, Answer::Refused(why) if why.contains("is approved")), "{answer:?}");
    }
    for positions in [vec![1], vec![0, 0], vec![0, u16::MAX]] {
        let files: Vec<_> = positions.iter().flat_map(|_| bench.files(&[&bench.world.good_script()])).collect();
        let payloads = list(positions);
        let answer = bench.ask(&good.job(Task::Install { action: Action::Install, payloads }), &files);
        assert!(matches!(&answer, Answer::Refused(why) if why.contains("positions of payloads")), "{answer:?}");
    }
    let none = bench.ask(&good.job(Task::Install { action: Action::Install, payloads: Bounded::default() }), &[]);
    assert!(matches!(&none, Answer::Ended(_)), "{none:?}");
    assert_eq!(bench.marks(), Vec::<String>::new());
}

/// A root is walked to step by step, and the online key it takes away counts no more.
#[test]
fn the_installer_walks_the_roots_itself() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let first = bench.world.good(1);
    assert!(matches!(bench.install(&first), Answer::Ended(_)));
    let mut second = bench.world.clone();
    second.root.version = 2;
    let mut third = bench.world.clone();
    third.root.version = 3;
    let mut edition = third.good(2);
    edition.roots = vec![third.root_doc()];
    assert!(matches!(bench.install(&edition), Answer::Refused(_)), "a step is missing");
    edition.roots = vec![second.root_doc(), third.root_doc()];
    assert!(matches!(bench.install(&edition), Answer::Ended(_)));
}

/// Whoever has the online key goes far ahead with index and assignment. One rotation takes both back, and the key counts no more.
#[test]
fn what_a_removed_online_key_said_is_no_bound_here_either() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let first = bench.world.good(1);
    assert!(matches!(bench.install(&first), Answer::Ended(_)));
    let documents = [(Kind::Release, 1, &*first.release), (Kind::Approval, 1, &*first.approval)];
    let of = |world: &World, version, ahead: Duration| {
        let (head, index, pages) = world.catalog(version, &documents, |_, _| ());
        let assignment = Assignment { issued: world.now + ahead, ..world.assignment() };
        let assignment = world.sign(Kind::Assignment, Role::Online, &assignment, world.online);
        Edition { roots: vec![world.root_doc()], head, index, pages, assignment, ..first.clone() }
    };
    let stolen = of(&bench.world, 900, 20 * HOUR);
    assert!(matches!(bench.install(&stolen), Answer::Ended(_)));
    assert!(matches!(bench.install(&first), Answer::Refused(_)), "an earlier assignment");
    let mut rescued = bench.world.clone();
    rescued.root.version = 2;
    rescued.root.online.keys = list([held(31)]);
    rescued.online = 31;
    let fresh = of(&rescued, 2, Duration::ZERO);
    let answer = bench.install(&fresh);
    assert!(matches!(answer, Answer::Ended(_)), "{answer:?}");
    assert!(matches!(bench.install(&Edition { roots: fresh.roots.clone(), ..stolen }), Answer::Refused(_)));
    assert!(matches!(bench.install(&fresh), Answer::Ended(_)), "and nothing of it stays");
}
