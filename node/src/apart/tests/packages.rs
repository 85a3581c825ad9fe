//! Real packages, built here, installed by the real tools into a root of their own, found by a scan, and taken away again.

use std::fs;
use std::path::Path;
use std::process::Command;

use upswarm_protocol::catalog::*;
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::ids::PayloadId;

use super::world::{Bench, list, text};
use crate::apart::wire::{Answer, Found, Outcome, Task};
use crate::installer::program::find;
use crate::inventory;

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
