//! What stands in the way of an install on one machine is not the release's failure: it has a state of its own and is tried
//! again by itself.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::catalog::Release;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::{DeviceId, GroupId, ReleaseId};
use upswarm_protocol::inventory::Inventory;
use upswarm_protocol::node::*;
use upswarm_protocol::report::{DeploymentState as S, SubState};
use upswarm_protocol::wire::{Message, RetryOrder};

const MINUTE: Duration = Duration::from_secs(60);

fn hindered(by: Obstacle, reason: &str) -> InstallOutcome {
    InstallOutcome::Hindered { by, code: Some(100), reason: reason.to_owned() }
}

fn begun() -> (Bench, upswarm_protocol::ids::ReleaseId) {
    let (edition, id) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    bench.fill();
    assert_eq!(bench.installs(), [id]);
    (bench, id)
}

#[test]
fn each_obstacle_has_a_state_of_its_own_and_none_is_a_failure() {
    for (by, state, sub_state) in [
        (Obstacle::Held, S::OnHold, SubState::HeldByMachine),
        (Obstacle::Locked, S::Pending, SubState::Locked),
        (Obstacle::Broken, S::Stalled, SubState::BrokenPackage),
        (Obstacle::Dependency, S::Pending, SubState::MissingDependency),
        (Obstacle::NoSpace, S::Stalled, SubState::NoSpace),
        (Obstacle::NoNetwork, S::Stalled, SubState::NoNetwork),
    ] {
        let (mut bench, id) = begun();
        bench.ended(id, hindered(by, "locked by apt-get (pid 123)"));
        let (now, sub, reason) = bench.standing(id);
        assert_eq!((now, sub), (state, sub_state));
        assert_eq!(reason, "locked by apt-get (pid 123)");
        let status = bench.state.status(bench.now.mono);
        assert!(status.deployments[0].next_try.is_some_and(|at| at > bench.now.wall), "{by:?}");
        contains(&bench.told(id), &["locked by apt-get (pid 123). It is tried again in"]);
    }
}

#[test]
fn tries_are_spaced_and_never_end_in_a_failure() {
    let (mut bench, id) = begun();
    let mut tries = 1;
    bench.ended(id, hindered(Obstacle::Held, "held"));
    for _ in 0..60 {
        bench.pass(10 * MINUTE);
        for _ in bench.installs() {
            tries += 1;
            bench.ended(id, hindered(Obstacle::Held, "held"));
        }
        assert_ne!(bench.standing(id).0, S::Failed);
    }
    assert!((6..12).contains(&tries), "{tries} tries in ten hours");
}

#[test]
fn a_change_of_the_machine_brings_the_next_try_forward() {
    let (mut bench, id) = begun();
    bench.input(Input::Inventory { inventory: Arc::new(Inventory::default()) });
    for _ in 0..5 {
        bench.ended(id, hindered(Obstacle::Dependency, "demo-base is missing"));
        bench.pass(10 * MINUTE);
        bench.installs();
    }
    bench.ended(id, hindered(Obstacle::Dependency, "demo-base is missing"));
    bench.pass(MINUTE);
    assert!(bench.installs().is_empty());
    let mut inventory = Inventory::default();
    inventory.set_fact(text("os.id"), Some(text("debian"))).unwrap();
    bench.input(Input::Inventory { inventory: Arc::new(inventory) });
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.installs(), [id]);
}

#[test]
fn a_person_can_ask_for_another_try_of_what_has_failed() {
    let (mut bench, id) = begun();
    bench.ended(id, InstallOutcome::Failed { code: Some(1), reason: "no".to_owned() });
    assert_eq!(bench.standing(id).0, S::Failed);
    bench.pass(30 * MINUTE);
    assert!(bench.installs().is_empty());
    bench.input(Input::Retry { release: id });
    assert_eq!(bench.installs(), [id]);
    // While it runs there is nothing to ask for.
    bench.input(Input::Retry { release: id });
    assert!(bench.installs().is_empty());
}

/// An order as the coordinator signs it.
fn order(release: ReleaseId, group: Option<GroupId>, device: Option<DeviceId>, number: u64) -> Message {
    let order = RetryOrder { release, group, device, issued: NOW + Duration::from_secs(number) };
    Message::Retry(list(envelope::sign(Kind::Retry, Role::Online, &order, &[&World::new().online[0]]).unwrap()))
}

fn says(bench: &mut Bench, peer: DeviceId, message: &Message) {
    bench.input(Input::Frame { peer, bytes: message.encode().unwrap() });
}

#[test]
fn the_coordinator_can_ask_for_another_try_and_only_for_that() {
    let (edition, id) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    bench.hears_the_coordinator(&edition, &[]);
    bench.fill();
    assert_eq!(bench.installs(), [id]);
    let fails = |bench: &mut Bench| {
        bench.ended(id, InstallOutcome::Failed { code: Some(1), reason: "no".to_owned() });
        assert_eq!(bench.standing(id).0, S::Failed);
    };
    says(&mut bench, COORDINATOR, &order(id, None, None, 0));
    assert!(bench.installs().is_empty(), "it runs");
    fails(&mut bench);
    let other = DeviceId([1; 32]);
    for elsewhere in
        [order(ReleaseId([1; 32]), None, None, 1), order(id, Some(CAREFUL), None, 2), order(id, None, Some(other), 3)]
    {
        says(&mut bench, COORDINATOR, &elsewhere);
        assert!(bench.installs().is_empty());
    }
    let forged = RetryOrder { release: id, group: None, device: None, issued: NOW };
    let forged = envelope::sign(Kind::Retry, Role::Online, &forged, &[&key(77)]).unwrap();
    says(&mut bench, COORDINATOR, &Message::Retry(list(forged)));
    assert!(bench.installs().is_empty(), "signed by nobody");

    bench.pass(MINUTE);
    let good = order(id, Some(GROUP), Some(bench.device()), 4);
    says(&mut bench, COORDINATOR, &good);
    assert_eq!(bench.installs(), [id], "once");
    fails(&mut bench);
    bench.pass(MINUTE);
    says(&mut bench, COORDINATOR, &good);
    assert!(bench.installs().is_empty(), "the same order again");
    // Anybody can add a signature to an envelope: that makes no other order of it.
    let Message::Retry(signed) = &good else { unreachable!() };
    let body = envelope::Envelope::parse(signed, Kind::Retry, Role::Online).unwrap().unverified_body().to_vec();
    let dressed = envelope::sign_body(Kind::Retry, Role::Online, &body, &[&World::new().online[0], &key(77)]).unwrap();
    says(&mut bench, COORDINATOR, &Message::Retry(list(dressed)));
    assert!(bench.installs().is_empty(), "the same order in other clothes");
    // However many come, the recipe does not run without end.
    let mut tries = 0;
    for number in 0..600 {
        says(&mut bench, COORDINATOR, &order(id, None, None, 10 + number));
        for _ in bench.installs() {
            tries += 1;
            fails(&mut bench);
        }
        bench.pass(Duration::from_millis(100));
    }
    assert!((5..=7).contains(&tries), "{tries} tries in a minute");
}

#[test]
fn an_order_reaches_machines_that_only_a_neighbour_knows() {
    let (edition, id) = approved(|_| ());
    let mut uplink = Bench::new(&edition, |_| ());
    let mut inner = Bench::of(&key(41), "pc-2", &edition, |_| ());
    meet(&mut uplink, &mut inner);
    uplink.hears_the_coordinator(&edition, &[]);
    uplink.asked.clear();
    inner.fill();
    assert_eq!(inner.installs(), [id]);
    inner.ended(id, InstallOutcome::Failed { code: Some(1), reason: "no".to_owned() });
    let device = inner.device();
    says(&mut uplink, COORDINATOR, &order(id, None, Some(device), 1));
    assert!(uplink.installs().is_empty());
    talk(&mut uplink, &mut inner);
    assert_eq!(inner.installs(), [id]);
}

#[test]
fn what_has_come_to_its_end_is_not_tried_again() {
    let (mut bench, id) = begun();
    bench.found = Detection::Present;
    bench.ended(id, InstallOutcome::Done { restart: false, code: None });
    assert_eq!(bench.standing(id).0, S::Installed);
    assert_eq!(bench.state.would_retry(&id), Err(NotRetried::NothingToDo));
    assert_eq!(bench.state.would_retry(&ReleaseId([1; 32])), Err(NotRetried::NotDeployed));
    bench.found = Detection::Absent;
    bench.input(Input::Retry { release: id });
    assert!(bench.installs().is_empty());
}

#[test]
fn what_waits_for_a_dependency_goes_on_at_once_when_another_install_has_ended() {
    let world = World::new();
    let mut documents = Vec::new();
    let mut ids = Vec::new();
    for name in ["app", "lib"] {
        let release = world.publish(&Release { product: text(&format!("org.example.{name}")), ..tool() });
        ids.push(release.release);
        documents.extend([world.approve(&approval(GROUP, release.release, 1)), release]);
    }
    let mut bench = Bench::new(&world.edition(7, documents), |_| ());
    bench.fill();
    // Whichever comes first is the one that needs the other.
    let app = bench.installs()[0];
    let lib = ids.into_iter().find(|id| *id != app).unwrap();
    bench.ended(app, hindered(Obstacle::Dependency, "demo-app depends on demo-lib"));
    assert_eq!(bench.standing(app).1, SubState::MissingDependency);
    assert_eq!(bench.installs(), [lib]);
    bench.ended(lib, InstallOutcome::Done { restart: false, code: Some(0) });
    assert_eq!(bench.installs(), [app], "without a moment's waiting");
    // What waits for something else does not.
    bench.ended(app, hindered(Obstacle::Held, "held"));
    bench.pass(2 * MINUTE);
    assert_eq!(bench.installs(), [app]);
}
