//! Getting payloads: from neighbours first, over the WAN only what this node has the lease for.
//!
//! It owns what is known of every payload that is wanted or served, and the fetches under way. It never decides which
//! payloads are wanted, nor what becomes of one that is here.

mod explain;
mod flow;

mod leases;
mod losses;
mod neighbours;
mod news;
#[cfg(test)]
mod tests;
mod transfers;
mod wanted;

use core::ops::Range;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::conditions::Standing;
use super::cx::{Cx, backoff};
use super::{FetchError, FetchFrom, FetchId, Output, Reason, ServeWhat, StoreError, Verdict};
use crate::catalog;
use crate::chunk::{Bitmap, ChunkList};
use crate::codec::{Bounded, Text};
use crate::envelope::{self, Kind, Role};
use crate::ids::{DeviceId, DocHash, PayloadId, PayloadKey};
use crate::lease::{self, LEASE_EVERY, Leases};
use crate::membership::Membership;
use crate::report::{BytesBySource, Trouble};
use crate::rng::Rng;
use crate::swarm::{Swarm, mixed};
use crate::time::{Mono, Now};
use crate::wire::{BlockStatus, BlockWhat, Lease, MAX_BLOCK, Message, Topic};
use flow::Flow;
use leases::Wan;
use neighbours::{Neighbour, Neighbours};
use news::News;

/// Blocks asked of one neighbour at a time: the next is under way while one is answered.
const PER_PEER: usize = 3;
/// Blocks asked of all neighbours at a time; each may take [`MAX_BLOCK`] bytes of memory.
const MAX_LAN: usize = 8;
/// How long a block should take.
const BLOCK_TAKES: Duration = Duration::from_millis(100);
/// A block that has not come by then is asked of someone else.
const BLOCK_WITHIN: Duration = Duration::from_secs(6);
/// In the endgame a block that has not moved for this long is asked of someone else too.
const LATE: Duration = Duration::from_millis(400);
/// One neighbour gets this many upload slots at most.
const SLOTS_PER_PEER: usize = 4;
/// A node gives the others this long to say that they want the payload too; every word of theirs prolongs it
/// ([`crate::lease::QUIET`]).
const SETTLE: Duration = Duration::from_millis(250);
/// Nor does its first WAN byte come sooner than this after its start: it gets to know its site meanwhile.
const SETTLE_AFTER_START: Duration = Duration::from_millis(500);
/// One that has met nobody yet may have others around it all the same, and is more patient.
const LONELY_AFTER_START: Duration = Duration::from_millis(1500);
/// One whose neighbours have some of it comes when others are at work: it hears of every lease first.
const JOINING_AFTER_START: Duration = Duration::from_millis(1500);
/// The first of a site to come fetches alone for this long after its start at most, while the others get to know each other.
const OPENING_AFTER_START: Duration = Duration::from_millis(3000);
/// One that starts with a part of a payload tells of it within this time.
const TELL_HELD_WITHIN: Duration = Duration::from_millis(200);
/// A member that says it holds a payload is believed for this long without a byte of progress.
pub(super) const BELIEVE_HOLDER: Duration = Duration::from_secs(4);
/// A neighbour that is asked again and again and gives nothing for this long is not believed to hold what it says.
const GIVES_WITHIN: Duration = Duration::from_secs(3);
/// One that gives a block within this time is believed again.
const GIVES_IN_TIME: Duration = Duration::from_secs(1);
/// Payloads that the store readies at a time: each takes room on the disk and waits for it.
const MAX_OPENING: usize = 4;
/// Payloads whose holders are sought at a time.
const MAX_SOUGHT: usize = 64;
/// Chunk lists that are considered at a time.
const MAX_LISTS: usize = 64;
/// A payload on which nothing has come for this long is news when something comes.
const STILL: Duration = Duration::from_secs(5);
/// While chunk lists keep coming, those that are missing are not yet asked for over the WAN as well.
const LISTS_COME: Duration = Duration::from_millis(1500);

#[derive(Debug)]
enum Phase {
    /// Its chunk list is not here.
    List,
    /// The store is looking what of it is on disk.
    Opening(Arc<ChunkList>),
    /// Chunks come and go.
    Open(Box<Swarm>),
    /// The store or the list failed; tried again at this time.
    Failed { reason: StoreError, retry: Mono },
}

#[derive(Debug)]
struct Download {
    payload: catalog::Payload,
    wanted: bool,
    /// Wanted, and not to be fetched for now.
    paused: bool,
    /// Was whole and has lost something since, which neighbours may bring even if nothing here needs it.
    heals: bool,
    phase: Phase,
    leases: Leases,
    since: Mono,
    /// When the last chunk arrived.
    moved: Mono,
    list_from: Mono,
    /// Extents this node fetches over the WAN, by fetch.
    own: BTreeMap<FetchId, u32>,
    /// Those and the ones it fetches next: what it says to the site.
    claims: BTreeSet<u32>,
    /// Whether it has told the site of this payload in this run.
    spoken_for: bool,
    /// It came with a part of it from an earlier run: when it tells of that, unless others tell of the same before.
    tells_held: Option<Mono>,
    origin_failures: u32,
    origin_next: Mono,
    origin_trouble: Option<String>,
}

impl Download {
    fn swarm(&self) -> Option<&Swarm> {
        if let Phase::Open(swarm) = &self.phase { Some(swarm) } else { None }
    }

    fn swarm_mut(&mut self) -> Option<&mut Swarm> {
        if let Phase::Open(swarm) = &mut self.phase { Some(swarm) } else { None }
    }

    /// For how long nothing of it has arrived.
    fn still(&self, now: Now) -> Duration {
        now.mono.since(self.moved.max(self.since))
    }

    /// For how long it is wanted and nothing has arrived of anything: what waits for its turn behind others is not stuck.
    fn stuck(&self, flow: &Flow, now: Now) -> Duration {
        now.mono.since(flow.moved().max(self.since))
    }

    /// Whether this node holds an extent of which nobody else has said so.
    fn holds_untold(&self) -> bool {
        self.swarm().is_some_and(|swarm| {
            let mut extents = (0u32..).zip(swarm.extents());
            extents.any(|(at, run)| run.clone().all(|chunk| swarm.have().get(chunk)) && !self.leases.held(at))
        })
    }

    fn is_complete(&self) -> bool {
        self.swarm().is_some_and(|swarm| swarm.have().is_full())
    }

    fn is_fetching(&self) -> bool {
        self.wanted && !self.paused && self.lacks_something()
    }

    /// Whether chunks may come from neighbours.
    fn is_fetching_on_the_lan(&self) -> bool {
        (self.wanted || self.heals) && !self.paused && self.lacks_something()
    }

    /// Whether it is fetched and no neighbour has all of it.
    fn is_sourceless(&self) -> bool {
        self.is_fetching() && self.swarm().is_some_and(|swarm| !swarm.is_whole_somewhere())
    }

    fn lacks_something(&self) -> bool {
        self.swarm().is_some_and(|swarm| !swarm.have().is_full())
    }
}

#[derive(Debug)]
struct Fetch {
    payload: PayloadId,
    run: Range<u32>,
    peer: Option<DeviceId>,
    began: Mono,
    moved: Mono,
}

/// How far a payload is, for deployments and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PayloadProgress {
    /// Not asked for.
    Absent,
    /// Its chunk list is on its way.
    List,
    /// Bytes are on their way; with what is wrong with the origin, if something is.
    Partial { done: u64, trouble: Option<String>, moved: Mono },
    /// Every byte is verified and on disk.
    Complete,
    /// The store failed.
    Failed(StoreError),
}

/// What downloads need to know of others.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// Base URLs of origins, as the index names them.
    pub(super) origins: &'a [Text<512>],
    pub(super) membership: &'a Membership,
    pub(super) standing: &'a Standing,
    /// Members that are not talked to, and until when.
    pub(super) banned: &'a BTreeMap<DeviceId, Mono>,
    /// Payloads that this node has told the site it is ready to fetch.
    pub(super) claimed: &'a BTreeSet<PayloadKey>,
    /// Whether the site knows this node by its record.
    pub(super) is_known: bool,
    /// The coordinator has said that this is the first machine of its site to come.
    pub(super) first_of_site: bool,
}

impl View<'_> {
    /// Where payloads without an address of their own are.
    fn origins(&self, cx: &Cx) -> Vec<String> {
        let named: Vec<String> = self.origins.iter().map(|url| url.to_string()).collect();
        if named.is_empty() { cx.config.origins.clone() } else { named }
    }

    fn is_banned(&self, device: &DeviceId, now: Mono) -> bool {
        self.banned.get(device).is_some_and(|until| *until > now)
    }
}

/// What downloads want of others.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// What this node has to do with a payload may be something else now: [`Downloads::stake`].
    Stake(PayloadId),
    /// Members that should fetch a payload do not: those that stayed silent may have to speak.
    PassedOver(PayloadId),
    /// This node has begun to fetch a payload over the WAN.
    AtWork(PayloadId),
    /// This node has something to tell of extents, and must be known by its record for that.
    Shares,
    /// The store or the network has news about a payload.
    Moved(PayloadId),
    /// Something is gone from the store.
    Evicted,
    /// Every payload that is wanted is here: the counters of bytes are worth a record.
    AllHere,
    /// There is something to report.
    Report,
    /// A neighbour may have a chunk list that is looked for.
    Documents,
    /// A neighbour broke the protocol or served bad bytes.
    Ban { peer: DeviceId, reason: String },
}

/// What this node has to do with a payload, for the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Stake {
    /// It lacks something of it, and may fetch it over the WAN.
    Fetches,
    /// It holds all of it, and gives it.
    Holds,
}

/// How fast blocks come from neighbours, smoothed over some.
#[derive(Debug, Default)]
struct Pace {
    /// How long one takes.
    takes: Duration,
    /// Bytes per second of one; 0 before the first.
    rate: u64,
}

impl Pace {
    fn block_came(&mut self, bytes: u64, took: Duration) {
        let rate = bytes * 1_000_000 / (took.as_micros() as u64).max(1);
        let first = self.rate == 0;
        self.takes = if first { took } else { (self.takes * 7 + took) / 8 };
        self.rate = if first { rate } else { (self.rate * 7 + rate) / 8 };
    }

    /// Bytes to ask for in one block: on a slow line, what comes within [`BLOCK_TAKES`], for a chunk can go on to others only
    /// when it is whole, and many large blocks side by side are all whole late.
    fn block(&self) -> u64 {
        if self.rate == 0 { MAX_BLOCK } else { (self.rate * BLOCK_TAKES.as_millis() as u64 / 1000).min(MAX_BLOCK) }
    }

    fn per_peer(&self) -> usize {
        if self.block() < MAX_BLOCK / 2 { PER_PEER - 1 } else { PER_PEER }
    }
}

/// Every payload this node wants or serves.
///
/// The sets beside `map` follow from it: [`Downloads::refile`] after each change of a payload keeps them so, and nothing
/// walks all payloads when something happens to one.
#[derive(Debug)]
pub(super) struct Downloads {
    me: DeviceId,
    map: BTreeMap<PayloadId, Download>,
    stored: BTreeSet<PayloadId>,
    /// Payloads whose chunk list is looked for.
    listless: BTreeSet<PayloadId>,
    /// When a chunk list last came.
    listed: Mono,
    /// Payloads that the store is to ready, in turn, and how many it is readying.
    to_open: BTreeSet<PayloadId>,
    opening: usize,
    /// Payloads that are wanted and of which chunks are to come.
    fetching: BTreeSet<PayloadId>,
    /// Those and the ones of which neighbours may bring what was lost.
    coming: BTreeSet<PayloadId>,
    /// Those that are fetched and of which no neighbour has all.
    sourceless: BTreeSet<PayloadId>,
    /// Payloads whose leases may know a member: what concerns one that goes.
    concerned: BTreeMap<DeviceId, BTreeSet<PayloadId>>,
    neighbours: Neighbours,
    /// A few from neighbours and a few over the WAN: bounded by [`MAX_LAN`] and [`leases::MAX_WAN`].
    fetches: BTreeMap<FetchId, Fetch>,
    serving: BTreeMap<u64, DeviceId>,
    news: News,
    wan: Wan,
    pace: Pace,
    flow: Flow,
    /// Taken by the router after each event.
    effects: VecDeque<Effect>,
    pub(super) bytes: BytesBySource,
    /// Payload bytes that arrived twice or were bad, by WAN and LAN alike.
    pub(super) wasted: u64,
}

impl Downloads {
    pub(super) fn new(me: DeviceId, stored: Vec<PayloadId>) -> Self {
        Self {
            me,
            map: BTreeMap::new(),
            stored: stored.into_iter().collect(),
            listless: BTreeSet::new(),
            listed: Mono(0),
            to_open: BTreeSet::new(),
            opening: 0,
            fetching: BTreeSet::new(),
            coming: BTreeSet::new(),
            sourceless: BTreeSet::new(),
            concerned: BTreeMap::new(),
            neighbours: Neighbours::default(),
            fetches: BTreeMap::new(),
            serving: BTreeMap::new(),
            news: News::default(),
            wan: Wan::default(),
            pace: Pace::default(),
            flow: Flow::default(),
            effects: VecDeque::new(),
            bytes: BytesBySource::default(),
            wasted: 0,
        }
    }

    /// What is wanted of others next.
    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(super) fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// What has become due.
    pub(super) fn timeout(&mut self, reason: Reason, cx: &mut Cx, view: View<'_>) {
        match reason {
            Reason::Lease(payload) => self.look_after_lease(payload, cx, view),
            Reason::Wan => self.look_after_wan(cx, view),
            Reason::Pump => self.ask_neighbours(cx, view),
            Reason::Announce => self.announce_chunks(cx, view),
            Reason::Stalls => self.give_up_stalled(cx, view),
            _ => {}
        }
    }

    fn ban(&mut self, peer: DeviceId, reason: String) {
        self.effects.push_back(Effect::Ban { peer, reason });
    }

    /// A payload has changed: the sets follow.
    fn refile(&mut self, payload: &PayloadId, rng: &mut Rng) {
        let download = self.map.get(payload);
        let put = |set: &mut BTreeSet<PayloadId>, is: bool| if is { set.insert(*payload) } else { set.remove(payload) };
        put(&mut self.listless, download.is_some_and(|d| matches!(d.phase, Phase::List)));
        put(&mut self.fetching, download.is_some_and(Download::is_fetching));
        put(&mut self.sourceless, download.is_some_and(Download::is_sourceless));
        let coming = download.is_some_and(Download::is_fetching_on_the_lan);
        if put(&mut self.coming, coming) && coming {
            self.offered_by_all(payload, rng);
        }
    }

    /// A payload is forgotten.
    fn remove(&mut self, payload: &PayloadId, rng: &mut Rng) -> Option<Download> {
        let download = self.map.remove(payload)?;
        for device in download.leases.known() {
            if let Some(payloads) = self.concerned.get_mut(device) {
                payloads.remove(payload);
                if payloads.is_empty() {
                    self.concerned.remove(device);
                }
            }
        }
        self.refile(payload, rng);
        Some(download)
    }

    /// A neighbour may have something of a payload that is missing here.
    fn offered(&mut self, peer: &DeviceId, payload: &PayloadId, rng: &mut Rng) {
        if !self.coming.contains(payload) {
            return;
        }
        let Some(download) = self.map.get(payload) else { return };
        let has_some = download.swarm().and_then(|swarm| swarm.map_of(peer)).is_some_and(|map| map.count() > 0);
        if has_some {
            let order = self.order(payload);
            self.neighbours.offers(peer, order, rng);
        }
        if download.is_sourceless() {
            self.sourceless.insert(*payload)
        } else {
            self.sourceless.remove(payload)
        };
    }

    /// The same of every neighbour that has some of it.
    fn offered_by_all(&mut self, payload: &PayloadId, rng: &mut Rng) {
        let order = self.order(payload);
        let Some(swarm) = self.map.get(payload).and_then(Download::swarm) else { return };
        for (peer, map) in swarm.peers() {
            if map.count() > 0 {
                self.neighbours.offers(peer, order, rng);
            }
        }
    }

    /// This node's own order of payloads: nodes that lack the same ones begin with different ones.
    fn order(&self, payload: &PayloadId) -> (u64, PayloadId) {
        let mut word = [0; 8];
        word.copy_from_slice(&payload.0[..8]);
        (mixed(&self.me, u64::from_le_bytes(word)), *payload)
    }

    fn fetches_of(&self, payload: &PayloadId) -> Vec<FetchId> {
        self.fetches.iter().filter(|(_, fetch)| fetch.payload == *payload).map(|(id, _)| *id).collect()
    }

    /// Whether an earlier run left something of a payload in the store.
    pub(super) fn is_stored(&self, payload: &PayloadId) -> bool {
        self.stored.contains(payload)
    }

    /// Whether chunk lists are looked for.
    pub(super) fn lacks_lists(&self) -> bool {
        !self.listless.is_empty()
    }

    /// The first chunk lists that can be asked for, of a neighbour, the coordinator or an origin: (payload, hash, bytes).
    pub(super) fn lists_wanted(&self, now: Now, coordinator: bool) -> Vec<(PayloadId, DocHash, u32)> {
        let to_be_had = |id: &&PayloadId| coordinator || self.news.is_held(id) || self.list_wan_from(id) <= now.mono;
        let waiting = self.listless.iter().filter(to_be_had).take(MAX_LISTS).filter_map(|id| self.map.get(id));
        waiting.map(|d| (d.payload.id, d.payload.chunk_list, d.payload.chunk_list_len)).collect()
    }

    /// From when this node may ask for a chunk list over the WAN.
    pub(super) fn list_wan_from(&self, payload: &PayloadId) -> Mono {
        self.map.get(payload).map_or(Mono(u64::MAX), |d| match d.list_from {
            from if from <= d.since => from,
            from => from.max(self.listed + LISTS_COME),
        })
    }

    /// A connected member of the site.
    pub(super) fn neighbour(&self, device: &DeviceId) -> Option<&Neighbour> {
        self.neighbours.get(device)
    }

    /// All of them.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = (&DeviceId, &Neighbour)> {
        self.neighbours.iter()
    }

    /// Whether bytes of some payload are still to come.
    pub(super) fn is_fetching(&self) -> bool {
        !self.fetching.is_empty()
    }

    pub(super) fn progress(&self, payload: &PayloadId) -> PayloadProgress {
        match self.map.get(payload) {
            None => PayloadProgress::Absent,
            Some(download) => match &download.phase {
                Phase::List | Phase::Opening(_) => PayloadProgress::List,
                Phase::Open(swarm) if swarm.have().is_full() => PayloadProgress::Complete,
                Phase::Open(swarm) => PayloadProgress::Partial {
                    done: swarm.have_bytes(),
                    trouble: download.origin_trouble.clone(),
                    moved: download.moved.max(download.since),
                },
                Phase::Failed { reason, .. } => PayloadProgress::Failed(reason.clone()),
            },
        }
    }

    /// Payloads with what is here of each: (payload, bytes here, neighbours that have some, extents leased here, by others).
    pub(super) fn overview(&self, now: Mono) -> impl Iterator<Item = (PayloadId, bool, u64, u64, usize, usize, usize)> {
        self.map.iter().map(move |(id, d)| {
            let done = d.swarm().map_or(0, Swarm::have_bytes);
            let peers = d.swarm().map_or(0, |swarm| swarm.peers().filter(|(_, map)| map.count() > 0).count());
            let others = d.leases.at_work(now).map(|(_, extents)| extents.len()).sum();
            (*id, d.wanted && !d.paused, done, d.payload.len, peers, d.claims.len(), others)
        })
    }
}
