use serde::{Deserialize, Serialize};

use crate::ids::DocHash;
use crate::time::Wall;

/// The small pointer that is gossiped. Re-issued hourly, so that silence shows as age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The root version that signed this.
    pub root_version: u64,
    /// Version of the index; never goes down under one set of online keys.
    pub index_version: u64,
    /// Hash of the index's envelope.
    pub index_hash: DocHash,
    /// Bytes of the index's envelope.
    pub index_len: u32,
    /// When it was signed; orders heads with the same index version.
    pub issued: Wall,
    /// After this no new install rests on it.
    pub expires: Wall,
}
