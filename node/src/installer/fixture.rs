//! Releases and stores for the tests of this module.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use upswarm_protocol::catalog::{
    Action, Classification, FilePlacement, Payload, Platform, Recipe, Release, RestartPolicy, Severity,
};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::{DocHash, PayloadId, ReleaseId};
use upswarm_protocol::node::InstallOutcome;
use upswarm_protocol::time::Wall;

use super::{Job, Source, run};

/// A store with payloads, a state directory, and a directory to install into.
pub(super) struct Fixture {
    pub(super) dir: tempfile::TempDir,
    pub(super) release: Release,
    pub(super) id: ReleaseId,
    pub(super) root: Option<PathBuf>,
    pub(super) downgrade: bool,
    pub(super) said: Wall,
    pub(super) cancel: AtomicBool,
}

pub(super) fn text<const N: usize>(text: &str) -> Text<N> {
    Text::new(text).unwrap()
}

pub(super) fn list<T, const N: usize>(elements: impl IntoIterator<Item = T>) -> Bounded<T, N> {
    Bounded::new(elements.into_iter().collect()).unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn exec(argv: &[&str], timeout_s: u32) -> Recipe {
    Recipe::Exec { argv: list(argv.iter().map(|arg| text(arg))), exit_codes: Bounded::default(), timeout_s }
}

impl Fixture {
    /// A release with these payloads (name, bytes), complete in the store.
    pub(super) fn new(payloads: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for place in ["store", "target"] {
            fs::create_dir(dir.path().join(place)).unwrap();
        }
        for (at, (_, bytes)) in payloads.iter().enumerate() {
            fs::write(dir.path().join(format!("store/{at}")), bytes).unwrap();
        }
        let payload = |(name, bytes): &(&str, &[u8])| Payload {
            name: text(name),
            id: PayloadId::of(bytes),
            len: bytes.len() as u64,
            chunk_list: DocHash::default(),
            chunk_list_len: 0,
            sha256: [0; 32],
            urls: Bounded::default(),
            patches: Bounded::default(),
        };
        let release = Release {
            product: text("org.example.app"),
            version: text("1.0"),
            counter: 1,
            title: text("An app"),
            classification: Classification::Update,
            severity: Severity::Unspecified,
            cves: Bounded::default(),
            issued: Wall(0),
            expires: Wall(0),
            platform: Platform::default(),
            payloads: list(payloads.iter().map(payload)),
            applicability: Bounded::default(),
            detect: Bounded::default(),
            install: exec(&["/bin/true"], 10),
            uninstall: None,
            restart: RestartPolicy::Never,
            depends: Bounded::default(),
            supersedes: Bounded::default(),
        };
        Self {
            dir,
            release,
            id: ReleaseId([1; 32]),
            root: None,
            downgrade: false,
            said: Wall(1),
            cancel: AtomicBool::new(false),
        }
    }

    pub(super) fn install(mut self, recipe: Recipe) -> Self {
        self.release.install = recipe;
        self
    }

    /// A `files` recipe that puts payload N at the Nth path below `target`, mode 0640.
    pub(super) fn placing(mut self, names: &[&str]) -> Self {
        let file = |(at, name): (usize, &&str)| FilePlacement {
            payload: at as u16,
            path: text(&self.target(name).display().to_string()),
            mode: 0o640,
        };
        self.release.install = Recipe::Files { files: list(names.iter().enumerate().map(file)) };
        self
    }

    pub(super) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(super) fn target(&self, name: &str) -> PathBuf {
        self.dir.path().join("target").join(name)
    }

    pub(super) fn stored(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("store/{at}"))
    }

    pub(super) fn with_job<T>(&self, action: Action, work: impl FnOnce(&Job<'_>) -> T) -> T {
        let state = self.state();
        work(&Job {
            id: self.id,
            release: &self.release,
            action,
            downgrade: self.downgrade,
            said: self.said,
            payloads: (0..self.release.payloads.len()).map(|at| Source::Path(self.stored(at))).collect(),
            state_dir: &state,
            root: self.root.as_deref(),
            cancel: &self.cancel,
        })
    }

    pub(super) fn run(&self, action: Action) -> InstallOutcome {
        self.with_job(action, run)
    }

    /// Everything below `target`: path, mode, and content or the link's target.
    pub(super) fn snapshot(&self) -> Vec<(PathBuf, u32, Vec<u8>)> {
        snapshot(&self.dir.path().join("target"))
    }
}

/// Everything below a directory: path, mode, and content or the link's target.
pub(super) fn snapshot(dir: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(snapshot(&path));
            continue;
        }
        let content = if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        found.push((path, meta.permissions().mode() & 0o7777, content));
    }
    found.sort();
    found
}

pub(super) fn done() -> InstallOutcome {
    InstallOutcome::Done { restart: false, code: None }
}

/// The reason of an outcome that is a failure, or may work later.
pub(super) fn reason(outcome: &InstallOutcome) -> &str {
    match outcome {
        InstallOutcome::Failed { reason, .. }
        | InstallOutcome::Retry { reason, .. }
        | InstallOutcome::Hindered { reason, .. }
        | InstallOutcome::NotNow { reason } => reason,
        InstallOutcome::Done { .. } => panic!("it was done"),
    }
}
