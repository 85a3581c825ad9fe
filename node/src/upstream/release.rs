//! What an InRelease file says: which state of which suite it is, and which indexes belong to it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use upswarm_protocol::time::Wall;

use super::compression::Compression;
use super::deb822::{Deb822Error, Paragraphs};

/// The most files that a Release may name; Debian's name 2,000.
const MAX_FILES: usize = 65_536;

/// A verified InRelease file, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// Who publishes it, for example `Debian`; empty when it does not say.
    pub(crate) origin: String,
    pub(crate) label: String,
    pub(crate) suite: String,
    pub(crate) codename: String,
    /// The distribution's version, for example `12.9`; empty when it does not say.
    pub(crate) version: String,
    /// When it was made.
    pub(crate) date: Wall,
    /// After this it is too old to be believed to be the newest.
    pub(crate) valid_until: Option<Wall>,
    pub(crate) architectures: Vec<String>,
    pub(crate) components: Vec<String>,
    /// Whether indexes are also served by their hash.
    pub(crate) by_hash: bool,
    /// Whether packages for all architectures have indexes of their own.
    pub(crate) separate_all: bool,
    /// Files below `dists/<suite>/`, by path.
    files: BTreeMap<String, Listed>,
}

/// A file that a Release names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Bytes.
    pub(crate) len: u64,
    pub(crate) sha256: [u8; 32],
}

/// Why a Release was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    /// Not of the form.
    #[error("{0}")]
    Form(#[from] Deb822Error),
    /// A field is missing or says what cannot be.
    #[error("its field {field} {what}")]
    Field { field: &'static str, what: String },
}

const FIELDS: [&str; 12] = [
    "Origin",
    "Label",
    "Suite",
    "Codename",
    "Version",
    "Date",
    "Valid-Until",
    "Architectures",
    "Components",
    "Acquire-By-Hash",
    "No-Support-for-Architecture-all",
    "SHA256",
];

impl Release {
    /// Reads the text that a signature vouches for.
    pub(crate) fn parse(text: &str) -> Result<Self, ReleaseError> {
        let mut paragraphs = Paragraphs::new(text.as_bytes(), &FIELDS);
        let wrong = |field, what: &str| ReleaseError::Field { field, what: what.to_owned() };
        let mut first = paragraphs.next()?.ok_or_else(|| wrong("Date", "is missing: the file is empty"))?;
        if paragraphs.next()?.is_some() {
            return Err(wrong("SHA256", "is followed by a second paragraph, which no Release has"));
        }
        let mut take = |field: &str| FIELDS.iter().position(|known| *known == field).and_then(|at| first.take(at));
        let words = |text: Option<String>| -> Vec<String> {
            text.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
        };
        let date = take("Date").ok_or_else(|| wrong("Date", "is missing"))?;
        let date = parse_date(&date).ok_or_else(|| wrong("Date", "is no date"))?;
        let valid_until = match take("Valid-Until") {
            None => None,
            Some(text) => Some(parse_date(&text).ok_or_else(|| wrong("Valid-Until", "is no date"))?),
        };
        let list = take("SHA256").ok_or_else(|| wrong("SHA256", "is missing; older hashes are not accepted"))?;
        let mut files = BTreeMap::new();
        for line in list.lines().filter(|line| !line.is_empty()) {
            let mut columns = line.split_ascii_whitespace();
            let (hash, len, path) = (columns.next(), columns.next(), columns.next());
            let listed = hash.and_then(sha256).zip(len.and_then(|len| len.parse().ok()));
            let (Some((sha256, len)), Some(path), None) = (listed, path, columns.next()) else {
                return Err(ReleaseError::Field { field: "SHA256", what: format!("has the line {line:?}") });
            };
            if files.len() >= MAX_FILES {
                return Err(ReleaseError::Field {
                    field: "SHA256",
                    what: format!("names more than {MAX_FILES} files"),
                });
            }
            if files.insert(path.to_owned(), Listed { len, sha256 }).is_some_and(|old| old != Listed { len, sha256 }) {
                return Err(ReleaseError::Field { field: "SHA256", what: format!("names {path} twice") });
            }
        }
        let architectures = words(take("Architectures"));
        let no_all = take("No-Support-for-Architecture-all").unwrap_or_default();
        Ok(Self {
            origin: take("Origin").unwrap_or_default(),
            label: take("Label").unwrap_or_default(),
            suite: take("Suite").unwrap_or_default(),
            codename: take("Codename").unwrap_or_default(),
            version: take("Version").unwrap_or_default(),
            date,
            valid_until,
            separate_all: architectures.iter().any(|arch| arch == "all")
                && !no_all.split_ascii_whitespace().any(|word| word == "Packages"),
            architectures,
            components: words(take("Components")),
            by_hash: take("Acquire-By-Hash").is_some_and(|text| text.eq_ignore_ascii_case("yes")),
            files,
        })
    }

    /// Whether it is of the suite in whose folder it lay: the same key signs other suites too, which a mirror could put there.
    pub(crate) fn is_of(&self, suite: &str) -> bool {
        (self.suite.is_empty() && self.codename.is_empty()) || self.suite == suite || self.codename == suite
    }

    /// A file that it names, by its path below `dists/<suite>/`.
    pub(crate) fn file(&self, path: &str) -> Option<Listed> {
        self.files.get(path).copied()
    }

    /// The index of a component and an architecture in its smallest form, and its path.
    pub(crate) fn index(&self, component: &str, arch: &str) -> Option<(String, Listed)> {
        Compression::ALL.into_iter().find_map(|compression| {
            let path = format!("{component}/binary-{arch}/Packages{}", compression.ending());
            let listed = self.file(&path)?;
            Some((path, listed))
        })
    }
}

/// A date as RFC 2822 has it, `Sat, 29 Nov 2026 12:00:00 UTC`.
fn parse_date(text: &str) -> Option<Wall> {
    // The form knows GMT and offsets; Debian writes UTC.
    let text = text.strip_suffix("UTC").map_or_else(|| text.to_owned(), |rest| format!("{rest}+0000"));
    let time: Timestamp = DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text.trim()).ok()?;
    Some(Wall(u64::try_from(time.as_millisecond()).ok()?))
}

/// A hash in hex.
pub(crate) fn sha256(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Origin: Debian\nLabel: Debian-Security\nSuite: oldstable-security\nVersion: 12\n\
        Codename: bookworm-security\nDate: Sun, 29 Nov 2026 12:00:00 UTC\nValid-Until: Sun, 06 Dec 2026 12:00:00 UTC\n\
        Acquire-By-Hash: yes\nNo-Support-for-Architecture-all: Packages\nArchitectures: all amd64 arm64\n\
        Components: main contrib\nMD5Sum:\n d41d8cd98f00b204e9800998ecf8427e 0 main/binary-all/Packages\nSHA256:\n \
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855        0 main/binary-amd64/Packages\n \
        0000000000000000000000000000000000000000000000000000000000000001 4711 main/binary-amd64/Packages.gz\n \
        0000000000000000000000000000000000000000000000000000000000000002 4000 main/binary-amd64/Packages.xz\n";

    #[test]
    fn a_release_says_what_it_is_and_what_belongs_to_it() {
        let release = Release::parse(TEXT).unwrap();
        assert_eq!(release.date.to_string(), "2026-11-29T12:00:00Z");
        assert_eq!(release.valid_until.unwrap().since(release.date).as_secs(), 7 * 24 * 3600);
        assert!(release.by_hash && !release.separate_all);
        assert!(release.is_of("bookworm-security") && release.is_of("oldstable-security"));
        assert!(!release.is_of("bookworm") && !release.is_of("sid"));
        let (path, listed) = release.index("main", "amd64").unwrap();
        assert_eq!((path.as_str(), listed.len, listed.sha256[31]), ("main/binary-amd64/Packages.xz", 4000, 2));
        assert_eq!(release.index("main", "riscv64"), None);
    }

    #[test]
    fn what_a_release_may_not_say_is_refused() {
        for (from, to, cause) in [
            ("Date: Sun, 29 Nov 2026 12:00:00 UTC\n", "", "Date is missing"),
            ("Date: Sun, 29 Nov", "Date: soon", "Date is no date"),
            ("Valid-Until: Sun, 06 Dec", "Valid-Until: never", "Valid-Until is no date"),
            ("SHA256:", "SHA1:", "SHA256 is missing"),
            ("4711 main", "many main", "has the line"),
            ("4711 main/binary-amd64/Packages.gz", "4711 main/binary-amd64/Packages.xz", "twice"),
            ("MD5Sum:", "\nMD5Sum:", "second paragraph"),
        ] {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT);
            let error = Release::parse(&text).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }

    #[test]
    fn dates_are_read_as_they_are_written_by_different_tools() {
        for text in [
            "Sun, 29 Nov 2026 12:00:00 UTC",
            "Sun, 29 Nov 2026 12:00:00 +0000",
            "Sun, 29 Nov 2026 13:00:00 +0100",
            "Sun, 29 Nov 2026 12:00:00 GMT",
        ] {
            assert_eq!(parse_date(text).unwrap().to_string(), "2026-11-29T12:00:00Z", "{text}");
        }
        assert_eq!(parse_date("2026-11-29"), None);
    }
}
