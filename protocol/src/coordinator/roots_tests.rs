//! New roots at a running coordinator: who may make one, what is signed anew, and who is left out.

use std::time::Duration;

use super::bench::{APPROVER, Bench, ONLINE, answer, device, held, key, keys, root, root_doc, sent};
use super::*;
use crate::catalog::{Certificate, Keys};
use crate::ids::SiteId;
use crate::trust::Trust;
use crate::wire::{self, BlockWhat};

const STANDBY: u8 = 14;
const SECOND_APPROVER: u8 = 13;
const DAY: Duration = Duration::from_secs(86_400);

/// Today's root and `change`.
fn next(of: &Root, change: impl FnOnce(&mut Root)) -> Root {
    let mut next = of.clone();
    next.version += 1;
    change(&mut next);
    next
}

fn take(bench: &mut Bench, root: &Root, online: &[u8]) -> Result<Done, Refusal> {
    let online = online.iter().map(|seed| key(*seed)).collect();
    bench.done(Command::Root { root: root_doc(root, &[]), online })
}

fn hello(certificate: &[u8], root_version: u64) -> Message {
    let certificate = Bounded::truncated(certificate.to_vec());
    Message::Hello { version: wire::VERSION, certificate, head: Bounded::default(), root_version }
}

fn renewed(messages: &[Message]) -> Option<Vec<u8>> {
    messages.iter().find_map(|message| match message {
        Message::Renewed { certificate } => Some(certificate.to_vec()),
        _ => None,
    })
}

/// A machine that has walked from the first root to today's.
fn machine(bench: &Bench) -> Trust {
    let first = root_doc(&root(), &[]);
    let mut trust = Trust::pin(first.clone(), DocHash::of(&first), super::bench::START).unwrap();
    for record in &bench.durable {
        if let Record::Root(_, bytes) = record {
            trust.offer_root(bytes, bench.now.wall).unwrap();
        }
    }
    trust
}

#[test]
fn a_root_is_renewed_and_its_head_speaks_of_it() {
    let mut bench = Bench::new();
    let longer = next(&root(), |root| root.expires = root.expires + 365 * DAY);
    take(&mut bench, &longer, &[]).unwrap();
    assert_eq!(bench.state.root().expires, longer.expires);
    let mut trust = machine(&bench);
    let news = trust.offer_head(bench.state.head(), bench.now.wall).unwrap();
    assert_eq!((news, trust.head().unwrap().root_version), (crate::trust::HeadNews::New, 2));
    // Submitted twice, it changes nothing; and the same after a restart.
    let version = bench.state.index_version();
    assert_eq!(take(&mut bench, &longer, &[]).unwrap().index_version, version);
    let again = Bench::restart(std::mem::take(&mut bench.durable), bench.now);
    assert_eq!((again.state.root(), again.state.root_versions().len()), (&longer, 2));
}

#[test]
fn a_root_that_could_not_stand_is_refused_and_nothing_changes() {
    let mut bench = Bench::new();
    let before = bench.state.index_version();
    let cases: [(&str, Root, &str); 6] = [
        ("it skips one", next(&next(&root(), |_| ()), |_| ()), "2 was expected"),
        ("it names a stranger's online key", next(&root(), |root| root.online = keys(99)), "standby-keys"),
        (
            "two must sign online",
            next(&root(), |root| {
                let both = Bounded::new(vec![held(ONLINE), held(STANDBY)]).unwrap();
                root.online = Keys { keys: both, threshold: 2 };
            }),
            "standby-keys",
        ),
        ("it is over", next(&root(), |root| root.expires = root.issued + DAY), "expired"),
        ("another report key", next(&root(), |root| root.report_key = [8; 32]), "report key"),
        ("an approver signs online", next(&root(), |root| root.online = keys(APPROVER)), "keys of its own"),
    ];
    bench.later(2 * DAY);
    bench.sync();
    let before = before.max(bench.state.index_version());
    for (what, bad, cause) in cases {
        let reason = take(&mut bench, &bad, &[STANDBY]).unwrap_err().to_string();
        assert!(reason.contains(cause), "{what}: {reason}");
    }
    let unsigned = envelope::sign(Kind::Root, Role::Root, &next(&root(), |_| ()), &[&key(99)]).unwrap();
    let refused = bench.done(Command::Root { root: unsigned, online: vec![] });
    assert!(matches!(refused, Err(Refusal::Document(_))), "{refused:?}");
    assert_eq!((bench.state.root(), bench.state.index_version()), (&root(), before));
}

/// Device 66 comes with a certificate by the online key that no token stands for; returns that.
fn of_no_token(bench: &mut Bench) -> Vec<u8> {
    let certificate = Certificate {
        device: device(66),
        site: SiteId([2; 16]),
        role: crate::catalog::NodeRole::Node,
        label: Text::default(),
        issued: bench.now.wall,
        expires: bench.now.wall + DAY,
    };
    let certificate = envelope::sign(Kind::Certificate, Role::Online, &certificate, &[&key(ONLINE)]).unwrap();
    bench.input(Input::PeerUp { peer: device(66) });
    bench.frame(device(66), &hello(&certificate, 1));
    bench.sync();
    certificate
}

#[test]
fn devices_of_the_ledger_are_renewed_when_they_have_the_root_and_nobody_else_is() {
    let mut bench = Bench::new();
    let old = bench.member(20);
    // One that the thief of the online key has made.
    let rogue = of_no_token(&mut bench);
    assert!(bench.state.connected().any(|peer| peer == device(66)), "by a key that counts, it is believed");

    let rotated = next(&root(), |root| root.online = keys(STANDBY));
    take(&mut bench, &rotated, &[STANDBY]).unwrap();
    let trust = machine(&bench);
    assert!(trust.check_own_certificate(&old).is_err(), "the old one counts no more");

    // The connection stands, and the machine asks as soon as it has the root.
    bench.frame(device(20), &Message::Renew);
    let given = renewed(&sent(&bench.sync(), device(20))).expect("a new certificate");
    assert_eq!(trust.check_own_certificate(&given).unwrap().device, device(20));

    // One that was off comes with the old certificate: it is told of the head, and renewed once it has the root.
    for peer in [20, 66, 67] {
        bench.input(Input::PeerDown { peer: device(peer) });
        bench.input(Input::PeerUp { peer: device(peer) });
    }
    let mut said = bench.frame(device(20), &hello(&old, 1));
    said.extend(bench.sync());
    let said = sent(&said, device(20));
    assert!(said.iter().any(|message| matches!(message, Message::Hello { root_version: 2, .. })), "{said:?}");
    assert_eq!(renewed(&said), None, "it could not check one before it has the root");
    bench.frame(device(20), &Message::Renew);
    assert!(renewed(&sent(&bench.sync(), device(20))).is_some());

    // The thief's are not renewed, known here or not.
    for peer in [66, 67] {
        let said = bench.frame(device(peer), &hello(&rogue, 2));
        let refused = sent(&said, device(peer)).iter().any(|message| matches!(message, Message::Refused { .. }));
        assert!(refused && !bench.state.connected().any(|known| known == device(peer)), "{said:?}");
    }
}

#[test]
fn what_only_a_removed_approver_signed_leaves_the_catalog_and_may_be_decided_anew() {
    let mut bench = Bench::new();
    let both = Bounded::new(vec![held(APPROVER), held(SECOND_APPROVER)]).unwrap();
    let wider = next(&root(), |root| root.approvers = Keys { keys: both, threshold: 1 });
    take(&mut bench, &wider, &[]).unwrap();
    let (first, second) = (bench.published(1), bench.published(2));
    bench.approved(first, GroupId([1; 16]), 1);
    let by_second = super::bench::signed_approval_for(GroupId([1; 16]), bench.now.wall, second, 1, SECOND_APPROVER);
    bench.done(Command::Approve(by_second)).unwrap();
    assert!(bench.state.undecided().is_empty());

    let narrower = next(&wider, |root| root.approvers = keys(SECOND_APPROVER));
    take(&mut bench, &narrower, &[]).unwrap();
    let left: Vec<_> = bench.state.approvals().keys().map(|(_, release)| *release).collect();
    assert_eq!((left, bench.state.releases().len()), (vec![second], 2));
    assert!(bench.state.undecided().contains(&first), "somebody has to decide again");
    let stale = super::bench::signed_approval_for(GroupId([1; 16]), bench.now.wall, first, 2, APPROVER);
    assert!(bench.done(Command::Approve(stale)).is_err(), "the removed key counts no more");
    let again = super::bench::signed_approval_for(GroupId([1; 16]), bench.now.wall, first, 1, SECOND_APPROVER);
    bench.done(Command::Approve(again)).unwrap();
    let mut reopened = Bench::restart(std::mem::take(&mut bench.durable), bench.now);
    assert_eq!(reopened.state.approvals().len(), 2);
    reopened.sync();
}

#[test]
fn a_stop_between_the_new_root_and_its_first_catalog_loses_nothing() {
    let mut bench = Bench::new();
    bench.member(20);
    let (first, second) = (bench.published(1), bench.published(2));
    bench.approved(first, GroupId([1; 16]), 1);
    bench.done(Command::Revoke(device(20))).unwrap();
    let version = bench.state.index_version();
    // Both the online key and the only approver go; the power goes when the root is on disk and nothing else.
    let rotated = next(&root(), |root| {
        root.online = keys(STANDBY);
        root.approvers = keys(SECOND_APPROVER);
    });
    bench.admin(Command::Root { root: root_doc(&rotated, &[]), online: vec![key(STANDBY)] });
    let mut durable = std::mem::take(&mut bench.durable);
    let (_, written) = bench.written.remove(0);
    assert!(matches!(written, Record::Root(2, _)), "the root comes first");
    durable.push(written);
    let mut again = Bench::restart(durable, bench.now);
    again.sync();
    assert!(again.state.index_version() > version && again.state.revoked().contains(&device(20)));
    assert_eq!((again.state.approvals().len(), again.state.undecided().len()), (0, 2));
    assert!(again.state.releases().contains_key(&second));
    let mut trust = machine(&again);
    assert!(trust.offer_head(again.state.head(), again.now.wall).is_ok());
}

#[test]
fn roots_are_given_by_version_and_by_the_hash_that_an_old_token_names() {
    let mut bench = Bench::new();
    bench.member(20);
    take(&mut bench, &next(&root(), |root| root.online = keys(STANDBY)), &[STANDBY]).unwrap();
    let first = DocHash::of(&root_doc(&root(), &[]));
    for (serve, (what, served)) in [
        (BlockWhat::Root(1), Some(1)),
        (BlockWhat::Root(2), Some(2)),
        (BlockWhat::Root(3), None),
        (BlockWhat::Doc(first), Some(1)),
        (BlockWhat::Doc(bench.state.root_hash()), Some(2)),
    ]
    .into_iter()
    .enumerate()
    {
        let serve = serve as u64;
        let said = bench.input(Input::BlockRequested { peer: device(20), serve, what });
        let found = said.iter().find_map(|output| match output {
            Output::Serve { what: ServeWhat::Root(version), .. } => Some(*version),
            _ => None,
        });
        assert_eq!(found, served, "{what:?}: {said:?}");
        bench.input(Input::Served { serve });
    }
    assert_eq!(answer(bench.admin(Command::Revoke(device(20)))).map(|_| ()), None, "it waits for the disk");
}

#[test]
fn a_head_of_the_root_before_is_no_offence() {
    let mut bench = Bench::new();
    bench.member(20);
    let old = bench.state.head().to_vec();
    take(&mut bench, &next(&root(), |root| root.online = keys(STANDBY)), &[STANDBY]).unwrap();
    let verdict = |bench: &mut Bench, bytes: Vec<u8>| {
        let said = bench.input(Input::Gossip { id: 1, from: device(20), topic: Topic::Head, bytes });
        said.iter().find_map(|output| match output {
            Output::GossipVerdict { verdict, .. } => Some(*verdict),
            _ => None,
        })
    };
    assert_eq!(verdict(&mut bench, old), Some(Verdict::Ignore));
    assert_eq!(verdict(&mut bench, b"noise".to_vec()), Some(Verdict::Reject));
}

#[test]
fn a_token_that_is_taken_back_lets_nobody_in() {
    let mut bench = Bench::new();
    bench.invite([9; 32], 3);
    let hash = *blake3::hash(&[9; 32]).as_bytes();
    assert_eq!(bench.state.invites().map(|invite| invite.secret_hash).collect::<Vec<_>>(), [hash]);
    bench.done(Command::Disinvite(hash)).unwrap();
    bench.input(Input::PeerUp { peer: device(30) });
    let said = bench.frame(device(30), &super::bench::enrol([9; 32]));
    assert!(sent(&said, device(30)).iter().any(|message| matches!(message, Message::Refused { .. })), "{said:?}");
    let again = bench.done(Command::Disinvite(hash)).unwrap_err().to_string();
    assert!(again.contains("no such token"), "{again}");
    let restarted = Bench::restart(std::mem::take(&mut bench.durable), bench.now);
    assert_eq!(restarted.state.invites().count(), 0, "after a restart too");
}

#[test]
fn a_device_that_was_shut_out_is_let_in_again_with_its_own_key() {
    let mut bench = Bench::new();
    let certificate = bench.member(20);
    assert!(bench.done(Command::Readmit(device(20))).is_err(), "it is not shut out");
    assert!(matches!(bench.done(Command::Readmit(device(21))), Err(Refusal::UnknownDevice(_))));
    let shut_out = bench.done(Command::Revoke(device(20))).unwrap().index_version;
    let back = bench.done(Command::Readmit(device(20))).unwrap().index_version;
    assert_eq!((back, bench.state.revoked().len()), (shut_out + 1, 0));
    bench.input(Input::PeerUp { peer: device(20) });
    bench.frame(device(20), &hello(&certificate, 1));
    assert!(bench.state.connected().any(|peer| peer == device(20)));

    // One that no token let in, and a rotation has left out.
    let own = of_no_token(&mut bench);
    take(&mut bench, &next(&root(), |root| root.online = keys(STANDBY)), &[STANDBY]).unwrap();
    bench.done(Command::Readmit(device(66))).unwrap();
    bench.input(Input::PeerDown { peer: device(66) });
    bench.input(Input::PeerUp { peer: device(66) });
    bench.frame(device(66), &hello(&own, 2));
    assert!(renewed(&sent(&bench.sync(), device(66))).is_some(), "it is of the ledger now");
}
