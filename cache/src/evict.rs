//! Which payloads make room for a new one. Pure: numbers in, names out.

use upswarm_protocol::ids::PayloadId;

/// A payload on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: PayloadId,
    /// Bytes that its removal frees.
    pub(crate) bytes: u64,
    /// Grows with every use.
    pub(crate) last_used: u64,
    /// Pinned, or being written.
    pub(crate) keep: bool,
}

/// The room there is, all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// What payloads may take together.
    pub(crate) quota: u64,
    /// What they take.
    pub(crate) used: u64,
    /// Free on the file system.
    pub(crate) free: u64,
    /// What must stay free.
    pub(crate) reserve: u64,
}

impl Room {
    /// Whether `need` bytes fit after `freed` bytes have been given back.
    fn fits(self, need: u64, freed: u64) -> bool {
        let within_quota = self.used.saturating_sub(freed).saturating_add(need) <= self.quota;
        within_quota && self.free.saturating_add(freed) >= need.saturating_add(self.reserve)
    }
}

/// The least recently used payloads, in that order, whose removal makes room for `need` bytes: as few of that order as
/// suffice. If even all of them would not, an error with the bytes that could be freed: then nothing is to be removed.
pub(crate) fn plan(room: Room, need: u64, payloads: impl Iterator<Item = Candidate>) -> Result<Vec<PayloadId>, u64> {
    if room.fits(need, 0) {
        return Ok(Vec::new());
    }
    let mut order: Vec<Candidate> = payloads.filter(|payload| !payload.keep).collect();
    order.sort_unstable_by_key(|payload| (payload.last_used, payload.id));
    let mut freed = 0;
    for (at, payload) in order.iter().enumerate() {
        freed += payload.bytes;
        if room.fits(need, freed) {
            return Ok(order[..=at].iter().map(|payload| payload.id).collect());
        }
    }
    Err(freed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Removes the oldest payload again and again until the new one fits, recounting everything each time.
    fn slow(room: Room, need: u64, payloads: &[Candidate]) -> Option<Vec<PayloadId>> {
        let mut left: BTreeMap<PayloadId, Candidate> = payloads.iter().map(|p| (p.id, *p)).collect();
        let mut gone = Vec::new();
        loop {
            let used: u64 = left.values().map(|p| p.bytes).sum();
            let free = room.free + (room.used - used);
            if used + need <= room.quota && free >= room.reserve + need {
                return Some(gone);
            }
            let oldest = left.values().filter(|p| !p.keep).min_by_key(|p| (p.last_used, p.id))?.id;
            left.remove(&oldest);
            gone.push(oldest);
        }
    }

    proptest! {
        #[test]
        fn it_removes_what_the_slow_model_removes(
            sizes in prop::collection::vec((1u64..100, 0u64..8, prop::bool::weighted(0.3)), 0..20),
            slack in 0u64..300, free in 0u64..300, reserve in 0u64..200, need in 1u64..400,
        ) {
            let payloads: Vec<Candidate> = sizes
                .iter()
                .enumerate()
                .map(|(at, &(bytes, last_used, keep))| {
                    Candidate { id: PayloadId([at as u8; 32]), bytes, last_used, keep }
                })
                .collect();
            let used = payloads.iter().map(|p| p.bytes).sum();
            let room = Room { quota: used + slack, used, free, reserve };
            let found = plan(room, need, payloads.iter().copied());
            prop_assert_eq!(found.clone().ok(), slow(room, need, &payloads));
            if let Err(freed) = found {
                let all: u64 = payloads.iter().filter(|p| !p.keep).map(|p| p.bytes).sum();
                prop_assert_eq!(freed, all);
            }
        }
    }
}
