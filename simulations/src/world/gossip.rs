//! Gossip messages on their way, and who has seen which.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use upswarm_protocol::wire::Topic;

/// Microseconds for which a machine knows a message again, as in the real host.
const REMEMBERED: u64 = 120_000_000;

struct GossipMessage {
    topic: Topic,
    bytes: Vec<u8>,
    hash: [u8; 32],
    made: u64,
    /// The first machine that it may reach.
    first: usize,
    /// Per machine from there: one more than the life in which it saw it.
    seen: Vec<u32>,
}

/// Messages of the last while, by number.
#[derive(Default)]
pub(super) struct Gossip {
    /// How many were forgotten: the number of the first that is left.
    forgotten: u64,
    left: VecDeque<GossipMessage>,
    number_of: BTreeMap<[u8; 32], u64>,
}

impl Gossip {
    /// Messages made so far.
    pub(super) fn len(&self) -> u64 {
        self.forgotten + self.left.len() as u64
    }

    /// The number of a message, a new one if these bytes were not said lately. It may reach these `machines`.
    pub(super) fn enter(&mut self, now: u64, topic: Topic, bytes: Vec<u8>, machines: Range<usize>) -> u64 {
        while self.left.front().is_some_and(|message| message.made + REMEMBERED < now) {
            if let Some(old) = self.left.pop_front() {
                self.number_of.remove(&old.hash);
                self.forgotten += 1;
            }
        }
        let hash = *blake3::hash(&bytes).as_bytes();
        if let Some(number) = self.number_of.get(&hash) {
            return *number;
        }
        let number = self.len();
        let seen = vec![0; machines.len()];
        self.left.push_back(GossipMessage { topic, bytes, hash, made: now, first: machines.start, seen });
        self.number_of.insert(hash, number);
        number
    }

    /// A message, while it is remembered.
    pub(super) fn get(&self, number: u64) -> Option<(Topic, &[u8])> {
        let at = usize::try_from(number.checked_sub(self.forgotten)?).ok()?;
        self.left.get(at).map(|message| (message.topic, message.bytes.as_slice()))
    }

    /// A machine sees a message in one of its lives. Returns whether that is news.
    pub(super) fn see(&mut self, number: u64, machine: usize, life: u32) -> bool {
        let Some(slot) = self.slot(number, machine) else { return false };
        std::mem::replace(slot, life + 1) != life + 1
    }

    /// Whether a machine has seen a message in this life, or cannot see it any more.
    pub(super) fn has_seen(&mut self, number: u64, machine: usize, life: u32) -> bool {
        self.slot(number, machine).is_none_or(|slot| *slot == life + 1)
    }

    fn slot(&mut self, number: u64, machine: usize) -> Option<&mut u32> {
        let at = usize::try_from(number.checked_sub(self.forgotten)?).ok()?;
        let message = self.left.get_mut(at)?;
        message.seen.get_mut(machine.checked_sub(message.first)?)
    }
}
