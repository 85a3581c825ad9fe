//! What a document must be like beyond decoding. The verbs that sign call the same checks before signing, so that a document
//! is refused at the admin's desk and not first on ten thousand machines.

use std::collections::BTreeSet;

use ed25519_dalek::VerifyingKey;

use crate::catalog::{Applicability, Approval, Detect, Head, Index, Keys, Payload, Recipe, Release, Root, Window};
use crate::chunk;
use crate::envelope::Kind;
use crate::ids::PublicKey;
use crate::time::Wall;

/// The longest that a command of a release may run, in seconds.
pub const MAX_TIMEOUT_S: u32 = 86_400;

/// A part of a document that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Where, for example `payloads[2].name`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

fn ensure(good: bool, field: impl AsRef<str>, problem: impl AsRef<str>) -> Result<(), Invalid> {
    if good {
        return Ok(());
    }
    Err(Invalid { field: field.as_ref().to_owned(), problem: problem.as_ref().to_owned() })
}

/// Checks keys, thresholds and rules of a root.
pub fn validate_root(root: &Root) -> Result<(), Invalid> {
    ensure(root.version >= 1, "version", "versions begin at 1")?;
    lifetime(root.issued, root.expires)?;
    keys("root", &root.root)?;
    keys("approvers", &root.approvers)?;
    keys("online", &root.online)?;
    ensure(!root.publishers.is_empty(), "publishers", "nobody may publish anything; add a rule")?;
    let mut prefixes = BTreeSet::new();
    for (at, rule) in root.publishers.iter().enumerate() {
        keys(&format!("publishers[{at}]"), &rule.keys)?;
        let field = format!("publishers[{at}].product_prefix");
        ensure(prefixes.insert(rule.product_prefix.as_str()), field, "another rule has the same prefix")?;
    }
    let mut groups = BTreeSet::new();
    for (at, rule) in root.group_rules.iter().enumerate() {
        let field = format!("group_rules[{at}]");
        ensure(groups.insert(rule.group), &field, "another rule is about the same group")?;
        let possible = (1..=root.approvers.keys.len()).contains(&usize::from(rule.threshold));
        ensure(possible, field, "the threshold must lie between 1 and the number of approvers")?;
    }
    Ok(())
}

/// Checks everything in a release that a machine would otherwise have to guess about or be hurt by.
pub fn validate_release(release: &Release) -> Result<(), Invalid> {
    ensure(!release.product.is_empty(), "product", "empty")?;
    ensure(!release.version.is_empty(), "version", "empty")?;
    lifetime(release.issued, release.expires)?;
    let mut names = BTreeSet::new();
    for (at, file) in release.payloads.iter().enumerate() {
        let field = format!("payloads[{at}]");
        payload(&field, file, at, release.payloads.len())?;
        ensure(names.insert(file.name.as_str()), format!("{field}.name"), "another payload has the same name")?;
    }
    let windows = release.platform.os.as_str() == "windows";
    for (at, rule) in release.applicability.iter().enumerate() {
        let field = format!("applicability[{at}]");
        match rule {
            Applicability::HasPackage { name, .. } => package_name(&field, name)?,
            Applicability::Fact { name, .. } => ensure(!name.is_empty(), field, "a fact without a name")?,
            Applicability::FileExists { path } => file_path(&field, path, windows)?,
        }
    }
    let why = "at least one rule must say how to tell that the release is installed";
    ensure(!release.detect.is_empty(), "detect", why)?;
    for (at, rule) in release.detect.iter().enumerate() {
        detect(&format!("detect[{at}]"), rule, windows)?;
    }
    recipe("install", &release.install, release.payloads.len(), windows)?;
    match &release.uninstall {
        Some(uninstall) => recipe("uninstall", uninstall, release.payloads.len(), windows),
        None => Ok(()),
    }
}

/// Checks the schedule and the rings of an approval.
pub fn validate_approval(approval: &Approval) -> Result<(), Invalid> {
    ensure(approval.version >= 1, "version", "versions begin at 1")?;
    lifetime(approval.issued, approval.expires)?;
    let schedule = &approval.schedule;
    for (at, window) in schedule.windows.iter().enumerate() {
        hours(&format!("schedule.windows[{at}]"), *window)?;
    }
    if let Some(active) = schedule.active_hours {
        let window = Window { days: active.days, start: active.start, end: active.end };
        hours("schedule.active_hours", window)?;
    }
    if let (Some(from), Some(deadline)) = (schedule.available_from, schedule.deadline) {
        ensure(from <= deadline, "schedule.deadline", "lies before available_from")?;
    }
    ensure(approval.rings.stop_above <= 10_000, "rings.stop_above", "more than 10000, which is all")?;
    for (at, ring) in approval.rings.rings.iter().enumerate() {
        let field = format!("rings[{at}]");
        ensure((1..=10_000).contains(&ring.up_to), &field, "up_to must lie between 1 and 10000, which is all")?;
        if let Some(before) = at.checked_sub(1).map(|before| approval.rings.rings[before]) {
            let grows = before.up_to < ring.up_to && before.delay_s <= ring.delay_s;
            ensure(grows, field, "up_to must grow from ring to ring, and delay_s must not shrink")?;
        }
    }
    Ok(())
}

pub(super) fn validate_index(index: &Index) -> Result<(), Invalid> {
    ensure(index.version >= 1, "version", "versions begin at 1")?;
    lifetime(index.issued, index.expires)?;
    let mut hashes = BTreeSet::new();
    for (at, entry) in index.documents.iter().enumerate() {
        let field = format!("documents[{at}]");
        ensure(matches!(entry.kind, Kind::Release | Kind::Approval), &field, "neither a release nor an approval")?;
        ensure((1..=entry.kind.cap()).contains(&(entry.len as usize)), &field, "longer than its kind may be")?;
        ensure(hashes.insert(entry.hash), field, "named twice")?;
    }
    let sorted = index.documents.is_sorted_by_key(|entry| (entry.kind, entry.hash));
    ensure(sorted, "documents", "not sorted by kind and hash")?;
    let sorted = index.revoked_devices.is_sorted_by(|a, b| a < b);
    ensure(sorted, "revoked_devices", "not sorted, or a device is named twice")
}

pub(super) fn validate_head(head: &Head) -> Result<(), Invalid> {
    ensure(head.index_version >= 1, "index_version", "versions begin at 1")?;
    ensure((1..=Kind::Index.cap()).contains(&(head.index_len as usize)), "index_len", "longer than an index may be")?;
    lifetime(head.issued, head.expires)
}

/// A key that can be believed: a canonical encoding of a point that is not of small order. A small-order key would verify
/// signatures that nobody made; a second encoding would let one key count twice.
pub(super) fn is_sound(key: &PublicKey) -> bool {
    VerifyingKey::from_bytes(key.as_bytes())
        .is_ok_and(|point| !point.is_weak() && point.to_edwards().compress().as_bytes() == key.as_bytes())
}

fn lifetime(issued: Wall, expires: Wall) -> Result<(), Invalid> {
    ensure(issued < expires, "expires", "not after issued")
}

fn keys(field: &str, keys: &Keys) -> Result<(), Invalid> {
    let distinct: BTreeSet<_> = keys.keys.iter().collect();
    ensure(distinct.len() == keys.keys.len(), field, "a key is named twice")?;
    let possible = (1..=distinct.len()).contains(&usize::from(keys.threshold));
    ensure(possible, field, "the threshold must lie between 1 and the number of keys")?;
    match keys.keys.iter().find(|key| !is_sound(key)) {
        Some(weak) => ensure(false, field, format!("{weak} is not a sound Ed25519 public key")),
        None => Ok(()),
    }
}

fn payload(field: &str, payload: &Payload, at: usize, payloads: usize) -> Result<(), Invalid> {
    let name = payload.name.as_str();
    let plain = !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', ':']);
    ensure(plain, format!("{field}.name"), "not a plain file name")?;
    let len = payload.chunk_list_len as usize;
    ensure((1..=chunk::MAX_LIST).contains(&len), format!("{field}.chunk_list_len"), "longer than a chunk list may be")?;
    for url in &payload.urls {
        let web = url.starts_with("https://") || url.starts_with("http://");
        ensure(web, format!("{field}.urls"), format!("{url} is not an http or https URL"))?;
    }
    for patch in &payload.patches {
        let field = format!("{field}.patches");
        let other = usize::from(patch.payload);
        ensure(other < payloads && other != at, &field, "does not point at another payload of the release")?;
        ensure(patch.base != payload.id, &field, "a difference from the payload to itself")?;
        ensure(!patch.encoding.is_empty(), &field, "no encoding")?;
    }
    Ok(())
}

fn detect(field: &str, rule: &Detect, windows: bool) -> Result<(), Invalid> {
    match rule {
        Detect::FileHash { path, .. } | Detect::FileExists { path } => file_path(field, path, windows),
        Detect::FileContains { path, text } => {
            ensure(!text.is_empty(), field, "every file contains the empty text")?;
            file_path(field, path, windows)
        }
        Detect::Command { argv, timeout_s, .. } => {
            let program = argv.first().map_or("", |program| program.as_str());
            file_path(&format!("{field}.argv[0]"), program, windows)?;
            timeout(field, *timeout_s)
        }
        Detect::Package { name, version, .. } => {
            ensure(!version.is_empty(), field, "no version")?;
            package_name(field, name)
        }
    }
}

fn recipe(field: &str, recipe: &Recipe, payloads: usize, windows: bool) -> Result<(), Invalid> {
    match recipe {
        Recipe::Exec { argv, exit_codes, timeout_s } => {
            ensure(argv.first().is_some_and(|program| !program.is_empty()), field, "no program to run")?;
            for argument in argv {
                placeholders(&format!("{field}.argv"), argument, payloads)?;
            }
            let codes: BTreeSet<_> = exit_codes.iter().map(|rule| rule.code).collect();
            ensure(codes.len() == exit_codes.len(), format!("{field}.exit_codes"), "a code has two meanings")?;
            timeout(field, *timeout_s)
        }
        Recipe::Files { files } => {
            ensure(!files.is_empty(), field, "no files")?;
            let mut paths = BTreeSet::new();
            for file in files {
                file_path(field, &file.path, windows)?;
                ensure(paths.insert(file.path.as_str()), field, format!("{} is written twice", file.path))?;
                ensure(usize::from(file.payload) < payloads, field, "a payload that the release does not have")?;
                ensure(file.mode <= 0o7777, field, "mode has other bits than permissions")?;
            }
            Ok(())
        }
        Recipe::RemoveFiles { paths } => {
            ensure(!paths.is_empty(), field, "no paths")?;
            paths.iter().try_for_each(|path| file_path(field, path, windows))
        }
        Recipe::Deb { timeout_s } | Recipe::Rpm { timeout_s } => {
            ensure(payloads > 0, field, "no payload to install")?;
            timeout(field, *timeout_s)
        }
        Recipe::RemoveDeb { packages, timeout_s } | Recipe::RemoveRpm { packages, timeout_s } => {
            ensure(!packages.is_empty(), field, "no packages")?;
            packages.iter().try_for_each(|name| package_name(field, name))?;
            timeout(field, *timeout_s)
        }
    }
}

/// `{payload}` is the first payload; `{payload:N}` must name one that is there.
fn placeholders(field: &str, argument: &str, payloads: usize) -> Result<(), Invalid> {
    for (at, found) in argument.match_indices("{payload") {
        let rest = &argument[at + found.len()..];
        let named = match rest.strip_prefix(':') {
            Some(rest) => rest.split_once('}').and_then(|(number, _)| number.parse::<usize>().ok()),
            None => rest.starts_with('}').then_some(0),
        };
        let there = named.is_some_and(|number| number < payloads);
        ensure(there, field, format!("{argument:?} names a payload that the release does not have"))?;
    }
    Ok(())
}

fn timeout(field: &str, seconds: u32) -> Result<(), Invalid> {
    let good = (1..=MAX_TIMEOUT_S).contains(&seconds);
    ensure(good, format!("{field}.timeout_s"), format!("must lie between 1 and {MAX_TIMEOUT_S}"))
}

/// Absolute, and the only spelling of its place as far as text can tell: no empty, `.` or `..` part.
fn file_path(field: &str, path: &str, windows: bool) -> Result<(), Invalid> {
    let relative = match path.as_bytes() {
        [drive, b':', b'\\' | b'/', ..] if windows && drive.is_ascii_alphabetic() => &path[3..],
        [b'/', ..] if !windows => &path[1..],
        _ => return ensure(false, field, format!("{path:?} is not an absolute path")),
    };
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    let good = relative.split(|c| c == '/' || windows && c == '\\').all(plain);
    ensure(good, field, format!("{path:?} has an empty part, `.` or `..`"))
}

/// What no package manager takes for an option or a pattern.
fn package_name(field: &str, name: &str) -> Result<(), Invalid> {
    let good = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || ".+-_:~/".contains(c));
    ensure(good, field, format!("{name:?} is not a package name"))
}

fn hours(field: &str, window: Window) -> Result<(), Invalid> {
    ensure(window.start <= 1440 && window.end <= 1440, field, "start and end must lie between 0 and 1440 minutes")?;
    ensure((1..=0x7f).contains(&window.days.0), field, "no day, or a day that no week has")
}
