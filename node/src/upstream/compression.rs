//! Indexes are compressed: xz, gzip, Zstandard, or not at all. Owns how much memory and output a decompressor may take.

use std::io::{self, BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// The most memory of a decompressor: `xz -9` takes 65 MiB.
const MEMORY: u64 = 128 << 20;
/// The most bytes that an index may have when it is unpacked; Debian's largest has 60 MB.
pub(crate) const MAX_UNPACKED: u64 = 1 << 30;
const BUFFER: usize = 64 << 10;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Xz,
    Zstd,
    Gzip,
    None,
}

impl Compression {
    /// From the smallest files to the largest.
    pub(crate) const ALL: [Self; 4] = [Self::Xz, Self::Zstd, Self::Gzip, Self::None];

    /// How a file's name ends.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
            Self::None => "",
        }
    }

    /// By a file's name.
    pub(crate) fn of(name: &str) -> Self {
        let of = Self::ALL.into_iter().find(|known| !known.ending().is_empty() && name.ends_with(known.ending()));
        of.unwrap_or(Self::None)
    }

    /// Unpacks what `input` gives; an error when that is more than [`MAX_UNPACKED`] bytes.
    pub(crate) fn open<'a>(self, input: impl Read + Send + 'a) -> io::Result<Box<dyn BufRead + Send + 'a>> {
        let unpacked: Box<dyn Read + Send + 'a> = match self {
            Self::Xz => {
                let stream = Stream::new_stream_decoder(MEMORY, CONCATENATED).map_err(io::Error::other)?;
                Box::new(XzDecoder::new_stream(input, stream))
            }
            Self::Zstd => {
                let input = BufReader::with_capacity(BUFFER, input);
                let decoder = StreamingDecoder::new_with_max_window_size(input, MEMORY);
                Box::new(OneFrame(decoder.map_err(io::Error::other)?))
            }
            Self::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, input))),
            Self::None => Box::new(input),
        };
        Ok(Box::new(BufReader::with_capacity(BUFFER, Limited { inner: unpacked, left: MAX_UNPACKED })))
    }
}

/// A file of Zstandard is one frame; the decoder would stop after the first of several, as if there were no more.
struct OneFrame<R: BufRead>(StreamingDecoder<R, FrameDecoder>);

impl<R: BufRead> Read for OneFrame<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        if count == 0 && !buffer.is_empty() && !self.0.get_mut().fill_buf()?.is_empty() {
            return Err(io::Error::other("a Zstandard file of several frames, which is not supported"));
        }
        Ok(count)
    }
}

/// Ends with an error where more comes than may.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(format!("unpacked, it has more than the {MAX_UNPACKED} bytes that are allowed"))
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn unpack(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut found = Vec::new();
        compression.open(bytes)?.read_to_end(&mut found)?;
        Ok(found)
    }

    #[test]
    fn every_form_gives_the_same_and_damage_is_told() {
        let plain: Vec<u8> = (0..200_000u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(plain.as_slice(), 6).read_to_end(&mut xz).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        for (compression, bytes) in [
            (Compression::Xz, &xz),
            (Compression::Gzip, &gzip),
            (Compression::Zstd, &zstd),
            (Compression::None, &plain),
        ] {
            assert_eq!(Compression::of(&format!("Packages{}", compression.ending())), compression);
            assert!(unpack(compression, bytes).unwrap() == plain, "{compression:?}");
            if compression != Compression::None {
                assert!(unpack(compression, &bytes[..bytes.len() / 2]).is_err(), "{compression:?} cut off");
            }
        }
        let twice = [xz.as_slice(), &xz].concat();
        assert_eq!(unpack(Compression::Xz, &twice).unwrap().len(), 2 * plain.len(), "xz files may follow each other");
        let twice = [zstd.as_slice(), &zstd].concat();
        assert!(unpack(Compression::Zstd, &twice).is_err(), "never the half of it");
    }

    #[test]
    fn a_bomb_ends() {
        let mut bomb = Limited { inner: io::repeat(0), left: 1000 };
        let mut found = Vec::new();
        assert!(bomb.read_to_end(&mut found).unwrap_err().to_string().contains("more than"));
    }
}
