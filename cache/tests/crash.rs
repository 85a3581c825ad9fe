//! Abrupt ends and damaged files: what was verified and written is kept, and no other byte is ever served.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Sample, Seeded, open, open_with};

const CHILD: &str = "UPSWARM_CRASH_CHILD";
const FLUSHES: &str = "UPSWARM_CRASH_FLUSHES";
const ROUNDS: u64 = 25;

/// The payloads that the child writes: some share content.
fn samples() -> Vec<Sample> {
    let one = Seeded::of(100).bytes(600_000);
    let two = [&one[..200_000], &Seeded::of(101).bytes(100_000), &one[250_000..]].concat();
    vec![Sample::of(one), Sample::of(two), Sample::random(102, 150_000)]
}

/// Not a test of its own: what the process that gets killed does. It tells of every chunk once the store has taken it.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let flushes = std::env::var(FLUSHES).is_ok();
    let store = open_with(Path::new(&dir), 1 << 22);
    let samples = samples();
    let mut out = std::io::stdout();
    writeln!(out, "ready").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while flushes {
                store.flush().unwrap();
                std::thread::yield_now();
            }
        });
        for seed in 0..2 {
            let (store, samples) = (&store, &samples);
            scope.spawn(move || {
                let mut out = std::io::stdout();
                let mut seeded = Seeded::of(u64::from(std::process::id()) + seed);
                let mut work: Vec<(usize, u32)> = (0..samples.len())
                    .flat_map(|which| (0..samples[which].chunks()).map(move |at| (which, at)))
                    .collect();
                seeded.shuffle(&mut work);
                for sample in samples {
                    store.open_payload(sample.id, &sample.list, false).unwrap();
                }
                for (which, at) in work {
                    store.write_chunk(samples[which].id, at, samples[which].chunk(at)).unwrap();
                    // One short write to a pipe is whole or not at all.
                    out.write_all(format!("\nwrote {which} {at}\n").as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_killed_process_loses_nothing_it_has_told_of() {
    let mut seeded = Seeded::new("kills", 6);
    let rounds = std::env::var("UPSWARM_KILLS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    let samples = samples();
    let all: u64 = samples.iter().map(|sample| u64::from(sample.chunks())).sum();
    let mut dir = tempfile::tempdir().unwrap();
    let mut told: BTreeSet<(usize, u32)> = BTreeSet::new();
    let mut mended = 0;
    for round in 0..rounds {
        // A store is killed a few times while it fills; then another begins.
        if round % 5 == 0 {
            dir = tempfile::tempdir().unwrap();
            told.clear();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        if round % 2 == 0 {
            command.env(FLUSHES, "1");
        }
        let mut child = command
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut left = seeded.below(all / 3);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut note = |line: String| {
            let mut words = line.split(' ');
            if words.next() == Some("wrote") {
                let mut number = || words.next().unwrap().parse::<u32>().unwrap();
                told.insert((number() as usize, number()));
                return true;
            }
            false
        };
        while left > 0 {
            let Some(line) = lines.next() else { break };
            left -= u64::from(note(line.unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts.
        for line in lines {
            note(line.unwrap());
        }

        let store = open_with(dir.path(), 1 << 22);
        for line in store.notices() {
            assert!(line.contains("hashed and kept"), "round {round}: {line}");
            mended += 1;
        }
        for (which, sample) in samples.iter().enumerate() {
            let Some(have) = store.have(sample.id) else {
                assert!(!told.iter().any(|(other, _)| *other == which), "round {round}: payload {which} is gone");
                continue;
            };
            let lost: Vec<u32> =
                told.iter().filter(|(other, at)| *other == which && !have.get(*at)).map(|(_, at)| *at).collect();
            assert_eq!(lost, [], "round {round}: chunks of payload {which} that were written are not there");
            sample.check(&store);
        }
    }
    println!("{mended} payloads had chunks that no flush had noted");
    assert!(mended > 0, "no kill came between a write and its flush");
}

/// A store that was copied while it was in use is what an abrupt stop leaves.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn corrupt(path: &Path, change: impl FnOnce(&std::fs::File)) {
    change(&std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap());
}

#[test]
fn torn_data_is_found_chunk_by_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::random(1, 300_000);
    let store = open(&dir.path().join("live"));
    store.open_payload(sample.id, &sample.list, true).unwrap();
    let half = sample.chunks() / 2;
    (0..half).for_each(|at| assert_eq!(store.write_chunk(sample.id, at, sample.chunk(at)).unwrap(), [at]));
    store.flush().unwrap();
    let more = half..sample.chunks() - 2;
    more.clone().for_each(|at| assert_eq!(store.write_chunk(sample.id, at, sample.chunk(at)).unwrap(), [at]));
    let data = format!("payloads/{}.data", sample.id);
    let offset = |at: u32| sample.list.chunks()[at as usize].offset;

    let flipped = dir.path().join("flipped");
    copy(&dir.path().join("live"), &flipped);
    corrupt(&flipped.join(&data), |file| {
        for at in [half, half + 3] {
            file.write_all_at(&[!sample.chunk(at)[10]], offset(at) + 10).unwrap();
        }
    });
    let recovered = open(&flipped);
    let lost: Vec<u32> = recovered.have(sample.id).unwrap().missing().collect();
    assert_eq!(lost, [half, half + 3, sample.chunks() - 2, sample.chunks() - 1]);
    sample.check(&recovered);
    sample.fill(&recovered, true);
    sample.check(&recovered);

    for cut in [offset(half) + 1, offset(2), 0] {
        let torn = dir.path().join(format!("torn-{cut}"));
        copy(&dir.path().join("live"), &torn);
        corrupt(&torn.join(&data), |file| file.set_len(cut).unwrap());
        let recovered = open(&torn);
        let whole = (0..sample.chunks()).filter(|at| offset(*at) + sample.chunk(*at).len() as u64 <= cut).count();
        assert_eq!(sample.check(&recovered) as usize, whole, "cut at {cut}");
        assert!(recovered.list()[0].pinned, "the pin is kept");
        sample.fill(&recovered, true);
        assert_eq!(sample.check(&recovered), sample.chunks());
    }
}

#[test]
fn leftovers_of_creation_and_removal_are_cleared_or_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let samples: Vec<Sample> = (0..4).map(|seed| Sample::random(seed, 50_000)).collect();
    let store = open(dir.path());
    samples.iter().for_each(|sample| sample.fill(&store, false));
    drop(store);
    let file = |sample: &Sample, kind: &str| dir.path().join(format!("payloads/{}.{kind}", sample.id));
    std::fs::remove_file(file(&samples[0], "list")).unwrap();
    std::fs::remove_file(file(&samples[1], "data")).unwrap();
    corrupt(&file(&samples[2], "list"), |list| list.write_all_at(&[0xaa], 40).unwrap());
    std::fs::write(dir.path().join("payloads/half.new"), "half").unwrap();
    std::fs::write(dir.path().join("payloads/README"), "not ours").unwrap();
    std::fs::write(file(&Sample::random(9, 10), "data"), "no list").unwrap();

    let store = open(dir.path());
    assert_eq!(store.list().len(), 2, "one whose list rotted unseen is still there until it is used");
    assert_eq!(samples[3].check(&store), samples[3].chunks());
    assert!(store.read(samples[2].id, 0, 1).is_err(), "and then it gives no bytes");
    assert!(dir.path().join("payloads/README").exists());
    assert_eq!(std::fs::read_dir(dir.path().join("payloads")).unwrap().count(), 5);
    samples.iter().for_each(|sample| {
        store.remove(sample.id).unwrap();
        sample.fill(&store, false);
        assert_eq!(sample.check(&store), sample.chunks());
    });
}

#[test]
fn a_damaged_index_is_rebuilt_from_the_files() {
    let mut seeded = Seeded::new("index damage", 11);
    let dir = tempfile::tempdir().unwrap();
    let samples = samples();
    let store = open(&dir.path().join("whole"));
    samples[..2].iter().for_each(|sample| sample.fill(&store, true));
    store.open_payload(samples[2].id, &samples[2].list, true).unwrap();
    (0..9).for_each(|at| assert_eq!(store.write_chunk(samples[2].id, at, samples[2].chunk(at)).unwrap(), [at]));
    drop(store);

    let mut rebuilt = 0;
    let rounds = std::env::var("UPSWARM_DAMAGES").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(24);
    for round in 0..rounds {
        let damaged = dir.path().join(format!("round-{round}"));
        copy(&dir.path().join("whole"), &damaged);
        let mut files: Vec<_> = std::fs::read_dir(damaged.join("index"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.is_file())
            .collect();
        files.sort();
        let victim = files[seeded.below(files.len() as u64) as usize].clone();
        let len = std::fs::metadata(&victim).unwrap().len();
        let what = seeded.below(4);
        match what {
            0 => std::fs::write(&victim, seeded.bytes(len as usize)).unwrap(),
            1 => corrupt(&victim, |file| file.set_len(seeded.below(len)).unwrap()),
            2 => std::fs::remove_dir_all(damaged.join("index")).unwrap(),
            _ => corrupt(&victim, |file| {
                for _ in 0..64 {
                    let at = seeded.below(len);
                    file.write_all_at(&seeded.bytes(1), at).unwrap();
                }
            }),
        }
        let label = format!("round {round}: {} damaged in way {what}", victim.display());
        let store = open(&damaged);
        let moved = store.notices().iter().any(|line| line.contains("rebuilt from the data files"));
        rebuilt += u32::from(moved);
        assert_eq!(moved, damaged.join("index.damaged-1").exists(), "{label}");
        for (sample, chunks) in samples.iter().zip([samples[0].chunks(), samples[1].chunks(), 9]) {
            store.open_payload(sample.id, &sample.list, true).unwrap();
            assert_eq!(sample.check(&store), chunks, "{label}");
        }
        samples[2].fill(&store, true);
        drop(store);
        let store = open(&damaged);
        assert_eq!(samples[2].check(&store), samples[2].chunks(), "{label}");
        assert_eq!(store.notices(), Vec::<String>::new(), "{label}");
        drop(store);
        std::fs::remove_dir_all(&damaged).unwrap();
    }
    println!("{rebuilt} of {rounds} were rebuilt");
    assert!(rebuilt > 3, "only {rebuilt} of the damages kept the index from opening");
}

#[test]
fn a_rebuilt_index_knows_where_chunks_are() {
    let dir = tempfile::tempdir().unwrap();
    let samples = samples();
    let store = open(dir.path());
    samples[0].fill(&store, false);
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open(dir.path());
    assert_eq!(store.notices().len(), 1);
    assert!(store.is_complete(samples[0].id));
    assert!(store.open_payload(samples[1].id, &samples[1].list, false).unwrap().reused > 400_000);
    samples[1].check(&store);
}
