//! The admin's names of groups and sites, and the opaque numbers that stand for them everywhere else.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::{GroupId, SiteId};

use super::directory::read_json_or_default;
use super::keys;

const MAX_NAMES: usize = 65536;
const MAX_NAME: usize = 64;

/// Names and numbers; stays on the coordinator.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Names {
    groups: BTreeMap<String, GroupId>,
    sites: BTreeMap<String, SiteId>,
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
        let fresh = GroupId(keys::random()?);
        Ok(*self.groups.entry(name.to_owned()).or_insert(fresh))
    }

    /// The number of a site, made up at its first mention. Save before it is used.
    pub(crate) fn site_or_new(&mut self, name: &str) -> anyhow::Result<SiteId> {
        check("site", name, self.sites.len())?;
        let fresh = SiteId(keys::random()?);
        Ok(*self.sites.entry(name.to_owned()).or_insert(fresh))
    }

    /// The number of a group.
    pub(crate) fn group(&self, name: &str) -> Option<GroupId> {
        self.groups.get(name).copied()
    }

    /// Every group.
    pub(crate) fn groups(&self) -> &BTreeMap<String, GroupId> {
        &self.groups
    }

    /// A group's name, or its number when it has none.
    pub(crate) fn group_name(&self, group: &GroupId) -> String {
        let found = self.groups.iter().find(|(_, number)| *number == group);
        found.map_or_else(|| group.to_string(), |(name, _)| name.clone())
    }

    /// A site's name, or its number when it has none.
    pub(crate) fn site_name(&self, site: &SiteId) -> String {
        let found = self.sites.iter().find(|(_, number)| *number == site);
        found.map_or_else(|| site.to_string(), |(name, _)| name.clone())
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
