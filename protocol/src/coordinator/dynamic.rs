//! Groups whose members follow from what an approver signed: a rule over inventories, or a list.
//!
//! A group is either of those that an admin puts machines into, or it has a document with a rule or a list: then its members are
//! exactly the machines that fulfil it or stand in it. A machine that has told no inventory keeps the groups with rules that it has.
//! Each change is a new assignment, by the same way as an admin's; after a change of a document they are signed a few at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::CoordinatorState;
use super::documents::Documents;
use super::io::{Record, Refusal};
use super::pages::PublishedGroup;
use crate::catalog::{DeviceList, GroupDocument, ListTree, ListWay, MAX_LISTED, MAX_WAYS, Members};
use crate::codec::{self, Bounded};
use crate::ids::{DeviceId, GroupId};
use crate::inventory::{Conditions, SharedInventory};
use crate::time::{Mono, Now, Wall};
use crate::trust::{Opened, open_group};

/// The most groups with a rule, and the most with a list.
pub const MAX_DYNAMIC: usize = 256;
/// Version of [`Record::Groups`].
const VERSION: u8 = 2;
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
    /// Of the group that was described last also the list of before: the power may go before the index names the new document.
    lists: Bounded<(GroupId, DeviceList), { MAX_DYNAMIC + 1 }>,
}

/// Every group with a rule or a list.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    rules: BTreeMap<GroupId, Conditions>,
    lists: BTreeMap<GroupId, ListTree>,
    /// Devices whose groups are to be looked at.
    waiting: BTreeSet<DeviceId>,
    pub(super) due: Option<Mono>,
}

impl Dynamic {
    /// From the documents of the catalog and the lists of those that have one. Damage is an error: without its list a group would
    /// lose its members.
    pub(super) fn restore(record: Option<&[u8]>, documents: &Documents) -> Result<Self, String> {
        let stored: Stored = match record {
            Some(record) => codec::decode(record, MAX_RECORD).map_err(|error| error.to_string())?,
            None => Stored { version: VERSION, ..Stored::default() },
        };
        if stored.version != VERSION {
            return Err(format!("version {} is not known", stored.version));
        }
        let mut lists: Vec<_> = stored.lists.into_vec().into_iter().map(|(group, list)| (group, list.tree())).collect();
        let mut dynamic = Self::default();
        for (group, known) in &documents.groups {
            match &known.document.members {
                Members::Listed => {}
                Members::Rule(texts) => {
                    dynamic.rules.insert(*group, Conditions::parse(texts).map_err(|error| error.to_string())?);
                }
                Members::List(root) => {
                    let at = lists.iter().position(|(of, tree)| of == group && tree.root() == *root);
                    let tree = at.map(|at| lists.swap_remove(at).1);
                    let lost =
                        || format!("the list of the group {:?} is not the one that was signed", known.document.name);
                    dynamic.lists.insert(*group, tree.ok_or_else(lost)?);
                }
            }
        }
        Ok(dynamic)
    }

    /// The record; `former` is the list that a group had until now.
    fn record(&self, former: Option<(GroupId, ListTree)>) -> Result<Record, String> {
        let former = former.iter().map(|(group, tree)| (group, tree));
        let lists = self.lists.iter().chain(former).map(|(group, tree)| (*group, tree.list().clone())).collect();
        let stored = Stored { version: VERSION, lists: Bounded::truncated(lists) };
        codec::encode(&stored, MAX_RECORD).map(Record::Groups).map_err(|error| error.to_string())
    }

    pub(super) fn has_any(&self) -> bool {
        !self.rules.is_empty() || !self.lists.is_empty()
    }

    /// After a new root: a group that nobody vouches for any more keeps the members that it has until it is described anew.
    pub(super) fn count_again(&mut self, documents: &Documents) {
        self.rules.retain(|group, _| documents.groups.contains_key(group));
        self.lists.retain(|group, _| documents.groups.contains_key(group));
    }

    /// Whether the members of this group follow from a document.
    pub(super) fn follows(&self, group: &GroupId) -> bool {
        self.rules.contains_key(group) || self.lists.contains_key(group)
    }

    /// How a device shows that it is in the lists of these groups.
    pub(super) fn ways_of(&self, device: &DeviceId, groups: &[GroupId]) -> Bounded<ListWay, MAX_WAYS> {
        let ways = groups.iter().filter_map(|group| self.lists.get(group)?.way(*group, device));
        Bounded::truncated(ways.take(MAX_WAYS).collect())
    }

    /// The groups among these rules and lists that a device belongs to. Without an inventory those of `before` stay that have rules.
    fn of_device(
        &self,
        device: &DeviceId,
        inventory: Option<&SharedInventory>,
        before: &BTreeSet<GroupId>,
    ) -> BTreeSet<GroupId> {
        let fulfils = |(group, conditions): (&GroupId, &Conditions)| {
            inventory.map_or_else(|| before.contains(group), |inventory| conditions.hold(inventory)).then_some(*group)
        };
        let listed =
            |(group, tree): (&GroupId, &ListTree)| tree.list().devices.binary_search(device).is_ok().then_some(*group);
        self.rules.iter().filter_map(fulfils).chain(self.lists.iter().filter_map(listed)).collect()
    }
}

impl CoordinatorState {
    /// The conditions of every group with a rule.
    pub fn dynamic_groups(&self) -> &BTreeMap<GroupId, Conditions> {
        &self.dynamic.rules
    }

    /// Whether a group's members follow from what approvers have signed about it.
    pub fn follows(&self, group: &GroupId) -> bool {
        self.dynamic.follows(group)
    }

    /// The devices of every group with a list.
    pub fn listed_groups(&self) -> impl Iterator<Item = (&GroupId, &DeviceList)> {
        self.dynamic.lists.iter().map(|(group, tree)| (group, tree.list()))
    }

    /// Every group that approvers have described.
    pub fn group_documents(&self) -> impl Iterator<Item = &PublishedGroup> {
        self.documents.groups.values()
    }

    /// What a group is, as far as approvers have signed that.
    pub fn group_document(&self, group: &GroupId) -> Option<&GroupDocument> {
        self.documents.groups.get(group).map(|known| &known.document)
    }

    /// Devices, not shut out, that fulfil these conditions.
    pub fn fulfilling(&self, conditions: &Conditions) -> BTreeSet<DeviceId> {
        let of_device = |device: &&DeviceId| {
            self.devices.contains_key(*device)
                && !self.documents.revoked.contains(*device)
                && self.inventories.of(device).is_some_and(|held| conditions.hold(&*held.inventory))
        };
        self.inventories().map(|(device, _)| device).filter(of_device).copied().collect()
    }

    /// Takes what approvers have signed about a group. Returns whether that is a change.
    pub(super) fn describe(&mut self, bytes: Vec<u8>, list: Option<DeviceList>, now: Now) -> Result<bool, Refusal> {
        let refuse = |reason: String| Err(Refusal::Content(reason));
        let Opened { value: document, signers, .. } = open_group(&self.root, &bytes)?;
        let group = document.group;
        let (mut rule, mut tree) = (None, None);
        match &document.members {
            Members::Listed => {}
            Members::Rule(texts) => match Conditions::parse(texts) {
                Ok(conditions) => rule = Some(conditions),
                Err(error) => return refuse(error.to_string()),
            },
            Members::List(root) => {
                let given = list.filter(DeviceList::is_ordered).map(|list| list.tree());
                let Some(given) = given.filter(|given| given.root() == *root) else {
                    return refuse("the list that comes with it is not the one that was signed".to_owned());
                };
                let others = self.dynamic.lists.iter().filter(|(other, _)| **other != group);
                let listed: usize = others.map(|(_, tree)| tree.list().devices.len()).sum();
                if listed + given.list().devices.len() > MAX_LISTED {
                    return Err(Refusal::Full("the lists of groups together"));
                }
                tree = Some(given);
            }
        }
        let by_hand = || self.devices.values().any(|device| device.record.groups.contains(&group));
        if rule.is_some() && !self.dynamic.follows(&group) && by_hand() {
            let reason = "machines were put into this group by hand; make another group for the conditions";
            return Err(Refusal::Request(reason.to_owned()));
        }
        let known = if rule.is_some() { self.dynamic.rules.len() } else { self.dynamic.lists.len() };
        if (rule.is_some() || tree.is_some()) && !self.dynamic.follows(&group) && known >= MAX_DYNAMIC {
            return Err(Refusal::Full("the table of groups with rules or lists"));
        }
        let changed = self.enter(|documents, _| documents.describe(document, signers, bytes))?;
        if !changed {
            return Ok(false);
        }
        let former = self.dynamic.lists.remove(&group).map(|tree| (group, tree));
        self.dynamic.rules.remove(&group);
        self.dynamic.rules.extend(rule.map(|rule| (group, rule)));
        let has_list = tree.is_some();
        self.dynamic.lists.extend(tree.map(|tree| (group, tree)));
        if former.is_some() || has_list {
            // Bounded above: it has room in the record.
            let record = self.dynamic.record(former).map_err(Refusal::Request)?;
            self.persist(record);
        }
        self.regroup_all(now);
        Ok(true)
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

    /// Puts a device into the groups whose rules it fulfils and in whose lists it is, and takes it out of the others that have such.
    pub(super) fn regroup(&mut self, device: DeviceId, now: Now) {
        if !self.dynamic.has_any() || self.documents.revoked.contains(&device) {
            return;
        }
        let Some(known) = self.devices.get(&device) else { return };
        // Whatever an older copy of this directory does not know must not be lost: the device shows it.
        if known.record.assigned == Wall::default() {
            return;
        }
        let before: BTreeSet<GroupId> = known.record.groups.iter().copied().collect();
        let fixed = before.iter().filter(|group| !self.dynamic.follows(group)).copied();
        let inventory = self.inventories.of(&device).map(|held| &*held.inventory);
        let after: BTreeSet<GroupId> = fixed.chain(self.dynamic.of_device(&device, inventory, &before)).collect();
        if after == before && !self.lacks_ways(&known.record) {
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
