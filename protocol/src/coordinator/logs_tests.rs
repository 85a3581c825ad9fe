use super::bench::{Bench, answer, device, hello, key, opens, relay, sent, signed_report};
use super::*;
use crate::codec;
use crate::report::{DeviceMessage, LogOrder, LogReport, MAX_LOG, MAX_LOG_PART, News};

/// Brings a message of a device to the coordinator. Returns the news of the acknowledgement, if there is one.
fn told(bench: &mut Bench, (seed, seq): (u8, u64), bytes: Vec<u8>, bearer: u8) -> Option<News> {
    let open = opens(&bench.frame(device(bearer), &relay(seed, seq)))[0];
    let receipt = report::receipt(&bytes);
    let mut outputs = bench.input(Input::ReportOpened { open, bytes: Some(bytes) });
    outputs.extend(bench.sync());
    let news = |message| match message {
        Message::RelayAck { news, .. } => Some(News::reveal(&receipt, &news).unwrap()),
        _ => None,
    };
    sent(&outputs, device(bearer)).into_iter().find_map(news)
}

fn ordered(news: &News) -> Option<LogOrder> {
    let root = super::bench::root();
    (!news.log.is_empty()).then(|| open_online(&root, &news.log, Kind::LogOrder).unwrap())
}

fn piece(order: &LogOrder, (part, parts): (u16, u16), text: &[u8]) -> LogReport {
    LogReport {
        device: order.device,
        seq: 0,
        issued: order.issued,
        release: order.release,
        ordered: order.issued,
        part,
        parts,
        found: true,
        text: Bounded::truncated(text.to_vec()),
    }
}

fn signed(seed: u8, seq: u64, report: LogReport) -> Vec<u8> {
    let message = DeviceMessage::Log(Box::new(LogReport { seq, ..report }));
    envelope::sign(Kind::Report, Role::Device, &message, &[&key(seed)]).unwrap()
}

fn log(bench: &Bench, seed: u8) -> (DeviceLog, (usize, u16)) {
    let [(log, progress)] = bench.state.device_logs(&device(seed)).collect::<Vec<_>>().try_into().unwrap();
    (log.clone(), progress)
}

#[test]
fn a_log_is_asked_for_through_a_neighbour_comes_in_pieces_and_survives_restarts() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    let certificate = bench.member(21);
    bench.input(Input::PeerDown { peer: device(20) });
    let release = bench.published(1);
    told(&mut bench, (20, 1), signed_report(20, 1, 20), 21);
    let mut outputs = bench.admin(Command::AskLog { device: device(20), release });
    assert!(sent(&outputs, device(21)).is_empty(), "nothing that a restart could take back leaves");
    outputs.extend(bench.sync());
    assert_eq!(sent(&outputs, device(21)), [Message::Call { device: device(20) }], "its neighbour learns nothing more");
    assert!(matches!(answer(outputs), Some(Ok(_))));
    assert!(log(&bench, 20).0.is_awaited());

    // The coordinator restarts before the device was heard.
    let mut bench = Bench::restart(bench.durable.clone(), bench.now);
    bench.sync();
    bench.input(Input::PeerUp { peer: device(21) });
    bench.frame(device(21), &hello(certificate));
    let news = told(&mut bench, (20, 2), signed_report(20, 2, 20), 21).unwrap();
    let order = ordered(&news).expect("the order survives");
    assert_eq!((order.device, order.release), (device(20), release));
    let other = told(&mut bench, (21, 2), signed_report(21, 2, 21), 21).unwrap();
    assert_eq!(ordered(&other), None, "nobody else is asked");

    let text = [vec![b'a'; MAX_LOG_PART], b"the end".to_vec()];
    for (seq, part) in [(3, 1u16), (4, 1)] {
        told(&mut bench, (20, seq), signed(20, seq, piece(&order, (part, 2), &text[1])), 21).expect("acknowledged");
        assert_eq!(log(&bench, 20).1, (1, 2), "a piece that comes twice counts once");
    }
    let again = told(&mut bench, (20, 5), signed_report(20, 5, 20), 21).unwrap();
    assert_eq!(ordered(&again), Some(order), "until it is all there");
    told(&mut bench, (20, 6), signed(20, 6, piece(&order, (0, 2), &text[0])), 21).expect("acknowledged");
    let (whole, _) = log(&bench, 20);
    assert!(!whole.is_awaited() && whole.found && *whole.text == text.concat());
    let done = told(&mut bench, (20, 7), signed_report(20, 7, 20), 21).unwrap();
    assert_eq!(ordered(&done), None);
    let bench = Bench::restart(bench.durable.clone(), bench.now);
    assert_eq!(log(&bench, 20).0, whole, "after a restart");
}

#[test]
fn pieces_that_nobody_asked_for_change_nothing_and_are_acknowledged() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    let release = bench.published(1);
    bench.done(Command::AskLog { device: device(20), release }).unwrap();
    let order = ordered(&told(&mut bench, (20, 1), signed_report(20, 1, 20), 20).unwrap()).unwrap();
    let earlier = LogOrder { issued: order.issued - Duration::from_secs(9), ..order };
    let elsewhere = LogOrder { release: ReleaseId([9; 32]), ..order };
    let bad = [
        piece(&earlier, (0, 1), b"x"),
        piece(&elsewhere, (0, 1), b"x"),
        piece(&order, (1, 1), b"x"),
        piece(&order, (0, 0), b"x"),
        piece(&order, (0, report::MAX_LOG_PARTS + 1), b"x"),
    ];
    for (report, seq) in bad.into_iter().zip(2..) {
        told(&mut bench, (20, seq), signed(20, seq, report), 20).expect("or the device would send it for ever");
        assert_eq!(log(&bench, 20).1, (0, 0));
    }
    let other = signed(21, 9, piece(&LogOrder { device: device(21), ..order }, (0, 1), b"x"));
    let open = opens(&bench.frame(device(20), &relay(20, 9)))[0];
    bench.input(Input::ReportOpened { open, bytes: Some(other) });
    assert!(log(&bench, 20).0.is_awaited(), "another device's word");

    // Asked again: what was there stays until the new answer has come.
    told(&mut bench, (20, 10), signed(20, 10, piece(&order, (0, 1), b"first")), 20);
    bench.done(Command::AskLog { device: device(20), release }).unwrap();
    let (known, _) = log(&bench, 20);
    assert!(known.is_awaited() && &*known.text == b"first");
    bench.done(Command::Revoke(device(20))).unwrap();
    assert_eq!(bench.state.device_logs(&device(20)).count(), 0, "what it told is forgotten");
    assert_eq!(Bench::restart(bench.durable.clone(), bench.now).state.device_logs(&device(20)).count(), 0);
    let gone = bench.done(Command::AskLog { device: device(20), release });
    assert!(matches!(gone, Err(Refusal::UnknownDevice(_))));
}

#[test]
fn few_logs_are_kept_and_those_that_have_come_go_first() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    let releases: Vec<ReleaseId> = (1..=70).map(|counter| bench.published(counter)).collect();
    for release in &releases[..64] {
        bench.done(Command::AskLog { device: device(20), release: *release }).unwrap();
        bench.now.wall = bench.now.wall + Duration::from_secs(1);
    }
    let order = ordered(&told(&mut bench, (20, 1), signed_report(20, 1, 20), 20).unwrap()).unwrap();
    assert_eq!(order.release, releases[0], "the first question first");
    told(&mut bench, (20, 2), signed(20, 2, piece(&order, (0, 1), &[b'x'; 99])), 20);
    let next = ordered(&told(&mut bench, (20, 3), signed_report(20, 3, 20), 20).unwrap()).unwrap();
    assert_eq!(next.release, releases[1]);
    told(&mut bench, (20, 4), signed(20, 4, piece(&next, (0, 1), &[b'x'; 99])), 20);
    for release in &releases[64..] {
        bench.done(Command::AskLog { device: device(20), release: *release }).unwrap();
        bench.now.wall = bench.now.wall + Duration::from_secs(1);
    }
    let kept: BTreeSet<ReleaseId> = bench.state.device_logs(&device(20)).map(|(log, _)| log.release).collect();
    assert_eq!(kept.len(), 64);
    assert!(!kept.contains(&releases[0]) && !kept.contains(&releases[1]) && kept.contains(&releases[69]));
    let most = DeviceLog {
        device: device(20),
        release: releases[0],
        asked: bench.now.wall,
        received: Some(bench.now.wall),
        found: true,
        text: Bounded::truncated(vec![b'x'; MAX_LOG]),
    };
    let bytes = codec::encode(&(1u8, most.clone()), MAX_LOG_RECORD).expect("the largest fits");
    let stored = Stored { logs: vec![bytes, vec![1, 2]], ..Stored::default() };
    let bench = Bench::with(stored, bench.now);
    assert_eq!(log(&bench, 20).0, most, "a damaged one is left out");
}
