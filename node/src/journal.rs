//! What the node must still know after a power cut, and the documents it need not fetch again.
//!
//! ```text
//! DIR/lock           held while the journal is open
//! DIR/trust          replaced whole: temporary file, fsync, rename, fsync of the directory
//! DIR/certificate    the same
//! DIR/inventory      the same
//! DIR/records/       sled: deployments by release, counters; flushed before a write returns
//! DIR/docs/HASH      documents by hash; not fsynced, since they can be fetched again
//! ```
//! What must never go back (trust) is not sled's business. A damaged `records` is moved aside and begun anew: deployments
//! are then found again by detection.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use upswarm_protocol::ids::{DocHash, ReleaseId};
use upswarm_protocol::node_state::Record;

/// The most bytes that a file of the journal or a document may have; a longer one is damaged.
const MAX_FILE: u64 = 16 << 20;
/// sled's cache; the records of a node are small.
const CACHE_BYTES: u64 = 2 << 20;
/// How long to wait for a lock: a child that another thread has just forked holds a copy of it until it has called exec.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Damaged databases that are kept for inspection.
const KEPT_ASIDE: usize = 2;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
const COUNTERS: &[u8] = b"counters";
const TEMPORARY: &str = ".tmp";

/// The journal of one node. Every method blocks on the disk.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    records: sled::Db,
    deployments: sled::Tree,
    notices: Vec<String>,
    _lock: File,
}

/// What was found when the node started.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// The last [`Record::Trust`].
    pub(crate) trust: Option<Vec<u8>>,
    /// The last [`Record::Certificate`].
    pub(crate) certificate: Option<Vec<u8>>,
    /// The last [`Record::Deployment`] of each release, in order of releases.
    pub(crate) deployments: Vec<(ReleaseId, Vec<u8>)>,
    /// The last [`Record::Counters`].
    pub(crate) counters: Option<Vec<u8>>,
    /// The last [`Record::Inventory`].
    pub(crate) inventory: Option<Vec<u8>>,
    /// What an admin should know: what was damaged, and what became of it.
    pub(crate) notices: Vec<String>,
}

impl Journal {
    /// Opens or creates the journal in `dir`, which only this user may enter. Fails when another process has it open, and when
    /// the disk does; a damaged database is no failure but a notice in [`Loaded`].
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        private_dir(dir)?;
        private_dir(&dir.join("docs"))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join("lock"));
        let lock = lock.map_err(|error| named(&dir.join("lock"), error))?;
        take_lock(dir, &lock)?;
        for place in [dir.to_owned(), dir.join("docs")] {
            remove_temporaries(&place)?;
        }
        let mut notices = Vec::new();
        let (records, deployments) = open_records(dir, &mut notices)?;
        Ok(Self { dir: dir.to_owned(), records, deployments, notices, _lock: lock })
    }

    /// Writes a record; when this returns `Ok`, it survives a power cut.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        match record {
            Record::Trust(bytes) => self.replace("trust", bytes),
            Record::Certificate(bytes) => self.replace("certificate", bytes),
            Record::Inventory(bytes) => self.replace("inventory", bytes),
            Record::Deployment(release, bytes) => self.change(|| {
                if bytes.is_empty() {
                    self.deployments.remove(release.as_bytes())?;
                } else {
                    self.deployments.insert(release.as_bytes(), bytes.as_slice())?;
                }
                Ok(())
            }),
            Record::Counters(bytes) => self.change(|| self.records.insert(COUNTERS, bytes.as_slice()).map(drop)),
        }
    }

    /// Reads everything but documents.
    pub(crate) fn load(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded {
            trust: read_if_there(&self.dir.join("trust"))?,
            certificate: read_if_there(&self.dir.join("certificate"))?,
            inventory: read_if_there(&self.dir.join("inventory"))?,
            notices: self.notices.clone(),
            ..Loaded::default()
        };
        (loaded.deployments, loaded.counters) =
            read_records(&self.records, &self.deployments).map_err(|damage| self.database(damage))?;
        Ok(loaded)
    }

    /// Keeps a document under its hash. A crash may lose it, never tear it.
    pub(crate) fn store_doc(&self, hash: DocHash, bytes: &[u8]) -> io::Result<()> {
        let path = self.doc_path(hash);
        let temporary = path.with_extension(&TEMPORARY[1..]);
        write_new(&temporary, bytes).map_err(|error| named(&temporary, error))?;
        fs::rename(&temporary, &path).map_err(|error| named(&path, error))
    }

    /// Removes a document; one that is not there is no error.
    pub(crate) fn drop_doc(&self, hash: DocHash) -> io::Result<()> {
        let path = self.doc_path(hash);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(&path, error)),
            _ => Ok(()),
        }
    }

    /// Every document whose bytes still have their hash, one at a time; the others are deleted, and a notice stands in their
    /// place. Files with other names are left alone.
    pub(crate) fn docs(&self) -> io::Result<impl Iterator<Item = Result<(DocHash, Vec<u8>), String>>> {
        let dir = self.dir.join("docs");
        let entries = fs::read_dir(&dir).map_err(|error| named(&dir, error))?;
        Ok(entries.filter_map(|entry| {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => return Some(Err(format!("documents cannot be listed: {error}"))),
            };
            let hash: DocHash = path.file_name().and_then(OsStr::to_str)?.parse().ok()?;
            Some(match read_if_there(&path) {
                Ok(Some(bytes)) if DocHash::of(&bytes) == hash => Ok((hash, bytes)),
                Ok(_) => {
                    let _ = fs::remove_file(&path);
                    Err(format!("document {} was damaged on disk and is fetched again", hash.short()))
                }
                Err(error) => Err(format!("document {} cannot be read: {error}", hash.short())),
            })
        }))
    }

    fn doc_path(&self, hash: DocHash) -> PathBuf {
        self.dir.join("docs").join(hash.to_string())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.dir.join(name);
        let temporary = self.dir.join(format!("{name}{TEMPORARY}"));
        let file = write_new(&temporary, bytes).map_err(|error| named(&temporary, error))?;
        file.sync_all().map_err(|error| named(&temporary, error))?;
        fs::rename(&temporary, &path).map_err(|error| named(&path, error))?;
        sync_dir(&self.dir)
    }

    fn change(&self, change: impl FnOnce() -> sled::Result<()>) -> io::Result<()> {
        guarded(|| {
            change()?;
            self.records.flush().map(drop)
        })
        .map_err(|damage| self.database(damage))
    }

    fn database(&self, damage: Damage) -> io::Error {
        let path = self.dir.join("records");
        let text = format!("{}: {}; restart the node to move it aside and begin anew", path.display(), damage.text);
        io::Error::new(damage.kind, text)
    }
}

type Records = (sled::Db, sled::Tree);

/// Why sled did not do something.
struct Damage {
    kind: io::ErrorKind,
    text: String,
}

impl Damage {
    /// Whether the disk, its rights or a lock, rather than the database's content, stand in the way: then nothing is moved
    /// aside.
    fn is_the_disks(&self) -> bool {
        use io::ErrorKind as Kind;
        self.is_a_lock()
            || matches!(
                self.kind,
                Kind::PermissionDenied
                    | Kind::StorageFull
                    | Kind::QuotaExceeded
                    | Kind::ReadOnlyFilesystem
                    | Kind::OutOfMemory
            )
    }

    /// sled says so in words only.
    fn is_a_lock(&self) -> bool {
        self.text.contains("could not acquire lock")
    }
}

/// Runs something of sled's, which panics on some kinds of damage.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, Damage> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(sled::Error::Io(error))) => Err(Damage { kind: error.kind(), text: error.to_string() }),
        Ok(Err(other)) => Err(Damage { kind: io::ErrorKind::InvalidData, text: other.to_string() }),
        Err(_) => Err(Damage { kind: io::ErrorKind::InvalidData, text: "the database is damaged".into() }),
    }
}

fn open_records(dir: &Path, notices: &mut Vec<String>) -> io::Result<Records> {
    let path = dir.join("records");
    let whole = |damage: Damage| io::Error::new(damage.kind, format!("{}: {}", path.display(), damage.text));
    // Opening reads little: damage shows when the records are read.
    let opened = open_sled(&path).and_then(|(db, tree)| read_records(&db, &tree).map(|_| (db, tree)));
    match opened {
        Ok(records) => Ok(records),
        Err(damage) if damage.is_the_disks() => Err(whole(damage)),
        Err(damage) => {
            let aside = move_aside(dir, &path)?;
            notices.push(format!(
                "the record of deployments was damaged ({}); it was moved to {} and begun anew",
                damage.text,
                aside.display()
            ));
            open_sled(&path).map_err(whole)
        }
    }
}

fn open_sled(path: &Path) -> Result<Records, Damage> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let opened = guarded(|| {
            let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
            let db = config.mode(sled::Mode::LowSpace).open()?;
            let deployments = db.open_tree("deployments")?;
            Ok((db, deployments))
        });
        match opened {
            Err(damage) if damage.is_a_lock() && Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
}

type Content = (Vec<(ReleaseId, Vec<u8>)>, Option<Vec<u8>>);

fn read_records(db: &sled::Db, tree: &sled::Tree) -> Result<Content, Damage> {
    guarded(|| {
        let mut deployments = Vec::new();
        for entry in tree {
            let (key, value) = entry?;
            let key: [u8; 32] =
                key.as_ref().try_into().map_err(|_| sled::Error::Unsupported("a key of another length".into()))?;
            deployments.push((ReleaseId(key), value.to_vec()));
        }
        Ok((deployments, db.get(COUNTERS)?.map(|value| value.to_vec())))
    })
}

fn move_aside(dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let aside = |number: usize| dir.join(format!("records.damaged-{number}"));
    let number = (1..KEPT_ASIDE).find(|number| !aside(*number).exists()).unwrap_or(KEPT_ASIDE);
    remove_tree(&aside(number))?;
    fs::rename(path, aside(number)).map_err(|error| named(path, error))?;
    sync_dir(dir)?;
    Ok(aside(number))
}

fn take_lock(dir: &Path, lock: &File) -> io::Result<()> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => {
                let dir = dir.display();
                let text = format!("another upswarm process uses {dir}; stop it first or choose another directory");
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
            Err(error) => return Err(named(&dir.join("lock"), error.into())),
        }
    }
}

fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| named(dir, error))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| named(dir, error))
}

/// Writes a file for this user alone, over whatever a crash left under its name.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<File> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| named(path, error))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|error| named(path, error))?;
    Ok(Some(bytes))
}

fn remove_temporaries(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir).map_err(|error| named(dir, error))? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(&TEMPORARY[1..])) {
            fs::remove_file(&path).map_err(|error| named(&path, error))?;
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|error| named(path, error))
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
