//! The order of rpm versions against rpm's own, on real versions and on seeded changes of them.

mod reference;

use std::cmp::Ordering;

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::version::compare;

/// Reads `a b` lines and writes -1, 0 or 1 for each, all in one process. rpm's `print` ends no line.
const LUA: &str = "for line in io.lines('PAIRS') do \
                   local a, b = line:match('^(%S+) (%S+)$') \
                   print(rpm.vercmp(a, b) .. ' ') end";

#[test]
fn rpm_agrees_on_seven_thousand_pairs() {
    if !reference::available("rpm", &["--version"]) {
        return;
    }
    // Versions of the machine's Debian packages are real versions of real software; rpm's own syntax is added by the changes.
    let pairs = reference::pairs(b"~^.-+_:019abz");
    let file = reference::write_pairs(&pairs);
    let script = format!("%{{lua: {}}}", LUA.replace("PAIRS", file.path().to_str().expect("a plain path")));
    let answers = reference::run("rpm", &["--eval", &script], "");
    let answers: Vec<Ordering> = answers.split_whitespace().map(reference::ordering).collect();
    reference::assert_agreement(&pairs, &answers, |a, b| compare(PackageKind::Rpm, a, b));
}
