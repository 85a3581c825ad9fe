//! Why a payload is not complete: who has what of it, who fetches what, what is wrong with the origin.

use super::{Download, NodeState, Phase};
use crate::catalog;
use crate::codec::Text;
use crate::ids::{DeviceId, PayloadId};
use crate::node_state::StoreError;
use crate::node_state::explain::{Sentence, percent, size, span};
use crate::node_state::status::LeaseStatus;
use crate::time::{Mono, Now};

/// Sources that are named; the others are counted.
const NAMED: usize = 8;

impl NodeState {
    /// Nothing, when every byte is here.
    pub(in crate::node_state) fn explain_payload(&self, payload: &catalog::Payload, now: Now) -> Vec<Sentence> {
        let name = &payload.name;
        let Some(download) = self.downloads.map.get(&payload.id) else {
            return vec![Sentence::new(
                format!("{name} is not being fetched yet."),
                "payloads are fetched when a release is approved, applicable and required here",
            )];
        };
        match &download.phase {
            Phase::List => vec![Sentence::new(
                format!("The chunk list of {name} is being looked for."),
                format!(
                    "{} neighbours say that they hold some of {name}; the coordinator and the origins come after them",
                    self.peers.members().filter(|(_, peer)| peer.holdings.contains_key(&payload.id)).count()
                ),
            )],
            Phase::Opening(_) => vec![Sentence::new(
                format!("{name} is being opened: what this disk has of it is being looked for."),
                "chunks are hashed before they count",
            )],
            Phase::Failed { reason, retry } => {
                let (text, because) = match reason {
                    StoreError::NoSpace(text) => {
                        (text, "quota and reserve in [store] of node.toml, and the free space of the disk")
                    }
                    StoreError::Failed(text) => (text, "the payload store"),
                };
                let next = span(retry.since(now.mono));
                vec![Sentence::new(format!("{name} cannot be stored: {text}. It is tried again in {next}."), because)]
            }
            Phase::Open(swarm) if swarm.have().is_full() => Vec::new(),
            Phase::Open(_) => self.explain_open(download, now),
        }
    }

    fn explain_open(&self, download: &Download, now: Now) -> Vec<Sentence> {
        let name = &download.payload.name;
        let Some(swarm) = download.swarm() else { return Vec::new() };
        let (have, chunks, len) = (swarm.have_bytes(), swarm.have().len(), download.payload.len);
        let still = span(now.mono.since(download.moved.max(download.since)));
        let lan =
            self.downloads.fetches.values().filter(|f| f.payload == download.payload.id && f.peer.is_some()).count();
        let mut sentences = vec![Sentence::new(
            format!("{name} is being fetched: {} of {} ({} %) are here.", size(have), size(len), percent(have, len)),
            format!(
                "{} of {chunks} chunks are verified and on disk; the last came {still} ago; {lan} requests to neighbours under way",
                swarm.have().count()
            ),
        )];
        let holders: Vec<(&DeviceId, u32)> =
            swarm.peers().map(|(device, map)| (device, map.count())).filter(|(_, count)| *count > 0).collect();
        if !holders.is_empty() {
            let named: Vec<_> = holders
                .iter()
                .take(NAMED)
                .map(|(device, count)| format!("{} {count}", self.device_name(device)))
                .collect();
            sentences.push(Sentence::new(
                format!("{} neighbours hold some of it: {}.", holders.len(), named.join(", ")),
                format!("their own word about their chunks, of {chunks}"),
            ));
        }
        let far: Vec<_> = self
            .membership
            .holders(&download.payload.id)
            .filter(|(device, _)| !swarm.knows(device))
            .take(NAMED)
            .map(|(device, _)| self.device_name(device))
            .collect();
        if !far.is_empty() {
            sentences.push(Sentence::new(
                format!("Members that hold all of it and are not connected to this device: {}.", far.join(", ")),
                "their beacons",
            ));
        }
        sentences.extend(self.explain_wan(download, now));
        sentences
    }

    fn explain_wan(&self, download: &Download, now: Now) -> Vec<Sentence> {
        let Some(swarm) = download.swarm() else { return Vec::new() };
        let mut sentences = Vec::new();
        let total = swarm.extents().len();
        let leases = self.leases_of(download, now.mono);
        if leases.is_empty() {
            let (begins, me) = (download.leases.may_begin(), self.wan_weight_for(&download.payload.id) > 0);
            let first: Vec<_> = download.leases.fetchers().iter().map(|device| self.device_name(device)).collect();
            let text = if !download.wanted {
                "Nobody needs it fetched over the WAN: this device only serves what it has.".to_owned()
            } else if download.paused {
                "Nobody here fetches it over the WAN: what needs it is on hold.".to_owned()
            } else if first.is_empty() {
                "Nobody at this site fetches it over the WAN: no member that wants it may.".to_owned()
            } else if begins > now.mono {
                format!("Nobody fetches it over the WAN yet; first in order: {}.", first.join(", "))
            } else {
                format!("No WAN fetch of it has been heard of; first in order: {}.", first.join(", "))
            };
            let own =
                if me { "this device may use the WAN" } else { "this device may not use the WAN (its weight is 0)" };
            sentences.push(Sentence::new(text, format!("the order of the site's members by weighted hash; {own}")));
        }
        for lease in leases.iter().take(NAMED) {
            let some: Vec<_> = lease.extents.iter().take(NAMED).map(u32::to_string).collect();
            let more = if lease.extents.len() > NAMED { ", ..." } else { "" };
            sentences.push(Sentence::new(
                format!(
                    "{} fetches {} of {total} extents over the WAN now ({}{more}).",
                    capital(&self.device_name(&lease.device)),
                    lease.extents.len(),
                    some.join(", ")
                ),
                "leases: one member at a time fetches an extent for the whole site",
            ));
        }
        if let Some(trouble) = &download.origin_trouble {
            let next = download.origin_next.since(now.mono);
            let next = if next.is_zero() { "now".to_owned() } else { format!("in {}", span(next)) };
            sentences.push(Sentence::new(
                format!("The WAN fetch has trouble: {trouble}. The next try is {next}."),
                format!(
                    "{} failures in a row by this device; others of the site may fetch meanwhile",
                    download.origin_failures
                ),
            ));
        }
        sentences
    }

    /// A payload's file name.
    pub(in crate::node_state) fn payload_name(&self, payload: &PayloadId) -> Text<255> {
        self.downloads.map.get(payload).map(|download| download.payload.name.clone()).unwrap_or_default()
    }

    /// Who fetches what of a payload over the WAN now, this device included.
    pub(in crate::node_state) fn leases(&self, payload: &PayloadId, now: Mono) -> Vec<LeaseStatus> {
        self.downloads.map.get(payload).map(|download| self.leases_of(download, now)).unwrap_or_default()
    }

    fn leases_of(&self, download: &Download, now: Mono) -> Vec<LeaseStatus> {
        let mut own: Vec<u32> = download.own.values().copied().collect();
        own.sort_unstable();
        own.dedup();
        let mine = (!own.is_empty()).then_some(LeaseStatus { device: self.me, extents: own });
        let others = download.leases.at_work(now);
        let others = others.map(|(device, extents)| LeaseStatus { device: *device, extents: extents.to_vec() });
        mine.into_iter().chain(others).collect()
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
