//! An update of many small files: it must cost about what one file of the same size costs.
//!
//! The figures for other sizes: `UPSWARM_LAB_MIB=256 cargo test --release -p upswarm-tests --test many_payloads -- --nocapture`.

use std::time::{Duration, Instant};

use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, random_file};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::wait;
use upswarm_tests::watch::Memory;

const HOSTS: u8 = 8;
const PAYLOADS: u64 = 300;
/// MiB of all payloads together, when the environment does not say otherwise.
const MIB: u64 = 64;
const SIZE: &str = "UPSWARM_LAB_MIB";
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn three_hundred_payloads() {
    let Some(lab) = Lab::new(&[HOSTS], Rates::default()) else { return };
    let mib = std::env::var(SIZE).map_or(MIB, |mib| mib.parse().expect("a number of MiB"));
    let each = (mib << 20) / PAYLOADS;
    let payloads: Vec<_> =
        (0..PAYLOADS).map(|at| random_file(&lab.dir().join(format!("part-{at}")), each, 1000 + at)).collect();
    let all = each * PAYLOADS;
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish_many("1.0", &payloads);
    let cpu_before = cpu(&nodes);
    let wan_before = lab.sites[0].wan();
    let flow = lab.sites[0].watch_wan();
    let memory = Memory::watch(nodes.iter_mut().map(|node| node.process().id()).collect());

    let begin = Instant::now();
    coordinator.approve(&published.release);
    // Asking for the status takes the processors that the machines share: not before it can be as expected.
    wait::closely("the payloads to cross the WAN", PATIENCE, || {
        let crossed = (lab.sites[0].wan() - wan_before).rx;
        if crossed >= all { Ok(()) } else { Err(format!("{crossed} bytes have")) }
    });
    coordinator.wait_for_bytes(&nodes, &published.release, PATIENCE);
    let spread = begin.elapsed().as_secs_f64();
    let cpu_s = cpu(&nodes) - cpu_before;
    let status = coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);
    let crossed = lab.sites[0].wan() - wan_before;
    // Half a MiB of documents goes before the first payload; the last ones may be waited for.
    let still = flow.longest_standstill(wan_before.rx + (512 << 10), wan_before.rx + all);
    let most = memory.end();
    let delivered = (all * u64::from(HOSTS)) as f64 / f64::from(1 << 30);
    let mib = |bytes: u64| round(bytes as f64 / f64::from(1 << 20));
    let figures = serde_json::json!({
        "test": "three_hundred_payloads",
        "payload_bytes": all,
        "origin_bytes": status.origin.payload_bytes,
        "wan_bytes": crossed.rx,
        "wan_ratio": round(crossed.rx as f64 / all as f64),
        "wan_up_bytes": crossed.tx,
        "wan_standstill_s": round(still.as_secs_f64()),
        "every_byte_s": round(spread),
        "every_byte_ratio": round(spread / lab.wan_limit_s(all)),
        "cpu_s_per_gib": round(cpu_s / delivered),
        "anonymous_mean_mib": mib(most.iter().sum::<u64>() / most.len() as u64),
        "anonymous_max_mib": mib(most.iter().copied().max().unwrap_or(0)),
    });
    println!("LAB {figures}");

    for node in &nodes {
        let bytes = status.device(&node.label).expect("it reported").bytes;
        let sum = bytes.origin + bytes.cache + bytes.lan_peer + bytes.local_reuse;
        assert_eq!(sum, all, "{} counts bytes twice or not at all: {bytes:?}", node.label);
    }
    // Two machines may begin one of so many extents at the same moment where the processors are short; one then gives way.
    let served = status.origin.payload_bytes;
    assert!(served >= all && served <= all + all / 50, "the origin served {served} bytes of {all}");
    assert!((crossed.rx as f64) < all as f64 * 1.15, "{} bytes crossed the WAN link for {all}", crossed.rx);
}

fn cpu(nodes: &[Node<'_>]) -> f64 {
    nodes.iter().map(|node| node.usage().cpu_s).sum()
}

fn round(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}
