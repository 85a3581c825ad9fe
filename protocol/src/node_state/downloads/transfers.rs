//! Blocks from neighbours and to them, and what came of each fetch.

use super::*;

impl NodeState {
    /// A granted request is over: its slot is free.
    pub(in crate::node_state) fn served(&mut self, serve: u64, bytes: u64) {
        let to = self.downloads.serving.remove(&serve);
        if let Some(peer) = to.and_then(|to| self.peers.connected.get_mut(&to)) {
            peer.taken += bytes;
        }
    }

    /// Asks neighbours for blocks, the least busy first.
    pub(in crate::node_state) fn ask_neighbours(&mut self, now: Now) {
        self.ask(None, now);
    }

    /// The same, of one neighbour only: the others have nothing new.
    pub(super) fn ask(&mut self, only: Option<DeviceId>, now: Now) {
        let wanted = self.downloads.map.iter().filter(|(_, d)| d.is_fetching()).map(|(id, _)| *id);
        let wanted: Vec<_> = wanted.filter(|id| self.may_move(id)).collect();
        let mut under_way = self.downloads.fetches.values().filter(|f| f.peer.is_some()).count();
        if wanted.is_empty() || under_way >= MAX_LAN {
            return;
        }
        let ready = |p: &Peer| p.outstanding < PER_PEER && p.busy_until <= now.mono;
        let late: BTreeMap<_, _> = wanted.iter().map(|id| (*id, self.late_chunks(id, now))).collect();
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
                    Some((*id, swarm.pick(peer, late.get(id)?, &mut self.rng)?))
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

    /// The chunks of a payload in its endgame whose fetches have not moved for a while. They are looked at again when more of
    /// them may be late.
    fn late_chunks(&mut self, payload: &PayloadId, now: Now) -> BTreeSet<u32> {
        let mut late = BTreeSet::new();
        if !self.downloads.map.get(payload).and_then(Download::swarm).is_some_and(Swarm::in_endgame) {
            return late;
        }
        let mut next = None;
        for fetch in self.downloads.fetches.values().filter(|fetch| fetch.payload == *payload) {
            let at = fetch.moved + LATE;
            if at <= now.mono {
                late.extend(fetch.run.clone());
            } else {
                next = Some(next.map_or(at, |next: Mono| next.min(at)));
            }
        }
        if let Some(at) = next {
            self.timer(Reason::Pump, at);
        }
        late
    }

    pub(in crate::node_state) fn chunk_stored(&mut self, fetch: FetchId, payload: PayloadId, chunk: u32, now: Now) {
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
        let missing = swarm.have().len() - swarm.have().count();
        let (complete, nearly) = (missing == 0, missing <= LAST_CHUNKS);
        download.moved = now.mono;
        if own {
            download.own_bytes += len;
            self.timer(Reason::Lease(payload), now.mono);
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
        let wait = if peer.is_none() || nearly { ANNOUNCE_FIRST } else { ANNOUNCE_AFTER };
        self.timer(Reason::Announce, now.mono + wait);
        if complete {
            self.announce_chunks();
            self.completed(payload, now);
        }
    }

    pub(super) fn completed(&mut self, payload: PayloadId, now: Now) {
        let spare: Vec<_> =
            self.downloads.fetches.iter().filter(|(_, f)| f.payload == payload).map(|(id, _)| *id).collect();
        self.output.extend(spare.into_iter().map(|fetch| Output::Cancel { fetch }));
        self.beacon_soon(now);
        self.persist_counters();
        self.report_soon(now);
        self.payload_moved(&payload, now);
    }

    /// Tells each neighbour of those new chunks that it still lacks, or when this node has got the last one, that it has all.
    pub(in crate::node_state) fn announce_chunks(&mut self) {
        let mut messages = Vec::new();
        for (payload, chunks) in core::mem::take(&mut self.downloads.news) {
            let Some(swarm) = self.downloads.map.get(&payload).and_then(Download::swarm) else { continue };
            if !self.may_move(&payload) {
                continue;
            }
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

    pub(in crate::node_state) fn chunk_rejected(&mut self, fetch: FetchId, payload: PayloadId, chunk: u32, now: Now) {
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

    pub(in crate::node_state) fn fetch_ended(&mut self, id: FetchId, result: Result<(), FetchError>, now: Now) {
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
    pub(in crate::node_state) fn give_up_stalled(&mut self, now: Now) {
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

    /// Grants or denies a block request: members of this site only, verified chunks only, as long as there are slots.
    pub(in crate::node_state) fn block_requested(&mut self, peer: DeviceId, serve: u64, what: BlockWhat) {
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
        if !self.may_move(&payload) {
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
        let theirs = self.downloads.serving.values().filter(|to| **to == peer).count();
        if self.downloads.serving.len() >= self.config.upload_slots || theirs >= SLOTS_PER_PEER {
            return Err(BlockStatus::Busy);
        }
        Ok(ServeWhat::Chunks { payload, first, count, len: len as u32 })
    }
}
