//! What was signed, by whom and when, as the documents themselves say it.

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::{DocHash, PublicKey, ReleaseId};

/// `GET /admin/v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Audit {
    /// The newest first.
    pub(crate) documents: Vec<AuditDocument>,
}

/// Which kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuditKind {
    Root,
    Release,
    Approval,
}

impl AuditKind {
    /// Its name in text formats.
    pub(crate) fn word(self) -> &'static str {
        match self {
            AuditKind::Root => "root",
            AuditKind::Release => "release",
            AuditKind::Approval => "approval",
        }
    }
}

/// A signed document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuditDocument {
    pub(crate) kind: AuditKind,
    /// BLAKE3 of its envelope.
    pub(crate) hash: DocHash,
    /// When its signer says it was made, and when it expires, RFC 3339.
    pub(crate) issued: String,
    pub(crate) expires: String,
    /// What it says, in words.
    pub(crate) what: String,
    /// The signer's remark.
    pub(crate) note: String,
    pub(crate) release: Option<ReleaseId>,
    /// Keys whose signatures hold, by the newest root.
    pub(crate) signers: Vec<Signer>,
    /// Keys that claim to have signed and that the newest root does not name for this.
    pub(crate) others: Vec<PublicKey>,
}

/// A key that signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Signer {
    pub(crate) key: PublicKey,
    /// What the root lets it sign.
    pub(crate) role: String,
}
