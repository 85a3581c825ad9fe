//! Roots: thresholds, rotation, recovery, and what a thief of some of the keys can and cannot do.

use ed25519_dalek::SigningKey;
use upswarm_protocol::catalog::*;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::*;
use upswarm_protocol::trust::*;

use crate::common::*;

type Change = fn(&mut Root);
type ChangeKeys = fn(&mut Root, Keys);

fn offer(world: &World, root: &Root, by: &[&SigningKey]) -> Result<(), TrustError> {
    world.trust().offer_root(&sign_root(root, by), NOW)
}

fn pin(root: &Root, by: &[&SigningKey]) -> Result<Trust, TrustError> {
    let bytes = sign_root(root, by);
    let hash = DocHash::of(&bytes);
    Trust::pin(bytes, hash, NOW)
}

#[test]
fn the_first_root_is_the_one_that_the_token_names() {
    let world = World::new();
    let root = world.root_doc();
    let other = world.next(|_| ()).root_doc();
    assert!(matches!(Trust::pin(other, DocHash::of(&root), NOW), Err(TrustError::Hash { .. })));
    let trust = Trust::pin(root.clone(), DocHash::of(&root), NOW).unwrap();
    assert_eq!((trust.root_hash(), trust.root_bytes()), (DocHash::of(&root), root.as_slice()));
    // Named by the token, and yet not signed by its own keys.
    assert!(pin(&world.root, &[]).is_err());
    assert!(pin(&world.root, &[&world.root_keys[0]]).is_err());
    assert!(pin(&world.root, &[&world.root_keys[0], &key(99)]).is_err());
}

#[test]
fn threshold_tricks() {
    let world = World::new();
    let [a, b, c] = [&world.root_keys[0], &world.root_keys[1], &world.root_keys[2]];
    let next = world.next(|_| ()).root;
    assert!(offer(&world, &next, &[a]).is_err(), "one of two");
    assert!(offer(&world, &next, &[a, a]).is_err(), "the same key twice");
    assert!(offer(&world, &next, &[a, a, &key(99), &key(98)]).is_err());
    assert!(offer(&world, &next, &[a, &key(99)]).is_err(), "a stranger as the second");
    assert!(offer(&world, &next, &[a, &world.online[0]]).is_err(), "another role as the second");
    assert!(offer(&world, &next, &[b, c]).is_ok(), "any two of three");
    // A root that could be satisfied by nobody, or by too few.
    let changes: [(&str, Change); 16] = [
        ("root threshold 0", |root| root.root.threshold = 0),
        ("root threshold 4 of 3", |root| root.root.threshold = 4),
        ("approver threshold 0", |root| root.approvers.threshold = 0),
        ("approver threshold 3 of 2", |root| root.approvers.threshold = 3),
        ("online threshold 0", |root| root.online.threshold = 0),
        ("no online keys", |root| root.online = keys(&[], 0)),
        ("an approver named twice", |root| root.approvers = keys(&[key(20), key(20)], 2)),
        ("no publisher rule", |root| root.publishers = list(vec![])),
        ("a publisher threshold of 0", |root| {
            let rule = PublisherRule { product_prefix: text(""), keys: keys(&[key(10)], 0) };
            root.publishers = list(vec![rule]);
        }),
        ("two rules for one prefix", |root| {
            let rule = PublisherRule { product_prefix: text("x."), keys: keys(&[key(10)], 1) };
            root.publishers = list(vec![rule.clone(), rule]);
        }),
        ("two rules for one prefix, one with a dot behind it", |root| {
            let rule = |prefix| PublisherRule { product_prefix: text(prefix), keys: keys(&[key(10)], 1) };
            root.publishers = list(vec![rule("x"), rule("x.")]);
        }),
        ("a prefix that ends in the midst of a name", |root| {
            let rule = PublisherRule { product_prefix: text("x-"), keys: keys(&[key(10)], 1) };
            root.publishers = list(vec![rule]);
        }),
        ("a prefix of a dot alone", |root| {
            let rule = PublisherRule { product_prefix: text("."), keys: keys(&[key(10)], 1) };
            root.publishers = list(vec![rule]);
        }),
        ("a prefix with an empty name", |root| {
            let rule = PublisherRule { product_prefix: text("x..y"), keys: keys(&[key(10)], 1) };
            root.publishers = list(vec![rule]);
        }),
        ("a group that needs 3 of 2", |root| {
            root.group_rules = list(vec![GroupRule { group: CAREFUL, threshold: 3 }]);
        }),
        ("a group that needs nobody", |root| {
            root.group_rules = list(vec![GroupRule { group: CAREFUL, threshold: 0 }]);
        }),
    ];
    for (what, change) in changes {
        let bad = world.next(|next| change(&mut next.root)).root;
        assert!(validate_root(&bad).is_err(), "{what}");
        assert!(matches!(offer(&world, &bad, &[a, b]), Err(TrustError::Invalid { .. })), "{what}");
        assert!(pin(&bad, &[a, b, c]).is_err(), "{what}, pinned");
    }
}

#[test]
fn weak_keys_are_refused_in_every_role() {
    let world = World::new();
    for point in SMALL_ORDER {
        let weak = Keys::single(HeldKey { key: PublicKey(bytes32(point)), holder: text("weak") });
        let changes: [(&str, ChangeKeys); 4] = [
            ("root", |root, weak| root.root = weak),
            ("approvers", |root, weak| root.approvers = weak),
            ("online", |root, weak| root.online = weak),
            ("publishers", |root, weak| {
                root.publishers = list(vec![PublisherRule { product_prefix: text(""), keys: weak }]);
            }),
        ];
        for (role, change) in changes {
            let bad = world.next(|next| change(&mut next.root, weak.clone())).root;
            let result = offer(&world, &bad, &[&world.root_keys[0], &world.root_keys[1]]);
            assert!(matches!(result, Err(TrustError::Invalid { .. })), "{point} as {role}: {result:?}");
        }
    }
}

/// The public key of `key(20)`, and its sum with the point of order 2: signatures by the one secret can be made good for both.
const TWINS: [&str; 2] = [
    "20828bf5c5bdcacb684863336c202fb5599da48be5596615742170705beca9f7",
    "cd7d740a3a42353497b79ccc93dfd04aa6625b741aa699ea8bde8f8fa4135608",
];

#[test]
fn one_secret_under_two_names_meets_no_threshold_of_two() {
    let world = World::new();
    let twins = TWINS.map(|twin| PublicKey(bytes32(twin)));
    assert_eq!(twins[0], public(&key(20)));
    // The same point with the other sign is the key of the negated secret.
    let mut negated = twins[0];
    negated.0[31] ^= 0x80;
    for of_two in [[twins[0], twins[1]], [twins[1], public(&key(21))], [twins[0], negated]] {
        let bad = world.next(|next| next.root.approvers = in_two_hands(&of_two)).root;
        let result = offer(&world, &bad, &[&world.root_keys[0], &world.root_keys[1]]);
        assert!(matches!(result, Err(TrustError::Invalid { .. })), "{result:?}");
    }
}

fn in_two_hands(of: &[PublicKey]) -> Keys {
    let held = of.iter().zip(["Anna", "Ben"]).map(|(key, holder)| HeldKey { key: *key, holder: text(holder) });
    Keys { keys: list(held.collect()), threshold: 2 }
}

#[test]
fn one_person_with_two_keys_meets_no_threshold_of_two() {
    let world = World::new();
    let [a, b, c] = [&world.root_keys[0], &world.root_keys[1], &world.root_keys[2]];
    let anna_twice =
        |third: &str| Keys { keys: list(vec![held(a, "Anna"), held(b, "anna"), held(c, third)]), threshold: 2 };
    // A threshold that no two persons could meet.
    let alone = world.next(|next| next.root.root = anna_twice("ANNA")).root;
    assert!(offer(&world, &alone, &[a, b]).unwrap_err().to_string().contains("distinct holders"));
    let careful = world.next(|next| {
        next.root.approvers = Keys { keys: list(vec![held(&key(20), "Anna"), held(&key(21), "Anna")]), threshold: 1 };
    });
    assert!(
        validate_root(&careful.root).unwrap_err().to_string().contains("group_rules"),
        "a group needs two approvers"
    );

    // Roots: two keys of one person do not make the next one, in either of the two roles that a root plays.
    let held_world = world.next(|next| next.root.root = anna_twice("Ben"));
    let mut trust = world.trust();
    assert!(matches!(trust.offer_root(&sign_root(&held_world.root, &[a, b]), NOW), Err(TrustError::Envelope { .. })));
    trust.offer_root(&sign_root(&held_world.root, &[a, c]), NOW).unwrap();
    let after = held_world.next(|_| ()).root;
    assert!(matches!(trust.offer_root(&sign_root(&after, &[a, b]), NOW), Err(TrustError::Envelope { .. })));
    trust.offer_root(&sign_root(&after, &[b, c]), NOW).unwrap();

    // Releases and approvals, at the machine and at the privileged installer.
    let root = world
        .next(|next| {
            next.root.publishers = list(vec![PublisherRule {
                product_prefix: text("org.example"),
                keys: Keys {
                    keys: list(vec![held(&key(10), "Dora"), held(&key(11), "Dora"), held(&key(12), "Emil")]),
                    threshold: 2,
                },
            }]);
            let three = vec![held(&key(20), "Anna"), held(&key(21), "Anna"), held(&key(22), "Ben")];
            next.root.approvers = Keys { keys: list(three), threshold: 2 };
        })
        .root;
    let published = |by: [u8; 2]| publish(&release("org.example.editor", 1), &by.map(key).each_ref());
    let approved = |of: &Doc, by: [u8; 2]| approve(&approval(GROUP, of.release, 1), &by.map(key).each_ref());
    let (by_one, by_two) = (published([10, 11]), published([10, 12]));
    for (release, approvers, good) in
        [(&by_one, [20, 22], false), (&by_two, [20, 21], false), (&by_two, [20, 22], true), (&by_two, [22, 21], true)]
    {
        let approval = approved(release, approvers);
        let result = verify_pair(&root, &release.bytes, &approval.bytes, NOW);
        assert_eq!(result.is_ok(), good, "approved by {approvers:?}: {result:?}");
    }
}

#[test]
fn a_key_has_one_holder_with_a_name_that_can_be_read() {
    let world = World::new();
    let one = |holder: &str| Keys::single(held(&key(10), holder));
    let rule = |prefix: &str, holder: &str| PublisherRule { product_prefix: text(prefix), keys: one(holder) };
    let of = |rules: Vec<PublisherRule>| validate_root(&world.next(|next| next.root.publishers = list(rules)).root);
    of(vec![rule("x", "Dora"), rule("y", "Dora")]).unwrap();
    assert!(of(vec![rule("x", "Dora"), rule("y", "Emil")]).unwrap_err().to_string().contains("two holders"));
    for unreadable in ["", "Dora ", "Do\u{202e}ra"] {
        assert!(of(vec![rule("x", unreadable)]).unwrap_err().to_string().contains("holder's name"), "{unreadable:?}");
    }
}

#[test]
fn no_key_has_two_powers() {
    let world = World::new();
    let publisher = |key: SigningKey| list(vec![PublisherRule { product_prefix: text(""), keys: keys(&[key], 1) }]);
    let roles = |root: &Root| {
        let of = |keys: &Keys| keys.public().collect::<Vec<_>>();
        [of(&root.root), of(&root.publishers[0].keys), of(&root.approvers), of(&root.online)]
    };
    let owned = roles(&world.root);
    for (at, of) in owned.iter().enumerate() {
        assert!(owned[..at].iter().flatten().all(|key| !of.contains(key)), "the world's own roles are apart");
    }
    let (root_key, approver, online) = (world.root_keys[0].clone(), key(20), world.online[0].clone());
    let bad = [
        world.next(|next| next.root.publishers = publisher(approver.clone())),
        world.next(|next| next.root.publishers = publisher(online.clone())),
        world.next(|next| next.root.publishers = publisher(root_key.clone())),
        world.next(|next| next.root.approvers = keys(&[online.clone(), key(21)], 1)),
        world.next(|next| next.root.approvers = keys(&[root_key.clone(), key(21)], 1)),
        world.next(|next| next.root.online = keys(std::slice::from_ref(&root_key), 1)),
    ];
    for bad in bad {
        let result = offer(&world, &bad.root, &[&world.root_keys[0], &world.root_keys[1]]);
        let said = result.unwrap_err().to_string();
        assert!(said.contains("each role has keys of its own"), "{said}");
    }
}

#[test]
fn a_root_of_sixteen_may_replace_them_all_and_no_life_is_without_end() {
    let world = World::new();
    let (old, new): (Vec<_>, Vec<_>) = ((100..116).map(key).collect(), (120..136).map(key).collect());
    let by = |keys: &[&[SigningKey]]| keys.iter().flat_map(|keys| keys.iter()).cloned().collect::<Vec<_>>();
    let sixteen = world.next(|next| {
        next.root_keys = old.clone();
        next.root.root = keys(&old, 16);
    });
    let mut trust = world.trust();
    let all = by(&[&world.root_keys, &old]);
    trust.offer_root(&sign_root(&sixteen.root, &all.iter().collect::<Vec<_>>()), NOW).unwrap();
    let other = sixteen.next(|next| {
        next.root_keys = new.clone();
        next.root.root = keys(&new, 16);
    });
    let all = by(&[&old, &new]);
    trust.offer_root(&sign_root(&other.root, &all.iter().collect::<Vec<_>>()), NOW).unwrap();
    assert_eq!(trust.root().version, 3);

    let nine: Vec<_> = (140..149).map(key).collect();
    let bad = world.next(|next| next.root.online = keys(&nine, 9)).root;
    assert!(validate_root(&bad).unwrap_err().to_string().contains("room in a head"));
    let endless =
        world.next(|next| next.root.expires = next.root.issued + std::time::Duration::from_secs(86_400 * 4_000)).root;
    assert!(validate_root(&endless).unwrap_err().to_string().contains("days after issued"));
}

#[test]
fn roots_go_one_by_one_and_are_signed_by_old_and_new() {
    let world = World::new();
    let new_keys = vec![key(4), key(5)];
    let second = world.next(|next| {
        next.root_keys = new_keys.clone();
        next.root.root = keys(&next.root_keys, 2);
    });
    let third = second.next(|_| ());
    let [a, b] = [&world.root_keys[0], &world.root_keys[1]];
    let [d, e] = [&new_keys[0], &new_keys[1]];

    assert!(offer(&world, &second.root, &[a, b]).is_err(), "signed by the old keys only");
    assert!(offer(&world, &second.root, &[d, e]).is_err(), "signed by the new keys only");
    assert!(offer(&world, &second.root, &[a, b, d]).is_err(), "too few of the new");
    assert!(offer(&world, &second.root, &[a, d, e]).is_err(), "too few of the old");
    let skip = world.next(|next| next.root.version = 3).root;
    let refused = offer(&world, &skip, &[a, b]);
    assert!(matches!(refused, Err(TrustError::Version { expected: 2, found: 3, .. })), "{refused:?}");
    let huge = world.next(|next| next.root.version = u64::MAX).root;
    assert!(matches!(offer(&world, &huge, &[a, b]), Err(TrustError::Version { .. })));

    let mut trust = world.trust();
    trust.offer_root(&sign_root(&second.root, &[a, b, d, e]), NOW).unwrap();
    assert!(trust.offer_root(&sign_root(&third.root, &[a, b]), NOW).is_err(), "the old keys are out");
    trust.offer_root(&third.root_doc(), NOW).unwrap();
    assert_eq!(trust.root().version, 3);
    for old in [world.root_doc(), sign_root(&second.root, &[a, b, d, e]), third.root_doc()] {
        assert!(trust.offer_root(&old, NOW).is_err(), "rollback, or the same again");
        assert_eq!(trust.root().version, 3);
    }
    assert!(trust.take_alarms().is_empty());
}

#[test]
fn an_expired_root_in_the_middle_of_the_walk_is_only_a_step() {
    let world = World::new();
    let second = world.next(|next| next.root.expires = NOW - DAY);
    let third = second.next(|next| next.root.expires = NOW + 300 * DAY);
    let mut trust = world.trust();
    let edition = world.simple(1);
    edition.offer_to(&mut trust);
    let id = edition.documents[0].release;
    trust.offer_root(&second.root_doc(), NOW).unwrap();
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Err(Blocked::RootExpired(NOW - DAY)));
    trust.offer_root(&third.root_doc(), NOW).unwrap();
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()), "the same online keys: nothing was forgotten");
}

#[test]
fn a_second_root_of_one_version_is_evidence() {
    let world = World::new();
    let good = world.next(|_| ());
    let evil = world.next(|next| next.root.report_key = [0x66; 32]);
    let rekeyed = world.next(|next| {
        next.root_keys = vec![key(4), key(5)];
        next.root.root = keys(&next.root_keys, 2);
    });
    let rekeyed_doc = sign_root(
        &rekeyed.root,
        &[&world.root_keys[0], &world.root_keys[1], &rekeyed.root_keys[0], &rekeyed.root_keys[1]],
    );
    // The attacker shows one root here and another one there, both with the old keys.
    for (first, second) in [(good.root_doc(), evil.root_doc()), (rekeyed_doc.clone(), good.root_doc())] {
        let mut trust = world.trust();
        trust.offer_root(&first, NOW).unwrap();
        let mut trust = Trust::restore(&trust.snapshot(), NOW).unwrap();
        let refused = trust.offer_root(&second, NOW);
        assert!(matches!(refused, Err(TrustError::Equivocation { kind: Kind::Root, version: 2 })), "{refused:?}");
        assert_eq!((trust.root_bytes(), trust.evidence().len()), (first.as_slice(), 1));
        assert_eq!(trust.take_alarms().len(), 1);
    }
}

#[test]
fn fast_forward_is_recovered_by_one_rotation() {
    let world = World::new();
    let mut trust = world.trust();
    let edition = world.simple(1);
    edition.offer_to(&mut trust);
    let id = edition.documents[0].release;
    // The thief of the online key spends every version there is, in the far future, and stops everything.
    let evil = world.edition_with(u64::MAX, vec![], |index| {
        index.issued = NOW + 9000 * DAY;
        index.expires = NOW + 9999 * DAY;
        index.holds = list(vec![Hold::Everything]);
        index.revoked = revoked(&[DeviceId(*key(50).verifying_key().as_bytes())]);
    });
    let head = Head { issued: NOW + 9000 * DAY, ..world.head(u64::MAX, &evil.index) };
    let head = Head { expires: NOW + 9999 * DAY, root_version: 1, ..head };
    assert_eq!(trust.offer_head(&world.head_doc(&head), NOW).unwrap(), HeadNews::Aside);
    evil.offer_index(&mut trust);
    let mut trust = Trust::restore(&trust.snapshot(), NOW).unwrap();
    edition.offer_documents(&mut trust);
    assert_eq!(trust.clock(NOW), NOW, "the far future moves nothing");
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Err(Blocked::Held(Hold::Everything)), "but it stops");
    let today = Head { issued: NOW, expires: NOW + DAY, ..head };
    assert_eq!(trust.offer_head(&world.head_doc(&today), NOW).unwrap(), HeadNews::New);
    assert_eq!(trust.offer_head(&world.simple(2).head, NOW).unwrap(), HeadNews::Older);

    let rescued = world.with_online(31);
    let fresh = rescued.edition(1, edition.documents.clone());
    trust.offer_root(&rescued.root_doc(), NOW).unwrap();
    assert_eq!(trust.clock(NOW), NOW, "the thief's time is forgotten too");
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Err(Blocked::NoHead), "and its head, index, holds");
    assert!(trust.catalog().holds().is_empty());
    assert_eq!(trust.offer_head(&world.simple(3).head, NOW).unwrap(), HeadNews::Older);
    assert!(trust.head().is_none(), "the old key is out");
    fresh.offer_to(&mut trust);
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
}

#[test]
fn between_a_rotation_and_the_first_new_index_nothing_is_installed() {
    let world = World::new();
    let mut trust = world.trust();
    let edition = world.simple(4);
    edition.offer_to(&mut trust);
    let id = edition.documents[0].release;
    let rescued = world.with_online(31);
    trust.offer_root(&rescued.root_doc(), NOW).unwrap();
    assert!(trust.catalog().releases().contains_key(&id), "known still, so that its payloads are kept");
    let fresh = rescued.edition(1, edition.documents.clone());
    trust.offer_head(&fresh.head, NOW).unwrap();
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Err(Blocked::Withdrawn));
    fresh.offer_index(&mut trust);
    assert!(trust.is_current(), "no document was fetched again");
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
}

#[test]
fn one_more_online_key_forgets_nothing() {
    let world = World::new();
    let mut trust = world.trust();
    let edition = world.simple(4);
    edition.offer_to(&mut trust);
    let wider = world.next(|next| {
        next.online = vec![key(30), key(31)];
        next.root.online = keys(&next.online, 1);
    });
    trust.offer_root(&wider.root_doc(), NOW).unwrap();
    assert_eq!(trust.may_install(&edition.documents[0].release, &GROUP, NOW), Ok(()));
    assert_eq!(trust.offer_head(&world.simple(3).head, NOW).unwrap(), HeadNews::Older);
    // But when both must sign from now on, what one has signed does not stand.
    let both = wider.next(|next| next.root.online.threshold = 2);
    trust.offer_root(&both.root_doc(), NOW).unwrap();
    assert!(trust.head().is_none());
    assert!(Trust::restore(&trust.snapshot(), NOW).is_ok());
}

#[test]
fn a_stolen_publisher_or_approver_key_is_put_out_at_once() {
    let world = World::new();
    let edition = world.simple(1);
    let id = edition.documents[0].release;
    let without_publisher = world.next(|next| {
        next.publisher = key(15);
        let rule = PublisherRule { product_prefix: text("org.example."), keys: keys(&[key(15)], 1) };
        next.root.publishers = list(vec![rule]);
    });
    let without_approver = world.next(|next| {
        next.approvers = vec![key(25)];
        next.root.approvers = keys(&next.approvers, 1);
        next.root.group_rules = list(vec![]);
    });
    for (next, blocked) in [(without_publisher, Blocked::NoRelease), (without_approver, Blocked::NotApproved)] {
        let mut trust = world.trust();
        edition.offer_to(&mut trust);
        assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
        trust.offer_root(&next.root_doc(), NOW).unwrap();
        assert_eq!(trust.may_install(&id, &GROUP, NOW), Err(blocked));
        assert_eq!(trust.refusals().len(), 1);
        assert!(trust.is_current());
        // The same after a restart.
        let mut again = Trust::restore(&trust.snapshot(), NOW).unwrap();
        edition.offer_documents(&mut again);
        assert!(again.may_install(&id, &GROUP, NOW).is_err());
        // Signed anew, it is good again.
        let product = next.publish(&release("org.example.tool", 1));
        let decision = next.approve(&approval(GROUP, product.release, 2));
        next.edition(2, vec![product, decision]).offer_to(&mut trust);
        assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
    }
}

#[test]
fn a_second_signature_already_there_survives_the_change_of_publishers() {
    let world = World::new();
    let product = publish(&release("org.example.tool", 1), &[&world.publisher, &key(15)]);
    let decision = world.approve(&approval(GROUP, product.release, 1));
    let edition = world.edition(1, vec![product.clone(), decision]);
    let mut trust = world.trust();
    edition.offer_to(&mut trust);
    let next = world.next(|next| {
        let rule = PublisherRule { product_prefix: text("org.example."), keys: keys(&[key(15)], 1) };
        next.root.publishers = list(vec![rule]);
    });
    trust.offer_root(&next.root_doc(), NOW).unwrap();
    assert_eq!(trust.may_install(&product.release, &GROUP, NOW), Ok(()));
}

#[test]
fn what_an_old_root_refused_is_asked_for_again_under_a_new_one() {
    let world = World::new();
    let product = publish(&release("com.vendor.tool", 1), &[&key(16)]);
    let mut documents = world.simple(1).documents;
    documents.push(product.clone());
    let edition = world.edition(1, documents.clone());
    let mut trust = world.trust();
    edition.offer_to(&mut trust);
    assert_eq!(trust.catalog().releases().len(), 1);
    let next = world.next(|next| {
        let mut rules = next.root.publishers.to_vec();
        rules.push(PublisherRule { product_prefix: text("com.vendor."), keys: keys(&[key(16)], 1) });
        next.root.publishers = list(rules);
    });
    trust.offer_root(&next.root_doc(), NOW).unwrap();
    assert_eq!(trust.catalog().releases().len(), 1, "the rest stays in use");
    assert_eq!(trust.wanted(), Wanted::Documents(vec![product.entry]));
    let mut restarted = Trust::restore(&trust.snapshot(), NOW).unwrap();
    edition.offer_documents(&mut restarted);
    trust.offer_document(product.bytes, NOW).unwrap();
    for trust in [&trust, &restarted] {
        assert_eq!(trust.catalog().releases().len(), 2);
        assert!(trust.is_current());
    }
}

#[test]
fn a_head_that_speaks_of_a_later_root_waits_for_it() {
    let world = World::new();
    let rescued = world.with_online(31);
    let edition = world.simple(1);
    let fresh = rescued.edition(1, vec![]);
    let mut trust = world.trust();
    // With other online keys it is only a hearsay, which must not keep this machine from its work.
    assert_eq!(trust.offer_head(&fresh.head, NOW).unwrap(), HeadNews::NeedsRoot { version: 2 });
    assert_eq!((trust.wanted(), trust.wanted_root()), (Wanted::Root(2), Some(2)));
    trust.offer_head(&edition.head, NOW).unwrap();
    assert!(matches!(trust.wanted(), Wanted::Index { .. }));
    assert_eq!(trust.wanted_root(), Some(2));
    trust.offer_root(&rescued.root_doc(), NOW).unwrap();
    assert_eq!(trust.head_bytes(), Some(fresh.head.as_slice()), "the head that waited was taken up");
    assert_eq!(trust.wanted_root(), None);
    fresh.offer_index(&mut trust);
    assert!(trust.is_current());
    // With the same online keys it is no hearsay: the root comes first.
    let later = rescued.next(|_| ());
    let signed = later.edition(2, vec![]);
    assert_eq!(trust.offer_head(&signed.head, NOW).unwrap(), HeadNews::NeedsRoot { version: 3 });
    let hearsay = later.with_online(32).edition(9, vec![]);
    assert_eq!(trust.offer_head(&hearsay.head, NOW).unwrap(), HeadNews::NeedsRoot { version: 4 });
    assert_eq!(trust.wanted(), Wanted::Root(3));
    trust.offer_root(&later.root_doc(), NOW).unwrap();
    assert_eq!(trust.head().unwrap().index_version, 2);
    // Noise about an older root, or that is not even a head, is no hearsay.
    let noise = World::new().with_online(77).edition(9, vec![]);
    assert!(trust.offer_head(&noise.head, NOW).is_err());
    let short = envelope::sign_body(Kind::Head, Role::Online, &[0xff; 8], &[&key(77)]).unwrap();
    assert!(trust.offer_head(&short, NOW).is_err());
    assert_eq!(trust.wanted_root(), None);
}

/// Every subset of stolen keys: evil software is installed exactly when the policy says that it can be.
#[test]
fn all_subsets_of_stolen_keys() {
    let world = World::new();
    let evil = release("org.example.tool", 666);
    for stolen in 0..32u8 {
        let has = |bit: u8| stolen >> bit & 1 == 1;
        let mut thief = World::new();
        let strangers = key(99);
        let pick = |bit: u8, key: &SigningKey| if has(bit) { key.clone() } else { strangers.clone() };
        thief.publisher = pick(0, &world.publisher);
        thief.approvers[0] = pick(1, &world.approvers[0]);
        thief.online[0] = pick(2, &world.online[0]);
        thief.root_keys[0] = pick(3, &world.root_keys[0]);
        thief.root_keys[1] = pick(4, &world.root_keys[1]);
        let mut trust = world.trust();
        // A root of the thief's own making, if it can.
        let own = thief.next(|next| {
            next.publisher = key(90);
            next.approvers = vec![key(91)];
            next.online = vec![key(92)];
            next.root.publishers = list(vec![PublisherRule { product_prefix: text(""), keys: keys(&[key(90)], 1) }]);
            next.root.approvers = keys(&next.approvers, 1);
            next.root.group_rules = list(vec![]);
            next.root.online = keys(&next.online, 1);
        });
        let rooted = trust.offer_root(&own.root_doc(), NOW).is_ok();
        assert_eq!(rooted, has(3) && has(4), "{stolen:05b}");
        let thief = if rooted { own } else { thief };
        let product = thief.publish(&evil);
        let order = thief.approve(&approval(GROUP, product.release, 1));
        let edition = thief.edition(1, vec![product.clone(), order]);
        if trust.offer_head(&edition.head, NOW).is_ok_and(|news| news == HeadNews::New) {
            edition.offer_index(&mut trust);
            edition.offer_documents(&mut trust);
        }
        let installed = trust.may_install(&product.release, &GROUP, NOW).is_ok();
        assert_eq!(installed, rooted || has(0) && has(1) && has(2), "{stolen:05b}");
    }
}

#[test]
fn a_prefix_ends_where_a_name_ends() {
    let rule = |prefix| PublisherRule { product_prefix: text(prefix), keys: keys(&[key(10)], 1) };
    for prefix in ["org.mozilla", "org.mozilla."] {
        for (product, its) in [
            ("org.mozilla", true),
            ("org.mozilla.firefox", true),
            ("org.mozillax", false),
            ("org.mozilla-firefox", false),
            ("org.mozill", false),
            ("org", false),
            ("", false),
        ] {
            assert_eq!(rule(prefix).is_for(product), its, "{prefix:?} and {product:?}");
        }
    }
    assert!(rule("").is_for("anything"));
    let mut root = World::new().root;
    let by = |prefix, seed| PublisherRule { product_prefix: text(prefix), keys: keys(&[key(seed)], 1) };
    root.publishers = list(vec![by("", 10), by("org.mozilla.firefox", 12), by("org.mozilla", 11)]);
    for (product, seed) in [("org.mozilla.firefox.esr", 12), ("org.mozilla.firefoxx", 11), ("org.mozillax", 10)] {
        assert_eq!(root.publisher_of(product), Some(&keys(&[key(seed)], 1)), "{product}");
    }
}

#[test]
fn taking_an_approver_away_forgets_exactly_what_nobody_else_has_signed() {
    let world = World::new();
    let product = world.publish(&release("org.example.tool", 1));
    let by = |version: u64, signers: &[usize]| {
        let signers: Vec<_> = signers.iter().map(|at| &world.approvers[*at]).collect();
        approve(&approval(GROUP, product.release, version), &signers)
    };
    // The honest one replaced 1 by 2. Then the thief of the other key went far ahead.
    let (first, second, far) = (by(1, &[1]), by(2, &[1]), by(u64::MAX, &[0]));
    let mut trust = world.trust();
    for (at, decision) in [&first, &second, &far].into_iter().enumerate() {
        world.edition(at as u64 + 1, vec![product.clone(), decision.clone()]).offer_to(&mut trust);
    }
    let next = world.next(|next| {
        next.approvers = vec![key(21)];
        next.root.approvers = keys(&next.approvers, 1);
        next.root.group_rules = list(vec![]);
    });
    trust.offer_root(&next.root_doc(), NOW).unwrap();
    let mut restarted = Trust::restore(&trust.snapshot(), NOW).unwrap();
    for trust in [&mut trust, &mut restarted] {
        let offer = |trust: &mut Trust, version, decision: &Doc| {
            let edition = next.edition(version, vec![product.clone(), decision.clone()]);
            trust.offer_head(&edition.head, NOW).unwrap();
            edition.offer_index(trust);
            edition.offer_documents(trust);
            trust.may_install(&product.release, &GROUP, NOW)
        };
        assert_eq!(offer(trust, 4, &first), Err(Blocked::NotApproved), "it was replaced by one who is still there");
        assert_eq!(offer(trust, 5, &second), Ok(()), "the thief's version is forgotten");
        assert_eq!(offer(trust, 6, &by(3, &[1])), Ok(()));
        assert_eq!(offer(trust, 7, &second), Err(Blocked::NotApproved));
    }
}

#[test]
fn new_online_keys_neither_bring_an_old_approval_back_nor_a_revoked_device() {
    let world = World::new();
    let product = world.publish(&release("org.example.tool", 1));
    let decision = |version| world.approve(&approval(GROUP, product.release, version));
    let lost = certificate(&key(50));
    let mut trust = world.trust();
    world.edition(1, vec![product.clone(), decision(1)]).offer_to(&mut trust);
    let revoke = |index: &mut Index| index.revoked = revoked(&[lost.device]);
    world.edition_with(2, vec![product.clone(), decision(2)], revoke).offer_to(&mut trust);
    let rescued = world.with_online(31);
    trust.offer_root(&rescued.root_doc(), NOW).unwrap();
    let shown = rescued.certificate_doc(&lost);
    assert!(matches!(trust.check_certificate(&shown, NOW), Err(TrustError::Revoked(_))), "before the new index");
    let stale = rescued.edition(1, vec![product.clone(), decision(1)]);
    trust.offer_head(&stale.head, NOW).unwrap();
    stale.offer_index(&mut trust);
    stale.offer_documents(&mut trust);
    assert_eq!(trust.may_install(&product.release, &GROUP, NOW), Err(Blocked::NotApproved));
    assert!(trust.check_certificate(&shown, NOW).is_ok(), "the new index says who is revoked");
}

#[test]
fn a_neighbour_that_still_has_the_root_before_is_no_liar() {
    let world = World::new();
    let mut trust = world.trust();
    let old = world.simple(1);
    old.offer_to(&mut trust);
    let rescued = world.with_online(31);
    trust.offer_root(&rescued.root_doc(), NOW).unwrap();
    assert_eq!(trust.offer_head(&old.head, NOW).unwrap(), HeadNews::Older);
    assert!(trust.head().is_none(), "and it moves nothing");
    trust.offer_root(&rescued.with_online(32).root_doc(), NOW).unwrap();
    assert!(trust.offer_head(&old.head, NOW).is_err());
}
