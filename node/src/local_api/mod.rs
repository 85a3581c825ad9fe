//! How programs on this machine ask a running node: a line of JSON each way, over a socket in its data directory.
//!
//! A request is `{"do":"status"}`, `{"do":"rescan"}`, `{"do":"explain","subject":"org.example.tool"}`,
//! `{"do":"retry","release":"org.example.tool@2"}` or `{"do":"defer","release":"org.example.tool@2","seconds":3600}`; the answer `{"ok":...}` or `{"error":"..."}`. A connection
//! may ask again and again. Only who may open the socket may ask: it belongs to the node's user, with mode 0600.
//! Connections, bytes and waiting are bounded, and the node's loop is never made to wait.

mod client;
mod endpoint;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};
use upswarm_protocol::node::{Input, NodeState, Section, Subject};
use upswarm_protocol::time::Now;

pub(crate) use client::Client;

use crate::config::NodeDir;
use crate::sys::{LocalListener, LocalStream};

/// Connections at one time; the next is told so and closed.
const MAX_CONNECTIONS: usize = 8;
/// Bytes of a request, its line feed included.
const MAX_REQUEST: usize = 4 << 10;
/// A connection on which nothing is asked for this long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// The asker must take the answer within this.
const TAKE_WITHIN: Duration = Duration::from_secs(5);

/// What can be asked of a running node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Request {
    /// [`NodeState::status`], with the wall clock as `at`.
    Status {},
    /// Sections of sentences about a release or peer, or about everything.
    Explain {
        /// As [`NodeState::find`] takes it.
        subject: Option<String>,
    },
    /// The machine is looked at without delay.
    Rescan {},
    /// Another try of what failed or waits.
    Retry {
        /// As [`NodeState::find`] takes it.
        release: String,
    },
    /// The person at the machine puts an install off.
    Defer {
        /// As [`NodeState::find`] takes it.
        release: String,
        /// From now on.
        seconds: u32,
    },
}

/// What the driver itself has to say.
#[derive(Debug)]
pub(crate) struct Outside<'a> {
    /// Why things are as they are.
    pub(crate) section: Option<Section>,
    /// The directory that stands in for `/`.
    pub(crate) install_root: Option<&'a Path>,
}

/// A request that waits for the node's answer.
#[derive(Debug)]
pub(crate) struct Asked {
    request: Request,
    reply: oneshot::Sender<Value>,
}

impl Asked {
    /// Whether the machine is to be looked at.
    pub(crate) fn wants_rescan(&self) -> bool {
        self.request == Request::Rescan {}
    }

    /// Answers. Returns what the node must be told in consequence.
    pub(crate) fn answer(self, state: &NodeState, outside: Outside<'_>, now: Now) -> Option<Input> {
        let (answer, input) = match &self.request {
            Request::Status {} => (status(state, &outside, now), None),
            Request::Rescan {} => (Ok(json!({ "rescan": "begins" })), None),
            Request::Explain { subject: None } => {
                let sections: Vec<_> = state.explain_all(now).into_iter().chain(outside.section).collect();
                (Ok(json!({ "sections": sections })), None)
            }
            Request::Explain { subject: Some(word) } => {
                let told = one(state, word)
                    .map(|subject| json!({ "subject": subject, "sections": [state.explain_subject(&subject, now)] }));
                (told, None)
            }
            Request::Retry { release } => match retry(state, release) {
                Ok((answer, input)) => (Ok(answer), Some(input)),
                Err(error) => (Err(error), None),
            },
            Request::Defer { release, seconds } => match defer(state, release, *seconds, now) {
                Ok((answer, input)) => (Ok(answer), Some(input)),
                Err(error) => (Err(error), None),
            },
        };
        let answer = answer.map_or_else(|error| json!({ "error": error }), |value| json!({ "ok": value }));
        // Whoever asked may be gone.
        let _ = self.reply.send(answer);
        input
    }
}

fn status(state: &NodeState, outside: &Outside<'_>, now: Now) -> Result<Value, String> {
    let mut status = serde_json::to_value(state.status(now.mono)).map_err(|error| error.to_string())?;
    status["at"] = json!(now.wall);
    status["wan_share"] = json!(state.wan_share(now));
    status["install_root"] = json!(outside.install_root);
    Ok(status)
}

fn defer(state: &NodeState, word: &str, seconds: u32, now: Now) -> Result<(Value, Input), String> {
    let Subject::Release(release) = one(state, word)? else { return Err(format!("{word} is a peer, not a release")) };
    let granted =
        state.would_defer(&release, seconds, now).map_err(|error| format!("{word} is not put off: {error}"))?;
    let answer = json!({
        "release": release, "name": state.release_name(&release), "until": granted.until,
        "until_local": state.local(granted.until), "times_left": granted.times_left, "seconds_left": granted.seconds_left,
    });
    Ok((answer, Input::Defer { release, by_s: seconds }))
}

fn retry(state: &NodeState, word: &str) -> Result<(Value, Input), String> {
    let Subject::Release(release) = one(state, word)? else { return Err(format!("{word} is a peer, not a release")) };
    state.would_retry(&release).map_err(|error| format!("{word} is not tried again: {error}"))?;
    let answer = json!({ "release": release, "name": state.release_name(&release) });
    Ok((answer, Input::Retry { release }))
}

/// The one thing that a word means.
fn one(state: &NodeState, word: &str) -> Result<Subject, String> {
    let found = state.find(word);
    match found.as_slice() {
        [subject] => Ok(*subject),
        [] => {
            let releases = state.trust().catalog().releases();
            let known: Vec<_> =
                releases.values().take(8).map(|r| format!("{}@{}", r.release.product, r.release.version)).collect();
            let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
            Err(format!(
                "nothing here is called {word:?}; give a product, product@version, a device's name, or the first digits of an \
                 id. Releases known here: {known}"
            ))
        }
        several => {
            let names: Vec<_> = several.iter().map(|subject| state.name_of(subject)).collect();
            Err(format!("{word:?} may be any of: {}; say which", names.join(", ")))
        }
    }
}

/// The node's side of the socket; ends when dropped.
#[derive(Debug)]
pub(crate) struct Local {
    asked: mpsc::Receiver<Asked>,
    /// Without a socket nobody ever asks, and the node goes on.
    _keep: mpsc::Sender<Asked>,
    task: Option<JoinHandle<()>>,
    dir: NodeDir,
}

impl Local {
    /// Listens in a data directory that this process alone uses (the journal's lock says so): what is left of a dead run is
    /// replaced. A node whose socket cannot be made runs all the same, and says so in its log.
    pub(crate) fn start(dir: &NodeDir) -> Self {
        let (send, asked) = mpsc::channel(MAX_CONNECTIONS);
        let task = match endpoint::listen(dir) {
            Ok(listener) => Some(tokio::spawn(serve(listener, send.clone()))),
            Err(error) => {
                warn!("upswarm explain, top and node status will not reach this node: {error:#}");
                None
            }
        };
        Self { asked, _keep: send, task, dir: dir.clone() }
    }

    /// The next request. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            endpoint::remove(&self.dir);
        }
    }
}

async fn serve(mut listener: LocalListener, asked: mpsc::Sender<Asked>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match endpoint::accept(&mut listener).await {
            Ok(stream) => stream,
            Err(error) => {
                debug!("a local program was not heard: {error}");
                // Out of descriptors, most likely: give them time to come back.
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let asked = asked.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &asked).await {
                        debug!("a local program was left: {error:#}");
                    }
                    drop(place);
                });
            }
            Err(_) => refuse(stream),
        }
    }
}

/// Says that there are too many, to a buffer that is empty: without waiting.
fn refuse(mut stream: LocalStream) {
    tokio::spawn(async move {
        let text = format!("{MAX_CONNECTIONS} programs are asking this node already; end one of them");
        let _ = timeout(Duration::from_millis(500), write(&mut stream, &json!({ "error": text }))).await;
    });
}

async fn converse(stream: LocalStream, asked: &mpsc::Sender<Asked>) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::with_capacity(256);
    loop {
        line.clear();
        let mut limited = (&mut stream).take(MAX_REQUEST as u64);
        let Ok(read) = timeout(IDLE, limited.read_until(b'\n', &mut line)).await else { return Ok(()) };
        if read? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            let error = json!({ "error": format!("a request is one line of at most {MAX_REQUEST} bytes") });
            return Ok(timeout(TAKE_WITHIN, write(stream.get_mut(), &error)).await??);
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                asked.send(Asked { request, reply }).await?;
                answer.await?
            }
            Err(error) => json!({ "error": format!("not a request that this version knows: {error}") }),
        };
        timeout(TAKE_WITHIN, write(stream.get_mut(), &answer)).await??;
    }
}

async fn write(stream: &mut LocalStream, answer: &Value) -> std::io::Result<()> {
    let mut line = answer.to_string().into_bytes();
    line.push(b'\n');
    stream.write_all(&line).await
}
