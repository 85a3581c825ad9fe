//! Taking a release back.

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::ReleaseId;

/// `POST /admin/v1/release/withdraw`: take a release out of the catalog. Its approvals are declined before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WithdrawRequest {
    /// The release, as a person names it.
    pub(crate) release: String,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Withdrawn {
    pub(crate) release: ReleaseId,
    pub(crate) product: String,
    pub(crate) version: String,
    /// Version of the index that lacks it.
    pub(crate) head_version: u64,
}
