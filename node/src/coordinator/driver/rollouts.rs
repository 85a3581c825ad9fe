//! What is to be said of rollouts to an admin, and when it is settled.

use upswarm_protocol::coordinator::AlarmKind;

use super::{Arc, Driver, View, admin};
use crate::coordinator::store::alarms::Alarm;

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
}
