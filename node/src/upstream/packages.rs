//! The packages that an index names, one after another. Owns what a stanza may say; memory is bounded by one stanza's.

use std::io::BufRead;

use super::deb822::{Deb822Error, Paragraphs};
use super::release::sha256;

/// The most packages of one index; Debian's largest has 70,000.
const MAX_PACKAGES: usize = 1 << 20;

/// A binary package as an index describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) arch: String,
    /// The source package that it is built from, and that one's version.
    pub(crate) source: String,
    pub(crate) source_version: String,
    /// Its file, below the mirror's URL.
    pub(crate) filename: String,
    /// Bytes of its file.
    pub(crate) len: u64,
    pub(crate) sha256: [u8; 32],
    /// Relations as they are written.
    pub(crate) relations: Relations,
    pub(crate) essential: bool,
    /// `same`, `foreign`, `allowed`, or nothing.
    pub(crate) multi_arch: String,
    pub(crate) section: String,
    /// One line for people.
    pub(crate) description: String,
    /// Percent of machines to which upstream is rolling it out so far; nothing when to all.
    pub(crate) phased: Option<u8>,
}

/// What a package says of others, each as it is written; empty for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Relations {
    pub(crate) depends: String,
    pub(crate) pre_depends: String,
    pub(crate) provides: String,
    pub(crate) breaks: String,
    pub(crate) conflicts: String,
    pub(crate) replaces: String,
}

/// Why an index was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackagesError {
    /// Not of the form, or not to be read.
    #[error("{0}")]
    Form(#[from] Deb822Error),
    /// A stanza that no package can have.
    #[error("the package at line {line}: {what}")]
    Stanza {
        /// From 1.
        line: u64,
        what: &'static str,
    },
}

const FIELDS: [&str; 18] = [
    "Package",
    "Version",
    "Architecture",
    "Source",
    "Filename",
    "Size",
    "SHA256",
    "Depends",
    "Pre-Depends",
    "Provides",
    "Breaks",
    "Conflicts",
    "Replaces",
    "Essential",
    "Multi-Arch",
    "Section",
    "Description",
    "Phased-Update-Percentage",
];

/// Hands every package to `each`, in the order of the index; returns how many there are.
pub(crate) fn read(input: impl BufRead, mut each: impl FnMut(Package)) -> Result<usize, PackagesError> {
    walk(Paragraphs::new(input, &FIELDS), |package, _| each(package))
}

/// The same, with each stanza as it is written.
pub(crate) fn read_with_text(input: impl BufRead, each: impl FnMut(Package, &str)) -> Result<usize, PackagesError> {
    walk(Paragraphs::new(input, &FIELDS).with_text(), each)
}

fn walk(
    mut paragraphs: Paragraphs<'_, impl BufRead>,
    mut each: impl FnMut(Package, &str),
) -> Result<usize, PackagesError> {
    let mut count = 0;
    while let Some(mut paragraph) = paragraphs.next()? {
        let line = paragraph.line;
        let wrong = |what| PackagesError::Stanza { line, what };
        count += 1;
        if count > MAX_PACKAGES {
            return Err(wrong("more packages than any index has"));
        }
        let mut take = |field: &str| {
            let at = FIELDS.iter().position(|known| *known == field);
            at.and_then(|at| paragraph.take(at)).unwrap_or_default()
        };
        let name = take("Package");
        if !is_name(&name) {
            return Err(wrong("its field Package holds no name"));
        }
        let version = take("Version");
        if !is_version(&version) {
            return Err(wrong("its field Version holds no version"));
        }
        let arch = take("Architecture");
        if arch.is_empty() || arch.len() > 32 || !arch.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err(wrong("its field Architecture holds no architecture"));
        }
        let source = take("Source");
        let (source, source_version) =
            source_of(&source, &name, &version).ok_or(wrong("its field Source holds no name"))?;
        let filename = take("Filename");
        if !is_pool_path(&filename) {
            return Err(wrong("its field Filename holds no path below the mirror"));
        }
        let len =
            take("Size").parse().ok().filter(|len| *len > 0).ok_or(wrong("its field Size holds no number of bytes"))?;
        let sha256 =
            sha256(&take("SHA256")).ok_or(wrong("its field SHA256 holds no hash; older hashes are not accepted"))?;
        let description = take("Description").lines().next().unwrap_or_default().to_owned();
        let mut relation = |field| take(field).replace('\n', " ");
        let relations = Relations {
            depends: relation("Depends"),
            pre_depends: relation("Pre-Depends"),
            provides: relation("Provides"),
            breaks: relation("Breaks"),
            conflicts: relation("Conflicts"),
            replaces: relation("Replaces"),
        };
        let essential = take("Essential").eq_ignore_ascii_case("yes");
        let (multi_arch, section) = (take("Multi-Arch"), take("Section"));
        let phased = take("Phased-Update-Percentage").parse().ok().filter(|percent| *percent < 100);
        let package = Package {
            name,
            version,
            arch,
            source,
            source_version,
            filename,
            len,
            sha256,
            relations,
            essential,
            multi_arch,
            section,
            description,
            phased,
        };
        each(package, &paragraph.text);
    }
    Ok(count)
}

impl Package {
    /// The last part of its file's name.
    pub(crate) fn file_name(&self) -> &str {
        self.filename.rsplit('/').next().unwrap_or_default()
    }
}

/// `name (version)`, each of which is the binary package's own where it is not said.
fn source_of(field: &str, name: &str, version: &str) -> Option<(String, String)> {
    let mut words = field.split_ascii_whitespace();
    let Some(source) = words.next() else { return Some((name.to_owned(), version.to_owned())) };
    let of = match words.next() {
        None => version,
        Some(of) => of.strip_prefix('(').and_then(|of| of.strip_suffix(')')).filter(|of| is_version(of))?,
    };
    is_name(source).then(|| (source.to_owned(), of.to_owned()))
}

/// Whether this can be the name of a package.
pub(crate) fn is_name(text: &str) -> bool {
    is_word(text, b"+.-_")
}

/// Whether this can be a version.
pub(crate) fn is_version(text: &str) -> bool {
    is_word(text, b"+.-:~_")
}

fn is_word(text: &str, more: &[u8]) -> bool {
    let ok = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
    text.len() <= 255 && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && text.bytes().all(ok)
}

/// A path that stays below the place it is put on, and that every mirror, URL and file system takes as it is.
fn is_pool_path(text: &str) -> bool {
    let part = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-_~%:=@".contains(&byte))
    };
    // Repositories without a pool begin their paths with ./
    let path = text.strip_prefix("./").unwrap_or(text);
    path.len() <= 500 && path.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZA: &str = "Package: libssl3\nSource: openssl (3.0.15-1)\nVersion: 1:3.0.15-1~deb12u1\nArchitecture: amd64\n\
        Multi-Arch: same\nEssential: no\nPre-Depends: dpkg\nDepends: libc6 (>= 2.36),\n zlib1g\nProvides: ssl\nBreaks: old\n\
        Section: libs\nDescription: Secure Sockets Layer\n more words\n\
        Filename: pool/updates/main/o/openssl/libssl3_3.0.15-1~deb12u1_amd64.deb\nSize: 2026\n\
        SHA256: 0000000000000000000000000000000000000000000000000000000000000007\n";

    fn one(text: &str) -> Result<Package, PackagesError> {
        let mut found = Vec::new();
        assert_eq!(read(text.as_bytes(), |package| found.push(package))?, 1);
        Ok(found.remove(0))
    }

    #[test]
    fn a_stanza_is_read_with_its_source_and_its_relations() {
        let package = one(STANZA).unwrap();
        assert_eq!((package.source.as_str(), package.source_version.as_str()), ("openssl", "3.0.15-1"));
        assert_eq!(package.relations.depends, "libc6 (>= 2.36), zlib1g");
        assert_eq!((package.len, package.sha256[31], package.multi_arch.as_str()), (2026, 7, "same"));
        assert_eq!(package.description, "Secure Sockets Layer");
        assert_eq!(package.file_name(), "libssl3_3.0.15-1~deb12u1_amd64.deb");
        let own = one(&STANZA.replace("Source: openssl (3.0.15-1)\n", "")).unwrap();
        assert_eq!((own.source, own.source_version), (own.name, own.version));
        let same_version = one(&STANZA.replace("openssl (3.0.15-1)", "openssl")).unwrap();
        assert_eq!(same_version.source_version, "1:3.0.15-1~deb12u1");
        // As Ubuntu says how far a rollout is; at 100 it is for everybody.
        let phased = |percent: &str| one(&format!("{STANZA}Phased-Update-Percentage: {percent}\n")).unwrap().phased;
        assert_eq!((package.phased, phased("20"), phased("100"), phased("x")), (None, Some(20), None, None));
    }

    #[test]
    fn what_would_lead_out_of_the_mirror_or_cannot_be_checked_is_refused() {
        for (from, to, cause) in [
            ("pool/updates", "../etc", "path below"),
            ("pool/updates", "/etc", "path below"),
            ("pool/updates", "pool/a b", "path below"),
            ("pool/updates", "pool//x", "path below"),
            ("Size: 2026", "Size: 0", "Size"),
            ("SHA256: 00", "SHA256: 0x", "SHA256"),
            ("SHA256", "SHA1", "SHA256"),
            ("Package: libssl3", "Package: -o", "Package"),
            ("Version: 1:3.0", "Version: $(x)", "Version"),
            ("Architecture: amd64", "Architecture: a/b", "Architecture"),
            ("openssl (3.0.15-1)", "openssl 3.0", "Source"),
        ] {
            let text = STANZA.replace(from, to);
            assert_ne!(text, STANZA);
            let error = one(&text).unwrap_err().to_string();
            assert!(error.contains(cause), "{from} -> {to}: {error}");
        }
    }
}
