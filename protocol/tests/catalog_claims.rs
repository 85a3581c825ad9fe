//! A neighbour that says it has the catalog and does not give it keeps nobody from asking others.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::wire::{self, Message};

/// A machine of the site whose program does as it likes: it shows its certificate and claims an index.
fn claims(bench: &mut Bench, world: &World, edition: &Edition) -> DeviceId {
    claims_as(41, bench, world, edition)
}

fn claims_as(seed: u8, bench: &mut Bench, world: &World, edition: &Edition) -> DeviceId {
    let mut certificate = certificate(&key(seed));
    certificate.label = text("pc-2");
    let peer = certificate.device;
    let (certificate, head) = (list(world.certificate_doc(&certificate)), list(edition.head.clone()));
    bench.input(Input::PeerUp { peer, dialled: None });
    let hello = Message::Hello { version: wire::VERSION, certificate, head, root_version: 1 };
    for message in [hello, Message::Catalog { index: DocHash::of(&edition.index) }] {
        bench.input(Input::Frame { peer, bytes: message.encode().unwrap() });
    }
    peer
}

#[test]
fn a_neighbour_that_claims_the_catalog_and_gives_nothing_is_passed_by() {
    let world = World::new();
    let mut bench = Bench::new(&world.simple(7), |config| config.origins = vec!["http://origin".into()]);
    bench.asked.clear();
    let peer = claims(&mut bench, &world, &world.simple(8));
    let asked = |bench: &mut Bench| {
        let asked = bench.asked.extract_if(.., |output| matches!(output, Output::FetchDoc { .. }));
        let asked = asked.filter_map(|output| match output {
            Output::FetchDoc { fetch, from, .. } => Some((fetch, from)),
            _ => None,
        });
        asked.collect::<Vec<_>>()
    };
    // The head came a moment before the claim, and the origin was asked; it brings nothing, and the neighbour is asked instead.
    bench.pass(Duration::from_secs(1));
    let first = asked(&mut bench);
    let [.., (fetch, FetchFrom::Peer(from))] = &first[..] else { panic!("{first:?}") };
    assert_eq!(*from, peer);
    let result = Err(FetchError::Unreachable("it does not answer".into()));
    bench.input(Input::DocFetched { fetch: *fetch, result });
    bench.pass(Duration::from_secs(10));
    let next = asked(&mut bench);
    assert!(matches!(&next[..], [(_, FetchFrom::Urls(_)), ..]), "{next:?}");
    // The origin fails too: then whoever may have recovered is asked again.
    bench.input(Input::DocFetched { fetch: next[0].0, result: Err(FetchError::Unreachable("down".into())) });
    bench.pass(Duration::from_secs(10));
    let again = asked(&mut bench);
    assert!(matches!(&again[..], [(_, FetchFrom::Peer(from)), ..] if *from == peer), "{again:?}");
}

#[test]
fn a_wan_that_brings_nothing_keeps_nobody_from_asking_a_neighbour() {
    let world = World::new();
    let newer = world.simple(8);
    let mut bench = Bench::new(&world.simple(7), |config| config.origins = vec!["http://origin".into()]);
    bench.asked.clear();
    // The head comes first, while nobody is here: the index is asked of the origin, which does not answer.
    bench.input(Input::Gossip { id: 1, from: DeviceId([9; 32]), topic: wire::Topic::Head, bytes: newer.head.clone() });
    bench.pass(Duration::from_secs(6));
    let wan = bench.asked.iter().any(|output| matches!(output, Output::FetchDoc { from: FetchFrom::Urls(_), .. }));
    assert!(wan, "{:?}", bench.asked);
    bench.asked.clear();
    let peer = claims(&mut bench, &world, &newer);
    bench.pass(Duration::from_secs(1));
    let canceled = bench.asked.iter().any(|output| matches!(output, Output::Cancel { .. }));
    let asked = bench
        .asked
        .iter()
        .any(|output| matches!(output, Output::FetchDoc { from: FetchFrom::Peer(from), .. } if *from == peer));
    assert!(canceled && asked, "{:?}", bench.asked);
}

/// However many claim to hold the catalog, three that keep silent are waited for, and then the origin is asked.
#[test]
fn silent_claimants_hold_nobody_up_for_long() {
    let world = World::new();
    let mut bench = Bench::new(&world.simple(7), |config| config.origins = vec!["http://origin".into()]);
    let newer = world.simple(8);
    for seed in 41..53 {
        claims_as(seed, &mut bench, &world, &newer);
    }
    bench.asked.clear();
    let at_origin = |bench: &Bench| {
        let urls = |output: &&Output| matches!(output, Output::FetchDoc { from: FetchFrom::Urls(_), .. });
        bench.asked.iter().filter(urls).count()
    };
    let mut waited = Duration::ZERO;
    while at_origin(&bench) == 0 {
        bench.pass(Duration::from_secs(1));
        waited += Duration::from_secs(1);
        assert!(waited < Duration::from_secs(25), "{:?}", bench.asked);
    }
}

/// Who lacks a page, because it is of other groups, has the next one asked at once.
#[test]
fn what_a_neighbour_of_other_groups_lacks_costs_one_answer() {
    let world = World::new();
    let mut bench = Bench::new(&world.simple(7), |config| config.origins = vec!["http://origin".into()]);
    let newer = world.simple(8);
    bench.asked.clear();
    for seed in 41..44 {
        claims_as(seed, &mut bench, &world, &newer);
    }
    bench.pass(Duration::from_secs(1));
    let before = bench.now.mono;
    let mut asked = Vec::new();
    while asked.len() < 3 {
        let fetch = bench.asked.extract_if(.., |output| matches!(output, Output::FetchDoc { .. })).last();
        let Some(Output::FetchDoc { fetch, from: FetchFrom::Peer(from), .. }) = fetch else { panic!("{fetch:?}") };
        assert!(!asked.contains(&from), "each is asked once");
        asked.push(from);
        let lacks = Err(FetchError::Status(wire::BlockStatus::NotHeld));
        bench.input(Input::DocFetched { fetch, result: lacks });
    }
    assert_eq!(bench.now.mono, before, "without any wait");
}
