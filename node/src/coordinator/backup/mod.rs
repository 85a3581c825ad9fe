//! A coordinator's directory in one file, and back. A backup is what lay on disk between two batches of the fleet store, so that
//! everything that was acknowledged by then is in it and nothing is half there: [`moment`] holds that state still as links, which costs
//! no copy, [`write`] streams it out beside the coordinator, which goes on, and [`restore`] makes a directory of it again.
//!
//! Owns what belongs to a backup and what does not. Private keys are in it encrypted by a passphrase, or left out; what is only about the
//! process that runs (lock, sockets, half uploads) is not.

pub(crate) mod format;
pub(crate) mod moment;
pub(crate) mod paths;
pub(crate) mod restore;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use self::format::{Header, Writer};
use self::moment::Moment;
use super::directory::Directory;
use super::files::files;
use super::keys::{self, Passphrase};

/// What the keys of a backup are encrypted with besides their passphrase: they are a backup's and nothing else's.
const KEYS_ARE_FOR: &[u8] = b"upswarm backup keys v1";

/// What keeps an admin and machines trusting the restored coordinator.
#[derive(Serialize, Deserialize)]
struct Secrets {
    /// Hex, of the BLAKE3 of everything before these in the backup: it shows that nobody without the passphrase changed a file there.
    before: String,
    files: Vec<SecretFile>,
}

#[derive(Serialize, Deserialize)]
struct SecretFile {
    /// Relative to the data directory.
    path: String,
    /// Hex.
    bytes: String,
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Held {
    pub(crate) files: u64,
    pub(crate) payloads: u64,
    /// Bytes of all of them.
    pub(crate) bytes: u64,
}

/// A backup that was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) held: Held,
    /// Of the whole file; kept elsewhere, it shows whether the file was changed.
    pub(crate) hash: blake3::Hash,
}

/// Writes a backup of a moment. `moved` hears of bytes as they go.
pub(crate) fn write(
    directory: &Directory,
    moment: &Moment,
    to: impl Write,
    secrets: Option<&Passphrase>,
    with_payloads: bool,
    mut moved: impl FnMut(u64),
) -> anyhow::Result<Written> {
    let header = Header { keys: secrets.is_some(), payloads: with_payloads, ..moment.header.clone() };
    let mut writer = Writer::begin(to, &header)?;
    let mut held = Held { files: 0, payloads: 0, bytes: 0 };
    for (name, len) in moment.files()? {
        let path = moment.folder.join(&name);
        let file = File::open(&path).with_context(|| format!("reading {}", path.display()))?;
        writer.file(&name, file, len, &mut moved).with_context(|| format!("copying {}", path.display()))?;
        (held.files, held.bytes) = (held.files + 1, held.bytes + len);
    }
    for (payload, len) in moment.payloads.iter().filter(|_| with_payloads) {
        let path = directory.payload(payload);
        let file = File::open(&path).with_context(|| format!("reading {}", path.display()))?;
        writer
            .file(&format!("payload/{payload}"), file, *len, &mut moved)
            .with_context(|| format!("copying {}", path.display()))?;
        (held.payloads, held.bytes) = (held.payloads + 1, held.bytes + len);
    }
    if let Some(passphrase) = secrets {
        let before = writer.so_far();
        writer.secrets(&sealed(directory, passphrase, before)?)?;
    }
    let hash = writer.finish()?;
    Ok(Written { held, hash })
}

/// Bytes that a backup of this moment will hold.
pub(crate) fn bytes(moment: &Moment, with_payloads: bool) -> io::Result<u64> {
    let files: u64 = moment.files()?.iter().map(|(_, len)| len).sum();
    Ok(files + if with_payloads { moment.payloads.values().sum() } else { 0 })
}

/// The private keys, the admin token and the passwords for mirrors, encrypted with the hash of what comes before them.
fn sealed(directory: &Directory, passphrase: &Passphrase, before: blake3::Hash) -> anyhow::Result<Vec<u8>> {
    let mut secrets = Secrets { before: before.to_string(), files: Vec::new() };
    let mut add = |path: String, from: &Path| -> anyhow::Result<()> {
        let bytes = Zeroizing::new(fs::read(from).with_context(|| format!("reading {}", from.display()))?);
        secrets.files.push(SecretFile { path, bytes: hex::encode(&*bytes) });
        Ok(())
    };
    for (name, path) in files(&directory.keys())? {
        add(format!("keys/{name}"), &path)?;
    }
    add("admin.token".to_owned(), &directory.path().join("admin.token"))?;
    let mirrors = directory.path().join(paths::MIRROR_PASSWORDS);
    if mirrors.exists() {
        add(paths::MIRROR_PASSWORDS.to_owned(), &mirrors)?;
    }
    let plain = Zeroizing::new(serde_json::to_vec(&secrets)?);
    keys::seal(&plain, passphrase, KEYS_ARE_FOR)
}

/// The files of encrypted keys, each with its path in the data directory. `before` is the hash of what came before them.
fn unsealed(
    bytes: &[u8],
    passphrase: &Passphrase,
    before: blake3::Hash,
) -> anyhow::Result<Vec<(String, Zeroizing<Vec<u8>>)>> {
    let plain = keys::unseal(bytes, passphrase, KEYS_ARE_FOR).context("opening the keys of the backup")?;
    let secrets: Secrets = serde_json::from_slice(&plain).context("the keys of the backup are damaged")?;
    if secrets.before != before.to_string() {
        bail!("the backup was changed after it was made, by somebody without its passphrase: restore another one");
    }
    let mut opened = Vec::new();
    for SecretFile { path, bytes } in &secrets.files {
        if !paths::is_secret(path) {
            bail!("the keys of the backup hold {path:?}, which is no key");
        }
        let bytes = hex::decode(bytes).context("the keys of the backup are damaged")?;
        opened.push((path.clone(), Zeroizing::new(bytes)));
    }
    Ok(opened)
}
