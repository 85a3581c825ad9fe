//! RPM packages: through dnf where it is installed, which checks dependencies, else through rpm.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use upswarm_protocol::catalog::{ExitMeaning, PackageKind};
use upswarm_protocol::codec::Text;
use upswarm_protocol::node_state::InstallOutcome;
use upswarm_protocol::version;

use super::detect::{Verdict, query};
use super::exec::Session;
use super::payload::{installable, is_package_file, seal};
use super::program::{Ended, find};
use super::{Job, Trouble};

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
    let sealed = seal(job, &wanted, None)?;
    for path in sealed.paths() {
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
    args.extend(sealed.paths().map(|path| path.as_os_str().to_owned()));
    let mut session = Session::start(job)?;
    let ended = session.run(&program, args, &[], timeout_s, false)?;
    Ok(finish(session, ended, timeout_s))
}

/// Removes those of the packages that are installed. A package that others need stays, and that is a failure.
pub(super) fn remove(job: &Job<'_>, packages: &[Text<255>], timeout_s: u32) -> Result<InstallOutcome, Trouble> {
    if let Some(bad) = packages.iter().find(|name| !is_package_name(name)) {
        return Err(Trouble::failed(format!("{bad:?} is no name of a package")));
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
    let ended = session.run(&rpm()?, args, &[], timeout_s, false)?;
    Ok(finish(session, ended, timeout_s))
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

fn finish(mut session: Session<'_>, ended: Ended, timeout_s: u32) -> InstallOutcome {
    let end = session.log.end();
    let passing = [
        "can't create transaction lock",
        "transaction lock",
        "No space left",
        "needs at least",
        "more space needed",
        "Cannot download",
    ];
    let retry = passing.iter().any(|sign| end.contains(sign));
    session.finish(ended, timeout_s, |code| match code {
        0 => ExitMeaning::Success,
        _ if retry => ExitMeaning::Retry,
        _ => ExitMeaning::Failure,
    })
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
    let dirs = ["usr/lib/sysimage/rpm", "var/lib/rpm"];
    let database = dirs.into_iter().find(|dir| root.join(dir).is_dir()).unwrap_or("var/lib/rpm");
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
