//! Groups: made by name or by conditions, filled by hand or by inventories.

use std::collections::{BTreeMap, BTreeSet};

use upswarm_protocol::codec::Bounded;
use upswarm_protocol::coordinator::{Command, DeviceRecord, Refusal};
use upswarm_protocol::ids::{DeviceId, GroupId};
use upswarm_protocol::inventory::{Conditions, FACT_RESTART_PENDING};

use super::{Decision, Desk, View};
use crate::api::actor::Actor;
use crate::api::devices::DeviceName;
use crate::api::groups::{GroupMade, GroupRow, Groups, MemberRequest, Membership, NewGroup};
use crate::inventory as machine;

/// Facts that a refusal names.
const NAMED: usize = 12;

/// What becomes of a request for a group.
pub(crate) enum Made {
    /// It is only shown.
    Shown(GroupMade),
    /// Its name was added: it is made when the names are on disk.
    Named(GroupMade),
    /// The core has to agree, after the names are on disk.
    Conditions(Decision<GroupMade>),
}

/// Every group with its members.
pub(crate) fn list(view: &View<'_>) -> Groups {
    let mut members: BTreeMap<&str, Vec<DeviceName>> =
        view.catalog.groups.keys().map(|group| (group.as_str(), Vec::new())).collect();
    for record in view.devices() {
        for group in record.groups.iter() {
            if let Some(found) = view.names.group_of(group).and_then(|name| members.get_mut(name)) {
                found.push(view.named(record));
            }
        }
    }
    let row = |(group, mut devices): (&str, Vec<DeviceName>)| {
        devices.sort_by(|a, b| (&a.name, &a.device).cmp(&(&b.name, &b.device)));
        GroupRow {
            group: group.to_owned(),
            id: view.catalog.groups.get(group).copied(),
            devices,
            conditions: view.catalog.conditions.get(group).cloned(),
        }
    };
    Groups { groups: members.into_iter().map(row).collect() }
}

/// Makes a group, or gives a dynamic one other conditions.
pub(crate) fn add(actor: &Actor, desk: &mut Desk<'_>, request: &NewGroup) -> Result<Made, Refusal> {
    let known = desk.names.group(&request.group);
    let mut made = GroupMade {
        group: request.group.clone(),
        id: known,
        new: known.is_none(),
        conditions: Vec::new(),
        members: Vec::new(),
        join: Vec::new(),
        leave: Vec::new(),
        dry_run: request.dry_run,
    };
    if request.conditions.is_empty() {
        made.id = Some(new_name(desk, &request.group)?);
        tracing::info!(%actor, group = request.group, "a group is made");
        return Ok(Made::Named(made));
    }
    let conditions = conditions(desk, &request.conditions)?;
    let before: BTreeSet<DeviceId> = known.map_or_else(BTreeSet::new, |group| {
        let members = desk.state.devices().filter(|record| record.groups.contains(&group));
        members.map(|record| record.device).collect()
    });
    if known.is_some_and(|group| !desk.state.dynamic_groups().contains_key(&group)) && !before.is_empty() {
        return Err(Refusal::Request(format!(
            "{} machines were put into the group {:?} by hand; take another name for the conditions",
            before.len(),
            request.group
        )));
    }
    let after: BTreeSet<DeviceId> = desk.state.fulfilling(&conditions).into_iter().collect();
    made.conditions = conditions.iter().map(ToString::to_string).collect();
    for record in desk.state.devices() {
        let (was, will) = (before.contains(&record.device), after.contains(&record.device));
        let mut tell = |list: fn(&mut GroupMade) -> &mut Vec<DeviceName>| list(&mut made).push(desk.view.named(record));
        if will {
            tell(|made| &mut made.members);
        }
        match (was, will) {
            (false, true) => tell(|made| &mut made.join),
            (true, false) => tell(|made| &mut made.leave),
            _ => {}
        }
    }
    if request.dry_run {
        return Ok(Made::Shown(made));
    }
    let group = new_name(desk, &request.group)?;
    made.id = Some(group);
    tracing::info!(%actor, group = request.group, members = made.members.len(), "a group follows conditions");
    Ok(Made::Conditions(Decision::new(Command::Condition { group, conditions }, |_| made)))
}

/// Puts a device into a group or takes it out.
pub(crate) fn member(actor: &Actor, desk: &Desk<'_>, request: &MemberRequest) -> Result<Decision<Membership>, Refusal> {
    let record = desk.view.device_named(&request.device)?;
    let (groups, changed) = membership(desk, record, &request.group, request.member)?;
    tracing::info!(%actor, device = %record.device.short(), group = request.group, member = request.member, "a membership is set");
    let device = record.device;
    let answer = Membership {
        device,
        name: desk.view.name(record),
        groups: groups.iter().map(|group| desk.names.group_name(group)).collect(),
        changed,
        heard: !changed && desk.view.said(&device).is_some_and(|said| said.papers.assignment >= record.assigned),
    };
    Ok(Decision::new(Command::Assign { device, groups }, |_| answer))
}

fn new_name(desk: &mut Desk<'_>, group: &str) -> Result<GroupId, Refusal> {
    desk.names.group_or_new(group).map_err(|error| Refusal::Request(error.to_string()))
}

/// The groups of a device after a change, and whether it is one.
fn membership(
    desk: &Desk<'_>,
    record: &DeviceRecord,
    name: &str,
    member: bool,
) -> Result<(Bounded<GroupId, 64>, bool), Refusal> {
    let group = desk.group_named(name)?;
    if let Some(conditions) = desk.state.dynamic_groups().get(&group) {
        let texts: Vec<String> = conditions.iter().map(ToString::to_string).collect();
        return Err(Refusal::Request(format!(
            "the members of the group {name:?} follow from their inventories ({}); change its conditions with: upswarm group \
             add {name} --where ..., or take another group",
            texts.join(" and ")
        )));
    }
    let mut groups = record.groups.to_vec();
    let change = groups.contains(&group) != member;
    groups.retain(|known| *known != group);
    if member {
        groups.push(group);
        groups.sort();
    }
    let groups = Bounded::new(groups)
        .map_err(|_| Refusal::Request("a device belongs to at most 64 groups; take it out of one first".to_owned()))?;
    Ok((groups, change))
}

/// Reads a group's conditions, and refuses facts that no machine could tell.
fn conditions(desk: &Desk<'_>, texts: &[String]) -> Result<Conditions, Refusal> {
    let conditions = Conditions::parse(texts).map_err(|error| Refusal::Request(error.to_string()))?;
    let told = desk.state.fact_names();
    let known = |name: &str| {
        name == FACT_RESTART_PENDING
            || machine::KNOWN_FACTS.contains(&name)
            || machine::KNOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || told.iter().any(|known| known == name)
    };
    let Some(name) = conditions.facts().find(|name| !known(name)).cloned() else { return Ok(conditions) };
    let mut facts: Vec<&str> = machine::KNOWN_FACTS.iter().copied().chain(told.iter().map(String::as_str)).collect();
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
