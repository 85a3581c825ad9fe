//! What the node and the installer say to each other over their Unix socket.
//!
//! ```text
//! frame: magic "UPI" | version u8 = 9 | body length u32 | body (codec)
//! ```
//! Integers are little-endian. The node asks [`Ask::State`] and then [`Ask::Job`] or [`Ask::Log`], each answered by one [`Answer`]; then the
//! connection is closed. The descriptors of an install's payloads follow its frame: single zero bytes, each with up to
//! 64 descriptors (`SCM_RIGHTS`), in the order in which the job names their positions.
//!
//! Everything that is read has a bound in bytes and in time.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::Action;
use upswarm_protocol::catalog::page::MAX_PAGE;
use upswarm_protocol::codec::{self, Bounded, CodecError, Text};
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::ids::DocHash;
use upswarm_protocol::node::{Detection, InstallOutcome, Obstacle, RestartOutcome};
use upswarm_protocol::report::MAX_LOG;
use upswarm_protocol::trust::MAX_PROOF;

use crate::sys::{self, BlockingStream};

/// The most bytes of an [`Ask`]: 16 roots, an index, 64 pages, two releases, two approvals and small change.
pub(super) const MAX_ASK: usize = 6 << 20;
/// The most bytes of an [`Answer`].
pub(super) const MAX_ANSWER: usize = 4 << 10;
/// The most bytes of an [`Answer::Log`].
pub(super) const MAX_LOG_ANSWER: usize = MAX_LOG + 64;
/// The most roots of one job; a node that has seen more sends the first of them, and the rest the next time.
pub(super) const MAX_ROOTS: usize = 16;
/// The most pages of one job: those of a release, and of the earlier one that takes its place.
pub(super) const MAX_PAGES: usize = 2 * MAX_PROOF;
const MAGIC: [u8; 4] = *b"UPI\x09";
const HEADER: usize = 8;

/// What the node asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// What the installer knows already.
    State,
    /// Something to do.
    Job(Box<Job>),
    /// What programs printed here, because the coordinator asks for it.
    Log(Box<AskedLog>),
}

/// An order of the coordinator, with what it rests on. Nothing of it is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AskedLog {
    /// As in [`Job::roots`].
    pub(super) roots: Bounded<Bounded<u8, { Kind::Root.cap() }>, MAX_ROOTS>,
    /// Envelope of the order.
    pub(super) order: Bounded<u8, { Kind::LogOrder.cap() }>,
}

/// Something to do, with every document that it rests on. Nothing of it is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    /// Envelopes of the roots that the installer does not have yet, in order.
    pub(super) roots: Bounded<Bounded<u8, { Kind::Root.cap() }>, MAX_ROOTS>,
    /// Envelope of the newest head.
    pub(super) head: Bounded<u8, { Kind::Head.cap() }>,
    /// Envelope of the index that it names, if the installer does not have it yet.
    pub(super) index: Option<Bounded<u8, { Kind::Index.cap() }>>,
    /// The pages that lead from the index to the documents below.
    pub(super) pages: Bounded<Bounded<u8, MAX_PAGE>, MAX_PAGES>,
    /// Envelope of this device's assignment to groups.
    pub(super) assignment: Bounded<u8, { Kind::Assignment.cap() }>,
    /// Envelope of the release.
    pub(super) release: Bounded<u8, { Kind::Release.cap() }>,
    /// Envelope of the approval for one of the device's groups.
    pub(super) approval: Bounded<u8, { Kind::Approval.cap() }>,
    /// What approvers have signed about the groups of the approvals, as far as they have.
    pub(super) groups: Bounded<Bounded<u8, { Kind::Group.cap() }>, 2>,
    /// When it is uninstalled: the release whose packages take the place of its own.
    pub(super) back: Option<Back>,
    /// What is to be done.
    pub(super) task: Task,
}

/// An earlier release of the same packages, approved for install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Back {
    /// Its envelope.
    pub(super) release: Bounded<u8, { Kind::Release.cap() }>,
    /// Envelope of its approval for one of the device's groups.
    pub(super) approval: Bounded<u8, { Kind::Approval.cap() }>,
}

/// What is to be done with a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Task {
    /// Run its rules.
    Detect,
    /// Run its recipe.
    Install {
        /// Must be the approval's.
        action: Action,
        /// Positions of the payloads whose descriptors follow, in the release or in the one that takes its place.
        payloads: Bounded<u16, 512>,
    },
    /// Restart the machine, because its recipe wanted it.
    Restart {
        /// Now; else tell the person at the machine, so that it can be done when the notice has run out.
        go: bool,
    },
    /// Write down for plain apt what a snapshot of a repository says.
    Note {
        /// Positions of its description and InRelease, in order; their descriptors follow.
        payloads: Bounded<u16, 2>,
    },
}

/// What became of a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Restarted {
    /// The person at the machine has been told.
    DeviceMessage,
    /// The system is going down.
    Asked,
    /// It was written down only: the installer works below another root.
    Recorded,
    /// It did not work, and why.
    Failed(Text<1024>),
}

/// What the installer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// To [`Ask::State`].
    State {
        /// Version of its root; 0 when it knows no more than the hash that was pinned.
        root: u64,
        /// The newest index that it has.
        index: Option<DocHash>,
    },
    /// The rules have been run.
    Detected(Found),
    /// The recipe has ended.
    Ended(Outcome),
    /// Nothing was run, and why.
    Refused(Text<1024>),
    /// Nothing was run yet, and what it waits for.
    NotYet(Text<1024>),
    /// To a restart.
    Restart(Restarted),
    /// To [`Ask::Log`]: the end of what programs printed; nothing for none.
    Log(Bounded<u8, MAX_LOG>),
}

/// [`Detection`] on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Found {
    Present,
    Absent,
    NotApplicable(Text<1024>),
    Unknown(Text<1024>),
}

/// [`InstallOutcome`] on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    Done { restart: bool, code: Option<i32> },
    Hindered { by: Obstacle, code: Option<i32>, reason: Text<1024> },
    Retry { code: Option<i32>, reason: Text<1024> },
    Failed { code: Option<i32>, reason: Text<1024> },
}

impl From<RestartOutcome> for Restarted {
    fn from(outcome: RestartOutcome) -> Self {
        match outcome {
            RestartOutcome::Asked => Self::Asked,
            RestartOutcome::Recorded => Self::Recorded,
            RestartOutcome::Failed { reason } | RestartOutcome::NotNow { reason } => Self::Failed(Text::lossy(&reason)),
        }
    }
}

impl From<Detection> for Found {
    fn from(found: Detection) -> Self {
        match found {
            Detection::Present => Self::Present,
            Detection::Absent => Self::Absent,
            Detection::NotApplicable(why) => Self::NotApplicable(Text::lossy(&why)),
            Detection::Unknown(why) => Self::Unknown(Text::lossy(&why)),
        }
    }
}

impl From<Found> for Detection {
    fn from(found: Found) -> Self {
        match found {
            Found::Present => Self::Present,
            Found::Absent => Self::Absent,
            Found::NotApplicable(why) => Self::NotApplicable(why.to_string()),
            Found::Unknown(why) => Self::Unknown(why.to_string()),
        }
    }
}

impl From<InstallOutcome> for Outcome {
    fn from(outcome: InstallOutcome) -> Self {
        match outcome {
            InstallOutcome::Done { restart, code } => Self::Done { restart, code },
            InstallOutcome::Hindered { by, code, reason } => Self::Hindered { by, code, reason: Text::lossy(&reason) },
            InstallOutcome::Retry { code, reason } => Self::Retry { code, reason: Text::lossy(&reason) },
            // Installing here has no other reasons to wait than the gate's.
            InstallOutcome::NotNow { reason } => Self::Retry { code: None, reason: Text::lossy(&reason) },
            InstallOutcome::Failed { code, reason } => Self::Failed { code, reason: Text::lossy(&reason) },
        }
    }
}

impl From<Outcome> for InstallOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done { restart, code } => Self::Done { restart, code },
            Outcome::Hindered { by, code, reason } => Self::Hindered { by, code, reason: reason.to_string() },
            Outcome::Retry { code, reason } => Self::Retry { code, reason: reason.to_string() },
            Outcome::Failed { code, reason } => Self::Failed { code, reason: reason.to_string() },
        }
    }
}

/// Why a message did not come or go.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("not a message of this version of upswarm; are both sides of the same version?")]
    Magic,
    #[error("a message that is {0}")]
    Codec(#[from] CodecError),
    #[error("not everything came in time")]
    Late,
    #[error("the descriptors of the payloads did not come as announced")]
    Descriptors,
    #[error("upswarm is about to end")]
    Ending,
}

/// How long a reader waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience<'a> {
    /// Until this instant, for all of it.
    Until(Instant),
    /// As long as it takes, unless the program is about to end.
    Unless(&'a AtomicBool),
}

impl Patience<'_> {
    /// Bounds the next read.
    fn prepare(self, stream: &BlockingStream) -> Result<(), WireError> {
        let wait = match self {
            Patience::Until(end) => {
                end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or(WireError::Late)?
            }
            Patience::Unless(ending) if ending.load(Ordering::Relaxed) => return Err(WireError::Ending),
            Patience::Unless(_) => Duration::from_millis(250),
        };
        Ok(stream.set_read_timeout(Some(wait))?)
    }
}

/// Sends one message.
pub(super) fn send<T: Serialize>(stream: &mut BlockingStream, message: &T, limit: usize) -> Result<(), WireError> {
    let body = codec::encode(message, limit - HEADER)?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&MAGIC);
    // The limits are far below 4 GiB.
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(stream.write_all(&frame)?)
}

/// Receives one message of at most `limit` bytes. Descriptors that come with it are closed by the kernel.
pub(super) fn receive<T: DeserializeOwned>(
    stream: &mut BlockingStream,
    limit: usize,
    patience: Patience<'_>,
) -> Result<T, WireError> {
    let header = read(stream, HEADER, patience)?;
    let (magic, len) = header.split_at(4);
    if magic != MAGIC {
        return Err(WireError::Magic);
    }
    let len = len.iter().rev().fold(0, |len, byte| len << 8 | usize::from(*byte));
    if len > limit - HEADER {
        let (len, limit) = (len as u64, (limit - HEADER) as u64);
        return Err(CodecError::TooLong { len, limit }.into());
    }
    Ok(codec::decode(&read(stream, len, patience)?, limit - HEADER)?)
}

/// Receives exactly this many open files.
pub(super) fn receive_files(
    stream: &BlockingStream,
    count: usize,
    patience: Patience<'_>,
) -> Result<Vec<File>, WireError> {
    let mut files: Vec<File> = Vec::new();
    while files.len() < count {
        patience.prepare(stream)?;
        let came = match sys::receive_files(stream) {
            Err(error) if is_passing(&error) => continue,
            other => other?,
        };
        if came.is_empty() || files.len() + came.len() > count {
            return Err(WireError::Descriptors);
        }
        files.extend(came);
    }
    Ok(files)
}

/// Exactly `len` bytes. Memory grows with what comes, not with what was announced.
fn read(stream: &mut BlockingStream, len: usize, patience: Patience<'_>) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    let mut piece = [0; 16 << 10];
    while bytes.len() < len {
        patience.prepare(stream)?;
        let room = piece.len().min(len - bytes.len());
        match stream.read(&mut piece[..room]) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            // What is left of the time is looked at before the next attempt.
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
