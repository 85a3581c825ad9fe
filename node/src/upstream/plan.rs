//! The steps of `apt-get -s`, told from what it printed in the C locale. The coordinator tries an approval by them, and a machine looks
//! once more before it acts.

/// One step of a simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A package goes, or is purged.
    Remove {
        /// Its name, with its architecture if that is foreign.
        name: String,
    },
    /// A package is unpacked.
    Install {
        /// Without the architecture.
        name: String,
        /// The version that is there, if one is.
        before: Option<String>,
        /// The version that comes.
        version: String,
        /// Its architecture.
        arch: String,
    },
}

/// The steps of `apt-get -s`. A line that begins like a step and cannot be read is an error: it might be anything.
pub(crate) fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Remv" | "Purg"), Some(name)) => steps.push(Step::Remove { name: name.to_owned() }),
            (Some("Inst"), Some(name)) => {
                steps.push(
                    coming(name, line).ok_or_else(|| format!("apt's plan has a line {line:?} that cannot be read"))?,
                );
            }
            _ => {}
        }
    }
    Ok(steps)
}

/// `Inst NAME[:ARCH] [OLD] (NEW ORIGIN [ARCH]) [BREAKS]`.
fn coming(name: &str, line: &str) -> Option<Step> {
    let (head, rest) = line.split_once(" (")?;
    let before = head.split_once('[').map(|(_, old)| old.trim_end_matches(']').to_owned());
    let (inner, _) = rest.split_once(')')?;
    let version = inner.split_ascii_whitespace().next()?.to_owned();
    let arch = inner.rsplit_once('[')?.1.strip_suffix(']')?.to_owned();
    let name = name.split(':').next()?.to_owned();
    Some(Step::Install { name, before, version, arch })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_line_by_line() {
        let text = "Reading package lists...\nThe following packages will be REMOVED:\n  libssl-dev libpq-dev\n  old\n\
                    The following NEW packages will be installed:\n  alld\n\
                    Remv libssl-dev [3.0.1]\nPurg old [1]\n\
                    Inst libssl3:i386 [3.0.1] (3.0.2 Debian:12.8/stable, Debian-Security:12/stable-security [i386]) []\n\
                    Inst alld (2.0 s [all])\nConf alld (2.0 s [all])\n";
        let install = |name: &str, before: Option<&str>, version: &str, arch: &str| Step::Install {
            name: name.into(),
            before: before.map(str::to_owned),
            version: version.into(),
            arch: arch.into(),
        };
        let remove = |name: &str| Step::Remove { name: name.into() };
        let read = [
            remove("libssl-dev"),
            remove("old"),
            install("libssl3", Some("3.0.1"), "3.0.2", "i386"),
            install("alld", None, "2.0", "all"),
        ];
        assert_eq!(steps(text), Ok(read.to_vec()));
        assert!(steps("Inst something odd\n").is_err());
    }
}
