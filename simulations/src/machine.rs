//! What a machine has besides its program: a disk that survives, and programs that are installed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use upswarm_protocol::chunk::{Bitmap, ChunkList};
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::{DocHash, PayloadId, ReleaseId};
use upswarm_protocol::inventory::Inventory;
use upswarm_protocol::node::{Record, Restored};

/// One payload in the store.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its pieces.
    pub list: Arc<ChunkList>,
    /// Chunks that are there.
    pub have: Bitmap,
    /// Chunks that a power cut would not take away.
    pub durable: Bitmap,
}

/// What survives the end of a process.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// The store.
    pub payloads: BTreeMap<PayloadId, Stored>,
    /// Documents by hash.
    pub documents: BTreeMap<DocHash, Arc<Vec<u8>>>,
    /// What a scan of the machine finds; nothing when it is never scanned.
    pub system: Option<Arc<Inventory>>,
    /// Counters of the newest installed release of each product.
    pub installed: BTreeMap<Text<128>, u64>,
    trust: Vec<u8>,
    certificate: Vec<u8>,
    assignment: Vec<u8>,
    deployments: BTreeMap<ReleaseId, Vec<u8>>,
    counters: Option<Vec<u8>>,
    inventory: Option<Vec<u8>>,
    wan_limits: Option<Vec<u8>>,
}

impl Disk {
    /// The disk of a machine that has just been enrolled.
    pub fn new(trust: Vec<u8>, certificate: Vec<u8>, assignment: Vec<u8>) -> Self {
        Self { trust, certificate, assignment, ..Self::default() }
    }

    /// A record is on disk.
    pub fn write(&mut self, record: Record) {
        match record {
            Record::Trust(bytes) => self.trust = bytes,
            Record::Certificate(bytes) => self.certificate = bytes,
            Record::Assignment(bytes) => self.assignment = bytes,
            Record::Deployment(release, bytes) if bytes.is_empty() => drop(self.deployments.remove(&release)),
            Record::Deployment(release, bytes) => drop(self.deployments.insert(release, bytes)),
            Record::Counters(bytes) => self.counters = Some(bytes),
            Record::Inventory(bytes) => self.inventory = Some(bytes),
            Record::WanLimits(bytes) => self.wan_limits = Some(bytes),
        }
    }

    /// What a new process finds.
    pub fn restored(&self) -> Restored {
        Restored {
            trust: self.trust.clone(),
            certificate: self.certificate.clone(),
            assignment: self.assignment.clone(),
            documents: self.documents.values().map(|bytes| bytes.to_vec()).collect(),
            deployments: self.deployments.iter().map(|(release, bytes)| (*release, bytes.clone())).collect(),
            counters: self.counters.clone(),
            inventory: self.inventory.clone(),
            wan_limits: self.wan_limits.clone(),
            payloads: self.payloads.keys().copied().collect(),
        }
    }

    /// Opens or creates a payload and takes chunks over from others. Returns what is there and the bytes taken over.
    pub fn open(&mut self, payload: PayloadId, list: &Arc<ChunkList>) -> (Bitmap, u64) {
        let held: BTreeSet<_> = self
            .payloads
            .iter()
            .filter(|(other, _)| **other != payload)
            .flat_map(|(_, stored)| stored.have.iter().map(|at| stored.list.chunks()[at as usize].id))
            .collect();
        let len = list.chunks().len() as u32;
        let stored = self.payloads.entry(payload).or_insert_with(|| Stored {
            list: list.clone(),
            have: Bitmap::new(len),
            durable: Bitmap::new(len),
        });
        let mut reused = 0;
        for (at, chunk) in (0u32..).zip(list.chunks()) {
            if held.contains(&chunk.id) && stored.have.set(at) {
                reused += u64::from(chunk.len);
            }
        }
        (stored.have.clone(), reused)
    }

    /// Whether every chunk of a run is there.
    pub fn holds(&self, payload: &PayloadId, first: u32, count: u32) -> bool {
        self.payloads.get(payload).is_some_and(|stored| (first..first + count).all(|chunk| stored.have.get(chunk)))
    }

    /// Makes every chunk durable.
    pub fn flush(&mut self) {
        self.payloads.values_mut().for_each(|stored| stored.durable = stored.have.clone());
    }

    /// What is not durable is gone.
    pub fn power_cut(&mut self) {
        self.payloads.values_mut().for_each(|stored| stored.have = stored.durable.clone());
    }
}
