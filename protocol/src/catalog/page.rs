//! The catalog as a tree of pages: what an index names, cut so that a change costs each device what changed for it.
//!
//! An [`super::Index`] holds the roots of three trees. Each splits by the next four bits of a key, sixteen ways, wherever the
//! entries are too many for one page; so one change makes new pages on one path, and all others keep their hash. Owns the
//! layout, its builder and the search in one tree; it never decides what belongs into a tree or whether a page is believed: a page
//! is named by its hash and so as good as the signed index above it.
//!
//! ```text
//! page: magic "UPG" | version u8 = 1 | Page (codec)
//! ```

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::{self, Bounded, CodecError};
use crate::envelope::{Document, Kind};
use crate::ids::{DeviceId, DocHash, GroupId};

/// The most bytes of a page.
pub const MAX_PAGE: usize = 64 << 10;
/// Entries that the last page of a path may hold.
pub const PAGE_ENTRIES: usize = 1024;
/// Entries of a tree that may stand in the index itself.
pub const INDEX_ENTRIES: usize = 64;
/// The most splits on a path. Keys are hashes or random: sixteen equal digits do not happen to two of them.
pub const MAX_DEPTH: usize = 16;

const MAGIC: [u8; 4] = *b"UPG\x01";

/// Where a document that is no envelope of its own is: its hash, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocRef {
    /// BLAKE3 of its bytes.
    pub hash: DocHash,
    /// How many they are.
    pub len: u32,
}

/// One current document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocEntry {
    /// [`Kind::Release`], [`Kind::Approval`] or [`Kind::Group`].
    pub kind: Kind,
    /// Hash of the envelope.
    pub hash: DocHash,
    /// Bytes of the envelope.
    pub len: u32,
    /// The document's own version (release counter, version of an approval or a group).
    pub version: u64,
}

/// The page that a group's documents begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEntry {
    /// The group.
    pub group: GroupId,
    /// The newest approvals for it, the releases that they name, and what those depend on.
    pub documents: DocRef,
}

/// A part of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node<T, const N: usize> {
    /// Its entries, sorted by key, without duplicates.
    Leaf(Bounded<T, N>),
    /// Where they are, by the next four bits of the key.
    Fork(Box<[Option<DocRef>; 16]>),
}

impl<T, const N: usize> Default for Node<T, N> {
    fn default() -> Self {
        Self::Leaf(Bounded::default())
    }
}

/// [`Node`] of any size.
#[derive(Debug)]
pub enum Parts<'a, T> {
    /// Entries.
    Leaf(&'a [T]),
    /// Pages by the next four bits.
    Fork(&'a [Option<DocRef>; 16]),
}

impl<T, const N: usize> Node<T, N> {
    /// What it is made of.
    pub fn parts(&self) -> Parts<'_, T> {
        match self {
            Node::Leaf(entries) => Parts::Leaf(entries),
            Node::Fork(children) => Parts::Fork(children),
        }
    }
}

/// A part of a tree that is a document of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Page {
    /// Of the tree of groups.
    Groups(Node<GroupEntry, PAGE_ENTRIES>),
    /// Of a group's documents, or of those that no group approves.
    Documents(Node<DocEntry, PAGE_ENTRIES>),
    /// Of the revoked devices.
    Devices(Node<DeviceId, PAGE_ENTRIES>),
}

/// Why bytes are not a page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Not a page at all.
    #[error("not a page of this version")]
    Magic,
    /// Damaged, or longer than [`MAX_PAGE`].
    #[error("a page that is {0}")]
    Body(#[from] CodecError),
}

impl Page {
    /// The page that these bytes are. Whether its entries are in order, and in their place, is for the walk to see.
    pub fn decode(bytes: &[u8]) -> Result<Self, PageError> {
        let body = bytes.strip_prefix(&MAGIC).ok_or(PageError::Magic)?;
        Ok(codec::decode(body, MAX_PAGE - MAGIC.len())?)
    }

    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(codec::encode(self, MAX_PAGE - MAGIC.len())?);
        Ok(bytes)
    }
}

/// What a tree holds.
pub trait Entry: Clone + Serialize {
    /// What it is found by.
    fn key(&self) -> &[u8];
    /// The part of such a tree that a page holds.
    fn in_page(page: &Page) -> Option<&Node<Self, PAGE_ENTRIES>>;
    /// A part of such a tree as a page.
    fn page(node: Node<Self, PAGE_ENTRIES>) -> Page;
}

impl Entry for GroupEntry {
    fn key(&self) -> &[u8] {
        &self.group.0
    }
    fn in_page(page: &Page) -> Option<&Node<Self, PAGE_ENTRIES>> {
        if let Page::Groups(node) = page { Some(node) } else { None }
    }
    fn page(node: Node<Self, PAGE_ENTRIES>) -> Page {
        Page::Groups(node)
    }
}

impl Entry for DocEntry {
    fn key(&self) -> &[u8] {
        &self.hash.0
    }
    fn in_page(page: &Page) -> Option<&Node<Self, PAGE_ENTRIES>> {
        if let Page::Documents(node) = page { Some(node) } else { None }
    }
    fn page(node: Node<Self, PAGE_ENTRIES>) -> Page {
        Page::Documents(node)
    }
}

impl Entry for DeviceId {
    fn key(&self) -> &[u8] {
        &self.0
    }
    fn in_page(page: &Page) -> Option<&Node<Self, PAGE_ENTRIES>> {
        if let Page::Devices(node) = page { Some(node) } else { None }
    }
    fn page(node: Node<Self, PAGE_ENTRIES>) -> Page {
        Page::Devices(node)
    }
}

/// The four bits of a key that decide at this depth.
pub fn digit(key: &[u8], depth: usize) -> usize {
    let byte = key.get(depth / 2).copied().unwrap_or(0);
    usize::from(if depth.is_multiple_of(2) { byte >> 4 } else { byte & 15 })
}

/// Cuts entries, sorted by key, into a tree: at most `top` of them in the root, `leaf` in a page. New pages go to `pages`.
pub fn grow<T: Entry, const N: usize>(
    entries: &[T],
    top: usize,
    leaf: usize,
    pages: &mut Vec<Document>,
) -> Result<Node<T, N>, CodecError> {
    part(entries, 0, top.min(N), leaf.min(PAGE_ENTRIES), pages)
}

/// The same with the root in a page too.
pub fn grow_page<T: Entry>(entries: &[T], leaf: usize, pages: &mut Vec<Document>) -> Result<DocRef, CodecError> {
    let root = part(entries, 0, leaf.min(PAGE_ENTRIES), leaf.min(PAGE_ENTRIES), pages)?;
    as_page(root, pages)
}

fn part<T: Entry, const N: usize>(
    entries: &[T],
    depth: usize,
    limit: usize,
    leaf: usize,
    pages: &mut Vec<Document>,
) -> Result<Node<T, N>, CodecError> {
    if entries.len() <= limit || depth >= MAX_DEPTH {
        return Ok(Node::Leaf(Bounded::truncated(entries.to_vec())));
    }
    let mut children = [None; 16];
    for group in entries.chunk_by(|a, b| digit(a.key(), depth) == digit(b.key(), depth)) {
        let child = part::<T, PAGE_ENTRIES>(group, depth + 1, leaf, leaf, pages)?;
        if let Some(first) = group.first() {
            children[digit(first.key(), depth)] = Some(as_page(child, pages)?);
        }
    }
    Ok(Node::Fork(Box::new(children)))
}

fn as_page<T: Entry>(node: Node<T, PAGE_ENTRIES>, pages: &mut Vec<Document>) -> Result<DocRef, CodecError> {
    let page = Document::new(T::page(node).encode()?);
    let at = DocRef { hash: page.hash, len: page.bytes.len() as u32 };
    pages.push(page);
    Ok(at)
}

/// Whether entries are in order, without duplicates, and below this path.
pub fn in_place<T: Entry>(entries: &[T], path: &[u8]) -> bool {
    let below =
        |entry: &T| path.iter().enumerate().all(|(depth, step)| digit(entry.key(), depth) == usize::from(*step));
    entries.is_sorted_by(|a, b| a.key() < b.key()) && entries.iter().all(below)
}

/// What a search in a tree finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look<T> {
    /// The entry.
    There(T),
    /// The tree has no such entry.
    NotThere,
    /// It cannot be told without this page.
    Lacks(DocRef),
}

/// Looks for a key. `way` takes the hashes of the pages on its path.
pub fn find<T: Entry>(
    root: &Parts<'_, T>,
    key: &[u8],
    pages: &dyn Fn(&DocHash) -> Option<Arc<Page>>,
    way: &mut Vec<DocHash>,
) -> Look<T> {
    search(root, key, 0, pages, way)
}

fn search<T: Entry>(
    part: &Parts<'_, T>,
    key: &[u8],
    depth: usize,
    pages: &dyn Fn(&DocHash) -> Option<Arc<Page>>,
    way: &mut Vec<DocHash>,
) -> Look<T> {
    match part {
        Parts::Leaf(entries) => match entries.binary_search_by(|entry| entry.key().cmp(key)) {
            Ok(at) => Look::There(entries[at].clone()),
            Err(_) => Look::NotThere,
        },
        Parts::Fork(_) if depth >= MAX_DEPTH => Look::NotThere,
        Parts::Fork(children) => {
            let Some(child) = children[digit(key, depth)] else { return Look::NotThere };
            way.push(child.hash);
            let Some(page) = pages(&child.hash) else { return Look::Lacks(child) };
            // A page of another tree is no part of this one.
            T::in_page(&page).map_or(Look::NotThere, |node| search(&node.parts(), key, depth + 1, pages, way))
        }
    }
}
