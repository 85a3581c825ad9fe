//! The rules for what is approved as soon as it is published. Owns their file's content and numbers; never applies one.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::api::rules::{NewRule, RepositoryRule, Rule};
use crate::coordinator::files::read_json_or_default;

const MAX_RULES: usize = 256;
const MAX_SIGNED: usize = 64;
const MAX_PREFIX: usize = 128;

/// Every rule.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    last: u32,
    rules: Vec<Rule>,
    /// Those about repositories.
    #[serde(default)]
    signed: Vec<RepositoryRule>,
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

    /// Every rule about a repository, oldest first.
    pub(crate) fn signed(&self) -> &[RepositoryRule] {
        &self.signed
    }

    /// The number of the next rule.
    pub(crate) fn next(&self) -> u32 {
        self.last.saturating_add(1)
    }

    /// Adds a signed rule, which has its number; says why not, otherwise.
    pub(crate) fn add_signed(&mut self, rule: RepositoryRule) -> Result<RepositoryRule, String> {
        if self.signed.iter().any(|known| known.document == rule.document) {
            return Err(format!("it is rule {} already", rule.id));
        }
        if rule.id <= self.last {
            return Err(format!("another rule has been numbered {} meanwhile; draft this one again", rule.id));
        }
        if self.signed.len() >= MAX_SIGNED {
            return Err(format!(
                "{MAX_SIGNED} rules about repositories are in force, no more are taken; remove one first"
            ));
        }
        self.last = rule.id;
        self.signed.push(rule.clone());
        Ok(rule)
    }

    /// Removes a rule about a repository, if it has this number.
    pub(crate) fn remove_signed(&mut self, id: u32) -> Option<RepositoryRule> {
        let at = self.signed.iter().position(|known| known.id == id)?;
        Some(self.signed.remove(at))
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
    use crate::api::schedule::ScheduleArgs;

    fn rule(product: &str) -> NewRule {
        NewRule {
            group: "office".to_owned(),
            classification: Vec::new(),
            min_severity: None,
            product: product.to_owned(),
            schedule: ScheduleArgs::default(),
        }
    }

    #[test]
    fn rules_survive_a_restart_and_numbers_are_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.json");
        let mut rules = Rules::load(&path).unwrap();
        assert_eq!(rules.add(rule("a")).unwrap().id, 1);
        assert!(rules.add(rule("a")).unwrap_err().contains("rule 1"));
        assert_eq!(rules.add(rule("b")).unwrap().id, 2);
        rules.remove(2).unwrap();
        assert!(rules.remove(2).unwrap_err().contains("rule list"));
        std::fs::write(&path, rules.to_bytes()).unwrap();
        let mut again = Rules::load(&path).unwrap();
        assert_eq!(again.all(), rules.all());
        assert_eq!(again.add(rule("b")).unwrap().id, 3);
        assert!(again.add(rule(&"x".repeat(129))).is_err());
        for number in 0..MAX_RULES {
            let _ = again.add(rule(&format!("p{number}")));
        }
        assert_eq!(again.all().len(), MAX_RULES);
        std::fs::write(&path, "{").unwrap();
        assert!(Rules::load(&path).is_err());
    }
}
