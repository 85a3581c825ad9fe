//! Members with a valid certificate that mean harm: the honest ones have everything in bounded time, and for about one copy.

use upswarm_simulations::scenario;
use upswarm_simulations::world::{Hostile, KINDS, Params};

/// Copies over the WAN at most, with 10, 30 and 50 machines of a hundred hostile.
const COPIES: [(usize, f64); 3] = [(10, 1.02), (30, 1.05), (50, 1.10)];
/// Times the time that the WAN needs, for 16 MiB at 100 Mbit/s: what it costs to find out is the same for larger payloads.
const MAKESPAN: f64 = 25.0;

fn run(seed: u64, percent: usize, kinds: &[Hostile]) {
    let params = Params { nodes: 20, seed, ..Params::default() };
    let (_, figures) = scenario::hostile(params, 16, percent, kinds);
    let most = COPIES.iter().find(|(of, _)| *of == percent).map(|(_, most)| *most).unwrap();
    assert!(figures.completed, "{kinds:?} {figures:?}");
    assert!(figures.amplification <= most, "{kinds:?} {figures:?}");
    assert!(figures.makespan_over_limit <= MAKESPAN, "{kinds:?} {figures:?}");
}

#[test]
fn whatever_one_kind_does_the_honest_machines_have_the_release() {
    for kind in KINDS {
        for seed in 1..=2 {
            run(seed, 30, &[kind]);
        }
    }
}

#[test]
fn whatever_all_kinds_do_together_the_honest_machines_have_the_release() {
    for (percent, _) in COPIES {
        for seed in 1..=3 {
            run(seed, percent, &KINDS);
        }
    }
}
