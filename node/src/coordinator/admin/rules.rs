//! Standing decisions. The coordinator keeps them; they are applied, and the approvals signed, where the approver's keys are.

use upswarm_protocol::coordinator::Refusal;

use super::Desk;
use crate::api::actor::Actor;
use crate::api::rules::{NewRule, Rule};
use crate::coordinator::store::rules::Rules;

/// Adds a rule; it is in force when the rules are on disk.
pub(crate) fn add(actor: &Actor, desk: &Desk<'_>, rules: &mut Rules, rule: NewRule) -> Result<Rule, Refusal> {
    desk.group_named(&rule.group)?;
    let added = rules.add(rule).map_err(Refusal::Request)?;
    tracing::info!(%actor, rule = added.id, "a rule is added");
    Ok(added)
}

/// Removes a rule; what it has approved stays approved.
pub(crate) fn remove(actor: &Actor, rules: &mut Rules, id: u32) -> Result<Rule, Refusal> {
    let removed = rules.remove(id).map_err(Refusal::Request)?;
    tracing::info!(%actor, rule = id, "a rule is removed");
    Ok(removed)
}
