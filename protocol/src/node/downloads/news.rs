//! What neighbours hold of payloads, as they say, and what this node tells them.
//!
//! A neighbour says once per payload what it holds and whether it wants the rest. Only those that want it are told of more:
//! together after a while, many payloads in one frame. Nothing here asks for bytes.

use super::*;
use crate::swarm::Share;
use crate::wire::{self, Held, Holding};

/// New chunks are announced together, this long after the first of them.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(150);
/// Chunks that nobody in the site may have yet are announced sooner, and so are the very last, which others may lack too.
const ANNOUNCE_FIRST: Duration = Duration::from_millis(10);
const LAST_CHUNKS: u32 = 16;
/// Payloads of which a neighbour may tell what it holds, and bytes of bitmaps in all.
pub(super) const MAX_HOLDINGS: usize = 4096;
pub(super) const MAX_HOLDING_BYTES: usize = 2 << 20;
/// Bytes that a frame's holdings take at most: below [`wire::MAX_FRAME`] with room for its head.
const FRAME: usize = wire::MAX_FRAME - 64;
/// Positions in one [`Held::More`].
const MORE: usize = 1024;

/// What is to be told, and to whom.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Chunks that have come since the last announcement.
    chunks: BTreeMap<PayloadId, Vec<u32>>,
    /// Neighbours that have told of a payload.
    tellers: BTreeMap<PayloadId, BTreeSet<DeviceId>>,
    /// Neighbours that want a payload, and how many of them come before this node.
    wanting: BTreeMap<PayloadId, Wanting>,
    /// Payloads of which a neighbour is to be told all that is here.
    whole: BTreeMap<DeviceId, BTreeSet<PayloadId>>,
    /// How many chunks a neighbour was told of when it was last told all.
    told: BTreeMap<DeviceId, BTreeMap<PayloadId, u32>>,
}

#[derive(Debug, Default)]
struct Wanting {
    peers: BTreeSet<DeviceId>,
    before_me: u64,
}

impl News {
    pub(super) fn peer_gone(&mut self, peer: &DeviceId) {
        self.whole.remove(peer);
        self.told.remove(peer);
    }

    /// Whether some neighbour has told of a payload.
    pub(super) fn is_held(&self, payload: &PayloadId) -> bool {
        self.tellers.contains_key(payload)
    }

    /// Neighbours that have told of a payload.
    pub(super) fn tellers(&self, payload: &PayloadId) -> impl Iterator<Item = &DeviceId> {
        self.tellers.get(payload).into_iter().flatten()
    }

    /// A neighbour does not speak of a payload any more.
    pub(super) fn told_nothing(&mut self, me: &DeviceId, peer: &DeviceId, payload: &PayloadId) {
        self.wants_not(me, peer, payload);
        if let Some(tellers) = self.tellers.get_mut(payload) {
            tellers.remove(peer);
            if tellers.is_empty() {
                self.tellers.remove(payload);
            }
        }
    }

    /// A neighbour wants a payload. Returns whether that is new.
    fn wants(&mut self, me: &DeviceId, peer: &DeviceId, payload: &PayloadId) -> bool {
        let wanting = self.wanting.entry(*payload).or_default();
        let news = wanting.peers.insert(*peer);
        wanting.before_me += u64::from(news && peer < me);
        news
    }

    fn wants_not(&mut self, me: &DeviceId, peer: &DeviceId, payload: &PayloadId) {
        if let Some(wanting) = self.wanting.get_mut(payload) {
            let did = wanting.peers.remove(peer);
            wanting.before_me -= u64::from(did && peer < me);
            if wanting.peers.is_empty() {
                self.wanting.remove(payload);
            }
        }
    }

    /// This node's share of a payload among those that want it.
    pub(super) fn share(&self, payload: &PayloadId) -> Share {
        let wanting = self.wanting.get(payload);
        wanting.map_or(Share::whole(), |wanting| Share::of(wanting.before_me, wanting.peers.len() as u64 + 1))
    }

    /// These chunks are not here any more.
    pub(super) fn lost(&mut self, payload: &PayloadId, lost: &[u32]) {
        if let Some(chunks) = self.chunks.get_mut(payload) {
            chunks.retain(|chunk| !lost.contains(chunk));
        }
    }

    pub(super) fn wanting(&self, payload: &PayloadId) -> impl Iterator<Item = &DeviceId> {
        self.wanting.get(payload).into_iter().flat_map(|wanting| &wanting.peers)
    }
}

impl Downloads {
    /// A chunk is new here: those who want it are told with what else comes soon.
    pub(super) fn chunk_is_news(&mut self, payload: PayloadId, chunk: u32, from_wan: bool, cx: &mut Cx) {
        let now = cx.now;
        if !self.news.wanting.contains_key(&payload) {
            return;
        }
        self.news.chunks.entry(payload).or_default().push(chunk);
        let missing = self.map.get(&payload).and_then(Download::swarm).map_or(0, Swarm::missing);
        let last = missing <= LAST_CHUNKS && self.fetching.len() <= 1;
        let wait = if from_wan || last { ANNOUNCE_FIRST } else { ANNOUNCE_AFTER };
        cx.timer(Reason::Announce, now.mono + wait);
    }

    /// Every neighbour is to be told what is here of a payload, and whether this node wants more.
    pub(super) fn tell_all_of(&mut self, payload: PayloadId, cx: &mut Cx) {
        let members: Vec<_> = self.neighbours.devices().copied().collect();
        for peer in members {
            self.tell_of(peer, payload, cx);
        }
    }

    fn tell_of(&mut self, peer: DeviceId, payload: PayloadId, cx: &mut Cx) {
        let now = cx.now;
        self.news.whole.entry(peer).or_default().insert(payload);
        cx.timer(Reason::Announce, now.mono + ANNOUNCE_FIRST);
    }

    /// A new neighbour is told of everything.
    pub(in crate::node) fn tell_holdings(&mut self, peer: DeviceId, cx: &mut Cx, view: View<'_>) {
        let open = self.map.iter().filter(|(_, d)| d.swarm().is_some()).map(|(id, _)| *id).collect();
        self.news.whole.insert(peer, open);
        self.announce_to(&[peer].into(), cx, view);
    }

    /// Nothing is held of a payload any more, or nothing may be had of it.
    pub(super) fn tell_nothing_of(&mut self, payload: PayloadId, cx: &mut Cx) {
        for told in self.news.told.values_mut() {
            told.remove(&payload);
        }
        for whole in self.news.whole.values_mut() {
            whole.remove(&payload);
        }
        self.news.chunks.remove(&payload);
        let holding = Holding { payload, wants: false, held: Held::Nothing };
        let message = Message::Holdings(Bounded::truncated(vec![holding]));
        self.neighbours.devices().for_each(|device| cx.send(*device, &message));
    }

    /// Tells neighbours what is new for them.
    pub(in crate::node) fn announce_chunks(&mut self, cx: &mut Cx, view: View<'_>) {
        let news = &self.news;
        let mut peers: BTreeSet<DeviceId> = news.whole.keys().copied().collect();
        peers.extend(news.chunks.keys().flat_map(|payload| news.wanting(payload)));
        self.announce_to(&peers, cx, view);
        self.news.chunks.clear();
    }

    fn announce_to(&mut self, peers: &BTreeSet<DeviceId>, cx: &mut Cx, view: View<'_>) {
        for peer in peers {
            let whole = self.news.whole.remove(peer).unwrap_or_default();
            let mut holdings: Vec<Holding> = Vec::new();
            for payload in &whole {
                let Some((holding, count)) = self.holding_of(payload, view) else { continue };
                self.news.told.entry(*peer).or_default().insert(*payload, count);
                holdings.push(holding);
            }
            for (payload, chunks) in &self.news.chunks {
                let wanted = self.news.wanting.get(payload).is_some_and(|wanting| wanting.peers.contains(peer));
                if wanted && !whole.contains(payload) {
                    self.more_of(peer, payload, chunks, &mut holdings, view);
                }
            }
            self.send_holdings(*peer, holdings, cx);
        }
    }

    /// What is here of a payload, and the number of its chunks.
    fn holding_of(&self, payload: &PayloadId, view: View<'_>) -> Option<(Holding, u32)> {
        if !view.standing.may_move(payload) {
            return None;
        }
        let download = self.map.get(payload)?;
        let have = download.swarm()?.have();
        let held = if have.is_full() { Held::All } else { Held::Some(Bounded::truncated(have.as_bytes().to_vec())) };
        Some((Holding { payload: *payload, wants: download.is_fetching_on_the_lan(), held }, have.count()))
    }

    /// Those of the new chunks that a neighbour lacks, or that this node has got the last one.
    fn more_of(
        &self,
        peer: &DeviceId,
        payload: &PayloadId,
        chunks: &[u32],
        holdings: &mut Vec<Holding>,
        view: View<'_>,
    ) {
        let Some(download) = self.map.get(payload) else { return };
        let Some(swarm) = download.swarm().filter(|_| view.standing.may_move(payload)) else { return };
        let theirs = swarm.map_of(peer);
        if theirs.is_some_and(Bitmap::is_full) {
            return;
        }
        let wants = download.is_fetching_on_the_lan();
        if swarm.have().is_full() {
            holdings.push(Holding { payload: *payload, wants, held: Held::All });
            return;
        }
        let news: Vec<u32> =
            chunks.iter().filter(|chunk| theirs.is_none_or(|map| !map.get(**chunk))).copied().collect();
        for part in news.chunks(MORE) {
            let held = Held::More(Bounded::truncated(part.to_vec()));
            holdings.push(Holding { payload: *payload, wants, held });
        }
    }

    /// As few frames as hold them.
    fn send_holdings(&mut self, peer: DeviceId, holdings: Vec<Holding>, cx: &mut Cx) {
        let (mut frame, mut bytes) = (Vec::new(), 0);
        for holding in holdings {
            let len = 64
                + match &holding.held {
                    Held::Some(bits) => bits.len(),
                    Held::More(chunks) => 4 * chunks.len(),
                    Held::Nothing | Held::All => 0,
                };
            if bytes + len > FRAME || frame.len() == wire::MAX_HOLDINGS {
                cx.send(peer, &Message::Holdings(Bounded::truncated(core::mem::take(&mut frame))));
                bytes = 0;
            }
            bytes += len;
            frame.push(holding);
        }
        if !frame.is_empty() {
            cx.send(peer, &Message::Holdings(Bounded::truncated(frame)));
        }
    }

    /// A neighbour's word about payloads.
    pub(in crate::node) fn holdings_heard(
        &mut self,
        peer: DeviceId,
        holdings: Vec<Holding>,
        cx: &mut Cx,
        view: View<'_>,
    ) {
        let mut listed = false;
        for Holding { payload, wants, held } in holdings {
            let good = match held {
                Held::Nothing => {
                    self.forgotten(peer, &payload, cx);
                    Ok(())
                }
                Held::All => self.holding(peer, payload, Vec::new(), cx),
                Held::Some(bits) => self.holding(peer, payload, bits.into_vec(), cx),
                Held::More(chunks) => self.has_more(peer, payload, &chunks, cx),
            };
            if let Err(reason) = good {
                return self.ban(peer, reason.into());
            }
            if !wants || self.neighbours.bits(&peer, &payload).is_none() {
                self.news.wants_not(&cx.me, &peer, &payload);
            } else if self.news.wants(&cx.me, &peer, &payload) {
                self.begins_to_want(peer, payload, cx);
            }
            let download = self.map.get(&payload);
            listed |= download.is_some_and(|download| matches!(download.phase, Phase::List));
        }
        self.ask_neighbours(cx, view);
        if listed {
            self.effects.push_back(Effect::Documents);
        }
    }

    /// It is told what has come here since it was told last.
    fn begins_to_want(&mut self, peer: DeviceId, payload: PayloadId, cx: &mut Cx) {
        let now = cx.now;
        let told = self.news.told.get(&peer).and_then(|told| told.get(&payload)).copied().unwrap_or(0);
        let have = self.map.get(&payload).and_then(Download::swarm).map_or(0, |swarm| swarm.have().count());
        if have > told {
            self.tell_of(peer, payload, cx);
        }
        // Whoever wants it may fetch it over the WAN. Others will say so within moments.
        cx.timer(Reason::Lease(payload), now.mono + ANNOUNCE_AFTER / 3);
    }

    fn holding(&mut self, peer: DeviceId, payload: PayloadId, bits: Vec<u8>, cx: &mut Cx) -> Result<(), &'static str> {
        let Some(first) = self.neighbours.told(&peer, payload, bits) else { return Ok(()) };
        if first {
            self.news.tellers.entry(payload).or_default().insert(peer);
        }
        if self.note_holding(peer, payload, cx) { Ok(()) } else { Err("it sent a bitmap of the wrong length") }
    }

    /// Takes what a neighbour has said of a payload over into the swarm. Returns `false` if that cannot be true.
    pub(super) fn note_holding(&mut self, peer: DeviceId, payload: PayloadId, cx: &mut Cx) -> bool {
        let Some(bits) = self.neighbours.bits(&peer, &payload) else { return true };
        let Some(swarm) = self.map.get_mut(&payload).and_then(Download::swarm_mut) else { return true };
        let good = swarm.peer_holds(peer, (!bits.is_empty()).then_some(bits));
        self.offered(&peer, &payload, &mut cx.rng);
        good
    }

    fn has_more(
        &mut self,
        peer: DeviceId,
        payload: PayloadId,
        chunks: &[u32],
        cx: &mut Cx,
    ) -> Result<(), &'static str> {
        const NO_SUCH: &str = "it announced a chunk that does not exist";
        match self.neighbours.told_more(&peer, &payload, chunks) {
            None => return Ok(()),
            Some(false) => return Err(NO_SUCH),
            Some(true) => {}
        }
        let Some(swarm) = self.map.get_mut(&payload).and_then(Download::swarm_mut) else { return Ok(()) };
        let extents: BTreeSet<u32> = match swarm.doubts(&peer) {
            true => BTreeSet::new(),
            // The first word of a chunk alone: everybody tells of it again.
            false => {
                let first = chunks.iter().filter(|chunk| **chunk < swarm.have().len() && swarm.lacking(**chunk));
                first.map(|chunk| swarm.extent_of(*chunk)).collect()
            }
        };
        if !swarm.peer_has(&peer, chunks) {
            return Err(NO_SUCH);
        }
        if let Some(download) = self.map.get_mut(&payload) {
            extents.iter().for_each(|extent| download.leases.evidence(cx.now.mono, *extent));
        }
        self.offered(&peer, &payload, &mut cx.rng);
        Ok(())
    }

    fn forgotten(&mut self, peer: DeviceId, payload: &PayloadId, cx: &mut Cx) {
        if self.neighbours.told_nothing(&peer, payload) {
            self.news.told_nothing(&cx.me, &peer, payload);
        }
        if let Some(swarm) = self.map.get_mut(payload).and_then(Download::swarm_mut) {
            swarm.peer_gone(&peer);
            self.refile(payload, &mut cx.rng);
        }
    }
}
