//! The admin stops everything while a site is in the midst of a download: every machine stands still within seconds, nothing
//! moves until the admin lets it go on, and then what was begun is finished.

use std::time::{Duration, Instant};

use upswarm_tests::fleet::{Coordinator, Deployment, Joining, Node, Status, join_all, random_file, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::program;
use upswarm_tests::wait;

const HOSTS: u8 = 24;
const PAYLOAD: u64 = 64 << 20;
/// The promise: so long after the admin's command every machine that is online stands still, and the coordinator knows it.
const PROMISED: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(150);
/// Heads, presence and reports of a site on hold are less than this in two seconds.
const QUIET: u64 = 256 << 10;
/// What may come over the WAN again: chunks that were on their way when it stopped, two extents of each of four machines.
const IN_FLIGHT: u64 = 8 << 20;
/// What may be fetched twice: two machines can begin one extent at the same moment, and one of them then gives way.
const TWICE: u64 = 2 << 20;

#[test]
fn twenty_four_machines_stand_still_within_five_seconds() {
    let Some(lab) = Lab::new(&[HOSTS], Rates { wan_down: 40, ..Rates::default() }) else { return };
    let payload = random_file(&lab.dir().join("payload"), PAYLOAD, 24);
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    let release = &published.release;
    let wan_before = lab.sites[0].wan();
    coordinator.approve(release);
    wait::until("every machine to be in the midst of the download", PATIENCE, || {
        let status = coordinator.status();
        let states = stands(&status, &nodes, release);
        let begun = states.iter().filter(|stand| stand.state == "Downloading" && stand.done >= PAYLOAD / 8).count();
        if begun == nodes.len() { Ok(()) } else { Err(format!("{begun} are: {states:?}")) }
    });

    let begin = Instant::now();
    coordinator.verb(&["pause"]).done();
    let said = begin.elapsed().as_secs_f64();
    let still = wait::until("every machine to report that it is on hold", PATIENCE, || {
        let status = coordinator.status();
        let still = begin.elapsed();
        let states = stands(&status, &nodes, release);
        let held = states.iter().filter(|stand| stand.state == "OnHold" && stand.sub_state == "Paused").count();
        if held == nodes.len() { Ok(still) } else { Err(format!("{held} are: {states:?}")) }
    });
    let crossed = lab.sites[0].wan().rx;
    // On hold, machines report only news. So the link is looked at, and then every machine is asked itself, twice.
    let mut mark = (Instant::now(), crossed);
    let quiet = wait::until("the WAN link to be quiet for two seconds", PATIENCE, || {
        let rx = lab.sites[0].wan().rx;
        if rx - mark.1 > QUIET {
            mark = (Instant::now(), rx);
        }
        if mark.0.elapsed() >= Duration::from_secs(2) {
            Ok(mark.0 - begin)
        } else {
            Err(format!("{} bytes", rx - crossed))
        }
    });
    let before: Vec<u64> = nodes.iter().map(on_disk).collect();
    let served = coordinator.status().origin.payload_bytes;
    let held: Vec<u64> = nodes.iter().map(on_disk).collect();
    assert_eq!(held, before, "bytes on disk of machines that are on hold");
    assert!(held.iter().all(|done| *done < PAYLOAD), "the pause came when all was over: {held:?}");
    assert!(stands(&coordinator.status(), &nodes, release).iter().all(|stand| stand.state == "OnHold"));
    assert!(nodes.iter().all(|node| !node.installed().exists()), "nothing is installed while held");
    assert_eq!(coordinator.status().origin.payload_bytes, served, "the origin serves nothing while held");
    let figures = serde_json::json!({
        "test": "pause_at_twenty_four",
        "hosts": HOSTS,
        "payload_bytes": PAYLOAD,
        "verb_s": round(said),
        "every_machine_on_hold_s": round(still.as_secs_f64()),
        "wan_quiet_s": round(quiet.as_secs_f64()),
        "wan_bytes_after_the_last_word": mark.1 - crossed,
        "on_disk_mean": held.iter().sum::<u64>() / u64::from(HOSTS),
    });
    println!("LAB {figures}");
    assert!(still < PROMISED, "{still:?} until every machine was on hold");

    let begin = Instant::now();
    coordinator.verb(&["resume"]).done();
    let status = coordinator.wait_for_installs(&nodes, release, PATIENCE);
    // The origin also counts what it had handed to connections that the pause cut off; the link tells what crossed.
    let crossed = (lab.sites[0].wan() - wan_before).rx;
    let fetched: u64 = status.devices.iter().map(|device| device.bytes.origin).sum();
    let figures = serde_json::json!({
        "test": "resume_at_twenty_four",
        "installed_s": round(begin.elapsed().as_secs_f64()),
        "origin_bytes": status.origin.payload_bytes,
        "fetched_bytes": fetched,
        "wan_bytes": crossed,
        "copies": round(crossed as f64 / PAYLOAD as f64),
    });
    println!("LAB {figures}");
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));
    assert!((PAYLOAD..=PAYLOAD + TWICE).contains(&fetched), "{fetched} bytes fetched over the WAN for {PAYLOAD}");
    // Headers are 4.6 % of full frames.
    let most = PAYLOAD + PAYLOAD * 6 / 100 + IN_FLIGHT;
    assert!((PAYLOAD..=most).contains(&crossed), "{crossed} bytes crossed the WAN for {PAYLOAD}");
    for node in &nodes {
        let bytes = status.device(&node.label).expect("it reported").bytes;
        let all = bytes.origin + bytes.cache + bytes.lan_peer + bytes.local_reuse;
        assert_eq!(all, PAYLOAD, "{} counts bytes twice or not at all: {bytes:?}", node.label);
    }
}

/// Where each machine stands that has heard of the release.
fn stands<'status>(status: &'status Status, nodes: &[Node<'_>], release: &str) -> Vec<&'status Deployment> {
    nodes.iter().filter_map(|node| status.deployment(&node.label, release)).collect()
}

/// Payload bytes that a machine itself says are verified and on its disk.
fn on_disk(node: &Node<'_>) -> u64 {
    let status = program::verb(&node.host.namespace, &["node", "status", "--data-dir", text(&node.dir)]).done();
    let downloads = status["downloads"].as_array().expect("its downloads");
    downloads.iter().map(|download| download["done"].as_u64().expect("a number of bytes")).sum()
}

fn round(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}
