//! Real packages, built here, installed by the real tools into a root of their own, found by a scan, and taken away again.

use std::fs;
use std::path::Path;
use std::process::Command;

use upswarm_protocol::catalog::*;
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::ids::PayloadId;

use super::world::{Bench, HOUR, OTHERS, list, text};
use crate::inventory;
use crate::privileged::wire::{Answer, Back, Found, Job, Outcome, Task};
use crate::sys::find;

const NAME: &str = "upswarm-test-app";

#[test]
fn a_debian_package_comes_and_goes() {
    if !can("dpkg-deb") {
        return;
    }
    let build = tempfile::tempdir().unwrap();
    let tree = build.path().join("tree");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("opt/upswarm-test")).unwrap();
    fs::write(tree.join("opt/upswarm-test/file"), b"from the package").unwrap();
    let control = format!(
        "Package: {NAME}\nVersion: 1.2-3\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: a test\n"
    );
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let package = build.path().join("app.deb");
    run(Command::new("dpkg-deb").arg("--build").args([&tree, &package]));
    let uninstall = Recipe::RemoveDeb { packages: list([text(NAME)]), timeout_s: 60 };
    journey(PackageKind::Deb, &package, Recipe::Deb { timeout_s: 60 }, uninstall);
}

#[test]
fn an_rpm_package_comes_and_goes() {
    if !can("rpmbuild") {
        return;
    }
    let build = tempfile::tempdir().unwrap();
    let spec = format!(
        "Name: {NAME}\nVersion: 1.2\nRelease: 3\nSummary: a test\nLicense: none\nBuildArch: noarch\n%description\nA test.\n\
         %install\nmkdir -p %{{buildroot}}/opt/upswarm-test\nprintf 'from the package' > %{{buildroot}}/opt/upswarm-test/file\n\
         %files\n/opt/upswarm-test/file\n"
    );
    let path = build.path().join("app.spec");
    fs::write(&path, spec).unwrap();
    let top = format!("_topdir {}", build.path().join("build").display());
    run(Command::new("rpmbuild").args(["-bb", "--define", &top]).arg(&path));
    let package = build.path().join(format!("build/RPMS/noarch/{NAME}-1.2-3.noarch.rpm"));
    let uninstall = Recipe::RemoveRpm { packages: list([text(NAME)]), timeout_s: 60 };
    journey(PackageKind::Rpm, &package, Recipe::Rpm { timeout_s: 60 }, uninstall);
}

fn journey(kind: PackageKind, package: &Path, install: Recipe, uninstall: Recipe) {
    let bench = Bench::in_a_root();
    let bytes = fs::read(package).unwrap();
    let plain = bench.world.release("org.example.app", "app");
    let mut payload = plain.payloads[0].clone();
    payload.name = text(&package.file_name().unwrap().to_string_lossy());
    (payload.id, payload.len) = (PayloadId::of(&bytes), bytes.len() as u64);
    let release = Release {
        payloads: list([payload]),
        detect: list([Detect::Package { kind, name: text(NAME), version: text("1.2-3") }]),
        install,
        uninstall: Some(uninstall),
        ..plain
    };
    let root = bench.dir.path().join("root");
    let file = root.join("opt/upswarm-test/file");
    let edition = bench.world.of(1, &release, Action::Install);
    let done = Answer::Ended(Outcome::Done { restart: false, code: Some(0) });
    assert_eq!(bench.detect(&edition), Answer::Detected(Found::Absent));
    // Other bytes than the released ones do not come near the package manager.
    let mut twisted = bytes.clone();
    let last = twisted.len() - 1;
    twisted[last] ^= 1;
    let answer = bench.ask(&edition.install(), &bench.files(&[&twisted]));
    assert!(
        matches!(&answer, Answer::Ended(Outcome::Retry { reason, .. }) if reason.contains("hashes to")),
        "{answer:?}"
    );
    assert_eq!(bench.ask(&edition.install(), &bench.files(&[&bytes])), done);
    assert_eq!(fs::read(&file).unwrap(), b"from the package");
    assert_eq!(bench.detect(&edition), Answer::Detected(Found::Present));
    assert_eq!(scan(kind, &root), ["1.2-3"]);

    let removal = bench.world.of(2, &release, Action::Uninstall);
    let task = Task::Install { action: Action::Uninstall, payloads: Bounded::default() };
    assert_eq!(bench.ask(&removal.job(task), &[]), done);
    assert!(!file.exists());
    assert_eq!(bench.detect(&removal), Answer::Detected(Found::Absent));
    assert_eq!(scan(kind, &root), Vec::<String>::new());
}

/// A release of the Debian package at a version, and the package.
fn tool(bench: &Bench, version: u64) -> (Release, Vec<u8>) {
    let build = tempfile::tempdir().unwrap();
    let tree = build.path().join("tree");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let control = format!(
        "Package: {NAME}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: a test\n"
    );
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let package = build.path().join("app.deb");
    run(Command::new("dpkg-deb").arg("--build").args([&tree, &package]));
    let bytes = fs::read(&package).unwrap();
    let plain = bench.world.release("org.example.app", "app");
    let payload = Payload {
        name: text("app.deb"),
        id: PayloadId::of(&bytes),
        len: bytes.len() as u64,
        ..plain.payloads[0].clone()
    };
    let rule = Detect::Package { kind: PackageKind::Deb, name: text(NAME), version: text(&version.to_string()) };
    let release = Release {
        payloads: list([payload]),
        detect: list([rule]),
        install: Recipe::Deb { timeout_s: 60 },
        uninstall: Some(Recipe::RemoveDeb { packages: list([text(NAME)]), timeout_s: 60 }),
        ..plain
    };
    (release, bytes)
}

/// A taken-over node cannot bring an old version back that is approved still: a downgrade needs the newer one's own removal.
#[test]
fn an_earlier_version_comes_back_only_when_the_later_is_to_go() {
    if !can("dpkg-deb") {
        return;
    }
    let bench = Bench::in_a_root();
    let world = &bench.world;
    let root = bench.dir.path().join("root");
    let [(one, one_bytes), (two, two_bytes)] = [1, 2].map(|version| tool(&bench, version));
    let done = Answer::Ended(Outcome::Done { restart: false, code: Some(0) });
    // Version 2 is there, and version 1 is approved still: asking for it changes nothing.
    assert_eq!(bench.ask(&world.of(1, &two, Action::Install).install(), &bench.files(&[&two_bytes])), done);
    assert_eq!(bench.ask(&world.of(2, &one, Action::Install).install(), &bench.files(&[&one_bytes])), done);
    assert_eq!(scan(PackageKind::Deb, &root), ["2"]);

    type Change = fn(&Bench, &mut Approval);
    let as_it_is: Change = |_, _| ();
    let other = Release { product: text("org.example.other"), ..one.clone() };
    let same = Release { title: text("Another"), ..two.clone() };
    // What is refused, the later release and what is to be done with it, the earlier one and its approval.
    let cases: [(&str, &Release, Action, &Release, Action, Change); 9] = [
        ("only of one that is to be uninstalled", &two, Action::Install, &one, Action::Install, as_it_is),
        ("only of one that is to be uninstalled", &two, Action::Uninstall, &one, Action::Uninstall, as_it_is),
        ("declined", &two, Action::Uninstall, &one, Action::None, as_it_is),
        ("not an earlier version", &one, Action::Uninstall, &two, Action::Install, as_it_is),
        ("not an earlier version", &two, Action::Uninstall, &same, Action::Install, as_it_is),
        ("not an earlier version", &two, Action::Uninstall, &other, Action::Install, as_it_is),
        ("a group that this device is not in", &two, Action::Uninstall, &one, Action::Install, |_, approval| {
            approval.group = OTHERS;
        }),
        ("counts from", &two, Action::Uninstall, &one, Action::Install, |bench, approval| {
            approval.schedule.available_from = Some(bench.world.now + HOUR);
        }),
        ("expired", &two, Action::Uninstall, &one, Action::Install, |bench, approval| {
            approval.expires = bench.world.now;
        }),
    ];
    let job =
        |version: u64, later: &Release, action, earlier: &Release, earlier_action, change: Change, named: bool| {
            let mut edition = world.of(version, later, action);
            let release = world.publish(earlier);
            let mut approval = Approval { action: earlier_action, ..world.approval(&release, version) };
            change(&bench, &mut approval);
            let approval = world.approve(&approval);
            let mut documents: Vec<(Kind, u64, &[u8])> =
                vec![(Kind::Release, 1, &edition.release), (Kind::Approval, version, &edition.approval)];
            if named {
                documents.extend([(Kind::Release, 1, &*release), (Kind::Approval, version, &*approval)]);
            }
            (edition.head, edition.index, edition.pages) = world.catalog(version, &documents, |_, _| ());
            let removal = Task::Install { action: Action::Uninstall, payloads: list([0]) };
            Job { back: Some(Back { release: list(release), approval: list(approval) }), ..edition.job(removal) }
        };
    for (at, (expected, later, action, earlier, earlier_action, change)) in cases.into_iter().enumerate() {
        let job = job(3 + at as u64, later, action, earlier, earlier_action, change, true);
        let answer = bench.ask(&job, &bench.files(&[&one_bytes]));
        assert!(matches!(&answer, Answer::Refused(why) if why.contains(expected)), "{expected}: {answer:?}");
        assert_eq!(scan(PackageKind::Deb, &root), ["2"], "{expected}");
    }
    let unnamed = job(20, &two, Action::Uninstall, &one, Action::Install, as_it_is, false);
    assert!(matches!(bench.ask(&unnamed, &bench.files(&[&one_bytes])), Answer::Refused(_)));
    // With both approvals it comes back; its bytes are checked like any others.
    let job = job(21, &two, Action::Uninstall, &one, Action::Install, as_it_is, true);
    let answer = bench.ask(&job, &bench.files(&[&two_bytes]));
    assert!(matches!(answer, Answer::Ended(Outcome::Retry { .. })), "{answer:?}");
    assert_eq!(bench.ask(&job, &bench.files(&[&one_bytes])), done);
    assert_eq!(scan(PackageKind::Deb, &root), ["1"]);
}

/// The versions that a scan of this root finds.
fn scan(kind: PackageKind, root: &Path) -> Vec<String> {
    let scan = inventory::scan(Some(root), &[kind]);
    scan.inventory.versions(kind, &text(NAME)).map(ToString::to_string).collect()
}

fn can(tool: &str) -> bool {
    let can = find(tool).is_some() && rustix::process::geteuid().is_root();
    if !can {
        eprintln!("SKIPPED: this needs root and {tool}");
    }
    can
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
