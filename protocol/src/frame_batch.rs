//! Control frames between a device and the coordinator over HTTP, for sites whose firewall lets nothing else out.
//!
//! Owns the two messages of that exchange: what a device posts, signed by its key and encrypted to the coordinator's report key,
//! and what comes back. It never judges a frame: each is checked as if it had come over a connection, and what must be believed
//! inside one (heads, certificates, acknowledgements) carries its own proof.

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::codec::{self, Bounded, CodecError};
use crate::envelope::{self, Envelope, EnvelopeError, Kind, Role};
use crate::ids::DeviceId;
use crate::wire::MAX_FRAME;

/// Frames in one batch, in either direction.
pub const MAX_FRAMES: usize = 64;
/// Bytes of the frames of one batch. The rest waits for the next one.
pub const MAX_BYTES: usize = 192 << 10;
/// The most seconds that the coordinator keeps a request waiting for news.
pub const MAX_WAIT: u16 = 25;

/// A control frame, not yet checked.
type Frame = Bounded<u8, MAX_FRAME>;

/// What a device posts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    /// Names the connection that the batches of one run belong to: another number is a new connection.
    pub session: u64,
    /// Counts the batches of a session: one that comes again, or late, is refused.
    pub number: u64,
    /// Seconds for which the answer may wait for frames, at most [`MAX_WAIT`].
    pub wait: u16,
    /// In the order in which they are to be taken.
    pub frames: Bounded<Frame, MAX_FRAMES>,
}

/// Why a posted batch is refused.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The envelope does not verify.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Nobody signed it.
    #[error("nobody signed it")]
    Unsigned,
    /// More than [`MAX_BYTES`].
    #[error("its frames are longer than {MAX_BYTES} bytes together")]
    TooLong,
}

impl Posted {
    /// The batch as an envelope, signed by the device's key. Errors if it is beyond the bounds.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, EnvelopeError> {
        envelope::sign(Kind::FrameBatch, Role::Device, self, &[key])
    }

    /// The device that signed these bytes, and what it posts. Whether it may speak is for its frames to show.
    pub fn open(bytes: &[u8]) -> Result<(DeviceId, Self), BatchError> {
        let envelope = Envelope::parse(bytes, Kind::FrameBatch, Role::Device)?;
        let signer = envelope.claimed_signers().next().ok_or(BatchError::Unsigned)?;
        let posted: Self = envelope.verify_one(&[signer])?.decode()?;
        if posted.frames.iter().map(|frame| frame.len()).sum::<usize>() > MAX_BYTES {
            return Err(BatchError::TooLong);
        }
        Ok((DeviceId(signer.0), posted))
    }
}

/// The answer to a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// In the order in which they are to be taken.
    pub frames: Bounded<Frame, MAX_FRAMES>,
}

impl Answered {
    /// The most bytes of an answer.
    pub const LIMIT: usize = MAX_BYTES + MAX_FRAMES * 16;

    /// Takes frames from the front of `queue` as far as one answer holds them.
    pub fn take(queue: &mut std::collections::VecDeque<Vec<u8>>) -> Self {
        Self { frames: take(queue) }
    }

    /// The answer's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self, Self::LIMIT)
    }

    /// The answer in these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, Self::LIMIT)
    }
}

/// Takes frames from the front of `queue` as far as one batch holds them. A frame beyond [`MAX_FRAME`] is dropped.
pub fn take(queue: &mut std::collections::VecDeque<Vec<u8>>) -> Bounded<Frame, MAX_FRAMES> {
    let (mut frames, mut bytes) = (Vec::new(), 0);
    while let Some(next) = queue.front() {
        bytes += next.len();
        if frames.len() == MAX_FRAMES || bytes > MAX_BYTES {
            break;
        }
        frames.extend(queue.pop_front().and_then(|frame| Bounded::new(frame).ok()));
    }
    Bounded::truncated(frames)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn posted(frames: &[usize]) -> Posted {
        let mut queue: VecDeque<Vec<u8>> = frames.iter().map(|len| vec![7; *len]).collect();
        Posted { session: 1, number: 2, wait: 3, frames: take(&mut queue) }
    }

    #[test]
    fn a_batch_names_its_signer_and_survives_its_bytes() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let batch = posted(&[3, 70]);
        let bytes = batch.sign(&key).unwrap();
        let (device, opened) = Posted::open(&bytes).unwrap();
        assert_eq!((device.0, opened), (key.verifying_key().to_bytes(), batch));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Posted::open(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_does_not_fit_waits_for_the_next_batch() {
        let mut queue: VecDeque<Vec<u8>> = (0..10).map(|_| vec![1; MAX_FRAME]).collect();
        let first = Answered::take(&mut queue);
        assert_eq!((first.frames.len(), queue.len()), (MAX_BYTES / MAX_FRAME, 10 - MAX_BYTES / MAX_FRAME));
        assert_eq!(Answered::decode(&first.encode().unwrap()).unwrap(), first);
        let mut many: VecDeque<Vec<u8>> = (0..100).map(|_| Vec::new()).collect();
        assert_eq!((take(&mut many).len(), many.len()), (MAX_FRAMES, 100 - MAX_FRAMES));
        let mut large = VecDeque::from([vec![0; MAX_FRAME + 1], vec![1]]);
        assert_eq!(take(&mut large).len(), 1, "a frame that no peer would take is dropped");
    }

    #[test]
    fn the_largest_batch_fits_its_envelope() {
        let batch = posted(&[MAX_FRAME; 3]);
        assert_eq!(batch.frames.len(), 3);
        assert!(batch.sign(&SigningKey::from_bytes(&[5; 32])).unwrap().len() <= Kind::FrameBatch.cap());
    }
}
