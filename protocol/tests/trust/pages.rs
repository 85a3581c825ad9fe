//! The tree of pages: what a machine takes of it, and what withholding or spoiling a part of it gains.

use std::collections::BTreeSet;

use upswarm_protocol::catalog::page::{self, MAX_DEPTH};
use upswarm_protocol::catalog::*;
use upswarm_protocol::envelope::Document;
use upswarm_protocol::ids::*;
use upswarm_protocol::trust::*;

use crate::common::*;

/// Releases approved for so many other groups, and one for ours.
fn wide(world: &World, groups: u8, ours: u64) -> Vec<Doc> {
    let mut documents = world.simple(ours).documents;
    for at in 0..groups {
        let release = world.publish(&release(&format!("org.example.other{at}"), 1));
        let mut group = GroupId([0x77; 16]);
        group.0[0] = at.wrapping_mul(7);
        documents.push(world.approve(&approval(group, release.release, 1)));
        documents.push(release);
    }
    documents
}

fn device(at: u16) -> DeviceId {
    let mut device = [9; 32];
    device[..2].copy_from_slice(&at.to_be_bytes());
    device[2..4].copy_from_slice(&at.wrapping_mul(40_503).to_be_bytes());
    DeviceId(device)
}

/// An edition in which these devices are revoked, in pages when they are many.
fn revoking(world: &World, version: u64, documents: Vec<Doc>, devices: u16) -> Edition {
    let mut devices: Vec<_> = (0..devices).map(device).collect();
    devices.sort_unstable();
    let mut pages: Vec<Document> = Vec::new();
    let root = page::grow(&devices, 16, 16, &mut pages).unwrap();
    let mut edition = world.edition_with(version, documents, |index| index.revoked = root);
    edition.pages.extend(pages.into_iter().map(|page| page.bytes));
    edition
}

#[test]
fn a_machine_takes_the_pages_and_documents_of_its_groups_alone() {
    let world = World::new();
    let edition = world.edition(1, wide(&world, 60, 1));
    let mut trust = world.trust();
    edition.offer_to(&mut trust);
    assert_eq!((trust.catalog().releases().len(), trust.catalog().approvals().len()), (1, 1));
    assert!(trust.document_hashes().len() <= 6, "{} of {}", trust.document_hashes().len(), edition.pages.len());
    // A branch cache takes them all.
    trust.set_interest(Interest { everything: true, ..Interest::default() });
    assert_eq!(trust.catalog().releases().len(), 1, "the catalog stays until the rest is there");
    assert!(matches!(trust.wanted(), Wanted::Pages(_)));
    edition.offer_documents(&mut trust);
    assert_eq!((trust.catalog().releases().len(), trust.wanted()), (61, Wanted::Nothing));
    // And forgets them when it is none any more.
    trust.set_interest(Interest::of([GROUP]));
    assert_eq!((trust.catalog().releases().len(), trust.wanted()), (1, Wanted::Nothing));
    assert!(trust.is_current() && trust.document_hashes().len() <= 6);
}

#[test]
fn a_change_for_another_group_leaves_the_pages_of_this_one() {
    let world = World::new();
    let mut documents = wide(&world, 60, 1);
    let mut trust = world.trust();
    world.edition(1, documents.clone()).offer_to(&mut trust);
    let held = trust.document_hashes();
    let new = world.publish(&release("org.example.new", 1));
    let mut group = GroupId([0x77; 16]);
    group.0[0] = 7;
    documents.push(world.approve(&approval(group, new.release, 1)));
    documents.push(new);
    let next = world.edition(2, documents.clone());
    trust.offer_head(&next.head, NOW).unwrap();
    trust.offer_index(next.index.clone()).unwrap();
    assert!(trust.is_current(), "nothing of another group's branch is wanted: {:?}", trust.wanted());
    assert_eq!(trust.document_hashes(), held);
    // One that shares a page with ours costs that page: what it names is here already.
    let near = world.publish(&release("org.example.near", 1));
    let mut group = GROUP;
    group.0[15] ^= 1;
    documents.push(world.approve(&approval(group, near.release, 1)));
    documents.push(near);
    let next = world.edition(3, documents);
    trust.offer_head(&next.head, NOW).unwrap();
    trust.offer_index(next.index.clone()).unwrap();
    assert!(matches!(trust.wanted(), Wanted::Pages(pages) if pages.len() == 1));
    next.offer_pages(&mut trust);
    assert!(trust.is_current(), "{:?}", trust.wanted());
}

#[test]
fn revoked_devices_in_pages_come_before_everything_and_stay_revoked_meanwhile() {
    let world = World::new();
    let first = revoking(&world, 1, world.simple(1).documents, 200);
    let mut trust = world.trust();
    trust.offer_head(&first.head, NOW).unwrap();
    trust.offer_index(first.index.clone()).unwrap();
    // Only pages of the revoked are wanted until all of them are there.
    let mut rounds = 0;
    while trust.catalog().revoked().len() < 200 {
        let Wanted::Pages(pages) = trust.wanted() else { panic!("{:?}", trust.wanted()) };
        let stored = first.stored();
        for page in pages {
            assert!(matches!(Page::decode(&stored[&page.hash]).unwrap(), Page::Devices(_)));
            trust.offer_document(stored[&page.hash].clone(), NOW).unwrap();
        }
        rounds += 1;
        assert!(rounds < MAX_DEPTH);
    }
    first.offer_documents(&mut trust);
    assert!(trust.is_current() && trust.catalog().is_revoked(&device(7)));
    // One more: the others go on counting while its page is withheld, over a restart too.
    let next = revoking(&world, 2, world.simple(1).documents, 201);
    trust.offer_head(&next.head, NOW).unwrap();
    trust.offer_index(next.index.clone()).unwrap();
    assert!(!trust.is_current());
    let again = Trust::restore(&trust.snapshot(), NOW).unwrap();
    for trust in [&trust, &again] {
        assert!((0..200).all(|at| trust.catalog().is_revoked(&device(at))));
    }
    next.offer_pages(&mut trust);
    assert!(trust.catalog().is_revoked(&device(200)) && trust.catalog().revoked().len() == 201);
}

/// What is installable of a catalog that the newest head has replaced, whichever part of the next one is withheld.
#[test]
fn withholding_an_index_a_page_or_a_document_gains_the_life_of_the_last_head_and_no_more() {
    let world = World::new();
    let old = world.simple(1);
    let id = old.documents[0].release;
    let ends = NOW + 3 * DAY;
    let mut documents = world.simple(2).documents;
    documents.extend(old.documents.clone());
    let new = world.edition(2, documents);
    for withheld in ["the index", "a page", "a document"] {
        let mut trust = world.trust();
        old.offer_to(&mut trust);
        // Newer heads come every hour and are good for long.
        let fresh = |issued, expires| world.head_doc(&Head { issued, expires, ..world.head(2, &new.index) });
        trust.offer_head(&fresh(NOW, NOW + 6 * DAY), NOW).unwrap();
        if withheld != "the index" {
            trust.offer_index(new.index.clone()).unwrap();
        }
        if withheld == "a document" {
            new.offer_pages(&mut trust);
        }
        trust.offer_head(&fresh(NOW + 2 * DAY, NOW + 6 * DAY), NOW).unwrap();
        let stored = old.stored();
        let pages: Vec<&[u8]> = stored.values().map(Vec::as_slice).collect();
        let admit = |trust: &Trust, at| {
            let (release, approval) = (&old.documents[0].bytes, &old.documents[1].bytes);
            // With the pages of the index that the installer has, and no others.
            trust.clone().admit(release, approval, &[], pages.iter().copied(), at).map(|_| ())
        };
        for again in [false, true] {
            if again {
                trust = Trust::restore(&trust.snapshot(), NOW).unwrap();
                let mut kept = old.stored();
                kept.extend(new.stored().into_iter().filter(|(hash, _)| trust.document_hashes().contains(hash)));
                let missing: BTreeSet<_> = new.documents[..2].iter().map(|document| document.entry.hash).collect();
                let is_page = |bytes: &[u8]| Page::decode(bytes).is_ok();
                let withhold = |hash: &DocHash, bytes: &Vec<u8>| match withheld {
                    "a page" => is_page(bytes) && !old.stored().contains_key(hash),
                    _ => missing.contains(hash),
                };
                trust.recall(|hash| kept.get(hash).filter(|bytes| !withhold(hash, bytes)).cloned(), NOW);
            }
            let why = format!("{withheld}, restarted: {again}");
            assert_eq!(trust.may_install(&id, &GROUP, ends - HOUR), Ok(()), "{why}");
            assert!(admit(&trust, ends - HOUR).is_ok(), "{why}: {:?}", admit(&trust, ends - HOUR));
            assert_eq!(trust.may_install(&id, &GROUP, ends), Err(Blocked::Overdue(ends)), "{why}");
            if withheld != "a document" {
                // An installer keeps no documents: for it the newest index is complete with its pages.
                let refused = admit(&trust, ends);
                assert!(matches!(refused, Err(NotAdmitted::Blocked(Blocked::Overdue(_)))), "{why}: {refused:?}");
            }
        }
    }
}

#[test]
fn a_spoiled_page_costs_its_own_entries_only() {
    let world = World::new();
    let documents = wide(&world, 60, 1);
    let edition = world.edition(1, documents);
    let decoded = |bytes: &[u8]| Page::decode(bytes).unwrap();
    // Each in turn is replaced by bytes that the index names and that are no page, are another tree's, or out of order.
    let spoil = |page: &Page| match page {
        Page::Documents(Node::Leaf(entries)) => {
            let entries = entries.iter().rev().copied().collect();
            vec![Page::Documents(Node::Leaf(list(entries))), Page::Devices(Node::default())]
        }
        _ => vec![Page::Documents(Node::default())],
    };
    let page = edition.pages.iter().find(|bytes| matches!(decoded(bytes), Page::Documents(_))).unwrap();
    for spoiled in spoil(&decoded(page)) {
        let bytes = spoiled.encode().unwrap();
        let named = DocRef { hash: DocHash::of(&bytes), len: bytes.len() as u32 };
        let undecided = world.publish(&release("org.example.undecided", 1));
        let mut edition = world.edition_with(1, vec![undecided], |index| {
            index.groups = Node::Leaf(list(vec![GroupEntry { group: GROUP, documents: named }]));
        });
        edition.pages.push(bytes);
        let mut trust = world.trust();
        edition.offer_to(&mut trust);
        assert_eq!((trust.catalog().releases().len(), trust.refusals().len()), (1, 1));
        assert!(trust.take_alarms()[0].contains("page"));
        // It is not asked for again after a restart.
        let mut again = Trust::restore(&trust.snapshot(), NOW).unwrap();
        let stored = edition.stored();
        again.recall(|hash| stored.get(hash).filter(|_| *hash != named.hash).cloned(), NOW);
        assert_eq!(again.wanted(), Wanted::Nothing);
    }
}

#[test]
fn no_bit_of_a_page_can_be_changed() {
    let world = World::new();
    let edition = world.simple(1);
    let mut trust = world.trust();
    trust.offer_head(&edition.head, NOW).unwrap();
    trust.offer_index(edition.index.clone()).unwrap();
    let page = &edition.pages[0];
    for at in 0..page.len() {
        for bit in 0..8 {
            let mut changed = page.clone();
            changed[at] ^= 1 << bit;
            assert!(matches!(trust.offer_document(changed, NOW), Err(TrustError::NotNamed(_))), "byte {at}");
        }
    }
    trust.offer_document(page.clone(), NOW).unwrap();
    assert!(matches!(trust.wanted(), Wanted::Documents(_)));
}

/// A thief of the online key can name as much as it likes: what a machine holds and asks for stays bounded.
#[test]
fn a_flood_of_pages_is_bounded() {
    let world = World::new();
    // A page that forks to pages which nobody has, sixteen ways, again and again.
    let mut trust = world.trust();
    let mut children = [None; 16];
    let mut level: Vec<Document> = Vec::new();
    for (step, child) in children.iter_mut().enumerate() {
        *child = Some(DocRef { hash: DocHash([step as u8; 32]), len: 100 });
    }
    for _ in 0..MAX_DEPTH + 3 {
        let page = Document::new(Page::Documents(Node::Fork(Box::new(children))).encode().unwrap());
        let named = DocRef { hash: page.hash, len: page.bytes.len() as u32 };
        level.push(page);
        children = [Some(named); 16];
    }
    let mut edition = world.edition_with(1, vec![], |index| index.published = Node::Fork(Box::new(children)));
    edition.pages = level.into_iter().map(|page| page.bytes).rev().collect();
    trust.offer_head(&edition.head, NOW).unwrap();
    trust.offer_index(edition.index.clone()).unwrap();
    for page in &edition.pages {
        let _ = trust.offer_document(page.clone(), NOW);
    }
    assert!(trust.document_hashes().len() < 64);
}
