//! The files of a zip archive, one after the other, read from its beginning to its end: deflated or stored, without passwords.
//! Source: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.9 and 4.4.4.

use std::io::{self, BufRead, Read};

use anyhow::{Context as _, bail, ensure};
use flate2::bufread::DeflateDecoder;

const LOCAL_FILE: u32 = 0x0403_4b50;
const CENTRAL_FILE: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
/// The most files, and the most bytes of one of them when it is unpacked.
const MAX_FILES: usize = 1_000_000;
const MAX_FILE: u64 = 64 << 20;

/// Hands every file to `each` with its name.
pub(super) fn each(
    input: &mut impl BufRead,
    mut each: impl FnMut(&str, &mut dyn Read) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for _ in 0..MAX_FILES {
        match number(input, 4).context("the archive ends in the middle")? as u32 {
            LOCAL_FILE => {}
            CENTRAL_FILE | END => return Ok(()),
            _ => bail!("it is no zip archive, or one that was written in a way that is not read here"),
        }
        let _version = number(input, 2)?;
        let flags = number(input, 2)?;
        let method = number(input, 2)?;
        let _time = number(input, 4)?;
        let sum = number(input, 4)?;
        let (packed, _unpacked) = (number(input, 4)?, number(input, 4)?);
        let (name, extra) = (number(input, 2)?, number(input, 2)?);
        let name = String::from_utf8(bytes(input, name)?).context("a file's name is no text")?;
        bytes(input, extra)?;
        ensure!(flags & 1 == 0, "{name} is encrypted");
        let streamed = flags & 8 != 0;
        ensure!(!(streamed && method == 0), "{name}: where it ends is not said");
        ensure!(packed != u64::from(u32::MAX), "{name} is larger than any record");
        let mut sums = flate2::Crc::new();
        {
            let mut unpacked: Box<dyn Read> = match (method, streamed) {
                (8, true) => Box::new(DeflateDecoder::new(&mut *input)),
                (8, false) => Box::new(DeflateDecoder::new((&mut *input).take(packed))),
                (0, _) => Box::new((&mut *input).take(packed)),
                _ => bail!("{name} is packed in a way that is not read here ({method})"),
            };
            let mut summed = Summed { inner: &mut unpacked, sums: &mut sums, left: MAX_FILE };
            each(&name, &mut summed)?;
            // What the reader left: the next file begins behind it.
            io::copy(&mut summed, &mut io::sink()).with_context(|| name.clone())?;
        }
        let wanted = if streamed {
            let first = number(input, 4)?;
            let sum = if first as u32 == DESCRIPTOR { number(input, 4)? } else { first };
            bytes(input, 8)?;
            sum
        } else {
            sum
        };
        ensure!(u64::from(sums.sum()) == wanted, "{name} is damaged: its checksum does not match");
    }
    bail!("it has more than {MAX_FILES} files")
}

/// Counts and sums what goes through.
struct Summed<'a> {
    inner: &'a mut dyn Read,
    sums: &'a mut flate2::Crc,
    left: u64,
}

impl Read for Summed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other("a file is too long"))?;
        self.sums.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// A number of up to eight bytes, the least first.
fn number(input: &mut impl Read, len: u64) -> anyhow::Result<u64> {
    Ok(bytes(input, len)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn bytes(input: &mut impl Read, len: u64) -> anyhow::Result<Vec<u8>> {
    let mut found = Vec::new();
    input.take(len).read_to_end(&mut found)?;
    ensure!(found.len() as u64 == len, "the archive ends in the middle");
    Ok(found)
}
