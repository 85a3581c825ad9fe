//! What is known after a restart, without any network.

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
    assert!(matches!(again.wanted(), Wanted::Documents(wanted) if wanted.len() == 2), "and no index");
    assert_eq!(again.document_hashes(), trust.document_hashes());
    edition.offer_documents(&mut again);
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
    trust.offer_index(new.index.clone(), NOW).unwrap();
    trust.offer_document(documents[0].bytes.clone(), NOW).unwrap();
    let mut again = Trust::restore(&trust.snapshot(), NOW).unwrap();
    for kept in [&documents[0], &documents[2], &documents[3]] {
        again.offer_document(kept.bytes.clone(), NOW).unwrap();
    }
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
fn the_largest_index_fits_a_snapshot() {
    let world = World::new();
    let mut trust = world.trust();
    // 65,536 entries twice: an index in use would need its documents, so both are incomplete here and one is kept.
    let product = world.publish(&release("org.example.tool", 1));
    for version in 1..=2u64 {
        let documents = (0..65_536u64).map(|at| {
            let mut named = product.clone();
            named.entry.hash.0[..8].copy_from_slice(&(at * version).to_le_bytes());
            named.entry.hash.0[8] = version as u8;
            named
        });
        let edition = world.edition(version, documents.collect());
        trust.offer_head(&edition.head, NOW).unwrap();
        trust.offer_index(edition.index, NOW).unwrap();
    }
    let snapshot = trust.snapshot();
    assert!(snapshot.len() > 3 << 20 && snapshot.len() <= MAX_SNAPSHOT);
    assert_eq!(Trust::restore(&snapshot, NOW).unwrap().snapshot(), snapshot);
}
