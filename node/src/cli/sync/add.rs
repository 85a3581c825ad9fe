//! `upswarm sync add`: puts a description together from arguments, or from what a machine's apt uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use upswarm_protocol::ids::DocHash;

use super::super::root::{How, change};
use super::super::{CliError, Common};
use crate::api::repositories::{NewUpstream, UpstreamAdded};
use crate::clock;
use crate::coordinator::admin::root::RootChange;
use crate::units;
use crate::upstream::UpstreamDescription;
use crate::upstream::openpgp::{self, Certificate};
use crate::upstream::sources::{self, SignedBy, Source};

/// A list of apt's is a few lines.
const MAX_SOURCES: u64 = 1 << 20;
/// The largest keyring of a distribution has 200 KiB.
const MAX_KEYRING: u64 = 16 << 20;

/// Add a repository, or give one other mirrors or certificates; then sign a root that pins it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What kind of repository it is.
    kind: Kind,
    /// Its name here: a-z, 0-9 and -. Where --from-sources names several suites, each is added as NAME-SUITE.
    name: String,
    /// A mirror: http://, https:// or file:/; may be repeated, the best first.
    #[arg(long, value_name = "URL", required_unless_present = "from_sources")]
    url: Vec<String>,
    /// The folder below dists/, for example bookworm-security.
    #[arg(long, required_unless_present = "from_sources")]
    suite: Option<String>,
    /// The parts of the suite that are synced, for example main,contrib.
    #[arg(long, value_delimiter = ',', required_unless_present = "from_sources")]
    components: Vec<String>,
    /// The architectures that are synced, in dpkg's words; without it, this machine's.
    #[arg(long, value_delimiter = ',')]
    arch: Vec<String>,
    /// The upstream's OpenPGP certificates, armoured or not.
    #[arg(long, value_name = "FILE")]
    keyring: Option<PathBuf>,
    /// Read mirrors, suites, components and keyring from a list of apt's, sources.list(5), in either form.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "suite", "components"])]
    from_sources: Option<PathBuf>,
    /// Binary packages that it may supply, for example google-chrome-*; machines take no others from it. Without it, all.
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    packages: Vec<String>,
    /// How often its mirrors are asked.
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    every: Option<Duration>,
    /// Leave the root as it is: it can be synced and looked at, and machines refuse its packages.
    #[arg(long)]
    no_pin: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// Debian's kind: dists/SUITE/InRelease and a pool of .deb files.
    Apt,
}

pub(super) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let Kind::Apt = args.kind;
    let wanted = wanted(&args)?;
    let client = args.how.admin.client()?;
    let runtime = super::super::runtime()?;
    let mut added: Vec<UpstreamAdded> = Vec::new();
    for request in &wanted {
        let answer = runtime.block_on(client.add_upstream(request))?;
        // What the root is to pin is what was read here, whatever the coordinator makes of it.
        let described = UpstreamDescription::parse(request.description.as_bytes());
        let name = described.map_err(|error| CliError::Refused(error.to_string()))?.name;
        let hash = DocHash::of(request.description.as_bytes());
        if answer.name != name || answer.description != hash {
            return Err(CliError::Refused(format!(
                "nothing was signed: {name} with the description {hash} was to be added, and the coordinator answers with {} and {}",
                answer.name, answer.description
            )));
        }
        added.push(answer);
    }
    let lines = added.iter().map(|one| {
        let what = if one.new { "added" } else { "changed" };
        let next = if one.pinned {
            format!("fill it with: upswarm sync run {}", one.name)
        } else {
            "machines take packages of it when the root names it".to_owned()
        };
        format!("{what}: {}; {next}", one.name)
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let to_pin =
        added.iter().filter(|one| !one.pinned).map(|one| (one.name.clone(), one.description)).collect::<Vec<_>>();
    let Some(first) = added.first().filter(|_| !args.no_pin && !to_pin.is_empty()) else {
        common.print(&serde_json::json!({ "upstreams": added }), &text);
        return Ok(());
    };
    // What becomes of the root is printed last.
    eprintln!("{text}");
    change(RootChange::Pin(to_pin, first.sync_key), &args.how, common).map_err(|error| match error {
        CliError::Refused(reason) => CliError::Refused(format!(
            "it is added, and the root does not pin it: {reason}. Say the same again where the root keys are, or with --export FILE"
        )),
        other => other,
    })
}

/// The requests that the arguments mean.
fn wanted(args: &Args) -> Result<Vec<NewUpstream>, CliError> {
    let sources = match &args.from_sources {
        None => vec![Source {
            urls: args.url.clone(),
            suite: args.suite.clone().unwrap_or_default(),
            components: args.components.clone(),
            architectures: Vec::new(),
            signed_by: None,
        }],
        Some(file) => {
            let text = read(file, MAX_SOURCES)?;
            let found = sources::parse(&String::from_utf8_lossy(&text))
                .map_err(|error| CliError::Refused(format!("{}: {error}", file.display())))?;
            if found.is_empty() {
                return Err(CliError::Refused(format!("{} names no enabled source of packages", file.display())));
            }
            together(found)
        }
    };
    let several = sources.len() > 1;
    sources.into_iter().map(|source| request(args, source, several)).collect()
}

/// Sources of one suite are one repository with several mirrors.
fn together(found: Vec<Source>) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for one in found {
        let same = sources.iter_mut().find(|known| {
            known.suite == one.suite && known.components == one.components && known.signed_by == one.signed_by
        });
        match same {
            Some(known) => known.urls.extend(one.urls),
            None => sources.push(one),
        }
    }
    sources
}

fn request(args: &Args, source: Source, several: bool) -> Result<NewUpstream, CliError> {
    let refused = |error: String| CliError::Refused(error);
    if source.suite.ends_with('/') || source.components.is_empty() {
        return Err(refused(format!(
            "{} names no components: repositories without dists/ are not supported",
            source.urls.join(" ")
        )));
    }
    let certificates = certificates(args, &source)?;
    let architectures = match (args.arch.is_empty(), source.architectures.is_empty()) {
        (false, _) => args.arch.clone(),
        (true, false) => source.architectures,
        (true, true) => vec![own_arch().ok_or_else(|| refused("name the architectures with --arch".to_owned()))?],
    };
    let suite = source.suite.replace(['/', '.', '_'], "-");
    let name = if several { format!("{}-{suite}", args.name) } else { args.name.clone() };
    let armored =
        certificates.iter().map(|certificate| certificate.to_armor().map_err(|error| refused(error.to_string())));
    let description = UpstreamDescription {
        name,
        suite: source.suite,
        components: source.components,
        architectures,
        packages: if args.packages.is_empty() { vec!["*".to_owned()] } else { args.packages.clone() },
        certificates: armored.collect::<Result<_, _>>()?,
    };
    let bytes = description.to_bytes().map_err(|error| refused(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| refused(error.to_string()))?;
    Ok(NewUpstream { description: text, urls: source.urls, every_s: args.every.map(|every| every.as_secs()) })
}

/// The certificates that count now; an error where none does.
fn certificates(args: &Args, source: &Source) -> Result<Vec<Certificate>, CliError> {
    let (place, bytes) = match (&args.keyring, &source.signed_by) {
        (Some(path), _) => (path.display().to_string(), read(path, MAX_KEYRING)?),
        (None, Some(SignedBy::Keyring(path))) => (path.clone(), read(Path::new(path), MAX_KEYRING)?),
        (None, Some(SignedBy::Certificates(text))) => ("the field Signed-By".to_owned(), text.clone().into_bytes()),
        (None, None) => {
            return Err(CliError::Refused(format!(
                "{}: whose signature counts? Name the upstream's certificates with --keyring, as a file that you have had from \
                 itself, for example /usr/share/keyrings/debian-archive-keyring.gpg",
                source.urls.join(" ")
            )));
        }
    };
    let found = openpgp::certificates(&bytes).map_err(|error| CliError::Refused(format!("{place}: {error}")))?;
    let now = clock::wall();
    let (good, others): (Vec<Certificate>, Vec<Certificate>) =
        found.into_iter().partition(|certificate| certificate.good_until(now).is_ok());
    let why = others.iter().filter_map(|other| Some(format!("{other}: {}", other.good_until(now).err()?)));
    let why: Vec<String> = why.collect();
    if good.is_empty() {
        return Err(CliError::Refused(format!("{place}: no certificate counts now: {}", why.join("; "))));
    }
    why.iter().for_each(|why| eprintln!("left out: {why}"));
    Ok(good)
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, CliError> {
    let place = |error: std::io::Error| CliError::Refused(format!("{}: {error}", path.display()));
    let len = fs::metadata(path).map_err(place)?.len();
    if len > limit {
        return Err(CliError::Refused(format!("{} has {len} bytes, more than such a file has", path.display())));
    }
    fs::read(path).map_err(place)
}

/// This machine's architecture in dpkg's words.
fn own_arch() -> Option<String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64" => "riscv64",
        _ => return None,
    };
    Some(arch.to_owned())
}
