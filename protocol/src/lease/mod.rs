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
//! * **Evidence, not claims.** A lease holds for as long as chunks of what it names arrive here, verified, or are announced by a
//!   neighbour that keeps its word; the progress that its holder reports counts for nothing. A holder whose extents bring nothing
//!   for [`KEEPS_WORD`] while others bring [`FEWER`] chunks each is discredited: its leases and candidacy count no more, for a time that doubles.
//!   When nothing comes from anybody and leases stand in the way, members begin by themselves one after the other in the order of
//!   [`expected_rank`]; what the first of them brings is the evidence against the rest. How long nothing may come depends on the
//!   rate at which bytes came before, and is [`BREAKS_AFTER`] at least: on a slow line nobody is at fault. So `h` hostile
//!   members of `n` cost at most that wait, a [`BREAK_PER_TURN`]th of it for every hostile one that comes before the first honest
//!   one in the order, and a copy of what two that break at the same time both choose.

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
/// How often a holder repeats its lease.
pub const LEASE_EVERY: Duration = Duration::from_millis(1000);
/// A lease of which nothing comes for this long binds nobody any more.
pub const STALL: Duration = Duration::from_secs(8);
/// How long a candidate that did not work is passed over.
pub const PASSED_OVER: Duration = Duration::from_secs(30);
/// A holder whose extents bring nothing for this long, while others bring theirs, is discredited.
pub const KEEPS_WORD: Duration = Duration::from_secs(4);
/// And so many chunks for each that brings some.
const FEWER: u64 = 8;
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
    /// When it took its first lease, or when something of what it alone has leased was last seen to come.
    kept: Mono,
    /// Chunks that had been seen to come then, of whatever extent.
    kept_at: u64,
}

impl Holder {
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
    /// Members whose leases have proved worthless: until when, and how often.
    discredited: BTreeMap<DeviceId, (Mono, u32)>,
    /// Chunks that were seen to come: while they do, the WAN works.
    came: u64,
    /// Until when leases of others do not bind this member, but for those that were taken within the time that follows.
    broken: Mono,
    begun_within: Duration,
    gone: BTreeSet<DeviceId>,
    /// The candidates in order of choice; renewed when they change.
    order: Vec<DeviceId>,
    /// When the order last changed: work rests on it only after a pause, in which news on the way arrives.
    changed: Mono,
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
            discredited: BTreeMap::new(),
            came: 0,
            broken: Mono(0),
            begun_within: Duration::ZERO,
            gone: BTreeSet::new(),
            order: Vec::new(),
            changed: Mono(0),
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
        let credited = self.is_credited(&device, now);
        let (kept, kept_at) = match self.holders.get(&device) {
            Some(holder) if is_fresh(holder, now) => (holder.kept, holder.kept_at),
            _ => (now, self.came),
        };
        if !claim.extents.is_empty() && credited {
            // One that is at work before this member may be knows the site no better yet: the first to come fetches alone.
            if now >= self.may_begin() {
                self.freeze();
            }
            self.takes_part(now, device, weight, kept == now);
        }
        let (extents, held) = (claim.extents.to_vec(), claim.held.to_vec());
        self.holders.insert(device, Holder { seq: word.seq, extents, held, heard: now, kept, kept_at });
        true
    }

    /// A chunk of an extent has come, verified, or a neighbour that keeps its word has it now.
    pub fn evidence(&mut self, now: Mono, extent: u32) {
        self.came += 1;
        let came = self.came;
        let mut leased = self.holders.values_mut().filter(|h| is_fresh(h, now) && h.extents.contains(&extent));
        if let (Some(holder), None) = (leased.next(), leased.next()) {
            (holder.kept, holder.kept_at) = (now, came);
        }
    }

    /// Discredits those whose leases bring nothing while others bring theirs. Returns whether there is one.
    pub fn call_to_account(&mut self, now: Mono) -> bool {
        let keeps = |(device, holder): &(&DeviceId, &Holder)| {
            is_fresh(holder, now) && now.since(holder.kept) <= KEEPS_WORD && self.is_credited(device, now)
        };
        // Of those that fetch each may be several times slower than the others; where nothing comes, it may be the WAN itself.
        let share = FEWER * (1 + self.holders.iter().filter(keeps).count().min(FETCHERS) as u64);
        let owing: Vec<DeviceId> = self
            .holders
            .iter()
            .filter(|(device, holder)| {
                is_fresh(holder, now) && now.since(holder.kept) > KEEPS_WORD && self.is_credited(device, now)
            })
            .filter(|(_, holder)| self.came - holder.kept_at >= share)
            .map(|(device, _)| *device)
            .collect();
        for device in &owing {
            self.discredit(now, *device);
        }
        if !owing.is_empty() {
            self.reorder();
            self.changed = now;
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
            (holder.kept, holder.kept_at) = (now, self.came);
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

    /// Nothing has come for longer than `patience`, and this member's turn has come to begin whatever others have leased.
    pub fn break_through(&mut self, now: Mono, patience: Duration) {
        self.broken = now + BROKEN.max(patience);
        self.begun_within = patience;
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
        let gone = self.holders.remove(device);
        if gone.is_some_and(|holder| is_fresh(&holder, now) && now.since(holder.kept) > KEEPS_WORD / 2) {
            self.discredit(now, *device);
        }
        if self.candidates.contains_key(device) && self.gone.insert(*device) {
            self.reorder();
            self.changed = now;
        }
    }

    /// Whether somebody else is fetching this extent now.
    pub fn claimed(&self, now: Mono, extent: u32) -> bool {
        self.holders.iter().any(|holder| self.binds(now, holder, extent))
    }

    /// Whether a member's lease of an extent counts: where nothing comes, only that of one that has begun a moment ago.
    fn binds(&self, now: Mono, (device, holder): (&DeviceId, &Holder), extent: u32) -> bool {
        let within = if self.is_broken(now) { self.begun_within } else { STALL };
        let owes = now.since(holder.kept) > within;
        is_fresh(holder, now) && !owes && holder.extents.contains(&extent) && self.is_credited(device, now)
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

    /// Whether another member's claim stands against an extent that this member is fetching. Which of two gives way depends on
    /// them and the extent alone, so that both see it alike even when they do not know the same members.
    pub fn outranked(&self, now: Mono, extent: u32) -> bool {
        let key = extent_key(&self.payload, extent);
        let rank = |device: &DeviceId| (score(&key, device, 1), *device);
        let mine = rank(&self.me);
        self.holders.iter().any(|holder| self.binds(now, holder, extent) && rank(holder.0) < mine)
    }

    /// Whether this member is the one to fetch an extent now.
    pub fn mine(&self, now: Mono, extent: u32) -> bool {
        if self.is_broken(now) {
            return !self.claimed(now, extent);
        }
        now >= self.may_begin() && self.owners(extent).first() == Some(&self.me) && !self.claimed(now, extent)
    }

    /// When this member may begin, as things stand: settled, and no news for a while.
    pub fn may_begin(&self) -> Mono {
        self.settled_at.max(self.changed + QUIET)
    }

    /// Passes over owners of missing extents that are silent or stand still. `missing` are the extents of which no member
    /// is known to hold everything; `busy` tells who is at work on other payloads, and comes to this one in time. Returns
    /// whether the owners changed.
    pub fn pass_over_the_idle(&mut self, now: Mono, missing: &[u32], busy: impl Fn(&DeviceId) -> bool) -> bool {
        let before = self.passed_over.len();
        self.passed_over.retain(|_, until| *until > now);
        if self.passed_over.len() != before {
            self.reorder();
            self.changed = now;
        }
        let quiet_since = self.settled_at.max(self.changed);
        let mut idle = BTreeSet::new();
        for extent in missing {
            let Some(owner) = self.owners(*extent).first().copied() else { continue };
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
            self.changed = now;
        }
        !idle.is_empty()
    }

    /// This member cannot fetch for a while (its own WAN path fails): others come first.
    pub fn stand_back(&mut self, now: Mono, until: Mono) {
        self.passed_over.insert(self.me, until);
        self.reorder();
        self.changed = now;
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
            self.changed = now;
        }
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
