//! Blocks from neighbours and to them, and what came of each fetch.

use super::*;
use crate::swarm::Share;

impl Downloads {
    /// A granted request is over: its slot is free.
    pub(in crate::node) fn served(&mut self, serve: u64, bytes: u64) {
        let to = self.serving.remove(&serve);
        if let Some(peer) = to {
            self.neighbours.took(&peer, bytes);
        }
    }

    /// Asks neighbours for blocks, the least busy first, so that load spreads before it deepens.
    pub(in crate::node) fn ask_neighbours(&mut self, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        let mut under_way = self.fetches.values().filter(|f| f.peer.is_some()).count();
        if self.coming.is_empty() || under_way >= MAX_LAN {
            return;
        }
        let late = self.late_chunks(cx);
        let per_peer = self.pace.per_peer();
        while under_way < MAX_LAN
            && let Some(peer) = self.neighbours.next(per_peer, now.mono, &mut cx.rng)
        {
            let Some((payload, run)) = self.pick(&peer, &late, cx, view) else {
                // It has nothing more that is not under way, and leaves the order.
                self.neighbours.change(&peer, &mut cx.rng, |_| ());
                continue;
            };
            if let Some(swarm) = self.map.get_mut(&payload).and_then(Download::swarm_mut) {
                swarm.begun(run.clone());
            }
            let fetch = cx.fetch_id();
            let (first, count) = (run.start, run.end - run.start);
            let begun = Fetch { payload, run, peer: Some(peer), began: now.mono, moved: now.mono };
            self.fetches.insert(fetch, begun);
            self.neighbours.change(&peer, &mut cx.rng, |neighbour| {
                neighbour.outstanding += 1;
                neighbour.asked.get_or_insert(now.mono);
            });
            cx.out.push_back(Output::Fetch { fetch, from: FetchFrom::Peer(peer), payload, first, count });
            under_way += 1;
        }
    }

    /// What to ask a neighbour for: the first payload of which it has something that is not under way; else what is late.
    fn pick(
        &mut self,
        peer: &DeviceId,
        late: &BTreeMap<PayloadId, BTreeSet<u32>>,
        cx: &mut Cx,
        view: View<'_>,
    ) -> Option<(PayloadId, Range<u32>)> {
        let (none, most) = (BTreeSet::new(), self.pace.block());
        while let Some(order) = self.neighbours.first_offer(peer) {
            let (_, payload) = order;
            let download = self.map.get(&payload).filter(|d| d.is_fetching_on_the_lan());
            let swarm = download.and_then(Download::swarm).filter(|_| view.standing.may_move(&payload));
            let share = self.news.share(&payload);
            if let Some(run) = swarm.and_then(|swarm| swarm.pick(peer, &share, &none, most, &mut cx.rng)) {
                return Some((payload, run));
            }
            self.neighbours.offers_not(peer, &order);
        }
        late.iter().find_map(|(payload, late)| {
            let swarm = self.map.get(payload)?.swarm()?;
            Some((*payload, swarm.pick(peer, &Share::whole(), late, most, &mut cx.rng)?))
        })
    }

    /// Of payloads in their endgame, the chunks whose fetches from neighbours have not moved for a while. They are looked at
    /// again when more of them may be late. One that takes no longer than others do is not late.
    fn late_chunks(&mut self, cx: &mut Cx) -> BTreeMap<PayloadId, BTreeSet<u32>> {
        let now = cx.now;
        let patience = LATE.max(self.pace.takes * 3);
        let (mut late, mut next) = (BTreeMap::<_, BTreeSet<u32>>::new(), None);
        for fetch in self.fetches.values() {
            let swarm = self.map.get(&fetch.payload).and_then(Download::swarm);
            if !swarm.is_some_and(Swarm::in_endgame) {
                continue;
            }
            let at = fetch.moved + patience;
            if at <= now.mono {
                late.entry(fetch.payload).or_default().extend(fetch.run.clone());
            } else {
                next = Some(next.map_or(at, |next: Mono| next.min(at)));
            }
        }
        if let Some(at) = next {
            cx.timer(Reason::Pump, at);
        }
        for payload in late.keys() {
            self.offered_by_all(payload, &mut cx.rng);
        }
        late
    }

    pub(in crate::node) fn chunk_stored(
        &mut self,
        fetch: FetchId,
        payload: PayloadId,
        chunk: u32,
        cx: &mut Cx,
        view: View<'_>,
    ) {
        let now = cx.now;
        let (peer, waited) = match self.fetches.get_mut(&fetch) {
            Some(fetch) => {
                let waited = now.mono.since(fetch.moved);
                fetch.moved = now.mono;
                (fetch.peer, waited)
            }
            None => (None, Duration::ZERO),
        };
        let from_cache = peer.is_some_and(|peer| self.neighbours.is_cache(&peer));
        let Some(download) = self.map.get_mut(&payload) else { return };
        let own = download.own.contains_key(&fetch);
        let stood_still = download.still(now) > STILL;
        let Some(swarm) = download.swarm_mut() else { return };
        let Some(len) = swarm.list().chunks().get(chunk as usize).map(|c| u64::from(c.len)) else { return };
        let news = swarm.stored(chunk);
        let complete = swarm.missing() == 0;
        if let Some(peer) = peer.filter(|_| waited < GIVES_IN_TIME) {
            swarm.believe(&peer);
            self.neighbours.change(&peer, &mut cx.rng, |neighbour| neighbour.doubts = 0);
        }
        let extent = swarm.extent_of(chunk);
        if !own && news {
            download.leases.evidence(now.mono, extent);
        }
        download.moved = now.mono;
        if own {
            self.wan.progress += len;
            self.look_after_wan(cx, view);
        }
        if !news {
            self.wasted += len;
            return;
        }
        self.flow.came(len, now.mono);
        let bytes = &mut self.bytes;
        *match peer {
            None => &mut bytes.origin,
            Some(_) if from_cache => &mut bytes.cache,
            Some(_) => &mut bytes.lan_peer,
        } += len;
        if let Some(peer) = peer {
            self.neighbours.gave(&peer, len);
        }
        self.chunk_is_news(payload, chunk, peer.is_none(), cx);
        if complete {
            self.completed(payload, cx);
        } else if stood_still {
            self.effects.push_back(Effect::Moved(payload));
        }
    }

    pub(super) fn completed(&mut self, payload: PayloadId, cx: &mut Cx) {
        self.cancel_fetches_of(&payload, cx);
        self.drop_claims(&payload, cx);
        self.refile(&payload, &mut cx.rng);
        if self.map.get_mut(&payload).is_some_and(|download| core::mem::take(&mut download.heals)) {
            // Also those that have everything: they know what was lost.
            self.tell_all_of(payload, cx);
        }
        self.effects.push_back(Effect::Stake(payload));
        // Of many payloads the regular reports of progress tell, and note the bytes.
        if self.fetching.is_empty() {
            self.effects.push_back(Effect::AllHere);
            self.effects.push_back(Effect::Report);
        }
        self.effects.push_back(Effect::Moved(payload));
    }

    pub(in crate::node) fn chunk_rejected(&mut self, fetch: FetchId, payload: PayloadId, chunk: u32, cx: &mut Cx) {
        let now = cx.now;
        match self.fetches.get(&fetch).map(|f| f.peer) {
            Some(Some(peer)) => self.ban(peer, format!("it served a chunk that is not what it should be ({chunk})")),
            Some(None) => {
                let Some(download) = self.map.get_mut(&payload) else { return };
                let trouble = format!(
                    "the origin serves other bytes than the release names (payload {}, chunk {chunk})",
                    download.payload.name
                );
                let first = download.origin_trouble.as_ref() != Some(&trouble);
                download.origin_failures += 1;
                download.origin_next = now.mono + backoff(download.origin_failures, Duration::from_secs(300)) * 2;
                download.origin_trouble = Some(trouble.clone());
                cx.out.push_back(Output::Cancel { fetch });
                if first {
                    cx.alarm(Trouble::Origin, trouble);
                }
                self.effects.push_back(Effect::Moved(payload));
            }
            None => {}
        }
    }

    pub(in crate::node) fn fetch_ended(
        &mut self,
        id: FetchId,
        result: Result<(), FetchError>,
        cx: &mut Cx,
        view: View<'_>,
    ) {
        let now = cx.now;
        let Some(Fetch { payload, run, peer, began, .. }) = self.fetches.remove(&id) else { return };
        if let Some(peer) = peer {
            let ended = |neighbour: &mut Neighbour| neighbour.outstanding = neighbour.outstanding.saturating_sub(1);
            self.neighbours.change(&peer, &mut cx.rng, ended);
        }
        let Some(download) = self.map.get_mut(&payload) else { return };
        let own = download.own.remove(&id);
        if let Phase::Open(swarm) = &mut download.phase {
            if peer.is_some() && result.is_ok() {
                let bytes = swarm.list().byte_range(run.clone());
                self.pace.block_came(bytes.end - bytes.start, now.mono.since(began));
            }
            swarm.ended(run.clone());
            if let (Some(peer), Err(FetchError::Status(BlockStatus::NotHeld))) = (&peer, &result) {
                swarm.peer_lacks(peer, run.clone());
            }
            if !run.clone().all(|chunk| swarm.have().get(chunk)) {
                self.offered_by_all(&payload, &mut cx.rng);
            }
        }
        if let Some(peer) = &peer {
            self.doubt_if_it_gives_nothing(payload, peer, cx);
        }
        let Some(download) = self.map.get_mut(&payload) else { return };
        let failed = !matches!(result, Ok(()) | Err(FetchError::Canceled));
        let trouble = download.origin_trouble.is_some();
        match (peer, result) {
            (None, Ok(())) => {
                download.origin_failures = 0;
                download.origin_trouble = None;
            }
            (_, Ok(()) | Err(FetchError::Canceled)) => {}
            (_, Err(FetchError::Store(reason))) => {
                download.phase = Phase::Failed { reason, retry: now.mono + Duration::from_secs(60) };
                cx.timer(Reason::Lease(payload), now.mono + Duration::from_secs(61));
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
                cx.timer(Reason::Lease(payload), now.mono + wait);
            }
            (Some(peer), Err(error)) => {
                let pause = match error {
                    FetchError::Status(BlockStatus::Busy) => Duration::from_millis(10),
                    FetchError::Status(BlockStatus::NotHeld) => Duration::ZERO,
                    _ => Duration::from_secs(2),
                };
                let pause = pause + cx.rng.jitter(pause * 3);
                self.neighbours.rest(&peer, now.mono + pause, &mut cx.rng);
                if !pause.is_zero() {
                    cx.timer(Reason::Pump, now.mono + pause);
                }
                if let FetchError::Wrong(reason) = error {
                    self.ban(peer, format!("it answered with something else than was asked for: {reason}"));
                }
            }
        }
        if let Some(extent) = own {
            self.own_fetch_ended(payload, extent, failed, cx, view);
        }
        self.refile(&payload, &mut cx.rng);
        self.ask_neighbours(cx, view);
        if failed || trouble {
            self.effects.push_back(Effect::Moved(payload));
        }
    }

    /// Busy, late or silent: for a while that is anybody's right. Then what it says it holds counts no more, until it gives.
    fn doubt_if_it_gives_nothing(&mut self, payload: PayloadId, peer: &DeviceId, cx: &mut Cx) {
        let now = cx.now;
        let asked = self.neighbours.get(peer).and_then(|neighbour| neighbour.asked);
        if asked.is_none_or(|asked| now.mono.since(asked) < GIVES_WITHIN) {
            return;
        }
        let Some(download) = self.map.get_mut(&payload) else { return };
        download.leases.doubt_holder(*peer);
        if download.swarm_mut().is_some_and(|swarm| swarm.doubt(peer)) {
            self.refile(&payload, &mut cx.rng);
            cx.timer(Reason::Lease(payload), now.mono);
        }
        // What it was asked for is asked of others, and itself more and more rarely.
        let doubts = self.neighbours.get(peer).map_or(0, |neighbour| neighbour.doubts).min(6);
        self.neighbours.change(peer, &mut cx.rng, |neighbour| {
            (neighbour.asked, neighbour.doubts) = (None, doubts + 1);
            neighbour.busy_until = neighbour.busy_until.max(now.mono + BLOCK_WITHIN * (1 << doubts));
        });
        cx.timer(Reason::Pump, now.mono + BLOCK_WITHIN * (1 << doubts));
        let asked = self.fetches.iter().filter(|(_, fetch)| fetch.peer.as_ref() == Some(peer));
        cx.out.extend(asked.map(|(id, _)| Output::Cancel { fetch: *id }));
    }

    /// Blocks that do not come are asked of someone else. Over the WAN the driver notices a stall itself.
    pub(in crate::node) fn give_up_stalled(&mut self, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        let slow: Vec<_> = self
            .fetches
            .iter()
            .filter(|(_, f)| f.peer.is_some() && now.mono.since(f.moved) > BLOCK_WITHIN)
            .map(|(id, f)| (*id, f.peer))
            .collect();
        let waited = self.fetches.values().filter_map(|f| Some((f.payload, f.peer?)));
        for (payload, peer) in waited.collect::<BTreeSet<_>>() {
            self.doubt_if_it_gives_nothing(payload, &peer, cx);
        }
        for (fetch, peer) in slow {
            if let Some(peer) = peer {
                self.neighbours.rest(&peer, now.mono + BLOCK_WITHIN, &mut cx.rng);
            }
            cx.out.push_back(Output::Cancel { fetch });
        }
        if !self.fetches.is_empty() {
            cx.timer(Reason::Stalls, now.mono + Duration::from_secs(1));
        }
        self.ask_neighbours(cx, view);
    }

    /// Grants or denies a request: members of this site only, documents that are here, verified chunks only as long as there are
    /// slots.
    pub(in crate::node) fn block_requested(
        &mut self,
        peer: DeviceId,
        serve: u64,
        what: BlockWhat,
        document: Option<ServeWhat>,
        cx: &mut Cx,
        view: View<'_>,
    ) {
        let granted = self.grant(peer, &what, document, cx, view);
        match granted {
            Ok(what) => {
                if let ServeWhat::Chunks { .. } = what {
                    self.serving.insert(serve, peer);
                }
                cx.out.push_back(Output::Serve { serve, what });
            }
            Err(status) => cx.out.push_back(Output::Deny { serve, status }),
        }
    }

    fn grant(
        &self,
        peer: DeviceId,
        what: &BlockWhat,
        document: Option<ServeWhat>,
        cx: &Cx,
        view: View<'_>,
    ) -> Result<ServeWhat, BlockStatus> {
        if self.neighbours.get(&peer).is_none() {
            return Err(BlockStatus::Refused);
        }
        let BlockWhat::Chunks { payload, first, count } = *what else {
            return document.ok_or(BlockStatus::NotHeld);
        };
        let swarm = self.map.get(&payload).and_then(Download::swarm).ok_or(BlockStatus::NotHeld)?;
        if !view.standing.may_move(&payload) {
            return Err(BlockStatus::NotHeld);
        }
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
        let theirs = self.serving.values().filter(|to| **to == peer).count();
        if self.serving.len() >= cx.config.upload_slots || theirs >= SLOTS_PER_PEER {
            return Err(BlockStatus::Busy);
        }
        Ok(ServeWhat::Chunks { payload, first, count, len: len as u32 })
    }
}
