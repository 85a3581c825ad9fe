//! Both clocks, read where the driver meets the core.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sys;
use upswarm_protocol::time::{Mono, Now, Wall};

/// When this program was built, or what SOURCE_DATE_EPOCH said then: no node believes an earlier clock.
pub(crate) const BUILD_TIME: Wall = Wall(1000 * seconds(env!("UPSWARM_BUILD_TIME")));

const fn seconds(text: &str) -> u64 {
    match u64::from_str_radix(text, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic!("the build's time is no number of seconds"),
    }
}

/// Both clocks of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    /// Where the clock that counts sleep stood, for whom that is the monotonic side.
    booted: Option<Duration>,
}

impl Clock {
    /// A clock whose monotonic side starts now.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), booted: None }
    }

    /// The same, with a monotonic side that goes on while the machine sleeps.
    pub(crate) fn start_with_sleep() -> Self {
        Self { start: Instant::now(), booted: Some(sys::uptime().0) }
    }

    /// This instant.
    pub(crate) fn now(self) -> Now {
        let elapsed = self.booted.map_or_else(|| self.start.elapsed(), |at| sys::uptime().0.saturating_sub(at));
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_lies_behind_us_and_in_this_age() {
        assert!(BUILD_TIME <= wall(), "{BUILD_TIME}");
        assert!(BUILD_TIME.to_string().as_str() >= "2025", "{BUILD_TIME}");
    }
}
