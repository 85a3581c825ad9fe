//! The evaluator against a model that reads the rules one by one, after any history of changes.

use proptest::prelude::*;
use upswarm_protocol::catalog::{
    Applicability, Classification, Detect, PackageKind, Platform, Recipe, Release, RestartPolicy, Severity,
};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::evaluate::{Evaluator, ScanState};
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::inventory::{FACT_ARCH, FACT_OS, Inventory, InventoryDelta, PackageKey};
use upswarm_protocol::node::Detection;
use upswarm_protocol::time::Wall;
use upswarm_protocol::version::compare;

use std::collections::BTreeMap;

const DEB: PackageKind = PackageKind::Deb;

fn release(platform: Platform, applicability: Vec<Applicability>, detect: Vec<Detect>) -> Release {
    Release {
        product: Text::lossy("org.example"),
        version: Text::lossy("1"),
        counter: 1,
        title: Text::default(),
        classification: Classification::Update,
        severity: Severity::Low,
        cves: Bounded::default(),
        issued: Wall(0),
        expires: Wall(u64::MAX),
        platform,
        payloads: Bounded::default(),
        applicability: Bounded::truncated(applicability),
        detect: Bounded::truncated(detect),
        install: Recipe::Deb { timeout_s: 60 },
        uninstall: None,
        restart: RestartPolicy::Never,
        depends: Bounded::default(),
        supersedes: Bounded::default(),
    }
}

fn package(name: &str, version: &str) -> Detect {
    Detect::Package { kind: DEB, name: Text::lossy(name), version: Text::lossy(version) }
}

fn has(name: &str) -> Applicability {
    Applicability::HasPackage { kind: DEB, name: Text::lossy(name) }
}

fn file() -> Detect {
    Detect::FileExists { path: Text::lossy("/opt/example") }
}

fn key(name: &str, arch: &str) -> PackageKey {
    PackageKey { kind: DEB, name: Text::lossy(name), arch: Text::lossy(arch) }
}

fn id(number: u8) -> ReleaseId {
    ReleaseId([number; 32])
}

fn any_release() -> impl Strategy<Value = Release> {
    let condition = prop_oneof![
        3 => "[abc]".prop_map(|name| has(&name)),
        2 => ("[xy]", "[01]").prop_map(|(name, value)| Applicability::Fact {
            name: Text::lossy(&name),
            value: Text::lossy(&value),
        }),
        1 => Just(Applicability::FileExists { path: Text::lossy("/etc/example") }),
    ];
    let sign =
        prop_oneof![4 => ("[abc]", "[0-3]").prop_map(|(name, version)| package(&name, &version)), 1 => Just(file())];
    let platform = ("(linux|linux|windows|)", "(x86_64|)")
        .prop_map(|(os, arch)| Platform { os: Text::lossy(&os), arch: Text::lossy(&arch) });
    (platform, prop::collection::vec(condition, 0..3), prop::collection::vec(sign, 0..3))
        .prop_map(|(platform, applicability, detect)| release(platform, applicability, detect))
}

#[derive(Debug, Clone)]
enum Step {
    Package { name: String, arch: String, version: Option<String> },
    Fact { name: String, value: Option<String> },
    Catalog { added: Vec<(u8, Release)>, removed: Vec<u8> },
    Probe { release: u8, found: Detection },
}

fn step() -> impl Strategy<Value = Step> {
    let found = prop_oneof![
        Just(Detection::Present),
        Just(Detection::Absent),
        Just(Detection::NotApplicable("no".to_owned())),
        Just(Detection::Unknown("locked".to_owned())),
    ];
    prop_oneof![
        4 => ("[abc]", "(amd64|i386)", prop::option::weighted(0.7, "[0-3]"))
            .prop_map(|(name, arch, version)| Step::Package { name, arch, version }),
        2 => ("(x|y|platform.os|platform.arch)", prop::option::weighted(0.8, "(0|1|linux|x86_64)"))
            .prop_map(|(name, value)| Step::Fact { name, value }),
        2 => (prop::collection::vec((0u8..12, any_release()), 0..3), prop::collection::vec(0u8..12, 0..2))
            .prop_map(|(added, removed)| Step::Catalog { added, removed }),
        2 => (0u8..12, found).prop_map(|(release, found)| Step::Probe { release, found }),
    ]
}

/// What the rules say, read one by one; `None` for "ask the machine".
fn model(release: &Release, inventory: &Inventory, probe: Option<&Detection>) -> ScanState {
    let (os, arch) = (inventory.fact(FACT_OS), inventory.fact(FACT_ARCH));
    for (wanted, found) in [(release.platform.os.as_str(), os), (release.platform.arch.as_str(), arch)] {
        match found {
            _ if wanted.is_empty() => {}
            None => return ScanState::Unknown,
            Some(found) if found != wanted => return ScanState::NotApplicable,
            Some(_) => {}
        }
    }
    let versions = |name: &str| -> Vec<String> {
        let of_name = inventory.packages().iter().filter(|(key, _)| key.kind == DEB && key.name.as_str() == name);
        of_name.flat_map(|(_, versions)| versions.iter().map(|version| version.to_string())).collect()
    };
    let conditions: Vec<Option<bool>> = release
        .applicability
        .iter()
        .map(|rule| match rule {
            Applicability::HasPackage { name, .. } => Some(!versions(name).is_empty()),
            Applicability::Fact { name, value } => Some(inventory.fact(name) == Some(value.as_str())),
            Applicability::FileExists { .. } => None,
        })
        .collect();
    let signs: Vec<Option<bool>> = release
        .detect
        .iter()
        .map(|rule| match rule {
            Detect::Package { name, version, .. } => {
                Some(versions(name).iter().any(|installed| compare(DEB, installed, version).is_ge()))
            }
            _ => None,
        })
        .collect();
    let (applicable_unsure, detect_unsure) = (conditions.contains(&None), signs.contains(&None));
    if conditions.contains(&Some(false)) {
        ScanState::NotApplicable
    } else if signs.is_empty() {
        ScanState::Unknown
    } else if !applicable_unsure && signs.contains(&Some(false)) {
        ScanState::Required
    } else if applicable_unsure || detect_unsure {
        match probe {
            None | Some(Detection::Unknown(_)) => ScanState::Unknown,
            Some(Detection::Present) => ScanState::Installed,
            Some(Detection::Absent) => ScanState::Required,
            Some(Detection::NotApplicable(_)) => ScanState::NotApplicable,
        }
    } else {
        ScanState::Installed
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_where_a_fresh_evaluation_does(steps in prop::collection::vec(step(), 1..40)) {
        let mut inventory = Inventory::default();
        let mut catalog: BTreeMap<ReleaseId, Release> = BTreeMap::new();
        let mut probes: BTreeMap<ReleaseId, Detection> = BTreeMap::new();
        let mut evaluator = Evaluator::default();
        for step in steps {
            let before: BTreeMap<_, _> = evaluator.states().collect();
            let mut news = Vec::new();
            let reported = match step {
                Step::Package { name, arch, version } => {
                    let old = inventory.clone();
                    let key = key(&name, &arch);
                    inventory.remove(&key);
                    if let Some(version) = version {
                        inventory.insert(key, Text::lossy(&version)).expect("within bounds");
                    }
                    evaluator.on_inventory_change(&InventoryDelta::between(&old, &inventory), &inventory)
                }
                Step::Fact { name, value } => {
                    let old = inventory.clone();
                    let value = value.map(|value| Text::lossy(&value));
                    inventory.set_fact(Text::lossy(&name), value).expect("few facts");
                    evaluator.on_inventory_change(&InventoryDelta::between(&old, &inventory), &inventory)
                }
                Step::Catalog { added, removed } => {
                    let removed: Vec<ReleaseId> = removed.into_iter().map(id).collect();
                    for release in &removed {
                        catalog.remove(release);
                        probes.remove(release);
                    }
                    for (number, release) in &added {
                        catalog.insert(id(*number), release.clone());
                        probes.remove(&id(*number));
                        news.push(id(*number));
                    }
                    let added = added.iter().map(|(number, release)| (id(*number), release));
                    evaluator.on_catalog_change(added, removed, &inventory)
                }
                Step::Probe { release, found } => {
                    if catalog.contains_key(&id(release)) {
                        probes.insert(id(release), found.clone());
                    }
                    if evaluator.probe_result(id(release), &found) { vec![id(release)] } else { Vec::new() }
                }
            };

            let mut fresh = Evaluator::full(catalog.iter().map(|(id, release)| (*id, release)), &inventory);
            for (release, found) in &probes {
                fresh.probe_result(*release, found);
            }
            let states: BTreeMap<_, _> = evaluator.states().collect();
            prop_assert_eq!(&states, &fresh.states().collect());
            prop_assert!(evaluator.needing_probe().eq(fresh.needing_probe()));
            prop_assert_eq!(evaluator.len(), catalog.len());
            for (release, document) in &catalog {
                prop_assert_eq!(states[release], model(document, &inventory, probes.get(release)), "{:?}", document);
                let reason = evaluator.reason(*release, &inventory);
                prop_assert_eq!(&reason, &fresh.reason(*release, &inventory));
                prop_assert!(reason.is_some_and(|reason| !reason.is_empty()));
            }
            // What is reported is exactly what is new or changed.
            let changed = states.iter().filter(|(release, state)| before.get(*release) != Some(*state));
            let mut expected: Vec<ReleaseId> = changed.map(|(release, _)| *release).chain(news).collect();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(reported, expected);
        }
    }
}

#[test]
fn reasons_name_the_rule_they_rest_on() {
    let mut inventory = Inventory::default();
    let installed = |inventory: &mut Inventory, version: &str| {
        inventory.remove(&key("curl", "amd64"));
        inventory.insert(key("curl", "amd64"), Text::lossy(version)).expect("within bounds");
    };
    let linux = Platform { os: Text::lossy("linux"), arch: Text::default() };
    let curl = release(linux, vec![has("curl")], vec![package("curl", "7.88.1-10")]);
    let odd = release(Platform::default(), vec![], vec![file()]);
    let mut evaluator = Evaluator::full([(id(1), &curl), (id(2), &odd)], &inventory);
    let check = |evaluator: &Evaluator, number, inventory: &Inventory, state, reason: &str| {
        assert_eq!(evaluator.state(id(number)), Some(state));
        assert_eq!(evaluator.reason(id(number), inventory).as_deref(), Some(reason));
    };
    check(
        &evaluator,
        1,
        &inventory,
        ScanState::Unknown,
        "cannot be told before the device is scanned: platform.os is not known, and the release is for linux",
    );
    let mut change = |evaluator: &mut Evaluator, to: &dyn Fn(&mut Inventory)| {
        let before = inventory.clone();
        to(&mut inventory);
        evaluator.on_inventory_change(&InventoryDelta::between(&before, &inventory), &inventory);
        inventory.clone()
    };
    let now = change(&mut evaluator, &|inventory| {
        inventory.set_fact(Text::lossy(FACT_OS), Some(Text::lossy("linux"))).expect("few facts");
    });
    check(
        &evaluator,
        1,
        &now,
        ScanState::NotApplicable,
        "does not concern this device: the Debian package curl is not installed",
    );
    let now = change(&mut evaluator, &|inventory| installed(inventory, "7.88.1-9"));
    check(
        &evaluator,
        1,
        &now,
        ScanState::Required,
        "required: the Debian package curl is 7.88.1-9, and 7.88.1-10 or later is wanted",
    );
    let now = change(&mut evaluator, &|inventory| installed(inventory, "7.88.1-10+b1"));
    check(&evaluator, 1, &now, ScanState::Installed, "installed: the Debian package curl is 7.88.1-10+b1");

    check(
        &evaluator,
        2,
        &now,
        ScanState::Unknown,
        "not known yet: the machine must be asked whether /opt/example exists",
    );
    assert!(!evaluator.probe_result(id(2), &Detection::Unknown("the disk is locked".to_owned())));
    check(&evaluator, 2, &now, ScanState::Unknown, "the disk is locked");
    assert!(evaluator.probe_result(id(2), &Detection::Absent));
    check(&evaluator, 2, &now, ScanState::Required, "a detection rule does not hold on this machine");
    assert_eq!((evaluator.state(id(3)), evaluator.reason(id(3), &now)), (None, None));
}
