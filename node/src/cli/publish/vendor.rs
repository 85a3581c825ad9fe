//! A payload that stays at its vendor: read once, to cut and hash it, through the proxy that the environment names.
//!
//! Whatever keeps machines from fetching it later is said here, before anything is signed: a missing file, a web page in its
//! place, a server that does not serve ranges, that stops or that drips.

use std::io::{self, Read};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use indicatif::ProgressBar;
use reqwest::header::{CONTENT_TYPE, RANGE};
use reqwest::{Client, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;
use upswarm_cache::chunker::{ChunkedFile, ChunkerError, chunk_file};
use upswarm_protocol::chunk::ChunkSizes;

use super::super::{CliError, Common, progress};
use crate::web::{Pace, ProxyConfig, Web, causes};

/// Pieces of the answer that wait for the chunker.
const PIECES: usize = 8;

/// How a vendor is asked.
pub(super) struct Vendor {
    http: Client,
    /// How long it may send nothing, or next to nothing.
    patience: Duration,
    common: Common,
}

impl Vendor {
    pub(super) fn new(patience: Duration, common: Common) -> Result<Self, CliError> {
        let web = Web::new(&ProxyConfig::default(), None)?;
        let http = web.secure().connect_timeout(patience).build().context("preparing HTTP")?;
        Ok(Self { http, patience, common })
    }

    /// Reads the file once and cuts it. `sizes` is told its length, or 0 when the vendor does not say it.
    pub(super) async fn cut(
        &self,
        url: &str,
        sizes: &impl Fn(u64) -> Result<ChunkSizes, CliError>,
    ) -> Result<ChunkedFile, CliError> {
        self.serves_ranges(url).await?;
        let mut answer = self.ask(url, None).await?;
        let len = answer.content_length();
        let sizes = sizes(len.unwrap_or(0))?;
        let bar = progress::bytes(self.common, "downloading", len.unwrap_or(0));
        let (pieces, received) = mpsc::channel(PIECES);
        let chunker = tokio::task::spawn_blocking(move || chunk_file(Body { received, piece: Bytes::new() }, sizes));
        let read = self.read(url, &mut answer, &pieces, &bar).await;
        drop(pieces);
        bar.finish_and_clear();
        let cut = chunker.await.context("cutting the payload")?;
        read?;
        cut.map_err(|error| match error {
            ChunkerError::Read(error) => CliError::Failed(anyhow!("downloading {url}: {error}")),
            other => CliError::Refused(format!("the payload {url}: {other}")),
        })
    }

    /// Machines fetch it in pieces.
    async fn serves_ranges(&self, url: &str) -> Result<(), CliError> {
        let answer = self.ask(url, Some("bytes=0-0")).await?;
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            return Ok(());
        }
        Err(CliError::Refused(format!(
            "the server of {url} does not serve byte ranges, in which machines fetch; download the file and name it with path = \
             instead of url ="
        )))
    }

    async fn ask(&self, url: &str, range: Option<&str>) -> Result<Response, CliError> {
        let mut request = self.http.get(url);
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let answer = timeout(self.patience, request.send()).await.map_err(|_| self.silent(url, 0))?;
        let answer = answer.map_err(|error| CliError::Failed(anyhow!("no answer from {url}: {}", causes(&error))))?;
        let status = answer.status();
        if !status.is_success() {
            let what = match status {
                StatusCode::NOT_FOUND | StatusCode::GONE => "there is no such file",
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    "it is not for everybody; machines could not fetch it either"
                }
                StatusCode::PROXY_AUTHENTICATION_REQUIRED => "the proxy asks for credentials",
                status if status.is_server_error() => "its server is in trouble; try again later",
                _ => "it is not to be had like this",
            };
            return Err(CliError::Refused(format!("{url} answers {status}: {what}")));
        }
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let path = answer.url().path().to_ascii_lowercase();
        if kind.starts_with("text/html") && !path.ends_with(".html") && !path.ends_with(".htm") {
            return Err(CliError::Refused(format!(
                "{url} answers with a web page instead of the file; is it the page of a download, a licence or a login?"
            )));
        }
        Ok(answer)
    }

    async fn read(
        &self,
        url: &str,
        answer: &mut Response,
        pieces: &mpsc::Sender<Bytes>,
        bar: &ProgressBar,
    ) -> Result<(), CliError> {
        let len = answer.content_length();
        let (mut got, mut pace) = (0, Pace::new(self.patience));
        loop {
            let piece = timeout(self.patience, answer.chunk()).await.map_err(|_| self.silent(url, got))?;
            let piece = piece.map_err(|error| {
                let of = len.map_or(String::new(), |len| format!(" of {len}"));
                CliError::Failed(anyhow!("{url} broke off after {got}{of} bytes: {}", causes(&error)))
            })?;
            let Some(piece) = piece else { return Ok(()) };
            let count = piece.len() as u64;
            got += count;
            bar.set_position(got);
            if pieces.send(piece).await.is_err() {
                // The chunker has ended, and says why.
                return Ok(());
            }
            pace.came(count).map_err(|what| {
                let advice = "try again later, or download the file and name it with path =";
                CliError::Failed(anyhow!("{url} is {what}; {advice}"))
            })?;
        }
    }

    fn silent(&self, url: &str, got: u64) -> CliError {
        let secs = self.patience.as_secs();
        CliError::Failed(match got {
            0 => anyhow!("{url} does not answer within {secs} s"),
            got => anyhow!("{url} has sent nothing for {secs} s, after {got} bytes"),
        })
    }
}

/// An answer's body for code that reads.
struct Body {
    received: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
