//! Flatpaks that are installed for the whole system, from flatpak itself.

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::inventory::{Arch, Name, PackageKey, Version};

use super::command::{self, Rows};
use super::{Found, Notices};
use crate::sys::{Root, Stamp};

const DIR: &str = "var/lib/flatpak";
const COLUMNS: &str = "--columns=application,version,branch,arch";
const ADVICE: &str = "`flatpak repair` says more";

/// What tells whether anything has changed: a file that flatpak touches after each change. `None` when there is nothing.
pub(super) fn stamps(root: &Root) -> Option<Vec<Option<Stamp>>> {
    let paths = ["app", "runtime"].map(|dir| format!("{DIR}/{dir}"));
    let any = paths.iter().any(|path| !root.names(path).is_empty());
    any.then(|| std::iter::once(format!("{DIR}/.changed")).chain(paths).map(|path| root.stamp(&path)).collect())
}

/// Every installed application and runtime. One that tells no version stands with its branch.
pub(super) fn read(root: &Root) -> Found {
    let name = root.name(DIR);
    let Some(dir) = root.real(DIR) else { return Found::broken(format!("{name} cannot be opened")) };
    let dir = dir.display().to_string();
    let env = [("FLATPAK_SYSTEM_DIR", dir.as_str())];
    let env = if root.is_live() { &[][..] } else { &env[..] };
    match command::rows("flatpak", &["list", "--system", COLUMNS].map(Into::into), env) {
        Ok(rows) => parse(&rows, &name),
        Err(error) => Found::broken(format!("the flatpaks in {name} cannot be listed: {error}; {ADVICE}")),
    }
}

fn parse(rows: &Rows, name: &str) -> Found {
    let mut found = Found::default();
    let mut notices = Notices::default();
    for row in &rows.lines {
        match package(row) {
            Some(package) => found.packages.push(package),
            None => notices.add(format!(
                "{name}: the entry {:?} is no flatpak and left out; {ADVICE}",
                row.chars().take(80).collect::<String>()
            )),
        }
    }
    if let Some(complaint) = rows.complaint() {
        notices.add(format!("{name}: {complaint}; {ADVICE}"));
    }
    found.notices = notices.into_vec();
    found
}

fn package(row: &str) -> Option<(PackageKey, Version)> {
    let mut fields = row.split('\t');
    let (name, version, branch, arch) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || name.is_empty() || arch.is_empty() {
        return None;
    }
    let key = PackageKey { kind: PackageKind::Flatpak, name: Name::new(name).ok()?, arch: Arch::new(arch).ok()? };
    Some((key, Version::new(if version.is_empty() { branch } else { version }).ok()?))
}
