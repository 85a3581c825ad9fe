//! Key files of a coordinator: the online ones in its data directory, the offline ones encrypted under a passphrase.
//!
//! A key file is JSON. Offline: XChaCha20-Poly1305 under a key that Argon2id makes of the passphrase (64 MiB, 3 passes);
//! the key's use and public half are authenticated with it.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::PublicKey;
use zeroize::Zeroizing;

use crate::sys;

const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
/// A key file that asks for more memory than this is not one of ours.
const MAX_MEMORY_KIB: u32 = 1 << 20;
/// The environment variable from which a passphrase is read.
pub(crate) const PASSPHRASE_VARIABLE: &str = "UPSWARM_PASSPHRASE";
const MIN_PASSPHRASE: usize = 8;
/// In whose hand the keys are that the coordinator keeps itself.
pub(crate) const COORDINATOR: &str = "coordinator";
/// Keys of one use in one directory.
const MAX_KEYS: usize = 64;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeyUse {
    /// Signs roots.
    Root,
    /// Signs releases.
    Publisher,
    /// Signs approvals.
    Approver,
    /// Signs what groups are.
    Targeting,
    /// Signs index, head and certificates.
    Online,
    /// Signs snapshots of repositories.
    Sync,
    /// The coordinator's libp2p identity.
    Identity,
    /// Opens encrypted reports (X25519).
    Report,
}

impl KeyUse {
    /// As files and people name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            KeyUse::Root => "root",
            KeyUse::Publisher => "publisher",
            KeyUse::Approver => "approver",
            KeyUse::Targeting => "targeting",
            KeyUse::Online => "online",
            KeyUse::Sync => "sync",
            KeyUse::Identity => "identity",
            KeyUse::Report => "report",
        }
    }
}

/// A passphrase; forgotten when dropped.
#[derive(Clone)]
pub(crate) struct Passphrase(Zeroizing<String>);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    /// Format version, 1.
    upswarm_key: u8,
    r#use: KeyUse,
    public: PublicKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encrypted: Option<Encrypted>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encrypted {
    kdf: String,
    memory_kib: u32,
    passes: u32,
    salt: String,
    nonce: String,
    ciphertext: String,
}

/// Fresh random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("the operating system gives no random bytes: {error}"))?;
    Ok(bytes)
}

/// A new signing key.
pub(crate) fn generate() -> anyhow::Result<SigningKey> {
    Ok(SigningKey::from_bytes(&random()?))
}

/// The public half of a signing key.
pub(crate) fn public(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key().to_bytes())
}

/// The file of the `number`th key of a use.
pub(crate) fn file(dir: &Path, r#use: KeyUse, number: usize) -> PathBuf {
    dir.join(format!("{}-{number}.key", r#use.name()))
}

/// Writes a key to a new file that only its owner can read; encrypted when there is a passphrase.
pub(crate) fn write(
    path: &Path,
    r#use: KeyUse,
    public: PublicKey,
    secret: &[u8; 32],
    passphrase: Option<&Passphrase>,
) -> anyhow::Result<()> {
    let encrypted = passphrase.map(|passphrase| encrypt(r#use, public, secret, passphrase)).transpose()?;
    let secret = encrypted.is_none().then(|| hex::encode(secret));
    let content = KeyFile { upswarm_key: 1, r#use, public, secret, encrypted };
    let bytes = Zeroizing::new(serde_json::to_vec_pretty(&content)?);
    sys::write_private(path, &bytes).with_context(|| format!("writing the key {}", path.display()))
}

/// Reads a key, asking for the passphrase only if the file is encrypted.
pub(crate) fn read(
    path: &Path,
    r#use: KeyUse,
    passphrase: &mut dyn FnMut() -> anyhow::Result<Passphrase>,
) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let bytes = fs::read(path).with_context(|| format!("reading the key {}", path.display()))?;
    let damaged = || format!("the key file {} is damaged; restore it from a copy", path.display());
    let file: KeyFile = serde_json::from_slice(&bytes).with_context(damaged)?;
    if file.upswarm_key != 1 || file.r#use != r#use {
        bail!("{} is not a {} key of this version", path.display(), r#use.name());
    }
    let secret = match (&file.secret, &file.encrypted) {
        (Some(secret), None) => {
            let mut bytes = Zeroizing::new([0; 32]);
            hex::decode_to_slice(secret, bytes.as_mut()).with_context(damaged)?;
            bytes
        }
        (None, Some(encrypted)) => {
            decrypt(&file, encrypted, &passphrase()?).with_context(|| format!("opening the key {}", path.display()))?
        }
        _ => bail!(damaged()),
    };
    let found = match r#use {
        KeyUse::Report => PublicKey(crate::encrypt::public(&secret)),
        _ => public(&SigningKey::from_bytes(&secret)),
    };
    if found != file.public {
        bail!(damaged());
    }
    Ok(secret)
}

/// The key files of a use in a directory, in order of number.
fn files_of(dir: &Path, r#use: KeyUse) -> Vec<(usize, PathBuf)> {
    (1..=MAX_KEYS).map(|number| (number, file(dir, r#use, number))).filter(|(_, path)| path.exists()).collect()
}

/// The public halves of the signing keys of a use in a directory, which no passphrase hides: what a key may sign is looked at
/// before it is unlocked. A file may lie about it; unlocking it tells.
pub(crate) fn public_halves(dir: &Path, r#use: KeyUse) -> anyhow::Result<Vec<(PathBuf, PublicKey)>> {
    let mut found = Vec::new();
    for (_, path) in files_of(dir, r#use) {
        let bytes = Zeroizing::new(fs::read(&path).with_context(|| format!("reading the key {}", path.display()))?);
        let file: KeyFile = serde_json::from_slice(&bytes)
            .with_context(|| format!("the key file {} is damaged; restore it from a copy", path.display()))?;
        found.push((path, file.public));
    }
    if found.is_empty() {
        bail!("no {} key in {}; name the directory that holds it with --keys-dir", r#use.name(), dir.display());
    }
    Ok(found)
}

/// Whether any key of a use in a directory needs a passphrase; a file that cannot be read says so when it is opened.
pub(crate) fn are_encrypted(dir: &Path, r#use: KeyUse) -> bool {
    files_of(dir, r#use).iter().any(|(_, path)| {
        let bytes = fs::read(path).map(Zeroizing::new);
        let file = bytes.ok().and_then(|bytes| serde_json::from_slice::<KeyFile>(&bytes).ok());
        file.is_some_and(|file| file.encrypted.is_some())
    })
}

/// Makes a signing key in the next free file of its use; encrypted when there is a passphrase.
pub(crate) fn make(dir: &Path, r#use: KeyUse, passphrase: Option<&Passphrase>) -> anyhow::Result<(PathBuf, PublicKey)> {
    let free = (1..=MAX_KEYS).map(|number| file(dir, r#use, number)).find(|path| !path.exists());
    let path = free.with_context(|| {
        format!("{} holds {MAX_KEYS} {} keys; take away those that no root names", dir.display(), r#use.name())
    })?;
    let key = generate()?;
    write(&path, r#use, public(&key), &key.to_bytes(), passphrase)?;
    Ok((path, public(&key)))
}

/// Every signing key of a use in a directory, in order of number.
pub(crate) fn read_all(
    dir: &Path,
    r#use: KeyUse,
    passphrase: &mut dyn FnMut() -> anyhow::Result<Passphrase>,
) -> anyhow::Result<Vec<SigningKey>> {
    let mut keys = Vec::new();
    for (_, path) in files_of(dir, r#use) {
        keys.push(SigningKey::from_bytes(&*read(&path, r#use, passphrase)?));
    }
    if keys.is_empty() {
        bail!("no {} key in {}; name the directory that holds it with --keys-dir", r#use.name(), dir.display());
    }
    Ok(keys)
}

impl Passphrase {
    /// A passphrase, if it is long enough.
    pub(crate) fn new(text: &str) -> anyhow::Result<Self> {
        if text.chars().count() < MIN_PASSPHRASE {
            bail!("a passphrase has at least {MIN_PASSPHRASE} characters");
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The passphrase from a file's first line, else from the environment, else from the person at the terminal; asked
    /// twice when it is `new`.
    pub(crate) fn obtain(file: Option<&Path>, new: bool) -> anyhow::Result<Self> {
        if let Some(path) = file {
            let text = Zeroizing::new(
                fs::read_to_string(path).with_context(|| format!("reading the passphrase file {}", path.display()))?,
            );
            return Self::new(text.lines().next().unwrap_or_default());
        }
        if let Ok(text) = std::env::var(PASSPHRASE_VARIABLE) {
            return Self::new(&Zeroizing::new(text));
        }
        if !std::io::stdin().is_terminal() {
            bail!(
                "the offline keys need a passphrase, and there is no terminal to ask at: give --passphrase-file FILE or set \
                 {PASSPHRASE_VARIABLE}"
            );
        }
        let text = ask("Passphrase of the offline keys: ")?;
        if new && ask("The same again: ")? != text {
            bail!("the two passphrases differ; nothing was done");
        }
        Self::new(&text)
    }
}

fn ask(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    sys::ask_hidden(prompt).context("asking for a passphrase")
}

fn encrypt(r#use: KeyUse, public: PublicKey, secret: &[u8; 32], passphrase: &Passphrase) -> anyhow::Result<Encrypted> {
    let (salt, nonce) = (random::<16>()?, random::<24>()?);
    let cipher = cipher(passphrase, &salt, MEMORY_KIB, PASSES)?;
    let aad = aad(r#use, public);
    let ciphertext = cipher
        .encrypt(XNonce::from_slice(&nonce), Payload { msg: secret, aad: &aad })
        .map_err(|_| anyhow!("encrypting a key failed"))?;
    Ok(Encrypted {
        kdf: "argon2id".to_owned(),
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        salt: hex::encode(salt),
        nonce: hex::encode(nonce),
        ciphertext: hex::encode(ciphertext),
    })
}

fn decrypt(file: &KeyFile, encrypted: &Encrypted, passphrase: &Passphrase) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    if encrypted.kdf != "argon2id" || encrypted.memory_kib > MAX_MEMORY_KIB || encrypted.passes > 64 {
        bail!("it was encrypted in a way that this version does not know");
    }
    let mut nonce = [0; 24];
    hex::decode_to_slice(&encrypted.nonce, &mut nonce).context("its nonce is damaged")?;
    let salt = hex::decode(&encrypted.salt).context("its salt is damaged")?;
    let ciphertext = hex::decode(&encrypted.ciphertext).context("its ciphertext is damaged")?;
    let cipher = cipher(passphrase, &salt, encrypted.memory_kib, encrypted.passes)?;
    let aad = aad(file.r#use, file.public);
    let plain = cipher
        .decrypt(XNonce::from_slice(&nonce), Payload { msg: &ciphertext, aad: &aad })
        .map_err(|_| anyhow!("wrong passphrase, or the file was changed"))?;
    let plain = Zeroizing::new(plain);
    let mut secret = Zeroizing::new([0; 32]);
    if plain.len() != 32 {
        bail!("its content has the wrong length");
    }
    secret.copy_from_slice(&plain);
    Ok(secret)
}

fn cipher(passphrase: &Passphrase, salt: &[u8], memory_kib: u32, passes: u32) -> anyhow::Result<XChaCha20Poly1305> {
    let params = argon2::Params::new(memory_kib, passes, 1, Some(32)).map_err(|error| anyhow!("argon2: {error}"))?;
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut key = Zeroizing::new([0; 32]);
    argon2
        .hash_password_into(passphrase.0.as_bytes(), salt, key.as_mut())
        .map_err(|error| anyhow!("argon2: {error}"))?;
    Ok(XChaCha20Poly1305::new((&*key).into()))
}

fn aad(r#use: KeyUse, public: PublicKey) -> Vec<u8> {
    format!("upswarm key v1 {} {public}", r#use.name()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_passphrase() -> anyhow::Result<Passphrase> {
        bail!("asked for a passphrase")
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), KeyUse::Publisher, 1);
        let key = generate().unwrap();
        let right = Passphrase::new("correct horse").unwrap();
        write(&path, KeyUse::Publisher, public(&key), &key.to_bytes(), Some(&right)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&hex::encode(key.to_bytes())), "the secret stands in the file");
        let opened = read(&path, KeyUse::Publisher, &mut || Ok(right.clone())).unwrap();
        assert_eq!(*opened, key.to_bytes());
        let wrong = read(&path, KeyUse::Publisher, &mut || Passphrase::new("wrong horse"));
        assert!(format!("{:#}", wrong.unwrap_err()).contains("wrong passphrase"));
        assert!(read(&path, KeyUse::Approver, &mut || Ok(right.clone())).is_err(), "another use");

        // The use is authenticated: a publisher's key cannot be passed off as an approver's.
        fs::write(&path, text.replace("publisher", "approver")).unwrap();
        assert!(read(&path, KeyUse::Approver, &mut || Ok(right.clone())).is_err());
    }

    #[test]
    fn plain_keys_are_private_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), KeyUse::Online, 1);
        let key = generate().unwrap();
        write(&path, KeyUse::Online, public(&key), &key.to_bytes(), None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&path, KeyUse::Online, public(&key), &key.to_bytes(), None).is_err());
        assert_eq!(*read(&path, KeyUse::Online, &mut no_passphrase).unwrap(), key.to_bytes());
        assert_eq!(read_all(dir.path(), KeyUse::Online, &mut no_passphrase).unwrap().len(), 1);
        assert!(read_all(dir.path(), KeyUse::Root, &mut no_passphrase).is_err());
        for damaged in ["", "{}", "{\"upswarm_key\":1}"] {
            fs::write(&path, damaged).unwrap();
            assert!(read(&path, KeyUse::Online, &mut no_passphrase).is_err(), "{damaged}");
        }
    }

    #[test]
    fn short_passphrases_are_refused() {
        assert!(Passphrase::new("short").is_err());
    }
}
