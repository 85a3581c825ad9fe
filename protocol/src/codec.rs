//! The one place that encodes and decodes structured bytes.
//!
//! bincode 1.3.3 with fixed-size integers, a byte limit, and trailing bytes refused. Every list and text
//! inside a message has a bound of its own ([`Bounded`], [`Text`]), so that a small message cannot ask for much
//! memory or work. Wire types hold no maps, floats or zero-size elements.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;

use bincode::Options;
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Why bytes were not encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value takes, or the input holds, more bytes than this kind may have.
    #[error("{len} bytes, more than the {limit} that are allowed here")]
    TooLong {
        /// Bytes found.
        len: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The bytes do not describe a value of this type, or more bytes follow it.
    #[error("malformed: {0}")]
    Malformed(bincode::Error),
}

fn options(limit: usize) -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(limit as u64).reject_trailing_bytes()
}

/// The bytes of `value`, at most `limit` of them.
pub fn encode<T: Serialize>(value: &T, limit: usize) -> Result<Vec<u8>, CodecError> {
    options(limit).serialize(value).map_err(|error| match *error {
        bincode::ErrorKind::SizeLimit => CodecError::TooLong {
            len: bincode::DefaultOptions::new().with_fixint_encoding().serialized_size(value).unwrap_or(u64::MAX),
            limit: limit as u64,
        },
        _ => CodecError::Malformed(error),
    })
}

/// The value that exactly these bytes describe; `limit` is checked before anything is decoded.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLong { len: bytes.len() as u64, limit: limit as u64 });
    }
    options(limit).deserialize(bytes).map_err(CodecError::Malformed)
}

/// A list of at most `N` elements; a longer one does not decode.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Bounded<T, const N: usize>(Vec<T>);

/// A list that is longer than its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} elements, more than the {limit} that are allowed here")]
pub struct TooMany {
    /// Elements found.
    pub len: usize,
    /// Elements allowed.
    pub limit: usize,
}

impl<T, const N: usize> Bounded<T, N> {
    /// A list of these elements, or an error when they are more than `N`.
    pub fn new(elements: Vec<T>) -> Result<Self, TooMany> {
        if elements.len() > N { Err(TooMany { len: elements.len(), limit: N }) } else { Ok(Self(elements)) }
    }

    /// A list of the first `N` of these elements.
    pub fn truncated(mut elements: Vec<T>) -> Self {
        elements.truncate(N);
        Self(elements)
    }

    /// The elements.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const N: usize> Default for Bounded<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const N: usize> Deref for Bounded<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'a, T, const N: usize> IntoIterator for &'a Bounded<T, N> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Bounded<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for List<T, N> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} elements")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                // The announced length is a claim: refuse it before the first element, and let memory grow by what came.
                if let Some(len) = seq.size_hint().filter(|len| *len > N) {
                    return Err(A::Error::custom(TooMany { len, limit: N }));
                }
                let mut list = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if list.len() == N {
                        return Err(A::Error::custom(TooMany { len: N + 1, limit: N }));
                    }
                    list.push(element);
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(List::<T, N>(PhantomData)).map(Self)
    }
}

/// A text of at most `N` bytes without control characters, so that it can be shown on any terminal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Text<const N: usize>(String);

/// A text that may not stand here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// More bytes than allowed.
    #[error("a text of {len} bytes, more than the {limit} that are allowed here")]
    TooLong {
        /// Bytes found.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A control character (line feed and tab among them).
    #[error("a text with the control character {0:?}")]
    Control(char),
}

impl<const N: usize> Text<N> {
    /// The text, if it is short enough and holds no control character.
    pub fn new(text: impl Into<String>) -> Result<Self, TextError> {
        let text = text.into();
        if text.len() > N {
            return Err(TextError::TooLong { len: text.len(), limit: N });
        }
        match text.chars().find(|c| c.is_control()) {
            Some(control) => Err(TextError::Control(control)),
            None => Ok(Self(text)),
        }
    }

    /// The text made to fit: control characters become spaces, the end is cut. For what this program says itself.
    pub fn lossy(text: &str) -> Self {
        let mut fitted = String::new();
        for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            if fitted.len() + c.len_utf8() > N {
                break;
            }
            fitted.push(c);
        }
        Self(fitted)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> Deref for Text<N> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> AsRef<str> for Text<N> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Text<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_and_long_inputs_are_refused() {
        let bytes = encode(&7u32, 16).unwrap();
        assert_eq!(bytes, [7, 0, 0, 0]);
        assert!(matches!(decode::<u32>(&[7, 0, 0, 0, 0], 16), Err(CodecError::Malformed(_))));
        assert!(matches!(decode::<u32>(&bytes, 3), Err(CodecError::TooLong { len: 4, limit: 3 })));
        assert!(matches!(encode(&7u32, 3), Err(CodecError::TooLong { len: 4, limit: 3 })));
    }

    #[test]
    fn a_claimed_length_costs_nothing() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.push(1);
        assert!(decode::<Bounded<u8, 4>>(&bytes, 64).is_err());
        let five = encode(&vec![1u8; 5], 64).unwrap();
        assert!(decode::<Bounded<u8, 4>>(&five, 64).is_err());
        assert_eq!(&*decode::<Bounded<u8, 5>>(&five, 64).unwrap(), &[1; 5]);
    }

    #[test]
    fn texts_hold_no_control_characters() {
        assert!(Text::<8>::new("ninechars").is_err());
        assert_eq!(Text::<8>::new("a\x1b[2J"), Err(TextError::Control('\x1b')));
        assert_eq!(Text::<4>::lossy("a\nbcé").as_str(), "a bc");
    }
}
