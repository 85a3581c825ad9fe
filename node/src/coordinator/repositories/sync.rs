//! Makes a snapshot of an upstream's newest state. Owns the order of the checks and what is tried again; never serves one.
//!
//! 1. InRelease, with what the mirror said last time: an unchanged suite costs one short answer.
//! 2. Its signature by a pinned certificate; suite and dates: never an older state than the newest that is here.
//! 3. Every index of the wanted components and architectures, by the length and SHA-256 that InRelease names; those of the snapshot
//!    before are taken from there.
//! 4. Every index read to its end.
//! 5. The folder gets its name. Until then nothing of it is seen, and the snapshot before stays the newest.
//!
//! A mirror that changes meanwhile is asked for everything again; then the next mirror is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::ids::PayloadId;
use upswarm_protocol::time::Wall;
use upswarm_protocol::version;

use super::fetch::{FetchError, Fetcher, Mirror, Validators};
use super::progress::Progress;
use super::settings::{State, Upstream};
use super::snapshot::{self, Facts, IN_RELEASE, Index, Snapshot, Source, Sources};
use crate::background;
use crate::coordinator::keys;
use crate::sys::{self, Access};
use crate::upstream::MAX_IN_RELEASE;
use crate::upstream::openpgp::{self, Certificate, SignatureError};
use crate::upstream::release::{Listed, Release, ReleaseError};

/// How often a mirror that changes is asked for everything again, and after how long.
const TRIES: usize = 3;
/// Clocks differ; what is dated further ahead is no state of an upstream.
const AHEAD: Duration = Duration::from_secs(86_400);
const PAUSE: Duration = Duration::from_secs(10);
/// The most bytes of an index as it is downloaded; Debian's largest has 10 MB.
const MAX_INDEX: u64 = 256 << 20;
/// The most indexes of a snapshot: as many as a release can name.
const MAX_INDEXES: usize = 32;

/// How a sync ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Synced {
    /// The newest snapshot is upstream's newest state.
    Unchanged,
    /// There is a newer one.
    New(Snapshot),
}

/// Why there is no newer snapshot. The one before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// A file could not be had.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The signature does not count.
    #[error("{url}: {error}")]
    Signature { url: String, error: SignatureError },
    /// InRelease says what it may not.
    #[error("{url}: InRelease: {error}")]
    Release { url: String, error: ReleaseError },
    /// It is of another suite, older, or too old.
    #[error("{url}: {what}")]
    State { url: String, what: String },
    /// An index says what it may not, though upstream signed it.
    #[error("{path}: {error:#}")]
    Index { path: String, error: anyhow::Error },
    /// This machine.
    #[error("{0:#}")]
    Local(#[from] anyhow::Error),
}

/// Whether another mirror could do better, and whether this one could in a moment.
enum Next {
    Again,
    Elsewhere,
}

impl SyncError {
    fn next(&self) -> Option<Next> {
        match self {
            Self::Fetch(FetchError::Disk(_)) | Self::Index { .. } | Self::Local(_) => None,
            Self::Fetch(error) if error.is_of_a_changing_mirror() => Some(Next::Again),
            Self::Fetch(_) | Self::Signature { .. } | Self::Release { .. } | Self::State { .. } => {
                Some(Next::Elsewhere)
            }
        }
    }
}

/// Makes snapshots.
#[derive(Debug, Clone)]
pub(crate) struct Syncer {
    fetcher: Fetcher,
    pause: Duration,
}

impl Syncer {
    pub(crate) fn new(fetcher: Fetcher) -> Self {
        Self { fetcher, pause: PAUSE }
    }

    pub(crate) fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// The same, which waits less long for a mirror that changes.
    #[cfg(test)]
    pub(crate) fn with_pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Syncs, and remembers how it ended.
    pub(crate) async fn sync(&self, upstream: &Upstream, now: Wall, progress: &Progress) -> Result<Synced, SyncError> {
        let mut state = upstream.state();
        let done = self.ask_mirrors(upstream, &mut state, now, progress).await;
        state.last_try = Some(now);
        match &done {
            Ok(_) => (state.last_success, state.error) = (Some(now), None),
            Err(error) => state.error = Some(error.to_string()),
        }
        upstream.save_state(&state)?;
        if matches!(done, Ok(Synced::New(_))) {
            snapshot::retire(&upstream.dir);
        }
        done
    }

    /// Asks one mirror after the other. The error of the first is told: the others are what to fall back on.
    async fn ask_mirrors(
        &self,
        upstream: &Upstream,
        state: &mut State,
        now: Wall,
        progress: &Progress,
    ) -> Result<Synced, SyncError> {
        let mirrors = upstream.settings.mirrors().map_err(anyhow::Error::msg)?;
        let certificates = upstream.description.certificates().map_err(anyhow::Error::from)?;
        let task = Task { upstream, certificates: &certificates, now, progress };
        let mut first: Option<SyncError> = None;
        for (url, mirror) in &mirrors {
            for tries in 1.. {
                let error = match self.from(&task, (url, mirror), state).await {
                    Ok(synced) => return Ok(synced),
                    Err(error) => error,
                };
                tracing::info!(upstream = upstream.name(), url, tries, "not synced: {error}");
                match error.next() {
                    None => return Err(error),
                    Some(Next::Again) if tries < TRIES => {
                        progress.begin(format!("{error}; asking again"), 0);
                        tokio::time::sleep(self.pause).await;
                    }
                    Some(_) => {
                        first.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        Err(first.unwrap_or_else(|| SyncError::Local(anyhow::anyhow!("it has no mirrors"))))
    }

    async fn from(
        &self,
        task: &Task<'_>,
        (url, mirror): (&str, &Mirror),
        state: &mut State,
    ) -> Result<Synced, SyncError> {
        let (upstream, suite) = (task.upstream, &task.upstream.description.suite);
        let snapshots = snapshot::all(&upstream.dir);
        let newest = snapshots.last();
        task.progress.begin(format!("asking {url}"), 0);
        // 1. What a mirror said counts for the snapshot that was made of it.
        let known = state.validators.get(url).filter(|_| newest.map(|newest| newest.id) == state.newest);
        let known = known.cloned().filter(|_| newest.is_some()).unwrap_or_default();
        let path = format!("dists/{suite}/{IN_RELEASE}");
        let Some((bytes, said)) = self.fetcher.small(mirror, &path, &known, MAX_IN_RELEASE).await? else {
            return task
                .still_good(url, newest.and_then(|newest| newest.facts.valid_until))
                .map(|()| Synced::Unchanged);
        };
        let id = PayloadId::of(&bytes);
        // 2.
        let release = task.believed(url, &bytes)?;
        if let Some(newest) = newest {
            if newest.id == id {
                remember(state, url, id, said);
                return Ok(Synced::Unchanged);
            }
            if release.date < newest.facts.date {
                let (has, here) = (snapshot::version(release.date), newest.version());
                let what =
                    format!("its newest state is of {has}, and there is one of {here} here: the mirror is behind");
                return Err(SyncError::State { url: url.to_owned(), what });
            }
        }
        let wanted = task.indexes(url, &release)?;
        let total = wanted.iter().map(|(_, listed)| listed.len).sum();
        task.progress.begin(format!("indexes of {}", snapshot::version(release.date)), total);
        let making = Making::begin(&upstream.dir)?;
        sys::replace(&making.0.join(IN_RELEASE), &bytes, Access::Owner).map_err(FetchError::Disk)?;
        // 3.
        for (path, listed) in &wanted {
            let to = making.0.join(snapshot::file_name(path));
            if newest.is_none_or(|newest| !reuse(newest, path, *listed, &to)) {
                self.index((mirror, suite), (path, *listed), release.by_hash, &to, task.progress).await?;
            } else {
                task.progress.add(listed.len);
            }
        }
        // 4.
        task.progress.begin("reading the indexes", 0);
        let paths: Vec<String> = wanted.iter().map(|(path, _)| path.clone()).collect();
        let folder = making.0.clone();
        let read = background::run(move || count(&folder, &paths)).await.map_err(SyncError::Local)??;
        let (counts, versions) = read;
        let before = newest.map(Snapshot::sources).unwrap_or_default();
        let sources = versions.into_iter().map(|(name, version)| {
            let same = before.get(&name).filter(|known| known.version == version);
            let since = same.map_or(release.date, |known| known.since);
            (name, Source { version, since })
        });
        let sources: Sources = sources.collect();
        // 5.
        let indexes = wanted.iter().zip(counts).map(|((path, listed), packages)| Index {
            path: path.clone(),
            len: listed.len,
            sha256: hex::encode(listed.sha256),
            packages,
        });
        let facts = Facts {
            date: release.date,
            valid_until: release.valid_until,
            origin: release.origin,
            codename: release.codename,
            version: release.version,
            indexes: indexes.collect(),
        };
        let made = snapshot::finish(&making.0, &upstream.dir, id, facts, &sources)?;
        remember(state, url, id, said);
        tracing::info!(
            upstream = upstream.name(),
            version = made.version(),
            packages = made.packages(),
            "a new snapshot"
        );
        Ok(Synced::New(made))
    }

    /// By its hash where the mirror has that: then a mirror that changes meanwhile still has the old one.
    async fn index(
        &self,
        (mirror, suite): (&Mirror, &str),
        (path, listed): (&str, Listed),
        by_hash: bool,
        to: &Path,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        if by_hash {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let place = format!("dists/{suite}/{folder}/by-hash/SHA256/{}", hex::encode(listed.sha256));
            match self.fetcher.known(mirror, &place, listed, to, progress).await {
                Err(FetchError::Missing(_)) => {}
                done => return done,
            }
        }
        self.fetcher.known(mirror, &format!("dists/{suite}/{path}"), listed, to, progress).await
    }
}

/// What is synced, and whom it is believed.
struct Task<'a> {
    upstream: &'a Upstream,
    certificates: &'a [Certificate],
    now: Wall,
    progress: &'a Progress,
}

impl Task<'_> {
    /// What an InRelease says, if it counts here and now.
    fn believed(&self, url: &str, bytes: &[u8]) -> Result<Release, SyncError> {
        let state = |what: String| Err(SyncError::State { url: url.to_owned(), what });
        let text = openpgp::verify(bytes, self.certificates, self.now)
            .map_err(|error| SyncError::Signature { url: format!("{url}: {IN_RELEASE}"), error })?;
        let release = Release::parse(&text).map_err(|error| SyncError::Release { url: url.to_owned(), error })?;
        let suite = &self.upstream.description.suite;
        if !release.is_of(suite) {
            let (is, codename) = (&release.suite, &release.codename);
            return state(format!(
                "in the place of {suite} lies the InRelease of the suite {is:?}, codename {codename:?}; the mirror is damaged, or the \
                 upstream is to be added by that name"
            ));
        }
        if release.date > self.now + AHEAD {
            return state(format!(
                "its InRelease is dated {}: a date that lies ahead would make every later one old",
                release.date
            ));
        }
        self.still_good(url, release.valid_until)?;
        Ok(release)
    }

    fn still_good(&self, url: &str, valid_until: Option<Wall>) -> Result<(), SyncError> {
        let Some(until) = valid_until.filter(|until| *until <= self.now) else { return Ok(()) };
        let what = format!(
            "its InRelease was good until {until} only: the mirror is no longer brought up to date, or this machine's clock is wrong"
        );
        Err(SyncError::State { url: url.to_owned(), what })
    }

    /// The indexes of the wanted components and architectures, by path.
    fn indexes(&self, url: &str, release: &Release) -> Result<Vec<(String, Listed)>, SyncError> {
        let description = &self.upstream.description;
        let refuse = |what: String| Err(SyncError::State { url: url.to_owned(), what });
        let mut wanted = Vec::new();
        for component in &description.components {
            for arch in &description.architectures {
                let Some(found) = release.index(component, arch) else {
                    let (has, archs) = (release.components.join(" "), release.architectures.join(" "));
                    return refuse(format!(
                        "{} has no packages of {component} for {arch}; it says that it has the components {has} for {archs}",
                        description.suite
                    ));
                };
                wanted.push(found);
            }
            if release.separate_all {
                wanted.extend(release.index(component, "all"));
            }
        }
        if wanted.len() > MAX_INDEXES {
            return refuse(format!(
                "it has more than {MAX_INDEXES} indexes; add it twice, each with some of the components"
            ));
        }
        match wanted.iter().find(|(_, listed)| listed.len > MAX_INDEX) {
            Some((path, listed)) => refuse(format!("{path} has {} bytes, more than any index has", listed.len)),
            None => Ok(wanted),
        }
    }
}

/// A folder in which a snapshot is made; it goes away with this value, unless it got its name.
struct Making(PathBuf);

impl Making {
    fn begin(upstream: &Path) -> anyhow::Result<Self> {
        let dir = upstream.join(format!("{}{}", snapshot::MAKING, hex::encode(keys::random::<8>()?)));
        sys::create_private_dir(&dir).map_err(FetchError::Disk)?;
        Ok(Self(dir))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Gone already when the snapshot was finished.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn remember(state: &mut State, url: &str, id: PayloadId, said: Validators) {
    if state.newest != Some(id) {
        state.validators.clear();
        state.newest = Some(id);
    }
    state.validators.insert(url.to_owned(), said);
}

/// Takes an index that has not changed from the snapshot before: the same file, which nobody writes to.
fn reuse(newest: &Snapshot, path: &str, listed: Listed, to: &Path) -> bool {
    let hash = hex::encode(listed.sha256);
    let same = newest.facts.indexes.iter().any(|index| index.path == path && index.sha256 == hash);
    same && fs::hard_link(newest.dir.join(snapshot::file_name(path)), to).is_ok()
}

/// Reads every index to its end; returns how many packages each names, and the newest version of each source package.
fn count(folder: &Path, paths: &[String]) -> Result<(Vec<u64>, BTreeMap<String, String>), SyncError> {
    let mut versions: BTreeMap<String, String> = BTreeMap::new();
    let mut counts = Vec::new();
    for path in paths {
        let count = snapshot::read_index(&folder.join(snapshot::file_name(path)), |package| {
            match versions.get_mut(&package.source) {
                Some(known) if version::compare(PackageKind::Deb, known, &package.source_version).is_ge() => {}
                Some(known) => *known = package.source_version,
                None => drop(versions.insert(package.source, package.source_version)),
            }
        });
        counts.push(count.map_err(|error| SyncError::Index { path: path.clone(), error })? as u64);
    }
    Ok((counts, versions))
}

#[cfg(test)]
mod tests;
