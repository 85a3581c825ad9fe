//! What this node fetches over the WAN, payload after payload, and what it tells and hears of who does.
//!
//! It keeps so much under way that the line is never still, and no more. Who is to fetch an extent is for
//! [`crate::lease::Leases`] to say.

use super::*;
use crate::lease::{LEASE_FRESH, STALL, Word};
use crate::wire;

/// Requests over the WAN at a time.
pub(super) const MAX_WAN: usize = 4;
/// The next request goes out when no more bytes than this are to come: what a line of 100 Mbit/s brings in 30 ms. So the pause
/// between one answer and the next request is hidden, for small payloads too.
const AHEAD: u64 = 768 << 10;
/// Extents are claimed until so many bytes are: one of a large payload, which has at least as many, or several small payloads
/// in one message.
const BATCH: u64 = 1 << 20;
const MAX_NEXT: usize = 16;
/// What was claimed and is free again is told after this, unless there is something else to tell.
const RELEASE_AFTER: Duration = Duration::from_millis(100);
/// After the site was asked to look at this node's record most have done so.
const KNOWN_BY_MOST: Duration = Duration::from_millis(600);
/// For this long after its first WAN byte a holder repeats its lease often, for those who start at about the same time.
const EARLY: Duration = Duration::from_millis(1500);
const EARLY_EVERY: Duration = Duration::from_millis(250);
/// How often it is looked whether the order of a payload's fetchers still holds; the more rarely, the more payloads there
/// are, a multiple for so many.
const LOOK_EVERY: Duration = Duration::from_millis(1000);
const LOOK_AT: u32 = 128;
/// Claims in one message take so many bytes at most; the envelope takes the rest of [`wire::MAX_GOSSIP`].
const CLAIM_BYTES: usize = 3600;
/// Payloads that are remembered of a member at work.
const MAX_ON: usize = 256;

/// A member as its leases show it.
#[derive(Debug)]
struct Worker {
    seq: u64,
    progress: u64,
    moved: Mono,
    heard: Mono,
    /// Payloads of which it fetches something.
    on: BTreeSet<PayloadId>,
}

/// This node's WAN fetches of all payloads, and who else is at work.
#[derive(Debug, Default)]
pub(super) struct Wan {
    /// Payloads of which there may be something to claim, in this node's own order.
    due: BTreeSet<(u64, PayloadId)>,
    /// Extents that are claimed and not yet asked for.
    next: VecDeque<(PayloadId, u32)>,
    /// Payloads of which something is claimed.
    claimed: BTreeSet<PayloadId>,
    /// Payloads of which the site has not been told what has changed.
    changed: BTreeSet<PayloadId>,
    /// Whether that is a claim.
    urgent: bool,
    /// Payload bytes that have come in this run.
    pub(super) progress: u64,
    began: Option<Mono>,
    said: Option<Mono>,
    seq: u64,
    workers: BTreeMap<DeviceId, Worker>,
}

impl Wan {
    /// How often this node repeats its leases.
    fn say_every(&self, now: Mono) -> Duration {
        if self.began.is_some_and(|began| now.since(began) < EARLY) { EARLY_EVERY } else { LEASE_EVERY }
    }

    fn heard(&mut self, lease: &Lease, now: Mono) {
        let fresh = Worker { seq: 0, progress: u64::MAX, moved: now, heard: now, on: BTreeSet::new() };
        let worker = self.workers.entry(lease.device).or_insert(fresh);
        if worker.seq >= lease.seq {
            return;
        }
        (worker.seq, worker.heard) = (lease.seq, now);
        if worker.progress != lease.progress {
            (worker.progress, worker.moved) = (lease.progress, now);
        }
        for claim in &lease.claims {
            if !claim.extents.is_empty() && worker.on.len() < MAX_ON {
                worker.on.insert(claim.payload);
            } else {
                worker.on.remove(&claim.payload);
            }
        }
    }

    /// Whether another member fetches something over the WAN now.
    fn is_at_work(&self, member: &DeviceId, now: Mono) -> bool {
        self.workers.get(member).is_some_and(|worker| worker.is_at_work(now))
    }

    fn anyone_at_work(&self, now: Mono) -> bool {
        self.workers.values().any(|worker| worker.is_at_work(now))
    }
}

impl Worker {
    fn is_at_work(&self, now: Mono) -> bool {
        !self.on.is_empty() && now.since(self.heard) < LEASE_FRESH && now.since(self.moved) < STALL
    }
}

impl Downloads {
    /// The leases of a payload know these members.
    fn concern(&mut self, members: impl Iterator<Item = DeviceId>, payload: &PayloadId) {
        for member in members {
            self.concerned.entry(member).or_default().insert(*payload);
        }
    }
}

impl Downloads {
    /// A member is gone: its leases are free.
    pub(in crate::node) fn member_left(&mut self, device: &DeviceId, cx: &mut Cx) {
        let now = cx.now;
        self.wan.workers.remove(device);
        for payload in self.concerned.remove(device).unwrap_or_default() {
            let Some(download) = self.map.get_mut(&payload) else { continue };
            download.leases.departed(now.mono, device);
            let at = download.leases.may_begin().max(now.mono);
            cx.timer(Reason::Lease(payload), at);
        }
    }

    /// Others are ready to fetch a payload, or hold it, or no longer.
    pub(in crate::node) fn candidates_changed(&mut self, payload: &PayloadId, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        let candidates = self.wan_candidates(payload, cx, view);
        if let Some(download) = self.map.get_mut(payload).filter(|download| download.wanted) {
            download.leases.set_candidates(now.mono, &candidates);
            let at = download.leases.may_begin().max(now.mono);
            cx.timer(Reason::Lease(*payload), at);
            self.concern(candidates.into_keys(), payload);
        }
    }

    /// Whether a member was given its turn to fetch a payload and did not take it.
    pub(in crate::node) fn is_passed_over(&self, payload: &PayloadId, device: &DeviceId) -> bool {
        self.map.get(payload).is_some_and(|download| download.leases.is_passed_over(device))
    }

    /// Whether a member's word that it holds a payload counts.
    pub(in crate::node) fn believes_holder(&self, payload: &PayloadId, device: &DeviceId) -> bool {
        self.map.get(payload).is_none_or(|download| download.leases.believes(device))
    }

    /// A member's word about what it fetches.
    pub(in crate::node) fn lease_taken(&mut self, lease: &Lease, cx: &mut Cx, view: View<'_>) -> Verdict {
        let now = cx.now;
        let weight = view.membership.get(&lease.device).map_or(1, |member| member.presence.wan_weight);
        self.wan.heard(lease, now.mono);
        let word = Word { device: lease.device, seq: lease.seq };
        let mut news = false;
        for claim in &lease.claims {
            let Some(download) = self.map.get_mut(&claim.payload) else {
                news = true;
                continue;
            };
            if !download.leases.heard(now.mono, &word, claim, weight) {
                continue;
            }
            news = true;
            self.concerned.entry(lease.device).or_default().insert(claim.payload);
            // Two at work on one extent: the one who comes later in the order gives way.
            let leases = &download.leases;
            let outranked = download.claims.iter().filter(|extent| leases.outranked(now.mono, **extent));
            for extent in outranked.copied().collect::<Vec<_>>() {
                self.give_way(claim.payload, extent, cx);
            }
            if claim.extents.is_empty() {
                cx.timer(Reason::Lease(claim.payload), now.mono + lease::QUIET);
            }
        }
        if news { Verdict::Accept } else { Verdict::Ignore }
    }

    fn give_way(&mut self, payload: PayloadId, extent: u32, cx: &mut Cx) {
        let Some(download) = self.map.get_mut(&payload) else { return };
        let fetches = download.own.iter().filter(|(_, own)| **own == extent).map(|(fetch, _)| *fetch);
        cx.out.extend(fetches.map(|fetch| Output::Cancel { fetch }));
        self.unclaim(payload, extent, cx);
    }

    /// Looks after one payload's leases: passes over the idle, and has this node fetch what has become its to fetch.
    pub(in crate::node) fn look_after_lease(&mut self, payload: PayloadId, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        self.reopen_failed(payload, cx);
        let candidates = self.wan_candidates(&payload, cx, view);
        let held = self.held_on_the_lan(&payload, cx, view);
        let (company, serves) = (!self.neighbours.is_empty(), view.standing.may_move(&payload));
        let again = now.mono + LOOK_EVERY * (1 + self.fetching.len() as u32 / LOOK_AT);
        let Downloads { map, wan, flow, .. } = self;
        let Some(download) = map.get_mut(&payload).filter(|download| download.is_fetching()) else { return };
        download.leases.set_candidates(now.mono, &candidates);
        let stuck = download.stuck(flow, now);
        let Phase::Open(swarm) = &download.phase else { return };
        let (elsewhere, lacking): (Vec<_>, Vec<_>) =
            swarm.lacking_extents().into_iter().partition(|extent| download.leases.held(*extent));
        if stuck > BELIEVE_HOLDER {
            download.leases.doubt(&elsewhere);
            let holders = view.membership.holders(PayloadKey::from(&payload));
            holders.for_each(|device| download.leases.doubt_holder(*device));
        }
        // The first in order begins whatever others have leased, when nothing comes from anybody.
        let mine = lease::score(payload.as_bytes(), &cx.me, view.standing.wan_weight_for(&payload));
        let rank = lease::expected_rank(mine, view.membership.weights());
        let patience = flow.patience(swarm.list().sizes().average);
        let turn = patience.mul_f64(1.0 + rank / lease::BREAK_PER_TURN);
        let breaks = now.mono + turn.saturating_sub(stuck) + Duration::from_millis(1);
        if stuck >= turn && download.origin_next <= now.mono {
            download.leases.break_through(now.mono, patience);
        }
        let owing = download.leases.call_to_account(now.mono);
        let passed =
            !held && download.leases.pass_over_the_idle(now.mono, &lacking, |member| wan.is_at_work(member, now.mono));
        let tells = company && serves && download.tells_held.is_some_and(|at| at <= now.mono);
        if tells && !download.spoken_for && download.holds_untold() {
            // It comes with extents from an earlier run: that is told once.
            wan.changed.insert(payload);
        }
        let begin = download.leases.may_begin();
        let next = if begin <= now.mono { again } else { begin };
        let next = download.tells_held.filter(|at| *at > now.mono).map_or(next, |tells| next.min(tells));
        let next = if stuck < turn { next.min(breaks) } else { next };
        if passed || owing {
            self.effects.push_back(Effect::PassedOver(payload));
        }
        let order = self.order(&payload);
        self.wan.due.insert(order);
        self.concern(candidates.into_keys(), &payload);
        cx.timer(Reason::Lease(payload), next);
        cx.timer(Reason::Stalls, now.mono + Duration::from_secs(1));
        self.look_after_wan(cx, view);
    }

    /// Something has changed that lets this node begin sooner.
    pub(in crate::node) fn look_after_all_leases(&mut self, cx: &mut Cx) {
        let now = cx.now;
        if now.mono >= cx.started + OPENING_AFTER_START {
            return;
        }
        let fetching: Vec<_> = self.fetching.iter().copied().collect();
        fetching.into_iter().for_each(|payload| cx.timer(Reason::Lease(payload), now.mono));
    }

    /// Whether this node fetches while its site is still getting to know itself. Only one can: the first that has come to the
    /// coordinator, and only while it hears of nobody else at work.
    fn opens(&self, payload: &PayloadId, cx: &Cx, view: View<'_>) -> bool {
        let now = cx.now;
        let first = view.first_of_site && now.mono < cx.started + OPENING_AFTER_START;
        first && view.standing.wan_weight_for(payload) > 1 && !self.wan.anyone_at_work(now.mono)
    }

    /// Who may fetch a payload for the site. Nothing comes from members that this node shuts out, so they count for nothing.
    fn wan_candidates(&self, payload: &PayloadId, cx: &Cx, view: View<'_>) -> BTreeMap<DeviceId, u8> {
        let others = view.membership.candidates(PayloadKey::from(payload));
        let mine =
            view.claimed.contains(&PayloadKey::from(payload)).then(|| (cx.me, view.standing.wan_weight_for(payload)));
        let all = others.filter(|(device, _)| !view.is_banned(device, cx.now.mono)).chain(mine);
        all.filter(|(_, weight)| *weight > 0).collect()
    }

    /// Whether some member holds all of it and there is no sign that this is a lie: then nothing need cross the WAN.
    pub(super) fn held_on_the_lan(&self, payload: &PayloadId, cx: &Cx, view: View<'_>) -> bool {
        let now = cx.now;
        let Some(download) = self.map.get(payload) else { return false };
        let mut holders = view.membership.holders(PayloadKey::from(payload));
        let counts = |device: &DeviceId| download.leases.believes(device) && !view.is_banned(device, now.mono);
        download.stuck(&self.flow, now) < BELIEVE_HOLDER && holders.any(counts)
    }

    /// Claims, tells and fetches what is this node's to fetch over the WAN. The claim goes out before the request.
    pub(in crate::node) fn look_after_wan(&mut self, cx: &mut Cx, view: View<'_>) {
        self.claim_more(cx, view);
        self.tell_leases(cx, view);
        self.begin_next(cx, view);
    }

    /// Claims what comes next when little is left of what was claimed: one extent of a large payload, several small payloads.
    fn claim_more(&mut self, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        let mut left = self.wan_left();
        if left > AHEAD || self.wan.next.len() >= MAX_NEXT {
            return;
        }
        while left < BATCH
            && self.wan.next.len() < MAX_NEXT
            && let Some(order) = self.wan.due.first().copied()
        {
            let (_, payload) = order;
            let Some((extent, bytes)) = self.claimable(&payload, cx, view) else {
                self.wan.due.remove(&order);
                continue;
            };
            let Some(download) = self.map.get_mut(&payload) else { return };
            download.claims.insert(extent);
            if now.mono >= download.leases.may_begin() {
                download.leases.freeze();
            }
            let wan = &mut self.wan;
            if wan.claimed.is_empty() && wan.said.is_none_or(|said| now.mono.since(said) > lease::LEASE_FRESH) {
                wan.began = Some(now.mono);
            }
            wan.next.push_back((payload, extent));
            wan.claimed.insert(payload);
            wan.changed.insert(payload);
            wan.urgent = true;
            left += bytes;
            self.effects.push_back(Effect::AtWork(payload));
        }
    }

    /// Bytes of claimed extents that have not come.
    fn wan_left(&self) -> u64 {
        let bytes = |payload: &PayloadId, run: Range<u32>| {
            let swarm = self.map.get(payload).and_then(Download::swarm);
            swarm.map_or(0, |swarm| swarm.missing_bytes(run))
        };
        let begun = self.fetches.values().filter(|fetch| fetch.peer.is_none());
        let begun: u64 = begun.map(|fetch| bytes(&fetch.payload, fetch.run.clone())).sum();
        let next = self.wan.next.iter().map(|(payload, extent)| {
            let swarm = self.map.get(payload).and_then(Download::swarm);
            swarm.map_or(0, |swarm| swarm.wan_bytes(*extent))
        });
        begun + next.sum::<u64>()
    }

    /// An extent of a payload that this node should fetch now, and its bytes.
    fn claimable(&mut self, payload: &PayloadId, cx: &mut Cx, view: View<'_>) -> Option<(u32, u64)> {
        let now = cx.now;
        let weight = view.standing.wan_weight_for(payload);
        let opens = self.opens(payload, cx, view);
        let company = cx.started + LONELY_AFTER_START;
        let joined = cx.started + JOINING_AFTER_START;
        let download = self.map.get(payload).filter(|download| download.is_fetching())?;
        let swarm = download.swarm()?;
        let broken = download.leases.is_broken(now.mono);
        let settled = now.mono >= download.leases.may_begin() || broken;
        if weight == 0
            || download.origin_next > now.mono
            || !(settled || opens)
            || self.held_on_the_lan(payload, cx, view)
        {
            return None;
        }
        if now.mono < company && self.neighbours.is_empty() {
            cx.timer(Reason::Lease(*payload), company);
            return None;
        }
        let began = self.wan.began.is_some();
        if now.mono < joined && !began && swarm.peers().any(|(_, map)| map.count() > 0) {
            cx.timer(Reason::Lease(*payload), joined);
            return None;
        }
        let mut lacking = swarm.lacking_extents();
        if opens {
            // From the other end than those who come after: its last is not their first.
            lacking.reverse();
        }
        if broken && !lacking.is_empty() {
            // Two that begin at the same time begin in different places, and what somebody has leased comes last.
            let start = lease::score(payload.as_bytes(), &cx.me, 1) as usize % lacking.len();
            lacking.rotate_left(start);
            lacking.sort_by_key(|extent| download.leases.is_named(now.mono, *extent));
        }
        lacking.into_iter().find_map(|extent| {
            let mine = opens || download.leases.mine(now.mono, extent);
            let free = mine && !download.claims.contains(&extent) && !download.leases.held(extent);
            let bytes = if free { swarm.wan_bytes(extent) } else { 0 };
            (bytes > 0).then_some((extent, bytes))
        })
    }

    /// Begins the next fetches, one after the other rather than side by side: what comes sooner spreads sooner, and at the end
    /// less is left to spread. The pause between one answer and the next request is hidden.
    fn begin_next(&mut self, cx: &mut Cx, view: View<'_>) {
        loop {
            let begun = self.fetches.values().filter(|fetch| fetch.peer.is_none());
            let (count, left) = begun.fold((0, 0), |(count, left), fetch| {
                let swarm = self.map.get(&fetch.payload).and_then(Download::swarm);
                (count + 1, left + swarm.map_or(0, |swarm| swarm.missing_bytes(fetch.run.clone())))
            });
            if count >= MAX_WAN || left > AHEAD {
                return;
            }
            let Some((payload, extent)) = self.wan.next.pop_front() else { return };
            let swarm = self.map.get(&payload).and_then(Download::swarm);
            match swarm.and_then(|swarm| swarm.wan_run(extent)) {
                Some(run) => self.fetch_over_wan(payload, extent, run, cx, view),
                None => self.unclaim(payload, extent, cx),
            }
        }
    }

    fn fetch_over_wan(&mut self, payload: PayloadId, extent: u32, run: Range<u32>, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        let origins = view.origins(cx);
        let fetch = cx.fetch_id();
        let Some(download) = self.map.get_mut(&payload) else { return };
        download.own.insert(fetch, extent);
        let urls = if download.payload.urls.is_empty() {
            origins.iter().map(|base| format!("{}/payload/{payload}", base.trim_end_matches('/'))).collect()
        } else {
            download.payload.urls.iter().map(|url| url.to_string()).collect()
        };
        if let Some(swarm) = download.swarm_mut() {
            swarm.begun(run.clone());
            if swarm.wan_bytes(extent) > 0 {
                self.wan.next.push_front((payload, extent));
            }
        }
        let (first, count) = (run.start, run.end - run.start);
        self.fetches.insert(fetch, Fetch { payload, run, peer: None, began: now.mono, moved: now.mono });
        cx.out.push_back(Output::Fetch { fetch, from: FetchFrom::Urls(urls), payload, first, count });
    }

    /// A WAN fetch is over: there may be more of its extent to fetch, and of its payload.
    pub(super) fn own_fetch_ended(
        &mut self,
        payload: PayloadId,
        extent: u32,
        failed: bool,
        cx: &mut Cx,
        view: View<'_>,
    ) {
        let now = cx.now;
        let rests = self.map.get(&payload).is_some_and(|download| download.origin_next > now.mono);
        if failed || rests {
            self.drop_claims(&payload, cx);
        }
        if let Some(download) = self.map.get(&payload) {
            let more = download.is_fetching() && download.swarm().is_some_and(|swarm| swarm.wan_bytes(extent) > 0);
            let under_way = download.own.values().any(|own| *own == extent);
            let waits = self.wan.next.contains(&(payload, extent));
            if more && !waits && download.claims.contains(&extent) {
                self.wan.next.push_front((payload, extent));
            } else if !more && !under_way {
                self.unclaim(payload, extent, cx);
            }
        }
        let order = self.order(&payload);
        self.wan.due.insert(order);
        cx.timer(Reason::Lease(payload), now.mono);
        self.look_after_wan(cx, view);
    }

    /// This node fetches an extent no longer, or has it.
    fn unclaim(&mut self, payload: PayloadId, extent: u32, cx: &mut Cx) {
        let now = cx.now;
        let Some(download) = self.map.get_mut(&payload) else { return };
        if !download.claims.remove(&extent) {
            return;
        }
        let none = download.claims.is_empty();
        let wan = &mut self.wan;
        wan.next.retain(|next| *next != (payload, extent));
        wan.changed.insert(payload);
        if none {
            wan.claimed.remove(&payload);
        }
        cx.timer(Reason::Wan, now.mono + RELEASE_AFTER);
    }

    /// The same of everything that this node has claimed of a payload.
    pub(super) fn drop_claims(&mut self, payload: &PayloadId, cx: &mut Cx) {
        let claims = self.map.get(payload).map(|download| download.claims.clone()).unwrap_or_default();
        for extent in claims {
            self.unclaim(*payload, extent, cx);
        }
    }

    /// Tells the site which extents this node fetches: at every change, and regularly while there are some. New claims are told
    /// at once; what is free again waits a moment for others.
    fn tell_leases(&mut self, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        let wan = &mut self.wan;
        let every = wan.say_every(now.mono);
        let repeat = !wan.claimed.is_empty() && wan.said.is_none_or(|said| now.mono.since(said) >= every * 9 / 10);
        let waits = wan.said.map_or(Mono(0), |said| said + RELEASE_AFTER);
        if !wan.urgent && !repeat && (wan.changed.is_empty() || now.mono < waits) {
            if !wan.changed.is_empty() {
                cx.timer(Reason::Wan, waits);
            }
            return;
        }
        // Nobody believes a member whose record it has not seen. Who is at work becomes known by that.
        if !wan.urgent && !view.is_known {
            self.effects.push_back(Effect::Shares);
            return cx.timer(Reason::Wan, now.mono + KNOWN_BY_MOST);
        }
        wan.urgent = false;
        wan.said = Some(now.mono);
        let mut payloads = core::mem::take(&mut wan.changed);
        payloads.extend(&wan.claimed);
        let (mut claims, mut bytes) = (Vec::new(), 0);
        for payload in payloads {
            let serves = view.standing.may_move(&payload);
            let Some(download) = self.map.get_mut(&payload) else { continue };
            download.spoken_for = true;
            let held = download.swarm().filter(|_| serves).map(Swarm::extents_held).unwrap_or_default();
            let extents: Vec<u32> = download.claims.iter().copied().collect();
            let claim = wire::Claim { payload, extents: Bounded::truncated(extents), held: Bounded::truncated(held) };
            let len = 64 + 4 * claim.extents.len() + claim.held.len();
            if bytes + len > CLAIM_BYTES || claims.len() == wire::MAX_CLAIMED {
                self.publish_lease(core::mem::take(&mut claims), cx, view);
                bytes = 0;
            }
            bytes += len;
            claims.push(claim);
        }
        if !claims.is_empty() {
            self.publish_lease(claims, cx, view);
        }
        if !self.wan.claimed.is_empty() {
            cx.timer(Reason::Wan, now.mono + every);
        }
    }

    fn publish_lease(&mut self, claims: Vec<wire::Claim>, cx: &mut Cx, view: View<'_>) {
        let now = cx.now;
        let wan = &mut self.wan;
        wan.seq = (wan.seq + 1).max(now.wall.0);
        let lease = Lease {
            device: cx.me,
            site: view.membership.site(),
            seq: wan.seq,
            progress: wan.progress,
            claims: Bounded::truncated(claims),
        };
        match envelope::sign(Kind::Lease, Role::Device, &lease, &[&cx.config.key]) {
            Ok(bytes) => cx.out.push_back(Output::Publish { topic: Topic::Site(lease.site), bytes }),
            Err(error) => cx.out.push_back(Output::Alarm(format!("a lease was not announced: {error}"))),
        }
    }

    pub(super) fn reopen_failed(&mut self, payload: PayloadId, cx: &mut Cx) {
        let now = cx.now;
        let Some(download) = self.map.get_mut(&payload) else { return };
        let Phase::Failed { retry, .. } = download.phase else { return };
        if retry <= now.mono {
            download.phase = Phase::List;
            self.refile(&payload, &mut cx.rng);
            cx.timer(Reason::Documents, now.mono);
        } else {
            // An earlier look at its leases has taken the timer that was to come then.
            cx.timer(Reason::Lease(payload), retry);
        }
    }
}
