//! The coordinator's data directory: where everything lies, who may change it, and how a change becomes durable.
//! Never knows what a file means; `load` reads them all at a start.
//!
//! ```text
//! D/lock                    held by the one process that changes D
//! D/admin.token             the bearer token of the admin API; whoever reads it is the admin
//! D/admin.sock              the admin API on this machine
//! D/console-link            the link by which the next browser comes into the console
//! D/run.json                who serves D now: process, HTTP address, listen addresses
//! D/keys/                   online, report and identity key; with --demo-keys the offline ones too; the admin door's TLS key
//! D/roots/<n>               root envelopes
//! D/catalog                 the current head and index
//! D/doc/<hex>               documents by hash
//! D/payload/<hex>           payload bytes; complete, and hashed before they got their name
//! D/upload/                 what is still arriving
//! D/devices/, D/invites/    one file each
//! D/fleet.db                what devices told and its history, see `store::schema`; elsewhere with --database
//! D/database.json           where that is, when it is not here
//! D/logs/                   logs of devices that were asked for, one file each
//! D/names.json              the admin's names of groups and sites
//! D/repositories/           upstream repositories, see `repositories::settings`
//! D/feeds/                  feeds of advisories, see `repositories::feeds`
//! D/alarms.json             what an admin should look at
//! D/rules                   what is approved as soon as it is published
//! D/repository-rules.json   the same of repositories
//! D/groups                  lists of groups
//! D/audit.log               the log of decisions, see `audit_log`
//! D/moment-*/               what backups that are under way hold still, see `backup::moment`
//! D/restored.json           that this directory comes from a backup, until the log of decisions says so
//! D/wan-limits              how much of the WAN sites may use
//! D/rollouts                what the admin accepted of rollouts that were stopped
//! ```
//! Every file but those of the database and `audit.log`, which grow, is written beside its place, synced, renamed and the directory synced, and a removal is synced too: after a power cut each is whole,
//! old or new.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Index, Root};
use upswarm_protocol::codec::{self, Text};
use upswarm_protocol::coordinator::{CatalogRecord, CoordinatorState, Input, Output, Record};
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::{DeviceId, DocHash, PayloadId};
use upswarm_protocol::time::Now;
use zeroize::Zeroizing;

use super::files::{files, read_if_there};
use super::tls::Fingerprint;
pub(crate) use crate::sys::Lock;
use crate::sys::{self, Access, Share};

/// The running coordinator, as other verbs find it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunInfo {
    /// Its process.
    pub(crate) pid: u32,
    /// Where its origin listens, `ADDRESS:PORT`.
    pub(crate) http: String,
    /// Where the admin API listens for admins elsewhere, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) admin: Option<RemoteDoor>,
    /// Its listen addresses with `/p2p/<peer>`.
    pub(crate) listen: Vec<String>,
    /// Its peer id.
    pub(crate) peer: String,
}

/// The admin API's door for admins elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemoteDoor {
    /// `ADDRESS:PORT`.
    pub(crate) address: String,
    /// What they pin.
    pub(crate) key: Fingerprint,
}

impl RemoteDoor {
    /// The port alone.
    pub(crate) fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap_or_default()
    }
}

/// Paths and files of a data directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Writes that a test wants to panic.
    #[cfg(test)]
    panics: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    /// A report that a test never wants to be written, by its number; 0 for none.
    #[cfg(test)]
    poison: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

/// A change of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Put these bytes there.
    Put(PathBuf, Vec<u8>),
    /// Take the file away.
    Remove(PathBuf),
    /// Put these bytes at this position, which is where the file ends.
    Append(PathBuf, u64, Vec<u8>),
}

impl Directory {
    /// The directory at this path, which need not exist yet.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            #[cfg(test)]
            panics: std::sync::Arc::default(),
            #[cfg(test)]
            poison: std::sync::Arc::default(),
        }
    }

    /// The next writes of the fleet store panic, so many of them.
    #[cfg(test)]
    pub(crate) fn let_writes_panic(&self, writes: usize) {
        self.panics.store(writes, std::sync::atomic::Ordering::SeqCst);
    }

    /// Every write of the report with this number panics.
    #[cfg(test)]
    pub(crate) fn let_report_panic(&self, seq: u64) {
        self.poison.store(seq, std::sync::atomic::Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(crate) fn perhaps_panic_at(&self, seq: u64) {
        assert_ne!(self.poison.load(std::sync::atomic::Ordering::SeqCst), seq, "a report that a test poisoned");
    }

    #[cfg(test)]
    pub(crate) fn perhaps_panic(&self) {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self.panics.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err(), "a write that a test wanted to panic");
    }

    /// The directory of a coordinator that was set up before.
    pub(crate) fn existing(path: &Path) -> anyhow::Result<Self> {
        let directory = Self::new(path);
        match fs::metadata(directory.roots()) {
            Ok(found) if found.is_dir() => Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(not_permitted(path)),
            _ => bail!(
                "{} is no coordinator's data directory; set one up with: upswarm coordinator init --data-dir {}",
                path.display(),
                path.display()
            ),
        }
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
        self.path.join("rules")
    }

    pub(crate) fn repository_rules(&self) -> PathBuf {
        self.path.join("repository-rules.json")
    }

    pub(crate) fn alarms(&self) -> PathBuf {
        self.path.join("alarms.json")
    }

    /// What devices told, as earlier versions kept it.
    pub(crate) fn old_told(&self) -> PathBuf {
        self.path.join("told")
    }

    /// The fleet store's database, when it is SQLite's.
    pub(crate) fn fleet_db(&self) -> PathBuf {
        self.path.join("fleet.db")
    }

    /// Where the fleet store's database is, when it is not here.
    pub(crate) fn database_setting(&self) -> PathBuf {
        self.path.join("database.json")
    }

    pub(crate) fn wan_limits(&self) -> PathBuf {
        self.path.join("wan-limits")
    }

    pub(crate) fn rollouts(&self) -> PathBuf {
        self.path.join("rollouts")
    }

    pub(crate) fn groups(&self) -> PathBuf {
        self.path.join("groups")
    }

    /// The log of decisions.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.path.join("audit.log")
    }

    /// What a restore leaves for the first start to say.
    pub(crate) fn restored(&self) -> PathBuf {
        self.path.join("restored.json")
    }

    fn token_file(&self) -> PathBuf {
        self.path.join("admin.token")
    }

    fn run_file(&self) -> PathBuf {
        self.path.join("run.json")
    }

    /// Makes the empty rooms of a new directory; durable on return.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        for room in ["keys", "roots", "doc", "payload", "upload", "devices", "invites", "logs"] {
            let path = self.path.join(room);
            sys::make_private_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        let above = self.path.parent().unwrap_or(&self.path);
        for dir in [&self.path, above] {
            sys::sync_dir(dir).with_context(|| format!("syncing {}", dir.display()))?;
        }
        Ok(())
    }

    /// Takes the lock, or `None` when another process holds it.
    pub(crate) fn lock(&self) -> anyhow::Result<Option<Lock>> {
        self.try_lock(Share::Alone)
    }

    /// Whether a process serves the directory now. Looks for an instant only: a coordinator that starts tries again.
    pub(crate) fn is_served(&self) -> anyhow::Result<bool> {
        Ok(self.try_lock(Share::WithOthers)?.is_none())
    }

    fn try_lock(&self, share: Share) -> anyhow::Result<Option<Lock>> {
        let path = self.path.join("lock");
        match sys::lock(&path, share) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(not_permitted(&self.path)),
            locked => locked.with_context(|| format!("locking {}", path.display())),
        }
    }

    /// The bearer token of the admin API.
    pub(crate) fn token(&self) -> anyhow::Result<Zeroizing<String>> {
        let path = self.token_file();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(not_permitted(&path)),
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        Ok(Zeroizing::new(text.trim().to_owned()))
    }

    /// Writes the bearer token of the admin API, for its owner only.
    pub(crate) fn write_token(&self, token: &str) -> anyhow::Result<()> {
        sys::replace(&self.token_file(), format!("{token}\n").as_bytes(), Access::Owner)
            .context("writing the admin token")
    }

    /// The admin API's socket on this machine.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.path.join("admin.sock")
    }

    /// The link by which the next browser comes into the console.
    pub(crate) fn console_link(&self) -> PathBuf {
        self.path.join("console-link")
    }

    /// Listens on it.
    pub(super) fn listen_for_admin(&self) -> anyhow::Result<sys::LocalListener> {
        let path = self.admin_socket();
        sys::listen_private(&path, &self.path.join("admin.new"))
            .with_context(|| format!("cannot make the socket {} (its path may have 107 bytes)", path.display()))
    }

    /// The admin door's TLS key, if it was made.
    pub(super) fn admin_tls(&self) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(read_if_there(&self.admin_tls_file())?.map(Zeroizing::new))
    }

    /// Keeps the admin door's TLS key, for its owner only.
    pub(super) fn write_admin_tls(&self, bytes: &[u8]) -> anyhow::Result<()> {
        sys::replace(&self.admin_tls_file(), bytes, Access::Owner).context("writing the admin door's key")
    }

    fn admin_tls_file(&self) -> PathBuf {
        self.keys().join("admin-tls")
    }

    /// Tells other verbs where this process serves.
    pub(crate) fn write_run_info(&self, info: &RunInfo) -> anyhow::Result<()> {
        sys::replace(&self.run_file(), &serde_json::to_vec_pretty(info)?, Access::Everyone).context("writing run.json")
    }

    /// What the process that serves the directory, or served it last, has written.
    pub(crate) fn run_info(&self) -> Option<RunInfo> {
        serde_json::from_slice(&fs::read(self.run_file()).ok()?).ok()
    }

    /// The file of a device that was let in.
    pub(crate) fn device(&self, device: &DeviceId) -> PathBuf {
        self.path.join("devices").join(device.to_string())
    }

    /// The file that a record becomes; none for what devices told, which the fleet store keeps.
    pub(crate) fn change(&self, record: Record) -> Option<Change> {
        Some(match record {
            Record::Document(document) => Change::Put(self.doc(&document.hash), document.bytes),
            Record::Catalog(bytes) => Change::Put(self.catalog(), bytes),
            Record::Rollouts(bytes) => Change::Put(self.rollouts(), bytes),
            Record::Root(version, bytes) => Change::Put(self.root(version), bytes),
            Record::WanLimits(bytes) => Change::Put(self.wan_limits(), bytes),
            Record::Groups(bytes) => Change::Put(self.groups(), bytes),
            Record::Device(device, bytes) => Change::Put(self.device(&device), bytes),
            Record::Invite(secret_hash, bytes) => {
                let path = self.path.join("invites").join(hex::encode(secret_hash));
                if bytes.is_empty() { Change::Remove(path) } else { Change::Put(path, bytes) }
            }
            Record::Audit(at, bytes) => Change::Append(self.audit_log(), at, bytes),
            Record::Log(device, release, bytes) => {
                let path = self.path.join("logs").join(format!("{device}-{release}"));
                if bytes.is_empty() { Change::Remove(path) } else { Change::Put(path, bytes) }
            }
            Record::Report(..) | Record::InventoryBase(..) | Record::Inventory(..) | Record::Scan(..) => return None,
        })
    }

    /// Makes changes durable, in order. On an error, those before the one that failed are done, and all may be tried again.
    pub(crate) fn apply(&self, changes: &[Change]) -> anyhow::Result<()> {
        for change in changes {
            match change {
                Change::Put(path, bytes) => {
                    sys::replace(path, bytes, Access::Owner).with_context(|| format!("writing {}", path.display()))?;
                }
                Change::Append(path, at, bytes) => {
                    sys::write_at_end(path, *at, bytes).with_context(|| format!("writing {}", path.display()))?;
                }
                Change::Remove(path) => sys::remove(path).with_context(|| format!("removing {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// Drains a core outside of a driver: records become durable, everything else but answers is dropped.
    pub(crate) fn settle(&self, state: &mut CoordinatorState, now: Now) -> anyhow::Result<Vec<Output>> {
        let mut answers = Vec::new();
        loop {
            let (mut changes, mut last) = (Vec::new(), None);
            while let Some(output) = state.poll_output() {
                match output {
                    Output::Persist { token, record } => {
                        changes.extend(self.change(record));
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

    /// The stored index and its envelope, which nobody has verified here; none before the first.
    pub(crate) fn index(&self) -> anyhow::Result<Option<(Index, Vec<u8>)>> {
        let Some(bytes) = read_if_there(&self.catalog())? else { return Ok(None) };
        let damaged = || format!("{} is damaged; restore it from a copy", self.catalog().display());
        let record = CatalogRecord::decode(&bytes).with_context(damaged)?;
        let envelope = Envelope::parse(&record.index, Kind::Index, Role::Online).with_context(damaged)?;
        let index: Index = codec::decode(envelope.unverified_body(), Kind::Index.cap()).with_context(damaged)?;
        Ok(Some((index, record.index)))
    }

    /// The origins that the stored index names.
    pub(crate) fn origins(&self) -> anyhow::Result<Vec<Text<512>>> {
        Ok(self.index()?.map(|(index, _)| index.origins.into_vec()).unwrap_or_default())
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
            envelope.verify(&root.root)?;
            Ok((root, DocHash::of(&bytes)))
        };
        read().with_context(|| format!("the root of trust {} is damaged; restore it from a copy", path.display()))
    }

    /// The envelopes of the first roots up to this version.
    pub(crate) fn chain(&self, last: u64) -> anyhow::Result<Vec<Vec<u8>>> {
        let read = |version| {
            let path = self.root(version);
            fs::read(&path).with_context(|| format!("the root of trust {}; restore it from a copy", path.display()))
        };
        (1..=last).map(read).collect()
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

    /// Removes a document that nothing names any more; one that a power cut brings back, the next start removes.
    pub(crate) fn drop_document(&self, hash: &DocHash) -> io::Result<()> {
        sys::remove_soon(&self.doc(hash))
    }
}

/// Whoever may not look is told so, whatever the operating system said about a file inside.
fn not_permitted(path: &Path) -> anyhow::Error {
    anyhow::anyhow!("permission denied: {}; run it as root or as the coordinator's user", path.display())
}
