//! Why rpm or dnf did not do what it was asked for, told from what it printed. It runs nothing and asks nothing.

use upswarm_protocol::node::Obstacle;

use super::{Finding, shortened};

/// Beginnings of lines that say nothing about a failure: rpm's steps, its words about itself, and what only repeats.
const IDLE: [&str; 6] =
    ["Verifying packages", "Preparing packages", "Verifying...", "Preparing...", "Updating / installing", "rpm: "];
const IDLE_ENDS: [&str; 2] = [": install failed", ": erase skipped"];
/// Beginnings of the lines in which dnf says why.
const DNF: [&str; 4] = ["Error: ", "Problem: ", "- nothing provides ", "- package "];

/// Reads the output of rpm or dnf in the C locale.
pub(in crate::installer) fn of_rpm(output: &str) -> Finding {
    let lines: Vec<&str> = output.lines().map(str::trim_end).filter(|line| !is_idle(line)).collect();
    let (mut why, mut script): (Vec<&str>, bool) = (Vec::new(), false);
    let (mut missing, mut conflict, mut full, mut locked, mut away) = (false, false, false, false, false);
    for (at, line) in lines.iter().enumerate() {
        let text = line.trim();
        let says = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
        // What is about the packages themselves is set in.
        let set_in = line.starts_with('\t') || line.starts_with("  ");
        if says(&["scriptlet failed"]) {
            // A warning is about a script that rpm itself does not count.
            if text.starts_with("error: ") {
                let said = lines[..at].iter().rev().take_while(|line| !is_report(line)).take(2).map(|line| line.trim());
                let said: Vec<_> = said.collect();
                why.extend(said.into_iter().rev());
                why.push(text);
                script = true;
            }
        } else if says(&["transaction lock"]) {
            (locked, why) = (true, [why, vec![text]].concat());
        } else if says(&["No space left", " more space on the ", "inodes on the ", "more space needed", "At least "]) {
            (full, why) = (true, [why, vec![text]].concat());
        } else if set_in && says(&[" is needed by "]) || says(&["nothing provides "]) {
            (missing, why) = (true, [why, vec![text.trim_start_matches("- ")]].concat());
        } else if set_in && says(&[" conflicts with ", " conflicts between ", " obsoletes ", " is obsoleted by "]) {
            (conflict, why) = (true, [why, vec![text]].concat());
        } else if says(&["Cannot download", "Failed to download", "Curl error", "Could not resolve host"]) {
            (away, why) = (true, [why, vec![text]].concat());
        } else if text != "error: Failed dependencies:"
            && (text.starts_with("error: ")
                || DNF.iter().any(|sign| text.starts_with(sign))
                || says(&["is already installed"]))
        {
            why.push(text);
        }
    }
    let by = if locked {
        Some(Obstacle::Locked)
    } else if full {
        Some(Obstacle::NoSpace)
    } else if script || conflict {
        None
    } else if missing {
        Some(Obstacle::Dependency)
    } else if away {
        Some(Obstacle::NoNetwork)
    } else {
        None
    };
    why.dedup();
    Finding { by, why: shortened(&why.join("; ")), blamed: Vec::new() }
}

fn is_idle(line: &str) -> bool {
    line.trim().is_empty()
        || IDLE.iter().any(|idle| line.starts_with(idle))
        || IDLE_ENDS.iter().any(|idle| line.ends_with(idle))
}

/// Whether rpm itself speaks, not a script.
fn is_report(line: &str) -> bool {
    ["error: ", "warning: ", "\t", "  "].iter().any(|sign| line.starts_with(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, by: Option<Obstacle>, why: &str) {
        let found = of_rpm(output);
        assert_eq!((found.by, &*found.why), (by, why), "{output}");
    }

    #[test]
    fn what_rpm_prints_is_told_apart() {
        let noise = "rpm: RPM should not be used directly install RPM packages, use Alien instead!\n\
                     rpm: However assuming you know what you are doing...\n";
        let needs = format!("{noise}error: Failed dependencies:\n\tdemo-base >= 2 is needed by needs-1-1.noarch\n");
        check(&needs, Some(Obstacle::Dependency), "demo-base >= 2 is needed by needs-1-1.noarch");
        let script = format!(
            "{noise}Verifying packages...\nPreparing packages...\ndemo-bad: cannot reach the licence server\n\
             error: %prein(bad-1-1.noarch) scriptlet failed, exit status 3\nerror: bad-1-1.noarch: install failed\n"
        );
        let why =
            "demo-bad: cannot reach the licence server; error: %prein(bad-1-1.noarch) scriptlet failed, exit status 3";
        check(&script, None, why);
        let files = "Preparing packages...\n\tfile /opt/f from install of two-1-1.noarch conflicts with file from package \
                     one-1-1.noarch\n";
        check(
            files,
            None,
            "file /opt/f from install of two-1-1.noarch conflicts with file from package one-1-1.noarch",
        );
        let both = "error: Failed dependencies:\n\tone conflicts with conf-1-1.noarch\n";
        check(both, None, "one conflicts with conf-1-1.noarch");
        let full =
            "Preparing packages...\n\tinstalling package big-1-1.noarch needs 3MB more space on the /opt filesystem\n";
        check(
            full,
            Some(Obstacle::NoSpace),
            "installing package big-1-1.noarch needs 3MB more space on the /opt filesystem",
        );
        let lock =
            "error: can't create transaction lock on /var/lib/rpm/.rpm.lock (Resource temporarily unavailable)\n";
        check(lock, Some(Obstacle::Locked), lock.trim());
        let older = "Preparing packages...\n\tpackage demo-2-1.noarch (which is newer than demo-1-1.noarch) is already installed\n";
        check(older, None, "package demo-2-1.noarch (which is newer than demo-1-1.noarch) is already installed");
    }

    #[test]
    fn what_dnf_prints_is_told_apart() {
        let needs = "Error: \n Problem: conflicting requests\n  - nothing provides demo-base >= 2 needed by needs-1-1.noarch from \
                     @commandline\n(try to add '--skip-broken' to skip uninstallable packages)\n";
        let found = of_rpm(needs);
        assert_eq!(found.by, Some(Obstacle::Dependency));
        assert!(found.why.contains("nothing provides demo-base >= 2 needed by needs-1-1.noarch"), "{found:?}");
        let away = "Errors during downloading metadata for repository 'baseos':\n  - Curl error (6): Could not resolve host\n\
                    Error: Failed to download metadata for repo 'baseos'\n";
        assert_eq!(of_rpm(away).by, Some(Obstacle::NoNetwork));
        let full =
            "Error: Transaction test error:\n  installing package big needs 3MB more space on the / filesystem\n";
        assert_eq!(of_rpm(full).by, Some(Obstacle::NoSpace));
    }
}
