//! What the machine runs on, and what follows from it. This is the whole rule:
//!
//! | the machine | its WAN weight | payload bytes on the LAN | installs |
//! | --- | --- | --- | --- |
//! | mains and cable | as configured | yes | yes |
//! | mains and Wi-Fi, or battery | 1 | yes | yes |
//! | battery below the floor | 0, or 1 for what is urgent | what is urgent | what is urgent |
//! | metered link | 0 | what is urgent | yes |
//!
//! *Urgent* is what an approval needs that is expedited, or whose deadline has passed on this device. A WAN weight that
//! node.toml names counts whatever the machine runs on. A branch cache is held back by none of this: its site relies on it.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeSet;

use serde::Serialize;

use super::{NodeState, Reason};
use crate::ids::PayloadId;
use crate::time::{Now, Wall};

/// A deadline that is far away is looked at again from time to time: the wall clock may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(900);

/// Where the power comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// The mains, or nothing tells otherwise.
    #[default]
    Mains,
    /// A battery that is being emptied.
    Battery {
        /// What is left of it.
        percent: u8,
    },
}

/// What the machine runs on now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Conditions {
    /// Where the power comes from.
    pub power: Power,
    /// Whether the way to the WAN begins with a radio.
    pub wireless: bool,
    /// Whether it is paid by volume.
    pub metered: bool,
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.power {
            Power::Mains => f.write_str("mains power, ")?,
            Power::Battery { percent } => write!(f, "battery ({percent} % left), ")?,
        }
        f.write_str(if self.metered { "metered " } else { "" })?;
        f.write_str(if self.wireless { "wireless link" } else { "wired link" })
    }
}

/// What the admin has said about machines on battery, on radio and about restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineRules {
    /// Whether the WAN weight follows the conditions. Else it is [`super::NodeConfig::wan_weight`] in all of them.
    pub wan_auto: bool,
    /// Percent of battery below which only what is urgent is done; 0 for never.
    pub battery_floor: u8,
    /// What the person at the machine has between the notice of a restart and the restart.
    pub restart_notice: Duration,
}

impl Default for MachineRules {
    fn default() -> Self {
        Self { wan_auto: true, battery_floor: 30, restart_notice: Duration::from_secs(15 * 60) }
    }
}

/// The conditions, and what is held back because of them.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) now: Conditions,
    /// While payload bytes are held back: those that are urgent, and move all the same.
    held: Option<BTreeSet<PayloadId>>,
    /// As it last was; nothing for as configured.
    weight: Option<u8>,
}

impl NodeState {
    /// The machine runs on something else now.
    pub(super) fn conditions(&mut self, conditions: Conditions, now: Now) {
        if self.standing.now != conditions {
            self.standing.now = conditions;
            self.follow_conditions(now);
            self.advance_all(now);
        }
    }

    /// Holds back, or lets go on, what the conditions say. To be called when they, the deployments or their urgency change.
    pub(super) fn follow_conditions(&mut self, now: Now) {
        let held = self.holds_bytes_back().then(|| self.urgent_payloads(now.wall));
        let changed = held != self.standing.held;
        self.standing.held = held;
        let weight = self.wan_weight();
        let was = self.standing.weight.replace(weight).unwrap_or(self.config.wan_weight);
        if changed || weight != was {
            self.bytes_held_back(changed, now);
            self.beacon_soon(now);
            self.candidates_changed(now);
        }
        if self.standing.held.is_some() || self.is_low() {
            let next = self.next_urgency(now.wall).map_or(LOOK_AGAIN, |at| at.since(now.wall).min(LOOK_AGAIN));
            self.timer(Reason::Conditions, now.mono + next.max(Duration::from_millis(20)));
        }
    }

    /// How willing this device is to fetch over the WAN, as its neighbours are told.
    pub(super) fn wan_weight(&self) -> u8 {
        let configured = self.config.wan_weight;
        let Conditions { power, wireless, metered } = self.standing.now;
        if !self.config.machine.wan_auto || self.is_cache() {
            configured
        } else if metered {
            0
        } else if self.is_low() {
            u8::from(self.standing.held.as_ref().is_some_and(|urgent| !urgent.is_empty())).min(configured)
        } else if wireless || power != Power::Mains {
            configured.min(1)
        } else {
            configured
        }
    }

    /// The same for one payload.
    pub(super) fn wan_weight_for(&self, payload: &PayloadId) -> u8 {
        let follows = self.config.machine.wan_auto && !self.is_cache();
        if follows && !self.may_move(payload) { 0 } else { self.wan_weight() }
    }

    /// Whether bytes of a payload may come and go.
    pub(super) fn may_move(&self, payload: &PayloadId) -> bool {
        self.standing.held.as_ref().is_none_or(|urgent| urgent.contains(payload))
    }

    /// Whether the battery is too low for an install that is not urgent.
    pub(super) fn is_low(&self) -> bool {
        let Power::Battery { percent } = self.standing.now.power else { return false };
        percent < self.config.machine.battery_floor && !self.is_cache()
    }

    pub(super) fn holds_bytes_back(&self) -> bool {
        self.is_low() || (self.standing.now.metered && !self.is_cache())
    }

    /// Why bytes or installs are held back, for people.
    pub(super) fn held_by(&self) -> String {
        match self.standing.now {
            Conditions { power: Power::Battery { percent }, .. } if self.is_low() => {
                let floor = self.config.machine.battery_floor;
                format!("on battery with {percent} % left, less than {floor} %")
            }
            Conditions { metered: true, .. } => "the link is metered".to_owned(),
            other => other.to_string(),
        }
    }

    fn urgent_payloads(&self, wall: Wall) -> BTreeSet<PayloadId> {
        let releases = self.urgent_releases(wall);
        let catalog = self.trust.catalog().releases();
        let own = releases.iter().filter_map(|id| catalog.get(id)).map(|found| found.release.clone());
        let back = releases.iter().filter_map(|id| self.goes_back_to(id)).map(|(_, back)| back);
        own.chain(back).flat_map(|release| release.payloads.iter().map(|p| p.id).collect::<Vec<_>>()).collect()
    }
}
