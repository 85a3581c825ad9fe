//! Records of the Open Source Vulnerability format, https://ossf.github.io/osv-schema/: one, an array of them, one a line, or a
//! zip archive of files with one each, as osv.dev offers for a whole ecosystem.
//!
//! Owns what a record's words mean for source packages of Debian and Ubuntu; other ecosystems are passed over.

use std::collections::BTreeSet;
use std::fmt;
use std::io::BufRead;

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use upswarm_protocol::catalog::Severity;

use super::advisories::{Advice, Reading, Said, Span, Status, Weight};
use super::{cvss, zip};

/// The most names of CVEs of one record.
const MAX_NAMES: usize = 512;

#[derive(Deserialize)]
struct Record {
    id: String,
    #[serde(default)]
    withdrawn: Option<String>,
    #[serde(default)]
    aliases: Vec<String>,
    /// Of distributions' records: the CVEs that they are about.
    #[serde(default)]
    upstream: Vec<String>,
    #[serde(default)]
    related: Vec<String>,
    #[serde(default)]
    severity: Vec<Score>,
    #[serde(default)]
    database_specific: Words,
    #[serde(default)]
    affected: Vec<Affected>,
}

#[derive(Deserialize)]
struct Score {
    #[serde(rename = "type")]
    kind: String,
    score: String,
}

/// Of what databases add to the format: words about how bad it is.
#[derive(Deserialize, Default)]
struct Words {
    #[serde(default)]
    severity: Option<serde_json::Value>,
    #[serde(default)]
    urgency: Option<String>,
}

#[derive(Deserialize)]
struct Affected {
    #[serde(default)]
    package: Option<Package>,
    #[serde(default)]
    severity: Vec<Score>,
    #[serde(default)]
    ranges: Vec<Range>,
    #[serde(default)]
    versions: Vec<String>,
    #[serde(default)]
    ecosystem_specific: Words,
    #[serde(default)]
    database_specific: Words,
}

#[derive(Deserialize)]
struct Package {
    ecosystem: String,
    name: String,
}

#[derive(Deserialize)]
struct Range {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    introduced: Option<String>,
    #[serde(default)]
    fixed: Option<String>,
    #[serde(default)]
    last_affected: Option<String>,
}

/// Reads all of it. Memory is bounded by what is kept and by one record.
pub(super) fn read(mut input: impl BufRead) -> anyhow::Result<Said> {
    let mut reading = Reading::default();
    let first = loop {
        let seen = input.fill_buf()?;
        let blank = seen.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        match (seen.get(blank).copied(), seen.len()) {
            (Some(first), _) => break first,
            (None, 0) => anyhow::bail!("it is empty"),
            (None, all) => input.consume(all),
        }
    };
    match first {
        b'P' => zip::each(&mut input, |name, file| {
            if name.ends_with(".json") {
                let record = serde_json::from_reader(file).with_context(|| name.to_owned())?;
                add(&mut reading, record).with_context(|| name.to_owned())?;
            }
            Ok(())
        })?,
        b'[' => {
            let mut json = serde_json::Deserializer::from_reader(input);
            json.deserialize_seq(Records(&mut reading))?;
            json.end()?;
        }
        _ => {
            for record in serde_json::Deserializer::from_reader(input).into_iter::<Record>() {
                add(&mut reading, record?)?;
            }
        }
    }
    reading.finish()
}

struct Records<'a>(&'a mut Reading);

impl<'de> Visitor<'de> for Records<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("records of the OSV format")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(record) = list.next_element::<Record>()? {
            add(self.0, record).map_err(serde::de::Error::custom)?;
        }
        Ok(())
    }
}

fn add(reading: &mut Reading, record: Record) -> anyhow::Result<()> {
    if record.withdrawn.is_some() {
        return Ok(());
    }
    let cves = names(&record);
    let whole = worst(&record.severity, [&record.database_specific]);
    for affected in record.affected {
        let Some(package) = &affected.package else { continue };
        let Some(release) = release(&package.ecosystem) else { continue };
        let own = worst(&affected.severity, [&affected.ecosystem_specific, &affected.database_specific]);
        let urgency = [&affected.ecosystem_specific, &affected.database_specific].into_iter();
        let weight = urgency.filter_map(|words| words.urgency.as_deref()).find_map(|word| match word {
            "unimportant" => Some(Weight::Unimportant),
            "end-of-life" => Some(Weight::EndOfLife),
            _ => None,
        });
        let spans = affected.ranges.iter().filter(|range| range.kind == "ECOSYSTEM").flat_map(spans).collect();
        let status = Status::Affected { spans, versions: affected.versions, weight: weight.unwrap_or_default() };
        let advice = Advice { severity: own.max(whole), status };
        for cve in &cves {
            reading.add(&package.name, cve, &release, advice.clone())?;
        }
    }
    Ok(())
}

/// The CVEs that a record is about; its own name where it is about none.
fn names(record: &Record) -> BTreeSet<String> {
    let all = [&record.aliases, &record.upstream, &record.related].into_iter().flatten();
    let is_cve = |name: &&String| name.starts_with("CVE-");
    if record.id.starts_with("CVE-") {
        return BTreeSet::from([record.id.clone()]);
    }
    let found: BTreeSet<String> = all.filter(is_cve).take(MAX_NAMES).cloned().collect();
    // UBUNTU-CVE-2026-1 and DEBIAN-CVE-2026-1 are records about a CVE without naming it apart.
    let within = record.id.split_once("-CVE-").map(|(_, rest)| format!("CVE-{rest}"));
    match (found.is_empty(), within) {
        (_, Some(cve)) => BTreeSet::from([cve]),
        (true, None) => BTreeSet::from([record.id.clone()]),
        (false, None) => found,
    }
}

/// `Debian:12` and `Ubuntu:22.04:LTS`; nothing for what no InRelease stands for.
fn release(ecosystem: &str) -> Option<String> {
    let mut parts = ecosystem.split(':');
    let (name, version) = (parts.next()?, parts.next()?);
    let is_number = version.bytes().next().is_some_and(|first| first.is_ascii_digit());
    (matches!(name, "Debian" | "Ubuntu") && is_number).then(|| format!("{}:{version}", name.to_ascii_lowercase()))
}

/// Events in their order: each `introduced` begins a span, which the next `fixed` or `last_affected` ends.
fn spans(range: &Range) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut is_open = false;
    for event in &range.events {
        if let Some(from) = &event.introduced {
            spans.push(Span { from: Some(from.clone()).filter(|from| from != "0"), ..Span::default() });
            is_open = true;
        }
        let end = spans.last_mut().filter(|_| is_open && (event.fixed.is_some() || event.last_affected.is_some()));
        if let Some(span) = end {
            (span.fixed, span.last) = (event.fixed.clone(), event.last_affected.clone());
            is_open = false;
        }
    }
    spans
}

fn worst<'a>(scores: &[Score], words: impl IntoIterator<Item = &'a Words>) -> Severity {
    let scored = scores.iter().filter_map(|score| match score.kind.as_str() {
        "CVSS_V3" => cvss::severity(&score.score),
        // Ubuntu's own word.
        "Ubuntu" => word(&score.score),
        _ => None,
    });
    let said = words.into_iter().flat_map(|words| {
        [
            words.severity.as_ref().and_then(|value| value.as_str()).and_then(word),
            words.urgency.as_deref().and_then(word),
        ]
    });
    scored.chain(said.flatten()).max().unwrap_or(Severity::Unspecified)
}

fn word(text: &str) -> Option<Severity> {
    Some(match text.to_ascii_lowercase().trim_end_matches('*') {
        "critical" => Severity::Critical,
        "high" | "important" => Severity::Important,
        "medium" | "moderate" => Severity::Moderate,
        "low" | "negligible" => Severity::Low,
        _ => return None,
    })
}
