//! Runs a scenario and prints what it measured.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use upswarm_simulations::scenario::{self, Figures};
use upswarm_simulations::world::Params;

/// Simulates one office on the state machines that ship.
#[derive(Debug, Parser)]
struct Args {
    /// Machines.
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// Seed of everything random; the same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mebibytes of the payload.
    #[arg(long, default_value_t = 256)]
    mib: u64,
    /// Megabits per second of the WAN.
    #[arg(long, default_value_t = 100)]
    wan: u64,
    /// With a branch cache.
    #[arg(long)]
    cache: bool,
    /// What happens: running or cold.
    #[arg(long, default_value = "running")]
    scenario: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Print alarms and frames by kind.
    #[arg(long)]
    verbose: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let params = Params {
        nodes: args.nodes,
        seed: args.seed,
        wan: args.wan * 1_000_000,
        cache: args.cache,
        ..Params::default()
    };
    let start = Instant::now();
    let (mut world, download) = match args.scenario.as_str() {
        "running" => scenario::running(params, args.mib)?,
        "cold" => scenario::cold(params, args.mib)?,
        other => bail!("no scenario {other}"),
    };
    scenario::reported(&mut world, download.published.id)?;
    let figures = download.figures(&args.scenario, &world);
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print(&figures, seconds);
    }
    if args.verbose {
        println!(
            "{:#?}\n{:?}\n{:?}",
            world.counts.alarms,
            world.counts.kinds,
            (world.counts.rumours, world.counts.gossip, world.counts.inputs)
        );
    }
    Ok(())
}

fn print(f: &Figures, seconds: f64) {
    println!("{f:#?}");
    println!("{seconds:.1} s, {:.0} events/s", f.events as f64 / seconds);
}
