//! Writing, reading, reusing and scrubbing chunks.

mod support;

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{SIZES, Sample, Seeded, open};
use upswarm_cache::{Scrub, Store, StoreError, WriteError};
use upswarm_protocol::chunk::{ChunkList, ChunkSizes};
use upswarm_protocol::ids::PayloadId;

#[test]
fn a_payload_is_written_in_any_order_and_becomes_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::random(1, 300_000);
    let store = open(dir.path());
    let opened = store.open_payload(sample.id, &sample.list, false).unwrap();
    assert_eq!((opened.have.count(), opened.reused), (0, 0));
    let mut order: Vec<u32> = (0..sample.chunks()).collect();
    Seeded::new("order", 1).shuffle(&mut order);
    for (written, position) in order.iter().enumerate() {
        assert!(store.path(sample.id).is_none());
        assert_eq!(store.write_chunk(sample.id, *position, sample.chunk(*position)).unwrap(), [*position]);
        assert_eq!(store.write_chunk(sample.id, *position, sample.chunk(*position)).unwrap(), [], "there already");
        assert_eq!(store.have(sample.id).unwrap().count() as usize, written + 1);
    }
    assert_eq!(std::fs::read(store.path(sample.id).unwrap()).unwrap(), *sample.bytes);
    assert_eq!(store.read(sample.id, 0, sample.chunks()).unwrap(), *sample.bytes);
    assert_eq!(store.read(sample.id, 1, 0).unwrap(), []);
    store.flush().unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.notices(), Vec::<String>::new(), "a clean end leaves nothing to mend");
    assert!(store.is_complete(sample.id));
    assert_eq!(store.read(sample.id, 0, sample.chunks()).unwrap(), *sample.bytes);
}

#[test]
fn what_is_not_the_chunk_is_refused_and_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (sample, other) = (Sample::random(2, 100_000), Sample::random(3, 100_000));
    let store = open(dir.path());
    let refused = store.write_chunk(sample.id, 0, sample.chunk(0));
    assert!(matches!(refused, Err(WriteError::NotOpen(_))), "{refused:?}");
    store.open_payload(sample.id, &sample.list, false).unwrap();
    let mut flipped = sample.chunk(3).to_vec();
    flipped[7] ^= 1;
    let longer = [sample.chunk(3), &[0]].concat();
    for bad in [&flipped[..], &longer, &longer[1..5], &[], sample.chunk(4), other.chunk(3)] {
        let refused = store.write_chunk(sample.id, 3, bad);
        assert!(matches!(refused, Err(WriteError::WrongHash { position: 3, .. })), "{refused:?}");
    }
    let beyond = store.write_chunk(sample.id, sample.chunks(), sample.chunk(0));
    assert!(matches!(beyond, Err(WriteError::NoSuchChunk { .. })), "{beyond:?}");
    assert_eq!(store.have(sample.id).unwrap().count(), 0);
    let data = std::fs::read(dir.path().join(format!("payloads/{}.data", sample.id))).unwrap();
    assert!(data.iter().all(|byte| *byte == 0), "nothing reached the file");

    store.write_chunk(sample.id, 3, sample.chunk(3)).unwrap();
    let missing = store.read(sample.id, 3, 2);
    assert!(matches!(missing, Err(StoreError::Missing { position: 4, .. })), "{missing:?}");
    assert!(matches!(store.read(sample.id, 3, u32::MAX), Err(StoreError::Missing { position: 4, .. })));
    assert!(matches!(store.read(other.id, 0, 1), Err(StoreError::Unknown(_))));
    let empty = std::sync::Arc::new(ChunkList::new(ChunkSizes::default(), []).unwrap());
    assert!(matches!(store.open_payload(other.id, &empty, false), Err(StoreError::Empty(_))));
}

#[test]
fn a_read_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::of(vec![7; 9 << 20]);
    let store = open(dir.path());
    sample.fill(&store, false);
    assert!(matches!(store.read(sample.id, 0, sample.chunks()), Err(StoreError::TooMuch(9437184))));
    assert_eq!(store.read(sample.id, 0, 512).unwrap().len() as u64, upswarm_cache::MAX_READ);
}

#[test]
fn one_arrival_fills_every_place_of_a_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Seeded::new("twins", 4).bytes(40_000);
    bytes.extend(vec![0; 10 * SIZES.max as usize]);
    let sample = Sample::of(bytes);
    let zeros: Vec<u32> = (0..sample.chunks()).filter(|at| sample.chunk(*at) == vec![0; SIZES.max as usize]).collect();
    assert!(zeros.len() > 5);
    let store = open(dir.path());
    store.open_payload(sample.id, &sample.list, false).unwrap();
    let filled = store.write_chunk(sample.id, zeros[2], sample.chunk(zeros[2])).unwrap();
    assert_eq!(filled, zeros);
    assert_eq!(sample.check(&store), zeros.len() as u32);
}

#[test]
fn a_new_version_takes_only_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let mut seeded = Seeded::new("versions", 5);
    let old = Sample::of(seeded.bytes(2_000_000));
    // The middle 30 % is replaced by bytes of another length, so that what follows moves.
    let middle = seeded.bytes(612_345);
    let new = Sample::of([&old.bytes[..700_000], &middle, &old.bytes[1_300_000..]].concat());
    let shared: Vec<u32> = {
        let known: Vec<_> = old.list.chunks().iter().map(|chunk| chunk.id).collect();
        let chunks = new.list.chunks();
        (0..new.chunks()).filter(|at| known.contains(&chunks[*at as usize].id)).collect()
    };
    let bytes: u64 = shared.iter().map(|at| new.chunk(*at).len() as u64).sum();
    assert!(bytes > 1_300_000, "the chunker finds most of what is shared: {bytes}");

    let store = open(dir.path());
    old.fill(&store, false);
    let opened = store.open_payload(new.id, &new.list, false).unwrap();
    assert_eq!(opened.have.iter().collect::<Vec<_>>(), shared);
    assert_eq!(opened.reused, bytes);
    new.check(&store);
    let again = store.open_payload(new.id, &new.list, false).unwrap();
    assert_eq!((again.have, again.reused), (opened.have, 0), "copied once");

    // What the old version shares survives its removal: the new one is a source too.
    new.fill(&store, false);
    store.remove(old.id).unwrap();
    let back = store.open_payload(old.id, &old.list, false).unwrap();
    assert!(back.reused > 1_300_000, "{}", back.reused);
    old.check(&store);
}

#[test]
fn chunks_that_came_a_moment_ago_are_reused_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut seeded = Seeded::new("a moment ago", 7);
    let old = Sample::of(seeded.bytes(1_000_000));
    let new = Sample::of([&seeded.bytes(50_000), &old.bytes[..]].concat());
    let store = open(dir.path());
    store.open_payload(old.id, &old.list, false).unwrap();
    (0..old.chunks()).for_each(|at| drop(store.write_chunk(old.id, at, old.chunk(at)).unwrap()));
    let opened = store.open_payload(new.id, &new.list, false).unwrap();
    assert!(opened.reused > 800_000, "{}", opened.reused);
    new.check(&store);
}

#[test]
fn a_source_that_has_rotted_is_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let old = Sample::random(6, 200_000);
    let new = Sample::of([&old.bytes[..], b"more"].concat());
    let store = open(dir.path());
    old.fill(&store, false);
    flip(&store.path(old.id).unwrap(), old.list.chunks()[2].offset + 5);
    let opened = store.open_payload(new.id, &new.list, false).unwrap();
    assert!(!opened.have.get(2) && opened.have.get(1) && opened.have.get(3));
    new.check(&store);
}

#[test]
fn scrubbing_finds_what_has_rotted_and_lets_it_be_healed() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Sample::random(7, 300_000), Sample::random(8, 200_000));
    let store = open(dir.path());
    one.fill(&store, true);
    two.fill(&store, true);
    let all = one.bytes.len() as u64 + two.bytes.len() as u64;
    assert_eq!(round(&store, 50_000), (all, vec![]));

    flip(&store.path(one.id).unwrap(), one.list.chunks()[4].offset);
    flip(&store.path(two.id).unwrap(), two.list.chunks()[0].offset + 9);
    let mut bad = vec![(one.id, 4), (two.id, 0)];
    bad.sort();
    assert_eq!(round(&store, 1), (all, bad));
    assert!(!store.is_complete(one.id) && store.path(one.id).is_none());
    let lost = store.take_lost();
    assert_eq!((lost[&one.id].chunks.as_slice(), lost[&two.id].chunks.as_slice()), (&[4][..], &[0][..]));
    assert!(lost.values().all(|loss| loss.failure.is_none()) && store.take_lost().is_empty());
    assert!(matches!(store.read(one.id, 4, 1), Err(StoreError::Missing { position: 4, .. })));
    drop(store);

    let store = open(dir.path());
    assert!(!store.have(one.id).unwrap().get(4), "noted durably");
    store.open_payload(one.id, &one.list, true).unwrap();
    assert_eq!(store.write_chunk(one.id, 4, one.chunk(4)).unwrap(), [4]);
    assert_eq!(one.check(&store), one.chunks());
    two.fill(&store, true);
    assert_eq!(round(&store, u64::MAX).1, vec![]);
}

#[test]
fn what_has_rotted_is_found_when_it_is_read_and_never_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::random(7, 300_000);
    let store = open(dir.path());
    sample.fill(&store, true);
    drop(store);
    let store = open(dir.path());
    let path = store.path(sample.id).unwrap();
    flip(&path, sample.list.chunks()[4].offset);
    let read = store.read(sample.id, 3, 3);
    assert!(matches!(read, Err(StoreError::Rotten { position: 4, .. })), "{read:?}");
    assert_eq!(store.take_lost()[&sample.id].chunks, [4]);
    assert_eq!(sample.check(&store), sample.chunks() - 1);
    assert_eq!(store.write_chunk(sample.id, 4, sample.chunk(4)).unwrap(), [4]);

    // What cannot be read has rotted too.
    let len = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 1).unwrap();
    let last = sample.chunks() - 1;
    assert!(matches!(store.read(sample.id, last, 1), Err(StoreError::Rotten { .. })));
    assert_eq!(store.take_lost()[&sample.id].chunks, [last]);
    sample.fill(&store, true);
    assert_eq!(sample.check(&store), sample.chunks());
}

#[test]
fn a_list_that_has_rotted_is_written_again_when_the_payload_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::random(7, 300_000);
    let store = open(dir.path());
    sample.fill(&store, true);
    drop(store);
    let store = open(dir.path());
    flip(&dir.path().join(format!("payloads/{}.list", sample.id)), 40);
    assert!(store.read(sample.id, 0, 1).is_err());
    assert!(store.take_lost()[&sample.id].failure.is_some(), "it is told, so that the payload is opened again");
    assert!(store.open_payload(sample.id, &sample.list, true).unwrap().have.is_full());
    drop(store);
    assert_eq!(sample.check(&open(dir.path())), sample.chunks());
}

#[test]
fn an_imported_file_is_a_payload() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::random(9, 123_456);
    let file = dir.path().join("some.deb");
    std::fs::write(&file, &*sample.bytes).unwrap();
    let store = open(&dir.path().join("store"));
    let cut = store.import_file(&file, SIZES).unwrap();
    assert_eq!((cut.id, &cut.list), (sample.id, &*sample.list));
    assert_eq!(sample.check(&store), sample.chunks());
    assert!(store.list()[0].pinned);
    assert!(store.import_file(&dir.path().join("none"), SIZES).is_err());
}

#[test]
fn a_complete_payload_may_be_cut_otherwise_but_not_be_redefined() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::random(10, 200_000);
    let store = open(dir.path());
    sample.fill(&store, false);
    let liar = Sample::random(11, 200_000);
    assert!(matches!(store.open_payload(sample.id, &liar.list, false), Err(StoreError::OtherList(_))));
    assert_eq!(sample.check(&store), sample.chunks());

    let sizes = ChunkSizes { min: 2 << 10, average: 8 << 10, max: 32 << 10 };
    let other = upswarm_cache::chunker::chunk_file(sample.bytes.as_slice(), sizes).unwrap();
    let other = Sample { list: std::sync::Arc::new(other.list), ..sample.clone() };
    assert!(store.open_payload(other.id, &other.list, false).unwrap().have.is_full());
    other.check(&store);
    drop(store);
    let store = open(dir.path());
    assert_eq!(other.check(&store), other.chunks());
    assert_eq!(store.notices(), Vec::<String>::new());
}

#[test]
fn many_threads_write_and_read_the_same_payloads() {
    let dir = tempfile::tempdir().unwrap();
    let samples: Vec<Sample> = (20..23).map(|seed| Sample::random(seed, 400_000)).collect();
    let store = open(dir.path());
    for sample in &samples {
        store.open_payload(sample.id, &sample.list, false).unwrap();
    }
    let done = AtomicBool::new(false);
    let news = std::thread::scope(|scope| {
        let (store, samples, done) = (&store, &samples, &done);
        let reading = scope.spawn(move || {
            let mut scrub = Scrub::starting_at(samples[1].id);
            while !done.load(Ordering::Relaxed) {
                assert!(samples.iter().all(|sample| sample.check(store) <= sample.chunks()));
                scrub.step(store, 100_000).unwrap();
            }
        });
        let flushing = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                store.flush().unwrap();
            }
        });
        let writers: Vec<_> = (0..4)
            .map(|seed| {
                scope.spawn(move || {
                    let mut work: Vec<(&Sample, u32)> =
                        samples.iter().flat_map(|sample| (0..sample.chunks()).map(move |at| (sample, at))).collect();
                    Seeded::new("writer", seed).shuffle(&mut work);
                    let write = |(sample, at): &(&Sample, u32)| {
                        store.write_chunk(sample.id, *at, sample.chunk(*at)).unwrap().len()
                    };
                    work.iter().map(write).sum::<usize>()
                })
            })
            .collect();
        let news: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        done.store(true, Ordering::Relaxed);
        reading.join().unwrap();
        flushing.join().unwrap();
        news
    });
    assert_eq!(news, samples.iter().map(|s| s.chunks() as usize).sum::<usize>(), "each chunk is new exactly once");
    drop(store);
    let store = open(dir.path());
    assert!(samples.iter().all(|sample| sample.check(&store) == sample.chunks()));
}

#[test]
fn a_round_begins_anywhere_and_comes_to_every_payload_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let samples: Vec<Sample> = (30..34).map(|seed| Sample::random(seed, 50_000)).collect();
    for sample in &samples {
        store.open_payload(sample.id, &sample.list, false).unwrap();
        (0..sample.chunks()).for_each(|at| drop(store.write_chunk(sample.id, at, sample.chunk(at)).unwrap()));
    }
    store.flush().unwrap();
    let all: u64 = samples.iter().map(|_| 50_000).sum();
    let beginnings = samples.iter().map(|sample| sample.id).chain([PayloadId([0; 32]), PayloadId([0xff; 32])]);
    for first in beginnings {
        let mut scrub = Scrub::starting_at(first);
        for _ in 0..2 {
            let mut bytes = 0;
            let ended = (0..1000).any(|_| {
                let report = scrub.step(&store, 20_000).unwrap();
                bytes += report.bytes;
                report.round_ended
            });
            assert!(ended, "a round ends");
            assert_eq!(bytes, all, "from {}", first.short());
        }
    }
}

/// Scrubs one round in steps; returns the bytes read and what was bad.
fn round(store: &Store, step: u64) -> (u64, Vec<(PayloadId, u32)>) {
    let (mut bytes, mut bad) = (0, Vec::new());
    let mut scrub = Scrub::starting_at(PayloadId([0; 32]));
    loop {
        let report = scrub.step(store, step).unwrap();
        assert!(report.chunks <= 1 || report.bytes <= step);
        bytes += report.bytes;
        bad.extend(report.bad);
        if report.round_ended {
            return (bytes, bad);
        }
    }
}

fn flip(path: &std::path::Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    file.sync_all().unwrap();
}
