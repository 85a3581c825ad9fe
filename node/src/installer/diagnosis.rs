//! Why a package manager did not do what it was asked for, told from what it printed: what on this machine stands in the way, if
//! it is that and not the package, and the lines that say so. Apt and dpkg are read here, rpm and dnf below. It runs nothing and
//! asks nothing.

mod rpm;

pub(super) use rpm::of_rpm;
use upswarm_protocol::node::Obstacle;

/// Characters of the lines that say why.
const WHY: usize = 300;

/// What the output of a package manager that failed comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// What stands in the way; `None` when it is the package itself.
    pub(super) by: Option<Obstacle>,
    /// The lines that say why, as one; empty when nothing in the output does.
    pub(super) why: String,
    /// The packages that dpkg could not process, by name; archives by their path.
    pub(super) blamed: Vec<String>,
}

/// Reads the output of apt-get or dpkg, asked for these packages, in the C locale.
pub(super) fn of_dpkg(output: &str, asked: &[&str]) -> Finding {
    let lines: Vec<&str> = output.lines().map(str::trim_end).collect();
    let is_asked = |name: &str| asked.contains(&name.split(':').next().unwrap_or(name));
    let (mut why, mut own_script, mut blamed): (Vec<String>, bool, Vec<String>) = (Vec::new(), false, Vec::new());
    let (mut missing, mut unready): (bool, Vec<&str>) = (false, Vec::new());
    for (at, line) in lines.iter().enumerate() {
        let next = lines.get(at + 1).map_or("", |next| next.trim());
        let package = line.strip_prefix("dpkg: error processing package ");
        if let Some(name) = package.or_else(|| line.strip_prefix("dpkg: error processing archive ")) {
            let name = name.rsplit_once(" (").map_or(name, |(name, _)| name);
            blamed.push(name.to_owned());
            if package.is_some() && !is_asked(name) {
                continue;
            }
            if next.starts_with("dependency problems") {
                continue;
            }
            // A script speaks between dpkg's last step and its error.
            let said = lines[..at].iter().rev().take_while(|line| !is_step(line)).take(2).collect::<Vec<_>>();
            why.extend(said.into_iter().rev().map(|line| line.trim().to_owned()));
            why.push(next.to_owned());
            own_script |= package.is_some();
        } else if let Some((package, need)) =
            line.strip_suffix("; however:").and_then(|line| line.split_once(" depends on "))
            && is_asked(package.trim())
        {
            why.push(format!("{} {next}", line.trim()));
            let other = next.strip_prefix("Package ").and_then(|rest| rest.strip_suffix(" is not configured yet."));
            match other {
                Some(other) => unready.extend((!is_asked(other)).then_some(other)),
                None => missing |= !need.is_empty(),
            }
        } else if let Some((package, need)) = line.trim().split_once(" : ")
            && line.starts_with(' ')
            && (need.starts_with("Depends: ") || need.starts_with("PreDepends: "))
        {
            why.push(line.trim().to_owned());
            if is_asked(package) { missing = true } else { unready.push(package) }
        } else if line.starts_with("dpkg: error: ") || (is_apt_error(line) && !line.contains("returned an error code"))
        {
            why.push((*line).to_owned());
        }
    }
    why.retain(|line| !line.is_empty());
    let says = |signs: &[&str]| why.iter().any(|line| signs.iter().any(|sign| line.contains(sign)));
    let others_only = !blamed.is_empty() && blamed.iter().all(|name| !name.contains('/') && !is_asked(name));
    let by = if says(&["Could not get lock", "is locked by another process", "lock was locked by", "Unable to lock"]) {
        Some(Obstacle::Locked)
    } else if says(&["No space left on device", "enough free space"]) {
        Some(Obstacle::NoSpace)
    } else if own_script {
        None
    } else if says(&["--allow-change-held-packages"]) {
        Some(Obstacle::Held)
    } else if others_only || !unready.is_empty() || says(&["dpkg was interrupted"]) {
        Some(Obstacle::Broken)
    } else if missing {
        Some(Obstacle::Dependency)
    } else if says(&["Failed to fetch", "Unable to fetch", "Temporary failure"]) {
        Some(Obstacle::NoNetwork)
    } else {
        None
    };
    let mut why = why.join("; ");
    if by == Some(Obstacle::Broken) {
        let mut names: Vec<&str> = unready;
        if others_only {
            names.extend(blamed.iter().map(String::as_str));
        }
        names.sort_unstable();
        names.dedup();
        let broken = if names.is_empty() { "dpkg".to_owned() } else { names.join(", ") };
        why = format!("{broken} is broken on this machine, repair it with: dpkg --configure -a; {why}");
    }
    Finding { by, why: shortened(why.trim_end_matches("; ")), blamed }
}

fn is_apt_error(line: &str) -> bool {
    line.starts_with("E: ") || line.starts_with("Error: ")
}

/// Whether dpkg says what it is about to do.
fn is_step(line: &str) -> bool {
    const STEPS: [&str; 10] = [
        "Setting up ",
        "Unpacking ",
        "Preparing to unpack ",
        "Removing ",
        "Selecting previously ",
        "(Reading database",
        "Processing triggers ",
        "Installing new version of config file ",
        "Installing new config file ",
        "dpkg: ",
    ];
    STEPS.iter().any(|step| line.starts_with(step)) || line.starts_with(" ")
}

/// Fit for any terminal, and cut between words.
fn shortened(text: &str) -> String {
    let plain = super::log::plain(text);
    if plain.chars().count() <= WHY {
        return plain;
    }
    let head: String = plain.chars().take(WHY).collect();
    format!("{} ...", head.rsplit_once(' ').map_or(&*head, |(words, _)| words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, asked: &str, by: Option<Obstacle>, why: &str) {
        let found = of_dpkg(output, &[asked]);
        assert_eq!((found.by, &*found.why), (by, why), "{output}");
    }

    #[test]
    fn a_script_that_fails_is_the_package_s_own_fault_and_its_words_come_first() {
        let dpkg = "Unpacking demo-half (1) ...\nSetting up demo-half (1) ...\n\
            demo-half: cannot reach the licence server at 10.0.0.1\n\
            dpkg: error processing package demo-half (--install):\n \
            installed demo-half package post-installation script subprocess returned error exit status 1\n\
            Errors were encountered while processing:\n demo-half\n";
        let why = "demo-half: cannot reach the licence server at 10.0.0.1; \
                   installed demo-half package post-installation script subprocess returned error exit status 1";
        check(dpkg, "demo-half", None, why);
        let apt = format!("Reading package lists...\n{dpkg}E: Sub-process /usr/bin/dpkg returned an error code (1)\n");
        check(&apt, "demo-half", None, why);
        let other = of_dpkg(&apt, &["demo-after"]);
        assert_eq!((other.by, other.blamed), (Some(Obstacle::Broken), vec!["demo-half".to_owned()]));
        assert!(other.why.starts_with("demo-half is broken on this machine, repair it with: dpkg --configure -a"));
    }

    #[test]
    fn what_it_depends_on_is_named_missing_or_broken() {
        let dpkg = |need: &str, state: &str| {
            format!(
                "dpkg: dependency problems prevent configuration of demo:\n demo depends on {need}; however:\n  {state}\n\n\
                 dpkg: error processing package demo (--install):\n dependency problems - leaving unconfigured\n"
            )
        };
        let missing = dpkg("demo-base (>= 2)", "Package demo-base is not installed.");
        let why = "demo depends on demo-base (>= 2); however: Package demo-base is not installed.";
        check(&missing, "demo", Some(Obstacle::Dependency), why);
        let broken = of_dpkg(&dpkg("demo-half", "Package demo-half is not configured yet."), &["demo"]);
        assert_eq!(broken.by, Some(Obstacle::Broken));
        assert!(broken.why.starts_with("demo-half is broken"), "{broken:?}");
        let apt = "The following packages have unmet dependencies:\n \
                   demo : Depends: demo-base (>= 2) but it is not installable\n\
                   E: Unable to correct problems, you have held broken packages.\n";
        let why = "demo : Depends: demo-base (>= 2) but it is not installable; \
                   E: Unable to correct problems, you have held broken packages.";
        check(apt, "demo", Some(Obstacle::Dependency), why);
        assert_eq!(of_dpkg(apt, &["fine"]).by, Some(Obstacle::Broken));
    }

    #[test]
    fn a_full_disk_and_a_lock_are_obstacles() {
        let full = "Unpacking demo-big (1) ...\ndpkg: error processing archive /b/demo-big.deb (--install):\n \
                    cannot copy extracted data for './opt/f' to '/opt/f.dpkg-new': failed to write (No space left on device)\n";
        assert_eq!(of_dpkg(full, &["demo-big"]).by, Some(Obstacle::NoSpace));
        let lock = "dpkg: error: dpkg frontend lock was locked by another process with pid 13843\n\
                    Note: removing the lock file is always wrong, can damage the locked area\n";
        let why = "dpkg: error: dpkg frontend lock was locked by another process with pid 13843";
        check(lock, "demo", Some(Obstacle::Locked), why);
        let apt = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 15123 (python3)\n";
        check(apt, "demo", Some(Obstacle::Locked), apt.trim());
        check("E: Unable to locate package x\n", "x", None, "E: Unable to locate package x");
    }
}
