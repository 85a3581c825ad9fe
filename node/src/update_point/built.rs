//! Indexes for machines without an agent, as they were computed: the newest of each repository, and the one before for clients in the
//! middle of an update.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use upswarm_protocol::ids::{GroupId, ReleaseId};

use crate::upstream::filtered::Indexes;

/// States of one repository that are kept.
const GENERATIONS: usize = 2;
/// Repositories whose indexes are kept; each has some hundred KiB.
const MAX_REPOSITORIES: usize = 64;

/// A group, and the upstream.
type Key = (GroupId, String);

/// Indexes that were computed, of each repository the newest first.
#[derive(Debug, Default)]
pub(super) struct Built(BTreeMap<Key, VecDeque<(ReleaseId, Arc<Indexes>)>>);

impl Built {
    /// Those of a release.
    pub(super) fn get(&self, key: &Key, release: ReleaseId) -> Option<Arc<Indexes>> {
        let mut known = self.0.get(key).into_iter().flatten();
        known.find(|(of, _)| *of == release).map(|(_, indexes)| indexes.clone())
    }

    /// Keeps the newest of a repository.
    pub(super) fn put(&mut self, key: Key, release: ReleaseId, indexes: Arc<Indexes>) {
        if !self.0.contains_key(&key) && self.0.len() >= MAX_REPOSITORIES {
            self.0.pop_first();
        }
        let generations = self.0.entry(key).or_default();
        generations.push_front((release, indexes));
        generations.truncate(GENERATIONS);
    }

    /// The index of this SHA-256, in hex, that an upstream's repository has or had.
    pub(super) fn hashed(&self, upstream: &str, hash: &str) -> Option<Vec<u8>> {
        let mut of_it = self.0.iter().filter(|((_, of), _)| of == upstream).flat_map(|(_, generations)| generations);
        of_it.find_map(|(_, indexes)| by_hash(indexes, hash))
    }
}

/// The index of this SHA-256, in hex.
pub(super) fn by_hash(indexes: &Indexes, hash: &str) -> Option<Vec<u8>> {
    indexes.hashed(&hex::decode(hash).ok()?).map(<[u8]>::to_vec)
}
