//! The sources that a machine has already: sources.list(5) in both of its forms. What is disabled here carries a mark, and is
//! byte for byte what it was when the mark is taken away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Snapshot, files};
use crate::sys::{self, Access};
use crate::upstream::sources::{self, Entry};

/// Before a line that is disabled, or replaced by the next one.
const MARK: &str = "#upswarm# ";
const OFF: &str = "Enabled: no";
/// Files of sources beyond this are not looked at.
const MAX_FILES: usize = 256;
const MAX_FILE: u64 = 1 << 20;

/// A file that apt reads.
pub(super) struct File {
    path: PathBuf,
    /// Below `etc/apt`.
    pub(super) name: String,
    pub(super) text: String,
}

/// A file's new text, and what it means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) text: String,
    /// Sources that have been disabled, or enabled again.
    pub(super) disabled: Vec<String>,
    /// Sources that stay as they are.
    pub(super) left: Vec<String>,
}

impl File {
    pub(super) fn is_deb822(&self) -> bool {
        self.name.ends_with(".sources")
    }

    /// Replaces the file if its text has changed.
    pub(super) fn put(&self, text: &str) -> anyhow::Result<()> {
        if text == self.text {
            return Ok(());
        }
        sys::replace(&self.path, text.as_bytes(), Access::Everyone)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The files that apt reads, but ours.
pub(super) fn files(root: &Path) -> anyhow::Result<Vec<File>> {
    let apt = root.join("etc/apt");
    let mut names = vec!["sources.list".to_owned()];
    match fs::read_dir(apt.join("sources.list.d")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        entries => {
            for entry in entries.with_context(|| format!("cannot list {}", apt.display()))?.take(MAX_FILES) {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name.ends_with(".list") || name.ends_with(".sources") {
                    names.push(format!("sources.list.d/{name}"));
                }
            }
        }
    }
    names.sort_unstable();
    names.retain(|name| name != files::SOURCES);
    let mut found = Vec::new();
    for name in names {
        let path = apt.join(&name);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Ok(meta) if meta.len() > MAX_FILE => anyhow::bail!("{} is larger than {MAX_FILE} bytes", path.display()),
            _ => {}
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // A link keeps its place; what it leads to is replaced.
        let path = fs::canonicalize(&path).with_context(|| format!("cannot find {}", path.display()))?;
        found.push(File { path, name, text });
    }
    Ok(found)
}

/// Whether a source of the machine is a mirror of upstreams and of nothing else: each of its suites, with all of its components, is
/// brought by one of them, which is by apt's own lists of the same origin.
pub(super) fn is_synced(root: &Path, source: &Entry, snapshots: &[Snapshot]) -> bool {
    let suites: Vec<&str> = source.suites.iter().map(|suite| suite.trim_end_matches('/')).collect();
    let brought = |suite: &&str| snapshots.iter().any(|snapshot| brings(root, source, suite, snapshot));
    !suites.is_empty() && suites.iter().all(brought)
}

fn brings(root: &Path, source: &Entry, suite: &str, snapshot: &Snapshot) -> bool {
    let is_suite = suite == snapshot.suite || snapshot.aliases.iter().any(|alias| alias == suite);
    // A component more is the machine's own.
    let all = source.components.iter().all(|component| snapshot.components.contains(component));
    let origins: Vec<String> = source.urls.iter().filter_map(|uri| origin(root, uri, suite)).collect();
    is_suite && all && !origins.is_empty() && origins.iter().all(|origin| *origin == snapshot.origin)
}

/// What apt has read last as the origin of a source.
fn origin(root: &Path, uri: &str, suite: &str) -> Option<String> {
    let place = uri.split_once("://").map_or(uri, |(_, place)| place).trim_matches('/');
    // apt's names for its lists have no credentials in them.
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let place = format!("{}/{path}", host.rsplit('@').next().unwrap_or(host));
    let place = place.trim_matches('/');
    let file = format!("{}_dists_{}", place.replace('_', "%5f").replace('/', "_"), suite.replace('/', "_"));
    let lists = root.join("var/lib/apt/lists");
    let text = ["InRelease", "Release"].into_iter().find_map(|kind| {
        use io::Read as _;
        let mut bytes = Vec::new();
        let file = fs::File::open(lists.join(format!("{file}_{kind}"))).ok()?;
        file.take(16 << 10).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    })?;
    Some(text.lines().find_map(|line| line.strip_prefix("Origin:")).unwrap_or_default().trim().to_owned())
}

/// Disables the sources for which `is_synced` holds.
pub(super) fn disable(text: &str, deb822: bool, is_synced: impl Fn(&Entry) -> bool) -> Change {
    let mut change = Change::default();
    if !deb822 {
        for line in text.split_inclusive('\n') {
            match sources::line(line).ok().flatten() {
                Some(source) if is_synced(&source) => {
                    change.disabled.push(line.trim().to_owned());
                    change.text.push_str(MARK);
                }
                Some(_) => change.left.push(line.trim().to_owned()),
                None => {}
            }
            change.text.push_str(line);
        }
        return change;
    }
    for block in blocks(text) {
        match stanza(&block) {
            Some(source) if is_synced(&source) => {
                change.disabled.push(words(&source));
                change.text.push_str(&switched_off(&block));
            }
            found => {
                change.left.extend(found.as_ref().map(words));
                change.text.push_str(&block);
            }
        }
    }
    change
}

/// Enables what was disabled.
pub(super) fn enable(text: &str) -> Change {
    let mut change = Change::default();
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let Some(was) = line.strip_prefix(MARK) else {
            change.text.push_str(line);
            continue;
        };
        // In a stanza the next line took its place.
        lines.next_if(|next| next.trim_end() == OFF);
        change.disabled.push(was.trim().to_owned());
        if was.trim() != ADDED {
            change.text.push_str(was);
        }
    }
    change
}

/// Stands for a field that was not there.
const ADDED: &str = "(added)";

/// A stanza that apt does not heed.
fn switched_off(block: &str) -> String {
    let mut text = String::new();
    let mut done = false;
    for line in block.split_inclusive('\n') {
        if field(line, "enabled").is_some() && !done {
            text.push_str(&format!("{MARK}{line}"));
            if !line.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&format!("{OFF}\n"));
            done = true;
        } else if !done && !block_has_enabled(block) && is_field(line) {
            text.push_str(&format!("{MARK}{ADDED}\n{OFF}\n{line}"));
            done = true;
        } else {
            text.push_str(line);
        }
    }
    text
}

fn block_has_enabled(block: &str) -> bool {
    block.lines().any(|line| field(line, "enabled").is_some())
}

fn is_field(line: &str) -> bool {
    !line.starts_with(['#', ' ', '\t']) && line.contains(':')
}

/// Stanzas with the empty lines that follow them.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut ended = true;
    for line in text.split_inclusive('\n') {
        let empty = line.trim().is_empty();
        match blocks.last_mut() {
            Some(block) if !ended || empty => block.push_str(line),
            _ => blocks.push(line.to_owned()),
        }
        ended = empty;
    }
    blocks
}

/// The value of a field on its first line, names in any case.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    found.eq_ignore_ascii_case(name).then(|| value.trim())
}

/// The source of a stanza that is enabled.
fn stanza(block: &str) -> Option<Entry> {
    sources::paragraphs(block).ok()?.into_iter().next()
}

fn words(source: &Entry) -> String {
    format!("{} {} {}", source.urls.join(" "), source.suites.join(" "), source.components.join(" "))
}
