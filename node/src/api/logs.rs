//! Logs of machines: asking for one, and reading what has come.

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::ReleaseId;

use super::devices::DeviceName;

/// `POST /admin/v1/device/logs`: have a machine tell what programs printed when it last tried a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogRequest {
    /// Its label, its key, or first digits of that.
    pub(crate) device: String,
    /// The release, as a person names it.
    pub(crate) release: String,
}

/// How a machine hears of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reach {
    /// It is connected.
    Connected,
    /// Through a machine of its site that is connected.
    ThroughNeighbours,
    /// When it is there again.
    NotConnected,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogAsked {
    pub(crate) device: DeviceName,
    pub(crate) release: ReleaseId,
    /// The release in words.
    pub(crate) what: String,
    pub(crate) reach: Reach,
}

/// `GET /admin/v1/device/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogQuery {
    /// As in [`LogRequest`].
    pub(crate) device: String,
    /// Only of this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<String>,
}

/// Its answer: what the machine was asked for, the last first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceLogs {
    pub(crate) device: DeviceName,
    pub(crate) reach: Reach,
    pub(crate) logs: Vec<LogView>,
}

/// A log that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogView {
    pub(crate) release: ReleaseId,
    /// The release in words.
    pub(crate) what: String,
    /// Seconds since it was last asked for.
    pub(crate) asked_s: u64,
    /// Whether the answer to that has not come yet.
    pub(crate) awaited: bool,
    /// Pieces of it that have come, and pieces in all; nothing before the first.
    pub(crate) pieces: Option<[u64; 2]>,
    /// Seconds since the text came, which may be that of an earlier question; nothing for none yet.
    pub(crate) received_s: Option<u64>,
    /// Whether the text is the log; else it says why there is none.
    pub(crate) found: bool,
    /// Fit for any terminal.
    pub(crate) text: String,
}

impl LogView {
    /// That it is on its way, in a sentence; nothing when it is there.
    pub(crate) fn waits(&self, reach: Reach, machine: &str) -> Option<String> {
        if !self.awaited {
            return None;
        }
        let asked = crate::units::span_words(std::time::Duration::from_secs(self.asked_s));
        let begun = self.pieces.map(|[come, of]| format!(" ({come} of {of} pieces are here)")).unwrap_or_default();
        let when = match reach {
            Reach::Connected => "it comes within seconds",
            Reach::ThroughNeighbours => "it comes through a neighbour, within a minute as a rule",
            Reach::NotConnected => "the machine is not connected; it comes when it is there again",
        };
        Some(format!("The log was asked of {machine} {asked} ago and is not there yet{begun}: {when}."))
    }
}
