//! What stands in the way of packages on real machines, with a real dpkg: each obstacle has a state of its own, and what is in order
//! again goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use upswarm_tests::fleet::{Coordinator, Deployment, GROUP, Joining, Node, join_all, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::packages::{Kind, Package, audit, make_debian_root, missing_debian_tools};
use upswarm_tests::{program, wait};

const WITHIN: Duration = Duration::from_secs(60);
/// Sooner than what stands in the way is tried again by the clock.
const AT_ONCE: Duration = Duration::from_secs(25);
const DEMO: Package<'static> =
    Package { kind: Kind::Deb, name: "demo", version: 1, len: 1 << 18, after: "", before: "", depends: "" };

struct World<'lab> {
    lab: &'lab Lab,
    coordinator: Coordinator<'lab>,
    nodes: Vec<Node<'lab>>,
}

fn lab(hosts: u8) -> Option<Lab> {
    if let Some(missing) = missing_debian_tools() {
        assert!(std::env::var_os("CI").is_none(), "packages cannot be tested here: {missing}");
        eprintln!("SKIPPED: packages cannot be tested here: {missing}");
        return None;
    }
    Lab::new(&[hosts], Rates::default())
}

impl<'lab> World<'lab> {
    /// Machines that have joined; the first runs.
    fn new(lab: &'lab Lab) -> Self {
        let coordinator = Coordinator::new(lab);
        let mut nodes = join_all(&coordinator, lab, 0, Joining::default());
        nodes.iter().for_each(|node| make_debian_root(&node.dir.join("root")));
        nodes[0].start();
        coordinator.wait_for_reports(&nodes[..1]);
        Self { lab, coordinator, nodes }
    }

    fn root(&self, machine: usize) -> PathBuf {
        self.nodes[machine].dir.join("root")
    }

    fn build(&self, package: &Package<'_>) -> PathBuf {
        package.build(&self.lab.dir().join("packages"))
    }

    fn publish(&self, package: &Package<'_>) -> String {
        package.publish(&self.coordinator, &self.build(package)).release
    }

    fn deploy(&self, package: &Package<'_>) -> String {
        let release = self.publish(package);
        self.coordinator.approve(&release);
        release
    }

    fn wait_for(&self, machine: usize, release: &str, within: Duration, states: &[&str]) -> Deployment {
        let what = states.join(" or ");
        wait::until(&what, within, || {
            let status = self.coordinator.status();
            match status.deployment(&self.nodes[machine].label, release) {
                Some(found) if states.contains(&&*found.state) || states.contains(&&*found.sub_state) => {
                    Ok(found.clone())
                }
                other => Err(format!("{other:?}")),
            }
        })
    }

    fn is_installed(&self, release: &str) {
        self.wait_for(0, release, WITHIN, &["Installed"]);
    }

    fn dpkg(&self, machine: usize, args: &[&str]) -> Command {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", self.root(machine).display())).args(args);
        command
    }

    /// What failed on a machine, by its own word.
    fn attempts(&self, machine: usize) -> Vec<serde_json::Value> {
        let node = &self.nodes[machine];
        let status = program::verb(&node.host.namespace, &["node", "status", "--data-dir", text(&node.dir)]).done();
        status["attempts"].as_array().cloned().unwrap_or_default()
    }

    fn retry(&self, release: &str, flags: &[&str]) -> serde_json::Value {
        self.coordinator.verb(&[&["retry", release], flags].concat()).done()
    }
}

fn set_selection(command: &mut Command, dir: &Path, line: &str) {
    let list = dir.join("selections");
    fs::write(&list, format!("{line}\n")).unwrap();
    assert!(command.arg("--set-selections").stdin(fs::File::open(&list).unwrap()).status().unwrap().success());
}

/// Cases 4 and 24.
#[test]
fn packages_that_need_each_other_come_in_any_order() {
    let Some(lab) = lab(2) else { return };
    let mut world = World::new(&lab);
    let app = world.deploy(&Package { name: "demo-app", depends: "demo-lib (>= 1)", ..DEMO });
    let waits = world.wait_for(0, &app, WITHIN, &["MissingDependency"]);
    assert_eq!(waits.state, "Pending");
    assert!(
        waits.reason.starts_with("demo-app depends on demo-lib (>= 1); however: Package demo-lib is not installed."),
        "{waits:?}"
    );
    let lib = world.deploy(&Package { name: "demo-lib", ..DEMO });
    world.is_installed(&lib);
    world.wait_for(0, &app, AT_ONCE, &["Installed"]);
    // A machine that joins later finds both.
    world.nodes[1].start();
    world.wait_for(1, &lib, WITHIN, &["Installed"]);
    world.wait_for(1, &app, AT_ONCE, &["Installed"]);
    for machine in [0, 1] {
        assert_eq!(world.attempts(machine), Vec::<serde_json::Value>::new(), "nothing has failed");
        assert_eq!(audit(&world.root(machine)), "");
    }
}

/// Cases 3, 5 and 11.
#[test]
fn a_hold_a_lock_and_the_machine_s_own_trouble_are_no_failures() {
    let Some(lab) = lab(1) else { return };
    let world = World::new(&lab);

    // Held at 1.0 by the machine's package manager.
    let conf = Package { name: "demo-conf", ..DEMO };
    world.is_installed(&world.deploy(&conf));
    set_selection(&mut world.dpkg(0, &[]), lab.dir(), "demo-conf hold");
    let second = world.deploy(&Package { version: 2, ..conf });
    let held = world.wait_for(0, &second, WITHIN, &["HeldByMachine"]);
    assert_eq!(
        (&*held.state, &*held.reason),
        ("OnHold", "demo-conf is held on this machine by its package manager (apt-mark hold)")
    );
    set_selection(&mut world.dpkg(0, &[]), lab.dir(), "demo-conf install");
    let asked = world.retry(&second, &["--device", &world.nodes[0].label]);
    assert_eq!(asked["asked"][0]["name"], *world.nodes[0].label, "{asked}");
    world.wait_for(0, &second, AT_ONCE, &["Installed"]);

    // Another program works with dpkg.
    let root = world.root(0);
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
    let slow = world.build(&Package { name: "demo-slow", after: ": > /started; read word < /pipe", ..DEMO });
    let mut holder = world.dpkg(0, &["--install", text(&slow)]).spawn().unwrap();
    wait::until("dpkg to be at work", WITHIN, || match root.join("started").exists() {
        true => Ok(()),
        false => Err(String::new()),
    });
    let fine = world.deploy(&Package { name: "demo-fine", ..DEMO });
    let locked = world.wait_for(0, &fine, WITHIN, &["Locked"]);
    assert_eq!(locked.reason, format!("the package manager is locked by dpkg (pid {})", holder.id()));
    fs::write(root.join("pipe"), b"go on\n").unwrap();
    assert!(holder.wait().unwrap().success());
    world.wait_for(0, &fine, WITHIN, &["Installed"]);

    // A package of the machine is half configured; this one does not need it.
    let half = world.build(&Package { name: "demo-half", after: "exit 1", ..DEMO });
    assert!(!world.dpkg(0, &["--install", text(&half)]).status().unwrap().success());
    let after = world.deploy(&Package { name: "demo-after", ..DEMO });
    world.is_installed(&after);
    assert_eq!(world.attempts(0), Vec::<serde_json::Value>::new(), "nothing has failed");
}

#[test]
fn a_failure_says_why_first_and_is_tried_again_when_asked() {
    let Some(lab) = lab(1) else { return };
    let world = World::new(&lab);
    let script = "test -e /repaired && exit 0; echo 'demo-bad: cannot reach the licence server' >&2; exit 1";
    let bad = world.deploy(&Package { name: "demo-bad", after: script, ..DEMO });
    let failed = world.wait_for(0, &bad, WITHIN, &["Failed"]);
    assert!(failed.reason.starts_with("demo-bad: cannot reach the licence server; "), "{failed:?}");
    // Case 10: what was printed, whole, for whoever may read it.
    let node = &world.nodes[0];
    let explain = |subject: &str| {
        let args = ["explain", subject, "--log", "--data-dir", text(&node.dir)];
        program::verb(&node.host.namespace, &args)
    };
    let log = explain(&bad).done();
    let printed = log["logs"][0]["text"].as_str().unwrap();
    assert!(printed.contains("demo-bad: cannot reach the licence server\n") && printed.lines().count() > 3, "{log}");
    assert_eq!(log["logs"].as_array().map(Vec::len), Some(2), "it was taken away again: {log}");
    // The same from the admin's side: asked of the machine, and there with one of its next messages.
    let label = world.nodes[0].label.clone();
    let afar = |more: &[&str]| world.coordinator.verb(&[&["explain", &bad, "--device", &label], more].concat()).done();
    let asked = afar(&["--log"]);
    assert_eq!((&asked["reach"], &asked["device"]["name"]), (&"connected".into(), &(*label).into()), "{asked}");
    let told = wait::until("the log at the coordinator", WITHIN, || {
        let log = afar(&["--log"]);
        if log["awaited"] == false { Ok(log) } else { Err(log.to_string()) }
    });
    let text = told["text"].as_str().unwrap();
    assert!(text.contains("demo-bad: cannot reach the licence server\n") && told["found"] == true, "{told}");
    let explained = afar(&[]);
    assert_eq!(explained["explanations"][0]["state"], "Failed", "{explained}");
    assert_eq!(afar(&["--log", "--again"])["reach"], "connected");
    let good = world.publish(&Package { name: "demo-untouched", ..DEMO });
    wait::until("the machine to know another release", WITHIN, || {
        let verb = explain(&good);
        if verb.said.contains("nothing of it was begun here") { Ok(()) } else { Err(verb.said) }
    });
    fs::write(world.root(0).join("repaired"), b"").unwrap();
    let asked = world.retry(&bad, &["--group", GROUP]);
    assert_eq!(
        (asked["asked"].as_array().unwrap().len(), &asked["not_connected"]),
        (1, &serde_json::json!([])),
        "{asked}"
    );
    world.wait_for(0, &bad, AT_ONCE, &["Installed"]);
}

/// Case 40.
#[test]
fn a_package_is_removed_by_its_own_name_where_nobody_says_how() {
    let Some(lab) = lab(1) else { return };
    let world = World::new(&lab);
    let plain = |name: &str| {
        let file = world.build(&Package { name, ..DEMO });
        let description = format!(
            "product = \"org.example.{name}\"\nversion = \"1\"\ntitle = \"{name}\"\nclassification = \"update\"\n\
             [[payload]]\npath = {file:?}\n[[detect]]\npackage = {{ kind = \"deb\", name = \"{name}\", version = \"1.0-1\" }}\n\
             [install]\ndeb = true\n"
        );
        let path = file.with_extension("toml");
        fs::write(&path, description).unwrap();
        let published = world.coordinator.verb(&["publish", text(&path)]).done();
        published["release"].as_str().unwrap().to_owned()
    };
    let (release, root) = (plain("demo-plain"), world.root(0));
    world.coordinator.approve(&release);
    world.is_installed(&release);
    assert!(root.join("opt/demo-plain/program").exists());
    world.coordinator.verb(&["group", "sign", GROUP, "--list", "--yes"]).done();
    world.coordinator.verb(&["approve", &release, "--group", GROUP, "--action", "uninstall"]).done();
    world.wait_for(0, &release, WITHIN, &["Uninstalled"]);
    assert!(!root.join("opt/demo-plain/program").exists());
    assert_eq!(audit(&root), "");
}
