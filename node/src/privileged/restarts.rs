//! Restarts of the machine, which the installer asks for only on behalf of a release whose recipe wanted one.
//!
//! ```text
//! DIR/wants-restart   JSON: the releases whose recipes wanted a restart in this run of the operating system
//! ```
//! A node that is taken over can bring about no restart that nobody wanted, none that publisher and approver do not permit now,
//! none without the notice before it, and none twice.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Action, Release, RestartPolicy};
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::node::{InstallOutcome, RestartOutcome};

use crate::machine::Restarter;
use crate::sys::{self, Access};

const MAX_WANTED: usize = 256;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Wanted {
    boot: String,
    releases: BTreeSet<ReleaseId>,
}

/// What the installer knows of restarts.
#[derive(Debug)]
pub(super) struct Restarts {
    dir: PathBuf,
    restarter: Restarter,
    wanted: Wanted,
    told: Option<(ReleaseId, Instant)>,
}

impl Restarts {
    pub(super) fn open(dir: PathBuf, restarter: Restarter) -> Self {
        let read = fs::read(dir.join("wants-restart")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let wanted: Wanted = read.unwrap_or_default();
        let fresh = Wanted { boot: restarter.boot().to_owned(), ..Wanted::default() };
        let wanted = if wanted.boot == fresh.boot { wanted } else { fresh };
        Self { dir, restarter, wanted, told: None }
    }

    pub(super) fn notice(&self) -> std::time::Duration {
        self.restarter.config().notice()
    }

    /// Notes what a recipe wanted.
    pub(super) fn note(&mut self, id: ReleaseId, release: &Release, action: Action, outcome: &InstallOutcome) {
        let InstallOutcome::Done { restart, .. } = outcome else { return };
        let always = release.restart == RestartPolicy::Always && action == Action::Install;
        if !(*restart || always) || self.wanted.releases.len() >= MAX_WANTED || !self.wanted.releases.insert(id) {
            return;
        }
        let written = serde_json::to_vec(&self.wanted)
            .map_err(std::io::Error::from)
            .and_then(|bytes| sys::replace(&self.dir.join("wants-restart"), &bytes, Access::Owner));
        if let Err(error) = written {
            tracing::warn!("cannot write in {}: {error}; a restart may have to be made by hand", self.dir.display());
        }
    }

    /// The error says that nothing wants it.
    pub(super) fn is_wanted(&self, id: ReleaseId) -> Result<(), String> {
        let wanted = self.wanted.releases.contains(&id);
        wanted
            .then_some(())
            .ok_or_else(|| "no recipe of this release wanted a restart in this run of the system".into())
    }

    /// Tells the person at the machine; from the first time on the notice runs.
    pub(super) fn tell(&mut self, id: ReleaseId, text: &str) {
        if self.told.is_none_or(|(of, _)| of != id) {
            self.told = Some((id, Instant::now()));
            self.restarter.tell(text);
        }
    }

    /// Restarts, if the notice has run out and nobody holds it off. The error says what it waits for.
    pub(super) fn go(&mut self, id: ReleaseId) -> Result<RestartOutcome, String> {
        let notice = self.notice();
        match self.told {
            Some((of, at)) if of == id && at.elapsed() >= notice => match self.restarter.restart(id) {
                RestartOutcome::NotNow { reason } => Err(reason),
                outcome => Ok(outcome),
            },
            Some((of, at)) if of == id => {
                let left = notice.saturating_sub(at.elapsed()).as_secs();
                Err(format!("the person at the machine was told, and has {left} s more"))
            }
            _ => Err("the person at the machine has not been told".into()),
        }
    }
}
