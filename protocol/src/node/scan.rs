//! What this device is missing of the whole catalog, approved or not: judged change by change, with a look at files where the
//! inventory cannot tell.
//!
//! A release that is not approved here is only looked for, and commands of its rules are not run: a publisher's signature
//! alone runs nothing on a machine. Until it is approved its state is Unknown.

mod transfer;

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Detection, NodeState, Output, Reason};
use crate::catalog::Detect;
use crate::evaluate::{Evaluator, ScanState};
use crate::ids::{DocHash, ReleaseId};
use crate::inventory::{Inventory, InventoryDelta};
use crate::time::{Mono, Now};

/// Probes under way at one time.
const MAX_PROBES: usize = 2;
/// From one probe to the next, so that nobody at the machine notices.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// An answer is asked for again after this: others change files too.
const PROBE_AGAIN: Duration = Duration::from_secs(6 * 3600);
/// An answer that has not come by then is not waited for.
const PROBE_WITHIN: Duration = Duration::from_secs(20 * 60);

/// What is installed here, and what follows from it.
#[derive(Debug)]
pub(super) struct Scan {
    /// What was seen last, with its digest.
    now: Option<(Arc<Inventory>, DocHash)>,
    evaluator: Evaluator,
    probes: BTreeMap<ReleaseId, Probe>,
    next_probe: Mono,
    uplink: transfer::Uplink,
}

/// A release that must be looked for.
#[derive(Debug, Clone, Copy)]
struct Probe {
    due: Mono,
    /// Since when an answer is awaited.
    asked: Option<Mono>,
    /// Whether it was ever answered.
    answered: bool,
}

impl Scan {
    pub(super) fn restore(record: Option<&[u8]>) -> Self {
        Self {
            now: None,
            evaluator: Evaluator::default(),
            probes: BTreeMap::new(),
            next_probe: Mono(0),
            uplink: transfer::Uplink::restore(record),
        }
    }

    pub(super) fn inventory(&self) -> Option<&Inventory> {
        self.now.as_ref().map(|(inventory, _)| &**inventory)
    }

    /// Whether some release that can be looked for was not yet.
    fn is_looking(&self) -> bool {
        self.probes.values().any(|probe| !probe.answered)
    }
}

impl NodeState {
    /// The machine was looked at.
    pub(super) fn inventory_seen(&mut self, inventory: Arc<Inventory>, now: Now) {
        let changed = match self.scan.now.take() {
            None => {
                self.scan.now = Some((inventory.clone(), inventory.digest()));
                self.judge_catalog();
                self.scan.evaluator.states().map(|(release, _)| release).collect()
            }
            Some((before, digest)) => {
                let delta = InventoryDelta::between(&before, &inventory);
                if delta.is_empty() {
                    self.scan.now = Some((before, digest));
                    return;
                }
                self.scan.now = Some((inventory.clone(), delta.result));
                self.scan.evaluator.on_inventory_change(&delta, &inventory)
            }
        };
        self.plan_probes(now);
        self.inventory_changed(now);
        self.deployments.machine_changed(&mut self.cx);
        self.scan_changed(now);
        let doubtful: Vec<ReleaseId> = changed.into_iter().filter(|release| self.is_doubtful(release)).collect();
        doubtful.into_iter().for_each(|release| self.deployments.detect_again(release));
    }

    /// Another catalog is in force.
    pub(super) fn catalog_judged(&mut self, now: Now) {
        if self.scan.now.is_some() && self.judge_catalog() {
            self.plan_probes(now);
            self.scan_changed(now);
        }
    }

    /// Judges releases that came and forgets those that went. Returns whether any did.
    fn judge_catalog(&mut self) -> bool {
        let Some((inventory, _)) = &self.scan.now else { return false };
        let catalog = self.trust.catalog().releases();
        let evaluator = &mut self.scan.evaluator;
        let gone: Vec<ReleaseId> =
            evaluator.states().map(|(id, _)| id).filter(|id| !catalog.contains_key(id)).collect();
        // An id is a hash of what the release says: one that is known says the same as before.
        let new: Vec<_> = catalog.iter().filter(|(id, _)| evaluator.state(**id).is_none()).collect();
        let any = !gone.is_empty() || !new.is_empty();
        evaluator.on_catalog_change(new.into_iter().map(|(id, found)| (*id, &*found.release)), gone, inventory);
        any
    }

    /// What the inventory says of a release for certain is not what detection found last.
    fn is_doubtful(&self, release: &ReleaseId) -> bool {
        let found = match self.deployments.detection(release) {
            Some(Detection::Present) => ScanState::Installed,
            Some(Detection::Absent) => ScanState::Required,
            Some(Detection::NotApplicable(_)) => ScanState::NotApplicable,
            Some(Detection::Unknown(_)) | None => return false,
        };
        self.scan.evaluator.state(*release).is_some_and(|state| state != found)
    }

    fn plan_probes(&mut self, now: Now) {
        let releases = self.trust.catalog().releases();
        let runs_nothing = |id: &ReleaseId| {
            releases
                .get(id)
                .is_some_and(|found| !found.release.detect.iter().any(|rule| matches!(rule, Detect::Command { .. })))
        };
        let before = core::mem::take(&mut self.scan.probes);
        let wanted = self.scan.evaluator.needing_probe().filter(runs_nothing);
        let new = Probe { due: now.mono, asked: None, answered: false };
        self.scan.probes = wanted.map(|id| (id, before.get(&id).copied().unwrap_or(new))).collect();
        self.timer_probe(now);
    }

    fn timer_probe(&mut self, now: Now) {
        let waiting = self.scan.probes.values().filter(|probe| probe.asked.is_none());
        if let Some(due) = waiting.map(|probe| probe.due).min() {
            self.retime(Reason::Probe, due.max(self.scan.next_probe).max(now.mono));
        }
    }

    /// Looks for the release whose turn it is.
    pub(super) fn probe(&mut self, now: Now) {
        for probe in self.scan.probes.values_mut() {
            if probe.asked.is_some_and(|asked| now.mono.since(asked) >= PROBE_WITHIN) {
                *probe = Probe { due: now.mono + PROBE_AGAIN, asked: None, answered: true };
            }
        }
        self.scan.next_probe = now.mono + PROBE_EVERY;
        let under_way = self.scan.probes.values().filter(|probe| probe.asked.is_some()).count();
        let waiting = self.scan.probes.iter().filter(|(_, probe)| probe.asked.is_none() && probe.due <= now.mono);
        if let Some(release) = waiting.min_by_key(|(_, probe)| probe.due).map(|(release, _)| *release)
            && under_way < MAX_PROBES
        {
            // What is deployed here is looked for by its deployment.
            let deployed = self.deployments.looks_for(&release);
            let again = now.mono + PROBE_AGAIN + self.cx.rng.jitter(PROBE_AGAIN / 4);
            if let Some(probe) = self.scan.probes.get_mut(&release) {
                let asked = (!deployed).then_some(now.mono);
                *probe = Probe { due: again, asked, answered: probe.answered || deployed };
            }
            if !deployed {
                self.cx.out.push_back(Output::Detect { release });
            }
        } else if under_way >= MAX_PROBES {
            self.scan.next_probe = now.mono + Duration::from_secs(5);
        }
        self.timer_probe(now);
    }

    /// Detection has answered, for a deployment or for the scan.
    pub(super) fn detection_answered(&mut self, release: ReleaseId, found: Detection, now: Now) {
        let changed = self.scan.evaluator.probe_result(release, &found);
        let probe = self.scan.probes.get_mut(&release).filter(|probe| probe.asked.is_some());
        let for_scan = probe.is_some();
        if let Some(probe) = probe {
            (probe.asked, probe.answered) = (None, true);
            self.timer_probe(now);
        }
        if changed || (for_scan && !self.scan.is_looking()) {
            self.scan_changed(now);
        }
        if !for_scan {
            self.deployments.detected(release, found, &mut self.cx);
        }
    }

    /// A recipe has run: other versions of its product may be there now, or gone.
    pub(super) fn probe_product(&mut self, release: &ReleaseId, now: Now) {
        let releases = self.trust.catalog().releases();
        let Some(product) = releases.get(release).map(|found| found.release.product.clone()) else { return };
        for (other, probe) in &mut self.scan.probes {
            if releases.get(other).is_some_and(|found| found.release.product == product) {
                probe.due = now.mono;
            }
        }
        self.timer_probe(now);
    }

    /// Where this device stands with every release of the catalog; nothing before the first inventory.
    pub fn scan_states(&self) -> impl Iterator<Item = (ReleaseId, ScanState)> + '_ {
        self.scan.evaluator.states()
    }
}
