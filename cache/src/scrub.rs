//! The slow round over everything on disk: what has rotted is noted as missing, so that the swarm brings it again. It uses
//! the store, which knows nothing of it, and never decides when it is time for a step.

use std::ops::Bound;

use upswarm_protocol::ids::PayloadId;

use crate::error::StoreError;
use crate::os;
use crate::payload::lock;
use crate::store::Store;

/// What one step of the round found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Bytes that were read and hashed.
    pub bytes: u64,
    /// Chunks that were.
    pub chunks: u32,
    /// Chunks whose bytes on disk are not theirs any more: they count as missing now, and can be written again.
    pub bad: Vec<(PayloadId, u32)>,
    /// Whether the step has come round to where the round began: the next one begins another.
    pub round_ended: bool,
}

/// Where the round goes on.
#[derive(Debug)]
pub struct Scrub {
    /// Where each round begins and ends.
    first: PayloadId,
    payload: PayloadId,
    position: u32,
    /// Whether it has passed the last payload and gone on with the first of all.
    wrapped: bool,
}

impl Scrub {
    /// Rounds that begin with the first payload from `first` on, and go on with those before it. Begun elsewhere in each run,
    /// they come to every payload even of a machine that never runs for a whole round.
    pub fn starting_at(first: PayloadId) -> Self {
        Self { first, payload: first, position: 0, wrapped: false }
    }

    /// Hashes some chunks again, going on where the last step ended: at least one chunk, and then as long as `max_bytes`
    /// are not passed. What is bad is noted durably before this returns, and [`Store::take_lost`] names it. Reads from the
    /// disk, not from its cache.
    ///
    /// Errors are [`StoreError::Io`] and [`StoreError::Index`]; a chunk that cannot be read is bad, not an error.
    pub fn step(&mut self, store: &Store, max_bytes: u64) -> Result<ScrubReport, StoreError> {
        let mut report = ScrubReport::default();
        let mut buffer = Vec::new();
        while report.bytes < max_bytes.max(1) {
            let next = {
                let holdings = lock(&store.holdings);
                let mut from = holdings.payloads.range((Bound::Included(self.payload), Bound::Unbounded));
                from.next().map(|(_, payload)| payload.clone())
            };
            let next = next.filter(|payload| !self.wrapped || payload.id < self.first);
            let Some(payload) = next else {
                if self.wrapped || self.first == PayloadId([0; 32]) {
                    *self = Self::starting_at(self.first);
                    report.round_ended = true;
                    break;
                }
                (self.payload, self.position, self.wrapped) = (PayloadId([0; 32]), 0, true);
                continue;
            };
            if payload.id != self.payload {
                (self.payload, self.position) = (payload.id, 0);
            }
            let body = match store.body(&payload) {
                Ok(body) => body,
                // Removed since, or without its list: nothing to hash here.
                Err(error) => {
                    tracing::debug!(payload = %payload.id.short(), %error, "not scrubbed");
                    self.pass(payload.id);
                    continue;
                }
            };
            // Only what is durable: the rest has just been hashed, and is not on the disk yet.
            let position = {
                let state = payload.state();
                (self.position..state.synced.len()).find(|at| state.synced.get(*at) && !state.removed)
            };
            let Some((position, chunk)) = position.and_then(|at| Some((at, *body.chunk(at)?))) else {
                self.pass(payload.id);
                continue;
            };
            if report.chunks > 0 && report.bytes + u64::from(chunk.len) > max_bytes {
                break;
            }
            self.position = position + 1;
            os::forget_cached(&body.file, chunk.offset, u64::from(chunk.len));
            if !body.is_good(&chunk, &mut buffer) {
                store.disown(&payload, &[position])?;
                report.bad.push((payload.id, position));
            }
            report.bytes += u64::from(chunk.len);
            report.chunks += 1;
        }
        Ok(report)
    }

    /// Goes on behind a payload.
    fn pass(&mut self, done: PayloadId) {
        // The next name in order; behind the last of all there is nothing, which its position says.
        match done.0.iter().rposition(|byte| *byte != 0xff) {
            Some(at) => {
                let mut next = done.0;
                next[at] += 1;
                next[at + 1..].fill(0);
                (self.payload, self.position) = (PayloadId(next), 0);
            }
            None => (self.payload, self.position) = (done, u32::MAX),
        }
    }
}
