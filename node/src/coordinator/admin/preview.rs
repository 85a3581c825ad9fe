//! Whom an approval would affect, and when, before anything is signed. Looks at each device of the group once.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use upswarm_protocol::catalog::{Action, Approval};
use upswarm_protocol::coordinator::Refusal;
use upswarm_protocol::evaluate::ScanState;
use upswarm_protocol::report::DeploymentState;
use upswarm_protocol::schedule::{DeviceFacts, earliest, ring_of, zone};
use upswarm_protocol::time::Wall;

use super::View;
use crate::api::approvals::{Preview, PreviewDevice, PreviewRing};
use crate::api::catalog::{CatalogApproval, CatalogRelease};
use crate::api::schedule::percent;
use crate::coordinator::store::part::{Part, PartOf};

/// The devices of one ring.
struct Stage {
    up_to: u16,
    begins: Wall,
    devices: Vec<(Option<Wall>, PreviewDevice)>,
    needing: usize,
}

/// The effect of an approval on its group. Windows are read in each machine's own time zone, and in the fallback where that is
/// not known.
pub(super) fn of(
    view: &View<'_>,
    approval: &Approval,
    (group, release): (&str, &CatalogRelease),
    before: Option<&CatalogApproval>,
    (fallback_name, fallback): (&str, &TimeZone),
) -> Preview {
    let mut rings = stages(approval);
    let mut zones: BTreeMap<String, Option<TimeZone>> = BTreeMap::new();
    let (mut devices, mut required, mut already, mut not_applicable, mut with_zone) = (0, 0, 0, 0, 0);
    let mut left_out = Vec::new();
    // The lowest place of a device that needs it: from there on a first ring would hold somebody.
    let mut first_place: Option<u16> = None;
    let mut parts: BTreeMap<PartOf<'_>, Part> = BTreeMap::new();
    for record in view.devices().filter(|record| record.groups.contains(&approval.group)) {
        let part = parts.entry(PartOf::device(record)).or_insert_with(|| view.part(record));
        let scanned = view.need(&record.device, part, &approval.release);
        // A deployment that was given up says nothing of the machine; one that is under way knows more than the scan.
        let deployed = view
            .deployments(&record.device)
            .iter()
            .find(|known| known.release == approval.release)
            .map(|known| known.state)
            .filter(|state| !matches!(state, DeploymentState::Canceled | DeploymentState::Superseded));
        let done = match (approval.action, deployed, scanned) {
            (Action::Uninstall, deployed, _) => deployed == Some(DeploymentState::Uninstalled),
            (_, Some(state), _) => matches!(state, DeploymentState::Installed | DeploymentState::RestartRequired),
            (_, None, scanned) => scanned == Some(ScanState::Installed),
        };
        let untouched = match deployed {
            Some(state) => state == DeploymentState::NotApplicable,
            None => scanned == Some(ScanState::NotApplicable),
        };
        let needs = scanned == Some(ScanState::Required);
        let state = deployed.map(|state| format!("{state:?}")).or_else(|| scanned.map(|state| format!("{state:?}")));
        let told = view.time_zone(&record.device);
        let zone_of = told.and_then(|name| {
            if !zones.contains_key(name) {
                zones.insert(name.to_owned(), zone(name));
            }
            zones.get(name)?.as_ref()
        });
        let facts = DeviceFacts {
            device: record.device,
            zone: zone_of.unwrap_or(fallback),
            awake_since: view.now,
            overdue_since: None,
            deferred: None,
        };
        devices += 1;
        required += usize::from(needs);
        already += usize::from(done);
        not_applicable += usize::from(untouched);
        with_zone += usize::from(zone_of.is_some());
        let place = ring_of(record.device, approval.release);
        // Who has said nothing may need it.
        let may_need = !done && !untouched;
        if may_need {
            first_place = Some(first_place.map_or(place, |first| first.min(place)));
        }
        let at = rings.iter().position(|ring| place < ring.up_to);
        let begins = at.and_then(|_| earliest(approval, &facts, view.now));
        let shown = PreviewDevice {
            device: record.device,
            name: view.name(record),
            state,
            time_zone: zone_of.and(told).map(str::to_owned),
            earliest: begins.map(|at| at.to_string()),
        };
        match at {
            Some(at) => {
                rings[at].devices.push((begins, shown));
                rings[at].needing += usize::from(may_need);
            }
            None => left_out.push(shown),
        }
    }
    let questions = questions(approval, &rings, (devices, left_out.len()), first_place);
    let rings = rings.into_iter().enumerate().map(|(at, stage)| stage.shown(at + 1)).collect();
    Preview {
        release: approval.release,
        product: release.product.clone(),
        version: release.version.clone(),
        group: group.to_owned(),
        group_id: approval.group,
        action: approval.action,
        replaces: before.map_or(0, |known| known.version),
        devices,
        required,
        already,
        not_applicable,
        zones: with_zone,
        zone: fallback_name.to_owned(),
        stop_above_percent: f64::from(approval.rings.stop_above) / 100.0,
        rings,
        left_out,
        held_by: if approval.action == Action::None { Vec::new() } else { view.holding(group, &approval.release) },
        questions,
    }
}

/// Refuses an approval that reaches nobody.
pub(super) fn must_reach_somebody(preview: &Preview) -> Result<(), Refusal> {
    let (group, devices) = (&preview.group, preview.devices);
    let refuse =
        |reason: String| Err(Refusal::Request(format!("{reason}; if that is what you want, say --allow-empty")));
    if preview.action == Action::None {
        return Ok(());
    }
    if devices == 0 {
        return refuse(format!("group {group:?} has no devices, so this approval would reach nobody"));
    }
    if preview.left_out.len() == devices {
        return refuse(format!("the rings leave out all {devices} devices of group {group:?}"));
    }
    if preview.rings.iter().flat_map(|ring| &ring.devices).all(|device| device.earliest.is_none()) {
        return refuse(format!("no device of group {group:?} could begin before the approval expires"));
    }
    if preview.not_applicable == devices {
        return refuse(format!("the release concerns no device of group {group:?}, by their last reports"));
    }
    Ok(())
}

fn stages(approval: &Approval) -> Vec<Stage> {
    let available_from = approval.schedule.available_from.unwrap_or_default();
    let stage = |up_to, delay_s: u32| Stage {
        up_to,
        begins: available_from.max(approval.issued + std::time::Duration::from_secs(delay_s.into())),
        devices: Vec::new(),
        needing: 0,
    };
    if approval.rings.rings.is_empty() || approval.schedule.expedite {
        return vec![stage(10_000, 0)];
    }
    approval.rings.rings.iter().map(|ring| stage(ring.up_to, ring.delay_s)).collect()
}

/// What the plan does that its writer may not have meant.
fn questions(
    approval: &Approval,
    rings: &[Stage],
    (devices, left_out): (usize, usize),
    first_place: Option<u16>,
) -> Vec<String> {
    let mut questions = Vec::new();
    if approval.action == Action::None || devices == 0 {
        return questions;
    }
    for (at, ring) in rings.iter().enumerate().filter(|_| rings.len() > 1) {
        if ring.needing > 0 {
            continue;
        }
        let holds = if ring.devices.is_empty() { "no device" } else { "no device that needs it" };
        let advice = match first_place.filter(|_| at == 0) {
            // Up to the next whole percent above the first one's place.
            Some(place) if place < 9_900 => {
                format!("; the first one comes in with {}", percent((place / 100 + 1) * 100))
            }
            _ => String::new(),
        };
        questions.push(format!(
            "ring {} (up to {}) holds {holds}: it tries nothing{advice}",
            at + 1,
            percent(ring.up_to)
        ));
    }
    let reach = rings.last().map_or(10_000, |ring| ring.up_to);
    if reach < 10_000 {
        let out = if left_out == 1 { "1 device".to_owned() } else { format!("{left_out} devices") };
        questions.push(format!(
            "the rings end at {}: {out} of the group would never get it by this approval",
            percent(reach)
        ));
    }
    questions
}

impl Stage {
    fn shown(mut self, ring: usize) -> PreviewRing {
        self.devices.sort_by(|(a_at, a), (b_at, b)| {
            (a_at.is_none(), a_at, &a.name, &a.device).cmp(&(b_at.is_none(), b_at, &b.name, &b.device))
        });
        let mut times = self.devices.iter().filter_map(|(at, _)| *at);
        let (earliest, latest) = (times.next(), times.next_back());
        PreviewRing {
            ring,
            up_to_percent: f64::from(self.up_to) / 100.0,
            begins: self.begins.to_string(),
            earliest: earliest.map(|at| at.to_string()),
            latest: latest.or(earliest).map(|at| at.to_string()),
            devices: self.devices.into_iter().map(|(_, device)| device).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
