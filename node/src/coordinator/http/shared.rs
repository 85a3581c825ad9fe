//! What every handler may use. Owns the counts of what was served and how many may be at work; never answers by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, watch};
use upswarm_protocol::ids::{DocHash, PayloadId};

use super::frames::Frames;
use crate::coordinator::directory::Directory;
use crate::coordinator::repositories::Repositories;
use crate::coordinator::requests::Request;
use crate::coordinator::store::FleetStore;
use crate::coordinator::store::past::Past;
use crate::limiter::Limiter;

const MAX_UPLOADS: usize = 4;
/// Queries that are answered at once; others wait, and with them nobody else.
const MAX_READERS: usize = 4;

/// Versions of roots by the hash of their envelope.
pub(crate) type RootVersions = Arc<BTreeMap<DocHash, u64>>;

/// What every handler may use.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directory: Directory,
    /// Every root that may be read, by the hash that a join token names.
    pub(crate) roots: watch::Receiver<RootVersions>,
    /// The public head's envelope; empty before the first.
    pub(crate) head: watch::Receiver<Vec<u8>>,
    pub(crate) driver: mpsc::Sender<Request>,
    pub(crate) fleet: FleetStore,
    /// History.
    pub(crate) past: Past,
    pub(crate) repositories: Arc<Repositories>,
    pub(crate) counters: Arc<Counters>,
    /// Payload bytes per second.
    pub(crate) limiter: Limiter,
    /// Hash of the admin token: comparing hashes takes the same time whatever is shown.
    pub(crate) token: blake3::Hash,
    pub(crate) slots: Slots,
    /// Devices that come by HTTP alone.
    pub(crate) frames: Arc<Frames>,
}

/// How many of a kind may be at work at once.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(super) uploads: Semaphore,
    pub(super) readers: Semaphore,
}

impl Default for Slots {
    fn default() -> Self {
        Self { uploads: Semaphore::new(MAX_UPLOADS), readers: Semaphore::new(MAX_READERS) }
    }
}

/// Payload bytes that this origin has handed to sockets, since it started.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<BTreeMap<PayloadId, u64>>);

/// `GET /admin/v1/metrics`.
#[derive(Debug, Serialize)]
pub(crate) struct Metrics {
    payload_bytes: u64,
    by_payload: BTreeMap<PayloadId, u64>,
}

impl Counters {
    pub(super) fn add(&self, payload: PayloadId, bytes: u64) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.entry(payload).or_default() += bytes;
    }

    /// Bytes of all payloads.
    pub(crate) fn total(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// Bytes of each.
    pub(super) fn metrics(&self) -> Metrics {
        let by_payload = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Metrics { payload_bytes: by_payload.values().sum(), by_payload }
    }
}
