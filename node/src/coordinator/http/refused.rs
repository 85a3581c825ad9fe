//! How a handler says no. Owns the shape of a refusal; the reason is who refuses'.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer that is not what was asked for: `{"error": reason}`.
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

#[derive(Serialize)]
struct Reason {
    error: String,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, axum::Json(Reason { error: self.1 })).into_response()
    }
}
