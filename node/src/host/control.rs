//! Control frames: one stream per pair of peers, opened by the one with the lower key; length-prefixed frames both ways.
//!
//! The stream is the peer: `PeerUp` when it stands, `PeerDown` when it ends, and with it end the connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::mpsc;
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::wire::MAX_FRAME;

use super::addresses::device_id;
use super::{Command, HostEvent, Shared, lock};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/upswarm/control/1");
/// Frames and bytes that wait for a slow peer; beyond, it is disconnected.
const MAX_FRAMES: usize = 512;
const MAX_BYTES: usize = 8 << 20;
/// Tries to open the stream: an inbound stream may be dropped silently when its accepter is busy.
const TRIES: u32 = 5;
/// Frames sent just before a disconnect have this long to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where frames for a connected peer go.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    frames: mpsc::Sender<Option<Vec<u8>>>,
    bytes: Arc<AtomicUsize>,
}

impl Outgoing {
    /// Queues a frame; `false` when the peer is too far behind.
    pub(super) fn send(&self, frame: Vec<u8>) -> bool {
        let len = frame.len();
        if self.bytes.fetch_add(len, Ordering::Relaxed) + len > MAX_BYTES {
            return false;
        }
        self.frames.try_send(Some(frame)).is_ok()
    }

    /// Lets what is queued leave, and ends the connection.
    pub(super) fn finish(&self) {
        let _ = self.frames.try_send(None);
    }
}

/// Takes in streams of peers with lower keys.
pub(super) fn accept(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let mut incoming = shared.control.clone().accept(PROTOCOL)?;
    let shared = shared.clone();
    tokio::spawn(async move {
        while let Some((peer, stream)) = incoming.next().await {
            if let Some(device) = device_id(&peer) {
                tokio::spawn(hold(shared.clone(), device, stream, None));
            }
        }
    });
    Ok(())
}

/// A connection stands: opens the control stream if that is this side's part.
pub(super) fn connected(shared: &Arc<Shared>, device: DeviceId, peer: PeerId, me: &PeerId, dialled: Option<Text<512>>) {
    let opens = device_id(me).is_some_and(|me| me < device);
    if !opens {
        if let Some(address) = dialled {
            lock(&shared.serves).dialled(device, address);
        }
        return;
    }
    if lock(&shared.peers).contains_key(&device) {
        return;
    }
    let shared = shared.clone();
    tokio::spawn(async move {
        let mut control = shared.control.clone();
        for attempt in 0..TRIES {
            match control.open_stream(peer, PROTOCOL).await {
                Ok(stream) => return hold(shared, device, stream, dialled).await,
                Err(error) => tracing::debug!(%peer, attempt, "no control stream: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
        }
        let _ = shared.commands.send(Command::Disconnect(device)).await;
    });
}

/// Lives as long as the peer does.
async fn hold(shared: Arc<Shared>, device: DeviceId, stream: Stream, dialled: Option<Text<512>>) {
    let (frames, queue) = mpsc::channel(MAX_FRAMES);
    let outgoing = Outgoing { frames, bytes: Arc::default() };
    let bytes = outgoing.bytes.clone();
    {
        // The second of two streams, from two connections made at once, is of no use.
        let mut peers = lock(&shared.peers);
        if peers.contains_key(&device) {
            return;
        }
        peers.insert(device, outgoing.clone());
    }
    let dialled = dialled.or_else(|| lock(&shared.serves).take_dialled(&device));
    if shared.events.send(HostEvent::PeerUp { peer: device, dialled }).await.is_err() {
        return;
    }
    let (reader, writer) = stream.split();
    let stop = shared.stop.clone();
    let cause = tokio::select! {
        result = read(&shared, device, reader) => result,
        result = write(writer, queue, &bytes) => result,
        () = stop.cancelled() => Ok(()),
    };
    if let Err(error) = cause {
        tracing::debug!(peer = %device.short(), "control stream ended: {error}");
    }
    lock(&shared.peers).remove(&device);
    lock(&shared.askers).remove(&device);
    let _ = shared.commands.send(Command::Disconnect(device)).await;
    let _ = shared.events.send(HostEvent::PeerDown { peer: device }).await;
}

async fn read(shared: &Shared, peer: DeviceId, reader: impl futures::AsyncRead + Unpin) -> io::Result<()> {
    let mut reader = futures::io::BufReader::with_capacity(8 << 10, reader);
    loop {
        let mut len = [0; 4];
        reader.read_exact(&mut len).await?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_FRAME {
            return Err(io::Error::other(format!("a frame of {len} bytes, more than {MAX_FRAME}")));
        }
        let mut bytes = vec![0; len];
        reader.read_exact(&mut bytes).await?;
        // A driver that is behind holds back this peer alone.
        if shared.events.send(HostEvent::Frame { peer, bytes }).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(
    mut writer: impl futures::AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Option<Vec<u8>>>,
    waiting: &AtomicUsize,
) -> io::Result<()> {
    let mut batch = Vec::new();
    let mut frames = Vec::new();
    loop {
        if queue.recv_many(&mut frames, 32).await == 0 {
            return Ok(());
        }
        let mut last = false;
        for frame in frames.drain(..) {
            match frame {
                Some(frame) => {
                    batch.extend_from_slice(&(frame.len() as u32).to_le_bytes());
                    batch.extend_from_slice(&frame);
                    waiting.fetch_sub(frame.len(), Ordering::Relaxed);
                }
                None => last = true,
            }
        }
        if last {
            let farewell = async {
                writer.write_all(&batch).await?;
                writer.close().await
            };
            return tokio::time::timeout(FAREWELL, farewell).await.unwrap_or(Ok(()));
        }
        writer.write_all(&batch).await?;
        writer.flush().await?;
        batch.clear();
        // One large burst must not keep its memory for ever.
        batch.shrink_to(64 << 10);
    }
}
