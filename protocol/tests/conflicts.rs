//! Two products that stand for one package, one to be installed and one to be removed: they must not undo each other by turns.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::report::{DeploymentState as S, SubState};

fn of_the_package(product: &str) -> Release {
    let rule = Detect::Package { kind: PackageKind::Deb, name: text("demo"), version: text("1.0") };
    Release { product: text(product), detect: list(vec![rule]), ..tool() }
}

/// One product with an approval of each kind, of the same package.
fn bench(first: Action, second: Action) -> (Bench, [ReleaseId; 2]) {
    let world = World::new();
    let releases = ["org.example.demo", "org.example.other"].map(|product| world.publish(&of_the_package(product)));
    let ids = [releases[0].release, releases[1].release];
    let approvals = [(ids[0], first), (ids[1], second)]
        .map(|(id, action)| world.approve(&Approval { action, ..approval(GROUP, id, 1) }));
    // Nothing is removed where the coordinator alone says who belongs to the group.
    let listed = group(GROUP, 1, Members::List(own_list(&key(40)).root()));
    let listed = describe(&listed, &[&world.approvers[0]]);
    let documents = releases.into_iter().chain(approvals).chain([listed]).collect();
    (Bench::new(&world.edition(7, documents), |_| ()), ids)
}

/// The package is there, or is not: both find the same.
fn found(bench: &mut Bench, ids: &[ReleaseId], result: Detection) {
    bench.found = result.clone();
    ids.iter().for_each(|id| bench.input(Input::Detected { release: *id, result: result.clone() }));
}

#[test]
fn two_products_of_one_package_do_not_undo_each_other() {
    let (mut bench, ids) = bench(Action::Install, Action::Uninstall);
    bench.fill();
    bench.pass(Duration::from_secs(60));
    assert!(bench.installs().is_empty(), "the one that is to be installed waits");
    let (state, sub_state, reason) = bench.standing(ids[0]);
    assert_eq!((state, sub_state), (S::Stalled, SubState::Conflict));
    for named in
        ["org.example.demo 1.0 is to be installed", "org.example.other 1.0 is to be removed", "Debian package demo"]
    {
        assert!(reason.contains(named), "{named}: {reason}");
    }
    assert!(bench.told(ids[0]).contains("upswarm decline RELEASE"));
    // Somebody has installed it by hand: it is not taken away either.
    found(&mut bench, &ids, Detection::Present);
    bench.pass(Duration::from_secs(7 * 3600));
    assert!(bench.installs().is_empty(), "nothing is removed by turns");
    assert_eq!(bench.standing(ids[0]).0, S::Installed);
    let (state, sub_state, reason) = bench.standing(ids[1]);
    assert_eq!((state, sub_state), (S::Stalled, SubState::Conflict), "{reason}");
    // Where the other one does not concern the machine, there is no conflict.
    found(&mut bench, &ids[1..], Detection::NotApplicable("another distribution".into()));
    found(&mut bench, &ids[..1], Detection::Absent);
    bench.input(Input::Detected { release: ids[1], result: Detection::NotApplicable("another distribution".into()) });
    bench.pass(Duration::from_millis(100));
    bench.fill();
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.installs(), [ids[0]], "{}{}", bench.told(ids[0]), bench.told(ids[1]));
}

#[test]
fn what_is_declined_stands_in_nobody_s_way() {
    for (first, second, expected) in [
        (Action::None, Action::Uninstall, 1),
        (Action::Uninstall, Action::Uninstall, 0),
        (Action::Install, Action::None, 0),
    ] {
        let (mut bench, ids) = bench(first, second);
        let result =
            if (first, second) == (Action::Install, Action::None) { Detection::Absent } else { Detection::Present };
        found(&mut bench, &ids, result);
        bench.fill();
        bench.pass(Duration::from_secs(60));
        assert_eq!(bench.installs(), [ids[expected]], "{first:?} and {second:?}");
    }
}
