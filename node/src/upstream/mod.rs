//! A repository of Debian's kind as its own people publish it: the description that our root pins, their signature, and their
//! indexes.
//!
//! Owns what is believed of an upstream's bytes, for coordinator, installer and update point alike; never fetches any. The order
//! is the one of the data: [`UpstreamDescription`] -> [`openpgp`] -> [`release`] -> [`packages`], and each is read only out of
//! bytes that the one before vouches for. Beside it stands what apt's own files and words mean: [`sources`], [`plan`]; and
//! [`proof`] walks the whole way for whoever signs a selection.

pub(crate) mod compression;
pub(crate) mod deb822;
pub(crate) mod filtered;
pub(crate) mod openpgp;
pub(crate) mod packages;
pub(crate) mod plan;
pub(crate) mod proof;
pub(crate) mod release;
pub(crate) mod sources;

use serde::{Deserialize, Serialize};

use openpgp::Certificate;

/// The most bytes of a description.
pub(crate) const MAX_DESCRIPTION: usize = 256 << 10;
/// The most bytes of an InRelease file; the largest known ones have 300 KiB.
pub(crate) const MAX_IN_RELEASE: usize = 8 << 20;
const MAX_NAME: usize = 40;
const MAX_LIST: usize = 32;
const MAX_PATTERNS: usize = 1024;

/// What the root pins of an upstream, by the hash of exactly these bytes (JSON). Where its mirrors are is the coordinator's
/// setting alone: where bytes come from does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpstreamDescription {
    /// Its name here, `a-z`, `0-9` and `-`; its releases are of the product `apt.<name>`.
    pub(crate) name: String,
    /// The folder below `dists/`, which InRelease must say itself as its suite or codename.
    pub(crate) suite: String,
    /// Parts of the suite that are synced, for example `main`.
    pub(crate) components: Vec<String>,
    /// Architectures that are synced, in dpkg's words. Packages for `all` come with each.
    pub(crate) architectures: Vec<String>,
    /// Names of the binary packages that it may supply; `*` stands for any number of characters.
    pub(crate) packages: Vec<String>,
    /// OpenPGP certificates, ASCII armoured; a signature by one of them counts.
    pub(crate) certificates: Vec<String>,
}

/// Why a description was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DescriptionError {
    /// More bytes than allowed.
    #[error("the description has {0} bytes, more than the {MAX_DESCRIPTION} that are allowed; name fewer certificates")]
    TooLong(usize),
    /// Not JSON of this form.
    #[error("the description of an upstream cannot be read: {0}")]
    Malformed(String),
    /// A value that cannot be.
    #[error("{0}")]
    Invalid(String),
}

impl UpstreamDescription {
    /// Reads and checks a description.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, DescriptionError> {
        if bytes.len() > MAX_DESCRIPTION {
            return Err(DescriptionError::TooLong(bytes.len()));
        }
        let description: Self =
            serde_json::from_slice(bytes).map_err(|error| DescriptionError::Malformed(error.to_string()))?;
        description.check()?;
        Ok(description)
    }

    /// The bytes that a root pins.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, DescriptionError> {
        self.check()?;
        let bytes = serde_json::to_vec(self).map_err(|error| DescriptionError::Malformed(error.to_string()))?;
        if bytes.len() > MAX_DESCRIPTION { Err(DescriptionError::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    /// Its certificates.
    pub(crate) fn certificates(&self) -> Result<Vec<Certificate>, DescriptionError> {
        let mut found = Vec::new();
        for text in &self.certificates {
            let read = openpgp::certificates(text.as_bytes());
            found.extend(read.map_err(|error| DescriptionError::Invalid(format!("a certificate of it: {error}")))?);
        }
        Ok(found)
    }

    /// Whether it may supply a binary package.
    pub(crate) fn may_supply(&self, package: &str) -> bool {
        self.packages.iter().any(|pattern| matches(pattern, package))
    }

    fn check(&self) -> Result<(), DescriptionError> {
        let invalid = |what: String| Err(DescriptionError::Invalid(what));
        if !is_name(&self.name) {
            return invalid(format!(
                "{:?} is no name for an upstream: take at most {MAX_NAME} of a-z, 0-9 and -, which does not stand first or last",
                self.name
            ));
        }
        if self.name == "filtered" {
            return invalid(
                "filtered is what repositories for machines without an agent are called; take another name".to_owned(),
            );
        }
        if !is_path(&self.suite) {
            return invalid(format!("{:?} is no suite; write for example bookworm-security", self.suite));
        }
        for (what, list, is_one) in [
            ("component", &self.components, is_path as fn(&str) -> bool),
            ("architecture", &self.architectures, is_architecture),
        ] {
            if list.is_empty() || list.len() > MAX_LIST {
                return invalid(format!("an upstream has at least one {what}, and at most {MAX_LIST}"));
            }
            if let Some(wrong) = list.iter().find(|word| !is_one(word)) {
                return invalid(format!("{wrong:?} is no {what}"));
            }
        }
        if self.packages.is_empty() || self.packages.len() > MAX_PATTERNS {
            return invalid(format!("name at least one pattern of packages (* for all), and at most {MAX_PATTERNS}"));
        }
        if let Some(wrong) = self.packages.iter().find(|pattern| !is_pattern(pattern)) {
            return invalid(format!("{wrong:?} is no pattern of packages' names; write for example google-chrome-*"));
        }
        if self.certificates.is_empty() || self.certificates.len() > MAX_LIST {
            return invalid(format!("an upstream has at least one certificate, and at most {MAX_LIST}"));
        }
        Ok(())
    }
}

/// Whether this can be an upstream's name.
pub(crate) fn is_name(text: &str) -> bool {
    let ok = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(ok) && !text.starts_with('-') && !text.ends_with('-')
}

/// Words between slashes, none of which leads elsewhere.
fn is_path(text: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+~".contains(&byte))
    };
    text.len() <= 100 && text.split('/').all(word)
}

/// Whether this can be an architecture in dpkg's words (Debian Policy 5.6.8, without wildcards).
pub(crate) fn is_architecture(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 32 && text.bytes().next().is_some_and(plain) && text.bytes().all(|byte| plain(byte) || byte == b'-')
}

fn is_pattern(text: &str) -> bool {
    let ok = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-*".contains(&byte);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(ok)
}

/// Whether a name fits a pattern in which `*` stands for any number of characters. Takes time in proportion to both lengths at
/// most.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and up to where it reaches so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if name.get(n) == Some(byte) => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, reach)) => {
                    star = Some((at, reach + 1));
                    (p, n) = (at + 1, reach + 1);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> UpstreamDescription {
        UpstreamDescription {
            name: "debian-security".into(),
            suite: "bookworm-security".into(),
            components: vec!["main".into(), "updates/contrib".into()],
            architectures: vec!["amd64".into()],
            packages: vec!["*".into()],
            certificates: vec!["-----BEGIN PGP PUBLIC KEY BLOCK-----".into()],
        }
    }

    #[test]
    fn a_description_is_its_bytes_and_nothing_else_fits_in() {
        let bytes = description().to_bytes().unwrap();
        assert_eq!(UpstreamDescription::parse(&bytes).unwrap(), description());
        let more = String::from_utf8(bytes).unwrap().replacen('{', "{\"url\":\"http://x\",", 1);
        let error = UpstreamDescription::parse(more.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("unknown field"), "{error}");
        assert!(matches!(
            UpstreamDescription::parse(&vec![b' '; MAX_DESCRIPTION + 1]),
            Err(DescriptionError::TooLong(_))
        ));
    }

    #[test]
    fn what_leads_elsewhere_or_means_nothing_is_refused() {
        type Change = fn(&mut UpstreamDescription);
        let changes: [(Change, &str); 10] = [
            (|d| d.name = "a.b".into(), "no name"),
            (|d| d.name = "../x".into(), "no name"),
            (|d| d.name = String::new(), "no name"),
            (|d| d.suite = "../../etc".into(), "no suite"),
            (|d| d.suite = "a//b".into(), "no suite"),
            (|d| d.components = vec!["main/../x".into()], "no component"),
            (|d| d.components.clear(), "at least one component"),
            (|d| d.architectures = vec!["amd64/".into()], "no architecture"),
            (|d| d.packages = vec!["A*".into()], "no pattern"),
            (|d| d.certificates.clear(), "at least one certificate"),
        ];
        for (change, cause) in changes {
            let mut wrong = description();
            change(&mut wrong);
            let error = wrong.to_bytes().unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }

    #[test]
    fn a_star_stands_for_anything_and_costs_no_time() {
        for (pattern, name, fits) in [
            ("*", "libc6", true),
            ("google-chrome-*", "google-chrome-stable", true),
            ("google-chrome-*", "google-chrome", false),
            ("lib*-dev", "libssl-dev", true),
            ("lib*-dev", "libssl3", false),
            ("vim", "vim", true),
            ("vim", "vim-tiny", false),
            ("*a*b*", "xaxxbx", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
        assert!(!matches(&"*a".repeat(127), &"a".repeat(126)));
    }
}
