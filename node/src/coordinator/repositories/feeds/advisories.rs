//! What feeds say of source packages, release by release, and what follows from that for one version.
//! Owns the verdict, which is the feed's own; what a feed does not say stays unknown. Never fetches one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{PackageKind, Severity};
use upswarm_protocol::version;

use crate::api::feeds::Verdict;
use crate::upstream::packages::{is_name, is_version};

/// The most source packages and the most (source package, CVE) pairs of a feed; Debian's tracker has 4,000 and 70,000.
const MAX_SOURCES: usize = 100_000;
const MAX_PAIRS: usize = 2_000_000;
/// The most releases of one pair, and the most spans and versions of one release.
const MAX_RELEASES: usize = 64;
const MAX_SPANS: usize = 2_000;

/// A release of a distribution, by the names that feeds have for it: `debian:bookworm`, `debian:12`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Distribution(BTreeSet<String>);

/// What a feed says of a CVE in a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Advice {
    pub(crate) severity: Severity,
    pub(crate) status: Status,
}

/// Which versions are affected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Status {
    /// The feed's people do not know either.
    Undetermined,
    /// None is.
    NotAffected,
    /// These are.
    Affected {
        spans: Vec<Span>,
        /// Versions beside those of the spans.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        versions: Vec<String>,
        #[serde(default, skip_serializing_if = "Weight::is_usual")]
        weight: Weight,
    },
}

/// Versions from one on, up to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Span {
    /// The first that is affected; none for the very first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    /// The first that is affected no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fixed: Option<String>,
    /// The last that is affected, where nobody says what the first good one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<String>,
}

/// What it means to be affected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Weight {
    #[default]
    Usual,
    /// Nothing for security.
    Unimportant,
    /// The package is no longer looked after in this release.
    EndOfLife,
}

/// Everything that a feed says: by source package, by CVE, by release.
pub(crate) type Said = BTreeMap<String, BTreeMap<String, BTreeMap<String, Advice>>>;

/// What is said of a CVE for one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) severity: Severity,
    pub(crate) verdict: Verdict,
}

/// What an update mends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mended {
    /// That of the worst of them; nothing without any.
    pub(crate) severity: Option<Severity>,
    pub(crate) cves: BTreeSet<String>,
}

/// Feeds that count, the first of which has the word where two say different things.
#[derive(Debug, Clone, Default)]
pub(crate) struct Advisories(Vec<Said>);

/// One line of a feed's file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    source: String,
    cves: BTreeMap<String, BTreeMap<String, Advice>>,
}

/// A feed that is being read, within its bounds.
#[derive(Debug, Default)]
pub(super) struct Reading {
    said: Said,
    pairs: usize,
}

impl Weight {
    fn is_usual(&self) -> bool {
        *self == Self::Usual
    }
}

impl Distribution {
    /// By what an InRelease says of itself. Only that of the distribution itself is meant by feeds: another repository's packages
    /// have versions of their own.
    pub(crate) fn of(origin: &str, codename: &str, version: &str) -> Self {
        let origin = origin.to_ascii_lowercase();
        if origin != "debian" && origin != "ubuntu" {
            return Self::default();
        }
        let mut names = BTreeSet::new();
        // bookworm-security and bookworm-updates are parts of bookworm.
        let codename = codename.split('-').next().unwrap_or_default();
        if !codename.is_empty() {
            names.insert(format!("{origin}:{codename}"));
        }
        // Debian counts by the first number, Ubuntu by the first two.
        let parts = if origin == "debian" { 1 } else { 2 };
        let version = version.split('.').take(parts).collect::<Vec<_>>().join(".");
        if !version.is_empty() {
            names.insert(format!("{origin}:{version}"));
        }
        Self(names)
    }

    /// The name for people.
    pub(crate) fn name(&self) -> String {
        self.0.last().map(|name| name.replace(':', " ")).unwrap_or_default()
    }
}

impl Span {
    fn contains(&self, version: &str) -> bool {
        let order = |other: &str| version::compare(PackageKind::Deb, version, other);
        self.from.as_deref().is_none_or(|from| order(from).is_ge())
            && self.fixed.as_deref().is_none_or(|fixed| order(fixed).is_lt())
            && self.last.as_deref().is_none_or(|last| order(last).is_le())
    }
}

impl Status {
    /// What it says of one version, by dpkg's order.
    pub(crate) fn verdict(&self, version: &str) -> Verdict {
        let (spans, versions, weight) = match self {
            Self::Undetermined => return Verdict::Undetermined,
            Self::NotAffected => return Verdict::NotAffected,
            Self::Affected { spans, versions, weight } => (spans, versions, weight),
        };
        let is_in = |span: &&Span| span.contains(version);
        if spans.iter().any(|span| is_in(&span)) || versions.iter().any(|known| known == version) {
            return match weight {
                Weight::Unimportant => Verdict::Unimportant,
                Weight::EndOfLife => Verdict::EndOfLife,
                Weight::Usual => {
                    Verdict::Vulnerable { fixed: spans.iter().find(is_in).and_then(|of| of.fixed.clone()) }
                }
            };
        }
        let fixes = spans.iter().filter_map(|span| span.fixed.as_ref());
        let reached = fixes.filter(|fixed| version::compare(PackageKind::Deb, version, fixed).is_ge());
        match reached.max_by(|a, b| version::compare(PackageKind::Deb, a, b)) {
            Some(fixed) => Verdict::Fixed { r#in: fixed.clone() },
            None => Verdict::NotAffected,
        }
    }
}

impl Reading {
    /// Adds what a feed says of a CVE in a release. Names that nobody can have are an error: then it is no feed of this kind.
    pub(super) fn add(&mut self, source: &str, cve: &str, release: &str, advice: Advice) -> anyhow::Result<()> {
        if !is_name(source) {
            bail!("{source:?} is no source package's name");
        }
        if cve.is_empty() || cve.len() > 64 || !cve.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            bail!("{cve:?} of {source} is no CVE's name");
        }
        if let Status::Affected { spans, versions, .. } = &advice.status {
            let named = spans.iter().flat_map(|span| [&span.from, &span.fixed, &span.last]).flatten().chain(versions);
            if let Some(wrong) = named.into_iter().find(|version| !is_version(version)) {
                bail!("{cve} of {source} names {wrong:?}, which is no version");
            }
            if spans.len() > MAX_SPANS || versions.len() > MAX_SPANS {
                bail!("{cve} of {source} names more than {MAX_SPANS} versions");
            }
        }
        if !self.said.contains_key(source) && self.said.len() >= MAX_SOURCES {
            bail!("it names more than {MAX_SOURCES} source packages");
        }
        let cves = self.said.entry(source.to_owned()).or_default();
        if !cves.contains_key(cve) {
            self.pairs += 1;
            if self.pairs > MAX_PAIRS {
                bail!("it says more than {MAX_PAIRS} things");
            }
        }
        let releases = cves.entry(cve.to_owned()).or_default();
        if releases.len() >= MAX_RELEASES && !releases.contains_key(release) {
            bail!("{cve} of {source} names more than {MAX_RELEASES} releases");
        }
        match releases.get_mut(release) {
            None => drop(releases.insert(release.to_owned(), advice)),
            Some(known) => known.also(advice)?,
        }
        Ok(())
    }

    /// All of it. Nothing at all is no feed.
    pub(super) fn finish(self) -> anyhow::Result<Said> {
        if self.said.is_empty() {
            bail!("it says nothing about any package; is it a feed of this kind?");
        }
        Ok(self.said)
    }
}

impl Advice {
    /// A second word of the same feed: more versions are affected.
    fn also(&mut self, other: Self) -> anyhow::Result<()> {
        self.severity = self.severity.max(other.severity);
        match (&mut self.status, other.status) {
            (
                Status::Affected { spans, versions, weight },
                Status::Affected { spans: more, versions: others, weight: other },
            ) => {
                spans.extend(more);
                versions.extend(others);
                if spans.len() > MAX_SPANS || versions.len() > MAX_SPANS {
                    bail!("it names more than {MAX_SPANS} versions for one CVE of one package");
                }
                if other == Weight::Usual {
                    *weight = other;
                }
            }
            (known @ (Status::Undetermined | Status::NotAffected), other) => *known = other,
            (Status::Affected { .. }, _) => {}
        }
        Ok(())
    }
}

impl Advisories {
    /// Reads files that [`write`] has written, the ones that have the word first, and keeps what is said of these source packages.
    /// Blocks.
    pub(crate) fn read<'a>(
        files: impl IntoIterator<Item = &'a Path>,
        wanted: &BTreeSet<String>,
    ) -> anyhow::Result<Self> {
        let each = |path: &Path| -> anyhow::Result<Said> {
            let damaged = || format!("{} is damaged; fetch it again with: upswarm sync feed run", path.display());
            let mut said = Said::new();
            for line in BufReader::new(File::open(path).with_context(damaged)?).lines() {
                let line = line.with_context(damaged)?;
                let (source, _) = line.split_once('\t').with_context(damaged)?;
                if wanted.contains(source) {
                    let text = line.get(source.len() + 1..).unwrap_or_default();
                    let read: Line = serde_json::from_str(text).with_context(damaged)?;
                    said.insert(read.source, read.cves);
                }
            }
            Ok(said)
        };
        Ok(Self(files.into_iter().map(each).collect::<anyhow::Result<_>>()?))
    }

    /// Of what was read already.
    #[cfg(test)]
    pub(crate) fn of(feeds: Vec<Said>) -> Self {
        Self(feeds)
    }

    /// What is known of a source package's version in a release, by CVE. The verdict is that of the first feed that has one, the
    /// severity the worst that any names.
    pub(crate) fn about(&self, source: &str, release: &Distribution, version: &str) -> BTreeMap<&str, Judged> {
        let mut judged: BTreeMap<&str, Judged> = BTreeMap::new();
        for cves in self.0.iter().filter_map(|said| said.get(source)) {
            for (cve, releases) in cves {
                let Some(advice) = release.0.iter().find_map(|name| releases.get(name)) else { continue };
                let (severity, verdict) = (advice.severity, advice.status.verdict(version));
                let known = judged.entry(cve).or_insert(Judged { severity, verdict: Verdict::Undetermined });
                known.severity = known.severity.max(severity);
                if known.verdict == Verdict::Undetermined {
                    known.verdict = verdict;
                }
            }
        }
        judged
    }

    /// What a source package's version mends of what these earlier versions have. Nothing known is nothing said.
    pub(crate) fn mended<'v>(
        &self,
        source: &str,
        release: &Distribution,
        from: impl IntoIterator<Item = &'v str>,
        to: &str,
    ) -> Mended {
        let after = self.about(source, release, to);
        let mut mended = Mended::default();
        for version in from {
            let is_open = |of: &&Judged| matches!(of.verdict, Verdict::Vulnerable { .. } | Verdict::EndOfLife);
            for (cve, open) in self.about(source, release, version).iter().filter(|(_, of)| is_open(of)) {
                if after.get(cve).is_some_and(|then| matches!(then.verdict, Verdict::Fixed { .. })) {
                    mended.severity = mended.severity.max(Some(open.severity));
                    mended.cves.insert((*cve).to_owned());
                }
            }
        }
        mended
    }
}

/// Writes what a feed says, a line a source package; durable on return. Blocks.
pub(super) fn write(said: Said, path: &Path) -> anyhow::Result<()> {
    let context = || format!("writing {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(context)?);
    for (source, cves) in said {
        let line = Line { source, cves };
        write!(file, "{}\t", line.source).with_context(context)?;
        serde_json::to_writer(&mut file, &line).with_context(context)?;
        file.write_all(b"\n").with_context(context)?;
    }
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(context)?;
    file.sync_all().with_context(context)
}
