use super::bench::{Bench, START, answer, device, hello, key, opens, relay, root, sent, signed_report_with};
use super::*;
use crate::catalog::Assignment;
use crate::envelope::{self, Role};
use crate::report::{News, Papers};

const PILOTS: GroupId = GroupId([8; 16]);
const OFFICE: GroupId = GroupId([1; 16]);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn groups(of: &[GroupId]) -> Bounded<GroupId, 64> {
    Bounded::new(of.to_vec()).unwrap()
}

fn read(bytes: &[u8]) -> Assignment {
    open_online(&root(), bytes, Kind::Assignment).unwrap()
}

/// Assignments that were sent to a device.
fn assigned(outputs: &[Output], seed: u8) -> Vec<Assignment> {
    let of = |message| if let Message::Assignment(bytes) = message { Some(read(&bytes)) } else { None };
    sent(outputs, device(seed)).into_iter().filter_map(of).collect()
}

/// A report of a device that says since when its papers are, brought by another.
fn reported(bench: &mut Bench, seed: u8, seq: u64, papers: Papers, bearer: u8) -> News {
    let bytes = signed_report_with(seed, seq, papers);
    let open = opens(&bench.frame(device(bearer), &relay(seed, seq)))[0];
    let mut outputs = bench.input(Input::ReportOpened { open, bytes: Some(bytes.clone()) });
    outputs.extend(bench.sync());
    let receipt = report::receipt(&bytes);
    let of = |message| match message {
        Message::RelayAck { device: of, seq: acknowledged, held, news, proof } => {
            assert_eq!((of, acknowledged), (device(seed), seq));
            assert_eq!(report::acknowledgement(&receipt, seq, &held, &news), proof);
            Some(News::reveal(&receipt, &news).unwrap())
        }
        _ => None,
    };
    sent(&outputs, device(bearer)).into_iter().find_map(of).expect("an acknowledgement")
}

#[test]
fn a_device_that_is_put_into_another_group_gets_its_assignment_at_once() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    let both = groups(&[OFFICE, PILOTS]);
    let mut outputs = bench.admin(Command::Assign { device: device(20), groups: both.clone() });
    assert!(assigned(&outputs, 20).is_empty(), "nothing that a restart could take back leaves");
    outputs.extend(bench.sync());
    let [shown] = assigned(&outputs, 20).try_into().unwrap();
    assert_eq!((shown.groups, shown.issued), (both.clone(), START + Duration::from_millis(1)));
    assert!(matches!(answer(outputs), Some(Ok(_))));
    assert_eq!(bench.state.devices().next().unwrap().groups, both);
    let nobody = bench.done(Command::Assign { device: DeviceId([9; 32]), groups: both });
    assert!(matches!(nobody, Err(Refusal::UnknownDevice(_))));
    bench.done(Command::Revoke(device(20))).unwrap();
    let revoked = bench.done(Command::Assign { device: device(20), groups: Bounded::default() });
    assert!(matches!(revoked, Err(Refusal::Request(_))));
}

#[test]
fn whoever_shows_an_older_assignment_or_none_is_sent_the_newest() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    let mut outputs = bench.admin(Command::Assign { device: device(20), groups: groups(&[PILOTS]) });
    outputs.extend(bench.sync());
    let newest = bench.state.devices[&device(20)].record.assignment.clone();
    assert!(bench.frame(device(20), &Message::Assignment(newest.clone())).is_empty(), "it has it");
    let other = Assignment { device: device(21), ..read(&newest) };
    let other = envelope::sign(Kind::Assignment, Role::Online, &other, &[&key(4)]).unwrap();
    for old in [Vec::new(), vec![7; 300], other] {
        let outputs = bench.frame(device(20), &Message::Assignment(Bounded::truncated(old)));
        assert_eq!(assigned(&outputs, 20), [read(&newest)]);
    }
}

#[test]
fn one_that_reaches_the_coordinator_through_neighbours_is_called_and_finds_its_assignment_in_the_acknowledgement() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    let certificate = bench.member(21);
    bench.input(Input::PeerDown { peer: device(20) });
    let enrolled = Papers { certificate: START, assignment: START };
    assert_eq!(reported(&mut bench, 20, 1, enrolled, 21), News::default(), "it has everything");
    let mut outputs = bench.admin(Command::Assign { device: device(20), groups: groups(&[PILOTS]) });
    outputs.extend(bench.sync());
    assert_eq!(sent(&outputs, device(21)), [Message::Call { device: device(20) }], "no group for the neighbour to see");
    let news = reported(&mut bench, 20, 2, enrolled, 21);
    assert_eq!(*read(&news.assignment).groups, [PILOTS]);
    assert!(news.certificate.is_empty());
    let told = Papers { assignment: read(&news.assignment).issued, ..enrolled };
    assert_eq!(reported(&mut bench, 20, 3, told, 21), News::default());

    // A coordinator that has just started knows no neighbours of it, and asks those of its site.
    let mut bench = Bench::restart(bench.durable.clone(), bench.now);
    bench.sync();
    bench.input(Input::PeerUp { peer: device(21) });
    bench.frame(device(21), &hello(certificate));
    let mut outputs = bench.admin(Command::Assign { device: device(20), groups: groups(&[OFFICE]) });
    outputs.extend(bench.sync());
    assert!(sent(&outputs, device(21)).contains(&Message::Call { device: device(20) }));
}

#[test]
fn papers_of_one_that_never_comes_itself_are_renewed_before_they_expire() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    bench.input(Input::PeerDown { peer: device(20) });
    let papers = Papers { certificate: START, assignment: START };
    bench.later(60 * DAY);
    bench.sync();
    let certificate = bench.member(21);
    assert_eq!(reported(&mut bench, 20, 1, papers, 21), News::default());
    bench.later(11 * DAY);
    bench.sync();
    let news = reported(&mut bench, 20, 2, papers, 21);
    assert_eq!((read(&news.assignment).issued, &*read(&news.assignment).groups), (bench.now.wall, &[OFFICE][..]));
    let renewed: crate::catalog::Certificate = open_online(&root(), &news.certificate, Kind::Certificate).unwrap();
    assert_eq!((renewed.device, renewed.issued), (device(20), bench.now.wall));
    // The same with the next acknowledgement, not another.
    assert_eq!(reported(&mut bench, 20, 3, papers, 21), news);
    drop(certificate);
}

#[test]
fn a_copy_of_the_directory_from_before_an_assignment_takes_it_from_the_device() {
    let mut bench = Bench::new();
    bench.sync();
    let empty = bench.durable.clone();
    let certificate = bench.member(20);
    let old = bench.durable.clone();
    bench.now.wall = START + DAY;
    bench.done(Command::Assign { device: device(20), groups: groups(&[PILOTS]) }).unwrap();
    let newest = bench.state.devices[&device(20)].record.assignment.clone();
    for (durable, before) in [(empty, vec![]), (old, vec![OFFICE])] {
        let mut bench = Bench::restart(durable, bench.now);
        bench.sync();
        bench.input(Input::PeerUp { peer: device(20) });
        bench.frame(device(20), &hello(certificate.clone()));
        assert_eq!(*bench.state.devices().next().unwrap().groups, *before);
        bench.frame(device(20), &Message::Assignment(newest.clone()));
        let record = bench.state.devices().next().unwrap();
        assert_eq!((&*record.groups, record.assigned), (&[PILOTS][..], START + DAY));
        bench.sync();
        let bench = Bench::restart(bench.durable.clone(), bench.now);
        assert_eq!(*bench.state.devices().next().unwrap().groups, [PILOTS], "after a restart");
    }
}
