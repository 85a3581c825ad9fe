//! Where a file goes: a directory's descriptor and a name in it.
//!
//! The way there is walked from the root one component at a time, each opened without following links. A link on the way is
//! followed by hand (`/bin` -> `usr/bin` is normal), but only when its owner is root or this user: a link that someone else
//! made could lead an installer that runs as root anywhere. The last component is never followed: a link there is replaced.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

const MAX_LINKS: usize = 40;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// An open folder.
pub(crate) type Folder = OwnedFd;

/// Opens a folder.
pub(crate) fn open_folder(path: &Path) -> io::Result<Folder> {
    File::open(path).map(OwnedFd::from)
}

/// Why a place cannot be used as wanted.
#[derive(Debug)]
pub(crate) enum PlaceError {
    /// The path is not one that is followed; says why.
    Refused(String),
    /// The system does not let it be.
    Io {
        /// What was tried, before the path in a message.
        what: &'static str,
        path: PathBuf,
        error: io::Error,
    },
}

impl PlaceError {
    fn io(what: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Io { what, path: path.to_owned(), error: error.into() }
    }
}

/// A name in an open directory.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) dir: Folder,
    pub(crate) name: OsString,
    /// For messages.
    pub(crate) path: PathBuf,
}

/// The components of an absolute path without `.`, `..`, empty or overlong names and control characters.
fn components(path: &str) -> Result<Vec<&str>, PlaceError> {
    let refuse = |why: &str| PlaceError::Refused(format!("the path {path:?} {why}"));
    let rest = path.strip_prefix('/').ok_or_else(|| refuse("is not absolute"))?;
    let names: Vec<&str> = rest.split('/').collect();
    for name in &names {
        match *name {
            "" => return Err(refuse("has an empty component")),
            "." | ".." => return Err(refuse("has a component . or ..")),
            name if name.len() > 255 => return Err(refuse("has a component of more than 255 bytes")),
            name if name.chars().any(char::is_control) => return Err(refuse("has a control character")),
            _ => {}
        }
    }
    Ok(names)
}

/// The place that an absolute path names below `root`. Its directory must exist.
pub(crate) fn locate(root: &Path, path: &str) -> Result<Place, PlaceError> {
    walk(root, path, None)
}

/// The same, with directories that are missing made on the way, open to everyone to read; `made` learns of each.
pub(crate) fn locate_or_make(root: &Path, path: &str, made: &mut Vec<Made>) -> Result<Place, PlaceError> {
    walk(root, path, Some(made))
}

/// A directory that was made: the one it lies in, and its name.
pub(crate) type Made = (Folder, OsString);

/// Removes directories that were made, the last first, as far as they are empty.
pub(crate) fn unmake(made: Vec<Made>) {
    for (dir, name) in made.iter().rev() {
        let _ = rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
    }
}

fn walk(root: &Path, path: &str, mut made: Option<&mut Vec<Made>>) -> Result<Place, PlaceError> {
    let mut ahead: Vec<OsString> = components(path)?.into_iter().rev().map(OsString::from).collect();
    // The first element of the path comes last; so the name in the directory comes first.
    let name = ahead.remove(0);
    let full = root.join(path.trim_start_matches('/'));
    let cannot = |error: Errno| PlaceError::io("cannot reach the directory of", &full, error);
    let open = |path: &Path| rustix::fs::open(path, DIRECTORY - OFlags::NOFOLLOW, Mode::empty());
    let root = open(root).map_err(cannot)?;
    let mut way: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(step) = ahead.pop() {
        let here = way.last().unwrap_or(&root);
        match step.as_bytes() {
            b"" | b"." => continue,
            b".." => {
                way.pop();
                continue;
            }
            _ => {}
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match (rustix::fs::openat(here, &step, flags, Mode::empty()), &mut made) {
            (Err(Errno::NOENT), Some(made)) => {
                let parent = here.try_clone().map_err(|error| PlaceError::io("cannot reach", &full, error))?;
                rustix::fs::mkdirat(here, &step, Mode::from_raw_mode(0o755)).map_err(cannot)?;
                made.push((parent, step.clone()));
                rustix::fs::fsync(here).map_err(cannot)?;
                rustix::fs::openat(here, &step, flags, Mode::empty())
            }
            (found, _) => found,
        };
        let found = found.map_err(cannot)?;
        let stat = rustix::fs::fstat(&found).map_err(cannot)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                // The same directory, now readable, so that it can be synced.
                way.push(rustix::fs::openat(&found, ".", DIRECTORY, Mode::empty()).map_err(cannot)?);
            }
            FileType::Symlink => {
                links += 1;
                let me = rustix::process::geteuid().as_raw();
                if stat.st_uid != 0 && stat.st_uid != me {
                    let link = step.to_string_lossy();
                    let reason =
                        format!("{}: on the way, {link:?} is a link made by user {}", full.display(), stat.st_uid);
                    return Err(PlaceError::Refused(reason));
                }
                if links > MAX_LINKS {
                    return Err(cannot(Errno::LOOP));
                }
                // Read from the very link whose owner was looked at.
                let target = rustix::fs::readlinkat(&found, "", Vec::new()).map_err(cannot)?.into_bytes();
                if target.first() == Some(&b'/') {
                    way.clear();
                }
                ahead.extend(target.split(|byte| *byte == b'/').rev().map(|part| OsString::from_vec(part.to_vec())));
            }
            _ => return Err(cannot(Errno::NOTDIR)),
        }
    }
    let dir = way.pop().unwrap_or(root);
    Ok(Place { dir, name, path: full })
}

impl Place {
    /// What is there, links not followed; `None` if nothing is.
    fn stat(&self) -> Result<Option<Stat>, PlaceError> {
        match rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(PlaceError::io("cannot look at", &self.path, error)),
        }
    }

    /// Whether anything is there, a link that leads nowhere too.
    pub(crate) fn exists(&self) -> Result<bool, PlaceError> {
        Ok(self.stat()?.is_some())
    }

    /// Whether the place holds what this name in another folder stands for: the same file, equal bytes, or equal links.
    pub(crate) fn is_like(&self, folder: &Folder, name: &OsStr) -> Result<bool, PlaceError> {
        let cannot = |error: io::Error| PlaceError::io("cannot compare the backup of", &self.path, error);
        let other =
            rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| cannot(error.into()))?;
        let Some(found) = self.stat()? else { return Ok(false) };
        if (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino) {
            return Ok(true);
        }
        let kinds = [found, other].map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kinds == [FileType::Symlink; 2] {
            let read = |dir, name| rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|error| cannot(error.into()));
            return Ok(read(&self.dir, self.name.as_os_str())? == read(folder, name)?);
        }
        let equal = || Ok(self.hash()? == hash_at(folder, name).map_err(cannot)?);
        if kinds == [FileType::RegularFile; 2] { equal() } else { Ok(false) }
    }

    /// A new file for this user alone, beside the place.
    pub(crate) fn create(&self, name: &str) -> Result<File, PlaceError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let created = rustix::fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR);
        created.map(File::from).map_err(|error| PlaceError::io("cannot create a file beside", &self.path, error))
    }

    /// Moves what is called `name` beside the place into it.
    pub(crate) fn take(&self, name: &str) -> Result<(), PlaceError> {
        rustix::fs::renameat(&self.dir, name, &self.dir, &self.name)
            .map_err(|error| PlaceError::io("cannot put in place", &self.path, error))
    }

    /// Removes what has this name in the place's directory; nothing is no error, a directory is.
    pub(crate) fn unlink(&self, name: &OsStr) -> Result<(), PlaceError> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(PlaceError::io("cannot remove", &self.path, error)),
        }
    }

    /// Makes renames and removals in the directory durable.
    pub(crate) fn sync(&self) -> Result<(), PlaceError> {
        rustix::fs::fsync(&self.dir).map_err(|error| PlaceError::io("cannot sync the directory of", &self.path, error))
    }

    /// The BLAKE3 of the plain file that is there; `None` if there is no plain file.
    pub(crate) fn hash(&self) -> Result<Option<[u8; 32]>, PlaceError> {
        hash_at(&self.dir, &self.name).map_err(|error| PlaceError::io("cannot read", &self.path, error))
    }
}

/// The BLAKE3 of a plain file in a directory; `None` if there is none of this name.
pub(crate) fn hash_at(dir: &Folder, name: &OsStr) -> io::Result<Option<[u8; 32]>> {
    let file = match rustix::fs::openat(dir, name, read_flags(), Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(Some(*hasher.finalize().as_bytes()))
}

/// What a copy of a name was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Absent,
    Plain,
    Link,
}

/// Puts what is called `name` in `from` under a new name in `to`, with everything that belongs to it: as a hard link where
/// possible, else as a copy with mode, owner, times and extended attributes. Directories and devices are refused.
pub(crate) fn duplicate(from: &Folder, name: &OsStr, to: &Folder, new: &OsStr) -> io::Result<Kind> {
    match rustix::fs::linkat(from, name, to, new, AtFlags::empty()) {
        Ok(()) => {
            // The link itself is looked at: what the old name stands for may have changed since.
            let stat = rustix::fs::statat(to, new, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => return Ok(Kind::Plain),
                FileType::Symlink => return Ok(Kind::Link),
                _ => {
                    rustix::fs::unlinkat(to, new, AtFlags::empty())?;
                    return Err(io::Error::other("neither a plain file nor a link"));
                }
            }
        }
        Err(Errno::NOENT) => return Ok(Kind::Absent),
        // Another file system, one without links, or one that is full of them.
        Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::ACCESS) => {}
        Err(error) => return Err(error.into()),
    }
    let file = match rustix::fs::openat(from, name, read_flags(), Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(Kind::Absent),
        Err(Errno::LOOP) => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, new)?;
            return Ok(Kind::Link);
        }
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("neither a plain file nor a link"));
    }
    copy_whole(file, to, new)?;
    Ok(Kind::Plain)
}

fn copy_whole(mut from: File, to: &Folder, new: &OsStr) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut copy = File::from(rustix::fs::openat(to, new, flags, Mode::RUSR | Mode::WUSR)?);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            count => copy.write_all(&buffer[..count])?,
        }
    }
    let stat = rustix::fs::fstat(&from)?;
    if rustix::process::geteuid().is_root() {
        let (owner, group) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(&copy, Some(owner), Some(group))?;
    }
    // After the owner: a change of owner clears set-user-id bits and capabilities.
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_attributes(&from, &copy);
    let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default() };
    rustix::fs::futimens(&copy, &Timestamps { last_access: modified, last_modification: modified })?;
    copy.sync_all()
}

/// Extended attributes (labels, access lists, capabilities), as far as the other file system takes them.
fn copy_attributes(from: &File, to: &File) {
    let mut names = vec![0u8; 64 << 10];
    let Ok(len) = rustix::fs::flistxattr(from, &mut names) else { return };
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 64 << 10];
        if let Ok(len) = rustix::fs::fgetxattr(from, name, &mut value) {
            let _ = rustix::fs::fsetxattr(to, name, &value[..len], XattrFlags::empty());
        }
    }
}

/// For reading what may be anything: no link is followed, no pipe waited for.
fn read_flags() -> OFlags {
    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 200 and more paths that lead elsewhere, or that no honest release has.
    #[test]
    fn hostile_paths_are_refused() {
        let mut hostile: Vec<String> =
            ["", "/", "a", "./a", "../a", "~/a", "//", "C:\\a", "file:///a"].map(str::to_owned).to_vec();
        let parts = ["..", ".", "", "a\0b", "a\nb", "a\x1b[2J", "\u{7f}", "\u{85}", "\0"];
        for part in parts {
            for (before, after) in
                [("/", ""), ("/a/", ""), ("/", "/a"), ("/a/", "/b"), ("/usr/bin/../../", "/etc/passwd")]
            {
                hostile.push(format!("{before}{part}{after}"));
            }
            for depth in 1..20 {
                hostile.push(format!("/{}etc/passwd", format!("{part}/").repeat(depth)));
            }
        }
        hostile.push(format!("/{}", "a".repeat(256)));
        hostile.push(format!("/{}/b", "é".repeat(128)));
        assert!(hostile.len() >= 200, "{}", hostile.len());
        for path in hostile {
            assert!(components(&path).is_err(), "{path:?}");
            assert!(locate(Path::new("/"), &path).is_err(), "{path:?}");
        }
        assert_eq!(components("/usr/lib/...").unwrap(), ["usr", "lib", "..."]);
    }
}
