//! How many bytes may be fetched for clients in a day.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use upswarm_protocol::ids::PayloadId;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A number of bytes that is there again a day after it was first drawn on. Counts anew with each run of the node.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: u64,
    spent: Mutex<Option<Spent>>,
}

#[derive(Debug)]
struct Spent {
    since: Instant,
    bytes: u64,
    /// What it was spent on: whoever asks for the same again costs nothing.
    payloads: BTreeSet<PayloadId>,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, spent: Mutex::default() }
    }

    /// Takes what a payload costs, once; else says after which time there is more.
    pub(super) fn take(&self, payload: PayloadId, bytes: u64, now: Instant) -> Result<(), Duration> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.as_ref().is_some_and(|spent| now.duration_since(spent.since) >= DAY) {
            *spent = None;
        }
        let spent = spent.get_or_insert_with(|| Spent { since: now, bytes: 0, payloads: BTreeSet::new() });
        if spent.payloads.contains(&payload) {
            return Ok(());
        }
        let sum = spent.bytes.saturating_add(bytes);
        if sum > self.bytes {
            return Err(DAY.saturating_sub(now.duration_since(spent.since)));
        }
        spent.bytes = sum;
        spent.payloads.insert(payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_comes_back_after_a_day_and_the_same_payload_costs_once() {
        let (budget, start) = (Budget::new(100), Instant::now());
        let payload = |n| PayloadId([n; 32]);
        assert_eq!(budget.take(payload(1), 60, start), Ok(()));
        assert_eq!(budget.take(payload(2), 50, start + DAY / 2), Err(DAY / 2));
        assert_eq!(budget.take(payload(3), 40, start + DAY / 2), Ok(()));
        assert!(budget.take(payload(4), 1, start + DAY / 2).is_err());
        assert_eq!(budget.take(payload(1), 60, start + DAY / 2), Ok(()));
        assert_eq!(budget.take(payload(4), 100, start + DAY), Ok(()));
        assert!(budget.take(payload(5), 101, start + DAY * 9).is_err());
    }
}
