//! A device's groups: the newest assignment by the coordinator counts, its own alone, and no neighbour sees which they are.

mod common;

use std::time::Duration;

use common::bench::{Bench, COORDINATOR, tool};
use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::report::{DeploymentState, DeviceMessage, News, Papers, SubState, acknowledgement, receipt};
use upswarm_protocol::wire::{self, BlockWhat, Message, Presence};

const OTHER: GroupId = GroupId([0x77; 16]);

fn edition() -> (Edition, ReleaseId) {
    let world = World::new();
    let release = world.publish(&tool());
    let approvals = [GROUP, OTHER].map(|group| world.approve(&approval(group, release.release, 1)));
    let id = release.release;
    let [first, second] = approvals;
    (world.edition(1, vec![release, first, second]), id)
}

fn bench() -> (Bench, ReleaseId) {
    let (edition, id) = edition();
    (Bench::new(&edition, |_| ()), id)
}

/// Whoever is asked for pages and documents gives them, until nothing more is asked for.
fn give_documents(bench: &mut Bench) {
    let stored = edition().0.stored();
    for _ in 0..10 {
        bench.pass(std::time::Duration::from_secs(1));
        let asked = bench.asked.extract_if(.., |output| matches!(output, Output::FetchDoc { .. }));
        for output in asked.collect::<Vec<_>>() {
            if let Output::FetchDoc { fetch, what: BlockWhat::Doc(hash), .. } = output
                && let Some(bytes) = stored.get(&hash)
            {
                bench.input(Input::DocFetched { fetch, result: Ok(bytes.clone()) });
            }
        }
    }
}

/// A node that has nothing to report.
fn quiet() -> Bench {
    Bench::new(&World::new().edition(1, vec![]), |_| ())
}

fn signed(assignment: &Assignment) -> Vec<u8> {
    World::new().assignment_doc(assignment)
}

fn of_device(groups: &[GroupId], issued: upswarm_protocol::time::Wall) -> Assignment {
    Assignment { groups: list(groups.to_vec()), issued, ..assignment(&key(40)) }
}

fn meet_coordinator(bench: &mut Bench) -> Vec<Message> {
    bench.input(Input::PeerUp { peer: COORDINATOR, dialled: None });
    let hello =
        Message::Hello { version: wire::VERSION, certificate: list(vec![]), head: list(vec![]), root_version: 1 };
    bench.frame(COORDINATOR, &hello);
    sent(bench, COORDINATOR)
}

fn sent(bench: &mut Bench, to: DeviceId) -> Vec<Message> {
    let frames = bench.asked.extract_if(.., |output| matches!(output, Output::Send { peer, .. } if *peer == to));
    frames
        .filter_map(|o| if let Output::Send { frame, .. } = o { Message::decode(&frame).ok() } else { None })
        .collect()
}

fn written(bench: &mut Bench) -> Vec<Vec<u8>> {
    std::mem::take(&mut bench.assignments)
}

/// Whoever was asked for a root gives this one.
fn give_root(bench: &mut Bench, root: Vec<u8>) {
    let fetch = bench.asked.iter().find_map(|output| match output {
        Output::FetchDoc { fetch, what: BlockWhat::Root(_), .. } => Some(*fetch),
        _ => None,
    });
    bench.input(Input::DocFetched { fetch: fetch.expect("the next root is asked for"), result: Ok(root) });
}

#[test]
fn the_later_of_two_counts_and_what_is_not_for_this_device_is_refused() {
    let (mut bench, release) = bench();
    let shown = meet_coordinator(&mut bench);
    assert!(
        shown.contains(&Message::Assignment(list(signed(&assignment(&key(40)))))),
        "the coordinator sees the newest"
    );
    assert_eq!(bench.state.groups(), [GROUP]);
    let newer = signed(&of_device(&[OTHER], NOW));
    bench.frame(COORDINATOR, &Message::Assignment(list(newer.clone())));
    assert_eq!(bench.state.groups(), [OTHER]);
    assert_eq!(written(&mut bench), std::slice::from_ref(&newer));
    give_documents(&mut bench);
    assert!(bench.state.standings().any(|(id, state, _)| id == release && state != DeploymentState::Canceled));

    let stolen = Assignment { device: DeviceId([9; 32]), ..of_device(&[GROUP], NOW + HOUR) };
    let expired = Assignment { expires: NOW - HOUR, ..of_device(&[GROUP], NOW + HOUR) };
    let forged = envelope::sign(Kind::Assignment, Role::Online, &of_device(&[GROUP], NOW + HOUR), &[&key(99)]).unwrap();
    let mut refusals = Vec::new();
    for bytes in [signed(&of_device(&[GROUP], NOW - HOUR)), newer, signed(&stolen), signed(&expired), forged] {
        bench.frame(COORDINATOR, &Message::Assignment(list(bytes)));
        assert_eq!(bench.state.groups(), [OTHER]);
        let alarms = bench.asked.extract_if(.., |output| matches!(output, Output::Alarm(_)));
        refusals.extend(alarms.map(|alarm| format!("{alarm:?}")));
    }
    assert!(written(&mut bench).is_empty());
    let [other, late, nobody] = refusals.try_into().unwrap();
    assert!(other.contains("it is for device"), "{other}");
    assert!(late.contains("expired"), "{late}");
    assert!(nobody.contains("0 valid signatures"), "{nobody}");
}

#[test]
fn a_restart_brings_no_older_one_back_and_a_new_online_key_begins_anew() {
    let (mut bench, _) = bench();
    meet_coordinator(&mut bench);
    bench.frame(COORDINATOR, &Message::Assignment(list(signed(&of_device(&[OTHER], NOW)))));
    let stored = written(&mut bench).remove(0);
    bench.restored.assignment = stored;
    bench.again(|_| ());
    assert_eq!(bench.state.groups(), [OTHER]);
    meet_coordinator(&mut bench);
    bench.frame(COORDINATOR, &Message::Assignment(list(signed(&of_device(&[GROUP], NOW - HOUR)))));
    assert_eq!(bench.state.groups(), [OTHER], "an older one");

    // What only a removed key signed bounds nothing.
    let far = signed(&of_device(&[OTHER], NOW + 50 * DAY));
    bench.frame(COORDINATOR, &Message::Assignment(list(far)));
    let world = World::new().with_online(31);
    let edition = world.edition(2, vec![]);
    bench.frame(COORDINATOR, &Message::Head(list(edition.head)));
    give_root(&mut bench, world.root_doc());
    bench.frame(COORDINATOR, &Message::Assignment(list(world.assignment_doc(&of_device(&[GROUP], NOW)))));
    assert_eq!(bench.state.groups(), [GROUP]);
}

#[test]
fn one_that_is_missing_or_damaged_is_asked_for_and_one_that_has_expired_lets_nothing_begin() {
    let (mut bench, release) = bench();
    bench.restored.assignment = vec![7; 20];
    bench.again(|_| ());
    assert!(bench.state.groups().is_empty());
    let alarm = bench.asked.iter().any(|output| matches!(output, Output::Alarm(text) if text.contains("assignment")));
    assert!(alarm);
    assert!(meet_coordinator(&mut bench).contains(&Message::Assignment(Bounded::default())));
    assert!(bench.installs().is_empty());

    bench.restored.assignment = signed(&Assignment { expires: NOW - HOUR, ..assignment(&key(40)) });
    bench.again(|_| ());
    let (state, sub_state, reason) = bench.standing(release);
    assert_eq!((state, sub_state), (DeploymentState::OnHold, SubState::Expired), "{reason}");
    let words = bench.state.explain(&release, bench.now);
    assert!(words[0].text.contains("the word that this device is in its group expired 60 min ago"), "{words:?}");
    meet_coordinator(&mut bench);
    bench.pass(Duration::from_secs(1));
    assert!(sent(&mut bench, COORDINATOR).contains(&Message::Renew));
    assert!(bench.installs().is_empty());
    bench.frame(COORDINATOR, &Message::Assignment(list(signed(&of_device(&[GROUP], NOW)))));
    bench.pass(Duration::from_secs(1));
    bench.fill();
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.installs(), [release], "{}", bench.told(release));
}

/// A neighbour that says it is connected to the coordinator.
fn uplink(bench: &mut Bench) -> DeviceId {
    let (world, neighbour) = (World::new(), key(41));
    let certificate = certificate(&neighbour);
    let peer = certificate.device;
    bench.input(Input::PeerUp { peer, dialled: None });
    let certificate = world.certificate_doc(&certificate);
    let hello = Message::Hello {
        version: wire::VERSION,
        certificate: list(certificate.clone()),
        head: list(vec![]),
        root_version: 1,
    };
    bench.frame(peer, &hello);
    let presence = Presence {
        certificate: list(certificate),
        issued: NOW,
        addresses: list(vec![]),
        wan_weight: 8,
        uplink: true,
        leaving: false,
        fetches: list(vec![]),
        holds: list(vec![]),
        shares: false,
    };
    let presence = envelope::sign(Kind::Presence, Role::Device, &presence, &[&neighbour]).unwrap();
    bench.frame(peer, &Message::Members(wire::Records::pack([&*presence]).0));
    peer
}

/// The messages that the device has encrypted since, as the coordinator reads them; they are given back to it as encrypted.
fn told(bench: &mut Bench) -> Vec<(u64, Papers, [u8; 32])> {
    let asked = bench.asked.extract_if(.., |output| matches!(output, Output::Encrypt { .. }));
    let messages: Vec<_> =
        asked.filter_map(|o| if let Output::Encrypt { message, .. } = o { Some(message) } else { None }).collect();
    let mut told = Vec::new();
    for message in messages {
        let signed = envelope::sign(Kind::Report, Role::Device, &message, &[&key(40)]).unwrap();
        let (seq, receipt) = (message.seq(), receipt(&signed));
        bench.input(Input::Encrypted { seq, bytes: vec![0; 8], receipt });
        if let DeviceMessage::Status(report) = message {
            told.push((seq, report.papers, receipt));
        }
    }
    told
}

#[test]
fn through_a_neighbour_it_comes_with_the_acknowledgement_of_a_report_that_a_call_asked_for() {
    let mut bench = quiet();
    let neighbour = uplink(&mut bench);
    bench.pass(Duration::from_secs(30));
    told(&mut bench);
    sent(&mut bench, neighbour);
    let device = bench.state.device();

    bench.frame(neighbour, &Message::Call { device });
    bench.pass(Duration::from_secs(1));
    let (seq, papers, receipt) = told(&mut bench).pop().expect("a report, although nothing has changed");
    assert_eq!(papers, Papers { certificate: NOW - DAY, assignment: NOW - DAY });
    let newer = of_device(&[OTHER], NOW);
    let renewed = Certificate { issued: NOW, ..certificate(&key(40)) };
    let news = News {
        assignment: list(signed(&newer)),
        certificate: list(World::new().certificate_doc(&renewed)),
        ..News::default()
    };
    let (news, held) = (news.conceal(&receipt), DocHash::default());
    // Neither changed on its way nor left out.
    let proof = acknowledgement(&receipt, seq, &held, &news);
    for changed in [list(vec![]), list(vec![3; 400])] {
        bench.frame(neighbour, &Message::RelayAck { device, seq, held, news: changed, proof });
        assert_eq!(bench.state.groups(), [GROUP]);
    }
    bench.frame(neighbour, &Message::RelayAck { device, seq, held, news, proof });
    assert_eq!(bench.state.groups(), [OTHER]);
    assert_eq!(bench.state.certificate().issued, NOW);
    bench.pass(Duration::from_secs(1));
    let (_, papers, _) = told(&mut bench).pop().expect("a report of the change");
    assert_eq!(papers, Papers { certificate: NOW, assignment: NOW });
}

#[test]
fn calls_that_a_neighbour_makes_up_cost_a_report_in_ten_seconds_and_go_no_further() {
    let mut bench = quiet();
    let neighbour = uplink(&mut bench);
    bench.pass(Duration::from_secs(30));
    told(&mut bench);
    sent(&mut bench, neighbour);
    let device = bench.state.device();
    let mut reports = 0;
    for _ in 0..600 {
        bench.frame(neighbour, &Message::Call { device });
        bench.frame(neighbour, &Message::Call { device: DeviceId([9; 32]) });
        bench.pass(Duration::from_millis(100));
        reports += told(&mut bench).len();
        assert!(!sent(&mut bench, neighbour).iter().any(|message| matches!(message, Message::Call { .. })));
    }
    assert!((5..=8).contains(&reports), "{reports} reports in a minute");

    // One by the coordinator goes to the neighbour that it is for.
    meet_coordinator(&mut bench);
    bench.frame(COORDINATOR, &Message::Call { device: neighbour });
    assert_eq!(sent(&mut bench, neighbour).last(), Some(&Message::Call { device: neighbour }));
}

/// What a device that the coordinator has put into a group makes of a release that is approved there.
fn state_with(members: Members, ways: Vec<ListWay>, inventory: Option<&[(&str, &str)]>) -> (DeploymentState, String) {
    let world = World::new();
    let release = world.publish(&tool());
    let decision = world.approve(&Approval { group_version: 1, ..approval(GROUP, release.release, 1) });
    let id = release.release;
    let edition =
        world.edition(1, vec![release, decision, describe(&group(GROUP, 1, members), &[&world.approvers[0]])]);
    let assigned = Assignment { ways: list(ways), ..assignment(&key(40)) };
    let mut bench = Bench::certified(&key(40), (certificate(&key(40)), assigned), &edition, |_| ());
    if let Some(facts) = inventory {
        let mut told = upswarm_protocol::inventory::Inventory::default();
        for (name, value) in facts {
            told.set_fact(text(name), Some(text(value))).unwrap();
        }
        bench.input(Input::Inventory { inventory: std::sync::Arc::new(told) });
    }
    bench.pass(Duration::from_secs(1));
    let (state, _, reason) = bench.standing(id);
    (state, reason.to_string())
}

#[test]
fn a_device_holds_its_groups_against_what_approvers_signed() {
    let tree = own_list(&key(40));
    let way = || tree.way(GROUP, &DeviceId(*key(40).verifying_key().as_bytes())).unwrap();
    let debian: &[(&str, &str)] = &[("os.id", "debian")];
    let held = |state: (DeploymentState, String), why: &str| {
        assert!(state.0 == DeploymentState::OnHold && state.1.contains(why), "{state:?}");
    };
    let goes_on = |state: (DeploymentState, String)| assert_ne!(state.0, DeploymentState::OnHold, "{state:?}");
    goes_on(state_with(Members::Listed, vec![], None));
    held(state_with(rule(&["os.id=debian"]), vec![], None), "not been looked at");
    goes_on(state_with(rule(&["os.id=debian"]), vec![], Some(debian)));
    held(state_with(rule(&["os.id=fedora"]), vec![], Some(debian)), "rule is os.id=fedora");
    goes_on(state_with(Members::List(tree.root()), vec![way()], None));
    held(state_with(Members::List(tree.root()), vec![], None), "list of the group");
    let others = DeviceList::new([1; 32], [DeviceId([9; 32])]).unwrap().tree();
    held(state_with(Members::List(others.root()), vec![way()], None), "list of the group");
}

/// What a thief of the online key said about groups ends with the key, on a machine that runs too.
#[test]
fn an_assignment_by_a_removed_key_lets_nothing_begin() {
    let (mut bench, release) = bench();
    meet_coordinator(&mut bench);
    assert_ne!(bench.standing(release).0, DeploymentState::OnHold);
    let rescued = World::new().with_online(31);
    let fresh = rescued.edition(1, edition().0.documents);
    bench.frame(COORDINATOR, &Message::Head(list(fresh.head.clone())));
    for _ in 0..20 {
        bench.pass(Duration::from_secs(1));
        let asked = bench.asked.extract_if(.., |output| matches!(output, Output::FetchDoc { .. }));
        for output in asked.collect::<Vec<_>>() {
            let Output::FetchDoc { fetch, what, .. } = output else { continue };
            let bytes = match what {
                BlockWhat::Root(2) => Some(rescued.root_doc()),
                BlockWhat::Doc(hash) if hash == DocHash::of(&fresh.index) => Some(fresh.index.clone()),
                BlockWhat::Doc(hash) => fresh.stored().get(&hash).cloned(),
                _ => None,
            };
            if let Some(bytes) = bytes {
                bench.input(Input::DocFetched { fetch, result: Ok(bytes) });
            }
        }
    }
    assert_eq!(bench.state.trust().root().version, 2);
    let (state, _, reason) = bench.standing(release);
    assert!(
        state == DeploymentState::OnHold && reason.contains("keys that the root has removed"),
        "{state:?} {reason}"
    );
    let again = Assignment { issued: NOW, ..assignment(&key(40)) };
    bench.frame(COORDINATOR, &Message::Assignment(list(rescued.assignment_doc(&again))));
    bench.pass(Duration::from_secs(1));
    let (state, _, reason) = bench.standing(release);
    assert_ne!(state, DeploymentState::OnHold, "{reason}");
}
