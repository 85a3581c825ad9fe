//! The payload store of upswarm: one data file per payload, preallocated and written in place, with a rebuildable index.
//!
//! ```text
//! <dir>/lock                    held by the one process that uses the store
//! <dir>/payloads/<hex>.data     the payload itself; when every chunk is there, this file is the payload
//! <dir>/payloads/<hex>.list     its chunk list | BLAKE3 of that 32 | born u64, which the record names too
//! <dir>/index/                  sled: which chunks are there, and where each chunk can be found
//! <dir>/index.spare             room that is given up when the disk is full
//! <dir>/index.attempts          there while the index is being opened: a byte per attempt that has not come back
//! <dir>/index.damaged-<n>/      an index that did not open; at most two are kept
//! ```
//!
//! Data is durable before the bit that says so. After an abrupt stop, the chunks that were written but not yet noted are
//! hashed again and kept. Losing the index loses nothing but time: it is rebuilt from the files beside it.
//!
//! Everything here is synchronous: call it from threads that may block.

mod admit;
pub mod chunker;
mod error;
mod evict;
#[cfg(test)]
mod failing_disk;
pub mod fence;
mod files;
mod index;
mod os;
mod payload;
mod ranges;
mod recover;
mod scrub;
mod store;

pub use admit::ImportError;
pub use error::{StoreError, WriteError};
pub use scrub::{Scrub, ScrubReport};
pub use store::{Loss, MAX_READ, Opened, PayloadInfo, Store, StoreConfig, Usage};
