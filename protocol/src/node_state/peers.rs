//! Neighbours: certificates before anything else, beacons, dialling, the connection to the coordinator.

mod explain;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::{NodeConfig, NodeState, Output, Reason, Record, Verdict, reports};
use crate::catalog::NodeRole;
use crate::codec::{Bounded, Text};
use crate::envelope::{self, Envelope, EnvelopeError, Kind, Role};
use crate::ids::{DeviceId, DocHash, PayloadId, PublicKey};
use crate::lease;
use crate::membership::{self, Heard, NEIGHBOURS};
use crate::time::{Mono, Now, Wall};
use crate::trust::HeadNews;
use crate::wire::{self, Beacon, Lease, Message, Sealed, Topic};

/// A peer that has not shown its certificate by then is disconnected.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// More connections than this are refused.
const MAX_PEERS: usize = 64;
/// Addresses of peers that are remembered.
const MAX_ADDRESSES: usize = 512;
/// Dials under way at one time.
const MAX_DIALS: usize = 4;
/// A dial that has led to nothing by then is over: a second connection to a connected peer is told to nobody.
const DIAL_WITHIN: Duration = Duration::from_secs(10);
/// A report that has waited this long for a neighbour with a connection to the coordinator is brought there by its maker.
const REPORT_PATIENCE: Duration = Duration::from_secs(8);
/// Payloads of which a peer may tell what it holds, and bytes of bitmaps in all.
const MAX_HOLDINGS: usize = 512;
const MAX_HOLDING_BYTES: usize = 2 << 20;
/// Beacons follow news at this distance at least.
const BEACON_SPACING: Duration = Duration::from_millis(200);
/// The address of a peer that was refused, of another site for example, is not dialled again for this long.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// A peer that served bad bytes or broke the protocol is not talked to for this long.
const BAN: Duration = Duration::from_secs(3600);
const MAX_BANS: usize = 1024;

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
    /// What it holds, as it said: bitmap bytes, empty for all.
    pub(super) holdings: BTreeMap<PayloadId, Vec<u8>>,
    /// Block fetches under way.
    pub(super) outstanding: usize,
    /// It said busy: not asked before this.
    pub(super) busy_until: Mono,
    /// Payload bytes it gave.
    pub(super) given: u64,
    /// Payload bytes it took.
    pub(super) taken: u64,
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
    last_beacon: Option<(Mono, Wall)>,
    pub(super) coordinator: Option<DeviceId>,
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
            last_beacon: None,
            coordinator: None,
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

    /// Addresses on which this node listens.
    pub(super) fn listening(&self) -> &[Text<128>] {
        &self.listening
    }
}

impl NodeState {
    pub(super) fn start_peers(&mut self, now: Now) {
        let first = self.rng.jitter(Duration::from_millis(50));
        self.timer(Reason::Dial, now.mono + first);
        let lonely = Duration::from_millis(1500) + self.rng.jitter(Duration::from_millis(1000));
        let patience = if self.config.peers.is_empty() { lonely / 3 } else { lonely };
        self.timer(Reason::Uplink, now.mono + patience);
        self.timer(Reason::Members, now.mono + self.membership.beacon_every());
        let renewal = self.renewal_due(now);
        self.timer(Reason::Renew, renewal);
    }

    pub(super) fn peer_up(&mut self, peer: DeviceId, dialled: Option<Text<512>>, now: Now) {
        let is_coordinator = peer == self.config.coordinator;
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
        if self.peers.connected.len() >= MAX_PEERS && !is_coordinator {
            let reason = format!("{MAX_PEERS} peers are connected already");
            self.peers.past.parted(peer, &reason, now.wall);
            return self.disconnect(peer, reason);
        }
        self.peers.connected.insert(
            peer,
            Peer {
                stage: Stage::Greeting,
                since: now.mono,
                root_version: 0,
                catalog: None,
                holdings: BTreeMap::new(),
                outstanding: 0,
                busy_until: Mono(0),
                given: 0,
                taken: 0,
            },
        );
        self.timer(Reason::Hello(peer), now.mono + HELLO_WITHIN);
        let hello = Message::Hello {
            version: wire::VERSION,
            certificate: Sealed::truncated(self.certificate_bytes.clone()),
            head: Sealed::truncated(self.trust.head_bytes().unwrap_or_default().to_vec()),
            root_version: self.trust.root().version,
        };
        self.send(peer, &hello);
    }

    pub(super) fn peer_down(&mut self, peer: DeviceId, now: Now) {
        self.timers.remove(&Reason::Hello(peer));
        let Some(gone) = self.peers.connected.remove(&peer) else { return };
        self.peers.past.gave(peer, gone.given);
        if self.peers.coordinator == Some(peer) {
            self.peers.coordinator = None;
            self.timer(Reason::Uplink, now.mono + Duration::from_secs(1));
            self.beacon_soon(now);
        }
        if matches!(gone.stage, Stage::Member { .. }) {
            self.membership.away(&peer);
            self.downloads_peer_gone(peer, now);
            self.timer(Reason::Dial, now.mono + Duration::from_millis(500));
        }
    }

    pub(super) fn hello_overdue(&mut self, peer: DeviceId, now: Now) {
        if self.peers.connected.get(&peer).is_some_and(|p| p.stage == Stage::Greeting) {
            self.drop_peer(peer, "it did not say hello in time".into(), now);
        }
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
                self.output.push_back(Output::Alarm(format!("peer {} refuses: {reason}", peer.short())));
            }
            (Stage::Greeting, _) => self.ban(peer, "it spoke before showing its certificate".into(), now),
            (_, Message::Head(head)) => {
                self.head_offered(&head, Some(peer), now);
            }
            (_, Message::Catalog { index }) => {
                if let Some(p) = self.peers.connected.get_mut(&peer) {
                    p.catalog = Some(index);
                }
                // Gossip may be lost. Of two neighbours with different catalogs one has missed a head: it is told, or tells.
                if self.trust.head().is_some_and(|head| head.index_hash != index)
                    && let Some(head) = self.trust.head_bytes()
                {
                    let head = Message::Head(Sealed::truncated(head.to_vec()));
                    self.send(peer, &head);
                }
                self.fetch_documents(now);
            }
            (_, Message::Members(beacons)) => {
                for beacon in &beacons {
                    self.beacon_heard(beacon, now);
                }
            }
            (Stage::Member { .. }, Message::Holding { payload, bits }) => {
                self.holding(peer, payload, bits.into_vec(), now);
            }
            (Stage::Member { .. }, Message::Have { payload, chunks }) => self.has_more(peer, payload, &chunks, now),
            (Stage::Member { .. }, Message::Forget { payload }) => self.forgotten(peer, payload),
            (Stage::Member { .. }, Message::Relay { device, seq, sealed }) => {
                self.relay_for(peer, device, seq, sealed.into_vec());
            }
            (_, Message::RelayAck { device, seq }) => self.relay_acknowledged(device, seq, now),
            (Stage::Coordinator, Message::Peers(addresses)) => {
                for address in &addresses {
                    self.hint(address.clone(), now);
                }
            }
            (Stage::Coordinator, Message::Renewed { certificate }) => self.certificate_renewed(&certificate, now),
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
        let stage = if peer == self.config.coordinator {
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
            Stage::Member { cache: certificate.role == NodeRole::Cache }
        };
        self.timers.remove(&Reason::Hello(peer));
        if let Some(p) = self.peers.connected.get_mut(&peer) {
            (p.stage, p.root_version) = (stage, root_version);
        }
        match stage {
            Stage::Coordinator => {
                self.peers.coordinator = Some(peer);
                self.peers.coordinator_failures = 0;
                self.beacon_soon(now);
                self.timer(Reason::Relay, now.mono);
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
        self.membership.alive(now.mono, &peer);
        let mut beacons: Vec<Vec<u8>> = self.membership.beacons().into_iter().map(<[u8]>::to_vec).collect();
        beacons.insert(0, self.signed_beacon(false, now));
        for part in beacons.chunks(20) {
            let part = part.iter().map(|raw| Sealed::truncated(raw.clone())).collect();
            self.send(peer, &Message::Members(Bounded::truncated(part)));
        }
        if let Some(index) = self.announced_catalog() {
            self.send(peer, &Message::Catalog { index });
        }
        self.tell_holdings(peer);
        self.beacon_soon(now);
    }

    pub(super) fn gossip(&mut self, id: u64, from: DeviceId, topic: Topic, bytes: Vec<u8>, now: Now) {
        let verdict = match topic {
            Topic::Head => self.head_offered(&bytes, None, now),
            Topic::Site(site) if site == self.membership.site() => {
                match Envelope::parse(&bytes, Kind::Lease, Role::Device) {
                    Ok(envelope) => self.lease_heard(envelope, now),
                    Err(EnvelopeError::WrongKind { .. } | EnvelopeError::TooLong { .. }) => {
                        self.beacon_heard(&bytes, now)
                    }
                    Err(_) => Verdict::Reject,
                }
            }
            Topic::Site(_) => Verdict::Ignore,
        };
        self.output.push_back(Output::GossipVerdict { id, from, verdict });
        if verdict == Verdict::Reject {
            let what = if topic == Topic::Head { "head" } else { "beacon or lease" };
            self.alarm(format!("peer {} passed on a {what} that does not verify", from.short()), now);
        }
    }

    /// Verifies a head and acts on it. From gossip or, with `peer`, told directly.
    pub(super) fn head_offered(&mut self, bytes: &[u8], peer: Option<DeviceId>, now: Now) -> Verdict {
        let outcome = self.trust.offer_head(bytes, now.wall);
        self.drain_trust_alarms(now);
        match outcome {
            Ok(HeadNews::New) => {
                self.persist_trust();
                self.documents_wanted(now);
                if peer.is_some() {
                    self.output.push_back(Output::Publish { topic: Topic::Head, bytes: bytes.to_vec() });
                }
                self.advance_all(now);
                Verdict::Accept
            }
            Ok(HeadNews::NeedsRoot { version }) => {
                if let Some(p) = peer.and_then(|peer| self.peers.connected.get_mut(&peer)) {
                    p.root_version = p.root_version.max(version);
                }
                self.documents_wanted(now);
                Verdict::Ignore
            }
            Ok(HeadNews::Older) => {
                let newest = self.trust.head_bytes().map(|bytes| Message::Head(Sealed::truncated(bytes.to_vec())));
                if let (Some(peer), Some(newest)) = (peer, newest) {
                    self.send(peer, &newest);
                }
                Verdict::Ignore
            }
            // Told directly before it was gossiped: it may be new to those behind this node.
            Ok(HeadNews::Same) => Verdict::Accept,
            Err(error) => {
                if let Some(peer) = peer {
                    self.alarm(format!("peer {} offers a head that is refused: {error}", peer.short()), now);
                }
                Verdict::Reject
            }
        }
    }

    pub(super) fn beacon_heard(&mut self, bytes: &[u8], now: Now) -> Verdict {
        // The one that is known, byte for byte, was verified when it came. It may be new to those behind this node.
        let claimed = Envelope::parse(bytes, Kind::Beacon, Role::Device).ok().and_then(|e| e.claimed_signers().next());
        let known = claimed.and_then(|signer| self.membership.get(&DeviceId(signer.0)));
        if known.is_some_and(|member| member.raw == bytes) {
            return Verdict::Accept;
        }
        let Ok((signer, beacon)) = open_device_document::<Beacon>(bytes, Kind::Beacon) else { return Verdict::Reject };
        if signer == self.me || !membership::plausible(&beacon, now.wall) {
            return Verdict::Ignore;
        }
        // A certificate that is known byte for byte was verified when it came.
        let known = self.membership.get(&signer).filter(|m| m.beacon.certificate == beacon.certificate);
        let certificate = match known {
            Some(member) => member.certificate.clone(),
            None => match self.trust.check_certificate(&beacon.certificate, now.wall) {
                Ok(certificate) if certificate.device == signer => certificate,
                Ok(_) => return Verdict::Reject,
                Err(_) => return Verdict::Ignore,
            },
        };
        if certificate.site != self.membership.site() {
            return Verdict::Ignore;
        }
        let leaving = beacon.leaving;
        match self.membership.heard(now.mono, certificate, beacon, bytes.to_vec()) {
            Heard::Old => Verdict::Ignore,
            Heard::Alive => Verdict::Accept,
            Heard::News => {
                if leaving {
                    self.candidates_departed(&signer, now);
                }
                self.candidates_changed(now);
                self.timer(Reason::Dial, now.mono + Duration::from_millis(20));
                Verdict::Accept
            }
        }
    }

    fn lease_heard(&mut self, envelope: Envelope<'_>, now: Now) -> Verdict {
        let Some(signer) = envelope.claimed_signers().next() else { return Verdict::Reject };
        let device = DeviceId(signer.0);
        if device == self.me || self.membership.get(&device).is_none() {
            return Verdict::Ignore;
        }
        let lease: Lease = match envelope.verify(&[signer], 1).and_then(|verified| verified.decode()) {
            Ok(lease) => lease,
            Err(_) => return Verdict::Reject,
        };
        if lease.device != device || lease.site != self.membership.site() {
            return Verdict::Reject;
        }
        self.membership.alive(now.mono, &device);
        self.lease_taken(&lease, now)
    }

    fn signed_beacon(&mut self, leaving: bool, now: Now) -> Vec<u8> {
        let issued = match self.peers.last_beacon {
            Some((_, last)) if last >= now.wall => Wall(last.0 + 1),
            _ => now.wall,
        };
        self.peers.last_beacon = Some((now.mono, issued));
        let (wants, holds) = self.wishes();
        let beacon = Beacon {
            certificate: Sealed::truncated(self.certificate_bytes.clone()),
            issued,
            addresses: Bounded::truncated(self.peers.listening.clone()),
            wan_weight: self.config.wan_weight,
            uplink: self.peers.coordinator.is_some(),
            leaving,
            wants: Bounded::truncated(wants),
            holds: Bounded::truncated(holds),
        };
        // A beacon has bounds that keep it below its kind's cap; an empty message would be refused by everyone.
        envelope::sign(Kind::Beacon, Role::Device, &beacon, &[&self.config.key]).unwrap_or_default()
    }

    pub(super) fn send_beacon(&mut self, leaving: bool, now: Now) {
        let every = self.membership.beacon_every();
        let next = every * 3 / 4 + self.rng.jitter(every / 2);
        self.retime(Reason::Beacon, now.mono + next);
        if self.peers.members().next().is_none() {
            return;
        }
        let bytes = self.signed_beacon(leaving, now);
        self.output.push_back(Output::Publish { topic: Topic::Site(self.membership.site()), bytes });
    }

    /// News about this node: a beacon soon, but not one per event.
    pub(super) fn beacon_soon(&mut self, now: Now) {
        let earliest = self.peers.last_beacon.map_or(Mono(0), |(at, _)| at + BEACON_SPACING);
        let soon = now.mono + self.rng.jitter(Duration::from_millis(30));
        self.timer(Reason::Beacon, earliest.max(soon));
    }

    pub(super) fn say_goodbye(&mut self, now: Now) {
        self.send_beacon(true, now);
        self.persist_counters();
    }

    pub(super) fn expire_members(&mut self, now: Now) {
        for device in self.membership.expire(now.mono) {
            if !self.peers.connected.contains_key(&device) {
                self.candidates_departed(&device, now);
            }
        }
        let revoked: Vec<_> =
            self.membership.iter().map(|(d, _)| *d).filter(|d| self.trust.catalog().is_revoked(d)).collect();
        for device in revoked {
            self.membership.remove(&device);
            self.candidates_departed(&device, now);
            self.drop_peer(device, "its certificate was revoked".into(), now);
        }
        self.candidates_changed(now);
        self.retime(Reason::Members, now.mono + self.membership.beacon_every() / 2);
    }

    pub(super) fn listening(&mut self, addresses: Vec<Text<128>>, now: Now) {
        self.peers.listening = addresses;
        self.beacon_soon(now);
    }

    pub(super) fn hint(&mut self, address: Text<512>, now: Now) {
        if self.peers.addresses.len() >= MAX_ADDRESSES && !self.peers.addresses.contains_key(&address) {
            let Some(old) = self
                .peers
                .addresses
                .iter()
                .find(|(_, a)| !a.permanent && a.dialling.is_none())
                .map(|(key, _)| key.clone())
            else {
                return;
            };
            self.peers.addresses.remove(&old);
        }
        self.peers.addresses.entry(address).or_default();
        self.timer(Reason::Dial, now.mono + Duration::from_millis(20));
    }

    pub(super) fn dial_failed(&mut self, address: &Text<512>, reason: Text<200>, now: Now) {
        if self.config.coordinator_addresses.contains(address) && self.peers.coordinator_dialling.is_some() {
            self.peers.coordinator_dialling = None;
            self.peers.coordinator_failures += 1;
            self.peers.coordinator_trouble = reason.clone();
            let wait = backoff(self.peers.coordinator_failures, Duration::from_secs(60));
            self.peers.coordinator_next = now.mono + wait + self.rng.jitter(wait / 2);
            self.timer(Reason::Uplink, self.peers.coordinator_next);
        }
        if let Some(entry) = self.peers.addresses.get_mut(address) {
            entry.dialling = None;
            entry.failures += 1;
            entry.trouble = reason;
            entry.next = now.mono + backoff(entry.failures, Duration::from_secs(60));
            if entry.failures > 8 && !entry.permanent {
                self.peers.addresses.remove(address);
            }
        }
    }

    /// Keeps about [`NEIGHBOURS`] connections to the site: branch caches first, then at random.
    pub(super) fn dial_neighbours(&mut self, now: Now) {
        self.retime(Reason::Dial, now.mono + Duration::from_secs(2));
        for entry in self.peers.addresses.values_mut() {
            if entry.dialling.is_some_and(|since| now.mono.since(since) > DIAL_WITHIN) {
                (entry.dialling, entry.next) = (None, now.mono + DIAL_WITHIN);
            }
        }
        let uplink = self.uplink_to_dial();
        let mut room = MAX_DIALS.saturating_sub(self.peers.addresses.values().filter(|a| a.dialling.is_some()).count());
        let have = self.peers.members().count();
        let greeting = self.peers.connected.values().filter(|p| p.stage == Stage::Greeting).count();
        let mut lacking = NEIGHBOURS.saturating_sub(have + greeting);
        let mut wanted: Vec<(bool, Text<512>, Option<DeviceId>)> = Vec::new();
        let known: BTreeSet<DeviceId> = self.peers.connected.keys().copied().collect();
        for (device, member) in self.membership.iter() {
            if known.contains(device) || member.beacon.leaving || self.peers.banned.contains_key(device) {
                continue;
            }
            let urgent =
                self.membership.is_cache(device) || uplink == Some(*device) || self.holds_what_is_lacking(device);
            for address in &member.beacon.addresses {
                wanted.push((urgent, Text::lossy(address), Some(*device)));
            }
        }
        // A hint may be the address of somebody who is connected already: a dial would lead to nothing.
        let taken: BTreeSet<&str> =
            known.iter().flat_map(|device| self.membership.addresses(device)).map(|address| address.as_str()).collect();
        let named =
            self.peers.addresses.iter().filter(|(address, a)| {
                a.device.is_none_or(|d| !known.contains(&d)) && !taken.contains(address.as_str())
            });
        wanted.extend(named.map(|(address, entry)| (entry.permanent && have == 0, address.clone(), entry.device)));
        self.rng.shuffle(&mut wanted);
        wanted.sort_by_key(|(urgent, _, _)| !urgent);
        let mut chosen = BTreeSet::new();
        for (urgent, address, device) in wanted {
            if room == 0 || (lacking == 0 && !urgent) {
                break;
            }
            if device.is_some_and(|d| !chosen.insert(d)) || self.peers.addresses.len() >= MAX_ADDRESSES {
                continue;
            }
            let entry = self.peers.addresses.entry(address.clone()).or_default();
            if entry.dialling.is_some() || entry.next > now.mono {
                continue;
            }
            (entry.dialling, entry.device) = (Some(now.mono), device.or(entry.device));
            self.output.push_back(Output::Dial { address });
            (room, lacking) = (room - 1, lacking.saturating_sub(1));
        }
        let urgent =
            self.peers.addresses.values().filter(|a| a.dialling.is_none() && a.next > now.mono).map(|a| a.next).min();
        if let Some(next) = urgent.filter(|_| have == 0) {
            self.timer(Reason::Dial, next);
        }
    }

    /// The site's chosen uplinks, and machines that are alone, keep a connection to the coordinator.
    pub(super) fn look_after_uplink(&mut self, now: Now) {
        self.retime(Reason::Uplink, now.mono + Duration::from_secs(5));
        let alone = self.peers.members().next().is_none();
        let chosen = self.is_uplink();
        match self.peers.coordinator {
            Some(coordinator) if !alone && !chosen => {
                let held = self.peers.connected.get(&coordinator).map_or(Duration::ZERO, |p| now.mono.since(p.since));
                let others = self.membership.connected_uplinks().next().is_some();
                if held > Duration::from_secs(60) && others && self.reports.nothing_waits() {
                    self.drop_peer(coordinator, "others are the uplink now".into(), now);
                }
            }
            None if alone
                || chosen
                || self.reports.oldest_since().is_some_and(|at| now.mono.since(at) > REPORT_PATIENCE) =>
            {
                self.dial_coordinator(now);
            }
            _ => {}
        }
    }

    /// The uplink that this node should have as a neighbour, when it has none: by hash, so that they share the load.
    fn uplink_to_dial(&self) -> Option<DeviceId> {
        if self.peers.coordinator.is_some() || self.uplink_neighbours().next().is_some() {
            return None;
        }
        let resting = |device: &DeviceId| {
            self.peers.addresses.values().any(|a| a.device == Some(*device) && (a.failures > 0 || a.dialling.is_some()))
        };
        let uplinks = self.membership.connected_uplinks().filter(|d| !resting(d)).map(|d| (*d, 1)).collect();
        lease::rank(self.me.as_bytes(), &uplinks).into_iter().next()
    }

    /// Neighbours that say they are connected to the coordinator.
    pub(super) fn uplink_neighbours(&self) -> impl Iterator<Item = &DeviceId> {
        self.membership.connected_uplinks().filter(|device| self.peers.connected.contains_key(device))
    }

    pub(super) fn is_uplink(&self) -> bool {
        self.membership.uplinks(self.config.wan_weight).contains(&self.me)
    }

    fn dial_coordinator(&mut self, now: Now) {
        let addresses = &self.config.coordinator_addresses;
        let under_way = self.peers.coordinator_dialling.is_some_and(|since| now.mono.since(since) < DIAL_WITHIN);
        if addresses.is_empty() || under_way || self.peers.coordinator_next > now.mono {
            return;
        }
        let address = addresses[self.peers.coordinator_failures as usize % addresses.len()].clone();
        self.peers.coordinator_dialling = Some(now.mono);
        self.output.push_back(Output::Dial { address });
    }

    pub(super) fn conditions(&mut self, wan_weight: u8, now: Now) {
        if self.config.wan_weight != wan_weight {
            self.config.wan_weight = wan_weight;
            self.beacon_soon(now);
            self.candidates_changed(now);
        }
    }

    fn renewal_due(&self, now: Now) -> Mono {
        let life = self.certificate.expires.since(self.certificate.issued);
        let due = self.certificate.issued + life * 2 / 3;
        now.mono + due.since(now.wall)
    }

    pub(super) fn renew_certificate(&mut self, now: Now) {
        let due = self.renewal_due(now);
        if due > now.mono {
            return self.timer(Reason::Renew, due);
        }
        self.timer(Reason::Renew, now.mono + Duration::from_secs(3600));
        match self.peers.coordinator {
            Some(coordinator) => self.send(coordinator, &Message::Renew),
            None => self.dial_coordinator(now),
        }
    }

    fn certificate_renewed(&mut self, bytes: &[u8], now: Now) {
        match self.trust.check_certificate(bytes, now.wall) {
            Ok(certificate) if certificate.device == self.me && certificate.issued >= self.certificate.issued => {
                if certificate.site != self.certificate.site {
                    self.output.push_back(Output::Alarm(
                        "the new certificate is for another site; restart the node to move there".into(),
                    ));
                }
                self.certificate = certificate;
                self.certificate_bytes = bytes.to_vec();
                self.persist(Record::Certificate(bytes.to_vec()));
                self.beacon_soon(now);
                self.catalog_changed(now);
            }
            Ok(_) => {}
            Err(error) => self.alarm(format!("the coordinator sent a certificate that is not good: {error}"), now),
        }
    }

    pub(super) fn send(&mut self, peer: DeviceId, message: &Message) {
        match message.encode() {
            Ok(frame) => self.output.push_back(Output::Send { peer, frame }),
            Err(error) => self.output.push_back(Output::Alarm(format!("a message was not sent: {error}"))),
        }
    }

    /// Sends a message to every connected member of the site.
    pub(super) fn tell_members(&mut self, message: &Message) {
        let members: Vec<_> = self.peers.members().map(|(device, _)| *device).collect();
        for device in members {
            self.send(device, message);
        }
    }

    fn disconnect(&mut self, peer: DeviceId, reason: String) {
        self.output.push_back(Output::Disconnect { peer, reason });
    }

    pub(super) fn drop_peer(&mut self, peer: DeviceId, reason: String, now: Now) {
        if self.peers.connected.contains_key(&peer) {
            let refusal = Message::Refused { reason: Text::lossy(&reason) };
            self.send(peer, &refusal);
            self.peers.past.parted(peer, &reason, now.wall);
            self.disconnect(peer, reason);
            // Whoever is refused now will be refused in a moment too.
            let dialled = self.peers.addresses.values_mut().filter(|address| address.device == Some(peer));
            dialled.for_each(|address| address.next = now.mono + REFUSED_FOR);
            self.peer_down(peer, now);
        }
    }

    /// Ends a connection and does not take it up again for a while.
    pub(super) fn ban(&mut self, peer: DeviceId, reason: String, now: Now) {
        if peer == self.config.coordinator {
            return self.drop_peer(peer, reason, now);
        }
        if self.peers.banned.len() < MAX_BANS {
            self.peers.banned.insert(peer, now.mono + BAN);
        }
        self.alarm(format!("peer {} is shut out: {reason}", peer.short()), now);
        self.drop_peer(peer, reason, now);
        self.timer(Reason::Report, now.mono + reports::SOON);
    }

    fn holding(&mut self, peer: DeviceId, payload: PayloadId, bits: Vec<u8>, now: Now) {
        let Some(p) = self.peers.connected.get_mut(&peer) else { return };
        let bytes: usize = p.holdings.values().map(Vec::len).sum();
        if !p.holdings.contains_key(&payload)
            && (p.holdings.len() >= MAX_HOLDINGS || bytes + bits.len() > MAX_HOLDING_BYTES)
        {
            return;
        }
        p.holdings.insert(payload, bits);
        self.neighbour_holds(peer, payload, now);
    }

    fn has_more(&mut self, peer: DeviceId, payload: PayloadId, chunks: &[u32], now: Now) {
        let Some(bits) = self.peers.connected.get_mut(&peer).and_then(|p| p.holdings.get_mut(&payload)) else { return };
        if !bits.is_empty() {
            for chunk in chunks {
                let Some(byte) = bits.get_mut(*chunk as usize / 8) else {
                    return self.ban(peer, "it announced a chunk that does not exist".into(), now);
                };
                *byte |= 1 << (chunk % 8);
            }
        }
        self.neighbour_has(peer, payload, chunks, now);
    }

    fn forgotten(&mut self, peer: DeviceId, payload: PayloadId) {
        if let Some(p) = self.peers.connected.get_mut(&peer) {
            p.holdings.remove(&payload);
        }
        self.neighbour_forgot(peer, payload);
    }
}

/// Opens a document that a device signed with its own key; whose key that is, the certificate inside must tell.
fn open_device_document<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    kind: Kind,
) -> Result<(DeviceId, T), EnvelopeError> {
    let envelope = Envelope::parse(bytes, kind, Role::Device)?;
    let signer: PublicKey =
        envelope.claimed_signers().next().ok_or(EnvelopeError::Threshold { valid: 0, threshold: 1 })?;
    Ok((DeviceId(signer.0), envelope.verify(&[signer], 1)?.decode()?))
}

/// 1 s, 2 s, 4 s, ... up to `most`.
pub(super) fn backoff(failures: u32, most: Duration) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(10)).min(most)
}
