//! What machines show of themselves when they connect: their clock, and which run of the program it is.
//!
//! Owns the comparison of clocks (one vote a site) and the proof that one identity runs on two machines: a run that comes back
//! after another one. It corrects nothing, and its alarms stop nothing; only the later run of a clone is asked to join anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::CoordinatorState;
use super::io::{AlarmKind, Output};
use crate::codec::Text;
use crate::ids::{DeviceId, SiteId};
use crate::time::{Mono, Now, Wall};
use crate::trust::CLOCK_TOLERANCE;
use crate::wire::Message;

/// What many machines show is judged once in this time.
const JUDGE_AFTER: Duration = Duration::from_secs(2);
/// Runs of one identity that are remembered.
const MAX_RUNS: usize = 8;
/// Milliseconds of a day.
const DAY: u64 = 86_400_000;

/// A difference of clocks: how much, and whether the other one is ahead of the coordinator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Apart {
    /// Milliseconds, positive for ahead.
    by: i64,
}

impl Apart {
    fn of(shown: Wall, own: Wall) -> Self {
        let millis = |wall: Wall| i64::try_from(wall.0).unwrap_or(i64::MAX);
        Self { by: millis(shown).saturating_sub(millis(own)) }
    }

    fn is_wrong(self) -> bool {
        self.by.unsigned_abs() > CLOCK_TOLERANCE.as_millis() as u64
    }

    fn words(self) -> String {
        let side = if self.by > 0 { "ahead of" } else { "behind" };
        format!("{} days {side}", (self.by.unsigned_abs() + DAY / 2) / DAY)
    }
}

#[derive(Debug)]
struct Run {
    id: u64,
    addresses: Vec<Text<128>>,
}

#[derive(Debug)]
struct Machine {
    apart: Apart,
    runs: VecDeque<Run>,
    /// The run that was asked to join anew.
    refused: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Shown {
    machines: BTreeMap<DeviceId, Machine>,
    /// Whose clock was told of; `None` is the coordinator.
    told: BTreeSet<Option<DeviceId>>,
    pub(super) due: Option<Mono>,
}

impl CoordinatorState {
    /// A member says what its clock shows, and names its run.
    pub(super) fn here(&mut self, peer: DeviceId, clock: Wall, run: u64, now: Now) {
        let apart = Apart::of(clock, now.wall);
        let addresses = self.devices.get(&peer).map(|device| device.addresses().to_vec()).unwrap_or_default();
        let machine =
            self.shown.machines.entry(peer).or_insert_with(|| Machine { apart, runs: VecDeque::new(), refused: None });
        machine.apart = apart;
        if apart.is_wrong() {
            // So that the machine can say whose clock differs from whose.
            self.send(peer, &Message::Here { clock: now.wall, run: 0 });
        }
        self.shown.due.get_or_insert(now.mono + JUDGE_AFTER);
        self.note_run(peer, run, addresses);
    }

    /// A machine that starts again never goes back to an earlier run: one that comes back is a second machine.
    fn note_run(&mut self, peer: DeviceId, run: u64, addresses: Vec<Text<128>>) {
        let Some(machine) = self.shown.machines.get_mut(&peer) else { return };
        if machine.refused == Some(run) {
            return self.ask_to_join_anew(peer);
        }
        if machine.runs.back().is_some_and(|last| last.id == run) {
            return;
        }
        // What was reported until now came from the run before.
        if let Some(last) = machine.runs.back_mut().filter(|_| !addresses.is_empty()) {
            last.addresses = addresses;
        }
        let Some(back) = machine.runs.iter().position(|known| known.id == run) else {
            machine.runs.push_back(Run { id: run, addresses: Vec::new() });
            if machine.runs.len() > MAX_RUNS {
                machine.runs.pop_front();
            }
            return;
        };
        let Some(later) = machine.runs.pop_back() else { return };
        machine.refused = Some(later.id);
        machine.runs.truncate(back + 1);
        let earlier = machine.runs.back().map(words).unwrap_or_default();
        let text = format!(
            "one identity runs on two machines at once: {earlier}, and later {}; the later one must join anew: upswarm node join \
             TOKEN --again",
            words(&later)
        );
        self.raise(AlarmKind::Clone, Some(peer), text);
    }

    fn ask_to_join_anew(&mut self, peer: DeviceId) {
        let reason = "this identity runs on another machine too (a copied disk or data directory): join anew with a new token, \
                      which keeps the payloads: upswarm node join TOKEN --again";
        self.refuse_and_leave(peer, reason);
    }

    /// Compares the clocks that were shown with the coordinator's. When most sites agree on another time, it is the odd one out.
    pub(super) fn judge_clocks(&mut self) {
        self.shown.due = None;
        let mut sites: BTreeMap<SiteId, Vec<(Apart, DeviceId)>> = BTreeMap::new();
        for (device, machine) in &self.shown.machines {
            if let Some(known) = self.devices.get(device) {
                sites.entry(known.record.site).or_default().push((machine.apart, *device));
            }
        }
        let mut votes: Vec<Apart> = sites
            .values_mut()
            .map(|site| {
                site.sort_unstable();
                site[site.len() / 2].0
            })
            .collect();
        votes.sort_unstable();
        let fleet = votes.get(votes.len() / 2).copied().unwrap_or(Apart { by: 0 });
        let agrees = |apart: Apart| Apart { by: apart.by.saturating_sub(fleet.by) };
        let agreeing = votes.iter().filter(|vote| !agrees(**vote).is_wrong()).count();
        let machines = self.shown.machines.len();
        // One machine against the coordinator tells nobody who is wrong; most sites, with two machines at least, do.
        let own = fleet.is_wrong() && 2 * agreeing > votes.len() && machines > 1;
        let mut wrong: BTreeMap<Option<DeviceId>, String> = BTreeMap::new();
        if own {
            let against = Apart { by: fleet.by.saturating_neg() };
            let text = format!(
                "this coordinator's clock is {} that of the machines at {agreeing} of {} sites: set it right",
                against.words(),
                votes.len()
            );
            wrong.insert(None, text);
        }
        for (apart, device) in sites.values().flatten() {
            let odd = if own { agrees(*apart) } else { *apart };
            if odd.is_wrong() && machines == 1 {
                wrong.insert(Some(*device), format!("this machine's clock is {} the coordinator's", odd.words()));
            } else if odd.is_wrong() {
                wrong.insert(Some(*device), format!("this machine's clock is {} the others", odd.words()));
            }
        }
        for over in self.shown.told.iter().filter(|whose| !wrong.contains_key(whose)).copied().collect::<Vec<_>>() {
            self.shown.told.remove(&over);
            self.outputs.push_back(Output::Over { kind: AlarmKind::Clock, device: over });
        }
        for (whose, text) in wrong {
            if self.shown.told.insert(whose) {
                self.raise(AlarmKind::Clock, whose, text);
            }
        }
    }

    /// What a machine showed that is no member any more.
    pub(super) fn forget_shown(&mut self, device: &DeviceId) {
        self.shown.machines.remove(device);
    }
}

fn words(run: &Run) -> String {
    let addresses: Vec<&str> = run.addresses.iter().map(|address| address.as_str()).collect();
    let at = if addresses.is_empty() { String::new() } else { format!(" at {}", addresses.join(", ")) };
    format!("run {:016x}{at}", run.id)
}
