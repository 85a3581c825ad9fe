//! The block stream: fixed requests one way, answers with bulk bytes the other way, many under way at once.
//!
//! Each side that asks opens one and keeps it. Answers come in whatever order they are ready, matched by request number.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::swarm::ConnectionId;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use upswarm_protocol::node::FetchError;
use upswarm_protocol::wire::{BlockAnswer, BlockRequest, BlockStatus, BlockWhat};

use super::events::{Answer, StreamEvent};
use super::streams::Held;

/// A stream with work to do on which no byte moves for this long is given up. On a LAN a second is an age; ten forgive a
/// disk that spins up and a peer that is rate-limited among many.
pub(super) const STALL: Duration = Duration::from_secs(10);
/// Requests of one peer that are read before one of them is answered.
pub(super) const MAX_SERVING: usize = 8;
/// Requests that may wait on the stream for their answers: enough that the peer always has the next one.
const MAX_ASKED: usize = 2 * MAX_SERVING;
/// Bytes that are read from a stream at a time: what one of its frames holds.
const SCRATCH: usize = super::mux::FRAME;
/// Requests that wait for the stream to open, or for their turn on it.
pub(super) const MAX_JOBS: usize = 64;

/// One question.
pub(super) struct Job {
    pub(super) what: BlockWhat,
    /// The longest answer to accept, in bytes.
    pub(super) limit: usize,
    pub(super) reply: oneshot::Sender<Result<Vec<u8>, FetchError>>,
}

impl Job {
    /// Ends it without an answer.
    pub(super) fn fail(self, reason: &str) {
        // The asker may have given up.
        let _ = self.reply.send(Err(FetchError::Unreachable(reason.into())));
    }
}

/// Asks on an opened stream, until it breaks or the sender of jobs is dropped.
pub(super) async fn ask(held: Held, mut jobs: mpsc::Receiver<Job>) {
    let (read, write) = held.stream.split();
    let asker = Asker { asked: Mutex::default(), room: Semaphore::new(MAX_ASKED), progress: Progress::default() };
    let reason = tokio::select! {
        reason = asker.read_answers(read) => reason,
        reason = asker.write_requests(write, &mut jobs) => reason,
        () = asker.progress.stalled() => format!("no byte for {} s", STALL.as_secs()),
    };
    tracing::debug!("a block stream ended: {reason}");
    for (_, job) in std::mem::take(&mut *asker.asked()) {
        job.fail(&reason);
    }
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        job.fail(&reason);
    }
}

/// Answers on an accepted stream, until it breaks. `stream` names it towards the host's task.
pub(super) async fn serve(held: Held, connection: ConnectionId, stream: u64, out: mpsc::Sender<StreamEvent>) {
    let (read, write) = held.stream.split();
    let (answers, mut answers_rx) = mpsc::channel(MAX_SERVING);
    let room = Semaphore::new(MAX_SERVING);
    let progress = Progress::default();
    let reason = tokio::select! {
        reason = read_requests(read, connection, stream, answers, &room, &out) => reason,
        reason = write_answers(write, &mut answers_rx, &room, &progress, &out) => reason,
        () = progress.stalled() => format!("no byte taken for {} s", STALL.as_secs()),
    };
    tracing::debug!("a served block stream ended: {reason}");
    // What the host's task has answered and nobody wrote is over too; what it has not answered, it knows itself.
    answers_rx.close();
    if let Some(serve) = progress.take_current() {
        let _ = out.send(StreamEvent::Served { serve, bytes: 0 }).await;
    }
    while let Ok(answer) = answers_rx.try_recv() {
        if answer.answer.is_ok() {
            let _ = out.send(StreamEvent::Served { serve: answer.serve, bytes: 0 }).await;
        }
    }
    let _ = out.send(StreamEvent::ServeEnded { stream }).await;
}

struct Asker {
    asked: Mutex<BTreeMap<u32, Job>>,
    room: Semaphore,
    progress: Progress,
}

impl Asker {
    fn asked(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Job>> {
        // Only one task holds it, and never across an await: it cannot be poisoned halfway.
        self.asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn write_requests(&self, mut stream: impl AsyncWrite + Unpin, jobs: &mut mpsc::Receiver<Job>) -> String {
        let mut number = 0u32;
        while let Some(job) = jobs.recv().await {
            match self.room.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => return "closed".into(),
            }
            if job.reply.is_closed() {
                self.room.add_permits(1);
                continue;
            }
            number = number.wrapping_add(1);
            let request = BlockRequest { request: number, what: job.what }.to_bytes();
            self.asked().insert(number, job);
            self.progress.begin();
            let written = async {
                stream.write_all(&request).await?;
                stream.flush().await
            };
            if let Err(error) = written.await {
                return format!("asking: {error}");
            }
        }
        "closed by this side".into()
    }

    async fn read_answers(&self, mut stream: impl AsyncRead + Unpin) -> String {
        // Bytes take this way because a block would have to be filled with zeros before it could be read into; that costs
        // more, because a block does not stay in the processor's cache.
        let mut scratch = vec![0; SCRATCH];
        loop {
            match self.read_answer(&mut stream, &mut scratch).await {
                Ok(()) => {}
                Err(error) => return format!("waiting for an answer: {error}"),
            }
        }
    }

    async fn read_answer(&self, stream: &mut (impl AsyncRead + Unpin), scratch: &mut [u8]) -> io::Result<()> {
        let broken = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let mut head = [0; BlockAnswer::LEN];
        stream.read_exact(&mut head).await?;
        self.progress.touch();
        let head = BlockAnswer::parse(&head).ok_or_else(|| broken("an unknown status".into()))?;
        let limit = self.asked().get(&head.request).map(|job| job.limit);
        let limit = limit.ok_or_else(|| broken("an answer to nothing that was asked".into()))?;
        let len = head.len as usize;
        let allowed = if head.status == BlockStatus::Ok { limit } else { 0 };
        if len > allowed {
            let text = format!("an answer of {len} bytes, more than the {allowed} that were expected");
            self.finish(head.request, Err(FetchError::Wrong(text.clone())));
            // The rest of the stream is that answer: nothing after it can be found.
            return Err(broken(text));
        }
        if head.status != BlockStatus::Ok {
            self.finish(head.request, Err(FetchError::Status(head.status)));
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let want = scratch.len().min(len - bytes.len());
            match stream.read(&mut scratch[..want]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => bytes.extend_from_slice(&scratch[..read]),
            }
            self.progress.touch();
        }
        self.finish(head.request, Ok(bytes));
        Ok(())
    }

    fn finish(&self, request: u32, result: Result<Vec<u8>, FetchError>) {
        if let Some(job) = self.asked().remove(&request) {
            let _ = job.reply.send(result); // The asker may have given up.
            self.progress.end();
            self.room.add_permits(1);
        }
    }
}

async fn read_requests(
    mut stream: impl AsyncRead + Unpin,
    connection: ConnectionId,
    name: u64,
    answers: mpsc::Sender<Answer>,
    room: &Semaphore,
    out: &mpsc::Sender<StreamEvent>,
) -> String {
    loop {
        match room.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return "closed".into(),
        }
        let mut bytes = [0; BlockRequest::LEN];
        if let Err(error) = stream.read_exact(&mut bytes).await {
            return error.to_string();
        }
        // A request that this version does not know would be of a later protocol: nothing after it can be trusted.
        let Some(BlockRequest { request, what }) = BlockRequest::parse(&bytes) else {
            return "an unknown request".into();
        };
        let asked = StreamEvent::Asked { connection, stream: name, request, what, answers: answers.clone() };
        if out.send(asked).await.is_err() {
            return "stopping".into();
        }
    }
}

async fn write_answers(
    mut stream: impl AsyncWrite + Unpin,
    answers: &mut mpsc::Receiver<Answer>,
    room: &Semaphore,
    progress: &Progress,
    out: &mpsc::Sender<StreamEvent>,
) -> String {
    while let Some(Answer { serve, request, answer }) = answers.recv().await {
        let (status, bytes) = match &answer {
            Ok(bytes) => (BlockStatus::Ok, &bytes[..]),
            Err(status) => (*status, &[][..]),
        };
        let head = BlockAnswer { request, status, len: bytes.len() as u32 }.to_bytes();
        progress.begin();
        if status == BlockStatus::Ok {
            progress.set_current(serve);
        }
        let written = async {
            stream.write_all(&head).await?;
            let mut rest = bytes;
            while !rest.is_empty() {
                match stream.write(rest).await? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => rest = &rest[written..],
                }
                progress.touch();
            }
            stream.flush().await
        };
        if let Err(error) = written.await {
            return format!("answering: {error}");
        }
        progress.end();
        room.add_permits(1);
        if status == BlockStatus::Ok {
            if out.send(StreamEvent::Served { serve, bytes: bytes.len() as u64 }).await.is_err() {
                return "stopping".into();
            }
            // Only now: were this future dropped while it waits to tell, the answer would still be told as over.
            progress.take_current();
        }
    }
    "closed by this side".into()
}

/// When a byte last moved on a stream, and how much work waits for one. A clock reading per read is cheaper than a timer.
struct Progress {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
    waiting: AtomicUsize,
    began: Notify,
    /// The answer being written, plus one; 0 for none.
    current: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            began: Notify::new(),
            current: AtomicU64::new(0),
        }
    }
}

impl Progress {
    fn begin(&self) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.touch();
            self.began.notify_one();
        }
    }

    fn end(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    fn touch(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn set_current(&self, serve: u64) {
        self.current.store(serve + 1, Ordering::Relaxed);
    }

    fn take_current(&self) -> Option<u64> {
        self.current.swap(0, Ordering::Relaxed).checked_sub(1)
    }

    /// Ends when work has waited for [`STALL`] without a byte.
    async fn stalled(&self) {
        loop {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                self.began.notified().await;
                continue;
            }
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let still = self.start.elapsed().saturating_sub(last);
            match STALL.checked_sub(still) {
                None | Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
            }
        }
    }
}
