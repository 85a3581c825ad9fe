//! Noise with a cipher and records that fit bulk data.
//!
//! `libp2p-noise` knows ChaCha20-Poly1305 alone, and takes each byte through four buffers on its way. Processors have
//! instructions for AES-GCM: on the machine that this was measured on, encrypting and opening take 0.27 s per GiB together, and
//! 0.93 s with ChaCha20-Poly1305. Bulk bytes are encrypted from where they lie and opened to where they are wanted.
//!
//! **Handshake.** XX of the Noise Protocol Framework, revision 34, by the `snow` crate. As in the libp2p specification
//! "noise", each side sends its device key inside, with that key's signature of its X25519 key. That signature is verified
//! strictly, and keys that sign anything for anybody are refused.
//!
//! **Records** follow, each with its length in two bytes before it: at most [`RECORD`] bytes and a tag. After every
//! [`REKEY`] of them the key is replaced (section 11.3 of the framework), so no key encrypts more than 2 GiB.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use snow::params::NoiseParams;
use snow::resolvers::{DefaultResolver, FallbackResolver, RingResolver};
use snow::{Builder, HandshakeState, TransportState};
use upswarm_protocol::ids::DeviceId;
use zeroize::Zeroizing;

use super::address;

/// The name by which both sides choose it, and part of what they hash.
const NAME: &str = "/upswarm/noise/1";
static PARAMS: LazyLock<NoiseParams> =
    LazyLock::new(|| "Noise_XX_25519_AESGCM_SHA256".parse().expect("a name of the framework"));
/// What a device signs about its X25519 key begins with this: it must not be taken for anything else that it signs.
const SIGNED: &[u8] = b"upswarm: the Noise key of this device\0";
/// A device key and its signature.
const PROOF: usize = 32 + 64;
/// Longer than every message of the handshake: two keys, the proof, and two tags.
const MAX_HANDSHAKE: usize = 256;

/// Bytes that a record holds at most. [`AT_ONCE`] of them, and a small one before them, are what the system sends as one piece:
/// 64 KiB with the headers.
pub(super) const RECORD: usize = 32_512;
const TAG: usize = 16;
const LEN: usize = 2;
const ENCRYPTED: usize = LEN + RECORD + TAG;
/// Records under one key.
const REKEY: u64 = 1 << 16;
/// Records that are written, or read, with one call.
pub(super) const AT_ONCE: usize = 2;
/// Writes that are shorter wait for the next one, or for a flush.
const SMALL: usize = 4 << 10;

/// The upgrade that makes a [`Channel`]. Shared by all connections of a host.
#[derive(Clone)]
pub(super) struct Noise(Arc<Identity>);

struct Identity {
    /// An X25519 key that lives as long as the process.
    secret: Zeroizing<Vec<u8>>,
    proof: [u8; PROOF],
}

/// Why two machines did not come to speak.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoiseError {
    #[error("the connection broke in the handshake: {0}")]
    Io(#[from] io::Error),
    #[error("the handshake failed: {0}")]
    Handshake(#[from] snow::Error),
    #[error("the peer does not prove that it holds a device key")]
    Proof,
}

impl Noise {
    /// For the device with this Ed25519 seed.
    pub(super) fn new(seed: &[u8; 32]) -> Result<Self, NoiseError> {
        let device = SigningKey::from_bytes(seed);
        let pair = builder().generate_keypair()?;
        let mut proof = [0; PROOF];
        proof[..32].copy_from_slice(device.verifying_key().as_bytes());
        proof[32..].copy_from_slice(&device.sign(&signed(&pair.public)).to_bytes());
        Ok(Self(Arc::new(Identity { secret: Zeroizing::new(pair.private), proof })))
    }

    /// XX: the initiator's ephemeral key; then both keys and the proof of the responder; then those of the initiator.
    async fn shake<T: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut io: T,
        initiates: bool,
    ) -> Result<(PeerId, Channel<T>), NoiseError> {
        let builder = builder().prologue(NAME.as_bytes())?.local_private_key(&self.0.secret)?;
        let mut state = if initiates { builder.build_initiator()? } else { builder.build_responder()? };
        let proof = if initiates {
            write(&mut io, &mut state, &[]).await?;
            let proof = read(&mut io, &mut state).await?;
            write(&mut io, &mut state, &self.0.proof).await?;
            proof
        } else {
            if !read(&mut io, &mut state).await?.is_empty() {
                return Err(NoiseError::Proof);
            }
            write(&mut io, &mut state, &self.0.proof).await?;
            read(&mut io, &mut state).await?
        };
        let peer = state.get_remote_static().and_then(|key| prover(&proof, key)).ok_or(NoiseError::Proof)?;
        Ok((peer, Channel::new(io, state.into_transport_mode()?)))
    }
}

fn builder() -> Builder<'static> {
    // The framework's ciphers, hashes and randomness by ring; X25519, which ring has in another form, by curve25519-dalek.
    let resolver = FallbackResolver::new(Box::new(RingResolver), Box::new(DefaultResolver));
    Builder::with_resolver(PARAMS.clone(), Box::new(resolver))
}

fn signed(key: &[u8]) -> Vec<u8> {
    [SIGNED, key].concat()
}

/// The device that has signed this X25519 key.
fn prover(proof: &[u8], key: &[u8]) -> Option<PeerId> {
    let proof: &[u8; PROOF] = proof.try_into().ok()?;
    let (device, signature) = proof.split_first_chunk::<32>()?;
    let verifying = VerifyingKey::from_bytes(device).ok()?;
    let signature = Signature::from_slice(signature).ok()?;
    let holds = !verifying.is_weak() && verifying.verify_strict(&signed(key), &signature).is_ok();
    holds.then(|| address::peer_id(DeviceId(*device))).flatten()
}

async fn write(
    io: &mut (impl AsyncWrite + Unpin),
    state: &mut HandshakeState,
    payload: &[u8],
) -> Result<(), NoiseError> {
    let mut message = [0; LEN + MAX_HANDSHAKE];
    let len = state.write_message(payload, &mut message[LEN..])?;
    message[..LEN].copy_from_slice(&(len as u16).to_be_bytes());
    io.write_all(&message[..LEN + len]).await?;
    Ok(io.flush().await?)
}

async fn read(io: &mut (impl AsyncRead + Unpin), state: &mut HandshakeState) -> Result<Vec<u8>, NoiseError> {
    let mut len = [0; LEN];
    io.read_exact(&mut len).await?;
    let len = usize::from(u16::from_be_bytes(len));
    if len > MAX_HANDSHAKE {
        return Err(snow::Error::Input.into());
    }
    let (mut message, mut payload) = ([0; MAX_HANDSHAKE], vec![0; MAX_HANDSHAKE]);
    io.read_exact(&mut message[..len]).await?;
    let len = state.read_message(&message[..len], &mut payload)?;
    payload.truncate(len);
    Ok(payload)
}

impl UpgradeInfo for Noise {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(NAME)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<T> for Noise {
    type Output = (PeerId, Channel<T>);
    type Error = NoiseError;
    type Future = BoxFuture<'static, Result<Self::Output, NoiseError>>;

    fn upgrade_inbound(self, io: T, _: &'static str) -> Self::Future {
        self.shake(io, false).boxed()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<T> for Noise {
    type Output = (PeerId, Channel<T>);
    type Error = NoiseError;
    type Future = BoxFuture<'static, Result<Self::Output, NoiseError>>;

    fn upgrade_outbound(self, io: T, _: &'static str) -> Self::Future {
        self.shake(io, true).boxed()
    }
}

/// A connection whose bytes only the two devices can read or change.
pub(super) struct Channel<T> {
    io: T,
    noise: TransportState,
    encrypted_in: Buffer,
    /// What of a record its reader had no room for.
    opened: Buffer,
    small: Vec<u8>,
    encrypted_out: Buffer,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Channel<T> {
    fn new(io: T, noise: TransportState) -> Self {
        Self {
            io,
            noise,
            encrypted_in: Buffer::new(AT_ONCE * ENCRYPTED),
            opened: Buffer::new(ENCRYPTED),
            small: Vec::new(),
            // Small writes that came before, in a record of their own.
            encrypted_out: Buffer::new(AT_ONCE * ENCRYPTED + LEN + SMALL + TAG),
        }
    }

    /// Opens the next record if all of it is there, and says how many of its bytes lie at the beginning of `into`: none if
    /// that is too short for it; then they are in `opened`.
    fn open(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let Some((len, rest)) = self.encrypted_in.filled().split_first_chunk::<LEN>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes(*len));
        // An empty record would be work for nothing, and a peer could send no end of them.
        if len <= TAG || LEN + len > ENCRYPTED {
            return Err(broken(format!("a record of {len} bytes")));
        }
        let Some(record) = rest.get(..len) else { return Ok(None) };
        let direct = into.len() >= len;
        let target = if direct { into } else { &mut self.opened.bytes };
        let count = self.noise.read_message(record, target).map_err(|error| broken(error.to_string()))?;
        self.encrypted_in.consume(LEN + len);
        if self.noise.receiving_nonce().is_multiple_of(REKEY) {
            self.noise.rekey_incoming();
        }
        if direct {
            return Ok(Some(count));
        }
        (self.opened.start, self.opened.end) = (0, count);
        Ok(Some(0))
    }

    /// Encrypts at most a record's bytes into `encrypted_out`, which has room for them.
    fn encrypt(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (out, at) = (&mut self.encrypted_out.bytes, self.encrypted_out.end);
        let len = self.noise.write_message(bytes, &mut out[at + LEN..]).map_err(|error| broken(error.to_string()))?;
        out[at..at + LEN].copy_from_slice(&(len as u16).to_be_bytes());
        self.encrypted_out.end += LEN + len;
        if self.noise.sending_nonce().is_multiple_of(REKEY) {
            self.noise.rekey_outgoing();
        }
        Ok(())
    }

    fn encrypt_small(&mut self) -> io::Result<()> {
        if !self.small.is_empty() {
            let small = std::mem::take(&mut self.small);
            self.encrypt(&small)?;
            self.small = small;
            self.small.clear();
        }
        Ok(())
    }

    /// Hands everything encrypted to the system.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.encrypted_out.filled().is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, self.encrypted_out.filled()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.encrypted_out.consume(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Channel<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if into.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let opened = this.opened.filled();
            if !opened.is_empty() {
                let count = into.len().min(opened.len());
                into[..count].copy_from_slice(&opened[..count]);
                this.opened.consume(count);
                return Poll::Ready(Ok(count));
            }
            let mut count = 0;
            while count < into.len()
                && this.opened.filled().is_empty()
                && let Some(more) = this.open(&mut into[count..])?
            {
                count += more;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            if !this.opened.filled().is_empty() {
                continue;
            }
            // What lies there is less than a record: there is room for the rest of it.
            this.encrypted_in.settle();
            let end = this.encrypted_in.end;
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut this.encrypted_in.bytes[end..]))? {
                0 if end == 0 => return Poll::Ready(Ok(0)),
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                read => this.encrypted_in.end += read,
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Channel<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.small.len() + bytes.len() <= SMALL {
            this.small.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(this.poll_drain(cx))?;
        this.encrypt_small()?;
        let mut count = 0;
        for part in bytes.chunks(RECORD).take(AT_ONCE) {
            this.encrypt(part)?;
            count += part.len();
        }
        // They are on their way, whether the system takes them now or later.
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.small.is_empty() {
            ready!(this.poll_drain(cx))?;
            this.encrypt_small()?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}

/// Bytes of which a part is filled.
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Zero pages from the system: they take no memory before bytes come.
    fn new(len: usize) -> Self {
        Self { bytes: vec![0; len].into(), start: 0, end: 0 }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Moves what is filled to the beginning.
    fn settle(&mut self) {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }
}

#[cfg(test)]
mod tests;
