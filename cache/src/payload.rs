//! One payload in memory: always its bitmaps, and only while it is in use its chunk list and open file.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use upswarm_protocol::chunk::{Bitmap, Chunk, ChunkList};
use upswarm_protocol::ids::{ChunkId, PayloadId};

use crate::error::StoreError;
use crate::files::{Files, Generation};
use crate::index::Record;
use crate::os;

/// Locks, whether or not a thread panicked with the lock: every change made under it is complete at any point.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One stay of a payload in the store: removed and stored again, it is another one.
pub(crate) struct Payload {
    pub(crate) id: PayloadId,
    pub(crate) stay: Generation,
    /// Bytes.
    pub(crate) len: u64,
    /// Bytes it takes on disk, list included.
    pub(crate) on_disk: u64,
    pub(crate) last_used: AtomicU64,
    state: Mutex<State>,
    body: Mutex<Option<Arc<Body>>>,
}

/// What changes. Invariant: `synced` holds no chunk that `have` lacks, and no chunk whose bytes a power cut could take.
pub(crate) struct State {
    /// Chunks that were verified and written.
    pub(crate) have: Bitmap,
    /// Those of them that are durable: all that a record may claim.
    pub(crate) synced: Bitmap,
    /// Chunks whose bytes were hashed in this run: when they came, or when they were read.
    pub(crate) verified: Bitmap,
    /// Chunks that were written when a sync failed: perhaps they are on disk, perhaps not.
    pub(crate) dubious: Vec<u32>,
    /// Syncs that have failed.
    pub(crate) failures: u32,
    pub(crate) pinned: bool,
    /// Records are to say that chunks without a bit may have been written.
    pub(crate) marked: bool,
    /// A durable record says so. Before that, nothing may be written.
    pub(crate) writable: bool,
    /// The next flush will look at this payload.
    pub(crate) queued: bool,
    /// Its files are gone, or belong to another stay by now.
    pub(crate) removed: bool,
    /// Threads that are writing chunks just now.
    pub(crate) writers: u32,
    /// `last_used` in the record.
    pub(crate) saved_use: u64,
}

impl Payload {
    /// The payload that a record describes.
    pub(crate) fn new(id: PayloadId, record: Record, on_disk: u64) -> Self {
        let state = State {
            verified: Bitmap::new(record.have.len()),
            dubious: Vec::new(),
            failures: 0,
            synced: record.have.clone(),
            have: record.have,
            pinned: record.pinned,
            marked: record.writing,
            writable: false,
            queued: false,
            removed: false,
            writers: 0,
            saved_use: record.last_used,
        };
        Self {
            id,
            stay: record.stay,
            len: record.len,
            on_disk,
            last_used: AtomicU64::new(record.last_used),
            state: Mutex::new(state),
            body: Mutex::new(None),
        }
    }

    /// Its changing part. Held for moments, never during a file operation.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The place of its list and file.
    pub(crate) fn body(&self) -> MutexGuard<'_, Option<Arc<Body>>> {
        lock(&self.body)
    }
}

/// What is needed to read and write chunks.
pub(crate) struct Body {
    pub(crate) file: File,
    pub(crate) list: Arc<ChunkList>,
    /// Positions of chunks that occur more than once, by id and position.
    twins: Vec<u32>,
}

impl Body {
    /// The body of a payload whose chunk list is known.
    pub(crate) fn new(file: File, list: Arc<ChunkList>) -> Self {
        let chunks = list.chunks();
        let mut seen: BTreeMap<&ChunkId, u32> = BTreeMap::new();
        chunks.iter().for_each(|chunk| *seen.entry(&chunk.id).or_default() += 1);
        let mut twins: Vec<u32> = (0..chunks.len() as u32).filter(|at| seen[&chunks[*at as usize].id] > 1).collect();
        twins.sort_unstable_by_key(|at| (chunks[*at as usize].id, *at));
        Self { file, list, twins }
    }

    /// Reads list and file from disk.
    pub(crate) fn load(files: &Files, id: PayloadId, expected: Generation) -> Result<Self, StoreError> {
        let (list, stay) = files.read_list(id)?;
        if stay != expected {
            return Err(StoreError::Unknown(id));
        }
        Ok(Self::new(files.open_data(id)?, Arc::new(list)))
    }

    /// The chunk at a position.
    pub(crate) fn chunk(&self, position: u32) -> Option<&Chunk> {
        self.list.chunks().get(position as usize)
    }

    /// Every position with the same bytes as this one, itself included, in order. It must be inside the list.
    pub(crate) fn same_as(&self, position: u32) -> Vec<u32> {
        let chunks = self.list.chunks();
        let id = chunks[position as usize].id;
        let first = self.twins.partition_point(|at| chunks[*at as usize].id < id);
        let same = self.twins[first..].iter().take_while(|at| chunks[**at as usize].id == id);
        let same: Vec<u32> = same.copied().collect();
        if same.is_empty() { vec![position] } else { same }
    }

    /// Whether the bytes on disk of a chunk have its hash; one that cannot be read has not. `buffer` is for reuse.
    pub(crate) fn is_good(&self, chunk: &Chunk, buffer: &mut Vec<u8>) -> bool {
        buffer.resize(chunk.len as usize, 0);
        os::read_at(&self.file, chunk.offset, buffer).is_ok() && ChunkId::of(buffer) == chunk.id
    }
}

#[cfg(test)]
mod tests {
    use upswarm_protocol::chunk::ChunkSizes;

    use super::*;

    #[test]
    fn twins_know_each_other() {
        let pieces = [3, 1, 2, 1, 3, 3].map(|n| (ChunkId([n; 32]), 1));
        let list = Arc::new(ChunkList::new(ChunkSizes::default(), pieces).unwrap());
        let body = Body::new(tempfile::tempfile().unwrap(), list);
        assert_eq!(body.same_as(0), [0, 4, 5]);
        assert_eq!(body.same_as(5), [0, 4, 5]);
        assert_eq!(body.same_as(3), [1, 3]);
        assert_eq!(body.same_as(2), [2]);
    }
}
