//! Strangers: whoever has a key and no certificate. They take no place, no entry and no line that is a member's.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::wire::{self, Message};

/// More than a machine has places for members, and entries for those that it shuts out.
const CROWD: usize = 2_000;

fn stranger(number: usize) -> DeviceId {
    DeviceId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn hello(certificate: Vec<u8>) -> Message {
    Message::Hello { version: wire::VERSION, certificate: list(certificate), head: list(vec![]), root_version: 1 }
}

/// A machine of the site that shows its certificate.
fn member(seed: u8, bench: &mut Bench, world: &World) -> DeviceId {
    let certificate = certificate(&key(seed));
    bench.input(Input::PeerUp { peer: certificate.device, dialled: None });
    bench.frame(certificate.device, &hello(world.certificate_doc(&certificate)));
    certificate.device
}

fn kind_of(bench: &Bench, peer: DeviceId) -> Option<&'static str> {
    let status = bench.state.status(bench.now.mono);
    status.peers.iter().find(|other| other.device == peer).map(|other| other.kind)
}

#[test]
fn silent_strangers_take_no_member_s_place() {
    let world = World::new();
    let mut bench = Bench::new(&world.simple(7), |_| ());
    let first = member(41, &mut bench, &world);
    for number in 0..CROWD {
        bench.pass(Duration::from_millis(1));
        bench.input(Input::PeerUp { peer: stranger(number), dialled: None });
        assert!(bench.state.status(bench.now.mono).peers.len() <= 24, "strangers are kept without bound");
    }
    let late = member(42, &mut bench, &world);
    for peer in [first, late] {
        assert_eq!(kind_of(&bench, peer), Some("member"));
    }
    // The newest of them is heard still: it may be a member whose certificate is under way.
    assert_eq!(kind_of(&bench, stranger(CROWD - 1)), Some("greeting"));
    bench.pass(Duration::from_secs(11));
    assert_eq!(kind_of(&bench, stranger(CROWD - 1)), None, "it did not say hello in time");
    assert_eq!(kind_of(&bench, first), Some("member"));
}

#[test]
fn strangers_fill_neither_the_list_of_those_shut_out_nor_the_log() {
    let world = World::new();
    let mut bench = Bench::new(&world.simple(7), |_| ());
    let stolen = world.certificate_doc(&certificate(&key(41)));
    bench.asked.clear();
    for number in 0..CROWD {
        let peer = stranger(number);
        bench.input(Input::PeerUp { peer, dialled: None });
        // Another's certificate, bytes that are no message, a message that is the coordinator's.
        match number % 3 {
            0 => bench.frame(peer, &hello(stolen.clone())),
            1 => bench.input(Input::Frame { peer, bytes: vec![0xff; 40] }),
            _ => bench.frame(peer, &Message::FirstOfSite),
        }
        assert_eq!(kind_of(&bench, peer), None);
    }
    assert_eq!(bench.state.bans(), 0, "an entry for a key that costs nothing");
    let alarms = bench.asked.iter().filter(|output| matches!(output, Output::Alarm(_))).count();
    assert_eq!(alarms, 0, "a line of the log for each stranger");
    // A member that breaks the protocol is still shut out, and told of.
    let bad = member(41, &mut bench, &world);
    bench.input(Input::Frame { peer: bad, bytes: vec![0xff; 40] });
    assert_eq!((bench.state.bans(), kind_of(&bench, bad)), (1, None));
    assert!(bench.asked.iter().any(|output| matches!(output, Output::Alarm(_))));
}

#[test]
fn of_more_members_than_there_is_room_for_the_last_is_refused_and_strangers_change_nothing() {
    let world = World::new();
    let mut bench = Bench::new(&world.simple(7), |_| ());
    let members: Vec<_> = (100..164).map(|seed| member(seed, &mut bench, &world)).collect();
    for number in 0..100 {
        bench.input(Input::PeerUp { peer: stranger(number), dialled: None });
    }
    assert_eq!(members.iter().filter(|peer| kind_of(&bench, **peer) == Some("member")).count(), 64);
    let over = member(200, &mut bench, &world);
    assert_eq!(kind_of(&bench, over), None);
    let said = told(&bench.state.explain_peer(&over, bench.now));
    assert!(said.contains("64 members"), "{said}");
}
