//! Who is here: the members of a site, and what follows from them.
//!
//! Every member is known to every other by a [`Mention`] of a few bytes: that it is there, since when, and how willing it is.
//! Its signed record with its certificate is kept only of those that matter to this node: members that *speak* (those that
//! fetch or hold payloads, are connected to the coordinator, or are branch caches), neighbours, and [`PLAIN`] others, so that
//! there is always somebody to dial. Up to that size of a site this is everybody. Each question is answered from an index that
//! moves with the member: who may fetch a payload and who holds it, how many members have which weight, who should be connected
//! to the coordinator, and a digest of all mentions to compare with a neighbour's. This module takes records as verified, and
//! never decides what is said to whom.
//!
//! Invariants:
//! * Nothing that was not signed counts for more than a number: how many are here, with which weights. Candidates, holders,
//!   uplinks, caches and addresses come from records with a certificate of this site that the verifier accepted.
//! * Of two records of a device the one issued later stands. One that is gone does not come back with the record it left.
//! * Only members that are here count: not one that is leaving, nor one that somebody has lost sight of.

mod digest;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

pub use digest::BUCKETS;

use crate::catalog::{Certificate, NodeRole};
use crate::codec::{Bounded, Text};
use crate::ids::{DeviceId, DocHash, MemberKey, MentionId, PayloadKey, SiteId};
use crate::lease;
use crate::time::{Mono, Wall};
use crate::wire::{Mention, Presence};

/// Connections to members of the site that a node looks for.
pub const NEIGHBOURS: usize = 12;
/// Members that are remembered; a site larger than this should be split.
pub const MAX_MEMBERS: usize = 4096;
/// Records that are kept of members that have nothing to say.
pub const PLAIN: usize = 64;
/// Members that keep a connection to the coordinator, at least; in a large site one in [`PER_UPLINK`].
pub const UPLINKS: usize = 2;
/// Members whose reports one uplink passes on: each of them is a neighbour of it.
pub const PER_UPLINK: usize = 32;
/// Members that are gone and remembered as such, and for how long.
const MAX_GONE: usize = 1024;
const GONE_FOR: Duration = Duration::from_secs(600);
/// What the hash of [`Membership::uplinks`] is about.
const UPLINK: &[u8] = b"uplink";

/// What is thought of a member's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is here.
    Here,
    /// A connection to it broke, here or elsewhere, and it has not spoken since.
    Suspected {
        /// Since when.
        since: Mono,
        /// Whether the neighbours were told.
        told: bool,
    },
    /// It said that it is going.
    Leaving {
        /// When.
        since: Mono,
    },
}

/// A member of the site, other than this node, whose record is here.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// What its certificate says.
    pub certificate: &'a Certificate,
    /// Of the certificate's envelope: verified once.
    pub certificate_hash: DocHash,
    /// What it said last, without the certificate.
    pub presence: &'a Presence,
    /// When it was heard of last.
    pub heard: Mono,
    /// What is thought of it.
    pub standing: Standing,
}

impl Member<'_> {
    /// Whether it counts.
    pub fn is_here(&self) -> bool {
        self.standing == Standing::Here
    }
}

#[derive(Debug)]
struct Record {
    certificate: Certificate,
    certificate_hash: DocHash,
    /// The envelope, to hand on.
    raw: Vec<u8>,
    presence: Presence,
}

#[derive(Debug)]
struct Entry {
    mention: Mention,
    heard: Mono,
    standing: Standing,
    uplink_score: u64,
    record: Option<Box<Record>>,
}

impl Entry {
    fn is_here(&self) -> bool {
        self.standing == Standing::Here
    }

    fn claims(&self) -> BTreeSet<PayloadKey> {
        let presence = self.record.iter().map(|record| &record.presence);
        presence.flat_map(|p| p.fetches.iter().chain(p.holds.iter())).copied().collect()
    }

    /// What counts of its claims: payloads that it may fetch over the WAN, and those that it holds, each in order.
    fn counted(&self) -> (&[PayloadKey], &[PayloadKey]) {
        match &self.record {
            Some(record) if self.is_here() => {
                let may_fetch = self.mention.wan_weight > 0;
                (if may_fetch { &record.presence.fetches } else { &[] }, &record.presence.holds)
            }
            _ => (&[], &[]),
        }
    }

    fn member(&self) -> Option<(&DeviceId, Member<'_>)> {
        let record = self.record.as_deref()?;
        let member = Member {
            certificate: &record.certificate,
            certificate_hash: record.certificate_hash,
            presence: &record.presence,
            heard: self.heard,
            standing: self.standing,
        };
        Some((&record.certificate.device, member))
    }

    fn mention(&self) -> Mention {
        Mention { has_record: self.record.is_some(), ..self.mention }
    }
}

/// Who has said what of one payload.
#[derive(Debug, Default)]
struct Claimed {
    fetchers: BTreeSet<DeviceId>,
    holders: BTreeSet<DeviceId>,
}

/// What a record changed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whom, if a record of it was here.
    pub device: Option<DeviceId>,
    /// Payloads of which somebody claims something else now.
    pub payloads: BTreeSet<PayloadKey>,
    /// A member is not here any more.
    pub left: bool,
}

/// What came of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// About this node, or of another site.
    Useless,
    /// A later one stands.
    Older(Mention),
    /// The member is gone since a record of this time.
    Gone(Wall),
    /// It stands now.
    News(Change),
}

/// The members of one site.
#[derive(Debug)]
pub struct Membership {
    me: DeviceId,
    site: SiteId,
    members: BTreeMap<MemberKey, Entry>,
    /// This node's own record, and what is mentioned of it.
    mine: Option<(Mention, Vec<u8>)>,
    /// Of all mentions; of this node's too.
    digest: digest::Digest,
    here: usize,
    /// Members that are here, by weight.
    weights: BTreeMap<u8, u32>,
    claimed: BTreeMap<PayloadKey, Claimed>,
    /// Members that are here and may use the WAN, in the order in which they should be uplinks.
    uplink_order: BTreeSet<(u64, MemberKey)>,
    connected_uplinks: BTreeSet<DeviceId>,
    caches: BTreeSet<DeviceId>,
    /// Members whose record is here and that have something to say, and those that have not.
    speaking: BTreeSet<MemberKey>,
    plain: BTreeSet<MemberKey>,
    /// Members that are only mentioned.
    mentioned: BTreeSet<MemberKey>,
    /// All of them, the one that was heard of the longest ago first.
    by_heard: BTreeSet<(Mono, MemberKey)>,
    /// Members that are known and not here.
    absent: BTreeSet<MemberKey>,
    gone: BTreeMap<MemberKey, (Wall, Mono)>,
}

/// What is in one of two lists in order and not in the other: `true` for what only the second has.
fn moved<'a>(was: &'a [PayloadKey], is: &'a [PayloadKey]) -> impl Iterator<Item = (PayloadKey, bool)> + 'a {
    let (mut was, mut is) = (was.iter().copied().peekable(), is.iter().copied().peekable());
    core::iter::from_fn(move || {
        loop {
            match (was.peek(), is.peek()) {
                (Some(old), Some(new)) if old == new => {
                    was.next();
                    is.next();
                }
                (Some(old), Some(new)) if old > new => return is.next().map(|key| (key, true)),
                (None, _) => return is.next().map(|key| (key, true)),
                (Some(_), _) => return was.next().map(|key| (key, false)),
            }
        }
    })
}

impl Membership {
    /// Nobody but this node.
    pub fn new(me: DeviceId, site: SiteId) -> Self {
        Self {
            me,
            site,
            members: BTreeMap::new(),
            mine: None,
            digest: digest::Digest::new(),
            here: 0,
            weights: BTreeMap::new(),
            claimed: BTreeMap::new(),
            uplink_order: BTreeSet::new(),
            connected_uplinks: BTreeSet::new(),
            caches: BTreeSet::new(),
            speaking: BTreeSet::new(),
            plain: BTreeSet::new(),
            mentioned: BTreeSet::new(),
            by_heard: BTreeSet::new(),
            absent: BTreeSet::new(),
            gone: BTreeMap::new(),
        }
    }

    /// The site.
    pub fn site(&self) -> SiteId {
        self.site
    }

    /// Takes in a record whose signature and certificate have been verified.
    pub fn heard(
        &mut self,
        now: Mono,
        certificate: (Certificate, DocHash),
        mut presence: Presence,
        raw: Vec<u8>,
    ) -> Heard {
        let (certificate, certificate_hash) = certificate;
        let device = certificate.device;
        let key = MemberKey::from(&device);
        if key == MemberKey::from(&self.me) || certificate.site != self.site {
            return Heard::Useless;
        }
        if let Some(issued) = self.gone_since(now, &key, presence.issued) {
            return Heard::Gone(issued);
        }
        for claims in [&mut presence.fetches, &mut presence.holds] {
            let mut keys = core::mem::take(claims).into_vec();
            // They come in order from honest members: this looks at each once.
            keys.sort_unstable();
            keys.dedup();
            *claims = Bounded::truncated(keys);
        }
        let mention = Mention::of(&presence, &certificate);
        let mut standing = if presence.leaving { Standing::Leaving { since: now } } else { Standing::Here };
        let mut change = Change { device: Some(device), ..Change::default() };
        if let Some(known) = self.members.get(&key) {
            match &known.record {
                Some(record) if record.certificate.device != device => return Heard::Useless,
                Some(record) if record.presence.issued >= presence.issued => return Heard::Older(known.mention()),
                // What nobody has signed does not stand against what is signed; but it may be right that it was lost sight of.
                None if known.mention.issued >= presence.issued && !presence.leaving => standing = known.standing,
                _ => {}
            }
            change.left = known.is_here() && presence.leaving;
            let same_weight = known.mention.wan_weight == presence.wan_weight;
            let before = known.record.as_ref().filter(|_| known.is_here() && !presence.leaving && same_weight);
            match before {
                Some(before) => {
                    let fetches = moved(&before.presence.fetches, &presence.fetches);
                    let holds = moved(&before.presence.holds, &presence.holds);
                    change.payloads = fetches.chain(holds).map(|(key, _)| key).collect();
                }
                None => {
                    change.payloads = known.claims();
                    change.payloads.extend(presence.fetches.iter().chain(&presence.holds).copied());
                }
            }
        } else {
            change.payloads = presence.fetches.iter().chain(&presence.holds).copied().collect();
        }
        let was = self.lift_out(&key);
        if was.is_none() && self.members.len() >= MAX_MEMBERS {
            // Whoever is only mentioned gives way to one who has shown a certificate.
            let Some(other) = self.mentioned.first().copied() else { return Heard::Useless };
            self.take_out(&other);
        }
        presence.certificate = Default::default();
        let record = Some(Box::new(Record { certificate, certificate_hash, raw, presence }));
        let entry = Entry { mention, heard: now, standing, uplink_score: uplink_score(&mention), record };
        self.recount(&device, was.as_ref().map_or((&[], &[]), Entry::counted), entry.counted());
        self.set_in(entry);
        Heard::News(change)
    }

    /// Takes note of a member of which there is, or is to be, no record here. Returns what that changed.
    pub fn noted(&mut self, now: Mono, mention: Mention) -> Option<Change> {
        let key = mention.member;
        if key == MemberKey::from(&self.me) || (!self.members.contains_key(&key) && self.members.len() >= MAX_MEMBERS) {
            return None;
        }
        self.gone.remove(&key);
        let known = self.take_out(&key);
        let left = mention.leaving && known.as_ref().is_some_and(Entry::is_here);
        let device = known.as_ref().and_then(|entry| entry.member()).map(|(device, _)| *device);
        let payloads = known.map(|entry| entry.claims()).unwrap_or_default();
        let standing = if mention.leaving { Standing::Leaving { since: now } } else { Standing::Here };
        self.put_in(Entry { mention, heard: now, standing, uplink_score: uplink_score(&mention), record: None });
        Some(Change { device, payloads, left })
    }

    /// This node's own record.
    pub fn set_mine(&mut self, mention: Mention, raw: Vec<u8>) {
        if let Some((old, _)) = self.mine.take() {
            self.digest.toggle(&old);
        }
        self.digest.toggle(&mention);
        self.mine = Some((Mention { has_record: true, ..mention }, raw));
    }

    /// The connection to a member broke, or somebody else has lost sight of it. Returns what that changed, if it was here.
    pub fn suspect(&mut self, now: Mono, member: &MemberKey, told: bool) -> Option<Change> {
        self.set_standing(member, |standing| {
            (standing == Standing::Here).then_some(Standing::Suspected { since: now, told })
        })
    }

    /// A sign of life of a member that was suspected; one that is leaving stays so.
    pub fn is_alive(&mut self, member: &MemberKey) -> Option<Change> {
        self.set_standing(member, |standing| matches!(standing, Standing::Suspected { .. }).then_some(Standing::Here))
    }

    /// The neighbours have been told that a member is suspected.
    pub fn suspicion_told(&mut self, member: &MemberKey) {
        if let Some(Standing::Suspected { told, .. }) = self.members.get_mut(member).map(|m| &mut m.standing) {
            *told = true;
        }
    }

    fn set_standing(&mut self, member: &MemberKey, next: impl Fn(Standing) -> Option<Standing>) -> Option<Change> {
        let standing = next(self.members.get(member)?.standing)?;
        let mut entry = self.take_out(member)?;
        let device = entry.member().map(|(device, _)| *device);
        let change = Change { device, payloads: entry.claims(), left: standing != Standing::Here };
        entry.standing = standing;
        self.put_in(entry);
        Some(change)
    }

    /// Forgets a member, whose record of now counts no more for a while. Returns what that changed.
    pub fn remove(&mut self, now: Mono, member: &MemberKey) -> Option<Change> {
        let entry = self.take_out(member)?;
        self.gone.retain(|_, (_, until)| *until > now);
        if self.gone.len() >= MAX_GONE
            && let Some(first) = self.gone.iter().min_by_key(|(_, (_, until))| *until).map(|(member, _)| *member)
        {
            self.gone.remove(&first);
        }
        self.gone.insert(*member, (entry.mention.issued, now + GONE_FOR));
        let device = entry.member().map(|(device, _)| *device);
        Some(Change { device, payloads: entry.claims(), left: entry.is_here() })
    }

    /// Since which record a member is gone, if one issued then brings it back no more.
    pub fn gone_since(&self, now: Mono, member: &MemberKey, issued: Wall) -> Option<Wall> {
        let (last, until) = self.gone.get(member)?;
        (*last >= issued && *until > now).then_some(*last)
    }

    /// Keeps only mentions of members that have nothing to say any more, down to [`PLAIN`] records of such; `keep` names those
    /// whose records stay.
    pub fn trim(&mut self, keep: impl Fn(&DeviceId) -> bool) {
        let over = self.plain.len().saturating_sub(PLAIN);
        let spare = |key: &&MemberKey| {
            let device = self.members.get(key).and_then(Entry::member).map(|(device, _)| device);
            device.is_some_and(|device| !keep(device))
        };
        let spare: Vec<_> = self.plain.iter().filter(spare).take(over).copied().collect();
        for key in spare {
            if let Some(mut entry) = self.take_out(&key) {
                entry.record = None;
                self.put_in(entry);
            }
        }
    }

    /// Moves the index of claims from what counted of a member's to what does now.
    fn recount(&mut self, device: &DeviceId, was: (&[PayloadKey], &[PayloadKey]), is: (&[PayloadKey], &[PayloadKey])) {
        let fetches = moved(was.0, is.0).map(|(key, new)| (key, new, true));
        let holds = moved(was.1, is.1).map(|(key, new)| (key, new, false));
        for (key, new, fetches) in fetches.chain(holds) {
            let claimed = self.claimed.entry(key).or_default();
            let devices = if fetches { &mut claimed.fetchers } else { &mut claimed.holders };
            if new {
                devices.insert(*device);
            } else {
                devices.remove(device);
            }
            if claimed.fetchers.is_empty() && claimed.holders.is_empty() {
                self.claimed.remove(&key);
            }
        }
    }

    fn put_in(&mut self, entry: Entry) {
        if let Some(record) = &entry.record {
            self.recount(&record.certificate.device, (&[], &[]), entry.counted());
        }
        self.set_in(entry);
    }

    fn take_out(&mut self, key: &MemberKey) -> Option<Entry> {
        let entry = self.lift_out(key)?;
        if let Some(record) = &entry.record {
            self.recount(&record.certificate.device, entry.counted(), (&[], &[]));
        }
        Some(entry)
    }

    /// Puts a member in whose claims are counted.
    fn set_in(&mut self, entry: Entry) {
        let key = entry.mention.member;
        self.digest.toggle(&entry.mention);
        self.by_heard.insert((entry.heard, key));
        match &entry.record {
            Some(_) if entry.mention.speaks => self.speaking.insert(key),
            Some(_) => self.plain.insert(key),
            None => self.mentioned.insert(key),
        };
        if entry.is_here() {
            let weight = entry.mention.wan_weight;
            self.here += 1;
            *self.weights.entry(weight).or_default() += 1;
            if weight > 0 {
                self.uplink_order.insert((entry.uplink_score, key));
            }
            if let Some(record) = &entry.record {
                let device = record.certificate.device;
                if record.presence.uplink {
                    self.connected_uplinks.insert(device);
                }
                if record.certificate.role == NodeRole::Cache {
                    self.caches.insert(device);
                }
            }
        } else {
            self.absent.insert(key);
        }
        self.members.insert(key, entry);
    }

    /// Takes a member out and leaves its claims counted.
    fn lift_out(&mut self, key: &MemberKey) -> Option<Entry> {
        let entry = self.members.remove(key)?;
        self.digest.toggle(&entry.mention);
        self.by_heard.remove(&(entry.heard, *key));
        for set in [&mut self.speaking, &mut self.plain, &mut self.mentioned, &mut self.absent] {
            set.remove(key);
        }
        self.uplink_order.remove(&(entry.uplink_score, *key));
        if entry.is_here() {
            self.here -= 1;
            if let Some(count) = self.weights.get_mut(&entry.mention.wan_weight) {
                *count = count.saturating_sub(1);
            }
        }
        if let Some(record) = &entry.record {
            let device = record.certificate.device;
            self.connected_uplinks.remove(&device);
            self.caches.remove(&device);
        }
        Some(entry)
    }

    /// A member whose record is here.
    pub fn get(&self, device: &DeviceId) -> Option<Member<'_>> {
        let (found, member) = self.members.get(&MemberKey::from(device))?.member()?;
        (found == device).then_some(member)
    }

    /// Members other than this node whose records are here, whether they are here or not.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, Member<'_>)> {
        self.members.values().filter_map(Entry::member)
    }

    /// Those from this key on, and then those before it: where a random key comes to lie, a random member is.
    pub fn iter_from(&self, device: DeviceId) -> impl Iterator<Item = (&DeviceId, Member<'_>)> {
        let key = MemberKey::from(&device);
        self.members.range(key..).chain(self.members.range(..key)).filter_map(|(_, entry)| entry.member())
    }

    /// Members that are known and not here, each with the time of its last record.
    pub fn absent(&self) -> impl Iterator<Item = (MemberKey, Wall, Standing)> {
        let absent = self.absent.iter().filter_map(|key| self.members.get(key));
        absent.map(|entry| (entry.mention.member, entry.mention.issued, entry.standing))
    }

    /// Members that were not heard of since then.
    pub fn silent_since(&self, then: Mono) -> impl Iterator<Item = &MemberKey> {
        self.by_heard.iter().take_while(move |(heard, _)| *heard < then).map(|(_, member)| member)
    }

    /// Number of members that are here, this node included.
    pub fn size(&self) -> usize {
        1 + self.here
    }

    /// Members other than this node that are here, by weight.
    pub fn weights(&self) -> &BTreeMap<u8, u32> {
        &self.weights
    }

    /// The members that say they are ready to fetch a payload and may use the WAN, with their weights.
    pub fn candidates(&self, payload: PayloadKey) -> impl Iterator<Item = (DeviceId, u8)> {
        let fetchers = self.claimed.get(&payload).map(|claimed| claimed.fetchers.iter());
        fetchers.into_iter().flatten().filter_map(|d| Some((*d, self.get(d)?.presence.wan_weight)))
    }

    /// The members that say they hold all of a payload.
    pub fn holders(&self, payload: PayloadKey) -> impl Iterator<Item = &DeviceId> {
        self.claimed.get(&payload).map(|claimed| claimed.holders.iter()).into_iter().flatten()
    }

    /// Branch caches that are here.
    pub fn caches(&self) -> impl Iterator<Item = &DeviceId> {
        self.caches.iter()
    }

    /// How many members should keep a connection to the coordinator.
    fn uplinks_needed(&self) -> usize {
        UPLINKS.max((self.uplink_order.len() + 1).div_ceil(PER_UPLINK))
    }

    /// Whether this node should be one of those that keep a connection to the coordinator: by weighted hash, the first few.
    pub fn is_uplink(&self, my_weight: u8) -> bool {
        let key = MemberKey::from(&self.me);
        self.is_among_first((score(&key, my_weight.max(1)), key), self.uplinks_needed())
    }

    fn is_among_first(&self, place: (u64, MemberKey), count: usize) -> bool {
        self.uplink_order.iter().take(count).take_while(|other| **other < place).count() < count
    }

    /// The members that say they are connected to the coordinator.
    pub fn connected_uplinks(&self) -> impl Iterator<Item = &DeviceId> {
        self.connected_uplinks.iter()
    }

    /// Whether a member is a branch cache.
    pub fn is_cache(&self, device: &DeviceId) -> bool {
        self.get(device).is_some_and(|m| m.certificate.role == NodeRole::Cache)
    }

    /// What is known of a member at least; of this node too.
    pub fn mention(&self, member: &MemberKey) -> Option<Mention> {
        match &self.mine {
            Some((mine, _)) if mine.member == *member => Some(*mine),
            _ => self.members.get(member).map(Entry::mention),
        }
    }

    /// Members that have something to say.
    pub fn speaking(&self) -> impl Iterator<Item = Mention> {
        self.speaking.iter().filter_map(|key| self.mention(key))
    }

    /// Whether the record of a member is wanted here that has been mentioned so, when so many others are on their way.
    pub fn wants(&self, mention: &Mention, on_their_way: usize) -> bool {
        let place = (uplink_score(mention), mention.member);
        mention.speaks
            || self.plain.len() + on_their_way < PLAIN
            || self.members.get(&mention.member).is_some_and(|entry| entry.record.is_some())
            // Whether it is one of those that should be connected to the coordinator is not believed unseen.
            || (mention.wan_weight > 0 && self.is_among_first(place, 2 * self.uplinks_needed()))
    }

    /// Whether records are wanted of members that are only mentioned, so that there is somebody to dial.
    pub fn lacks_records(&self) -> bool {
        self.plain.len() < PLAIN / 4 && !self.mentioned.is_empty()
    }

    /// The record of a member; this node's own too.
    pub fn record(&self, member: &MemberKey) -> Option<&[u8]> {
        match &self.mine {
            Some((mine, raw)) if mine.member == *member => Some(raw),
            _ => self.members.get(member)?.record.as_ref().map(|record| record.raw.as_slice()),
        }
    }

    /// This node's own record; empty before there is one.
    pub fn mine(&self) -> &[u8] {
        self.mine.as_ref().map_or(&[], |(_, raw)| raw)
    }

    /// How many buckets a digest should have: about four members to each.
    pub fn digest_len(&self) -> usize {
        (self.members.len() / 4).next_power_of_two().clamp(1, BUCKETS)
    }

    /// All mentions in so many buckets: a power of two, at most [`BUCKETS`].
    pub fn digest(&self, len: usize) -> Vec<MentionId> {
        self.digest.sums(len)
    }

    /// The mentions in one bucket of a digest of so many.
    pub fn bucket(&self, len: usize, bucket: usize) -> impl Iterator<Item = Mention> {
        let (first, last) = digest::edges(len, bucket);
        let mine = self.mine.iter().map(|(mine, _)| *mine).filter(move |mine| (first..=last).contains(&mine.member));
        self.members.range(first..=last).map(|(_, entry)| entry.mention()).chain(mine)
    }

    /// Addresses of a member.
    pub fn addresses(&self, device: &DeviceId) -> &[Text<128>] {
        self.get(device).map_or(&[], |m| &m.presence.addresses)
    }
}

/// Where a member comes in the order of uplinks. Its key's first bytes are all that is known of most.
fn score(member: &MemberKey, weight: u8) -> u64 {
    let mut device = DeviceId::default();
    device.0[..member.0.len()].copy_from_slice(&member.0);
    lease::score(UPLINK, &device, weight)
}

fn uplink_score(mention: &Mention) -> u64 {
    score(&mention.member, mention.wan_weight)
}

/// A record is believed only if it was made not long ago by the sender's clock against this one: an old recording does not
/// bring a departed member back. Clocks of office machines may be minutes apart.
pub fn plausible(issued: Wall, wall: Wall) -> bool {
    const SKEW: Duration = Duration::from_secs(24 * 3600);
    wall.since(issued) < SKEW && issued.since(wall) < SKEW
}
