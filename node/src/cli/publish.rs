use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use upswarm_cache::chunker::{ChunkedFile, ChunkerError, chunk_file};
use upswarm_protocol::catalog::{Action, Payload, Release};
use upswarm_protocol::chunk::ChunkSizes;
use upswarm_protocol::codec::{self, Bounded, Text};
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::{DocHash, ReleaseId};
use upswarm_protocol::trust::validate_release;

use super::approve::{KeyArgs, find_group, find_release, submit};
use super::{CliError, Common, progress};
use crate::clock::wall;
use crate::coordinator::client::Client;
use crate::coordinator::keys::KeyUse;
use crate::coordinator::requests::Catalog;
use crate::coordinator::rules::Rule;
use crate::release_file::{Context, EXAMPLE as FILE, ReleaseFile, Source};

const PIECE: usize = 256 << 10;
/// A vendor's server that sends nothing for this long has failed.
const VENDOR_PATIENCE: Duration = Duration::from_secs(60);

fn example() -> String {
    format!(
        "EXAMPLE:\n  upswarm publish --data-dir /var/lib/upswarm-coordinator editor.toml\n\nEXAMPLE of RELEASE.toml:\n\n{FILE}"
    )
}

/// Sign a release and give it, with its payloads, to the coordinator.
#[derive(Debug, clap::Args)]
#[command(after_help = example())]
pub(crate) struct Args {
    /// The coordinator's data directory; the coordinator must be running.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The release's description. Payload paths in it are relative to it.
    #[arg(value_name = "RELEASE.toml")]
    file: PathBuf,
    #[command(flatten)]
    keys: KeyArgs,
}

/// A payload that was cut, and where its bytes are.
struct Prepared {
    name: String,
    cut: ChunkedFile,
    source: Source,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let file = ReleaseFile::read(&args.file).map_err(refused)?;
    let client = Client::of(&args.data_dir)?;
    let runtime = super::runtime()?;
    let catalog = runtime.block_on(client.catalog())?;
    let resolve = |names: &[String]| names.iter().map(|name| Ok(find_release(&catalog, name)?.release)).collect();
    let (depends, supersedes): (Result<_, CliError>, Result<_, CliError>) =
        (resolve(file.depends()), resolve(file.supersedes()));
    let context =
        Context { counter: next_counter(&catalog, &file), issued: wall(), depends: depends?, supersedes: supersedes? };
    let signers = args.keys.signers(&args.data_dir, KeyUse::Publisher)?;

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
            Source::Url(url) => cut_url(&runtime, url, &sizes, common)?,
        };
        prepared.push(Prepared { name, cut, source });
    }
    let payloads = prepared.iter().map(payload).collect::<Result<Vec<_>, CliError>>()?;
    let release = file.build(payloads, context).map_err(refused)?;
    validate_release(&release).map_err(refused)?;
    let body = codec::encode(&release, Kind::Release.cap()).map_err(refused)?;
    let id = ReleaseId::of(&body);
    let signers: Vec<_> = signers.iter().collect();
    let bytes = envelope::seal(Kind::Release, Role::Publisher, &body, &signers).context("signing the release")?;

    for payload in &prepared {
        runtime.block_on(upload(&client, payload, common))?;
    }
    let head_version = runtime.block_on(client.submit("release", bytes))?;
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
    let applied = apply_rules(&runtime, &client, &args, &catalog, (id, &release));
    json["approved"] = applied.approved.into();
    json["not_approved"] = applied.not_approved.into();
    common.print(&json, &id.to_string());
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
    catalog: &Catalog,
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
    let matching: Vec<_> =
        rules.into_iter().filter(|known| known.rule.matches(product, classification, severity)).collect();
    if matching.is_empty() {
        return applied;
    }
    let signers = args.keys.signers(&args.data_dir, KeyUse::Approver);
    let mut groups = BTreeSet::new();
    for Rule { id: number, rule } in matching {
        // Of two rules for one group the older one decides.
        if !groups.insert(rule.group.clone()) {
            continue;
        }
        let approved = signers.as_ref().map_err(ToString::to_string).and_then(|signers| {
            let sign = || {
                let group = find_group(catalog, &rule.group)?;
                let approval = rule.schedule.approval((group, id), 1, Action::Install, wall())?;
                runtime.block_on(submit(client, &approval, signers))
            };
            sign().map_err(|error: CliError| error.to_string())
        });
        match approved {
            Ok(index) => {
                eprintln!("approved by rule {number}: {product} {} in group {}", release.version, rule.group);
                applied.approved.push(json!({ "rule": number, "group": rule.group, "head_version": index }));
            }
            Err(reason) => {
                eprintln!(
                    "upswarm: rule {number} approves it for group {group}, but: {reason}. Approve it with: upswarm approve {id} \
                     --group {group} --data-dir {}",
                    args.data_dir.display(),
                    group = rule.group,
                );
                applied.not_approved.push(json!({ "rule": number, "group": rule.group, "reason": reason }));
            }
        }
    }
    applied
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

/// Reads a vendor's payload once, to name it; its bytes stay there.
fn cut_url(
    runtime: &tokio::runtime::Runtime,
    url: &str,
    sizes: &impl Fn(u64) -> Result<ChunkSizes, CliError>,
    common: Common,
) -> Result<ChunkedFile, CliError> {
    let http = reqwest::Client::builder().connect_timeout(VENDOR_PATIENCE).read_timeout(VENDOR_PATIENCE).build();
    let http = http.context("preparing HTTP")?;
    let answer = runtime.block_on(http.get(url).send()).with_context(|| format!("downloading {url}"))?;
    if !answer.status().is_success() {
        return Err(CliError::Refused(format!("{url} answers with HTTP status {}", answer.status())));
    }
    let bar = progress::bytes(common, "downloading", answer.content_length().unwrap_or(0));
    let sizes = sizes(answer.content_length().unwrap_or(0))?;
    let body = Body { runtime, answer, piece: bytes::Bytes::new() };
    let cut = chunk_file(bar.wrap_read(body), sizes);
    bar.finish_and_clear();
    cut.map_err(|error| match error {
        ChunkerError::Read(error) => CliError::Failed(anyhow!("downloading {url}: {error}")),
        other => CliError::Refused(format!("the payload {url}: {other}")),
    })
}

/// An answer's body for code that reads.
struct Body<'a> {
    runtime: &'a tokio::runtime::Runtime,
    answer: reqwest::Response,
    piece: bytes::Bytes,
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.answer.chunk()).map_err(std::io::Error::other)? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
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
