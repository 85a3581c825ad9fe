//! Reports over time: what was so on each day, with how much of it is not known and how old the newest words are.

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Action, Severity};
use upswarm_protocol::ids::{DocHash, PublicKey, ReleaseId};
use upswarm_protocol::report::BytesBySource;
use upswarm_protocol::time::Wall;

use super::audit::Signer;
use crate::units;

/// What a report shows when nobody says since when.
pub(crate) const DEFAULT_DAYS: u64 = 90;
/// The most days of one answer.
const MAX_DAYS: u64 = 3660;
const DAY_MS: u64 = 86_400_000;

/// What a report is about: `GET /admin/v1/report/...`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportQuery {
    /// Only this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Only this release, where the report is about releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<String>,
    /// A day in UTC such as 2026-11-30, or how long ago such as 90d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
}

impl ReportQuery {
    /// The first day that is meant, counted from 1970 in UTC; never more than ten years ago.
    pub(crate) fn first_day(&self, now: Wall) -> Result<u64, String> {
        let today = now.0 / DAY_MS;
        let ago = |days: u64| today.saturating_sub(days.saturating_sub(1));
        let first = match self.since.as_deref() {
            None => ago(DEFAULT_DAYS),
            Some(text) if text.contains('-') => {
                let refuse = || format!("{text:?} is no day; write for example 2026-11-30 or 90d");
                let date: jiff::civil::Date = text.parse().map_err(|_| refuse())?;
                let midnight = jiff::tz::Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).map_err(|_| refuse())?;
                u64::try_from(midnight.as_millisecond()).map_err(|_| refuse())? / DAY_MS
            }
            Some(text) => ago(units::duration(text)?.as_secs().div_ceil(86_400).max(1)),
        };
        if first > today {
            return Err("that day has not come yet; give one that has, for example --since 90d".to_owned());
        }
        Ok(first.max(today.saturating_sub(MAX_DAYS)))
    }
}

/// A day in UTC as RFC 3339 has it.
pub(crate) fn day_words(day: u64) -> String {
    Wall(day.saturating_mul(DAY_MS)).to_string().chars().take(10).collect()
}

/// On what an answer rests. Ages are seconds by the coordinator's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Basis {
    /// When it was put together, RFC 3339.
    pub(crate) at: String,
    /// Devices that it is about.
    pub(crate) devices: usize,
    /// Those of them that never reported, and that did not in the last day.
    pub(crate) never: usize,
    pub(crate) silent: usize,
    pub(crate) newest_report_s: Option<u64>,
    pub(crate) oldest_report_s: Option<u64>,
}

/// Devices by how they stand; what is not known is never counted as done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Each device once for each approval that was in force for its group.
    pub(crate) expected: u64,
    pub(crate) done: u64,
    pub(crate) pending: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
}

impl Tally {
    /// Hundredths of a percent that are done, rounded down: only all is 100 %. None where nothing is expected.
    pub(crate) fn done_in_10000(&self) -> Option<u64> {
        (self.expected > 0).then(|| self.done.saturating_mul(10_000) / self.expected)
    }

    /// The same in words.
    pub(crate) fn percent(&self) -> String {
        self.done_in_10000().map_or_else(|| "-".to_owned(), |done| format!("{}.{:02}", done / 100, done % 100))
    }
}

/// Compliance by group and day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compliance {
    pub(crate) basis: Basis,
    /// In order of day and group.
    pub(crate) days: Vec<ComplianceDay>,
}

/// A group at the end of a day; of today, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ComplianceDay {
    pub(crate) day: String,
    pub(crate) group: String,
    pub(crate) devices: u64,
    /// Releases that were approved for it.
    pub(crate) approvals: u64,
    #[serde(flatten)]
    pub(crate) tally: Tally,
}

impl Compliance {
    /// All groups together, day by day.
    pub(crate) fn together(&self) -> Vec<(String, Tally)> {
        let mut days: Vec<(String, Tally)> = Vec::new();
        for line in &self.days {
            if days.last().is_none_or(|(day, _)| *day != line.day) {
                days.push((line.day.clone(), Tally::default()));
            }
            let Some((_, sum)) = days.last_mut() else { continue };
            sum.expected += line.tally.expected;
            sum.done += line.tally.done;
            sum.pending += line.tally.pending;
            sum.failed += line.tally.failed;
            sum.unknown += line.tally.unknown;
        }
        days
    }
}

/// How rollouts went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RolloutTimes {
    pub(crate) basis: Basis,
    /// The newest first.
    pub(crate) rollouts: Vec<RolloutTime>,
}

/// How one release went in one group. Times are the minutes from the approval within which so many of a hundred
/// devices were done, rounded up: it was not later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RolloutTime {
    pub(crate) group: String,
    pub(crate) release: ReleaseId,
    pub(crate) title: String,
    pub(crate) version: String,
    pub(crate) action: Action,
    /// When the coordinator took the approval, and when it ended, RFC 3339.
    pub(crate) begun: String,
    pub(crate) ended: Option<String>,
    #[serde(flatten)]
    pub(crate) tally: Tally,
    pub(crate) to_50_minutes: Option<u64>,
    pub(crate) to_90_minutes: Option<u64>,
    pub(crate) to_99_minutes: Option<u64>,
}

/// Devices that are vulnerable, by CVE.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vulnerable {
    pub(crate) basis: Basis,
    /// Devices of which nobody knows what is installed: they are in no line below.
    pub(crate) without_inventory: usize,
    /// Devices with packages of repositories of which no feed says anything: they may lack lines below.
    pub(crate) unjudged: usize,
    /// The worst and most frequent first.
    pub(crate) cves: Vec<VulnerableCve>,
    /// What is to be known of the feeds.
    pub(crate) warnings: Vec<String>,
}

/// A CVE that devices have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VulnerableCve {
    pub(crate) cve: String,
    pub(crate) severity: Severity,
    pub(crate) sources: Vec<String>,
    /// Devices that have it, and those of which the feeds' people do not know.
    pub(crate) devices: usize,
    pub(crate) undetermined: usize,
    /// Of those that have it: devices for which a version that mends it is known.
    pub(crate) mendable: usize,
}

/// Payload bytes by source and day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Savings {
    pub(crate) basis: Basis,
    pub(crate) total: BytesBySource,
    /// Days on which anything came, in order.
    pub(crate) days: Vec<SavingsDay>,
}

/// The bytes of a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavingsDay {
    pub(crate) day: String,
    pub(crate) bytes: BytesBySource,
}

/// Who approved what, when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Approvals {
    pub(crate) at: String,
    /// The newest first.
    pub(crate) approvals: Vec<ApprovalLine>,
}

/// An approval, as its document says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApprovalLine {
    /// When the coordinator took it, and when it ended here, RFC 3339.
    pub(crate) taken: String,
    pub(crate) ended: Option<String>,
    /// When its signers say it was made.
    pub(crate) issued: Option<String>,
    pub(crate) group: String,
    pub(crate) release: ReleaseId,
    pub(crate) title: String,
    pub(crate) version: u64,
    pub(crate) action: Action,
    pub(crate) note: String,
    /// Keys whose signatures hold, by the newest root.
    pub(crate) signers: Vec<Signer>,
    /// Keys that claim to have signed and that the newest root does not name for this.
    pub(crate) others: Vec<PublicKey>,
    pub(crate) document: Option<DocHash>,
}

/// What a decision is called.
pub(crate) fn action_word(action: Action) -> &'static str {
    match action {
        Action::Install => "install",
        Action::Uninstall => "uninstall",
        Action::None => "decline",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_begins_on_the_day_that_is_named() {
        let now = Wall(20_787 * DAY_MS + 5);
        let first = |since: Option<&str>| {
            ReportQuery { since: since.map(str::to_owned), ..ReportQuery::default() }.first_day(now)
        };
        assert_eq!(day_words(20_787), "2026-11-30");
        assert_eq!(first(None), Ok(20_787 - 89));
        assert_eq!(first(Some("1d")), Ok(20_787));
        assert_eq!(first(Some("90d")), Ok(20_787 - 89));
        assert_eq!(first(Some("36h")), Ok(20_786));
        assert_eq!(first(Some("2026-11-01")), Ok(20_787 - 29));
        assert_eq!(first(Some("1970-01-01")), Ok(20_787 - MAX_DAYS));
        for wrong in ["2026-12-01", "2026-02-30", "yesterday", "-5", "0x1-", "99999999999999999999d", "1969-12-31"] {
            assert!(first(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_all_is_a_hundred_percent() {
        let tally = |done, expected| Tally { done, expected, ..Tally::default() }.percent();
        assert_eq!([tally(99_999, 100_000), tally(5, 5), tally(0, 0), tally(1, 3)], ["99.99", "100.00", "-", "33.33"]);
    }
}
