//! What passes between the tasks that own a stream and the one that owns the swarm. Only types: nothing here sends or waits.

use bytes::Bytes;
use libp2p::swarm::ConnectionId;
use tokio::sync::mpsc;
use upswarm_protocol::wire::{BlockStatus, BlockWhat};

/// What the task of a stream reports.
pub(super) enum StreamEvent {
    /// The acceptor has said yes to our control stream.
    ControlUp { connection: ConnectionId },
    /// A frame.
    Frame { connection: ConnectionId, bytes: Vec<u8> },
    /// The control stream is over, asked for or not.
    ControlEnded { connection: ConnectionId, reason: String },
    /// A block request, to be answered on `answers`.
    Asked { connection: ConnectionId, stream: u64, request: u32, what: BlockWhat, answers: mpsc::Sender<Answer> },
    /// An answer's bytes have been written, or cannot be.
    Served { serve: u64, bytes: u64 },
    /// A served block stream is over.
    ServeEnded { stream: u64 },
}

/// An answer to be written.
pub(super) struct Answer {
    pub(super) serve: u64,
    /// The asker's number.
    pub(super) request: u32,
    pub(super) answer: Result<Bytes, BlockStatus>,
}
