//! Scans of roots made by the test, of real databases and of hostile ones.

mod bill;
mod databases;
mod hostile;
mod machine;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;
use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::codec::{self, Text};
use upswarm_protocol::inventory::{Inventory, InventoryDelta, PackageKey};

use super::*;

/// A directory that stands for `/`.
struct Fake(TempDir);

impl Fake {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file that has rested for a minute, as one that no package manager is writing.
    fn put(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(&path, content).expect("a file");
        rest(&path, 60);
        path
    }

    fn scan(&self) -> Scan {
        scan(Some(self.path()), &KINDS)
    }
}

fn rest(path: &Path, seconds: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    File::open(path).expect("the file").set_modified(time).expect("a time");
}

/// Says that something could not be tried; on the build server that is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot be skipped here: {why}");
    eprintln!("SKIPPED: {why}");
}

fn has(tool: &str) -> bool {
    crate::sys::find(tool).is_some()
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// `kind name version arch` of every package.
fn packages(inventory: &Inventory) -> Vec<String> {
    let packages = inventory.packages().iter();
    let lines = packages.flat_map(|(key, versions)| {
        versions.iter().map(move |version| format!("{:?} {} {version} {}", key.kind, key.name, key.arch))
    });
    lines.collect()
}

fn paragraph(name: &str, version: &str) -> String {
    format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n")
}
