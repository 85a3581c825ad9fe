//! Reading below a root directory: the running system, or another one that is mounted somewhere.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

/// Entries of one directory beyond this are not looked at.
const MAX_ENTRIES: usize = 4_096;
/// Files of one value are shorter.
const MAX_VALUE: u64 = 4 << 10;

/// A directory that stands for `/`. Symbolic links of another system's root, absolute ones too, stay within it.
#[derive(Debug)]
pub(crate) struct Root {
    dir: OwnedFd,
    path: PathBuf,
    live: bool,
}

/// What a file looked like: while it is the same, so is the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified_ns: i128,
    size: u64,
    inode: u64,
}

impl Root {
    /// The running system with `None`, else the one below a directory.
    pub(crate) fn open(path: Option<&Path>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let absolute = std::path::absolute(path.unwrap_or(Path::new("/")))?;
        let dir = rustix::fs::openat(CWD, &absolute, flags, Mode::empty())?;
        Ok(Self { dir, path: absolute, live: path.is_none() })
    }

    /// Whether it is the running system.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// A path as people know it, for messages.
    pub(crate) fn name(&self, path: &str) -> String {
        self.path.join(path).display().to_string()
    }

    /// Opens a plain file; `path` is relative. Never waits for the other end of a pipe.
    pub(crate) fn file(&self, path: &str) -> io::Result<File> {
        let file = File::from(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a plain file")) }
    }

    /// The text of a file, at most `limit` bytes of it; bytes that are not UTF-8 are replaced.
    pub(crate) fn text(&self, path: &str, limit: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.file(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The value that a small file holds; `None` when there is no file or nothing in it.
    pub(crate) fn value(&self, path: &str) -> Option<String> {
        let text = self.text(path, MAX_VALUE).ok()?;
        // The device tree ends its texts with a zero byte.
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Names in a directory, sorted; none when it cannot be read.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let Ok(dir) = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY) else { return Vec::new() };
        let Ok(entries) = rustix::fs::Dir::read_from(&dir) else { return Vec::new() };
        let names = entries.take(MAX_ENTRIES).filter_map(|entry| {
            let name = entry.ok()?.file_name().to_str().ok()?.to_owned();
            (name != "." && name != "..").then_some(name)
        });
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }

    /// Whether there is anything at a path.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.at(path, OFlags::PATH).is_ok()
    }

    /// Where the last link of a path points, unresolved.
    pub(crate) fn link(&self, path: &str) -> Option<PathBuf> {
        let link = self.at(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        let target = rustix::fs::readlinkat(&link, "", Vec::new()).ok()?;
        Some(OsString::from_vec(target.into_bytes()).into())
    }

    /// What a file looks like; `None` when there is none.
    pub(crate) fn stamp(&self, path: &str) -> Option<Stamp> {
        let found = File::from(self.at(path, OFlags::PATH).ok()?).metadata().ok()?;
        let modified_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        Some(Stamp { modified_ns, size: found.len(), inode: found.ino() })
    }

    /// The path of an existing file or directory without links, for programs that know nothing of this root.
    pub(crate) fn real(&self, path: &str) -> Option<PathBuf> {
        let found = self.at(path, OFlags::PATH).ok()?;
        std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()
    }

    fn at(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let found = if self.live {
            rustix::fs::openat(&self.dir, path, flags, Mode::empty())
        } else {
            rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
        };
        found.map_err(io::Error::from)
    }
}

impl Stamp {
    /// Whether the file holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Whether the file has rested for so long that another change would show in its time. Clocks of file systems tick in
    /// milliseconds at best, in two seconds at worst.
    pub(crate) fn is_settled(&self, now: std::time::SystemTime) -> bool {
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        // A time in the future says nothing; such a file is read again and again, which is only slow.
        i128::try_from(now.as_nanos()).is_ok_and(|now| self.modified_ns + 3_000_000_000 <= now)
    }
}
