//! OpenPGP keys of a test's own upstream, good and bad, and what they sign.

use pgp::composed::{
    ArmorOptions, DetachedSignature, KeyType, SecretKeyParamsBuilder, SignedSecretKey, SubkeyParamsBuilder,
};
use pgp::packet::{KeyFlags, Signature, SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::types::{Duration, KeyDetails as _, Password, SignedUser, SigningKey, Tag, Timestamp};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

pub use pgp::crypto::hash::HashAlgorithm;

/// When the keys of a test are made: 2026-01-01T00:00:00Z, in seconds.
pub const MADE: u32 = 1_767_225_600;
/// A day.
pub const DAY: u32 = 86_400;

/// A primary key that certifies and signs, and a subkey that signs.
#[derive(Debug, Clone)]
pub struct Signer {
    key: SignedSecretKey,
}

/// How a text is signed.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// By the subkey; else by the primary key.
    pub subkey: bool,
    /// Over which hash.
    pub hash: HashAlgorithm,
    /// When, in seconds since 1970.
    pub at: u32,
    /// Seconds for which it is good; 0 for ever.
    pub life: u32,
}

impl Default for Manner {
    fn default() -> Self {
        Self { subkey: true, hash: HashAlgorithm::Sha256, at: MADE + 30 * DAY, life: 0 }
    }
}

impl Signer {
    /// A key that is made at [`MADE`]; the same seed gives the same key.
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let subkey = SubkeyParamsBuilder::default()
            .key_type(KeyType::Ed25519Legacy)
            .can_sign(true)
            .created_at(Timestamp::from_secs(MADE))
            .build()
            .expect("a subkey");
        let key = SecretKeyParamsBuilder::default()
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .created_at(Timestamp::from_secs(MADE))
            .primary_user_id(format!("Test {seed} <test@example.org>"))
            .subkey(subkey)
            .build()
            .expect("a key");
        let mut signer = Self { key: key.generate(&mut rng).expect("a key") };
        signer.certify(MADE, 0);
        signer.bind(MADE, 0);
        signer
    }

    /// Its certificate, ASCII armoured.
    pub fn certificate(&self) -> String {
        self.key.to_public_key().to_armored_string(ArmorOptions::default()).expect("armour")
    }

    /// Signs the primary key anew: from then on it lives `life` seconds from its making, 0 for ever.
    pub fn certify(&mut self, at: u32, life: u32) {
        let mut flags = KeyFlags::default();
        flags.set_certify(true);
        flags.set_sign(true);
        let mut config = self.config(SignatureType::CertPositive, at);
        config.hashed_subpackets.push(regular(SubpacketData::KeyFlags(flags)));
        config.hashed_subpackets.push(regular(SubpacketData::KeyExpirationTime(Duration::from_secs(life))));
        let user = self.key.details.users.first().expect("a user").clone();
        let (primary, public) = (&self.key.primary_key, self.key.primary_key.public_key());
        let signed = config.sign_certification(primary, public, &Password::empty(), Tag::UserId, &user.id);
        let mut signatures = if at == MADE { Vec::new() } else { user.signatures };
        signatures.push(signed.expect("a certification"));
        self.key.details.users = vec![SignedUser::new(user.id, signatures)];
    }

    /// Binds the subkey anew, likewise.
    pub fn bind(&mut self, at: u32, life: u32) {
        let subkey = self.key.secret_subkeys.first().expect("a subkey");
        let back = SignatureConfig::v4(SignatureType::KeyBinding, subkey.key.algorithm(), HashAlgorithm::Sha256);
        let mut back = SignatureConfig { hashed_subpackets: vec![], ..back };
        back.hashed_subpackets.push(regular(SubpacketData::SignatureCreationTime(Timestamp::from_secs(at))));
        back.hashed_subpackets.push(regular(SubpacketData::IssuerFingerprint(subkey.key.fingerprint())));
        let (primary, password) = (&self.key.primary_key, Password::empty());
        let back = back.sign_primary_key_binding(&subkey.key, subkey.key.public_key(), &password, primary.public_key());
        let mut flags = KeyFlags::default();
        flags.set_sign(true);
        let mut config = self.config(SignatureType::SubkeyBinding, at);
        config.hashed_subpackets.push(regular(SubpacketData::KeyFlags(flags)));
        config.hashed_subpackets.push(regular(SubpacketData::KeyExpirationTime(Duration::from_secs(life))));
        let back = Box::new(back.expect("a back signature"));
        config.hashed_subpackets.push(regular(SubpacketData::EmbeddedSignature(back)));
        let signed = config.sign_subkey_binding(primary, primary.public_key(), &password, subkey.key.public_key());
        let signed = signed.expect("a binding");
        let signatures = &mut self.key.secret_subkeys.first_mut().expect("a subkey").signatures;
        if at == MADE {
            signatures.clear();
        }
        signatures.push(signed);
    }

    /// Takes the subkey back.
    pub fn revoke_subkey(&mut self, at: u32) {
        let config = self.config(SignatureType::SubkeyRevocation, at);
        let (primary, password) = (&self.key.primary_key, Password::empty());
        let subkey = self.key.secret_subkeys.first().expect("a subkey").key.public_key();
        let signed =
            config.sign_subkey_binding(primary, primary.public_key(), &password, subkey).expect("a revocation");
        self.key.secret_subkeys.first_mut().expect("a subkey").signatures.push(signed);
    }

    /// Takes the whole key back.
    pub fn revoke(&mut self, at: u32) {
        let config = self.config(SignatureType::KeyRevocation, at);
        let primary = &self.key.primary_key;
        let signed = config.sign_key(primary, &Password::empty(), primary.public_key()).expect("a revocation");
        self.key.details.revocation_signatures.push(signed);
    }

    /// Binds another's subkey as its own, without that one's consent.
    pub fn steal_subkey(&mut self, from: &Self) {
        let stolen = from.key.secret_subkeys.first().expect("a subkey").clone();
        let mut flags = KeyFlags::default();
        flags.set_sign(true);
        let mut config = self.config(SignatureType::SubkeyBinding, MADE);
        config.hashed_subpackets.push(regular(SubpacketData::KeyFlags(flags)));
        let primary = &self.key.primary_key;
        let signed =
            config.sign_subkey_binding(primary, primary.public_key(), &Password::empty(), stolen.key.public_key());
        let signatures = vec![signed.expect("a binding")];
        self.key.secret_subkeys = vec![pgp::composed::SignedSecretSubKey { key: stolen.key, signatures }];
    }

    /// A text as InRelease files are signed.
    pub fn clear_sign(&self, text: &str, manner: Manner) -> String {
        // The end of the last line is not signed.
        let lines: Vec<&str> = text.strip_suffix('\n').unwrap_or(text).split('\n').collect();
        let signed = lines.join("\r\n");
        let subkey = &self.key.secret_subkeys.first().expect("a subkey").key;
        let signature = if manner.subkey {
            detached(subkey, &signed, manner)
        } else {
            detached(&self.key.primary_key, &signed, manner)
        };
        let armor = signature.to_armored_string(ArmorOptions::default()).expect("armour");
        let escaped = |line: &&str| if line.starts_with('-') { format!("- {line}") } else { (*line).to_owned() };
        let text: Vec<String> = lines.iter().map(escaped).collect();
        format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{}\n{armor}", text.join("\n"))
    }

    /// Of the primary key.
    fn config(&self, typ: SignatureType, at: u32) -> SignatureConfig {
        let key = &self.key.primary_key;
        let mut config = SignatureConfig::v4(typ, key.algorithm(), HashAlgorithm::Sha256);
        config.hashed_subpackets = vec![
            regular(SubpacketData::SignatureCreationTime(Timestamp::from_secs(at))),
            regular(SubpacketData::IssuerFingerprint(key.fingerprint())),
        ];
        config.unhashed_subpackets = vec![regular(SubpacketData::IssuerKeyId(key.legacy_key_id()))];
        config
    }
}

fn detached(key: &impl SigningKey, text: &str, manner: Manner) -> DetachedSignature {
    let mut hashed = vec![
        regular(SubpacketData::SignatureCreationTime(Timestamp::from_secs(manner.at))),
        regular(SubpacketData::IssuerFingerprint(key.fingerprint())),
    ];
    if manner.life > 0 {
        hashed.push(regular(SubpacketData::SignatureExpirationTime(Duration::from_secs(manner.life))));
    }
    let mut config = SignatureConfig::v4(SignatureType::Text, key.algorithm(), manner.hash);
    config.hashed_subpackets = hashed;
    config.unhashed_subpackets = vec![regular(SubpacketData::IssuerKeyId(key.legacy_key_id()))];
    let signature: Signature = config.sign(key, &Password::empty(), text.as_bytes()).expect("a signature");
    DetachedSignature::new(signature)
}

fn regular(data: SubpacketData) -> Subpacket {
    Subpacket::regular(data).expect("a subpacket")
}
