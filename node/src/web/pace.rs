//! Whether a body keeps coming. A source that drips is as good as gone: somebody else is to be asked.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes that must come in a time.
const FLOOR: u64 = 16 << 10;

/// Watches one body.
pub(crate) struct Pace {
    window: Duration,
    floor: u64,
    since: Instant,
    bytes: u64,
}

impl Pace {
    /// In each `window` at least 16 KiB must come.
    pub(crate) fn new(window: Duration) -> Self {
        Self::of(window, FLOOR)
    }

    /// The same with another floor, in bytes.
    pub(crate) fn of(window: Duration, floor: u64) -> Self {
        Self { window, floor, since: Instant::now(), bytes: 0 }
    }

    /// So many bytes more have come. The error says how slow it is.
    pub(crate) fn came(&mut self, bytes: u64) -> Result<(), String> {
        self.bytes += bytes;
        if self.since.elapsed() < self.window {
            return Ok(());
        }
        if self.bytes < self.floor {
            return Err(format!("too slow: only {} bytes in {:.1} s", self.bytes, self.since.elapsed().as_secs_f64()));
        }
        (self.since, self.bytes) = (Instant::now(), 0);
        Ok(())
    }

    /// This side was what was waited for: that time does not count against the source.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.since += time;
    }
}
