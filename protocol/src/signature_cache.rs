//! Remembers which signatures were good, for a process that plays many machines.
//!
//! In a simulated site every machine verifies the same presence records, heads and documents, and the answer is the same each time: it
//! depends on key, message and signature alone. So remembering it changes no behaviour, only the time that a simulation
//! takes. Nothing is remembered unless [`remember`] is called, and no shipped program calls it: a real machine sees nearly
//! every signature once, and the state machines keep what they have verified byte for byte already.

use std::cell::RefCell;
use std::collections::BTreeSet;

use ed25519_dalek::{Signature, VerifyingKey};

use crate::ids::PublicKey;

/// Good signatures of the last while, by the BLAKE3 of key, signature and message; bad ones are checked each time.
#[derive(Debug)]
struct Good {
    limit: usize,
    newer: BTreeSet<[u8; 32]>,
    older: BTreeSet<[u8; 32]>,
}

thread_local! {
    static GOOD: RefCell<Option<Good>> = const { RefCell::new(None) };
}

/// From now on this thread remembers between `limit` and twice as many good signatures, of 32 bytes each.
pub fn remember(limit: usize) {
    let good = Good { limit: limit.max(1), newer: BTreeSet::new(), older: BTreeSet::new() };
    GOOD.with_borrow_mut(|slot| *slot = Some(good));
}

/// Whether this key has signed this message. Strict Ed25519: no small-order keys, no malleable signatures.
pub(crate) fn verify_strict(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let verify = || {
        VerifyingKey::from_bytes(key.as_bytes())
            .is_ok_and(|key| !key.is_weak() && key.verify_strict(message, signature).is_ok())
    };
    GOOD.with_borrow_mut(|slot| match slot {
        Some(good) => good.check(key, message, signature, verify),
        None => verify(),
    })
}

impl Good {
    fn check(&mut self, key: &PublicKey, message: &[u8], signature: &Signature, verify: impl FnOnce() -> bool) -> bool {
        let mut hasher = blake3::Hasher::new();
        // Both have a fixed length, so no two triples run together to the same bytes.
        hasher.update(key.as_bytes()).update(&signature.to_bytes()).update(message);
        let name = *hasher.finalize().as_bytes();
        if self.newer.contains(&name) || self.older.contains(&name) {
            return true;
        }
        let good = verify();
        if good {
            if self.newer.len() >= self.limit {
                self.older = core::mem::take(&mut self.newer);
            }
            self.newer.insert(name);
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    #[test]
    fn what_is_remembered_is_what_was_good_and_nothing_else() {
        remember(2);
        let key = |number: u8| SigningKey::from_bytes(&[number; 32]);
        let public = |number| PublicKey(key(number).verifying_key().to_bytes());
        let signed = |number: u8, message: &[u8]| key(number).sign(message);
        for round in 0..3 {
            for number in 1..=5 {
                let signature = signed(number, b"word");
                assert!(verify_strict(&public(number), b"word", &signature), "round {round}");
                assert!(!verify_strict(&public(number), b"other word", &signature));
                assert!(!verify_strict(&public(number), b"wor", &signature));
                assert!(!verify_strict(&public(number + 1), b"word", &signature));
                for bit in [0, 255, 256, 511] {
                    let mut bytes = signature.to_bytes();
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    assert!(!verify_strict(&public(number), b"word", &Signature::from_bytes(&bytes)), "bit {bit}");
                }
            }
        }
        GOOD.with_borrow(|slot| {
            let good = slot.as_ref().expect("it remembers");
            assert!(good.newer.len() <= 2 && good.older.len() <= 2, "{good:?}");
        });
        // A key of small order vouches for everything; it is refused although nothing was remembered of it.
        let weak = PublicKey([0; 32]);
        assert!(!verify_strict(&weak, b"word", &Signature::from_bytes(&[0; 64])));
    }
}
