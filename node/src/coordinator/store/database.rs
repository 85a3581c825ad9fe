//! Where the fleet store lies: a file of SQLite, or a database of PostgreSQL. Owns connections, the version of the tables, and what is
//! said of a database that cannot be used; never knows what a row means.
//!
//! Both speak through sqlx's `Any`, so that one statement serves both: placeholders are `$1`, numbers BIGINT, sums cast to it.
//! Passwords are in no text that is shown or logged.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AnyConnection, AnyPool, ConnectOptions as _, Connection as _, Executor as _, Row as _};

use super::schema;
use crate::sys;

/// Readers at one time; as many as the admin API lets look at once.
const READERS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(10);
/// A coordinator that ended a moment ago may still hold the database.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// What the lock of a whole database is called in PostgreSQL: one coordinator writes.
const LOCK: i64 = 0x7570_7377_6172_6d31;

/// Why the database cannot be used, with what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabaseError {
    /// It does not answer.
    #[error(
        "the database {place} does not answer ({cause}). Start it, or name the right one with --database; \
         what devices tell is kept by them until it answers"
    )]
    Down { place: String, cause: String },
    /// It lets nobody in with these credentials.
    #[error(
        "the database {place} refuses the user or password ({cause}). Give the password with --database-password-file FILE or \
         in UPSWARM_DATABASE_PASSWORD"
    )]
    Password { place: String, cause: String },
    /// There is none of that name.
    #[error("{place} does not exist ({cause}). Make it: createdb NAME, owned by the user that --database names")]
    Missing { place: String, cause: String },
    /// No room.
    #[error(
        "the disk of the database {place} is full ({cause}). Free space there; nothing that was acknowledged is lost, and what \
         waits is written as soon as there is room"
    )]
    Full { place: String, cause: String },
    /// A newer upswarm has written it.
    #[error(
        "the database {place} was written by a newer upswarm (its tables have version {found}, this program knows {known}). \
         Start that program, or restore a copy from before the change"
    )]
    Newer { place: String, found: i64, known: i64 },
    /// It cannot be read.
    #[error(
        "the database {place} is damaged ({cause}). Restore it from a backup; or move it aside and start again: devices tell their \
         state anew within twenty minutes, and only the history is lost"
    )]
    Damaged { place: String, cause: String },
    /// Another coordinator writes it.
    #[error(
        "the database {place} is used by another coordinator; end that one, or give this one a database of its own"
    )]
    InUse { place: String },
    /// Anything else.
    #[error("the database {place}: {cause}")]
    Other { place: String, cause: String },
}

/// A database, named and not yet opened.
#[derive(Clone)]
pub(crate) enum Place {
    /// SQLite, in this file.
    File(PathBuf),
    /// PostgreSQL, and what it is called in messages.
    Postgres(Box<AnyConnectOptions>, String),
}

/// Without a password.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Place {
    /// A place as `--database` names it: `postgres://USER@HOST/NAME`. The password comes apart from it.
    pub(crate) fn named(url: &str, password: Option<&str>) -> anyhow::Result<Self> {
        let scheme = url.split("://").next().unwrap_or_default();
        if !url.contains("://") || !["postgres", "postgresql"].contains(&scheme) {
            bail!(
                "--database {}: give postgres://USER@HOST/NAME. Without it the fleet is kept by SQLite in the data directory",
                scheme
            );
        }
        // Not shown: whatever stands in it may be a password.
        let (Ok(parsed), Ok(mut options)) = (PgConnectOptions::from_str(url), AnyConnectOptions::from_str(url)) else {
            bail!("--database: this is no address of a PostgreSQL database; give postgres://USER@HOST/NAME");
        };
        let told = &options.database_url;
        if told.password().is_some() || told.query_pairs().any(|(key, _)| key == "password") {
            bail!(
                "--database holds a password, which every user of this machine can see there. Take it out, and give it with \
                 --database-password-file FILE or in UPSWARM_DATABASE_PASSWORD"
            );
        }
        let host = parsed.get_host();
        let is_here = parsed.get_socket().is_some()
            || host.starts_with('/')
            || host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let says_how = told.query_pairs().any(|(key, _)| key == "sslmode" || key == "ssl-mode");
        let at = parsed.get_socket().map_or_else(|| host.to_owned(), |at| at.display().to_string());
        let name = parsed.get_database().unwrap_or(parsed.get_username());
        let shown = format!("postgres://{}@{at}:{}/{name}", parsed.get_username(), parsed.get_port());
        let url = &mut options.database_url;
        url.query_pairs_mut().append_pair("application_name", "upswarm-coordinator");
        if !is_here && !says_how {
            // What devices tell does not cross a network in plain, nor to a stranger.
            url.query_pairs_mut().append_pair("sslmode", "verify-full");
        }
        if let Some(password) = password
            && url.set_password(Some(&encoded(password))).is_err()
        {
            bail!("--database: name the host too: postgres://USER@HOST/NAME");
        }
        Ok(Self::Postgres(Box::new(options), shown))
    }

    /// What it is called in messages; no password.
    pub(crate) fn shown(&self) -> String {
        match self {
            Place::File(path) => path.display().to_string(),
            Place::Postgres(_, shown) => shown.clone(),
        }
    }

    fn options(&self) -> anyhow::Result<AnyConnectOptions> {
        let options = match self {
            Place::File(path) => {
                let path = path.to_str().context("the data directory's path is not UTF-8; move it to one that is")?;
                AnyConnectOptions::from_str(&format!("sqlite://{}?mode=rwc", encoded(path)))?
            }
            Place::Postgres(options, _) => (**options).clone(),
        };
        Ok(options.disable_statement_logging())
    }

    /// An error of sqlx in words.
    pub(crate) fn explain(&self, error: sqlx::Error) -> DatabaseError {
        let (place, cause) = (self.shown(), error.to_string());
        let sqlx::Error::Database(told) = &error else {
            return match error {
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed => {
                    DatabaseError::Down { place, cause }
                }
                sqlx::Error::Protocol(_) if matches!(self, Place::Postgres(..)) => DatabaseError::Down { place, cause },
                sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => DatabaseError::Damaged { place, cause },
                _ => DatabaseError::Other { place, cause },
            };
        };
        let code = told.code().unwrap_or_default().into_owned();
        match self {
            // The low byte is the primary code (https://www.sqlite.org/rescode.html).
            Place::File(_) => match code.parse::<u32>().unwrap_or_default() & 0xff {
                13 => DatabaseError::Full { place, cause },
                11 | 26 => DatabaseError::Damaged { place, cause },
                5 | 6 => DatabaseError::InUse { place },
                10 | 14 => DatabaseError::Down { place, cause },
                _ => DatabaseError::Other { place, cause },
            },
            // https://www.postgresql.org/docs/current/errcodes-appendix.html
            Place::Postgres(..) => match code.as_str() {
                "28P01" | "28000" => DatabaseError::Password { place, cause },
                "3D000" => DatabaseError::Missing { place, cause },
                "53100" => DatabaseError::Full { place, cause },
                "XX001" | "XX002" => DatabaseError::Damaged { place, cause },
                code if code.starts_with("57P") || code.starts_with("08") || code == "53300" => {
                    DatabaseError::Down { place, cause }
                }
                _ => DatabaseError::Other { place, cause },
            },
        }
    }
}

/// A database whose tables are those of this program.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    place: Place,
    readers: AnyPool,
}

/// The connection that writes. While it is open no other coordinator writes.
#[derive(Debug)]
pub(crate) struct Session {
    place: Place,
    pub(crate) connection: AnyConnection,
}

impl Database {
    /// Readers of a database that a [`Session`] has brought up to date.
    pub(crate) fn readers(place: Place) -> anyhow::Result<Self> {
        let is_file = matches!(place, Place::File(_));
        let readers = AnyPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(PATIENCE)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    let read_only =
                        if is_file { "PRAGMA query_only = ON" } else { "SET default_transaction_read_only = on" };
                    connection.execute(read_only).await.map(drop)
                })
            })
            .connect_lazy_with(place.options()?);
        Ok(Self { place, readers })
    }

    /// For statements that only read.
    pub(super) fn pool(&self) -> &AnyPool {
        &self.readers
    }

    /// An error of such a statement in words.
    pub(super) fn explain(&self, error: sqlx::Error) -> DatabaseError {
        self.place.explain(error)
    }

    /// Writes a copy of the whole database to a new file, as of one moment, while the coordinator goes on. The copy is durable on
    /// return, and its owner's alone. For a backup; PostgreSQL has tools of its own.
    pub(crate) async fn copy_to(&self, path: &Path) -> anyhow::Result<()> {
        let Place::File(_) = &self.place else {
            bail!("{} is PostgreSQL's: copy it with pg_dump", self.place.shown());
        };
        let name = path.to_str().context("the path of the copy is not UTF-8")?;
        // An empty file is taken as a place for the copy, and keeps its mode.
        drop(sys::create_private(path).with_context(|| format!("creating {}", path.display()))?);
        let mut connection = connect(&self.place).await?;
        let copied = sqlx::query("VACUUM INTO $1").bind(name).execute(&mut connection).await;
        copied.map_err(|error| self.place.explain(error)).context("copying the database")?;
        let copy = path.to_owned();
        tokio::task::spawn_blocking(move || std::fs::File::open(&copy)?.sync_all())
            .await?
            .context("syncing the copy")?;
        Ok(())
    }

    /// Ends every reader's connection.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
    }
}

impl Session {
    /// Connects, takes the database for this process, and brings its tables up to date.
    pub(crate) async fn open(place: &Place) -> anyhow::Result<Self> {
        if let Place::File(path) = place
            && !path.exists()
        {
            // SQLite gives its other files the mode of this one.
            drop(sys::create_private(path).with_context(|| format!("creating {}", path.display()))?);
        }
        let mut connection = connect(place).await?;
        let explain = |error| place.explain(error);
        match place {
            Place::File(_) => {
                for pragma in ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA cache_size = -65536"] {
                    sqlx::query(pragma).fetch_all(&mut connection).await.map_err(explain)?;
                }
            }
            Place::Postgres(..) => {
                for at in 1..=LOCK_TRIES {
                    // It goes with the connection.
                    let taken =
                        sqlx::query("SELECT CASE WHEN pg_try_advisory_lock($1) THEN 1::BIGINT ELSE 0::BIGINT END");
                    let row = taken.bind(LOCK).fetch_one(&mut connection).await.map_err(explain)?;
                    if row.try_get::<i64, _>(0).map_err(explain)? == 1 {
                        break;
                    }
                    if at == LOCK_TRIES {
                        return Err(DatabaseError::InUse { place: place.shown() }.into());
                    }
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
            }
        }
        let mut session = Self { place: place.clone(), connection };
        session.migrate().await?;
        Ok(session)
    }

    /// An error of a statement in words.
    pub(super) fn explain(&self, error: sqlx::Error) -> DatabaseError {
        self.place.explain(error)
    }

    /// Ends the connection; what was committed is durable already.
    pub(crate) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "closing the database");
        }
    }

    async fn migrate(&mut self) -> anyhow::Result<()> {
        let place = self.place.clone();
        let explain = |error| place.explain(error);
        let connection = &mut self.connection;
        connection
            .execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY)")
            .await
            .map_err(explain)?;
        let found =
            sqlx::query("SELECT COALESCE(MAX(version), 0) FROM schema_version").fetch_one(&mut *connection).await;
        let found: i64 = found.map_err(explain)?.try_get(0).map_err(explain)?;
        if found > schema::VERSION {
            return Err(DatabaseError::Newer { place: place.shown(), found, known: schema::VERSION }.into());
        }
        let bytes = if matches!(place, Place::File(_)) { "BLOB" } else { "BYTEA" };
        for (step, version) in schema::STEPS.iter().zip(1i64..).filter(|(_, version)| *version > found) {
            // Whole or not at all: both roll tables back too.
            let mut transaction = connection.begin().await.map_err(explain)?;
            for statement in *step {
                let statement = statement.replace("BYTES", bytes);
                transaction.execute(statement.as_str()).await.map_err(explain)?;
            }
            let note = sqlx::query("INSERT INTO schema_version (version) VALUES ($1)").bind(version);
            note.execute(&mut *transaction).await.map_err(explain)?;
            transaction.commit().await.map_err(explain)?;
        }
        Ok(())
    }
}

/// A text as a part of an address.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

async fn connect(place: &Place) -> anyhow::Result<AnyConnection> {
    sqlx::any::install_default_drivers();
    let options = place.options()?;
    match tokio::time::timeout(PATIENCE, AnyConnection::connect_with(&options)).await {
        Ok(connected) => Ok(connected.map_err(|error| place.explain(error))?),
        Err(_) => {
            let cause = format!("no answer within {} s", PATIENCE.as_secs());
            Err(DatabaseError::Down { place: place.shown(), cause }.into())
        }
    }
}
