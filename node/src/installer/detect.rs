//! Whether a release concerns this machine, and whether it is installed.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use upswarm_protocol::catalog::{Applicability, Detect, PackageKind, Platform, Release};
use upswarm_protocol::inventory::{FACT_ARCH, FACT_OS, FACT_OS_ID, FACT_OS_VERSION};
use upswarm_protocol::node_state::Detection;

use super::program::{Ended, Program, find};
use super::{deb, rpm};

/// No rule's command runs longer, whatever a release says.
const LONGEST: u32 = 600;
/// A query of a package database that takes longer hangs on a lock.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Output of a query beyond this is dropped.
const MAX_OUTPUT: usize = 64 << 10;
const MAX_CONTAINS: u64 = 1 << 20;
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// Whether a rule holds; the error says why that cannot be told.
pub(super) type Verdict = Result<bool, String>;

/// Evaluates the release's platform, applicability and detection rules on this machine. Blocks, for minutes at worst. Whatever
/// cannot be told (no right to read a file, a package database that does not answer) is [`Detection::Unknown`] with the reason.
/// Files and packages are looked for below `root`, if there is one; commands run as ever.
pub(crate) fn detect(release: &Release, root: Option<&Path>) -> Detection {
    if let Err(why) = platform(&release.platform) {
        return Detection::NotApplicable(why);
    }
    for condition in &release.applicability {
        match applies(condition, root) {
            Ok(None) => {}
            Ok(Some(why)) => return Detection::NotApplicable(why),
            Err(why) => return Detection::Unknown(why),
        }
    }
    if release.detect.is_empty() {
        return Detection::Unknown("the release has no detection rule".into());
    }
    let mut unknown = None;
    for rule in &release.detect {
        match holds(rule, root) {
            Ok(true) => {}
            // All must hold: one that does not is enough, whatever the others would say.
            Ok(false) => return Detection::Absent,
            Err(why) => unknown = unknown.or(Some(why)),
        }
    }
    unknown.map_or(Detection::Present, Detection::Unknown)
}

/// What a query of a package database printed, and its exit code.
pub(super) fn query(path: &Path, args: &[&str]) -> Result<(i32, String), String> {
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let mut output = Vec::new();
    let program = Program { path, args, env: &[], timeout: QUERY_TIMEOUT, cancel: None };
    let ended = program.run(&mut |bytes| {
        let room = MAX_OUTPUT - output.len();
        output.extend_from_slice(&bytes[..bytes.len().min(room)]);
    });
    match ended {
        Ok(Ended::Code(code)) => Ok((code, String::from_utf8_lossy(&output).into_owned())),
        Ok(Ended::TimedOut) => Err(format!("{} did not answer within {QUERY_TIMEOUT:?}", path.display())),
        Ok(other) => Err(format!("{} ended by {other:?}", path.display())),
        Err(error) => Err(format!("{} cannot be run: {error}", path.display())),
    }
}

fn platform(wanted: &Platform) -> Result<(), String> {
    let here = [(&*wanted.os, std::env::consts::OS), (&*wanted.arch, std::env::consts::ARCH)];
    match here.iter().find(|(wanted, here)| !wanted.is_empty() && wanted != here) {
        Some((wanted, here)) => Err(format!("it is for {wanted}, this is {here}")),
        None => Ok(()),
    }
}

/// `None` when the condition holds, else why not.
fn applies(condition: &Applicability, root: Option<&Path>) -> Result<Option<String>, String> {
    let unless = |holds: bool, why: String| Ok((!holds).then_some(why));
    match condition {
        Applicability::FileExists { path } => unless(exists(path, root)?, format!("{path} does not exist")),
        Applicability::Fact { name, value } => {
            let found = fact(name)?;
            unless(found == value.as_str(), format!("{name} is {found:?}, not {:?}", value.as_str()))
        }
        Applicability::HasPackage { kind, name } => {
            let found = match kind {
                // A machine without the database has no such package.
                PackageKind::Deb if find("dpkg-query").is_none() => false,
                PackageKind::Rpm if find("rpm").is_none() => false,
                _ => has_package(*kind, name, None, root)?,
            };
            unless(found, format!("the package {name} is not installed"))
        }
    }
}

fn holds(rule: &Detect, root: Option<&Path>) -> Verdict {
    match rule {
        Detect::FileExists { path } => exists(path, root),
        Detect::FileHash { path, blake3: wanted } => {
            let Some(file) = open(path, root)? else { return Ok(false) };
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file).map_err(|error| format!("{path} cannot be read: {error}"))?;
            Ok(hasher.finalize().as_bytes() == wanted)
        }
        Detect::FileContains { path, text } => {
            let Some(file) = open(path, root)? else { return Ok(false) };
            let mut bytes = Vec::new();
            let read = file.take(MAX_CONTAINS + 1).read_to_end(&mut bytes);
            read.map_err(|error| format!("{path} cannot be read: {error}"))?;
            let wanted = text.as_bytes();
            let fits = bytes.len() as u64 <= MAX_CONTAINS;
            Ok(fits && (wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)))
        }
        Detect::Command { argv, exit_code, timeout_s } => {
            let Some((program, args)) = argv.split_first() else { return Err("a rule names no program".into()) };
            let path = Path::new(program.as_str());
            if !path.is_absolute() {
                return Err(format!("a rule names the program {program:?} without its directory"));
            }
            let timeout = Duration::from_secs((*timeout_s).clamp(1, LONGEST).into());
            let args = args.iter().map(|arg| OsString::from(arg.as_str())).collect();
            let program = Program { path, args, env: &[], timeout, cancel: None };
            match program.run(&mut |_| {}) {
                Ok(ended) => Ok(ended == Ended::Code(*exit_code)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(format!("{} cannot be run: {error}", path.display())),
            }
        }
        Detect::Package { kind, name, version } => has_package(*kind, name, Some(version), root),
    }
}

/// Whether a package is installed, at this version or a later one.
fn has_package(kind: PackageKind, name: &str, version: Option<&str>, root: Option<&Path>) -> Verdict {
    match kind {
        PackageKind::Deb => deb::installed(name, version, root),
        PackageKind::Rpm => rpm::installed(name, version, root),
        PackageKind::Flatpak | PackageKind::Snap => {
            Err(format!("whether the {kind:?} package {name} is installed cannot be told; use a command rule"))
        }
    }
}

fn exists(path: &str, root: Option<&Path>) -> Verdict {
    if !path.starts_with('/') {
        return Err(format!("a rule names {path:?}, which is not an absolute path"));
    }
    match fs::metadata(below(root, path)) {
        Ok(_) => Ok(true),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(format!("{path} cannot be looked at: {error}")),
    }
}

/// A plain file, or `None` if there is none.
fn open(path: &str, root: Option<&Path>) -> Result<Option<fs::File>, String> {
    if !path.starts_with('/') {
        return Err(format!("a rule names {path:?}, which is not an absolute path"));
    }
    // A pipe must not hold detection up.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(nonblock).open(below(root, path)) {
        Ok(file) => file,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(format!("{path} cannot be read: {error}")),
    };
    let found = file.metadata().map_err(|error| format!("{path} cannot be looked at: {error}"))?;
    Ok(found.is_file().then_some(file))
}

/// Where an absolute path lies below another root.
fn below(root: Option<&Path>, path: &str) -> PathBuf {
    root.map_or_else(|| PathBuf::from(path), |root| root.join(path.trim_start_matches('/')))
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

/// The operating system's name for people.
pub(crate) fn os_name() -> String {
    let text = OS_RELEASE.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let name = os_release_value(&text, "PRETTY_NAME");
    if name.is_empty() { std::env::consts::OS.into() } else { name }
}

/// The value of a fact, by the inventory's names.
fn fact(name: &str) -> Result<String, String> {
    crate::inventory::fact(name).ok_or_else(|| {
        format!(
            "this machine has no fact {name:?}; it may be {FACT_OS}, {FACT_ARCH}, {FACT_OS_ID}, {FACT_OS_VERSION} or another \
             that `upswarm scan` lists"
        )
    })
}

/// A value of os-release(5): the last assignment counts, quotes and backslashes as in a shell.
pub(crate) fn os_release_value(text: &str, key: &str) -> String {
    let assigned = |line: &'_ str| line.trim().strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
    let raw = text.lines().filter_map(assigned).next_back().unwrap_or_default();
    let inner = ['"', '\''].iter().find_map(|quote| raw.strip_prefix(*quote)?.strip_suffix(*quote));
    let mut value = String::new();
    let mut chars = inner.unwrap_or(&raw).chars();
    while let Some(c) = chars.next() {
        value.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read_as_a_shell_would() {
        let text = "# ID=comment\nID=old\nNAME=\"A \\\"B\\\"\"\n  ID='debian'\nVERSION_ID=\"12\"\nID_LIKE=x\nEMPTY=\n";
        for (key, value) in [("ID", "debian"), ("VERSION_ID", "12"), ("NAME", "A \"B\""), ("EMPTY", ""), ("NONE", "")] {
            assert_eq!(os_release_value(text, key), value, "{key}");
        }
    }
}
