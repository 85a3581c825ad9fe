//! Audit: what is signed, by whom and when, from the documents themselves.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

use super::{Frame, Page, Search, render};
use crate::api::audit::AuditDocument;
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::show;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    text: String,
    documents: Vec<Line>,
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
    search: Result<Query<Search>, QueryRejection>,
) -> Page {
    let Query(Search { q }) = search?;
    let needle = q.trim().to_lowercase();
    let audit = console.client.audit().await?;
    let has = |known: &&AuditDocument| {
        known.what.to_lowercase().contains(&needle)
            || known.kind.word().contains(&needle)
            || known.hash.to_string().starts_with(&needle)
            || known.signers.iter().any(|signer| signer.key.to_string().starts_with(&needle))
    };
    render(&AuditPage {
        frame: Frame::new(&console, &visitor, "audit", "Audit"),
        documents: audit.documents.iter().filter(has).map(line).collect(),
        text: q,
    })
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
