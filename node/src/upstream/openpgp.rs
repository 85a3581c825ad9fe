//! OpenPGP (RFC 9580): the certificates of an upstream, and the signature of an InRelease file by one of them.
//!
//! A key counts now or not at all: it must not be revoked (for whatever reason) nor expired, and a subkey must be bound to its
//! primary key both ways. Only SHA-2 and SHA-3 count, in the certificate too. The text that is handed out is the one that was
//! hashed.

use std::fmt;

use pgp::composed::{ArmorOptions, Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, PublicParams, Tag, VerifyingKey};
use upswarm_protocol::time::Wall;

/// Signatures of one file that are looked at.
const MAX_SIGNATURES: usize = 16;
const MAX_CERTIFICATES: usize = 64;
/// A signature may be this many seconds ahead of this machine's clock.
const AHEAD_S: u64 = 3600;
/// The least bytes of an RSA key: 2048 bits of modulus, and how they are written.
const MIN_RSA: usize = 256 + 2;

const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const BEGIN_SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END_SIGNATURE: &str = "-----END PGP SIGNATURE-----";
const BEGIN_KEY: &[u8] = b"-----BEGIN PGP PUBLIC KEY BLOCK-----";

/// Why a file's signature does not count. In this order: of several signatures, the one that came furthest is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum SignatureError {
    /// The file is not what is called clear-signed.
    #[error("it is not signed as an InRelease file is: {0}")]
    NotSigned(&'static str),
    /// Nobody who is pinned has signed it.
    #[error(
        "it is signed by {0}, and none of them is pinned; if the upstream has a new key, make sure of it and add the \
         repository again with a keyring that holds it: upswarm sync add"
    )]
    UnknownKey(String),
    /// The key is too weak, or may not sign.
    #[error("its signature by {key} does not count: {what}")]
    Unfit { key: String, what: &'static str },
    /// The key or the signature was good until then.
    #[error(
        "its signature by {key} does not count: {what} expired on {since}; newer files or a newer certificate are needed"
    )]
    Expired { key: String, what: &'static str, since: Wall },
    /// The signature is of a time that has not come.
    #[error("its signature by {key} is dated {date}, which is still to come; is this machine's clock right?")]
    Early { key: String, date: Wall },
    /// The key was taken back.
    #[error("its signature by {0} does not count: the key was revoked")]
    Revoked(String),
    /// The text is another one than was signed.
    #[error("its signature by {0} is wrong: the file was changed on its way, or is damaged")]
    Wrong(String),
}

/// An OpenPGP certificate: a primary key and its subkeys.
#[derive(Debug, Clone)]
pub(crate) struct Certificate(SignedPublicKey);

/// Why certificates could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    /// Not what OpenPGP calls a certificate.
    #[error("it holds no OpenPGP certificate ({0})")]
    Malformed(String),
    /// More than any keyring of a distribution.
    #[error("it holds more than {MAX_CERTIFICATES} certificates; name a smaller keyring")]
    TooMany,
}

/// The certificates of a keyring, armoured or not.
pub(crate) fn certificates(bytes: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
    let mut found = Vec::new();
    let malformed = |error: pgp::errors::Error| CertificateError::Malformed(error.to_string());
    for block in blocks(bytes) {
        let (read, _) = SignedPublicKey::from_reader_many_buf(block).map_err(malformed)?;
        for certificate in read {
            found.push(Certificate(certificate.map_err(malformed)?));
            if found.len() > MAX_CERTIFICATES {
                return Err(CertificateError::TooMany);
            }
        }
    }
    if found.is_empty() { Err(CertificateError::Malformed("it is empty".to_owned())) } else { Ok(found) }
}

/// Armoured blocks, which may follow each other, or all of what is not armoured.
fn blocks(bytes: &[u8]) -> Vec<&[u8]> {
    let mut starts: Vec<usize> = Vec::new();
    let mut from = 0;
    while let Some(at) = bytes.get(from..).and_then(|rest| rest.windows(BEGIN_KEY.len()).position(|w| w == BEGIN_KEY)) {
        starts.push(from + at);
        from += at + BEGIN_KEY.len();
    }
    if starts.is_empty() {
        return vec![bytes];
    }
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    starts.iter().copied().zip(ends).filter_map(|(start, end)| bytes.get(start..end)).collect()
}

/// The text of an InRelease file that one of the certificates has signed, as it was hashed, with `\n` at the ends of lines.
pub(crate) fn verify(file: &[u8], certificates: &[Certificate], now: Wall) -> Result<String, SignatureError> {
    // 1. RFC 9580 section 7: a cleartext that was signed, and nothing around it.
    let (text, armor) = split(file)?;
    // 2. The signatures; one of a kind that is not known here hides no other.
    let read = DetachedSignature::from_armor_many(armor.as_bytes());
    let (read, _) = read.map_err(|_| SignatureError::NotSigned("the signature cannot be read"))?;
    let signatures: Vec<Signature> = read.take(MAX_SIGNATURES).filter_map(|s| Some(s.ok()?.signature)).collect();
    // 3. What they sign: lines ended by CR LF, none at the end.
    let signed = text.join("\r\n");
    let mut reason = None;
    let mut strangers = Vec::new();
    for signature in &signatures {
        let mut known = false;
        for certificate in certificates {
            match certificate.signed(signature, signed.as_bytes(), now) {
                None => {}
                Some(Ok(())) => return Ok(text.join("\n") + "\n"),
                Some(Err(why)) => {
                    known = true;
                    reason = reason.max(Some(why));
                }
            }
        }
        if !known {
            strangers.extend(issuer(signature));
        }
    }
    let strangers = if strangers.is_empty() { "nobody who is named".to_owned() } else { strangers.join(", ") };
    Err(reason.unwrap_or(SignatureError::UnknownKey(strangers)))
}

/// The lines of the signed text, as they are hashed, and the armoured signatures.
fn split(file: &[u8]) -> Result<(Vec<&str>, &str), SignatureError> {
    let refuse = |what| Err(SignatureError::NotSigned(what));
    let Ok(file) = std::str::from_utf8(file) else { return refuse("it is not UTF-8") };
    let mut rest = file;
    let mut line = || {
        let (line, after) = rest.split_once('\n')?;
        rest = after;
        Some(line.strip_suffix('\r').unwrap_or(line))
    };
    if line().is_none_or(|first| first.trim_end() != BEGIN) {
        return refuse("it does not begin with a signed message");
    }
    loop {
        match line().map(str::trim_end) {
            Some("") => break,
            Some(header) if header.starts_with("Hash: ") => {}
            _ => return refuse("its headers are not those of a signed message"),
        }
    }
    let mut text = Vec::new();
    loop {
        match line() {
            None => return refuse("it ends before its signature"),
            Some(found) if found.trim_end() == BEGIN_SIGNATURE => break,
            Some(found) => {
                let plain = match found.strip_prefix("- ") {
                    Some(plain) => plain,
                    None if found.starts_with('-') => return refuse("a line begins with a dash that is not escaped"),
                    None => found,
                };
                text.push(plain.trim_end_matches([' ', '\t']));
            }
        }
    }
    let start = file.len() - rest.len();
    let armor = file.get(..start).and_then(|before| before.rfind(BEGIN_SIGNATURE)).and_then(|at| file.get(at..));
    let Some((armor, after)) = armor.and_then(|armor| {
        let end = armor.find(END_SIGNATURE)? + END_SIGNATURE.len();
        armor.split_at_checked(end)
    }) else {
        return refuse("its signature has no end");
    };
    if !after.trim().is_empty() {
        return refuse("something follows its signature");
    }
    Ok((text, armor))
}

/// Whom a signature names as its maker.
fn issuer(signature: &Signature) -> Option<String> {
    let fingerprint = signature.issuer_fingerprint().first().map(|print| hex::encode_upper(print.as_bytes()));
    fingerprint.or_else(|| signature.issuer_key_id().first().map(|id| hex::encode_upper(id.as_ref())))
}

impl Certificate {
    /// The fingerprint of its primary key, in hex.
    pub(crate) fn fingerprint(&self) -> String {
        hex::encode_upper(self.0.primary_key.fingerprint().as_bytes())
    }

    /// Whom it says it is; for people.
    pub(crate) fn holder(&self) -> String {
        let user = self.0.details.users.first().map(|user| String::from_utf8_lossy(user.id.id()).into_owned());
        user.unwrap_or_else(|| "(no name)".to_owned())
    }

    /// Itself, ASCII armoured.
    pub(crate) fn to_armor(&self) -> Result<String, CertificateError> {
        let options = ArmorOptions::default();
        self.0.to_armored_string(options).map_err(|error| CertificateError::Malformed(error.to_string()))
    }

    /// When the last of its keys that may sign now ends to count; an error where none may. `Ok(None)`: never.
    pub(crate) fn good_until(&self, now: Wall) -> Result<Option<Wall>, SignatureError> {
        let keys = std::iter::once(self.primary_may_sign(now))
            .chain(self.0.public_subkeys.iter().map(|subkey| self.subkey_may_sign(subkey, now)));
        let (mut until, mut reason) = (None, None);
        for key in keys {
            match key {
                Ok(None) => return Ok(None),
                Ok(Some(end)) => until = until.max(Some(end)),
                Err(why) => reason = reason.max(Some(why)),
            }
        }
        match (until, reason) {
            (Some(_), _) => Ok(until),
            (None, Some(why)) => Err(why),
            (None, None) => Ok(None),
        }
    }

    /// Whether a key of this certificate made the signature of `text`; `None` when the signature names none of its keys.
    fn signed(&self, signature: &Signature, text: &[u8], now: Wall) -> Option<Result<(), SignatureError>> {
        if is_issuer(signature, &self.0.primary_key) {
            let may = self.primary_may_sign(now);
            return Some(may.and_then(|_| check(signature, &self.0.primary_key, text, now)));
        }
        let subkey = self.0.public_subkeys.iter().find(|subkey| is_issuer(signature, &subkey.key))?;
        let may = self.subkey_may_sign(subkey, now);
        Some(may.and_then(|_| check(signature, &subkey.key, text, now)))
    }

    /// Whether the primary key may sign files now, and until when.
    fn primary_may_sign(&self, now: Wall) -> Result<Option<Wall>, SignatureError> {
        let (newest, until) = self.primary_is_good(now)?;
        if !newest.key_flags().sign() {
            return Err(SignatureError::Unfit { key: self.fingerprint(), what: "the key is not one for signing" });
        }
        Ok(until)
    }

    /// The newest of the primary key's own signatures over itself, and when the key ends to count.
    fn primary_is_good(&self, now: Wall) -> Result<(&Signature, Option<Wall>), SignatureError> {
        let (key, details) = (&self.0.primary_key, &self.0.details);
        let name = || self.fingerprint();
        fit(key)?;
        if details.revocation_signatures.iter().any(|signature| signature.verify_key(key).is_ok()) {
            return Err(SignatureError::Revoked(name()));
        }
        let direct = details.direct_signatures.iter().filter(|signature| {
            signature.typ() == Some(SignatureType::Key) && is_strong(signature) && signature.verify_key(key).is_ok()
        });
        let users = details.users.iter().filter_map(|user| {
            let own = |signature: &&Signature| {
                is_issuer(signature, key) && signature.verify_certification(key, Tag::UserId, &user.id).is_ok()
            };
            let (revocations, others): (Vec<&Signature>, Vec<&Signature>) =
                user.signatures.iter().partition(|s| s.typ() == Some(SignatureType::CertRevocation));
            if revocations.into_iter().any(|signature| own(&signature)) {
                return None;
            }
            let counted = others.into_iter().filter(|signature| is_strong(signature) && created(signature) <= now);
            counted.filter(own).max_by_key(|signature| created(signature))
        });
        let direct = direct.filter(|signature| created(signature) <= now);
        let newest = direct.chain(users).max_by_key(|signature| created(signature)).ok_or(SignatureError::Unfit {
            key: name(),
            what: "its certificate holds no signature of its own that counts (SHA-1 does not)",
        })?;
        let until = [ends(key, newest), signature_ends(newest)].into_iter().flatten().min();
        match until.filter(|until| *until <= now) {
            Some(since) => Err(SignatureError::Expired { key: name(), what: "the key", since }),
            None => Ok((newest, until)),
        }
    }

    /// Whether a subkey may sign files now, and until when.
    fn subkey_may_sign(&self, subkey: &SignedPublicSubKey, now: Wall) -> Result<Option<Wall>, SignatureError> {
        let (_, primary_until) = self.primary_is_good(now)?;
        let primary = &self.0.primary_key;
        let key = &subkey.key;
        let name = || hex::encode_upper(key.fingerprint().as_bytes());
        fit(key)?;
        let own = |signature: &&Signature| signature.verify_subkey_binding(primary, key).is_ok();
        let (revocations, bindings): (Vec<&Signature>, Vec<&Signature>) =
            subkey.signatures.iter().partition(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation));
        if revocations.into_iter().any(|signature| own(&signature)) {
            return Err(SignatureError::Revoked(name()));
        }
        let bindings = bindings.into_iter().filter(|signature| is_strong(signature) && created(signature) <= now);
        let newest = bindings.filter(own).max_by_key(|signature| created(signature));
        let newest = newest.ok_or(SignatureError::Unfit {
            key: name(),
            what: "the subkey is not bound to its certificate (SHA-1 does not count)",
        })?;
        // The subkey must have agreed, or anybody's key could be bound as one's own.
        let agreed = newest
            .embedded_signature()
            .is_some_and(|back| is_strong(back) && back.verify_primary_key_binding(key, primary).is_ok());
        if !newest.key_flags().sign() || !agreed {
            return Err(SignatureError::Unfit { key: name(), what: "the subkey is not one for signing" });
        }
        let until = [ends(key, newest), signature_ends(newest), primary_until].into_iter().flatten().min();
        match until.filter(|until| *until <= now) {
            Some(since) => Err(SignatureError::Expired { key: name(), what: "the subkey", since }),
            None => Ok(until),
        }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fingerprint(), self.holder())
    }
}

/// Whether the signature of a text by this key is right and of this time. The key itself was looked at before.
fn check<K: VerifyingKey>(signature: &Signature, key: &K, text: &[u8], now: Wall) -> Result<(), SignatureError> {
    let name = || hex::encode_upper(key.fingerprint().as_bytes());
    if !matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text)) {
        return Err(SignatureError::Unfit { key: name(), what: "it is no signature of a text" });
    }
    if !is_strong(signature) {
        return Err(SignatureError::Unfit { key: name(), what: "it rests on a weak hash; SHA-256 is the least" });
    }
    if signature.verify(key, text).is_err() {
        return Err(SignatureError::Wrong(name()));
    }
    let date = created(signature);
    if date.0 > now.0.saturating_add(1000 * AHEAD_S) {
        return Err(SignatureError::Early { key: name(), date });
    }
    if date < seconds(key.created_at().as_secs()) {
        return Err(SignatureError::Unfit { key: name(), what: "it is older than its key" });
    }
    match signature_ends(signature).filter(|end| *end <= now) {
        Some(since) => Err(SignatureError::Expired { key: name(), what: "it", since }),
        None => Ok(()),
    }
}

/// Whether a signature names this key as its maker.
fn is_issuer(signature: &Signature, key: &impl KeyDetails) -> bool {
    let prints = signature.issuer_fingerprint();
    if !prints.is_empty() {
        return prints.iter().any(|print| **print == key.fingerprint());
    }
    signature.issuer_key_id().iter().any(|id| **id == key.legacy_key_id())
}

fn is_strong(signature: &Signature) -> bool {
    use HashAlgorithm as H;
    matches!(signature.hash_alg(), Some(H::Sha256 | H::Sha384 | H::Sha512 | H::Sha3_256 | H::Sha3_512))
}

/// Whether a key is of a kind that nobody can forge signatures of.
fn fit(key: &impl KeyDetails) -> Result<(), SignatureError> {
    let what = match key.public_params() {
        PublicParams::RSA(params) if params.write_len() < MIN_RSA => "RSA keys have at least 2048 bits",
        PublicParams::RSA(_)
        | PublicParams::ECDSA(_)
        | PublicParams::EdDSALegacy(_)
        | PublicParams::Ed25519(_)
        | PublicParams::Ed448(_) => return Ok(()),
        _ => "the key is not of a kind that counts (RSA, ECDSA, EdDSA)",
    };
    Err(SignatureError::Unfit { key: hex::encode_upper(key.fingerprint().as_bytes()), what })
}

fn created(signature: &Signature) -> Wall {
    signature.created().map_or(Wall(u64::MAX), |time| seconds(time.as_secs()))
}

/// When a key ends to count, by a signature over it.
fn ends(key: &impl KeyDetails, by: &Signature) -> Option<Wall> {
    let life = by.key_expiration_time()?.as_secs();
    (life > 0).then(|| Wall(1000 * (u64::from(key.created_at().as_secs()) + u64::from(life))))
}

fn signature_ends(signature: &Signature) -> Option<Wall> {
    let life = signature.signature_expiration_time()?.as_secs();
    (life > 0).then(|| Wall(created(signature).0.saturating_add(1000 * u64::from(life))))
}

fn seconds(seconds: u32) -> Wall {
    Wall(1000 * u64::from(seconds))
}

#[cfg(test)]
mod tests;
