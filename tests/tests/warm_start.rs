//! The WAN is cut and the site's branch cache holds every byte: machines that start must not wait for what is not there.

use std::time::{Duration, Instant};

use upswarm_tests::fleet::{Coordinator, Joining, Node, random_file};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::wait;

const COLD: usize = 8;
/// MiB of the payload, and the rate of the LAN, when the environment does not say otherwise.
const MIB: u64 = 64;
const SIZE: &str = "UPSWARM_LAB_MIB";
const LAN: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(180);
/// More than beacons, documents and greetings: payload is on its way.
const FLOWS: u64 = 256 << 10;

#[test]
fn eight_machines_start_beside_a_warm_cache_while_the_wan_is_cut() {
    let Some(lab) = Lab::new(&[COLD as u8 + 1], Rates { lan: LAN, ..Rates::default() }) else { return };
    let bytes = std::env::var(SIZE).map_or(MIB, |mib| mib.parse().expect("a number of MiB")) << 20;
    let payload = random_file(&lab.dir().join("payload"), bytes, 77);
    let coordinator = Coordinator::new(&lab);
    let token = coordinator.invite("site-1", COLD + 1);
    let join = |at: usize, joining| Node::join(&lab, &lab.sites[0].hosts[at], &token, joining);
    let mut nodes: Vec<_> = (0..COLD).map(|at| join(at, Joining::default())).collect();
    let mut cache = join(COLD, Joining { cache: true, no_mdns: false });
    cache.start();
    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    coordinator.wait_for_installs(std::slice::from_ref(&cache), &published.release, PATIENCE);
    lab.sites[0].cut_wan().expect("the link goes down");

    let before: Vec<u64> = nodes.iter().map(|node| node.host.lan().rx).collect();
    let begin = Instant::now();
    nodes.iter_mut().for_each(Node::start);
    let taken = || nodes.iter().zip(&before).map(|(node, before)| node.host.lan().rx - before);
    wait::until("every daemon to listen", PATIENCE, || {
        let up = nodes.iter().filter(|node| node.log().contains("node started")).count();
        if up == COLD { Ok(()) } else { Err(format!("{up} do")) }
    });
    let up = begin.elapsed().as_secs_f64();
    wait::closely("the first payload bytes", PATIENCE, || {
        let most = taken().max().unwrap_or(0);
        if most > FLOWS { Ok(()) } else { Err(format!("{most} bytes at most have come")) }
    });
    let first = begin.elapsed().as_secs_f64();
    wait::closely("every machine to hold every byte", PATIENCE, || {
        let least = taken().min().unwrap_or(0);
        if least >= bytes { Ok(()) } else { Err(format!("{least} bytes at least have come")) }
    });
    let whole = begin.elapsed().as_secs_f64();
    // Lower bound for pieces that travel through N machines of equal links (Mundinger, Weber, Weiss 2008), with 1 MiB pieces.
    let pieces = bytes as f64 / f64::from(1 << 20);
    let limit = bytes as f64 * 8.0 / (f64::from(LAN) * 1e6) * (1.0 + (COLD as f64).log2().floor() / pieces);
    wait::until("every machine to install", PATIENCE, || {
        let installed = nodes.iter().filter(|node| node.installed().exists()).count();
        if installed == COLD { Ok(()) } else { Err(format!("{installed} have")) }
    });
    let sum: u64 = taken().sum();
    let figures = serde_json::json!({
        "test": "warm_start",
        "payload_bytes": bytes,
        "daemons_up_s": round(up),
        "first_lan_byte_s": round(first),
        "every_byte_s": round(whole),
        "every_byte_ratio": round(whole / limit),
        "lan_ratio": round(sum as f64 / (bytes as f64 * COLD as f64)),
    });
    println!("LAB {figures}");
    for node in &nodes {
        assert!(node.has_installed(&payload), "{} has installed other bytes", node.label);
    }
    assert!(first < up + 4.0, "the first payload byte came {first:.1} s after the start");
}

fn round(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}
