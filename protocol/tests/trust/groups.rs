//! Groups as approvers describe them: what the coordinator's keys can do with a group, and what they cannot.

use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::trust::*;

use crate::common::*;

/// A release, an approval of it that asks for this version of the group, and the group's documents.
fn edition(world: &World, version: u64, asks: u64, action: Action, described: &[Doc]) -> (Edition, ReleaseId) {
    let release = world.publish(&release("org.example.tool", 1));
    let id = release.release;
    let approved = Approval { group_version: asks, action, ..approval(GROUP, id, version) };
    let documents = [vec![release, world.approve(&approved)], described.to_vec()].concat();
    (world.edition(version, documents), id)
}

fn described(world: &World, version: u64, members: Members) -> Doc {
    describe(&group(GROUP, version, members), &[&world.approvers[0]])
}

fn take(trust: &mut Trust, edition: &Edition) {
    trust.offer_head(&edition.head, NOW).unwrap();
    edition.offer_index(trust);
    edition.offer_documents(trust);
}

/// What a machine and an installer that has only pages say of an edition; both must say the same.
fn asked(world: &World, edition: &Edition, id: &ReleaseId) -> Result<(), Blocked> {
    let mut trust = world.trust();
    take(&mut trust, edition);
    let said = trust.may_install(id, &GROUP, NOW);
    let mut installer = world.trust();
    installer.set_interest(Interest::default());
    installer.offer_head(&edition.head, NOW).unwrap();
    installer.offer_index(edition.index.clone()).unwrap();
    let [release, decision, described @ ..] = &edition.documents[..] else { panic!("two documents at least") };
    let described: Vec<&[u8]> = described.iter().map(|document| document.bytes.as_slice()).collect();
    let pages = edition.pages.iter().map(Vec::as_slice);
    match installer.admit(&release.bytes, &decision.bytes, &described, pages, NOW) {
        Ok(admitted) => {
            assert_eq!(said, Ok(()));
            assert_eq!(admitted.group.as_ref(), trust.catalog().groups().get(&GROUP).map(|known| &*known.document));
        }
        Err(NotAdmitted::Blocked(blocked)) => assert_eq!(said, Err(blocked)),
        Err(other) => panic!("{other}"),
    }
    said
}

#[test]
fn an_approval_for_a_described_group_counts_with_that_description_or_a_later_one() {
    let world = World::new();
    let by_rule = |version| described(&world, version, rule(&["os.id=debian"]));
    for (asks, documents, allowed) in [
        (0, vec![], Ok(())),
        (1, vec![by_rule(1)], Ok(())),
        (1, vec![by_rule(4)], Ok(())),
        (0, vec![by_rule(1)], Ok(())),
        // Withheld, or an older one in its place.
        (1, vec![], Err(Blocked::GroupUnknown)),
        (2, vec![by_rule(1)], Err(Blocked::GroupUnknown)),
    ] {
        let (edition, id) = edition(&world, 1, asks, Action::Install, &documents);
        assert_eq!(asked(&world, &edition, &id), allowed, "asks for {asks}, {} there", documents.len());
    }
}

#[test]
fn nothing_is_removed_where_the_coordinator_alone_names_the_members() {
    let world = World::new();
    let tree = own_list(&key(40));
    for (documents, allowed) in [
        (vec![], Err(Blocked::OnlyListed)),
        (vec![described(&world, 1, Members::Listed)], Err(Blocked::OnlyListed)),
        (vec![described(&world, 1, rule(&["os.id=debian"]))], Ok(())),
        (vec![described(&world, 1, Members::List(tree.root()))], Ok(())),
    ] {
        let (edition, id) = edition(&world, 1, 0, Action::Uninstall, &documents);
        assert_eq!(asked(&world, &edition, &id), allowed, "{} documents", documents.len());
    }
}

#[test]
fn a_group_that_was_described_is_never_again_whatever_the_coordinator_says() {
    let world = World::new();
    let mut trust = world.trust();
    let (first, id) = edition(&world, 1, 0, Action::Install, &[described(&world, 2, rule(&["os.id=debian"]))]);
    take(&mut trust, &first);
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
    // The online keys leave it out, or bring an earlier one back; after a restart too.
    let trust = Trust::restore(&trust.snapshot(), NOW - DAY).unwrap();
    for older in [vec![], vec![described(&world, 1, Members::Listed)]] {
        let mut trust = trust.clone();
        let (second, _) = edition(&world, 2, 0, Action::Install, &older);
        take(&mut trust, &second);
        assert_eq!(trust.may_install(&id, &GROUP, NOW), Err(Blocked::GroupUnknown), "{} there", older.len());
        // The later one again, and it goes on.
        let (third, _) = edition(&world, 3, 0, Action::Install, &[described(&world, 3, Members::Listed)]);
        take(&mut trust, &third);
        assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
    }
}

#[test]
fn only_approvers_say_what_a_group_is() {
    let world = World::new();
    let (careful, plain) = (group(CAREFUL, 1, Members::Listed), group(GROUP, 1, Members::Listed));
    let [a, b] = [&world.approvers[0], &world.approvers[1]];
    for (document, by, good) in [
        (&plain, vec![a], true),
        (&plain, vec![&world.online[0]], false),
        (&plain, vec![&world.publisher], false),
        (&plain, vec![], false),
        // As many as must sign what is done in the group.
        (&careful, vec![a], false),
        (&careful, vec![a, b], true),
    ] {
        let doc = describe(document, &by);
        assert_eq!(verify_group(&world.root, &doc.bytes).is_ok(), good);
        let mut trust = world.trust();
        take(&mut trust, &world.edition(1, vec![doc.clone()]));
        assert_eq!(trust.catalog().groups().contains_key(&document.group), good);
        assert_eq!(trust.refusals().len(), usize::from(!good), "{:?}", trust.refusals());
    }
    // It is no approval, and an approval is no group.
    let decision = world.approve(&approval(GROUP, ReleaseId([1; 32]), 1));
    assert!(verify_group(&world.root, &decision.bytes).is_err());
    assert!(verify_approval(&world.root, &describe(&plain, &[a]).bytes).is_err());
    for bad in [
        GroupDocument { version: 0, ..plain.clone() },
        GroupDocument { name: text(""), ..plain.clone() },
        GroupDocument { name: text(" web"), ..plain.clone() },
        GroupDocument { members: Members::Rule(list(vec![])), ..plain.clone() },
        GroupDocument { members: Members::List(ListRoot { root: [0; 32], devices: 0 }), ..plain.clone() },
        GroupDocument { members: Members::List(ListRoot { root: [1; 32], devices: u32::MAX }), ..plain },
    ] {
        assert!(validate_group(&bad).is_err(), "{bad:?}");
        assert!(matches!(verify_group(&world.root, &describe(&bad, &[a]).bytes), Err(TrustError::Invalid { .. })));
    }
}

#[test]
fn a_thief_of_one_approver_does_not_have_the_last_word_about_a_group() {
    let world = World::new();
    let mut trust = world.trust();
    let forged = describe(&group(GROUP, u64::MAX, Members::Listed), &[&world.approvers[1]]);
    let (first, id) = edition(&world, 1, 0, Action::Install, &[forged]);
    take(&mut trust, &first);
    assert_eq!(trust.catalog().groups()[&GROUP].document.version, u64::MAX);
    // The root takes the thief's key away: what the other approver says counts again, and only that.
    let next = world.next(|next| next.root.approvers = keys(&world.approvers[..1], 1));
    let next = next.next(|next| next.root.group_rules = list(vec![]));
    let root = World { root: Root { version: 2, group_rules: list(vec![]), ..next.root.clone() }, ..next };
    trust.offer_root(&root.root_doc(), NOW).unwrap();
    assert!(trust.catalog().groups().is_empty());
    let (second, _) = edition(&root, 2, 1, Action::Install, &[described(&root, 1, rule(&["os.id=debian"]))]);
    take(&mut trust, &second);
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
    assert_eq!(trust.catalog().groups()[&GROUP].document.version, 1);
}

#[test]
fn a_group_stands_in_its_own_tree_alone() {
    let world = World::new();
    let mut trust = world.trust();
    // Named among the releases that nobody has decided about.
    let stray = described(&world, 1, Members::Listed);
    let edition = world.edition_with(1, vec![], |index| index.published = Node::Leaf(list(vec![stray.entry])));
    take(&mut trust, &edition);
    assert!(matches!(
        trust.offer_document(stray.bytes, NOW),
        Err(TrustError::NotNamed(_) | TrustError::Refused { .. })
    ));
    assert!(trust.catalog().groups().is_empty() && !trust.refusals().is_empty());
}

/// The same world, and the next root, which names who says what groups are.
fn with_targeting(world: &World) -> World {
    world.next(|next| next.root.targeting = Some(keys(&[key(25)], 1)))
}

#[test]
fn attack_an_approver_who_is_no_targeter_says_what_a_group_is() {
    let world = with_targeting(&World::new());
    let members = || rule(&["os.id=debian"]);
    let by = |signers: &[u8]| {
        let signers: Vec<_> = signers.iter().map(|seed| key(*seed)).collect();
        describe(&group(GROUP, 1, members()), &signers.iter().collect::<Vec<_>>())
    };
    for (signers, allowed) in [(&[25][..], true), (&[20], false), (&[20, 21], false), (&[30], false), (&[20, 25], true)]
    {
        let (edition, id) = edition(&world, 5, 1, Action::Install, &[by(signers)]);
        assert_eq!(asked(&world, &edition, &id).is_ok(), allowed, "signed by {signers:?}");
        assert_eq!(verify_group(&world.root, &by(signers).bytes).is_ok(), allowed, "signed by {signers:?}");
    }
}

#[test]
fn attack_a_targeter_approves() {
    let world = with_targeting(&World::new());
    let published = world.publish(&release("org.example.tool", 1));
    let approved = approval(GROUP, published.release, 1);
    for (signer, good) in [(25, false), (20, true)] {
        let document = approve(&approved, &[&key(signer)]);
        assert_eq!(verify_approval(&world.root, &document.bytes).is_ok(), good);
        let edition = world.edition(5, vec![published.clone(), document]);
        let mut trust = world.trust();
        take(&mut trust, &edition);
        assert_eq!(trust.may_install(&published.release, &GROUP, NOW).is_ok(), good, "signed by {signer}");
    }
}

#[test]
fn who_says_what_groups_are_changes_with_the_root_and_what_only_the_others_signed_counts_no_more() {
    let before = World::new();
    let after = with_targeting(&before);
    let old = |version| described(&before, version, rule(&["os.id=debian"]));
    let new = |version| describe(&group(GROUP, version, rule(&["os.id=debian"])), &[&key(25)]);
    let mut trust = before.trust();
    let (first, id) = edition(&before, 5, 1, Action::Install, &[old(7)]);
    take(&mut trust, &first);
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
    trust.offer_root(&after.root_doc(), NOW).unwrap();
    assert!(trust.may_install(&id, &GROUP, NOW).is_err(), "an approver's word about a group");
    // The floor of the approver's documents is gone with them: the targeter begins anew, and is held to what it has signed.
    let (second, id) = edition(&after, 6, 1, Action::Install, &[new(2)]);
    take(&mut trust, &second);
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
    let (third, id) = edition(&after, 7, 1, Action::Install, &[new(1)]);
    take(&mut trust, &third);
    assert!(trust.may_install(&id, &GROUP, NOW).is_err(), "an older one in its place");
}

#[test]
fn a_root_whose_targeting_key_has_another_role_is_refused() {
    let world = World::new();
    for seed in [1, 10, 20, 30] {
        let next = world.next(|next| next.root.targeting = Some(keys(&[key(seed)], 1)));
        assert!(validate_root(&next.root).is_err(), "key {seed}");
    }
    validate_root(&with_targeting(&world).root).unwrap();
    let none = world.next(|next| next.root.targeting = Some(Keys { keys: list(vec![]), threshold: 0 }));
    assert!(validate_root(&none.root).is_err(), "a role without keys");
}
