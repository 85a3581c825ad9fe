//! A digest of what is mentioned of the members: equal for two machines that know the same.
//!
//! It owns the sums of the buckets, which move with each mention, and knows nothing of the members.

use crate::ids::{MemberKey, MentionId};
use crate::wire::Mention;

/// Buckets of the digest.
pub const BUCKETS: usize = 256;

/// The ids of all mentions, by exclusive or, in [`BUCKETS`] buckets: a member is in that of its key's first byte.
#[derive(Debug)]
pub(super) struct Digest(Vec<MentionId>);

impl Digest {
    pub(super) fn new() -> Self {
        Self(vec![MentionId::default(); BUCKETS])
    }

    /// Puts in a mention that is not in it, or takes out one that is.
    pub(super) fn toggle(&mut self, mention: &Mention) {
        add(&mut self.0[usize::from(mention.member.0[0])], &mention.id());
    }

    /// The same in fewer buckets: a power of two, at most [`BUCKETS`].
    pub(super) fn sums(&self, len: usize) -> Vec<MentionId> {
        let mut sums = vec![MentionId::default(); len];
        for (at, bucket) in self.0.iter().enumerate() {
            add(&mut sums[at * len / BUCKETS], bucket);
        }
        sums
    }
}

fn add(sum: &mut MentionId, other: &MentionId) {
    sum.0.iter_mut().zip(other.0).for_each(|(byte, other)| *byte ^= other);
}

/// The first and the last key of a bucket of a digest of so many.
pub(super) fn edges(len: usize, bucket: usize) -> (MemberKey, MemberKey) {
    let width = BUCKETS / len;
    let edge = |byte: usize, rest: u8| {
        let mut key = [rest; 6];
        key[0] = u8::try_from(byte).unwrap_or(u8::MAX);
        MemberKey(key)
    };
    (edge(bucket * width, 0), edge(bucket * width + width - 1, u8::MAX))
}
