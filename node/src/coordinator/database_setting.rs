//! Which database a coordinator keeps its fleet in, as the last `--database` said. It is noted in the data directory, so that a start
//! without the flag does not begin an empty history beside the real one. Holds no password, only where one is.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::files::read_if_there;
use super::store::database::Place;
use super::store::told::Told;
use crate::sys::{self, Access};

/// What takes the place of a URL for the file in the data directory.
pub(crate) const SQLITE: &str = "sqlite";
/// The password, when no file has it.
const PASSWORD: &str = "UPSWARM_DATABASE_PASSWORD";

/// A database that is not the file in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DatabaseSetting {
    /// `postgres://USER@HOST/NAME`, or [`SQLITE`].
    pub(crate) url: String,
    /// A file whose first line is the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<PathBuf>,
}

impl DatabaseSetting {
    fn place(&self, directory: &Directory) -> anyhow::Result<Place> {
        if self.url == SQLITE {
            return Ok(Place::File(directory.fleet_db()));
        }
        let of_file = self.password_file.as_ref().map(|path| {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading the database's password from {}", path.display()))?;
            match text.lines().next() {
                Some(line) if !line.is_empty() => Ok(line.to_owned()),
                _ => bail!("the first line of {} is empty; it should be the database's password", path.display()),
            }
        });
        let password = of_file.transpose()?.or_else(|| std::env::var(PASSWORD).ok());
        Place::named(&self.url, password.as_deref())
    }

    /// Notes it for the next start. Needs the lock.
    pub(crate) fn note(&self, directory: &Directory) -> anyhow::Result<()> {
        // What cannot be used is not noted.
        self.place(directory)?;
        let path = directory.database_setting();
        let bytes = serde_json::to_vec_pretty(self)?;
        sys::replace(&path, &bytes, Access::Owner).with_context(|| format!("writing {}", path.display()))
    }
}

/// The database of a data directory.
pub(crate) fn place(directory: &Directory) -> anyhow::Result<Place> {
    let path = directory.database_setting();
    match read_if_there(&path)? {
        None => Ok(Place::File(directory.fleet_db())),
        Some(bytes) => {
            let setting: DatabaseSetting = serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged; name the database again with --database", path.display()))?;
            setting.place(directory)
        }
    }
}

/// What devices told, for a verb that works without a running coordinator. Needs the lock.
pub(crate) async fn told(directory: &Directory) -> anyhow::Result<Told> {
    Told::load(&place(directory)?, &directory.old_told()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(url: &str) -> DatabaseSetting {
        DatabaseSetting { url: url.to_owned(), password_file: None }
    }

    #[test]
    fn what_is_noted_counts_at_the_next_start_and_holds_no_password() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path());
        assert!(matches!(place(&directory).unwrap(), Place::File(path) if path == directory.fleet_db()));
        let file = dir.path().join("password");
        std::fs::write(&file, "s3cret\n").unwrap();
        let url = "postgres://upswarm@127.0.0.1:5433/fleet";
        DatabaseSetting { password_file: Some(file), ..setting(url) }.note(&directory).unwrap();
        let noted = place(&directory).unwrap();
        assert_eq!(noted.shown(), url);
        let text = std::fs::read_to_string(directory.database_setting()).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        setting(SQLITE).note(&directory).unwrap();
        assert!(matches!(place(&directory).unwrap(), Place::File(_)));
    }

    #[test]
    fn a_setting_that_cannot_be_used_says_what_to_give() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path());
        for (url, wanted) in [
            ("mysql://a@b/c", "postgres://USER@HOST/NAME"),
            ("fleet.db", "postgres://USER@HOST/NAME"),
            ("postgres://upswarm:s3cret@127.0.0.1/fleet", "--database-password-file"),
            ("postgres://upswarm@127.0.0.1/fleet?password=s3cret", "--database-password-file"),
            ("postgres://upswarm:s3cret@:::/fleet", "postgres://USER@HOST/NAME"),
        ] {
            let error = format!("{:#}", setting(url).note(&directory).unwrap_err());
            assert!(error.contains(wanted), "{url}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let lost =
            DatabaseSetting { password_file: Some(dir.path().join("none")), ..setting("postgres://a@localhost/b") };
        assert!(format!("{:#}", lost.note(&directory).unwrap_err()).contains("password"));
        assert!(!directory.database_setting().exists(), "nothing was noted");
        std::fs::write(directory.database_setting(), "{").unwrap();
        assert!(format!("{:#}", place(&directory).unwrap_err()).contains("--database"));
    }
}
