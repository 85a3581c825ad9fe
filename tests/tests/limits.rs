//! How much of the WAN a site may use: ordered by the admin while a download runs, kept by the machines, taken back.

use std::time::{Duration, Instant};

use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, random_file, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::{program, wait};

const WITHIN: Duration = Duration::from_secs(90);
/// What the origin may serve before the rate shows: the buckets' bursts, and what lies in the buffers of the machines' sockets.
const BUFFERED: u64 = 8 << 20;

/// The origin's payload bytes, by its own count.
fn served(coordinator: &Coordinator<'_>) -> u64 {
    coordinator.status().origin.payload_bytes
}

/// Bytes per second from the origin, over some seconds.
fn rate(coordinator: &Coordinator<'_>, seconds: u64) -> f64 {
    let (from, began) = (served(coordinator), Instant::now());
    std::thread::sleep(Duration::from_secs(seconds)); // A rate takes time.
    (served(coordinator) - from) as f64 / began.elapsed().as_secs_f64()
}

#[test]
fn a_site_s_share_of_the_wan_is_set_while_it_fetches_and_outlives_restarts() {
    let Some(lab) = Lab::new(&[3], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let limit = |args: &[&str]| coordinator.verb(&[&["limit"], args].concat());
    let reason = limit(&["set", "--site", "nowhere", "--wan", "1MB/s"]).refused(3);
    assert!(reason.contains("there are: site-1"), "{reason}");
    limit(&["set", "--site", "site-1", "--wan", "1MB/s"]).done();
    let listed = limit(&["list"]).done();
    assert_eq!(listed["limits"][0]["rates"][0]["wan"], 1_000_000, "{listed}");

    let payload = random_file(&lab.dir().join("payload"), 96 << 20, 17);
    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    wait::until("the download to be under way", WITHIN, || match served(&coordinator) {
        bytes if bytes > BUFFERED => Ok(()),
        bytes => Err(format!("{bytes}")),
    });
    let slow = rate(&coordinator, 10);
    println!("LAB {{\"test\":\"limit\",\"set\":1000000,\"measured\":{slow:.0}}}");
    assert!((300_000.0..1_300_000.0).contains(&slow), "three machines together: {slow} bytes per second");

    // A machine that was off keeps the order, though its coordinator says nothing new.
    nodes[0].kill();
    nodes[0].start();
    wait::until("the machine to be back, and to know its share", WITHIN, || {
        let node = &nodes[0];
        let verb = program::verb(&node.host.namespace, &["node", "status", "--data-dir", text(&node.dir)]);
        match verb.json["wan_share"].as_u64() {
            Some(1..=1_000_000) => Ok(()),
            _ => Err(format!("{} {}", verb.json, verb.said)),
        }
    });

    // More, at once; then no limit.
    limit(&["set", "--site", "site-1", "--wan", "4MB/s"]).done();
    let faster = rate(&coordinator, 6);
    println!("LAB {{\"test\":\"limit\",\"set\":4000000,\"measured\":{faster:.0}}}");
    assert!((1_500_000.0..5_200_000.0).contains(&faster), "{faster} bytes per second");
    limit(&["remove", "--site", "site-1"]).done();
    let reason = limit(&["remove", "--site", "site-1"]).refused(3);
    assert!(reason.contains("nothing to take back"), "{reason}");
    coordinator.wait_for_installs(&nodes, &published.release, WITHIN);
    let copies = served(&coordinator) as f64 / (96 << 20) as f64;
    assert!(copies < 1.05, "{copies} copies: who is slow because it must be is not passed over");
}
