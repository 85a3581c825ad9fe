//! Which programs still run with files that an upgrade has replaced: they have the old code until they are started anew.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

/// Of one process; a large one has some thousand lines.
const MAX_MAPS: u64 = 4 << 20;
const MAX_PROCESSES: usize = 32 << 10;
/// Where the system's own programs and libraries lie.
const SYSTEM: [&str; 5] = ["/usr/", "/lib", "/bin/", "/sbin/", "/opt/"];

/// Names and numbers of those processes, for example `sshd (pid 812)`. None below another root: its programs do not run.
pub(super) fn replaced(root: Option<&Path>) -> BTreeSet<String> {
    if root.is_some() { BTreeSet::new() } else { of(Path::new("/proc")) }
}

fn of(proc: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten().take(MAX_PROCESSES);
    let stale = entries.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let maps = File::open(entry.path().join("maps")).ok()?;
        let lines = BufReader::new(maps.take(MAX_MAPS)).lines().map_while(Result::ok);
        if !lines.into_iter().any(|line| is_replaced(&line)) {
            return None;
        }
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        Some(format!("{} (pid {number})", super::super::log::plain(&name)))
    });
    stale.collect()
}

/// `ADDRESSES rwxp OFFSET DEVICE INODE PATH (deleted)`: code that is no longer in the file system under its name.
fn is_replaced(line: &str) -> bool {
    let Some(line) = line.strip_suffix(" (deleted)") else { return false };
    let is_code = line.split_ascii_whitespace().nth(1).is_some_and(|mode| mode.contains('x'));
    let path = line.find('/').and_then(|at| line.get(at..)).unwrap_or_default();
    is_code && SYSTEM.iter().any(|dir| path.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_old_code_is_named() {
        let proc = tempfile::tempdir().unwrap();
        let add = |number: &str, name: &str, maps: &str| {
            let dir = proc.path().join(number);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("comm"), format!("{name}\n")).unwrap();
            fs::write(dir.join("maps"), maps).unwrap();
        };
        let old = "7f00-7f10 r-xp 00000000 fe:01 1234      /usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)\n";
        let data = "7f00-7f10 rw-s 00000000 00:01 1234      /memfd:x (deleted)\n7f20-7f30 r--p 0 fe:01 7 /usr/lib/l.so (deleted)\n";
        let home = "7f00-7f10 r-xp 00000000 fe:01 1234      /home/u/own.so (deleted)\n";
        let now = "7f00-7f10 r-xp 00000000 fe:01 1234      /usr/lib/x86_64-linux-gnu/libssl.so.3\n";
        for (number, name, maps) in
            [("12", "sshd", old), ("13", "data", data), ("14", "own", home), ("15", "new", now), ("self", "x", old)]
        {
            add(number, name, maps);
        }
        assert_eq!(of(proc.path()), BTreeSet::from(["sshd (pid 12)".to_owned()]));
        assert_eq!(replaced(Some(proc.path())), BTreeSet::new());
    }
}
