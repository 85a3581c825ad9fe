//! What peers say to each other, each with its size limit.
//!
//! Three ways: small *control* frames on one ordered stream per peer, *block* requests on a second stream that carries
//! bulk bytes, and *gossip*. All of it is untrusted until checked; what must be believed is inside signed envelopes.

use serde::{Deserialize, Serialize};

use crate::catalog::{Certificate, NodeRole, Window};
use crate::codec::{self, Bounded, CodecError, Text};
use crate::envelope::ASSIGNMENT_CAP;
use crate::ids::{DeviceId, DocHash, GroupId, MemberKey, MentionId, PayloadId, PayloadKey, ReleaseId, SiteId};
use crate::time::Wall;

/// Version of everything in this module; a peer that speaks another one is told so and left.
pub const VERSION: u16 = 7;
/// The most bytes of one control frame.
pub const MAX_FRAME: usize = 64 << 10;
/// The most bytes of one gossip message (a lease of a large payload is the largest).
pub const MAX_GOSSIP: usize = 4 << 10;
/// The most bytes of presence envelopes in one frame, before they are compressed.
pub const MAX_RECORDS: usize = 48 << 10;
/// Mentions of members in one frame.
pub const MAX_IDS: usize = 1024;
/// Payloads that a presence record names as fetched, and as held.
pub const MAX_CLAIMS: usize = 128;
/// The most bytes that one block request may ask for, when it names more than one chunk.
pub const MAX_BLOCK: u64 = 1 << 20;

/// Payloads that one [`Message::Holdings`] speaks of.
pub const MAX_HOLDINGS: usize = 512;
/// Payloads that one [`Lease`] speaks of.
pub const MAX_CLAIMED: usize = 32;

/// A signed envelope inside a message, not yet checked; the bound of its kind is checked when it is opened.
pub type SignedBytes<const N: usize> = Bounded<u8, N>;

/// The topics of the gossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Heads, for everyone: `upswarm/1/head`.
    Head,
    /// Leases of one site: `upswarm/1/site/<hex>`.
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
        certificate: SignedBytes<4096>,
        /// The newest head envelope that the sender holds; empty for none.
        head: SignedBytes<1024>,
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
        certificate: SignedBytes<4096>,
        /// Its assignment to groups.
        assignment: SignedBytes<ASSIGNMENT_CAP>,
        /// The head at this moment; empty for none.
        head: SignedBytes<1024>,
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
    /// Towards a coordinator: make my certificate and my assignment to groups anew.
    Renew,
    /// A certificate for the receiver.
    Renewed {
        /// The new certificate.
        certificate: SignedBytes<4096>,
    },
    /// A head, outside gossip: to a peer that has just connected.
    Head(SignedBytes<1024>),
    /// The sender holds and serves every document of the index with this hash.
    Catalog {
        /// Hash of the index.
        index: DocHash,
    },
    /// Presence envelopes of members.
    Members(Records),
    /// From the coordinator: addresses of machines of the receiver's site.
    Peers(Bounded<Text<512>, 32>),
    /// What the sender holds of payloads, as far as it has not said so.
    Holdings(Bounded<Holding, MAX_HOLDINGS>),
    /// A report that only the coordinator can open; pass it on. `seq` names it for the acknowledgement.
    Relay {
        /// Whose report it is.
        device: DeviceId,
        /// Grows with every report of that device.
        seq: u64,
        /// The encrypted report.
        encrypted: Bounded<u8, 6144>,
    },
    /// The coordinator has stored the report.
    RelayAck {
        /// Whose report.
        device: DeviceId,
        /// Which.
        seq: u64,
        /// Digest of the inventory of this device that the coordinator holds; zeros for none.
        held: DocHash,
        /// [`crate::report::News`] for the device, concealed from whoever passes it on; empty for none.
        news: Bounded<u8, { crate::report::MAX_NEWS }>,
        /// [`crate::report::acknowledgement`]: whoever passes it on cannot make it.
        proof: [u8; 32],
    },
    /// From the coordinator: no other machine of the receiver's site is connected to it.
    FirstOfSite,
    /// What the sender knows of the members: the ids of the mentions in each bucket, combined by exclusive or. A member is in
    /// the bucket that the first bits of its key name; there are 1, 2, 4, ... or 256.
    Digest {
        /// The buckets.
        buckets: Bounded<MentionId, 256>,
        /// Whether the sender wants to see the receiver's digest too, if they differ.
        answer: bool,
    },
    /// Members that the sender knows of, and that the receiver may know nothing of, or not so late.
    Known(Bounded<Mention, MAX_IDS>),
    /// Members whose records the sender asks for.
    Ask(Bounded<MemberKey, MAX_IDS>),
    /// Members that the sender has lost sight of, each with the time of its last record: one that is still there makes another.
    Suspects(Bounded<(MemberKey, Wall), 256>),
    /// An assignment to groups, never to or from a neighbour. From the coordinator: the receiver's newest. Towards it: the one
    /// that the sender holds; empty for none.
    Assignment(SignedBytes<ASSIGNMENT_CAP>),
    /// From the coordinator, passed on by the neighbour that it was sent to: there is news for this device, which comes with the
    /// acknowledgement of its next report.
    Call {
        /// Which device.
        device: DeviceId,
    },
    /// An envelope with a [`RetryOrder`] from the coordinator, which members pass on to each other once.
    Retry(SignedBytes<1024>),
    /// Between a member and the coordinator, after `Hello`: what a clock shows, and which run of the program shows it.
    Here {
        /// The sender's wall clock.
        clock: Wall,
        /// Drawn anew at each start; 0 from the coordinator.
        run: u64,
    },
    /// Towards a coordinator: this machine leaves for good. From it: it has heard.
    Leave,
    /// An envelope with [`WanLimits`] from the coordinator, which members pass on to each other.
    WanLimits(SignedBytes<1024>),
}

/// The most rates in one order.
pub const MAX_WAN_RATES: usize = 16;

/// How much of the WAN the machines of a site may use together for payloads, signed by the coordinator's online keys as
/// [`crate::envelope::Kind::WanLimits`]. The one that was issued last counts, over restarts too; of its rates the lowest of those that
/// apply now. Without any, there is no limit but the machines' own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WanLimits {
    /// The site.
    pub site: SiteId,
    /// When it was signed; grows with every order for this site, whatever the coordinator's clock says.
    pub issued: Wall,
    /// The rates.
    pub rates: Bounded<WanRate, MAX_WAN_RATES>,
    /// Whether the machines give way to everything else on the line; `None` leaves that to each.
    pub yields: Option<bool>,
}

/// A rate, and when it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WanRate {
    /// In each machine's local time; `None` for always.
    pub window: Option<Window>,
    /// Payload bytes per second of the whole site; at least 1.
    pub bytes_per_s: u64,
}

/// The coordinator's order that machines try a release again, signed by its online keys as [`crate::envelope::Kind::Retry`]. It
/// permits nothing: only what is approved and has not come to its end is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryOrder {
    /// The release.
    pub release: ReleaseId,
    /// Only where it is approved for this group.
    pub group: Option<GroupId>,
    /// Only this device.
    pub device: Option<DeviceId>,
    /// When it was signed; makes two orders two.
    pub issued: Wall,
}

/// What one member tells another of a third, without proof: what its newest record says, as far as everybody must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "[u8; 13]", from = "[u8; 13]")]
pub struct Mention {
    /// Of whom.
    pub member: MemberKey,
    /// When the record was made.
    pub issued: Wall,
    /// [`Presence::wan_weight`].
    pub wan_weight: u8,
    /// [`Presence::leaving`].
    pub leaving: bool,
    /// Everybody must know it by its record: it fetches, holds, or relays.
    pub speaks: bool,
    /// Whether the record may be asked of the sender. Not a part of what is mentioned.
    pub has_record: bool,
}

impl Mention {
    /// What a record says.
    pub fn of(presence: &Presence, certificate: &Certificate) -> Self {
        let claims = !presence.fetches.is_empty() || !presence.holds.is_empty() || presence.shares;
        Self {
            member: MemberKey::from(&certificate.device),
            issued: presence.issued,
            wan_weight: presence.wan_weight,
            leaving: presence.leaving,
            speaks: claims || presence.uplink || certificate.role == NodeRole::Cache,
            has_record: true,
        }
    }

    /// Whether two machines that say this of a member know the same of it.
    pub fn says_what(&self, other: &Self) -> bool {
        Self { has_record: true, ..*self } == Self { has_record: true, ..*other }
    }

    /// Its name in a digest.
    pub fn id(&self) -> MentionId {
        let bytes: [u8; 13] = Self { has_record: true, ..*self }.into();
        let mut id = [0; 6];
        id.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..6]);
        MentionId(id)
    }
}

/// Bits of a mention's time that are time: enough for a thousand years of milliseconds. Above are its marks.
const TIME_BITS: u32 = 45;

/// `key 6 | time and marks 6, little-endian | weight 1`.
impl From<Mention> for [u8; 13] {
    fn from(mention: Mention) -> Self {
        let marks = u64::from(mention.leaving) | u64::from(mention.speaks) << 1 | u64::from(mention.has_record) << 2;
        let time = mention.issued.0.min((1 << TIME_BITS) - 1) | marks << TIME_BITS;
        let mut bytes = [0; 13];
        bytes[..6].copy_from_slice(&mention.member.0);
        bytes[6..12].copy_from_slice(&time.to_le_bytes()[..6]);
        bytes[12] = mention.wan_weight;
        bytes
    }
}

impl From<[u8; 13]> for Mention {
    fn from(bytes: [u8; 13]) -> Self {
        let mut time = [0; 8];
        time[..6].copy_from_slice(&bytes[6..12]);
        let time = u64::from_le_bytes(time);
        let mark = |at: u32| time >> (TIME_BITS + at) & 1 == 1;
        Self {
            member: MemberKey(core::array::from_fn(|at| bytes[at])),
            issued: Wall(time & ((1 << TIME_BITS) - 1)),
            wan_weight: bytes[12],
            leaving: mark(0),
            speaks: mark(1),
            has_record: mark(2),
        }
    }
}

/// Presence envelopes, one after the other, each after its length as a `u16`, compressed as one LZ4 block: certificates of one
/// site have most of their bytes in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Bytes before compression, at most [`MAX_RECORDS`].
    len: u32,
    block: Bounded<u8, { MAX_FRAME - 64 }>,
}

impl Records {
    /// The first of these envelopes, as many as have room in a frame, and how many that are. One that no frame can hold counts,
    /// and is left out.
    pub fn pack<'a>(envelopes: impl IntoIterator<Item = &'a [u8]>) -> (Self, usize) {
        let (mut row, mut count) = (Vec::new(), 0);
        for envelope in envelopes {
            if row.len() + 2 + envelope.len() > MAX_RECORDS && !row.is_empty() {
                break;
            }
            count += 1;
            if let Ok(len) = u16::try_from(envelope.len()).map(u16::to_le_bytes)
                && 2 + envelope.len() <= MAX_RECORDS
            {
                row.extend_from_slice(&len);
                row.extend_from_slice(envelope);
            }
        }
        (Self { len: row.len() as u32, block: Bounded::truncated(lz4_flex::block::compress(&row)) }, count)
    }

    /// The envelopes; nothing for a block that is not one.
    pub fn unpack(&self) -> Option<Vec<Vec<u8>>> {
        let len = usize::try_from(self.len).ok().filter(|len| *len <= MAX_RECORDS)?;
        let row = lz4_flex::block::decompress(&self.block, len).ok().filter(|row| row.len() == len)?;
        let mut rest = row.as_slice();
        let mut envelopes = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<2>() {
            let (envelope, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*head)))?;
            envelopes.push(envelope.to_vec());
            rest = tail;
        }
        rest.is_empty().then_some(envelopes)
    }
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

/// Who a member is and what the others need to know of it, signed by its device key as [`crate::envelope::Kind::Presence`].
/// It is made anew when something of it changes, not to show that its maker lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The sender's certificate envelope.
    pub certificate: SignedBytes<2048>,
    /// When it was made; of two records of a device the later one counts.
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
    /// Payloads whose extents it is ready to lease. Only the few that come first for a payload say so.
    pub fetches: Bounded<PayloadKey, MAX_CLAIMS>,
    /// Payloads it holds whole, unless a few others have said so before: what one member holds need not cross the WAN.
    pub holds: Bounded<PayloadKey, MAX_CLAIMS>,
    /// Whether it tells the site which extents it holds of payloads that it has in part.
    pub shares: bool,
}

/// What the sender of [`Message::Holdings`] holds of one payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The payload.
    pub payload: PayloadId,
    /// Whether the sender wants what it lacks: only then is it told of more.
    pub wants: bool,
    /// What it holds.
    pub held: Held,
}

/// How much of a payload is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// Nothing any more, and nothing is wanted.
    Nothing,
    /// Exactly these chunks: a [`crate::chunk::Bitmap`].
    Some(Bounded<u8, 32768>),
    /// These chunks beside those of the last word.
    More(Bounded<u32, 1024>),
    /// Every chunk.
    All,
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
    /// Payload bytes that it has taken over the WAN in this run: a value that stands still is a stall.
    pub progress: u64,
    /// Payloads of which it has something new to say, or something to repeat.
    pub claims: Bounded<Claim, MAX_CLAIMED>,
}

/// What a member fetches of one payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The payload.
    pub payload: PayloadId,
    /// Extents being fetched now, or next; an extent that is no longer named is released.
    pub extents: Bounded<u32, 16>,
    /// Extents it holds whole, a bit for each, without the zeros at the end: they need not cross the WAN again, although
    /// members that are not its neighbours do not see what it holds. Of a payload beyond 192 GiB the rest is not told.
    pub held: Bounded<u8, 3072>,
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
        let holding = Holding { payload: PayloadId([0; 32]), wants: true, held: Held::Some(bits) };
        assert!(Message::Holdings(Bounded::new(vec![holding]).unwrap()).encode().is_ok());
    }

    #[test]
    fn records_come_out_as_they_went_in_and_nothing_else_does() {
        // Bytes without any pattern are the largest block.
        let noise: Vec<u8> = (0u32..1200).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
        let envelopes: Vec<&[u8]> = noise.chunks(400).collect();
        let (records, count) = Records::pack(envelopes.iter().copied());
        assert_eq!(count, envelopes.len());
        assert!(Message::Members(records.clone()).encode().is_ok());
        assert_eq!(records.unpack().unwrap(), envelopes);
        let many = vec![noise.as_slice(); 3];
        let (records, count) = Records::pack(many);
        assert_eq!((records.unpack().unwrap().len(), count), (1, 1), "the others in the next frame");
        let alike = vec![[7; 300].as_slice(); 100];
        assert!(Records::pack(alike).0.block.len() < 1000);
        assert_eq!(Records::pack([]).0.unpack().unwrap(), Vec::<Vec<u8>>::new());
        for (len, block) in [(u32::MAX, vec![0]), (100, vec![0xff; 64]), (3, vec![0x30, 9, 9, 9]), (1, vec![0x10, 0])] {
            assert_eq!(Records { len, block: Bounded::new(block).unwrap() }.unpack(), None);
        }
    }

    #[test]
    fn mentions_come_out_as_they_went_in() {
        let mention = |at: u8| Mention {
            member: MemberKey([at; 6]),
            issued: Wall(1_800_000_000_000 + u64::from(at)),
            wan_weight: at,
            leaving: at & 1 == 1,
            speaks: at & 2 == 2,
            has_record: at & 4 == 4,
        };
        for at in 0..=255 {
            let bytes: [u8; 13] = mention(at).into();
            assert_eq!(Mention::from(bytes), mention(at));
        }
        assert!(mention(3).says_what(&Mention { has_record: true, ..mention(3) }));
        assert_eq!(mention(3).id(), Mention { has_record: true, ..mention(3) }.id());
        assert_ne!(mention(3).id(), Mention { leaving: false, ..mention(3) }.id());
        let most = Message::Known(Bounded::new(vec![mention(9); MAX_IDS]).unwrap());
        assert_eq!(Message::decode(&most.encode().unwrap()).unwrap(), most);
    }

    #[test]
    fn the_largest_presence_fits_its_envelope() {
        let text = || Text::new("a".repeat(128)).unwrap();
        let claims = || Bounded::new(vec![PayloadKey([7; 8]); MAX_CLAIMS]).unwrap();
        let presence = Presence {
            certificate: Bounded::new(vec![1; 1300]).unwrap(),
            issued: Wall(1),
            addresses: Bounded::new(vec![text(), text(), text(), text()]).unwrap(),
            wan_weight: 8,
            uplink: true,
            leaving: false,
            fetches: claims(),
            holds: claims(),
            shares: true,
        };
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        use crate::envelope::{self, Kind, Role};
        assert!(envelope::sign(Kind::Presence, Role::Device, &presence, &[&key]).is_ok());
    }
}
