//! The rules of one release, and what an inventory says to them.

use super::ScanState;
use std::sync::Arc;

use crate::catalog::{Applicability, AptPackage, AptRecipe, Detect, PackageKind, Recipe, Release, Standing};
use crate::codec::Text;
use crate::inventory::{FACT_ARCH, FACT_OS, FactName, FactValue, Inventory, Name, SharedInventory, Version};
use crate::version::compare;

/// What of a release is needed to judge it.
#[derive(Debug)]
pub(super) struct Rules {
    /// Platform first, then the release's own: all must hold for it to concern a device.
    applicability: Box<[Rule]>,
    /// All must hold for it to be installed.
    detect: Box<[Rule]>,
}

#[derive(Debug)]
enum Rule {
    HasPackage {
        kind: PackageKind,
        name: Name,
    },
    AtLeast {
        kind: PackageKind,
        name: Name,
        version: Version,
    },
    Fact {
        name: FactName,
        value: FactValue,
    },
    /// A snapshot is about the machine: it has one of the packages, or is to get one.
    Concerns(Arc<AptRecipe>),
    /// Nothing of a snapshot is left to be done.
    Current(Arc<AptRecipe>),
    /// For people: what must be looked at.
    Probe(Box<str>),
}

/// What a machine has been seen to have, at the device or at the coordinator.
pub(super) trait Seen {
    fn versions_of<'a>(&'a self, kind: PackageKind, name: &'a Name) -> impl Iterator<Item = &'a Version> + 'a;
    fn fact_of(&self, name: &str) -> Option<&str>;
    fn standing_of(&self, package: &AptPackage) -> Standing;
}

impl Seen for Inventory {
    fn versions_of<'a>(&'a self, kind: PackageKind, name: &'a Name) -> impl Iterator<Item = &'a Version> + 'a {
        self.versions(kind, name)
    }
    fn fact_of(&self, name: &str) -> Option<&str> {
        self.fact(name)
    }
    fn standing_of(&self, package: &AptPackage) -> Standing {
        self.standing(package)
    }
}

impl Seen for SharedInventory {
    fn versions_of<'a>(&'a self, kind: PackageKind, name: &'a Name) -> impl Iterator<Item = &'a Version> + 'a {
        self.named(name).filter(move |(key, _)| key.kind == kind).flat_map(|(_, versions)| versions)
    }
    fn fact_of(&self, name: &str) -> Option<&str> {
        self.fact(name)
    }
    fn standing_of(&self, package: &AptPackage) -> Standing {
        self.standing(package)
    }
}

/// What a rule depends on.
pub(super) enum Subject<'a> {
    Package(PackageKind, &'a Name),
    Fact(&'a FactName),
}

/// What decided, with the position of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    NotApplicable(u8),
    /// A fact that the platform is judged by is not known.
    UnknownPlatform(u8),
    Missing(u8),
    NeedsProbe(RuleAt),
    /// A release without detection can never be confirmed.
    NoDetection,
    AllHold,
}

/// Which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleAt {
    Applicability(u8),
    Detect(u8),
}

impl Cause {
    pub(super) fn state(self) -> ScanState {
        match self {
            Cause::NotApplicable(_) => ScanState::NotApplicable,
            Cause::Missing(_) => ScanState::Required,
            Cause::UnknownPlatform(_) | Cause::NeedsProbe(_) | Cause::NoDetection => ScanState::Unknown,
            Cause::AllHold => ScanState::Installed,
        }
    }
}

impl Rules {
    pub(super) fn of(release: &Release) -> Self {
        let platform = [(&release.platform.os, FACT_OS), (&release.platform.arch, FACT_ARCH)];
        let platform = platform
            .into_iter()
            .filter(|(wanted, _)| !wanted.is_empty())
            .map(|(wanted, name)| Rule::Fact { name: Text::lossy(name), value: Text::lossy(wanted) });
        let conditions = release.applicability.iter().map(|rule| match rule {
            Applicability::HasPackage { kind, name } => Rule::HasPackage { kind: *kind, name: name.clone() },
            Applicability::Fact { name, value } => Rule::Fact { name: name.clone(), value: value.clone() },
            Applicability::FileExists { path } => Rule::Probe(format!("whether {path} exists").into()),
        });
        let apt = match &release.install {
            Recipe::Apt(apt) => Some(Arc::new(apt.clone())),
            _ => None,
        };
        let snapshot = apt.clone().map(Rule::Concerns);
        let signs = release.detect.iter().map(|rule| match rule {
            Detect::Selection => {
                apt.clone().map_or_else(|| Rule::Probe("which packages are meant".into()), Rule::Current)
            }
            Detect::Package { kind, name, version } => {
                Rule::AtLeast { kind: *kind, name: name.clone(), version: version.clone() }
            }
            Detect::FileHash { path, .. } => Rule::Probe(format!("the content of {path}").into()),
            Detect::FileContains { path, .. } => Rule::Probe(format!("the text in {path}").into()),
            Detect::FileExists { path } => Rule::Probe(format!("whether {path} exists").into()),
            Detect::Command { argv, .. } => {
                Rule::Probe(format!("what {} says", argv.first().map_or("a command", |program| program)).into())
            }
        });
        Self { applicability: platform.chain(conditions).chain(snapshot).collect(), detect: signs.collect() }
    }

    /// Every package and fact that the judgement can change with; one can occur twice.
    pub(super) fn subjects(&self) -> impl Iterator<Item = Subject<'_>> {
        self.applicability.iter().chain(&self.detect).flat_map(|rule| {
            let (one, many) = match rule {
                Rule::HasPackage { kind, name } | Rule::AtLeast { kind, name, .. } => {
                    (Some(Subject::Package(*kind, name)), None)
                }
                Rule::Fact { name, .. } => (Some(Subject::Fact(name)), None),
                Rule::Current(apt) => (None, Some(apt)),
                // About the same packages as the detection beside it.
                Rule::Concerns(_) | Rule::Probe(_) => (None, None),
            };
            let packages = many.into_iter().flat_map(|apt| apt.packages.iter());
            one.into_iter().chain(packages.map(|package| Subject::Package(PackageKind::Deb, &package.name)))
        })
    }

    pub(super) fn judge(&self, inventory: &impl Seen) -> Cause {
        let mut open = None;
        for (at, rule) in positions(&self.applicability) {
            match rule.holds(inventory) {
                Some(true) => {}
                Some(false) => {
                    // A machine that does not say what it is must not be told that nothing concerns it.
                    if let Rule::Fact { name, .. } = rule
                        && [FACT_OS, FACT_ARCH].contains(&name.as_str())
                        && inventory.fact_of(name).is_none()
                    {
                        return Cause::UnknownPlatform(at);
                    }
                    return Cause::NotApplicable(at);
                }
                None => open = open.or(Some(RuleAt::Applicability(at))),
            }
        }
        if self.detect.is_empty() {
            return Cause::NoDetection;
        }
        for (at, rule) in positions(&self.detect) {
            match rule.holds(inventory) {
                Some(true) => {}
                // Not installed means required only if it concerns the device for certain.
                Some(false) if open.is_none() || matches!(open, Some(RuleAt::Detect(_))) => return Cause::Missing(at),
                Some(false) => {}
                None => open = open.or(Some(RuleAt::Detect(at))),
            }
        }
        open.map_or(Cause::AllHold, Cause::NeedsProbe)
    }

    /// A judgement as a sentence.
    pub(super) fn explain(&self, cause: &Cause, inventory: &Inventory) -> String {
        let at = |rules: &[Rule], at: u8, say: &dyn Fn(&Rule) -> String| {
            rules.get(usize::from(at)).map_or_else(String::new, say)
        };
        match *cause {
            Cause::NotApplicable(rule) => at(&self.applicability, rule, &|rule| {
                format!("does not concern this device: {}", rule.unmet(inventory))
            }),
            Cause::UnknownPlatform(rule) => at(&self.applicability, rule, &|rule| {
                format!("cannot be told before the device is scanned: {}", rule.unmet(inventory))
            }),
            Cause::Missing(rule) => at(&self.detect, rule, &|rule| format!("required: {}", rule.unmet(inventory))),
            Cause::NeedsProbe(rule) => {
                let (rules, position) = match rule {
                    RuleAt::Applicability(at) => (&self.applicability, at),
                    RuleAt::Detect(at) => (&self.detect, at),
                };
                at(rules, position, &|rule| format!("not known yet: {}", rule.unmet(inventory)))
            }
            Cause::NoDetection => {
                "the release has no detection rule, so nothing can tell whether it is installed".to_owned()
            }
            Cause::AllHold => {
                let signs: Vec<String> = self.detect.iter().take(3).map(|rule| rule.met(inventory)).collect();
                let more = if self.detect.len() > signs.len() { ", and more" } else { "" };
                format!("installed: {}{more}", signs.join(", "))
            }
        }
    }
}

impl Rule {
    /// Whether the rule holds; `None` when the inventory cannot tell.
    fn holds(&self, inventory: &impl Seen) -> Option<bool> {
        Some(match self {
            Rule::HasPackage { kind, name } => inventory.versions_of(*kind, name).next().is_some(),
            Rule::AtLeast { kind, name, version } => {
                inventory.versions_of(*kind, name).any(|installed| compare(*kind, installed, version).is_ge())
            }
            Rule::Fact { name, value } => inventory.fact_of(name) == Some(value.as_str()),
            Rule::Concerns(apt) => apt.concerns(|package| inventory.standing_of(package)),
            Rule::Current(apt) => apt.needed(|package| inventory.standing_of(package)).is_empty(),
            Rule::Probe(_) => return None,
        })
    }

    fn unmet(&self, inventory: &Inventory) -> String {
        match self {
            Rule::HasPackage { kind, name } => format!("the {} package {name} is not installed", word(*kind)),
            Rule::AtLeast { kind, name, version } => match newest(inventory, *kind, name) {
                Some(installed) => {
                    format!("the {} package {name} is {installed}, and {version} or later is wanted", word(*kind))
                }
                None => format!("the {} package {name} is not installed, and {version} is wanted", word(*kind)),
            },
            Rule::Fact { name, value } => match inventory.facts().get(name) {
                Some(found) => format!("{name} is {found}, and the release is for {value}"),
                None => format!("{name} is not known, and the release is for {value}"),
            },
            Rule::Concerns(_) => "none of the selected packages is installed".to_owned(),
            Rule::Current(apt) => {
                let needed = apt.needed(|package| inventory.standing(package));
                let first = needed.first().and_then(|at| apt.packages.get(*at));
                let more = if needed.len() > 1 { format!(", and {} more", needed.len() - 1) } else { String::new() };
                let Some(package) = first else { return String::new() };
                match newest(inventory, PackageKind::Deb, &package.name) {
                    Some(installed) => {
                        format!("{} is {installed}, and {} is approved{more}", package.name, package.version)
                    }
                    None => format!("{} is not installed, and {} is approved{more}", package.name, package.version),
                }
            }
            Rule::Probe(what) => format!("the machine must be asked {what}"),
        }
    }

    fn met(&self, inventory: &Inventory) -> String {
        match self {
            Rule::AtLeast { kind, name, .. } => {
                let installed = newest(inventory, *kind, name).map_or("", |version| version);
                format!("the {} package {name} is {installed}", word(*kind))
            }
            Rule::HasPackage { kind, name } => format!("the {} package {name} is there", word(*kind)),
            Rule::Fact { name, value } => format!("{name} is {value}"),
            Rule::Concerns(_) => "a selected package is there".to_owned(),
            Rule::Current(apt) => {
                let there =
                    |package: &&AptPackage| matches!(inventory.standing(package), Standing::Same | Standing::Newer);
                let (there, all) = (apt.packages.iter().filter(there).count(), apt.packages.len());
                let other = if apt.back { "another" } else { "an earlier" };
                format!("{there} of the {all} selected packages are installed, none in {other} version")
            }
            Rule::Probe(what) => format!("the machine was asked {what}"),
        }
    }
}

fn newest<'a>(inventory: &'a Inventory, kind: PackageKind, name: &'a Name) -> Option<&'a Version> {
    inventory.versions(kind, name).max_by(|a, b| compare(kind, a, b))
}

fn word(kind: PackageKind) -> &'static str {
    match kind {
        PackageKind::Deb => "Debian",
        PackageKind::Rpm => "RPM",
        PackageKind::Flatpak => "Flatpak",
        PackageKind::Snap => "Snap",
    }
}

/// Rules with their positions: at most 64 and two for the platform.
fn positions(rules: &[Rule]) -> impl Iterator<Item = (u8, &Rule)> {
    (0..=u8::MAX).zip(rules)
}
