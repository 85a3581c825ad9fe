//! One file of a mirror, by HTTP or from a folder. Owns what is asked, how long is waited, and why an answer is not taken; what a
//! file means, whoever wants it knows.
//!
//! A mirror is believed nothing: a file is taken when it has the length and the SHA-256 that upstream signed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{
    CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::auth::Credentials;
use super::progress::Progress;
use crate::upstream::release::Listed;
use crate::web::{Pace, Web, causes};

/// How long a mirror may send nothing, or next to nothing.
const PATIENCE: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 5;
const PIECE: usize = 256 << 10;

/// Where a repository's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mirror {
    /// `http://` or `https://`, without a slash at the end.
    Web(String),
    /// `file:`, an absolute path.
    Folder(PathBuf),
}

/// What a server said of a file's state, to be asked with the next time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Validators {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_modified: Option<String>,
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// There is none.
    #[error("{0} is not there")]
    Missing(String),
    /// The server says no.
    #[error("{url} answers {status}: {what}")]
    Status { url: String, status: StatusCode, what: &'static str },
    /// A page for people instead.
    #[error(
        "{0} answers with a web page instead of the file; a login page or a proxy stands before it, or it is no mirror's address"
    )]
    Page(String),
    /// Nothing comes.
    #[error("{url}: {what}")]
    Unreachable { url: String, what: String },
    /// Another number of bytes than upstream signed.
    #[error("{url} has {found} bytes, upstream signed {wanted}: the mirror is changing, or is damaged")]
    Length { url: String, wanted: u64, found: u64 },
    /// Other bytes than upstream signed.
    #[error("{0} has other bytes than upstream signed: the mirror is changing, or is damaged")]
    Hash(String),
    /// More bytes than such a file may have.
    #[error("{url} has more than the {limit} bytes that such a file may have")]
    TooLong { url: String, limit: u64 },
    /// This machine's disk.
    #[error("the coordinator's disk: {0}")]
    Disk(#[from] io::Error),
}

impl FetchError {
    /// Whether the same may be had in a moment, when the mirror has finished changing.
    pub(crate) fn is_of_a_changing_mirror(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Length { .. } | Self::Hash(_))
    }
}

impl Mirror {
    /// Reads a mirror's URL.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let refuse = |what: &str| Err(format!("the mirror {url:?} {what}"));
        if let Some(path) = url.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path).trim_end_matches('/');
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Folder(path)) } else { refuse("is no absolute path") };
        }
        let Ok(parsed) = url.parse::<reqwest::Url>() else { return refuse("is no URL") };
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return refuse("is none that can be read; write http://, https:// or file:/");
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return refuse(
                "holds a password, which everybody could read in the settings; write it into repositories/auth.conf of the \
                 coordinator's data directory: machine HOST login NAME password PASSWORD",
            );
        }
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return refuse("has something after its path, which a mirror's address has not");
        }
        Ok(Self::Web(url.trim_end_matches('/').to_owned()))
    }

    /// The address of a file, for people and requests.
    fn place(&self, path: &str) -> String {
        match self {
            Self::Web(base) => {
                // In a path these two mean something else to some servers; the others that occur mean themselves.
                format!("{base}/{}", path.replace('%', "%25").replace('+', "%2b"))
            }
            Self::Folder(folder) => folder.join(path).display().to_string(),
        }
    }
}

/// Asks mirrors.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    http: Client,
    patience: Duration,
    credentials: Credentials,
}

impl Fetcher {
    /// Goes through the proxy that the configuration or the environment names.
    pub(crate) fn new(web: &Web) -> anyhow::Result<Self> {
        let http = web.secure().connect_timeout(PATIENCE).redirect(Policy::limited(REDIRECTS)).build();
        Ok(Self { http: http.context("preparing HTTP")?, patience: PATIENCE, credentials: Credentials::default() })
    }

    /// The same, which says who asks: by `auth.conf` in a folder.
    pub(crate) fn with_credentials(self, dir: &Path) -> Self {
        Self { credentials: Credentials::of(dir), ..self }
    }

    /// The same, which waits less long.
    #[cfg(test)]
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// A small file that nobody has told the length of; `None` when it is as `known` says.
    pub(crate) async fn small(
        &self,
        mirror: &Mirror,
        path: &str,
        known: &Validators,
        limit: usize,
    ) -> Result<Option<(Vec<u8>, Validators)>, FetchError> {
        let url = mirror.place(path);
        let too_long = || FetchError::TooLong { url: url.clone(), limit: limit as u64 };
        if let Mirror::Folder(folder) = mirror {
            let file = open(&folder.join(path), &url).await?;
            let mut bytes = Vec::new();
            file.take(limit as u64 + 1).read_to_end(&mut bytes).await?;
            return if bytes.len() > limit { Err(too_long()) } else { Ok(Some((bytes, Validators::default()))) };
        }
        let mut answer = self.ask(&url, known.headers()).await?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            if *known == Validators::default() {
                let (status, what) =
                    (answer.status(), "nothing was said of an earlier state, and it has no other answer");
                return Err(FetchError::Status { url, status, what });
            }
            return Ok(None);
        }
        let validators = Validators::of(answer.headers());
        let slow = |what| FetchError::Unreachable { url: url.clone(), what };
        let (mut bytes, mut pace) = (Vec::new(), Pace::new(self.patience));
        while let Some(piece) = self.piece(&url, &mut answer).await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > limit {
                return Err(too_long());
            }
            pace.came(piece.len() as u64).map_err(slow)?;
        }
        Ok(Some((bytes, validators)))
    }

    /// A file of which nobody has told length or hash, into `to`, in place of what is there; `None` when it is as `known` says.
    /// `bounds` are the most bytes and the most time that it may take.
    pub(crate) async fn whole(
        &self,
        mirror: &Mirror,
        path: &str,
        known: &Validators,
        bounds: (u64, Duration),
        to: &Path,
        progress: &Progress,
    ) -> Result<Option<Validators>, FetchError> {
        let (url, (limit, within)) = (mirror.place(path), bounds);
        let late = |_| FetchError::Unreachable {
            url: url.clone(),
            what: format!("it was not here after {} min", within.as_secs() / 60),
        };
        timeout(within, self.all_of(mirror, (path, &url), known, limit, to, progress)).await.map_err(late)?
    }

    async fn all_of(
        &self,
        mirror: &Mirror,
        (path, url): (&str, &str),
        known: &Validators,
        limit: u64,
        to: &Path,
        progress: &Progress,
    ) -> Result<Option<Validators>, FetchError> {
        let too_long = || FetchError::TooLong { url: url.to_owned(), limit };
        let mut file = tokio::fs::File::create(to).await?;
        let validators = match mirror {
            Mirror::Folder(folder) => {
                let source = open(&folder.join(path), url).await?;
                let said = source.metadata().await?;
                let changed = said.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let validators = Validators {
                    etag: Some(format!("{} {}", said.len(), changed.as_nanos())),
                    ..Validators::default()
                };
                if validators == *known {
                    return Ok(None);
                }
                let copied = tokio::io::copy(&mut source.take(limit + 1), &mut file).await?;
                progress.add(copied);
                if copied > limit {
                    return Err(too_long());
                }
                validators
            }
            Mirror::Web(_) => {
                let mut answer = self.ask(url, known.headers()).await?;
                if answer.status() == StatusCode::NOT_MODIFIED && *known != Validators::default() {
                    return Ok(None);
                }
                let validators = Validators::of(answer.headers());
                let slow = |what| FetchError::Unreachable { url: url.to_owned(), what };
                let (mut got, mut pace) = (0, Pace::new(self.patience));
                while let Some(piece) = self.piece(url, &mut answer).await? {
                    got += piece.len() as u64;
                    if got > limit {
                        return Err(too_long());
                    }
                    file.write_all(&piece).await?;
                    progress.add(piece.len() as u64);
                    pace.came(piece.len() as u64).map_err(slow)?;
                }
                validators
            }
        };
        file.flush().await?;
        Ok(Some(validators))
    }

    /// A file of this length and hash, into `to`. What is in `to` from an earlier try is gone on with; a file that is wrong is
    /// removed. Durable on return.
    pub(crate) async fn known(
        &self,
        mirror: &Mirror,
        path: &str,
        wanted: Listed,
        to: &Path,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let url = mirror.place(path);
        let done = self.receive(mirror, (path, &url), wanted, to, progress).await;
        if matches!(done, Err(FetchError::Length { .. } | FetchError::Hash(_))) {
            // Nothing can be made of it; whatever comes next begins anew.
            let _ = tokio::fs::remove_file(to).await;
        }
        done
    }

    async fn receive(
        &self,
        mirror: &Mirror,
        (path, url): (&str, &str),
        wanted: Listed,
        to: &Path,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let mut file = tokio::fs::OpenOptions::new();
        let mut file = file.create(true).truncate(false).read(true).write(true).open(to).await?;
        let (mut hash, mut got) = hashed(&mut file).await?;
        if got > wanted.len {
            return Err(FetchError::Length { url: url.to_owned(), wanted: wanted.len, found: got });
        }
        progress.add(got);
        if got < wanted.len {
            match mirror {
                Mirror::Folder(folder) => {
                    let mut source = open(&folder.join(path), url).await?;
                    let found = source.metadata().await?.len();
                    if found != wanted.len {
                        return Err(FetchError::Length { url: url.to_owned(), wanted: wanted.len, found });
                    }
                    tokio::io::AsyncSeekExt::seek(&mut source, io::SeekFrom::Start(got)).await?;
                    let mut piece = vec![0; PIECE];
                    loop {
                        let count = source.read(&mut piece).await?;
                        let Some(part) = piece.get(..count).filter(|part| !part.is_empty()) else { break };
                        take(part, wanted, url, (&mut file, &mut hash, &mut got)).await?;
                        progress.add(part.len() as u64);
                    }
                }
                Mirror::Web(_) => self.download(url, wanted, to, (&mut file, &mut hash, &mut got), progress).await?,
            }
        }
        if got != wanted.len {
            return Err(FetchError::Length { url: url.to_owned(), wanted: wanted.len, found: got });
        }
        if <[u8; 32]>::from(hash.finalize()) != wanted.sha256 {
            return Err(FetchError::Hash(url.to_owned()));
        }
        file.sync_all().await?;
        let _ = tokio::fs::remove_file(beside(to)).await;
        Ok(())
    }

    async fn download(
        &self,
        url: &str,
        wanted: Listed,
        to: &Path,
        (file, hash, got): Sink<'_>,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let mut headers = HeaderMap::new();
        if *got > 0 {
            // What the server said of the file when the first part of it came: it must still be that file.
            let said = tokio::fs::read(beside(to)).await.ok();
            let said: Validators = said.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
            let range = format!("bytes={got}-").parse().map_err(io::Error::other)?;
            headers.insert(RANGE, range);
            if let Some(value) = said.strong().and_then(|value| value.parse().ok()) {
                headers.insert(IF_RANGE, value);
            }
        }
        let mut answer = self.ask(url, headers).await?;
        let goes_on = answer.status() == StatusCode::PARTIAL_CONTENT;
        let begins = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let begins = begins.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
        if *got > 0 && !(goes_on && begins == Some(*got)) {
            if goes_on {
                let what = format!("it was asked for what follows byte {got}, and answers from {begins:?}");
                return Err(FetchError::Unreachable { url: url.to_owned(), what });
            }
            // The server ignores ranges, or has another file now: all of it comes.
            file.set_len(0).await?;
            tokio::io::AsyncSeekExt::seek(file, io::SeekFrom::Start(0)).await?;
            (*hash, *got) = (Sha256::new(), 0);
        }
        let whole = answer.content_length().map(|len| got.saturating_add(len));
        if let Some(found) = whole.filter(|found| *found != wanted.len) {
            return Err(FetchError::Length { url: url.to_owned(), wanted: wanted.len, found });
        }
        if let Ok(said) = serde_json::to_vec(&Validators::of(answer.headers())) {
            let _ = tokio::fs::write(beside(to), said).await;
        }
        let slow = |what| FetchError::Unreachable { url: url.to_owned(), what };
        let mut pace = Pace::new(self.patience);
        while let Some(piece) = self.piece(url, &mut answer).await? {
            take(&piece, wanted, url, (file, hash, got)).await?;
            progress.add(piece.len() as u64);
            pace.came(piece.len() as u64).map_err(slow)?;
        }
        file.flush().await?;
        Ok(())
    }

    async fn ask(&self, url: &str, headers: HeaderMap) -> Result<Response, FetchError> {
        let unreachable = |what: String| FetchError::Unreachable { url: url.to_owned(), what };
        let mut request = self.http.get(url).headers(headers);
        // Where a redirect leads to another host, the client itself leaves it out.
        if let Some(login) = self.credentials.login(url).await.map_err(unreachable)? {
            request = request.basic_auth(login.name, Some(login.password));
        }
        let answer = timeout(self.patience, request.send()).await;
        let answer = answer.map_err(|_| unreachable(format!("no answer within {} s", self.patience.as_secs())))?;
        let answer = answer.map_err(|error| {
            let said = if error.is_redirect() {
                format!("it leads elsewhere more than {REDIRECTS} times; name the address where it ends")
            } else {
                format!("no answer: {}", causes(&error))
            };
            unreachable(said)
        })?;
        let status = answer.status();
        if !status.is_success() && status != StatusCode::NOT_MODIFIED {
            let what = match status {
                StatusCode::NOT_FOUND | StatusCode::GONE => return Err(FetchError::Missing(url.to_owned())),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    "it is not for everybody; name and password come from repositories/auth.conf of the coordinator's data directory"
                }
                StatusCode::PROXY_AUTHENTICATION_REQUIRED => "the proxy asks for credentials",
                status if status.is_server_error() => "its server is in trouble",
                _ => "it is not to be had like this",
            };
            return Err(FetchError::Status { url: url.to_owned(), status, what });
        }
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.starts_with("text/html") { Err(FetchError::Page(url.to_owned())) } else { Ok(answer) }
    }

    async fn piece(&self, url: &str, answer: &mut Response) -> Result<Option<bytes::Bytes>, FetchError> {
        let unreachable = |what: String| FetchError::Unreachable { url: url.to_owned(), what };
        let piece = timeout(self.patience, answer.chunk()).await;
        let piece = piece.map_err(|_| unreachable(format!("nothing came for {} s", self.patience.as_secs())))?;
        piece.map_err(|error| unreachable(format!("it broke off: {}", causes(&error))))
    }
}

/// A file, what was hashed of it, and how many bytes that are.
type Sink<'a> = (&'a mut tokio::fs::File, &'a mut Sha256, &'a mut u64);

async fn take(part: &[u8], wanted: Listed, url: &str, (file, hash, got): Sink<'_>) -> Result<(), FetchError> {
    *got += part.len() as u64;
    if *got > wanted.len {
        return Err(FetchError::Length { url: url.to_owned(), wanted: wanted.len, found: *got });
    }
    hash.update(part);
    file.write_all(part).await?;
    Ok(())
}

/// Hashes what is there; the position is at its end.
async fn hashed(file: &mut tokio::fs::File) -> Result<(Sha256, u64), FetchError> {
    let (mut hash, mut len, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        let count = file.read(&mut piece).await?;
        let Some(part) = piece.get(..count).filter(|part| !part.is_empty()) else { return Ok((hash, len)) };
        hash.update(part);
        len += count as u64;
    }
}

async fn open(path: &Path, url: &str) -> Result<tokio::fs::File, FetchError> {
    tokio::fs::File::open(path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FetchError::Missing(url.to_owned()),
        _ => FetchError::Unreachable { url: url.to_owned(), what: error.to_string() },
    })
}

/// Where it is kept what the server said of an unfinished file.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".said");
    name.into()
}

impl Validators {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self { etag: text(ETAG), last_modified: text(LAST_MODIFIED) }
    }

    /// What a server is asked with, to answer only if something has changed.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [(IF_NONE_MATCH, &self.etag), (IF_MODIFIED_SINCE, &self.last_modified)] {
            if let Some(value) = value.as_deref().and_then(|value| value.parse().ok()) {
                headers.insert(name, value);
            }
        }
        headers
    }

    /// One that says that not a byte is different.
    fn strong(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_addresses_without_secrets() {
        assert_eq!(
            Mirror::parse("http://deb.example.org/debian/").unwrap(),
            Mirror::Web("http://deb.example.org/debian".into())
        );
        for folder in ["file:/srv/debian", "file:///srv/debian/"] {
            assert_eq!(Mirror::parse(folder).unwrap(), Mirror::Folder("/srv/debian".into()));
        }
        for (url, cause) in [
            ("ftp://x/debian", "http://"),
            ("deb.example.org", "no URL"),
            ("file:srv", "absolute"),
            ("http://me:secret@x/debian", "password"),
            ("http://x/debian?token=1", "after its path"),
        ] {
            let error = Mirror::parse(url).unwrap_err();
            assert!(error.contains(cause), "{error}");
        }
        let web = Mirror::parse("http://x/debian").unwrap();
        assert_eq!(web.place("pool/a+b_1%3a2~x.deb"), "http://x/debian/pool/a%2bb_1%253a2~x.deb");
    }
}
