//! Why the store could not do something.

use std::io;
use std::path::PathBuf;

use upswarm_protocol::ids::{ChunkId, PayloadId};

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses this directory.
    #[error("the store {} is in use by another process ({holder}); stop it first, or give each its own directory", dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
        /// What that process wrote into the lock file: its process id.
        holder: String,
    },
    /// No room for a payload, even if everything that may go would go. Nothing was removed.
    #[error(
        "no room for payload {}: it needs {need} bytes; the store holds {used} of its quota of {quota}, the file system has {free} \
         free of which {reserve} are kept in reserve, and eviction could free {evictable}; raise the quota, free disk space, \
         or unpin payloads", payload.short()
    )]
    NoSpace {
        /// The payload that was to be stored.
        payload: PayloadId,
        /// Bytes that it takes on disk.
        need: u64,
        /// Bytes that all payloads take.
        used: u64,
        /// Bytes that they may take.
        quota: u64,
        /// Bytes free on the file system.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
        /// Bytes of payloads that are neither pinned nor being written.
        evictable: u64,
    },
    /// The store does not hold this payload: it was never opened, or has been removed.
    #[error("payload {} is not in the store; open it first", .0.short())]
    Unknown(PayloadId),
    /// A chunk that was asked for is not there (yet).
    #[error("chunk {position} of payload {} is not there", payload.short())]
    Missing {
        /// The payload.
        payload: PayloadId,
        /// The first of the chunks that is missing.
        position: u32,
    },
    /// A chunk on disk is not what it was, or cannot be read: it counts as missing now.
    #[error("chunk {position} of payload {} has rotted on disk; it is missing now", payload.short())]
    Rotten {
        /// The payload.
        payload: PayloadId,
        /// The first of the chunks that have.
        position: u32,
    },
    /// More bytes than one read gives: [`crate::MAX_READ`].
    #[error("a read of {0} bytes at once; ask for fewer chunks")]
    TooMuch(u64),
    /// An empty payload has nothing to store.
    #[error("payload {} has no chunks; an empty payload cannot be stored", .0.short())]
    Empty(PayloadId),
    /// The store holds the whole payload, and this chunk list does not describe it.
    #[error("the chunk list given for payload {} does not describe the complete payload on disk; the release is wrong", .0.short())]
    OtherList(PayloadId),
    /// The disk or the file system failed.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The index failed. The next [`crate::Store::flush`] opens it anew, and rebuilds it if it is damaged.
    #[error("the index {}: {cause}; it is opened anew, and rebuilt if need be, at the next flush", path.display())]
    Index {
        /// Its directory.
        path: PathBuf,
        /// The cause.
        cause: String,
    },
}

/// Why a chunk was not written. Nothing of it is on disk that a bit speaks for.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Other bytes than the chunk list names: who sent them lies, or the transport is broken.
    #[error("{len} bytes for chunk {position} of payload {} have the hash {found}, the chunk list says {expected}", payload.short())]
    WrongHash {
        /// The payload.
        payload: PayloadId,
        /// The chunk's position.
        position: u32,
        /// The hash in the chunk list.
        expected: ChunkId,
        /// The hash of the bytes.
        found: ChunkId,
        /// How many bytes were given.
        len: usize,
    },
    /// The payload has fewer chunks.
    #[error("payload {} has no chunk {position}", payload.short())]
    NoSuchChunk {
        /// The payload.
        payload: PayloadId,
        /// The position that was given.
        position: u32,
    },
    /// [`crate::Store::open_payload`] was not called since the store was opened, or the payload has been removed since.
    #[error("payload {} is not open for writing; open it again", .0.short())]
    NotOpen(PayloadId),
    /// The disk, the file system or the index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    /// The error of a file operation.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { doing, path: path.into(), source: source.into() }
    }
}
