//! The origin's files: payloads by range, documents, roots and the head. Counts the payload bytes it hands out.

use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use upswarm_protocol::ids::{DocHash, PayloadId};

use super::refused::Refused;
use super::shared::{Counters, Shared};
use crate::byte_range;
use crate::limiter::Limiter;

/// Bytes that are read, and counted, at a time.
const PIECE: u64 = 256 << 10;

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
    let root = shared.roots.borrow().get(&hash).copied();
    let path = root.map_or_else(|| shared.directory.doc(&hash), |version| shared.directory.root(version));
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
    let (answer, range) = match wanted.map(|range| byte_range::parse(range.as_bytes(), len)) {
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

fn not_found() -> Refused {
    Refused(StatusCode::NOT_FOUND, "not held here".to_owned())
}

fn internal(error: impl std::fmt::Display) -> Refused {
    Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
