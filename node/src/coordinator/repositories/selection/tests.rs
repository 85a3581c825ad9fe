//! With real apt, on a snapshot of a repository that the test makes and signs. Where apt is not installed there is nothing to try.

use std::path::Path;

use upswarm_protocol::ids::PayloadId;
use upswarm_protocol::time::Wall;
use upswarm_tests::openpgp::{DAY, MADE};
use upswarm_tests::repository::{Deb, Repository};

use super::*;
use crate::coordinator::repositories::snapshot::{self, Facts, Index};
use crate::upstream::UpstreamDescription;

struct Bench {
    _dir: tempfile::TempDir,
    snapshot: Snapshot,
    offer: Offer,
}

/// A snapshot of these packages.
fn bench(debs: &[Deb<'_>]) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let mut repository = Repository::new(&dir.path().join("mirror"));
    for deb in debs {
        repository.add(deb);
    }
    repository.publish(MADE + 30 * DAY);
    let folder = dir.path().join("snapshot");
    std::fs::create_dir(&folder).unwrap();
    let path = "main/binary-amd64/Packages.xz".to_owned();
    let bytes = std::fs::read(repository.dists().join(&path)).unwrap();
    std::fs::write(folder.join(snapshot::file_name(&path)), &bytes).unwrap();
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes));
    let index = Index { path, len: bytes.len() as u64, sha256, packages: debs.len() as u64 };
    let facts = Facts {
        date: Wall(1),
        valid_until: None,
        origin: String::new(),
        codename: String::new(),
        version: String::new(),
        indexes: vec![index],
    };
    let snapshot = Snapshot { id: PayloadId([1; 32]), dir: folder, facts };
    let description = UpstreamDescription {
        name: "test".into(),
        suite: "stable".into(),
        components: vec!["main".into()],
        architectures: vec!["amd64".into()],
        packages: vec!["*".into()],
        certificates: vec![repository.signer.certificate()],
    };
    let offer = Offer::read(&snapshot, &description, None).unwrap();
    Bench { _dir: dir, snapshot, offer }
}

fn state(installed: &[(&str, &str)]) -> State {
    let all = [("dpkg", "1")].iter().chain(installed);
    let arch = |name: &str| if name == "dpkg" { "amd64" } else { "all" };
    all.map(|(name, version)| Installed { name: (*name).into(), arch: arch(name).into(), version: (*version).into() })
        .collect()
}

fn wish(select: &[&str], except: &[&str], install: &[&str]) -> Wish {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Wish { select: set(select), except: set(except), install: install.iter().map(|name| (*name).to_owned()).collect() }
}

impl Bench {
    fn select(&self, states: &[State], known: &[&Offer], wish: &Wish) -> anyhow::Result<Selected> {
        let states = states.iter().cloned().map(|state| (state, 10)).collect();
        let aim = Aim { offer: &self.offer, back_from: None };
        select((&self.snapshot, "stable"), aim, known, &states, wish, &Progress::default())
    }

    fn back(&self, later: &Bench, states: &[State], wish: &Wish) -> anyhow::Result<Selected> {
        let states = states.iter().cloned().map(|state| (state, 10)).collect();
        let (known, later) = ([&self.offer, &later.offer], [&later.offer]);
        let aim = Aim { offer: &self.offer, back_from: Some(&later) };
        select((&self.snapshot, "stable"), aim, &known, &states, wish, &Progress::default())
    }
}

/// Names, versions and what brings them.
fn said(selected: &Selected) -> Vec<String> {
    let name = |at: &usize| selected.packages[*at].package.name.clone();
    let one = |chosen: &Chosen| {
        let what = format!("{} {}", chosen.package.name, chosen.package.version);
        match &chosen.absent {
            Absent::Never => what,
            Absent::Always => what + " everywhere",
            Absent::With(others) => format!("{what} with {}", others.iter().map(name).collect::<Vec<_>>().join(",")),
        }
    };
    selected.packages.iter().map(one).collect()
}

fn has_apt() -> bool {
    Path::new("/usr/bin/apt-get").exists()
}

#[test]
fn what_is_older_somewhere_is_upgraded_with_what_it_brings() {
    if !has_apt() {
        return;
    }
    let bench = bench(&[
        Deb { depends: "codec", ..Deb::new("viewer", "2") },
        Deb::new("codec", "1"),
        Deb::new("editor", "2"),
        Deb::new("other", "9"),
    ]);
    let states = [state(&[("viewer", "1"), ("editor", "2")]), state(&[("editor", "1")])];
    let selected = bench.select(&states, &[], &wish(&[], &[], &[])).unwrap();
    assert_eq!(said(&selected), ["codec 1 with viewer", "editor 2", "viewer 2"]);
    assert!(selected.added.is_empty() && selected.tried.iter().all(|one| one.machines == 10));
    assert!(selected.tried.iter().all(|one| one.simulated.removes.is_empty() && one.simulated.refused.is_none()));
    let partial: Vec<usize> = selected.tried.iter().map(|one| one.simulated.partial).collect();
    assert_eq!(partial, [2, 3], "without an index nobody knows what an installed package depends on");
    let without = bench.select(&states, &[], &wish(&[], &["viewer"], &[])).unwrap();
    assert_eq!(said(&without), ["editor 2"]);
    let with = bench.select(&states, &[], &wish(&["editor"], &[], &["other"])).unwrap();
    assert_eq!(said(&with), ["editor 2", "other 9 everywhere"]);
}

#[test]
fn what_is_tied_to_the_selection_comes_with_it_and_nothing_is_removed() {
    if !has_apt() {
        return;
    }
    // As libssl3 and libssl-dev are, but built from different sources.
    let old =
        bench(&[Deb::new("lib", "1"), Deb { depends: "lib (= 1)", ..Deb::new("lib-dev", "1") }, Deb::new("more", "1")]);
    let new = bench(&[
        Deb::new("lib", "2"),
        Deb { depends: "lib (= 2)", ..Deb::new("lib-dev", "2") },
        Deb::new("more", "2"),
        Deb { depends: "more (>= 2)", ..Deb::new("needy", "2") },
    ]);
    let states = [state(&[("lib", "1"), ("lib-dev", "1"), ("more", "1")])];
    let selected = new.select(&states, &[&old.offer], &wish(&["lib"], &[], &[])).unwrap();
    assert_eq!(said(&selected), ["lib 2", "lib-dev 2"]);
    assert_eq!(selected.added, BTreeSet::from(["lib-dev".to_owned()]));
    assert_eq!(selected.tried[0].simulated.removes, [""; 0]);
    assert_eq!(selected.tried[0].simulated.partial, 1);
    // What is excepted is not added: then apt's answer is shown, and decides.
    let kept = new.select(&states, &[&old.offer], &wish(&["lib"], &["lib-dev"], &[])).unwrap();
    assert!(kept.tried[0].simulated.removes == ["lib-dev"] || said(&kept).is_empty(), "{:?}", kept.tried);
    // A package that needs a later version of one that was not selected.
    let states = [state(&[("needy", "1"), ("more", "1")])];
    let selected = new.select(&states, &[&old.offer], &wish(&["needy"], &[], &[])).unwrap();
    assert_eq!(said(&selected), ["more 2", "needy 2"]);
}

#[test]
fn machines_are_of_their_own_architecture_and_release() {
    let arch = |name: &str, arch: &str| Installed { name: name.into(), arch: arch.into(), version: "1".into() };
    let mixed = vec![arch("a", "i386"), arch("b", "i386"), arch("dpkg", "amd64"), arch("z", "all")];
    assert_eq!(archs(&mixed), ["amd64", "i386"]);
    assert_eq!(archs(&vec![arch("a", "arm64")]), ["arm64"]);
}

#[test]
fn what_came_from_a_later_state_goes_back_and_nothing_else_moves() {
    if !has_apt() {
        return;
    }
    let earlier = bench(&[
        Deb::new("lib", "1"),
        Deb { depends: "lib (= 1)", ..Deb::new("lib-dev", "1") },
        Deb::new("editor", "1"),
        Deb::new("viewer", "5"),
        Deb::new("local", "1"),
    ]);
    let later = bench(&[
        Deb::new("lib", "2"),
        Deb { depends: "lib (= 2)", ..Deb::new("lib-dev", "2") },
        Deb::new("editor", "2"),
        Deb::new("viewer", "5"),
        Deb::new("plugin", "1"),
    ]);
    // The viewer is older than in both, `local` was built here, and the plugin is new.
    let all = [("lib", "2"), ("lib-dev", "2"), ("editor", "2"), ("viewer", "4"), ("local", "7"), ("plugin", "1")];
    let states = [state(&all), state(&[("editor", "1")])];
    let selected = earlier.back(&later, &states, &wish(&[], &[], &[])).unwrap();
    assert_eq!(said(&selected), ["editor 1", "lib 1", "lib-dev 1"]);
    assert_eq!(selected.stays, BTreeSet::from(["plugin 1".to_owned()]));
    let went: Vec<String> = selected.tried[1].simulated.installs.iter().map(|one| format!("{one:?}")).collect();
    assert!(selected.tried.iter().all(|one| one.simulated.removes.is_empty() && one.simulated.refused.is_none()));
    assert!(went.iter().all(|one| one.contains("before: Some(\"2\")")), "{went:?}");
    // What is tied to the selection goes with it.
    let some = earlier.back(&later, &states, &wish(&["lib"], &[], &[])).unwrap();
    assert_eq!((said(&some), &some.added), (vec!["lib 1".into(), "lib-dev 1".into()], &["lib-dev".to_owned()].into()));
    assert!(said(&earlier.back(&later, &states[1..], &wish(&[], &[], &[])).unwrap()).is_empty());
}
