//! When the core wants to be called next, and why: one time for each reason, kept in the order of time.
//!
//! Setting, moving and removing a timer costs O(log n), and the next one is at the front: nothing scans. The timers know no
//! clock and act on nothing; the router asks for what is due.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{DeviceId, PayloadId, ReleaseId};
use crate::time::Mono;

/// Why a timeout was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A peer must have said hello by now.
    Hello(DeviceId),
    /// This node's presence record may have to be made anew.
    Presence,
    /// News of members is to be named to neighbours.
    Spread,
    /// Records that were asked for may not have come.
    Pull,
    /// Members that are not here may be gone.
    Members,
    /// A digest of the members is to be compared.
    Compare,
    /// The site is to hear who fetches and who holds.
    Claims,
    /// Neighbours may be missing.
    Dial,
    /// The connection to the coordinator may be missing or needless.
    Uplink,
    /// Documents are to be asked for.
    Documents,
    /// Leases of a payload are to be looked after.
    Lease(PayloadId),
    /// The site is to be told which extents this node fetches over the WAN.
    Wan,
    /// LAN peers may be asked again.
    Pump,
    /// New chunks are to be announced.
    Announce,
    /// Slow fetches are to be given up.
    Stalls,
    /// What is held back on battery or a metered link may have become urgent.
    Conditions,
    /// The machine may be to be restarted.
    Restart,
    /// A deployment may go on.
    Deployment(ReleaseId),
    /// Deployments are left over from an event that concerned many, or a branch cache may fetch more for its site.
    Deployments,
    /// A report is due.
    Report,
    /// Unacknowledged reports are to be sent again.
    Relay,
    /// The certificate is to be renewed.
    Renew,
    /// The inventory is to be told.
    Inventory,
    /// The scan's result is to be told.
    Scan,
    /// Pieces of a log may be lost.
    Log,
    /// A release is to be looked for.
    Probe,
}

/// Every timeout that is asked for. Bounded by its reasons: a few, and one for each peer, payload and deployment.
#[derive(Debug, Default)]
pub(super) struct Timers {
    at: BTreeMap<Reason, Mono>,
    /// The same by time; of several at one time, the first reason in the order of [`Reason`].
    queue: BTreeSet<(Mono, Reason)>,
}

impl Timers {
    /// Asks for a timeout at `at`, or earlier if one for this reason is already asked for.
    pub(super) fn earlier(&mut self, reason: Reason, at: Mono) {
        if self.at.get(&reason).is_none_or(|set| at < *set) {
            self.retime(reason, at);
        }
    }

    /// Asks for a timeout at `at` and at no other time.
    pub(super) fn retime(&mut self, reason: Reason, at: Mono) {
        if let Some(before) = self.at.insert(reason, at) {
            self.queue.remove(&(before, reason));
        }
        self.queue.insert((at, reason));
    }

    /// Asks for none any more.
    pub(super) fn remove(&mut self, reason: &Reason) {
        if let Some(at) = self.at.remove(reason) {
            self.queue.remove(&(at, *reason));
        }
    }

    /// Whether one is asked for.
    pub(super) fn is_set(&self, reason: &Reason) -> bool {
        self.at.contains_key(reason)
    }

    /// The next one.
    pub(super) fn next(&self) -> Option<(Mono, Reason)> {
        self.queue.first().copied()
    }

    /// Takes the first that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Mono) -> Option<Reason> {
        let (_, reason) = self.next().filter(|(at, _)| *at <= now)?;
        self.remove(&reason);
        Some(reason)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn release(number: u8) -> Reason {
        Reason::Deployment(ReleaseId([number; 32]))
    }

    #[test]
    fn one_time_for_each_reason_and_the_earliest_first() {
        let mut timers = Timers::default();
        timers.earlier(Reason::Pump, Mono(30));
        timers.earlier(Reason::Pump, Mono(40));
        timers.earlier(release(1), Mono(20));
        assert_eq!(timers.next(), Some((Mono(20), release(1))));
        timers.earlier(Reason::Pump, Mono(10));
        assert_eq!(timers.next(), Some((Mono(10), Reason::Pump)));
        timers.retime(Reason::Pump, Mono(50));
        assert_eq!(timers.pop_due(Mono(19)), None);
        assert_eq!(timers.pop_due(Mono(20)), Some(release(1)));
        assert!(timers.is_set(&Reason::Pump) && !timers.is_set(&release(1)));
        timers.remove(&Reason::Pump);
        assert_eq!((timers.next(), timers.pop_due(Mono(99))), (None, None));
    }

    /// What the timers must do, with a map that is scanned.
    #[derive(Default)]
    struct Naive(BTreeMap<Reason, Mono>);

    impl Naive {
        fn next(&self) -> Option<(Mono, Reason)> {
            self.0.iter().map(|(reason, at)| (*at, *reason)).min()
        }
    }

    proptest! {
        #[test]
        fn as_a_map_that_is_scanned(steps in prop::collection::vec((0_u8..4, 0_u8..12, 0_u64..50), 1..200)) {
            let (mut timers, mut naive) = (Timers::default(), Naive::default());
            for (step, which, at) in steps {
                let (reason, at) = (if which == 0 { Reason::Presence } else { release(which) }, Mono(at));
                match step {
                    0 => {
                        timers.earlier(reason, at);
                        let slot = naive.0.entry(reason).or_insert(at);
                        *slot = (*slot).min(at);
                    }
                    1 => {
                        timers.retime(reason, at);
                        naive.0.insert(reason, at);
                    }
                    2 => {
                        timers.remove(&reason);
                        naive.0.remove(&reason);
                    }
                    _ => {
                        let due = naive.next().filter(|(first, _)| *first <= at).map(|(_, reason)| reason);
                        naive.0.retain(|reason, _| Some(*reason) != due);
                        prop_assert_eq!(timers.pop_due(at), due);
                    }
                }
                prop_assert_eq!(timers.next(), naive.next());
                prop_assert_eq!(timers.at.len(), timers.queue.len());
                prop_assert_eq!(timers.is_set(&reason), naive.0.contains_key(&reason));
            }
        }
    }
}
