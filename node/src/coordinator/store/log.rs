//! What devices told, in one file that only grows until it is written anew: a batch of any size costs one fsync.
//! Owns the file's format and where each device's newest words lie in it; never knows what they say.
//!
//! ```text
//! file   = "UPTOLD" version(2 bytes) record*
//! record = length(4) check(8) kind(1) device(32) bytes(length)
//! ```
//! Lengths are little-endian; the check is the beginning of the BLAKE3 of everything after it. A later record of a device and
//! kind replaces the earlier one. A record that is cut or damaged ends the file: whatever follows was never acknowledged.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use upswarm_protocol::ids::DeviceId;

use crate::sys;

const MAGIC: &[u8; 8] = b"UPTOLD\0\x01";
const HEAD: usize = 4 + 8 + 1 + 32;
/// Longer records are damage.
const MAX_RECORD: usize = 32 << 20;
/// Bytes that nothing needs any more, besides as many as are needed, before the file is written anew.
const SLACK: u64 = 16 << 20;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// How the device is.
    Status,
    /// What is installed on it.
    Inventory,
    /// What it is missing.
    Scan,
}

/// The device and kind of a record.
pub(crate) type Key = (DeviceId, Kind);

/// The open file.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// Bytes that are durable; what lies beyond was never promised.
    len: u64,
    /// Where the newest record of each lies: its beginning and its whole length.
    newest: BTreeMap<Key, (u64, u64)>,
    live: u64,
    /// A write failed: what the file holds beyond `len` is unknown, so it is written anew before the next record.
    broken: bool,
}

impl Log {
    /// Opens the file, or makes it, and returns what it holds. One that is none of ours is moved aside: devices tell again.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, BTreeMap<Key, Vec<u8>>)> {
        let bytes = match fs::read(path) {
            Ok(bytes) if bytes.starts_with(MAGIC) => bytes,
            Ok(_) => {
                let aside = path.with_extension("damaged");
                sys::rename(path, &aside)?;
                tracing::warn!(file = %aside.display(), "the record of what devices told is damaged and moved aside; they tell again");
                Vec::new()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (mut newest, mut at) = (BTreeMap::new(), MAGIC.len());
        while let Some((key, whole)) = bytes.get(at..).and_then(record) {
            match whole == HEAD {
                true => newest.remove(&key),
                false => newest.insert(key, (at as u64, whole as u64)),
            };
            at += whole;
        }
        let held = newest.iter().map(|(key, (at, whole))| {
            let range = *at as usize + HEAD..(*at + *whole) as usize;
            (*key, bytes[range].to_vec())
        });
        let held = held.collect();
        let live = newest.values().map(|(_, whole)| whole).sum();
        let len = at as u64;
        let cut = bytes.len() > at;
        if cut {
            tracing::warn!(file = %path.display(), bytes = bytes.len() - at, "the last words of devices were not written whole; they tell again");
        }
        let mut log = if bytes.is_empty() {
            Self { path: path.to_owned(), file: begin(path)?, len: MAGIC.len() as u64, newest, live, broken: false }
        } else {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            Self { path: path.to_owned(), file, len, newest, live, broken: cut }
        };
        if log.broken {
            log.rewrite()?;
        }
        Ok((log, held))
    }

    /// Appends records, empty ones to forget what they name; durable on return, by one fsync. After an error nothing of them
    /// counts, and they may be given again.
    pub(crate) fn append(&mut self, records: &[(Key, Vec<u8>)]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if self.broken || self.len > 2 * self.live + SLACK {
            self.rewrite()?;
        }
        let mut bytes = Vec::new();
        let mut places = Vec::with_capacity(records.len());
        for (key, content) in records {
            let at = self.len + bytes.len() as u64;
            encode(*key, content, &mut bytes);
            places.push((*key, at, (HEAD + content.len()) as u64));
        }
        // A failed fsync may have dropped what it should have written: the next attempt goes to another file.
        self.broken = true;
        sys::write_all_at(&self.file, &bytes, self.len)?;
        self.file.sync_data()?;
        self.broken = false;
        self.len += bytes.len() as u64;
        for (key, at, whole) in places {
            let before =
                if whole as usize == HEAD { self.newest.remove(&key) } else { self.newest.insert(key, (at, whole)) };
            self.live -= before.map_or(0, |(_, whole)| whole);
            self.live += if whole as usize == HEAD { 0 } else { whole };
        }
        Ok(())
    }

    /// Writes the newest records to a new file, which takes the place of this one.
    fn rewrite(&mut self) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = begin(&beside)?;
        let (mut newest, mut len) = (BTreeMap::new(), MAGIC.len() as u64);
        let mut piece = Vec::new();
        for (key, (at, whole)) in &self.newest {
            piece.resize(*whole as usize, 0);
            sys::read_exact_at(&self.file, &mut piece, *at)?;
            file.write_all(&piece)?;
            newest.insert(*key, (len, *whole));
            len += whole;
        }
        file.sync_all()?;
        sys::rename(&beside, &self.path)?;
        (self.file, self.newest, self.len, self.broken) = (file, newest, len, false);
        Ok(())
    }
}

/// A new file with nothing but its beginning, to be read and written by its owner, in place of what an abrupt stop left there.
fn begin(path: &Path) -> io::Result<File> {
    sys::remove_soon(path)?;
    let mut file = sys::create_private(path)?;
    file.write_all(MAGIC)?;
    file.sync_all()?;
    sys::sync_dir(path.parent().unwrap_or(Path::new("/")))?;
    Ok(file)
}

fn encode((device, kind): Key, content: &[u8], to: &mut Vec<u8>) {
    let begin = to.len();
    to.extend_from_slice(&(content.len() as u32).to_le_bytes());
    to.extend_from_slice(&[0; 8]);
    to.push(kind as u8);
    to.extend_from_slice(&device.0);
    to.extend_from_slice(content);
    let check = check(&to[begin + 12..]);
    to[begin + 4..begin + 12].copy_from_slice(&check);
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
    if check(&whole[12..]) != whole[4..12] {
        return None;
    }
    let kind = match head[12] {
        0 => Kind::Status,
        1 => Kind::Inventory,
        2 => Kind::Scan,
        _ => return None,
    };
    Some(((DeviceId(head[13..].try_into().ok()?), kind), HEAD + len))
}

fn check(bytes: &[u8]) -> [u8; 8] {
    let mut check = [0; 8];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(device: u8) -> Key {
        (DeviceId([device; 32]), Kind::Status)
    }

    fn open(path: &Path) -> (Log, BTreeMap<Key, Vec<u8>>) {
        Log::open(path).unwrap()
    }

    #[test]
    fn the_newest_words_of_each_survive_and_a_cut_end_costs_only_what_was_not_promised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut log, held) = open(&path);
        assert!(held.is_empty());
        log.append(&[(key(1), b"old".to_vec()), (key(2), b"two".to_vec()), (key(1), b"new".to_vec())]).unwrap();
        let promised = log.len as usize;
        log.append(&[(key(3), b"three".to_vec()), (key(2), Vec::new())]).unwrap();
        let wanted = BTreeMap::from([(key(1), b"new".to_vec()), (key(3), b"three".to_vec())]);
        assert_eq!(open(&path).1, wanted, "two is forgotten");
        let whole = fs::read(&path).unwrap();
        for cut in promised..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (mut log, held) = open(&path);
            assert_eq!(held[&key(1)], b"new", "cut at {cut}");
            log.append(&[(key(9), b"nine".to_vec())]).unwrap();
            assert_eq!(open(&path).1[&key(9)], b"nine", "cut at {cut}: it goes on");
        }
        for at in MAGIC.len()..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let held = open(&path).1;
            assert!(
                held.values().all(|held| [&b"old"[..], b"new", b"two", b"three"].contains(&held.as_slice())),
                "{at}"
            );
        }
        fs::write(&path, b"something else").unwrap();
        assert!(open(&path).1.is_empty());
        assert!(dir.path().join("log.damaged").exists());
    }

    #[test]
    fn the_file_is_written_anew_when_most_of_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut log, _) = open(&path);
        for round in 0..40u8 {
            log.append(&[(key(1), vec![round; 1 << 20]), (key(round), vec![round])]).unwrap();
        }
        assert!(log.len < 2 * log.live + SLACK + (2 << 20), "{} bytes for {}", log.len, log.live);
        assert_eq!(fs::metadata(&path).unwrap().len(), log.len);
        let held = open(&path).1;
        assert_eq!((held.len(), held[&key(1)].len()), (40, 1 << 20));
    }

    #[test]
    fn after_a_failed_write_the_next_goes_to_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut log, _) = open(&path);
        log.append(&[(key(1), b"one".to_vec())]).unwrap();
        // A descriptor that cannot be written stands for a disk that fails.
        log.file = File::open(&path).unwrap();
        let two = [(key(2), b"two".to_vec())];
        assert!(log.append(&two).is_err());
        log.append(&two).unwrap();
        assert_eq!(open(&path).1.len(), 2);
    }
}
