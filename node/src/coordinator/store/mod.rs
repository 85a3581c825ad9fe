//! The fleet store: what devices are and told, written by a thread of its own and read from snapshots.
//!
//! Owns durability and the read side. The driver hands it one batch of changes after another over a bounded channel and hears
//! when each is on disk; readers take a [`Fleet`] as it stood after some batch and keep it for as long as they like: the
//! writer copies what they hold, and waits for nobody. It never decides, and never asks the core.

pub(crate) mod alarms;
pub(crate) mod known;
pub(crate) mod log;
pub(crate) mod names;
pub(crate) mod part;
pub(crate) mod rules;
pub(crate) mod view;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, watch};
use upswarm_protocol::codec::{self, Text};
use upswarm_protocol::coordinator::{DeviceInventory, DeviceRecord, DeviceScan};
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::report::Report;
use upswarm_protocol::time::Wall;

use super::directory::{Change, Directory};
use known::{Known, Said};
use log::{Key, Kind, Log};

const DISK_RETRY: Duration = Duration::from_secs(5);
const DEVICE_RECORD: usize = 256 << 10;

/// Every device that was let in, as it stood after some batch.
pub(crate) type Fleet = BTreeMap<DeviceId, Arc<Known>>;

/// One change. What it shows is seen by readers when it is durable.
#[derive(Debug)]
pub(crate) enum Write {
    /// A file that readers of the fleet do not look at.
    File(Change),
    /// A device was let in or changed: its file, and what it says.
    Device(Change, Box<DeviceRecord>),
    /// A verified report, and when it came.
    Report(Box<Report>, Wall),
    /// An inventory and its record.
    Inventory(DeviceId, DeviceInventory, Vec<u8>),
    /// A scan and its record.
    Scan(DeviceId, Arc<DeviceScan>, Vec<u8>),
    /// A device is shut out: what it told goes, and its name with it.
    Forget(DeviceId),
}

/// What a writer says to the driver.
#[derive(Debug)]
pub(crate) enum Written {
    /// The batch is durable and readers see it.
    Done,
    /// It could not be written; it is tried again.
    Failed(String),
}

/// The driver's end of the store.
pub(crate) struct Writer {
    batches: SyncSender<Vec<Write>>,
    thread: JoinHandle<Result<(), String>>,
}

/// The readers' end of the store.
#[derive(Debug, Clone)]
pub(crate) struct FleetStore {
    current: Arc<Mutex<Arc<Fleet>>>,
    generation: Arc<watch::Sender<u64>>,
}

impl FleetStore {
    /// Generations begin at a number that no earlier run of the coordinator has reached: a batch takes longer than a microsecond.
    fn new(fleet: Fleet) -> Self {
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let (generation, _) = watch::channel(u64::try_from(start).unwrap_or_default());
        Self { current: Arc::new(Mutex::new(Arc::new(fleet))), generation: Arc::new(generation) }
    }

    /// The fleet after the last batch. Takes no time, whoever reads or writes.
    pub(crate) fn snapshot(&self) -> Arc<Fleet> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A number that grows with every batch: with all that devices told and that admins changed.
    pub(crate) fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Lets readers see changes; what a reader holds is copied, not changed.
    fn publish(&self, changed: BTreeMap<DeviceId, Known>) {
        if changed.is_empty() {
            return;
        }
        let changed: Vec<_> = changed.into_iter().map(|(device, known)| (device, Arc::new(known))).collect();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut current).extend(changed);
    }
}

/// Starts the store's thread with what was loaded. `written` hears of every batch.
pub(crate) fn start(
    directory: Directory,
    log: Log,
    fleet: Fleet,
    written: mpsc::Sender<Written>,
) -> anyhow::Result<(FleetStore, Writer)> {
    let store = FleetStore::new(fleet);
    // One batch at a time is under way: the driver gathers what comes meanwhile.
    let (batches, incoming) = sync_channel(1);
    let desk = Desk { directory, log, store: store.clone() };
    let thread = std::thread::Builder::new()
        .name("fleet-store".to_owned())
        .spawn(move || desk.run(&incoming, &written))
        .context("starting the fleet store's thread")?;
    Ok((store, Writer { batches, thread }))
}

impl Writer {
    /// Hands over a batch. The one before must be done.
    pub(crate) fn write(&self, batch: Vec<Write>) -> anyhow::Result<()> {
        self.batches.try_send(batch).map_err(|_| anyhow!("the fleet store has ended; start the coordinator again"))
    }

    /// Writes what is left, and waits until the thread has ended. What could not be written is an error.
    pub(crate) async fn finish(self, last: Vec<Write>) -> anyhow::Result<()> {
        let ended = tokio::task::spawn_blocking(move || {
            // The thread takes the one that is under way first; a thread that has ended says why below.
            let _ = self.batches.send(last);
            drop(self.batches);
            self.thread.join()
        });
        match ended.await? {
            Ok(result) => result.map_err(|error| anyhow!(error)),
            Err(_) => Err(anyhow!("the fleet store's thread has panicked")),
        }
    }
}

/// What the thread works with.
struct Desk {
    directory: Directory,
    log: Log,
    store: FleetStore,
}

impl Desk {
    /// Writes batches until there are no more; on an error, tries again until the driver has gone.
    fn run(mut self, incoming: &Receiver<Vec<Write>>, written: &mpsc::Sender<Written>) -> Result<(), String> {
        let mut waiting: Vec<Write> = Vec::new();
        loop {
            let (more, gone) = if waiting.is_empty() {
                match incoming.recv() {
                    Ok(batch) => (Some(batch), false),
                    Err(_) => return Ok(()),
                }
            } else {
                match incoming.recv_timeout(DISK_RETRY) {
                    Ok(batch) => (Some(batch), false),
                    Err(RecvTimeoutError::Timeout) => (None, false),
                    Err(RecvTimeoutError::Disconnected) => (None, true),
                }
            };
            waiting.extend(more.unwrap_or_default());
            // A panic is a write that failed like any other: the batch is still here, and nothing of it was acknowledged.
            let attempt = catch_unwind(AssertUnwindSafe(|| self.write(&waiting)));
            let result = attempt.unwrap_or_else(|panic| Err(anyhow!("the write panicked: {}", words(&*panic))));
            let news = match result {
                Ok(changed) => {
                    self.store.publish(changed);
                    self.store.generation.send_modify(|generation| *generation += 1);
                    waiting.clear();
                    Written::Done
                }
                Err(error) if gone => return Err(format!("{error:#}")),
                Err(error) => Written::Failed(format!("cannot write to the data directory, trying again: {error:#}")),
            };
            // The driver has gone: what is left in the channel is still written.
            let _ = written.blocking_send(news);
        }
    }

    /// Makes a batch durable. Returns the devices that changed; nothing else changes here, so that it can be tried again.
    fn write(&mut self, batch: &[Write]) -> anyhow::Result<BTreeMap<DeviceId, Known>> {
        let fleet = self.store.snapshot();
        let mut changed: BTreeMap<DeviceId, Known> = BTreeMap::new();
        let mut records: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        for write in batch {
            let device = match write {
                Write::File(change) => {
                    self.directory.apply(std::slice::from_ref(change))?;
                    continue;
                }
                Write::Device(_, record) => record.device,
                Write::Report(report, _) => report.device,
                Write::Inventory(device, ..) | Write::Scan(device, ..) | Write::Forget(device) => *device,
            };
            if let Write::Device(change, record) = write {
                self.directory.apply(std::slice::from_ref(change))?;
                let known = changed.entry(device).or_insert_with(|| {
                    fleet.get(&device).map_or_else(|| Known::new((**record).clone()), |known| (**known).clone())
                });
                known.record = Arc::new((**record).clone());
                continue;
            }
            // The core speaks of devices that it has let in; their record came first.
            let Some(known) = entry(&fleet, &mut changed, &device) else { continue };
            match write {
                Write::Report(report, received) => {
                    known.said = Some(Arc::new(Said::after(known.said.as_deref(), report, *received)));
                }
                Write::Inventory(_, inventory, bytes) => {
                    known.inventory = Some(inventory.clone());
                    records.insert((device, Kind::Inventory), bytes.clone());
                }
                Write::Scan(_, scan, bytes) => {
                    known.scan = Some(scan.clone());
                    records.insert((device, Kind::Scan), bytes.clone());
                }
                Write::Forget(_) => {
                    let nameless = DeviceRecord { label: Text::default(), ..(*known.record).clone() };
                    let bytes = codec::encode(&nameless, DEVICE_RECORD).context("encoding a device's record")?;
                    self.directory.apply(&[Change::Put(self.directory.device(&device), bytes)])?;
                    known.record = Arc::new(nameless);
                    (known.said, known.inventory, known.scan) = (None, None, None);
                    for kind in [Kind::Status, Kind::Inventory, Kind::Scan] {
                        records.insert((device, kind), Vec::new());
                    }
                }
                Write::File(_) | Write::Device(..) => {}
            }
        }
        // Several reports of one device in a batch are one record.
        for (device, known) in &changed {
            let before = fleet.get(device).and_then(|before| before.said.as_ref());
            if let Some(said) = &known.said
                && !before.is_some_and(|before| Arc::ptr_eq(before, said))
            {
                records.insert((*device, Kind::Status), said.to_bytes());
            }
        }
        #[cfg(test)]
        self.directory.perhaps_panic();
        let records: Vec<(Key, Vec<u8>)> = records.into_iter().collect();
        self.log.append(&records).context("writing what devices told")?;
        Ok(changed)
    }
}

/// A device as the batch has changed it so far.
fn entry<'a>(fleet: &Fleet, changed: &'a mut BTreeMap<DeviceId, Known>, device: &DeviceId) -> Option<&'a mut Known> {
    if !changed.contains_key(device) {
        changed.insert(*device, (**fleet.get(device)?).clone());
    }
    changed.get_mut(device)
}

fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}
