//! How files are cut.

mod support;

use std::collections::BTreeSet;
use std::io::{self, Read};

use proptest::prelude::*;
use support::{SIZES, Seeded};
use upswarm_cache::chunker::{ChunkerError, chunk_file};
use upswarm_protocol::chunk::{Chunk, ChunkSizes};
use upswarm_protocol::ids::{ChunkId, PayloadId};

/// Gives its bytes in pieces of odd sizes, with interruptions.
struct Trickle<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.step = self.step * 5 % 8191 + 1;
        if self.step.is_multiple_of(7) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = self.step.min(buffer.len());
        self.bytes.read(&mut buffer[..len])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn chunks_cover_the_file(seed: u64, len in 1usize..200_000, same in prop::bool::weighted(0.2)) {
        let bytes = if same { vec![seed as u8; len] } else { Seeded::of(seed).bytes(len) };
        let cut = chunk_file(Trickle { bytes: &bytes, step: 1 }, SIZES).unwrap();
        prop_assert_eq!(&cut, &chunk_file(bytes.as_slice(), SIZES).unwrap(), "however the bytes come");
        prop_assert_eq!(cut.id, PayloadId::of(&bytes));
        prop_assert_eq!(cut.list.payload_len(), len as u64);
        let mut end = 0;
        for chunk in cut.list.chunks() {
            prop_assert_eq!(chunk.offset, end);
            end += u64::from(chunk.len);
            prop_assert_eq!(chunk.id, ChunkId::of(&bytes[chunk.offset as usize..end as usize]));
            prop_assert!(chunk.len <= SIZES.max);
            prop_assert!(chunk.len >= SIZES.min || end == len as u64, "only the last is smaller");
        }
        prop_assert_eq!(end, len as u64);
    }

    #[test]
    fn an_insertion_changes_few_chunks(seed: u64, at in 0usize..400_000, len in 1usize..2_000) {
        let bytes = Seeded::of(seed).bytes(400_000);
        let inserted = Seeded::of(!seed).bytes(len);
        let other = [&bytes[..at], &inserted, &bytes[at..]].concat();
        let ids = |bytes: &[u8]| -> BTreeSet<ChunkId> {
            chunk_file(bytes, SIZES).unwrap().list.chunks().iter().map(|chunk: &Chunk| chunk.id).collect()
        };
        let (old, new) = (ids(&bytes), ids(&other));
        // The chunk around the place, and those after it until a boundary falls where one was before.
        prop_assert!(old.difference(&new).count() <= 12, "{} of {}", old.difference(&new).count(), old.len());
    }
}

#[test]
fn a_file_larger_than_the_buffer_is_cut_as_one() {
    let bytes = Seeded::new("large", 3).bytes(11 << 20);
    let cut = chunk_file(Trickle { bytes: &bytes, step: 3 }, ChunkSizes::default()).unwrap();
    let ChunkSizes { min, average, max } = ChunkSizes::default();
    let whole = fastcdc::v2020::FastCDC::new(&bytes, min as usize, average as usize, max as usize);
    let expected: Vec<u32> = whole.map(|chunk| chunk.length as u32).collect();
    assert_eq!(cut.list.chunks().iter().map(|chunk| chunk.len).collect::<Vec<_>>(), expected);
    let mean = bytes.len() / expected.len();
    assert!(mean > average as usize / 2 && mean < average as usize * 2, "{mean}");
}

#[test]
fn the_cuts_of_known_bytes_do_not_change() {
    // Other cuts would be valid too, but would share nothing with what fleets hold.
    let cut = chunk_file(Seeded::of(1).bytes(40_000).as_slice(), SIZES).unwrap();
    let lens: Vec<u32> = cut.list.chunks().iter().map(|chunk| chunk.len).collect();
    assert_eq!(lens, [4823, 4305, 5706, 1760, 4854, 6138, 3577, 5744, 3093]);
    let abc = chunk_file(&b"abc"[..], SIZES).unwrap().sha256;
    let hex: String = abc.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "FIPS 180-2, B.1");
}

#[test]
fn what_cannot_be_cut_is_refused() {
    assert!(matches!(chunk_file(io::empty(), SIZES), Err(ChunkerError::Empty)));
    let sizes = |min, average, max| ChunkSizes { min, average, max };
    for bad in [
        sizes(65, 256, 1024),
        sizes(64, 257, 1024),
        sizes(64, 256, 1025),
        sizes(62, 256, 1024),
        sizes(0, 0, 0),
        sizes(512, 256, 1024),
        sizes(64, 2048, 1024),
        sizes(64, 256, (4 << 20) + 2),
        sizes(u32::MAX, u32::MAX, u32::MAX),
    ] {
        assert!(matches!(chunk_file(&b"bytes"[..], bad), Err(ChunkerError::Sizes(..))), "{bad:?}");
    }
    let smallest = chunk_file(&[1; 5000][..], sizes(64, 256, 1024)).unwrap();
    assert_eq!(smallest.list.payload_len(), 5000);
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    assert!(matches!(chunk_file(Broken, SIZES), Err(ChunkerError::Read(_))));
    let many = chunk_file(io::repeat(0).take(300_000 * 1024), sizes(64, 256, 1024));
    assert!(matches!(many, Err(ChunkerError::TooMany(_))), "a list has a limit");
}
