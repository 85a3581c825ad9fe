//! The pages and documents of one index, as far as they are there.
//!
//! Owns the walk from the index down to the documents that this device follows, what of it is still missing, and what was
//! verified. It never decides which index counts, nor whether anything may be installed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::catalog::page::{self, Entry, Look, MAX_DEPTH, MAX_PAGE, Parts};
use crate::catalog::walk;
use crate::catalog::{Approval, DocEntry, DocRef, GroupEntry, Index, Page, Root};
use crate::envelope::Kind;
use crate::ids::{DeviceId, DocHash, GroupId};
use crate::time::Wall;

use super::catalog::{Believed, Catalog, Floors, Label, Loaded};

/// The most documents that one device follows.
pub const MAX_DOCUMENTS: usize = 65_536;
/// The most pages of one index that a device holds or asks for.
pub const MAX_PAGES: usize = 32_768;
/// The most revoked devices.
pub(super) const MAX_REVOKED: usize = 16_384;
/// The most groups that a device which does not follow everything is in.
pub const MAX_GROUPS: usize = 256;

/// Which part of the catalog a device follows. What nobody has decided about yet, and what is stopped, it always does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interest {
    /// Its groups, at most [`MAX_GROUPS`].
    pub groups: BTreeSet<GroupId>,
    /// A branch cache holds the documents of every group, for its site.
    pub everything: bool,
}

impl Interest {
    /// The groups of a machine.
    pub fn of(groups: impl IntoIterator<Item = GroupId>) -> Self {
        Self { groups: groups.into_iter().take(MAX_GROUPS).collect(), everything: false }
    }

    fn wants(&self, group: &GroupId) -> bool {
        self.everything || self.groups.contains(group)
    }

    /// Whether a page of the tree of groups may name one of them.
    fn below(&self, path: &[u8]) -> bool {
        let under = |group: &GroupId| {
            path.iter().enumerate().all(|(depth, step)| page::digit(&group.0, depth) == usize::from(*step))
        };
        self.everything || self.groups.iter().any(under)
    }
}

/// Which tree of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tree {
    /// First: a stop does not wait.
    Revoked,
    Groups,
    Group(GroupId),
    Published,
}

/// Where in a tree a page stands: the steps from its root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    tree: Tree,
    path: Vec<u8>,
}

impl Place {
    fn root(tree: Tree) -> Self {
        Self { tree, path: Vec::new() }
    }

    fn child(&self, step: usize) -> Self {
        let mut path = self.path.clone();
        path.push(step as u8);
        Self { tree: self.tree, path }
    }
}

/// A page that is not there yet.
#[derive(Debug, Clone)]
struct MissingPage {
    len: u32,
    /// More than one, when two groups have the same documents in a part of their trees.
    places: BTreeSet<Place>,
}

/// What was refused, and why.
pub(super) type Refused = (DocHash, Kind, String);

/// The pages and documents of one index, as far as they are there. Every document that a page names is in exactly one of
/// `missing`, `loaded`, `refused`.
#[derive(Debug, Clone)]
pub(super) struct Assembly {
    pub(super) label: Label,
    pub(super) index: Arc<Index>,
    /// Envelope of the index.
    pub(super) bytes: Arc<Vec<u8>>,
    /// When the last head that named this index expires.
    pub(super) named_until: Wall,
    /// Whether the catalog was filled from it.
    pub(super) filled: bool,
    pub(super) interest: Interest,
    pages: BTreeMap<DocHash, Arc<Page>>,
    missing_pages: BTreeMap<DocHash, MissingPage>,
    /// Places of pages that were entered or wait to be: a page that stands at many must not cost the more for it.
    places: usize,
    revoked: BTreeSet<DeviceId>,
    pub(super) missing: BTreeMap<DocHash, DocEntry>,
    pub(super) loaded: BTreeMap<DocHash, (DocEntry, Loaded)>,
    pub(super) refused: BTreeMap<DocHash, DocEntry>,
    /// Every page and document that was refused, met again since the start or not.
    pub(super) refused_hashes: BTreeSet<DocHash>,
}

impl Assembly {
    /// What this index names, as far as `older` assemblies have it already.
    pub(super) fn new(
        (label, index, bytes): (Label, Arc<Index>, Arc<Vec<u8>>),
        named_until: Wall,
        interest: Interest,
        refused_hashes: BTreeSet<DocHash>,
        older: &[&Assembly],
    ) -> (Self, Vec<Refused>) {
        let mut set = Self {
            label,
            index: index.clone(),
            bytes,
            named_until,
            filled: false,
            interest,
            pages: BTreeMap::new(),
            missing_pages: BTreeMap::new(),
            places: 0,
            revoked: BTreeSet::new(),
            missing: BTreeMap::new(),
            loaded: BTreeMap::new(),
            refused: BTreeMap::new(),
            refused_hashes,
        };
        let mut walk = Walk { pool: older, refused: Vec::new() };
        walk.visit(&mut set, &Place::root(Tree::Revoked), &index.revoked.parts());
        walk.visit(&mut set, &Place::root(Tree::Groups), &index.groups.parts());
        walk.visit(&mut set, &Place::root(Tree::Published), &index.published.parts());
        (set, walk.refused)
    }

    /// Every page and every document is there or refused.
    pub(super) fn is_complete(&self) -> bool {
        self.missing_pages.is_empty() && self.missing.is_empty()
    }

    /// Whether all pages are there, so that what is not named can be told.
    pub(super) fn has_pages(&self) -> bool {
        self.missing_pages.is_empty()
    }

    /// Whether every revoked device is known.
    pub(super) fn has_revoked(&self) -> bool {
        !self.missing_pages.values().any(|page| page.places.iter().any(|place| place.tree == Tree::Revoked))
    }

    /// What counts at once. Of revoked devices that stand in pages, those of before go on counting until all pages are there.
    pub(super) fn give_stops(&self, catalog: &mut Catalog) {
        catalog.holds = self.index.holds.to_vec();
        catalog.origins = self.index.origins.to_vec();
        self.give_revoked(catalog);
    }

    /// Returns whether that changed anything.
    pub(super) fn give_revoked(&self, catalog: &mut Catalog) -> bool {
        let mut revoked = self.revoked.clone();
        if !self.has_revoked() {
            let room = MAX_REVOKED.saturating_sub(revoked.len());
            let before = catalog.revoked.iter().filter(|device| !self.revoked.contains(device));
            revoked.extend(before.take(room).copied());
        }
        let revoked: Vec<DeviceId> = revoked.into_iter().collect();
        let changed = revoked != catalog.revoked;
        catalog.revoked = revoked;
        changed
    }

    /// The pages to fetch next: those that say who is revoked before all others.
    pub(super) fn wanted_pages(&self, most: usize) -> Vec<DocRef> {
        let stops_only = !self.has_revoked();
        let wanted = self
            .missing_pages
            .iter()
            .filter(|(_, page)| !stops_only || page.places.iter().any(|place| place.tree == Tree::Revoked));
        wanted.map(|(hash, page)| DocRef { hash: *hash, len: page.len }).take(most).collect()
    }

    pub(super) fn lacks_page(&self, hash: &DocHash) -> bool {
        self.missing_pages.contains_key(hash)
    }

    pub(super) fn has_page(&self, hash: &DocHash) -> bool {
        self.pages.contains_key(hash)
    }

    /// Every page and document to keep on disk, there or still to come.
    pub(super) fn hashes(&self) -> impl Iterator<Item = &DocHash> {
        let pages = self.pages.keys().chain(self.missing_pages.keys());
        pages.chain(self.loaded.keys()).chain(self.missing.keys())
    }

    /// What could be read from disk, in the order in which it can be taken up.
    pub(super) fn lacks(&self) -> impl Iterator<Item = &DocHash> {
        self.missing_pages.keys().chain(self.missing.keys())
    }

    /// Takes in a page that is missing. One that is no page, or holds what does not belong there, counts as empty.
    /// What it names is taken over from `other` where that has it.
    pub(super) fn take_page(&mut self, hash: DocHash, bytes: &[u8], other: Option<&Assembly>) -> Vec<Refused> {
        let Some(MissingPage { len, places }) = self.missing_pages.remove(&hash) else { return Vec::new() };
        let mut walk = Walk { pool: other.as_slice(), refused: Vec::new() };
        let page = if bytes.len() == len as usize {
            Page::decode(bytes).map_err(|error| error.to_string())
        } else {
            Err(format!("a page of {} bytes, {len} were named", bytes.len()))
        };
        match page {
            Ok(page) => {
                let page = Arc::new(page);
                self.pages.insert(hash, page.clone());
                for place in places {
                    walk.enter(self, &place, hash, &page);
                }
            }
            Err(reason) => walk.refuse(self, hash, reason),
        }
        walk.refused
    }

    pub(super) fn names(&self, hash: &DocHash) -> bool {
        self.entry(hash).is_some() || self.refused.contains_key(hash)
    }

    /// What the index says about a document that was not refused.
    pub(super) fn entry(&self, hash: &DocHash) -> Option<&DocEntry> {
        self.missing.get(hash).or_else(|| self.loaded.get(hash).map(|(entry, _)| entry))
    }

    /// Looks for a document of a group, with pages from here and from `given`. `way` takes the pages on its path.
    pub(super) fn find(
        &self,
        group: &GroupId,
        hash: &DocHash,
        given: &BTreeMap<DocHash, Arc<Page>>,
        way: &mut Vec<DocHash>,
    ) -> Look<DocEntry> {
        let pages = |hash: &DocHash| self.pages.get(hash).or_else(|| given.get(hash)).cloned();
        walk::find_in_group(&self.index, (group, hash), &pages, way)
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
            self.refused_hashes.insert(entry.hash);
        }
    }

    /// Another root may believe what the one before did not.
    pub(super) fn ask_again(&mut self) {
        self.refused_hashes.retain(|hash| !self.refused.contains_key(hash));
        self.missing.append(&mut self.refused);
    }

    /// Drops what the keys of this root no longer vouch for. Returns that, with the reason.
    pub(super) fn count_again(&mut self, root: &Root) -> Vec<Refused> {
        self.filled = false;
        let mut dropped = Vec::new();
        self.loaded.retain(|hash, (entry, loaded)| match loaded.is_vouched(root) {
            Ok(()) => true,
            Err(error) => {
                dropped.push((*hash, *entry, error.to_string()));
                false
            }
        });
        self.refused.extend(dropped.iter().map(|(hash, entry, _)| (*hash, *entry)));
        self.refused_hashes.extend(dropped.iter().map(|(hash, ..)| *hash));
        dropped.into_iter().map(|(hash, entry, reason)| (hash, entry.kind, reason)).collect()
    }

    /// Fills the releases and approvals of `catalog`. With `floors`, an approval below its floor is left out. What is left out is
    /// refused for good. Returns what was left out, with the reason, in an order that is the
    /// same on every machine.
    pub(super) fn fill(&mut self, catalog: &mut Catalog, floors: Option<&Floors>) -> Vec<Refused> {
        let mut left_out = Vec::new();
        self.filled = true;
        catalog.releases.clear();
        catalog.approvals.clear();
        catalog.groups.clear();
        catalog.index = Some(self.label);
        for (hash, (_, loaded)) in &self.loaded {
            match &loaded.document {
                // Two envelopes around one body differ in signatures only: the first will do.
                Believed::Release(release) => {
                    catalog.releases.entry(release.id).or_insert_with(|| release.clone());
                }
                Believed::Approval(known) => {
                    let key = (known.approval.group, known.approval.release);
                    let floor = floors.map_or(0, |floors| floors.of_approval(&key));
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
                Believed::Group(known) => {
                    let group = known.document.group;
                    let floor = floors.map_or(0, |floors| floors.of_group(&group));
                    if known.document.version < floor {
                        left_out.push((*hash, Kind::Group, format!("version {floor} was seen before")));
                        continue;
                    }
                    let held = catalog.groups.get(&group).map(|held| held.document.version);
                    if held.is_none_or(|held| held < known.document.version) {
                        catalog.groups.insert(group, known.clone());
                    }
                }
            }
        }
        // A rule is asked about each release that it is said to have let in.
        let Catalog { releases, approvals, .. } = &mut *catalog;
        approvals.retain(|(_, id), known| {
            let (Some(by_rule), Some(of)) = (&known.by_rule, releases.get(id)) else { return true };
            let permitted = by_rule.permits(&of.release, &known.approval);
            if let Err(error) = &permitted {
                left_out.push((known.hash, Kind::Approval, error.to_string()));
            }
            permitted.is_ok()
        });
        for (hash, ..) in &left_out {
            if let Some((entry, _)) = self.loaded.remove(hash) {
                self.refused.insert(*hash, entry);
                self.refused_hashes.insert(*hash);
            }
        }
        left_out
    }
}

/// The way down from the roots, through pages that are there.
struct Walk<'a> {
    pool: &'a [&'a Assembly],
    refused: Vec<Refused>,
}

impl Walk<'_> {
    fn visit<T: Entry + Follow>(&mut self, set: &mut Assembly, place: &Place, part: &Parts<'_, T>) {
        match part {
            Parts::Leaf(entries) => entries.iter().for_each(|entry| entry.follow(self, set, place)),
            Parts::Fork(children) => {
                for (step, child) in children.iter().enumerate() {
                    let place = place.child(step);
                    if let Some(child) = child
                        && (place.tree != Tree::Groups || set.interest.below(&place.path))
                    {
                        self.need(set, *child, place);
                    }
                }
            }
        }
    }

    /// A page belongs here: goes on in it if it is there, and asks for it if not.
    fn need(&mut self, set: &mut Assembly, at: DocRef, place: Place) {
        if set.refused_hashes.contains(&at.hash) {
            return;
        }
        if !(1..=MAX_PAGE).contains(&(at.len as usize)) || place.path.len() > MAX_DEPTH {
            return self.refuse(set, at.hash, "longer or deeper than a page may be".into());
        }
        if set.places >= MAX_PAGES {
            return self.refuse(set, at.hash, format!("the index has more than {MAX_PAGES} pages for this device"));
        }
        set.places += 1;
        let found = set.pages.get(&at.hash).or_else(|| self.pool.iter().find_map(|older| older.pages.get(&at.hash)));
        if let Some(page) = found.cloned() {
            set.pages.insert(at.hash, page.clone());
            return self.enter(set, &place, at.hash, &page);
        }
        let missing = MissingPage { len: at.len, places: BTreeSet::new() };
        set.missing_pages.entry(at.hash).or_insert(missing).places.insert(place);
    }

    fn enter(&mut self, set: &mut Assembly, place: &Place, hash: DocHash, page: &Page) {
        let good = match (place.tree, page) {
            (Tree::Revoked, Page::Devices(node)) => self.enter_node(set, place, &node.parts()),
            (Tree::Groups, Page::Groups(node)) => self.enter_node(set, place, &node.parts()),
            (Tree::Group(_) | Tree::Published, Page::Documents(node)) => self.enter_node(set, place, &node.parts()),
            _ => false,
        };
        if !good {
            self.refuse(set, hash, "a page out of order, or not of the tree that names it".into());
        }
    }

    fn enter_node<T: Entry + Follow>(&mut self, set: &mut Assembly, place: &Place, part: &Parts<'_, T>) -> bool {
        let good = if let Parts::Leaf(entries) = part { page::in_place(entries, &place.path) } else { true };
        if good {
            self.visit(set, place, part);
        }
        good
    }

    fn refuse(&mut self, set: &mut Assembly, hash: DocHash, reason: String) {
        if set.refused_hashes.len() < MAX_DOCUMENTS && set.refused_hashes.insert(hash) {
            self.refused.push((hash, Kind::Index, reason));
        }
    }
}

/// What an entry of a tree leads to.
trait Follow {
    fn follow(&self, walk: &mut Walk<'_>, set: &mut Assembly, place: &Place);
}

impl Follow for DeviceId {
    fn follow(&self, _: &mut Walk<'_>, set: &mut Assembly, _: &Place) {
        if set.revoked.len() < MAX_REVOKED {
            set.revoked.insert(*self);
        }
    }
}

impl Follow for GroupEntry {
    fn follow(&self, walk: &mut Walk<'_>, set: &mut Assembly, _: &Place) {
        if set.interest.wants(&self.group) {
            walk.need(set, self.documents, Place::root(Tree::Group(self.group)));
        }
    }
}

impl Follow for DocEntry {
    fn follow(&self, walk: &mut Walk<'_>, set: &mut Assembly, place: &Place) {
        // A release may be named for two groups.
        if set.names(&self.hash) {
            return;
        }
        if set.refused_hashes.contains(&self.hash) {
            set.refused.insert(self.hash, *self);
            return;
        }
        let problem = if !matches!(
            (self.kind, place.tree),
            (Kind::Release, _) | (Kind::Approval | Kind::Group, Tree::Group(_))
        ) {
            Some(format!("an index cannot name a {:?}", self.kind))
        } else if !(1..=self.kind.cap()).contains(&(self.len as usize)) {
            Some("longer than its kind may be".to_owned())
        } else if set.missing.len() + set.loaded.len() + set.refused.len() >= MAX_DOCUMENTS {
            Some(format!("more than {MAX_DOCUMENTS} documents for this device"))
        } else {
            None
        };
        if let Some(problem) = problem {
            return walk.refuse(set, self.hash, problem);
        }
        let known = walk.pool.iter().find_map(|older| older.loaded.get(&self.hash).filter(|(entry, _)| entry == self));
        match known {
            // Verified before; an entry that describes it differently is left to be refused when the document is offered.
            Some(known) => drop(set.loaded.insert(self.hash, known.clone())),
            None => drop(set.missing.insert(self.hash, *self)),
        }
    }
}
