//! What the coordinator publishes: releases, approvals, holds, and the index and head that name them. Owns what is current; how that
//! is cut into pages is its neighbour's business, and it never talks to a device.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::CoordinatorState;
use super::io::{HeldList, Refusal};
use super::pages::{Content, Pages, PublishedApproval, PublishedGroup, PublishedRelease};
use crate::catalog::{Action, AuditHead, DocEntry, GroupDocument, Head, Hold, Index, Members, Root};
use crate::catalog::{page, walk};
use crate::codec::{self, Bounded, Text};
use crate::envelope::{self, Document, EnvelopeError, Kind, Role};
use crate::ids::{DeviceId, DocHash, GroupId, PayloadId, PublicKey, ReleaseId};
use crate::time::{Now, Wall};
use crate::trust::{
    Blocked, Opened, approval_is_vouched, group_is_vouched, open_approval, open_group, open_release, release_is_vouched,
};

/// A head is good for this long.
pub const HEAD_LIFE: Duration = Duration::from_secs(72 * 3600);
/// An index is good for this long, and signed anew after half of it.
pub const INDEX_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A decision that changes nothing in the index stands in the next one, signed at the latest after this long.
pub const AUDIT_SIGNED_WITHIN: Duration = Duration::from_secs(300);
/// Index versions that a directory from a backup leaves out: more than were published after any backup that is of use. So no version stands
/// for two indexes, although nobody here knows which the coordinator before had used.
pub const RESTORED_GAP: u64 = 1 << 20;

const MAX_DOCUMENTS: usize = 65536;
const MAX_HOLDS: usize = 1024;
const MAX_REVOKED: usize = 16384;
/// Chunk lists and payloads that are known; far above what the index can name in practice.
const MAX_HELD: usize = 1 << 20;
const CATALOG_LIMIT: usize = Kind::Index.cap() + Kind::Head.cap() + 64;

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
    /// New pages, and the index that names them, in the order in which they are written.
    pub(super) documents: Vec<Document>,
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
    /// A page of the index is damaged.
    #[error("a page of the catalog is damaged: {0}")]
    Page(#[from] page::PageError),
    /// The index names a document that is not there.
    #[error("the document {0} of the index is missing")]
    Missing(DocHash),
}

#[derive(Debug, Default)]
pub(super) struct Documents {
    pub(super) releases: BTreeMap<ReleaseId, PublishedRelease>,
    pub(super) approvals: BTreeMap<(GroupId, ReleaseId), PublishedApproval>,
    pub(super) groups: BTreeMap<GroupId, PublishedGroup>,
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
    undecided: BTreeSet<ReleaseId>,
    /// How far the log of decisions has got, and how far it had when the newest index was signed.
    pub(super) audit: Option<AuditHead>,
    signed_audit: Option<AuditHead>,
    pages: Pages,
    /// The stored index names other pages than this program makes.
    is_stale: bool,
    /// The newest signed head.
    head: Vec<u8>,
}

impl Documents {
    /// The catalog that a record and its documents describe. `before` is the root before today's: a stop between a new root and
    /// the first catalog under it leaves one that only the old keys have signed, which is signed anew at once.
    pub(super) fn load(
        record: &[u8],
        stored: &[Document],
        root: &Root,
        before: Option<&Root>,
    ) -> Result<Self, CatalogError> {
        let record = CatalogRecord::decode(record)?;
        let damaged = |what: &str| {
            let what = what.to_owned();
            move |error: EnvelopeError| CatalogError::Document { what, error: error.into() }
        };
        let head = open_by_either((root, before), &record.head, Kind::Head).map_err(damaged("head"))?;
        let index = open_by_either((root, before), &record.index, Kind::Index).map_err(damaged("index"))?;
        let (head, index): ((Head, bool), (Index, bool)) = (head, index);
        let mut is_stale = head.1 || index.1;
        let (head, index) = (head.0, index.0);
        let by_hash: BTreeMap<DocHash, &Document> = stored.iter().map(|document| (document.hash, document)).collect();
        let document = |hash: &DocHash| by_hash.get(hash).copied().ok_or(CatalogError::Missing(*hash));
        let named = walk::everything(&index, |hash| document(hash).map(|page| page.bytes.clone()))?;
        let mut catalog = Self {
            index_hash: DocHash::of(&record.index),
            index: record.index,
            index_version: index.version.max(head.index_version),
            index_issued: index.issued,
            head_issued: head.issued,
            head: record.head,
            holds: index.holds.to_vec(),
            revoked: named.revoked,
            signed_audit: index.audit,
            origins: index.origins.to_vec(),
            ..Self::default()
        };
        for entry in named.documents.values() {
            let document = document(&entry.hash)?;
            let by = |root: &Root| match entry.kind {
                Kind::Release => {
                    open_release(root, &document.bytes).map(|Opened { id, value: release, signers, .. }| {
                        Either::Release(id, Box::new(PublishedRelease { entry: *entry, release, signers }))
                    })
                }
                Kind::Group => open_group(root, &document.bytes).map(|Opened { value: document, signers, .. }| {
                    Either::Group(Box::new(PublishedGroup { entry: *entry, document, signers }))
                }),
                _ => {
                    open_approval(root, &document.bytes).map(|Opened { value: approval, signers, by_rule, .. }| {
                        Either::Approval(Box::new(PublishedApproval { entry: *entry, approval, signers, by_rule }))
                    })
                }
            };
            match by(root) {
                Ok(Either::Release(id, known)) => drop(catalog.releases.insert(id, *known)),
                Ok(Either::Approval(known)) => {
                    let approval = &known.approval;
                    catalog.pages.group_changed(approval.group);
                    catalog.approvals.insert((approval.group, approval.release), *known);
                }
                Ok(Either::Group(known)) => {
                    let group = known.document.group;
                    catalog.pages.group_changed(group);
                    catalog.groups.insert(group, *known);
                }
                // What only a removed key vouched for leaves with it.
                Err(_) if before.is_some_and(|before| by(before).is_ok()) => {
                    is_stale = true;
                    continue;
                }
                Err(error) => {
                    let what = format!("document {}", entry.hash);
                    return Err(CatalogError::Document { what, error: error.into() });
                }
            }
            catalog.hashes.insert(entry.hash);
        }
        let decided: BTreeSet<ReleaseId> = catalog.approvals.keys().map(|(_, release)| *release).collect();
        catalog.undecided = catalog.releases.keys().filter(|id| !decided.contains(id)).copied().collect();
        catalog.pages.releases_changed();
        catalog.pages.revoked_changed();
        catalog.renew_pages(None)?;
        let pages = &catalog.pages;
        catalog.is_stale = is_stale
            || (pages.groups(), pages.undecided(), pages.revoked())
                != (&index.groups, &index.published, &index.revoked);
        Ok(catalog)
    }

    fn renew_pages(&mut self, before: Option<DocHash>) -> Result<Vec<Document>, codec::CodecError> {
        let Self { releases, approvals, groups, revoked, undecided, pages, .. } = self;
        pages.renew(Content { releases, approvals, groups, revoked, undecided }, before)
    }

    pub(super) fn content(&self) -> Content<'_> {
        let Self { releases, approvals, groups, revoked, undecided, .. } = self;
        Content { releases, approvals, groups, revoked, undecided }
    }

    /// The date of the last signature.
    pub(super) fn signed(&self) -> Wall {
        self.head_issued.max(self.index_issued)
    }

    pub(super) fn last_head(&self) -> &[u8] {
        &self.head
    }

    /// An admin has said that the dates so far were wrong: the next ones need not be later.
    pub(super) fn forget_dates(&mut self) {
        (self.head_issued, self.index_issued) = (Wall(0), Wall(0));
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
            || self.pages.is_readable(hash)
    }

    /// Checks a release and enters it. `None`: it is already there, byte for byte or with other signatures.
    pub(super) fn publish(&mut self, root: &Root, bytes: Vec<u8>, now: Wall) -> Result<Option<Document>, Refusal> {
        let Opened { id, value: release, signers, .. } = open_release(root, &bytes)?;
        if self.releases.contains_key(&id) {
            return Ok(None);
        }
        if release.expires <= now {
            return Err(Refusal::Content(format!("it expired at {}", release.expires)));
        }
        let newest = self.releases.values().filter(|known| known.release.product == release.product);
        let known = newest.map(|known| known.release.counter).max().unwrap_or(0);
        // The counter of a snapshot begins with upstream's date of it: to go back, an earlier one is published later. Which of two
        // counts is not its number's matter then, but its approval's.
        let again = self
            .releases
            .values()
            .any(|other| other.release.product == release.product && other.release.counter == release.counter);
        if release.counter <= known && (again || !release.goes_back()) {
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
        self.pages.releases_changed();
        self.undecided.insert(id);
        self.releases.insert(id, PublishedRelease { entry, release, signers });
        Ok(Some(document))
    }

    /// Checks an approval and enters it in place of the one before. `None`: it is already there.
    pub(super) fn approve(&mut self, root: &Root, bytes: Vec<u8>, now: Wall) -> Result<Option<Document>, Refusal> {
        let Opened { value: approval, signers, by_rule, .. } = open_approval(root, &bytes)?;
        let document = Document::new(bytes);
        if approval.expires <= now {
            return Err(Refusal::Content(format!("it expired at {}", approval.expires)));
        }
        let Some(release) = self.releases.get(&approval.release) else {
            return Err(Refusal::UnknownRelease(approval.release));
        };
        if let Some(by_rule) = &by_rule {
            by_rule.permits(&release.release, &approval)?;
        }
        if approval.action == Action::Install && approval.back != release.release.goes_back() {
            return Err(Refusal::Content(Blocked::NotBack.to_string()));
        }
        let known = self.groups.get(&approval.group).map(|known| &known.document);
        let (given, version) = (approval.group_version, known.map_or(0, |known| known.version));
        if given > version {
            return Err(Refusal::Content(format!(
                "it is for a group as version {given} of its document describes it, and version {version} is the newest here"
            )));
        }
        let only_listed = known.is_none_or(|known| known.members == Members::Listed);
        if (approval.action == Action::Uninstall || approval.back) && only_listed {
            return Err(Refusal::Content(
                "nothing is removed or taken back for a group whose members only the coordinator names; have an approver sign who they are: \
                 upswarm group sign"
                    .to_owned(),
            ));
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
        self.pages.group_changed(approval.group);
        if self.undecided.remove(&approval.release) {
            self.pages.releases_changed();
        }
        self.approvals.insert(key, PublishedApproval { entry, approval, signers, by_rule });
        Ok(Some(document))
    }

    /// Checks what a group is said to be and enters it in place of what was said before. `None`: it is already there.
    pub(super) fn describe(
        &mut self,
        document: GroupDocument,
        signers: Vec<PublicKey>,
        bytes: Vec<u8>,
    ) -> Result<Option<Document>, Refusal> {
        let group = document.group;
        let stored = Document::new(bytes);
        match self.groups.get(&group) {
            Some(known) if known.entry.hash == stored.hash => return Ok(None),
            Some(known) if document.version <= known.document.version => {
                let known = known.document.version;
                return Err(Refusal::NotNewer { what: "the version of the group", given: document.version, known });
            }
            Some(known) => {
                self.hashes.remove(&known.entry.hash);
            }
            None => self.room_for_document()?,
        }
        let entry = entry(Kind::Group, &stored, document.version);
        self.hashes.insert(stored.hash);
        self.pages.group_changed(group);
        self.groups.insert(group, PublishedGroup { entry, document, signers });
        Ok(Some(stored))
    }

    /// Counts every signature again after a new root, and drops what its keys no longer vouch for. Returns how many releases and
    /// approvals that were.
    pub(super) fn count_again(&mut self, root: &Root) -> (usize, usize) {
        let Self { releases, approvals, groups, hashes, undecided, pages, .. } = self;
        let before = (releases.len(), approvals.len());
        groups.retain(|group, known| {
            let stays = group_is_vouched(root, group, &known.signers).is_ok();
            if !stays {
                hashes.remove(&known.entry.hash);
                pages.group_changed(*group);
            }
            stays
        });
        releases.retain(|id, known| {
            let stays = release_is_vouched(root, &known.release, &known.signers).is_ok();
            if !stays {
                hashes.remove(&known.entry.hash);
                undecided.remove(id);
            }
            stays
        });
        approvals.retain(|(group, _), known| {
            let stays = approval_is_vouched(root, group, &known.signers, known.by_rule.as_deref()).is_ok();
            if !stays {
                hashes.remove(&known.entry.hash);
            }
            pages.group_changed(*group);
            stays
        });
        // A release that only a removed approver had decided about is undecided again.
        let decided: BTreeSet<ReleaseId> = approvals.keys().map(|(_, release)| *release).collect();
        undecided.extend(releases.keys().filter(|id| !decided.contains(*id)));
        pages.releases_changed();
        (before.0 - releases.len(), before.1 - approvals.len())
    }

    /// Takes a release out. Its approvals stay where they are, declined, so that no machine goes back to an earlier one of them.
    pub(super) fn withdraw(&mut self, release: &ReleaseId) -> Result<bool, Refusal> {
        let known = self.releases.get(release).ok_or(Refusal::UnknownRelease(*release))?;
        let refuse = |reason: &str| Err(Refusal::Request(reason.to_owned()));
        if self.approvals.iter().any(|((_, of), known)| of == release && known.approval.action != Action::None) {
            return refuse("it is approved in a group; decline it there first");
        }
        if self.releases.values().any(|other| other.release.depends.contains(release)) {
            return refuse("another release depends on it; withdraw that one first");
        }
        let hash = known.entry.hash;
        self.hashes.remove(&hash);
        self.releases.remove(release);
        self.undecided.remove(release);
        let declined = self.approvals.keys().filter(|(_, of)| of == release).map(|(group, _)| *group);
        for group in declined.collect::<BTreeSet<_>>() {
            self.pages.group_changed(group);
        }
        self.pages.releases_changed();
        self.holds.retain(|hold| *hold != Hold::Release(*release));
        Ok(true)
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
        self.pages.revoked_changed();
        Ok(self.revoked.insert(device))
    }

    /// Takes a device off the deny-list. Returns whether that is a change.
    pub(super) fn readmit(&mut self, device: &DeviceId) -> bool {
        self.pages.revoked_changed();
        self.revoked.remove(device)
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

    /// Whether the index has lived half of its life, names other pages than this program makes, or was never signed.
    pub(super) fn index_is_old(&self, now: Wall) -> bool {
        self.index.is_empty() || self.is_stale || now.since(self.index_issued) > INDEX_LIFE / 2
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
        let sign = change || self.index_is_old(now) || self.audit != self.signed_audit;
        let documents = if sign { self.sign_index(online, issued)? } else { Vec::new() };
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
        self.head.clone_from(&head);
        let record = codec::encode(&CatalogRecord { head: head.clone(), index: self.index.clone() }, CATALOG_LIMIT)?;
        Ok(Issued { documents, head, record })
    }

    /// The new index, with its new pages before it.
    fn sign_index(&mut self, online: &SigningKey, issued: Wall) -> Result<Vec<Document>, EnvelopeError> {
        let before = (!self.index.is_empty()).then_some(self.index_hash);
        let mut documents = self.renew_pages(before)?;
        let version = self.index_version.saturating_add(1);
        // Every table was bounded when it grew, so nothing is cut off here.
        let index = Index {
            version,
            issued,
            expires: issued + INDEX_LIFE,
            holds: Bounded::truncated(self.holds.clone()),
            origins: Bounded::truncated(self.origins.clone()),
            revoked: self.pages.revoked().clone(),
            groups: self.pages.groups().clone(),
            published: self.pages.undecided().clone(),
            audit: self.audit,
        };
        let document = Document::new(envelope::sign(Kind::Index, Role::Online, &index, &[online])?);
        self.index_version = version;
        self.index_hash = document.hash;
        self.index_issued = issued;
        self.index.clone_from(&document.bytes);
        self.is_stale = false;
        self.signed_audit = self.audit;
        documents.push(document);
        Ok(documents)
    }

    /// Indexes and pages that nobody needs any more.
    pub(super) fn retire(&mut self) -> Vec<DocHash> {
        self.pages.retire()
    }

    fn room_for_document(&self) -> Result<(), Refusal> {
        if self.hashes.len() >= MAX_DOCUMENTS { Err(Refusal::Full("the index")) } else { Ok(()) }
    }
}

impl CoordinatorState {
    /// A coordinator ends: signs the head of a log of decisions that no index names yet, so that what is cut off while it does not run
    /// is noticed. A start does the same at once, by its first head.
    pub fn handle_end(&mut self, now: Now) {
        debug_assert!(self.outputs.is_empty(), "one mutation, then drain");
        if self.documents.audit != self.documents.signed_audit
            && let Err(error) = self.issue(now, false)
        {
            self.alarm(format!("cannot sign the log of decisions: {error}"));
        }
    }
}

/// A document signed by the online keys.
pub(super) fn open_online<T: serde::de::DeserializeOwned>(
    root: &Root,
    bytes: &[u8],
    kind: Kind,
) -> Result<T, EnvelopeError> {
    envelope::open(bytes, kind, Role::Online, &root.online)
}

/// A document by the online keys of today's root, or else of the one before; says whether it was that.
fn open_by_either<T: serde::de::DeserializeOwned>(
    (root, before): (&Root, Option<&Root>),
    bytes: &[u8],
    kind: Kind,
) -> Result<(T, bool), EnvelopeError> {
    match (open_online(root, bytes, kind), before) {
        (Err(_), Some(before)) => open_online(before, bytes, kind).map(|value| (value, true)),
        (opened, _) => opened.map(|value| (value, false)),
    }
}

enum Either {
    Release(ReleaseId, Box<PublishedRelease>),
    Approval(Box<PublishedApproval>),
    Group(Box<PublishedGroup>),
}

fn entry(kind: Kind, document: &Document, version: u64) -> DocEntry {
    DocEntry { kind, hash: document.hash, len: document.bytes.len() as u32, version }
}
