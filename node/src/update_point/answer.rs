//! Answers: which payload a request means, its headers, and its bytes in order as they come. It opens no file and fetches nothing
//! itself.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header, response};
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use upswarm_cache::{Store, StoreError};
use upswarm_protocol::catalog::{Payload, Recipe, Release};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::{DocHash, PayloadId};
use upswarm_protocol::time::Wall;

use super::budget::Budget;
use super::built::Built;
use super::request::{Wanted, may_ask, wanted};
use super::{Asked, Question};
use crate::byte_range;
use crate::config::UpdatePointConfig;
use crate::upstream::{MAX_DESCRIPTION, UpstreamDescription};

/// Bytes that are read and handed on at a time, for each connection.
pub(super) const PIECE: u64 = 64 << 10;
/// Reads at a time: each takes a thread, and the disk serves them no sooner for being more.
const READS: usize = 16;
/// Indexes that are computed at a time: each has a file of upstream's in memory, without its compression.
const COMPUTING: usize = 2;
/// A client waits so long for the next byte at most; apt itself gives up after 30 to 120 s.
const STALLED: Duration = Duration::from_secs(300);
/// Whoever waits looks again after this at the latest.
const LOOK: Duration = Duration::from_secs(1);
/// The core answers within this, or is about to end.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// What every request needs.
pub(super) struct Shared {
    store: Arc<Store>,
    asks: mpsc::Sender<Asked>,
    stored: Arc<Notify>,
    budget: Budget,
    reads: Semaphore,
    names: Vec<String>,
    built: Mutex<Built<Refusal>>,
    /// Room for those who compute indexes.
    pub(super) computing: Semaphore,
}

/// No, and why.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    status: StatusCode,
    reason: String,
    retry_after: Option<Duration>,
}

/// A payload that may be had.
#[derive(Debug)]
pub(super) struct Found {
    payload: Payload,
    modified: Wall,
    /// What is not in the store but follows from what is.
    bytes: Option<Bytes>,
}

impl Found {
    pub(super) fn payload(payload: Payload, modified: Wall) -> Self {
        Self { payload, modified, bytes: None }
    }

    pub(super) fn text(bytes: Vec<u8>, modified: Wall) -> Self {
        let payload = Payload {
            name: Text::default(),
            id: PayloadId::of(&bytes),
            len: bytes.len() as u64,
            chunk_list: DocHash::default(),
            chunk_list_len: 0,
            sha256: [0; 32],
            urls: Bounded::default(),
            patches: Bounded::default(),
        };
        Self { payload, modified, bytes: Some(bytes.into()) }
    }
}

impl Shared {
    pub(super) fn new(
        config: &UpdatePointConfig,
        store: Arc<Store>,
        asks: mpsc::Sender<Asked>,
        stored: Arc<Notify>,
    ) -> Self {
        Self {
            store,
            asks,
            stored,
            budget: Budget::new(config.daily.0),
            reads: Semaphore::new(READS),
            names: config.names.clone(),
            built: Mutex::default(),
            computing: Semaphore::new(COMPUTING),
        }
    }

    pub(super) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Refusal> {
        let away = || refuse(StatusCode::SERVICE_UNAVAILABLE, "the node is busy or about to end; try again");
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.asks.send(Asked(question(reply))).await.map_err(|_| away())?;
            answer.await.map_err(|_| away())
        };
        timeout(ANSWERS_WITHIN, asked).await.map_err(|_| away())?
    }

    /// The payload that a request means.
    async fn find(&self, wanted: Wanted, host: &str) -> Result<Found, Refusal> {
        match wanted {
            Wanted::Filtered { group, part } => self.filtered(group, part, host).await,
            Wanted::Payload(id) => {
                let found = self.ask(|reply| Question::Payload(id, reply)).await?;
                let missing = || not_found(format!("no release that is approved for this machine has a payload {id}"));
                let (release, payload) = found.ok_or_else(missing)?;
                Ok(Found::payload(payload, release.issued))
            }
            Wanted::File { release: id, name } => {
                let release = self.ask(|reply| Question::Release(id, reply)).await?;
                let unknown = || not_found(format!("release {} is not approved for this machine", id.short()));
                let release = release.ok_or_else(unknown)?;
                let named = |payload: &&Payload| payload.name.as_str() == name;
                let payload = release.payloads.iter().find(named).cloned();
                let missing = || not_found(format!("{} {} has no file {name:?}", release.product, release.version));
                Ok(Found::payload(payload.ok_or_else(missing)?, release.issued))
            }
            Wanted::Pool { upstream, file } => {
                let snapshots = self.snapshots(&upstream).await?;
                // A client that has read an older snapshot's indexes is in the middle of its work.
                let found = snapshots.iter().find_map(|release| {
                    let Recipe::Apt(recipe) = &release.install else { return None };
                    let payloads =
                        recipe.packages.iter().filter_map(|of| release.payloads.get(usize::from(of.payload)));
                    let payload = payloads.into_iter().find(|payload| payload.name.as_str() == file)?.clone();
                    Some(Found::payload(payload, release.issued))
                });
                found.ok_or_else(|| not_found(format!("{file:?} of {upstream} is not approved for this machine")))
            }
            Wanted::Dists { upstream, path } => {
                let snapshots = self.snapshots(&upstream).await?;
                let newest = snapshots.first().ok_or_else(|| unknown(&upstream))?;
                let suite = self.suite(newest).await?;
                let below = path.strip_prefix(&*suite).and_then(|path| path.strip_prefix('/'));
                let elsewhere = || not_found(format!("{upstream} has the suite {suite} and no other"));
                let below = below.ok_or_else(elsewhere)?;
                let found = snapshots.iter().enumerate().find_map(|(age, release)| metadata(release, below, age == 0));
                found.ok_or_else(|| not_found(format!("{below} of {upstream} is not synced")))
            }
        }
    }

    async fn snapshots(&self, upstream: &str) -> Result<Vec<Arc<Release>>, Refusal> {
        let name = upstream.to_owned();
        let snapshots = self.ask(|reply| Question::Upstream(name, reply)).await?;
        if snapshots.is_empty() { Err(unknown(upstream)) } else { Ok(snapshots) }
    }

    /// The suite that the description of an upstream names.
    async fn suite(&self, release: &Arc<Release>) -> Result<String, Refusal> {
        let Recipe::Apt(recipe) = &release.install else { return Err(unknown(&release.product)) };
        let payload = release.payloads.get(usize::from(recipe.upstream)).ok_or_else(|| unknown(&release.product))?;
        if payload.len > MAX_DESCRIPTION as u64 {
            return Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "the description of the upstream is too long"));
        }
        let read = UpstreamDescription::parse(&self.whole(payload).await?);
        read.map(|description| description.suite).map_err(internal)
    }

    /// Held for no longer than it takes to look.
    pub(super) fn built(&self) -> MutexGuard<'_, Built<Refusal>> {
        // No code that holds the lock can panic half way through a change.
        self.built.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a payload is here, and keeps nothing of it in memory.
    pub(super) async fn arrives(&self, payload: &Payload) -> Result<(), Refusal> {
        if !self.store.is_complete(payload.id) { self.whole(payload).await.map(drop) } else { Ok(()) }
    }

    /// All bytes of a payload that is not large, as soon as they are here.
    pub(super) async fn whole(&self, payload: &Payload) -> Result<Vec<u8>, Refusal> {
        self.fetch(payload)?;
        let (mut text, mut waited) = (Vec::new(), Waited::default());
        while (text.len() as u64) < payload.len {
            let piece = self.piece(payload.id, text.len() as u64, payload.len, &mut waited).await;
            text.extend(piece.map_err(|error| refuse(StatusCode::GATEWAY_TIMEOUT, error.to_string()))?);
        }
        Ok(text)
    }

    /// Has missing bytes of a payload fetched, within the day's budget.
    fn fetch(&self, payload: &Payload) -> Result<(), Refusal> {
        if self.store.is_complete(payload.id) {
            return Ok(());
        }
        self.budget.take(payload.id, payload.len, Instant::now()).map_err(|again| Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason:
                "as much as may be fetched for clients of this machine in a day has been; `daily` in [update_point] of \
                     node.toml is the limit"
                    .to_owned(),
            retry_after: Some(again),
        })?;
        // A full queue is no refusal: whoever waits for bytes asks again.
        let _ = self.asks.try_send(Asked(Question::Want(payload.id)));
        Ok(())
    }

    /// The next bytes, as soon as they are here.
    async fn piece(&self, id: PayloadId, from: u64, to: u64, waited: &mut Waited) -> io::Result<Bytes> {
        loop {
            // Before looking: what comes meanwhile is noticed.
            let news = self.stored.notified();
            let store = self.store.clone();
            let read = move || store.read_from(id, from, PIECE.min(to.saturating_sub(from)));
            let room = self.reads.acquire().await.map_err(io::Error::other)?;
            let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?;
            drop(room);
            match read {
                Ok(bytes) if bytes.is_empty() => {
                    return Err(io::Error::other("the payload is shorter than its release says"));
                }
                Ok(bytes) => {
                    *waited = Waited::default();
                    return Ok(bytes.into());
                }
                Err(StoreError::Missing { .. } | StoreError::Unknown(_) | StoreError::Rotten { .. }) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
            let since = *waited.since.get_or_insert_with(Instant::now);
            if since.elapsed() > STALLED {
                let reason = format!("no byte of payload {} has come for {} s", id.short(), STALLED.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
            if timeout(LOOK, news).await.is_err() {
                let _ = self.asks.try_send(Asked(Question::Want(id)));
            }
        }
    }

    async fn serve(self: Arc<Self>, request: &Parts) -> Result<Response, Refusal> {
        may_ask(&request.uri, &request.headers, &self.names).map_err(|(status, reason)| refuse(status, reason))?;
        let method = &request.method;
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "the update point answers GET and HEAD"));
        }
        let nothing = || not_found("nothing is served at this path".to_owned());
        let wanted = wanted(request.uri.path()).ok_or_else(nothing)?;
        // What has a hash in its path is always the same.
        let fixed = matches!(&wanted, Wanted::Payload(_) | Wanted::File { .. });
        let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let found = self.find(wanted, host).await?;
        let (answer, range) = head(&found, &request.headers, fixed);
        let Some(range) = range else { return answer.body(Body::empty()).map_err(internal) };
        if method == Method::HEAD {
            return answer.body(Body::empty()).map_err(internal);
        }
        if let Some(bytes) = found.bytes {
            let part = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            return answer.body(Body::from(bytes.slice(part(range.start)..part(range.end)))).map_err(internal);
        }
        self.fetch(&found.payload)?;
        let (id, end) = (found.payload.id, range.end);
        let begin = (self, range.start, Waited::default());
        let body = futures::stream::try_unfold(begin, move |(shared, at, mut waited)| async move {
            if at >= end {
                return Ok::<_, io::Error>(None);
            }
            let bytes = shared.piece(id, at, end, &mut waited).await?;
            let next = at + bytes.len() as u64;
            Ok(Some((bytes, (shared, next, waited))))
        });
        answer.body(Body::from_stream(body)).map_err(internal)
    }
}

/// Since when nothing has come.
#[derive(Debug, Default)]
struct Waited {
    since: Option<Instant>,
}

/// The one handler: paths are read by [`wanted`] alone.
pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    shared.serve(&parts).await.unwrap_or_else(Refusal::answer)
}

/// Which payload of a snapshot a path below the suite means. By hash everything that is approved; by name the newest.
fn metadata(release: &Release, path: &str, newest: bool) -> Option<Found> {
    let Recipe::Apt(recipe) = &release.install else { return None };
    let payload = |at: u16| release.payloads.get(usize::from(at));
    let found = |payload: &Payload| Some(Found::payload(payload.clone(), release.issued));
    if let Some((dir, hash)) = path.split_once("/by-hash/") {
        let hash = hex::decode(hash.strip_prefix("SHA256/")?).ok()?;
        let indexes = recipe.indexes.iter().filter(|index| index.path.rsplit_once('/').map(|(of, _)| of) == Some(dir));
        return indexes.filter_map(|index| payload(index.payload)).find(|of| of.sha256[..] == hash[..]).and_then(found);
    }
    if !newest {
        return None;
    }
    if path == "InRelease" {
        return payload(recipe.in_release).and_then(found);
    }
    let index = recipe.indexes.iter().find(|index| index.path.as_str() == path)?;
    payload(index.payload).and_then(found)
}

/// The head of an answer, and the bytes that follow; `None` where none do.
fn head(found: &Found, headers: &HeaderMap, fixed: bool) -> (response::Builder, Option<Range<u64>>) {
    let len = found.payload.len;
    let etag = format!("\"{}\"", found.payload.id);
    let modified = http_date(found.modified);
    let cache = if fixed { "public, max-age=31536000, immutable" } else { "no-cache" };
    let answer = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::LAST_MODIFIED, &modified)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CACHE_CONTROL, cache);
    let says = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // Exactly this date: an older snapshot that was approved later is no older here.
    let known = match says(header::IF_NONE_MATCH) {
        Some(tags) => {
            tags.split(',').any(|tag| matches!(tag.trim().trim_start_matches("W/"), "*") || tag.trim() == etag)
        }
        None => says(header::IF_MODIFIED_SINCE) == Some(&*modified),
    };
    if known {
        return (answer.status(StatusCode::NOT_MODIFIED), None);
    }
    let goes_on = says(header::IF_RANGE).is_none_or(|known| known == etag || known == modified);
    match headers.get(header::RANGE).filter(|_| goes_on).map(|range| byte_range::parse(range.as_bytes(), len)) {
        None => (answer.header(header::CONTENT_LENGTH, len), Some(0..len)),
        Some(Some(range)) => {
            let said = format!("bytes {}-{}/{len}", range.start, range.end - 1);
            let answer = answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, said);
            (answer.header(header::CONTENT_LENGTH, range.end - range.start), Some(range))
        }
        Some(None) => {
            let answer = answer.status(StatusCode::RANGE_NOT_SATISFIABLE);
            (answer.header(header::CONTENT_RANGE, format!("bytes */{len}")), None)
        }
    }
}

/// RFC 9110, section 5.6.7.
fn http_date(wall: Wall) -> String {
    let stamp = jiff::Timestamp::from_second(i64::try_from(wall.0 / 1000).unwrap_or_default()).unwrap_or_default();
    stamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

impl Refusal {
    fn answer(self) -> Response {
        let mut answer =
            Response::builder().status(self.status).header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            answer = answer.header(header::ALLOW, "GET, HEAD");
        }
        if let Some(after) = self.retry_after {
            answer = answer.header(header::RETRY_AFTER, after.as_secs().max(1));
        }
        answer.body(Body::from(self.reason + "\n")).unwrap_or_default()
    }
}

pub(super) fn busy(reason: &str) -> Refusal {
    refuse(StatusCode::SERVICE_UNAVAILABLE, reason)
}

fn refuse(status: StatusCode, reason: impl Into<String>) -> Refusal {
    Refusal { status, reason: reason.into(), retry_after: None }
}

pub(super) fn not_found(reason: String) -> Refusal {
    refuse(StatusCode::NOT_FOUND, reason)
}

fn unknown(upstream: &str) -> Refusal {
    not_found(format!("no snapshot of {upstream:?} is approved for this machine yet"))
}

pub(super) fn internal(error: impl std::fmt::Display) -> Refusal {
    refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
