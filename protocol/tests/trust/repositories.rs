//! Snapshots of repositories: whoever publishes them says which of upstream's files they are about, and nothing else.

use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::trust::*;

use crate::common::*;

/// What a machine says to a snapshot after `change`, published by the sync key and approved.
fn offered(change: impl FnOnce(&mut Release, &mut AptRecipe)) -> Result<(), String> {
    let world = World::new();
    let mut release = snapshot(1, &[("openssl", WhenAbsent::Never), ("libssl3", WhenAbsent::With(list(vec![0])))]);
    let Recipe::Apt(mut apt) = release.install.clone() else { panic!("{:?}", release.install) };
    change(&mut release, &mut apt);
    if matches!(release.install, Recipe::Apt(_)) {
        release.install = Recipe::Apt(apt);
    }
    let document = publish(&release, &[&world.sync]);
    let decision = world.approve(&approval(GROUP, document.release, 1));
    verify_pair(&world.root, &document.bytes, &decision.bytes, NOW).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn a_snapshot_of_a_repository_that_the_root_names_is_believed() {
    assert_eq!(offered(|_, _| ()), Ok(()));
}

#[test]
fn the_sync_key_installs_nothing_but_upstreams_packages() {
    let exec = Recipe::Exec { argv: list(vec![text("/bin/sh")]), exit_codes: list(vec![]), timeout_s: 60 };
    type Change<'a> = &'a dyn Fn(&mut Release, &mut AptRecipe);
    let cases: [(&str, Change<'_>); 9] = [
        ("other recipes need another product", &|release, _| release.install = exec.clone()),
        ("other recipes need another product", &|release, _| release.install = Recipe::Deb { timeout_s: 60 }),
        ("names no repository for apt.other", &|release, _| release.product = text("apt.other")),
        ("not the description", &|_, apt| (apt.upstream, apt.in_release) = (1, 0)),
        ("approve an earlier one", &|release, _| release.uninstall = Some(exec.clone())),
        ("by its packages alone", &|release, _| release.detect = list(vec![])),
        ("by its packages alone", &|release, _| {
            let argv = list(vec![text("/bin/sh")]);
            release.detect = list(vec![Detect::Selection, Detect::Command { argv, exit_code: 0, timeout_s: 1 }]);
        }),
        ("no other releases", &|release, _| release.depends = list(vec![ReleaseId([1; 32])])),
        ("no other releases", &|release, _| release.supersedes = list(vec![ReleaseId([1; 32])])),
    ];
    for (expected, change) in cases {
        let why = offered(change).expect_err(expected);
        assert!(why.contains(expected), "{why:?} and not {expected:?}");
    }
}

#[test]
fn a_publisher_of_software_cannot_publish_a_snapshot_nor_a_snapshot_under_its_own_name() {
    let world = World::new();
    let mut release = snapshot(1, &[("openssl", WhenAbsent::Never)]);
    let pair = |release: &Release, by: &ed25519_dalek::SigningKey| {
        let document = publish(release, &[by]);
        let decision = world.approve(&approval(GROUP, document.release, 1));
        verify_pair(&world.root, &document.bytes, &decision.bytes, NOW).map(|_| ()).map_err(|error| error.to_string())
    };
    assert!(pair(&release, &world.publisher).unwrap_err().contains("signature"));
    release.product = text("org.example.debian");
    assert!(pair(&release, &world.publisher).unwrap_err().contains("needs the product apt.NAME"));
}

#[test]
fn a_recipe_that_points_astray_is_refused() {
    type Change<'a> = &'a dyn Fn(&mut Release, &mut AptRecipe);
    let package = |apt: &AptRecipe, change: &dyn Fn(&mut AptPackage)| {
        let mut packages = apt.packages.to_vec();
        change(&mut packages[0]);
        list(packages)
    };
    let cases: [(&str, Change<'_>); 10] = [
        ("that the release does not have", &|_, apt| apt.in_release = 9),
        ("two uses", &|_, apt| apt.in_release = 2),
        ("two uses", &|_, apt| apt.packages = package(apt, &|first| first.payload = 1)),
        ("no packages", &|_, apt| apt.packages = list(vec![])),
        ("apt would know of no package", &|_, apt| apt.indexes = list(vec![])),
        ("no path below", &|_, apt| apt.indexes = list(vec![AptIndex { payload: 2, path: text("../Packages") }])),
        ("not a package name", &|_, apt| apt.packages = package(apt, &|first| first.name = text("-y"))),
        ("not a Debian version", &|_, apt| apt.packages = package(apt, &|first| first.version = text("1 || x"))),
        ("comes with a package", &|_, apt| {
            apt.packages = package(apt, &|first| first.when_absent = WhenAbsent::With(list(vec![0])));
        }),
        ("named twice", &|_, apt| apt.packages = package(apt, &|first| first.name = text("libssl3"))),
    ];
    for (expected, change) in cases {
        let why = offered(change).expect_err(expected);
        assert!(why.contains(expected), "{why:?} and not {expected:?}");
    }
}

#[test]
fn a_repository_that_the_next_root_names_no_more_installs_nothing_more() {
    let world = World::new();
    let mut trust = world.trust();
    let release = world.publish(&snapshot(1, &[("openssl", WhenAbsent::Never)]));
    let decision = world.approve(&approval(GROUP, release.release, 1));
    world.edition(1, vec![release.clone(), decision.clone()]).offer_to(&mut trust);
    assert!(trust.catalog().releases().contains_key(&release.release));
    let next = world.next(|next| next.root.upstreams = list(vec![]));
    trust.offer_root(&next.root_doc(), NOW).unwrap();
    assert!(!trust.catalog().releases().contains_key(&release.release));
}

#[test]
fn names_of_repositories_are_plain_and_their_own() {
    let world = World::new();
    let rule = |name: &str| UpstreamRule { name: text(name), description: DocHash([1; 32]) };
    for names in [&["Debian"][..], &[""], &["a.b"], &["-a"], &["a/b"], &["a", "a"]] {
        let next = world.next(|next| next.root.upstreams = list(names.iter().map(|name| rule(name)).collect()));
        assert!(validate_root(&next.root).is_err(), "{names:?}");
    }
    let next = world.next(|next| next.root.upstreams = list(vec![rule("debian-security"), rule("debian")]));
    assert_eq!(validate_root(&next.root), Ok(()));
}
