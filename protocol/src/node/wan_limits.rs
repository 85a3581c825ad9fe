//! How much of the WAN this site may use, and before whom, as the coordinator has ordered: the newest order, kept over restarts and passed on to
//! neighbours. It slows nothing down itself: whoever moves bytes asks [`NodeState::wan_share`].

use super::explain::Sentence;
use super::{NodeState, Record};
use crate::codec::Bounded;
use crate::envelope::{Envelope, Kind, Role};
use crate::ids::{DeviceId, SiteId};
use crate::schedule;
use crate::time::Now;
use crate::trust::Trust;
use crate::units::rate;
use crate::wire::{Message, SignedBytes, WanLimits, WanRate};

/// The order in force.
#[derive(Debug, Default)]
pub(super) struct Ordered(Option<(WanLimits, Vec<u8>)>);

impl Ordered {
    /// From the last [`Record::WanLimits`]. One that today's online keys have not signed comes again from the coordinator.
    pub(super) fn restore(bytes: Option<Vec<u8>>, trust: &Trust, site: SiteId) -> Self {
        Self(bytes.and_then(|bytes| Some((verified(&bytes, trust, site)?, bytes))))
    }
}

fn verified(bytes: &[u8], trust: &Trust, site: SiteId) -> Option<WanLimits> {
    let online = &trust.root().online;
    let envelope = Envelope::parse(bytes, Kind::WanLimits, Role::Online).ok()?;
    let order: WanLimits = envelope.verify(online).ok()?.decode().ok()?;
    (order.site == site).then_some(order)
}

impl NodeState {
    /// An order has come from a neighbour or from the coordinator. A bad one is dropped without a word against its bearer, who
    /// may know another root.
    pub(super) fn wan_limits_ordered(&mut self, from: DeviceId, bytes: SignedBytes<1024>) {
        let Some(order) = verified(&bytes, &self.trust, self.membership.site()) else { return };
        if self.wan_limits.0.as_ref().is_some_and(|(known, _)| known.issued >= order.issued) {
            return;
        }
        self.wan_limits.0 = Some((order, bytes.to_vec()));
        self.cx.persist(Record::WanLimits(bytes.to_vec()));
        let neighbours: Vec<_> = self.peers.members().map(|(device, _)| *device).filter(|peer| *peer != from).collect();
        let message = Message::WanLimits(bytes);
        neighbours.into_iter().for_each(|peer| self.send(peer, &message));
    }

    /// Shows the order to a neighbour that has just come: it may have been off.
    pub(super) fn show_wan_limits(&mut self, peer: DeviceId) {
        if let Some((_, bytes)) = &self.wan_limits.0 {
            let message = Message::WanLimits(Bounded::truncated(bytes.clone()));
            self.send(peer, &message);
        }
    }

    /// Payload bytes per second that this device may fetch over the WAN now by the coordinator's order: an equal share with every
    /// other machine of the site that says it fetches. `None`: nothing is ordered for now.
    pub fn wan_share(&self, now: Now) -> Option<u64> {
        let (rate, others) = self.wan_limit(now)?;
        Some((rate.bytes_per_s / (1 + others)).max(1))
    }

    /// Whether fetches over the WAN are to give way to everything else on the line. `None`: nothing is ordered.
    pub fn wan_yields(&self) -> Option<bool> {
        self.wan_limits.0.as_ref()?.0.yields
    }

    /// Other machines of the site that say that they fetch over the WAN.
    pub fn other_fetchers(&self, now: Now) -> usize {
        self.downloads.other_fetchers(now.mono)
    }

    /// The rate in force for the whole site, and how many other machines say that they fetch.
    fn wan_limit(&self, now: Now) -> Option<(&WanRate, u64)> {
        let (order, _) = self.wan_limits.0.as_ref()?;
        let zone = &self.cx.config.zone;
        let applies = |window| schedule::is_within(window, zone, now.wall);
        let rates = order.rates.iter().filter(|rate| rate.window.is_none_or(applies));
        let rate = rates.min_by_key(|rate| rate.bytes_per_s)?;
        Some((rate, self.downloads.other_fetchers(now.mono) as u64))
    }

    /// What a download over the WAN waits for, when an order holds it to a rate.
    pub(super) fn explain_wan_limit(&self, now: Now) -> Option<Sentence> {
        let (limit, others) = self.wan_limit(now)?;
        let hours = limit.window.map_or_else(String::new, |window| format!(" ({window})"));
        let share = rate(self.wan_share(now)?);
        let text = format!(
            "The site's WAN fetches are held to {} now{hours}; this device's share of that is {share}.",
            rate(limit.bytes_per_s)
        );
        let because = match others {
            0 => "upswarm limit, as the coordinator has ordered; no other machine of the site fetches now".to_owned(),
            1 => "upswarm limit, as the coordinator has ordered; 1 other machine of the site fetches now".to_owned(),
            _ => {
                format!("upswarm limit, as the coordinator has ordered; {others} other machines of the site fetch now")
            }
        };
        Some(Sentence::new(text, because))
    }
}
