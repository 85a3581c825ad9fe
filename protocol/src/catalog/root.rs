use serde::{Deserialize, Serialize};

use crate::codec::{Bounded, Text};
use crate::ids::{DocHash, GroupId};
use crate::keyring::Keys;
use crate::time::Wall;

use super::apt::APT_PREFIX;

/// Who may publish the products whose names begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublisherRule {
    /// Whole names, with or without a dot at the end: `org.mozilla` is for `org.mozilla` and `org.mozilla.firefox`, not for
    /// `org.mozillax`. The longest that matches decides; the empty one matches every product.
    pub product_prefix: Text<128>,
    /// Who signs, and how many.
    pub keys: Keys,
}

impl PublisherRule {
    /// The prefix without the dot at its end: two rules with the same names are about the same products.
    pub fn names(&self) -> &str {
        self.product_prefix.strip_suffix('.').unwrap_or(&self.product_prefix)
    }

    /// Whether the rule is about this product.
    pub fn is_for(&self, product: &str) -> bool {
        let names = self.names();
        let beyond = product.strip_prefix(names);
        names.is_empty() || beyond.is_some_and(|beyond| beyond.is_empty() || beyond.starts_with('.'))
    }
}

/// A group whose approvals need more signatures than others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRule {
    /// The group.
    pub group: GroupId,
    /// Distinct holders of approvers' keys that must sign.
    pub threshold: u8,
}

/// A repository whose packages may be installed. Its snapshots are the releases of the product `apt.<name>`; whoever publishes
/// those chooses no byte, since each carries this description and what its certificates signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamRule {
    /// The repository's name, without dots.
    pub name: Text<64>,
    /// BLAKE3 of its description: suite, components, certificates, the packages that it may supply.
    pub description: DocHash,
}

/// The root of trust: every key of the deployment and what it may do. Signed by the old and the new root keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Grows by exactly one from root to root, starting at 1.
    pub version: u64,
    /// When it was made.
    pub issued: Wall,
    /// After this it vouches for nothing new.
    pub expires: Wall,
    /// The offline keys that sign roots.
    pub root: Keys,
    /// Who publishes what.
    pub publishers: Bounded<PublisherRule, 16>,
    /// Who approves.
    pub approvers: Keys,
    /// Who says what groups are; approvers do, where nobody is named.
    pub targeting: Option<Keys>,
    /// Groups that need more approvers.
    pub group_rules: Bounded<GroupRule, 64>,
    /// Repositories that packages may come from.
    pub upstreams: Bounded<UpstreamRule, 64>,
    /// The coordinator's online keys: index, head, certificates.
    pub online: Keys,
    /// X25519 public key to which reports are encrypted.
    pub report_key: [u8; 32],
}

impl Root {
    /// The rule for a product: the one with the longest prefix that matches.
    pub fn publisher_of(&self, product: &str) -> Option<&Keys> {
        self.publishers
            .iter()
            .filter(|rule| rule.is_for(product))
            .max_by_key(|rule| rule.names().len())
            .map(|rule| &rule.keys)
    }

    /// The repository whose snapshots a product stands for, if it stands for any and the root names it.
    pub fn upstream_of(&self, product: &str) -> Option<&UpstreamRule> {
        let name = product.strip_prefix(APT_PREFIX)?.strip_prefix('.')?;
        self.upstreams.iter().find(|rule| *rule.name == *name)
    }

    /// Whose keys sign what a group is.
    pub fn targeters(&self) -> &Keys {
        self.targeting.as_ref().unwrap_or(&self.approvers)
    }

    /// Distinct holders of those keys that must sign what this group is.
    pub fn targeters_needed(&self, group: &GroupId) -> usize {
        self.targeting.as_ref().map_or_else(|| self.approvals_needed(group), |keys| keys.threshold.into())
    }

    /// Distinct holders of approvers' keys that must sign an approval for this group.
    pub fn approvals_needed(&self, group: &GroupId) -> usize {
        let special = self.group_rules.iter().filter(|rule| rule.group == *group).map(|rule| rule.threshold).max();
        usize::from(special.unwrap_or(0).max(self.approvers.threshold))
    }
}
