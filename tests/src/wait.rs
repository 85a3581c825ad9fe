//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Looks until `look` says `Ok`, and returns what it brings. Panics after `within`, with what was waited for and what `look`
/// said last.
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if Instant::now() >= deadline => panic!("waited {within:?} for {what}; at last: {last}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}
