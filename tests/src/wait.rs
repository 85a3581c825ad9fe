//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// When a condition is looked at for the second time, and how often at least. In between the pauses double: what comes soon is
/// seen soon, and what takes long is left the processors.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Looks until `look` says `Ok`, and returns what it brings. Panics after `within`, with what was waited for and what `look`
/// said last.
pub fn until<T>(what: &str, within: Duration, look: impl FnMut() -> Result<T, String>) -> T {
    look_on(what, within, LOOK_EVERY, look)
}

/// The same for what costs next to nothing to look at, and must be seen at once.
pub fn closely<T>(what: &str, within: Duration, look: impl FnMut() -> Result<T, String>) -> T {
    look_on(what, within, LOOK_FIRST, look)
}

fn look_on<T>(what: &str, within: Duration, every: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    let mut pause = LOOK_FIRST;
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if Instant::now() >= deadline => panic!("waited {within:?} for {what}; at last: {last}"),
            Err(_) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(every);
            }
        }
    }
}
