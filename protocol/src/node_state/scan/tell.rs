//! Telling the coordinator what is installed and what is missing.
//!
//! Every acknowledgement names the inventory that the coordinator holds of this device. From that one, if it is still
//! known here, a difference is sent; else everything. So whatever is lost, comes twice or out of order, and whichever side
//! forgets, the next acknowledgement says from where to go on. The inventory that is held there is kept on this disk too, so
//! that a restart costs a difference and no more.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::{self, Bounded};
use crate::evaluate::ScanState;
use crate::ids::{DocHash, ReleaseId};
use crate::inventory::{Inventory, InventoryDelta, InventoryPart, MAX_STORED, StoredParts};
use crate::node_state::{NodeState, Output, Reason, Record};
use crate::report::{InventoryReport, MAX_SCAN_PART, MAX_SCAN_PARTS, ScanReport, Told};
use crate::time::{Mono, Now, Wall};

/// Version of [`Record::Inventory`].
const VERSION: u8 = 1;
/// Parts of an inventory that wait for their acknowledgement at one time.
const WINDOW: usize = 8;
/// A message that is neither waiting nor acknowledged after this was pushed out of the outbox.
const LOST_AFTER: Duration = Duration::from_secs(20);
/// Changes are gathered for this long at least, and longer in a large site: all of it together stays a trickle.
const SETTLE: Duration = Duration::from_secs(1);
const SPREAD: Duration = Duration::from_secs(2);
const SPREAD_PER_MEMBER: Duration = Duration::from_millis(50);
/// From one difference to the next.
const INVENTORY_EVERY: Duration = Duration::from_secs(10);
/// From one scan report to the next: doubled with each that follows soon, up to the longer.
const SCAN_EVERY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// As long a scan that is not through all files is waited for.
const LOOK_WITHIN: Duration = Duration::from_secs(600);
/// What the coordinator took in full and still does not hold is tried again after this, doubled each time up to the longer.
const FAILED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1800));
/// Inventories that the coordinator may name: the one that it holds, and the one before, which a late acknowledgement names.
const BASES: usize = 2;

/// The record.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u8,
    scan: DocHash,
    inventory: StoredParts,
}

/// What the coordinator knows, as far as it is known here.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// What it last said that it holds; nothing before its first word in this run.
    held: Option<DocHash>,
    /// Newest last.
    bases: VecDeque<(DocHash, Arc<Inventory>)>,
    way: Option<Way>,
    next: Mono,
    failures: u32,
    too_large: bool,
    /// Digest of the scan result that it has taken; zeros for none.
    scan: DocHash,
    scan_sent: Option<Sent>,
    scan_issued: Wall,
    scan_next: Mono,
    scan_pace: Duration,
    scan_since: Mono,
}

/// An inventory on its way.
#[derive(Debug)]
struct Way {
    base: DocHash,
    result: DocHash,
    to: Arc<Inventory>,
    parts: Vec<InventoryPart>,
    waiting: VecDeque<usize>,
    sent: BTreeMap<u64, usize>,
    moved: Mono,
}

/// A scan report on its way.
#[derive(Debug)]
struct Sent {
    digest: DocHash,
    waiting: BTreeSet<u64>,
    since: Mono,
}

impl Telling {
    pub(super) fn restore(record: Option<&[u8]>) -> Self {
        let mut telling = Self { scan_pace: SCAN_EVERY.0, ..Self::default() };
        let kept = record.and_then(|bytes| codec::decode::<Kept>(bytes, MAX_STORED).ok());
        if let Some(kept) = kept.filter(|kept| kept.version == VERSION)
            && let Ok(inventory) = Inventory::restored(kept.inventory)
        {
            telling.bases.push_back((inventory.digest(), Arc::new(inventory)));
            telling.scan = kept.scan;
        }
        telling
    }

    fn base(&self, digest: &DocHash) -> Option<&Arc<Inventory>> {
        self.bases.iter().find(|(known, _)| known == digest).map(|(_, inventory)| inventory)
    }

    /// The coordinator holds this one.
    fn keep(&mut self, digest: DocHash, inventory: Arc<Inventory>) {
        self.bases.retain(|(known, _)| *known != digest);
        self.bases.push_back((digest, inventory));
        if self.bases.len() > BASES {
            self.bases.pop_front();
        }
    }
}

impl NodeState {
    fn settle(&mut self) -> Duration {
        SETTLE + self.rng.jitter(SPREAD + SPREAD_PER_MEMBER * self.membership.size() as u32)
    }

    /// There is an inventory that the coordinator may not hold.
    pub(in crate::node_state) fn inventory_changed(&mut self, now: Now) {
        self.scan.telling.too_large = false;
        let at = (now.mono + self.settle()).max(self.scan.telling.next);
        self.timer(Reason::Inventory, at);
    }

    /// The coordinator has taken a message, and says which inventory it holds.
    pub(in crate::node_state) fn inventory_held(&mut self, seq: u64, held: DocHash, now: Now) {
        let current = self.scan.now.clone();
        let telling = &mut self.scan.telling;
        let first = telling.held.replace(held) != Some(held);
        let mut news = false;
        let mut moves = false;
        if let Some(way) = &mut telling.way {
            moves = way.sent.remove(&seq).is_some();
            if moves {
                way.moved = now.mono;
            }
            if way.result == held {
                let (digest, to) = (way.result, way.to.clone());
                telling.way = None;
                telling.failures = 0;
                telling.keep(digest, to);
                (news, moves) = (true, true);
            } else if way.base != held && way.base != crate::inventory::empty() {
                // It starts from what the coordinator does not hold.
                telling.way = None;
            }
        }
        if let Some((inventory, digest)) = current.filter(|(_, digest)| *digest == held) {
            news |= telling.base(&digest).is_none();
            telling.keep(digest, inventory);
        }
        if first && telling.base(&held).is_none() {
            // It has forgotten, or was never told: of the scan it knows nothing either.
            telling.scan = DocHash::default();
            telling.scan_sent = None;
        }
        if let Some(sent) = &mut telling.scan_sent {
            sent.waiting.remove(&seq);
            if sent.waiting.is_empty() {
                telling.scan = sent.digest;
                telling.scan_sent = None;
                news = true;
            }
        }
        if news {
            self.keep_base();
        }
        if self.scan.now.is_none() {
            return;
        }
        if moves {
            self.tell_inventory(now);
        } else if first {
            let at = (now.mono + self.settle()).max(self.scan.telling.next);
            self.timer(Reason::Inventory, at);
        }
        if first || news {
            self.scan_due(now);
        }
    }

    fn keep_base(&mut self) {
        let Some((_, inventory)) = self.scan.telling.bases.back() else { return };
        let Ok(inventory) = inventory.stored() else { return };
        let kept = Kept { version: VERSION, scan: self.scan.telling.scan, inventory };
        if let Ok(bytes) = codec::encode(&kept, MAX_STORED) {
            self.persist(Record::Inventory(bytes));
        }
    }

    /// Sends what comes next of the way from the inventory that the coordinator holds to the one of now.
    pub(in crate::node_state) fn tell_inventory(&mut self, now: Now) {
        let (Some((current, digest)), Some(held)) = (self.scan.now.clone(), self.scan.telling.held) else { return };
        if self.scan.telling.way.is_none() {
            let telling = &mut self.scan.telling;
            if held == digest || telling.too_large {
                return;
            }
            if telling.next > now.mono {
                let at = telling.next;
                return self.timer(Reason::Inventory, at);
            }
            telling.next = now.mono + INVENTORY_EVERY;
            let delta = match telling.base(&held) {
                Some(base) => InventoryDelta::between(base, &current),
                None => InventoryDelta::full(&current),
            };
            // What cannot be sent in full could never be mended.
            let parts = current.stored().and_then(|_| delta.parts());
            let parts = match parts {
                Ok(parts) => parts,
                Err(error) => {
                    telling.too_large = true;
                    return self.alarm(format!("the inventory cannot be told to the coordinator: {error}"), now);
                }
            };
            let waiting = (0..parts.len()).collect();
            let (base, result) = (delta.base, delta.result);
            let sent = BTreeMap::new();
            telling.way = Some(Way { base, result, to: current, parts, waiting, sent, moved: now.mono });
        }
        self.go_on(now);
    }

    fn go_on(&mut self, now: Now) {
        let Some(mut way) = self.scan.telling.way.take() else { return };
        if now.mono.since(way.moved) >= LOST_AFTER {
            let lost: Vec<u64> = way.sent.keys().copied().filter(|seq| !self.reports.is_waiting(*seq)).collect();
            way.waiting.extend(lost.into_iter().filter_map(|seq| way.sent.remove(&seq)));
            way.moved = now.mono;
        }
        if way.waiting.is_empty() && way.sent.is_empty() {
            // Everything was taken, and still it holds another: it was restarted, or could make nothing of it.
            let telling = &mut self.scan.telling;
            telling.failures = telling.failures.saturating_add(1);
            let wait = FAILED.0 * 2u32.saturating_pow(telling.failures.min(10) - 1);
            telling.next = now.mono + wait.min(FAILED.1);
            let at = telling.next;
            return self.timer(Reason::Inventory, at);
        }
        let mut any = false;
        while way.sent.len() < WINDOW
            && let Some(at) = way.waiting.pop_front()
        {
            let Some(part) = way.parts.get(at).cloned() else { continue };
            let seq = self.next_report(now);
            way.sent.insert(seq, at);
            let told = InventoryReport { device: self.me, seq, issued: now.wall, part };
            self.seal(Told::Inventory(Box::new(told)));
            any = true;
        }
        self.scan.telling.way = Some(way);
        if any {
            self.persist_counters();
        }
        self.timer(Reason::Inventory, now.mono + LOST_AFTER);
    }

    /// The scan's result may be another.
    pub(in crate::node_state) fn scan_changed(&mut self, now: Now) {
        self.scan.telling.scan_since = now.mono;
        self.scan_due(now);
    }

    fn scan_due(&mut self, now: Now) {
        let at = (now.mono + self.settle()).max(self.scan.telling.scan_next);
        self.timer(Reason::Scan, at);
    }

    /// Tells what is missing, if the coordinator does not know it.
    pub(in crate::node_state) fn tell_scan(&mut self, now: Now) {
        // After the inventory: that it is held shows that nothing was forgotten there, the scan included.
        let knows = self.scan.telling.held.is_some_and(|held| self.scan.telling.base(&held).is_some());
        if self.scan.now.is_none() || !knows {
            return;
        }
        let (counts, states) = self.scan_result();
        let digest = scan_digest(&counts, &states);
        let looking = self.scan.is_looking();
        let telling = &mut self.scan.telling;
        if let Some(sent) = &telling.scan_sent {
            let overdue = now.mono.since(sent.since) >= LOST_AFTER;
            let lost = overdue && sent.waiting.iter().any(|seq| !self.reports.is_waiting(*seq));
            if sent.digest == digest && !lost {
                return self.timer(Reason::Scan, now.mono + LOST_AFTER);
            }
        } else if telling.scan == digest {
            return;
        }
        let wait = match (looking, telling.scan_since + LOOK_WITHIN) {
            (true, until) if until > now.mono => until.max(telling.scan_next),
            _ => telling.scan_next,
        };
        if wait > now.mono {
            return self.timer(Reason::Scan, wait);
        }
        if now.mono.since(telling.scan_next) > telling.scan_pace * 4 {
            telling.scan_pace = SCAN_EVERY.0;
        }
        telling.scan_next = now.mono + telling.scan_pace;
        telling.scan_pace = (telling.scan_pace * 2).min(SCAN_EVERY.1);
        telling.scan_issued = now.wall.max(telling.scan_issued + Duration::from_millis(1));
        let issued = telling.scan_issued;
        let mut pieces: Vec<Vec<_>> = states.chunks(MAX_SCAN_PART).map(<[_]>::to_vec).collect();
        pieces.truncate(usize::from(MAX_SCAN_PARTS));
        if pieces.is_empty() {
            pieces.push(Vec::new());
        }
        // At most `MAX_SCAN_PARTS`.
        let parts = pieces.len() as u8;
        let index_version = self.trust.catalog().index_version();
        let mut waiting = BTreeSet::new();
        for (part, states) in (0..parts).zip(pieces) {
            let seq = self.next_report(now);
            waiting.insert(seq);
            let states = Bounded::truncated(states);
            let told = ScanReport { device: self.me, seq, issued, index_version, counts, part, parts, states };
            self.seal(Told::Scan(Box::new(told)));
        }
        self.scan.telling.scan_sent = Some(Sent { digest, waiting, since: now.mono });
        self.persist_counters();
        self.timer(Reason::Scan, now.mono + LOST_AFTER);
    }

    /// Counts as in [`ScanReport::counts`], and the releases that matter in order of importance.
    fn scan_result(&self) -> ([u32; 4], Vec<(ReleaseId, ScanState)>) {
        let mut counts = [0u32; 4];
        let mut states = Vec::new();
        for (release, state) in self.scan.evaluator.states() {
            let at = match state {
                ScanState::Unknown => 0,
                ScanState::NotApplicable => 1,
                ScanState::Required => 2,
                ScanState::Installed => 3,
            };
            counts[at] += 1;
            if state != ScanState::NotApplicable {
                states.push((release, state));
            }
        }
        let rank = |state: &ScanState| match state {
            ScanState::Required => 0,
            ScanState::Installed => 1,
            ScanState::Unknown | ScanState::NotApplicable => 2,
        };
        states.sort_by_key(|(release, state)| (rank(state), *release));
        (counts, states)
    }

    fn seal(&mut self, told: Told) {
        let to = self.trust.root().report_key;
        self.output.push_back(Output::Seal { told, to });
    }
}

fn scan_digest(counts: &[u32; 4], states: &[(ReleaseId, ScanState)]) -> DocHash {
    let mut bytes = Vec::with_capacity(16 + states.len() * 33);
    counts.iter().for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()));
    for (release, state) in states {
        bytes.extend_from_slice(release.as_bytes());
        bytes.push(*state as u8);
    }
    DocHash::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Text;

    #[test]
    fn the_record_is_pinned_and_damage_is_as_none() {
        let mut inventory = Inventory::default();
        inventory.set_fact(Text::lossy("os.id"), Some(Text::lossy("debian"))).unwrap();
        let kept = Kept { version: VERSION, scan: DocHash([7; 32]), inventory: inventory.stored().unwrap() };
        let bytes = codec::encode(&kept, MAX_STORED).unwrap();
        // version | scan | parts
        let entries = b"\0\x04\0\x05os.id\x01\0\x06debian";
        let (seven, one) = ("07".repeat(32), "0100000000000000");
        let (empty, digest) = (crate::inventory::empty(), inventory.digest());
        let wanted = format!("01{seven}{one}{empty}{digest}000001001200000000000000{}", hex::encode(entries));
        assert_eq!(hex::encode(&bytes), wanted, "the record's format has changed: bump its version");

        let telling = Telling::restore(Some(&bytes));
        assert!(telling.base(&digest).is_some() && telling.scan == DocHash([7; 32]));
        for damaged in [&bytes[..bytes.len() - 1], &[], &[&[9][..], &bytes[1..]].concat()] {
            assert!(Telling::restore(Some(damaged)).bases.is_empty());
        }
    }
}
