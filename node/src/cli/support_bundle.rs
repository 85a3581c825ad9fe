//! `support-bundle`: what somebody who helps needs to see of a coordinator or a node, in one file that may be sent away. Owns what goes
//! in and how much; what must not, [`redact`] takes out of every text. Changes nothing.

mod archive;
mod redact;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use self::archive::Archive;
use self::redact::Redactor;
use super::output::Table;
use super::{CliError, Common, doctor};
use crate::config::NodeDir;
use crate::coordinator::client::Client as Coordinator;
use crate::coordinator::directory::Directory;
use crate::local_api::{Client, Request};
use crate::{clock, sys, units};

/// Bytes of one part, and of all of them.
const MAX_PART: usize = 2 << 20;
const MAX_ALL: usize = 16 << 20;
/// Files of the data directory that are listed.
const MAX_LISTED: usize = 5000;
const JOURNAL_LINES: &str = "3000";
const JOURNAL_PATIENCE: Duration = Duration::from_secs(20);

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm support-bundle bundle.tar.gz --data-dir /var/lib/upswarm-coordinator
  upswarm support-bundle bundle.tar.gz --data-dir /var/lib/upswarm

It holds no keys, tokens, passphrases or credentials of URLs, no payloads and no documents; names of machines, packages and admins are
in it. It lists what it holds: look before you send it.";

/// Collect what somebody who helps needs to see, without secrets, in one file.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The file to write, a tar archive compressed by gzip; one that is there is not overwritten.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The data directory of the coordinator or of the node.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

/// What goes into a bundle.
struct Bundle {
    redactor: Redactor,
    parts: Vec<Part>,
    bytes: usize,
}

struct Part {
    name: String,
    about: String,
    text: String,
    /// Bytes that had no room.
    cut: usize,
}

impl Bundle {
    /// A part, or why there is none.
    fn add(&mut self, name: &str, about: &str, text: Result<String, String>) {
        let text = text.unwrap_or_else(|error| format!("could not be had: {error}\n"));
        let mut text = self.redactor.redact(&text);
        let room = MAX_PART.min(MAX_ALL.saturating_sub(self.bytes));
        let cut = text.len().saturating_sub(room);
        if cut > 0 {
            // The end of a log says most.
            let at = text.len() - room;
            let begin = (at..=text.len()).find(|begin| text.is_char_boundary(*begin)).unwrap_or(text.len());
            text.drain(..begin);
        }
        self.bytes += text.len();
        self.parts.push(Part { name: name.to_owned(), about: about.to_owned(), text, cut });
    }

    fn contents(&self) -> String {
        let mut text = format!(
            "upswarm {} support bundle, made {}\nWhat must stay secret is left out: {} texts were replaced by {}.\n\n",
            env!("CARGO_PKG_VERSION"),
            clock::wall(),
            self.redactor.replaced(),
            redact::INSTEAD
        );
        for Part { name, about, text: held, cut } in &self.parts {
            let cut = if *cut > 0 {
                format!(", its first {} are cut", units::size_words(*cut as u64))
            } else {
                String::new()
            };
            text.push_str(&format!("{name}: {about} ({}{cut})\n", units::size_words(held.len() as u64)));
        }
        text
    }
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let (dir, report) = (&args.data_dir, doctor::report(&args.data_dir)?);
    let mut bundle = Bundle { redactor: Redactor::default(), parts: Vec::new(), bytes: 0 };
    let is_coordinator = doctor::is_coordinator(dir);
    // First what must never be in it: those very texts are looked for in everything.
    match is_coordinator {
        true => coordinator_secrets(dir, &mut bundle.redactor),
        false => node_secrets(dir, &mut bundle.redactor),
    }
    bundle.add("doctor.json", "what `upswarm doctor --all` found", pretty(&report));
    bundle.add("machine.txt", "version, system, uptime, room on the disk", Ok(machine(dir)));
    bundle.add("files.txt", "names and sizes of the data directory's files", listed(dir));
    match is_coordinator {
        true => coordinator(dir, &mut bundle),
        false => node(dir, &mut bundle),
    }
    let units: &[&str] = if is_coordinator {
        &["upswarm-coordinator.service"]
    } else {
        &["upswarm-node.service", "upswarm-installer.service"]
    };
    for unit in units {
        bundle.add(&format!("journal-{unit}.txt"), "the last lines of its log", journal(unit));
    }
    let contents = bundle.contents();
    let mut archive = Archive::begin(super::audit::new_file(&args.file)?);
    let write = || -> anyhow::Result<u64> {
        archive.add("CONTENTS.txt", contents.as_bytes())?;
        for part in &bundle.parts {
            archive.add(&part.name, part.text.as_bytes())?;
        }
        archive.finish()
    };
    let write = write().with_context(|| format!("writing {}", args.file.display()));
    let size = write.inspect_err(|_| drop(fs::remove_file(&args.file)))?;
    let mut table = Table::new(&["PART", "BYTES", "CUT", "WHAT"]);
    let mut parts = Vec::new();
    for Part { name, about, text, cut } in &bundle.parts {
        table.row([name.clone(), text.len().to_string(), cut.to_string(), about.clone()]);
        parts.push(json!({ "part": name, "bytes": text.len(), "cut": cut, "about": about }));
    }
    let replaced = bundle.redactor.replaced();
    let json = json!({ "file": args.file, "bytes": size, "left_out": replaced, "parts": parts });
    common.list(&json, &table, || {
        let path = args.file.display();
        format!(
            "{}\n{path}: {}; {replaced} secrets were left out of the texts. Look before you send it: tar tzf {path}",
            table.text(),
            units::size_words(size)
        )
    })
}

fn pretty(value: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(value).map_err(|error| error.to_string())
}

fn machine(dir: &Path) -> String {
    let mut text = format!("upswarm {}\nmade {}\n", env!("CARGO_PKG_VERSION"), clock::wall());
    for file in ["/etc/os-release", "/proc/version", "/proc/loadavg", "/proc/meminfo", "/proc/uptime"] {
        if let Ok(held) = fs::read_to_string(file) {
            text.push_str(&format!("\n== {file}\n{}", held.trim_end()));
        }
    }
    match sys::space(dir) {
        Ok(space) => text.push_str(&format!("\n\n{} bytes are free where the data directory is\n", space.free)),
        Err(error) => text.push_str(&format!("\n\nroom on the disk: {error}\n")),
    }
    text
}

/// Names and sizes, never a content.
fn listed(dir: &Path) -> Result<String, String> {
    fn walk(dir: &Path, below: &str, found: &mut Vec<(String, u64)>) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if found.len() >= MAX_LISTED {
                return Ok(());
            }
            let path = format!("{below}{}", entry.file_name().to_string_lossy().escape_debug());
            // Links are named and not followed: a node's directory is not its own alone.
            let about = entry.metadata()?;
            if about.is_dir() {
                // What may not be entered is a finding too.
                if let Err(error) = walk(&entry.path(), &format!("{path}/"), found) {
                    found.push((format!("{path}/: {error}"), 0));
                }
            } else {
                found.push((path, about.len()));
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(dir, "", &mut found).map_err(|error| error.to_string())?;
    found.sort();
    let mut text: String = found.iter().map(|(path, len)| format!("{len:>12}  {path}\n")).collect();
    if found.len() >= MAX_LISTED {
        text.push_str(&format!("only {MAX_LISTED} files are listed\n"));
    }
    Ok(text)
}

fn read(path: &Path) -> Result<String, String> {
    // Nobody has this process read what is no file, or a link to somebody else's.
    let bytes = sys::read_settings_of_another(path, MAX_PART as u64).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn coordinator_secrets(dir: &Path, redactor: &mut Redactor) {
    let directory = Directory::new(dir);
    if let Ok(token) = directory.token() {
        redactor.must_not_show(&token);
    }
    for entry in fs::read_dir(directory.keys()).into_iter().flatten().flatten() {
        if let Ok(text) = fs::read_to_string(entry.path()) {
            redactor.must_not_show_any_of(&text);
        }
    }
    for file in [directory.console_link(), directory.path().join("database.json")] {
        if let Ok(text) = fs::read_to_string(file) {
            redactor.must_not_show(&text);
        }
    }
}

fn node_secrets(dir: &Path, redactor: &mut Redactor) {
    let node = NodeDir::new(dir);
    if let Ok(bytes) = fs::read(node.key()) {
        redactor.must_not_show(&hex::encode(&bytes));
        redactor.must_not_show_any_of(&String::from_utf8_lossy(&bytes));
    }
}

fn coordinator(dir: &Path, bundle: &mut Bundle) {
    bundle.add("run.json", "where it serves, or served last", read(&dir.join("run.json")));
    let asked: Result<Coordinator, String> = Coordinator::of(dir).map_err(|error| error.to_string());
    for (name, about, path) in [
        ("status.json", "the fleet by release", "/admin/v1/status"),
        ("overview.json", "the fleet on one page", "/admin/v1/overview"),
        ("alarms.json", "alarms, acknowledged ones too", "/admin/v1/alarms?all=true"),
        ("sites.json", "sites", "/admin/v1/sites"),
        ("catalog.json", "what is published and approved", "/admin/v1/catalog"),
        ("limits.json", "limits of sites", "/admin/v1/limits"),
        ("rules.json", "rules", "/admin/v1/rules"),
        ("repositories.json", "repositories", "/admin/v1/repositories"),
        ("feeds.json", "feeds of advisories", "/admin/v1/feeds"),
        ("decisions.json", "the last decisions of the log", "/admin/v1/audit/log?limit=300"),
        ("metrics.txt", "figures", "/metrics"),
    ] {
        let text = asked.as_ref().map_err(Clone::clone).and_then(|client| {
            let answer = super::runtime().map_err(|error| format!("{error:#}"))?;
            let answer = answer.block_on(client.raw(path, None)).map_err(|error| error.to_string())?;
            match answer.status.is_success() {
                true => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
                false => Err(format!("HTTP status {}", answer.status)),
            }
        });
        bundle.add(name, about, text);
    }
}

fn node(dir: &Path, bundle: &mut Bundle) {
    bundle.add("node.toml", "its settings", read(&NodeDir::new(dir).config()));
    bundle.add("run.json", "where it serves, or served last", read(&NodeDir::new(dir).run_info()));
    for (name, about, request) in [
        ("status.json", "what the node says of itself", Request::Status {}),
        ("explain.json", "why something is not installed, or a peer not used", Request::Explain { subject: None }),
    ] {
        let asked = Client::connect(dir).and_then(|mut client| client.ask(&request));
        bundle.add(name, about, asked.map_err(|error| error.to_string()).and_then(|value| pretty(&value)));
    }
}

/// The end of a unit's log, where there is a journal and one may read it.
fn journal(unit: &str) -> Result<String, String> {
    let path = sys::find("journalctl").ok_or("there is no journalctl here")?;
    let args = ["--no-pager", "--output=short-iso", "--lines", JOURNAL_LINES, "--unit", unit];
    let program = sys::Program {
        path: &path,
        args: args.into_iter().map(Into::into).collect(),
        env: &[],
        timeout: JOURNAL_PATIENCE,
        cancel: None,
    };
    let mut said = Vec::new();
    let ended = program.run(&mut |piece: &[u8]| {
        if said.len() < 2 * MAX_PART {
            said.extend_from_slice(piece);
        }
    });
    ended.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[cfg(test)]
mod tests;
