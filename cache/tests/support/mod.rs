//! What the tests share: seeds, contents, payloads.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use upswarm_cache::chunker::{ChunkedFile, chunk_file};
use upswarm_cache::{Store, StoreConfig, StoreError};
use upswarm_protocol::chunk::{ChunkList, ChunkSizes};
use upswarm_protocol::ids::PayloadId;

/// Small chunks, so that small payloads have many.
pub(crate) const SIZES: ChunkSizes = ChunkSizes { min: 1 << 10, average: 4 << 10, max: 16 << 10 };

/// A sequence of numbers that its seed determines (SplitMix64, Steele et al. 2014).
pub(crate) struct Seeded(u64);

impl Seeded {
    /// The seed in the environment variable, or this one; printed, so that a failure can be repeated.
    pub(crate) fn new(name: &str, default: u64) -> Self {
        let seed = std::env::var("UPSWARM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default);
        println!("{name}: UPSWARM_SEED={seed}");
        Self(seed)
    }

    /// The sequence of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

/// A payload and its true content.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) id: PayloadId,
    pub(crate) list: Arc<ChunkList>,
    pub(crate) bytes: Arc<Vec<u8>>,
}

impl Sample {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let ChunkedFile { id, list, .. } = chunk_file(bytes.as_slice(), SIZES).unwrap();
        Self { id, list: Arc::new(list), bytes: Arc::new(bytes) }
    }

    pub(crate) fn random(seed: u64, len: usize) -> Self {
        Self::of(Seeded(seed).bytes(len))
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.list.chunks().len() as u32
    }

    pub(crate) fn chunk(&self, position: u32) -> &[u8] {
        let chunk = self.list.chunks()[position as usize];
        &self.bytes[chunk.offset as usize..][..chunk.len as usize]
    }

    /// Opens it and writes every chunk.
    pub(crate) fn fill(&self, store: &Store, pin: bool) {
        let missing: Vec<u32> = store.open_payload(self.id, &self.list, pin).unwrap().have.missing().collect();
        for position in missing {
            store.write_chunk(self.id, position, self.chunk(position)).unwrap();
        }
        store.flush().unwrap();
        assert!(store.is_complete(self.id));
    }

    /// Reads every chunk that the store says it has, and finds the true bytes. Returns how many.
    pub(crate) fn check(&self, store: &Store) -> u32 {
        let have = store.have(self.id).unwrap();
        assert_eq!(have.len(), self.chunks());
        for position in have.iter() {
            let read = store.read(self.id, position, 1).unwrap();
            assert!(read == self.chunk(position), "chunk {position} of {:?} has other bytes on disk", self.id);
        }
        have.count()
    }
}

/// A roomy store.
pub(crate) fn open(dir: &Path) -> Store {
    open_with(dir, 1 << 30)
}

/// A store with a quota in bytes.
pub(crate) fn open_with(dir: &Path, quota: u64) -> Store {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        // A child that another test is just starting holds every open file, this store's old lock among them, until it runs
        // its program.
        match Store::open(dir, StoreConfig { quota, reserve: 1 << 20, index_cache: 4 << 20 }) {
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}
