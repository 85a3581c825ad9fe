//! A token bucket for bytes per second.
//!
//! Who waits longest goes first, and nobody takes more than a slice at a time: so transfers that share a bucket share it
//! evenly, whatever the size of their requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, Notify};
use tokio::time::Instant;

/// The most bytes that one taker gets before the next has its turn.
const SLICE: u64 = 64 << 10;
/// Waits are cut to this, so that a tiny rate cannot overflow the timer.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// A shared allowance of bytes per second. Clones draw on the same bucket.
#[derive(Debug, Clone)]
pub(crate) struct Limiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bucket: Mutex<Bucket>,
    /// Tokio's mutex is first come, first served.
    turn: Turn<()>,
    changed: Notify,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes per second; `None` is unlimited, 0 stops everyone.
    rate: Option<u64>,
    /// Bytes that may go at once after a pause.
    burst: f64,
    /// Bytes that may go now; below zero after a taker was let go ahead of its bytes.
    tokens: f64,
    /// When `tokens` was right.
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        if let Some(rate) = self.rate {
            self.tokens = (self.tokens + passed * rate as f64).min(self.burst);
        }
    }

    /// Takes `bytes` when the bucket is not in debt, else says how long that lasts.
    fn take(&mut self, bytes: u64, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        match self.rate {
            None => Ok(()),
            Some(0) => Err(LONGEST_WAIT),
            Some(_) if self.tokens > 0.0 => {
                self.tokens -= bytes as f64;
                Ok(())
            }
            // A little more than the debt, so that the clock's rounding does not make it wait twice.
            Some(rate) => Err(Duration::from_secs_f64(((1.0 - self.tokens) / rate as f64).min(3600.0))),
        }
    }
}

impl Limiter {
    /// At most `rate` bytes per second on average (0 stops everyone until [`Limiter::set_rate`]), of which `burst` bytes
    /// may go at once after a pause.
    pub(crate) fn new(rate: u64, burst: u64) -> Self {
        Self::with(Some(rate), burst)
    }

    /// No limit, until [`Limiter::set_rate`] sets one (with a burst of 256 KiB).
    pub(crate) fn unlimited() -> Self {
        Self::with(None, 256 << 10)
    }

    fn with(rate: Option<u64>, burst: u64) -> Self {
        let burst = burst.max(1) as f64;
        let bucket = Mutex::new(Bucket { rate, burst, tokens: burst, at: Instant::now() });
        Self(Arc::new(Shared { bucket, turn: Turn::new(()), changed: Notify::new() }))
    }

    /// Changes the rate for everyone, those who wait now among them; `None` lifts the limit.
    pub(crate) fn set_rate(&self, rate: Option<u64>) {
        {
            let mut bucket = self.bucket();
            bucket.refill(Instant::now());
            // A debt from a faster time would stall a slow rate for long; one burst is the most that is remembered.
            bucket.tokens = bucket.tokens.max(-bucket.burst);
            bucket.rate = rate;
        }
        self.0.changed.notify_waiters();
    }

    /// Changes the rate, and what may go at once after a pause.
    pub(crate) fn set_rate_and_burst(&self, rate: u64, burst: u64) {
        self.bucket().burst = burst.max(1) as f64;
        self.set_rate(Some(rate));
    }

    /// Waits until `bytes` may go. Dropping the future gives up what is left of them.
    pub(crate) async fn acquire(&self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            if self.bucket().rate.is_none() {
                return;
            }
            let slice = left.min(SLICE);
            let _turn = self.0.turn.lock().await;
            loop {
                let changed = self.0.changed.notified();
                tokio::pin!(changed);
                // Registered before the bucket is looked at: a change in between is not missed.
                changed.as_mut().enable();
                let wait = match self.bucket().take(slice, Instant::now()) {
                    Ok(()) => break,
                    Err(wait) => wait,
                };
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = changed => {}
                }
            }
            left -= slice;
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        // No code that holds the lock can panic half way through a change.
        self.0.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    async fn seconds_for(limiter: &Limiter, bytes: u64, step: u64) -> f64 {
        let start = Instant::now();
        for _ in 0..bytes / step {
            limiter.acquire(step).await;
        }
        start.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time() {
        for step in [KIB, 80 * KIB, 1024 * KIB] {
            let limiter = Limiter::new(1024 * KIB, 64 * KIB);
            let took = seconds_for(&limiter, 10_240 * KIB, step).await;
            assert!((9.0..10.2).contains(&took), "steps of {step} bytes took {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_earns_one_burst_and_no_more() {
        let limiter = Limiter::new(KIB, 10 * KIB);
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!(seconds_for(&limiter, 10 * KIB, KIB).await, 0.0);
        let took = seconds_for(&limiter, 10 * KIB, KIB).await;
        assert!((8.9..10.1).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn large_and_small_takers_share_evenly() {
        let limiter = Limiter::new(1024 * KIB, 64 * KIB);
        let large = tokio::spawn({
            let limiter = limiter.clone();
            async move {
                loop {
                    limiter.acquire(4096 * KIB).await;
                }
            }
        });
        tokio::task::yield_now().await;
        // Alone this takes 5 s; beside another it takes twice that, not the 320 s of waiting behind 4 MiB each time.
        let took = seconds_for(&limiter, 80 * 64 * KIB, 64 * KIB).await;
        large.abort();
        assert!((9.0..11.0).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_rate_reaches_those_who_wait() {
        let limiter = Limiter::new(0, KIB);
        let start = Instant::now();
        let waiter = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.acquire(100 * KIB).await }
        });
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert!(!waiter.is_finished(), "a rate of 0 lets nothing through");
        limiter.set_rate(Some(1));
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert!(!waiter.is_finished());
        limiter.set_rate(None);
        waiter.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_gives_up_does_not_block_the_next() {
        let limiter = Limiter::new(KIB, KIB);
        limiter.acquire(2 * KIB).await;
        let start = Instant::now();
        let gives_up = limiter.clone();
        assert!(tokio::time::timeout(Duration::from_millis(10), gives_up.acquire(KIB)).await.is_err());
        limiter.acquire(1).await;
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn unlimited_does_not_wait() {
        let limiter = Limiter::unlimited();
        limiter.acquire(u64::MAX).await;
    }
}
