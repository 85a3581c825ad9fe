//! Two ends of a pipe that holds little, and what lies between them.

use std::time::Duration;

use futures::io::{ReadHalf, WriteHalf};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use super::*;

type Pipe = Compat<tokio::io::DuplexStream>;

fn pipe(room: usize) -> (Pipe, Pipe) {
    let (one, other) = tokio::io::duplex(room);
    (one.compat(), other.compat())
}

fn device(seed: u8) -> PeerId {
    address::peer_id(DeviceId(*SigningKey::from_bytes(&[seed; 32]).verifying_key().as_bytes())).unwrap()
}

async fn channels(room: usize) -> (Channel<Pipe>, Channel<Pipe>) {
    let (one, other) = pipe(room);
    let (a, b) = (Noise::new(&[1; 32]).unwrap(), Noise::new(&[2; 32]).unwrap());
    let (a, b) = tokio::join!(a.shake(one, true), b.shake(other, false));
    let ((b_seen, a), (a_seen, b)) = (a.unwrap(), b.unwrap());
    assert_eq!((a_seen, b_seen), (device(1), device(2)));
    (a, b)
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ (at / 251) as u8).collect()
}

/// Sends the bytes in parts of one length and reads them in parts of another.
async fn carry(from: &mut Channel<Pipe>, to: &mut Channel<Pipe>, bytes: &[u8], write: usize, read: usize) {
    let send = async {
        for part in bytes.chunks(write) {
            from.write_all(part).await.unwrap();
        }
        from.flush().await.unwrap();
    };
    let receive = async {
        let (mut found, mut part) = (Vec::new(), vec![0; read]);
        while found.len() < bytes.len() {
            let count = to.read(&mut part).await.unwrap();
            assert_ne!(count, 0);
            found.extend_from_slice(&part[..count]);
        }
        found
    };
    let ((), found) = tokio::join!(send, receive);
    assert!(found == bytes, "written by {write}, read by {read}");
}

#[tokio::test]
async fn every_byte_comes_once_and_in_order_whatever_the_parts() {
    for room in [1 << 10, 1 << 20] {
        let (mut a, mut b) = channels(room).await;
        for write in [12, SMALL, SMALL + 1, RECORD, 3 * RECORD + 5, 256 << 10] {
            for read in [7, 12, RECORD, RECORD + TAG, 256 << 10] {
                let bytes = content(300 << 10);
                carry(&mut a, &mut b, &bytes, write, read).await;
                carry(&mut b, &mut a, &bytes[..1 << 10], write, read).await;
            }
        }
    }
}

#[tokio::test]
async fn keys_are_replaced_on_both_sides() {
    let (mut a, mut b) = channels(1 << 20).await;
    for number in 0..REKEY + 3 {
        let bytes = number.to_be_bytes();
        a.write_all(&bytes).await.unwrap();
        a.flush().await.unwrap();
        let mut found = [0; 8];
        b.read_exact(&mut found).await.unwrap();
        assert_eq!(found, bytes);
    }
    // A side that keeps its key is not understood any more.
    a.noise.rekey_outgoing();
    a.write_all(b"word").await.unwrap();
    a.flush().await.unwrap();
    assert_eq!(b.read(&mut [0; 4]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

/// Carries bytes from one pipe to another and turns over bit after bit of what comes after the first `skip` bytes.
async fn damage(mut from: ReadHalf<Pipe>, mut to: WriteHalf<Pipe>, skip: usize) {
    let (mut seen, mut part) = (0, vec![0; 64 << 10]);
    while let Ok(count @ 1..) = from.read(&mut part).await {
        for (at, byte) in part[..count].iter_mut().enumerate() {
            if seen + at == skip {
                *byte ^= 1;
            }
        }
        seen += count;
        if to.write_all(&part[..count]).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.close().await;
}

/// Whether a handshake succeeds and a word after it arrives, when a byte of the initiator's is changed. Where the change makes
/// both sides wait for each other, the swarm gives up; so does this.
async fn arrives(at: usize) -> bool {
    let ((one, near), (far, other)) = (pipe(1 << 20), pipe(1 << 20));
    let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
    let (a, b) = (Noise::new(&[1; 32]).unwrap(), Noise::new(&[2; 32]).unwrap());
    let a = async {
        let (_, mut channel) = a.shake(one, true).await?;
        channel.write_all(b"word").await?;
        Ok::<_, NoiseError>(channel.close().await?)
    };
    let b = async {
        let (peer, mut channel) = b.shake(other, false).await?;
        assert_eq!(peer, device(1), "whoever comes through is who it says");
        let mut word = [0; 4];
        channel.read_exact(&mut word).await?;
        assert_eq!(&word, b"word");
        Ok::<_, NoiseError>(())
    };
    let all = async { tokio::join!(b, a, damage(near_in, far_out, at), damage(far_in, near_out, usize::MAX)) };
    matches!(tokio::time::timeout(Duration::from_secs(60), all).await, Ok((Ok(()), ..)))
}

// Time stands still while anything moves, and is over at once when nothing does.
#[tokio::test(start_paused = true)]
async fn no_byte_of_the_handshake_or_after_it_can_be_changed() {
    // Two keys and a proof with their lengths and tags, then a word.
    let all = (LEN + 32) + (LEN + 32 + TAG + PROOF + TAG) + (LEN + 4 + TAG);
    for at in 0..all {
        assert!(!arrives(at).await, "byte {at}");
    }
    assert!(arrives(all).await, "unchanged");
}

#[tokio::test]
async fn a_key_that_another_device_signed_proves_nothing() {
    let honest = Noise::new(&[1; 32]).unwrap();
    for change in 0..3 {
        let (one, other) = pipe(1 << 20);
        let forged = {
            let (own, stolen) = (Noise::new(&[3; 32]).unwrap(), Noise::new(&[2; 32]).unwrap());
            let mut proof = own.0.proof;
            match change {
                // Of another device, as it said it to somebody.
                0 => proof = stolen.0.proof,
                // The name of another device.
                1 => proof[..32].copy_from_slice(&stolen.0.proof[..32]),
                // A key of small order, for which the null signature holds under rules that are not strict.
                _ => {
                    proof = [0; PROOF];
                    proof[0] = 1;
                    proof[32] = 1;
                }
            }
            Noise(Arc::new(Identity { secret: own.0.secret.clone(), proof }))
        };
        let (seen, _) = tokio::join!(honest.clone().shake(one, true), forged.shake(other, false));
        assert!(matches!(seen, Err(NoiseError::Proof)), "change {change}");
    }
}

#[tokio::test]
async fn records_without_end_or_without_content_are_refused() {
    for len in [0u16, 1, TAG as u16, (RECORD + TAG + 1) as u16, u16::MAX] {
        let (mut a, mut b) = channels(1 << 20).await;
        a.io.write_all(&len.to_be_bytes()).await.unwrap();
        a.io.write_all(&vec![0; usize::from(len)]).await.unwrap();
        assert_eq!(b.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::InvalidData, "{len}");
    }
}

#[tokio::test]
async fn an_end_inside_a_record_is_an_error() {
    let (mut a, mut b) = channels(1 << 20).await;
    a.io.write_all(&[0, 40, 1, 2, 3]).await.unwrap();
    a.io.close().await.unwrap();
    assert_eq!(b.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

    let (mut a, mut b) = channels(1 << 20).await;
    a.write_all(b"all").await.unwrap();
    a.close().await.unwrap();
    let mut found = Vec::new();
    b.read_to_end(&mut found).await.unwrap();
    assert_eq!(found, b"all");
}
