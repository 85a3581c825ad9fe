//! Detection and installation: what the publisher's signed release says, done on this machine.
//!
//! Everything here blocks and belongs on a blocking thread, one job at a time. The store that hands in payloads may be
//! written by a process with fewer rights: so a payload is copied into a place that only this user can write, hashed on the
//! way, and only the copy is executed, handed to a package manager or renamed into place. Nothing lies between check and use.
//!
//! ```text
//! STATE/private/RANDOM/NAME   verified copies for one job, removed with it
//! STATE/logs/RELEASE-TIME.log what programs printed, at most 1 MiB each, the newest 50
//! STATE/backup/RELEASE        what a `files` recipe replaced
//! ```
//! STATE's parents must be writable by this user only: that is the admin's to arrange.

mod apt;
mod deb;
mod detect;
mod diagnosis;
mod exec;
mod files;
mod log;
mod manifest;
mod payload;
mod query;
mod rpm;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod outcomes;
#[cfg(test)]
mod outcomes_rpm;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use upswarm_protocol::catalog::{Action, Recipe, Release};
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::node::InstallOutcome;
use upswarm_protocol::time::Wall;

use crate::sys::{self, PlaceError};
pub(crate) use detect::detect;
pub(crate) use files::recover;
pub(crate) use log::{log_for_coordinator, newest_logs};
pub(crate) use payload::{Source, is_package_file};

/// One install or uninstall.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// The release's identifier.
    pub(crate) id: ReleaseId,
    /// The verified release.
    pub(crate) release: &'a Release,
    /// Install or uninstall.
    pub(crate) action: Action,
    /// Whether a later version of its packages may be replaced. Without it, only one that is left half installed may.
    pub(crate) downgrade: bool,
    /// When an approver said so.
    pub(crate) said: Wall,
    /// One per payload of the release, in order. Those that the recipe uses are complete; none is trusted.
    pub(crate) payloads: Vec<Source>,
    /// Where copies, logs and backups go; made if it is not there.
    pub(crate) state_dir: &'a Path,
    /// Install packages and files below this directory instead of `/` (an image, a trial). Programs run as ever, with the
    /// directory in `UPSWARM_ROOT`.
    pub(crate) root: Option<&'a Path>,
    /// Set when the node is about to end. A running `exec` recipe is ended then; package managers are left to finish.
    pub(crate) cancel: &'a AtomicBool,
}

/// Runs the recipe for the job's action and says how it ended; detection has the last word on whether it worked.
pub(crate) fn run(job: &Job<'_>) -> InstallOutcome {
    // A tight mask would leave installed files unreadable, a loose one would leave them writable. The files of this program
    // state their modes, so the process-wide setting concerns children only.
    sys::set_default_modes();
    let removal = job.release.removal();
    let recipe = match job.action {
        Action::Install => Some(&job.release.install),
        Action::Uninstall => removal.as_ref(),
        Action::None => return Trouble::failed("the approval says that nothing is to be done").into(),
    };
    let done = match recipe {
        Some(Recipe::Exec { argv, exit_codes, timeout_s }) => exec::run(job, argv, exit_codes, *timeout_s),
        Some(Recipe::Files { files }) => files::place(job, files),
        Some(Recipe::RemoveFiles { paths }) => files::remove(job, paths.iter().map(|path| path.as_str())),
        Some(Recipe::Deb { timeout_s }) => deb::install(job, *timeout_s),
        Some(Recipe::RemoveDeb { packages, timeout_s }) => deb::remove(job, packages, *timeout_s),
        Some(Recipe::Rpm { timeout_s }) => rpm::install(job, *timeout_s),
        Some(Recipe::RemoveRpm { packages, timeout_s }) => rpm::remove(job, packages, *timeout_s),
        Some(Recipe::Apt(recipe)) => apt::install(job, recipe),
        None => Err(Trouble::failed("the release says nothing about how to uninstall it")),
    };
    done.unwrap_or_else(InstallOutcome::from)
}

/// Writes down for plain apt what a snapshot of a repository says: see [`crate::apt_setup`]. The error says why not.
pub(crate) fn note(job: &Job<'_>) -> Result<(), String> {
    match &job.release.install {
        Recipe::Apt(recipe) => apt::note(job, recipe).map_err(|trouble| trouble.reason),
        _ => Err("the release is no snapshot of a repository".into()),
    }
}

/// Why a job did not get as far as an outcome of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Whether trying again later may help.
    retry: bool,
    pub(crate) reason: String,
}

impl Trouble {
    fn failed(reason: impl Into<String>) -> Self {
        Self { retry: false, reason: reason.into() }
    }

    fn retry(reason: impl Into<String>) -> Self {
        Self { retry: true, reason: reason.into() }
    }

    /// An error of the operating system about a path. A full disk and a busy file pass; the rest does not.
    fn io(what: &str, path: &Path, error: impl Into<io::Error>) -> Self {
        use io::ErrorKind as Kind;
        let error = error.into();
        let retry = matches!(
            error.kind(),
            Kind::StorageFull | Kind::QuotaExceeded | Kind::ResourceBusy | Kind::ExecutableFileBusy | Kind::OutOfMemory
        );
        Self { retry, reason: format!("{what} {}: {error}", path.display()) }
    }
}

impl From<PlaceError> for Trouble {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Refused(reason) => Self::failed(reason),
            PlaceError::Io { what, path, error } => Self::io(what, &path, error),
        }
    }
}

impl From<Trouble> for InstallOutcome {
    fn from(trouble: Trouble) -> Self {
        if trouble.retry {
            Self::Retry { code: None, reason: trouble.reason }
        } else {
            Self::Failed { code: None, reason: trouble.reason }
        }
    }
}

/// The directory `name` of the state directory, made if it is not there, closed to everyone but this user.
pub(crate) fn private_dir(state_dir: &Path, name: &str) -> Result<PathBuf, Trouble> {
    let dir = state_dir.join(name);
    let cannot = |error| Trouble::io("cannot prepare", &dir, error);
    sys::make_private_dir(&dir).map_err(cannot)?;
    if !sys::is_own_private_dir(&dir).map_err(cannot)? {
        let reason = format!("{} is not a directory of this user; remove it", dir.display());
        return Err(Trouble::failed(reason));
    }
    Ok(dir)
}

/// Sixteen hex digits that nobody can foresee.
fn random_name() -> Result<String, Trouble> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| Trouble::retry(format!("no random numbers: {error}")))?;
    Ok(hex::encode(bytes))
}
