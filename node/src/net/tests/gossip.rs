//! Gossip between hosts: how far it goes, and that it does not fall silent.

use std::collections::BTreeMap;

use super::*;

#[tokio::test]
async fn gossip_goes_as_far_as_the_verdicts_let_it() {
    let (mut a, mut b, mut c) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    for node in [&a, &b, &c] {
        node.host.subscribe(Topic::Head).await;
    }
    connect(&mut a, &mut b).await;
    connect(&mut b, &mut c).await;
    // Of three numbers B accepts one, ignores one and rejects one. A goes on because subscriptions need a moment to be known.
    let (a_id, b_id) = (a.id(), b.id());
    let publisher = a.host.clone();
    let publishing = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for number in 0u32.. {
            publisher.publish(Topic::Head, number.to_le_bytes().to_vec()).await;
            pace.tick().await;
        }
    });
    let judging = tokio::spawn(async move {
        let mut judged = BTreeMap::new();
        while judged.len() < 60 {
            let (id, from, topic, bytes) = b
                .until(|event| match event {
                    HostEvent::Gossip { id, from, topic, bytes } => Some((id, from, topic, bytes)),
                    _ => None,
                })
                .await;
            assert_eq!((from, topic), (a_id, Topic::Head));
            let number = u32::from_le_bytes(bytes.try_into().unwrap());
            let verdict = [Verdict::Accept, Verdict::Ignore, Verdict::Reject][number as usize % 3];
            assert!(judged.insert(number, verdict).is_none(), "a message came twice");
            b.host.verdict(id, from, verdict).await;
        }
        (b, judged)
    });
    let mut heard = 0;
    while heard < 10 {
        let (from, bytes) = c
            .until(|event| match event {
                HostEvent::Gossip { from, bytes, .. } => Some((from, bytes)),
                _ => None,
            })
            .await;
        assert_eq!(from, b_id);
        assert_eq!(u32::from_le_bytes(bytes.try_into().unwrap()) % 3, 0, "an unaccepted message was passed on");
        heard += 1;
    }
    let (_b, judged) = judging.await.unwrap();
    assert!(judged.values().filter(|verdict| **verdict == Verdict::Reject).count() >= 10);
    publishing.abort();
}

/// Of so many that dial one, some find no place in its mesh: at every heartbeat it offers them a list of what it has said
/// lately. A list that exceeds what they read would cost them the stream, and after some of those all gossip from it.
#[tokio::test]
async fn long_lists_of_what_was_said_silence_nobody() {
    const LEAVES: u8 = 20;
    const HEARTBEATS: u32 = 12;
    const PER_TICK: u32 = 8;
    let many = |seed: u8| HostConfig { max_connections: 32, ..config(seed) };
    let tick = Duration::from_millis(20);
    let ticks = HEARTBEATS * (swarm::HEARTBEAT.as_millis() / tick.as_millis()) as u32;
    let mut centre = Node::with(many(100)).await;
    centre.host.subscribe(Topic::Head).await;
    let mut leaves = JoinSet::new();
    for seed in 1..=LEAVES {
        let mut leaf = Node::with(many(seed)).await;
        leaf.host.subscribe(Topic::Head).await;
        connect(&mut leaf, &mut centre).await;
        leaves.spawn(async move {
            // Through everything that is said, until it has heard one of the last words.
            loop {
                let gossip = leaf.until(|event| match event {
                    HostEvent::Gossip { id, from, bytes, .. } => Some((id, from, bytes)),
                    _ => None,
                });
                let (id, from, bytes) = gossip.await;
                leaf.host.verdict(id, from, Verdict::Accept).await;
                if u32::from_le_bytes(bytes.try_into().unwrap()) >= ticks * PER_TICK {
                    return leaf;
                }
            }
        });
    }
    let publisher = centre.host.clone();
    let publishing = tokio::spawn(async move {
        let mut pace = tokio::time::interval(tick);
        for number in 0u32.. {
            publisher.publish(Topic::Head, number.to_le_bytes().to_vec()).await;
            if number.is_multiple_of(PER_TICK) {
                pace.tick().await;
            }
        }
    });
    let heard = tokio::time::timeout(PATIENCE, leaves.join_all()).await;
    assert_eq!(heard.expect("every leaf to hear the last words").len(), usize::from(LEAVES));
    publishing.abort();
}
