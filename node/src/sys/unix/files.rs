//! Files and folders: replaced whole, closed to others, read without being led astray. After a crash there is the old file or
//! the new one, and no error is kept quiet.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk};

/// How the name of a file ends that is about to take another's place.
const TEMPORARY: &str = ".tmp";

/// For a lock.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// Who may read a file. Nobody but its owner may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its owner alone.
    Owner,
    /// Every user of the machine.
    Everyone,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Access::Owner => 0o600,
            Access::Everyone => 0o644,
        }
    }
}

/// Replaces a file as a whole; durable on return, the folder's entry too. On an error the old file is there still.
pub(crate) fn replace(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let temporary = temporary(path);
    write_new(&temporary, bytes, access)?.sync_all()?;
    rename(&temporary, path)
}

/// The same without waiting for the disk: a crash may lose the new content, or leave an empty file. For what can be had again.
pub(crate) fn replace_soon(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let temporary = temporary(path);
    write_new(&temporary, bytes, access)?;
    fs::rename(&temporary, path)
}

/// Gives a file its name, in place of whatever has it; durable on return. What is in the file, the caller has synced.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(folder(to))
}

/// Removes a file, if it is there; durable on return. May be tried again.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    remove_soon(path)?;
    sync_dir(folder(path))
}

/// The same without waiting for the disk: a crash may bring the file back.
pub(crate) fn remove_soon(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Makes renames and removals in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Whether this is what an abrupt stop left of [`replace`].
pub(crate) fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(TEMPORARY.as_bytes()))
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(TEMPORARY);
    name.into()
}

/// Writes over whatever an abrupt stop has left, which may have another owner's mode.
fn write_new(path: &Path, bytes: &[u8], access: Access) -> io::Result<File> {
    remove_soon(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Creates a file that was not there, for its owner alone.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Writes a file that was not there, for its owner alone; durable on return, the folder's entry too.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_private(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_dir(folder(path))
}

/// Makes a folder that was not there, for its owner alone.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)
}

/// Makes a folder, and those above it, if they are not there; what is made, only its owner may enter.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Closes a folder to everyone but its owner.
pub(crate) fn close_to_others(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// Whether a path is a folder of this user, no link; closed to others on return.
pub(crate) fn is_own_private_dir(dir: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    if found.mode() & 0o077 != 0 {
        close_to_others(dir)?;
    }
    Ok(true)
}

/// Sets who may read, write and run a file, in Unix's bits.
pub(crate) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// Opens a file for reading that another user may have put there: a link is refused, a pipe not waited for.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Opens a file for reading; links are followed, a pipe is not waited for.
pub(crate) fn open_at_once(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

/// Reads a whole file of settings: a regular file of up to `limit` bytes, links followed. What is none is refused at once.
pub(crate) fn read_settings(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_regular(open_at_once(path)?, limit)
}

/// As [`read_settings`], for a file in a folder of another user: a link there counts only when this user or root has made it, so that
/// nobody has root read what he may not read himself.
pub(crate) fn read_settings_of_another(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    match open_plain(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {}
        other => return read_regular(other?, limit),
    }
    // The link itself is held: it cannot become another one between the check and its use.
    let link = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let owner = rustix::fs::fstat(&link)?.st_uid;
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let text = "it is a symbolic link that another user has made; put the file itself there";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
    read_settings(&path.parent().unwrap_or(Path::new(".")).join(target), limit)
}

fn read_regular(file: File, limit: u64) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let text = format!("it is longer than the {limit} bytes that it may have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Whether an error says that there is nothing to open: no such file, no such folder, nobody at the other end.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
}

/// Reads at a position, whatever the file's own position is.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}

/// Makes an empty file share the blocks of another, as a snapshot; false where the file system does not do that.
pub(crate) fn clone_blocks(from: &File, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// All of it.
    pub(crate) total: u128,
    /// What any user may still write.
    pub(crate) free: u128,
}

/// Room on the file system of a path.
pub(crate) fn space(path: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| u128::from(blocks) * u128::from(found.f_frsize);
    Ok(Space { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
}

/// A lock on a file, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Whether others may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Nobody else.
    Alone,
    /// Others that share too.
    WithOthers,
}

/// Takes the lock of a file, which is made if it is not there; `None` when another process holds it.
pub(crate) fn lock(path: &Path, share: Share) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    let operation = match share {
        Share::Alone => FlockOperation::NonBlockingLockExclusive,
        Share::WithOthers => FlockOperation::NonBlockingLockShared,
    };
    match flock(&file, operation) {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Who holds a record lock (`fcntl`) on a file, as "apt-get (pid 123)"; `None` when nobody does, or there is no such file.
pub(crate) fn lock_holder(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let held = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok()??;
    let Some(pid) = held.pid.map(Pid::as_raw_nonzero) else { return Some("another program".into()) };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = if name.trim().is_empty() { "another program" } else { name.trim() };
    Some(format!("{name} (pid {pid})"))
}

/// The name or number of the user who owns a file, if that is not the one who runs this program.
pub(crate) fn owned_by_another(path: &Path) -> io::Result<Option<String>> {
    let owner = fs::metadata(path)?.uid();
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    // passwd(5): name, password, number.
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(owner)).then(|| name.to_owned())
    });
    Ok(Some(name.unwrap_or_else(|| format!("user {owner}"))))
}

/// As [`lock`], with patience for 2 s: a child that another thread has just started holds a copy of a lock that was given up
/// until it has become its own program. Blocks.
pub(crate) fn lock_patiently(path: &Path, share: Share) -> io::Result<Option<Lock>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lock(path, share)? {
            None if Instant::now() < deadline => std::thread::sleep(PAUSE),
            taken => return Ok(taken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_left_overs_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        // What an abrupt stop left, with a mode that would keep the new content from its readers.
        fs::write(dir.path().join("state.json.tmp"), "half").unwrap();
        fs::set_permissions(dir.path().join("state.json.tmp"), fs::Permissions::from_mode(0o400)).unwrap();
        for (text, access, mode) in [("one", Access::Owner, 0o600), ("two", Access::Everyone, 0o644)] {
            replace(&path, text.as_bytes(), access).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode);
        }
        replace_soon(&path, b"three", Access::Owner).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
        assert!(is_temporary(Path::new("a/state.json.tmp")) && !is_temporary(&path));
    }

    #[test]
    fn an_error_is_seen_and_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(replace(&dir.path().join("no/such/folder"), b"x", Access::Owner).is_err());
        // Where the temporary file cannot be written, the old content stays.
        let path = dir.path().join("file");
        replace(&path, b"old", Access::Owner).unwrap();
        fs::create_dir(dir.path().join("file.tmp")).unwrap();
        assert!(replace(&path, b"new", Access::Owner).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn a_file_takes_a_name_or_loses_it_and_a_secret_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        write_private(&from, b"secret").unwrap();
        assert_eq!(fs::metadata(&from).unwrap().mode() & 0o777, 0o600);
        assert_eq!(write_private(&from, b"other").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::write(&to, "old").unwrap();
        rename(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"secret");
        remove(&to).unwrap();
        remove(&to).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // A folder that cannot be synced is an error, though there is no file to remove.
        assert!(remove(&dir.path().join("no/file")).is_err() && rename(&from, &to).is_err());
    }

    #[test]
    fn a_lock_is_held_by_one_or_by_those_who_share() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let alone = lock(&path, Share::Alone).unwrap();
        assert!(alone.is_some() && lock(&path, Share::WithOthers).unwrap().is_none());
        drop(alone);
        let shared = (lock(&path, Share::WithOthers).unwrap(), lock(&path, Share::WithOthers).unwrap());
        assert!(shared.0.is_some() && shared.1.is_some() && lock(&path, Share::Alone).unwrap().is_none());
    }
}
