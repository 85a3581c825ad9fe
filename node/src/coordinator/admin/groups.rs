//! Groups: made by name or by conditions, filled by hand or by inventories.

use std::collections::{BTreeMap, BTreeSet};

use upswarm_protocol::catalog::{GroupDocument, MAX_LISTED, Members};
use upswarm_protocol::codec::{self, Bounded, Text};
use upswarm_protocol::coordinator::{Command, DeviceRecord, Refusal};
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::{DeviceId, DocHash, GroupId};
use upswarm_protocol::inventory::{Conditions, FACT_RESTART_PENDING};
use upswarm_protocol::trust::validate_group;

use super::{Decision, Desk, View, deeds};
use crate::api::actor::Actor;
use crate::api::approvals::{Accepted, HexBytes};
use crate::api::audit::{Deed, Topic};
use crate::api::devices::DeviceName;
use crate::api::groups::{
    Belong, GroupDraft, GroupMade, GroupRow, Groups, ListDraft, MemberRequest, Membership, NewGroup, SignedGroup,
};
use crate::coordinator::keys;
use crate::inventory as machine;

/// Facts that a refusal names.
const NAMED: usize = 12;

/// What becomes of a request for a group.
pub(crate) enum Made {
    /// It is only shown.
    Shown(GroupMade),
    /// It has a name: it is made when the names are on disk.
    Named(GroupMade),
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
            signed: view.catalog.groups.get(group).and_then(|group| view.catalog.described.get(group)).cloned(),
        }
    };
    Groups { groups: members.into_iter().map(row).collect() }
}

/// Makes a group by its name; where it is said who belongs to it, drafts what approvers are to sign about it.
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
        draft: None,
    };
    if request.conditions.is_empty() && request.members.is_none() {
        made.id = Some(new_name(desk, &request.group)?);
        tracing::info!(%actor, group = request.group, "a group is made");
        return Ok(Made::Named(made));
    }
    let before: BTreeSet<DeviceId> = known.map_or_else(BTreeSet::new, |group| {
        let members = desk.state.devices().filter(|record| record.groups.contains(&group));
        members.map(|record| record.device).collect()
    });
    let members = if request.conditions.is_empty() {
        request.members.map_or(Belonging::Coordinator, |members| match members {
            Belong::List => Belonging::List,
            Belong::Coordinator => Belonging::Coordinator,
        })
    } else {
        Belonging::Rule(rule(desk, known, request, &before)?)
    };
    let after = match &members {
        Belonging::Rule(conditions) => desk.state.fulfilling(conditions).into_iter().collect(),
        _ => before.clone(),
    };
    if let Belonging::Rule(conditions) = &members {
        made.conditions = conditions.iter().map(ToString::to_string).collect();
    }
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
    made.draft = Some(draft(desk, (group, &request.group), &members, &made.members)?);
    tracing::info!(%actor, group = request.group, members = made.members.len(), "what a group is, is drafted");
    Ok(Made::Named(made))
}

/// What the log says when a group has got its name; what it is, is signed apart.
pub(crate) fn made_deed(made: &GroupMade) -> Option<Deed> {
    made.new.then(|| Deed::new(Topic::Group, format!("the group {} was made", made.group)))
}

/// Who belongs to a group.
enum Belonging {
    Rule(Conditions),
    List,
    Coordinator,
}

fn rule(
    desk: &Desk<'_>,
    known: Option<GroupId>,
    request: &NewGroup,
    before: &BTreeSet<DeviceId>,
) -> Result<Conditions, Refusal> {
    let conditions = conditions(desk, &request.conditions)?;
    let follows = known.is_some_and(|group| desk.state.follows(&group));
    if known.is_some() && !follows && !before.is_empty() {
        return Err(Refusal::Request(format!(
            "{} machines were put into the group {:?} by hand; take another name for the conditions",
            before.len(),
            request.group
        )));
    }
    Ok(conditions)
}

/// The bytes that approvers are to sign.
fn draft(
    desk: &Desk<'_>,
    (group, name): (GroupId, &str),
    members: &Belonging,
    devices: &[DeviceName],
) -> Result<GroupDraft, Refusal> {
    let wrong = |error: &dyn std::fmt::Display| Refusal::Content(error.to_string());
    let list = match members {
        Belonging::List if devices.is_empty() => {
            return Err(Refusal::Request(format!(
                "no machine is in the group {name:?} yet; upswarm group assign puts one in"
            )));
        }
        Belonging::List => {
            let secret = keys::random::<32>().map_err(|error| wrong(&error))?;
            Some(ListDraft { secret: HexBytes(secret.to_vec()), devices: devices.to_vec() })
        }
        _ => None,
    };
    let members = match (members, &list) {
        (Belonging::Rule(conditions), _) => {
            Members::Rule(Bounded::truncated(conditions.iter().map(|condition| condition.to_text()).collect()))
        }
        (_, Some(list)) => {
            let list =
                list.list().ok_or_else(|| wrong(&format!("at most {MAX_LISTED} machines have room in a list")))?;
            Members::List(list.tree().root())
        }
        _ => Members::Listed,
    };
    let version = desk.state.group_document(&group).map_or(0, |known| known.version).saturating_add(1);
    let name = Text::new(name).map_err(|error| wrong(&error))?;
    let document = GroupDocument { group, version, name, issued: desk.view.now, members };
    validate_group(&document).map_err(|error| wrong(&error))?;
    let body = codec::encode(&document, Kind::Group.cap()).map_err(|error| wrong(&error))?;
    Ok(GroupDraft { body: HexBytes(body), list, before: None })
}

/// Adds to a draft what it replaces, so that whoever signs it can tell that no version is skipped. `document` reads the stored envelope
/// of a hash.
pub(crate) fn with_before(
    view: &View<'_>,
    mut made: GroupMade,
    document: impl Fn(&DocHash) -> std::io::Result<Vec<u8>>,
) -> Result<GroupMade, Refusal> {
    let before = made.id.and_then(|group| view.catalog.described.get(&group));
    if let (Some(draft), Some(known)) = (&mut made.draft, before) {
        let hash = &known.document;
        let unreadable = |error| Refusal::Request(format!("the stored document {hash} cannot be read: {error}"));
        draft.before = Some(HexBytes(document(hash).map_err(unreadable)?));
    }
    Ok(made)
}

/// Takes what approvers have signed about a group; the core verifies it.
pub(crate) fn describe(actor: &Actor, desk: &Desk<'_>, signed: SignedGroup) -> Result<Decision<Accepted>, Refusal> {
    let document = signed.document.0;
    let wrong = |error: &dyn std::fmt::Display| Refusal::Content(error.to_string());
    // Only to hold it against the names here: whether it is believed is the core's to say.
    let body =
        Envelope::parse(&document, Kind::Group, Role::Approver).map_err(|error| wrong(&error))?.unverified_body();
    let said: GroupDocument = codec::decode(body, Kind::Group.cap()).map_err(|error| wrong(&error))?;
    if desk.names.group(&said.name) != Some(said.group) {
        return Err(Refusal::Request(format!("the group {} is not called {:?} here", said.group, said.name)));
    }
    let list = signed.list.map(|list| list.list().ok_or_else(|| wrong(&"the list is longer than a list may be")));
    let list = list.transpose()?;
    tracing::info!(%actor, group = said.name.as_str(), version = said.version, "what a group is, is submitted");
    let deed = deeds::group(desk, &document, &said);
    Ok(Decision::new(Command::Group { document, list }, deed, |done| Accepted { index_version: done.index_version }))
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
    let verb = if request.member { "was put into" } else { "was taken out of" };
    let as_before = if changed { "" } else { ", as before" };
    let what = format!("{} ({}) {verb} group {}{as_before}", answer.name, device.short(), request.group);
    Ok(Decision::new(Command::Assign { device, groups }, Deed::new(Topic::Group, what), |_| answer))
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
    if desk.state.follows(&group) {
        return Err(Refusal::Request(format!(
            "the members of the group {name:?} follow from a rule or a list that an approver signed; change that with: upswarm group \
             add {name} --where ... or upswarm group sign {name}, or take another group"
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
