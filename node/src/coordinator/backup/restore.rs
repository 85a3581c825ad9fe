//! A backup made a data directory again. Everything is verified on its way into a folder beside the new one, which gets its name when all
//! is there: a restore that is broken off leaves no directory that looks whole.

use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::format::{self, Header, Sink};
use crate::clock;
use crate::coordinator::directory::Directory;
use crate::coordinator::keys::{self, KeyUse, Passphrase};
use crate::sys::{self, Access};

/// What the first start of a restored directory says in the log of decisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// RFC 3339.
    pub(crate) restored: String,
    pub(crate) header: Header,
}

impl Note {
    /// In words.
    pub(crate) fn words(&self) -> String {
        let Header { made, index_version, decisions, .. } = &self.header;
        format!(
            "this coordinator goes on from a backup of {made}, restored {}: index version {index_version}, {decisions} entries of this \
             log. What was published and decided after that is not here: publish, approve and pause again what is gone",
            self.restored
        )
    }
}

/// What was restored.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) header: Header,
    /// Keys that the directory lacks before it can run.
    pub(crate) lacks: Vec<String>,
    /// Whether a passphrase or a hash has shown that the file is the one that was made.
    pub(crate) shown: bool,
}

/// Makes a data directory of a backup. `passphrase` is asked for only when keys are in it. `expected` is the hash that the backup has
/// named when it was made.
pub(crate) fn restore(
    file: &Path,
    data_dir: &Path,
    expected: Option<blake3::Hash>,
    passphrase: &mut dyn FnMut() -> anyhow::Result<Passphrase>,
    moved: impl FnMut(u64),
) -> anyhow::Result<Restored> {
    must_be_free(data_dir)?;
    let mut beside = data_dir.file_name().context("name a directory")?.to_owned();
    beside.push(format!(".restoring-{}", hex::encode(keys::random::<4>()?)));
    let beside = data_dir.with_file_name(beside);
    sys::make_private_dir(&beside).with_context(|| format!("making {}", beside.display()))?;
    let restored = restore_to(file, &beside, expected, passphrase, moved).and_then(|restored| {
        // The last moment at which somebody else could have made it.
        must_be_free(data_dir)?;
        sys::rename(&beside, data_dir).with_context(|| format!("giving {} its name", data_dir.display()))?;
        Ok(restored)
    });
    restored.inspect_err(|_| drop(fs::remove_dir_all(&beside)))
}

fn must_be_free(data_dir: &Path) -> anyhow::Result<()> {
    match fs::read_dir(data_dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => bail!("{} is not empty and is not overwritten; name a new directory", data_dir.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("reading {}", data_dir.display())),
    }
}

fn restore_to(
    file: &Path,
    dir: &Path,
    expected: Option<blake3::Hash>,
    passphrase: &mut dyn FnMut() -> anyhow::Result<Passphrase>,
    moved: impl FnMut(u64),
) -> anyhow::Result<Restored> {
    let open = || File::open(file).with_context(|| format!("reading {}", file.display()));
    // Before anything is copied: whoever has the wrong passphrase learns it at once when it is asked for, and not twice.
    let header = format::header(&mut open()?)?;
    let passphrase = header.keys.then(&mut *passphrase).transpose()?;
    let directory = Directory::new(dir);
    directory.create()?;
    let mut sink = Files { dir: dir.to_owned(), passphrase, open: None, had_keys: false, moved };
    let (header, hash) = format::read(BufReader::with_capacity(1 << 20, open()?), &mut sink)?;
    if let Some(expected) = expected.filter(|expected| *expected != hash) {
        bail!(
            "the backup was changed after it was made, or is another one: its hash is {hash}, and {expected} was expected"
        );
    }
    if header.keys != sink.had_keys {
        bail!("the backup is damaged: it says otherwise than it holds whether keys are in it");
    }
    let note = Note { restored: clock::wall().to_string(), header: header.clone() };
    sys::replace(&directory.restored(), &serde_json::to_vec(&note)?, Access::Owner).context("writing the note")?;
    if !sink.had_keys {
        directory.write_token(&hex::encode(keys::random::<32>()?))?;
    }
    let (root, hash) = directory.newest_root()?;
    if hash.to_string() != header.root {
        bail!("the backup is damaged: its newest root of trust is not the one that it names");
    }
    directory.index()?;
    let keys_dir = directory.keys();
    let lacks = [KeyUse::Online, KeyUse::Identity, KeyUse::Report].map(|r#use| keys::file(&keys_dir, r#use, 1));
    let lacks = lacks.iter().filter(|path| !path.exists());
    let lacks = lacks.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    tracing::debug!(root = root.version, "restored");
    sync(dir)?;
    let shown = sink.had_keys || expected.is_some();
    Ok(Restored { header, lacks, shown })
}

/// Makes every folder's entries durable; files were when they were whole.
fn sync(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync(&entry.path())?;
        }
    }
    sys::sync_dir(dir).with_context(|| format!("syncing {}", dir.display()))
}

/// Files on their way into a folder.
struct Files<M> {
    dir: PathBuf,
    passphrase: Option<Passphrase>,
    open: Option<(File, PathBuf)>,
    had_keys: bool,
    moved: M,
}

impl<M: FnMut(u64)> Sink for Files<M> {
    fn file(&mut self, path: &str, _: u64) -> anyhow::Result<()> {
        let place = self.dir.join(path);
        let above = place.parent().unwrap_or(&self.dir);
        sys::make_private_dir(above).with_context(|| format!("making {}", above.display()))?;
        let file = sys::create_private(&place).with_context(|| format!("making {}", place.display()))?;
        self.open = Some((file, place));
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let Some((file, place)) = &mut self.open else { bail!("bytes of no file") };
        file.write_all(bytes).with_context(|| format!("writing {}", place.display()))?;
        (self.moved)(bytes.len() as u64);
        Ok(())
    }

    fn whole(&mut self) -> anyhow::Result<()> {
        let Some((file, place)) = self.open.take() else { bail!("the end of no file") };
        file.sync_all().with_context(|| format!("writing {}", place.display()))
    }

    fn secrets(&mut self, bytes: &[u8], before: blake3::Hash) -> anyhow::Result<()> {
        let Some(passphrase) = &self.passphrase else { bail!("the backup holds keys that its header does not name") };
        for (path, bytes) in super::unsealed(bytes, passphrase, before)? {
            let above = self.dir.join(&path);
            let above = above.parent().unwrap_or(&self.dir);
            sys::make_private_dir(above).with_context(|| format!("making {}", above.display()))?;
            sys::replace(&self.dir.join(&path), &bytes, Access::Owner).with_context(|| format!("writing {path}"))?;
        }
        self.had_keys = true;
        Ok(())
    }
}
