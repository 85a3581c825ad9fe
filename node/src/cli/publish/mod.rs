//! `upswarm publish`: signs a release and gives it, with its payloads, to the coordinator.

mod vendor;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use upswarm_cache::chunker::{ChunkedFile, ChunkerError, chunk_file};
use upswarm_protocol::catalog::{
    APT_PREFIX, Action, Classification, PackageKind, Payload, PublisherRule, Release, Severity,
};
use upswarm_protocol::chunk::ChunkSizes;
use upswarm_protocol::codec::{self, Bounded, Text};
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::ids::{DocHash, ReleaseId};
use upswarm_protocol::trust::validate_release;

use self::vendor::Vendor;
use super::admin::AdminArgs;
use super::approve::without_asking;
use super::rule::word;
use super::sign::{exported, write};
use super::{CliError, Common, progress};
use crate::api::approvals::{ApprovalDraft, HexBytes, Intent};
use crate::api::catalog::{Catalog, CatalogRelease, content_of};
use crate::api::roots::{Asked, RequestFile};
use crate::api::rules::Rule;
use crate::clock::wall;
use crate::coordinator::client::Client;
use crate::coordinator::directory::Directory;
use crate::coordinator::keys::KeyUse;
use crate::release_file::package::{self, Facts, Overrides};
use crate::release_file::{Context, EXAMPLE as FILE, ReleaseFile, Source};
use crate::signing::signed_rules;
use crate::signing::{Carried, check};
use crate::{text, units};

const PIECE: usize = 256 << 10;

fn example() -> String {
    format!(
        "EXAMPLES:
  upswarm publish editor_2.1-1_amd64.deb
  upswarm publish editor-2.1-1.x86_64.rpm --classification security --severity important
  upswarm publish --init editor_2.1-1_amd64.deb > editor.toml     # the long form, to be changed and published
  upswarm publish editor.toml

EXAMPLE of RELEASE.toml:

{FILE}"
    )
}

/// Sign a release and give it, with its payloads, to the coordinator.
#[derive(Debug, clap::Args)]
#[command(after_help = example())]
pub(crate) struct Args {
    /// A .deb or .rpm file, which says all that a release needs, or a release's description, to which the paths in it are
    /// relative.
    #[arg(value_name = "FILE.deb|FILE.rpm|RELEASE.toml")]
    file: PathBuf,
    /// Print the RELEASE.toml that stands for a .deb or .rpm file, and publish nothing.
    #[arg(long)]
    init: bool,
    /// Publish it although another release of this product has this version; the later one counts.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    instead: Instead,
    /// How long the server of a payload's URL may send nothing, or next to nothing.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::duration)]
    patience: Duration,
    /// Upload the payloads, and write the request to a file instead of signing it; `upswarm sign FILE` signs it where the keys are.
    /// No rule is applied then.
    #[arg(long, value_name = "FILE", conflicts_with = "init")]
    export: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// What counts instead of what a package file says.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Instead of what a .deb or .rpm file says")]
struct Instead {
    /// The product; without it, the publisher's prefix and the package's name.
    #[arg(long)]
    product: Option<String>,
    /// One line for people.
    #[arg(long)]
    title: Option<String>,
    /// security, critical, update (without it), feature, definition, driver or application.
    #[arg(long, value_parser = word::<Classification>)]
    classification: Option<Classification>,
    /// low, moderate, important or critical.
    #[arg(long, value_parser = word::<Severity>)]
    severity: Option<Severity>,
}

/// A payload that was cut, and where its bytes are.
struct Prepared {
    name: String,
    cut: ChunkedFile,
    source: Source,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    if args.init {
        let Some(kind) = package::kind_of(&args.file) else {
            return Err(CliError::Refused(format!("{} is neither a .deb nor an .rpm file", args.file.display())));
        };
        let prefix = match args.admin.data_dir() {
            Ok(data_dir) => prefix(&data_dir, &args.instead)?,
            Err(_) => String::new(),
        };
        let text = of_package(&args, kind, &prefix)?;
        common.print(&json!({ "release_file": text }), text.trim_end());
        return Ok(());
    }
    let file = read(&args)?;
    check_packages(&args, &file)?;
    let client = args.admin.client()?;
    let runtime = super::runtime()?;
    let catalog = runtime.block_on(client.catalog())?;
    let resolve =
        |names: &[String]| names.iter().map(|name| Ok(catalog.release_named(name).map_err(refused)?.release)).collect();
    let (depends, supersedes): (Result<_, CliError>, Result<_, CliError>) =
        (resolve(file.depends()), resolve(file.supersedes()));
    let context =
        Context { counter: next_counter(&catalog, &file), issued: wall(), depends: depends?, supersedes: supersedes? };
    let place = args.admin.key_place(KeyUse::Publisher);
    if args.export.is_none() {
        // That keys are missing is said before the payloads are read.
        place.as_ref().map_err(refused)?.public_halves()?;
    }

    let sizes = |len: u64| file.chunk_sizes(len).map_err(refused);
    let base = args.file.parent().unwrap_or(Path::new(""));
    let mut prepared = Vec::new();
    for (name, source) in file.sources().map_err(refused)? {
        let source = match source {
            Source::File(path) => Source::File(base.join(path)),
            url => url,
        };
        let cut = match &source {
            Source::File(path) => cut_file(path, &sizes, common)?,
            Source::Url(url) => {
                let vendor = Vendor::new(args.patience, common)?;
                runtime.block_on(vendor.cut(url, &sizes))?
            }
        };
        prepared.push(Prepared { name, cut, source });
    }
    let payloads = prepared.iter().map(payload).collect::<Result<Vec<_>, CliError>>()?;
    let release = file.build(payloads, context).map_err(refused)?;
    validate_release(&release).map_err(refused)?;
    if let Some(known) = published_before(&args, &catalog, &release)? {
        let json = json!({
            "release": known.release, "product": known.product, "version": known.version, "already_published": true,
        });
        let text = format!(
            "published already, with the same content, so nothing is done: {} {} ({})\n{}",
            known.product,
            known.version,
            known.release.short(),
            next_step(&known.product, &known.version)
        );
        common.print(&json, &text);
        return Ok(());
    }
    let body = codec::encode(&release, Kind::Release.cap()).map_err(refused)?;
    let id = ReleaseId::of(&body);
    let roots = runtime.block_on(client.roots())?.roots;
    let request = RequestFile::new(roots, Asked::Release(HexBytes(body)));
    if let Some(path) = &args.export {
        for payload in &prepared {
            runtime.block_on(upload(&client, payload, common))?;
        }
        write(path, &request)?;
        exported(path, &format!("to be published: {} {}", release.product, release.version), common);
        return Ok(());
    }
    let place = place?;
    // The bytes are this process's own; what they are held against is whether the keys may sign them.
    let document = check(request, &place, Carried::Here, wall())?.sign(&place)?.complete()?;

    for payload in &prepared {
        runtime.block_on(upload(&client, payload, common))?;
    }
    let head_version = runtime.block_on(client.publish(document))?.index_version;
    let payloads: Vec<_> = prepared
        .iter()
        .map(|p| {
            let chunks = p.cut.list.chunks().len();
            json!({ "name": p.name, "id": p.cut.id, "len": p.cut.list.payload_len(), "chunks": chunks })
        })
        .collect();
    let mut json = json!({
        "release": id, "product": file.product(), "version": file.version(), "payloads": payloads,
        "head_version": head_version,
    });
    let applied = apply_rules(&runtime, &client, &args, (id, &release));
    let approved = !applied.approved.is_empty();
    json["approved"] = applied.approved.into();
    json["not_approved"] = applied.not_approved.into();
    let size: u64 = prepared.iter().map(|p| p.cut.list.payload_len()).sum();
    let text = format!(
        "published: {} {} ({}), {} in {}\n{}",
        file.product(),
        file.version(),
        id.short(),
        units::size_words(size),
        text::count(prepared.len(), "file", "files"),
        if approved {
            "approved by a rule; see: upswarm status".to_owned()
        } else {
            next_step(file.product(), file.version())
        }
    );
    common.print(&json, &text);
    Ok(())
}

/// What came of the rules that match a release.
#[derive(Default)]
struct Applied {
    approved: Vec<Value>,
    not_approved: Vec<Value>,
}

/// Signs an approval for every group that a rule wants the release in. The release is published by now: whatever goes wrong is
/// told, and leaves it to be approved by hand.
fn apply_rules(
    runtime: &tokio::runtime::Runtime,
    client: &Client,
    args: &Args,
    (id, release): (ReleaseId, &Release),
) -> Applied {
    let mut applied = Applied::default();
    let rules = match runtime.block_on(client.rules()) {
        Ok(rules) => rules,
        Err(error) => {
            eprintln!("upswarm: the auto-approval rules could not be read, and none was applied: {error}");
            applied.not_approved.push(json!({ "reason": error.to_string() }));
            return applied;
        }
    };
    let (product, classification, severity) = (release.product.as_str(), release.classification, release.severity);
    let matches = |known: &Rule| known.rule.matches(product, classification, severity);
    // Whether there is anything to apply, the coordinator may say; what is applied, approvers have signed.
    if !rules.rules.iter().any(matches) {
        return applied;
    }
    let place = args.admin.key_place(KeyUse::Approver);
    let signed = place.as_ref().map_err(ToString::to_string).and_then(|place| {
        let roots = runtime.block_on(client.roots()).map_err(|error| error.to_string())?.roots;
        signed_rules(&roots, rules.document.as_ref(), place, wall()).map_err(|error| error.to_string())
    });
    let matching: Vec<Rule> = match signed {
        Ok(set) => set.rules.into_iter().filter(matches).collect(),
        Err(reason) => {
            eprintln!("upswarm: no auto-approval rule was applied: {reason}");
            applied.not_approved.push(json!({ "reason": reason }));
            return applied;
        }
    };
    let mut groups = BTreeSet::new();
    for Rule { id: number, rule } in matching {
        // Of two rules for one group the older one decides.
        if !groups.insert(rule.group.clone()) {
            continue;
        }
        let approved = place.as_ref().map_err(ToString::to_string).and_then(|place| {
            let draft = ApprovalDraft {
                release: id.to_string(),
                group: rule.group.clone(),
                intent: Intent::Decide {
                    action: Action::Install,
                    schedule: Box::new(rule.schedule.clone()),
                    back: false,
                },
                zone: "UTC".to_owned(),
                allow_empty: true,
            };
            runtime.block_on(without_asking(client, &draft, place)).map_err(|error| error.to_string())
        });
        match approved {
            Ok(index) => {
                eprintln!("approved by rule {number}: {product} {} in group {}", release.version, rule.group);
                applied
                    .approved
                    .push(json!({ "rule": number, "group": rule.group, "head_version": index.index_version }));
            }
            Err(reason) => {
                eprintln!(
                    "upswarm: rule {number} approves it for group {group}, but: {reason}. Approve it with: upswarm approve {id} \
                     --group {group}",
                    group = rule.group,
                );
                applied.not_approved.push(json!({ "rule": number, "group": rule.group, "reason": reason }));
            }
        }
    }
    applied
}

/// The release file: as written, or as a package file says it.
fn read(args: &Args) -> Result<ReleaseFile, CliError> {
    match package::kind_of(&args.file) {
        Some(kind) => {
            let text = of_package(args, kind, &prefix(&args.admin.data_dir()?, &args.instead)?)?;
            ReleaseFile::parse(&text).map_err(|error| refused(format!("{}: {error}", args.file.display())))
        }
        None if args.instead.any() => Err(CliError::Refused(format!(
            "{} is neither a .deb nor an .rpm file: what is to be said otherwise of a release stands in its RELEASE.toml",
            args.file.display()
        ))),
        None => ReleaseFile::read(&args.file).map_err(refused),
    }
}

fn of_package(args: &Args, kind: PackageKind, prefix: &str) -> Result<String, CliError> {
    let overrides = Overrides {
        product: args.instead.product.clone(),
        title: args.instead.title.clone(),
        classification: args.instead.classification,
        severity: args.instead.severity,
    };
    Ok(Facts::of(&args.file, kind).map_err(refused)?.release_file(&args.file, prefix, &overrides))
}

impl Instead {
    fn any(&self) -> bool {
        self.product.is_some() || self.title.is_some() || self.classification.is_some() || self.severity.is_some()
    }
}

/// What this deployment's publisher puts before a package's name.
fn prefix(data_dir: &Path, instead: &Instead) -> Result<String, CliError> {
    if instead.product.is_some() {
        return Ok(String::new());
    }
    let directory = Directory::existing(data_dir).map_err(|error| CliError::Refused(format!("{error:#}")))?;
    let (root, _) = directory.newest_root()?;
    // Snapshots of repositories have a publisher of their own, who publishes no files.
    let of_files = root.publishers.iter().map(PublisherRule::names).filter(|name| *name != APT_PREFIX);
    match of_files.collect::<Vec<_>>().as_slice() {
        [""] => Ok(String::new()),
        [one] => Ok(format!("{one}.")),
        several => Err(CliError::Refused(format!(
            "there are publishers for several products ({}); say which one this is: --product PREFIX.NAME",
            several.iter().map(|name| if name.is_empty() { "any" } else { name }).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// Holds every package file of the release, as far as it lies here, against what the release says.
fn check_packages(args: &Args, file: &ReleaseFile) -> Result<(), CliError> {
    let Some(installs) = file.package_kind() else { return Ok(()) };
    let base = args.file.parent().unwrap_or(Path::new(""));
    let mut names = Vec::new();
    let mut all_here = true;
    for (name, source) in file.sources().map_err(refused)? {
        let Source::File(path) = source else {
            all_here = false;
            continue;
        };
        let path = base.join(path);
        let Some(kind) = package::kind_of(&path) else {
            // What cannot be read is said where it is read; a file of another kind is said here.
            if path.is_file() {
                return Err(CliError::Refused(format!("{} is no package file", path.display())));
            }
            continue;
        };
        if installs == kind && Facts::tool(kind).is_none() {
            eprintln!("{}: not compared with the release, for want of a tool that reads it", path.display());
            all_here = false;
            continue;
        }
        let facts = Facts::of(&path, kind).map_err(refused)?;
        file.check_against(&name, &facts).map_err(refused)?;
        names.push(facts.name);
    }
    let mut detected = file.detected_packages().peekable();
    if all_here
        && detected.peek().is_some()
        && !names.is_empty()
        && !detected.any(|name| names.iter().any(|n| n == name))
    {
        return Err(CliError::Refused(format!(
            "the release brings {}, and no [[detect]] rule names any of that: it would be installed and never found",
            names.join(", ")
        )));
    }
    Ok(())
}

/// The release of this content that is published already. Another one of its product and version must be replaced by intent.
fn published_before<'a>(
    args: &Args,
    catalog: &'a Catalog,
    release: &Release,
) -> Result<Option<&'a CatalogRelease>, CliError> {
    let same_name = |known: &&CatalogRelease| {
        known.product == release.product.as_str() && known.version == release.version.as_str()
    };
    let mut named: Vec<_> = catalog.releases.iter().filter(same_name).collect();
    named.sort_by_key(|known| known.counter);
    let content = content_of(release);
    match named.last() {
        Some(last) if last.content == content => Ok(Some(last)),
        Some(last) if !args.replace => Err(CliError::Refused(format!(
            "{} {} is published with another content ({}); give this one another version, or publish it in its place with \
             --replace",
            last.product,
            last.version,
            last.release.short()
        ))),
        _ => Ok(None),
    }
}

/// One more than the highest counter of the product.
fn next_counter(catalog: &Catalog, file: &ReleaseFile) -> u64 {
    let of_product = catalog.releases.iter().filter(|known| known.product == file.product());
    of_product.map(|known| known.counter).max().unwrap_or(0).saturating_add(1)
}

fn payload(prepared: &Prepared) -> Result<Payload, CliError> {
    let list = prepared.cut.list.to_bytes();
    let urls = match &prepared.source {
        Source::File(_) => Vec::new(),
        Source::Url(url) => vec![Text::new(url.as_str()).map_err(refused)?],
    };
    Ok(Payload {
        name: Text::new(prepared.name.as_str()).map_err(refused)?,
        id: prepared.cut.id,
        len: prepared.cut.list.payload_len(),
        chunk_list: DocHash::of(&list),
        chunk_list_len: list.len() as u32,
        sha256: prepared.cut.sha256,
        urls: Bounded::truncated(urls),
        patches: Bounded::default(),
    })
}

fn cut_file(
    path: &Path,
    sizes: &impl Fn(u64) -> Result<ChunkSizes, CliError>,
    common: Common,
) -> Result<ChunkedFile, CliError> {
    let place = |error: std::io::Error| CliError::Refused(format!("the payload {}: {error}", path.display()));
    let file = File::open(path).map_err(place)?;
    let metadata = file.metadata().map_err(place)?;
    if !metadata.is_file() {
        return Err(CliError::Refused(format!("the payload {} is not a file", path.display())));
    }
    let bar = progress::bytes(common, "hashing", metadata.len());
    let cut = chunk_file(bar.wrap_read(file), sizes(metadata.len())?);
    bar.finish_and_clear();
    cut.map_err(|error| match error {
        ChunkerError::Read(error) => CliError::Failed(anyhow!("reading the payload {}: {error}", path.display())),
        other => CliError::Refused(format!("the payload {}: {other}", path.display())),
    })
}

async fn upload(client: &Client, prepared: &Prepared, common: Common) -> Result<(), CliError> {
    let list = prepared.cut.list.to_bytes();
    client.put_chunk_list(&DocHash::of(&list), list).await?;
    let Source::File(path) = &prepared.source else { return Ok(()) };
    if client.holds(&prepared.cut.id).await? {
        return Ok(());
    }
    let len = prepared.cut.list.payload_len();
    let file = tokio::fs::File::open(path).await.with_context(|| format!("reading {}", path.display()))?;
    let bar = progress::bytes(common, "uploading", len);
    let stream = tokio_util::io::ReaderStream::with_capacity(bar.wrap_async_read(file), PIECE);
    let sent = client.put_payload(&prepared.cut.id, len, reqwest::Body::wrap_stream(stream)).await;
    bar.finish_and_clear();
    sent
}

fn refused(error: impl std::fmt::Display) -> CliError {
    CliError::Refused(error.to_string())
}

/// What an admin does next with a release.
fn next_step(product: &str, version: &str) -> String {
    let name = product.rsplit('.').next().unwrap_or(product);
    format!("next: upswarm approve {name}@{version} --group GROUP")
}
