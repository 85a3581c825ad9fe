//! What every answer of the API has in common: a tag by which a caller knows that nothing has changed, and for programs the form of
//! a refusal that RFC 9457 gives. Never looks into what is asked.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// An answer that is longer has no tag: it is a payload.
const MAX_TAGGED: usize = 64 << 20;
const PROBLEM: &str = "application/problem+json";
const JSON: &str = "application/json";

/// Gives an answer to a question its tag, and leaves the content out where the caller has it.
pub(super) async fn tagged(request: Request, next: Next) -> Response {
    let asks = request.method() == Method::GET;
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let answer = next.run(request).await;
    let is_json = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == JSON);
    if !asks || answer.status() != StatusCode::OK || !is_json {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, MAX_TAGGED).await else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the answer is too long").into_response();
    };
    let digits: String = blake3::hash(&bytes).to_hex().chars().take(32).collect();
    let Ok(tag) = HeaderValue::from_str(&format!("\"{digits}\"")) else {
        return Response::from_parts(head, Body::from(bytes));
    };
    let same = known.is_some_and(|known| {
        known.as_bytes().split(|byte| *byte == b',').any(|one| one.trim_ascii() == tag.as_bytes())
    });
    head.headers.insert(header::ETAG, tag);
    if same {
        head.status = StatusCode::NOT_MODIFIED;
        head.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(head, Body::empty());
    }
    Response::from_parts(head, Body::from(bytes))
}

#[derive(Deserialize)]
struct Reason {
    error: String,
}

/// RFC 9457.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

/// Says no in the form that programs know.
pub(super) async fn problems(request: Request, next: Next) -> Response {
    let answer = next.run(request).await;
    let status = answer.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let bytes = axum::body::to_bytes(body, 64 << 10).await.unwrap_or_default();
    let said = serde_json::from_slice::<Reason>(&bytes).map(|reason| reason.error);
    let detail = said.unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned());
    let title = status.canonical_reason().unwrap_or("Refused");
    let problem = Problem { r#type: "about:blank", title, status: status.as_u16(), detail: &detail };
    // Plain data always becomes JSON.
    let bytes = serde_json::to_vec(&problem).unwrap_or_default();
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(bytes))
}
