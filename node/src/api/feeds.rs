//! Feeds of advisories: what an admin says of them, how they stand, and what they say of a version.

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::Severity;

use super::devices::DeviceName;
use super::repositories::Stage;

/// Whose form a feed has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FeedKind {
    /// The Debian security tracker's JSON.
    DebianTracker,
    /// Records of the Open Source Vulnerability format.
    Osv,
}

/// `POST /admin/v1/feeds`: adds a feed, or gives one another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewFeed {
    pub(crate) name: String,
    pub(crate) kind: FeedKind,
    /// `http://`, `https://` or `file:`.
    pub(crate) url: String,
    /// Seconds between two looks; without it, six hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) every_s: Option<u64>,
}

/// `POST /admin/v1/feeds/run` and `/remove`: which feed; without a name all, for `run` alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FeedRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

/// `GET /admin/v1/feeds`, and the answer to every change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FeedList {
    pub(crate) feeds: Vec<FeedRow>,
}

/// A feed and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FeedRow {
    pub(crate) name: String,
    pub(crate) kind: FeedKind,
    pub(crate) url: String,
    pub(crate) every_s: u64,
    /// Source packages that it says something about, and how many CVEs of them together; nothing before the first success.
    pub(crate) sources: usize,
    pub(crate) cves: usize,
    /// Seconds since it was last asked, and since it last answered well.
    pub(crate) last_try_s: Option<u64>,
    pub(crate) last_success_s: Option<u64>,
    /// Why the last time failed; what it said before counts on.
    pub(crate) error: Option<String>,
    /// How far the look is that is under way.
    pub(crate) running: Option<Stage>,
}

/// What a feed says of a version of a source package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// It is mended since this version.
    Fixed { r#in: String },
    /// It is affected, and mended from this version on, if from any.
    Vulnerable { fixed: Option<String> },
    /// It never was affected.
    NotAffected,
    /// It is affected, which means nothing for security.
    Unimportant,
    /// It is affected, and nobody looks after it in this release any more.
    EndOfLife,
    /// The feed's people do not know.
    Undetermined,
    /// No feed says anything.
    Unknown,
}

/// What is known of a CVE for one version that machines have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VerdictRow {
    pub(crate) source: String,
    /// The release of the distribution, for people.
    pub(crate) release: String,
    /// The source package's version.
    pub(crate) version: String,
    pub(crate) severity: Severity,
    pub(crate) verdict: Verdict,
    pub(crate) machines: usize,
    pub(crate) devices: Vec<DeviceName>,
}
