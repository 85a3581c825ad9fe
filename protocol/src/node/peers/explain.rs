//! Why a peer is used, or not.

use std::collections::{BTreeMap, BTreeSet};

use super::{HELLO_WITHIN, MAX_BANS, NodeState, Peer, Stage, Standing};
use crate::codec::Text;
use crate::ids::{DeviceId, MemberKey};
use crate::membership::NEIGHBOURS;
use crate::node::explain::Sentence;
use crate::time::{Now, Wall};
use crate::units::{size, span};

/// What is remembered of peers that are not connected; in this run only, [`MAX_BANS`] of each at most.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// When and why a connection was last ended on purpose, by either side.
    parted: BTreeMap<DeviceId, (Wall, Text<200>)>,
    /// Payload bytes given in connections that are over.
    given: BTreeMap<DeviceId, u64>,
}

impl Past {
    pub(super) fn parted(&mut self, peer: DeviceId, reason: &str, at: Wall) {
        if self.parted.len() >= MAX_BANS && !self.parted.contains_key(&peer) {
            let oldest = self.parted.iter().min_by_key(|(_, (at, _))| *at).map(|(device, _)| *device);
            if let Some(oldest) = oldest {
                self.parted.remove(&oldest);
            }
        }
        self.parted.insert(peer, (at, Text::lossy(reason)));
    }

    pub(super) fn gave(&mut self, peer: DeviceId, bytes: u64) {
        if bytes > 0 && (self.given.len() < MAX_BANS || self.given.contains_key(&peer)) {
            *self.given.entry(peer).or_default() += bytes;
        }
    }
}

impl NodeState {
    /// Why a peer is used, or not.
    pub fn explain_peer(&self, peer: &DeviceId, now: Now) -> Vec<Sentence> {
        if *peer == self.cx.me {
            return vec![Sentence::new("That is this device.", "its key")];
        }
        if *peer == self.cx.config.coordinator {
            return vec![self.explain_coordinator(now)];
        }
        match self.peers.connected.get(peer) {
            Some(connected) => self.explain_connected(peer, connected, now),
            None => self.explain_unconnected(peer, now),
        }
    }

    fn explain_connected(&self, device: &DeviceId, peer: &Peer, now: Now) -> Vec<Sentence> {
        let name = self.device_name(device);
        let since = span(now.mono.since(peer.since));
        let cache = match peer.stage {
            Stage::Greeting => {
                return vec![Sentence::new(
                    format!("{name} is connected and has not shown its certificate yet."),
                    format!("connected for {since}; it is dropped after {}", span(HELLO_WITHIN)),
                )];
            }
            Stage::Member { cache } => cache,
            Stage::Coordinator => return vec![self.explain_coordinator(now)],
        };
        let kind = if cache { "a branch cache" } else { "a machine" };
        let Some(neighbour) = self.downloads.neighbour(device) else { return Vec::new() };
        let mut sentences = vec![Sentence::new(
            format!(
                "{name} is connected; it has given {} and taken {}, and {} requests to it are under way.",
                size(neighbour.given),
                size(neighbour.taken),
                neighbour.outstanding
            ),
            format!("{kind} of this site by its certificate, connected for {since}"),
        )];
        let lacking = self.lacking();
        let useful = lacking.iter().filter(|payload| neighbour.holds(payload)).count();
        if lacking.is_empty() {
            sentences.push(Sentence::new(
                "Nothing is asked of it: this device lacks nothing.",
                "no payload is wanted and incomplete here",
            ));
        } else if useful == 0 {
            sentences.push(Sentence::new(
                format!(
                    "Nothing is asked of it: it holds nothing of the {} payloads that this device lacks.",
                    lacking.len()
                ),
                format!("its own word: it holds {} payloads, in whole or in part", neighbour.holdings()),
            ));
        } else if neighbour.busy_until > now.mono {
            sentences.push(Sentence::new(
                format!("It is asked again in {} ms.", neighbour.busy_until.since(now.mono).as_millis()),
                "it said that it is busy, or did not answer in time",
            ));
        }
        sentences.extend(self.explain_weight(device));
        sentences
    }

    fn explain_unconnected(&self, device: &DeviceId, now: Now) -> Vec<Sentence> {
        let name = self.device_name(device);
        let mut sentences = Vec::new();
        let parted = self.peers.past.parted.get(device);
        let why =
            parted.map_or_else(|| "it served bad data or broke the protocol".to_owned(), |(_, why)| why.to_string());
        if let Some(until) = self.peers.banned.get(device).filter(|until| **until > now.mono) {
            sentences.push(Sentence::new(
                format!("{name} is shut out for another {}: {why}.", span(until.since(now.mono))),
                "whoever serves bad bytes or breaks the protocol is not talked to for an hour",
            ));
        } else if let Some((at, _)) = parted {
            sentences.push(Sentence::new(
                format!("The connection to {name} was ended {} ago: {why}.", span(now.wall.since(*at))),
                "the last connection to it in this run of the node",
            ));
        }
        if self.trust.catalog().is_revoked(device) {
            sentences.push(Sentence::new(
                format!("{name} was thrown out by the admin."),
                format!("revoked devices of index version {}", self.trust.catalog().index_version()),
            ));
        }
        match self.membership.get(device) {
            None if self.membership.mention(&MemberKey::from(device)).is_some() => sentences.push(Sentence::new(
                format!("{name} is at this site and not needed here."),
                "others mention it; of machines that have nothing to give, only some are known better",
            )),
            None => sentences.push(Sentence::new(
                format!("{name} is not known as a machine of this site."),
                "no presence record of it, with a certificate for this site, is known",
            )),
            Some(member) if matches!(member.standing, Standing::Leaving { .. }) => {
                sentences.push(Sentence::new(format!("{name} said that it is going."), "its last presence record"));
            }
            Some(member) if !member.is_here() => sentences.push(Sentence::new(
                format!("{name} has not been heard since the connection to it broke."),
                format!("its last presence record, {} ago", span(now.mono.since(member.heard))),
            )),
            Some(member) if member.presence.addresses.is_empty() => sentences.push(Sentence::new(
                format!("{name} cannot be dialled: it names no address; it may dial this device."),
                "its last presence record",
            )),
            Some(member) => {
                let neighbours = self.peers.members().count();
                let (text, because) = if neighbours >= NEIGHBOURS {
                    (
                        format!(
                            "{name} is here and not needed: {neighbours} other machines of the site are connected."
                        ),
                        format!("{NEIGHBOURS} neighbours are enough; what a machine holds travels on through them"),
                    )
                } else {
                    (
                        format!("{name} is here and not connected."),
                        format!("its last presence record, {} ago", span(now.mono.since(member.heard))),
                    )
                };
                sentences.push(Sentence::new(text, because));
            }
        }
        sentences.extend(self.explain_dials(device, now));
        sentences.extend(self.explain_weight(device));
        sentences
    }

    fn explain_dials(&self, device: &DeviceId, now: Now) -> Vec<Sentence> {
        let addresses = self.peers.addresses.iter().filter(|(_, address)| address.device == Some(*device));
        let told = addresses.filter_map(|(text, address)| {
            if let Some(since) = address.dialling {
                let since = span(now.mono.since(since));
                return Some(Sentence::new(format!("It is being dialled at {text}."), format!("for {since}")));
            }
            let next = address.next.since(now.mono);
            if address.failures == 0 {
                let resting = Sentence::new(
                    format!("Its address {text} is not dialled for another {}.", span(next)),
                    "whoever was refused a moment ago would be refused again",
                );
                return (!next.is_zero()).then_some(resting);
            }
            let next =
                if next.is_zero() { "when a neighbour is needed".to_owned() } else { format!("in {}", span(next)) };
            Some(Sentence::new(
                format!("Dialling it at {text} failed: {}. The next try is {next}.", address.trouble),
                format!("{} failures in a row", address.failures),
            ))
        });
        told.take(4).collect()
    }

    /// What a member's weight means for the WAN.
    fn explain_weight(&self, device: &DeviceId) -> Option<Sentence> {
        let member = self.membership.get(device)?;
        (member.presence.wan_weight == 0).then(|| {
            Sentence::new(
                "It fetches nothing over the WAN for the site.",
                "wan_weight 0 in its presence record: a metered link, or its node.toml",
            )
        })
    }

    /// Whether the coordinator is heard, and if not, why.
    pub(in crate::node) fn explain_coordinator(&self, now: Now) -> Sentence {
        if let Some(peer) = self.peers.coordinator.and_then(|device| self.peers.connected.get(&device)) {
            let since = span(now.mono.since(peer.since));
            return Sentence::new("The coordinator is connected.", format!("for {since}"));
        }
        let relays: Vec<_> = self.uplink_neighbours().take(3).map(|device| self.device_name(device)).collect();
        let failures = self.peers.coordinator_failures;
        if !relays.is_empty() {
            return Sentence::new(
                format!("The coordinator is heard through {}.", relays.join(", ")),
                "presence records of machines of this site that are connected to it; few are, to spare it and the WAN",
            );
        }
        if failures > 0 {
            let next = self.peers.coordinator_next.since(now.mono);
            let next = if next.is_zero() { "now".to_owned() } else { format!("in {}", span(next)) };
            return Sentence::new(
                format!(
                    "The coordinator cannot be reached: {}. The next try is {next}.",
                    self.peers.coordinator_trouble
                ),
                format!("{failures} failed dials in a row"),
            );
        }
        if self.cx.config.coordinator_addresses.is_empty() {
            return Sentence::new("The coordinator has no address here.", "[coordinator] in node.toml");
        }
        Sentence::new("The coordinator is not connected yet.", "the first dial is soon, or under way")
    }

    /// Peers that are not used although they might be: shut out, parted from, not reachable, or holding nothing of what is
    /// lacking here.
    pub(in crate::node) fn unused_peers(&self, now: Now) -> BTreeSet<DeviceId> {
        let banned = self.peers.banned.iter().filter(|(_, until)| **until > now.mono).map(|(device, _)| *device);
        let failing = self.peers.addresses.values().filter(|a| a.failures > 0).filter_map(|a| a.device);
        let parted = self.peers.past.parted.keys().copied();
        let gone = banned.chain(failing).chain(parted).filter(|device| !self.peers.connected.contains_key(device));
        let lacking = self.lacking();
        let useless = |device: &&DeviceId| {
            let holds = |payload| self.downloads.neighbour(device).is_some_and(|neighbour| neighbour.holds(payload));
            !lacking.is_empty() && !lacking.iter().any(holds)
        };
        let idle = self.peers.members().map(|(device, _)| device).filter(useless).copied();
        gone.chain(idle).filter(|device| *device != self.cx.config.coordinator).collect()
    }

    /// Devices that gave payload bytes in this run, the most generous first.
    pub(in crate::node) fn givers(&self) -> Vec<(DeviceId, u64)> {
        let mut given = self.peers.past.given.clone();
        for (device, neighbour) in self.downloads.neighbours().filter(|(_, neighbour)| neighbour.given > 0) {
            *given.entry(*device).or_default() += neighbour.given;
        }
        let mut given: Vec<_> = given.into_iter().collect();
        given.sort_by_key(|(device, bytes)| (core::cmp::Reverse(*bytes), *device));
        given
    }

    /// Devices of which this node knows something: neighbours, members, those it parted from, and the coordinator.
    pub(in crate::node) fn known_devices(&self) -> impl Iterator<Item = DeviceId> {
        let members = self.membership.iter().map(|(device, _)| *device);
        let dialled = self.peers.addresses.values().filter_map(|address| address.device);
        let others = self.peers.connected.keys().chain(self.peers.past.parted.keys()).copied();
        members.chain(dialled).chain(others).chain([self.cx.me, self.cx.config.coordinator])
    }
}
