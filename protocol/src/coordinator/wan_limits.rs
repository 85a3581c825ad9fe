//! How much of the WAN each site may use: the orders in force, and who hears of them. Machines keep them; nothing is slowed down here.

use std::collections::BTreeMap;

use super::CoordinatorState;
use super::io::{Record, Refusal};
use crate::codec::{self, Bounded};
use crate::envelope::{self, Kind, Role};
use crate::ids::{DeviceId, SiteId};
use crate::time::Wall;
use crate::wire::{MAX_WAN_RATES, Message, WanLimits, WanRate};

/// Sites with an order.
const MAX_SITES: usize = 1024;
const RECORD_LIMIT: usize = 512 << 10;

/// The last order for each site. One without rates stays: machines that were off when it was given have an older one.
#[derive(Debug, Default)]
pub(super) struct Orders(BTreeMap<SiteId, WanLimits>);

impl Orders {
    /// From the last [`Record::WanLimits`].
    pub(super) fn restore(record: Option<&[u8]>) -> Result<Self, codec::CodecError> {
        let Some(bytes) = record else { return Ok(Self::default()) };
        let orders: Bounded<WanLimits, MAX_SITES> = codec::decode(bytes, RECORD_LIMIT)?;
        Ok(Self(orders.into_vec().into_iter().map(|order| (order.site, order)).collect()))
    }
}

impl CoordinatorState {
    /// The last order for each site that has one; those without rates have been taken back.
    pub fn wan_limits(&self) -> impl Iterator<Item = &WanLimits> {
        self.wan_limits.0.values()
    }

    /// Orders it, and tells the machines of the site that are connected; each passes it on to its neighbours.
    pub(super) fn order_wan_limits(
        &mut self,
        site: SiteId,
        (rates, yields): (Bounded<WanRate, MAX_WAN_RATES>, Option<bool>),
        now: Wall,
    ) -> Result<(), Refusal> {
        if let Some(wrong) = rates.iter().find(|rate| rate.bytes_per_s == 0 || !is_sound(rate)) {
            return Err(Refusal::Content(format!(
                "a rate of {} bytes per second, or its window, cannot be meant",
                wrong.bytes_per_s
            )));
        }
        let known = self.wan_limits.0.get(&site);
        if known.is_none() && self.wan_limits.0.len() >= MAX_SITES {
            return Err(Refusal::Full("the table of limits"));
        }
        // Machines believe the later one, also when this clock was ahead for a while.
        let issued = known.map_or(now, |known| now.max(Wall(known.issued.0 + 1)));
        self.wan_limits.0.insert(site, WanLimits { site, issued, rates, yields });
        let orders: Bounded<WanLimits, MAX_SITES> = Bounded::truncated(self.wan_limits.0.values().cloned().collect());
        let bytes = codec::encode(&orders, RECORD_LIMIT).map_err(|error| Refusal::Content(error.to_string()))?;
        self.persist(Record::WanLimits(bytes));
        let peers: Vec<_> =
            self.peers.iter().filter(|(_, peer)| peer.is_of(&site)).map(|(device, _)| *device).collect();
        peers.into_iter().for_each(|peer| self.tell_wan_limits(peer, site));
        Ok(())
    }

    /// Tells one machine what is ordered for its site.
    pub(super) fn tell_wan_limits(&mut self, peer: DeviceId, site: SiteId) {
        let Some(order) = self.wan_limits.0.get(&site) else { return };
        match envelope::sign(Kind::WanLimits, Role::Online, order, &[&self.online]) {
            Ok(signed) => self.send(peer, &Message::WanLimits(Bounded::truncated(signed))),
            Err(error) => self.alarm(format!("the limits of a site cannot be signed: {error}")),
        }
    }
}

fn is_sound(rate: &WanRate) -> bool {
    rate.window.is_none_or(|window| (1..0x80).contains(&window.days.0) && window.start < 1440 && window.end <= 1440)
}
