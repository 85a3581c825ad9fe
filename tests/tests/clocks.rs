//! Wall clocks that are wrong, on a machine and on the coordinator: what is said, what stops, and what goes on when they are right.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use upswarm_tests::clock::FakeClock;
use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, random_file, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::{program, wait};

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `explain` on a machine says this.
fn explains(node: &mut Node<'_>, wanted: &str) {
    wait::until(&format!("{} to explain: {wanted}", node.label), PATIENCE, || {
        node.process().must_run();
        let said = program::verb(&node.host.namespace, &["explain", "--data-dir", text(&node.dir)]);
        let text = said.json.to_string();
        if text.contains(wanted) { Ok(()) } else { Err(format!("{text} {}", said.said)) }
    });
}

/// Waits until the coordinator has an open alarm about a clock that says this.
fn alarms(coordinator: &Coordinator<'_>, subject: &str, wanted: &str) {
    wait::until(&format!("an alarm about the clock of {subject}"), PATIENCE, || {
        let list = coordinator.verb(&["alarms", "list"]).done();
        let found = list["alarms"].as_array().into_iter().flatten().any(|alarm| {
            alarm["kind"] == "clock"
                && alarm["subject"] == subject
                && alarm["over"] == false
                && alarm["text"].as_str().is_some_and(|text| text.contains(wanted))
        });
        if found { Ok(()) } else { Err(list.to_string()) }
    });
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp").success());
}

/// Cases 7 and 8: 400 days ahead, ten years behind.
#[test]
fn a_machine_with_a_wrong_clock_says_so_waits_and_goes_on() {
    let Some(lab) = Lab::new(&[4], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    let clocks = [400, -3650].map(|days| {
        let clock = FakeClock::new(lab.dir(), &format!("off-by{days}"));
        clock.set_off_by(days);
        clock
    });
    for (node, clock) in nodes.iter_mut().zip(&clocks) {
        node.clock = Some(clock.clone());
    }
    nodes.iter_mut().for_each(Node::start);
    explains(&mut nodes[0], "ahead of the coordinator's");
    explains(&mut nodes[1], "set the clock");
    alarms(&coordinator, &nodes[0].label, "400 days ahead of");
    alarms(&coordinator, &nodes[1].label, "3650 days behind");
    let payload = random_file(&lab.dir().join("payload"), 1 << 20, 7);
    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    coordinator.wait_for_installs(&nodes[2..], &published.release, PATIENCE);
    let status = coordinator.verb(&["status"]).done();
    for device in status["devices"].as_array().expect("devices") {
        let age = device["last_seen_s"].as_u64().expect("it has reported");
        assert!(age < 600, "ages are the coordinator's: {device}");
    }
    assert!(!nodes[0].installed().exists() && !nodes[1].installed().exists(), "nothing begins by a wrong clock");
    clocks.iter().for_each(|clock| clock.set_off_by(0));
    coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);
    wait::until("the alarms about clocks to be over", PATIENCE, || {
        let list = coordinator.verb(&["alarms", "list"]).done();
        let of_clocks: Vec<_> =
            list["alarms"].as_array().into_iter().flatten().filter(|alarm| alarm["kind"] == "clock").collect();
        if of_clocks.iter().all(|alarm| alarm["over"] == true) { Ok(()) } else { Err(list.to_string()) }
    });
}

#[test]
fn a_machine_joins_with_a_wrong_clock() {
    let Some(lab) = Lab::new(&[2], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let token = coordinator.invite("site-1", 2);
    for (host, days) in lab.sites[0].hosts.iter().zip([400, -3650]) {
        let clock = FakeClock::new(lab.dir(), &format!("off-by{days}"));
        clock.set_off_by(days);
        let dir = lab.dir().join(format!("joins{days}"));
        let mut command = program::command(&["node", "join", &token, "--data-dir", text(&dir)]);
        clock.show(&mut command);
        let output = host.namespace.run(|| command.output()).expect("node join");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{days}: {said}");
        let wanted = if days > 0 { "400 days ahead of the coordinator's" } else { "upswarm was built at" };
        assert!(said.contains(wanted), "{days}: {said}");
    }
}

/// Cases 12, 33, 36 and 37: five days ahead for a while, then right.
#[test]
fn a_coordinator_whose_clock_was_ahead_for_a_while_stops_nothing_for_good() {
    let Some(lab) = Lab::new(&[2], Rates::default()) else { return };
    let mut coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let payload = random_file(&lab.dir().join("payload"), 1 << 20, 8);
    let first = coordinator.publish("1.0", &payload);
    coordinator.approve(&first.release);
    coordinator.wait_for_installs(&nodes, &first.release, PATIENCE);
    coordinator.stop();
    let backup = lab.dir().join("backup");
    copy(&coordinator.dir, &backup);

    let clock = FakeClock::new(lab.dir(), "coordinator");
    clock.set_off_by(5);
    coordinator.clock = Some(clock.clone());
    coordinator.start();
    for node in &mut nodes {
        explains(node, "ahead of this machine's clock");
    }
    alarms(&coordinator, "coordinator", "5 days ahead of");
    coordinator.stop();

    // Right again, it signs nothing until somebody says that the clock is right.
    coordinator.clock = None;
    coordinator.start();
    let reason = coordinator.verb(&["approve", &first.release, "--group", "office", "--yes"]).refused(3);
    assert!(reason.contains("--accept-clock"), "{reason}");
    coordinator.verb(&["pause"]).done();
    coordinator.stop();
    coordinator.args = vec!["--accept-clock".to_owned()];
    coordinator.start();
    coordinator.args.clear();
    coordinator.verb(&["resume"]).done();
    let second = coordinator.publish("2.0", &random_file(&lab.dir().join("payload-2"), 1 << 20, 9));
    // A schedule of the machine's own clock: what is available tomorrow is not installed today.
    coordinator.verb(&["approve", &second.release, "--group", "office", "--available", "+2d"]).done();
    wait::until("both machines to wait for the day after tomorrow", PATIENCE, || {
        let status = coordinator.status();
        let waits = |node: &Node<'_>| {
            status.deployment(&node.label, &second.release).is_some_and(|found| found.sub_state == "Scheduled")
        };
        if nodes.iter().all(waits) { Ok(()) } else { Err(format!("{status:?}")) }
    });
    coordinator.stop();

    // The same from a copy that was made before.
    copy(&backup, &coordinator.dir);
    coordinator.start();
    let third = coordinator.publish("3.0", &random_file(&lab.dir().join("payload-3"), 1 << 20, 10));
    coordinator.approve(&third.release);
    coordinator.wait_for_installs(&nodes, &third.release, PATIENCE);
    let list = coordinator.verb(&["alarms", "list"]).done();
    let restored = list["alarms"].as_array().into_iter().flatten().find(|alarm| alarm["kind"] == "restored");
    assert!(
        restored.is_some_and(|alarm| alarm["text"].as_str().is_some_and(|text| text.contains("old copy"))),
        "case 12: {list}"
    );
}
