//! Style, script and icon of the pages: files in the program, so that a page needs nothing from anywhere else.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::trouble::Trouble;

const FILES: [(&str, &str, &str); 3] = [
    ("console.css", "text/css; charset=utf-8", include_str!("../../assets/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("../../assets/console.js")),
    ("icon.svg", "image/svg+xml", include_str!("../../assets/icon.svg")),
];

/// One of them.
pub(crate) async fn asset(Path(name): Path<String>) -> Result<Response, Trouble> {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    let (_, kind, text) = found.ok_or_else(Trouble::not_found)?;
    Ok(([(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "private, max-age=300")], *text).into_response())
}
