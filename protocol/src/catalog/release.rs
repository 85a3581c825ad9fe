use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::codec::{Bounded, Text};
use crate::ids::{DocHash, PayloadId, ReleaseId};
use crate::time::Wall;

use super::apt::AptRecipe;

/// Why a release exists, in the field's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Classification {
    /// Mends a vulnerability.
    Security,
    /// Mends something that hurts many.
    Critical,
    /// Mends bugs.
    Update,
    /// Adds something.
    Feature,
    /// New data: signatures, definitions.
    Definition,
    /// Hardware support.
    Driver,
    /// A program that was not there before.
    Application,
}

/// How bad it is not to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nobody said.
    Unspecified,
    /// Low.
    Low,
    /// Moderate.
    Moderate,
    /// Important.
    Important,
    /// Critical.
    Critical,
}

/// Machines that a release is for; an empty text means any.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// As in Rust's `std::env::consts::OS`: `linux`, `windows`, `macos`.
    pub os: Text<32>,
    /// As in Rust's `std::env::consts::ARCH`: `x86_64`, `aarch64`.
    pub arch: Text<32>,
}

/// A binary difference from a payload that machines may already hold. The patch is itself a payload of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// The payload that a machine must hold to apply it.
    pub base: PayloadId,
    /// Position of the patch in [`Release::payloads`].
    pub payload: u16,
    /// How to apply it.
    pub encoding: Text<32>,
}

/// A file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The file's name, without directories.
    pub name: Text<255>,
    /// BLAKE3 of its bytes.
    pub id: PayloadId,
    /// Bytes.
    pub len: u64,
    /// Hash of its chunk list ([`crate::chunk::ChunkList`]).
    pub chunk_list: DocHash,
    /// Bytes of its chunk list.
    pub chunk_list_len: u32,
    /// SHA-256 of its bytes, for formats of other clients.
    pub sha256: [u8; 32],
    /// Vendor's URLs that serve the same bytes by range; without any, the origins of the index serve it.
    pub urls: Bounded<Text<1024>, 8>,
    /// Differences from older payloads to this one.
    pub patches: Bounded<Patch, 16>,
}

/// Which package database a rule speaks about, and whose version order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageKind {
    /// Debian packages.
    Deb,
    /// RPM packages.
    Rpm,
    /// Flatpak applications.
    Flatpak,
    /// Snaps.
    Snap,
}

/// A sign that the release is installed. All rules of a release must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detect {
    /// A file with exactly this content.
    FileHash {
        /// Absolute path.
        path: Text<1024>,
        /// BLAKE3 of its content.
        blake3: [u8; 32],
    },
    /// A file of at most 1 MiB that contains this text.
    FileContains {
        /// Absolute path.
        path: Text<1024>,
        /// What must occur in it.
        text: Text<1024>,
    },
    /// A file exists.
    FileExists {
        /// Absolute path.
        path: Text<1024>,
    },
    /// A command that ends with this code. Run without a shell.
    Command {
        /// Program and arguments; the program by absolute path.
        argv: Bounded<Text<1024>, 64>,
        /// The code that means installed.
        exit_code: i32,
        /// Seconds after which it is ended and the rule does not hold.
        timeout_s: u32,
    },
    /// A package at this version or a later one.
    Package {
        /// Which database.
        kind: PackageKind,
        /// The package's name.
        name: Text<255>,
        /// The least version that counts.
        version: Text<255>,
    },
    /// Nothing of the [`AptRecipe`] is left to be done: each of its packages that is installed here is at its version or a later
    /// one, and each that every machine gets is there.
    Selection,
}

/// A condition for the release to concern a device at all. All must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applicability {
    /// A package is installed, at any version: updates concern only machines that have the product.
    HasPackage {
        /// Which database.
        kind: PackageKind,
        /// The package's name.
        name: Text<255>,
    },
    /// An inventory fact has this value, for example `os.id` = `debian`.
    Fact {
        /// The fact's name.
        name: Text<64>,
        /// Its value.
        value: Text<255>,
    },
    /// A file exists.
    FileExists {
        /// Absolute path.
        path: Text<1024>,
    },
}

/// What an exit code of a recipe means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitMeaning {
    /// Done.
    Success,
    /// Done, after the next restart.
    RestartRequired,
    /// Try again later.
    Retry,
    /// Failed; trying again will not help.
    Failure,
}

/// One row of an exit-code table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRule {
    /// The exit code.
    pub code: i32,
    /// What it means.
    pub meaning: ExitMeaning,
}

/// A file that the `files` recipe puts in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePlacement {
    /// Position in [`Release::payloads`].
    pub payload: u16,
    /// Absolute path, without `.` and `..`.
    pub path: Text<1024>,
    /// Unix permission bits, at most 0o7777.
    pub mode: u32,
}

/// How to install or remove. Everything that is executed stands here, inside what the publisher signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipe {
    /// Run a program, without a shell.
    Exec {
        /// Program and arguments. `{payload}` and `{payload:N}` stand for the path of a verified payload.
        argv: Bounded<Text<1024>, 64>,
        /// What exit codes mean; 0 is success and any other a failure unless a row says otherwise.
        exit_codes: Bounded<ExitRule, 64>,
        /// Seconds after which it is ended.
        timeout_s: u32,
    },
    /// Put files in place, all or none.
    Files {
        /// What goes where.
        files: Bounded<FilePlacement, 1024>,
    },
    /// Take files away that a `Files` recipe put in place, and bring back what they replaced.
    RemoveFiles {
        /// Absolute paths.
        paths: Bounded<Text<1024>, 1024>,
    },
    /// Install every payload with apt and dpkg.
    Deb {
        /// Seconds after which it is reported as hanging.
        timeout_s: u32,
    },
    /// Remove packages with apt.
    RemoveDeb {
        /// Package names.
        packages: Bounded<Text<255>, 256>,
        /// Seconds after which it is reported as hanging.
        timeout_s: u32,
    },
    /// Install every payload with rpm or dnf.
    Rpm {
        /// Seconds after which it is reported as hanging.
        timeout_s: u32,
    },
    /// Remove packages with rpm or dnf.
    RemoveRpm {
        /// Package names.
        packages: Bounded<Text<255>, 256>,
        /// Seconds after which it is reported as hanging.
        timeout_s: u32,
    },
    /// Install packages of a repository with apt.
    Apt(AptRecipe),
}

/// What may be done when an install wants a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never; the device shows `RestartRequired`.
    Never,
    /// If the recipe asked for it, within windows.
    IfRequired,
    /// Always after the install, within windows.
    Always,
}

/// One version of one product, as its publisher describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The product, for example `org.mozilla.firefox`; its prefix decides who may publish it.
    pub product: Text<128>,
    /// The product's own version text.
    pub version: Text<128>,
    /// Orders the releases of a product; never goes down.
    pub counter: u64,
    /// One line for people.
    pub title: Text<255>,
    /// Why it exists.
    pub classification: Classification,
    /// How bad it is not to have it.
    pub severity: Severity,
    /// Vulnerabilities it mends.
    pub cves: Bounded<Text<32>, 256>,
    /// When it was signed.
    pub issued: Wall,
    /// After this no new install rests on it.
    pub expires: Wall,
    /// Machines it is for.
    pub platform: Platform,
    /// Its files.
    pub payloads: Bounded<Payload, 512>,
    /// Conditions for it to concern a device.
    pub applicability: Bounded<Applicability, 64>,
    /// Signs that it is installed; at least one.
    pub detect: Bounded<Detect, 64>,
    /// How to install it.
    pub install: Recipe,
    /// How to remove it.
    pub uninstall: Option<Recipe>,
    /// What may be done when a restart is wanted.
    pub restart: RestartPolicy,
    /// Releases that must be installed first.
    pub depends: Bounded<ReleaseId, 32>,
    /// Releases that this one makes needless.
    pub supersedes: Bounded<ReleaseId, 64>,
}

impl Release {
    /// Whether machines with later versions go back to its own: then its approval must say so too.
    pub fn goes_back(&self) -> bool {
        matches!(&self.install, Recipe::Apt(apt) if apt.back)
    }

    /// How it is removed: as its publisher says, else by what its installation says by itself. Files go from where they were put;
    /// packages by their own names, which detection and the payloads' file names both tell. `None`: nobody can tell.
    pub fn removal(&self) -> Option<Recipe> {
        if self.uninstall.is_some() {
            return self.uninstall.clone();
        }
        match &self.install {
            Recipe::Files { files } => {
                let paths = files.iter().map(|file| file.path.clone()).collect();
                Some(Recipe::RemoveFiles { paths: Bounded::new(paths).ok()? })
            }
            Recipe::Deb { timeout_s } => {
                let packages = self.packages_of_its_own(PackageKind::Deb, '_')?;
                Some(Recipe::RemoveDeb { packages, timeout_s: *timeout_s })
            }
            Recipe::Rpm { timeout_s } => {
                let packages = self.packages_of_its_own(PackageKind::Rpm, '-')?;
                Some(Recipe::RemoveRpm { packages, timeout_s: *timeout_s })
            }
            Recipe::Exec { .. }
            | Recipe::RemoveFiles { .. }
            | Recipe::RemoveDeb { .. }
            | Recipe::RemoveRpm { .. }
            | Recipe::Apt(_) => None,
        }
    }

    /// The packages that detection names, if each payload is the file of one of them: what a release only looks for is not its own
    /// to remove, and a package that detection does not name would stay. One file and one name belong together.
    fn packages_of_its_own(&self, wanted: PackageKind, gap: char) -> Option<Bounded<Text<255>, 256>> {
        let detected: BTreeSet<&str> = self
            .detect
            .iter()
            .filter_map(|rule| match rule {
                Detect::Package { kind, name, .. } if *kind == wanted => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let is_file_of = |payload: &Payload, name: &str| {
            let version = payload.name.strip_prefix(name).and_then(|rest| rest.strip_prefix(gap));
            version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        };
        // Whose name says of itself that it is another package's file is not taken for this one's.
        let is_named = |payload: &Payload| {
            let after =
                |(at, _): (usize, &str)| payload.name[at + 1..].starts_with(|first: char| first.is_ascii_digit());
            payload.name.match_indices(gap).any(after)
        };
        let alone = self.payloads.len() == 1 && detected.len() == 1 && !self.payloads.iter().any(is_named);
        let mut own: Vec<Text<255>> = Vec::new();
        for payload in &self.payloads {
            let named = detected.iter().find(|name| alone || is_file_of(payload, name))?;
            own.push(Text::new(*named).ok()?);
        }
        own.sort();
        own.dedup();
        if own.is_empty() { None } else { Bounded::new(own).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DocHash, PayloadId};

    fn release(kind: PackageKind, payloads: &[&str], detected: &[&str]) -> Release {
        let payload = |name: &&str| Payload {
            name: Text::lossy(name),
            id: PayloadId::of(name.as_bytes()),
            len: 1,
            chunk_list: DocHash::default(),
            chunk_list_len: 0,
            sha256: [0; 32],
            urls: Bounded::default(),
            patches: Bounded::default(),
        };
        let detect = |name: &&str| Detect::Package { kind, name: Text::lossy(name), version: Text::lossy("1") };
        let install = match kind {
            PackageKind::Rpm => Recipe::Rpm { timeout_s: 9 },
            _ => Recipe::Deb { timeout_s: 9 },
        };
        Release {
            product: Text::lossy("org.example.app"),
            version: Text::lossy("1"),
            counter: 1,
            title: Text::default(),
            classification: Classification::Update,
            severity: Severity::Unspecified,
            cves: Bounded::default(),
            issued: Wall(0),
            expires: Wall(0),
            platform: Platform::default(),
            payloads: Bounded::truncated(payloads.iter().map(payload).collect()),
            applicability: Bounded::default(),
            detect: Bounded::truncated(detected.iter().map(detect).collect()),
            install,
            uninstall: None,
            restart: RestartPolicy::Never,
            depends: Bounded::default(),
            supersedes: Bounded::default(),
        }
    }

    #[test]
    fn a_package_is_removed_by_its_own_name_and_no_other() {
        let removed = |kind, payloads: &[&str], detected: &[&str]| match release(kind, payloads, detected).removal() {
            Some(Recipe::RemoveDeb { packages, timeout_s: 9 } | Recipe::RemoveRpm { packages, timeout_s: 9 }) => {
                packages.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" ")
            }
            None => "-".to_owned(),
            other => panic!("{other:?}"),
        };
        let deb = |payloads: &[&str], detected: &[&str]| removed(PackageKind::Deb, payloads, detected);
        assert_eq!(deb(&["demo_1.0-1_all.deb"], &["demo"]), "demo");
        assert_eq!(deb(&["demo_1_all.deb", "demo-lib_1_all.deb"], &["demo", "demo-lib"]), "demo demo-lib");
        // A package that it only looks for stays; one of which nobody knows the name cannot be removed.
        assert_eq!(deb(&["demo_1_all.deb"], &["demo", "libc6"]), "demo");
        assert_eq!(deb(&["demo_1_all.deb", "other_1_all.deb"], &["demo"]), "-");
        assert_eq!(deb(&["setup.deb"], &["demo"]), "demo");
        assert_eq!(deb(&["setup.deb"], &["demo", "libc6"]), "-");
        assert_eq!(deb(&["demo_1_all.deb"], &[]), "-");
        let rpm = |payloads: &[&str], detected: &[&str]| removed(PackageKind::Rpm, payloads, detected);
        assert_eq!(rpm(&["demo-1.0-1.noarch.rpm"], &["demo"]), "demo");
        assert_eq!(rpm(&["demo-lib-1.0-1.noarch.rpm"], &["demo"]), "-");
    }
}

/// How well a word names a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Naming {
    /// By the last part of its product's name.
    LastPart,
    /// By its product's whole name.
    Whole,
}

/// Whether a word means a release of this product and version: `PRODUCT@VERSION` or `PRODUCT`, where the last part of the product's
/// name suffices. One rule for every place at which a person names a release.
pub fn naming(word: &str, product: &str, version: &str) -> Option<Naming> {
    // A version may hold an @; the product's name may not.
    let (name, of) = word.split_once('@').map_or((word, None), |(name, of)| (name, Some(of)));
    if of.is_some_and(|of| of != version) {
        return None;
    }
    let last = product.rsplit_once('.').map_or(product, |(_, last)| last);
    if name == product { Some(Naming::Whole) } else { (name == last).then_some(Naming::LastPart) }
}
