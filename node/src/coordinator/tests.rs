//! A whole coordinator on 127.0.0.1, with real sockets and a real data directory.

use std::path::{Path, PathBuf};

use reqwest::{Method, StatusCode};
use tokio_util::sync::CancellationToken;
use upswarm_protocol::ids::PayloadId;

use super::client::Client;
use super::directory::Directory;
use super::run::{self, Options, Running};
use super::setup;
use crate::cli::token::JoinToken;
use crate::cli::{self, CliError};

struct Bench {
    dir: tempfile::TempDir,
    running: Option<Running>,
    http: reqwest::Client,
}

impl Bench {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        setup::init(&dir.path().join("d"), None).unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut bench = Self { dir, running: None, http };
        bench.run().await;
        bench
    }

    async fn run(&mut self) {
        let directory = Directory::existing(&self.data()).unwrap();
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

    fn token(&self) -> String {
        Directory::new(&self.data()).token().unwrap().to_string()
    }

    async fn put_payload(&self, name: &PayloadId, bytes: &[u8]) -> StatusCode {
        let url = self.url(&format!("/admin/v1/payload/{name}"));
        self.http.put(url).bearer_auth(self.token()).body(bytes.to_vec()).send().await.unwrap().status()
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

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

fn options(http: &str) -> Options {
    Options {
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        http: http.parse().unwrap(),
        origins: Vec::new(),
        origin_rate: None,
    }
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
        (Method::POST, "/admin/v1/invite".to_owned()),
        (Method::POST, "/admin/v1/hold".to_owned()),
        (Method::POST, "/admin/v1/revoke".to_owned()),
        (Method::GET, "/admin/v1/status".to_owned()),
        (Method::GET, "/admin/v1/catalog".to_owned()),
        (Method::GET, "/admin/v1/metrics".to_owned()),
        (Method::GET, "/admin/v1/what-does-not-exist".to_owned()),
        (Method::DELETE, "/admin/v1/status".to_owned()),
    ];
    let good = bench.token();
    for (method, path) in &paths {
        for shown in [None, Some(""), Some("Bearer "), Some("Bearer wrong"), Some(good.as_str()), Some("Basic x")] {
            let mut request = bench.http.request(method.clone(), bench.url(path));
            if let Some(shown) = shown {
                request = request.header("authorization", shown);
            }
            let status = request.send().await.unwrap().status();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} with {shown:?}");
        }
    }
    for path in ["/admin/v1/status", "/admin/v1/catalog", "/admin/v1/metrics"] {
        let answer = bench.http.get(bench.url(path)).bearer_auth(&good).send().await.unwrap();
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

    let metrics = bench.http.get(bench.url("/admin/v1/metrics")).bearer_auth(bench.token()).send().await.unwrap();
    let metrics: serde_json::Value = metrics.json().await.unwrap();
    assert_eq!(metrics["payload_bytes"], 700_000 + 1000 + 5 + 700_000);
    assert_eq!(metrics["by_payload"][payload.to_string()], metrics["payload_bytes"]);
    for missing in ["/payload/00", &format!("/payload/{}", "00".repeat(32)), "/root/2", "/doc/../keys", "/keys"] {
        let status = bench.http.get(bench.url(missing)).send().await.unwrap().status();
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
        let request = bench.http.put(bench.url(&path)).bearer_auth(bench.token()).body(body);
        assert!(request.send().await.unwrap().status().is_client_error(), "{path}");
    }
    for (path, body) in [
        ("release", vec![0; 100]),
        ("approval", vec![0; 100]),
        ("release", vec![0; 300 << 10]),
        ("invite", b"{\"unknown\":1}".to_vec()),
        ("hold", b"{\"group\":\"nobody\",\"on\":true}".to_vec()),
        ("revoke", format!("{{\"device\":\"{hash}\"}}").into_bytes()),
    ] {
        let request = bench.http.post(bench.url(&format!("/admin/v1/{path}"))).bearer_auth(bench.token());
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
    bench.verb(&["approve", prefix, "--group", "office", "--deadline", "+2h"]).await.unwrap();
    bench.verb(&["approve", "org.example.tool@1", "--group", "office", "--action", "uninstall"]).await.unwrap();
    let catalog = bench.client().catalog().await.unwrap();
    assert_eq!((catalog.approvals.len(), catalog.approvals[0].version), (1, 2));

    let url = bench.url("/admin/v1/hold");
    let hold =
        bench.http.post(url).bearer_auth(bench.token()).json(&serde_json::json!({ "group": "office", "on": true }));
    assert_eq!(hold.send().await.unwrap().status(), StatusCode::OK);
    let status = bench.client().status().await.unwrap();
    assert_eq!((&status["holds"][0]["group"], &status["head"]["index_version"]), (&"office".into(), &6.into()));

    let target = bench.dir.path().join("static");
    bench.verb(&["export", &target.display().to_string()]).await.unwrap();
    let head = bench.http.get(bench.url("/head")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(std::fs::read(target.join("head")).unwrap(), head);
    let id = PayloadId::of(&payload);
    assert_eq!(std::fs::read(target.join("payload").join(id.to_string())).unwrap(), payload);
    // Release, approval, chunk list, index, root.
    assert_eq!((files(&target.join("doc")), files(&target.join("root"))), (5, 1));
    for entry in std::fs::read_dir(target.join("doc")).unwrap() {
        let (name, bytes) = (entry.as_ref().unwrap().file_name(), std::fs::read(entry.unwrap().path()).unwrap());
        let served = bench.http.get(bench.url(&format!("/doc/{}", name.display()))).send().await.unwrap();
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
    let request = super::requests::InviteRequest {
        group: "office".into(),
        site: "berlin".into(),
        ttl_s: 60,
        uses: 2,
        addresses: Vec::new(),
    };
    let online = bench.client().invite(&request).await.unwrap();
    let token = JoinToken::parse(&online.token).unwrap();
    assert!(!token.addresses.is_empty());
    bench.stop().await;
    bench.verb(&["coordinator", "invite", "--group", "lab", "--site", "berlin"]).await.unwrap();
    assert_eq!(files(&bench.data().join("invites")), 2);
    bench.run().await;
    assert_eq!(bench.client().catalog().await.unwrap().groups.len(), 2);
    bench.stop().await;
}
