//! What is installed on machines is known at the coordinator, follows what the real tools do, and decides who is in a group.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::packages::{Kind, Package, make_debian_root, missing_debian_tools};
use upswarm_tests::{program, wait};

const WITHIN: Duration = Duration::from_secs(60);
const APP: Package<'static> =
    Package { kind: Kind::Deb, name: "lab-app", version: 1, len: 1 << 20, after: "", before: "", depends: "" };

fn root(node: &Node<'_>) -> PathBuf {
    node.dir.join("root")
}

/// Runs dpkg on the machine's root, as its owner would, and asks the node to look.
fn dpkg(node: &Node<'_>, args: &[&str]) {
    let mut command = Command::new("dpkg");
    command.arg(format!("--root={}", root(node).display())).arg("--force-script-chrootless").args(args);
    let output = command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().expect("dpkg");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    program::verb(&node.host.namespace, &["scan", "--now", "--data-dir", text(&node.dir)]).done();
}

fn install(node: &Node<'_>, package: &Path) {
    dpkg(node, &["--install", text(package)]);
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Which machines have the package, in which version.
fn versions(coordinator: &Coordinator<'_>) -> Vec<(String, String)> {
    let found = coordinator.verb(&["inventory", "--package", APP.name]).done();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all: Vec<_> = list(&found["devices"]).iter().map(|d| (word(&d["name"]), word(&d["version"]))).collect();
    all.sort();
    all
}

/// How many machines need a release, and how many have it.
fn counts(coordinator: &Coordinator<'_>, release: &str) -> (u64, u64) {
    let missing = coordinator.verb(&["missing", "--all"]).done();
    let of = list(&missing["releases"]).iter().find(|found| found["release"] == release);
    let count = |field: &str| of.and_then(|found| found[field].as_u64()).unwrap_or(0);
    (count("required"), count("installed"))
}

fn until<T: PartialEq + std::fmt::Debug>(what: &str, wanted: &T, found: impl Fn() -> T) {
    wait::until(what, WITHIN, || {
        let found = found();
        if found == *wanted { Ok(()) } else { Err(format!("{found:?}, not {wanted:?}")) }
    });
}

fn members(coordinator: &Coordinator<'_>, group: &str) -> Vec<String> {
    let groups = coordinator.verb(&["group", "list"]).done();
    let of = list(&groups["groups"]).iter().find(|found| found["group"] == group);
    let devices = of.map(|found| list(&found["devices"])).unwrap_or_default();
    devices.iter().filter_map(|device| device["name"].as_str().map(str::to_owned)).collect()
}

#[test]
fn inventories_follow_the_machines_and_groups_follow_the_inventories() {
    if let Some(missing) = missing_debian_tools() {
        assert!(std::env::var_os("CI").is_none(), "packages cannot be tested here: {missing}");
        eprintln!("SKIPPED: packages cannot be tested here: {missing}");
        return;
    }
    let Some(lab) = Lab::new(&[2], Rates::default()) else { return };
    let mut coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter().for_each(|node| make_debian_root(&root(node)));
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let labels: Vec<String> = nodes.iter().map(|node| node.label.clone()).collect();
    let two = Package { version: 2, ..APP };
    let files = [APP, two].map(|package| package.build(&lab.dir().join("packages")));

    // The real tool installs it; the next look shows it at the coordinator.
    install(&nodes[0], &files[0]);
    let has = |at: usize, version: &str| (labels[at].clone(), version.to_owned());
    until("the package in the inventory", &vec![has(0, "1.0-1")], || versions(&coordinator));
    let one = coordinator.verb(&["inventory", &labels[0]]).done();
    let purl = list(&one["packages"]).iter().find(|package| package["name"] == APP.name).map(|p| p["purl"].clone());
    assert!(purl.as_ref().and_then(Value::as_str).is_some_and(|purl| purl.starts_with("pkg:deb/debian/lab-app@1.0-1")));
    assert_eq!(one["facts"]["os.version"], "13", "{one}");
    let told = || {
        let summary = coordinator.verb(&["inventory"]).done();
        list(&summary["devices"]).iter().filter(|device| device["told"] == true).count()
    };
    until("both inventories", &nodes.len(), told);

    // Nothing is approved, and it is known who would need it.
    let first = APP.publish(&coordinator, &files[0]);
    let second = two.publish(&coordinator, &files[1]);
    until("the first version is missing on one", &(1, 1), || counts(&coordinator, &first.release));
    until("the second version is missing on both", &(2, 0), || counts(&coordinator, &second.release));

    // A group of machines that have it, shown before it is made.
    let group = ["group", "add", "apps", "--where", "os.id=debian", "--where", "package:lab-app>=1.0"];
    let shown = coordinator.verb(&[&group[..], &["--dry-run"]].concat()).done();
    assert_eq!((list(&shown["members"]).len(), &shown["members"][0]["name"]), (1, &Value::from(labels[0].as_str())));
    coordinator.verb(&group).done();
    until("one member", &vec![labels[0].clone()], || members(&coordinator, "apps"));
    let preview = coordinator.verb(&["approve", &second.release, "--group", "apps", "--dry-run"]).done();
    assert_eq!((&preview["preview"]["devices"], &preview["preview"]["required"]), (&1.into(), &1.into()), "{preview}");

    // An approval for the group reaches its member, and the upgrade shows in inventory and scan.
    coordinator.verb(&["approve", &second.release, "--group", "apps"]).done();
    until("the upgrade of one", &vec![has(0, "2.0-1")], || versions(&coordinator));
    until("the scans after it", &(1, 1), || counts(&coordinator, &second.release));

    // The coordinator starts again and knows it at once.
    coordinator.stop();
    coordinator.start();
    assert_eq!(versions(&coordinator), [has(0, "2.0-1")]);

    // A machine that gets the package by hand joins the group and is brought up to date.
    install(&nodes[1], &files[0]);
    until("both in the second version", &vec![has(0, "2.0-1"), has(1, "2.0-1")], || versions(&coordinator));
    assert_eq!(members(&coordinator, "apps").len(), 2);

    // What a person removes is noticed at the next look, not after hours; and the machine leaves the group.
    let index = || {
        let node = &nodes[0];
        let status = program::verb(&node.host.namespace, &["node", "status", "--data-dir", text(&node.dir)]).done();
        status["index_version"].as_u64().unwrap_or(0)
    };
    let before = index();
    coordinator.verb(&["pause", "--group", "apps"]).done();
    until("the pause on the machine", &true, || index() > before);
    dpkg(&nodes[0], &["--remove", APP.name]);
    wait::until("the removal in the status", WITHIN, || {
        let status = coordinator.status();
        match status.deployment(&labels[0], &second.release) {
            Some(found) if found.state == "Installed" => Err(format!("{found:?}")),
            _ => Ok(()),
        }
    });
    until("one member again", &vec![labels[1].clone()], || members(&coordinator, "apps"));
    until("the removal in the inventory", &vec![has(1, "2.0-1")], || versions(&coordinator));
}
