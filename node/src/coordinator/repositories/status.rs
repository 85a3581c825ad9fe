//! dpkg's database of a machine, made of what its inventory names and of what the indexes here tell of that.
//!
//! The machine itself holds its packages for well installed. So what is written here must hold together too, or apt would plan
//! nothing: a dependency that nothing meets as far as can be seen here is met by something that no index here tells of.

use std::collections::{BTreeMap, BTreeSet};

use super::fleet::{Installed, Offer, State};
use super::relations;
use crate::upstream::packages::Package;

/// What dpkg would have written.
pub(super) struct Status {
    pub(super) text: String,
    /// Packages of which no index tells what they depend on.
    pub(super) partial: usize,
}

/// What is there, under its own name or another's.
#[derive(Default)]
struct Present<'a> {
    versions: BTreeMap<&'a str, Vec<&'a str>>,
    provided: BTreeSet<&'a str>,
}

impl Status {
    pub(super) fn of(state: &State, known: &[&Offer]) -> Self {
        let told: Vec<(&Installed, Option<&Package>, Option<&Package>)> = state
            .iter()
            .map(|one| {
                let exactly = known.iter().find_map(|offer| offer.exactly(&one.name, &one.version, &one.arch));
                (one, exactly, exactly.or_else(|| kin(one, known)))
            })
            .collect();
        let mut present = Present::default();
        for (one, _, like) in &told {
            present.versions.entry(&one.name).or_default().push(&one.version);
            let provided = like.map_or("", |like| like.relations.provides.as_str());
            present.provided.extend(relations::all(provided).map(|(name, _)| name));
        }
        let text = told.iter().map(|(one, exactly, like)| stanza(one, *exactly, *like, &present)).collect();
        Self { text, partial: told.iter().filter(|(_, exactly, _)| exactly.is_none()).count() }
    }
}

/// Another version of a package: what it provides hardly changes.
fn kin<'a>(installed: &Installed, known: &[&'a Offer]) -> Option<&'a Package> {
    let mut named = known.iter().flat_map(|offer| offer.named(&installed.name));
    named.find(|package| package.arch == installed.arch)
}

fn stanza(installed: &Installed, exactly: Option<&Package>, like: Option<&Package>, present: &Present<'_>) -> String {
    let mut text = format!(
        "Package: {}\nStatus: install ok installed\nVersion: {}\nArchitecture: {}\nMaintainer: -\nDescription: -\n",
        installed.name, installed.version, installed.arch
    );
    // Without that word apt calls a machine broken that has a package on two architectures.
    let multi_arch = like.map_or(if installed.arch == "all" { "" } else { "same" }, |like| like.multi_arch.as_str());
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{name}: {value}\n"));
        }
    };
    field("Multi-Arch", multi_arch);
    field("Essential", if like.is_some_and(|like| like.essential) { "yes" } else { "" });
    field("Provides", like.map_or("", |like| &like.relations.provides));
    if let Some(told) = exactly {
        let holds = |name: &str, bound: Option<&relations::Bound<'_>>| {
            let versions = present.versions.get(name).into_iter().flatten();
            let mut good = versions.filter(|version| bound.is_none_or(|bound| bound.holds(version)));
            good.next().is_some() || present.provided.contains(name)
        };
        field("Depends", &relations::met(&told.relations.depends, holds));
        field("Pre-Depends", &relations::met(&told.relations.pre_depends, holds));
        field("Breaks", &told.relations.breaks);
        field("Conflicts", &told.relations.conflicts);
        field("Replaces", &told.relations.replaces);
    }
    text.push('\n');
    text
}
