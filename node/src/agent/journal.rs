//! What the node must still know after a power cut, and the documents it need not fetch again.
//!
//! ```text
//! DIR/lock           held while the journal is open
//! DIR/trust          replaced whole: temporary file, fsync, rename, fsync of the directory
//! DIR/certificate    the same
//! DIR/assignment     the same: the groups of this device
//! DIR/inventory      the same
//! DIR/records/       sled: deployments by release, counters; flushed before a write returns
//! DIR/docs/HASH      documents by hash; not fsynced, since they can be fetched again
//! ```
//! What must never go back (trust) is not sled's business. A damaged `records` is moved aside and begun anew: deployments
//! are then found again by detection.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use upswarm_cache::fence::{self, Failure, Fence};
use upswarm_protocol::ids::{DocHash, ReleaseId};
use upswarm_protocol::node::Record;

use crate::sys::{self, Access, Lock, Share};

/// The most bytes that a file of the journal or a document may have; a longer one is damaged.
const MAX_FILE: u64 = 16 << 20;
/// sled's cache; the records of a node are small.
const CACHE_BYTES: u64 = 2 << 20;
const COUNTERS: &[u8] = b"counters";

/// The journal of one node. Every method blocks on the disk.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    fence: Fence,
    /// `None` after a failure: opened anew by the next write.
    records: Option<Records>,
    notices: Vec<String>,
    _lock: Lock,
}

/// What was found when the node started.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// The last [`Record::Trust`].
    pub(crate) trust: Option<Vec<u8>>,
    /// The last [`Record::Certificate`].
    pub(crate) certificate: Option<Vec<u8>>,
    /// The last [`Record::Assignment`].
    pub(crate) assignment: Option<Vec<u8>>,
    /// The last [`Record::Deployment`] of each release, in order of releases.
    pub(crate) deployments: Vec<(ReleaseId, Vec<u8>)>,
    /// The last [`Record::Counters`].
    pub(crate) counters: Option<Vec<u8>>,
    /// The last [`Record::Inventory`].
    pub(crate) inventory: Option<Vec<u8>>,
    /// The last [`Record::WanLimits`].
    pub(crate) wan_limits: Option<Vec<u8>>,
    /// What an admin should know: what was damaged, and what became of it.
    pub(crate) notices: Vec<String>,
}

impl Journal {
    /// Opens or creates the journal in `dir`, which only this user may enter. Fails when another process has it open, and when
    /// the disk does; a damaged database is no failure but a notice in [`Loaded`].
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        private_dir(dir)?;
        private_dir(&dir.join("docs"))?;
        let lock = take_lock(dir)?;
        for place in [dir.to_owned(), dir.join("docs")] {
            remove_temporaries(&place)?;
        }
        let mut notices = Vec::new();
        let fence = Fence::new(dir, "records");
        let records = Some(open_records(&fence, &mut notices)?);
        Ok(Self { dir: dir.to_owned(), fence, records, notices, _lock: lock })
    }

    /// Writes records in order; when this returns `Ok`, all of them survive a power cut. After an error some may be written,
    /// and writing the same ones again is right. An error of kind [`io::ErrorKind::StorageFull`] has damaged nothing: it can
    /// be tried again when there is room.
    pub(crate) fn write(&mut self, records: &[&Record]) -> io::Result<()> {
        let mut changes = Vec::new();
        for record in records {
            match record {
                Record::Trust(bytes) => self.replace("trust", bytes)?,
                Record::Certificate(bytes) => self.replace("certificate", bytes)?,
                Record::Assignment(bytes) => self.replace("assignment", bytes)?,
                Record::Inventory(bytes) => self.replace("inventory", bytes)?,
                Record::WanLimits(bytes) => self.replace("wan-limits", bytes)?,
                Record::Deployment(release, bytes) => changes.push((Some(release), bytes)),
                Record::Counters(bytes) => changes.push((None, bytes)),
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let failed = |failure| failed(&self.fence, failure);
        self.fence.check_room().map_err(failed)?;
        let (db, deployments) = match self.records.take() {
            Some(records) => records,
            None => open_records(&self.fence, &mut Vec::new())?,
        };
        let changed = fence::call(|| {
            changes.iter().try_for_each(|(release, bytes)| match release {
                Some(release) if bytes.is_empty() => deployments.remove(release.as_bytes()).map(drop),
                Some(release) => deployments.insert(release.as_bytes(), bytes.as_slice()).map(drop),
                None => db.insert(COUNTERS, bytes.as_slice()).map(drop),
            })
        });
        match changed.and_then(|()| self.fence.flush(&db)) {
            Ok(()) => self.records = Some((db, deployments)),
            Err(failure) => {
                // It works no further; what was flushed before is on disk.
                let _ = fence::call(|| {
                    drop((db, deployments));
                    Ok(())
                });
                return Err(failed(failure));
            }
        }
        Ok(())
    }

    /// Reads everything but documents.
    pub(crate) fn load(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded {
            trust: read_if_there(&self.dir.join("trust"))?,
            certificate: read_if_there(&self.dir.join("certificate"))?,
            assignment: read_if_there(&self.dir.join("assignment"))?,
            inventory: read_if_there(&self.dir.join("inventory"))?,
            wan_limits: read_if_there(&self.dir.join("wan-limits"))?,
            notices: self.notices.clone(),
            ..Loaded::default()
        };
        if let Some((db, deployments)) = &self.records {
            let read = fence::call(|| read_records(db, deployments));
            (loaded.deployments, loaded.counters) = read.map_err(|failure| failed(&self.fence, failure))?;
        }
        Ok(loaded)
    }

    /// Keeps a document under its hash. A crash may lose it, never tear it.
    pub(crate) fn store_doc(&self, hash: DocHash, bytes: &[u8]) -> io::Result<()> {
        let path = self.doc_path(hash);
        sys::replace_soon(&path, bytes, Access::Owner).map_err(|error| named(&path, error))
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
        sys::replace(&path, bytes, Access::Owner).map_err(|error| named(&path, error))
    }
}

type Records = (sled::Db, sled::Tree);
type Content = (Vec<(ReleaseId, Vec<u8>)>, Option<Vec<u8>>);

fn open_records(fence: &Fence, notices: &mut Vec<String>) -> io::Result<Records> {
    let opened = fence.open(|path| {
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.mode(sled::Mode::LowSpace).open()?;
        let deployments = db.open_tree("deployments")?;
        // Opening reads little: damage shows when the records are read.
        read_records(&db, &deployments)?;
        Ok((db, deployments))
    });
    let (records, moved) = opened.map_err(|failure| failed(fence, failure))?;
    notices.extend(moved.map(|moved| format!("the record of deployments {moved} and begun anew")));
    Ok(records)
}

fn read_records(db: &sled::Db, tree: &sled::Tree) -> sled::Result<Content> {
    let mut deployments = Vec::new();
    for entry in tree {
        let (key, value) = entry?;
        let key: [u8; 32] =
            key.as_ref().try_into().map_err(|_| sled::Error::Unsupported("a key of another length".into()))?;
        deployments.push((ReleaseId(key), value.to_vec()));
    }
    Ok((deployments, db.get(COUNTERS)?.map(|value| value.to_vec())))
}

fn failed(fence: &Fence, failure: Failure) -> io::Error {
    match failure {
        Failure::System(error) => named(&fence.path(), error),
        Failure::Damaged(text) => io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: {text}; restart the node to move it aside and begin anew", fence.path().display()),
        ),
    }
}

fn take_lock(dir: &Path) -> io::Result<Lock> {
    let path = dir.join("lock");
    sys::lock_patiently(&path, Share::Alone).map_err(|error| named(&path, error))?.ok_or_else(|| {
        let dir = dir.display();
        let text = format!("another upswarm process uses {dir}; stop it first or choose another directory");
        io::Error::new(io::ErrorKind::AddrInUse, text)
    })
}

fn private_dir(dir: &Path) -> io::Result<()> {
    sys::make_private_dir(dir).map_err(|error| named(dir, error))
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
        if sys::is_temporary(&path) {
            fs::remove_file(&path).map_err(|error| named(&path, error))?;
        }
    }
    Ok(())
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
