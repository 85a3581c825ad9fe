//! Standing decisions: which releases are approved for a group as soon as they are published.

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Classification, Severity};

use super::schedule::ScheduleArgs;

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
