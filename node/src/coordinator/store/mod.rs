//! The fleet store: what devices are and told, written by a thread of its own and read from snapshots.
//!
//! Owns durability and the read side. The driver hands it one batch of changes after another over a bounded channel and hears
//! when each is on disk; readers take a [`Fleet`] as it stood after some batch and keep it for as long as they like: the
//! writer copies what they hold, and waits for nobody. It never decides, and never asks the core.
//!
//! What devices told and the history of it lie in a database ([`database`]); a batch is one transaction there, after its files. The
//! current state is read from memory, the past from the database ([`past`]), by connections of its own.

pub(crate) mod alarms;
pub(crate) mod counted;
pub(crate) mod database;
#[cfg(test)]
mod database_tests;
mod kind;
pub(crate) mod known;
pub(crate) mod ledger;
#[cfg(test)]
mod ledger_tests;
pub(crate) mod names;
mod old_log;
pub(crate) mod part;
pub(crate) mod past;
#[cfg(test)]
pub(crate) mod postgres;
mod retention;
mod rows;
pub(crate) mod rules;
mod schema;
pub(crate) mod told;
pub(crate) mod view;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use sqlx::Connection as _;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use upswarm_protocol::codec::{self, Text};
use upswarm_protocol::coordinator::{DeviceInventory, DeviceRecord, DeviceScan};
use upswarm_protocol::ids::{DeviceId, DocHash};
use upswarm_protocol::report::Report;
use upswarm_protocol::time::Wall;

use super::directory::{Change, Directory};
use crate::clock;
use database::{Place, Session};
use known::{Known, Said};
use ledger::{InForce, Ledger};
use told::{Key, Kind};

const DISK_RETRY: Duration = Duration::from_secs(5);
/// A batch that has panicked so often in a row is written one by one: the first may have been chance.
const PANICS: u32 = 2;
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
    /// What many devices have installed, by its digest; no bytes when nothing names it any more.
    InventoryBase(DocHash, Vec<u8>),
    /// An inventory and its record.
    Inventory(DeviceId, DeviceInventory, Vec<u8>),
    /// A scan and its record.
    Scan(DeviceId, Arc<DeviceScan>, Vec<u8>),
    /// A device is shut out: what it told goes, and its name with it.
    Forget(DeviceId),
    /// Whether a device counts: one that is retired or shut out does not.
    Counted(DeviceId, bool),
    /// Every approval that is in force now.
    Approvals(Vec<InForce>),
}

impl Write {
    /// The device whose words it is. Such a write may be set aside, for the device tells again; a decision never may.
    fn told_by(&self) -> Option<DeviceId> {
        match self {
            Write::Report(report, _) => Some(report.device),
            Write::Inventory(device, ..) | Write::Scan(device, ..) => Some(*device),
            _ => None,
        }
    }
}

/// What a writer says to the driver.
#[derive(Debug)]
pub(crate) enum Written {
    /// The batch is durable and readers see it.
    Done,
    /// It could not be written; it is tried again.
    Failed(String),
    /// What a device told cannot be written at all and was left out; the rest of the batch goes on.
    SetAside(String),
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

/// Where history is kept, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Keeping {
    pub(crate) place: Place,
    /// Days of history; what is older is added up and its details go.
    pub(crate) days: u32,
}

/// Starts the store's thread with what was loaded. `written` hears of every batch.
pub(crate) async fn start(
    directory: Directory,
    keeping: Keeping,
    fleet: Fleet,
    written: mpsc::Sender<Written>,
) -> anyhow::Result<(FleetStore, Writer)> {
    let store = FleetStore::new(fleet);
    // One batch at a time is under way: the driver gathers what comes meanwhile.
    let (batches, incoming) = sync_channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut desk = Desk { directory, keeping, runtime, open: None, kept_on: 0, store: store.clone() };
    let (ready, begun) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("fleet-store".to_owned())
        .spawn(move || match desk.begin() {
            Ok(()) => {
                // Whoever started it waits.
                let _ = ready.send(Ok(()));
                desk.run(&incoming, &written)
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(())
            }
        })
        .context("starting the fleet store's thread")?;
    begun.await.context("the fleet store's thread has ended")??;
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
    keeping: Keeping,
    /// For the database alone.
    runtime: Runtime,
    /// None after an error: what the database holds is read anew.
    open: Option<Open>,
    /// The day on which old history was last added up.
    kept_on: u64,
    store: FleetStore,
}

/// The connection, and the counters as it holds them.
struct Open {
    session: Session,
    ledger: Ledger,
}

/// What a batch writes beside the counters; none takes a row out.
#[derive(Debug, Default)]
struct Rows {
    bases: BTreeMap<DocHash, Vec<u8>>,
    told: BTreeMap<Key, Option<Vec<u8>>>,
}

impl Open {
    async fn new(place: &Place) -> anyhow::Result<Self> {
        let mut session = Session::open(place).await?;
        let ledger = Ledger::load(&mut session.connection).await;
        let ledger = ledger.map_err(|error| session.explain(error)).context("reading the counters of history")?;
        Ok(Self { session, ledger })
    }

    async fn commit(&mut self, rows: Rows) -> Result<(), sqlx::Error> {
        let mut transaction = self.session.connection.begin().await?;
        told::keep_bases(&mut transaction, rows.bases).await?;
        told::keep(&mut transaction, rows.told).await?;
        self.ledger.flush(&mut transaction).await?;
        transaction.commit().await
    }
}

impl Desk {
    /// Opens the database, and counts what is known from elsewhere: an import, or a file that was restored.
    fn begin(&mut self) -> anyhow::Result<()> {
        let fleet = self.store.snapshot();
        let mut open = self.runtime.block_on(Open::new(&self.keeping.place))?;
        let now = clock::wall();
        for (device, known) in &*fleet {
            open.ledger.device(device, known, now);
        }
        let counted = self.runtime.block_on(open.commit(Rows::default()));
        counted.map_err(|error| open.session.explain(error)).context("writing history")?;
        self.open = Some(open);
        self.keep_history(now)
    }

    /// Adds old history up, once a day.
    fn keep_history(&mut self, now: Wall) -> anyhow::Result<()> {
        let today = now.0 / ledger::DAY_MS;
        let Some(open) = self.open.as_mut().filter(|_| self.kept_on != today) else { return Ok(()) };
        let from = today.saturating_sub(self.keeping.days.into());
        let kept = self.runtime.block_on(retention::add_up(&mut open.session.connection, from));
        kept.map_err(|error| open.session.explain(error)).context("adding up old history")?;
        self.kept_on = today;
        Ok(())
    }

    /// Writes batches until there are no more; on an error, tries again until the driver has gone.
    fn run(mut self, incoming: &Receiver<Vec<Write>>, written: &mpsc::Sender<Written>) -> Result<(), String> {
        let mut waiting: Vec<Write> = Vec::new();
        let mut panics = 0;
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
            let result = match panics {
                PANICS.. => self.write_one_by_one(&mut waiting, written),
                _ => match self.attempt(&waiting) {
                    Ok(result) => result,
                    Err(panic) => {
                        panics += 1;
                        Err(anyhow!("the write panicked: {panic}"))
                    }
                },
            };
            let news = match result {
                Ok(()) => {
                    waiting.clear();
                    panics = 0;
                    Written::Done
                }
                Err(error) if gone => return Err(format!("{error:#}")),
                Err(error) => Written::Failed(format!("cannot write what devices told, trying again: {error:#}")),
            };
            // The driver has gone: what is left in the channel is still written.
            let _ = written.blocking_send(news);
        }
    }

    /// One try to make a batch durable and to let readers see it. The outer error is what a panic said.
    fn attempt(&mut self, batch: &[Write]) -> Result<anyhow::Result<()>, String> {
        let attempt = catch_unwind(AssertUnwindSafe(|| self.write(batch)));
        if !matches!(attempt, Ok(Ok(_))) {
            // Whatever was begun there ends with the connection.
            self.open = None;
        }
        let result = attempt.map_err(|panic| words(&*panic).to_owned())?;
        Ok(result.map(|changed| {
            self.store.publish(changed);
            self.store.generation.send_modify(|generation| *generation += 1);
        }))
    }

    /// For a batch that keeps panicking: one device's words must not keep those of all others, and every decision, waiting. What
    /// cannot be written is left out with an alarm, and acknowledged with the rest: its device would only bring it again.
    fn write_one_by_one(&mut self, waiting: &mut Vec<Write>, written: &mpsc::Sender<Written>) -> anyhow::Result<()> {
        let failed = |panic| anyhow!("the write panicked: {panic}");
        // Where not even nothing can be written, no write is at fault.
        self.attempt(&[]).map_err(failed)??;
        let mut taken = 0;
        let mut result = Ok(());
        for write in waiting.iter() {
            result = match (self.attempt(std::slice::from_ref(write)), write.told_by()) {
                (Ok(result), _) => result,
                (Err(panic), None) => Err(failed(panic)),
                (Err(panic), Some(device)) => {
                    let text =
                        format!("what {device} told cannot be written and was left out: the write panicked: {panic}");
                    // The driver has gone: nobody is left to tell.
                    let _ = written.blocking_send(Written::SetAside(text));
                    Ok(())
                }
            };
            if result.is_err() {
                break;
            }
            taken += 1;
        }
        waiting.drain(..taken);
        result
    }

    /// Makes a batch durable. Returns the devices that changed; nothing else changes here, so that it can be tried again.
    fn write(&mut self, batch: &[Write]) -> anyhow::Result<BTreeMap<DeviceId, Known>> {
        let fleet = self.store.snapshot();
        let mut changed: BTreeMap<DeviceId, Known> = BTreeMap::new();
        let mut rows = Rows::default();
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.runtime.block_on(Open::new(&self.keeping.place))?,
        };
        let mut at = None;
        for write in batch {
            let device = match write {
                Write::InventoryBase(digest, content) => {
                    rows.bases.insert(*digest, content.clone());
                    continue;
                }
                Write::Approvals(in_force) => {
                    let directory = &self.directory;
                    open.ledger.approvals(in_force, clock::wall(), |hash| document(directory, hash));
                    continue;
                }
                Write::File(change) => {
                    self.directory.apply(std::slice::from_ref(change))?;
                    continue;
                }
                Write::Device(_, record) => record.device,
                Write::Report(report, _) => report.device,
                Write::Inventory(device, ..) | Write::Scan(device, ..) => *device,
                Write::Forget(device) | Write::Counted(device, _) => *device,
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
                    #[cfg(test)]
                    self.directory.perhaps_panic_at(report.seq);
                    at = at.max(Some(*received));
                    known.said = Some(Arc::new(Said::after(known.said.as_deref(), report, *received)));
                }
                Write::Inventory(_, inventory, bytes) => {
                    known.inventory = Some(inventory.clone());
                    rows.told.insert((device, Kind::Inventory), Some(bytes.clone()));
                }
                Write::Scan(_, scan, bytes) => {
                    known.scan = Some(scan.clone());
                    rows.told.insert((device, Kind::Scan), Some(bytes.clone()));
                }
                Write::Forget(_) => {
                    let nameless = DeviceRecord { label: Text::default(), ..(*known.record).clone() };
                    let bytes = codec::encode(&nameless, DEVICE_RECORD).context("encoding a device's record")?;
                    self.directory.apply(&[Change::Put(self.directory.device(&device), bytes)])?;
                    known.record = Arc::new(nameless);
                    (known.said, known.inventory, known.scan) = (None, None, None);
                    rows.told.extend(Kind::ALL.map(|kind| ((device, kind), None)));
                }
                Write::Counted(_, counts) => known.counted = *counts,
                Write::File(_) | Write::Device(..) | Write::Approvals(_) | Write::InventoryBase(..) => {}
            }
        }
        let at = at.unwrap_or_else(clock::wall);
        // Several reports of one device in a batch are one record.
        for (device, known) in &changed {
            let before = fleet.get(device).and_then(|before| before.said.as_ref());
            if let Some(said) = &known.said
                && !before.is_some_and(|before| Arc::ptr_eq(before, said))
            {
                rows.told.insert((*device, Kind::Status), Some(told::status(said)));
                let counted = before.map(|before| before.bytes).unwrap_or_default();
                open.ledger.bytes(known, &counted, &said.bytes, at);
            }
            open.ledger.device(device, known, at);
        }
        #[cfg(test)]
        self.directory.perhaps_panic();
        let committed = self.runtime.block_on(open.commit(rows));
        committed.map_err(|error| open.session.explain(error))?;
        self.open = Some(open);
        if let Err(error) = self.keep_history(at) {
            // The batch is durable; the next one tries again.
            tracing::warn!("{error:#}");
        }
        Ok(changed)
    }
}

/// An approval's envelope, which the batch has written before.
fn document(directory: &Directory, hash: &DocHash) -> Vec<u8> {
    std::fs::read(directory.doc(hash)).unwrap_or_else(|error| {
        tracing::warn!(%hash, %error, "an approval's document is not kept in the history");
        Vec::new()
    })
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
