//! Names of things: fixed-size byte strings that print as lower-case hex.

use core::fmt;
use core::str::FromStr;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the hex form of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, found {found:?}")]
pub struct ParseIdError {
    /// Number of digits that the identifier has.
    pub expected: usize,
    /// What was given, cut to 80 characters.
    pub found: String,
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let refuse = || ParseIdError { expected: 2 * N, found: text.chars().take(80).collect() };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(refuse());
    }
    let nibble = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0]).zip(nibble(pair[1])).map(|(h, l)| h << 4 | l).ok_or_else(refuse)?;
    }
    Ok(bytes)
}

struct IdVisitor<const N: usize>;

impl<'de, const N: usize> Visitor<'de> for IdVisitor<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hexadecimal digits", 2 * N)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<[u8; N], E> {
        parse_hex(text).map_err(E::custom)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<[u8; N], A::Error> {
        let mut bytes = [0; N];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(at, &self))?;
        }
        Ok(bytes)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The bytes of the identifier.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight hex digits, for tables and logs.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }

        /// Hex in text formats (JSON, TOML), the plain bytes on the wire.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    use serde::ser::SerializeTuple;
                    let mut tuple = serializer.serialize_tuple($len)?;
                    self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
                    tuple.end()
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(IdVisitor::<$len>).map(Self)
                } else {
                    deserializer.deserialize_tuple($len, IdVisitor::<$len>).map(Self)
                }
            }
        }
    };
}

id! {
    /// The first bytes of a payload's id: names it where a site tells who fetches and who holds it. Two payloads with one key
    /// would cost a wait and no more, for nothing is believed of bytes that were not hashed.
    PayloadKey, 8
}

impl From<&PayloadId> for PayloadKey {
    fn from(payload: &PayloadId) -> Self {
        let mut key = [0; 8];
        key.copy_from_slice(&payload.0[..8]);
        Self(key)
    }
}

id! {
    /// The first bytes of a device's key: names it where a site tells who is there. Nothing is believed of a device whose key
    /// and certificate were not seen.
    MemberKey, 6
}

impl From<&DeviceId> for MemberKey {
    fn from(device: &DeviceId) -> Self {
        let mut key = [0; 6];
        key.copy_from_slice(&device.0[..6]);
        Self(key)
    }
}

id! {
    /// The first bytes of the BLAKE3 of what is mentioned of a member ([`crate::wire::Mention`]), combined by exclusive or to a
    /// digest of many.
    MentionId, 6
}

id! {
    /// The BLAKE3 of a whole payload.
    PayloadId, 32
}
id! {
    /// The BLAKE3 of one content-defined chunk of a payload.
    ChunkId, 32
}
id! {
    /// The BLAKE3 of a document as it is stored and sent: a whole envelope, or a chunk list.
    DocHash, 32
}
id! {
    /// The BLAKE3 of a release's signed body. More signatures do not change it.
    ReleaseId, 32
}
id! {
    /// The Ed25519 public key of a device, which is its libp2p identity too.
    DeviceId, 32
}
id! {
    /// An Ed25519 public key that signs documents.
    PublicKey, 32
}
id! {
    /// The admin's name for a group never leaves the coordinator; this opaque number does.
    GroupId, 16
}
id! {
    /// The opaque number of a site: machines that share a LAN and one WAN link.
    SiteId, 16
}

impl PayloadId {
    /// The identifier of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl ChunkId {
    /// The identifier of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl DocHash {
    /// The hash of a document's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl ReleaseId {
    /// The identifier of a release with this signed body.
    pub fn of(body: &[u8]) -> Self {
        Self(*blake3::hash(body).as_bytes())
    }
}

impl From<DeviceId> for PublicKey {
    fn from(device: DeviceId) -> Self {
        Self(device.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_what_is_not_hex() {
        let id = GroupId([0xab; 16]);
        assert_eq!(id.to_string().parse::<GroupId>().unwrap(), id);
        for bad in ["", "ab", &"ab".repeat(17), &"+b".repeat(16), &"é".repeat(16)] {
            assert!(bad.parse::<GroupId>().is_err(), "{bad}");
        }
    }
}
