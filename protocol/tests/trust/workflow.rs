//! TUF's client workflow (specification 1.0.33, section 5) and the attacks of Uptane's standard (2.1.0, section 4), line by line: one test
//! for each, named after it. Deeper tests of the same lines are named beside.
//!
//! | line | how it is met | test here | more in |
//! | --- | --- | --- | --- |
//! | 5.1 one update start time | every question is asked with one time, the later of it and the last head's | `tuf_5_1_...` | `clocks` |
//! | 5.2 the trusted root | pinned by the hash in the join token; expired or not | `tuf_5_2_...` | `keys` |
//! | 5.3.2 the next root, by number | asked for when a head speaks of it | `tuf_5_3_2_...` | `keys` |
//! | 5.3.3 up to a length | `Kind::cap` | `tuf_5_3_3_...` | `attacks` |
//! | 5.3.4 signed by the old keys and the new | thresholds of holders | `tuf_5_3_4_...` | `keys` |
//! | 5.3.5 exactly the next version | | `tuf_5_3_5_...` | `keys` |
//! | 5.3.6, 5.3.7 expiry of a step does not count | | `tuf_5_3_6_...` | `keys` |
//! | 5.3.8 persisted | snapshot; the node acts when it is on disk | `tuf_5_3_8_...` | `restart` |
//! | 5.3.9, 5.3.10 the last root expired | nothing is installed | `tuf_5_3_10_...` | `attacks` |
//! | 5.3.11 fast-forward | a removed online key's word is forgotten | `tuf_5_3_11_...` | `keys` |
//! | 5.3.12 consistent snapshots | everything below the head is named by hash | `tuf_5_3_12_...` | `attacks` |
//! | 5.4.1 timestamp, up to a length | the head, 1 KiB | `tuf_5_4_1_...` | |
//! | 5.4.2 signed | | `tuf_5_4_2_...` | `attacks` |
//! | 5.4.3 no rollback, nor of the snapshot in it | version and date of the head | `tuf_5_4_3_...` | `attacks` |
//! | 5.4.4 freeze | taken, and nothing is installed while it is the newest (a deliberate difference: stops in it count) | `tuf_5_4_4_...` | `attacks` |
//! | 5.4.5, 5.5.7, 5.6.6 persisted | | `tuf_5_4_5_...` | `restart` |
//! | 5.5.1, 5.5.2 snapshot by length and hash | the index | `tuf_5_5_1_...` | `mutation` |
//! | 5.5.3 signed; 5.5.4 the version that was named | | `tuf_5_5_3_...` | |
//! | 5.5.5 no rollback of what it names | versions of approvals and groups; releases may be withdrawn (a deliberate difference) | `tuf_5_5_5_...` | `restart`, `groups` |
//! | 5.5.6 freeze | | `tuf_5_5_6_...` | |
//! | 5.6.1, 5.6.2 targets by length and hash | releases, approvals, groups, pages | `tuf_5_6_1_...` | `pages` |
//! | 5.6.3 signed; 5.6.4 the version that was named; 5.6.5 expiry | | `tuf_5_6_3_...` | `content` |
//! | 5.6.7 delegations, no cycles, first match ends the search | the longest prefix decides; pages are bounded in depth and number | `tuf_5_6_7_...` | `keys`, `pages` |
//! | 5.7 a target by length and hash | the chunk list by hash, each chunk by BLAKE3, the copy that is installed again | `tuf_5_7_...` | `privileged::tests`, `cache` |
//! | Uptane: eavesdrop | reports and what answers them are encrypted | `uptane_eavesdrop` | `report`, `assignments` |
//! | Uptane: drop-request, freeze | shown, blocks when the head's life is over | `uptane_freeze_and_drop_request` | `pages` |
//! | Uptane: slow retrieval | sources are passed over | | `simulations --test hostile` |
//! | Uptane: partial bundle installation | the catalog changes as a whole | `uptane_partial_bundle` | `attacks` |
//! | Uptane: rollback | | `uptane_rollback` | `attacks`, `admit` |
//! | Uptane: endless data | | `uptane_endless_data` | `attacks` |
//! | Uptane: mixed bundles, mix and match | one index names all | `uptane_mix_and_match` | `attacks` |
//! | Uptane: arbitrary software | publisher and approver | `uptane_arbitrary_software` | `attacks`, `keys` |

use upswarm_protocol::catalog::*;
use upswarm_protocol::chunk::{ChunkList, ChunkSizes};
use upswarm_protocol::envelope::{EnvelopeError, Kind};
use upswarm_protocol::ids::*;
use upswarm_protocol::report::News;
use upswarm_protocol::trust::*;

use crate::common::*;

/// A machine with one approved release, and that release.
fn installed() -> (World, Edition, Trust, ReleaseId) {
    let world = World::new();
    let (edition, mut trust) = (world.simple(1), world.trust());
    edition.offer_to(&mut trust);
    let id = edition.documents[0].release;
    (world, edition, trust, id)
}

fn padded(bytes: &[u8], kind: Kind) -> Vec<u8> {
    let mut long = bytes.to_vec();
    long.resize(kind.cap() + 1, 0);
    long
}

fn too_long(error: &TrustError) -> bool {
    matches!(error, TrustError::Envelope { source: EnvelopeError::TooLong { .. }, .. })
}

#[test]
fn tuf_5_1_one_start_time_is_used_for_the_whole_decision() {
    let (world, edition, mut trust, id) = installed();
    let expires = world.head(1, &edition.index).expires;
    assert_eq!(trust.may_install(&id, &GROUP, expires - HOUR), Ok(()));
    assert_eq!(trust.may_install(&id, &GROUP, expires), Err(Blocked::HeadExpired(expires)));
    // A clock that is set back between two questions does not bring the first answer back.
    let later = Head { issued: NOW + 20 * HOUR, ..world.head(1, &edition.index) };
    trust.offer_head(&world.head_doc(&later), NOW + 20 * HOUR).unwrap();
    assert_eq!(trust.clock(NOW), NOW + 20 * HOUR);
}

#[test]
fn tuf_5_2_the_first_root_is_the_trusted_one_and_may_have_expired() {
    let world = World::new();
    let over = world.next(|next| next.root.expires = NOW - DAY);
    let bytes = over.root_doc();
    let mut trust = Trust::pin(bytes.clone(), DocHash::of(&bytes), NOW - 30 * DAY).unwrap();
    let next = over.next(|next| next.root.expires = NOW + DAY);
    trust.offer_root(&next.root_doc(), NOW).unwrap();
    assert_eq!(trust.root().version, 3);
    assert!(Trust::pin(bytes, DocHash::of(b"another"), NOW).is_err());
}

#[test]
fn tuf_5_3_2_the_next_root_is_asked_for_by_its_number() {
    let (world, edition, mut trust, _) = installed();
    let head = Head { root_version: 3, ..world.head(2, &edition.index) };
    assert_eq!(trust.offer_head(&world.head_doc(&head), NOW).unwrap(), HeadNews::NeedsRoot { version: 3 });
    assert_eq!((trust.wanted(), trust.wanted_root()), (Wanted::Root(2), Some(2)));
}

#[test]
fn tuf_5_3_3_a_root_is_read_up_to_its_length() {
    let (world, _, mut trust, _) = installed();
    let next = world.next(|_| ()).root_doc();
    assert!(too_long(&trust.offer_root(&padded(&next, Kind::Root), NOW).unwrap_err()));
}

#[test]
fn tuf_5_3_4_a_root_is_signed_by_the_keys_before_and_by_its_own() {
    let (world, _, trust, _) = installed();
    let next = world.next(|next| next.root.root = keys(&[key(4), key(5)], 2)).root;
    let by = |keys: &[ed25519_dalek::SigningKey]| {
        trust.clone().offer_root(&sign_root(&next, &keys.iter().collect::<Vec<_>>()), NOW).is_ok()
    };
    assert!(by(&[key(1), key(2), key(4), key(5)]));
    for less in [vec![key(1), key(2), key(4)], vec![key(1), key(4), key(5)], vec![key(4), key(5)], vec![key(1), key(2)]]
    {
        assert!(!by(&less));
    }
}

#[test]
fn tuf_5_3_5_a_root_is_exactly_one_version_on() {
    let (world, _, trust, _) = installed();
    for version in [0, 1, 3, u64::MAX] {
        let other = world.next(|next| next.root.version = version);
        assert!(trust.clone().offer_root(&other.root_doc(), NOW).is_err(), "{version}");
    }
}

#[test]
fn tuf_5_3_6_a_step_that_has_expired_is_a_step_all_the_same() {
    let (world, _, mut trust, _) = installed();
    let over = world.next(|next| next.root.expires = NOW - HOUR);
    trust.offer_root(&over.root_doc(), NOW).unwrap();
    trust.offer_root(&over.next(|next| next.root.expires = NOW + DAY).root_doc(), NOW).unwrap();
}

#[test]
fn tuf_5_3_8_the_root_survives_a_restart() {
    let (world, _, mut trust, _) = installed();
    trust.offer_root(&world.next(|_| ()).root_doc(), NOW).unwrap();
    assert_eq!(Trust::restore(&trust.snapshot(), NOW - DAY).unwrap().root().version, 2);
}

#[test]
fn tuf_5_3_10_nothing_is_installed_under_a_last_root_that_has_expired() {
    let (world, _, mut trust, id) = installed();
    let at = NOW + HOUR;
    trust.offer_root(&world.next(|next| next.root.expires = at).root_doc(), NOW).unwrap();
    assert_eq!(trust.may_install(&id, &GROUP, at), Err(Blocked::RootExpired(at)));
}

#[test]
fn tuf_5_3_11_what_a_removed_online_key_said_is_forgotten() {
    let (world, edition, mut trust, id) = installed();
    trust.offer_head(&world.simple(u64::MAX).head, NOW).unwrap();
    let rescued = world.with_online(31);
    trust.offer_root(&rescued.root_doc(), NOW).unwrap();
    assert!(trust.head().is_none());
    rescued.edition(1, edition.documents).offer_to(&mut trust);
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
}

#[test]
fn tuf_5_3_12_everything_below_the_head_is_named_by_its_hash() {
    let (_, edition, trust, _) = installed();
    let head = trust.head().unwrap();
    assert_eq!((head.index_hash, head.index_len as usize), (DocHash::of(&edition.index), edition.index.len()));
    let stored = edition.stored();
    assert!(edition.documents.iter().all(|document| stored.contains_key(&document.entry.hash)));
    assert!(trust.document_hashes().iter().all(|hash| stored.contains_key(hash)));
}

#[test]
fn tuf_5_4_1_a_head_is_read_up_to_its_length() {
    let (_, edition, mut trust, _) = installed();
    assert!(too_long(&trust.offer_head(&padded(&edition.head, Kind::Head), NOW).unwrap_err()));
}

#[test]
fn tuf_5_4_2_a_head_is_signed_by_the_online_keys() {
    let (world, edition, mut trust, _) = installed();
    let head = world.head(2, &edition.index);
    for thief in [&world.publisher, &world.approvers[0], &world.root_keys[0], &key(99)] {
        assert!(trust.offer_head(&sign_head(&head, thief), NOW).is_err());
    }
    assert_eq!(trust.offer_head(&world.head_doc(&head), NOW).unwrap(), HeadNews::New);
}

#[test]
fn tuf_5_4_3_neither_the_head_nor_the_index_in_it_goes_back() {
    let (world, _, mut trust, _) = installed();
    world.simple(5).offer_to(&mut trust);
    let edition = world.simple(5);
    let head = world.head(5, &edition.index);
    for (older, news) in [
        (world.simple(4).head, HeadNews::Older),
        (world.head_doc(&Head { issued: head.issued - HOUR, ..head }), HeadNews::Older),
        (edition.head, HeadNews::Same),
    ] {
        assert_eq!(trust.offer_head(&older, NOW).unwrap(), news);
        assert_eq!(trust.head().unwrap().index_version, 5);
    }
}

#[test]
fn tuf_5_4_4_a_frozen_head_blocks_and_still_stops() {
    let (world, _, mut trust, id) = installed();
    let stopped = world.edition_with(2, vec![], |index| index.holds = list(vec![Hold::Release(id)]));
    let head = world.head(2, &stopped.index);
    trust.offer_head(&world.head_doc(&head), head.expires + DAY).unwrap();
    stopped.offer_index(&mut trust);
    assert_eq!(trust.may_install(&id, &GROUP, head.expires + DAY), Err(Blocked::HeadExpired(head.expires)));
    assert!(trust.catalog().hold(&id, &GROUP).is_some());
}

#[test]
fn tuf_5_4_5_head_index_and_documents_survive_a_restart() {
    let (_, edition, trust, id) = installed();
    let mut again = Trust::restore(&trust.snapshot(), NOW - DAY).unwrap();
    let stored = edition.stored();
    again.recall(|hash| stored.get(hash).cloned(), NOW);
    assert_eq!(again.may_install(&id, &GROUP, NOW), Ok(()));
    assert_eq!(again.catalog(), trust.catalog());
}

#[test]
fn tuf_5_5_1_an_index_is_exactly_the_bytes_that_the_head_names() {
    let (world, _, mut trust, _) = installed();
    let (named, other) = (world.simple(2), world.edition(2, vec![]));
    trust.offer_head(&named.head, NOW).unwrap();
    for wrong in [other.index, padded(&named.index, Kind::Index), named.index[1..].to_vec()] {
        assert!(matches!(trust.offer_index(wrong), Err(TrustError::Hash { kind: Kind::Index, .. })));
    }
    trust.offer_index(named.index).unwrap();
}

#[test]
fn tuf_5_5_3_an_index_is_signed_and_has_the_version_that_was_named() {
    let (world, _, trust, _) = installed();
    let (fields, _) = index(2, &[]);
    let unsigned =
        upswarm_protocol::envelope::sign(Kind::Index, upswarm_protocol::envelope::Role::Online, &fields, &[&key(99)]);
    for (bytes, version) in [(unsigned.unwrap(), 2), (world.index_doc(&fields), 3)] {
        let mut trust = trust.clone();
        trust.offer_head(&world.head_doc(&world.head(version, &bytes)), NOW).unwrap();
        assert!(trust.offer_index(bytes).is_err(), "{version}");
        assert_eq!(trust.catalog().index_version(), 1);
    }
}

#[test]
fn tuf_5_5_5_what_an_index_names_does_not_go_back() {
    let (world, edition, mut trust, id) = installed();
    let product = edition.documents[0].clone();
    let of = |version| world.approve(&approval(GROUP, id, version));
    world.edition(2, vec![product.clone(), of(7)]).offer_to(&mut trust);
    let back = world.edition(3, vec![product, of(6)]);
    trust.offer_head(&back.head, NOW).unwrap();
    back.offer_index(&mut trust);
    back.offer_documents(&mut trust);
    assert!(trust.catalog().approvals().is_empty(), "{:?}", trust.refusals());
}

#[test]
fn tuf_5_5_6_nothing_rests_on_an_index_that_has_expired() {
    let world = World::new();
    let mut trust = world.trust();
    let at = NOW + HOUR;
    let documents = world.simple(1).documents;
    let id = documents[0].release;
    world.edition_with(1, documents, |index| index.expires = at).offer_to(&mut trust);
    assert_eq!(trust.may_install(&id, &GROUP, at), Err(Blocked::IndexExpired(at)));
}

#[test]
fn tuf_5_6_1_a_document_is_exactly_the_bytes_that_the_index_names() {
    let world = World::new();
    let (edition, mut trust) = (world.simple(1), world.trust());
    trust.offer_head(&edition.head, NOW).unwrap();
    edition.offer_index(&mut trust);
    let good = &edition.documents[0].bytes;
    let longer = [good.clone(), vec![0]].concat();
    for wrong in [longer, good[1..].to_vec(), world.simple(2).documents[0].bytes.clone()] {
        assert!(matches!(trust.offer_document(wrong, NOW), Err(TrustError::NotNamed(_))));
    }
    trust.offer_document(good.clone(), NOW).unwrap();
}

#[test]
fn tuf_5_6_3_a_document_is_signed_has_the_version_that_was_named_and_expires() {
    let world = World::new();
    let product = world.publish(&release("org.example.tool", 1));
    let decision = |expires| world.approve(&Approval { expires, ..approval(GROUP, product.release, 1) });
    let mut misnamed = decision(NOW + DAY);
    misnamed.entry.version = 2;
    let stranger = approve(&approval(GROUP, product.release, 1), &[&key(99)]);
    let cases =
        [(decision(NOW + DAY), Ok(())), (misnamed, Err(Blocked::NotApproved)), (stranger, Err(Blocked::NotApproved))];
    let expired = (decision(NOW), Err(Blocked::ApprovalExpired(NOW)));
    for (decision, allowed) in cases.into_iter().chain([expired]) {
        let (id, mut trust) = (product.release, world.trust());
        let edition = world.edition(1, vec![product.clone(), decision]);
        trust.offer_head(&edition.head, NOW).unwrap();
        edition.offer_index(&mut trust);
        edition.offer_documents(&mut trust);
        assert_eq!(trust.may_install(&id, &GROUP, NOW), allowed);
    }
}

#[test]
fn tuf_5_6_7_the_longest_prefix_ends_the_search_for_who_publishes() {
    let world = World::new();
    let critical = release("org.example.critical.door", 1);
    // The publisher of `org.example.` has no word where a longer prefix names others.
    assert!(verify_release(&world.root, &publish(&critical, &[&world.publisher]).bytes).is_err());
    let both: Vec<_> = world.critical.iter().collect();
    verify_release(&world.root, &publish(&critical, &both).bytes).unwrap();
}

#[test]
fn tuf_5_7_a_payload_is_its_chunks_by_hash_and_length() {
    let pieces = [b"one", b"two"].map(|bytes| (ChunkId(*blake3::hash(bytes).as_bytes()), 3));
    let list = ChunkList::new(ChunkSizes::default(), pieces).unwrap().to_bytes();
    let named = DocHash::of(&list);
    let parsed = ChunkList::parse(&list, named).unwrap();
    assert_eq!((parsed.payload_len(), parsed.chunks().len()), (6, 2));
    let mut changed = list.clone();
    *changed.last_mut().unwrap() ^= 1;
    for wrong in [changed, list[1..].to_vec(), vec![0; 64 << 20]] {
        assert!(ChunkList::parse(&wrong, named).is_err());
    }
}

/// A root that was dated years ahead by mistake, or by a wrong clock, is followed by one with the right date.
#[test]
fn a_root_from_the_future_is_recovered_by_the_next_one() {
    let (world, _, mut trust, id) = installed();
    let hasty = world.next(|next| (next.root.issued, next.root.expires) = (NOW + 3_000 * DAY, NOW + 4_000 * DAY));
    trust.offer_root(&hasty.root_doc(), NOW).unwrap();
    assert_eq!((trust.clock(NOW), trust.may_install(&id, &GROUP, NOW)), (NOW, Ok(())));
    let right = hasty.next(|next| (next.root.issued, next.root.expires) = (NOW, NOW + 300 * DAY));
    trust.offer_root(&right.root_doc(), NOW).unwrap();
    assert_eq!(trust.may_install(&id, &GROUP, NOW + HOUR), Ok(()));
    assert_eq!(trust.root().expires, NOW + 300 * DAY);
}

#[test]
fn uptane_eavesdrop() {
    let news = News { assignment: list(GROUP.0.to_vec()), ..News::default() };
    let concealed = news.conceal(&[7; 32]);
    assert!(!concealed.windows(GROUP.0.len()).any(|window| window == GROUP.0), "the group is to be read on the way");
    assert_eq!(News::reveal(&[7; 32], &concealed), Some(news));
    assert_eq!(News::reveal(&[8; 32], &concealed), None, "another machine's");
}

#[test]
fn uptane_freeze_and_drop_request() {
    let (world, edition, mut trust, id) = installed();
    let named_until = world.head(1, &edition.index).expires;
    // The next head gets through and nothing of what it names: what it replaced gains a head's life, no more.
    let next = Head { issued: NOW + DAY, expires: NOW + 6 * DAY, ..world.head(2, b"withheld") };
    trust.offer_head(&world.head_doc(&next), NOW + DAY).unwrap();
    assert_eq!(trust.may_install(&id, &GROUP, named_until - HOUR), Ok(()));
    assert_eq!(trust.may_install(&id, &GROUP, named_until), Err(Blocked::Overdue(named_until)));
}

#[test]
fn uptane_partial_bundle() {
    let (world, edition, mut trust, _) = installed();
    let before = trust.catalog().clone();
    let more: Vec<Doc> = (2..5).map(|counter| world.publish(&release("org.example.tool", counter))).collect();
    let next = world.edition(2, [edition.documents, more].concat());
    trust.offer_head(&next.head, NOW).unwrap();
    next.offer_index(&mut trust);
    let (last, rest) = next.documents.split_last().unwrap();
    for document in rest {
        trust.offer_document(document.bytes.clone(), NOW).unwrap();
    }
    assert_eq!((trust.catalog().releases(), trust.catalog().index_version()), (before.releases(), 1));
    trust.offer_document(last.bytes.clone(), NOW).unwrap();
    assert_eq!((trust.catalog().releases().len(), trust.catalog().index_version()), (4, 2));
}

#[test]
fn uptane_rollback() {
    let (world, edition, mut trust, id) = installed();
    let decline = world.approve(&Approval { action: Action::None, ..approval(GROUP, id, 2) });
    world.edition(2, vec![edition.documents[0].clone(), decline]).offer_to(&mut trust);
    // The decision before, named anew by the online keys.
    let back = world.edition(3, edition.documents);
    trust.offer_head(&back.head, NOW).unwrap();
    back.offer_index(&mut trust);
    back.offer_documents(&mut trust);
    assert!(trust.may_install(&id, &GROUP, NOW).is_err());
}

#[test]
fn uptane_endless_data() {
    let (world, edition, mut trust, _) = installed();
    // An index is waited for.
    trust.offer_head(&world.simple(2).head, NOW).unwrap();
    for kind in [Kind::Root, Kind::Head, Kind::Index, Kind::Release, Kind::Approval, Kind::Group, Kind::Certificate] {
        let mut trust = trust.clone();
        let endless = padded(&edition.head, kind);
        assert!(trust.offer_root(&endless, NOW).is_err() && trust.offer_head(&endless, NOW).is_err(), "{kind:?}");
        assert!(trust.offer_document(endless.clone(), NOW).is_err() && trust.check_certificate(&endless, NOW).is_err());
        assert!(trust.offer_index(endless).is_err(), "{kind:?}");
    }
}

#[test]
fn uptane_mix_and_match() {
    let (world, first, mut trust, id) = installed();
    let second = world.simple(2);
    trust.offer_head(&second.head, NOW).unwrap();
    second.offer_index(&mut trust);
    // Documents of the first edition under the second's index.
    for document in &first.documents {
        let known = trust.offer_document(document.bytes.clone(), NOW).is_ok();
        assert!(!known || trust.catalog().index_version() == 1, "the catalog in use has it already");
    }
    second.offer_documents(&mut trust);
    assert_eq!(trust.catalog().index_version(), 2);
    assert!(trust.may_install(&id, &GROUP, NOW).is_err(), "the first edition's release is in no catalog any more");
}

#[test]
fn uptane_arbitrary_software() {
    let world = World::new();
    let evil = release("org.example.tool", 9);
    let root = &world.root;
    for thieves in
        [vec![], vec![&world.online[0]], vec![&world.publisher], vec![&world.approvers[0]], vec![&world.root_keys[0]]]
    {
        let product = publish(&evil, &thieves);
        let decision = approve(&approval(GROUP, product.release, 1), &thieves);
        assert!(verify_pair(root, &product.bytes, &decision.bytes, NOW).is_err());
    }
    let product = publish(&evil, &[&world.publisher]);
    let decision = approve(&approval(GROUP, product.release, 1), &[&world.approvers[0]]);
    verify_pair(root, &product.bytes, &decision.bytes, NOW).unwrap();
}
