use super::bench::{Bench, acknowledgement, device, enrol, opens, relay, sent, signed_report};
use super::*;
use crate::wire;

#[test]
fn reports_are_believed_only_from_their_device_and_acknowledged_when_stored() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    bench.member(21);
    // Relayed by a neighbour.
    let open = opens(&bench.frame(device(21), &relay(20, 5)))[0];
    let outputs = bench.input(Input::ReportOpened { open, bytes: Some(signed_report(20, 5, 20)) });
    assert!(sent(&outputs, device(21)).iter().all(|m| !matches!(m, Message::RelayAck { .. })), "not stored yet");
    let acknowledged = sent(&bench.sync(), device(21));
    assert!(acknowledged.contains(&acknowledgement(20, 5)));

    // Old: acknowledged, not stored.
    let open = opens(&bench.frame(device(21), &relay(20, 4)))[0];
    let outputs = bench.input(Input::ReportOpened { open, bytes: Some(signed_report(20, 4, 20)) });
    assert_eq!(sent(&outputs, device(21)), [acknowledgement(20, 4)]);
    let count = |bench: &Bench| bench.durable.iter().filter(|r| matches!(r, Record::Report(..))).count();
    assert_eq!(count(&bench), 1);
    for (what, bytes) in [
        ("not encrypted to us", None),
        ("signed by another", Some(signed_report(20, 6, 21))),
        ("another device's", Some(signed_report(21, 6, 21))),
        ("another number's", Some(signed_report(20, 7, 20))),
    ] {
        let open = opens(&bench.frame(device(21), &relay(20, 6)))[0];
        bench.input(Input::ReportOpened { open, bytes });
        bench.sync();
        assert_eq!(count(&bench), 1, "{what}");
    }
    assert!(opens(&bench.frame(device(21), &relay(99, 1))).is_empty(), "of an unknown device");
}

#[test]
fn endless_relays_stay_bounded() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    bench.member(21);
    let opened: usize = (1..1000).map(|seq| opens(&bench.frame(device(21), &relay(20, seq))).len()).sum();
    assert!(opened <= 16, "{opened} at once");
    // A device that reports without end is cut to its allowance.
    let mut stored = 0;
    for seq in 1000..2000 {
        for open in opens(&bench.frame(device(20), &relay(20, seq))) {
            bench.input(Input::ReportOpened { open, bytes: Some(signed_report(20, seq, 20)) });
        }
        stored += bench.written.len();
        bench.sync();
    }
    assert!((1..=64).contains(&stored), "{stored} were stored");
}

#[test]
fn members_of_a_site_hear_of_each_other() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    bench.member(21);
    let open = opens(&bench.frame(device(20), &relay(20, 1)))[0];
    let outputs = bench.input(Input::ReportOpened { open, bytes: Some(signed_report(20, 1, 20)) });
    let wanted = Message::Peers(Bounded::new(vec![Text::lossy("/ip4/10.0.0.20/tcp/1")]).unwrap());
    assert_eq!(sent(&outputs, device(21)), [wanted]);
    bench.sync();
    bench.invite([22; 32], 1);
    bench.input(Input::PeerUp { peer: device(22) });
    bench.frame(device(22), &enrol([22; 32]));
    let Message::Enrolled { peers, .. } = &sent(&bench.sync(), device(22))[0] else { panic!("not enrolled") };
    assert_eq!(peers.len(), 1);
}

#[test]
fn the_first_of_each_site_is_told_that_it_is() {
    let mut bench = Bench::new();
    bench.sync();
    let enrolled: Vec<_> = (20..23).map(|n| (n, bench.member(n))).collect();
    for (n, _) in &enrolled {
        bench.input(Input::PeerDown { peer: device(*n) });
    }
    for (n, certificate) in &enrolled {
        bench.input(Input::PeerUp { peer: device(*n) });
        let hello = Message::Hello {
            version: wire::VERSION,
            certificate: certificate.clone(),
            head: Bounded::default(),
            root_version: 1,
        };
        let told = sent(&bench.frame(device(*n), &hello), device(*n)).contains(&Message::FirstOfSite);
        assert_eq!(told, *n == 20, "{n}");
    }
}

#[test]
fn of_many_that_come_together_each_hears_of_others() {
    let mut bench = Bench::new();
    bench.sync();
    let machines = 20..60;
    machines.clone().for_each(|n| drop(bench.member(n)));
    let mut told = BTreeSet::new();
    for n in machines.clone() {
        let open = opens(&bench.frame(device(n), &relay(n, 1)))[0];
        let outputs = bench.input(Input::ReportOpened { open, bytes: Some(signed_report(n, 1, n)) });
        let hears = |peer: &u8| {
            sent(&outputs, device(*peer)).iter().any(|m| matches!(m, Message::Peers(hints) if !hints.is_empty()))
        };
        told.extend(machines.clone().filter(hears));
    }
    assert_eq!(told.len(), machines.len());
}
