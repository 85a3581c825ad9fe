//! The rules for what is approved as soon as it is published, as approvers signed them. Owns their file; never applies one.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use upswarm_protocol::envelope::{Envelope, Kind, Role};

use crate::api::rules::{Rule, RuleSet};

/// The newest rules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    document: Vec<u8>,
    set: RuleSet,
}

impl Rules {
    /// The rules in a file; none when there is no file yet. It was verified when it came, and is again by whoever applies it.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let document = match std::fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        let damaged = || format!("{} is damaged; restore it from a copy", path.display());
        let envelope = Envelope::parse(&document, Kind::Rules, Role::Approver).with_context(damaged)?;
        let set = RuleSet::parse(envelope.unverified_body()).map_err(anyhow::Error::msg).with_context(damaged)?;
        Ok(Self { document, set })
    }

    /// The rules in force from now on.
    pub(crate) fn new(document: Vec<u8>, set: RuleSet) -> Self {
        Self { document, set }
    }

    /// The envelope; empty before the first rule.
    pub(crate) fn document(&self) -> &[u8] {
        &self.document
    }

    /// How often they were signed.
    pub(crate) fn version(&self) -> u64 {
        self.set.version
    }

    /// Every rule, oldest first.
    pub(crate) fn all(&self) -> &[Rule] {
        &self.set.rules
    }
}
