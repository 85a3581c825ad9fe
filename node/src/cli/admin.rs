//! What every verb of an admin takes: where the coordinator is, and where the keys are. Owns how command line and profile come
//! together; never talks to anybody itself.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use upswarm_protocol::ids::{DocHash, PublicKey};

use super::profile::{self, Profile};
use crate::coordinator::client::Client;
use crate::coordinator::directory::Directory;
use crate::coordinator::keys::{self, KeyUse, Passphrase};
use crate::coordinator::tls::Fingerprint;
use crate::error::CliError;

/// Which coordinator, and which keys. What is not given is taken from the profile.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Coordinator and keys (else from the profile, ~/.config/upswarm/profile.toml)")]
pub(crate) struct AdminArgs {
    /// The coordinator's data directory on this machine; the coordinator must be running.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The URL of a coordinator's admin API, https:// unless it is on this machine; needs --token-file.
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    coordinator: Option<String>,
    /// File that holds that coordinator's admin token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The key that its admin door must show, as `coordinator run --admin` prints it.
    #[arg(long, value_name = "HEX", requires = "coordinator")]
    coordinator_key: Option<Fingerprint>,
    /// Directory of the offline keys; without it, DATA-DIR/keys (demo keys) or DATA-DIR-offline-keys.
    #[arg(long, value_name = "DIR")]
    keys_dir: Option<PathBuf>,
    /// File whose first line is the passphrase of the keys; else UPSWARM_PASSPHRASE, else you are asked.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The root of trust that you believe, for keys that hold no anchor.json yet; `upswarm root show` prints it.
    #[arg(long, value_name = "HASH")]
    anchor: Option<DocHash>,
}

/// Command line and profile together.
struct Resolved {
    place: Option<Place>,
    keys_dir: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
}

/// Where the coordinator is.
enum Place {
    Directory(PathBuf),
    Url { url: String, token_file: Option<PathBuf>, key: Option<Fingerprint> },
}

/// Where keys are, before any of them is unlocked.
pub(crate) struct KeyPlace {
    pub(crate) dir: PathBuf,
    pub(crate) r#use: KeyUse,
    passphrase_file: Option<PathBuf>,
    /// Asked for once.
    passphrase: OnceCell<Passphrase>,
    /// The root that the holder believes, when nothing is noted beside the keys yet.
    pub(crate) anchor: Option<DocHash>,
}

impl KeyPlace {
    /// The public halves of the keys.
    pub(crate) fn public_halves(&self) -> Result<Vec<PublicKey>, CliError> {
        let found = keys::public_halves(&self.dir, self.r#use).map_err(refused)?;
        Ok(found.into_iter().map(|(_, key)| key).collect())
    }

    /// Unlocks the keys among these, which are those that may sign.
    pub(crate) fn unlock(&self, may_sign: &[PublicKey]) -> Result<Vec<SigningKey>, CliError> {
        let mut passphrase = || match self.passphrase.get() {
            Some(known) => Ok(known.clone()),
            None => {
                let given = Passphrase::obtain(self.passphrase_file.as_deref(), false)?;
                Ok(self.passphrase.get_or_init(|| given).clone())
            }
        };
        let found = keys::public_halves(&self.dir, self.r#use).map_err(refused)?;
        let fitting = found.iter().filter(|(_, key)| may_sign.contains(key));
        let unlocked: Vec<SigningKey> = fitting
            .map(|(path, _)| {
                Ok(SigningKey::from_bytes(&*keys::read(path, self.r#use, &mut passphrase).map_err(refused)?))
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

/// Which keys, for verbs that need no coordinator. What is not given is taken from the profile.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Keys (else from the profile, ~/.config/upswarm/profile.toml)")]
pub(crate) struct KeyArgs {
    /// Directory of the offline keys.
    #[arg(long, value_name = "DIR")]
    keys_dir: Option<PathBuf>,
    /// File whose first line is the passphrase of the keys; else UPSWARM_PASSPHRASE, else you are asked.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The root of trust that you believe, for keys that hold no anchor.json yet; `upswarm root show` prints it.
    #[arg(long, value_name = "HASH")]
    anchor: Option<DocHash>,
}

impl KeyArgs {
    /// Where the keys of a use are.
    pub(crate) fn place(&self, r#use: KeyUse) -> Result<KeyPlace, CliError> {
        AdminArgs {
            keys_dir: self.keys_dir.clone(),
            passphrase_file: self.passphrase_file.clone(),
            anchor: self.anchor,
            ..AdminArgs::default()
        }
        .key_place(r#use)
    }

    /// The passphrase of a new key.
    pub(crate) fn new_passphrase(&self) -> Result<Passphrase, CliError> {
        Passphrase::obtain(self.passphrase_file.as_deref(), true).map_err(refused)
    }
}

impl AdminArgs {
    /// The coordinator, running.
    pub(crate) fn client(&self) -> Result<Client, CliError> {
        match self.resolve()?.place.ok_or_else(no_place)? {
            Place::Directory(dir) => Client::of(&dir),
            Place::Url { url, token_file, key } => {
                let file = token_file.ok_or_else(|| {
                    CliError::Refused(format!("{url} asks for the admin token; name its file with --token-file"))
                })?;
                Client::at(&url, &file, key)
            }
        }
    }

    /// Of verbs that take nothing but a data directory: the one given, else the profile's coordinator.
    pub(crate) fn of_directory(data_dir: Option<PathBuf>) -> Self {
        Self { data_dir, ..Self::default() }
    }

    /// The coordinator's data directory; `None` when it is on another machine.
    pub(crate) fn directory(&self) -> Result<Option<PathBuf>, CliError> {
        Ok(match self.resolve()?.place.ok_or_else(no_place)? {
            Place::Directory(dir) => Some(dir),
            Place::Url { .. } => None,
        })
    }

    /// The coordinator's data directory, for what needs its files.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, CliError> {
        self.directory()?.ok_or_else(|| {
            CliError::Refused("this verb reads the coordinator's files; run it there, with --data-dir".to_owned())
        })
    }

    /// Where the keys of a use are.
    pub(crate) fn key_place(&self, r#use: KeyUse) -> Result<KeyPlace, CliError> {
        let resolved = self.resolve()?;
        let dir = match (resolved.keys_dir, resolved.place) {
            (Some(dir), _) => dir,
            (None, Some(Place::Directory(data_dir))) => default_keys(&data_dir, r#use),
            (None, _) => {
                return Err(CliError::Refused("name the directory of the offline keys with --keys-dir".to_owned()));
            }
        };
        let (passphrase_file, passphrase) = (resolved.passphrase_file, OnceCell::new());
        Ok(KeyPlace { dir, r#use, passphrase_file, passphrase, anchor: self.anchor })
    }

    /// A place on the command line sets the profile aside, and with it its keys, unless it is the same place.
    fn resolve(&self) -> Result<Resolved, CliError> {
        let absolute = |path: &Option<PathBuf>| {
            path.as_deref().map(std::path::absolute).transpose().map_err(|error| CliError::Refused(error.to_string()))
        };
        let data_dir = absolute(&self.data_dir)?;
        let profile = match (&data_dir, &self.coordinator) {
            (None, None) => Profile::of_caller()?,
            // A broken profile is no matter when everything is said.
            _ => Profile::of_caller().unwrap_or_default(),
        };
        let same = data_dir.is_none() && self.coordinator.is_none()
            || data_dir.is_some() && data_dir == profile.data_dir
            || self.coordinator.is_some() && self.coordinator == profile.coordinator;
        let profile = if same { profile } else { Profile::default() };
        let token_file = absolute(&self.token_file)?.or(profile.token_file);
        let place = match (data_dir.or(profile.data_dir), self.coordinator.clone().or(profile.coordinator)) {
            (Some(dir), _) => Some(Place::Directory(dir)),
            (None, Some(url)) => {
                Some(Place::Url { url, token_file, key: self.coordinator_key.or(profile.coordinator_key) })
            }
            (None, None) => None,
        };
        Ok(Resolved {
            place,
            keys_dir: absolute(&self.keys_dir)?.or(profile.keys_dir),
            passphrase_file: absolute(&self.passphrase_file)?.or(profile.passphrase_file),
        })
    }
}

/// Where the keys of a coordinator's directory are, if nobody says so: demo keys inside, others beside.
fn default_keys(data_dir: &Path, r#use: KeyUse) -> PathBuf {
    let online = Directory::new(data_dir).keys();
    if keys::file(&online, r#use, 1).exists() { online } else { offline_keys(data_dir) }
}

/// Where offline keys are looked for by default.
pub(super) fn offline_keys(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push("-offline-keys");
    data_dir.with_file_name(name)
}

fn no_place() -> CliError {
    let profile = profile::default_path().map_or_else(|| "a profile".to_owned(), |path| path.display().to_string());
    CliError::Refused(format!(
        "which coordinator? Give --data-dir DIR, or write data_dir = \"DIR\" to {profile} once and for all"
    ))
}
