//! The command line: a verb is a file with its `Args`.

mod approve;
pub(crate) mod coordinator;
mod decide;
mod defer;
mod demo;
mod explain;
mod export;
mod group;
mod hold;
mod installer;
mod inventory;
mod missing;
mod node;
mod node_status;
mod preview;
mod progress;
mod publish;
mod rule;
mod scan;
pub(crate) mod schedule;
mod status;
pub(crate) mod token;
mod top;
pub(crate) mod units;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What is logged unless UPSWARM_LOG says otherwise. Gossip warns of everyday things, but not where it gives up a stream.
const LOG: &str = "warn,upswarm=info,libp2p_gossipsub=error,libp2p_gossipsub::handler=warn";

/// How a verb can end without having done what it was asked for. Each has its exit code, so that scripts can tell them apart
/// (2 is a wrong call, as clap has it).
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The request is understood and not allowed, or its input is not acceptable: exit code 3.
    #[error("{0}")]
    Refused(String),
    /// Something that should have worked did not: exit code 1.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// What every verb takes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Common {
    /// Print one JSON object last on standard output instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Common {
    /// Prints a result: the JSON object with `--json`, else the text.
    pub(crate) fn print(self, json: &serde_json::Value, text: &str) {
        let mut out = std::io::stdout().lock();
        // A closed pipe is the reader's choice, not a failure of the verb.
        let _ = if self.json { writeln!(out, "{json}") } else { writeln!(out, "{text}") };
    }

    /// Whether progress bars make sense: a person watches.
    pub(crate) fn shows_progress(self) -> bool {
        !self.json && std::io::stderr().is_terminal()
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
    Decline(decide::DeclineArgs),
    /// Let an approved release begin now, whatever its schedule says.
    Expedite(decide::ExpediteArgs),
    /// Hold everything, a group, a release, or a release in a group.
    Pause(hold::Args),
    /// Let go on what was paused, or has stopped by itself.
    Resume(hold::ResumeArgs),
    /// Approve releases of some kind as soon as they are published.
    Rule(rule::Args),
    /// List groups, make them, and put machines into them.
    Group(group::Args),
    /// Show every device with its deployments.
    Status(status::Args),
    /// Show what is installed on the machines.
    Inventory(inventory::Args),
    /// Show releases that machines need and do not have.
    Missing(missing::Args),
    /// Say why an update is not installed here, why a peer is not used, and where each byte came from.
    Explain(explain::Args),
    /// Put an install or a pending restart on this machine off for a while.
    Defer(defer::Args),
    /// Watch this machine's node: deployments, payloads, leases, peers, members of its site.
    Top(top::Args),
    /// Show what is installed on this machine.
    Scan(scan::Args),
    /// Write a static origin that any web server can serve.
    Export(export::Args),
    /// Run a whole site on this machine and watch an update reach it.
    Demo(demo::Args),
}

/// Parses the command line and runs the verb.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
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
        eprintln!("upswarm: {error}");
        if common.json {
            println!("{}", serde_json::json!({ "error": kind, "reason": error.to_string() }));
        }
    }
    ExitCode::from(code)
}

fn execute(cli: Cli) -> Result<(), CliError> {
    let common = cli.common;
    match cli.verb {
        Verb::Coordinator(args) => coordinator::run(args, common),
        Verb::Node(args) => node::run(args, common),
        Verb::Installer(args) => installer::run(args, common),
        Verb::Publish(args) => publish::run(args, common),
        Verb::Approve(args) => approve::run(*args, common),
        Verb::Decline(args) => decide::decline(args, common),
        Verb::Expedite(args) => decide::expedite(args, common),
        Verb::Pause(args) => hold::pause(args, common),
        Verb::Resume(args) => hold::resume(args, common),
        Verb::Rule(args) => rule::run(args, common),
        Verb::Group(args) => group::run(args, common),
        Verb::Status(args) => status::run(args, common),
        Verb::Inventory(args) => inventory::run(args, common),
        Verb::Missing(args) => missing::run(args, common),
        Verb::Explain(args) => explain::run(args, common),
        Verb::Defer(args) => defer::run(args, common),
        Verb::Top(args) => top::run(args, common),
        Verb::Scan(args) => scan::run(args, common),
        Verb::Export(args) => export::run(args, common),
        Verb::Demo(args) => demo::run(args, common),
    }
}

/// Runs a command line inside a test; the program's name is left out.
#[cfg(test)]
pub(crate) fn try_run(args: &[&str]) -> Result<(), CliError> {
    execute(Cli::parse_from(std::iter::once("upswarm").chain(args.iter().copied())))
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

/// Completes when the user or the system asks the program to stop.
pub(crate) fn asked_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
