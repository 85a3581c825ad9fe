//! What peers say to each other, each with its size limit.
//!
//! Three ways: small *control* frames on one ordered stream per peer, *block* requests on a second stream that carries
//! bulk bytes, and *gossip*. All of it is untrusted until checked; what must be believed is inside signed envelopes.

use serde::{Deserialize, Serialize};

use crate::catalog::NodeRole;
use crate::codec::{self, Bounded, CodecError, Text};
use crate::ids::{DeviceId, DocHash, PayloadId, SiteId};
use crate::time::Wall;

/// Version of everything in this module; a peer that speaks another one is told so and left.
pub const VERSION: u16 = 2;
/// The most bytes of one control frame.
pub const MAX_FRAME: usize = 64 << 10;
/// The most bytes of one gossip message (a beacon is the largest).
pub const MAX_GOSSIP: usize = 4 << 10;
/// The most bytes that one block request may ask for, when it names more than one chunk.
pub const MAX_BLOCK: u64 = 1 << 20;

/// A signed envelope inside a message, not yet checked; the bound of its kind is checked when it is opened.
pub type Sealed<const N: usize> = Bounded<u8, N>;

/// The topics of the gossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Heads, for everyone: `upswarm/1/head`.
    Head,
    /// Beacons and leases of one site: `upswarm/1/site/<hex>`.
    Site(SiteId),
}

impl core::fmt::Display for Topic {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Topic::Head => f.write_str("upswarm/1/head"),
            Topic::Site(site) => write!(f, "upswarm/1/site/{site}"),
        }
    }
}

/// A control frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first frame from each side. Without a good certificate the connection ends here.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// The sender's certificate envelope.
        certificate: Sealed<4096>,
        /// The newest head envelope that the sender holds; empty for none.
        head: Sealed<1024>,
        /// The version of the root that it trusts.
        root_version: u64,
    },
    /// Instead of `Hello`, towards a coordinator: spend the secret of a join token.
    Enrol {
        /// [`VERSION`].
        version: u16,
        /// The one-time secret of the token.
        secret: [u8; 32],
        /// What the device wants to be.
        role: NodeRole,
        /// The device's name for itself, which the admin sees.
        label: Text<64>,
    },
    /// The coordinator's answer to `Enrol`.
    Enrolled {
        /// The device's certificate.
        certificate: Sealed<4096>,
        /// The head at this moment; empty for none.
        head: Sealed<1024>,
        /// Origins to fetch documents from.
        origins: Bounded<Text<512>, 16>,
        /// Addresses of machines of the same site.
        peers: Bounded<Text<512>, 32>,
    },
    /// A request that will not be granted, and why.
    Refused {
        /// For people and logs.
        reason: Text<256>,
    },
    /// Towards a coordinator: make my certificate anew.
    Renew,
    /// A certificate for the receiver.
    Renewed {
        /// The new certificate.
        certificate: Sealed<4096>,
    },
    /// A head, outside gossip: to a peer that has just connected.
    Head(Sealed<1024>),
    /// The sender holds and serves every document of the index with this hash.
    Catalog {
        /// Hash of the index.
        index: DocHash,
    },
    /// Beacons of members, to a newcomer.
    Members(Bounded<Sealed<3072>, 20>),
    /// From the coordinator: addresses of machines of the receiver's site.
    Peers(Bounded<Text<512>, 32>),
    /// What the sender holds of a payload that it wants or has; the first word about it.
    Holding {
        /// The payload.
        payload: PayloadId,
        /// A [`crate::chunk::Bitmap`]; empty for every chunk.
        bits: Bounded<u8, 32768>,
    },
    /// More chunks than before.
    Have {
        /// The payload.
        payload: PayloadId,
        /// Chunk positions.
        chunks: Bounded<u32, 1024>,
    },
    /// The sender no longer holds or wants a payload.
    Forget {
        /// The payload.
        payload: PayloadId,
    },
    /// A report that only the coordinator can open; pass it on. `seq` names it for the acknowledgement.
    Relay {
        /// Whose report it is.
        device: DeviceId,
        /// Grows with every report of that device.
        seq: u64,
        /// The sealed report.
        sealed: Bounded<u8, 6144>,
    },
    /// The coordinator has stored the report.
    RelayAck {
        /// Whose report.
        device: DeviceId,
        /// Which.
        seq: u64,
        /// Digest of the inventory of this device that the coordinator holds; zeros for none.
        held: DocHash,
        /// [`crate::report::acknowledgement`]: whoever passes it on cannot make it.
        proof: [u8; 32],
    },
    /// From the coordinator: no other machine of the receiver's site is connected to it.
    FirstOfSite,
}

impl Message {
    /// The frame's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self, MAX_FRAME)
    }

    /// The message in a frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, MAX_FRAME)
    }
}

/// A member's sign of life, signed by its device key as [`crate::envelope::Kind::Beacon`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// The sender's certificate envelope.
    pub certificate: Sealed<2048>,
    /// When it was made; of two beacons the later one counts.
    pub issued: Wall,
    /// Where it listens.
    pub addresses: Bounded<Text<128>, 4>,
    /// How willing it is to fetch over the WAN; 0 means it may not (metered). Relative: a branch cache 64, mains and wired 8,
    /// battery or Wi-Fi 1.
    pub wan_weight: u8,
    /// Whether it holds a connection to the coordinator and relays reports.
    pub uplink: bool,
    /// Whether it is leaving.
    pub leaving: bool,
    /// Payloads it still lacks something of and wants, so that every member knows who may lease their extents.
    pub wants: Bounded<PayloadId, 16>,
    /// Payloads it holds whole that others may still want, the latest first: what one member holds need not cross the WAN.
    pub holds: Bounded<PayloadId, 16>,
}

/// A member's word about the WAN extents it fetches, signed by its device key as [`crate::envelope::Kind::Lease`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who speaks.
    pub device: DeviceId,
    /// Its site.
    pub site: SiteId,
    /// Grows with every lease message of a device (wall milliseconds at start, then counted).
    pub seq: u64,
    /// The payload.
    pub payload: PayloadId,
    /// Extents being fetched now; an extent that is no longer named is released.
    pub extents: Bounded<u32, 16>,
    /// Extents it holds whole, a bit for each, without the zeros at the end: they need not cross the WAN again, although
    /// members that are not its neighbours do not see what it holds. Of a payload beyond 192 GiB the rest is not told.
    pub held: Bounded<u8, 3072>,
    /// Payload bytes received for them since they were begun: a value that stands still is a stall.
    pub progress: u64,
}

/// What a block request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockWhat {
    /// A run of chunks.
    Chunks {
        /// The payload.
        payload: PayloadId,
        /// Position of the first chunk.
        first: u32,
        /// Number of chunks; more than one only up to [`MAX_BLOCK`] bytes.
        count: u32,
    },
    /// A document by hash: an envelope or a chunk list.
    Doc(DocHash),
    /// The root of this version.
    Root(u64),
}

/// A request on the block stream: `request u32 | what u8 | hash 32 | first u32 | count u32`, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRequest {
    /// The asker's number for it, repeated in the answer.
    pub request: u32,
    /// What is asked for.
    pub what: BlockWhat,
}

impl BlockRequest {
    /// Bytes of a request.
    pub const LEN: usize = 45;

    /// The request's bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let (tag, hash, first, count) = match self.what {
            BlockWhat::Chunks { payload, first, count } => (0, payload.0, first, count),
            BlockWhat::Doc(hash) => (1, hash.0, 0, 0),
            BlockWhat::Root(version) => (2, [0; 32], version as u32, (version >> 32) as u32),
        };
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.request.to_le_bytes());
        bytes[4] = tag;
        bytes[5..37].copy_from_slice(&hash);
        bytes[37..41].copy_from_slice(&first.to_le_bytes());
        bytes[41..].copy_from_slice(&count.to_le_bytes());
        bytes
    }

    /// The request in these bytes; `None` for one that this version does not know.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[5..37]);
        let (first, count) = (word(37), word(41));
        let what = match bytes[4] {
            0 => BlockWhat::Chunks { payload: PayloadId(hash), first, count },
            1 => BlockWhat::Doc(DocHash(hash)),
            2 => BlockWhat::Root(u64::from(first) | u64::from(count) << 32),
            _ => return None,
        };
        Some(Self { request: word(0), what })
    }
}

/// The fate of a block request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum BlockStatus {
    /// The bytes follow.
    Ok = 0,
    /// Every upload slot is taken; ask someone else or later.
    Busy = 1,
    /// Not held.
    NotHeld = 2,
    /// Not for this peer, or out of bounds.
    Refused = 3,
}

/// The head of an answer on the block stream: `request u32 | status u8 | length u32`, then that many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockAnswer {
    /// The asker's number.
    pub request: u32,
    /// Its fate.
    pub status: BlockStatus,
    /// Bytes that follow; zero unless `Ok`.
    pub len: u32,
}

impl BlockAnswer {
    /// Bytes of the head.
    pub const LEN: usize = 9;

    /// The head's bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.request.to_le_bytes());
        bytes[4] = self.status as u8;
        bytes[5..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// The head in these bytes; `None` for an unknown status.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let status = [BlockStatus::Ok, BlockStatus::Busy, BlockStatus::NotHeld, BlockStatus::Refused]
            .into_iter()
            .find(|status| *status as u8 == bytes[4])?;
        Some(Self { request: word(0), status, len: word(5) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_frames_survive_their_bytes() {
        for what in [
            BlockWhat::Chunks { payload: PayloadId([7; 32]), first: 5, count: 9 },
            BlockWhat::Doc(DocHash([9; 32])),
            BlockWhat::Root(1 << 40 | 3),
        ] {
            let request = BlockRequest { request: 0xdead_beef, what };
            assert_eq!(BlockRequest::parse(&request.to_bytes()), Some(request));
        }
        let answer = BlockAnswer { request: 3, status: BlockStatus::NotHeld, len: 0 };
        assert_eq!(BlockAnswer::parse(&answer.to_bytes()), Some(answer));
        assert_eq!(BlockAnswer::parse(&[0, 0, 0, 0, 9, 0, 0, 0, 0]), None);
    }

    #[test]
    fn the_largest_bitmap_and_the_largest_report_fit_a_frame() {
        let bits = Bounded::new(vec![0xff; crate::chunk::MAX_CHUNKS.div_ceil(8)]).unwrap();
        assert!(Message::Holding { payload: PayloadId([0; 32]), bits }.encode().is_ok());
        let members = Bounded::new(vec![Bounded::new(vec![1; 3072]).unwrap(); 20]).unwrap();
        assert!(Message::Members(members).encode().is_ok());
    }
}
