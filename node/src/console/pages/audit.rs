//! Audit: the log of decisions, and what is signed, by whom and when, from the documents themselves.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::{Frame, Page, render};
use crate::api::audit::{AuditDocument, EntryQuery, NumberedEntry, Topic};
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::show;
use crate::console::trouble::Trouble;
use crate::error::CliError;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    text: String,
    /// Topics, and which is chosen.
    topics: Vec<(String, bool)>,
    entries: Vec<EntryLine>,
    total: u64,
    broken: Option<String>,
    older: Option<String>,
    csv: String,
    documents: Vec<Line>,
}

struct EntryLine {
    number: u64,
    when: String,
    topic: String,
    actor: String,
    from: String,
    what: String,
    signers: Vec<(String, String)>,
    document: Option<String>,
}

/// What the page is asked for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    q: String,
    #[serde(default)]
    topic: String,
    before: Option<u64>,
}

impl Asked {
    /// The entries that are meant.
    pub(crate) fn query(&self) -> Result<EntryQuery, Trouble> {
        let topic = Some(self.topic.trim()).filter(|topic| !topic.is_empty());
        let topic = topic.map(|topic| {
            <Topic as clap::ValueEnum>::from_str(topic, true)
                .map_err(|_| Trouble::from(CliError::Refused(format!("There is no topic {topic:?}."))))
        });
        let text = Some(self.q.trim().to_owned()).filter(|text| !text.is_empty());
        Ok(EntryQuery { topic: topic.transpose()?, text, before: self.before, ..EntryQuery::default() })
    }
}

struct Line {
    issued: String,
    kind: &'static str,
    what: String,
    note: String,
    href: Option<String>,
    signers: Vec<(String, String)>,
    others: usize,
    hash: String,
}

pub(crate) async fn page(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Page {
    let Query(asked) = asked?;
    let query = asked.query()?;
    let log = console.client.audit_log(&query).await?;
    let q = asked.q;
    let needle = q.trim().to_lowercase();
    let audit = console.client.audit().await?;
    let has = |known: &&AuditDocument| {
        known.what.to_lowercase().contains(&needle)
            || known.kind.word().contains(&needle)
            || known.hash.to_string().starts_with(&needle)
            || known.signers.iter().any(|signer| signer.key.to_string().starts_with(&needle))
    };
    let topics = <Topic as clap::ValueEnum>::value_variants();
    let filters = [("q", q.as_str()), ("topic", asked.topic.as_str())];
    let oldest = log.entries.last().map_or_else(String::new, |entry| entry.number.to_string());
    let [by_text, by_topic] = filters;
    render(&AuditPage {
        frame: Frame::new(&console, &visitor, "audit", "Audit"),
        topics: topics.iter().map(|topic| (topic.word(), Some(*topic) == query.topic)).collect(),
        older: log.more.then(|| show::href(&["audit"], &[by_text, by_topic, ("before", &oldest)])),
        csv: show::href(&["decisions.csv"], &filters),
        entries: log.entries.iter().map(entry).collect(),
        total: log.total,
        broken: log.broken,
        documents: audit.documents.iter().filter(has).map(line).collect(),
        text: q,
    })
}

fn entry(known: &NumberedEntry) -> EntryLine {
    let entry = &known.entry;
    let signers = entry.holders.iter();
    EntryLine {
        number: known.number,
        when: entry.when.clone(),
        topic: entry.topic.word(),
        actor: entry.actor.clone(),
        from: entry.from.clone(),
        what: entry.what.clone(),
        signers: signers
            .map(|known| (known.holder.clone(), known.key.to_string().chars().take(12).collect()))
            .collect(),
        document: entry.document.map(|document| document.short()),
    }
}

fn line(known: &AuditDocument) -> Line {
    Line {
        issued: known.issued.clone(),
        kind: known.kind.word(),
        what: known.what.clone(),
        note: known.note.clone(),
        href: known.release.map(|release| show::href(&["updates", &release.to_string()], &[])),
        signers: known
            .signers
            .iter()
            .map(|signer| (signer.role.clone(), signer.key.to_string().chars().take(12).collect()))
            .collect(),
        others: known.others.len(),
        hash: known.hash.short(),
    }
}
