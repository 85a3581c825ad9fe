//! The disk beside the event loop: the journal's thread, the scrub, and what the store has lost. It tells the core what is
//! durable and what is not, and decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};
use upswarm_cache::{Loss, Scrub, Store, fence};
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::{DocHash, PayloadId};
use upswarm_protocol::node::{Input, Record, StoreError};

use super::super::journal::Journal;
use crate::background;
use crate::config::StoreConfig;

/// Writes that wait for the journal's thread; more wait in the loop, which the core's own bounds limit.
pub(super) const MAX_WRITES: usize = 64;
/// How often it is looked whether a full disk has room again.
const FULL_AGAIN: Duration = Duration::from_secs(2);
/// How much of the store is read again at a time, to notice a disk that forgets. The rate says how often.
const SCRUB_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) enum Write {
    Record(u64, Record),
    Doc(DocHash, Arc<Vec<u8>>),
    Drop(DocHash),
}

/// Opens what is on disk, again and again while that is full: nothing there is begun anew for want of room. `None` when `stop`
/// came first.
pub(super) async fn with_room<T: Send + 'static>(
    open: impl Fn() -> anyhow::Result<T> + Clone + Send + 'static,
    stop: &mut (impl Future<Output = ()> + Unpin),
) -> anyhow::Result<Option<T>> {
    let is_full = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref().is_some_and(fence::is_full);
    let mut told = false;
    loop {
        match tokio::task::spawn_blocking(open.clone()).await? {
            Ok(opened) => {
                if told {
                    info!("there is room on the disk again");
                }
                return Ok(Some(opened));
            }
            Err(error) if error.chain().any(is_full) => {
                if !told {
                    warn!("waits for room on the disk, and goes on by itself: {error:#}");
                }
                told = true;
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(FULL_AGAIN) => {}
            () = &mut *stop => return Ok(None),
        }
    }
}

/// The journal's thread: writes in order, as many as wait at once, and tells the core what is durable. While the disk is full
/// it waits for room, and everything that rests on the record with it; any other failure ends it, and with it the node: what
/// cannot be remembered must not be acted upon.
pub(super) fn write_journal(
    journal: &mut Journal,
    mut writes: mpsc::Receiver<Write>,
    done: &mpsc::Sender<Vec<Input>>,
    ending: &AtomicBool,
) {
    while let Some(first) = writes.blocking_recv() {
        let mut waiting = vec![first];
        while waiting.len() < MAX_WRITES
            && let Ok(next) = writes.try_recv()
        {
            waiting.push(next);
        }
        let records: Vec<&Record> = waiting
            .iter()
            .filter_map(|write| if let Write::Record(_, record) = write { Some(record) } else { None })
            .collect();
        let (mut told, mut inputs) = (false, Vec::new());
        while let Err(error) = journal.write(&records) {
            if !fence::is_full(&error) {
                tracing::error!("the journal cannot be written: {error}; mend the disk, then restart");
                return;
            }
            if ending.load(Ordering::Relaxed) {
                return warn!("what this node did last is not written down: {error}");
            }
            if !told {
                warn!("waits for room on the disk: {error}");
                let trouble = Some(Text::lossy(&format!("this node's records cannot be written: {error}")));
                let _ = done.blocking_send(vec![Input::Disk { trouble }]);
            }
            told = true;
            std::thread::sleep(FULL_AGAIN);
        }
        if told {
            info!("there is room on the disk again");
            inputs.push(Input::Disk { trouble: None });
        }
        for write in waiting {
            // Documents can be fetched again.
            let kept = match write {
                Write::Record(token, _) => {
                    inputs.push(Input::Persisted { token });
                    Ok(())
                }
                Write::Doc(hash, bytes) => {
                    let kept = journal.store_doc(hash, &bytes);
                    inputs.push(Input::DocStored { hash, kept: kept.is_ok() });
                    kept
                }
                Write::Drop(hash) => journal.drop_doc(hash),
            };
            if let Err(error) = kept {
                warn!("a document was not kept: {error}");
            }
        }
        if !inputs.is_empty() {
            let _ = done.blocking_send(inputs);
        }
    }
}

/// When the store is read again: a little at a time, and each round at the earliest so long after the one before.
struct ScrubPace {
    pause: Duration,
    every: Duration,
    /// When this round began.
    began: Instant,
}

impl ScrubPace {
    fn new(config: &StoreConfig, now: Instant) -> Self {
        let pause = Duration::from_secs_f64(SCRUB_BYTES as f64 / config.scrub.0 as f64);
        Self { pause, every: Duration::from_secs(config.scrub_every_s), began: now }
    }

    /// When the next step is, after one that ended `now`.
    fn next(&mut self, round_ended: bool, now: Instant) -> Instant {
        let next = now + self.pause;
        if !round_ended {
            return next;
        }
        self.began = next.max(self.began + self.every);
        self.began
    }
}

/// Reads the store again, a little at a time and at the least priority, for as long as the node runs.
pub(super) fn scrub(
    store: Arc<Store>,
    done: mpsc::Sender<Vec<Input>>,
    config: &StoreConfig,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let mut pace = ScrubPace::new(config, Instant::now());
    let mut first = [0; 32];
    getrandom::fill(&mut first).map_err(|error| anyhow::anyhow!("the system gives no randomness: {error}"))?;
    let mut scrub = Scrub::starting_at(PayloadId(first));
    Ok(async move {
        let mut at = pace.next(false, Instant::now());
        loop {
            tokio::time::sleep_until(at).await;
            let store = store.clone();
            let step = background::run(move || {
                let report = scrub.step(&store, SCRUB_BYTES);
                (scrub, report, losses(&store))
            });
            let Ok((next, report, mut inputs)) = step.await else { return };
            scrub = next;
            at = pace.next(report.as_ref().is_ok_and(|report| report.round_ended), Instant::now());
            match report {
                Ok(report) => {
                    inputs.push(Input::Scrubbed { bytes: report.bytes, round_ended: report.round_ended });
                }
                Err(error) => warn!("the store cannot be read again: {error}"),
            }
            if done.send(inputs).await.is_err() {
                return;
            }
        }
    })
}

/// What the store has lost since the last call.
pub(super) fn losses(store: &Store) -> Vec<Input> {
    let told = |(payload, loss): (PayloadId, Loss)| match loss.failure {
        Some(text) => Input::PayloadFailed { payload, reason: StoreError::Failed(text) },
        None => Input::ChunksLost { payload, chunks: loss.chunks },
    };
    store.take_lost().into_iter().map(told).collect()
}

pub(super) fn store_error(error: upswarm_cache::StoreError) -> StoreError {
    match error {
        upswarm_cache::StoreError::NoSpace { .. } => StoreError::NoSpace(error.to_string()),
        other => StoreError::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Rate, StoreConfig};

    /// A store of one step is read once a day, not whenever the rate would allow it; a large one without a break.
    #[test]
    fn a_small_store_is_read_again_once_a_day() {
        let start = Instant::now();
        let config = StoreConfig { scrub: Rate(SCRUB_BYTES), ..StoreConfig::default() };
        let steps_of = |steps_of_a_round: u64| {
            let mut pace = ScrubPace::new(&config, start);
            let (mut at, mut steps) = (pace.next(false, start), 0);
            while at < start + Duration::from_secs(3 * 86_400) {
                steps += 1;
                at = pace.next(steps % steps_of_a_round == 0, at);
            }
            steps
        };
        assert_eq!(steps_of(1), 3);
        assert_eq!(steps_of(100), 300);
        assert_eq!(steps_of(100_000), 3 * 86_400 - 1, "a round takes longer than a day");
    }
}
