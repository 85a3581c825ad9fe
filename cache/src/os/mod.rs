//! The operating system as the store needs it: room, locks, positioned reads and writes, and making things durable. The
//! only part of this crate that names a system, and the only one that syncs; it decides nothing.

#[cfg(unix)]
mod unix;

use std::fs::File;
use std::io;
use std::path::Path;

#[cfg(unix)]
pub(crate) use unix::*;

/// Makes a file's content durable. After a failure nobody knows what of it is on disk: the system may have dropped what it
/// could not write and report success the next time. Whoever calls this again writes the bytes again first.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    #[cfg(test)]
    faults::before_sync()?;
    file.sync_data()
}

/// As [`sync`], with what the system keeps about the file.
pub(crate) fn sync_all(file: &File) -> io::Result<()> {
    #[cfg(test)]
    faults::before_sync()?;
    file.sync_all()
}

/// Makes new, changed and removed names of a directory durable.
pub(crate) fn sync_names(dir: &Path) -> io::Result<()> {
    sync_all(&File::open(dir)?)
}

/// A plan of failures, for tests. It holds for the thread that makes it.
#[cfg(test)]
pub(crate) mod faults {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static SYNCS: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
        static SEEN: Cell<u32> = const { Cell::new(0) };
    }

    /// After `good` syncs more, the next `bad` ones fail.
    pub(crate) fn fail_syncs(good: u32, bad: u32) {
        SYNCS.set((good, bad));
    }

    /// Failures of the plan that have not come.
    pub(crate) fn left() -> u32 {
        SYNCS.get().1
    }

    /// Syncs of this thread so far.
    pub(crate) fn seen() -> u32 {
        SEEN.get()
    }

    pub(super) fn before_sync() -> io::Result<()> {
        SEEN.set(SEEN.get() + 1);
        let (good, bad) = SYNCS.get();
        if good > 0 {
            SYNCS.set((good - 1, bad));
        } else if bad > 0 {
            SYNCS.set((0, bad - 1));
            return Err(io::Error::other("the disk does not take it, as the test wants"));
        }
        Ok(())
    }
}
