//! Signatures as in the Wycheproof project's Ed25519 cases: what a strict verifier must refuse although a lax one would not.

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use upswarm_protocol::catalog::{HeldKey, Keys};
use upswarm_protocol::envelope::{Envelope, EnvelopeError, Kind, Role};
use upswarm_protocol::ids::PublicKey;

use crate::common::*;

const BODY: &[u8] = b"a body";

/// What a signature of a head covers; written out here, so that a change of the format is noticed.
fn message() -> Vec<u8> {
    let mut message = b"upswarm document v1".to_vec();
    message.extend_from_slice(&[5, 4]);
    message.extend_from_slice(&(BODY.len() as u64).to_le_bytes());
    message.extend_from_slice(BODY);
    message
}

fn envelope(signatures: &[([u8; 32], [u8; 64])]) -> Vec<u8> {
    let mut bytes = b"UPS1\x05\x04\0\0".to_vec();
    bytes.extend_from_slice(&(BODY.len() as u32).to_le_bytes());
    bytes.extend_from_slice(BODY);
    bytes.push(signatures.len() as u8);
    for (key, signature) in signatures {
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(signature);
    }
    bytes
}

fn verify(trusted: &[[u8; 32]], threshold: usize, signatures: &[([u8; 32], [u8; 64])]) -> Result<(), EnvelopeError> {
    let hands = trusted.iter().enumerate();
    let held = hands.map(|(at, key)| HeldKey { key: PublicKey(*key), holder: text(&format!("holder {at}")) });
    let trusted = Keys { keys: list(held.collect()), threshold: threshold as u8 };
    let bytes = envelope(signatures);
    Envelope::parse(&bytes, Kind::Head, Role::Online)?.verify(&trusted).map(|_| ())
}

fn signed(key: &SigningKey) -> ([u8; 32], [u8; 64]) {
    (*key.verifying_key().as_bytes(), key.sign(&message()).to_bytes())
}

/// S + L, which satisfies the equation and is not canonical (RFC 8032, section 5.1.7, step 1).
fn plus_order(signature: &[u8; 64]) -> [u8; 64] {
    let order = bytes32("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut forged = *signature;
    let mut carry = 0;
    for (byte, add) in forged[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
    forged
}

#[test]
fn a_good_signature_is_good() {
    let (key, signature) = signed(&key(7));
    assert!(verify(&[key], 1, &[(key, signature)]).is_ok());
}

#[test]
fn a_signature_that_is_not_canonical() {
    let (public, signature) = signed(&key(7));
    let forged = plus_order(&signature);
    assert!(verify(&[public], 1, &[(public, forged)]).is_err());
    for top in [0x20, 0x40, 0x80, 0xe0] {
        let mut forged = signature;
        forged[63] |= top;
        assert!(verify(&[public], 1, &[(public, forged)]).is_err(), "high bits {top:x} of S");
    }
}

#[test]
fn every_bit_of_key_and_signature_counts() {
    let (public, signature) = signed(&key(7));
    for bit in 0..512 {
        let mut forged = signature;
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&[public], 1, &[(public, forged)]).is_err(), "bit {bit} of the signature");
    }
    for bit in 0..256 {
        let mut other = public;
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&[public], 1, &[(other, signature)]).is_err(), "bit {bit} of the key named");
        assert!(verify(&[other], 1, &[(other, signature)]).is_err(), "bit {bit} of the key trusted");
    }
}

#[test]
fn special_values_of_r_and_s() {
    let (public, signature) = signed(&key(7));
    let order = bytes32("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let scalars = [[0; 32], [1; 32], [0xff; 32], order, signature[32..].try_into().unwrap()];
    let points = SMALL_ORDER.map(bytes32).into_iter().chain([[0xff; 32], public, signature[..32].try_into().unwrap()]);
    for r in points {
        for s in scalars {
            let forged: [u8; 64] = [r, s].concat().try_into().unwrap();
            let genuine = forged == signature;
            assert_eq!(verify(&[public], 1, &[(public, forged)]).is_ok(), genuine, "{}", hex::encode(forged));
        }
    }
}

/// With the neutral element as key and as R, and S = 0, a lax verifier takes every message.
#[test]
fn keys_and_points_of_small_order() {
    let neutral = bytes32(SMALL_ORDER[0]);
    let nothing: [u8; 64] = [neutral, [0; 32]].concat().try_into().unwrap();
    let lax = VerifyingKey::from_bytes(&neutral).unwrap();
    assert!(lax.verify(&message(), &Signature::from_bytes(&nothing)).is_ok(), "the attack works on a lax verifier");
    for a in SMALL_ORDER.map(bytes32) {
        for r in SMALL_ORDER.map(bytes32) {
            let forged: [u8; 64] = [r, [0; 32]].concat().try_into().unwrap();
            assert!(verify(&[a], 1, &[(a, forged)]).is_err(), "{} {}", hex::encode(a), hex::encode(r));
        }
    }
}

#[test]
fn signatures_are_counted_by_key() {
    let [(a, of_a), (b, of_b)] = [signed(&key(7)), signed(&key(8))];
    assert!(verify(&[a, b], 2, &[(a, of_a), (b, of_b)]).is_ok());
    assert!(verify(&[a, b], 2, &[(a, of_a), (a, of_a)]).is_err(), "one key twice");
    assert!(verify(&[a, a], 2, &[(a, of_a), (a, of_a)]).is_err(), "and trusted twice");
    assert!(verify(&[a, b], 2, &[(a, of_a), (b, of_a)]).is_err(), "one signature under two names");
    assert!(verify(&[a, b], 2, &[(a, of_a), (a, plus_order(&of_a))]).is_err(), "a second form of one signature");
    assert!(verify(&[a], 0, &[(a, of_a)]).is_err(), "a threshold of nothing");
    assert!(verify(&[], 0, &[]).is_err());
    assert!(verify(&[a], 1, &[(a, of_b), (a, of_a)]).is_ok(), "a bad signature does not spoil a good one");
    assert!(verify(&[a], 1, &[(a, of_a); 17]).is_err(), "more signatures than an envelope may carry");
}

#[test]
fn the_whole_context_is_signed() {
    let public = *key(7).verifying_key().as_bytes();
    let with = |message: Vec<u8>| (public, key(7).sign(&message).to_bytes());
    assert!(verify(&[public], 1, &[with(message())]).is_ok());
    assert!(verify(&[public], 1, &[with(BODY.to_vec())]).is_err(), "the body alone");
    for at in 0..message().len() {
        let mut other = message();
        other[at] ^= 1;
        assert!(verify(&[public], 1, &[with(other)]).is_err(), "byte {at}");
    }
}
