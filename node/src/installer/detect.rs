//! Whether a release concerns this machine, and whether it is installed.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use upswarm_protocol::catalog::{Applicability, Detect, PackageKind, Platform, Recipe, Release};
use upswarm_protocol::inventory::{FACT_ARCH, FACT_OS, FACT_OS_ID, FACT_OS_VERSION};
use upswarm_protocol::node::Detection;

use super::query::Verdict;
use super::{deb, rpm};
use crate::sys::{self, Ended, Program, find};

/// No rule's command runs longer, whatever a release says.
const LONGEST: u32 = 600;
const MAX_CONTAINS: u64 = 1 << 20;

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
    if let Recipe::Apt(apt) = &release.install {
        return super::apt::detect(apt, root);
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
        Detect::Selection => Err("only a snapshot of a repository is detected by its selection".into()),
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
        Err(error) if sys::is_absence(&error) => Ok(false),
        Err(error) => Err(format!("{path} cannot be looked at: {error}")),
    }
}

/// A plain file, or `None` if there is none.
fn open(path: &str, root: Option<&Path>) -> Result<Option<fs::File>, String> {
    if !path.starts_with('/') {
        return Err(format!("a rule names {path:?}, which is not an absolute path"));
    }
    // A pipe must not hold detection up.
    let file = match sys::open_at_once(&below(root, path)) {
        Ok(file) => file,
        Err(error) if sys::is_absence(&error) => return Ok(None),
        Err(error) => return Err(format!("{path} cannot be read: {error}")),
    };
    let found = file.metadata().map_err(|error| format!("{path} cannot be looked at: {error}"))?;
    Ok(found.is_file().then_some(file))
}

/// Where an absolute path lies below another root.
fn below(root: Option<&Path>, path: &str) -> PathBuf {
    root.map_or_else(|| PathBuf::from(path), |root| root.join(path.trim_start_matches('/')))
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
