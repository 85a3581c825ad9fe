//! A machine for which very many releases are approved: no event takes long, and nothing is left out.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::time::Now;

/// One event looks at no more than this.
const MOST: usize = 256;

/// What one event asks to detect.
fn detections(bench: &mut Bench) -> Vec<ReleaseId> {
    let outputs = std::iter::from_fn(|| bench.state.poll_output());
    let asked = outputs.filter_map(|output| if let Output::Detect { release } = output { Some(release) } else { None });
    asked.collect()
}

#[test]
fn an_event_that_concerns_all_of_them_is_shared_out_among_several() {
    let world = World::new();
    let mut documents = Vec::new();
    for number in 0..500 {
        let release = world.publish(&release(&format!("org.example.tool{number}"), 1));
        documents.push(world.approve(&approval(GROUP, release.release, 1)));
        documents.push(release);
    }
    let all: BTreeSet<ReleaseId> = documents.iter().map(|document| document.release).collect();
    let mut bench = Bench::new(&world.edition(7, documents), |_| ());
    assert_eq!(bench.state.standings().count(), all.len());
    // So long after the last look that each one is detected anew.
    let later = Duration::from_secs(7 * 3600);
    bench.now = Now { mono: bench.now.mono + later, wall: bench.now.wall + later };
    bench.state.handle_timeout(bench.now);
    let mut found = BTreeSet::new();
    for event in 1.. {
        let asked = detections(&mut bench);
        assert!(asked.len() <= MOST, "{} in event {event}", asked.len());
        found.extend(asked);
        if found == all {
            assert!(event >= 2);
            return;
        }
        let (at, _) = bench.state.poll_timeout().expect("a timeout for the others");
        assert!(at.since(bench.now.mono) < Duration::from_secs(1), "{} of {} are left out", found.len(), all.len());
        bench.now = Now { mono: bench.now.mono.max(at), wall: bench.now.wall };
        bench.state.handle_timeout(bench.now);
    }
}
