//! Many inventories in little memory: what several machines have in common is kept once.
//!
//! Machines of an office run the same packages, as a rule: of 3,000 on a machine some tens are its own. An entry is a package with
//! its versions, or a fact with its value, and is kept once. A [`Base`] is the packages of one machine; the inventory of another that is
//! much like it is that base with the packages that are gone or different there.
//!
//! Which base is like an inventory is estimated by one-permutation MinHash (Li, Owen, Zhang 2012): the share of equal minima is about the
//! share of packages that both have.

use core::hash::{Hash as _, Hasher as _};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::DefaultHasher;
use std::sync::Arc;

use super::{FactName, FactValue, Inventory, InventoryDelta, Name, PackageKey, Version};
use crate::catalog::PackageKind;
use crate::ids::DocHash;

type Package = (PackageKey, Vec<Version>);
type Fact = (FactName, FactValue);

/// Minima of a sketch, and how many of them alike machines share at least.
const SKETCH: usize = 32;
const ALIKE: usize = SKETCH / 2;
/// Inventories of fewer packages have no base.
const LEAST_PACKAGES: usize = 64;
/// Beyond so many, the one that is most like it will do.
const MAX_BASES: usize = 1024;

type Sketch = [u64; SKETCH];

/// Packages that several machines have, as one of them had them.
#[derive(Debug)]
pub struct Base {
    /// In order.
    packages: Box<[Arc<Package>]>,
    digest: DocHash,
    sketch: Sketch,
}

/// Holds every entry once.
#[derive(Debug)]
pub struct SharedEntries {
    packages: BTreeSet<Arc<Package>>,
    facts: BTreeSet<Arc<Fact>>,
    bases: Vec<Arc<Base>>,
    /// That of inventories that are like no other.
    nothing: Arc<Base>,
    /// Bases that no inventory has any more, until somebody asks.
    dropped: Vec<DocHash>,
    /// Inventories that were given back while somebody still reads them; their entries go with the last reader.
    lent: Vec<Arc<SharedInventory>>,
}

/// An inventory whose entries are kept in [`SharedEntries`]. Give it back with [`SharedEntries::give_back`], or its entries stay there. Readers may
/// hold it for as long as they like.
#[derive(Debug)]
pub struct SharedInventory {
    base: Arc<Base>,
    /// Places in the base whose packages are not here, or in other versions; in order.
    gone: Box<[u32]>,
    /// Packages that the base does not have like this, in order.
    own: Box<[Arc<Package>]>,
    /// In order.
    facts: Box<[Arc<Fact>]>,
    pending_restart: bool,
    /// Packages, each version counted.
    versions: u32,
}

impl Base {
    fn of(packages: Box<[Arc<Package>]>, inventory: &Inventory) -> Self {
        let alone = Inventory { packages: inventory.packages.clone(), ..Inventory::default() };
        Self { packages, digest: alone.digest(), sketch: sketch(inventory) }
    }

    /// The digest of an inventory of these packages alone.
    pub fn digest(&self) -> DocHash {
        self.digest
    }

    /// Whether it has no packages: then an inventory stands for itself.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// An inventory of these packages alone.
    pub fn to_inventory(&self) -> Inventory {
        let packages = self.packages.iter().map(|package| (**package).clone()).collect();
        Inventory { packages, ..Inventory::default() }
    }

    fn likeness(&self, sketch: &Sketch) -> usize {
        self.sketch.iter().zip(sketch).filter(|(a, b)| a == b && **a != u64::MAX).count()
    }

    fn place(&self, key: &PackageKey) -> Option<usize> {
        self.packages.binary_search_by(|package| package.0.cmp(key)).ok()
    }
}

impl Default for SharedEntries {
    fn default() -> Self {
        Self {
            packages: BTreeSet::new(),
            facts: BTreeSet::new(),
            bases: Vec::new(),
            nothing: Arc::new(Base::of(Box::default(), &Inventory::default())),
            dropped: Vec::new(),
            lent: Vec::new(),
        }
    }
}

impl SharedEntries {
    /// Puts an inventory here, over the base that is most like it.
    pub fn put(&mut self, inventory: &Inventory) -> Arc<SharedInventory> {
        let base = self.base_for(inventory);
        let (mut gone, mut own) = (Vec::new(), Vec::new());
        for (at, package) in base.packages.iter().enumerate() {
            if inventory.packages.get(&package.0) != Some(&package.1) {
                gone.push(at as u32);
            }
        }
        for (key, versions) in &inventory.packages {
            let same = base.place(key).is_some_and(|at| base.packages[at].1 == *versions);
            if !same {
                own.push(once(&mut self.packages, (key.clone(), versions.clone())));
            }
        }
        let facts = inventory.facts.iter().map(|(name, value)| once(&mut self.facts, (name.clone(), value.clone())));
        let versions = inventory.packages.values().map(|versions| versions.len() as u32).sum();
        Arc::new(SharedInventory {
            base,
            gone: gone.into(),
            own: own.into(),
            facts: facts.collect(),
            pending_restart: inventory.pending_restart,
            versions,
        })
    }

    /// Puts a base here that was stored; inventories come over it with [`SharedEntries::put_over`].
    pub fn put_base(&mut self, inventory: &Inventory) {
        let packages = inventory.packages.iter();
        let packages = packages.map(|(key, versions)| once(&mut self.packages, (key.clone(), versions.clone())));
        let base = Base::of(packages.collect(), inventory);
        if !base.is_empty() && self.bases.iter().all(|known| known.digest != base.digest) {
            self.bases.push(Arc::new(base));
        }
    }

    /// Puts an inventory here as its difference from a base says it, without a look at digests; nothing when the base is not here.
    pub fn put_over(&mut self, delta: &InventoryDelta) -> Option<Arc<SharedInventory>> {
        let mut bases = self.bases.iter().chain([&self.nothing]);
        let base = bases.find(|base| base.digest == delta.base)?.clone();
        let gone: Vec<u32> = delta.packages.keys().filter_map(|key| base.place(key)).map(|at| at as u32).collect();
        let of_base = |at: &u32| base.packages[*at as usize].1.len() as u32;
        let mut versions = base.packages.iter().map(|package| package.1.len() as u32).sum::<u32>();
        versions -= gone.iter().map(of_base).sum::<u32>();
        let mut own = Vec::new();
        for (key, installed) in delta.packages.iter().filter(|(_, installed)| !installed.is_empty()) {
            versions += installed.len() as u32;
            own.push(once(&mut self.packages, (key.clone(), installed.clone())));
        }
        let facts = delta.facts.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        let facts = facts.map(|fact| once(&mut self.facts, fact)).collect();
        let (gone, own) = (gone.into(), own.into());
        Some(Arc::new(SharedInventory { base, gone, own, facts, pending_restart: delta.pending_restart, versions }))
    }

    /// Takes bases out that no inventory has. Returns all that went since this was last asked.
    pub fn dropped_bases(&mut self) -> Vec<DocHash> {
        self.drop_bases();
        core::mem::take(&mut self.dropped)
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

    fn base_for(&mut self, inventory: &Inventory) -> Arc<Base> {
        if inventory.packages.len() < LEAST_PACKAGES {
            return self.nothing.clone();
        }
        let sketch = sketch(inventory);
        let best = self.bases.iter().map(|base| (base.likeness(&sketch), base)).max_by_key(|(likeness, _)| *likeness);
        if let Some((likeness, base)) = best
            && (likeness >= ALIKE || self.bases.len() >= MAX_BASES)
        {
            return base.clone();
        }
        self.put_base(inventory);
        self.bases.last().unwrap_or(&self.nothing).clone()
    }

    fn forget(&mut self, inventory: SharedInventory) {
        for package in inventory.own {
            forget(&mut self.packages, package);
        }
        for fact in inventory.facts {
            forget(&mut self.facts, fact);
        }
        // The list's own, and this one.
        let is_last = Arc::strong_count(&inventory.base) == 2;
        drop(inventory.base);
        if is_last {
            self.drop_bases();
        }
    }

    fn drop_bases(&mut self) {
        for base in core::mem::take(&mut self.bases) {
            match Arc::try_unwrap(base) {
                Err(base) => self.bases.push(base),
                Ok(base) => {
                    self.dropped.push(base.digest);
                    for package in base.packages {
                        forget(&mut self.packages, package);
                    }
                }
            }
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.packages.len() + self.facts.len()
    }

    /// Number of bases.
    pub fn bases(&self) -> usize {
        self.bases.len()
    }

    /// Digests of the bases.
    pub fn digests(&self) -> impl Iterator<Item = DocHash> {
        self.bases.iter().map(|base| base.digest)
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
        let of_base = self.of_base(0..self.base.packages.len());
        inventory.packages = of_base.chain(&self.own).map(|package| (**package).clone()).collect();
        inventory.facts = self.facts.iter().map(|fact| (**fact).clone()).collect();
        inventory
    }

    /// What it has in common with others.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Its difference from its base, as [`SharedEntries::put_over`] reads it; `digest` is its own. Costs what differs.
    pub fn over_base(&self, digest: DocHash) -> InventoryDelta {
        let gone = self.gone.iter().map(|at| (self.base.packages[*at as usize].0.clone(), Vec::new()));
        let mut packages: BTreeMap<PackageKey, Vec<Version>> = gone.collect();
        packages.extend(self.own.iter().map(|package| (**package).clone()));
        let facts = self.facts.iter().map(|fact| (fact.0.clone(), Some(fact.1.clone())));
        InventoryDelta {
            base: self.base.digest,
            result: digest,
            packages,
            facts: facts.collect(),
            pending_restart: self.pending_restart,
        }
    }

    /// Whether the machine wants a restart.
    pub fn pending_restart(&self) -> bool {
        self.pending_restart
    }

    /// Number of installed packages, each version counted.
    pub fn packages(&self) -> usize {
        self.versions as usize
    }

    /// The value of a fact.
    pub fn fact(&self, name: &str) -> Option<&str> {
        let at = self.facts.binary_search_by(|fact| fact.0.as_str().cmp(name)).ok()?;
        Some(self.facts[at].1.as_str())
    }

    /// Installed packages of this name, of every kind and architecture, with their versions; in order of their kinds.
    pub fn named<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (&'a PackageKey, &'a [Version])> + 'a {
        use PackageKind as K;
        [K::Deb, K::Rpm, K::Flatpak, K::Snap].into_iter().flat_map(move |kind| {
            let common = self.of_base(range(&self.base.packages, kind, name));
            let own = &self.own[range(&self.own, kind, name)];
            common.chain(own).map(|package| (&package.0, package.1.as_slice()))
        })
    }

    /// What is here of the packages at these places of the base.
    fn of_base(&self, places: core::ops::Range<usize>) -> impl Iterator<Item = &Arc<Package>> {
        let is_here = |at: &usize| self.gone.binary_search(&(*at as u32)).is_err();
        places.filter(is_here).map(|at| &self.base.packages[at])
    }
}

/// Where the packages of a name lie.
fn range(packages: &[Arc<Package>], kind: PackageKind, name: &Name) -> core::ops::Range<usize> {
    let first = packages.partition_point(|package| (package.0.kind, &package.0.name) < (kind, name));
    let of_name = |package: &&Arc<Package>| package.0.kind == kind && package.0.name == *name;
    first..first + packages[first..].iter().take_while(of_name).count()
}

fn sketch(inventory: &Inventory) -> Sketch {
    let mut minima = [u64::MAX; SKETCH];
    for (key, versions) in &inventory.packages {
        // Only compared with others of this process.
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        versions.iter().for_each(|version| hasher.write(version.as_str().as_bytes()));
        let hash = hasher.finish();
        let minimum = &mut minima[hash as usize % SKETCH];
        *minimum = (*minimum).min(hash);
    }
    minima
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

    fn machine(own: usize, packages: usize) -> Inventory {
        let mut inventory = Inventory::default();
        for number in 0..packages {
            let key = PackageKey {
                kind: [PackageKind::Deb, PackageKind::Rpm][number % 2],
                name: Text::lossy(&format!("package-{number}")),
                arch: Text::lossy("amd64"),
            };
            // Of a hundred packages some differ, some are missing.
            match (number * 7919 + own * 31) % 100 {
                0 if own > 0 => {}
                1 if own > 0 => inventory.insert(key, Text::lossy(&format!("1.{own}"))).unwrap(),
                _ => inventory.insert(key, Text::lossy("1.0")).unwrap(),
            }
        }
        inventory.set_fact(Text::lossy("hostname"), Some(Text::lossy(&format!("pc{own}")))).unwrap();
        inventory
    }

    #[test]
    fn machines_that_are_alike_share_a_base_and_each_says_what_it_has() {
        let mut shared = SharedEntries::default();
        let machines: Vec<Inventory> = (0..50).map(|own| machine(own, 1_000)).collect();
        let other = {
            let mut other = machine(0, 0);
            for number in 0..500 {
                let key = PackageKey {
                    kind: PackageKind::Snap,
                    name: Text::lossy(&format!("other-{number}")),
                    arch: Text::lossy(""),
                };
                other.insert(key, Text::lossy("7")).unwrap();
            }
            other
        };
        let mut held: Vec<_> = machines.iter().map(|machine| shared.put(machine)).collect();
        assert_eq!(shared.bases(), 1, "all are like the first");
        held.push(shared.put(&other));
        assert_eq!(shared.bases(), 2);
        for (machine, held) in machines.iter().chain([&other]).zip(&held) {
            assert_eq!(held.to_inventory(), *machine);
            assert_eq!(held.packages(), machine.packages().values().map(Vec::len).sum::<usize>());
            for number in 0..1_000 {
                let name = Text::lossy(&format!("package-{number}"));
                let wanted: Vec<_> = machine.packages().iter().filter(|(key, _)| key.name == name).collect();
                let found: Vec<_> = held.named(&name).collect();
                assert_eq!(found.len(), wanted.len(), "{name}");
                assert!(
                    found.iter().zip(wanted).all(|(found, wanted)| (found.0, found.1) == (wanted.0, &wanted.1[..]))
                );
            }
            // As it is stored and read again, beside those that are here.
            let delta = InventoryDelta::between(&held.base().to_inventory(), machine);
            assert_eq!(delta, held.over_base(machine.digest()));
            assert!(delta.packages.len() < 60, "{} differ", delta.packages.len());
            let again = shared.put_over(&delta).unwrap();
            assert_eq!((again.to_inventory(), again.packages()), (machine.clone(), held.packages()));
            shared.give_back(again);
        }
        let unknown = InventoryDelta { base: DocHash([9; 32]), ..InventoryDelta::full(&other) };
        assert!(shared.put_over(&unknown).is_none());
        let (of_all, of_other) = (held[0].base().digest(), held[50].base().digest());
        shared.give_back(held.pop().unwrap());
        assert_eq!((shared.dropped_bases(), shared.bases()), (vec![of_other], 1));
        held.into_iter().for_each(|held| shared.give_back(held));
        assert_eq!(shared.dropped_bases(), [of_all]);
        assert!(shared.is_empty() && shared.bases() == 0, "nothing is left");
    }
}
