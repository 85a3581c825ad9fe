//! What a `files` recipe replaced, on disk: `STATE/backup/RELEASE/manifest` (JSON, so that a person can repair by hand), and beside
//! it the replaced files by number. While files are being put in place the directory is called `RELEASE.pending`; its rename is
//! what commits them.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::ReleaseId;

use super::{Trouble, private_dir};
use crate::sys;

const VERSION: u32 = 1;
/// 1,024 entries with paths of 1,024 bytes take far less.
const MAX_BYTES: u64 = 16 << 20;
/// Releases of one product whose replaced files are kept.
const KEPT_PER_PRODUCT: usize = 3;

/// What one release put in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) product: String,
    /// Orders manifests: greater than that of every earlier one.
    pub(super) sequence: u64,
    /// Below which the paths lie.
    pub(super) root: PathBuf,
    pub(super) entries: Vec<Entry>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) path: String,
    /// Its name in the same directory before it is put in place.
    pub(super) staged: String,
    /// BLAKE3 of what is put there, in hex.
    pub(super) placed: String,
    /// Name of what was there before in the backup's directory; none if nothing was.
    pub(super) before: Option<String>,
}

impl Manifest {
    pub(super) fn new(product: &str, sequence: u64, root: &Path) -> Self {
        let (product, root) = (product.to_owned(), root.to_owned());
        Self { version: VERSION, product, sequence, root, entries: Vec::new() }
    }

    /// Reads the manifest of a backup; `None` when it was never written.
    pub(super) fn read(backup: &Path) -> Result<Option<Self>, Trouble> {
        let path = backup.join("manifest");
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| Trouble::io("cannot read", &path, error))?,
        };
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Trouble::failed(format!("{} is damaged: {error}; repair it by hand", path.display())))?;
        if manifest.version != VERSION {
            let reason = format!("{} has version {}, this program knows {VERSION}", path.display(), manifest.version);
            return Err(Trouble::failed(reason));
        }
        Ok(Some(manifest))
    }

    /// Writes the manifest of a backup; durable on return, with everything else in the directory.
    pub(super) fn write(&self, backup: &Path) -> Result<(), Trouble> {
        let path = backup.join("manifest");
        let cannot = |error: io::Error| Trouble::io("cannot write", &path, error);
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| cannot(error.into()))?;
        sys::replace(&path, &bytes, sys::Access::Owner).map_err(cannot)
    }
}

/// The directory of backups.
#[derive(Debug)]
pub(super) struct Backups {
    pub(super) dir: PathBuf,
}

impl Backups {
    pub(super) fn open(state_dir: &Path) -> Result<Self, Trouble> {
        private_dir(state_dir, "backup").map(|dir| Self { dir })
    }

    pub(super) fn committed(&self, release: ReleaseId) -> PathBuf {
        self.dir.join(release.to_string())
    }

    pub(super) fn pending(&self, release: ReleaseId) -> PathBuf {
        self.dir.join(format!("{release}.pending"))
    }

    /// The releases whose placement was not committed.
    pub(super) fn all_pending(&self) -> Result<Vec<ReleaseId>, Trouble> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".pending")?.parse().ok()).collect())
    }

    /// Every committed manifest that can be read.
    pub(super) fn all_committed(&self) -> Result<Vec<(ReleaseId, Manifest)>, Trouble> {
        let ids = self.names()?.into_iter().filter_map(|name| name.parse::<ReleaseId>().ok());
        // A damaged one is reported when its own release is removed; the others must not suffer from it.
        Ok(ids.filter_map(|id| Some((id, Manifest::read(&self.committed(id)).ok()??))).collect())
    }

    /// Commits a pending placement. Of a release that is put in place again, the first backup counts.
    pub(super) fn commit(&self, release: ReleaseId, product: &str) -> Result<(), Trouble> {
        let (pending, committed) = (self.pending(release), self.committed(release));
        if committed.join("manifest").exists() {
            return self.discard(&pending);
        }
        remove_tree(&committed)?;
        fs::rename(&pending, &committed).map_err(|error| Trouble::io("cannot commit", &pending, error))?;
        sync_dir(&self.dir)?;
        let mut same: Vec<_> = self.all_committed()?;
        same.retain(|(_, manifest)| manifest.product == product);
        same.sort_by_key(|(_, manifest)| std::cmp::Reverse(manifest.sequence));
        same.iter().skip(KEPT_PER_PRODUCT).try_for_each(|(id, _)| self.discard(&self.committed(*id)))
    }

    /// Removes a backup. A crash on the way leaves nothing that would be taken for one.
    pub(super) fn discard(&self, backup: &Path) -> Result<(), Trouble> {
        let gone = backup.with_extension("gone");
        remove_tree(&gone)?;
        match fs::rename(backup, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| Trouble::io("cannot remove", backup, error))?,
        }
        sync_dir(&self.dir)?;
        remove_tree(&gone)
    }

    /// Removes what a crash left of [`Backups::discard`].
    pub(super) fn sweep(&self) -> Result<(), Trouble> {
        let names = self.names()?;
        names.iter().filter(|name| name.ends_with(".gone")).try_for_each(|name| remove_tree(&self.dir.join(name)))
    }

    fn names(&self) -> Result<Vec<String>, Trouble> {
        let entries = fs::read_dir(&self.dir).map_err(|error| Trouble::io("cannot list", &self.dir, error))?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), Trouble> {
    sys::sync_dir(dir).map_err(|error| Trouble::io("cannot sync", dir, error))
}

pub(super) fn remove_tree(dir: &Path) -> Result<(), Trouble> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Trouble::io("cannot remove", dir, error)),
        _ => Ok(()),
    }
}
