//! The way to the coordinator where a firewall lets nothing but HTTP out: control frames in posts, news by long polling.
//!
//! Owns one session at a time, from the first answer to the first failure, and tells of both as of a connection. It believes
//! nothing that comes back: every frame is checked by the state machine as if libp2p had brought it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use ed25519_dalek::SigningKey;
use reqwest::{Client, StatusCode};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::frame_batch::{Answered, MAX_WAIT, Posted, take};
use upswarm_protocol::ids::DocHash;
use upswarm_protocol::node::FetchError;
use upswarm_protocol::trust::Trust;
use upswarm_protocol::wire::Message;

use super::origin::OriginClient;
use crate::clock::{self, BUILD_TIME};
use crate::encrypt;
use crate::limiter::Limiter;
use crate::web::{Web, dialled};

/// Frames that wait to be posted; the state machine sends few and small ones.
const MAX_WAITING: usize = 1024;
/// An answer that does not wait for news has come by then.
const PATIENCE: Duration = Duration::from_secs(20);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// What a session tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The coordinator answers at this base URL.
    Up(String),
    /// A control frame.
    Frame(Vec<u8>),
    /// The session is over, or none could be begun, and why.
    Down(String),
}

/// Who speaks, to whom.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    /// The device's key.
    pub(crate) key: SigningKey,
    /// The coordinator's X25519 key, from the verified root.
    pub(crate) report_key: [u8; 32],
    /// Grows from session to session of a device: milliseconds of its wall clock.
    pub(crate) session: u64,
}

/// A session, or the attempt to begin one. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct HttpUplink {
    frames: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Drop for HttpUplink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HttpUplink {
    /// Tries `bases` in order and keeps to the first that answers; what happens goes to `events`. After [`Event::Down`] it is over.
    pub(crate) fn start(web: Web, bases: Vec<String>, party: Party, events: mpsc::Sender<Event>) -> Self {
        let (frames, waiting) = mpsc::channel(MAX_WAITING);
        let task = tokio::spawn(async move {
            let Err(error) = run(&web, &bases, party, waiting, &events).await;
            // Nobody listens when the program ends.
            let _ = events.send(Event::Down(format!("{error:#}"))).await;
        });
        Self { frames, task }
    }

    /// Posts a frame soon. One that finds the queue full is dropped, as by a connection that is breaking.
    pub(crate) fn send(&self, frame: Vec<u8>) {
        if self.frames.try_send(frame).is_err() {
            tracing::debug!("a control frame for the coordinator was dropped: too many wait");
        }
    }
}

/// Where batches are posted to.
struct Door {
    client: Client,
    url: String,
    party: Party,
    number: AtomicU64,
}

impl Door {
    fn new(web: &Web, base: &str, party: Party) -> anyhow::Result<Self> {
        let builder = if base.starts_with("https://") { web.secure() } else { web.plain() };
        let client = builder.connect_timeout(CONNECT_WITHIN).redirect(reqwest::redirect::Policy::none()).build()?;
        let url = dialled(&format!("{}/frames", base.trim_end_matches('/'))).into_owned();
        Ok(Self { client, url, party, number: AtomicU64::new(0) })
    }

    /// Posts what waits in `queue`, as far as it fits, and returns the frames that came back, at the latest after `wait` seconds.
    async fn post(&self, queue: &mut VecDeque<Vec<u8>>, wait: u16) -> anyhow::Result<Vec<Vec<u8>>> {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let posted = Posted { session: self.party.session, number, wait, frames: take(queue) };
        let body = encrypt::encrypt(&self.party.report_key, &posted.sign(&self.party.key)?);
        let patience = PATIENCE + Duration::from_secs(u64::from(wait));
        let send = || self.client.post(&self.url).body(body.clone()).timeout(patience).send();
        let sent = match send().await {
            // A proxy may close a connection at the moment in which it is used again. What comes twice counts once: it has a number.
            Err(error) if error.is_request() && !error.is_timeout() && !error.is_connect() => send().await,
            sent => sent,
        };
        let mut answer = sent.with_context(|| format!("no answer from {}", self.url))?;
        if answer.status() != StatusCode::OK {
            bail!("{} answers with status {}", self.url, answer.status());
        }
        let mut bytes = Vec::new();
        while let Some(part) = answer.chunk().await.with_context(|| format!("{} breaks off", self.url))? {
            bytes.extend_from_slice(&part);
            if bytes.len() > Answered::LIMIT {
                bail!("{} answers with more than it may", self.url);
            }
        }
        let answered = Answered::decode(&bytes).with_context(|| format!("{} is no coordinator", self.url))?;
        Ok(answered.frames.into_vec().into_iter().map(|frame| frame.into_vec()).collect())
    }
}

async fn run(
    web: &Web,
    bases: &[String],
    party: Party,
    mut waiting: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<std::convert::Infallible> {
    let (door, base, first) = knock(web, bases, party).await?;
    let door = Arc::new(door);
    events.send(Event::Up(base)).await?;
    pass_on(first, events).await?;
    let poll = async {
        loop {
            let frames = door.post(&mut VecDeque::new(), MAX_WAIT).await?;
            pass_on(frames, events).await?;
        }
    };
    let send = async {
        let mut queue = VecDeque::new();
        loop {
            if queue.is_empty() {
                queue.push_back(waiting.recv().await.context("the node is ending")?);
            }
            while let Ok(frame) = waiting.try_recv() {
                queue.push_back(frame);
            }
            let frames = door.post(&mut queue, 0).await?;
            pass_on(frames, events).await?;
        }
    };
    tokio::select! {
        ended = poll => ended,
        ended = send => ended,
    }
}

/// The first base URL at which a coordinator answers.
async fn knock(web: &Web, bases: &[String], party: Party) -> anyhow::Result<(Door, String, Vec<Vec<u8>>)> {
    let mut reasons = Vec::new();
    for base in bases {
        let outcome = async {
            let door = Door::new(web, base, party.clone())?;
            let frames = door.post(&mut VecDeque::new(), 0).await?;
            Ok::<_, anyhow::Error>((door, frames))
        };
        match outcome.await {
            Ok((door, frames)) => return Ok((door, base.clone(), frames)),
            Err(error) => {
                let via = web.proxy_of(base).map_or_else(String::new, |proxy| format!(" (through the proxy {proxy})"));
                reasons.push(format!("{error:#}{via}"));
            }
        }
    }
    bail!("{}", if reasons.is_empty() { "no URL of the coordinator is known".to_owned() } else { reasons.join("; ") })
}

async fn pass_on(frames: Vec<Vec<u8>>, events: &mpsc::Sender<Event>) -> anyhow::Result<()> {
    for frame in frames {
        events.send(Event::Frame(frame)).await?;
    }
    Ok(())
}

/// What an enrolment brought: the envelopes of the root whose hash is right and of those after it, the certificate, the assignment to a group, and base URLs of
/// origins.
pub(crate) type Enrolment = (Vec<Vec<u8>>, Vec<u8>, Vec<u8>, Vec<String>);

/// Roots after the one that a token names.
const MAX_LATER_ROOTS: usize = 256;

/// The version that a root claims, of whose bytes nothing was verified; 0 if it claims none.
pub(crate) fn root_version(root: &[u8]) -> u64 {
    let body = Envelope::parse(root, Kind::Root, Role::Root).map(|envelope| envelope.unverified_body());
    body.ok().and_then(|body| body.first_chunk().copied()).map_or(0, u64::from_le_bytes)
}

/// Spends a join token's secret by HTTP. `enrol` is the message that libp2p would have carried; it is encrypted to the key that the
/// root of hash `root` names, so whoever answers in the coordinator's place learns no secret. Errors name every URL tried.
pub(crate) async fn enrol(
    web: &Web,
    bases: &[String],
    root: DocHash,
    key: &SigningKey,
    enrol: &Message,
) -> anyhow::Result<Enrolment> {
    let origin = OriginClient::new(web.clone(), Limiter::unlimited())?;
    let urls: Vec<String> = bases.iter().map(|base| format!("{}/doc/{root}", base.trim_end_matches('/'))).collect();
    let fetched = origin.fetch_document(&urls, Kind::Root.cap()).await;
    let bytes = fetched.map_err(|error| match error {
        FetchError::Unreachable(why) | FetchError::Wrong(why) => anyhow!("{why}"),
        other => anyhow!("{other:?}"),
    })?;
    let trust = Trust::pin(bytes.clone(), root, BUILD_TIME).context("the root that is served is not the token's")?;
    let party = Party { key: key.clone(), report_key: trust.root().report_key, session: clock::wall().0 };
    let (door, _, first) = knock(web, bases, party).await?;
    let mut queue = VecDeque::from([enrol.encode().context("cannot encode the enrolment")?]);
    let mut frames = VecDeque::from(first);
    // The coordinator answers at once, or after its disk has: a few rounds are enough.
    for _ in 0..8 {
        while let Some(frame) = frames.pop_front() {
            match Message::decode(&frame) {
                Ok(Message::Enrolled { certificate, assignment, origins, .. }) => {
                    let origins = origins.iter().map(|origin| origin.to_string()).collect();
                    let mut roots = vec![bytes];
                    for version in (root_version(&roots[0]) + 1..).take(MAX_LATER_ROOTS) {
                        let urls: Vec<String> =
                            bases.iter().map(|base| format!("{}/root/{version}", base.trim_end_matches('/'))).collect();
                        let Ok(later) = origin.fetch_document(&urls, Kind::Root.cap()).await else { break };
                        roots.push(later);
                    }
                    return Ok((roots, certificate.into_vec(), assignment.into_vec(), origins));
                }
                Ok(Message::Refused { reason }) => bail!("the coordinator refuses: {reason}"),
                _ => {}
            }
        }
        frames.extend(door.post(&mut queue, 5).await?);
    }
    bail!("the coordinator gives no certificate")
}
