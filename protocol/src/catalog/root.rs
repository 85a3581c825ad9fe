use serde::{Deserialize, Serialize};

use crate::codec::{Bounded, Text};
use crate::ids::{GroupId, PublicKey};
use crate::time::Wall;

/// A set of keys and how many of them must sign. Valid when `1 <= threshold <= number of distinct keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Distinct public keys.
    pub keys: Bounded<PublicKey, 16>,
    /// Signatures by distinct keys that are needed.
    pub threshold: u8,
}

/// Who may publish the products whose names begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublisherRule {
    /// The longest matching prefix decides; the empty prefix matches every product.
    pub product_prefix: Text<128>,
    /// Who signs, and how many.
    pub keys: Keys,
}

/// A group whose approvals need more signatures than others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRule {
    /// The group.
    pub group: GroupId,
    /// Signatures by distinct approvers.
    pub threshold: u8,
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
    /// Groups that need more approvers.
    pub group_rules: Bounded<GroupRule, 64>,
    /// The coordinator's online keys: index, head, certificates.
    pub online: Keys,
    /// X25519 public key to which reports are sealed.
    pub report_key: [u8; 32],
}

impl Root {
    /// The rule for a product: the one with the longest prefix that matches.
    pub fn publisher_of(&self, product: &str) -> Option<&Keys> {
        self.publishers
            .iter()
            .filter(|rule| product.starts_with(rule.product_prefix.as_str()))
            .max_by_key(|rule| rule.product_prefix.len())
            .map(|rule| &rule.keys)
    }

    /// Signatures by distinct approvers that an approval for this group needs.
    pub fn approvals_needed(&self, group: &GroupId) -> usize {
        let special = self.group_rules.iter().filter(|rule| rule.group == *group).map(|rule| rule.threshold).max();
        usize::from(special.unwrap_or(0).max(self.approvers.threshold))
    }
}
