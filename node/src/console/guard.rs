//! Who may use the console: whoever shows the secret of the entry link, once, and then a session's cookie. Owns sessions, and the
//! checks of host, origin and form token that keep other pages of the same browser out; never knows what is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::body::Body;
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::Console;
use super::trouble::Trouble;
use crate::coordinator::keys;
use crate::sys::{self, Access};

/// A session ends this long after it began.
const SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Sessions at one time; the oldest makes place.
const MAX_SESSIONS: usize = 16;
/// The origin of every answer's content is this console alone; styles, scripts and pictures are files of its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// What may be fetched without a session: nothing of it says anything about the fleet.
const OPEN_PATHS: [&str; 3] = ["/enter", "/health", "/ready"];

/// Entry link, sessions, and the names that this console has.
pub(crate) struct Guard {
    port: u16,
    authorities: Vec<String>,
    /// Cookies are shared by all ports of a host, so that each console needs a name of its own.
    cookie: String,
    /// Where the link is written.
    link: Option<PathBuf>,
    inside: Mutex<Inside>,
}

struct Inside {
    /// Of the next entry.
    secret: String,
    /// By the hash of what its cookie holds.
    sessions: BTreeMap<[u8; 32], Session>,
}

#[derive(Clone)]
struct Session {
    began: Instant,
    token: String,
}

/// Whoever asks within a session.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// What a form of this session must carry.
    pub(crate) token: String,
}

impl Guard {
    pub(crate) fn new(address: SocketAddr, link: Option<PathBuf>) -> anyhow::Result<Self> {
        let port = address.port();
        let mut authorities = vec![address.to_string(), format!("localhost:{port}")];
        if port == 80 {
            authorities.extend([address.ip().to_string(), "localhost".to_owned()]);
        }
        let inside = Inside { secret: random()?, sessions: BTreeMap::new() };
        let guard = Self { port, authorities, cookie: format!("upswarm-{port}"), link, inside: Mutex::new(inside) };
        guard.announce()?;
        Ok(guard)
    }

    /// The link that lets one browser in.
    pub(crate) fn link(&self) -> String {
        let host = self.authorities.first().map(String::as_str).unwrap_or_default();
        format!("http://{host}/enter?secret={}", self.inside().secret)
    }

    fn announce(&self) -> anyhow::Result<()> {
        let Some(path) = &self.link else { return Ok(()) };
        let text = format!("{}\n", self.link());
        sys::replace(path, text.as_bytes(), Access::Owner).with_context(|| format!("writing {}", path.display()))
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session for the right secret, which then counts no more. Returns what its cookie holds.
    fn enter(&self, secret: &str) -> anyhow::Result<Option<String>> {
        let (fresh, cookie, token) = (random()?, random()?, random()?);
        let mut inside = self.inside();
        // Comparing hashes takes the same time whatever is shown.
        if blake3::hash(secret.as_bytes()) != blake3::hash(inside.secret.as_bytes()) {
            return Ok(None);
        }
        inside.secret = fresh;
        inside.sessions.retain(|_, session| session.began.elapsed() < SESSION_LIFE);
        if inside.sessions.len() >= MAX_SESSIONS {
            let oldest = inside.sessions.iter().min_by_key(|(_, session)| session.began).map(|(name, _)| *name);
            oldest.and_then(|name| inside.sessions.remove(&name));
        }
        let name = *blake3::hash(cookie.as_bytes()).as_bytes();
        inside.sessions.insert(name, Session { began: Instant::now(), token });
        drop(inside);
        self.announce()?;
        Ok(Some(cookie))
    }

    fn forget(&self, cookie: &str) {
        self.inside().sessions.remove(blake3::hash(cookie.as_bytes()).as_bytes());
    }

    fn visitor(&self, headers: &HeaderMap) -> Option<Visitor> {
        let name = *blake3::hash(self.shown(headers)?.as_bytes()).as_bytes();
        let inside = self.inside();
        let session = inside.sessions.get(&name).filter(|session| session.began.elapsed() < SESSION_LIFE)?;
        Some(Visitor { token: session.token.clone() })
    }

    fn end(&self, headers: &HeaderMap) {
        if let Some(cookie) = self.shown(headers) {
            self.forget(cookie);
        }
    }

    fn shown<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let mut all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        all.find_map(|cookies| {
            cookies.split(';').find_map(|pair| pair.trim().strip_prefix(&self.cookie)?.strip_prefix('='))
        })
    }

    fn has_host(&self, headers: &HeaderMap) -> Option<String> {
        let host = headers.get(header::HOST)?.to_str().ok()?.to_ascii_lowercase();
        self.authorities.contains(&host).then_some(host)
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Visitor>().cloned().ok_or_else(Trouble::stranger)
    }
}

/// Lets in whom the rules let in, and puts the same protection on every answer.
pub(crate) async fn check(State(console): State<Arc<Console>>, mut request: Request<Body>, next: Next) -> Response {
    let mut answer = match permitted(&console, &mut request) {
        Ok(()) => next.run(request).await,
        Err(trouble) => trouble.into_response(),
    };
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Without it a browser would not say from which page a form comes.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

fn permitted(console: &Console, request: &mut Request<Body>) -> Result<(), Trouble> {
    let guard = &console.guard;
    if request.headers().get_all(header::HOST).iter().count() > 1 {
        let text = "A request names one host.".to_owned();
        return Err(Trouble::new(StatusCode::BAD_REQUEST, "Not understood", text));
    }
    let Some(host) = guard.has_host(request.headers()) else {
        return Err(Trouble::new(
            StatusCode::MISDIRECTED_REQUEST,
            "Another name",
            format!("This console answers at http://127.0.0.1:{} alone.", guard.port),
        ));
    };
    let foreign = |name: HeaderName, own: &str| {
        request.headers().get(name).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(own.as_bytes()))
    };
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let from = HeaderName::from_static("sec-fetch-site");
    if foreign(header::ORIGIN, &format!("http://{host}"))
        || changes && (!request.headers().contains_key(header::ORIGIN) || foreign(from, "same-origin"))
    {
        return Err(Trouble::new(
            StatusCode::FORBIDDEN,
            "From another page",
            "Changes are taken from the pages of this console alone.".to_owned(),
        ));
    }
    let path = request.uri().path();
    if OPEN_PATHS.contains(&path) || path.starts_with("/assets/") {
        return Ok(());
    }
    if !changes && (path == "/metrics" || path.starts_with("/api/")) {
        let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if shown.and_then(|shown| shown.strip_prefix("Bearer ")).is_some_and(|token| console.client.is_token(token)) {
            return Ok(());
        }
    }
    let visitor = guard.visitor(request.headers()).ok_or_else(Trouble::stranger)?;
    request.extensions_mut().insert(visitor);
    Ok(())
}

/// The secret of the link.
#[derive(Deserialize)]
pub(crate) struct Entry {
    #[serde(default)]
    secret: String,
}

/// Lets a browser in. The page goes on by itself: a cookie that is for this site alone would not be sent with a redirect that began
/// elsewhere.
pub(crate) async fn enter(State(console): State<Arc<Console>>, Query(entry): Query<Entry>) -> Response {
    match console.guard.enter(&entry.secret) {
        Ok(Some(cookie)) => {
            // Whoever comes in stands in the coordinator's log, or does not come in.
            if let Err(error) = console.client.entered().await {
                console.guard.forget(&cookie);
                return Trouble::from(error).into_response();
            }
            let age = SESSION_LIFE.as_secs();
            let name = &console.guard.cookie;
            let set = format!("{name}={cookie}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict");
            let page = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url=/\">\
                        <title>upswarm</title><link rel=\"icon\" href=\"/assets/icon.svg\"><p><a href=\"/\">To the console</a></p></html>";
            ([(header::SET_COOKIE, set)], Html(page)).into_response()
        }
        Ok(None) => Trouble::stranger().into_response(),
        Err(error) => Trouble::from(error).into_response(),
    }
}

/// The answer to whoever asks for the head of the entry: it lets nobody in.
pub(crate) async fn get_alone() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")]).into_response()
}

/// Ends the session.
pub(crate) async fn leave(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    headers: HeaderMap,
    form: Fields,
) -> Result<Response, Trouble> {
    form.must_be_of(&visitor)?;
    console.guard.end(&headers);
    Ok(Redirect::to("/").into_response())
}

/// A form's fields.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// The first value of a name, without spaces around it; nothing when it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let of = self.0.iter().find(|(key, value)| key == name && !value.trim().is_empty());
        of.map(|(_, value)| value.trim())
    }

    /// Every value of a name that is not empty.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        let of = self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.trim());
        of.filter(|value| !value.is_empty())
    }

    /// Refuses a form that no page of this session has made.
    pub(crate) fn must_be_of(&self, visitor: &Visitor) -> Result<(), Trouble> {
        let shown = self.get("token").unwrap_or_default();
        if blake3::hash(shown.as_bytes()) == blake3::hash(visitor.token.as_bytes()) {
            return Ok(());
        }
        let text = "This form is of an earlier session. Go back, load the page again, and repeat what you wanted.";
        Err(Trouble::new(StatusCode::FORBIDDEN, "An old form", text.to_owned()))
    }
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for Fields {
    type Rejection = Trouble;

    async fn from_request(request: Request<Body>, state: &S) -> Result<Self, Self::Rejection> {
        let form = axum::Form::<Vec<(String, String)>>::from_request(request, state).await;
        let axum::Form(pairs) =
            form.map_err(|rejection| Trouble::new(rejection.status(), "Not a form", rejection.body_text()))?;
        Ok(Self(pairs))
    }
}

fn random() -> anyhow::Result<String> {
    Ok(hex::encode(keys::random::<24>()?))
}
