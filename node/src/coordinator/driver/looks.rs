//! What the driver looks for from time to time: machines that see nobody, what will expire, rollouts that an admin should look at, and what
//! of all that is settled. What is wrong, the use-cases say.

use std::collections::BTreeSet;

use upswarm_protocol::coordinator::AlarmKind;
use upswarm_protocol::ids::DeviceId;

use super::{Arc, Driver, View, admin};
use crate::coordinator::store::alarms::{Alarm, Seen};

impl Driver {
    /// An alarm that nothing stands behind any more is not to be acknowledged by anybody.
    pub(super) fn look_for_rollouts(&mut self) {
        let (live, fleet) = (self.live(), self.store.snapshot());
        let still = admin::alarms::rollouts(&View::new(&live, &fleet), self.state.holds());
        still.iter().cloned().for_each(|seen| self.see(seen));
        self.ended(AlarmKind::Rollout, None, &still);
        let settled = |alarm: &&Alarm| alarm.kind == AlarmKind::Rollout && alarm.over && alarm.is_open();
        let settled: Vec<u64> = self.alarms.all().iter().filter(settled).map(|alarm| alarm.id).collect();
        // They are there: their numbers were read a moment ago.
        if !settled.is_empty()
            && Arc::make_mut(&mut self.alarms).acknowledge(Some(&settled), "nobody: it is settled").is_ok()
        {
            self.keep_alarms(true);
        }
    }

    /// Whoever is alone now and was at the last look: machines that start find each other within seconds.
    pub(super) fn look_for_the_alone(&mut self) {
        let (live, fleet) = (self.live(), self.store.snapshot());
        let seen = admin::alarms::alone(&View::new(&live, &fleet));
        let alone: BTreeSet<DeviceId> = seen.iter().filter_map(|seen| seen.device).collect();
        let before = std::mem::replace(&mut self.alone, alone);
        for device in before.iter().filter(|device| !self.alone.contains(*device)).copied().collect::<Vec<_>>() {
            self.ended(AlarmKind::Alone, Some(device), &[]);
        }
        let still = seen.into_iter().filter(|seen| seen.device.is_some_and(|device| before.contains(&device)));
        still.collect::<Vec<_>>().into_iter().for_each(|seen| self.see(seen));
    }

    pub(super) fn look_for_expiry(&mut self) {
        let seen = admin::alarms::expiries(&self.state, self.clock.now().wall);
        for record in self.state.devices().map(|record| record.device).collect::<Vec<_>>() {
            if self.alarms.concern(record) {
                let of_device: Vec<Seen> = seen.iter().filter(|seen| seen.device == Some(record)).cloned().collect();
                self.ended(AlarmKind::Expiry, Some(record), &of_device);
            }
        }
        let own: Vec<Seen> = seen.iter().filter(|seen| seen.device.is_none()).cloned().collect();
        self.ended(AlarmKind::Expiry, None, &own);
        seen.into_iter().for_each(|seen| self.see(seen));
    }
}
