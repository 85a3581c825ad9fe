//! The distribution's own apt at the update point: with the files that `apt-setup` writes it sees the selection and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use upswarm_protocol::catalog::{Action, Approval, Recipe};
use upswarm_protocol::ids::GroupId;
use upswarm_protocol::time::Wall;

use super::Filter;
use super::tests::{Bench, Snapshot};
use crate::apt_setup::{self, Selected, Word};
use crate::sys::find;
use crate::upstream::filtered::{Indexes, RepositoryKey};

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A package without files.
fn package(dir: &Path, name: &str, version: &str) -> (String, Vec<u8>) {
    let tree = tempfile::tempdir_in(dir).unwrap();
    fs::create_dir(tree.path().join("DEBIAN")).unwrap();
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: n <n@example.org>\nDescription: t\n"
    );
    fs::write(tree.path().join("DEBIAN/control"), control).unwrap();
    let file = dir.join(format!("{name}_{version}_amd64.deb"));
    run(Command::new("dpkg-deb").arg("--build").args([tree.path(), &file]));
    (run(Command::new("dpkg-deb").arg("-f").arg(&file)), fs::read(file).unwrap())
}

/// Apt with directories of its own below a root.
fn apt(root: &Path, program: &str, words: &[&str]) -> Output {
    let mut apt = Command::new(program);
    let root = root.display();
    apt.env("LC_ALL", "C").args([
        format!("-oDir::Etc={root}/etc/apt"),
        format!("-oDir::State={root}/var/lib/apt"),
        format!("-oDir::State::status={root}/var/lib/dpkg/status"),
        format!("-oDir::Cache={root}/var/cache/apt"),
        "-oAPT::Sandbox::User=root".to_owned(),
        "-oAPT::Architecture=amd64".to_owned(),
        "-oAPT::Architectures=amd64".to_owned(),
        "-oAcquire::http::Proxy=DIRECT".to_owned(),
        "-oAcquire::Retries=0".to_owned(),
    ]);
    apt.args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gets_the_selection_from_here_and_nothing_else() {
    if ["apt-get", "dpkg-deb", "gpg"].iter().any(|tool| find(tool).is_none()) {
        eprintln!("SKIPPED: this needs apt, dpkg and gpg");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("gpg");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let gpg = |args: &[&str]| {
        run(Command::new("gpg").env("GNUPGHOME", &home).args(["--batch", "--quiet", "--yes"]).args(args))
    };
    gpg(&["--passphrase", "", "--quick-gen-key", "upstream", "ed25519", "sign", "never"]);
    let certificate = gpg(&["--armor", "--export"]);

    // Upstream has two packages, and one of them in a newer version.
    let mut index = String::new();
    let mut files = Vec::new();
    for (name, version) in [("demo-app", "2.0"), ("demo-app", "3.0"), ("demo-extra", "2.0")] {
        let (control, bytes) = package(dir.path(), name, version);
        let file = format!("{name}_{version}_amd64.deb");
        index += &format!(
            "{control}Filename: pool/main/d/{name}/{file}\nSize: {}\nSHA256: {}\n\n",
            bytes.len(),
            hex::encode(Sha256::digest(&bytes))
        );
        files.push((file, bytes));
    }
    let release = format!(
        "Origin: Test\nSuite: stable\nCodename: stable\nDate: Sat, 01 Nov 2025 00:00:00 +0000\n\
         Valid-Until: Sat, 08 Nov 2025 00:00:00 +0000\nAcquire-By-Hash: yes\nArchitectures: amd64\nComponents: main\nSHA256:\n \
         {} {} main/binary-amd64/Packages\n",
        hex::encode(Sha256::digest(&index)),
        index.len()
    );
    let unsigned = dir.path().join("Release");
    fs::write(&unsigned, release).unwrap();
    let in_release = gpg(&["--clearsign", "-o", "-", unsigned.to_str().unwrap()]);
    let (deb, bytes) = files.swap_remove(0);
    let snapshot = Snapshot::of(
        1,
        "stable",
        &certificate,
        in_release.into_bytes(),
        ("Packages", index.into_bytes()),
        (&deb, bytes),
    );
    let mut bench = Bench::new(vec![(snapshot.id, snapshot.release.clone())], 1 << 20).await;
    // The metadata is here; the package is not.
    snapshot.files[..3].iter().for_each(|(_, bytes)| bench.hold(bytes));

    let (state, root) = (dir.path().join("state"), dir.path().join("root"));
    for part in ["etc/apt/sources.list.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg"] {
        fs::create_dir_all(root.join(part)).unwrap();
    }
    fs::create_dir_all(root.join("var/cache/apt/archives/partial")).unwrap();
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    fs::create_dir(&state).unwrap();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let note = apt_setup::Snapshot {
        upstream: "sec".into(),
        word: Word { counter: 1, said: Wall(1), back: false },
        suite: "stable".into(),
        aliases: words(&["stable"]),
        origin: "Test".into(),
        components: words(&["main"]),
        architectures: words(&["amd64"]),
        certificates: vec![certificate],
        packages: vec![Selected { name: "demo-app".into(), arch: "amd64".into(), version: "2.0".into() }],
    };
    apt_setup::note(&state, &root, &note).unwrap();
    apt_setup::set_up(&state, &root, &format!("http://{}", bench.address)).unwrap();
    // Apt of this machine looks for certificates below `/`.
    let source = root.join("etc/apt/sources.list.d/upswarm.sources");
    let text = fs::read_to_string(&source).unwrap();
    fs::write(&source, text.replace("/etc/apt/keyrings", &root.join("etc/apt/keyrings").display().to_string()))
        .unwrap();

    let asked = {
        let root = root.clone();
        tokio::task::spawn_blocking(move || {
            let updated = apt(&root, "apt-get", &["-oAPT::Update::Error-Mode=any", "update"]);
            let policy = apt(&root, "apt-cache", &["policy", "demo-app", "demo-extra"]);
            let extra = apt(&root, "apt-get", &["-y", "--download-only", "install", "demo-extra"]);
            let newer = apt(&root, "apt-get", &["-y", "--download-only", "install", "demo-app=3.0"]);
            let fetched = apt(&root, "apt-get", &["-y", "--download-only", "install", "demo-app"]);
            [updated, policy, extra, newer, fetched]
        })
    };
    // It comes when apt asks for it, and not before.
    let wanted = bench.wanted.recv().await;
    assert_eq!(wanted, Some(snapshot.payload(&deb).id));
    bench.hold(snapshot.file(&deb));
    let [updated, policy, extra, newer, fetched] = asked.await.unwrap();
    assert!(updated.status.success(), "{}", said(&updated));
    let policy = said(&policy);
    let candidates: Vec<&str> = policy.lines().filter(|line| line.contains("Candidate:")).map(str::trim).collect();
    assert_eq!(candidates, ["Candidate: 2.0", "Candidate: (none)"], "{policy}");
    assert!(!extra.status.success(), "{}", said(&extra));
    assert!(!newer.status.success() && said(&newer).contains("404"), "{}", said(&newer));
    assert!(fetched.status.success(), "{}", said(&fetched));
    let archive = root.join("var/cache/apt/archives/demo-app_2.0_amd64.deb");
    assert_eq!(fs::read(archive).unwrap(), snapshot.file(&deb));
}

/// The stanza that the update point gives, on a machine that knows nothing else; what apt says of it, and its candidates.
async fn without_agent(bench: &Bench, root: &Path, sources: &str) -> (bool, String, Vec<String>) {
    for part in ["etc/apt/sources.list.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg"] {
        fs::create_dir_all(root.join(part)).unwrap();
    }
    fs::create_dir_all(root.join("var/cache/apt/archives/partial")).unwrap();
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    fs::write(root.join("etc/apt/sources.list.d/upswarm.sources"), sources).unwrap();
    assert!(sources.contains(&format!("http://{}/apt/filtered/office\n", bench.address)), "{sources}");
    let root = root.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        // As apt has it where nobody has changed it.
        let checks =
            ["-oAPT::Update::Error-Mode=any", "-oAcquire::Check-Valid-Until=true", "-oAcquire::Check-Date=true"];
        let updated = apt(&root, "apt-get", &[&checks[..], &["update"]].concat());
        let policy = apt(&root, "apt-cache", &["policy", "openssl", "demo-extra"]);
        (updated, said(&policy))
    });
    let (updated, policy) = asked.await.unwrap();
    let candidates = policy.lines().filter(|line| line.contains("Candidate:")).map(|line| line.trim().to_owned());
    (updated.status.success(), said(&updated), candidates.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_an_agent_gets_what_an_approver_signed_and_nothing_else() {
    if ["apt-get", "dpkg-deb", "gpgv"].iter().any(|tool| find(tool).is_none()) {
        eprintln!("SKIPPED: this needs apt, dpkg and gpgv");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut index = String::new();
    let mut files = Vec::new();
    for (name, version) in [("openssl", "3"), ("openssl", "4"), ("demo-extra", "1")] {
        let (control, bytes) = package(dir.path(), name, version);
        let file = format!("{name}_{version}_amd64.deb");
        index += &format!(
            "{control}Phased-Update-Percentage: 0\nFilename: pool/main/d/{name}/{file}\nSize: {}\nSHA256: {}\n\n",
            bytes.len(),
            hex::encode(Sha256::digest(&bytes))
        );
        files.push((file, bytes));
    }
    let (deb, bytes) = files.swap_remove(0);
    let index = ("Packages", index.into_bytes());
    let snapshot = Snapshot::of(1, "stable", "-", b"signed".to_vec(), index.clone(), (&deb, bytes));
    let bench = Bench::new(Vec::new(), 1 << 20).await;
    bench.hold_all(&snapshot);
    let now = crate::clock::wall();
    let (hour, day) = (std::time::Duration::from_secs(3600), std::time::Duration::from_secs(86_400));
    let plain = |issued: Wall, expires: Wall| Approval {
        group: GroupId([7; 16]),
        group_version: 0,
        release: snapshot.id,
        version: 1,
        action: Action::Install,
        back: false,
        issued,
        expires,
        schedule: Default::default(),
        rings: Default::default(),
        note: Default::default(),
        filtered: None,
    };
    let Recipe::Apt(recipe) = &snapshot.release.install else { panic!("an apt recipe") };
    let indexes = Indexes::of(&snapshot.release, recipe, |_| Ok(&index.1[..])).unwrap();
    let signed = |approval: Approval, seed: u8| {
        let key = RepositoryKey::of(&ed25519_dalek::SigningKey::from_bytes(&[seed; 32])).unwrap();
        let text = indexes.release_file(&approval, &snapshot.release);
        Approval { filtered: Some(key.sign(&text, approval.issued).unwrap()), ..approval }
    };
    let put = |approval: Option<Approval>| {
        let filter = |approval| Filter { approval: Arc::new(approval), release: snapshot.release.clone() };
        *bench.filtered.lock().unwrap() = approval.map(filter).into_iter().collect();
    };
    let good = signed(plain(now - hour, now + day), 1);
    put(Some(good.clone()));
    let get = |path: &str| reqwest::get(format!("http://{}/apt/filtered/{path}", bench.address));
    let sources = get("office.sources").await.unwrap().text().await.unwrap();
    let root = dir.path().join("good");
    let (updated, text, candidates) = without_agent(&bench, &root, &sources).await;
    assert!(updated, "{text}");
    // Of what is not selected it does not even know, and nothing is phased.
    assert_eq!(candidates, ["Candidate: 3"], "{text}");
    let fetched = tokio::task::spawn_blocking({
        let root = root.clone();
        move || apt(&root, "apt-get", &["-y", "--download-only", "install", "openssl"])
    });
    let fetched = fetched.await.unwrap();
    assert!(fetched.status.success(), "{}", said(&fetched));
    let archive = root.join("var/cache/apt/archives/openssl_3_amd64.deb");
    assert_eq!(fs::read(archive).unwrap(), snapshot.file(&deb));

    let forged = signed(plain(now - hour, now + day), 2);
    let moved = Approval { filtered: good.filtered.clone(), ..plain(now - hour, now + 2 * day) };
    let late = signed(plain(now - 2 * day, now - hour), 1);
    for (name, approval, why) in [
        ("forged", Some(forged), "NO_PUBKEY"),
        ("moved", Some(moved), "BADSIG"),
        ("late", Some(late), "expired"),
        ("gone", None, "404"),
    ] {
        put(approval);
        let (updated, text, candidates) = without_agent(&bench, &dir.path().join(name), &sources).await;
        assert!(!updated && text.contains(why), "{name}: {text}");
        assert_eq!(candidates, [""; 0], "{name}");
    }
    // Whoever read InRelease before it went finds its index still.
    let hash = hex::encode(Sha256::digest(indexes.at("main/binary-amd64/Packages").unwrap()));
    let path = format!("office/dists/sec/main/binary-amd64/by-hash/SHA256/{hash}");
    assert_eq!(get(&path).await.unwrap().status(), 200);
}
