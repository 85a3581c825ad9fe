//! Every kind of hostile machine against the same sites without any: what it may cost, and what it costs.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::scenario::{self, HostileFigures};
use crate::world::{Hostile, Params};

/// With so many machines of a hundred hostile: copies over the WAN at most, and how many times as long as without any.
pub const BOUNDS: [(usize, f64, f64); 3] = [(10, 1.02, 1.2), (30, 1.05, 1.5), (50, 1.10, 2.5)];

/// One line: one kind, or all of them, with so many machines of a hundred.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Machines of a hundred that mean harm.
    pub percent: usize,
    /// What they do.
    pub kind: String,
    /// Runs, each with a seed of its own.
    pub runs: usize,
    /// Runs in which every honest machine has installed the release.
    pub completed: usize,
    /// Payload bytes that honest machines took over the WAN, per payload byte: mean and most.
    pub copies: (f64, f64),
    /// Time until the last honest machine has installed, over that of the same seed without hostile machines: mean and most.
    pub time: (f64, f64),
    /// Machines that honest ones shut out, summed over them, in a run.
    pub bans: f64,
    /// Seeds that missed a bound.
    pub missed: Vec<u64>,
}

/// All lines.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// Machines of the site.
    pub nodes: usize,
    /// Mebibytes of the payload.
    pub mib: u64,
    /// Megabits per second of the WAN.
    pub mbits: u64,
    /// The lines.
    pub rows: Vec<Row>,
}

impl Table {
    /// An error that names what missed its bound.
    pub fn check(&self) -> Result<()> {
        let missed = self.rows.iter().filter(|row| !row.missed.is_empty());
        let missed: Vec<String> = missed
            .map(|row| {
                format!("{} with {} % hostile missed its bound with seeds {:?}", row.kind, row.percent, row.missed)
            })
            .collect();
        if missed.is_empty() { Ok(()) } else { bail!("{}", missed.join("\n")) }
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct Job {
    /// Machines of a hundred that mean harm.
    pub percent: usize,
    /// What they do, in turn.
    pub kinds: Vec<Hostile>,
    /// Its seed.
    pub seed: u64,
}

impl Job {
    /// Runs it in a world of its own.
    pub fn run(&self, params: &Params, mib: u64) -> HostileFigures {
        scenario::hostile(Params { seed: self.seed, ..params.clone() }, mib, self.percent, &self.kinds).1
    }
}

/// The runs of a table: `seeds` of each kind, `all_seeds` of all together, and as many without any.
pub fn jobs(kinds: &[Hostile], seeds: u64, all_seeds: u64) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    let most = if kinds.len() > 1 { seeds.max(all_seeds) } else { seeds };
    jobs.extend((1..=most).map(|seed| Job { percent: 0, kinds: Vec::new(), seed }));
    for (percent, _, _) in BOUNDS {
        for kind in kinds {
            jobs.extend((1..=seeds).map(|seed| Job { percent, kinds: vec![*kind], seed }));
        }
        if kinds.len() > 1 {
            jobs.extend((1..=all_seeds).map(|seed| Job { percent, kinds: kinds.to_vec(), seed }));
        }
    }
    jobs
}

/// What came of the runs, in their order.
pub fn table(params: &Params, mib: u64, jobs: &[Job], results: &[HostileFigures]) -> Table {
    let honest: BTreeMap<u64, f64> = jobs
        .iter()
        .zip(results)
        .filter(|(job, _)| job.percent == 0)
        .map(|(job, figures)| (job.seed, figures.makespan_over_limit))
        .collect();
    let mut by_line: BTreeMap<(usize, &[Hostile]), Vec<Compared<'_>>> = BTreeMap::new();
    for (job, figures) in jobs.iter().zip(results).filter(|(job, _)| job.percent > 0) {
        let time = figures.makespan_over_limit / honest.get(&job.seed).copied().unwrap_or(f64::NAN);
        by_line.entry((job.percent, &job.kinds)).or_default().push((time, figures));
    }
    let mut rows: Vec<Row> = by_line.into_iter().map(|((percent, kinds), runs)| row(percent, kinds, &runs)).collect();
    rows.sort_by_key(|row| (row.percent, row.kind == ALL));
    Table { nodes: params.nodes, mib, mbits: params.wan / 1_000_000, rows }
}

const ALL: &str = "all";

/// A run, and its time over that of the same seed without hostile machines.
type Compared<'a> = (f64, &'a HostileFigures);

fn row(percent: usize, kinds: &[Hostile], runs: &[Compared<'_>]) -> Row {
    let kind = match kinds {
        [kind] => format!("{kind:?}").to_ascii_lowercase(),
        _ => ALL.to_owned(),
    };
    let bounds = BOUNDS.iter().find(|(of, _, _)| *of == percent);
    let (most_copies, most_time) = bounds.map_or((1.0, 1.0), |(_, copies, time)| (*copies, *time));
    let keeps = |time: f64, figures: &HostileFigures| {
        figures.completed && figures.amplification <= most_copies && time <= most_time
    };
    let count = runs.len().max(1) as f64;
    let mean_and_most = |of: &dyn Fn(&Compared<'_>) -> f64| {
        let all: Vec<f64> = runs.iter().map(of).collect();
        (all.iter().sum::<f64>() / count, all.iter().copied().fold(0.0, f64::max))
    };
    Row {
        percent,
        kind,
        runs: runs.len(),
        completed: runs.iter().filter(|(_, figures)| figures.completed).count(),
        copies: mean_and_most(&|(_, figures)| figures.amplification),
        time: mean_and_most(&|(time, _)| *time),
        bans: mean_and_most(&|(_, figures)| figures.bans as f64).0,
        missed: runs.iter().filter(|(time, figures)| !keeps(*time, figures)).map(|(_, figures)| figures.seed).collect(),
    }
}
