//! At what rate payload bytes come to this node, whoever brings them: what tells a slow line from members that keep none of their
//! words. Owns the measure; what follows from it is decided where it is asked for.

use core::time::Duration;

use crate::lease;
use crate::time::Mono;

/// Bytes per second that are expected before any were measured: 4 Mbit/s.
const FIRST: u64 = 512 << 10;
/// Bytes are counted over this time at least.
const WINDOW: Duration = Duration::from_secs(1);
/// Less than this part of what came before is no movement: who trickles holds up nothing.
const TRICKLE: u64 = 16;
/// A chunk may take so many times what the rate makes of it.
const TIMES: u64 = 4;
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// What has come of all payloads.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Bytes per second, smoothed; 0 before the first window has ended.
    rate: u64,
    since: Mono,
    bytes: u64,
    moved: Mono,
}

impl Flow {
    /// A chunk has come, verified.
    pub(super) fn came(&mut self, bytes: u64, now: Mono) {
        self.bytes += bytes;
        let span = now.since(self.since);
        let rate = self.bytes.saturating_mul(1_000_000) / (span.max(WINDOW).as_micros() as u64);
        if rate >= self.rate / TRICKLE {
            self.moved = now;
        }
        if span < WINDOW {
            return;
        }
        // After a pause a new window begins: nothing was asked for meanwhile.
        if span < LONGEST {
            self.rate = if self.rate == 0 { rate } else { (self.rate * 7 + rate) / 8 };
        }
        (self.since, self.bytes) = (now, 0);
    }

    /// When bytes last came at more than a trickle.
    pub(super) fn moved(&self) -> Mono {
        self.moved
    }

    /// For how long nothing may come, with chunks of this many bytes, before it is a sign of more than a slow line.
    pub(super) fn patience(&self, chunk: u32) -> Duration {
        let rate = if self.rate == 0 { FIRST } else { self.rate };
        let bytes = TIMES * lease::FETCHERS as u64 * u64::from(chunk);
        Duration::from_millis(bytes.saturating_mul(1000) / rate).clamp(lease::BREAKS_AFTER, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u32 = 256 << 10;

    fn at(millis: u64) -> Mono {
        Mono(millis * 1000)
    }

    #[test]
    fn a_slow_line_is_waited_for_longer_and_a_fast_one_not_less_than_the_least() {
        let mut flow = Flow::default();
        assert_eq!(flow.patience(CHUNK), Duration::from_secs(8), "before anything is known");
        assert_eq!(flow.patience(4 << 20), LONGEST);
        for tick in 1..=40 {
            flow.came(u64::from(CHUNK), at(tick * 4000));
        }
        let slow = flow.patience(CHUNK);
        assert!((Duration::from_secs(60)..=LONGEST).contains(&slow), "64 KiB/s: {slow:?}");
        for tick in 1..=2000 {
            flow.came(u64::from(CHUNK), at(160_000 + tick * 20));
        }
        assert_eq!(flow.patience(CHUNK), lease::BREAKS_AFTER, "13 MB/s");
    }

    #[test]
    fn a_trickle_is_no_movement_once_more_is_known_and_a_pause_teaches_nothing() {
        let mut flow = Flow::default();
        for tick in 1..=100 {
            flow.came(u64::from(CHUNK), at(tick * 100));
        }
        assert_eq!(flow.moved(), at(10_000));
        let known = flow.patience(CHUNK);
        flow.came(u64::from(CHUNK), at(400_000));
        assert_eq!(flow.patience(CHUNK), known);
        let before = flow.moved();
        flow.came(16 << 10, at(403_000));
        assert_eq!(flow.moved(), before);
        flow.came(u64::from(CHUNK), at(403_500));
        assert_eq!(flow.moved(), at(403_500));
    }
}
