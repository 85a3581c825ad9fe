//! The coordinator's data directory.
//!
//! ```text
//! D/lock                    held by the one process that changes D
//! D/admin.token             the bearer token of the admin API; whoever reads it is the admin
//! D/run.json                who serves D now: process, HTTP address, listen addresses
//! D/keys/                   online, report and identity key; with --demo-keys the offline ones too
//! D/roots/<n>               root envelopes
//! D/catalog                 the current head and index
//! D/doc/<hex>               documents by hash
//! D/payload/<hex>           payload bytes; complete, and hashed before they got their name
//! D/upload/                 what is still arriving
//! D/devices, invites, fleet, inventory, scan   one file each
//! D/names.json              the admin's names of groups and sites
//! D/rules.json              what is approved as soon as it is published
//! D/groups                  conditions of the dynamic groups
//! D/rollouts                what the admin accepted of rollouts that were stopped
//! ```
//! Every file is written beside its place, synced, renamed and the directory synced: after a power cut each is whole, old or new.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, anyhow, bail};
use ed25519_dalek::SigningKey;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Index, Root};
use upswarm_protocol::chunk::{ChunkList, MAX_LIST};
use upswarm_protocol::codec::{self, Text};
use upswarm_protocol::coordinator_state::{
    CatalogRecord, CoordinatorState, DeviceRecord, HeldList, Input, Invite, Output, Record, Setup, Stored,
};
use upswarm_protocol::envelope::{Document, Envelope, Kind, Role};
use upswarm_protocol::ids::{DeviceId, DocHash, PayloadId};
use upswarm_protocol::time::Now;
use zeroize::Zeroizing;

use super::fleet::Fleet;
use super::keys::{self, KeyUse};
use super::names::Names;
use super::rules::Rules;

const RECORD_LIMIT: usize = 256 << 10;

/// The running coordinator, as other verbs find it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunInfo {
    /// Its process.
    pub(crate) pid: u32,
    /// Where its HTTP server listens, `ADDRESS:PORT`.
    pub(crate) http: String,
    /// Its listen addresses with `/p2p/<peer>`.
    pub(crate) listen: Vec<String>,
    /// Its peer id.
    pub(crate) peer: String,
}

/// Paths and files of a data directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    path: PathBuf,
}

/// Holds the directory's lock as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// A change of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Put these bytes there.
    Put(PathBuf, Vec<u8>),
    /// Take the file away.
    Remove(PathBuf),
}

/// Everything that a coordinator needs to start.
pub(crate) struct Loaded {
    pub(crate) setup: Setup,
    pub(crate) identity: Zeroizing<[u8; 32]>,
    pub(crate) report_key: Zeroizing<[u8; 32]>,
    pub(crate) fleet: Fleet,
    pub(crate) names: Names,
    pub(crate) rules: Rules,
}

/// What a JSON file holds; the empty value when there is no file yet.
pub(crate) fn read_json_or_default<T: serde::de::DeserializeOwned + Default>(path: &Path) -> anyhow::Result<T> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; restore it from a copy", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

impl Directory {
    /// The directory at this path, which need not exist yet.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The directory of a coordinator that was set up before.
    pub(crate) fn existing(path: &Path) -> anyhow::Result<Self> {
        let directory = Self::new(path);
        if !directory.roots().is_dir() {
            bail!(
                "{} is no coordinator's data directory; set one up with: upswarm coordinator init --data-dir {}",
                path.display(),
                path.display()
            );
        }
        Ok(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    pub(crate) fn roots(&self) -> PathBuf {
        self.path.join("roots")
    }

    pub(crate) fn root(&self, version: u64) -> PathBuf {
        self.roots().join(version.to_string())
    }

    pub(crate) fn doc(&self, hash: &DocHash) -> PathBuf {
        self.path.join("doc").join(hash.to_string())
    }

    pub(crate) fn payload(&self, payload: &PayloadId) -> PathBuf {
        self.path.join("payload").join(payload.to_string())
    }

    pub(crate) fn upload(&self) -> PathBuf {
        self.path.join("upload")
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.path.join("catalog")
    }

    pub(crate) fn names(&self) -> PathBuf {
        self.path.join("names.json")
    }

    pub(crate) fn rules(&self) -> PathBuf {
        self.path.join("rules.json")
    }

    fn rollouts(&self) -> PathBuf {
        self.path.join("rollouts")
    }

    fn groups(&self) -> PathBuf {
        self.path.join("groups")
    }

    fn token_file(&self) -> PathBuf {
        self.path.join("admin.token")
    }

    fn run_file(&self) -> PathBuf {
        self.path.join("run.json")
    }

    /// Makes the empty rooms of a new directory.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        for room in ["keys", "roots", "doc", "payload", "upload", "devices", "invites", "fleet", "inventory", "scan"] {
            let path = self.path.join(room);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        Ok(())
    }

    /// Takes the lock, or `None` when another process holds it.
    pub(crate) fn lock(&self) -> anyhow::Result<Option<Lock>> {
        self.try_lock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether a process serves the directory now. Looks for an instant only: a coordinator that starts tries again.
    pub(crate) fn is_served(&self) -> anyhow::Result<bool> {
        Ok(self.try_lock(FlockOperation::NonBlockingLockShared)?.is_none())
    }

    fn try_lock(&self, operation: FlockOperation) -> anyhow::Result<Option<Lock>> {
        let path = self.path.join("lock");
        let open = || fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open().with_context(|| format!("opening {}", path.display()))?;
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("locking {}", path.display())),
        }
    }

    /// The bearer token of the admin API.
    pub(crate) fn token(&self) -> anyhow::Result<Zeroizing<String>> {
        let path = self.token_file();
        let text = fs::read_to_string(&path).with_context(|| {
            format!("reading {}; only the user that runs the coordinator may administer it", path.display())
        })?;
        Ok(Zeroizing::new(text.trim().to_owned()))
    }

    /// Writes the bearer token of the admin API, for its owner only.
    pub(crate) fn write_token(&self, token: &str) -> anyhow::Result<()> {
        replace(&self.token_file(), format!("{token}\n").as_bytes(), 0o600).context("writing the admin token")
    }

    /// Tells other verbs where this process serves.
    pub(crate) fn write_run_info(&self, info: &RunInfo) -> anyhow::Result<()> {
        replace(&self.run_file(), &serde_json::to_vec_pretty(info)?, 0o644).context("writing run.json")
    }

    /// What the process that serves the directory, or served it last, has written.
    pub(crate) fn run_info(&self) -> Option<RunInfo> {
        serde_json::from_slice(&fs::read(self.run_file()).ok()?).ok()
    }

    /// The file that a record becomes. A report changes the fleet's status first.
    pub(crate) fn change(&self, record: Record, fleet: &mut Fleet) -> Change {
        match record {
            Record::Document(document) => Change::Put(self.doc(&document.hash), document.bytes),
            Record::Catalog(bytes) => Change::Put(self.catalog(), bytes),
            Record::Rollouts(bytes) => Change::Put(self.rollouts(), bytes),
            Record::Groups(bytes) => Change::Put(self.groups(), bytes),
            Record::Inventory(device, bytes) => {
                Change::Put(self.path.join("inventory").join(device.to_string()), bytes)
            }
            Record::Scan(device, bytes) => Change::Put(self.path.join("scan").join(device.to_string()), bytes),
            Record::Device(device, bytes) => Change::Put(self.path.join("devices").join(device.to_string()), bytes),
            Record::Invite(secret_hash, bytes) => {
                let path = self.path.join("invites").join(hex::encode(secret_hash));
                if bytes.is_empty() { Change::Remove(path) } else { Change::Put(path, bytes) }
            }
            Record::Report(report, received) => {
                let path = self.path.join("fleet").join(report.device.to_string());
                Change::Put(path, fleet.apply(*report, received))
            }
        }
    }

    /// Makes changes durable, in order. On an error, those before the one that failed are done, and all may be tried again.
    pub(crate) fn apply(&self, changes: &[Change]) -> anyhow::Result<()> {
        for change in changes {
            match change {
                Change::Put(path, bytes) => {
                    replace(path, bytes, 0o600).with_context(|| format!("writing {}", path.display()))?;
                }
                Change::Remove(path) => remove(path).with_context(|| format!("removing {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// Drains a core outside of a driver: records become durable, everything else but answers is dropped.
    pub(crate) fn settle(
        &self,
        state: &mut CoordinatorState,
        fleet: &mut Fleet,
        now: Now,
    ) -> anyhow::Result<Vec<Output>> {
        let mut answers = Vec::new();
        loop {
            let (mut changes, mut last) = (Vec::new(), None);
            while let Some(output) = state.poll_output() {
                match output {
                    Output::Persist { token, record } => {
                        changes.push(self.change(record, fleet));
                        last = Some(token);
                    }
                    answer @ Output::Answer { .. } => answers.push(answer),
                    _ => {}
                }
            }
            self.apply(&changes)?;
            let Some(token) = last else { return Ok(answers) };
            state.handle_input(Input::Persisted { token }, now);
        }
    }

    /// Reads everything, checking what can be checked. Removes what an abrupt stop has left behind. Needs the lock.
    pub(crate) fn load(&self, origins: Vec<Text<512>>) -> anyhow::Result<Loaded> {
        let mut no_passphrase =
            || -> anyhow::Result<keys::Passphrase> { bail!("an online key is encrypted, which it must not be") };
        let mut key = |r#use| keys::read(&keys::file(&self.keys(), r#use, 1), r#use, &mut no_passphrase);
        let (identity, online, report_key) = (key(KeyUse::Identity)?, key(KeyUse::Online)?, key(KeyUse::Report)?);
        let (root, root_hash) = self.newest_root()?;
        if crate::seal::public(&report_key) != root.report_key {
            bail!("the report key in {} is not the one that the root names", self.keys().display());
        }
        // A directory of an earlier version lacks the newer rooms.
        self.create()?;
        let mut fleet = Fleet::default();
        let mut reports = Vec::new();
        for (name, path) in files(&self.path.join("fleet"))? {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            match DeviceId::from_str(&name).ok().and_then(|device| fleet.restore(device, &bytes)) {
                Some(report) => reports.push(report),
                // Status heals by itself: the device reports again.
                None => tracing::warn!(file = %path.display(), "a device's stored status is damaged and left out"),
            }
        }
        let mut stored = Stored {
            catalog: read_if_there(&self.catalog())?,
            rollouts: read_if_there(&self.rollouts())?,
            inventories: self.told("inventory")?,
            scans: self.told("scan")?,
            groups: read_if_there(&self.groups())?,
            documents: Vec::new(),
            devices: self.records("devices", |record: &DeviceRecord| record.device.to_string())?,
            invites: self.records("invites", |invite: &Invite| hex::encode(invite.secret_hash))?,
            reports,
            payloads: self.payloads()?,
            lists: BTreeMap::new(),
        };
        self.read_documents(&mut stored)?;
        for (_, path) in files(&self.upload())? {
            remove(&path).with_context(|| format!("removing the unfinished upload {}", path.display()))?;
        }
        let (names, rules) = (Names::load(&self.names())?, Rules::load(&self.rules())?);
        let device = DeviceId(SigningKey::from_bytes(&identity).verifying_key().to_bytes());
        let online = SigningKey::from_bytes(&online);
        let setup = Setup { device, root, root_hash, online, origins, stored };
        Ok(Loaded { setup, identity, report_key, fleet, names, rules })
    }

    /// The origins that the stored index names.
    pub(crate) fn origins(&self) -> anyhow::Result<Vec<Text<512>>> {
        let Some(bytes) = read_if_there(&self.catalog())? else { return Ok(Vec::new()) };
        let damaged = || format!("{} is damaged; restore it from a copy", self.catalog().display());
        let record = CatalogRecord::decode(&bytes).with_context(damaged)?;
        let envelope = Envelope::parse(&record.index, Kind::Index, Role::Online).with_context(damaged)?;
        let index: Index = codec::decode(envelope.unverified_body(), Kind::Index.cap()).with_context(damaged)?;
        Ok(index.origins.into_vec())
    }

    /// The newest root and the hash of its envelope.
    pub(crate) fn newest_root(&self) -> anyhow::Result<(Root, DocHash)> {
        let newest = files(&self.roots())?.into_iter().filter_map(|(name, _)| name.parse::<u64>().ok()).max();
        let newest = newest.with_context(|| format!("no root of trust in {}", self.roots().display()))?;
        let path = self.root(newest);
        let read = || -> anyhow::Result<(Root, DocHash)> {
            let bytes = fs::read(&path)?;
            let envelope = Envelope::parse(&bytes, Kind::Root, Role::Root)?;
            // It names its own keys; what it is worth, devices decide by its hash.
            let root: Root = codec::decode(envelope.unverified_body(), Kind::Root.cap())?;
            envelope.verify(&root.root.keys, usize::from(root.root.threshold))?;
            Ok((root, DocHash::of(&bytes)))
        };
        read().with_context(|| format!("the root of trust {} is damaged; restore it from a copy", path.display()))
    }

    fn records<T: serde::de::DeserializeOwned>(
        &self,
        room: &str,
        name_of: impl Fn(&T) -> String,
    ) -> anyhow::Result<Vec<T>> {
        let mut records = Vec::new();
        for (name, path) in files(&self.path.join(room))? {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let record: Option<T> = codec::decode(&bytes, RECORD_LIMIT).ok();
            match record.filter(|record| name_of(record) == name) {
                Some(record) => records.push(record),
                None => bail!("{} is damaged; restore it from a copy, or remove it", path.display()),
            }
        }
        Ok(records)
    }

    /// Files that devices tell anew if they are damaged.
    fn told(&self, room: &str) -> anyhow::Result<Vec<(DeviceId, Vec<u8>)>> {
        let mut told = Vec::new();
        for (name, path) in files(&self.path.join(room))? {
            if let Ok(device) = DeviceId::from_str(&name) {
                told.push((device, fs::read(&path).with_context(|| format!("reading {}", path.display()))?));
            }
        }
        Ok(told)
    }

    /// Complete payloads and their lengths in bytes.
    pub(crate) fn payloads(&self) -> anyhow::Result<BTreeMap<PayloadId, u64>> {
        let mut payloads = BTreeMap::new();
        for (name, path) in files(&self.path.join("payload"))? {
            let len = fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?.len();
            if let Ok(payload) = name.parse() {
                payloads.insert(payload, len);
            }
        }
        Ok(payloads)
    }

    /// Sorts what lies under `doc`: chunk lists, and envelopes whose hash is their name.
    fn read_documents(&self, stored: &mut Stored) -> anyhow::Result<()> {
        let current = stored.catalog.as_deref().and_then(|bytes| CatalogRecord::decode(bytes).ok());
        let current = current.map(|record| DocHash::of(&record.index));
        for (name, path) in files(&self.path.join("doc"))? {
            let Ok(hash) = name.parse::<DocHash>() else { continue };
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            if DocHash::of(&bytes) != hash {
                bail!(
                    "the document {} is damaged; restore it from a copy, or from the origin of an export",
                    path.display()
                );
            }
            if bytes.len() <= MAX_LIST
                && let Ok(list) = ChunkList::parse(&bytes, hash)
            {
                stored.lists.insert(hash, HeldList { len: bytes.len() as u32, payload_len: list.payload_len() });
            } else if Envelope::parse(&bytes, Kind::Index, Role::Online).is_err() {
                stored.documents.push(Document { hash, bytes });
            } else if current.is_some_and(|current| current != hash) {
                // An index of an earlier run, which only that run kept readable.
                remove(&path).with_context(|| format!("removing the old index {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Removes a document that nothing names any more.
    pub(crate) fn drop_document(&self, hash: &DocHash) -> io::Result<()> {
        remove(&self.doc(hash))
    }
}

fn read_if_there(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Replaces a file so that after a power cut it is whole, old or new.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("a file without a directory"))?;
    let mut name = std::ffi::OsString::from(".new-");
    name.push(path.file_name().ok_or_else(|| io::Error::other("a file without a name"))?);
    let beside = dir.join(name);
    // A file left by an abrupt stop may have another mode.
    remove(&beside)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_dir(dir)
}

/// Makes renames in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The files of a room by name, without those that were not finished.
fn files(dir: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(dir).map_err(|error| anyhow!("reading the directory {}: {error}", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("reading the directory {}", dir.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(".new-") {
            files.push((name, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}
