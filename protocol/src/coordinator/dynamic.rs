//! Groups whose members follow from their inventories.
//!
//! A group is either of those that an admin puts machines into, or dynamic: then its members are exactly the machines that
//! fulfil its conditions. A machine that has told no inventory keeps the groups it has. Each change is a new assignment, by the
//! same way as an admin's; after a change of conditions they are signed a few at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::CoordinatorState;
use super::io::{Record, Refusal};
use crate::codec::{self, Bounded, Text};
use crate::ids::{DeviceId, GroupId};
use crate::inventory::{Conditions, MAX_CONDITIONS};
use crate::time::{Mono, Now, Wall};

/// The most dynamic groups.
pub const MAX_DYNAMIC: usize = 256;
/// Version of [`Record::Groups`].
const VERSION: u8 = 1;
const MAX_RECORD: usize = 4 << 20;
/// Groups of one device, as its assignment holds them.
const MAX_GROUPS: usize = 64;
/// Devices that are looked at in one step, and the pause between two.
const STEP: usize = 64;
const STEP_EVERY: Duration = Duration::from_millis(20);

/// The record.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    version: u8,
    groups: Bounded<(GroupId, Bounded<Text<600>, MAX_CONDITIONS>), MAX_DYNAMIC>,
}

/// Every dynamic group.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    groups: BTreeMap<GroupId, Conditions>,
    /// Devices whose groups are to be looked at.
    waiting: BTreeSet<DeviceId>,
    pub(super) due: Option<Mono>,
}

impl Dynamic {
    /// Damage is an error: without its conditions a group would lose its members.
    pub(super) fn restore(record: Option<&[u8]>) -> Result<Self, String> {
        let Some(record) = record else { return Ok(Self::default()) };
        let stored: Stored = codec::decode(record, MAX_RECORD).map_err(|error| error.to_string())?;
        if stored.version != VERSION {
            return Err(format!("version {} is not known", stored.version));
        }
        let mut dynamic = Self::default();
        for (group, texts) in stored.groups.into_vec() {
            let conditions = Conditions::parse(&texts.iter().map(|text| text.as_str()).collect::<Vec<_>>());
            dynamic.groups.insert(group, conditions.map_err(|error| error.to_string())?);
        }
        Ok(dynamic)
    }

    fn record(&self) -> Result<Record, String> {
        let texts = |conditions: &Conditions| Bounded::truncated(conditions.iter().map(|c| c.to_text()).collect());
        let groups = self.groups.iter().map(|(group, conditions)| (*group, texts(conditions))).collect();
        let stored = Stored { version: VERSION, groups: Bounded::truncated(groups) };
        codec::encode(&stored, MAX_RECORD).map(Record::Groups).map_err(|error| error.to_string())
    }
}

impl CoordinatorState {
    /// The conditions of every dynamic group.
    pub fn dynamic_groups(&self) -> &BTreeMap<GroupId, Conditions> {
        &self.dynamic.groups
    }

    /// Devices, not shut out, that fulfil these conditions.
    pub fn fulfilling(&self, conditions: &Conditions) -> BTreeSet<DeviceId> {
        let of_device = |device: &&DeviceId| {
            self.devices.contains_key(*device)
                && !self.documents.revoked.contains(*device)
                && self.inventories.of(device).is_some_and(|held| conditions.hold(&held.inventory))
        };
        self.inventories().map(|(device, _)| device).filter(of_device).copied().collect()
    }

    /// Makes a group dynamic, or gives it other conditions. A group that an admin has put machines into stays as it is.
    pub(super) fn condition(&mut self, group: GroupId, conditions: Conditions, now: Now) -> Result<(), Refusal> {
        let known = self.dynamic.groups.contains_key(&group);
        if !known && self.devices.values().any(|device| device.record.groups.contains(&group)) {
            let reason = "machines were put into this group by hand; make another group for the conditions";
            return Err(Refusal::Request(reason.to_owned()));
        }
        if !known && self.dynamic.groups.len() >= MAX_DYNAMIC {
            return Err(Refusal::Full("the table of dynamic groups"));
        }
        if self.dynamic.groups.get(&group) == Some(&conditions) {
            return Ok(());
        }
        let before = self.dynamic.groups.insert(group, conditions);
        match self.dynamic.record() {
            Ok(record) => self.persist(record),
            Err(reason) => {
                match before {
                    Some(before) => self.dynamic.groups.insert(group, before),
                    None => self.dynamic.groups.remove(&group),
                };
                return Err(Refusal::Request(reason));
            }
        }
        self.regroup_all(now);
        Ok(())
    }

    /// Every device is looked at, soon.
    pub(super) fn regroup_all(&mut self, now: Now) {
        self.dynamic.waiting = self.devices.keys().copied().collect();
        self.dynamic.due = Some(now.mono);
    }

    /// Looks at some of the devices that wait for it.
    pub(super) fn regroup_some(&mut self, now: Now) {
        self.dynamic.due = None;
        for _ in 0..STEP {
            if self.is_behind() {
                break;
            }
            let Some(device) = self.dynamic.waiting.pop_first() else { return };
            self.regroup(device, now);
        }
        if !self.dynamic.waiting.is_empty() {
            self.dynamic.due = Some(now.mono + STEP_EVERY);
        }
    }

    /// Puts a device into the dynamic groups whose conditions it fulfils, and takes it out of the others.
    pub(super) fn regroup(&mut self, device: DeviceId, now: Now) {
        if self.dynamic.groups.is_empty() || self.documents.revoked.contains(&device) {
            return;
        }
        let (Some(known), Some(held)) = (self.devices.get(&device), self.inventories.of(&device)) else { return };
        // Whatever an older copy of this directory does not know must not be lost: the device shows it.
        if known.record.assigned == Wall::default() {
            return;
        }
        let before: BTreeSet<GroupId> = known.record.groups.iter().copied().collect();
        let fixed = before.iter().filter(|group| !self.dynamic.groups.contains_key(*group)).copied();
        let fulfils = self.dynamic.groups.iter().filter(|(_, conditions)| conditions.hold(&held.inventory));
        let after: BTreeSet<GroupId> = fixed.chain(fulfils.map(|(group, _)| *group)).collect();
        if after == before {
            return;
        }
        if after.len() > MAX_GROUPS {
            let what =
                format!("{device} would belong to {} groups, more than {MAX_GROUPS}: it stays as it is", after.len());
            return self.alarm(what);
        }
        if let Err(refusal) = self.assign(device, Bounded::truncated(after.into_iter().collect()), now) {
            self.alarm(format!("the groups of {device} cannot be changed: {refusal}"));
        }
    }
}
