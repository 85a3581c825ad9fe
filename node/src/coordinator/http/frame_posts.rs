//! The handler of devices that come by HTTP alone. Owns the shape of a post; what a session is, `frames` knows.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::Response;
use upswarm_protocol::frame_batch::{MAX_BYTES, MAX_FRAMES, MAX_WAIT, Posted};

use super::refused::Refused;
use super::shared::Shared;

/// The most bytes of a posted batch: its envelope, encrypted.
pub(super) const MAX_POST: usize = upswarm_protocol::envelope::Kind::FrameBatch.cap() + 64;
const _: () = assert!(MAX_FRAMES > 0 && MAX_POST > MAX_BYTES);

/// `POST /frames`: a encrypted [`Posted`] in, an [`Answered`] out.
pub(super) async fn post(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Response, Refused> {
    let unreadable = |why: String| Refused(StatusCode::BAD_REQUEST, format!("not a batch of frames: {why}"));
    let frames = &shared.frames;
    let opened = frames.open(&body).map_err(|error| unreadable(error.to_string()))?;
    let (device, posted) = Posted::open(&opened).map_err(|error| unreadable(error.to_string()))?;
    let (session, wait) = (posted.session, Duration::from_secs(u64::from(posted.wait.min(MAX_WAIT))));
    let news = frames.accept(device, posted).await?;
    let answered = frames.answer(device, session, wait, news).await;
    let answered =
        answered.ok_or_else(|| Refused(StatusCode::GONE, "this session has ended; begin another one".to_owned()))?;
    let bytes = answered.encode().map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CACHE_CONTROL, "no-store")
        .body(Body::from(bytes));
    answer.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
