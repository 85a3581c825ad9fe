//! The order of Debian versions against dpkg's own, on real versions and on seeded changes of them.

mod reference;

use std::cmp::Ordering;
use std::process::Command;

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::version::compare;

#[test]
fn dpkg_agrees_on_seven_thousand_pairs() {
    if !reference::available("dpkg", &["--version"]) {
        return;
    }
    let pairs = reference::pairs(b"~.-+:019abz");
    let answers: Vec<Ordering> = pairs
        .iter()
        .map(|(a, b)| {
            if holds(a, "lt", b) {
                Ordering::Less
            } else if holds(a, "gt", b) {
                Ordering::Greater
            } else {
                Ordering::Equal
            }
        })
        .collect();
    reference::assert_agreement(&pairs, &answers, |a, b| compare(PackageKind::Deb, a, b));
}

fn holds(a: &str, relation: &str, b: &str) -> bool {
    let output = Command::new("dpkg").args(["--compare-versions", a, relation, b]).output().expect("dpkg runs");
    match output.status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("dpkg refuses to compare {a:?} with {b:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}
