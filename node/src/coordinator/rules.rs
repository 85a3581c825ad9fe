//! Standing decisions: which releases are approved for a group as soon as they are published.
//!
//! The coordinator only keeps them. They are applied, and the approvals signed, where the approver's keys are: by `publish`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Classification, Severity};

use super::directory::read_json_or_default;
use crate::cli::schedule::ScheduleArgs;

const MAX_RULES: usize = 256;
const MAX_PREFIX: usize = 128;

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

/// Every rule.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    last: u32,
    rules: Vec<Rule>,
}

impl Rules {
    /// The rules in a file; none when there is no file yet.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        read_json_or_default(path)
    }

    /// The bytes that [`Rules::load`] reads.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Plain data with text keys always becomes JSON.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Every rule, oldest first.
    pub(crate) fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// Adds a rule; says why not, otherwise.
    pub(crate) fn add(&mut self, rule: NewRule) -> Result<Rule, String> {
        if self.rules.len() >= MAX_RULES {
            return Err(format!("{MAX_RULES} rules are in force, no more are taken; remove one first"));
        }
        if rule.product.len() > MAX_PREFIX || rule.product.chars().any(char::is_control) {
            return Err(format!("a product's name has at most {MAX_PREFIX} bytes without control characters"));
        }
        if let Some(same) = self.rules.iter().find(|known| known.rule == rule) {
            return Err(format!("rule {} says the same already", same.id));
        }
        self.last = self.last.saturating_add(1);
        let rule = Rule { id: self.last, rule };
        self.rules.push(rule.clone());
        Ok(rule)
    }

    /// Removes a rule; says why not, otherwise.
    pub(crate) fn remove(&mut self, id: u32) -> Result<Rule, String> {
        match self.rules.iter().position(|known| known.id == id) {
            Some(at) => Ok(self.rules.remove(at)),
            None => Err(format!("there is no rule {id}; see: upswarm rule list")),
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
    fn rules_survive_a_restart_and_numbers_are_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.json");
        let mut rules = Rules::load(&path).unwrap();
        assert_eq!(rules.add(rule(&[], None, "a")).unwrap().id, 1);
        assert!(rules.add(rule(&[], None, "a")).unwrap_err().contains("rule 1"));
        assert_eq!(rules.add(rule(&[], None, "b")).unwrap().id, 2);
        rules.remove(2).unwrap();
        assert!(rules.remove(2).unwrap_err().contains("rule list"));
        std::fs::write(&path, rules.to_bytes()).unwrap();
        let mut again = Rules::load(&path).unwrap();
        assert_eq!(again.all(), rules.all());
        assert_eq!(again.add(rule(&[], None, "b")).unwrap().id, 3);
        assert!(again.add(rule(&[], None, &"x".repeat(129))).is_err());
        for number in 0..MAX_RULES {
            let _ = again.add(rule(&[], None, &format!("p{number}")));
        }
        assert_eq!(again.all().len(), MAX_RULES);
        std::fs::write(&path, "{").unwrap();
        assert!(Rules::load(&path).is_err());
    }
}
