//! A coordinator that is lost comes back from a backup, and one that is killed at any moment comes back from its own directory: nothing
//! that was acknowledged is lost, and no machine is touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use upswarm_tests::fleet::{Coordinator, GROUP, Joining, Node, random_file, text};
use upswarm_tests::lab::{Lab, Rates, WAN_ADDRESS};
use upswarm_tests::{program, wait};

const PATIENCE: Duration = Duration::from_secs(150);
/// `UPSWARM_KILLS=200 cargo test -p upswarm-node -p upswarm-tests --test backup killed -- --nocapture` for the long run.
const KILLS: &str = "UPSWARM_KILLS";
const SEED: &str = "UPSWARM_SEED";

fn passphrase(lab: &Lab) -> PathBuf {
    let path = lab.dir().join("passphrase");
    fs::write(&path, "a long passphrase\n").expect("a file");
    path
}

#[test]
fn a_coordinator_restored_elsewhere_goes_on_and_no_machine_is_touched() {
    let Some(lab) = Lab::new(&[3], Rates::default()) else { return };
    let word = passphrase(&lab);
    let mut old = Coordinator::new(&lab);
    // The second address is where the coordinator will come back; a DNS name would do the same.
    let addresses = [4701, 4711].map(|port| format!("{WAN_ADDRESS}:{port}"));
    let invite = ["coordinator", "invite", "--group", GROUP, "--site", "site-1", "--uses", "3"];
    let invite = [&invite[..], &["--address", &addresses[0], "--address", &addresses[1]]].concat();
    let token = old.verb(&invite).done()["token"].as_str().expect("a token").to_owned();
    let hosts = lab.sites[0].hosts.iter();
    let mut nodes: Vec<Node<'_>> = hosts.map(|host| Node::join(&lab, host, &token, Joining::default())).collect();
    nodes.iter_mut().for_each(Node::start);
    old.wait_for_reports(&nodes);
    let payload = random_file(&lab.dir().join("payload-1"), 4 << 20, 1);
    let first = old.publish("1.0", &payload);
    old.approve(&first.release);
    old.wait_for_installs(&nodes, &first.release, PATIENCE);

    let backup = lab.dir().join("backup");
    let take = ["coordinator", "backup", text(&backup), "--passphrase-file", text(&word)];
    let taken = old.verb(&take).done();
    assert!(taken["keys"] == true && taken["payloads"] == 1, "{taken}");
    let reason = old.verb(&take).refused(3);
    assert!(reason.contains("not overwritten"), "{reason}");
    // What is decided after the backup is gone with the old coordinator, and that is an alarm (case 12).
    old.verb(&["pause", "--group", GROUP]).done();
    old.verb(&["resume", "--group", GROUP]).done();
    let lost = old.verb(&["status"]).done()["head"]["index_version"].clone();
    assert!(lost.is_u64(), "{lost}");
    wait::until("the machines to hold the later index", PATIENCE, || {
        let version = |node: &Node<'_>| {
            let status = program::verb(&node.host.namespace, &["node", "status", "--data-dir", text(&node.dir)]).done();
            status["index_version"].as_u64()
        };
        let behind = nodes.iter().filter(|node| version(node) < lost.as_u64()).count();
        if behind == 0 { Ok(()) } else { Err(format!("{behind} are behind {lost}")) }
    });
    old.kill();
    fs::remove_dir_all(&old.dir).expect("the old directory is lost");

    let mut new = Coordinator::of(&lab, lab.dir().join("elsewhere"));
    new.ports = (4711, 4712);
    let restore =
        ["coordinator", "restore", text(&backup), "--passphrase-file", text(&word), "--data-dir", text(&new.dir)];
    let restored = program::verb(&lab.wan, &restore).done();
    assert!(restored["lacks"].as_array().is_some_and(Vec::is_empty), "{restored}");
    assert!(program::verb(&lab.wan, &restore).refused(3).contains("not overwritten"));
    new.start();
    let payload = random_file(&lab.dir().join("payload-2"), 4 << 20, 2);
    let second = new.publish("2.0", &payload);
    new.approve(&second.release);
    new.wait_for_installs(&nodes, &second.release, PATIENCE);
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));
    let alarms = new.verb(&["alarms", "list"]).done();
    let alarms = alarms["alarms"].as_array().expect("alarms").clone();
    assert!(alarms.iter().any(|alarm| alarm["kind"] == "restored"), "{alarms:?}");
    assert!(new.verb(&["status"]).done()["head"]["index_version"].as_u64() > lost.as_u64(), "no version is used twice");
    let log = new.verb(&["audit", "list", "--topic", "backup"]).done();
    let said = log["entries"].as_array().expect("entries").iter();
    assert!(
        said.clone().any(|entry| entry["what"].as_str().is_some_and(|what| what.contains("goes on from a backup"))),
        "{log}"
    );
    new.verb(&["audit", "verify"]).done();
    new.stop();
}

/// What a coordinator has acknowledged, in the order of the verbs.
#[derive(Default, Clone)]
struct Acknowledged {
    groups: BTreeSet<String>,
    releases: BTreeSet<String>,
    approved: BTreeSet<String>,
    entries: u64,
    paused: Option<bool>,
}

impl Acknowledged {
    /// Panics unless a coordinator that serves this directory knows all of it.
    fn must_be_known(&self, coordinator: &Coordinator<'_>, when: &str) {
        let groups = coordinator.verb(&["group", "list"]).done();
        let names: BTreeSet<&str> = array(&groups["groups"]).filter_map(|group| group["group"].as_str()).collect();
        for group in &self.groups {
            assert!(names.contains(group.as_str()), "{when}: the group {group} is lost: {names:?}");
        }
        let releases = coordinator.verb(&["release", "list"]).done().to_string();
        for release in &self.releases {
            assert!(releases.contains(release), "{when}: the release {release} is lost: {releases}");
        }
        let log = coordinator.verb(&["audit", "list", "--limit", "1000"]).done();
        let said: Vec<String> = array(&log["entries"]).map(|entry| entry["what"].to_string()).collect();
        for release in &self.approved {
            assert!(said.iter().any(|what| what.contains("approved") && what.contains(release)), "{when}: {release}");
        }
        assert!(log["total"].as_u64() >= Some(self.entries), "{when}: entries of {} are lost: {log}", self.entries);
        if let Some(paused) = self.paused {
            let status = coordinator.verb(&["status"]).done();
            assert_eq!(array(&status["holds"]).count() == 1, paused, "{when}: {status}");
        }
        coordinator.verb(&["audit", "verify"]).done();
    }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[test]
fn killed_at_any_moment_it_has_lost_nothing_that_it_acknowledged() {
    let Some(lab) = Lab::new(&[1], Rates::default()) else { return };
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (kills, seed) = (number(KILLS, 4), number(SEED, 8));
    println!("{SEED}={seed} {KILLS}={kills}");
    let mut rng = StdRng::seed_from_u64(seed);
    let word = passphrase(&lab);
    let mut coordinator = Coordinator::new(&lab);
    let token = coordinator.invite("site-1", 1);
    let mut node = Node::join(&lab, &lab.sites[0].hosts[0], &token, Joining::default());
    node.start();
    coordinator.wait_for_reports(std::slice::from_ref(&node));
    let mut known = Acknowledged::default();
    let (mut step, mut backups) = (0u64, Vec::new());
    for kill in 0..kills {
        let pid = Pid::from_raw(i32::try_from(coordinator.id()).expect("an id")).expect("an id");
        let after = Duration::from_millis(rng.gen_range(0..2500));
        // Not a wait for something: the moment is drawn.
        let killer = std::thread::spawn(move || {
            std::thread::sleep(after);
            kill_process(pid, Signal::KILL).expect("it runs until then");
        });
        loop {
            step += 1;
            if !act(&lab, &coordinator, step, &word, &mut known, &mut backups) {
                break;
            }
        }
        killer.join().expect("killed");
        coordinator.kill();
        coordinator.start();
        let when = format!("seed {seed}, kill {kill} after {after:?}, step {step}");
        known.must_be_known(&coordinator, &when);
        // What was under way may have happened or not; from here on it is known which.
        let status = coordinator.verb(&["status"]).done();
        known.paused = Some(array(&status["holds"]).count() == 1);
        assert!(
            !fs::read_dir(&coordinator.dir)
                .expect("the directory")
                .flatten()
                .any(|entry| { entry.file_name().to_string_lossy().starts_with("moment-") })
        );
    }
    coordinator.wait_for_reports(std::slice::from_ref(&node));
    coordinator.stop();
    println!("{} steps, {} backups", step, backups.len());
    // Every backup that was acknowledged holds what had been by then, whatever happened beside it.
    for (number, (file, held)) in backups.iter().enumerate().rev().take(3) {
        let mut restored = Coordinator::of(&lab, lab.dir().join(format!("restored-{number}")));
        let dir = text(&restored.dir).to_owned();
        program::verb(
            &lab.wan,
            &["coordinator", "restore", text(file), "--passphrase-file", text(&word), "--data-dir", &dir],
        )
        .done();
        restored.start();
        held.must_be_known(&restored, &format!("backup {number}"));
        restored.stop();
    }
}

/// One verb; what it acknowledges is noted. False when the coordinator is gone.
fn act(
    lab: &Lab,
    coordinator: &Coordinator<'_>,
    step: u64,
    word: &std::path::Path,
    known: &mut Acknowledged,
    backups: &mut Vec<(PathBuf, Acknowledged)>,
) -> bool {
    let version = format!("{}.0", step / 6 + 1);
    let verb = match step % 6 {
        0 => {
            let name = format!("group-{step}");
            let verb = coordinator.verb(&["group", "add", &name]);
            if verb.code == 0 {
                known.groups.insert(name);
            }
            verb
        }
        1 => {
            let payload = random_file(&lab.dir().join(format!("payload-{step}")), 100_000, step);
            let release = lab.dir().join(format!("kill-{step}.toml"));
            let content = format!(
                "product = \"org.example.kill{step}\"\nversion = \"{version}\"\ntitle = \"Kill {step}\"\nclassification = \"update\"\n\
                 [[payload]]\npath = {payload:?}\nname = \"p\"\n[[detect]]\nfile = \"/p{step}\"\npayload = \"p\"\n[install]\n\
                 files = [{{ payload = \"p\", path = \"/p{step}\" }}]\n"
            );
            fs::write(&release, content).expect("a release file");
            let verb = coordinator.verb(&["publish", text(&release)]);
            if verb.code == 0 {
                known.releases.insert(format!("org.example.kill{step}"));
            }
            verb
        }
        2 => {
            let product = format!("org.example.kill{}", step - 1);
            if !known.releases.contains(&product) {
                return true;
            }
            let verb = coordinator.verb(&["approve", &format!("{product}@{version}"), "--group", GROUP]);
            if verb.code == 0 {
                known.approved.insert(format!("Kill {}", step - 1));
            }
            verb
        }
        3 => {
            let file = lab.dir().join(format!("backup-{step}"));
            let before = known.clone();
            let verb = coordinator.verb(&["coordinator", "backup", text(&file), "--passphrase-file", text(word)]);
            match verb.code {
                0 => backups.push((file, before)),
                _ => assert!(!file.exists(), "what has its name is whole"),
            }
            verb
        }
        _ => {
            let paused = step % 6 == 4;
            if known.paused == Some(paused) {
                return true;
            }
            let verb = coordinator.verb(&[if paused { "pause" } else { "resume" }]);
            known.paused = (verb.code == 0).then_some(paused);
            verb
        }
    };
    if verb.code == 0 {
        if let Some(total) = coordinator.verb(&["audit", "list", "--limit", "1"]).json["total"].as_u64() {
            known.entries = total;
        }
        return true;
    }
    // Nothing but the kill may be in the way.
    let gone = ["is not running", "no answer from", "coordinator's answer", "shutting down", "being served"];
    assert!(gone.iter().any(|words| verb.said.contains(words)), "step {step}: {}", verb.said);
    false
}
