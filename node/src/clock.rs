//! Both clocks, read where the shell meets the core.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use upswarm_protocol::time::{Mono, Now, Wall};

/// Both clocks of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// A clock whose monotonic side starts now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// This instant.
    pub(crate) fn now(self) -> Now {
        let micros = u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX);
        Now { mono: Mono(micros), wall: wall() }
    }

    /// The instant of a monotonic time, at most a day ahead of the start or of now.
    pub(crate) fn at(self, mono: Mono) -> Instant {
        let ahead = mono.since(self.now().mono).min(Duration::from_secs(86400));
        Instant::now() + ahead
    }
}

/// The wall clock.
pub(crate) fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
