//! A site in which nothing goes on: what each machine costs all the same, and how soon the others know who came and who went.
//!
//! Real processes on one bridge. The figures of a large site, and of a machine whose cable is pulled:
//! `UPSWARM_LAB_HOSTS=60 cargo test --release -p upswarm-tests --test idle -- --nocapture`.

use std::time::{Duration, Instant};

use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::{program, wait};

/// Machines that run, when the environment does not say otherwise; the newcomer is one more.
const HOSTS: u8 = 8;
const NUMBER: &str = "UPSWARM_LAB_HOSTS";
/// The promises: of a core, and bytes that a machine sends in a second.
const CPU: f64 = 0.002;
const BYTES: f64 = 2048.0;
/// A newcomer knows its site within this, and a machine that is gone is missed by all within that.
const KNOWS: Duration = Duration::from_secs(5);
const MISSED: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn a_site_at_rest() {
    let hosts = std::env::var(NUMBER).ok().map(|hosts| hosts.parse::<u8>().expect("a number of machines"));
    // The large run waits until first reports and comparisons are long over.
    let (settles, watched) = if hosts.is_some() { (60, 60) } else { (8, 20) };
    let running = usize::from(hosts.unwrap_or(HOSTS));
    let Some(lab) = Lab::new(&[hosts.unwrap_or(HOSTS) + 1], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    let begin = Instant::now();
    nodes[..running].iter_mut().for_each(Node::start);
    all_know(&nodes[..running], running);
    let known = begin.elapsed();
    pass(Duration::from_secs(settles));

    let before = (Instant::now(), cpu(&nodes[..running]), sent(&lab, running));
    pass(Duration::from_secs(watched));
    let span = before.0.elapsed().as_secs_f64();
    let used: Vec<f64> = cpu(&nodes[..running]).iter().zip(before.1).map(|(now, then)| (now - then) / span).collect();
    let bytes: Vec<f64> =
        sent(&lab, running).iter().zip(before.2).map(|(now, then)| (now - then) as f64 / span).collect();

    let begin = Instant::now();
    nodes[running].start();
    wait::closely("the newcomer to know its site", PATIENCE, || knows(&nodes[running], running + 1));
    let knows_it = begin.elapsed();
    all_know(&nodes, running + 1);
    let known_by_all = begin.elapsed();

    let begin = Instant::now();
    nodes[0].kill();
    all_know(&nodes[1..], running);
    let killed = begin.elapsed();
    let mut unplugged = None;
    if hosts.is_some() {
        let begin = Instant::now();
        lab.sites[0].unplug(1).expect("its port goes down");
        all_know(&nodes[2..], running - 1);
        unplugged = Some(begin.elapsed());
    }

    let figures = serde_json::json!({
        "test": "a_site_at_rest",
        "machines": running,
        "known_s": round(known.as_secs_f64()),
        "cpu_percent_mean": round(mean(&used) * 100.0),
        "cpu_percent_most": round(most(&used) * 100.0),
        "sent_bytes_per_s_mean": round(mean(&bytes)),
        "sent_bytes_per_s_most": round(most(&bytes)),
        "newcomer_knows_s": round(knows_it.as_secs_f64()),
        "newcomer_known_s": round(known_by_all.as_secs_f64()),
        "killed_missed_s": round(killed.as_secs_f64()),
        "unplugged_missed_s": unplugged.map(|missed| round(missed.as_secs_f64())),
    });
    println!("LAB {figures}");

    assert!(mean(&bytes) <= BYTES, "each machine sends {:.0} bytes a second", mean(&bytes));
    // What a build without optimizations takes says nothing.
    assert!(cfg!(debug_assertions) || mean(&used) <= CPU, "each machine takes {:.4} of a core", mean(&used));
    assert!(knows_it <= KNOWS, "a newcomer knows its site after {knows_it:?}");
    let missed = unplugged.unwrap_or_default().max(killed);
    assert!(missed <= MISSED, "a machine that is gone is missed after {missed:?}");
}

/// Lets time pass in which nobody asks the machines for anything.
fn pass(time: Duration) {
    let begin = Instant::now();
    wait::until("time to pass", time * 2, || if begin.elapsed() >= time { Ok(()) } else { Err(String::new()) });
}

/// Waits until each of these machines knows so many members.
fn all_know(nodes: &[Node<'_>], members: usize) {
    for node in nodes {
        wait::until(&format!("{} to know {members} members", node.label), PATIENCE, || knows(node, members));
    }
}

fn knows(node: &Node<'_>, members: usize) -> Result<(), String> {
    let verb = program::verb(&node.host.namespace, &["node", "status", "--data-dir", text(&node.dir)]);
    match verb.json["members"].as_u64() {
        Some(known) if known == members as u64 => Ok(()),
        _ => Err(format!("{} {}", verb.json["members"], verb.said)),
    }
}

fn cpu(nodes: &[Node<'_>]) -> Vec<f64> {
    nodes.iter().map(|node| node.usage().cpu_s).collect()
}

fn sent(lab: &Lab, running: usize) -> Vec<u64> {
    lab.sites[0].hosts[..running].iter().map(|host| host.lan().tx).collect()
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

fn most(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(0.0, f64::max)
}

fn round(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}
