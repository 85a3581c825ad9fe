//! Having machines try again what failed or waits there. Owns whom that concerns, and who hears of it; what may be tried is each
//! machine's own word.

use std::collections::BTreeSet;

use upswarm_protocol::catalog::Action;
use upswarm_protocol::coordinator::{Command, DeviceRecord, Refusal};
use upswarm_protocol::ids::GroupId;
use upswarm_protocol::report::DeploymentState;

use super::{Decision, Desk};
use crate::api::actor::Actor;
use crate::api::audit::{Deed, Topic};
use crate::api::retries::{Retried, RetryRequest};

/// Asks every machine that it concerns and that is connected, and through those their neighbours.
pub(crate) fn retry(actor: &Actor, desk: &Desk<'_>, request: &RetryRequest) -> Result<Decision<Retried>, Refusal> {
    let view = desk.view;
    let release = view.catalog.release_named(&request.release).map_err(Refusal::Request)?;
    let group = request.group.as_deref().map(|name| desk.group_named(name)).transpose()?;
    let device = request.device.as_deref().map(|text| view.device_named(text)).transpose()?;
    let (id, what) = (release.release, format!("{} {}", release.product, release.version));
    let approvals = view.catalog.approvals.iter().filter(|known| known.release == id && known.action != Action::None);
    let approved: BTreeSet<GroupId> =
        approvals.map(|known| known.group).filter(|of| group.is_none_or(|group| group == *of)).collect();
    if approved.is_empty() {
        let place = request.group.as_ref().map_or_else(String::new, |group| format!(" for group {group}"));
        return Err(Refusal::Request(format!(
            "{what} is not approved{place}, so there is nothing to try; approve it first"
        )));
    }
    let concerned = |record: &&DeviceRecord| {
        device.is_none_or(|device| device.device == record.device)
            && record.groups.iter().any(|group| approved.contains(group))
    };
    let reached: Vec<&DeviceRecord> = view.devices().filter(concerned).collect();
    if reached.is_empty() {
        let who = request.device.as_ref().map_or("any machine", |device| device.as_str());
        return Err(Refusal::Request(format!("{what} is not approved for {who}, so there is nothing to try")));
    }
    let is_at_its_end = |record: &DeviceRecord| {
        use DeploymentState as S;
        let told = view.deployments(&record.device).iter().find(|told| told.release == id);
        told.is_some_and(|told| {
            matches!(told.state, S::Installed | S::RestartRequired | S::Uninstalled | S::Superseded | S::NotApplicable)
        })
    };
    let uplinks: BTreeSet<_> =
        view.devices().filter(|record| view.is_connected(&record.device)).map(|record| record.site).collect();
    let (mut asked, mut through_neighbours, mut not_connected) = (Vec::new(), Vec::new(), Vec::new());
    for record in reached.iter().filter(|record| !is_at_its_end(record)) {
        let side = if view.is_connected(&record.device) {
            &mut asked
        } else if uplinks.contains(&record.site) {
            &mut through_neighbours
        } else {
            &mut not_connected
        };
        side.push(view.named(record));
    }
    if asked.is_empty() && through_neighbours.is_empty() && not_connected.is_empty() {
        let text =
            format!("{what} has come to its end on each of {} machines; there is nothing to try again", reached.len());
        return Err(Refusal::Request(text));
    }
    tracing::info!(%actor, what, asked = asked.len(), "machines are to try again");
    let command = Command::Retry { release: id, group, device: device.map(|record| record.device) };
    let of_group = request.group.as_ref().map_or_else(String::new, |group| format!(" of group {group}"));
    let who = match device {
        Some(record) => view.name(record),
        None => format!("{} machines{of_group}", asked.len() + through_neighbours.len() + not_connected.len()),
    };
    let deed = Deed::new(Topic::Retry, format!("{who} were asked to try {what} again"));
    Ok(Decision::new(command, deed, move |_| Retried { release: id, what, asked, through_neighbours, not_connected }))
}
