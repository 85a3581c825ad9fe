//! Watches what only shows while it happens: pauses of a link, memory that is given back later.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of private memory that a process holds now (proc(5), `RssAnon`).
pub fn anonymous_memory(process: u32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0) * 1024
}

/// The most that each of some processes has held of private memory while it was watched.
#[derive(Debug)]
pub struct Memory(Watch<Vec<u64>>);

impl Memory {
    /// Begins to look at these processes.
    pub fn watch(processes: Vec<u32>) -> Self {
        let most = vec![0; processes.len()];
        Self(Watch::begin(Duration::from_millis(50), most, move |most: &mut Vec<u64>| {
            for (most, process) in most.iter_mut().zip(&processes) {
                *most = anonymous_memory(*process).max(*most);
            }
        }))
    }

    /// The figures, in the order of the processes.
    pub fn end(self) -> Vec<u64> {
        self.0.end()
    }
}

/// A counter of bytes, looked at every few milliseconds.
#[derive(Debug)]
pub struct Flow(Watch<Vec<(Instant, u64)>>);

impl Flow {
    /// Less than this within [`Self::EVERY`] is talk, not payload: a hundredth of a link of 100 Mbit/s.
    const TALK: u64 = 2500;
    const EVERY: Duration = Duration::from_millis(20);

    /// Begins to look at a counter.
    pub fn watch(counter: impl Fn() -> u64 + Send + 'static) -> Self {
        Self(Watch::begin(Self::EVERY, Vec::new(), move |seen: &mut Vec<(Instant, u64)>| {
            let bytes = counter();
            seen.push((Instant::now(), bytes));
        }))
    }

    /// The longest time without payload, from when the counter reached `from` until it reached `to`.
    pub fn longest_standstill(self, from: u64, to: u64) -> Duration {
        let seen = self.0.end();
        let (mut longest, mut since) = (Duration::ZERO, None::<Instant>);
        for pair in seen.windows(2) {
            let ((before, had), (at, has)) = (pair[0], pair[1]);
            if has <= from || had >= to {
                continue;
            }
            let talk = Self::TALK as f64 * (at - before).as_secs_f64() / Self::EVERY.as_secs_f64();
            if (has - had) as f64 > talk {
                since = None;
            } else {
                longest = longest.max(at - *since.get_or_insert(before));
            }
        }
        longest
    }
}

/// A thread that looks at something regularly until it is asked for what it saw.
#[derive(Debug)]
struct Watch<T> {
    stop: SyncSender<()>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Watch<T> {
    fn begin(every: Duration, mut seen: T, mut look: impl FnMut(&mut T) + Send + 'static) -> Self {
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                look(&mut seen);
            }
            seen
        });
        Self { stop, thread }
    }

    fn end(self) -> T {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
