//! Everything that a coordinator needs to start, read from its data directory and checked. Owns what may be damaged and what
//! may not; never changes the core.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, bail};
use ed25519_dalek::SigningKey;
use upswarm_protocol::catalog::page::PageError;
use upswarm_protocol::catalog::walk::everything;
use upswarm_protocol::catalog::{Index, Page, Root};
use upswarm_protocol::chunk::{ChunkList, MAX_LIST};
use upswarm_protocol::codec::{self, Text};
use upswarm_protocol::coordinator::{
    CatalogRecord, CoordinatorState, DeviceRecord, HeldList, Invite, MAX_LOG_RECORD, Setup, Stored,
};
use upswarm_protocol::envelope::{Document, Envelope, Kind as DocumentKind, Role};
use upswarm_protocol::ids::{DeviceId, DocHash, PublicKey};
use zeroize::Zeroizing;

use super::directory::Directory;
use super::files::{files, read_if_there};
use super::keys::{self, KeyUse};
use super::store::Fleet;
use super::store::alarms::Alarms;
use super::store::known::{Known, Said};
use super::store::names::Names;
use super::store::rules::Rules;
use super::store::told::Told;
use crate::sys;

const RECORD_LIMIT: usize = 256 << 10;

/// What was read.
pub(crate) struct Loaded {
    pub(crate) setup: Setup,
    pub(crate) identity: Zeroizing<[u8; 32]>,
    pub(crate) report_key: Zeroizing<[u8; 32]>,
    /// What each device last said.
    pub(crate) said: BTreeMap<DeviceId, Said>,
    pub(crate) names: Names,
    pub(crate) rules: Rules,
    pub(crate) alarms: Alarms,
}

/// The fleet as readers see it at a start: what the core holds, and what devices said.
pub(crate) fn fleet(state: &CoordinatorState, mut said: BTreeMap<DeviceId, Said>, names: &Names) -> Fleet {
    let known = state.devices().map(|record| {
        let mut known = Known::new(record.clone());
        known.said = said.remove(&record.device).map(Into::into);
        known.inventory = state.inventory(&record.device).cloned();
        known.scan = state.scan(&record.device).cloned().map(Into::into);
        known.counted = !state.revoked().contains(&record.device) && !names.retired().contains_key(&record.device);
        (record.device, known.into())
    });
    known.collect()
}

impl Directory {
    /// Reads everything but what devices have `told`, which lies in the fleet store, checking what can be checked. Removes what an abrupt
    /// stop has left behind. Needs the lock.
    pub(crate) fn load(&self, origins: Vec<Text<512>>, told: Told) -> anyhow::Result<Loaded> {
        let mut no_passphrase =
            || -> anyhow::Result<keys::Passphrase> { bail!("an online key is encrypted, which it must not be") };
        let mut key = |r#use| keys::read(&keys::file(&self.keys(), r#use, 1), r#use, &mut no_passphrase);
        let (identity, report_key) = (key(KeyUse::Identity)?, key(KeyUse::Report)?);
        let (root, root_hash) = self.newest_root()?;
        let mut online = self.online_keys()?.into_iter();
        let online = online.find(|online| root.online.contains(&keys::public(online))).with_context(|| {
            format!(
                "no online key in {} is one that the root {} names; put it back",
                self.keys().display(),
                root.version
            )
        })?;
        if crate::encrypt::public(&report_key) != root.report_key {
            bail!("the report key in {} is not the one that the root names", self.keys().display());
        }
        // A directory of an earlier version lacks the newer rooms.
        self.create()?;
        let Told { said, inventory_bases, inventories, scans } = told;
        let mut stored = Stored {
            catalog: read_if_there(&self.catalog())?,
            rollouts: read_if_there(&self.rollouts())?,
            wan_limits: read_if_there(&self.wan_limits())?,
            inventory_bases,
            inventories,
            scans,
            groups: read_if_there(&self.groups())?,
            logs: self.logs()?,
            documents: Vec::new(),
            devices: self.records("devices", |record: &DeviceRecord| record.device.to_string())?,
            invites: self.records("invites", |invite: &Invite| hex::encode(invite.secret_hash))?,
            reports: said.iter().map(|(device, said)| said.last_report(*device)).collect(),
            payloads: self.payloads()?,
            lists: BTreeMap::new(),
            earlier_roots: self.chain(root.version.saturating_sub(1))?,
        };
        self.read_documents(&mut stored)?;
        for (_, path) in files(&self.upload())? {
            sys::remove_soon(&path).with_context(|| format!("removing the unfinished upload {}", path.display()))?;
        }
        let rules = Rules::load(&self.rules(), &self.repository_rules())?;
        let names = Names::load(&self.names())?;
        let alarms = Alarms::load(&self.alarms())?;
        let device = DeviceId(SigningKey::from_bytes(&identity).verifying_key().to_bytes());
        let setup = Setup { device, root, root_hash, online, origins, stored };
        Ok(Loaded { setup, identity, report_key, said, names, rules, alarms })
    }

    /// Every online key here: the one in use, and those that stand by to take its place.
    pub(crate) fn online_keys(&self) -> anyhow::Result<Vec<SigningKey>> {
        let mut no_passphrase =
            || -> anyhow::Result<keys::Passphrase> { bail!("an online key is encrypted, which it must not be") };
        keys::read_all(&self.keys(), KeyUse::Online, &mut no_passphrase)
    }

    /// Takes online keys away that an earlier root named and today's does not: whoever has stolen one has nothing from it any
    /// more, and neither has this coordinator. Returns them.
    pub(crate) fn drop_removed_keys(&self) -> anyhow::Result<Vec<PublicKey>> {
        let (today, _) = self.newest_root()?;
        let mut named = Vec::new();
        for bytes in self.chain(today.version.saturating_sub(1))? {
            let body = Envelope::parse(&bytes, DocumentKind::Root, Role::Root)?.unverified_body();
            let root: Root = codec::decode(body, DocumentKind::Root.cap())?;
            named.extend(root.online.public());
        }
        let held = keys::public_halves(&self.keys(), KeyUse::Online)?;
        let mut removed = Vec::new();
        for (path, key) in held.into_iter().filter(|(_, key)| named.contains(key) && !today.online.contains(key)) {
            sys::remove(&path).with_context(|| format!("removing {}", path.display()))?;
            removed.push(key);
        }
        Ok(removed)
    }

    /// Sorts what lies under `doc`: chunk lists, pages, and envelopes whose hash is their name.
    fn read_documents(&self, stored: &mut Stored) -> anyhow::Result<()> {
        let record = stored.catalog.as_deref().and_then(|bytes| CatalogRecord::decode(bytes).ok());
        let current = record.as_ref().map(|record| DocHash::of(&record.index));
        let mut pages = BTreeMap::new();
        for (name, path) in files(&self.path().join("doc"))? {
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
            } else if Page::decode(&bytes).is_ok() {
                pages.insert(hash, bytes);
            } else if Envelope::parse(&bytes, DocumentKind::Index, Role::Online).is_err() {
                stored.documents.push(Document { hash, bytes });
            } else if current.is_some_and(|current| current != hash) {
                // An index of an earlier run, which only that run kept readable.
                sys::remove_soon(&path).with_context(|| format!("removing the old index {}", path.display()))?;
            }
        }
        // The same for pages. When the index cannot be walked, the core says so at its start.
        let index = record.as_ref().and_then(|record| {
            let body = Envelope::parse(&record.index, DocumentKind::Index, Role::Online).ok()?.unverified_body();
            codec::decode::<Index>(body, DocumentKind::Index.cap()).ok()
        });
        let read = |hash: &DocHash| pages.get(hash).cloned().ok_or(PageError::Magic);
        if let Some(named) = index.and_then(|index| everything(&index, read).ok()) {
            for old in pages.keys().filter(|hash| !named.pages.contains(*hash)) {
                let path = self.doc(old);
                sys::remove_soon(&path).with_context(|| format!("removing the old page {}", path.display()))?;
            }
            pages.retain(|hash, _| named.pages.contains(hash));
        }
        stored.documents.extend(pages.into_iter().map(|(hash, bytes)| Document { hash, bytes }));
        Ok(())
    }

    /// Logs of devices. One that is damaged can be asked for again; one that is too large is none of ours.
    fn logs(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut logs = Vec::new();
        for (_, path) in files(&self.path().join("logs"))? {
            let what = || format!("reading {}", path.display());
            if fs::metadata(&path).with_context(what)?.len() <= MAX_LOG_RECORD as u64 {
                logs.push(fs::read(&path).with_context(what)?);
            }
        }
        Ok(logs)
    }

    fn records<T: serde::de::DeserializeOwned>(
        &self,
        room: &str,
        name_of: impl Fn(&T) -> String,
    ) -> anyhow::Result<Vec<T>> {
        let mut records = Vec::new();
        for (name, path) in files(&self.path().join(room))? {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let record: Option<T> = codec::decode(&bytes, RECORD_LIMIT).ok();
            match record.filter(|record| name_of(record) == name) {
                Some(record) => records.push(record),
                None => bail!("{} is damaged; restore it from a copy, or remove it", path.display()),
            }
        }
        Ok(records)
    }
}
