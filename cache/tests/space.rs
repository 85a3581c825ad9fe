//! Room: quota, eviction, pins, and what happens when there is none.

mod support;

use support::{Sample, open, open_with};
use upswarm_cache::{Store, StoreConfig, StoreError};

fn ids(store: &Store) -> Vec<upswarm_protocol::ids::PayloadId> {
    store.list().iter().map(|info| info.id).collect()
}

#[test]
fn the_least_recently_used_go_first_and_pins_stay() {
    let dir = tempfile::tempdir().unwrap();
    let samples: Vec<Sample> = (0..6).map(|seed| Sample::random(seed, 100_000)).collect();
    let store = open_with(dir.path(), 450_000);
    for sample in &samples[..4] {
        sample.fill(&store, false);
    }
    store.pin(samples[0].id, true).unwrap();
    store.read(samples[1].id, 0, 1).unwrap();
    assert_eq!(store.take_evicted(), []);

    samples[4].fill(&store, false);
    assert_eq!(store.take_evicted(), [samples[2].id], "the oldest that is not pinned");
    assert!(store.have(samples[2].id).is_none());
    assert!(!dir.path().join(format!("payloads/{}.data", samples[2].id)).exists());
    samples[5].fill(&store, false);
    assert_eq!(store.take_evicted(), [samples[3].id], "reading has made 1 younger than 3");
    assert_eq!(store.take_evicted(), [], "told once");
    store.pin(samples[0].id, false).unwrap();
    drop(store);

    let store = open_with(dir.path(), 450_000);
    samples[2].fill(&store, true);
    assert_eq!(store.take_evicted(), [samples[0].id], "pins and uses survive a restart");
    let usage = store.usage().unwrap();
    assert_eq!((usage.payloads, usage.quota), (4, 450_000));
    assert!(usage.bytes <= usage.quota && usage.bytes >= 400_000);
    store.open_payload(samples[0].id, &samples[0].list, false).unwrap();
    let evicted = store.take_evicted();
    assert_eq!(evicted, [samples[1].id]);
    store.open_payload(samples[1].id, &samples[1].list, false).unwrap();
    store.remove(samples[1].id).unwrap();
    store.remove(samples[1].id).unwrap();
    assert!(store.have(samples[1].id).is_none());
}

#[test]
fn without_room_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let samples: Vec<Sample> = (0..3).map(|seed| Sample::random(seed, 100_000)).collect();
    let store = open_with(dir.path(), 250_000);
    samples[0].fill(&store, true);
    samples[1].fill(&store, false);
    let large = Sample::random(9, 200_000);
    let before = ids(&store);
    match store.open_payload(large.id, &large.list, true) {
        Err(error @ StoreError::NoSpace { need, quota: 250_000, evictable, used, .. }) => {
            assert!(need > 200_000 && evictable > 100_000 && used > 200_000);
            assert!(error.to_string().contains("raise the quota"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ids(&store), before);
    assert_eq!(store.take_evicted(), []);
    assert_eq!(samples[1].check(&store), samples[1].chunks());
    assert!(!dir.path().join(format!("payloads/{}.data", large.id)).exists());

    // One that waits for its chunks is being written: it is not sacrificed for another.
    store.remove(samples[1].id).unwrap();
    store.open_payload(samples[2].id, &samples[2].list, false).unwrap();
    store.write_chunk(samples[2].id, 0, samples[2].chunk(0)).unwrap();
    let refused = store.open_payload(samples[1].id, &samples[1].list, false);
    assert!(matches!(refused, Err(StoreError::NoSpace { evictable: 0, .. })), "{refused:?}");
    samples[2].fill(&store, false);
    samples[1].fill(&store, false);
    assert_eq!(store.take_evicted(), [samples[2].id], "once complete and durable, it may go");
}

#[test]
fn the_reserve_of_the_file_system_is_respected() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::random(1, 50_000);
    let config = StoreConfig { reserve: 1 << 60, ..StoreConfig::default() };
    let store = Store::open(dir.path(), config).unwrap();
    let refused = store.open_payload(sample.id, &sample.list, true);
    assert!(matches!(refused, Err(StoreError::NoSpace { reserve: 0x1000_0000_0000_0000, .. })), "{refused:?}");
    assert_eq!(store.list(), []);
}

#[test]
fn a_removed_payload_can_be_read_no_more_and_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::random(1, 50_000);
    let store = open(dir.path());
    sample.fill(&store, true);
    store.remove(sample.id).unwrap();
    assert!(matches!(store.read(sample.id, 0, 1), Err(StoreError::Unknown(_))));
    assert!(store.write_chunk(sample.id, 0, sample.chunk(0)).is_err());
    assert_eq!(store.open_payload(sample.id, &sample.list, false).unwrap().have.count(), 0);
    sample.fill(&store, false);
    sample.check(&store);
    store.remove(sample.id).unwrap();
    drop(store);
    assert_eq!(open(dir.path()).list(), []);
}

#[test]
fn a_store_has_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let second = Store::open(dir.path(), StoreConfig::default()).err().unwrap();
    let text = second.to_string();
    assert!(matches!(second, StoreError::Locked { .. }));
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
}
