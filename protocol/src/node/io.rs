//! What goes in and out of [`super::NodeState`]: a closed list, so that the driver and the simulator are one `match` each.

use super::Conditions;
use crate::catalog::Action;
use crate::chunk::{Bitmap, ChunkList};
use crate::codec::Text;
use crate::evaluate::Detection;
use crate::ids::{DeviceId, DocHash, PayloadId, ReleaseId};
use crate::inventory::Inventory;
use crate::report::DeviceMessage;
use crate::time::Wall;
use crate::wire::{BlockStatus, BlockWhat, Topic};

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Names one fetch (from a peer or an origin) from its start to its end.
pub type FetchId = u32;

/// Where a fetch goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchFrom {
    /// A connected peer, over the block stream.
    Peer(DeviceId),
    /// A URL that serves the whole payload by range, or one document. Tried in the order given.
    Urls(Vec<String>),
    /// This machine's own disk, on which [`Output::StoreDoc`] put it.
    Disk,
}

/// Why a fetch ended without everything it asked for. What had arrived and was good was stored and told before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// The peer's answer.
    Status(BlockStatus),
    /// No connection, a time-out, a reset: the same source may do better later.
    Unreachable(String),
    /// The source answered with something that is not what was asked for: wrong length, no range support, 404, bytes that
    /// do not hash to what the release says.
    Wrong(String),
    /// This machine could not store it.
    Store(StoreError),
    /// [`Output::Cancel`] ended it.
    Canceled,
}

/// Why the store could not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// No room within the quota or on the disk, even after eviction.
    NoSpace(String),
    /// The disk or the file system failed.
    Failed(String),
}

/// How an install or uninstall ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstallOutcome {
    /// The recipe says it worked; detection has the last word.
    Done {
        /// Whether a restart is wanted.
        restart: bool,
        /// Exit code, if a program ran.
        code: Option<i32>,
    },
    /// The installer does not let it begin yet, and has run nothing. It is no attempt.
    NotNow {
        /// Why.
        reason: String,
    },
    /// Something on this machine stands in the way, and not the release: it is no failure of it, and is tried again when the
    /// obstacle may be gone.
    Hindered {
        /// What.
        by: Obstacle,
        /// Exit code, if a program ran.
        code: Option<i32>,
        /// The line that says why: who holds the lock, which package is broken, what is missing.
        reason: String,
    },
    /// May work later: a busy file, a retry code.
    Retry {
        /// Exit code, if a program ran.
        code: Option<i32>,
        /// Why, with the log's tail.
        reason: String,
    },
    /// Did not work.
    Failed {
        /// Exit code, if a program ran.
        code: Option<i32>,
        /// Why, with the log's tail.
        reason: String,
    },
}

/// What on a machine stands in the way of an install.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Obstacle {
    /// The machine's package manager was told to keep the package as it is (`apt-mark hold`, `dnf versionlock`).
    Held,
    /// Another program holds the package manager's lock.
    Locked,
    /// Another package is broken, and the package manager does nothing until it is repaired.
    Broken,
    /// What the package depends on is not there.
    Dependency,
    /// The disk is full.
    NoSpace,
    /// What must come over the network cannot be reached.
    NoNetwork,
}

/// What became of a restart that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartOutcome {
    /// The system is going down.
    Asked,
    /// It was written down only: this is a trial below another root.
    Recorded,
    /// The installer does not let it happen yet.
    NotNow {
        /// Why.
        reason: String,
    },
    /// It did not work. It is not tried again in this run of the system.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What the driver tells the core.
#[derive(Debug, Clone)]
pub enum Input {
    /// A connection to this peer stands, its key is proven by the transport, and control frames can flow.
    PeerUp {
        /// The peer.
        peer: DeviceId,
        /// Its address, when this side dialled it.
        dialled: Option<Text<512>>,
    },
    /// The last connection to this peer is gone.
    PeerDown {
        /// The peer.
        peer: DeviceId,
    },
    /// An address from [`Output::Dial`] did not lead to a connection.
    DialFailed {
        /// The address.
        address: Text<512>,
        /// Why, for people.
        reason: Text<200>,
    },
    /// A control frame.
    Frame {
        /// From whom.
        peer: DeviceId,
        /// At most [`crate::wire::MAX_FRAME`] bytes.
        bytes: Vec<u8>,
    },
    /// A gossip message, which is passed on only after [`Output::GossipVerdict`].
    Gossip {
        /// The driver's name for it.
        id: u64,
        /// The neighbour that sent it here.
        from: DeviceId,
        /// Its topic.
        topic: Topic,
        /// At most [`crate::wire::MAX_GOSSIP`] bytes.
        bytes: Vec<u8>,
    },
    /// A peer asks for bytes; answered by [`Output::Serve`] or [`Output::Deny`].
    BlockRequested {
        /// Who asks.
        peer: DeviceId,
        /// The driver's name for the request.
        serve: u64,
        /// What it asks for.
        what: BlockWhat,
    },
    /// A request that was granted has been answered, or its peer is gone: the upload slot is free.
    Served {
        /// The driver's name for the request.
        serve: u64,
        /// Bytes sent.
        bytes: u64,
    },
    /// An address where a peer may be found: mDNS, or the admin's configuration.
    Hint {
        /// The address.
        address: Text<512>,
    },
    /// The addresses on which this node listens now.
    Listening {
        /// All of them.
        addresses: Vec<Text<128>>,
    },
    /// A chunk was hashed, found good, and is on disk (durable or not: after a crash it is hashed again).
    ChunkStored {
        /// The fetch that brought it.
        fetch: FetchId,
        /// The payload.
        payload: PayloadId,
        /// Its position.
        chunk: u32,
    },
    /// A chunk did not hash to what the release says; nothing was stored.
    ChunkRejected {
        /// The fetch that brought it.
        fetch: FetchId,
        /// The payload.
        payload: PayloadId,
        /// Its position.
        chunk: u32,
    },
    /// A fetch of chunks is over.
    FetchEnded {
        /// Which.
        fetch: FetchId,
        /// Payload bytes that crossed the network for it, good or not.
        bytes: u64,
        /// Whether everything came.
        result: Result<(), FetchError>,
    },
    /// A fetch of a document is over. The bytes are untrusted and no longer than was asked for.
    DocFetched {
        /// Which.
        fetch: FetchId,
        /// The document.
        result: Result<Vec<u8>, FetchError>,
    },
    /// Answer to [`Output::StoreDoc`].
    DocStored {
        /// Its hash.
        hash: DocHash,
        /// Whether it is on disk now.
        kept: bool,
    },
    /// Answer to [`Output::Open`].
    Opened {
        /// The payload.
        payload: PayloadId,
        /// What is there, and how many bytes of it were copied from other payloads on this disk just now.
        result: Result<(Bitmap, u64), StoreError>,
    },
    /// The store has removed a payload to make room.
    Evicted {
        /// The payload.
        payload: PayloadId,
    },
    /// Chunks that were here have rotted on disk. The store has noted that durably, and they can be stored again.
    ChunksLost {
        /// The payload.
        payload: PayloadId,
        /// Their positions.
        chunks: Vec<u32>,
    },
    /// The disk does not take a payload: what of it is not known to be durable is not here, and nothing of it can be stored
    /// before [`Output::Open`].
    PayloadFailed {
        /// The payload.
        payload: PayloadId,
        /// Why.
        reason: StoreError,
    },
    /// Payloads were read from disk and hashed again; what was bad is told by [`Input::ChunksLost`].
    Scrubbed {
        /// Bytes.
        bytes: u64,
        /// Whether every payload has had its turn.
        round_ended: bool,
    },
    /// Records of [`Output::Persist`] wait because the disk does not take them, or go on.
    Disk {
        /// Why they wait, for people.
        trouble: Option<Text<200>>,
    },
    /// Answer to [`Output::Detect`].
    Detected {
        /// The release.
        release: ReleaseId,
        /// What was found.
        result: Detection,
    },
    /// Answer to [`Output::Install`].
    InstallEnded {
        /// The release.
        release: ReleaseId,
        /// What was done.
        action: Action,
        /// How it went.
        outcome: InstallOutcome,
    },
    /// Answer to [`Output::Encrypt`].
    Encrypted {
        /// The message's number.
        seq: u64,
        /// The encrypted message.
        bytes: Vec<u8>,
        /// [`crate::report::receipt`] of what was encrypted.
        receipt: [u8; 32],
    },
    /// Answer to [`Output::ReadLog`].
    LogRead {
        /// The release.
        release: ReleaseId,
        /// When it was ordered.
        ordered: Wall,
        /// What programs printed, the latest last; or why there is nothing.
        result: Result<Vec<u8>, String>,
    },
    /// What is installed on this machine: at the start, and whenever it has changed.
    Inventory {
        /// All of it.
        inventory: Arc<Inventory>,
    },
    /// Everything up to this [`Output::Persist`] is durable.
    Persisted {
        /// Its token.
        token: u64,
    },
    /// What the machine's power and link are now: at the start, and whenever they have changed.
    Conditions(Conditions),
    /// Answer to [`Output::Restart`].
    RestartEnded {
        /// The release.
        release: ReleaseId,
        /// How it went.
        outcome: RestartOutcome,
    },
    /// The person at the machine puts an install off; what the approval allows of it is granted.
    Defer {
        /// The release.
        release: ReleaseId,
        /// Seconds.
        by_s: u32,
    },
    /// A client of this machine asks for a payload of a release that is approved here.
    Want {
        /// The payload.
        payload: PayloadId,
    },
    /// A person asks for another try of what has failed or waits: earlier attempts do not count any more.
    Retry {
        /// The release.
        release: ReleaseId,
    },
    /// The program is about to end: say goodbye.
    Shutdown,
}

/// What must be on disk before something else may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Root, head and index bytes and the numbers that only grow: the file `trust`, replaced atomically.
    Trust(Vec<u8>),
    /// A new certificate for this device: the file `certificate`.
    Certificate(Vec<u8>),
    /// A new assignment of this device to groups: the file `assignment`.
    Assignment(Vec<u8>),
    /// A deployment's facts that must survive a power cut, by release; empty bytes remove it.
    Deployment(ReleaseId, Vec<u8>),
    /// Counters and sequence numbers that only grow: bytes by source, the last report's number.
    Counters(Vec<u8>),
    /// The inventory that the coordinator holds of this device, and a digest of the scan that it knows: the file `inventory`. If
    /// it is lost, everything is told again.
    Inventory(Vec<u8>),
    /// How much of the WAN the site may use, as it was ordered: the file `wan-limits`.
    WanLimits(Vec<u8>),
}

/// What the core wants done.
#[derive(Debug, Clone)]
pub enum Output {
    /// Connect to an address.
    Dial {
        /// A multiaddr.
        address: Text<512>,
    },
    /// End every connection to a peer.
    Disconnect {
        /// The peer.
        peer: DeviceId,
        /// For the log.
        reason: String,
    },
    /// Send a control frame.
    Send {
        /// To whom.
        peer: DeviceId,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Subscribe to a topic.
    Subscribe(Topic),
    /// Gossip a message.
    Publish {
        /// Its topic.
        topic: Topic,
        /// The message.
        bytes: Vec<u8>,
    },
    /// What to do with a gossip message.
    GossipVerdict {
        /// The driver's name for it.
        id: u64,
        /// The neighbour that sent it.
        from: DeviceId,
        /// Pass it on, drop it, or drop it and think less of the neighbour.
        verdict: Verdict,
    },
    /// Answer a block request with these bytes of the store: the chunks were verified before.
    Serve {
        /// The driver's name for the request.
        serve: u64,
        /// What to read.
        what: ServeWhat,
    },
    /// Answer a block request with a status.
    Deny {
        /// The driver's name for the request.
        serve: u64,
        /// Why.
        status: BlockStatus,
    },
    /// Fetch a run of chunks, hash and store each, and tell of each; then [`Input::FetchEnded`].
    Fetch {
        /// Its name.
        fetch: FetchId,
        /// From where.
        from: FetchFrom,
        /// The payload.
        payload: PayloadId,
        /// Position of the first chunk.
        first: u32,
        /// Number of chunks.
        count: u32,
    },
    /// Fetch a document of at most `limit` bytes; then [`Input::DocFetched`].
    FetchDoc {
        /// Its name.
        fetch: FetchId,
        /// From where.
        from: FetchFrom,
        /// What to ask a peer for.
        what: BlockWhat,
        /// Bytes after which reading stops.
        limit: usize,
    },
    /// End a fetch early.
    Cancel {
        /// Which.
        fetch: FetchId,
    },
    /// Open or create a payload in the store, recover what is there, and reuse chunks of other payloads.
    Open {
        /// The payload.
        payload: PayloadId,
        /// Its pieces.
        list: Arc<ChunkList>,
        /// Keep it from eviction.
        pin: bool,
    },
    /// Stop protecting a payload from eviction.
    Unpin {
        /// The payload.
        payload: PayloadId,
    },
    /// Keep a verified document on disk, by hash; then [`Input::DocStored`]. Until then it stays in memory.
    StoreDoc {
        /// Its hash.
        hash: DocHash,
        /// Its bytes.
        bytes: Arc<Vec<u8>>,
    },
    /// Remove a document.
    DropDoc {
        /// Its hash.
        hash: DocHash,
    },
    /// Run a release's detection and applicability rules.
    Detect {
        /// The release.
        release: ReleaseId,
    },
    /// Run a release's recipe. Its payloads are complete in the store; the installer hashes them again.
    Install {
        /// The release.
        release: ReleaseId,
        /// Install or uninstall.
        action: Action,
    },
    /// Tell the person at the machine of a restart.
    Notice {
        /// The release that wants it; none when there is nothing to tell any more.
        release: Option<ReleaseId>,
        /// What to tell.
        text: String,
        /// Whether the time of the restart is set, and [`super::MachineRules::restart_notice`] runs from now on.
        near: bool,
    },
    /// Restart the machine for a release; then [`Input::RestartEnded`]. At most once in each run of the operating system.
    Restart {
        /// The release.
        release: ReleaseId,
    },
    /// Read what programs printed when a release was last tried; then [`Input::LogRead`].
    ReadLog {
        /// The release.
        release: ReleaseId,
        /// When the coordinator ordered it.
        ordered: Wall,
        /// Its order, an envelope, for an installer that checks it.
        order: Vec<u8>,
    },
    /// Sign and encrypt a message to the coordinator's key; then [`Input::Encrypted`].
    Encrypt {
        /// The message.
        message: DeviceMessage,
        /// The coordinator's X25519 key.
        to: [u8; 32],
    },
    /// Write a record; then [`Input::Persisted`]. A barrier: what rests on it is asked for only after that.
    Persist {
        /// Grows.
        token: u64,
        /// What.
        record: Record,
    },
    /// Something an admin should know.
    Alarm(String),
}

/// What a granted request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServeWhat {
    /// A run of chunks from the store.
    Chunks {
        /// The payload.
        payload: PayloadId,
        /// Position of the first chunk.
        first: u32,
        /// Number of chunks.
        count: u32,
        /// Bytes of them.
        len: u32,
    },
    /// A document's bytes.
    Bytes(Arc<Vec<u8>>),
    /// A document that is on disk.
    Doc(DocHash),
}

/// What is done with a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Good and new: pass it on.
    Accept,
    /// Old or not for us: drop it.
    Ignore,
    /// A bad signature or malformed: drop it, and think less of the neighbour.
    Reject,
}
