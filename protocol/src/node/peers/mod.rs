//! Neighbours: certificates before anything else, presence, dialling, the connection to the coordinator.

mod explain;

mod claims;
mod dialling;
mod gossip;
mod presence;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::cx::Cx;
pub(super) use super::cx::backoff;
use super::downloads::{BELIEVE_HOLDER, Stake};
use super::reports::Acknowledged;
use super::{NodeConfig, NodeState, Output, Reason, Record, Verdict};
use crate::catalog::NodeRole;
use crate::codec::{Bounded, Text};
use crate::envelope::{self, Envelope, EnvelopeError, Kind, Role};
use crate::ids::{DeviceId, DocHash, MemberKey, MentionId, PayloadId, PayloadKey, PublicKey};
use crate::lease;
use crate::membership::{self, Change, Heard, MAX_MEMBERS, NEIGHBOURS, Standing};
use crate::report::Trouble;
use crate::time::{Mono, Now, Wall};
use crate::trust::HeadNews;
use crate::wire::{self, Lease, Mention, Message, Presence, SignedBytes, Topic};

/// A peer that has not shown its certificate by then is disconnected.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// More members than this are refused.
const MAX_PEERS: usize = 64;
/// Peers that have not shown a certificate, beside them: strangers have no place among the members. The one that is silent for longest
/// makes place for the next.
const MAX_STRANGERS: usize = 16;
/// Addresses of peers that are remembered.
const MAX_ADDRESSES: usize = 512;
/// Dials under way at one time.
const MAX_DIALS: usize = 4;
/// A dial that has led to nothing by then is over: a second connection to a connected peer is told to nobody.
const DIAL_WITHIN: Duration = Duration::from_secs(10);
/// A report that has waited this long for a neighbour with a connection to the coordinator is brought there by its maker.
const REPORT_PATIENCE: Duration = Duration::from_secs(8);
/// Presence records follow each other at this distance at least.
const PRESENCE_SPACING: Duration = Duration::from_millis(200);
/// Those that say that this node fetches or holds a payload: so much apart for a payload, and more for each that it has spoken for
/// already, since those keep the site busy meanwhile. Every member verifies and takes in the whole of each record.
const CLAIM_SPACING: Duration = Duration::from_millis(50);
const CLAIM_SPACING_EACH: Duration = Duration::from_millis(3);
/// After the first word of a member most others have been heard of.
const KNOWN_AFTER: Duration = Duration::from_millis(150);
/// The address of a peer that was refused, of another site for example, is not dialled again for this long.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// The same for whoever did nothing wrong: where one identity runs twice, what is meant for one of them reaches the other, and that
/// may be over in a moment.
const MIXED_UP_FOR: Duration = Duration::from_secs(15);
/// A peer that served bad bytes or broke the protocol is not talked to for this long.
const BAN: Duration = Duration::from_secs(3600);
const MAX_BANS: usize = 1024;
/// A renewal that brought nothing is asked for again after this long; sooner while the certificate counts for nobody.
const RENEW_AGAIN: Duration = Duration::from_secs(3600);
const RENEW_SOON: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its certificate has not been seen.
    Greeting,
    /// A member of this site.
    Member {
        /// Whether it is a branch cache.
        cache: bool,
    },
    /// The coordinator.
    Coordinator,
}

/// A connected peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stage: Stage,
    pub(super) since: Mono,
    pub(super) root_version: u64,
    /// The index of which it serves every document.
    pub(super) catalog: Option<DocHash>,
}

impl Peer {
    fn new(since: Mono) -> Self {
        Self { stage: Stage::Greeting, since, root_version: 0, catalog: None }
    }
}

#[derive(Debug, Default)]
struct Address {
    device: Option<DeviceId>,
    /// Named by the admin: never forgotten.
    permanent: bool,
    /// When it was dialled, until the dial is over.
    dialling: Option<Mono>,
    failures: u32,
    /// Why the last dial failed.
    trouble: Text<200>,
    next: Mono,
}

/// Connections and addresses.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) connected: BTreeMap<DeviceId, Peer>,
    addresses: BTreeMap<Text<512>, Address>,
    banned: BTreeMap<DeviceId, Mono>,
    past: explain::Past,
    listening: Vec<Text<128>>,
    exchange: presence::Exchange,
    claims: claims::Claims,
    pub(super) coordinator: Option<DeviceId>,
    /// The coordinator has said that this is the first machine of its site to come.
    pub(super) first_of_site: bool,
    coordinator_failures: u32,
    coordinator_trouble: Text<200>,
    coordinator_next: Mono,
    coordinator_dialling: Option<Mono>,
}

impl Peers {
    pub(super) fn new(config: &NodeConfig) -> Self {
        let permanent = |address: &Text<512>| (address.clone(), Address { permanent: true, ..Address::default() });
        Self {
            connected: BTreeMap::new(),
            addresses: config.peers.iter().take(MAX_ADDRESSES).map(permanent).collect(),
            banned: BTreeMap::new(),
            past: explain::Past::default(),
            listening: Vec::new(),
            exchange: presence::Exchange::default(),
            claims: claims::Claims::default(),
            coordinator: None,
            first_of_site: false,
            coordinator_failures: 0,
            coordinator_trouble: Text::default(),
            coordinator_next: Mono(0),
            coordinator_dialling: None,
        }
    }

    /// Connected members of the site.
    pub(super) fn members(&self) -> impl Iterator<Item = (&DeviceId, &Peer)> {
        self.connected.iter().filter(|(_, peer)| matches!(peer.stage, Stage::Member { .. }))
    }

    /// Of too many peers that have not shown a certificate the one that came first; the coordinator is none of them.
    fn stranger_in_the_way(&self) -> Option<DeviceId> {
        let strangers = || self.connected.iter().filter(|(_, peer)| peer.stage == Stage::Greeting);
        let first = || strangers().min_by_key(|(_, peer)| peer.since).map(|(device, _)| *device);
        (strangers().count() >= MAX_STRANGERS).then(first).flatten()
    }

    /// Whether this member of the site is connected.
    pub(super) fn is_member(&self, device: &DeviceId) -> bool {
        self.connected.get(device).is_some_and(|peer| matches!(peer.stage, Stage::Member { .. }))
    }

    /// Whether a member served bad bytes or broke the protocol, and is not talked to for now.
    pub(super) fn bans(&self) -> usize {
        self.banned.len()
    }

    pub(super) fn is_banned(&self, device: &DeviceId, now: Mono) -> bool {
        self.banned.get(device).is_some_and(|until| *until > now)
    }

    /// Members that are not talked to, and until when.
    pub(super) fn banned(&self) -> &BTreeMap<DeviceId, Mono> {
        &self.banned
    }

    /// Payloads that this node has told the site it is ready to fetch.
    pub(super) fn claimed(&self) -> &BTreeSet<PayloadKey> {
        self.claims.fetches()
    }

    /// Whether the site knows this node by its record, because it has said something of a payload.
    pub(super) fn is_known(&self) -> bool {
        self.claims.has_said()
    }

    /// Addresses on which this node listens.
    pub(super) fn listening(&self) -> &[Text<128>] {
        &self.listening
    }
}

impl NodeState {
    pub(super) fn peer_up(&mut self, peer: DeviceId, dialled: Option<Text<512>>, now: Now) {
        let is_coordinator = peer == self.cx.config.coordinator;
        if let Some(entry) = dialled.and_then(|address| self.peers.addresses.get_mut(&address)) {
            *entry = Address { device: Some(peer), permanent: entry.permanent, ..Address::default() };
        }
        if is_coordinator {
            self.peers.coordinator_dialling = None;
        }
        self.peers.banned.retain(|_, until| *until > now.mono);
        if self.peers.banned.contains_key(&peer) {
            return self.disconnect(peer, "it served bad data before".into());
        }
        if !is_coordinator && let Some(stranger) = self.peers.stranger_in_the_way() {
            self.forget_stranger(stranger, "others wait to show their certificates".into(), now);
        }
        self.peers.connected.insert(peer, Peer::new(now.mono));
        self.timer(Reason::Hello(peer), now.mono + HELLO_WITHIN);
        let hello = Message::Hello {
            version: wire::VERSION,
            certificate: SignedBytes::truncated(self.certificate_bytes.clone()),
            head: SignedBytes::truncated(self.trust.head_bytes().unwrap_or_default().to_vec()),
            root_version: self.trust.root().version,
        };
        self.send(peer, &hello);
    }

    pub(super) fn peer_down(&mut self, peer: DeviceId, now: Now) {
        self.cx.timers.remove(&Reason::Hello(peer));
        let Some(gone) = self.peers.connected.remove(&peer) else { return };
        if self.peers.coordinator == Some(peer) {
            self.peers.coordinator = None;
            self.timer(Reason::Uplink, now.mono + Duration::from_secs(1));
            self.presence_changed();
        }
        if matches!(gone.stage, Stage::Member { .. }) {
            self.exchange(now, |exchange, cx, site| exchange.handle_lost(cx, site, &peer));
            let given = self.downloads_peer_gone(peer);
            self.peers.past.gave(peer, given);
            self.timer(Reason::Dial, now.mono + Duration::from_millis(500));
        }
    }

    pub(super) fn hello_overdue(&mut self, peer: DeviceId, now: Now) {
        if self.peers.connected.get(&peer).is_some_and(|p| p.stage == Stage::Greeting) {
            self.drop_peer_for(peer, "it did not say hello in time".into(), MIXED_UP_FOR, now);
        }
    }

    /// Ends the connection of one whose certificate was not seen, and keeps nothing of it: a key costs nothing.
    fn forget_stranger(&mut self, peer: DeviceId, reason: String, now: Now) {
        self.disconnect(peer, reason);
        self.peer_down(peer, now);
    }

    pub(super) fn frame(&mut self, peer: DeviceId, bytes: &[u8], now: Now) {
        let Some(stage) = self.peers.connected.get(&peer).map(|p| p.stage) else { return };
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => return self.ban(peer, format!("it sent a frame that is {error}"), now),
        };
        match (stage, message) {
            (Stage::Greeting, Message::Hello { version, certificate, head, root_version }) => {
                self.hello(peer, version, &certificate, &head, root_version, now);
            }
            (_, Message::Refused { reason }) => {
                self.peers.past.parted(peer, &format!("it refused this device: {reason}"), now.wall);
                self.cx.out.push_back(Output::Alarm(format!("peer {} refuses: {reason}", peer.short())));
            }
            // No misbehaviour: where one identity runs twice, frames of two connections mix.
            (Stage::Greeting, _) => {
                self.drop_peer_for(peer, "it spoke before showing its certificate".into(), MIXED_UP_FOR, now);
            }
            (_, Message::Head(head)) => {
                self.head_offered(&head, Some(peer), now);
            }
            (_, Message::Catalog { index }) => {
                if let Some(p) = self.peers.connected.get_mut(&peer) {
                    p.catalog = Some(index);
                }
                // Gossip may be lost. Of two neighbours with different catalogs one has missed a head: it is told, or tells.
                let mine = self.trust.head().map(|head| head.index_hash);
                match self.trust.head_bytes().filter(|_| mine != Some(index)) {
                    Some(head) => {
                        let head = Message::Head(SignedBytes::truncated(head.to_vec()));
                        self.send(peer, &head);
                    }
                    // The catalog of nobody: whoever has one tells its head.
                    None if mine.is_none() && index != DocHash::default() => {
                        self.send(peer, &Message::Catalog { index: DocHash::default() });
                    }
                    None => {}
                }
                self.fetch_documents(now);
            }
            (Stage::Member { .. }, Message::Digest { buckets, answer }) => {
                self.exchange(now, |exchange, _, site| exchange.handle_digest(site, peer, &buckets, answer));
            }
            (Stage::Member { .. }, Message::Known(mentions)) => {
                self.exchange(now, |exchange, cx, site| exchange.handle_known(cx, site, peer, &mentions));
            }
            (Stage::Member { .. }, Message::Ask(members)) => {
                self.exchange(now, |exchange, cx, site| exchange.handle_ask(cx, site, peer, &members));
            }
            (Stage::Member { .. }, Message::Members(records)) => match records.unpack() {
                Some(records) => {
                    self.exchange(now, |exchange, cx, site| exchange.handle_records(cx, site, peer, &records));
                }
                None => self.ban(peer, "it sent records that are no records".into(), now),
            },
            (Stage::Member { .. }, Message::Suspects(suspects)) => {
                self.exchange(now, |exchange, cx, site| exchange.handle_suspects(cx, site, peer, &suspects));
            }
            (Stage::Member { .. }, Message::Holdings(holdings)) => {
                self.holdings_heard(peer, holdings.into_vec());
            }
            (Stage::Member { .. }, Message::Relay { device, seq, encrypted }) => {
                self.relay_for(peer, device, seq, encrypted.into_vec());
            }
            (_, Message::Retry(order)) => self.retry_ordered(peer, order),
            (_, Message::WanLimits(order)) => self.wan_limits_ordered(peer, order),
            (_, Message::RelayAck { device, seq, held, news, proof }) => {
                self.relay_acknowledged(Acknowledged { device, seq, held, news: &news, proof }, now)
            }
            (_, Message::Call { device }) => self.called(device, stage == Stage::Coordinator, now),
            (Stage::Coordinator, Message::Peers(addresses)) => {
                for address in &addresses {
                    self.hint(address.clone(), now);
                }
            }
            (Stage::Coordinator, Message::FirstOfSite) => {
                self.peers.first_of_site = true;
                self.look_after_all_leases();
            }
            (Stage::Coordinator, Message::Here { clock, .. }) => self.coordinator_clock(clock, now),
            (Stage::Coordinator, Message::Renewed { certificate }) => self.certificate_renewed(&certificate, now),
            (Stage::Coordinator, Message::Assignment(bytes)) => self.assignment_arrived(&bytes, now),
            (_, unexpected) => {
                let name = format!("{unexpected:?}");
                let name = name.split([' ', '(']).next().unwrap_or_default().to_owned();
                self.ban(peer, format!("it sent {name}, which is not for it to send"), now);
            }
        }
    }

    fn hello(&mut self, peer: DeviceId, version: u16, certificate: &[u8], head: &[u8], root_version: u64, now: Now) {
        if version != wire::VERSION {
            return self.drop_peer(peer, format!("it speaks version {version}, this is {}", wire::VERSION), now);
        }
        // The transport has proven the coordinator's key, and the join token named it. Its documents are checked each by itself,
        // so that a node that slept through a change of the online keys can still catch up.
        let stage = if peer == self.cx.config.coordinator {
            Stage::Coordinator
        } else {
            let certificate = match self.trust.check_certificate(certificate, now.wall) {
                Ok(certificate) if certificate.device == peer => certificate,
                Ok(_) => return self.ban(peer, "it showed the certificate of another device".into(), now),
                Err(error) => return self.drop_peer(peer, format!("its certificate is not good: {error}"), now),
            };
            if certificate.site != self.certificate.site {
                return self.drop_peer(peer, "it belongs to another site".into(), now);
            }
            if self.peers.members().count() >= MAX_PEERS {
                return self.drop_peer_for(
                    peer,
                    format!("{MAX_PEERS} members are connected already"),
                    MIXED_UP_FOR,
                    now,
                );
            }
            Stage::Member { cache: certificate.role == NodeRole::Cache }
        };
        self.cx.timers.remove(&Reason::Hello(peer));
        if let Some(p) = self.peers.connected.get_mut(&peer) {
            (p.stage, p.root_version) = (stage, root_version);
        }
        match stage {
            Stage::Coordinator => {
                self.peers.coordinator = Some(peer);
                self.peers.coordinator_failures = 0;
                self.presence_changed();
                self.show_assignment(peer);
                self.timer(Reason::Relay, now.mono);
                self.say_here(now);
                if let Some(aside) = self.trust.aside_bytes().map(<[u8]>::to_vec) {
                    // One that was restored from a backup does not know it.
                    self.send(peer, &Message::Head(crate::codec::Bounded::truncated(aside)));
                }
                if self.renewal_due(now) <= now.mono {
                    self.timer(Reason::Renew, now.mono);
                }
            }
            _ => self.greet_member(peer, now),
        }
        if !head.is_empty() {
            self.head_offered(head, Some(peer), now);
        }
        self.fetch_documents(now);
    }

    fn greet_member(&mut self, peer: DeviceId, now: Now) {
        self.exchange(now, |exchange, cx, site| exchange.handle_neighbour(cx, site, peer));
        if let Some(index) = self.announced_catalog() {
            self.send(peer, &Message::Catalog { index });
        }
        self.show_wan_limits(peer);
        let cache = self.peers.connected.get(&peer).is_some_and(|p| p.stage == Stage::Member { cache: true });
        self.downloads_peer_came(peer, cache);
        if self.peers.first_of_site {
            self.look_after_all_leases();
        }
    }

    /// Has the exchange of presence act, and hands on what it wants.
    fn exchange(&mut self, now: Now, act: impl FnOnce(&mut presence::Exchange, &mut Cx, &mut presence::Site<'_>)) {
        let wan_weight = self.wan_weight();
        let Peers { exchange, connected, listening, claims, coordinator, coordinator_failures, .. } = &mut self.peers;
        let mut site = presence::Site {
            members: &mut self.membership,
            trust: &self.trust,
            certificate: &self.certificate,
            certificate_bytes: &self.certificate_bytes,
            connected,
            listening,
            claims,
            wan_weight,
            uplink: coordinator.is_some(),
            may_be_uplink: coordinator.is_none() && *coordinator_failures == 0,
            effects: Vec::new(),
        };
        act(exchange, &mut self.cx, &mut site);
        let effects = site.effects;
        self.presence_effects(effects, now);
    }

    fn presence_effects(&mut self, effects: Vec<presence::Effect>, now: Now) {
        use presence::Effect as E;
        for effect in effects {
            match effect {
                E::Send(peer, message) => self.send(peer, &message),
                E::Tell(message) => self.tell_members(&message),
                E::Ban(peer, reason) => self.ban(peer, reason, now),
                E::Drop(peer, reason) => self.drop_peer(peer, reason, now),
                E::Moved(change) => {
                    if let Some(device) = change.device.filter(|_| change.left) {
                        self.candidates_departed(&device);
                    }
                    self.claims_changed(&change.payloads, now);
                }
            }
        }
    }

    /// Something that the site should know of this node has changed: a record soon, but not one per event.
    pub(super) fn presence_changed(&mut self) {
        self.peers.exchange.changed(&mut self.cx);
    }

    /// A timer of the exchange of presence has come.
    pub(super) fn presence_due(&mut self, reason: Reason, now: Now) {
        self.exchange(now, |exchange, cx, site| match reason {
            Reason::Spread => exchange.handle_spread(cx, site),
            Reason::Pull => exchange.handle_pull(cx, site),
            Reason::Members => exchange.handle_absent(cx, site),
            Reason::Compare => exchange.handle_compare(cx, site),
            _ => exchange.handle_refresh(cx, site),
        });
    }

    pub(super) fn say_goodbye(&mut self, now: Now) {
        self.exchange(now, |exchange, cx, site| exchange.say_goodbye(cx, site));
        self.persist_counters();
    }

    /// There is a new root: whoever could not check this device, or be checked by it, may now, and a certificate by a removed key
    /// counts for nobody.
    pub(super) fn root_changed(&mut self, now: Now) {
        self.dial_all_again(now);
        if !self.trust.vouches_for(&self.certificate_bytes) {
            // A whole site hears of it at once, and only some have a connection to the coordinator.
            let spread = if self.peers.coordinator.is_some() { Duration::ZERO } else { Duration::from_secs(5) };
            let wait = self.cx.rng.jitter(spread);
            self.retime(Reason::Renew, now.mono + wait);
        }
    }

    fn renewal_due(&self, now: Now) -> Mono {
        if !self.trust.vouches_for(&self.certificate_bytes) {
            return now.mono;
        }
        let due = |issued: Wall, expires: Wall| issued + expires.since(issued) * 2 / 3;
        let certificate = due(self.certificate.issued, self.certificate.expires);
        let assignment = self.assigned.held().map_or(now.wall, |held| due(held.issued, held.expires));
        now.mono + certificate.min(assignment).since(now.wall)
    }

    pub(super) fn renew_certificate(&mut self, now: Now) {
        let due = self.renewal_due(now);
        if due > now.mono {
            return self.timer(Reason::Renew, due);
        }
        let again = if self.trust.vouches_for(&self.certificate_bytes) { RENEW_AGAIN } else { RENEW_SOON };
        self.timer(Reason::Renew, now.mono + again);
        match self.peers.coordinator {
            Some(coordinator) => self.send(coordinator, &Message::Renew),
            None => self.dial_coordinator(now),
        }
    }

    pub(super) fn certificate_renewed(&mut self, bytes: &[u8], now: Now) {
        let before = self.trust.vouches_for(&self.certificate_bytes);
        // What only a key signed that the root has removed since is no bound.
        let bound = if before { self.certificate.issued } else { Wall::default() };
        // Fresh from the coordinator: if it has expired, this clock is wrong.
        match self.trust.check_own_certificate(bytes) {
            Ok(certificate) if certificate.device == self.cx.me && certificate.issued >= bound => {
                if certificate.site != self.certificate.site {
                    self.cx.out.push_back(Output::Alarm(
                        "the new certificate is for another site; restart the node to move there".into(),
                    ));
                }
                self.certificate = certificate;
                self.certificate_bytes = bytes.to_vec();
                self.cx.persist(Record::Certificate(bytes.to_vec()));
                self.presence_changed();
                self.catalog_changed(now);
                self.look_at_clock(now);
                if !before {
                    self.dial_all_again(now);
                }
            }
            Ok(_) => {}
            // By keys that a root names which is on its way.
            Err(_) if self.trust.wanted_root().is_some() => {}
            Err(error) => {
                self.alarm(Trouble::Document, format!("the coordinator sent a certificate that is not good: {error}"))
            }
        }
    }

    pub(super) fn send(&mut self, peer: DeviceId, message: &Message) {
        self.cx.send(peer, message);
    }

    /// Sends a message to every connected member of the site.
    pub(super) fn tell_members(&mut self, message: &Message) {
        let members: Vec<_> = self.peers.members().map(|(device, _)| *device).collect();
        for device in members {
            self.send(device, message);
        }
    }

    fn disconnect(&mut self, peer: DeviceId, reason: String) {
        self.cx.out.push_back(Output::Disconnect { peer, reason });
    }

    pub(super) fn drop_peer(&mut self, peer: DeviceId, reason: String, now: Now) {
        // Whoever is refused now will be refused in a moment too.
        self.drop_peer_for(peer, reason, REFUSED_FOR, now);
    }

    fn drop_peer_for(&mut self, peer: DeviceId, reason: String, rest: Duration, now: Now) {
        if self.peers.connected.contains_key(&peer) {
            let refusal = Message::Refused { reason: Text::lossy(&reason) };
            self.send(peer, &refusal);
            self.peers.past.parted(peer, &reason, now.wall);
            self.disconnect(peer, reason);
            let dialled = self.peers.addresses.values_mut().filter(|address| address.device == Some(peer));
            dialled.for_each(|address| address.next = now.mono + rest);
            self.peer_down(peer, now);
        }
    }

    /// Ends a connection and does not take it up again for a while.
    pub(super) fn ban(&mut self, peer: DeviceId, reason: String, now: Now) {
        // Whoever has no certificate comes again with another key: an entry, or an alarm, would only fill what is for members.
        let is_stranger = self.peers.connected.get(&peer).is_some_and(|peer| peer.stage == Stage::Greeting);
        if peer == self.cx.config.coordinator || is_stranger {
            return self.drop_peer(peer, reason, now);
        }
        if self.peers.banned.len() >= MAX_BANS {
            let soonest = self.peers.banned.iter().min_by_key(|(_, until)| **until).map(|(device, _)| *device);
            soonest.and_then(|device| self.peers.banned.remove(&device));
        }
        self.peers.banned.insert(peer, now.mono + BAN);
        self.alarm(Trouble::Peer, format!("peer {} is shut out: {reason}", peer.short()));
        self.drop_peer(peer, reason, now);
        self.report_soon(now);
    }
}
