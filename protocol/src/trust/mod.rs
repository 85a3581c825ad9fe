//! What this machine believes: the verifier.
//!
//! The client workflow of the TUF specification (section 5), with Uptane's split: a release counts if its publisher signed
//! it, and may be installed if approvers signed an approval of it. Both are pinned by hash from the index, the index from the
//! head, and the keys of all of them from the root. Pure: time comes in, bytes come in, and the caller keeps the documents.
//!
//! Where this differs from TUF, on purpose:
//! * An expired document is *taken*, but nothing is installed while it is the newest ([`Trust::may_install`]). Versions only
//!   grow all the same, a stop inside it counts, and a machine with a wrong clock does not think ill of honest neighbours.
//! * The index names documents by a tree of pages, of which a machine takes what its groups need (TUF's delegations cut the same
//!   way; a page is named by its hash, so it needs no signature). Pages and documents are taken one by one and the catalog is
//!   swapped when all of them are there; one that does not verify is refused by itself, so that a single bad document cannot
//!   keep a fleet from all others.
//! * What the newest head has replaced counts for what is left of the life of the last head that named it, no longer
//!   ([`Trust::may_install`] and [`Trust::admit`] read the same rule): withholding an index, a page or a document gains no more.
//! * A head from further ahead than a day is set aside: its stops count, it moves neither versions nor time (`dates`).
//!
//! What only grows, as long as the online keys stay: (index version, issued) of the head, and the version of the approval of
//! each (group, release), even after an index has stopped naming it. A release's counter may go down from index to index,
//! because an admin may withdraw a release; the approval decides. When a new root takes an online key away, everything the
//! old keys said is forgotten (recovery from fast-forward, TUF 5.3.11), and nothing is installed until a new head and index
//! have come. Who was revoked stays so until the new keys' index says who is; approvers are others, so approval versions stay
//! too. When it takes an approver away, exactly the approval versions that nobody else vouches for are forgotten.
//!
//! The caller must persist [`Trust::snapshot`] before it acts on news.

mod assembly;
mod catalog;
mod dates;
mod evidence;
mod papers;
mod permit;
mod snapshot;
mod validate;
mod verify;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::catalog::{DocEntry, DocRef, Head, Index, Keys, Root};
use crate::codec::Text;
use crate::envelope::{Envelope, Kind, Role};
use crate::ids::DocHash;
use crate::time::Wall;

use self::assembly::{Assembly, Refused};
use self::catalog::{Believed, Floors, Label, Loaded};
use self::dates::{Aside, is_ahead, rank};
use self::verify::{open_head, open_index, open_own_root};

pub use self::assembly::{Interest, MAX_DOCUMENTS, MAX_GROUPS, MAX_PAGES};
pub use self::catalog::{Catalog, CatalogApproval, CatalogGroup, CatalogRelease};
pub use self::dates::CLOCK_TOLERANCE;
pub use self::evidence::{Evidence, MAX_EVIDENCE};
pub use self::permit::{Admitted, Blocked, MAX_PROOF, NotAdmitted};
pub use self::snapshot::MAX_SNAPSHOT;
pub use self::validate::{
    Invalid, MAX_TIMEOUT_S, validate_approval, validate_group, validate_release, validate_root, validate_rule,
};
pub use self::verify::{ByRule, TrustError, verify_approval, verify_group, verify_pair, verify_release, verify_rule};
pub(crate) use self::verify::{
    Opened, approval_is_vouched, group_is_vouched, open_approval, open_group, open_next_root, open_release,
    release_is_vouched,
};

/// The most documents that one [`Wanted::Documents`] names.
pub const MAX_WANTED: usize = 1024;
/// The most refusals that are remembered; the first ones stay.
pub const MAX_REFUSALS: usize = 256;
const MAX_ALARMS: usize = 16;
/// Bytes of a head's body: two versions, a hash, a length, two times.
const HEAD_BODY: usize = 68;

/// What a head meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNews {
    /// Well signed, and older than the one that is held.
    Older,
    /// The one that is held.
    Same,
    /// Newer: it is held now. [`Trust::wanted`] tells what follows.
    New,
    /// Well signed and newer, but dated too far ahead of this machine's clock: only what it stops counts. See
    /// [`Trust::wanted_stops`].
    Aside,
    /// It was signed under a root that this machine does not have. The next root is wanted first; the head is kept and
    /// offered again by itself when that root arrives. If the head cannot be checked with the keys of today, this is a
    /// hearsay: do not pass the head on.
    NeedsRoot {
        /// The root version that the head names.
        version: u64,
    },
}

/// What to fetch next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: the newest known catalog is active.
    Nothing,
    /// The root of this version.
    Root(u64),
    /// The index that the head names.
    Index {
        /// Hash of its envelope.
        hash: DocHash,
        /// Bytes of its envelope.
        len: u32,
    },
    /// Pages of the newest index, at most [`MAX_WANTED`] at a time: those that name revoked devices come before all others.
    Pages(Vec<DocRef>),
    /// Documents that its pages name, at most [`MAX_WANTED`] at a time.
    Documents(Vec<DocEntry>),
}

/// A document that an index names and that was not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Hash of its envelope.
    pub hash: DocHash,
    /// What it should have been.
    pub kind: Kind,
    /// Why, in at most 200 bytes.
    pub reason: String,
}

/// The pinned root and everything that is believed because of it.
#[derive(Debug, Clone)]
pub struct Trust {
    build_time: Wall,
    root: Root,
    root_bytes: Vec<u8>,
    /// The root before, whose keys tell a forged twin of today's root from noise.
    previous: Option<Vec<u8>>,
    head: Option<(Head, Vec<u8>)>,
    /// A head from too far ahead of this machine's clock.
    aside: Option<Aside>,
    /// A head that waits for a root, and whether today's online keys signed it.
    waiting: Option<Waiting>,
    /// What of the catalog this machine follows.
    interest: Interest,
    /// The newest index with its pages and documents.
    newest: Option<Assembly>,
    /// The index before, in use until pages and documents of the newest are there.
    older: Option<Assembly>,
    catalog: Catalog,
    generation: u64,
    edition: u64,
    floors: Floors,
    refusals: Vec<Refusal>,
    evidence: Vec<Evidence>,
    alarms: VecDeque<String>,
    clock_alarmed: bool,
}

#[derive(Debug, Clone)]
struct Waiting {
    signed: bool,
    bytes: Vec<u8>,
}

impl Trust {
    /// Enrolment: the first root is believed because the join token named the hash of its envelope. It must be signed by its
    /// own keys all the same. An expired one is taken and blocks installs. `build_time` is the least time it can be.
    pub fn pin(root: Vec<u8>, expected: DocHash, build_time: Wall) -> Result<Self, TrustError> {
        let found = DocHash::of(&root);
        if found != expected {
            return Err(TrustError::Hash {
                kind: Kind::Root,
                expected: format!("the root {expected} of the join token"),
                found,
                found_len: root.len(),
            });
        }
        Ok(Self::rooted(open_own_root(&root)?, root, build_time))
    }

    fn rooted(root: Root, root_bytes: Vec<u8>, build_time: Wall) -> Self {
        Self {
            build_time,
            root,
            root_bytes,
            previous: None,
            head: None,
            aside: None,
            waiting: None,
            interest: Interest::default(),
            newest: None,
            older: None,
            catalog: Catalog::default(),
            generation: 0,
            edition: 0,
            floors: Floors::default(),
            refusals: Vec::new(),
            evidence: Vec::new(),
            alarms: VecDeque::new(),
            clock_alarmed: false,
        }
    }

    /// The root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The root's envelope.
    pub fn root_bytes(&self) -> &[u8] {
        &self.root_bytes
    }

    /// Hash of the root's envelope.
    pub fn root_hash(&self) -> DocHash {
        DocHash::of(&self.root_bytes)
    }

    /// The newest head.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref().map(|(head, _)| head)
    }

    /// The newest head's envelope.
    pub fn head_bytes(&self) -> Option<&[u8]> {
        self.head.as_ref().map(|(_, bytes)| bytes.as_slice())
    }

    /// The newest index's envelope, whether or not its pages and documents are there.
    pub fn index_bytes(&self) -> Option<&[u8]> {
        self.newest.as_ref().map(|newest| newest.bytes.as_slice())
    }

    /// What to act on.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Grows whenever the catalog or its stops may have changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Grows whenever the releases and approvals of the catalog are swapped.
    pub fn edition(&self) -> u64 {
        self.edition
    }

    /// Whether the catalog is the one that the newest head names: nothing is left to fetch.
    pub fn is_current(&self) -> bool {
        let newest = self.newest.as_ref().filter(|newest| newest.is_complete());
        self.head().is_some_and(|head| newest.is_some_and(|newest| newest.label.hash == head.index_hash))
    }

    /// Pages and documents to keep on disk: those of the newest index and of the one in use, there or still to come.
    pub fn document_hashes(&self) -> BTreeSet<DocHash> {
        self.newest.iter().chain(&self.older).flat_map(Assembly::hashes).copied().collect()
    }

    /// What of the catalog this machine follows.
    pub fn interest(&self) -> &Interest {
        &self.interest
    }

    /// This machine's groups are others now, or it has become a branch cache. Pages that it lacks for that are wanted, and the
    /// catalog stays what it was until they and their documents are there. Returns whether that is a change.
    pub fn set_interest(&mut self, interest: Interest) -> bool {
        if self.interest == interest {
            return false;
        }
        self.interest = interest.clone();
        if let Some(before) = self.newest.take() {
            let named = (before.label, before.index.clone(), before.bytes.clone());
            let pool: Vec<_> = core::iter::once(&before).chain(&self.older).collect();
            let refused = before.refused_hashes.clone();
            let (set, problems) = Assembly::new(named, before.named_until, interest, refused, &pool);
            self.newest = Some(set);
            if before.is_complete() {
                self.older = Some(before);
            }
            self.note_left_out(problems);
        }
        self.activate();
        true
    }

    /// Documents that an index names and that were not believed, at most [`MAX_REFUSALS`].
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Contradicting documents, at most [`MAX_EVIDENCE`] pairs.
    pub fn evidence(&self) -> &[Evidence] {
        &self.evidence
    }

    /// Sentences that an admin should read, each given once.
    pub fn take_alarms(&mut self) -> Vec<String> {
        self.alarms.drain(..).collect()
    }

    /// The next root. Strictly one version on, signed by the keys of the old one and by its own (TUF 5.3).
    ///
    /// What the new keys do not vouch for leaves the catalog at once. A head that waited for this root is taken up by itself.
    pub fn offer_root(&mut self, bytes: &[u8], wall: Wall) -> Result<(), TrustError> {
        // 5.3.4: signed by the old keys and by the new.
        let root = match open_next_root(&self.root, bytes) {
            Ok(root) => root,
            Err(error) => {
                self.note_twin_root(bytes)?;
                return Err(error);
            }
        };
        // 5.3.5: exactly the next version.
        if root.version == self.root.version {
            self.note_twin_root(bytes)?;
        }
        let expected = self.root.version.saturating_add(1);
        if root.version != expected {
            return Err(TrustError::Version { kind: Kind::Root, expected, found: root.version });
        }
        // 5.3.6, 5.3.7: it is the trusted one now; the caller persists it.
        self.note_clock("root", root.issued, wall);
        let old = core::mem::replace(&mut self.root, root);
        self.previous = Some(core::mem::replace(&mut self.root_bytes, bytes.to_vec()));
        // 5.3.10: an expired root is kept and shown; `may_install` blocks on it.
        // 5.3.11: recovery from fast-forward.
        let gone = |old: &Keys, new: &Keys| old.public().any(|key| !new.contains(&key));
        self.floors.count_again(&old, &self.root);
        let stands = self.head_bytes().is_none_or(|head| open_head(&self.root, head).is_ok())
            && self.index_bytes().is_none_or(|index| open_index(&self.root, index).is_ok());
        if gone(&old.online, &self.root.online) || !stands {
            self.forget_online();
        }
        self.recount();
        let waiting = self.waiting.take();
        if let Some(waiting) = waiting {
            // It was good enough to wait for a root; whether it is good is told by the new keys.
            let _ = self.offer_head(&waiting.bytes, wall);
        }
        Ok(())
    }

    /// A head, from gossip or from a peer that was asked (TUF 5.4).
    pub fn offer_head(&mut self, bytes: &[u8], wall: Wall) -> Result<HeadNews, TrustError> {
        // 5.4.2: signed by the online keys.
        let head = match open_head(&self.root, bytes) {
            Ok(head) => head,
            Err(error) => return self.hearsay(bytes).or_else(|| self.former_head(bytes)).ok_or(error),
        };
        if head.root_version > self.root.version {
            let version = head.root_version;
            self.waiting = Some(Waiting { signed: true, bytes: bytes.to_vec() });
            return Ok(HeadNews::NeedsRoot { version });
        }
        // 5.4.3: no rollback.
        if let Some((held, held_bytes)) = &self.head {
            let same = head.index_version == held.index_version;
            if same && (head.index_hash, head.index_len) != (held.index_hash, held.index_len) {
                let first = held_bytes.clone();
                return Err(self.note_evidence(Kind::Head, head.index_version, &first, bytes));
            }
            match rank(&head).cmp(&rank(held)) {
                core::cmp::Ordering::Less => return Ok(HeadNews::Older),
                core::cmp::Ordering::Equal => return Ok(HeadNews::Same),
                core::cmp::Ordering::Greater => {}
            }
        }
        if is_ahead(head.issued, wall) {
            return Ok(self.set_aside(head, bytes, wall));
        }
        // 5.4.4: an expired head is taken, and blocks installs (see the top of this file).
        self.accepted(&head);
        if let Some(newest) = self.newest.as_mut().filter(|newest| newest.label.hash == head.index_hash) {
            newest.named_until = newest.named_until.max(head.expires);
        }
        self.head = Some((head, bytes.to_vec()));
        Ok(HeadNews::New)
    }

    /// What to fetch next: a root that a believed head names, then the index, its pages, its documents, then a root of which there
    /// is only a hearsay (see [`Trust::wanted_root`]).
    pub fn wanted(&self) -> Wanted {
        let next_root = Wanted::Root(self.root.version.saturating_add(1));
        if self.waiting.as_ref().is_some_and(|waiting| waiting.signed) {
            return next_root;
        }
        if let Some(head) = self.head()
            && self.newest.as_ref().is_none_or(|newest| newest.label.hash != head.index_hash)
        {
            return Wanted::Index { hash: head.index_hash, len: head.index_len };
        }
        match &self.newest {
            Some(newest) if !newest.has_pages() => Wanted::Pages(newest.wanted_pages(MAX_WANTED)),
            Some(newest) if !newest.is_complete() => {
                Wanted::Documents(newest.missing.values().take(MAX_WANTED).copied().collect())
            }
            _ if self.waiting.is_some() => next_root,
            _ => Wanted::Nothing,
        }
    }

    /// The root to ask for beside [`Trust::wanted`], when any head, even one that cannot be checked, speaks of a later one.
    /// After the online keys were replaced, this is the only sign of it. A liar can make it up: ask once per peer and backoff.
    pub fn wanted_root(&self) -> Option<u64> {
        self.waiting.as_ref().map(|_| self.root.version.saturating_add(1))
    }

    /// The index that the head names (TUF 5.5). Its holds, revocations and origins count at once; its releases and approvals
    /// when all of them that this machine follows are there.
    pub fn offer_index(&mut self, bytes: Vec<u8>) -> Result<(), TrustError> {
        let found = DocHash::of(&bytes);
        // Only for its stops.
        if self.wanted_stops() == Some((found, bytes.len() as u32)) {
            let index = open_index(&self.root, &bytes)?;
            self.take_aside(found, &index);
            return Ok(());
        }
        let head = self.head().copied().ok_or(TrustError::NoHead)?;
        if self.newest.as_ref().is_some_and(|newest| newest.label.hash == head.index_hash) {
            return Ok(());
        }
        // 5.5.2: exactly the bytes that the head names.
        if found != head.index_hash || bytes.len() != head.index_len as usize {
            return Err(TrustError::Hash {
                kind: Kind::Index,
                expected: format!("the index {} of {} bytes that the head names", head.index_hash, head.index_len),
                found,
                found_len: bytes.len(),
            });
        }
        // 5.5.3: signed by the online keys.
        let index = open_index(&self.root, &bytes)?;
        // 5.5.4: the version that the head names.
        if index.version != head.index_version {
            let (expected, found) = (head.index_version, index.version);
            return Err(TrustError::Version { kind: Kind::Index, expected, found });
        }
        // 5.5.5: rollback of what it names is judged when the documents are there. 5.5.6: expiry, as for the head.
        self.take_index(index, bytes, head.expires, BTreeSet::new());
        self.activate();
        Ok(())
    }

    /// What of the indexes in use lies on the caller's own disk: `read` is asked for each page and document that is missing, once.
    pub fn recall(&mut self, mut read: impl FnMut(&DocHash) -> Option<Vec<u8>>, wall: Wall) {
        let mut asked = BTreeSet::new();
        loop {
            let sets = self.newest.iter().chain(&self.older);
            let lacks: Vec<_> = sets.flat_map(Assembly::lacks).filter(|hash| !asked.contains(*hash)).copied().collect();
            if lacks.is_empty() {
                return;
            }
            for hash in lacks {
                asked.insert(hash);
                if let Some(bytes) = read(&hash) {
                    // One that is no longer believed is as good as one that is not there.
                    let _ = self.offer_document(bytes, wall);
                }
            }
        }
    }

    /// A page, a release or an approval that an index names (TUF 5.6). Returns its hash when it is believed; the caller keeps the
    /// bytes then. One that is named but does not verify is refused for as long as this index and this root count: it is not
    /// asked for again, and the rest of the catalog goes on without it.
    pub fn offer_document(&mut self, bytes: Vec<u8>, wall: Wall) -> Result<DocHash, TrustError> {
        // 5.6.2: exactly the bytes that an index names.
        let hash = DocHash::of(&bytes);
        let sets = || self.newest.iter().chain(&self.older);
        if sets().any(|set| set.lacks_page(&hash)) {
            return self.take_page(hash, &bytes);
        }
        if sets().any(|set| set.has_page(&hash)) {
            return Ok(hash);
        }
        if sets().any(|set| set.loaded.contains_key(&hash)) && !sets().any(|set| set.missing.contains_key(&hash)) {
            return Ok(hash);
        }
        let Some(entry) = sets().find_map(|set| set.missing.get(&hash)).copied() else {
            if sets().any(|set| set.refused_hashes.contains(&hash)) {
                return Err(TrustError::Refused { hash, reason: "refused before".into() });
            }
            return Err(TrustError::NotNamed(hash));
        };
        // 5.6.3: signed by its publisher or by enough approvers, and meant.
        let opened = if bytes.len() == entry.len as usize {
            Loaded::open(&self.root, &entry, &bytes)
        } else {
            Err(format!("it has {} bytes, the index says {}", bytes.len(), entry.len))
        };
        let result = match opened {
            Ok(loaded) => {
                let issued = match &loaded.document {
                    Believed::Release(known) => known.release.issued,
                    Believed::Approval(known) => {
                        self.floors.raise_approval(&known.approval, loaded.approvers(&self.root));
                        known.approval.issued
                    }
                    Believed::Group(known) => {
                        self.floors.raise_group(&known.document, loaded.approvers(&self.root));
                        known.document.issued
                    }
                };
                self.note_clock("document", issued, wall);
                self.newest.iter_mut().chain(&mut self.older).for_each(|set| set.load(&entry, &loaded));
                Ok(hash)
            }
            Err(reason) => {
                self.newest.iter_mut().chain(&mut self.older).for_each(|set| set.refuse(&entry));
                self.note_refusal(hash, entry.kind, reason.clone());
                Err(TrustError::Refused { hash, reason })
            }
        };
        self.activate();
        result
    }

    fn take_page(&mut self, hash: DocHash, bytes: &[u8]) -> Result<DocHash, TrustError> {
        let mut problems = Vec::new();
        if let Some(newest) = &mut self.newest {
            problems.extend(newest.take_page(hash, bytes, self.older.as_ref()));
        }
        if let Some(older) = &mut self.older {
            problems.extend(older.take_page(hash, bytes, self.newest.as_ref()));
        }
        let own = problems.iter().find(|(refused, ..)| *refused == hash).map(|(.., reason)| reason.clone());
        self.note_left_out(problems);
        if let Some(newest) = &self.newest
            && newest.give_revoked(&mut self.catalog)
        {
            self.generation += 1;
        }
        self.activate();
        match own {
            Some(reason) => Err(TrustError::Refused { hash, reason }),
            None => Ok(hash),
        }
    }

    fn take_index(&mut self, index: Index, bytes: Vec<u8>, named_until: Wall, refused: BTreeSet<DocHash>) {
        let label = Label { version: index.version, hash: DocHash::of(&bytes), expires: index.expires };
        let named = (label, Arc::new(index), Arc::new(bytes));
        let pool: Vec<_> = self.newest.iter().chain(&self.older).collect();
        let (set, problems) = Assembly::new(named, named_until, self.interest.clone(), refused, &pool);
        set.give_stops(&mut self.catalog);
        if let Some(before) = self.newest.replace(set) {
            // One whose documents are all there serves until those of the newest are. An installer keeps none and judges by pages.
            let served = self.older.as_ref().is_some_and(Assembly::is_complete);
            if before.is_complete() || !served {
                self.older = Some(before);
            }
        }
        self.refusals.clear();
        self.note_left_out(problems);
        self.generation += 1;
    }

    /// Swaps the catalog if the documents of the newest index are all there.
    fn activate(&mut self) {
        let left_out = if let Some(newest) = self.newest.as_mut().filter(|set| set.is_complete()) {
            if newest.filled {
                return;
            }
            // An installer, which follows nothing, goes on judging by the index before while it lacks pages of the newest.
            if self.interest != Interest::default() {
                self.older = None;
            }
            newest.fill(&mut self.catalog, Some(&self.floors))
        } else if let Some(older) = self.older.as_mut().filter(|set| set.is_complete() && !set.filled) {
            // It was in use before; `may_install` asks the newest index and the floors again about each document.
            older.fill(&mut self.catalog, None)
        } else {
            return;
        };
        self.generation += 1;
        self.edition += 1;
        self.note_left_out(left_out);
    }

    /// After a new root: counts the signatures of every document again, and rebuilds the catalog.
    fn recount(&mut self) {
        // What the old root refused may be good under the new one; the catalog goes on with what it has meanwhile.
        if let Some(newest) = &mut self.newest {
            if newest.is_complete() && !newest.refused.is_empty() {
                self.older = Some(newest.clone());
            }
            newest.ask_again();
        }
        self.refusals.clear();
        let sets = self.newest.iter_mut().chain(&mut self.older);
        let dropped: BTreeSet<_> = sets.flat_map(|set| set.count_again(&self.root)).collect();
        self.note_left_out(dropped.into_iter().collect());
        self.catalog.releases.clear();
        self.catalog.approvals.clear();
        self.catalog.groups.clear();
        self.catalog.index = None;
        self.generation += 1;
        self.edition += 1;
        self.activate();
    }

    /// Forgets what the old online keys said. The documents of the last catalog stay, so that payloads are not thrown away,
    /// but nothing is installed before a new head and index have come.
    fn forget_online(&mut self) {
        self.head = None;
        self.aside = None;
        if let Some(before) = self.newest.take().filter(Assembly::is_complete) {
            self.older = Some(before);
        }
        if let Some(older) = &mut self.older {
            // No head of the new keys has named it.
            older.named_until = Wall(0);
        }
        self.catalog.holds.clear();
        self.count_stops();
    }

    /// The version of a later root that a head speaks of which today's online keys have not signed. A single number is read
    /// from unchecked bytes by hand; it only makes this machine ask for the next root, which must prove itself.
    fn hearsay(&mut self, bytes: &[u8]) -> Option<HeadNews> {
        let body = Envelope::parse(bytes, Kind::Head, Role::Online).ok()?.unverified_body();
        let version = u64::from_le_bytes(*body.first_chunk()?);
        if body.len() != HEAD_BODY || version <= self.root.version {
            return None;
        }
        if self.waiting.as_ref().is_none_or(|waiting| !waiting.signed) {
            self.waiting = Some(Waiting { signed: false, bytes: bytes.to_vec() });
        }
        Some(HeadNews::NeedsRoot { version })
    }

    /// A head by the online keys of the root before: no fault of a neighbour that has not got today's yet.
    fn former_head(&self, bytes: &[u8]) -> Option<HeadNews> {
        let before = self.previous.as_deref().and_then(|before| open_own_root(before).ok())?;
        open_head(&before, bytes).ok().map(|_| HeadNews::Older)
    }

    fn note_left_out(&mut self, left_out: Vec<Refused>) {
        for (hash, kind, reason) in left_out {
            self.note_refusal(hash, kind, reason);
        }
    }

    fn note_refusal(&mut self, hash: DocHash, kind: Kind, reason: String) {
        if self.refusals.len() < MAX_REFUSALS {
            self.alarm(format!("the {kind:?} {} that the index names was refused: {reason}", hash.short()));
            let reason = Text::<200>::lossy(&reason).to_string();
            self.refusals.push(Refusal { hash, kind, reason });
        }
    }

    fn alarm(&mut self, text: String) {
        if self.alarms.len() < MAX_ALARMS {
            self.alarms.push_back(text);
        }
    }
}
