//! Standing decisions: which releases are approved for a group as soon as they are published.
//!
//! All of those about products are one document that approvers sign, with a version that grows by one: so a coordinator can neither add
//! a rule nor bring a removed one back without the keys noticing. They are applied where releases are signed. Each about a repository
//! is a document of its own, on which the coordinator acts: see [`ApprovalRule`].

use std::time::Duration;

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Action, ApprovalRule, Classification, Root, Severity};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::{GroupId, ReleaseId};
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::validate_rule;

use super::approvals::HexBytes;
use super::schedule::ScheduleArgs;
use crate::error::CliError;
use crate::upstream::packages;

/// Which releases, for which group, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRule {
    /// Name of the group.
    pub(crate) group: String,
    /// Classifications that it is about; none means all.
    #[serde(default)]
    pub(crate) classification: Vec<Classification>,
    /// Releases that are less severe are left alone.
    #[serde(default)]
    pub(crate) min_severity: Option<Severity>,
    /// How the product's name begins; empty means any product.
    #[serde(default)]
    pub(crate) product: String,
    /// The approval's schedule; its times count from the moment of publishing.
    #[serde(default)]
    pub(crate) schedule: ScheduleArgs,
}

/// A rule and its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// Its number, never used again.
    pub(crate) id: u32,
    /// What it says.
    pub(crate) rule: NewRule,
}

/// Every rule, as approvers sign them: the signed bytes are this as JSON. `POST /admin/v1/rules` takes the envelope.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleSet {
    /// Grows by one with every change.
    pub(crate) version: u64,
    /// When it was signed.
    pub(crate) issued: Wall,
    /// The highest number that was ever given.
    pub(crate) last: u32,
    /// Oldest first.
    pub(crate) rules: Vec<Rule>,
}

/// What is to be different in the next rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum RuleChange {
    /// One more.
    Add(Box<NewRule>),
    /// One less, by its number.
    Remove(u32),
    /// None: they are signed anew, because those who signed them sign no more.
    Keep,
}

/// Rules that are to be signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedRules {
    /// What somebody asked for.
    pub(crate) change: RuleChange,
    /// The rules in force, as approvers signed them; none before the first.
    pub(crate) before: Option<HexBytes>,
    /// The exact bytes.
    pub(crate) body: HexBytes,
}

/// `GET /admin/v1/rules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuleList {
    /// Oldest first.
    pub(crate) rules: Vec<Rule>,
    /// The envelope that approvers signed around them; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) document: Option<HexBytes>,
    /// Those about repositories.
    #[serde(default)]
    pub(crate) repositories: Vec<RepositoryRule>,
}

/// `POST /admin/v1/rules/repository/draft`: what of a repository is approved, for which group, and when. The answer is to be signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRepositoryRule {
    /// The repository's name.
    pub(crate) upstream: String,
    /// Name of the group.
    pub(crate) group: String,
    /// Source packages, of which no other may come; none for all.
    #[serde(default)]
    pub(crate) sources: Vec<String>,
    /// What is less severe is left alone, and what nobody knows.
    #[serde(default)]
    pub(crate) min_severity: Option<Severity>,
    /// The approvals' schedule; its times count from each.
    #[serde(default)]
    pub(crate) schedule: ScheduleArgs,
    /// Seconds for which the rule itself counts.
    pub(crate) counts_s: u64,
}

/// A rule about a repository, drafted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleDraft {
    /// What was asked for.
    pub(crate) asked: NewRepositoryRule,
    /// The exact bytes of the [`ApprovalRule`] that the coordinator made of it.
    pub(crate) body: HexBytes,
    /// What approvers have signed about the group, if they have.
    #[serde(default)]
    pub(crate) group: Option<HexBytes>,
}

/// A rule about a repository that is in force. `POST /admin/v1/rules/repository` takes its document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepositoryRule {
    /// Its number, never used again. People write it r1: numbers of rules about products are others.
    pub(crate) id: u32,
    pub(crate) group: String,
    pub(crate) upstream: String,
    pub(crate) sources: Vec<String>,
    pub(crate) min_severity: Severity,
    /// RFC 3339.
    pub(crate) expires: String,
    /// The document, as approvers signed it.
    pub(crate) document: HexBytes,
}

/// `POST /admin/v1/rules/repository/remove`: the rule about a repository that has this number is in force no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveRule {
    pub(crate) id: u32,
}

impl RepositoryRule {
    /// What a signed document says, for the group that has this name.
    pub(crate) fn of(rule: &ApprovalRule, group: String, document: HexBytes) -> Self {
        Self {
            id: rule.number,
            group,
            upstream: rule.upstream.to_string(),
            sources: rule.sources.iter().map(|source| source.to_string()).collect(),
            min_severity: rule.min_severity,
            expires: rule.expires.to_string(),
            document,
        }
    }
}

impl NewRepositoryRule {
    /// The document of this number, for the group that has this number, as this version of the group's document describes it.
    pub(crate) fn rule(
        &self,
        number: u32,
        (group, group_version): (GroupId, u64),
        now: Wall,
    ) -> Result<ApprovalRule, CliError> {
        let refused = |what: String| CliError::Refused(what);
        self.schedule.must_be_relative()?;
        let approval = self.schedule.approval((group, ReleaseId::default()), 1, Action::Install, now)?;
        let seconds = |of: Duration, what: &str| {
            u32::try_from(of.as_secs()).map_err(|_| refused(format!("{what}: so long a time is none")))
        };
        let after = |moment: Option<Wall>, what| moment.map(|moment| seconds(moment.since(now), what)).transpose();
        let name = |text: &String| {
            let fits = packages::is_name(text).then(|| Text::new(text.as_str()).ok()).flatten();
            fits.ok_or_else(|| refused(format!("{text:?} is no source package's name")))
        };
        let mut sources = self.sources.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        sources.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        sources.dedup();
        let mut schedule = approval.schedule;
        let rule = ApprovalRule {
            number,
            group,
            group_version,
            upstream: Text::new(self.upstream.as_str()).map_err(|error| refused(format!("--repository: {error}")))?,
            sources: Bounded::new(sources).map_err(|error| refused(format!("--source: {error}")))?,
            min_severity: self.min_severity.unwrap_or(Severity::Unspecified),
            available_after_s: after(schedule.available_from.take(), "--available")?,
            deadline_after_s: after(schedule.deadline.take(), "--deadline")?,
            schedule,
            rings: approval.rings,
            life_s: seconds(approval.expires.since(now), "--life")?,
            issued: now,
            expires: now + Duration::from_secs(self.counts_s),
        };
        validate_rule(&rule).map_err(|error| refused(error.to_string()))?;
        Ok(rule)
    }
}

const MAX_RULES: usize = 256;
const MAX_PREFIX: usize = 128;

impl RuleSet {
    /// The rules that a signed body says.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        let set: Self = serde_json::from_slice(body).map_err(|error| format!("the rules: {error}"))?;
        if set.rules.len() > MAX_RULES {
            return Err(format!("{} rules, more than {MAX_RULES}", set.rules.len()));
        }
        Ok(set)
    }

    /// The bytes that are signed.
    pub(crate) fn to_body(&self) -> Vec<u8> {
        // Plain data with text keys always becomes JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The rules in an envelope that as many approvers of this root have signed as sign approvals.
    pub(crate) fn verified(root: &Root, envelope: &[u8]) -> Result<Self, String> {
        let envelope =
            Envelope::parse(envelope, Kind::Rules, Role::Approver).map_err(|error| format!("the rules: {error}"))?;
        let verified = envelope.verify(&root.approvers).map_err(|error| format!("the rules: {error}"))?;
        Self::parse(verified.body())
    }

    /// The next rules; says why not, otherwise.
    pub(crate) fn changed(&self, change: &RuleChange, now: Wall) -> Result<Self, String> {
        let mut next = Self { version: self.version.saturating_add(1), issued: now, ..self.clone() };
        match change {
            RuleChange::Keep if self.rules.is_empty() => return Err("there are no rules".to_owned()),
            RuleChange::Keep => {}
            RuleChange::Remove(id) => {
                next.rules.retain(|known| known.id != *id);
                if next.rules.len() == self.rules.len() {
                    return Err(format!("there is no rule {id}; see: upswarm rule list"));
                }
            }
            RuleChange::Add(rule) => {
                if self.rules.len() >= MAX_RULES {
                    return Err(format!("{MAX_RULES} rules are in force, no more are taken; remove one first"));
                }
                if rule.product.len() > MAX_PREFIX || rule.product.chars().any(char::is_control) {
                    return Err(format!("a product's name has at most {MAX_PREFIX} bytes without control characters"));
                }
                if let Some(same) = self.rules.iter().find(|known| known.rule == **rule) {
                    return Err(format!("rule {} says the same already", same.id));
                }
                next.last = self.last.saturating_add(1);
                next.rules.push(Rule { id: next.last, rule: rule.as_ref().clone() });
            }
        }
        Ok(next)
    }
}

impl NewRule {
    /// Whether it approves such a release.
    pub(crate) fn matches(&self, product: &str, classification: Classification, severity: Severity) -> bool {
        (self.classification.is_empty() || self.classification.contains(&classification))
            && self.min_severity.is_none_or(|least| severity >= least)
            && self.is_about(product)
    }

    /// `org.mozilla` is about `org.mozilla` and `org.mozilla.firefox`, not about `org.mozillax`.
    fn is_about(&self, product: &str) -> bool {
        let prefix = self.product.trim_end_matches('.');
        match product.strip_prefix(prefix) {
            Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('.'),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(classification: &[Classification], min_severity: Option<Severity>, product: &str) -> NewRule {
        NewRule {
            group: "office".to_owned(),
            classification: classification.to_vec(),
            min_severity,
            product: product.to_owned(),
            schedule: ScheduleArgs::default(),
        }
    }

    #[test]
    fn a_rule_matches_what_it_names_and_nothing_else() {
        use Classification as C;
        use Severity as S;
        let security = rule(&[C::Security, C::Critical], Some(S::Important), "org.mozilla");
        for (product, classification, severity, wanted) in [
            ("org.mozilla.firefox", C::Security, S::Critical, true),
            ("org.mozilla", C::Critical, S::Important, true),
            ("org.mozilla.firefox", C::Security, S::Moderate, false),
            ("org.mozilla.firefox", C::Security, S::Unspecified, false),
            ("org.mozilla.firefox", C::Feature, S::Critical, false),
            ("org.mozillax", C::Security, S::Critical, false),
            ("com.org.mozilla", C::Security, S::Critical, false),
        ] {
            assert_eq!(security.matches(product, classification, severity), wanted, "{product} {severity:?}");
        }
        assert!(rule(&[], None, "").matches("anything", C::Driver, S::Unspecified));
        assert!(rule(&[], None, "org.").matches("org.x", C::Driver, S::Unspecified));
    }

    #[test]
    fn rules_change_one_by_one_and_numbers_are_not_used_again() {
        let now = Wall(5);
        let add = |set: &RuleSet, product: &str| set.changed(&RuleChange::Add(Box::new(rule(&[], None, product))), now);
        let first = add(&RuleSet::default(), "a").unwrap();
        assert_eq!((first.version, first.rules[0].id), (1, 1));
        assert!(add(&first, "a").unwrap_err().contains("rule 1"));
        let second = add(&first, "b").unwrap().changed(&RuleChange::Remove(2), now).unwrap();
        assert!(second.changed(&RuleChange::Remove(2), now).unwrap_err().contains("rule list"));
        assert_eq!(add(&second, "b").unwrap().rules[1].id, 3);
        let kept = second.changed(&RuleChange::Keep, now).unwrap();
        assert_eq!((kept.version, &kept.rules), (4, &second.rules));
        assert!(RuleSet::default().changed(&RuleChange::Keep, now).is_err());
        assert!(add(&second, &"x".repeat(129)).is_err());
        assert_eq!(RuleSet::parse(&second.to_body()).unwrap(), second);
        assert!(RuleSet::parse(b"{").is_err());
        let mut many = second;
        while let Ok(more) = add(&many, &format!("p{}", many.last)) {
            many = more;
        }
        assert_eq!(many.rules.len(), MAX_RULES);
        many.rules.push(many.rules[0].clone());
        assert!(RuleSet::parse(&many.to_body()).is_err(), "more than are taken");
    }
}
