//! Pairs of versions from this machine's package lists, and the tools that know their order.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

/// Whether a tool is here. Without it the test is skipped, loudly; in CI that is a failure.
pub(crate) fn available(program: &str, args: &[&str]) -> bool {
    let found = Command::new(program).args(args).output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: {program} is not installed, so its version order was not compared with ours");
        assert!(std::env::var_os("CI").is_none(), "CI must have {program}");
    }
    found
}

/// What a program says on its standard output.
pub(crate) fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("the program reads its input");
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "{program} ended with {}", output.status);
    String::from_utf8(output.stdout).expect("plain text")
}

/// Pairs of two real versions: of one package (installed, and in the package lists), or near each other when sorted as text.
const REAL: usize = 5_000;
/// Pairs of real versions with one to three bytes changed, and changed again.
const CHANGED: usize = 2_000;

/// [`REAL`] and [`CHANGED`] pairs, the same on every run of one machine.
pub(crate) fn pairs(alphabet: &[u8]) -> Vec<(String, String)> {
    let versions = real_versions();
    assert!(!versions.is_empty(), "this machine knows no package version");
    let mut pairs = Vec::new();
    let mut all: Vec<String> = Vec::new();
    for of_one in versions.values() {
        pairs.extend(of_one.windows(2).map(|pair| (pair[0].clone(), pair[1].clone())));
        all.extend(of_one.iter().cloned());
    }
    all.sort();
    all.dedup();
    pairs.truncate(REAL / 2);
    let mut random = Random(0x75_70_73_77_61_72_6d);
    while pairs.len() < REAL {
        let a = random.below(all.len());
        let b = (a + 1 + random.below(3)) % all.len();
        pairs.push((all[a].clone(), all[b].clone()));
    }
    while pairs.len() < REAL + CHANGED {
        let from = random.below(all.len());
        let first = random.change(&all[from], alphabet);
        let second = random.change(&first, alphabet);
        pairs.push((first, second));
    }
    let distinct: std::collections::BTreeSet<_> = pairs.iter().collect();
    assert!(distinct.len() >= 5_000, "only {} distinct pairs", distinct.len());
    pairs
}

/// A file of `a b` lines.
#[allow(dead_code, reason = "each test binary uses its part of this module")]
pub(crate) fn write_pairs(pairs: &[(String, String)]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    for (a, b) in pairs {
        writeln!(file, "{a} {b}").expect("the temporary file takes the pairs");
    }
    file
}

/// An order that is written as a number.
#[allow(dead_code, reason = "each test binary uses its part of this module")]
pub(crate) fn ordering(number: &str) -> Ordering {
    number.parse::<i32>().unwrap_or_else(|_| panic!("{number:?} is not an order")).cmp(&0)
}

/// Compares every answer of the tool with ours.
pub(crate) fn assert_agreement(
    pairs: &[(String, String)],
    answers: &[Ordering],
    compare: impl Fn(&str, &str) -> Ordering,
) {
    assert_eq!(pairs.len(), answers.len(), "one answer per pair");
    let mut counts = BTreeMap::new();
    for ((a, b), expected) in pairs.iter().zip(answers) {
        assert_eq!(compare(a, b), *expected, "{a} against {b}");
        assert_eq!(compare(b, a), expected.reverse(), "{b} against {a}");
        *counts.entry(expected).or_insert(0) += 1;
    }
    println!("{} pairs agree: {counts:?}", pairs.len());
}

fn real_versions() -> BTreeMap<String, Vec<String>> {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |package: &str, version: &str| {
        let of_one = versions.entry(package.to_owned()).or_default();
        if !version.is_empty() && !of_one.iter().any(|known| known == version) {
            of_one.push(version.to_owned());
        }
    };
    if Command::new("dpkg-query").arg("--version").output().is_ok() {
        for line in run("dpkg-query", &["-W", "-f", "${Package} ${Version}\n"], "").lines() {
            if let Some((package, version)) = line.split_once(' ') {
                add(package, version);
            }
        }
    }
    if Command::new("apt-cache").arg("--version").output().is_ok() {
        let mut package = String::new();
        for line in run("apt-cache", &["dumpavail"], "").lines() {
            if let Some(name) = line.strip_prefix("Package: ") {
                package = name.to_owned();
            } else if let Some(version) = line.strip_prefix("Version: ") {
                add(&package, version);
            }
        }
    }
    if Command::new("rpm").arg("--version").output().is_ok() {
        for line in run("rpm", &["-qa", "--qf", "%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE}\n"], "").lines() {
            if let Some((package, version)) = line.split_once(' ') {
                add(package, version);
            }
        }
    }
    versions
}

/// A small seeded generator (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    /// The version with one to three bytes of its tail inserted, replaced or removed. It still begins with what was its
    /// first digit, and a colon comes only where the tools accept one.
    fn change(&mut self, version: &str, alphabet: &[u8]) -> String {
        let mut bytes = version.as_bytes().to_vec();
        for _ in 0..=self.below(3) {
            let start = bytes.iter().position(|byte| *byte == b':').map_or(1, |colon| colon + 2);
            let at = start + self.below(bytes.len().saturating_sub(start) + 1);
            let mut byte = alphabet[self.below(alphabet.len())];
            if byte == b':' && !bytes.contains(&b':') {
                byte = b'.';
            }
            match self.below(3) {
                0 => bytes.insert(at.min(bytes.len()), byte),
                1 if at < bytes.len() => bytes[at] = byte,
                _ if at < bytes.len() && bytes.len() > start + 1 => {
                    bytes.remove(at);
                }
                _ => bytes.push(byte),
            }
        }
        // A trailing hyphen would be an empty revision, which dpkg refuses.
        while bytes.last() == Some(&b'-') {
            bytes.pop();
        }
        String::from_utf8(bytes).expect("versions are ASCII")
    }
}
