//! Lists as files: CSV for spreadsheets, JSON for programs; the whole list that the page shows a part of.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Console;
use super::guard::Visitor;
use super::pages::devices;
use super::trouble::Trouble;
use crate::api::fleet::{MAX_PER_PAGE, MachineQuery, MachineRow};
use crate::text;

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Every machine that the query is about.
async fn all(console: &Console, query: MachineQuery) -> Result<Vec<MachineRow>, Trouble> {
    let (mut rows, mut page) = (Vec::new(), 1);
    loop {
        let query = MachineQuery { page: Some(page), per: Some(MAX_PER_PAGE), ..query.clone() };
        let found = console.client.machines(&query).await?;
        rows.extend(found.machines);
        if page >= found.pages {
            return Ok(rows);
        }
        page += 1;
    }
}

pub(super) async fn devices_csv(
    State(console): State<Arc<Console>>,
    _visitor: Visitor,
    pairs: Pairs,
) -> Result<Response, Trouble> {
    let rows = all(&console, devices::read(pairs?.0)?).await?;
    let lines = rows.iter().map(|row| {
        vec![
            row.head.name.clone(),
            row.head.device.to_string(),
            row.head.site.clone(),
            row.groups.join(" "),
            row.standing.word().to_owned(),
            row.why.clone(),
            row.head.connected.to_string(),
            row.head.last_seen_s.map(|age| age.to_string()).unwrap_or_default(),
            row.os.clone().unwrap_or_default(),
            row.pending_restart.to_string(),
        ]
    });
    let head =
        ["name", "device", "site", "groups", "standing", "why", "connected", "last_seen_s", "os", "pending_restart"];
    csv("devices.csv", &head, lines)
}

pub(super) async fn devices_json(
    State(console): State<Arc<Console>>,
    _visitor: Visitor,
    pairs: Pairs,
) -> Result<Response, Trouble> {
    Ok(Json(all(&console, devices::read(pairs?.0)?).await?).into_response())
}

pub(super) async fn audit_csv(State(console): State<Arc<Console>>, _visitor: Visitor) -> Result<Response, Trouble> {
    let audit = console.client.audit().await?;
    let lines = audit.documents.iter().map(|known| {
        let signers: Vec<String> = known.signers.iter().map(|signer| signer.key.to_string()).collect();
        vec![
            known.issued.clone(),
            known.kind.word().to_owned(),
            known.what.clone(),
            known.note.clone(),
            signers.join(" "),
            known.hash.to_string(),
            known.expires.clone(),
        ]
    });
    csv("audit.csv", &["issued", "kind", "what", "note", "signers", "document", "expires"], lines)
}

/// A file as RFC 4180 has it, in which no cell is a formula, turns the direction of writing or hides anything.
pub(super) fn csv(name: &str, head: &[&str], lines: impl Iterator<Item = Vec<String>>) -> Result<Response, Trouble> {
    let failed = |error: csv::Error| Trouble::from(anyhow::Error::new(error).context("writing CSV"));
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(head).map_err(failed)?;
    for line in lines {
        writer.write_record(line.iter().map(|cell| text::cell(cell))).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| Trouble::from(anyhow::anyhow!("writing CSV: {error}")))?;
    let disposition = format!("attachment; filename=\"{name}\"");
    Ok((
        [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, disposition)],
        bytes,
    )
        .into_response())
}
