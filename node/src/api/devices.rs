//! How a device is named and shown in short, wherever devices are listed.

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::DeviceId;

/// A device and its name for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct DeviceName {
    /// Its key.
    pub(crate) device: DeviceId,
    /// As it last said, or as it joined, or the first digits of its key.
    pub(crate) name: String,
}

/// What every view of a device begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceHead {
    /// Its key.
    pub(crate) device: DeviceId,
    /// Its name for people.
    pub(crate) name: String,
    /// Its site's name.
    pub(crate) site: String,
    /// Seconds since its last report; nothing before the first.
    pub(crate) last_seen_s: Option<u64>,
    /// Whether it is connected to the coordinator now.
    pub(crate) connected: bool,
}

/// `POST /admin/v1/device/retire`: take a machine that is gone out of the lists. What it told stays; it comes back by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetireRequest {
    /// Its label, its key, or first digits of that.
    pub(crate) device: String,
    /// Retire it although it is connected.
    #[serde(default)]
    pub(crate) force: bool,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retired {
    /// Who is retired.
    pub(crate) device: DeviceId,
    /// Its name.
    pub(crate) name: String,
}

/// `POST /admin/v1/device/revoke`: shut a device out for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeRequest {
    /// Its label, its key, or first digits of that.
    pub(crate) device: String,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// Who is shut out.
    pub(crate) device: DeviceId,
    /// Its name.
    pub(crate) name: String,
    /// Version of the index that says so.
    pub(crate) head_version: u64,
}

/// `POST /admin/v1/device/readmit`: let a device back in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadmitRequest {
    /// Its label, its key, or first digits of that.
    pub(crate) device: String,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Readmitted {
    /// Who is let in again.
    pub(crate) device: DeviceId,
    /// Its name.
    pub(crate) name: String,
    /// Version of the index that says so.
    pub(crate) head_version: u64,
}
