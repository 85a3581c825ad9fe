//! Neighbours: certificates before anything else, beacons, dialling, the connection to the coordinator.

mod explain;

mod dialling;
mod rumours;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::{NodeConfig, NodeState, Output, Reason, Record, Verdict};
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
/// Those that say that this node wants a payload.
const WISH_SPACING: Duration = Duration::from_millis(50);
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
    /// That beacon's envelope, unless it said goodbye.
    said: Vec<u8>,
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
            last_beacon: None,
            said: Vec::new(),
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

    /// Whether a member served bad bytes or broke the protocol, and is not talked to for now.
    pub(super) fn is_banned(&self, device: &DeviceId, now: Mono) -> bool {
        self.banned.get(device).is_some_and(|until| *until > now)
    }

    /// Addresses on which this node listens.
    pub(super) fn listening(&self) -> &[Text<128>] {
        &self.listening
    }
}

impl NodeState {
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
            (_, Message::RelayAck { device, seq, held, proof }) => {
                self.relay_acknowledged(device, seq, held, proof, now)
            }
            (Stage::Coordinator, Message::Peers(addresses)) => {
                for address in &addresses {
                    self.hint(address.clone(), now);
                }
            }
            (Stage::Coordinator, Message::FirstOfSite) => {
                self.peers.first_of_site = true;
                self.look_after_all_leases(now);
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
        beacons.insert(0, self.recent_beacon(now));
        for part in beacons.chunks(20) {
            let part = part.iter().map(|raw| Sealed::truncated(raw.clone())).collect();
            self.send(peer, &Message::Members(Bounded::truncated(part)));
        }
        if let Some(index) = self.announced_catalog() {
            self.send(peer, &Message::Catalog { index });
        }
        self.tell_holdings(peer);
        self.beacon_soon(now);
        if self.peers.first_of_site {
            self.look_after_all_leases(now);
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
        self.report_soon(now);
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

/// 1 s, 2 s, 4 s, ... up to `most`.
pub(super) fn backoff(failures: u32, most: Duration) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(10)).min(most)
}
