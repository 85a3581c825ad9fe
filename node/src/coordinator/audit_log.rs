//! The file of the log of decisions: opened, read and verified. Owns how an entry is encoded and what is done about a file that is not
//! what was written; the chain's rule and the form of a line are the protocol's, and the driver alone adds entries.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use upswarm_protocol::catalog::{AuditBreak, AuditChain, AuditEnd, AuditHead, MAX_AUDIT_ENTRY, MAX_AUDIT_LINE};
use upswarm_protocol::time::Wall;

use crate::api::actor::Actor;
use crate::api::audit::{Deed, Entry, EntryQuery, LogPage, MAX_ENTRIES, NumberedEntry, SOME_ENTRIES};
use crate::sys;

/// Holders that an entry names; a root may have more.
const MAX_HOLDERS: usize = 16;
/// The extension of a damaged log, before its number.
const DAMAGED: &str = "damaged-";

/// A log as a start finds it.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Where it goes on.
    pub(crate) end: AuditEnd,
    /// What is wrong with what was there.
    pub(crate) trouble: Option<String>,
}

/// A log that was read from its beginning.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) end: AuditEnd,
    /// Bytes of a last line that was not written whole, which was never acknowledged.
    pub(crate) torn: usize,
}

/// Why a log could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the log of decisions cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Broken(#[from] AuditBreak),
}

/// The bytes of an entry: JSON on one line, within the bound of an entry.
pub(crate) fn entry(now: Wall, actor: &Actor, deed: &Deed) -> Vec<u8> {
    let mut holders = deed.holders.clone();
    let mut what = deed.what.clone();
    if let Some(more) = holders.len().checked_sub(MAX_HOLDERS).filter(|more| *more > 0) {
        holders.truncate(MAX_HOLDERS);
        what.push_str(&format!(" (signed by {more} more)"));
    }
    let mut entry = Entry {
        when: now.to_string(),
        topic: deed.topic,
        actor: actor.to_string(),
        from: actor.from().to_owned(),
        what,
        holders,
        document: deed.document,
    };
    loop {
        // Plain data with text keys always becomes JSON.
        let bytes = serde_json::to_vec(&entry).unwrap_or_default();
        if bytes.len() <= MAX_AUDIT_ENTRY || entry.what.is_empty() {
            return bytes;
        }
        let half = entry.what.chars().count() / 2;
        entry.what = entry.what.chars().take(half).collect();
        if half > 8 {
            entry.what.push('\u{2026}');
        } else {
            entry.what.clear();
        }
    }
}

/// Follows a log from its beginning, through what an index has signed. `each` sees every entry with its number.
pub(crate) fn follow(
    log: impl BufRead,
    signed: Option<AuditHead>,
    mut each: impl FnMut(u64, &[u8]),
) -> Result<Followed, ReadError> {
    let (mut chain, mut line, mut log) = (AuditChain::new(signed), Vec::new(), log);
    let mut torn = 0;
    loop {
        line.clear();
        let read = log.by_ref().take(MAX_AUDIT_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if line.last() != Some(&b'\n') && read <= MAX_AUDIT_LINE {
            torn = read;
            break;
        }
        if let Some(entry) = chain.line(&line)? {
            each(chain.end().head.map_or(0, |head| head.entries), entry);
        }
    }
    Ok(Followed { end: chain.finish()?, torn })
}

/// Opens the log of a coordinator that starts. A line that an abrupt stop has cut was never acknowledged, and goes. A log that is not
/// what was written is kept: it goes on where its chain ends, or, where the chain itself is broken, it is put aside and begun anew.
pub(crate) fn open(path: &Path, signed: Option<AuditHead>) -> anyhow::Result<Opened> {
    let missing = |signed: AuditHead| {
        format!("the log of decisions is not there, and the signed index names {} entries of it", signed.entries)
    };
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Opened { end: AuditEnd::default(), trouble: signed.map(missing) });
        }
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    let read = || BufReader::new(&file);
    let (followed, trouble) = match follow(read(), signed, |_, _| {}) {
        Ok(followed) => (followed, None),
        Err(ReadError::Io(error)) => return Err(error).with_context(|| format!("reading {}", path.display())),
        Err(ReadError::Broken(why @ (AuditBreak::Cut { .. } | AuditBreak::NotSigned(_)))) => {
            use io::Seek as _;
            (&file).rewind().with_context(|| format!("reading {}", path.display()))?;
            let followed = follow(read(), None, |_, _| {}).with_context(|| format!("reading {}", path.display()))?;
            (followed, Some(format!("the log of decisions is not the one that was signed: {why}")))
        }
        Err(ReadError::Broken(why)) => {
            let aside = free_name(path);
            sys::rename(path, &aside).with_context(|| format!("putting {} aside", path.display()))?;
            let name = aside.file_name().unwrap_or_default().display().to_string();
            let trouble = format!("the log of decisions was damaged: {why}; what was there is kept as {name}");
            return Ok(Opened { end: AuditEnd::default(), trouble: Some(trouble) });
        }
    };
    if followed.torn > 0 {
        let cut = || -> io::Result<()> {
            file.set_len(followed.end.len)?;
            file.sync_all()
        };
        cut().with_context(|| format!("cutting the unfinished line of {}", path.display()))?;
    }
    Ok(Opened { end: followed.end, trouble })
}

/// The entries that a query asks for.
pub(crate) fn page(path: &Path, query: &EntryQuery) -> io::Result<LogPage> {
    let limit = query.limit.unwrap_or(SOME_ENTRIES).clamp(1, MAX_ENTRIES);
    let (mut found, mut more, mut total) = (VecDeque::with_capacity(limit + 1), false, 0);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(LogPage { entries: Vec::new(), more, total, broken: None, aside: aside(path)? });
        }
        Err(error) => return Err(error),
    };
    let followed = follow(BufReader::new(file), None, |number, bytes| {
        total = number;
        if let Ok(entry) = serde_json::from_slice::<Entry>(bytes)
            && query.wants(number, &entry)
        {
            found.push_back(NumberedEntry { number, entry });
            if found.len() > limit {
                found.pop_front();
                more = true;
            }
        }
    });
    let broken = match followed {
        Ok(_) => None,
        Err(ReadError::Io(error)) => return Err(error),
        Err(ReadError::Broken(why)) => Some(why.to_string()),
    };
    Ok(LogPage { entries: found.into_iter().rev().collect(), more, total, broken, aside: aside(path)? })
}

/// Entries in a log, broken or not.
pub(crate) fn count(path: &Path) -> io::Result<u64> {
    let mut lines = 0u64;
    let mut log = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    while log.skip_until(b'\n')? > 0 {
        lines += 1;
    }
    Ok(lines.saturating_sub(1))
}

/// The damaged logs that a start has put aside, by the names of their files. As long as one lies there the log is not whole: an admin
/// compares it with a backup or an export, and moves it away.
pub(crate) fn aside(path: &Path) -> io::Result<Vec<String>> {
    let begin = path.with_extension(DAMAGED);
    let (Some(folder), Some(begin)) = (path.parent(), begin.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        found.extend(entry?.file_name().to_str().filter(|name| name.starts_with(begin)).map(str::to_owned));
    }
    found.sort();
    Ok(found)
}

/// What is said of damaged logs that lie aside, and what to do.
pub(crate) fn aside_words(aside: &[String]) -> String {
    format!(
        "a coordinator that started found the log of decisions changed and put it aside as {}, in its data directory: the entries up to \
         then are there and not in the log. Compare it with a backup or an export, then move it out of the data directory",
        aside.join(", ")
    )
}

fn free_name(path: &Path) -> PathBuf {
    let named = |number: usize| path.with_extension(format!("{DAMAGED}{number}"));
    (1..).map(named).find(|name| !name.exists()).unwrap_or_else(|| named(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::audit::{KeyHolder, Topic};
    use upswarm_protocol::catalog::AUDIT_MAGIC;
    use upswarm_protocol::ids::PublicKey;

    fn write(path: &Path, entries: usize) -> AuditEnd {
        let (mut end, mut bytes) = (AuditEnd::default(), Vec::new());
        for number in 0..entries {
            let deed = Deed::new(Topic::Hold, format!("pause {number}"));
            let now = Wall(1_700_000_000_000 + number as u64 * 60_000);
            let (line, after) = end.append(&entry(now, &Actor::with_token(Some("anna"), "door"), &deed)).unwrap();
            bytes.extend(line);
            end = after;
        }
        std::fs::write(path, bytes).unwrap();
        end
    }

    #[test]
    fn an_entry_has_room_whatever_is_said() {
        let holder = KeyHolder { holder: "\u{1}".repeat(64), key: PublicKey([7; 32]) };
        for text in ["x", "\u{1}", "\u{202e}", "東"] {
            let deed = Deed { holders: vec![holder.clone(); 40], ..Deed::new(Topic::Root, text.repeat(100_000)) };
            let bytes = entry(Wall(0), &Actor::itself(), &deed);
            assert!(AuditEnd::default().append(&bytes).is_some(), "{} bytes", bytes.len());
            let read: Entry = serde_json::from_slice(&bytes).unwrap();
            assert_eq!((read.holders.len(), read.topic), (MAX_HOLDERS, Topic::Root));
        }
    }

    #[test]
    fn a_start_goes_on_after_a_torn_line_and_keeps_what_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let opened = open(&path, None).unwrap();
        assert_eq!((opened.end, opened.trouble), (AuditEnd::default(), None));
        let end = write(&path, 3);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"4 00"].concat()).unwrap();
        let opened = open(&path, end.head).unwrap();
        assert_eq!((opened.end, opened.trouble), (end, None));
        assert_eq!(std::fs::read(&path).unwrap(), whole, "the torn line is gone");
        // Cut, and signed: it goes on, and says so.
        let two = write(&path, 2);
        let opened = open(&path, end.head).unwrap();
        assert_eq!(opened.end, two);
        assert!(opened.trouble.unwrap().contains("entries after 2 were cut off"));
        // Edited: kept aside, begun anew.
        let mut edited = whole.clone();
        let at = edited.windows(7).position(|bytes| bytes == b"pause 1").unwrap();
        edited[at] = b'P';
        for number in 1..=2 {
            std::fs::write(&path, &edited).unwrap();
            let opened = open(&path, end.head).unwrap();
            assert_eq!(opened.end, AuditEnd::default());
            assert!(opened.trouble.unwrap().contains("entry 2 is not what was written"));
            let kept = std::fs::read(dir.path().join(format!("audit.damaged-{number}"))).unwrap();
            assert_eq!(kept, edited);
        }
        let opened = open(&path, end.head).unwrap();
        assert!(opened.trouble.unwrap().contains("is not there"));
    }

    #[test]
    fn entries_are_found_and_paged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        write(&path, 25);
        let numbers = |query: &EntryQuery| {
            let page = page(&path, query).unwrap();
            assert_eq!(page.total, 25);
            (page.entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), page.more)
        };
        let all = EntryQuery { limit: Some(10), ..EntryQuery::default() };
        assert_eq!(numbers(&all), ((16..=25).rev().collect(), true));
        let older = EntryQuery { before: Some(16), ..all.clone() };
        assert_eq!(numbers(&older), ((6..=15).rev().collect(), true));
        let of_one = EntryQuery { text: Some("PAUSE 7".to_owned()), ..all.clone() };
        assert_eq!(numbers(&of_one), (vec![8], false));
        assert_eq!(numbers(&EntryQuery { who: Some("Anna".to_owned()), before: Some(3), ..all.clone() }).0, [2, 1]);
        assert!(numbers(&EntryQuery { who: Some("ben".to_owned()), ..all.clone() }).0.is_empty());
        assert!(numbers(&EntryQuery { topic: Some(Topic::Root), ..all.clone() }).0.is_empty());
        let since = EntryQuery { since: Some("2023-11-14T22:36:20Z".to_owned()), ..all };
        assert_eq!(numbers(&since).0, [25, 24]);
        std::fs::write(&path, [AUDIT_MAGIC, b"1 x y\n"].concat()).unwrap();
        let broken = page(&path, &EntryQuery::default()).unwrap();
        assert!(broken.broken.unwrap().contains("entry 1"), "a reader is told");
    }
}
