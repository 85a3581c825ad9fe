//! What is said to all: heads, and the leases of a site. It owns nothing, and never decides who fetches.

use super::*;

impl NodeState {
    pub(in crate::node) fn gossip(&mut self, id: u64, from: DeviceId, topic: Topic, bytes: Vec<u8>, now: Now) {
        let verdict = match topic {
            Topic::Head => self.head_offered(&bytes, None, now),
            Topic::Site(site) if site == self.membership.site() => {
                match Envelope::parse(&bytes, Kind::Lease, Role::Device) {
                    Ok(envelope) => self.lease_heard(envelope, now),
                    Err(_) => Verdict::Reject,
                }
            }
            Topic::Site(_) => Verdict::Ignore,
        };
        self.cx.out.push_back(Output::GossipVerdict { id, from, verdict });
        if verdict == Verdict::Reject {
            let what = if topic == Topic::Head { "head" } else { "lease" };
            self.alarm(Trouble::Peer, format!("peer {} passed on a {what} that does not verify", from.short()));
        }
    }

    /// The coordinator has nothing newer: what waited for its word goes on.
    fn head_confirmed(&mut self) {
        if !core::mem::replace(&mut self.head_is_confirmed, true) {
            self.advance_all();
        }
    }

    /// Verifies a head and acts on it. From gossip or, with `peer`, told directly.
    pub(in crate::node) fn head_offered(&mut self, bytes: &[u8], peer: Option<DeviceId>, now: Now) -> Verdict {
        let outcome = self.trust.offer_head(bytes, now.wall);
        self.drain_trust_alarms();
        if matches!(outcome, Ok(HeadNews::Same | HeadNews::Older)) && peer == Some(self.cx.config.coordinator) {
            self.head_confirmed();
        }
        match outcome {
            Ok(HeadNews::New) => {
                self.head_is_confirmed = true;
                self.persist_trust();
                self.documents_wanted(now);
                if peer.is_some() {
                    self.cx.out.push_back(Output::Publish { topic: Topic::Head, bytes: bytes.to_vec() });
                }
                self.advance_all();
                Verdict::Accept
            }
            Ok(HeadNews::Aside) => {
                self.persist_trust();
                self.fetch_documents(now);
                if peer.is_some() {
                    self.cx.out.push_back(Output::Publish { topic: Topic::Head, bytes: bytes.to_vec() });
                }
                self.look_at_clock(now);
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
                let newest = self.trust.head_bytes().map(|bytes| Message::Head(SignedBytes::truncated(bytes.to_vec())));
                if let (Some(peer), Some(newest)) = (peer, newest) {
                    self.send(peer, &newest);
                }
                Verdict::Ignore
            }
            // DeviceMessage directly before it was gossiped: it may be new to those behind this node.
            Ok(HeadNews::Same) => Verdict::Accept,
            Err(error) => {
                if let Some(peer) = peer {
                    self.alarm(Trouble::Peer, format!("peer {} offers a head that is refused: {error}", peer.short()));
                }
                Verdict::Reject
            }
        }
    }

    pub(super) fn lease_heard(&mut self, envelope: Envelope<'_>, now: Now) -> Verdict {
        let Some(signer) = envelope.claimed_signers().next() else { return Verdict::Reject };
        let device = DeviceId(signer.0);
        let shut_out = self.peers.is_banned(&device, now.mono);
        if device == self.cx.me || shut_out || self.membership.get(&device).is_none() {
            return Verdict::Ignore;
        }
        let lease: Lease = match envelope.verify_one(&[signer]).and_then(|verified| verified.decode()) {
            Ok(lease) => lease,
            Err(_) => return Verdict::Reject,
        };
        if lease.device != device || lease.site != self.membership.site() {
            return Verdict::Reject;
        }
        self.lease_taken(&lease)
    }
}
