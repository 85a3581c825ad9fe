//! The inventory as a CycloneDX bill of materials.
//!
//! Source: CycloneDX 1.6, ECMA-424, <https://cyclonedx.org/docs/1.6/json/>. The fields that an inventory has are few and of fixed
//! shape, so they are written down here.

use std::collections::BTreeSet;

use serde::Serialize;
use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::inventory::{FACT_OS_ID, FACT_OS_VERSION};
use upswarm_protocol::time::Wall;

use super::{FACT_HOSTNAME, FACT_KERNEL, FACT_OS_NAME, FACT_PRODUCT, FACT_VENDOR, Scan};

/// A bill of materials; serialize it as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bom {
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
}

#[derive(Debug, Serialize)]
struct Metadata {
    timestamp: String,
    lifecycles: [Lifecycle; 1],
    tools: Tools,
    component: Component,
}

#[derive(Debug, Serialize)]
struct Lifecycle {
    phase: &'static str,
}

#[derive(Debug, Serialize)]
struct Tools {
    components: [Component; 1],
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref", skip_serializing_if = "Option::is_none")]
    bom_ref: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manufacturer: Option<Organization>,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    properties: Vec<Property>,
}

#[derive(Debug, Serialize)]
struct Organization {
    name: String,
}

#[derive(Debug, Serialize)]
struct Property {
    name: String,
    value: String,
}

/// The bill of materials of a scanned machine: the machine as `metadata.component` with every fact as a property, then its
/// operating system, its kernel, and a component per installed version of a package. The same input gives the same bytes.
///
/// `serial` names the bill; each different one needs another ([`serial`] makes one from the inventory).
pub(crate) fn bom(scan: &Scan, serial: [u8; 16], made: Wall) -> Bom {
    let inventory = &scan.inventory;
    let fact = |name: &str| inventory.fact(name).filter(|value| !value.is_empty()).map(str::to_owned);
    let mut properties: Vec<Property> = inventory
        .facts()
        .iter()
        .map(|(name, value)| Property { name: format!("upswarm:fact:{name}"), value: value.to_string() })
        .collect();
    let restart = if inventory.pending_restart { "true" } else { "false" };
    properties.push(Property { name: "upswarm:pending-restart".into(), value: restart.into() });
    let device = Component {
        kind: "device",
        bom_ref: Some("device".into()),
        manufacturer: fact(FACT_VENDOR).map(|name| Organization { name }),
        name: fact(FACT_HOSTNAME).unwrap_or_else(|| "unknown".into()),
        description: fact(FACT_PRODUCT),
        properties,
        ..Component::default()
    };
    let tool = Component {
        kind: "application",
        name: "upswarm".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Component::default()
    };
    let mut components = Vec::new();
    if let Some(name) = fact(FACT_OS_ID) {
        components.push(Component {
            kind: "operating-system",
            bom_ref: Some("operating-system".into()),
            name,
            version: fact(FACT_OS_VERSION).unwrap_or_default(),
            description: fact(FACT_OS_NAME),
            ..Component::default()
        });
    }
    if let Some(version) = fact(FACT_KERNEL) {
        components.push(Component {
            kind: "platform",
            bom_ref: Some("kernel".into()),
            name: std::env::consts::OS.into(),
            version,
            description: Some("the running kernel".into()),
            ..Component::default()
        });
    }
    components.extend(packages(scan));
    Bom {
        bom_format: "CycloneDX",
        spec_version: "1.6",
        serial_number: urn(serial),
        version: 1,
        metadata: Metadata {
            timestamp: made.to_string(),
            lifecycles: [Lifecycle { phase: "operations" }],
            tools: Tools { components: [tool] },
            component: device,
        },
        components,
    }
}

/// A serial number from the inventory's digest: another inventory has another one.
pub(crate) fn serial(scan: &Scan) -> [u8; 16] {
    let mut serial = [0; 16];
    serial.copy_from_slice(&scan.inventory.digest().0[..16]);
    serial
}

fn packages(scan: &Scan) -> impl Iterator<Item = Component> + '_ {
    let mut refs = BTreeSet::new();
    let all = scan.inventory.packages().iter();
    let all = all.flat_map(|(key, versions)| versions.iter().map(move |version| (key, version)));
    all.map(move |(key, version)| {
        let purl = scan.inventory.purl(key, version);
        // Package URLs of Debian packages fold case; references must differ all the same.
        let mut bom_ref = purl.clone();
        while !refs.insert(bom_ref.clone()) {
            bom_ref.push('#');
        }
        let source = scan.sources.get(key);
        Component {
            kind: match key.kind {
                PackageKind::Deb | PackageKind::Rpm => "library",
                PackageKind::Flatpak | PackageKind::Snap => "application",
            },
            bom_ref: Some(bom_ref),
            name: key.name.to_string(),
            version: version.to_string(),
            purl: Some(purl),
            properties: source
                .map(|source| Property { name: "upswarm:source".into(), value: source.to_string() })
                .into_iter()
                .collect(),
            ..Component::default()
        }
    })
}

/// `urn:uuid:` with the bytes as a UUID of version 8, which is free to be made from anything (RFC 9562, section 5.8).
fn urn(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("urn:uuid:{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
