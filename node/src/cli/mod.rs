//! The command line: a verb is a file with its `Args`.

mod admin;
mod alarms;
mod approve;
mod console;
pub(crate) mod coordinator;
mod defer;
mod demo;
mod device;
mod doctor;
mod examples;
mod explain;
mod export;
mod group;
mod hold;
mod installer;
mod inventory;
mod limit;
mod login;
mod manual;
mod missing;
mod node;
mod node_status;
mod output;
mod paths;
mod preview;
mod profile;
mod progress;
mod publish;
mod release;
mod report;
mod retry;
mod root;
mod rule;
mod scan;
mod severity;
mod sign;
mod snapshot;
mod status;
mod sync;
mod token;
mod top;
mod updates;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::output::Format;
use crate::error::CliError;

/// What is logged unless UPSWARM_LOG says otherwise. Gossip warns of everyday things, but not where it gives up a stream.
const LOG: &str = "warn,upswarm=info,libp2p_gossipsub=error,libp2p_gossipsub::handler=warn";

/// What every verb takes.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Common {
    /// Print one JSON object last on standard output instead of text; short for --output json.
    #[arg(long, global = true, conflicts_with = "output")]
    json: bool,
    /// How the result is printed; csv is for verbs that list something.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

impl Common {
    fn format(self) -> Format {
        if self.json { Format::Json } else { self.output.unwrap_or_default() }
    }

    /// Whether a program reads what is printed.
    pub(crate) fn is_json(self) -> bool {
        self.format() == Format::Json
    }

    /// Prints a result: the JSON object with `--json`, else the text.
    pub(crate) fn print(self, value: &impl serde::Serialize, text: &str) {
        output::print(self.format(), value, text);
    }

    /// Prints a value that is JSON by itself.
    pub(crate) fn print_json(self, value: &impl serde::Serialize) {
        output::print(Format::Json, value, "");
    }

    /// Prints a list: text, JSON, or the table as CSV.
    fn list(
        self,
        value: &impl serde::Serialize,
        table: &output::Table,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        output::list(self.format(), value, table, text)
    }

    /// Whether progress bars make sense: a person watches.
    pub(crate) fn shows_progress(self) -> bool {
        !self.is_json() && std::io::stderr().is_terminal()
    }
}

/// Peer-to-peer software-update distribution: one copy of each byte over a site's WAN link.
#[derive(Debug, Parser)]
#[command(name = "upswarm", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Set up and run the admin's coordinator, and invite machines.
    Coordinator(coordinator::Args),
    /// Join and run an office machine or a branch cache.
    Node(node::Args),
    /// Run the small process of root's that installs for a node without rights.
    Installer(installer::Args),
    /// Sign a release and give it, with its payloads, to the coordinator.
    Publish(publish::Args),
    /// Sign the decision to install or uninstall a release in a group.
    Approve(Box<approve::Args>),
    /// Decline a release in a group, and retire an earlier approval of it.
    Decline(approve::DeclineArgs),
    /// Let an approved release begin now, whatever its schedule says.
    Expedite(approve::ExpediteArgs),
    /// Hold everything, a group, a release, or a release in a group.
    Pause(hold::Args),
    /// Let go on what was paused, or has stopped by itself.
    Resume(hold::ResumeArgs),
    /// Have machines try again what failed there, or waits.
    Retry(retry::Args),
    /// Set how much of the WAN a site may use.
    Limit(limit::Args),
    /// Approve releases of some kind as soon as they are published.
    Rule(rule::Args),
    /// List groups, make them, and put machines into them.
    Group(group::Args),
    /// List releases, show one, take one back.
    Release(release::Args),
    /// Show the root of trust, renew it, and change who signs what.
    Root(Box<root::Args>),
    /// Sign a request that was exported, away from the coordinator.
    Sign(sign::SignArgs),
    /// Hand in what was signed elsewhere.
    Submit(sign::SubmitArgs),
    /// List the machines that were let in, let go of one, and shut one out.
    Device(device::Args),
    /// List the join tokens that are about, and take one back.
    Token(token::Args),
    /// Serve the console on this machine: pages for a browser.
    Console(console::Args),
    /// Remember a coordinator on another machine.
    Login(login::Args),
    /// Show how the fleet stands: by release, devices on demand.
    Status(status::Args),
    /// List what an admin should look at, and say that somebody has.
    Alarms(alarms::Args),
    /// Show what is installed on the machines.
    Inventory(inventory::Args),
    /// Show releases that machines need and do not have.
    Missing(missing::Args),
    /// Show what was so over time: compliance, rollouts, CVEs, bytes saved, approvals.
    Report(report::Args),
    /// Show what machines miss of their repositories, by source package.
    Updates(updates::Args),
    /// Add repositories of distributions and vendors, and bring them up to date.
    Sync(sync::Args),
    /// Say why an update is not installed here, why a peer is not used, and where each byte came from.
    Explain(explain::Args),
    /// Put an install or a pending restart on this machine off for a while.
    Defer(defer::Args),
    /// Watch this machine's node: deployments, payloads, leases, peers, members of its site.
    Top(top::Args),
    /// Show what is installed on this machine.
    Scan(scan::Args),
    /// Check a coordinator or a node, and say what to do about what is not right.
    Doctor(doctor::Args),
    /// Write a static origin that any web server can serve.
    Export(export::Args),
    /// Run a whole site on this machine and watch an update reach it.
    Demo(demo::Args),
    /// Print what makes a shell complete upswarm's command line.
    Completions(manual::CompletionsArgs),
    /// Write a manual page for every verb.
    #[command(hide = true)]
    Man(manual::ManArgs),
}

/// Parses the command line and runs the verb.
pub(crate) fn main() -> ExitCode {
    let cli = parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    // One provider for every TLS connection of the process; a second install would be the only error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("UPSWARM_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG)),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let common = cli.common;
    let result = execute(cli);
    let (code, kind) = match &result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(CliError::Refused(_)) => (3, "refused"),
        Err(CliError::Failed(_)) => (1, "failed"),
    };
    if let Err(error) = result {
        eprintln!("upswarm: {}", output::clean(&error.to_string()));
        if common.is_json() {
            println!("{}", serde_json::json!({ "error": kind, "reason": error.to_string() }));
        }
    }
    ExitCode::from(code)
}

fn parse(line: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = paths::absolute(examples::handed_down(Cli::command()));
    let mut matches = command.try_get_matches_from_mut(line)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

fn execute(cli: Cli) -> Result<(), CliError> {
    let common = cli.common;
    match cli.verb {
        Verb::Coordinator(args) => coordinator::run(args, common),
        Verb::Node(args) => node::run(args, common),
        Verb::Installer(args) => installer::run(args, common),
        Verb::Publish(args) => publish::run(args, common),
        Verb::Approve(args) => approve::run(*args, common),
        Verb::Decline(args) => approve::decline(args, common),
        Verb::Expedite(args) => approve::expedite(args, common),
        Verb::Pause(args) => hold::pause(args, common),
        Verb::Resume(args) => hold::resume(args, common),
        Verb::Retry(args) => retry::run(args, common),
        Verb::Limit(args) => limit::run(args, common),
        Verb::Rule(args) => rule::run(args, common),
        Verb::Group(args) => group::run(args, common),
        Verb::Release(args) => release::run(args, common),
        Verb::Root(args) => root::run(*args, common),
        Verb::Sign(args) => sign::sign(args, common),
        Verb::Submit(args) => sign::submit(args, common),
        Verb::Device(args) => device::run(args, common),
        Verb::Token(args) => token::run(args, common),
        Verb::Console(args) => console::run(args, common),
        Verb::Login(args) => login::run(args, common),
        Verb::Status(args) => status::run(args, common),
        Verb::Alarms(args) => alarms::run(args, common),
        Verb::Inventory(args) => inventory::run(args, common),
        Verb::Missing(args) => missing::run(args, common),
        Verb::Report(args) => report::run(args, common),
        Verb::Updates(args) => updates::run(args, common),
        Verb::Sync(args) => sync::run(args, common),
        Verb::Explain(args) => explain::run(args, common),
        Verb::Defer(args) => defer::run(args, common),
        Verb::Top(args) => top::run(args, common),
        Verb::Scan(args) => scan::run(args, common),
        Verb::Doctor(args) => doctor::run(&args, common),
        Verb::Export(args) => export::run(args, common),
        Verb::Demo(args) => demo::run(args, common),
        Verb::Completions(args) => {
            manual::completions(&args, examples::handed_down(Cli::command()));
            Ok(())
        }
        Verb::Man(args) => manual::man(&args, examples::handed_down(Cli::command()), common),
    }
}

/// Runs a command line inside a test; the program's name is left out.
#[cfg(test)]
pub(crate) fn try_run(args: &[&str]) -> Result<(), CliError> {
    let line = std::iter::once("upswarm").chain(args.iter().copied()).map(OsString::from);
    execute(parse(line).unwrap_or_else(|error| panic!("{error}")))
}

/// A runtime for a verb that talks to the network.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// A runtime for an office machine, which should be felt by nobody: one thread, so that messages do not wake a second core for
/// every step on their way; hashing and disk have threads of their own.
pub(crate) fn quiet_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().max_blocking_threads(4).build()?)
}
