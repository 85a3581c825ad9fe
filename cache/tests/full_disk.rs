//! A file system that is really full: a small one of its own, in a mount namespace.

mod support;

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Sample, Seeded};
use upswarm_cache::{Store, StoreConfig, StoreError};

const CHILD: &str = "UPSWARM_SMALL_FILE_SYSTEM";

/// Not a test of its own: runs where the directory is a small file system.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let dir = Path::new(&dir);
    let config = StoreConfig { quota: 1 << 30, reserve: 6 << 20, index_cache: 4 << 20 };
    let samples: Vec<Sample> = (1..5).map(|seed| Sample::random(seed, 2 << 20)).collect();
    let store = Store::open(dir, config).unwrap();
    samples[0].fill(&store, true);
    store.open_payload(samples[1].id, &samples[1].list, true).unwrap();
    let half = samples[1].chunks() / 2;
    (0..half).for_each(|at| assert_eq!(store.write_chunk(samples[1].id, at, samples[1].chunk(at)).unwrap(), [at]));
    store.flush().unwrap();

    let ballast = dir.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    let block = Seeded::of(0).bytes(4096);
    while file.write_all(&block).is_ok() {}
    drop(file);
    // Its room was taken before: writing goes on. That the index cannot note it is told.
    let mut failures = 0;
    for at in half..samples[1].chunks() {
        store.write_chunk(samples[1].id, at, samples[1].chunk(at)).unwrap();
        match store.flush() {
            Ok(()) => {}
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::StorageFull => failures += 1,
            Err(StoreError::Index { cause, .. }) if cause.contains("closed after a failure") => failures += 1,
            Err(error) => panic!("{error}"),
        }
    }
    println!("{failures} flushes found the disk full");
    let refused = store.open_payload(samples[2].id, &samples[2].list, true);
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
    complete(&store, &samples[..2]);
    drop(store);

    for round in 0..5 {
        let store = Store::open(dir, config).unwrap();
        assert!(!store.notices().iter().any(|line| line.contains("damaged")), "round {round}");
        complete(&store, &samples[..2]);
        let refused = store.open_payload(samples[2].id, &samples[2].list, true);
        assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
    }
    // Whoever filled the disk takes every byte that is given back: sooner or later not even the index opens.
    for round in 0..5 {
        let mut file = std::fs::File::options().append(true).open(&ballast).unwrap();
        while file.write_all(&block[..512]).is_ok() {}
        match Store::open(dir, config) {
            Ok(store) => complete(&store, &samples[..2]),
            Err(StoreError::Io { source, .. }) => assert_eq!(source.kind(), ErrorKind::StorageFull, "round {round}"),
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    std::fs::remove_file(&ballast).unwrap();
    let store = Store::open(dir, config).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.flush() {
        assert!(Instant::now() < deadline, "the store does not recover: {error}");
    }
    samples[2].fill(&store, true);
    drop(store);
    let store = Store::open(dir, config).unwrap();
    assert_eq!(store.notices(), Vec::<String>::new());
    complete(&store, &samples[..3]);
}

fn complete(store: &Store, samples: &[Sample]) {
    for sample in samples {
        assert_eq!(sample.check(store), sample.chunks());
    }
}

#[test]
fn a_full_file_system_loses_nothing_and_is_told_clearly() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        format!("mount -t tmpfs -o size=24m none {0} && exec \"$0\" --exact child --nocapture", dir.path().display());
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, dir.path())
        .output();
    let Ok(output) = output else { return println!("skipped: there is no unshare here") };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !out.contains("running 1 test") {
        return println!("skipped: no mount namespace here: {err}");
    }
    println!("{out}{err}");
    assert!(output.status.success());
}
