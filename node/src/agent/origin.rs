//! The HTTP client for origins: runs of chunks by byte range, and documents.
//!
//! An origin is not trusted. What is read stops at the bytes asked for; what is answered must be the answer to the question
//! (status, range, total length); whether the bytes are good is for whoever hashes them. One that is silent keeps nobody from
//! the next.

mod health;
mod yielding;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use upswarm_protocol::chunk::Chunk;
use upswarm_protocol::node::FetchError;

use self::health::{Health, Wait};
use self::yielding::Yielding;
use crate::limiter::Limiter;
use crate::web::{Pace, Web, causes, dialled};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_REDIRECTS: usize = 5;
/// The most bytes of a reason that are passed on.
const MAX_REASON: usize = 400;

/// How long a source may be silent or slow.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Without a byte for this long, the source counts as gone.
    silence: Duration,
    /// The same for the first byte, where another source can be asked instead.
    first: Duration,
    /// Over this time a source must bring at least `floor` bytes: one that drips is as good as gone.
    window: Duration,
    floor: u64,
}

const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(20),
    first: Duration::from_secs(5),
    window: Duration::from_secs(60),
    floor: 16 << 10,
};

/// Fetches from origins. Clones share connections and the rate limit.
#[derive(Debug, Clone)]
pub(crate) struct OriginClient {
    plain: Clients,
    /// Made when first needed: the system's TLS roots take time to read and memory to keep.
    secure: Arc<OnceLock<Result<Clients, String>>>,
    web: Web,
    limiter: Limiter,
    patience: Patience,
    health: Health,
    yielding: Yielding,
}

/// How connections are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Pooled,
    /// Never an old one: for the second try, when a pooled one may be dead without having said so.
    Fresh,
}

#[derive(Debug, Clone)]
struct Clients {
    pooled: Client,
    fresh: Client,
}

impl Clients {
    /// For `http://` only, or for both.
    fn new(web: &Web, secure: bool) -> reqwest::Result<Self> {
        let builder = || {
            let builder = match secure {
                true => web.secure().redirect(redirect::Policy::custom(follow)),
                false => web.plain().redirect(redirect::Policy::custom(follow_plain)),
            };
            builder.connect_timeout(CONNECT_TIMEOUT)
        };
        let pooled = builder().pool_idle_timeout(Duration::from_secs(30)).pool_max_idle_per_host(4).build()?;
        let fresh = builder().pool_max_idle_per_host(0).build()?;
        Ok(Self { pooled, fresh })
    }

    fn get(&self, reuse: Reuse) -> &Client {
        if reuse == Reuse::Pooled { &self.pooled } else { &self.fresh }
    }
}

/// Why one try at one URL ended.
#[derive(Debug)]
enum Cause {
    /// May do better on a new connection.
    Broken(String),
    /// May do better later, but not at once.
    Unreachable(String),
    /// Answers another question than the one asked.
    Wrong(String),
    /// Nobody wants the bytes any more.
    Canceled,
}

impl OriginClient {
    /// A client whose body bytes go through `limiter`. Needs rustls' process-wide provider.
    pub(crate) fn new(web: Web, limiter: Limiter) -> anyhow::Result<Self> {
        let plain = Clients::new(&web, false).context("no HTTP client for origins")?;
        let (health, yielding) = (Health::default(), Yielding::default());
        Ok(Self { plain, secure: Arc::default(), web, limiter, patience: PATIENCE, health, yielding })
    }

    /// Measures the way to origins from now on, for [`OriginClient::give_way`]. `origin` is the one that will be asked as a rule.
    pub(crate) fn watch(&self, origin: Option<&String>) {
        self.yielding.start(self.web.clone(), origin);
    }

    /// Whether fetches of chunks give way to others on a thin line; `others` machines of the site fetch beside this one.
    pub(crate) fn give_way(&self, on: bool, others: u32) {
        self.yielding.set(on, others);
    }

    /// Why fetches are slow, in a sentence and its reason, when they give way now.
    pub(crate) fn explain(&self) -> Option<(String, String)> {
        self.yielding.explain()
    }

    fn secure(&self) -> Result<&Clients, Cause> {
        let made = self.secure.get_or_init(|| Clients::new(&self.web, true).map_err(|error| causes(&error)));
        made.as_ref().map_err(|error| {
            Cause::Unreachable(format!(
                "no TLS here ({error}); are root certificates installed, for example ca-certificates?"
            ))
        })
    }

    /// Fetches adjacent `chunks` of a payload of `total_len` bytes, trying `urls` in order, and sends each chunk's bytes with
    /// its position in `chunks` as soon as it is complete, in order, each once; the bytes are not hashed here.
    ///
    /// A stream that breaks goes on from the last complete chunk: on the same URL as long as that brings chunks, then on the
    /// next. Returns the payload bytes that crossed the network, good or not, with
    /// [`FetchError::Unreachable`] when a source may do better later, [`FetchError::Wrong`] when all of them answer wrongly,
    /// [`FetchError::Canceled`] when the receiver is gone. Dropping the future ends the fetch.
    pub(crate) async fn fetch_chunks(
        &self,
        urls: &[String],
        total_len: u64,
        chunks: &[Chunk],
        sink: &mpsc::Sender<(usize, Vec<u8>)>,
    ) -> (u64, Result<(), FetchError>) {
        let adjacent = chunks.windows(2).all(|pair| pair[0].offset + u64::from(pair[0].len) == pair[1].offset);
        let inside = chunks.last().is_none_or(|last| last.offset.saturating_add(u64::from(last.len)) <= total_len);
        if !adjacent || !inside {
            return (
                0,
                Err(FetchError::Wrong("the chunks asked for do not follow each other inside the payload".into())),
            );
        }
        let mut run = Run { total_len, chunks, done: 0, bytes: 0, partial: Vec::new(), sink };
        let mut causes = Vec::new();
        let urls = self.health.order(urls);
        for (at, url) in urls.iter().copied().enumerate() {
            let mut retried = false;
            loop {
                let before = run.done;
                let reuse = if retried { Reuse::Fresh } else { Reuse::Pooled };
                let cause = match self.fetch_from(reuse, url, self.first(at, &urls), &mut run).await {
                    Ok(()) => return (run.bytes, Ok(())),
                    Err(cause) => cause,
                };
                let again = matches!(cause, Cause::Broken(_)) && (!retried || run.done > before);
                if !again {
                    causes.push((url, cause));
                    break;
                }
                retried = true;
            }
            if matches!(causes.last(), Some((_, Cause::Canceled))) {
                break;
            }
        }
        (run.bytes, if run.done == chunks.len() { Ok(()) } else { Err(sum_up(&causes)) })
    }

    /// Fetches a document of at most `limit` bytes, trying `urls` in order. The bytes are untrusted. Errors as in
    /// [`OriginClient::fetch_chunks`].
    pub(crate) async fn fetch_document(&self, urls: &[String], limit: usize) -> Result<Vec<u8>, FetchError> {
        let mut causes = Vec::new();
        let urls = self.health.order(urls);
        for (at, url) in urls.iter().copied().enumerate() {
            match self.document_from(url, self.first(at, &urls), limit).await {
                Ok(bytes) => return Ok(bytes),
                Err(cause) => causes.push((url, cause)),
            }
        }
        Err(sum_up(&causes))
    }

    /// The patience for the first byte of one of several sources.
    fn first(&self, at: usize, urls: &[&String]) -> Duration {
        if at + 1 < urls.len() { self.patience.first } else { self.patience.silence }
    }

    async fn fetch_from(&self, reuse: Reuse, url: &str, first: Duration, run: &mut Run<'_>) -> Result<(), Cause> {
        let _fetching = self.yielding.fetching(url);
        // What another source brought of a chunk is not mixed with what this one brings.
        run.partial.clear();
        let mut reuse = reuse;
        let mut in_pieces = true;
        while let Some((start, end)) = run.missing() {
            let piece = self.yielding.piece().filter(|_| in_pieces);
            let until = piece.map_or(end, |piece| end.min(start + piece));
            match self.fetch_piece(reuse, url, first, run, (start, until)).await {
                // A source without ranges gives the whole file or nothing.
                Err(Cause::Wrong(_)) if until < end => in_pieces = false,
                other => other?,
            }
            // Even a fresh connection has shown now that it works.
            reuse = Reuse::Pooled;
        }
        Ok(())
    }

    /// Fetches bytes of the payload, or the first of them when the line has become too thin for so many at once.
    async fn fetch_piece(
        &self,
        reuse: Reuse,
        url: &str,
        first: Duration,
        run: &mut Run<'_>,
        (start, end): (u64, u64),
    ) -> Result<(), Cause> {
        let mut response = self.get(reuse, url, first, Some((start, end))).await?;
        check_range(&response, start, end, run.total_len)?;
        let has_ranges = response.status() == StatusCode::PARTIAL_CONTENT;
        let mut chunk = std::mem::take(&mut run.partial);
        let mut body = Watched::new(self.patience);
        let origin = health::origin(url);
        loop {
            let left = end - run.position(&chunk);
            // The rest of a large answer would come at full speed: it is asked for again, in pieces.
            let too_much = |piece: u64| has_ranges && end - start > 2 * piece && left > piece;
            if left == 0 || self.yielding.piece().is_some_and(too_much) {
                run.partial = chunk;
                return Ok(());
            }
            let Some(bytes) = body.next_bytes(&mut response, self.health.wait(&origin)).await? else {
                return Err(Cause::Broken("the body ended early".into()));
            };
            // More than the range asked for is neither counted nor kept: the connection ends with this response.
            let mut bytes = &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
            run.bytes += bytes.len() as u64;
            self.yielding.came(bytes.len() as u64);
            body.pausing(self.limiter.acquire(bytes.len() as u64)).await;
            body.pausing(self.yielding.may_take(bytes.len() as u64)).await;
            while !bytes.is_empty() {
                let want = run.chunks[run.done].len as usize;
                let (now, rest) = bytes.split_at(bytes.len().min(want - chunk.len()));
                chunk.extend_from_slice(now);
                bytes = rest;
                if chunk.len() == want {
                    let complete = (run.done, std::mem::take(&mut chunk));
                    body.pausing(run.sink.send(complete)).await.map_err(|_| Cause::Canceled)?;
                    run.done += 1;
                    if run.done == run.chunks.len() {
                        return Ok(());
                    }
                    chunk = run.next_buffer();
                }
            }
        }
    }

    async fn document_from(&self, url: &str, first: Duration, limit: usize) -> Result<Vec<u8>, Cause> {
        let too_long = || Cause::Wrong(format!("the document is longer than the {limit} bytes that are allowed"));
        let mut response = self.get(Reuse::Pooled, url, first, None).await?;
        if response.status() != StatusCode::OK {
            return Err(Cause::Wrong(format!("unexpected status {}", response.status())));
        }
        check_plain(response.headers())?;
        if content_length(response.headers())?.is_some_and(|len| len > limit as u64) {
            return Err(too_long());
        }
        let mut document = Vec::new();
        let mut body = Watched::new(self.patience);
        let origin = health::origin(url);
        loop {
            let Some(bytes) = body.next_bytes(&mut response, self.health.wait(&origin)).await? else { break };
            if document.len() + bytes.len() > limit {
                return Err(too_long());
            }
            body.pausing(self.limiter.acquire(bytes.len() as u64)).await;
            document.extend_from_slice(&bytes);
        }
        Ok(document)
    }

    /// Sends a request and sorts its status; a range is half open and not empty.
    async fn get(
        &self,
        reuse: Reuse,
        url: &str,
        first: Duration,
        range: Option<(u64, u64)>,
    ) -> Result<Response, Cause> {
        let parsed = Url::parse(&dialled(url)).map_err(|error| Cause::Wrong(format!("not a URL: {error}")))?;
        let origin = health::origin(url);
        let wait = self.health.wait(&origin);
        heard(wait, self.get_parsed(reuse, parsed, first, range).await)
    }

    async fn get_parsed(
        &self,
        reuse: Reuse,
        url: Url,
        first: Duration,
        range: Option<(u64, u64)>,
    ) -> Result<Response, Cause> {
        match url.scheme() {
            "http" => {
                let response = self.ask(self.plain.get(reuse), url.clone(), first, range).await?;
                // Only a redirect that leads to https:// is left standing.
                if !response.status().is_redirection() {
                    return Ok(response);
                }
            }
            "https" => {}
            _ => return Err(Cause::Wrong("neither http:// nor https://".into())),
        }
        self.ask(self.secure()?.get(reuse), url, first, range).await
    }

    /// Sends a request; what goes wrong on the way through a proxy names it.
    async fn ask(
        &self,
        client: &Client,
        url: Url,
        first: Duration,
        range: Option<(u64, u64)>,
    ) -> Result<Response, Cause> {
        let proxy = self.web.proxy_of(url.as_str());
        let answer = self.ask_directly(client, url, first, range).await;
        let Some(proxy) = proxy else { return answer };
        let asks = ["407", "401", "proxy authorization required"];
        let named = |why: String| match asks.iter().any(|sign| why.contains(sign)) {
            true => {
                format!("the proxy {proxy} wants another user and password ({why}); see credentials_file in [proxy]")
            }
            false => format!("{why} (through the proxy {proxy})"),
        };
        answer.map_err(|cause| match cause {
            Cause::Broken(why) => Cause::Broken(named(why)),
            Cause::Unreachable(why) => Cause::Unreachable(named(why)),
            Cause::Wrong(why) => Cause::Wrong(named(why)),
            Cause::Canceled => Cause::Canceled,
        })
    }

    async fn ask_directly(
        &self,
        client: &Client,
        url: Url,
        first: Duration,
        range: Option<(u64, u64)>,
    ) -> Result<Response, Cause> {
        let mut request = client.get(url).header(ACCEPT_ENCODING, "identity");
        if let Some((start, end)) = range {
            request = request.header(RANGE, format!("bytes={start}-{}", end - 1));
        }
        let response = match timeout(first, request.send()).await {
            Err(_) => return Err(Cause::Unreachable(format!("no answer for {first:?}"))),
            Ok(Err(error)) if error.is_redirect() => return Err(Cause::Wrong(causes(&error))),
            Ok(Err(error)) if error.is_connect() || error.is_timeout() => {
                return Err(Cause::Unreachable(causes(&error)));
            }
            Ok(Err(error)) => return Err(Cause::Broken(causes(&error))),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            Ok(response)
        } else if status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
        {
            Err(Cause::Unreachable(format!("status {status}")))
        } else {
            Err(Cause::Wrong(format!("status {status}")))
        }
    }
}

/// What is left of a fetch of chunks.
struct Run<'a> {
    total_len: u64,
    chunks: &'a [Chunk],
    /// Chunks sent to `sink`.
    done: usize,
    /// Payload bytes received.
    bytes: u64,
    /// The first bytes of the next chunk, by the source that is asked.
    partial: Vec<u8>,
    sink: &'a mpsc::Sender<(usize, Vec<u8>)>,
}

impl Run<'_> {
    /// First byte wanted, and the one after the last.
    fn missing(&self) -> Option<(u64, u64)> {
        let (first, last) = (self.chunks.get(self.done)?, self.chunks.last()?);
        Some((first.offset + self.partial.len() as u64, last.offset + u64::from(last.len)))
    }

    fn position(&self, chunk: &[u8]) -> u64 {
        self.chunks[self.done].offset + chunk.len() as u64
    }

    fn next_buffer(&self) -> Vec<u8> {
        Vec::with_capacity(self.chunks[self.done].len as usize)
    }
}

/// Whatever an origin has answered, it was not silent.
fn heard<T>(wait: Wait<'_>, answer: Result<T, Cause>) -> Result<T, Cause> {
    if !matches!(answer, Err(Cause::Unreachable(_))) {
        wait.heard();
    }
    answer
}

/// A body that is watched. Time spent on waiting for this side does not count against the source.
struct Watched {
    patience: Patience,
    pace: Pace,
}

impl Watched {
    fn new(patience: Patience) -> Self {
        Self { patience, pace: Pace::of(patience.window, patience.floor) }
    }

    async fn next_bytes(&mut self, response: &mut Response, wait: Wait<'_>) -> Result<Option<bytes::Bytes>, Cause> {
        let came = match timeout(self.patience.silence, response.chunk()).await {
            Err(_) => Err(Cause::Unreachable(format!("no byte for {:?}", self.patience.silence))),
            Ok(Err(error)) => Err(Cause::Broken(causes(&error))),
            Ok(Ok(bytes)) => Ok(bytes),
        };
        let bytes = heard(wait, came)?;
        let count = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.pace.came(count).map_err(Cause::Unreachable)?;
        Ok(bytes)
    }

    async fn pausing<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = wait.await;
        self.pace.waited(start.elapsed());
        result
    }
}

/// For a client without TLS roots.
fn follow_plain(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.url().scheme() == "https" { attempt.stop() } else { follow(attempt) }
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let downgrade = attempt.url().scheme() != "https"
        && attempt.previous().last().is_some_and(|previous| previous.scheme() == "https");
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error(format!("more than {MAX_REDIRECTS} redirects"))
    } else if downgrade {
        attempt.error("a redirect from https to an unencrypted URL")
    } else {
        attempt.follow()
    }
}

/// The response brings exactly the bytes `start..end` of a file of `total` bytes (RFC 9110, sections 14.4 and 15.3.7).
fn check_range(response: &Response, start: u64, end: u64, total: u64) -> Result<(), Cause> {
    let headers = response.headers();
    check_plain(headers)?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let found = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or("nothing");
            let expected = format!("bytes {start}-{}/{total}", end - 1);
            if !found.eq_ignore_ascii_case(&expected) {
                let found: String = found.chars().take(80).collect();
                return Err(Cause::Wrong(format!("serves {found:?} where {expected:?} was asked for")));
            }
        }
        StatusCode::OK if (start, end) == (0, total) => {}
        StatusCode::OK => return Err(Cause::Wrong("does not serve ranges".into())),
        status => return Err(Cause::Wrong(format!("unexpected status {status}"))),
    }
    match content_length(headers)? {
        Some(len) if len != end - start => {
            Err(Cause::Wrong(format!("serves {len} bytes where {} were asked for", end - start)))
        }
        _ => Ok(()),
    }
}

fn check_plain(headers: &HeaderMap) -> Result<(), Cause> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            Err(Cause::Wrong(format!("serves the encoding {encoding:?}, which was not asked for")))
        }
        _ => Ok(()),
    }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Cause> {
    let Some(value) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let len = value.to_str().ok().and_then(|text| text.parse().ok());
    len.map(Some).ok_or_else(|| Cause::Wrong("an unreadable Content-Length".into()))
}

fn sum_up(causes: &[(&String, Cause)]) -> FetchError {
    if causes.iter().any(|(_, cause)| matches!(cause, Cause::Canceled)) {
        return FetchError::Canceled;
    }
    if causes.is_empty() {
        return FetchError::Wrong("no origin is known for it; add one to the coordinator's configuration".into());
    }
    let later = causes.iter().any(|(_, cause)| matches!(cause, Cause::Broken(_) | Cause::Unreachable(_)));
    let reasons: Vec<String> = causes
        .iter()
        .map(|(url, cause)| match cause {
            Cause::Broken(why) | Cause::Unreachable(why) | Cause::Wrong(why) => format!("{url}: {why}"),
            Cause::Canceled => format!("{url}: canceled"),
        })
        .collect();
    let mut reason = reasons.join("; ");
    if reason.len() > MAX_REASON {
        let cut = (0..=MAX_REASON).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        reason.truncate(cut);
        reason.push_str(" ...");
    }
    if later { FetchError::Unreachable(reason) } else { FetchError::Wrong(reason) }
}

#[cfg(test)]
mod tests;
