//! Catching up with the newest head: which documents are missing, and whom to ask.
//!
//! Neighbours that hold the whole index are asked first. Over the WAN go the uplinks at once, everyone else only after a
//! while: so a change of the catalog crosses the WAN once or twice per site.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::peers::{Stage, backoff};
use super::{FetchError, FetchFrom, FetchId, NodeState, Output, Reason};
use crate::chunk::{self, ChunkList};
use crate::envelope::Kind;
use crate::ids::{DeviceId, DocHash, PayloadId};
use crate::time::{Mono, Now};
use crate::trust::Wanted;
use crate::wire::{BlockWhat, Message};

/// Document fetches under way at one time.
const MAX_FETCHES: usize = 8;
/// Roots that are kept to help members that slept: more changes of root than a deployment sees in years.
const MAX_ROOTS: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Root(u64),
    Index(DocHash),
    Document(DocHash, Kind),
    List(PayloadId, DocHash),
}

#[derive(Debug)]
struct Fetch {
    wish: Wish,
    peer: Option<DeviceId>,
}

/// Documents that are here and documents on their way.
#[derive(Debug, Default)]
pub(super) struct Documents {
    bytes: BTreeMap<DocHash, Arc<Vec<u8>>>,
    roots: BTreeMap<u64, Arc<Vec<u8>>>,
    fetches: BTreeMap<FetchId, Fetch>,
    failures: BTreeMap<Wish, (u32, Mono)>,
    wan_from: Mono,
    announced: Option<DocHash>,
}

impl NodeState {
    pub(super) fn restore_documents(&mut self, documents: Vec<Vec<u8>>, now: Now) {
        let root = self.trust.root().version;
        self.documents.roots.insert(root, Arc::new(self.trust.root_bytes().to_vec()));
        for bytes in documents {
            let hash = DocHash::of(&bytes);
            let wanted = match self.trust.wanted() {
                Wanted::Documents(entries) => entries.iter().any(|entry| entry.hash == hash),
                _ => false,
            };
            // One that no longer verifies is not kept; whatever else is on disk (chunk lists, the index) was verified by hash.
            if !wanted || self.trust.offer_document(bytes.clone(), now.wall).is_ok() {
                self.documents.bytes.insert(hash, Arc::new(bytes));
            }
        }
    }

    /// There is a newer head: see to its documents.
    pub(super) fn documents_wanted(&mut self, now: Now) {
        self.documents.failures.clear();
        let patience = if self.is_uplink() { Duration::ZERO } else { Duration::from_secs(2) };
        let spread = if self.is_uplink() { Duration::ZERO } else { self.rng.jitter(Duration::from_secs(3)) };
        self.documents.wan_from = now.mono + patience + spread;
        self.fetch_documents(now);
    }

    /// Asks for what is missing, as far as someone can be asked now.
    pub(super) fn fetch_documents(&mut self, now: Now) {
        self.notice_catalog(now);
        let mut wishes: Vec<(Wish, usize)> = match self.trust.wanted() {
            Wanted::Nothing => Vec::new(),
            Wanted::Root(version) => vec![(Wish::Root(version), Kind::Root.cap())],
            Wanted::Index { hash, len } => vec![(Wish::Index(hash), len as usize)],
            Wanted::Documents(entries) => {
                entries.iter().map(|e| (Wish::Document(e.hash, e.kind), e.len as usize)).collect()
            }
        };
        wishes.extend(self.trust.wanted_root().map(|version| (Wish::Root(version), Kind::Root.cap())));
        wishes.dedup();
        let lists = self.downloads.lists_wanted();
        wishes.extend(lists.into_iter().map(|(payload, hash, len)| (Wish::List(payload, hash), len as usize)));
        let under_way: BTreeSet<Wish> = self.documents.fetches.values().map(|fetch| fetch.wish).collect();
        let mut waiting = false;
        for (wish, limit) in wishes {
            if self.documents.fetches.len() >= MAX_FETCHES {
                break;
            }
            let rests = self.documents.failures.get(&wish).is_some_and(|(_, until)| *until > now.mono);
            if under_way.contains(&wish) || rests {
                waiting = true;
                continue;
            }
            if let Wish::List(payload, hash) = wish
                && let Some(bytes) = self.documents.bytes.get(&hash).cloned()
            {
                self.list_here(payload, &bytes, hash, now);
                continue;
            }
            match self.document_source(wish, now) {
                Some((from, peer)) => {
                    let fetch = self.fetch_id();
                    self.documents.fetches.insert(fetch, Fetch { wish, peer });
                    let limit = limit.min(chunk::MAX_LIST);
                    self.output.push_back(Output::FetchDoc { fetch, from, what: wish.what(), limit });
                }
                None => waiting = true,
            }
        }
        if waiting {
            self.timer(Reason::Documents, now.mono + Duration::from_millis(500));
        }
    }

    fn document_source(&mut self, wish: Wish, now: Now) -> Option<(FetchFrom, Option<DeviceId>)> {
        let index = self.trust.head().map(|head| head.index_hash);
        let has = |device: &DeviceId| {
            let Some(peer) = self.peers.connected.get(device) else { return false };
            match (peer.stage, wish) {
                (Stage::Member { .. }, Wish::Root(version)) => peer.root_version >= version,
                (Stage::Member { .. }, Wish::Index(_) | Wish::Document(..)) => {
                    peer.catalog.is_some() && peer.catalog == index
                }
                (Stage::Member { .. }, Wish::List(payload, _)) => peer.holdings.contains_key(&payload),
                (Stage::Coordinator | Stage::Greeting, _) => false,
            }
        };
        let holders: Vec<_> = self.peers.connected.keys().filter(|device| has(device)).copied().collect();
        if !holders.is_empty() {
            let chosen = holders[self.rng.below(holders.len())];
            return Some((FetchFrom::Peer(chosen), Some(chosen)));
        }
        let failures = self.documents.failures.get(&wish).map_or(0, |(count, _)| *count);
        let allowed = match wish {
            Wish::List(payload, _) => self.downloads.list_wan_from(&payload),
            _ => self.documents.wan_from,
        };
        let coordinator = self.peers.coordinator;
        if allowed > now.mono && coordinator.is_none() {
            return None;
        }
        // Turn and turn about, so that one of the two being down or damaged does not matter.
        match coordinator {
            Some(coordinator) if failures.is_multiple_of(2) => Some((FetchFrom::Peer(coordinator), Some(coordinator))),
            _ => {
                let path = wish.path();
                let urls: Vec<_> =
                    self.origins().iter().map(|base| format!("{}/{path}", base.trim_end_matches('/'))).collect();
                (!urls.is_empty()).then_some((FetchFrom::Urls(urls), None))
            }
        }
    }

    /// Base URLs of origins, best first.
    pub(super) fn origins(&self) -> Vec<String> {
        let named: Vec<String> = self.trust.catalog().origins().iter().map(|url| url.to_string()).collect();
        if named.is_empty() { self.config.origins.clone() } else { named }
    }

    pub(super) fn document_fetched(&mut self, fetch: FetchId, result: Result<Vec<u8>, FetchError>, now: Now) {
        let Some(Fetch { wish, peer }) = self.documents.fetches.remove(&fetch) else {
            return;
        };
        let outcome = result.map_err(|error| (false, format!("{error:?}"))).and_then(|bytes| {
            // A document of another hash is the source's fault; one that the coordinator pinned and nobody may believe is not.
            match wish.hash() {
                Some(hash) if DocHash::of(&bytes) != hash => Err((true, "it has another hash".to_owned())),
                _ => self.take_document(wish, bytes, now).map_err(|reason| (false, reason)),
            }
        });
        self.drain_trust_alarms(now);
        match outcome {
            Ok(()) => {
                self.documents.failures.remove(&wish);
            }
            Err((tampered, reason)) => {
                let failures = self.documents.failures.get(&wish).map_or(0, |(count, _)| *count) + 1;
                let until = now.mono + backoff(failures, Duration::from_secs(30)) / 2;
                self.documents.failures.insert(wish, (failures, until));
                if tampered {
                    let text = format!("it served a tampered document ({}): {reason}", wish.path());
                    match peer {
                        Some(peer) => self.ban(peer, text, now),
                        None => self.alarm(format!("the origin: {text}"), now),
                    }
                }
            }
        }
        self.fetch_documents(now);
    }

    fn take_document(&mut self, wish: Wish, bytes: Vec<u8>, now: Now) -> Result<(), String> {
        match wish {
            Wish::Root(version) => {
                self.trust.offer_root(&bytes, now.wall).map_err(|error| error.to_string())?;
                if self.documents.roots.len() >= MAX_ROOTS {
                    self.documents.roots.pop_first();
                }
                self.documents.roots.insert(version, Arc::new(bytes));
                self.persist_trust();
                self.ask_for_head();
            }
            Wish::Index(hash) => {
                self.trust.offer_index(bytes.clone(), now.wall).map_err(|error| error.to_string())?;
                self.keep(hash, bytes);
                self.persist_trust();
                self.advance_all(now);
            }
            Wish::Document(hash, _) => {
                self.trust.offer_document(bytes.clone(), now.wall).map_err(|error| error.to_string())?;
                self.keep(hash, bytes);
            }
            Wish::List(payload, hash) => {
                let bytes = Arc::new(bytes);
                self.list_here(payload, &bytes, hash, now);
                self.documents.bytes.insert(hash, bytes.clone());
                self.output.push_back(Output::StoreDoc { hash, bytes });
            }
        }
        Ok(())
    }

    fn list_here(&mut self, payload: PayloadId, bytes: &[u8], hash: DocHash, now: Now) {
        match ChunkList::parse(bytes, hash) {
            Ok(list) => self.list_arrived(payload, Arc::new(list), now),
            Err(error) => self.list_unusable(payload, error.to_string(), now),
        }
    }

    fn keep(&mut self, hash: DocHash, bytes: Vec<u8>) {
        let bytes = Arc::new(bytes);
        self.documents.bytes.insert(hash, bytes.clone());
        self.output.push_back(Output::StoreDoc { hash, bytes });
    }

    /// After a new root: the head that could not be read before is with the neighbours still.
    fn ask_for_head(&mut self) {
        let head = self.trust.head_bytes().unwrap_or_default().to_vec();
        let message = Message::Head(crate::codec::Bounded::truncated(head));
        self.tell_members(&message);
        if let Some(coordinator) = self.peers.coordinator {
            self.send(coordinator, &message);
        }
    }

    fn notice_catalog(&mut self, now: Now) {
        let active = self.trust.catalog().index_hash();
        if active.is_some() && active != self.documents.announced {
            self.documents.announced = active;
            self.catalog_changed(now);
            if let Some(index) = active {
                self.tell_members(&Message::Catalog { index });
            }
        }
    }

    /// The index of which this node holds and serves every document.
    pub(super) fn announced_catalog(&self) -> Option<DocHash> {
        self.documents.announced
    }

    /// Another catalog is in force: forget what it does not name, and look at every deployment again.
    pub(super) fn catalog_changed(&mut self, now: Now) {
        self.documents.announced = self.trust.catalog().index_hash();
        let mut needed = self.trust.document_hashes();
        needed.extend(self.trust.catalog().document_hashes());
        needed.extend(self.trust.head().map(|head| head.index_hash));
        needed.extend(self.trust.catalog().index_hash());
        let payloads = self.trust.catalog().releases().values().flat_map(|r| &r.release.payloads);
        needed.extend(payloads.map(|payload| payload.chunk_list));
        let old: Vec<_> = self.documents.bytes.keys().filter(|hash| !needed.contains(hash)).copied().collect();
        for hash in old {
            self.documents.bytes.remove(&hash);
            self.output.push_back(Output::DropDoc { hash });
        }
        self.deployments_changed(now);
        self.catalog_judged(now);
    }

    pub(super) fn drain_trust_alarms(&mut self, now: Now) {
        for text in self.trust.take_alarms() {
            self.alarm(text, now);
        }
    }

    /// A document or root that a member of the site may have.
    pub(super) fn document_bytes(&self, what: &BlockWhat) -> Option<Arc<Vec<u8>>> {
        match what {
            BlockWhat::Doc(hash) => self.documents.bytes.get(hash).cloned(),
            BlockWhat::Root(version) => self.documents.roots.get(version).cloned(),
            BlockWhat::Chunks { .. } => None,
        }
    }
}

impl Wish {
    fn what(self) -> BlockWhat {
        match self {
            Wish::Root(version) => BlockWhat::Root(version),
            Wish::Index(hash) | Wish::Document(hash, _) | Wish::List(_, hash) => BlockWhat::Doc(hash),
        }
    }

    fn hash(self) -> Option<DocHash> {
        match self {
            Wish::Root(_) => None,
            Wish::Index(hash) | Wish::Document(hash, _) | Wish::List(_, hash) => Some(hash),
        }
    }

    /// Its path below an origin's base URL.
    fn path(self) -> String {
        match self {
            Wish::Root(version) => format!("root/{version}"),
            Wish::Index(hash) | Wish::Document(hash, _) | Wish::List(_, hash) => format!("doc/{hash}"),
        }
    }
}
