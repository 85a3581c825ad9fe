//! What goes in and out of [`super::CoordinatorState`]: a closed list, so that a driver is one `match`.

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::counts::RolloutStatus;
use crate::catalog::{DeviceList, Hold, NodeRole};
use crate::codec::{Bounded, Text};
use crate::envelope::{ASSIGNMENT_CAP, Document, EnvelopeError};
use crate::ids::{DeviceId, DocHash, GroupId, PayloadId, ReleaseId, SiteId};
use crate::node::Verdict;
use crate::report::{Report, Trouble};
use crate::time::Wall;
use crate::trust::TrustError;
use crate::wire::{BlockStatus, BlockWhat, MAX_WAN_RATES, Topic, WanRate};

/// Why the coordinator's clock is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// Its last signature is from later.
    Behind {
        /// What the clock says.
        wall: Wall,
        /// The date of the last signature.
        last: Wall,
    },
    /// It was set by more than the tolerance while the coordinator ran.
    Jumped {
        /// What the clock says.
        wall: Wall,
        /// What it would say if it had not been set.
        expected: Wall,
    },
}

impl core::fmt::Display for Distrust {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Distrust::Behind { wall, last } => {
                write!(f, "this coordinator's clock says {wall}, and it has signed something dated {last}")?;
            }
            Distrust::Jumped { wall, expected } => {
                write!(f, "this coordinator's clock was set to {wall} while it ran; it should be {expected}")?;
            }
        }
        f.write_str(
            ": nothing but stops is signed until the clock is right, or you say that it is: upswarm coordinator run --accept-clock",
        )
    }
}

/// The most uses that one invitation may have.
pub const MAX_USES: u32 = 4096;

/// What the driver tells the core.
#[derive(Debug, Clone)]
pub enum Input {
    /// A connection to this peer stands and its key is proven by the transport.
    PeerUp {
        /// The peer.
        peer: DeviceId,
    },
    /// The last connection to this peer is gone.
    PeerDown {
        /// The peer.
        peer: DeviceId,
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
    /// A request that was granted has been answered, or its peer is gone.
    Served {
        /// The driver's name for the request.
        serve: u64,
    },
    /// Answer to [`Output::OpenReport`]: the report envelope, or nothing when it was not encrypted to this coordinator.
    ReportOpened {
        /// The name of the request.
        open: u64,
        /// The report's envelope, not yet verified.
        bytes: Option<Vec<u8>>,
    },
    /// A payload is complete in the store, and its bytes have this hash.
    PayloadHeld {
        /// The payload.
        payload: PayloadId,
        /// Bytes.
        len: u64,
    },
    /// A chunk list is in the store, and is well-formed.
    ChunkListHeld {
        /// Its hash.
        hash: DocHash,
        /// Its facts.
        list: HeldList,
    },
    /// An admin, who has shown a credential, wants something; answered by [`Output::Answer`].
    Admin {
        /// The driver's name for the request.
        request: u64,
        /// What is wanted.
        command: Command,
    },
    /// Everything up to this [`Output::Persist`] is durable.
    Persisted {
        /// Its token.
        token: u64,
    },
}

/// A chunk list in the coordinator's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldList {
    /// Bytes of the list.
    pub len: u32,
    /// Bytes of the payload that it describes.
    pub payload_len: u64,
}

/// What an admin may want.
#[derive(Debug, Clone)]
pub enum Command {
    /// Add a release to the catalog: its envelope.
    Publish(Vec<u8>),
    /// Add an approval to the catalog: its envelope.
    Approve(Vec<u8>),
    /// Take the next root of trust.
    Root {
        /// Its envelope.
        root: Vec<u8>,
        /// The online keys that this coordinator holds besides the one it signs with.
        online: Vec<SigningKey>,
    },
    /// Take a release out of the catalog. Every approval of it must be declined.
    Withdraw(ReleaseId),
    /// Let devices in.
    Invite(Invite),
    /// Let nobody in any more with the invitation of this secret's hash. Who came with it stays.
    Disinvite([u8; 32]),
    /// Stop something, or let it go on.
    Hold {
        /// What.
        hold: Hold,
        /// Whether it is to be stopped.
        on: bool,
    },
    /// Take a device's certificate away for good.
    Revoke(DeviceId),
    /// Let a device back in that was shut out, or that was left out by a rotation because no token had let it in here.
    Readmit(DeviceId),
    /// Have machines try a release again. Nothing of it is kept: machines that do not hear of it now do not hear of it later.
    Retry {
        /// The release.
        release: ReleaseId,
        /// Only where it is approved for this group.
        group: Option<GroupId>,
        /// Only this device.
        device: Option<DeviceId>,
    },
    /// Set how much of the WAN a site may use; nothing for no limit.
    WanLimits {
        /// The site.
        site: SiteId,
        /// The rates, all of them.
        rates: Bounded<WanRate, MAX_WAN_RATES>,
        /// Whether its machines give way to everything else on the line; `None` leaves that to each.
        yields: Option<bool>,
    },
    /// Ask a device for what programs printed when a release was last tried there.
    AskLog {
        /// The device.
        device: DeviceId,
        /// The release.
        release: ReleaseId,
    },
    /// Put a device into these groups and no others.
    Assign {
        /// The device.
        device: DeviceId,
        /// Its groups.
        groups: Bounded<GroupId, 64>,
    },
    /// What a group is, as approvers have signed it. The members of one with a rule or a list follow from that.
    Group {
        /// The document's envelope.
        document: Vec<u8>,
        /// Of one with a list: the list.
        list: Option<DeviceList>,
    },
}

/// An invitation, known by the hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// BLAKE3 of the secret that the token carries.
    pub secret_hash: [u8; 32],
    /// The group that its devices join.
    pub group: GroupId,
    /// The site that its devices join.
    pub site: SiteId,
    /// After this it lets nobody in.
    pub expires: Wall,
    /// Number of devices that it lets in, 1 to [`MAX_USES`].
    pub uses: u32,
    /// Devices that have used it.
    pub spent: Bounded<DeviceId, { MAX_USES as usize }>,
}

/// A device that was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Its key.
    pub device: DeviceId,
    /// What it is for.
    pub role: NodeRole,
    /// Its name for people; certificates do not carry it.
    pub label: Text<64>,
    /// Its site.
    pub site: SiteId,
    /// Its groups.
    pub groups: Bounded<GroupId, 64>,
    /// When it was let in.
    pub enrolled: Wall,
    /// Whether a token let it in here. Of others a certificate by our own key was believed, after the data directory had come back
    /// from an old copy: that is not enough once that key is removed, because its thief could make such certificates too.
    pub invited: bool,
    /// Its newest certificate's envelope.
    pub certificate: Bounded<u8, 4096>,
    /// When that certificate was signed.
    pub certified: Wall,
    /// Its newest assignment to groups, an envelope.
    pub assignment: Bounded<u8, ASSIGNMENT_CAP>,
    /// When that assignment was signed; zero while this coordinator knows of none, and so of no groups.
    pub assigned: Wall,
}

/// What was done for an admin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Version of the index that holds the change; its head is published.
    pub index_version: u64,
}

/// Why an admin's request was refused. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not signed as it must be, not well-formed, or not to be meant.
    #[error("the document is refused: {0}")]
    Document(#[from] TrustError),
    /// What follows from it cannot be signed.
    #[error("cannot sign: {0}")]
    Sign(#[from] EnvelopeError),
    /// Signed, but its content cannot stand.
    #[error("the document is refused: {0}")]
    Content(String),
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// Another document took this number first.
    #[error("{what} {given} is not above {known}, which is already published; make it again with a higher one")]
    NotNewer {
        /// Which number.
        what: &'static str,
        /// The number given.
        given: u64,
        /// The number that is known.
        known: u64,
    },
    /// Something that must be uploaded first is not there.
    #[error("upload first: {0}")]
    Missing(String),
    /// The release is not in the catalog.
    #[error("the release {0} is not published here")]
    UnknownRelease(ReleaseId),
    /// The device was never let in.
    #[error("no device with the key {0} was ever let in")]
    UnknownDevice(DeviceId),
    /// The coordinator's clock is not believed.
    #[error("{0}")]
    Clock(Distrust),
    /// A table is full.
    #[error("{0} is full")]
    Full(&'static str),
    /// Too much is waiting for the disk.
    #[error("too many changes are waiting for the disk; try again in a moment")]
    Busy,
}

/// What must be on disk before something else may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A release, an approval, a group or an index: a file named by its hash.
    Document(Document),
    /// The current head and index: one file, replaced atomically.
    Catalog(Vec<u8>),
    /// A [`DeviceRecord`], encoded.
    Device(DeviceId, Vec<u8>),
    /// An [`Invite`] by the hash of its secret, encoded; empty bytes remove it.
    Invite([u8; 32], Vec<u8>),
    /// A verified report, and when it came.
    Report(Box<Report>, Wall),
    /// What the admin has accepted of rollouts that were stopped: one file, replaced atomically.
    Rollouts(Vec<u8>),
    /// How much of the WAN sites may use: one file, replaced atomically.
    WanLimits(Vec<u8>),
    /// What many devices have installed, by its digest, encoded; empty bytes remove it. It comes before the inventories that name it.
    InventoryBase(DocHash, Vec<u8>),
    /// What is installed on a device, encoded.
    Inventory(DeviceId, Vec<u8>),
    /// What a device is missing, encoded.
    Scan(DeviceId, Vec<u8>),
    /// The lists of groups that have one: one file, replaced atomically.
    Groups(Vec<u8>),
    /// A root's envelope by its version; those before it stay.
    Root(u64, Vec<u8>),
    /// A log that was asked for of a device, encoded, at most [`super::MAX_LOG_RECORD`] bytes; none removes it.
    Log(DeviceId, ReleaseId, Vec<u8>),
}

/// A document that a peer may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeWhat {
    /// By hash.
    Doc(DocHash),
    /// A root by version.
    Root(u64),
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlarmKind {
    /// The coordinator was started from an old copy of its data directory.
    Restored,
    /// One identity runs on two machines.
    Clone,
    /// A clock is wrong.
    Clock,
    /// Contradicting documents, both well signed.
    Fork,
    /// An origin gives wrong bytes, or none.
    Origin,
    /// A document that a machine was given was refused.
    Document,
    /// A machine of a site misbehaves, as its neighbours say.
    Peer,
    /// A machine's disk is full, or fails.
    Disk,
    /// A restart that was to be does not happen.
    Restart,
    /// A machine sees nobody at a site that has others.
    Alone,
    /// Something will expire.
    Expiry,
    /// A rollout has stopped by itself.
    Rollout,
    /// A standing rule could not be applied to what it is about.
    Rule,
    /// A machine that was retired is there.
    Back,
    /// What else machines say of themselves.
    Device,
    /// What is wrong on the coordinator.
    Other,
}

impl AlarmKind {
    /// The kinds of which machines tell in their reports.
    pub const OF_DEVICES: [AlarmKind; 7] = [
        AlarmKind::Fork,
        AlarmKind::Document,
        AlarmKind::Origin,
        AlarmKind::Peer,
        AlarmKind::Disk,
        AlarmKind::Restart,
        AlarmKind::Device,
    ];

    /// The kind of what a machine tells; `None` for its clock, which the coordinator judges by itself.
    pub fn of_device(trouble: Trouble) -> Option<Self> {
        Some(match trouble {
            Trouble::Clock => return None,
            Trouble::Fork => AlarmKind::Fork,
            Trouble::Document => AlarmKind::Document,
            Trouble::Origin => AlarmKind::Origin,
            Trouble::Peer => AlarmKind::Peer,
            Trouble::Disk => AlarmKind::Disk,
            Trouble::Restart => AlarmKind::Restart,
            Trouble::Other => AlarmKind::Device,
        })
    }
}

/// What the core wants done.
#[derive(Debug)]
pub enum Output {
    /// End every connection to a peer, after what was sent to it has left.
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
    /// Answer a block request with a document from the store; then [`Input::Served`].
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
    /// Open a encrypted report; then [`Input::ReportOpened`].
    OpenReport {
        /// Its name.
        open: u64,
        /// The encrypted bytes.
        encrypted: Vec<u8>,
    },
    /// The answer to [`Input::Admin`].
    Answer {
        /// The driver's name for the request.
        request: u64,
        /// What came of it.
        result: Result<Done, Refusal>,
    },
    /// Write a record; then [`Input::Persisted`]. A barrier: what rests on it follows only after that.
    Persist {
        /// Grows.
        token: u64,
        /// What.
        record: Record,
    },
    /// A document that no head has named for some time; remove it.
    DropDocument(DocHash),
    /// Something an admin should know.
    Alarm(String),
    /// Something that an admin should look at, until somebody has acknowledged it or it is over.
    Raise {
        /// What it is about.
        kind: AlarmKind,
        /// The machine that it is about; `None` for the coordinator.
        device: Option<DeviceId>,
        /// What was seen.
        text: String,
    },
    /// A machine says that it leaves for good.
    Left(DeviceId),
    /// What was raised is so no longer.
    Over {
        /// What it was about.
        kind: AlarmKind,
        /// The machine, or the coordinator.
        device: Option<DeviceId>,
    },
    /// Too many devices failed or fell silent: the approval is on hold until the admin resumes it.
    RolloutStopped(RolloutStatus),
}

/// What a timeout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The head must be signed anew, so that silence shows as age.
    HeadDue,
    /// A peer has not shown a certificate in time.
    HelloOverdue,
    /// Rollouts are looked at for devices that fell silent.
    RolloutDue,
    /// Devices wait to be put into the dynamic groups that they belong to.
    GroupsDue,
    /// The clocks of machines are compared.
    ClocksDue,
}
