//! A patch day: a repository that the test signs is synced, its packages are approved once, and three machines upgrade with their
//! own apt from bytes that crossed the WAN once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use upswarm_tests::fleet::{Coordinator, GROUP, Joining, Node, join_all, random_file, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::packages::make_debian_root;
use upswarm_tests::repository::{Deb, Repository, missing_tools};
use upswarm_tests::wait;

const WITHIN: Duration = Duration::from_secs(240);
const PACKAGES: usize = 20;
/// 2026-11-01, and the day after.
const FIRST: u32 = 1_793_491_200;
const SECOND: u32 = FIRST + 86_400;

fn name(at: usize) -> String {
    format!("demo-{at:02}")
}

/// A package with a file of random bytes, so that no two share a chunk.
fn add(upstream: &mut Repository, at: usize, version: &str) -> PathBuf {
    let (name, path) = (name(at), format!("/usr/share/demo-{at:02}"));
    let content =
        random_file(&upstream.dir.join("content"), 100 << 10, at as u64 * 1000 + u64::from(version.as_bytes()[0]));
    let content = hex::encode(std::fs::read(content).expect("content"));
    let package = Deb { files: &[(&path, &content)], ..Deb::new(&name, version) };
    upstream.add(&package)
}

/// What dpkg says of a package on a machine.
fn version(node: &Node<'_>, package: &str) -> String {
    let root = node.dir.join("root");
    let output = Command::new("dpkg-query")
        .args([&format!("--root={}", root.display()), "-W", "-f", "${db:Status-Status} ${Version}", package])
        .output()
        .expect("dpkg-query");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn install(root: &Path, file: &Path) {
    let output = Command::new("dpkg")
        .args([&format!("--root={}", root.display()), "--force-not-root", "--install", text(file)])
        .output()
        .expect("dpkg");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn wait_for(nodes: &[Node<'_>], package: &str, wanted: &str) {
    for node in nodes {
        wait::until(&format!("{package} {wanted} on {}", node.label), WITHIN, || match version(node, package) {
            found if found == format!("installed {wanted}") => Ok(()),
            found => Err(format!("{found:?}\n{}", node.log())),
        });
    }
}

/// Adds the repository as `demo`, by its folder, and syncs it.
fn sync(coordinator: &Coordinator<'_>, upstream: &Repository) {
    let (url, keyring) = (format!("file:{}", upstream.dir.display()), upstream.keyring());
    let what =
        ["--url", &url, "--suite", "stable", "--components", "main", "--arch", "amd64", "--keyring", text(&keyring)];
    coordinator.verb(&[&["sync", "add", "apt", "demo", "--yes"], &what[..]].concat()).done();
    coordinator.verb(&["sync", "run", "demo"]).done();
}

fn missing(coordinator: &Coordinator<'_>) -> Vec<Value> {
    coordinator.verb(&["updates"]).done()["updates"].as_array().cloned().expect("a list")
}

#[test]
fn a_patch_day_crosses_the_wan_once() {
    if let Some(missing) = missing_tools() {
        assert!(std::env::var_os("CI").is_none(), "packages cannot be tested here: {missing}");
        eprintln!("SKIPPED: {missing}");
        return;
    }
    let Some(lab) = Lab::new(&[3], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    let mut upstream = Repository::new(&lab.dir().join("mirror"));
    let old: Vec<PathBuf> = (0..PACKAGES).map(|at| add(&mut upstream, at, "1.0")).collect();
    upstream.publish(FIRST);
    for node in &nodes {
        let root = node.dir.join("root");
        make_debian_root(&root);
        old.iter().for_each(|file| install(&root, file));
    }
    let new: Vec<PathBuf> = (0..PACKAGES).map(|at| add(&mut upstream, at, "2.0")).collect();
    let bytes: u64 = new.iter().map(|file| std::fs::metadata(file).expect("a package").len()).sum();
    // Nobody has it, and nobody is to get it.
    upstream.add(&Deb::new("demo-new", "2.0"));
    upstream.publish(SECOND);
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);

    sync(&coordinator, &upstream);
    wait::until("the coordinator to know what each machine misses", WITHIN, || {
        let updates = missing(&coordinator);
        let complete = updates.len() == PACKAGES && updates.iter().all(|row| row["machines"] == 3);
        if complete { Ok(()) } else { Err(format!("{updates:?}")) }
    });

    let before = coordinator.status().origin.payload_bytes;
    coordinator.verb(&["approve", "apt:demo@latest", "--group", GROUP, "--yes"]).done();
    for at in 0..PACKAGES {
        wait_for(&nodes, &name(at), "2.0");
    }
    assert!(nodes.iter().all(|node| version(node, "demo-new").is_empty()), "nobody asked for it");
    wait::until("the coordinator to know that nothing is missing", WITHIN, || {
        let updates = missing(&coordinator);
        if updates.is_empty() { Ok(()) } else { Err(format!("{updates:?}")) }
    });
    let served = coordinator.status().origin.payload_bytes - before;
    let metadata: u64 = 64 << 10;
    println!("LAB {{\"test\":\"patch_day\",\"package_bytes\":{bytes},\"origin_bytes\":{served},\"machines\":3}}");
    assert!(served >= bytes && served <= bytes * 101 / 100 + metadata, "{served} bytes served for {bytes}");

    // What upstream publishes later is on no machine before somebody approves it.
    add(&mut upstream, 0, "3.0");
    upstream.publish(SECOND + 86_400);
    coordinator.verb(&["sync", "run", "demo"]).done();
    wait::until("the new version to be offered", WITHIN, || {
        let updates = missing(&coordinator);
        if updates.len() == 1 { Ok(()) } else { Err(format!("{updates:?}")) }
    });
    assert!(nodes.iter().all(|node| version(node, &name(0)) == "installed 2.0"));
    coordinator.verb(&["approve", "apt:demo@latest", "--group", GROUP, "--select", &name(0), "--yes"]).done();
    wait_for(&nodes, &name(0), "3.0");
    assert!(nodes.iter().all(|node| version(node, &name(1)) == "installed 2.0"));

    // A rule that an approver has signed approves what the next sync brings of one source package, and of no other.
    coordinator.verb(&["rule", "add", "--group", GROUP, "--repository", "demo", "--source", &name(1), "--yes"]).done();
    add(&mut upstream, 1, "3.0");
    add(&mut upstream, 2, "3.0");
    upstream.publish(SECOND + 2 * 86_400);
    coordinator.verb(&["sync", "run", "demo"]).done();
    wait_for(&nodes, &name(1), "3.0");
    assert!(nodes.iter().all(|node| version(node, &name(2)) == "installed 2.0"));
}

#[test]
fn an_approval_that_would_remove_packages_is_refused_before_it_is_signed() {
    if missing_tools().is_some() {
        return;
    }
    let Some(lab) = Lab::new(&[1], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    let mut upstream = Repository::new(&lab.dir().join("mirror"));
    let root = nodes[0].dir.join("root");
    make_debian_root(&root);
    for package in [Deb::new("demo-app", "1.0"), Deb::new("demo-lib", "1.0")] {
        install(&root, &package.build(&lab.dir().join("old")));
    }
    upstream.add(&Deb { fields: "Conflicts: demo-lib\n", ..Deb::new("demo-app", "2.0") });
    upstream.publish(FIRST);
    nodes[0].start();
    coordinator.wait_for_reports(&nodes);
    sync(&coordinator, &upstream);
    wait::until("the update to be offered", WITHIN, || match missing(&coordinator).len() {
        1 => Ok(()),
        found => Err(format!("{found} updates")),
    });
    let refused = coordinator.verb(&["approve", "apt:demo@latest", "--group", GROUP, "--yes"]).refused(3);
    assert!(refused.contains("demo-lib"), "{refused}");
    assert!(refused.contains("--allow-removals"), "{refused}");
    assert_eq!(
        (version(&nodes[0], "demo-app"), version(&nodes[0], "demo-lib")),
        ("installed 1.0".into(), "installed 1.0".into())
    );
}

#[test]
fn a_bad_patch_goes_back_and_a_good_one_goes_forward_again() {
    if missing_tools().is_some() {
        return;
    }
    let Some(lab) = Lab::new(&[2], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    let mut upstream = Repository::new(&lab.dir().join("mirror"));
    let old = [0, 1].map(|at| add(&mut upstream, at, "1.0"));
    upstream.publish(FIRST);
    for node in &nodes {
        let root = node.dir.join("root");
        make_debian_root(&root);
        old.iter().for_each(|file| install(&root, file));
    }
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    sync(&coordinator, &upstream);
    let first = coordinator.verb(&["sync", "show", "demo"]).done();
    let first = first["snapshots"][0]["version"].as_str().expect("a snapshot").to_owned();
    (0..2).for_each(|at| drop(add(&mut upstream, at, "2.0")));
    upstream.publish(SECOND);
    coordinator.verb(&["sync", "run", "demo"]).done();
    let offered = |count: usize| {
        wait::until("the coordinator to know what is missing", WITHIN, || {
            let updates = missing(&coordinator);
            let complete = updates.len() == count && updates.iter().all(|row| row["machines"] == 2);
            if complete { Ok(()) } else { Err(format!("{updates:?}")) }
        });
    };
    offered(2);
    coordinator.verb(&["approve", "apt:demo@latest", "--group", GROUP, "--yes"]).done();
    (0..2).for_each(|at| wait_for(&nodes, &name(at), "2.0"));
    offered(0);

    // An earlier state is refused until somebody says that machines are to go back, and until approvers have said who goes.
    let snapshot = format!("apt:demo@{first}");
    let refused = coordinator.verb(&["approve", &snapshot, "--group", GROUP, "--yes"]).refused(3);
    assert!(refused.contains("--back"), "{refused}");
    let preview = coordinator.verb(&["approve", &snapshot, "--back", "--group", GROUP, "--dry-run"]).done();
    let went = &preview["packages"][0];
    assert_eq!((&went["from"][0], &went["version"], &went["back"]), (&"2.0".into(), &"1.0".into(), &2.into()));
    let refused = coordinator.verb(&["approve", &snapshot, "--back", "--group", GROUP, "--yes"]).refused(3);
    assert!(refused.contains("group sign"), "{refused}");
    coordinator.verb(&["group", "sign", GROUP, "--list", "--yes"]).done();
    coordinator.verb(&["approve", "apt:demo@before", "--back", "--group", GROUP, "--yes"]).done();
    (0..2).for_each(|at| wait_for(&nodes, &name(at), "1.0"));

    // The approval from before stands, and brings nothing back by itself.
    offered(2);
    assert!([0, 1].iter().all(|at| nodes.iter().all(|node| version(node, &name(*at)) == "installed 1.0")));
    coordinator.verb(&["approve", "apt:demo@latest", "--group", GROUP, "--yes"]).done();
    (0..2).for_each(|at| wait_for(&nodes, &name(at), "2.0"));
}
