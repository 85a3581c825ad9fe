//! The lines of reports as cells, and on what they rest in words: for command line, console and files alike. Owns no heading and no
//! layout; those are whoever shows them.

use upswarm_protocol::report::BytesBySource;

use super::reports::{ApprovalLine, Basis, ComplianceDay, RolloutTime, Tally, Vulnerable, action_word};
use crate::text::{age, count, within_minutes};

impl Tally {
    /// Expected, done, pending, failed, unknown, percent done.
    fn cells(&self) -> [String; 6] {
        let [expected, done, pending, failed, unknown] =
            [self.expected, self.done, self.pending, self.failed, self.unknown].map(|number| number.to_string());
        [expected, done, pending, failed, unknown, self.percent()]
    }
}

impl ComplianceDay {
    /// Day, group, devices, approvals, and the tally's.
    pub(crate) fn cells(&self) -> Vec<String> {
        let mut cells =
            vec![self.day.clone(), self.group.clone(), self.devices.to_string(), self.approvals.to_string()];
        cells.extend(self.tally.cells());
        cells
    }
}

impl RolloutTime {
    /// Release, group, decision, begun, ended, the tally's, and the time to 50, 90 and 99 %.
    pub(crate) fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.title.clone(),
            self.group.clone(),
            action_word(self.action).to_owned(),
            self.begun.clone(),
            ended(self.ended.as_ref()),
        ];
        cells.extend(self.tally.cells());
        cells.extend([self.to_50_minutes, self.to_90_minutes, self.to_99_minutes].map(within_minutes));
        cells
    }
}

impl ApprovalLine {
    /// Taken, ended, release, group, decision, version, signed by, note.
    pub(crate) fn cells(&self) -> Vec<String> {
        let mut signers: Vec<String> = self.signers.iter().map(|signer| signer.role.clone()).collect();
        if !self.others.is_empty() {
            let keys = count(self.others.len(), "key", "keys");
            signers.push(format!("{keys} that the root does not name any more"));
        }
        vec![
            self.taken.clone(),
            ended(self.ended.as_ref()),
            self.title.clone(),
            self.group.clone(),
            action_word(self.action).to_owned(),
            self.version.to_string(),
            signers.join("; "),
            self.note.clone(),
        ]
    }
}

impl Vulnerable {
    /// Devices that are in none of its lines.
    pub(crate) fn lacking(&self) -> String {
        format!(
            "not in these lines: {} without an inventory, {} for which no snapshot or no feed is here",
            count(self.without_inventory, "device", "devices"),
            self.unjudged
        )
    }
}

impl Basis {
    /// On what the numbers rest: a part of a sentence each.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = vec![
            format!("as of {}", self.at),
            count(self.devices, "device", "devices"),
            format!("{} never reported, {} silent for a day", self.never, self.silent),
        ];
        if let (Some(newest), Some(oldest)) = (self.newest_report_s, self.oldest_report_s) {
            words.push(format!("newest report {} ago, oldest {} ago", age(Some(newest), "?"), age(Some(oldest), "?")));
        }
        words
    }
}

/// Payload bytes that did not cross the WAN.
pub(crate) fn near(bytes: &BytesBySource) -> u64 {
    bytes.total().saturating_sub(bytes.origin)
}

fn ended(at: Option<&String>) -> String {
    at.cloned().unwrap_or_else(|| "in force".to_owned())
}
