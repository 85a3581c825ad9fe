//! `audit`: the log of decisions, and whether it is what was written.

use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde_json::json;
use upswarm_protocol::catalog::{Index, Root};
use upswarm_protocol::codec;
use upswarm_protocol::envelope::{self, Envelope, Kind, Role};
use upswarm_protocol::ids::DocHash;

use super::admin::AdminArgs;
use super::output::Table;
use super::{CliError, Common};
use crate::api::audit::{EntryQuery, KeyHolder, Topic};
use crate::coordinator::audit_log::{self, ReadError};
use crate::coordinator::directory::Directory;
use crate::{clock, units};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm audit list
  upswarm audit list --topic approval --who Anna --since 30d
  upswarm audit list --text firefox --limit 1000 --output csv > decisions.csv
  upswarm audit verify
  upswarm audit export decisions.log
  upswarm audit verify --file decisions.log --index index.bin

Each entry carries the hash of the one before it, and the signed index that every machine has carries the hash of the last: `verify`
names the entry that was changed, removed or moved, and says when the end was cut off. An index from elsewhere, for example one that an
origin serves as doc/HASH, shows what was rewritten with the coordinator's own keys.";

/// Show the log of decisions, and verify it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show who decided what, when and from where, the newest first.
    List(ListArgs),
    /// Check that no entry was changed, removed, moved or cut off.
    Verify(VerifyArgs),
    /// Write the log to a file, as it is.
    Export {
        /// A file that is not there yet.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only what is about this.
    #[arg(long, value_enum)]
    topic: Option<Topic>,
    /// Only what this actor or key holder did: part of a name, or the beginning of a key.
    #[arg(long, value_name = "TEXT")]
    who: Option<String>,
    /// Only entries that say this.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// Only from then on: an age such as 30d, or a time such as 2026-12-01T22:00:00Z.
    #[arg(long, value_name = "AGE|TIME")]
    since: Option<String>,
    /// Only up to then.
    #[arg(long, value_name = "AGE|TIME")]
    until: Option<String>,
    /// Only entries with a lower number: the next page.
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// Entries at most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The log, as `audit export` wrote it; without it, the coordinator's.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// An index that the log must agree with, as an origin serves it; may be repeated. Without one, the coordinator's newest.
    #[arg(long, value_name = "FILE")]
    index: Vec<PathBuf>,
    /// The roots of trust, first to last, as an origin serves them at root/1 and so on; without them, the coordinator's.
    #[arg(long, value_name = "FILE")]
    root: Vec<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::List(args) => list(args, common),
        Verb::Verify(args) => verify(&args, common),
        Verb::Export { file, admin } => export(&file, &admin, common),
    }
}

fn list(args: ListArgs, common: Common) -> Result<(), CliError> {
    let query = EntryQuery {
        topic: args.topic,
        who: args.who,
        text: args.text,
        since: args.since.as_deref().map(|text| ago(text, "--since")).transpose()?,
        until: args.until.as_deref().map(|text| ago(text, "--until")).transpose()?,
        before: args.before,
        limit: Some(args.limit.into()),
    };
    let page = super::runtime()?.block_on(args.admin.client()?.audit_log(&query))?;
    if let Some(broken) = &page.broken {
        eprintln!("WARNING: {broken}. What is shown comes before it; see: upswarm audit verify");
    }
    if !page.aside.is_empty() {
        eprintln!("WARNING: {}.", audit_log::aside_words(&page.aside));
    }
    let mut table = Table::new(&["ENTRY", "WHEN", "TOPIC", "WHO", "FROM", "SIGNED BY", "WHAT"]);
    for known in &page.entries {
        let entry = &known.entry;
        table.row([
            known.number.to_string(),
            entry.when.clone(),
            super::output::word(&entry.topic),
            entry.actor.clone(),
            entry.from.clone(),
            signers(&entry.holders),
            entry.what.clone(),
        ]);
    }
    common.list(&page, &table, || {
        if table.is_empty() {
            return format!("nothing of {} entries", page.total);
        }
        let oldest = page.entries.last().map_or(0, |entry| entry.number);
        let more = if page.more { format!("\nolder ones: --before {oldest}") } else { String::new() };
        table.text() + &more
    })
}

fn signers(holders: &[KeyHolder]) -> String {
    let texts: Vec<String> = holders.iter().map(|known| format!("{} ({})", known.holder, short(known))).collect();
    texts.join(", ")
}

fn short(known: &KeyHolder) -> String {
    known.key.to_string().chars().take(12).collect()
}

/// A time in the past, as entries write it.
fn ago(text: &str, option: &str) -> Result<String, CliError> {
    let now = clock::wall();
    let then = match units::duration(text) {
        Ok(age) => now - age,
        Err(_) => units::instant(text, now).map_err(|error| CliError::Refused(format!("{option}: {error}")))?,
    };
    Ok(then.to_string())
}

fn export(file: &Path, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let client = admin.client()?;
    let mut to = new_file(file)?;
    let bytes = super::runtime()?.block_on(client.download("audit/raw", &mut to));
    let written = bytes.and_then(|bytes| {
        to.sync_all().with_context(|| format!("writing {}", file.display()))?;
        Ok(bytes)
    });
    let bytes = written.inspect_err(|_| drop(std::fs::remove_file(file)))?;
    common.print(&json!({ "file": file, "bytes": bytes }), &format!("{} holds the log: {bytes} bytes", file.display()));
    Ok(())
}

/// A file that was not there, for its owner alone.
pub(super) fn new_file(file: &Path) -> Result<std::fs::File, CliError> {
    crate::sys::create_private(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            CliError::Refused(format!("{} is there already and is not overwritten; name another file", file.display()))
        }
        _ => CliError::Failed(anyhow!("cannot write {}: {error}", file.display())),
    })
}

/// An index whose signature holds, and what to call it.
struct Signed {
    name: String,
    index: Index,
}

fn verify(args: &VerifyArgs, common: Common) -> Result<(), CliError> {
    let roots = match args.root.is_empty() {
        false => args.root.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?,
        true => own_roots(&args.admin)?,
    };
    let (roots, first) = believed(&roots)?;
    let mut indexes = Vec::new();
    for file in &args.index {
        let index = opened(&read(file)?, &roots).with_context(|| format!("the index {}", file.display()))?;
        indexes.push(Signed { name: file.display().to_string(), index });
    }
    // Before the log: what the index names is in the log already.
    if indexes.is_empty() && (args.file.is_none() || args.root.is_empty()) {
        let index = opened(&own_index(&args.admin)?, &roots).context("the coordinator's index")?;
        indexes.push(Signed { name: "the coordinator's index".to_owned(), index });
    }
    let log = match &args.file {
        Some(file) => read(file)?,
        None => own_log(&args.admin)?,
    };
    let mut warnings = Vec::new();
    let followed = |signed| audit_log::follow(BufReader::new(&log[..]), signed, |_, _| {});
    let checked = followed(None).map_err(|error| broken(&error, None))?;
    let entries = checked.end.head.map_or(0, |head| head.entries);
    for Signed { name, index } in &indexes {
        if index.audit.is_none() {
            warnings.push(format!("{name} (version {}) names no log yet", index.version));
        }
        followed(index.audit).map_err(|error| broken(&error, Some((name, index))))?;
    }
    if indexes.is_empty() {
        warnings.push("without an index nobody sees whether the end was cut off; give one with --index".to_owned());
    }
    let upto = indexes.iter().filter_map(|signed| signed.index.audit).map(|audit| audit.entries).max();
    let unsigned = entries.saturating_sub(upto.unwrap_or(0));
    if !indexes.is_empty() && unsigned > 0 {
        warnings.push(format!(
            "of the entries, {unsigned} at the end are not signed yet: nobody would see that they were cut off. A coordinator that runs \
             signs them within five minutes"
        ));
    }
    if checked.torn > 0 {
        warnings.push("the last line is not whole: a write was under way, or was cut by an abrupt stop".to_owned());
    }
    if args.file.is_none() {
        let aside = own_aside(&args.admin)?;
        if !aside.is_empty() {
            return Err(CliError::Failed(anyhow!(
                "the log is not whole: {}. The log that began after it has {entries} entries, each as it was written",
                audit_log::aside_words(&aside)
            )));
        }
    }
    let mut text = format!("{entries} entries, each as it was written");
    for Signed { name, index } in indexes.iter().filter(|signed| signed.index.audit.is_some()) {
        let upto = index.audit.map_or(0, |audit| audit.entries);
        text.push_str(&format!(
            "\nup to entry {upto} they are those that {name} names (version {}, {})",
            index.version, index.issued
        ));
    }
    text.push_str(&format!("\nby the first root of trust {first}"));
    for warning in &warnings {
        text.push_str(&format!("\nWARNING: {warning}"));
    }
    let last = checked.end.head.map(|head| head.last);
    let json = json!({ "entries": entries, "last": last, "signed": upto, "unsigned": unsigned, "root": first, "warnings": warnings });
    common.print(&json, &text);
    Ok(())
}

fn broken(error: &ReadError, by: Option<(&String, &Index)>) -> CliError {
    let by = by.map_or_else(String::new, |(name, index)| {
        format!(" (by {name}, version {}, signed {})", index.version, index.issued)
    });
    CliError::Failed(anyhow!("the log is not what was written{by}: {error}"))
}

fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    Ok(std::fs::read(file).with_context(|| format!("reading {}", file.display()))?)
}

fn own_roots(admin: &AdminArgs) -> Result<Vec<Vec<u8>>, CliError> {
    if let Some(dir) = admin.directory()? {
        let directory = Directory::existing(&dir)?;
        let (newest, _) = directory.newest_root()?;
        return Ok(directory.chain(newest.version)?);
    }
    let chain = super::runtime()?.block_on(admin.client()?.roots())?;
    Ok(chain.roots.into_iter().map(|root| root.0).collect())
}

fn own_index(admin: &AdminArgs) -> Result<Vec<u8>, CliError> {
    if let Some(dir) = admin.directory()? {
        let index = Directory::existing(&dir)?.index()?;
        let (_, bytes) = index.ok_or_else(|| CliError::Refused("no index is signed yet".to_owned()))?;
        return Ok(bytes);
    }
    Ok(super::runtime()?.block_on(admin.client()?.index())?.0)
}

fn own_log(admin: &AdminArgs) -> Result<Vec<u8>, CliError> {
    if let Some(dir) = admin.directory()? {
        let path = Directory::existing(&dir)?.audit_log();
        return match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            read => Ok(read.with_context(|| format!("reading {}", path.display()))?),
        };
    }
    let mut bytes = Vec::new();
    super::runtime()?.block_on(admin.client()?.download("audit/raw", &mut bytes))?;
    bytes.flush().context("reading the log")?;
    Ok(bytes)
}

/// Damaged logs that lie beside the coordinator's.
fn own_aside(admin: &AdminArgs) -> Result<Vec<String>, CliError> {
    if let Some(dir) = admin.directory()? {
        let path = Directory::existing(&dir)?.audit_log();
        return Ok(audit_log::aside(&path).with_context(|| format!("reading the folder of {}", path.display()))?);
    }
    let query = EntryQuery { limit: Some(1), ..EntryQuery::default() };
    Ok(super::runtime()?.block_on(admin.client()?.audit_log(&query))?.aside)
}

/// The roots of a chain, each signed by the keys of the one before it, and the hash of the first.
fn believed(chain: &[Vec<u8>]) -> Result<(Vec<Root>, DocHash), CliError> {
    let mut roots: Vec<Root> = Vec::new();
    for bytes in chain {
        let number = roots.len() + 1;
        let opened = || -> anyhow::Result<Root> {
            let envelope = Envelope::parse(bytes, Kind::Root, Role::Root)?;
            let root: Root = codec::decode(envelope.unverified_body(), Kind::Root.cap())?;
            envelope.verify(&roots.last().unwrap_or(&root).root)?;
            Ok(root)
        };
        roots.push(opened().with_context(|| {
            format!("root {number} is none that the one before it made; give them from the first on, in order")
        })?);
    }
    let first = chain.first().ok_or_else(|| CliError::Refused("there is no root of trust".to_owned()))?;
    Ok((roots, DocHash::of(first)))
}

/// An index that the online keys of one of these roots have signed.
fn opened(bytes: &[u8], roots: &[Root]) -> anyhow::Result<Index> {
    let mut newest_first = roots.iter().rev();
    let index = newest_first.find_map(|root| envelope::open(bytes, Kind::Index, Role::Online, &root.online).ok());
    index.context("it is not signed by the online keys of these roots of trust")
}
