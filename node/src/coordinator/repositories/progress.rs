//! How far long work is, for whoever watches it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::api::repositories::Stage;

/// Shared by the one who works and those who watch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Stage>>);

impl Progress {
    /// Something new begins; `total` bytes of it are to come, 0 when nobody knows.
    pub(crate) fn begin(&self, what: impl Into<String>, total: u64) {
        *self.lock() = Stage { what: what.into(), done: 0, total };
    }

    /// So many more bytes are done.
    pub(crate) fn add(&self, bytes: u64) {
        self.lock().done += bytes;
    }

    /// How far it is.
    pub(crate) fn stage(&self) -> Stage {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
