//! Stopping things, and letting them go on.

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::ReleaseId;

/// `POST /admin/v1/hold`: with neither group nor release, everything; with one, that; with both, one approval.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HoldRequest {
    /// Name of the group.
    #[serde(default)]
    pub(crate) group: Option<String>,
    /// The release, as a person names it.
    #[serde(default)]
    pub(crate) release: Option<String>,
    /// Whether it is to be stopped.
    pub(crate) on: bool,
    /// Let it go on also when rings whose time came in the meantime then begin at once.
    #[serde(default)]
    pub(crate) all_due: bool,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Whether it is stopped now.
    pub(crate) hold: bool,
    pub(crate) group: Option<String>,
    pub(crate) release: Option<ReleaseId>,
    /// What was meant, in words.
    pub(crate) what: String,
    /// Whether that is news.
    pub(crate) changed: bool,
    /// What stays on hold, in the words of the flags of `resume`.
    pub(crate) still_held: Vec<String>,
    /// Version of the index that says so; its head is published.
    pub(crate) head_version: u64,
}

/// Something that is stopped; everything, when it names neither.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct HoldView {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<ReleaseId>,
}

impl HoldView {
    /// In the words of the flags of `pause` and `resume`.
    pub(crate) fn words(&self) -> String {
        let group = self.group.as_ref().map(|group| format!("--group {group}"));
        let release = self.release.map(|release| format!("--release {}", release.short()));
        let given: Vec<String> = group.into_iter().chain(release).collect();
        if given.is_empty() { "everything".to_owned() } else { given.join(" ") }
    }

    /// Whether it holds this release in this group.
    pub(crate) fn covers(&self, group: &str, release: &ReleaseId) -> bool {
        self.group.as_deref().is_none_or(|held| held == group) && self.release.is_none_or(|held| held == *release)
    }
}
