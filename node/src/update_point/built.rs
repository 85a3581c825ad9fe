//! Indexes for machines without an agent, as they were computed: the newest of each repository, and the one before for clients in the
//! middle of an update. What could not be computed is remembered too: a repository whose files never come costs no other its answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use upswarm_protocol::ids::{GroupId, ReleaseId};

use crate::upstream::filtered::Indexes;

/// States of one repository that are kept.
const GENERATIONS: usize = 2;
/// Repositories whose indexes are kept; each has some hundred KiB.
const MAX_REPOSITORIES: usize = 64;
/// Repositories that are computed or waited for at a time.
const MAX_UNDER_WAY: usize = 64;
/// What could not be computed is not tried again before this.
const FAILED_FOR: Duration = Duration::from_secs(60);

/// A group, and the upstream.
type Repository = (GroupId, String);
/// One state of it.
pub(super) type Key = (Repository, ReleaseId);

/// Indexes that were computed, of each repository the newest first; an `E` says why there are none.
#[derive(Debug)]
pub(super) struct Built<E> {
    known: BTreeMap<Repository, VecDeque<(ReleaseId, Arc<Indexes>)>>,
    /// Whoever computes holds the lock; the entry goes with the last who waits for it.
    under_way: BTreeMap<Key, Weak<Mutex<()>>>,
    failed: BTreeMap<Key, (Instant, E)>,
}

impl<E> Default for Built<E> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), under_way: BTreeMap::new(), failed: BTreeMap::new() }
    }
}

impl<E: Clone> Built<E> {
    /// What is known of a state: its indexes, or why there are none.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Result<Arc<Indexes>, E>> {
        let (repository, release) = key;
        let mut known = self.known.get(repository).into_iter().flatten();
        if let Some((_, indexes)) = known.find(|(of, _)| of == release) {
            return Some(Ok(indexes.clone()));
        }
        let failed = self.failed.get(key).filter(|(at, _)| now.saturating_duration_since(*at) < FAILED_FOR);
        failed.map(|(_, why)| Err(why.clone()))
    }

    /// The lock of whoever computes this state; none where too many are under way.
    pub(super) fn turn(&mut self, key: &Key) -> Option<Arc<Mutex<()>>> {
        self.under_way.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = self.under_way.get(key).and_then(Weak::upgrade) {
            return Some(lock);
        }
        if self.under_way.len() >= MAX_UNDER_WAY {
            return None;
        }
        let lock = Arc::default();
        self.under_way.insert(key.clone(), Arc::downgrade(&lock));
        Some(lock)
    }

    /// Keeps what came of it; indexes as the newest of their repository.
    pub(super) fn put(&mut self, key: Key, outcome: Result<Arc<Indexes>, E>, now: Instant) {
        self.failed.retain(|of, (at, _)| *of != key && now.saturating_duration_since(*at) < FAILED_FOR);
        let indexes = match outcome {
            Ok(indexes) => indexes,
            Err(why) => {
                if self.failed.len() >= MAX_UNDER_WAY {
                    self.failed.pop_first();
                }
                self.failed.insert(key, (now, why));
                return;
            }
        };
        let (repository, release) = key;
        if !self.known.contains_key(&repository) && self.known.len() >= MAX_REPOSITORIES {
            self.known.pop_first();
        }
        let generations = self.known.entry(repository).or_default();
        generations.push_front((release, indexes));
        generations.truncate(GENERATIONS);
    }

    /// The index of this SHA-256, in hex, that an upstream's repository has or had.
    pub(super) fn hashed(&self, upstream: &str, hash: &str) -> Option<Vec<u8>> {
        let mut of_it =
            self.known.iter().filter(|((_, of), _)| of == upstream).flat_map(|(_, generations)| generations);
        of_it.find_map(|(_, indexes)| by_hash(indexes, hash))
    }
}

/// The index of this SHA-256, in hex.
pub(super) fn by_hash(indexes: &Indexes, hash: &str) -> Option<Vec<u8>> {
    indexes.hashed(&hex::decode(hash).ok()?).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_remembered_for_a_minute_and_what_is_under_way_is_bounded() {
        let (mut built, now) = (Built::default(), Instant::now());
        let key = |group: u8| ((GroupId([group; 16]), "sec".to_owned()), ReleaseId([1; 32]));
        let turns: Vec<_> = (0..64).map(|group| built.turn(&key(group)).unwrap()).collect();
        assert!(Arc::ptr_eq(&turns[3], &built.turn(&key(3)).unwrap()));
        assert!(built.turn(&key(64)).is_none());
        drop(turns);
        assert!(built.turn(&key(64)).is_some());
        built.put(key(1), Err("gone"), now);
        assert!(matches!(built.get(&key(1), now + Duration::from_secs(59)), Some(Err(_))));
        assert!(built.get(&key(1), now + FAILED_FOR).is_none() && built.get(&key(2), now).is_none());
        built.put(key(1), Ok(Arc::default()), now);
        assert!(matches!(built.get(&key(1), now), Some(Ok(_))));
        (0..=255).for_each(|group| built.put(key(group), Err("gone"), now));
        assert_eq!(built.failed.len(), MAX_UNDER_WAY);
    }
}
