//! What every child of the node may use while it handles an event: the clocks, randomness, timers, and the way out.
//!
//! It holds no child's state and decides nothing. A child gets `&mut Cx` and, by reference, what it needs to know of others;
//! what it wants of others it returns as an effect, which the router hands on.

use core::time::Duration;
use std::collections::VecDeque;

use super::timers::{Reason, Timers};
use super::{FetchId, NodeConfig, Output, Record};
use crate::ids::DeviceId;
use crate::membership::Membership;
use crate::report::Trouble;
use crate::rng::Rng;
use crate::time::{Mono, Now, Wall};
use crate::wire::Message;

/// The context of one event.
#[derive(Debug)]
pub(super) struct Cx {
    /// The instant of the event that is being handled.
    pub(super) now: Now,
    /// Since when the machine has been awake: a wall clock that runs ahead of the monotonic one means sleep.
    pub(super) awake_since: Wall,
    pub(super) started: Mono,
    pub(super) config: NodeConfig,
    pub(super) me: DeviceId,
    /// Names this run of the program to the coordinator.
    pub(super) run: u64,
    pub(super) rng: Rng,
    pub(super) timers: Timers,
    /// Drained by the driver after each event.
    pub(super) out: VecDeque<Output>,
    /// Alarms of this event that the reports have not taken over yet.
    alarms: Vec<(Trouble, String)>,
    next_token: u64,
    /// Records up to this token are on disk.
    durable: u64,
    /// The barrier before anything that rests on the newest head or index.
    trust_token: u64,
    next_fetch: FetchId,
}

impl Cx {
    pub(super) fn new(config: NodeConfig, me: DeviceId, now: Now) -> Self {
        Self {
            now,
            awake_since: now.wall,
            started: now.mono,
            me,
            run: run_id(config.seed),
            rng: Rng::new(config.seed),
            config,
            timers: Timers::default(),
            out: VecDeque::new(),
            alarms: Vec::new(),
            next_token: 1,
            durable: 0,
            trust_token: 0,
            next_fetch: 1,
        }
    }

    /// Asks for a timeout at `at`, or earlier if one for this reason is already asked for.
    pub(super) fn timer(&mut self, reason: Reason, at: Mono) {
        self.timers.earlier(reason, at);
    }

    /// Asks for a timeout at `at` and at no other time.
    pub(super) fn retime(&mut self, reason: Reason, at: Mono) {
        self.timers.retime(reason, at);
    }

    /// Names a new fetch.
    pub(super) fn fetch_id(&mut self) -> FetchId {
        let id = self.next_fetch;
        self.next_fetch = self.next_fetch.wrapping_add(1).max(1);
        id
    }

    /// Writes a record. What rests on it must wait until [`Cx::is_durable`].
    pub(super) fn persist(&mut self, record: Record) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.out.push_back(Output::Persist { token, record });
        token
    }

    /// The same for the trust snapshot, on which every install rests.
    pub(super) fn persist_trust(&mut self, snapshot: Vec<u8>) {
        self.trust_token = self.persist(Record::Trust(snapshot));
    }

    pub(super) fn persisted(&mut self, token: u64) {
        self.durable = self.durable.max(token);
    }

    pub(super) fn is_durable(&self, token: u64) -> bool {
        token <= self.durable
    }

    pub(super) fn trust_is_durable(&self) -> bool {
        self.is_durable(self.trust_token)
    }

    /// Sends a message to a connected peer.
    pub(super) fn send(&mut self, peer: DeviceId, message: &Message) {
        match message.encode() {
            Ok(frame) => self.out.push_back(Output::Send { peer, frame }),
            Err(error) => self.out.push_back(Output::Alarm(format!("a message was not sent: {error}"))),
        }
    }

    /// A device as people know it.
    pub(super) fn device_name(&self, membership: &Membership, device: &DeviceId) -> String {
        if *device == self.me {
            return "this device".to_owned();
        }
        if *device == self.config.coordinator {
            return "the coordinator".to_owned();
        }
        match membership.get(device) {
            Some(member) if !member.certificate.label.is_empty() => {
                format!("{} ({})", member.certificate.label, device.short())
            }
            _ => device.short(),
        }
    }

    /// A time in the zone of the schedule: `2026-11-24 22:00 CET`.
    pub(super) fn local(&self, wall: Wall) -> String {
        let millis = i64::try_from(wall.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(stamp) => stamp.to_zoned_datetime(self.config.zone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string(),
            Err(_) => wall.to_string(),
        }
    }

    /// Something an admin should know: for the log at once, and for the next report.
    pub(super) fn alarm(&mut self, kind: Trouble, text: String) {
        self.alarms.push((kind, text.clone()));
        self.out.push_back(Output::Alarm(text));
    }

    pub(super) fn take_alarms(&mut self) -> Vec<(Trouble, String)> {
        core::mem::take(&mut self.alarms)
    }
}

/// 1 s, 2 s, 4 s, ... up to `most`.
pub(super) fn backoff(failures: u32, most: Duration) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(10)).min(most)
}

/// The seed itself stays here: it decides draws that others must not foresee.
fn run_id(seed: u64) -> u64 {
    let hash = blake3::derive_key("upswarm 2026-11 run of a node", &seed.to_le_bytes());
    u64::from_le_bytes(*hash.first_chunk().unwrap_or(&[0; 8])).max(1)
}
