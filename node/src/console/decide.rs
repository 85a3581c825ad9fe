//! Approving, declining and expediting: a draft, its preview, and the signature of an approver's key. Owns the drafts that wait for
//! their signature; what is drafted is the coordinator's answer, and whether it may be signed is judged by `signing` from what the
//! keys know, both when it is shown and when it is signed.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use upswarm_protocol::catalog::{Action, Release};
use upswarm_protocol::codec;
use upswarm_protocol::envelope::{Envelope, Kind, Role};

use super::guard::{Fields, Visitor};
use super::pages::{Frame, render};
use super::refused::Form;
use super::trouble::Trouble;
use super::{Console, Keys, show};
use crate::api::approvals::{ApprovalDraft, HexBytes, Intent, Preview, SignedDocument, SigningRequest};
use crate::api::roots::{Asked, AskedApproval, RequestFile};
use crate::api::schedule::ScheduleArgs;
use crate::clock::wall;
use crate::coordinator::keys::{self, KeyUse, Passphrase};
use crate::error::CliError;
use crate::signing::place::KeyPlace;
use crate::signing::{Carried, Checked, LABEL, check};
use crate::text;

/// Drafts that may wait for their signature; the oldest makes place.
const MAX_DRAFTS: usize = 32;
/// Drafts of which it is remembered that they were signed.
const MAX_SIGNED: usize = 64;
/// What was shown longer ago is drafted anew: it would be dated too far back to be signed.
const DRAFT_LIFE: Duration = Duration::from_secs(10 * 60);
/// Keys are unlocked one at a time.
static UNLOCKING: Semaphore = Semaphore::const_new(1);
/// What a person types or chooses in the form of an update.
const TYPED: &[&str] =
    &["group", "intent", "ring", "available", "deadline", "window", "stop_above", "jitter", "allow_empty", "note"];
/// Machines of a ring that the preview names.
const MAX_NAMED: usize = 40;

/// What waits for its signature, by the number that its page shows.
#[derive(Default)]
pub(super) struct Drafts {
    waiting: Mutex<BTreeMap<String, Draft>>,
    /// What was signed, the newest last: whoever loads its page again is told so.
    signed: Mutex<VecDeque<Done>>,
}

/// A draft that was signed.
struct Done {
    name: String,
    /// Product and version.
    what: String,
    group: String,
}

#[derive(Clone)]
struct Draft {
    made: Instant,
    draft: ApprovalDraft,
    /// Product and version, as the page had them on which it was decided.
    shown: String,
    request: SigningRequest,
    roots: Vec<HexBytes>,
}

impl Drafts {
    fn keep(&self, draft: Draft) -> anyhow::Result<String> {
        let name = hex::encode(keys::random::<16>()?);
        let mut drafts = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        drafts.retain(|_, draft| draft.made.elapsed() < DRAFT_LIFE);
        if drafts.len() >= MAX_DRAFTS {
            let oldest = drafts.iter().min_by_key(|(_, draft)| draft.made).map(|(name, _)| name.clone());
            oldest.and_then(|name| drafts.remove(&name));
        }
        drafts.insert(name.clone(), draft);
        Ok(name)
    }

    fn get(&self, name: &str) -> Option<Draft> {
        let drafts = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        drafts.get(name).filter(|draft| draft.made.elapsed() < DRAFT_LIFE).cloned()
    }

    fn has_signed(&self, name: &str, draft: &Draft) {
        self.forget(name);
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if signed.len() >= MAX_SIGNED {
            signed.pop_front();
        }
        let (what, group) = (draft.shown.clone(), draft.draft.group.clone());
        signed.push_back(Done { name: name.to_owned(), what, group });
    }

    /// Why there is no draft of this number.
    fn gone(&self, name: &str) -> Trouble {
        let signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        Trouble::conflict(match signed.iter().find(|done| done.name == name) {
            Some(done) => format!(
                "This was signed already: the decision on {} for group {} is with the coordinator. Nothing is left to do here; the page \
                 of the update shows how far it is.",
                done.what, done.group
            ),
            None => {
                "This preview is older than ten minutes, or made room for newer ones. By it nothing was signed; decide anew.".to_owned()
            }
        })
    }

    fn forget(&self, name: &str) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[derive(Template)]
#[template(path = "preview.html")]
struct PreviewPage {
    frame: Frame,
    draft: String,
    verb: &'static str,
    what: String,
    group: String,
    release_href: String,
    devices: String,
    counts: Vec<(&'static str, usize)>,
    rings: Vec<Ring>,
    left_out: usize,
    stop: String,
    held_by: Vec<String>,
    questions: Vec<String>,
    words: Vec<(String, String)>,
    /// Why it cannot be signed here.
    obstacle: Option<String>,
    passphrase: bool,
    /// Why the last try did not sign it.
    trouble: Option<String>,
    replaces: u64,
}

struct Ring {
    number: usize,
    up_to: String,
    earliest: String,
    latest: String,
    machines: String,
    named: Vec<(String, String, String, String)>,
    more: usize,
}

/// Asks the coordinator for a draft, and leads to its preview; or back to the form, with what was typed and why it is refused.
pub(super) async fn draft(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    fields: Fields,
) -> Result<Redirect, Trouble> {
    fields.must_be_of(&visitor)?;
    match drafted(&console, &fields).await {
        Ok(name) => Ok(Redirect::to(&show::href(&["drafts", &name], &[]))),
        Err(trouble) => {
            let form = Form::new(&fields, TYPED, trouble.refusal()?);
            let release = fields.get("release").unwrap_or_default().to_owned();
            let name = console.refused.keep(form)?;
            Ok(Redirect::to(&show::href(&["updates", &release], &[("form", &name)])))
        }
    }
}

/// The preview of a draft, as often as it is looked at.
pub(super) async fn preview(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Html<String>, Trouble> {
    let draft = console.drafts.get(&name).ok_or_else(|| console.drafts.gone(&name))?;
    shown(&console, &visitor, name, draft, None).await
}

async fn drafted(console: &Console, fields: &Fields) -> Result<String, Trouble> {
    let draft = read(fields)?;
    let request = console.client.draft(&draft).await?;
    let seen: u64 =
        fields.get(&format!("seen.{}", draft.group)).and_then(|version| version.parse().ok()).unwrap_or_default();
    if seen != request.preview.replaces {
        return Err(Trouble::conflict(format!(
            "The page showed version {seen} of the decision for group {}, and version {} is in force: somebody has decided meanwhile. \
             Nothing was signed; look again, and decide then.",
            draft.group, request.preview.replaces
        )));
    }
    let roots = console.client.roots().await?.roots;
    let shown_as = fields.get("shown").unwrap_or_default().to_owned();
    let draft = Draft { made: Instant::now(), draft, shown: shown_as, request, roots };
    Ok(console.drafts.keep(draft)?)
}

/// Signs what was shown, and hands it in.
pub(super) async fn sign(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    fields: Fields,
) -> Result<Response, Trouble> {
    fields.must_be_of(&visitor)?;
    let name = fields.get("draft").unwrap_or_default().to_owned();
    let draft = console.drafts.get(&name).ok_or_else(|| console.drafts.gone(&name))?;
    let dir = console.keys.dir.clone().ok_or_else(|| Trouble::from(no_keys()))?;
    let catalog = console.client.catalog().await?;
    let preview = &draft.request.preview;
    let in_force = catalog.approval(&preview.group_id, &preview.release).map_or(0, |known| known.version);
    if in_force != preview.replaces {
        console.drafts.forget(&name);
        return Err(Trouble::conflict(format!(
            "Version {in_force} of the decision for group {} has come into force since this was previewed. Nothing was signed.",
            draft.draft.group
        )));
    }
    let passphrase = match fields.get("passphrase") {
        Some(given) => match Passphrase::new(given) {
            Ok(given) => Some(given),
            Err(error) => return again(&console, &visitor, name, draft, format!("{error:#}")).await,
        },
        None => None,
    };
    let (keys, given) = (console.keys.clone(), draft.clone());
    // Each unlocking takes 64 MiB: one after the other.
    let unlocking = UNLOCKING.acquire().await.context("unlocking keys")?;
    let signed = blocking(move || signed(dir, &keys, &given, passphrase)).await?;
    drop(unlocking);
    let document = match signed {
        Ok(document) => document,
        Err(CliError::Refused(reason)) => return again(&console, &visitor, name, draft, reason).await,
        Err(failed) => return Err(failed.into()),
    };
    console.client.approve(document).await?;
    console.drafts.has_signed(&name, &draft);
    Ok(Redirect::to(&show::href(&["updates", &preview.release.to_string()], &[])).into_response())
}

/// The preview again, with what stood in the way.
async fn again(
    console: &Console,
    visitor: &Visitor,
    name: String,
    draft: Draft,
    trouble: String,
) -> Result<Response, Trouble> {
    let page = shown(console, visitor, name, draft, Some(trouble)).await?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
}

fn signed(
    dir: PathBuf,
    keys: &Keys,
    draft: &Draft,
    passphrase: Option<Passphrase>,
) -> Result<SignedDocument, CliError> {
    let place = KeyPlace::given(dir, KeyUse::Approver, passphrase, keys.anchor);
    checked(draft, &place)?.sign(&place)?.complete()
}

/// The check of every signature, and of the name under which a person decided: the coordinator made the page that showed it, and
/// may have put one release's number under another's name.
fn checked(draft: &Draft, place: &KeyPlace) -> Result<Checked, CliError> {
    let checked = check(file(draft), place, Carried::Here, wall())?;
    let envelope = Envelope::parse(&draft.request.release.0, Kind::Release, Role::Publisher).context("the release")?;
    let release: Release = codec::decode(envelope.unverified_body(), Kind::Release.cap()).context("the release")?;
    let is = format!("{} {}", release.product, release.version);
    if is != draft.shown {
        return Err(CliError::Refused(format!(
            "The page said {:?}, and the document is about {is}. Nothing was signed; ask whoever runs the coordinator how that came.",
            draft.shown
        )));
    }
    Ok(checked)
}

fn file(draft: &Draft) -> RequestFile {
    let asked = AskedApproval { draft: draft.draft.clone(), request: draft.request.clone() };
    RequestFile::new(draft.roots.clone(), Asked::Approval(Box::new(asked)))
}

fn no_keys() -> CliError {
    CliError::Refused(
        "No approver's keys are here. Run upswarm console on the machine that has them (--keys-dir DIR), or sign on the command line: \
         upswarm approve --export FILE, then upswarm sign FILE."
            .to_owned(),
    )
}

/// What the checks say of a draft, in words, or why they refuse it; and whether its keys are encrypted.
fn judged(keys: &Keys, draft: &Draft) -> (Result<String, CliError>, bool) {
    let Some(dir) = keys.dir.clone() else { return (Err(no_keys()), false) };
    let encrypted = keys::are_encrypted(&dir, KeyUse::Approver);
    let place = KeyPlace::given(dir, KeyUse::Approver, None, keys.anchor);
    (checked(draft, &place).map(|checked| checked.words), encrypted)
}

async fn shown(
    console: &Console,
    visitor: &Visitor,
    name: String,
    draft: Draft,
    trouble: Option<String>,
) -> Result<Html<String>, Trouble> {
    let (keys, given) = (console.keys.clone(), draft.clone());
    let (words, passphrase) = blocking(move || judged(&keys, &given)).await?;
    let (words, obstacle) = match words {
        Ok(words) => (lines(&words), None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let verb = match &draft.draft.intent {
        Intent::Decide { action: Action::Uninstall, .. } => "Remove",
        Intent::Decide { .. } => "Approve",
        Intent::Decline { .. } => "Decline",
        Intent::Expedite => "Begin now",
    };
    // Both are held against the bytes that are signed; what the preview says beside them is the coordinator's word.
    let (what, group) = (draft.shown, draft.draft.group);
    let preview = draft.request.preview;
    let frame = Frame::new(console, visitor, "updates", &format!("{verb} {what}"));
    let stop = if preview.stop_above_percent > 0.0 {
        format!("It stops by itself above {} failed or silent.", show::share(preview.stop_above_percent))
    } else {
        "It does not stop by itself.".to_owned()
    };
    render(&PreviewPage {
        frame,
        draft: name,
        verb,
        what,
        release_href: show::href(&["updates", &preview.release.to_string()], &[]),
        devices: text::count(preview.devices, "machine", "machines"),
        counts: vec![
            ("need it", preview.required),
            ("have it", preview.already),
            ("not concerned", preview.not_applicable),
        ],
        rings: rings(&preview),
        left_out: preview.left_out.len(),
        stop,
        held_by: preview.held_by,
        questions: preview.questions,
        words,
        obstacle,
        passphrase,
        trouble,
        replaces: preview.replaces,
        group,
    })
}

/// The words of a document, each line by its label; a line without one belongs to the line before.
fn lines(words: &str) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for line in words.lines() {
        let (label, rest) = line.split_at_checked(LABEL).unwrap_or((line, ""));
        match lines.last_mut() {
            Some((_, before)) if label.trim().is_empty() => {
                before.push(' ');
                before.push_str(rest.trim());
            }
            _ => lines.push((label.trim().to_owned(), rest.trim().to_owned())),
        }
    }
    lines
}

fn rings(preview: &Preview) -> Vec<Ring> {
    let never = || "not before it expires".to_owned();
    let ring = |ring: &crate::api::approvals::PreviewRing| Ring {
        number: ring.ring,
        up_to: show::share(ring.up_to_percent),
        earliest: ring.earliest.clone().unwrap_or_else(never),
        latest: ring.latest.clone().unwrap_or_else(never),
        machines: text::count(ring.devices.len(), "machine", "machines"),
        named: ring
            .devices
            .iter()
            .take(MAX_NAMED)
            .map(|device| {
                let state = show::state(device.state.as_deref().unwrap_or("NotTold"));
                let href = show::href(&["devices", &device.device.to_string()], &[]);
                (device.name.clone(), href, state, device.earliest.clone().unwrap_or_else(never))
            })
            .collect(),
        more: ring.devices.len().saturating_sub(MAX_NAMED),
    };
    preview.rings.iter().map(ring).collect()
}

/// What a form asks for.
fn read(fields: &Fields) -> Result<ApprovalDraft, Trouble> {
    let unknown = |what: &str| Trouble::new(StatusCode::UNPROCESSABLE_ENTITY, "Not done", what.to_owned());
    let note = fields.get("note").unwrap_or_default().to_owned();
    let intent = match fields.get("intent").unwrap_or_default() {
        "approve" => Intent::Decide { action: Action::Install, schedule: Box::new(schedule(fields)?), back: false },
        "remove" => Intent::Decide { action: Action::Uninstall, schedule: Box::new(schedule(fields)?), back: false },
        "decline" => Intent::Decline { note },
        "expedite" => Intent::Expedite,
        _ => return Err(unknown("Choose what is to be decided.")),
    };
    Ok(ApprovalDraft {
        release: fields.get("release").unwrap_or_default().to_owned(),
        group: fields.get("group").ok_or_else(|| unknown("Choose a group."))?.to_owned(),
        allow_empty: !matches!(intent, Intent::Decide { .. }) || fields.get("allow_empty") == Some("true"),
        intent,
        zone: "UTC".to_owned(),
    })
}

/// When and in which stages: the same words that the command line takes.
fn schedule(fields: &Fields) -> Result<ScheduleArgs, Trouble> {
    let mut said = Map::new();
    for name in ["available", "deadline", "grace", "active_hours", "jitter", "defer", "stop_above", "life", "note"] {
        said.extend(fields.get(name).map(|value| (name.to_owned(), Value::from(value))));
    }
    for name in ["window", "ring"] {
        let given: Vec<&str> = fields.all(name).flat_map(|value| value.split(',')).map(str::trim).collect();
        let given: Vec<&str> = given.into_iter().filter(|value| !value.is_empty()).collect();
        if !given.is_empty() {
            said.insert(name.to_owned(), Value::from(given));
        }
    }
    if fields.get("expedite") == Some("true") {
        said.insert("expedite".to_owned(), Value::Bool(true));
    }
    let args = serde_json::from_value(Value::Object(said)).context("reading the form");
    Ok(args?)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Trouble> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Trouble::from(anyhow::Error::new(error).context("a check ended early")))
}
