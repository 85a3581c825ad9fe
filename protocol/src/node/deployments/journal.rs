//! What of a deployment must survive a power cut.

use serde::{Deserialize, Serialize};

use super::{MAX_ATTEMPTS, NodeState};
use crate::codec::{self, Bounded, Text};
use crate::node::AttemptStatus;
use crate::schedule::Deferred;
use crate::time::Wall;

/// Largest journal record of a deployment.
const MAX_RECORD: usize = 4096;

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) approval_version: u64,
    pub(super) attempts: u8,
    /// A recipe was begun, and how it ended is not known.
    pub(super) begun: bool,
    /// The run of the operating system in which an install wanted a restart; empty for none.
    pub(super) restart_in: Text<64>,
    /// Since when the deadline has been passed on this device (see [`crate::schedule::overdue_since`]).
    pub(super) overdue_since: Option<Wall>,
    /// Put off by the person at the machine: until when, how often, for how many seconds in all.
    pub(super) deferred: Option<(Wall, u8, u32)>,
    pub(super) failed: Option<(Option<i32>, Text<400>)>,
    /// The recipe of the last attempt said that it worked.
    pub(super) done: bool,
    /// Attempts that did not work, the latest last.
    pub(super) tried: Bounded<Attempt, { MAX_ATTEMPTS as usize }>,
    /// The run of the operating system that this deployment has asked to end; empty for none.
    pub(super) asked_in: Text<64>,
}

/// An attempt that did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) at: Wall,
    /// Exit code, if a program ran.
    pub(super) code: Option<i32>,
    /// Why, with the log's tail.
    pub(super) reason: Text<600>,
}

/// The record as it was written before attempts were kept.
#[derive(Deserialize)]
struct Earlier {
    approval_version: u64,
    attempts: u8,
    begun: bool,
    restart_in: Text<64>,
    overdue_since: Option<Wall>,
    deferred: Option<(Wall, u8, u32)>,
    failed: Option<(Option<i32>, Text<400>)>,
}

impl Journal {
    /// Reads a record of this form or of the one before. Each ends where the other goes on, so no record is both.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        codec::decode(bytes, MAX_RECORD).ok().or_else(|| {
            let Earlier { approval_version, attempts, begun, restart_in, overdue_since, deferred, failed } =
                codec::decode(bytes, MAX_RECORD).ok()?;
            let rest = Self::default();
            Some(Self { approval_version, attempts, begun, restart_in, overdue_since, deferred, failed, ..rest })
        })
    }

    pub(super) fn write(&self) -> Vec<u8> {
        codec::encode(self, MAX_RECORD).unwrap_or_default()
    }

    /// Notes an attempt that did not work.
    pub(super) fn note(&mut self, at: Wall, code: Option<i32>, reason: &str) {
        let mut tried = core::mem::take(&mut self.tried).into_vec();
        if tried.len() == usize::from(MAX_ATTEMPTS) {
            tried.remove(0);
        }
        tried.push(Attempt { at, code, reason: Text::lossy(reason) });
        self.tried = Bounded::truncated(tried);
    }

    /// What the person at the machine has put off.
    pub(super) fn deferred(&self) -> Option<Deferred> {
        self.deferred.map(|(until, times, total_s)| Deferred { until, times, total_s })
    }

    /// Another approval counts, or it is done: what earlier attempts said is of no use any more.
    pub(super) fn begin_anew(&mut self) {
        (self.attempts, self.done, self.failed, self.tried) = (0, false, None, Bounded::default());
    }
}

impl Attempt {
    /// In a few words, for people: the exit code, and what was said.
    pub(super) fn words(&self) -> String {
        let code = self.code.map_or(String::new(), |code| format!(" (exit code {code})"));
        format!("{code}: {}", self.reason)
    }
}

impl NodeState {
    /// Every attempt that did not work.
    pub(in crate::node) fn attempts(&self) -> Vec<AttemptStatus> {
        let all = self.deployments.map.iter().flat_map(|(id, d)| d.journal.tried.iter().map(|tried| (*id, tried)));
        all.map(|(release, Attempt { at, code, reason })| AttemptStatus {
            release,
            at: *at,
            code: *code,
            reason: reason.clone(),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_form_before_is_read() {
        let earlier = (
            7_u64,
            2_u8,
            true,
            Text::<64>::lossy("boot"),
            Some(Wall(5)),
            Some((Wall(6), 1_u8, 60_u32)),
            None::<(Option<i32>, Text<400>)>,
        );
        let journal = Journal::read(&codec::encode(&earlier, MAX_RECORD).unwrap()).unwrap();
        assert_eq!((journal.approval_version, journal.attempts, journal.begun), (7, 2, true));
        assert_eq!(journal.deferred().unwrap().until, Wall(6));
        assert!(journal.tried.is_empty() && !journal.done);
    }

    #[test]
    fn the_largest_record_fits_and_is_pinned() {
        let long = "x".repeat(2000);
        let mut journal = Journal {
            restart_in: Text::lossy(&long),
            asked_in: Text::lossy(&long),
            overdue_since: Some(Wall(1)),
            deferred: Some((Wall(1), 1, 1)),
            failed: Some((Some(1), Text::lossy(&long))),
            ..Journal::default()
        };
        for at in 0..10 {
            journal.note(Wall(at), Some(1), &long);
        }
        let oldest = journal.tried[0].at;
        assert_eq!((journal.tried.len(), oldest), (usize::from(MAX_ATTEMPTS), Wall(6)));
        assert_eq!(Journal::read(&journal.write()), Some(journal));
        let mut small = Journal { approval_version: 1, attempts: 2, done: true, ..Journal::default() };
        small.note(Wall(3), Some(4), "no");
        let pinned = "010000000000000002000000000000000000000000010100000000000000030000000000000001040000000200000000\
                      0000006e6f0000000000000000";
        assert_eq!(hex::encode(small.write()), pinned, "keep reading the form before");
    }
}
