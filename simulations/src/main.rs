//! Runs a scenario and prints what it measured. Ends with an error when the scenario's promise was not kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use upswarm_simulations::hostile::{self, Job};
use upswarm_simulations::idle;
use upswarm_simulations::pause;
use upswarm_simulations::rollout;
use upswarm_simulations::scenario::{self, Figures, HostileFigures};
use upswarm_simulations::world::{Harm, KINDS, Params};

/// Simulates offices on the state machines that ship.
#[derive(Debug, Parser)]
struct Args {
    /// Sites, each with a WAN link of its own.
    #[arg(long, default_value_t = 1)]
    sites: usize,
    /// Machines of each site.
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// Seed of everything random; the same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mebibytes of the payload; 256, or 32 for pause.
    #[arg(long)]
    mib: Option<u64>,
    /// Megabits per second of each site's WAN; 100, or 10 for pause and hostile.
    #[arg(long)]
    wan: Option<u64>,
    /// With a branch cache in each site.
    #[arg(long)]
    cache: bool,
    /// What happens: running, cold, idle, pause, hostile; or rollout of an update that works (rollout), that fails on 3 of 100 models
    /// (rollout-fails), or that takes their machines down (rollout-silences).
    #[arg(long, default_value = "running")]
    scenario: String,
    /// For hostile: machines of a hundred that mean harm.
    #[arg(long, default_value_t = 30)]
    hostile: usize,
    /// For hostile: what they do; every kind in turn without it.
    #[arg(long)]
    kind: Option<String>,
    /// For rollouts: the share of failed and silent devices at which the coordinator stops, in hundredths of a percent.
    #[arg(long, default_value_t = 200)]
    stop_above: u16,
    /// For hostile: every kind and all together, with 10, 30 and 50 of a hundred, against the same sites without any.
    #[arg(long)]
    table: bool,
    /// For the table: seeds of each kind.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// For the table: seeds of all kinds together.
    #[arg(long, default_value_t = 100)]
    all_seeds: u64,
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
    let start = Instant::now();
    let params = |wan: u64| Params {
        sites: args.sites.max(1),
        nodes: args.nodes,
        seed: args.seed,
        wan: args.wan.unwrap_or(wan) * 1_000_000,
        cache: args.cache,
        ..Params::default()
    };
    let (mut world, download) = match args.scenario.as_str() {
        "running" => scenario::running(params(100), args.mib.unwrap_or(256))?,
        "cold" => scenario::cold(params(100), args.mib.unwrap_or(256))?,
        "idle" => {
            let figures = idle::run(params(100))?;
            print_idle(&args, &figures, start.elapsed().as_secs_f64())?;
            return figures.check();
        }
        "pause" => {
            let figures = pause::run(params(10), args.mib.unwrap_or(32))?;
            print_pause(&args, &figures, start.elapsed().as_secs_f64())?;
            return figures.check();
        }
        "hostile" => {
            let known = || KINDS.iter().map(|kind| (serde_json::to_value(kind).unwrap_or_default(), *kind));
            let kinds: Vec<_> = match &args.kind {
                Some(name) => known().filter(|(known, _)| known == name).map(|(_, kind)| kind).collect(),
                None => KINDS.to_vec(),
            };
            if kinds.is_empty() {
                bail!("no kind {:?}; there are {:?}", args.kind, known().map(|(name, _)| name).collect::<Vec<_>>());
            }
            let mib = args.mib.unwrap_or(16);
            if args.table {
                let jobs = hostile::jobs(&kinds, args.seeds, args.all_seeds);
                let table = hostile::table(&params(10), mib, &jobs, &run_all(&params(10), mib, &jobs));
                print_hostile(&args, &table, start.elapsed().as_secs_f64())?;
                return table.check();
            }
            let (world, figures) = scenario::hostile(params(10), mib, args.hostile, &kinds);
            println!("{}", serde_json::to_string(&figures)?);
            if args.verbose {
                println!("alarms: {:#?}\nframes: {:?}", world.counts.alarms, world.counts.kinds.values());
            }
            if !figures.completed {
                bail!("not every honest machine has installed the release");
            }
            return Ok(());
        }
        "rollout" | "rollout-fails" | "rollout-silences" => {
            let harm = match args.scenario.as_str() {
                "rollout-fails" => Some(Harm::Fails),
                "rollout-silences" => Some(Harm::Silences),
                _ => None,
            };
            let figures = rollout::run(params(100), harm, args.stop_above)?;
            print_rollout(&args, &figures, start.elapsed().as_secs_f64())?;
            return figures.check();
        }
        other => bail!("no scenario {other}"),
    };
    scenario::reported(&mut world, download.published.id)?;
    let figures = download.figures(&args.scenario, &world);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print(&figures, start.elapsed().as_secs_f64());
    }
    if args.verbose {
        println!("alarms: {:#?}\nframes: {:?}", world.counts.alarms, world.counts.kinds.values());
    }
    Ok(())
}

/// Runs worlds beside each other, one on each core.
fn run_all(params: &Params, mib: u64, jobs: &[Job]) -> Vec<HostileFigures> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        while let Some((at, job)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, jobs.get(at)?)))
        {
            let figures = job.run(params, mib);
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, figures);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
        work();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
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
        ("events", events(f.events, seconds)),
        ("trace", format!("{:016x}", f.trace)),
    ];
    println!("{}, {} machines, seed {}, {:.1} s simulated", f.scenario, f.nodes, f.seed, f.simulated);
    table(&rows);
}

fn print_pause(args: &Args, f: &pause::Figures, seconds: f64) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(f)?);
        return Ok(());
    }
    let rows = [
        ("connected to the coordinator", f.uplinks.to_string()),
        ("before the pause", format!("{:?}", f.before)),
        ("on hold, half / last machine", format!("{:.2} s / {:.2} s", f.paused_half, f.paused_last)),
        ("the coordinator knows it of the last", format!("{:.2} s", f.paused_told)),
        (
            "stayed on hold",
            format!("{:.0} s: {} installs, {} bytes", f.held, f.installs_while_held, f.bytes_while_held),
        ),
        ("goes on after the resume, last", format!("{:.2} s", f.resumed_last)),
        ("installed after the resume, last", format!("{:.2} s", f.installed_last)),
        ("WAN bytes / payload bytes of a site", format!("{:.4}", f.copies_per_site)),
        ("events", events(f.events, seconds)),
    ];
    println!("pause, {} machines in {} sites, seed {}, {:.1} s simulated", f.machines, f.sites, f.seed, f.simulated);
    table(&rows);
    Ok(())
}

fn print_idle(args: &Args, f: &idle::Figures, seconds: f64) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(f)?);
        return Ok(());
    }
    let rows = [
        ("all know each other after", format!("{:.1} s", f.known)),
        (
            "control and gossip a machine, mean / most",
            format!("{:.0} / {:.0} bytes a second", f.bytes_per_second, f.most_bytes_per_second),
        ),
        ("timeouts / inputs a machine and second", format!("{:.2} / {:.2}", f.timeouts, f.inputs)),
        ("a newcomer knows the site / is known", format!("{:.2} s / {:.2} s", f.newcomer_knows, f.newcomer_known)),
        ("missed by all: killed / unplugged", format!("{:.1} s / {:.1} s", f.killed_missed, f.unplugged_missed)),
        ("events", events(f.events, seconds)),
    ];
    println!("idle, {} machines, seed {}, {:.1} s simulated", f.nodes, f.seed, f.simulated);
    table(&rows);
    Ok(())
}

fn print_hostile(args: &Args, table: &hostile::Table, seconds: f64) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(table)?);
        return Ok(());
    }
    println!("{} machines, {} MiB, {} Mbit/s, {seconds:.0} s", table.nodes, table.mib, table.mbits);
    println!("hostile  kind      runs  completed  copies: mean / most  time / honest: mean / most  bans");
    for row in &table.rows {
        println!(
            "{:>5} %  {:<8} {:>5}  {:>9}  {:>12.4} / {:.4}  {:>19.3} / {:.3}  {:>5.0}",
            row.percent,
            row.kind,
            row.runs,
            row.completed,
            row.copies.0,
            row.copies.1,
            row.time.0,
            row.time.1,
            row.bans,
        );
    }
    Ok(())
}

fn print_rollout(args: &Args, f: &rollout::Figures, seconds: f64) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(f)?);
        return Ok(());
    }
    let stop = f.stop.as_ref().map_or("never".to_owned(), |stop| {
        format!(
            "after {:.0} s in ring {}: {} done, {} failed, {} silent",
            stop.after, stop.ring, stop.done, stop.failed, stop.silent
        )
    });
    let resumed = f.resumed.map_or("no".to_owned(), |(after, begun)| {
        format!("{begun} more devices began, until it stopped again or for {after:.0} s")
    });
    let rows = [
        ("switched off at the beginning", f.off.to_string()),
        ("of the bad models", format!("{} devices, {:?}", f.affected, f.harm)),
        ("stops above", format!("{:.2} %", f64::from(f.stop_above) / 100.0)),
        ("stopped", stop),
        ("begun when the plan had run its time", format!("{:.2} % of all devices", f.begun)),
        ("harmed by then", format!("{:.2} % of all, {:.2} % of the bad models", f.harmed, f.harmed_of_affected)),
        ("began before their ring / after the stop", format!("{} / {}", f.begun_too_early, f.begun_after_stop)),
        ("switched on later, began unaware", f.begun_unaware.to_string()),
        ("resumed", resumed),
        ("installed at the end", f.installed.to_string()),
        ("events", events(f.events, seconds)),
    ];
    let (scenario, hours) = (&args.scenario, f.simulated / 3600.0);
    println!("{scenario}, {} devices in {} sites, seed {}, {hours:.1} h simulated", f.machines, f.sites, f.seed);
    table(&rows);
    Ok(())
}

fn events(events: u64, seconds: f64) -> String {
    format!("{events} in {seconds:.1} s: {:.0} per second", events as f64 / seconds)
}

fn table(rows: &[(&str, String)]) {
    for (name, value) in rows {
        println!("  {name:<42}{value}");
    }
}
