//! What is installed on a device, and how it changes.
//!
//! The coordinator holds each device's inventory; after the first time only differences travel ([`InventoryDelta`]), bound
//! to the digest of what they start from and of what they lead to, so that the two sides cannot drift apart unnoticed.

mod condition;
mod delta;
mod membership;
mod purl;
mod shared;
mod standing;

use std::collections::BTreeMap;

pub use condition::{Condition, ConditionError, Conditions, FACT_RESTART_PENDING, MAX_CONDITIONS, Machine};
pub use delta::{Assembler, DeltaError, InventoryDelta, InventoryPart, MAX_PART, MAX_PARTS, MAX_TEXT};
pub use membership::{NotMember, belongs};
pub use shared::{Base, SharedEntries, SharedInventory};

use crate::catalog::PackageKind;
use crate::codec::{Bounded, Text};
use crate::ids::DocHash;

/// The most packages of one inventory.
pub const MAX_PACKAGES: usize = 65_536;
/// The most versions of one package that are installed side by side (kernels of rpm systems); they fit one part of a
/// difference.
pub const MAX_VERSIONS: usize = 8;
/// The most facts of one inventory.
pub const MAX_FACTS: usize = 1_024;

/// Fact: the operating system as in Rust's `std::env::consts::OS`, which [`crate::catalog::Platform`] speaks of.
pub const FACT_OS: &str = "platform.os";
/// Fact: the processor as in Rust's `std::env::consts::ARCH`.
pub const FACT_ARCH: &str = "platform.arch";
/// Fact: why a restart is pending; absent when none is.
pub const FACT_RESTART: &str = "restart.reason";
/// Fact: `ID` of os-release(5), for example `debian`.
pub const FACT_OS_ID: &str = "os.id";
/// Fact: `VERSION_ID` of os-release(5), for example `12`.
pub const FACT_OS_VERSION: &str = "os.version";

/// An inventory as it is kept on disk: the parts of the way to it from an empty one.
pub type StoredParts = Bounded<InventoryPart, { MAX_PARTS as usize }>;
/// The most bytes of a record that holds [`StoredParts`].
pub const MAX_STORED: usize = 8 << 20;

/// The digest of an empty inventory, which a full one starts from.
pub fn empty() -> DocHash {
    Inventory::default().digest()
}

/// A package's name.
pub type Name = Text<255>;
/// A package's version, with epoch and revision where its kind has them.
pub type Version = Text<255>;
/// A package's architecture in its kind's words (`amd64`, `x86_64`, `all`, `noarch`); empty where there is none.
pub type Arch = Text<32>;
/// The name of a fact.
pub type FactName = Text<64>;
/// The value of a fact.
pub type FactValue = Text<255>;

/// What tells packages apart that can be installed side by side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageKey {
    /// Which database.
    pub kind: PackageKind,
    /// The name.
    pub name: Name,
    /// The architecture.
    pub arch: Arch,
}

/// What an inventory may not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    /// Too many packages.
    #[error("more than {MAX_PACKAGES} packages")]
    TooManyPackages,
    /// Too many versions of one package.
    #[error("more than {MAX_VERSIONS} versions of one package installed side by side")]
    TooManyVersions,
    /// Too many facts.
    #[error("more than {MAX_FACTS} facts")]
    TooManyFacts,
}

/// Everything that is known to be installed, and facts about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    packages: BTreeMap<PackageKey, Vec<Version>>,
    facts: BTreeMap<FactName, FactValue>,
    /// Whether the machine wants a restart to finish what was installed.
    pub pending_restart: bool,
}

impl Inventory {
    /// Adds an installed package; one that is there already changes nothing.
    pub fn insert(&mut self, key: PackageKey, version: Version) -> Result<(), InventoryError> {
        let full = self.packages.len() >= MAX_PACKAGES;
        if full && !self.packages.contains_key(&key) {
            return Err(InventoryError::TooManyPackages);
        }
        let versions = self.packages.entry(key).or_default();
        if let Err(at) = versions.binary_search(&version) {
            if versions.len() >= MAX_VERSIONS {
                return Err(InventoryError::TooManyVersions);
            }
            versions.insert(at, version);
        }
        Ok(())
    }

    /// Removes a package, in all its versions. Returns whether it was there.
    pub fn remove(&mut self, key: &PackageKey) -> bool {
        self.packages.remove(key).is_some()
    }

    /// Sets a fact, or with `None` removes it.
    pub fn set_fact(&mut self, name: FactName, value: Option<FactValue>) -> Result<(), InventoryError> {
        match value {
            None => {
                self.facts.remove(&name);
            }
            Some(value) => {
                if self.facts.len() >= MAX_FACTS && !self.facts.contains_key(&name) {
                    return Err(InventoryError::TooManyFacts);
                }
                self.facts.insert(name, value);
            }
        }
        Ok(())
    }

    /// Installed packages in order, each with its versions, which are sorted as texts and at least one.
    pub fn packages(&self) -> &BTreeMap<PackageKey, Vec<Version>> {
        &self.packages
    }

    /// Facts in order.
    pub fn facts(&self) -> &BTreeMap<FactName, FactValue> {
        &self.facts
    }

    /// The value of a fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        let name = FactName::new(name).ok()?;
        self.facts.get(&name).map(FactValue::as_str)
    }

    /// Every installed version of a package, on any architecture.
    pub fn versions<'a>(&'a self, kind: PackageKind, name: &'a Name) -> impl Iterator<Item = &'a Version> + 'a {
        self.of_name(kind, name).flat_map(|(_, versions)| versions)
    }

    /// The same with their keys, which tell the architecture.
    pub(crate) fn of_name<'a>(
        &'a self,
        kind: PackageKind,
        name: &'a Name,
    ) -> impl Iterator<Item = (&'a PackageKey, &'a [Version])> + 'a {
        let first = PackageKey { kind, name: name.clone(), arch: Arch::default() };
        let of_name = move |(key, _): &(&PackageKey, _)| key.kind == kind && key.name == *name;
        self.packages.range(first..).take_while(of_name).map(|(key, versions)| (key, versions.as_slice()))
    }

    /// The package URL of an installed package, with its distribution as qualifier where the facts tell it.
    /// Source: the Package URL specification (ECMA-427) and its type definitions `deb` and `rpm`.
    pub fn purl(&self, key: &PackageKey, version: &Version) -> String {
        purl::purl(key, version, self.fact(FACT_OS_ID), self.fact(FACT_OS_VERSION))
    }

    /// BLAKE3 of the inventory's one wire form: two inventories are equal exactly when their digests are.
    pub fn digest(&self) -> DocHash {
        DocHash::of(&delta::canonical(self))
    }

    /// All of it, for the disk.
    pub fn stored(&self) -> Result<StoredParts, DeltaError> {
        // No more than the bound, or there would be an error.
        Ok(Bounded::truncated(InventoryDelta::full(self).parts()?))
    }

    /// What [`Inventory::stored`] gave.
    pub fn restored(parts: StoredParts) -> Result<Self, DeltaError> {
        let mut assembler = Assembler::default();
        let mut inventory = Self::default();
        for part in parts.into_vec() {
            if let Some(delta) = assembler.add(part)? {
                inventory.apply(&delta)?;
                return Ok(inventory);
            }
        }
        Err(DeltaError::Malformed { part: 0, cause: "parts are missing" })
    }

    /// Applies a difference. On an error nothing has changed.
    pub fn apply(&mut self, delta: &InventoryDelta) -> Result<(), DeltaError> {
        let found = self.digest();
        if found != delta.base {
            return Err(DeltaError::Base { expected: delta.base, found });
        }
        let mut result = self.clone();
        delta.write_to(&mut result)?;
        let found = result.digest();
        if found != delta.result {
            return Err(DeltaError::Result { expected: delta.result, found });
        }
        *self = result;
        Ok(())
    }
}
