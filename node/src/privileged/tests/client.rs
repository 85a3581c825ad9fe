//! The node's side: from what it believes to the installer's answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use upswarm_protocol::catalog::Action;
use upswarm_protocol::envelope::{Kind, Role};
use upswarm_protocol::ids::{DeviceId, DocHash, ReleaseId};
use upswarm_protocol::node::{Detection, InstallOutcome, NodeConfig, NodeState, Restored};
use upswarm_protocol::report::LogOrder;
use upswarm_protocol::time::{Mono, Now, Wall};
use upswarm_protocol::trust::Trust;

use super::world::{Bench, Edition, World, key};
use crate::machine::RestartConfig;
use crate::privileged::Installer;

fn docs(bench: &Bench) -> PathBuf {
    bench.dir.path().join("node/docs")
}

/// A node that holds this edition, and the release in it.
fn node(bench: &Bench, edition: &Edition) -> (NodeState, ReleaseId) {
    let world = &bench.world;
    let root = world.root_doc();
    let mut trust = Trust::pin(root.clone(), DocHash::of(&root), Wall(0)).unwrap();
    trust.offer_head(&edition.head, world.now).unwrap();
    trust.offer_index(edition.index.clone()).unwrap();
    let restored = Restored {
        trust: trust.snapshot(),
        certificate: world.certificate_doc(),
        assignment: edition.assignment.clone(),
        documents: [
            edition.pages.clone(),
            vec![edition.release.clone(), edition.approval.clone(), edition.group.clone()],
        ]
        .concat(),
        ..Restored::default()
    };
    fs::create_dir_all(docs(bench)).unwrap();
    for bytes in &restored.documents {
        fs::write(docs(bench).join(DocHash::of(bytes).to_string()), bytes).unwrap();
    }
    let config = NodeConfig {
        key: key(40),
        seed: 1,
        label: Default::default(),
        agent: Default::default(),
        os: Default::default(),
        build_time: Wall(0),
        coordinator: world.pin().device,
        coordinator_addresses: Vec::new(),
        peers: Vec::new(),
        origins: Vec::new(),
        wan_weight: 1,
        machine: Default::default(),
        upload_slots: 1,
        ask_first: Duration::ZERO,
        zone: jiff::tz::TimeZone::UTC,
        boot: Default::default(),
    };
    let state = NodeState::new(config, restored, Now { mono: Mono(0), wall: world.now }).unwrap();
    let release = *state.trust().catalog().releases().first_key_value().unwrap().0;
    (state, release)
}

fn installer(bench: &Bench, state: &NodeState) -> Installer {
    let roots = bench.dir.path().join("node/roots");
    let mut installer =
        Installer::connect(bench.socket(), roots, docs(bench), Arc::new(AtomicBool::new(false))).unwrap();
    installer.keep_root(state.trust());
    installer
}

fn store(bench: &Bench, content: &[u8]) -> PathBuf {
    let path = bench.dir.path().join("node/payload");
    fs::write(&path, content).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_rights_has_an_update_installed_and_removed() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let (state, release) = node(&bench, &bench.world.good(1));
    let client = installer(&bench, &state);
    let path = store(&bench, &bench.world.good_script());
    let find = |_| Some(path.clone());
    assert_eq!(client.detect(&state, release).await, Detection::Absent);
    // What is not approved is not even asked for.
    let removed = client.install(&state, find, release, Action::Uninstall).await;
    assert!(matches!(&removed, InstallOutcome::Retry { reason, .. } if reason.contains("no approval")), "{removed:?}");
    let done = InstallOutcome::Done { restart: false, code: Some(0) };
    assert_eq!(client.install(&state, find, release, Action::Install).await, done);
    assert!(bench.good().exists());
    assert_eq!(client.detect(&state, release).await, Detection::Present);
    let (state, _) = node(&bench, &bench.world.removal(2));
    assert_eq!(client.install(&state, |_| None, release, Action::Uninstall).await, done);
    assert!(!bench.good().exists());
    assert_eq!(client.detect(&state, release).await, Detection::Absent);
    // The store has lost it: tried again when it is back.
    let (state, _) = node(&bench, &bench.world.good(3));
    let lost = client.install(&state, |_| Some("/nonexistent".into()), release, Action::Install).await;
    assert!(matches!(&lost, InstallOutcome::Retry { reason, .. } if reason.contains("not in the store")), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_installer_a_node_says_so_and_tries_again() {
    let mut bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let (state, release) = node(&bench, &bench.world.good(1));
    let client = installer(&bench, &state);
    let path = store(&bench, &bench.world.good_script());
    bench.halt();
    let expected = "the installer does not answer at";
    let outcome = client.install(&state, |_| Some(path.clone()), release, Action::Install).await;
    assert!(matches!(&outcome, InstallOutcome::Retry { reason, .. } if reason.contains(expected)), "{outcome:?}");
    let found = client.detect(&state, release).await;
    assert!(matches!(&found, Detection::Unknown(why) if why.contains(expected)), "{found:?}");
    bench.go();
    let outcome = client.install(&state, |_| Some(path.clone()), release, Action::Install).await;
    assert_eq!(outcome, InstallOutcome::Done { restart: false, code: Some(0) });
}

/// An installer that was pinned to another root, and one that has not heard of roots for years.
#[tokio::test(flavor = "multi_thread")]
async fn the_chain_of_roots_travels_with_the_request() {
    let mut bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let path = store(&bench, &bench.world.good_script());
    let roots = bench.dir.path().join("node/roots");
    fs::create_dir_all(&roots).unwrap();
    for version in 1..40 {
        bench.world.root.version = version;
        fs::write(roots.join(version.to_string()), bench.world.root_doc()).unwrap();
    }
    bench.world.root.version = 40;
    let (state, release) = node(&bench, &bench.world.good(1));
    let client = installer(&bench, &state);
    // At most 16 at a time: each attempt brings it further.
    for _ in 0..2 {
        let outcome = client.install(&state, |_| Some(path.clone()), release, Action::Install).await;
        assert!(matches!(outcome, InstallOutcome::Retry { .. }), "{outcome:?}");
    }
    let outcome = client.install(&state, |_| Some(path.clone()), release, Action::Install).await;
    assert_eq!(outcome, InstallOutcome::Done { restart: false, code: Some(0) });
}

/// A node that is about to end does not wait for the installer, which goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_does_not_wait() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let (state, release) = node(&bench, &bench.world.good(1));
    let ending = Arc::new(AtomicBool::new(true));
    let mut client =
        Installer::connect(bench.socket(), bench.dir.path().join("node/roots"), docs(&bench), ending.clone()).unwrap();
    client.keep_root(state.trust());
    let outcome = client.install(&state, |_| None, release, Action::Install).await;
    assert!(matches!(&outcome, InstallOutcome::Retry { reason, .. } if reason.contains("about to end")), "{outcome:?}");
    ending.store(false, Ordering::Relaxed);
    assert_eq!(client.detect(&state, release).await, Detection::Absent);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_process_nothing_has_changed() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let (state, release) = node(&bench, &bench.world.good(1));
    let path = store(&bench, &bench.world.good_script());
    let state_dir = bench.dir.path().join("node/install");
    let mut client =
        Installer::in_process(state_dir, None, RestartConfig::default(), Arc::new(AtomicBool::new(false))).unwrap();
    client.keep_root(state.trust());
    assert_eq!(client.detect(&state, release).await, Detection::Absent);
    let outcome = client.install(&state, |_| Some(path.clone()), release, Action::Install).await;
    assert_eq!(outcome, InstallOutcome::Done { restart: false, code: Some(0) });
    assert_eq!(client.detect(&state, release).await, Detection::Present);
    assert!(!Path::new(&bench.dir.path().join("node/roots")).exists(), "no privileged installer, no roots for it");
}

/// What root's programs printed goes to whoever the coordinator's order says, by this device's name, and to nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_told_to_whom_the_coordinator_orders_it() {
    let bench = Bench::start(World::now(), rustix::process::geteuid().as_raw());
    let (state, release) = node(&bench, &bench.world.good(1));
    let client = installer(&bench, &state);
    let order = |device: DeviceId, signer: u8| {
        bench.world.sign(Kind::LogOrder, Role::Online, &LogOrder { device, release, issued: bench.world.now }, signer)
    };
    let (me, online) = (state.device(), bench.world.online);
    let none = client.log(release, order(me, online)).await;
    assert!(none.as_ref().is_err_and(|why| why.starts_with("there is no log: nothing of it was begun")), "{none:?}");
    let path = store(&bench, &bench.world.bad_script());
    client.install(&state, |_| Some(path.clone()), release, Action::Install).await;
    let logs = bench.data().join("jobs/logs");
    fs::create_dir_all(&logs).unwrap();
    fs::write(logs.join(format!("{}-20261130T120000Z.log", release.short())), "E: a script says why\n").unwrap();
    let told = String::from_utf8(client.log(release, order(me, online)).await.unwrap()).unwrap();
    assert!(told.contains("E: a script says why\n") && told.contains(".log\n"), "{told}");
    for (order, why) in [
        (order(DeviceId([9; 32]), online), "asks another device"),
        (order(me, 66), "refuses"),
        (order(me, 40), "refuses"),
        (b"no order".to_vec(), "refuses"),
        (bench.world.sign(Kind::Retry, Role::Online, &1u8, online), "refuses"),
    ] {
        let refused = client.log(release, order).await;
        assert!(refused.as_ref().is_err_and(|said| said.contains(why)), "{why}: {refused:?}");
    }
}
