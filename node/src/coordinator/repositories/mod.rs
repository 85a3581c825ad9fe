//! Upstream repositories on the coordinator: which there are, and the snapshots that are made of them.
//!
//! Owns the folder `repositories` of the data directory, and when mirrors are asked. Its work runs beside the driver, which it
//! never waits for: a slow mirror delays no head. It signs nothing, and no device believes it anything: it can only withhold.

pub(crate) mod fetch;
pub(crate) mod fleet;
pub(crate) mod jobs;
pub(crate) mod progress;
mod relations;
pub(crate) mod selection;
pub(crate) mod settings;
pub(crate) mod simulate;
pub(crate) mod snapshot;
mod status;
pub(crate) mod store;
pub(crate) mod sync;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::fetch::{FetchError, Fetcher};
use self::jobs::Jobs;
use self::progress::Progress;
use self::settings::Upstream;
use self::sync::{SyncError, Synced, Syncer};
use super::keys;
use crate::clock;
use crate::upstream;
use crate::upstream::release::Listed;
use crate::web::Web;

/// The most upstreams: as many as a root can pin.
pub(crate) const MAX_UPSTREAMS: usize = 64;
/// Syncs at a time.
const AT_ONCE: usize = 2;
/// How often a mirror is asked for a file that broke off.
const FETCH_TRIES: usize = 3;
/// How often it is looked for what is due.
const LOOK: Duration = Duration::from_secs(10);
/// After a start, each upstream is asked within this time.
const FIRST: Duration = Duration::from_secs(120);

/// Every upstream of a running coordinator.
#[derive(Debug)]
pub(crate) struct Repositories {
    dir: PathBuf,
    syncer: Syncer,
    jobs: Arc<Jobs>,
    at_once: Semaphore,
    /// Syncs that are under way, by upstream.
    running: Mutex<BTreeMap<String, Progress>>,
}

/// Why something cannot be done with an upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepositoryError {
    /// There is none of this name.
    #[error("there is no upstream {name:?}; there are: {known}")]
    Unknown {
        name: String,
        /// In words.
        known: String,
    },
    /// Its folder or this machine is in trouble.
    #[error("{0:#}")]
    Local(#[from] anyhow::Error),
}

impl Repositories {
    /// The upstreams in the data directory's folder. Removes what an abrupt stop has left behind.
    pub(crate) fn open(dir: PathBuf, web: &Web) -> anyhow::Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let repositories = Self::at(dir, Syncer::new(Fetcher::new(web)?));
        for name in repositories.names() {
            snapshot::remove_unfinished(&repositories.folder(&name));
        }
        Ok(repositories)
    }

    fn at(dir: PathBuf, syncer: Syncer) -> Self {
        Self { dir, syncer, jobs: Arc::default(), at_once: Semaphore::new(AT_ONCE), running: Mutex::default() }
    }

    /// The names of all upstreams, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| Upstream::is_in(&entry.path()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| upstream::is_name(name))
            .collect();
        names.sort();
        names
    }

    /// The upstream of a name.
    pub(crate) fn upstream(&self, name: &str) -> Result<Upstream, RepositoryError> {
        let folder = self.folder(name);
        if !upstream::is_name(name) || !Upstream::is_in(&folder) {
            let known = self.names();
            let known =
                if known.is_empty() { "none yet; add one with: upswarm sync add".to_owned() } else { known.join(", ") };
            return Err(RepositoryError::Unknown { name: name.to_owned(), known });
        }
        Ok(Upstream::load(&folder)?)
    }

    /// The folder of an upstream of this name.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Forgets an upstream with its snapshots.
    pub(crate) fn remove(&self, name: &str) -> Result<(), RepositoryError> {
        let upstream = self.upstream(name)?;
        let _nobody_syncs = self.lock();
        // The description makes it an upstream: without it, the rest is only what is to be removed.
        crate::sys::remove(&upstream.dir.join("upstream.json")).context("forgetting an upstream")?;
        fs::remove_dir_all(&upstream.dir).with_context(|| format!("removing {}", upstream.dir.display()))?;
        Ok(())
    }

    /// Long work that was asked for.
    pub(crate) fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    /// A file of an upstream, from the first mirror that has it; what is in `to` from an earlier try is gone on with.
    pub(crate) async fn fetch(
        &self,
        upstream: &Upstream,
        path: &str,
        wanted: Listed,
        to: &Path,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let mut first = None;
        for (_, mirror) in upstream.settings.mirrors().map_err(anyhow::Error::msg)? {
            for _ in 0..FETCH_TRIES {
                match self.syncer.fetcher().known(&mirror, path, wanted, to, progress).await {
                    Ok(()) => return Ok(()),
                    Err(error @ FetchError::Disk(_)) => return Err(error.into()),
                    // What came of it stays, and the next try goes on behind it.
                    Err(error @ FetchError::Unreachable { .. }) => drop(first.get_or_insert(error)),
                    Err(error) => {
                        first.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        Err(first.map_or_else(|| anyhow::anyhow!("it has no mirrors"), anyhow::Error::from))
    }

    /// How far the sync of an upstream is; `None` when none is under way.
    pub(crate) fn progress(&self, name: &str) -> Option<Progress> {
        self.lock().get(name).cloned()
    }

    /// Begins to sync, unless that is under way already. Returns at once.
    pub(crate) fn begin(self: &Arc<Self>, name: &str) -> Result<(), RepositoryError> {
        let upstream = self.upstream(name)?;
        let progress = Progress::default();
        {
            let mut running = self.lock();
            if running.contains_key(name) {
                return Ok(());
            }
            progress.begin("waiting for other syncs", 0);
            running.insert(name.to_owned(), progress.clone());
        }
        let this = Under { repositories: self.clone(), name: name.to_owned() };
        tokio::spawn(async move {
            if let Err(error) = this.repositories.sync(&upstream, &progress).await {
                tracing::warn!(upstream = upstream.name(), "not synced: {error}");
            }
        });
        Ok(())
    }

    async fn sync(&self, upstream: &Upstream, progress: &Progress) -> Result<Synced, SyncError> {
        let _room = self.at_once.acquire().await.map_err(anyhow::Error::from)?;
        self.syncer.sync(upstream, clock::wall(), progress).await
    }

    /// Syncs every upstream from time to time, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut due: BTreeMap<String, Instant> = BTreeMap::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
            }
            let (names, now) = (self.names(), Instant::now());
            due.retain(|name, _| names.contains(name));
            for name in names {
                // Not all at once: mirrors are not to be asked by everybody at the same minute.
                let at = *due.entry(name.clone()).or_insert_with(|| now + FIRST.mul_f64(anything()));
                if at > now {
                    continue;
                }
                match self.upstream(&name) {
                    Ok(upstream) => {
                        let every = Duration::from_secs(upstream.settings.every_s);
                        due.insert(name.clone(), now + every.mul_f64(0.75 + 0.5 * anything()));
                        // A sync by hand a moment ago is as good.
                        if recently(&upstream, every / 2) {
                            continue;
                        }
                        if let Err(error) = self.begin(&name) {
                            tracing::warn!(upstream = name, "{error}");
                        }
                    }
                    Err(error) => {
                        due.insert(name.clone(), now + FIRST);
                        tracing::warn!(upstream = name, "{error}");
                    }
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Progress>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sync under way; it is none any more when this value goes, even in a panic.
struct Under {
    repositories: Arc<Repositories>,
    name: String,
}

impl Drop for Under {
    fn drop(&mut self) {
        self.repositories.lock().remove(&self.name);
    }
}

fn recently(upstream: &Upstream, within: Duration) -> bool {
    let last = upstream.state().last_success;
    last.is_some_and(|last| last <= clock::wall() && clock::wall().since(last) < within)
}

/// A number from 0 up to 1 that nobody knows before; without random numbers, the middle.
fn anything() -> f64 {
    keys::random::<2>().map_or(0.5, |bytes| f64::from(u16::from_le_bytes(bytes)) / 65_536.0)
}

/// The folder of all upstreams in a data directory.
pub(crate) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("repositories")
}
