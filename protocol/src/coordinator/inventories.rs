//! What is installed on the fleet's devices, and what each is missing, as they tell it.
//!
//! An inventory comes in parts, a difference from the one that is held here. Parts are only gathered in memory: what is lost by
//! a restart is told again, because acknowledgements name the inventory that is durable. Old differences do nothing: they start
//! from another inventory, and the numbers of their messages are below those of the last that counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::io::{Output, Record};
use super::{After, CoordinatorState};
use crate::codec::{self, Bounded};
use crate::evaluate::ScanState;
use crate::ids::{DeviceId, DocHash, ReleaseId};
use crate::inventory::{
    self, Assembler, Inventory, InventoryDelta, InventoryPart, MAX_STORED, SharedEntries, SharedInventory, StoredParts,
};
use crate::report::{InventoryReport, MAX_SCAN_PART, MAX_SCAN_PARTS, ScanReport};
use crate::time::{Mono, Now, Wall};

/// Version of [`Record::Inventory`] and [`Record::InventoryBase`].
const VERSION: u8 = 2;
/// That of whole inventories, which are still read.
const WHOLE: u8 = 1;
/// Version of [`Record::Scan`].
const SCAN_VERSION: u8 = 1;
/// Devices whose parts are gathered at one time, and bytes of them; others wait and send again.
const MAX_GATHERING: usize = 256;
const MAX_GATHERED: usize = 64 << 20;
/// Parts that are not followed by more for this long make room for others.
const GATHER_WITHIN: Duration = Duration::from_secs(60);
const MAX_STATES: usize = MAX_SCAN_PART * MAX_SCAN_PARTS as usize;
const MAX_SCAN_RECORD: usize = 64 << 10;

/// The record of an inventory: its difference from a base, which the parts name.
#[derive(Debug, Serialize, Deserialize)]
struct StoredInventory {
    version: u8,
    seq: u64,
    received: Wall,
    /// The beginning of the BLAKE3 of the encoded parts: digests are not computed anew for a whole fleet at a start.
    check: [u8; 8],
    parts: StoredParts,
}

/// The record of an inventory by itself.
#[derive(Debug, Deserialize)]
struct WholeInventory {
    version: u8,
    seq: u64,
    received: Wall,
    parts: StoredParts,
}

/// The record of a base: all of it.
#[derive(Debug, Serialize, Deserialize)]
struct StoredBase {
    version: u8,
    parts: StoredParts,
}

fn check(parts: &StoredParts) -> Option<[u8; 8]> {
    let bytes = codec::encode(parts, MAX_STORED).ok()?;
    blake3::hash(&bytes).as_bytes().first_chunk().copied()
}

/// The record of a scan.
#[derive(Debug, Serialize, Deserialize)]
struct StoredScan {
    version: u8,
    seq: u64,
    scan: DeviceScan,
}

/// A device's inventory. A clone shares what is installed.
#[derive(Debug, Clone)]
pub struct DeviceInventory {
    /// What is installed, and facts.
    pub inventory: Arc<SharedInventory>,
    /// Its digest.
    pub digest: DocHash,
    /// When it last changed here.
    pub received: Wall,
    seq: u64,
}

/// Where a device stands with the releases of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceScan {
    /// When the device evaluated it, by its clock.
    pub issued: Wall,
    /// When it came.
    pub received: Wall,
    /// Version of the index whose releases were looked at.
    pub index_version: u64,
    /// Releases in the state Unknown, NotApplicable, Required, Installed.
    pub counts: [u32; 4],
    /// Releases that are Required, Installed or Unknown, as far as the report had room for them; sorted by release.
    pub states: Bounded<(ReleaseId, ScanState), MAX_STATES>,
}

impl DeviceInventory {
    /// An inventory of this digest that came with message `seq`.
    pub fn new(inventory: Arc<SharedInventory>, digest: DocHash, seq: u64, received: Wall) -> Self {
        Self { inventory, digest, received, seq }
    }

    /// Its record: how it differs from its base. Nothing when it is too large for the disk.
    pub fn record(&self) -> Option<Vec<u8>> {
        let parts = self.inventory.over_base(self.digest).parts().ok()?;
        // No more than the bound, or there would be an error.
        let parts: StoredParts = Bounded::truncated(parts);
        let check = check(&parts)?;
        let stored = StoredInventory { version: VERSION, seq: self.seq, received: self.received, check, parts };
        codec::encode(&stored, MAX_STORED).ok()
    }

    /// The record of its base; nothing when it stands for itself.
    pub fn base_record(&self) -> Option<Vec<u8>> {
        let base = self.inventory.base();
        if base.is_empty() {
            return None;
        }
        let stored = StoredBase { version: VERSION, parts: base.to_inventory().stored().ok()? };
        codec::encode(&stored, MAX_STORED).ok()
    }
}

impl DeviceScan {
    /// What the device has said of a release by name; nothing of most of those that do not concern it.
    pub fn named(&self, release: &ReleaseId) -> Option<ScanState> {
        let at = self.states.binary_search_by_key(release, |(known, _)| *known).ok()?;
        Some(self.states[at].1)
    }

    /// Where the device stands with a release of its part of the catalog, which has so many. `None`: it has not said yet.
    pub fn state(&self, release: &ReleaseId, releases: usize) -> Option<ScanState> {
        if let Some(state) = self.named(release) {
            return Some(state);
        }
        let [unknown, not_applicable, required, installed] = self.counts.map(|count| count as usize);
        // A release more or less would be counted: then what is not named concerns the device as little as it says.
        let named = unknown + required + installed == self.states.len();
        (named && self.states.len() + not_applicable == releases).then_some(ScanState::NotApplicable)
    }
}

/// Everything that devices have told.
#[derive(Debug, Default)]
pub(super) struct Inventories {
    shared: SharedEntries,
    /// Bases that are on disk, or on their way there.
    stored_bases: BTreeSet<DocHash>,
    held: BTreeMap<DeviceId, DeviceInventory>,
    scans: BTreeMap<DeviceId, (u64, DeviceScan)>,
    gathering: BTreeMap<DeviceId, Gathering>,
    gathered: usize,
    scan_parts: BTreeMap<DeviceId, ScanParts>,
}

/// Parts of an inventory that is not complete.
#[derive(Debug)]
struct Gathering {
    base: DocHash,
    result: DocHash,
    parts: u16,
    /// The lowest and the highest number of the messages.
    seqs: (u64, u64),
    assembler: Assembler,
    bytes: usize,
    moved: Mono,
}

/// Parts of a scan that is not complete, each with who waits for its acknowledgement.
#[derive(Debug)]
struct ScanParts {
    issued: Wall,
    parts: BTreeMap<u8, (ScanReport, After)>,
    moved: Mono,
}

impl Inventories {
    /// Takes a stored base, before the inventories that name it. One that is damaged is left out: those inventories are told anew.
    pub(super) fn restore_base(&mut self, digest: DocHash, record: &[u8]) {
        let stored = codec::decode::<StoredBase>(record, MAX_STORED).ok().filter(|stored| stored.version == VERSION);
        let base = stored.and_then(|stored| Inventory::restored(stored.parts).ok());
        if let Some(base) = base.filter(|base| base.digest() == digest) {
            self.shared.put_base(&base);
        }
        // Known in any case, so that it is taken away when nothing needs it.
        self.stored_bases.insert(digest);
    }

    /// Takes stored records. Returns the digest; `None` when the record is damaged, which mends itself.
    pub(super) fn restore(&mut self, device: DeviceId, record: &[u8]) -> Option<DocHash> {
        if record.first() == Some(&WHOLE) {
            let whole: WholeInventory = codec::decode(record, MAX_STORED).ok()?;
            let inventory = Inventory::restored(whole.parts).ok().filter(|_| whole.version == WHOLE)?;
            let digest = inventory.digest();
            self.put(device, &inventory, digest, (whole.seq, whole.received));
            return Some(digest);
        }
        let stored: StoredInventory = codec::decode(record, MAX_STORED).ok()?;
        if stored.version != VERSION || check(&stored.parts) != Some(stored.check) {
            return None;
        }
        let mut assembler = Assembler::default();
        let mut parts = stored.parts.into_vec().into_iter();
        let delta = parts.find_map(|part| assembler.add(part).transpose())?.ok()?;
        let inventory = self.shared.put_over(&delta)?;
        self.hold(device, DeviceInventory::new(inventory, delta.result, stored.seq, stored.received));
        Some(delta.result)
    }

    /// Bases that nothing needs any more and that are on disk.
    pub(super) fn needless_bases(&mut self) -> Vec<DocHash> {
        self.shared.dropped_bases();
        let needed: BTreeSet<DocHash> = self.shared.digests().collect();
        let needless: Vec<DocHash> = self.stored_bases.difference(&needed).copied().collect();
        self.stored_bases.retain(|digest| needed.contains(digest));
        needless
    }

    /// Takes a stored record. Returns whether it was good.
    pub(super) fn restore_scan(&mut self, device: DeviceId, record: &[u8]) -> bool {
        let stored = codec::decode::<StoredScan>(record, MAX_SCAN_RECORD).ok();
        let stored = stored.filter(|stored| stored.version == SCAN_VERSION);
        let good = stored.is_some();
        self.scans.extend(stored.map(|stored| (device, (stored.seq, stored.scan))));
        good
    }

    pub(super) fn of(&self, device: &DeviceId) -> Option<&DeviceInventory> {
        self.held.get(device)
    }

    fn put(&mut self, device: DeviceId, inventory: &Inventory, digest: DocHash, told: (u64, Wall)) {
        let inventory = self.shared.put(inventory);
        self.hold(device, DeviceInventory::new(inventory, digest, told.0, told.1));
    }

    fn hold(&mut self, device: DeviceId, inventory: DeviceInventory) {
        let before = self.held.insert(device, inventory);
        if let Some(before) = before {
            self.shared.give_back(before.inventory);
        }
    }

    /// Takes a part that may be one of several. `Err` when there is no room for it now.
    fn gather(&mut self, device: DeviceId, seq: u64, part: InventoryPart, now: Mono) -> Result<Gathered, NoRoom> {
        if part.parts == 1 {
            return Ok(match Assembler::default().add(part) {
                Ok(Some(delta)) => Gathered::All(delta, (seq, seq)),
                _ => Gathered::Useless,
            });
        }
        let same = |g: &Gathering| (g.base, g.result, g.parts) == (part.base, part.result, part.parts);
        match self.gathering.get(&device) {
            Some(known) if same(known) => {}
            // A part of an earlier way that was given up.
            Some(known) if seq < known.seqs.0 => return Ok(Gathered::Useless),
            Some(_) => self.give_up(&device),
            None => {}
        }
        let bytes = part.entries.len();
        let full = !self.gathering.contains_key(&device) && self.gathering.len() >= MAX_GATHERING;
        if full || self.gathered + bytes > MAX_GATHERED {
            let silent = |g: &Gathering| now.since(g.moved) >= GATHER_WITHIN;
            let left = self.gathering.iter().find(|(other, g)| **other != device && silent(g)).map(|(other, _)| *other);
            self.give_up(&left.ok_or(NoRoom)?);
            if self.gathered + bytes > MAX_GATHERED {
                return Err(NoRoom);
            }
        }
        let new = || Gathering {
            base: part.base,
            result: part.result,
            parts: part.parts,
            seqs: (seq, seq),
            assembler: Assembler::default(),
            bytes: 0,
            moved: now,
        };
        let gathering = self.gathering.entry(device).or_insert_with(new);
        gathering.seqs = (gathering.seqs.0.min(seq), gathering.seqs.1.max(seq));
        gathering.moved = now;
        // A part that comes twice is counted twice: the bound holds all the same.
        gathering.bytes += bytes;
        self.gathered += bytes;
        let seqs = gathering.seqs;
        let found = gathering.assembler.add(part);
        if !matches!(found, Ok(None)) {
            self.give_up(&device);
        }
        Ok(match found {
            Ok(None) => Gathered::More,
            Ok(Some(delta)) => Gathered::All(delta, seqs),
            Err(_) => Gathered::Useless,
        })
    }

    fn give_up(&mut self, device: &DeviceId) {
        if let Some(gathering) = self.gathering.remove(device) {
            self.gathered -= gathering.bytes;
        }
    }
}

enum Gathered {
    More,
    All(InventoryDelta, (u64, u64)),
    Useless,
}

struct NoRoom;

impl CoordinatorState {
    /// What is installed on a device, if it has told.
    pub fn inventory(&self, device: &DeviceId) -> Option<&DeviceInventory> {
        self.inventories.of(device)
    }

    /// Every device that has told what is installed.
    pub fn inventories(&self) -> impl Iterator<Item = (&DeviceId, &DeviceInventory)> {
        self.inventories.held.iter()
    }

    /// What a device is missing, if it has told.
    pub fn scan(&self, device: &DeviceId) -> Option<&DeviceScan> {
        self.inventories.scans.get(device).map(|(_, scan)| scan)
    }

    /// The names of all facts that any device tells.
    pub fn fact_names(&self) -> Vec<String> {
        self.inventories.shared.fact_names().into_iter().map(|name| name.to_string()).collect()
    }

    pub(super) fn handle_inventory(&mut self, report: InventoryReport, acknowledge: After, now: Now) {
        let InventoryReport { device, seq, part, .. } = report;
        let held = self.inventories.held.get(&device).map(|held| (held.digest, held.seq));
        let (digest, last) = held.unwrap_or_default();
        let useful = part.base == inventory::empty() || (held.is_some() && part.base == digest);
        if seq <= last || (held.is_some() && part.result == digest) || !useful {
            // The acknowledgement says what is held; the device sees what to send.
            return self.when_durable(acknowledge);
        }
        // Reports of how devices are go first.
        let may = self.devices.get_mut(&device).is_some_and(|known| known.may_tell(now.mono));
        if !may || self.is_behind() {
            return;
        }
        let from = part.base;
        match self.inventories.gather(device, seq, part, now.mono) {
            Err(NoRoom) => {}
            Ok(Gathered::More | Gathered::Useless) => self.when_durable(acknowledge),
            Ok(Gathered::All(_, seqs)) if seqs.0 <= last => self.when_durable(acknowledge),
            Ok(Gathered::All(delta, seqs)) => {
                let mut inventory = match self.inventories.of(&device) {
                    Some(held) if from == held.digest => held.inventory.to_inventory(),
                    _ => Inventory::default(),
                };
                if inventory.apply(&delta).is_ok() {
                    self.take_inventory(device, &inventory, delta.result, seqs.1, now);
                }
                self.when_durable(acknowledge);
            }
        }
    }

    fn take_inventory(&mut self, device: DeviceId, inventory: &Inventory, digest: DocHash, seq: u64, now: Now) {
        let held = DeviceInventory::new(self.inventories.shared.put(inventory), digest, seq, now.wall);
        // What is too large for the disk is not held: the device hears that.
        let Some(bytes) = held.record() else {
            return self.inventories.shared.give_back(held.inventory);
        };
        let base = held.inventory.base();
        if !base.is_empty() && !self.inventories.stored_bases.contains(&base.digest()) {
            let digest = base.digest();
            // It is an inventory that was stored by itself, or would have been.
            let Some(record) = held.base_record() else {
                return self.inventories.shared.give_back(held.inventory);
            };
            self.inventories.stored_bases.insert(digest);
            self.persist(Record::InventoryBase(digest, record));
        }
        self.inventories.hold(device, held);
        self.persist(Record::Inventory(device, bytes));
        for needless in self.inventories.needless_bases() {
            self.persist(Record::InventoryBase(needless, Vec::new()));
        }
        self.when_durable(After::Held { device, digest });
        self.regroup(device, now);
    }

    pub(super) fn handle_scan(&mut self, report: ScanReport, acknowledge: After, now: Now) {
        let device = report.device;
        let last = self.inventories.scans.get(&device).map_or(0, |(seq, _)| *seq);
        if report.seq <= last || report.parts == 0 || report.parts > MAX_SCAN_PARTS || report.part >= report.parts {
            return self.when_durable(acknowledge);
        }
        let may = self.devices.get_mut(&device).is_some_and(|known| known.may_tell(now.mono));
        if !may || self.is_behind() {
            return;
        }
        let sets = &mut self.inventories.scan_parts;
        if !sets.contains_key(&device) && sets.len() >= MAX_GATHERING {
            let silent = |set: &ScanParts| now.mono.since(set.moved) >= GATHER_WITHIN;
            let Some(left) = sets.iter().find(|(_, set)| silent(set)).map(|(device, _)| *device) else { return };
            sets.remove(&left);
        }
        let issued = report.issued;
        let set = sets.entry(device).or_insert_with(|| ScanParts { issued, parts: BTreeMap::new(), moved: now.mono });
        if set.issued != issued {
            if issued < set.issued && set.parts.values().all(|(known, _)| known.seq > report.seq) {
                return self.when_durable(acknowledge);
            }
            // Of an earlier set nobody waits any more: its device has made another.
            *set = ScanParts { issued, parts: BTreeMap::new(), moved: now.mono };
        }
        set.moved = now.mono;
        let expected = usize::from(report.parts);
        set.parts.insert(report.part, (report, acknowledge));
        if set.parts.len() < expected {
            return;
        }
        let Some(set) = sets.remove(&device) else { return };
        let (mut states, mut seq, mut acknowledgements) = (Vec::new(), 0, Vec::new());
        let (mut counts, mut index_version) = ([0; 4], 0);
        for (report, acknowledge) in set.parts.into_values() {
            seq = seq.max(report.seq);
            (counts, index_version) = (report.counts, report.index_version);
            states.extend(report.states.into_vec());
            acknowledgements.push(acknowledge);
        }
        states.sort_unstable();
        states.dedup_by_key(|(release, _)| *release);
        let scan = DeviceScan { issued, received: now.wall, index_version, counts, states: Bounded::truncated(states) };
        let stored = StoredScan { version: SCAN_VERSION, seq, scan };
        match codec::encode(&stored, MAX_SCAN_RECORD) {
            Ok(bytes) => self.persist(Record::Scan(device, bytes)),
            Err(error) => self.outputs.push_back(Output::Alarm(format!("cannot encode the scan of {device}: {error}"))),
        }
        self.inventories.scans.insert(device, (seq, stored.scan));
        for acknowledge in acknowledgements {
            self.when_durable(acknowledge);
        }
    }
}
