//! A coordinator whose clock was set wrong: behind its last signature, or while it ran.

use super::bench::*;
use super::*;

const DAYS: Duration = Duration::from_secs(5 * 86_400);

fn heads(outputs: &[Output]) -> Vec<Head> {
    let head = |output: &Output| match output {
        Output::Publish { topic: Topic::Head, bytes } => Some(open_online(&root(), bytes, Kind::Head).unwrap()),
        _ => None,
    };
    outputs.iter().filter_map(head).collect()
}

fn alarms(outputs: &[Output]) -> Vec<String> {
    let alarm = |output: &Output| if let Output::Raise { text, .. } = output { Some(text.clone()) } else { None };
    outputs.iter().filter_map(alarm).collect()
}

#[test]
fn behind_its_last_signature_it_signs_nothing_but_stops() {
    let mut bench = Bench::new();
    bench.sync();
    let certificate = bench.member(20);
    bench.later(DAYS);
    let signed = heads(&bench.sync())[0];
    // Started again with the clock of five days before.
    let wrong = Now { mono: Mono(0), wall: bench.now.wall - DAYS };
    let mut again = Bench::restart(std::mem::take(&mut bench.durable), wrong);
    let outputs = again.sync();
    assert_eq!(heads(&outputs), [signed], "the last head is shown, nothing is signed");
    assert!(alarms(&outputs)[0].contains("--accept-clock"), "{:?}", alarms(&outputs));
    let outputs = again.later(HEAD_INTERVAL * 3);
    assert!(heads(&outputs).is_empty() && alarms(&outputs).is_empty(), "told once");
    let refused = again.done(Command::Publish(signed_release(again.now.wall, 1, PUBLISHER).1));
    assert!(matches!(refused, Err(Refusal::Clock(Distrust::Behind { .. }))), "{refused:?}");
    again.input(Input::PeerUp { peer: device(20) });
    let outputs = again.frame(device(20), &hello(certificate));
    assert!(matches!(sent(&outputs, device(20))[0], Message::Hello { .. }), "its devices are served");
    // What must stop is stopped, with the date of the last signature.
    again.admin(Command::Hold { hold: Hold::Everything, on: true });
    let stop = heads(&again.sync())[0];
    assert_eq!((stop.index_version, stop.issued), (signed.index_version + 1, signed.issued + Duration::from_millis(1)));
    assert!(matches!(again.done(Command::Hold { hold: Hold::Everything, on: false }), Err(Refusal::Clock(_))));
    // Right again, it goes on by itself.
    again.now.wall = bench.now.wall + HEAD_INTERVAL;
    let later = again.later(clock::LOOK_AGAIN);
    assert!(matches!(later[..], [Output::Over { kind: AlarmKind::Clock, device: None }]), "{later:?}");
    assert_eq!(heads(&again.sync())[0].issued, again.now.wall);
    assert!(again.done(Command::Hold { hold: Hold::Everything, on: false }).is_ok());
}

#[test]
fn an_admin_who_says_that_the_clock_is_right_begins_a_version_with_its_date() {
    let mut bench = Bench::new();
    bench.sync();
    bench.later(DAYS);
    let signed = heads(&bench.sync())[0];
    let right = Now { mono: Mono(0), wall: bench.now.wall - DAYS };
    let mut again = Bench::restart(std::mem::take(&mut bench.durable), right);
    again.sync();
    again.state.accept_clock(again.now).unwrap();
    again.drain();
    let head = heads(&again.sync())[0];
    assert_eq!((head.index_version, head.issued), (signed.index_version + 1, right.wall), "devices take it as newer");
    // And it stays so.
    again.later(HEAD_INTERVAL);
    assert_eq!(heads(&again.sync())[0].issued, again.now.wall);
    let mut third = Bench::restart(std::mem::take(&mut again.durable), again.now);
    assert!(alarms(&third.sync()).is_empty());
}

#[test]
fn a_clock_that_is_set_while_it_runs_is_not_believed_until_it_is_set_back() {
    for ahead in [true, false] {
        let mut bench = Bench::new();
        bench.sync();
        bench.later(HEAD_INTERVAL * 200);
        bench.sync();
        let right = bench.now.wall;
        bench.now.wall = if ahead { right + DAYS } else { right - DAYS };
        let outputs = bench.later(HEAD_INTERVAL);
        assert!(heads(&outputs).is_empty() && alarms(&outputs).len() == 1, "{outputs:?}");
        bench.invite_refused();
        bench.now.wall = right + HEAD_INTERVAL;
        bench.later(clock::LOOK_AGAIN);
        assert_eq!(heads(&bench.sync())[0].issued, bench.now.wall, "it has healed by itself");
    }
}

#[test]
fn a_clock_that_is_set_right_after_a_wrong_start_is_believed_at_once() {
    let mut bench = Bench::new();
    bench.sync();
    bench.later(DAYS);
    bench.sync();
    let right = bench.now.wall;
    let wrong = Now { mono: Mono(0), wall: right - DAYS * 200 };
    let mut again = Bench::restart(std::mem::take(&mut bench.durable), wrong);
    again.sync();
    again.now.wall = right;
    again.later(clock::LOOK_AGAIN);
    assert_eq!(heads(&again.sync())[0].issued, again.now.wall);
}

impl Bench {
    fn invite_refused(&mut self) {
        self.input(Input::PeerUp { peer: device(30) });
        let outputs = self.frame(device(30), &enrol([30; 32]));
        let said = sent(&outputs, device(30));
        assert!(matches!(&said[0], Message::Refused { reason } if reason.contains("clock")), "{said:?}");
    }
}
