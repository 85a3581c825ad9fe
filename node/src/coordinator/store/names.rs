//! The admin's names of groups and sites, and the opaque numbers that stand for them everywhere else.
//! Owns their file's content; never leaves the coordinator.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::{DeviceId, GroupId, SiteId};
use upswarm_protocol::time::Wall;

use crate::coordinator::files::read_json_or_default;
use crate::coordinator::keys;

const MAX_NAMES: usize = 65536;
const MAX_NAME: usize = 64;

/// Names and numbers, to be found both ways.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub(crate) struct Names {
    groups: BTreeMap<String, GroupId>,
    sites: BTreeMap<String, SiteId>,
    group_names: BTreeMap<GroupId, String>,
    site_names: BTreeMap<SiteId, String>,
    retired: BTreeMap<DeviceId, Wall>,
}

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    groups: BTreeMap<String, GroupId>,
    sites: BTreeMap<String, SiteId>,
    #[serde(default)]
    retired: BTreeMap<DeviceId, Wall>,
}

impl From<Stored> for Names {
    fn from(Stored { groups, sites, retired }: Stored) -> Self {
        let group_names = groups.iter().map(|(name, id)| (*id, name.clone())).collect();
        let site_names = sites.iter().map(|(name, id)| (*id, name.clone())).collect();
        Self { groups, sites, group_names, site_names, retired }
    }
}

impl From<Names> for Stored {
    fn from(Names { groups, sites, retired, .. }: Names) -> Self {
        Self { groups, sites, retired }
    }
}

impl Names {
    /// The names in a file; none when there is no file yet.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        read_json_or_default(path)
    }

    /// The bytes that [`Names::load`] reads.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Plain data with text keys always becomes JSON.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// The number of a group, made up at its first mention. Save before it is used.
    pub(crate) fn group_or_new(&mut self, name: &str) -> anyhow::Result<GroupId> {
        check("group", name, self.groups.len())?;
        if let Some(known) = self.groups.get(name) {
            return Ok(*known);
        }
        let fresh = GroupId(keys::random()?);
        self.groups.insert(name.to_owned(), fresh);
        self.group_names.insert(fresh, name.to_owned());
        Ok(fresh)
    }

    /// The number of a site, made up at its first mention. Save before it is used.
    pub(crate) fn site_or_new(&mut self, name: &str) -> anyhow::Result<SiteId> {
        check("site", name, self.sites.len())?;
        if let Some(known) = self.sites.get(name) {
            return Ok(*known);
        }
        let fresh = SiteId(keys::random()?);
        self.sites.insert(name.to_owned(), fresh);
        self.site_names.insert(fresh, name.to_owned());
        Ok(fresh)
    }

    /// The number of a group.
    pub(crate) fn group(&self, name: &str) -> Option<GroupId> {
        self.groups.get(name).copied()
    }

    /// Every group.
    pub(crate) fn groups(&self) -> &BTreeMap<String, GroupId> {
        &self.groups
    }

    /// Machines that are gone, and since when.
    pub(crate) fn retired(&self) -> &BTreeMap<DeviceId, Wall> {
        &self.retired
    }

    /// A machine is gone.
    pub(crate) fn retire(&mut self, device: DeviceId, now: Wall) -> Result<(), String> {
        if self.retired.len() >= MAX_NAMES {
            return Err(format!("{MAX_NAMES} machines are retired, no more are kept"));
        }
        self.retired.entry(device).or_insert(now);
        Ok(())
    }

    /// A machine is back. Returns whether it was gone.
    pub(crate) fn back(&mut self, device: &DeviceId) -> bool {
        self.retired.remove(device).is_some()
    }

    /// A group's name, if it has one.
    pub(crate) fn group_of(&self, group: &GroupId) -> Option<&str> {
        self.group_names.get(group).map(String::as_str)
    }

    /// A group's name, or its number when it has none.
    pub(crate) fn group_name(&self, group: &GroupId) -> String {
        self.group_of(group).map_or_else(|| group.to_string(), str::to_owned)
    }

    /// The number of a site.
    pub(crate) fn site(&self, name: &str) -> Option<SiteId> {
        self.sites.get(name).copied()
    }

    /// The names of all sites.
    pub(crate) fn sites(&self) -> impl Iterator<Item = &str> {
        self.sites.keys().map(String::as_str)
    }

    /// A site's name, or its number when it has none.
    pub(crate) fn site_name(&self, site: &SiteId) -> String {
        self.site_names.get(site).map_or_else(|| site.to_string(), Clone::clone)
    }
}

fn check(what: &str, name: &str, known: usize) -> anyhow::Result<()> {
    if name.trim().is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        bail!("a {what} name has 1 to {MAX_NAME} bytes without control characters, unlike {name:?}");
    }
    if known >= MAX_NAMES {
        bail!("{MAX_NAMES} {what} names are in use, no more are taken");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.json");
        let mut names = Names::load(&path).unwrap();
        let group = names.group_or_new("office").unwrap();
        let site = names.site_or_new("berlin").unwrap();
        assert_eq!(names.group_or_new("office").unwrap(), group);
        std::fs::write(&path, names.to_bytes()).unwrap();
        let again = Names::load(&path).unwrap();
        assert_eq!((again.group("office"), again.site_name(&site)), (Some(group), "berlin".to_owned()));
        assert_eq!(again.group("elsewhere"), None);
        for bad in ["", "  ", "a\nb", &"x".repeat(65)] {
            assert!(names.group_or_new(bad).is_err(), "{bad:?}");
        }
        std::fs::write(&path, "{").unwrap();
        assert!(Names::load(&path).is_err());
    }
}
