//! What machines need and do not have: as they judged it themselves, and from their inventories where they are not told of a release.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use upswarm_protocol::catalog::Action;
use upswarm_protocol::coordinator::{DeviceRecord, Refusal};
use upswarm_protocol::evaluate::ScanState;
use upswarm_protocol::ids::{GroupId, ReleaseId};

use super::View;
use crate::api::catalog::CatalogRelease;
use crate::api::missing::{Missing, MissingDevice, MissingQuery, MissingRelease, NeedState};
use crate::coordinator::store::part::{Part, PartOf};

/// Releases with how many devices stand how with them, the most severe first.
pub(crate) fn missing(view: &View<'_>, query: &MissingQuery) -> Result<Missing, Refusal> {
    let release = query.release.as_deref().map(|text| view.catalog.release_named(text)).transpose();
    let release = release.map_err(Refusal::Request)?.map(|release| release.release);
    let of: Vec<&DeviceRecord> = match &query.device {
        Some(device) => vec![view.device_named(device)?],
        None => view.devices().collect(),
    };
    if let (Some(_), Some(record)) = (&query.device, of.first())
        && view.scan(&record.device).is_none()
    {
        let name = view.name(record);
        return Err(Refusal::Request(format!(
            "{name} has not told what it is missing; it does when it is next connected"
        )));
    }
    let mut parts: BTreeMap<PartOf<'_>, Part> = BTreeMap::new();
    for record in &of {
        parts.entry(PartOf::device(record)).or_insert_with(|| view.part(record));
    }
    let mut decided: BTreeMap<ReleaseId, Vec<(GroupId, bool)>> = BTreeMap::new();
    for approval in &view.catalog.approvals {
        decided.entry(approval.release).or_default().push((approval.group, approval.action == Action::Install));
    }
    let wanted = view.catalog.releases.iter().filter(|known| release.is_none_or(|release| release == known.release));
    let mut releases: Vec<MissingRelease> = wanted
        .map(|known| {
            let decided = decided.get(&known.release).map(Vec::as_slice).unwrap_or_default();
            count(view, (known, &parts), decided, &of, release.is_some())
        })
        .filter(|found| query.all || release.is_some() || found.required > 0)
        .collect();
    releases.sort_by_key(|found| (Reverse(found.severity), Reverse(found.required), found.product.clone()));
    Ok(Missing { devices: of.len(), releases })
}

fn count(
    view: &View<'_>,
    (known, parts): (&CatalogRelease, &BTreeMap<PartOf<'_>, Part>),
    decided: &[(GroupId, bool)],
    of: &[&DeviceRecord],
    by_device: bool,
) -> MissingRelease {
    let groups = |approved: bool| {
        let found = decided.iter().filter(|(_, yes)| *yes == approved);
        found.map(|(group, _)| view.names.group_name(group)).collect()
    };
    let mut counts: BTreeMap<NeedState, usize> = BTreeMap::new();
    let mut devices = Vec::new();
    for record in of {
        let part = parts.get(&PartOf::device(record));
        let state = match part.and_then(|part| view.need(&record.device, part, &known.release)) {
            None => NeedState::NotTold,
            Some(ScanState::Unknown) => NeedState::Unknown,
            Some(ScanState::NotApplicable) => NeedState::NotApplicable,
            Some(ScanState::Installed) => NeedState::Installed,
            Some(ScanState::Required) => {
                let mut of_it = decided.iter().filter(|(group, _)| record.groups.contains(group)).peekable();
                let declined = of_it.peek().is_some() && of_it.all(|(_, yes)| !yes);
                if declined { NeedState::Declined } else { NeedState::Required }
            }
        };
        *counts.entry(state).or_default() += 1;
        if by_device {
            devices.push(MissingDevice { head: view.head(record), state });
        }
    }
    devices.sort_by(|a, b| (&a.head.name, &a.head.device).cmp(&(&b.head.name, &b.head.device)));
    let count = |state| counts.get(&state).copied().unwrap_or(0);
    MissingRelease {
        release: known.release,
        product: known.product.clone(),
        version: known.version.clone(),
        title: known.title.clone(),
        classification: known.classification,
        severity: known.severity,
        approved: groups(true),
        unwanted_in: groups(false),
        required: count(NeedState::Required),
        installed: count(NeedState::Installed),
        not_applicable: count(NeedState::NotApplicable),
        unknown: count(NeedState::Unknown),
        not_told: count(NeedState::NotTold),
        declined: count(NeedState::Declined),
        devices,
    }
}
