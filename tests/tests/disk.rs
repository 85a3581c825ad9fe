//! Disks that forget, and disks that are full: what has rotted comes again from the site, and a full disk damages nothing.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, random_file, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::{program, wait};

const PATIENCE: Duration = Duration::from_secs(90);

fn store_with(node: &Node<'_>, key: &str, value: impl Into<toml::Value>) {
    node.configure(|config| {
        let store = config.entry("store").or_insert_with(|| toml::Table::new().into());
        store.as_table_mut().expect("a table").insert(key.into(), value.into());
    });
}

fn own_status(node: &Node<'_>) -> serde_json::Value {
    program::verb(&node.host.namespace, &["node", "status", "--data-dir", text(&node.dir)]).done()
}

#[test]
fn a_chunk_that_rots_comes_again_from_a_neighbour_and_not_over_the_wan() {
    let Some(lab) = Lab::new(&[2], Rates::default()) else { return };
    let payload = random_file(&lab.dir().join("payload"), 8 << 20, 21);
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    store_with(&nodes[0], "scrub", "100mbit");
    store_with(&nodes[0], "scrub_every_s", 1);
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);
    let served = coordinator.status().origin.payload_bytes;

    let data = nodes[0].dir.join("store/payloads").join(format!("{}.data", published.payloads[0].id));
    let whole = fs::read(&data).expect("the payload");
    assert!(whole == fs::read(&payload).expect("the payload"));
    let file = OpenOptions::new().write(true).open(&data).expect("the payload");
    for at in [1_000, 3_000_000, 6_000_000] {
        file.write_all_at(&[!whole[at], !whole[at + 1]], at as u64).expect("bytes flipped");
    }
    file.sync_all().expect("bytes flipped");
    wait::until("the payload to be whole again", PATIENCE, || {
        let status = own_status(&nodes[0]);
        let rotten = status["disk"]["rotten"].as_u64().unwrap_or(0);
        let healed = fs::read(&data).is_ok_and(|bytes| bytes == whole);
        let complete = status["downloads"][0]["done"] == status["downloads"][0]["total"];
        if healed && complete && rotten >= 1 { Ok(()) } else { Err(format!("healed: {healed}; {status}")) }
    });
    assert_eq!(coordinator.status().origin.payload_bytes, served, "nothing of it crosses the WAN again");
    wait::until("the coordinator to hear of it", PATIENCE, || {
        let alarms = coordinator.status().device(&nodes[0].label).map(|device| device.alarms.clone());
        let told = alarms.iter().flatten().any(|alarm| alarm.contains("rotted on disk"));
        if told { Ok(()) } else { Err(format!("{alarms:?}")) }
    });
}

/// A small file system that is unmounted with this value.
struct Small(PathBuf);

impl Small {
    fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=40m", "none"]).arg(dir).status();
        assert!(mounted.is_ok_and(|status| status.success()), "cannot mount a small file system");
        Self(dir.to_owned())
    }

    /// Takes every byte that is left, and what the node has put by for this.
    fn fill(&self) {
        for spare in ["journal/records.spare", "store/index.spare"] {
            let _ = fs::remove_file(self.0.join(spare));
        }
        let mut file = File::options().create(true).append(true).open(self.ballast()).expect("a file");
        for block in [1 << 20, 4096, 512] {
            while file.write_all(&vec![7; block]).is_ok() {}
        }
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Case 31.
#[test]
fn a_node_that_starts_on_a_full_disk_waits_for_room_and_has_lost_nothing() {
    let Some(lab) = Lab::new(&[1], Rates::default()) else { return };
    let payload = random_file(&lab.dir().join("payload"), 2 << 20, 22);
    let coordinator = Coordinator::new(&lab);
    // Where `join` will put it.
    let label =
        format!("pc-{}", lab.sites[0].hosts[0].address.to_string().trim_start_matches("10.77.").replace('.', "-"));
    let small = Small::new(&lab.dir().join(label));
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    store_with(&nodes[0], "reserve", "4MiB");
    nodes[0].start();
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    let before = coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);
    let bytes = before.device(&nodes[0].label).expect("it reported").bytes;

    // While it runs: it says so, and goes on.
    small.fill();
    let second = coordinator.publish("2.0", &random_file(&lab.dir().join("second"), 3 << 20, 23));
    coordinator.approve(&second.release);
    wait::until("the node to say that the disk is full", PATIENCE, || {
        let status = own_status(&nodes[0]);
        let said = status["disk"]["trouble"].is_string() || status["deployments"].to_string().contains("NoSpace");
        if said { Ok(()) } else { Err(format!("{}", status["disk"])) }
    });
    nodes[0].kill();
    // And from its start.
    for _ in 0..3 {
        small.fill();
        nodes[0].start();
        wait::until("the node to wait for room", PATIENCE, || {
            let log = nodes[0].log();
            let waits = log.lines().rev().take(3).any(|line| line.contains("waits for room"));
            if waits { Ok(()) } else { Err(log) }
        });
        nodes[0].kill();
    }
    nodes[0].start();
    fs::remove_file(small.ballast()).expect("the ballast");
    coordinator.wait_for_installs(&nodes, &second.release, PATIENCE);
    let log = nodes[0].log();
    assert!(!log.contains("damaged") && !log.contains("begun anew"), "{log}");
    let damaged = |dir: &Path| {
        let names = fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().contains("damaged")).count()
    };
    assert_eq!(damaged(&nodes[0].dir.join("journal")) + damaged(&nodes[0].dir.join("store")), 0);
    let now = coordinator.status();
    let counted = now.device(&nodes[0].label).expect("it reports").bytes;
    assert!(counted.origin >= bytes.origin, "its counters are what they were: {bytes:?}, {counted:?}");
    nodes[0].stop();
}
