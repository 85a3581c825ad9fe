//! Catching up with the newest head: which pages and documents are missing, and whom to ask.
//!
//! Neighbours that hold the newest catalog, each for its own groups, are asked first. Over the WAN go the uplinks at once, everyone
//! else only after a while: so a change of the catalog crosses the WAN once or twice per site.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::peers::{Stage, backoff};
use super::{FetchError, FetchFrom, FetchId, NodeState, Output, Reason, ServeWhat};
use crate::catalog::NodeRole;
use crate::chunk::{self, ChunkList};
use crate::envelope::Kind;
use crate::ids::{DeviceId, DocHash, GroupId, PayloadId};
use crate::report::Trouble;
use crate::time::{Mono, Now};
use crate::trust::{Interest, Wanted};
use crate::wire::{BlockWhat, Message};

/// Document fetches under way at one time.
const MAX_FETCHES: usize = 8;
/// Roots that are kept to help members that slept: more changes of root than a deployment sees in years.
const MAX_ROOTS: usize = 32;
/// A neighbour that has not given a document by then is passed by.
const GIVEN_WITHIN: Duration = Duration::from_secs(6);
/// Neighbours that may keep silent about a catalog before it is fetched elsewhere: whoever claims to hold it and gives nothing must
/// not hold up a machine for long.
const MAX_SILENT: usize = 3;
/// Neighbours that are asked for one document. A neighbour of other groups lacks it, which costs one answer.
const MAX_ASKED: usize = 8;
/// A document that the WAN has not brought by then is asked of a neighbour that has come to hold it.
const WAN_PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Want {
    Root(u64),
    Index(DocHash),
    Page(DocHash),
    Document(DocHash, Kind),
    List(PayloadId, DocHash),
}

#[derive(Debug)]
struct Fetch {
    want: Want,
    peer: Option<DeviceId>,
    from_disk: bool,
    since: Mono,
}

/// Documents that are here and documents on their way.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// On disk.
    stored: BTreeSet<DocHash>,
    /// On their way to disk, or refused by it.
    fresh: BTreeMap<DocHash, Arc<Vec<u8>>>,
    roots: BTreeMap<u64, Arc<Vec<u8>>>,
    fetches: BTreeMap<FetchId, Fetch>,
    failures: BTreeMap<Want, (u32, Mono)>,
    /// Neighbours that say they have the catalog and did not give this part of it: others are asked before them.
    tried: BTreeSet<(Want, DeviceId)>,
    /// Neighbours that say they have the newest catalog and have not answered, at most [`MAX_SILENT`].
    silent: BTreeSet<DeviceId>,
    wan_from: Mono,
    announced: Option<DocHash>,
    /// [`crate::trust::Trust::edition`] of the catalog that the others were told of.
    edition: u64,
}

impl NodeState {
    pub(super) fn restore_documents(&mut self, documents: Vec<Vec<u8>>, now: Now) {
        let root = self.trust.root().version;
        self.documents.roots.insert(root, Arc::new(self.trust.root_bytes().to_vec()));
        let stored: BTreeMap<DocHash, Vec<u8>> =
            documents.into_iter().map(|bytes| (DocHash::of(&bytes), bytes)).collect();
        self.trust.set_interest(self.interest());
        self.trust.recall(|hash| stored.get(hash).cloned(), now.wall);
        // What else is on disk, chunk lists and the index, was verified by hash; what is not needed goes with the next catalog.
        self.documents.stored = stored.into_keys().collect();
    }

    /// The groups that this device is in.
    pub(super) fn my_groups(&self) -> &[GroupId] {
        self.assigned.groups()
    }

    /// What of the catalog this device follows.
    fn interest(&self) -> Interest {
        let groups = self.my_groups().iter().copied();
        Interest { everything: self.certificate.role == NodeRole::Cache, ..Interest::of(groups) }
    }

    /// There is a newer head: see to its documents.
    pub(super) fn documents_wanted(&mut self, now: Now) {
        self.documents.failures.clear();
        self.documents.tried.clear();
        self.documents.silent.clear();
        let patience = if self.is_uplink() { Duration::ZERO } else { Duration::from_secs(2) };
        let spread = if self.is_uplink() { Duration::ZERO } else { self.cx.rng.jitter(Duration::from_secs(3)) };
        self.documents.wan_from = now.mono + patience + spread;
        self.fetch_documents(now);
    }

    /// Asks for what is missing, as far as someone can be asked now.
    pub(super) fn fetch_documents(&mut self, now: Now) {
        self.notice_catalog(now);
        self.give_up_slow_documents(now);
        let mut wants: Vec<(Want, usize)> = match self.trust.wanted() {
            Wanted::Nothing => Vec::new(),
            Wanted::Root(version) => vec![(Want::Root(version), Kind::Root.cap())],
            Wanted::Index { hash, len } => vec![(Want::Index(hash), len as usize)],
            Wanted::Pages(pages) => pages.iter().map(|page| (Want::Page(page.hash), page.len as usize)).collect(),
            Wanted::Documents(entries) => {
                entries.iter().map(|e| (Want::Document(e.hash, e.kind), e.len as usize)).collect()
            }
        };
        wants.extend(self.trust.wanted_root().map(|version| (Want::Root(version), Kind::Root.cap())));
        wants.extend(self.trust.wanted_stops().map(|(hash, len)| (Want::Index(hash), len as usize)));
        wants.dedup();
        let lists = self.downloads.lists_wanted(now, self.peers.coordinator.is_some());
        wants.extend(lists.into_iter().map(|(payload, hash, len)| (Want::List(payload, hash), len as usize)));
        let under_way: BTreeSet<Want> = self.documents.fetches.values().map(|fetch| fetch.want).collect();
        let mut waiting = self.downloads.lacks_lists();
        let mut taken = false;
        for (want, limit) in wants {
            if self.documents.fetches.len() >= MAX_FETCHES {
                break;
            }
            let rests = self.documents.failures.get(&want).is_some_and(|(_, until)| *until > now.mono);
            if under_way.contains(&want) || rests {
                waiting = true;
                continue;
            }
            if let Some(bytes) = want.hash().and_then(|hash| self.documents.fresh.get(&hash)).cloned() {
                taken |= self.take_document(want, bytes.to_vec(), now).is_ok();
                continue;
            }
            match self.document_source(want, now) {
                Some((from, peer)) => {
                    let fetch = self.cx.fetch_id();
                    let look = if matches!(from, FetchFrom::Urls(_)) { WAN_PATIENCE } else { GIVEN_WITHIN };
                    self.timer(Reason::Documents, now.mono + look + Duration::from_millis(1));
                    let from_disk = from == FetchFrom::Disk;
                    self.documents.fetches.insert(fetch, Fetch { want, peer, from_disk, since: now.mono });
                    let limit = limit.min(chunk::MAX_LIST);
                    self.cx.out.push_back(Output::FetchDoc { fetch, from, what: want.what(), limit });
                }
                None => waiting = true,
            }
        }
        if taken {
            self.drain_trust_alarms();
            self.notice_catalog(now);
            self.timer(Reason::Documents, now.mono);
        } else if waiting {
            self.timer(Reason::Documents, now.mono + Duration::from_millis(500));
        }
    }

    /// Ends fetches for which there is a better way now: a neighbour that is silent, and a WAN that brings nothing while a
    /// neighbour holds what it should bring.
    fn give_up_slow_documents(&mut self, now: Now) {
        let coordinator = self.cx.config.coordinator;
        let slow = self.documents.fetches.iter().filter(|(_, fetch)| !fetch.from_disk).filter_map(|(id, fetch)| {
            let waited = now.mono.since(fetch.since);
            let neighbour = fetch.peer.filter(|peer| *peer != coordinator);
            let better = match neighbour {
                Some(_) => waited > GIVEN_WITHIN,
                None => waited > WAN_PATIENCE && self.has_document(fetch.want).next().is_some(),
            };
            better.then_some((*id, fetch.want, neighbour))
        });
        for (id, want, neighbour) in slow.collect::<Vec<_>>() {
            self.documents.fetches.remove(&id);
            if let Some(peer) = neighbour {
                self.documents.tried.insert((want, peer));
                if want.is_of_catalog() && self.documents.silent.len() < MAX_SILENT {
                    self.documents.silent.insert(peer);
                }
            }
            self.cx.out.push_back(Output::Cancel { fetch: id });
        }
    }

    /// Neighbours that say they have a document, and have not failed to give it.
    fn has_document(&self, want: Want) -> impl Iterator<Item = DeviceId> {
        let index = self.trust.head().map(|head| head.index_hash);
        let asked = self.documents.tried.range((want, DeviceId([0; 32]))..=(want, DeviceId([0xff; 32]))).count();
        let enough = asked >= MAX_ASKED || (want.is_of_catalog() && self.documents.silent.len() >= MAX_SILENT);
        self.peers.connected.iter().filter_map(move |(device, peer)| {
            let has = match (peer.stage, want) {
                (Stage::Member { .. }, Want::Root(version)) => peer.root_version >= version,
                (Stage::Member { .. }, Want::Index(_) | Want::Page(_) | Want::Document(..)) => {
                    let silent = self.documents.silent.contains(device);
                    !silent && peer.catalog.is_some() && peer.catalog == index
                }
                (Stage::Member { .. }, Want::List(payload, _)) => {
                    self.downloads.neighbour(device).is_some_and(|neighbour| neighbour.holds(&payload))
                }
                (Stage::Coordinator | Stage::Greeting, _) => false,
            };
            (!enough && has && !self.documents.tried.contains(&(want, *device))).then_some(*device)
        })
    }

    fn document_source(&mut self, want: Want, now: Now) -> Option<(FetchFrom, Option<DeviceId>)> {
        // Kept for another group, for the catalog before, or a chunk list whose payload is wanted again.
        if want.hash().is_some_and(|hash| self.documents.stored.contains(&hash)) {
            return Some((FetchFrom::Disk, None));
        }
        let holders: Vec<_> = self.has_document(want).collect();
        if !holders.is_empty() {
            let chosen = holders[self.cx.rng.below(holders.len())];
            return Some((FetchFrom::Peer(chosen), Some(chosen)));
        }
        let failures = self.documents.failures.get(&want).map_or(0, |(count, _)| *count);
        let allowed = match want {
            Want::List(payload, _) => self.downloads.list_wan_from(&payload),
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
                let path = want.path();
                let urls: Vec<_> =
                    self.origins().iter().map(|base| format!("{}/{path}", base.trim_end_matches('/'))).collect();
                if urls.is_empty() {
                    // Nobody else can be asked: whoever did not give it may have recovered.
                    self.documents.ask_all_again(want);
                    return None;
                }
                Some((FetchFrom::Urls(urls), None))
            }
        }
    }

    /// Base URLs of origins, best first.
    pub(super) fn origins(&self) -> Vec<String> {
        let named: Vec<String> = self.trust.catalog().origins().iter().map(|url| url.to_string()).collect();
        if named.is_empty() { self.cx.config.origins.clone() } else { named }
    }

    pub(super) fn document_fetched(&mut self, fetch: FetchId, result: Result<Vec<u8>, FetchError>, now: Now) {
        let Some(Fetch { want, peer, from_disk, .. }) = self.documents.fetches.remove(&fetch) else {
            return;
        };
        let outcome = result.map_err(|error| (false, format!("{error:?}"))).and_then(|bytes| {
            // A document of another hash is the source's fault; one that the coordinator pinned and nobody may believe is not.
            match want.hash() {
                Some(hash) if DocHash::of(&bytes) != hash => Err((true, "it has another hash".to_owned())),
                _ => self.take_document(want, bytes, now).map_err(|reason| (false, reason)),
            }
        });
        self.drain_trust_alarms();
        match outcome {
            Ok(()) => {
                self.documents.failures.remove(&want);
                self.documents.tried.retain(|(tried, _)| *tried != want);
            }
            Err((_, reason)) if from_disk => {
                // Damaged there, or no longer believed: it is fetched anew.
                if let Some(hash) = want.hash() {
                    self.documents.stored.remove(&hash);
                    self.cx.out.push_back(Output::DropDoc { hash });
                }
                self.alarm(Trouble::Document, format!("the document {} on disk cannot be used: {reason}", want.path()));
            }
            Err((tampered, reason)) => {
                match peer.filter(|peer| *peer != self.cx.config.coordinator) {
                    // The next one is asked at once: it may be of other groups, and a lack of theirs is no fault.
                    Some(peer) => drop(self.documents.tried.insert((want, peer))),
                    // When nobody else could give it either, the neighbours are asked again.
                    None => {
                        let failures = self.documents.failures.get(&want).map_or(0, |(count, _)| *count) + 1;
                        let until = now.mono + backoff(failures, Duration::from_secs(30)) / 2;
                        self.documents.failures.insert(want, (failures, until));
                        self.documents.ask_all_again(want);
                    }
                }
                if tampered {
                    let text = format!("it served a tampered document ({}): {reason}", want.path());
                    match peer {
                        Some(peer) => self.ban(peer, text, now),
                        None => self.alarm(Trouble::Origin, format!("the origin: {text}")),
                    }
                }
            }
        }
        self.fetch_documents(now);
    }

    fn take_document(&mut self, want: Want, bytes: Vec<u8>, now: Now) -> Result<(), String> {
        match want {
            Want::Root(version) => {
                self.trust.offer_root(&bytes, now.wall).map_err(|error| error.to_string())?;
                if self.documents.roots.len() >= MAX_ROOTS {
                    self.documents.roots.pop_first();
                }
                self.documents.roots.insert(version, Arc::new(bytes));
                self.persist_trust();
                self.ask_for_head();
                self.root_changed(now);
            }
            Want::Index(hash) => {
                self.trust.offer_index(bytes.clone()).map_err(|error| error.to_string())?;
                self.keep(hash, bytes);
                self.persist_trust();
                self.advance_all();
            }
            Want::Page(hash) | Want::Document(hash, _) => {
                self.trust.offer_document(bytes.clone(), now.wall).map_err(|error| error.to_string())?;
                self.keep(hash, bytes);
            }
            Want::List(payload, hash) => {
                self.list_here(payload, &bytes, hash);
                self.keep(hash, bytes);
            }
        }
        Ok(())
    }

    fn list_here(&mut self, payload: PayloadId, bytes: &[u8], hash: DocHash) {
        match ChunkList::parse(bytes, hash) {
            Ok(list) => self.list_arrived(payload, Arc::new(list)),
            Err(error) => self.list_unusable(payload, error.to_string()),
        }
    }

    fn keep(&mut self, hash: DocHash, bytes: Vec<u8>) {
        if self.documents.stored.contains(&hash) || self.documents.fresh.contains_key(&hash) {
            return;
        }
        let bytes = Arc::new(bytes);
        self.documents.fresh.insert(hash, bytes.clone());
        self.cx.out.push_back(Output::StoreDoc { hash, bytes });
    }

    /// The disk has answered. What it could not keep stays in memory for as long as it is needed.
    pub(super) fn document_stored(&mut self, hash: DocHash, kept: bool) {
        if kept && self.documents.fresh.remove(&hash).is_some() {
            self.documents.stored.insert(hash);
        }
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
        if self.documents.edition != self.trust.edition() {
            let before = self.documents.announced;
            self.catalog_changed(now);
            if let Some(index) = active.filter(|_| active != before) {
                self.tell_members(&Message::Catalog { index });
            }
        }
    }

    /// The index of which this node holds and serves every document of its groups.
    pub(super) fn announced_catalog(&self) -> Option<DocHash> {
        self.documents.announced
    }

    /// Another catalog is in force: forget what it does not name, and look at every deployment again.
    pub(super) fn catalog_changed(&mut self, now: Now) {
        self.assigned.count_again(&self.trust);
        if self.trust.set_interest(self.interest()) {
            self.persist_trust();
            self.timer(Reason::Documents, now.mono);
        }
        self.documents.announced = self.trust.catalog().index_hash();
        self.documents.edition = self.trust.edition();
        let mut needed = self.trust.document_hashes();
        needed.extend(self.trust.catalog().document_hashes());
        needed.extend(self.trust.head().map(|head| head.index_hash));
        needed.extend(self.trust.catalog().index_hash());
        let payloads = self.trust.catalog().releases().values().flat_map(|r| &r.release.payloads);
        needed.extend(payloads.map(|payload| payload.chunk_list));
        let held = self.documents.stored.iter().chain(self.documents.fresh.keys());
        let old: Vec<_> = held.filter(|hash| !needed.contains(hash)).copied().collect();
        for hash in old {
            self.documents.stored.remove(&hash);
            self.documents.fresh.remove(&hash);
            self.cx.out.push_back(Output::DropDoc { hash });
        }
        self.timer(Reason::Members, now.mono);
        self.deployments_changed(now);
        self.catalog_judged(now);
    }

    pub(super) fn drain_trust_alarms(&mut self) {
        for text in self.trust.take_alarms() {
            self.alarm(of_trust(&text), text);
        }
    }

    /// A document or root that a member of the site may have.
    pub(super) fn document_held(&self, what: &BlockWhat) -> Option<ServeWhat> {
        match what {
            BlockWhat::Doc(hash) if self.documents.stored.contains(hash) => Some(ServeWhat::Doc(*hash)),
            BlockWhat::Doc(hash) => self.documents.fresh.get(hash).cloned().map(ServeWhat::Bytes),
            BlockWhat::Root(version) => self.documents.roots.get(version).cloned().map(ServeWhat::Bytes),
            BlockWhat::Chunks { .. } => None,
        }
    }
}

impl Documents {
    fn ask_all_again(&mut self, want: Want) {
        self.tried.retain(|(tried, _)| *tried != want);
        if want.is_of_catalog() {
            self.silent.clear();
        }
    }
}

impl Want {
    /// Whether a neighbour's word that it holds the newest catalog is about this.
    fn is_of_catalog(self) -> bool {
        matches!(self, Want::Index(_) | Want::Page(_) | Want::Document(..))
    }

    fn what(self) -> BlockWhat {
        match self {
            Want::Root(version) => BlockWhat::Root(version),
            Want::Index(hash) | Want::Page(hash) | Want::Document(hash, _) | Want::List(_, hash) => {
                BlockWhat::Doc(hash)
            }
        }
    }

    fn hash(self) -> Option<DocHash> {
        match self {
            Want::Root(_) => None,
            Want::Index(hash) | Want::Page(hash) | Want::Document(hash, _) | Want::List(_, hash) => Some(hash),
        }
    }

    /// Its path below an origin's base URL.
    fn path(self) -> String {
        match self {
            Want::Root(version) => format!("root/{version}"),
            Want::Index(hash) | Want::Page(hash) | Want::Document(hash, _) | Want::List(_, hash) => {
                format!("doc/{hash}")
            }
        }
    }
}

/// What an alarm of the trust core is about. It tells of three things, and only in words.
fn of_trust(text: &str) -> Trouble {
    if text.starts_with("two different ") {
        Trouble::Fork
    } else if text.contains("ahead of this machine's clock") {
        Trouble::Clock
    } else {
        Trouble::Document
    }
}
