//! The files of ours below `etc/apt`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Snapshot;
use crate::sys::{self, Access};

pub(super) const SOURCES: &str = "sources.list.d/upswarm.sources";
const PREFERENCES: &str = "preferences.d/upswarm";
const KEYRINGS: &str = "keyrings";
const PREFIX: &str = "upswarm-";
const HEAD: &str = "# Written by upswarm at each approval: upswarm node apt-setup --undo takes it away.\n";

/// Writes certificates, preferences and sources, in this order: apt never sees a source without its pins.
pub(super) fn write(root: &Path, url: &str, snapshots: &[Snapshot]) -> io::Result<()> {
    let apt = root.join("etc/apt");
    let (mut sources, mut pins) = (HEAD.to_owned(), HEAD.to_owned());
    let host = url.split("://").nth(1).and_then(|rest| rest.split(['/', ':']).next()).unwrap_or_default();
    pins.push_str(&format!("Package: *\nPin: origin \"{host}\"\nPin-Priority: -1\n"));
    let mut keys = Vec::new();
    for snapshot in snapshots {
        let mut named = Vec::new();
        for (number, certificate) in snapshot.certificates.iter().enumerate() {
            let name = format!("{PREFIX}{}-{number}.asc", snapshot.upstream);
            put(&apt.join(KEYRINGS).join(&name), certificate)?;
            named.push(format!("/etc/apt/{KEYRINGS}/{name}"));
            keys.push(name);
        }
        // Freshness comes from the signed head of our own coordinator.
        sources.push_str(&format!(
            "\nTypes: deb\nURIs: {url}/apt/{}\nSuites: {}\nComponents: {}\nArchitectures: {}\nTargets: Packages\n\
             Check-Valid-Until: no\nSigned-By: {}\n",
            snapshot.upstream,
            snapshot.suite,
            snapshot.components.join(" "),
            snapshot.architectures.join(" "),
            named.join(",")
        ));
        for package in &snapshot.packages {
            let arch = if package.arch == "all" { String::new() } else { format!(":{}", package.arch) };
            let (name, version) = (&package.name, &package.version);
            let priority = super::priority(snapshot.word.back);
            pins.push_str(&format!("\nPackage: {name}{arch}\nPin: version {version}\nPin-Priority: {priority}\n"));
        }
    }
    put(&apt.join(PREFERENCES), &pins)?;
    put(&apt.join(SOURCES), &sources)?;
    for old in ours(&apt)?.into_iter().filter(|path| !keys.iter().any(|key| path.ends_with(key))) {
        fs::remove_file(old)?;
    }
    Ok(())
}

/// Takes them away, the source first.
pub(super) fn remove(root: &Path) -> io::Result<()> {
    let apt = root.join("etc/apt");
    for path in [apt.join(SOURCES), apt.join(PREFERENCES)].into_iter().chain(ours(&apt)?) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Our certificates.
fn ours(apt: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(apt.join(KEYRINGS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(".asc")) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Replaces a file, unless it is as it should be.
fn put(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    sys::replace(path, text.as_bytes(), Access::Everyone)
}
