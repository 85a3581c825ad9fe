//! The catalog's news: every change of it reaches every machine.

use std::time::Duration;

use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, random_file};
use upswarm_tests::lab::{Lab, Rates};

/// Gossip alone loses a message now and then; whoever missed one must catch up by itself.
#[test]
fn every_one_of_many_heads_reaches_every_machine() {
    let Some(lab) = Lab::new(&[6], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    for round in 1..=10u64 {
        let payload = random_file(&lab.dir().join(format!("payload-{round}")), (64 << 10) + round, round);
        let published = coordinator.publish(&format!("{round}.0"), &payload);
        coordinator.approve(&published.release);
        coordinator.wait_for_installs(&nodes, &published.release, Duration::from_secs(20));
    }
}
