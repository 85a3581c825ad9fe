//! Cuts a file into content-defined chunks: FastCDC, normalization level 1 (Xia et al., "The Design of Fast
//! Content-Defined Chunking for Data Deduplication Based Storage Systems", 2020).
//!
//! Only who publishes a payload cuts it; everyone else follows the signed list.

use std::io::{self, Read};

use fastcdc::v2020::{self, Normalization};
use sha2::{Digest, Sha256};
use upswarm_protocol::chunk::{ChunkList, ChunkListError, ChunkSizes, MAX_CHUNK, MAX_CHUNKS};
use upswarm_protocol::ids::{ChunkId, PayloadId};

/// The buffer is at least this large, so that small chunks do not mean small reads.
const MIN_BUFFER: usize = 4 << 20;

/// A file's chunks and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkedFile {
    /// BLAKE3 of the whole.
    pub id: PayloadId,
    /// SHA-256 of the whole, for client formats that want it.
    pub sha256: [u8; 32],
    /// Its chunks.
    pub list: ChunkList,
}

/// Why a file was not cut.
#[derive(Debug, thiserror::Error)]
pub enum ChunkerError {
    /// There is nothing to distribute.
    #[error("the file is empty; an empty payload cannot be released")]
    Empty,
    /// Sizes that the algorithm cannot work with.
    #[error("chunk sizes {0:?}: {1}")]
    Sizes(ChunkSizes, &'static str),
    /// More chunks than a list may have.
    #[error("{0}; cut this file with a larger average")]
    TooMany(ChunkListError),
    /// The file could not be read.
    #[error("reading the file to be cut: {0}")]
    Read(#[from] io::Error),
}

/// Cuts what `reader` gives, to its end. Memory is bounded by twice the largest chunk (at least 4 MiB) plus 84 bytes per
/// chunk, whatever the length.
pub fn chunk_file(mut reader: impl Read, sizes: ChunkSizes) -> Result<ChunkedFile, ChunkerError> {
    let cutter = Cutter::new(sizes)?;
    let mut buffer = vec![0; MIN_BUFFER.max(2 * sizes.max as usize)];
    let (mut start, mut end, mut finished) = (0, 0, false);
    let (mut whole, mut sha256) = (blake3::Hasher::new(), Sha256::new());
    let mut pieces: Vec<(ChunkId, u32)> = Vec::new();
    loop {
        // A cut depends on the next `max` bytes and nothing else, unless the file ends within them.
        if end - start < sizes.max as usize && !finished {
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            while end < buffer.len() && !finished {
                match reader.read(&mut buffer[end..]) {
                    Ok(0) => finished = true,
                    Ok(count) => {
                        whole.update(&buffer[end..end + count]);
                        sha256.update(&buffer[end..end + count]);
                        end += count;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if start == end {
            break;
        }
        let len = cutter.cut(&buffer[start..end]);
        pieces.push((ChunkId::of(&buffer[start..start + len]), len as u32));
        start += len;
        if pieces.len() > MAX_CHUNKS {
            break;
        }
    }
    if pieces.is_empty() {
        return Err(ChunkerError::Empty);
    }
    let list = ChunkList::new(sizes, pieces).map_err(ChunkerError::TooMany)?;
    Ok(ChunkedFile { id: PayloadId(*whole.finalize().as_bytes()), sha256: sha256.finalize().into(), list })
}

struct Cutter {
    sizes: ChunkSizes,
    strict: u64,
    relaxed: u64,
}

impl Cutter {
    fn new(sizes: ChunkSizes) -> Result<Self, ChunkerError> {
        let ChunkSizes { min, average, max } = sizes;
        let refuse = |why| Err(ChunkerError::Sizes(sizes, why));
        if min % 2 != 0 || average % 2 != 0 || max % 2 != 0 {
            return refuse("they must be even");
        }
        if min < 64 || average < 256 || max < 1024 {
            return refuse("they must be at least 64, 256 and 1024 bytes");
        }
        if min > average || average > max || max > MAX_CHUNK {
            return refuse("they must rise from min to average to max, and max may be at most 4 MiB");
        }
        let (strict, relaxed) = v2020::select_masks(average as usize, Normalization::Level1);
        Ok(Self { sizes, strict, relaxed })
    }

    /// Bytes of the first chunk of `source`, which is not empty.
    fn cut(&self, source: &[u8]) -> usize {
        let ChunkSizes { min, average, max } = self.sizes;
        let (strict, relaxed) = (self.strict, self.relaxed);
        let (min, average, max) = (min as usize, average as usize, max as usize);
        v2020::cut(source, min, average, max, strict, relaxed, strict << 1, relaxed << 1).1
    }
}
