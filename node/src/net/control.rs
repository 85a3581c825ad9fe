//! The control stream: frames of `length u32 LE | bytes`, in order, both ways.
//!
//! The dialler opens it; the acceptor's first byte says whether this is the one that the two machines will use
//! ([`GO`]) or not ([`NO`]). So both sides agree on one stream before the first frame, and none is lost when both dial at
//! once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::swarm::ConnectionId;
use tokio::sync::mpsc;
use upswarm_protocol::wire::MAX_FRAME;

use super::events::StreamEvent;
use super::streams::Held;

const GO: u8 = 1;
const NO: u8 = 0;
/// Time for the acceptor's first byte. Its host may be busy, its disk is not involved.
const ANSWER: Duration = Duration::from_secs(10);
/// Time for the peer to read the last frames after this side is done. It closes when it has read them.
const LINGER: Duration = Duration::from_secs(2);
/// Frames that wait for a slow peer.
const MAX_QUEUED: usize = 256;
/// Bytes that wait for a slow peer.
const MAX_QUEUED_BYTES: usize = 4 << 20;

/// Who opened the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Dialler,
    Acceptor,
}

/// Frames on their way to one peer. When it is dropped, the stream closes after what is queued.
pub(super) struct Outgoing {
    frames: mpsc::Sender<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

/// The stream's end of [`Outgoing`].
pub(super) struct Queue {
    frames: mpsc::Receiver<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
}

/// An empty queue.
pub(super) fn queue() -> (Outgoing, Queue) {
    let (tx, rx) = mpsc::channel(MAX_QUEUED);
    let bytes = Arc::new(AtomicUsize::new(0));
    (Outgoing { frames: tx, bytes: bytes.clone() }, Queue { frames: rx, bytes })
}

impl Outgoing {
    /// Queues a frame; false when the peer has let too much pile up.
    pub(super) fn push(&self, frame: Vec<u8>) -> bool {
        let len = frame.len();
        if self.bytes.fetch_add(len, Ordering::Relaxed) + len > MAX_QUEUED_BYTES {
            return false;
        }
        // A closed queue is a stream that has just ended, of which the task will hear.
        !matches!(self.frames.try_send(frame), Err(mpsc::error::TrySendError::Full(_)))
    }
}

/// Runs one control stream to its end: tells [`StreamEvent::ControlUp`] (dialler), each frame, and [`StreamEvent::ControlEnded`].
pub(super) async fn run(
    held: Held,
    side: Side,
    queue: Queue,
    connection: ConnectionId,
    out: mpsc::Sender<StreamEvent>,
) {
    let reason = converse(held, side, queue, connection, &out).await;
    // The host's task is gone only when everything ends.
    let _ = out.send(StreamEvent::ControlEnded { connection, reason }).await;
}

/// Tells the dialler that another stream is used.
pub(super) async fn refuse(mut held: Held) {
    let farewell = async {
        held.stream.write_all(&[NO]).await?;
        held.stream.close().await
    };
    // Whatever happens here, the dialler finds the stream closed.
    let _ = tokio::time::timeout(LINGER, farewell).await;
}

/// The reason for the end.
async fn converse(
    mut held: Held,
    side: Side,
    queue: Queue,
    connection: ConnectionId,
    out: &mpsc::Sender<StreamEvent>,
) -> String {
    match side {
        Side::Acceptor => {
            if let Err(error) = send_go(&mut held).await {
                return error.to_string();
            }
        }
        Side::Dialler => {
            let mut answer = [NO];
            match tokio::time::timeout(ANSWER, held.stream.read_exact(&mut answer)).await {
                Err(_) => return "no answer on the control stream".into(),
                Ok(Err(error)) => return format!("no answer on the control stream: {error}"),
                Ok(Ok(())) if answer != [GO] => return "the peer uses another connection".into(),
                Ok(Ok(())) => {
                    if out.send(StreamEvent::ControlUp { connection }).await.is_err() {
                        return "stopping".into();
                    }
                }
            }
        }
    }
    let (read, write) = held.stream.split();
    let reading = read_frames(read, connection, out);
    let writing = write_frames(write, queue);
    tokio::pin!(reading, writing);
    tokio::select! {
        reason = &mut reading => reason,
        written = &mut writing => match written {
            Err(error) => error.to_string(),
            // Closing before the peer has read everything could reset the connection under its hands.
            Ok(()) => match tokio::time::timeout(LINGER, reading).await {
                Ok(_) | Err(_) => "closed by this side".into(),
            },
        },
    }
}

async fn send_go(held: &mut Held) -> io::Result<()> {
    held.stream.write_all(&[GO]).await?;
    held.stream.flush().await
}

async fn read_frames(
    mut stream: impl AsyncRead + Unpin,
    connection: ConnectionId,
    out: &mpsc::Sender<StreamEvent>,
) -> String {
    loop {
        let mut len = [0; 4];
        if let Err(error) = stream.read_exact(&mut len).await {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => "closed by the peer".into(),
                _ => error.to_string(),
            };
        }
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_FRAME {
            return format!("the peer sent a frame of {len} bytes, more than the {MAX_FRAME} that are allowed");
        }
        let mut bytes = vec![0; len];
        if let Err(error) = stream.read_exact(&mut bytes).await {
            return format!("inside a frame: {error}");
        }
        if out.send(StreamEvent::Frame { connection, bytes }).await.is_err() {
            return "stopping".into();
        }
    }
}

async fn write_frames(mut stream: impl AsyncWrite + Unpin, mut queue: Queue) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(frame) = queue.frames.recv().await {
        // One write, one packet.
        buffer.clear();
        buffer.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&frame);
        stream.write_all(&buffer).await?;
        stream.flush().await?;
        queue.bytes.fetch_sub(frame.len(), Ordering::Relaxed);
        if buffer.capacity() > 4 << 10 {
            buffer = Vec::new(); // Long frames are rare; do not keep their memory per peer.
        }
    }
    stream.close().await
}
