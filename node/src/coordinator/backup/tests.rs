use super::*;
use crate::coordinator::setup;

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text).unwrap()
}

fn hold(directory: &Directory) -> anyhow::Result<Moment> {
    tokio::runtime::Runtime::new().unwrap().block_on(Moment::hold(directory))
}

struct World {
    dir: tempfile::TempDir,
    directory: Directory,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        setup::init(&dir.path().join("d"), None).unwrap();
        let directory = Directory::existing(&dir.path().join("d")).unwrap();
        fs::write(directory.payload(&"ab".repeat(32).parse().unwrap()), vec![7; 600_000]).unwrap();
        Self { dir, directory }
    }

    fn backup(&self, secrets: Option<&Passphrase>, with_payloads: bool) -> Vec<u8> {
        let moment = hold(&self.directory).unwrap();
        let mut bytes = Vec::new();
        write(&self.directory, &moment, &mut bytes, secrets, with_payloads, |_| {}).unwrap();
        moment.let_go().unwrap();
        bytes
    }

    fn restore(&self, bytes: &[u8], name: &str, word: &str) -> anyhow::Result<restore::Restored> {
        let file = self.dir.path().join("backup");
        fs::write(&file, bytes).unwrap();
        restore::restore(&file, &self.dir.path().join(name), None, &mut || Ok(passphrase(word)), |_| {})
    }

    /// A backup as somebody writes it who may write the medium and does not know the passphrase: every check is right.
    fn forged(&self, bytes: &[u8], planted: &[(&str, &[u8])], behind: &[(&str, &[u8])]) -> Vec<u8> {
        let header = format::header(&mut &bytes[..]).unwrap();
        let mut held = InMemory::default();
        format::read(bytes, &mut held).unwrap();
        let mut forged = Vec::new();
        let mut writer = Writer::begin(&mut forged, &header).unwrap();
        let files = held.files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..]));
        for (path, bytes) in files.chain(planted.iter().copied()) {
            writer.file(path, bytes, bytes.len() as u64, |_| {}).unwrap();
        }
        if let Some(secrets) = &held.secrets {
            writer.secrets(secrets).unwrap();
        }
        for (path, bytes) in behind {
            writer.file(path, *bytes, bytes.len() as u64, |_| {}).unwrap();
        }
        writer.finish().unwrap();
        forged
    }
}

/// What a backup holds, in memory.
#[derive(Default)]
struct InMemory {
    files: Vec<(String, Vec<u8>)>,
    secrets: Option<Vec<u8>>,
}

impl format::Sink for InMemory {
    fn file(&mut self, path: &str, _: u64) -> anyhow::Result<()> {
        self.files.push((path.to_owned(), Vec::new()));
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.files.last_mut().context("no file")?.1.extend(bytes);
        Ok(())
    }

    fn whole(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn secrets(&mut self, bytes: &[u8], _: blake3::Hash) -> anyhow::Result<()> {
        self.secrets = Some(bytes.to_owned());
        Ok(())
    }
}

fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn what_comes_back_is_what_was_there_and_nothing_is_overwritten() {
    let world = World::new();
    let word = passphrase("correct horse");
    let bytes = world.backup(Some(&word), true);
    let restored = world.restore(&bytes, "new", "correct horse").unwrap();
    assert!(restored.lacks.is_empty() && restored.header.payloads, "{restored:?}");
    let but = |dir: &str| {
        let all = tree(&world.dir.path().join(dir));
        all.into_iter().filter(|(name, _)| name != "restored.json" && name != "lock").collect::<Vec<_>>()
    };
    assert_eq!(but("new"), but("d"));
    let reason = world.restore(&bytes, "new", "correct horse").unwrap_err().to_string();
    assert!(reason.contains("not overwritten"), "{reason}");
    let reason = format!("{:#}", world.restore(&bytes, "other", "wrong horse").unwrap_err());
    assert!(reason.contains("wrong passphrase"), "{reason}");
    let secret = fs::read_to_string(world.directory.keys().join("online-1.key")).unwrap();
    let secret: serde_json::Value = serde_json::from_str(&secret).unwrap();
    let secret = secret["secret"].as_str().unwrap();
    assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "a key stands in the file");

    let bare = world.backup(None, false);
    assert!(bare.len() < 100_000, "{} bytes", bare.len());
    let restored = world.restore(&bare, "bare", "correct horse").unwrap();
    assert_eq!(restored.lacks, ["online-1.key", "identity-1.key", "report-1.key"]);
    let token = |dir: &str| Directory::new(&world.dir.path().join(dir)).token().unwrap().to_string();
    assert_ne!(token("bare"), token("d"), "a new one");
    let names: Vec<_> = tree(&world.dir.path().join("bare")).into_iter().map(|(name, _)| name).collect();
    assert!(!names.iter().any(|name| name.starts_with("keys/") || name.starts_with("payload/")), "{names:?}");
}

#[test]
fn a_backup_that_was_cut_or_changed_restores_nothing() {
    let world = World::new();
    let bytes = world.backup(Some(&passphrase("correct horse")), true);
    let attempt = |bytes: &[u8], what: &str| {
        let reason = world.restore(bytes, "new", "correct horse").map(|_| ()).unwrap_err();
        assert!(!format!("{reason:#}").is_empty());
        assert!(!world.dir.path().join("new").exists(), "{what}: a directory is there");
        let left = fs::read_dir(world.dir.path()).unwrap().filter_map(Result::ok);
        let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().contains("restoring")).collect();
        assert!(left.is_empty(), "{what}: {left:?} is left");
    };
    for step in 0..25 {
        // All over the file, a prime's multiples.
        let at = step * 179_426_549 % bytes.len();
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (step % 8);
        attempt(&changed, &format!("byte {at} changed"));
        attempt(&bytes[..at], &format!("cut at {at}"));
    }
    attempt(&bytes[..bytes.len() - 1], "the last byte cut");
    attempt(&[&bytes[..], b"x"].concat(), "something behind the end");
    attempt(b"", "nothing");
    attempt(b"UPBACKUP\xff\xff", "another version");
}

#[test]
fn a_backup_that_was_changed_with_all_its_checks_made_anew_restores_nothing() {
    let world = World::new();
    let word = passphrase("correct horse");
    let bytes = world.backup(Some(&word), false);
    assert_eq!(world.forged(&bytes, &[], &[]), bytes, "the forger writes as the program does");
    let refused = |bytes: &[u8]| {
        let reason = format!("{:#}", world.restore(bytes, "new", "correct horse").unwrap_err());
        assert!(!world.dir.path().join("new").exists(), "{reason}");
        reason
    };
    let planted: &[(&str, &[u8])] = &[("invites/ab", b"{}")];
    assert!(refused(&world.forged(&bytes, planted, &[])).contains("was changed"));
    assert!(refused(&world.forged(&bytes, &[], planted)).contains("do not vouch"));
    let database: &[(&str, &[u8])] = &[("database.json", b"{}")];
    assert!(refused(&world.forged(&bytes, database, &[])).contains("database.json"));
    assert!(world.restore(&bytes, "good", "correct horse").unwrap().shown);

    // Without keys a hash that was kept elsewhere shows it, and nothing else does.
    let moment = hold(&world.directory).unwrap();
    let mut bare = Vec::new();
    let written = write(&world.directory, &moment, &mut bare, None, false, |_| {}).unwrap();
    moment.let_go().unwrap();
    let restore = |bytes: &[u8], name: &str, expected| {
        let file = world.dir.path().join("backup");
        fs::write(&file, bytes).unwrap();
        let mut none = || -> anyhow::Result<Passphrase> { bail!("nothing is encrypted") };
        restore::restore(&file, &world.dir.path().join(name), expected, &mut none, |_| {})
    };
    let forged = world.forged(&bare, planted, &[]);
    let reason = restore(&forged, "new", Some(written.hash)).unwrap_err().to_string();
    assert!(reason.contains("was changed") && !world.dir.path().join("new").exists(), "{reason}");
    assert!(!restore(&forged, "unknown", None).unwrap().shown);
    assert!(restore(&bare, "shown", Some(written.hash)).unwrap().shown);
}

#[test]
fn passwords_for_mirrors_are_encrypted_or_left_out_and_a_database_is_not_restored() {
    let world = World::new();
    let data = world.directory.path();
    fs::create_dir_all(data.join("repositories")).unwrap();
    fs::write(data.join("repositories/auth.conf"), "machine mirror.test login anna password Geheim99\n").unwrap();
    fs::write(data.join("database.json"), "{\"url\":\"sqlite\",\"password_file\":\"/etc/Geheim99\"}").unwrap();
    let word = passphrase("correct horse");
    let (with, without) = (world.backup(Some(&word), false), world.backup(None, false));
    for bytes in [&with, &without] {
        assert!(!bytes.windows(8).any(|window| window == b"Geheim99"), "it stands in the file");
    }
    world.restore(&with, "with", "correct horse").unwrap();
    world.restore(&without, "without", "").unwrap();
    let at = |name: &str, path: &str| world.dir.path().join(name).join(path);
    let restored = fs::read_to_string(at("with", "repositories/auth.conf")).unwrap();
    assert!(restored.contains("Geheim99"));
    assert!(!at("without", "repositories/auth.conf").exists());
    assert!(!at("with", "database.json").exists() && !at("without", "database.json").exists());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(at("with", "keys")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "the folder of keys");
    }
}

#[test]
fn no_path_of_a_backup_leads_elsewhere() {
    for good in ["catalog", "doc/ab", "repositories/debian/abc/InRelease", "payload/ab", "names.json"] {
        assert!(paths::is_path(good), "{good}");
    }
    for bad in [
        "",
        "/etc/passwd",
        "../x",
        "doc/../../x",
        "doc//x",
        "a/./b",
        "keys/online-1.key",
        "admin.token",
        "database.json",
        "Database.json",
        "repositories/auth.conf",
        "payload/../keys/x",
        "payload/",
        "lock",
        "doc/a\nb",
        "moment-1/x",
        "doc\\x",
    ] {
        assert!(!paths::is_path(bad), "{bad:?}");
    }
}

#[test]
fn a_moment_stays_what_it_was_and_only_two_may_be_there() {
    let world = World::new();
    let names = world.directory.names();
    world.directory.apply(&[super::super::directory::Change::Put(names.clone(), b"before".to_vec())]).unwrap();
    let moment = hold(&world.directory).unwrap();
    world.directory.apply(&[super::super::directory::Change::Put(names, b"after".to_vec())]).unwrap();
    assert_eq!(fs::read(moment.folder.join("names.json")).unwrap(), b"before");
    let second = hold(&world.directory).unwrap();
    assert!(!second.folder.join(moment.folder.file_name().unwrap()).exists(), "no moment of a moment");
    let reason = hold(&world.directory).unwrap_err().to_string();
    assert!(reason.contains("2 backups"), "{reason}");
    moment::clear(world.directory.path()).unwrap();
    assert!(!moment.folder.exists() && !second.folder.exists());
}
