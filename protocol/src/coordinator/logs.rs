//! Logs of devices that an admin has asked for: what was asked, and what has come of it.
//!
//! The order goes to its device with the acknowledgement of a report, so it passes through neighbours unread and waits for machines
//! that are off; the log comes back in pieces, the last one first. An order that is not answered survives a restart, pieces do not:
//! the device hears the order again and begins anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::devices::later;
use super::io::{Record, Refusal};
use super::{After, CoordinatorState};
use crate::codec::{self, Bounded};
use crate::envelope::{self, Kind, Role};
use crate::ids::{DeviceId, ReleaseId};
use crate::report::{LogOrder, LogReport, MAX_LOG, MAX_LOG_PARTS};
use crate::time::{Now, Wall};

/// Version of [`Record::Log`].
const VERSION: u8 = 1;
/// Logs that are kept or waited for; the one that was asked for first makes room, one that has come before one that has not.
const MAX_LOGS: usize = 64;
/// The most bytes of a record.
pub const MAX_LOG_RECORD: usize = MAX_LOG + 1024;

/// A log that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLog {
    /// Of which device.
    pub device: DeviceId,
    /// Of which release.
    pub release: ReleaseId,
    /// When it was last asked for.
    pub asked: Wall,
    /// When the text below came, which may be that of an earlier question; `None` for none yet.
    pub received: Option<Wall>,
    /// Whether the text is the log; else it says why there is none.
    pub found: bool,
    /// As the device told it, made harmless by nobody yet.
    pub text: Bounded<u8, MAX_LOG>,
}

impl DeviceLog {
    /// Whether the last question is not answered yet.
    pub fn is_awaited(&self) -> bool {
        self.received.is_none_or(|received| received < self.asked)
    }
}

/// The record.
#[derive(Debug, Serialize, Deserialize)]
struct StoredLog {
    version: u8,
    log: DeviceLog,
}

#[derive(Debug)]
struct Asked {
    log: DeviceLog,
    /// Pieces of the answer to the last question, of so many.
    parts: BTreeMap<u16, Vec<u8>>,
    of: u16,
}

/// What was asked for, by device and release.
#[derive(Debug, Default)]
pub(super) struct Logs(BTreeMap<(DeviceId, ReleaseId), Asked>);

impl Logs {
    /// From every [`Record::Log`]. One that is damaged is left out: it can be asked for again.
    pub(super) fn restore(records: &[Vec<u8>]) -> Self {
        let read = |bytes: &Vec<u8>| codec::decode::<StoredLog>(bytes, MAX_LOG_RECORD).ok();
        let good = records.iter().filter_map(read).filter(|stored| stored.version == VERSION).take(MAX_LOGS);
        let asked = |log: DeviceLog| ((log.device, log.release), Asked { log, parts: BTreeMap::new(), of: 0 });
        Self(good.map(|stored| asked(stored.log)).collect())
    }

    fn oldest(&self) -> Option<(DeviceId, ReleaseId)> {
        let order = |asked: &Asked| (asked.log.is_awaited(), asked.log.asked);
        self.0.iter().min_by_key(|(_, asked)| order(asked)).map(|(key, _)| *key)
    }

    /// The first question to a device that it has not answered.
    fn awaited(&self, device: &DeviceId) -> Option<LogOrder> {
        let of_device = self.0.range((*device, ReleaseId([0; 32]))..=(*device, ReleaseId([0xff; 32])));
        let awaited = of_device.map(|(_, asked)| &asked.log).filter(|log| log.is_awaited());
        let first = awaited.min_by_key(|log| log.asked)?;
        Some(LogOrder { device: *device, release: first.release, issued: first.asked })
    }

    /// Takes a piece of what is awaited. Returns the log when it was the last one that lacked.
    fn take(&mut self, report: LogReport, now: Wall) -> Option<&DeviceLog> {
        let LogReport { device, release, ordered, part, parts, found, text, .. } = report;
        let asked = self.0.get_mut(&(device, release))?;
        if !asked.log.is_awaited() || asked.log.asked != ordered || part >= parts || parts > MAX_LOG_PARTS {
            return None;
        }
        if asked.of != parts {
            (asked.parts, asked.of) = (BTreeMap::new(), parts);
        }
        asked.parts.insert(part, text.into_vec());
        if asked.parts.len() < usize::from(parts) {
            return None;
        }
        let pieces: Vec<Vec<u8>> = core::mem::take(&mut asked.parts).into_values().collect();
        asked.log.text = Bounded::truncated(pieces.concat());
        asked.log.found = found;
        // Whatever the clock did meanwhile, it is answered.
        asked.log.received = Some(now.max(ordered));
        Some(&asked.log)
    }
}

impl CoordinatorState {
    /// What was asked for of a device's releases, with the pieces that have come of the last answer, of so many.
    pub fn device_logs(&self, device: &DeviceId) -> impl Iterator<Item = (&DeviceLog, (usize, u16))> {
        let of_device = self.logs.0.range((*device, ReleaseId([0; 32]))..=(*device, ReleaseId([0xff; 32])));
        of_device.map(|(_, asked)| (&asked.log, (asked.parts.len(), asked.of)))
    }

    /// Asks a device for the log of a release: it hears of it with the acknowledgement of its next report, for which it is called.
    pub(super) fn ask_log(&mut self, device: DeviceId, release: ReleaseId, now: Now) -> Result<(), Refusal> {
        if !self.devices.contains_key(&device) || self.documents.revoked.contains(&device) {
            return Err(Refusal::UnknownDevice(device));
        }
        if !self.documents.releases.contains_key(&release) {
            return Err(Refusal::UnknownRelease(release));
        }
        let key = (device, release);
        let known = self.logs.0.remove(&key).map(|asked| asked.log);
        while self.logs.0.len() >= MAX_LOGS
            && let Some((device, release)) = self.logs.oldest()
        {
            self.logs.0.remove(&(device, release));
            self.persist(Record::Log(device, release, Vec::new()));
        }
        let last = known.as_ref().map(|log| log.received.unwrap_or_default().max(log.asked));
        let asked = later(now.wall, last);
        let new = DeviceLog { device, release, asked, received: None, found: false, text: Bounded::default() };
        let log = known.map_or(new, |known| DeviceLog { asked, ..known });
        self.keep_log(&log)?;
        self.logs.0.insert(key, Asked { log, parts: BTreeMap::new(), of: 0 });
        self.when_durable(After::LogAsked { device });
        Ok(())
    }

    fn keep_log(&mut self, log: &DeviceLog) -> Result<(), Refusal> {
        let stored = StoredLog { version: VERSION, log: log.clone() };
        let bytes = codec::encode(&stored, MAX_LOG_RECORD).map_err(|error| Refusal::Content(error.to_string()))?;
        self.persist(Record::Log(log.device, log.release, bytes));
        Ok(())
    }

    /// The order that a device has not answered, signed; empty for none.
    pub(super) fn log_order(&self, device: &DeviceId) -> Bounded<u8, { Kind::LogOrder.cap() }> {
        let order = self.logs.awaited(device);
        let signed = order.map(|order| envelope::sign(Kind::LogOrder, Role::Online, &order, &[&self.online]));
        signed.and_then(Result::ok).map(Bounded::truncated).unwrap_or_default()
    }

    pub(super) fn handle_log(&mut self, report: LogReport, acknowledge: After, now: Now) {
        let device = report.device;
        // Reports of how devices are go first.
        let may = self.devices.get_mut(&device).is_some_and(|known| known.may_tell(now.mono));
        if !may || self.is_behind() {
            return;
        }
        let complete = self.logs.take(report, now.wall).cloned();
        if let Some(log) = complete {
            if let Err(error) = self.keep_log(&log) {
                self.alarm(format!("a log of {device} cannot be kept: {error}"));
            }
            if self.logs.awaited(&device).is_some() {
                self.when_durable(After::LogAsked { device });
            }
        }
        self.when_durable(acknowledge);
    }

    /// What a device told is forgotten with it.
    pub(super) fn forget_logs(&mut self, device: &DeviceId) {
        let gone: Vec<ReleaseId> = self.device_logs(device).map(|(log, _)| log.release).collect();
        for release in gone {
            self.logs.0.remove(&(*device, release));
            self.persist(Record::Log(*device, release, Vec::new()));
        }
    }
}
