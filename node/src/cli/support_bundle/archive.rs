//! A tar archive (POSIX ustar) of plain files, compressed by gzip: what every system can open.

use std::fs::File;
use std::io::{self, Write as _};

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::clock;

const BLOCK: usize = 512;

/// An archive that is being written.
pub(super) struct Archive(GzEncoder<File>);

impl Archive {
    pub(super) fn begin(file: File) -> Self {
        Self(GzEncoder::new(file, Compression::default()))
    }

    /// Adds a file, readable by its owner.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(&header(name, bytes.len())?)?;
        self.0.write_all(bytes)?;
        let rest = bytes.len().next_multiple_of(BLOCK) - bytes.len();
        self.0.write_all(&[0; BLOCK][..rest])
    }

    /// Ends it; durable on return. Returns the bytes of the file.
    pub(super) fn finish(mut self) -> anyhow::Result<u64> {
        self.0.write_all(&[0; 2 * BLOCK])?;
        let file = self.0.finish()?;
        file.sync_all()?;
        Ok(file.metadata().context("asking for its size")?.len())
    }
}

/// POSIX.1-1988, section 10.1.1: name, mode, owners, size, time, checksum, type, magic.
fn header(name: &str, len: usize) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let name = format!("upswarm-support/{name}");
    if name.len() >= 100 {
        return Err(io::Error::other(format!("{name} is too long for an archive")));
    }
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{len:011o}\0").as_bytes());
    put(136, format!("{:011o}\0", clock::wall().0 / 1000).as_bytes());
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}
