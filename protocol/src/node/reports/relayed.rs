//! Which neighbour brought which report of whom, so that the acknowledgement finds its way back. It never holds a report.
//!
//! Whose report it is, is the bearer's claim: room is shared out among bearers, and who brings the most gives way first.

use std::collections::BTreeMap;

use crate::ids::DeviceId;

/// Reports of others on their way through this node.
const MAX_RELAYED: usize = 1024;

/// Reports that wait for an acknowledgement from the coordinator.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    bearers: BTreeMap<(DeviceId, u64), (DeviceId, u64)>,
    /// By bearer in the order in which they came.
    order: BTreeMap<DeviceId, BTreeMap<u64, (DeviceId, u64)>>,
    next: u64,
}

impl Relayed {
    /// `bearer` has brought this report. The last one that did hears of it.
    pub(super) fn insert(&mut self, bearer: DeviceId, device: DeviceId, seq: u64) {
        self.take(device, seq);
        if self.bearers.len() >= MAX_RELAYED {
            self.make_room();
        }
        self.next += 1;
        self.bearers.insert((device, seq), (bearer, self.next));
        self.order.entry(bearer).or_default().insert(self.next, (device, seq));
    }

    /// Who has brought this report; it is forgotten.
    pub(super) fn take(&mut self, device: DeviceId, seq: u64) -> Option<DeviceId> {
        let (bearer, at) = self.bearers.remove(&(device, seq))?;
        if let Some(brought) = self.order.get_mut(&bearer) {
            brought.remove(&at);
            if brought.is_empty() {
                self.order.remove(&bearer);
            }
        }
        Some(bearer)
    }

    /// Bearers are neighbours, a few dozen: looking for the one that brought the most costs little.
    fn make_room(&mut self) {
        let most = self.order.values().max_by_key(|brought| brought.len());
        if let Some((device, seq)) = most.and_then(|brought| brought.values().next()).copied() {
            self.take(device, seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(seed: u8) -> DeviceId {
        DeviceId([seed; 32])
    }

    #[test]
    fn one_neighbour_cannot_push_out_what_others_brought() {
        for flooder in [0, 9] {
            let mut relayed = Relayed::default();
            for seq in 0..3 {
                relayed.insert(device(5), device(6), seq);
            }
            for seq in 0..10 * MAX_RELAYED as u64 {
                // Under many made-up names.
                relayed.insert(device(flooder), device((seq % 200) as u8 + 20), seq);
            }
            assert_eq!(relayed.bearers.len(), MAX_RELAYED);
            assert_eq!(relayed.order.values().map(BTreeMap::len).sum::<usize>(), MAX_RELAYED);
            for seq in 0..3 {
                assert_eq!(relayed.take(device(6), seq), Some(device(5)));
            }
            let last = 10 * MAX_RELAYED as u64 - 1;
            assert_eq!(relayed.take(device((last % 200) as u8 + 20), last), Some(device(flooder)), "the newest stays");
            assert!(!relayed.order.contains_key(&device(5)));
        }
    }
}
