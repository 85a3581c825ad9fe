use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::codec::{Bounded, Text};

/// The first name of every product that is a snapshot of a repository: `apt.debian-security`.
pub const APT_PREFIX: &str = "apt";

/// An index of a repository, as upstream published it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AptIndex {
    /// Position in [`super::Release::payloads`].
    pub payload: u16,
    /// Where it lies below `dists/<suite>/`, for example `main/binary-amd64/Packages.xz`.
    pub path: Text<255>,
}

/// Whether a machine gets a package that it does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenAbsent {
    /// It is installed only where an earlier version of it is.
    Never,
    /// It comes with one of these (positions in [`AptRecipe::packages`]) wherever that one is installed or upgraded.
    With(Bounded<u16, 8>),
    /// Every machine gets it.
    Always,
}

/// A package that a snapshot's approval covers, at exactly one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AptPackage {
    /// Position of its `.deb` in [`super::Release::payloads`].
    pub payload: u16,
    /// The binary package's name.
    pub name: Text<255>,
    /// Its version.
    pub version: Text<255>,
    /// Its architecture in dpkg's words; `all` for any.
    pub arch: Text<32>,
    /// The source package that it was built from.
    pub source: Text<255>,
    /// Whether a machine gets it that does not have it.
    pub when_absent: WhenAbsent,
}

/// Packages of one snapshot of a Debian repository: upstream's own signed metadata, and the files that were selected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AptRecipe {
    /// Position of upstream's description (name, suite, certificates) in [`super::Release::payloads`]. The root pins its hash.
    pub upstream: u16,
    /// Position of upstream's `InRelease`.
    pub in_release: u16,
    /// Upstream's indexes, which `InRelease` names by hash.
    pub indexes: Bounded<AptIndex, 32>,
    /// The selected packages: these versions and nothing else.
    pub packages: Bounded<AptPackage, 480>,
    /// Machines with later versions of them go back to these. Without it they keep what they have.
    pub back: bool,
    /// Seconds after which it is reported as hanging.
    pub timeout_s: u32,
}

/// How a machine stands with a selected package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is not installed.
    Absent,
    /// An earlier version is installed.
    Older,
    /// The selected version is installed.
    Same,
    /// A later version is installed.
    Newer,
}

impl AptRecipe {
    /// Positions in [`AptRecipe::packages`] of what a machine is to install or upgrade, or to take back to the selected version.
    ///
    /// A package that comes `With` others is needed where one of those is: what a machine already upgraded pulled in its
    /// dependencies then, and a later version of it may need them no more.
    pub fn needed(&self, standing: impl Fn(&AptPackage) -> Standing) -> BTreeSet<usize> {
        let standings: Vec<Standing> = self.packages.iter().map(standing).collect();
        let positions = || self.packages.iter().zip(&standings).enumerate();
        let mut needed: BTreeSet<usize> = positions()
            .filter(|(_, (package, standing))| match standing {
                Standing::Older => true,
                Standing::Absent => package.when_absent == WhenAbsent::Always,
                Standing::Same => false,
                Standing::Newer => self.back,
            })
            .map(|(at, _)| at)
            .collect();
        // What comes with something may bring something itself.
        loop {
            let more: Vec<usize> = positions()
                .filter(|(at, (package, standing))| {
                    let WhenAbsent::With(others) = &package.when_absent else { return false };
                    let comes = others.iter().any(|other| needed.contains(&usize::from(*other)));
                    comes && **standing == Standing::Absent && !needed.contains(at)
                })
                .map(|(at, _)| at)
                .collect();
            if more.is_empty() {
                return needed;
            }
            needed.extend(more);
        }
    }

    /// Whether the selection is about a machine at all: it has one of the packages, or is to get one.
    pub fn concerns(&self, standing: impl Fn(&AptPackage) -> Standing) -> bool {
        self.packages
            .iter()
            .any(|package| package.when_absent == WhenAbsent::Always || standing(package) != Standing::Absent)
    }

    /// Positions in [`super::Release::payloads`] of the metadata, which every machine needs.
    pub fn metadata(&self) -> impl Iterator<Item = usize> {
        let fixed = [self.upstream, self.in_release].into_iter();
        fixed.chain(self.indexes.iter().map(|index| index.payload)).map(usize::from)
    }
}

impl AptPackage {
    /// Whether a package installed for this architecture is an earlier state of this one: packages change between one
    /// architecture and `all`, and are not the same on two different ones.
    pub fn is_for(&self, arch: &str) -> bool {
        *self.arch == *arch || *self.arch == *"all" || arch == "all"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, when_absent: WhenAbsent) -> AptPackage {
        AptPackage {
            payload: 3,
            name: Text::lossy(name),
            version: Text::lossy("2"),
            arch: Text::lossy("amd64"),
            source: Text::lossy(name),
            when_absent,
        }
    }

    fn with(others: &[u16]) -> WhenAbsent {
        WhenAbsent::With(Bounded::truncated(others.to_vec()))
    }

    fn recipe(packages: Vec<AptPackage>) -> AptRecipe {
        AptRecipe {
            upstream: 0,
            in_release: 1,
            indexes: Bounded::truncated(vec![AptIndex {
                payload: 2,
                path: Text::lossy("main/binary-amd64/Packages.xz"),
            }]),
            packages: Bounded::truncated(packages),
            back: false,
            timeout_s: 60,
        }
    }

    fn needed(recipe: &AptRecipe, older: &[&str], newer: &[&str]) -> String {
        let standing = |package: &AptPackage| match &*package.name {
            name if older.contains(&name) => Standing::Older,
            name if newer.contains(&name) => Standing::Newer,
            _ => Standing::Absent,
        };
        let names = recipe.needed(standing).into_iter().map(|at| recipe.packages[at].name.to_string());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_machine_needs_what_it_has_in_an_earlier_version_and_what_that_brings() {
        let recipe = recipe(vec![
            package("image", with(&[1])),
            package("meta", WhenAbsent::Never),
            package("modules", with(&[0])),
            package("openssl", WhenAbsent::Never),
        ]);
        assert_eq!(needed(&recipe, &["meta"], &[]), "image meta modules");
        assert_eq!(needed(&recipe, &["openssl"], &["meta"]), "openssl");
        assert_eq!(needed(&recipe, &[], &[]), "");
        assert!(!recipe.concerns(|_| Standing::Absent));
        assert!(recipe.concerns(|package| if &*package.name == "meta" { Standing::Same } else { Standing::Absent }));
    }

    #[test]
    fn a_package_for_everybody_is_needed_wherever_it_is_not() {
        let recipe = recipe(vec![package("agent", WhenAbsent::Always), package("other", WhenAbsent::Never)]);
        assert_eq!(needed(&recipe, &[], &[]), "agent");
        assert_eq!(needed(&recipe, &[], &["agent"]), "");
        assert!(recipe.concerns(|_| Standing::Absent));
    }

    #[test]
    fn a_machine_goes_back_only_where_the_recipe_says_so() {
        let mut recipe = recipe(vec![package("a", WhenAbsent::Never), package("b", WhenAbsent::Never)]);
        assert_eq!(needed(&recipe, &["b"], &["a"]), "b");
        recipe.back = true;
        assert_eq!(needed(&recipe, &["b"], &["a"]), "a b");
        assert!(recipe.needed(|_| Standing::Same).is_empty());
    }

    #[test]
    fn packages_that_bring_each_other_come_to_an_end() {
        let recipe = recipe(vec![package("a", with(&[1])), package("b", with(&[0]))]);
        assert_eq!(needed(&recipe, &[], &[]), "");
    }

    #[test]
    fn another_architecture_is_another_package() {
        let mut here = package("libc6", WhenAbsent::Never);
        assert!(here.is_for("amd64") && here.is_for("all") && !here.is_for("i386"));
        here.arch = Text::lossy("all");
        assert!(here.is_for("amd64"));
    }
}
