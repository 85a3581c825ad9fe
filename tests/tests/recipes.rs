//! Real packages of dpkg and rpm through the whole fleet: fetched once, installed by the real tools, confirmed by a scan,
//! upgraded, taken back, broken and interrupted.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use upswarm_tests::fleet::{Coordinator, Deployment, GROUP, Joining, Node, join_all, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::packages::{Kind, Package, audit, make_root, missing_tools, rpm_versions};
use upswarm_tests::{program, wait};

const WITHIN: Duration = Duration::from_secs(60);
const APP: Package<'static> =
    Package { kind: Kind::Deb, name: "lab-app", version: 1, len: 3 << 20, after: "", before: "", depends: "" };

fn lab(hosts: u8) -> Option<Lab> {
    if let Some(missing) = missing_tools() {
        assert!(std::env::var_os("CI").is_none(), "packages cannot be tested here: {missing}");
        eprintln!("SKIPPED: packages cannot be tested here: {missing}");
        return None;
    }
    Lab::new(&[hosts], Rates::default())
}

fn root(node: &Node<'_>) -> PathBuf {
    node.dir.join("root")
}

/// Machines that run, each with a root of its own.
fn fleet<'lab>(coordinator: &Coordinator<'lab>, lab: &'lab Lab) -> Vec<Node<'lab>> {
    let mut nodes = join_all(coordinator, lab, 0, Joining::default());
    nodes.iter().for_each(|node| make_root(&root(node)));
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    nodes
}

/// Waits until all of these machines are in this state, and returns what the first says.
fn wait_for(coordinator: &Coordinator<'_>, nodes: &[Node<'_>], release: &str, state: &str) -> Deployment {
    wait::until(state, WITHIN, || {
        let status = coordinator.status();
        let found: Vec<_> = nodes.iter().map(|node| status.deployment(&node.label, release).cloned()).collect();
        match found.iter().flatten().next() {
            Some(first) if found.iter().flatten().filter(|one| one.state == state).count() == nodes.len() => {
                Ok(first.clone())
            }
            _ => Err(format!("{found:?}")),
        }
    })
}

fn uninstall(coordinator: &Coordinator<'_>, release: &str) {
    // Nothing is removed where the coordinator alone says who belongs to the group.
    coordinator.verb(&["group", "sign", GROUP, "--list", "--yes"]).done();
    coordinator.verb(&["approve", release, "--group", GROUP, "--action", "uninstall"]).done();
}

/// The package as `upswarm scan` finds it in a root: its versions and package URLs.
fn scanned(node: &Node<'_>, name: &str) -> Vec<(String, String)> {
    let scan = program::verb(&node.host.namespace, &["scan", "--root", text(&root(node))]).done();
    let packages = scan["packages"].as_array().cloned().unwrap_or_default();
    let named = packages.iter().filter(|package| package["name"] == name);
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    named.map(|package| (word(&package["version"]), word(&package["purl"]))).collect()
}

#[test]
fn debian_packages_are_installed_upgraded_taken_back_and_removed() {
    journey(Kind::Deb, "pkg:deb/debian/lab-app@");
}

#[test]
fn rpm_packages_are_installed_upgraded_taken_back_and_removed() {
    journey(Kind::Rpm, "pkg:rpm/debian/lab-app@");
}

fn journey(kind: Kind, purl: &str) {
    let Some(lab) = lab(3) else { return };
    let coordinator = Coordinator::new(&lab);
    let nodes = fleet(&coordinator, &lab);
    let (log, configured) = ("var/lab-app.log", "echo configured >> /var/lab-app.log");
    let one = Package { kind, after: configured, ..APP };
    let two = Package { version: 2, ..one };
    let files = [one, two].map(|package| package.build(&lab.dir().join("packages")));
    let lens = [0, 1].map(|at| fs::metadata(&files[at]).unwrap().len());
    let is_there = |node: &Node<'_>, package: &Package<'_>| {
        let tree = lab.dir().join(format!("packages/lab-app-{}", package.version));
        fs::read(package.program(&root(node))).ok() == fs::read(package.program(&tree)).ok()
    };
    let configuration = |node: &Node<'_>| fs::read_to_string(one.configuration(&root(node))).unwrap();

    let first = one.publish(&coordinator, &files[0]);
    coordinator.approve(&first.release);
    wait_for(&coordinator, &nodes, &first.release, "Installed");
    assert_eq!(coordinator.status().origin.payload_bytes, lens[0], "one copy of the package crossed the WAN");
    for node in &nodes {
        assert!(is_there(node, &one), "{}", node.label);
        assert_eq!(fs::read_to_string(root(node).join(log)).unwrap(), "configured\n");
        let found = scanned(node, "lab-app");
        assert!(matches!(&*found, [(version, url)] if *version == "1.0-1" && url.starts_with(purl)), "{found:?}");
    }

    // A person changes the configuration of one machine; the upgrade brings another default.
    let mine = "changed by a person\n";
    fs::write(one.configuration(&root(&nodes[0])), mine).unwrap();
    let second = two.publish(&coordinator, &files[1]);
    coordinator.approve(&second.release);
    wait_for(&coordinator, &nodes, &second.release, "Installed");
    assert!(nodes.iter().all(|node| is_there(node, &two) && scanned(node, "lab-app")[0].0 == "2.0-1"));
    assert_eq!(configuration(&nodes[0]), mine);
    assert_eq!(configuration(&nodes[1]), two.default_configuration());

    // It is bad: to take it away is to go back to the one before, which is approved still. Nothing is fetched again.
    uninstall(&coordinator, &second.release);
    wait_for(&coordinator, &nodes, &second.release, "Uninstalled");
    wait_for(&coordinator, &nodes, &first.release, "Installed");
    for node in &nodes {
        assert!(is_there(node, &one), "{}", node.label);
        let versions: Vec<String> = scanned(node, "lab-app").into_iter().map(|(version, _)| version).collect();
        assert_eq!(versions, ["1.0-1"]);
        assert_eq!(audit(&root(node)), "");
    }
    assert_eq!(configuration(&nodes[0]), mine);
    assert_eq!(configuration(&nodes[1]), one.default_configuration());
    assert_eq!(coordinator.status().origin.payload_bytes, lens[0] + lens[1]);

    uninstall(&coordinator, &first.release);
    wait_for(&coordinator, &nodes, &first.release, "Uninstalled");
    for node in &nodes {
        assert!(!one.program(&root(node)).exists(), "{}", node.label);
        assert_eq!(scanned(node, "lab-app"), []);
    }
    assert!(fs::read_dir(root(&nodes[0]).join("etc")).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        path.display().to_string().contains("lab-app.conf") && fs::read_to_string(path).unwrap() == mine
    }));
}

#[test]
fn a_package_that_fails_says_why_and_leaves_a_sane_database() {
    let Some(lab) = lab(1) else { return };
    let coordinator = Coordinator::new(&lab);
    let nodes = fleet(&coordinator, &lab);
    let root = root(&nodes[0]);
    let dir = lab.dir().join("packages");
    let publish = |package: &Package<'_>| {
        let release = package.publish(&coordinator, &package.build(&dir)).release;
        coordinator.approve(&release);
        release
    };
    let fails = "echo the database cannot be migrated; exit 7";
    let dpkg_says = |name: &str| {
        let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
        let entry =
            status.split("\n\n").find(|entry| entry.starts_with(&format!("Package: {name}\n"))).unwrap_or_default();
        entry.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or_default().to_owned()
    };

    // One that was not there before: it is taken away again.
    let fresh = publish(&Package { name: "lab-fresh", after: fails, ..APP });
    let said = wait_for(&coordinator, &nodes, &fresh, "Failed");
    assert!(said.reason.contains("lab-fresh was taken away again") && said.reason.contains("exit code 1"), "{said:?}");
    assert!(said.reason.contains("the database cannot be migrated"), "the log's end is told: {said:?}");
    assert!(!root.join("opt/lab-fresh/program").exists());
    assert_eq!((audit(&root), dpkg_says("lab-fresh")), (String::new(), "deinstall ok config-files".into()));

    // An upgrade: the version before it comes back, because it is approved.
    let good = publish(&APP);
    wait_for(&coordinator, &nodes, &good, "Installed");
    let bad = publish(&Package { version: 2, after: fails, ..APP });
    let said = wait_for(&coordinator, &nodes, &bad, "Failed");
    assert!(
        said.reason.contains("lab-app is left half installed") && said.reason.contains("cannot be migrated"),
        "{said:?}"
    );
    wait_for(&coordinator, &nodes, &good, "Installed");
    wait::until("the package to be whole", WITHIN, || match dpkg_says("lab-app") {
        status if status == "install ok installed" => Ok(()),
        status => Err(status),
    });
    wait_for(&coordinator, &nodes, &good, "Installed");
    assert_eq!(scanned(&nodes[0], "lab-app")[0].0, "1.0-1");
    assert_eq!(audit(&root), "");

    // rpm does not begin with a package whose own check fails: the version before it is not touched.
    let good = publish(&Package { kind: Kind::Rpm, name: "lab-rpm", ..APP });
    wait_for(&coordinator, &nodes, &good, "Installed");
    let bad = publish(&Package { kind: Kind::Rpm, name: "lab-rpm", version: 2, before: fails, ..APP });
    let said = wait_for(&coordinator, &nodes, &bad, "Failed");
    assert!(said.reason.contains("exit code") && said.reason.contains("cannot be migrated"), "{said:?}");
    assert_eq!(rpm_versions(&root, "lab-rpm"), ["1.0"]);

    // What a tool calls done counts only when the scan finds it.
    let package = Package { name: "lab-wrong", ..APP };
    let nowhere = "[[detect]]\nfile = \"/opt/lab-wrong/nowhere\"\nexists = true\n";
    let wrong = package.publish_detected_also_by(&coordinator, &package.build(&dir), nowhere).release;
    coordinator.approve(&wrong);
    let said = wait_for(&coordinator, &nodes, &wrong, "Failed");
    assert!(said.reason.contains("detection does not find its result"), "{said:?}");
    assert!(root.join("opt/lab-wrong/program").exists());
}

#[test]
fn a_power_cut_in_the_middle_of_a_package_is_not_forgotten() {
    let Some(lab) = lab(1) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = fleet(&coordinator, &lab);
    let root = root(&nodes[0]);
    let waits = "echo > /reached; while test -e /hold; do sleep 0.1; done";
    for (kind, name) in [(Kind::Deb, "lab-deb"), (Kind::Rpm, "lab-rpm")] {
        let one = Package { kind, name, ..APP };
        let two = Package { version: 2, after: waits, ..one };
        let [one, two] = [one, two]
            .map(|package| package.publish(&coordinator, &package.build(&lab.dir().join("packages"))).release);
        coordinator.approve(&one);
        wait_for(&coordinator, &nodes, &one, "Installed");
        fs::write(root.join("hold"), b"").unwrap();
        coordinator.approve(&two);
        wait::until("the package's script", WITHIN, || match root.join("reached").exists() {
            true => Ok(()),
            false => Err(nodes[0].log()),
        });
        let group = child(nodes[0].process().id());
        nodes[0].kill();
        kill_process_group(group, Signal::KILL).unwrap();
        if kind == Kind::Deb {
            assert!(audit(&root).contains(name), "the package is half configured");
        }
        fs::remove_file(root.join("hold")).unwrap();
        fs::remove_file(root.join("reached")).unwrap();
        nodes[0].start();
        wait::until("the script to be run again", WITHIN, || match root.join("reached").exists() {
            true => Ok(()),
            false => Err(nodes[0].log()),
        });
        wait_for(&coordinator, &nodes, &two, "Installed");
        assert_eq!(audit(&root), "");
        let found = scanned(&nodes[0], name);
        assert!(matches!(&*found, [(version, _)] if version == "2.0-1"), "{found:?}");
        fs::remove_file(root.join("reached")).unwrap();
    }
}

/// The package manager that a process has started: it leads a process group of its own.
fn child(parent: u32) -> Pid {
    // proc(5), `stat`: id, name in brackets, state, parent.
    let is_ours = |stat: &str| {
        let (name, rest) = stat.rsplit_once(") ").unwrap_or_default();
        let name = name.split_once('(').map_or("", |(_, name)| name);
        let of = rest.split_whitespace().nth(1).and_then(|field| field.parse().ok());
        ["dpkg", "rpm"].contains(&name) && of == Some(parent)
    };
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
    let stat = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let found: Vec<i32> = pids.filter(|pid| is_ours(&stat(pid))).collect();
    assert_eq!(found.len(), 1, "one package manager runs: {found:?}");
    Pid::from_raw(found[0]).unwrap()
}
