use super::bench::*;
use super::devices::CERTIFICATE_LIFE;
use super::*;
use crate::catalog::{Action, Approval, Certificate, Index, NodeRole};
use crate::envelope::{self, Role};
use crate::ids::SiteId;
use crate::wire::{BlockStatus, BlockWhat};

#[test]
fn no_head_is_public_before_it_is_durable() {
    let mut bench = Bench::new();
    assert!(published(&bench.outputs).is_empty() && bench.state.head().is_empty());
    let outputs = bench.sync();
    assert_eq!(published(&outputs)[0].index_version, 1);

    let (id, bytes) = bench.release(1);
    let outputs = bench.admin(Command::Publish(bytes));
    assert!(published(&outputs).is_empty() && answer(outputs).is_none(), "before it is durable");
    // Everything but the last record is not enough.
    let last = bench.written.last().unwrap().0;
    let outputs = bench.input(Input::Persisted { token: last - 1 });
    assert!(published(&outputs).is_empty() && answer(outputs).is_none(), "the catalog is not durable yet");
    let outputs = bench.sync();
    assert_eq!(published(&outputs)[0].index_version, 2);
    assert_eq!(answer(outputs).unwrap().unwrap().index_version, 2);
    assert!(bench.state.releases().contains_key(&id));
}

#[test]
fn a_power_cut_at_any_record_takes_no_version_back() {
    let mut bench = Bench::new();
    bench.sync();
    let (id, bytes) = bench.release(1);
    bench.done(Command::Publish(bytes)).unwrap();
    bench.done(Command::Approve(signed_approval(START, id, 1, APPROVER))).unwrap();
    bench.member(20);
    let all = bench.durable.clone();
    let mut last = 0;
    for cut in 0..=all.len() {
        let now = Now { mono: Mono(0), wall: START };
        let mut again = Bench::restart(all[..cut].to_vec(), now);
        let outputs = again.sync();
        let head = published(&outputs)[0];
        assert!(head.index_version >= last, "cut at {cut}");
        last = head.index_version;
        let Some(Record::Catalog(bytes)) = all[..cut].iter().rev().find(|record| matches!(record, Record::Catalog(_)))
        else {
            continue;
        };
        let stored: Head = open_online(&root(), &CatalogRecord::decode(bytes).unwrap().head, Kind::Head).unwrap();
        assert!(head.issued > stored.issued && head.index_version >= stored.index_version, "cut at {cut}");
    }
}

#[test]
fn the_head_is_signed_anew_every_hour_and_the_index_at_half_of_its_life() {
    let mut bench = Bench::new();
    bench.sync();
    let (due, reason) = bench.state.poll_timeout().unwrap();
    assert_eq!((due, reason), (bench.now.mono + HEAD_INTERVAL, Reason::HeadDue));
    bench.later(HEAD_INTERVAL);
    let head = published(&bench.sync())[0];
    assert_eq!((head.index_version, head.expires), (1, bench.now.wall + HEAD_LIFE));
    bench.later(INDEX_LIFE / 2);
    assert_eq!(published(&bench.sync())[0].index_version, 2);
    // A clock that goes back does not take the order of heads back.
    bench.now = Now { mono: bench.now.mono + HEAD_INTERVAL, wall: bench.now.wall - HEAD_INTERVAL };
    bench.state.handle_timeout(bench.now);
    bench.drain();
    assert!(published(&bench.sync())[0].issued > head.issued);
}

#[test]
fn documents_are_checked_before_they_are_published() {
    let mut bench = Bench::new();
    bench.sync();
    let (id, good) = signed_release(START, 1, PUBLISHER);
    assert!(matches!(bench.done(Command::Publish(good.clone())), Err(Refusal::Missing(_))), "nothing was uploaded");
    bench.release(1);
    let (_, forged) = signed_release(START, 1, APPROVER);
    assert!(matches!(bench.done(Command::Publish(forged)), Err(Refusal::Document(_))));
    for at in [0, 20, good.len() - 1] {
        let mut tampered = good.clone();
        tampered[at] ^= 1;
        assert!(matches!(bench.done(Command::Publish(tampered)), Err(Refusal::Document(_))), "byte {at}");
    }
    assert_eq!(bench.state.index_version(), 1, "a refusal changes nothing");
    assert_eq!(bench.done(Command::Publish(good.clone())).unwrap().index_version, 2);
    assert_eq!(bench.done(Command::Publish(good)).unwrap().index_version, 2, "the same again changes nothing");
    let (_, other) = signed_release(START + Duration::from_secs(1), 1, PUBLISHER);
    assert!(matches!(bench.done(Command::Publish(other)), Err(Refusal::NotNewer { known: 1, .. })));

    let unknown = signed_approval(START, ReleaseId([9; 32]), 1, APPROVER);
    assert!(matches!(bench.done(Command::Approve(unknown)), Err(Refusal::UnknownRelease(_))));
    let forged = signed_approval(START, id, 1, ONLINE);
    assert!(matches!(bench.done(Command::Approve(forged)), Err(Refusal::Document(_))), "online keys approve nothing");
    bench.done(Command::Approve(signed_approval(START, id, 1, APPROVER))).unwrap();
    assert!(matches!(
        bench.done(Command::Approve(signed_approval(START + Duration::from_secs(1), id, 1, APPROVER))),
        Err(Refusal::NotNewer { .. })
    ));
    bench.done(Command::Approve(signed_approval(START, id, 2, APPROVER))).unwrap();
    assert_eq!(bench.state.approvals().len(), 1);
    let index = bench.durable.iter().rev().find_map(|record| match record {
        Record::Catalog(bytes) => {
            Some(open_online::<Index>(&root(), &CatalogRecord::decode(bytes).unwrap().index, Kind::Index).unwrap())
        }
        _ => None,
    });
    let named = bench.named(&index.unwrap());
    assert_eq!((named.documents.len(), named.pages.len()), (2, 1), "one release, one approval, in one page");
}

#[test]
fn of_a_hundred_redemptions_of_one_token_one_wins() {
    let mut bench = Bench::new();
    bench.sync();
    bench.invite([77; 32], 1);
    for seed in 100..200 {
        bench.input(Input::PeerUp { peer: device(seed) });
    }
    let mut outputs = Vec::new();
    for seed in 100..200 {
        outputs.extend(bench.frame(device(seed), &enrol([77; 32])));
    }
    assert!((100..200).all(|seed| !sent(&outputs, device(seed)).iter().any(|m| matches!(m, Message::Enrolled { .. }))));
    outputs.extend(bench.sync());
    let won: Vec<u8> = (100..200)
        .filter(|seed| sent(&outputs, device(*seed)).iter().any(|m| matches!(m, Message::Enrolled { .. })))
        .collect();
    let refused = (100..200)
        .filter(|seed| sent(&outputs, device(*seed)).iter().any(|m| matches!(m, Message::Refused { .. })))
        .count();
    assert_eq!((won.as_slice(), refused), ([100].as_slice(), 99));

    // The winner may have lost the answer; and a restart forgets nothing.
    let mut bench = Bench::restart(bench.durable.clone(), bench.now);
    bench.sync();
    for (seed, wanted) in [(100, true), (101, false)] {
        bench.input(Input::PeerUp { peer: device(seed) });
        let mut outputs = bench.frame(device(seed), &enrol([77; 32]));
        outputs.extend(bench.sync());
        let enrolled = sent(&outputs, device(seed)).iter().any(|m| matches!(m, Message::Enrolled { .. }));
        assert_eq!(enrolled, wanted, "{seed}");
    }
}

#[test]
fn expired_and_unknown_tokens_let_nobody_in() {
    let mut bench = Bench::new();
    bench.sync();
    bench.invite([50; 32], 1);
    bench.input(Input::PeerUp { peer: device(50) });
    assert!(matches!(sent(&bench.frame(device(50), &enrol([51; 32])), device(50))[0], Message::Refused { .. }));
    bench.now.wall = bench.now.wall + Duration::from_secs(3600);
    assert!(matches!(sent(&bench.frame(device(50), &enrol([50; 32])), device(50))[0], Message::Refused { .. }));
    assert_eq!(bench.state.devices().count(), 0);
    assert!(gone(&bench.later(HELLO_PATIENCE), device(50)), "a stranger is not kept");
}

#[test]
fn without_a_good_certificate_the_connection_ends() {
    let mut bench = Bench::new();
    bench.sync();
    let good = bench.member(20);
    let certificate = |seed: u8, signer: u8, role, expires| {
        let certificate = Certificate {
            device: device(seed),
            site: SiteId([2; 16]),
            role,
            label: Text::default(),
            issued: START,
            expires,
        };
        let bytes = envelope::sign(Kind::Certificate, Role::Online, &certificate, &[&key(signer)]).unwrap();
        Bounded::new(bytes).unwrap()
    };
    let far = START + CERTIFICATE_LIFE;
    for (what, shown) in [
        ("none", Bounded::default()),
        ("somebody else's", good.clone()),
        ("self-signed", certificate(21, 21, NodeRole::Node, far)),
        ("expired", certificate(21, ONLINE, NodeRole::Node, START)),
        ("a coordinator's", certificate(21, ONLINE, NodeRole::Coordinator, far)),
    ] {
        bench.input(Input::PeerUp { peer: device(21) });
        assert!(gone(&bench.frame(device(21), &hello(shown)), device(21)), "{what}");
    }
    for (what, frame) in [("renewal", Message::Renew), ("relay", relay(20, 1))] {
        bench.input(Input::PeerUp { peer: device(21) });
        assert!(gone(&bench.frame(device(21), &frame), device(21)), "{what} before hello");
    }
    bench.input(Input::PeerUp { peer: device(21) });
    assert!(gone(&bench.input(Input::Frame { peer: device(21), bytes: vec![0xff; 9] }), device(21)), "garbage");

    // The good one is answered, and a device that was off for long gets a new one.
    bench.input(Input::PeerUp { peer: device(20) });
    assert!(matches!(sent(&bench.frame(device(20), &hello(good.clone())), device(20))[0], Message::Hello { .. }));
    bench.later(far.since(bench.now.wall) + Duration::from_secs(1));
    bench.input(Input::PeerUp { peer: device(20) });
    bench.frame(device(20), &hello(good));
    assert!(sent(&bench.sync(), device(20)).iter().any(|message| matches!(message, Message::Renewed { .. })));
}

#[test]
fn a_revoked_device_is_left_and_stays_out() {
    let mut bench = Bench::new();
    bench.sync();
    let certificate = bench.member(20);
    assert!(matches!(bench.done(Command::Revoke(device(99))), Err(Refusal::UnknownDevice(_))));
    let outputs = bench.admin(Command::Revoke(device(20)));
    assert!(gone(&outputs, device(20)));
    bench.sync();
    let mut bench = Bench::restart(bench.durable.clone(), bench.now);
    bench.sync();
    assert!(gone(&bench.input(Input::PeerUp { peer: device(20) }), device(20)), "after a restart");
    assert!(bench.frame(device(20), &hello(certificate)).is_empty());
}

#[test]
fn documents_go_to_members_and_payloads_to_nobody() {
    let mut bench = Bench::new();
    bench.sync();
    bench.member(20);
    bench.input(Input::PeerUp { peer: device(21) });
    let ask = |bench: &mut Bench, peer, serve, what| bench.input(Input::BlockRequested { peer, serve, what }).remove(0);
    let doc = BlockWhat::Doc(bench.state.root_hash());
    assert!(matches!(ask(&mut bench, device(21), 1, doc), Output::Deny { status: BlockStatus::Refused, .. }));
    let chunks = BlockWhat::Chunks { payload: PayloadId([7; 32]), first: 0, count: 1 };
    assert!(matches!(ask(&mut bench, device(20), 2, chunks), Output::Deny { status: BlockStatus::Refused, .. }));
    let unknown = BlockWhat::Doc(DocHash([8; 32]));
    assert!(matches!(ask(&mut bench, device(20), 3, unknown), Output::Deny { status: BlockStatus::NotHeld, .. }));
    let served =
        (10..100).filter(|serve| matches!(ask(&mut bench, device(20), *serve, doc), Output::Serve { .. })).count();
    assert_eq!(served, 4, "slots of one peer");
    bench.input(Input::Served { serve: 10 });
    assert!(matches!(
        ask(&mut bench, device(20), 200, BlockWhat::Root(1)),
        Output::Serve { what: ServeWhat::Root(1), .. }
    ));
}

#[test]
fn a_data_directory_from_a_backup_goes_on_above_what_is_out_there() {
    let mut bench = Bench::new();
    bench.sync();
    let old = bench.durable.clone();
    let certificate = bench.member(20);
    let (_, bytes) = bench.release(1);
    bench.done(Command::Publish(bytes)).unwrap();
    bench.done(Command::Hold { hold: Hold::Everything, on: true }).unwrap();
    let newest = bench.state.head().to_vec();

    let mut bench = Bench::restart(old, bench.now);
    bench.sync();
    bench.input(Input::PeerUp { peer: device(20) });
    // It does not remember the device either: its own signature is enough.
    let outputs = bench.frame(device(20), &hello(certificate));
    assert!(matches!(sent(&outputs, device(20))[0], Message::Hello { .. }));
    let gossip = Input::Gossip { id: 1, from: device(20), topic: Topic::Head, bytes: newest.clone() };
    let outputs = bench.input(gossip);
    let restored = |output: &Output| matches!(output, Output::Raise { kind: AlarmKind::Restored, .. });
    assert!(outputs.iter().any(restored));
    let mut forged = newest;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(published(&bench.sync())[0].index_version, 4);
    let gossip = Input::Gossip { id: 2, from: device(20), topic: Topic::Head, bytes: forged };
    let outputs = bench.input(gossip);
    assert!(matches!(outputs[0], Output::GossipVerdict { verdict: Verdict::Reject, .. }));
}

#[test]
fn a_withdrawn_release_is_gone_and_stays_declined() {
    let mut bench = Bench::new();
    bench.sync();
    let id = bench.published(1);
    bench.done(Command::Approve(signed_approval(START, id, 1, APPROVER))).unwrap();
    let refused = bench.done(Command::Withdraw(id));
    assert!(matches!(&refused, Err(Refusal::Request(why)) if why.contains("decline it there first")), "{refused:?}");
    let approved = bench.state.approvals().values().next().unwrap().approval.clone();
    let declined = Approval { version: 2, action: Action::None, ..approved };
    let declined = envelope::sign(Kind::Approval, Role::Approver, &declined, &[&key(APPROVER)]).unwrap();
    bench.done(Command::Approve(declined)).unwrap();
    let before = bench.state.index_version();
    bench.done(Command::Withdraw(id)).unwrap();
    assert_eq!(bench.state.index_version(), before + 1, "machines hear of it");
    assert!(bench.state.releases().is_empty());
    let again = Bench::restart(std::mem::take(&mut bench.durable), bench.now);
    assert!(again.state.releases().is_empty());
    assert_eq!(again.state.approvals().values().next().unwrap().approval.action, Action::None);
    assert!(matches!(bench.done(Command::Withdraw(id)), Err(Refusal::UnknownRelease(_))));
}
