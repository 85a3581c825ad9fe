//! The files of the store: data, chunk lists, and the lock. Knows paths and system calls, nothing of bitmaps.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use upswarm_protocol::chunk::{ChunkList, MAX_LIST};
use upswarm_protocol::ids::{DocHash, PayloadId};

use crate::error::StoreError;
use crate::os;

const BLOCK: u64 = 4096;
const TRAILER: usize = 40;

/// Names one stay of a payload in the store. Removed and stored again, it is another one, of which an old record says
/// nothing. Stands behind the chunk list, and in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation {
    /// Of the chunk list.
    pub(crate) list: DocHash,
    /// The store's clock when it came.
    pub(crate) born: u64,
}

impl Generation {
    fn parse(bytes: &[u8; TRAILER]) -> Self {
        let (mut list, mut born) = ([0; 32], [0; 8]);
        list.copy_from_slice(&bytes[..32]);
        born.copy_from_slice(&bytes[32..]);
        Self { list: DocHash(list), born: u64::from_le_bytes(born) }
    }
}

/// Bytes on disk of a payload of `len` bytes whose chunk list has `list` bytes, in whole blocks.
pub(crate) fn on_disk(len: u64, list: u64) -> u64 {
    let blocks = |bytes: u64| bytes.div_ceil(BLOCK).saturating_mul(BLOCK);
    blocks(len).saturating_add(blocks(list.saturating_add(TRAILER as u64)))
}

/// What lies on disk of one payload.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found {
    /// Bytes of the data file.
    pub(crate) data: Option<u64>,
    /// Bytes of the chunk list, without what stands behind it.
    pub(crate) list: Option<u64>,
}

/// The directory of the store, locked against other processes.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    payloads: PathBuf,
    /// For its lock, and for asking about free space.
    lock: File,
}

impl Files {
    /// Makes and locks the directory.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let payloads = dir.join("payloads");
        fs::create_dir_all(&payloads).map_err(|error| StoreError::io("making the directory", &payloads, error))?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        let mut lock = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| StoreError::io("opening the lock file", &path, error))?;
        match os::lock(&lock) {
            Ok(true) => {}
            Ok(false) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let holder = holder.chars().take(32).collect::<String>().trim().to_owned();
                return Err(StoreError::Locked { dir: dir.to_owned(), holder });
            }
            Err(error) => return Err(StoreError::io("locking", &path, error)),
        }
        // What it says only serves the other process's error message; a full disk must not keep the store shut.
        if let Err(error) = lock.set_len(0).and_then(|()| writeln!(lock, "process {}", std::process::id())) {
            tracing::debug!(path = %path.display(), %error, "the lock file does not name this process");
        }
        Ok(Self { dir: dir.to_owned(), payloads, lock })
    }

    /// The directory of the store.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a payload's bytes are.
    pub(crate) fn data_path(&self, id: PayloadId) -> PathBuf {
        self.payloads.join(format!("{id}.data"))
    }

    fn list_path(&self, id: PayloadId) -> PathBuf {
        self.payloads.join(format!("{id}.list"))
    }

    /// Bytes that this user may still write on the file system.
    pub(crate) fn free(&self) -> Result<u64, StoreError> {
        os::free(&self.lock).map_err(|error| StoreError::io("asking for the free space of", &self.dir, error))
    }

    /// Every payload with a file here. Left-over temporary files are removed, other names left alone.
    pub(crate) fn scan(&self) -> Result<BTreeMap<PayloadId, Found>, StoreError> {
        let fail = |error| StoreError::io("listing", &self.payloads, error);
        let mut all: BTreeMap<PayloadId, Found> = BTreeMap::new();
        for entry in fs::read_dir(&self.payloads).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            let Some((stem, kind)) = name.to_str().and_then(|name| name.rsplit_once('.')) else { continue };
            if kind == "new" {
                fs::remove_file(entry.path()).map_err(|error| StoreError::io("removing", entry.path(), error))?;
                continue;
            }
            let Ok(id) = stem.parse::<PayloadId>() else { continue };
            let len = entry.metadata().map_err(fail)?.len();
            match kind {
                "data" => all.entry(id).or_default().data = Some(len),
                "list" => all.entry(id).or_default().list = Some(len.saturating_sub(TRAILER as u64)),
                _ => {}
            }
        }
        Ok(all)
    }

    /// Makes a data file of `len` bytes with all its room taken from the disk. An older file of this name is replaced.
    pub(crate) fn create_data(&self, id: PayloadId, len: u64) -> Result<File, StoreError> {
        let path = self.data_path(id);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|error| StoreError::io("making", &path, error))?;
        match os::take_room(&file, len) {
            Ok(true) => Ok(file),
            // Not every file system can: then writing may find the disk full.
            Ok(false) => match file.set_len(len) {
                Ok(()) => Ok(file),
                Err(error) => Err(StoreError::io("extending", &path, error)),
            },
            Err(error) => Err(StoreError::io("taking room for", &path, error)),
        }
    }

    /// Opens a data file.
    pub(crate) fn open_data(&self, id: PayloadId) -> Result<File, StoreError> {
        let path = self.data_path(id);
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        opened.map_err(|error| StoreError::io("opening", &path, error))
    }

    /// Puts a chunk list beside its data file: there whole, or not at all.
    pub(crate) fn write_list(&self, id: PayloadId, bytes: &[u8], stay: Generation) -> Result<(), StoreError> {
        let (path, new) = (self.list_path(id), self.payloads.join(format!("{id}.new")));
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(bytes)?;
            file.write_all(stay.list.as_bytes())?;
            file.write_all(&stay.born.to_le_bytes())?;
            os::sync_all(&file)?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| StoreError::io("writing", &path, error))
    }

    /// Makes new and removed names durable.
    pub(crate) fn sync_names(&self) -> Result<(), StoreError> {
        os::sync_names(&self.payloads).map_err(|error| StoreError::io("syncing", &self.payloads, error))
    }

    /// What stands behind a chunk list.
    pub(crate) fn stay(&self, id: PayloadId) -> Result<Generation, StoreError> {
        let path = self.list_path(id);
        let read = || -> io::Result<Generation> {
            let file = File::open(&path)?;
            let at = file.metadata()?.len().checked_sub(TRAILER as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut trailer = [0; TRAILER];
            os::read_at(&file, at, &mut trailer)?;
            Ok(Generation::parse(&trailer))
        };
        read().map_err(|error| StoreError::io("reading", &path, error))
    }

    /// The chunk list beside a data file. A damaged one is an error of kind `InvalidData`.
    pub(crate) fn read_list(&self, id: PayloadId) -> Result<(ChunkList, Generation), StoreError> {
        let path = self.list_path(id);
        let read = || -> io::Result<(ChunkList, Generation)> {
            let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
            if fs::metadata(&path)?.len() > (MAX_LIST + TRAILER) as u64 {
                return Err(invalid("longer than a chunk list may be".to_owned()));
            }
            let bytes = fs::read(&path)?;
            let (list, trailer) = bytes.split_last_chunk().ok_or_else(|| invalid("cut short".to_owned()))?;
            let stay = Generation::parse(trailer);
            ChunkList::parse(list, stay.list).map(|list| (list, stay)).map_err(|error| invalid(error.to_string()))
        };
        read().map_err(|error| StoreError::io("reading", &path, error))
    }

    /// Removes both files of a payload; a name that is gone already is no error.
    pub(crate) fn remove(&self, id: PayloadId) -> Result<(), StoreError> {
        // The list goes first: a data file alone is never taken for a payload.
        for path in [self.list_path(id), self.data_path(id)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("removing", path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
