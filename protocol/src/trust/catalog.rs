//! The catalog that is acted on, and the sets of documents that are being gathered to become one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::{Approval, DocEntry, Hold, Index, Release, Root};
use crate::codec::Text;
use crate::envelope::Kind;
use crate::ids::{DeviceId, DocHash, GroupId, PublicKey, ReleaseId};
use crate::time::Wall;

use super::TrustError;
use super::verify::{approval_is_vouched, open_approval, open_release, release_is_vouched};

/// A believed release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogRelease {
    /// BLAKE3 of its signed body: what approvals name.
    pub id: ReleaseId,
    /// Hash of its envelope: what it is fetched and kept by.
    pub hash: DocHash,
    /// What it says.
    pub release: Arc<Release>,
}

/// A believed approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogApproval {
    /// Hash of its envelope: what it is fetched and kept by.
    pub hash: DocHash,
    /// What it says.
    pub approval: Arc<Approval>,
}

/// What is acted on. Releases and approvals come from one index and are swapped as a whole, so no two indexes are ever
/// mixed. Holds, revocations and origins come from the newest index, whose documents may still be on their way: a stop does
/// not wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    pub(super) releases: BTreeMap<ReleaseId, CatalogRelease>,
    pub(super) approvals: BTreeMap<(GroupId, ReleaseId), CatalogApproval>,
    pub(super) index: Option<Label>,
    pub(super) holds: Vec<Hold>,
    pub(super) revoked: Vec<DeviceId>,
    pub(super) origins: Vec<Text<512>>,
}

impl Catalog {
    /// Releases by the hash of their signed body.
    pub fn releases(&self) -> &BTreeMap<ReleaseId, CatalogRelease> {
        &self.releases
    }

    /// The newest approval of each release for each group. Its release may be missing, when that was refused.
    pub fn approvals(&self) -> &BTreeMap<(GroupId, ReleaseId), CatalogApproval> {
        &self.approvals
    }

    /// What is stopped.
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// The stop that concerns this release in this group, if there is one.
    pub fn hold(&self, release: &ReleaseId, group: &GroupId) -> Option<Hold> {
        self.holds.iter().copied().find(|hold| match hold {
            Hold::Everything => true,
            Hold::Group(held) => held == group,
            Hold::Release(held) => held == release,
            Hold::Approval(of_group, held) => of_group == group && held == release,
        })
    }

    /// Base URLs of origins, best first.
    pub fn origins(&self) -> &[Text<512>] {
        &self.origins
    }

    /// Version of the index that the releases and approvals come from; 0 before the first.
    pub fn index_version(&self) -> u64 {
        self.index.map_or(0, |label| label.version)
    }

    /// Hash of that index's envelope.
    pub fn index_hash(&self) -> Option<DocHash> {
        self.index.map(|label| label.hash)
    }

    /// Envelopes of every release and approval in it.
    pub fn document_hashes(&self) -> impl Iterator<Item = DocHash> + '_ {
        let releases = self.releases.values().map(|release| release.hash);
        releases.chain(self.approvals.values().map(|approval| approval.hash))
    }

    /// Whether the admin has thrown this device out.
    pub fn is_revoked(&self, device: &DeviceId) -> bool {
        self.revoked.binary_search(device).is_ok()
    }

    pub(super) fn take_stops(&mut self, index: &Index) {
        self.holds = index.holds.to_vec();
        self.revoked = index.revoked_devices.to_vec();
        self.origins = index.origins.to_vec();
    }
}

/// Which index a set of documents belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Label {
    pub(super) version: u64,
    pub(super) hash: DocHash,
    pub(super) expires: Wall,
}

#[derive(Debug, Clone)]
pub(super) enum Believed {
    Release(CatalogRelease),
    Approval(CatalogApproval),
}

/// A verified document and everyone whose good signature it carries.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) document: Believed,
    signers: Arc<[PublicKey]>,
}

impl Loaded {
    /// Verifies what the index names with `entry`: publisher or approvers, content, and the index's own word about it.
    pub(super) fn open(root: &Root, entry: &DocEntry, bytes: &[u8]) -> Result<Self, String> {
        let (document, version, signers) = match entry.kind {
            Kind::Release => {
                let opened = open_release(root, bytes).map_err(|error| error.to_string())?;
                let version = opened.value.counter;
                let release = CatalogRelease { id: opened.id, hash: entry.hash, release: Arc::new(opened.value) };
                (Believed::Release(release), version, opened.signers)
            }
            Kind::Approval => {
                let opened = open_approval(root, bytes).map_err(|error| error.to_string())?;
                let version = opened.value.version;
                let approval = CatalogApproval { hash: entry.hash, approval: Arc::new(opened.value) };
                (Believed::Approval(approval), version, opened.signers)
            }
            other => return Err(format!("an index cannot name a {other:?}")),
        };
        if version != entry.version {
            return Err(format!("it says version {version}, the index says {}", entry.version));
        }
        Ok(Self { document, signers: signers.into() })
    }

    fn is_vouched(&self, root: &Root) -> Result<(), TrustError> {
        match &self.document {
            Believed::Release(known) => release_is_vouched(root, &known.release, &self.signers),
            Believed::Approval(known) => approval_is_vouched(root, &known.approval.group, &self.signers),
        }
    }
}

/// The documents of one index, as far as they are there. Every entry is in exactly one of `missing`, `loaded`, `refused`.
#[derive(Debug, Clone)]
pub(super) struct Assembly {
    pub(super) label: Label,
    pub(super) missing: BTreeMap<DocHash, DocEntry>,
    pub(super) loaded: BTreeMap<DocHash, (DocEntry, Loaded)>,
    pub(super) refused: BTreeMap<DocHash, DocEntry>,
}

impl Assembly {
    pub(super) fn new(label: Label, entries: &[DocEntry]) -> Self {
        let missing = entries.iter().map(|entry| (entry.hash, *entry)).collect();
        Self { label, missing, loaded: BTreeMap::new(), refused: BTreeMap::new() }
    }

    /// Every document is there or refused.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    pub(super) fn names(&self, hash: &DocHash) -> bool {
        self.entry(hash).is_some() || self.refused.contains_key(hash)
    }

    /// What the index says about a document that was not refused.
    pub(super) fn entry(&self, hash: &DocHash) -> Option<&DocEntry> {
        self.missing.get(hash).or_else(|| self.loaded.get(hash).map(|(entry, _)| entry))
    }

    /// Takes over documents that an older assembly has verified already. An entry that describes them differently is left
    /// to be refused when the document is offered.
    pub(super) fn reuse(&mut self, older: &Assembly) {
        for (hash, (entry, loaded)) in &older.loaded {
            if self.missing.get(hash) == Some(entry) {
                self.missing.remove(hash);
                self.loaded.insert(*hash, (*entry, loaded.clone()));
            }
        }
    }

    /// The document was verified as this entry describes it.
    pub(super) fn load(&mut self, entry: &DocEntry, loaded: &Loaded) {
        if self.missing.get(&entry.hash) == Some(entry) {
            self.missing.remove(&entry.hash);
            self.loaded.insert(entry.hash, (*entry, loaded.clone()));
        }
    }

    /// The document is not what this entry describes, or not signed as it should be.
    pub(super) fn refuse(&mut self, entry: &DocEntry) {
        if self.missing.get(&entry.hash) == Some(entry) {
            self.missing.remove(&entry.hash);
            self.refused.insert(entry.hash, *entry);
        }
    }

    /// Drops what the keys of this root no longer vouch for. Returns that, with the reason.
    pub(super) fn count_again(&mut self, root: &Root) -> Vec<(DocHash, Kind, String)> {
        let mut dropped = Vec::new();
        self.loaded.retain(|hash, (entry, loaded)| match loaded.is_vouched(root) {
            Ok(()) => true,
            Err(error) => {
                dropped.push((*hash, *entry, error.to_string()));
                false
            }
        });
        self.refused.extend(dropped.iter().map(|(hash, entry, _)| (*hash, *entry)));
        dropped.into_iter().map(|(hash, entry, reason)| (hash, entry.kind, reason)).collect()
    }

    /// Fills the releases and approvals of `catalog`. With `floors`, an approval below its floor is left out. What is left out is
    /// refused for good. Returns what was left out, with the reason, in an order that is the
    /// same on every machine.
    pub(super) fn fill(&mut self, catalog: &mut Catalog, floors: Option<&Floors>) -> Vec<(DocHash, Kind, String)> {
        let mut left_out = Vec::new();
        catalog.releases.clear();
        catalog.approvals.clear();
        catalog.index = Some(self.label);
        for (hash, (_, loaded)) in &self.loaded {
            match &loaded.document {
                // Two envelopes around one body differ in signatures only: the first will do.
                Believed::Release(release) => {
                    catalog.releases.entry(release.id).or_insert_with(|| release.clone());
                }
                Believed::Approval(known) => {
                    let key = (known.approval.group, known.approval.release);
                    let floor = floors.map_or(0, |floors| floors.of(&key));
                    if known.approval.version < floor {
                        left_out.push((*hash, Kind::Approval, format!("version {floor} was seen before")));
                        continue;
                    }
                    let held = catalog.approvals.get(&key).map(|held| held.approval.clone());
                    let same_version = |held: &&Arc<Approval>| held.version == known.approval.version;
                    if held.as_ref().filter(same_version).is_some_and(|held| *held != known.approval) {
                        let reason = format!("a second, different version {}", known.approval.version);
                        left_out.push((*hash, Kind::Approval, reason));
                    }
                    if held.is_none_or(|held| held.version < known.approval.version) {
                        catalog.approvals.insert(key, known.clone());
                    }
                }
            }
        }
        for (hash, ..) in &left_out {
            if let Some((entry, _)) = self.loaded.remove(hash) {
                self.refused.insert(*hash, entry);
            }
        }
        left_out
    }
}

/// The highest version of each (group, release) approval that was ever believed: an approval that was replaced or declined
/// stays so, even if the online keys would name the old one again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Floors(pub(super) BTreeMap<(GroupId, ReleaseId), Floor>);

/// What is remembered of one approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Floor {
    pub(super) version: u64,
    /// Of the approval with that version: of too many floors the oldest are forgotten, whose approvals expired long ago.
    pub(super) issued: Wall,
}

impl Floors {
    /// The most floors that are kept.
    pub(super) const MAX: usize = 32_768;

    pub(super) fn of(&self, key: &(GroupId, ReleaseId)) -> u64 {
        self.0.get(key).map_or(0, |floor| floor.version)
    }

    pub(super) fn raise(&mut self, approval: &Approval) {
        let floor = self.0.entry((approval.group, approval.release)).or_insert(Floor { version: 0, issued: Wall(0) });
        if approval.version > floor.version {
            *floor = Floor { version: approval.version, issued: approval.issued };
        }
        if self.0.len() > Self::MAX {
            // In one sweep down to seven eighths, so that the cost per approval stays small.
            let mut ages: Vec<_> = self.0.iter().map(|(key, floor)| (floor.issued, *key)).collect();
            ages.sort_unstable();
            for (_, key) in &ages[..ages.len() - Self::MAX / 8 * 7] {
                self.0.remove(key);
            }
        }
    }
}
