//! The origin's files: payloads by range, documents, roots and the head. Counts the payload bytes it hands out.

use std::collections::BTreeMap;
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use upswarm_protocol::ids::{DocHash, PayloadId};

use super::server::{Refused, Shared};
use crate::limiter::Limiter;

/// Bytes that are read, and counted, at a time.
const PIECE: u64 = 256 << 10;

/// Payload bytes that this origin has handed to sockets, since it started.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<BTreeMap<PayloadId, u64>>);

impl Counters {
    fn add(&self, payload: PayloadId, bytes: u64) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.entry(payload).or_default() += bytes;
    }

    /// Bytes of all payloads.
    pub(crate) fn total(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// `{"payload_bytes": N, "by_payload": {hex: N}}`.
    pub(crate) fn view(&self) -> Value {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let by_payload: BTreeMap<String, u64> = counted.iter().map(|(id, bytes)| (id.to_string(), *bytes)).collect();
        json!({ "payload_bytes": counted.values().sum::<u64>(), "by_payload": by_payload })
    }
}

/// Counts and slows the bytes of one answer.
struct Meter {
    counters: Arc<Counters>,
    limiter: Limiter,
    payload: PayloadId,
}

pub(super) async fn payload(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response<Body>, Refused> {
    let payload: PayloadId = name.parse().map_err(|_| not_found())?;
    let meter = Meter { counters: shared.counters.clone(), limiter: shared.limiter.clone(), payload };
    serve(shared.directory.payload(&payload), &format!("\"{payload}\""), method, &headers, Some(meter)).await
}

pub(super) async fn document(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response<Body>, Refused> {
    let hash: DocHash = name.parse().map_err(|_| not_found())?;
    let path = if hash == shared.root_hash { shared.root_path.clone() } else { shared.directory.doc(&hash) };
    serve(path, &format!("\"{hash}\""), method, &headers, None).await
}

pub(super) async fn root(
    State(shared): State<Arc<Shared>>,
    Path(version): Path<u64>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response<Body>, Refused> {
    serve(shared.directory.root(version), &format!("\"root-{version}\""), method, &headers, None).await
}

pub(super) async fn head(State(shared): State<Arc<Shared>>) -> Result<Response<Body>, Refused> {
    let head = shared.head.borrow().clone();
    if head.is_empty() {
        return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, "no head is published yet".to_owned()));
    }
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CACHE_CONTROL, "no-cache")
        .body(Body::from(head));
    answer.map_err(internal)
}

async fn serve(
    path: PathBuf,
    etag: &str,
    method: Method,
    headers: &HeaderMap,
    meter: Option<Meter>,
) -> Result<Response<Body>, Refused> {
    let mut file = match File::open(&path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_found()),
        Err(error) => return Err(internal(error)),
    };
    let len = file.metadata().await.map_err(internal)?.len();
    let answer = Response::builder()
        .header(header::ETAG, etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        // Named by their hash, so they never change.
        .header(header::CACHE_CONTROL, "public, max-age=31536000, immutable");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return answer.status(StatusCode::NOT_MODIFIED).body(Body::empty()).map_err(internal);
    }
    let stale = headers.get(header::IF_RANGE).is_some_and(|known| known.as_bytes() != etag.as_bytes());
    let wanted = headers.get(header::RANGE).filter(|_| !stale);
    let (answer, range) = match wanted.map(|range| parse_range(range.as_bytes(), len)) {
        None => (answer.status(StatusCode::OK), 0..len),
        Some(Some(range)) => {
            let said = format!("bytes {}-{}/{len}", range.start, range.end - 1);
            (answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, said), range)
        }
        Some(None) => {
            let answer = answer
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(header::CONTENT_RANGE, format!("bytes */{len}"));
            return answer.body(Body::empty()).map_err(internal);
        }
    };
    let answer = answer.header(header::CONTENT_LENGTH, range.end - range.start);
    if method == Method::HEAD {
        return answer.body(Body::empty()).map_err(internal);
    }
    file.seek(SeekFrom::Start(range.start)).await.map_err(internal)?;
    answer.body(Body::from_stream(pieces(file, range.end - range.start, meter))).map_err(internal)
}

/// The next `left` bytes of a file, piece by piece. A piece is counted when the connection takes it.
fn pieces(file: File, left: u64, meter: Option<Meter>) -> impl futures::Stream<Item = io::Result<Bytes>> + Send {
    futures::stream::try_unfold((file, left, meter), |(mut file, left, meter)| async move {
        if left == 0 {
            return Ok(None);
        }
        let len = left.min(PIECE);
        if let Some(meter) = &meter {
            meter.limiter.acquire(len).await;
        }
        let mut piece = vec![0; len as usize];
        file.read_exact(&mut piece).await?;
        if let Some(meter) = &meter {
            meter.counters.add(meter.payload, len);
        }
        Ok(Some((Bytes::from(piece), (file, left - len, meter))))
    })
}

/// A single byte range (RFC 9110, section 14.1.2). `None`: not one that can be satisfied. Several ranges at once are
/// refused, not widened to the whole: that would cost what ranges are there to save.
fn parse_range(value: &[u8], len: u64) -> Option<Range<u64>> {
    let (first, last) = std::str::from_utf8(value).ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let range = match (first, last) {
        ("", suffix) => len.saturating_sub(digits(suffix)?)..len,
        (first, "") => digits(first)?..len,
        (first, last) => digits(first)?..digits(last)?.checked_add(1)?.min(len),
    };
    (range.start < range.end).then_some(range)
}

fn not_found() -> Refused {
    Refused(StatusCode::NOT_FOUND, "not held here".to_owned())
}

fn internal(error: impl std::fmt::Display) -> Refused {
    Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_standard() {
        for (text, wanted) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=5-", Some(5..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-30", Some(0..10)),
            ("bytes=8-99", Some(8..10)),
            ("bytes=10-", None),
            ("bytes=5-4", None),
            ("bytes=-0", None),
            ("bytes=-", None),
            ("bytes=0-1,3-4", None),
            ("bytes=+1-2", None),
            ("lines=0-1", None),
            ("bytes=0-18446744073709551615", None),
        ] {
            assert_eq!(parse_range(text.as_bytes(), 10), wanted, "{text}");
        }
    }
}
