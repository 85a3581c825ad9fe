//! A wall clock that a test sets, for programs that it starts: libfaketime reads it from a file at every look.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian puts libfaketime, in the directory of each architecture.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The wall clock of some programs. The clocks that cannot be set stay as they are.
#[derive(Debug, Clone)]
pub struct FakeClock {
    file: PathBuf,
    library: PathBuf,
}

impl FakeClock {
    /// A clock that is right, kept in a file of this directory.
    pub fn new(dir: &Path, name: &str) -> Self {
        let places = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let library = places.map(|place| place.path().join(LIBRARY)).find(|path| path.exists());
        let library = library.expect("libfaketime is missing: apt-get install faketime");
        let clock = Self { file: dir.join(format!("{name}.clock")), library };
        clock.set_off_by(0);
        clock
    }

    /// Sets it so many days ahead of the right time, or behind it.
    pub fn set_off_by(&self, days: i64) {
        // Renamed into place: a program never reads half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{days:+}d")).expect("the clock's file");
        fs::rename(&new, &self.file).expect("the clock's file");
    }

    /// Lets a program see it.
    pub fn show(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        for name in ["FAKETIME_NO_CACHE", "DONT_FAKE_MONOTONIC", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"] {
            command.env(name, "1");
        }
    }
}
