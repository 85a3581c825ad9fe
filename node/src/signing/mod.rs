//! Signs what somebody else has drafted, here or far from any coordinator: the one way to a signature of an offline key.
//!
//! The coordinator is not trusted. The roots that come with a request are walked from the one that the keys know themselves; the
//! bytes are decoded and held against those roots and against what was asked for, point by point; a person reads what *they* say;
//! only then is a key unlocked. Owns that order; never decides what is asked.

mod known;
pub(crate) mod place;
mod repository;
pub(crate) mod words;

use std::time::Duration;

use anyhow::Context;
use upswarm_protocol::catalog::{
    APT_PREFIX, Action, Approval, ApprovalRule, GroupDocument, Keys, Members, Recipe, Release, Root,
};
use upswarm_protocol::codec::{self, Bounded, Text};
use upswarm_protocol::envelope::{self, Envelope, Kind, Role};
use upswarm_protocol::ids::{GroupId, PublicKey};
use upswarm_protocol::inventory::Conditions;
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::{
    validate_group, validate_release, validate_root, verify_approval, verify_group, verify_release,
};

use self::known::{KnownMachines, remember_group, same_group};
use self::place::KeyPlace;
use self::repository::Repository;
use crate::api::approvals::{ApprovalDraft, HexBytes, Intent, SignedDocument, SigningRequest};
use crate::api::catalog;
use crate::api::groups::{AskedGroup, Belong, ListDraft};
use crate::api::roots::{Asked, REQUEST_VERSION, RequestFile};
use crate::api::rules::{AskedRules, RuleChange, RuleDraft, RuleSet};
use crate::api::schedule::LIFE;
use crate::coordinator::admin::root::differences;
use crate::coordinator::anchor::Anchor;
use crate::coordinator::keys::KeyUse;
use crate::error::CliError;
use crate::upstream::filtered::RepositoryKey;
use crate::upstream::proof::{self, Signed as SignedUpstream};

/// Columns that the label of each line of [`Checked::words`] takes.
pub(crate) const LABEL: usize = 12;
/// The coordinator's clock may differ from this machine's by this much.
const TOLERANCE: Duration = Duration::from_secs(15 * 60);
/// What was drafted may lie on its way to the keys for this long.
const CARRIED: Duration = Duration::from_secs(30 * 86_400);
/// A version may be so far above what is proven of the ones before. What one hostile draft uses up can be used up again more often
/// than anybody signs.
const MAX_LEAP: u64 = 1 << 20;
/// Above it nothing is signed: so there is always a next version.
const MAX_VERSION: u64 = u64::MAX / 2;

/// A request that was checked, in words, and what signing it needs.
pub(crate) struct Checked {
    file: RequestFile,
    /// What the bytes say, for a person.
    pub(crate) words: String,
    /// What may be signed, for whom, and how often it must be.
    document: Document,
    kind: (Kind, Role),
    body: Vec<u8>,
    /// Sets of keys, each with the number of its holders that must sign.
    needs: Vec<Keys>,
    anchor: Anchor,
    /// Of a snapshot: the Release file for machines without an agent.
    filtered: Option<String>,
}

/// What a request is about.
pub(crate) enum Document {
    Approval(Box<Approval>, String),
    Release,
    Root,
    Group(GroupId, String, u64),
    Rules(u64),
    /// With the name of its group.
    RepositoryRule(Box<ApprovalRule>, String),
}

/// How fresh a draft must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// It was drafted a moment ago, by a coordinator that was asked for it.
    Here,
    /// It was carried here.
    InAFile,
}

impl RequestFile {
    /// A request to be signed, with the roots as the coordinator shows them.
    pub(crate) fn new(roots: Vec<HexBytes>, asked: Asked) -> Self {
        Self { upswarm_request: REQUEST_VERSION, roots, asked, signed: None }
    }

    /// Which keys sign it.
    pub(crate) fn key_use(&self) -> KeyUse {
        match self.asked {
            Asked::Approval(_) | Asked::Group(_) | Asked::Rules(_) | Asked::RepositoryRule(_) => KeyUse::Approver,
            Asked::Release(_) => KeyUse::Publisher,
            Asked::Root(_) => KeyUse::Root,
        }
    }
}

/// Checks a request from what the keys in `place` know. No key is unlocked.
pub(crate) fn check(file: RequestFile, place: &KeyPlace, carried: Carried, now: Wall) -> Result<Checked, CliError> {
    let refuse = |reason: String| CliError::Refused(format!("nothing was signed: {reason}"));
    if file.upswarm_request != REQUEST_VERSION {
        return Err(refuse("the request is of another version of this program".to_owned()));
    }
    let noted = Anchor::read(&place.dir).map_err(|error| refuse(format!("{error:#}")))?;
    let mut anchor = noted.or_else(|| place.anchor.map(|root| Anchor::new(&place.dir, root))).ok_or_else(|| {
        refuse(format!(
            "these keys do not know which root of trust to believe: copy anchor.json into {} from the directory that `upswarm \
             coordinator init` made, or name the root with --anchor HASH, as `upswarm root show` prints it",
            place.dir.display()
        ))
    })?;
    let chain: Vec<&[u8]> = file.roots.iter().map(|root| root.0.as_slice()).collect();
    let root = anchor.walk(&chain, now).map_err(|error| refuse(format!("{error:#}")))?;
    let publics = place.public_halves()?;
    let mut filtered = None;
    let (document, kind, body, needs) = match &file.asked {
        Asked::Approval(asked) => {
            let (request, draft) = (&asked.request, &asked.draft);
            let (approval, release, described) = checked(request, draft, (&root, &publics, &anchor), carried, now)
                .map_err(|reason| refuse(format!("the coordinator's draft is not what was asked for: {reason}")))?;
            anchor.must_not_go_back(&approval).map_err(refuse)?;
            anchor.must_know_group(&approval.group, approval.group_version).map_err(refuse)?;
            let first_time = !same_group(&place.dir, &draft.group, approval.group)?;
            let group = words::Group { name: &draft.group, first_time, described: described.as_ref() };
            let upstream = of_upstream(&approval, &release, request, now).map_err(|reason| {
                refuse(format!("the release does not say what its repository's own people signed: {reason}"))
            })?;
            let needs = vec![approvers_of(&root, &approval.group)];
            let compared = upstream.as_ref().is_some_and(|signed| signed.compared);
            let repository = compared.then(|| Repository::of(&needs));
            let words = words::approval(&approval, &release, &group, (upstream.as_ref(), repository), &request.preview);
            filtered = repository
                .filter(|repository| *repository == Repository::Signed)
                .map(|_| repository::release_file(&approval, &release, request));
            let document = Document::Approval(Box::new(approval), draft.group.clone());
            ((document, words), (Kind::Approval, Role::Approver), &request.body, needs)
        }
        Asked::Release(body) => {
            let release = checked_release(&body.0, carried, now).map_err(refuse)?;
            let nobody = || refuse(format!("the root has no publisher for {}", release.product));
            let of = root.publisher_of(&release.product).ok_or_else(nobody)?;
            let needs = vec![of.clone()];
            let words = words::release(&release);
            ((Document::Release, words), (Kind::Release, Role::Publisher), body, needs)
        }
        Asked::Group(asked) => {
            let group = checked_group(asked, carried, now)
                .map_err(|reason| refuse(format!("the coordinator's draft is not what was asked for: {reason}")))?;
            anchor.must_know_group(&group.group, group.version).map_err(refuse)?;
            let proven = asked.draft.before.as_ref().and_then(|bytes| verify_group(&root, &bytes.0).ok());
            let proven = proven.filter(|before| before.group == group.group).map_or(0, |before| before.version);
            must_follow(group.version, proven.max(anchor.group_version(&group.group))).map_err(refuse)?;
            let first_time = !same_group(&place.dir, &group.name, group.group)?;
            let known = KnownMachines::read(&place.dir)?;
            let list = asked.draft.list.as_ref().map(|list| (list, known.compare(group.group, list)));
            let words = words::group(&group, list, first_time);
            let threshold = u8::try_from(root.targeters_needed(&group.group)).unwrap_or(u8::MAX);
            let needs = vec![Keys { threshold, ..root.targeters().clone() }];
            let document = Document::Group(group.group, group.name.to_string(), group.version);
            ((document, words), (Kind::Group, Role::Approver), &asked.draft.body, needs)
        }
        Asked::Rules(asked) => {
            let next = checked_rules(asked, (&root, &anchor), carried, now).map_err(refuse)?;
            anchor.must_be_newest_rules(next.version).map_err(refuse)?;
            let words = words::rules(&asked.change, &next);
            let needs = vec![root.approvers.clone()];
            ((Document::Rules(next.version), words), (Kind::Rules, Role::Approver), &asked.body, needs)
        }
        Asked::RepositoryRule(draft) => {
            let (rule, described) = checked_rule(draft, &root, carried, now)
                .map_err(|reason| refuse(format!("the coordinator's draft is not what was asked for: {reason}")))?;
            if root.upstream_of(&format!("{APT_PREFIX}.{}", rule.upstream)).is_none() {
                return Err(refuse(format!("the root names no repository {}", rule.upstream)));
            }
            anchor.must_know_group(&rule.group, rule.group_version).map_err(refuse)?;
            let group = &draft.asked.group;
            let first_time = !same_group(&place.dir, group, rule.group)?;
            let named = words::Group { name: group, first_time, described: described.as_ref() };
            let words = words::repository_rule(&rule, &named);
            let needs = vec![approvers_of(&root, &rule.group)];
            let document = Document::RepositoryRule(Box::new(rule), group.clone());
            ((document, words), (Kind::RepositoryRule, Role::Approver), &draft.body, needs)
        }
        Asked::Root(body) => {
            let next = checked_root(&body.0, &root, carried, now).map_err(refuse)?;
            let needs = vec![root.root.clone(), next.root.clone()];
            let words = differences(&root, &next).join("\n");
            ((Document::Root, words), (Kind::Root, Role::Root), body, needs)
        }
    };
    let (document, words) = document;
    let filtered = filtered.transpose().map_err(refuse)?;
    let mut body = body.0.clone();
    if let Some(signed) = &file.signed {
        let envelope = Envelope::parse(&signed.0, kind.0, kind.1).map_err(|error| refuse(error.to_string()))?;
        if let Some(text) = &filtered {
            body = repository::signed_before(envelope.unverified_body(), &body, text, now).map_err(refuse)?;
        }
        if envelope.unverified_body() != body {
            return Err(refuse("the signatures in the file are around other bytes than the request".to_owned()));
        }
    }
    // Whoever has no part in it is told before a passphrase is asked for.
    if !publics.iter().any(|key| needs.iter().any(|keys| keys.contains(key))) {
        return Err(refuse(format!(
            "none of the {} keys in {} may sign this: root {} names others",
            place.r#use.name(),
            place.dir.display(),
            root.version
        )));
    }
    Ok(Checked { file, words, document, kind, body, needs, anchor, filtered })
}

impl Checked {
    /// What it is about.
    pub(crate) fn document(&self) -> &Document {
        &self.document
    }

    /// Signs, and notes beside the keys what was signed. Returns the request with the signatures of all so far.
    pub(crate) fn sign(self, place: &KeyPlace) -> Result<Signed, CliError> {
        let may_sign: Vec<PublicKey> = self.needs.iter().flat_map(Keys::public).collect();
        let keys = place.unlock(&may_sign)?;
        let keys: Vec<_> = keys.iter().collect();
        let (kind, role) = self.kind;
        let mut body = self.body;
        if let (Some(text), None, Document::Approval(approval, _), Some(first)) =
            (&self.filtered, &self.file.signed, &self.document, keys.first())
        {
            let signed = RepositoryKey::of(first).and_then(|key| key.sign(text, approval.issued));
            let filtered = Some(signed.context("signing the repository for machines without an agent")?);
            let approval = Approval { filtered, ..approval.as_ref().clone() };
            body = codec::encode(&approval, kind.cap()).context("signing an approval")?;
        }
        let bytes = match &self.file.signed {
            Some(before) => envelope::add_signatures(&before.0, kind, role, &keys),
            None => envelope::sign_body(kind, role, &body, &keys),
        };
        let bytes = bytes.context("signing")?;
        let mut anchor = self.anchor;
        if let Document::Approval(approval, group) = &self.document {
            anchor.has_signed(approval);
            anchor.has_seen_group(&approval.group, approval.group_version);
            remember_group(&place.dir, group, approval.group);
        }
        if let Document::Group(group, name, version) = &self.document {
            remember_group(&place.dir, name, *group);
            anchor.has_seen_group(group, *version);
            if let Asked::Group(asked) = &self.file.asked
                && let (Some(list), Ok(known)) = (&asked.draft.list, KnownMachines::read(&place.dir))
            {
                known.remember(&place.dir, *group, list);
            }
        }
        if let Document::RepositoryRule(rule, group) = &self.document {
            remember_group(&place.dir, group, rule.group);
            anchor.has_seen_group(&rule.group, rule.group_version);
        }
        if let Document::Rules(version) = &self.document {
            anchor.has_seen_rules(*version);
        }
        anchor.keep();
        let envelope = Envelope::parse(&bytes, kind, role).context("reading what was signed")?;
        let has = |key: &PublicKey| envelope.verify_one(&[*key]).is_ok();
        let lacks = self.needs.iter().map(|keys| usize::from(keys.threshold).saturating_sub(keys.voices(has)));
        let lacks = lacks.max().unwrap_or(0);
        let mut file = self.file;
        file.signed = Some(HexBytes(bytes));
        Ok(Signed { file, document: self.document, lacks })
    }
}

/// A signed request.
pub(crate) struct Signed {
    pub(crate) file: RequestFile,
    pub(crate) document: Document,
    /// Holders whose signatures are missing.
    pub(crate) lacks: usize,
}

impl Signed {
    /// The document for the coordinator, if enough have signed it.
    pub(crate) fn complete(&self) -> Result<SignedDocument, CliError> {
        if self.lacks > 0 {
            return Err(CliError::Refused(format!(
                "{} more must sign it, and their keys are not here: write the request with --export FILE, and have it signed where they \
                 are: upswarm sign FILE",
                self.lacks
            )));
        }
        let bytes = self.file.signed.as_ref().context("it is signed")?;
        Ok(SignedDocument(bytes.0.clone()))
    }
}

/// The approval that the bytes say, its release, and what approvers have signed about its group, if all are what was asked for.
fn checked(
    request: &SigningRequest,
    draft: &ApprovalDraft,
    (root, publics, anchor): (&Root, &[PublicKey], &Anchor),
    carried: Carried,
    now: Wall,
) -> Result<(Approval, Release, Option<GroupDocument>), String> {
    // 1. The bytes are an approval.
    let approval: Approval =
        codec::decode(&request.body.0, Kind::Approval.cap()).map_err(|error| format!("its bytes: {error}"))?;
    // 2. Its release is the one that was named, by what its publisher has signed.
    let (id, release) =
        verify_release(root, &request.release.0).map_err(|error| format!("the release's document: {error}"))?;
    let (product, version) = (release.product.as_str(), release.version.as_str());
    if id != approval.release || !catalog::names_exactly(&draft.release, &id, product, version) {
        return Err(format!("{} was asked for, it is about {product}@{version} ({})", draft.release, approval.release));
    }
    // 3. It is of now.
    is_of_now(approval.issued, carried, now)?;
    // 4. It replaces what it says, by one version.
    let replaced = request.replaces.as_ref().map(|bytes| replaced(&bytes.0, &approval)).transpose()?;
    let before = replaced.as_ref().map_or(0, |(before, _)| before.version);
    if before.checked_add(1) != Some(approval.version) {
        return Err(format!("its version is {}, after {before}", approval.version));
    }
    //    Whoever signed that may sign no more, and whoever drafted this may have made it up: then these keys' own last version counts.
    let is_proven = request.replaces.as_ref().is_some_and(|bytes| verify_approval(root, &bytes.0).is_ok());
    let proven = if is_proven { before } else { 0 };
    must_follow(approval.version, proven.max(anchor.approval_version(&approval)))?;
    // 5. The group is the one that was named, as approvers have described it.
    let described = described(root, request.group.as_ref(), (&draft.group, approval.group))?;
    // 6. Action, schedule, rings, life and remark are those that were asked for.
    let mut wanted = match &draft.intent {
        Intent::Decide { action, schedule, back } => {
            let wanted = schedule
                .approval((approval.group, approval.release), approval.version, *action, approval.issued)
                .map_err(|error| error.to_string())?;
            Approval { back: *back, ..wanted }
        }
        Intent::Decline { note } => plain(&approval, Action::None, note)?,
        Intent::Expedite => expedited(&approval, replaced, publics)?,
    };
    wanted.group_version = described.as_ref().map_or(0, |known| known.version);
    if approval.action == Action::Install && approval.back != release.goes_back() {
        return Err("release and approval do not both say that machines go back".to_owned());
    }
    if wanted != approval {
        return Err(format!("asked for: {}; drafted: {}", words::of(&wanted), words::of(&approval)));
    }
    Ok((approval, release, described))
}

/// Refuses a version that leaves too many out: one draft would make what it says final, since no later one could be above it.
fn must_follow(version: u64, proven: u64) -> Result<(), String> {
    if version > proven.saturating_add(MAX_LEAP) || version > MAX_VERSION {
        return Err(format!(
            "its version is {version}, and the newest that is proven here is {proven}: the coordinator skips versions, so that later \
             ones would find no room; ask whoever runs it why, and let somebody sign first whose keys know more"
        ));
    }
    Ok(())
}

/// What approvers have signed about a group, if they have, and if it is the one of this name and number.
fn described(
    root: &Root,
    document: Option<&HexBytes>,
    (name, group): (&str, GroupId),
) -> Result<Option<GroupDocument>, String> {
    let described = document.map(|bytes| verify_group(root, &bytes.0)).transpose();
    let described = described.map_err(|error| format!("the group's document: {error}"))?;
    if let Some(known) = described.as_ref().filter(|known| known.group != group || *known.name != *name) {
        return Err(format!("{name} was asked for, it is for the group {:?}", known.name.as_str()));
    }
    Ok(described)
}

/// The approvers, as many of whom must sign as this group wants.
fn approvers_of(root: &Root, group: &GroupId) -> Keys {
    let threshold = u8::try_from(root.approvals_needed(group)).unwrap_or(u8::MAX);
    Keys { threshold, ..root.approvers.clone() }
}

/// What upstream signed of a snapshot that is to be installed, and that the release is nothing else.
fn of_upstream(
    approval: &Approval,
    release: &Release,
    request: &SigningRequest,
    now: Wall,
) -> Result<Option<SignedUpstream>, String> {
    let Recipe::Apt(recipe) = &release.install else { return Ok(None) };
    if approval.action != Action::Install {
        // What is declined may be as old as it wants.
        return Ok(None);
    }
    let metadata: Vec<&[u8]> = request.metadata.iter().map(|file| file.0.as_slice()).collect();
    proof::check(release, recipe, &metadata, now).map(Some)
}

/// The rule about a repository that the bytes say, and what approvers have signed about its group, if it is the one that was asked
/// for.
fn checked_rule(
    draft: &RuleDraft,
    root: &Root,
    carried: Carried,
    now: Wall,
) -> Result<(ApprovalRule, Option<GroupDocument>), String> {
    let rule: ApprovalRule =
        codec::decode(&draft.body.0, Kind::RepositoryRule.cap()).map_err(|error| format!("its bytes: {error}"))?;
    is_of_now(rule.issued, carried, now)?;
    let described = described(root, draft.group.as_ref(), (&draft.asked.group, rule.group))?;
    let group_version = described.as_ref().map_or(0, |known| known.version);
    let wanted = draft.asked.rule(rule.number, (rule.group, group_version), rule.issued);
    let wanted = wanted.map_err(|error| error.to_string())?;
    if wanted != rule {
        return Err(format!("asked for: {wanted:?}; drafted: {rule:?}"));
    }
    Ok((rule, described))
}

/// The rules that the bytes say, if they are those in force with the change that was asked for.
fn checked_rules(
    asked: &AskedRules,
    (root, anchor): (&Root, &Anchor),
    carried: Carried,
    now: Wall,
) -> Result<RuleSet, String> {
    let next = RuleSet::parse(&asked.body.0)?;
    is_of_now(next.issued, carried, now)?;
    let verified = asked.before.as_ref().map(|before| RuleSet::verified(root, &before.0)).transpose();
    let (before, proven) = match (verified, &asked.before, &asked.change) {
        (Ok(Some(before)), _, _) => (before.clone(), before.version),
        // A person reads all of them: whoever signed them before may have been a thief.
        (Err(_), Some(before), RuleChange::Keep) => {
            let envelope =
                Envelope::parse(&before.0, Kind::Rules, Role::Approver).map_err(|error| error.to_string())?;
            (RuleSet::parse(envelope.unverified_body())?, 0)
        }
        (Err(error), _, _) => {
            return Err(format!("{error}; look at them and sign them anew first: upswarm rule sign"));
        }
        (Ok(None), _, _) => (RuleSet::default(), 0),
    };
    if before.changed(&asked.change, next.issued)? != next {
        return Err("the rules are others than those in force with the change that was asked for".to_owned());
    }
    must_follow(next.version, proven.max(anchor.rules_version()))?;
    Ok(next)
}

/// What the bytes say about a group, if that is what was asked for.
fn checked_group(asked: &AskedGroup, carried: Carried, now: Wall) -> Result<GroupDocument, String> {
    let (wanted, draft) = (&asked.wanted, &asked.draft);
    let group: GroupDocument =
        codec::decode(&draft.body.0, Kind::Group.cap()).map_err(|error| format!("its bytes: {error}"))?;
    validate_group(&group).map_err(|error| error.to_string())?;
    if *group.name != *wanted.group {
        return Err(format!("{:?} was asked for, it is about the group {:?}", wanted.group, group.name.as_str()));
    }
    is_of_now(group.issued, carried, now)?;
    let members = match (&wanted.conditions[..], wanted.members) {
        ([], Some(Belong::Coordinator)) => Members::Listed,
        ([], Some(Belong::List)) => {
            let list = draft.list.as_ref().and_then(ListDraft::list).ok_or("its list is missing or too long")?;
            Members::List(list.tree().root())
        }
        ([], None) => return Err("nobody said who belongs to it".to_owned()),
        (texts, _) => {
            let conditions = Conditions::parse(texts).map_err(|error| error.to_string())?;
            Members::Rule(Bounded::truncated(conditions.iter().map(|condition| condition.to_text()).collect()))
        }
    };
    if members != group.members {
        return Err("its members are others than was said".to_owned());
    }
    Ok(group)
}

/// The rules that today's approvers have signed, by what the keys in `place` know: for whoever applies them.
pub(crate) fn signed_rules(
    roots: &[HexBytes],
    document: Option<&HexBytes>,
    place: &KeyPlace,
    now: Wall,
) -> Result<RuleSet, CliError> {
    let refuse = |reason: String| CliError::Refused(format!("the auto-approval rules are not believed: {reason}"));
    let noted = Anchor::read(&place.dir).map_err(|error| refuse(format!("{error:#}")))?;
    let anchor = noted.or_else(|| place.anchor.map(|root| Anchor::new(&place.dir, root)));
    let mut anchor = anchor.ok_or_else(|| refuse("these keys know no root of trust".to_owned()))?;
    let chain: Vec<&[u8]> = roots.iter().map(|root| root.0.as_slice()).collect();
    let root = anchor.walk(&chain, now).map_err(|error| refuse(format!("{error:#}")))?;
    let document = document.ok_or_else(|| refuse("nobody has signed them".to_owned()))?;
    let set = RuleSet::verified(&root, &document.0)
        .map_err(|error| refuse(format!("{error}; look at them and sign them anew: upswarm rule sign")))?;
    anchor.must_be_newest_rules(set.version).map_err(refuse)?;
    anchor.has_seen_rules(set.version);
    anchor.keep();
    Ok(set)
}

/// The release that the bytes say, if a machine could take it.
fn checked_release(body: &[u8], carried: Carried, now: Wall) -> Result<Release, String> {
    let release: Release = codec::decode(body, Kind::Release.cap()).map_err(|error| format!("its bytes: {error}"))?;
    validate_release(&release).map_err(|error| error.to_string())?;
    is_of_now(release.issued, carried, now)?;
    Ok(release)
}

/// The root that the bytes say, if it may follow today's.
fn checked_root(body: &[u8], today: &Root, carried: Carried, now: Wall) -> Result<Root, String> {
    let next: Root = codec::decode(body, Kind::Root.cap()).map_err(|error| format!("its bytes: {error}"))?;
    validate_root(&next).map_err(|error| error.to_string())?;
    if today.version.checked_add(1) != Some(next.version) {
        return Err(format!("it is version {}, and today's root is version {}", next.version, today.version));
    }
    is_of_now(next.issued, carried, now)?;
    if next.expires <= now {
        return Err(format!("it expired at {}", next.expires));
    }
    Ok(next)
}

fn is_of_now(issued: Wall, carried: Carried, now: Wall) -> Result<(), String> {
    let before = if carried == Carried::InAFile { CARRIED } else { TOLERANCE };
    if issued.since(now) > TOLERANCE || now.since(issued) > before {
        return Err(format!(
            "it is dated {issued}, here it is {now}; set the clock of this machine or of the coordinator right, or draft it anew"
        ));
    }
    Ok(())
}

/// An approval that says no more than its action.
fn plain(drafted: &Approval, action: Action, note: &str) -> Result<Approval, String> {
    Ok(Approval {
        group: drafted.group,
        group_version: 0,
        release: drafted.release,
        version: drafted.version,
        action,
        back: false,
        issued: drafted.issued,
        expires: drafted.issued + LIFE,
        schedule: Default::default(),
        rings: Default::default(),
        note: Text::new(note).map_err(|error| format!("--note: {error}"))?,
        filtered: None,
    })
}

/// The approval in force with nothing changed but that it may begin now. What is in force is believed only when one of the keys
/// that are to sign has signed it.
fn expedited(
    drafted: &Approval,
    replaced: Option<(Approval, Envelope<'_>)>,
    own: &[PublicKey],
) -> Result<Approval, String> {
    let (before, envelope) = replaced.ok_or("it names no approval that it would let begin")?;
    if envelope.verify_one(own).is_err() {
        return Err(
            "the approval in force was signed by other keys; say what you want with: upswarm approve --expedite"
                .to_owned(),
        );
    }
    let mut wanted = plain(drafted, before.action, before.note.as_str())?;
    (wanted.schedule, wanted.rings, wanted.back) = (before.schedule, before.rings, before.back);
    wanted.schedule.expedite = true;
    wanted.schedule.deadline = wanted.schedule.deadline.filter(|deadline| *deadline > drafted.issued);
    Ok(wanted)
}

fn replaced<'a>(bytes: &'a [u8], drafted: &Approval) -> Result<(Approval, Envelope<'a>), String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("the approval that it replaces: {error}");
    let envelope = Envelope::parse(bytes, Kind::Approval, Role::Approver).map_err(|error| unreadable(&error))?;
    let before: Approval =
        codec::decode(envelope.unverified_body(), Kind::Approval.cap()).map_err(|error| unreadable(&error))?;
    if (before.group, before.release) != (drafted.group, drafted.release) {
        return Err("it replaces the approval of another release or group".to_owned());
    }
    Ok((before, envelope))
}

#[cfg(test)]
mod tests;
