//! What we depend on keeps to deny.toml, whether cargo-deny is installed or not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// Output of `cargo tree`, a line per package.
fn tree(args: &[&str]) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).arg("tree").args(["--locked", "--prefix", "none"]).args(args).current_dir(root()).output();
    let output = output.expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A blank line stands between the trees of two packages.
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

/// Whether an SPDX expression holds when these licences are accepted: `OR` of `AND`s, with brackets; `/` is an old `OR`.
fn accepted(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let text =
        expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "\u{a0}WITH\u{a0}");
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let mut at = 0;
    let held = any(&words, &mut at, allowed);
    held && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut held = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        held |= all(words, at, allowed);
    }
    held
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut held = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        held &= one(words, at, allowed);
    }
    held
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word != "(" {
        return allowed.contains(&word.replace('\u{a0}', " "));
    }
    let held = any(words, at, allowed);
    *at += 1;
    held
}

fn rules() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap()
}

fn allowed() -> BTreeSet<String> {
    let texts = rules()["licenses"]["allow"].as_array().unwrap().clone();
    texts.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_licence_is_one_that_is_allowed() {
    let allowed = allowed();
    let lines = tree(&["--workspace", "-e", "normal,build", "--format", "{p}|{l}"]);
    assert!(lines.len() > 100, "{lines:?}");
    let refused: BTreeMap<&str, &str> = lines
        .iter()
        .filter_map(|line| line.split_once('|'))
        .filter(|(_, licence)| !accepted(licence, &allowed))
        .collect();
    assert!(refused.is_empty(), "licences that deny.toml does not allow: {refused:?}");
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let allowed = allowed();
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-2.0", "(GPL-2.0 OR MIT) AND ISC", "Apache-2.0 WITH LLVM-exception"] {
        assert!(accepted(good, &allowed), "{good}");
    }
    for bad in
        ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-2.0", "GPL-2.0 WITH LLVM-exception", "", "MIT ISC", "(MIT"]
    {
        assert!(!accepted(bad, &allowed), "{bad}");
    }
}

/// An advisory is passed over only while what it is about is as its reason says.
#[test]
fn advisories_that_are_passed_over_are_about_what_we_still_use() {
    let about = BTreeMap::from([
        ("RUSTSEC-2025-0141", "bincode v1.3.3"),
        ("RUSTSEC-2024-0384", "instant v"),
        ("RUSTSEC-2024-0436", "paste v"),
        ("RUSTSEC-2025-0057", "fxhash v"),
        ("RUSTSEC-2023-0071", "rsa v0.9"),
    ]);
    let packages = tree(&["--workspace", "-e", "normal"]);
    let rules = rules();
    let ignored = rules["advisories"]["ignore"].as_array().unwrap();
    for entry in ignored {
        let id = entry["id"].as_str().unwrap();
        let package = about.get(id).unwrap_or_else(|| panic!("{id}: name the package that it is about in this test"));
        assert!(packages.iter().any(|line| line.starts_with(package)), "{id} is needless: nothing needs {package}");
        assert!(entry["reason"].as_str().unwrap().len() > 20, "{id} wants its reason");
    }
    assert_eq!(ignored.len(), about.len());
    assert!(packages.iter().any(|line| line.starts_with("sled v0.34.7")), "two of the reasons name it");
}

/// The core is pure: it can be simulated because nothing in it waits, talks or stores.
#[test]
fn the_core_depends_on_no_runtime_network_or_database() {
    let packages = tree(&["-p", "upswarm-protocol", "-e", "normal"]);
    let names: BTreeSet<&str> = packages.iter().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("ed25519-dalek"), "{names:?}");
    for name in names {
        let impure = ["tokio", "sled", "mio", "socket2", "rand", "getrandom", "reqwest", "async-std"].contains(&name);
        assert!(!impure && !name.starts_with("libp2p"), "upswarm-protocol depends on {name}");
    }
}

/// Package and features, for a selection of packages.
fn features(selection: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in tree(&[selection, &["--format", "{p}|{f}"]].concat()) {
        let (package, features) = line.split_once('|').expect("package and features");
        let features = features.trim_end_matches(" (*)").split(',').filter(|name| !name.is_empty()).map(str::to_owned);
        found.entry(package.to_owned()).or_default().extend(features);
    }
    found
}

/// Cargo compiles a dependency anew for each set of features that a selection of packages asks for.
#[test]
fn the_test_command_compiles_no_dependency_twice() {
    let script = std::fs::read_to_string(root().join("tests/run.sh")).expect("tests/run.sh");
    for line in script.lines().filter(|line| line.contains("-p upswarm-tests")) {
        assert!(line.contains("-p upswarm-node"), "selects the tests without the program: {line}");
    }
    let all = features(&["--workspace", "--edges", "normal,build,dev"]);
    let selections: [&[&str]; 3] = [
        &["-p", "upswarm-node", "--edges", "normal,build"],
        &["--workspace", "--exclude", "upswarm-tests", "--edges", "normal,build,dev"],
        &["-p", "upswarm-node", "-p", "upswarm-tests", "--edges", "normal,build,dev"],
    ];
    for selection in selections {
        for (package, asked) in features(selection) {
            assert_eq!(Some(&asked), all.get(&package), "{package}, selected by {selection:?}");
        }
    }
}
