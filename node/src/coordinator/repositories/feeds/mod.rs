//! Feeds of advisories on the coordinator: which there are, and how they are brought up to date.
//!
//! Owns the folder `feeds` of the data directory:
//!
//! ```text
//! D/feeds/<name>/feed.json          kind, place, how often
//! D/feeds/<name>/state.json         how the last look ended, and what the server said
//! D/feeds/<name>/advisories         what it says, a line a source package
//! D/feeds/<name>/arriving           bytes on their way
//! ```
//! A feed is believed nothing but how bad things are: it chooses no byte, and what it says is shown as what it is. One that cannot
//! be read leaves what it said before.

pub(crate) mod advisories;
mod cvss;
mod osv;
#[cfg(test)]
mod tests;
mod tracker;
mod zip;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use upswarm_protocol::time::Wall;

use self::advisories::{Advisories, Said};
use super::fetch::{Fetcher, Mirror, Validators};
use super::progress::Progress;
use crate::api::feeds::{FeedKind, NewFeed};
use crate::coordinator::files::{read_if_there, read_json_or_default};
use crate::sys::{self, Access};
use crate::upstream::compression::Compression;
use crate::{background, upstream};

/// The most feeds.
const MAX_FEEDS: usize = 8;
/// How often a feed is looked at unless somebody says otherwise, in seconds.
const EVERY_S: u64 = 6 * 3600;
const MIN_EVERY_S: u64 = 60;
/// The most bytes of a feed as it is fetched; Debian's tracker has 70 MB.
const MAX_BYTES: u64 = 512 << 20;
/// The most time that one may take.
const WITHIN: Duration = Duration::from_secs(1800);
/// A feed that has not answered well for so long is said to be old.
pub(crate) const OLD: Duration = Duration::from_secs(3 * 86_400);

/// What an admin said of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) kind: FeedKind,
    pub(crate) url: String,
    pub(crate) every_s: u64,
}

/// How it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct State {
    /// What the server said of what was read last.
    validators: Validators,
    pub(crate) sources: usize,
    pub(crate) cves: usize,
    pub(crate) last_try: Option<Wall>,
    pub(crate) last_success: Option<Wall>,
    pub(crate) error: Option<String>,
}

/// A feed that an admin has added.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    pub(crate) name: String,
    pub(crate) settings: Settings,
    dir: PathBuf,
}

/// Every feed.
#[derive(Debug, Clone)]
pub(crate) struct Feeds {
    dir: PathBuf,
}

impl Feeds {
    /// The feeds in this folder, which need not be there yet.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// In the order of their names. One that cannot be read is left out, and the log says so.
    pub(crate) fn all(&self) -> Vec<Feed> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut feeds: Vec<Feed> = entries
            .filter_map(|entry| entry.file_name().into_string().ok().filter(|name| upstream::is_name(name)))
            .filter_map(|name| match self.load(&name) {
                Ok(feed) => feed,
                Err(error) => {
                    tracing::warn!("{error:#}");
                    None
                }
            })
            .collect();
        feeds.sort_by(|a, b| a.name.cmp(&b.name));
        feeds
    }

    /// The feed of a name; the error says which there are.
    pub(crate) fn named(&self, name: &str) -> anyhow::Result<Feed> {
        if let Some(feed) = self.all().into_iter().find(|feed| feed.name == name) {
            return Ok(feed);
        }
        let known: Vec<String> = self.all().into_iter().map(|feed| feed.name).collect();
        match known.is_empty() {
            true => bail!("there is no feed yet; add one with: upswarm sync feed add"),
            false => bail!("there is no feed {name:?}; there are: {}", known.join(", ")),
        }
    }

    /// Adds a feed, or changes one. What it said before counts until the new place has answered.
    pub(crate) fn add(&self, new: NewFeed) -> anyhow::Result<Feed> {
        let name = new.name;
        ensure!(
            upstream::is_name(&name),
            "{name:?} is no name for a feed: take a-z, 0-9 and -, which does not stand first or last"
        );
        place(&new.url).map_err(anyhow::Error::msg)?;
        let every_s = new.every_s.unwrap_or(EVERY_S);
        ensure!(every_s >= MIN_EVERY_S, "a feed is looked at most once in {MIN_EVERY_S} s");
        let known = self.all();
        let before = known.iter().find(|feed| feed.name == name);
        ensure!(
            before.is_some() || known.len() < MAX_FEEDS,
            "{MAX_FEEDS} feeds are there, no more are taken; remove one first"
        );
        let settings = Settings { kind: new.kind, url: new.url, every_s };
        let feed = Feed { dir: self.dir.join(&name), name, settings };
        let context = || format!("writing to {}", feed.dir.display());
        sys::make_private_dir(&self.dir).with_context(context)?;
        sys::make_private_dir(&feed.dir).with_context(context)?;
        let mut state = feed.state();
        // The new place has said nothing yet.
        (state.validators, state.last_try, state.error) = (Validators::default(), None, None);
        if before.is_some_and(|before| before.settings.kind != feed.settings.kind) {
            let _ = fs::remove_file(feed.advisories());
            state = State::default();
        }
        feed.save_state(&state)?;
        let text = serde_json::to_vec_pretty(&feed.settings)?;
        sys::replace(&feed.dir.join("feed.json"), &text, Access::Owner).with_context(context)?;
        Ok(feed)
    }

    /// Forgets a feed and what it said.
    pub(crate) fn remove(&self, name: &str) -> anyhow::Result<()> {
        let feed = self.named(name)?;
        // The description makes it a feed.
        sys::remove(&feed.dir.join("feed.json")).context("forgetting a feed")?;
        fs::remove_dir_all(&feed.dir).with_context(|| format!("removing {}", feed.dir.display()))
    }

    /// What all feeds say of these source packages. The tracker of the distribution has the word before databases that copy it.
    /// Blocks.
    pub(crate) fn read(&self, wanted: &BTreeSet<String>) -> anyhow::Result<Advisories> {
        let mut feeds = self.all();
        feeds.sort_by(|a, b| (a.settings.kind, &a.name).cmp(&(b.settings.kind, &b.name)));
        let files: Vec<PathBuf> = feeds.iter().map(Feed::advisories).filter(|path| path.exists()).collect();
        Advisories::read(files.iter().map(PathBuf::as_path), wanted)
    }

    fn load(&self, name: &str) -> anyhow::Result<Option<Feed>> {
        let dir = self.dir.join(name);
        let path = dir.join("feed.json");
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let damaged = || format!("{} is damaged; add the feed again", path.display());
        let settings = serde_json::from_slice(&bytes).with_context(damaged)?;
        Ok(Some(Feed { name: name.to_owned(), settings, dir }))
    }
}

impl Feed {
    /// How it stands. What cannot be read was nothing: all of it comes again with the next look.
    pub(crate) fn state(&self) -> State {
        read_json_or_default(&self.dir.join("state.json")).unwrap_or_else(|error| {
            tracing::warn!("{error:#}; it is made anew");
            State::default()
        })
    }

    fn save_state(&self, state: &State) -> anyhow::Result<()> {
        let path = self.dir.join("state.json");
        sys::replace(&path, &serde_json::to_vec_pretty(state)?, Access::Owner)
            .with_context(|| format!("writing {}", path.display()))
    }

    fn advisories(&self) -> PathBuf {
        self.dir.join("advisories")
    }

    /// Looks whether it says something new, and remembers how that ended.
    pub(crate) async fn refresh(&self, fetcher: &Fetcher, now: Wall, progress: &Progress) -> anyhow::Result<()> {
        let mut state = self.state();
        let done = self.fetch(fetcher, &mut state, progress).await;
        state.last_try = Some(now);
        match &done {
            Ok(()) => (state.last_success, state.error) = (Some(now), None),
            Err(error) => state.error = Some(format!("{error:#}")),
        }
        self.save_state(&state)?;
        let _ = fs::remove_file(self.dir.join("arriving"));
        done
    }

    async fn fetch(&self, fetcher: &Fetcher, state: &mut State, progress: &Progress) -> anyhow::Result<()> {
        let (mirror, file) = place(&self.settings.url).map_err(anyhow::Error::msg)?;
        let arriving = self.dir.join("arriving");
        progress.begin(format!("asking {}", self.settings.url), 0);
        let known = if self.advisories().exists() { state.validators.clone() } else { Validators::default() };
        let fetched = fetcher.whole(&mirror, &file, &known, (MAX_BYTES, WITHIN), &arriving, progress).await?;
        let Some(validators) = fetched else { return Ok(()) };
        progress.begin(format!("reading {file}"), 0);
        let (kind, making, url) = (self.settings.kind, self.dir.join("making"), self.settings.url.clone());
        let (sources, cves) = background::run(move || -> anyhow::Result<_> {
            let said = read(kind, &arriving, &file).with_context(|| format!("{url} is not taken"))?;
            let counts = (said.len(), said.values().map(|cves| cves.len()).sum());
            advisories::write(said, &making)?;
            Ok(counts)
        })
        .await??;
        sys::rename(&self.dir.join("making"), &self.advisories()).context("putting what a feed says in its place")?;
        (state.validators, state.sources, state.cves) = (validators, sources, cves);
        tracing::info!(feed = self.name, sources, cves, "a feed says something new");
        Ok(())
    }
}

/// Where a feed's file is: the folder, and its name there.
fn place(url: &str) -> Result<(Mirror, String), String> {
    let (folder, file) = url.rsplit_once('/').unwrap_or((url, ""));
    if file.is_empty() {
        return Err(format!("{url:?} names no file; write http://, https:// or file:/ and its whole path"));
    }
    // A folder right below the top ends with nothing.
    let folder = if folder == "file:" || folder == "file://" { "file:/" } else { folder };
    Ok((Mirror::parse(folder)?, file.to_owned()))
}

/// Reads a feed's file, which may be compressed as its name says. Blocks.
fn read(kind: FeedKind, path: &Path, name: &str) -> anyhow::Result<Said> {
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let input = Compression::of(name).open(BufReader::new(file))?;
    match kind {
        FeedKind::DebianTracker => {
            tracker::read(input).context("it is no JSON of the Debian security tracker; the other kind is osv")
        }
        FeedKind::Osv => {
            osv::read(input).context("it holds no records of the OSV format; the other kind is debian-tracker")
        }
    }
}
