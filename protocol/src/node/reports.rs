//! What goes to the coordinator: encrypted reports, passed on by the site's uplinks, repeated until acknowledged.

mod relayed;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use self::relayed::Relayed;
use super::{NodeState, Output, Reason, Record};
use crate::codec::{self, Bounded, Text};
use crate::ids::{DeviceId, DocHash, ReleaseId};
use crate::report::{self, BytesBySource, DeviceAlarm, DeviceMessage, MAX_DEPLOYMENTS, News, Papers, Report, Trouble};
use crate::time::{Mono, Now};
use crate::wire::Message;

/// What changes within moments of each other goes into one report.
const GATHER: Duration = Duration::from_millis(30);
/// From one report to the next, at least.
const SPACING: Duration = Duration::from_millis(100);
/// Calls by the coordinator are followed at this distance at least: a neighbour could make them up.
const CALLED_EVERY: Duration = Duration::from_secs(10);
/// Everything is reported again this often, changed or not.
const FULL_EVERY: Duration = Duration::from_secs(15 * 60);
/// An unacknowledged report is sent again after this, to another uplink if there is one.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Reports that wait for acknowledgement; when more come, the oldest goes and everything is reported anew.
const MAX_OUTBOX: usize = 48;
const MAX_ALARMS: usize = 4;
const MAX_COUNTERS: usize = 256;

/// The durable form of the counters.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counters {
    seq: u64,
    bytes: BytesBySource,
}

#[derive(Debug)]
struct Waiting {
    encrypted: Vec<u8>,
    receipt: [u8; 32],
    since: Mono,
    sent: Option<Mono>,
}

/// What is to be told, and what is on its way.
#[derive(Debug)]
pub(super) struct Reports {
    seq: u64,
    restored: BytesBySource,
    dirty: BTreeSet<ReleaseId>,
    alarms: VecDeque<DeviceAlarm>,
    /// Whether an alarm waits to be told for the first time.
    alarmed: bool,
    /// Whether the next report is made even if nothing has changed.
    anyway: bool,
    /// When the coordinator's last call was followed.
    called: Option<Mono>,
    /// Bytes as they were last told.
    told: BytesBySource,
    /// Whether it was last told that no other machine of the site is here.
    told_alone: Option<bool>,
    full_due: Mono,
    progress_due: Mono,
    made: Option<Mono>,
    outbox: BTreeMap<u64, Waiting>,
    /// Deployments that a message in the outbox says have ended for good.
    ends: BTreeMap<u64, Vec<ReleaseId>>,
    relayed: Relayed,
}

/// What came with [`Message::RelayAck`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged<'a> {
    pub(super) device: DeviceId,
    pub(super) seq: u64,
    pub(super) held: DocHash,
    pub(super) news: &'a [u8],
    pub(super) proof: [u8; 32],
}

impl Reports {
    pub(super) fn restore(counters: Option<&[u8]>, now: Now) -> Self {
        let counters: Counters = counters.and_then(|bytes| codec::decode(bytes, MAX_COUNTERS).ok()).unwrap_or_default();
        Self {
            // The clock makes the number grow even if the counter file was lost.
            seq: counters.seq.max(now.wall.0),
            restored: counters.bytes,
            dirty: BTreeSet::new(),
            alarms: VecDeque::new(),
            alarmed: false,
            anyway: false,
            called: None,
            told: counters.bytes,
            told_alone: None,
            full_due: now.mono,
            progress_due: now.mono,
            made: None,
            outbox: BTreeMap::new(),
            ends: BTreeMap::new(),
            relayed: Relayed::default(),
        }
    }

    pub(super) fn alarm(&mut self, kind: Trouble, text: &str) {
        let alarm = DeviceAlarm { kind, text: Text::lossy(text) };
        if !self.alarms.contains(&alarm) {
            if self.alarms.len() == MAX_ALARMS {
                self.alarms.pop_front();
            }
            self.alarms.push_back(alarm);
            self.alarmed = true;
        }
    }

    /// What alarms of this kind said is over.
    pub(super) fn take_back(&mut self, kind: Trouble) {
        self.alarms.retain(|alarm| alarm.kind != kind);
    }

    fn note_ends(&mut self, seq: u64, ends: Vec<ReleaseId>) {
        if !ends.is_empty() {
            if self.ends.len() >= MAX_OUTBOX {
                self.ends.pop_first();
            }
            self.ends.insert(seq, ends);
        }
    }

    /// Whether this message waits for its acknowledgement.
    pub(super) fn is_waiting(&self, seq: u64) -> bool {
        self.outbox.contains_key(&seq)
    }

    pub(super) fn nothing_waits(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Since when the oldest report has been waiting.
    pub(super) fn oldest_since(&self) -> Option<Mono> {
        self.outbox.values().map(|waiting| waiting.since).min()
    }

    pub(super) fn alarms(&self) -> impl Iterator<Item = &DeviceAlarm> {
        self.alarms.iter()
    }
}

impl NodeState {
    pub(super) fn start_reports(&mut self, now: Now) {
        self.downloads.bytes = self.reports.restored;
        self.timer(Reason::Report, now.mono + Duration::from_secs(1));
    }

    /// There is something to tell: at once when the last report was made a while ago, else with what else comes until then.
    pub(super) fn report_soon(&mut self, now: Now) {
        let earliest = self.reports.made.map_or(Mono(0), |made| made + SPACING);
        self.timer(Reason::Report, earliest.max(now.mono + GATHER));
    }

    /// A report is to be made soon, even if nothing has changed.
    pub(super) fn report_anyway(&mut self, now: Now) {
        self.reports.anyway = true;
        self.report_soon(now);
    }

    /// Machines of the site that are here, without this one.
    fn neighbours(&self) -> u32 {
        u32::try_from(self.membership.size() - 1).unwrap_or(u32::MAX)
    }

    /// That the last other machine of the site is gone, or the first has come, is told at once.
    pub(super) fn look_whether_alone(&mut self, now: Now) {
        let alone = self.neighbours() == 0;
        if self.reports.told_alone.is_some_and(|told| told != alone) && !self.reports.anyway {
            self.report_anyway(now);
        }
    }

    /// The coordinator has news for a device, which it gives for a report: for this one, or for a neighbour.
    pub(super) fn called(&mut self, device: DeviceId, by_coordinator: bool, now: Now) {
        if device == self.cx.me {
            // One that is still to be followed stands for those that come until then.
            if !self.reports.anyway {
                let at = self.reports.called.map_or(now.mono, |called| now.mono.max(called + CALLED_EVERY));
                self.reports.called = Some(at);
                self.reports.anyway = true;
                self.timer(Reason::Report, at + GATHER);
            }
        } else if by_coordinator && self.peers.is_member(&device) {
            self.send(device, &Message::Call { device });
        }
    }

    /// A deployment stands elsewhere.
    pub(super) fn report_changed(&mut self, release: ReleaseId, now: Now) {
        self.reports.dirty.insert(release);
        self.report_soon(now);
    }

    pub(super) fn persist_counters(&mut self) {
        let counters = Counters { seq: self.reports.seq, bytes: self.downloads.bytes };
        if let Ok(bytes) = codec::encode(&counters, MAX_COUNTERS) {
            self.cx.persist(Record::Counters(bytes));
        }
    }

    /// Makes reports of what has changed, of everything from time to time, and of bytes that are arriving.
    pub(super) fn make_reports(&mut self, now: Now) {
        // In a large site progress is told more rarely, so that all reports together stay a trickle on the WAN.
        let progress_every = Duration::from_secs(2).max(Duration::from_millis(50) * self.membership.size() as u32);
        let downloading = self.deployments.arriving();
        if self.reports.progress_due <= now.mono {
            self.reports.dirty.extend(downloading);
            self.reports.progress_due = now.mono + progress_every;
        }
        // A branch cache fetches what is deployed nowhere on itself; its bytes are news all the same.
        let moved = self.downloads.bytes != self.reports.told;
        if !downloading.is_empty() || self.downloads.is_fetching() {
            self.timer(Reason::Report, self.reports.progress_due);
        }
        let full = self.reports.full_due <= now.mono;
        if full {
            self.reports.dirty.extend(self.deployments.all());
            self.reports.full_due = now.mono + FULL_EVERY + self.cx.rng.jitter(FULL_EVERY / 4);
        }
        self.timer(Reason::Report, self.reports.full_due);
        let dirty: Vec<_> = core::mem::take(&mut self.reports.dirty).into_iter().collect();
        if dirty.is_empty() && !full && !moved && !self.reports.alarmed && !self.reports.anyway {
            return;
        }
        self.reports.told = self.downloads.bytes;
        self.reports.told_alone = Some(self.neighbours() == 0);
        self.reports.alarmed = false;
        self.reports.anyway = false;
        self.reports.made = Some(now.mono);
        let deployments: Vec<_> = dirty.iter().filter_map(|id| self.deployment_report(id)).collect();
        let parts: Vec<Vec<_>> = if deployments.is_empty() {
            vec![Vec::new()]
        } else {
            deployments.chunks(MAX_DEPLOYMENTS).map(<[_]>::to_vec).collect()
        };
        for part in parts {
            let seq = self.next_report(now);
            let ends = part.iter().map(|report| report.release).filter(|id| self.deployments.ends_when_heard(id));
            self.reports.note_ends(seq, ends.collect());
            let report = Report {
                device: self.cx.me,
                seq,
                issued: now.wall,
                site: self.membership.site(),
                role: self.certificate.role,
                label: self.cx.config.label.clone(),
                agent: self.cx.config.agent.clone(),
                os: self.cx.config.os.clone(),
                index_version: self.trust.catalog().index_version(),
                papers: Papers { certificate: self.certificate.issued, assignment: self.assigned.issued() },
                addresses: Bounded::truncated(self.peers.listening().to_vec()),
                bytes: self.downloads.bytes,
                neighbours: self.neighbours(),
                alarms: Bounded::truncated(self.reports.alarms.iter().cloned().collect()),
                deployments: Bounded::truncated(part),
            };
            self.encrypt_report(DeviceMessage::Status(Box::new(report)));
        }
        self.persist_counters();
    }

    pub(super) fn encrypt_report(&mut self, message: DeviceMessage) {
        let to = self.trust.root().report_key;
        self.cx.out.push_back(Output::Encrypt { message, to });
    }

    /// The number of the next message.
    pub(super) fn next_report(&mut self, now: Now) -> u64 {
        self.reports.seq = (self.reports.seq + 1).max(now.wall.0);
        self.reports.seq
    }

    pub(super) fn report_encrypted(&mut self, seq: u64, encrypted: Vec<u8>, receipt: [u8; 32], now: Now) {
        if self.reports.outbox.len() >= MAX_OUTBOX {
            self.reports.outbox.pop_first();
            self.reports.full_due = now.mono;
        }
        self.reports.outbox.insert(seq, Waiting { encrypted, receipt, since: now.mono, sent: None });
        self.relay_reports(now);
    }

    /// Sends what is not acknowledged: to the coordinator if it is connected, else to an uplink of the site.
    pub(super) fn relay_reports(&mut self, now: Now) {
        if self.reports.outbox.is_empty() {
            return;
        }
        self.timer(Reason::Relay, now.mono + AGAIN_AFTER);
        let uplinks: Vec<_> = self.uplink_neighbours().copied().collect();
        let to = match self.peers.coordinator {
            Some(coordinator) => coordinator,
            None if uplinks.is_empty() => {
                self.timer(Reason::Dial, now.mono);
                return;
            }
            None => uplinks[self.cx.rng.below(uplinks.len())],
        };
        let due = |waiting: &Waiting| waiting.sent.is_none_or(|sent| now.mono.since(sent) >= AGAIN_AFTER);
        let device = self.cx.me;
        let mut frames = Vec::new();
        for (seq, waiting) in self.reports.outbox.iter_mut().filter(|(_, waiting)| due(waiting)) {
            waiting.sent = Some(now.mono);
            let encrypted = Bounded::truncated(waiting.encrypted.clone());
            frames.push(Message::Relay { device, seq: *seq, encrypted });
        }
        for frame in frames {
            self.send(to, &frame);
        }
    }

    /// Passes on a neighbour's report, if the coordinator is connected; otherwise it will try elsewhere.
    pub(super) fn relay_for(&mut self, peer: DeviceId, device: DeviceId, seq: u64, encrypted: Vec<u8>) {
        let Some(coordinator) = self.peers.coordinator else { return };
        self.reports.relayed.insert(peer, device, seq);
        self.send(coordinator, &Message::Relay { device, seq, encrypted: Bounded::truncated(encrypted) });
    }

    /// An acknowledgement for this device counts only with its proof: a bearer that swallows reports cannot make one, and the
    /// report goes out again by another way.
    pub(super) fn relay_acknowledged(&mut self, ack: Acknowledged<'_>, now: Now) {
        let Acknowledged { device, seq, held, news, proof } = ack;
        if device == self.cx.me {
            let Some(waiting) = self.reports.outbox.get(&seq) else { return };
            if report::acknowledgement(&waiting.receipt, seq, &held, news) != proof {
                return;
            }
            let news = News::reveal(&waiting.receipt, news).unwrap_or_default();
            self.reports.outbox.remove(&seq);
            let ended = self.reports.ends.remove(&seq).unwrap_or_default();
            self.deployments.heard(&ended, &mut self.cx);
            if self.reports.outbox.is_empty() {
                self.cx.timers.remove(&Reason::Relay);
            } else {
                self.timer(Reason::Relay, now.mono + AGAIN_AFTER);
            }
            self.inventory_held(seq, held, now);
            self.log_acknowledged(seq, now);
            if !news.certificate.is_empty() {
                self.certificate_renewed(&news.certificate, now);
            }
            if !news.assignment.is_empty() {
                self.assignment_arrived(&news.assignment, now);
            }
            if !news.log.is_empty() {
                self.log_ordered(&news.log, now);
            }
        } else if let Some(peer) = self.reports.relayed.take(device, seq) {
            let news = Bounded::truncated(news.to_vec());
            self.send(peer, &Message::RelayAck { device, seq, held, news, proof });
        }
    }
}
