//! A whole coordinator on 127.0.0.1, with real sockets and a real data directory.

mod alarms_and_undo;
mod decisions;
mod doors;
mod inventories;
mod readers;
mod reports;
mod repositories;
mod roots;
mod scale;
mod verbs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use reqwest::{Method, StatusCode};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use upswarm_protocol::catalog::{Assignment, Head, NodeRole};
use upswarm_protocol::codec::{self, Bounded, Text};
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::{DeviceId, DocHash, PayloadId, SiteId};
use upswarm_protocol::report::{BytesBySource, DeploymentReport, DeviceAlarm, DeviceMessage, Report, Trouble};
use upswarm_protocol::time::Wall;
use upswarm_protocol::wire::{self, BlockWhat, Message};

use super::client::Client;
use super::directory::Directory;
use super::run::{self, Options, Running};
use super::{keys, setup};
use crate::api::invites::InviteRequest;
use crate::api::status::{Status, StatusQuery};
use crate::cli;
use crate::coordinator::token::JoinToken;
use crate::error::CliError;
use crate::net::{Host, HostConfig, HostEvent};

struct Bench {
    dir: tempfile::TempDir,
    running: Option<Running>,
    /// The directory that the running coordinator writes.
    directory: Option<Directory>,
    http: reqwest::Client,
    admin: reqwest::Client,
}

impl Bench {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        setup::init(&dir.path().join("d"), None).unwrap();
        let mut bench = Self::at(dir);
        bench.run().await;
        bench
    }

    fn at(dir: tempfile::TempDir) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let admin = reqwest::Client::builder().unix_socket(dir.path().join("d/admin.sock")).build().unwrap();
        Self { dir, running: None, directory: None, http, admin }
    }

    async fn run(&mut self) {
        let directory = Directory::existing(&self.data()).unwrap();
        self.directory = Some(directory.clone());
        let running = run::start(directory, options("127.0.0.1:0"), CancellationToken::new()).await;
        self.running = Some(running.unwrap_or_else(|error| panic!("{error}")));
    }

    async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.finish().await;
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("d")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.as_ref().unwrap().info.http)
    }

    /// A request to the door behind which a path lies.
    fn ask(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        match path.starts_with("/admin") {
            true => self.admin.request(method, format!("http://coordinator{path}")),
            false => self.http.request(method, self.url(path)),
        }
    }

    fn token(&self) -> String {
        Directory::new(&self.data()).token().unwrap().to_string()
    }

    async fn put_payload(&self, name: &PayloadId, bytes: &[u8]) -> StatusCode {
        let request = self.ask(Method::PUT, &format!("/admin/v1/payload/{name}"));
        request.bearer_auth(self.token()).body(bytes.to_vec()).send().await.unwrap().status()
    }

    /// Runs a verb as its own thread, as it would be its own process.
    async fn verb(&self, args: &[&str]) -> Result<(), CliError> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let data = self.data().display().to_string();
        let work = move || {
            let mut all: Vec<&str> = args.iter().map(String::as_str).collect();
            all.extend(["--data-dir", &data]);
            cli::try_run(&all)
        };
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    fn client(&self) -> Client {
        Client::of(&self.data()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The fleet with every device.
    async fn status(&self) -> Status {
        let query = StatusQuery { devices: true, ..StatusQuery::default() };
        self.client().status(&query).await.unwrap_or_else(|error| panic!("{error}"))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

fn options(http: &str) -> Options {
    Options { http: http.parse().unwrap(), ..Options::on_loopback() }
}

const RELEASE: &str = r#"
product = "org.example.tool"
version = "1"
title = "Tool 1"
classification = "update"
[[payload]]
path = "tool.bin"
[[detect]]
file = "/opt/tool"
payload = "tool.bin"
[install]
files = [{ payload = "tool.bin", path = "/opt/tool" }]

[uninstall]
remove = ["/opt/tool"]
"#;

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn refused(result: Result<(), CliError>) -> String {
    match result {
        Err(CliError::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_under_admin_answers_without_the_token() {
    let mut bench = Bench::start().await;
    let hex = "ab".repeat(32);
    let paths = [
        (Method::PUT, format!("/admin/v1/payload/{hex}")),
        (Method::PUT, format!("/admin/v1/chunk-list/{hex}")),
        (Method::POST, "/admin/v1/release".to_owned()),
        (Method::POST, "/admin/v1/approval".to_owned()),
        (Method::POST, "/admin/v1/approval/draft".to_owned()),
        (Method::POST, "/admin/v1/approval/preview".to_owned()),
        (Method::POST, "/admin/v1/group/member".to_owned()),
        (Method::POST, "/admin/v1/invite".to_owned()),
        (Method::POST, "/admin/v1/hold".to_owned()),
        (Method::POST, "/admin/v1/device/revoke".to_owned()),
        (Method::POST, "/admin/v1/group".to_owned()),
        (Method::GET, "/admin/v1/rules".to_owned()),
        (Method::POST, "/admin/v1/rules".to_owned()),
        (Method::POST, "/admin/v1/group/document".to_owned()),
        (Method::GET, "/admin/v1/status".to_owned()),
        (Method::GET, "/admin/v1/catalog".to_owned()),
        (Method::GET, "/admin/v1/groups".to_owned()),
        (Method::GET, "/admin/v1/inventory".to_owned()),
        (Method::GET, "/admin/v1/inventory/bill".to_owned()),
        (Method::GET, "/admin/v1/missing".to_owned()),
        (Method::GET, "/admin/v1/metrics".to_owned()),
        (Method::GET, "/admin/v1/audit/log".to_owned()),
        (Method::GET, "/admin/v1/audit/raw".to_owned()),
        (Method::GET, "/admin/v1/audit/index".to_owned()),
        (Method::POST, "/admin/v1/backup/moment".to_owned()),
        (Method::POST, "/admin/v1/console/entered".to_owned()),
        (Method::GET, "/admin/v1/what-does-not-exist".to_owned()),
        (Method::DELETE, "/admin/v1/status".to_owned()),
    ];
    let good = bench.token();
    for (method, path) in &paths {
        for shown in [None, Some(""), Some("Bearer "), Some("Bearer wrong"), Some(good.as_str()), Some("Basic x")] {
            let mut request = bench.ask(method.clone(), path);
            if let Some(shown) = shown {
                request = request.header("authorization", shown);
            }
            let status = request.send().await.unwrap().status();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} with {shown:?}");
        }
    }
    for path in
        ["/admin/v1/status", "/admin/v1/inventory", "/admin/v1/missing", "/admin/v1/catalog", "/admin/v1/metrics"]
    {
        let answer = bench.ask(Method::GET, path).bearer_auth(&good).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_are_served_by_range_and_counted() {
    let mut bench = Bench::start().await;
    let bytes: Vec<u8> = (0..700_000u32).map(|at| (at % 251) as u8).collect();
    let payload = PayloadId::of(&bytes);
    assert_eq!(bench.put_payload(&payload, &bytes).await, StatusCode::OK);
    let url = bench.url(&format!("/payload/{payload}"));
    let get = |range: Option<&str>| {
        let request = bench.http.get(&url);
        range.map_or(request.try_clone().unwrap(), |range| request.header("range", range)).send()
    };
    let whole = get(None).await.unwrap();
    assert_eq!((whole.status(), whole.headers()["accept-ranges"].to_str().unwrap()), (StatusCode::OK, "bytes"));
    let etag = whole.headers()["etag"].clone();
    assert_eq!(whole.bytes().await.unwrap(), bytes);
    let part = get(Some("bytes=300000-300999")).await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 300000-300999/700000");
    assert_eq!(part.bytes().await.unwrap(), bytes[300_000..301_000]);
    assert_eq!(get(Some("bytes=-5")).await.unwrap().bytes().await.unwrap(), bytes[699_995..]);
    let beyond = get(Some("bytes=700000-")).await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.headers()["content-range"], "bytes */700000");
    let head = bench.http.head(&url).send().await.unwrap();
    assert_eq!((head.status(), &head.headers()["content-length"]), (StatusCode::OK, &"700000".parse().unwrap()));
    let known = bench.http.get(&url).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    let other = bench.http.get(&url).header("range", "bytes=0-0").header("if-range", "\"x\"").send().await.unwrap();
    assert_eq!((other.status(), other.bytes().await.unwrap().len()), (StatusCode::OK, 700_000));

    let metrics = bench.ask(Method::GET, "/admin/v1/metrics").bearer_auth(bench.token()).send().await.unwrap();
    let metrics: serde_json::Value = metrics.json().await.unwrap();
    assert_eq!(metrics["payload_bytes"], 700_000 + 1000 + 5 + 700_000);
    assert_eq!(metrics["by_payload"][payload.to_string()], metrics["payload_bytes"]);
    for missing in ["/payload/00", &format!("/payload/{}", "00".repeat(32)), "/root/2", "/doc/../keys", "/keys"] {
        let status = bench.ask(Method::GET, missing).send().await.unwrap().status();
        assert!(status.is_client_error(), "{missing}: {status}");
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tampered_upload_leaves_nothing_behind() {
    let mut bench = Bench::start().await;
    let payload = PayloadId::of(b"what was meant");
    assert_eq!(bench.put_payload(&payload, b"what came").await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!((files(&bench.data().join("payload")), files(&bench.data().join("upload"))), (0, 0));
    let hash = "ab".repeat(32);
    for (path, body) in
        [(format!("/admin/v1/chunk-list/{hash}"), vec![1; 40]), ("/admin/v1/chunk-list/xyz".to_owned(), vec![1; 40])]
    {
        let request = bench.ask(Method::PUT, &path).bearer_auth(bench.token()).body(body);
        assert!(request.send().await.unwrap().status().is_client_error(), "{path}");
    }
    for (path, body) in [
        ("release", vec![0; 100]),
        ("approval", vec![0; 100]),
        ("release", vec![0; 300 << 10]),
        ("invite", b"{\"unknown\":1}".to_vec()),
        ("hold", b"{\"group\":\"nobody\",\"on\":true}".to_vec()),
        ("device/revoke", format!("{{\"device\":\"{hash}\"}}").into_bytes()),
        ("group/member", format!("{{\"group\":\"nobody\",\"device\":\"{hash}\",\"member\":true}}").into_bytes()),
        ("approval/draft", b"{\"release\":\"x\",\"group\":\"g\",\"intent\":\"expedite\"}".to_vec()),
        (
            "approval/draft",
            b"{\"release\":\"x\",\"group\":\"g\",\"intent\":\"expedite\",\"zone\":\"UTC\",\"allow_empty\":true}"
                .to_vec(),
        ),
        ("group", b"{\"group\":\" \"}".to_vec()),
        ("rules", b"{\"group\":\"nobody\"}".to_vec()),
        ("rules", b"{\"group\":\"nobody\",\"schedule\":{\"widnow\":[]}}".to_vec()),
        ("group/document", b"{\"document\":\"00\"}".to_vec()),
    ] {
        let request = bench.ask(Method::POST, &format!("/admin/v1/{path}")).bearer_auth(bench.token());
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{path}: {}", answer.status());
    }
    assert_eq!(bench.client().catalog().await.unwrap().index_version, 2);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_approve_export_and_a_restart() {
    let mut bench = Bench::start().await;
    let payload: Vec<u8> = (0..2_000_000u64).map(|at| ((at * at) >> 7) as u8).collect();
    bench.write("tool.bin", &payload);
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    bench.verb(&["publish", &file]).await.unwrap();
    let catalog = bench.client().catalog().await.unwrap();
    let release = catalog.releases[0].release;
    assert_eq!((catalog.releases.len(), catalog.releases[0].counter), (1, 1));

    let reason = refused(bench.verb(&["approve", "org.example.tool@1", "--group", "office"]).await);
    assert!(reason.contains("no group"), "{reason}");
    bench.verb(&["coordinator", "invite", "--group", "office", "--site", "berlin"]).await.unwrap();
    let reason = refused(bench.verb(&["approve", "org.example.tool@2", "--group", "office"]).await);
    assert!(reason.contains("org.example.tool@1"), "says what exists: {reason}");
    let prefix = &release.to_string()[..8];
    let reason = refused(bench.verb(&["approve", prefix, "--group", "office"]).await);
    assert!(reason.contains("no devices"), "{reason}");
    let approve = ["approve", prefix, "--group", "office", "--allow-empty"];
    bench.verb(&[&approve[..], &["--deadline", "+2h"]].concat()).await.unwrap();
    let reason = refused(bench.verb(&[&approve[..], &["--action", "uninstall"]].concat()).await);
    assert!(reason.contains("upswarm group sign office"), "{reason}");
    bench.verb(&[&approve[..], &["--deadline", "+3h"]].concat()).await.unwrap();
    let catalog = bench.client().catalog().await.unwrap();
    assert_eq!((catalog.approvals.len(), catalog.approvals[0].version), (1, 2));

    let hold = bench.ask(Method::POST, "/admin/v1/hold").bearer_auth(bench.token());
    let hold = hold.json(&serde_json::json!({ "group": "office", "on": true }));
    assert_eq!(hold.send().await.unwrap().status(), StatusCode::OK);
    let status = bench.status().await;
    assert_eq!(status.holds[0].group.as_deref(), Some("office"));
    assert_eq!(status.head.map(|head| head.index_version), Some(6));

    let target = bench.dir.path().join("static");
    bench.verb(&["export", &target.display().to_string()]).await.unwrap();
    let head = bench.ask(Method::GET, "/head").send().await.unwrap().bytes().await.unwrap();
    assert_eq!(std::fs::read(target.join("head")).unwrap(), head);
    let id = PayloadId::of(&payload);
    assert_eq!(std::fs::read(target.join("payload").join(id.to_string())).unwrap(), payload);
    // Release, approval, chunk list, index, root.
    assert_eq!((files(&target.join("doc")), files(&target.join("root"))), (6, 1));
    for entry in std::fs::read_dir(target.join("doc")).unwrap() {
        let (name, bytes) = (entry.as_ref().unwrap().file_name(), std::fs::read(entry.unwrap().path()).unwrap());
        let served = bench.ask(Method::GET, &format!("/doc/{}", name.display())).send().await.unwrap();
        assert_eq!(served.bytes().await.unwrap(), bytes, "{}", name.display());
    }

    bench.stop().await;
    let reason = refused(bench.verb(&["status"]).await);
    assert!(reason.contains("not running"), "{reason}");
    bench.run().await;
    let again = bench.client().catalog().await.unwrap();
    assert_eq!((again.releases.len(), again.approvals.len(), again.groups.len()), (1, 1, 1));
    assert!(again.index_version >= 6);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_gets_one_clear_error() {
    let mut bench = Bench::start().await;
    bench.write("tool.bin", b"");
    let empty = bench.write("empty.toml", RELEASE.as_bytes());
    let missing = bench.write("missing.toml", RELEASE.replace("tool.bin", "no.bin").as_bytes());
    let unknown = bench.write("unknown.toml", RELEASE.replace("title", "tilte").as_bytes());
    for (file, named) in
        [(empty, "empty"), (missing, "no.bin"), (unknown, "tilte"), ("/nowhere.toml".to_owned(), "nowhere")]
    {
        let reason = refused(bench.verb(&["publish", &file]).await);
        assert!(reason.contains(named), "{file}: {reason}");
    }
    for uses in ["0", "100000"] {
        refused(bench.verb(&["coordinator", "invite", "--group", "g", "--site", "s", "--uses", uses]).await);
    }
    let directory = Directory::existing(&bench.data()).unwrap();
    let second = run::start(directory.clone(), options("127.0.0.1:0"), CancellationToken::new()).await;
    assert!(second.err().unwrap().to_string().contains("already"), "two on one directory");
    let taken = bench.running.as_ref().unwrap().info.http.clone();
    bench.stop().await;
    let other = std::net::TcpListener::bind(&taken).unwrap();
    let error = run::start(directory, options(&taken), CancellationToken::new()).await.err().unwrap().to_string();
    assert!(error.contains("another program"), "{error}");
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_made_with_and_without_a_running_coordinator() {
    let mut bench = Bench::start().await;
    let request =
        InviteRequest { group: "office".into(), site: "berlin".into(), ttl_s: 60, uses: 2, addresses: Vec::new() };
    let online = bench.client().invite(&request).await.unwrap();
    let token = JoinToken::parse(&online.token).unwrap();
    assert!(!token.addresses.is_empty());
    bench.stop().await;
    let reason = refused(bench.verb(&["coordinator", "invite", "--group", "offcie", "--site", "berlin"]).await);
    assert!(reason.contains("there are: office"), "{reason}");
    bench.verb(&["coordinator", "invite", "--group", "office", "--site", "berlin"]).await.unwrap();
    assert_eq!(files(&bench.data().join("invites")), 2);
    bench.run().await;
    assert_eq!(bench.client().catalog().await.unwrap().groups.len(), 1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_at_its_vendors_url_is_named_and_not_taken() {
    let mut bench = Bench::start().await;
    let bytes = vec![42; 300_000];
    let payload = PayloadId::of(&bytes);
    assert_eq!(bench.put_payload(&payload, &bytes).await, StatusCode::OK);
    let url = bench.url(&format!("/payload/{payload}"));
    let release =
        RELEASE.replace("path = \"tool.bin\"\n[[detect", &format!("url = \"{url}\"\nname = \"tool.bin\"\n[[detect"));
    let file = bench.write("url.toml", release.as_bytes());
    std::fs::remove_file(bench.data().join("payload").join(payload.to_string())).unwrap();
    let reason = refused(bench.verb(&["publish", &file]).await);
    assert!(reason.contains("404"), "{reason}");
    assert_eq!(bench.put_payload(&payload, &bytes).await, StatusCode::OK);
    bench.verb(&["publish", &file]).await.unwrap();
    assert_eq!(bench.client().catalog().await.unwrap().releases.len(), 1);
    let target = bench.dir.path().join("static");
    bench.verb(&["export", &target.display().to_string()]).await.unwrap();
    assert_eq!(files(&target.join("payload")), 0, "its bytes stay at the vendor");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_keys_sign_with_their_passphrase_only() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::at(dir);
    let right = bench.write("right", b"a long passphrase\n");
    let wrong = bench.write("wrong", b"another passphrase\n");
    bench.verb(&["coordinator", "init", "--passphrase-file", &right]).await.unwrap();
    assert!(bench.dir.path().join("d-offline-keys").is_dir());
    bench.run().await;
    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    let reason = refused(bench.verb(&["publish", &file, "--passphrase-file", &wrong]).await);
    assert!(reason.contains("wrong passphrase"), "{reason}");
    bench.verb(&["publish", &file, "--passphrase-file", &right]).await.unwrap();
    let moved = bench.dir.path().join("stick");
    std::fs::rename(bench.dir.path().join("d-offline-keys"), &moved).unwrap();
    let reason = refused(bench.verb(&["publish", &file, "--passphrase-file", &right]).await);
    assert!(reason.contains("--keys-dir"), "{reason}");
    let moved = moved.display().to_string();
    bench.verb(&["publish", &file, "--passphrase-file", &right, "--keys-dir", &moved]).await.unwrap();
    bench.stop().await;
}

/// An office machine as far as the coordinator can tell.
struct Machine {
    key: SigningKey,
    host: Host,
    events: mpsc::Receiver<HostEvent>,
    coordinator: DeviceId,
}

impl Machine {
    /// A machine that has joined.
    async fn joined(bench: &Bench, group: &str) -> Self {
        let request =
            InviteRequest { group: group.into(), site: "berlin".into(), ttl_s: 600, uses: 1, addresses: Vec::new() };
        let token = JoinToken::parse(&bench.client().invite(&request).await.unwrap().token).unwrap();
        let mut machine = Self::connect(&token).await;
        machine.say(&enrol(&token)).await;
        machine.hear(|message| matches!(message, Message::Enrolled { .. }).then_some(())).await;
        machine
    }

    async fn connect(token: &JoinToken) -> Self {
        let key = keys::generate().unwrap();
        let config = HostConfig {
            key: key.to_bytes(),
            listen: Vec::new(),
            mdns: false,
            quic: false,
            max_connections: 8,
            agent: "test".to_owned(),
        };
        let (host, events) = Host::start(config).await.unwrap();
        host.dial(token.addresses[0].as_str().to_owned()).await;
        let mut machine = Self { key, host, events, coordinator: token.coordinator };
        machine.until(|event| matches!(event, HostEvent::PeerUp { .. }).then_some(())).await;
        machine
    }

    async fn until<T>(&mut self, wanted: impl Fn(&HostEvent) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the host goes on");
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("nothing came in 30 seconds")
    }

    async fn say(&self, message: &Message) {
        self.host.send(self.coordinator, message.encode().unwrap()).await;
    }

    async fn hear<T>(&mut self, wanted: impl Fn(Message) -> Option<T>) -> T {
        let heard = |event: &HostEvent| match event {
            HostEvent::Frame { bytes, .. } => wanted(Message::decode(bytes).unwrap()),
            _ => None,
        };
        self.until(heard).await
    }

    /// Waits for a head with at least this index version.
    async fn hear_of_index(&mut self, version: u64) -> u64 {
        self.hear(|message| match message {
            Message::Head(head) => {
                let envelope = envelope::Envelope::parse(&head, Kind::Head, Role::Online).unwrap();
                let head: Head = codec::decode(envelope.unverified_body(), Kind::Head.cap()).unwrap();
                (head.index_version >= version).then_some(head.index_version)
            }
            _ => None,
        })
        .await
    }

    /// Waits for a new assignment; returns the number of its groups.
    async fn assigned_groups(&mut self) -> usize {
        self.hear(|message| match message {
            Message::Assignment(bytes) => {
                let envelope = envelope::Envelope::parse(&bytes, Kind::Assignment, Role::Online).unwrap();
                let assignment: Assignment = codec::decode(envelope.unverified_body(), Kind::Assignment.cap()).unwrap();
                Some(assignment.groups.len())
            }
            _ => None,
        })
        .await
    }

    fn device(&self) -> DeviceId {
        DeviceId(self.key.verifying_key().to_bytes())
    }

    fn report(&self, seq: u64, to: &[u8; 32]) -> Message {
        self.report_of(seq, to, Vec::new())
    }

    fn report_of(&self, seq: u64, to: &[u8; 32], deployments: Vec<DeploymentReport>) -> Message {
        self.sealed(self.plain_report(seq, deployments), to)
    }

    fn plain_report(&self, seq: u64, deployments: Vec<DeploymentReport>) -> Report {
        Report {
            device: self.device(),
            seq,
            issued: crate::clock::wall(),
            site: SiteId::default(),
            role: NodeRole::Node,
            label: Text::lossy("pc7"),
            agent: Text::lossy("test"),
            os: Text::lossy("linux"),
            index_version: 2,
            papers: Default::default(),
            addresses: Bounded::default(),
            bytes: BytesBySource { origin: 7, ..BytesBySource::default() },
            neighbours: 0,
            alarms: Bounded::new(vec![DeviceAlarm { kind: Trouble::Disk, text: Text::lossy("smoke") }]).unwrap(),
            deployments: Bounded::new(deployments).unwrap(),
        }
    }

    fn sealed(&self, report: Report, to: &[u8; 32]) -> Message {
        let seq = report.seq;
        let bytes =
            envelope::sign(Kind::Report, Role::Device, &DeviceMessage::Status(Box::new(report)), &[&self.key]).unwrap();
        Message::Relay {
            device: self.device(),
            seq,
            encrypted: Bounded::new(crate::encrypt::encrypt(to, &bytes)).unwrap(),
        }
    }
}

fn enrol(token: &JoinToken) -> Message {
    let label = Text::lossy("pc7");
    Message::Enrol { version: wire::VERSION, secret: token.secret, role: NodeRole::Node, label }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_hears_of_a_release_and_reports() {
    let mut bench = Bench::start().await;
    let request =
        InviteRequest { group: "office".into(), site: "berlin".into(), ttl_s: 600, uses: 1, addresses: Vec::new() };
    let token = JoinToken::parse(&bench.client().invite(&request).await.unwrap().token).unwrap();
    let mut machine = Machine::connect(&token).await;
    machine.say(&enrol(&token)).await;
    let origins = machine
        .hear(|message| match message {
            Message::Enrolled { origins, head, .. } if !head.is_empty() => Some(origins),
            _ => None,
        })
        .await;
    assert_eq!(origins[0].as_str(), bench.url(""));
    let status = bench.status().await;
    let row = &status.devices[0];
    assert_eq!((row.device, row.site.as_str(), row.connected), (machine.device(), "berlin", true));
    assert!(row.last_seen_s.is_none(), "enrolled and not yet heard of");

    // The pinned root comes from the origin and over the block stream.
    let root = machine.host.fetch_block(token.coordinator, BlockWhat::Doc(token.root), Kind::Root.cap()).await.unwrap();
    assert_eq!(DocHash::of(&root), token.root);
    let served = bench.ask(Method::GET, &format!("/doc/{}", token.root)).send().await.unwrap();
    assert_eq!(served.bytes().await.unwrap(), root);

    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    bench.verb(&["publish", &file]).await.unwrap();
    let head = machine
        .hear(|message| match message {
            Message::Head(head) => Some(head),
            _ => None,
        })
        .await;
    assert_eq!(bench.ask(Method::GET, "/head").send().await.unwrap().bytes().await.unwrap(), *head);

    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    machine.say(&machine.report(1, &root.report_key)).await;
    let device = machine.device();
    let stored =
        |message| matches!(message, Message::RelayAck { device: of, seq: 1, .. } if of == device).then_some(());
    machine.hear(stored).await;
    bench.stop().await;
    bench.run().await;
    let status = bench.status().await;
    let row = &status.devices[0];
    assert_eq!((row.label.as_str(), row.bytes.origin), ("pc7", 7), "after a restart");
    assert_eq!(row.alarms, ["smoke"]);

    // The token is spent: another machine is told so.
    let addresses = bench.running.as_ref().unwrap().info.listen.iter().map(|address| Text::lossy(address)).collect();
    let token = JoinToken { addresses: Bounded::new(addresses).unwrap(), ..token };
    let mut late = Machine::connect(&token).await;
    late.say(&enrol(&token)).await;
    let reason = late
        .hear(|message| match message {
            Message::Refused { reason } => Some(reason.as_str().to_owned()),
            _ => None,
        })
        .await;
    assert!(reason.contains("spent"), "{reason}");
    late.host.stop().await;
    machine.host.stop().await;
    bench.stop().await;
}
