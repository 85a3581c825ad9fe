//! Debian packages: through apt, which checks dependencies and takes dpkg's lock, or dpkg alone where there is no apt.
//!
//! Packages that were not there before an install that failed are taken away again. One that was there at another version
//! cannot be brought back from here, because its own package is not at hand: it is named in the reason, and the next job for it
//! may put any approved version in its place.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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

/// Questions get their default answer; changed configuration files stay.
pub(super) const ENV: [(&str, &str); 4] = [
    // What they print is read.
    ("LC_ALL", "C"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
];
const APT: [&str; 7] = [
    "-y",
    "--no-install-recommends",
    "-oDpkg::Options::=--force-confdef",
    "-oDpkg::Options::=--force-confold",
    "-oDpkg::Use-Pty=0",
    // The verified copies can be read by this user alone.
    "-oAPT::Sandbox::User=root",
    "-q",
];
/// What distributions touch when a package wants a restart.
const REBOOT_REQUIRED: &str = "/run/reboot-required";

/// Installs every payload but patches.
pub(super) fn install(job: &Job<'_>, timeout_s: u32) -> Result<InstallOutcome, Trouble> {
    let wanted = installable(job);
    if wanted.is_empty() {
        return Err(Trouble::failed("the release has no package to install"));
    }
    if let Some(other) =
        wanted.iter().map(|at| &job.release.payloads[*at].name).find(|name| !is_package_file(name, ".deb"))
    {
        return Err(Trouble::failed(format!("the payload {other:?} is not named as .deb files are")));
    }
    if let Some(locked) = locked(job.root) {
        return Ok(locked);
    }
    let snapshot = snapshot(job, &wanted, None)?;
    let files: Vec<OsString> = snapshot.paths().map(|path| path.as_os_str().to_owned()).collect();
    let asked: Vec<(String, String)> = snapshot.paths().filter_map(package_of).collect();
    let names: Vec<&str> = asked.iter().map(|(name, _)| name.as_str()).collect();
    if let Some(held) = held(&names, job.root)? {
        return Ok(held);
    }
    let start = SystemTime::now();
    let mut session = Session::start(job)?;
    if let Some(early) = mend(&mut session, job.root, timeout_s)? {
        return Ok(finish(session, early, timeout_s, start, &names, || false));
    }
    let before: Vec<(String, Standing)> = names
        .iter()
        .map(|name| standing(name, job.root).map(|standing| ((*name).to_owned(), standing)))
        .collect::<Result<_, _>>()
        .map_err(Trouble::retry)?;
    // What is half installed is of no use to anybody: any approved version is better.
    let downgrade = job.downgrade || before.iter().any(|(_, standing)| *standing == Standing::Broken);
    let (program, args) = match (job.root, find("apt-get")) {
        (None, Some(apt)) => {
            let downgrade = downgrade.then_some("--allow-downgrades");
            let own = downgrade.into_iter().chain(["install", "--"]);
            (apt, strings(APT.iter().copied().chain([&*lock_timeout(timeout_s)]).chain(own)))
        }
        (root, _) => {
            let root = in_root(root);
            let refuse = (!downgrade).then_some("--refuse-downgrade");
            let args = root.iter().map(String::as_str).chain(["--force-confdef", "--force-confold"]).chain(refuse);
            (dpkg()?, strings(args.chain(["--install", "--"])))
        }
    };
    let ended = session.run(&program, args.into_iter().chain(files).collect(), &ENV, timeout_s, false)?;
    let whole = || {
        asked.len() == wanted.len() && asked.iter().all(|(name, version)| is_at(name, version, job.root) == Ok(true))
    };
    let outcome = finish(session, ended, timeout_s, start, &names, whole);
    Ok(put_right(job, &before, timeout_s, outcome))
}

/// Removes those of the packages that are installed; their configuration stays.
pub(super) fn remove(job: &Job<'_>, packages: &[Text<255>], timeout_s: u32) -> Result<InstallOutcome, Trouble> {
    if let Some(bad) = packages.iter().find(|name| !is_package_name(name)) {
        return Err(Trouble::failed(format!("{bad:?} is no name of a package")));
    }
    let names: Vec<&str> = packages.iter().map(Text::as_str).collect();
    if let Some(hindered) = locked(job.root).map_or_else(|| held(&names, job.root), |locked| Ok(Some(locked)))? {
        return Ok(hindered);
    }
    let start = SystemTime::now();
    let mut session = Session::start(job)?;
    if let Some(early) = mend(&mut session, job.root, timeout_s)? {
        return Ok(finish(session, early, timeout_s, start, &names, || false));
    }
    let (program, mut args) = match (job.root, find("apt-get")) {
        (None, Some(apt)) => (apt, strings(APT.iter().copied().chain([&*lock_timeout(timeout_s), "remove", "--"]))),
        (root, _) => (dpkg()?, strings(in_root(root).iter().map(String::as_str).chain(["--remove", "--"]))),
    };
    let before = args.len();
    for name in packages {
        // In another root dpkg itself says which are not there, without failing.
        if installed(name, None, job.root).map_err(Trouble::retry)? {
            args.push(name.as_str().into());
        }
    }
    if args.len() == before {
        return Ok(InstallOutcome::Done { restart: false, code: None });
    }
    let ended = session.run(&program, args, &ENV, timeout_s, false)?;
    let gone = || names.iter().all(|name| standing(name, job.root) == Ok(Standing::Absent));
    Ok(finish(session, ended, timeout_s, start, &names, gone))
}

/// Whether a package is installed, at this version or a later one.
pub(super) fn installed(name: &str, version: Option<&str>, root: Option<&Path>) -> Verdict {
    if !is_package_name(name) {
        return Err(format!("{name:?} is no name of a Debian package"));
    }
    if let Some(bad) = version.filter(|version| !is_version(version)) {
        return Err(format!("{bad:?} is no version of a Debian package"));
    }
    let query_tool = find("dpkg-query").ok_or("this machine has no dpkg-query to ask for Debian packages")?;
    let database = root.map(|root| format!("--admindir={}", root.join("var/lib/dpkg").display()));
    let args: Vec<&str> =
        database.as_deref().into_iter().chain(["-W", "-f", "${db:Status-Status}\t${Version}\n", name]).collect();
    let (code, output) = query(&query_tool, &args)?;
    match code {
        0 => {}
        1 => return Ok(false),
        code => return Err(format!("dpkg-query failed with exit code {code}: {}", output.trim())),
    }
    // One line per architecture of the package.
    for line in output.lines() {
        let Some(found) = line.strip_prefix("installed\t") else { continue };
        let Some(wanted) = version else { return Ok(true) };
        if version::compare(PackageKind::Deb, found, wanted).is_ge() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a package stands with dpkg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Not there, or only its configuration.
    Absent,
    /// Installed, though triggers of others may be pending.
    Whole,
    /// Half installed, or not configured.
    Broken,
}

fn standing(name: &str, root: Option<&Path>) -> Result<Standing, String> {
    let output = ask(name, "${db:Status-Status}\n", root)?;
    // One line per architecture of the package.
    let states: Vec<&str> =
        output.lines().filter(|state| !matches!(*state, "not-installed" | "config-files")).collect();
    Ok(match states.as_slice() {
        [] => Standing::Absent,
        states if states.iter().all(|state| *state == "installed" || state.starts_with("triggers-")) => Standing::Whole,
        _ => Standing::Broken,
    })
}

/// The name and version of the package in a file; `None` if they cannot be told, which dpkg itself will complain about.
fn package_of(file: &Path) -> Option<(String, String)> {
    let format = "--showformat=${Package}\t${Version}\n";
    let (code, output) = query(&find("dpkg-deb")?, &["-W", format, file.to_str()?]).ok()?;
    let (name, version) = output.trim().split_once('\t')?;
    (code == 0 && is_package_name(name)).then(|| (name.to_owned(), version.to_owned()))
}

/// What dpkg-query says of a package in a format, one line per architecture; nothing for one that it does not know.
fn ask(name: &str, format: &str, root: Option<&Path>) -> Result<String, String> {
    let tool = find("dpkg-query").ok_or("this machine has no dpkg-query to ask for Debian packages")?;
    let database = root.map(|root| format!("--admindir={}", root.join("var/lib/dpkg").display()));
    let args = database.as_deref().into_iter().chain(["-W", "-f", format, name]);
    match query(&tool, &args.collect::<Vec<_>>())? {
        (0, output) => Ok(output),
        (1, _) => Ok(String::new()),
        (code, output) => Err(format!("dpkg-query failed with exit code {code}: {}", output.trim())),
    }
}

/// Whether a package is installed at exactly this version, and configured.
fn is_at(name: &str, version: &str, root: Option<&Path>) -> Verdict {
    let wanted = format!("installed\t{version}");
    Ok(ask(name, "${db:Status-Status}\t${Version}\n", root)?.lines().any(|line| line == wanted))
}

/// Says so when this machine's package manager was told to keep one of the packages as it is.
fn held(names: &[&str], root: Option<&Path>) -> Result<Option<InstallOutcome>, Trouble> {
    for name in names {
        let wanted = ask(name, "${db:Status-Want}\n", root).map_err(Trouble::retry)?;
        if wanted.lines().any(|wanted| wanted == "hold") {
            let reason = format!("{name} is held on this machine by its package manager (apt-mark hold)");
            return Ok(Some(InstallOutcome::Hindered { by: Obstacle::Held, code: None, reason }));
        }
    }
    Ok(None)
}

/// Says so when another program holds dpkg's lock: nothing is begun then.
pub(super) fn locked(root: Option<&Path>) -> Option<InstallOutcome> {
    let database = root.unwrap_or(Path::new("/")).join("var/lib/dpkg");
    let holder = ["lock-frontend", "lock"].iter().find_map(|lock| lock_holder(&database.join(lock)))?;
    let reason = format!("the package manager is locked by {holder}");
    Some(InstallOutcome::Hindered { by: Obstacle::Locked, code: None, reason })
}

/// After an install that did not work: all or none of its packages, as far as that is possible.
fn put_right(job: &Job<'_>, before: &[(String, Standing)], timeout_s: u32, outcome: InstallOutcome) -> InstallOutcome {
    let (by, code, reason) = match outcome {
        InstallOutcome::Failed { code, reason } => (None, code, reason),
        InstallOutcome::Hindered { by, code, reason } => (Some(by), code, reason),
        other => return other,
    };
    let now = |name: &str| standing(name, job.root).unwrap_or(Standing::Broken);
    let new = before.iter().filter(|(name, before)| *before == Standing::Absent && now(name) != Standing::Absent);
    let new: Vec<&str> = new.map(|(name, _)| name.as_str()).collect();
    // The path of the log comes last: what is told elsewhere is shorter than what is kept here.
    let (why, log) = match reason.rsplit_once(" [").filter(|(_, log)| log.ends_with(']')) {
        Some((why, log)) => (why.to_owned(), format!(" [{log}")),
        None => (reason, String::new()),
    };
    let mut words = vec![why];
    if !new.is_empty() {
        let removed = Session::start(job).and_then(|mut session| {
            let root = in_root(job.root);
            let args = root.iter().map(String::as_str).chain(["--force-remove-reinstreq", "--remove", "--"]);
            session.run(&dpkg()?, strings(args.chain(new.iter().copied())), &ENV, timeout_s, false)
        });
        if removed.is_ok() && new.iter().all(|name| now(name) == Standing::Absent) {
            words.push(format!("{} was taken away again", new.join(", ")));
        }
    }
    let broken: Vec<&str> =
        before.iter().map(|(name, _)| name.as_str()).filter(|name| now(name) == Standing::Broken).collect();
    if !broken.is_empty() {
        words.push(format!("{} is left half installed", broken.join(", ")));
    }
    let reason = words.join("; ") + &log;
    match by {
        Some(by) => InstallOutcome::Hindered { by, code, reason },
        None => InstallOutcome::Failed { code, reason },
    }
}

/// Finishes what an interrupted dpkg has left half done: nothing can be installed before. `Some` when that did not work.
pub(super) fn mend(session: &mut Session<'_>, root: Option<&Path>, timeout_s: u32) -> Result<Option<Ended>, Trouble> {
    let dpkg = dpkg()?;
    let root_args = in_root(root);
    let with_root = |args: &[&'static str]| -> Vec<String> {
        root_args.iter().cloned().chain(args.iter().map(|arg| (*arg).to_owned())).collect()
    };
    let audit = with_root(&["--audit"]);
    let (_, audit) = query(&dpkg, &audit.iter().map(String::as_str).collect::<Vec<_>>()).map_err(Trouble::retry)?;
    if audit.trim().is_empty() && !has_journal(root.unwrap_or(Path::new("/"))) {
        return Ok(None);
    }
    let args = with_root(&["--force-confdef", "--force-confold", "--configure", "-a"]);
    let args = args.into_iter().map(OsString::from).collect();
    let ended = session.run(&dpkg, args, &ENV, timeout_s, false)?;
    // A package that cannot be configured need not stand in the way of this one: apt says if it does. A hanging one does.
    Ok(matches!(ended, Ended::TimedOut | Ended::Signal(_)).then_some(ended))
}

/// Whether dpkg was interrupted while it wrote its database ("you must manually run 'dpkg --configure -a'").
fn has_journal(root: &Path) -> bool {
    let entries = fs::read_dir(root.join("var/lib/dpkg/updates")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
}

/// The outcome for the packages asked for: the trouble of others is none of it when these are `as_wanted`.
fn finish(
    mut session: Session<'_>,
    ended: Ended,
    timeout_s: u32,
    start: SystemTime,
    asked: &[&str],
    as_wanted: impl FnOnce() -> bool,
) -> InstallOutcome {
    let Ended::Code(number @ 1..) = ended else {
        return session.finish(ended, timeout_s, |_| match wants_restart(start) {
            true => ExitMeaning::RestartRequired,
            false => ExitMeaning::Success,
        });
    };
    let code = Some(number);
    let found = diagnosis::of_dpkg(&session.log.end(), asked);
    if found.by == Some(Obstacle::Broken) && !found.blamed.is_empty() && as_wanted() {
        let words = format!("\nupswarm: what was asked for is done; {}\n", found.why);
        session.log.write(words.as_bytes());
        return InstallOutcome::Done { restart: wants_restart(start), code };
    }
    if found.why.is_empty() {
        return session.finish(ended, timeout_s, |_| ExitMeaning::Failure);
    }
    let reason = format!("{} (exit code {number}) [{}]", found.why, session.log.close().display());
    match found.by {
        Some(by) => InstallOutcome::Hindered { by, code, reason },
        None => InstallOutcome::Failed { code, reason },
    }
}

/// Whether a package has asked for a restart of the machine since then.
pub(super) fn wants_restart(since: SystemTime) -> bool {
    fs::metadata(REBOOT_REQUIRED).and_then(|found| found.modified()).is_ok_and(|at| at >= since)
}

/// Waits for another package manager, but leaves time for the work itself.
pub(super) fn lock_timeout(timeout_s: u32) -> String {
    format!("-oDPkg::Lock::Timeout={}", (timeout_s / 2).min(600))
}

fn in_root(root: Option<&Path>) -> Vec<String> {
    root.map(|root| format!("--root={}", root.display())).into_iter().collect()
}

fn dpkg() -> Result<PathBuf, Trouble> {
    find("dpkg").ok_or_else(|| Trouble::failed("this machine has neither apt-get nor dpkg"))
}

fn strings<'a>(args: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    args.into_iter().map(OsString::from).collect()
}

/// Debian policy 5.6.1, with an architecture if one is given; nothing that dpkg-query would take for a pattern or an option.
pub(super) fn is_package_name(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"+.-:".contains(&byte);
    name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(rest)
}

/// Debian policy 5.6.12.
pub(super) fn is_version(version: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b".+-:~".contains(&byte);
    version.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && version.bytes().all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_knows_its_dpkg() {
        if find("dpkg-query").is_none() {
            eprintln!("SKIPPED: this machine has no dpkg");
            return;
        }
        assert_eq!(installed("dpkg", None, None), Ok(true));
        assert_eq!(installed("dpkg", Some("1.0"), None), Ok(true));
        assert_eq!(installed("dpkg", Some("999:1.0~rc1-1"), None), Ok(false));
        assert_eq!(installed("no-such-package-here", None, None), Ok(false));
        for bad in ["*", "", "-W", "dp kg", "dpkg*", "a;b", "../x"] {
            assert!(installed(bad, None, None).is_err(), "{bad}");
        }
        for bad in ["", "$(id)", "1 ge 0", "-1", "1;2"] {
            assert!(installed("dpkg", Some(bad), None).is_err(), "{bad}");
        }
    }
}
