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

#[expect(
    clippy::disallowed_methods,
    reason = "tells how fast the simulation itself is; no simulated thing sees this clock"
)]
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
        println!("alarms: {:#?}\nframes: {:?}", world.counts.alarms, world.counts.kinds);
    }
    Ok(())
}

fn print(f: &Figures, seconds: f64) {
    let rows = [
        ("WAN bytes / payload bytes", format!("{:.4}", f.amplification)),
        ("time / time the WAN needs", format!("{:.3}", f.makespan)),
        ("installed, half / 99 in 100", format!("{:.2} s / {:.2} s", f.p50, f.p99)),
        ("control and gossip per machine", format!("{:.0} KiB in {:.0} messages", f.control_kib, f.control_messages)),
        ("chunks in vain per machine", format!("{:.1}", f.duplicates)),
        ("connections, mean / most", format!("{:.1} / {}", f.connections.0, f.connections.1)),
        ("dials per machine", format!("{:.1}", f.dials)),
        ("reports per machine, made / arrived", format!("{:.1} / {:.1}", f.reports.0, f.reports.1)),
        ("timeouts per machine and second", format!("{:.1}", f.timeouts)),
        ("events", format!("{} in {seconds:.1} s: {:.0} per second", f.events, f.events as f64 / seconds)),
        ("trace", format!("{:016x}", f.trace)),
    ];
    println!("{}, {} machines, seed {}, {:.1} s simulated", f.scenario, f.nodes, f.seed, f.simulated);
    for (name, value) in rows {
        println!("  {name:<38}{value}");
    }
}
