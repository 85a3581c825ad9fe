//! Differences between inventories: they lead where they say, survive their wire form, and are small.

use proptest::prelude::*;
use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::codec::{self, Bounded, Text};
use upswarm_protocol::ids::DocHash;
use upswarm_protocol::inventory::{
    Assembler, DeltaError, Inventory, InventoryDelta, InventoryError, InventoryPart, MAX_PART, MAX_VERSIONS,
    PackageKey, Version,
};

const KINDS: [PackageKind; 4] = [PackageKind::Deb, PackageKind::Rpm, PackageKind::Flatpak, PackageKind::Snap];

fn key(kind: PackageKind, name: &str, arch: &str) -> PackageKey {
    PackageKey { kind, name: Text::lossy(name), arch: Text::lossy(arch) }
}

fn inventory() -> impl Strategy<Value = Inventory> {
    let package = (0..4usize, "[ab]{1,3}é?", "(amd64|i386|)", prop::collection::btree_set("[0-3.~é]{0,4}", 1..4));
    let packages = prop::collection::vec(package, 0..40);
    let facts = prop::collection::btree_map("[xy]{1,2}", "[01]{0,2}", 0..6);
    (packages, facts, any::<bool>()).prop_map(|(packages, facts, restart)| {
        let mut inventory = Inventory::default();
        inventory.pending_restart = restart;
        for (kind, name, arch, versions) in packages {
            // Two lists for one package can be more than its bound together; then the rest is left out.
            for version in versions {
                let _ = inventory.insert(key(KINDS[kind], &name, &arch), Text::lossy(&version));
            }
        }
        for (name, value) in facts {
            inventory.set_fact(Text::lossy(&name), Some(Text::lossy(&value))).expect("few facts");
        }
        inventory
    })
}

/// Sends a difference: each part through the codec, in another order than it was made.
fn send(delta: &InventoryDelta) -> InventoryDelta {
    let mut assembler = Assembler::default();
    let mut parts = delta.parts().expect("a small difference");
    parts.reverse();
    let mut received = None;
    for part in parts {
        assert!(received.is_none(), "complete before the last part");
        let bytes = codec::encode(&part, 4096).expect("a part fits a report");
        received = assembler.add(codec::decode(&bytes, 4096).expect("a part")).expect("well-formed");
    }
    received.expect("complete with the last part")
}

fn wire_bytes(delta: &InventoryDelta) -> usize {
    let parts = delta.parts().expect("a small difference");
    parts.iter().map(|part| codec::encode(part, 4096).expect("a part").len()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_difference_leads_from_one_to_the_other(from in inventory(), to in inventory()) {
        let delta = InventoryDelta::between(&from, &to);
        prop_assert_eq!(delta.is_empty(), from == to);
        let received = send(&delta);
        prop_assert_eq!(&received, &delta);
        let mut changed = from.clone();
        changed.apply(&received).expect("the right base");
        prop_assert_eq!(&changed, &to);
        prop_assert_eq!(changed.digest() == from.digest(), from == to);
        // Once more it no longer fits, unless it changed nothing.
        prop_assert_eq!(changed.apply(&received).is_ok(), from == to);

        let mut empty = Inventory::default();
        empty.apply(&send(&InventoryDelta::full(&to))).expect("an empty base");
        prop_assert_eq!(empty, to);
    }

    /// Any bytes, and any change of good bytes: an error, or a difference like any other.
    #[test]
    fn damaged_parts_are_refused_or_mean_themselves(
        to in inventory(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let good = InventoryDelta::full(&to).parts().expect("a small difference").remove(0);
        let mut damaged = good.entries.to_vec();
        let at = at.index(damaged.len());
        damaged[at] = byte;
        for entries in [damaged, noise, good.entries[..at].to_vec()] {
            let part = InventoryPart { part: 0, parts: 1, entries: Bounded::new(entries).expect("short"), ..good.clone() };
            if let Ok(Some(delta)) = Assembler::default().add(part) {
                let again = send(&delta);
                prop_assert_eq!(again, delta);
            }
        }
    }
}

/// A desktop of 3,000 packages with names and versions of the usual length and variety.
fn desktop() -> Inventory {
    let mut inventory = Inventory::default();
    let stems = ["lib", "python3-", "gir1.2-", "fonts-", "gnome-", "x11-", "node-", "linux-", "perl-", "golang-"];
    for number in 0..3_000usize {
        let digest = DocHash::of(&(number / 3).to_le_bytes()).to_string();
        let name = format!("{}{}{}", stems[number % stems.len()], &digest[..4 + number % 9], number % 7);
        let version = format!("{}.{}.{}-{}+deb12u{}", number % 11, number % 30, number % 8, 1 + number % 5, number % 4);
        let arch = if number % 4 == 0 { "all" } else { "amd64" };
        inventory.insert(key(PackageKind::Deb, &name, arch), Text::lossy(&version)).expect("within bounds");
    }
    for (name, value) in [("os.id", "debian"), ("os.version", "12"), ("platform.os", "linux"), ("kernel", "6.1.0-30")] {
        inventory.set_fact(Text::lossy(name), Some(Text::lossy(value))).expect("few facts");
    }
    inventory
}

#[test]
fn twenty_changes_of_three_thousand_packages_take_less_than_four_kilobytes() {
    let before = desktop();
    let mut after = before.clone();
    let keys: Vec<_> = before.packages().keys().step_by(before.packages().len() / 20).take(20).cloned().collect();
    for (at, key) in keys.iter().enumerate() {
        after.remove(key);
        if at % 4 != 0 {
            after.insert(key.clone(), Text::lossy(&format!("99.{at}.0-1+deb12u1"))).expect("within bounds");
        }
    }
    after.pending_restart = true;
    let (full, delta) = (InventoryDelta::full(&before), InventoryDelta::between(&before, &after));
    assert_eq!(delta.packages.len(), 20);
    let (full_bytes, delta_bytes) = (wire_bytes(&full), wire_bytes(&delta));
    println!("{} packages: {full_bytes} bytes in full, {delta_bytes} bytes for 20 changes", before.packages().len());
    assert!(before.packages().len() > 2_900);
    assert!(delta_bytes < 1_024, "{delta_bytes} bytes");
    assert!(full_bytes < 100_000, "{full_bytes} bytes");
    let mut received = before.clone();
    received.apply(&send(&delta)).expect("the right base");
    assert_eq!(received, after);
}

#[test]
fn a_difference_with_a_false_end_changes_nothing() {
    let mut inventory = desktop();
    let untouched = inventory.clone();
    let mut delta = InventoryDelta::between(&inventory, &Inventory::default());
    delta.result = DocHash([1; 32]);
    assert!(matches!(inventory.apply(&delta), Err(DeltaError::Result { .. })));
    delta.base = DocHash([2; 32]);
    assert!(matches!(inventory.apply(&delta), Err(DeltaError::Base { .. })));
    assert_eq!(inventory, untouched);
}

#[test]
fn parts_of_different_differences_do_not_mix() {
    let full = InventoryDelta::full(&desktop());
    let parts = full.parts().expect("a desktop");
    assert!(parts.len() > 2 && parts.iter().all(|part| part.entries.len() <= MAX_PART));
    let mut assembler = Assembler::default();
    assert_eq!(assembler.add(parts[0].clone()), Ok(None));
    // Another difference comes between: the first one must begin anew.
    let mut waiting = Inventory::default();
    waiting.pending_restart = true;
    let small = InventoryDelta::full(&waiting);
    assert_eq!(assembler.add(small.parts().expect("one part").remove(0)), Ok(Some(small)));
    for part in &parts[1..] {
        assert_eq!(assembler.add(part.clone()), Ok(None));
    }
    assert_eq!(assembler.add(parts[0].clone()), Ok(Some(full)));
    let beyond = InventoryPart { part: 7, parts: 7, ..parts[0].clone() };
    assert!(matches!(assembler.add(beyond), Err(DeltaError::Malformed { .. })));
}

#[test]
fn the_wire_form_is_pinned() {
    let mut inventory = Inventory::default();
    for (name, version) in [("libssl3", "3.0.15-1"), ("libssl-dev", "3.0.15-1"), ("zlib1g", "1:1.2")] {
        inventory.insert(key(PackageKind::Deb, name, "amd64"), Text::lossy(version)).expect("within bounds");
    }
    inventory.set_fact(Text::lossy("os.id"), Some(Text::lossy("debian"))).expect("few facts");
    let parts = InventoryDelta::full(&inventory).parts().expect("one part");
    let expected: &[u8] = b"\0\
        \x00\x00\x0alibssl-dev\x00\x05amd64\x01\x00\x083.0.15-1\
        \x10\x06\x013\x01\x08\x00\
        \x10\x00\x06zlib1g\x01\x00\x051:1.2\
        \x04\x00\x05os.id\x01\x00\x06debian";
    assert_eq!(&*parts[0].entries, expected);
    assert_eq!(inventory.digest().to_string(), "e59c7a27ba15f534cde55c58728378e1e0b9f68a59df8164d8281d4946a1c7e2");
}

#[test]
fn the_largest_entry_fits_a_part_and_bounds_hold() {
    let mut inventory = Inventory::default();
    let widest = key(PackageKind::Snap, &"n".repeat(255), &"a".repeat(32));
    for number in 0..MAX_VERSIONS {
        let version = Version::lossy(&format!("{number}{}", "v".repeat(254)));
        inventory.insert(widest.clone(), version).expect("within bounds");
    }
    assert_eq!(inventory.insert(widest, Text::lossy("w")), Err(InventoryError::TooManyVersions));
    let full = InventoryDelta::full(&inventory);
    assert_eq!(send(&full), full);
}
