//! What an install comes to when a machine is not as it should be: real packages, a real rpm, a root of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use upswarm_protocol::catalog::{Action, Recipe};
use upswarm_protocol::node::{InstallOutcome, Obstacle};

use super::fixture::{Fixture, list, reason, text};
use super::outcomes::{DONE, hindered, put_shell_into};
use crate::sys;

/// A root with a shell for the packages' scripts, and a database of rpm that knows it.
struct Machine {
    dir: tempfile::TempDir,
}

/// What a package consists of beside its name and version.
#[derive(Clone, Copy, Default)]
struct Parts<'a> {
    /// `Requires: ...` and the like.
    fields: &'a str,
    /// What %pre does.
    before: &'a str,
    /// What %post does.
    after: &'a str,
    /// One file, with this many bytes.
    file: Option<(&'a str, u64)>,
}

impl Machine {
    /// `None` where packages cannot be tried.
    fn new() -> Option<Self> {
        if sys::find("rpm").is_none() || sys::find("rpmbuild").is_none() || !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: this needs root, rpm and rpmbuild");
            return None;
        }
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(machine.root().join("var/lib/rpm")).unwrap();
        put_shell_into(&machine.root());
        let base = machine.build("lab-base", "1", Parts { fields: "Provides: /bin/sh", ..Parts::default() });
        assert!(machine.rpm(&["--install"], Some(&base)).status().unwrap().success());
        Some(machine)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn build(&self, name: &str, version: &str, parts: Parts<'_>) -> PathBuf {
        let dir = self.dir.path().join("build");
        fs::create_dir_all(&dir).unwrap();
        let Parts { fields, before, after, file } = parts;
        let script = |section: &str, script: &str| match script {
            "" => String::new(),
            script => format!("%{section}\n{script}\n"),
        };
        let (make, path) = match file {
            Some((path, len)) => {
                let place = format!("%{{buildroot}}{path}");
                (
                    format!("mkdir -p $(dirname {place})\nhead -c {len} /dev/zero > {place}\necho {name} >> {place}\n"),
                    path,
                )
            }
            None => (String::new(), ""),
        };
        let spec = format!(
            "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: t\nLicense: none\nBuildArch: noarch\n{fields}\n\
             %description\nt\n%install\n{make}{}{}%files\n{path}\n",
            script("pre", before),
            script("post", after)
        );
        let spec_file = dir.join(format!("{name}-{version}.spec"));
        fs::write(&spec_file, spec).unwrap();
        let top = format!("_topdir {}", dir.display());
        let mut build = Command::new("rpmbuild");
        build.args([
            "-bb",
            "--define",
            &top,
            "--define",
            "_binary_payload w0.ufdio",
            "--define",
            "debug_package %{nil}",
        ]);
        let built = build.arg(&spec_file).output().unwrap();
        assert!(built.status.success(), "{built:?}");
        dir.join(format!("RPMS/noarch/{name}-{version}-1.noarch.rpm"))
    }

    /// As an admin of the machine would, without this program.
    fn rpm(&self, args: &[&str], package: Option<&Path>) -> Command {
        let mut command = Command::new("rpm");
        command.args([&format!("--root={}", self.root().display()), "--dbpath=/var/lib/rpm"]).args(args).args(package);
        command
    }

    fn install(&self, package: &Path) -> (InstallOutcome, Fixture) {
        let name = package.file_name().unwrap().to_str().unwrap();
        let mut fixture = Fixture::new(&[(name, &fs::read(package).unwrap())]).install(Recipe::Rpm { timeout_s: 60 });
        fixture.root = Some(self.root());
        (fixture.run(Action::Install), fixture)
    }

    fn says(&self, name: &str) -> String {
        let asked = self.rpm(&["-q", "--qf", "installed %{VERSION}", name], None).output().unwrap();
        let said = String::from_utf8(asked.stdout).unwrap();
        if asked.status.success() { said } else { String::new() }
    }
}

#[test]
fn a_lock_that_another_program_holds_is_told_at_once_with_its_holder() {
    let Some(machine) = Machine::new() else { return };
    let pipe = machine.root().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let slow = Parts { before: ": > /started; read word < /pipe", ..Parts::default() };
    let slow = machine.build("demo-slow", "1", slow);
    let mut holder = machine.rpm(&["--install"], Some(&slow)).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !machine.root().join("started").exists() {
        assert!(Instant::now() < deadline, "the other rpm never came to its script");
        std::thread::sleep(Duration::from_millis(10));
    }
    let package = machine.build("demo-app", "1", Parts::default());
    let (outcome, fixture) = machine.install(&package);
    fs::write(&pipe, b"go on\n").unwrap();
    assert!(holder.wait().unwrap().success());
    assert_eq!(hindered(&outcome), Obstacle::Locked);
    assert_eq!(reason(&outcome), format!("the package manager is locked by rpm (pid {})", holder.id()));
    assert!(!fixture.state().join("logs").exists(), "nothing was begun");
    assert_eq!(machine.install(&package).0, DONE);
}

#[test]
fn a_package_waits_for_what_it_depends_on() {
    let Some(machine) = Machine::new() else { return };
    let needs = machine.build("demo-needs", "1", Parts { fields: "Requires: demo-base >= 2", ..Parts::default() });
    let (outcome, _) = machine.install(&needs);
    assert_eq!(hindered(&outcome), Obstacle::Dependency, "{outcome:?}");
    let told = "demo-base >= 2 is needed by demo-needs-1-1.noarch (exit code 1) [";
    assert!(reason(&outcome).starts_with(told), "{outcome:?}");
    assert_eq!(machine.says("demo-needs"), "");
    assert_eq!(machine.install(&machine.build("demo-base", "2", Parts::default())).0, DONE);
    assert_eq!(machine.install(&needs).0, DONE);
    // What others need is not taken away.
    let packages = list([text("demo-base")]);
    let mut fixture = Fixture::new(&[]).install(Recipe::Rpm { timeout_s: 60 });
    (fixture.release.uninstall, fixture.root) =
        (Some(Recipe::RemoveRpm { packages, timeout_s: 60 }), Some(machine.root()));
    let outcome = fixture.run(Action::Uninstall);
    assert!(matches!(outcome, InstallOutcome::Failed { .. }), "{outcome:?}");
    assert!(
        reason(&outcome).starts_with("demo-base >= 2 is needed by (installed) demo-needs-1-1.noarch"),
        "{outcome:?}"
    );
    assert_eq!(machine.says("demo-base"), "installed 2");
}

#[test]
fn a_package_whose_own_script_fails_has_failed_with_the_script_s_words() {
    let Some(machine) = Machine::new() else { return };
    let before = "echo 'demo-bad: cannot reach the licence server' >&2; exit 1";
    let (outcome, _) = machine.install(&machine.build("demo-bad", "1", Parts { before, ..Parts::default() }));
    assert!(matches!(outcome, InstallOutcome::Failed { code: Some(1), .. }), "{outcome:?}");
    let told = "demo-bad: cannot reach the licence server; error: %pre";
    assert!(reason(&outcome).starts_with(told) && reason(&outcome).contains("scriptlet failed"), "{outcome:?}");
    assert_eq!(machine.says("demo-bad"), "");
    // A script after the install is a warning to rpm: the package is there.
    let (outcome, _) = machine.install(&machine.build("demo-late", "1", Parts { after: before, ..Parts::default() }));
    assert_eq!((outcome, machine.says("demo-late")), (DONE, "installed 1".to_owned()));
}

#[test]
fn what_conflicts_with_another_package_has_failed_and_both_are_named() {
    let Some(machine) = Machine::new() else { return };
    let one = machine.build("demo-one", "1", Parts { file: Some(("/opt/f", 10)), ..Parts::default() });
    assert_eq!(machine.install(&one).0, DONE);
    let two = machine.build("demo-two", "1", Parts { file: Some(("/opt/f", 20)), ..Parts::default() });
    let against = machine.build("demo-against", "1", Parts { fields: "Conflicts: demo-one", ..Parts::default() });
    for (package, told) in [
        (
            two,
            "file /opt/f from install of demo-two-1-1.noarch conflicts with file from package demo-one-1-1.noarch (exit",
        ),
        (against, "demo-one conflicts with demo-against-1-1.noarch (exit code 1)"),
    ] {
        let (outcome, _) = machine.install(&package);
        assert!(matches!(outcome, InstallOutcome::Failed { .. }), "{outcome:?}");
        assert!(reason(&outcome).starts_with(told), "{outcome:?}");
    }
    assert_eq!(machine.says("demo-one"), "installed 1");
}

/// A small file system at a place, until it is dropped.
struct Small(PathBuf);

impl Small {
    fn at(place: PathBuf) -> Option<Self> {
        fs::create_dir_all(&place).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&place).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(place))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_obstacle_until_there_is_room() {
    let Some(machine) = Machine::new() else { return };
    let big = machine.build("demo-big", "1", Parts { file: Some(("/opt/big", 3 << 20)), ..Parts::default() });
    let Some(small) = Small::at(machine.root().join("opt")) else {
        return eprintln!("SKIPPED: this needs the right to mount");
    };
    let (outcome, _) = machine.install(&big);
    assert_eq!(hindered(&outcome), Obstacle::NoSpace, "{outcome:?}");
    let told = "installing package demo-big-1-1.noarch needs 3MB more space on the /opt filesystem (exit code 1) [";
    assert!(reason(&outcome).starts_with(told), "{outcome:?}");
    drop(small);
    assert_eq!(machine.install(&big).0, DONE);
    assert_eq!(machine.says("demo-big"), "installed 1");
}
