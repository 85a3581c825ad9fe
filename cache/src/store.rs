//! The store: what it holds, reading and writing chunks, and making them durable.
//!
//! Threads share a [`Store`] through an `Arc`. Locks, in the order in which they may be taken together:
//! `layout` (files come or go), `flushing`, `record_order` (records reach the index in the order of the states they
//! describe), then for moments `holdings`, a payload's state, `queue` and the other small ones. Chunk bytes are read,
//! written and synced without any but `flushing`, which no reader or writer takes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use upswarm_protocol::chunk::{Bitmap, Chunk, MAX_CHUNK};
use upswarm_protocol::ids::{ChunkId, PayloadId};
use upswarm_protocol::time::Wall;

use crate::error::{StoreError, WriteError};
use crate::files::Files;
use crate::index::{Index, Record};
use crate::os;
use crate::payload::{Body, Payload, State, lock};
use crate::recover;

/// The most bytes that [`Store::read`] gives at once.
pub const MAX_READ: u64 = 2 * MAX_CHUNK as u64;

/// Payloads whose chunk list and file stay open when nobody uses them, and the most chunks their lists hold together
/// (48 bytes each). One payload alone may have more. Of many small ones that come at once, each is read from disk again for
/// every chunk beyond this; a process may have 1,024 files open, as systems are set up.
const MAX_LOADED: usize = 256;
const MAX_LOADED_CHUNKS: usize = 64 << 10;
/// A last use is written down when the one on disk is so much older, in milliseconds.
const USE_GRAIN: u64 = 600_000;
const MAX_NOTICES: usize = 256;

/// What a store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreConfig {
    /// Bytes that all payloads may take on disk together. Less than the largest payload, and that one is never stored.
    pub quota: u64,
    /// Bytes that stay free on the file system, for others and for the index.
    pub reserve: u64,
    /// Bytes of memory for the index's pages. Less makes opening a payload slower.
    pub index_cache: u64,
}

impl Default for StoreConfig {
    /// 20 GiB, 1 GiB, 4 MiB.
    fn default() -> Self {
        Self { quota: 20 << 30, reserve: 1 << 30, index_cache: 4 << 20 }
    }
}

/// What [`Store::open_payload`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The chunks that are there.
    pub have: Bitmap,
    /// Bytes of them that this call copied from other payloads, or other places of this one.
    pub reused: u64,
}

/// What the store holds, in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Number of payloads, complete or not.
    pub payloads: usize,
    /// What they take on disk, room taken in advance included.
    pub bytes: u64,
    /// What they may take.
    pub quota: u64,
    /// Free on the file system, the reserve included.
    pub free: u64,
}

/// One payload of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadInfo {
    /// Its name.
    pub id: PayloadId,
    /// Its bytes.
    pub len: u64,
    /// Number of its chunks.
    pub chunks: u32,
    /// Number of those that are there.
    pub have: u32,
    /// Whether it is kept from eviction.
    pub pinned: bool,
    /// When it was last opened, read or written; near enough, and always later than an earlier use of any payload.
    pub last_used: Wall,
}

/// What became of a payload that was there: see [`Store::take_lost`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loss {
    /// Chunks that were said to be there and are not, in order.
    pub chunks: Vec<u32>,
    /// Why nothing of it can be written before it is opened again.
    pub failure: Option<String>,
}

/// The payload store of one directory.
pub struct Store {
    pub(crate) files: Files,
    pub(crate) index: Index,
    pub(crate) config: StoreConfig,
    pub(crate) layout: Mutex<()>,
    pub(crate) holdings: Mutex<Holdings>,
    pub(crate) evicted: Mutex<BTreeSet<PayloadId>>,
    record_order: Mutex<()>,
    flushing: Mutex<()>,
    queue: Mutex<BTreeSet<PayloadId>>,
    lost: Mutex<BTreeMap<PayloadId, Loss>>,
    loaded: Mutex<Vec<Arc<Payload>>>,
    notices: Mutex<Vec<String>>,
    clock: AtomicU64,
    /// The index was changed since it was last flushed.
    index_changed: AtomicBool,
}

/// Every payload, and the bytes they take on disk.
#[derive(Default)]
pub(crate) struct Holdings {
    pub(crate) payloads: BTreeMap<PayloadId, Arc<Payload>>,
    pub(crate) used: u64,
}

impl Store {
    /// Opens the store of a directory, which is made if it is not there. After an abrupt stop this hashes what was written
    /// and not yet noted; when the index is damaged, everything. [`Store::notices`] then says so.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, StoreError> {
        let files = Files::open(dir)?;
        let opened = Index::open(dir, config.index_cache)?;
        let mut notices = opened.notices;
        let mut holdings = Holdings::default();
        let mut clock = 0;
        for (id, record, on_disk) in recover::recover(&files, &opened.index, opened.records, &mut notices)? {
            clock = clock.max(record.last_used);
            holdings.used = holdings.used.saturating_add(on_disk);
            holdings.payloads.insert(id, Arc::new(Payload::new(id, record, on_disk)));
        }
        notices.truncate(MAX_NOTICES);
        Ok(Self {
            files,
            index: opened.index,
            config,
            layout: Mutex::default(),
            holdings: Mutex::new(holdings),
            evicted: Mutex::default(),
            record_order: Mutex::default(),
            flushing: Mutex::default(),
            queue: Mutex::default(),
            lost: Mutex::default(),
            loaded: Mutex::default(),
            notices: Mutex::new(notices),
            clock: AtomicU64::new(clock),
            index_changed: AtomicBool::new(false),
        })
    }

    /// Checks a chunk and writes it in place, wherever the payload has these bytes. Returns the positions that are there
    /// now and were not before: none if it was there already. Not durable before [`Store::flush`]; if the process dies
    /// before that, the chunk is hashed again and kept.
    pub fn write_chunk(&self, id: PayloadId, position: u32, bytes: &[u8]) -> Result<Vec<u32>, WriteError> {
        let payload = self.payload(id).ok_or(WriteError::NotOpen(id))?;
        let body = self.body(&payload)?;
        let chunk = *body.chunk(position).ok_or(WriteError::NoSuchChunk { payload: id, position })?;
        if payload.state().have.get(position) {
            return Ok(Vec::new());
        }
        let found = ChunkId::of(bytes);
        if found != chunk.id || bytes.len() != chunk.len as usize {
            let (payload, expected, len) = (id, chunk.id, bytes.len());
            return Err(WriteError::WrongHash { payload, position, expected, found, len });
        }
        self.place(&payload, &body, position, bytes)
    }

    /// The bytes of `count` chunks from `first` on, which must be there; at most [`MAX_READ`] bytes. The chunks were
    /// verified when they came, and are again when they are read for the first time in this run; one that has rotted counts as
    /// missing from then on.
    pub fn read(&self, id: PayloadId, first: u32, count: u32) -> Result<Vec<u8>, StoreError> {
        let payload = self.payload(id).ok_or(StoreError::Unknown(id))?;
        // The body first: if the payload has not been removed after that, the body is of this stay.
        let body = self.body(&payload).inspect_err(|error| self.lose(&payload, &[], Some(error)))?;
        let end = first.saturating_add(count);
        {
            let state = payload.state();
            if state.removed {
                return Err(StoreError::Unknown(id));
            }
            if let Some(position) = (first..end).find(|at| !state.have.get(*at)) {
                return Err(StoreError::Missing { payload: id, position });
            }
        }
        let range = body.list.byte_range(first..end);
        let len = range.end - range.start;
        if len > MAX_READ {
            return Err(StoreError::TooMuch(len));
        }
        let bytes = match os::read_new(&body.file, range.start, len as usize) {
            Ok(bytes) if self.are_good(&payload, &body, first..end, &bytes) => bytes,
            // Which of them is bad shows one by one.
            _ => {
                let mut buffer = Vec::new();
                let is_bad = |at: &u32| body.chunk(*at).is_none_or(|chunk| !body.is_good(chunk, &mut buffer));
                let bad: Vec<u32> = (first..end).filter(is_bad).collect();
                let Some(position) = bad.first().copied() else {
                    return os::read_new(&body.file, range.start, len as usize)
                        .map_err(|error| StoreError::io("reading", self.files.data_path(id), error));
                };
                if let Err(error) = self.disown(&payload, &bad) {
                    self.notice(format!("a chunk that has rotted is not noted as missing: {error}"));
                }
                return Err(StoreError::Rotten { payload: id, position });
            }
        };
        self.touch(&payload);
        Ok(bytes)
    }

    /// Whether bytes that were read have their hashes. Those of chunks that were hashed in this run are not hashed again.
    fn are_good(&self, payload: &Payload, body: &Body, run: Range<u32>, bytes: &[u8]) -> bool {
        let unseen: Vec<u32> = {
            let state = payload.state();
            run.clone().filter(|at| !state.verified.get(*at)).collect()
        };
        let base = body.list.byte_range(run).start;
        let piece = |chunk: &Chunk| bytes.get((chunk.offset - base) as usize..)?.get(..chunk.len as usize);
        let good = |at: &u32| body.chunk(*at).is_some_and(|chunk| piece(chunk).map(ChunkId::of) == Some(chunk.id));
        let good = unseen.iter().all(good);
        if good && !unseen.is_empty() {
            let mut state = payload.state();
            for at in &unseen {
                state.verified.set(*at);
            }
        }
        good
    }

    /// The chunks of a payload that are there; `None` when the store does not hold it.
    pub fn have(&self, id: PayloadId) -> Option<Bitmap> {
        self.payload(id).map(|payload| payload.state().have.clone())
    }

    /// Whether every chunk of a payload is there.
    pub fn is_complete(&self, id: PayloadId) -> bool {
        self.payload(id).is_some_and(|payload| payload.state().have.is_full())
    }

    /// The file that is the payload, when every chunk of it is there. Pin it while the file is in use.
    pub fn path(&self, id: PayloadId) -> Option<PathBuf> {
        let payload = self.payload(id)?;
        let complete = payload.state().have.is_full();
        self.touch(&payload);
        complete.then(|| self.files.data_path(id))
    }

    /// Keeps a payload from eviction, or no longer. Durable with the next [`Store::flush`].
    pub fn pin(&self, id: PayloadId, pinned: bool) -> Result<(), StoreError> {
        let payload = self.payload(id).ok_or(StoreError::Unknown(id))?;
        let mut state = payload.state();
        if state.pinned != pinned {
            state.pinned = pinned;
            self.enqueue(id, &mut state);
        }
        Ok(())
    }

    /// What the store holds, and the room there is.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let free = self.files.free()?;
        let holdings = lock(&self.holdings);
        Ok(Usage { payloads: holdings.payloads.len(), bytes: holdings.used, quota: self.config.quota, free })
    }

    /// Every payload, by name.
    pub fn list(&self) -> Vec<PayloadInfo> {
        let payloads: Vec<Arc<Payload>> = lock(&self.holdings).payloads.values().cloned().collect();
        let info = |payload: &Arc<Payload>| {
            let state = payload.state();
            PayloadInfo {
                id: payload.id,
                len: payload.len,
                chunks: state.have.len(),
                have: state.have.count(),
                pinned: state.pinned,
                last_used: Wall(payload.last_used.load(Ordering::Relaxed)),
            }
        };
        payloads.iter().map(info).collect()
    }

    /// The payloads that were evicted since the last call, except those that have been opened again.
    pub fn take_evicted(&self) -> Vec<PayloadId> {
        std::mem::take(&mut *lock(&self.evicted)).into_iter().collect()
    }

    /// What was there and is not any more, since the last call: chunks that were found to have rotted, and those that a failed
    /// sync may have lost, whose payload is to be opened again. The swarm can bring them.
    pub fn take_lost(&self) -> BTreeMap<PayloadId, Loss> {
        std::mem::take(&mut *lock(&self.lost))
    }

    /// What the log should say, since the last call: recovery, a rebuilt index, payloads that were lost.
    pub fn notices(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.notices))
    }

    /// Makes everything that was written before this call durable: data first, then the bits that speak for it. Call it
    /// about every second from a thread that may block. Readers and writers go on meanwhile.
    ///
    /// When the index has failed, because the disk was full or it is damaged, this opens it anew; until that succeeds, it
    /// returns the error, chunks are read and written as before, and only what was flushed is durable.
    ///
    /// When syncing data fails, what was not durable no longer counts as there, [`Store::take_lost`] tells of it, and nothing
    /// of that payload is written until [`Store::open_payload`] has hashed it and written it again.
    pub fn flush(&self) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.flushing);
        if self.index.has_failed() {
            self.reopen_index()?;
        }
        let queue = std::mem::take(&mut *lock(&self.queue));
        let mut outcome = Ok(());
        for id in &queue {
            if let Some(payload) = self.payload(*id) {
                let flushed = self.flush_payload(&payload);
                if flushed.is_err() {
                    self.enqueue(*id, &mut payload.state());
                }
                outcome = outcome.and(flushed);
            }
        }
        if self.index_changed.swap(false, Ordering::Relaxed)
            && let Err(error) = self.index.flush()
        {
            self.index_changed.store(true, Ordering::Relaxed);
            for id in &queue {
                if let Some(payload) = self.payload(*id) {
                    self.enqueue(*id, &mut payload.state());
                }
            }
            outcome = outcome.and(Err(error));
        }
        outcome
    }

    /// Opens the index anew after a failure, and tells it what memory knows.
    fn reopen_index(&self) -> Result<(), StoreError> {
        let notice = self.index.reopen()?;
        let empty = notice.is_some();
        notice.into_iter().for_each(|notice| self.notice(notice));
        let payloads: Vec<Arc<Payload>> = lock(&self.holdings).payloads.values().cloned().collect();
        for payload in payloads {
            if empty && let Ok(body) = self.body(&payload) {
                let have = payload.state().have.clone();
                self.index.add_chunks(payload.id, have.iter().filter_map(|at| body.chunk(at)))?;
            }
            self.put_record(&payload)?;
        }
        Ok(())
    }

    fn flush_payload(&self, payload: &Arc<Payload>) -> Result<(), StoreError> {
        let body = self.body(payload)?;
        // What is written from here on may or may not be synced by the call below: it waits for the next flush.
        let fresh = {
            let mut state = payload.state();
            state.queued = false;
            difference(&state.have, &state.synced)
        };
        if !fresh.is_empty()
            && let Err(error) = os::sync(&body.file)
        {
            let error = StoreError::io("syncing", self.files.data_path(payload.id), error);
            self.withdraw(payload, &error);
            return Err(error);
        }
        {
            let mut state = payload.state();
            for at in &fresh {
                state.synced.set(*at);
            }
        }
        self.put_record(payload)
    }

    /// After a failed sync: whatever is not known to be durable counts as missing, and nothing is written before
    /// [`Store::mend`].
    fn withdraw(&self, payload: &Payload, error: &StoreError) {
        let lost = {
            let mut state = payload.state();
            // Also what was written while the call ran.
            let lost = difference(&state.have, &state.synced);
            for at in &lost {
                state.have.clear(*at);
            }
            state.dubious.extend(&lost);
            state.failures += 1;
            state.writable = false;
            lost
        };
        self.lose(payload, &lost, Some(error));
    }

    /// Looks which chunks of a failed sync are on disk, and makes them durable. They are written again first: the system may
    /// have dropped their pages, and would report success for nothing.
    pub(crate) fn mend(&self, payload: &Arc<Payload>, body: &Body) -> Result<(), StoreError> {
        let dubious = payload.state().dubious.clone();
        if dubious.is_empty() {
            return Ok(());
        }
        let path = || self.files.data_path(payload.id);
        let (mut kept, mut buffer) = (Vec::new(), Vec::new());
        for at in dubious {
            let Some(chunk) = body.chunk(at) else { continue };
            os::forget_cached(&body.file, chunk.offset, u64::from(chunk.len));
            if body.is_good(chunk, &mut buffer) {
                os::write_at(&body.file, chunk.offset, &buffer).map_err(|e| StoreError::io("writing", path(), e))?;
                kept.push(at);
            }
        }
        os::sync(&body.file).map_err(|error| StoreError::io("syncing", path(), error))?;
        {
            let mut state = payload.state();
            state.dubious.clear();
            for at in &kept {
                state.have.set(*at);
                state.synced.set(*at);
                state.verified.set(*at);
            }
        }
        self.index.add_chunks(payload.id, kept.iter().filter_map(|at| body.chunk(*at)))
    }

    /// Tells of what is lost.
    fn lose(&self, payload: &Payload, chunks: &[u32], failure: Option<&StoreError>) {
        let mut lost = lock(&self.lost);
        let loss = lost.entry(payload.id).or_default();
        loss.chunks.extend(chunks);
        loss.chunks.sort_unstable();
        loss.chunks.dedup();
        if let Some(failure) = failure {
            loss.failure = Some(failure.to_string());
        }
    }

    /// Notes durably that chunks are not there after all, and that they may be written again.
    pub(crate) fn disown(&self, payload: &Arc<Payload>, positions: &[u32]) -> Result<(), StoreError> {
        tracing::warn!(payload = %payload.id, ?positions, "chunks on disk have rotted; they count as missing now");
        // No flush may take the bits, which are still set, for some that need to be written down.
        let _flushing = lock(&self.flushing);
        {
            let mut state = payload.state();
            for at in positions {
                state.synced.clear(*at);
                state.verified.clear(*at);
            }
        }
        let noted = self.make_writable(payload);
        {
            let mut state = payload.state();
            // Where that is not durable, the old bits would speak for bytes half written.
            state.writable &= noted.is_ok();
            // Only now may they be written.
            for at in positions {
                state.have.clear(*at);
            }
        }
        self.lose(payload, positions, noted.as_ref().err());
        noted
    }

    /// Lets chunks of a new payload be written. Until its first record is durable it has none, or one of another stay, and
    /// after an abrupt stop everything of it is hashed: so nothing need be noted durably before.
    pub(crate) fn make_new_writable(&self, payload: &Payload) -> Result<(), StoreError> {
        payload.state().marked = true;
        self.put_record(payload)?;
        payload.state().writable = true;
        Ok(())
    }

    /// Notes durably that chunks may be written, and then lets them be.
    pub(crate) fn make_writable(&self, payload: &Payload) -> Result<(), StoreError> {
        payload.state().marked = true;
        self.put_record(payload)?;
        self.index.flush()?;
        payload.state().writable = true;
        Ok(())
    }

    /// Writes verified bytes wherever they belong and are not yet.
    pub(crate) fn place(
        &self,
        payload: &Arc<Payload>,
        body: &Body,
        position: u32,
        bytes: &[u8],
    ) -> Result<Vec<u32>, WriteError> {
        let mut positions = body.same_as(position);
        let failures;
        {
            let mut state = payload.state();
            if state.removed || !state.writable {
                return Err(WriteError::NotOpen(payload.id));
            }
            positions.retain(|at| !state.have.get(*at));
            state.writers += 1;
            failures = state.failures;
        }
        let write = |at: &u32| {
            let offset = body.chunk(*at).map_or(0, |chunk: &Chunk| chunk.offset);
            os::write_at(&body.file, offset, bytes)
        };
        let written: io::Result<()> = positions.iter().try_for_each(write);
        {
            let mut state = payload.state();
            state.writers -= 1;
            if let Err(error) = written {
                return Err(StoreError::io("writing", self.files.data_path(payload.id), error).into());
            }
            // A sync that failed meanwhile may have taken these bytes with it.
            if state.removed || state.failures != failures {
                return Err(WriteError::NotOpen(payload.id));
            }
            positions.retain(|at| state.have.set(*at));
            for at in &positions {
                state.verified.set(*at);
            }
            self.enqueue(payload.id, &mut state);
        }
        // Where chunks are is a hint, of which durability is not asked: others may reuse these at once.
        if let Err(error) = self.index.add_chunks(payload.id, positions.iter().filter_map(|at| body.chunk(*at))) {
            self.notice(format!("chunks that came last may not be reused: {error}"));
        }
        self.touch(payload);
        Ok(positions)
    }

    /// The payload of this name.
    pub(crate) fn payload(&self, id: PayloadId) -> Option<Arc<Payload>> {
        lock(&self.holdings).payloads.get(&id).cloned()
    }

    /// Its list and file, from memory or from disk.
    pub(crate) fn body(&self, payload: &Arc<Payload>) -> Result<Arc<Body>, StoreError> {
        if let Some(body) = &*payload.body() {
            return Ok(body.clone());
        }
        let body = Body::load(&self.files, payload.id, payload.stay)?;
        Ok(self.keep_body(payload, body))
    }

    /// Keeps a body in memory, and lets go of those least recently used. Another thread may have been faster.
    pub(crate) fn keep_body(&self, payload: &Arc<Payload>, body: Body) -> Arc<Body> {
        let mut loaded = lock(&self.loaded);
        let body = payload.body().get_or_insert_with(|| Arc::new(body)).clone();
        if payload.state().removed {
            *payload.body() = None;
            return body;
        }
        if !loaded.iter().any(|other| Arc::ptr_eq(other, payload)) {
            loaded.push(payload.clone());
        }
        let chunks = |payload: &Arc<Payload>| payload.body().as_ref().map_or(0, |body| body.list.chunks().len());
        while loaded.len() > MAX_LOADED || loaded.iter().map(chunks).sum::<usize>() > MAX_LOADED_CHUNKS {
            let others = loaded.iter().enumerate().filter(|(_, other)| !Arc::ptr_eq(other, payload));
            let oldest = others.min_by_key(|(_, other)| other.last_used.load(Ordering::Relaxed)).map(|(at, _)| at);
            let Some(oldest) = oldest else { break };
            *loaded.swap_remove(oldest).body() = None;
        }
        body
    }

    /// Lets go of the body of a payload that is being removed.
    pub(crate) fn drop_body(&self, payload: &Arc<Payload>) {
        let mut loaded = lock(&self.loaded);
        loaded.retain(|other| !Arc::ptr_eq(other, payload));
        *payload.body() = None;
    }

    /// Writes a payload's record, as its state is now. Durable when the index is flushed.
    pub(crate) fn put_record(&self, payload: &Payload) -> Result<(), StoreError> {
        let _order = lock(&self.record_order);
        let record = {
            let mut state = payload.state();
            if state.removed {
                return Ok(());
            }
            state.saved_use = payload.last_used.load(Ordering::Relaxed);
            Record {
                pinned: state.pinned,
                writing: state.marked && !state.synced.is_full(),
                last_used: state.saved_use,
                len: payload.len,
                stay: payload.stay,
                have: state.synced.clone(),
            }
        };
        self.index_changed.store(true, Ordering::Relaxed);
        self.index.put(payload.id, &record)
    }

    /// Removes the record of a payload that has been marked as removed, and what the chunk index says of it.
    pub(crate) fn forget(&self, payload: &Payload, chunks: &[Chunk]) -> Result<(), StoreError> {
        let _order = lock(&self.record_order);
        self.index_changed.store(true, Ordering::Relaxed);
        self.index.remove(payload.id, chunks)
    }

    /// Notes a use.
    pub(crate) fn touch(&self, payload: &Payload) {
        let now = self.tick();
        payload.last_used.fetch_max(now, Ordering::Relaxed);
        let mut state = payload.state();
        if now.saturating_sub(state.saved_use) > USE_GRAIN {
            self.enqueue(payload.id, &mut state);
        }
    }

    /// Milliseconds since 1970, or one more than the last answer, so that uses have an order even when the clock goes back.
    pub(crate) fn tick(&self) -> u64 {
        let now = wall_millis();
        let last = self.clock.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
        last.map_or(now, |last| now.max(last + 1))
    }

    /// Adds a line for the log.
    pub(crate) fn notice(&self, text: String) {
        let mut notices = lock(&self.notices);
        if notices.len() < MAX_NOTICES {
            notices.push(text);
        }
    }

    /// Has the next flush look at a payload.
    fn enqueue(&self, id: PayloadId, state: &mut State) {
        if !state.queued {
            state.queued = true;
            lock(&self.queue).insert(id);
        }
    }
}

/// A clean end: everything durable, and nothing to be hashed at the next start.
impl Drop for Store {
    fn drop(&mut self) {
        let mut closed = self.flush();
        let payloads: Vec<Arc<Payload>> = lock(&self.holdings).payloads.values().cloned().collect();
        for payload in payloads {
            let outdated = {
                let mut state = payload.state();
                let clean = state.have == state.synced;
                let outdated = (state.marked && clean) || state.saved_use != payload.last_used.load(Ordering::Relaxed);
                state.marked &= !clean;
                outdated
            };
            if outdated && closed.is_ok() {
                closed = self.put_record(&payload);
            }
        }
        if let Err(error) = closed.and_then(|()| self.index.flush()) {
            tracing::warn!(dir = %self.files.dir().display(), %error, "the store did not close cleanly; it will check itself when it opens");
        }
    }
}

/// The chunks of `all` that `some` lacks, in order.
fn difference(all: &Bitmap, some: &Bitmap) -> Vec<u32> {
    let bytes = all.as_bytes().iter().zip(some.as_bytes()).enumerate().filter(|(_, (all, some))| *all & !*some != 0);
    bytes.flat_map(|(at, _)| (at as u32 * 8)..(at as u32 * 8 + 8)).filter(|at| all.get(*at) && !some.get(*at)).collect()
}

fn wall_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2)
}
