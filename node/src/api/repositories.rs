//! Upstream repositories: what an admin says of them, and how they stand.

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::{DocHash, PayloadId, PublicKey};

/// `POST /admin/v1/repositories`: adds an upstream, or gives one other mirrors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUpstream {
    /// What a root is to pin: the text of an `UpstreamDescription`, byte for byte.
    pub(crate) description: String,
    /// Its mirrors, the best first: `http://`, `https://` or `file:`.
    pub(crate) urls: Vec<String>,
    /// Seconds between two syncs; without it, an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) every_s: Option<u64>,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpstreamAdded {
    pub(crate) name: String,
    /// What a root pins.
    pub(crate) description: DocHash,
    /// Who publishes snapshots: what the root's rule for `apt` must name.
    pub(crate) sync_key: PublicKey,
    /// Whether the root does.
    pub(crate) pinned: bool,
    /// Whether it was not there before.
    pub(crate) new: bool,
}

/// `POST /admin/v1/repositories/sync`: asks the mirrors of one upstream, or of all. The answer comes at once; how far it is, the
/// list says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SyncRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

/// `POST /admin/v1/repositories/remove`: forgets an upstream and its snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveUpstream {
    pub(crate) name: String,
}

/// `GET /admin/v1/repositories`, and the answer to every change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpstreamList {
    pub(crate) upstreams: Vec<UpstreamRow>,
}

/// An upstream and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpstreamRow {
    pub(crate) name: String,
    pub(crate) suite: String,
    pub(crate) components: Vec<String>,
    pub(crate) architectures: Vec<String>,
    pub(crate) packages: Vec<String>,
    pub(crate) urls: Vec<String>,
    pub(crate) every_s: u64,
    /// What a root pins, and whether the root does.
    pub(crate) description: DocHash,
    pub(crate) pinned: bool,
    pub(crate) certificates: Vec<CertificateRow>,
    /// The newest first.
    pub(crate) snapshots: Vec<SnapshotRow>,
    /// Seconds since the last sync began, and since the last that succeeded.
    pub(crate) last_try_s: Option<u64>,
    pub(crate) last_success_s: Option<u64>,
    /// Why the last one failed.
    pub(crate) error: Option<String>,
    /// How far the sync is that is under way.
    pub(crate) running: Option<Stage>,
}

/// An OpenPGP certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CertificateRow {
    /// In hex.
    pub(crate) fingerprint: String,
    /// Whom it says it is.
    pub(crate) holder: String,
    /// When it ends to count, RFC 3339; never without it.
    pub(crate) until: Option<String>,
    /// Why it counts no more.
    pub(crate) unfit: Option<String>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRow {
    /// BLAKE3 of its InRelease.
    pub(crate) id: PayloadId,
    /// InRelease's Date, `20261129T120000Z`.
    pub(crate) version: String,
    /// InRelease's Valid-Until, RFC 3339.
    pub(crate) valid_until: Option<String>,
    pub(crate) packages: u64,
    /// Of its indexes.
    pub(crate) bytes: u64,
}

/// How far long work is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stage {
    /// What is being done.
    pub(crate) what: String,
    /// Bytes.
    pub(crate) done: u64,
    /// 0 when nobody knows.
    pub(crate) total: u64,
}
