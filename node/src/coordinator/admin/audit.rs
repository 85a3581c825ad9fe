//! What was signed, by whom and when: read from the documents that are in force and from the roots, never from a note beside them.
//! Owns how they are put into words; whether a signature holds, the envelope says.

use upswarm_protocol::catalog::{Action, Approval, ApprovalRule, Release, Root, RuledApproval};
use upswarm_protocol::codec;
use upswarm_protocol::coordinator::Refusal;
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::{DocHash, PublicKey};
use upswarm_protocol::keyring::Keys;

use super::View;
use super::root::differences;
use super::standing::named;
use crate::api::audit::{Audit, AuditDocument, AuditKind, Signer};

/// Every root, and every release and approval in force, the newest first. `document` reads the stored envelope of a hash; `roots` are
/// the envelopes of all roots from the first.
pub(crate) fn list(
    view: &View<'_>,
    roots: &[Vec<u8>],
    document: impl Fn(&DocHash) -> std::io::Result<Vec<u8>>,
) -> Result<Audit, Refusal> {
    let mut documents = Vec::new();
    let mut before: Option<Root> = None;
    for bytes in roots {
        let (root, shown) = of_root(bytes, before.as_ref())?;
        documents.push(shown);
        before = Some(root);
    }
    let root = before.ok_or_else(|| Refusal::Request("there is no root".to_owned()))?;
    let read = |hash: &DocHash| {
        let unreadable = |error| Refusal::Request(format!("the stored document {hash} cannot be read: {error}"));
        document(hash).map_err(unreadable)
    };
    for known in &view.catalog.releases {
        let bytes = read(&known.document)?;
        let (envelope, release): (_, Release) = open(&bytes, Kind::Release, Role::Publisher)?;
        let keys = root.publisher_of(release.product.as_str());
        let (signers, others) = signers(&envelope, keys, &format!("publisher of {}", release.product));
        documents.push(AuditDocument {
            kind: AuditKind::Release,
            hash: known.document,
            issued: release.issued.to_string(),
            expires: release.expires.to_string(),
            what: format!("{} was published as {} {}", named(known), known.product, known.version),
            note: String::new(),
            release: Some(known.release),
            signers,
            others,
        });
    }
    for known in &view.catalog.approvals {
        let bytes = read(&known.document)?;
        let (approval, signers, others) = of_approval(&bytes, &root)?;
        let what = view.catalog.release(&known.release).map_or_else(|| known.release.short(), named);
        let group = view.names.group_name(&known.group);
        let verb = match approval.action {
            Action::Install => "approved",
            Action::Uninstall => "approved for removal",
            Action::None => "declined",
        };
        let expedited = if approval.schedule.expedite { ", to begin at once" } else { "" };
        documents.push(AuditDocument {
            kind: AuditKind::Approval,
            hash: known.document,
            issued: approval.issued.to_string(),
            expires: approval.expires.to_string(),
            what: format!("{what} was {verb} for group {group}{expedited} (version {})", approval.version),
            note: approval.note.as_str().to_owned(),
            release: Some(known.release),
            signers,
            others,
        });
    }
    documents.sort_by(|a, b| (&b.issued, &a.hash).cmp(&(&a.issued, &b.hash)));
    Ok(Audit { documents })
}

/// The root of today.
pub(super) fn newest(roots: &[Vec<u8>]) -> Result<Root, Refusal> {
    let bytes = roots.last().ok_or_else(|| Refusal::Request("there is no root".to_owned()))?;
    open(bytes, Kind::Root, Role::Root).map(|(_, root)| root)
}

fn of_root(bytes: &[u8], before: Option<&Root>) -> Result<(Root, AuditDocument), Refusal> {
    let (envelope, root): (_, Root) = open(bytes, Kind::Root, Role::Root)?;
    // A root is signed by the keys of the one before it; the first by its own.
    let (signers, others) = signers(&envelope, Some(&before.unwrap_or(&root).root), "root");
    let what = match before {
        None => "The first root of trust was made".to_owned(),
        Some(before) => format!("Root {} came into force: {}", root.version, differences(before, &root).join("; ")),
    };
    let shown = AuditDocument {
        kind: AuditKind::Root,
        hash: DocHash::of(bytes),
        issued: root.issued.to_string(),
        expires: root.expires.to_string(),
        what,
        note: String::new(),
        release: None,
        signers,
        others,
    };
    Ok((root, shown))
}

/// An approval and who signed it; of one that a rule made, who signed the rule and that its time has come.
pub(super) fn of_approval(bytes: &[u8], root: &Root) -> Result<(Approval, Vec<Signer>, Vec<PublicKey>), Refusal> {
    if Envelope::parse(bytes, Kind::Approval, Role::Online).is_err() {
        let (envelope, approval) = open(bytes, Kind::Approval, Role::Approver)?;
        let (signers, others) = signers(&envelope, Some(&root.approvers), "approver");
        return Ok((approval, signers, others));
    }
    let (envelope, ruled): (_, RuledApproval) = open(bytes, Kind::Approval, Role::Online)?;
    let (of_rule, rule): (_, ApprovalRule) = open(&ruled.rule, Kind::RepositoryRule, Role::Approver)?;
    let (mut by, mut others) = signers(&of_rule, Some(&root.approvers), &format!("approver of rule r{}", rule.number));
    let (online, strangers) = signers(&envelope, Some(&root.online), "online");
    by.extend(online);
    others.extend(strangers);
    Ok((ruled.approval, by, others))
}

fn open<T: serde::de::DeserializeOwned>(bytes: &[u8], kind: Kind, role: Role) -> Result<(Envelope<'_>, T), Refusal> {
    let damaged = |error: &dyn std::fmt::Display| {
        Refusal::Request(format!("a stored document is damaged, restore it from a copy: {error}"))
    };
    let envelope = Envelope::parse(bytes, kind, role).map_err(|error| damaged(&error))?;
    let content = codec::decode(envelope.unverified_body(), kind.cap()).map_err(|error| damaged(&error))?;
    Ok((envelope, content))
}

/// Who has signed with a signature that holds, and who else claims to have.
fn signers(envelope: &Envelope<'_>, keys: Option<&Keys>, role: &str) -> (Vec<Signer>, Vec<PublicKey>) {
    let (mut signers, mut others) = (Vec::new(), Vec::new());
    for key in envelope.claimed_signers() {
        match keys.and_then(|keys| keys.holder_of(&key)) {
            Some(holder) if envelope.verify_one(&[key]).is_ok() => {
                // Before anybody is named, keys go by their role.
                let of = if holder.starts_with(role) { String::new() } else { format!(", {holder}") };
                signers.push(Signer { key, role: format!("{role}{of}") });
            }
            _ => others.push(key),
        }
    }
    (signers, others)
}
