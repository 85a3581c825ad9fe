//! A disk that does not take what is written: nothing counts as durable, or as there, that may be lost.

use std::sync::Arc;

use upswarm_protocol::chunk::{ChunkList, ChunkSizes};
use upswarm_protocol::ids::PayloadId;

use crate::chunker::{ChunkedFile, chunk_file};
use crate::os::faults::{fail_syncs, left, seen};
use crate::{ImportError, Scrub, Store, StoreConfig, StoreError, WriteError};

const SIZES: ChunkSizes = ChunkSizes { min: 1 << 10, average: 4 << 10, max: 16 << 10 };

struct Sample {
    id: PayloadId,
    list: Arc<ChunkList>,
    bytes: Vec<u8>,
}

impl Sample {
    fn new() -> Self {
        Self::of(0, 200_000)
    }

    fn of(seed: u64, len: usize) -> Self {
        let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut bytes = vec![0; len];
        reader.fill(&mut bytes);
        let ChunkedFile { id, list, .. } = chunk_file(bytes.as_slice(), SIZES).unwrap();
        Self { id, list: Arc::new(list), bytes }
    }

    fn write(&self, store: &Store, chunks: std::ops::Range<u32>) {
        for at in chunks {
            let chunk = self.list.chunks()[at as usize];
            store.write_chunk(self.id, at, &self.bytes[chunk.offset as usize..][..chunk.len as usize]).unwrap();
        }
    }

    fn chunks(&self) -> u32 {
        self.list.chunks().len() as u32
    }
}

fn open(dir: &std::path::Path) -> Store {
    Store::open(dir, StoreConfig { quota: 1 << 30, reserve: 0, index_cache: 1 << 20 }).unwrap()
}

#[test]
fn chunks_that_a_failed_sync_may_have_lost_are_missing_and_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new();
    let store = open(dir.path());
    store.open_payload(sample.id, &sample.list, true).unwrap();
    sample.write(&store, 0..4);
    store.flush().unwrap();
    sample.write(&store, 4..sample.chunks());
    assert!(store.is_complete(sample.id));

    fail_syncs(0, 1);
    assert!(matches!(store.flush(), Err(StoreError::Io { doing: "syncing", .. })));
    assert!(!store.is_complete(sample.id) && store.path(sample.id).is_none());
    let lost = store.take_lost().remove(&sample.id).unwrap();
    assert_eq!(lost.chunks, (4..sample.chunks()).collect::<Vec<u32>>());
    assert!(lost.failure.unwrap().contains("the disk does not take it"));
    assert!(matches!(store.read(sample.id, 4, 1), Err(StoreError::Missing { .. })));
    // A sync that succeeds now says nothing about what the failed one dropped.
    store.flush().unwrap();
    assert!(!store.is_complete(sample.id));
    let again = store.write_chunk(sample.id, 4, &sample.bytes[..1]);
    assert!(matches!(again, Err(WriteError::WrongHash { .. } | WriteError::NotOpen(_))), "{again:?}");

    // Chunk 6 was dropped. A disk that still fails keeps the payload shut; nothing is forgotten.
    let data = dir.path().join(format!("payloads/{}.data", sample.id));
    let hole = sample.list.chunks()[6];
    let file = std::fs::OpenOptions::new().write(true).open(&data).unwrap();
    crate::os::write_at(&file, hole.offset, &vec![0; hole.len as usize]).unwrap();
    fail_syncs(0, 1);
    assert!(store.open_payload(sample.id, &sample.list, true).is_err());
    assert_eq!(store.have(sample.id).unwrap().count(), 4);

    // What is on disk after all is kept, and durable: an abrupt end of this process changes nothing.
    let have = store.open_payload(sample.id, &sample.list, true).unwrap().have;
    assert_eq!(have.missing().collect::<Vec<u32>>(), [6]);
    sample.write(&store, 6..7);
    store.flush().unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(store.is_complete(sample.id) && store.notices().is_empty());
    let report = Scrub::starting_at(PayloadId([0; 32])).step(&store, u64::MAX).unwrap();
    assert_eq!((report.bytes, report.bad), (200_000, vec![]));
}

#[test]
fn every_failed_sync_fails_what_asked_for_it() {
    let sample = Sample::new();
    // Each sync of a new store's first payload in turn, until there are no more.
    let mut failed = 0;
    for good in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, &sample.bytes).unwrap();
        let store = open(&dir.path().join("store"));
        fail_syncs(good, 1);
        let imported = store.import_file(&file, SIZES);
        if left() > 0 {
            fail_syncs(0, 0);
            assert!(good >= 4, "only {good} syncs were seen: list, names, data, index");
            break;
        }
        match imported {
            Ok(_) => panic!("sync {good} failed, and nobody was told"),
            Err(ImportError::Store(_)) => failed += 1,
            Err(other) => panic!("sync {good}: {other}"),
        }
        store.import_file(&file, SIZES).unwrap_or_else(|error| panic!("after sync {good}: {error}"));
        drop(store);
        let store = open(&dir.path().join("store"));
        assert!(store.is_complete(sample.id), "after sync {good}");
        let report = Scrub::starting_at(sample.id).step(&store, u64::MAX).unwrap();
        assert_eq!((report.bytes, report.bad), (200_000, vec![]), "after sync {good}");
    }
    assert!(failed >= 4, "{failed}");
}

/// Payloads that come together share what can be shared: of its own each has its list, its name and its data.
#[test]
fn many_small_payloads_share_their_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let samples: Vec<Sample> = (1..=100).map(|seed| Sample::of(seed, 20_000)).collect();
    let before = seen();
    for sample in &samples {
        store.open_payload(sample.id, &sample.list, true).unwrap();
        sample.write(&store, 0..sample.chunks());
    }
    store.flush().unwrap();
    let syncs = seen() - before;
    assert!(syncs <= 3 * 100 + 5, "{syncs} syncs for 100 payloads");
    drop(store);
    let store = open(dir.path());
    assert!(samples.iter().all(|sample| store.is_complete(sample.id)) && store.notices().is_empty());
}
