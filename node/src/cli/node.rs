//! `upswarm node`: join a deployment, and run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use serde_json::json;
use upswarm_protocol::catalog::{Certificate, NodeRole};
use upswarm_protocol::codec::Text;
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::node_state::Record;
use upswarm_protocol::trust::Trust;
use upswarm_protocol::wire::{self, BlockWhat, Message};

use super::installer::INSTALLER_SOCKET;
use super::token::JoinToken;
use super::{CliError, Common, quiet_runtime, runtime};
use crate::apart::{Pin, user_id};
use crate::clock;
use crate::config::{Config, Coordinator, NodeDir, Size, WanWeight};
use crate::driver::{self, BUILD_TIME};
use crate::host::{Host, HostConfig, HostEvent};
use crate::journal::Journal;
use crate::keys;

/// The coordinator must answer within this.
const JOIN_WITHIN: Duration = Duration::from_secs(30);

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
    Join(JoinArgs),
    /// Run the node until it is told to stop (Ctrl-C or SIGTERM).
    #[command(after_help = "Example:\n  upswarm node run --data-dir /var/lib/upswarm")]
    Run(RunArgs),
    /// Show in a few lines how the node that runs on this machine stands.
    Status(super::node_status::Args),
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
    /// Multiaddr to listen on; may be repeated. Default: TCP and QUIC port 4410 on every interface.
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Multiaddr of a machine of the site; may be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    peer: Vec<String>,
    /// The name that the admin sees; default: the host's name.
    #[arg(long)]
    label: Option<String>,
    /// Do not look for machines of the site by multicast DNS.
    #[arg(long)]
    no_mdns: bool,
    /// Data directory of the installer apart: pins it to the same root and this device. Needs root.
    #[arg(long, value_name = "DIR", requires = "owner")]
    installer_dir: Option<PathBuf>,
    /// The user that the node runs as when an installer runs apart; it becomes the owner of the data directory.
    #[arg(long, value_name = "USER", requires = "installer_dir")]
    owner: Option<String>,
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
            let text = format!(
                "joined as {} (device {})\nstart it: upswarm node run --data-dir {}",
                args.role.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned()),
                joined.device.short(),
                args.data_dir.display()
            );
            let json = json!({
                "device": joined.device, "site": joined.site, "role": joined.role, "data_dir": args.data_dir,
            });
            common.print(&json, &text);
            Ok(())
        }
        Verb::Status(args) => super::node_status::run(&args, common),
        Verb::Run(args) => {
            let dir = NodeDir::new(&args.data_dir);
            let config = Config::read(&dir.config()).map_err(|error| CliError::Refused(format!("{error:#}")))?;
            be_quiet();
            quiet_runtime()?.block_on(async {
                driver::run(&dir, config, super::asked_to_stop()?).await?;
                Ok(())
            })
        }
    }
}

/// Work of the person at the machine comes first.
fn be_quiet() {
    if let Err(error) = rustix::process::setpriority_process(None, 10) {
        tracing::debug!("the priority stays as it is: {error}");
    }
}

async fn join(args: &JoinArgs) -> Result<Certificate, CliError> {
    let refuse = |text: String| CliError::Refused(text);
    let token = JoinToken::parse(&args.token).map_err(|error| refuse(error.to_string()))?;
    if token.expires <= clock::wall() {
        return Err(refuse(format!("the token expired at {}; ask for a new one", token.expires)));
    }
    let dir = NodeDir::new(&args.data_dir);
    std::fs::create_dir_all(dir.path()).with_context(|| format!("cannot create {}", dir.path().display()))?;
    private(dir.path())?;
    if dir.config().exists() {
        let text = format!("{} has joined already; run it, or choose another directory", dir.path().display());
        return Err(refuse(text));
    }
    let journal = Journal::open(&dir.journal()).with_context(|| format!("cannot open {}", dir.journal().display()))?;
    let config = configure(args, &token)?;
    let key = keys::create_device_key(&dir.key())?;
    let (host, mut events) = Host::start(HostConfig::of_node(key.to_bytes(), Vec::new(), false)).await?;
    let outcome = tokio::time::timeout(JOIN_WITHIN, enrol(&host, &mut events, &token, args, &config)).await;
    host.stop().await;
    let Ok(outcome) = outcome else {
        let addresses: Vec<_> = token.addresses.iter().map(|address| address.to_string()).collect();
        return Err(CliError::Failed(anyhow!(
            "the coordinator does not answer at {} (waited {} s); is it running, and does a firewall let it through?",
            addresses.join(", "),
            JOIN_WITHIN.as_secs()
        )));
    };
    let (root, certificate, origins) = outcome?;
    // The coordinator is proven twice: by its key, which the transport checked, and by the root that the token pins.
    let trust = Trust::pin(root, token.root, BUILD_TIME)
        .map_err(|error| refuse(format!("the coordinator's root is not the one that the token names: {error}")))?;
    let believed = trust
        .check_certificate(&certificate, clock::wall())
        .map_err(|error| refuse(format!("the coordinator gave a certificate that is not good: {error}")))?;
    if believed.device.0 != key.verifying_key().to_bytes() {
        return Err(refuse("the coordinator gave the certificate of another device".into()));
    }
    let write = |record: Record| journal.write(&record).context("cannot write the journal");
    write(Record::Trust(trust.snapshot()))?;
    write(Record::Certificate(certificate))?;
    if let Some(installer) = &args.installer_dir {
        let pin = Pin { root: token.root, device: believed.device };
        pin.write(installer).map_err(|error| refuse(format!("{error:#}")))?;
    }
    // Last: a directory with a node.toml has joined.
    let config = Config { coordinator: Coordinator { origins, ..config.coordinator }, ..config };
    config.write(&dir.config())?;
    if let Some(owner) = &args.owner {
        drop(journal);
        give(dir.path(), user_id(owner)?)?;
    }
    Ok(believed)
}

fn configure(args: &JoinArgs, token: &JoinToken) -> Result<Config, CliError> {
    let default = Config::default();
    let cache = args.role == RoleArg::Cache;
    if let Some(owner) = &args.owner {
        user_id(owner).map_err(|error| CliError::Refused(format!("--owner: {error:#}")))?;
        if !rustix::process::geteuid().is_root() {
            return Err(CliError::Refused("an installer apart is set up by root; run this as root".into()));
        }
    }
    let label = args.label.clone().unwrap_or_default();
    Text::<64>::new(label.as_str()).map_err(|error| CliError::Refused(format!("--label: {error}")))?;
    for address in args.listen.iter().chain(&args.peer) {
        crate::host::check_multiaddr(address).map_err(|error| CliError::Refused(format!("{error:#}")))?;
    }
    let mut config = Config {
        listen: if args.listen.is_empty() { default.listen.clone() } else { args.listen.clone() },
        peers: args.peer.clone(),
        mdns: !args.no_mdns,
        label,
        installer_socket: args.installer_dir.as_ref().map(|_| INSTALLER_SOCKET.into()),
        coordinator: Coordinator {
            device: token.coordinator,
            addresses: token.addresses.iter().map(|address| address.to_string()).collect(),
            origins: Vec::new(),
        },
        ..default
    };
    if cache {
        (config.wan_weight, config.upload_slots, config.store.quota) = (WanWeight::Fixed(64), 32, Size(200 << 30));
    }
    Ok(config)
}

type Enrolment = (Vec<u8>, Vec<u8>, Vec<String>);

/// Connects, spends the secret, and fetches the root.
async fn enrol(
    host: &Host,
    events: &mut tokio::sync::mpsc::Receiver<HostEvent>,
    token: &JoinToken,
    args: &JoinArgs,
    config: &Config,
) -> Result<Enrolment, CliError> {
    let coordinator = token.coordinator;
    let mut reasons = Vec::new();
    for address in &token.addresses {
        host.dial(address.to_string()).await;
    }
    let role = if args.role == RoleArg::Cache { NodeRole::Cache } else { NodeRole::Node };
    let ended = || CliError::Failed(anyhow!("the network part ended unexpectedly"));
    let (certificate, origins) = loop {
        match events.recv().await.ok_or_else(ended)? {
            HostEvent::PeerUp { peer, .. } if peer == coordinator => {
                let enrol = Message::Enrol {
                    version: wire::VERSION,
                    secret: token.secret,
                    role,
                    label: config.label_or_host(),
                };
                host.send(coordinator, enrol.encode().context("cannot encode the enrolment")?).await;
            }
            HostEvent::PeerUp { peer, .. } => host.disconnect(peer, "not the coordinator".into()).await,
            HostEvent::Frame { peer, bytes } if peer == coordinator => match Message::decode(&bytes) {
                Ok(Message::Enrolled { certificate, origins, .. }) => {
                    let origins = origins.iter().map(|origin| origin.to_string()).collect();
                    break (certificate.into_vec(), origins);
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
                reasons.push(format!("{address}: {reason}"));
                if reasons.len() >= token.addresses.len() {
                    let text = format!("the coordinator cannot be reached ({}); is it running?", reasons.join("; "));
                    return Err(CliError::Failed(anyhow!(text)));
                }
            }
            _ => {}
        }
    };
    let fetched = host.fetch_block(coordinator, BlockWhat::Doc(token.root), Kind::Root.cap());
    // The host's events must be taken while it works.
    let root = tokio::select! {
        root = fetched => root,
        () = async { while events.recv().await.is_some() {} } => return Err(ended()),
    };
    let root = root.map_err(|error| CliError::Failed(anyhow!("the coordinator does not give its root: {error:?}")))?;
    Ok((root, certificate, origins))
}

/// Hands a directory over to the user that the node runs as. What is in it was made by this process a moment ago.
fn give(path: &Path, owner: u32) -> anyhow::Result<()> {
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            give(&entry?.path(), owner)?;
        }
    }
    std::os::unix::fs::lchown(path, Some(owner), None)
        .with_context(|| format!("cannot make user {owner} the owner of {}", path.display()))
}

/// The directory holds a private key.
fn private(dir: &Path) -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot make {} private", dir.display()))?;
    }
    Ok(())
}
