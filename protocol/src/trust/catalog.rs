//! The catalog that is acted on, its documents once they are verified, and the versions that only grow. Owns what is believed; never
//! fetches, and never decides when something may be installed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::{Approval, DocEntry, GroupDocument, Hold, Keys, Release, Root};
use crate::codec::Text;
use crate::envelope::Kind;
use crate::ids::{DeviceId, DocHash, GroupId, PublicKey, ReleaseId};
use crate::time::Wall;

use super::TrustError;
use super::dates::Stops;
use super::verify::{
    ByRule, approval_is_vouched, group_is_vouched, open_approval, open_group, open_release, release_is_vouched,
};

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
    /// The rule that made it.
    pub by_rule: Option<Arc<ByRule>>,
}

impl CatalogApproval {
    /// When an approver said so: of what a rule made, when the rule was signed. Where one approval takes machines back and another
    /// forward, the later word counts; a rule that was there before cannot undo a person's decision.
    pub fn said(&self) -> Wall {
        self.by_rule.as_ref().map_or(self.approval.issued, |by_rule| by_rule.rule.issued)
    }
}

/// What a group is, as far as somebody has signed that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogGroup {
    /// Hash of its envelope: what it is fetched and kept by.
    pub hash: DocHash,
    /// What it says.
    pub document: Arc<GroupDocument>,
}

/// What is acted on. Releases and approvals come from one index and are swapped as a whole, so no two indexes are ever
/// mixed. Holds, revocations and origins come from the newest index, whose documents may still be on their way: a stop does
/// not wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    pub(super) releases: BTreeMap<ReleaseId, CatalogRelease>,
    pub(super) approvals: BTreeMap<(GroupId, ReleaseId), CatalogApproval>,
    pub(super) groups: BTreeMap<GroupId, CatalogGroup>,
    pub(super) index: Option<Label>,
    pub(super) holds: Vec<Hold>,
    pub(super) revoked: Vec<DeviceId>,
    /// What a head stops that was set aside for its date.
    aside: Stops,
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

    /// What the groups are that have documents.
    pub fn groups(&self) -> &BTreeMap<GroupId, CatalogGroup> {
        &self.groups
    }

    /// What is stopped.
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// The stop that concerns this release in this group, if there is one.
    pub fn hold(&self, release: &ReleaseId, group: &GroupId) -> Option<Hold> {
        self.holds.iter().chain(self.aside.holds.iter()).copied().find(|hold| match hold {
            Hold::Everything => true,
            Hold::Group(held) => held == group,
            Hold::Release(held) => held == release,
            Hold::Approval(of_group, held) | Hold::Rollout(of_group, held) => of_group == group && held == release,
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

    /// Envelopes of every release, approval and group in it.
    pub fn document_hashes(&self) -> impl Iterator<Item = DocHash> + '_ {
        let releases = self.releases.values().map(|release| release.hash);
        let groups = self.groups.values().map(|group| group.hash);
        releases.chain(self.approvals.values().map(|approval| approval.hash)).chain(groups)
    }

    /// Devices whose certificates no longer count.
    pub fn revoked(&self) -> &[DeviceId] {
        &self.revoked
    }

    /// Whether the admin has thrown this device out.
    pub fn is_revoked(&self, device: &DeviceId) -> bool {
        self.revoked.binary_search(device).is_ok() || self.aside.revoked.contains(device)
    }

    /// Counts the stops of a head that was set aside for its date beside those of the newest index.
    pub(super) fn set_aside(&mut self, stops: Stops) {
        self.aside = stops;
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
    Group(CatalogGroup),
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
                let approval =
                    CatalogApproval { hash: entry.hash, approval: Arc::new(opened.value), by_rule: opened.by_rule };
                (Believed::Approval(approval), version, opened.signers)
            }
            Kind::Group => {
                let opened = open_group(root, bytes).map_err(|error| error.to_string())?;
                let version = opened.value.version;
                let group = CatalogGroup { hash: entry.hash, document: Arc::new(opened.value) };
                (Believed::Group(group), version, opened.signers)
            }
            other => return Err(format!("an index cannot name a {other:?}")),
        };
        if version != entry.version {
            return Err(format!("it says version {version}, the index says {}", entry.version));
        }
        Ok(Self { document, signers: signers.into() })
    }

    /// The approvers of this root whose good signature it carries; of a group, those who may say what it is.
    pub(super) fn approvers(&self, root: &Root) -> Approvers {
        let keys = if matches!(self.document, Believed::Group(_)) { root.targeters() } else { &root.approvers };
        let signed = keys.public().enumerate().filter(|(_, key)| self.signers.contains(key));
        signed.fold(0, |approvers, (at, _)| approvers | 1 << at)
    }

    pub(super) fn is_vouched(&self, root: &Root) -> Result<(), TrustError> {
        match &self.document {
            Believed::Release(known) => release_is_vouched(root, &known.release, &self.signers),
            Believed::Approval(known) => {
                approval_is_vouched(root, &known.approval.group, &self.signers, known.by_rule.as_deref())
            }
            Believed::Group(known) => group_is_vouched(root, &known.document.group, &self.signers),
        }
    }
}

/// Approvers by their place in the root: bit 0 is the first.
pub(super) type Approvers = u16;

/// The highest version of each (group, release) approval that was ever believed, and of each group's own document: what was
/// replaced or declined stays so, even if the online keys would name the old one again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Floors(pub(super) BTreeMap<Subject, Vec<Floor>>);

/// What a floor is about: a release in a group, or with none the group itself.
pub(super) type Subject = (GroupId, Option<ReleaseId>);

/// What is remembered of one approval. Beside the highest version stand lower ones that would outlive it: those which an approver
/// signed who had no part in the higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Floor {
    pub(super) version: u64,
    /// Of the document with that version: of too many floors the oldest are forgotten, whose approvals expired long ago.
    pub(super) issued: Wall,
    /// Who has signed it.
    pub(super) approvers: Approvers,
}

impl Floor {
    /// Whether this one counts for as long as the other does, and says no less.
    fn covers(&self, other: &Self) -> bool {
        self.version >= other.version && other.approvers & !self.approvers == 0
    }
}

impl Floors {
    /// The most approvals and groups of which floors are kept, and the most floors of one.
    pub(super) const MAX: usize = 32_768;
    pub(super) const OF_ONE: usize = 4;

    pub(super) fn of_approval(&self, (group, release): &(GroupId, ReleaseId)) -> u64 {
        self.of(&(*group, Some(*release)))
    }

    pub(super) fn of_group(&self, group: &GroupId) -> u64 {
        self.of(&(*group, None))
    }

    fn of(&self, subject: &Subject) -> u64 {
        self.0.get(subject).and_then(|floors| floors.iter().map(|floor| floor.version).max()).unwrap_or(0)
    }

    pub(super) fn raise_approval(&mut self, approval: &Approval, approvers: Approvers) {
        let floor = Floor { version: approval.version, issued: approval.issued, approvers };
        self.raise((approval.group, Some(approval.release)), floor);
    }

    pub(super) fn raise_group(&mut self, document: &GroupDocument, approvers: Approvers) {
        let floor = Floor { version: document.version, issued: document.issued, approvers };
        self.raise((document.group, None), floor);
    }

    fn raise(&mut self, subject: Subject, floor: Floor) {
        let floors = self.0.entry(subject).or_default();
        if floors.iter().any(|known| known.covers(&floor)) {
            return;
        }
        floors.retain(|known| !floor.covers(known));
        floors.push(floor);
        floors.sort_unstable_by_key(|floor| core::cmp::Reverse(floor.version));
        floors.truncate(Self::OF_ONE);
        if self.0.len() > Self::MAX {
            // In one sweep down to seven eighths, so that the cost per approval stays small.
            // Groups go last: their documents have no end.
            let age = |floors: &[Floor]| floors.iter().map(|floor| floor.issued).max();
            let mut ages: Vec<_> = self.0.iter().map(|(key, floors)| (key.1.is_none(), age(floors), *key)).collect();
            ages.sort_unstable();
            for (_, _, key) in &ages[..ages.len() - Self::MAX / 8 * 7] {
                self.0.remove(key);
            }
        }
    }

    /// After a change of the root: forgets exactly what none of those who stay has signed.
    pub(super) fn count_again(&mut self, old: &Root, new: &Root) {
        self.count_those(|(_, release)| release.is_some(), &old.approvers, &new.approvers);
        self.count_those(|(_, release)| release.is_none(), old.targeters(), new.targeters());
    }

    fn count_those(&mut self, counts: impl Fn(&Subject) -> bool, old: &Keys, new: &Keys) {
        let places: Vec<Option<usize>> = old.public().map(|key| new.public().position(|other| other == key)).collect();
        if new.keys.len() == places.len() && places.iter().enumerate().all(|(at, place)| *place == Some(at)) {
            return;
        }
        let moved = |before: Approvers| {
            let stay =
                places.iter().enumerate().filter(|(at, _)| before >> at & 1 == 1).filter_map(|(_, place)| *place);
            stay.fold(0, |approvers, place| approvers | 1 << place)
        };
        self.0.retain(|subject, floors| {
            if !counts(subject) {
                return true;
            }
            floors.iter_mut().for_each(|floor| floor.approvers = moved(floor.approvers));
            floors.retain(|floor| floor.approvers != 0);
            !floors.is_empty()
        });
    }
}
