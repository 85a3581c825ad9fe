//! Why a payload is not complete: who has what of it, who fetches what, what is wrong with the origin.

use std::collections::BTreeSet;

use super::{Cx, Download, Downloads, Phase, View};
use crate::catalog;
use crate::codec::Text;
use crate::ids::{DeviceId, PayloadId};
use crate::node::StoreError;
use crate::node::explain::Sentence;
use crate::time::{Mono, Now};
use crate::units::{percent, size, span};

/// Sources that are named; the others are counted.
const NAMED: usize = 8;

impl Downloads {
    /// Nothing, when every byte is here.
    pub(in crate::node) fn explain(
        &self,
        payload: &catalog::Payload,
        cx: &Cx,
        view: View<'_>,
        now: Now,
    ) -> Vec<Sentence> {
        let name = &payload.name;
        let Some(download) = self.map.get(&payload.id) else {
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
                    self.news.tellers(&payload.id).count()
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
            Phase::Open(_) => self.explain_open(download, cx, view, now),
        }
    }

    fn explain_open(&self, download: &Download, cx: &Cx, view: View<'_>, now: Now) -> Vec<Sentence> {
        let name = &download.payload.name;
        let Some(swarm) = download.swarm() else { return Vec::new() };
        let (have, chunks, len) = (swarm.have_bytes(), swarm.have().len(), download.payload.len);
        let still = span(now.mono.since(download.moved.max(download.since)));
        let last = match swarm.have().count() {
            0 => format!("none has come for {still}"),
            _ => format!("the last came {still} ago"),
        };
        let lan = self.fetches.values().filter(|f| f.payload == download.payload.id && f.peer.is_some()).count();
        let mut sentences = vec![Sentence::new(
            format!("{name} is being fetched: {} of {} ({} %) are here.", size(have), size(len), percent(have, len)),
            format!(
                "{} of {chunks} chunks are verified and on disk; {last}; {lan} requests to neighbours under way",
                swarm.have().count()
            ),
        )];
        let holders: Vec<(&DeviceId, u32)> =
            swarm.peers().map(|(device, map)| (device, map.count())).filter(|(_, count)| *count > 0).collect();
        if !holders.is_empty() {
            let named: Vec<_> = holders
                .iter()
                .take(NAMED)
                .map(|(device, count)| format!("{} {count}", cx.device_name(view.membership, device)))
                .collect();
            sentences.push(Sentence::new(
                format!("{} neighbours hold some of it: {}.", holders.len(), named.join(", ")),
                format!("their own word about their chunks, of {chunks}"),
            ));
        }
        let far: Vec<_> = view
            .membership
            .holders(crate::ids::PayloadKey::from(&download.payload.id))
            .filter(|device| !swarm.knows(device))
            .take(NAMED)
            .map(|device| cx.device_name(view.membership, device))
            .collect();
        if !far.is_empty() {
            sentences.push(Sentence::new(
                format!("Members that hold all of it and are not connected to this device: {}.", far.join(", ")),
                "their presence records",
            ));
        }
        sentences.extend(self.explain_wan(download, cx, view, now));
        sentences
    }

    fn explain_wan(&self, download: &Download, cx: &Cx, view: View<'_>, now: Now) -> Vec<Sentence> {
        let Some(swarm) = download.swarm() else { return Vec::new() };
        let mut sentences = Vec::new();
        let total = swarm.extents().len();
        let leases = leases_of(download, cx.me, now.mono);
        if leases.is_empty() {
            let (begins, me) = (download.leases.may_begin(), view.standing.wan_weight_for(&download.payload.id) > 0);
            let first: Vec<_> =
                download.leases.fetchers().iter().map(|device| cx.device_name(view.membership, device)).collect();
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
        for (device, extents) in leases.iter().take(NAMED) {
            let some: Vec<_> = extents.iter().take(NAMED).map(u32::to_string).collect();
            let more = if extents.len() > NAMED { ", ..." } else { "" };
            sentences.push(Sentence::new(
                format!(
                    "{} fetches {} of {total} extents over the WAN now ({}{more}).",
                    capital(&cx.device_name(view.membership, device)),
                    extents.len(),
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
    pub(in crate::node) fn name_of(&self, payload: &PayloadId) -> Text<255> {
        self.map.get(payload).map(|download| download.payload.name.clone()).unwrap_or_default()
    }

    /// Who fetches which extents of a payload over the WAN now, this device first.
    pub(in crate::node) fn leases(&self, payload: &PayloadId, now: Mono) -> Vec<(DeviceId, Vec<u32>)> {
        self.map.get(payload).map(|download| leases_of(download, self.me, now)).unwrap_or_default()
    }

    /// Machines other than this one that say they fetch over the WAN now, of what this one fetches too.
    pub(in crate::node) fn other_fetchers(&self, now: Mono) -> usize {
        let fetching = self.fetching.iter().filter_map(|payload| self.map.get(payload));
        let devices: BTreeSet<DeviceId> =
            fetching.flat_map(|download| download.leases.at_work(now).map(|(device, _)| *device)).collect();
        devices.len() - usize::from(devices.contains(&self.me))
    }
}

fn leases_of(download: &Download, me: DeviceId, now: Mono) -> Vec<(DeviceId, Vec<u32>)> {
    let own: Vec<u32> = download.claims.iter().copied().collect();
    let mine = (!own.is_empty()).then_some((me, own));
    let others = download.leases.at_work(now).map(|(device, extents)| (*device, extents.to_vec()));
    mine.into_iter().chain(others).collect()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
