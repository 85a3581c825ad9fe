//! One state of an upstream, as its own people signed it: InRelease and the indexes that it names, in a folder that never changes.
//! Owns what lies in it and how it is read again; never makes one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use upswarm_protocol::ids::PayloadId;
use upswarm_protocol::time::Wall;

use super::feeds::advisories::Distribution;
use crate::coordinator::files::read_json_or_default;
use crate::sys::{self, Access};
use crate::upstream::compression::Compression;
use crate::upstream::packages::{self, Package};
use crate::upstream::release::sha256;

/// Snapshots that are kept beside the newest.
const KEPT_BEFORE: usize = 2;
const FACTS: &str = "snapshot.json";
const SOURCES: &str = "sources.json";
/// An empty file: a release was made of it.
const USED: &str = "used";
pub(crate) const IN_RELEASE: &str = "InRelease";

/// A snapshot on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// BLAKE3 of its InRelease.
    pub(crate) id: PayloadId,
    pub(crate) dir: PathBuf,
    pub(crate) facts: Facts,
}

/// What is known of it without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Facts {
    /// InRelease's Date.
    pub(crate) date: Wall,
    /// InRelease's Valid-Until.
    pub(crate) valid_until: Option<Wall>,
    /// InRelease's Origin, Codename and Version; empty when it does not say.
    pub(crate) origin: String,
    pub(crate) codename: String,
    pub(crate) version: String,
    pub(crate) indexes: Vec<Index>,
}

/// A source package of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// The newest version of it.
    pub(crate) version: String,
    /// The Date of the first snapshot here that has this version: it is at least so old.
    pub(crate) since: Wall,
}

/// Source packages by name.
pub(crate) type Sources = BTreeMap<String, Source>;

/// An index of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    /// Below `dists/<suite>/`.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) len: u64,
    /// In hex.
    pub(crate) sha256: String,
    /// Packages that it names.
    pub(crate) packages: u64,
}

impl Index {
    /// The name of its file in the snapshot, and as a payload.
    pub(crate) fn file_name(&self) -> String {
        file_name(&self.path)
    }
}

/// The name of an index's file.
pub(crate) fn file_name(path: &str) -> String {
    path.replace('/', "_")
}

impl Snapshot {
    /// Its version for people and releases, `20261129T120000Z`.
    pub(crate) fn version(&self) -> String {
        version(self.facts.date)
    }

    /// Notes that a release was made of it.
    pub(crate) fn note_used(&self) -> anyhow::Result<()> {
        sys::replace(&self.dir.join(USED), b"", Access::Owner)
            .with_context(|| format!("writing to {}", self.dir.display()))
    }

    /// All bytes of it.
    pub(crate) fn len(&self) -> u64 {
        self.facts.indexes.iter().map(|index| index.len).sum()
    }

    /// Packages of all indexes.
    pub(crate) fn packages(&self) -> u64 {
        self.facts.indexes.iter().map(|index| index.packages).sum()
    }

    /// Its source packages. What cannot be read is not known: only their ages rest on it.
    pub(crate) fn sources(&self) -> Sources {
        read_json_or_default(&self.dir.join(SOURCES)).unwrap_or_else(|error| {
            tracing::warn!("{error:#}");
            Sources::new()
        })
    }

    /// The release of a distribution that it is of, as feeds call it.
    pub(crate) fn distribution(&self) -> Distribution {
        Distribution::of(&self.facts.origin, &self.facts.codename, &self.facts.version)
    }

    /// Hands every package to `each`. Whatever has changed in its folder since it was made is an error. Blocks.
    pub(crate) fn read(&self, mut each: impl FnMut(Package)) -> anyhow::Result<()> {
        for index in &self.facts.indexes {
            let path = self.dir.join(index.file_name());
            let damaged = || format!("{} is damaged; remove its folder and sync again", path.display());
            let mut file = File::open(&path).with_context(damaged)?;
            let mut hash = Sha256::new();
            io::copy(&mut file, &mut hash).with_context(damaged)?;
            if sha256(&index.sha256) != Some(hash.finalize().into()) {
                bail!(damaged());
            }
            read_index(&path, &mut each).with_context(damaged)?;
        }
        Ok(())
    }

    /// Reads a finished one; `None` where the folder holds none.
    fn load(dir: &Path) -> Option<Self> {
        let id = dir.file_name()?.to_str()?.parse().ok()?;
        let facts = serde_json::from_slice(&fs::read(dir.join(FACTS)).ok()?).ok()?;
        Some(Self { id, dir: dir.to_owned(), facts })
    }
}

/// The version of a snapshot of this date.
pub(crate) fn version(date: Wall) -> String {
    let time = i64::try_from(date.0).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    time.map_or_else(|| date.0.to_string(), |time| time.strftime("%Y%m%dT%H%M%SZ").to_string())
}

/// Hands every package of an index's file to `each`; returns how many there are. Blocks.
pub(crate) fn read_index(path: &Path, each: impl FnMut(Package)) -> anyhow::Result<usize> {
    let compression = Compression::of(&path.to_string_lossy());
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(packages::read(compression.open(file)?, each)?)
}

/// The snapshots below an upstream's folder, the oldest first.
pub(crate) fn all(upstream: &Path) -> Vec<Snapshot> {
    let entries = fs::read_dir(upstream).into_iter().flatten().flatten();
    let mut found: Vec<Snapshot> = entries.filter_map(|entry| Snapshot::load(&entry.path())).collect();
    found.sort_by_key(|snapshot| (snapshot.facts.date, snapshot.id));
    found
}

/// Gives a folder that holds everything its place; durable on return, as is what lies in it.
pub(crate) fn finish(
    making: &Path,
    upstream: &Path,
    id: PayloadId,
    facts: Facts,
    sources: &Sources,
) -> anyhow::Result<Snapshot> {
    let dir = upstream.join(id.to_string());
    let context = || format!("writing to {}", upstream.display());
    sys::replace(&making.join(SOURCES), &serde_json::to_vec(sources)?, Access::Owner).with_context(context)?;
    sys::replace(&making.join(FACTS), &serde_json::to_vec_pretty(&facts)?, Access::Owner).with_context(context)?;
    sys::sync_dir(making).with_context(context)?;
    sys::rename(making, &dir).with_context(context)?;
    Ok(Snapshot { id, dir, facts })
}

/// Removes what is too old, beginning with the oldest. As many as of the newest stay of those that a release was made of: machines may
/// be in that state, and go back to it.
pub(crate) fn retire(upstream: &Path) {
    let mut snapshots = all(upstream);
    let newest = snapshots.split_off(snapshots.len().saturating_sub(KEPT_BEFORE + 1));
    let is_used = |snapshot: &Snapshot| snapshot.dir.join(USED).exists();
    let used = snapshots.iter().rev().filter(|snapshot| is_used(snapshot)).take(KEPT_BEFORE + 1);
    let used: Vec<PayloadId> = used.map(|snapshot| snapshot.id).collect();
    let (kept, snapshots): (Vec<Snapshot>, Vec<Snapshot>) =
        snapshots.into_iter().partition(|snapshot| used.contains(&snapshot.id));
    let keep: Vec<Snapshot> = kept.into_iter().chain(newest).collect();
    tracing::debug!(kept = keep.len(), removed = snapshots.len(), "old snapshots");
    for old in snapshots {
        if let Err(error) = remove(&old.dir) {
            tracing::warn!(path = %old.dir.display(), %error, "an old snapshot could not be removed");
        }
    }
}

/// Removes folders that an abrupt stop has left unfinished.
pub(crate) fn remove_unfinished(upstream: &Path) {
    let entries = fs::read_dir(upstream).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(MAKING)) {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "an unfinished snapshot could not be removed");
        }
    }
}

/// How the name of a folder begins in which a snapshot is made.
pub(crate) const MAKING: &str = "new-";

/// Takes the name away first, so that nobody ever sees half of it.
fn remove(dir: &Path) -> io::Result<()> {
    let name = format!("{MAKING}old-{}", dir.file_name().unwrap_or_default().display());
    let aside = dir.with_file_name(name);
    sys::rename(dir, &aside)?;
    fs::remove_dir_all(aside)
}
