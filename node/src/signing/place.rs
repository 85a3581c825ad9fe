//! Where the keys of a signer lie, and what is known of them before one is unlocked. Owns when a passphrase is asked for; never says
//! what is signed.

use std::cell::OnceCell;
use std::path::PathBuf;

use anyhow::bail;
use ed25519_dalek::SigningKey;
use upswarm_protocol::ids::{DocHash, PublicKey};

use crate::coordinator::keys::{self, KeyUse, Passphrase};
use crate::error::CliError;

/// Where a passphrase comes from.
enum Source {
    /// A file, else the environment, else the person at the terminal.
    Caller(Option<PathBuf>),
    /// Whoever asks has been asked already.
    GivenOnly,
}

/// Where keys are, before any of them is unlocked.
pub(crate) struct KeyPlace {
    pub(crate) dir: PathBuf,
    pub(crate) r#use: KeyUse,
    source: Source,
    /// Asked for once.
    passphrase: OnceCell<Passphrase>,
    /// The root that the holder believes, when nothing is noted beside the keys yet.
    pub(crate) anchor: Option<DocHash>,
}

impl KeyPlace {
    /// Keys in a directory. Their passphrase is in the file, or is asked for when a key needs it.
    pub(crate) fn new(dir: PathBuf, r#use: KeyUse, passphrase_file: Option<PathBuf>, anchor: Option<DocHash>) -> Self {
        Self { dir, r#use, source: Source::Caller(passphrase_file), passphrase: OnceCell::new(), anchor }
    }

    /// Keys of somebody who gives the passphrase elsewhere, if the keys have one: nobody is asked at a terminal.
    pub(crate) fn given(dir: PathBuf, r#use: KeyUse, passphrase: Option<Passphrase>, anchor: Option<DocHash>) -> Self {
        let passphrase = passphrase.map_or_else(OnceCell::new, OnceCell::from);
        Self { dir, r#use, source: Source::GivenOnly, passphrase, anchor }
    }

    /// The public halves of the keys.
    pub(crate) fn public_halves(&self) -> Result<Vec<PublicKey>, CliError> {
        Ok(self.found()?.into_iter().map(|(_, _, key)| key).collect())
    }

    /// The key files. Who signs what groups are, an approver or a key of its own, is the root's word: both are looked for.
    fn found(&self) -> Result<Vec<(KeyUse, PathBuf, PublicKey)>, CliError> {
        let of = |r#use: KeyUse| {
            let found = keys::public_halves(&self.dir, r#use)?;
            Ok(found.into_iter().map(move |(path, key)| (r#use, path, key)))
        };
        let targeting: Vec<_> = match self.r#use {
            KeyUse::Approver => of(KeyUse::Targeting).into_iter().flatten().collect(),
            _ => Vec::new(),
        };
        match of(self.r#use) {
            Ok(found) => Ok(found.chain(targeting).collect()),
            Err(_) if !targeting.is_empty() => Ok(targeting),
            Err(error) => Err(refused(error)),
        }
    }

    /// Unlocks the keys among these, which are those that may sign.
    pub(crate) fn unlock(&self, may_sign: &[PublicKey]) -> Result<Vec<SigningKey>, CliError> {
        let mut passphrase = || match self.passphrase.get() {
            Some(known) => Ok(known.clone()),
            None => {
                let given = match &self.source {
                    Source::Caller(file) => Passphrase::obtain(file.as_deref(), false)?,
                    Source::GivenOnly => bail!("these keys are encrypted: give their passphrase"),
                };
                Ok(self.passphrase.get_or_init(|| given).clone())
            }
        };
        let found = self.found()?;
        let fitting = found.iter().filter(|(_, _, key)| may_sign.contains(key));
        let unlocked: Vec<SigningKey> = fitting
            .map(|(r#use, path, _)| {
                Ok(SigningKey::from_bytes(&*keys::read(path, *r#use, &mut passphrase).map_err(refused)?))
            })
            .collect::<Result<_, CliError>>()?;
        if unlocked.is_empty() {
            return Err(CliError::Refused(format!(
                "none of the {} {} keys in {} may sign this: the root names others",
                found.len(),
                self.r#use.name(),
                self.dir.display()
            )));
        }
        Ok(unlocked)
    }
}

fn refused(error: anyhow::Error) -> CliError {
    CliError::Refused(format!("{error:#}"))
}
