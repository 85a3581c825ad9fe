//! Every bit of every kind of document.

use upswarm_protocol::chunk::{ChunkList, ChunkSizes};
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::*;
use upswarm_protocol::report::DeviceMessage;
use upswarm_protocol::trust::*;
use upswarm_protocol::wire::{Lease, Presence};

use crate::common::*;
use crate::golden;

/// Runs `accepts` on every single-bit change, every cut and some extensions of `bytes`; none may be accepted.
fn flip_all(what: &str, bytes: &[u8], mut accepts: impl FnMut(&[u8]) -> bool) {
    assert!(accepts(bytes), "{what}: the document itself");
    let mut changed = bytes.to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            changed[at] ^= 1 << bit;
            assert!(!accepts(&changed), "{what}: byte {at}, bit {bit}");
            changed[at] ^= 1 << bit;
        }
        assert!(!accepts(&bytes[..at]), "{what}: cut at {at}");
    }
    for more in [0, 1, 0xff] {
        changed.push(more);
        assert!(!accepts(&changed), "{what}: {more} appended");
    }
}

#[test]
fn root() {
    let world = World::new();
    let trust = world.trust();
    let next = world.next(|_| ()).root_doc();
    flip_all("next root", &next, |bytes| trust.clone().offer_root(bytes, NOW).is_ok());
    let first = world.root_doc();
    let hash = DocHash::of(&first);
    flip_all("pinned root", &first, |bytes| Trust::pin(bytes.to_vec(), hash, NOW).is_ok());
    // Even if the token named the changed bytes: they are not signed.
    flip_all("self-signed root", &first, |bytes| Trust::pin(bytes.to_vec(), DocHash::of(bytes), NOW).is_ok());
}

#[test]
fn head_and_certificate() {
    let world = World::new();
    let trust = world.trust();
    let head = world.simple(1).head;
    flip_all("head", &head, |bytes| matches!(trust.clone().offer_head(bytes, NOW), Ok(HeadNews::New)));
    let certificate = world.certificate_doc(&certificate(&key(50)));
    flip_all("certificate", &certificate, |bytes| trust.check_certificate(bytes, NOW).is_ok());
}

#[test]
fn index() {
    let world = World::new();
    let mut trust = world.trust();
    let edition = world.simple(1);
    trust.offer_head(&edition.head, NOW).unwrap();
    flip_all("index", &edition.index, |bytes| trust.clone().offer_index(bytes.to_vec()).is_ok());
    // Even if a head named the changed bytes: they are not signed.
    flip_all("unpinned index", &edition.index, |bytes| {
        let mut trust = world.trust();
        let named = world.head_doc(&world.head(1, bytes));
        trust.offer_head(&named, NOW).is_ok() && trust.offer_index(bytes.to_vec()).is_ok()
    });
}

#[test]
fn release_and_approval() {
    let world = World::new();
    let edition = world.simple(1);
    let mut trust = world.trust();
    trust.offer_head(&edition.head, NOW).unwrap();
    edition.offer_index(&mut trust);
    let [product, decision] = [&edition.documents[0].bytes, &edition.documents[1].bytes];
    flip_all("release", product, |bytes| trust.clone().offer_document(bytes.to_vec(), NOW).is_ok());
    flip_all("approval", decision, |bytes| trust.clone().offer_document(bytes.to_vec(), NOW).is_ok());
    // Without the index's pin: signatures alone.
    flip_all("unpinned release", product, |bytes| verify_pair(&world.root, bytes, decision, NOW).is_ok());
    flip_all("unpinned approval", decision, |bytes| verify_pair(&world.root, product, bytes, NOW).is_ok());
}

#[test]
fn documents_of_devices() {
    let device = key(50);
    let trusted = [public(&device)];
    let presence = envelope::sign(Kind::Presence, Role::Device, &golden::presence(), &[&device]).unwrap();
    flip_all("presence", &presence, |bytes| {
        envelope::open_one::<Presence>(bytes, Kind::Presence, Role::Device, &trusted).is_ok()
    });
    let lease = envelope::sign(Kind::Lease, Role::Device, &golden::lease(), &[&device]).unwrap();
    flip_all("lease", &lease, |bytes| envelope::open_one::<Lease>(bytes, Kind::Lease, Role::Device, &trusted).is_ok());
    let report = envelope::sign(Kind::Report, Role::Device, &golden::device_message(), &[&device]).unwrap();
    flip_all("report", &report, |bytes| {
        envelope::open_one::<DeviceMessage>(bytes, Kind::Report, Role::Device, &trusted).is_ok()
    });
}

#[test]
fn chunk_list() {
    let pieces = [(ChunkId([1; 32]), 65_536), (ChunkId([2; 32]), 70_000)];
    let list = ChunkList::new(ChunkSizes::default(), pieces).unwrap().to_bytes();
    let hash = DocHash::of(&list);
    flip_all("chunk list", &list, |bytes| ChunkList::parse(bytes, hash).is_ok());
}
