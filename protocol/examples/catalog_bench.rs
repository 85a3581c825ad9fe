//! A catalog of 10,000 releases for 200 groups: what a device of three groups holds of it in memory, and which bytes it is sent when one
//! release changes, for a group of its own and for another.
//!
//! `cargo run --release -p upswarm-protocol --example catalog_bench`

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;

use common::bench::{Bench, COORDINATOR};
use common::*;
use upswarm_protocol::catalog::NodeRole;
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::ids::{DocHash, GroupId};
use upswarm_protocol::node::{FetchError, Input, Output};
use upswarm_protocol::wire::{BlockWhat, Message};

const RELEASES: u64 = 10_000;
const GROUPS: u64 = 200;

fn main() {
    let world = World::new();
    let mut documents = Vec::new();
    for at in 0..RELEASES {
        let release = world.publish(&release(&format!("org.example.product{at}"), 1));
        documents.push(world.approve(&approval(group(at % GROUPS), release.release, 1)));
        documents.push(release);
    }
    let edition = world.edition(2, documents.clone());
    println!(
        "{RELEASES} releases approved for {GROUPS} groups: index {} bytes, {} pages",
        edition.index.len(),
        edition.pages.len()
    );

    let own = [group(3), group(77), group(150)];
    let there = served(&edition);
    let mut device = joined(&format!("a device of {} groups", own.len()), &own, NodeRole::Node, &edition, &there);
    // What every device held before there were pages.
    drop(joined("a branch cache", &own, NodeRole::Cache, &edition, &there));

    let mut version = 2;
    let mut measure = |name: &str, groups: &[GroupId]| {
        let mut most = Sent::default();
        for group in groups {
            version += 1;
            let new = world.publish(&release(&format!("org.example.new{version}"), 1));
            documents.push(world.approve(&approval(*group, new.release, 1)));
            documents.push(new);
            let next = world.edition(version, documents.clone());
            let sent = take(&mut device, &next, &served(&next), version);
            most = if sent.bytes > most.bytes { sent } else { most };
        }
        println!(
            "one release more for {name}: at most {} bytes in {} answers, head and index among them",
            most.bytes, most.answers
        );
    };
    let others: Vec<GroupId> = (0..GROUPS).map(group).filter(|group| !own.contains(group)).step_by(10).collect();
    measure("another group", &others);
    measure("a group of its own", &own);
}

fn group(at: u64) -> GroupId {
    let mut group = [0; 16];
    group.copy_from_slice(&DocHash::of(&at.to_le_bytes()).0[..16]);
    GroupId(group)
}

#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    bytes: usize,
    answers: usize,
}

/// A device that has just come to a catalog; says what that took.
fn joined(
    name: &str,
    groups: &[GroupId],
    role: NodeRole,
    edition: &Edition,
    there: &BTreeMap<DocHash, Vec<u8>>,
) -> Bench {
    let empty = World::new().edition(1, vec![]);
    let before = resident_bytes();
    let mut device = Bench::of_groups(groups, role, &empty);
    device.hears_the_coordinator(&empty, &[]);
    let sent = take(&mut device, edition, there, 2);
    let memory = match before.zip(resident_bytes()) {
        Some((before, after)) => format!("{} KiB of memory", after.saturating_sub(before) >> 10),
        None => "memory that this system does not tell".to_owned(),
    };
    let releases = device.state.trust().catalog().releases().len();
    println!("{name}: {releases} releases; {memory}; {} bytes in {} answers to get there", sent.bytes, sent.answers);
    device
}

/// What an origin serves of an edition.
fn served(edition: &Edition) -> BTreeMap<DocHash, Vec<u8>> {
    let mut there = edition.stored();
    there.insert(DocHash::of(&edition.index), edition.index.clone());
    there
}

/// The head comes, and everything that the device asks for because of it.
fn take(device: &mut Bench, edition: &Edition, there: &BTreeMap<DocHash, Vec<u8>>, version: u64) -> Sent {
    let mut sent = Sent { bytes: edition.head.len(), answers: 0 };
    let head = Message::Head(Bounded::truncated(edition.head.clone()));
    device.input(Input::Frame { peer: COORDINATOR, bytes: head.encode().expect("within bounds") });
    loop {
        let asked: Vec<_> = device.asked.drain(..).collect();
        let mut any = false;
        for output in asked {
            let input = match output {
                Output::FetchDoc { fetch, what: BlockWhat::Doc(hash), .. } => {
                    let result = there.get(&hash).cloned().ok_or(FetchError::Unreachable("not there".into()));
                    if let Ok(bytes) = &result {
                        sent.bytes += bytes.len();
                        sent.answers += 1;
                    }
                    Input::DocFetched { fetch, result }
                }
                Output::StoreDoc { hash, .. } => Input::DocStored { hash, kept: true },
                _ => continue,
            };
            any = true;
            device.input(input);
        }
        if !any {
            let trust = device.state.trust();
            if trust.catalog().index_version() == version && trust.is_current() {
                return sent;
            }
            device.pass(std::time::Duration::from_secs(1));
        }
    }
}

/// Memory of this process in RAM.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}
