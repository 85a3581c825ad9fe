//! Differences between inventories, and their wire form.
//!
//! A difference is a sorted list of what holds from now on: per package all its versions (none: it is gone), per changed fact
//! its value, and whether a restart is pending. A whole inventory is the difference from the empty one. On the wire:
//!
//! ```text
//! restart u8 (0 or 1)
//! package: tag u8 = kind (0..=3) | 0x10 when the architecture is the one before | name | [arch] | versions u8 | (version)*
//! fact:    tag u8 = 4 | name | present u8 (0 or 1) | [value]
//! text:    bytes shared with the text of the same role before it, u8 | more bytes, u8 | bytes
//! ```
//!
//! The first byte stands only in the first part. Parts end between entries, and nothing is shared over that border, so
//! each part is checked by itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Arch, FactName, FactValue, Inventory, InventoryError, MAX_VERSIONS, Name, PackageKey, Version};
use crate::catalog::PackageKind;
use crate::codec::{Bounded, Text};
use crate::ids::DocHash;

/// The most bytes of entries in one part, so that a part signed and encrypted, is no larger than a report.
pub const MAX_PART: usize = 3 << 10;
/// The most parts of one difference: about 6 MiB.
pub const MAX_PARTS: u16 = 2_048;

/// The most bytes of names, versions and values in one difference, so that a few bytes that share much cannot ask for much
/// memory.
pub const MAX_TEXT: usize = 16 << 20;

const FACT: u8 = 4;
const SAME_ARCH: u8 = 0x10;

/// The way from one inventory to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventoryDelta {
    /// Digest of the inventory that it changes.
    pub base: DocHash,
    /// Digest of the inventory that comes out.
    pub result: DocHash,
    /// Packages that differ, each with every version that is installed now; none means that it is gone.
    pub packages: BTreeMap<PackageKey, Vec<Version>>,
    /// Facts that differ; `None` means that it is gone.
    pub facts: BTreeMap<FactName, Option<FactValue>>,
    /// Whether a restart is pending now.
    pub pending_restart: bool,
}

/// A piece of a difference that fits a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryPart {
    /// As in [`InventoryDelta::base`].
    pub base: DocHash,
    /// As in [`InventoryDelta::result`]; parts that agree in both belong together.
    pub result: DocHash,
    /// Position, from 0.
    pub part: u16,
    /// How many there are, at most [`MAX_PARTS`].
    pub parts: u16,
    /// Entries in their wire form.
    pub entries: Bounded<u8, MAX_PART>,
}

/// Why a difference was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// It changes another inventory than the one at hand; a full one must be asked for.
    #[error("the difference starts from inventory {expected}, here is {found}: ask for a full inventory")]
    Base {
        /// Digest that it starts from.
        expected: DocHash,
        /// Digest at hand.
        found: DocHash,
    },
    /// It does not lead to what it claims.
    #[error("the difference should lead to inventory {expected} and leads to {found}")]
    Result {
        /// Digest that it claims.
        expected: DocHash,
        /// Digest that came out.
        found: DocHash,
    },
    /// The inventory would be too large.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// The difference would take more than [`MAX_PARTS`] parts.
    #[error("the difference takes {0} parts, more than the {MAX_PARTS} that are allowed")]
    TooManyParts(usize),
    /// The difference holds more than [`MAX_TEXT`].
    #[error("the difference holds more than the {MAX_TEXT} bytes of names, versions and values that are allowed")]
    TooMuchText,
    /// The bytes of a part do not describe entries in order.
    #[error("part {part} of the difference is malformed: {cause}")]
    Malformed {
        /// Which part.
        part: u16,
        /// What is wrong.
        cause: &'static str,
    },
}

impl InventoryDelta {
    /// What turns `from` into `to`.
    pub fn between(from: &Inventory, to: &Inventory) -> Self {
        let changed = |key: &PackageKey| from.packages().get(key) != to.packages().get(key);
        let keys = from.packages().keys().chain(to.packages().keys()).filter(|key| changed(key));
        let packages = keys.map(|key| (key.clone(), to.packages().get(key).cloned().unwrap_or_default())).collect();
        let names = from.facts().keys().chain(to.facts().keys());
        let facts = names
            .filter(|name| from.facts().get(*name) != to.facts().get(*name))
            .map(|name| (name.clone(), to.facts().get(name).cloned()))
            .collect();
        let (base, result) = (from.digest(), to.digest());
        Self { base, result, packages, facts, pending_restart: to.pending_restart }
    }

    /// The whole of an inventory: the way to it from an empty one.
    pub fn full(inventory: &Inventory) -> Self {
        Self::between(&Inventory::default(), inventory)
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.base == self.result
    }

    /// The difference in pieces that fit a message; at least one.
    pub fn parts(&self) -> Result<Vec<InventoryPart>, DeltaError> {
        let mut text_bytes = 0;
        let (mut bodies, mut body) = (Vec::new(), vec![u8::from(self.pending_restart)]);
        let mut shared = Shared::default();
        let packages = self.packages.iter().map(|(key, versions)| Entry::Package(key, versions));
        for entry in packages.chain(self.facts.iter().map(|(name, value)| Entry::Fact(name, value.as_ref()))) {
            text_bytes += entry.text_bytes();
            let (mut next, mut bytes) = (shared.clone(), Vec::new());
            next.write(&mut bytes, &entry);
            if body.len() + bytes.len() > MAX_PART {
                bodies.push(core::mem::take(&mut body));
                (next, bytes) = (Shared::default(), Vec::new());
                next.write(&mut bytes, &entry);
            }
            // One entry is at most 8 versions, a name and an architecture: always less than a part.
            body.extend_from_slice(&bytes);
            shared = next;
        }
        bodies.push(body);
        if text_bytes > MAX_TEXT {
            return Err(DeltaError::TooMuchText);
        }
        let parts = u16::try_from(bodies.len()).ok().filter(|parts| *parts <= MAX_PARTS);
        let parts = parts.ok_or(DeltaError::TooManyParts(bodies.len()))?;
        Ok((0..parts)
            .zip(bodies)
            .map(|(part, body)| InventoryPart {
                base: self.base,
                result: self.result,
                part,
                parts,
                entries: Bounded::truncated(body),
            })
            .collect())
    }

    /// Applies the entries, without a look at the digests.
    pub(super) fn write_to(&self, inventory: &mut Inventory) -> Result<(), InventoryError> {
        // Removals first: a full inventory has no room for what replaces them.
        for key in self.packages.keys() {
            inventory.remove(key);
        }
        for (key, versions) in &self.packages {
            for version in versions {
                inventory.insert(key.clone(), version.clone())?;
            }
        }
        let (gone, set): (Vec<_>, Vec<_>) = self.facts.iter().partition(|(_, value)| value.is_none());
        for (name, value) in gone.into_iter().chain(set) {
            inventory.set_fact(name.clone(), value.clone())?;
        }
        inventory.pending_restart = self.pending_restart;
        Ok(())
    }
}

/// Puts the parts of one difference together. Parts of another one start it anew.
#[derive(Debug, Default)]
pub struct Assembler {
    parts: BTreeMap<u16, InventoryPart>,
}

impl Assembler {
    /// Takes a part; the last missing one completes the difference.
    pub fn add(&mut self, part: InventoryPart) -> Result<Option<InventoryDelta>, DeltaError> {
        let malformed = |cause| DeltaError::Malformed { part: part.part, cause };
        if part.parts == 0 || part.parts > MAX_PARTS || part.part >= part.parts {
            return Err(malformed("its number is not one of the announced parts"));
        }
        let same =
            |other: &InventoryPart| (other.base, other.result, other.parts) == (part.base, part.result, part.parts);
        if !self.parts.values().next().is_none_or(same) {
            self.parts.clear();
        }
        let expected = usize::from(part.parts);
        self.parts.insert(part.part, part);
        if self.parts.len() < expected {
            return Ok(None);
        }
        read(core::mem::take(&mut self.parts)).map(Some)
    }
}

/// The one form of an inventory's bytes, for its digest: counts before lists, lengths before texts, nothing shared.
pub(super) fn canonical(inventory: &Inventory) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(inventory.packages().len() * 48);
    let put = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    bytes.push(u8::from(inventory.pending_restart));
    bytes.extend_from_slice(&(inventory.packages().len() as u32).to_le_bytes());
    for (key, versions) in inventory.packages() {
        bytes.push(kind_number(key.kind));
        put(&mut bytes, &key.name);
        put(&mut bytes, &key.arch);
        bytes.extend_from_slice(&(versions.len() as u32).to_le_bytes());
        versions.iter().for_each(|version| put(&mut bytes, version));
    }
    for (name, value) in inventory.facts() {
        put(&mut bytes, name);
        put(&mut bytes, value);
    }
    bytes
}

fn kind_number(kind: PackageKind) -> u8 {
    match kind {
        PackageKind::Deb => 0,
        PackageKind::Rpm => 1,
        PackageKind::Flatpak => 2,
        PackageKind::Snap => 3,
    }
}

enum Entry<'a> {
    Package(&'a PackageKey, &'a [Version]),
    Fact(&'a FactName, Option<&'a FactValue>),
}

impl Entry<'_> {
    fn text_bytes(&self) -> usize {
        match self {
            Entry::Package(key, versions) => {
                key.name.len() + key.arch.len() + versions.iter().map(|version| version.len()).sum::<usize>()
            }
            Entry::Fact(name, value) => name.len() + value.map_or(0, |value| value.len()),
        }
    }
}

/// The texts that the next ones share their beginning with, by role.
#[derive(Debug, Clone, Default)]
struct Shared {
    name: Vec<u8>,
    arch: Vec<u8>,
    version: Vec<u8>,
    fact: Vec<u8>,
    value: Vec<u8>,
}

impl Shared {
    fn write(&mut self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        match entry {
            Entry::Package(key, versions) => {
                let same_arch = self.arch == key.arch.as_bytes();
                out.push(kind_number(key.kind) | if same_arch { SAME_ARCH } else { 0 });
                write_text(out, &mut self.name, &key.name);
                if !same_arch {
                    write_text(out, &mut self.arch, &key.arch);
                }
                // At most `MAX_VERSIONS`.
                out.push(versions.len() as u8);
                for version in *versions {
                    write_text(out, &mut self.version, version);
                }
            }
            Entry::Fact(name, value) => {
                out.push(FACT);
                write_text(out, &mut self.fact, name);
                out.push(u8::from(value.is_some()));
                if let Some(value) = value {
                    write_text(out, &mut self.value, value);
                }
            }
        }
    }
}

/// Texts are at most 255 bytes, so both numbers fit a byte.
fn write_text(out: &mut Vec<u8>, before: &mut Vec<u8>, text: &str) {
    let shared = before.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
    let more = &text.as_bytes()[shared..];
    out.extend_from_slice(&[shared as u8, more.len() as u8]);
    out.extend_from_slice(more);
    before.truncate(shared);
    before.extend_from_slice(more);
}

/// Reads the parts of one difference, all of them and in order.
fn read(parts: BTreeMap<u16, InventoryPart>) -> Result<InventoryDelta, DeltaError> {
    let mut delta = InventoryDelta {
        base: DocHash::default(),
        result: DocHash::default(),
        packages: BTreeMap::new(),
        facts: BTreeMap::new(),
        pending_restart: false,
    };
    let mut text_bytes = 0;
    for (number, part) in parts {
        let malformed = |cause| DeltaError::Malformed { part: number, cause };
        (delta.base, delta.result) = (part.base, part.result);
        let mut input = Reader { rest: &part.entries, shared: Shared::default() };
        if number == 0 {
            delta.pending_restart = input.flag().map_err(malformed)?;
        }
        while !input.rest.is_empty() {
            text_bytes += input.entry(&mut delta).map_err(malformed)?;
            if text_bytes > MAX_TEXT {
                return Err(DeltaError::TooMuchText);
            }
        }
    }
    Ok(delta)
}

struct Reader<'a> {
    rest: &'a [u8],
    shared: Shared,
}

impl Reader<'_> {
    /// Reads one entry, which must sort after every one before it, and tells its bytes of text.
    fn entry(&mut self, delta: &mut InventoryDelta) -> Result<usize, &'static str> {
        let tag = self.byte()?;
        if tag == FACT {
            let name = self.text(|shared| &mut shared.fact)?;
            let value = if self.flag()? { Some(self.text(|shared| &mut shared.value)?) } else { None };
            if delta.facts.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err("the facts are not in order");
            }
            let len = Entry::Fact(&name, value.as_ref()).text_bytes();
            delta.facts.insert(name, value);
            return Ok(len);
        }
        let kind = match tag & !SAME_ARCH {
            0 => PackageKind::Deb,
            1 => PackageKind::Rpm,
            2 => PackageKind::Flatpak,
            3 => PackageKind::Snap,
            _ => return Err("an entry of an unknown kind"),
        };
        let name: Name = self.text(|shared| &mut shared.name)?;
        let arch: Arch =
            if tag & SAME_ARCH == 0 { self.text(|shared| &mut shared.arch)? } else { to_text(&self.shared.arch)? };
        let count = self.byte()?;
        if usize::from(count) > MAX_VERSIONS {
            return Err("too many versions of one package");
        }
        let versions: Vec<Version> =
            (0..count).map(|_| self.text(|shared| &mut shared.version)).collect::<Result<_, _>>()?;
        if !versions.is_sorted_by(|a, b| a < b) {
            return Err("the versions of a package are not in order");
        }
        let key = PackageKey { kind, name, arch };
        if !delta.facts.is_empty() || delta.packages.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err("the packages are not in order");
        }
        let len = Entry::Package(&key, &versions).text_bytes();
        delta.packages.insert(key, versions);
        Ok(len)
    }

    fn text<const N: usize>(
        &mut self,
        role: impl FnOnce(&mut Shared) -> &mut Vec<u8>,
    ) -> Result<Text<N>, &'static str> {
        let (shared, more) = (usize::from(self.byte()?), usize::from(self.byte()?));
        let (more, rest) = self.rest.split_at_checked(more).ok_or("it ends within a text")?;
        self.rest = rest;
        let before = role(&mut self.shared);
        if shared > before.len() {
            return Err("a text shares more than there is");
        }
        before.truncate(shared);
        before.extend_from_slice(more);
        to_text(before)
    }

    fn flag(&mut self) -> Result<bool, &'static str> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a flag that is neither 0 nor 1"),
        }
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        let (byte, rest) = self.rest.split_first().ok_or("it ends within an entry")?;
        self.rest = rest;
        Ok(*byte)
    }
}

fn to_text<const N: usize>(bytes: &[u8]) -> Result<Text<N>, &'static str> {
    let text = core::str::from_utf8(bytes).map_err(|_| "a text that is not UTF-8")?;
    Text::new(text).map_err(|_| "a text that is too long or holds a control character")
}
