//! What a holder of keys has signed before under a name: the numbers of groups, the machines of lists. Only the coordinator says which name
//! is whose, so what it said once is held against what it says now. Owns the files beside the keys; never refuses a list by them.
//!
//! ```text
//! KEYS-DIR/known-groups.json     number of each group, by its name
//! KEYS-DIR/known-machines.json   of each group's last list: its machines' keys, by their names
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use upswarm_protocol::ids::{DeviceId, GroupId};

use crate::api::devices::DeviceName;
use crate::api::groups::ListDraft;
use crate::error::CliError;
use crate::sys::{self, Access};
use crate::text::one_line;

/// The number that each group's name had when it was first signed for.
pub(super) const KNOWN_GROUPS: &str = "known-groups.json";
/// The machines of the lists that were signed.
pub(super) const KNOWN_MACHINES: &str = "known-machines.json";

/// Groups have numbers, and without a document only the coordinator knows which is whose: a name that has once been signed for keeps its number.
/// Returns whether it has been.
pub(super) fn same_group(dir: &Path, name: &str, group: GroupId) -> Result<bool, CliError> {
    match read::<BTreeMap<String, GroupId>>(dir, KNOWN_GROUPS)?.get(name) {
        Some(before) if *before == group => Ok(true),
        Some(before) => Err(CliError::Refused(format!(
            "nothing was signed: group {name:?} is {group} for the coordinator, and was {before} when you first signed for it; if \
             it was really made anew, remove its line from {}",
            dir.join(KNOWN_GROUPS).display()
        ))),
        None => Ok(false),
    }
}

/// Remembers a group's number.
pub(super) fn remember_group(dir: &Path, name: &str, group: GroupId) {
    let Ok(mut known) = read::<BTreeMap<String, GroupId>>(dir, KNOWN_GROUPS) else { return };
    if known.insert(name.to_owned(), group) != Some(group) {
        write(dir, KNOWN_GROUPS, &known);
    }
}

/// The machines of the last list that was signed for each group: by their names, since names are what a person goes by.
#[derive(Debug, Default)]
pub(super) struct KnownMachines {
    lists: BTreeMap<GroupId, BTreeMap<String, BTreeSet<DeviceId>>>,
}

impl KnownMachines {
    /// Those that the keys in this directory have signed.
    pub(super) fn read(dir: &Path) -> Result<Self, CliError> {
        let lists = read(dir, KNOWN_MACHINES)?;
        Ok(Self { lists })
    }

    /// Remembers the list that was signed for a group, instead of the one before.
    pub(super) fn remember(mut self, dir: &Path, group: GroupId, list: &ListDraft) {
        let mut named: BTreeMap<String, BTreeSet<DeviceId>> = BTreeMap::new();
        for device in &list.devices {
            named.entry(device.name.clone()).or_default().insert(device.device);
        }
        if self.lists.insert(group, named.clone()).as_ref() != Some(&named) {
            write(dir, KNOWN_MACHINES, &self.lists);
        }
    }

    /// What somebody should know about the names of a list before it is signed.
    pub(super) fn compare(&self, group: GroupId, list: &ListDraft) -> Vec<String> {
        let mut lines = Vec::new();
        let mut keys_of: BTreeMap<&str, BTreeSet<DeviceId>> = BTreeMap::new();
        let mut names_of: BTreeMap<DeviceId, BTreeSet<&str>> = BTreeMap::new();
        for (name, keys) in self.lists.values().flatten() {
            keys_of.entry(name).or_default().extend(keys);
            for key in keys {
                names_of.entry(*key).or_default().insert(name);
            }
        }
        for DeviceName { device, name } in &list.devices {
            let others = keys_of.get(name.as_str()).filter(|keys| !keys.contains(device));
            lines.extend(others.into_iter().flatten().map(|other| {
                format!(
                    "WARNING     {} was the name of the key {} when you signed for it, and is that of {} now; ask why, unless the \
                     machine was set up anew",
                    one_line(name),
                    digits(other),
                    digits(device)
                )
            }));
            let others = names_of.get(device).filter(|names| !names.contains(name.as_str()));
            lines.extend(others.into_iter().flatten().map(|other| {
                let (name, key, other) = (one_line(name), digits(device), one_line(other));
                format!("WARNING     {name} ({key}) was called {other} when you signed for it")
            }));
        }
        let Some(last) = self.lists.get(&group) else {
            lines.push("            these keys have signed no list of this group before".to_owned());
            return lines;
        };
        let was: BTreeSet<DeviceId> = last.values().flatten().copied().collect();
        let will: BTreeSet<DeviceId> = list.devices.iter().map(|device| device.device).collect();
        for device in list.devices.iter().filter(|device| !was.contains(&device.device)) {
            lines.push(format!("joins       {} ({})", one_line(&device.name), digits(&device.device)));
        }
        for (name, keys) in last {
            let left = keys.iter().filter(|key| !will.contains(*key));
            lines.extend(left.map(|key| format!("leaves      {} ({})", one_line(name), digits(key))));
        }
        if was == will {
            lines.push("            the same machines as in the list that these keys signed last".to_owned());
        }
        lines
    }
}

/// As many digits of a machine's key as nobody finds a second key for.
pub(super) fn digits(device: &DeviceId) -> String {
    device.to_string().chars().take(24).collect()
}

fn read<T: DeserializeOwned + Default>(dir: &Path, file: &str) -> Result<T, CliError> {
    let path = dir.join(file);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| CliError::Refused(format!("{} is damaged ({error}); restore it", path.display()))),
        Err(_) => Ok(T::default()),
    }
}

/// Keys may lie on a medium that cannot be written; then every time is the first.
fn write(dir: &Path, file: &str, known: &impl Serialize) {
    let path = dir.join(file);
    let written = serde_json::to_vec_pretty(known).map_err(std::io::Error::other);
    if let Err(error) = written.and_then(|bytes| sys::replace(&path, &bytes, Access::Owner)) {
        tracing::debug!(path = %path.display(), %error, "what was signed is not remembered");
    }
}
