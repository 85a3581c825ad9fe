//! Chunk lists and availability bitmaps.
//!
//! A chunk list is a document of its own, pinned by hash from the signed release:
//!
//! ```text
//! magic "UPCL" | version u8 = 1 | zero 3 | min u32 | average u32 | max u32 | payload length u64 | chunks u32 | (BLAKE3 32 | length u32)*
//! ```
//! Integers are little-endian. The chunks cover the payload without gaps, in order.

use core::ops::Range;

use crate::ids::{ChunkId, DocHash};

const MAGIC: [u8; 4] = *b"UPCL";
const HEADER: usize = 32;
const ENTRY: usize = 36;

/// The most bytes that a chunk list may have (about 233,000 chunks).
pub const MAX_LIST: usize = 8 << 20;
/// The most bytes that one chunk may have.
pub const MAX_CHUNK: u32 = 4 << 20;
/// The most chunks that a payload may have.
pub const MAX_CHUNKS: usize = (MAX_LIST - HEADER) / ENTRY;

/// Sizes that a content-defined chunker aims at, in bytes; a parameter of the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    /// No chunk but the last is smaller.
    pub min: u32,
    /// What most chunks come near.
    pub average: u32,
    /// No chunk is larger; at most [`MAX_CHUNK`].
    pub max: u32,
}

impl Default for ChunkSizes {
    /// 64 KiB, 256 KiB, 1 MiB: a 36-byte entry per 256 KiB, and a bad chunk costs little.
    fn default() -> Self {
        Self { min: 64 << 10, average: 256 << 10, max: 1 << 20 }
    }
}

/// One piece of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// BLAKE3 of its bytes.
    pub id: ChunkId,
    /// Where it begins in the payload.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// Why a chunk list was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkListError {
    /// Other bytes than the release pins.
    #[error("the chunk list has the hash {found}, the release says {expected}")]
    Hash {
        /// The hash in the release.
        expected: DocHash,
        /// The hash of what was given.
        found: DocHash,
    },
    /// Larger than allowed.
    #[error("a chunk list of {0} bytes is more than the {MAX_LIST} that are allowed; use larger chunks")]
    TooLong(usize),
    /// Not a chunk list.
    #[error("not a well-formed chunk list: {0}")]
    Malformed(&'static str),
}

/// The pieces of one payload, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkList {
    sizes: ChunkSizes,
    len: u64,
    chunks: Vec<Chunk>,
}

impl ChunkList {
    /// A list of these pieces: (hash, length in bytes) in order.
    pub fn new(sizes: ChunkSizes, pieces: impl IntoIterator<Item = (ChunkId, u32)>) -> Result<Self, ChunkListError> {
        let mut list = Self { sizes, len: 0, chunks: Vec::new() };
        for (id, len) in pieces {
            if len == 0 || len > sizes.max || len > MAX_CHUNK {
                return Err(ChunkListError::Malformed("a chunk of no bytes, or of more than the maximum"));
            }
            if list.chunks.len() == MAX_CHUNKS {
                return Err(ChunkListError::TooLong(HEADER + (MAX_CHUNKS + 1) * ENTRY));
            }
            list.chunks.push(Chunk { id, offset: list.len, len });
            list.len += u64::from(len);
        }
        Ok(list)
    }

    /// The list that exactly these bytes describe, if they have this hash.
    pub fn parse(bytes: &[u8], expected: DocHash) -> Result<Self, ChunkListError> {
        if bytes.len() > MAX_LIST {
            return Err(ChunkListError::TooLong(bytes.len()));
        }
        let found = DocHash::of(bytes);
        if found != expected {
            return Err(ChunkListError::Hash { expected, found });
        }
        let (header, entries) =
            bytes.split_at_checked(HEADER).ok_or(ChunkListError::Malformed("shorter than its header"))?;
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..4] != MAGIC || header[4] != 1 || header[5..8] != [0; 3] {
            return Err(ChunkListError::Malformed("wrong magic bytes or version"));
        }
        let sizes = ChunkSizes { min: word(8), average: word(12), max: word(16) };
        let len = u64::from(word(20)) | u64::from(word(24)) << 32;
        if entries.len() != word(28) as usize * ENTRY {
            return Err(ChunkListError::Malformed("another number of chunks than announced"));
        }
        let pieces = entries.chunks_exact(ENTRY).map(|entry| {
            let (id, len) = entry.split_at(32);
            let mut hash = [0; 32];
            hash.copy_from_slice(id);
            (ChunkId(hash), u32::from_le_bytes([len[0], len[1], len[2], len[3]]))
        });
        let list = Self::new(sizes, pieces)?;
        if list.len != len {
            return Err(ChunkListError::Malformed("the chunks do not add up to the payload's length"));
        }
        Ok(list)
    }

    /// The bytes that [`ChunkList::parse`] reads; their hash is what a release pins.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.chunks.len() * ENTRY);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[1, 0, 0, 0]);
        for word in [self.sizes.min, self.sizes.average, self.sizes.max] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        for chunk in &self.chunks {
            bytes.extend_from_slice(chunk.id.as_bytes());
            bytes.extend_from_slice(&chunk.len.to_le_bytes());
        }
        bytes
    }

    /// The pieces.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Bytes of the whole payload.
    pub fn payload_len(&self) -> u64 {
        self.len
    }

    /// The sizes it was cut with.
    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }

    /// The bytes of the payload that a run of chunks covers. Panics if the run is not inside the list.
    pub fn byte_range(&self, run: Range<u32>) -> Range<u64> {
        if run.is_empty() {
            return 0..0;
        }
        let (first, last) = (&self.chunks[run.start as usize], &self.chunks[run.end as usize - 1]);
        first.offset..last.offset + u64::from(last.len)
    }
}

/// Which chunks of a payload are there: one bit per chunk, bit 0 of byte 0 first, spare bits zero.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bitmap {
    bits: Vec<u8>,
    len: u32,
    ones: u32,
}

impl Bitmap {
    /// No chunk of `len` is there.
    pub fn new(len: u32) -> Self {
        Self { bits: vec![0; len.div_ceil(8) as usize], len, ones: 0 }
    }

    /// Every chunk of `len` is there.
    pub fn full(len: u32) -> Self {
        let mut map = Self::new(len);
        (0..len).for_each(|at| {
            map.set(at);
        });
        map
    }

    /// The bitmap of `len` chunks in these bytes; `None` when their number is wrong or a spare bit is set.
    pub fn from_bytes(bytes: &[u8], len: u32) -> Option<Self> {
        if bytes.len() != len.div_ceil(8) as usize {
            return None;
        }
        if !len.is_multiple_of(8) && bytes.last().is_some_and(|last| last >> (len % 8) != 0) {
            return None;
        }
        let ones = bytes.iter().map(|byte| byte.count_ones()).sum();
        Some(Self { bits: bytes.to_vec(), len, ones })
    }

    /// The bytes, for [`Bitmap::from_bytes`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// Number of chunks, there or not.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no chunk to speak of.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of chunks that are there.
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// Whether every chunk is there.
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// Whether a chunk is there; one past the end is not.
    pub fn get(&self, at: u32) -> bool {
        at < self.len && self.bits[at as usize / 8] >> (at % 8) & 1 == 1
    }

    /// Notes that a chunk is there. Returns whether that is news; one past the end is ignored.
    pub fn set(&mut self, at: u32) -> bool {
        let news = at < self.len && !self.get(at);
        if news {
            self.bits[at as usize / 8] |= 1 << (at % 8);
            self.ones += 1;
        }
        news
    }

    /// Notes that a chunk is not there. Returns whether that is news.
    pub fn clear(&mut self, at: u32) -> bool {
        let news = self.get(at);
        if news {
            self.bits[at as usize / 8] &= !(1 << (at % 8));
            self.ones -= 1;
        }
        news
    }

    /// The chunks that are there, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len).filter(|at| self.get(*at))
    }

    /// The chunks that are not there, in order.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len).filter(|at| !self.get(*at))
    }
}

impl core::fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bitmap({} of {})", self.ones, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> ChunkList {
        let pieces = [(ChunkId([1; 32]), 65536), (ChunkId([2; 32]), 70000), (ChunkId([3; 32]), 1)];
        ChunkList::new(ChunkSizes::default(), pieces).unwrap()
    }

    #[test]
    fn a_list_survives_its_bytes_and_nothing_else_does() {
        let bytes = list().to_bytes();
        let hash = DocHash::of(&bytes);
        assert_eq!(ChunkList::parse(&bytes, hash).unwrap(), list());
        assert_eq!(list().byte_range(1..3), 65536..135537);
        for cut in 0..bytes.len() {
            assert!(ChunkList::parse(&bytes[..cut], DocHash::of(&bytes[..cut])).is_err(), "cut at {cut}");
        }
        let mut other = bytes.clone();
        other[40] ^= 1;
        assert!(matches!(ChunkList::parse(&other, hash), Err(ChunkListError::Hash { .. })));
    }

    #[test]
    fn bitmaps_count_what_they_hold() {
        let mut map = Bitmap::new(11);
        assert!(map.set(10) && !map.set(10) && !map.set(11));
        assert_eq!((map.count(), map.get(10), map.get(9)), (1, true, false));
        assert_eq!(Bitmap::from_bytes(map.as_bytes(), 11).unwrap(), map);
        assert!(Bitmap::from_bytes(&[0, 0x08], 11).is_none(), "a spare bit");
        assert!(Bitmap::full(11).is_full());
        assert!(map.clear(10) && map.count() == 0);
        assert_eq!(map.missing().count(), 11);
    }
}
