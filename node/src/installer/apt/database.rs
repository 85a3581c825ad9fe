//! What dpkg says of every package of the machine, read once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use upswarm_protocol::catalog::{AptPackage, PackageKind, Standing};
use upswarm_protocol::version;

use super::super::query::Question;
use crate::sys::find;
use crate::upstream::is_architecture;

/// A machine with 20,000 packages has less.
const MAX_OUTPUT: usize = 8 << 20;
const FORMAT: &str = "${Package}\t${Architecture}\t${Version}\t${db:Status-Status}\t${db:Status-Want}\n";

/// The packages that are there, whole or not.
#[derive(Debug)]
pub(super) struct Database {
    /// By name, each with its architecture.
    packages: BTreeMap<String, Vec<(String, Package)>>,
    /// The machine's own architecture first, then those that it accepts beside it.
    architectures: Vec<String>,
}

#[derive(Debug)]
struct Package {
    version: String,
    /// Half installed, or not configured.
    broken: bool,
    held: bool,
}

impl Database {
    /// Asks dpkg.
    pub(super) fn read(root: Option<&Path>) -> Result<Self, String> {
        let dpkg = find("dpkg").ok_or("this machine has no dpkg")?;
        let in_root = root.map(|root| format!("--root={}", root.display()));
        let dpkg_says = |what: &str| {
            let args = in_root.iter().map(OsString::from).chain([what.into()]).collect();
            let (code, text) = Question { path: &dpkg, args, env: &[], limit: 4 << 10, within_s: 60 }.ask()?;
            if code == 0 { Ok(text) } else { Err(format!("dpkg {what} failed with exit code {code}: {}", text.trim())) }
        };
        let mut architectures = vec![dpkg_says("--print-architecture")?.trim().to_owned()];
        architectures.extend(dpkg_says("--print-foreign-architectures")?.lines().map(|line| line.trim().to_owned()));
        architectures.retain(|arch| is_architecture(arch));
        let path = find("dpkg-query").ok_or("this machine has no dpkg-query")?;
        let database = root.map(|root| format!("--admindir={}", root.join("var/lib/dpkg").display()));
        let args = database.iter().map(OsString::from).chain(["-W", "-f", FORMAT].map(OsString::from)).collect();
        let (code, text) = Question { path: &path, args, env: &[], limit: MAX_OUTPUT, within_s: 120 }.ask()?;
        if code != 0 {
            return Err(format!("dpkg-query failed with exit code {code}: {}", text.trim()));
        }
        if text.len() >= MAX_OUTPUT {
            return Err(format!("dpkg-query says more than {MAX_OUTPUT} bytes of this machine's packages"));
        }
        Ok(Self { packages: packages(&text), architectures })
    }

    /// How the machine stands with a selected package. What is left half installed counts as installed.
    pub(super) fn standing(&self, package: &AptPackage) -> Standing {
        let newest = self.of(package).max_by(|a, b| version::compare(PackageKind::Deb, &a.version, &b.version));
        match newest {
            None => Standing::Absent,
            Some(newest) => Standing::of(&newest.version, &package.version),
        }
    }

    /// Whether it is left half installed.
    pub(super) fn is_broken(&self, package: &AptPackage) -> bool {
        self.of(package).any(|found| found.broken)
    }

    /// Whether dpkg was told to keep it as it is.
    pub(super) fn is_held(&self, package: &AptPackage) -> bool {
        self.of(package).any(|found| found.held)
    }

    /// Whether packages of an architecture can be installed here.
    pub(super) fn accepts(&self, arch: &str) -> bool {
        arch == "all" || self.architectures.iter().any(|accepted| accepted == arch)
    }

    fn of(&self, package: &AptPackage) -> impl Iterator<Item = &Package> {
        let named = self.packages.get(package.name.as_str()).into_iter().flatten();
        named.filter(|(arch, _)| package.is_for(arch)).map(|(_, found)| found)
    }
}

fn packages(text: &str) -> BTreeMap<String, Vec<(String, Package)>> {
    let mut packages: BTreeMap<String, Vec<(String, Package)>> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let mut next = || fields.next().unwrap_or_default();
        let (name, arch, version, status, want) = (next(), next(), next(), next(), next());
        if matches!(status, "not-installed" | "config-files" | "") {
            continue;
        }
        let broken = status != "installed" && !status.starts_with("triggers-");
        let package = Package { version: version.to_owned(), broken, held: want == "hold" };
        packages.entry(name.to_owned()).or_default().push((arch.to_owned(), package));
    }
    packages
}

#[cfg(test)]
mod tests {
    use upswarm_protocol::catalog::WhenAbsent;
    use upswarm_protocol::codec::Text;

    use super::*;

    #[test]
    fn a_package_is_found_by_its_architecture_or_as_one_for_all() {
        let text = "libx\tamd64\t1\tinstalled\tinstall\nlibx\ti386\t0.9\tinstalled\thold\n\
                    doc\tall\t3\thalf-configured\tinstall\ngone\tamd64\t1\tconfig-files\tdeinstall\n\
                    slow\tamd64\t2\ttriggers-pending\tinstall\n";
        let database = Database { packages: packages(text), architectures: vec!["amd64".into(), "i386".into()] };
        let selected = |name: &str, arch: &str| AptPackage {
            payload: 0,
            name: Text::lossy(name),
            version: Text::lossy("2"),
            arch: Text::lossy(arch),
            source: Text::lossy(name),
            when_absent: WhenAbsent::Never,
        };
        for (name, arch, standing) in [
            ("libx", "amd64", Standing::Older),
            ("libx", "i386", Standing::Older),
            ("libx", "arm64", Standing::Absent),
            ("doc", "amd64", Standing::Newer),
            ("gone", "amd64", Standing::Absent),
            ("slow", "amd64", Standing::Same),
        ] {
            assert_eq!(database.standing(&selected(name, arch)), standing, "{name} {arch}");
        }
        assert!(database.is_held(&selected("libx", "i386")) && !database.is_held(&selected("libx", "amd64")));
        assert!(database.is_broken(&selected("doc", "all")) && !database.is_broken(&selected("slow", "amd64")));
        assert!(database.accepts("i386") && database.accepts("all") && !database.accepts("arm64"));
    }
}
