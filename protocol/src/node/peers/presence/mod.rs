//! The members' presence records, carried through the site.
//!
//! Owns this node's own record and what is to be passed on, asked for and doubted of others'; it never decides what a record
//! means for a download. Only changes travel, and most of them as a mention of a few bytes:
//! * Neighbours that meet tell each other of themselves and of the members that everybody must know; the first few of them
//!   compare digests and mention the members in those buckets that differ.
//! * Whoever takes in news mentions it to a few neighbours at random.
//! * A record is asked for where it is wanted ([`crate::membership::Membership::wants`]), of one that has it: a member that has something to say
//!   is passed on only by those that have its record.
//! * From time to time two neighbours compare digests again, so that what was missed arrives.
//!
//! Life is known from connections, as in SWIM (Das, Gupta and Motivala 2002): a member whose connection breaks is suspected
//! by its neighbours, who tell the others a little later. Whoever is connected to it asks it to speak; it refutes with a later
//! record. Without that it is gone everywhere after [`SUSPECT_FOR`]. As a last resort a record that was not made anew for
//! several times [`REFRESH`] expires. No message is due because time passes and nothing changed, except those two.

mod life;
mod records;
#[cfg(test)]
mod tests;

use super::claims::Claims;
use super::*;
use crate::catalog::Certificate;
use crate::membership::Membership;
use crate::trust::Trust;

/// Neighbours to which news is mentioned on which others may wait, and other news.
const FANOUT: usize = 8;
const FANOUT_PLAIN: usize = 4;
/// So few news go to all of [`FANOUT`], whatever they are: a newcomer is to be known by everybody soon.
const FEW: usize = 8;
/// Neighbours with which digests are compared as soon as they come, in so long a time.
const GREETED: usize = 3;
const GREETED_WITHIN: Duration = Duration::from_secs(10);
/// News is collected for this long, and in a large site for longer: many come at once.
const COLLECT: Duration = Duration::from_millis(20);
const COLLECT_PER_MEMBER: Duration = Duration::from_micros(100);
/// News on which others wait: who fetches, who holds, who is gone.
const COLLECT_URGENT: Duration = Duration::from_millis(8);
/// A record that has not come by then is asked of someone else.
const PULL_WITHIN: Duration = Duration::from_millis(1500);
/// Neighbours that are remembered as having a record that was asked of another.
const MAX_SOURCES: usize = 3;
/// Mentions of records that are of no use, and are not asked for again.
const MAX_USELESS: usize = 1024;
/// Records that one neighbour is given within [`GIVEN_WITHIN`], and suspicions that are believed of it.
const MAX_GIVEN: usize = 2 * MAX_MEMBERS;
const MAX_SUSPICIONS: usize = 512;
const GIVEN_WITHIN: Duration = Duration::from_secs(60);
/// A neighbour that is lost may come back within this time; then the others are told.
const LOST_FOR: Duration = Duration::from_secs(2);
/// A suspected member that has not spoken by then is gone.
const SUSPECT_FOR: Duration = Duration::from_secs(12);
/// A member that said it is going is forgotten then.
const LEAVING_FOR: Duration = Duration::from_secs(30);
/// A record that is later than this node's clock by more is believed to exist only when it is seen.
const UNPROVEN: Duration = Duration::from_secs(600);
/// How often two neighbours compare digests; sooner after the start.
const COMPARE: Duration = Duration::from_secs(30);
pub(super) const COMPARE_FIRST: Duration = Duration::from_secs(4);
/// How often a record is made anew although nothing has changed: each costs every member as much as any change does.
const REFRESH: Duration = Duration::from_secs(900);
const REFRESH_PER_MEMBER: Duration = Duration::from_secs(1);

/// A record that was asked for.
#[derive(Debug)]
struct Pull {
    mention: Mention,
    from: DeviceId,
    since: Mono,
    others: Vec<DeviceId>,
}

/// What one neighbour was given and has said lately.
#[derive(Debug, Default)]
struct Account {
    since: Mono,
    records: usize,
    suspicions: usize,
}

/// What is on its way.
#[derive(Debug, Default)]
pub(in crate::node) struct Exchange {
    /// Members to mention to neighbours, each with those that know as much.
    news: BTreeMap<MemberKey, BTreeSet<DeviceId>>,
    pulls: BTreeMap<MemberKey, Pull>,
    useless: BTreeSet<Mention>,
    /// Neighbours with which digests were compared as they came, since when.
    greeted: (Mono, usize),
    accounts: BTreeMap<DeviceId, Account>,
    /// What this node's record says, its time left out; nothing before the first.
    said: Option<Presence>,
    issued: Wall,
    signed: Option<Mono>,
    /// Somebody doubts this node: its next record is made although nothing has changed, and later than this.
    refutes: Option<Wall>,
}

impl Exchange {
    fn account(&mut self, peer: DeviceId, now: Mono) -> &mut Account {
        let account = self.accounts.entry(peer).or_default();
        if now.since(account.since) > GIVEN_WITHIN {
            *account = Account { since: now, ..Account::default() };
        }
        account
    }

    fn is_useless(&mut self, mention: Mention) {
        if self.useless.len() >= MAX_USELESS {
            self.useless.clear();
        }
        self.useless.insert(mention);
    }

    /// Whether digests are compared with one more neighbour that has just come.
    fn greets(&mut self, now: Mono) -> bool {
        if self.greeted.1 > 0 && now.since(self.greeted.0) > GREETED_WITHIN {
            self.greeted.1 = 0;
        }
        if self.greeted.1 == 0 {
            self.greeted.0 = now;
        }
        self.greeted.1 += 1;
        self.greeted.1 <= GREETED
    }
}

/// What the exchange reads of others, the members, which it keeps up to date, and what it wants of others.
pub(in crate::node) struct Site<'a> {
    pub(super) members: &'a mut Membership,
    pub(super) trust: &'a Trust,
    pub(super) certificate: &'a Certificate,
    pub(super) certificate_bytes: &'a [u8],
    pub(super) connected: &'a BTreeMap<DeviceId, Peer>,
    pub(super) listening: &'a [Text<128>],
    pub(super) claims: &'a Claims,
    pub(super) wan_weight: u8,
    /// Whether the coordinator is connected.
    pub(super) uplink: bool,
    /// Whether it may become so as soon as the site is known.
    pub(super) may_be_uplink: bool,
    pub(super) effects: Vec<Effect>,
}

/// What the exchange of presence wants of others.
#[derive(Debug)]
pub(in crate::node) enum Effect {
    /// A message to a neighbour.
    Send(DeviceId, Message),
    /// A message to every neighbour.
    Tell(Message),
    /// It broke the protocol.
    Ban(DeviceId, String),
    /// It does not belong here any more.
    Drop(DeviceId, String),
    /// A member has come, gone, or says something else of payloads.
    Moved(Change),
}

impl Site<'_> {
    fn neighbours(&self) -> impl Iterator<Item = (&DeviceId, &Peer)> {
        self.connected.iter().filter(|(_, peer)| matches!(peer.stage, Stage::Member { .. }))
    }

    fn send(&mut self, peer: DeviceId, message: Message) {
        self.effects.push(Effect::Send(peer, message));
    }

    pub(super) fn mention(&mut self, peer: DeviceId, mentions: Vec<Mention>) {
        for part in mentions.chunks(wire::MAX_IDS) {
            self.send(peer, Message::Known(Bounded::truncated(part.to_vec())));
        }
    }

    pub(super) fn send_digest(&mut self, peer: DeviceId, answer: bool) {
        let buckets = Bounded::truncated(self.members.digest(self.members.digest_len()));
        self.send(peer, Message::Digest { buckets, answer });
    }
}

impl Exchange {
    /// Something that the others should know of this node has changed: a record soon, but not one per event.
    pub(super) fn changed(&mut self, cx: &mut Cx) {
        let spacing = self.claim_spacing().max(PRESENCE_SPACING);
        self.after(cx, spacing);
    }

    /// The same when others wait for it.
    pub(super) fn wanted(&mut self, cx: &mut Cx) {
        let spacing = self.claim_spacing();
        self.after(cx, spacing);
    }

    fn claim_spacing(&self) -> Duration {
        let said = self.said.as_ref().map_or(0, |presence| presence.fetches.len());
        CLAIM_SPACING + CLAIM_SPACING_EACH * said as u32
    }

    fn after(&mut self, cx: &mut Cx, spacing: Duration) {
        let earliest = self.signed.map_or(Mono(0), |at| at + spacing);
        cx.timer(Reason::Presence, earliest.max(cx.now.mono));
    }

    /// Makes a new record if there is something new to say, or the last one has grown old.
    pub(super) fn handle_refresh(&mut self, cx: &mut Cx, site: &mut Site<'_>) {
        let old = self.signed.is_some_and(|at| cx.now.mono.since(at) >= Self::refresh_every(site) * 3 / 4);
        self.make_presence(cx, site, false, old);
        let every = Self::refresh_every(site);
        let next = every * 3 / 4 + cx.rng.jitter(every / 2);
        cx.retime(Reason::Presence, cx.now.mono + next);
    }

    fn refresh_every(site: &Site<'_>) -> Duration {
        REFRESH.max(REFRESH_PER_MEMBER * site.members.size() as u32)
    }

    fn make_presence(&mut self, cx: &mut Cx, site: &mut Site<'_>, leaving: bool, anyway: bool) {
        let (fetches, holds) = site.claims.said();
        let presence = Presence {
            certificate: SignedBytes::truncated(site.certificate_bytes.to_vec()),
            issued: Wall(0),
            addresses: Bounded::truncated(site.listening.to_vec()),
            wan_weight: site.wan_weight,
            uplink: site.uplink,
            leaving,
            fetches: Bounded::truncated(fetches),
            holds: Bounded::truncated(holds),
            shares: site.claims.shares(),
        };
        let refuted = self.refutes.take();
        if self.said.as_ref() == Some(&presence) && refuted.is_none() && !anyway {
            return;
        }
        let claims = |presence: &Presence| (presence.fetches.clone(), presence.holds.clone(), presence.shares);
        let urgent = leaving || refuted.is_some() || self.said.as_ref().map(claims) != Some(claims(&presence));
        let above = self.issued.max(refuted.unwrap_or_default());
        self.issued = cx.now.wall.max(Wall(above.0.saturating_add(1)));
        self.signed = Some(cx.now.mono);
        let record = Presence { issued: self.issued, ..presence.clone() };
        self.said = Some(presence);
        // A record has bounds that keep it below its kind's cap; an empty one would be refused by everyone.
        let bytes = envelope::sign(Kind::Presence, Role::Device, &record, &[&cx.config.key]).unwrap_or_default();
        site.members.set_mine(Mention::of(&record, site.certificate), bytes);
        self.is_news(cx, site, MemberKey::from(&cx.me), None, urgent);
    }

    pub(super) fn say_goodbye(&mut self, cx: &mut Cx, site: &mut Site<'_>) {
        self.make_presence(cx, site, true, true);
        self.handle_spread(cx, site);
        // Nobody may have the time to ask: the neighbours are told all of it.
        let (packed, _) = wire::Records::pack([site.members.mine()]);
        site.effects.push(Effect::Tell(Message::Members(packed)));
    }

    /// A member is to be mentioned to neighbours.
    fn is_news(&mut self, cx: &mut Cx, site: &mut Site<'_>, member: MemberKey, from: Option<DeviceId>, urgent: bool) {
        if self.news.len() < MAX_MEMBERS {
            self.news.entry(member).or_default().extend(from);
        }
        let wait = if urgent { COLLECT_URGENT } else { COLLECT.max(COLLECT_PER_MEMBER * site.members.size() as u32) };
        cx.timer(Reason::Spread, cx.now.mono + wait);
    }

    /// Mentions what is new to some neighbours.
    pub(super) fn handle_spread(&mut self, cx: &mut Cx, site: &mut Site<'_>) {
        let news = core::mem::take(&mut self.news);
        let news: Vec<_> = news.iter().filter_map(|(key, known)| Some((site.members.mention(key)?, known))).collect();
        let few = news.len() <= FEW;
        let mut neighbours: Vec<_> = site.neighbours().map(|(device, _)| *device).collect();
        cx.rng.shuffle(&mut neighbours);
        neighbours.truncate(FANOUT);
        for (at, peer) in neighbours.into_iter().enumerate() {
            let lacks = news.iter().filter(|(mention, known)| {
                !known.contains(&peer) && (at < FANOUT_PLAIN || few || mention.speaks || mention.leaving)
            });
            site.mention(peer, lacks.map(|(mention, _)| *mention).collect());
        }
    }

    /// The first word to a member that has just connected.
    pub(super) fn handle_neighbour(&mut self, cx: &mut Cx, site: &mut Site<'_>, peer: DeviceId) {
        self.make_presence(cx, site, false, false);
        if self.greets(cx.now.mono) {
            site.send_digest(peer, false);
        }
        let me = site.members.mention(&MemberKey::from(&cx.me));
        let first = me.into_iter().chain(site.members.speaking()).collect();
        site.mention(peer, first);
        let key = MemberKey::from(&peer);
        if let Some(change) = site.members.is_alive(&key) {
            site.effects.push(Effect::Moved(change));
        }
    }

    /// A neighbour at random is shown the digest, and what has not been heard of for too long is forgotten.
    pub(super) fn handle_compare(&mut self, cx: &mut Cx, site: &mut Site<'_>) {
        let next = COMPARE * 3 / 4 + cx.rng.jitter(COMPARE / 2);
        cx.retime(Reason::Compare, cx.now.mono + next);
        let neighbours: Vec<_> = site.neighbours().map(|(device, _)| *device).collect();
        if !neighbours.is_empty() {
            let peer = neighbours[cx.rng.below(neighbours.len())];
            site.send_digest(peer, true);
        }
        if site.members.lacks_records() {
            // Whoever has nothing in common with this node mentions everybody.
            if let Some(peer) = neighbours.first() {
                let nothing =
                    Message::Digest { buckets: Bounded::truncated(vec![MentionId::default()]), answer: false };
                site.send(*peer, nothing);
            }
        }
        let connected = site.connected;
        site.members.trim(|device| connected.contains_key(device));
        let since = Mono(cx.now.mono.0.saturating_sub((Self::refresh_every(site) * 4).as_micros() as u64));
        let is_connected = |key: &&MemberKey| connected_member(site.connected, key).is_some();
        let silent: Vec<_> = site.members.silent_since(since).filter(|key| !is_connected(key)).copied().collect();
        silent.iter().for_each(|member| site.forget_member(cx, member));
    }

    pub(super) fn handle_digest(&mut self, site: &mut Site<'_>, peer: DeviceId, buckets: &[MentionId], answer: bool) {
        let len = buckets.len();
        if !len.is_power_of_two() {
            return site.effects.push(Effect::Ban(peer, "it sent a digest of no proper length".into()));
        }
        let mine = site.members.digest(len);
        let differ: Vec<_> = (0..len).filter(|at| mine[*at] != buckets[*at]).collect();
        let mentions = differ.iter().flat_map(|bucket| site.members.bucket(len, *bucket)).collect();
        site.mention(peer, mentions);
        if answer && !differ.is_empty() {
            site.send_digest(peer, false);
        }
    }
}

/// The neighbour with this key.
fn connected_member(connected: &BTreeMap<DeviceId, Peer>, key: &MemberKey) -> Option<DeviceId> {
    let mut first = DeviceId::default();
    first.0[..key.0.len()].copy_from_slice(&key.0);
    let (device, peer) = connected.range(first..).next()?;
    (MemberKey::from(device) == *key && matches!(peer.stage, Stage::Member { .. })).then_some(*device)
}
