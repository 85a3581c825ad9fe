//! What an admin said of an upstream, and what its syncs left to remember, in its own folder:
//!
//! ```text
//! D/repositories/<name>/upstream.json    the description that a root pins; its exact bytes
//! D/repositories/<name>/settings.json    where its mirrors are, and how often they are asked
//! D/repositories/<name>/state.json       how the last sync ended, and what mirrors said of their InRelease
//! D/repositories/<name>/<hash>/          a snapshot, named by the BLAKE3 of its InRelease; complete and verified
//! D/repositories/<name>/new-<random>/    one that is being made
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::PayloadId;
use upswarm_protocol::time::Wall;

use super::fetch::{Mirror, Validators};
use crate::coordinator::files::{read_if_there, read_json_or_default};
use crate::sys::{self, Access};
use crate::upstream::UpstreamDescription;

/// The most mirrors of an upstream.
const MAX_MIRRORS: usize = 8;
/// How often mirrors are asked unless somebody says otherwise, in seconds: an unchanged suite costs one short answer.
pub(crate) const EVERY_S: u64 = 3600;
/// Mirrors are asked no more often than this, in seconds.
const MIN_EVERY_S: u64 = 60;

/// Where an upstream's mirrors are, and how often they are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The best first.
    pub(crate) urls: Vec<String>,
    /// Seconds between two syncs, more or less by a quarter.
    pub(crate) every_s: u64,
}

/// What syncs leave to remember.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct State {
    /// What each mirror said of the InRelease of `newest`.
    pub(crate) validators: BTreeMap<String, Validators>,
    /// The snapshot that was made last.
    pub(crate) newest: Option<PayloadId>,
    pub(crate) last_try: Option<Wall>,
    pub(crate) last_success: Option<Wall>,
    /// Why the last try failed.
    pub(crate) error: Option<String>,
}

/// An upstream that an admin has added.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub(crate) description: UpstreamDescription,
    /// The description's exact bytes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) settings: Settings,
    /// Its folder.
    pub(crate) dir: PathBuf,
}

impl Settings {
    /// Checks what can be checked without asking anybody.
    pub(crate) fn mirrors(&self) -> Result<Vec<(String, Mirror)>, String> {
        if self.urls.is_empty() || self.urls.len() > MAX_MIRRORS {
            return Err(format!("name at least one mirror with --url, and at most {MAX_MIRRORS}"));
        }
        if self.every_s < MIN_EVERY_S {
            return Err(format!("mirrors are asked at most once in {MIN_EVERY_S} s"));
        }
        self.urls.iter().map(|url| Ok((url.clone(), Mirror::parse(url)?))).collect()
    }
}

impl Upstream {
    /// Reads the upstream in a folder.
    pub(crate) fn load(dir: &Path) -> anyhow::Result<Self> {
        let damaged = |name: &str| format!("{} is damaged; restore it from a copy", dir.join(name).display());
        let bytes = fs::read(dir.join("upstream.json")).with_context(|| damaged("upstream.json"))?;
        let description = UpstreamDescription::parse(&bytes).with_context(|| damaged("upstream.json"))?;
        let settings = fs::read(dir.join("settings.json")).with_context(|| damaged("settings.json"))?;
        let settings = serde_json::from_slice(&settings).with_context(|| damaged("settings.json"))?;
        Ok(Self { description, bytes, settings, dir: dir.to_owned() })
    }

    /// Writes description and settings; the description last, which makes it an upstream.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let context = || format!("writing to {}", self.dir.display());
        sys::make_private_dir(&self.dir).with_context(context)?;
        let settings = serde_json::to_vec_pretty(&self.settings)?;
        sys::replace(&self.dir.join("settings.json"), &settings, Access::Owner).with_context(context)?;
        sys::replace(&self.dir.join("upstream.json"), &self.bytes, Access::Owner).with_context(context)?;
        if let Some(above) = self.dir.parent() {
            sys::sync_dir(above).with_context(context)?;
        }
        Ok(())
    }

    /// Whether a folder holds one.
    pub(crate) fn is_in(dir: &Path) -> bool {
        read_if_there(&dir.join("upstream.json")).is_ok_and(|found| found.is_some())
    }

    pub(crate) fn name(&self) -> &str {
        &self.description.name
    }

    /// How the last sync ended. What cannot be read was nothing: all of it comes again with the next sync.
    pub(crate) fn state(&self) -> State {
        read_json_or_default(&self.dir.join("state.json")).unwrap_or_else(|error| {
            tracing::warn!("{error:#}; it is made anew");
            State::default()
        })
    }

    pub(crate) fn save_state(&self, state: &State) -> anyhow::Result<()> {
        let path = self.dir.join("state.json");
        sys::replace(&path, &serde_json::to_vec_pretty(state)?, Access::Owner)
            .with_context(|| format!("writing {}", path.display()))
    }
}
