//! How much of the WAN the machines of a site may use together.

use serde::{Deserialize, Serialize};

/// `POST /admin/v1/limits`: sets the rate of one window of a site, or takes rates back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitRequest {
    /// Name of the site.
    pub(crate) site: String,
    /// When, as people write it (`mon-fri 08:00-18:00`). Without it: always; with nothing to set, every rate of the site.
    #[serde(default)]
    pub(crate) window: Option<String>,
    /// Payload bytes per second; nothing takes the rate back.
    #[serde(default)]
    pub(crate) wan: Option<u64>,
    /// Whether the site's machines give way to everything else on the line; nothing changes nothing of that.
    #[serde(default, rename = "yield", skip_serializing_if = "Option::is_none")]
    pub(crate) gives_way: Option<bool>,
}

/// A rate of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RateView {
    /// When; nothing for always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<String>,
    /// Payload bytes per second.
    pub(crate) wan: u64,
}

/// The rates of a site; the lowest of those that apply counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SiteLimits {
    pub(crate) site: String,
    pub(crate) rates: Vec<RateView>,
    /// Whether its machines give way to everything else on the line; nothing where each goes by its own node.toml.
    #[serde(default, rename = "yield", skip_serializing_if = "Option::is_none")]
    pub(crate) gives_way: Option<bool>,
}

/// `GET /admin/v1/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LimitList {
    pub(crate) limits: Vec<SiteLimits>,
}

/// The least rate of a site, in bytes per second: 64 kbit/s. Below it documents alone take hours, and a number without its unit was
/// meant.
pub(crate) const MIN_WAN: u64 = 8000;

/// Why a lower rate is refused.
pub(crate) fn too_slow(rate: u64) -> String {
    format!(
        "{} bit/s is no rate to work with; the least is 64kbit. Write for example 5mbit or 2MB/s; to stop a group, upswarm pause",
        rate.saturating_mul(8)
    )
}
