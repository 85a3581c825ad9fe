//! How payloads come into the store and leave it: opening, making room, reusing what is on disk, removing.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use upswarm_protocol::chunk::{Bitmap, ChunkList, ChunkSizes};
use upswarm_protocol::ids::{ChunkId, DocHash, PayloadId};

use crate::chunker::{self, ChunkedFile, ChunkerError};
use crate::error::{StoreError, WriteError};
use crate::evict::{self, Candidate, Room};
use crate::files::{self, Generation};
use crate::index::Record;
use crate::os;
use crate::payload::{Body, Payload, lock};
use crate::store::{Opened, Store};

/// An incomplete payload that was used so recently, in milliseconds, counts as being written: it waits for its next chunk.
const WAITS_FOR_CHUNKS: u64 = 60_000;
/// The caller takes these every second or so; more than this many at once are no news for anybody.
const MAX_EVICTED: usize = 64 << 10;

/// Why a file was not put into the store.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It could not be cut into chunks.
    #[error(transparent)]
    Chunker(#[from] ChunkerError),
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Between hashing and copying, somebody wrote to it.
    #[error("{0} changed while it was being read; try again when nobody writes to it")]
    Changed(String),
}

impl Store {
    /// Readies a payload for writing: takes its room on disk, evicting others if need be, or finds what is there already.
    /// Then fills in the chunks that other payloads on this disk hold. Opening it again is cheap and changes nothing.
    ///
    /// `list` must be the one that a verified release pins for `id`: what it says is taken for the payload. `pin` keeps it
    /// from eviction; without it, a pin it has stays ([`Store::pin`] removes it).
    ///
    /// [`StoreError::NoSpace`] means that nothing was removed.
    pub fn open_payload(&self, id: PayloadId, list: &Arc<ChunkList>, pin: bool) -> Result<Opened, StoreError> {
        if list.payload_len() == 0 {
            return Err(StoreError::Empty(id));
        }
        let bytes = list.to_bytes();
        let hash = DocHash::of(&bytes);
        let other_cut = self.same_payload_cut_otherwise(id, list, hash)?;
        let payload = {
            let _layout = lock(&self.layout);
            match self.payload(id) {
                Some(payload) if payload.stay.list == hash => self.reopen(payload, list, &bytes, pin)?,
                Some(old) if other_cut.as_ref().is_some_and(|checked| Arc::ptr_eq(checked, &old)) => {
                    self.replace_list(&old, list, &bytes, hash, pin)?
                }
                old => {
                    // Incomplete under another list: its chunks are of no use to this one.
                    if let Some(old) = old {
                        self.discard(&old)?;
                    }
                    self.create(id, list, &bytes, hash, pin)?
                }
            }
        };
        lock(&self.evicted).remove(&id);
        let reused = self.reuse(&payload)?;
        let have = payload.state().have.clone();
        Ok(Opened { have, reused })
    }

    /// Removes a payload, pinned or not. One that is not there is no error.
    pub fn remove(&self, id: PayloadId) -> Result<(), StoreError> {
        let _layout = lock(&self.layout);
        self.payload(id).map_or(Ok(()), |payload| self.discard(&payload))
    }

    /// Cuts a file and puts it into the store, complete, durable and pinned. Reads it twice.
    pub fn import_file(&self, path: &Path, sizes: ChunkSizes) -> Result<ChunkedFile, ImportError> {
        let open = || File::open(path).map_err(|error| StoreError::io("opening", path, error));
        let cut = chunker::chunk_file(open()?, sizes)?;
        let list = Arc::new(cut.list.clone());
        let opened = self.open_payload(cut.id, &list, true)?;
        let file = open()?;
        let mut buffer = Vec::new();
        for position in opened.have.missing() {
            let chunk = list.chunks()[position as usize];
            buffer.resize(chunk.len as usize, 0);
            os::read_at(&file, chunk.offset, &mut buffer).map_err(|error| StoreError::io("reading", path, error))?;
            self.write_chunk(cut.id, position, &buffer).map_err(|error| match error {
                WriteError::Store(error) => ImportError::Store(error),
                _ => ImportError::Changed(path.display().to_string()),
            })?;
        }
        self.flush()?;
        // Another thread's flush may have met the failure.
        match self.have(cut.id).and_then(|have| have.missing().next()) {
            Some(position) => Err(StoreError::Missing { payload: cut.id, position }.into()),
            None => Ok(cut),
        }
    }

    /// A complete payload that the store holds under another list, if this list describes its bytes too.
    fn same_payload_cut_otherwise(
        &self,
        id: PayloadId,
        list: &Arc<ChunkList>,
        hash: DocHash,
    ) -> Result<Option<Arc<Payload>>, StoreError> {
        let Some(payload) = self.payload(id) else { return Ok(None) };
        if payload.stay.list == hash || !payload.state().have.is_full() {
            return Ok(None);
        }
        let body = Body::new(self.files.open_data(id)?, list.clone());
        let mut buffer = Vec::new();
        if list.payload_len() == payload.len && list.chunks().iter().all(|chunk| body.is_good(chunk, &mut buffer)) {
            Ok(Some(payload))
        } else {
            Err(StoreError::OtherList(id))
        }
    }

    fn reopen(
        &self,
        payload: Arc<Payload>,
        list: &Arc<ChunkList>,
        bytes: &[u8],
        pin: bool,
    ) -> Result<Arc<Payload>, StoreError> {
        if payload.body().is_none() {
            // The list on disk may have rotted; this one is right.
            if self.files.read_list(payload.id).is_err() {
                self.files.write_list(payload.id, bytes, payload.stay)?;
                self.files.sync_names()?;
            }
            let body = Body::new(self.files.open_data(payload.id)?, list.clone());
            self.keep_body(&payload, body);
        }
        if pin {
            self.pin(payload.id, true)?;
        }
        self.touch(&payload);
        let ready = {
            let state = payload.state();
            state.writable || state.have.is_full()
        };
        if !ready {
            let body = self.body(&payload)?;
            self.mend(&payload, &body)?;
            self.make_writable(&payload)?;
        }
        Ok(payload)
    }

    /// Puts a new list beside the data of a complete payload.
    fn replace_list(
        &self,
        old: &Arc<Payload>,
        list: &Arc<ChunkList>,
        bytes: &[u8],
        hash: DocHash,
        pin: bool,
    ) -> Result<Arc<Payload>, StoreError> {
        self.flush()?;
        let old_body = self.body(old)?;
        let file = self.files.open_data(old.id)?;
        // If this is the last that is done, the next start finds a list that the record does not name, and hashes all.
        let stay = Generation { list: hash, born: self.tick() };
        self.files.write_list(old.id, bytes, stay)?;
        self.files.sync_names()?;
        let pinned = {
            let mut state = old.state();
            state.removed = true;
            state.pinned
        };
        self.drop_body(old);
        let have = Bitmap::full(list.chunks().len() as u32);
        let last_used = self.tick();
        let record = Record { pinned: pin || pinned, writing: false, last_used, len: old.len, stay, have };
        let on_disk = files::on_disk(old.len, bytes.len() as u64);
        let payload = Arc::new(Payload::new(old.id, record, on_disk));
        {
            let mut holdings = lock(&self.holdings);
            holdings.used = holdings.used.saturating_sub(old.on_disk).saturating_add(on_disk);
            holdings.payloads.insert(old.id, payload.clone());
        }
        self.keep_body(&payload, Body::new(file, list.clone()));
        self.forget(old, old_body.list.chunks())?;
        self.index.add_chunks(old.id, list.chunks().iter())?;
        self.put_record(&payload)?;
        self.index.flush()?;
        Ok(payload)
    }

    fn create(
        &self,
        id: PayloadId,
        list: &Arc<ChunkList>,
        bytes: &[u8],
        hash: DocHash,
        pin: bool,
    ) -> Result<Arc<Payload>, StoreError> {
        let len = list.payload_len();
        let need = files::on_disk(len, bytes.len() as u64);
        self.make_room(id, need, None)?;
        let stay = Generation { list: hash, born: self.tick() };
        let made = self.make_files(id, len, bytes, stay);
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                self.files.remove(id)?;
                if !is_full(&error) {
                    return Err(error);
                }
                // The file system has less than it says (a disk quota, or others were faster): free as much as is needed.
                self.make_room(id, need, Some(self.config.reserve))?;
                self.make_files(id, len, bytes, stay).map_err(|error| {
                    self.files
                        .remove(id)
                        .err()
                        .unwrap_or_else(|| if is_full(&error) { self.no_space(id, need, 0, 0) } else { error })
                })?
            }
        };
        let have = Bitmap::new(list.chunks().len() as u32);
        let record = Record { pinned: pin, writing: false, last_used: stay.born, len, stay, have };
        let payload = Arc::new(Payload::new(id, record, need));
        if let Err(error) = self.make_new_writable(&payload) {
            self.files.remove(id)?;
            return Err(if is_full(&error) { self.no_space(id, need, 0, 0) } else { error });
        }
        {
            let mut holdings = lock(&self.holdings);
            holdings.used = holdings.used.saturating_add(need);
            holdings.payloads.insert(id, payload.clone());
        }
        self.keep_body(&payload, Body::new(file, list.clone()));
        Ok(payload)
    }

    fn make_files(&self, id: PayloadId, len: u64, list: &[u8], stay: Generation) -> Result<File, StoreError> {
        let file = self.files.create_data(id, len)?;
        self.files.write_list(id, list, stay)?;
        self.files.sync_names()?;
        Ok(file)
    }

    /// Removes what must go for `need` bytes to fit: all of it, or nothing. `free` overrides what the file system says.
    fn make_room(&self, id: PayloadId, need: u64, free: Option<u64>) -> Result<(), StoreError> {
        let free = free.map_or_else(|| self.files.free(), Ok)?;
        let now = self.tick();
        let (payloads, used): (Vec<Arc<Payload>>, u64) = {
            let holdings = lock(&self.holdings);
            (holdings.payloads.values().cloned().collect(), holdings.used)
        };
        let room = Room { quota: self.config.quota, used, free, reserve: self.config.reserve };
        let candidates = payloads.iter().map(|payload| candidate(payload, now));
        let leaving = evict::plan(room, need, candidates).map_err(|freed| self.no_space(id, need, free, freed))?;
        for leaving in leaving {
            let Some(payload) = self.payload(leaving) else { continue };
            {
                let mut evicted = lock(&self.evicted);
                evicted.insert(leaving);
                if evicted.len() > MAX_EVICTED {
                    evicted.pop_first();
                }
            }
            self.discard(&payload)?;
        }
        Ok(())
    }

    /// Removes a payload. The layout lock is held. Whoever reads from it just now still can.
    fn discard(&self, payload: &Arc<Payload>) -> Result<(), StoreError> {
        // Without its list, entries of the chunk index are left behind; they are removed when they are met.
        let body = self.body(payload).ok();
        payload.state().removed = true;
        self.drop_body(payload);
        {
            let mut holdings = lock(&self.holdings);
            if holdings.payloads.remove(&payload.id).is_some() {
                holdings.used = holdings.used.saturating_sub(payload.on_disk);
            }
        }
        // A record without files is dropped at the next start.
        if let Err(error) = self.forget(payload, body.as_ref().map_or(&[], |body| body.list.chunks())) {
            tracing::debug!(payload = %payload.id, %error, "the index still knows a removed payload");
        }
        self.files.remove(payload.id)
    }

    /// Copies missing chunks from other payloads, or from other places of this one. Returns the bytes that were written.
    fn reuse(&self, payload: &Arc<Payload>) -> Result<u64, StoreError> {
        let missing: Vec<u32> = payload.state().have.missing().collect();
        if missing.is_empty() {
            return Ok(0);
        }
        let body = self.body(payload)?;
        let (mut reused, mut buffer) = (0, Vec::new());
        for position in missing {
            let Some(chunk) = body.chunk(position) else { break };
            if payload.state().have.get(position) {
                continue;
            }
            let found = match self.index.find(chunk.id, |id| self.payload(id).is_some()) {
                Ok(found) => found,
                // Reuse is a saving, not a duty.
                Err(error) => {
                    self.notice(format!("no more chunks are reused for payload {}: {error}", payload.id.short()));
                    break;
                }
            };
            let Some(place) = found.filter(|place| place.len == chunk.len) else { continue };
            let Some(source) = self.payload(place.payload).and_then(|source| self.body(&source).ok()) else { continue };
            buffer.resize(chunk.len as usize, 0);
            if os::read_at(&source.file, place.offset, &mut buffer).is_err() || ChunkId::of(&buffer) != chunk.id {
                continue;
            }
            match self.place(payload, &body, position, &buffer) {
                Ok(positions) => reused += positions.len() as u64 * u64::from(chunk.len),
                Err(WriteError::Store(error)) => return Err(error),
                Err(_) => return Err(StoreError::Unknown(payload.id)),
            }
        }
        Ok(reused)
    }

    fn no_space(&self, payload: PayloadId, need: u64, free: u64, evictable: u64) -> StoreError {
        let used = lock(&self.holdings).used;
        let (quota, reserve) = (self.config.quota, self.config.reserve);
        StoreError::NoSpace { payload, need, used, quota, free, reserve, evictable }
    }
}

fn candidate(payload: &Arc<Payload>, now: u64) -> Candidate {
    let last_used = payload.last_used.load(Ordering::Relaxed);
    let state = payload.state();
    let waits = state.writable && !state.have.is_full() && now.saturating_sub(last_used) < WAITS_FOR_CHUNKS;
    let written = state.writers > 0 || state.have != state.synced || waits;
    Candidate { id: payload.id, bytes: payload.on_disk, last_used, keep: state.pinned || written }
}

fn is_full(error: &StoreError) -> bool {
    let StoreError::Io { source, .. } = error else { return false };
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
