//! The way from an index down to what it names. Owns the walks; never fetches, and believes a page for its hash alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::index::Index;
use super::page::{DocEntry, DocRef, Entry, GroupEntry, Look, Page, PageError, Parts, find};
use crate::ids::{DeviceId, DocHash, GroupId};

/// The documents of one group, as an index names them.
pub fn find_in_group(
    index: &Index,
    (group, hash): (&GroupId, &DocHash),
    pages: &dyn Fn(&DocHash) -> Option<Arc<Page>>,
    way: &mut Vec<DocHash>,
) -> Look<DocEntry> {
    let root = match find(&index.groups.parts(), &group.0, pages, way) {
        Look::There(entry) => entry.documents,
        Look::NotThere => return Look::NotThere,
        Look::Lacks(page) => return Look::Lacks(page),
    };
    way.push(root.hash);
    let Some(page) = pages(&root.hash) else { return Look::Lacks(root) };
    DocEntry::in_page(&page).map_or(Look::NotThere, |node| find(&node.parts(), &hash.0, pages, way))
}

/// All that an index names.
#[derive(Debug, Default)]
pub struct Everything {
    /// Every page.
    pub pages: BTreeSet<DocHash>,
    /// Every release and approval.
    pub documents: BTreeMap<DocHash, DocEntry>,
    /// Every revoked device.
    pub revoked: BTreeSet<DeviceId>,
}

/// Walks over all pages of an index that is one's own: nothing is checked but that they are there and decode.
pub fn everything<E: From<PageError>>(
    index: &Index,
    read: impl FnMut(&DocHash) -> Result<Vec<u8>, E>,
) -> Result<Everything, E> {
    let mut walk = Walk { read, found: Everything::default() };
    walk.over(&index.revoked.parts(), &mut |device: &DeviceId, found| {
        found.revoked.insert(*device);
    })?;
    let mut document = |entry: &DocEntry, found: &mut Everything| {
        found.documents.insert(entry.hash, *entry);
    };
    walk.over(&index.published.parts(), &mut document)?;
    let mut groups = Vec::new();
    walk.over(&index.groups.parts(), &mut |entry: &GroupEntry, _| groups.push(entry.documents))?;
    for root in groups {
        walk.below::<DocEntry>(&root, &mut document)?;
    }
    Ok(walk.found)
}

struct Walk<R> {
    read: R,
    found: Everything,
}

impl<E: From<PageError>, R: FnMut(&DocHash) -> Result<Vec<u8>, E>> Walk<R> {
    fn over<T: Entry>(&mut self, part: &Parts<'_, T>, each: &mut dyn FnMut(&T, &mut Everything)) -> Result<(), E> {
        match part {
            Parts::Leaf(entries) => entries.iter().for_each(|entry| each(entry, &mut self.found)),
            Parts::Fork(children) => {
                for child in children.iter().flatten() {
                    self.below(child, each)?;
                }
            }
        }
        Ok(())
    }

    fn below<T: Entry>(&mut self, at: &DocRef, each: &mut dyn FnMut(&T, &mut Everything)) -> Result<(), E> {
        // One page may stand at two places; a path cannot lead back to itself, for it would have to hold its own hash.
        self.found.pages.insert(at.hash);
        let page = Page::decode(&(self.read)(&at.hash)?)?;
        let node = T::in_page(&page).ok_or(PageError::Magic)?;
        self.over(&node.parts(), each)
    }
}
