//! What is installed on this machine, and facts about it.
//!
//! Everything here blocks, for milliseconds as a rule. Whatever cannot be read becomes a notice, and what can be read is kept:
//! half an inventory with a notice is better than none.

pub(crate) mod cyclonedx;
pub(crate) mod watch;

mod command;
mod dpkg;
mod flatpak;
mod rpm;
mod snap;
mod system;

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
pub(crate) use system::{FACT_BOOT_ID, FACT_TIME_ZONE};

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::codec::Text;
use upswarm_protocol::inventory::{FactName, Inventory, Name, PackageKey, Version};

use crate::sys::{Root, Stamp};

pub(crate) use system::{
    FACT_CPU_CORES, FACT_CPU_MODEL, FACT_HOSTNAME, FACT_KERNEL, FACT_MEMORY, FACT_OS_NAME, FACT_PRODUCT, FACT_VENDOR,
    KNOWN_FACTS, KNOWN_PREFIXES,
};

/// Every kind of package that is looked for.
pub(crate) const KINDS: [PackageKind; 4] =
    [PackageKind::Deb, PackageKind::Rpm, PackageKind::Flatpak, PackageKind::Snap];

/// Notices of one database beyond this are only counted.
const MAX_NOTICES: usize = 20;

/// What a look at the machine has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Scan {
    /// Packages and facts.
    pub(crate) inventory: Inventory,
    /// Of packages that are built from a source package of another name: that name. Advisories speak of it.
    pub(crate) sources: BTreeMap<PackageKey, Name>,
    /// What could not be read, and what to do about it; for people.
    pub(crate) notices: Vec<String>,
}

/// Scans the running system, or with a directory the one below it, for packages of these kinds. Blocks.
pub(crate) fn scan(root: Option<&Path>, kinds: &[PackageKind]) -> Scan {
    let mut scanner = Scanner::new(root.map(Path::to_owned), kinds);
    scanner.rescan();
    scanner.scan
}

/// The value of one fact about the running system itself; `None` when there is no such fact.
pub(crate) fn fact(name: &str) -> Option<String> {
    system::read(&Root::open(None).ok()?).facts.remove(name)
}

/// Seconds since the running system was started.
pub(crate) fn uptime_s() -> Option<u64> {
    system::uptime_s(&Root::open(None).ok()?)
}

/// Scans again and again, and reads a database only when its files have changed.
#[derive(Debug)]
pub(crate) struct Scanner {
    root: Option<PathBuf>,
    kinds: Vec<PackageKind>,
    /// Of databases that have been read; `None` for those that are not there.
    stamps: BTreeMap<PackageKind, Option<Stamps>>,
    /// By database; those of the system itself under `None`.
    notices: BTreeMap<Option<PackageKind>, Vec<String>>,
    sources: BTreeMap<PackageKind, BTreeMap<PackageKey, Name>>,
    /// Where the running system's rpm keeps its database, once it has said so.
    rpm_place: OnceCell<String>,
    scan: Scan,
    reads: u64,
}

/// How the files of a database looked before they were read.
#[derive(Debug, PartialEq, Eq)]
struct Stamps(Vec<Option<Stamp>>);

/// What one database holds.
#[derive(Debug, Default)]
struct Found {
    packages: Vec<(PackageKey, Version)>,
    sources: BTreeMap<PackageKey, Name>,
    notices: Vec<String>,
}

/// A bounded list of notices.
#[derive(Debug, Default)]
struct Notices {
    kept: Vec<String>,
    more: u64,
}

impl Scanner {
    /// A scanner that knows nothing yet. `root` as in [`scan()`]; databases of other kinds than `kinds` are not looked for.
    pub(crate) fn new(root: Option<PathBuf>, kinds: &[PackageKind]) -> Self {
        Self {
            root,
            kinds: kinds.to_vec(),
            stamps: BTreeMap::new(),
            notices: BTreeMap::new(),
            sources: BTreeMap::new(),
            rpm_place: OnceCell::new(),
            scan: Scan::default(),
            reads: 0,
        }
    }

    /// Looks again. Returns whether anything is different from the last time. Blocks: for about a millisecond when no
    /// database has changed.
    pub(crate) fn rescan(&mut self) -> bool {
        let mut changed = false;
        match Root::open(self.root.as_deref()) {
            Ok(root) => {
                changed |= self.note(None, Vec::new());
                for kind in self.kinds.clone() {
                    changed |= self.rescan_database(&root, kind);
                }
                changed |= self.rescan_system(&root);
            }
            Err(error) => {
                let root = self.root.as_deref().unwrap_or(Path::new("/")).display();
                changed |= self.note(None, vec![format!("{root} cannot be opened: {error}; nothing is scanned")]);
            }
        }
        if changed {
            self.scan.notices = self.notices.values().flatten().cloned().collect();
            self.scan.sources =
                self.sources.values().flatten().map(|(key, name)| (key.clone(), name.clone())).collect();
        }
        changed
    }

    /// What the last look has found; nothing before the first.
    pub(crate) fn last(&self) -> &Scan {
        &self.scan
    }

    /// How many databases have been read.
    #[cfg(test)]
    fn reads(&self) -> u64 {
        self.reads
    }

    fn rescan_database(&mut self, root: &Root, kind: PackageKind) -> bool {
        // Before it is read: a change from now on is seen the next time.
        let now = SystemTime::now();
        let mut database = None;
        let stamps = match kind {
            PackageKind::Deb => dpkg::stamps(root),
            PackageKind::Rpm => {
                database = rpm::Database::find(root, &self.rpm_place);
                database.as_ref().map(|database| database.stamps(root))
            }
            PackageKind::Flatpak => flatpak::stamps(root),
            PackageKind::Snap => snap::stamps(root),
        };
        let stamps = stamps.map(Stamps);
        if self.stamps.get(&kind) == Some(&stamps) {
            return false;
        }
        self.stamps.remove(&kind);
        let found = match (&stamps, kind) {
            (None, _) => Found::default(),
            (_, PackageKind::Deb) => dpkg::read(root),
            (_, PackageKind::Rpm) => database.map_or_else(Found::default, |database| database.read(root)),
            (_, PackageKind::Flatpak) => flatpak::read(root),
            (_, PackageKind::Snap) => snap::read(root),
        };
        self.reads += u64::from(stamps.is_some());
        let files = stamps.iter().flat_map(|stamps| &stamps.0).flatten();
        if files.clone().all(|file| file.is_settled(now)) {
            self.stamps.insert(kind, stamps);
        }
        self.replace(kind, found)
    }

    /// Puts what a database holds in the place of what it held. Returns whether that is a change.
    fn replace(&mut self, kind: PackageKind, found: Found) -> bool {
        let Found { packages, sources, notices } = found;
        let mut kept = Notices { kept: notices, more: 0 };
        let mut inventory = self.scan.inventory.clone();
        let old: Vec<PackageKey> = inventory.packages().keys().filter(|key| key.kind == kind).cloned().collect();
        for key in &old {
            inventory.remove(key);
        }
        for (key, version) in packages {
            let name = key.name.clone();
            if let Err(error) = inventory.insert(key, version) {
                kept.add(format!("{name} is left out: {error}"));
            }
        }
        let mut changed = inventory != self.scan.inventory;
        self.scan.inventory = inventory;
        changed |= self.sources.insert(kind, sources.clone()).unwrap_or_default() != sources;
        changed | self.note(Some(kind), kept.into_vec())
    }

    fn rescan_system(&mut self, root: &Root) -> bool {
        let system = system::read(root);
        let inventory = &mut self.scan.inventory;
        let mut changed = inventory.pending_restart != system.pending_restart;
        inventory.pending_restart = system.pending_restart;
        // One that had no room in a name or a value would be another fact.
        let facts = system.facts.into_iter().filter_map(|(name, value)| Some((FactName::new(name).ok()?, value)));
        let facts: BTreeMap<FactName, _> = facts.map(|(name, value)| (name, Text::lossy(&value))).collect();
        if *inventory.facts() == facts {
            return changed;
        }
        changed = true;
        let gone: Vec<FactName> = inventory.facts().keys().filter(|name| !facts.contains_key(*name)).cloned().collect();
        let gone = gone.into_iter().map(|name| (name, None));
        for (name, value) in gone.chain(facts.into_iter().map(|(name, value)| (name, Some(value)))) {
            // A machine has some tens of facts, a thousand are allowed.
            if inventory.set_fact(name, value).is_err() {
                break;
            }
        }
        changed
    }

    fn note(&mut self, source: Option<PackageKind>, notices: Vec<String>) -> bool {
        let old = self.notices.insert(source, notices.clone());
        old.unwrap_or_default() != notices
    }
}

impl Found {
    /// Nothing, for a reason.
    fn broken(why: String) -> Self {
        Self { notices: vec![why], ..Self::default() }
    }
}

impl Notices {
    fn add(&mut self, notice: String) {
        if self.kept.len() < MAX_NOTICES {
            self.kept.push(notice);
        } else {
            self.more += 1;
        }
    }

    fn into_vec(mut self) -> Vec<String> {
        if self.more > 0 {
            self.kept.push(format!("and {} more like these", self.more));
        }
        self.kept
    }
}
