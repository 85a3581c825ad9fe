//! Standing decisions. Those about products are applied, and the approvals signed, where the approver's keys are; those about
//! repositories an approver signs once, and `coordinator::standing` acts on them.

use upswarm_protocol::codec;
use upswarm_protocol::coordinator::Refusal;
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::ids::DocHash;
use upswarm_protocol::trust::verify_rule;

use super::{Desk, View};
use crate::api::actor::Actor;
use crate::api::approvals::{HexBytes, SignedDocument};
use crate::api::rules::{NewRepositoryRule, NewRule, Removed, RepositoryRule, Rule, RuleDraft};
use crate::coordinator::repositories::Repositories;
use crate::coordinator::store::rules::Rules;

/// Adds a rule; it is in force when the rules are on disk.
pub(crate) fn add(actor: &Actor, desk: &Desk<'_>, rules: &mut Rules, rule: NewRule) -> Result<Rule, Refusal> {
    desk.group_named(&rule.group)?;
    let added = rules.add(rule).map_err(Refusal::Request)?;
    tracing::info!(%actor, rule = added.id, "a rule is added");
    Ok(added)
}

/// Drafts a rule about a repository, for an approver to sign.
pub(crate) fn draft(
    actor: &Actor,
    view: &View<'_>,
    repositories: &Repositories,
    asked: NewRepositoryRule,
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
    let number = view.rules.next();
    let rule = asked.rule(number, group, view.now).map_err(|error| Refusal::Request(error.to_string()))?;
    let body = codec::encode(&rule, Kind::Rule.cap()).map_err(|error| Refusal::Content(error.to_string()))?;
    tracing::info!(%actor, number, upstream = asked.upstream, group = asked.group, "a rule is drafted");
    Ok(RuleDraft { asked, body: HexBytes(body) })
}

/// Takes a rule about a repository that enough approvers have signed; it is in force when the rules are on disk.
pub(crate) fn submit(
    actor: &Actor,
    desk: &Desk<'_>,
    rules: &mut Rules,
    document: SignedDocument,
) -> Result<RepositoryRule, Refusal> {
    let rule = verify_rule(desk.state.root(), &document.0)?;
    if rule.expires <= desk.view.now {
        return Err(Refusal::Content(format!("the rule expired at {}", rule.expires)));
    }
    let added = RepositoryRule {
        id: rule.number,
        group: desk.names.group_name(&rule.group),
        upstream: rule.upstream.to_string(),
        sources: rule.sources.iter().map(|source| source.to_string()).collect(),
        min_severity: rule.min_severity,
        expires: rule.expires.to_string(),
        document: HexBytes(document.0),
    };
    let added = rules.add_signed(added).map_err(Refusal::Request)?;
    tracing::info!(%actor, rule = added.id, upstream = added.upstream, "a rule about a repository is in force");
    Ok(added)
}

/// Removes a rule; what it has approved stays approved.
pub(crate) fn remove(actor: &Actor, rules: &mut Rules, id: u32) -> Result<Removed, Refusal> {
    let removed = match rules.remove_signed(id) {
        Some(signed) => Removed::Repository(signed),
        None => Removed::Product(Box::new(rules.remove(id).map_err(Refusal::Request)?)),
    };
    tracing::info!(%actor, rule = id, "a rule is removed");
    Ok(removed)
}
