//! Files of a snapshot on their way to becoming payloads: fetched, cut, and put where the origin serves them. Owns that way;
//! whoever is told of a payload decides what it is for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use upswarm_cache::chunker::chunk_file;
use upswarm_protocol::catalog::Payload;
use upswarm_protocol::chunk::ChunkSizes;
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::{DocHash, PayloadId};

use crate::coordinator::directory::{Change, Directory};
use crate::coordinator::files::read_json_or_default;
use crate::coordinator::keys;
use crate::sys::{self, Access};

/// A file that is in the payload store, with what a release says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored {
    pub(crate) id: PayloadId,
    pub(crate) len: u64,
    /// In hex.
    pub(crate) sha256: String,
    pub(crate) chunk_list: DocHash,
    pub(crate) chunk_list_len: u32,
}

impl Stored {
    /// The payload of this name.
    pub(crate) fn payload(&self, name: &str) -> anyhow::Result<Payload> {
        let mut sha256 = [0; 32];
        hex::decode_to_slice(&self.sha256, &mut sha256).context("a stored hash")?;
        Ok(Payload {
            name: Text::new(name).context("the name of a payload")?,
            id: self.id,
            len: self.len,
            chunk_list: self.chunk_list,
            chunk_list_len: self.chunk_list_len,
            sha256,
            urls: Bounded::default(),
            patches: Bounded::default(),
        })
    }

    fn is_there(&self, directory: &Directory) -> bool {
        let len = fs::metadata(directory.payload(&self.id)).map(|found| found.len());
        len.is_ok_and(|len| len == self.len) && directory.doc(&self.chunk_list).is_file()
    }
}

/// Which files of an upstream are payloads already, by their SHA-256 in hex. What cannot be read is fetched again.
pub(crate) struct Known {
    path: PathBuf,
    files: BTreeMap<String, Stored>,
}

impl Known {
    /// Those of an upstream's folder.
    pub(crate) fn load(upstream: &Path) -> Self {
        let path = upstream.join("payloads.json");
        let files = read_json_or_default(&path).unwrap_or_default();
        Self { path, files }
    }

    /// A file that is there.
    pub(crate) fn get(&self, sha256: &str, directory: &Directory) -> Option<&Stored> {
        self.files.get(sha256).filter(|stored| stored.is_there(directory))
    }

    /// Remembers files; those that are no payloads any more are forgotten.
    pub(crate) fn add(&mut self, more: Vec<Stored>, directory: &Directory) -> anyhow::Result<()> {
        self.files.extend(more.into_iter().map(|stored| (stored.sha256.clone(), stored)));
        self.files.retain(|_, stored| stored.is_there(directory));
        let bytes = serde_json::to_vec(&self.files)?;
        sys::replace(&self.path, &bytes, Access::Owner).with_context(|| format!("writing {}", self.path.display()))
    }
}

/// Puts a file that was verified into the payload store; durable on return. The file itself goes there, or with `keep` a copy of
/// it. Blocks.
pub(crate) fn put(directory: &Directory, file: &Path, keep: bool) -> anyhow::Result<Stored> {
    let context = || format!("storing {}", file.display());
    let cut = chunk_file(File::open(file).with_context(context)?, ChunkSizes::default()).with_context(context)?;
    let list = cut.list.to_bytes();
    let stored = Stored {
        id: cut.id,
        len: cut.list.payload_len(),
        sha256: hex::encode(cut.sha256),
        chunk_list: DocHash::of(&list),
        chunk_list_len: u32::try_from(list.len()).with_context(context)?,
    };
    if !directory.doc(&stored.chunk_list).is_file() {
        directory.apply(&[Change::Put(directory.doc(&stored.chunk_list), list)])?;
    }
    let place = directory.payload(&stored.id);
    if fs::metadata(&place).is_ok_and(|found| found.len() == stored.len) {
        if !keep {
            sys::remove_soon(file).with_context(context)?;
        }
        return Ok(stored);
    }
    if !keep && sys::rename(file, &place).is_ok() {
        return Ok(stored);
    }
    let beside = directory.upload().join(hex::encode(keys::random::<16>()?));
    fs::copy(file, &beside).with_context(context)?;
    File::open(&beside).and_then(|copy| copy.sync_all()).with_context(context)?;
    sys::rename(&beside, &place).with_context(context)?;
    Ok(stored)
}
