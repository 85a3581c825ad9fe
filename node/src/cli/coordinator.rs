use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;
use upswarm_protocol::codec::Text;
use upswarm_protocol::coordinator::{Command, CoordinatorState, Input, Output};

use super::admin::{AdminArgs, offline_keys};
use super::{CliError, Common};
use crate::api::invites::{InviteRequest, Invited};
use crate::clock::Clock;
use crate::coordinator::database_setting::{self, DatabaseSetting};
use crate::coordinator::directory::{Change, Directory, Lock};
use crate::coordinator::keys::{self, KeyUse, Passphrase};
use crate::coordinator::setup::Offline;
use crate::coordinator::token::JoinToken;
use crate::coordinator::{admin, run, setup};
use crate::net;
use crate::units;

/// Where machines connect, and where the origin listens, unless the admin says otherwise.
const PORT: u16 = 4701;
const HTTP_PORT: u16 = 4702;
const EVERY_INTERFACE: [&str; 2] = ["/ip4/0.0.0.0", "/ip6/::"];

const INIT_EXAMPLE: &str = "\
EXAMPLE:
  upswarm coordinator init --data-dir /var/lib/upswarm-coordinator
  upswarm coordinator init --data-dir /tmp/try --demo-keys";

const RUN_EXAMPLE: &str = "\
EXAMPLE:
  upswarm coordinator run --data-dir /var/lib/upswarm-coordinator
  upswarm coordinator run --data-dir /var/lib/upswarm-coordinator --origin-url http://updates.example.org:4702/
  upswarm coordinator run --data-dir /var/lib/upswarm-coordinator --console 127.0.0.1:4704
  upswarm coordinator run --data-dir /var/lib/upswarm-coordinator --database postgres://upswarm@127.0.0.1/upswarm

The origin speaks plain HTTP: everything that machines fetch is verified by signature and hash. The admin API has doors of its
own: a socket in the data directory for verbs on this machine, and with --admin IP:PORT one with TLS for others, which log in with
upswarm login.";

const INVITE_EXAMPLE: &str = "\
EXAMPLE:
  upswarm coordinator invite --uses 20
  upswarm coordinator invite --data-dir /var/lib/upswarm-coordinator --uses 20
  upswarm coordinator invite --data-dir /var/lib/upswarm-coordinator --group office --site berlin --ttl 2h --uses 20

Each machine then runs: upswarm node join TOKEN --data-dir DIR";

const STANDBY_EXAMPLE: &str = "\
EXAMPLE:
  upswarm coordinator standby-keys
  upswarm root rotate online

The key counts for nothing until a root names it. Online keys that an earlier root named, and today's does not, are taken away.";

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
    /// Make an online key that can take the place of the one in use, and print it.
    StandbyKeys(StandbyArgs),
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
    /// Who will hold a root key; given three times, one for each. Thresholds count persons, not keys. Without it the keys are
    /// named root-1 to root-3 until `upswarm root holder` names somebody.
    #[arg(long, value_name = "NAME", conflicts_with = "demo_keys")]
    holder: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = RUN_EXAMPLE)]
struct RunArgs {
    /// The coordinator's data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where machines connect, for example 192.0.2.7:4701 or /ip4/192.0.2.7/tcp/4701; may be repeated. Without it, port 4701
    /// on every interface.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Where the origin listens, for example 192.0.2.7:4702. Without it, port 4702 on every interface.
    #[arg(long, value_name = "IP:PORT")]
    http: Option<SocketAddr>,
    /// Base URL at which machines reach an origin, best first. Without it, the --http address, or this machine's addresses as
    /// they are at the start.
    #[arg(long, value_name = "URL")]
    origin_url: Vec<String>,
    /// Network that may fetch from the origin, for example 10.0.0.0/8; may be repeated. Without it, everyone.
    #[arg(long, value_name = "CIDR")]
    origin_allow: Vec<ipnet::IpNet>,
    /// Where the admin API listens for admins on other machines, by TLS, for example 192.0.2.7:4703. Without it, verbs run on
    /// this machine only.
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
    /// Serve the console, pages for a browser, on this loopback address, for example 127.0.0.1:4704. It prints a link that lets
    /// one browser in; the next one is in the file console-link of the data directory.
    #[arg(long, value_name = "IP:PORT")]
    console: Option<SocketAddr>,
    /// Hold the origin's payload bytes to this rate, for example 100mbit; without it, no limit.
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    origin_rate: Option<u64>,
    /// The clock is right, although it differs from the last signature or was set far while the coordinator ran.
    #[arg(long)]
    accept_clock: bool,
    /// Keep the fleet in this PostgreSQL database, for example postgres://upswarm@db.example.org/upswarm, or with `sqlite` in a
    /// file of the data directory, as at first. It is remembered. The password comes from UPSWARM_DATABASE_PASSWORD or a file.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// File whose first line is the database's password; remembered with --database.
    #[arg(long, value_name = "FILE", requires = "database")]
    database_password_file: Option<PathBuf>,
    /// How many days of history are kept; older days are added up.
    #[arg(long, value_name = "DAYS", default_value_t = run::HISTORY_DAYS, value_parser = clap::value_parser!(u32).range(1..=3660))]
    history_days: u32,
}

#[derive(Debug, clap::Args)]
#[command(after_help = STANDBY_EXAMPLE)]
struct StandbyArgs {
    /// The coordinator's data directory; it may be running. Without it, the profile's.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = INVITE_EXAMPLE)]
struct InviteArgs {
    /// The coordinator's data directory; without it, the profile's coordinator.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Group that the machines join. The first one is made by inviting for it, others by `upswarm group add`.
    #[arg(long, default_value = "everyone")]
    group: String,
    /// Site of the machines: who shares a LAN and one WAN link; made up at its first mention.
    #[arg(long, default_value = "main")]
    site: String,
    /// How long the token is good, for example 30m, 2h or 7d.
    #[arg(long, default_value = "1h", value_parser = units::duration)]
    ttl: std::time::Duration,
    /// How many machines it lets in.
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// Address at which the machines reach the coordinator, if it is not one on which it listens, for example
    /// updates.example.org:4701; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<String>,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Init(args) => init(args, common),
        Verb::Run(args) => serve(args),
        Verb::Invite(args) => invite(args, common),
        Verb::StandbyKeys(args) => standby_keys(&args, common),
    }
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
    let keys = Offline { dir: &offline, passphrase: &passphrase, holders: &args.holder };
    let made = setup::init(&args.data_dir, Some(keys)).map_err(refused)?;
    let text = format!(
        "coordinator set up in {}\n\nThe offline keys (root: 2 of 3, publisher, approver) are in {}, encrypted.\nMove them off \
         this machine now, the root keys to separate places, and keep a copy. Publish and approve with --keys-dir DIR. Say who holds \
         which: upswarm root holder KEY NAME.",
        args.data_dir.display(),
        offline.display()
    );
    common.print(&json!({ "data_dir": args.data_dir, "root": made.root, "offline_keys": made.offline_keys }), &text);
    Ok(())
}

fn standby_keys(args: &StandbyArgs, common: Common) -> Result<(), CliError> {
    let refused = |error: anyhow::Error| CliError::Refused(format!("{error:#}"));
    let data_dir = AdminArgs::of_directory(args.data_dir.clone()).data_dir()?;
    let directory = Directory::existing(&data_dir).map_err(refused)?;
    let removed = directory.drop_removed_keys().map_err(refused)?;
    let (path, key) = keys::make(&directory.keys(), KeyUse::Online, None).map_err(refused)?;
    let json = json!({ "key": key, "file": path, "removed": removed });
    common.print(
        &json,
        &format!("{key}\nstands by in {}; let the root name it: upswarm root rotate online", path.display()),
    );
    Ok(())
}

fn serve(args: RunArgs) -> Result<(), CliError> {
    let directory = Directory::existing(&args.data_dir).map_err(|error| CliError::Refused(format!("{error:#}")))?;
    let listen = args.listen.iter().map(|address| net::multiaddr(address)).collect::<Result<Vec<_>, _>>();
    let mut listen = listen.map_err(|error| CliError::Refused(format!("--listen: {error:#}")))?;
    if listen.is_empty() {
        listen = EVERY_INTERFACE.map(|ip| format!("{ip}/tcp/{PORT}")).into();
    }
    let every = if net::has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
    let http = args.http.unwrap_or_else(|| SocketAddr::new(every, HTTP_PORT));
    let options = run::Options {
        listen,
        http,
        origin_allow: args.origin_allow,
        admin: args.admin,
        origins: args.origin_url,
        origin_rate: args.origin_rate,
        accept_clock: args.accept_clock,
        database: args.database.map(|url| DatabaseSetting { url, password_file: args.database_password_file }),
        history_days: args.history_days,
    };
    let (data_dir, place) = (args.data_dir, args.console);
    let beside = async move |stop| match place {
        Some(listen) => super::console::beside_coordinator(&data_dir, listen, stop).await,
        None => Ok(()),
    };
    super::runtime()?.block_on(run::run(directory, options, beside))
}

fn invite(args: InviteArgs, common: Common) -> Result<(), CliError> {
    let addresses = args.address.iter().map(|address| net::dialled(address)).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.map_err(|error| CliError::Refused(format!("--address: {error:#}")))?;
    let (group, site, uses) = (args.group.clone(), args.site.clone(), args.uses);
    let request =
        InviteRequest { group: args.group, site: args.site, ttl_s: args.ttl.as_secs(), uses: args.uses, addresses };
    let admin = AdminArgs::of_directory(args.data_dir);
    let refused = |error: anyhow::Error| CliError::Refused(format!("{error:#}"));
    let directory = admin.directory()?.map(|dir| Directory::existing(&dir)).transpose().map_err(refused)?;
    let lock = directory.as_ref().map(Directory::lock).transpose()?.flatten();
    let invited = match (&directory, &lock) {
        (Some(directory), Some(lock)) => invite_offline(directory, &request, lock)?,
        _ => super::runtime()?.block_on(admin.client()?.invite(&request))?,
    };
    let origins = directory.as_ref().map(Directory::origins).transpose()?.unwrap_or_default();
    let token = JoinToken::parse(&invited.token).context("reading the token")?;
    let addresses: Vec<String> = token.addresses.iter().map(|address| address.to_string()).collect();
    let warnings = of_use_here_only(&addresses, &origins);
    warnings.iter().for_each(|warning| eprintln!("WARNING: {warning}"));
    let json = json!({
        "token": invited.token, "expires": invited.expires, "addresses": addresses, "warnings": warnings,
    });
    if !common.is_json() {
        // The token alone is the output, so that scripts can take it.
        let machines = crate::text::count(uses as usize, "machine", "machines");
        eprintln!(
            "for {machines} in group {group} at site {site}, until {}; on the machine: upswarm node join TOKEN",
            invited.expires
        );
    }
    common.print(&json, &invited.token);
    Ok(())
}

/// Invites without a running coordinator, which will let the machines in once it runs. The lock keeps it from starting.
fn invite_offline(directory: &Directory, request: &InviteRequest, _lock: &Lock) -> Result<Invited, CliError> {
    let told = super::runtime()?.block_on(database_setting::told(directory))?;
    let mut loaded = directory.load(directory.origins()?, told)?;
    let known = directory.run_info().map(|info| info.listen).unwrap_or_default();
    let addresses = if request.addresses.is_empty() { &known } else { &request.addresses };
    let identity = (loaded.setup.device, loaded.setup.root_hash);
    let clock = Clock::start();
    let refused = |refusal: upswarm_protocol::coordinator::Refusal| CliError::Refused(refusal.to_string());
    let (invite, invited) =
        admin::invite::invite(&mut loaded.names, request, addresses, directory.origins()?, identity, clock.now().wall)
            .map_err(refused)?;
    directory.apply(&[Change::Put(directory.names(), loaded.names.to_bytes())])?;
    let mut state = CoordinatorState::new(loaded.setup, clock.now()).context("starting from the data directory")?;
    directory.settle(&mut state, clock.now())?;
    state.handle_input(Input::Admin { request: 0, command: Command::Invite(invite) }, clock.now());
    for answer in directory.settle(&mut state, clock.now())? {
        if let Output::Answer { result, .. } = answer {
            result.map_err(refused)?;
        }
    }
    Ok(invited)
}

/// What keeps a token from being of use on another machine, in words for the admin.
fn of_use_here_only(addresses: &[String], origins: &[Text<512>]) -> Vec<String> {
    let mut warnings = Vec::new();
    if addresses.iter().all(|address| net::is_loopback(address)) {
        warnings.push(
            "this token can be used on this machine only: the coordinator listens on loopback alone. Run it with --listen \
             0.0.0.0:4701, or name the address at which machines reach it: --address HOST:PORT"
                .to_owned(),
        );
    } else if addresses.iter().all(|address| net::is_link_local(address)) {
        warnings.push(
            "this token can be used on this LAN only: the coordinator has nothing but link-local IPv6 addresses. Machines elsewhere \
             need an address with a wider reach: --address HOST:PORT"
                .to_owned(),
        );
    }
    let here = |url: &Text<512>| {
        let host = url.split("://").nth(1).unwrap_or_default();
        ["127.", "[::1]", "localhost"].iter().any(|loopback| host.starts_with(loopback))
    };
    if !origins.is_empty() && origins.iter().all(here) {
        warnings.push(format!(
            "machines elsewhere can join and fetch nothing: {} leads back to themselves. Run the coordinator with --http \
             0.0.0.0:4702, or name the URL at which they reach it: --origin-url http://HOST:4702",
            origins.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
    warnings
}
