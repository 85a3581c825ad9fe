//! Against a web server over a repository that the test makes and signs.

use std::path::Path;

use upswarm_tests::mirror::{Fault, Mirror as Server};
use upswarm_tests::openpgp::{DAY, MADE, Signer};
use upswarm_tests::repository::{Deb, Repository};

use super::*;
use crate::coordinator::repositories::settings::Settings;
use crate::upstream::UpstreamDescription;
use crate::web::{ProxyConfig, Web};

const DATE: u32 = MADE + 30 * DAY;

fn now() -> Wall {
    Wall(1000 * u64::from(MADE + 40 * DAY))
}

struct Bench {
    dir: tempfile::TempDir,
    repository: Repository,
    server: Server,
    syncer: Syncer,
    urls: Vec<String>,
}

impl Bench {
    /// A repository with two packages, published, and a server over it.
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let mut repository = Repository::new(&dir.path().join("mirror"));
        repository.add(&Deb::new("editor", "1.0-1"));
        repository.add(&Deb { source: "suite (2.0)", ..Deb::new("viewer", "1:2.0-1") });
        repository.publish(DATE);
        let server = Server::start(&repository.dir);
        let web = Web::new(&ProxyConfig { url: "none".into(), ..ProxyConfig::default() }, None).unwrap();
        let fetcher = Fetcher::new(&web).unwrap().with_patience(Duration::from_millis(700));
        let syncer = Syncer::new(fetcher).with_pause(Duration::from_millis(1));
        let urls = vec![server.url()];
        Self { dir, repository, server, syncer, urls }
    }

    fn upstream(&self) -> Upstream {
        let description = UpstreamDescription {
            name: "test".into(),
            suite: "stable".into(),
            components: vec!["main".into()],
            architectures: vec!["amd64".into()],
            packages: vec!["*".into()],
            certificates: vec![self.repository.signer.certificate()],
        };
        let bytes = description.to_bytes().unwrap();
        let settings = Settings { urls: self.urls.clone(), every_s: 3600 };
        let upstream = Upstream { description, bytes, settings, dir: self.folder() };
        upstream.save().unwrap();
        upstream
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("repositories/test")
    }

    async fn sync(&self) -> Result<Synced, SyncError> {
        self.sync_at(now()).await
    }

    async fn sync_at(&self, now: Wall) -> Result<Synced, SyncError> {
        self.syncer.sync(&self.upstream(), now, &Progress::default()).await
    }

    async fn made(&self) -> Snapshot {
        match self.sync().await.unwrap_or_else(|error| panic!("{error}")) {
            Synced::New(snapshot) => snapshot,
            Synced::Unchanged => panic!("nothing new"),
        }
    }

    /// Why a sync failed; whatever was there before is all that is there.
    async fn refused(&self) -> String {
        let before = snapshot::all(&self.folder());
        let error = self.sync().await.expect_err("a reason").to_string();
        assert_eq!(snapshot::all(&self.folder()), before);
        assert_eq!(self.upstream().state().error.as_ref(), Some(&error));
        self.nothing_unfinished();
        error
    }

    fn nothing_unfinished(&self) {
        let names = fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with(snapshot::MAKING)).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The paths that were asked since the last time, with what was answered.
    fn asked(&self) -> Vec<(String, u16)> {
        self.server.asked().into_iter().map(|asked| (asked.path, asked.status)).collect()
    }
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    let mut names = Vec::new();
    snapshot.read(|package| names.push(format!("{} {} of {}", package.name, package.version, package.source))).unwrap();
    names
}

#[tokio::test]
async fn a_snapshot_holds_what_upstream_signed_and_an_unchanged_suite_costs_one_answer() {
    let mut bench = Bench::new();
    let first = bench.made().await;
    assert_eq!(names(&first), ["editor 1.0-1 of editor", "viewer 1:2.0-1 of suite"]);
    assert_eq!((first.packages(), first.version().as_str()), (2, "20260131T000000Z"));
    let in_release = fs::read(bench.repository.dists().join(IN_RELEASE)).unwrap();
    assert_eq!(fs::read(first.dir.join(IN_RELEASE)).unwrap(), in_release);
    assert_eq!(first.id, PayloadId::of(&in_release));
    let asked = bench.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].0.contains("main/binary-amd64/by-hash/SHA256/"), "{asked:?}");

    assert_eq!(bench.sync().await.unwrap(), Synced::Unchanged);
    assert_eq!(bench.asked(), [("/dists/stable/InRelease".to_owned(), 304)]);

    // A new InRelease whose index is the same: the index is not fetched again.
    bench.repository.publish(DATE + 60);
    let second = bench.made().await;
    assert_eq!(bench.asked(), [("/dists/stable/InRelease".to_owned(), 200)]);
    assert_eq!(names(&second), names(&first));
    bench.repository.add(&Deb::new("tool", "3"));
    bench.repository.publish(DATE + 120);
    assert_eq!(bench.made().await.packages(), 3);
    assert_eq!(bench.asked().len(), 2);
    // Two are kept beside the newest.
    for more in 3..6 {
        bench.repository.publish(DATE + more * 60);
        bench.made().await;
    }
    let dates: Vec<String> = snapshot::all(&bench.folder()).iter().map(Snapshot::version).collect();
    assert_eq!(dates, ["20260131T000300Z", "20260131T000400Z", "20260131T000500Z"]);
    bench.nothing_unfinished();
}

#[tokio::test]
async fn folders_are_mirrors_too_and_every_form_of_an_index_is_read() {
    for (forms, by_hash) in [(vec![""], false), (vec![".gz"], true), (vec!["", ".gz", ".xz"], false)] {
        let mut bench = Bench::new();
        fs::remove_dir_all(bench.repository.dists()).unwrap();
        (bench.repository.forms, bench.repository.by_hash) = (forms.clone(), by_hash);
        bench.repository.publish(DATE);
        bench.urls = vec![format!("file://{}", bench.repository.dir.display())];
        // A Release names forms that are not there: what is there is only asked for when it is the smallest.
        if forms.len() < 3 {
            let text = fs::read_to_string(bench.repository.dists().join(IN_RELEASE)).unwrap();
            let kept = |line: &&str| {
                !line.contains("Packages") || forms.iter().any(|form| line.ends_with(&format!("Packages{form}")))
            };
            let lines: Vec<&str> =
                text.lines().skip(3).take_while(|line| !line.starts_with("-----")).filter(kept).collect();
            bench.repository.publish_text(&(lines.join("\n") + "\n"), DATE);
        }
        assert_eq!(bench.made().await.packages(), 2, "{forms:?}");
        assert_eq!(bench.sync().await.unwrap(), Synced::Unchanged);
        assert_eq!(bench.asked(), [], "the server is not asked");
    }
}

#[tokio::test]
async fn what_upstream_did_not_sign_is_refused_and_the_snapshot_before_stays() {
    let mut bench = Bench::new();
    bench.made().await;
    let good = bench.repository.signer.clone();
    // A stranger's signature, though everything else is right.
    bench.repository.signer = Signer::new(2);
    bench.repository.publish(DATE + 60);
    let pinned = Upstream::load(&bench.folder()).unwrap();
    let error = bench.syncer.sync(&pinned, now(), &Progress::default()).await.unwrap_err().to_string();
    assert!(error.contains("none of them is pinned") && error.contains("InRelease"), "{error}");
    bench.repository.signer = good;
    bench.repository.publish(DATE + 60);
    let file = bench.repository.dists().join(IN_RELEASE);
    let right = fs::read_to_string(&file).unwrap();
    fs::write(&file, right.replace("Origin: Test", "Origin: Best")).unwrap();
    assert!(bench.refused().await.contains("was changed on its way"));
    // An older state, signed all right.
    bench.repository.publish(DATE - DAY);
    let error = bench.refused().await;
    assert!(error.contains("20260130T000000Z") && error.contains("the mirror is behind"), "{error}");
    // Another suite by the same key.
    bench.repository.publish(DATE + 60);
    fs::write(&file, &right).unwrap();
    bench.repository.suite = "unstable".into();
    bench.repository.publish(DATE + 60);
    fs::copy(bench.repository.dists().join(IN_RELEASE), &file).unwrap();
    let error = bench.refused().await;
    assert!(error.contains("in the place of stable lies the InRelease of the suite \"unstable\""), "{error}");
    bench.repository.suite = "stable".into();
    fs::write(&file, &right).unwrap();
    bench.made().await;
}

#[tokio::test]
async fn a_state_that_is_too_old_is_told_even_when_nothing_changes() {
    let mut bench = Bench::new();
    let until = upswarm_tests::repository::rfc2822(DATE + 20 * DAY);
    bench.repository.fields = format!("Origin: Test\nValid-Until: {until}\n");
    bench.repository.publish(DATE);
    bench.made().await;
    let later = Wall(1000 * u64::from(DATE + 21 * DAY));
    for _ in 0..2 {
        let error = bench.sync_at(later).await.unwrap_err().to_string();
        assert!(error.contains("was good until 2026-02-20T00:00:00Z only"), "{error}");
    }
    assert_eq!(bench.sync().await.unwrap(), Synced::Unchanged);
}

#[tokio::test]
async fn every_fault_of_a_mirror_has_its_reason() {
    let page = "answers with a web page instead of the file";
    for (part, fault, times, cause) in [
        ("InRelease", Fault::Status(404), 9, "InRelease is not there"),
        ("InRelease", Fault::Status(403), 9, "not for everybody"),
        ("InRelease", Fault::Status(503), 9, "in trouble"),
        ("InRelease", Fault::Page, 9, page),
        ("InRelease", Fault::Cut(100), 9, "broke off"),
        ("InRelease", Fault::Silent, 1, "no answer within"),
        ("InRelease", Fault::Redirect("/dists/stable/InRelease".into()), 99, "leads elsewhere more than 5 times"),
        ("by-hash", Fault::Page, 9, page),
        ("by-hash", Fault::Longer, 9, "upstream signed"),
        ("by-hash", Fault::Damaged, 9, "has other bytes than upstream signed"),
        ("Packages", Fault::Status(404), 9, "is not there"),
    ] {
        let bench = Bench::new();
        if part == "Packages" {
            bench.server.fail("by-hash", Fault::Status(404), 9);
        }
        bench.server.fail(part, fault.clone(), times);
        let error = bench.refused().await;
        assert!(error.contains(cause), "{part} {fault:?}: {error}");
        assert_eq!(snapshot::all(&bench.folder()), []);
    }
}

#[tokio::test]
async fn another_mirror_is_asked_when_the_first_cannot() {
    let mut bench = Bench::new();
    let other = Server::start(&bench.repository.dir);
    bench.urls.push(other.url());
    bench.server.fail("InRelease", Fault::Page, 1);
    bench.made().await;
    assert_eq!(other.asked().len(), 2);
    // What one mirror said of the state is not shown to the other.
    assert_eq!(bench.sync().await.unwrap(), Synced::Unchanged);
    assert_eq!(bench.sync().await.unwrap(), Synced::Unchanged);
    let answers: Vec<u16> = bench.asked().into_iter().map(|(_, status)| status).collect();
    assert_eq!(answers, [200, 200, 304]);
}

#[tokio::test]
async fn a_mirror_that_changes_under_the_sync_is_asked_again_as_a_whole() {
    let mut bench = Bench::new();
    bench.repository.by_hash = false;
    bench.repository.publish(DATE);
    let mut changing = bench.repository.clone();
    changing.add(&Deb::new("tool", "3"));
    let mut changes = 1;
    // Between InRelease and the index, the mirror gets its next state.
    bench.server.before(move |path| {
        if path.contains("Packages") && changes > 0 {
            changes -= 1;
            changing.publish(DATE + 60);
        }
    });
    let made = bench.made().await;
    assert_eq!((made.packages(), made.version().as_str()), (3, "20260131T000100Z"));
    let asked = bench.asked();
    assert_eq!(asked.iter().filter(|(path, _)| path.ends_with("InRelease")).count(), 2, "{asked:?}");
}

#[tokio::test]
async fn an_interrupted_file_is_gone_on_with_and_a_changed_one_begins_anew() {
    let bench = Bench::new();
    let bytes: Vec<u8> = (0..300_000u32).map(|at| ((at * 7) >> 3) as u8).collect();
    fs::write(bench.repository.dir.join("file"), &bytes).unwrap();
    let wanted = |bytes: &[u8]| Listed { len: bytes.len() as u64, sha256: sha256_of(bytes) };
    let (mirror, to) = (Mirror::parse(&bench.server.url()).unwrap(), bench.dir.path().join("got"));
    let fetch = |wanted: Listed| {
        let (fetcher, mirror, to) = (&bench.syncer.fetcher, &mirror, to.clone());
        async move { fetcher.known(mirror, "file", wanted, &to, &Progress::default()).await }
    };
    bench.server.fail("file", Fault::Cut(100_000), 1);
    fetch(wanted(&bytes)).await.unwrap_err();
    assert!(fs::metadata(&to).unwrap().len() > 50_000);
    fetch(wanted(&bytes)).await.unwrap();
    assert_eq!(fs::read(&to).unwrap(), bytes);
    let asked = bench.server.asked();
    assert!(asked[1].range.starts_with("bytes=") && !asked[1].if_range.is_empty(), "{asked:?}");
    assert_eq!(asked[1].status, 206);
    // The file on the mirror is another one now; and a mirror that knows no ranges.
    for fault in [None, Some(Fault::Whole)] {
        fs::remove_file(&to).unwrap();
        bench.server.fail("file", Fault::Cut(100_000), 1);
        fetch(wanted(&bytes)).await.unwrap_err();
        let changed: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
        let bytes = match fault {
            None => changed,
            Some(_) => bytes.clone(),
        };
        fs::write(bench.repository.dir.join("file"), &bytes).unwrap();
        if let Some(fault) = fault {
            bench.server.fail("file", fault, 1);
        }
        fetch(wanted(&bytes)).await.unwrap();
        assert_eq!(fs::read(&to).unwrap(), bytes);
        assert_eq!(bench.server.asked().last().unwrap().status, 200);
    }
    // What is wrong does not stay to be gone on with.
    let error = fetch(Listed { sha256: [0; 32], ..wanted(&bytes) }).await.unwrap_err();
    assert!(matches!(error, FetchError::Hash(_)), "{error}");
    assert!(!Path::new(&to).exists());
}

fn sha256_of(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

#[tokio::test]
async fn a_component_that_is_not_there_is_told_with_those_that_are() {
    let bench = Bench::new();
    let mut upstream = bench.upstream();
    upstream.description.components = vec!["main".into(), "contrib".into()];
    let error = bench.syncer.sync(&upstream, now(), &Progress::default()).await.unwrap_err().to_string();
    assert!(
        error.contains("no packages of contrib for amd64") && error.contains("components main for amd64"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_snapshot_is_noticed_where_it_is_read() {
    let bench = Bench::new();
    let made = bench.made().await;
    let index = made.dir.join(made.facts.indexes[0].file_name());
    let mut bytes = fs::read(&index).unwrap();
    bytes.push(0);
    fs::write(&index, bytes).unwrap();
    let error = made.read(|_| {}).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
}

#[tokio::test]
async fn a_mirror_that_is_not_for_everybody_is_asked_by_name() {
    let mut bench = Bench::new();
    // reader:secret
    bench.server.only_for("Basic cmVhZGVyOnNlY3JldA==");
    bench.syncer.fetcher = bench.syncer.fetcher.clone().with_credentials(bench.dir.path());
    let refused = bench.sync().await.unwrap_err().to_string();
    assert!(refused.contains("401") && refused.contains("auth.conf"), "{refused}");
    let file = bench.dir.path().join("auth.conf");
    let place = bench.server.url();
    fs::write(&file, format!("machine {place}/elsewhere login reader password secret\n")).unwrap();
    assert!(bench.sync().await.unwrap_err().to_string().contains("401"));
    fs::write(&file, "machine").unwrap();
    assert!(bench.sync().await.unwrap_err().to_string().contains("an entry without a host"));
    fs::write(&file, format!("machine {place} login reader password secret\n")).unwrap();
    assert_eq!(bench.made().await.packages(), 2);
    // Another host hears nothing of it.
    let other = Server::start(&bench.repository.dir);
    bench.urls = vec![other.url()];
    fs::remove_dir_all(bench.folder()).unwrap();
    assert_eq!(bench.made().await.packages(), 2);
    assert!(other.asked().iter().all(|asked| asked.authorization.is_empty()));
}
