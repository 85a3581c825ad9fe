//! What is installed on the machines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::ids::DocHash;

use super::devices::DeviceHead;

/// `GET /admin/v1/inventory/device` and `/bill`: one device, by its label, its key, or first digits of that.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceQuery {
    pub(crate) device: String,
}

/// `GET /admin/v1/inventory/package`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackageQuery {
    /// The package's name.
    pub(crate) package: String,
}

/// `GET /admin/v1/inventory`: a line of each device that is not shut out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inventories {
    pub(crate) devices: Vec<InventoryLine>,
}

/// A device in a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct InventoryLine {
    #[serde(flatten)]
    pub(crate) head: DeviceHead,
    /// Whether it has told its inventory; the rest is nothing otherwise.
    pub(crate) told: bool,
    #[serde(flatten)]
    pub(crate) machine: Option<Machine>,
}

/// What a machine is, by its facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) os: Option<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) vendor: Option<String>,
    pub(crate) product: Option<String>,
    pub(crate) cpu: Option<String>,
    pub(crate) cores: Option<u32>,
    pub(crate) memory_mib: Option<u64>,
    pub(crate) packages: usize,
    pub(crate) pending_restart: bool,
    pub(crate) restart_reason: Option<String>,
    /// Seconds since it last changed here.
    pub(crate) changed_s: u64,
}

/// Everything on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeviceInventory {
    #[serde(flatten)]
    pub(crate) head: DeviceHead,
    pub(crate) digest: DocHash,
    pub(crate) changed_s: u64,
    pub(crate) pending_restart: bool,
    pub(crate) packages: Vec<Package>,
    pub(crate) facts: BTreeMap<String, String>,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Package {
    pub(crate) kind: PackageKind,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) arch: String,
    pub(crate) purl: String,
}

/// Who has a package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PackageHolders {
    pub(crate) package: String,
    /// The newest first.
    pub(crate) versions: Vec<VersionCount>,
    pub(crate) devices: Vec<PackageHolder>,
    /// Devices that have told their inventory.
    pub(crate) told: usize,
}

/// How many devices have a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionCount {
    pub(crate) kind: PackageKind,
    pub(crate) version: String,
    pub(crate) devices: usize,
}

/// A device that has a package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PackageHolder {
    #[serde(flatten)]
    pub(crate) head: DeviceHead,
    pub(crate) kind: PackageKind,
    pub(crate) version: String,
    pub(crate) arch: String,
}
