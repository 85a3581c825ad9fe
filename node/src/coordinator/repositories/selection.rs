//! What an approval of a snapshot covers: by source package, closed over what installed packages tie to each other, and tried with
//! real apt for every distinct state of the machines.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;

use super::fleet::{self, Installed, Offer, State};
use super::progress::Progress;
use super::relations::{self, Bound};
use super::simulate::{Apt, Install, Pin, Simulated};
use super::snapshot::Snapshot;
use crate::upstream::packages::Package;

/// Rounds of adding what is tied; a distribution's longest chain has five.
const MAX_ROUNDS: usize = 16;
/// Packages that bring a new one are named up to this number.
const MAX_BRINGERS: usize = 8;

/// What an admin wants of a snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    /// Source packages; none for all that is older somewhere.
    pub(crate) select: BTreeSet<String>,
    /// Source packages that stay as they are.
    pub(crate) except: BTreeSet<String>,
    /// Binary packages that every machine gets.
    pub(crate) install: Vec<String>,
}

/// Machines that are alike, and what apt would do there.
#[derive(Debug, Clone)]
pub(crate) struct Tried {
    pub(crate) machines: usize,
    pub(crate) simulated: Simulated,
}

/// What comes of a wish.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selected {
    /// Packages to install, and what brings each that machines may not have: positions in this list; `None` for those that
    /// come only as upgrades.
    pub(crate) packages: Vec<Chosen>,
    /// Source packages that were added because selected ones are tied to them.
    pub(crate) added: BTreeSet<String>,
    /// Installed packages of later states that this one has not: they stay.
    pub(crate) stays: BTreeSet<String>,
    pub(crate) tried: Vec<Tried>,
}

/// A package of a selection.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) package: Package,
    pub(crate) absent: Absent,
}

/// Whether a machine gets it that does not have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Absent {
    Never,
    With(Vec<usize>),
    Always,
}

/// What machines are to come to.
#[derive(Clone, Copy)]
pub(crate) struct Aim<'a> {
    /// The packages of the snapshot.
    pub(crate) offer: &'a Offer,
    /// Back from these, which are later; forward without any.
    pub(crate) back_from: Option<&'a [&'a Offer]>,
}

impl<'a> Aim<'a> {
    /// What takes the place of an installed package.
    fn next(&self, installed: &Installed) -> Option<&'a Package> {
        match self.back_from {
            None => self.offer.newer(installed),
            Some(later) => self.offer.earlier(installed, later),
        }
    }

    /// How apt must take the versions of the snapshot on a machine, so that these sources move and no other.
    fn pins(&self, state: &State, sources: &BTreeSet<String>) -> Vec<Pin<'a>> {
        let is_selected = |new: &&Package| sources.contains(&new.source);
        let newer = state.iter().filter_map(|one| self.offer.newer(one));
        if self.back_from.is_none() {
            return newer.filter(|new| !is_selected(new)).map(Pin::not).collect();
        }
        let back = state.iter().filter_map(|one| self.next(one)).filter(is_selected).map(Pin::back);
        newer.map(Pin::not).chain(back).collect()
    }

    /// Names of installed packages that came from a later state and are not in this one.
    fn stays(&self, states: &BTreeMap<State, usize>) -> BTreeSet<String> {
        let Some(later) = self.back_from else { return BTreeSet::new() };
        let stays = |one: &&Installed| self.offer.fitting(one).is_none() && fleet::came_from(one, later);
        states.keys().flatten().filter(stays).map(|one| format!("{} {}", one.name, one.version)).collect()
    }
}

/// Tries a wish with apt until nothing selected is tied to something that is not. Blocks for about a second a state and round.
pub(crate) fn select(
    (snapshot, suite): (&Snapshot, &str),
    aim: Aim<'_>,
    known: &[&Offer],
    states: &BTreeMap<State, usize>,
    wish: &Wish,
    progress: &Progress,
) -> anyhow::Result<Selected> {
    let mut sources: BTreeSet<String> = match wish.select.is_empty() {
        true => states.keys().flatten().filter_map(|one| Some(aim.next(one)?.source.clone())).collect(),
        false => wish.select.clone(),
    };
    sources.retain(|source| !wish.except.contains(source));
    let before = sources.clone();
    let mut apts: BTreeMap<Vec<String>, Apt> = BTreeMap::new();
    let mut tried: BTreeMap<&State, Simulated> = BTreeMap::new();
    for _ in 0..MAX_ROUNDS {
        let mut more: BTreeSet<String> = BTreeSet::new();
        for (at, (state, machines)) in states.iter().enumerate() {
            progress.begin(format!("trying state {} of {} with apt ({machines} machines)", at + 1, states.len()), 0);
            let archs = archs(state);
            if !apts.contains_key(&archs) {
                apts.insert(archs.clone(), Apt::new(snapshot, suite, &archs)?);
            }
            let Some(apt) = apts.get(&archs) else { continue };
            let simulated = apt.upgrade(state, &aim.pins(state, &sources), &wish.install, known)?;
            more.extend(tied(state, aim, &sources, &simulated));
            tried.insert(state, simulated);
        }
        more.retain(|source| !wish.except.contains(source) && !sources.contains(source));
        if more.is_empty() {
            let tried: Vec<Tried> = tried
                .into_iter()
                .map(|(state, simulated)| Tried { machines: states.get(state).copied().unwrap_or(0), simulated })
                .collect();
            let packages = chosen(aim.offer, &tried, &wish.install)?;
            let added = sources.difference(&before).cloned().collect();
            return Ok(Selected { packages, added, stays: aim.stays(states), tried });
        }
        sources.extend(more);
    }
    bail!("the selection is tied to more and more packages; select all of the snapshot instead")
}

/// The architectures of a machine, its own first: that of dpkg itself.
fn archs(state: &State) -> Vec<String> {
    let all: BTreeSet<&str> =
        state.iter().map(|one| one.arch.as_str()).filter(|arch| !matches!(*arch, "all" | "")).collect();
    let own = state.iter().find(|one| one.name == "dpkg").map(|one| one.arch.as_str());
    let count = |arch: &&&str| state.iter().filter(|one| one.arch == **arch).count();
    let own = own.or_else(|| all.iter().max_by_key(count).copied()).unwrap_or("amd64");
    let foreign = all.into_iter().filter(|arch| *arch != own);
    std::iter::once(own).chain(foreign).map(str::to_owned).collect()
}

/// Sources that the selection is tied to: those of packages that would be removed though there is a newer version, and those that a
/// selected package needs in a later version than is installed.
fn tied(state: &State, aim: Aim<'_>, sources: &BTreeSet<String>, simulated: &Simulated) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let removed = |one: &&Installed| {
        simulated.removes.iter().any(|name| *name == one.name || *name == format!("{}:{}", one.name, one.arch))
    };
    found.extend(state.iter().filter(removed).filter_map(|one| Some(aim.next(one)?.source.clone())));
    let upgraded: BTreeSet<&str> = simulated.installs.iter().map(|one| one.name.as_str()).collect();
    let kept = state
        .iter()
        .filter_map(|one| aim.next(one))
        .filter(|new| sources.contains(&new.source) && !upgraded.contains(new.name.as_str()));
    for package in kept {
        for (name, bound) in needs(package) {
            let installed = state.iter().filter(|one| one.name == name);
            let old = installed.filter(|one| !bound.as_ref().is_none_or(|bound| bound.holds(&one.version)));
            found.extend(old.filter_map(|one| Some(aim.next(one)?.source.clone())));
        }
    }
    found
}

/// Every package that one names as a dependency, alternatives too.
fn needs(package: &Package) -> impl Iterator<Item = (&str, Option<Bound<'_>>)> {
    let relations = &package.relations;
    [&relations.depends, &relations.pre_depends].into_iter().flat_map(|text| relations::all(text))
}

/// What would be installed anywhere, each once, with what brings it.
fn chosen(offer: &Offer, tried: &[Tried], install: &[String]) -> anyhow::Result<Vec<Chosen>> {
    let all: BTreeSet<&Install> = tried.iter().flat_map(|one| &one.simulated.installs).collect();
    // The same package may be new here and an upgrade there.
    let keys: BTreeSet<(&str, &str, &str)> =
        all.iter().map(|one| (one.name.as_str(), one.version.as_str(), one.arch.as_str())).collect();
    let keys: Vec<(&str, &str, &str)> = keys.into_iter().collect();
    let mut packages = Vec::new();
    for (name, version, arch) in &keys {
        let Some(package) = offer.exactly(name, version, arch) else {
            bail!(
                "apt would install {name} {version} for {arch}, which the upstream may not supply; see --packages of sync add"
            );
        };
        packages.push(Chosen { package: package.clone(), absent: Absent::Never });
    }
    let names = |package: &Package| -> BTreeSet<String> {
        let provided = package.relations.provides.split(',').filter_map(|one| one.split_ascii_whitespace().next());
        provided.map(str::to_owned).chain([package.name.clone()]).collect()
    };
    for at in 0..packages.len() {
        let Some(own) = packages.get(at).map(|one| one.package.clone()) else { continue };
        let new = all.iter().any(|one| one.name == own.name && one.arch == own.arch && one.before.is_none());
        let absent = if install.contains(&own.name) {
            Absent::Always
        } else if new {
            let wanted = names(&own);
            let brings = |other: &Package| needs(other).any(|(name, _)| wanted.contains(name));
            let with = packages.iter().enumerate().filter(|(other, one)| *other != at && brings(&one.package));
            let with: Vec<usize> = with.map(|(other, _)| other).take(MAX_BRINGERS).collect();
            if with.is_empty() {
                bail!(
                    "apt would install {}, and nobody can tell what brings it; name it with --install, or leave it out with --except {}",
                    own.name,
                    own.source
                );
            }
            Absent::With(with)
        } else {
            Absent::Never
        };
        if let Some(one) = packages.get_mut(at) {
            one.absent = absent;
        }
    }
    Ok(packages)
}

#[cfg(test)]
mod tests;
