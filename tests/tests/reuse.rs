//! A second release that shares content with the first, and a site beside another.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, random_file};
use upswarm_tests::lab::{Lab, Rates};

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn of_a_second_release_only_new_chunks_cross_the_wan() {
    let Some(lab) = Lab::new(&[4], Rates::default()) else { return };
    let first = random_file(&lab.dir().join("first"), 64 << 20, 1);
    // 30 % new: one part replaced, one inserted, so that most old content lies at another offset.
    let (old, new) = (fs::read(&first).unwrap(), fs::read(random_file(&lab.dir().join("new"), 20 << 20, 2)).unwrap());
    let second = lab.dir().join("second");
    let parts =
        [&old[..20 << 20], &new[..10 << 20], &old[30 << 20..50 << 20], &new[10 << 20..], &old[50 << 20..60 << 20]];
    fs::write(&second, parts.concat()).unwrap();

    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let one = coordinator.publish("1.0", &first);
    coordinator.approve(&one.release);
    let before = coordinator.wait_for_installs(&nodes, &one.release, PATIENCE).origin.payload_bytes;

    let two = coordinator.publish("2.0", &second);
    let held: BTreeSet<_> = coordinator.chunk_list(&one.payloads[0]).chunks().iter().map(|chunk| chunk.id).collect();
    let list = coordinator.chunk_list(&two.payloads[0]);
    let missing: std::collections::BTreeMap<_, _> =
        list.chunks().iter().filter(|chunk| !held.contains(&chunk.id)).map(|chunk| (chunk.id, chunk.len)).collect();
    let missing: u64 = missing.values().map(|len| u64::from(*len)).sum();
    assert!((20 << 20..24 << 20).contains(&missing), "the test's own content: {missing} bytes are new");

    coordinator.approve(&two.release);
    let status = coordinator.wait_for_installs(&nodes, &two.release, PATIENCE);
    let served = status.origin.payload_bytes - before;
    println!(
        "LAB {{\"test\":\"second_release\",\"payload_bytes\":{},\"missing_bytes\":{missing},\"origin_bytes\":{served}}}",
        list.payload_len()
    );
    assert_eq!(served, missing, "the origin serves each new chunk once and nothing else");
    for node in &nodes {
        assert!(node.has_installed(&second), "{}", node.label);
        let reused = status.device(&node.label).expect("it reported").bytes.local_reuse;
        assert_eq!(reused, list.payload_len() - missing, "{} takes every old chunk from its own disk", node.label);
    }
}

#[test]
fn each_of_two_sites_takes_one_copy_and_gives_the_other_nothing() {
    let Some(lab) = Lab::new(&[3, 3], Rates::default()) else { return };
    let len = 64 << 20;
    let payload = random_file(&lab.dir().join("payload"), len, 3);
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.extend(join_all(&coordinator, &lab, 1, Joining::default()));
    // One machine is even told of a machine at the other site: it must not take bytes from there.
    let far = format!("/ip4/{}/tcp/4410", nodes[3].host.address);
    nodes[0].configure(|config| {
        config.insert("peers".into(), vec![far].into());
    });
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    let before = [lab.sites[0].wan(), lab.sites[1].wan()];
    coordinator.approve(&published.release);
    let status = coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);

    assert_eq!(status.origin.payload_bytes, 2 * len, "one copy for each site");
    for (site, before) in lab.sites.iter().zip(before) {
        let crossed = site.wan() - before;
        println!(
            "LAB {{\"test\":\"two_sites\",\"payload_bytes\":{len},\"wan_rx\":{},\"wan_tx\":{}}}",
            crossed.rx, crossed.tx
        );
        assert!(crossed.rx > len && crossed.rx < len + len * 6 / 100, "{} bytes came over the WAN", crossed.rx);
        // Acknowledgements and requests: a payload's bytes would be many times more.
        assert!(crossed.tx < len / 16, "{} bytes left the site", crossed.tx);
    }
    for site in ["site-1", "site-2"] {
        let fetched: u64 =
            status.devices.iter().filter(|device| device.site == site).map(|device| device.bytes.origin).sum();
        assert_eq!(fetched, len, "{site}");
    }
}
