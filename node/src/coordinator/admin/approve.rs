//! An approval's way: from a draft to the bytes that an approver signs, and from the signed bytes to the core.
//! Owns what a draft resolves to; never signs: the keys are elsewhere, and whoever has them checks these bytes.

use upswarm_protocol::catalog::{Action, Approval, Recipe, Release};
use upswarm_protocol::codec::{self, Text};
use upswarm_protocol::coordinator::{Command, Refusal};
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::{DocHash, GroupId, PayloadId};
use upswarm_protocol::schedule::zone;

use super::{Decision, Desk, View, deeds, preview};
use crate::api::actor::Actor;
use crate::api::approvals::{Accepted, ApprovalDraft, HexBytes, Intent, Preview, SignedDocument, SigningRequest};
use crate::api::catalog::{CatalogApproval, CatalogGroup, CatalogRelease, MembersAre};
use crate::api::schedule::{LIFE, check};
use crate::upstream::proof;

/// Whom an approval would affect, and when.
pub(crate) fn preview(actor: &Actor, view: &View<'_>, draft: &ApprovalDraft) -> Result<Preview, Refusal> {
    let (preview, _) = resolve(view, draft)?;
    tracing::debug!(%actor, release = %preview.release.short(), group = preview.group, "an approval is previewed");
    Ok(preview)
}

/// The exact bytes to be signed, and what a person is shown. `document` reads the stored envelope of a hash, `payload` a payload.
pub(crate) fn draft(
    actor: &Actor,
    view: &View<'_>,
    draft: &ApprovalDraft,
    document: impl Fn(&DocHash) -> std::io::Result<Vec<u8>>,
    payload: impl Fn(&PayloadId) -> std::io::Result<Vec<u8>>,
) -> Result<SigningRequest, Refusal> {
    let (preview, approval) = resolve(view, draft)?;
    if !draft.allow_empty {
        preview::must_reach_somebody(&preview)?;
    }
    let read = |hash: &DocHash| {
        let unreadable = |error| Refusal::Request(format!("the stored document {hash} cannot be read: {error}"));
        document(hash).map(HexBytes).map_err(unreadable)
    };
    let (release, before) = named(view, draft)?;
    let body = codec::encode(&approval, Kind::Approval.cap()).map_err(|error| Refusal::Content(error.to_string()))?;
    tracing::info!(%actor, release = %approval.release.short(), group = draft.group, version = approval.version, "an approval is drafted");
    let release = read(&release.document)?;
    let metadata = metadata(&release.0, payload).map_err(|error| {
        Refusal::Request(format!("upstream's metadata cannot be read from the payload store: {error:#}"))
    })?;
    Ok(SigningRequest {
        body: HexBytes(body),
        release,
        metadata,
        // What a rule made, any approver's word replaces.
        replaces: before.filter(|known| known.version > 0).map(|known| read(&known.document)).transpose()?,
        group: described(view, &approval.group).map(|known| read(&known.document)).transpose()?,
        preview,
    })
}

/// What upstream signed, where a release is a snapshot: whoever signs the approval looks for himself.
fn metadata(
    document: &[u8],
    payload: impl Fn(&PayloadId) -> std::io::Result<Vec<u8>>,
) -> anyhow::Result<Vec<HexBytes>> {
    let envelope = Envelope::parse(document, Kind::Release, Role::Publisher)?;
    let release: Release = codec::decode(envelope.unverified_body(), Kind::Release.cap())?;
    let Recipe::Apt(recipe) = &release.install else { return Ok(Vec::new()) };
    let files = recipe.metadata().take(proof::travels(&release, recipe)).filter_map(|at| release.payloads.get(at));
    files.map(|file| Ok(HexBytes(payload(&file.id)?))).collect()
}

/// Takes a signed approval; the core verifies it.
pub(crate) fn submit(actor: &Actor, desk: &Desk<'_>, document: SignedDocument) -> Decision<Accepted> {
    tracing::info!(%actor, bytes = document.0.len(), "a signed approval is submitted");
    let deed = deeds::approval(desk, &document.0);
    Decision::new(Command::Approve(document.0), deed, |done| Accepted { index_version: done.index_version })
}

/// What approvers have signed about a group.
fn described<'a>(view: &'a View<'_>, group: &GroupId) -> Option<&'a CatalogGroup> {
    view.catalog.described.get(group)
}

fn named<'a>(
    view: &'a View<'_>,
    draft: &ApprovalDraft,
) -> Result<(&'a CatalogRelease, Option<&'a CatalogApproval>), Refusal> {
    let release = view.catalog.release_exactly(&draft.release).map_err(Refusal::Request)?;
    let group = view.catalog.group_named(&draft.group).map_err(Refusal::Request)?;
    Ok((release, view.catalog.approval(&group, &release.release)))
}

/// The approval that a draft means now, and its preview.
fn resolve(view: &View<'_>, draft: &ApprovalDraft) -> Result<(Preview, Approval), Refusal> {
    let fallback = zone(&draft.zone).ok_or_else(|| {
        let given = &draft.zone;
        Refusal::Request(format!("--zone: {given:?} is no time zone; write for example UTC or Europe/Berlin"))
    })?;
    let (release, before) = named(view, draft)?;
    let group = view.catalog.group_named(&draft.group).map_err(Refusal::Request)?;
    let mut approval = approval(view, draft, release, group, before)?;
    let described = described(view, &group);
    approval.group_version = described.map_or(0, |known| known.version);
    let only_listed = described.is_none_or(|known| known.members == MembersAre::Coordinator);
    if (approval.action == Action::Uninstall || approval.back) && only_listed {
        return Err(Refusal::Request(format!(
            "nothing is removed or taken back in the group {name:?}, whose members only the coordinator names: have an approver sign \
             who they are with upswarm group sign {name} --list, or take a group with a rule",
            name = draft.group
        )));
    }
    let preview = preview::of(view, &approval, (&draft.group, release), before, (&draft.zone, &fallback));
    Ok((preview, approval))
}

fn approval(
    view: &View<'_>,
    draft: &ApprovalDraft,
    release: &CatalogRelease,
    group: GroupId,
    before: Option<&CatalogApproval>,
) -> Result<Approval, Refusal> {
    let version = before.map_or(0, |known| known.version).saturating_add(1);
    let what = format!("{} {} in group {}", release.product, release.version, draft.group);
    let refuse = |reason: &str| Err(Refusal::Request(format!("{what}: {reason}")));
    let now = view.now;
    let plain = |action, note: &str| -> Result<Approval, Refusal> {
        let note = Text::new(note).map_err(|error| Refusal::Request(format!("--note: {error}")))?;
        Ok(Approval {
            group,
            group_version: 0,
            release: release.release,
            version,
            action,
            back: false,
            issued: now,
            expires: now + LIFE,
            schedule: Default::default(),
            rings: Default::default(),
            note,
            filtered: None,
        })
    };
    match (&draft.intent, before) {
        (Intent::Decide { action: Action::Uninstall, .. }, _) if !release.removable => {
            refuse("nobody can tell how it is removed; publish it with an [uninstall] table")
        }
        (Intent::Decide { action, schedule, back }, _) => schedule
            .approval((group, release.release), version, *action, now)
            .map(|approval| Approval { back: *back, ..approval })
            .map_err(|error| Refusal::Request(error.to_string())),
        (Intent::Decline { .. }, Some(before)) if before.action == Action::None => refuse("it is declined already"),
        (Intent::Decline { note }, _) => plain(Action::None, note),
        (Intent::Expedite, None) => refuse("it is not approved there; approve it with: upswarm approve --expedite"),
        (Intent::Expedite, Some(before)) if before.version == 0 => {
            refuse("a rule approved it there; approve it yourself with: upswarm approve --expedite")
        }
        (Intent::Expedite, Some(before)) if before.action == Action::None => {
            refuse("it is declined there; approve it with: upswarm approve --expedite")
        }
        (Intent::Expedite, Some(before)) => {
            let mut approval = plain(before.action, &before.note)?;
            (approval.schedule, approval.rings) = (before.schedule.clone(), before.rings.clone());
            approval.back = before.back;
            approval.schedule.expedite = true;
            // A deadline that has passed says nothing more than `expedite`, and would be refused.
            approval.schedule.deadline = approval.schedule.deadline.filter(|deadline| *deadline > now);
            check(&approval).map_err(|error| Refusal::Request(error.to_string()))?;
            Ok(approval)
        }
    }
}
