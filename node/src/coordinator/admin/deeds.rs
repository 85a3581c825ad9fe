//! What the log of decisions says of signed documents: what they are, what they replace, and who signed. Owns the words; whether a
//! document is believed, the core says, and the log has an entry only of one that it believed.

use upswarm_protocol::catalog::{
    Action, Approval, ApprovalRule, GroupDocument, Members, Release, Root, RuledApproval, Schedule,
};
use upswarm_protocol::codec;
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::DocHash;
use upswarm_protocol::keyring::Keys;

use super::Desk;
use super::standing::named;
use crate::api::audit::{Deed, KeyHolder, Topic};
use crate::api::rules::{RepositoryRule, Rule, RuleSet};
use crate::coordinator::store::rules::Rules;

/// A release was published.
pub(super) fn release(desk: &Desk<'_>, document: &[u8]) -> Deed {
    let opened: Option<(_, Release)> = open(document, Kind::Release, Role::Publisher);
    let Some((envelope, release)) = opened else { return unreadable(Topic::Release, document) };
    let title = if release.title.is_empty() { String::new() } else { format!("{}: ", release.title) };
    let what = format!("{title}{} {} was published", release.product, release.version);
    let keys = desk.state.root().publisher_of(release.product.as_str());
    signed(Topic::Release, what, document, holders(&envelope, keys))
}

/// A release was approved, declined or expedited in a group; what that replaces is said too.
pub(super) fn approval(desk: &Desk<'_>, document: &[u8]) -> Deed {
    let root = desk.state.root();
    let by_person: Option<(_, Approval)> = open(document, Kind::Approval, Role::Approver);
    let (approval, holders, by_rule) = match by_person {
        Some((envelope, approval)) => (approval, holders(&envelope, Some(&root.approvers)), String::new()),
        None => {
            let ruled: Option<(_, RuledApproval)> = open(document, Kind::Approval, Role::Online);
            let Some((_, ruled)) = ruled else { return unreadable(Topic::Approval, document) };
            let rule: Option<(_, ApprovalRule)> = open(&ruled.rule, Kind::RepositoryRule, Role::Approver);
            let (by, rule) = rule.map_or_else(
                || (Vec::new(), String::new()),
                |(envelope, rule)| (holders(&envelope, Some(&root.approvers)), format!(" by rule r{}", rule.number)),
            );
            (ruled.approval, by, rule)
        }
    };
    let catalog = &desk.view.catalog;
    let what = catalog.release(&approval.release).map_or_else(|| approval.release.short(), named);
    let group = desk.view.names.group_name(&approval.group);
    let mut words = format!(
        "{what} was {} for group {group}{by_rule}, version {}{}",
        verb(approval.action),
        approval.version,
        times(&approval.schedule)
    );
    if !approval.rings.rings.is_empty() {
        words.push_str(&format!(", in {} rings", approval.rings.rings.len()));
    }
    if let Some(before) = catalog.approval(&approval.group, &approval.release) {
        let document: String = before.document.to_string().chars().take(12).collect();
        words.push_str(&format!(
            "; replaces version {} ({}{}, document {document})",
            before.version,
            verb(before.action),
            times(&before.schedule)
        ));
    }
    if !approval.note.is_empty() {
        words.push_str(&format!("; note: {}", approval.note));
    }
    signed(Topic::Approval, words, document, holders)
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Install => "approved",
        Action::Uninstall => "approved for removal",
        Action::None => "declined",
    }
}

fn times(schedule: &Schedule) -> String {
    let mut words = String::new();
    if let Some(from) = schedule.available_from {
        words.push_str(&format!(", from {from}"));
    }
    if let Some(deadline) = schedule.deadline {
        words.push_str(&format!(", deadline {deadline}"));
    }
    if schedule.expedite {
        words.push_str(", to begin at once");
    }
    words
}

/// A root came into force; `differences` says what is other in it than in today's.
pub(super) fn root(desk: &Desk<'_>, document: &[u8], differences: fn(&Root, &Root) -> Vec<String>) -> Deed {
    let today = desk.state.root();
    let opened: Option<(_, Root)> = open(document, Kind::Root, Role::Root);
    let Some((envelope, next)) = opened else { return unreadable(Topic::Root, document) };
    // Those of today's root must have signed.
    let what = differences(today, &next).join("; ");
    signed(Topic::Root, what, document, holders(&envelope, Some(&today.root)))
}

/// What a group is was signed.
pub(super) fn group(desk: &Desk<'_>, document: &[u8], said: &GroupDocument) -> Deed {
    let members = match &said.members {
        Members::Listed => "whom the coordinator puts into it".to_owned(),
        Members::Rule(conditions) => {
            let texts: Vec<String> = conditions.iter().map(ToString::to_string).collect();
            format!("every machine with {}", texts.join(" and "))
        }
        Members::List(_) => "the machines of a signed list".to_owned(),
    };
    let before = desk.view.catalog.described.get(&said.group);
    let replaces = before.map_or_else(String::new, |known| format!("; replaces version {}", known.version));
    let what = format!("what group {} is was signed, version {}: {members}{replaces}", said.name, said.version);
    let opened: Option<(_, GroupDocument)> = open(document, Kind::Group, Role::Approver);
    let by = opened.map(|(envelope, _)| holders(&envelope, Some(desk.state.root().targeters()))).unwrap_or_default();
    signed(Topic::Group, what, document, by)
}

/// Rules about products took the place of others.
pub(super) fn rules(desk: &Desk<'_>, before: &Rules, set: &RuleSet, document: &[u8]) -> Deed {
    let named = |rule: &Rule| {
        let said = serde_json::to_string(&rule.rule).unwrap_or_default();
        format!("rule {} {said}", rule.id)
    };
    let added =
        set.rules.iter().filter(|rule| !before.all().contains(rule)).map(|rule| format!("new: {}", named(rule)));
    let removed =
        before.all().iter().filter(|rule| !set.rules.contains(rule)).map(|rule| format!("removed: {}", named(rule)));
    let mut changes: Vec<String> = added.chain(removed).collect();
    if changes.is_empty() {
        changes.push("the same as before, signed anew".to_owned());
    }
    let what = format!("rules about products, version {}: {}", set.version, changes.join("; "));
    let by = Envelope::parse(document, Kind::Rules, Role::Approver)
        .map(|envelope| holders(&envelope, Some(&desk.state.root().approvers)));
    signed(Topic::Rule, what, document, by.unwrap_or_default())
}

/// A rule about a repository is in force.
pub(super) fn rule(desk: &Desk<'_>, rule: &RepositoryRule) -> Deed {
    let sources = if rule.sources.is_empty() { "everything".to_owned() } else { rule.sources.join(", ") };
    let what = format!(
        "the rule r{} is in force: {sources} of {} from severity {} is approved for group {} until {}",
        rule.id,
        rule.upstream,
        crate::text::word(&rule.min_severity),
        rule.group,
        rule.expires
    );
    let document = &rule.document.0;
    let opened: Option<(_, ApprovalRule)> = open(document, Kind::RepositoryRule, Role::Approver);
    let by = opened.map(|(envelope, _)| holders(&envelope, Some(&desk.state.root().approvers))).unwrap_or_default();
    signed(Topic::Rule, what, document, by)
}

fn open<T: serde::de::DeserializeOwned>(bytes: &[u8], kind: Kind, role: Role) -> Option<(Envelope<'_>, T)> {
    let envelope = Envelope::parse(bytes, kind, role).ok()?;
    let content = codec::decode(envelope.unverified_body(), kind.cap()).ok()?;
    Some((envelope, content))
}

/// Everyone whose signature holds, by today's root.
fn holders(envelope: &Envelope<'_>, keys: Option<&Keys>) -> Vec<KeyHolder> {
    let of = |key| {
        let holder = keys?.holder_of(&key)?.to_owned();
        envelope.verify_one(&[key]).is_ok().then_some(KeyHolder { holder, key })
    };
    envelope.claimed_signers().filter_map(of).collect()
}

fn signed(topic: Topic, what: String, document: &[u8], holders: Vec<KeyHolder>) -> Deed {
    Deed { topic, what, holders, document: Some(DocHash::of(document)) }
}

/// The core refuses it; should it not, the log says what is known.
fn unreadable(topic: Topic, document: &[u8]) -> Deed {
    signed(topic, "a document that cannot be read here".to_owned(), document, Vec::new())
}
