//! Linux and its relatives.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, FallocateFlags, FlockOperation, SeekFrom};
use rustix::io::Errno;

/// Locks a file for this process; whether nobody else had it locked.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Bytes that this user may still write on the file system of a file.
pub(crate) fn free(file: &File) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(file)?;
    // Root may use what is set apart for it.
    let blocks = if rustix::process::geteuid().is_root() { stat.f_bfree } else { stat.f_bavail };
    Ok(blocks.saturating_mul(stat.f_frsize))
}

/// Takes room on disk for the first `len` bytes of a file. `false` where the file system cannot.
pub(crate) fn take_room(file: &File, len: u64) -> io::Result<bool> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads exactly `into.len()` bytes at `offset`.
pub(crate) fn read_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(into, offset)
}

/// As [`read_at`], into memory that need not be filled with zeros first.
pub(crate) fn read_new(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // There may have been more room than was asked for.
    bytes.truncate(len);
    Ok(bytes)
}

/// Writes all of `bytes` at `offset`. Not durable until the file is synced.
pub(crate) fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Whether a range was never written: a hole, or room that was taken and not used. "No" where that cannot be told.
pub(crate) fn is_hole(file: &File, offset: u64, len: u64) -> bool {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data >= offset + len,
        Err(error) => error == Errno::NXIO,
    }
}

/// Asks the system to forget what it caches of a range, so that the next read comes from the disk.
pub(crate) fn forget_cached(file: &File, offset: u64, len: u64) {
    // Only advice: where it fails, the read is answered from memory.
    let _ = rustix::fs::fadvise(file, offset, core::num::NonZeroU64::new(len), Advice::DontNeed);
}

/// Whether an error says that this process has too many files open.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MFILE.raw_os_error())
}
