//! What a document must be like beyond decoding. The verbs that sign call the same checks before signing, so that a document
//! is refused at the admin's desk and not first on ten thousand machines.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::VerifyingKey;

use crate::catalog::page::{self, Entry, Parts};
use crate::catalog::{
    APT_PREFIX, Action, Applicability, Approval, ApprovalRule, AptRecipe, Detect, GroupDocument, Head, Index, Keys,
    MAX_LISTED, Members, Payload, Piece, PublisherRule, Recipe, Release, Root, WhenAbsent, Window, pieces,
};
use crate::chunk;
use crate::codec::Text;
use crate::envelope::Kind;
use crate::ids::{PublicKey, ReleaseId};
use crate::keyring::{is_holder, is_same_holder};
use crate::time::Wall;

/// The longest that a command of a release may run, in seconds.
pub const MAX_TIMEOUT_S: u32 = 86_400;

const DAY: u64 = 86_400;
/// The longest that a root may live.
const MAX_ROOT_LIFE: Duration = Duration::from_secs(3_660 * DAY);
/// Signatures that have room in a head.
const MAX_ONLINE_THRESHOLD: usize = 8;

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
    lifetime_within(root.issued, root.expires, MAX_ROOT_LIFE)?;
    keys("root", &root.root)?;
    keys("approvers", &root.approvers)?;
    keys("online", &root.online)?;
    if let Some(targeting) = &root.targeting {
        keys("targeting", targeting)?;
    }
    let fits = usize::from(root.online.threshold) <= MAX_ONLINE_THRESHOLD;
    ensure(fits, "online", format!("at most {MAX_ONLINE_THRESHOLD} signatures have room in a head"))?;
    ensure(!root.publishers.is_empty(), "publishers", "nobody may publish anything; add a rule")?;
    let mut prefixes = BTreeSet::new();
    for (at, rule) in root.publishers.iter().enumerate() {
        keys(&format!("publishers[{at}]"), &rule.keys)?;
        let field = format!("publishers[{at}].product_prefix");
        ensure(whole_names(rule), &field, "does not end where a name ends; write it like org.example")?;
        ensure(prefixes.insert(rule.names()), field, "another rule has the same prefix")?;
    }
    separate_powers(root)?;
    one_holder_each(root)?;
    let mut upstreams = BTreeSet::new();
    for (at, rule) in root.upstreams.iter().enumerate() {
        let field = format!("upstreams[{at}].name");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = rule.name.starts_with(char::is_alphanumeric)
            && rule.name.ends_with(char::is_alphanumeric)
            && rule.name.chars().all(plain);
        ensure(good, &field, "only lower-case letters, digits and hyphens, as in debian-security")?;
        ensure(upstreams.insert(rule.name.as_str()), field, "another upstream has the same name")?;
    }
    let mut groups = BTreeSet::new();
    for (at, rule) in root.group_rules.iter().enumerate() {
        let field = format!("group_rules[{at}]");
        ensure(groups.insert(rule.group), &field, "another rule is about the same group")?;
        let possible = (1..=root.approvers.holders()).contains(&usize::from(rule.threshold));
        ensure(
            possible,
            field,
            "the threshold must lie between 1 and the number of approvers, each counted once however many keys they hold",
        )?;
    }
    Ok(())
}

/// No key in two roles: a thief of an online key that is also an approver's would hold both halves of what installs.
fn separate_powers(root: &Root) -> Result<(), Invalid> {
    let publishers = root.publishers.iter().flat_map(|rule| rule.keys.public()).map(point);
    let targeting = root.targeting.iter().flat_map(Keys::public).map(point);
    let roles: [(&str, BTreeSet<PublicKey>); 5] = [
        ("root", root.root.public().map(point).collect()),
        ("publishers", publishers.collect()),
        ("approvers", root.approvers.public().map(point).collect()),
        ("online", root.online.public().map(point).collect()),
        ("targeting", targeting.collect()),
    ];
    for (at, (role, keys)) in roles.iter().enumerate() {
        for (other, others) in &roles[..at] {
            if let Some(key) = keys.intersection(others).next() {
                return ensure(false, role, format!("{key} is a key of {other} too; each role has keys of its own"));
            }
        }
    }
    Ok(())
}

/// A key that publishes under several prefixes is in one hand all the same.
fn one_holder_each(root: &Root) -> Result<(), Invalid> {
    let mut holders = BTreeMap::new();
    for held in root.publishers.iter().flat_map(|rule| rule.keys.keys.iter()) {
        let before = holders.insert(held.key, &held.holder);
        let same = before.is_none_or(|before| is_same_holder(before, &held.holder));
        ensure(same, "publishers", format!("{} has two holders; name it alike everywhere", held.key.short()))?;
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

/// Checks a release against the repositories that the root names: packages are installed from those alone, and whoever publishes
/// a snapshot says nothing beyond which of upstream's files it is about.
pub(super) fn validate_upstream(root: &Root, release: &Release) -> Result<(), Invalid> {
    let is_snapshot =
        PublisherRule { product_prefix: Text::lossy(APT_PREFIX), keys: root.root.clone() }.is_for(&release.product);
    let Recipe::Apt(apt) = &release.install else {
        return ensure(
            !is_snapshot,
            "install",
            format!("{APT_PREFIX} stands for repositories; other recipes need another product"),
        );
    };
    ensure(is_snapshot, "product", format!("an apt recipe needs the product {APT_PREFIX}.NAME of its repository"))?;
    let Some(rule) = root.upstream_of(&release.product) else {
        return ensure(false, "product", format!("the root names no repository for {}", release.product));
    };
    let described = release.payloads.get(usize::from(apt.upstream)).is_some_and(|file| file.id.0 == rule.description.0);
    ensure(described, "install.upstream", "not the description of the repository that the root names")?;
    ensure(release.uninstall.is_none(), "uninstall", "a snapshot is not uninstalled; approve an earlier one")?;
    ensure(release.detect[..] == [Detect::Selection], "detect", "a snapshot is detected by its packages alone")?;
    let alone = release.depends.is_empty() && release.supersedes.is_empty() && release.applicability.is_empty();
    ensure(alone, "depends", "a snapshot names no other releases and no conditions")
}

/// Checks what a rule says, by the approval that it would make on its first day.
pub fn validate_rule(rule: &ApprovalRule) -> Result<(), Invalid> {
    lifetime(rule.issued, rule.expires)?;
    ensure(!rule.upstream.is_empty(), "upstream", "a rule is about one repository")?;
    let moments = rule.schedule.available_from.is_some() || rule.schedule.deadline.is_some();
    ensure(!moments, "schedule", "a rule's moments count from each approval")?;
    ensure(rule.life_s > 0, "life_s", "no approval of it would count")?;
    timing(&rule.approval(ReleaseId([0; 32]), rule.issued))
}

/// Checks what an approver's approval says.
pub fn validate_approval(approval: &Approval) -> Result<(), Invalid> {
    ensure(approval.version >= 1, "version", "versions begin at 1")?;
    ensure(!approval.back || approval.action != Action::Uninstall, "back", "what is removed goes nowhere else")?;
    timing(approval)
}

/// Checks the schedule and the rings of an approval.
pub(super) fn timing(approval: &Approval) -> Result<(), Invalid> {
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

/// Checks what a group is said to be. Whether a rule's conditions can be read is for those to see who evaluate them.
pub fn validate_group(document: &GroupDocument) -> Result<(), Invalid> {
    ensure(document.version >= 1, "version", "versions begin at 1")?;
    let name = document.name.as_str();
    ensure(!name.is_empty() && name.trim() == name, "name", "empty, or with space around it")?;
    match &document.members {
        Members::Listed => Ok(()),
        Members::Rule(conditions) => ensure(!conditions.is_empty(), "members", "a rule without conditions"),
        Members::List(list) => {
            let possible = (1..=MAX_LISTED).contains(&(list.devices as usize));
            ensure(possible, "members", format!("a list has 1 to {MAX_LISTED} devices"))
        }
    }
}

pub(super) fn validate_index(index: &Index) -> Result<(), Invalid> {
    ensure(index.version >= 1, "version", "versions begin at 1")?;
    lifetime(index.issued, index.expires)?;
    fn ordered<T: Entry>(part: &Parts<'_, T>, field: &str) -> Result<(), Invalid> {
        let Parts::Leaf(entries) = part else { return Ok(()) };
        ensure(page::in_place(entries, &[]), field, "not sorted, or named twice")
    }
    ordered(&index.revoked.parts(), "revoked")?;
    ordered(&index.groups.parts(), "groups")?;
    ordered(&index.published.parts(), "published")
}

pub(super) fn validate_head(head: &Head) -> Result<(), Invalid> {
    ensure(head.index_version >= 1, "index_version", "versions begin at 1")?;
    ensure((1..=Kind::Index.cap()).contains(&(head.index_len as usize)), "index_len", "longer than an index may be")?;
    lifetime(head.issued, head.expires)
}

/// A key that can be believed: a canonical encoding of a point of the prime-order group. A small-order key would verify
/// signatures that nobody made; a second encoding, or the sum with a point of small order, would let one secret count twice.
pub(super) fn is_sound(key: &PublicKey) -> bool {
    VerifyingKey::from_bytes(key.as_bytes()).is_ok_and(|point| {
        let edwards = point.to_edwards();
        !point.is_weak() && edwards.is_torsion_free() && edwards.compress().as_bytes() == key.as_bytes()
    })
}

/// What a key and its negative have in common: whoever has the secret of one has that of the other.
fn point(key: PublicKey) -> PublicKey {
    let mut point = key;
    point.0[31] &= 0x7f;
    point
}

fn lifetime(issued: Wall, expires: Wall) -> Result<(), Invalid> {
    ensure(issued < expires, "expires", "not after issued")
}

fn lifetime_within(issued: Wall, expires: Wall, most: Duration) -> Result<(), Invalid> {
    lifetime(issued, expires)?;
    let days = most.as_secs() / DAY;
    ensure(expires.since(issued) <= most, "expires", format!("more than {days} days after issued"))
}

/// Names joined by dots, or nothing. A lone dot would look like a prefix and match everything.
fn whole_names(rule: &PublisherRule) -> bool {
    let whole = |name: &str| name.starts_with(char::is_alphanumeric) && name.ends_with(char::is_alphanumeric);
    rule.product_prefix.is_empty() || rule.names().split('.').all(whole)
}

fn keys(field: &str, keys: &Keys) -> Result<(), Invalid> {
    let distinct: BTreeSet<_> = keys.public().map(point).collect();
    ensure(distinct.len() == keys.keys.len(), field, "a key is named twice, or in both signs")?;
    for held in &keys.keys {
        let what = "its holder's name must be letters of one script, digits and .-_'@ in words with one space between";
        ensure(is_holder(&held.holder), field, format!("{}: {what}", held.key.short()))?;
    }
    let possible = (1..=keys.holders()).contains(&usize::from(keys.threshold));
    ensure(possible, field, "the threshold must lie between 1 and the number of distinct holders of its keys")?;
    match keys.public().find(|key| !is_sound(key)) {
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
        Detect::Selection => Ok(()),
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
        Recipe::Apt(apt) => {
            ensure(!windows, field, "apt is not for Windows")?;
            apt_recipe(field, apt, payloads)
        }
    }
}

fn apt_recipe(field: &str, apt: &AptRecipe, payloads: usize) -> Result<(), Invalid> {
    timeout(field, apt.timeout_s)?;
    ensure(!apt.indexes.is_empty(), format!("{field}.indexes"), "no index: apt would know of no package")?;
    ensure(!apt.packages.is_empty(), format!("{field}.packages"), "no packages")?;
    // Each payload has one use: a package's file is not at the same time an index.
    let mut used = BTreeSet::new();
    for at in apt.metadata().chain(apt.packages.iter().map(|package| package.payload.into())) {
        ensure(at < payloads, field, "a payload that the release does not have")?;
        ensure(used.insert(at), field, format!("payloads[{at}] has two uses"))?;
    }
    for (at, index) in apt.indexes.iter().enumerate() {
        let plain = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(|c| c.is_ascii_graphic());
        let good = index.path.split('/').all(plain);
        ensure(good, format!("{field}.indexes[{at}].path"), format!("{:?} is no path below dists/SUITE", index.path))?;
    }
    let mut names = BTreeSet::new();
    for (at, package) in apt.packages.iter().enumerate() {
        let field = format!("{field}.packages[{at}]");
        package_name(&field, &package.name)?;
        package_name(&field, &package.source)?;
        package_name(&field, &package.arch)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || ".+-~:".contains(c);
        let version = package.version.starts_with(|c: char| c.is_ascii_digit()) && package.version.chars().all(plain);
        ensure(version, &field, format!("{:?} is not a Debian version", package.version))?;
        ensure(names.insert((&package.name, &package.arch)), &field, "named twice")?;
        if let WhenAbsent::With(others) = &package.when_absent {
            let there = |other: &u16| usize::from(*other) < apt.packages.len() && usize::from(*other) != at;
            ensure(!others.is_empty() && others.iter().all(there), &field, "comes with a package that is not there")?;
        }
    }
    Ok(())
}

/// Each placeholder must name a payload that is there.
fn placeholders(field: &str, argument: &str, payloads: usize) -> Result<(), Invalid> {
    let pieces = pieces(argument).or_else(|bad| ensure(false, field, bad.to_string()).map(|()| Vec::new()))?;
    let there = pieces.iter().all(|piece| !matches!(piece, Piece::Payload(number) if *number >= payloads));
    ensure(there, field, format!("{argument:?} names a payload that the release does not have"))
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
