//! How a machine stands with the packages of a repository's snapshot, by its inventory.

use core::cmp::Ordering;

use super::{Arch, Inventory, PackageKey, SharedInventory, Version};
use crate::catalog::{AptPackage, PackageKind, Standing};
use crate::version::compare;

impl Standing {
    /// That of an installed version, by dpkg's order.
    pub fn of(installed: &str, selected: &str) -> Self {
        match compare(PackageKind::Deb, installed, selected) {
            Ordering::Less => Self::Older,
            Ordering::Equal => Self::Same,
            Ordering::Greater => Self::Newer,
        }
    }
}

impl Inventory {
    /// How the machine stands with a selected package.
    pub fn standing(&self, package: &AptPackage) -> Standing {
        let first = PackageKey { kind: PackageKind::Deb, name: package.name.clone(), arch: Arch::default() };
        let same = |key: &PackageKey| key.kind == PackageKind::Deb && key.name == package.name;
        let installed = self.packages.range(first..).take_while(|(key, _)| same(key));
        of(package, installed.map(|(key, versions)| (key, versions.as_slice())))
    }
}

impl SharedInventory {
    /// How the machine stands with a selected package.
    pub fn standing(&self, package: &AptPackage) -> Standing {
        of(package, self.named(&package.name).filter(|(key, _)| key.kind == PackageKind::Deb))
    }
}

fn of<'a>(package: &AptPackage, installed: impl Iterator<Item = (&'a PackageKey, &'a [Version])>) -> Standing {
    let versions = installed.filter(|(key, _)| package.is_for(&key.arch)).flat_map(|(_, versions)| versions);
    let newest = versions.max_by(|a, b| compare(PackageKind::Deb, a, b));
    match newest {
        None => Standing::Absent,
        Some(newest) => Standing::of(newest, &package.version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::WhenAbsent;
    use crate::codec::Text;

    #[test]
    fn a_package_stands_by_its_own_architecture_and_by_dpkgs_order_of_versions() {
        let mut inventory = Inventory::default();
        let mut install = |name: &str, arch: &str, version: &str| {
            let key = PackageKey { kind: PackageKind::Deb, name: Text::lossy(name), arch: Text::lossy(arch) };
            inventory.insert(key, Text::lossy(version)).unwrap();
        };
        install("libc6", "i386", "1");
        install("libssl3", "amd64", "3.0.9-1~deb12u1");
        install("tzdata", "all", "2024a");
        let standing = |name: &str, arch: &str, version: &str| {
            inventory.standing(&AptPackage {
                payload: 0,
                name: Text::lossy(name),
                version: Text::lossy(version),
                arch: Text::lossy(arch),
                source: Text::lossy(name),
                when_absent: WhenAbsent::Never,
            })
        };
        assert_eq!(standing("libc6", "amd64", "2"), Standing::Absent);
        assert_eq!(standing("libssl3", "amd64", "3.0.9-1"), Standing::Older);
        assert_eq!(standing("libssl3", "amd64", "3.0.9-1~deb12u1"), Standing::Same);
        assert_eq!(standing("libssl3", "amd64", "3.0.9-1~deb12u0"), Standing::Newer);
        // It has become a package for one architecture.
        assert_eq!(standing("tzdata", "amd64", "2024b"), Standing::Older);
        assert_eq!(standing("libssl3-dev", "amd64", "1"), Standing::Absent);
    }
}
