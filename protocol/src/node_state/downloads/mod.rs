//! Getting payloads: from neighbours first, over the WAN only what this node has the lease for.

mod explain;

mod leases;
mod transfers;

use core::ops::Range;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::peers::{Peer, Stage, backoff};
use super::{FetchError, FetchFrom, FetchId, NodeState, Output, Reason, ServeWhat, StoreError, Verdict};
use crate::catalog;
use crate::chunk::{Bitmap, ChunkList};
use crate::codec::Bounded;
use crate::envelope::{self, Kind, Role};
use crate::ids::{DeviceId, DocHash, PayloadId};
use crate::lease::{LEASE_EVERY, Leases};
use crate::report::BytesBySource;
use crate::swarm::Swarm;
use crate::time::{Mono, Now};
use crate::wire::{BlockStatus, BlockWhat, Lease, MAX_BLOCK, Message, Topic};

/// Blocks asked of one neighbour at a time: the next is under way while one is answered.
const PER_PEER: usize = 3;
/// Blocks asked of all neighbours at a time; each may take [`MAX_BLOCK`] bytes of memory.
const MAX_LAN: usize = 8;
/// Extents fetched over the WAN at a time: the second, which hides the pause between one answer and the next request, begins
/// when the first has no more than [`ENDING`] chunks to come.
const MAX_WAN: usize = 2;
const ENDING: usize = 1;
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
/// For this long after its first WAN byte a holder repeats its lease often, for those who start at about the same time.
const EARLY: Duration = Duration::from_millis(1500);
const EARLY_EVERY: Duration = Duration::from_millis(250);
/// New chunks are announced together, this long after the first of them: every announcement goes to every neighbour.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(150);
/// Chunks that nobody in the site may have yet are announced sooner, and so are this many last ones, which others lack too.
const ANNOUNCE_FIRST: Duration = Duration::from_millis(10);
const LAST_CHUNKS: u32 = 16;
/// A member that says it holds a payload is believed for this long without a byte of progress.
const BELIEVE_HOLDER: Duration = Duration::from_secs(10);

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
    phase: Phase,
    leases: Leases,
    since: Mono,
    /// When the last chunk arrived.
    moved: Mono,
    list_from: Mono,
    /// Extents this node fetches over the WAN, by fetch.
    own: BTreeMap<FetchId, u32>,
    own_bytes: u64,
    lease_sent: Option<(Mono, Vec<u32>)>,
    /// When it first fetched something of it over the WAN in this run.
    began: Option<Mono>,
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

    /// How often this node repeats its lease.
    fn lease_every(&self, now: Mono) -> Duration {
        let early = self.began.is_some_and(|began| now.since(began) < EARLY);
        if early { EARLY_EVERY } else { LEASE_EVERY }
    }

    /// For how long nothing has arrived.
    fn still(&self, now: Now) -> Duration {
        now.mono.since(self.moved.max(self.since))
    }

    fn is_complete(&self) -> bool {
        self.swarm().is_some_and(|swarm| swarm.have().is_full())
    }

    fn is_fetching(&self) -> bool {
        self.wanted && !self.paused && self.swarm().is_some_and(|swarm| !swarm.have().is_full())
    }
}

#[derive(Debug)]
struct Fetch {
    payload: PayloadId,
    run: Range<u32>,
    peer: Option<DeviceId>,
    moved: Mono,
}

/// How far a payload is, for deployments and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
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

/// Every payload this node wants or serves.
#[derive(Debug)]
pub(super) struct Downloads {
    map: BTreeMap<PayloadId, Download>,
    stored: BTreeSet<PayloadId>,
    fetches: BTreeMap<FetchId, Fetch>,
    serving: BTreeMap<u64, DeviceId>,
    news: BTreeMap<PayloadId, Vec<u32>>,
    lease_seq: u64,
    pub(super) bytes: BytesBySource,
    /// Payload bytes that arrived twice or were bad, by WAN and LAN alike.
    pub(super) wasted: u64,
}

impl Downloads {
    pub(super) fn new(stored: Vec<PayloadId>) -> Self {
        Self {
            map: BTreeMap::new(),
            stored: stored.into_iter().collect(),
            fetches: BTreeMap::new(),
            serving: BTreeMap::new(),
            news: BTreeMap::new(),
            lease_seq: 0,
            bytes: BytesBySource::default(),
            wasted: 0,
        }
    }

    /// Whether an earlier run left something of a payload in the store.
    pub(super) fn is_stored(&self, payload: &PayloadId) -> bool {
        self.stored.contains(payload)
    }

    /// Chunk lists to ask for: (payload, hash, bytes).
    pub(super) fn lists_wanted(&self) -> Vec<(PayloadId, DocHash, u32)> {
        let waiting = self.map.values().filter(|d| matches!(d.phase, Phase::List));
        waiting.map(|d| (d.payload.id, d.payload.chunk_list, d.payload.chunk_list_len)).collect()
    }

    /// From when this node may ask for a chunk list over the WAN.
    pub(super) fn list_wan_from(&self, payload: &PayloadId) -> Mono {
        self.map.get(payload).map_or(Mono(u64::MAX), |d| d.list_from)
    }

    /// Whether bytes of some payload are still to come.
    pub(super) fn is_fetching(&self) -> bool {
        self.map.values().any(Download::is_fetching)
    }

    pub(super) fn progress(&self, payload: &PayloadId) -> Progress {
        match self.map.get(payload) {
            None => Progress::Absent,
            Some(download) => match &download.phase {
                Phase::List | Phase::Opening(_) => Progress::List,
                Phase::Open(swarm) if swarm.have().is_full() => Progress::Complete,
                Phase::Open(swarm) => Progress::Partial {
                    done: swarm.have_bytes(),
                    trouble: download.origin_trouble.clone(),
                    moved: download.moved.max(download.since),
                },
                Phase::Failed { reason, .. } => Progress::Failed(reason.clone()),
            },
        }
    }

    /// Payloads with what is here of each: (payload, bytes here, neighbours that have some, extents leased here, by others).
    pub(super) fn overview(&self, now: Mono) -> impl Iterator<Item = (PayloadId, bool, u64, u64, usize, usize, usize)> {
        self.map.iter().map(move |(id, d)| {
            let done = d.swarm().map_or(0, Swarm::have_bytes);
            let peers = d.swarm().map_or(0, |swarm| swarm.peers().filter(|(_, map)| map.count() > 0).count());
            let others = d.leases.at_work(now).map(|(_, extents)| extents.len()).sum();
            (*id, d.wanted && !d.paused, done, d.payload.len, peers, d.own.len(), others)
        })
    }
}

impl NodeState {
    /// This node needs a payload, or (`wanted` false) serves what it has of it.
    pub(super) fn want_payload(&mut self, payload: &catalog::Payload, wanted: bool, now: Now) {
        if self.downloads.map.get(&payload.id).is_some_and(|download| (download.wanted && !download.paused) || !wanted)
        {
            return;
        }
        let mut news = false;
        let me = self.me;
        let settled = (now.mono + SETTLE).max(self.started + SETTLE_AFTER_START);
        let settled = settled + self.rng.jitter(Duration::from_millis(50));
        let patience = Duration::from_millis(2500) + self.rng.jitter(Duration::from_secs(2));
        let uplink = self.is_uplink();
        let download = self.downloads.map.entry(payload.id).or_insert_with(|| {
            news = true;
            Download {
                payload: payload.clone(),
                wanted,
                paused: false,
                phase: Phase::List,
                leases: Leases::new(payload.id, me, settled),
                since: now.mono,
                moved: Mono(0),
                list_from: now.mono + if uplink { Duration::ZERO } else { patience },
                own: BTreeMap::new(),
                own_bytes: 0,
                lease_sent: None,
                began: None,
                origin_failures: 0,
                origin_next: Mono(0),
                origin_trouble: None,
            }
        });
        if wanted && (!download.wanted || download.paused) {
            (download.wanted, download.paused) = (true, false);
            download.since = now.mono;
            // Who was heard to be at work already stays known: others may have begun again a moment ago.
            download.leases.settle(settled);
            (download.began, download.lease_sent) = (None, None);
            news = true;
        }
        if news {
            self.timer(Reason::Documents, now.mono);
            if wanted {
                self.wish_soon(now);
                self.timer(Reason::Lease(payload.id), settled);
                // What neighbours told before is not told again.
                self.timer(Reason::Pump, now.mono);
            }
        }
    }

    /// This node needs a payload no longer. What it has of it may be evicted, and is served until then.
    pub(super) fn release_payload(&mut self, payload: &PayloadId, now: Now) {
        let Some(download) = self.downloads.map.get_mut(payload) else { return };
        if !download.wanted {
            return;
        }
        (download.wanted, download.paused) = (false, false);
        self.output.push_back(Output::Unpin { payload: *payload });
        self.cancel_fetches_of(payload, now);
    }

    /// Nothing more of a payload is fetched until it is wanted again. What is here of it stays, and is served.
    pub(super) fn pause_payload(&mut self, payload: &PayloadId, now: Now) {
        let Some(download) = self.downloads.map.get_mut(payload) else { return };
        if !download.wanted || download.paused || download.is_complete() {
            return;
        }
        download.paused = true;
        self.cancel_fetches_of(payload, now);
    }

    fn cancel_fetches_of(&mut self, payload: &PayloadId, now: Now) {
        let fetches: Vec<_> =
            self.downloads.fetches.iter().filter(|(_, f)| f.payload == *payload).map(|(id, _)| *id).collect();
        self.output.extend(fetches.into_iter().map(|fetch| Output::Cancel { fetch }));
        self.beacon_soon(now);
    }

    /// Payloads that neither a deployment nor the catalog names any more.
    pub(super) fn forget_payloads(&mut self, named: &BTreeSet<PayloadId>, now: Now) {
        let gone: Vec<_> = self.downloads.map.keys().filter(|id| !named.contains(id)).copied().collect();
        for payload in gone {
            self.release_payload(&payload, now);
            if let Some(download) = self.downloads.map.remove(&payload) {
                if download.swarm().is_some() {
                    self.downloads.stored.insert(payload);
                }
                self.tell_members(&Message::Forget { payload });
            }
        }
    }

    pub(super) fn list_arrived(&mut self, payload: PayloadId, list: Arc<ChunkList>, now: Now) {
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        if !matches!(download.phase, Phase::List) {
            return;
        }
        if list.payload_len() != download.payload.len {
            let reason = "the chunk list is for a payload of another length".to_owned();
            return self.list_unusable(payload, reason, now);
        }
        download.phase = Phase::Opening(list.clone());
        let pin = download.wanted;
        self.output.push_back(Output::Open { payload, list, pin });
    }

    pub(super) fn list_unusable(&mut self, payload: PayloadId, reason: String, now: Now) {
        if let Some(download) = self.downloads.map.get_mut(&payload) {
            let retry = now.mono + Duration::from_secs(3600);
            download.phase = Phase::Failed { reason: StoreError::Failed(reason), retry };
        }
        self.payload_moved(&payload, now);
    }

    pub(super) fn opened(&mut self, payload: PayloadId, result: Result<(Bitmap, u64), StoreError>, now: Now) {
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        let Phase::Opening(list) = &download.phase else { return };
        match result {
            Ok((have, reused)) if have.len() as usize == list.chunks().len() => {
                download.phase = Phase::Open(Box::new(Swarm::new(list.clone(), have)));
                download.moved = now.mono;
                self.downloads.bytes.local_reuse += reused;
                self.downloads.stored.insert(payload);
                let holdings: Vec<_> = self
                    .peers
                    .members()
                    .filter_map(|(device, peer)| Some((*device, peer.holdings.get(&payload)?.clone())))
                    .collect();
                for (device, _) in holdings {
                    self.neighbour_holds(device, payload, now);
                }
                if let Some(message) = self.holding_of(&payload) {
                    self.tell_members(&message);
                }
                self.beacon_soon(now);
                self.report_soon(now);
                self.timer(Reason::Lease(payload), now.mono);
                self.ask_neighbours(now);
            }
            Ok(_) => {
                let reason = StoreError::Failed("the store's bitmap has another length than the chunk list".into());
                download.phase = Phase::Failed { reason, retry: now.mono + Duration::from_secs(60) };
            }
            Err(reason) => {
                download.phase = Phase::Failed { reason, retry: now.mono + Duration::from_secs(60) };
                self.timer(Reason::Lease(payload), now.mono + Duration::from_secs(61));
            }
        }
        self.payload_moved(&payload, now);
    }

    pub(super) fn evicted(&mut self, payload: PayloadId, now: Now) {
        self.downloads.stored.remove(&payload);
        if self.downloads.map.remove(&payload).is_some() {
            self.tell_members(&Message::Forget { payload });
            self.beacon_soon(now);
            self.advance_all(now);
        }
    }

    /// The first word about a payload, or all of it again.
    fn holding_of(&self, payload: &PayloadId) -> Option<Message> {
        if !self.may_move(payload) {
            return None;
        }
        let swarm = self.downloads.map.get(payload)?.swarm()?;
        let bits = if swarm.have().is_full() { Vec::new() } else { swarm.have().as_bytes().to_vec() };
        Some(Message::Holding { payload: *payload, bits: Bounded::truncated(bits) })
    }

    /// What may move has changed: ends what may not any more, and tells neighbours what they may ask for.
    pub(super) fn bytes_held_back(&mut self, tell: bool, now: Now) {
        // Over the WAN the weight decides, which node.toml may have fixed.
        let stays = |f: &Fetch| match f.peer {
            Some(_) => self.may_move(&f.payload),
            None => self.wan_weight_for(&f.payload) > 0,
        };
        let ended: Vec<_> = self.downloads.fetches.iter().filter(|(_, f)| !stays(f)).map(|(id, _)| *id).collect();
        self.output.extend(ended.into_iter().map(|fetch| Output::Cancel { fetch }));
        let open: Vec<_> = self.downloads.map.iter().filter(|(_, d)| d.swarm().is_some()).map(|(id, _)| *id).collect();
        for payload in open {
            if tell {
                let message = self.holding_of(&payload).unwrap_or(Message::Forget { payload });
                self.tell_members(&message);
            }
            self.timer(Reason::Lease(payload), now.mono);
        }
        self.ask_neighbours(now);
    }

    pub(super) fn tell_holdings(&mut self, peer: DeviceId) {
        let messages: Vec<_> = self.downloads.map.keys().filter_map(|payload| self.holding_of(payload)).collect();
        for message in messages {
            self.send(peer, &message);
        }
    }

    /// Payloads for the beacon: those this node lacks something of and wants, and those it holds whole.
    pub(super) fn wishes(&self) -> (Vec<PayloadId>, Vec<PayloadId>) {
        let wants =
            self.downloads.map.iter().filter(|(_, d)| d.wanted && !d.paused && !d.is_complete()).map(|(id, _)| *id);
        // Whoever does not fetch now must not be waited for.
        let wants = wants.filter(|id| !self.config.machine.wan_auto || self.may_move(id));
        let whole = self.downloads.map.iter().filter(|(id, d)| d.is_complete() && self.may_move(id));
        let mut whole: Vec<_> = whole.collect();
        whole.sort_by_key(|(_, d)| core::cmp::Reverse(d.moved));
        (wants.collect(), whole.into_iter().map(|(id, _)| *id).collect())
    }

    /// Whether a member says it holds whole a payload of which no neighbour has anything.
    pub(super) fn holds_what_is_lacking(&self, device: &DeviceId) -> bool {
        let Some(member) = self.membership.get(device) else { return false };
        self.downloads.map.iter().any(|(id, d)| {
            d.is_fetching()
                && member.beacon.holds.contains(id)
                && d.swarm().is_some_and(|swarm| !swarm.peers().any(|(_, map)| map.is_full()))
        })
    }

    pub(super) fn neighbour_holds(&mut self, peer: DeviceId, payload: PayloadId, now: Now) {
        let Some(bits) = self.peers.connected.get(&peer).and_then(|p| p.holdings.get(&payload)) else { return };
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        let awaiting_list = matches!(download.phase, Phase::List);
        if let Some(swarm) = download.swarm_mut() {
            let whole = bits.is_empty();
            if !swarm.peer_holds(peer, (!whole).then_some(bits.as_slice())) {
                return self.ban(peer, "it sent a bitmap of the wrong length".into(), now);
            }
            self.ask(Some(peer), now);
        }
        if awaiting_list {
            self.fetch_documents(now);
        }
    }

    pub(super) fn neighbour_has(&mut self, peer: DeviceId, payload: PayloadId, chunks: &[u32], now: Now) {
        let Some(swarm) = self.downloads.map.get_mut(&payload).and_then(Download::swarm_mut) else { return };
        if !swarm.peer_has(&peer, chunks) {
            return self.ban(peer, "it announced a chunk that does not exist".into(), now);
        }
        self.ask(Some(peer), now);
    }

    pub(super) fn neighbour_forgot(&mut self, peer: DeviceId, payload: PayloadId) {
        if let Some(swarm) = self.downloads.map.get_mut(&payload).and_then(Download::swarm_mut) {
            swarm.peer_gone(&peer);
        }
    }

    pub(super) fn downloads_peer_gone(&mut self, peer: DeviceId, now: Now) {
        self.downloads.serving.retain(|_, to| *to != peer);
        for download in self.downloads.map.values_mut() {
            if let Some(swarm) = download.swarm_mut() {
                swarm.peer_gone(&peer);
            }
        }
        self.candidates_departed(&peer, now);
        self.timer(Reason::Pump, now.mono);
    }
}
