//! Join tokens: what a machine needs to find the coordinator, to know it, and to be let in once.
//!
//! `upswarm1:` and base32 (RFC 4648, lower case, no padding) of the encoded token and the first four bytes of its BLAKE3.

use serde::{Deserialize, Serialize};
use upswarm_protocol::codec::{self, Bounded, Text};
use upswarm_protocol::ids::{DeviceId, DocHash};
use upswarm_protocol::time::Wall;

const PREFIX: &str = "upswarm1:";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const LIMIT: usize = 8 << 10;
const CHECKSUM: usize = 4;

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinToken {
    /// Where the coordinator listens: multiaddresses with `/p2p/<peer>`.
    pub(crate) addresses: Bounded<Text<512>, 8>,
    /// Base URLs at which the coordinator, or an origin, answers: the way in where only HTTP gets out.
    pub(crate) origins: Bounded<Text<512>, 4>,
    /// The coordinator's transport key; another one at the address is an impostor.
    pub(crate) coordinator: DeviceId,
    /// The hash of the root of trust that the machine pins.
    pub(crate) root: DocHash,
    /// The one-time secret.
    pub(crate) secret: [u8; 32],
    /// When the token ends.
    pub(crate) expires: Wall,
}

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// Begins otherwise.
    #[error("a join token begins with {PREFIX}; copy it whole, as `upswarm coordinator invite` printed it")]
    Prefix,
    /// Damaged on the way.
    #[error("the join token is damaged; copy it whole, as `upswarm coordinator invite` printed it")]
    Damaged,
    /// Made by another version.
    #[error("the join token was made by another version of upswarm; update this machine or the coordinator")]
    Content,
}

impl JoinToken {
    /// The token as text.
    pub(crate) fn encode(&self) -> Result<String, codec::CodecError> {
        let mut bytes = codec::encode(self, LIMIT)?;
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        Ok(format!("{PREFIX}{}", base32(&bytes)))
    }

    /// The token in a text; space around it is ignored.
    pub(crate) fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() > LIMIT * 2 {
            return Err(TokenError::Damaged);
        }
        let bytes = unbase32(text).ok_or(TokenError::Damaged)?;
        let at = bytes.len().checked_sub(CHECKSUM).ok_or(TokenError::Damaged)?;
        let (bytes, found) = bytes.split_at(at);
        if checksum(bytes) != found {
            return Err(TokenError::Damaged);
        }
        codec::decode(bytes, LIMIT).map_err(|_| TokenError::Content)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let hash = blake3::hash(bytes);
    let hash = hash.as_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(ALPHABET[(bits >> held & 31) as usize] as char);
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        text.push(ALPHABET[(bits << (5 - held) & 31) as usize] as char);
    }
    text
}

fn unbase32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for c in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == c.to_ascii_lowercase())? as u32;
        bits = bits << 5 | value;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // What is left over are fewer bits than a character, all zero.
    (held < 5 && bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            addresses: Bounded::new(vec![Text::new("/ip4/127.0.0.1/tcp/4001/p2p/12D3Koo").unwrap()]).unwrap(),
            origins: Bounded::new(vec![Text::new("http://127.0.0.1:4702").unwrap()]).unwrap(),
            coordinator: DeviceId([1; 32]),
            root: DocHash([2; 32]),
            secret: [3; 32],
            expires: Wall(4),
        }
    }

    #[test]
    fn a_token_survives_its_text() {
        let text = token().encode().unwrap();
        assert_eq!(JoinToken::parse(&text).unwrap(), token());
        assert_eq!(JoinToken::parse(&format!("  {text}\n")).unwrap(), token());
    }

    #[test]
    fn every_damage_is_noticed() {
        let text = token().encode().unwrap();
        for cut in 0..text.len() {
            assert!(JoinToken::parse(&text[..cut]).is_err(), "cut at {cut}");
        }
        for at in PREFIX.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(JoinToken::parse(std::str::from_utf8(&bytes).unwrap()), Err(TokenError::Damaged), "byte {at}");
        }
        for hostile in ["", "upswarm1:", "upswarm2:aaaa", "upswarm1:é", "upswarm1:0189", &format!("{text}a")] {
            assert!(JoinToken::parse(hostile).is_err(), "{hostile}");
        }
        let long = format!("{PREFIX}{}", "a".repeat(100_000));
        assert_eq!(JoinToken::parse(&long), Err(TokenError::Damaged));
        // A good checksum over something else.
        let mut bytes = vec![0xff; 40];
        bytes.extend_from_slice(&checksum(&[0xff; 40]));
        assert_eq!(JoinToken::parse(&format!("{PREFIX}{}", base32(&bytes))), Err(TokenError::Content));
    }
}
