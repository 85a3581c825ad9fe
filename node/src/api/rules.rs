//! Standing decisions: which releases are approved for a group as soon as they are published. Those about repositories are
//! documents that approvers sign, and the coordinator acts on them; others are applied where releases are signed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Action, ApprovalRule, Classification, Severity};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::{GroupId, ReleaseId};
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::validate_rule;

use super::approvals::HexBytes;
use super::schedule::ScheduleArgs;
use crate::error::CliError;
use crate::upstream::packages;

/// `POST /admin/v1/rules`: which releases, for which group, and when.
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

/// `POST /admin/v1/rules/remove`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveRule {
    /// The rule's number.
    pub(crate) id: u32,
}

/// `GET /admin/v1/rules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuleList {
    /// Oldest first.
    pub(crate) rules: Vec<Rule>,
    /// Those about repositories.
    #[serde(default)]
    pub(crate) repositories: Vec<RepositoryRule>,
}

/// `POST /admin/v1/rules/draft`: what of a repository is approved, for which group, and when. The answer is to be signed.
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
}

/// A rule about a repository that is in force. `POST /admin/v1/rules/signed` takes its document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepositoryRule {
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

/// A rule that is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Removed {
    Product(Box<Rule>),
    Repository(RepositoryRule),
}

impl NewRepositoryRule {
    /// The document of this number, for the group that has this number.
    pub(crate) fn rule(&self, number: u32, group: GroupId, now: Wall) -> Result<ApprovalRule, CliError> {
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
}
