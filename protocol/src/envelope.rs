//! The signed wrapper of every document, parsed by hand.
//!
//! ```text
//! magic "UPS1" | kind u8 | role u8 | zero u16 | body length u32 | body | signatures u8 | (public key 32 | signature 64)*
//! ```
//! Integers are little-endian. A signature covers a context string, kind, role and the *received* body bytes
//! (after DSSE's pre-authentication encoding), so nothing is ever encoded again to be verified. The order is:
//! size cap, header, signatures against a threshold, and only then decoding.

use ed25519_dalek::{Signature, Signer, SigningKey};
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};
use crate::ids::{DocHash, PublicKey};
use crate::keyring::Keys;
use crate::signature_cache::verify_strict;

const MAGIC: [u8; 4] = *b"UPS1";
const HEADER: usize = 12;
const SIGNATURE: usize = 96;
const CONTEXT: &[u8] = b"upswarm document v1";

/// The most signatures that one envelope may carry: a root that replaces all of its keys is signed by a threshold of the old
/// and one of the new.
pub const MAX_SIGNATURES: usize = 32;

/// The most bytes of an assignment to groups: 64 numbers, and the ways to the roots of lists.
pub const ASSIGNMENT_CAP: usize = 10 << 10;

/// What a document is. The number is part of what is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// Keys and thresholds.
    Root = 1,
    /// One version of one product.
    Release = 2,
    /// Release x group x action x schedule.
    Approval = 3,
    /// Every current document.
    Index = 4,
    /// Pointer to the index.
    Head = 5,
    /// Device key, site, role.
    Certificate = 6,
    /// Who a member of a site is, and where.
    Presence = 7,
    /// A member's word about a WAN extent.
    Lease = 8,
    /// A device's state, before it is encrypted.
    Report = 9,
    /// The groups of one device.
    Assignment = 10,
    /// What a group is.
    Group = 11,
    /// What is approved as soon as it is published.
    Rules = 12,
    /// Which snapshots of a repository are approved as soon as they are there.
    RepositoryRule = 13,
    /// Control frames that a device posts over HTTP.
    FrameBatch = 20,
    /// The coordinator's order that machines try a release again.
    Retry = 21,
    /// The coordinator's order how much of the WAN a site may use.
    WanLimits = 22,
    /// The coordinator's order that a device tells what programs printed there.
    LogOrder = 23,
}

impl Kind {
    /// The most bytes that a whole envelope of this kind may have.
    pub const fn cap(self) -> usize {
        match self {
            Kind::Head | Kind::Retry | Kind::WanLimits => 1 << 10,
            Kind::LogOrder => 512,
            Kind::Assignment => ASSIGNMENT_CAP,
            Kind::Group | Kind::RepositoryRule => 16 << 10,
            Kind::Rules => 256 << 10,
            Kind::Root => 48 << 10,
            Kind::Approval => 64 << 10,
            Kind::Release => 256 << 10,
            Kind::Index => 128 << 10,
            Kind::FrameBatch => 256 << 10,
            Kind::Certificate | Kind::Presence | Kind::Lease | Kind::Report => 4 << 10,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::*;
        let all = [
            Root,
            Release,
            Approval,
            Index,
            Head,
            Certificate,
            Presence,
            Lease,
            Report,
            Assignment,
            Group,
            Rules,
            RepositoryRule,
            FrameBatch,
            Retry,
            WanLimits,
            LogOrder,
        ];
        all.into_iter().find(|k| *k as u8 == byte)
    }
}

/// In which capacity a document is signed. The number is part of what is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Role {
    /// The offline keys of the root.
    Root = 1,
    /// Vouches for releases.
    Publisher = 2,
    /// Decides what is installed where.
    Approver = 3,
    /// The coordinator's online keys.
    Online = 4,
    /// A device's own key.
    Device = 5,
}

impl Role {
    fn from_byte(byte: u8) -> Option<Self> {
        [Role::Root, Role::Publisher, Role::Approver, Role::Online, Role::Device].into_iter().find(|r| *r as u8 == byte)
    }
}

/// Why an envelope was refused.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Longer than its kind may be; nothing of it was parsed.
    #[error("{len} bytes, more than the {cap} a document of this kind may have")]
    TooLong {
        /// Bytes found.
        len: usize,
        /// Bytes allowed.
        cap: usize,
    },
    /// Not an envelope, cut short, or with bytes behind its end.
    #[error("not a well-formed envelope: {0}")]
    Malformed(&'static str),
    /// A document of another kind or role than the one expected.
    #[error("expected a {expected_kind:?} signed as {expected_role:?}")]
    WrongKind {
        /// The kind that was expected.
        expected_kind: Kind,
        /// The role that was expected.
        expected_role: Role,
    },
    /// Valid signatures by fewer distinct holders of trusted keys than the threshold.
    #[error("{valid} valid signatures by distinct holders of trusted keys, {threshold} are needed")]
    Threshold {
        /// Distinct holders of trusted keys whose signature is good.
        valid: usize,
        /// Holders needed.
        threshold: usize,
    },
    /// Verified, but the body does not decode.
    #[error("signed, but its body is {0}")]
    Body(#[from] CodecError),
}

/// An envelope whose frame has been parsed and whose signatures have not been checked.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    kind: Kind,
    role: Role,
    body: &'a [u8],
    signatures: &'a [u8],
}

/// Body bytes that enough trusted keys have signed. Only [`Envelope::verify`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Verified<'a> {
    kind: Kind,
    body: &'a [u8],
}

impl<'a> Verified<'a> {
    /// The signed bytes.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The value that the signed bytes describe.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, EnvelopeError> {
        Ok(codec::decode(self.body, self.kind.cap())?)
    }
}

impl<'a> Envelope<'a> {
    /// Parses the frame of an envelope of the expected kind and role. Looks at no more than `kind.cap()` bytes.
    pub fn parse(bytes: &'a [u8], kind: Kind, role: Role) -> Result<Self, EnvelopeError> {
        if bytes.len() > kind.cap() {
            return Err(EnvelopeError::TooLong { len: bytes.len(), cap: kind.cap() });
        }
        let header = bytes.get(..HEADER).ok_or(EnvelopeError::Malformed("shorter than its header"))?;
        if header[..4] != MAGIC {
            return Err(EnvelopeError::Malformed("wrong magic bytes"));
        }
        if Kind::from_byte(header[4]) != Some(kind) || Role::from_byte(header[5]) != Some(role) {
            return Err(EnvelopeError::WrongKind { expected_kind: kind, expected_role: role });
        }
        if header[6..8] != [0, 0] {
            return Err(EnvelopeError::Malformed("reserved bytes are not zero"));
        }
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let rest = &bytes[HEADER..];
        let (body, rest) = rest.split_at_checked(len).ok_or(EnvelopeError::Malformed("shorter than its body"))?;
        let (count, signatures) = rest.split_first().ok_or(EnvelopeError::Malformed("no signature count"))?;
        let count = usize::from(*count);
        if count > MAX_SIGNATURES || signatures.len() != count * SIGNATURE {
            return Err(EnvelopeError::Malformed("signature list of the wrong length"));
        }
        Ok(Self { kind, role, body, signatures })
    }

    /// The body, if as many distinct holders of `keys` as their threshold says have signed it. Strict Ed25519: no small-order
    /// keys, no malleable signatures. Refuses a threshold of zero or one above the number of distinct holders.
    pub fn verify(&self, keys: &Keys) -> Result<Verified<'a>, EnvelopeError> {
        let valid = keys.voices_of(&self.signers_among(|key| keys.contains(key)));
        let threshold = usize::from(keys.threshold);
        if threshold == 0 || valid < threshold {
            return Err(EnvelopeError::Threshold { valid, threshold: threshold.max(1) });
        }
        Ok(Verified { kind: self.kind, body: self.body })
    }

    /// The body, if one of these keys has signed it: a device's own documents, and questions who has signed.
    pub fn verify_one(&self, keys: &[PublicKey]) -> Result<Verified<'a>, EnvelopeError> {
        if self.signers_among(|key| keys.contains(key)).is_empty() {
            return Err(EnvelopeError::Threshold { valid: 0, threshold: 1 });
        }
        Ok(Verified { kind: self.kind, body: self.body })
    }

    /// Distinct keys of those that are meant whose signature is good.
    fn signers_among(&self, is_meant: impl Fn(&PublicKey) -> bool) -> Vec<PublicKey> {
        let message = signed_message(self.kind, self.role, self.body);
        let mut signers: Vec<PublicKey> = Vec::new();
        for entry in self.signatures.chunks_exact(SIGNATURE) {
            let Some((key, signature)) = entry.split_first_chunk() else { continue };
            let (key, Ok(signature)) = (PublicKey(*key), Signature::from_slice(signature)) else { continue };
            if is_meant(&key) && !signers.contains(&key) && verify_strict(&key, &message, &signature) {
                signers.push(key);
            }
        }
        signers
    }

    /// The body before any signature was checked, for tools that show what a refused document claims.
    pub fn unverified_body(&self) -> &'a [u8] {
        self.body
    }

    /// The keys that claim to have signed.
    pub fn claimed_signers(&self) -> impl Iterator<Item = PublicKey> + 'a {
        self.signatures.chunks_exact(SIGNATURE).map(|entry| {
            let mut key = [0; 32];
            key.copy_from_slice(&entry[..32]);
            PublicKey(key)
        })
    }
}

fn signed_message(kind: Kind, role: Role, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(CONTEXT.len() + 10 + body.len());
    message.extend_from_slice(CONTEXT);
    message.extend_from_slice(&[kind as u8, role as u8]);
    message.extend_from_slice(&(body.len() as u64).to_le_bytes());
    message.extend_from_slice(body);
    message
}

/// An envelope around `body` with one signature per key of `signers`.
pub fn sign_body(kind: Kind, role: Role, body: &[u8], signers: &[&SigningKey]) -> Result<Vec<u8>, EnvelopeError> {
    let len = HEADER + body.len() + 1 + signers.len() * SIGNATURE;
    if len > kind.cap() {
        return Err(EnvelopeError::TooLong { len, cap: kind.cap() });
    }
    if signers.len() > MAX_SIGNATURES {
        return Err(EnvelopeError::Malformed("too many signers"));
    }
    let message = signed_message(kind, role, body);
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[kind as u8, role as u8, 0, 0]);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes.push(signers.len() as u8);
    for key in signers {
        bytes.extend_from_slice(key.verifying_key().as_bytes());
        bytes.extend_from_slice(&key.sign(&message).to_bytes());
    }
    Ok(bytes)
}

/// An envelope with these signatures beside those that it has. A key that has signed already does not sign again.
pub fn add_signatures(
    envelope: &[u8],
    kind: Kind,
    role: Role,
    signers: &[&SigningKey],
) -> Result<Vec<u8>, EnvelopeError> {
    let parsed = Envelope::parse(envelope, kind, role)?;
    let known: Vec<PublicKey> = parsed.claimed_signers().collect();
    let new: Vec<&SigningKey> =
        signers.iter().filter(|key| !known.contains(&PublicKey(key.verifying_key().to_bytes()))).copied().collect();
    let count = known.len() + new.len();
    let len = envelope.len() + new.len() * SIGNATURE;
    if count > MAX_SIGNATURES {
        return Err(EnvelopeError::Malformed("too many signers"));
    }
    if len > kind.cap() {
        return Err(EnvelopeError::TooLong { len, cap: kind.cap() });
    }
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&envelope[..HEADER + parsed.body.len()]);
    bytes.push(count as u8);
    bytes.extend_from_slice(parsed.signatures);
    let message = signed_message(kind, role, parsed.body);
    for key in new {
        bytes.extend_from_slice(key.verifying_key().as_bytes());
        bytes.extend_from_slice(&key.sign(&message).to_bytes());
    }
    Ok(bytes)
}

/// Encodes and signs a document. For a device's own documents and for the tools that hold the admin's keys.
pub fn sign<T: serde::Serialize>(
    kind: Kind,
    role: Role,
    value: &T,
    signers: &[&SigningKey],
) -> Result<Vec<u8>, EnvelopeError> {
    sign_body(kind, role, &codec::encode(value, kind.cap())?, signers)
}

/// Parses, verifies and decodes in the one right order.
pub fn open<T: DeserializeOwned>(bytes: &[u8], kind: Kind, role: Role, keys: &Keys) -> Result<T, EnvelopeError> {
    Envelope::parse(bytes, kind, role)?.verify(keys)?.decode()
}

/// The same for a document that one of these keys signs alone: a device's own.
pub fn open_one<T: DeserializeOwned>(
    bytes: &[u8],
    kind: Kind,
    role: Role,
    keys: &[PublicKey],
) -> Result<T, EnvelopeError> {
    Envelope::parse(bytes, kind, role)?.verify_one(keys)?.decode()
}

/// A document in the form in which it is stored, sent and pinned by hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The BLAKE3 of `bytes`.
    pub hash: DocHash,
    /// The whole envelope.
    pub bytes: Vec<u8>,
}

impl Document {
    /// The document that these bytes are.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { hash: DocHash::of(&bytes), bytes }
    }
}
