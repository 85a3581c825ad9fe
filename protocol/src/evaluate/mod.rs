//! Which releases a device needs: every release's rules against its inventory, kept up to date change by change.
//!
//! Rules are indexed by the package or fact they speak of, so that a change of one costs what depends on it and no more.
//! What only a look at the machine can tell (files, commands) stays [`ScanState::Unknown`] and needs a probe, whose answer
//! comes back by [`Evaluator::probe_result`]. An answer is kept until the next one: when to ask again is the caller's to know
//! (after an install, at every scan).
//!
//! A release is judged in this order; the first that decides counts:
//!
//! 1. platform: another operating system or processor, not applicable;
//! 2. applicability by packages and facts: any that does not hold, not applicable;
//! 3. detection by packages, if no applicability rule needs a probe: any that does not hold, required;
//! 4. rules that need a probe: what it found, or unknown;
//! 5. installed.

mod rules;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::catalog::{PackageKind, Release};
use crate::codec::Text;
use crate::ids::ReleaseId;
use crate::inventory::{FactName, Inventory, InventoryDelta, Name, SharedInventory};

use rules::{Cause, Rules, Subject};

/// What detection found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detection {
    /// Every rule holds: installed.
    Present,
    /// Concerns this device, and is not installed: required.
    Absent,
    /// Does not concern this device.
    NotApplicable(String),
    /// Could not be told.
    Unknown(String),
}

/// Where a device stands with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ScanState {
    /// Cannot be told, or not yet.
    Unknown,
    /// The release does not concern this device.
    NotApplicable,
    /// Concerns it, and is not installed.
    Required,
    /// Installed.
    Installed,
}

/// The state of every release on one device.
#[derive(Debug, Default)]
pub struct Evaluator {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_release: BTreeMap<ReleaseId, u32>,
    by_package: BTreeMap<PackageKind, BTreeMap<Name, BTreeSet<u32>>>,
    by_fact: BTreeMap<FactName, BTreeSet<u32>>,
}

#[derive(Debug)]
struct Slot {
    release: ReleaseId,
    rules: Rules,
    /// What the inventory says.
    cause: Cause,
    /// What the last probe said.
    probe: Option<Probe>,
}

/// The last answer of a probe.
#[derive(Debug)]
struct Probe {
    state: ScanState,
    reason: Text<200>,
}

/// One release, to be judged by what a device has told of itself: what only the device can look for stays unknown.
#[derive(Debug)]
pub struct Question(Rules);

impl Question {
    /// The question that a release asks.
    pub fn of(release: &Release) -> Self {
        Self(Rules::of(release))
    }

    /// Where a device with this inventory stands with it.
    pub fn state(&self, inventory: &SharedInventory) -> ScanState {
        self.0.judge(inventory).state()
    }
}

impl Evaluator {
    /// Judges every release of a catalog. The catalog's order does not matter; of two entries with one id the last counts.
    pub fn full<'a>(catalog: impl IntoIterator<Item = (ReleaseId, &'a Release)>, inventory: &Inventory) -> Self {
        let mut evaluator = Self::default();
        evaluator.on_catalog_change(catalog, [], inventory);
        evaluator
    }

    /// Judges what came and forgets what went. Returns the releases that are new or whose state changed, sorted.
    pub fn on_catalog_change<'a>(
        &mut self,
        added: impl IntoIterator<Item = (ReleaseId, &'a Release)>,
        removed: impl IntoIterator<Item = ReleaseId>,
        inventory: &Inventory,
    ) -> Vec<ReleaseId> {
        for release in removed {
            self.remove(release);
        }
        let mut changed = Vec::new();
        for (id, release) in added {
            self.remove(id);
            let rules = Rules::of(release);
            let at = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                // A catalog holds at most 65,536 documents.
                (self.slots.len() - 1) as u32
            });
            for subject in rules.subjects() {
                match subject {
                    Subject::Package(kind, name) => {
                        let names = self.by_package.entry(kind).or_default();
                        if let Some(users) = names.get_mut(name) {
                            users.insert(at);
                        } else {
                            names.insert(name.clone(), BTreeSet::from([at]));
                        }
                    }
                    Subject::Fact(name) => {
                        if let Some(users) = self.by_fact.get_mut(name) {
                            users.insert(at);
                        } else {
                            self.by_fact.insert(name.clone(), BTreeSet::from([at]));
                        }
                    }
                }
            }
            let cause = rules.judge(inventory);
            self.slots[at as usize] = Some(Slot { release: id, rules, cause, probe: None });
            self.by_release.insert(id, at);
            changed.push(id);
        }
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Judges what depends on what changed. `inventory` is the one after `delta`. Returns the releases whose state changed,
    /// sorted.
    pub fn on_inventory_change(&mut self, delta: &InventoryDelta, inventory: &Inventory) -> Vec<ReleaseId> {
        let mut touched = BTreeSet::new();
        for key in delta.packages.keys() {
            if let Some(users) = self.by_package.get(&key.kind).and_then(|names| names.get(&key.name)) {
                touched.extend(users.iter().copied());
            }
        }
        for name in delta.facts.keys() {
            if let Some(users) = self.by_fact.get(name) {
                touched.extend(users.iter().copied());
            }
        }
        let mut changed = Vec::new();
        for at in touched {
            let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_mut) else { continue };
            let before = slot.state();
            slot.cause = slot.rules.judge(inventory);
            if slot.state() != before {
                changed.push(slot.release);
            }
        }
        changed.sort_unstable();
        changed
    }

    /// Takes what a probe of the whole release found. Returns whether its state changed; `false` for a release that is not
    /// here.
    pub fn probe_result(&mut self, release: ReleaseId, found: &Detection) -> bool {
        let Some(slot) = self.slot_mut(release) else { return false };
        let before = slot.state();
        let (state, reason) = match found {
            Detection::Present => (ScanState::Installed, "every detection rule holds on this machine"),
            Detection::Absent => (ScanState::Required, "a detection rule does not hold on this machine"),
            Detection::NotApplicable(reason) => (ScanState::NotApplicable, reason.as_str()),
            Detection::Unknown(reason) => (ScanState::Unknown, reason.as_str()),
        };
        slot.probe = Some(Probe { state, reason: Text::lossy(reason) });
        slot.state() != before
    }

    /// The state of a release; `None` when it is not in the catalog.
    pub fn state(&self, release: ReleaseId) -> Option<ScanState> {
        self.slot(release).map(Slot::state)
    }

    /// The state of a release in a sentence, with the rule it rests on; `None` when it is not in the catalog. The inventory
    /// must be the one that was judged last.
    pub fn reason(&self, release: ReleaseId, inventory: &Inventory) -> Option<String> {
        let slot = self.slot(release)?;
        Some(match (&slot.cause, &slot.probe) {
            (Cause::NeedsProbe(_), Some(probe)) => probe.reason.to_string(),
            (cause, _) => slot.rules.explain(cause, inventory),
        })
    }

    /// Every release with its state, by id.
    pub fn states(&self) -> impl Iterator<Item = (ReleaseId, ScanState)> + '_ {
        self.by_release.keys().filter_map(|release| Some((*release, self.state(*release)?)))
    }

    /// Releases that the inventory alone does not decide, by id, whether or not a probe has answered before.
    pub fn needing_probe(&self) -> impl Iterator<Item = ReleaseId> + '_ {
        self.by_release
            .keys()
            .copied()
            .filter(|release| self.slot(*release).is_some_and(|slot| matches!(slot.cause, Cause::NeedsProbe(_))))
    }

    /// Number of releases.
    pub fn len(&self) -> usize {
        self.by_release.len()
    }

    /// Whether there is no release.
    pub fn is_empty(&self) -> bool {
        self.by_release.is_empty()
    }

    fn remove(&mut self, release: ReleaseId) {
        let Some(at) = self.by_release.remove(&release) else { return };
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::take) else { return };
        for subject in slot.rules.subjects() {
            match subject {
                Subject::Package(kind, name) => {
                    if let Some(names) = self.by_package.get_mut(&kind) {
                        forget(names, name, at);
                    }
                }
                Subject::Fact(name) => forget(&mut self.by_fact, name, at),
            }
        }
        self.free.push(at);
    }

    fn slot(&self, release: ReleaseId) -> Option<&Slot> {
        self.slots.get(*self.by_release.get(&release)? as usize)?.as_ref()
    }

    fn slot_mut(&mut self, release: ReleaseId) -> Option<&mut Slot> {
        self.slots.get_mut(*self.by_release.get(&release)? as usize)?.as_mut()
    }
}

impl Slot {
    fn state(&self) -> ScanState {
        match (&self.cause, &self.probe) {
            (Cause::NeedsProbe(_), Some(probe)) => probe.state,
            (cause, _) => cause.state(),
        }
    }
}

fn forget<K: Ord>(users: &mut BTreeMap<K, BTreeSet<u32>>, of: &K, at: u32) {
    if let Some(slots) = users.get_mut(of) {
        slots.remove(&at);
        if slots.is_empty() {
            users.remove(of);
        }
    }
}
