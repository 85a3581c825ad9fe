//! The Debian security tracker's JSON, `https://security-tracker.debian.org/tracker/data/json`:
//!
//! ```text
//! { SOURCE: { CVE: { "releases": { CODENAME: { "status": "open" | "resolved" | "undetermined",
//!                                              "fixed_version": VERSION, "urgency": URGENCY, ... } } } } }
//! ```
//! Owns what its words mean. `fixed_version` 0 says that the release never had the fault. Source: the tracker's own
//! `bin/tracker_service.py`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;

use serde::Deserialize;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use upswarm_protocol::catalog::Severity;

use super::advisories::{Advice, Reading, Said, Span, Status, Weight};

#[derive(Deserialize)]
struct Issue {
    #[serde(default)]
    releases: BTreeMap<String, InRelease>,
}

#[derive(Deserialize)]
struct InRelease {
    status: String,
    #[serde(default)]
    fixed_version: Option<String>,
    #[serde(default)]
    urgency: Option<String>,
}

/// Reads all of it. Memory is bounded by what is kept and by one source package's part.
pub(super) fn read(input: impl BufRead) -> anyhow::Result<Said> {
    let mut reading = Reading::default();
    let mut json = serde_json::Deserializer::from_reader(input);
    json.deserialize_map(Sources(&mut reading))?;
    json.end()?;
    reading.finish()
}

struct Sources<'a>(&'a mut Reading);

impl<'de> Visitor<'de> for Sources<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("source packages with their CVEs, as the Debian security tracker writes them")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((source, issues)) = map.next_entry::<String, BTreeMap<String, Issue>>()? {
            for (cve, issue) in issues {
                for (codename, release) in issue.releases {
                    let added = self.0.add(&source, &cve, &format!("debian:{codename}"), advice(release));
                    added.map_err(serde::de::Error::custom)?;
                }
            }
        }
        Ok(())
    }
}

fn advice(release: InRelease) -> Advice {
    // An asterisk says that it was set by a program.
    let urgency = release.urgency.as_deref().unwrap_or_default().trim_end_matches('*');
    let weight = match urgency {
        "unimportant" => Weight::Unimportant,
        "end-of-life" => Weight::EndOfLife,
        _ => Weight::Usual,
    };
    let severity = match urgency {
        "high" => Severity::Important,
        "medium" => Severity::Moderate,
        "low" | "unimportant" => Severity::Low,
        _ => Severity::Unspecified,
    };
    let affected =
        |fixed| Status::Affected { spans: vec![Span { from: None, fixed, last: None }], versions: Vec::new(), weight };
    let status = match (release.status.as_str(), release.fixed_version) {
        ("resolved", Some(never)) if never == "0" => Status::NotAffected,
        ("resolved", Some(fixed)) => affected(Some(fixed)),
        // What is fixed in a version that is not in the release yet is open there.
        ("open", fixed) => affected(fixed.filter(|fixed| fixed != "0")),
        // A word that is not known here says nothing.
        _ => Status::Undetermined,
    };
    Advice { severity, status }
}
