//! Machines, the coordinator and the origin may end at any moment: the rest goes on, and nothing is fetched twice.

use std::fs;
use std::time::Duration;

use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, random_file, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::origin::Origin;
use upswarm_tests::wait;

const PATIENCE: Duration = Duration::from_secs(150);
/// What a machine may have asked for and not yet verified when it is killed: a dozen blocks of neighbours and two runs over
/// the WAN, of 1 MiB each, and what lies in socket buffers.
const IN_FLIGHT: u64 = 20 << 20;

/// Waits until so many payload bytes have left the coordinator's origin.
fn wait_for_origin(coordinator: &Coordinator<'_>, bytes: u64) {
    wait::until("the origin to have served enough", PATIENCE, || match coordinator.status().origin.payload_bytes {
        served if served >= bytes => Ok(()),
        served => Err(format!("{served} of {bytes}")),
    });
}

#[test]
fn the_busiest_fetcher_is_killed_half_way_and_goes_on_where_it_was() {
    let Some(lab) = Lab::new(&[4], Rates::default()) else { return };
    let len = 256 << 20;
    let payload = random_file(&lab.dir().join("payload"), len, 11);
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    let before: Vec<u64> = nodes.iter().map(|node| node.host.lan().rx).collect();
    coordinator.approve(&published.release);
    wait_for_origin(&coordinator, len / 2);
    let status = coordinator.status();
    let fetched = |node: &Node<'_>| status.device(&node.label).map_or(0, |device| device.bytes.origin);
    let busiest = (0..nodes.len()).max_by_key(|at| fetched(&nodes[*at])).expect("a node");
    assert!(fetched(&nodes[busiest]) > 0, "somebody fetches over the WAN");
    nodes[busiest].kill();
    nodes[busiest].start();
    let status = coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);

    let received: Vec<u64> = nodes.iter().zip(&before).map(|(node, before)| node.host.lan().rx - before).collect();
    let served = status.origin.payload_bytes;
    println!(
        "LAB {{\"test\":\"killed_fetcher\",\"payload_bytes\":{len},\"origin_bytes\":{served},\"received\":{received:?}}}"
    );
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));
    assert!(served >= len && served <= len + len / 50, "{served} bytes served for {len}: more than 1.02 copies");
    // Over all sources, by the kernel's count: had it begun anew, it would be half a payload more.
    let most = len + len * 6 / 100 + IN_FLIGHT;
    assert!(received[busiest] <= most, "the killed machine received {} bytes for {len}", received[busiest]);
    let bytes = status.device(&nodes[busiest].label).expect("it reports again").bytes;
    let counted = bytes.origin + bytes.cache + bytes.lan_peer + bytes.local_reuse;
    assert!(counted <= len, "no byte is counted twice: {bytes:?}");
}

#[test]
fn a_machine_alone_that_is_killed_again_and_again_fetches_little_more_than_one_copy() {
    let Some(lab) = Lab::new(&[1], Rates::default()) else { return };
    let len = 96 << 20;
    let payload = random_file(&lab.dir().join("payload"), len, 12);
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes[0].start();
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    for quarter in 1..=3 {
        wait_for_origin(&coordinator, len / 4 * quarter);
        nodes[0].kill();
        nodes[0].start();
    }
    let status = coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);
    let served = status.origin.payload_bytes;
    println!("LAB {{\"test\":\"killed_three_times\",\"payload_bytes\":{len},\"origin_bytes\":{served}}}");
    assert!(nodes[0].has_installed(&payload));
    // Each time what was in flight on two connections, and in the origin's socket buffers.
    assert!(served <= len + 3 * (8 << 20), "{served} bytes served for {len}");
}

#[test]
fn an_approval_that_is_out_needs_no_coordinator() {
    let Some(lab) = Lab::new(&[4], Rates::default()) else { return };
    let len = 64 << 20;
    let payload = random_file(&lab.dir().join("payload"), len, 13);
    let (mut coordinator, mut origin) = with_static_origin(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    export(&lab, &coordinator);
    origin.start(&lab);
    coordinator.approve(&published.release);
    export(&lab, &coordinator);
    wait::until("the first payload byte", PATIENCE, || match origin.payload_bytes() {
        0 => Err("none yet".to_owned()),
        _ => Ok(()),
    });
    coordinator.stop();
    wait_for_files(&nodes);
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));
    assert_eq!(origin.payload_bytes(), len, "one copy, from the static origin");
    // What the machines had to say meanwhile is not lost.
    coordinator.start();
    coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);
}

#[test]
fn an_origin_that_stops_half_way_and_comes_back_delays_and_costs_nothing_else() {
    let Some(lab) = Lab::new(&[4], Rates::default()) else { return };
    let len = 96 << 20;
    let payload = random_file(&lab.dir().join("payload"), len, 14);
    let (coordinator, mut origin) = with_static_origin(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    export(&lab, &coordinator);
    origin.start(&lab);
    coordinator.approve(&published.release);
    wait::until("half of the payload", PATIENCE, || match origin.payload_bytes() {
        served if served >= len / 2 => Ok(()),
        served => Err(format!("{served} bytes")),
    });
    origin.stop();
    let reason = wait::until("a machine to say what it waits for", PATIENCE, || {
        let status = coordinator.status();
        let found = nodes.iter().find_map(|node| {
            let deployment = status.deployment(&node.label, &published.release)?;
            deployment.reason.contains("origin").then(|| deployment.reason.clone())
        });
        found.ok_or_else(|| format!("{status:?}"))
    });
    assert!(reason.contains("cannot be reached"), "{reason}");
    assert!(nodes.iter().all(|node| !node.installed().exists()));
    origin.start(&lab);
    coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));
    let served = origin.payload_bytes();
    println!("LAB {{\"test\":\"origin_stopped\",\"payload_bytes\":{len},\"origin_bytes\":{served}}}");
    // What was cut off in mid-chunk, and in socket buffers, is served again.
    assert!(served >= len && served <= len + (16 << 20), "{served} bytes served for {len}");
}

/// A running coordinator whose catalog names a static origin, which does not run yet.
fn with_static_origin(lab: &Lab) -> (Coordinator<'_>, Origin) {
    let mut coordinator = Coordinator::init(lab);
    coordinator.origins = vec![Origin::url()];
    coordinator.start();
    (coordinator, Origin::new(&lab.dir().join("www")))
}

fn export(lab: &Lab, coordinator: &Coordinator<'_>) {
    coordinator.verb(&["export", text(&lab.dir().join("www"))]).done();
}

fn wait_for_files(nodes: &[Node<'_>]) {
    wait::until("the payload on every machine", PATIENCE, || {
        match nodes.iter().filter(|node| fs::metadata(node.installed()).is_err()).count() {
            0 => Ok(()),
            missing => Err(format!("missing on {missing} machines")),
        }
    });
}
