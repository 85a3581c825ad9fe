//! What of a payload this node fetches over the WAN, and what it tells and hears of who does.

use super::*;

impl NodeState {
    /// A member is gone: its leases are free.
    pub(in crate::node_state) fn candidates_departed(&mut self, device: &DeviceId, now: Now) {
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
    pub(in crate::node_state) fn candidates_changed(&mut self, now: Now) {
        let fetching: Vec<_> = self.downloads.map.iter().filter(|(_, d)| d.wanted).map(|(id, _)| *id).collect();
        for payload in fetching {
            let candidates = self.wan_candidates(&payload, now);
            if let Some(download) = self.downloads.map.get_mut(&payload) {
                download.leases.set_candidates(now.mono, &candidates);
                let at = download.leases.may_begin().max(now.mono);
                self.timer(Reason::Lease(payload), at);
            }
        }
    }

    pub(in crate::node_state) fn lease_taken(&mut self, lease: &Lease, now: Now) -> Verdict {
        let weight = self.membership.get(&lease.device).map_or(1, |member| member.beacon.wan_weight);
        let Some(download) = self.downloads.map.get_mut(&lease.payload) else { return Verdict::Accept };
        if !download.leases.heard(now.mono, lease, weight) {
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
    pub(in crate::node_state) fn look_after_lease(&mut self, payload: PayloadId, now: Now) {
        self.reopen_failed(payload, now);
        let candidates = self.wan_candidates(&payload, now);
        let held = self.held_on_the_lan(&payload, now);
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        if !download.is_fetching() {
            // What was claimed is free, and what is here need not be fetched by others.
            return self.announce_lease(payload, now);
        }
        download.leases.set_candidates(now.mono, &candidates);
        let still = download.still(now);
        let Phase::Open(swarm) = &download.phase else { return };
        let (elsewhere, lacking): (Vec<_>, Vec<_>) =
            swarm.lacking_extents().into_iter().partition(|extent| download.leases.held(*extent));
        if still > BELIEVE_HOLDER {
            download.leases.doubt(&elsewhere);
        }
        if !held {
            download.leases.pass_over_the_idle(now.mono, &lacking);
            self.fetch_over_wan(payload, now);
        }
        self.announce_lease(payload, now);
        let Some(download) = self.downloads.map.get(&payload) else { return };
        let begin = download.leases.may_begin();
        let again = now.mono + download.lease_every(now.mono);
        let next = if begin <= now.mono || (begin > again && !download.own.is_empty()) { again } else { begin };
        self.timer(Reason::Lease(payload), next);
        self.timer(Reason::Stalls, now.mono + Duration::from_secs(1));
        self.payload_moved(&payload, now);
    }

    /// Something has changed that lets this node begin sooner.
    pub(in crate::node_state) fn look_after_all_leases(&mut self, now: Now) {
        let fetching: Vec<_> = self.downloads.map.iter().filter(|(_, d)| d.is_fetching()).map(|(id, _)| *id).collect();
        fetching.into_iter().for_each(|payload| self.timer(Reason::Lease(payload), now.mono));
    }

    /// Whether this node fetches while its site is still getting to know itself. Only one can: the first that has come to the
    /// coordinator, and only while it hears of nobody else at work.
    fn opens(&self, payload: &PayloadId, now: Now) -> bool {
        let Some(download) = self.downloads.map.get(payload) else { return false };
        let first = self.peers.first_of_site && now.mono < self.started + OPENING_AFTER_START;
        first && self.wan_weight_for(payload) > 1 && download.leases.at_work(now.mono).next().is_none()
    }

    /// Who may fetch a payload for the site. Nothing comes from members that this node shuts out, so they count for nothing.
    fn wan_candidates(&self, payload: &PayloadId, now: Now) -> BTreeMap<DeviceId, u8> {
        let mut candidates = self.membership.wan_candidates(payload, self.wan_weight_for(payload));
        candidates.retain(|device, _| !self.peers.is_banned(device, now.mono));
        candidates
    }

    /// Whether some member holds all of it and there is no sign that this is a lie: then nothing need cross the WAN.
    pub(super) fn held_on_the_lan(&self, payload: &PayloadId, now: Now) -> bool {
        let Some(download) = self.downloads.map.get(payload) else { return false };
        let mut holders = self.membership.holders(payload);
        download.still(now) < BELIEVE_HOLDER && holders.any(|(device, _)| !self.peers.is_banned(device, now.mono))
    }

    fn fetch_over_wan(&mut self, payload: PayloadId, now: Now) {
        let company = self.started + LONELY_AFTER_START;
        if now.mono < company && self.peers.members().next().is_none() {
            self.timer(Reason::Lease(payload), company);
            return;
        }
        let weight = self.wan_weight_for(&payload);
        let origins = self.origins();
        let opens = self.opens(&payload, now);
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        let Phase::Open(swarm) = &mut download.phase else { return };
        let settled = now.mono >= download.leases.may_begin();
        if weight == 0 || download.origin_next > now.mono || !(settled || opens) {
            return;
        }
        let joined = self.started + JOINING_AFTER_START;
        if now.mono < joined && download.began.is_none() && swarm.peers().any(|(_, map)| map.count() > 0) {
            self.timer(Reason::Lease(payload), joined);
            return;
        }
        // One after the other rather than side by side: what comes sooner spreads sooner, and at the end less is left to spread.
        let ending = |fetch: &FetchId| {
            let run = self.downloads.fetches.get(fetch).map_or(0..0, |fetch| fetch.run.clone());
            run.filter(|chunk| !swarm.have().get(*chunk)).count() <= ENDING
        };
        if download.own.len() >= MAX_WAN || !download.own.keys().all(ending) {
            return;
        }
        let mut lacking = swarm.lacking_extents();
        if opens {
            // From the other end than those who come after: its last is not their first.
            lacking.reverse();
        }
        let next = lacking.into_iter().find_map(|extent| {
            let under_way = download.own.values().any(|own| *own == extent);
            let mine = opens || download.leases.mine(now.mono, extent);
            let free = !under_way && !download.leases.held(extent) && mine;
            Some((extent, swarm.wan_run(extent).filter(|_| free)?))
        });
        let Some((extent, run)) = next else { return };
        swarm.begun(run.clone());
        let urls = if download.payload.urls.is_empty() {
            origins.iter().map(|base| format!("{}/payload/{payload}", base.trim_end_matches('/'))).collect()
        } else {
            download.payload.urls.iter().map(|url| url.to_string()).collect()
        };
        if settled {
            download.leases.freeze();
        }
        download.began.get_or_insert(now.mono);
        let fetch = self.fetch_id();
        let (first, count) = (run.start, run.end - run.start);
        self.downloads.fetches.insert(fetch, Fetch { payload, run, peer: None, moved: now.mono });
        if let Some(download) = self.downloads.map.get_mut(&payload) {
            download.own.insert(fetch, extent);
        }
        // The lease goes out before the request.
        self.announce_lease(payload, now);
        self.output.push_back(Output::Fetch { fetch, from: FetchFrom::Urls(urls), payload, first, count });
    }

    /// Tells the site which extents this node fetches: at every change, and regularly while there are some. One that comes
    /// with extents from an earlier run tells of them once.
    fn announce_lease(&mut self, payload: PayloadId, now: Now) {
        let (company, serves) = (self.peers.members().next().is_some(), self.may_move(&payload));
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        let held = download.swarm().filter(|_| serves).map(Swarm::extents_held).unwrap_or_default();
        let mut extents: Vec<u32> = download.own.values().copied().collect();
        extents.sort_unstable();
        extents.dedup();
        let due = match &download.lease_sent {
            None => !extents.is_empty() || (company && !held.is_empty() && !download.is_complete()),
            Some((at, sent)) => {
                let every = download.lease_every(now.mono) * 9 / 10;
                *sent != extents || (!extents.is_empty() && now.mono.since(*at) >= every)
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
            held: Bounded::truncated(held),
            progress: download.own_bytes,
        };
        match envelope::sign(Kind::Lease, Role::Device, &lease, &[&self.config.key]) {
            Ok(bytes) => self.output.push_back(Output::Publish { topic: Topic::Site(lease.site), bytes }),
            Err(error) => self.output.push_back(Output::Alarm(format!("a lease was not announced: {error}"))),
        }
    }

    pub(super) fn reopen_failed(&mut self, payload: PayloadId, now: Now) {
        let Some(download) = self.downloads.map.get_mut(&payload) else { return };
        if let Phase::Failed { retry, .. } = &download.phase
            && *retry <= now.mono
        {
            download.phase = Phase::List;
            self.timer(Reason::Documents, now.mono);
        }
    }
}
