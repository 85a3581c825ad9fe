//! What the holder of a key believes without asking anybody: a file beside the key files. Owns the walk from the root that it names
//! to the one that a coordinator shows; never signs.
//!
//! ```text
//! KEYS-DIR/anchor.json   hash and version of the newest root that these keys have seen, the newest approval of each group and
//!                        release that they have signed, the newest description of each group and the newest rules that they saw
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Approval, Root};
use upswarm_protocol::ids::{DocHash, GroupId, ReleaseId};
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::Trust;

use crate::sys::{self, Access};

const FILE: &str = "anchor.json";
/// Approvals that are remembered; of more, nothing is noted.
const MAX_APPROVALS: usize = 16_384;

/// The newest root that a holder of keys has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anchor {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    root: DocHash,
    version: u64,
    /// By group and release: the highest version that was signed here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    approvals: BTreeMap<String, u64>,
    /// By group: the highest version of its document that was seen here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<String, u64>,
    /// The highest version of the auto-approval rules that was seen here.
    #[serde(default)]
    rules: u64,
}

impl Anchor {
    /// An anchor that names a root of which nothing more is known.
    pub(crate) fn new(keys_dir: &Path, root: DocHash) -> Self {
        Self {
            path: keys_dir.join(FILE),
            content: Content { root, version: 0, approvals: BTreeMap::new(), groups: BTreeMap::new(), rules: 0 },
        }
    }

    /// The one beside the keys in this directory, if there is one.
    pub(crate) fn read(keys_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = keys_dir.join(FILE);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        let content = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; restore it from where the keys were made", path.display()))?;
        Ok(Some(Self { path, content }))
    }

    /// Writes it beside the keys.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.content)?;
        sys::replace(&self.path, &bytes, Access::Owner).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Keeps what was learnt. Keys may lie on a medium that cannot be written: then the next walk begins where this one did.
    pub(crate) fn keep(&self) {
        if let Err(error) = self.write() {
            tracing::debug!(path = %self.path.display(), %error, "what these keys have seen is not remembered");
        }
    }

    /// Walks from the root that is known here along `chain`, root by root, each signed by the keys of the one before. Returns the
    /// last one. Roots before the one that is known are passed over.
    pub(crate) fn walk(&mut self, chain: &[&[u8]], wall: Wall) -> anyhow::Result<Root> {
        let known = chain.iter().position(|root| DocHash::of(root) == self.content.root);
        let Some(known) = known else {
            bail!(
                "the root {} that these keys know ({}) is not among the {} that were shown: they are of another coordinator, or older",
                self.content.root.short(),
                self.path.display(),
                chain.len()
            );
        };
        let (first, rest) = chain[known..].split_first().context("no root was shown")?;
        let mut trust =
            Trust::pin(first.to_vec(), self.content.root, Wall(0)).context("the root that these keys know")?;
        for root in rest {
            trust.offer_root(root, wall).context("a root after the one that these keys know")?;
        }
        (self.content.root, self.content.version) = (trust.root_hash(), trust.root().version);
        Ok(trust.root().clone())
    }

    /// Refuses an approval with a lower version than one that these keys have signed: whoever drafted it has hidden that one.
    pub(crate) fn must_not_go_back(&self, approval: &Approval) -> Result<(), String> {
        match self.content.approvals.get(&place(&approval.group, &approval.release)) {
            Some(last) if approval.version < *last => Err(format!(
                "its version is {}, and these keys have signed version {last} for this group and release",
                approval.version
            )),
            _ => Ok(()),
        }
    }

    /// The highest version of the approval for this group and release that these keys have signed; 0 for none.
    pub(crate) fn approval_version(&self, approval: &Approval) -> u64 {
        self.content.approvals.get(&place(&approval.group, &approval.release)).copied().unwrap_or(0)
    }

    /// The highest version of a group's description that these keys have seen; 0 for none.
    pub(crate) fn group_version(&self, group: &GroupId) -> u64 {
        self.content.groups.get(&group.to_string()).copied().unwrap_or(0)
    }

    /// The highest version of the auto-approval rules that these keys have seen; 0 for none.
    pub(crate) fn rules_version(&self) -> u64 {
        self.content.rules
    }

    /// Refuses what rests on an older description of a group than one that these keys have seen: whoever drafted it has hidden that.
    pub(crate) fn must_know_group(&self, group: &GroupId, version: u64) -> Result<(), String> {
        match self.content.groups.get(&group.to_string()) {
            Some(last) if version < *last => Err(format!(
                "it rests on version {version} of what the group is, and these keys know version {last}; version 0 is none at all"
            )),
            _ => Ok(()),
        }
    }

    /// Remembers a description of a group.
    pub(crate) fn has_seen_group(&mut self, group: &GroupId, version: u64) {
        let place = group.to_string();
        if version > 0 && (self.content.groups.len() < MAX_APPROVALS || self.content.groups.contains_key(&place)) {
            let last = self.content.groups.entry(place).or_default();
            *last = (*last).max(version);
        }
    }

    /// Refuses rules that are older than some that these keys have seen: a removed one may be among them.
    pub(crate) fn must_be_newest_rules(&self, version: u64) -> Result<(), String> {
        if version < self.content.rules {
            return Err(format!(
                "the rules have version {version}, and these keys have seen version {}; the coordinator shows old ones",
                self.content.rules
            ));
        }
        Ok(())
    }

    /// Remembers rules.
    pub(crate) fn has_seen_rules(&mut self, version: u64) {
        self.content.rules = self.content.rules.max(version);
    }

    /// Remembers an approval that was signed.
    pub(crate) fn has_signed(&mut self, approval: &Approval) {
        let place = place(&approval.group, &approval.release);
        if self.content.approvals.len() < MAX_APPROVALS || self.content.approvals.contains_key(&place) {
            let last = self.content.approvals.entry(place).or_default();
            *last = (*last).max(approval.version);
        }
    }
}

fn place(group: &GroupId, release: &ReleaseId) -> String {
    format!("{group}/{release}")
}
