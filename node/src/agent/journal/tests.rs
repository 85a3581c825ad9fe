use std::io::Write as _;

use super::*;

fn release(n: u8) -> ReleaseId {
    ReleaseId([n; 32])
}

fn filled(dir: &Path) {
    let mut journal = Journal::open(dir).unwrap();
    journal.write(&[&Record::Trust(b"trust 2".to_vec())]).unwrap();
    journal.write(&[&Record::Certificate(b"certificate".to_vec())]).unwrap();
    for n in 0..50 {
        journal.write(&[&Record::Deployment(release(n), vec![n; 100])]).unwrap();
    }
    journal.write(&[&Record::Deployment(release(7), Vec::new())]).unwrap();
    journal.write(&[&Record::Counters(b"counters 9".to_vec())]).unwrap();
    journal.write(&[&Record::Inventory(b"inventory".to_vec())]).unwrap();
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("journal");
    let mut first = Journal::open(&dir).unwrap();
    let empty = first.load().unwrap();
    assert!(empty.trust.is_none() && empty.certificate.is_none() && empty.counters.is_none());
    assert!(empty.deployments.is_empty() && empty.notices.is_empty());
    first.write(&[&Record::Trust(b"trust 1".to_vec())]).unwrap();
    drop(first);
    filled(&dir);
    let loaded = Journal::open(&dir).unwrap().load().unwrap();
    assert_eq!(loaded.trust.as_deref(), Some(&b"trust 2"[..]));
    assert_eq!(loaded.certificate.as_deref(), Some(&b"certificate"[..]));
    assert_eq!(loaded.counters.as_deref(), Some(&b"counters 9"[..]));
    assert_eq!(loaded.inventory.as_deref(), Some(&b"inventory"[..]));
    let numbers: Vec<u8> = loaded.deployments.iter().map(|(id, _)| id.0[0]).collect();
    assert_eq!(numbers, (0..50).filter(|n| *n != 7).collect::<Vec<u8>>());
    assert!(loaded.deployments.iter().all(|(id, bytes)| *bytes == vec![id.0[0]; 100]));
    assert_eq!(loaded.notices, Vec::<String>::new());
}

#[test]
fn one_journal_has_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let first = Journal::open(dir.path()).unwrap();
    let error = Journal::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("another upswarm process"), "{error}");
    drop(first);
    Journal::open(dir.path()).unwrap();
}

/// A crash leaves temporary files; what they were to replace is whole.
#[test]
fn torn_files_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let hash = DocHash::of(b"a document");
    fs::write(dir.path().join("trust.tmp"), b"tru").unwrap();
    fs::write(dir.path().join("docs").join(format!("{hash}.tmp")), b"a doc").unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.load().unwrap().trust.as_deref(), Some(&b"trust 2"[..]));
    assert_eq!(journal.docs().unwrap().count(), 0);
    assert!(!dir.path().join("trust.tmp").exists());
    assert_eq!(fs::read_dir(dir.path().join("docs")).unwrap().count(), 0);
}

#[test]
fn documents_are_believed_by_hash_only() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let documents: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 1000]).collect();
    let hashes: Vec<DocHash> = documents.iter().map(|bytes| DocHash::of(bytes)).collect();
    for (hash, bytes) in hashes.iter().zip(&documents) {
        journal.store_doc(*hash, bytes).unwrap();
        journal.store_doc(*hash, bytes).unwrap();
    }
    journal.drop_doc(hashes[0]).unwrap();
    journal.drop_doc(hashes[0]).unwrap();
    let bad = dir.path().join("docs").join(hashes[1].to_string());
    fs::write(&bad, b"tampered").unwrap();
    fs::write(dir.path().join("docs/README"), b"not ours").unwrap();
    let (good, notices): (Vec<_>, Vec<_>) = journal.docs().unwrap().partition(Result::is_ok);
    let mut good: Vec<_> = good.into_iter().map(Result::unwrap).collect();
    good.sort_by_key(|(_, bytes)| bytes[0]);
    let expected: Vec<_> = hashes[2..].iter().copied().zip(documents[2..].iter().cloned()).collect();
    assert_eq!(good, expected);
    assert_eq!(notices.len(), 1);
    assert!(notices[0].as_ref().unwrap_err().contains(&hashes[1].short()));
    assert!(!bad.exists(), "the bad one is gone");
    assert!(dir.path().join("docs/README").exists());
}

/// Whatever happens to the database's files, the node starts, trust is untouched, and no record is another one's bytes.
#[test]
fn a_damaged_database_is_moved_aside() {
    let origin = tempfile::tempdir().unwrap();
    filled(origin.path());
    let db = fs::read(origin.path().join("records/db")).unwrap();
    let (mut noticed, mut seed) = (0, 0x2545_f491_4f6c_dd1d_u64);
    for round in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let mut damaged = db.clone();
        for _ in 0..1 << (round % 12) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            // Most of the file is empty space: damage the part that is in use.
            let at = (seed >> 16) as usize % damaged.len().min(64 << 10);
            damaged[at] ^= (seed as u8) | 1;
        }
        match round {
            0 => damaged.fill(0xff),
            1 => damaged.truncate(100),
            2 => fs::write(dir.path().join("records/conf"), b"\0\0nonsense").unwrap(),
            _ => {}
        }
        fs::write(dir.path().join("records/db"), &damaged).unwrap();
        let mut journal = Journal::open(dir.path()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let loaded = journal.load().unwrap();
        assert_eq!(loaded.trust.as_deref(), Some(&b"trust 2"[..]), "round {round}");
        assert!(loaded.deployments.iter().all(|(id, bytes)| *bytes == vec![id.0[0]; 100]), "round {round}");
        if !loaded.notices.is_empty() {
            noticed += 1;
            assert!(dir.path().join("records.damaged-1").exists());
        }
        journal.write(&[&Record::Counters(b"after".to_vec())]).unwrap();
        drop(journal);
        let again = Journal::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(again.counters.as_deref(), Some(&b"after"[..]), "round {round}");
    }
    assert!(noticed > 0, "no damage was noticed in 60 rounds");
}

#[test]
fn damaged_databases_do_not_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        filled(dir.path());
        fs::write(dir.path().join("records/conf"), b"\0\0nonsense").unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().load().unwrap().notices.len(), 1);
    }
    let aside = fs::read_dir(dir.path()).unwrap().flatten();
    let aside = aside.filter(|entry| entry.file_name().to_string_lossy().contains("damaged")).count();
    assert_eq!(aside, 2);
}

/// A lock that somebody else holds is no damage: nothing may be moved aside.
#[test]
fn a_locked_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let db = File::open(dir.path().join("records/db")).unwrap();
    rustix::fs::flock(&db, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = Journal::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("records"), "{error}");
    drop(db);
    assert_eq!(Journal::open(dir.path()).unwrap().load().unwrap().notices, Vec::<String>::new());
}

const CHILD: &str = "UPSWARM_FULL_JOURNAL";

/// Not a test of its own: runs where the directory is a small file system.
#[test]
fn on_a_small_file_system() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let dir = Path::new(&dir);
    let place = dir.join("journal");
    filled(&place);
    let expect = |round: &str| {
        let loaded = Journal::open(&place).unwrap().load().unwrap();
        assert_eq!(loaded.deployments.len(), 49, "{round}");
        assert_eq!(loaded.counters.as_deref(), Some(&b"counters 9"[..]), "{round}");
        assert_eq!(loaded.notices, Vec::<String>::new(), "{round}");
    };
    let ballast = dir.join("ballast");
    // Others take every byte that is given back, between two starts and while it runs.
    let fill = || {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(&ballast).unwrap();
        while file.write_all(&[7; 512]).is_ok() {}
    };
    let mut refused = 0;
    for round in 0..12 {
        fill();
        match Journal::open(&place) {
            Err(error) => {
                assert!(upswarm_cache::fence::is_full(&error), "round {round}: {error}");
                refused += 1;
            }
            Ok(mut journal) => {
                assert_eq!(journal.load().unwrap().deployments.len(), 49, "round {round}");
                assert_eq!(journal.load().unwrap().notices, Vec::<String>::new(), "round {round}");
                fill();
                let many: Vec<Record> = (0..200).map(|_| Record::Counters(vec![9; 4000])).collect();
                for record in &many {
                    if let Err(error) = journal.write(&[record]) {
                        assert!(upswarm_cache::fence::is_full(&error), "round {round}: {error}");
                    }
                    if let Err(error) = journal.write(&[&Record::Trust(b"trust 2".to_vec())]) {
                        assert!(upswarm_cache::fence::is_full(&error), "round {round}: {error}");
                    }
                }
                fs::remove_file(&ballast).unwrap();
                journal.write(&[&Record::Counters(b"counters 9".to_vec())]).unwrap();
                fill();
            }
        }
    }
    assert!(refused > 0, "the disk was never full");
    fs::remove_file(&ballast).unwrap();
    expect("there is room again");
    assert_eq!(Journal::open(&place).unwrap().load().unwrap().trust.as_deref(), Some(&b"trust 2"[..]));
}

/// A full disk damages nothing: no record is lost or begun anew, and writing goes on when there is room.
#[test]
fn a_full_disk_leaves_every_record_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16m none {0} && exec \"$0\" --exact agent::journal::tests::on_a_small_file_system --nocapture",
        dir.path().display()
    );
    let output = std::process::Command::new("unshare")
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
