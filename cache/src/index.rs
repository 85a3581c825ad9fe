//! The sled index: a small record per payload, and where each chunk can be found. Knows no data files and decides nothing;
//! beside the fence around it, the only module that names sled.
//!
//! ```text
//! tree "payloads"  key: payload 32   value: version u8 = 1 | flags u8 (1 pinned, 2 being written) | last used u64
//!                                           | payload length u64 | chunk list hash 32 | born u64 | chunks u32 | bitmap
//! tree "chunks"    key: chunk 32 | payload 32   value: version u8 = 1 | offset u64 | length u32
//! ```
//! Integers are little-endian. A chunk that several payloads hold has an entry for each, so that none is lost when one
//! of them is removed, and no entry is ever read to be written.
//!
//! Every call is fenced. Nothing here is durable before [`Index::flush`].

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use upswarm_protocol::chunk::{Bitmap, Chunk, MAX_CHUNKS};
use upswarm_protocol::ids::{ChunkId, DocHash, PayloadId};

use crate::error::StoreError;
use crate::fence::{self, Failure, Fence};
use crate::files::Generation;

const VERSION: u8 = 1;
const PINNED: u8 = 1;
const WRITING: u8 = 2;
const RECORD: usize = 62;
const PLACE: usize = 13;
/// A batch takes memory until it is applied.
const BATCH: usize = 4096;
const INDEX: &str = "index";

/// What is durable about a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Not to be evicted.
    pub(crate) pinned: bool,
    /// Chunks without a bit may have been written: after an abrupt stop they are worth hashing.
    pub(crate) writing: bool,
    /// Grows with every use; near to milliseconds since 1970.
    pub(crate) last_used: u64,
    /// Bytes of the payload.
    pub(crate) len: u64,
    /// What its files are to say too, for this record to be about them.
    pub(crate) stay: Generation,
    /// Chunks whose bytes were synced before this was written.
    pub(crate) have: Bitmap,
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD + self.have.as_bytes().len());
        bytes.push(VERSION);
        bytes.push(if self.pinned { PINNED } else { 0 } | if self.writing { WRITING } else { 0 });
        bytes.extend_from_slice(&self.last_used.to_le_bytes());
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes.extend_from_slice(self.stay.list.as_bytes());
        bytes.extend_from_slice(&self.stay.born.to_le_bytes());
        bytes.extend_from_slice(&self.have.len().to_le_bytes());
        bytes.extend_from_slice(self.have.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, flags], rest) = bytes.split_first_chunk()?;
        let (last_used, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (list, rest) = rest.split_first_chunk()?;
        let (born, rest) = rest.split_first_chunk()?;
        let (chunks, bitmap) = rest.split_first_chunk()?;
        let chunks = u32::from_le_bytes(*chunks);
        if version != VERSION || flags & !(PINNED | WRITING) != 0 || chunks as usize > MAX_CHUNKS {
            return None;
        }
        Some(Self {
            pinned: flags & PINNED != 0,
            writing: flags & WRITING != 0,
            last_used: u64::from_le_bytes(*last_used),
            len: u64::from_le_bytes(*len),
            stay: Generation { list: DocHash(*list), born: u64::from_le_bytes(*born) },
            have: Bitmap::from_bytes(bitmap, chunks)?,
        })
    }
}

/// Where a chunk may be found. A hint: whoever reads there checks the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The payload.
    pub(crate) payload: PayloadId,
    /// The first byte.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u32,
}

/// The index as it was found.
pub(crate) struct OpenedIndex {
    /// The index.
    pub(crate) index: Index,
    /// Every record; `None` where it does not decode.
    pub(crate) records: Vec<(PayloadId, Option<Record>)>,
    /// What the log should say.
    pub(crate) notices: Vec<String>,
}

/// An open index.
pub(crate) struct Index {
    fence: Fence,
    cache: u64,
    /// `None` after a failure that opening it anew did not mend yet.
    trees: RwLock<Option<Trees>>,
    failed: AtomicBool,
}

impl Index {
    /// Opens `dir/index`, with at most `cache` bytes of memory for its pages. What does not open is moved aside and an
    /// empty index takes its place. The caller holds the store's lock.
    pub(crate) fn open(dir: &Path, cache: u64) -> Result<OpenedIndex, StoreError> {
        let fence = Fence::new(dir, INDEX);
        let (trees, records, notice) = open_or_replace(&fence, cache)?;
        let trees = RwLock::new(Some(trees));
        let index = Self { fence, cache, trees, failed: AtomicBool::new(false) };
        Ok(OpenedIndex { index, records, notices: notice.into_iter().collect() })
    }

    /// Whether a call has failed: then sled itself works no further, and [`Index::reopen`] is due.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Closes the index and opens it anew. What was not flushed is lost: every record is to be put again. A notice says
    /// that it is empty, so that the chunks are to be added again too.
    pub(crate) fn reopen(&self) -> Result<Option<String>, StoreError> {
        let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        let old = trees.take();
        if let Err(failure) = fence::call(|| {
            drop(old);
            Ok(())
        }) {
            tracing::debug!(%failure, "closing the failed index");
        }
        let (opened, _, notice) = open_or_replace(&self.fence, self.cache)?;
        *trees = Some(opened);
        self.failed.store(false, Ordering::Release);
        Ok(notice)
    }

    /// Writes a payload's record.
    pub(crate) fn put(&self, id: PayloadId, record: &Record) -> Result<(), StoreError> {
        self.fenced(|trees| trees.payloads.insert(id.as_bytes(), record.encode()).map(drop))
    }

    /// Removes a payload's record, and the entries of these chunks of it.
    pub(crate) fn remove(&self, id: PayloadId, chunks: &[Chunk]) -> Result<(), StoreError> {
        for some in chunks.chunks(BATCH) {
            let mut batch = sled::Batch::default();
            some.iter().for_each(|chunk| batch.remove(&chunk_key(chunk.id, id)[..]));
            self.fenced(|trees| trees.chunks.apply_batch(batch))?;
        }
        self.fenced(|trees| trees.payloads.remove(id.as_bytes()).map(drop))
    }

    /// Notes that a payload holds these chunks.
    pub(crate) fn add_chunks<'a>(
        &self,
        id: PayloadId,
        chunks: impl Iterator<Item = &'a Chunk>,
    ) -> Result<(), StoreError> {
        let mut chunks = chunks.peekable();
        while chunks.peek().is_some() {
            let mut batch = sled::Batch::default();
            for chunk in chunks.by_ref().take(BATCH) {
                batch.insert(&chunk_key(chunk.id, id)[..], &place_value(chunk.offset, chunk.len)[..]);
            }
            self.fenced(|trees| trees.chunks.apply_batch(batch))?;
        }
        Ok(())
    }

    /// A place where a chunk may be found, in a payload that `usable` accepts. Entries of payloads that it refuses are
    /// left-overs of a removal cut short, and are removed.
    pub(crate) fn find(&self, id: ChunkId, usable: impl Fn(PayloadId) -> bool) -> Result<Option<Place>, StoreError> {
        self.fenced(|trees| {
            for entry in trees.chunks.scan_prefix(id.as_bytes()) {
                let (key, value) = entry?;
                match parse_place(&key, &value) {
                    Some(place) if usable(place.payload) => return Ok(Some(place)),
                    _ => drop(trees.chunks.remove(key)?),
                }
            }
            Ok(None)
        })
    }

    /// Makes everything so far durable. On a full disk it is an error, and the index stays as it is.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.fence.check_room().map_err(|failure| failed(failure, &self.fence.path()))?;
        self.with(|trees| self.fence.flush(&trees.db))
    }

    fn fenced<T>(&self, work: impl FnOnce(&Trees) -> sled::Result<T>) -> Result<T, StoreError> {
        self.with(|trees| fence::call(|| work(trees)))
    }

    fn with<T>(&self, work: impl FnOnce(&Trees) -> Result<T, Failure>) -> Result<T, StoreError> {
        let trees = self.trees.read().unwrap_or_else(PoisonError::into_inner);
        let path = self.fence.path();
        let Some(trees) = &*trees else {
            return Err(StoreError::Index { path, cause: "closed after a failure".to_owned() });
        };
        work(trees).map_err(|failure| {
            if matches!(failure, Failure::Damaged(_)) {
                self.fence.condemn();
            }
            self.failed.store(true, Ordering::Release);
            failed(failure, &path)
        })
    }
}

fn failed(failure: Failure, path: &Path) -> StoreError {
    match failure {
        Failure::Damaged(cause) => StoreError::Index { path: path.to_owned(), cause },
        Failure::System(error) => StoreError::io("working on the index", path, error),
    }
}

struct Trees {
    db: sled::Db,
    payloads: sled::Tree,
    chunks: sled::Tree,
}

type Records = Vec<(PayloadId, Option<Record>)>;

/// Opens the index; the text says that a damaged one was moved aside and an empty one took its place.
fn open_or_replace(fence: &Fence, cache: u64) -> Result<(Trees, Records, Option<String>), StoreError> {
    let opened = fence.open(|path| {
        let config = sled::Config::new().path(path).cache_capacity(cache).mode(sled::Mode::LowSpace);
        let db = config.flush_every_ms(None).open()?;
        let (payloads, chunks) = (db.open_tree("payloads")?, db.open_tree("chunks")?);
        let mut records = Vec::new();
        for entry in &payloads {
            let (key, value) = entry?;
            if let Ok(id) = <[u8; 32]>::try_from(&*key) {
                records.push((PayloadId(id), Record::decode(&value)));
            }
        }
        Ok((Trees { db, payloads, chunks }, records))
    });
    let ((trees, records), moved) = opened.map_err(|failure| failed(failure, &fence.path()))?;
    let notice = moved.map(|moved| format!("the index {moved} and is rebuilt from the data files"));
    Ok((trees, records, notice))
}

fn chunk_key(chunk: ChunkId, payload: PayloadId) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(chunk.as_bytes());
    key[32..].copy_from_slice(payload.as_bytes());
    key
}

fn place_value(offset: u64, len: u32) -> [u8; PLACE] {
    let mut value = [VERSION; PLACE];
    value[1..9].copy_from_slice(&offset.to_le_bytes());
    value[9..].copy_from_slice(&len.to_le_bytes());
    value
}

fn parse_place(key: &[u8], value: &[u8]) -> Option<Place> {
    let payload = PayloadId(key.get(32..)?.try_into().ok()?);
    let (&[VERSION], rest) = value.split_first_chunk()? else { return None };
    let (offset, len) = rest.split_first_chunk()?;
    Some(Place { payload, offset: u64::from_le_bytes(*offset), len: u32::from_le_bytes(len.try_into().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_on_disk_do_not_change() {
        let mut have = Bitmap::new(11);
        have.set(0);
        have.set(10);
        let stay = Generation { list: DocHash([7; 32]), born: 0x0506 };
        let record = Record { pinned: true, writing: true, last_used: 0x0102, len: 0x0304, stay, have };
        let mut golden = vec![1, 3, 2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0];
        golden.extend_from_slice(&[7; 32]);
        golden.extend_from_slice(&[6, 5, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 1, 4]);
        assert_eq!(record.encode(), golden);
        assert_eq!(Record::decode(&golden), Some(record));

        let key = chunk_key(ChunkId([1; 32]), PayloadId([2; 32]));
        assert_eq!((&key[..32], &key[32..]), (&[1; 32][..], &[2; 32][..]));
        let value = place_value(0x0506, 9);
        assert_eq!(value, [1, 6, 5, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(parse_place(&key, &value), Some(Place { payload: PayloadId([2; 32]), offset: 0x0506, len: 9 }));
    }

    #[test]
    fn other_bytes_are_no_record() {
        let have = Bitmap::full(11);
        let stay = Generation { list: DocHash([7; 32]), born: 3 };
        let record = Record { pinned: false, writing: false, last_used: 1, len: 2, stay, have };
        let bytes = record.encode();
        for cut in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        let with = |at: usize, byte: u8| {
            let mut other = bytes.clone();
            other[at] = byte;
            Record::decode(&other)
        };
        assert_eq!(with(0, 2), None, "another version");
        assert_eq!(with(1, 4), None, "an unknown flag");
        assert_eq!(with(bytes.len() - 1, 0xff), None, "a spare bit");
        assert_eq!(Record::decode(&[bytes.as_slice(), &[0]].concat()), None, "a byte too many");
        assert_eq!(parse_place(&[0; 64], &[2; 13]), None, "another version");
        assert_eq!(parse_place(&[0; 63], &place_value(0, 1)), None, "a short key");
    }

    #[test]
    fn a_chunk_is_found_in_any_payload_that_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), 1 << 20).unwrap().index;
        let chunk = Chunk { id: ChunkId([9; 32]), offset: 5, len: 6 };
        let (one, two) = (PayloadId([1; 32]), PayloadId([2; 32]));
        index.add_chunks(one, [chunk].iter()).unwrap();
        index.add_chunks(two, [chunk].iter()).unwrap();
        let find = |usable: &dyn Fn(PayloadId) -> bool| index.find(chunk.id, usable).unwrap().map(|p| p.payload);
        assert_eq!(find(&|_| true), Some(one));
        index.remove(one, &[chunk]).unwrap();
        assert_eq!(find(&|_| true), Some(two));
        assert_eq!(find(&|id| id != two), None);
        assert_eq!(find(&|_| true), None, "an entry of a payload that is gone is removed when it is met");
    }
}
