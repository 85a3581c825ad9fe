//! A repository for machines without an agent: exactly the packages of one approval, with a Release file of its own.
//!
//! Indexes and Release follow from approval and release, byte for byte. So only the approver's OpenPGP signature travels, inside the
//! approval: whoever serves the repository computes the rest and holds no key. Owns that computation, and the approver's repository
//! key; never serves anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead};

use anyhow::Context as _;
use pgp::composed::{
    ArmorOptions, Deserializable as _, DetachedSignature, SignedKeyDetails, SignedPublicKey, SignedSecretKey,
};
use pgp::crypto::ed25519::{Mode, SecretKey as Ed25519};
use pgp::crypto::eddsa_legacy;
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::packet::{
    KeyFlags, PubKeyInner, PublicKey, SecretKey, Signature, SignatureConfig, SignatureType, Subpacket, SubpacketData,
    UserId,
};
use pgp::ser::Serialize as _;
use pgp::types::{
    EddsaLegacyPublicParams, KeyDetails as _, KeyVersion, PacketHeaderVersion, Password, PlainSecretParams,
    PublicParams, SecretParams, SignedUser, Tag, Timestamp,
};
use sha2::{Digest as _, Sha256};
use upswarm_protocol::catalog::{APT_PREFIX, Approval, AptIndex, AptPackage, AptRecipe, Filtered, Release};
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::time::Wall;

use super::packages;

/// Origin of every such repository.
const ORIGIN: &str = "upswarm";
/// Its only component.
pub(crate) const COMPONENT: &str = "main";
/// When every repository key was made, so that a key is the same wherever it is derived: 2026-01-01.
const MADE: u32 = 1_767_225_600;
/// What sets a repository key apart from everything else that is derived from an approver's.
const CONTEXT: &str = "upswarm 2026-11 OpenPGP repository key of an approver";
/// Fields of upstream's that do not hold here.
const LEFT_OUT: [&str; 2] = ["Filename", "Phased-Update-Percentage"];

/// The indexes, by architecture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Indexes(BTreeMap<String, Vec<u8>>);

impl Indexes {
    /// Those of a release. `open` reads an index of upstream's, without its compression. Blocks.
    pub(crate) fn of<R: BufRead>(
        release: &Release,
        recipe: &AptRecipe,
        mut open: impl FnMut(&AptIndex) -> io::Result<R>,
    ) -> anyhow::Result<Self> {
        let upstream = upstream(release);
        let key =
            |package: &AptPackage| [&*package.name, &*package.version, &*package.arch].map(|word| word.to_string());
        let wanted: BTreeMap<[String; 3], &AptPackage> =
            recipe.packages.iter().map(|package| (key(package), package)).collect();
        let mut found: BTreeMap<[String; 3], String> = BTreeMap::new();
        let mut arches: BTreeSet<String> = BTreeSet::new();
        for index in &recipe.indexes {
            arches.extend(arch_of(&index.path).map(str::to_owned));
            let read = open(index).with_context(|| format!("reading {}", index.path))?;
            packages::read_with_text(read, |package, text| {
                let key = [package.name, package.version, package.arch];
                let payload = wanted.get(&key).and_then(|of| release.payloads.get(usize::from(of.payload)));
                let Some(payload) = payload.filter(|of| (of.len, of.sha256) == (package.len, package.sha256)) else {
                    return;
                };
                let file = format!("Filename: pool/{upstream}/{}\n", payload.name);
                found.entry(key).or_insert_with(|| kept(text) + &file);
            })
            .with_context(|| format!("reading {}", index.path))?;
        }
        if let Some([name, version, arch]) = wanted.keys().find(|key| !found.contains_key(*key)) {
            anyhow::bail!("upstream's indexes have no package {name} {version} for {arch} with these bytes");
        }
        arches.remove("all");
        let of_arch = |arch: String| {
            let own = found.iter().filter(|([.., of], _)| *of == arch || of == "all");
            let text: Vec<&str> = own.map(|(_, text)| text.as_str()).collect();
            (arch, text.join("\n").into_bytes())
        };
        Ok(Self(arches.into_iter().map(of_arch).collect()))
    }

    /// That of a path below the suite.
    pub(crate) fn at(&self, path: &str) -> Option<&[u8]> {
        self.0.iter().find(|(arch, _)| path_of(arch) == path).map(|(_, bytes)| bytes.as_slice())
    }

    /// That of a SHA-256.
    pub(crate) fn hashed(&self, sha256: &[u8]) -> Option<&[u8]> {
        self.0.values().find(|bytes| Sha256::digest(bytes)[..] == *sha256).map(Vec::as_slice)
    }

    /// The architectures.
    pub(crate) fn architectures(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The Release file of an approval: what its approver signs.
    pub(crate) fn release_file(&self, approval: &Approval, release: &Release) -> String {
        let name = upstream(release);
        let arches: Vec<&str> = self.architectures().collect();
        let mut text = format!(
            "Origin: {ORIGIN}\nLabel: {}\nSuite: {name}\nCodename: {name}\nVersion: {}\nDate: {}\nValid-Until: {}\n\
             Acquire-By-Hash: yes\nArchitectures: {}\nComponents: {COMPONENT}\nSHA256:\n",
            approval.group,
            release.version,
            rfc2822(approval.issued),
            rfc2822(approval.expires),
            arches.join(" ")
        );
        for (arch, bytes) in &self.0 {
            text.push_str(&format!(" {} {} {}\n", hex::encode(Sha256::digest(bytes)), bytes.len(), path_of(arch)));
        }
        text
    }
}

/// The name of the upstream that a release is of: the suite of its repository here.
pub(crate) fn upstream(release: &Release) -> &str {
    release.product.strip_prefix(APT_PREFIX).and_then(|rest| rest.strip_prefix('.')).unwrap_or(&release.product)
}

/// An InRelease file: the text with its signature.
pub(crate) fn in_release(text: &str, signed: &Filtered) -> anyhow::Result<String> {
    let signature = DetachedSignature::from_bytes(&signed.signature[..]).context("the repository's signature")?;
    let armor = signature.to_armored_string(ArmorOptions::default()).context("the repository's signature")?;
    Ok(format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}{armor}"))
}

/// A certificate, ASCII armoured.
pub(crate) fn certificate(signed: &Filtered) -> anyhow::Result<String> {
    let certificate = SignedPublicKey::from_bytes(&signed.certificate[..]).context("the repository's certificate")?;
    certificate.to_armored_string(ArmorOptions::default()).context("the repository's certificate")
}

/// The OpenPGP key of an approver. It is derived from the approver's own, so that there is one file to keep and one passphrase, and
/// neither key ever signs what the other could have.
pub(crate) struct RepositoryKey(SignedSecretKey);

impl RepositoryKey {
    /// Of an approver's key; always the same.
    pub(crate) fn of(approver: &ed25519_dalek::SigningKey) -> anyhow::Result<Self> {
        let secret = blake3::derive_key(CONTEXT, &approver.to_bytes());
        let secret = Ed25519::try_from_bytes(secret, Mode::EdDSALegacy)?;
        let public = PublicParams::EdDSALegacy(EddsaLegacyPublicParams::from(&secret));
        let (algorithm, made) = (PublicKeyAlgorithm::EdDSALegacy, Timestamp::from_secs(MADE));
        let public = PublicKey::from_inner(PubKeyInner::new(KeyVersion::V4, algorithm, made, None, public)?)?;
        let secret = PlainSecretParams::EdDSALegacy(eddsa_legacy::SecretKey::Ed25519(secret));
        let key = SecretKey::new(public, SecretParams::Plain(secret))?;
        let holder = format!("upswarm approver {}", hex::encode(&approver.verifying_key().to_bytes()[..4]));
        let user = UserId::from_str(PacketHeaderVersion::New, holder)?;
        let mut flags = KeyFlags::default();
        flags.set_certify(true);
        flags.set_sign(true);
        let mut config = config(&key, SignatureType::CertPositive, MADE)?;
        config.hashed_subpackets.push(Subpacket::regular(SubpacketData::KeyFlags(flags))?);
        let signed = config.sign_certification(&key, key.public_key(), &Password::empty(), Tag::UserId, &user)?;
        let details = SignedKeyDetails::new(vec![], vec![], vec![SignedUser::new(user, vec![signed])], vec![]);
        Ok(Self(SignedSecretKey::new(key, details, vec![], vec![])))
    }

    /// Signs a Release file at a time.
    pub(crate) fn sign(&self, text: &str, at: Wall) -> anyhow::Result<Filtered> {
        let seconds = u32::try_from(at.0 / 1000).context("the date of the signature")?;
        let config = config(&self.0.primary_key, SignatureType::Text, seconds)?;
        // The end of the last line is not signed: RFC 9580 section 7.2.
        let lines = text.strip_suffix('\n').unwrap_or(text).replace('\n', "\r\n");
        let signature: Signature = config.sign(&self.0.primary_key, &Password::empty(), lines.as_bytes())?;
        let (signature, certificate) =
            (DetachedSignature::new(signature).to_bytes()?, self.0.to_public_key().to_bytes()?);
        Ok(Filtered { signature: Bounded::new(signature)?, certificate: Bounded::new(certificate)? })
    }
}

fn config(key: &SecretKey, typ: SignatureType, at: u32) -> anyhow::Result<SignatureConfig> {
    let mut config = SignatureConfig::v4(typ, key.algorithm(), HashAlgorithm::Sha512);
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::from_secs(at)))?,
        Subpacket::regular(SubpacketData::IssuerFingerprint(key.fingerprint()))?,
    ];
    config.unhashed_subpackets = vec![Subpacket::regular(SubpacketData::IssuerKeyId(key.legacy_key_id()))?];
    Ok(config)
}

/// Where the index of an architecture lies below the suite.
fn path_of(arch: &str) -> String {
    format!("{COMPONENT}/binary-{arch}/Packages")
}

/// The architecture of upstream's index.
fn arch_of(path: &str) -> Option<&str> {
    path.split('/').find_map(|part| part.strip_prefix("binary-"))
}

/// A stanza without the fields that do not hold here.
fn kept(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut leaves = false;
    for line in text.lines() {
        if !line.starts_with([' ', '\t']) {
            let name = line.split(':').next().unwrap_or(line);
            leaves = LEFT_OUT.iter().any(|field| field.eq_ignore_ascii_case(name));
        }
        if !leaves {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// As Release files write dates.
fn rfc2822(at: Wall) -> String {
    let stamp = jiff::Timestamp::from_second(i64::try_from(at.0 / 1000).unwrap_or_default()).unwrap_or_default();
    stamp.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string()
}

/// A stanza of sources.list(5) by which a machine without an agent takes the repositories of a group. The certificate stands in it: the
/// file is all that such a machine needs.
pub(crate) fn sources(
    url: &str,
    suites: &BTreeSet<String>,
    arches: &BTreeSet<String>,
    certificates: &[String],
) -> String {
    let words = |all: &BTreeSet<String>| all.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let mut text = format!(
        "Types: deb\nURIs: {url}\nSuites: {}\nComponents: {COMPONENT}\nArchitectures: {}\nTargets: Packages\nSigned-By:\n",
        words(suites),
        words(arches)
    );
    for line in certificates.iter().flat_map(|certificate| certificate.lines()) {
        // An empty line would end the stanza.
        text.push_str(&if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::openpgp;

    #[test]
    fn a_repository_key_is_its_approvers_and_its_signature_is_good() {
        let key = |seed: u8| RepositoryKey::of(&ed25519_dalek::SigningKey::from_bytes(&[seed; 32])).unwrap();
        let at = Wall(1_800_000_000_000);
        let text = "Origin: upswarm\nSHA256:\n 00 1 main/binary-amd64/Packages\n";
        let signed = key(1).sign(text, at).unwrap();
        assert_eq!(signed, key(1).sign(text, at).unwrap());
        let armor = certificate(&signed).unwrap();
        let certificates = openpgp::certificates(armor.as_bytes()).unwrap();
        let file = in_release(text, &signed).unwrap();
        assert_eq!(openpgp::verify(file.as_bytes(), &certificates, at).unwrap(), text);
        let other = in_release(text, &key(2).sign(text, at).unwrap()).unwrap();
        assert!(openpgp::verify(other.as_bytes(), &certificates, at).is_err());
        let changed = file.replace(" 00 ", " 01 ");
        assert!(openpgp::verify(changed.as_bytes(), &certificates, at).is_err());
    }

    #[test]
    fn a_stanza_is_upstreams_without_phasing_and_with_a_place_here() {
        let text = "Package: a\nFilename: pool/a.deb\n more\nDepends: b,\n c\nphased-update-percentage: 10\nSize: 1\n";
        assert_eq!(kept(text), "Package: a\nDepends: b,\n c\nSize: 1\n");
    }
}
