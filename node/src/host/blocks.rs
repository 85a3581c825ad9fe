//! Bulk bytes: one long-lived stream per asker and peer, with pipelined requests.
//!
//! Requests have a fixed length; answers are a head and bytes, in whatever order they are ready. The asker reads straight into the
//! vector that it hands out, the server writes straight from the one that it was handed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{Stream, StreamProtocol};
use tokio::sync::{Semaphore, mpsc, oneshot};
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::node_state::FetchError;
use upswarm_protocol::wire::{BlockAnswer, BlockRequest, BlockStatus, BlockWhat};

use super::addresses::{device_id, peer_id};
use super::{HostEvent, Shared, lock};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/upswarm/block/1");
/// Requests of one peer that are read before their answers have left; more wait in the asker's buffers.
const OUTSTANDING: usize = 8;
/// Requests of this node to one peer that wait to be written.
const QUEUE: usize = 64;
/// Streams of one peer that are served; an asker has one, and another when that broke.
const MAX_STREAMS: usize = 4;
/// A stream on which an answer is due and no byte comes for this long is given up: more than a busy disk takes, less than a
/// person notices.
const SILENCE: Duration = Duration::from_secs(10);
const TRIES: u32 = 4;

/// Asks one peer for blocks.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    questions: mpsc::Sender<Question>,
}

#[derive(Debug)]
struct Question {
    what: BlockWhat,
    limit: usize,
    answer: oneshot::Sender<Result<Vec<u8>, FetchError>>,
}

struct Pending {
    limit: usize,
    answer: oneshot::Sender<Result<Vec<u8>, FetchError>>,
}

pub(super) async fn fetch(
    shared: &Arc<Shared>,
    peer: DeviceId,
    what: BlockWhat,
    limit: usize,
) -> Result<Vec<u8>, FetchError> {
    let gone = || FetchError::Unreachable("the peer is not connected".into());
    let (answer, answered) = oneshot::channel();
    let asker = {
        if !lock(&shared.peers).contains_key(&peer) {
            return Err(gone());
        }
        let mut askers = lock(&shared.askers);
        match askers.get(&peer).filter(|asker| !asker.questions.is_closed()) {
            Some(asker) => asker.clone(),
            None => {
                let (questions, asked) = mpsc::channel(QUEUE);
                let asker = Asker { questions };
                askers.insert(peer, asker.clone());
                tokio::spawn(ask(shared.clone(), peer, asked));
                asker
            }
        }
    };
    asker.questions.send(Question { what, limit, answer }).await.map_err(|_| gone())?;
    answered.await.unwrap_or_else(|_| Err(gone()))
}

/// Opens the stream and keeps it busy until it breaks; whoever waits then is told.
async fn ask(shared: Arc<Shared>, device: DeviceId, mut questions: mpsc::Receiver<Question>) {
    let mut pending: BTreeMap<u32, Pending> = BTreeMap::new();
    let outcome = match open(&shared, device).await {
        Ok(stream) => {
            tokio::select! {
                outcome = exchange(stream, &mut questions, &mut pending) => outcome,
                () = shared.stop.cancelled() => Ok(()),
            }
        }
        Err(error) => Err(error),
    };
    questions.close();
    let reason = outcome.err().map_or_else(|| "the stream was closed".to_owned(), |error| error.to_string());
    for waiting in pending.into_values() {
        let _ = waiting.answer.send(Err(FetchError::Unreachable(reason.clone())));
    }
    while let Ok(question) = questions.try_recv() {
        let _ = question.answer.send(Err(FetchError::Unreachable(reason.clone())));
    }
}

async fn open(shared: &Shared, device: DeviceId) -> io::Result<Stream> {
    let peer = peer_id(&device).ok_or_else(|| io::Error::other("not a device key"))?;
    let mut control = shared.control.clone();
    let mut attempt = 0;
    loop {
        // An inbound stream is dropped silently when its accepter is busy, so one failure says little.
        match control.open_stream(peer, PROTOCOL).await {
            Ok(stream) => return Ok(stream),
            Err(error) if attempt + 1 >= TRIES => return Err(io::Error::other(error.to_string())),
            Err(_) => tokio::time::sleep(Duration::from_millis(20 << attempt)).await,
        }
        attempt += 1;
        if !lock(&shared.peers).contains_key(&device) {
            return Err(io::Error::other("the peer is gone"));
        }
    }
}

async fn exchange(
    stream: Stream,
    questions: &mut mpsc::Receiver<Question>,
    pending: &mut BTreeMap<u32, Pending>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = Reader { reader };
    let mut next = 0u32;
    let mut head = HeadBuffer::default();
    loop {
        tokio::select! {
            question = questions.recv() => {
                let Some(Question { what, limit, answer }) = question else { return Ok(()) };
                next = next.wrapping_add(1);
                pending.insert(next, Pending { limit, answer });
                writer.write_all(&BlockRequest { request: next, what }.to_bytes()).await?;
                writer.flush().await?;
            }
            // Reading a head can be left off between any two bytes; an answer's bytes are read to their end.
            answer = head.fill(&mut reader, !pending.is_empty()) => {
                let answer = answer?;
                let waiting = pending
                    .remove(&answer.request)
                    .ok_or_else(|| io::Error::other("an answer that nobody waits for"))?;
                let outcome = body(&mut reader, answer, waiting.limit).await?;
                let wrong = matches!(outcome, Err(FetchError::Wrong(_)));
                let _ = waiting.answer.send(outcome);
                if wrong {
                    return Err(io::Error::other("an answer longer than what was asked for"));
                }
            }
        }
    }
}

async fn body<R: futures::AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    answer: BlockAnswer,
    limit: usize,
) -> io::Result<Result<Vec<u8>, FetchError>> {
    let len = answer.len as usize;
    if answer.status != BlockStatus::Ok {
        return Ok(Err(FetchError::Status(answer.status)));
    }
    if len > limit {
        return Ok(Err(FetchError::Wrong(format!("an answer of {len} bytes to a question for {limit}"))));
    }
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        filled += reader.some(&mut bytes[filled..], true).await?;
    }
    Ok(Ok(bytes))
}

struct Reader<R> {
    reader: R,
}

impl<R: futures::AsyncRead + Unpin> Reader<R> {
    /// At least one byte; with `due`, within [`SILENCE`].
    async fn some(&mut self, into: &mut [u8], due: bool) -> io::Result<usize> {
        let read = self.reader.read(into);
        let got = if due {
            tokio::time::timeout(SILENCE, read).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
        } else {
            read.await?
        };
        if got == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(got) }
    }
}

/// The head of an answer as far as it has come.
#[derive(Default)]
struct HeadBuffer {
    bytes: [u8; BlockAnswer::LEN],
    filled: usize,
}

impl HeadBuffer {
    async fn fill<R: futures::AsyncRead + Unpin>(
        &mut self,
        reader: &mut Reader<R>,
        due: bool,
    ) -> io::Result<BlockAnswer> {
        while self.filled < BlockAnswer::LEN {
            self.filled += reader.some(&mut self.bytes[self.filled..], due).await?;
        }
        self.filled = 0;
        BlockAnswer::parse(&self.bytes).ok_or_else(|| io::Error::other("an answer with an unknown status"))
    }
}

/// Requests of peers that wait for the driver's answer.
#[derive(Debug, Default)]
pub(super) struct Serves {
    next: u64,
    waiting: BTreeMap<u64, (u32, mpsc::Sender<Answer>)>,
    streams: BTreeMap<DeviceId, usize>,
    dialled: BTreeMap<DeviceId, Text<512>>,
}

#[derive(Debug)]
struct Answer {
    serve: u64,
    request: u32,
    answer: Result<Vec<u8>, BlockStatus>,
}

impl Serves {
    pub(super) fn answer(&mut self, serve: u64, answer: Result<Vec<u8>, BlockStatus>) {
        if let Some((request, stream)) = self.waiting.remove(&serve) {
            // There is room for every request that was read, so this fails only when the asker is gone.
            let _ = stream.try_send(Answer { serve, request, answer });
        }
    }

    /// Remembers by which address a peer was reached whose control stream the other side opens.
    pub(super) fn dialled(&mut self, device: DeviceId, address: Text<512>) {
        if self.dialled.len() < 1024 {
            self.dialled.insert(device, address);
        }
    }

    pub(super) fn take_dialled(&mut self, device: &DeviceId) -> Option<Text<512>> {
        self.dialled.remove(device)
    }
}

/// Serves the streams of peers.
pub(super) fn accept(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let mut incoming = shared.control.clone().accept(PROTOCOL)?;
    let shared = shared.clone();
    tokio::spawn(async move {
        while let Some((peer, stream)) = incoming.next().await {
            let Some(device) = device_id(&peer) else { continue };
            let mut serves = lock(&shared.serves);
            let streams = serves.streams.entry(device).or_default();
            if *streams < MAX_STREAMS {
                *streams += 1;
                tokio::spawn(serve(shared.clone(), device, stream));
            }
        }
    });
    Ok(())
}

async fn serve(shared: Arc<Shared>, device: DeviceId, stream: Stream) {
    let (reader, writer) = stream.split();
    let (answers, queue) = mpsc::channel(OUTSTANDING);
    let room = Arc::new(Semaphore::new(OUTSTANDING));
    let cause = tokio::select! {
        result = questions(&shared, device, reader, answers, room.clone()) => result,
        result = reply(&shared, writer, queue, &room) => result,
        () = shared.stop.cancelled() => Ok(()),
    };
    if let Err(error) = cause {
        tracing::trace!(peer = %device.short(), "block stream ended: {error}");
    }
    let abandoned: Vec<u64> = {
        let mut serves = lock(&shared.serves);
        if let Some(streams) = serves.streams.get_mut(&device) {
            *streams -= 1;
            if *streams == 0 {
                serves.streams.remove(&device);
            }
        }
        serves.waiting.extract_if(.., |_, (_, stream)| stream.is_closed()).map(|(serve, _)| serve).collect()
    };
    for serve in abandoned {
        let _ = shared.events.send(HostEvent::Served { serve, bytes: 0 }).await;
    }
}

async fn questions(
    shared: &Shared,
    peer: DeviceId,
    mut reader: impl futures::AsyncRead + Unpin,
    answers: mpsc::Sender<Answer>,
    room: Arc<Semaphore>,
) -> io::Result<()> {
    let mut bytes = [0; BlockRequest::LEN];
    loop {
        reader.read_exact(&mut bytes).await?;
        let BlockRequest { request, what } =
            BlockRequest::parse(&bytes).ok_or_else(|| io::Error::other("a request of an unknown kind"))?;
        // Given back when the answer has left.
        let Ok(permit) = room.acquire().await else { return Ok(()) };
        permit.forget();
        let serve = {
            let mut serves = lock(&shared.serves);
            serves.next += 1;
            let serve = serves.next;
            serves.waiting.insert(serve, (request, answers.clone()));
            serve
        };
        if shared.events.send(HostEvent::BlockRequested { peer, serve, what }).await.is_err() {
            return Ok(());
        }
    }
}

async fn reply(
    shared: &Shared,
    mut writer: impl futures::AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Answer>,
    room: &Semaphore,
) -> io::Result<()> {
    while let Some(Answer { serve, request, answer }) = queue.recv().await {
        let (status, bytes) = match answer {
            Ok(bytes) => (BlockStatus::Ok, bytes),
            Err(status) => (status, Vec::new()),
        };
        let head = BlockAnswer { request, status, len: bytes.len() as u32 };
        let sent = async {
            writer.write_all(&head.to_bytes()).await?;
            writer.write_all(&bytes).await?;
            if queue.is_empty() { writer.flush().await } else { Ok(()) }
        };
        let sent = sent.await;
        room.add_permits(1);
        let _ = shared.events.send(HostEvent::Served { serve, bytes: bytes.len() as u64 }).await;
        sent?;
    }
    Ok(())
}
