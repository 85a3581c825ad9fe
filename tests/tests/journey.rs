//! The main job: an approved update reaches every machine of a site over one WAN copy.

use std::time::{Duration, Instant};

use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, random_file};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::wait;

const PAYLOAD: u64 = 256 << 20;

/// What the machines do when the approval comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// They run and know each other.
    Running,
    /// They are off, and all start at one moment afterwards.
    Cold,
}

#[test]
fn eight_running_machines() {
    journey("eight_running_machines", 8, Start::Running, Joining::default());
}

#[test]
fn eight_machines_that_start_cold() {
    journey("eight_machines_that_start_cold", 8, Start::Cold, Joining::default());
}

#[test]
fn sixteen_running_machines_without_multicast() {
    let joining = Joining { no_mdns: true, ..Joining::default() };
    journey("sixteen_running_machines_without_multicast", 16, Start::Running, joining);
}

#[test]
fn sixteen_machines_that_start_cold() {
    journey("sixteen_machines_that_start_cold", 16, Start::Cold, Joining::default());
}

fn journey(name: &str, hosts: u8, start: Start, joining: Joining) {
    let Some(lab) = Lab::new(&[hosts], Rates::default()) else { return };
    let payload = random_file(&lab.dir().join("payload"), PAYLOAD, u64::from(hosts));
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, joining);
    if start == Start::Running {
        nodes.iter_mut().for_each(Node::start);
        coordinator.wait_for_reports(&nodes);
    }
    let published = coordinator.publish("1.0", &payload);
    let cpu_before: f64 = if start == Start::Running { cpu(&nodes) } else { 0.0 };
    let wan_before = lab.sites[0].wan();

    let mut begin = Instant::now();
    coordinator.approve(&published.release);
    if start == Start::Cold {
        begin = Instant::now();
        nodes.iter_mut().for_each(Node::start);
    }
    // Asking for the status takes the processors that the machines share: not before it can be as expected.
    wait::closely("the payload to cross the WAN", Duration::from_secs(150), || {
        let crossed = (lab.sites[0].wan() - wan_before).rx;
        if crossed >= PAYLOAD { Ok(()) } else { Err(format!("{crossed} bytes have")) }
    });
    coordinator.wait_for_bytes(&nodes, &published.release, Duration::from_secs(150));
    let spread = begin.elapsed().as_secs_f64();
    let cpu_delivered = cpu(&nodes) - cpu_before;
    let status = coordinator.wait_for_installs(&nodes, &published.release, Duration::from_secs(150));
    let makespan = begin.elapsed().as_secs_f64();

    let wan = (lab.sites[0].wan() - wan_before).rx;
    let cpu_installed = cpu(&nodes) - cpu_before;
    let rss: Vec<u64> = nodes.iter().map(|node| node.usage().peak_rss).collect();
    let limit = lab.wan_limit_s(PAYLOAD);
    let delivered = (PAYLOAD * u64::from(hosts)) as f64 / f64::from(1 << 30);
    let figures = serde_json::json!({
        "test": name,
        "hosts": hosts,
        "payload_bytes": PAYLOAD,
        "origin_bytes": status.origin.payload_bytes,
        "amplification": status.origin.payload_bytes as f64 / PAYLOAD as f64,
        "wan_bytes": wan,
        "wan_limit_s": round(limit),
        "every_byte_s": round(spread),
        "every_byte_ratio": round(spread / limit),
        "installed_s": round(makespan),
        "installed_ratio": round(makespan / limit),
        "cpu_s_per_gib": round(cpu_delivered / delivered),
        "cpu_s_per_gib_installed": round(cpu_installed / delivered),
        "rss_mean_mib": round(rss.iter().sum::<u64>() as f64 / rss.len() as f64 / f64::from(1 << 20)),
        "rss_max_mib": round(rss.iter().copied().max().unwrap_or(0) as f64 / f64::from(1 << 20)),
    });
    println!("LAB {figures}");

    for node in &nodes {
        assert!(node.has_installed(&payload), "{} has installed other bytes", node.label);
        let bytes = status.device(&node.label).expect("it reported").bytes;
        let all = bytes.origin + bytes.cache + bytes.lan_peer + bytes.local_reuse;
        assert_eq!(all, PAYLOAD, "{} counts bytes twice or not at all: {bytes:?}", node.label);
    }
    assert_eq!(status.origin.payload_bytes, PAYLOAD, "the origin served each byte once");
    let fetched: u64 = status.devices.iter().map(|device| device.bytes.origin).sum();
    assert_eq!(fetched, PAYLOAD, "the machines say the same");
    // Headers of TCP, IP and Ethernet are 4.6 % of full frames; documents and reports are little.
    assert!(wan as f64 <= PAYLOAD as f64 * 1.06, "{wan} bytes crossed the WAN link for a payload of {PAYLOAD}");
    // Time is a figure, not a condition, unless something is badly wrong.
    assert!(makespan <= limit * 4.0, "it took {makespan:.1} s; the WAN needs {limit:.1} s");
}

fn cpu(nodes: &[Node<'_>]) -> f64 {
    nodes.iter().map(|node| node.usage().cpu_s).sum()
}

fn round(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}
