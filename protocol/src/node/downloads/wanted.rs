//! Which payloads are wanted, paused, only served or forgotten, as the deployments and the disk have it, and the way of each to
//! an open swarm: its chunk list, the store's answer. Nothing here asks for bytes.

use super::*;

impl Downloads {
    /// This node needs a payload, or (`wanted` false) serves what it has of it.
    pub(in crate::node) fn want(&mut self, payload: &catalog::Payload, wanted: bool, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        if self.map.get(&payload.id).is_some_and(|download| (download.wanted && !download.paused) || !wanted) {
            return;
        }
        let mut news = false;
        let me = cx.me;
        let settled = (now.mono + SETTLE).max(cx.started + SETTLE_AFTER_START);
        let settled = settled + cx.rng.jitter(Duration::from_millis(50));
        let patience = self.list_patience(&payload.id, cx, view);
        let tells_within = cx.rng.jitter(TELL_HELD_WITHIN);
        let download = self.map.entry(payload.id).or_insert_with(|| {
            news = true;
            Download {
                payload: payload.clone(),
                wanted,
                paused: false,
                heals: false,
                phase: Phase::List,
                leases: Leases::new(payload.id, me, settled),
                since: now.mono,
                moved: Mono(0),
                list_from: now.mono + patience,
                own: BTreeMap::new(),
                claims: BTreeSet::new(),
                spoken_for: false,
                tells_held: None,
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
            download.spoken_for = false;
            download.tells_held = Some(now.mono + tells_within);
            news = true;
        }
        if news {
            self.refile(&payload.id, &mut cx.rng);
            self.tell_all_of(payload.id, cx);
            cx.timer(Reason::Documents, now.mono);
            if wanted {
                self.effects.push_back(Effect::Stake(payload.id));
                cx.timer(Reason::Lease(payload.id), settled);
                // What neighbours told before is not told again.
                cx.timer(Reason::Pump, now.mono);
            }
        }
    }

    /// How long a chunk list may come from neighbours before it is asked for over the WAN: of the site's uplinks each asks
    /// for its share at once.
    fn list_patience(&mut self, payload: &PayloadId, cx: &mut Cx, view: View<'_>) -> Duration {
        if !view.membership.is_uplink(view.standing.wan_weight()) {
            return Duration::from_millis(2500) + cx.rng.jitter(Duration::from_secs(2));
        }
        let (mut place, mut uplinks) = (0, 1);
        for other in view.membership.connected_uplinks() {
            (place, uplinks) = (place + usize::from(*other < cx.me), uplinks + 1);
        }
        if usize::from(payload.0[0]) % uplinks == place { Duration::ZERO } else { Duration::from_millis(1000) }
    }

    /// This node needs a payload no longer. What it has of it may be evicted, and is served until then.
    pub(in crate::node) fn release(&mut self, payload: &PayloadId, cx: &mut Cx) {
        let Some(download) = self.map.get_mut(payload) else { return };
        if !download.wanted {
            return;
        }
        (download.wanted, download.paused) = (false, false);
        cx.out.push_back(Output::Unpin { payload: *payload });
        self.wanted_no_longer(payload, cx);
    }

    /// Nothing more of a payload is fetched until it is wanted again. What is here of it stays, and is served.
    pub(in crate::node) fn pause(&mut self, payload: &PayloadId, cx: &mut Cx) {
        let Some(download) = self.map.get_mut(payload) else { return };
        if !download.wanted || download.paused || download.is_complete() {
            return;
        }
        download.paused = true;
        self.wanted_no_longer(payload, cx);
    }

    fn wanted_no_longer(&mut self, payload: &PayloadId, cx: &mut Cx) {
        self.cancel_fetches_of(payload, cx);
        self.drop_claims(payload, cx);
        self.refile(payload, &mut cx.rng);
        self.tell_all_of(*payload, cx);
        self.effects.push_back(Effect::Stake(*payload));
    }

    pub(super) fn cancel_fetches_of(&mut self, payload: &PayloadId, cx: &mut Cx) {
        let fetches = self.fetches_of(payload);
        cx.out.extend(fetches.into_iter().map(|fetch| Output::Cancel { fetch }));
    }

    /// Payloads that neither a deployment nor the catalog names any more.
    pub(in crate::node) fn keep_only(&mut self, named: &BTreeSet<PayloadId>, cx: &mut Cx) {
        let gone: Vec<_> = self.map.keys().filter(|id| !named.contains(id)).copied().collect();
        for payload in gone {
            self.release(&payload, cx);
            if let Some(download) = self.remove(&payload, &mut cx.rng) {
                if download.swarm().is_some() {
                    self.stored.insert(payload);
                }
                self.tell_nothing_of(payload, cx);
            }
            self.effects.push_back(Effect::Stake(payload));
        }
    }

    pub(in crate::node) fn list_arrived(&mut self, payload: PayloadId, list: Arc<ChunkList>, cx: &mut Cx) {
        let now = cx.now;
        let Some(download) = self.map.get_mut(&payload) else { return };
        if !matches!(download.phase, Phase::List) {
            return;
        }
        if list.payload_len() != download.payload.len {
            let reason = "the chunk list is for a payload of another length".to_owned();
            return self.list_unusable(payload, reason, cx);
        }
        download.phase = Phase::Opening(list);
        self.listed = now.mono;
        self.refile(&payload, &mut cx.rng);
        self.to_open.insert(payload);
        self.open_next(cx);
    }

    /// Has the store ready a few payloads at a time.
    fn open_next(&mut self, cx: &mut Cx) {
        while self.opening < MAX_OPENING
            && let Some(payload) = self.to_open.pop_first()
        {
            let Some(Download { phase: Phase::Opening(list), wanted, .. }) = self.map.get(&payload) else {
                continue;
            };
            self.opening += 1;
            cx.out.push_back(Output::Open { payload, list: list.clone(), pin: *wanted });
        }
    }

    pub(in crate::node) fn list_unusable(&mut self, payload: PayloadId, reason: String, cx: &mut Cx) {
        let now = cx.now;
        if let Some(download) = self.map.get_mut(&payload) {
            let retry = now.mono + Duration::from_secs(3600);
            download.phase = Phase::Failed { reason: StoreError::Failed(reason), retry };
            self.refile(&payload, &mut cx.rng);
        }
        self.effects.push_back(Effect::Moved(payload));
    }

    pub(in crate::node) fn opened(
        &mut self,
        payload: PayloadId,
        result: Result<(Bitmap, u64), StoreError>,
        cx: &mut Cx,
        view: View<'_>,
    ) {
        let now = cx.now;
        self.opening = self.opening.saturating_sub(1);
        self.open_next(cx);
        let Some(download) = self.map.get_mut(&payload) else { return };
        let Phase::Opening(list) = &download.phase else { return };
        match result {
            Ok((have, reused)) if have.len() as usize == list.chunks().len() => {
                // Of many that start together with the same, the first few tell of it.
                let tells = have.count() > 0 && !have.is_full();
                download.tells_held = tells.then(|| now.mono + cx.rng.jitter(TELL_HELD_WITHIN));
                download.phase = Phase::Open(Box::new(Swarm::new(list.clone(), have)));
                download.moved = now.mono;
                self.bytes.local_reuse += reused;
                self.stored.insert(payload);
                self.refile(&payload, &mut cx.rng);
                let tellers: Vec<_> = self.news.tellers(&payload).copied().collect();
                for device in tellers {
                    if !self.note_holding(device, payload, cx) {
                        self.ban(device, "it sent a bitmap of the wrong length".into());
                    }
                }
                self.tell_all_of(payload, cx);
                self.effects.push_back(Effect::Stake(payload));
                cx.timer(Reason::Lease(payload), now.mono);
                self.ask_neighbours(cx, view);
                let complete = self.map.get(&payload).is_some_and(Download::is_complete);
                if self.opening > 0 && !complete {
                    // Of many payloads that are readied, the last tells what has become of all.
                    return;
                }
                self.effects.push_back(Effect::Report);
            }
            Ok(_) => {
                let reason = StoreError::Failed("the store's bitmap has another length than the chunk list".into());
                download.phase = Phase::Failed { reason, retry: now.mono + Duration::from_secs(60) };
            }
            Err(reason) => {
                download.phase = Phase::Failed { reason, retry: now.mono + Duration::from_secs(60) };
                cx.timer(Reason::Lease(payload), now.mono + Duration::from_secs(61));
            }
        }
        self.effects.push_back(Effect::Moved(payload));
    }

    pub(in crate::node) fn evicted(&mut self, payload: PayloadId, cx: &mut Cx) {
        self.stored.remove(&payload);
        self.drop_claims(&payload, cx);
        if self.remove(&payload, &mut cx.rng).is_some() {
            self.tell_nothing_of(payload, cx);
            self.effects.push_back(Effect::Stake(payload));
            self.effects.push_back(Effect::Evicted);
        }
    }

    /// What may move has changed: ends what may not any more, and tells neighbours what they may ask for.
    pub(in crate::node) fn held_back(&mut self, tell: bool, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        // Over the WAN the weight decides, which node.toml may have fixed.
        let stays = |f: &Fetch| match f.peer {
            Some(_) => view.standing.may_move(&f.payload),
            None => view.standing.wan_weight_for(&f.payload) > 0,
        };
        let ended: Vec<_> = self.fetches.iter().filter(|(_, f)| !stays(f)).map(|(id, _)| *id).collect();
        cx.out.extend(ended.into_iter().map(|fetch| Output::Cancel { fetch }));
        let open: Vec<_> = self.map.iter().filter(|(_, d)| d.swarm().is_some()).map(|(id, _)| *id).collect();
        for payload in open {
            if tell && view.standing.may_move(&payload) {
                self.tell_all_of(payload, cx);
            } else if tell {
                self.tell_nothing_of(payload, cx);
            }
            self.offered_by_all(&payload, &mut cx.rng);
            cx.timer(Reason::Lease(payload), now.mono);
        }
        self.ask_neighbours(cx, view);
    }

    /// What this node has to do with a payload, for the site.
    pub(in crate::node) fn stake(&self, payload: &PayloadId, standing: &Standing) -> Option<Stake> {
        let download = self.map.get(payload)?;
        if download.is_complete() {
            return standing.may_move(payload).then_some(Stake::Holds);
        }
        // Whoever does not fetch now must not be waited for.
        let fetches = download.wanted && !download.paused && standing.wan_weight_for(payload) > 0;
        fetches.then_some(Stake::Fetches)
    }

    /// The same of every payload, when what may move has changed.
    pub(in crate::node) fn all_stakes_changed(&mut self, cx: &mut Cx, view: View<'_>) {
        let all: Vec<_> = self.map.keys().copied().collect();
        for payload in all {
            self.effects.push_back(Effect::Stake(payload));
            self.candidates_changed(&payload, cx, view);
        }
    }

    /// Payloads that this node wants and lacks something of.
    pub(in crate::node) fn lacking(&self) -> Vec<PayloadId> {
        let lacking = self.map.iter().filter(|(_, d)| d.wanted && !d.paused && !d.is_complete());
        lacking.map(|(id, _)| *id).collect()
    }

    /// Members that say they hold a payload that is fetched here and of which no neighbour has all: of a few payloads, others
    /// each time.
    pub(in crate::node) fn holders_of_what_is_lacking(
        &self,
        somewhere: PayloadId,
        view: View<'_>,
    ) -> BTreeSet<DeviceId> {
        let sourceless = &self.sourceless;
        let lacking = sourceless.range(somewhere..).chain(sourceless.range(..somewhere)).take(MAX_SOUGHT);
        lacking.flat_map(|id| view.membership.holders(PayloadKey::from(id))).copied().collect()
    }

    /// A member is connected: it is told of everything.
    pub(in crate::node) fn neighbour_came(&mut self, peer: DeviceId, cache: bool, cx: &mut Cx, view: View<'_>) {
        self.neighbours.came(peer, cache);
        self.tell_holdings(peer, cx, view);
    }

    /// It is connected no longer. Returns the payload bytes that it gave.
    pub(in crate::node) fn neighbour_gone(&mut self, peer: DeviceId, cx: &mut Cx) -> u64 {
        let now = cx.now;
        let Some(gone) = self.neighbours.gone(&peer) else { return 0 };
        self.serving.retain(|_, to| *to != peer);
        for payload in gone.payloads() {
            if let Some(swarm) = self.map.get_mut(payload).and_then(Download::swarm_mut) {
                swarm.peer_gone(&peer);
            }
            self.news.told_nothing(&cx.me, &peer, payload);
            self.refile(payload, &mut cx.rng);
        }
        self.news.peer_gone(&peer);
        self.member_left(&peer, cx);
        cx.timer(Reason::Pump, now.mono);
        gone.given
    }
}
