//! From bytes to a believed document, one numbered step per check (TUF specification, section 5; Uptane's split between the
//! one who publishes and the one who approves).

use std::sync::Arc;

use crate::catalog::{
    Approval, ApprovalRule, Assignment, Certificate, GroupDocument, Head, Index, Keys, Release, Root, RuledApproval,
};
use crate::envelope::{Envelope, EnvelopeError, Kind, Role, Verified};
use crate::ids::{DeviceId, DocHash, GroupId, PublicKey, ReleaseId};
use crate::time::Wall;

use super::validate::{
    self, Invalid, timing, validate_approval, validate_group, validate_head, validate_index, validate_release,
    validate_root, validate_rule, validate_upstream,
};

/// Why a document was not believed, or could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Too long, malformed, of another kind or role, or without enough good signatures.
    #[error("{kind:?}: {source}")]
    Envelope {
        /// What it should have been.
        kind: Kind,
        /// What is wrong.
        source: EnvelopeError,
    },
    /// Well signed, but it says something that cannot be meant.
    #[error("{kind:?}: signed, but {source}")]
    Invalid {
        /// What it is.
        kind: Kind,
        /// Which part.
        source: Invalid,
    },
    /// Other bytes than those that were named.
    #[error("{kind:?}: hash {found} and {found_len} bytes; {expected} was expected")]
    Hash {
        /// What it should have been.
        kind: Kind,
        /// What was expected, in words.
        expected: String,
        /// The hash of what was given.
        found: DocHash,
        /// Bytes of what was given.
        found_len: usize,
    },
    /// Not the version that may come next: an older one, or one further on.
    #[error("{kind:?}: version {found}; {expected} was expected")]
    Version {
        /// What it is.
        kind: Kind,
        /// The only version that is taken here.
        expected: u64,
        /// The version found.
        found: u64,
    },
    /// A second document with the version of the one that is held. The first counts; both are kept as evidence.
    #[error(
        "{kind:?}: a second, different version {version}; the first one counts. Ask the admin: a signing key may be stolen"
    )]
    Equivocation {
        /// What it is.
        kind: Kind,
        /// The version that exists twice.
        version: u64,
    },
    /// An index was offered although no head names one.
    #[error("Index: no head names one yet")]
    NoHead,
    /// No index in use names this document.
    #[error("document {0}: no current index names it")]
    NotNamed(DocHash),
    /// The index names this document, and it was refused for good. The rest of the catalog goes on without it.
    #[error("document {hash}: {reason}")]
    Refused {
        /// The document.
        hash: DocHash,
        /// Why.
        reason: String,
    },
    /// Nobody may publish this product.
    #[error("Release: the root has no publisher for the product {product:?}")]
    NoPublisher {
        /// The product's name.
        product: String,
    },
    /// Past its end.
    #[error("{kind:?}: expired at {at}, and it is {now}")]
    Expired {
        /// What it is.
        kind: Kind,
        /// Its end.
        at: Wall,
        /// The time that was compared with.
        now: Wall,
    },
    /// The certificate of a device that the admin has thrown out.
    #[error("Certificate: the device {0} is revoked")]
    Revoked(DeviceId),
    /// An approval that is about another release than the one it came with.
    #[error("Approval: it is about release {approved}, not {release}")]
    OtherRelease {
        /// What the approval names.
        approved: ReleaseId,
        /// What it came with.
        release: ReleaseId,
    },
    /// Bytes that [`super::Trust::snapshot`] did not write, or that were damaged since.
    #[error("the stored trust state is damaged ({0}); restore the file from a backup, or enrol this machine again")]
    Snapshot(String),
}

pub(super) fn of(kind: Kind) -> impl Fn(EnvelopeError) -> TrustError {
    move |source| TrustError::Envelope { kind, source }
}

fn invalid(kind: Kind) -> impl Fn(Invalid) -> TrustError {
    move |source| TrustError::Invalid { kind, source }
}

/// Verifies one release and one approval of it from a root that is believed already: the whole chain that an installer
/// needs, from the bytes of both envelopes. `wall` decides about expiry of all three. Stops by the online keys (holds) are
/// not visible here.
pub fn verify_pair(
    root: &Root,
    release: &[u8],
    approval: &[u8],
    wall: Wall,
) -> Result<(ReleaseId, Release, Approval), TrustError> {
    validate_root(root).map_err(invalid(Kind::Root))?;
    unexpired(Kind::Root, root.expires, wall)?;
    let release = open_release(root, release)?;
    unexpired(Kind::Release, release.value.expires, wall)?;
    let approval = open_approval(root, approval)?;
    unexpired(Kind::Approval, approval.value.expires, wall)?;
    if approval.value.release != release.id {
        return Err(TrustError::OtherRelease { approved: approval.value.release, release: release.id });
    }
    if let Some(by_rule) = &approval.by_rule {
        by_rule.permits(&release.value, &approval.value)?;
    }
    Ok((release.id, release.value, approval.value))
}

/// A release as its publisher signed it, from a root that is believed already: its id and what it says. For whoever signs, away
/// from every catalog; expiry is not asked.
pub fn verify_release(root: &Root, bytes: &[u8]) -> Result<(ReleaseId, Release), TrustError> {
    open_release(root, bytes).map(|opened| (opened.id, opened.value))
}

/// An approval as enough approvers signed it, from a root that is believed already; expiry is not asked.
pub fn verify_approval(root: &Root, bytes: &[u8]) -> Result<Approval, TrustError> {
    open_approval(root, bytes).map(|opened| opened.value)
}

/// What a group is, as enough of those signed it who may say so, from a root that is believed already.
pub fn verify_group(root: &Root, bytes: &[u8]) -> Result<GroupDocument, TrustError> {
    open_group(root, bytes).map(|opened| opened.value)
}

pub(super) fn unexpired(kind: Kind, at: Wall, now: Wall) -> Result<(), TrustError> {
    if now < at { Ok(()) } else { Err(TrustError::Expired { kind, at, now }) }
}

/// A release or an approval with everyone whose signature on it is good, trusted today or not: when the root changes, the
/// same signatures are counted again.
pub(crate) struct Opened<T> {
    pub(crate) id: ReleaseId,
    pub(crate) value: T,
    /// Of an approval by rule: those who signed the rule.
    pub(crate) signers: Vec<PublicKey>,
    /// Of an approval: the rule that made it.
    pub(crate) by_rule: Option<Arc<ByRule>>,
}

/// The rule that made an approval, and the online keys that said so.
#[derive(Debug, PartialEq, Eq)]
pub struct ByRule {
    /// What approvers signed.
    pub rule: ApprovalRule,
    pub(crate) online: Vec<PublicKey>,
}

pub(crate) fn open_release(root: &Root, bytes: &[u8]) -> Result<Opened<Release>, TrustError> {
    let wrong = of(Kind::Release);
    // 1. Size cap, frame, kind and role.
    let envelope = Envelope::parse(bytes, Kind::Release, Role::Publisher).map_err(&wrong)?;
    // 2. Some publisher of the root has signed: only then are the bytes decoded.
    let signed = signatures(&envelope);
    let of_a_publisher = |key: &PublicKey| root.publishers.iter().any(|rule| rule.keys.contains(key));
    let verified = first_by(&signed, of_a_publisher).map_err(&wrong)?;
    let value: Release = verified.decode().map_err(&wrong)?;
    // 3. The publisher of this very product has signed, as often as its rule wants.
    let signers: Vec<_> = signed.iter().map(|(key, _)| *key).collect();
    release_is_vouched(root, &value, &signers)?;
    // 4. What it says can be meant.
    validate_release(&value).map_err(invalid(Kind::Release))?;
    Ok(Opened { id: ReleaseId::of(verified.body()), value, signers, by_rule: None })
}

pub(crate) fn open_approval(root: &Root, bytes: &[u8]) -> Result<Opened<Approval>, TrustError> {
    let wrong = of(Kind::Approval);
    // 1. Size cap, frame, kind and role. Online keys make approvals by a rule, no others.
    if Envelope::parse(bytes, Kind::Approval, Role::Online).is_ok() {
        return open_ruled(root, bytes);
    }
    let envelope = Envelope::parse(bytes, Kind::Approval, Role::Approver).map_err(&wrong)?;
    // 2. Some approver of the root has signed: only then are the bytes decoded.
    let signed = signatures(&envelope);
    let verified = first_by(&signed, |key| root.approvers.contains(key)).map_err(&wrong)?;
    let value: Approval = verified.decode().map_err(&wrong)?;
    // 3. As many approvers have signed as this group wants.
    let signers: Vec<_> = signed.iter().map(|(key, _)| *key).collect();
    approval_is_vouched(root, &value.group, &signers, None)?;
    // 4. What it says can be meant.
    validate_approval(&value).map_err(invalid(Kind::Approval))?;
    Ok(Opened { id: value.release, value, signers, by_rule: None })
}

/// A rule as enough approvers signed it, from a root that is believed already; expiry is not asked.
pub fn verify_rule(root: &Root, bytes: &[u8]) -> Result<ApprovalRule, TrustError> {
    open_rule(root, bytes).map(|(rule, _)| rule)
}

fn open_rule(root: &Root, bytes: &[u8]) -> Result<(ApprovalRule, Vec<PublicKey>), TrustError> {
    let wrong = of(Kind::RepositoryRule);
    let envelope = Envelope::parse(bytes, Kind::RepositoryRule, Role::Approver).map_err(&wrong)?;
    let signed = signatures(&envelope);
    let verified = first_by(&signed, |key| root.approvers.contains(key)).map_err(&wrong)?;
    let rule: ApprovalRule = verified.decode().map_err(&wrong)?;
    let signers: Vec<_> = signed.iter().map(|(key, _)| *key).collect();
    enough(Kind::RepositoryRule, &root.approvers, &signers, root.approvals_needed(&rule.group))?;
    validate_rule(&rule).map_err(invalid(Kind::RepositoryRule))?;
    Ok((rule, signers))
}

/// An approval that the online keys have made by an approver's rule. Whether the rule covers its release is asked where both are
/// at hand: [`ByRule::permits`].
fn open_ruled(root: &Root, bytes: &[u8]) -> Result<Opened<Approval>, TrustError> {
    let wrong = of(Kind::Approval);
    // 1. The online keys have signed it.
    let envelope = Envelope::parse(bytes, Kind::Approval, Role::Online).map_err(&wrong)?;
    let verified = envelope.verify(&root.online).map_err(&wrong)?;
    let ruled: RuledApproval = verified.decode().map_err(&wrong)?;
    // 2. Approvers have signed the rule.
    let (rule, signers) = open_rule(root, &ruled.rule)?;
    // 3. It is the one approval that the rule makes, at a time when the rule counts.
    let value = ruled.approval;
    let problem = |field: &str, problem: &str| Invalid { field: field.into(), problem: problem.into() };
    if value != rule.approval(value.release, value.issued) {
        return Err(invalid(Kind::Approval)(problem("approval", "it says something else than its rule")));
    }
    if value.issued < rule.issued || value.issued >= rule.expires {
        return Err(invalid(Kind::Approval)(problem("issued", "its rule did not count then")));
    }
    timing(&value).map_err(invalid(Kind::Approval))?;
    let online = signatures(&envelope).into_iter().map(|(key, _)| key).collect();
    Ok(Opened { id: value.release, value, signers, by_rule: Some(Arc::new(ByRule { rule, online })) })
}

impl ByRule {
    /// Whether the rule makes this approval of this release.
    pub(crate) fn permits(&self, release: &Release, approval: &Approval) -> Result<(), TrustError> {
        let problem = |problem| Invalid { field: "rule".into(), problem };
        self.rule.covers(release, approval.issued).map_err(problem).map_err(invalid(Kind::Approval))
    }
}

pub(crate) fn open_group(root: &Root, bytes: &[u8]) -> Result<Opened<GroupDocument>, TrustError> {
    let wrong = of(Kind::Group);
    // 1. Size cap, frame, kind and role.
    let envelope = Envelope::parse(bytes, Kind::Group, Role::Approver).map_err(&wrong)?;
    // 2. One who may say so by the root has signed: only then are the bytes decoded.
    let signed = signatures(&envelope);
    let verified = first_by(&signed, |key| root.targeters().contains(key)).map_err(&wrong)?;
    let value: GroupDocument = verified.decode().map_err(&wrong)?;
    // 3. As many have signed as the root wants: where it names nobody for this, as an approval for this group does.
    let signers: Vec<_> = signed.iter().map(|(key, _)| *key).collect();
    group_is_vouched(root, &value.group, &signers)?;
    // 4. What it says can be meant.
    validate_group(&value).map_err(invalid(Kind::Group))?;
    Ok(Opened { id: ReleaseId::default(), value, signers, by_rule: None })
}

/// Whether enough of those who say what groups are have signed what this one is.
pub(crate) fn group_is_vouched(root: &Root, group: &GroupId, signers: &[PublicKey]) -> Result<(), TrustError> {
    enough(Kind::Group, root.targeters(), signers, root.targeters_needed(group))
}

/// Whether the publisher of the product has signed often enough, and may say this of the repositories that the root names.
pub(crate) fn release_is_vouched(root: &Root, release: &Release, signers: &[PublicKey]) -> Result<(), TrustError> {
    let keys = root
        .publisher_of(&release.product)
        .ok_or_else(|| TrustError::NoPublisher { product: release.product.to_string() })?;
    enough(Kind::Release, keys, signers, usize::from(keys.threshold))?;
    validate_upstream(root, release).map_err(invalid(Kind::Release))
}

/// Whether enough approvers have signed for this group, it or the rule that made it; what a rule made, the online keys too.
pub(crate) fn approval_is_vouched(
    root: &Root,
    group: &GroupId,
    signers: &[PublicKey],
    by_rule: Option<&ByRule>,
) -> Result<(), TrustError> {
    if let Some(by_rule) = by_rule {
        enough(Kind::Approval, &root.online, &by_rule.online, root.online.threshold.into())?;
    }
    enough(Kind::Approval, &root.approvers, signers, root.approvals_needed(group))
}

fn enough(kind: Kind, trusted: &Keys, signers: &[PublicKey], threshold: usize) -> Result<(), TrustError> {
    let valid = trusted.voices_of(signers);
    if threshold == 0 || valid < threshold {
        return Err(of(kind)(EnvelopeError::Threshold { valid, threshold: threshold.max(1) }));
    }
    Ok(())
}

fn signatures<'a>(envelope: &Envelope<'a>) -> Vec<(PublicKey, Verified<'a>)> {
    let mut signed: Vec<(PublicKey, Verified<'a>)> = Vec::new();
    for key in envelope.claimed_signers() {
        if signed.iter().all(|(known, _)| *known != key)
            && let Ok(verified) = envelope.verify_one(&[key])
        {
            signed.push((key, verified));
        }
    }
    signed
}

fn first_by<'a>(
    signed: &[(PublicKey, Verified<'a>)],
    trusted: impl Fn(&PublicKey) -> bool,
) -> Result<Verified<'a>, EnvelopeError> {
    let found = signed.iter().find(|(key, _)| trusted(key)).map(|(_, verified)| *verified);
    found.ok_or(EnvelopeError::Threshold { valid: 0, threshold: 1 })
}

/// A root that is known by its hash already (pinned, or read back from this machine's own disk), signed by its own keys.
pub(super) fn open_own_root(bytes: &[u8]) -> Result<Root, TrustError> {
    let wrong = of(Kind::Root);
    let envelope = Envelope::parse(bytes, Kind::Root, Role::Root).map_err(&wrong)?;
    // The hash vouches for these bytes, so they may be decoded to learn whose signatures to expect.
    let root: Root =
        crate::codec::decode(envelope.unverified_body(), Kind::Root.cap()).map_err(|error| wrong(error.into()))?;
    validate_root(&root).map_err(invalid(Kind::Root))?;
    envelope.verify(&root.root).map_err(wrong)?;
    Ok(root)
}

/// A root that the holders of another root's keys have signed, and its own keys too.
pub(crate) fn open_next_root(signed_by: &Root, bytes: &[u8]) -> Result<Root, TrustError> {
    let wrong = of(Kind::Root);
    // TUF 5.3.4: signed by the old keys, then by the new ones.
    let envelope = Envelope::parse(bytes, Kind::Root, Role::Root).map_err(&wrong)?;
    let verified = envelope.verify(&signed_by.root).map_err(&wrong)?;
    let root: Root = verified.decode().map_err(&wrong)?;
    validate_root(&root).map_err(invalid(Kind::Root))?;
    envelope.verify(&root.root).map_err(wrong)?;
    Ok(root)
}

pub(super) fn open_head(root: &Root, bytes: &[u8]) -> Result<Head, TrustError> {
    let head = open_online(root, bytes, Kind::Head)?;
    validate_head(&head).map_err(invalid(Kind::Head))?;
    Ok(head)
}

pub(super) fn open_index(root: &Root, bytes: &[u8]) -> Result<Index, TrustError> {
    let index = open_online(root, bytes, Kind::Index)?;
    validate_index(&index).map_err(invalid(Kind::Index))?;
    Ok(index)
}

pub(super) fn open_certificate(root: &Root, bytes: &[u8]) -> Result<Certificate, TrustError> {
    let certificate: Certificate = open_online(root, bytes, Kind::Certificate)?;
    let problem = |problem: &str| Invalid { field: "device".into(), problem: problem.into() };
    if !validate::is_sound(&certificate.device.into()) {
        return Err(invalid(Kind::Certificate)(problem("not a sound Ed25519 public key")));
    }
    Ok(certificate)
}

pub(super) fn open_assignment(root: &Root, bytes: &[u8]) -> Result<Assignment, TrustError> {
    open_online(root, bytes, Kind::Assignment)
}

fn open_online<T: serde::de::DeserializeOwned>(root: &Root, bytes: &[u8], kind: Kind) -> Result<T, TrustError> {
    crate::envelope::open(bytes, kind, Role::Online, &root.online).map_err(of(kind))
}
