//! Readers and failing writes beside a coordinator that goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::api::holds::HoldRequest;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_panics_is_tried_again_and_nothing_acknowledged_is_lost() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    let acknowledged = |wanted| {
        move |message| match message {
            Message::RelayAck { seq, .. } if seq == wanted => Some(()),
            _ => None,
        }
    };
    machine.say(&machine.report(1, &root.report_key)).await;
    machine.hear(acknowledged(1)).await;
    bench.directory.as_ref().unwrap().let_writes_panic(1);
    machine.say(&machine.report(2, &root.report_key)).await;
    // What changes while the disk is in trouble waits with it.
    let add = bench.verb(&["group", "add", "pilots"]);
    let (added, ()) = tokio::join!(add, machine.hear(acknowledged(2)));
    added.unwrap();
    let status = bench.status().await;
    assert!(status.alarms.iter().any(|alarm| alarm.text.contains("the write panicked")), "{:?}", status.alarms);
    bench.stop().await;
    bench.run().await;
    let status = bench.status().await;
    assert_eq!((status.devices[0].label.as_str(), status.devices[0].bytes.origin), ("pc7", 7));
    assert!(bench.client().catalog().await.unwrap().groups.contains_key("pilots"));
    machine.host.stop().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_can_never_be_written_is_set_aside_and_decisions_go_on() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    bench.directory.as_ref().unwrap().let_report_panic(3);
    machine.say(&machine.report(3, &root.report_key)).await;
    tokio::time::timeout(Duration::from_secs(60), bench.verb(&["group", "add", "pilots"])).await.unwrap().unwrap();
    report(&mut machine, 4, &root.report_key).await;
    let status = bench.status().await;
    assert!(status.alarms.iter().any(|alarm| alarm.text.contains("was left out")), "{:?}", status.alarms);
    bench.stop().await;
    bench.run().await;
    assert_eq!(bench.status().await.devices[0].bytes.origin, 7);
    assert!(bench.client().catalog().await.unwrap().groups.contains_key("pilots"));
    machine.host.stop().await;
    bench.stop().await;
}

/// Pauses and resumes; returns how long that took until both heads were at the machine.
async fn round(bench: &Bench, machine: &mut Machine) -> Duration {
    let begin = Instant::now();
    for on in [true, false] {
        let request = HoldRequest { on, all_due: true, ..HoldRequest::default() };
        let held = bench.client().hold(&request).await.unwrap_or_else(|error| panic!("{error}"));
        assert!(machine.hear_of_index(held.head_version).await >= held.head_version);
    }
    begin.elapsed()
}

async fn report(machine: &mut Machine, seq: u64, report_key: &[u8; 32]) -> Duration {
    let begin = Instant::now();
    machine.say(&machine.report(seq, report_key)).await;
    machine.hear(|message| matches!(message, Message::RelayAck { seq: of, .. } if of == seq).then_some(())).await;
    begin.elapsed()
}

/// How long the reader takes: 30 seconds by `UPSWARM_SLOW_READER_S=30`.
fn reading_time() -> Duration {
    let seconds = std::env::var("UPSWARM_SLOW_READER_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_delays_no_head_and_no_pause() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    report(&mut machine, 1, &root.report_key).await;
    let mut alone = Vec::new();
    for _ in 0..20 {
        alone.push(round(&bench, &mut machine).await);
    }
    // It begins to read, and is not done until the rounds are.
    let done = std::sync::Arc::new(AtomicBool::new(false));
    let (fleet, until) = (bench.running.as_ref().unwrap().fleet.clone(), done.clone());
    let reader = std::thread::spawn(move || {
        let snapshot = fleet.snapshot();
        let first = snapshot.values().next().unwrap();
        let seq = first.said.as_ref().unwrap().seq;
        while !until.load(Ordering::SeqCst) {
            assert_eq!(snapshot.values().next().unwrap().said.as_ref().unwrap().seq, seq, "it reads what it took");
            std::thread::yield_now();
        }
        (seq, fleet.snapshot().values().next().unwrap().said.as_ref().unwrap().seq)
    });
    let begin = Instant::now();
    let mut beside = Vec::new();
    while begin.elapsed() < reading_time() || beside.len() < 20 {
        beside.push(round(&bench, &mut machine).await);
    }
    let reported = report(&mut machine, 2, &root.report_key).await;
    done.store(true, Ordering::SeqCst);
    let (before, after) = reader.join().unwrap();
    assert!(after > before, "readers that come later see what was written meanwhile");
    alone.sort();
    beside.sort();
    let (middle, longest) = (beside[beside.len() / 2], beside[beside.len() - 1]);
    println!(
        "pause and resume: {:?} alone; {middle:?}, at most {longest:?} in {} rounds, a report {reported:?}, beside a reader of {:?}",
        alone[alone.len() / 2],
        beside.len(),
        begin.elapsed()
    );
    let longest = longest.max(reported);
    assert!(longest < Duration::from_secs(2), "a reader has delayed a head or a report: {longest:?}");
    machine.host.stop().await;
    bench.stop().await;
}
