//! What somebody between the coordinator and a machine can try, named as in the TUF specification, section 1.5.2.

use upswarm_protocol::catalog::*;
use upswarm_protocol::envelope::{self, EnvelopeError, Kind, Role};
use upswarm_protocol::ids::*;
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::*;

use crate::common::*;

fn installs(trust: &Trust, release: ReleaseId) -> Result<(), Blocked> {
    trust.may_install(&release, &GROUP, NOW)
}

#[test]
fn an_approved_release_may_be_installed_and_its_neighbours_may_not() {
    let world = World::new();
    let mut trust = world.trust();
    let approved = world.publish(&release("org.example.tool", 1));
    let unapproved = world.publish(&release("org.example.tool", 2));
    let declined = world.publish(&release("org.example.other", 1));
    let decision = world.approve(&approval(GROUP, approved.release, 1));
    let no = world.approve(&Approval { action: Action::None, ..approval(GROUP, declined.release, 1) });
    let all = vec![approved.clone(), unapproved.clone(), declined.clone(), decision, no];

    assert_eq!(trust.wanted(), Wanted::Nothing);
    assert_eq!(installs(&trust, approved.release), Err(Blocked::NoHead));
    world.edition(1, all).offer_to(&mut trust);

    assert_eq!(installs(&trust, approved.release), Ok(()));
    assert_eq!(installs(&trust, unapproved.release), Err(Blocked::NotApproved));
    assert_eq!(installs(&trust, declined.release), Err(Blocked::Declined));
    assert_eq!(trust.may_install(&approved.release, &CAREFUL, NOW), Err(Blocked::NotApproved));
    assert_eq!(trust.catalog().releases().len(), 3);
    assert_eq!(trust.catalog().document_hashes().count(), 5);
    assert_eq!(trust.catalog().origins().len(), 1);
    assert!(trust.refusals().is_empty() && trust.take_alarms().is_empty());
}

#[test]
fn arbitrary_software_of_a_stranger_is_refused_and_the_rest_goes_on() {
    let world = World::new();
    let good = world.publish(&release("org.example.tool", 1));
    let decision = world.approve(&approval(GROUP, good.release, 1));
    let evil = release("org.example.evil", 1);
    let attempts = [
        ("a stranger's key", publish(&evil, &[&key(99)])),
        ("an approver's key", publish(&evil, &[&world.approvers[0]])),
        ("an online key", publish(&evil, &[&world.online[0]])),
        ("a root key", publish(&evil, &[&world.root_keys[0]])),
        ("no key", publish(&evil, &[])),
        ("the publisher of another prefix", publish(&release("com.other.tool", 1), &[&world.publisher])),
        ("the publisher of a name that begins alike", publish(&release("org.examplex.tool", 1), &[&world.publisher])),
        ("the publisher of a shorter prefix", publish(&release("org.example.critical.x", 1), &[&world.publisher])),
        ("half of two publishers", publish(&release("org.example.critical.x", 1), &[&world.critical[0]])),
        (
            "one of two publishers, twice",
            publish(&release("org.example.critical.x", 1), &[&world.critical[0], &world.critical[0]]),
        ),
    ];
    for (who, attempt) in attempts {
        let mut trust = world.trust();
        let order = world.approve(&approval(GROUP, attempt.release, 1));
        let edition = world.edition(1, vec![good.clone(), decision.clone(), attempt.clone(), order]);
        trust.offer_head(&edition.head, NOW).unwrap();
        edition.offer_index(&mut trust);
        let refused = trust.offer_document(attempt.bytes.clone(), NOW);
        assert!(matches!(refused, Err(TrustError::Refused { .. })), "{who}: {refused:?}");
        match trust.wanted() {
            Wanted::Documents(wanted) => assert!(wanted.iter().all(|entry| entry.hash != attempt.entry.hash), "{who}"),
            other => panic!("{who}: {other:?}"),
        }
        edition.offer_documents(&mut trust);
        assert!(trust.is_current(), "{who}");
        assert_eq!(installs(&trust, good.release), Ok(()), "{who}");
        assert_eq!(installs(&trust, attempt.release), Err(Blocked::NoRelease), "{who}");
        assert_eq!(trust.refusals().len(), 1, "{who}");
        assert_eq!(trust.take_alarms().len(), 1, "{who}");
    }
    let both = publish(&release("org.example.critical.x", 1), &[&world.critical[0], &world.critical[1]]);
    let mut trust = world.trust();
    world.edition(1, vec![both]).offer_to(&mut trust);
    assert_eq!(trust.catalog().releases().len(), 1);
}

#[test]
fn an_approval_needs_its_approvers() {
    let world = World::new();
    let product = world.publish(&release("org.example.tool", 1));
    let plain = approval(GROUP, product.release, 1);
    let careful = approval(CAREFUL, product.release, 1);
    let [one, two] = [&world.approvers[0], &world.approvers[1]];
    let cases = [
        ("nobody", approve(&plain, &[]), false),
        ("a publisher", approve(&plain, &[&world.publisher]), false),
        ("the online key", approve(&plain, &[&world.online[0]]), false),
        ("an approver", approve(&plain, &[one]), true),
        ("one of two for a careful group", approve(&careful, &[one]), false),
        ("one of two twice for a careful group", approve(&careful, &[two, two]), false),
        ("two for a careful group", approve(&careful, &[one, two]), true),
    ];
    for (who, decision, good) in cases {
        let mut trust = world.trust();
        let edition = world.edition(1, vec![product.clone(), decision.clone()]);
        trust.offer_head(&edition.head, NOW).unwrap();
        edition.offer_index(&mut trust);
        edition.offer_documents(&mut trust);
        assert_eq!(trust.catalog().approvals().len(), usize::from(good), "{who}");
        let pair = verify_pair(trust.root(), &product.bytes, &decision.bytes, NOW);
        assert_eq!(pair.is_ok(), good, "{who}");
    }
}

#[test]
fn documents_of_one_kind_or_role_are_not_taken_for_another() {
    let world = World::new();
    let edition = world.simple(1);
    let [product, decision] = [&edition.documents[0], &edition.documents[1]];
    let certificate = world.certificate_doc(&certificate(&key(50)));
    let root = world.next(|_| ()).root_doc();
    let all = [&edition.head, &edition.index, &product.bytes, &decision.bytes, &certificate, &root];
    for (at, bytes) in all.into_iter().enumerate() {
        let mut trust = world.trust();
        assert_eq!(trust.offer_head(bytes, NOW).is_ok(), at == 0, "{at} as a head");
        assert_eq!(trust.check_certificate(bytes, NOW).is_ok(), at == 4, "{at} as a certificate");
        assert_eq!(trust.offer_root(bytes, NOW).is_ok(), at == 5, "{at} as a root");
        let root = world.trust().root().clone();
        assert_eq!(verify_pair(&root, bytes, &decision.bytes, NOW).is_ok(), at == 2, "{at} as a release");
        assert_eq!(verify_pair(&root, &product.bytes, bytes, NOW).is_ok(), at == 3, "{at} as an approval");
    }
    // The right key in another role, and the kind byte changed behind the signature.
    let head = world.head(1, &edition.index);
    let mut trust = world.trust();
    for role in [Role::Root, Role::Publisher, Role::Approver, Role::Device] {
        let bytes = envelope::sign(Kind::Head, role, &head, &[&world.online[0]]).unwrap();
        assert!(trust.offer_head(&bytes, NOW).is_err(), "{role:?}");
        let mut relabelled = bytes;
        relabelled[5] = Role::Online as u8;
        assert!(trust.offer_head(&relabelled, NOW).is_err(), "{role:?} relabelled");
    }
    for key in [&world.publisher, &world.approvers[0], &world.root_keys[0], &key(99)] {
        assert!(trust.offer_head(&sign_head(&head, key), NOW).is_err());
    }
    assert!(trust.head().is_none());
}

#[test]
fn the_index_may_name_a_document_only_as_what_it_is() {
    let world = World::new();
    let product = world.publish(&release("org.example.tool", 3));
    for change in [
        (|entry| entry.kind = Kind::Approval) as fn(&mut DocEntry),
        |entry| entry.version += 1,
        |entry| entry.len += 1,
        |entry| entry.len -= 1,
    ] {
        let mut named = product.clone();
        change(&mut named.entry);
        let edition = world.edition(1, vec![named]);
        let mut trust = world.trust();
        trust.offer_head(&edition.head, NOW).unwrap();
        edition.offer_index(&mut trust);
        let refused = trust.offer_document(product.bytes.clone(), NOW);
        assert!(matches!(refused, Err(TrustError::Refused { .. })), "{refused:?}");
        assert!(trust.catalog().releases().is_empty() && trust.is_current());
    }
}

#[test]
fn rollback_of_head_and_index() {
    let world = World::new();
    let mut trust = world.trust();
    let editions: Vec<_> = (1..=5).map(|version| world.simple(version)).collect();
    editions[3].offer_to(&mut trust);
    for old in &editions[..3] {
        assert_eq!(trust.offer_head(&old.head, NOW).unwrap(), HeadNews::Older);
        assert!(matches!(trust.offer_index(old.index.clone()), Ok(())), "nothing is wanted, nothing is taken");
        assert_eq!(trust.catalog().index_version(), 4);
    }
    assert_eq!(trust.offer_head(&editions[3].head, NOW).unwrap(), HeadNews::Same);
    // The same index in a head that was signed earlier is older, later is new.
    let head = world.head(4, &editions[3].index);
    let earlier = world.head_doc(&Head { issued: head.issued - HOUR, ..head });
    let later = world.head_doc(&Head { issued: head.issued + HOUR, ..head });
    assert_eq!(trust.offer_head(&earlier, NOW).unwrap(), HeadNews::Older);
    assert_eq!(trust.offer_head(&later, NOW).unwrap(), HeadNews::New);
    assert_eq!(trust.wanted(), Wanted::Nothing, "the index is the one that is held");
    // A new head, answered with an old index.
    trust.offer_head(&editions[4].head, NOW).unwrap();
    for old in &editions[..4] {
        assert!(matches!(trust.offer_index(old.index.clone()), Err(TrustError::Hash { .. })));
    }
    // An index that lies about its version, well signed and well named.
    let liar = world.index_doc(&index(3, &[]).0);
    let head = world.head_doc(&world.head(9, &liar));
    trust.offer_head(&head, NOW).unwrap();
    let refused = trust.offer_index(liar);
    assert!(matches!(refused, Err(TrustError::Version { kind: Kind::Index, expected: 9, found: 3 })), "{refused:?}");
    assert_eq!(trust.catalog().index_version(), 4);
}

#[test]
fn rollback_of_an_approval_that_was_replaced() {
    let world = World::new();
    let mut trust = world.trust();
    let product = world.publish(&release("org.example.tool", 1));
    let first = world.approve(&approval(GROUP, product.release, 1));
    let no = world.approve(&Approval { action: Action::None, ..approval(GROUP, product.release, 2) });
    world.edition(1, vec![product.clone(), first.clone()]).offer_to(&mut trust);
    world.edition(2, vec![product.clone(), no.clone()]).offer_to(&mut trust);
    assert_eq!(installs(&trust, product.release), Err(Blocked::Declined));
    // The online keys alone bring the old, still valid approval back: at once, or after an index without any.
    world.edition(3, vec![product.clone()]).offer_to(&mut trust);
    assert_eq!(installs(&trust, product.release), Err(Blocked::NotApproved));
    let replay = world.edition(4, vec![product.clone(), first.clone()]);
    replay.offer_to(&mut trust);
    assert_eq!(installs(&trust, product.release), Err(Blocked::NotApproved));
    assert_eq!(trust.refusals().len(), 1);
    // Named together, the newer one counts.
    world.edition(5, vec![product.clone(), first, no]).offer_to(&mut trust);
    assert_eq!(installs(&trust, product.release), Err(Blocked::Declined));
    // The approver changes its mind with a higher version.
    let again = world.approve(&approval(GROUP, product.release, 3));
    world.edition(6, vec![product.clone(), again]).offer_to(&mut trust);
    assert_eq!(installs(&trust, product.release), Ok(()));
}

#[test]
fn two_approvals_of_one_version_are_settled_the_same_way_everywhere() {
    let world = World::new();
    let product = world.publish(&release("org.example.tool", 1));
    let yes = world.approve(&approval(GROUP, product.release, 1));
    let no = world.approve(&Approval { action: Action::None, ..approval(GROUP, product.release, 1) });
    let edition = world.edition(1, vec![product.clone(), yes.clone(), no.clone()]);
    let mut backwards = edition.clone();
    backwards.documents.reverse();
    let [mut one, mut other] = [world.trust(), world.trust()];
    edition.offer_to(&mut one);
    backwards.offer_to(&mut other);
    assert_eq!(one.catalog(), other.catalog());
    assert_eq!(one.refusals().len(), 1);
    let kept = if yes.entry.hash < no.entry.hash { yes } else { no };
    assert_eq!(one.catalog().approvals()[&(GROUP, product.release)].hash, kept.entry.hash);
}

#[test]
fn freeze_shows_and_blocks_but_versions_still_grow() {
    let world = World::new();
    let mut trust = world.trust();
    let edition = world.simple(2);
    edition.offer_to(&mut trust);
    let id = edition.documents[0].release;
    let at = |trust: &Trust, wall: Wall| trust.may_install(&id, &GROUP, wall);
    assert_eq!(at(&trust, NOW + 2 * DAY), Ok(()));
    assert_eq!(at(&trust, NOW + 3 * DAY), Err(Blocked::HeadExpired(NOW + 3 * DAY)));
    // The attacker replays what it has: nothing moves.
    assert_eq!(trust.offer_head(&edition.head, NOW + 4 * DAY).unwrap(), HeadNews::Same);
    assert_eq!(at(&trust, NOW + 4 * DAY), Err(Blocked::HeadExpired(NOW + 3 * DAY)));
    // A head that was expired when it came is taken, so that what is older can never come back, and still blocks.
    let stale = Head { issued: NOW, expires: NOW + HOUR, ..world.head(3, &edition.index) };
    let renewed = world.index_doc(&index(3, &edition.documents).0);
    let stale = Head { index_hash: DocHash::of(&renewed), index_len: renewed.len() as u32, ..stale };
    assert_eq!(trust.offer_head(&world.head_doc(&stale), NOW + 5 * DAY).unwrap(), HeadNews::New);
    assert_eq!(trust.offer_head(&edition.head, NOW).unwrap(), HeadNews::Older);
    assert_eq!(at(&trust, NOW + 5 * DAY), Err(Blocked::HeadExpired(NOW + HOUR)));
    // Fresh heads around an index that is not renewed, or is withheld.
    let fresh = Head { issued: NOW + 8 * DAY, expires: NOW + 11 * DAY, ..stale };
    trust.offer_head(&world.head_doc(&fresh), NOW + 8 * DAY).unwrap();
    assert_eq!(at(&trust, NOW + 8 * DAY), Err(Blocked::Overdue(NOW + 3 * DAY)));
}

#[test]
fn every_layer_expires_by_itself() {
    let world = World::new();
    let product = world.publish(&Release { expires: NOW + HOUR, ..release("org.example.tool", 1) });
    let decision = world.approve(&Approval { expires: NOW + 2 * HOUR, ..approval(GROUP, product.release, 1) });
    let mut trust = world.trust();
    world.edition(1, vec![product.clone(), decision]).offer_to(&mut trust);
    let at = |wall| trust.may_install(&product.release, &GROUP, wall);
    assert_eq!(at(NOW), Ok(()));
    assert_eq!(at(NOW + HOUR), Err(Blocked::ReleaseExpired(NOW + HOUR)));
    assert_eq!(at(NOW + 356 * DAY), Err(Blocked::RootExpired(NOW + 355 * DAY)));

    let product = world.publish(&release("org.example.tool", 2));
    let decision = world.approve(&Approval { expires: NOW + HOUR, ..approval(GROUP, product.release, 1) });
    let pair = |wall| verify_pair(trust.root(), &product.bytes, &decision.bytes, wall).map(|_| ());
    assert!(pair(NOW).is_ok());
    assert!(matches!(pair(NOW + HOUR), Err(TrustError::Expired { kind: Kind::Approval, .. })));
    assert!(matches!(pair(NOW + 200 * DAY), Err(TrustError::Expired { kind: Kind::Release, .. })));
    assert!(matches!(pair(NOW + 356 * DAY), Err(TrustError::Expired { kind: Kind::Root, .. })));
}

#[test]
fn mix_and_match_accepts_exactly_what_belongs_together() {
    const EDITIONS: usize = 6;
    let world = World::new();
    let editions: Vec<_> = (1..=EDITIONS as u64).map(|version| world.simple(version)).collect();
    let mut accepted = 0;
    for (h, head) in editions.iter().enumerate() {
        for (i, index) in editions.iter().enumerate() {
            let mut indexed = world.trust();
            indexed.offer_head(&head.head, NOW).unwrap();
            assert_eq!(indexed.offer_index(index.index.clone()).is_ok(), h == i);
            index.offer_pages(&mut indexed);
            for (r, product) in editions.iter().enumerate() {
                for (a, decision) in editions.iter().enumerate() {
                    let mut trust = indexed.clone();
                    let got_release = trust.offer_document(product.documents[0].bytes.clone(), NOW).is_ok();
                    let got_approval = trust.offer_document(decision.documents[1].bytes.clone(), NOW).is_ok();
                    assert_eq!(got_release, h == i && i == r);
                    assert_eq!(got_approval, h == i && i == a);
                    let whole = h == i && i == r && i == a;
                    assert_eq!(trust.is_current(), whole);
                    for edition in &editions {
                        let installed = installs(&trust, edition.documents[0].release).is_ok();
                        assert!(!installed || whole);
                        accepted += usize::from(installed);
                    }
                    // What the installer sees on its own: any approval with the release it names, no other.
                    let pair = (&product.documents[0].bytes, &decision.documents[1].bytes);
                    assert_eq!(verify_pair(trust.root(), pair.0, pair.1, NOW).is_ok(), r == a);
                }
            }
        }
    }
    assert_eq!(accepted, EDITIONS);
}

#[test]
fn the_catalog_changes_as_a_whole() {
    let world = World::new();
    let mut trust = world.trust();
    let old = world.simple(1);
    old.offer_to(&mut trust);
    let kept = world.publish(&release("org.example.kept", 1));
    let mut documents = vec![kept.clone(), world.approve(&approval(GROUP, kept.release, 1))];
    documents.extend(world.simple(2).documents);
    let new = world.edition(2, documents);
    trust.offer_head(&new.head, NOW).unwrap();
    new.offer_index(&mut trust);
    let before = trust.catalog().clone();
    for (at, document) in new.documents.iter().enumerate() {
        assert_eq!(trust.catalog(), &before, "after {at} of {}", new.documents.len());
        assert_eq!(installs(&trust, kept.release), Err(Blocked::NotApproved));
        // What the newest index no longer names is not begun any more, but payloads and documents are kept.
        assert_eq!(installs(&trust, old.documents[0].release), Err(Blocked::Withdrawn));
        assert!(trust.document_hashes().contains(&old.documents[0].entry.hash));
        trust.offer_document(document.bytes.clone(), NOW).unwrap();
    }
    assert_eq!(trust.catalog().index_version(), 2);
    assert_eq!(installs(&trust, kept.release), Ok(()));
    assert_eq!(installs(&trust, old.documents[0].release), Err(Blocked::NotApproved));
    assert!(!trust.document_hashes().contains(&old.documents[0].entry.hash));
}

#[test]
fn stops_do_not_wait_for_documents() {
    let world = World::new();
    let edition = world.simple(1);
    let id = edition.documents[0].release;
    let other = world.publish(&release("org.example.other", 1));
    let device = DeviceId(*key(50).verifying_key().as_bytes());
    let ours =
        [Hold::Everything, Hold::Group(GROUP), Hold::Release(id), Hold::Approval(GROUP, id), Hold::Rollout(GROUP, id)];
    let others =
        [Hold::Group(CAREFUL), Hold::Release(other.release), Hold::Approval(CAREFUL, id), Hold::Rollout(CAREFUL, id)];
    for (hold, stops) in ours.map(|hold| (hold, true)).into_iter().chain(others.map(|hold| (hold, false))) {
        let mut trust = world.trust();
        edition.offer_to(&mut trust);
        assert_eq!(installs(&trust, id), Ok(()));
        let mut documents = edition.documents.clone();
        documents.push(other.clone());
        let next = world.edition_with(2, documents, |index| {
            index.holds = list(vec![hold]);
            index.revoked = revoked(&[device]);
        });
        trust.offer_head(&next.head, NOW).unwrap();
        next.offer_index(&mut trust);
        assert_eq!(trust.catalog().index_version(), 1, "{hold:?}");
        assert_eq!(installs(&trust, id), if stops { Err(Blocked::Held(hold)) } else { Ok(()) });
        assert!(trust.catalog().is_revoked(&device));
    }
}

#[test]
fn endless_data_is_refused_by_its_length() {
    let world = World::new();
    let mut trust = world.trust();
    let edition = world.simple(1);
    let long = |bytes: &[u8], kind: Kind| {
        let mut bytes = bytes.to_vec();
        bytes.resize(kind.cap() + 1, 0);
        bytes
    };
    let too_long =
        |error: &TrustError| matches!(error, TrustError::Envelope { source: EnvelopeError::TooLong { .. }, .. });
    let head = long(&edition.head, Kind::Head);
    assert!(too_long(&trust.offer_head(&head, NOW).unwrap_err()));
    assert!(too_long(&trust.offer_root(&long(&world.root_doc(), Kind::Root), NOW).unwrap_err()));
    let certificate = world.certificate_doc(&certificate(&key(50)));
    assert!(too_long(&trust.check_certificate(&long(&certificate, Kind::Certificate), NOW).unwrap_err()));
    let [product, decision] = [&edition.documents[0].bytes, &edition.documents[1].bytes];
    let root = world.root.clone();
    assert!(too_long(&verify_pair(&root, &long(product, Kind::Release), decision, NOW).unwrap_err()));
    assert!(too_long(&verify_pair(&root, product, &long(decision, Kind::Approval), NOW).unwrap_err()));
    // An index longer than allowed cannot even be named, nor one of its documents.
    let head = Head { index_len: Kind::Index.cap() as u32 + 1, ..world.head(1, &edition.index) };
    assert!(matches!(trust.offer_head(&world.head_doc(&head), NOW), Err(TrustError::Invalid { .. })));
    let mut named = edition.documents[0].clone();
    named.entry.len = Kind::Release.cap() as u32 + 1;
    let next = world.edition(1, vec![named]);
    trust.offer_head(&next.head, NOW).unwrap();
    assert!(trust.offer_index(next.index).is_ok());
    assert!(trust.refusals().len() == 1 && trust.wanted() == Wanted::Nothing, "it is not asked for");
    trust.offer_head(&world.edition(2, vec![]).head, NOW).unwrap();
    assert!(matches!(trust.offer_index(long(&edition.index, Kind::Index)), Err(TrustError::Hash { .. })));
}

#[test]
fn one_version_with_two_contents_is_kept_as_evidence_and_told_once() {
    let world = World::new();
    let mut trust = world.trust();
    let [one, other] = [world.simple(1), world.edition(1, vec![])];
    one.offer_to(&mut trust);
    for _ in 0..3 {
        let refused = trust.offer_head(&other.head, NOW);
        assert!(matches!(refused, Err(TrustError::Equivocation { kind: Kind::Head, version: 1 })), "{refused:?}");
    }
    assert_eq!(trust.head_bytes(), Some(one.head.as_slice()), "the first one counts");
    assert_eq!(trust.take_alarms().len(), 1);
    assert_eq!(trust.take_alarms().len(), 0);
    let evidence = trust.evidence();
    assert_eq!(evidence.len(), 1);
    assert_eq!((&*evidence[0].first, &*evidence[0].second), (one.head.as_slice(), other.head.as_slice()));
    assert_eq!(Trust::restore(&trust.snapshot(), NOW).unwrap().evidence(), evidence);
    // A flood of them does not fill the memory.
    for at in 0..50 {
        let head = Head { index_hash: DocHash([at; 32]), ..world.head(1, &one.index) };
        assert!(trust.offer_head(&world.head_doc(&head), NOW).is_err());
    }
    assert_eq!(trust.evidence().len(), MAX_EVIDENCE);
    // A neighbour that adds a signature of its own to the envelope forges nothing and raises nothing.
    let mut trust = world.trust();
    one.offer_to(&mut trust);
    let head = world.head(1, &one.index);
    let adorned = envelope::sign(Kind::Head, Role::Online, &head, &[&world.online[0], &key(99)]).unwrap();
    assert_eq!(trust.offer_head(&adorned, NOW).unwrap(), HeadNews::Same);
    assert!(trust.take_alarms().is_empty());
}

#[test]
fn what_nobody_named_is_not_taken() {
    let world = World::new();
    let mut trust = world.trust();
    let edition = world.simple(1);
    assert!(matches!(trust.offer_index(edition.index.clone()), Err(TrustError::NoHead)));
    let unnamed = edition.documents[0].bytes.clone();
    assert!(matches!(trust.offer_document(unnamed, NOW), Err(TrustError::NotNamed(_))));
    edition.offer_to(&mut trust);
    assert!(trust.offer_document(edition.documents[0].bytes.clone(), NOW).is_ok(), "a second time changes nothing");
    // The same body with one more signature is another document.
    let twin = publish(&release("org.example.tool", 1), &[&world.publisher, &key(99)]);
    assert_eq!(twin.release, edition.documents[0].release);
    assert!(matches!(trust.offer_document(twin.bytes, NOW), Err(TrustError::NotNamed(_))));
}

#[test]
fn many_documents_are_wanted_in_parts() {
    let world = World::new();
    let documents: Vec<_> =
        (0..MAX_WANTED as u64 + 10).map(|at| world.publish(&release("org.example.x", at))).collect();
    let edition = world.edition(1, documents);
    let mut trust = world.trust();
    trust.offer_head(&edition.head, NOW).unwrap();
    edition.offer_index(&mut trust);
    match trust.wanted() {
        Wanted::Documents(part) => assert_eq!(part.len(), MAX_WANTED),
        other => panic!("{other:?}"),
    }
    edition.offer_documents(&mut trust);
    assert_eq!(trust.catalog().releases().len(), MAX_WANTED + 10);
}
