//! Telling the coordinator: sealed reports, passed on by the site's uplinks, repeated until acknowledged.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::{NodeState, Output, Reason, Record};
use crate::codec::{self, Bounded, Text};
use crate::ids::{DeviceId, DocHash, ReleaseId};
use crate::report::{self, BytesBySource, Report, Told};
use crate::time::{Mono, Now};
use crate::wire::Message;

/// What changes within moments of each other goes into one report.
const GATHER: Duration = Duration::from_millis(30);
/// From one report to the next, at least.
const SPACING: Duration = Duration::from_millis(100);
/// Everything is reported again this often, changed or not.
const FULL_EVERY: Duration = Duration::from_secs(15 * 60);
/// An unacknowledged report is sent again after this, to another uplink if there is one.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Reports that wait for acknowledgement; when more come, the oldest goes and everything is reported anew.
const MAX_OUTBOX: usize = 48;
/// Reports of others on their way through this node.
const MAX_RELAYED: usize = 1024;
const MAX_ALARMS: usize = 4;
/// Deployments in one report.
const PART: usize = 6;
const MAX_COUNTERS: usize = 256;

/// The durable form of the counters.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counters {
    seq: u64,
    bytes: BytesBySource,
}

#[derive(Debug)]
struct Waiting {
    sealed: Vec<u8>,
    receipt: [u8; 32],
    since: Mono,
    sent: Option<Mono>,
}

/// What is to be told, and what is on its way.
#[derive(Debug)]
pub(super) struct Reports {
    seq: u64,
    restored: BytesBySource,
    pub(super) dirty: BTreeSet<ReleaseId>,
    alarms: VecDeque<Text<200>>,
    /// Whether an alarm waits to be told for the first time.
    alarmed: bool,
    /// Bytes as they were last told.
    told: BytesBySource,
    full_due: Mono,
    progress_due: Mono,
    made: Option<Mono>,
    outbox: BTreeMap<u64, Waiting>,
    relayed: BTreeMap<(DeviceId, u64), DeviceId>,
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
            told: counters.bytes,
            full_due: now.mono,
            progress_due: now.mono,
            made: None,
            outbox: BTreeMap::new(),
            relayed: BTreeMap::new(),
        }
    }

    pub(super) fn alarm(&mut self, text: &str) {
        let text = Text::lossy(text);
        if !self.alarms.contains(&text) {
            if self.alarms.len() == MAX_ALARMS {
                self.alarms.pop_front();
            }
            self.alarms.push_back(text);
            self.alarmed = true;
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

    pub(super) fn alarms(&self) -> impl Iterator<Item = &Text<200>> {
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

    pub(super) fn persist_counters(&mut self) {
        let counters = Counters { seq: self.reports.seq, bytes: self.downloads.bytes };
        if let Ok(bytes) = codec::encode(&counters, MAX_COUNTERS) {
            self.persist(Record::Counters(bytes));
        }
    }

    /// Makes reports of what has changed, of everything from time to time, and of bytes that are arriving.
    pub(super) fn make_reports(&mut self, now: Now) {
        // In a large site progress is told more rarely, so that all reports together stay a trickle on the WAN.
        let progress_every = Duration::from_secs(2).max(Duration::from_millis(50) * self.membership.size() as u32);
        let downloading = self.downloading();
        if self.reports.progress_due <= now.mono {
            self.reports.dirty.extend(downloading.iter().copied());
            self.reports.progress_due = now.mono + progress_every;
        }
        // A branch cache fetches what is deployed nowhere on itself; its bytes are news all the same.
        let moved = self.downloads.bytes != self.reports.told;
        if !downloading.is_empty() || self.downloads.is_fetching() {
            self.timer(Reason::Report, self.reports.progress_due);
        }
        let full = self.reports.full_due <= now.mono;
        if full {
            self.reports.dirty.extend(self.deployed());
            self.reports.full_due = now.mono + FULL_EVERY + self.rng.jitter(FULL_EVERY / 4);
        }
        self.timer(Reason::Report, self.reports.full_due);
        let dirty: Vec<_> = core::mem::take(&mut self.reports.dirty).into_iter().collect();
        if dirty.is_empty() && !full && !moved && !self.reports.alarmed {
            return;
        }
        self.reports.told = self.downloads.bytes;
        self.reports.alarmed = false;
        self.reports.made = Some(now.mono);
        let deployments: Vec<_> = dirty.iter().filter_map(|id| self.deployment_report(id)).collect();
        let parts: Vec<Vec<_>> = if deployments.is_empty() {
            vec![Vec::new()]
        } else {
            deployments.chunks(PART).map(<[_]>::to_vec).collect()
        };
        for part in parts {
            let seq = self.next_report(now);
            let report = Report {
                device: self.me,
                seq,
                issued: now.wall,
                site: self.membership.site(),
                role: self.certificate.role,
                label: self.config.label.clone(),
                agent: self.config.agent.clone(),
                os: self.config.os.clone(),
                index_version: self.trust.catalog().index_version(),
                addresses: Bounded::truncated(self.peers.listening().to_vec()),
                bytes: self.downloads.bytes,
                alarms: Bounded::truncated(self.reports.alarms.iter().cloned().collect()),
                deployments: Bounded::truncated(part),
            };
            let to = self.trust.root().report_key;
            self.output.push_back(Output::Seal { told: Told::Status(Box::new(report)), to });
        }
        self.persist_counters();
    }

    /// The number of the next message.
    pub(super) fn next_report(&mut self, now: Now) -> u64 {
        self.reports.seq = (self.reports.seq + 1).max(now.wall.0);
        self.reports.seq
    }

    pub(super) fn report_sealed(&mut self, seq: u64, sealed: Vec<u8>, receipt: [u8; 32], now: Now) {
        if self.reports.outbox.len() >= MAX_OUTBOX {
            self.reports.outbox.pop_first();
            self.reports.full_due = now.mono;
        }
        self.reports.outbox.insert(seq, Waiting { sealed, receipt, since: now.mono, sent: None });
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
            None => uplinks[self.rng.below(uplinks.len())],
        };
        let due = |waiting: &Waiting| waiting.sent.is_none_or(|sent| now.mono.since(sent) >= AGAIN_AFTER);
        let device = self.me;
        let mut frames = Vec::new();
        for (seq, waiting) in self.reports.outbox.iter_mut().filter(|(_, waiting)| due(waiting)) {
            waiting.sent = Some(now.mono);
            let sealed = Bounded::truncated(waiting.sealed.clone());
            frames.push(Message::Relay { device, seq: *seq, sealed });
        }
        for frame in frames {
            self.send(to, &frame);
        }
    }

    /// Passes on a neighbour's report, if the coordinator is connected; otherwise it will try elsewhere.
    pub(super) fn relay_for(&mut self, peer: DeviceId, device: DeviceId, seq: u64, sealed: Vec<u8>) {
        let Some(coordinator) = self.peers.coordinator else { return };
        if self.reports.relayed.len() >= MAX_RELAYED {
            self.reports.relayed.pop_first();
        }
        self.reports.relayed.insert((device, seq), peer);
        self.send(coordinator, &Message::Relay { device, seq, sealed: Bounded::truncated(sealed) });
    }

    /// An acknowledgement for this device counts only with its proof: a bearer that swallows reports cannot make one, and the
    /// report goes out again by another way.
    pub(super) fn relay_acknowledged(&mut self, device: DeviceId, seq: u64, held: DocHash, proof: [u8; 32], now: Now) {
        if device == self.me {
            let Some(waiting) = self.reports.outbox.get(&seq) else { return };
            if report::acknowledgement(&waiting.receipt, seq, &held) != proof {
                return;
            }
            self.reports.outbox.remove(&seq);
            if self.reports.outbox.is_empty() {
                self.timers.remove(&Reason::Relay);
            } else {
                self.timer(Reason::Relay, now.mono + AGAIN_AFTER);
            }
            self.inventory_held(seq, held, now);
        } else if let Some(peer) = self.reports.relayed.remove(&(device, seq)) {
            self.send(peer, &Message::RelayAck { device, seq, held, proof });
        }
    }
}
