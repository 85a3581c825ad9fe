//! A machine through a change of the online keys: it finds the new root, asks for what the new keys sign, and a stop in between
//! loses nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::bench::{Bench, COORDINATOR, approved};
use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::node::*;
use upswarm_protocol::wire::{BlockWhat, Message};

fn sent_to_coordinator(bench: &mut Bench) -> Vec<Message> {
    let sent = bench.asked.extract_if(.., |output| matches!(output, Output::Send { peer, .. } if *peer == COORDINATOR));
    let frames = sent.filter_map(|output| if let Output::Send { frame, .. } = output { Some(frame) } else { None });
    frames.map(|frame| Message::decode(&frame).unwrap()).collect()
}

/// Gives the root of this version to whoever asks for it.
fn give_root(bench: &mut Bench, version: u64, bytes: &[u8]) {
    let fetch = bench.asked.iter().find_map(|output| match output {
        Output::FetchDoc { fetch, what: BlockWhat::Root(asked), .. } if *asked == version => Some(*fetch),
        _ => None,
    });
    let fetch = fetch.unwrap_or_else(|| panic!("root {version} is not asked for: {:?}", bench.asked));
    bench.input(Input::DocFetched { fetch, result: Ok(bytes.to_vec()) });
}

#[test]
fn a_machine_that_hears_of_new_online_keys_walks_to_their_root_and_asks_for_a_certificate() {
    let (edition, _) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    bench.hears_the_coordinator(&edition, &[]);
    bench.pass(Duration::from_secs(1));
    sent_to_coordinator(&mut bench);
    let world = World::new().with_online(31);
    let fresh = world.edition(1, edition.documents.clone());
    bench.frame(COORDINATOR, &Message::Head(list(fresh.head.clone())));
    // Sent before it can be checked, a certificate is left aside and no alarm.
    let own = Certificate { issued: NOW - DAY, ..certificate(&key(40)) };
    bench.frame(COORDINATOR, &Message::Renewed { certificate: list(world.certificate_doc(&own)) });
    let alarms = bench.asked.iter().filter(|output| matches!(output, Output::Alarm(_))).count();
    assert_eq!((alarms, bench.state.certificate().issued), (0, certificate(&key(40)).issued));
    give_root(&mut bench, 2, &world.root_doc());
    bench.pass(Duration::from_millis(10));
    assert!(sent_to_coordinator(&mut bench).contains(&Message::Renew));
    assert_eq!(bench.state.trust().head_bytes(), Some(fresh.head.as_slice()));
    // It asks until it has one, and the date of one by a removed key is no bound.
    bench.pass(Duration::from_secs(40));
    assert!(sent_to_coordinator(&mut bench).contains(&Message::Renew), "asked again");
    bench.frame(COORDINATOR, &Message::Renewed { certificate: list(world.certificate_doc(&own)) });
    assert_eq!(bench.state.certificate().issued, NOW - DAY);
    bench.frame(COORDINATOR, &Message::Assignment(list(world.assignment_doc(&assignment(&key(40))))));
    bench.pass(Duration::from_secs(300));
    assert!(!sent_to_coordinator(&mut bench).contains(&Message::Renew), "and then no more");
}

#[test]
fn a_restart_between_the_new_root_and_the_new_certificate_loses_nothing() {
    let (edition, _) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    let mut trust = World::new().trust();
    edition.offer_to(&mut trust);
    // Two changes of the keys, and no certificate in between.
    let (second, third) = (World::new().with_online(31), World::new().with_online(31).with_online(32));
    for world in [&second, &third] {
        trust.offer_root(&world.root_doc(), NOW).unwrap();
    }
    bench.restored.trust = trust.snapshot();
    bench.again(|_| ());
    assert_eq!(bench.state.certificate().device, bench.device());
    bench.hears_the_coordinator(&third.edition(1, vec![]), &[]);
    bench.pass(Duration::from_millis(10));
    assert!(sent_to_coordinator(&mut bench).contains(&Message::Renew));
}
