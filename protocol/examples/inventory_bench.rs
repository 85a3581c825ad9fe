//! What a coordinator needs for the inventories of 10,000 machines with 3,000 packages each: memory, the time of a change, and the
//! time of a group's conditions.
//!
//! `cargo run --release -p upswarm-protocol --example inventory_bench`

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::time::Instant;

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::codec::Text;
use upswarm_protocol::inventory::{Conditions, Inventory, InventoryDelta, PackageKey, SharedEntries};

const DEVICES: usize = 10_000;
const PACKAGES: usize = 3_000;
/// Packages that only one machine has in this version.
const OWN: usize = 30;

fn main() {
    let common = machine(0);
    let mut shared = SharedEntries::default();
    let before = resident_bytes();
    let begin = Instant::now();
    let mut shelved = Vec::with_capacity(DEVICES);
    for device in 0..DEVICES {
        let mut inventory = common.clone();
        for number in 0..OWN {
            let key = key(PACKAGES + number);
            inventory.insert(key, Text::lossy(&format!("1.{device}-1"))).expect("within bounds");
        }
        inventory.set_fact(Text::lossy("hostname"), Some(Text::lossy(&format!("pc{device}")))).expect("few facts");
        shelved.push(shared.put(&inventory));
    }
    let (elapsed, after) = (begin.elapsed(), resident_bytes());
    let each = |bytes: u64| bytes / DEVICES as u64;
    println!(
        "{DEVICES} machines of {PACKAGES} packages: {} entries, made in {:.1} s",
        shared.len(),
        elapsed.as_secs_f64()
    );
    if let Some((before, after)) = before.zip(after) {
        let used = after.saturating_sub(before);
        println!("memory: {} MiB, {} bytes a machine", used >> 20, each(used));
    }

    // As the coordinator does with a difference of one package.
    let mut rounds = 0u32;
    let begin = Instant::now();
    for machine in shelved.iter_mut().take(200) {
        let mut inventory = machine.to_inventory();
        let mut changed = inventory.clone();
        changed.remove(&key(5));
        changed.insert(key(5), Text::lossy("9.9-1")).expect("within bounds");
        let delta = InventoryDelta::between(&inventory, &changed);
        inventory.apply(&delta).expect("the right base");
        let stored = inventory.stored().expect("within bounds");
        assert!(!stored.is_empty());
        let old = core::mem::replace(machine, shared.put(&inventory));
        shared.give_back(old);
        rounds += 1;
    }
    println!(
        "a change of one package, both sides of it: {:.2} ms",
        begin.elapsed().as_secs_f64() * 1e3 / f64::from(rounds)
    );

    let stored = common.stored().expect("within bounds");
    let begin = Instant::now();
    for _ in 0..200 {
        let restored = Inventory::restored(stored.clone()).expect("a good record");
        assert_eq!(restored.packages().len(), PACKAGES);
    }
    println!("an inventory at the start of the program: {:.2} ms", begin.elapsed().as_secs_f64() * 1e3 / 200.0);

    let conditions =
        Conditions::parse(&["os.id=debian", "package:lib5-pkg>=9", "!package:telnetd"]).expect("good ones");
    let begin = Instant::now();
    let members = shelved.iter().filter(|machine| conditions.hold(&***machine)).count();
    println!(
        "three conditions of a group on every machine: {:.1} ms, {members} members",
        begin.elapsed().as_secs_f64() * 1e3
    );
}

fn key(number: usize) -> PackageKey {
    PackageKey { kind: PackageKind::Deb, name: Text::lossy(&format!("lib{number}-pkg")), arch: Text::lossy("amd64") }
}

fn machine(device: usize) -> Inventory {
    let mut inventory = Inventory::default();
    for number in 0..PACKAGES {
        let version = format!("{}.{}-{}+deb12u1", number % 11, number % 30, device + 1);
        inventory.insert(key(number), Text::lossy(&version)).expect("within bounds");
    }
    inventory.set_fact(Text::lossy("os.id"), Some(Text::lossy("debian"))).expect("few facts");
    inventory
}

/// Resident memory (proc(5), `statm`, pages of 4 KiB).
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}
