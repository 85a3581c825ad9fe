//! Standing decisions. Approvers sign them; the coordinator keeps them, and they are applied where the approver's keys are.

use upswarm_protocol::coordinator::Refusal;

use super::Desk;
use crate::api::actor::Actor;
use crate::api::rules::RuleSet;
use crate::coordinator::store::rules::Rules;

/// Takes rules that approvers have signed in place of those in force; they are in force when they are on disk.
pub(crate) fn submit(actor: &Actor, desk: &Desk<'_>, before: &Rules, document: Vec<u8>) -> Result<Rules, Refusal> {
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
    Ok(Rules::new(document, set))
}
