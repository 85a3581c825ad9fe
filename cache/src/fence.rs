//! A fence around sled: its panics become errors, a database that does not open is moved aside, and a full disk is kept
//! from it. Shared by every database of this program; knows nothing of what they hold.
//!
//! ```text
//! DIR/NAME               the database
//! DIR/NAME.spare         room that is given up when the disk is full
//! DIR/NAME.attempts      there while it is being opened: a byte per attempt that has not come back
//! DIR/NAME.damaged-<n>   a database that did not open; at most two are kept
//! ```
//!
//! sled panics on some kinds of damage. On Linux it calls `sync_file_range`, which empties no disk's cache and notes no new
//! length, so [`Fence::flush`] syncs its file after it. It neither opens nor closes well on a full disk, so it is not
//! touched while there is less room than it may need.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::os;

/// How long an instance of sled that was closed may hold its lock, before its files are left to it.
const LINGER: Duration = Duration::from_secs(10);
/// Bytes put by: several of sled's segments of 512 KiB.
const SPARE: u64 = 4 << 20;
/// What sled may write between two looks at the room there is.
const ROOM: u64 = 1 << 20;
/// Damaged databases that are kept for whoever wants to look into it.
const KEEP_DAMAGED: usize = 2;
/// Opening that never came back so many times in a row is taken for damage.
const MAX_ATTEMPTS: usize = 3;

/// Why sled did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its files are not what it wrote.
    #[error("{0}")]
    Damaged(String),
    /// The disk is full, access is refused, or somebody else has it open: an empty database would fare no better.
    #[error("{0}")]
    System(io::Error),
}

/// Runs something of sled's.
pub fn call<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) if is_system(&error) => Err(Failure::System(error)),
        Ok(Err(error)) => Err(Failure::Damaged(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Err(Failure::Damaged(format!("it panicked: {}", text.unwrap_or("without a text"))))
        }
    }
}

/// Whether an error says that there is no room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_system(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, PermissionDenied, ReadOnlyFilesystem};
    is_full(error)
        || is_locked(&error.to_string())
        || matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | OutOfMemory)
}

/// sled says so in words only.
fn is_locked(text: &str) -> bool {
    text.contains("could not acquire lock")
}

/// The place of one database.
#[derive(Debug, Clone)]
pub struct Fence {
    dir: PathBuf,
    name: &'static str,
}

impl Fence {
    /// The fence around the database `dir/name`. The caller has locked `dir` against other processes.
    pub fn new(dir: &Path, name: &'static str) -> Self {
        Self { dir: dir.to_owned(), name }
    }

    /// The database's directory.
    pub fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    fn beside(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", self.name))
    }

    /// Opens the database with `open`, which is given its directory, reads what must be readable, and may be called more
    /// than once. One that is damaged is moved aside, as the text that comes back says, and an empty one takes its place.
    pub fn open<T>(&self, open: impl Fn(&Path) -> sled::Result<T>) -> Result<(T, Option<String>), Failure> {
        self.check_room()?;
        // A byte per attempt that has not come back: an abort or an endless loop cannot be caught, only remembered.
        let before = fs::read(self.beside("attempts")).unwrap_or_default().len();
        let mut opened = if before >= MAX_ATTEMPTS {
            Err(Failure::Damaged("it failed while in use, or opening it did not end".to_owned()))
        } else {
            self.note_attempts(before + 1);
            self.try_open(&open)
        };
        if matches!(&opened, Err(Failure::System(error)) if is_full(error)) && self.give_up_spare() {
            opened = self.try_open(&open);
        }
        let mut moved = None;
        if let Err(Failure::Damaged(cause)) = &opened {
            let aside = self.move_aside().map_err(Failure::System)?;
            moved =
                Some(format!("{} is damaged ({cause}); it was moved to {}", self.path().display(), aside.display()));
            opened = self.try_open(&open);
        }
        self.note_attempts(0);
        let opened = opened?;
        if let Err(error) = self.put_by() {
            tracing::debug!(path = %self.beside("spare").display(), %error, "no room is put by for the database");
        }
        Ok((opened, moved))
    }

    /// Makes everything so far durable. After an error the database is to be opened anew: what it wrote may be lost.
    pub fn flush(&self, db: &sled::Db) -> Result<(), Failure> {
        call(|| db.flush().map(drop))?;
        let synced = File::open(self.path().join("db")).and_then(|file| os::sync(&file));
        synced.map_err(Failure::System)
    }

    /// The database failed while in use: the next [`Fence::open`] moves it aside.
    pub fn condemn(&self) {
        self.note_attempts(MAX_ATTEMPTS);
    }

    /// Refuses when sled could run into a full disk; to be asked before each [`Fence::flush`]. What was put by is given up
    /// before that.
    pub fn check_room(&self) -> Result<(), Failure> {
        let enough = || File::open(&self.dir).and_then(|dir| os::free(&dir)).map(|free| free >= ROOM);
        if enough().map_err(Failure::System)? || (self.give_up_spare() && enough().map_err(Failure::System)?) {
            return Ok(());
        }
        let text = format!("less than {} are free in {}", upswarm_protocol::units::size(ROOM), self.dir.display());
        Err(Failure::System(io::Error::new(io::ErrorKind::StorageFull, text)))
    }

    fn give_up_spare(&self) -> bool {
        fs::remove_file(self.beside("spare")).is_ok()
    }

    /// sled locks its own file, and an instance that was just closed in this process may hold that lock a little longer.
    fn try_open<T>(&self, open: impl Fn(&Path) -> sled::Result<T>) -> Result<T, Failure> {
        let until = Instant::now() + LINGER;
        loop {
            match call(|| open(&self.path())) {
                Err(Failure::System(error)) if is_locked(&error.to_string()) && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                outcome => return outcome,
            }
        }
    }

    fn note_attempts(&self, count: usize) {
        let path = self.beside("attempts");
        let noted = if count == 0 { fs::remove_file(&path) } else { fs::write(&path, vec![b'x'; count]) };
        if let Err(error) = noted
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %path.display(), %error, "cannot note how often the database was opened");
        }
    }

    /// Takes room that can be given up when the disk is full: as much as there is, by halves.
    fn put_by(&self) -> io::Result<()> {
        let file = File::options().write(true).create(true).truncate(false).open(self.beside("spare"))?;
        let there = file.metadata()?.len();
        let mut wanted = SPARE;
        while there < wanted {
            match os::take_room(&file, wanted) {
                Ok(_) => break,
                Err(_) if wanted > SPARE / 8 => wanted /= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Renames the database to `NAME.damaged-<n>`, and removes all but the newest of these.
    fn move_aside(&self) -> io::Result<PathBuf> {
        let prefix = format!("{}.damaged-", self.name);
        let mut old: Vec<(u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(&prefix)).and_then(|n| n.parse().ok());
            old.extend(number.map(|number| (number, entry.path())));
        }
        old.sort();
        let number = old.last().map_or(1, |(last, _)| last.saturating_add(1));
        let aside = self.dir.join(format!("{prefix}{number}"));
        match fs::rename(self.path(), &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let surplus = (old.len() + 1).saturating_sub(KEEP_DAMAGED);
        for (_, path) in &old[..surplus.min(old.len())] {
            fs::remove_dir_all(path)?;
        }
        os::sync_names(&self.dir)?;
        Ok(aside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> sled::Result<sled::Db> {
        sled::Config::new().path(path).cache_capacity(1 << 20).flush_every_ms(None).mode(sled::Mode::LowSpace).open()
    }

    #[test]
    fn at_most_two_damaged_databases_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let fence = Fence::new(dir.path(), "index");
        for round in 1..=4 {
            let (db, moved) = fence.open(open).unwrap();
            assert_eq!(moved.is_some(), round > 1, "round {round}");
            drop(db);
            fence.condemn();
        }
        assert!(fence.open(open).unwrap().1.is_some());
        let mut names: Vec<String> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["index", "index.damaged-3", "index.damaged-4", "index.spare"]);
    }

    #[test]
    fn a_flush_that_the_disk_does_not_take_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let fence = Fence::new(dir.path(), "index");
        let (db, _) = fence.open(open).unwrap();
        db.insert(b"key", b"value").unwrap();
        os::faults::fail_syncs(0, 1);
        assert!(matches!(fence.flush(&db), Err(Failure::System(_))));
        fence.flush(&db).unwrap();
    }
}
