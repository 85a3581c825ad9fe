//! A file system that is really full: a small one of its own, in a mount namespace.

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use support::{Sample, Seeded};
use upswarm_cache::{Store, StoreConfig, StoreError};

const CHILD: &str = "UPSWARM_SMALL_FILE_SYSTEM";

/// Not a test of its own: runs where the directory is a small file system.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let dir = Path::new(&dir);
    let config = StoreConfig { quota: 1 << 30, reserve: 0, index_cache: 4 << 20 };
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
    println!("full");
    // Its room was taken before: writing goes on. Whether the index can note it is another matter.
    for at in half..samples[1].chunks() {
        store.write_chunk(samples[1].id, at, samples[1].chunk(at)).unwrap();
        println!("flush {:?}", store.flush().map_err(|e| e.to_string()));
    }
    let refused = store.open_payload(samples[2].id, &samples[2].list, true);
    println!("{refused:?}");
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
    for sample in &samples[..2] {
        assert_eq!(sample.check(&store), sample.chunks());
    }
    drop(store);

    for _ in 0..5 {
        let store = Store::open(dir, config).unwrap();
        println!("{:?}", store.notices());
        assert_eq!(samples[0].check(&store), samples[0].chunks());
        assert_eq!(samples[1].check(&store), samples[1].chunks());
    }
    std::fs::remove_file(&ballast).unwrap();
    let store = Store::open(dir, config).unwrap();
    samples[2].fill(&store, true);
    std::fs::remove_dir_all(dir.join("payloads")).unwrap();
}

#[test]
fn a_full_file_system_loses_nothing_and_is_told_clearly() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        format!("mount -t tmpfs -o size=12m none {0} && exec \"$0\" --exact child --nocapture", dir.path().display());
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
