//! What is known after a restart, without any network.

use upswarm_protocol::catalog::{DocEntry, page};
use upswarm_protocol::trust::*;

use crate::common::*;

#[test]
fn a_restart_offline_gives_the_same_catalog() {
    let world = World::new();
    let mut trust = world.trust();
    let edition = world.simple(3);
    edition.offer_to(&mut trust);
    let mut again = Trust::restore(&trust.snapshot(), NOW - DAY).unwrap();
    assert_eq!(again.catalog().releases().len(), 0);
    assert!(matches!(again.wanted(), Wanted::Pages(wanted) if wanted.len() == 1), "and no index");
    let stored = edition.stored();
    let mut read = 0;
    again.recall(|hash| stored.get(hash).cloned().inspect(|_| read += 1), NOW);
    assert_eq!(read, 3, "each page and document once");
    assert_eq!(again.document_hashes(), trust.document_hashes());
    assert_eq!(again.catalog(), trust.catalog());
    assert_eq!(again.head(), trust.head());
    assert_eq!(again.snapshot(), trust.snapshot());
    assert_eq!(again.may_install(&edition.documents[0].release, &GROUP, NOW), Ok(()));
    assert_eq!(again.offer_head(&world.simple(2).head, NOW).unwrap(), HeadNews::Older);
}

#[test]
fn a_restart_in_the_middle_of_an_update_keeps_the_catalog_in_use() {
    let world = World::new();
    let mut trust = world.trust();
    let old = world.simple(1);
    old.offer_to(&mut trust);
    let mut documents = world.simple(2).documents;
    documents.extend(old.documents.clone());
    let new = world.edition(2, documents.clone());
    trust.offer_head(&new.head, NOW).unwrap();
    new.offer_index(&mut trust);
    trust.offer_document(documents[0].bytes.clone(), NOW).unwrap();
    let mut again = Trust::restore(&trust.snapshot(), NOW).unwrap();
    let mut stored = old.stored();
    stored.extend(new.stored());
    stored.remove(&documents[1].entry.hash);
    again.recall(|hash| stored.get(hash).cloned(), NOW);
    assert_eq!(again.catalog(), trust.catalog());
    assert_eq!(again.catalog().index_version(), 1);
    assert_eq!(again.may_install(&old.documents[0].release, &GROUP, NOW), Ok(()));
    assert_eq!(again.wanted(), Wanted::Documents(vec![documents[1].entry]));
    again.offer_document(documents[1].bytes.clone(), NOW).unwrap();
    assert_eq!(again.catalog().index_version(), 2);
}

#[test]
fn a_restart_before_the_first_head_and_after_a_rotation() {
    let world = World::new();
    let fresh = world.trust();
    let restored = Trust::restore(&fresh.snapshot(), NOW - DAY).unwrap();
    assert_eq!((restored.root(), restored.wanted()), (fresh.root(), Wanted::Nothing));

    let mut trust = world.trust();
    let edition = world.simple(1);
    edition.offer_to(&mut trust);
    trust.offer_root(&world.with_online(31).root_doc(), NOW).unwrap();
    let mut again = Trust::restore(&trust.snapshot(), NOW).unwrap();
    edition.offer_documents(&mut again);
    assert_eq!(again.catalog().releases(), trust.catalog().releases());
    assert_eq!(again.may_install(&edition.documents[0].release, &GROUP, NOW), Err(Blocked::NoHead));
}

#[test]
fn approval_versions_survive_a_restart() {
    let world = World::new();
    let mut trust = world.trust();
    let product = world.publish(&release("org.example.tool", 1));
    let [one, two] = [1, 2].map(|version| world.approve(&approval(GROUP, product.release, version)));
    world.edition(1, vec![product.clone(), two]).offer_to(&mut trust);
    world.edition(2, vec![product.clone()]).offer_to(&mut trust);
    let mut trust = Trust::restore(&trust.snapshot(), NOW).unwrap();
    world.edition(3, vec![product.clone(), one]).offer_to(&mut trust);
    assert!(trust.may_install(&product.release, &GROUP, NOW).is_err());
}

#[test]
fn one_refused_document_does_not_leave_an_offline_machine_without_its_catalog() {
    let world = World::new();
    let mut documents = world.simple(1).documents;
    documents.push(publish(&release("org.example.evil", 1), &[&key(99)]));
    let edition = world.edition(1, documents);
    let mut trust = world.trust();
    edition.offer_to(&mut trust);
    let mut again = Trust::restore(&trust.snapshot(), NOW).unwrap();
    let stored = edition.stored();
    let refused = edition.documents[2].entry.hash;
    again.recall(|hash| stored.get(hash).filter(|_| *hash != refused).cloned(), NOW);
    assert_eq!((again.catalog(), again.refusals()), (trust.catalog(), trust.refusals()));
    assert_eq!(again.wanted(), Wanted::Nothing);
    assert_eq!(again.may_install(&edition.documents[0].release, &GROUP, NOW), Ok(()));
}

/// The online keys name an approval that was replaced, and then keep the next catalog from ever being complete.
#[test]
fn a_refused_approval_does_not_come_back_by_a_restart() {
    let world = World::new();
    let product = world.publish(&release("org.example.tool", 1));
    let [one, two] = [1, 2].map(|version| world.approve(&approval(GROUP, product.release, version)));
    let never = world.publish(&release("org.example.never", 1));
    let mut trust = world.trust();
    world.edition(1, vec![product.clone(), two]).offer_to(&mut trust);
    let replay = world.edition(2, vec![product.clone(), one.clone()]);
    replay.offer_to(&mut trust);
    let stuck = world.edition(3, vec![product.clone(), one, never]);
    trust.offer_head(&stuck.head, NOW).unwrap();
    stuck.offer_index(&mut trust);
    let mut again = Trust::restore(&trust.snapshot(), NOW).unwrap();
    let stored = replay.stored();
    again.recall(|hash| stored.get(hash).cloned(), NOW);
    for trust in [&trust, &again] {
        assert_eq!(trust.catalog().index_version(), 2);
        assert_eq!(trust.may_install(&product.release, &GROUP, NOW), Err(Blocked::NotApproved));
    }
}

#[test]
fn an_approval_is_not_acted_on_once_a_later_one_has_been_seen() {
    let world = World::new();
    let product = world.publish(&release("org.example.tool", 1));
    let [one, two] = [1, 2].map(|version| world.approve(&approval(GROUP, product.release, version)));
    let never = world.publish(&release("org.example.never", 1));
    let mut trust = world.trust();
    world.edition(1, vec![product.clone(), one.clone()]).offer_to(&mut trust);
    for (version, named) in [(2, two.clone()), (3, one.clone())] {
        assert_eq!(trust.may_install(&product.release, &GROUP, NOW).is_ok(), version == 2);
        let stuck = world.edition(version, vec![product.clone(), named, never.clone()]);
        trust.offer_head(&stuck.head, NOW).unwrap();
        stuck.offer_index(&mut trust);
        let _ = trust.offer_document(two.bytes.clone(), NOW);
    }
    assert_eq!(trust.catalog().index_version(), 1);
    assert_eq!(trust.may_install(&product.release, &GROUP, NOW), Err(Blocked::Withdrawn));
    let mut again = Trust::restore(&trust.snapshot(), NOW).unwrap();
    let stored = world.edition(1, vec![product.clone(), one]).stored();
    again.recall(|hash| stored.get(hash).cloned(), NOW);
    assert_eq!(again.catalog().index_version(), 1);
    assert_eq!(again.may_install(&product.release, &GROUP, NOW), Err(Blocked::Withdrawn));
}

#[test]
fn a_damaged_snapshot_is_not_believed() {
    let world = World::new();
    let mut trust = world.trust();
    world.simple(1).offer_to(&mut trust);
    let snapshot = trust.snapshot();
    assert!(snapshot.len() < 4096, "{} bytes", snapshot.len());
    for at in 0..snapshot.len() {
        for bit in 0..8 {
            let mut damaged = snapshot.clone();
            damaged[at] ^= 1 << bit;
            assert!(matches!(Trust::restore(&damaged, NOW), Err(TrustError::Snapshot(_))), "byte {at}, bit {bit}");
        }
        assert!(Trust::restore(&snapshot[..at], NOW).is_err(), "cut at {at}");
    }
    assert!(Trust::restore(&[snapshot, vec![0]].concat(), NOW).is_err());
}

#[test]
fn the_largest_snapshot_fits() {
    let world = World::new();
    let mut trust = world.trust();
    // Of two indexes everything is refused, but for a document that keeps the second from being in use.
    let product = world.publish(&release("org.example.tool", 1));
    let never = world.publish(&release("org.example.never", 1));
    for version in 1..=2u64 {
        let entries = (0..MAX_DOCUMENTS as u64 - 1).map(|at| {
            let mut entry = product.entry;
            entry.hash.0[..8].copy_from_slice(&(at * version).to_le_bytes());
            entry.hash.0[8] = version as u8;
            DocEntry { len: u32::MAX, ..entry }
        });
        let mut entries: Vec<_> = entries.chain((version == 2).then_some(never.entry)).collect();
        entries.sort_by_key(|entry| entry.hash);
        let mut pages = Vec::new();
        let root = page::grow(&entries, 4, page::PAGE_ENTRIES, &mut pages).unwrap();
        let mut edition = world.edition_with(version, vec![], |index| index.published = root);
        edition.pages = pages.into_iter().map(|page| page.bytes).collect();
        trust.offer_head(&edition.head, NOW).unwrap();
        edition.offer_index(&mut trust);
    }
    assert_eq!(trust.wanted(), Wanted::Documents(vec![never.entry]));
    let snapshot = trust.snapshot();
    assert!(snapshot.len() > 4 << 20 && snapshot.len() <= MAX_SNAPSHOT, "{}", snapshot.len());
    assert_eq!(Trust::restore(&snapshot, NOW).unwrap().snapshot(), snapshot);
}
