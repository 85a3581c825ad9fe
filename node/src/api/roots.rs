//! The roots of trust as a coordinator shows them, and what travels to whoever signs elsewhere.

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::PublicKey;

use super::approvals::{ApprovalDraft, HexBytes, SigningRequest};
use super::groups::AskedGroup;
use super::rules::{AskedRules, RuleDraft};

/// `GET /admin/v1/roots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootChain {
    /// The envelope of every root, oldest first. Whoever reads them walks from the one that is known to him.
    pub(crate) roots: Vec<HexBytes>,
    /// Online keys that the coordinator holds and today's root does not name: they stand by.
    pub(crate) standby: Vec<PublicKey>,
}

/// A file with all that a signer needs who has no network and no data directory; with signatures, what is handed in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestFile {
    /// Format version, 1.
    pub(crate) upswarm_request: u8,
    /// The envelope of every root, oldest first.
    pub(crate) roots: Vec<HexBytes>,
    /// What is to be signed.
    pub(crate) asked: Asked,
    /// The envelope around it with the signatures so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signed: Option<HexBytes>,
}

/// What is to be signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Asked {
    /// An approval, with what was asked for.
    Approval(Box<AskedApproval>),
    /// A release: its exact bytes.
    Release(HexBytes),
    /// The next root: its exact bytes.
    Root(HexBytes),
    /// What a group is, with what was asked for.
    Group(Box<AskedGroup>),
    /// What is approved as soon as it is published, with what was asked for.
    Rules(Box<AskedRules>),
    /// Which snapshots of a repository are approved as soon as they are there.
    RepositoryRule(Box<RuleDraft>),
}

/// An approval that is to be signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedApproval {
    /// What somebody asked for.
    pub(crate) draft: ApprovalDraft,
    /// What the coordinator made of it.
    pub(crate) request: SigningRequest,
}

/// The version of [`RequestFile`].
pub(crate) const REQUEST_VERSION: u8 = 1;
