//! The rules for what is approved as soon as it is published, as approvers signed them. Owns their files; never applies one.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use upswarm_protocol::envelope::{Envelope, Kind, Role};

use crate::api::rules::{RepositoryRule, Rule, RuleSet};
use crate::coordinator::files::read_json_or_default;

const MAX_FOR_REPOSITORIES: usize = 64;

/// The newest rules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    document: Vec<u8>,
    set: RuleSet,
    repositories: RepositoryRules,
}

/// Rules about repositories, each a document of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RepositoryRules {
    last: u32,
    rules: Vec<RepositoryRule>,
}

impl Rules {
    /// The rules in two files: those about products, and those about repositories; none when there is no file yet. They were verified
    /// when they came, and are again by whoever applies them.
    pub(crate) fn load(path: &Path, of_repositories: &Path) -> anyhow::Result<Self> {
        let repositories = read_json_or_default(of_repositories)?;
        let document = match std::fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self { repositories, ..Self::default() }),
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        let damaged = || format!("{} is damaged; restore it from a copy", path.display());
        let envelope = Envelope::parse(&document, Kind::Rules, Role::Approver).with_context(damaged)?;
        let set = RuleSet::parse(envelope.unverified_body()).map_err(anyhow::Error::msg).with_context(damaged)?;
        Ok(Self { document, set, repositories })
    }

    /// These, with others about products.
    pub(crate) fn with(&self, document: Vec<u8>, set: RuleSet) -> Self {
        Self { document, set, repositories: self.repositories.clone() }
    }

    /// The envelope of those about products; empty before the first rule.
    pub(crate) fn document(&self) -> &[u8] {
        &self.document
    }

    /// How often those about products were signed.
    pub(crate) fn version(&self) -> u64 {
        self.set.version
    }

    /// Every rule about products, oldest first.
    pub(crate) fn all(&self) -> &[Rule] {
        &self.set.rules
    }

    /// Those about repositories.
    pub(crate) fn repositories(&self) -> &RepositoryRules {
        &self.repositories
    }

    /// The same, for a change.
    pub(crate) fn repositories_mut(&mut self) -> &mut RepositoryRules {
        &mut self.repositories
    }
}

impl RepositoryRules {
    /// The bytes of their file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Plain data with text keys always becomes JSON.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Every rule, oldest first.
    pub(crate) fn all(&self) -> &[RepositoryRule] {
        &self.rules
    }

    /// The number of the next rule.
    pub(crate) fn next(&self) -> u32 {
        self.last.saturating_add(1)
    }

    /// Adds a signed rule, which has its number; says why not, otherwise.
    pub(crate) fn add(&mut self, rule: RepositoryRule) -> Result<(), String> {
        if self.rules.iter().any(|known| known.document == rule.document) {
            return Err(format!("it is rule r{} already", rule.id));
        }
        if rule.id <= self.last {
            return Err(format!("another rule has been numbered r{} meanwhile; draft this one again", rule.id));
        }
        if self.rules.len() >= MAX_FOR_REPOSITORIES {
            return Err(format!(
                "{MAX_FOR_REPOSITORIES} rules about repositories are in force, no more are taken; remove one first"
            ));
        }
        self.last = rule.id;
        self.rules.push(rule);
        Ok(())
    }

    /// Removes the rule with this number; says why not, otherwise.
    pub(crate) fn remove(&mut self, id: u32) -> Result<RepositoryRule, String> {
        match self.rules.iter().position(|known| known.id == id) {
            Some(at) => Ok(self.rules.remove(at)),
            None => Err(format!("there is no rule r{id}; see: upswarm rule list")),
        }
    }
}

#[cfg(test)]
mod tests {
    use upswarm_protocol::catalog::Severity;

    use super::*;
    use crate::api::approvals::HexBytes;

    fn rule(id: u32) -> RepositoryRule {
        RepositoryRule {
            id,
            group: "office".to_owned(),
            upstream: "debian".to_owned(),
            sources: Vec::new(),
            min_severity: Severity::Important,
            expires: "2027-01-01T00:00:00Z".to_owned(),
            document: HexBytes(id.to_be_bytes().to_vec()),
        }
    }

    #[test]
    fn rules_about_repositories_survive_a_restart_and_numbers_are_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let (products, path) = (dir.path().join("rules"), dir.path().join("repository-rules.json"));
        let mut rules = Rules::load(&products, &path).unwrap();
        let known = rules.repositories_mut();
        known.add(rule(1)).unwrap();
        assert!(known.add(rule(1)).unwrap_err().contains("rule r1 already"));
        known.add(rule(2)).unwrap();
        assert_eq!(known.remove(2).unwrap(), rule(2));
        assert!(known.remove(2).unwrap_err().contains("rule list"));
        std::fs::write(&path, known.to_bytes()).unwrap();
        let again = Rules::load(&products, &path).unwrap();
        assert_eq!(again.repositories(), rules.repositories());
        let mut again = again.with(vec![1], RuleSet::default());
        let known = again.repositories_mut();
        assert!(known.add(rule(2)).unwrap_err().contains("meanwhile"));
        while known.add(rule(known.next())).is_ok() {}
        assert_eq!(known.all().len(), MAX_FOR_REPOSITORIES);
        std::fs::write(&path, "{").unwrap();
        assert!(Rules::load(&products, &path).is_err());
    }
}
