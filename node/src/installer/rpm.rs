//! RPM packages: through dnf where it is installed, which checks dependencies, else through rpm.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use upswarm_protocol::catalog::{ExitMeaning, PackageKind};
use upswarm_protocol::codec::Text;
use upswarm_protocol::node::{InstallOutcome, Obstacle};
use upswarm_protocol::version;

use super::diagnosis;
use super::exec::Session;
use super::payload::{installable, is_package_file, snapshot};
use super::query::{Verdict, query};
use super::{Job, Trouble};
use crate::sys::{Ended, find, lock_holder};

/// What they print is read.
const ENV: [(&str, &str); 1] = [("LC_ALL", "C")];
/// Where a system may keep rpm's database, below its root.
const DATABASES: [&str; 2] = ["usr/lib/sysimage/rpm", "var/lib/rpm"];
/// How a package begins (rpm's file format, section "lead").
const LEAD: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];

/// Installs every payload but patches.
pub(super) fn install(job: &Job<'_>, timeout_s: u32) -> Result<InstallOutcome, Trouble> {
    let wanted = installable(job);
    if wanted.is_empty() {
        return Err(Trouble::failed("the release has no package to install"));
    }
    if let Some(other) =
        wanted.iter().map(|at| &job.release.payloads[*at].name).find(|name| !is_package_file(name, ".rpm"))
    {
        return Err(Trouble::failed(format!("the payload {other:?} is not named as .rpm files are")));
    }
    if let Some(locked) = locked(job.root) {
        return Ok(locked);
    }
    let snapshot = snapshot(job, &wanted, None)?;
    for path in snapshot.paths() {
        let mut magic = [0; 4];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
        // Anything else rpm would take for a list of other packages to install.
        if read.is_err() || magic != LEAD {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Err(Trouble::failed(format!("the payload {name:?} is no RPM package")));
        }
    }
    // rpm leaves a package alone whose own checks fail, and keeps changed configuration files.
    let (program, mut args) = match (job.root, find("dnf")) {
        (None, Some(dnf)) if !job.downgrade => (dnf, vec!["-y".into(), "install".into()]),
        (root, _) if job.downgrade => (rpm()?, root_args(root, &["-U", "-v", "--replacepkgs", "--oldpackage"])),
        (root, _) => (rpm()?, root_args(root, &["-U", "-v", "--replacepkgs"])),
    };
    args.extend(snapshot.paths().map(|path| path.as_os_str().to_owned()));
    let mut session = Session::start(job)?;
    let ended = session.run(&program, args, &ENV, timeout_s, false)?;
    Ok(finish(session, ended, timeout_s, true))
}

/// Removes those of the packages that are installed. A package that others need stays, and that is a failure.
pub(super) fn remove(job: &Job<'_>, packages: &[Text<255>], timeout_s: u32) -> Result<InstallOutcome, Trouble> {
    if let Some(bad) = packages.iter().find(|name| !is_package_name(name)) {
        return Err(Trouble::failed(format!("{bad:?} is no name of a package")));
    }
    if let Some(locked) = locked(job.root) {
        return Ok(locked);
    }
    let mut args = root_args(job.root, &["-e"]);
    let before = args.len();
    for name in packages {
        if installed(name, None, job.root).map_err(Trouble::retry)? {
            args.push(name.as_str().into());
        }
    }
    if args.len() == before {
        return Ok(InstallOutcome::Done { restart: false, code: None });
    }
    let mut session = Session::start(job)?;
    let ended = session.run(&rpm()?, args, &ENV, timeout_s, false)?;
    Ok(finish(session, ended, timeout_s, false))
}

/// Whether a package is installed, at this version or a later one.
pub(super) fn installed(name: &str, version: Option<&str>, root: Option<&Path>) -> Verdict {
    if !is_package_name(name) {
        return Err(format!("{name:?} is no name of an RPM package"));
    }
    if let Some(bad) = version.filter(|version| !is_version(version)) {
        return Err(format!("{bad:?} is no version of an RPM package"));
    }
    let rpm = find("rpm").ok_or("this machine has no rpm to ask for RPM packages")?;
    let format = "installed\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n";
    let root = in_root(root);
    let args: Vec<&str> = root.iter().map(String::as_str).chain(["-q", "--qf", format, name]).collect();
    let (code, output) = query(&rpm, &args)?;
    let found: Vec<&str> = output.lines().filter_map(|line| line.strip_prefix("installed\t")).collect();
    if found.is_empty() {
        // Of a database that it cannot read, rpm says both: an error, and that the package is not installed.
        let broken = output.lines().any(|line| line.starts_with("error:"));
        let absent = code != 0 && !broken && output.contains("is not installed");
        return if absent { Ok(false) } else { Err(format!("rpm failed with exit code {code}: {}", output.trim())) };
    }
    let Some(wanted) = version else { return Ok(true) };
    // Without a release number any will do, as rpm's own dependencies have it.
    let with_release = wanted.contains('-');
    for found in found {
        let found = if with_release { found } else { found.rsplit_once('-').map_or(found, |(version, _)| version) };
        if !is_version(found) {
            return Err(format!("{name} is installed at the unreadable version {found:?}"));
        }
        if version::compare(PackageKind::Rpm, found, wanted).is_ge() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Says so when another program is in a transaction: rpm would wait for it without end.
fn locked(root: Option<&Path>) -> Option<InstallOutcome> {
    let root = root.unwrap_or(Path::new("/"));
    let holder = DATABASES.iter().find_map(|dir| lock_holder(&root.join(dir).join(".rpm.lock")))?;
    let reason = format!("the package manager is locked by {holder}");
    Some(InstallOutcome::Hindered { by: Obstacle::Locked, code: None, reason })
}

/// What a machine lacks when packages are `installing` is an obstacle; what it needs of a package that is to go is a failure.
fn finish(mut session: Session<'_>, ended: Ended, timeout_s: u32, installing: bool) -> InstallOutcome {
    let Ended::Code(number @ 1..) = ended else {
        return session.finish(ended, timeout_s, |_| ExitMeaning::Success);
    };
    let found = diagnosis::of_rpm(&session.log.end());
    if found.why.is_empty() {
        return session.finish(ended, timeout_s, |_| ExitMeaning::Failure);
    }
    let code = Some(number);
    let reason = format!("{} (exit code {number}) [{}]", found.why, session.log.close().display());
    match found.by {
        Some(by) if installing || by != Obstacle::Dependency => InstallOutcome::Hindered { by, code, reason },
        _ => InstallOutcome::Failed { code, reason },
    }
}

fn rpm() -> Result<PathBuf, Trouble> {
    find("rpm").ok_or_else(|| Trouble::failed("this machine has neither dnf nor rpm"))
}

fn root_args(root: Option<&Path>, args: &[&str]) -> Vec<OsString> {
    in_root(root).iter().map(String::as_str).chain(args.iter().copied()).map(OsString::from).collect()
}

/// Another root, and where its database is: this system's rpm may keep its own elsewhere (Debian's does, in root's home).
fn in_root(root: Option<&Path>) -> Vec<String> {
    let Some(root) = root else { return Vec::new() };
    let database = DATABASES.into_iter().find(|dir| root.join(dir).is_dir()).unwrap_or("var/lib/rpm");
    vec![format!("--root={}", root.display()), format!("--dbpath=/{database}")]
}

fn is_package_name(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"+._-".contains(&byte);
    name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(rest)
}

fn is_version(version: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b".+-:~^_".contains(&byte);
    version.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && version.bytes().all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_and_versions_never_reach_rpm() {
        if find("rpm").is_none() {
            eprintln!("SKIPPED: this machine has no rpm");
            return;
        }
        assert_eq!(installed("no-such-package-here", None, None), Ok(false));
        for bad in ["\")) os.execute(\"id", "%{lua:x}", "1}", "", "-e", "1 2"] {
            assert!(installed("rpm", Some(bad), None).is_err(), "{bad}");
            assert!(installed(bad, None, None).is_err(), "{bad}");
        }
    }
}
