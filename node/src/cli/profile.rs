//! The admin's profile: which coordinator, which keys, so that daily verbs are short. Owns where it lies and what it may say;
//! never holds a secret itself, only the names of files that do.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::coordinator::tls::Fingerprint;
use crate::error::CliError;

/// The environment variable that names another file.
pub(crate) const VARIABLE: &str = "UPSWARM_PROFILE";

/// `~/.config/upswarm/profile.toml`. Relative paths count from the directory of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Profile {
    /// The data directory of a coordinator on this machine.
    pub(crate) data_dir: Option<PathBuf>,
    /// Or the URL at which a coordinator's admin API is reached, with the file of its token.
    pub(crate) coordinator: Option<String>,
    /// The key that its admin door must show; without it, the system's certificate authorities decide.
    pub(crate) coordinator_key: Option<Fingerprint>,
    pub(crate) token_file: Option<PathBuf>,
    /// Directory of the offline keys.
    pub(crate) keys_dir: Option<PathBuf>,
    /// File whose first line is their passphrase.
    pub(crate) passphrase_file: Option<PathBuf>,
}

impl Profile {
    /// The profile of whoever calls; an empty one when there is none.
    pub(crate) fn of_caller() -> Result<Self, CliError> {
        if let Some(path) = std::env::var_os(VARIABLE) {
            return Self::read(Path::new(&path), true);
        }
        match default_path() {
            Some(path) => Self::read(&path, false),
            None => Ok(Self::default()),
        }
    }

    /// As a file.
    pub(crate) fn to_text(&self) -> Result<String, CliError> {
        toml::to_string(self).map_err(|error| CliError::Failed(anyhow::anyhow!("writing the profile: {error}")))
    }

    fn read(path: &Path, must_exist: bool) -> Result<Self, CliError> {
        let refused =
            |error: &dyn std::fmt::Display| CliError::Refused(format!("the profile {}: {error}", path.display()));
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(Self::default()),
            read => read.map_err(|error| refused(&error))?,
        };
        let mut profile: Self = toml::from_str(&text).map_err(|error| refused(&error.to_string().trim_end()))?;
        if profile.data_dir.is_some() && profile.coordinator.is_some() {
            return Err(refused(&"it names a data_dir and a coordinator; one of them says where the coordinator is"));
        }
        let base = std::path::absolute(path).map_err(|error| refused(&error))?;
        let base = base.parent().unwrap_or(Path::new("/"));
        let paths =
            [&mut profile.data_dir, &mut profile.token_file, &mut profile.keys_dir, &mut profile.passphrase_file];
        for named in paths.into_iter().flatten() {
            *named = base.join(&named);
        }
        Ok(profile)
    }
}

/// Where the profile of whoever calls lies, or will.
pub(crate) fn path() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from).or_else(default_path)
}

/// Where the profile lies unless the environment says otherwise.
pub(crate) fn default_path() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let config = config.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(config.join("upswarm").join("profile.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_count_from_the_file_and_mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.toml");
        assert_eq!(Profile::read(&path, false).unwrap(), Profile::default());
        assert!(Profile::read(&path, true).is_err());
        std::fs::write(&path, "data_dir = \"d\"\nkeys_dir = \"/stick\"\n").unwrap();
        let profile = Profile::read(&path, true).unwrap();
        assert_eq!(profile.data_dir, Some(dir.path().join("d")));
        assert_eq!(profile.keys_dir, Some(PathBuf::from("/stick")));
        for (text, named) in [
            ("datadir = \"d\"", "datadir"),
            ("data_dir = \"d\"\ncoordinator = \"https://c\"", "one of them"),
            ("passphrase = \"secret\"", "passphrase"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Profile::read(&path, true).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("profile.toml"), "{error}");
        }
    }
}
