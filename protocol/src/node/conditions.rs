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

use super::{NodeConfig, NodeState, Reason};
use crate::catalog::NodeRole;
use crate::ids::PayloadId;
use crate::time::Now;

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
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) now: Conditions,
    rules: MachineRules,
    configured_weight: u8,
    is_cache: bool,
    /// While payload bytes are held back: those that are urgent, and move all the same.
    held: Option<BTreeSet<PayloadId>>,
    /// The WAN weight as neighbours were told.
    told_weight: u8,
}

impl Standing {
    pub(super) fn new(config: &NodeConfig) -> Self {
        Self {
            now: Conditions::default(),
            rules: config.machine,
            configured_weight: config.wan_weight,
            is_cache: false,
            held: None,
            told_weight: config.wan_weight,
        }
    }

    /// A branch cache works in all conditions.
    pub(super) fn set_role(&mut self, role: NodeRole) {
        self.is_cache = role == NodeRole::Cache;
    }

    /// How willing this device is to fetch over the WAN, as its neighbours are told.
    pub(super) fn wan_weight(&self) -> u8 {
        let configured = self.configured_weight;
        let Conditions { power, wireless, metered } = self.now;
        if !self.rules.wan_auto || self.is_cache {
            configured
        } else if metered {
            0
        } else if self.is_low() {
            u8::from(self.held.as_ref().is_some_and(|urgent| !urgent.is_empty())).min(configured)
        } else if wireless || power != Power::Mains {
            configured.min(1)
        } else {
            configured
        }
    }

    /// The same for one payload.
    pub(super) fn wan_weight_for(&self, payload: &PayloadId) -> u8 {
        let follows = self.rules.wan_auto && !self.is_cache;
        if follows && !self.may_move(payload) { 0 } else { self.wan_weight() }
    }

    /// Whether bytes of a payload may come and go.
    pub(super) fn may_move(&self, payload: &PayloadId) -> bool {
        self.held.as_ref().is_none_or(|urgent| urgent.contains(payload))
    }

    /// Whether the battery is too low for an install that is not urgent.
    pub(super) fn is_low(&self) -> bool {
        let Power::Battery { percent } = self.now.power else { return false };
        percent < self.rules.battery_floor && !self.is_cache
    }

    pub(super) fn holds_bytes_back(&self) -> bool {
        self.is_low() || (self.now.metered && !self.is_cache)
    }

    /// Why bytes or installs are held back, for people.
    pub(super) fn held_by(&self) -> String {
        match self.now {
            Conditions { power: Power::Battery { percent }, .. } if self.is_low() => {
                format!("on battery with {percent} % left, less than {} %", self.rules.battery_floor)
            }
            Conditions { metered: true, .. } => "the link is metered".to_owned(),
            other => other.to_string(),
        }
    }

    /// Holds back all payloads but these, or none. Returns whether other payloads may move now, and whether the WAN weight is
    /// another.
    fn hold(&mut self, held: Option<BTreeSet<PayloadId>>) -> (bool, bool) {
        let changed = held != self.held;
        self.held = held;
        let weight = self.wan_weight();
        (changed, core::mem::replace(&mut self.told_weight, weight) != weight)
    }
}

impl NodeState {
    /// The machine runs on something else now.
    pub(super) fn conditions(&mut self, conditions: Conditions, now: Now) {
        if self.standing.now != conditions {
            self.standing.now = conditions;
            self.follow_conditions(now);
            self.deployments.machine_changed(&mut self.cx);
            self.deployments.touch_all();
        }
    }

    /// Holds back, or lets go on, what the conditions say. To be called when they, the deployments or their urgency change.
    pub(super) fn follow_conditions(&mut self, now: Now) {
        let holds = self.standing.holds_bytes_back();
        let urgency = holds.then(|| self.deployments.urgency(&self.cx, self.view()));
        let (held, next) = urgency.map_or((None, None), |(held, next)| (Some(held), next));
        let (changed, other_weight) = self.standing.hold(held);
        if changed || other_weight {
            let view = downloads_view!(self);
            self.downloads.held_back(changed, &mut self.cx, view);
            self.presence_changed();
            let view = downloads_view!(self);
            self.downloads.all_stakes_changed(&mut self.cx, view);
        }
        if holds {
            let wait = next.map_or(LOOK_AGAIN, |at| at.since(now.wall).min(LOOK_AGAIN));
            self.cx.timer(Reason::Conditions, now.mono + wait.max(Duration::from_millis(20)));
        }
    }

    pub(super) fn wan_weight(&self) -> u8 {
        self.standing.wan_weight()
    }

    pub(super) fn wan_weight_for(&self, payload: &PayloadId) -> u8 {
        self.standing.wan_weight_for(payload)
    }

    pub(super) fn holds_bytes_back(&self) -> bool {
        self.standing.holds_bytes_back()
    }

    pub(super) fn held_by(&self) -> String {
        self.standing.held_by()
    }
}
