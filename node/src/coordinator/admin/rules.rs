//! Standing decisions. Approvers sign them; the coordinator keeps them. Those about products are applied where the approver's keys
//! are; `coordinator::repository_rules` acts on those about repositories.

use upswarm_protocol::codec;
use upswarm_protocol::coordinator::Refusal;
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::ids::DocHash;
use upswarm_protocol::trust::verify_rule;

use super::{Desk, View, deeds};
use crate::api::actor::Actor;
use crate::api::approvals::{HexBytes, SignedDocument};
use crate::api::audit::{Deed, Topic};
use crate::api::rules::{NewRepositoryRule, RepositoryRule, RuleDraft, RuleSet};
use crate::coordinator::repositories::Repositories;
use crate::coordinator::store::rules::Rules;

/// Takes rules about products that approvers have signed in place of those in force; they are in force when they are on disk.
pub(crate) fn submit(
    actor: &Actor,
    desk: &Desk<'_>,
    before: &Rules,
    document: Vec<u8>,
) -> Result<(Rules, Deed), Refusal> {
    let set = RuleSet::verified(desk.state.root(), &document).map_err(Refusal::Content)?;
    if set.version != before.version().saturating_add(1) {
        return Err(Refusal::NotNewer {
            what: "the version of the rules",
            given: set.version,
            known: before.version(),
        });
    }
    for rule in set.rules.iter().filter(|rule| !before.all().contains(rule)) {
        desk.group_named(&rule.rule.group)?;
    }
    tracing::info!(%actor, version = set.version, rules = set.rules.len(), "rules are in force");
    let deed = deeds::rules(desk, before, &set, &document);
    Ok((before.with(document, set), deed))
}

/// Drafts a rule about a repository, for an approver to sign.
pub(crate) fn draft(
    actor: &Actor,
    view: &View<'_>,
    repositories: &Repositories,
    asked: NewRepositoryRule,
    document: impl Fn(&DocHash) -> std::io::Result<Vec<u8>>,
) -> Result<RuleDraft, Refusal> {
    let upstream = repositories.upstream(&asked.upstream)?;
    let hash = DocHash::of(&upstream.bytes);
    if !view.upstreams.iter().any(|rule| *rule.name == *asked.upstream && rule.description == hash) {
        return Err(Refusal::Request(format!(
            "the root does not pin {0}, so machines would refuse its packages; pin it first: upswarm sync add apt {0}",
            asked.upstream
        )));
    }
    let group = view.catalog.group_named(&asked.group).map_err(Refusal::Request)?;
    let described = view.catalog.described.get(&group);
    let group_version = described.map_or(0, |known| known.version);
    let number = view.rules.repositories().next();
    let rule = asked.rule(number, (group, group_version), view.now);
    let rule = rule.map_err(|error| Refusal::Request(error.to_string()))?;
    let body = codec::encode(&rule, Kind::RepositoryRule.cap()).map_err(|error| Refusal::Content(error.to_string()))?;
    let read = |hash: &DocHash| {
        let unreadable = |error| Refusal::Request(format!("the stored document {hash} cannot be read: {error}"));
        document(hash).map(HexBytes).map_err(unreadable)
    };
    let group = described.map(|known| read(&known.document)).transpose()?;
    tracing::info!(%actor, number, upstream = asked.upstream, group = asked.group, "a rule is drafted");
    Ok(RuleDraft { asked, body: HexBytes(body), group })
}

/// Takes a rule about a repository that enough approvers have signed; it is in force when the rules are on disk.
pub(crate) fn add(
    actor: &Actor,
    desk: &Desk<'_>,
    rules: &mut Rules,
    document: SignedDocument,
) -> Result<Deed, Refusal> {
    let rule = verify_rule(desk.state.root(), &document.0)?;
    if rule.expires <= desk.view.now {
        return Err(Refusal::Content(format!("the rule expired at {}", rule.expires)));
    }
    let known = desk.view.catalog.described.get(&rule.group).map_or(0, |known| known.version);
    if rule.group_version > known {
        return Err(Refusal::Content(format!(
            "it is for a group as version {} of its document describes it, and version {known} is the newest here",
            rule.group_version
        )));
    }
    let group = desk.names.group_name(&rule.group);
    let added = RepositoryRule::of(&rule, group, HexBytes(document.0));
    tracing::info!(%actor, rule = added.id, upstream = added.upstream, "a rule about a repository is to be in force");
    let deed = deeds::rule(desk, &added);
    rules.repositories_mut().add(added).map_err(Refusal::Request)?;
    Ok(deed)
}

/// Removes a rule about a repository; what it has approved stays approved.
pub(crate) fn remove(actor: &Actor, rules: &mut Rules, id: u32) -> Result<(RepositoryRule, Deed), Refusal> {
    let removed = rules.repositories_mut().remove(id).map_err(Refusal::Request)?;
    tracing::info!(%actor, rule = id, "a rule about a repository is removed");
    let what = format!("the rule r{id} about {} for group {} was removed", removed.upstream, removed.group);
    Ok((removed, Deed::new(Topic::Rule, what)))
}
