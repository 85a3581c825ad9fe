//! apt's own lists of sources, sources.list(5): one line each, or paragraphs of deb822(5). Owns what of them names a repository;
//! never reads a file.

use super::deb822::Paragraphs;

/// The most sources of one file.
const MAX_SOURCES: usize = 256;
const FIELDS: [&str; 7] = ["Types", "URIs", "Suites", "Components", "Architectures", "Signed-By", "Enabled"];
/// What apt takes for no.
const OFF: [&str; 6] = ["no", "false", "without", "off", "disable", "0"];

/// A repository that a list names: one suite of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) urls: Vec<String>,
    pub(crate) suite: String,
    pub(crate) components: Vec<String>,
    /// Empty where the machine's own is meant.
    pub(crate) architectures: Vec<String>,
    /// A keyring's path, or armoured certificates; `None` where every key of the system counts.
    pub(crate) signed_by: Option<SignedBy>,
}

/// A line or a paragraph: suites of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Whether packages come from it, not only their sources.
    pub(crate) binary: bool,
    pub(crate) urls: Vec<String>,
    pub(crate) suites: Vec<String>,
    pub(crate) components: Vec<String>,
    architectures: Vec<String>,
    signed_by: Option<SignedBy>,
}

/// Whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SignedBy {
    /// A file, by its absolute path.
    Keyring(String),
    /// ASCII armour in the list itself.
    Certificates(String),
}

/// Every enabled source of binary packages in a list's text. An error says in which line it cannot be understood.
pub(crate) fn parse(text: &str) -> Result<Vec<Source>, String> {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let one_line = lines().next().is_some_and(|line| {
        let first = line.split_ascii_whitespace().next();
        matches!(first, Some("deb" | "deb-src"))
    });
    let entries = if one_line { lines_of(text)? } else { paragraphs(text)? };
    let sources = |entry: Entry| {
        let Entry { urls, suites, components, architectures, signed_by, .. } = entry;
        suites.into_iter().map(move |suite| Source {
            urls: urls.clone(),
            suite,
            components: components.clone(),
            architectures: architectures.clone(),
            signed_by: signed_by.clone(),
        })
    };
    let found: Vec<Source> = entries.into_iter().filter(|entry| entry.binary).flat_map(sources).collect();
    if found.len() > MAX_SOURCES { Err(format!("more than {MAX_SOURCES} sources")) } else { Ok(found) }
}

fn lines_of(text: &str) -> Result<Vec<Entry>, String> {
    let entries =
        (1..).zip(text.lines()).map(|(number, text)| line(text).map_err(|what| format!("line {number}: {what}")));
    Ok(entries.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// `deb [ option=value ... ] uri suite component ...`; `None` for a line that says nothing.
pub(crate) fn line(text: &str) -> Result<Option<Entry>, &'static str> {
    let text = text.split('#').next().unwrap_or_default().trim();
    if text.is_empty() {
        return Ok(None);
    }
    let (kind, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    if !matches!(kind, "deb" | "deb-src") {
        return Err("neither deb nor deb-src");
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        None => ("", rest),
        Some(inside) => inside.split_once(']').ok_or("no ] after the [")?,
    };
    let mut words = rest.split_ascii_whitespace().map(str::to_owned);
    let (Some(url), Some(suite)) = (words.next(), words.next()) else {
        return Err("a URI and a suite must follow");
    };
    let option = |name: &str| {
        let of = |word: &str| word.split_once('=').filter(|(known, _)| *known == name).map(|(_, v)| v.to_owned());
        options.split_ascii_whitespace().find_map(of)
    };
    let architectures = option("arch").unwrap_or_default();
    Ok(Some(Entry {
        binary: kind == "deb",
        urls: vec![url],
        suites: vec![suite],
        components: words.collect(),
        architectures: architectures.split(',').filter(|arch| !arch.is_empty()).map(str::to_owned).collect(),
        signed_by: option("signed-by").map(SignedBy::Keyring),
    }))
}

/// Every enabled paragraph.
pub(crate) fn paragraphs(text: &str) -> Result<Vec<Entry>, String> {
    let mut found = Vec::new();
    let mut paragraphs = Paragraphs::new(text.as_bytes(), &FIELDS);
    while let Some(mut paragraph) = paragraphs.next().map_err(|error| error.to_string())? {
        let line = paragraph.line;
        let mut take = |field: &str| FIELDS.iter().position(|known| *known == field).and_then(|at| paragraph.take(at));
        let mut words = |field: &str| -> Vec<String> {
            take(field).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
        };
        let (types, urls, suites) = (words("Types"), words("URIs"), words("Suites"));
        let (components, architectures) = (words("Components"), words("Architectures"));
        let off = |word: &String| OFF.iter().any(|off| word.eq_ignore_ascii_case(off));
        if words("Enabled").first().is_some_and(off) || !types.iter().any(|kind| matches!(&**kind, "deb" | "deb-src")) {
            continue;
        }
        if urls.is_empty() || suites.is_empty() {
            return Err(format!("line {line}: the fields URIs and Suites must say something"));
        }
        let signed_by = take("Signed-By").filter(|text| !text.is_empty()).map(|text| {
            if text.contains("-----BEGIN") {
                // A line of a dot stands for an empty one.
                let lines = text.trim_start().lines().map(|line| if line == "." { "" } else { line });
                SignedBy::Certificates(lines.collect::<Vec<_>>().join("\n"))
            } else {
                SignedBy::Keyring(text)
            }
        });
        let binary = types.iter().any(|kind| kind == "deb");
        found.push(Entry { binary, urls, suites, components, architectures, signed_by });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_the_same_repositories() {
        let deb822 = "# made by the installer\nTypes: deb deb-src\nURIs: http://deb.debian.org/debian/\n\
            Suites: bookworm bookworm-updates\nComponents: main contrib\nArchitectures: amd64\n\
            Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\nTypes: deb-src\nURIs: http://x\nSuites: y\n\n\
            Enabled: no\nTypes: deb\nURIs: http://x\nSuites: y\nComponents: z\n";
        let lines = "# made by hand\ndeb [ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] \
            http://deb.debian.org/debian/ bookworm main contrib # all of it\ndeb-src http://x y z\n\
            deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian/ \
            bookworm-updates main contrib\n";
        let found = parse(deb822).unwrap();
        assert_eq!(found, parse(lines).unwrap());
        assert_eq!(
            found.iter().map(|source| source.suite.as_str()).collect::<Vec<_>>(),
            ["bookworm", "bookworm-updates"]
        );
        assert_eq!(found[0].architectures, ["amd64"]);
        assert!(matches!(&found[0].signed_by, Some(SignedBy::Keyring(path)) if path.ends_with("keyring.gpg")));
    }

    #[test]
    fn certificates_may_stand_in_the_list_itself() {
        let text = "Types: deb\nURIs: http://x\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n \
            abcd\n -----END PGP PUBLIC KEY BLOCK-----\n";
        let found = parse(text).unwrap();
        let armor = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabcd\n-----END PGP PUBLIC KEY BLOCK-----";
        assert_eq!(found[0].signed_by, Some(SignedBy::Certificates(armor.to_owned())));
    }

    #[test]
    fn what_cannot_be_understood_is_told_with_its_line() {
        for (text, cause) in [
            ("deb http://x\n", "line 1: a URI and a suite"),
            ("deb http://x y z\nrpm http://x\n", "line 2: neither"),
            ("deb [arch=amd64 http://x y\n", "line 1: no ]"),
            ("Types: deb\nSuites: x\n", "line 1: the fields URIs"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(cause), "{error}");
        }
        assert!(parse("").unwrap().is_empty());
    }
}
