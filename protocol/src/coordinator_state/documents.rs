//! What the coordinator publishes: releases, approvals, holds, and the index and head that name them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::io::{HeldList, Refusal};
use crate::catalog::{Approval, DocEntry, Head, Hold, Index, Release, Root};
use crate::codec::{self, Bounded, Text};
use crate::envelope::{self, Document, EnvelopeError, Kind, Role};
use crate::ids::{DeviceId, DocHash, GroupId, PayloadId, ReleaseId};
use crate::time::Wall;
use crate::trust::{Opened, open_approval, open_release};

/// A head is good for this long.
pub const HEAD_LIFE: Duration = Duration::from_secs(72 * 3600);
/// An index is good for this long, and signed anew after half of it.
pub const INDEX_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

const MAX_DOCUMENTS: usize = 65536;
const MAX_HOLDS: usize = 1024;
const MAX_REVOKED: usize = 16384;
/// Chunk lists and payloads that are known; far above what the index can name in practice.
const MAX_HELD: usize = 1 << 20;
/// Indexes that stay readable after a newer one, for nodes that hold a head from a moment ago.
const OLD_INDEXES: usize = 8;
const CATALOG_LIMIT: usize = Kind::Index.cap() + Kind::Head.cap() + 64;

/// A release in the catalog.
#[derive(Debug, Clone)]
pub struct PublishedRelease {
    /// Its place in the index.
    pub entry: DocEntry,
    /// What it says.
    pub release: Release,
}

/// An approval in the catalog.
#[derive(Debug, Clone)]
pub struct PublishedApproval {
    /// Its place in the index.
    pub entry: DocEntry,
    /// What it says.
    pub approval: Approval,
}

/// The current head and index as one record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CatalogRecord {
    /// The head's envelope.
    pub head: Vec<u8>,
    /// The envelope of the index that it names.
    pub index: Vec<u8>,
}

impl CatalogRecord {
    /// The record in these bytes. Its documents are not verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes, CATALOG_LIMIT)
    }
}

/// What was signed in one go, and is public only when it is durable.
#[derive(Debug)]
pub(super) struct Issued {
    /// A new index, if there is one.
    pub(super) index: Option<Document>,
    /// The head's envelope.
    pub(super) head: Vec<u8>,
    /// [`super::Record::Catalog`].
    pub(super) record: Vec<u8>,
}

/// Why stored documents do not make a catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The record is damaged.
    #[error("the catalog record is damaged: {0}")]
    Record(#[from] codec::CodecError),
    /// A stored document does not verify.
    #[error("the stored {what} does not verify: {error}")]
    Document {
        /// Which.
        what: String,
        /// Why.
        error: Refusal,
    },
    /// The index names a document that is not there.
    #[error("the document {0} of the index is missing")]
    Missing(DocHash),
}

#[derive(Debug, Default)]
pub(super) struct Documents {
    pub(super) releases: BTreeMap<ReleaseId, PublishedRelease>,
    pub(super) approvals: BTreeMap<(GroupId, ReleaseId), PublishedApproval>,
    hashes: BTreeSet<DocHash>,
    pub(super) holds: Vec<Hold>,
    pub(super) revoked: BTreeSet<DeviceId>,
    pub(super) origins: Vec<Text<512>>,
    pub(super) payloads: BTreeMap<PayloadId, u64>,
    pub(super) lists: BTreeMap<DocHash, HeldList>,
    /// The newest signed index, durable or not.
    index: Vec<u8>,
    index_hash: DocHash,
    index_version: u64,
    index_issued: Wall,
    head_issued: Wall,
    old_indexes: VecDeque<DocHash>,
}

impl Documents {
    /// The catalog that a record and its documents describe.
    pub(super) fn load(record: &[u8], stored: &[Document], root: &Root) -> Result<Self, CatalogError> {
        let record = CatalogRecord::decode(record)?;
        let damaged = |what: &str| {
            let what = what.to_owned();
            move |error: EnvelopeError| CatalogError::Document { what, error: error.into() }
        };
        let head: Head = open_online(root, &record.head, Kind::Head).map_err(damaged("head"))?;
        let index: Index = open_online(root, &record.index, Kind::Index).map_err(damaged("index"))?;
        let mut catalog = Self {
            index_hash: DocHash::of(&record.index),
            index: record.index,
            index_version: index.version.max(head.index_version),
            index_issued: index.issued,
            head_issued: head.issued,
            holds: index.holds.into_vec(),
            revoked: index.revoked_devices.into_iter().copied().collect(),
            origins: index.origins.into_vec(),
            ..Self::default()
        };
        let by_hash: BTreeMap<DocHash, &Document> = stored.iter().map(|document| (document.hash, document)).collect();
        for entry in &index.documents {
            let document = by_hash.get(&entry.hash).ok_or(CatalogError::Missing(entry.hash))?;
            let result = match entry.kind {
                Kind::Release => open_release(root, &document.bytes).map(|Opened { id, value, .. }| {
                    catalog.releases.insert(id, PublishedRelease { entry: *entry, release: value });
                }),
                _ => open_approval(root, &document.bytes).map(|Opened { value: approval, .. }| {
                    let key = (approval.group, approval.release);
                    catalog.approvals.insert(key, PublishedApproval { entry: *entry, approval });
                }),
            };
            result.map_err(|error| CatalogError::Document {
                what: format!("document {}", entry.hash),
                error: error.into(),
            })?;
            catalog.hashes.insert(entry.hash);
        }
        Ok(catalog)
    }

    pub(super) fn version(&self) -> u64 {
        self.index_version
    }

    /// Never use this version or a lower one again: a head with it is out there.
    pub(super) fn raise_floor(&mut self, version: u64) {
        self.index_version = self.index_version.max(version);
    }

    /// Whether this is a document that peers may read.
    pub(super) fn holds_doc(&self, hash: &DocHash) -> bool {
        self.hashes.contains(hash)
            || self.lists.contains_key(hash)
            || self.index_hash == *hash
            || self.old_indexes.contains(hash)
    }

    /// Checks a release and enters it. `None`: it is already there, byte for byte or with other signatures.
    pub(super) fn publish(&mut self, root: &Root, bytes: Vec<u8>, now: Wall) -> Result<Option<Document>, Refusal> {
        let Opened { id, value: release, .. } = open_release(root, &bytes)?;
        if self.releases.contains_key(&id) {
            return Ok(None);
        }
        if release.expires <= now {
            return Err(Refusal::Content(format!("it expired at {}", release.expires)));
        }
        let newest = self.releases.values().filter(|known| known.release.product == release.product);
        let known = newest.map(|known| known.release.counter).max().unwrap_or(0);
        if release.counter <= known {
            return Err(Refusal::NotNewer { what: "the release counter", given: release.counter, known });
        }
        for other in release.depends.iter().chain(&release.supersedes) {
            if !self.releases.contains_key(other) {
                return Err(Refusal::UnknownRelease(*other));
            }
        }
        for payload in &release.payloads {
            let list = self.lists.get(&payload.chunk_list);
            if list != Some(&HeldList { len: payload.chunk_list_len, payload_len: payload.len }) {
                return Err(Refusal::Missing(format!("the chunk list {} of {}", payload.chunk_list, payload.name)));
            }
            if payload.urls.is_empty() && self.payloads.get(&payload.id) != Some(&payload.len) {
                return Err(Refusal::Missing(format!("the payload {} ({} bytes)", payload.name, payload.len)));
            }
        }
        self.room_for_document()?;
        let document = Document::new(bytes);
        let entry = entry(Kind::Release, &document, release.counter);
        self.hashes.insert(document.hash);
        self.releases.insert(id, PublishedRelease { entry, release });
        Ok(Some(document))
    }

    /// Checks an approval and enters it in place of the one before. `None`: it is already there.
    pub(super) fn approve(&mut self, root: &Root, bytes: Vec<u8>, now: Wall) -> Result<Option<Document>, Refusal> {
        let approval = open_approval(root, &bytes)?.value;
        let document = Document::new(bytes);
        if approval.expires <= now {
            return Err(Refusal::Content(format!("it expired at {}", approval.expires)));
        }
        if !self.releases.contains_key(&approval.release) {
            return Err(Refusal::UnknownRelease(approval.release));
        }
        let key = (approval.group, approval.release);
        match self.approvals.get(&key) {
            Some(known) if known.entry.hash == document.hash => return Ok(None),
            Some(known) if approval.version <= known.approval.version => {
                let known = known.approval.version;
                return Err(Refusal::NotNewer { what: "the approval version", given: approval.version, known });
            }
            Some(known) => {
                self.hashes.remove(&known.entry.hash);
            }
            None => self.room_for_document()?,
        }
        let entry = entry(Kind::Approval, &document, approval.version);
        self.hashes.insert(document.hash);
        self.approvals.insert(key, PublishedApproval { entry, approval });
        Ok(Some(document))
    }

    /// Sets or lifts a hold. Returns whether that is a change.
    pub(super) fn hold(&mut self, hold: Hold, on: bool) -> Result<bool, Refusal> {
        let standing = self.holds.contains(&hold);
        if standing == on {
            return Ok(false);
        }
        if on && self.holds.len() >= MAX_HOLDS {
            return Err(Refusal::Full("the table of holds"));
        }
        self.holds.retain(|known| *known != hold);
        if on {
            self.holds.push(hold);
        }
        Ok(true)
    }

    /// Puts a device on the deny-list. Returns whether that is a change.
    pub(super) fn revoke(&mut self, device: DeviceId) -> Result<bool, Refusal> {
        if self.revoked.len() >= MAX_REVOKED && !self.revoked.contains(&device) {
            return Err(Refusal::Full("the list of revoked devices"));
        }
        Ok(self.revoked.insert(device))
    }

    pub(super) fn payload_held(&mut self, payload: PayloadId, len: u64) {
        if self.payloads.len() < MAX_HELD {
            self.payloads.insert(payload, len);
        }
    }

    pub(super) fn list_held(&mut self, hash: DocHash, list: HeldList) {
        if self.lists.len() < MAX_HELD {
            self.lists.insert(hash, list);
        }
    }

    /// Whether the index has lived half of its life, or was never signed.
    pub(super) fn index_is_old(&self, now: Wall) -> bool {
        self.index.is_empty() || now.since(self.index_issued) > INDEX_LIFE / 2
    }

    /// Signs a head, and an index before it when something in it has changed.
    pub(super) fn issue(
        &mut self,
        root: &Root,
        online: &SigningKey,
        now: Wall,
        change: bool,
    ) -> Result<Issued, EnvelopeError> {
        // Of two heads with one index version the later counts, so the time of signing must grow even if the clock does not.
        let issued = now.max(self.head_issued + Duration::from_millis(1));
        let index = if change || self.index_is_old(now) { Some(self.sign_index(online, issued)?) } else { None };
        let head = Head {
            root_version: root.version,
            index_version: self.index_version,
            index_hash: self.index_hash,
            index_len: self.index.len() as u32,
            issued,
            expires: issued + HEAD_LIFE,
        };
        let head = envelope::sign(Kind::Head, Role::Online, &head, &[online])?;
        self.head_issued = issued;
        let record = codec::encode(&CatalogRecord { head: head.clone(), index: self.index.clone() }, CATALOG_LIMIT)?;
        Ok(Issued { index, head, record })
    }

    fn sign_index(&mut self, online: &SigningKey, issued: Wall) -> Result<Document, EnvelopeError> {
        let entries = self.releases.values().map(|release| release.entry);
        let mut documents: Vec<_> = entries.chain(self.approvals.values().map(|approval| approval.entry)).collect();
        documents.sort_by_key(|entry| (entry.kind, entry.hash));
        let version = self.index_version.saturating_add(1);
        // Every table was bounded when it grew, so nothing is cut off here.
        let index = Index {
            version,
            issued,
            expires: issued + INDEX_LIFE,
            documents: Bounded::truncated(documents),
            revoked_devices: Bounded::truncated(self.revoked.iter().copied().collect()),
            holds: Bounded::truncated(self.holds.clone()),
            origins: Bounded::truncated(self.origins.clone()),
        };
        let document = Document::new(envelope::sign(Kind::Index, Role::Online, &index, &[online])?);
        if !self.index.is_empty() {
            self.old_indexes.push_back(self.index_hash);
        }
        self.index_version = version;
        self.index_hash = document.hash;
        self.index_issued = issued;
        self.index.clone_from(&document.bytes);
        Ok(document)
    }

    /// An index that nobody needs any more.
    pub(super) fn retire_index(&mut self) -> Option<DocHash> {
        if self.old_indexes.len() > OLD_INDEXES { self.old_indexes.pop_front() } else { None }
    }

    fn room_for_document(&self) -> Result<(), Refusal> {
        if self.hashes.len() >= MAX_DOCUMENTS { Err(Refusal::Full("the index")) } else { Ok(()) }
    }
}

/// A document signed by the online keys.
pub(super) fn open_online<T: serde::de::DeserializeOwned>(
    root: &Root,
    bytes: &[u8],
    kind: Kind,
) -> Result<T, EnvelopeError> {
    envelope::open(bytes, kind, Role::Online, &root.online.keys, usize::from(root.online.threshold))
}

fn entry(kind: Kind, document: &Document, version: u64) -> DocEntry {
    DocEntry { kind, hash: document.hash, len: document.bytes.len() as u32, version }
}
