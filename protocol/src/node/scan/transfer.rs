//! Uplink the coordinator what is installed and what is missing.
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
use crate::node::{NodeState, Reason, Record};
use crate::report::{DeviceMessage, InventoryReport, MAX_SCAN_PART, MAX_SCAN_PARTS, ScanReport, Trouble};
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
pub(super) struct Uplink {
    /// What it last said that it holds; nothing before its first word in this run.
    held: Option<DocHash>,
    /// Newest last.
    bases: VecDeque<(DocHash, Arc<Inventory>)>,
    transfer: Option<InventoryTransfer>,
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

/// An inventory on its transfer.
#[derive(Debug)]
struct InventoryTransfer {
    base: DocHash,
    result: DocHash,
    to: Arc<Inventory>,
    parts: Vec<InventoryPart>,
    waiting: VecDeque<usize>,
    sent: BTreeMap<u64, usize>,
    moved: Mono,
}

/// A scan report on its transfer.
#[derive(Debug)]
struct Sent {
    digest: DocHash,
    waiting: BTreeSet<u64>,
    since: Mono,
}

impl Uplink {
    pub(super) fn restore(record: Option<&[u8]>) -> Self {
        let mut state = Self { scan_pace: SCAN_EVERY.0, ..Self::default() };
        let kept = record.and_then(|bytes| codec::decode::<Kept>(bytes, MAX_STORED).ok());
        if let Some(kept) = kept.filter(|kept| kept.version == VERSION)
            && let Ok(inventory) = Inventory::restored(kept.inventory)
        {
            state.bases.push_back((inventory.digest(), Arc::new(inventory)));
            state.scan = kept.scan;
        }
        state
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
        SETTLE + self.cx.rng.jitter(SPREAD + SPREAD_PER_MEMBER * self.membership.size() as u32)
    }

    /// There is an inventory that the coordinator may not hold.
    pub(in crate::node) fn inventory_changed(&mut self, now: Now) {
        self.scan.uplink.too_large = false;
        let at = (now.mono + self.settle()).max(self.scan.uplink.next);
        self.timer(Reason::Inventory, at);
    }

    /// The coordinator has taken a message, and says which inventory it holds.
    pub(in crate::node) fn inventory_held(&mut self, seq: u64, held: DocHash, now: Now) {
        let current = self.scan.now.clone();
        let state = &mut self.scan.uplink;
        let first = state.held.replace(held) != Some(held);
        let mut news = false;
        let mut moves = false;
        if let Some(transfer) = &mut state.transfer {
            moves = transfer.sent.remove(&seq).is_some();
            if moves {
                transfer.moved = now.mono;
            }
            if transfer.result == held {
                let (digest, to) = (transfer.result, transfer.to.clone());
                state.transfer = None;
                state.failures = 0;
                state.keep(digest, to);
                (news, moves) = (true, true);
            } else if transfer.base != held && transfer.base != crate::inventory::empty() {
                // It starts from what the coordinator does not hold.
                state.transfer = None;
            }
        }
        if let Some((inventory, digest)) = current.filter(|(_, digest)| *digest == held) {
            news |= state.base(&digest).is_none();
            state.keep(digest, inventory);
        }
        if first && state.base(&held).is_none() {
            // It has forgotten, or was never told: of the scan it knows nothing either.
            state.scan = DocHash::default();
            state.scan_sent = None;
        }
        if let Some(sent) = &mut state.scan_sent {
            sent.waiting.remove(&seq);
            if sent.waiting.is_empty() {
                state.scan = sent.digest;
                state.scan_sent = None;
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
            self.report_inventory(now);
        } else if first {
            let at = (now.mono + self.settle()).max(self.scan.uplink.next);
            self.timer(Reason::Inventory, at);
        }
        if first || news {
            self.scan_due(now);
        }
    }

    fn keep_base(&mut self) {
        let Some((_, inventory)) = self.scan.uplink.bases.back() else { return };
        let Ok(inventory) = inventory.stored() else { return };
        let kept = Kept { version: VERSION, scan: self.scan.uplink.scan, inventory };
        if let Ok(bytes) = codec::encode(&kept, MAX_STORED) {
            self.cx.persist(Record::Inventory(bytes));
        }
    }

    /// Sends what comes next of the way from the inventory that the coordinator holds to the one of now.
    pub(in crate::node) fn report_inventory(&mut self, now: Now) {
        let (Some((current, digest)), Some(held)) = (self.scan.now.clone(), self.scan.uplink.held) else { return };
        if self.scan.uplink.transfer.is_none() {
            let state = &mut self.scan.uplink;
            if held == digest || state.too_large {
                return;
            }
            if state.next > now.mono {
                let at = state.next;
                return self.timer(Reason::Inventory, at);
            }
            state.next = now.mono + INVENTORY_EVERY;
            let delta = match state.base(&held) {
                Some(base) => InventoryDelta::between(base, &current),
                None => InventoryDelta::full(&current),
            };
            // What cannot be sent in full could never be mended.
            let parts = current.stored().and_then(|_| delta.parts());
            let parts = match parts {
                Ok(parts) => parts,
                Err(error) => {
                    state.too_large = true;
                    return self
                        .alarm(Trouble::Other, format!("the inventory cannot be told to the coordinator: {error}"));
                }
            };
            let waiting = (0..parts.len()).collect();
            let (base, result) = (delta.base, delta.result);
            let sent = BTreeMap::new();
            state.transfer =
                Some(InventoryTransfer { base, result, to: current, parts, waiting, sent, moved: now.mono });
        }
        self.go_on(now);
    }

    fn go_on(&mut self, now: Now) {
        let Some(mut transfer) = self.scan.uplink.transfer.take() else { return };
        if now.mono.since(transfer.moved) >= LOST_AFTER {
            let lost: Vec<u64> = transfer.sent.keys().copied().filter(|seq| !self.reports.is_waiting(*seq)).collect();
            transfer.waiting.extend(lost.into_iter().filter_map(|seq| transfer.sent.remove(&seq)));
            transfer.moved = now.mono;
        }
        if transfer.waiting.is_empty() && transfer.sent.is_empty() {
            // Everything was taken, and still it holds another: it was restarted, or could make nothing of it.
            let state = &mut self.scan.uplink;
            state.failures = state.failures.saturating_add(1);
            let wait = FAILED.0 * 2u32.saturating_pow(state.failures.min(10) - 1);
            state.next = now.mono + wait.min(FAILED.1);
            let at = state.next;
            return self.timer(Reason::Inventory, at);
        }
        let mut any = false;
        while transfer.sent.len() < WINDOW
            && let Some(at) = transfer.waiting.pop_front()
        {
            let Some(part) = transfer.parts.get(at).cloned() else { continue };
            let seq = self.next_report(now);
            transfer.sent.insert(seq, at);
            let told = InventoryReport { device: self.cx.me, seq, issued: now.wall, part };
            self.encrypt_report(DeviceMessage::Inventory(Box::new(told)));
            any = true;
        }
        self.scan.uplink.transfer = Some(transfer);
        if any {
            self.persist_counters();
        }
        self.timer(Reason::Inventory, now.mono + LOST_AFTER);
    }

    /// The scan's result may be another.
    pub(in crate::node) fn scan_changed(&mut self, now: Now) {
        self.scan.uplink.scan_since = now.mono;
        self.scan_due(now);
    }

    fn scan_due(&mut self, now: Now) {
        let at = (now.mono + self.settle()).max(self.scan.uplink.scan_next);
        self.timer(Reason::Scan, at);
    }

    /// Tells what is missing, if the coordinator does not know it.
    pub(in crate::node) fn report_scan(&mut self, now: Now) {
        // After the inventory: that it is held shows that nothing was forgotten there, the scan included.
        let knows = self.scan.uplink.held.is_some_and(|held| self.scan.uplink.base(&held).is_some());
        if self.scan.now.is_none() || !knows {
            return;
        }
        let (counts, states) = self.scan_result();
        let digest = scan_digest(&counts, &states);
        let looking = self.scan.is_looking();
        let state = &mut self.scan.uplink;
        if let Some(sent) = &state.scan_sent {
            let overdue = now.mono.since(sent.since) >= LOST_AFTER;
            let lost = overdue && sent.waiting.iter().any(|seq| !self.reports.is_waiting(*seq));
            if sent.digest == digest && !lost {
                return self.timer(Reason::Scan, now.mono + LOST_AFTER);
            }
        } else if state.scan == digest {
            return;
        }
        let wait = match (looking, state.scan_since + LOOK_WITHIN) {
            (true, until) if until > now.mono => until.max(state.scan_next),
            _ => state.scan_next,
        };
        if wait > now.mono {
            return self.timer(Reason::Scan, wait);
        }
        if now.mono.since(state.scan_next) > state.scan_pace * 4 {
            state.scan_pace = SCAN_EVERY.0;
        }
        state.scan_next = now.mono + state.scan_pace;
        state.scan_pace = (state.scan_pace * 2).min(SCAN_EVERY.1);
        state.scan_issued = now.wall.max(state.scan_issued + Duration::from_millis(1));
        let issued = state.scan_issued;
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
            let told = ScanReport { device: self.cx.me, seq, issued, index_version, counts, part, parts, states };
            self.encrypt_report(DeviceMessage::Scan(Box::new(told)));
        }
        self.scan.uplink.scan_sent = Some(Sent { digest, waiting, since: now.mono });
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

        let state = Uplink::restore(Some(&bytes));
        assert!(state.base(&digest).is_some() && state.scan == DocHash([7; 32]));
        for damaged in [&bytes[..bytes.len() - 1], &[], &[&[9][..], &bytes[1..]].concat()] {
            assert!(Uplink::restore(Some(damaged)).bases.is_empty());
        }
    }
}
