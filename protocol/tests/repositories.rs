//! Snapshots of repositories at a machine: it fetches what it needs of them, and no more.

mod common;

use common::bench::*;
use common::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use upswarm_protocol::catalog::*;
use upswarm_protocol::inventory::{Inventory, PackageKey};
use upswarm_protocol::node::*;
use upswarm_protocol::report::{DeploymentState as S, SubState};

fn inventory(packages: &[(&str, &str)]) -> Input {
    let mut inventory = Inventory::default();
    for (name, version) in packages {
        let key = PackageKey { kind: PackageKind::Deb, name: text(name), arch: text("amd64") };
        inventory.insert(key, text(version)).unwrap();
    }
    for (name, value) in [("platform.os", "linux"), ("platform.arch", "x86_64")] {
        inventory.set_fact(text(name), Some(text(value))).unwrap();
    }
    Input::Inventory { inventory: Arc::new(inventory) }
}

fn packages() -> Vec<(&'static str, WhenAbsent)> {
    vec![
        ("linux-image-amd64", WhenAbsent::Never),
        ("linux-image-6.1.0-30", WhenAbsent::With(list(vec![0]))),
        ("openssl", WhenAbsent::Never),
        ("agent", WhenAbsent::Always),
    ]
}

fn release() -> Release {
    snapshot_with_lists(&packages())
}

/// The names of the files that the node wants, and has or fetches.
fn wanted(bench: &Bench) -> BTreeSet<String> {
    let downloads = bench.state.status(bench.now.mono).downloads;
    let wanted = downloads.into_iter().filter(|download| download.wanted);
    wanted.map(|download| download.name.to_string()).collect()
}

fn names(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

const METADATA: [&str; 3] = ["upstream.json", "InRelease", "Packages.xz"];

#[test]
fn a_machine_fetches_the_metadata_and_the_packages_that_it_needs() {
    let (edition, id) = with_release(release(), |_| ());
    let mut bench = Bench::new(&edition, |_| ());
    let (state, sub_state, reason) = bench.standing(id);
    assert_eq!((state, sub_state), (S::Offering, SubState::AwaitingCatalog), "{reason}");
    bench.input(inventory(&[("linux-image-amd64", "1"), ("openssl", "2"), ("vim", "1")]));
    let expected = ["linux-image-amd64_2_amd64.deb", "linux-image-6.1.0-30_2_amd64.deb", "agent_2_amd64.deb"];
    assert_eq!(wanted(&bench), names(&[&METADATA[..], &expected].concat()));
    assert!(bench.installs().is_empty());
    // With the last of them it is ready, though the file of openssl never came.
    bench.pass(Duration::from_millis(100));
    let here = wanted(&bench);
    for file in release().payloads.iter().filter(|file| here.contains(&*file.name)) {
        for chunk in 0..2 {
            bench.input(Input::ChunkStored { fetch: 999_999, payload: file.id, chunk });
        }
    }
    assert_eq!(bench.installs(), [id], "{:?}", bench.standing(id));
}
