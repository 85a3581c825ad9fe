//! The update point at its own door: a core that answers from a list, a real store, plain HTTP.

use std::sync::Mutex;
use std::time::Duration;

use upswarm_cache::StoreConfig;
use upswarm_protocol::catalog::{
    AptIndex, AptPackage, AptRecipe, Classification, Detect, Platform, RestartPolicy, Severity, WhenAbsent,
};
use upswarm_protocol::chunk::{ChunkList, ChunkSizes};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::{ChunkId, DocHash};
use upswarm_protocol::time::Wall;

use super::*;
use crate::config::Size;

const SUITE: &str = "bookworm-security";

fn list<T, const N: usize>(elements: impl IntoIterator<Item = T>) -> Bounded<T, N> {
    Bounded::new(elements.into_iter().collect()).unwrap_or_else(|error| panic!("{error}"))
}

/// A snapshot of the upstream `sec`: metadata, and a package.
pub(super) struct Snapshot {
    pub(super) id: ReleaseId,
    pub(super) release: Arc<Release>,
    pub(super) files: Vec<(String, Vec<u8>)>,
}

impl Snapshot {
    /// One with a package of several chunks, which nobody looks into.
    fn new(counter: u64, package: &str) -> Self {
        let long: Vec<u8> = (0..3000u32).flat_map(|n| (n * 31 + counter as u32).to_le_bytes()).collect();
        let in_release = format!("signed {counter}").into_bytes();
        let index = ("Packages.xz", format!("index {counter}").into_bytes());
        Self::of(counter, SUITE, "-----BEGIN PGP PUBLIC KEY BLOCK-----", in_release, index, (package, long))
    }

    pub(super) fn of(
        counter: u64,
        suite: &str,
        certificate: &str,
        in_release: Vec<u8>,
        index: (&str, Vec<u8>),
        package: (&str, Vec<u8>),
    ) -> Self {
        let description = serde_json::json!({
            "name": "sec", "suite": suite, "components": ["main"], "architectures": ["amd64"], "packages": ["*"],
            "certificates": [certificate],
        });
        let path = format!("main/binary-amd64/{}", index.0);
        let files = vec![
            ("upstream.json".to_owned(), description.to_string().into_bytes()),
            ("InRelease".to_owned(), in_release),
            (path.replace('/', "_"), index.1),
            (package.0.to_owned(), package.1),
        ];
        let payload = |(name, bytes): &(String, Vec<u8>)| Payload {
            name: Text::lossy(name),
            id: PayloadId::of(bytes),
            len: bytes.len() as u64,
            chunk_list: DocHash::default(),
            chunk_list_len: 0,
            sha256: <sha2::Sha256 as sha2::Digest>::digest(bytes).into(),
            urls: Bounded::default(),
            patches: Bounded::default(),
        };
        let recipe = AptRecipe {
            upstream: 0,
            in_release: 1,
            indexes: list([AptIndex { payload: 2, path: Text::lossy(&path) }]),
            packages: list([AptPackage {
                payload: 3,
                name: Text::lossy("openssl"),
                version: Text::lossy("3"),
                arch: Text::lossy("amd64"),
                source: Text::lossy("openssl"),
                when_absent: WhenAbsent::Never,
            }]),
            back: false,
            timeout_s: 60,
        };
        let release = Release {
            product: Text::lossy("apt.sec"),
            version: Text::lossy(&counter.to_string()),
            counter,
            title: Text::lossy("Security"),
            classification: Classification::Security,
            severity: Severity::Unspecified,
            cves: Bounded::default(),
            issued: Wall(1_800_000_000_000 + counter * 1000),
            expires: Wall(0),
            platform: Platform::default(),
            payloads: list(files.iter().map(payload)),
            applicability: Bounded::default(),
            detect: list([Detect::Selection]),
            install: Recipe::Apt(recipe),
            uninstall: None,
            restart: RestartPolicy::Never,
            depends: Bounded::default(),
            supersedes: Bounded::default(),
        };
        Self { id: ReleaseId([counter as u8; 32]), release: Arc::new(release), files }
    }

    pub(super) fn file(&self, name: &str) -> &[u8] {
        &self.files.iter().find(|(of, _)| of == name).unwrap().1
    }

    pub(super) fn payload(&self, name: &str) -> Payload {
        self.release.payloads.iter().find(|payload| payload.name.as_str() == name).unwrap().clone()
    }
}

/// What is approved, the newest first.
type Offers = Arc<Mutex<Vec<(ReleaseId, Arc<Release>)>>>;

pub(super) struct Bench {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    stored: Arc<Notify>,
    pub(super) address: SocketAddr,
    pub(super) wanted: mpsc::Receiver<PayloadId>,
    offers: Offers,
    /// For machines without an agent: of the group `office`, whose number begins with 7, and of `kiosks`, with 8.
    pub(super) filtered: Arc<Mutex<Vec<Filter>>>,
    client: reqwest::Client,
    stop: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn chunks(bytes: &[u8]) -> Arc<ChunkList> {
    let pieces = bytes.chunks(4096).map(|piece| (ChunkId::of(piece), piece.len() as u32));
    Arc::new(ChunkList::new(ChunkSizes::default(), pieces).unwrap())
}

impl Bench {
    /// Offers snapshots, the newest first.
    pub(super) async fn new(snapshots: Vec<(ReleaseId, Arc<Release>)>, daily: u64) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig { reserve: 0, ..StoreConfig::default() }).unwrap();
        let store = Arc::new(store);
        let config = UpdatePointConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            daily: Size(daily),
            ..Default::default()
        };
        let (send, mut asked) = mpsc::channel::<Asked>(MAX_ASKED);
        let (want, wanted) = mpsc::channel(100);
        let offers: Offers = Arc::new(Mutex::new(snapshots));
        let offered = offers.clone();
        let filtered = Arc::new(Mutex::new(Vec::<Filter>::new()));
        let filters = filtered.clone();
        tokio::spawn(async move {
            while let Some(Asked(question)) = asked.recv().await {
                let snapshots = offered.lock().unwrap().clone();
                match question {
                    Question::Upstream(name, reply) => {
                        let of_it = snapshots.iter().filter(|(_, of)| of.product.as_str() == format!("apt.{name}"));
                        let _ = reply.send(of_it.map(|(_, release)| release.clone()).collect());
                    }
                    Question::Release(id, reply) => {
                        let found = snapshots.iter().find(|(of, _)| *of == id);
                        let _ = reply.send(found.map(|(_, release)| release.clone()));
                    }
                    Question::Payload(id, reply) => {
                        let found = snapshots.iter().find_map(|(_, release)| {
                            let payload = release.payloads.iter().find(|payload| payload.id == id)?;
                            Some((release.clone(), payload.clone()))
                        });
                        let _ = reply.send(found);
                    }
                    Question::Filtered(group, reply) => {
                        let mut found = filters.lock().unwrap().clone();
                        let begins = match &*group {
                            "office" => 7,
                            "kiosks" => 8,
                            _ => 0,
                        };
                        found.retain(|filter| filter.approval.group.0[0] == begins);
                        let _ = reply.send(found);
                    }
                    Question::Want(id) => want.send(id).await.unwrap(),
                }
            }
        });
        let stored = Arc::new(Notify::new());
        let shared = Arc::new(Shared::new(&config, store.clone(), send, stored.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = room(listener, true, Vec::new());
        let stop = CancellationToken::new();
        tokio::spawn(door.serve(answer::routes(shared), stop.clone()));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { _dir: dir, store, stored, address, wanted, offers, filtered, client, stop }
    }

    /// Approves one more, which is the newest from now on.
    pub(super) fn publish(&self, snapshot: &Snapshot) {
        self.hold_all(snapshot);
        self.offers.lock().unwrap().insert(0, (snapshot.id, snapshot.release.clone()));
    }

    /// Has the store hold a file.
    pub(super) fn hold(&self, bytes: &[u8]) {
        let (id, list) = (PayloadId::of(bytes), chunks(bytes));
        self.store.open_payload(id, &list, false).unwrap();
        for (at, piece) in bytes.chunks(4096).enumerate() {
            self.store.write_chunk(id, at as u32, piece).unwrap();
        }
        self.stored.notify_waiters();
    }

    pub(super) fn hold_all(&self, snapshot: &Snapshot) {
        snapshot.files.iter().for_each(|(_, bytes)| self.hold(bytes));
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let mut request = self.client.request(method.parse().unwrap(), format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let answer = self.ask("GET", path, &[]).await;
        (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
    }
}

const BUDGET: u64 = 1 << 20;
const DEB: &str = "openssl_3+deb12u1_amd64.deb";

#[tokio::test]
async fn apt_sees_the_newest_snapshot_and_by_hash_the_older_ones_too() {
    let (old, new) = (Snapshot::new(1, "openssl_2_amd64.deb"), Snapshot::new(2, DEB));
    let offers = vec![(new.id, new.release.clone()), (old.id, old.release.clone())];
    let bench = Bench::new(offers, BUDGET).await;
    bench.hold_all(&old);
    bench.hold_all(&new);
    let dists = format!("/apt/sec/dists/{SUITE}");
    assert_eq!(bench.get(&format!("{dists}/InRelease")).await, (200, new.file("InRelease").to_vec()));
    let index = "main_binary-amd64_Packages.xz";
    assert_eq!(bench.get(&format!("{dists}/main/binary-amd64/Packages.xz")).await, (200, new.file(index).to_vec()));
    for snapshot in [&old, &new] {
        let hash = hex::encode(snapshot.payload(index).sha256);
        let by_hash = format!("{dists}/main/binary-amd64/by-hash/SHA256/{hash}");
        assert_eq!(bench.get(&by_hash).await, (200, snapshot.file(index).to_vec()));
        assert_eq!(bench.get(&by_hash.replace("binary-amd64", "binary-i386")).await.0, 404);
    }
    for snapshot in [&old, &new] {
        let (name, bytes) = snapshot.files.last().unwrap();
        let quoted = name.replace('+', "%2b");
        assert_eq!(bench.get(&format!("/apt/sec/pool/main/o/openssl/{quoted}")).await, (200, bytes.clone()));
        assert_eq!(bench.get(&format!("/payload/{}", PayloadId::of(bytes))).await, (200, bytes.clone()));
        assert_eq!(bench.get(&format!("/release/{}/{quoted}", snapshot.id)).await, (200, bytes.clone()));
    }
}

#[tokio::test]
async fn what_is_not_approved_is_not_there_and_the_answer_says_why() {
    let new = Snapshot::new(2, DEB);
    let bench = Bench::new(vec![(new.id, new.release.clone())], BUDGET).await;
    bench.hold_all(&new);
    let secret = b"held for others".to_vec();
    bench.hold(&secret);
    for (path, says) in [
        ("/apt/other/dists/x/InRelease".to_owned(), "no snapshot of \"other\" is approved"),
        ("/apt/sec/dists/bookworm/InRelease".to_owned(), "has the suite bookworm-security and no other"),
        (format!("/apt/sec/dists/{SUITE}/main/binary-i386/Packages.xz"), "is not synced"),
        ("/apt/sec/pool/main/o/openssl/openssl_4_amd64.deb".to_owned(), "is not approved for this machine"),
        ("/apt/sec/pool/InRelease".to_owned(), "is not approved for this machine"),
        (format!("/payload/{}", PayloadId::of(&secret)), "no release that is approved"),
        (format!("/release/{}/{DEB}", ReleaseId([9; 32])), "is not approved"),
        (format!("/release/{}/other", new.id), "has no file \"other\""),
        ("/".to_owned(), "nothing is served"),
        ("/admin/v1/status".to_owned(), "nothing is served"),
        ("/apt/sec/pool/..%2f..%2fetc/passwd".to_owned(), "nothing is served"),
    ] {
        let (status, body) = bench.get(&path).await;
        assert_eq!(status, 404, "{path}");
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains(says), "{path}: {body}");
    }
}

#[tokio::test]
async fn ranges_conditions_and_heads_are_answered_as_the_standard_says() {
    let new = Snapshot::new(2, DEB);
    let bench = Bench::new(vec![(new.id, new.release.clone())], BUDGET).await;
    bench.hold_all(&new);
    let path = format!("/apt/sec/pool/main/{DEB}");
    let bytes = new.file(DEB);
    let head = bench.ask("HEAD", &path, &[]).await;
    let says = |answer: &reqwest::Response, name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((head.status().as_u16(), says(&head, "content-length")), (200, bytes.len().to_string()));
    let (etag, modified) = (says(&head, "etag"), says(&head, "last-modified"));
    assert_eq!(modified, "Fri, 15 Jan 2027 08:00:02 GMT");
    let part = bench.ask("GET", &path, &[("range", "bytes=5000-9999"), ("if-range", &etag)]).await;
    assert_eq!(part.status().as_u16(), 206);
    assert_eq!(says(&part, "content-range"), format!("bytes 5000-9999/{}", bytes.len()));
    assert_eq!(part.bytes().await.unwrap(), bytes[5000..10000]);
    let stale = bench.ask("GET", &path, &[("range", "bytes=5000-"), ("if-range", "\"other\"")]).await;
    assert_eq!((stale.status().as_u16(), stale.bytes().await.unwrap().len()), (200, bytes.len()));
    let beyond = bench.ask("GET", &path, &[("range", "bytes=99999-")]).await;
    assert_eq!((beyond.status().as_u16(), says(&beyond, "content-range")), (416, format!("bytes */{}", bytes.len())));
    for (header, status) in [
        (("if-none-match", &*etag), 304),
        (("if-none-match", "\"other\""), 200),
        (("if-modified-since", &*modified), 304),
        // Another snapshot was there then, perhaps a later one: going back is possible.
        (("if-modified-since", "Fri, 15 Jan 2027 09:00:00 GMT"), 200),
    ] {
        assert_eq!(bench.ask("GET", &path, &[header]).await.status().as_u16(), status, "{header:?}");
    }
    for (method, headers, status) in [
        ("POST", &[][..], 405),
        ("DELETE", &[], 405),
        ("GET", &[("origin", "https://evil.example")], 403),
        ("GET", &[("sec-fetch-site", "cross-site")], 403),
        ("GET", &[("host", "evil.example")], 421),
    ] {
        assert_eq!(bench.ask(method, &path, headers).await.status().as_u16(), status, "{method} {headers:?}");
    }
}

#[tokio::test]
async fn a_package_that_is_not_here_begins_at_once_and_comes_in_order_as_its_chunks_do() {
    let new = Snapshot::new(2, DEB);
    let mut bench = Bench::new(vec![(new.id, new.release.clone())], BUDGET).await;
    let bytes = new.file(DEB);
    let id = PayloadId::of(bytes);
    let path = format!("/apt/sec/pool/main/{DEB}");
    // A look at it has nothing fetched.
    assert_eq!(bench.ask("HEAD", &path, &[]).await.status().as_u16(), 200);
    assert!(bench.wanted.try_recv().is_err());
    let mut answer = bench.ask("GET", &path, &[]).await;
    assert_eq!(answer.headers()["content-length"], bytes.len().to_string().as_str());
    assert_eq!(bench.wanted.recv().await, Some(id));
    let list = chunks(bytes);
    bench.store.open_payload(id, &list, false).unwrap();
    let put = |at: usize| {
        bench.store.write_chunk(id, at as u32, bytes.chunks(4096).nth(at).unwrap()).unwrap();
        bench.stored.notify_waiters();
    };
    put(1);
    // The second chunk alone is of no use to a client.
    assert!(tokio::time::timeout(Duration::from_millis(100), answer.chunk()).await.is_err());
    put(0);
    let mut came = Vec::new();
    while came.len() < 2 * 4096 {
        came.extend(answer.chunk().await.unwrap().unwrap());
    }
    assert_eq!(came, bytes[..2 * 4096]);
    put(2);
    while let Some(more) = answer.chunk().await.unwrap() {
        came.extend(more);
    }
    assert_eq!(came, bytes);
}

#[tokio::test]
async fn no_more_is_fetched_for_clients_in_a_day_than_may_be() {
    let (one, two) = (Snapshot::new(1, "a_1_all.deb"), Snapshot::new(2, "b_1_all.deb"));
    let offers = vec![(two.id, two.release.clone()), (one.id, one.release.clone())];
    let mut bench = Bench::new(offers, 20_000).await;
    let first = bench.ask("GET", "/apt/sec/pool/a_1_all.deb", &[]).await;
    assert_eq!(first.status().as_u16(), 200);
    assert_eq!(bench.wanted.recv().await, Some(one.payload("a_1_all.deb").id));
    let second = bench.ask("GET", "/apt/sec/pool/b_1_all.deb", &[]).await;
    assert_eq!(second.status().as_u16(), 503);
    assert!(second.headers().contains_key("retry-after"));
    // The first is no dearer for being asked for again, and what is here costs nothing.
    assert_eq!(bench.ask("GET", "/apt/sec/pool/a_1_all.deb", &[]).await.status().as_u16(), 200);
    bench.hold(two.file("b_1_all.deb"));
    assert_eq!(bench.get("/apt/sec/pool/b_1_all.deb").await.0, 200);
}

/// The index of one group's snapshot is nowhere, and clients ask for it: the other group has its repository meanwhile.
#[tokio::test]
async fn a_repository_whose_index_never_comes_keeps_no_other_waiting() {
    let file = b"a package".to_vec();
    let text = format!(
        "Package: openssl\nVersion: 3\nArchitecture: amd64\nFilename: pool/o/{DEB}\nSize: {}\nSHA256: {}\n",
        file.len(),
        hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&file))
    );
    let snapshot = |counter: u64| {
        let index = ("Packages", format!("{text}Description: state {counter}\n\n").into_bytes());
        Snapshot::of(counter, SUITE, "-", b"signed".to_vec(), index, (DEB, file.clone()))
    };
    let (lost, here) = (snapshot(1), snapshot(2));
    let mut bench = Bench::new(Vec::new(), BUDGET).await;
    bench.hold_all(&here);
    let filter = |group: u8, snapshot: &Snapshot| {
        let approval = upswarm_protocol::catalog::Approval {
            group: upswarm_protocol::ids::GroupId([group; 16]),
            group_version: 0,
            release: snapshot.id,
            version: 1,
            action: upswarm_protocol::catalog::Action::Install,
            back: false,
            issued: Wall(1_800_000_000_000),
            expires: Wall(1_900_000_000_000),
            schedule: Default::default(),
            rings: Default::default(),
            note: Default::default(),
            filtered: None,
        };
        Filter { approval: Arc::new(approval), release: snapshot.release.clone() }
    };
    *bench.filtered.lock().unwrap() = vec![filter(7, &lost), filter(8, &here)];
    let path = "dists/sec/main/binary-amd64";
    let url = format!("http://{}/apt/filtered/office/{path}/Packages", bench.address);
    let stuck: Vec<_> = (0..3).map(|_| tokio::spawn(bench.client.get(&url).send())).collect();
    assert_eq!(bench.wanted.recv().await, Some(lost.payload("main_binary-amd64_Packages").id));
    let within = Duration::from_secs(10);
    let served = tokio::time::timeout(within, bench.get(&format!("/apt/filtered/kiosks/{path}/Packages"))).await;
    let (status, index) = served.expect("the other group waits");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&index));
    let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&index));
    let by_hash = format!("/apt/filtered/kiosks/{path}/by-hash/SHA256/{hash}");
    assert_eq!(tokio::time::timeout(within, bench.get(&by_hash)).await.expect("by hash waits").0, 200);
    // Those who wait have it as soon as it comes.
    bench.hold_all(&lost);
    for one in stuck {
        assert_eq!(tokio::time::timeout(within, one).await.unwrap().unwrap().unwrap().status(), 200);
    }
}
