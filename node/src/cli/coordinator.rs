use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use upswarm_protocol::codec::Text;
use upswarm_protocol::coordinator_state::{Command, CoordinatorState, Input, Output};

use super::{CliError, Common, units};
use crate::coordinator::client::Client;
use crate::coordinator::directory::{Change, Clock, Directory, Lock};
use crate::coordinator::driver;
use crate::coordinator::keys::Passphrase;
use crate::coordinator::requests::{InviteRequest, Invited};
use crate::coordinator::{run, setup};

const INIT_EXAMPLE: &str = "\
EXAMPLE:
  upswarm coordinator init --data-dir /var/lib/upswarm-coordinator
  upswarm coordinator init --data-dir /tmp/try --demo-keys";

const RUN_EXAMPLE: &str = "\
EXAMPLE:
  upswarm coordinator run --data-dir /var/lib/upswarm-coordinator \\
      --listen /ip4/0.0.0.0/tcp/4701 --http 0.0.0.0:4702 --origin-url http://updates.example.org:4702/

The HTTP server is the origin of payloads and, under /admin, the admin API, which asks for the token in DATA-DIR/admin.token.
It speaks plain HTTP: everything that machines fetch is verified by signature and hash. Run admin verbs on this machine, or
put a TLS proxy in front.";

const INVITE_EXAMPLE: &str = "\
EXAMPLE:
  upswarm coordinator invite --data-dir /var/lib/upswarm-coordinator --group office --site berlin --ttl 2h --uses 20

Each machine then runs: upswarm node join TOKEN --data-dir DIR";

/// Set up and run the admin's coordinator, and invite machines.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make the keys and the first root of trust.
    Init(InitArgs),
    /// Serve the fleet until interrupted.
    Run(RunArgs),
    /// Print a token with which machines join.
    Invite(InviteArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = INIT_EXAMPLE)]
struct InitArgs {
    /// Directory to set up; must be empty or not exist.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Keep all keys in the data directory, unencrypted: for demonstrations and tests only.
    #[arg(long, conflicts_with_all = ["keys_dir", "passphrase_file"])]
    demo_keys: bool,
    /// Where the encrypted offline keys go; without it, DATA-DIR-offline-keys.
    #[arg(long, value_name = "DIR")]
    keys_dir: Option<PathBuf>,
    /// File whose first line is the passphrase of the offline keys; else UPSWARM_PASSPHRASE, else you are asked.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = RUN_EXAMPLE)]
struct RunArgs {
    /// The coordinator's data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where machines connect, for example /ip4/0.0.0.0/tcp/4701; may be repeated.
    #[arg(long, value_name = "MULTIADDR", required = true)]
    listen: Vec<String>,
    /// Where the origin and the admin API listen, for example 0.0.0.0:4702.
    #[arg(long, value_name = "ADDR")]
    http: SocketAddr,
    /// Base URL at which machines reach an origin, best first; without it, the --http address.
    #[arg(long, value_name = "URL")]
    origin_url: Vec<String>,
    /// Hold the origin's payload bytes to this rate, for example 100mbit; without it, no limit.
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    origin_rate: Option<u64>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = INVITE_EXAMPLE)]
struct InviteArgs {
    /// The coordinator's data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Group that the machines join; made up at its first mention.
    #[arg(long)]
    group: String,
    /// Site of the machines: who shares a LAN and one WAN link; made up at its first mention.
    #[arg(long)]
    site: String,
    /// How long the token is good, for example 30m, 2h or 7d.
    #[arg(long, default_value = "1h", value_parser = units::duration)]
    ttl: std::time::Duration,
    /// How many machines it lets in.
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// Address at which the machines reach the coordinator, if it is not the one it listens on; may be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    address: Vec<String>,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Init(args) => init(args, common),
        Verb::Run(args) => serve(args),
        Verb::Invite(args) => invite(args, common),
    }
}

/// Where offline keys are looked for by default.
pub(super) fn offline_keys(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push("-offline-keys");
    data_dir.with_file_name(name)
}

fn init(args: InitArgs, common: Common) -> Result<(), CliError> {
    let refused = |error: anyhow::Error| CliError::Refused(format!("{error:#}"));
    if args.demo_keys {
        let made = setup::init(&args.data_dir, None).map_err(refused)?;
        eprintln!(
            "WARNING: demo keys. Whoever can read {} can publish and approve updates for every machine that trusts this \
             coordinator. Never use it for machines that matter.",
            made.offline_keys.display()
        );
        let text = format!("coordinator set up in {}", args.data_dir.display());
        common.print(&json!({ "data_dir": args.data_dir, "root": made.root, "demo_keys": true }), &text);
        return Ok(());
    }
    let passphrase = Passphrase::obtain(args.passphrase_file.as_deref(), true).map_err(refused)?;
    let offline = args.keys_dir.unwrap_or_else(|| offline_keys(&args.data_dir));
    let made = setup::init(&args.data_dir, Some((&offline, &passphrase))).map_err(refused)?;
    let text = format!(
        "coordinator set up in {}\n\nThe offline keys (root: 2 of 3, publisher, approver) are in {}, encrypted.\nMove them off \
         this machine now, the root keys to separate places, and keep a copy. Publish and approve with --keys-dir DIR.",
        args.data_dir.display(),
        offline.display()
    );
    common.print(&json!({ "data_dir": args.data_dir, "root": made.root, "offline_keys": made.offline_keys }), &text);
    Ok(())
}

fn serve(args: RunArgs) -> Result<(), CliError> {
    let directory = Directory::existing(&args.data_dir).map_err(|error| CliError::Refused(format!("{error:#}")))?;
    let options =
        run::Options { listen: args.listen, http: args.http, origins: args.origin_url, origin_rate: args.origin_rate };
    super::runtime()?.block_on(run::run(directory, options))
}

fn invite(args: InviteArgs, common: Common) -> Result<(), CliError> {
    let directory = Directory::existing(&args.data_dir).map_err(|error| CliError::Refused(format!("{error:#}")))?;
    let request = InviteRequest {
        group: args.group,
        site: args.site,
        ttl_s: args.ttl.as_secs(),
        uses: args.uses,
        addresses: args.address,
    };
    let invited = match directory.lock()? {
        Some(lock) => invite_offline(&directory, &request, &lock)?,
        None => {
            let client = Client::of(&args.data_dir)?;
            super::runtime()?.block_on(client.invite(&request))?
        }
    };
    common.print(&json!({ "token": invited.token, "expires": invited.expires }), &invited.token);
    Ok(())
}

/// Invites without a running coordinator, which will let the machines in once it runs. The lock keeps it from starting.
fn invite_offline(directory: &Directory, request: &InviteRequest, _lock: &Lock) -> Result<Invited, CliError> {
    let mut loaded = directory.load(directory.origins()?)?;
    let known = directory.run_info().map(|info| info.listen).unwrap_or_default();
    let addresses = if request.addresses.is_empty() { &known } else { &request.addresses };
    let identity = (loaded.setup.device, loaded.setup.root_hash);
    let clock = Clock::start();
    let refused = |refusal: upswarm_protocol::coordinator_state::Refusal| CliError::Refused(refusal.to_string());
    let (invite, invited) = driver::invite(&mut loaded.names, request, addresses, identity, clock).map_err(refused)?;
    directory.apply(&[Change::Put(directory.names(), loaded.names.to_bytes())])?;
    let mut state = CoordinatorState::new(loaded.setup, clock.now()).context("starting from the data directory")?;
    directory.settle(&mut state, &mut loaded.fleet, clock.now())?;
    state.handle_input(Input::Admin { request: 0, command: Command::Invite(invite) }, clock.now());
    for answer in directory.settle(&mut state, &mut loaded.fleet, clock.now())? {
        if let Output::Answer { result, .. } = answer {
            result.map_err(refused)?;
        }
    }
    Ok(invited)
}

/// An origin's base URL, checked.
pub(crate) fn origin_url(url: &str) -> Result<Text<512>, CliError> {
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(CliError::Refused(format!("the origin URL {url:?} is neither http:// nor https://")));
    }
    Text::new(url.trim_end_matches('/')).map_err(|error| CliError::Refused(format!("the origin URL: {error}")))
}
