//! What every verb of an admin takes: where the coordinator is, and where the keys are. Owns how command line and profile come
//! together; never talks to anybody itself.

use std::path::{Path, PathBuf};

use upswarm_protocol::ids::DocHash;

use super::profile::{self, Profile};
use crate::console::Keys;
use crate::coordinator::client::Client;
use crate::coordinator::directory::Directory;
use crate::coordinator::keys::{self, KeyUse, Passphrase};
use crate::coordinator::tls::Fingerprint;
use crate::error::CliError;
use crate::signing::place::KeyPlace;

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
    /// The data directory that was given on the command line, whose-ever it is.
    pub(super) fn given_directory(&self) -> Option<PathBuf> {
        self.data_dir.clone()
    }

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

    /// Where an approver's keys are, if anywhere, and what the pages of a console call the coordinator.
    pub(crate) fn console(&self) -> Result<(Keys, String), CliError> {
        let place = match self.resolve()?.place.ok_or_else(no_place)? {
            Place::Directory(dir) => dir.display().to_string(),
            Place::Url { url, .. } => url,
        };
        let dir = self.key_place(KeyUse::Approver).ok().map(|place| place.dir).filter(|dir| dir.is_dir());
        Ok((Keys { dir, anchor: self.anchor }, place))
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
        Ok(KeyPlace::new(dir, r#use, resolved.passphrase_file, self.anchor))
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
pub(super) fn default_keys(data_dir: &Path, r#use: KeyUse) -> PathBuf {
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
