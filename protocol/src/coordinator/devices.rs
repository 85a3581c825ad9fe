//! Devices and peers: who is let in, with which certificate and in which groups, and which reports are believed.

use std::time::Duration;

use super::counts::Outcomes;
use super::documents::open_online;
use super::io::{DeviceRecord, Invite, MAX_USES, Output, Record, Refusal, ServeWhat};
use super::report_order::ReportOrder;
use super::{Acknowledge, After, CoordinatorState, HELLO_PATIENCE};
use crate::catalog::{Certificate, NodeRole};
use crate::codec::{self, Bounded, Text};
use crate::envelope::{self, EnvelopeError, Kind, Role};
use crate::ids::{DeviceId, DocHash, PublicKey, SiteId};
use crate::lease;
use crate::report::{self, DeviceMessage, Papers, Report};
use crate::time::{Mono, Now, Wall};
use crate::wire::{self, BlockStatus, BlockWhat, Message};

/// A device's certificate and its assignment to groups are good for this long.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// A certificate younger than this is given again instead of being signed anew.
const CERTIFICATE_FRESH: Duration = Duration::from_secs(3600);

const MAX_PEERS: usize = 16384;
const MAX_DEVICES: usize = 65536;
const MAX_INVITES: usize = 1024;
/// Encrypted reports that are being opened, in all and from one peer.
const MAX_OPENING: usize = 256;
const MAX_OPENING_PER_PEER: usize = 16;
/// Peers that brought the same report and are told when it is stored.
const MAX_BEARERS: usize = 8;
/// Documents that are being sent, in all and to one peer. Each may have the size of a chunk list.
const MAX_SERVING: usize = 64;
const MAX_SERVING_PER_PEER: usize = 4;
/// Addresses given to a newcomer.
const MAX_HINTS: usize = 16;
/// Peers of a site that are told of a newcomer's address.
const TOLD_OF_NEWCOMER: usize = 8;
/// A device may report this often in a burst, and once in `REPORT_INTERVAL` in the long run.
const REPORT_BURST: u32 = 64;
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
const RECORD_LIMIT: usize = 256 << 10;

/// A connected peer.
#[derive(Debug)]
pub(super) enum Peer {
    /// Has not shown a certificate.
    Stranger { until: Mono },
    /// Has.
    Member { site: SiteId },
}

impl Peer {
    pub(super) fn is_member(&self) -> bool {
        matches!(self, Peer::Member { .. })
    }

    pub(super) fn is_of(&self, site: &SiteId) -> bool {
        matches!(self, Peer::Member { site: its } if its == site)
    }

    pub(super) fn hello_due(&self) -> Option<Mono> {
        match self {
            Peer::Stranger { until } => Some(*until),
            Peer::Member { .. } => None,
        }
    }
}

/// A device that was let in, and what is remembered of its reports.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) record: DeviceRecord,
    /// When its last report came.
    pub(super) heard: Option<Wall>,
    /// What it last said about rollouts that are watched.
    pub(super) outcomes: Outcomes,
    /// Digest of its inventory, as far as that is durable here; zeros for none.
    pub(super) held: DocHash,
    /// What it holds of what was signed for it, as it said; none while it has said nothing.
    pub(super) papers: Option<Papers>,
    /// Who brought its last message here.
    pub(super) bearer: Option<DeviceId>,
    seq: u64,
    last_words: ReportOrder,
    addresses: Vec<Text<128>>,
    allowance: u32,
    allowance_at: Mono,
}

impl Device {
    pub(super) fn new(record: DeviceRecord, now: Mono) -> Self {
        Self {
            record,
            heard: None,
            outcomes: Outcomes::new(),
            held: DocHash::default(),
            papers: None,
            bearer: None,
            seq: 0,
            last_words: ReportOrder::default(),
            addresses: Vec::new(),
            allowance: REPORT_BURST,
            allowance_at: now,
        }
    }

    pub(super) fn reported(&mut self, seq: u64, addresses: Vec<Text<128>>, at: Wall, papers: Papers) {
        self.papers = Some(papers);
        self.seq = seq;
        self.addresses = addresses;
        self.heard = Some(at);
    }

    /// Where it said that it listens.
    pub(super) fn addresses(&self) -> &[Text<128>] {
        &self.addresses
    }

    /// As [`Device::reported`], by a former run.
    pub(super) fn had_reported(&mut self, seq: u64, addresses: Vec<Text<128>>, at: Wall, papers: Papers) {
        self.reported(seq, addresses, at, papers);
        self.last_words.forget_up_to(seq);
    }

    /// Whether it may tell what is not urgent: a part of its allowance is kept for how it is.
    pub(super) fn may_tell(&mut self, now: Mono) -> bool {
        self.earn(now);
        self.allowance > REPORT_BURST / 4 && self.may_report(now)
    }

    fn may_report(&mut self, now: Mono) -> bool {
        self.earn(now);
        let may = self.allowance > 0;
        self.allowance = self.allowance.saturating_sub(1);
        may
    }

    fn earn(&mut self, now: Mono) {
        let earned = now.since(self.allowance_at).as_micros() / REPORT_INTERVAL.as_micros();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.allowance = self.allowance.saturating_add(earned).min(REPORT_BURST);
            self.allowance_at = now;
        }
    }
}

/// An encrypted report that the driver is opening.
#[derive(Debug)]
pub(super) struct Opening {
    device: DeviceId,
    seq: u64,
    bearers: Vec<DeviceId>,
}

impl CoordinatorState {
    pub(super) fn peer_up(&mut self, peer: DeviceId, now: Now) {
        if self.documents.revoked.contains(&peer) {
            self.disconnect(peer, "its certificate is revoked".to_owned());
        } else if self.peers.len() >= MAX_PEERS {
            self.disconnect(peer, format!("{MAX_PEERS} peers are connected already"));
        } else {
            self.peers.insert(peer, Peer::Stranger { until: now.mono + HELLO_PATIENCE });
        }
    }

    pub(super) fn peer_down(&mut self, peer: DeviceId) {
        self.peers.remove(&peer);
        for opening in self.opening.values_mut() {
            opening.bearers.retain(|bearer| *bearer != peer);
        }
    }

    pub(super) fn leave_the_silent(&mut self, now: Now) {
        let due = |peer: &Peer| peer.hello_due().is_some_and(|due| due <= now.mono);
        let late: Vec<DeviceId> = self.peers.iter().filter(|(_, peer)| due(peer)).map(|(peer, _)| *peer).collect();
        late.into_iter().for_each(|peer| self.disconnect(peer, "it has shown no certificate in time".to_owned()));
    }

    pub(super) fn frame(&mut self, peer: DeviceId, bytes: &[u8], now: Now) {
        let Some(standing) = self.peers.get(&peer) else { return };
        let member = standing.is_member();
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => return self.disconnect(peer, format!("it sent a frame that is {error}")),
        };
        match message {
            Message::Hello { version, .. } | Message::Enrol { version, .. } if version != wire::VERSION => {
                let reason = format!(
                    "protocol version {version} is spoken there, {} here; update the older side",
                    wire::VERSION
                );
                self.refuse_and_leave(peer, &reason);
            }
            Message::Hello { certificate, head, root_version, .. } => {
                self.hello(peer, &certificate, (&head, root_version), now);
            }
            Message::Enrol { secret, role, label, .. } => {
                if let Err(reason) = self.enrol(peer, secret, role, label, now) {
                    // Not disconnected at once: the reason must arrive. A stranger's patience ends the connection.
                    self.send(peer, &Message::Refused { reason: Text::lossy(&reason) });
                }
            }
            _ if !member => self.disconnect(peer, "it spoke before it showed a certificate".to_owned()),
            Message::Renew => self.renew(peer, now),
            Message::Assignment(held) => self.assignment_shown(peer, &held, now),
            Message::Leave => {
                self.outputs.push_back(Output::Left(peer));
                self.forget_shown(&peer);
                self.send(peer, &Message::Leave);
            }
            Message::Here { clock, run } => self.here(peer, clock, run, now),
            Message::Head(head) => {
                self.observe_head(&head, now);
            }
            Message::Relay { device, seq, encrypted } => self.relay(peer, device, seq, encrypted.into_vec()),
            // What members say to each other does not concern a coordinator.
            _ => {}
        }
    }

    fn hello(&mut self, peer: DeviceId, certificate: &[u8], (head, root_version): (&[u8], u64), now: Now) {
        let shown: Certificate = match open_online(&self.root, certificate, Kind::Certificate) {
            Ok(shown) => shown,
            Err(error) => return self.former_hello(peer, head, root_version, &error, now),
        };
        let expired = shown.expires <= now.wall;
        if shown.device != peer || shown.role == NodeRole::Coordinator {
            return self.refuse_and_leave(peer, "the certificate belongs to somebody else");
        }
        if self.documents.revoked.contains(&peer) {
            return self.refuse_and_leave(peer, "the certificate is revoked");
        }
        if !self.devices.contains_key(&peer) {
            if expired || self.devices.len() >= MAX_DEVICES || self.is_behind() {
                return self.refuse_and_leave(peer, "the device is not known here; let it join again with a new token");
            }
            // Signed here once, and no longer remembered: the data directory is an old copy. The signature is enough. Its groups
            // are in the assignment that it shows next.
            let record = DeviceRecord {
                device: peer,
                role: shown.role,
                label: shown.label.clone(),
                site: shown.site,
                groups: Bounded::default(),
                enrolled: shown.issued,
                invited: false,
                certificate: Bounded::truncated(certificate.to_vec()),
                certified: shown.issued,
                assignment: Bounded::default(),
                assigned: Wall::default(),
            };
            self.remember(record, now);
        }
        let newer = self.devices.get(&peer).is_some_and(|device| device.record.certified > shown.issued);
        self.greet(peer, head, expired || newer, now);
    }

    /// A device of the ledger with a certificate by keys that the root has removed since: the transport has proven its own key,
    /// which is all that counts here. It gets a new certificate, at once if it has the new root already.
    fn former_hello(&mut self, peer: DeviceId, head: &[u8], root_version: u64, error: &EnvelopeError, now: Now) {
        if self.documents.revoked.contains(&peer) {
            return self.refuse_and_leave(peer, "the certificate is revoked");
        }
        let known = self.devices.get(&peer).map(|device| device.record.invited);
        match known {
            Some(true) => self.greet(peer, head, root_version >= self.root.version, now),
            Some(false) => {
                let text = "its certificate is by an online key that was removed, and no token of this coordinator ever let it in: it \
                            is left out. Let it join again with a new token if it is yours";
                self.raise(super::AlarmKind::Restored, Some(peer), text.to_owned());
                self.refuse_and_leave(
                    peer,
                    "the certificate is by a key that was removed; join again with a new token",
                );
            }
            None => self.refuse_and_leave(peer, &format!("the certificate is refused: {error}")),
        }
    }

    /// A device that is who it says it is.
    fn greet(&mut self, peer: DeviceId, head: &[u8], renew: bool, now: Now) {
        let Some(site) = self.devices.get(&peer).map(|device| device.record.site) else { return };
        self.peers.insert(peer, Peer::Member { site });
        let message = Message::Hello {
            version: wire::VERSION,
            certificate: self.certificate.clone(),
            head: Bounded::truncated(self.published.clone()),
            root_version: self.root.version,
        };
        self.send(peer, &message);
        // A device that was off for long, moved, or lost the answer to a renewal, is brought up to date.
        if renew {
            self.renew(peer, now);
        }
        if self.of_site(site, peer).next().is_none() {
            self.send(peer, &Message::FirstOfSite);
        }
        self.give_hints(peer);
        self.tell_wan_limits(peer, site);
        if !head.is_empty() {
            self.observe_head(head, now);
        }
    }

    fn enrol(
        &mut self,
        peer: DeviceId,
        secret: [u8; 32],
        role: NodeRole,
        label: Text<64>,
        now: Now,
    ) -> Result<(), String> {
        if role == NodeRole::Coordinator {
            return Err("a join token makes a node or a cache, no coordinator".to_owned());
        }
        if self.documents.revoked.contains(&peer) {
            return Err("this device's key is revoked; join with a fresh data directory".to_owned());
        }
        if self.is_behind() {
            return Err("the coordinator is waiting for its disk; try again in a minute".to_owned());
        }
        if let Some(distrust) = self.clock_distrust(now) {
            return Err(format!("{distrust}"));
        }
        let full = self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(&peer);
        let invite = self.invites.get_mut(blake3::hash(&secret).as_bytes());
        let invite = invite.ok_or("the join token is not known here; ask the admin for a new one")?;
        if invite.expires <= now.wall {
            return Err(format!("the join token expired at {}; ask the admin for a new one", invite.expires));
        }
        if full {
            return Err(format!("{MAX_DEVICES} devices are enrolled, no more are taken"));
        }
        // The same device may ask again: it may have lost the answer.
        if !invite.spent.contains(&peer) {
            if invite.spent.len() >= invite.uses as usize {
                return Err("the join token is spent; ask the admin for a new one".to_owned());
            }
            let mut spent = invite.spent.clone().into_vec();
            spent.push(peer);
            invite.spent = Bounded::new(spent).map_err(|error| error.to_string())?;
        }
        let invite = invite.clone();
        let groups = Bounded::truncated(vec![invite.group]);
        let certificate = self
            .certify(peer, role, invite.site, now.wall)
            .map_err(|error| format!("the certificate cannot be signed: {error}"))?;
        let known = self.devices.get(&peer).map(|device| device.record.assigned);
        let assigned = later(now.wall, known);
        let assignment = self
            .sign_assignment(peer, groups.clone(), assigned)
            .map_err(|error| format!("the assignment to a group cannot be signed: {error}"))?;
        let record = DeviceRecord {
            device: peer,
            role,
            label,
            site: invite.site,
            groups,
            enrolled: now.wall,
            invited: true,
            certificate,
            certified: now.wall,
            assignment,
            assigned,
        };
        // The token is spent before the device is let in: whatever is lost in between, it lets in no second device.
        self.persist_invite(&invite);
        self.remember(record, now);
        // One that was here before has told its inventory.
        self.regroup(peer, now);
        self.when_durable(After::Enrolled { peer });
        Ok(())
    }

    pub(super) fn enrolled(&mut self, peer: DeviceId) {
        let Some(device) = self.devices.get(&peer) else { return };
        let DeviceRecord { site, certificate, assignment, .. } = device.record.clone();
        let Some(standing) = self.peers.get_mut(&peer) else { return };
        *standing = Peer::Member { site };
        let hints = self.hints(site, peer).into_iter().map(|(_, address)| address).collect();
        let message = Message::Enrolled {
            certificate,
            assignment,
            head: Bounded::truncated(self.published.clone()),
            origins: Bounded::truncated(self.documents.origins.clone()),
            peers: Bounded::truncated(hints),
        };
        self.send(peer, &message);
    }

    fn renew(&mut self, peer: DeviceId, now: Now) {
        let Some(device) = self.devices.get(&peer) else { return };
        let record = &device.record;
        let young = now.wall.since(record.certified) < CERTIFICATE_FRESH && record.certified <= now.wall;
        let fresh = young && self.is_of_today(&record.certificate);
        if fresh || self.is_behind() || self.clock_distrust(now).is_some() {
            return self.when_durable(After::Renewed { peer });
        }
        if let Err(error) = self.sign_anew(peer, now) {
            return self.alarm(format!("cannot renew the certificate of {peer}: {error}"));
        }
        self.when_durable(After::Renewed { peer });
    }

    pub(super) fn renewed(&mut self, peer: DeviceId) {
        let certificate = self.devices.get(&peer).map(|device| device.record.certificate.clone());
        if let Some(certificate) = certificate.filter(|_| self.is_here(&peer)) {
            self.send(peer, &Message::Renewed { certificate });
            self.send_assignment(peer);
        }
    }

    pub(super) fn is_here(&self, device: &DeviceId) -> bool {
        self.peers.get(device).is_some_and(Peer::is_member)
    }

    pub(super) fn invite(&mut self, invite: Invite, now: Wall) -> Result<(), Refusal> {
        if invite.uses == 0 || invite.uses > MAX_USES {
            return Err(Refusal::Request(format!("a token lets in 1 to {MAX_USES} devices, not {}", invite.uses)));
        }
        if self.dynamic.follows(&invite.group) {
            let reason = "the group's members follow from a rule or a list that an approver signed; invite machines to another group";
            return Err(Refusal::Request(reason.to_owned()));
        }
        if invite.expires <= now || !invite.spent.is_empty() {
            return Err(Refusal::Request("the invitation is already over".to_owned()));
        }
        let over: Vec<[u8; 32]> =
            self.invites.values().filter(|known| known.expires <= now).map(|known| known.secret_hash).collect();
        for secret_hash in over {
            self.invites.remove(&secret_hash);
            self.persist(Record::Invite(secret_hash, Vec::new()));
        }
        if self.invites.len() >= MAX_INVITES {
            return Err(Refusal::Full("the table of open invitations"));
        }
        self.persist_invite(&invite);
        self.invites.insert(invite.secret_hash, invite);
        Ok(())
    }

    pub(super) fn disinvite(&mut self, secret_hash: &[u8; 32]) -> Result<(), Refusal> {
        if self.invites.remove(secret_hash).is_none() {
            return Err(Refusal::Request("no such token is known here any more: nobody can join with it".to_owned()));
        }
        self.persist(Record::Invite(*secret_hash, Vec::new()));
        Ok(())
    }

    /// Returns whether that is a change of the index.
    pub(super) fn readmit(&mut self, device: DeviceId, now: Now) -> Result<bool, Refusal> {
        let record = &self.devices.get(&device).ok_or(Refusal::UnknownDevice(device))?.record;
        if record.invited && !self.documents.revoked.contains(&device) {
            return Err(Refusal::Request("the device is not shut out".to_owned()));
        }
        if !record.invited {
            let record = DeviceRecord { invited: true, ..record.clone() };
            self.remember(record, now);
        }
        Ok(self.documents.readmit(&device))
    }

    /// Returns whether that is a change.
    pub(super) fn revoke(&mut self, device: DeviceId) -> Result<bool, Refusal> {
        if !self.devices.contains_key(&device) {
            return Err(Refusal::UnknownDevice(device));
        }
        let change = self.documents.revoke(device)?;
        self.forget_shown(&device);
        self.forget_logs(&device);
        if self.peers.contains_key(&device) {
            self.refuse_and_leave(device, "the certificate is revoked");
        }
        Ok(change)
    }

    pub(super) fn own_certificate(&self, now: Wall) -> Result<Bounded<u8, 4096>, EnvelopeError> {
        self.certify(self.me, NodeRole::Coordinator, SiteId::default(), now)
    }

    pub(super) fn certify(
        &self,
        device: DeviceId,
        role: NodeRole,
        site: SiteId,
        now: Wall,
    ) -> Result<Bounded<u8, 4096>, EnvelopeError> {
        let expires = now + CERTIFICATE_LIFE;
        let certificate = Certificate { device, site, role, label: Text::default(), issued: now, expires };
        let bytes = envelope::sign(Kind::Certificate, Role::Online, &certificate, &[&self.online])?;
        // The cap of the kind is the bound of the message: nothing is cut off.
        Ok(Bounded::truncated(bytes))
    }

    pub(super) fn remember(&mut self, record: DeviceRecord, now: Now) {
        match codec::encode(&record, RECORD_LIMIT) {
            Ok(bytes) => self.persist(Record::Device(record.device, bytes)),
            Err(error) => self.alarm(format!("cannot encode the record of {}: {error}", record.device)),
        }
        match self.devices.get_mut(&record.device) {
            Some(device) => device.record = record,
            None => {
                self.devices.insert(record.device, Device::new(record, now.mono));
            }
        }
    }

    fn persist_invite(&mut self, invite: &Invite) {
        match codec::encode(invite, RECORD_LIMIT) {
            Ok(bytes) => self.persist(Record::Invite(invite.secret_hash, bytes)),
            Err(error) => self.alarm(format!("cannot encode an invitation: {error}")),
        }
    }

    fn relay(&mut self, peer: DeviceId, device: DeviceId, seq: u64, encrypted: Vec<u8>) {
        if !self.devices.contains_key(&device) {
            return;
        }
        if let Some(opening) = self.opening.values_mut().find(|o| o.device == device && o.seq == seq) {
            // The same number from a second bearer. If the first one's bytes are bad, this one is asked again later.
            if opening.bearers.len() < MAX_BEARERS && !opening.bearers.contains(&peer) {
                opening.bearers.push(peer);
            }
            return;
        }
        let of_peer = self.opening.values().filter(|o| o.bearers.first() == Some(&peer)).count();
        if self.opening.len() >= MAX_OPENING || of_peer >= MAX_OPENING_PER_PEER || self.is_behind() {
            return;
        }
        self.next_open += 1;
        self.opening.insert(self.next_open, Opening { device, seq, bearers: vec![peer] });
        self.outputs.push_back(Output::OpenReport { open: self.next_open, encrypted });
    }

    pub(super) fn report_opened(&mut self, open: u64, bytes: Option<Vec<u8>>, now: Now) {
        let Some(Opening { device, seq, bearers }) = self.opening.remove(&open) else { return };
        let Some(bytes) = bytes else { return };
        let key = [PublicKey::from(device)];
        let Ok(message) = envelope::open_one::<DeviceMessage>(&bytes, Kind::Report, Role::Device, &key) else { return };
        let revoked = self.documents.revoked.contains(&device);
        // The number outside the encryption is the bearer's claim; the one inside is the device's word.
        if message.device() != device || message.seq() != seq || revoked {
            return;
        }
        let receipt = report::receipt(&bytes);
        if let Some(known) = self.devices.get_mut(&device) {
            known.bearer = bearers.first().copied();
        }
        let acknowledge = Acknowledge { peers: bearers, device, seq, receipt, news: Bounded::default() };
        match message {
            DeviceMessage::Status(report) => self.handle_status(*report, acknowledge, now),
            DeviceMessage::Inventory(report) => self.handle_inventory(*report, After::Acknowledge(acknowledge), now),
            DeviceMessage::Scan(report) => self.handle_scan(*report, After::Acknowledge(acknowledge), now),
            DeviceMessage::Log(report) => self.handle_log(*report, After::Acknowledge(acknowledge), now),
        }
    }

    fn handle_status(&mut self, mut report: Report, mut acknowledge: Acknowledge, now: Now) {
        let (device, seq) = (report.device, report.seq);
        let Some(known) = self.devices.get_mut(&device) else { return };
        report.clamp();
        let mut deployments = report.deployments.to_vec();
        let report_order = seq <= known.seq;
        if report_order {
            deployments.retain(|deployment| known.last_words.is_news(seq, deployment));
            if deployments.is_empty() {
                return self.when_durable(After::Acknowledge(acknowledge));
            }
            report.deployments = Bounded::truncated(deployments.clone());
        }
        if !known.may_report(now.mono) || self.waiting.len() >= super::MAX_WAITING {
            return;
        }
        known.last_words.note(seq, &deployments);
        let news = !report_order && *known.addresses != *report.addresses && !report.addresses.is_empty();
        if !report_order {
            known.reported(seq, report.addresses.to_vec(), now.wall, report.papers);
        }
        let site = known.record.site;
        self.persist(Record::Report(Box::new(report), now.wall));
        self.renew_from_afar(device, now);
        if let Some(known) = self.devices.get(&device) {
            acknowledge.news = self.news_for(known).conceal(&acknowledge.receipt);
        }
        self.when_durable(After::Acknowledge(acknowledge));
        self.outcomes(&device, &deployments, now);
        if news {
            self.tell_of_newcomer(device, site);
            if self.peers.contains_key(&device) {
                self.give_hints(device);
            }
        }
    }

    /// Two devices of a site that came before either had reported would never hear of each other without this. Of many others
    /// each newcomer is told to other ones, so that nobody is left out whose turn never comes.
    fn tell_of_newcomer(&mut self, newcomer: DeviceId, site: SiteId) {
        let Some(device) = self.devices.get(&newcomer) else { return };
        let message = Message::Peers(Bounded::truncated(device.addresses.iter().filter_map(hint).collect()));
        let told = lease::rank(newcomer.as_bytes(), &self.of_site(site, newcomer).map(|peer| (*peer, 1)).collect());
        told.into_iter().take(TOLD_OF_NEWCOMER).for_each(|peer| self.send(peer, &message));
    }

    /// Machines of a site that are connected, but for one.
    pub(super) fn of_site(&self, site: SiteId, except: DeviceId) -> impl Iterator<Item = &DeviceId> {
        let others = self.peers.iter().filter(move |(peer, standing)| **peer != except && standing.is_of(&site));
        others.map(|(peer, _)| peer)
    }

    fn give_hints(&mut self, peer: DeviceId) {
        let Some(device) = self.devices.get(&peer) else { return };
        let hints: Vec<_> = self.hints(device.record.site, peer).into_iter().map(|(_, address)| address).collect();
        if !hints.is_empty() {
            self.send(peer, &Message::Peers(Bounded::truncated(hints)));
        }
    }

    /// Addresses of machines of a site: those connected now first, branch caches before others.
    fn hints(&self, site: SiteId, except: DeviceId) -> Vec<((bool, bool), Text<512>)> {
        let of_site = |device: &&Device| {
            let id = device.record.device;
            device.record.site == site && id != except && !self.documents.revoked.contains(&id)
        };
        let rank =
            |device: &Device| (!self.peers.contains_key(&device.record.device), device.record.role != NodeRole::Cache);
        let mut hints: Vec<_> = self
            .devices
            .values()
            .filter(of_site)
            .filter_map(|device| Some((rank(device), hint(device.addresses.first()?)?)))
            .collect();
        hints.sort();
        hints.truncate(MAX_HINTS);
        hints
    }

    pub(super) fn block_requested(&mut self, peer: DeviceId, serve: u64, what: BlockWhat) {
        let member = self.peers.get(&peer).is_some_and(Peer::is_member);
        let found = match what {
            _ if !member => Err(BlockStatus::Refused),
            // Payload bytes go by the origin, where they are counted and held to a rate.
            BlockWhat::Chunks { .. } => Err(BlockStatus::Refused),
            BlockWhat::Root(version) if self.roots.holds(version) => Ok(ServeWhat::Root(version)),
            BlockWhat::Doc(hash) if self.documents.holds_doc(&hash) => Ok(ServeWhat::Doc(hash)),
            BlockWhat::Doc(hash) => self.roots.version_of(&hash).map(ServeWhat::Root).ok_or(BlockStatus::NotHeld),
            BlockWhat::Root(_) => Err(BlockStatus::NotHeld),
        };
        let of_peer = self.serving.values().filter(|asker| **asker == peer).count();
        let free = self.serving.len() < MAX_SERVING && of_peer < MAX_SERVING_PER_PEER;
        self.outputs.push_back(match found {
            Ok(what) if free => {
                self.serving.insert(serve, peer);
                Output::Serve { serve, what }
            }
            Ok(_) => Output::Deny { serve, status: BlockStatus::Busy },
            Err(status) => Output::Deny { serve, status },
        });
    }

    pub(super) fn served(&mut self, serve: u64) {
        self.serving.remove(&serve);
    }

    pub(super) fn refuse_and_leave(&mut self, peer: DeviceId, reason: &str) {
        self.send(peer, &Message::Refused { reason: Text::lossy(reason) });
        self.disconnect(peer, reason.to_owned());
    }
}

/// Of two papers for a device the later counts, so the time must grow even if the clock does not.
pub(super) fn later(now: Wall, known: Option<Wall>) -> Wall {
    now.max(known.map_or(now, |known| known + Duration::from_millis(1)))
}

/// A reported address in the form of a hint.
fn hint(address: &Text<128>) -> Option<Text<512>> {
    Text::new(address.as_str()).ok()
}
