//! Getting payloads: from neighbours first, over the WAN only what this node has the lease for.

mod explain;

use core::ops::Range;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::peers::{Stage, backoff};
use super::{FetchError, FetchFrom, FetchId, NodeState, Output, Reason, ServeWhat, StoreError, Verdict, reports};
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
/// Extents fetched over the WAN at a time: two hide the pause between one answer and the next request.
const MAX_WAN: usize = 2;
/// A block that has not come by then is asked of someone else.
const BLOCK_WITHIN: Duration = Duration::from_secs(6);
/// One neighbour gets this many upload slots at most.
const SLOTS_PER_PEER: usize = 4;
/// A node that just started gives membership this long to settle before its first WAN byte; one that has been up knows
/// its site, and waits only for the others to say that they want the payload too.
const SETTLE_AFTER_START: Duration = Duration::from_millis(900);
const SETTLE: Duration = Duration::from_millis(250);
/// New chunks are announced together, this long after the first of them.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(60);
/// Chunks that nobody in the site may have yet are announced sooner.
const ANNOUNCE_FIRST: Duration = Duration::from_millis(10);
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

    fn is_complete(&self) -> bool {
        self.swarm().is_some_and(|swarm| swarm.have().is_full())
    }

    fn is_fetching(&self) -> bool {
        self.wanted && self.swarm().is_some_and(|swarm| !swarm.have().is_full())
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
            (*id, d.wanted, done, d.payload.len, peers, d.own.len(), others)
        })
    }
}

impl NodeState {
    /// A granted request is over: its slot is free.
    pub(super) fn served(&mut self, serve: u64, bytes: u64) {
        let to = self.downloads.serving.remove(&serve);
        if let Some(peer) = to.and_then(|to| self.peers.connected.get_mut(&to)) {
            peer.taken += bytes;
        }
    }

    /// This node needs a payload, or (`wanted` false) serves what it has of it.
    pub(super) fn want_payload(&mut self, payload: &catalog::Payload, wanted: bool, now: Now) {
        if self.downloads.map.get(&payload.id).is_some_and(|download| download.wanted || !wanted) {
            return;
        }
        let mut news = false;
        let me = self.me;
        let young = now.mono.since(self.started) < Duration::from_secs(5);
        let settle = if young { SETTLE_AFTER_START } else { SETTLE } + self.rng.jitter(Duration::from_millis(50));
        let patience = Duration::from_millis(2500) + self.rng.jitter(Duration::from_secs(2));
        let uplink = self.is_uplink();
        let download = self.downloads.map.entry(payload.id).or_insert_with(|| {
            news = true;
            Download {
                payload: payload.clone(),
                wanted,
                phase: Phase::List,
                leases: Leases::new(payload.id, me, now.mono + settle),
                since: now.mono,
                moved: Mono(0),
                list_from: now.mono + if uplink { Duration::ZERO } else { patience },
                own: BTreeMap::new(),
                own_bytes: 0,
                lease_sent: None,
                origin_failures: 0,
                origin_next: Mono(0),
                origin_trouble: None,
            }
        });
        if wanted && !download.wanted {
            download.wanted = true;
            download.since = now.mono;
            download.leases = Leases::new(payload.id, me, now.mono + settle);
            news = true;
        }
        if news {
            self.timer(Reason::Documents, now.mono);
            if wanted {
                self.beacon_soon(now);
                self.timer(Reason::Lease(payload.id), now.mono + settle);
            }
        }
    }

    /// This node needs a payload no longer. What it has of it may be evicted, and is served until then.
    pub(super) fn release_payload(&mut self, payload: &PayloadId, now: Now) {
        let Some(download) = self.downloads.map.get_mut(payload) else { return };
        if !download.wanted {
            return;
        }
        download.wanted = false;
        self.output.push_back(Output::Unpin { payload: *payload });
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
                self.timer(Reason::Report, now.mono + reports::SOON);
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
        let swarm = self.downloads.map.get(payload)?.swarm()?;
        let bits = if swarm.have().is_full() { Vec::new() } else { swarm.have().as_bytes().to_vec() };
        Some(Message::Holding { payload: *payload, bits: Bounded::truncated(bits) })
    }

    pub(super) fn tell_holdings(&mut self, peer: DeviceId) {
        let messages: Vec<_> = self.downloads.map.keys().filter_map(|payload| self.holding_of(payload)).collect();
        for message in messages {
            self.send(peer, &message);
        }
    }

    /// Payloads for the beacon: those this node lacks something of and wants, and those it holds whole.
    pub(super) fn wishes(&self) -> (Vec<PayloadId>, Vec<PayloadId>) {
        let wants = self.downloads.map.iter().filter(|(_, d)| d.wanted && !d.is_complete()).map(|(id, _)| *id);
        let mut whole: Vec<_> = self.downloads.map.iter().filter(|(_, d)| d.is_complete()).collect();
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

    /// A member is gone: its leases are free.
    pub(super) fn candidates_departed(&mut self, device: &DeviceId, now: Now) {
        let mut timers = Vec::new();
        for (id, download) in &mut self.downloads.map {
            if download.is_fetching() {
                download.leases.departed(now.mono, device);
                timers.push((Reason::Lease(*id), download.leases.may_begin()));
            }
        }
        for (reason, at) in timers {
            self.timer(reason, at.max(now.mono));
        }
    }

    /// Membership has news: others may want a payload too, or no longer.
    pub(super) fn candidates_changed(&mut self, now: Now) {
        let fetching: Vec<_> = self.downloads.map.iter().filter(|(_, d)| d.wanted).map(|(id, _)| *id).collect();
        for payload in fetching {
            let candidates = self.membership.wan_candidates(&payload, self.config.wan_weight);
            if let Some(download) = self.downloads.map.get_mut(&payload) {
                download.leases.set_candidates(now.mono, &candidates);
                let at = download.leases.may_begin().max(now.mono);
                self.timer(Reason::Lease(payload), at);
            }
        }
    }

    pub(super) fn lease_taken(&mut self, lease: &Lease, now: Now) -> Verdict {
        let Some(download) = self.downloads.map.get_mut(&lease.payload) else { return Verdict::Accept };
        if !download.leases.heard(now.mono, lease.device, lease.seq, &lease.extents, lease.progress) {
            return Verdict::Ignore;
        }
        // Two at work on one extent: the one who comes later in the order gives way.
        let outranked: Vec<_> = download
            .own
            .iter()
            .filter(|(_, extent)| download.leases.outranked(now.mono, **extent))
            .map(|(f, _)| *f)
            .collect();
        self.output.extend(outranked.into_iter().map(|fetch| Output::Cancel { fetch }));
        if lease.extents.is_empty() {
            self.timer(Reason::Lease(lease.payload), now.mono + crate::lease::QUIET);
        }
        Verdict::Accept
    }

    /// Looks after one payload's leases: passes over the idle, begins what is this node's to fetch, tells the others.
    pub(super) fn look_after_lease(&mut self, payload: PayloadId, now: Now) {
        self.reopen_failed(payload, now);
        let candidates = self.membership.wan_candidates(&payload, self.config.wan_weight);
        let held = self.held_on_the_lan(&payload, now);
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        if !download.is_fetching() {
            return;
        }
        download.leases.set_candidates(now.mono, &candidates);
        let Phase::Open(swarm) = &download.phase else { return };
        let lacking = swarm.lacking_extents();
        if !held {
            download.leases.pass_over_the_idle(now.mono, &lacking);
        }
        self.fetch_over_wan(payload, held, now);
        self.announce_lease(payload, now);
        let Some(download) = self.downloads.map.get(&payload) else { return };
        let begin = download.leases.may_begin();
        let next = if begin > now.mono { begin } else { now.mono + LEASE_EVERY };
        self.timer(Reason::Lease(payload), next);
        self.timer(Reason::Stalls, now.mono + Duration::from_secs(1));
        self.payload_moved(&payload, now);
    }

    /// Whether some member holds all of it and there is no sign that this is a lie: then nothing need cross the WAN.
    fn held_on_the_lan(&self, payload: &PayloadId, now: Now) -> bool {
        let Some(download) = self.downloads.map.get(payload) else { return false };
        let still = now.mono.since(download.moved.max(download.since));
        still < BELIEVE_HOLDER && self.membership.holders(payload).next().is_some()
    }

    fn fetch_over_wan(&mut self, payload: PayloadId, held: bool, now: Now) {
        let weight = self.config.wan_weight;
        let origins = self.origins();
        let mut begun = Vec::new();
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        let Phase::Open(swarm) = &mut download.phase else { return };
        if held || weight == 0 || download.origin_next > now.mono || now.mono < download.leases.may_begin() {
            return;
        }
        let lacking = swarm.lacking_extents();
        for extent in lacking {
            if download.own.len() + begun.len() >= MAX_WAN {
                break;
            }
            if download.own.values().any(|own| *own == extent) || !download.leases.mine(now.mono, extent) {
                continue;
            }
            if let Some(run) = swarm.wan_run(extent) {
                swarm.begun(run.clone());
                begun.push((extent, run));
            }
        }
        let urls: Vec<String> = if download.payload.urls.is_empty() {
            origins.iter().map(|base| format!("{}/payload/{payload}", base.trim_end_matches('/'))).collect()
        } else {
            download.payload.urls.iter().map(|url| url.to_string()).collect()
        };
        for (extent, run) in begun {
            let fetch = self.fetch_id();
            let Some(download) = self.downloads.map.get_mut(&payload) else { return };
            download.leases.freeze();
            download.own.insert(fetch, extent);
            self.downloads.fetches.insert(fetch, Fetch { payload, run: run.clone(), peer: None, moved: now.mono });
            // The lease goes out before the request.
            self.announce_lease(payload, now);
            let (first, count) = (run.start, run.end - run.start);
            self.output.push_back(Output::Fetch { fetch, from: FetchFrom::Urls(urls.clone()), payload, first, count });
        }
    }

    /// Tells the site which extents this node fetches: at every change, and regularly while there are some.
    fn announce_lease(&mut self, payload: PayloadId, now: Now) {
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        let mut extents: Vec<u32> = download.own.values().copied().collect();
        extents.sort_unstable();
        extents.dedup();
        let due = match &download.lease_sent {
            None => !extents.is_empty(),
            Some((at, sent)) => {
                *sent != extents || (!extents.is_empty() && now.mono.since(*at) >= LEASE_EVERY * 9 / 10)
            }
        };
        if !due {
            return;
        }
        download.lease_sent = Some((now.mono, extents.clone()));
        self.downloads.lease_seq = (self.downloads.lease_seq + 1).max(now.wall.0);
        let lease = Lease {
            device: self.me,
            site: self.membership.site(),
            seq: self.downloads.lease_seq,
            payload,
            extents: Bounded::truncated(extents),
            progress: download.own_bytes,
        };
        match envelope::sign(Kind::Lease, Role::Device, &lease, &[&self.config.key]) {
            Ok(bytes) => self.output.push_back(Output::Publish { topic: Topic::Site(lease.site), bytes }),
            Err(error) => self.output.push_back(Output::Alarm(format!("a lease was not announced: {error}"))),
        }
    }

    /// Asks neighbours for blocks, the least busy first.
    pub(super) fn ask_neighbours(&mut self, now: Now) {
        self.ask(None, now);
    }

    /// The same, of one neighbour only: the others have nothing new.
    fn ask(&mut self, only: Option<DeviceId>, now: Now) {
        let wanted: Vec<_> = self.downloads.map.iter().filter(|(_, d)| d.is_fetching()).map(|(id, _)| *id).collect();
        let mut under_way = self.downloads.fetches.values().filter(|f| f.peer.is_some()).count();
        if wanted.is_empty() || under_way >= MAX_LAN {
            return;
        }
        let ready = |p: &super::peers::Peer| p.outstanding < PER_PEER && p.busy_until <= now.mono;
        let mut neighbours: Vec<_> = self
            .peers
            .members()
            .filter(|(device, p)| only.is_none_or(|only| only == **device) && ready(p))
            .map(|(device, p)| (p.outstanding, *device))
            .collect();
        self.rng.shuffle(&mut neighbours);
        neighbours.sort_by_key(|(outstanding, _)| *outstanding);
        // Round by round, so that load spreads before it deepens.
        let mut progress = true;
        while progress && under_way < MAX_LAN {
            progress = false;
            for (outstanding, peer) in &mut neighbours {
                if *outstanding >= PER_PEER || under_way >= MAX_LAN {
                    continue;
                }
                let pick = wanted.iter().find_map(|id| {
                    let swarm = self.downloads.map.get(id)?.swarm()?;
                    Some((*id, swarm.pick(peer, &mut self.rng)?))
                });
                let Some((payload, run)) = pick else {
                    *outstanding = PER_PEER;
                    continue;
                };
                if let Some(swarm) = self.downloads.map.get_mut(&payload).and_then(Download::swarm_mut) {
                    swarm.begun(run.clone());
                }
                let fetch = self.fetch_id();
                let (first, count) = (run.start, run.end - run.start);
                self.downloads.fetches.insert(fetch, Fetch { payload, run, peer: Some(*peer), moved: now.mono });
                if let Some(p) = self.peers.connected.get_mut(peer) {
                    p.outstanding += 1;
                }
                self.output.push_back(Output::Fetch { fetch, from: FetchFrom::Peer(*peer), payload, first, count });
                (*outstanding, under_way, progress) = (*outstanding + 1, under_way + 1, true);
            }
        }
    }

    pub(super) fn chunk_stored(&mut self, fetch: FetchId, payload: PayloadId, chunk: u32, now: Now) {
        let peer = match self.downloads.fetches.get_mut(&fetch) {
            Some(fetch) => {
                fetch.moved = now.mono;
                fetch.peer
            }
            None => None,
        };
        let from_cache = peer.is_some_and(|peer| self.membership.is_cache(&peer));
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        let own = download.own.contains_key(&fetch);
        let Some(swarm) = download.swarm_mut() else { return };
        let Some(len) = swarm.list().chunks().get(chunk as usize).map(|c| u64::from(c.len)) else { return };
        let news = swarm.stored(chunk);
        let complete = swarm.have().is_full();
        download.moved = now.mono;
        if own {
            download.own_bytes += len;
        }
        if !news {
            self.downloads.wasted += len;
            return;
        }
        let bytes = &mut self.downloads.bytes;
        *match peer {
            None => &mut bytes.origin,
            Some(_) if from_cache => &mut bytes.cache,
            Some(_) => &mut bytes.lan_peer,
        } += len;
        if let Some(p) = peer.and_then(|peer| self.peers.connected.get_mut(&peer)) {
            p.given += len;
        }
        self.downloads.news.entry(payload).or_default().push(chunk);
        let wait = if peer.is_none() { ANNOUNCE_FIRST } else { ANNOUNCE_AFTER };
        self.timer(Reason::Announce, now.mono + wait);
        if complete {
            self.announce_chunks();
            self.completed(payload, now);
        }
    }

    fn completed(&mut self, payload: PayloadId, now: Now) {
        let spare: Vec<_> =
            self.downloads.fetches.iter().filter(|(_, f)| f.payload == payload).map(|(id, _)| *id).collect();
        self.output.extend(spare.into_iter().map(|fetch| Output::Cancel { fetch }));
        self.beacon_soon(now);
        self.persist_counters();
        self.timer(Reason::Report, now.mono + reports::SOON);
        self.payload_moved(&payload, now);
    }

    /// Tells each neighbour of those new chunks that it still lacks, or when this node has got the last one, that it has all.
    pub(super) fn announce_chunks(&mut self) {
        let mut messages = Vec::new();
        for (payload, chunks) in core::mem::take(&mut self.downloads.news) {
            let Some(swarm) = self.downloads.map.get(&payload).and_then(Download::swarm) else { continue };
            for (peer, _) in self.peers.members() {
                let theirs = swarm.map_of(peer);
                if theirs.is_some_and(Bitmap::is_full) {
                    continue;
                }
                if swarm.have().is_full() {
                    messages.push((*peer, Message::Holding { payload, bits: Bounded::default() }));
                    continue;
                }
                let lacks = |chunk: &&u32| theirs.is_none_or(|map| !map.get(**chunk));
                let news: Vec<u32> = chunks.iter().filter(lacks).copied().collect();
                for part in news.chunks(1024) {
                    messages.push((*peer, Message::Have { payload, chunks: Bounded::truncated(part.to_vec()) }));
                }
            }
        }
        for (peer, message) in messages {
            self.send(peer, &message);
        }
    }

    pub(super) fn chunk_rejected(&mut self, fetch: FetchId, payload: PayloadId, chunk: u32, now: Now) {
        match self.downloads.fetches.get(&fetch).map(|f| f.peer) {
            Some(Some(peer)) => {
                self.ban(peer, format!("it served a chunk that is not what it should be ({chunk})"), now)
            }
            Some(None) => {
                let Some(download) = self.downloads.map.get_mut(&payload) else { return };
                let trouble = format!(
                    "the origin serves other bytes than the release names (payload {}, chunk {chunk})",
                    download.payload.name
                );
                let first = download.origin_trouble.as_ref() != Some(&trouble);
                download.origin_failures += 1;
                download.origin_next = now.mono + backoff(download.origin_failures, Duration::from_secs(300)) * 2;
                download.origin_trouble = Some(trouble.clone());
                self.output.push_back(Output::Cancel { fetch });
                if first {
                    self.alarm(trouble, now);
                }
                self.payload_moved(&payload, now);
            }
            None => {}
        }
    }

    pub(super) fn fetch_ended(&mut self, id: FetchId, result: Result<(), FetchError>, now: Now) {
        let Some(Fetch { payload, run, peer, .. }) = self.downloads.fetches.remove(&id) else { return };
        if let Some(p) = peer.and_then(|peer| self.peers.connected.get_mut(&peer)) {
            p.outstanding = p.outstanding.saturating_sub(1);
        }
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        download.own.remove(&id);
        if let Some(swarm) = download.swarm_mut() {
            swarm.ended(run.clone());
            if let (Some(peer), Err(FetchError::Status(BlockStatus::NotHeld))) = (&peer, &result) {
                swarm.peer_lacks(peer, run);
            }
        }
        match (peer, result) {
            (None, Ok(())) => {
                download.origin_failures = 0;
                download.origin_trouble = None;
            }
            (_, Ok(()) | Err(FetchError::Canceled)) => {}
            (_, Err(FetchError::Store(reason))) => {
                download.phase = Phase::Failed { reason, retry: now.mono + Duration::from_secs(60) };
                self.timer(Reason::Lease(payload), now.mono + Duration::from_secs(61));
            }
            (None, Err(error)) => {
                download.origin_failures += 1;
                let wait = backoff(download.origin_failures, Duration::from_secs(15));
                download.origin_next = now.mono + wait;
                let text = match error {
                    FetchError::Unreachable(text) => format!("the origin cannot be reached: {text}"),
                    FetchError::Wrong(text) => format!("the origin does not serve what it should: {text}"),
                    other => format!("the origin failed: {other:?}"),
                };
                // The first failure may be a broken connection; from the second on the next in order gets its turn.
                if download.origin_failures > 1 {
                    download.leases.stand_back(now.mono, now.mono + wait);
                }
                download.origin_trouble = Some(text);
                self.timer(Reason::Lease(payload), now.mono + wait);
            }
            (Some(peer), Err(error)) => {
                let pause = match error {
                    FetchError::Status(BlockStatus::Busy) => Duration::from_millis(10),
                    FetchError::Status(BlockStatus::NotHeld) => Duration::ZERO,
                    _ => Duration::from_secs(2),
                };
                let pause = pause + self.rng.jitter(pause * 3);
                if let Some(p) = self.peers.connected.get_mut(&peer) {
                    p.busy_until = p.busy_until.max(now.mono + pause);
                }
                if !pause.is_zero() {
                    self.timer(Reason::Pump, now.mono + pause);
                }
                if let FetchError::Wrong(reason) = error {
                    self.ban(peer, format!("it answered with something else than was asked for: {reason}"), now);
                }
            }
        }
        self.ask_neighbours(now);
        if peer.is_none() {
            self.timer(Reason::Lease(payload), now.mono);
        }
        self.payload_moved(&payload, now);
    }

    /// Blocks that do not come are asked of someone else. Over the WAN the shell notices a stall itself.
    pub(super) fn give_up_stalled(&mut self, now: Now) {
        let slow: Vec<_> = self
            .downloads
            .fetches
            .iter()
            .filter(|(_, f)| f.peer.is_some() && now.mono.since(f.moved) > BLOCK_WITHIN)
            .map(|(id, f)| (*id, f.peer))
            .collect();
        for (fetch, peer) in slow {
            if let Some(p) = peer.and_then(|peer| self.peers.connected.get_mut(&peer)) {
                p.busy_until = now.mono + BLOCK_WITHIN;
            }
            self.output.push_back(Output::Cancel { fetch });
        }
        if !self.downloads.fetches.is_empty() {
            self.timer(Reason::Stalls, now.mono + Duration::from_secs(1));
        }
        self.ask_neighbours(now);
    }

    fn reopen_failed(&mut self, payload: PayloadId, now: Now) {
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        if let Phase::Failed { retry, .. } = &download.phase
            && *retry <= now.mono
        {
            download.phase = Phase::List;
            self.timer(Reason::Documents, now.mono);
        }
    }

    /// Grants or denies a block request: members of this site only, verified chunks only, as long as there are slots.
    pub(super) fn block_requested(&mut self, peer: DeviceId, serve: u64, what: BlockWhat) {
        let granted = self.grant(peer, &what);
        match granted {
            Ok(what) => {
                if let ServeWhat::Chunks { .. } = what {
                    self.downloads.serving.insert(serve, peer);
                }
                self.output.push_back(Output::Serve { serve, what });
            }
            Err(status) => self.output.push_back(Output::Deny { serve, status }),
        }
    }

    fn grant(&self, peer: DeviceId, what: &BlockWhat) -> Result<ServeWhat, BlockStatus> {
        let member = self.peers.connected.get(&peer).is_some_and(|p| matches!(p.stage, Stage::Member { .. }));
        if !member {
            return Err(BlockStatus::Refused);
        }
        let BlockWhat::Chunks { payload, first, count } = *what else {
            return self.document_bytes(what).map(ServeWhat::Bytes).ok_or(BlockStatus::NotHeld);
        };
        let swarm = self.downloads.map.get(&payload).and_then(Download::swarm).ok_or(BlockStatus::NotHeld)?;
        let end = first.checked_add(count).filter(|end| count > 0 && *end <= swarm.have().len());
        let run = first..end.ok_or(BlockStatus::Refused)?;
        if !run.clone().all(|chunk| swarm.have().get(chunk)) {
            return Err(BlockStatus::NotHeld);
        }
        let range = swarm.list().byte_range(run);
        let len = range.end - range.start;
        if count > 1 && len > MAX_BLOCK {
            return Err(BlockStatus::Refused);
        }
        let theirs = self.downloads.serving.values().filter(|to| **to == peer).count();
        if self.downloads.serving.len() >= self.config.upload_slots || theirs >= SLOTS_PER_PEER {
            return Err(BlockStatus::Busy);
        }
        Ok(ServeWhat::Chunks { payload, first, count, len: len as u32 })
    }
}
