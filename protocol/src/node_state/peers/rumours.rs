//! What members say to all: heads, beacons, leases.

use super::*;

/// After the first word of a member most others have been heard of.
const KNOWN_AFTER: Duration = Duration::from_millis(150);

impl NodeState {
    pub(in crate::node_state) fn gossip(&mut self, id: u64, from: DeviceId, topic: Topic, bytes: Vec<u8>, now: Now) {
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

    /// The coordinator has nothing newer: what waited for its word goes on.
    fn head_confirmed(&mut self, now: Now) {
        if !core::mem::replace(&mut self.head_is_confirmed, true) {
            self.advance_all(now);
        }
    }

    /// Verifies a head and acts on it. From gossip or, with `peer`, told directly.
    pub(in crate::node_state) fn head_offered(&mut self, bytes: &[u8], peer: Option<DeviceId>, now: Now) -> Verdict {
        let outcome = self.trust.offer_head(bytes, now.wall);
        self.drain_trust_alarms(now);
        if matches!(outcome, Ok(HeadNews::Same | HeadNews::Older)) && peer == Some(self.config.coordinator) {
            self.head_confirmed(now);
        }
        match outcome {
            Ok(HeadNews::New) => {
                self.head_is_confirmed = true;
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

    pub(in crate::node_state) fn beacon_heard(&mut self, bytes: &[u8], now: Now) -> Verdict {
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
                if self.peers.coordinator.is_none() && self.peers.coordinator_failures == 0 {
                    // Whose part it is to be the uplink can be told as soon as the site is known.
                    let soon = KNOWN_AFTER + self.rng.jitter(KNOWN_AFTER / 2);
                    self.timer(Reason::Uplink, now.mono + soon);
                }
                Verdict::Accept
            }
        }
    }

    pub(super) fn lease_heard(&mut self, envelope: Envelope<'_>, now: Now) -> Verdict {
        let Some(signer) = envelope.claimed_signers().next() else { return Verdict::Reject };
        let device = DeviceId(signer.0);
        let shut_out = self.peers.is_banned(&device, now.mono);
        if device == self.me || shut_out || self.membership.get(&device).is_none() {
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

    /// A beacon for a neighbour that has just come: the last one if it is fresh, so that neighbours who come together pass the
    /// same bytes on to each other, which are verified once. The next beacon, soon due, says what has changed since.
    pub(super) fn recent_beacon(&mut self, now: Now) -> Vec<u8> {
        let fresh = self.peers.last_beacon.is_some_and(|(at, _)| now.mono.since(at) < BEACON_SPACING);
        if fresh && !self.peers.said.is_empty() {
            return self.peers.said.clone();
        }
        self.signed_beacon(false, now)
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
            wan_weight: self.wan_weight(),
            uplink: self.peers.coordinator.is_some(),
            leaving,
            wants: Bounded::truncated(wants),
            holds: Bounded::truncated(holds),
        };
        // A beacon has bounds that keep it below its kind's cap; an empty message would be refused by everyone.
        let bytes = envelope::sign(Kind::Beacon, Role::Device, &beacon, &[&self.config.key]).unwrap_or_default();
        self.peers.said = if leaving { Vec::new() } else { bytes.clone() };
        bytes
    }

    pub(in crate::node_state) fn send_beacon(&mut self, leaving: bool, now: Now) {
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
    pub(in crate::node_state) fn beacon_soon(&mut self, now: Now) {
        self.beacon_after(BEACON_SPACING, now);
    }

    /// This node wants a payload. Nobody fetches before such news have ended.
    pub(in crate::node_state) fn wish_soon(&mut self, now: Now) {
        self.beacon_after(WISH_SPACING, now);
    }

    fn beacon_after(&mut self, spacing: Duration, now: Now) {
        let earliest = self.peers.last_beacon.map_or(Mono(0), |(at, _)| at + spacing);
        let soon = now.mono + self.rng.jitter(Duration::from_millis(30));
        self.timer(Reason::Beacon, earliest.max(soon));
    }

    pub(in crate::node_state) fn say_goodbye(&mut self, now: Now) {
        self.send_beacon(true, now);
        self.persist_counters();
    }

    pub(in crate::node_state) fn expire_members(&mut self, now: Now) {
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
