//! What lies on disk at one moment, held still while the coordinator goes on: a folder of links beside its files. Files that are replaced
//! as a whole stay what they were behind their link; those that grow in place are copied. Payloads never change and need neither.
//!
//! Made while the fleet store writes nothing: the driver waits for the end of a batch, and holds the next one back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::PayloadId;

use super::format::Header;
use super::paths::{PREFIX, is_left_out};
use crate::clock;
use crate::coordinator::database_setting;
use crate::coordinator::directory::Directory;
use crate::coordinator::keys;
use crate::coordinator::store::database::{Database, Place};
use crate::sys;

/// Moments that may be there at once; each keeps what was replaced since.
const MAX_MOMENTS: usize = 2;
/// What grows in place.
const GROWS: &str = "audit.log";
/// The database, which is copied by its own means.
const DATABASE: &str = "fleet.db";

/// What was there at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// Where its links lie.
    pub(crate) folder: PathBuf,
    pub(crate) header: Header,
    /// Complete payloads, and their lengths in bytes.
    pub(crate) payloads: BTreeMap<PayloadId, u64>,
}

impl Moment {
    /// Holds still what is there now. Nobody may write meanwhile but uploads and syncs, whose work has a name only when it is whole.
    pub(crate) async fn hold(directory: &Directory) -> anyhow::Result<Self> {
        let there = folders(directory.path())?;
        if there.len() >= MAX_MOMENTS {
            bail!(
                "{} backups are under way, or were broken off: end them, or remove the folders {}* of the data directory",
                there.len(),
                PREFIX
            );
        }
        let folder = directory.path().join(format!("{PREFIX}{}", hex::encode(keys::random::<8>()?)));
        sys::create_private_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        let held = Self::held(directory, &folder).await;
        held.inspect_err(|_| drop(fs::remove_dir_all(&folder)))
    }

    async fn held(directory: &Directory, folder: &Path) -> anyhow::Result<Self> {
        let (from, to) = (directory.path().to_owned(), folder.to_owned());
        tokio::task::spawn_blocking(move || hold_folder(&from, &to, ""))
            .await?
            .with_context(|| format!("holding the files of {} still", directory.path().display()))?;
        let place = database_setting::place(directory)?;
        let database = match &place {
            Place::File(file) if file.exists() => {
                Database::readers(place.clone())?.copy_to(&folder.join(DATABASE)).await?;
                None
            }
            Place::File(_) => None,
            Place::Postgres(..) => Some(format!("{place:?}")),
        };
        let (root, hash) = directory.newest_root()?;
        let index = directory.index()?.map(|(index, _)| index);
        let log = folder.join(GROWS);
        let decisions =
            crate::coordinator::audit_log::count(&log).with_context(|| format!("reading {}", log.display()))?;
        let header = Header {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            made: clock::wall().to_string(),
            index_version: index.map_or(0, |index| index.version),
            root_version: root.version,
            root: hash.to_string(),
            decisions,
            database,
            keys: false,
            payloads: false,
        };
        Ok(Self { folder: folder.to_owned(), header, payloads: directory.payloads()? })
    }

    /// Every file with its path below the folder, and its length.
    pub(crate) fn files(&self) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        list(&self.folder, "", &mut found)?;
        found.sort();
        Ok(found)
    }

    /// Lets it go.
    pub(crate) fn let_go(self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)
    }
}

/// Removes what backups left that were broken off.
pub(crate) fn clear(data_dir: &Path) -> anyhow::Result<()> {
    for folder in folders(data_dir)? {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

fn folders(data_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(data_dir).with_context(|| format!("reading {}", data_dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", data_dir.display()))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// `below` is the path of `from` in the data directory.
fn hold_folder(from: &Path, to: &Path, below: &str) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        let known = if below.is_empty() { name } else { format!("{below}/{name}") };
        if is_left_out(&known) || known == DATABASE || sys::is_temporary(&path) {
            continue;
        }
        let held = match entry.file_type()? {
            kind if kind.is_dir() => sys::create_private_dir(&place).and_then(|()| hold_folder(&path, &place, &known)),
            kind if kind.is_file() && known == GROWS => copy(&path, &place),
            kind if kind.is_file() => fs::hard_link(&path, &place),
            // Sockets and the like are somebody else's.
            _ => Ok(()),
        };
        match held {
            // A sync replaces what it has made, and removes what it did not finish.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            held => held?,
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (mut source, mut target) = (File::open(from)?, sys::create_private(to)?);
    if !sys::clone_blocks(&source, &target) {
        io::copy(&mut source, &mut target)?;
    }
    Ok(())
}

fn list(folder: &Path, below: &str, found: &mut Vec<(String, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| io::Error::other(format!("{} is no name", name.display())))?;
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &path, found)?;
        } else {
            found.push((path, entry.metadata()?.len()));
        }
    }
    Ok(())
}
