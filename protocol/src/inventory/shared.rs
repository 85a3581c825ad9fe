//! Many inventories in little memory: what several machines have in common is kept once.
//!
//! Machines of an office run the same packages, as a rule: of 3,000 on a machine some tens are its own. An entry is a package with
//! its versions, or a fact with its value; each inventory is a list of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{FactName, FactValue, Inventory, Name, PackageKey, Version};
use crate::catalog::PackageKind;

type Package = (PackageKey, Vec<Version>);
type Fact = (FactName, FactValue);

/// Holds every entry once.
#[derive(Debug, Default)]
pub struct SharedEntries {
    packages: BTreeSet<Arc<Package>>,
    facts: BTreeSet<Arc<Fact>>,
    /// Inventories that were given back while somebody still reads them; their entries go with the last reader.
    lent: Vec<Arc<SharedInventory>>,
}

/// An inventory whose entries are kept in [`SharedEntries`]. Give it back with [`SharedEntries::give_back`], or its entries stay there. Readers may
/// hold it for as long as they like.
#[derive(Debug, Default)]
pub struct SharedInventory {
    /// In order.
    packages: Box<[Arc<Package>]>,
    /// In order.
    facts: Box<[Arc<Fact>]>,
    pending_restart: bool,
}

impl SharedEntries {
    /// Puts an inventory here.
    pub fn put(&mut self, inventory: &Inventory) -> Arc<SharedInventory> {
        let packages = inventory.packages().iter();
        let facts = inventory.facts().iter();
        Arc::new(SharedInventory {
            packages: packages
                .map(|(key, versions)| once(&mut self.packages, (key.clone(), versions.clone())))
                .collect(),
            facts: facts.map(|(name, value)| once(&mut self.facts, (name.clone(), value.clone()))).collect(),
            pending_restart: inventory.pending_restart,
        })
    }

    /// Takes an inventory off, and every entry that no other has.
    pub fn give_back(&mut self, inventory: Arc<SharedInventory>) {
        self.lent.push(inventory);
        for lent in std::mem::take(&mut self.lent) {
            match Arc::try_unwrap(lent) {
                Ok(inventory) => self.forget(inventory),
                Err(lent) => self.lent.push(lent),
            }
        }
    }

    fn forget(&mut self, inventory: SharedInventory) {
        for package in inventory.packages {
            forget(&mut self.packages, package);
        }
        for fact in inventory.facts {
            forget(&mut self.facts, fact);
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.packages.len() + self.facts.len()
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of all facts that any inventory tells, in order.
    pub fn fact_names(&self) -> BTreeSet<&FactName> {
        self.facts.iter().map(|fact| &fact.0).collect()
    }
}

impl SharedInventory {
    /// The inventory by itself.
    pub fn to_inventory(&self) -> Inventory {
        let mut inventory = Inventory { pending_restart: self.pending_restart, ..Inventory::default() };
        inventory.packages = self.packages.iter().map(|package| (**package).clone()).collect();
        inventory.facts = self.facts.iter().map(|fact| (**fact).clone()).collect();
        inventory
    }

    /// Whether the machine wants a restart.
    pub fn pending_restart(&self) -> bool {
        self.pending_restart
    }

    /// Number of installed packages, each version counted.
    pub fn packages(&self) -> usize {
        self.packages.iter().map(|package| package.1.len()).sum()
    }

    /// The value of a fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        let at = self.facts.binary_search_by(|fact| fact.0.as_str().cmp(name)).ok()?;
        Some(self.facts[at].1.as_str())
    }

    /// Installed packages of this name, of every kind and architecture, with their versions.
    pub fn named<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (&'a PackageKey, &'a [Version])> + 'a {
        use PackageKind as K;
        [K::Deb, K::Rpm, K::Flatpak, K::Snap].into_iter().flat_map(move |kind| {
            let first = self.packages.partition_point(|package| (package.0.kind, &package.0.name) < (kind, name));
            let of_name = move |package: &&Arc<Package>| package.0.kind == kind && package.0.name == *name;
            self.packages[first..].iter().take_while(of_name).map(|package| (&package.0, package.1.as_slice()))
        })
    }
}

fn once<T: Ord>(set: &mut BTreeSet<Arc<T>>, value: T) -> Arc<T> {
    if let Some(known) = set.get(&value) {
        return known.clone();
    }
    let new = Arc::new(value);
    set.insert(new.clone());
    new
}

fn forget<T: Ord>(set: &mut BTreeSet<Arc<T>>, entry: Arc<T>) {
    // This one and the set's own.
    if Arc::strong_count(&entry) == 2 {
        set.remove(&*entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Text;

    fn inventory(packages: &[(PackageKind, &str, &str, &str)]) -> Inventory {
        let mut inventory = Inventory::default();
        for (kind, name, arch, version) in packages {
            let key = PackageKey { kind: *kind, name: Text::lossy(name), arch: Text::lossy(arch) };
            inventory.insert(key, Text::lossy(version)).unwrap();
        }
        inventory.set_fact(Text::lossy("os.id"), Some(Text::lossy("debian"))).unwrap();
        inventory
    }

    #[test]
    fn what_two_machines_share_is_kept_once_and_forgotten_with_the_last() {
        use PackageKind::{Deb, Rpm, Snap};
        let one = inventory(&[(Deb, "a", "amd64", "1"), (Deb, "b", "all", "1"), (Rpm, "a", "x86_64", "7")]);
        let mut other = inventory(&[(Deb, "a", "amd64", "1"), (Deb, "b", "all", "2"), (Snap, "a", "", "9")]);
        other.pending_restart = true;
        let mut shared = SharedEntries::default();
        let (first, second) = (shared.put(&one), shared.put(&other));
        // a, b in two versions, a of rpm, a of snap; one fact.
        assert_eq!(shared.len(), 6);
        assert_eq!((first.to_inventory(), second.to_inventory()), (one, other));
        assert!(second.pending_restart() && second.packages() == 3);
        assert_eq!((first.fact("os.id"), first.fact("os")), (Some("debian"), None));
        let name = Text::lossy("a");
        let named: Vec<_> = first.named(&name).map(|(key, versions)| (key.kind, versions[0].to_string())).collect();
        assert_eq!(named, [(Deb, "1".to_owned()), (Rpm, "7".to_owned())]);
        assert_eq!(first.named(&Text::lossy("c")).count(), 0);
        let reader = second.clone();
        shared.give_back(second);
        assert_eq!((shared.len(), reader.packages()), (6, 3), "somebody reads it");
        drop(reader);
        let third = shared.put(&inventory(&[]));
        shared.give_back(third);
        assert_eq!(shared.len(), 4);
        shared.give_back(first);
        assert!(shared.is_empty() && shared.lent.is_empty());
    }
}
