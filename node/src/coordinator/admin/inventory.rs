//! What is installed on the machines, as they told it.

use std::collections::BTreeMap;

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::coordinator::{DeviceInventory as DeviceMessage, DeviceRecord, Refusal};
use upswarm_protocol::inventory::{FACT_RESTART, Name};
use upswarm_protocol::version;

use super::View;
use crate::api::inventory::{
    DeviceInventory, DeviceQuery, Inventories, InventoryLine, Machine, Package, PackageHolder, PackageHolders,
    PackageQuery, VersionCount,
};
use crate::inventory::{self as machine, Scan, cyclonedx};

/// A line of each device.
pub(crate) fn summary(view: &View<'_>) -> Inventories {
    let mut devices: Vec<InventoryLine> = view
        .devices()
        .map(|record| {
            let held = view.inventory(&record.device);
            let machine = held.map(|held| {
                let fact = |name: &str| held.inventory.fact(name).map(str::to_owned);
                Machine {
                    os: fact(machine::FACT_OS_NAME),
                    kernel: fact(machine::FACT_KERNEL),
                    vendor: fact(machine::FACT_VENDOR),
                    product: fact(machine::FACT_PRODUCT),
                    cpu: fact(machine::FACT_CPU_MODEL),
                    cores: fact(machine::FACT_CPU_CORES).and_then(|cores| cores.parse().ok()),
                    memory_mib: fact(machine::FACT_MEMORY).and_then(|mib| mib.parse().ok()),
                    packages: held.inventory.packages(),
                    pending_restart: held.inventory.pending_restart(),
                    restart_reason: fact(FACT_RESTART),
                    changed_s: view.age(held.received),
                }
            });
            InventoryLine { head: view.head(record), told: machine.is_some(), machine }
        })
        .collect();
    devices.sort_by(|a, b| (&a.head.name, &a.head.device).cmp(&(&b.head.name, &b.head.device)));
    Inventories { devices }
}

/// Everything on one device.
pub(crate) fn device(view: &View<'_>, query: &DeviceQuery) -> Result<DeviceInventory, Refusal> {
    let record = view.device_named(&query.device)?;
    let held = told(view, record)?;
    let inventory = held.inventory.to_inventory();
    let packages = inventory.packages().iter().flat_map(|(key, versions)| {
        versions.iter().map(|version| Package {
            kind: key.kind,
            name: key.name.to_string(),
            version: version.to_string(),
            arch: key.arch.to_string(),
            purl: inventory.purl(key, version),
        })
    });
    Ok(DeviceInventory {
        head: view.head(record),
        digest: held.digest,
        changed_s: view.age(held.received),
        pending_restart: inventory.pending_restart,
        packages: packages.collect(),
        facts: inventory.facts().iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    })
}

/// One device's CycloneDX bill of materials.
pub(crate) fn bill(view: &View<'_>, query: &DeviceQuery) -> Result<impl serde::Serialize + use<>, Refusal> {
    let held = told(view, view.device_named(&query.device)?)?;
    // Names of source packages stay on the machine; `upswarm scan` has them.
    let scan = Scan { inventory: held.inventory.to_inventory(), ..Scan::default() };
    Ok(cyclonedx::bom(&scan, cyclonedx::serial(&scan), held.received))
}

/// Which devices have a package, and how many each version.
pub(crate) fn with_package(view: &View<'_>, query: &PackageQuery) -> Result<PackageHolders, Refusal> {
    let package = &query.package;
    let name = Name::new(package.as_str()).ok().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Refusal::Request(format!("{package:?} is no package's name")))?;
    let mut counts: BTreeMap<PackageKind, BTreeMap<String, usize>> = BTreeMap::new();
    let (mut devices, mut told) = (Vec::new(), 0);
    for record in view.devices() {
        let Some(held) = view.inventory(&record.device) else { continue };
        told += 1;
        for (key, installed) in held.inventory.named(&name) {
            for version in installed {
                *counts.entry(key.kind).or_default().entry(version.to_string()).or_default() += 1;
                devices.push(PackageHolder {
                    head: view.head(record),
                    kind: key.kind,
                    version: version.to_string(),
                    arch: key.arch.to_string(),
                });
            }
        }
    }
    devices.sort_by(|a, b| (&a.head.name, &a.head.device).cmp(&(&b.head.name, &b.head.device)));
    let mut versions = Vec::new();
    for (kind, counted) in counts {
        let mut counted: Vec<_> = counted.into_iter().collect();
        counted.sort_by(|(a, _), (b, _)| version::compare(kind, b, a));
        versions.extend(counted.into_iter().map(|(version, devices)| VersionCount { kind, version, devices }));
    }
    Ok(PackageHolders { package: package.clone(), versions, devices, told })
}

fn told<'a>(view: &View<'a>, record: &DeviceRecord) -> Result<&'a DeviceMessage, Refusal> {
    view.inventory(&record.device).ok_or_else(|| {
        let name = view.name(record);
        Refusal::Request(format!("{name} has not told its inventory yet; it does when it is next connected"))
    })
}
