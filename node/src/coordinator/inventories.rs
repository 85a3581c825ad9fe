//! What the admin is told of inventories and scans, and what is asked of a group's conditions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::coordinator_state::{CoordinatorState, DeviceRecord, Refusal};
use upswarm_protocol::evaluate::ScanState;
use upswarm_protocol::ids::{DeviceId, ReleaseId};
use upswarm_protocol::inventory::{Conditions, FACT_RESTART, FACT_RESTART_PENDING, Name};
use upswarm_protocol::time::Wall;
use upswarm_protocol::version;

use super::fleet::Fleet;
use super::names::Names;
use crate::inventory::{self as machine, Scan, cyclonedx};

/// Facts that a refusal names.
const NAMED: usize = 12;

/// `GET /admin/v1/inventory`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InventoryQuery {
    /// Everything of one device; without it a line of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<DeviceId>,
    /// Which devices have this package, in which version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) package: Option<String>,
    /// The device's inventory as a CycloneDX bill of materials.
    #[serde(default)]
    pub(crate) cyclonedx: bool,
}

/// `GET /admin/v1/missing`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MissingQuery {
    /// What this device is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<DeviceId>,
    /// How each device stands with this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<ReleaseId>,
}

/// Everything that answers are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) state: &'a CoordinatorState,
    pub(crate) fleet: &'a Fleet,
    pub(crate) names: &'a Names,
    pub(crate) now: Wall,
}

impl<'a> View<'a> {
    /// The answer to [`InventoryQuery`].
    pub(crate) fn inventory(self, query: &InventoryQuery) -> Result<Value, Refusal> {
        match (&query.device, &query.package) {
            (Some(device), None) if query.cyclonedx => self.bill(device),
            _ if query.cyclonedx => Err(Refusal::Request("a bill of materials is of one device; name it".to_owned())),
            (Some(device), None) => self.packages(device),
            (None, Some(package)) => self.devices_with(package),
            (None, None) => Ok(self.summary()),
            (Some(_), Some(_)) => Err(Refusal::Request("name a device or a package, not both".to_owned())),
        }
    }

    /// Devices that are not shut out.
    fn devices(self) -> impl Iterator<Item = &'a DeviceRecord> {
        let revoked = self.state.revoked();
        self.state.devices().filter(move |record| !revoked.contains(&record.device))
    }

    fn record(self, device: &DeviceId) -> Result<&'a DeviceRecord, Refusal> {
        self.state.devices().find(|record| record.device == *device).ok_or(Refusal::UnknownDevice(*device))
    }

    /// What every view of a device begins with.
    fn head(self, record: &DeviceRecord) -> Value {
        json!({
            "device": record.device,
            "name": self.fleet.name(record),
            "site": self.names.site_name(&record.site),
            "last_seen_s": self.fleet.last_seen(&record.device).map(|at| self.now.since(at).as_secs()),
        })
    }

    fn summary(self) -> Value {
        let devices = self.devices().map(|record| {
            let mut view = self.head(record);
            let Some(held) = self.state.inventory(&record.device) else {
                view["told"] = json!(false);
                return view;
            };
            let fact = |name: &str| held.shelved.fact(name);
            for (field, value) in [
                ("told", json!(true)),
                ("os", json!(fact(machine::FACT_OS_NAME))),
                ("kernel", json!(fact(machine::FACT_KERNEL))),
                ("vendor", json!(fact(machine::FACT_VENDOR))),
                ("product", json!(fact(machine::FACT_PRODUCT))),
                ("cpu", json!(fact(machine::FACT_CPU_MODEL))),
                ("cores", json!(fact(machine::FACT_CPU_CORES).and_then(|cores| cores.parse::<u32>().ok()))),
                ("memory_mib", json!(fact(machine::FACT_MEMORY).and_then(|mib| mib.parse::<u64>().ok()))),
                ("packages", json!(held.shelved.packages())),
                ("pending_restart", json!(held.shelved.pending_restart())),
                ("restart_reason", json!(fact(FACT_RESTART))),
                ("changed_s", json!(self.now.since(held.received).as_secs())),
            ] {
                view[field] = value;
            }
            view
        });
        json!({ "devices": devices.collect::<Vec<_>>() })
    }

    fn packages(self, device: &DeviceId) -> Result<Value, Refusal> {
        let record = self.record(device)?;
        let held = self.told(record)?;
        let inventory = held.shelved.to_inventory();
        let packages = inventory.packages().iter().flat_map(|(key, versions)| {
            versions.iter().map(|version| {
                json!({
                    "kind": key.kind,
                    "name": key.name.as_str(),
                    "version": version.as_str(),
                    "arch": key.arch.as_str(),
                    "purl": inventory.purl(key, version),
                })
            })
        });
        let facts: BTreeMap<&str, &str> =
            inventory.facts().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut view = self.head(record);
        view["digest"] = json!(held.digest);
        view["changed_s"] = json!(self.now.since(held.received).as_secs());
        view["pending_restart"] = json!(inventory.pending_restart);
        view["packages"] = packages.collect();
        view["facts"] = json!(facts);
        Ok(view)
    }

    fn bill(self, device: &DeviceId) -> Result<Value, Refusal> {
        let held = self.told(self.record(device)?)?;
        // Names of source packages stay on the machine; `upswarm scan` has them.
        let scan = Scan { inventory: held.shelved.to_inventory(), ..Scan::default() };
        let bill = cyclonedx::bom(&scan, cyclonedx::serial(&scan), held.received);
        serde_json::to_value(&bill).map_err(|error| Refusal::Request(error.to_string()))
    }

    fn told(self, record: &DeviceRecord) -> Result<&'a upswarm_protocol::coordinator_state::DeviceInventory, Refusal> {
        self.state.inventory(&record.device).ok_or_else(|| {
            let name = self.fleet.name(record);
            Refusal::Request(format!("{name} has not told its inventory yet; it does when it is next connected"))
        })
    }

    /// Which devices have a package, and how many each version.
    fn devices_with(self, package: &str) -> Result<Value, Refusal> {
        let name = Name::new(package).ok().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Refusal::Request(format!("{package:?} is no package's name")))?;
        let mut versions: BTreeMap<PackageKind, BTreeMap<String, usize>> = BTreeMap::new();
        let mut devices = Vec::new();
        for record in self.devices() {
            let Some(held) = self.state.inventory(&record.device) else { continue };
            for (key, installed) in held.shelved.named(&name) {
                for version in installed {
                    *versions.entry(key.kind).or_default().entry(version.to_string()).or_default() += 1;
                    let mut view = self.head(record);
                    view["kind"] = json!(key.kind);
                    view["version"] = json!(version.as_str());
                    view["arch"] = json!(key.arch.as_str());
                    devices.push(view);
                }
            }
        }
        let mut counted = Vec::new();
        for (kind, versions) in versions {
            let mut versions: Vec<_> = versions.into_iter().collect();
            versions.sort_by(|(a, _), (b, _)| version::compare(kind, b, a));
            counted.extend(
                versions
                    .into_iter()
                    .map(|(version, count)| json!({ "kind": kind, "version": version, "devices": count })),
            );
        }
        let told = self.devices().filter(|record| self.state.inventory(&record.device).is_some()).count();
        Ok(json!({ "package": package, "versions": counted, "devices": devices, "told": told }))
    }

    /// The answer to [`MissingQuery`].
    pub(crate) fn missing(self, query: &MissingQuery) -> Result<Value, Refusal> {
        let releases = self.state.releases();
        if let Some(release) = query.release
            && !releases.contains_key(&release)
        {
            return Err(Refusal::UnknownRelease(release));
        }
        let of: Vec<&DeviceRecord> = match &query.device {
            Some(device) => vec![self.record(device)?],
            None => self.devices().collect(),
        };
        if let (Some(_), Some(record)) = (&query.device, of.first())
            && self.state.scan(&record.device).is_none()
        {
            let name = self.fleet.name(record);
            return Err(Refusal::Request(format!(
                "{name} has not told what it is missing; it does when it is next connected"
            )));
        }
        let mut approved: BTreeMap<ReleaseId, Vec<String>> = BTreeMap::new();
        for (group, release) in self.state.approvals().keys() {
            approved.entry(*release).or_default().push(self.names.group_name(group));
        }
        let wanted = releases.iter().filter(|(id, _)| query.release.is_none_or(|release| release == **id));
        let views = wanted.map(|(id, known)| {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            let mut devices = Vec::new();
            for record in &of {
                let state = self.state.scan(&record.device).and_then(|scan| scan.state(id, releases.len()));
                let word = word(state);
                *counts.entry(word).or_default() += 1;
                if query.release.is_some() {
                    let mut view = self.head(record);
                    view["state"] = json!(word);
                    devices.push(view);
                }
            }
            let count = |state: &str| counts.get(state).copied().unwrap_or(0);
            let mut view = json!({
                "release": id,
                "product": known.release.product.as_str(),
                "version": known.release.version.as_str(),
                "title": known.release.title.as_str(),
                "classification": known.release.classification,
                "severity": known.release.severity,
                "approved": approved.get(id).cloned().unwrap_or_default(),
                "required": count("Required"),
                "installed": count("Installed"),
                "not_applicable": count("NotApplicable"),
                "unknown": count("Unknown"),
                "not_told": count("NotTold"),
            });
            if query.release.is_some() {
                view["devices"] = json!(devices);
            }
            view
        });
        let mut views: Vec<Value> = views.collect();
        let severity = |view: &Value| {
            view["release"]
                .as_str()
                .and_then(|id| id.parse().ok())
                .and_then(|id: ReleaseId| releases.get(&id))
                .map(|known| known.release.severity)
        };
        views.sort_by_key(|view| std::cmp::Reverse((severity(view), view["required"].as_u64())));
        Ok(json!({ "devices": of.len(), "releases": views }))
    }

    /// What the fleet's status says of a device besides its reports.
    pub(crate) fn status(state: &CoordinatorState, device: &DeviceId) -> Value {
        let held = state.inventory(device);
        let counts = state.scan(device).map(|scan| scan.counts);
        json!({
            "packages": held.map(|held| held.shelved.packages()),
            "pending_restart": held.map(|held| held.shelved.pending_restart()),
            "time_zone": held.and_then(|held| held.shelved.fact(machine::FACT_TIME_ZONE)),
            "scan": counts.map(|[unknown, not_applicable, required, installed]| json!({
                "unknown": unknown, "not_applicable": not_applicable, "required": required, "installed": installed,
            })),
        })
    }

    /// Reads a group's conditions, and refuses facts that no machine could tell.
    pub(crate) fn conditions(self, texts: &[String]) -> Result<Conditions, Refusal> {
        let conditions = Conditions::parse(texts).map_err(|error| Refusal::Request(error.to_string()))?;
        let told = self.state.fact_names();
        let known = |name: &str| {
            name == FACT_RESTART_PENDING
                || machine::KNOWN_FACTS.contains(&name)
                || machine::KNOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || told.iter().any(|known| known == name)
        };
        let strange = conditions.facts().find(|name| !known(name)).cloned();
        match strange {
            None => Ok(conditions),
            Some(name) => {
                let mut facts: Vec<&str> =
                    machine::KNOWN_FACTS.iter().copied().chain(told.iter().map(String::as_str)).collect();
                facts.sort_unstable();
                facts.dedup();
                // The nearest first: those that share most of their beginning.
                let shared = |fact: &&str| fact.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
                facts.sort_by_key(|fact| std::cmp::Reverse(shared(fact)));
                facts.truncate(NAMED);
                Err(Refusal::Request(format!(
                    "no machine tells a fact {:?}; facts are for example {}; packages are written package:NAME",
                    name.as_str(),
                    facts.join(", ")
                )))
            }
        }
    }
}

fn word(state: Option<ScanState>) -> &'static str {
    match state {
        None => "NotTold",
        Some(ScanState::Unknown) => "Unknown",
        Some(ScanState::NotApplicable) => "NotApplicable",
        Some(ScanState::Required) => "Required",
        Some(ScanState::Installed) => "Installed",
    }
}
