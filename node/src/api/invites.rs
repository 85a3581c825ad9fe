//! Letting machines in.

use serde::{Deserialize, Serialize};

/// `POST /admin/v1/invite`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InviteRequest {
    /// Name of the group.
    pub(crate) group: String,
    /// Name of the site.
    pub(crate) site: String,
    /// Seconds for which the token is good.
    pub(crate) ttl_s: u64,
    /// Devices that it lets in.
    pub(crate) uses: u32,
    /// Addresses of the coordinator as the devices see it; empty for those on which it listens.
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
}

/// Its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Invited {
    /// The join token.
    pub(crate) token: String,
    /// When it ends, RFC 3339.
    pub(crate) expires: String,
}

/// `GET /admin/v1/invites`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InviteList {
    pub(crate) tokens: Vec<InviteView>,
}

/// A token that is kept. Its secret is not: the coordinator knows its hash alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InviteView {
    /// Hash of its secret, in hex: what `token revoke` takes.
    pub(crate) token: String,
    /// Where its machines belong.
    pub(crate) group: String,
    pub(crate) site: String,
    /// When it ends, RFC 3339.
    pub(crate) expires: String,
    /// Whether it is over by time.
    pub(crate) over: bool,
    /// Machines that it lets in, and that it has let in.
    pub(crate) uses: u32,
    pub(crate) spent: usize,
}

/// `POST /admin/v1/invite/revoke`: let nobody in any more with a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DisinviteRequest {
    /// First digits of the hash of its secret.
    pub(crate) token: String,
}
