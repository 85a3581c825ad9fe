//! Who is here: the living members of a site, from their signed beacons and from the connections to them.
//!
//! Every member knows every other (a beacon is a few hundred bytes), but is connected to about [`NEIGHBOURS`] of them.
//! Invariant: nothing enters without a certificate of this site that the verifier accepted.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::catalog::{Certificate, NodeRole};
use crate::codec::Text;
use crate::ids::{DeviceId, PayloadId, SiteId};
use crate::lease;
use crate::time::{Mono, Wall};
use crate::wire::Beacon;

/// Connections to members of the site that a node looks for.
pub const NEIGHBOURS: usize = 12;
/// Members that are remembered; a site larger than this should be split.
pub const MAX_MEMBERS: usize = 4096;
/// Members that keep a connection to the coordinator, at least; in a large site one in [`PER_UPLINK`].
pub const UPLINKS: usize = 2;
/// Members whose reports one uplink passes on: each of them is a neighbour of it.
pub const PER_UPLINK: usize = 32;

/// One member of the site, other than this node.
#[derive(Debug, Clone)]
pub struct Member {
    /// What its certificate says.
    pub certificate: Certificate,
    /// The beacon's envelope, to hand on to newcomers.
    pub raw: Vec<u8>,
    /// What it said last.
    pub beacon: Beacon,
    /// When it was last heard of.
    pub heard: Mono,
    /// Whether a connection to it broke since its last beacon: it counts as away until it speaks again.
    pub away: bool,
}

impl Member {
    fn is_here(&self) -> bool {
        !self.away && !self.beacon.leaving
    }
}

/// The living members of one site.
#[derive(Debug)]
pub struct Membership {
    me: DeviceId,
    site: SiteId,
    members: BTreeMap<DeviceId, Member>,
}

/// What a beacon changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Older than what is known, or about this node itself.
    Old,
    /// A sign of life without other news.
    Alive,
    /// A member that was not here before, or one with other wishes or addresses.
    News,
}

impl Membership {
    /// Nobody but this node.
    pub fn new(me: DeviceId, site: SiteId) -> Self {
        Self { me, site, members: BTreeMap::new() }
    }

    /// The site.
    pub fn site(&self) -> SiteId {
        self.site
    }

    /// Takes in a beacon whose signature and certificate have been verified.
    pub fn heard(&mut self, now: Mono, certificate: Certificate, beacon: Beacon, raw: Vec<u8>) -> Heard {
        let device = certificate.device;
        if device == self.me || certificate.site != self.site {
            return Heard::Old;
        }
        let news = match self.members.get(&device) {
            Some(known) if known.beacon.issued >= beacon.issued => return Heard::Old,
            Some(known) => {
                !known.is_here()
                    || known.beacon.wants != beacon.wants
                    || known.beacon.holds != beacon.holds
                    || known.beacon.addresses != beacon.addresses
                    || known.beacon.wan_weight != beacon.wan_weight
                    || known.beacon.uplink != beacon.uplink
                    || beacon.leaving
            }
            None if self.members.len() >= MAX_MEMBERS => return Heard::Old,
            None => true,
        };
        self.members.insert(device, Member { certificate, raw, beacon, heard: now, away: false });
        if news { Heard::News } else { Heard::Alive }
    }

    /// A sign of life other than a beacon.
    pub fn alive(&mut self, now: Mono, device: &DeviceId) {
        if let Some(member) = self.members.get_mut(device) {
            member.heard = now;
        }
    }

    /// The connection to a member broke.
    pub fn away(&mut self, device: &DeviceId) {
        if let Some(member) = self.members.get_mut(device) {
            member.away = true;
        }
    }

    /// How often a member shows that it lives: rarer in a large site, so that all beacons together stay a trickle.
    pub fn beacon_every(&self) -> Duration {
        Duration::from_secs(10).max(Duration::from_millis(50) * (self.members.len() as u32 + 1))
    }

    /// Forgets members that have been silent for long. Returns them.
    pub fn expire(&mut self, now: Mono) -> Vec<DeviceId> {
        let patience = self.beacon_every() * 7 / 2;
        let silent: Vec<_> =
            self.members.iter().filter(|(_, m)| now.since(m.heard) > patience).map(|(d, _)| *d).collect();
        for device in &silent {
            self.members.remove(device);
        }
        silent
    }

    /// A member by its key.
    pub fn get(&self, device: &DeviceId) -> Option<&Member> {
        self.members.get(device)
    }

    /// Forgets a member whose certificate is no longer good.
    pub fn remove(&mut self, device: &DeviceId) {
        self.members.remove(device);
    }

    /// Members other than this node, here or not.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, &Member)> {
        self.members.iter()
    }

    /// Number of members that are here, this node included.
    pub fn size(&self) -> usize {
        1 + self.members.values().filter(|m| m.is_here()).count()
    }

    /// The members that want a payload and may use the WAN, with their weights; this node with `mine` if it may.
    pub fn wan_candidates(&self, payload: &PayloadId, mine: u8) -> BTreeMap<DeviceId, u8> {
        let mut candidates: BTreeMap<_, _> = self
            .members
            .iter()
            .filter(|(_, m)| m.is_here() && m.beacon.wan_weight > 0 && m.beacon.wants.contains(payload))
            .map(|(d, m)| (*d, m.beacon.wan_weight))
            .collect();
        if mine > 0 {
            candidates.insert(self.me, mine);
        }
        candidates
    }

    /// The members that say they hold all of a payload.
    pub fn holders(&self, payload: &PayloadId) -> impl Iterator<Item = (&DeviceId, &Member)> {
        let payload = *payload;
        self.members.iter().filter(move |(_, m)| m.is_here() && m.beacon.holds.contains(&payload))
    }

    /// The members that should keep a connection to the coordinator, first choice first; this node among them if chosen.
    pub fn uplinks(&self, my_weight: u8) -> Vec<DeviceId> {
        let mut candidates: BTreeMap<_, _> = self
            .members
            .iter()
            .filter(|(_, m)| m.is_here() && m.beacon.wan_weight > 0)
            .map(|(d, m)| (*d, m.beacon.wan_weight))
            .collect();
        candidates.insert(self.me, my_weight.max(1));
        let mut ranked = lease::rank(b"uplink", &candidates);
        ranked.truncate(UPLINKS.max(candidates.len().div_ceil(PER_UPLINK)));
        ranked
    }

    /// The members that say they are connected to the coordinator.
    pub fn connected_uplinks(&self) -> impl Iterator<Item = &DeviceId> {
        self.members.iter().filter(|(_, m)| m.is_here() && m.beacon.uplink).map(|(d, _)| d)
    }

    /// Whether a member is a branch cache.
    pub fn is_cache(&self, device: &DeviceId) -> bool {
        self.members.get(device).is_some_and(|m| m.certificate.role == NodeRole::Cache)
    }

    /// Beacons for a newcomer, the latest first.
    pub fn beacons(&self) -> Vec<&[u8]> {
        let mut members: Vec<_> = self.members.values().filter(|m| m.is_here()).collect();
        members.sort_by_key(|m| core::cmp::Reverse((m.heard, m.certificate.device)));
        members.into_iter().map(|m| m.raw.as_slice()).collect()
    }

    /// Addresses of a member.
    pub fn addresses(&self, device: &DeviceId) -> &[Text<128>] {
        self.members.get(device).map_or(&[], |m| &m.beacon.addresses)
    }
}

/// A beacon is believed only if it was made not long ago by the sender's clock against this one: an old recording does not
/// bring a departed member back. Clocks of office machines may be minutes apart.
pub fn plausible(beacon: &Beacon, wall: Wall) -> bool {
    const SKEW: Duration = Duration::from_secs(24 * 3600);
    wall.since(beacon.issued) < SKEW && beacon.issued.since(wall) < SKEW
}
