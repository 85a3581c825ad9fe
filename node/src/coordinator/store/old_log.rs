//! What devices told, as it was kept before the fleet store was a database: one file. Owns its format; only reads it, once.
//!
//! ```text
//! file   = "UPTOLD" version(2 bytes) record*
//! record = length(4) check(8) kind(1) device(32) bytes(length)
//! ```
//! Lengths are little-endian; the check is the beginning of the BLAKE3 of everything after it. A later record of a device and
//! kind replaces the earlier one, an empty one removes it. A record that is cut or damaged ends the file: whatever follows was never
//! acknowledged.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use upswarm_protocol::ids::DeviceId;

use super::told::{Key, Kind};
use crate::coordinator::files::read_if_there;

const MAGIC: &[u8; 8] = b"UPTOLD\0\x01";
const HEAD: usize = 4 + 8 + 1 + 32;
/// Longer records are damage.
const MAX_RECORD: usize = 32 << 20;

/// The newest record of each device and kind; nothing when there is no such file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<BTreeMap<Key, Vec<u8>>>> {
    let Some(bytes) = read_if_there(path)? else { return Ok(None) };
    let mut newest = BTreeMap::new();
    if !bytes.starts_with(MAGIC) {
        tracing::warn!(file = %path.display(), "the record of what devices told is damaged; they tell again");
        return Ok(Some(newest));
    }
    let mut at = MAGIC.len();
    while let Some((key, whole)) = bytes.get(at..).and_then(record) {
        match whole == HEAD {
            true => newest.remove(&key),
            false => newest.insert(key, bytes[at + HEAD..at + whole].to_vec()),
        };
        at += whole;
    }
    if bytes.len() > at {
        tracing::warn!(file = %path.display(), bytes = bytes.len() - at, "the last words of devices were not written whole; they tell again");
    }
    Ok(Some(newest))
}

/// The record at the beginning of these bytes, with its whole length; nothing when it is not whole.
fn record(bytes: &[u8]) -> Option<(Key, usize)> {
    let mut head = [0; HEAD];
    (&bytes[..]).read_exact(&mut head).ok()?;
    let len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    if len > MAX_RECORD {
        return None;
    }
    let whole = bytes.get(..HEAD + len)?;
    if blake3::hash(&whole[12..]).as_bytes()[..8] != whole[4..12] {
        return None;
    }
    let kind = Kind::from_number(head[12].into())?;
    Some(((DeviceId(head[13..].try_into().ok()?), kind), HEAD + len))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file with these records.
    pub(crate) fn file(records: &[(Key, &[u8])]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for ((device, kind), content) in records {
            let mut checked = vec![*kind as u8];
            checked.extend_from_slice(&device.0);
            checked.extend_from_slice(content);
            bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&blake3::hash(&checked).as_bytes()[..8]);
            bytes.extend_from_slice(&checked);
        }
        bytes
    }

    fn key(device: u8) -> Key {
        (DeviceId([device; 32]), Kind::Status)
    }

    #[test]
    fn the_newest_words_of_each_are_read_up_to_the_first_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("told");
        assert_eq!(read(&path).unwrap(), None);
        let whole = file(&[(key(1), b"old"), (key(2), b"two"), (key(1), b"new"), (key(2), b""), (key(3), b"three")]);
        std::fs::write(&path, &whole).unwrap();
        let wanted = BTreeMap::from([(key(1), b"new".to_vec()), (key(3), b"three".to_vec())]);
        assert_eq!(read(&path).unwrap(), Some(wanted), "two is forgotten");
        for cut in MAGIC.len()..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let held = read(&path).unwrap().unwrap();
            assert!(!held.contains_key(&key(3)), "cut at {cut}");
        }
        for at in MAGIC.len()..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            let known = [&b"old"[..], b"new", b"two", b"three"];
            assert!(read(&path).unwrap().unwrap().values().all(|held| known.contains(&held.as_slice())), "{at}");
        }
        std::fs::write(&path, b"something else").unwrap();
        assert!(read(&path).unwrap().unwrap().is_empty());
    }
}
