//! RPM packages, from rpm itself in a format of our own: its database comes in several forms.

use std::cell::OnceCell;
use std::path::PathBuf;

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::inventory::{Arch, Name, PackageKey, Version};

use super::command::{self, Rows};
use super::{Found, Notices};
use crate::sys::{Root, Stamp};

/// Where distributions keep the database, the present place first.
const DIRS: [&str; 2] = ["usr/lib/sysimage/rpm", "var/lib/rpm"];
/// The files that packages are in: SQLite with its journal, ndb, Berkeley DB.
const FILES: [&str; 4] = ["rpmdb.sqlite", "rpmdb.sqlite-wal", "Packages.db", "Packages"];
const ROW: &str = "upswarm";
const FORMAT: &str =
    "upswarm\\t%{NAME}\\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%|SOURCERPM?{%{SOURCERPM}}:{}|\\n";

/// Where the database is.
#[derive(Debug)]
pub(super) struct Database {
    dir: String,
}

impl Database {
    /// Looks for it; in the running system also where rpm itself would look, which Debian's does in root's home. `own` keeps
    /// rpm's answer.
    pub(super) fn find(root: &Root, own: &OnceCell<String>) -> Option<Self> {
        let holds_packages = |dir: &str| stamps(root, dir).iter().any(Option::is_some);
        if let Some(dir) = DIRS.into_iter().find(|dir| holds_packages(dir)) {
            return Some(Self { dir: dir.into() });
        }
        if !root.is_live() {
            return None;
        }
        if own.get().is_none() {
            // Another place than the first is impossible: it is empty.
            let _ = own.set(own_place()?);
        }
        own.get().filter(|dir| holds_packages(dir)).map(|dir| Self { dir: dir.clone() })
    }

    /// What tells whether it has changed.
    pub(super) fn stamps(&self, root: &Root) -> Vec<Option<Stamp>> {
        stamps(root, &self.dir)
    }

    /// Every installed package, and what could not be read. Signing keys, which rpm lists among packages, are left out.
    pub(super) fn read(&self, root: &Root) -> Found {
        let name = root.name(&self.dir);
        let Some(dir) = root.real(&self.dir) else { return Found::broken(format!("{name} cannot be opened")) };
        // Not `--root`: that takes the rights of root, and this system's idea of where the database is.
        let args = ["--dbpath".into(), dir.into_os_string(), "-qa".into(), "--qf".into(), FORMAT.into()];
        let advice = "`rpmdb --verifydb` says more, `rpmdb --rebuilddb` repairs it, and SQLite without its journal opens for root only";
        match command::rows("rpm", &args, &[]) {
            Ok(rows) => parse(&rows, &name, advice),
            Err(error) => Found::broken(format!("the RPM database {name} cannot be read: {error}; {advice}")),
        }
    }
}

/// An empty journal is as good as none: readers make and remove it.
fn stamps(root: &Root, dir: &str) -> Vec<Option<Stamp>> {
    let stamp = |file| root.stamp(&format!("{dir}/{file}")).filter(|stamp| !stamp.is_empty());
    FILES.iter().map(stamp).collect()
}

fn parse(rows: &Rows, database: &str, advice: &str) -> Found {
    let mut found = Found::default();
    let mut notices = Notices::default();
    for row in &rows.lines {
        match package(row) {
            Some((key, ..)) if key.name.as_str() == "gpg-pubkey" => {}
            Some((key, version, source)) => {
                if let Some(source) = source.filter(|source| *source != key.name) {
                    found.sources.insert(key.clone(), source);
                }
                found.packages.push((key, version));
            }
            None => notices.add(format!(
                "{database}: the entry {:?} is no package and left out; {advice}",
                row.chars().take(80).collect::<String>()
            )),
        }
    }
    if let Some(complaint) = rows.complaint() {
        notices.add(format!("{database}: {complaint}; {advice}"));
    }
    found.notices = notices.into_vec();
    found
}

fn package(row: &str) -> Option<(PackageKey, Version, Option<Name>)> {
    let mut fields = row.split('\t');
    let (mark, name, version, arch, source) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if mark != ROW || fields.next().is_some() || name.is_empty() {
        return None;
    }
    let version = version.strip_prefix("0:").unwrap_or(version);
    let arch = if arch == "(none)" { "" } else { arch };
    let key = PackageKey { kind: PackageKind::Rpm, name: Name::new(name).ok()?, arch: Arch::new(arch).ok()? };
    // NAME-VERSION-RELEASE.src.rpm
    let source = source.rsplitn(3, '-').nth(2).and_then(|source| Name::new(source).ok());
    Some((key, Version::new(version).ok().filter(|version| !version.starts_with('-'))?, source))
}

/// Where rpm keeps its database on this system, relative to `/`.
fn own_place() -> Option<String> {
    let rows = command::rows("rpm", &["--eval".into(), "%{_dbpath}".into()], &[]).ok()?;
    let path = PathBuf::from(rows.lines.first()?);
    path.strip_prefix("/").ok()?.to_str().map(str::to_owned)
}
