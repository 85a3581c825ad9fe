//! Verified copies of payloads, where nobody else can change them.

use std::fs::{self, File};
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use upswarm_protocol::catalog::Payload;
use upswarm_protocol::ids::PayloadId;

use super::{Job, Trouble, private_dir, random_name};
use crate::sys;

/// Copies for one job; dropped with it.
#[derive(Debug)]
pub(super) struct Snapshot {
    dir: PathBuf,
    /// Position in the release, path of the copy.
    copies: Vec<(usize, PathBuf)>,
}

impl Snapshot {
    /// The copy of the payload at this position, if it was asked for.
    pub(super) fn path(&self, position: usize) -> Option<&Path> {
        self.copies.iter().find(|(at, _)| *at == position).map(|(_, path)| path.as_path())
    }

    /// Every copy, in the order asked for.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.copies.iter().map(|(_, path)| path.as_path())
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Copies these payloads of the release, each once, under the names that the release gives them; the one at `executable` can
/// be run, the others are only read.
pub(super) fn snapshot(job: &Job<'_>, positions: &[usize], executable: Option<usize>) -> Result<Snapshot, Trouble> {
    let dir = private_dir(job.state_dir, "private")?.join(random_name()?);
    sys::create_private_dir(&dir).map_err(|error| Trouble::io("cannot create", &dir, error))?;
    let mut snapshot = Snapshot { dir, copies: Vec::new() };
    for &position in positions {
        let (payload, source) = find(job, position)?;
        let copy = snapshot.dir.join(file_name(payload)?);
        let cannot = |error| Trouble::io("cannot write", &copy, error);
        let mut file = sys::create_private(&copy).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Trouble::failed(format!("two payloads of the release have the name {:?}", payload.name))
            }
            _ => cannot(error),
        })?;
        copy_verified(payload, source, &mut file)?;
        let mode = if executable == Some(position) { 0o500 } else { 0o400 };
        sys::set_mode(&file, mode).map_err(cannot)?;
        snapshot.copies.push((position, copy));
    }
    Ok(snapshot)
}

/// The payload at a position of the release, and where its bytes are.
pub(super) fn find<'a>(job: &'a Job<'_>, position: usize) -> Result<(&'a Payload, &'a Source), Trouble> {
    let payload = job.release.payloads.get(position);
    payload.zip(job.payloads.get(position)).ok_or_else(|| {
        let count = job.release.payloads.len();
        Trouble::failed(format!("the recipe names payload {position}, the release has {count}"))
    })
}

/// The positions of all payloads but those that are patches to others.
pub(super) fn installable(job: &Job<'_>) -> Vec<usize> {
    let payloads = &job.release.payloads;
    let is_patch =
        |at: usize| payloads.iter().any(|payload| payload.patches.iter().any(|patch| usize::from(patch.payload) == at));
    (0..payloads.len()).filter(|at| !is_patch(*at)).collect()
}

/// Where the bytes of a payload come from. None of them are trusted.
#[derive(Debug)]
pub(crate) enum Source {
    /// A file of the store.
    Path(PathBuf),
    /// An open file that another process has handed over; it may move its position at any time.
    File(File),
    /// Nowhere: the recipe does without it.
    Missing,
}

impl Source {
    fn open(&self, payload: &Payload) -> Result<File, Trouble> {
        // Neither a link to somewhere else nor a pipe that never answers.
        let missing = || Trouble::retry(format!("payload {} is not in the store", payload.name));
        let file = match self {
            Source::Path(path) => sys::open_plain(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => missing(),
                _ => Trouble::io("cannot read", path, error),
            }),
            Source::File(file) => file.try_clone().map_err(|error| unreadable(payload, error)),
            Source::Missing => Err(missing()),
        }?;
        let found = file.metadata().map_err(|error| unreadable(payload, error))?;
        if !found.is_file() {
            return Err(Trouble::failed(format!("payload {} in the store is not a plain file", payload.name)));
        }
        Ok(file)
    }
}

/// Copies a payload into `copy`, a new file that only this user can open, and makes sure that the copy has the length and hash
/// that the release says.
pub(super) fn copy_verified(payload: &Payload, source: &Source, copy: &mut File) -> Result<(), Trouble> {
    let original = source.open(payload)?;
    let write = |error: io::Error| Trouble {
        reason: format!("cannot copy payload {}: {error}", payload.name),
        ..Trouble::io("", Path::new(""), error)
    };
    let differs = |what: String| {
        let reason = format!("payload {} in the store {what}; it was not used", payload.name);
        Trouble::retry(reason)
    };
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut len = 0_u64;
    // A clone is a snapshot: what is hashed is the copy, which nobody else can change. Elsewhere the bytes are hashed while
    // they are copied, each read once.
    let as_long = original.metadata().is_ok_and(|found| found.len() == payload.len);
    let cloned = as_long && sys::clone_blocks(&original, copy);
    let reader = if cloned { copy.try_clone().map_err(write)? } else { original };
    copy.rewind().map_err(write)?;
    while len <= payload.len {
        // By position: whoever handed the file over shares its own.
        let count = match sys::read_at(&reader, &mut buffer, len) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(payload, error)),
        };
        len += count as u64;
        hasher.update(&buffer[..count]);
        if !cloned {
            copy.write_all(&buffer[..count]).map_err(write)?;
        }
    }
    if len != payload.len {
        return Err(differs(format!("does not have the {} bytes that the release says", payload.len)));
    }
    let found = PayloadId(*hasher.finalize().as_bytes());
    if found != payload.id {
        return Err(differs(format!("hashes to {}, the release says {}", found.short(), payload.id.short())));
    }
    Ok(())
}

fn unreadable(payload: &Payload, error: io::Error) -> Trouble {
    let reason = format!("cannot read payload {}: {error}", payload.name);
    Trouble { reason, ..Trouble::io("", Path::new(""), error) }
}

/// Whether a payload's name may be handed to a package manager: it ends in `.deb` or `.rpm`, and nothing in it could be read as
/// an option, a pattern, a list or a location.
pub(crate) fn is_package_file(name: &str, extension: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+._-~^%=@".contains(&byte);
    let first = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    first && name.bytes().all(plain) && name.strip_suffix(extension).is_some_and(|stem| !stem.is_empty())
}

/// The payload's file name, if it is one.
fn file_name(payload: &Payload) -> Result<&str, Trouble> {
    let name = payload.name.as_str();
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    plain.then_some(name).ok_or_else(|| Trouble::failed(format!("{name:?} is not a file name")))
}
