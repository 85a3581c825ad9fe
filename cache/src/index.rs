//! The sled index: a small record per payload, and where each chunk can be found. The only module that names sled.
//!
//! ```text
//! tree "payloads"  key: payload 32   value: version u8 = 1 | flags u8 (1 pinned, 2 being written) | last used u64
//!                                           | payload length u64 | chunk list hash 32 | chunks u32 | bitmap
//! tree "chunks"    key: chunk 32 | payload 32   value: version u8 = 1 | offset u64 | length u32
//! ```
//! Integers are little-endian. A chunk that several payloads hold has an entry for each, so that none is lost when one
//! of them is removed, and no entry is ever read to be written.
//!
//! sled can panic on damaged files, so every call is fenced. Nothing here is durable before [`Index::flush`].

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use upswarm_protocol::chunk::{Bitmap, Chunk, MAX_CHUNKS};
use upswarm_protocol::ids::{ChunkId, DocHash, PayloadId};

use crate::error::StoreError;

const VERSION: u8 = 1;
const PINNED: u8 = 1;
const WRITING: u8 = 2;
const RECORD: usize = 54;
const PLACE: usize = 13;
/// A batch takes memory until it is applied.
const BATCH: usize = 4096;
/// Damaged indexes that are kept for whoever wants to look into it.
const KEEP_DAMAGED: usize = 2;
/// Opening that never came back so many times in a row is taken for damage.
const MAX_ATTEMPTS: usize = 3;

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
    /// Of its chunk list.
    pub(crate) list: DocHash,
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
        bytes.extend_from_slice(self.list.as_bytes());
        bytes.extend_from_slice(&self.have.len().to_le_bytes());
        bytes.extend_from_slice(self.have.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, flags], rest) = bytes.split_first_chunk()?;
        let (last_used, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (list, rest) = rest.split_first_chunk()?;
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
            list: DocHash(*list),
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
    db: sled::Db,
    payloads: sled::Tree,
    chunks: sled::Tree,
    path: PathBuf,
    attempts: PathBuf,
}

impl Index {
    /// Opens `dir/index`, with at most `cache` bytes of memory for its pages. What does not open is moved aside and an
    /// empty index takes its place. The caller holds the store's lock.
    pub(crate) fn open(dir: &Path, cache: u64) -> Result<OpenedIndex, StoreError> {
        let (path, attempts) = (dir.join("index"), dir.join("index.attempts"));
        let fail = |cause: Failure| StoreError::Index { path: path.clone(), cause: cause.to_string() };
        // A byte per attempt that has not come back: an abort or an endless loop cannot be caught, only remembered.
        let before = fs::read(&attempts).unwrap_or_default().len();
        let first = if before >= MAX_ATTEMPTS {
            Err(Failure::Damaged("it failed while in use, or opening it did not end".to_owned()))
        } else {
            note_attempts(&attempts, before + 1);
            try_open(&path, cache)
        };
        let mut notices = Vec::new();
        let (db, payloads, chunks, records) = match first {
            Ok(opened) => opened,
            Err(Failure::Damaged(cause)) => {
                let aside = move_aside(dir, &path)
                    .map_err(|error| StoreError::io("moving aside the damaged index", &path, error))?;
                notices.push(format!(
                    "the index {} is damaged ({cause}); it was moved to {} and is rebuilt from the data files",
                    path.display(),
                    aside.display()
                ));
                try_open(&path, cache).map_err(fail)?
            }
            Err(cause) => return Err(fail(cause)),
        };
        note_attempts(&attempts, 0);
        Ok(OpenedIndex { index: Self { db, payloads, chunks, path, attempts }, records, notices })
    }

    /// Writes a payload's record.
    pub(crate) fn put(&self, id: PayloadId, record: &Record) -> Result<(), StoreError> {
        self.fenced(|| self.payloads.insert(id.as_bytes(), record.encode()).map(drop))
    }

    /// Removes a payload's record, and the entries of these chunks of it.
    pub(crate) fn remove(&self, id: PayloadId, chunks: &[Chunk]) -> Result<(), StoreError> {
        for some in chunks.chunks(BATCH) {
            let mut batch = sled::Batch::default();
            some.iter().for_each(|chunk| batch.remove(&chunk_key(chunk.id, id)[..]));
            self.fenced(|| self.chunks.apply_batch(batch))?;
        }
        self.fenced(|| self.payloads.remove(id.as_bytes()).map(drop))
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
            self.fenced(|| self.chunks.apply_batch(batch))?;
        }
        Ok(())
    }

    /// A place where a chunk may be found, in a payload that `usable` accepts. Entries of payloads that it refuses are
    /// left-overs of a removal cut short, and are removed.
    pub(crate) fn find(&self, id: ChunkId, usable: impl Fn(PayloadId) -> bool) -> Result<Option<Place>, StoreError> {
        self.fenced(|| {
            for entry in self.chunks.scan_prefix(id.as_bytes()) {
                let (key, value) = entry?;
                match parse_place(&key, &value) {
                    Some(place) if usable(place.payload) => return Ok(Some(place)),
                    _ => drop(self.chunks.remove(key)?),
                }
            }
            Ok(None)
        })
    }

    /// Makes everything so far durable.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.fenced(|| self.db.flush().map(drop))
    }

    /// Runs a sled call. After a failure the next start does not trust the index, since sled itself works no further.
    fn fenced<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        fence(call).map_err(|failure| {
            if matches!(failure, Failure::Damaged(_)) {
                note_attempts(&self.attempts, MAX_ATTEMPTS);
            }
            StoreError::Index { path: self.path.clone(), cause: failure.to_string() }
        })
    }
}

/// Why a sled call failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Its files are not what it wrote.
    #[error("{0}")]
    Damaged(String),
    /// The disk is full, or access is refused: another index would fare no better.
    #[error("{0}")]
    System(io::Error),
}

type Trees = (sled::Db, sled::Tree, sled::Tree, Vec<(PayloadId, Option<Record>)>);

fn try_open(path: &Path, cache: u64) -> Result<Trees, Failure> {
    fence(|| {
        let db = sled::Config::new()
            .path(path)
            .cache_capacity(cache)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None)
            .open()?;
        let (payloads, chunks) = (db.open_tree("payloads")?, db.open_tree("chunks")?);
        let mut records = Vec::new();
        for entry in &payloads {
            let (key, value) = entry?;
            if let Ok(id) = <[u8; 32]>::try_from(&*key) {
                records.push((PayloadId(id), Record::decode(&value)));
            }
        }
        Ok((db, payloads, chunks, records))
    })
}

fn fence<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error)))
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::OutOfMemory
            ) =>
        {
            Err(Failure::System(error))
        }
        Ok(Err(error)) => Err(Failure::Damaged(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Err(Failure::Damaged(format!("it panicked: {}", text.unwrap_or("without a text"))))
        }
    }
}

fn note_attempts(path: &Path, count: usize) {
    let noted = if count == 0 { fs::remove_file(path) } else { fs::write(path, vec![b'x'; count]) };
    if let Err(error) = noted.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
    {
        tracing::warn!(path = %path.display(), %error, "cannot note how often the index was opened");
    }
}

/// Renames the index to `index.damaged-<n>`, and removes all but the newest of these.
fn move_aside(dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut old: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("index.damaged-")).and_then(|n| n.parse().ok());
        old.extend(number.map(|number| (number, entry.path())));
    }
    old.sort();
    let aside = dir.join(format!("index.damaged-{}", old.last().map_or(1, |(last, _)| last.saturating_add(1))));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let surplus = (old.len() + 1).saturating_sub(KEEP_DAMAGED);
    for (_, path) in &old[..surplus.min(old.len())] {
        fs::remove_dir_all(path)?;
    }
    Ok(aside)
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
        let record =
            Record { pinned: true, writing: true, last_used: 0x0102, len: 0x0304, list: DocHash([7; 32]), have };
        let mut golden = vec![1, 3, 2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0];
        golden.extend_from_slice(&[7; 32]);
        golden.extend_from_slice(&[11, 0, 0, 0, 1, 4]);
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
        let record = Record { pinned: false, writing: false, last_used: 1, len: 2, list: DocHash([7; 32]), have };
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

    #[test]
    fn at_most_two_damaged_indexes_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for round in 1..=4 {
            drop(Index::open(dir.path(), 1 << 20).unwrap());
            note_attempts(&dir.path().join("index.attempts"), MAX_ATTEMPTS);
            let notices = Index::open(dir.path(), 1 << 20).unwrap().notices;
            assert_eq!(notices.len(), 1, "round {round}");
        }
        let mut names: Vec<String> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["index", "index.damaged-3", "index.damaged-4"]);
    }
}
