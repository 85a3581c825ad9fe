//! The admin's log of decisions: a chain of entries, and how its lines are written. Owns the chain's rule and the form of a line; what an
//! entry says is its writer's. The head of the chain stands in the signed index, so that a log that was cut is noticed too.
//!
//! ```text
//! file = "upswarm audit 1\n" line*
//! line = number " " hash " " entry "\n"
//! ```
//! Numbers count from 1. The hash is the BLAKE3 of the 32 bytes of the hash before, zeros before the first, and the entry's bytes. An
//! entry holds no end of line.

use serde::{Deserialize, Serialize};

use crate::ids::DocHash;

/// The first line of a log, with the format's version.
pub const AUDIT_MAGIC: &[u8] = b"upswarm audit 1\n";
/// The longest entry, bytes.
pub const MAX_AUDIT_ENTRY: usize = 8 << 10;
/// The longest line, bytes, with its end.
pub const MAX_AUDIT_LINE: usize = MAX_AUDIT_ENTRY + 20 + 64 + 3;

/// How far the admin's log of decisions had got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Entries in the log.
    pub entries: u64,
    /// Hash of the last.
    pub last: DocHash,
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditEnd {
    /// Its last entry; none of an empty one.
    pub head: Option<AuditHead>,
    /// Bytes of the file, its first line included; 0 of one that is not there yet.
    pub len: u64,
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditBreak {
    /// It does not begin as a log does.
    #[error("this is no log of decisions of a version that is known here")]
    NoLog,
    /// A line is none.
    #[error("the line of entry {0} is not written as an entry is")]
    Form(u64),
    /// An entry's place is taken by another.
    #[error("where entry {expected} should stand there is entry {found}: entries were removed or put in another order")]
    Order {
        /// The entry that belongs there.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// An entry is not the one that was written.
    #[error("entry {0} is not what was written: it, or its hash, was changed")]
    Changed(u64),
    /// The log is shorter than the signed index says.
    #[error(
        "the log ends after entry {ends}, and the signed index names {signed}: the entries after {ends} were cut off"
    )]
    Cut {
        /// Entries that are there.
        ends: u64,
        /// Entries that the index names.
        signed: u64,
    },
    /// The chain holds, but it is not the one that was signed.
    #[error(
        "entry {0} is not the one that the signed index names: the log was written anew from some entry up to that one"
    )]
    NotSigned(u64),
}

impl AuditHead {
    /// The head after one more entry.
    pub fn after(before: Option<Self>, entry: &[u8]) -> Self {
        let (entries, last) = before.map_or((0, DocHash::default()), |head| (head.entries, head.last));
        let mut hasher = blake3::Hasher::new();
        hasher.update(last.as_bytes()).update(entry);
        Self { entries: entries.saturating_add(1), last: DocHash(*hasher.finalize().as_bytes()) }
    }
}

impl AuditEnd {
    /// The bytes that add an entry at this end, and the end after them. `None`: the entry is too long, or holds an end of line.
    pub fn append(self, entry: &[u8]) -> Option<(Vec<u8>, Self)> {
        if entry.is_empty() || entry.len() > MAX_AUDIT_ENTRY || entry.contains(&b'\n') {
            return None;
        }
        let head = AuditHead::after(self.head, entry);
        let mut bytes = if self.len == 0 { AUDIT_MAGIC.to_vec() } else { Vec::new() };
        bytes.extend_from_slice(format!("{} {} ", head.entries, head.last).as_bytes());
        bytes.extend_from_slice(entry);
        bytes.push(b'\n');
        let len = self.len.saturating_add(bytes.len() as u64);
        Some((bytes, Self { head: Some(head), len }))
    }
}

/// Follows a log line by line.
#[derive(Debug, Clone, Default)]
pub struct AuditChain {
    end: AuditEnd,
    signed: Option<AuditHead>,
    signed_held: bool,
}

impl AuditChain {
    /// A chain from its beginning, which must go through what an index has signed.
    pub fn new(signed: Option<AuditHead>) -> Self {
        Self { end: AuditEnd::default(), signed, signed_held: false }
    }

    /// Takes the next line, with its end. Returns the entry; nothing for the first line.
    pub fn line<'a>(&mut self, line: &'a [u8]) -> Result<Option<&'a [u8]>, AuditBreak> {
        if self.end.len == 0 {
            if line != AUDIT_MAGIC {
                return Err(AuditBreak::NoLog);
            }
            self.end.len = line.len() as u64;
            return Ok(None);
        }
        let expected = self.end.head.map_or(0, |head| head.entries).saturating_add(1);
        let (number, hash, entry) = parts(line).ok_or(AuditBreak::Form(expected))?;
        if number != expected {
            return Err(AuditBreak::Order { expected, found: number });
        }
        let head = AuditHead::after(self.end.head, entry);
        if head.last != hash {
            return Err(AuditBreak::Changed(expected));
        }
        if let Some(signed) = self.signed.filter(|signed| signed.entries == head.entries) {
            if signed != head {
                return Err(AuditBreak::NotSigned(head.entries));
            }
            self.signed_held = true;
        }
        self.end = AuditEnd { head: Some(head), len: self.end.len.saturating_add(line.len() as u64) };
        Ok(Some(entry))
    }

    /// Where the lines so far end.
    pub fn end(&self) -> AuditEnd {
        self.end
    }

    /// Says whether the whole log has come: it is at least as long as what was signed.
    pub fn finish(self) -> Result<AuditEnd, AuditBreak> {
        let ends = self.end.head.map_or(0, |head| head.entries);
        match self.signed {
            Some(signed) if !self.signed_held && signed.entries > 0 => {
                Err(AuditBreak::Cut { ends, signed: signed.entries })
            }
            _ => Ok(self.end),
        }
    }
}

fn parts(line: &[u8]) -> Option<(u64, DocHash, &[u8])> {
    let line = line.strip_suffix(b"\n").filter(|line| line.len() < MAX_AUDIT_LINE)?;
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (number, hash, entry) = (parts.next()?, parts.next()?, parts.next()?);
    let number_text = core::str::from_utf8(number).ok()?;
    let number: u64 = number_text.parse().ok()?;
    // One form alone: what is not hashed cannot be changed unseen either.
    if number.to_string() != number_text {
        return None;
    }
    let hash_text = core::str::from_utf8(hash).ok()?;
    let hash: DocHash = hash_text.parse().ok()?;
    (hash.to_string() == hash_text).then_some((number, hash, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: u8) -> (Vec<Vec<u8>>, AuditEnd) {
        let (mut lines, mut end) = (vec![AUDIT_MAGIC.to_vec()], AuditEnd::default());
        for number in 1..=entries {
            let (bytes, after) = end.append(format!("entry {number}").as_bytes()).unwrap();
            lines.push(bytes.strip_prefix(AUDIT_MAGIC).unwrap_or(&bytes).to_vec());
            end = after;
        }
        (lines, end)
    }

    fn follow(lines: &[Vec<u8>], signed: Option<AuditHead>) -> Result<AuditEnd, AuditBreak> {
        let mut chain = AuditChain::new(signed);
        for line in lines {
            chain.line(line)?;
        }
        chain.finish()
    }

    #[test]
    fn the_form_of_a_log_is_pinned() {
        let (lines, end) = log(2);
        let text = String::from_utf8(lines.concat()).unwrap();
        let first = blake3::hash(&[&[0; 32][..], b"entry 1"].concat());
        let second = blake3::hash(&[first.as_bytes(), &b"entry 2"[..]].concat());
        assert_eq!(text, format!("upswarm audit 1\n1 {first} entry 1\n2 {second} entry 2\n"));
        assert_eq!(end.len, text.len() as u64);
        assert_eq!(follow(&lines, end.head), Ok(end));
        assert_eq!(AuditEnd::default().append(b"two\nlines"), None);
        assert_eq!(AuditEnd::default().append(&[b'x'; MAX_AUDIT_ENTRY + 1]), None);
    }

    #[test]
    fn whatever_is_changed_removed_moved_or_cut_is_named() {
        let (lines, end) = log(9);
        for at in 1..lines.len() {
            let number = at as u64;
            for byte in 0..lines[at].len() {
                for bit in [1, 0x20] {
                    let mut edited = lines.clone();
                    edited[at][byte] ^= bit;
                    let broken = follow(&edited, end.head).unwrap_err();
                    let named = matches!(broken, AuditBreak::Form(n) | AuditBreak::Changed(n) if n == number)
                        || matches!(broken, AuditBreak::Order { expected, .. } if expected == number);
                    assert!(named, "entry {at}, byte {byte}: {broken}");
                }
            }
            let mut removed = lines.clone();
            removed.remove(at);
            let expected = match at {
                9 => AuditBreak::Cut { ends: 8, signed: 9 },
                _ => AuditBreak::Order { expected: number, found: number + 1 },
            };
            assert_eq!(follow(&removed, end.head), Err(expected));
            assert_eq!(
                follow(&lines[..at], end.head),
                Err(AuditBreak::Cut { ends: number - 1, signed: 9 }),
                "cut before {at}"
            );
            if at < 9 {
                let mut moved = lines.clone();
                moved.swap(at, at + 1);
                assert_eq!(follow(&moved, end.head), Err(AuditBreak::Order { expected: number, found: number + 1 }));
            }
        }
        // A chain that was made anew from an entry on is in itself right.
        let (mut anew, mut other) = log(4);
        for number in 5..=9 {
            let (bytes, after) = other.append(format!("other {number}").as_bytes()).unwrap();
            anew.push(bytes);
            other = after;
        }
        assert_eq!(follow(&anew, None), Ok(other));
        assert_eq!(follow(&anew, end.head), Err(AuditBreak::NotSigned(9)));
        // An index that was signed earlier is enough as far as it goes.
        assert_eq!(follow(&lines, log(3).1.head), Ok(end));
        assert_eq!(follow(&lines[1..], end.head), Err(AuditBreak::NoLog));
    }
}
