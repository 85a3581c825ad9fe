//! Who fetches what over the WAN: one copy per site without a leader.
//!
//! A payload is cut into fixed *extents* (runs of chunks). Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights
//! as in Schindelhauer and Schomaker 2005) puts the members that want it and may use the WAN in an order. Only the first few,
//! the *candidates*, say so to the site: a member waits in proportion to the number of members that should come before it
//! ([`expected_rank`]) and stays silent when enough of them have spoken. From the candidates everyone computes the same
//! *fetchers* and the same owner of each extent, so nobody has to agree first; a fetcher's [`crate::wire::Lease`] messages
//! tell the others that it is at work.
//!
//! Invariants:
//! * I fetch an extent only while I have said that I am a candidate, am its first living one, and nobody else's fresh lease
//!   names it.
//! * The candidates are frozen when the first lease is seen after this member has settled, so that a latecomer shifts nothing
//!   that is under way.
//! * A candidate that should work and does not is passed over for a while, by everyone for the same observable reason; when
//!   too few are left, those that stayed silent speak.
//! * What some member says it holds is not fetched, until it turns out that it does not come.
//! * **Evidence, not claims.** Chunks that arrive here, verified, or that a neighbour that keeps its word announces are evidence;
//!   the progress that a holder reports counts for nothing. A lease of an extent binds this member only
//!   - while chunks of that extent come (somebody fetches it), or
//!   - from one of the fetchers that comes before this member in the extent's own order, or from one whose leases have brought
//!     something, as long as it owes nothing: it owes when what it names has brought nothing for a *patience* after it named it.
//!     The time counts from its first word about an extent, however often it repeats it, and silence does not end it.
//!
//!   What one owes falls to the next of the fetchers at once. One whose leases bring nothing for [`KEEPS_WORD`] while others bring
//!   [`FEWER`] chunks each is discredited: its leases and candidacy count no more, for a time that doubles. When nothing comes
//!   from anybody, members begin by themselves one after the other in the order of [`expected_rank`].
//!
//!   The bound: the patience depends on the rate at which bytes came before and is [`BREAKS_AFTER`] at least (on a slow line
//!   nobody is at fault). Of `n` members `h` are hostile. Those that are not among the [`FETCHERS`] bind nobody, so with `f` of
//!   those hostile, binomial with `h / n`, the others' extents come meanwhile at the full rate of the WAN, and the `f`th part of the
//!   payload waits for one patience, beside them. Only if all are hostile, with the chance `(h / n)^FETCHERS`, does nothing
//!   come for that time and a [`BREAK_PER_TURN`]th of it for every hostile one before the first honest one in the order. Bytes that
//!   cross the WAN twice are those of extents that two begin within one message's time: partial chunks, since who comes later
//!   in the order gives way before its first one is there, and nobody gives way later.

mod order;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{DeviceId, PayloadId};
use crate::time::Mono;
use crate::wire::Claim;

pub use order::{expected_rank, extents, rank, score};

/// Members that fetch at the same time: enough to spread the LAN's first copies and to hide one slow machine.
pub const FETCHERS: usize = 4;
/// A lease message counts as a sign of life for this long; holders repeat theirs every [`LEASE_EVERY`].
pub const LEASE_FRESH: Duration = Duration::from_millis(3500);
/// Work begins only when the order of choice has stood still for this long, so that news on the way arrives first.
pub const QUIET: Duration = Duration::from_millis(200);
/// However often it changes meanwhile, work begins when this time is over.
const RESTLESS: Duration = Duration::from_secs(1);
/// Extents of one holder that are remembered.
const MAX_NAMED: usize = 64;
/// One that names nothing for this long, while nothing comes, has let go.
const RESTS: Duration = Duration::from_secs(1);
/// How long it is held against a member that it stopped naming what it owed.
const DEBT: Duration = Duration::from_secs(60);
/// How often a holder repeats its lease.
pub const LEASE_EVERY: Duration = Duration::from_millis(1000);
/// A lease of which nothing comes for this long binds nobody any more.
pub const STALL: Duration = Duration::from_secs(8);
/// How long a candidate that did not work is passed over.
pub const PASSED_OVER: Duration = Duration::from_secs(30);
/// A holder whose extents bring nothing for this long, while others bring theirs, is discredited.
pub const KEEPS_WORD: Duration = Duration::from_secs(4);
/// And so many chunks for each that brings some.
const FEWER: u64 = 4;
/// When nothing has come for this long at least, leases of others bind nobody any more: the first member in order begins then,
/// and each that comes after it by this part of the wait later.
pub const BREAKS_AFTER: Duration = Duration::from_secs(4);
pub const BREAK_PER_TURN: f64 = 16.0;
/// What broke through the leases of others goes on for this long.
const BROKEN: Duration = Duration::from_secs(8);
/// The longest that one is discredited.
const DISCREDITED: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone)]
struct Holder {
    seq: u64,
    extents: Vec<u32>,
    /// Extents it holds whole: a bit for each, without the zeros at the end.
    held: Vec<u8>,
    heard: Mono,
    /// When each of its extents was first named; what it stopped naming while it owed it stays.
    named: BTreeMap<u32, Mono>,
    /// When something of what its lease is the first for was last seen to come.
    kept: Option<Mono>,
    /// Chunks that had been seen to come then, or when it took its first lease, of whatever extent.
    kept_at: u64,
}

impl Holder {
    /// Since when it owes something: the later of its oldest unfulfilled word and the last thing that it brought.
    fn owes_since(&self) -> Option<Mono> {
        let first = self.named.values().min().copied()?;
        Some(self.kept.map_or(first, |kept| kept.max(first)))
    }

    fn holds(&self, extent: u32) -> bool {
        self.held.get(extent as usize / 8).is_some_and(|byte| byte >> (extent % 8) & 1 == 1)
    }
}

/// The head of a member's [`crate::wire::Lease`], which counts for each of its claims.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// Who speaks.
    pub device: DeviceId,
    /// Grows with every one.
    pub seq: u64,
}

/// The leases of one payload, as one member sees them.
#[derive(Debug)]
pub struct Leases {
    payload: PayloadId,
    me: DeviceId,
    settled_at: Mono,
    /// Members that are ready to fetch, with weights; follows membership until frozen.
    candidates: BTreeMap<DeviceId, u8>,
    frozen: bool,
    holders: BTreeMap<DeviceId, Holder>,
    passed_over: BTreeMap<DeviceId, Mono>,
    /// Members whose word about what they hold has proved worthless.
    doubted: BTreeSet<DeviceId>,
    /// When each member was first heard to hold the payload.
    said_to_hold: BTreeMap<DeviceId, Mono>,
    /// Members whose leases have proved worthless: until when, and how often.
    discredited: BTreeMap<DeviceId, (Mono, u32)>,
    /// Chunks that were seen to come: while they do, the WAN works.
    came: u64,
    came_at: Mono,
    /// When a chunk of an extent was last seen to come from others.
    evidence: BTreeMap<u32, Mono>,
    /// Extents of which this member has fetched something in its present lease: it gives way to nobody there.
    brought: BTreeSet<u32>,
    /// For how long nothing may come of what is leased.
    patience: Duration,
    /// Until when this member begins whatever the fetchers have leased.
    broken: Mono,
    gone: BTreeSet<DeviceId>,
    /// The candidates in order of choice; renewed when they change.
    order: Vec<DeviceId>,
    /// When the order last changed: work rests on it only after a pause, in which news on the way arrives.
    changed: Mono,
    /// When the order began to change again and again: whoever comes and goes delays nobody for longer than [`RESTLESS`].
    restless: Mono,
}

/// More candidates than this are not considered; the best of this many is as good as the best of all.
const MAX_CANDIDATES: usize = 4096;

impl Leases {
    /// Leases of a payload that this member has begun to want; nothing is fetched before `settled_at`.
    pub fn new(payload: PayloadId, me: DeviceId, settled_at: Mono) -> Self {
        Self {
            payload,
            me,
            settled_at,
            candidates: BTreeMap::new(),
            frozen: false,
            holders: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            doubted: BTreeSet::new(),
            said_to_hold: BTreeMap::new(),
            discredited: BTreeMap::new(),
            came: 0,
            came_at: Mono(0),
            evidence: BTreeMap::new(),
            brought: BTreeSet::new(),
            patience: STALL,
            broken: Mono(0),
            gone: BTreeSet::new(),
            order: Vec::new(),
            changed: Mono(0),
            restless: Mono(0),
        }
    }

    /// This member begins to want the payload again: as at the beginning, nothing is fetched before `settled_at`.
    pub fn settle(&mut self, settled_at: Mono) {
        self.settled_at = settled_at;
    }

    /// The members that say they are ready to fetch, as membership has them now (this member too, once it has said so).
    /// Before the first lease they are taken over as they are; afterwards only departures count, until nobody is at work.
    pub fn set_candidates(&mut self, now: Mono, candidates: &BTreeMap<DeviceId, u8>) {
        if self.frozen && !self.anyone_at_work(now) && now.since(self.changed) > LEASE_FRESH {
            self.frozen = false;
        }
        if self.frozen {
            let works = |d: &DeviceId| {
                self.holders.get(d).is_some_and(|holder| is_fresh(holder, now)) && self.is_credited(d, now)
            };
            let gone = self.candidates.keys().filter(|d| !candidates.contains_key(d) && !works(d)).copied().collect();
            if self.gone == gone {
                return;
            }
            self.gone = gone;
        } else {
            if self.gone.is_empty() && self.candidates == *candidates {
                return;
            }
            self.candidates = candidates.iter().take(MAX_CANDIDATES).map(|(d, w)| (*d, *w)).collect();
            self.gone.clear();
        }
        self.reorder_at(now);
    }

    /// Another member's word about this payload; `weight` is what it may carry over the WAN. Returns whether it is news (an
    /// old one is ignored).
    pub fn heard(&mut self, now: Mono, word: &Word, claim: &Claim, weight: u8) -> bool {
        let device = word.device;
        if device == self.me || self.holders.get(&device).is_some_and(|holder| holder.seq >= word.seq) {
            return false;
        }
        if self.holders.len() >= MAX_CANDIDATES && !self.holders.contains_key(&device) {
            return false;
        }
        let before = self.holders.get(&device).filter(|holder| !self.starts_anew(holder, now));
        let moves = before.is_none_or(|holder| !self.owes(holder, now));
        let (kept, kept_at) = before.map_or((None, self.came), |holder| (holder.kept, holder.kept_at));
        let mut named: BTreeMap<u32, Mono> = before
            .map(|holder| &holder.named)
            .into_iter()
            .flatten()
            .filter(|(extent, since)| claim.extents.contains(extent) || self.is_debt(**extent, **since, now))
            .map(|(extent, since)| (*extent, *since))
            .collect();
        for extent in &claim.extents {
            if named.len() < MAX_NAMED {
                named.entry(*extent).or_insert(now);
            }
        }
        if !claim.extents.is_empty() && self.is_credited(&device, now) {
            // One that is at work before this member may be knows the site no better yet: the first to come fetches alone.
            if now >= self.may_begin() {
                self.freeze();
            }
            self.takes_part(now, device, weight, moves);
        }
        let (extents, held) = (claim.extents.to_vec(), claim.held.to_vec());
        self.holders.insert(device, Holder { seq: word.seq, extents, held, heard: now, named, kept, kept_at });
        true
    }

    /// Whether a holder has let go of everything for a while in which nothing came from anybody: then it was the WAN, and whoever begins
    /// again owes nothing. Where its silence let others bring something, it owes what it owed.
    fn starts_anew(&self, holder: &Holder, now: Mono) -> bool {
        holder.extents.is_empty() && now.since(holder.heard) >= RESTS && self.came_at < holder.heard
    }

    /// Whether an extent that was named then and is named no more has brought nothing.
    fn is_debt(&self, extent: u32, since: Mono, now: Mono) -> bool {
        let came = self.evidence.get(&extent).is_some_and(|at| *at >= since);
        !came && now.since(since) < DEBT
    }

    /// Whether nothing has come for too long of what it has leased.
    fn owes(&self, holder: &Holder, now: Mono) -> bool {
        holder.owes_since().is_some_and(|since| now.since(since) > self.patience)
    }

    /// For how long nothing may come of what is leased.
    pub fn be_patient(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// This member has fetched a chunk of an extent itself.
    pub fn brought(&mut self, now: Mono, extent: u32) {
        self.brought.insert(extent);
        self.came_at = now;
    }

    /// This member fetches an extent no longer.
    pub fn gave_up(&mut self, extent: u32) {
        self.brought.remove(&extent);
    }

    /// A chunk of an extent has come, verified, or a neighbour that keeps its word has it now.
    pub fn evidence(&mut self, now: Mono, extent: u32) {
        self.came += 1;
        self.came_at = now;
        self.evidence.insert(extent, now);
        let names = |(device, holder): &(&DeviceId, &Holder)| {
            is_fresh(holder, now) && holder.extents.contains(&extent) && self.is_credited(device, now)
        };
        // Of several that name it the first in order is the one that was meant to fetch it.
        let owners = self.owners(extent);
        let first = self.holders.iter().filter(names).min_by_key(|(device, _)| self.turn(&owners, extent, device));
        let first = first.map(|(device, _)| *device);
        if let Some(holder) = first.and_then(|device| self.holders.get_mut(&device)) {
            (holder.kept, holder.kept_at) = (Some(now), self.came);
        }
    }

    /// Discredits those whose leases bring nothing while others bring theirs. Returns whether there is one.
    pub fn call_to_account(&mut self, now: Mono) -> bool {
        let keeps = |(device, holder): &(&DeviceId, &Holder)| {
            let kept = holder.kept.is_some_and(|kept| now.since(kept) <= KEEPS_WORD);
            is_fresh(holder, now) && kept && self.is_credited(device, now)
        };
        // Of those that fetch each may be several times slower than the others; where nothing comes, it may be the WAN itself.
        let share = FEWER * (1 + self.holders.iter().filter(keeps).count().min(FETCHERS) as u64);
        let owing: Vec<DeviceId> = self
            .holders
            .iter()
            .filter(|(device, holder)| {
                let owes = holder.owes_since().is_some_and(|since| now.since(since) > KEEPS_WORD);
                is_fresh(holder, now) && owes && self.is_credited(device, now)
            })
            .filter(|(_, holder)| self.came - holder.kept_at >= share)
            .map(|(device, _)| *device)
            .collect();
        for device in &owing {
            self.discredit(now, *device);
        }
        if !owing.is_empty() {
            self.reorder_at(now);
        }
        !owing.is_empty()
    }

    fn discredit(&mut self, now: Mono, device: DeviceId) {
        let times = self.discredited.get(&device).map_or(0, |(_, times)| *times);
        let span = PASSED_OVER.saturating_mul(1 << times.min(8)).min(DISCREDITED);
        if self.discredited.len() >= MAX_CANDIDATES && !self.discredited.contains_key(&device) {
            let first = self.discredited.iter().min_by_key(|(_, (until, _))| *until).map(|(device, _)| *device);
            first.and_then(|device| self.discredited.remove(&device));
        }
        self.discredited.insert(device, (now + span, times + 1));
        self.passed_over.insert(device, now + span);
        if let Some(holder) = self.holders.get_mut(&device) {
            holder.kept_at = self.came;
        }
    }

    /// Whether anybody's lease names an extent, believed or not.
    pub fn is_named(&self, now: Mono, extent: u32) -> bool {
        self.holders.values().any(|holder| is_fresh(holder, now) && holder.extents.contains(&extent))
    }

    /// Whether the leases of a member count.
    fn is_credited(&self, device: &DeviceId, now: Mono) -> bool {
        self.discredited.get(device).is_none_or(|(until, _)| *until <= now)
    }

    /// Nothing has come for longer than the patience, and this member's turn has come to begin whatever others have leased.
    pub fn break_through(&mut self, now: Mono) {
        self.broken = now + BROKEN.max(self.patience);
    }

    /// Whether leases of others do not bind this member now.
    pub fn is_broken(&self, now: Mono) -> bool {
        self.broken > now
    }

    /// A member is at work: it is a candidate here too, even if membership did not know when the candidates were fixed, so
    /// that all come to see the same ones. One that was passed over has its turn again when it moves.
    fn takes_part(&mut self, now: Mono, device: DeviceId, weight: u8, moves: bool) {
        let mut changed = moves && self.passed_over.remove(&device).is_some();
        changed |= self.gone.remove(&device);
        if !self.candidates.contains_key(&device) && self.candidates.len() < MAX_CANDIDATES {
            self.candidates.insert(device, weight.max(1));
            changed = true;
        }
        if changed {
            self.reorder_at(now);
        }
    }

    /// This member has begun to fetch: from here on the candidates are fixed.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// A member is gone: what it had leased is free at once. One that goes in debt is not believed at once when it comes again.
    pub fn departed(&mut self, now: Mono, device: &DeviceId) {
        let gone = self.holders.remove(device).filter(|holder| is_fresh(holder, now));
        let owes = gone.and_then(|holder| holder.owes_since());
        if owes.is_some_and(|since| now.since(since) > KEEPS_WORD / 2) {
            self.discredit(now, *device);
        }
        if self.candidates.contains_key(device) && self.gone.insert(*device) {
            self.reorder_at(now);
        }
    }

    /// Whether somebody else is fetching this extent now, as far as that binds this member.
    pub fn claimed(&self, now: Mono, extent: u32) -> bool {
        let owners = self.owners(extent);
        self.holders.iter().any(|holder| self.binds(now, &owners, holder, extent))
    }

    /// Whether a member's lease of an extent counts, with the fetchers in the extent's order.
    fn binds(&self, now: Mono, owners: &[DeviceId], (device, holder): (&DeviceId, &Holder), extent: u32) -> bool {
        if !is_fresh(holder, now) || !holder.extents.contains(&extent) || !self.is_credited(device, now) {
            return false;
        }
        let Some(named) = holder.named.get(&extent) else { return false };
        let comes = self.evidence.get(&extent).is_some_and(|at| at >= named && now.since(*at) <= self.patience);
        if comes {
            return true;
        }
        if self.owes(holder, now) {
            return false;
        }
        let earlier =
            owners.contains(device) && self.turn(owners, extent, device) < self.turn(owners, extent, &self.me);
        // One that has brought something, or has begun a moment ago where nothing came, is not among the fetchers of all views.
        let brings = holder.kept.is_some_and(|kept| now.since(kept) <= self.patience);
        let begins = self.is_broken(now) || owners.is_empty() || !self.frozen;
        earlier || brings || begins
    }

    /// Whose turn it is at an extent, first the fetchers': from them and the extent alone, so that two see it alike even when they
    /// do not know the same members or weights.
    fn turn(&self, owners: &[DeviceId], extent: u32, device: &DeviceId) -> (bool, u64, DeviceId) {
        (!owners.contains(device), score(&extent_key(&self.payload, extent), device, 1), *device)
    }

    /// Whether some other member says it holds all of this extent, and is believed.
    pub fn held(&self, extent: u32) -> bool {
        self.holders.iter().any(|(device, holder)| holder.holds(extent) && !self.doubted.contains(device))
    }

    /// A member says that it holds the payload, and nothing comes.
    pub fn doubt_holder(&mut self, device: DeviceId) {
        if self.doubted.len() < MAX_CANDIDATES {
            self.doubted.insert(device);
        }
    }

    /// A member says that it holds the payload. It is believed for `within` from its first word on: by then it is a neighbour, whose
    /// chunks count one by one, or cannot be reached.
    pub fn says_it_holds(&mut self, now: Mono, device: DeviceId, within: Duration) {
        if self.said_to_hold.len() < MAX_CANDIDATES {
            self.said_to_hold.entry(device).or_insert(now);
        }
        if self.said_to_hold.get(&device).is_none_or(|since| now.since(*since) > within) {
            self.doubt_holder(device);
        }
    }

    /// Whether what a member says it holds is believed.
    pub fn believes(&self, device: &DeviceId) -> bool {
        !self.doubted.contains(device)
    }

    /// These extents should come from members that say they hold them, and do not: whoever said so is not believed any more.
    pub fn doubt(&mut self, extents: &[u32]) {
        for extent in extents {
            let holders = self.holders.iter().filter(|(_, holder)| holder.holds(*extent));
            self.doubted.extend(holders.map(|(device, _)| *device));
        }
    }

    /// Whether another member's claim stands against an extent that this member has claimed. Which of two gives way depends on
    /// them and the extent alone, so that both see it alike even when they do not know the same members. Of what this member
    /// has fetched something it gives way to nobody.
    pub fn outranked(&self, now: Mono, extent: u32) -> bool {
        if self.brought.contains(&extent) {
            return false;
        }
        let owners = self.owners(extent);
        let mine = self.turn(&owners, extent, &self.me);
        let before = |device: &DeviceId| self.turn(&owners, extent, device) < mine;
        self.holders.iter().any(|holder| before(holder.0) && self.binds(now, &owners, holder, extent))
    }

    /// Whether this member is the one to fetch an extent now: the first of its fetchers that owes nothing.
    pub fn mine(&self, now: Mono, extent: u32) -> bool {
        let owners = self.owners(extent);
        let claimed = || self.holders.iter().any(|holder| self.binds(now, &owners, holder, extent));
        if self.is_broken(now) {
            return !claimed();
        }
        now >= self.may_begin() && self.first_of(&owners, now) == Some(self.me) && !claimed()
    }

    /// The first of the fetchers of an extent that owes nothing.
    fn first_of(&self, owners: &[DeviceId], now: Mono) -> Option<DeviceId> {
        let owes = |device: &DeviceId| self.holders.get(device).is_some_and(|holder| self.owes(holder, now));
        owners.iter().find(|device| **device == self.me || !owes(device)).copied()
    }

    /// When this member may begin, as things stand: settled, and no news for a while.
    pub fn may_begin(&self) -> Mono {
        self.settled_at.max((self.changed + QUIET).min(self.restless + RESTLESS))
    }

    /// Passes over owners of missing extents that are silent or stand still. `missing` are the extents of which no member
    /// is known to hold everything; `busy` tells who is at work on other payloads, and comes to this one in time. Returns
    /// whether the owners changed.
    pub fn pass_over_the_idle(&mut self, now: Mono, missing: &[u32], busy: impl Fn(&DeviceId) -> bool) -> bool {
        let before = self.passed_over.len();
        self.passed_over.retain(|_, until| *until > now);
        if self.passed_over.len() != before {
            self.reorder();
            self.news(now);
        }
        let quiet_since = self.settled_at.max(self.changed);
        let mut idle = BTreeSet::new();
        for extent in missing {
            let owners = self.owners(*extent);
            let Some(owner) = self.first_of(&owners, now) else { continue };
            if owner == self.me || busy(&owner) || self.claimed(now, *extent) {
                continue;
            }
            let rests = match self.holders.get(&owner) {
                Some(holder) => !is_fresh(holder, now) && now.since(holder.heard.max(quiet_since)) > LEASE_FRESH,
                None => now.since(quiet_since) > LEASE_FRESH,
            };
            if rests {
                idle.insert(owner);
            }
        }
        for owner in &idle {
            self.passed_over.insert(*owner, now + PASSED_OVER);
        }
        if !idle.is_empty() {
            self.reorder();
            self.news(now);
        }
        !idle.is_empty()
    }

    /// This member cannot fetch for a while (its own WAN path fails): others come first.
    pub fn stand_back(&mut self, now: Mono, until: Mono) {
        self.passed_over.insert(self.me, until);
        self.reorder();
        self.news(now);
    }

    /// Every member of which something is known here.
    pub fn known(&self) -> impl Iterator<Item = &DeviceId> {
        self.candidates.keys().chain(self.holders.keys())
    }

    /// The members that should fetch now, first choice first.
    pub fn fetchers(&self) -> &[DeviceId] {
        &self.order[..self.order.len().min(FETCHERS)]
    }

    /// Whether a member was given its turn and did not take it.
    pub fn is_passed_over(&self, device: &DeviceId) -> bool {
        self.passed_over.contains_key(device)
    }

    /// Who is fetching now, for `explain` and tests.
    pub fn at_work(&self, now: Mono) -> impl Iterator<Item = (&DeviceId, &[u32])> {
        let works =
            move |(device, holder): &(&DeviceId, &Holder)| is_fresh(holder, now) && self.is_credited(device, now);
        self.holders.iter().filter(works).map(|(device, holder)| (device, holder.extents.as_slice()))
    }

    fn anyone_at_work(&self, now: Mono) -> bool {
        self.at_work(now).next().is_some()
    }

    fn owners(&self, extent: u32) -> Vec<DeviceId> {
        let key = extent_key(&self.payload, extent);
        let fetchers: BTreeMap<_, _> =
            self.fetchers().iter().map(|d| (*d, self.candidates.get(d).copied().unwrap_or(1))).collect();
        rank(&key, &fetchers)
    }

    /// The same; whether others are to fetch now counts as news of this moment.
    fn reorder_at(&mut self, now: Mono) {
        let before = self.fetchers().to_vec();
        self.reorder();
        if self.fetchers() != before {
            self.news(now);
        }
    }

    /// Others are to fetch from now on.
    fn news(&mut self, now: Mono) {
        if now.since(self.changed) >= QUIET {
            self.restless = now;
        }
        self.changed = now;
    }

    fn reorder(&mut self) {
        let living: BTreeMap<_, _> = self
            .candidates
            .iter()
            .filter(|(d, w)| **w > 0 && !self.gone.contains(d) && !self.passed_over.contains_key(d))
            .map(|(d, w)| (*d, *w))
            .collect();
        self.order = rank(self.payload.as_bytes(), &living);
    }
}

fn is_fresh(holder: &Holder, now: Mono) -> bool {
    !holder.extents.is_empty() && now.since(holder.heard) < LEASE_FRESH
}

fn extent_key(payload: &PayloadId, extent: u32) -> [u8; 36] {
    let mut key = [0; 36];
    key[..32].copy_from_slice(payload.as_bytes());
    key[32..].copy_from_slice(&extent.to_le_bytes());
    key
}
