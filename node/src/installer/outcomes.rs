//! What an install comes to when a machine is not as it should be: real packages, a real dpkg, a root of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use upswarm_protocol::catalog::{Action, Recipe};
use upswarm_protocol::node::{InstallOutcome, Obstacle};

use super::fixture::{Fixture, reason};
use crate::sys;

/// A root with a shell for the packages' scripts, and an empty database of dpkg.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// `None` where packages cannot be tried.
    fn new() -> Option<Self> {
        if sys::find("dpkg-deb").is_none() || !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: this needs root and dpkg");
            return None;
        }
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        for dir in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "bin"] {
            fs::create_dir_all(machine.root().join(dir)).unwrap();
        }
        fs::write(machine.database().join("status"), b"").unwrap();
        put_shell_into(&machine.root());
        Some(machine)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn database(&self) -> PathBuf {
        self.root().join("var/lib/dpkg")
    }

    fn build(&self, name: &str, version: &str, depends: &str, after: &str) -> PathBuf {
        let tree = tempfile::tempdir().unwrap();
        let control = tree.path().join("DEBIAN");
        fs::create_dir_all(&control).unwrap();
        fs::set_permissions(tree.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
        let text = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: n <n@example.org>\n{depends}\
             Description: t\n"
        );
        fs::write(control.join("control"), text).unwrap();
        if !after.is_empty() {
            fs::write(control.join("postinst"), format!("#!/bin/sh\n{after}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(control.join("postinst"), mode).unwrap();
        }
        let package = self.dir.path().join(format!("{name}_{version}_all.deb"));
        let built = Command::new("dpkg-deb").arg("--build").args([tree.path(), &package]).output().unwrap();
        assert!(built.status.success(), "{built:?}");
        package
    }

    /// As an admin of the machine would, without this program.
    fn dpkg(&self, args: &[&str], package: Option<&Path>) -> Command {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", self.root().display())).args(args).args(package);
        command
    }

    fn install(&self, package: &Path) -> (InstallOutcome, Fixture) {
        let name = package.file_name().unwrap().to_str().unwrap();
        let mut fixture = Fixture::new(&[(name, &fs::read(package).unwrap())]).install(Recipe::Deb { timeout_s: 60 });
        fixture.root = Some(self.root());
        (fixture.run(Action::Install), fixture)
    }

    fn says(&self, name: &str) -> String {
        let database = format!("--admindir={}", self.database().display());
        let mut asked = Command::new("dpkg-query");
        asked.args([&database, "-W", "-f", "${db:Status-Status} ${Version}", name]);
        String::from_utf8(asked.output().unwrap().stdout).unwrap()
    }
}

/// Copies the shell and what it needs below a root.
pub(super) fn put_shell_into(root: &Path) {
    let libraries = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    for file in libraries.split_whitespace().filter(|word| word.starts_with('/')).chain(["/bin/sh"]) {
        let copy = root.join(&file[1..]);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
}

pub(super) fn hindered(outcome: &InstallOutcome) -> Obstacle {
    match outcome {
        InstallOutcome::Hindered { by, .. } => *by,
        other => panic!("{other:?}"),
    }
}

pub(super) const DONE: InstallOutcome = InstallOutcome::Done { restart: false, code: Some(0) };

#[test]
fn a_package_that_is_held_waits_until_the_hold_goes() {
    let Some(machine) = Machine::new() else { return };
    let (old, new) = (machine.build("demo-conf", "1.0", "", ""), machine.build("demo-conf", "2.0", "", ""));
    assert_eq!(machine.install(&old).0, DONE);
    let select = |what: &str| {
        let list = machine.dir.path().join("selections");
        fs::write(&list, format!("demo-conf {what}\n")).unwrap();
        let set = machine.dpkg(&["--set-selections"], None).stdin(fs::File::open(&list).unwrap()).status().unwrap();
        assert!(set.success());
    };
    select("hold");
    let (outcome, _) = machine.install(&new);
    assert_eq!(hindered(&outcome), Obstacle::Held);
    assert_eq!(reason(&outcome), "demo-conf is held on this machine by its package manager (apt-mark hold)");
    assert_eq!(machine.says("demo-conf"), "installed 1.0");
    select("install");
    assert_eq!(machine.install(&new).0, DONE);
    assert_eq!(machine.says("demo-conf"), "installed 2.0");
}

#[test]
fn a_lock_that_another_program_holds_is_told_at_once_with_its_holder() {
    let Some(machine) = Machine::new() else { return };
    let pipe = machine.root().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let slow = machine.build("demo-slow", "1", "", ": > /started; read word < /pipe");
    let mut holder = machine.dpkg(&["--install"], Some(&slow)).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !machine.root().join("started").exists() {
        assert!(Instant::now() < deadline, "the other dpkg never came to its script");
        std::thread::sleep(Duration::from_millis(10));
    }
    let package = machine.build("demo-app", "1", "", "");
    let (outcome, fixture) = machine.install(&package);
    fs::write(&pipe, b"go on\n").unwrap();
    assert!(holder.wait().unwrap().success());
    assert_eq!(hindered(&outcome), Obstacle::Locked);
    assert_eq!(reason(&outcome), format!("the package manager is locked by dpkg (pid {})", holder.id()));
    assert!(!fixture.state().join("logs").exists(), "nothing was begun");
    assert_eq!(machine.install(&package).0, DONE);
}

#[test]
fn a_broken_package_of_the_machine_stands_in_the_way_of_those_that_need_it_only() {
    let Some(machine) = Machine::new() else { return };
    let half = machine.build("demo-half", "1", "", "[ -e /repaired ]");
    assert!(!machine.dpkg(&["--install"], Some(&half)).status().unwrap().success());
    assert_eq!(machine.says("demo-half"), "half-configured 1");
    assert_eq!(machine.install(&machine.build("demo-after", "1", "", "")).0, DONE);
    assert_eq!(machine.says("demo-after"), "installed 1");

    let needs = machine.build("demo-needs", "1", "demo-half", "");
    let (outcome, _) = machine.install(&needs);
    assert_eq!(hindered(&outcome), Obstacle::Broken, "{outcome:?}");
    let told = "demo-half is broken on this machine, repair it with: dpkg --configure -a; ";
    assert!(reason(&outcome).starts_with(told), "{outcome:?}");
    fs::write(machine.root().join("repaired"), b"").unwrap();
    assert_eq!(machine.install(&needs).0, DONE);
    assert_eq!((machine.says("demo-half"), machine.says("demo-needs")), ("installed 1".into(), "installed 1".into()));
}

#[test]
fn a_package_waits_for_what_it_depends_on() {
    let Some(machine) = Machine::new() else { return };
    let needs = machine.build("demo-needs", "1", "demo-base (>= 2)", "");
    let (outcome, _) = machine.install(&needs);
    assert_eq!(hindered(&outcome), Obstacle::Dependency, "{outcome:?}");
    let told = "demo-needs depends on demo-base (>= 2); however: Package demo-base is not installed. (exit code 1)";
    assert!(reason(&outcome).starts_with(told), "{outcome:?}");
    assert!(reason(&outcome).contains("(exit code 1); demo-needs was taken away again ["), "{outcome:?}");
    assert_eq!(machine.says("demo-needs"), "", "nothing half installed is left");
    assert_eq!(machine.install(&machine.build("demo-base", "2", "", "")).0, DONE);
    assert_eq!(machine.install(&needs).0, DONE);
}

#[test]
fn a_package_whose_own_script_fails_has_failed_with_the_script_s_words() {
    let Some(machine) = Machine::new() else { return };
    let bad = machine.build("demo-bad", "1", "", "echo 'demo-bad: cannot reach the licence server' >&2; exit 1");
    let (outcome, _) = machine.install(&bad);
    assert!(matches!(outcome, InstallOutcome::Failed { code: Some(1), .. }), "{outcome:?}");
    assert!(reason(&outcome).starts_with("demo-bad: cannot reach the licence server; "), "{outcome:?}");
    assert!(reason(&outcome).contains("; demo-bad was taken away again ["), "{outcome:?}");
}
