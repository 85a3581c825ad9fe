//! Encrypted reports: bytes that only the coordinator can open, whoever carries them.
//!
//! libsodium's sealed box (X25519, XSalsa20-Poly1305, an ephemeral key per message), 48 bytes longer than what it holds.

use crypto_box::aead::OsRng;
use crypto_box::{PublicKey, SecretKey};

/// Bytes that were not encrypted to this key, or were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not encrypted to this key, or changed on the way")]
pub(crate) struct NotForUs;

/// Encrypts bytes to an X25519 public key.
pub(crate) fn encrypt(to: &[u8; 32], bytes: &[u8]) -> Vec<u8> {
    // The only error of the cipher is a message beyond its limit of many gigabytes.
    PublicKey::from(*to).seal(&mut OsRng, bytes).unwrap_or_default()
}

/// Opens what was encrypted to the public half of `secret`.
pub(crate) fn open(secret: &[u8; 32], encrypted: &[u8]) -> Result<Vec<u8>, NotForUs> {
    SecretKey::from(*secret).unseal(encrypted).map_err(|_| NotForUs)
}

/// The public half of a key.
pub(crate) fn public(secret: &[u8; 32]) -> [u8; 32] {
    *SecretKey::from(*secret).public_key().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_opens_and_nothing_may_change() {
        let (ours, theirs) = ([7; 32], [8; 32]);
        let encrypted = encrypt(&public(&ours), b"state");
        assert_eq!(open(&ours, &encrypted).unwrap(), b"state");
        assert_eq!(open(&theirs, &encrypted), Err(NotForUs));
        assert_ne!(encrypted, encrypt(&public(&ours), b"state"), "an ephemeral key per message");
        for at in 0..encrypted.len() {
            let mut changed = encrypted.clone();
            changed[at] ^= 1;
            assert_eq!(open(&ours, &changed), Err(NotForUs), "byte {at}");
        }
        assert_eq!(open(&ours, b""), Err(NotForUs));
    }
}
