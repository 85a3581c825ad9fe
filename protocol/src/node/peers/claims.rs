//! What this node tells the site of its payloads: that it is ready to fetch one over the WAN, or holds all of it.
//!
//! Owns this node's stake in each payload and the moment at which it speaks. Neighbours hear of every chunk anyway; the site
//! need only know of a few: the first [`CANDIDATES`] of the order in [`crate::lease`], and [`HOLDERS`] that hold it. A member
//! waits [`SLOT`] for each that should come before it and stays silent when enough have spoken. What is due at about the
//! same time goes out in one record. It never decides who fetches: that is for the leases.

use super::*;

/// Members that say they are ready to fetch a payload: twice as many as fetch at a time, so that four may fail.
const CANDIDATES: usize = 2 * lease::FETCHERS;
/// Members that say they hold a payload.
const HOLDERS: usize = 3;
/// What a word needs to reach most of the site.
const SLOT: Duration = Duration::from_millis(20);
/// Whoever holds a payload does not wait longer than this, and a random time more.
const HOLDER_WAITS: Duration = Duration::from_secs(2);
/// What is due within this time is said together.
const TOGETHER: Duration = Duration::from_millis(60);
/// Nothing is claimed sooner after the start: others may have spoken before.
const AFTER_START: Duration = Duration::from_millis(200);
/// When one has as many claims as a record may name, it looks again after this time.
const FULL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    payload: PayloadId,
    stake: Stake,
    said: bool,
    /// Since when it waits for its turn.
    since: Mono,
    due: Option<Mono>,
}

/// The stakes, by payload.
#[derive(Debug, Default)]
pub(super) struct Claims {
    entries: BTreeMap<PayloadKey, Entry>,
    due: BTreeSet<(Mono, PayloadKey)>,
    fetches: BTreeSet<PayloadKey>,
    holds: BTreeSet<PayloadKey>,
    /// It tells the site which extents it holds.
    shares: bool,
}

impl Claims {
    /// What the record says: payloads it is ready to fetch, and payloads it holds.
    pub(super) fn said(&self) -> (Vec<PayloadKey>, Vec<PayloadKey>) {
        (self.fetches.iter().copied().collect(), self.holds.iter().copied().collect())
    }

    /// Payloads that it is ready to fetch, as the record says.
    pub(super) fn fetches(&self) -> &BTreeSet<PayloadKey> {
        &self.fetches
    }

    /// Whether the record says that this node tells of extents.
    pub(super) fn shares(&self) -> bool {
        self.shares
    }

    /// Whether the record says anything of a payload.
    pub(super) fn has_said(&self) -> bool {
        self.shares || !self.fetches.is_empty() || !self.holds.is_empty()
    }

    fn wait_until(&mut self, key: &PayloadKey, at: Option<Mono>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Some(old) = core::mem::replace(&mut entry.due, at) {
            self.due.remove(&(old, *key));
        }
        self.due.extend(at.map(|at| (at, *key)));
    }

    /// Says what this node's stake in a payload is, if the record has room for it; else that waits.
    fn say(&mut self, key: &PayloadKey, now: Mono) -> Option<PayloadId> {
        self.wait_until(key, None);
        let entry = self.entries.get_mut(key)?;
        let list = if entry.stake == Stake::Fetches { &mut self.fetches } else { &mut self.holds };
        if list.len() >= wire::MAX_CLAIMS {
            self.wait_until(key, Some(now + FULL));
            return None;
        }
        entry.said = true;
        list.insert(*key);
        Some(entry.payload)
    }

    /// Takes back what was said of a payload. Returns whether there was anything.
    fn unsay(&mut self, key: &PayloadKey) -> bool {
        self.wait_until(key, None);
        let fetched = self.fetches.remove(key);
        self.holds.remove(key) | fetched
    }
}

impl NodeState {
    /// A download has come, gone, ended, or may no longer move.
    pub(in crate::node) fn stake_changed(&mut self, payload: &PayloadId, now: Now) {
        let key = PayloadKey::from(payload);
        let stake = self.stake_in(payload);
        if self.peers.claims.entries.get(&key).map(|entry| entry.stake) != stake {
            let unsaid = self.peers.claims.unsay(&key);
            match stake {
                Some(stake) => {
                    let entry = Entry { payload: *payload, stake, said: false, since: now.mono, due: None };
                    self.peers.claims.entries.insert(key, entry);
                }
                None => drop(self.peers.claims.entries.remove(&key)),
            }
            let claims = &mut self.peers.claims;
            let done = claims.shares && claims.entries.values().all(|entry| entry.stake == Stake::Holds);
            if done {
                claims.shares = false;
            }
            if unsaid || done {
                self.presence_changed();
            }
        }
        self.consider_claim(&key, now);
    }

    /// Others claim something else of these payloads now.
    pub(super) fn claims_changed(&mut self, payloads: &BTreeSet<PayloadKey>, now: Now) {
        for key in payloads {
            let Some(payload) = self.peers.claims.entries.get(key).map(|entry| entry.payload) else { continue };
            self.candidates_changed(&payload);
            self.consider_claim(key, now);
        }
    }

    /// Decides whether, and when, this node speaks of a payload.
    pub(in crate::node) fn consider_claim(&mut self, key: &PayloadKey, now: Now) {
        let at = self.claim_due(key, now);
        self.peers.claims.wait_until(key, at);
        if let Some(at) = at {
            self.timer(Reason::Claims, at);
        }
    }

    /// When this node speaks of a payload, as things stand. Who waits already goes on waiting, longer only as it learns how many
    /// there are.
    fn claim_due(&mut self, key: &PayloadKey, now: Now) -> Option<Mono> {
        let entry = self.peers.claims.entries.get_mut(key).filter(|entry| !entry.said)?;
        let (payload, stake) = (entry.payload, entry.stake);
        let counts = |device: &DeviceId| !self.peers.is_banned(device, now.mono);
        let believed = |device: &DeviceId| counts(device) && self.downloads.believes_holder(&payload, device);
        let holders = self.membership.holders(*key).filter(|device| believed(device)).count();
        let weight = self.wan_weight_for(&payload);
        let mine = lease::score(payload.as_bytes(), &self.cx.me, weight);
        let rank = lease::expected_rank(mine, self.membership.weights());
        let wait = SLOT.mul_f64(rank);
        let wait = match stake {
            Stake::Holds if holders >= HOLDERS => None,
            Stake::Holds => Some(wait.min(HOLDER_WAITS + self.cx.rng.jitter(HOLDER_WAITS / 2))),
            Stake::Fetches => {
                let better = self.membership.candidates(*key).filter(|(device, weight)| {
                    counts(device)
                        && !self.is_passed_over(&payload, device)
                        && (lease::score(payload.as_bytes(), device, *weight), *device) < (mine, self.cx.me)
                });
                let enough = better.take(CANDIDATES).count() == CANDIDATES;
                // What somebody holds comes from there, unless it does not come.
                (weight > 0 && !enough).then_some(if holders > 0 { wait + super::BELIEVE_HOLDER } else { wait })
            }
        };
        let entry = self.peers.claims.entries.get_mut(key)?;
        let waits = entry.due.is_some() && holders == 0;
        if !waits {
            entry.since = now.mono;
        }
        wait.map(|wait| (entry.since + wait).max(self.cx.started + AFTER_START))
    }

    /// Says what is due.
    pub(in crate::node) fn make_claims(&mut self, now: Now) {
        if self.peers.claims.due.first().is_some_and(|(at, _)| *at <= now.mono) {
            let soon = now.mono + TOGETHER;
            let due: Vec<_> =
                self.peers.claims.due.iter().take_while(|(at, _)| *at <= soon).map(|(_, key)| *key).collect();
            let mut said = Vec::new();
            for key in due {
                // There may be more that come before this node than it knew.
                let waits = self.membership.holders(key).next().is_none();
                let at = if waits { self.claim_due(&key, now) } else { Some(soon) };
                match at.filter(|at| *at <= soon) {
                    Some(_) => said.extend(self.peers.claims.say(&key, soon)),
                    None => self.peers.claims.wait_until(&key, at),
                }
            }
            self.has_claimed_news(said);
        }
        if let Some((at, _)) = self.peers.claims.due.first().copied() {
            self.timer(Reason::Claims, at);
        }
    }

    fn has_claimed_news(&mut self, said: Vec<PayloadId>) {
        if !said.is_empty() {
            self.peers.exchange.wanted(&mut self.cx);
        }
        for payload in said {
            self.candidates_changed(&payload);
        }
    }

    /// This node is at work on a payload: it says so without waiting for its turn.
    pub(in crate::node) fn claim_at_once(&mut self, payload: &PayloadId, now: Now) {
        let key = PayloadKey::from(payload);
        let waits = self.peers.claims.entries.get(&key).is_some_and(|e| e.stake == Stake::Fetches && !e.said);
        if waits {
            let said = self.peers.claims.say(&key, now.mono);
            self.has_claimed_news(said.into_iter().collect());
        }
    }

    /// This node is to tell the site of extents, and must be known by its record for that.
    pub(in crate::node) fn be_known(&mut self) {
        if !core::mem::replace(&mut self.peers.claims.shares, true) {
            self.peers.exchange.wanted(&mut self.cx);
        }
    }
}
