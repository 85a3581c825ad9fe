//! `upswarm node`: join a deployment, and run.

mod apt_setup;
mod leave;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use ed25519_dalek::SigningKey;
use serde_json::json;
use upswarm_protocol::catalog::{Certificate, NodeRole};
use upswarm_protocol::codec::Text;
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::node::Record;
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::{CLOCK_TOLERANCE, Trust};
use upswarm_protocol::wire::{self, BlockWhat, Message};

use super::installer::INSTALLER_SOCKET;
use super::{CliError, Common, quiet_runtime, runtime};
use crate::agent::journal::Journal;
use crate::agent::{driver, http_uplink};
use crate::clock::{self, BUILD_TIME};
use crate::config::{Config, Coordinator, NodeDir, Size, WanWeight};
use crate::coordinator::token::JoinToken;
use crate::keys;
use crate::net::{Host, HostConfig, HostEvent, dialled, multiaddr};
use crate::privileged::Pin;
use crate::sys;
use crate::web::{ProxyConfig, Web};

/// How the units of the package are started.
const START_SERVICE: &str = "systemctl enable --now upswarm-installer upswarm-node";
/// The coordinator must answer within this.
const JOIN_WITHIN: Duration = Duration::from_secs(30);
/// And within this where HTTP is another way.
const JOIN_BEFORE_HTTP: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Spend a join token: get this machine's certificate and write its node.toml.
    #[command(after_help = "Example:\n  upswarm node join upswarm1:... --data-dir /var/lib/upswarm\n  \
                            upswarm node join upswarm1:... --data-dir /var/lib/upswarm --role cache")]
    Join(Box<JoinArgs>),
    /// Tell the coordinator that this machine leaves for good, and forget its identity. Payloads stay.
    #[command(after_help = "Example:\n  upswarm node leave --data-dir /var/lib/upswarm")]
    Leave(LeaveArgs),
    /// Run the node until it is told to stop (Ctrl-C or SIGTERM).
    #[command(after_help = "Example:\n  upswarm node run --data-dir /var/lib/upswarm")]
    Run(RunArgs),
    /// Show in a few lines how the node that runs on this machine stands.
    Status(super::node_status::Args),
    /// Try again what failed on this machine, or waits.
    Retry(super::retry::NodeArgs),
    /// Bring plain apt of this machine to see what is approved for it and nothing else, or take that back.
    #[command(after_help = "Example:\n  upswarm node apt-setup\n  upswarm node apt-setup --undo\n  \
                            upswarm node apt-setup --filtered kiosks --host cache.example.org:8530")]
    AptSetup(apt_setup::Args),
}

#[derive(Debug, clap::Args)]
struct JoinArgs {
    /// The token that `upswarm coordinator invite` printed.
    token: String,
    /// Where the node keeps everything; created if missing.
    #[arg(long)]
    data_dir: PathBuf,
    /// What the machine is for.
    #[arg(long, value_enum, default_value_t = RoleArg::Node)]
    role: RoleArg,
    /// Address to listen on, HOST:PORT or a multiaddr; may be repeated. Default: TCP and QUIC port 4410 on every interface.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Address of a machine of the site, HOST:PORT or a multiaddr; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    peer: Vec<String>,
    /// Join anew although the directory has joined before, with a new identity: for a copied disk, or another coordinator.
    /// Settings and payloads are kept.
    #[arg(long)]
    again: bool,
    /// The name that the admin sees; default: the host's name.
    #[arg(long)]
    label: Option<String>,
    /// Do not look for machines of the site by multicast DNS.
    #[arg(long)]
    no_mdns: bool,
    /// Proxy for everything that goes to the web, for example http://proxy.example.org:3128; default: what the environment names.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// File whose first line is user:password for the proxy.
    #[arg(long, value_name = "FILE", requires = "proxy")]
    proxy_credentials: Option<PathBuf>,
    /// File with PEM certificates of authorities that are believed beside the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Data directory of the privileged installer: pins it to the same root and this device. Needs root.
    #[arg(long, value_name = "DIR", requires = "owner")]
    installer_dir: Option<PathBuf>,
    /// The user that the node runs as when the privileged installer runs; it becomes the owner of the data directory.
    #[arg(long, value_name = "USER", requires = "installer_dir")]
    owner: Option<String>,
}

#[derive(Debug, clap::Args)]
struct LeaveArgs {
    /// The directory that `node join` made; the node must not run.
    #[arg(long)]
    data_dir: PathBuf,
    /// Although the coordinator cannot be told.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The directory that `node join` made.
    #[arg(long)]
    data_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    /// An office machine.
    Node,
    /// A branch cache: keeps more, is the first to fetch over the WAN.
    Cache,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Join(args) => {
            let joined = runtime()?.block_on(join(&args))?;
            let start = if args.owner.is_some() {
                START_SERVICE.to_owned()
            } else {
                format!("upswarm node run --data-dir {}", args.data_dir.display())
            };
            let text = format!(
                "joined as {} (device {})\nstart it: {start}",
                args.role.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned()),
                joined.device.short(),
            );
            let json = json!({
                "device": joined.device, "site": joined.site, "role": joined.role, "data_dir": args.data_dir, "start": start,
            });
            common.print(&json, &text);
            Ok(())
        }
        Verb::Leave(args) => leave::run(&args, common),
        Verb::Status(args) => super::node_status::run(&args, common),
        Verb::AptSetup(args) => apt_setup::run(&args, &common),
        Verb::Retry(args) => super::retry::on_this_machine(args, common),
        Verb::Run(args) => {
            let dir = NodeDir::new(&args.data_dir);
            // What is not there is said by whoever reads it.
            if let Ok(Some(owner)) = sys::owned_by_another(dir.path()) {
                return Err(CliError::Refused(format!(
                    "{} belongs to {owner}, and files that another user leaves in it would stop the service; start the service: \
                     {START_SERVICE}, or run this as {owner}",
                    dir.path().display()
                )));
            }
            let config = Config::read(&dir.config()).map_err(|error| CliError::Refused(format!("{error:#}")))?;
            be_quiet();
            quiet_runtime()?.block_on(async {
                driver::run(&dir, config, sys::asked_to_stop()?).await?;
                Ok(())
            })
        }
    }
}

/// Work of the person at the machine comes first.
fn be_quiet() {
    if let Err(error) = sys::give_way() {
        tracing::debug!("the priority stays as it is: {error}");
    }
}

async fn join(args: &JoinArgs) -> Result<Certificate, CliError> {
    let refuse = |text: String| CliError::Refused(text);
    let token = JoinToken::parse(&args.token).map_err(|error| refuse(error.to_string()))?;
    // Whether it has expired is the coordinator's to say: this machine's clock may be wrong.
    if token.expires <= clock::wall() {
        eprintln!(
            "the token expired at {} by this machine's clock, which says {}; asking the coordinator all the same",
            token.expires,
            clock::wall()
        );
    }
    let dir = NodeDir::new(&args.data_dir);
    std::fs::create_dir_all(dir.path()).with_context(|| format!("cannot create {}", dir.path().display()))?;
    private(dir.path())?;
    let again = dir.config().exists();
    if again && !args.again {
        let text = format!(
            "{} has joined already; run it, or choose another directory, or join anew and keep its payloads: --again",
            dir.path().display()
        );
        return Err(refuse(text));
    }
    let mut journal =
        Journal::open(&dir.journal()).with_context(|| format!("cannot open {}", dir.journal().display()))?;
    let config = if again { anew(&dir, args, &token)? } else { configure(args, &token)? };
    // The old identity stands until there is another.
    let new_key = if again { dir.key().with_extension("new") } else { dir.key() };
    let key = keys::create_device_key(&new_key)?;
    let enrol = Message::Enrol {
        version: wire::VERSION,
        secret: token.secret,
        role: if args.role == RoleArg::Cache { NodeRole::Cache } else { NodeRole::Node },
        label: config.label_or_host(),
    };
    let bases = config.coordinator.origins.clone();
    let enrolled = match enrol_directly(&key, &token, &enrol, !bases.is_empty()).await {
        // A refusal is the coordinator's word, whatever carried it.
        Err(CliError::Failed(direct)) if !bases.is_empty() => {
            let web =
                Web::new(&config.proxy, config.ca_file.as_deref()).map_err(|error| refuse(format!("{error:#}")))?;
            http_uplink::enrol(&web, &bases, token.root, &key, &enrol)
                .await
                .map(|(roots, certificate, assignment, origins)| Enrolment {
                    roots,
                    certificate,
                    assignment,
                    origins,
                    reached: String::new(),
                })
                .map_err(|by_http| anyhow!("{direct:#}; nor by HTTP: {by_http:#}"))?
        }
        outcome => outcome?,
    };
    let Enrolment { roots, certificate, assignment, mut origins, reached } = enrolled;
    // The coordinator's own URL stays known when a static origin is named to machines.
    origins.extend(bases.into_iter().filter(|base| !origins.contains(base)).collect::<Vec<_>>());
    // The coordinator is proven twice: by its key, which the transport checked, and by the root that the token pins.
    let mut roots = roots.into_iter();
    let mut trust = Trust::pin(roots.next().unwrap_or_default(), token.root, BUILD_TIME)
        .map_err(|error| refuse(format!("the coordinator's root is not the one that the token names: {error}")))?;
    // The token is of an earlier day: the roots since then prove themselves.
    for root in roots {
        trust
            .offer_root(&root, clock::wall())
            .map_err(|error| refuse(format!("the coordinator gave a root that is not good: {error}")))?;
    }
    let believed = trust
        .check_own_certificate(&certificate)
        .map_err(|error| refuse(format!("the coordinator gave a certificate that is not good: {error}")))?;
    if let Some(wrong) = wrong_clock(&believed, clock::wall()) {
        eprintln!("WARNING: {wrong}. Set the clock; the node waits until it is right, and then goes on by itself.");
    }
    if believed.device.0 != key.verifying_key().to_bytes() {
        return Err(refuse("the coordinator gave the certificate of another device".into()));
    }
    let assigned = trust
        .check_assignment(&assignment)
        .map_err(|error| refuse(format!("the coordinator gave an assignment to a group that is not good: {error}")))?;
    if assigned.device != believed.device {
        return Err(refuse("the coordinator gave the assignment of another device".into()));
    }
    let root_hash = trust.root_hash();
    let trust = Record::Trust(trust.snapshot());
    let papers = [Record::Certificate(certificate), Record::Assignment(assignment)];
    journal.write(&[&trust, &papers[0], &papers[1]]).context("cannot write the journal")?;
    if again {
        sys::rename(&new_key, &dir.key()).with_context(|| format!("cannot put {} in place", dir.key().display()))?;
    }
    if let Some(installer) = &args.installer_dir {
        let pin = Pin { root: root_hash, device: believed.device };
        pin.write(installer).map_err(|error| refuse(format!("{error:#}")))?;
    }
    // Last: a directory with a node.toml has joined.
    let mut addresses = config.coordinator.addresses;
    // The one that this machine can reach comes first.
    addresses.sort_by_key(|address| !address.starts_with(&*reached));
    let config = Config { coordinator: Coordinator { origins, addresses, ..config.coordinator }, ..config };
    config.write(&dir.config())?;
    if let Some(owner) = &args.owner {
        drop(journal);
        give(dir.path(), sys::user_id(owner)?)?;
    }
    Ok(believed)
}

/// What this machine's clock says that cannot be, beside a certificate that the coordinator has just signed.
fn wrong_clock(fresh: &Certificate, wall: Wall) -> Option<String> {
    if wall < BUILD_TIME {
        return Some(format!("this machine's clock says {wall}, and upswarm was built at {BUILD_TIME}"));
    }
    let apart = wall.since(fresh.issued).max(fresh.issued.since(wall));
    let side = if wall > fresh.issued { "ahead of" } else { "behind" };
    let days = apart.as_secs() / 86_400;
    (apart > CLOCK_TOLERANCE).then(|| format!("this machine's clock is {days} days {side} the coordinator's"))
}

/// The settings of a directory that has joined before, with the coordinator of the token.
fn anew(dir: &NodeDir, args: &JoinArgs, token: &JoinToken) -> Result<Config, CliError> {
    let known = Config::read(&dir.config()).map_err(|error| CliError::Refused(format!("{error:#}")))?;
    let coordinator = configure(args, token)?.coordinator;
    let label = args.label.clone().unwrap_or(known.label);
    Ok(Config { coordinator, label, ..known })
}

fn configure(args: &JoinArgs, token: &JoinToken) -> Result<Config, CliError> {
    let default = Config::default();
    let cache = args.role == RoleArg::Cache;
    if let Some(owner) = &args.owner {
        sys::user_id(owner).map_err(|error| CliError::Refused(format!("--owner: {error:#}")))?;
        if !sys::is_administrator() {
            return Err(CliError::Refused("the privileged installer is set up by root; run this as root".into()));
        }
    }
    let label = args.label.clone().unwrap_or_default();
    Text::<64>::new(label.as_str()).map_err(|error| CliError::Refused(format!("--label: {error}")))?;
    let refused = |error: anyhow::Error| CliError::Refused(format!("{error:#}"));
    let listen =
        args.listen.iter().map(|address| multiaddr(address)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
    let peers = args.peer.iter().map(|address| dialled(address)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
    let absolute = |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
    let proxy = ProxyConfig {
        url: args.proxy.clone().unwrap_or_default(),
        no_proxy: Vec::new(),
        credentials_file: absolute(&args.proxy_credentials).context("--proxy-credentials")?,
    };
    proxy.validate().map_err(|error| CliError::Refused(format!("--proxy: {error:#}")))?;
    let mut config = Config {
        proxy,
        ca_file: absolute(&args.ca_file).context("--ca-file")?,
        listen: if listen.is_empty() { default.listen.clone() } else { listen },
        peers,
        mdns: !args.no_mdns,
        label,
        installer_socket: args.installer_dir.as_ref().map(|_| INSTALLER_SOCKET.into()),
        coordinator: Coordinator {
            device: token.coordinator,
            addresses: token.addresses.iter().map(|address| address.to_string()).collect(),
            origins: token.origins.iter().map(|origin| origin.to_string()).collect(),
        },
        ..default
    };
    if cache {
        (config.wan_weight, config.upload_slots, config.store.quota) = (WanWeight::Fixed(64), 32, Size(200 << 30));
    }
    Ok(config)
}

/// Roots after the one that a token names: a token is good for a year.
const MAX_LATER_ROOTS: usize = 256;

/// What the coordinator gave.
struct Enrolment {
    /// The root that the token names, and those after it.
    roots: Vec<Vec<u8>>,
    certificate: Vec<u8>,
    assignment: Vec<u8>,
    origins: Vec<String>,
    /// The address at which it answered, without its name.
    reached: String,
}

/// Enrols over libp2p.
async fn enrol_directly(
    key: &SigningKey,
    token: &JoinToken,
    enrol: &Message,
    hurry: bool,
) -> Result<Enrolment, CliError> {
    let (host, mut events) = Host::start(HostConfig::of_node(key.to_bytes(), Vec::new(), false)).await?;
    let within = if hurry { JOIN_BEFORE_HTTP } else { JOIN_WITHIN };
    let outcome = tokio::time::timeout(within, enrol_with(&host, &mut events, token, enrol)).await;
    host.stop().await;
    outcome.unwrap_or_else(|_| {
        let addresses: Vec<_> = token.addresses.iter().map(|address| address.to_string()).collect();
        Err(CliError::Failed(anyhow!(
            "the coordinator does not answer at {} (waited {} s); is it running, and does a firewall let it through?",
            addresses.join(", "),
            within.as_secs()
        )))
    })
}

/// Connects, spends the secret, and fetches the root.
async fn enrol_with(
    host: &Host,
    events: &mut tokio::sync::mpsc::Receiver<HostEvent>,
    token: &JoinToken,
    enrol: &Message,
) -> Result<Enrolment, CliError> {
    let coordinator = token.coordinator;
    let mut reasons = Vec::new();
    let unreached = |reasons: &mut Vec<String>, reason: &str| {
        reasons.push(reason.to_owned());
        if reasons.len() < token.addresses.len() {
            return Ok(());
        }
        let text = format!("the coordinator cannot be reached ({}); is it running?", reasons.join("; "));
        Err(CliError::Failed(anyhow!(text)))
    };
    // All at once, and without the peer's name: while one dial to a name is under way libp2p refuses another, and the first
    // address need not be one that this machine can reach.
    for address in &token.addresses {
        let bare = address.split("/p2p/").next().unwrap_or_default();
        host.dial(bare.to_owned()).await;
    }
    let ended = || CliError::Failed(anyhow!("the network part ended unexpectedly"));
    let mut reached = String::new();
    let (certificate, assignment, origins) = loop {
        match events.recv().await.ok_or_else(ended)? {
            HostEvent::PeerUp { peer, dialled } if peer == coordinator => {
                reached = dialled.map_or(String::new(), |address| address.to_string());
                host.send(coordinator, enrol.encode().context("cannot encode the enrolment")?).await;
            }
            HostEvent::PeerUp { peer, dialled } => {
                host.disconnect(peer, "not the coordinator".into()).await;
                let address = dialled.map_or(String::new(), |address| address.to_string());
                unreached(&mut reasons, &format!("{address}: another machine answers there"))?;
            }
            HostEvent::Frame { peer, bytes } if peer == coordinator => match Message::decode(&bytes) {
                Ok(Message::Enrolled { certificate, assignment, origins, .. }) => {
                    let origins = origins.iter().map(|origin| origin.to_string()).collect();
                    break (certificate.into_vec(), assignment.into_vec(), origins);
                }
                Ok(Message::Refused { reason }) => {
                    return Err(CliError::Refused(format!("the coordinator refuses: {reason}")));
                }
                Ok(_) => {}
                Err(error) => return Err(CliError::Failed(anyhow!("the coordinator's answer is {error}"))),
            },
            HostEvent::PeerDown { peer } if peer == coordinator => {
                return Err(CliError::Failed(anyhow!("the coordinator closed the connection; try again")));
            }
            HostEvent::DialFailed { address, reason } => {
                unreached(&mut reasons, &format!("{address}: {reason}"))?;
            }
            _ => {}
        }
    };
    let fetched = async {
        let first = host.fetch_block(coordinator, BlockWhat::Doc(token.root), Kind::Root.cap()).await;
        let first =
            first.map_err(|error| CliError::Failed(anyhow!("the coordinator does not give its root: {error:?}")))?;
        let mut roots = vec![first.to_vec()];
        let first = http_uplink::root_version(&roots[0]);
        for version in (first + 1..).take(MAX_LATER_ROOTS) {
            let later = host.fetch_block(coordinator, BlockWhat::Root(version), Kind::Root.cap()).await;
            let Ok(later) = later else { break };
            roots.push(later.to_vec());
        }
        Ok::<_, CliError>(roots)
    };
    // The host's events must be taken while it works.
    let roots = tokio::select! {
        roots = fetched => roots,
        () = async { while events.recv().await.is_some() {} } => return Err(ended()),
    };
    Ok(Enrolment { roots: roots?, certificate, assignment, origins, reached })
}

/// Hands a directory over to the user that the node runs as. What is in it was made by this process a moment ago.
fn give(path: &Path, owner: u32) -> anyhow::Result<()> {
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            give(&entry?.path(), owner)?;
        }
    }
    sys::give(path, owner).with_context(|| format!("cannot make user {owner} the owner of {}", path.display()))
}

/// The directory holds a private key.
fn private(dir: &Path) -> anyhow::Result<()> {
    sys::close_to_others(dir).with_context(|| format!("cannot make {} private", dir.display()))
}
