//! Debian packages, from dpkg's own database, which is text in the form of deb822(5).
//!
//! Nothing here asks for more memory than one package takes, whatever the file holds.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read as _};

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::inventory::{Arch, MAX_PACKAGES, Name, PackageKey, Version};

use super::{Found, Notices};
use crate::sys::{Root, Stamp};
use crate::upstream::deb822::{Line, read_line};

const STATUS: &str = "var/lib/dpkg/status";
/// Records that dpkg has not merged into the status file yet; a number is a file's name, and later ones count.
const UPDATES: &str = "var/lib/dpkg/updates";
/// Bytes of a line beyond this are skipped: no field that is read here is longer.
const MAX_LINE: usize = 1 << 10;
/// A database is hundreds of times smaller.
const MAX_FILE: u64 = 1 << 30;
const ADVICE: &str = "`dpkg --audit` says more, and /var/backups and /var/lib/dpkg/status-old hold older copies";

/// What tells whether the database has changed; `None` when there is none.
pub(super) fn stamps(root: &Root) -> Option<Vec<Option<Stamp>>> {
    if !root.exists(STATUS) {
        return None;
    }
    let updates = root.names(UPDATES).into_iter().map(|name| format!("{UPDATES}/{name}"));
    Some(std::iter::once(STATUS.to_owned()).chain(updates).map(|path| root.stamp(&path)).collect())
}

/// Every installed package, and what could not be read. A package that is unpacked and not configured is not installed.
pub(super) fn read(root: &Root) -> Found {
    let mut notices = Notices::default();
    let mut records = BTreeMap::new();
    let updates = root.names(UPDATES).into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let mut files = vec![STATUS.to_owned()];
    files.extend(updates.map(|name| format!("{UPDATES}/{name}")));
    for path in files {
        let name = root.name(&path);
        let status = path == STATUS;
        match root.file(&path) {
            Ok(file) => {
                let mut input = BufReader::with_capacity(64 << 10, file);
                read_records(&mut input, &name, !status, &mut records, &mut notices);
            }
            // dpkg merges its journal whenever it likes.
            Err(error) if !status && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => notices.add(format!("{name} cannot be read: {error}; {ADVICE}")),
        }
    }
    let mut found = Found::default();
    for (key, record) in records {
        match record.state {
            State::Installed => {
                if let Some(source) = record.source.filter(|source| *source != key.name) {
                    found.sources.insert(key.clone(), source);
                }
                found.packages.push((key, record.version));
            }
            State::Half(state) => notices.add(format!(
                "the Debian package {} {} is {state}, not installed; finish it with `dpkg --configure -a` or `apt-get -f install`",
                key.name, record.version
            )),
            State::Absent => {}
        }
    }
    found.notices = notices.into_vec();
    found
}

/// What one paragraph says of a package.
#[derive(Debug)]
struct Record {
    state: State,
    version: Version,
    source: Option<Name>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Installed,
    Half(&'static str),
    Absent,
}

/// Reads paragraphs to the end of the input, or to the first error of reading. `journal` records replace those before them.
fn read_records(
    input: &mut dyn BufRead,
    file: &str,
    journal: bool,
    records: &mut BTreeMap<PackageKey, Record>,
    notices: &mut Notices,
) {
    let mut lines = Lines { input: input.take(MAX_FILE), line: Vec::new(), number: 0 };
    let mut paragraph = Paragraph::default();
    let mut any = false;
    loop {
        let more = match lines.next() {
            Ok(more) => more,
            Err(error) => {
                notices.add(format!("{file}, line {}: {error}; what follows is not read; {ADVICE}", lines.number + 1));
                false
            }
        };
        if more && !lines.line.is_empty() {
            any = true;
            paragraph.line(lines.number, &lines.line);
            continue;
        }
        let ended = std::mem::take(&mut paragraph);
        if ended.start > 0 {
            add(ended, file, journal, records, notices);
        }
        if !more {
            break;
        }
    }
    if !any && !journal {
        notices.add(format!("{file} is empty; {ADVICE}"));
    }
    if lines.input.limit() == 0 {
        notices.add(format!("{file} is larger than {MAX_FILE} bytes; the rest is not read; {ADVICE}"));
    }
}

/// Takes what a paragraph says, or says what is wrong with it.
fn add(
    paragraph: Paragraph,
    file: &str,
    journal: bool,
    records: &mut BTreeMap<PackageKey, Record>,
    notices: &mut Notices,
) {
    let (start, malformed) = (paragraph.start, paragraph.malformed);
    let (key, record) = match paragraph.record() {
        Ok(found) => found,
        Err(what) => {
            let (line, what) = malformed.unwrap_or((start, what));
            return notices.add(format!("{file}, line {line}: {what}; the package is left out; {ADVICE}"));
        }
    };
    let name = &key.name;
    if let Some((line, what)) = malformed {
        notices.add(format!("{file}, line {line}: {what}; the rest of the package {name} is kept; {ADVICE}"));
    }
    if records.contains_key(&key) {
        if !journal {
            let what = format!("the package {name} stands there twice; the later one counts");
            notices.add(format!("{file}, line {start}: {what}; {ADVICE}"));
        }
    } else if record.state == State::Absent {
        return;
    } else if records.len() >= MAX_PACKAGES {
        let what = format!("more than {MAX_PACKAGES} packages; {name} is left out");
        return notices.add(format!("{file}, line {start}: {what}"));
    }
    records.insert(key, record);
}

/// The fields of one paragraph that matter.
#[derive(Debug, Default)]
struct Paragraph {
    /// Line of the first field, from 1; 0 before it.
    start: u64,
    /// The first line that is not as it should be.
    malformed: Option<(u64, &'static str)>,
    package: Option<String>,
    status: Option<String>,
    version: Option<String>,
    architecture: Option<String>,
    source: Option<String>,
}

impl Paragraph {
    fn line(&mut self, number: u64, line: &[u8]) {
        if self.start == 0 {
            self.start = number;
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return;
        }
        let mut wrong = |what| self.malformed = self.malformed.or(Some((number, what)));
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return wrong("a line that is neither a field nor the rest of one");
        };
        let (field, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if field.is_empty() || !field.iter().all(u8::is_ascii_graphic) {
            return wrong("a line that is neither a field nor the rest of one");
        }
        let place = match field.to_ascii_lowercase().as_slice() {
            b"package" => &mut self.package,
            b"status" => &mut self.status,
            b"version" => &mut self.version,
            b"architecture" => &mut self.architecture,
            b"source" => &mut self.source,
            _ => return,
        };
        if place.is_some() {
            return wrong("a field that stands there twice");
        }
        // A value that is not text is no valid one of any field, and the checks below say so.
        *place = Some(String::from_utf8_lossy(value).into_owned());
    }

    fn record(self) -> Result<(PackageKey, Record), &'static str> {
        let name = self.package.ok_or("no field Package")?;
        if !is_word(&name, b"+.-_") {
            return Err("the field Package holds no name of a package");
        }
        let state = self.status.ok_or("no field Status")?;
        let state = match state.split_ascii_whitespace().nth(2) {
            // On hold, or chosen to be removed later: installed all the same.
            Some("installed") => State::Installed,
            Some("half-installed") => State::Half("half-installed"),
            Some("unpacked") => State::Half("unpacked"),
            Some("half-configured") => State::Half("half-configured"),
            Some("triggers-awaited") => State::Half("triggers-awaited"),
            Some("triggers-pending") => State::Half("triggers-pending"),
            Some("not-installed" | "config-files") => State::Absent,
            _ => return Err("the field Status holds no state of a package"),
        };
        let version = self.version.unwrap_or_default();
        if state == State::Installed && version.is_empty() {
            return Err("no field Version");
        }
        if !version.is_empty() && !is_word(&version, b"+.-:~_") {
            return Err("the field Version holds no version");
        }
        let arch = self.architecture.unwrap_or_default();
        if !arch.is_empty() && !is_word(&arch, b"-") {
            return Err("the field Architecture holds no architecture");
        }
        let source = self.source.as_deref().and_then(|source| source.split_ascii_whitespace().next());
        let source = source.filter(|source| is_word(source, b"+.-")).and_then(|source| Name::new(source).ok());
        let key = PackageKey {
            kind: PackageKind::Deb,
            name: Name::new(name).map_err(|_| "the name of a package is too long")?,
            arch: Arch::new(arch).map_err(|_| "the name of an architecture is too long")?,
        };
        let version = Version::new(version).map_err(|_| "a version is too long")?;
        Ok((key, Record { state, version, source }))
    }
}

/// Letters, digits and `more`, beginning with a letter or a digit.
fn is_word(text: &str, more: &[u8]) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
    text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && text.bytes().all(rest)
}

/// Lines of bounded length.
struct Lines<'a> {
    input: io::Take<&'a mut dyn BufRead>,
    /// The line without its end, at most [`MAX_LINE`] bytes.
    line: Vec<u8>,
    /// Its number, from 1.
    number: u64,
}

impl Lines<'_> {
    /// Reads the next line; `false` at the end. A line of blanks counts as an empty one, as for dpkg.
    fn next(&mut self) -> io::Result<bool> {
        let mut read = read_line(&mut self.input, &mut self.line, MAX_LINE)?;
        let any = read != Line::End;
        let mut rest = Vec::new();
        while read == Line::Cut {
            read = read_line(&mut self.input, &mut rest, MAX_LINE)?;
        }
        self.number += u64::from(any);
        if self.line.iter().all(u8::is_ascii_whitespace) {
            self.line.clear();
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_line_takes_no_memory() {
        let mut input = BufReader::new(io::repeat(b'a').take(100 << 20));
        let input: &mut dyn BufRead = &mut input;
        let mut lines = Lines { input: input.take(MAX_FILE), line: Vec::new(), number: 0 };
        assert!(lines.next().expect("no error"));
        assert_eq!((lines.line.len(), lines.number), (MAX_LINE, 1));
        assert!(lines.line.capacity() <= 2 * MAX_LINE);
        assert!(!lines.next().expect("the end"));
    }

    #[test]
    fn an_error_of_reading_keeps_what_came_before() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is on fire"))
            }
        }
        let good = b"Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\nPackage: b\n";
        let mut input = BufReader::new(good.chain(Broken));
        let (mut records, mut notices) = (BTreeMap::new(), Notices::default());
        read_records(&mut input, "status", false, &mut records, &mut notices);
        assert_eq!(records.len(), 1);
        let notices = notices.into_vec();
        assert!(notices[0].starts_with("status, line 7: the disk is on fire"), "{notices:?}");
        assert!(notices[1].starts_with("status, line 6: no field Status"), "{notices:?}");
    }
}
