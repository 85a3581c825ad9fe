//! Who fetches what over the WAN: one copy per site without a leader.
//!
//! A payload is cut into fixed *extents* (runs of chunks). Among the members that want it and may use the WAN, weighted
//! rendezvous hashing (Thaler and Ravishankar 1998; weights as in Schindelhauer and Schomaker 2005) picks a few *fetchers*
//! and gives every extent an owner. Everyone computes the same answer from membership, so nobody has to agree first; a
//! fetcher's [`crate::wire::Lease`] messages tell the others that it is at work.
//!
//! Invariants:
//! * I fetch an extent only while I am its first living candidate and nobody else's fresh lease names it.
//! * The candidates are frozen when the first lease is seen after this member has settled, so that a latecomer shifts nothing
//!   that is under way.
//! * A candidate that should work and does not is passed over for a while, by everyone for the same observable reason.
//! * What some member says it holds is not fetched, until it turns out that it does not come.

use core::ops::Range;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::ChunkList;
use crate::ids::{DeviceId, PayloadId};
use crate::time::Mono;
use crate::wire::Lease;

/// Members that fetch at the same time: enough to spread the LAN's first copies and to hide one slow machine.
pub const FETCHERS: usize = 4;
/// A lease message counts as a sign of life for this long; holders repeat theirs every [`LEASE_EVERY`].
pub const LEASE_FRESH: Duration = Duration::from_millis(3500);
/// Work begins only when the order of choice has stood still for this long, so that news on the way arrives first.
pub const QUIET: Duration = Duration::from_millis(200);
/// How often a holder repeats its lease.
pub const LEASE_EVERY: Duration = Duration::from_millis(1000);
/// An owner whose lease shows no progress for this long is passed over.
pub const STALL: Duration = Duration::from_secs(8);
/// How long a candidate that did not work is passed over.
pub const PASSED_OVER: Duration = Duration::from_secs(30);

/// The share of a payload that one lease is about: about a 64th, within 1 to 8 MiB.
fn extent_bytes(payload_len: u64) -> u64 {
    (payload_len / 64).clamp(1 << 20, 8 << 20)
}

/// Cuts a payload into extents: runs of whole chunks, in order, without gaps. The same for everyone who has the list.
pub fn extents(list: &ChunkList) -> Vec<Range<u32>> {
    let aim = extent_bytes(list.payload_len());
    let mut extents = Vec::new();
    let (mut start, mut bytes) = (0u32, 0u64);
    for (position, chunk) in (0u32..).zip(list.chunks()) {
        bytes += u64::from(chunk.len);
        if bytes >= aim {
            extents.push(start..position + 1);
            (start, bytes) = (position + 1, 0);
        }
    }
    if bytes > 0 {
        extents.push(start..list.chunks().len() as u32);
    }
    extents
}

/// A member's score for a key: the smallest wins. `-log2(hash) / weight` in fixed point, so that a member wins in proportion
/// to its weight, on every platform alike.
pub fn score(key: &[u8], device: &DeviceId, weight: u8) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(device.as_bytes());
    hasher.update(key);
    let mut word = [0; 8];
    word.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    minus_log2(u64::from_le_bytes(word)) / u64::from(weight.max(1))
}

/// `-log2(x / 2^64)` with 32 fractional bits, for x > 0 (0 counts as 1).
fn minus_log2(x: u64) -> u64 {
    let zeros = u64::from(x.max(1).leading_zeros());
    let mut mantissa = u128::from(x.max(1)) << zeros;
    let mut fraction = 0u64;
    for _ in 0..32 {
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    ((zeros + 1) << 32).saturating_sub(fraction)
}

/// The members in the order in which they would be chosen for a key; of the same length as the input.
pub fn rank(key: &[u8], candidates: &BTreeMap<DeviceId, u8>) -> Vec<DeviceId> {
    let mut ranked: Vec<_> = candidates.iter().map(|(device, weight)| (score(key, device, *weight), *device)).collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, device)| device).collect()
}

#[derive(Debug, Clone)]
struct Holder {
    seq: u64,
    extents: Vec<u32>,
    /// Extents it holds whole: a bit for each, without the zeros at the end.
    held: Vec<u8>,
    progress: u64,
    heard: Mono,
    moved: Mono,
}

impl Holder {
    fn holds(&self, extent: u32) -> bool {
        self.held.get(extent as usize / 8).is_some_and(|byte| byte >> (extent % 8) & 1 == 1)
    }
}

/// The leases of one payload, as one member sees them.
#[derive(Debug)]
pub struct Leases {
    payload: PayloadId,
    me: DeviceId,
    settled_at: Mono,
    /// Members that may fetch, with weights; follows membership until frozen.
    candidates: BTreeMap<DeviceId, u8>,
    frozen: bool,
    holders: BTreeMap<DeviceId, Holder>,
    passed_over: BTreeMap<DeviceId, Mono>,
    /// Members whose word about what they hold has proved worthless.
    doubted: BTreeSet<DeviceId>,
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
            gone: BTreeSet::new(),
            order: Vec::new(),
            changed: Mono(0),
        }
    }

    /// This member begins to want the payload again: as at the beginning, nothing is fetched before `settled_at`.
    pub fn settle(&mut self, settled_at: Mono) {
        self.settled_at = settled_at;
    }

    /// The members that want the payload and may use the WAN, as membership has them now (this member included).
    /// Before the first lease they are taken over as they are; afterwards only departures count, until nobody is at work.
    pub fn set_candidates(&mut self, now: Mono, candidates: &BTreeMap<DeviceId, u8>) {
        if self.frozen && !self.anyone_at_work(now) && now.since(self.changed) > LEASE_FRESH {
            self.frozen = false;
        }
        if self.frozen {
            let works = |d: &DeviceId| self.holders.get(d).is_some_and(|holder| at_work(holder, now));
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

    /// Another member's word; `weight` is what it may carry over the WAN. Returns whether it is news (an old one is ignored).
    pub fn heard(&mut self, now: Mono, lease: &Lease, weight: u8) -> bool {
        let device = lease.device;
        if device == self.me || self.holders.get(&device).is_some_and(|holder| holder.seq >= lease.seq) {
            return false;
        }
        if self.holders.len() >= MAX_CANDIDATES && !self.holders.contains_key(&device) {
            return false;
        }
        let moved = match self.holders.get(&device) {
            Some(holder) if holder.progress == lease.progress && *holder.extents == *lease.extents => holder.moved,
            _ => now,
        };
        if !lease.extents.is_empty() {
            // One that is at work before this member may be knows the site no better yet: the first to come fetches alone.
            if now >= self.may_begin() {
                self.freeze();
            }
            self.takes_part(now, device, weight, moved == now);
        }
        let (extents, held) = (lease.extents.to_vec(), lease.held.to_vec());
        self.holders
            .insert(device, Holder { seq: lease.seq, extents, held, progress: lease.progress, heard: now, moved });
        true
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

    /// A member is gone: what it had leased is free at once.
    pub fn departed(&mut self, now: Mono, device: &DeviceId) {
        self.holders.remove(device);
        if self.candidates.contains_key(device) && self.gone.insert(*device) {
            self.reorder();
            self.changed = now;
        }
    }

    /// Whether somebody else is fetching this extent now.
    pub fn claimed(&self, now: Mono, extent: u32) -> bool {
        self.holders.values().any(|holder| at_work(holder, now) && holder.extents.contains(&extent))
    }

    /// Whether some other member says it holds all of this extent, and is believed.
    pub fn held(&self, extent: u32) -> bool {
        self.holders.iter().any(|(device, holder)| holder.holds(extent) && !self.doubted.contains(device))
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
        self.holders
            .iter()
            .any(|(device, holder)| at_work(holder, now) && holder.extents.contains(&extent) && rank(device) < mine)
    }

    /// Whether this member is the one to fetch an extent now.
    pub fn mine(&self, now: Mono, extent: u32) -> bool {
        now >= self.may_begin() && self.owners(extent).first() == Some(&self.me) && !self.claimed(now, extent)
    }

    /// When this member may begin, as things stand: settled, and no news for a while.
    pub fn may_begin(&self) -> Mono {
        self.settled_at.max(self.changed + QUIET)
    }

    /// Passes over owners of missing extents that are silent or stand still. `missing` are the extents of which no member
    /// is known to hold everything. Returns whether the owners changed.
    pub fn pass_over_the_idle(&mut self, now: Mono, missing: &[u32]) -> bool {
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
            if owner == self.me || self.claimed(now, *extent) {
                continue;
            }
            let rests = match self.holders.get(&owner) {
                Some(holder) => !at_work(holder, now) && now.since(holder.heard.max(quiet_since)) > LEASE_FRESH,
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

    /// The members that should fetch now, first choice first.
    pub fn fetchers(&self) -> &[DeviceId] {
        &self.order[..self.order.len().min(FETCHERS)]
    }

    /// Who is fetching now, for `explain` and tests.
    pub fn at_work(&self, now: Mono) -> impl Iterator<Item = (&DeviceId, &[u32])> {
        self.holders.iter().filter(move |(_, h)| at_work(h, now)).map(|(d, h)| (d, h.extents.as_slice()))
    }

    fn anyone_at_work(&self, now: Mono) -> bool {
        self.holders.values().any(|holder| at_work(holder, now))
    }

    fn owners(&self, extent: u32) -> Vec<DeviceId> {
        let key = extent_key(&self.payload, extent);
        let fetchers: BTreeMap<_, _> =
            self.fetchers().iter().map(|d| (*d, self.candidates.get(d).copied().unwrap_or(1))).collect();
        rank(&key, &fetchers)
    }

    /// The same; whether the order is another one now counts as news of this moment.
    fn reorder_at(&mut self, now: Mono) {
        let before = self.order.clone();
        self.reorder();
        if self.order != before {
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

fn at_work(holder: &Holder, now: Mono) -> bool {
    !holder.extents.is_empty() && now.since(holder.heard) < LEASE_FRESH && now.since(holder.moved) < STALL
}

fn extent_key(payload: &PayloadId, extent: u32) -> [u8; 36] {
    let mut key = [0; 36];
    key[..32].copy_from_slice(payload.as_bytes());
    key[32..].copy_from_slice(&extent.to_le_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Bounded;
    use crate::ids::SiteId;

    fn device(n: u8) -> DeviceId {
        DeviceId([n; 32])
    }

    fn at(millis: u64) -> Mono {
        Mono(millis * 1000)
    }

    fn site(members: &[(u8, u8)]) -> BTreeMap<DeviceId, u8> {
        members.iter().map(|(n, weight)| (device(*n), *weight)).collect()
    }

    fn views(members: &[(u8, u8)]) -> Vec<Leases> {
        let all = site(members);
        let view = |n: &(u8, u8)| {
            let mut leases = Leases::new(PayloadId([9; 32]), device(n.0), at(0));
            leases.set_candidates(at(0), &all);
            leases
        };
        members.iter().map(view).collect()
    }

    fn word(n: u8, seq: u64, extents: &[u32], held: &[u8], progress: u64) -> Lease {
        Lease {
            device: device(n),
            site: SiteId([1; 16]),
            seq,
            payload: PayloadId([9; 32]),
            extents: Bounded::truncated(extents.to_vec()),
            held: Bounded::truncated(held.to_vec()),
            progress,
        }
    }

    #[test]
    fn every_extent_has_exactly_one_owner_whoever_looks() {
        let members: Vec<_> = (1..=40).map(|n| (n, 8)).collect();
        let views = views(&members);
        for extent in 0..200 {
            let owners = views.iter().filter(|view| view.mine(at(400), extent)).count();
            assert_eq!(owners, 1, "extent {extent}");
        }
        assert!(views.iter().all(|view| !view.mine(at(100), 0)), "before it is quiet");
    }

    #[test]
    fn weights_decide_how_often_one_is_chosen() {
        let candidates = site(&[(1, 64), (2, 8), (3, 8)]);
        let wins = (0u32..2000).filter(|n| rank(&n.to_le_bytes(), &candidates)[0] == device(1)).count();
        // 64 / 80 of 2000 are 1600; five standard deviations are 90.
        assert!((1510..1690).contains(&wins), "{wins}");
    }

    #[test]
    fn a_dead_owner_is_replaced_and_a_living_one_is_not() {
        let mut views = views(&[(1, 8), (2, 8), (3, 8)]);
        let owner = (0..3).find(|n| views[*n].mine(at(400), 0)).unwrap();
        let (dead, other) = (views[owner].me, (owner + 1) % 3);
        for tick in 0..20 {
            let now = at(1000 + tick * 1000);
            views[other].heard(now, &word(dead.0[0], tick, &[0], &[], tick), 8);
            assert!(!views[other].pass_over_the_idle(now, &[0]), "at work");
            assert!(views[other].claimed(now, 0));
        }
        views[other].departed(at(21_000), &dead);
        let third = (owner + 2) % 3;
        views[third].departed(at(21_000), &dead);
        let heirs = [other, third].into_iter().filter(|n| views[*n].mine(at(21_400), 0)).count();
        assert_eq!(heirs, 1);
    }

    #[test]
    fn an_owner_that_stands_still_or_never_begins_is_passed_over() {
        let mut views = views(&[(1, 8), (2, 8)]);
        let owner = (0..2).find(|n| views[*n].mine(at(400), 0)).unwrap();
        let (lazy, view) = (views[owner].me, &mut views[1 - owner]);
        assert!(!view.pass_over_the_idle(at(3000), &[0]));
        assert!(view.pass_over_the_idle(at(4000), &[0]), "it never began");
        assert!(view.mine(at(4400), 0));
        // It speaks at last, so it is given its turn again; then its progress stands still.
        for tick in 0..9 {
            view.heard(at(5000 + tick * 1000), &word(lazy.0[0], 1 + tick, &[0], &[], 77), 8);
        }
        assert!(!view.claimed(at(13_500), 0), "a lease without progress is no claim");
    }

    #[test]
    fn one_that_was_passed_over_has_its_turn_again_when_its_time_is_over() {
        let mut view = views(&[(1, 8), (2, 8)]).remove(0);
        view.stand_back(at(0), at(5000));
        assert!(!view.fetchers().contains(&device(1)));
        view.pass_over_the_idle(at(6000), &[]);
        assert!(view.fetchers().contains(&device(1)), "although the candidates are the same");
    }

    #[test]
    fn a_latecomer_shifts_nothing_that_is_under_way() {
        let mut views = views(&[(1, 8), (2, 8)]);
        let owner = (0..2).find(|n| views[*n].mine(at(400), 0)).unwrap();
        views[owner].freeze();
        let late = site(&[(1, 8), (2, 8), (3, 255)]);
        views[owner].set_candidates(at(500), &late);
        assert!(views[owner].mine(at(900), 0));
        assert!(!views[owner].fetchers().contains(&device(3)));
    }

    #[test]
    fn one_that_is_at_work_before_the_others_may_be_does_not_fix_the_candidates() {
        let mut view = views(&[(1, 8), (2, 8)]).remove(0);
        assert!(view.heard(at(100), &word(2, 1, &[5], &[], 0), 8));
        view.set_candidates(at(150), &site(&[(1, 8), (2, 8), (3, 255)]));
        assert!(view.claimed(at(400), 5) && view.fetchers().contains(&device(3)));
        view.heard(at(400), &word(2, 2, &[5], &[], 1), 8);
        view.set_candidates(at(450), &site(&[(1, 8), (2, 8), (3, 255), (4, 255)]));
        assert!(!view.fetchers().contains(&device(4)), "now it has settled");
    }

    #[test]
    fn what_a_member_holds_is_not_fetched_until_it_does_not_come() {
        let mut view = views(&[(1, 8), (2, 8)]).remove(0);
        assert!(view.heard(at(400), &word(2, 1, &[], &[0b10, 1], 0), 8));
        let held: Vec<_> = (0..20).filter(|extent| view.held(*extent)).collect();
        assert_eq!(held, [1, 8]);
        view.doubt(&[3]);
        assert!(view.held(8), "nobody said that it holds extent 3");
        view.doubt(&[8]);
        view.heard(at(500), &word(2, 2, &[], &[0xff; 4], 0), 8);
        assert!(!(0..32).any(|extent| view.held(extent)), "it is not believed again");
        view.heard(at(500), &word(3, 1, &[], &[1], 0), 8);
        assert!(view.held(0), "another is");
        view.departed(at(600), &device(3));
        assert!(!view.held(0));
    }

    #[test]
    fn of_two_that_claim_one_extent_one_gives_way_whomever_they_know() {
        for extent in 0..50 {
            // Neither knows the other.
            let mut one = views(&[(1, 8)]).remove(0);
            let mut two = views(&[(2, 64)]).remove(0);
            one.heard(at(400), &word(2, 1, &[extent], &[], 0), 64);
            two.heard(at(400), &word(1, 1, &[extent], &[], 0), 8);
            assert!(one.outranked(at(500), extent) != two.outranked(at(500), extent));
        }
    }

    #[test]
    fn those_at_work_come_to_see_the_same_candidates() {
        let mut one = views(&[(1, 8), (2, 8)]).remove(0);
        let mut three = views(&[(3, 8)]).remove(0);
        one.freeze();
        three.freeze();
        one.heard(at(400), &word(3, 1, &[5], &[], 0), 8);
        three.heard(at(400), &word(1, 1, &[4], &[], 0), 8);
        three.heard(at(400), &word(2, 1, &[6], &[], 0), 8);
        assert_eq!(one.fetchers(), three.fetchers());
        // Membership has not heard of its wish, but it is at work.
        one.set_candidates(at(500), &site(&[(1, 8), (2, 8)]));
        assert_eq!(one.fetchers(), three.fetchers());
        one.set_candidates(at(9000), &site(&[(1, 8), (2, 8)]));
        assert!(!one.fetchers().contains(&device(3)), "it is silent");
    }
}
