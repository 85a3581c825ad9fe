//! The pages of the catalog: which group is told of which documents, and what was published before a change.
//!
//! Owns the trees below the index and which of their pages exist. It never checks a document and signs nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::catalog::page::{self, INDEX_ENTRIES};
use crate::catalog::{Approval, DocEntry, DocRef, GroupDocument, GroupEntry, Node, Release};
use crate::codec::CodecError;
use crate::envelope::Document;
use crate::ids::{DeviceId, DocHash, GroupId, PublicKey, ReleaseId};
use crate::trust::ByRule;

/// Groups that stand in the index itself, or in one page.
const GROUPS_TOGETHER: usize = 16;
/// Documents of a group in one page: one change of a group costs its devices a page of at most 6 KiB.
const OF_A_GROUP: usize = 128;
/// Undecided releases in the index itself: every device pulls that with each change.
const UNDECIDED_IN_INDEX: usize = 4;
/// Undecided releases in one page.
const UNDECIDED: usize = 16;
/// Revoked devices in the index itself, or in one page.
const REVOKED_TOGETHER: usize = 16;
/// Indexes whose pages stay readable after a newer one, for nodes that hold a head from a moment ago.
const OLD_INDEXES: usize = 8;

/// A release in the catalog.
#[derive(Debug, Clone)]
pub struct PublishedRelease {
    /// Its place in the index.
    pub entry: DocEntry,
    /// What it says.
    pub release: Release,
    /// Everyone whose good signature it carries: counted again when the root changes.
    pub(crate) signers: Vec<PublicKey>,
}

/// An approval in the catalog.
#[derive(Debug, Clone)]
pub struct PublishedApproval {
    /// Its place in the index.
    pub entry: DocEntry,
    /// What it says.
    pub approval: Approval,
    /// Everyone whose good signature it carries, or of an approval by rule, the rule: counted again when the root changes.
    pub(crate) signers: Vec<PublicKey>,
    /// The rule that made it.
    pub by_rule: Option<Arc<ByRule>>,
}

/// What a group is, in the catalog.
#[derive(Debug, Clone)]
pub struct PublishedGroup {
    /// Its place in the index.
    pub entry: DocEntry,
    /// What it says.
    pub document: GroupDocument,
    /// Everyone whose good signature it carries: counted again when the root changes.
    pub(crate) signers: Vec<PublicKey>,
}

/// What the catalog consists of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    pub(super) releases: &'a BTreeMap<ReleaseId, PublishedRelease>,
    pub(super) approvals: &'a BTreeMap<(GroupId, ReleaseId), PublishedApproval>,
    pub(super) groups: &'a BTreeMap<GroupId, PublishedGroup>,
    pub(super) revoked: &'a BTreeSet<DeviceId>,
    /// Releases that no group has decided about: every device says whether it needs them.
    pub(super) undecided: &'a BTreeSet<ReleaseId>,
}

impl<'a> Content<'a> {
    fn approvals_of(&self, group: GroupId) -> impl Iterator<Item = (&'a ReleaseId, &'a PublishedApproval)> {
        let all = self.approvals.range((group, ReleaseId([0; 32]))..=(group, ReleaseId([0xff; 32])));
        all.map(|((_, release), known)| (release, known))
    }

    /// The releases that the devices of a group must know: those that approvals for it name, and what those depend on.
    pub(super) fn releases_of(&self, group: GroupId) -> BTreeSet<ReleaseId> {
        let mut open: Vec<_> = self.approvals_of(group).map(|(release, _)| *release).collect();
        let mut named = BTreeSet::new();
        while let Some(id) = open.pop() {
            if let Some(known) = self.releases.get(&id)
                && named.insert(id)
            {
                open.extend(known.release.depends.iter());
            }
        }
        named
    }

    fn sorted(&self, releases: &BTreeSet<ReleaseId>, others: impl Iterator<Item = DocEntry>) -> Vec<DocEntry> {
        let releases = releases.iter().filter_map(|id| Some(self.releases.get(id)?.entry));
        let mut entries: Vec<_> = releases.chain(others).collect();
        entries.sort_unstable_by_key(|entry| entry.hash);
        entries
    }
}

/// A part of the catalog and the pages that it takes.
#[derive(Debug, Default)]
struct Branch<R> {
    root: R,
    pages: Vec<DocHash>,
}

impl<R> Branch<R> {
    fn new(
        grow: impl FnOnce(&mut Vec<Document>) -> Result<R, CodecError>,
        new: &mut Vec<Document>,
    ) -> Result<Self, CodecError> {
        let before = new.len();
        let root = grow(new)?;
        Ok(Self { root, pages: new[before..].iter().map(|page| page.hash).collect() })
    }
}

type Root<T> = Node<T, INDEX_ENTRIES>;

/// What has changed since the pages were made.
#[derive(Debug, Default)]
struct Changed {
    groups: BTreeSet<GroupId>,
    undecided: bool,
    revoked: bool,
}

/// The trees below the index.
#[derive(Debug, Default)]
pub(super) struct Pages {
    by_group: BTreeMap<GroupId, Branch<DocRef>>,
    groups: Branch<Root<GroupEntry>>,
    undecided: Branch<Root<DocEntry>>,
    revoked: Branch<Root<DeviceId>>,
    changed: Changed,
    /// Every page of the newest index.
    current: BTreeSet<DocHash>,
    /// Indexes before the newest, with the pages that ended with them.
    old: VecDeque<(DocHash, Vec<DocHash>)>,
}

impl Pages {
    pub(super) fn group_changed(&mut self, group: GroupId) {
        self.changed.groups.insert(group);
    }

    pub(super) fn releases_changed(&mut self) {
        self.changed.undecided = true;
    }

    pub(super) fn revoked_changed(&mut self) {
        self.changed.revoked = true;
    }

    /// Makes the pages of what has changed. Returns those that are new; `before` is the index that they replace.
    pub(super) fn renew(&mut self, content: Content<'_>, before: Option<DocHash>) -> Result<Vec<Document>, CodecError> {
        let mut made = Vec::new();
        let changed = core::mem::take(&mut self.changed);
        for group in &changed.groups {
            let approvals = content.approvals_of(*group).map(|(_, known)| known.entry);
            let described = content.groups.get(group).map(|known| known.entry);
            let entries = content.sorted(&content.releases_of(*group), approvals.chain(described));
            self.by_group.remove(group);
            if !entries.is_empty() {
                let branch = Branch::new(|pages| page::grow_page(&entries, OF_A_GROUP, pages), &mut made)?;
                self.by_group.insert(*group, branch);
            }
        }
        if !changed.groups.is_empty() {
            let of =
                |(group, branch): (&GroupId, &Branch<DocRef>)| GroupEntry { group: *group, documents: branch.root };
            let entries: Vec<_> = self.by_group.iter().map(of).collect();
            self.groups =
                Branch::new(|pages| page::grow(&entries, GROUPS_TOGETHER, GROUPS_TOGETHER, pages), &mut made)?;
        }
        if changed.undecided {
            let entries = content.sorted(content.undecided, core::iter::empty());
            self.undecided =
                Branch::new(|pages| page::grow(&entries, UNDECIDED_IN_INDEX, UNDECIDED, pages), &mut made)?;
        }
        if changed.revoked {
            let entries: Vec<_> = content.revoked.iter().copied().collect();
            self.revoked =
                Branch::new(|pages| page::grow(&entries, REVOKED_TOGETHER, REVOKED_TOGETHER, pages), &mut made)?;
        }
        let branches = self.by_group.values().map(|branch| &branch.pages);
        let all = branches.chain([&self.groups.pages, &self.undecided.pages, &self.revoked.pages]);
        let current: BTreeSet<DocHash> = all.flatten().copied().collect();
        let ended: Vec<_> = self.current.difference(&current).copied().collect();
        made.retain(|page| !self.current.contains(&page.hash));
        self.current = current;
        self.old.extend(before.map(|index| (index, ended)));
        Ok(made)
    }

    pub(super) fn groups(&self) -> &Root<GroupEntry> {
        &self.groups.root
    }

    pub(super) fn undecided(&self) -> &Root<DocEntry> {
        &self.undecided.root
    }

    pub(super) fn revoked(&self) -> &Root<DeviceId> {
        &self.revoked.root
    }

    /// Whether this is a page or an index that a node may still ask for.
    pub(super) fn is_readable(&self, hash: &DocHash) -> bool {
        self.current.contains(hash) || self.old.iter().any(|(index, pages)| index == hash || pages.contains(hash))
    }

    /// Indexes and pages that nobody needs any more.
    pub(super) fn retire(&mut self) -> Vec<DocHash> {
        let mut gone = Vec::new();
        while self.old.len() > OLD_INDEXES {
            let Some((index, pages)) = self.old.pop_front() else { break };
            gone.push(index);
            // A change that was taken back has brought a page back.
            gone.extend(pages.into_iter().filter(|page| !self.is_readable(page)));
        }
        gone
    }
}
