//! Upstream repositories on the coordinator: which there are, and the snapshots that are made of them.
//!
//! Owns the folder `repositories` of the data directory, and when mirrors and feeds are asked. Its work runs beside the driver, which it
//! never waits for: a slow mirror delays no head. It signs nothing, and no device believes it anything: it can only withhold.

mod auth;
pub(crate) mod feeds;
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
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use upswarm_protocol::time::Wall;

use self::feeds::Feeds;
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
    feeds: Feeds,
    jobs: Arc<Jobs>,
    at_once: Semaphore,
    /// Rings when a snapshot or feed brought something new, or a rule did.
    news: Arc<Notify>,
    /// What is under way, by upstream, or by [`feed_key`].
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
    /// The upstreams and feeds of a data directory. Removes what an abrupt stop has left behind.
    pub(crate) fn open(data_dir: &Path, web: &Web) -> anyhow::Result<Self> {
        let dir = data_dir.join("repositories");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let fetcher = Fetcher::new(web)?.with_credentials(&dir);
        let repositories = Self::at(dir, Feeds::new(data_dir.join("feeds")), Syncer::new(fetcher));
        for name in repositories.names() {
            snapshot::remove_unfinished(&repositories.folder(&name));
        }
        Ok(repositories)
    }

    fn at(dir: PathBuf, feeds: Feeds, syncer: Syncer) -> Self {
        Self {
            dir,
            syncer,
            feeds,
            jobs: Arc::default(),
            news: Arc::default(),
            at_once: Semaphore::new(AT_ONCE),
            running: Mutex::default(),
        }
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

    /// The feeds of advisories.
    pub(crate) fn feeds(&self) -> &Feeds {
        &self.feeds
    }

    /// Standing rules are to look again.
    pub(crate) fn news(&self) {
        self.news.notify_one();
    }

    /// Comes back when there is something new. One waits.
    pub(crate) async fn something_new(&self) {
        self.news.notified().await;
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
        let Some((this, progress)) = self.mark(name.to_owned()) else { return Ok(()) };
        tokio::spawn(async move {
            match this.repositories.sync(&upstream, &progress).await {
                Ok(Synced::New(_)) => this.repositories.news(),
                Ok(Synced::Unchanged) => {}
                Err(error) => tracing::warn!(upstream = upstream.name(), "not synced: {error}"),
            }
        });
        Ok(())
    }

    /// Begins to look whether a feed says something new, unless that is under way already. Returns at once.
    pub(crate) fn begin_feed(self: &Arc<Self>, name: &str) -> anyhow::Result<()> {
        let feed = self.feeds.named(name)?;
        let Some((this, progress)) = self.mark(feed_key(name)) else { return Ok(()) };
        tokio::spawn(async move {
            let Ok(_room) = this.repositories.at_once.acquire().await else { return };
            let fetcher = this.repositories.syncer.fetcher();
            match feed.refresh(fetcher, clock::wall(), &progress).await {
                Ok(()) => this.repositories.news(),
                Err(error) => tracing::warn!(feed = feed.name, "what it said before counts on: {error:#}"),
            }
        });
        Ok(())
    }

    /// Marks something as under way; `None` if it is already.
    fn mark(self: &Arc<Self>, name: String) -> Option<(Under, Progress)> {
        let progress = Progress::default();
        let mut running = self.lock();
        if running.contains_key(&name) {
            return None;
        }
        progress.begin("waiting for other syncs", 0);
        running.insert(name.clone(), progress.clone());
        Some((Under { repositories: self.clone(), name }, progress))
    }

    async fn sync(&self, upstream: &Upstream, progress: &Progress) -> Result<Synced, SyncError> {
        let _room = self.at_once.acquire().await.map_err(anyhow::Error::from)?;
        self.syncer.sync(upstream, clock::wall(), progress).await
    }

    /// Syncs every upstream and looks at every feed from time to time, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut due: BTreeMap<String, Instant> = BTreeMap::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
            }
            let (names, feeds, now) = (self.names(), self.feeds.all(), Instant::now());
            due.retain(|name, _| names.contains(name) || feeds.iter().any(|feed| feed_key(&feed.name) == *name));
            for feed in feeds {
                let at = *due.entry(feed_key(&feed.name)).or_insert_with(|| now + FIRST.mul_f64(anything()));
                if at > now {
                    continue;
                }
                let every = Duration::from_secs(feed.settings.every_s);
                due.insert(feed_key(&feed.name), now + every.mul_f64(0.75 + 0.5 * anything()));
                if recent(feed.state().last_success, every / 2) {
                    continue;
                }
                if let Err(error) = self.begin_feed(&feed.name) {
                    tracing::warn!(feed = feed.name, "{error:#}");
                }
            }
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
                        if recent(upstream.state().last_success, every / 2) {
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

/// What a feed's look is called while it is under way; no upstream can be called so.
pub(crate) fn feed_key(name: &str) -> String {
    format!("feed/{name}")
}

fn recent(last: Option<Wall>, within: Duration) -> bool {
    last.is_some_and(|last| last <= clock::wall() && clock::wall().since(last) < within)
}

/// A number from 0 up to 1 that nobody knows before; without random numbers, the middle.
fn anything() -> f64 {
    keys::random::<2>().map_or(0.5, |bytes| f64::from(u16::from_le_bytes(bytes)) / 65_536.0)
}
