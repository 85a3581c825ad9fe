//! The order in which members come for a payload or an extent, and what an extent is. Pure arithmetic, the same for everyone.

use core::ops::Range;
use std::collections::BTreeMap;

use crate::chunk::ChunkList;
use crate::ids::DeviceId;

/// The share of a payload that one lease is about: about a 64th, within 1 to 8 MiB.
fn extent_bytes(payload_len: u64) -> u64 {
    (payload_len / 64).clamp(1 << 20, 8 << 20)
}

/// Cuts a payload into extents: runs of whole chunks, in order, without gaps. The same for everyone who has the list.
pub fn extents(list: &ChunkList) -> Vec<Range<u32>> {
    let aim = extent_bytes(list.payload_len());
    let mut extents = Vec::new();
    let (mut start, mut bytes) = (0u32, 0u64);
    for (position, chunk) in (0u32..).zip(list.chunks()) {
        bytes += u64::from(chunk.len);
        if bytes >= aim {
            extents.push(start..position + 1);
            (start, bytes) = (position + 1, 0);
        }
    }
    if bytes > 0 {
        extents.push(start..list.chunks().len() as u32);
    }
    extents
}

/// A member's score for a key: the smallest wins. `-log2(hash) / weight` in fixed point, so that a member wins in proportion
/// to its weight, on every platform alike.
pub fn score(key: &[u8], device: &DeviceId, weight: u8) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(device.as_bytes());
    hasher.update(key);
    let mut word = [0; 8];
    word.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    minus_log2(u64::from_le_bytes(word)) / u64::from(weight.max(1))
}

/// `-log2(x / 2^64)` with 32 fractional bits, for x > 0 (0 counts as 1).
fn minus_log2(x: u64) -> u64 {
    let zeros = u64::from(x.max(1).leading_zeros());
    let mut mantissa = u128::from(x.max(1)) << zeros;
    let mut fraction = 0u64;
    for _ in 0..32 {
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    ((zeros + 1) << 32).saturating_sub(fraction)
}

/// How many of these members, given as numbers by weight, are to be expected before one with this score. Who knows how many
/// there are knows about which it is, without a hash for each of them.
pub fn expected_rank(score: u64, weights: &BTreeMap<u8, u32>) -> f64 {
    let bits = score as f64 / (1u64 << 32) as f64;
    weights.iter().map(|(weight, count)| f64::from(*count) * (1.0 - (-bits * f64::from(*weight)).exp2())).sum()
}

/// The members in the order in which they would be chosen for a key; of the same length as the input.
pub fn rank(key: &[u8], candidates: &BTreeMap<DeviceId, u8>) -> Vec<DeviceId> {
    let mut ranked: Vec<_> = candidates.iter().map(|(device, weight)| (score(key, device, *weight), *device)).collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, device)| device).collect()
}
