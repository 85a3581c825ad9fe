//! Tells when the inventory has changed.
//!
//! Looking at the times of a few files once a minute costs less than a watch on them, and sees changes on every file system.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::{KINDS, Scan, Scanner};

/// Between two looks, on average.
const INTERVAL: Duration = Duration::from_secs(60);

/// A task that scans again and again. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct InventoryWatch {
    changes: mpsc::Receiver<Scan>,
    now: Arc<Notify>,
}

impl InventoryWatch {
    /// Scans at once and then about once a minute, up to a quarter sooner or later, so that machines that were started together
    /// do not scan together. `root` as in [`super::scan`]. Needs a tokio runtime; scans on its blocking threads.
    pub(crate) fn start(root: Option<PathBuf>) -> Self {
        Self::every(root, INTERVAL)
    }

    /// As [`InventoryWatch::start`] with another time between two looks.
    pub(crate) fn every(root: Option<PathBuf>, interval: Duration) -> Self {
        // A scan is made for a free place only: whoever is slow gets the newest, not a queue of old ones.
        let (sender, changes) = mpsc::channel(1);
        let now = Arc::new(Notify::new());
        tokio::spawn(watch(root, interval, sender, now.clone()));
        Self { changes, now }
    }

    /// Completes with the first scan, and then with each that differs from the one before. `None` when no more can come: the
    /// runtime is ending. Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) -> Option<Scan> {
        self.changes.recv().await
    }

    /// Asks for a look without delay, for example after an install.
    pub(crate) fn rescan(&self) {
        self.now.notify_one();
    }
}

async fn watch(root: Option<PathBuf>, interval: Duration, changes: mpsc::Sender<Scan>, now: Arc<Notify>) {
    let mut scanner = Scanner::new(root.clone(), &KINDS);
    let mut first = true;
    loop {
        let Ok(place) = changes.reserve().await else { return };
        let scanned = tokio::task::spawn_blocking(move || {
            let changed = scanner.rescan();
            (scanner, changed)
        });
        match scanned.await {
            Ok((back, changed)) => {
                scanner = back;
                if changed || first {
                    place.send(scanner.last().clone());
                    first = false;
                }
            }
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                tracing::error!(%error, "a scan of this machine failed; it is tried again");
                scanner = Scanner::new(root.clone(), &KINDS);
                first = true;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(interval)) => {}
            () = now.notified() => {}
            () = changes.closed() => return,
        }
    }
}

/// Between three and five quarters of a duration.
fn jittered(interval: Duration) -> Duration {
    let mut byte = [128];
    // Without randomness the middle will do.
    let _ = getrandom::fill(&mut byte);
    interval.mul_f64(0.75 + f64::from(byte[0]) / 512.0)
}
